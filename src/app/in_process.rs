//! Serving inside of a process that has other work, such as a test: without its signals, its logger,
//! its arguments or the background.

use super::{StartError, open_access_log, server_conf, service::warm_up};
use crate::{
    config::Checked,
    listener::{self, Accepting, Bound, Drain},
    observe::AccessLog,
    runtime::{Live, Snapshot},
};
use std::{
    future::Future,
    io,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
};

/// How long the end waits for work that cannot be interrupted, such as resolving a name.
const PATIENCE: Duration = Duration::from_secs(5);

/// A balancer on threads of its own. Dropping it ends its connections and its threads.
#[derive(Debug)]
pub(crate) struct Serving {
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Serves `checked` on `sockets`, which are those of its listeners in their order. Returns when
    /// its backends were checked and it accepts.
    pub(crate) fn start(checked: Checked, sockets: Vec<Bound>) -> Result<Self, StartError> {
        let (ready, started) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let work = move || run(&checked, sockets, stopped, &ready);
        let failed = |error: io::Error| StartError::Failed(error.to_string());
        let thread = thread::Builder::new().name("balancer".to_owned()).spawn(work);
        let (stop, thread) = (Some(stop), Some(thread.map_err(failed)?));
        let ended = |_| StartError::Failed("the balancer ended before it served".to_owned());
        let runtime = started.recv().map_err(ended)??;
        Ok(Self { runtime, stop, thread })
    }

    /// The runtime that it serves on.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

type Ready = mpsc::Sender<Result<Handle, StartError>>;

fn run(checked: &Checked, sockets: Vec<Bound>, stopped: oneshot::Receiver<()>, ready: &Ready) {
    let started = Builder::new_multi_thread()
        .worker_threads(checked.config.server.threads)
        .enable_all()
        .build()
        .map_err(|error| StartError::Failed(error.to_string()))
        .and_then(|runtime| Ok((runtime, open_access_log(&checked.config)?)));
    let (runtime, access_log) = match started {
        Ok(started) => started,
        Err(error) => return drop(ready.send(Err(error))),
    };
    let serving = serve(checked, sockets, access_log.clone(), ready, stopped);
    if let Err(error) = runtime.block_on(serving) {
        // Nobody listens any more if it had begun to serve.
        let _ = ready.send(Err(error));
    }
    end(runtime, access_log.as_deref());
}

/// Serves until `stopped` resolves.
async fn serve(
    checked: &Checked,
    sockets: Vec<Bound>,
    access_log: Option<Arc<AccessLog>>,
    ready: &Ready,
    stopped: impl Future,
) -> Result<(), StartError> {
    let config = &checked.config;
    let (chains, interner) = (checked.filters.clone(), Arc::default());
    let snapshot = Snapshot::compile(config, chains, &interner, access_log, Arc::default());
    let supervisor = warm_up(&snapshot, &Arc::default()).await;
    let accepting = Accepting {
        live: Arc::new(Live::new(snapshot)),
        drain: Drain::default(),
        conf: Arc::new(server_conf(config, false)),
    };
    let serving = listener::serve(sockets, accepting)
        .map_err(|error| StartError::Failed(error.to_string()))?;
    let _ = ready.send(Ok(Handle::current()));
    tokio::select! {
        () = serving => {}
        _ = stopped => {}
    }
    drop(supervisor);
    Ok(())
}

fn end(runtime: Runtime, access_log: Option<&AccessLog>) {
    runtime.shutdown_timeout(PATIENCE);
    if let Some(log) = access_log {
        log.finish();
    }
}
