//! The API's own HTTP server, on a thread of its own.

use super::{Admin, request};
use crate::model::ListenAddress;
use http::{HeaderValue, header};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt::set_tcp_user_timeout;
use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    os::fd::OwnedFd,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch},
};

/// Connections at a time; more wait until one ends.
const MAX_CONNECTIONS: usize = 128;
/// The longest the head of a request may take, the wait for it included.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest head, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// How long a client may leave what we send unread.
const SEND_TIMEOUT_MS: u32 = 30_000;
/// How long a connection has for a request that is already on its way, once a successor accepts.
const LAST_REQUEST: Duration = Duration::from_secs(5);
/// How long accepting rests after an error, which is a lack of descriptors almost always.
const REST: Duration = Duration::from_millis(100);
/// How long accepting must work before the lack counts as over.
const CALM: Duration = Duration::from_secs(1);

/// Serves the API on `socket`, which listens at `address`, on a thread of its own: it accepts until
/// `end` resolves, and then answers each connection once more at most. What it returns resolves when the
/// last of them has ended.
///
/// # Errors
/// When the thread or its runtime cannot be made.
pub fn start(
    admin: Admin,
    address: &ListenAddress,
    socket: OwnedFd,
    end: impl Future + Send + 'static,
) -> io::Result<oneshot::Receiver<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listening = {
        let _entered = runtime.enter();
        Listening::new(address, socket)?
    };
    let (gone, ended) = oneshot::channel();
    let work = move || {
        runtime.block_on(serve(listening, Arc::new(admin), end));
        // Only an end that is waited for is told.
        let _ = gone.send(());
    };
    thread::Builder::new().name("admin".to_owned()).spawn(work)?;
    Ok(ended)
}

enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listening {
    fn new(address: &ListenAddress, socket: OwnedFd) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(_) => {
                let listener = std::net::TcpListener::from(socket);
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Self::Tcp)
            }
            ListenAddress::Unix(_) => {
                let listener = std::os::unix::net::UnixListener::from(socket);
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener).map(Self::Unix)
            }
        }
    }

    async fn accept(&self) -> io::Result<Client> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Client::Tcp(stream)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Client::Unix(stream)),
        }
    }
}

/// What a connection has for as long as it lives.
struct Presence {
    admin: Arc<Admin>,
    /// Turns true when it is to end with its present request.
    closing: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
}

async fn serve(listening: Listening, admin: Arc<Admin>, end: impl Future) {
    let closing = watch::Sender::new(false);
    tokio::select! {
        never = accept_all(&listening, &admin, &closing) => match never {},
        _ = end => {}
    }
    drop(listening);
    closing.send_replace(true);
    // The last connection drops the last receiver.
    closing.closed().await;
}

async fn accept_all(
    listening: &Listening,
    admin: &Arc<Admin>,
    closing: &watch::Sender<bool>,
) -> Infallible {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut exhaustion = Exhaustion::default();
    loop {
        let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
        match listening.accept().await {
            Ok(client) => {
                exhaustion.accepted();
                let (admin, closing) = (admin.clone(), closing.subscribe());
                tokio::spawn(welcome(client, Presence { admin, closing, _place: place }));
            }
            Err(error) => {
                exhaustion.failed(&error);
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Tells once that connections cannot be accepted, for as long as it lasts.
#[derive(Default)]
struct Exhaustion {
    /// When accepting failed last, until that is over.
    failed: Option<Instant>,
}

impl Exhaustion {
    fn failed(&mut self, error: &io::Error) {
        if self.failed.replace(Instant::now()).is_none() {
            log::error!("admin: cannot accept: {error}");
        }
    }

    fn accepted(&mut self) {
        if self.failed.is_some_and(|at| at.elapsed() >= CALM) {
            self.failed = None;
            log::info!("admin: accepts again");
        }
    }
}

async fn welcome(client: Client, presence: Presence) {
    match client {
        Client::Tcp(stream) => {
            // What fails here does so because the client is gone, which shows soon enough.
            let _ = stream.set_nodelay(true);
            let _ = set_tcp_user_timeout(&stream, SEND_TIMEOUT_MS);
            if let Ok(local) = stream.local_addr() {
                converse(stream, Some(local.ip()), presence).await;
            }
        }
        Client::Unix(stream) => converse(stream, None, presence).await,
    }
}

/// Answers the requests of a connection.
async fn converse<S>(stream: S, local: Option<IpAddr>, presence: Presence)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Presence { admin, mut closing, _place } = presence;
    let closes = closing.clone();
    let service = service_fn(|request: Request<Incoming>| {
        let (admin, closes) = (&admin, &closes);
        async move {
            let mut answer = request::answer(admin, local, request).await;
            if *closes.borrow() {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(header::CONNECTION, close);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // However it ends, nobody is left who could be told.
        _ = connection.as_mut() => return,
        _ = closing.wait_for(|closing| *closing) => {}
    }
    tokio::select! {
        // The answer to the next request closes it.
        _ = connection.as_mut() => return,
        () = tokio::time::sleep(LAST_REQUEST) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
