//! The built-in demo backend: a small origin server to try a balancer on.
//!
//! It exists so that nobody needs a second program to see the balancer work: it says who it is,
//! can be slow, can fail, and has a few paths that show what a proxy does to a request. It is no
//! part of the data path and is not meant to be fast.

use crate::{config::parse_percent, model::Percent};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    task::{JoinHandle, JoinSet},
};

/// The longest `/slow` waits: it is for trying timeouts, not for holding connections for ever.
const LONGEST_SLOW: Duration = Duration::from_secs(60);

/// How long the accept loop rests after a failed accept, which is almost always a lack of file
/// descriptors that only time cures.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// The piece in which `/bytes` is sent; one static buffer serves every response.
static FILLER: [u8; 16 * 1024] = [b'x'; 16 * 1024];

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// Arguments of `pingora-lb backend`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("place").required(true).args(["port", "listen"]))]
pub(super) struct BackendArguments {
    /// The port to listen on, on 127.0.0.1
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,

    /// The address to listen on, in the place of --port, as in a container: ip:port or [ipv6]:port
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// What it calls itself; `backend-PORT` by default
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// How long it waits before each answer
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = super::arguments::duration)]
    latency: Duration,

    /// The share of requests that it fails with 500
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = percent)]
    fail_rate: Percent,
}

fn percent(text: &str) -> Result<Percent, String> {
    parse_percent(text).map_err(|error| error.to_string())
}

impl BackendArguments {
    /// Serves until the process is told to end.
    pub(super) fn run(&self) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("backend: {error}"))?;
        runtime.block_on(self.serve()).map_err(|error| format!("backend: {error}"))
    }

    async fn serve(&self) -> io::Result<()> {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let address = self.listen.or(self.port.map(local)).expect("one of the two is required");
        let listener = TcpListener::bind(address).await.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
        })?;
        let address = listener.local_addr()?;
        let name = self.name.clone().unwrap_or_else(|| format!("backend-{}", address.port()));
        println!("backend {name} listens on http://{address}");
        let backend = DemoBackend { name, latency: self.latency, fail_rate: self.fail_rate };
        let mut terminate = signal(SignalKind::terminate())?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        };
        backend.serve(listener, stop).await;
        Ok(())
    }
}

/// A demo backend, not yet running.
#[derive(Clone, Debug)]
pub struct DemoBackend {
    /// What it calls itself in its answers.
    pub name: String,
    /// How long it waits before each answer; `/health` is exempt.
    pub latency: Duration,
    /// The share of requests answered with 500; `/health` is exempt.
    pub fail_rate: Percent,
}

impl DemoBackend {
    /// Serves `listener` until `stop` completes, then closes it and all its connections at once.
    pub async fn serve(self, listener: TcpListener, stop: impl Future) {
        tokio::select! {
            () = self.accept(listener) => {}
            _ = stop => {}
        }
    }

    /// Serves `listener` in a task of its own.
    ///
    /// # Errors
    /// When the listener cannot tell its address.
    pub fn spawn(self, listener: TcpListener) -> io::Result<RunningBackend> {
        let address = listener.local_addr()?;
        Ok(RunningBackend { address, task: tokio::spawn(self.accept(listener)) })
    }

    /// Accepts for ever. The connections live in this future, so dropping it closes everything,
    /// as the death of a process would.
    async fn accept(self, listener: TcpListener) {
        let backend = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(Arc::clone(&backend).connection(stream));
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_REST).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let service = service_fn(|request| {
            let backend = Arc::clone(&self);
            async move { Ok::<_, Infallible>(backend.answer(request).await) }
        });
        // A connection ends when its client is done with it, however it ends; a demo backend has
        // nobody to tell.
        let _ = http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let mut answer = if is_health_check(&request) {
            text(StatusCode::OK, "ok\n")
        } else {
            tokio::time::sleep(self.latency).await;
            if rand::random::<f64>() < self.fail_rate.fraction() {
                text(StatusCode::INTERNAL_SERVER_ERROR, "failed as asked by --fail-rate\n")
            } else {
                self.page(request).await
            }
        };
        if let Ok(name) = HeaderValue::from_str(&self.name) {
            answer.headers_mut().insert("x-served-by", name);
        }
        answer
    }

    async fn page(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::GET, "/slow") => slow(&request).await,
            (&Method::POST, "/echo") => echo(request),
            (&Method::GET, "/bytes") => filler(&request),
            (&Method::GET, "/headers") => describe(&request),
            (&Method::GET, _) if path.starts_with("/status/") => status(path),
            _ => text(StatusCode::OK, format!("Hello from {}: {path}\n", self.name)),
        }
    }
}

/// A demo backend that is running. Dropping it stops it as [`RunningBackend::stop`] does, only
/// without waiting for the sockets to be closed.
#[derive(Debug)]
pub struct RunningBackend {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl RunningBackend {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener and every connection at once, whatever they are doing. When this
    /// returns the port is free to be listened on again.
    pub async fn stop(mut self) {
        self.task.abort();
        // The task ends with the cancellation just asked for.
        let _ = (&mut self.task).await;
    }
}

impl Drop for RunningBackend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn is_health_check(request: &Request<Incoming>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD) && request.uri().path() == "/health"
}

/// `GET /slow?ms=N`
async fn slow(request: &Request<Incoming>) -> Answer {
    let Some(milliseconds) = number(request, "ms") else {
        return text(StatusCode::BAD_REQUEST, "expected /slow?ms=N\n");
    };
    let wait = Duration::from_millis(milliseconds).min(LONGEST_SLOW);
    tokio::time::sleep(wait).await;
    text(StatusCode::OK, format!("answered after {} ms\n", wait.as_millis()))
}

