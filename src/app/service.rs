//! The one service that Pingora's server runs for us: everything from the first health check to the
//! last connection, on one set of worker threads.

use super::{
    StartError, instance::Running, open_access_log, reload::Reloader, signals::Control,
    watch::FileWatch,
};
use crate::{
    admin::{self, Admin},
    config::Checked,
    filter::Registry,
    listener::{self, Accepting, BindError, Bound, BoundSocket, Successor},
    model::{self, Config, ListenAddress},
    pool::Interner,
    runtime::{Live, Snapshot, Supervisor},
};
use async_trait::async_trait;
use pingora::{
    server::{ListenFds, ShutdownWatch, configuration::ServerConf},
    services,
};
use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::Notify, task::JoinSet};

/// How long a successor waits for the running instance to be told to hand over.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(120);

/// What a start needs.
pub(super) struct Start {
    pub(super) checked: Checked,
    /// The filters that a later configuration may name.
    pub(super) filters: Registry,
    pub(super) sockets: Sockets,
    pub(super) control: Arc<Control>,
    pub(super) conf: Arc<ServerConf>,
}

/// Where the listening sockets come from.
pub(super) enum Sockets {
    /// They are bound already.
    Bound(Places),
    /// The running instance hands them over.
    TakenOver(Successor),
}

/// The sockets that a process serves on.
pub(super) struct Places {
    listeners: Vec<Bound>,
    /// That of the admin API.
    admin: Option<BoundSocket>,
}

impl Places {
    /// Binds every address of the configuration, taking over the sockets that `inherited` has.
    pub(super) fn bind(
        config: &Config,
        mut inherited: impl FnMut(&ListenAddress) -> Option<OwnedFd>,
    ) -> Result<Self, BindError> {
        let listeners = listener::bind_all(&config.listeners, &mut inherited)?;
        let bind =
            |admin: &model::Admin| listener::bind_admin(&admin.address, inherited(&admin.address));
        Ok(Self { listeners, admin: config.admin.as_ref().map(bind).transpose()? })
    }

    /// All of them.
    pub(super) fn sockets(&self) -> impl Iterator<Item = &BoundSocket> {
        self.listeners.iter().map(|bound| &bound.place).chain(&self.admin)
    }
}

/// The service; what it starts with is consumed by the first start.
pub(super) struct Service(Option<Start>);

impl Service {
    pub(super) fn new(start: Start) -> Self {
        Self(Some(start))
    }
}

#[async_trait]
impl services::Service for Service {
    async fn start_service(&mut self, _: Option<ListenFds>, _: ShutdownWatch, _: usize) {
        let Some(start) = self.0.take() else { return };
        let control = start.control.clone();
        control.start_error_log();
        // As a task, which tells of its panic: without this service, nothing would accept any more.
        let mut running = JoinSet::new();
        running.spawn(run(start));
        let ended = running.join_next().await;
        let error = match ended {
            None | Some(Ok(Ok(()))) => return,
            Some(Ok(Err(error))) => error.to_string(),
            Some(Err(error)) => format!("the service ended: {error}"),
        };
        log::error!("{error}");
        control.fail(error);
    }

    fn name(&self) -> &'static str {
        "pingora-lb"
    }
}

