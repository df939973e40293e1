//! What the balancer does to a request and its response on their way.

use crate::support::{Client, Config, Lb, Origin, Program, Reply, eventually, filtered, request};
use std::{thread, time::Duration};

const UNCHECKED: &str = "health_check: off";

fn in_front_of(origin: &Origin) -> Lb {
    Config::pool(&[origin.entry()], UNCHECKED).start()
}

#[test]
fn a_backend_learns_who_asked() {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&origin);
    let response = lb.client().ask(request("GET", "/a?b=c", &["Host: www.example.com"], b""));
    let seen = origin.only_request();
    assert_eq!(seen.target, "/a?b=c");
    assert_eq!(seen.headers.get("host"), Some("www.example.com"));
    assert_eq!(seen.headers.get("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.headers.get("x-real-ip"), Some("127.0.0.1"));
    assert_eq!(seen.headers.get("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.headers.get("x-forwarded-host"), Some("www.example.com"));
    let id = seen.headers.get("x-request-id").expect("a request id");
    assert!(id.len() >= 16, "{id}");
    assert_eq!(response.headers.get("x-request-id"), Some(id));
    assert_eq!(response.headers.get("x-backend-server"), Some("app-1"));
}

#[test]
fn request_ids_differ() {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&origin);
    let mut client = lb.client();
    let ids: std::collections::BTreeSet<String> =
        (0..20).map(|_| client.get("/").headers.get("x-request-id").unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 20);
}

const CLAIMS: [&str; 9] = [
    "X-Forwarded-For: 203.0.113.7",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: public.example.com",
    "X-Real-IP: 203.0.113.7",
    "X-Request-Id: from-outside-0123456789",
    "X-Forwarded-Port: 443",
    "X-Forwarded-Prefix: /admin",
    "X-Forwarded-Server: inside",
    "X-Forwarded-Ssl: on",
];

#[test]
fn what_an_untrusted_client_claims_is_replaced() {
    let origin = Origin::named("app-1");
    let lb =
        Config::pool(&[origin.entry()], UNCHECKED).and("trusted_proxies: [10.0.0.0/8]").start();
    lb.client().ask(request("GET", "/", &CLAIMS, b""));
    let seen = origin.only_request().headers;
    assert_eq!(seen.get("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.get("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.get("x-forwarded-host"), Some("test.example"));
    assert_eq!(seen.get("x-real-ip"), Some("127.0.0.1"));
    assert_ne!(seen.get("x-request-id"), Some("from-outside-0123456789"));
    for gone in ["port", "prefix", "server", "ssl"] {
        assert!(!seen.has(&format!("x-forwarded-{gone}")), "{gone} in {seen:?}");
    }
}

#[test]
fn what_the_configuration_says_was_forwarded_is_passed_on() {
    let origin = Origin::named("app-1");
    let filter = "request_headers: { set: { x-forwarded-prefix: /app } }";
    let lb = filtered(&[&origin], "", &[filter]).start();
    lb.client().ask(request("GET", "/", &CLAIMS, b""));
    let seen = origin.only_request().headers;
    assert_eq!(seen.get("x-forwarded-prefix"), Some("/app"));
    assert!(!seen.has("x-forwarded-port"), "{seen:?}");
}

#[test]
fn what_a_trusted_proxy_says_is_believed_and_added_to() {
    let origin = Origin::named("app-1");
    let lb = Config::pool(&[origin.entry()], UNCHECKED)
        .and("trusted_proxies: [127.0.0.0/8]")
        .access_log()
        .start();
    let response = lb.client().ask(request("GET", "/", &CLAIMS, b""));
    let seen = origin.only_request().headers;
    assert_eq!(seen.get("x-forwarded-for"), Some("203.0.113.7, 127.0.0.1"));
    assert_eq!(seen.get("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.get("x-forwarded-host"), Some("public.example.com"));
    assert_eq!(seen.get("x-real-ip"), Some("203.0.113.7"));
    assert_eq!(seen.get("x-request-id"), Some("from-outside-0123456789"));
    assert_eq!(response.headers.get("x-request-id"), Some("from-outside-0123456789"));
    assert_eq!(lb.wait_for_entries(1)[0]["client_ip"], "203.0.113.7");
}

#[test]
fn only_the_part_that_trusted_proxies_vouch_for_is_believed() {
    let origin = Origin::named("app-1");
    let lb = Config::pool(&[origin.entry()], UNCHECKED)
        .and("trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]")
        .start();
    // The client made the first entry up; the second was added by a proxy of ours at 10.1.1.1.
    let claim = "X-Forwarded-For: 192.0.2.66, 203.0.113.7, 10.1.1.1";
    lb.client().ask(request("GET", "/", &[claim], b""));
    assert_eq!(origin.only_request().headers.get("x-real-ip"), Some("203.0.113.7"));
}

#[test]
fn what_a_client_writes_hides_nothing_that_a_trusted_proxy_appends() {
    let origin = Origin::named("app-1");
    let lb =
        Config::pool(&[origin.entry()], UNCHECKED).and("trusted_proxies: [127.0.0.0/8]").start();
    for claim in ["X-Forwarded-For: \u{e9}, 203.0.113.7", "X-Forwarded-For: ,\u{1f600},203.0.113.7"]
    {
        lb.client().ask(request("GET", "/", &[claim], b""));
        let seen = origin.last_request().headers;
        assert_eq!(seen.get("x-real-ip"), Some("203.0.113.7"), "{claim}");
    }
}

#[test]
fn the_host_a_backend_sees_is_as_configured() {
    let origin = Origin::named("app-1");
    let address = origin.address().to_string();
    let cases = [
        ("", "www.example.com"),
        ("host_header: preserve", "www.example.com"),
        ("host_header: backend", address.as_str()),
        ("host_header: app.internal", "app.internal"),
    ];
    for (key, expected) in cases {
        let lb = Config::pool(&[origin.entry()], &format!("{UNCHECKED}\n{key}")).start();
        lb.client().ask(request("GET", "/", &["Host: www.example.com"], b""));
        let seen = origin.last_request().headers;
        assert_eq!(seen.get("host"), Some(expected), "{key:?}");
        assert_eq!(seen.get("x-forwarded-host"), Some("www.example.com"), "{key:?}");
    }
}

#[test]
fn the_backend_is_not_revealed_when_told_so() {
    let origin = Origin::scripted("app-1", |_| Reply::text("hi").with("X-Backend-Server", "mine"));
    let lb = in_front_of(&origin);
    assert_eq!(lb.get("/").backend(), "app-1");
    let keys = format!("{UNCHECKED}\nreveal_backend: false");
    let lb = Config::pool(&[origin.entry()], &keys).start();
    assert_ne!(lb.get("/").backend(), "app-1");
}

#[test]
fn hop_by_hop_fields_of_a_request_stay_behind() {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&origin);
    let fields = [
        "Connection: keep-alive, X-Drop",
        "Connection: x-drop-too",
        "X-Drop: 1",
        "X-Drop-Too: 1",
        "X-Keep: 1",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: gzip",
        "Upgrade: h2c",
    ];
    lb.client().ask(request("GET", "/", &fields, b""));
    let seen = origin.only_request().headers;
    assert_eq!(seen.get("x-keep"), Some("1"));
    for gone in ["x-drop", "x-drop-too", "keep-alive", "proxy-connection", "te", "upgrade"] {
        assert!(!seen.has(gone), "{gone} in {seen:?}");
    }
    for named in ["x-drop", "x-drop-too"] {
        assert!(!seen.lists("connection", named), "{seen:?}");
    }
}

#[test]
fn connection_cannot_remove_what_the_balancer_adds() {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&origin);
    let attack = "Connection: close, X-Forwarded-For, X-Real-IP, Host";
    let response = lb.client().ask(request("GET", "/", &[attack], b""));
    // Refusing it is as good as ignoring it.
    if response.status == 200 {
        let seen = origin.only_request().headers;
        assert_eq!(seen.get("x-forwarded-for"), Some("127.0.0.1"));
        assert_eq!(seen.get("x-real-ip"), Some("127.0.0.1"));
        assert_eq!(seen.get("host"), Some("test.example"));
    }
}

#[test]
fn hop_by_hop_fields_of_a_response_stay_behind() {
    let origin = Origin::scripted("app-1", |_| {
        Reply::text("hi")
            .with("Connection", "keep-alive, X-Secret")
            .with("X-Secret", "1")
            .with("Keep-Alive", "timeout=5")
            .with("Proxy-Connection", "keep-alive")
            .with("Upgrade", "h2c")
            .with("X-Keep", "1")
    });
    let lb = in_front_of(&origin);
    let seen = lb.get("/").headers;
    assert_eq!(seen.get("x-keep"), Some("1"));
    for gone in ["x-secret", "keep-alive", "proxy-connection", "upgrade"] {
        assert!(!seen.has(gone), "{gone} in {seen:?}");
    }
}

#[test]
fn hop_by_hop_fields_of_an_interim_response_stay_behind() {
    let origin = Origin::scripted("app-1", |_| {
        Reply::raw(
            "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\nconnection: keep-alive, x-secret\r\n\
             x-secret: 1\r\nkeep-alive: timeout=5\r\ncontent-length: 7\r\n\r\n\
             HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        )
    });
    let lb = in_front_of(&origin);
    let mut client = lb.client();
    client.send(request("GET", "/", &[], b""));
    let interim = client.head();
    assert_eq!((interim.status, interim.headers.get("link")), (103, Some("</a.css>")));
    for gone in ["connection", "x-secret", "keep-alive", "content-length"] {
        assert!(!interim.headers.has(gone), "{gone} in {:?}", interim.headers);
    }
    assert_eq!(client.response().text(), "hello");
}

#[test]
fn repeated_and_odd_fields_pass_unchanged() {
    let origin = Origin::scripted("app-1", |_| {
        Reply::text("hi").with("Set-Cookie", "a=1").with("Set-Cookie", "b=2")
    });
    let lb = in_front_of(&origin);
    let fields = ["Cookie: a=\"1\"; b=2", "X-Many: 1", "X-Many: 2", "X-Empty:"];
    let response = lb.client().ask(request("GET", "/", &fields, b""));
    assert_eq!(response.headers.all("set-cookie"), ["a=1", "b=2"]);
    let seen = origin.only_request().headers;
    assert_eq!(seen.get("cookie"), Some("a=\"1\"; b=2"));
    assert_eq!(seen.all("x-many"), ["1", "2"]);
    assert_eq!(seen.get("x-empty"), Some(""));
}

#[test]
fn names_of_fields_go_on_in_lower_case_whatever_the_protocol() {
    let origin = Origin::scripted("app-1", |_| {
        Reply::raw(
            "HTTP/1.1 200 Fine\r\nX-Of-Origin: One\r\nETAG: x\r\nContent-Length: 2\r\n\r\nhi",
        )
    });
    let lb = in_front_of(&origin);
    let response = lb.client().ask(request("GET", "/a", &["X-Of-Client: Two", "ACCEPT: */*"], b""));
    let seen = String::from_utf8(origin.only_request().raw_head).unwrap();
    for line in ["GET /a HTTP/1.1\r\n", "\r\nx-of-client: Two\r\n", "\r\naccept: */*\r\n"] {
        assert!(seen.contains(line), "{line:?} in {seen:?}");
    }
    for line in [("x-of-origin", "One"), ("etag", "x"), ("x-backend-server", "app-1")] {
        let line = (line.0.to_owned(), line.1.to_owned());
        assert!(response.headers.0.contains(&line), "{line:?} in {response:?}");
    }
}

#[test]
fn a_reason_phrase_is_passed_on() {
    let origin = Origin::scripted("app-1", |_| {
        Reply::raw("HTTP/1.1 200 Quite Fine\r\ncontent-length: 2\r\n\r\nhi")
    });
    let lb = in_front_of(&origin);
    let mut client = lb.client();
    client.send(request("GET", "/", &["Connection: close"], b""));
    let said = String::from_utf8(client.rest()).unwrap();
    assert!(said.starts_with("HTTP/1.1 200 Quite Fine\r\n"), "{said:?}");
}

#[test]
fn answers_without_a_body_leave_the_connection_usable() {
    let origin = Origin::scripted("app-1", |request| match request.path() {
        "/204" => Reply::raw("HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n"),
        "/304" => Reply::raw("HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\netag: x\r\n\r\n"),
        _ => Reply::text("hello"),
    });
    let lb = in_front_of(&origin);
    let mut client = lb.client();
    client.send(request("HEAD", "/", &[], b""));
    let head = client.response_to_head();
    assert_eq!((head.status, head.headers.get("content-length")), (200, Some("5")));
    assert_eq!(client.get("/204").status, 204);
    assert_eq!(client.get("/304").status, 304);
    assert_eq!(client.get("/").text(), "hello");
    assert_eq!(origin.connections(), 1, "the connection to the backend was reused too");
}

#[test]
fn interim_responses_do_not_disturb_the_final_one() {
    let origin = Origin::scripted("app-1", |_| {
        Reply::raw(
            "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        )
    });
    let lb = in_front_of(&origin);
    let mut client = lb.client();
    for _ in 0..2 {
        assert_eq!(client.get("/").text(), "hello");
    }
}

#[test]
fn an_http_1_0_client_gets_no_chunks_and_a_close() {
    let origin = Origin::scripted("app-1", |_| {
        Reply::raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    });
    let lb = in_front_of(&origin);
    for start in ["GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nHost: test.example\r\n\r\n"] {
        let mut client = lb.client();
        let response = client.ask(start);
        assert_eq!((response.status, response.text().as_str()), (200, "hello"));
        assert!(!response.headers.has("transfer-encoding"), "{:?}", response.headers);
        assert!(client.is_closed());
    }
}

#[test]
fn an_http_1_0_client_may_keep_its_connection() {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&origin);
    let mut client = lb.client();
    for _ in 0..2 {
        let response =
            client.ask("GET / HTTP/1.0\r\nHost: test.example\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(response.text(), "app-1");
        assert!(response.headers.lists("connection", "keep-alive"), "{:?}", response.headers);
    }
}

#[test]
fn connection_close_is_honoured() {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&origin);
    let mut client = lb.client();
    let response = client.ask(request("GET", "/", &["Connection: close"], b""));
    assert_eq!(response.text(), "app-1");
    assert!(response.headers.lists("connection", "close"), "{:?}", response.headers);
    assert!(client.is_closed());
}

#[test]
fn connections_to_a_backend_are_pooled() {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&origin);
    for _ in 0..20 {
        assert_eq!(lb.get("/").status, 200);
    }
    // A client may be faster than the way back to the pool, but not twenty times.
    assert!(origin.connections() <= 4, "{} connections", origin.connections());
}

#[test]
fn an_unused_connection_to_a_backend_is_closed_after_its_idle_time() {
    let origin = Origin::named("app-1");
    let keys = format!("{UNCHECKED}\ntimeouts: {{ idle: 200ms }}");
    let lb = Config::pool(&[origin.entry()], &keys).start();
    lb.get("/");
    assert_eq!(origin.connections(), 1);
    eventually("the pooled connection is closed", || origin.open() == 0);
}

#[test]
fn pipelined_requests_are_all_answered_in_order() {
    let origin = Origin::scripted("app-1", |request| {
        Reply::text(format!("{} {}", request.path(), String::from_utf8_lossy(&request.body)))
    });
    let lb = in_front_of(&origin);
    let mut client = lb.client();
    let mut all = request("GET", "/1", &[], b"");
    all.extend(request("POST", "/2", &[], b"body"));
    all.extend(request("POST", "/3", &["Transfer-Encoding: chunked"], b"3\r\none\r\n0\r\n\r\n"));
    all.extend(request("GET", "/4", &["Connection: close"], b""));
    client.send(all);
    // The origin's script runs before the body is there, hence its answers show the path only.
    for expected in ["/1 ", "/2 ", "/3 ", "/4 "] {
        assert_eq!(client.response().text(), expected);
    }
    assert!(client.is_closed());
    let bodies: Vec<Vec<u8>> = origin.requests().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies, [b"".to_vec(), b"body".to_vec(), b"one".to_vec(), b"".to_vec()]);
}

#[test]
fn a_client_that_half_closes_is_answered() {
    let origin = Origin::slow("app-1", Duration::from_millis(200));
    let lb = Config::pool(&[origin.entry()], UNCHECKED).access_log().start();
    let mut client = lb.client();
    client.send(request("GET", "/", &[], b""));
    client.half_close();
    assert_eq!(client.response().text(), "app-1");
    assert!(client.is_closed());
    assert_eq!(lb.wait_for_entries(1)[0]["reason"], "ok");
}

#[test]
fn a_request_that_comes_in_pieces_is_understood() {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&origin);
    let mut client = lb.client();
    for byte in request("POST", "/pieces", &[], b"body") {
        client.send([byte]);
    }
    assert_eq!(client.response().status, 200);
    let seen = origin.only_request();
    assert_eq!((seen.path(), seen.body.as_slice()), ("/pieces", b"body".as_slice()));
}

#[test]
fn expect_100_continue_is_answered_before_the_body_is_sent() {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&origin);
    let mut client = lb.client();
    for _ in 0..2 {
        client.send(request("POST", "/", &["Expect: 100-continue", "Content-Length: 4"], b""));
        assert_eq!(client.head().status, 100);
        client.send("body");
        assert_eq!(client.response().status, 200);
        assert_eq!(origin.last_request().body, b"body");
    }
}

