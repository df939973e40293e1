//! A client that sends what it is told, byte for byte.

use super::{
    SOON,
    address::Address,
    http::{Framing, Incoming, KEPT_BODY, Response},
    tls::TlsClient,
};
use rustls::{ClientConnection, StreamOwned};
use socket2::Socket;
use std::{
    io::{self, Read, Write},
    net::Shutdown,
    time::Duration,
};

/// One connection.
pub struct Client {
    incoming: Incoming<Stream>,
}

/// What a connection's bytes go over.
pub enum Stream {
    Clear(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

impl Stream {
    fn socket(&self) -> &Socket {
        match self {
            Self::Clear(socket) => socket,
            Self::Tls(stream) => stream.get_ref(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Clear(socket) => socket.read(bytes),
            Self::Tls(stream) => stream.read(bytes),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Clear(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Clear(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl Client {
    #[track_caller]
    pub fn connect(address: &Address) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
    }

    pub fn try_connect(address: &Address) -> io::Result<Self> {
        Self::over(address.connect()?)
    }

    /// A connection that exists.
    pub fn over(socket: Socket) -> io::Result<Self> {
        let stream = Stream::Clear(patient(socket)?);
        Ok(Self { incoming: Incoming::new(stream) })
    }

    /// Connects and speaks TLS, asking for `name`; an error is that of the handshake.
    pub fn try_connect_tls(address: &Address, tls: &TlsClient, name: &str) -> io::Result<Self> {
        Self::tls_over(address.connect()?, tls, name)
    }

    /// Speaks TLS on a connection that exists.
    pub fn tls_over(socket: Socket, tls: &TlsClient, name: &str) -> io::Result<Self> {
        let mut stream = StreamOwned::new(tls.connection(name), patient(socket)?);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self { incoming: Incoming::new(Stream::Tls(Box::new(stream))) })
    }

    #[track_caller]
    pub fn connect_tls(address: &Address, tls: &TlsClient, name: &str) -> Self {
        Self::try_connect_tls(address, tls, name)
            .unwrap_or_else(|error| panic!("TLS with {address} as {name}: {error}"))
    }

    /// The TLS session.
    #[track_caller]
    pub fn tls(&self) -> &ClientConnection {
        match &self.incoming.stream {
            Stream::Tls(stream) => &stream.conn,
            Stream::Clear(_) => panic!("a connection in the clear"),
        }
    }

    /// How long a read may wait; `SOON` unless told.
    pub fn set_patience(&self, patience: Duration) {
        self.incoming.stream.socket().set_read_timeout(Some(patience)).unwrap();
    }

    /// How long a write may wait; `SOON` unless told.
    pub fn set_write_patience(&self, patience: Duration) {
        self.incoming.stream.socket().set_write_timeout(Some(patience)).unwrap();
    }

    /// Our end of the connection.
    pub fn local_address(&self) -> std::net::SocketAddr {
        self.incoming.stream.socket().local_addr().unwrap().as_socket().unwrap()
    }

    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.incoming.stream.write_all(bytes)?;
        self.incoming.stream.flush()
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes.as_ref()).expect("the balancer takes the bytes");
    }

    /// Sends a request made by [`request`] and returns its response.
    #[track_caller]
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Response {
        self.send(request);
        self.response()
    }

    /// `GET path` with nothing but a Host.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Response {
        self.ask(request("GET", path, &[], b""))
    }

    /// The next final response.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.try_response().expect("a response")
    }

    pub fn try_response(&mut self) -> io::Result<Response> {
        self.read_response(false)
    }

    /// The next final response, to a HEAD.
    #[track_caller]
    pub fn response_to_head(&mut self) -> Response {
        self.read_response(true).expect("a response")
    }

    fn read_response(&mut self, to_head: bool) -> io::Result<Response> {
        loop {
            let response = self.incoming.response_head()?;
            if response.status >= 200 || response.status == 101 {
                return self.read_body(response, to_head);
            }
        }
    }

    /// The next response's head, an interim one's included.
    #[track_caller]
    pub fn head(&mut self) -> Response {
        self.incoming.response_head().expect("a response's head")
    }

    fn read_body(&mut self, mut response: Response, to_head: bool) -> io::Result<Response> {
        let framing = Framing::of_response(&response.headers, response.status, to_head);
        let (body, length) = (&mut response.body, &mut response.body_length);
        response.complete = self.incoming.body(framing, &mut |piece| {
            *length += piece.len() as u64;
            body.extend_from_slice(&piece[..piece.len().min(KEPT_BODY - body.len())]);
        })?;
        Ok(response)
    }

    /// Exactly that many raw bytes.
    #[track_caller]
    pub fn exactly(&mut self, length: usize) -> Vec<u8> {
        self.try_exactly(length).expect("the bytes")
    }

    pub fn try_exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        self.incoming.exactly(length)
    }

    /// Sends a body in pieces to somebody who sends each back, and waits for it before the next.
    #[track_caller]
    pub fn has_pieces_echoed(&mut self) {
        self.send(request("POST", "/", &["Transfer-Encoding: chunked"], b"3\r\none\r\n"));
        assert_eq!(self.head().status, 200);
        assert_eq!(self.chunk(), b"one");
        self.send("3\r\ntwo\r\n0\r\n\r\n");
        assert_eq!(self.chunk(), b"two");
        assert_eq!(self.chunk(), b"");
    }

    /// One chunk of a chunked body, which must be in one piece.
    #[track_caller]
    pub fn chunk(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(self.exactly(1));
        }
        let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).unwrap();
        let data = self.exactly(size);
        assert_eq!(self.exactly(2), b"\r\n");
        data
    }

    /// The next bytes that come, whatever they are; empty at the end of the stream.
    pub fn try_some(&mut self) -> io::Result<Vec<u8>> {
        self.incoming.some()
    }

    /// A second handle on the connection in the clear, to write with while this one reads.
    pub fn writer(&self) -> Socket {
        self.incoming.stream.socket().try_clone().unwrap()
    }

    /// All that still comes, to the end of the stream.
    pub fn rest(&mut self) -> Vec<u8> {
        self.incoming.rest()
    }

    /// All that still comes, up to an end that was said; an error is an end that was not. Over TLS, a
    /// stream that is cut off can be told from one that has ended.
    pub fn until_the_end(&mut self) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            match self.incoming.some()? {
                piece if piece.is_empty() => return Ok(all),
                piece => all.extend(piece),
            }
        }
    }

    /// Whether the other side has closed; waits for it up to the client's patience.
    pub fn is_closed(&mut self) -> bool {
        match self.incoming.some() {
            Ok(bytes) => bytes.is_empty(),
            Err(error) => super::http::broke_off(&error),
        }
    }

    /// Says over TLS that nothing more will be sent, and goes on reading.
    pub fn say_end(&mut self) {
        let Stream::Tls(stream) = &mut self.incoming.stream else { panic!("it is in the clear") };
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    }

    /// Says that nothing more will be sent, and goes on reading.
    pub fn half_close(&self) {
        self.incoming.stream.socket().shutdown(Shutdown::Write).unwrap();
    }

    /// Closes with a reset.
    pub fn reset(self) {
        self.incoming.stream.socket().set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// The socket with a limit to how long anything on it may take.
fn patient(socket: Socket) -> io::Result<Socket> {
    socket.set_read_timeout(Some(SOON))?;
    socket.set_write_timeout(Some(SOON))?;
    Ok(socket)
}

/// A request with a Host of `test.example`, unless `fields` has one, and a Content-Length if
/// there is a body.
pub fn request(method: &str, target: &str, fields: &[&str], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
    let names = |name: &str| {
        fields.iter().any(|field| {
            field.split(':').next().is_some_and(|field| field.eq_ignore_ascii_case(name))
        })
    };
    if !names("host") {
        bytes.extend_from_slice(b"Host: test.example\r\n");
    }
    for field in fields {
        bytes.extend_from_slice(field.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    if !body.is_empty() && !names("content-length") && !names("transfer-encoding") {
        bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// `GET path` on a connection of its own.
#[track_caller]
pub fn get(address: &Address, path: &str) -> Response {
    Client::connect(address).get(path)
}

/// Two connections of a client and a backend, through a proxy: what is sent before an end arrives, and
/// so does what the other side says after it. `end` is how the client says that it is done.
#[track_caller]
pub fn each_side_ends_first(pair: impl Fn() -> (Client, Client), end: fn(&mut Client)) {
    let (mut client, mut served) = pair();
    client.send("question");
    end(&mut client);
    assert_eq!(served.until_the_end().unwrap(), b"question");
    served.send("answer");
    assert_eq!(client.exactly(6), b"answer");
    drop(served);
    assert_eq!(client.until_the_end().unwrap(), b"", "the end is said");

    let (mut client, mut served) = pair();
    served.send("that is all");
    served.half_close();
    assert_eq!(client.until_the_end().unwrap(), b"that is all", "the end is said");
    client.send("understood");
    assert_eq!(served.exactly(10), b"understood");
    end(&mut client);
    assert_eq!(served.until_the_end().unwrap(), b"");
}
