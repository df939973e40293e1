//! Signals, and what they set in motion: draining, handing over, reopening logs, reading certificates
//! again.

use super::{StartError, files, notify::Notifier, service};
use crate::{
    admin::NotReloaded,
    listener::{BoundSocket, Drain, Phase, SocketFile, hand_over},
    model::{Config, ListenAddress},
    observe::{AccessLog, error_log::ErrorLog},
};
use async_trait::async_trait;
use nix::sys::signal::{SigSet, Signal as Name};
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use std::{
    convert::Infallible,
    fs, io,
    os::fd::OwnedFd,
    path::PathBuf,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, oneshot, watch},
};

/// How long an idle connection is kept after TERM, for a request that is already on its way.
const IDLE_GRACE: Duration = Duration::from_millis(100);

/// What came of a reload.
type Outcome = Result<Vec<String>, NotReloaded>;
/// Whoever wants to hear that.
pub(super) type Asker = oneshot::Sender<Outcome>;

type Sockets = Vec<(ListenAddress, OwnedFd)>;

/// Where a process stands in the succession.
#[derive(Debug)]
enum Stage {
    /// It waits for the running instance, on a socket with this file.
    Waiting(SocketFile),
    /// The listening sockets are its own.
    Serving,
    /// A successor has them.
    HandedOver,
}

/// What the signals act on, shared with the service.
pub(super) struct Control {
    drain: Drain,
    drain_timeout: Duration,
    shutdown_delay: Duration,
    /// Where the process stands between TERM and draining.
    leave: Leave,
    upgrade_sock: PathBuf,
    error_log: ErrorLog,
    access_log: Mutex<Option<Arc<AccessLog>>>,
    /// Notified when certificates are to be read again.
    reread: Arc<Notify>,
    /// Second handles on the listening sockets, to hand over. Dropped when draining begins: while
    /// one is open, the kernel goes on accepting.
    sockets: Mutex<Sockets>,
    /// Who serves on them.
    stage: Mutex<Stage>,
    /// Whether signals reach us. Before that, most of them just end the process.
    listening: watch::Sender<bool>,
    /// Told when the configuration is to be read again.
    reload: Notify,
    /// Those who want to hear what comes of it.
    askers: Mutex<Vec<Asker>>,
    /// Why the service could not start.
    failure: watch::Sender<Option<String>>,
    /// Resolves when the admin API has ended, which it does when a successor accepts.
    admin: Mutex<Option<oneshot::Receiver<()>>>,
    /// Who is told where the process stands.
    notifier: Notifier,
}

/// The time between TERM and draining.
#[derive(Debug, Default)]
struct Leave {
    /// Whether the process has said that it is about to end.
    announced: AtomicBool,
    /// Whether it waits for that to be noticed.
    waiting: AtomicBool,
    /// Notified when it is not to wait any longer.
    hurry: Notify,
}

fn ours() -> SigSet {
    [Name::SIGTERM, Name::SIGINT, Name::SIGQUIT, Name::SIGHUP, Name::SIGUSR1].into_iter().collect()
}

/// Has the kernel keep our signals until somebody listens for them: before that, each of them would
/// end the process. Threads that are made from here on inherit this.
pub(super) fn hold() {
    // It fails only if it is asked for something that does not exist.
    let _ = ours().thread_block();
}