#[test]
fn bodies_stream_both_ways_while_they_are_being_sent() {
    let origin = Origin::scripted("app-1", |_| Reply::EchoStream);
    let lb = in_front_of(&origin);
    let mut client = lb.client();
    client.send(request("POST", "/", &["Transfer-Encoding: chunked"], b"3\r\none\r\n"));
    assert_eq!(client.head().status, 200);
    assert_eq!(client.chunk(), b"one");
    client.send("3\r\ntwo\r\n");
    assert_eq!(client.chunk(), b"two");
    client.send("0\r\n\r\n");
    assert_eq!(client.chunk(), b"");
    // And the connection is good for more.
    client.send(request("POST", "/", &[], b"again"));
    let response = client.response();
    assert_eq!((response.text().as_str(), response.complete), ("again", true));
}

#[test]
fn what_a_backend_has_sent_is_not_held_back_until_there_is_more() {
    for head in ["content-length: 8", "transfer-encoding: chunked", "x-until: close"] {
        let half = if head.contains("chunked") { "4\r\nhalf\r\n" } else { "half" };
        let bytes = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{half}");
        let origin = Origin::scripted("app-1", move |_| Reply::raw(bytes.clone()));
        let lb = in_front_of(&origin);
        let mut client = lb.client();
        client.send(request("GET", "/", &[], b""));
        let response = client.head();
        assert_eq!(response.status, 200, "{head}");
        let chunked = response.headers.has("transfer-encoding");
        let half = if chunked { client.chunk() } else { client.exactly(4) };
        assert_eq!(half, b"half", "{head}");
    }
}

