//! Accepting: one task a listener, all on the same worker threads.

use super::{
    Drain, Phase,
    arrival::Arrival,
    bind::{BACKLOG, Bound, Socket},
    drain,
    http1::Http1,
    transport::ClientSocket,
};
use crate::{model::ListenerName, proxy::Gateway, runtime::Live, tcp::Pipes};
use pingora::server::configuration::ServerConf;
use pingora_proxy::http_proxy;
use socket2::SockRef;
use std::{
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinSet,
};

/// How long a listener pauses when the process is out of descriptors or memory, for want of any
/// event that would say that there is room again.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);
/// How long accepting must work before the exhaustion counts as over. It comes and goes with every
/// connection that ends, and only the whole of it is worth telling.
const EXHAUSTED_CALM: Duration = Duration::from_secs(1);

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
/// is its listener's index in the snapshot. All of them accept from here on; the future resolves when
/// none does any more.
///
/// # Errors
/// When a socket cannot be registered with the runtime.
pub fn serve(
    sockets: Vec<Bound>,
    accepting: Accepting,
) -> io::Result<impl Future<Output = ()> + Send> {
    let Accepting { live, drain, conf } = accepting;
    let gateway = http_proxy(&conf, Gateway::new(drain.draining()));
    let http1 = Arc::new(Http1::new(gateway, live.clone(), drain.clone()));
    let pipes = Pipes::default();
    let mut listeners = JoinSet::new();
    for (index, bound) in sockets.into_iter().enumerate() {
        let listener = Listener {
            index,
            live: live.clone(),
            http1: http1.clone(),
            drain: drain.clone(),
            pipes: pipes.clone(),
            open: live.open(index).clone(),
            exhaustion: Exhaustion::new(bound.name),
        };
        // Counted before the task runs: draining may begin in between, and end without it.
        let socket = Listening::new(bound.place.socket)?;
        listeners.spawn(listener.accept_all(socket, drain.listen()));
    }
    Ok(until_none_is_left(listeners))
}