/// `POST /echo`
fn echo(request: Request<Incoming>) -> Answer {
    let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
    let mut answer = Response::new(request.into_body().boxed());
    if let Some(content_type) = content_type {
        answer.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    answer
}

/// `GET /bytes?n=N`
fn filler(request: &Request<Incoming>) -> Answer {
    let Some(left) = number(request, "n") else {
        return text(StatusCode::BAD_REQUEST, "expected /bytes?n=N\n");
    };
    let body = Filler { left }.map_err(|never| match never {}).boxed();
    let mut answer = Response::new(body);
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    answer
}

/// `GET /status/NNN`, for the statuses an answer can end with: 1xx is not among them.
fn status(path: &str) -> Answer {
    path.strip_prefix("/status/")
        .and_then(|code| code.parse::<u16>().ok())
        .filter(|code| (200..=599).contains(code))
        .and_then(|code| StatusCode::from_u16(code).ok())
        .map_or_else(
            || text(StatusCode::BAD_REQUEST, "expected /status/200 to /status/599\n"),
            |code| text(code, format!("{code}\n")),
        )
}

/// `GET /headers`
fn describe(request: &Request<Incoming>) -> Answer {
    let mut headers: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.as_str())
            .and_modify(|values| {
                values.push_str(", ");
                values.push_str(&value);
            })
            .or_insert_with(|| value.clone().into_owned());
    }
    let description = serde_json::json!({
        "method": request.method().as_str(),
        "path": request.uri().to_string(),
        "headers": headers,
    });
    let mut answer = text(StatusCode::OK, format!("{description:#}\n"));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// The number that the query gives for `key`.
fn number(request: &Request<Incoming>, key: &str) -> Option<u64> {
    request
        .uri()
        .query()?
        .split('&')
        .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))?
        .parse()
        .ok()
}

/// A body of `left` bytes that are never in memory together.
struct Filler {
    left: u64,
}

impl Body for Filler {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let length = usize::try_from(self.left).map_or(FILLER.len(), |left| left.min(FILLER.len()));
        self.left -= length as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&FILLER[..length])))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn backend() -> DemoBackend {
        DemoBackend {
            name: "app-1".to_owned(),
            latency: Duration::ZERO,
            fail_rate: Percent::try_new(0.0).unwrap(),
        }
    }

    async fn start(backend: DemoBackend) -> RunningBackend {
        backend.spawn(TcpListener::bind("127.0.0.1:0").await.unwrap()).unwrap()
    }

    /// Sends `head` with the fields every request needs and returns the whole answer.
    async fn ask(backend: &RunningBackend, request_line: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(backend.address()).await.unwrap();
        let request = format!(
            "{request_line} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.to_ascii_lowercase()
    }

    #[tokio::test]
    async fn says_who_it_is() {
        let running = start(backend()).await;
        let answer = ask(&running, "GET /some/path", "").await;
        assert!(answer.starts_with("http/1.1 200 "), "{answer}");
        assert!(answer.contains("x-served-by: app-1\r\n"), "{answer}");
        assert!(answer.ends_with("hello from app-1: /some/path\n"), "{answer}");
    }

    #[tokio::test]
    async fn answers_each_documented_path() {
        let running = start(backend()).await;
        let cases = [
            ("GET /health", "", "200", "\r\n\r\nok\n"),
            ("GET /slow?ms=1", "", "200", "after 1 ms"),
            ("GET /slow", "", "400", "expected"),
            ("POST /echo", "four", "200", "\r\n\r\nfour"),
            ("GET /status/418", "", "418", "418"),
            ("GET /status/100", "", "400", "expected"),
            ("GET /headers?a=b", "", "200", "\"path\": \"/headers?a=b\""),
            ("GET /headers", "", "200", "\"host\": \"demo\""),
        ];
        for (request, body, status, expected) in cases {
            let answer = ask(&running, request, body).await;
            assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{request}: {answer}");
            assert!(answer.contains(expected), "{request}: {answer}");
        }
    }

    #[tokio::test]
    async fn sends_exactly_the_bytes_asked_for() {
        let running = start(backend()).await;
        let answer = ask(&running, "GET /bytes?n=40000", "").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-length: 40000"), "{head}");
        assert_eq!(body.len(), 40_000);
    }

    #[tokio::test]
    async fn fails_and_delays_everything_but_health_checks() {
        let failing = DemoBackend {
            latency: Duration::from_millis(30),
            fail_rate: Percent::try_new(100.0).unwrap(),
            ..backend()
        };
        let running = start(failing).await;
        assert!(ask(&running, "GET /health", "").await.starts_with("http/1.1 200 "));
        let asked = std::time::Instant::now();
        assert!(ask(&running, "GET /", "").await.starts_with("http/1.1 500 "));
        assert!(asked.elapsed() >= Duration::from_millis(30));
    }

    #[tokio::test]
    async fn stops_at_once_with_its_connections_and_starts_again_on_the_same_port() {
        let slow = DemoBackend { latency: Duration::from_secs(60), ..backend() };
        let running = start(slow).await;
        let address = running.address();
        let mut waiting = TcpStream::connect(address).await.unwrap();
        waiting.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\n\r\n").await.unwrap();

        running.stop().await;
        // Closed or reset, but without an answer.
        assert_eq!(waiting.read(&mut [0; 16]).await.unwrap_or(0), 0);
        assert!(TcpStream::connect(address).await.is_err());

        let again = backend().spawn(TcpListener::bind(address).await.unwrap()).unwrap();
        assert!(ask(&again, "GET /", "").await.starts_with("http/1.1 200 "));
    }

    #[tokio::test]
    async fn serve_ends_when_told_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        backend().serve(listener, std::future::ready(())).await;
    }
}
