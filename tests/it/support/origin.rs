//! Scripted HTTP/1.1 servers that remember what they were asked.

use super::{
    SOON,
    address::{Address, Reserved},
    http::{Framing, Incoming, KEPT_BODY, Request},
};
use socket2::Socket;
use std::{
    collections::HashMap,
    io::{self, Write},
    net::Shutdown,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// What an origin does once it has read a request (for the streaming ones: its head).
#[derive(Clone, Debug)]
pub enum Reply {
    /// Answers with a status, fields and a body of known length.
    Answer { status: u16, headers: Vec<(String, String)>, body: Vec<u8> },
    /// Sends these bytes and goes on with the connection.
    Raw(Vec<u8>),
    /// Sends these bytes and closes.
    RawThenClose(Vec<u8>),
    /// Sends these bytes and resets the connection.
    RawThenReset(Vec<u8>),
    /// Answers with that many zeros.
    Zeros(u64),
    /// Answers at once, chunked, and sends each piece of the request's body back as it comes.
    EchoStream,
    /// Sends these bytes without waiting for the request's body, and reads on to the end.
    Early(Vec<u8>),
    /// Switches to the protocol that it is asked for, or to `websocket`, and sends every byte back
    /// until the other side is done.
    Upgrade,
    /// Never answers, but holds the connection.
    Hang,
    /// Sends these pieces, each that much after the one before.
    Pieces(Vec<(Duration, Vec<u8>)>),
    /// Sends these pieces, each once the gate lets one more go.
    Gated(Gate, Vec<Vec<u8>>),
    /// Does the other thing that much later.
    After(Duration, Box<Reply>),
    /// Does the other thing once the gate lets it.
    Behind(Gate, Box<Reply>),
}

impl Reply {
    pub fn text(body: impl Into<String>) -> Self {
        Self::Answer { status: 200, headers: Vec::new(), body: body.into().into_bytes() }
    }

    pub fn status(status: u16) -> Self {
        Self::Answer { status, headers: Vec::new(), body: Vec::new() }
    }

    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Raw(bytes.into())
    }

    /// Closes the connection without a word.
    pub fn close() -> Self {
        Self::RawThenClose(Vec::new())
    }

    /// Resets the connection without a word.
    pub fn reset() -> Self {
        Self::RawThenReset(Vec::new())
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        let Self::Answer { headers, .. } = &mut self else { panic!("no fields in {self:?}") };
        headers.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self::After(delay, Box::new(self))
    }

    #[must_use]
    pub fn behind(self, gate: &Gate) -> Self {
        Self::Behind(gate.clone(), Box::new(self))
    }

    /// Whether the reply starts before the request's body was read.
    fn streams(&self) -> bool {
        matches!(self, Self::EchoStream | Self::Early(_))
    }
}

/// Holds replies back until the test lets them go, one by one or all.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<usize>, Condvar)>);

impl Gate {
    /// Lets one more reply go.
    pub fn let_one(&self) {
        *self.0.0.lock().unwrap() += 1;
        self.0.1.notify_one();
    }

    /// Lets all go from here on.
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = usize::MAX;
        self.0.1.notify_all();
    }

    /// Waits until it may go, or the run stops.
    fn pass(&self, stop: &Stop) {
        let mut left = self.0.0.lock().unwrap();
        while *left == 0 && !stop.is_set() {
            left = self.0.1.wait_timeout(left, Duration::from_millis(20)).unwrap().0;
        }
        if *left != usize::MAX {
            *left = left.saturating_sub(1);
        }
    }
}

type Script = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

/// What outlives a stop: the script and the memory.
struct Memory {
    script: Mutex<Script>,
    /// Whether each connection begins with a header of the PROXY protocol.
    proxied: AtomicBool,
    requests: Mutex<Vec<Request>>,
    accepted: AtomicUsize,
    connections: AtomicUsize,
    open: AtomicUsize,
    working: AtomicUsize,
    most_working: AtomicUsize,
}

impl Memory {
    fn begin_work(&self) {
        let working = self.working.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_working.fetch_max(working, Ordering::SeqCst);
    }