/// How much "much" is: what the contract says, or less where an unoptimised build would take
/// minutes over it.
fn much() -> u64 {
    if cfg!(debug_assertions) && std::env::var_os("PINGORA_LB_TEST_BIG").is_none() {
        128 << 20
    } else {
        1 << 30
    }
}

const ALLOWED_GROWTH: u64 = 16 << 20;

#[track_caller]
fn assert_memory_stayed(program: &Program, before: u64) {
    let grown = program.memory("VmHWM").saturating_sub(before);
    assert!(grown < ALLOWED_GROWTH, "resident memory grew by {} KiB", grown >> 10);
}

#[test]
fn an_upload_of_any_size_takes_little_memory() {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&origin);
    lb.get("/");
    let before = lb.program.memory("VmRSS");
    let mut client = lb.client();
    client.send(request("POST", "/up", &[&format!("Content-Length: {}", much())], b""));
    let block = vec![0; 256 << 10];
    for _ in 0..much() / block.len() as u64 {
        client.send(&block);
    }
    assert_eq!(client.response().status, 200);
    let seen = origin.last_request();
    assert_eq!((seen.body_length, seen.complete), (much(), true));
    assert_memory_stayed(&lb.program, before);
}

#[test]
fn a_download_of_any_size_takes_little_memory() {
    let origin = Origin::scripted("app-1", |request| match request.path() {
        "/down" => Reply::Zeros(much()),
        _ => Reply::text("small"),
    });
    let lb = in_front_of(&origin);
    lb.get("/");
    let before = lb.program.memory("VmRSS");
    let response = lb.get("/down");
    assert_eq!((response.body_length, response.complete), (much(), true));
    assert_memory_stayed(&lb.program, before);
}