/// Takes the signals, those kept included. It is enough for one thread to do so, as long as it lives:
/// a signal goes to the process.
fn release() {
    let _ = ours().thread_unblock();
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    pub(super) fn new(config: &Config, error_log: ErrorLog, sockets: &service::Sockets) -> Self {
        let stage = match sockets {
            service::Sockets::Bound(_) => Stage::Serving,
            service::Sockets::TakenOver(successor) => Stage::Waiting(successor.file().clone()),
        };
        Self {
            drain: Drain::default(),
            drain_timeout: config.server.drain_timeout,
            shutdown_delay: config.server.shutdown_delay,
            leave: Leave::default(),
            upgrade_sock: config.server.upgrade_sock.clone(),
            error_log,
            access_log: Mutex::new(None),
            reread: Arc::default(),
            sockets: Mutex::new(Vec::new()),
            stage: Mutex::new(stage),
            listening: watch::Sender::new(false),
            reload: Notify::new(),
            askers: Mutex::default(),
            failure: watch::Sender::new(None),
            admin: Mutex::new(None),
            notifier: Notifier::from_environment(),
        }
    }

    /// From here on messages of `level` and above are logged.
    pub(super) fn set_log_level(&self, level: log::LevelFilter) {
        self.error_log.set_level(level);
    }

    /// The process will not fork any more: the error log may have its thread.
    pub(super) fn start_error_log(&self) {
        self.error_log.start();
    }

    /// Waits until signals reach us, so that whoever sees us at work can send one.
    pub(super) async fn wait_until_listening(&self) {
        // The sender is in the control that we hold.
        let _ = self.listening.subscribe().wait_for(|listening| *listening).await.map(drop);
    }

    pub(super) fn drain_timeout(&self) -> Duration {
        self.drain_timeout
    }

    pub(super) fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Notified when certificates are to be read again.
    pub(super) fn reread(&self) -> &Arc<Notify> {
        &self.reread
    }

    pub(super) fn set_access_log(&self, log: Option<Arc<AccessLog>>) {
        *locked(&self.access_log) = log;
    }

    /// From here on the process serves on these.
    pub(super) fn set_sockets(&self, places: &service::Places) -> io::Result<()> {
        let duplicate = |socket: &BoundSocket| Ok((socket.address.clone(), socket.duplicate()?));
        *locked(&self.sockets) = places.sockets().map(duplicate).collect::<io::Result<_>>()?;
        *locked(&self.stage) = Stage::Serving;
        Ok(())
    }

    /// From here on there is an admin API; `ended` resolves when there is none any more.
    pub(super) fn set_admin(&self, ended: oneshot::Receiver<()>) {
        *locked(&self.admin) = Some(ended);
    }

    /// Who is told where the process stands.
    pub(super) fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Ends the process with an error.
    pub(super) fn fail(&self, why: String) {
        self.failure.send_replace(Some(why));
    }

    /// The last things before the process ends.
    pub(super) fn finish(&self, config: &Config, daemon: bool) -> Result<(), StartError> {
        if let Some(log) = &*locked(&self.access_log) {
            log.finish();
        }
        if daemon {
            files::remove_pid_file(config);
        }
        match &*locked(&self.stage) {
            Stage::Waiting(file) => {
                file.remove();
                if daemon {
                    files::restore_pid_file(config);
                }
            }
            Stage::Serving => remove_socket_files(config),
            Stage::HandedOver => {}
        }
        self.error_log.flush();
        match self.failure.borrow().clone() {
            Some(why) => Err(StartError::Failed(why)),
            None => Ok(()),
        }
    }

    fn reopen_logs(&self) {
        self.error_log.reopen();
        if let Some(log) = &*locked(&self.access_log) {
            log.reopen();
        }
        log::info!("log files reopened");
    }

    /// Stops accepting, and resolves when the last connection is gone or out of time.
    async fn drain_out(&self, idle_grace: Duration, successor: bool) {
        locked(&self.sockets).clear();
        let connections = self.drain.connections();
        // First, as whoever reads the line may act on it.
        self.drain.begin(idle_grace, successor);
        log::info!("draining: {connections} connections are open");
        // Without a successor, the admin API answers to the end.
        let admin = locked(&self.admin).take().filter(|_| successor);
        let empty = async {
            self.drain.wait_until_empty().await;
            if let Some(ended) = admin {
                let _ = ended.await;
            }
        };
        if tokio::time::timeout(self.drain_timeout, empty).await.is_ok() {
            log::info!("drained");
        } else {
            let left = self.drain.connections();
            log::warn!("drain_timeout is over: {left} connections are cut off");
            self.drain.end().await;
        }
    }

    /// Reopens the logs whenever one of these signals arrives, and after the first of them has the
    /// certificates and the configuration read again.
    async fn heed(&self, mut hang_up: Signal, mut user_1: Signal) -> Infallible {
        loop {
            let reload = tokio::select! {
                _ = hang_up.recv() => true,
                _ = user_1.recv() => false,
            };
            self.reopen_logs();
            if reload {
                self.reread.notify_one();
                self.reload.notify_one();
            }
        }
    }

    /// Resolves when the configuration is to be read again, with those who asked for it.
    pub(super) async fn reload_wanted(&self) -> Vec<Asker> {
        self.reload.notified().await;
        std::mem::take(&mut *locked(&self.askers))
    }

    /// Has the certificates and the configuration read again, as HUP does, and tells what comes of it.
    pub(super) async fn ask_for_reload(&self) -> Outcome {
        if !self.is_serving() {
            return Err(NotReloaded::Unable("it is not serving, or not any more".to_owned()));
        }
        let (asker, outcome) = oneshot::channel();
        locked(&self.askers).push(asker);
        self.reread.notify_one();
        self.reload.notify_one();
        let ended = |_| NotReloaded::Unable("the process ends".to_owned());
        outcome.await.map_err(ended)?
    }

    /// Whether the process is about to end.
    pub(super) fn is_draining(&self) -> bool {
        self.leave.announced.load(Relaxed) || self.drain.is_draining()
    }

    /// Resolves when a successor accepts in our place.
    pub(super) async fn handed_over(&self) {
        let taken = |phase: &Phase| matches!(phase, Phase::Draining { successor: true, .. });
        // The sender is in the drain that we hold.
        let _ = self.drain.phase().wait_for(taken).await.map(drop);
    }

    /// Whether the process serves on its listeners: not yet, or no more, is no time for a reload.
    pub(super) fn is_serving(&self) -> bool {
        !self.is_draining() && matches!(*locked(&self.stage), Stage::Serving)
    }

    /// Says that the process is not ready any more, and gives those who send it traffic the time to
    /// notice. A second TERM ends the wait, and so does INT (see [`Control::interrupted`]).
    async fn announce_end(&self, terminate: &mut Signal, quit: &mut Signal) {
        // One that still waits for the running instance gets no traffic.
        if self.shutdown_delay.is_zero() || !self.is_serving() {
            return;
        }
        self.leave.announced.store(true, Relaxed);
        self.leave.waiting.store(true, Relaxed);
        log::info!("not ready any more; draining begins in {:?}", self.shutdown_delay);
        let mut over = pin!(tokio::time::sleep(self.shutdown_delay));
        loop {
            tokio::select! {
                () = &mut over => break,
                _ = terminate.recv() => break,
                () = self.leave.hurry.notified() => break,
                _ = quit.recv() => log::error!("QUIT refused: the process is about to end"),
            }
        }
        self.leave.waiting.store(false, Relaxed);
    }

    /// Resolves when INT is to end the process at once. While it waits for those who send it traffic,
    /// INT ends that wait instead.
    async fn interrupted(&self, interrupt: &mut Signal) {
        loop {
            let _ = interrupt.recv().await;
            if !self.leave.waiting.load(Relaxed) {
                return;
            }
            self.leave.hurry.notify_one();
        }
    }

    /// Hands the listening sockets to a successor that waits for them; `false` if there is none or
    /// it failed, and we go on serving.
    async fn hand_over(self: &Arc<Self>) -> bool {
        if let Stage::Waiting(_) = *locked(&self.stage) {
            log::error!("QUIT refused: it is for the running instance, and this one waits for it");
            return false;
        }
        match self.begin_hand_over().await {
            Ok(()) => {
                log::info!("the successor serves");
                true
            }
            Err(error) => {
                let path = self.upgrade_sock.display();
                log::error!(
                    "QUIT refused, still serving: no successor took over at {path}: {error}"
                );
                false
            }
        }
    }

    /// The exchange blocks for as long as the successor lets it, so it has a thread of its own: one
    /// of the runtime's would keep the process from ending until then.
    async fn begin_hand_over(self: &Arc<Self>) -> io::Result<()> {
        let copy = |(address, socket): &(ListenAddress, OwnedFd)| {
            Ok((address.clone(), socket.try_clone()?))
        };
        let sockets: Sockets = locked(&self.sockets).iter().map(copy).collect::<io::Result<_>>()?;
        let (done, outcome) = oneshot::channel();
        let control = self.clone();
        thread::Builder::new().name("hand-over".to_owned()).spawn(move || {
            let handed = hand_over(&control.upgrade_sock, sockets);
            if handed.is_ok() {
                // Noted here: whoever waited may have been told to end meanwhile.
                *locked(&control.stage) = Stage::HandedOver;
            }
            let _ = done.send(handed);
        })?;
        outcome.await.unwrap_or_else(|_| Err(io::Error::other("the exchange failed")))
    }
}