    fn end_work(&self) {
        self.working.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A server on a port of its own, which stays its own while it is stopped.
pub struct Origin {
    name: String,
    address: Address,
    memory: Arc<Memory>,
    running: Mutex<Option<Running>>,
    _port: Option<Reserved>,
    _directory: Option<TempDir>,
}

impl Origin {
    /// Answers every request with 200 and its name.
    pub fn named(name: &str) -> Self {
        let body = name.to_owned();
        Self::scripted(name, move |_| Reply::text(body.clone()))
    }

    /// Answers every request with 200 and its name, `delay` later.
    pub fn slow(name: &str, delay: Duration) -> Self {
        let body = name.to_owned();
        Self::scripted(name, move |_| Reply::text(body.clone()).after(delay))
    }

    pub fn scripted(
        name: &str,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let port = Reserved::new();
        let address = port.address();
        Self::at(name, address, Some(port), None, Arc::new(script))
    }

    pub fn unix(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = Address::Unix(directory.path().join("origin.sock"));
        let body = name.to_owned();
        let script: Script = Arc::new(move |_| Reply::text(body.clone()));
        Self::at(name, address, None, Some(directory), script)
    }

    fn at(
        name: &str,
        address: Address,
        port: Option<Reserved>,
        directory: Option<TempDir>,
        script: Script,
    ) -> Self {
        let memory = Arc::new(Memory {
            script: Mutex::new(script),
            proxied: AtomicBool::new(false),
            requests: Mutex::default(),
            accepted: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            working: AtomicUsize::new(0),
            most_working: AtomicUsize::new(0),
        });
        let origin = Self {
            name: name.to_owned(),
            address,
            memory,
            running: Mutex::new(None),
            _port: port,
            _directory: directory,
        };
        origin.start();
        origin
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// This origin as an entry of `backends:`.
    pub fn entry(&self) -> String {
        self.entry_with("")
    }

    /// The same with further keys, as in `weight: 3, backup: true`.
    pub fn entry_with(&self, keys: &str) -> String {
        format!("{{ address: \"{}\", name: {}, {keys} }}", self.address, self.name)
            .replace(",  }", " }")
    }

    /// Expects a header of the PROXY protocol on each connection from here on. Requests have it as
    /// their preamble; a connection without one is closed.
    #[must_use]
    pub fn behind_a_proxy(self) -> Self {
        self.memory.proxied.store(true, Ordering::SeqCst);
        self
    }

    /// Replaces what it does from the next request on.
    pub fn script(&self, script: impl Fn(&Request) -> Reply + Send + Sync + 'static) {
        *self.memory.script.lock().unwrap() = Arc::new(script);
    }

    /// Listens again after a stop.
    pub fn start(&self) {
        let mut running = self.running.lock().unwrap();
        assert!(running.is_none(), "{} runs already", self.name);
        if let Address::Unix(path) = &self.address {
            // A socket file outlives its listener.
            let _ = std::fs::remove_file(path);
        }
        let deadline = Instant::now() + SOON;
        let listener = loop {
            match self.address.bind().and_then(|socket| socket.listen(1024).map(|()| socket)) {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < deadline, "{}: {error}", self.address),
            }
            thread::park_timeout(Duration::from_millis(5));
        };
        *running = Some(Running::start(listener, Arc::clone(&self.memory)));
    }

    /// Stops as a killed process does: the port refuses connections and those that exist are
    /// reset, whatever they are doing.
    pub fn stop(&self) {
        if let Some(running) = self.running.lock().unwrap().take() {
            running.stop();
        }
    }

    /// Every request that reached it, in the order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.memory.requests.lock().unwrap().clone()
    }

    /// Forgets the requests that reached it, for tests that send more than memory should hold.
    pub fn forget(&self) {
        self.memory.requests.lock().unwrap().clear();
    }

    /// The requests that are no health checks to `/health`.
    pub fn traffic(&self) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|request| request.path() != "/health");
        requests
    }

    /// How many requests reached it.
    pub fn count(&self) -> usize {
        self.memory.requests.lock().unwrap().len()
    }

    /// The only request that reached it.
    #[track_caller]
    pub fn only_request(&self) -> Request {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "requests that reached {}: {requests:?}", self.name);
        requests.remove(0)
    }

    /// The last request that reached it.
    #[track_caller]
    pub fn last_request(&self) -> Request {
        self.requests().pop().expect("a request reached the origin")
    }

    /// Connections it accepted, those that never carried a request included.
    pub fn accepted(&self) -> usize {
        self.memory.accepted.load(Ordering::Relaxed)
    }

    /// Connections that carried a request.
    pub fn connections(&self) -> usize {
        self.memory.connections.load(Ordering::Relaxed)
    }

    /// Requests it has received and not begun to answer.
    pub fn working(&self) -> usize {
        self.memory.working.load(Ordering::SeqCst)
    }

    /// The most of those that there were at a time.
    pub fn most_working(&self) -> usize {
        self.memory.most_working.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.memory.open.load(Ordering::Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Tells the threads of one run to end, and wakes those that wait for time to pass.
#[derive(Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn set(&self) {
        *self.stopped.lock().unwrap() = true;
        self.changed.notify_all();
    }

    fn is_set(&self) -> bool {
        *self.stopped.lock().unwrap()
    }

    /// Waits that long, or until the stop.
    fn wait(&self, time: Duration) {
        let stopped = self.stopped.lock().unwrap();
        drop(self.changed.wait_timeout_while(stopped, time, |stopped| !*stopped).unwrap());
    }
}

