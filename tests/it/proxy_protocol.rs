//! The PROXY protocol: whose connection it is, as a proxy in front says.

use crate::support::{
    Address, Authority, Client, Config, Lb, Origin, Raw, Reply, SOON, TlsClient, eventually,
    hello::client_hello, lb::server, request, tally,
};
use rustix::process::Signal;
use std::{
    collections::BTreeSet,
    io::Write as _,
    thread,
    time::{Duration, Instant},
};

const UNCHECKED: &str = "health_check: off";

/// A header of version 2 with this command, family and content.
fn v2(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x20 | command, family], &length, content].concat()
}

fn inet(client: [u8; 4]) -> Vec<u8> {
    [&client[..], &[192, 0, 2, 80], &4711_u16.to_be_bytes(), &80_u16.to_be_bytes()].concat()
}

fn v2_from(client: [u8; 4]) -> Vec<u8> {
    v2(1, 0x11, &inet(client))
}

fn v1_from(client: [u8; 4]) -> Vec<u8> {
    let [a, b, c, d] = client;
    format!("PROXY TCP4 {a}.{b}.{c}.{d} 192.0.2.80 4711 80\r\n").into_bytes()
}

const CLIENT: [u8; 4] = [198, 51, 100, 7];

fn http(listener: &str, origin: &Origin) -> Lb {
    let probe = listener.contains("accept") && !listener.contains("from");
    let config = Config::pool(&[origin.entry()], UNCHECKED).listener(listener).access_log();
    let config = config.and(&server("log_level: debug"));
    let lb = if probe { config.start() } else { config.without_probe().start() };
    lb.wait_for_line("listening on");
    lb
}

fn tcp(listener: &str, backends: &[&Raw], pool: &str) -> Lb {
    let backends: Vec<_> = backends.iter().map(|backend| backend.entry()).collect();
    let lb = Config::pool(&backends, &format!("{UNCHECKED}\n{pool}"))
        .listener(&format!("protocol: tcp\npool: app\n{listener}"))
        .access_log()
        .and(&server("log_level: debug"))
        .without_probe()
        .start();
    lb.wait_for_line("listening on");
    lb
}

fn get(path: &str) -> Vec<u8> {
    request("GET", path, &[], b"")
}

#[test]
fn the_address_in_the_header_is_the_clients_everywhere() {
    let origin = Origin::named("app-1");
    let lb = http("proxy_protocol: require", &origin);
    for (at, header) in [v1_from(CLIENT), v2_from(CLIENT)].into_iter().enumerate() {
        let mut client = lb.client();
        client.send(&header);
        for _ in 0..2 {
            assert_eq!(client.get("/").status, 200);
            let seen = origin.last_request().headers;
            assert_eq!(seen.get("x-forwarded-for"), Some("198.51.100.7"));
            assert_eq!(seen.get("x-real-ip"), Some("198.51.100.7"));
        }
        let entry = lb.wait_for_entries(2 * at + 2).remove(2 * at + 1);
        assert_eq!(entry["client_ip"], "198.51.100.7");
    }
    let mut client = lb.client();
    client.send(b"PROXY TCP6 2001:db8::7 2001:db8::80 1 2\r\n");
    client.get("/");
    assert_eq!(origin.last_request().headers.get("x-forwarded-for"), Some("2001:db8::7"));
    assert_eq!(lb.wait_for_entries(5)[4]["client_ip"], "2001:db8::7");
    // What is refused before it is a request is logged with it too.
    let mut client = lb.client();
    client.send([&v1_from(CLIENT)[..], b"nonsense\r\n\r\n"].concat());
    assert_eq!(client.response().status, 400);
    assert_eq!(lb.wait_for_entries(6)[5]["client_ip"], "198.51.100.7");
}

#[test]
fn trusted_proxies_are_those_of_the_header() {
    let origin = Origin::named("app-1");
    let lb = Config::pool(&[origin.entry()], UNCHECKED)
        .listener("proxy_protocol: require")
        .and("trusted_proxies: [10.0.0.0/8]")
        .without_probe()
        .start();
    lb.wait_for_line("listening on");
    let claim = "X-Forwarded-For: 203.0.113.9";
    for (from, seen_for, real) in [
        ([10, 1, 1, 1], "203.0.113.9, 10.1.1.1", "203.0.113.9"),
        (CLIENT, "198.51.100.7", "198.51.100.7"),
    ] {
        let mut client = lb.client();
        client.send(v2_from(from));
        client.ask(request("GET", "/", &[claim], b""));
        let seen = origin.last_request().headers;
        assert_eq!(seen.get("x-forwarded-for"), Some(seen_for));
        assert_eq!(seen.get("x-real-ip"), Some(real));
    }
}