/// Removes the files of unix sockets that we listened on, which would outlive us.
fn remove_socket_files(config: &Config) {
    let listeners = config.listeners.iter().map(|listener| &listener.address);
    for address in listeners.chain(config.admin.as_ref().map(|admin| &admin.address)) {
        if let ListenAddress::Unix(path) = address {
            // A leftover is recognised as stale by the next start.
            let _ = fs::remove_file(path);
        }
    }
}

/// Our signals in place of Pingora's: when this returns, we have drained, and Pingora ends at once.
pub(super) struct Signals(Arc<Control>);

impl Signals {
    pub(super) fn new(control: Arc<Control>) -> Self {
        Self(control)
    }

    /// Returns when the process is to end: once it has drained, or at once on INT or a failure.
    async fn watch(&self) -> io::Result<()> {
        let control = &self.0;
        let terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let quit = signal(SignalKind::quit())?;
        let hang_up = signal(SignalKind::hangup())?;
        let user_1 = signal(SignalKind::user_defined1())?;
        // Pingora runs this on the thread that called `App::serve`, to the end.
        release();
        let mut failure = control.failure.subscribe();
        control.listening.send_replace(true);
        tokio::select! {
            () = control.interrupted(&mut interrupt) => {}
            () = failed(&mut failure) => {}
            never = control.heed(hang_up, user_1) => match never {},
            () = self.until_drained(terminate, quit) => {}
        }
        Ok(())
    }