async fn run(start: Start) -> Result<(), StartError> {
    let Start { mut checked, filters, sockets, control, conf } = start;
    let config = checked.config.clone();
    control.wait_until_listening().await;
    let access_log = open_access_log(&config)?;
    control.set_access_log(access_log.clone());
    let interner = Arc::new(Interner::default());
    let chains = std::mem::take(&mut checked.filters);
    let checked = Arc::new(checked);
    let snapshot = Snapshot::compile(&config, chains, &interner, access_log, Arc::default());
    let live = Arc::new(Live::new(snapshot));
    let running = Arc::new(Running::new(control.clone(), &checked, &filters));
    let open_admin = |places: &Places| open_admin(places, &live, &running);
    let (places, predecessor, supervisor) = match sockets {
        Sockets::Bound(places) => {
            // Whoever asks is told that the checks are not over.
            open_admin(&places)?;
            (places, None, warm_up(&live.load(), control.reread()).await)
        }
        Sockets::TakenOver(successor) => {
            let supervisor = warm_up(&live.load(), control.reread()).await;
            let (places, predecessor) = take_over(&config, successor).await?;
            if predecessor.has_given_up() {
                // It serves, and goes on doing so.
                let what = "the running instance did not wait any longer, and serves on";
                return Err(StartError::Failed(what.to_owned()));
            }
            open_admin(&places)?;
            (places, Some(predecessor), supervisor)
        }
    };
    control.set_sockets(&places).map_err(|error| StartError::Failed(error.to_string()))?;
    for bound in &places.listeners {
        log::info!("listener {}: listening on {}", bound.name, bound.place.local_address());
    }
    let drain = control.drain().clone();
    let accepting = Accepting { live: live.clone(), drain, conf };
    let serving = listener::serve(places.listeners, accepting)
        .map_err(|error| StartError::Failed(error.to_string()))?;
    // First, as a predecessor that has nothing left to do is gone the moment it hears that we serve,
    // and with it, as far as its service manager knows, the service.
    control.notifier().ready();
    if let Some(predecessor) = predecessor {
        // From here on both accept; the predecessor stops when it has read this.
        let ready = tokio::task::spawn_blocking(move || predecessor.ready()).await;
        match ready {
            Ok(Ok(())) => log::info!("took over from the running instance"),
            Ok(Err(error)) => {
                log::error!("the instance before us did not hear that we serve: {error}");
            }
            Err(error) => log::error!("hand-over: {error}"),
        }
    }
    // Connections go on after their listeners have closed; so do the health checks that they need.
    let files = FileWatch::default();
    let retired = Arc::default();
    let reloader =
        Reloader { checked, filters, live, interner, supervisor, control, running, files, retired };
    let ((), never) = tokio::join!(serving, reloader.run());
    match never {}
}

/// Has the admin API answer, if there is one.
fn open_admin(places: &Places, live: &Arc<Live>, running: &Arc<Running>) -> Result<(), StartError> {
    let Some(socket) = &places.admin else { return Ok(()) };
    let admin = Admin { live: live.clone(), instance: running.clone(), started: Instant::now() };
    let control = running.control().clone();
    let end = async move { control.handed_over().await };
    let opened = socket
        .duplicate()
        .and_then(|duplicate| admin::start(admin, &socket.address, duplicate, end));
    let ended = opened.map_err(|error| StartError::Failed(format!("admin: {error}")))?;
    running.control().set_admin(ended);
    log::info!("admin: listening on {}", socket.local_address());
    Ok(())
}

/// Waits for the first health checks of the pools of a snapshot, and puts those in force.
pub(super) async fn warm_up(snapshot: &Snapshot, reread: &Arc<Notify>) -> Supervisor {
    let mut supervisor = Supervisor::new(reread.clone());
    supervisor.watch(snapshot);
    supervisor.wait_until_checked().await;
    for pool in &snapshot.pools {
        pool.put_in_force().await;
    }
    supervisor
}

/// Receives the sockets of the running instance, and binds what it does not have.
async fn take_over(
    config: &Config,
    successor: Successor,
) -> Result<(Places, listener::Predecessor), StartError> {
    let failed = |error: std::io::Error| StartError::File {
        path: config.server.upgrade_sock.clone(),
        source: error,
    };
    log::info!("waiting for the running instance to hand over (send it QUIT)");
    let received = tokio::task::spawn_blocking(move || successor.receive(HAND_OVER_PATIENCE));
    let received = received.await.map_err(|error| StartError::Failed(error.to_string()))?;
    let (handed, predecessor) = received.map_err(failed)?;
    let mut handed: HashMap<ListenAddress, OwnedFd> = handed.into_iter().collect();
    let places = Places::bind(config, |address| handed.remove(address))?;
    Ok((places, predecessor))
}