#[test]
fn the_address_in_the_header_is_what_is_hashed() {
    let origins: Vec<_> = ["a", "b", "c"].map(Origin::named).into_iter().collect();
    let backends: Vec<_> = origins.iter().map(Origin::entry).collect();
    let keys = format!("{UNCHECKED}\nbalance: maglev");
    let listener = "proxy_protocol: require";
    let lb = Config::pool(&backends, &keys).listener(listener).without_probe().start();
    lb.wait_for_line("listening on");
    let mut names = Vec::new();
    for host in 0..20 {
        let ask = || {
            let mut client = lb.client();
            client.send(v1_from([198, 51, 100, host]));
            client.get("/").text()
        };
        let name = ask();
        assert!((0..3).all(|_| ask() == name), "198.51.100.{host} has one backend");
        names.push(name);
    }
    assert!(tally(&names).len() > 1, "{names:?}");
}

#[test]
fn the_address_in_the_header_is_what_filters_go_by() {
    let origin = Origin::named("app-1");
    let lb = crate::support::filtered(
        &[&origin],
        UNCHECKED,
        &[
            "ip_filter: { deny: [198.51.100.7] }",
            "rate_limit: { requests: 1, per: 1h, key: client_ip }",
            "request_headers: { set: { x-client: \"${client_ip}\" } }",
        ],
    )
    .listener("proxy_protocol: require")
    .without_probe()
    .start();
    lb.wait_for_line("listening on");
    let ask = |host: u8| {
        let mut client = lb.client();
        client.send(v2_from([198, 51, 100, host]));
        client.get("/").status
    };
    assert_eq!((ask(7), origin.count()), (403, 0), "who is denied is who the header names");
    assert_eq!((ask(8), ask(8)), (200, 429), "one client, on two connections");
    assert_eq!(ask(9), 200, "and another, from where the first one came");
    assert_eq!(origin.last_request().headers.get("x-client"), Some("198.51.100.9"));
}

#[test]
fn a_header_that_names_nobody_leaves_the_connections_own_address() {
    let origin = Origin::named("app-1");
    let lb = http("proxy_protocol: require", &origin);
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN ffff:: ffff:: 1 2\r\n".to_vec(),
        v2(0, 0x00, &[]),
        v2(0, 0x11, &inet(CLIENT)),
        v2(1, 0x00, &[]),
        v2(1, 0x31, &[0; 216]),
    ] {
        let mut client = lb.client();
        client.send(&header);
        assert_eq!(client.get("/").status, 200, "{header:?}");
        assert_eq!(origin.last_request().headers.get("x-forwarded-for"), Some("127.0.0.1"));
    }
}

#[test]
fn a_header_may_come_in_pieces_and_together_with_what_follows() {
    let origin = Origin::named("app-1");
    let extended =
        v2(1, 0x11, &[&inet(CLIENT)[..], &[0x04, 0, 3, 1, 2, 3], &[0xee; 1000]].concat());
    for mode in ["require", "accept"] {
        let lb = http(&format!("proxy_protocol: {mode}"), &origin);
        for header in [v1_from(CLIENT), v2_from(CLIENT), extended.clone()] {
            let mut client = lb.client();
            client.send([&header[..], &get("/together")].concat());
            assert_eq!(client.response().status, 200, "{mode}");
            let mut client = lb.client();
            for byte in [&header[..64.min(header.len())], &[]].concat() {
                client.send([byte]);
                // The balancer may see each byte by itself; it must see all of them either way.
                thread::park_timeout(Duration::from_micros(500));
            }
            client.send(&header[64.min(header.len())..]);
            assert_eq!(client.get("/pieces").status, 200, "{mode}");
            assert_eq!(origin.last_request().headers.get("x-real-ip"), Some("198.51.100.7"));
        }
    }
}