    /// Serves until TERM or a hand-over, then drains.
    async fn until_drained(&self, mut terminate: Signal, mut quit: Signal) {
        let control = &self.0;
        loop {
            let handed_over = tokio::select! {
                _ = terminate.recv() => false,
                _ = quit.recv() => tokio::select! {
                    handed_over = control.hand_over() => {
                        if !handed_over {
                            continue;
                        }
                        true
                    }
                    // The successor does not come forward, and nobody wants to wait for it.
                    _ = terminate.recv() => false,
                },
            };
            if !handed_over {
                control.announce_end(&mut terminate, &mut quit).await;
            }
            // After a hand-over, idle clients keep their connection for almost as long as we may
            // stay: what they still send is answered, and only then closed. The rest of the time is
            // for those who use theirs.
            let idle_grace = if handed_over { control.drain_timeout / 10 * 9 } else { IDLE_GRACE };
            if !handed_over {
                control.notifier.stopping();
            }
            return control.drain_out(idle_grace, handed_over).await;
        }
    }
}

async fn failed(failure: &mut watch::Receiver<Option<String>>) {
    // The sender is in the control that we hold.
    let _ = failure.wait_for(Option::is_some).await.map(drop);
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        if let Err(error) = self.watch().await {
            self.0.fail(format!("cannot listen for signals: {error}"));
        }
        ShutdownSignal::FastShutdown
    }
}
