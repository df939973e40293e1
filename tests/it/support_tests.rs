//! The tools tested against each other, so that a failure elsewhere is the balancer's.

use crate::support::{
    Address, Client, FullBacklog, Load, Origin, Reply, Reserved, eventually, get, request,
};
use std::time::{Duration, Instant};

#[test]
fn an_origin_answers_and_remembers() {
    let origin = Origin::named("app-1");
    let mut client = Client::connect(origin.address());
    let response = client.ask(request("POST", "/x?y=1", &["X-A: 1"], b"body"));
    assert_eq!((response.status, response.text()), (200, "app-1".to_owned()));
    assert!(response.complete);
    let seen = origin.only_request();
    assert_eq!((seen.method.as_str(), seen.target.as_str(), seen.path()), ("POST", "/x?y=1", "/x"));
    assert_eq!(seen.headers.get("x-a"), Some("1"));
    assert_eq!((seen.body.as_slice(), seen.complete), (b"body".as_slice(), true));
    assert_eq!(client.get("/again").status, 200);
    assert_eq!((origin.accepted(), origin.connections(), origin.count()), (1, 1, 2));
}

#[test]
fn an_origin_reads_chunks_and_streams_them_back() {
    let origin = Origin::scripted("app-1", |_| Reply::EchoStream);
    Client::connect(origin.address()).has_pieces_echoed();
}

#[test]
fn a_stopped_origin_resets_refuses_and_comes_back_on_its_port() {
    let origin = Origin::scripted("app-1", |request| match request.path() {
        "/hang" => Reply::Hang,
        _ => Reply::text("here"),
    });
    let mut client = Client::connect(origin.address());
    client.send(request("GET", "/hang", &[], b""));
    eventually("the request arrives", || origin.count() == 1);
    origin.stop();
    assert!(client.try_response().is_err());
    assert!(origin.address().connect().is_err());
    origin.start();
    assert_eq!(get(origin.address(), "/").text(), "here");
}

#[test]
fn an_origin_stops_while_it_waits_and_while_it_sends() {
    let origin = Origin::scripted("app-1", |request| match request.path() {
        "/zeros" => Reply::Zeros(1 << 40),
        _ => Reply::text("late").after(Duration::from_secs(60)),
    });
    let clients = ["/zeros", "/late"].map(|path| {
        let mut client = Client::connect(origin.address());
        client.send(request("GET", path, &[], b""));
        client
    });
    eventually("both requests arrive", || origin.count() == 2);
    let asked = Instant::now();
    origin.stop();
    assert!(asked.elapsed() < Duration::from_secs(2));
    drop(clients);
}

#[test]
fn the_replies_that_break_off_do() {
    let origin = Origin::scripted("app-1", |request| match request.path() {
        "/close" => Reply::close(),
        "/reset" => Reply::reset(),
        "/short" => {
            Reply::RawThenClose(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf".to_vec())
        }
        _ => Reply::RawThenClose(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n".to_vec(),
        ),
    });
    for path in ["/close", "/reset"] {
        let mut client = Client::connect(origin.address());
        client.send(request("GET", path, &[], b""));
        assert!(client.try_response().is_err(), "{path}");
    }
    for path in ["/short", "/chunked"] {
        let response = get(origin.address(), path);
        assert_eq!((response.text().as_str(), response.complete), ("half", false), "{path}");
    }
}

#[test]
fn a_unix_origin_answers() {
    let origin = Origin::unix("app-1");
    assert_eq!(get(origin.address(), "/").text(), "app-1");
    origin.stop();
    assert!(origin.address().connect().is_err());
    origin.start();
    assert_eq!(get(origin.address(), "/").text(), "app-1");
}

#[test]
fn an_upgraded_connection_passes_bytes_both_ways() {
    let origin = Origin::scripted("app-1", |_| Reply::Upgrade);
    let mut client = Client::connect(origin.address());
    client.send(request("GET", "/", &["Connection: upgrade", "Upgrade: websocket"], b""));
    assert_eq!(client.response().status, 101);
    client.send([0, 1, 2, 255]);
    assert_eq!(client.exactly(4), [0, 1, 2, 255]);
    client.half_close();
    assert!(client.is_closed());
}

#[test]
fn a_reserved_port_refuses_and_can_be_listened_on() {
    let reserved = Reserved::new();
    assert!(reserved.address().connect().is_err());
    let Address::Tcp(address) = reserved.address() else { unreachable!() };
    let listener = std::net::TcpListener::bind(address).unwrap();
    assert!(reserved.address().connect().is_ok());
    drop(listener);
}

#[test]
fn a_full_backlog_neither_accepts_nor_refuses() {
    let full = FullBacklog::new();
    let error = full.address().connect_within(Duration::from_millis(50)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn load_counts_what_succeeds_and_what_fails() {
    let origin = Origin::named("app-1");
    let load = Load::start(origin.address(), 8, "/");
    load.wait_for_more(200);
    origin.stop();
    load.wait_for_more(8);
    let (done, _, failures) = load.stop();
    assert!(done >= 200);
    assert!(failures.len() >= 8, "{failures:?}");
}
