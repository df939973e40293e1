//! How often the heap is asked for memory while a small request passes: ours beside a Pingora proxy
//! that only names a backend. The difference is ours.
//!
//! A program of its own, as it counts for the whole process. Client and backend are threads that need
//! no memory for a request, so that everything counted is the proxies'.
//! With `HEAP_PROFILE=1`, what was allocated where goes to `dhat-heap.json`, for dhat's viewer.

use async_trait::async_trait;
use pingora::{
    apps::ServerApp as _,
    prelude::{HttpPeer, Result, Session},
    protocols::l4::stream::Stream,
    proxy::{ProxyHttp, http_proxy},
    server::configuration::ServerConf,
};
use pingora_lb::{App, testing::Balancer};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

#[global_allocator]
static COUNTING: dhat::Alloc = dhat::Alloc;

/// What is asked and answered before anything counts: buffers, pools and queues grow at first.
const WARM_UP: u64 = 50;
/// Where a read has to wait, there are some more, so the round with the fewest counts.
const ROUNDS: usize = 8;
const REQUESTS: u64 = 40;

/// How many allocations a request may cost beyond those of a Pingora proxy that does nothing. It takes eight
/// fewer than that: what ours needs is less than what is saved by having no second map of names beside
/// the fields of a message. Only to be lowered, and above that by some for machines that have it wait
/// more often.
const ALLOWED: f64 = 0.0;

const REQUEST: &[u8] = b"GET /some/page.html HTTP/1.1\r\nHost: www.example.com\r\n\
    User-Agent: client\r\nAccept: */*\r\n\r\n";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";

#[test]
fn a_small_request_allocates_little_beyond_pingora() {
    let profiler = dhat::Profiler::builder().trim_backtraces(Some(30));
    let in_detail = std::env::var_os("HEAP_PROFILE").is_some();
    let _profiler = if in_detail { profiler.build() } else { profiler.testing().build() };
    let backend = start_backend();
    let minimal = per_request(start_minimal(backend));
    let app = App::new();
    let balancer = Balancer::start(
        &app,
        &format!(
            "listeners: {{ web: {{ address: 127.0.0.1:80 }} }}\n\
             pools: {{ app: {{ backends: [{backend}], health_check: off }} }}\n"
        ),
    );
    let ours = per_request(balancer.expect("it starts").address("web"));
    let beyond = ours - minimal;
    println!("{minimal:.2} allocations in Pingora, {ours:.2} in all, so {beyond:.2} of ours");
    assert!(minimal > 1.0, "Pingora needs some: they are not counted");
    assert!(beyond <= ALLOWED, "{beyond:.2} allocations a request are ours, at most {ALLOWED}");
}

/// Allocations for each of many requests on one connection.
fn per_request(proxy: SocketAddr) -> f64 {
    let mut connection = TcpStream::connect(proxy).expect("it listens");
    connection.set_nodelay(true).expect("a socket");
    (0..WARM_UP).for_each(|_| ask(&mut connection));
    let mut round = || {
        let before = allocations();
        (0..REQUESTS).for_each(|_| ask(&mut connection));
        (allocations() - before) as f64 / REQUESTS as f64
    };
    (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
}

fn allocations() -> u64 {
    dhat::HeapStats::get().total_blocks
}

fn ask(connection: &mut TcpStream) {
    connection.write_all(REQUEST).expect("the proxy reads");
    let (mut answer, mut length) = ([0; 2048], 0);
    while !answer[..length].ends_with(b"\r\n\r\nhello") {
        let read = connection.read(&mut answer[length..]).expect("the proxy answers");
        assert!(read > 0, "no whole answer: {}", String::from_utf8_lossy(&answer[..length]));
        length += read;
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer[..length]));
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

/// Answers whatever it is asked, for as long as the process lives.
fn start_backend() -> SocketAddr {
    let (listener, address) = listen();
    thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.expect("a connection");
            thread::spawn(move || {
                let (mut request, mut length) = ([0; 2048], 0);
                while let Ok(read @ 1..) = connection.read(&mut request[length..]) {
                    length += read;
                    if request[..length].ends_with(b"\r\n\r\n") {
                        length = 0;
                        connection.write_all(ANSWER).expect("the proxy reads");
                    }
                }
            });
        }
    });
    address
}

/// The least that can be a proxy with Pingora.
struct Minimal(SocketAddr);

#[async_trait]
impl ProxyHttp for Minimal {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}

fn start_minimal(backend: SocketAddr) -> SocketAddr {
    let (listener, address) = listen();
    listener.set_nonblocking(true).expect("a socket");
    let proxy = Arc::new(http_proxy(&Arc::new(ServerConf::default()), Minimal(backend)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    thread::spawn(move || {
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let (_keep, shutdown) = tokio::sync::watch::channel(false);
            loop {
                let (connection, _) = listener.accept().await.expect("a connection");
                let (proxy, shutdown) = (proxy.clone(), shutdown.clone());
                tokio::spawn(async move {
                    let mut stream = Some(Box::new(Stream::from(connection)) as _);
                    while let Some(connection) = stream {
                        stream = proxy.process_new(connection, &shutdown).await;
                    }
                });
            }
        });
    });
    address
}
