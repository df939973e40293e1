//! Heads that are refused, and how.

use super::{both, reasons, start};
use crate::support::{
    Lb, Origin,
    h2::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, Frame, Frames, GOAWAY, H2, HEADERS,
        RST_STREAM, asking, fields, request,
    },
};
use h2::Reason;

#[test]
fn bad_requests_are_answered_and_logged_and_the_connection_goes_on() {
    let origin = Origin::named("app-1");
    let limits = "limits: { header_bytes: 2KiB, headers: 8, uri_bytes: 200B }";
    let lb = both(&origin, limits).start();
    let client = H2::connect(&lb.web());
    let long_path = format!("/{}", "x".repeat(200));
    let long_value = "x".repeat(2040);
    let huge_value = "x".repeat(3900);
    let cases = [
        (400, asking("GET", "/").header("host", "other.example")),
        (400, asking("GET", "/%00")),
        (400, asking("GET", "/../../etc")),
        (400, asking("POST", "/").header("content-length", "0").header("content-length", "0")),
        (405, asking("TRACE", "/")),
        (414, asking("GET", &long_path)),
        (431, asking("GET", "/").header("x", &long_value)),
        (431, asking("GET", "/").header("x", &huge_value)),
        (431, (0..8).fold(asking("GET", "/"), |head, at| head.header(format!("x-{at}"), "y"))),
    ];
    let count = cases.len();
    for (at, (status, head)) in cases.into_iter().enumerate() {
        let shown = format!("{head:?}");
        let mut stream = client.begin(head.body(()).unwrap(), true);
        let answer = stream.head().expect(&shown);
        assert_eq!(answer.status(), status, "{shown}");
        assert!(answer.headers().contains_key("x-request-id"), "{shown}");
        assert_eq!(answer.headers().contains_key("allow"), status == 405, "{shown}");
        let entry = &lb.wait_for_entries(at + 1)[at];
        assert_eq!((&entry["status"], &entry["reason"]), (&status.into(), &"bad_request".into()));
        assert_eq!(entry["protocol"], "HTTP/2.0", "{shown}");
    }
    assert_eq!(origin.count(), 0);
    assert_eq!(client.get("/fine").status, 200);
    assert_eq!(lb.wait_for_entries(count + 1)[count]["path"], "/fine");
}

#[test]
fn what_is_refused_is_answered_in_the_form_that_it_asks_for() {
    let origin = Origin::named("app-1");
    let lb = start(&origin);
    let client = H2::connect(&lb.web());
    let bad =
        asking("GET", "/").header("host", "other.example").header("accept", "application/json");
    let answer = client.ask(bad.body(()).unwrap(), b"").unwrap();
    assert_eq!(answer.status, 400);
    assert_eq!(answer.field("content-type"), "application/json");
    let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(said["error"], "bad_request");
    assert_eq!(lb.wait_for_entries(1)[0]["bytes_out"], answer.body.len());
}

#[test]
fn connect_is_refused() {
    let origin = Origin::named("app-1");
    let lb = start(&origin);
    let mut client = Frames::connect(&lb.web());
    let connect = fields(&[(":method", "CONNECT"), (":authority", "a.example:80")]);
    client.send(HEADERS, END_HEADERS, 1, &connect);
    let head = client.until(|frame| frame.kind == HEADERS).unwrap();
    assert_eq!(head.stream, 1);
    let entry = &lb.wait_for_entries(1)[0];
    assert_eq!((&entry["status"], &entry["method"]), (&405.into(), &"CONNECT".into()));
    assert_eq!(origin.accepted(), 0);
}

/// What becomes of a request whose head is this block.
fn end_of(lb: &Lb, block: &[u8], data: &[&[u8]]) -> Frame {
    let mut client = Frames::connect(&lb.web());
    let flags = if data.is_empty() { END_HEADERS | END_STREAM } else { END_HEADERS };
    client.send(HEADERS, flags, 1, block);
    for (at, piece) in data.iter().enumerate() {
        let flags = if at + 1 == data.len() { END_STREAM } else { 0 };
        client.send(DATA, flags, 1, piece);
    }
    client
        .until(|frame| matches!(frame.kind, RST_STREAM | GOAWAY) || frame.ends_stream())
        .expect("an end")
}