#[test]
fn a_client_that_does_not_read_takes_little_memory() {
    let origin = Origin::scripted("app-1", |request| match request.path() {
        "/down" => Reply::Zeros(much()),
        _ => Reply::text("small"),
    });
    let lb = in_front_of(&origin);
    lb.get("/");
    let before = lb.program.memory("VmRSS");
    let mut client = lb.client();
    client.send(request("GET", "/down", &[], b""));
    assert_eq!(client.head().status, 200);
    // Meanwhile others are served, and by then the pipes in between are full.
    let mut other = lb.client();
    for _ in 0..200 {
        assert_eq!(other.get("/").text(), "small");
    }
    assert_memory_stayed(&lb.program, before);
}

fn upgrade(lb: &Lb) -> Client {
    let mut client = lb.client();
    let fields = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    let response = client.ask(request("GET", "/socket", &fields, b""));
    assert_eq!(response.status, 101);
    assert!(response.headers.lists("upgrade", "websocket"), "{:?}", response.headers);
    assert!(response.headers.lists("connection", "upgrade"), "{:?}", response.headers);
    client
}

#[test]
fn a_websocket_passes_bytes_both_ways() {
    let origin = Origin::scripted("app-1", |_| Reply::Upgrade);
    let lb = in_front_of(&origin);
    let mut client = upgrade(&lb);
    assert_eq!(origin.only_request().headers.get("upgrade"), Some("websocket"));
    for message in [vec![0x81, 0x00], vec![0xff; 100_000], b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        client.send(&message);
        assert_eq!(client.exactly(message.len()), message);
    }
    origin.stop();
    assert!(client.is_closed());
}

