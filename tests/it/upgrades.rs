//! Which requests become tunnels.

use crate::support::{
    Authority, Client, Config, Lb, Origin, Reply, Response, SOON, TlsClient, eventually,
    h2_origin::H2Origin, lb::server, request, tally,
};
use rustix::process::Signal;
use std::time::{Duration, Instant};

const WEBSOCKET: [&str; 2] = ["Connection: Upgrade", "Upgrade: websocket"];

/// A backend that upgrades whatever asks it to.
fn willing(name: &str) -> Origin {
    Origin::scripted(name, |request| {
        if request.headers.has("upgrade") { Reply::Upgrade } else { Reply::text("plain") }
    })
}

fn in_front_of(origins: &[&Origin], route: &str) -> Lb {
    let backends: Vec<String> = origins.iter().map(|origin| origin.entry()).collect();
    Config::pool(&backends, "health_check: off\nejection: { consecutive_failures: 1 }")
        .and(&format!("routes: [{{ pool: app{route} }}]"))
        .access_log()
        .start()
}

fn ask(client: &mut Client, fields: &[&str]) -> Response {
    client.ask(request("GET", "/", fields, b""))
}

#[track_caller]
fn assert_plain(lb: &Lb, origin: &Origin, fields: &[&str]) {
    let (before, accepted) = (origin.count(), origin.accepted());
    let mut client = lb.client();
    for _ in 0..2 {
        let response = ask(&mut client, fields);
        assert_eq!((response.status, response.text().as_str()), (200, "plain"), "{fields:?}");
        assert!(!response.headers.lists("connection", "close"), "{fields:?}: {response:?}");
        let seen = origin.last_request().headers;
        assert!(!seen.has("upgrade") && !seen.lists("connection", "upgrade"), "{seen:?}");
    }
    assert_eq!(origin.count() - before, 2, "{fields:?}");
    assert!(origin.accepted() - accepted <= 1, "{fields:?} takes connections of its own");
}

#[track_caller]
fn assert_tunnel(lb: &Lb, protocol: &str) {
    let mut client = lb.client();
    let upgrade = format!("Upgrade: {protocol}");
    let response = ask(&mut client, &["Connection: keep-alive, Upgrade", &upgrade]);
    assert_eq!(response.status, 101, "{protocol}: {response:?}");
    assert!(response.headers.lists("connection", "upgrade"), "{response:?}");
    let answered = response.headers.get("upgrade").map(str::to_ascii_lowercase);
    assert_eq!(answered, Some(protocol.to_ascii_lowercase()));
    for message in [vec![0x81, 0x00], vec![0xff; 100_000], b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        client.send(&message);
        assert_eq!(client.exactly(message.len()), message);
    }
    client.half_close();
    assert!(client.is_closed(), "{protocol}");
}

#[test]
fn what_is_no_upgrade_is_an_ordinary_request() {
    let (a, b) = (willing("a"), willing("b"));
    let lb = in_front_of(&[&a, &b], "");
    let mut client = lb.client();
    for _ in 0..4 {
        // Half of an upgrade: with it a client could have had every backend ejected.
        assert_eq!(ask(&mut client, &["Upgrade: websocket"]).status, 200);
    }
    assert_eq!((a.count(), b.count()), (2, 2));
    assert!(lb.wait_for_entries(4).iter().all(|entry| entry["tries"] == 1));
    drop(b);

    let origin = willing("app-1");
    let lb = in_front_of(&[&origin], "");
    for fields in [
        &["Upgrade: websocket"][..],
        &["Connection: upgrade"],
        &["Connection: upgrade", "Upgrade: foo"],
        &["Connection: upgrade", "Upgrade: H2C"],
        &["Connection: upgrade", "Upgrade: h2c, x"],
        &["Connection: upgrade", "Upgrade: websocket, foo"],
        &["Connection: upgrade", "Upgrade: websocket", "Upgrade: foo"],
        &["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"],
    ] {
        assert_plain(&lb, &origin, fields);
    }
    assert_tunnel(&lb, "websocket");
    assert_tunnel(&lb, "WebSocket");
    let mut old = lb.client();
    old.send("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(old.response().status, 200);
}

#[test]
fn a_route_says_which_protocols_its_requests_may_change_to() {
    let origin = willing("app-1");
    let lb = in_front_of(&[&origin], ", allow_upgrade: []");
    assert_plain(&lb, &origin, &["Connection: upgrade", "Upgrade: websocket"]);

    let lb = in_front_of(&[&origin], ", allow_upgrade: [websocket, My-Proto, other/1.2]");
    for protocol in ["websocket", "my-proto", "My-Proto", "other/1.2"] {
        assert_tunnel(&lb, protocol);
        let seen = origin.last_request().headers;
        assert_eq!(seen.get("upgrade"), Some(protocol));
        assert!(seen.lists("connection", "upgrade"), "{seen:?}");
    }
    assert_plain(&lb, &origin, &["Connection: upgrade", "Upgrade: other"]);
    assert_plain(&lb, &origin, &["Connection: upgrade", "Upgrade: other/1.3"]);

    let lb = in_front_of(&[&origin], ", allow_upgrade: [my-proto]");
    assert_tunnel(&lb, "my-proto");
    assert_plain(&lb, &origin, &["Connection: upgrade", "Upgrade: websocket"]);
}

#[test]
fn a_route_decides_by_the_request_that_it_gets() {
    let origin = willing("app-1");
    let lb = Config::pool(&[origin.entry()], "health_check: off")
        .and("routes:\n  - { match: { path: /no }, pool: app, allow_upgrade: [] }\n  - pool: app")
        .start();
    let fields = ["Connection: upgrade", "Upgrade: websocket"];
    let mut client = lb.client();
    assert_eq!(client.ask(request("GET", "/no", &fields, b"")).text(), "plain");
    assert_eq!(client.ask(request("GET", "/", &fields, b"")).status, 101);
}

#[test]
fn a_pool_of_http2_takes_no_upgrades_and_keeps_the_client() {
    let origin = H2Origin::named("app-1");
    let lb = Config::pool(&[origin.entry()], "health_check: off\nprotocol: http2").start();
    let mut client = lb.client();
    for _ in 0..2 {
        let response = ask(&mut client, &["Connection: upgrade", "Upgrade: websocket"]);
        assert_eq!(response.status, 200);
        assert!(!response.headers.lists("connection", "close"), "{response:?}");
    }
}

#[test]
fn the_connection_of_a_declined_upgrade_is_not_used_again() {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&[&origin], "");
    for number in 1..=3 {
        let fields = ["Connection: upgrade", "Upgrade: websocket"];
        assert_eq!(ask(&mut lb.client(), &fields).text(), "app-1");
        assert_eq!(origin.accepted(), number);
    }
    eventually("they are closed", || origin.open() == 0);
}

