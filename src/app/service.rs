//! The one service that Pingora's server runs for us: everything from the first health check to the
//! last connection, on one set of worker threads.

use super::{StartError, open_access_log, reload::Reloader, signals::Control};
use crate::{
    config::Checked,
    filter::{Chain, Registry},
    listener::{self, Accepting, Bound, Successor},
    model::{Config, ListenAddress},
    observe::AccessLog,
    pool::Interner,
    runtime::{Live, Snapshot, Supervisor},
};
use async_trait::async_trait;
use pingora::{
    server::{ListenFds, ShutdownWatch, configuration::ServerConf},
    services,
};
use std::{collections::HashMap, os::fd::OwnedFd, sync::Arc, time::Duration};
use tokio::sync::Notify;

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
    Bound(Vec<Bound>),
    /// The running instance hands them over.
    TakenOver(Successor),
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
        if let Err(error) = run(start).await {
            log::error!("{error}");
            control.fail(error.to_string());
        }
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
    let (snapshot, supervisor) =
        warm_up(&config, chains, &interner, access_log, control.reread()).await;
    let (sockets, predecessor) = match sockets {
        Sockets::Bound(sockets) => (sockets, None),
        Sockets::TakenOver(successor) => {
            let (sockets, predecessor) = take_over(&config, successor).await?;
            (sockets, Some(predecessor))
        }
    };
    control.set_sockets(&sockets).map_err(|error| StartError::Failed(error.to_string()))?;
    for bound in &sockets {
        log::info!("listener {}: listening on {}", bound.name, bound.local_address());
    }
    let drain = control.drain().clone();
    let live = Arc::new(Live::new(snapshot));
    let accepting = Accepting { live: live.clone(), drain, conf };
    let serving = listener::serve(sockets, accepting);
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
    let reloader = Reloader { checked, filters, live, interner, supervisor, control };
    let serving = async { serving.await.map_err(|error| StartError::Failed(error.to_string())) };
    match tokio::join!(serving, reloader.run()) {
        (Err(error), _) => Err(error),
        (Ok(()), never) => match never {},
    }
}

/// Compiles a configuration, and waits for the first health checks of its pools.
pub(super) async fn warm_up(
    config: &Config,
    chains: Vec<Chain>,
    interner: &Arc<Interner>,
    access_log: Option<Arc<AccessLog>>,
    reread: &Arc<Notify>,
) -> (Snapshot, Supervisor) {
    let snapshot = Snapshot::compile(config, chains, interner, access_log, Arc::default());
    let mut supervisor = Supervisor::new(reread.clone());
    supervisor.watch(&snapshot);
    supervisor.wait_until_checked().await;
    (snapshot, supervisor)
}

/// Receives the sockets of the running instance, and binds what it does not have.
async fn take_over(
    config: &Config,
    successor: Successor,
) -> Result<(Vec<Bound>, listener::Predecessor), StartError> {
    let failed = |error: std::io::Error| StartError::File {
        path: config.server.upgrade_sock.clone(),
        source: error,
    };
    log::info!("waiting for the running instance to hand over (send it QUIT)");
    let received = tokio::task::spawn_blocking(move || successor.receive(HAND_OVER_PATIENCE));
    let received = received.await.map_err(|error| StartError::Failed(error.to_string()))?;
    let (handed, predecessor) = received.map_err(failed)?;
    let mut handed: HashMap<ListenAddress, OwnedFd> = handed.into_iter().collect();
    let sockets = listener::bind_all(&config.listeners, |address| handed.remove(address))?;
    Ok((sockets, predecessor))
}