/// The connection is closed without an answer, and nothing of it reaches a backend.
#[track_caller]
fn assert_closed(lb: &Lb, origin: &Origin, bytes: &[u8], why: &str, times: usize) {
    let mut client = lb.client();
    let _ = client.try_send(bytes);
    let answered = client.rest();
    assert!(answered.is_empty(), "{}", String::from_utf8_lossy(&answered));
    eventually(why, || lb.lines_with(why) == times);
    assert_eq!(origin.count(), 0);
}

#[test]
fn where_a_header_is_required_nothing_else_gets_in() {
    let origin = Origin::named("app-1");
    let lb = http("proxy_protocol: require", &origin);
    for (at, bytes) in [
        &get("/")[..],
        b"\r\nGET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"PROXY /x HTTP/1.1\r\n\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        assert_closed(
            &lb,
            &origin,
            bytes,
            "is closed: it does not begin with a PROXY header",
            at + 1,
        );
    }
    let line = lb.wait_for_line("does not begin");
    assert!(line.contains(" DEBUG "), "{line}");
    assert!(line.contains("listener web: a connection from 127.0.0.1:"), "{line}");
    assert_eq!(lb.entries().len(), 0);
}

#[test]
fn what_is_no_good_header_is_closed() {
    let origin = Origin::named("app-1");
    let with_request = |header: &[u8]| [header, &get("/")].concat();
    for mode in ["require", "accept"] {
        let lb = http(&format!("proxy_protocol: {mode}"), &origin);
        let malformed = [
            with_request(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n"),
            with_request(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n"),
            with_request(b"PROXY TCP4 nobody\r\n"),
            with_request(&v2(7, 0x11, &inet(CLIENT))),
            with_request(&v2(1, 0x11, &[1, 2, 3])),
            with_request(&v2(1, 0x77, &inet(CLIENT))),
        ];
        for (at, bytes) in malformed.iter().enumerate() {
            assert_closed(&lb, &origin, bytes, "its PROXY header is malformed", at + 1);
        }
        let long = [
            [b"PROXY UNKNOWN ", &[b'x'; 100][..], b"\r\n", &get("/")].concat(),
            with_request(&v2(1, 0x11, &[&inet(CLIENT)[..], &[0; 4096]].concat())),
        ];
        for (at, bytes) in long.iter().enumerate() {
            assert_closed(&lb, &origin, bytes, "its PROXY header is too long", at + 1);
        }
        assert_eq!(lb.entries().len(), 0, "{:?}", lb.entries());
    }
}

#[test]
fn a_header_that_is_late_is_not_waited_for() {
    let origin = Origin::named("app-1");
    let lb = http("proxy_protocol: require\ntimeouts: { header: 300ms }", &origin);
    let late = "did not come in time";
    for (at, length) in [0, 1, 8, 20].into_iter().enumerate() {
        let began = Instant::now();
        assert_closed(&lb, &origin, &v2_from(CLIENT)[..length], late, at + 1);
        assert!(began.elapsed() > Duration::from_millis(250), "{:?}", began.elapsed());
    }
    // However slowly it comes: the time is for the whole.
    let mut client = lb.client();
    let began = Instant::now();
    let header = v1_from(CLIENT);
    let trickled = header.iter().take_while(|byte| {
        thread::park_timeout(Duration::from_millis(20));
        client.try_send(&[**byte]).is_ok()
    });
    assert!(trickled.count() < header.len(), "{:?}", began.elapsed());
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_client_that_ends_in_its_header_is_gone() {
    let origin = Origin::named("app-1");
    let lb = http("proxy_protocol: require", &origin);
    for (at, length) in [0, 1, 8, 20].into_iter().enumerate() {
        let mut client = lb.client();
        client.send(&v2_from(CLIENT)[..length]);
        client.half_close();
        assert!(client.is_closed());
        let why = "it ended before its PROXY header did";
        eventually(why, || lb.lines_with(why) == at + 1);
    }
    assert_eq!(origin.count(), 0);
}

#[test]
fn where_a_header_is_accepted_a_request_without_one_is_served_at_once() {
    let origin = Origin::named("app-1");
    let lb = http("proxy_protocol: accept", &origin);
    let began = Instant::now();
    for method in ["GET", "POST", "PUT", "PATCH", "PROPFIND"] {
        let mut client = lb.client();
        // Each of these letters might yet become a header.
        for byte in request(method, "/", &[], b"") {
            client.send([byte]);
        }
        assert_eq!(client.response().status, 200, "{method}");
        assert_eq!(client.get("/again").status, 200);
        assert_eq!(origin.last_request().headers.get("x-forwarded-for"), Some("127.0.0.1"));
    }
    let mut client = lb.client();
    client.send([b"\r\n\r\n", &get("/")[..]].concat());
    assert_eq!(client.response().status, 200, "empty lines are no header");
    // The shortest thing that is a request, of a client that then waits.
    let mut client = lb.client();
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().status, 200);
    // A method may be called PROXY, but what follows it is no header.
    let mut client = lb.client();
    client.send("PROXY /x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 200);
    assert_eq!(origin.last_request().method, "PROXY");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn where_a_header_is_accepted_silence_ends_with_the_header_timeout() {
    let origin = Origin::named("app-1");
    let lb = http("proxy_protocol: accept\ntimeouts: { header: 300ms }", &origin);
    let began = Instant::now();
    assert!(lb.client().is_closed());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // What may be a request as well as a header is a request that is too slow.
    let mut client = lb.client();
    client.send("P");
    assert_eq!(client.response().status, 408);
    assert_closed(&lb, &origin, b"PROXY TCP4 1", "did not come in time", 2);
}

#[test]
fn who_is_not_allowed_to_send_a_header_is_closed() {
    let origin = Origin::named("app-1");
    for mode in ["require", "accept"] {
        let keys = format!("proxy_protocol: {mode}\nproxy_protocol_from: [10.0.0.0/8, 127.0.0.9]");
        let lb = http(&keys, &origin);
        let with_header = [&v1_from(CLIENT)[..], &get("/")].concat();
        for (at, bytes) in [&with_header[..], &get("/")].into_iter().enumerate() {
            assert_closed(
                &lb,
                &origin,
                bytes,
                "its address is none of proxy_protocol_from",
                at + 1,
            );
        }
    }
    let keys = "proxy_protocol: require\nproxy_protocol_from: [10.0.0.0/8, 127.0.0.0/8]";
    let lb = http(keys, &origin);
    let mut client = lb.client();
    client.send(v1_from(CLIENT));
    assert_eq!(client.get("/").status, 200);
}

#[test]
fn a_unix_socket_may_have_a_header_too() {
    let origin = Origin::named("app-1");
    let listeners =
        "listeners:\n  web: { address: \"unix:@DIR@/lb.sock\", proxy_protocol: require }\n";
    let lb = Config::pool(&[origin.entry()], UNCHECKED).and(listeners).without_probe().start();
    lb.wait_for_line("listening on");
    let mut client = Client::connect(&Address::Unix(lb.directory().join("lb.sock")));
    for byte in v2_from(CLIENT) {
        client.send([byte]);
    }
    assert_eq!(client.get("/").status, 200);
    assert_eq!(origin.last_request().headers.get("x-forwarded-for"), Some("198.51.100.7"));
}

#[test]
fn one_too_many_is_told_so_before_its_header() {
    let origin = Origin::scripted("app-1", |_| Reply::text("hi"));
    let lb = http("proxy_protocol: require\nmax_connections: 1", &origin);
    let mut first = lb.client();
    first.send(v1_from(CLIENT));
    assert_eq!(first.get("/").status, 200);
    let mut second = lb.client();
    let _ = second.try_send(&v1_from(CLIENT));
    assert_eq!(second.response().status, 503);
}

#[test]
fn one_too_many_is_told_so_behind_its_header_and_tls() {
    let origin = Origin::named("app-1");
    let authority = Authority::new("authority");
    let tls = TlsClient::new(&authority);
    let start = |from: &str| {
        let keys = format!(
            "max_connections: 1\nproxy_protocol: require\nproxy_protocol_from: [{from}]\n\
             tls: {{ certificates: [{{ cert: a.pem, key: a.key }}] }}"
        );
        let config = Config::pool(&[origin.entry()], UNCHECKED).listener(&keys).access_log();
        let config = config.certificate("a", &authority.server(&["a.example"]));
        let lb = config.and(&server("log_level: debug")).without_probe().start();
        lb.wait_for_line("listening on");
        lb
    };
    let connect = |lb: &Lb| {
        let socket = lb.web().connect().unwrap();
        (&socket).write_all(&v1_from(CLIENT)).unwrap();
        Client::tls_over(socket, &tls, "a.example").unwrap()
    };
    let lb = start("127.0.0.1");
    let mut first = connect(&lb);
    assert_eq!(first.get("/").status, 200);
    let mut second = connect(&lb);
    let _ = second.try_send(&get("/"));
    assert_eq!(second.response().status, 503);
    let entry = &lb.wait_for_entries(2)[1];
    assert_eq!(
        (&entry["reason"], &entry["client_ip"]),
        (&"overloaded".into(), &"198.51.100.7".into())
    );

    let lb = start("10.0.0.0/8, 127.0.0.1");
    let mut first = connect(&lb);
    assert_eq!(first.get("/").status, 200);
    // One that says nothing, and one that may not say anything, are let go.
    let mut silent = lb.client();
    assert!(silent.is_closed());
    let elsewhere =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    elsewhere.bind(&std::net::SocketAddr::from(([127, 0, 0, 9], 0)).into()).unwrap();
    let Address::Tcp(web) = lb.web() else { panic!("no TCP address") };
    elsewhere.connect(&web.into()).unwrap();
    let mut elsewhere = Client::over(elsewhere).unwrap();
    assert!(elsewhere.is_closed());
    lb.wait_for_line("its address is none of proxy_protocol_from");
    assert_eq!(first.get("/").status, 200);
}

#[test]
fn a_drain_does_not_wait_for_a_header() {
    let origin = Origin::named("app-1");
    let mut lb = http("proxy_protocol: require", &origin);
    let _silent = lb.client();
    let mut begun = lb.client();
    begun.send(b"PROXY TCP4");
    let mut whole = lb.client();
    whole.send(v1_from(CLIENT));
    assert_eq!(whole.get("/").status, 200);
    let signalled = Instant::now();
    lb.signal(Signal::TERM);
    assert!(lb.program.wait_for_exit(SOON).is_some());
    assert!(signalled.elapsed() < Duration::from_secs(3), "{:?}", signalled.elapsed());
}

#[test]
fn a_stream_comes_without_its_header() {
    let backend = Raw::named("a");
    for mode in ["require", "accept"] {
        let lb = tcp(&format!("proxy_protocol: {mode}"), &[&backend], "");
        for (at, header) in [v1_from(CLIENT), v2_from(CLIENT)].into_iter().enumerate() {
            let mut client = lb.client();
            for byte in &header {
                client.send([*byte]);
            }
            client.send("question");
            client.half_close();
            let mut served = backend.accept();
            assert_eq!(served.rest(), b"question");
            served.send("answer");
            drop(served);
            assert_eq!(client.rest(), b"answer");
            let entry = lb.wait_for_entries(at + 1).remove(at);
            assert_eq!(entry["client_ip"], "198.51.100.7");
            assert_eq!(entry["bytes_in"].as_u64(), Some(8), "the header is none of the stream");
        }
    }
}

#[test]
fn a_stream_is_hashed_by_the_address_in_its_header() {
    let backends = [&Raw::named("a"), &Raw::named("b"), &Raw::named("c")];
    let lb = tcp("proxy_protocol: require", &backends, "balance: ring_hash");
    let mut seen = BTreeSet::new();
    for host in 0..16 {
        let mut of_this_client = BTreeSet::new();
        for _ in 0..2 {
            let mut client = lb.client();
            client.send(v2_from([198, 51, 100, host]));
            eventually("it arrives", || {
                let arrived = backends.iter().position(|backend| !backend.is_left_alone());
                of_this_client.extend(arrived);
                arrived.is_some()
            });
        }
        assert_eq!(of_this_client.len(), 1, "198.51.100.{host}");
        seen.extend(of_this_client);
    }
    assert!(seen.len() > 1);
}

#[test]
fn a_stream_without_a_header_is_closed_or_served_as_it_is() {
    let backend = Raw::named("a");
    let lb = tcp("proxy_protocol: require", &[&backend], "");
    let long = v2(1, 0x11, &[&inet(CLIENT)[..], &[0; 4096]].concat());
    for bytes in [&b"hello"[..], b"PROXY TCP4 x\r\n", &v2(9, 9, &[]), &[b'x'; 200], &long] {
        let mut client = lb.client();
        let _ = client.try_send(bytes);
        assert!(client.is_closed(), "{bytes:?}");
    }
    assert!(backend.is_left_alone());
    assert_eq!(lb.entries().len(), 0);

    let lb = tcp("proxy_protocol: require\nproxy_protocol_from: [10.0.0.0/8]", &[&backend], "");
    let mut client = lb.client();
    let _ = client.try_send(&v2_from(CLIENT));
    assert!(client.is_closed());
    lb.wait_for_line("its address is none of proxy_protocol_from");
    assert!(backend.is_left_alone());

    let lb = tcp("proxy_protocol: accept", &[&backend], "");
    let began = Instant::now();
    for bytes in [&b"hello"[..], b"\r\nhello", b"PROXY!", b"PING\r\n"] {
        let mut client = lb.client();
        client.send(bytes);
        assert_eq!(backend.accept().exactly(bytes.len()), bytes);
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(lb.wait_for_entries(4)[3]["client_ip"], "127.0.0.1");
}

#[test]
fn a_stream_that_may_have_a_header_waits_for_it_no_longer_than_it_must() {
    let backend = Raw::named("a");
    let lb = tcp("proxy_protocol: accept\ntimeouts: { header: 300ms }", &[&backend], "");
    // A client that waits for the server to speak first, and some that say what might be a header.
    for said in [&b""[..], b"P", b"PROXY", b"\r\n"] {
        let mut client = lb.client();
        client.send(said);
        let mut served = backend.accept();
        served.send("220 ready\r\n");
        assert_eq!(client.exactly(11), b"220 ready\r\n");
        assert_eq!(served.exactly(said.len()), said);
        client.send("EHLO\r\n");
        assert_eq!(served.exactly(6), b"EHLO\r\n");
    }
    // And one that has surely begun one.
    let mut client = lb.client();
    client.send("PROXY TCP4 1.2.3.4");
    assert!(client.is_closed());
    assert!(backend.is_left_alone());
    // One that says little and that it was all.
    let mut client = lb.client();
    client.send("P");
    client.half_close();
    assert_eq!(backend.accept().rest(), b"P");
}

#[test]
fn the_hello_comes_after_the_header() {
    let (a, b) = (Raw::named("a"), Raw::named("b"));
    let pools = format!(
        "pools:\n  pool_a: {{ backends: [{}], {UNCHECKED} }}\n  pool_b: {{ backends: [{}], {UNCHECKED} }}\n",
        a.entry(),
        b.entry()
    );
    let lb = Config::new(pools)
        .listener(
            "protocol: tcp\nproxy_protocol: require\nsni: { a.example.com: pool_a }\npool: pool_b",
        )
        .access_log()
        .without_probe()
        .start();
    lb.wait_for_line("listening on");
    for (name, backend) in [("a.example.com", &a), ("b.example.com", &b)] {
        let hello = client_hello(Some(name));
        let mut client = lb.client();
        client.send([&v2_from(CLIENT)[..], &hello].concat());
        assert_eq!(backend.accept().exactly(hello.len()), hello, "{name}");
    }
    assert!(lb.wait_for_entries(2).iter().all(|entry| entry["client_ip"] == "198.51.100.7"));
}

/// What a backend is told of this connection.
fn expected(version: &str, client: &Client, server: &Address) -> Vec<u8> {
    let (from, port) = (client.local_address(), server.port());
    if version == "v1" {
        let (client_port, ip) = (from.port(), from.ip());
        return format!("PROXY TCP4 {ip} 127.0.0.1 {client_port} {port}\r\n").into_bytes();
    }
    let ends = [[127, 0, 0, 1], [127, 0, 0, 1]].concat();
    v2(1, 0x11, &[&ends[..], &from.port().to_be_bytes(), &port.to_be_bytes()].concat())
}

fn announcing(version: &str, origin: &Origin, more: &str) -> Config {
    let keys = format!("{UNCHECKED}\nproxy_protocol: {version}\n{more}");
    Config::pool(&[origin.entry()], &keys).access_log()
}

#[test]
fn a_backend_is_told_whose_connection_it_is() {
    for version in ["v1", "v2"] {
        let origin = Origin::named("app-1").behind_a_proxy();
        let lb = announcing(version, &origin, "").start();
        let mut client = lb.client();
        for path in ["/1", "/2", "/3"] {
            assert_eq!(client.get(path).text(), "app-1", "{version}");
            let told = origin.last_request().preamble;
            assert_eq!(told, expected(version, &client, &lb.web()), "{version}");
        }
        assert_eq!(origin.connections(), 1, "a client's requests share its connection");
        let mut other = lb.client();
        assert_eq!(other.get("/").status, 200);
        assert_eq!(origin.last_request().preamble, expected(version, &other, &lb.web()));
        assert_eq!(origin.connections(), 2);
    }
}

#[test]
fn off_is_no_header() {
    let origin = Origin::named("app-1");
    for off in ["off", "false"] {
        let lb = announcing(off, &origin, "").start();
        assert_eq!(lb.get("/").text(), "app-1");
    }
}

#[test]
fn no_request_goes_over_another_clients_connection() {
    let origin = Origin::named("app-1").behind_a_proxy();
    let lb =
        announcing("v1", &origin, "").listener("proxy_protocol: require").without_probe().start();
    lb.wait_for_line("listening on");
    thread::scope(|scope| {
        for host in 1..=8_u8 {
            let lb = &lb;
            scope.spawn(move || {
                for _ in 0..5 {
                    let mut client = lb.client();
                    client.send(v1_from([198, 51, 100, host]));
                    for _ in 0..5 {
                        assert_eq!(client.get("/").status, 200);
                    }
                }
            });
        }
    });
    let seen = origin.requests();
    assert_eq!(seen.len(), 200);
    for request in seen {
        let real = request.headers.get("x-real-ip").unwrap();
        // The destination is the one that the client's proxy has told us.
        let told = format!("PROXY TCP4 {real} 192.0.2.80 4711 80\r\n");
        assert_eq!(String::from_utf8_lossy(&request.preamble), told);
    }
}

#[test]
fn a_client_without_an_address_is_nobody() {
    for (version, nobody) in [("v1", b"PROXY UNKNOWN\r\n".to_vec()), ("v2", v2(0, 0, &[]))] {
        let origin = Origin::named("app-1").behind_a_proxy();
        let listeners = "listeners:\n  web: { address: \"unix:@DIR@/lb.sock\" }\n";
        let lb = announcing(version, &origin, "").and(listeners).without_probe().start();
        lb.wait_for_line("listening on");
        let mut client = Client::connect(&Address::Unix(lb.directory().join("lb.sock")));
        assert_eq!(client.get("/").status, 200);
        assert_eq!(origin.only_request().preamble, nobody, "{version}");
    }
}

#[test]
fn a_header_goes_to_unix_sockets_and_ahead_of_upgrades_too() {
    let origin = Origin::unix("app-1").behind_a_proxy();
    let lb = announcing("v2", &origin, "").start();
    let mut client = lb.client();
    assert_eq!(client.get("/").text(), "app-1");
    assert_eq!(origin.last_request().preamble, expected("v2", &client, &lb.web()));
    origin.script(|_| Reply::Upgrade);
    let mut client = lb.client();
    let fields = ["Connection: upgrade", "Upgrade: websocket"];
    assert_eq!(client.ask(request("GET", "/", &fields, b"")).status, 101);
    client.send("ping");
    assert_eq!(client.exactly(4), b"ping");
    assert_eq!(origin.last_request().preamble, expected("v2", &client, &lb.web()));
}

#[test]
fn a_retry_has_its_header_as_well() {
    let gone = crate::support::Reserved::new();
    let origin = Origin::named("app-1").behind_a_proxy();
    let keys = format!("{UNCHECKED}\nproxy_protocol: v1");
    let gone_entry = format!("\"{}\"", gone.address());
    let lb = Config::pool(&[gone_entry, origin.entry()], &keys).access_log().start();
    for _ in 0..3 {
        let mut client = lb.client();
        assert_eq!(client.ask(request("POST", "/", &[], b"body")).status, 200);
        assert_eq!(origin.last_request().preamble, expected("v1", &client, &lb.web()));
    }
    assert!(lb.wait_for_entries(3).iter().any(|entry| entry["tries"].as_u64() == Some(2)));
}

#[test]
fn connecting_to_be_announced_has_its_timeout_and_its_reasons() {
    let full = crate::support::FullBacklog::new();
    let gone = crate::support::Reserved::new();
    for (address, status) in [(full.address().clone(), 504), (gone.address(), 502)] {
        let keys = format!("{UNCHECKED}\nproxy_protocol: v2\ntimeouts: {{ connect: 200ms }}");
        let lb = Config::pool(&[format!("\"{address}\"")], &keys).start();
        let began = Instant::now();
        assert_eq!(lb.get("/").status, status);
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
}

#[test]
fn a_try_on_an_announced_connection_has_its_time_too() {
    let origin = Origin::scripted("app-1", |_| Reply::Hang).behind_a_proxy();
    let lb = announcing("v2", &origin, "retry: { per_try_timeout: 200ms }").start();
    let began = Instant::now();
    assert_eq!(lb.get("/").status, 504);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[test]
fn checks_say_that_they_are_nobodys() {
    for (version, nobody) in [("v1", b"PROXY UNKNOWN\r\n".to_vec()), ("v2", v2(0, 0, &[]))] {
        let origin = Origin::named("app-1").behind_a_proxy();
        let check = "health_check: { http: { path: /health } }";
        let keys = format!("{check}\nproxy_protocol: {version}");
        let lb = Config::pool(&[origin.entry()], &keys).start();
        assert_eq!(lb.get("/").text(), "app-1", "its check has made it healthy");
        let probe = &origin.requests()[0];
        assert_eq!((probe.path(), &probe.preamble), ("/health", &nobody));

        let backend = Raw::named("raw");
        let keys = format!("health_check: {{ tcp: {{}} }}\nproxy_protocol: {version}");
        let _lb = Config::pool(&[backend.entry()], &keys).without_probe().start();
        assert_eq!(backend.accept().rest(), nobody, "{version}");
    }
    // What is on another port is another server.
    let (origin, checked) = (Origin::named("app-1").behind_a_proxy(), Origin::named("health"));
    let check = format!("health_check: {{ http: {{ port: {} }} }}", checked.port());
    let lb = Config::pool(&[origin.entry()], &format!("{check}\nproxy_protocol: v2")).start();
    assert_eq!(lb.get("/").text(), "app-1");
    assert_eq!(checked.only_request().preamble, b"");
}

#[test]
fn a_stream_has_its_header_ahead() {
    for version in ["v1", "v2"] {
        let backend = Raw::named("a");
        let lb = tcp("", &[&backend], &format!("proxy_protocol: {version}"));
        let mut client = lb.client();
        // It is there before the client has said anything: the backend may be the first to speak.
        let mut served = backend.accept();
        let told = expected(version, &client, &lb.web());
        assert_eq!(served.exactly(told.len()), told);
        served.send("220 ready");
        assert_eq!(client.exactly(9), b"220 ready");
        client.send("hello");
        drop(client);
        assert_eq!(served.rest(), b"hello");
        drop(served);
        let entry = lb.wait_for_entries(1).remove(0);
        assert_eq!(entry["bytes_in"].as_u64(), Some(5), "the header is none of the stream");
    }
}

#[test]
fn a_stream_that_goes_elsewhere_has_its_header_again() {
    let (a, b) = (Raw::named("a"), Raw::named("b"));
    let lb = tcp("proxy_protocol: require", &[&a, &b], "proxy_protocol: v2");
    let mut client = lb.client();
    client.send(v1_from(CLIENT));
    let told = v2_from(CLIENT);
    for round in 0..2 {
        let mut served = None;
        eventually("it arrives", || {
            let look = |raw: &Raw| raw.accept_within(Duration::ZERO);
            served = look(&a).or_else(|| look(&b));
            served.is_some()
        });
        let mut served = served.unwrap();
        assert_eq!(served.exactly(told.len()), told);
        if round == 0 {
            served.reset();
        } else {
            client.send("hello");
            assert_eq!(served.exactly(5), b"hello");
        }
    }
}