/// Opens a tunnel on this connection, and says through which backend it goes.
#[track_caller]
fn open(client: &mut Client) -> String {
    let response = ask(client, &WEBSOCKET);
    assert_eq!(response.status, 101, "{response:?}");
    response.backend()
}

#[test]
fn a_tunnel_is_load_for_as_long_as_it_is_open() {
    for policy in ["least_connections", "p2c"] {
        let (a, b) = (willing("a"), willing("b"));
        let keys = format!("health_check: off\nbalance: {policy}");
        let lb = Config::pool(&[a.entry(), b.entry()], &keys).access_log().start();
        let mut tunnel = lb.client();
        let busy = open(&mut tunnel);
        let mut client = lb.client();
        let mut served_by =
            |count| -> Vec<String> { (0..count).map(|_| client.get("/").backend()).collect() };
        let idle = if busy == "a" { "b" } else { "a" };
        assert_eq!(served_by(8), [idle; 8], "{policy}: {busy} has a tunnel, the other nothing");
        drop(tunnel);
        lb.wait_for_entries(9);
        assert_eq!(tally(&served_by(40)).len(), 2, "{policy}: both have nothing");
    }
}

#[test]
fn a_tunnel_takes_a_place_on_its_backend() {
    let origin = willing("app-1");
    let keys = "health_check: off\nlimits: { connections_per_backend: 1 }";
    let lb = Config::pool(&[origin.entry()], keys).access_log().start();
    let mut tunnel = lb.client();
    open(&mut tunnel);
    assert_eq!(lb.get("/").status, 503);
    assert_eq!(ask(&mut lb.client(), &WEBSOCKET).status, 503);
    drop(tunnel);
    lb.wait_for_entries(3);
    assert_eq!(lb.get("/").status, 200);
}

/// A tunnel in the clear and one in TLS, through a process that has so long to drain.
fn two_tunnels(origin: &Origin, drain_timeout: &str) -> (Lb, [Client; 2]) {
    let authority = Authority::new("authority");
    let listeners = "listeners:\n  web: { address: \"@WEB@\" }\n  tls:\n    address: \"@2@\"\n    \
                     tls: { certificates: [{ cert: a.pem, key: a.key }] }\n";
    let lb = Config::pool(&[origin.entry()], "health_check: off")
        .and(listeners)
        .certificate("a", &authority.server(&["a.example"]))
        .and(&server(&format!("drain_timeout: {drain_timeout}")))
        .access_log()
        .start();
    let tls = TlsClient::new(&authority);
    let mut clients = [lb.client(), Client::connect_tls(&lb.extra(2), &tls, "a.example")];
    for client in &mut clients {
        open(client);
    }
    (lb, clients)
}

#[test]
fn tunnels_are_closed_in_order_when_drain_timeout_is_over() {
    let origin = willing("app-1");
    let (mut lb, mut clients) = two_tunnels(&origin, "1s");
    let began = Instant::now();
    lb.signal(Signal::TERM);
    lb.wait_for_line("draining: 2 connections are open");
    eventually("nobody else gets in", || lb.web().connect().is_err());
    for client in &mut clients {
        client.send("still here");
        assert_eq!(client.exactly(10), b"still here");
    }
    for client in &mut clients {
        assert_eq!(client.until_the_end().expect("an end that is said"), b"");
    }
    let took = began.elapsed();
    assert!(took > Duration::from_millis(950) && took < Duration::from_secs(4), "{took:?}");
    assert_eq!(lb.program.wait_for_exit(SOON).expect("it exits").code(), Some(0));
    lb.wait_for_line("drain_timeout is over: 2 connections are cut off");
    eventually("the backend's side is closed as well", || origin.open() == 0);
    let entries = lb.wait_for_entries(2);
    assert!(entries.iter().all(|it| it["status"] == 101 && it["reason"] == "ok"), "{entries:?}");
}

#[test]
fn a_drain_is_over_with_the_last_tunnel() {
    let origin = willing("app-1");
    let (mut lb, clients) = two_tunnels(&origin, "30s");
    lb.signal(Signal::TERM);
    lb.wait_for_line("draining: 2 connections are open");
    lb.program.assert_running();
    drop(clients);
    assert_eq!(lb.program.wait_for_exit(SOON).expect("it exits").code(), Some(0));
    assert_eq!(lb.lines_with("drain_timeout is over"), 0);
}
