//! Accepting: one task a listener, all on the same worker threads.

use super::{
    Drain, Phase,
    bind::{Bound, Socket},
    drain::Present,
    http1::{Http1, serve_connection},
    transport::Transport,
};
use crate::{
    proxy::{Gateway, Link},
    runtime::Live,
};
use pingora::server::configuration::ServerConf;
use pingora_proxy::http_proxy;
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, UnixListener},
    task::JoinSet,
};

/// How long a listener pauses when the process is out of descriptors or memory, for want of any
/// event that would say that there is room again.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// What every listener needs.
pub struct Accepting {
    /// The snapshot in force.
    pub live: Arc<Live>,
    /// The connections and whether they are to go.
    pub drain: Drain,
    /// Pingora's settings, for the proxy and its connections to backends.
    pub conf: Arc<ServerConf>,
}

/// Accepts on every socket until draining begins, and serves what comes. The position of a socket
/// is its listener's index in the snapshot.
///
/// # Errors
/// When a socket cannot be registered with the runtime.
pub async fn serve(sockets: Vec<Bound>, accepting: Accepting) -> io::Result<()> {
    let Accepting { live, drain, conf } = accepting;
    let gateway = http_proxy(&conf, Gateway::new(drain.draining()));
    let http1 = Arc::new(Http1::new(gateway, live, drain.clone()));
    let mut listeners = JoinSet::new();
    for (index, bound) in sockets.into_iter().enumerate() {
        let socket = Listening::new(bound.socket)?;
        listeners.spawn(accept_on(socket, index, http1.clone(), drain.clone()));
    }
    while let Some(ended) = listeners.join_next().await {
        if let Err(error) = ended {
            log::error!("a listener failed: {error}");
        }
    }
    Ok(())
}

enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    fn new(socket: Socket) -> io::Result<Self> {
        match socket {
            Socket::Tcp(listener) => TcpListener::from_std(listener).map(Self::Tcp),
            Socket::Unix(listener) => UnixListener::from_std(listener).map(Self::Unix),
        }
    }

    async fn accept(&self) -> io::Result<(Transport, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, client) = listener.accept().await?;
                // Responses go out in as few writes as they need; waiting for more only adds delay.
                stream.set_nodelay(true)?;
                Ok((Transport::Tcp(stream), Some(client)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Transport::Unix(stream), None))
            }
        }
    }
}

async fn accept_on(socket: Listening, index: usize, http1: Arc<Http1>, drain: Drain) {
    let mut phase = drain.phase();
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let successor = matches!(*phase.borrow(), Phase::Draining { successor: true, .. });
        if successor {
            return;
        }
        // Without a successor, connections that wait in the kernel's queue are taken before we
        // stop: they would be reset.
        let accepted = tokio::select! {
            biased;
            accepted = socket.accept() => accepted,
            _ = phase.wait_for(|phase| phase.is_draining()) => return,
        };
        match accepted {
            Ok((transport, client)) => {
                let admitted = Admitted::new(&open, drain.enter());
                let link = Arc::new(Link::new(index, client));
                let http1 = http1.clone();
                tokio::spawn(async move {
                    serve_connection(&http1, transport, link, admitted.number).await;
                    drop(admitted);
                });
            }
            Err(error) if is_of_one_connection(&error) => {
                log::debug!("a connection was gone before it was accepted: {error}");
            }
            Err(error) => {
                log::error!("cannot accept connections: {error}");
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

/// Whether an error of `accept` concerns the connection it would have returned, as opposed to us.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | ConnectionRefused | InvalidInput)
}

/// A connection counted on its listener and in the process.
struct Admitted {
    /// How many connections the listener has, this one included.
    number: usize,
    open: Arc<AtomicUsize>,
    _present: Present,
}

impl Admitted {
    fn new(open: &Arc<AtomicUsize>, present: Present) -> Self {
        let number = open.fetch_add(1, Relaxed) + 1;
        Self { number, open: open.clone(), _present: present }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
    }
}