#[test]
fn an_idle_websocket_outlives_the_read_timeout() {
    let origin = Origin::scripted("app-1", |request| match request.path() {
        "/socket" => Reply::Upgrade,
        _ => Reply::Hang,
    });
    let times = "read: 300ms, write: 300ms, idle: 300ms";
    let keys = format!("{UNCHECKED}\ntimeouts: {{ {times} }}\nretry: {{ attempts: 0 }}");
    let listener = "timeouts: { header: 300ms, body_idle: 300ms, keepalive: 300ms, write: 300ms }";
    let lb = Config::pool(&[origin.entry()], &keys).listener(listener).access_log().start();
    let mut client = upgrade(&lb);
    client.send("before");
    assert_eq!(client.exactly(6), b"before");
    // The timeouts of other requests are the clock: idle for longer than two of them.
    for _ in 0..2 {
        assert_eq!(lb.get("/hang").status, 504);
    }
    // The wait for a 101 is one of them.
    let fields = ["Connection: Upgrade", "Upgrade: websocket"];
    assert_eq!(lb.client().ask(request("GET", "/hang/up", &fields, b"")).status, 504);
    client.send("after");
    assert_eq!(client.exactly(5), b"after");
    drop(client);
    let entries = lb.wait_for_entries(4);
    let entry = |path: &str| entries.iter().find(|entry| entry["path"] == path).unwrap();
    assert_eq!(entry("/hang/up")["reason"], "upstream_timeout");
    assert_eq!(entry("/socket")["reason"], "ok");
    assert!(entry("/socket")["upstream_ms"].as_f64().unwrap() < 300.0);
}