/// One run between a start and a stop.
struct Running {
    listener: Socket,
    stop: Arc<Stop>,
    live: Live,
    accepting: JoinHandle<()>,
}

/// The connections that exist, so that a stop can break them.
type Live = Arc<Mutex<HashMap<usize, Socket>>>;

impl Running {
    fn start(listener: Socket, memory: Arc<Memory>) -> Self {
        let stop = Arc::new(Stop::default());
        let live = Live::default();
        let accepting = {
            let listener = listener.try_clone().unwrap();
            let (stop, live) = (Arc::clone(&stop), Arc::clone(&live));
            thread::spawn(move || accept(&listener, &memory, &stop, &live))
        };
        Self { listener, stop, live, accepting }
    }

    fn stop(self) {
        self.stop.set();
        // Wakes the accepting thread, and refuses connections from here on.
        let _ = self.listener.shutdown(Shutdown::Both);
        for socket in self.live.lock().unwrap().values() {
            // With no time to linger, the close that follows is a reset. Shutting down the
            // reading side sends nothing; it wakes the thread that reads.
            let _ = socket.set_linger(Some(Duration::ZERO));
            let _ = socket.shutdown(Shutdown::Read);
        }
        drop(self.listener);
        self.accepting.join().expect("an origin's script does not panic");
    }
}

fn accept(listener: &Socket, memory: &Arc<Memory>, stop: &Arc<Stop>, live: &Live) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while let Ok((socket, _)) = listener.accept() {
        // Those that are over keep their stacks until they are joined, and a long run has very many.
        threads.extract_if(.., |thread| thread.is_finished()).for_each(join);
        if stop.is_set() {
            let _ = socket.set_linger(Some(Duration::ZERO));
            break;
        }
        let id = memory.accepted.fetch_add(1, Ordering::Relaxed);
        let Ok(held) = socket.try_clone() else { continue };
        live.lock().unwrap().insert(id, held);
        if stop.is_set() {
            // The stop may have looked at `live` before this connection was in it.
            let _ = socket.set_linger(Some(Duration::ZERO));
            live.lock().unwrap().remove(&id);
            break;
        }
        let (memory, stop, live) = (Arc::clone(memory), Arc::clone(stop), Arc::clone(live));
        memory.open.fetch_add(1, Ordering::Relaxed);
        threads.push(thread::spawn(move || {
            // The other side going away ends a connection; that is no failure of the origin.
            let _ = Connection::new(socket, &memory, &stop).serve();
            live.lock().unwrap().remove(&id);
            memory.open.fetch_sub(1, Ordering::Relaxed);
        }));
    }
    threads.into_iter().for_each(join);
}

fn join(thread: JoinHandle<()>) {
    thread.join().expect("an origin's script does not panic");
}

struct Connection<'a> {
    incoming: Incoming<Socket>,
    memory: &'a Memory,
    stop: &'a Stop,
}

/// Whether the connection goes on after a reply.
#[derive(PartialEq, Eq)]
enum Then {
    GoOn,
    Close,
}

impl<'a> Connection<'a> {
    fn new(socket: Socket, memory: &'a Memory, stop: &'a Stop) -> Self {
        // Short, so that a thread that writes to someone who does not read notices a stop.
        let _ = socket.set_write_timeout(Some(Duration::from_millis(100)));
        // Fails on unix sockets, which have no such delay.
        let _ = socket.set_tcp_nodelay(true);
        Self { incoming: Incoming::new(socket), memory, stop }
    }

