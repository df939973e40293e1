//! HTTP/2: a client on the `h2` crate, and one that sends frames as it is told.

use super::{SOON, address::Address, client::Client, tls::TlsClient};
use bytes::Bytes;
use h2::{RecvStream, SendStream, client::ResponseFuture, client::SendRequest};
use http::{HeaderMap, Request, Response, StatusCode};
use std::{future::Future, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    runtime::Runtime,
    task::JoinHandle,
};

/// A response that came whole.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn field(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A connection that behaves.
pub struct H2 {
    runtime: Runtime,
    send: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl H2 {
    #[track_caller]
    pub fn connect(address: &Address) -> Self {
        Self::with(address, h2::client::Builder::new())
    }

    /// With settings of its own.
    #[track_caller]
    pub fn with(address: &Address, builder: h2::client::Builder) -> Self {
        match address.clone() {
            Address::Tcp(_) => Self::over(address, builder, async |stream| stream),
            Address::Unix(path) => {
                Self::start(builder, async { UnixStream::connect(path).await.unwrap() })
            }
        }
    }

    /// Over TLS, asking for `name`.
    #[track_caller]
    pub fn over_tls(address: &Address, tls: &TlsClient, name: &str) -> Self {
        let tls = tls.offering(&["h2", "http/1.1"]);
        Self::over(address, h2::client::Builder::new(), async move |stream| {
            let stream = tls.meet(name, stream).await.expect("a handshake");
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            stream
        })
    }

    #[track_caller]
    fn over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        address: &Address,
        builder: h2::client::Builder,
        begin: impl AsyncFnOnce(TcpStream) -> S,
    ) -> Self {
        let Address::Tcp(address) = address else { panic!("no TCP address") };
        let address = *address;
        Self::start(builder, async move {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            begin(stream).await
        })
    }

    #[track_caller]
    fn start<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        builder: h2::client::Builder,
        stream: impl Future<Output = S>,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (send, connection) = runtime.block_on(async move {
            let (send, connection) = builder.handshake(stream.await).await.unwrap();
            (send, tokio::spawn(connection))
        });
        Self { runtime, send, connection }
    }

    /// Runs something of this connection's, which must be over `SOON`.
    #[track_caller]
    pub fn run<F: Future>(&self, future: F) -> F::Output {
        self.runtime
            .block_on(async { tokio::time::timeout(SOON, future).await })
            .expect("something over HTTP/2 takes too long")
    }

    /// Opens a stream with this head; `end` says that no body follows.
    #[track_caller]
    pub fn begin(&self, request: Request<()>, end: bool) -> Stream<'_> {
        self.try_begin(request, end).expect("a stream")
    }

    pub fn try_begin(&self, request: Request<()>, end: bool) -> Result<Stream<'_>, h2::Error> {
        let mut send = self.run(self.send.clone().ready())?;
        let (response, body) = send.send_request(request, end)?;
        Ok(Stream { client: self, response, body })
    }

    /// Sends a request with its body and returns what comes of it.
    pub fn ask(&self, request: Request<()>, body: &[u8]) -> Result<Answer, h2::Error> {
        let mut stream = self.try_begin(request, body.is_empty())?;
        if !body.is_empty() {
            // One that is refused already, and told not to send, has its answer all the same.
            let _ = stream.body.send_data(Bytes::copy_from_slice(body), true);
        }
        stream.answer()
    }

    /// `GET path`.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.ask(get(path), b"").expect("an answer")
    }

    /// How the connection ended; waits for that.
    #[track_caller]
    pub fn end(self) -> Result<(), h2::Error> {
        let Self { runtime, send, connection } = self;
        drop(send);
        runtime
            .block_on(async { tokio::time::timeout(SOON, connection).await })
            .expect("the connection ends")
            .unwrap()
    }

    /// Whether the connection has ended.
    pub fn has_ended(&self) -> bool {
        self.connection.is_finished()
    }
}

/// A request on its way.
pub struct Stream<'c> {
    client: &'c H2,
    response: ResponseFuture,
    pub body: SendStream<Bytes>,
}