/// Resolves when no listener accepts any more. A panic of one is passed on: its connections would wait in
/// the kernel for ever, with nobody to notice.
async fn until_none_is_left(mut listeners: JoinSet<()>) {
    while let Some(ended) = listeners.join_next().await {
        if let Err(error) = ended
            && error.is_panic()
        {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listening {
    fn new(socket: Socket) -> io::Result<Self> {
        match socket {
            Socket::Tcp(listener) => {
                // Responses go out in as few writes as they need; waiting for more only adds delay.
                // Connections inherit it.
                SockRef::from(&listener).set_tcp_nodelay(true)?;
                TcpListener::from_std(listener).map(Self::Tcp)
            }
            Socket::Unix(listener) => UnixListener::from_std(listener).map(Self::Unix),
        }
    }

    async fn accept(&self) -> io::Result<Client> {
        match self {
            Self::Tcp(listener) => {
                let (stream, client) = listener.accept().await?;
                Ok((stream.into(), Some(client)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((stream.into(), None))
            }
        }
    }

    /// The socket without the runtime.
    fn into_std(self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => listener.into_std().map(Socket::Tcp),
            Self::Unix(listener) => listener.into_std().map(Socket::Unix),
        }
    }
}

/// A client's connection, and its address where it has one.
type Client = (ClientSocket, Option<SocketAddr>);

/// The next connection, if one waits.
fn accept_now(socket: &Socket) -> io::Result<Client> {
    match socket {
        Socket::Tcp(listener) => {
            let (stream, client) = listener.accept()?;
            stream.set_nonblocking(true)?;
            Ok((TcpStream::from_std(stream)?.into(), Some(client)))
        }
        Socket::Unix(listener) => {
            let (stream, _) = listener.accept()?;
            stream.set_nonblocking(true)?;
            Ok((UnixStream::from_std(stream)?.into(), None))
        }
    }
}

/// What accepts on one socket.
struct Listener {
    index: usize,
    live: Arc<Live>,
    http1: Arc<Http1>,
    drain: Drain,
    pipes: Pipes,
    /// Connections that are served, for `max_connections`.
    open: Arc<AtomicUsize>,
    exhaustion: Exhaustion,
}

impl Listener {
    async fn accept_all(mut self, socket: Listening, _counted: drain::Listening) {
        let mut phase = self.drain.phase();
        while !phase.borrow().is_draining() {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                _ = phase.wait_for(|phase| phase.is_draining()) => break,
            };
            self.accepted(accepted).await;
        }
        // A successor takes what still waits in the kernel's queue. Without one it would be reset.
        let successor = matches!(*phase.borrow(), Phase::Draining { successor: true, .. });
        if let (false, Ok(socket)) = (successor, socket.into_std()) {
            self.accept_waiting(&socket).await;
        }
    }

    /// Takes the connections that wait, as many as fit into the kernel's queue: those that come
    /// meanwhile do not keep us. The kernel is asked for each, as the runtime may not have heard of
    /// them yet.
    async fn accept_waiting(&mut self, socket: &Socket) {
        for _ in 0..BACKLOG {
            let accepted = accept_now(socket);
            match &accepted {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Short of descriptors, and nobody is left who could make room.
                Err(error) if !is_of_one_connection(error) && self.drain.connections() == 0 => {
                    return;
                }
                _ => {}
            }
            self.accepted(accepted).await;
        }
    }

    async fn accepted(&mut self, accepted: io::Result<Client>) {
        match accepted {
            Ok((socket, client)) => {
                self.exhaustion.accepted();
                self.serve(socket, client);
            }
            Err(error) if is_of_one_connection(&error) => {
                log::debug!("a connection was gone before it was accepted: {error}");
            }
            Err(error) => {
                self.exhaustion.failed(&error);
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }

    fn serve(&self, socket: ClientSocket, peer: Option<SocketAddr>) {
        let present = self.drain.enter();
        let snapshot = self.live.load();
        let max = snapshot.listeners[self.index].max_connections;
        let place = Place::take(&self.open, max.map_or(usize::MAX, NonZeroUsize::get));
        let arrival = Arrival {
            listener: self.index,
            snapshot,
            peer,
            accepted: Instant::now(),
            counted: Counted { place, _present: present },
            http1: self.http1.clone(),
            pipes: self.pipes.clone(),
            drain: self.drain.clone(),
        };
        tokio::spawn(arrival.serve(socket));
    }
}

/// Whether an error of `accept` concerns the connection it would have returned, as opposed to us.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | ConnectionRefused | InvalidInput)
}

/// A time without descriptors or memory for further connections. Its beginning and its end are
/// logged, not every try in between.
struct Exhaustion {
    listener: ListenerName,
    /// When accepting failed last, until that is over.
    failed: Option<Instant>,
}

impl Exhaustion {
    fn new(listener: ListenerName) -> Self {
        Self { listener, failed: None }
    }

    fn failed(&mut self, error: &io::Error) {
        if self.failed.replace(Instant::now()).is_none() {
            log::error!("listener {}: cannot accept connections: {error}", self.listener);
        }
    }

    fn accepted(&mut self) {
        if self.failed.is_some_and(|at| at.elapsed() >= EXHAUSTED_CALM) {
            self.failed = None;
            log::info!("listener {}: connections are accepted again", self.listener);
        }
    }
}

/// What counts a connection: in the process and, unless there are too many, on its listener.
pub(super) struct Counted {
    place: Option<Place>,
    _present: drain::Present,
}

impl Counted {
    /// Whether its listener has as many connections as it may.
    pub(super) fn is_too_many(&self) -> bool {
        self.place.is_none()
    }
}

/// The place of a connection that is served. One that is refused has none: a crowd that comes again
/// and again would keep out those who could be served.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        let more = |open| (open < max).then_some(open + 1);
        open.fetch_update(Relaxed, Relaxed, more).ok().map(|_| Self(open.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "a listener's")]
    async fn the_panic_of_a_listener_is_not_its_own() {
        let mut listeners = JoinSet::new();
        listeners.spawn(std::future::pending());
        listeners.spawn(async { panic!("a listener's") });
        until_none_is_left(listeners).await;
    }

    #[tokio::test]
    async fn connections_do_not_wait_for_more_to_send() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let listening = Listening::new(Socket::Tcp(listener)).unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        let (socket, _) = listening.accept().await.unwrap();
        assert!(SockRef::from(&socket).tcp_nodelay().unwrap());
    }
}