#[test]
fn the_end_of_a_websocket_is_no_failure() {
    let origin = Origin::scripted("app-1", |_| Reply::Upgrade);
    let lb = Config::pool(&[origin.entry()], UNCHECKED).access_log().start();
    drop(upgrade(&lb));
    upgrade(&lb).reset();
    lb.wait_for_entries(2);
    let mut client = upgrade(&lb);
    // Stopping resets the origin's connections.
    origin.stop();
    assert!(client.is_closed());
    for entry in lb.wait_for_entries(3) {
        assert_eq!((&entry["status"], &entry["reason"]), (&101.into(), &"ok".into()), "{entry}");
    }
    assert_eq!(lb.lines_with("WARN"), 0);
}

#[test]
fn an_upgrade_that_the_backend_declines_is_a_plain_answer() {
    let origin = Origin::scripted("app-1", |request| match request.path() {
        "/after" => Reply::text("after"),
        _ => Reply::text("no"),
    });
    let lb = in_front_of(&origin);
    let mut client = lb.client();
    let mut bytes = request("GET", "/socket", &["Connection: Upgrade", "Upgrade: websocket"], b"");
    bytes.extend(request("GET", "/after", &[], b""));
    client.send(bytes);
    assert_eq!(client.response().text(), "no");
    // What was pipelined behind it is an ordinary request or is dropped with the connection; it
    // does not reach the backend as the inside of a tunnel.
    if let Ok(response) = client.try_response() {
        assert_eq!(response.text(), "after");
        assert!(origin.last_request().headers.has("x-forwarded-for"));
    }
}