impl Stream<'_> {
    #[track_caller]
    pub fn send(&mut self, piece: &[u8], end: bool) {
        self.body
            .send_data(Bytes::copy_from_slice(piece), end)
            .expect("the stream takes the piece");
    }

    pub fn reset(&mut self) {
        self.body.send_reset(h2::Reason::CANCEL);
    }

    /// The head of the response.
    #[track_caller]
    pub fn head(&mut self) -> Result<Response<RecvStream>, h2::Error> {
        self.client.run(&mut self.response)
    }

    /// The whole response.
    pub fn answer(mut self) -> Result<Answer, h2::Error> {
        let head = self.head()?;
        self.client.run(read(head))
    }

    /// The rest of a response whose head was read.
    pub fn rest(&self, head: Response<RecvStream>) -> Result<Answer, h2::Error> {
        self.client.run(read(head))
    }
}

/// Reads a response to its end.
pub async fn read(head: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (parts, mut stream) = head.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        let piece = piece?;
        stream.flow_control().release_capacity(piece.len())?;
        body.extend_from_slice(&piece);
    }
    let trailers = stream.trailers().await?;
    Ok(Answer { status: parts.status, headers: parts.headers, body, trailers })
}

/// A request to `test.example`.
pub fn asking(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("http://test.example{path}"))
}

pub fn get(path: &str) -> Request<()> {
    asking("GET", path).body(()).unwrap()
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error code of a GOAWAY or an `RST_STREAM`.
    pub fn reason(&self) -> h2::Reason {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap()).into()
    }

    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Fields in HPACK, literally, without tables.
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(text.len(), &mut block);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// An integer with a prefix of seven bits (RFC 7541 section 5.1).
fn integer(mut value: usize, block: &mut Vec<u8>) {
    if value < 127 {
        return block.push(u8::try_from(value).unwrap());
    }
    block.push(127);
    value -= 127;
    while value >= 128 {
        block.push(u8::try_from(value % 128).unwrap() | 128);
        value /= 128;
    }
    block.push(u8::try_from(value).unwrap());
}

/// The pseudo-header fields of a request, and more.
pub fn request<'a>(method: &'a str, path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<u8> {
    let mut all = vec![
        (":method", method),
        (":scheme", "http"),
        (":authority", "test.example"),
        (":path", path),
    ];
    all.extend_from_slice(more);
    fields(&all)
}

/// A connection that sends what it is told.
pub struct Frames {
    pub client: Client,
}

impl Frames {
    /// Connects and sends the preface with empty settings.
    #[track_caller]
    pub fn connect(address: &Address) -> Self {
        Self::over(Client::connect(address))
    }

    /// The same on a connection that is there.
    #[track_caller]
    pub fn over(mut client: Client) -> Self {
        client.send(PREFACE);
        client.send(frame(SETTINGS, 0, 0, b""));
        Self { client }
    }

    #[track_caller]
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.client.send(frame(kind, flags, stream, payload));
    }

    /// A whole request without a body.
    #[track_caller]
    pub fn get(&mut self, stream: u32, path: &str) {
        self.send(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET", path, &[]));
    }

    /// The next frame; `None` at the end of the connection.
    pub fn next(&mut self) -> Option<Frame> {
        let head = self.client.try_exactly(9).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap()) & 0x7fff_ffff;
        let payload = self.client.try_exactly(length).ok()?;
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The frames up to the first that `wanted` wants; `None` if the connection ends before.
    pub fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        while let Some(frame) = self.next() {
            if wanted(&frame) {
                return Some(frame);
            }
        }
        None
    }

    /// The end of a stream: the last frame of its response, or its reset.
    #[track_caller]
    pub fn end_of(&mut self, stream: u32) -> Frame {
        self.until(|frame| {
            frame.stream == stream && (frame.kind == RST_STREAM || frame.ends_stream())
        })
        .expect("the stream ends before the connection does")
    }

    /// The reason of the GOAWAY that ends the connection.
    #[track_caller]
    pub fn goodbye(&mut self) -> h2::Reason {
        self.until(|frame| frame.kind == GOAWAY).expect("a GOAWAY").reason()
    }

    pub fn set_patience(&self, patience: Duration) {
        self.client.set_patience(patience);
    }
}
