//! An origin that speaks HTTP/2 only.

use super::address::{Address, Reserved};
use bytes::Bytes;
use h2::{RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, Method, Request, Response};
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{TcpListener, UnixListener},
    runtime::Runtime,
};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub authority: String,
    pub headers: HeaderMap,
    /// Which of the origin's connections it came on, from 0.
    pub connection: usize,
}

/// A request to be answered.
pub struct Asked {
    pub seen: Seen,
    pub body: RecvStream,
    pub respond: SendResponse<Bytes>,
}

impl Asked {
    /// The whole body.
    pub async fn read(&mut self) -> Vec<u8> {
        let mut whole = Vec::new();
        while let Some(Ok(piece)) = self.body.data().await {
            let _ = self.body.flow_control().release_capacity(piece.len());
            whole.extend_from_slice(&piece);
        }
        whole
    }

    /// Begins an answer.
    pub fn begin(&mut self, status: u16, fields: &[(&str, &str)]) -> SendStream<Bytes> {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        self.respond.send_response(response.body(()).unwrap(), false).expect("the stream is open")
    }

    /// An answer that ends with its head, which says nothing of a length.
    pub fn answer_with_head(&mut self, status: u16) {
        let response = Response::builder().status(status).body(()).unwrap();
        let _ = self.respond.send_response(response, true);
    }

    /// A whole answer.
    pub fn answer(&mut self, body: impl Into<Bytes>) {
        let _ = self.begin(200, &[]).send_data(body.into(), true);
    }
}

type Script = Arc<dyn Fn(Asked) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

#[derive(Default)]
struct Memory {
    requests: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    working: AtomicUsize,
    /// The PROXY headers, by connection, where there are to be any.
    headers: Option<Mutex<Vec<String>>>,
}

/// A running origin. Stopped when dropped.
pub struct H2Origin {
    address: Address,
    name: String,
    memory: Arc<Memory>,
    runtime: Option<Runtime>,
    /// What its address is kept by.
    keeper: Option<Keeper>,
}

/// Keeps an address for as long as somebody listens there.
enum Keeper {
    Port(Reserved),
    Directory(TempDir),
}

impl H2Origin {
    /// Answers every request with its name, once it has read its body.
    pub fn named(name: &'static str) -> Self {
        Self::scripted(name, move |mut asked| async move {
            asked.read().await;
            asked.answer(name);
        })
    }