#[test]
fn malformed_messages_are_stream_errors() {
    let origin = Origin::named("app-1");
    let lb = start(&origin);
    let pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    let late =
        [(":method", "GET"), ("x", "y"), (":scheme", "http"), (":authority", "a"), (":path", "/")];
    let with = |field: (&'static str, &'static str)| {
        let mut all = pseudo.to_vec();
        all.push(field);
        fields(&all)
    };
    let without = |name: &str| {
        fields(&pseudo.iter().copied().filter(|(field, _)| *field != name).collect::<Vec<_>>())
    };
    let cases = [
        ("connection", with(("connection", "close"))),
        ("keep-alive", with(("keep-alive", "1"))),
        ("transfer-encoding", with(("transfer-encoding", "chunked"))),
        ("upgrade", with(("upgrade", "websocket"))),
        ("proxy-connection", with(("proxy-connection", "close"))),
        ("te", with(("te", "gzip"))),
        ("upper case", with(("X-Upper", "1"))),
        ("NUL", with(("x", "a\0b"))),
        ("CR", with(("x", "a\rb"))),
        ("LF", with(("x", "a\nb"))),
        ("order", fields(&late)),
        ("twice", with((":path", "/"))),
        ("unknown pseudo-header field", with((":protocol", "websocket"))),
        ("status", with((":status", "200"))),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no path", without(":path")),
        ("empty path", {
            let mut all = pseudo.to_vec();
            all[3] = (":path", "");
            fields(&all)
        }),
        ("content-length", with(("content-length", "+1"))),
    ];
    for (what, block) in cases {
        let end = end_of(&lb, &block, &[]);
        assert!(matches!(end.kind, RST_STREAM | GOAWAY), "{what}: {end:?}");
        assert!(
            matches!(end.reason(), Reason::PROTOCOL_ERROR | Reason::COMPRESSION_ERROR),
            "{what}: {end:?}"
        );
    }
    assert_eq!(origin.count(), 0);
    assert_eq!(H2::connect(&lb.web()).get("/").status, 200);
}

#[test]
fn a_body_is_as_long_as_it_says() {
    let origin = Origin::named("app-1");
    let lb = start(&origin);
    let head = request("POST", "/", &[("content-length", "4")]);
    for data in [&[&b"too"[..]][..], &[b"too", b"long"], &[b"too ", b"", b"l"], &[b""]] {
        let end = end_of(&lb, &head, data);
        assert_eq!((end.kind, end.reason()), (RST_STREAM, Reason::PROTOCOL_ERROR), "{data:?}");
    }
    assert!(origin.requests().iter().all(|request| request.body.len() < 4));
    assert_ne!(end_of(&lb, &head, &[b"ri", b"", b"ght"[..2].as_ref()]).kind, RST_STREAM);
}

#[test]
fn a_path_in_absolute_form_is_refused() {
    let origin = Origin::named("app-1");
    let lb = start(&origin);
    for path in ["http://b.example/", "b.example/", "*", "//b.example"] {
        end_of(&lb, &request("GET", path, &[]), &[]);
    }
    // Only a path with an empty segment: it names no host.
    let seen = origin.only_request();
    assert_eq!(
        (seen.target.as_str(), seen.headers.get("host")),
        ("//b.example", Some("test.example"))
    );
}

#[test]
fn host_stands_for_a_missing_authority() {
    let origin = Origin::named("app-1");
    let lb = start(&origin);
    let bare = [(":method", "GET"), (":scheme", "http"), (":path", "/")];
    let mut with_host = bare.to_vec();
    with_host.push(("host", "from.example"));
    assert_ne!(end_of(&lb, &fields(&with_host), &[]).kind, RST_STREAM);
    assert_eq!(origin.only_request().headers.get("host"), Some("from.example"));
    assert_eq!(reasons(&lb, 1), ["ok"]);
    end_of(&lb, &fields(&bare), &[]);
    assert_eq!(reasons(&lb, 2), ["ok", "bad_request"]);
}