#[test]
fn a_client_of_http_1_0_gets_no_interim_responses() {
    let early = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
    let go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let origin = Origin::scripted("app-1", move |_| Reply::raw(format!("{early}{go_on}{answer}")));
    let lb = in_front_of(&origin);
    let mut client = lb.client();
    client.send("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx");
    let answer = String::from_utf8(client.rest()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    assert!(!origin.only_request().headers.has("expect"), "HTTP/1.0 knows no Expect");
    // One of HTTP/1.1 gets them.
    let mut client = lb.client();
    client.send(request("GET", "/", &["Connection: close"], b""));
    assert!(client.rest().starts_with(b"HTTP/1.1 103 "));
}

#[test]
fn connection_may_say_the_same_many_times() {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&origin);
    let fields = ["Connection: close"; 12];
    let response = lb.client().ask(request("GET", "/", &fields, b""));
    assert_eq!((response.status, response.text().as_str()), (200, "app-1"));
    assert!(response.headers.lists("connection", "close"), "{response:?}");
    let mut client = lb.client();
    let all = format!("Connection: {}", ["keep-alive"; 50].join(", "));
    for _ in 0..2 {
        assert_eq!(client.ask(request("GET", "/", &[&all], b"")).status, 200);
    }
}

#[test]
fn many_clients_at_once_each_get_their_own_answer() {
    let origin = Origin::scripted("app-1", |request| Reply::text(request.target.clone()));
    let lb = in_front_of(&origin);
    thread::scope(|scope| {
        for client in 0..32 {
            let lb = &lb;
            scope.spawn(move || {
                let mut connection = lb.client();
                for turn in 0..20 {
                    let path = format!("/{client}/{turn}");
                    assert_eq!(connection.get(&path).text(), path);
                }
            });
        }
    });
}