    pub fn scripted<F: Future<Output = ()> + Send + 'static>(
        name: &str,
        script: impl Fn(Asked) -> F + Send + Sync + 'static,
    ) -> Self {
        Self::with(name, h2::server::Builder::new(), script)
    }

    /// As `named`, where connections begin with a PROXY header of version 1; others are closed.
    pub fn behind_a_proxy(name: &'static str) -> Self {
        let memory = Memory { headers: Some(Mutex::default()), ..Memory::default() };
        let builder = h2::server::Builder::new();
        Self::start(name, Reserved::new(), builder, memory, move |mut asked| async move {
            asked.read().await;
            asked.answer(name);
        })
    }

    /// As `scripted`, on a unix socket.
    pub fn unix<F: Future<Output = ()> + Send + 'static>(
        name: &str,
        script: impl Fn(Asked) -> F + Send + Sync + 'static,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = Address::Unix(directory.path().join("h2.sock"));
        let builder = h2::server::Builder::new();
        let mut origin = Self::at(name, address, builder, Memory::default(), script);
        origin.keeper = Some(Keeper::Directory(directory));
        origin
    }

    /// With settings of its own.
    pub fn with<F: Future<Output = ()> + Send + 'static>(
        name: &str,
        builder: h2::server::Builder,
        script: impl Fn(Asked) -> F + Send + Sync + 'static,
    ) -> Self {
        Self::start(name, Reserved::new(), builder, Memory::default(), script)
    }

    fn start<F: Future<Output = ()> + Send + 'static>(
        name: &str,
        port: Reserved,
        builder: h2::server::Builder,
        memory: Memory,
        script: impl Fn(Asked) -> F + Send + Sync + 'static,
    ) -> Self {
        let mut origin = Self::at(name, port.address(), builder, memory, script);
        origin.keeper = Some(Keeper::Port(port));
        origin
    }

    fn at<F: Future<Output = ()> + Send + 'static>(
        name: &str,
        address: Address,
        builder: h2::server::Builder,
        memory: Memory,
        script: impl Fn(Asked) -> F + Send + Sync + 'static,
    ) -> Self {
        let memory = Arc::new(memory);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let script: Script = Arc::new(move |asked| Box::pin(script(asked)));
        let serving = Serving { builder, script, memory: memory.clone() };
        let listener = address.bind().unwrap();
        listener.listen(1024).unwrap();
        listener.set_nonblocking(true).unwrap();
        match &address {
            Address::Tcp(_) => runtime.spawn(accept_tcp(listener.into(), serving)),
            Address::Unix(_) => runtime.spawn(accept_unix(listener.into(), serving)),
        };
        let name = name.to_owned();
        Self { address, name, memory, runtime: Some(runtime), keeper: None }
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Its entry in a list of backends.
    pub fn entry(&self) -> String {
        format!("{{ address: \"{}\", name: {} }}", self.address, self.name)
    }

    pub fn requests(&self) -> Vec<Seen> {
        self.memory.requests.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.memory.requests.lock().unwrap().len()
    }

    /// How many connections it has accepted that turned out to be HTTP/2.
    pub fn connections(&self) -> usize {
        self.memory.connections.load(SeqCst)
    }

    /// The PROXY headers of its connections.
    pub fn headers(&self) -> Vec<String> {
        let headers = self.memory.headers.as_ref().expect("it is behind a proxy");
        headers.lock().unwrap().clone()
    }

    /// How many requests it works on.
    pub fn working(&self) -> usize {
        self.memory.working.load(SeqCst)
    }
}

impl Drop for H2Origin {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What serves each connection.
#[derive(Clone)]
struct Serving {
    builder: h2::server::Builder,
    script: Script,
    memory: Arc<Memory>,
}

async fn accept_tcp(listener: std::net::TcpListener, serving: Serving) {
    let listener = TcpListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        tokio::spawn(serving.clone().serve(stream));
    }
}

async fn accept_unix(listener: std::os::unix::net::UnixListener, serving: Serving) {
    let listener = UnixListener::from_std(listener).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serving.clone().serve(stream));
    }
}

impl Serving {
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(self, mut stream: S) {
        let Self { builder, script, memory } = self;
        if let Some(headers) = &memory.headers {
            let Some(header) = read_header(&mut stream).await else { return };
            headers.lock().unwrap().push(header);
        }
        // The other side going away, or a probe that says nothing, is no failure of the origin.
        let Ok(mut connection) = builder.handshake(stream).await else { return };
        let number = memory.connections.fetch_add(1, SeqCst);
        while let Some(Ok((request, respond))) = connection.accept().await {
            let asked = asked(request, respond, number);
            memory.requests.lock().unwrap().push(asked.seen.clone());
            if asked.seen.path == "/goaway" {
                // Says that it looks at this request and no later one, and goes on with it.
                connection.graceful_shutdown();
            }
            let (script, memory) = (script.clone(), memory.clone());
            tokio::spawn(async move {
                memory.working.fetch_add(1, SeqCst);
                script(asked).await;
                memory.working.fetch_sub(1, SeqCst);
            });
        }
    }
}

/// A line that begins as a PROXY header does.
async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut line = String::new();
    while !line.ends_with('\n') {
        line.push(char::from(stream.read_u8().await.ok()?));
    }
    line.starts_with("PROXY ").then_some(line)
}

fn asked(request: Request<RecvStream>, respond: SendResponse<Bytes>, connection: usize) -> Asked {
    let (parts, body) = request.into_parts();
    let seen = Seen {
        method: parts.method,
        path: parts.uri.path_and_query().map_or(String::new(), ToString::to_string),
        authority: parts.uri.authority().map_or(String::new(), ToString::to_string),
        headers: parts.headers,
        connection,
    };
    Asked { seen, body, respond }
}