    fn serve(mut self) -> io::Result<()> {
        let mut first = true;
        let preamble = if self.memory.proxied.load(Ordering::SeqCst) {
            self.incoming.proxy_header()?
        } else {
            Vec::new()
        };
        while let Some(mut request) = self.incoming.request_head()? {
            if self.stop.is_set() {
                return Ok(());
            }
            request.preamble.clone_from(&preamble);
            if std::mem::take(&mut first) {
                self.memory.connections.fetch_add(1, Ordering::Relaxed);
            }
            if request.headers.lists("expect", "100-continue") {
                self.send(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let script = Arc::clone(&self.memory.script.lock().unwrap());
            let reply = script(&request);
            self.memory.begin_work();
            let reply = self.ready(&mut request, reply);
            self.memory.end_work();
            if self.reply(&request, reply?)? == Then::Close {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes in the request and does what comes before the answer's first byte.
    fn ready(&mut self, request: &mut Request, mut reply: Reply) -> io::Result<Reply> {
        if !reply.streams() {
            self.read_body(request)?;
        }
        self.remember(request.clone());
        loop {
            reply = match reply {
                Reply::After(delay, reply) => {
                    self.stop.wait(delay);
                    *reply
                }
                Reply::Behind(gate, reply) => {
                    gate.pass(self.stop);
                    *reply
                }
                Reply::Hang => {
                    // Ends with the connection or the run.
                    self.incoming.rest();
                    return Ok(Reply::close());
                }
                _ if self.stop.is_set() => return Ok(Reply::close()),
                other => return Ok(other),
            };
        }
    }

    fn remember(&self, request: Request) {
        self.memory.requests.lock().unwrap().push(request);
    }

    fn read_body(&mut self, request: &mut Request) -> io::Result<()> {
        let framing = Framing::of_request(&request.headers);
        let (body, length) = (&mut request.body, &mut request.body_length);
        request.complete = self.incoming.body(framing, &mut |piece| {
            *length += piece.len() as u64;
            body.extend_from_slice(&piece[..piece.len().min(KEPT_BODY - body.len())]);
        })?;
        Ok(())
    }

    fn reply(&mut self, request: &Request, reply: Reply) -> io::Result<Then> {
        match reply {
            Reply::Answer { status, headers, body } => {
                self.answer(request, status, &headers, &body)?;
            }
            Reply::Raw(bytes) => self.send(&bytes)?,
            Reply::RawThenClose(bytes) => {
                self.send(&bytes)?;
                return Ok(Then::Close);
            }
            Reply::RawThenReset(bytes) => {
                self.send(&bytes)?;
                self.incoming.stream.set_linger(Some(Duration::ZERO))?;
                return Ok(Then::Close);
            }
            Reply::Zeros(length) => self.zeros(length)?,
            Reply::EchoStream => self.echo_stream(request)?,
            Reply::Early(bytes) => {
                self.send(&bytes)?;
                self.incoming.rest();
                return Ok(Then::Close);
            }
            Reply::Upgrade => {
                self.upgrade(request)?;
                return Ok(Then::Close);
            }
            Reply::Pieces(pieces) => {
                for (delay, bytes) in pieces {
                    self.stop.wait(delay);
                    self.send(&bytes)?;
                }
            }
            Reply::Gated(gate, pieces) => {
                for bytes in pieces {
                    gate.pass(self.stop);
                    self.send(&bytes)?;
                }
            }
            Reply::Hang | Reply::After(..) | Reply::Behind(..) => {
                unreachable!("over before the answer begins")
            }
        }
        Ok(if request.headers.lists("connection", "close") { Then::Close } else { Then::GoOn })
    }

    fn answer(
        &mut self,
        request: &Request,
        status: u16,
        headers: &[(String, String)],
        body: &[u8],
    ) -> io::Result<()> {
        let mut bytes = format!("HTTP/1.1 {status} Scripted\r\n").into_bytes();
        for (name, value) in headers {
            write!(bytes, "{name}: {value}\r\n")?;
        }
        let has_length =
            headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        if !has_length && status != 204 && status != 304 {
            write!(bytes, "content-length: {}\r\n", body.len())?;
        }
        bytes.extend_from_slice(b"\r\n");
        if request.method != "HEAD" {
            bytes.extend_from_slice(body);
        }
        self.send(&bytes)
    }

    fn zeros(&mut self, length: u64) -> io::Result<()> {
        self.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n").as_bytes())?;
        let block = vec![0; 256 * 1024];
        let mut left = length;
        while left > 0 {
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
            self.send(&block[..piece])?;
            left -= piece as u64;
        }
        Ok(())
    }

    fn echo_stream(&mut self, request: &Request) -> io::Result<()> {
        self.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        let outgoing = self.incoming.stream.try_clone()?;
        let stop = self.stop;
        let mut result = Ok(());
        self.incoming.body(Framing::of_request(&request.headers), &mut |piece| {
            let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
            chunk.extend_from_slice(piece);
            chunk.extend_from_slice(b"\r\n");
            if result.is_ok() {
                result = send(&outgoing, &chunk, stop);
            }
        })?;
        result?;
        self.send(b"0\r\n\r\n")
    }

    fn upgrade(&mut self, request: &Request) -> io::Result<()> {
        let protocol = request.headers.get("upgrade").unwrap_or("websocket");
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade";
        self.send(format!("{head}\r\nupgrade: {protocol}\r\n\r\n").as_bytes())?;
        loop {
            let piece = self.incoming.some()?;
            if piece.is_empty() {
                return Ok(());
            }
            self.send(&piece)?;
        }
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        send(&self.incoming.stream, bytes, self.stop)
    }
}

/// Sends all of it, unless the run stops.
fn send(mut socket: &Socket, mut bytes: &[u8], stop: &Stop) -> io::Result<()> {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(sent) => bytes = &bytes[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !stop.is_set() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
