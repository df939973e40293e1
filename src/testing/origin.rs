//! A small origin server.

use super::message::{Request, Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
};

type Script = dyn Fn(&Request) -> Response + Send + Sync;

/// A backend for a test, on a free port of 127.0.0.1, that remembers what it was asked. Health checks
/// by TCP are no requests.
///
/// Dropping it ends its connections and its thread.
pub struct Origin {
    address: SocketAddr,
    state: Arc<State>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    script: Box<Script>,
    requests: Mutex<Vec<Request>>,
}

impl Origin {
    /// Answers each request with what it got, as JSON: `method`, `target`, `headers` and `body`. The
    /// values of fields of one name are joined by a comma.
    ///
    /// # Panics
    /// If the system has no port or no thread left.
    #[track_caller]
    pub fn echo() -> Self {
        Self::with(echo)
    }

    /// Answers each request with `response`.
    ///
    /// # Panics
    /// As [`echo`](Self::echo).
    #[track_caller]
    pub fn answering(response: Response) -> Self {
        Self::with(move |_| response.clone())
    }

    /// Answers each request as `script` says.
    ///
    /// # Panics
    /// As [`echo`](Self::echo).
    #[track_caller]
    pub fn with(script: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let state = State { script: Box::new(script), requests: Mutex::default() };
        Self::start(Arc::new(state)).expect("a free port on 127.0.0.1, and a thread")
    }

    fn start(state: Arc<State>) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = mpsc::channel();
        let serving = state.clone();
        let thread = thread::Builder::new().name("origin".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let work = async {
                let listener = TcpListener::from_std(listener);
                let accepting = listener.map(|listener| accept(listener, serving));
                let _ = ready.send(accepting.as_ref().map(drop).map_err(io::Error::kind));
                let Ok(accepting) = accepting else { return };
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
            };
            if let Ok(runtime) = runtime {
                runtime.block_on(work);
            }
        })?;
        started.recv().map_err(io::Error::other)??;
        Ok(Self { address, state, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests that it got, in their order.
    pub fn requests(&self) -> Vec<Request> {
        self.state.requests().clone()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        // The thread is there as long as this is.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl std::fmt::Debug for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Origin").field("address", &self.address).finish_non_exhaustive()
    }
}

impl State {
    fn requests(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(
        &self,
        request: hyper::Request<Incoming>,
    ) -> Result<hyper::Response<Full<Bytes>>, hyper::Error> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let request = Request {
            method: head.method,
            target: target.to_owned(),
            headers: head.headers,
            body: vec![body],
            client: None,
            listener: None,
            received: None,
        };
        self.requests().push(request.clone());
        let response = (self.script)(&request);
        let mut answer = hyper::Response::new(Full::new(response.bytes()));
        *answer.status_mut() = response.status;
        *answer.headers_mut() = response.headers;
        Ok(answer)
    }
}

/// Accepts for ever. The connections live in this future, so dropping it ends them.
async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(serve(stream, state.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let service = service_fn(|request| state.answer(request));
    // A connection ends when its client is done with it, however it ends.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn echo(request: &Request) -> Response {
    let body = serde_json::json!({
        "method": request.method(),
        "target": request.target(),
        "headers": joined(request.headers()),
        "body": request.text(),
    });
    Response::new(200).with("content-type", "application/json").body(format!("{body}\n"))
}

fn joined(headers: &HeaderMap) -> serde_json::Map<String, serde_json::Value> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let value = |name| headers.get_all(name).iter().map(text).collect::<Vec<_>>().join(", ");
    headers.keys().map(|name| (name.to_string(), value(name).into())).collect()
}