#[test]
fn pieces_of_a_cookie_are_one_to_the_backend() {
    let origin = Origin::named("app-1");
    let lb = start(&origin);
    let crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
    end_of(&lb, &request("GET", "/", &crumbs), &[]);
    assert_eq!(origin.only_request().headers.all("cookie"), ["a=1; b=2; c=3"]);
}

#[test]
fn a_fragment_is_cut_off_before_anyone_sees_it() {
    let origin = Origin::named("app-1");
    let lb = start(&origin);
    end_of(&lb, &request("GET", "/a#/../secret", &[]), &[]);
    assert_eq!(origin.only_request().target, "/a");
    assert_eq!(lb.wait_for_entries(1)[0]["path"], "/a");
}

#[test]
fn trailers_of_a_request_end_its_body() {
    let origin = Origin::named("app-1");
    let lb = start(&origin);
    let mut client = Frames::connect(&lb.web());
    client.send(HEADERS, END_HEADERS, 1, &request("POST", "/", &[]));
    client.send(DATA, 0, 1, b"body");
    client.send(HEADERS, END_HEADERS | END_STREAM, 1, &fields(&[("x-sum", "1")]));
    assert_ne!(client.end_of(1).kind, RST_STREAM);
    let seen = origin.only_request();
    assert_eq!(seen.body, b"body");
    assert!(!seen.headers.has("x-sum"), "{seen:?}");
}

#[test]
fn what_never_comes_again_takes_no_place_in_the_table_of_a_client() {
    // A field that is never indexed (RFC 7541 section 6.2.3), with the name x-request-id in full.
    const NEVER_INDEXED: &[u8] = b"\x10\x89\xf2\xb5\x85\xed\x69\x50\x95\x8d\x27";
    let origin = Origin::named("app-1");
    let lb = start(&origin);
    let mut client = Frames::connect(&lb.web());
    for stream in [1, 3, 5] {
        client.get(stream, "/");
        let head = client.until(|frame| frame.kind == HEADERS).expect("a head");
        let found = head.payload.windows(NEVER_INDEXED.len()).any(|piece| piece == NEVER_INDEXED);
        assert!(found, "on stream {stream}: {:x?}", head.payload);
        client.end_of(stream);
    }
}

#[test]
fn a_head_in_many_pieces_is_one_head() {
    let origin = Origin::named("app-1");
    let lb = start(&origin);
    let mut client = Frames::connect(&lb.web());
    let block = request("GET", "/pieces", &[("x", "y")]);
    client.send(HEADERS, END_STREAM, 1, &block[..10]);
    client.send(CONTINUATION, 0, 1, &block[10..20]);
    client.send(CONTINUATION, END_HEADERS, 1, &block[20..]);
    assert_ne!(client.end_of(1).kind, RST_STREAM);
    assert_eq!(origin.only_request().target, "/pieces");
}

#[test]
fn a_head_far_beyond_the_limit_costs_no_memory() {
    let origin = Origin::named("app-1");
    let lb = start(&origin);
    assert_eq!(H2::connect(&lb.web()).get("/").status, 200);
    let before = lb.program.memory("VmRSS");
    // One entry of the table, then referred to many times: 4 KB each for one byte.
    let mut block = request("GET", "/", &[]);
    block.extend([0x40, 1, b'x', 0x7f, 0x80 + 33, 0x1e]);
    block.resize(block.len() + 4000, b'y');
    block.extend(vec![0xbe; 10_000]);
    for _ in 0..20 {
        let mut client = Frames::connect(&lb.web());
        client.send(HEADERS, END_HEADERS | END_STREAM, 1, &block);
        client
            .until(|frame| matches!(frame.kind, RST_STREAM | GOAWAY) || frame.ends_stream())
            .expect("an end");
    }
    let grown = lb.program.memory("VmRSS").saturating_sub(before);
    assert!(grown < 16 << 20, "grown by {grown} bytes");
    assert_eq!(H2::connect(&lb.web()).get("/").status, 200);
}
