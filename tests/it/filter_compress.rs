//! The filter `compress`: bodies compressed for clients that take them so.

use crate::support::{Client, Config, Gate, Lb, Origin, Reply, Response, filter_error, request};
use std::{fmt::Write, io::Read};

/// A balancer with one backend and this filter on its only route.
fn lb(origin: &Origin, settings: &str) -> Lb {
    let routes = format!("routes:\n  - filters: [{{ compress: {{ {settings} }} }}]\n    pool: app");
    Config::pool(&[origin.entry()], "health_check: off").and(&routes).access_log().start()
}

/// Something like a real body, with that many records.
fn records(count: usize) -> Vec<u8> {
    let record =
        |n: usize| format!("{{\"id\":{n},\"name\":\"record {}\",\"on\":true}}\n", n * 7919);
    (0..count).map(record).collect::<String>().into_bytes()
}

fn json(body: Vec<u8>) -> Reply {
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    Reply::Answer { status: 200, headers, body }
}

/// A chunked response with these chunks, as bytes; without its end if it is not to be whole.
fn chunked(chunks: &[&[u8]], whole: bool) -> Vec<u8> {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut bytes = head.as_bytes().to_vec();
    for chunk in chunks {
        bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(if whole { b"0\r\n\r\n" } else { b"" });
    bytes
}

fn ask(lb: &Lb, accept: &str) -> Response {
    lb.client().ask(accepting(accept))
}

fn accepting(accept: &str) -> Vec<u8> {
    request("GET", "/", &[&format!("Accept-Encoding: {accept}")], b"")
}

/// What a decoder makes of the bytes, and whether it found their end.
fn decoded(coding: &str, bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut decoder: Box<dyn Read> = match coding {
        "zstd" => Box::new(zstd::Decoder::new(bytes).unwrap()),
        "br" => Box::new(brotli::Decompressor::new(bytes, 4096)),
        "gzip" => Box::new(flate2::read::GzDecoder::new(bytes)),
        other => panic!("nobody asked for {other}"),
    };
    let mut body = Vec::new();
    let whole = decoder.read_to_end(&mut body).is_ok();
    (body, whole)
}

/// The response's body, which must be in this coding and whole.
#[track_caller]
fn body(response: &Response, coding: &str) -> Vec<u8> {
    assert_eq!(response.headers.get("content-encoding"), Some(coding), "{:?}", response.headers);
    assert!(response.complete, "{:?}", response.headers);
    let (body, whole) = decoded(coding, &response.body);
    assert!(whole, "{coding}");
    body
}

#[track_caller]
fn assert_plain(response: &Response, expected: &[u8]) {
    assert!(!response.headers.has("content-encoding"), "{:?}", response.headers);
    assert!(response.complete && response.body == expected, "{:?}", response.headers);
}

const CODINGS: [&str; 3] = ["zstd", "br", "gzip"];

#[test]
fn bodies_come_back_whole_whatever_frames_them() {
    let expected = records(5_000);
    let whole = expected.clone();
    let origin = Origin::scripted("a", move |request| match request.path() {
        "/length" => json(whole.clone()),
        "/chunks" => Reply::raw(chunked(&whole.chunks(10_000).collect::<Vec<_>>(), true)),
        "/small-chunks" => Reply::raw(chunked(&whole.chunks(100).collect::<Vec<_>>(), true)),
        _ => {
            let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n";
            Reply::RawThenClose([&head[..], &whole].concat())
        }
    });
    let lb = lb(&origin, "");
    for coding in CODINGS {
        let mut client = lb.client();
        for path in ["/length", "/chunks", "/small-chunks", "/close"] {
            let accept = format!("Accept-Encoding: {coding}");
            let response = client.ask(request("GET", path, &[&accept], b""));
            assert!(body(&response, coding) == expected, "{coding} {path}");
            assert!(!response.headers.has("content-length"), "{coding} {path}");
            assert_eq!(response.headers.get("transfer-encoding"), Some("chunked"));
            assert_eq!(response.headers.get("vary"), Some("Accept-Encoding"));
            assert!(response.body_length < expected.len() as u64 / 2, "{coding} {path}");
        }
    }
    // The log counts what was sent.
    let sent = lb.wait_for_entries(12)[0]["bytes_out"].as_u64().unwrap();
    assert!(sent > 100 && sent < expected.len() as u64 / 2, "{sent}");
}

#[test]
fn http_1_0_clients_get_theirs_until_the_connection_ends() {
    let expected = records(2_000);
    let whole = expected.clone();
    let origin = Origin::scripted("a", move |_| json(whole.clone()));
    let lb = lb(&origin, "");
    for coding in CODINGS {
        let mut client = lb.client();
        let response =
            client.ask(format!("GET / HTTP/1.0\r\nHost: a\r\nAccept-Encoding: {coding}\r\n\r\n"));
        assert!(body(&response, coding) == expected, "{coding}");
        assert!(!response.headers.has("transfer-encoding"), "{:?}", response.headers);
    }
}

#[test]
fn the_client_chooses_and_the_order_settles_ties() {
    let expected = records(100);
    let whole = expected.clone();
    let origin = Origin::scripted("a", move |_| json(whole.clone()));
    let lb = lb(&origin, "algorithms: [gzip, zstd]");
    for (accept, coding) in [
        ("gzip, deflate, br, zstd", Some("gzip")),
        ("gzip;q=0.5, zstd", Some("zstd")),
        ("*", Some("gzip")),
        ("*, gzip;q=0", Some("zstd")),
        ("br", None),
        ("identity, gzip;q=0.1", None),
        ("*;q=0", None),
    ] {
        let response = ask(&lb, accept);
        match coding {
            Some(coding) => assert!(body(&response, coding) == expected, "{accept}"),
            None => assert_plain(&response, &expected),
        }
        // A cache must not give one client what another asked for.
        assert_eq!(response.headers.get("vary"), Some("Accept-Encoding"), "{accept}");
    }
    let response = lb.get("/");
    assert_plain(&response, &expected);
    assert_eq!(response.headers.get("content-length"), Some(&*expected.len().to_string()));
    assert_eq!(response.headers.get("vary"), Some("Accept-Encoding"));
}

#[test]
fn what_must_stay_as_it_is_does() {
    let expected = records(100);
    let whole = expected.clone();
    let origin = Origin::scripted("a", move |request| {
        let (field, status) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let (name, value) = field[1..].split_once('=').unwrap_or(("x-none", "1"));
        let headers = match name {
            "content-type" => Vec::new(),
            _ => vec![("content-type".to_owned(), "application/json".to_owned())],
        };
        let status = status.parse().unwrap_or(200);
        Reply::Answer { status, headers, body: whole.clone() }.with(name, value)
    });
    let lb = lb(&origin, "types: [text/*, application/*]");
    for target in [
        "/content-encoding=br",
        "/content-encoding=GZIP",
        "/content-encoding=identity,x",
        "/content-type=text/event-stream;charset=utf-8",
        "/content-type=application/grpc",
        "/content-type=application/grpc+proto",
        "/content-type=image/png",
        "/content-type=nonsense",
        "/cache-control=private,No-Transform",
        "/content-range=bytes:0-1",
        "/x-none=1?206",
    ] {
        let response = lb.client().ask(request("GET", target, &["Accept-Encoding: gzip"], b""));
        assert!(response.complete && response.body == expected, "{target}");
        assert_eq!(response.headers.get("content-length"), Some(&*expected.len().to_string()));
        assert!(!response.headers.has("vary"), "{target}");
    }
    let fields = ["Accept-Encoding: gzip", "Cache-Control: no-transform"];
    assert_plain(&lb.client().ask(request("GET", "/", &fields, b"")), &expected);
    // And what is like these, but is not one of them.
    for target in
        ["/content-encoding=identity", "/cache-control=no-store", "/x-none=1?404", "/x-none=1?503"]
    {
        let response = lb.client().ask(request("GET", target, &["Accept-Encoding: gzip"], b""));
        assert!(body(&response, "gzip") == expected, "{target}");
    }
}

#[test]
fn responses_without_a_body_keep_their_connection() {
    let origin = Origin::scripted("a", |request| match request.path() {
        "/204" => Reply::status(204).with("content-type", "text/html"),
        "/304" => Reply::status(304).with("content-type", "text/html").with("etag", "\"a\""),
        "/empty" => Reply::text("").with("content-type", "text/html"),
        _ => json(records(100)).with("etag", "\"a\"").with("accept-ranges", "bytes"),
    });
    let lb = lb(&origin, "min_size: 0B");
    let mut client = lb.client();
    for (path, status) in [("/204", 204), ("/304", 304), ("/empty", 200)] {
        let response = client.ask(request("GET", path, &["Accept-Encoding: gzip"], b""));
        assert_eq!((response.status, &*response.text()), (status, ""), "{path}");
        assert!(!response.headers.has("content-encoding"), "{path}");
        assert!(!response.headers.has("transfer-encoding"), "{path}");
    }
    client.send(request("HEAD", "/", &["Accept-Encoding: gzip"], b""));
    let response = client.response_to_head();
    // Nothing is said of the body that is not true of the one that a GET would get.
    for field in ["content-encoding", "transfer-encoding", "content-length", "accept-ranges"] {
        assert!(!response.headers.has(field), "{:?}", response.headers);
    }
    assert_eq!(response.headers.get("etag"), Some("W/\"a\""));
    assert_eq!(response.headers.get("vary"), Some("Accept-Encoding"));
    client.send(request("HEAD", "/", &[], b""));
    let response = client.response_to_head();
    let length = records(100).len().to_string();
    assert_eq!(response.headers.get("content-length"), Some(&*length));
    assert_eq!(response.headers.get("etag"), Some("\"a\""));
    assert_eq!(response.headers.get("vary"), Some("Accept-Encoding"));
    // The connection is still in step.
    assert!(body(&client.ask(accepting("gzip")), "gzip") == records(100));
}

#[test]
fn an_empty_chunked_body_is_an_empty_compressed_one() {
    let origin = Origin::scripted("a", |_| Reply::raw(chunked(&[], true)));
    let lb = lb(&origin, "");
    for coding in CODINGS {
        let mut client = lb.client();
        for _ in 0..2 {
            assert_eq!(body(&client.ask(accepting(coding)), coding), b"");
        }
    }
}

#[test]
fn only_bodies_known_to_be_short_are_left_alone() {
    let expected = records(10);
    let short = expected.clone();
    let origin = Origin::scripted("a", move |request| match request.path() {
        "/chunked" => Reply::raw(chunked(&[&short], true)),
        _ => json(short.clone()),
    });
    for (settings, is_short) in [
        ("", true),
        (&*format!("min_size: {}", expected.len() + 1), true),
        (&*format!("min_size: {}", expected.len()), false),
    ] {
        let lb = lb(&origin, settings);
        let response = ask(&lb, "gzip");
        if is_short {
            assert_plain(&response, &expected);
            assert!(!response.headers.has("vary"), "{:?}", response.headers);
        } else {
            assert!(body(&response, "gzip") == expected, "{settings}");
        }
        let chunked = request("GET", "/chunked", &["Accept-Encoding: gzip"], b"");
        assert!(body(&lb.client().ask(chunked), "gzip") == expected, "{settings}");
        // A client that does not take the body as it is gets it compressed, however short.
        assert!(body(&ask(&lb, "gzip, identity;q=0"), "gzip") == expected, "{settings}");
        assert_plain(&ask(&lb, "identity;q=0"), &expected);
    }
}

#[test]
fn what_is_said_of_the_bytes_is_not_said_of_others() {
    let origin = Origin::scripted("a", |request| {
        let reply = match request.path() {
            "/304" => Reply::status(304),
            _ => json(records(100)),
        };
        reply
            .with("etag", "\"a,b\"")
            .with("accept-ranges", "bytes")
            .with("content-md5", "x")
            .with("digest", "x")
            .with("content-digest", "x")
            .with("repr-digest", "x")
            .with("vary", "Cookie")
            .with("last-modified", "Fri, 20 Nov 2026 12:00:00 GMT")
    });
    let lb = lb(&origin, "");
    let gone = ["accept-ranges", "content-md5", "digest", "content-digest", "repr-digest"];
    let response = ask(&lb, "gzip");
    body(&response, "gzip");
    for field in gone {
        assert!(!response.headers.has(field), "{field}");
    }
    assert_eq!(response.headers.get("etag"), Some("W/\"a,b\""));
    assert_eq!(response.headers.get("vary"), Some("Cookie, Accept-Encoding"));
    assert!(response.headers.has("last-modified"));

    let response = ask(&lb, "identity");
    for field in gone {
        assert!(response.headers.has(field), "{field}");
    }
    assert_eq!(response.headers.get("etag"), Some("\"a,b\""));

    // Who has the compressed one hears that it is the one that is still good.
    for (tags, etag) in [
        ("W/\"a,b\"", "W/\"a,b\""),
        ("\"x\", W/\"a,b\"", "W/\"a,b\""),
        ("\"a,b\"", "\"a,b\""),
        ("W/\"a\"", "\"a,b\""),
        ("*", "\"a,b\""),
    ] {
        let fields = ["Accept-Encoding: gzip", &format!("If-None-Match: {tags}")];
        let response = lb.client().ask(request("GET", "/304", &fields, b""));
        assert_eq!(response.status, 304);
        assert_eq!(response.headers.get("etag"), Some(etag), "{tags}");
    }
}

#[test]
fn a_piece_goes_on_before_the_next_comes() {
    for coding in CODINGS {
        // Each chunk is held back until the client has read all that came before it.
        let gate = Gate::default();
        let held = gate.clone();
        let origin = Origin::scripted("a", move |_| {
            let first = chunked(&[b"{\"number\":0}\n"], false);
            let more = (1..4).map(|n| format!("d\r\n{{\"number\":{n}}}\n\r\n").into_bytes());
            let mut pieces = vec![first];
            pieces.extend(more);
            pieces.push(b"0\r\n\r\n".to_vec());
            Reply::Gated(held.clone(), pieces)
        });
        let lb = lb(&origin, "");
        let mut client = lb.client();
        client.send(accepting(coding));
        let (mut expected, mut received) = (String::new(), Vec::new());
        for number in 0..4 {
            gate.let_one();
            if number == 0 {
                assert_eq!(client.head().headers.get("content-encoding"), Some(coding));
            }
            writeln!(expected, "{{\"number\":{number}}}").unwrap();
            while decoded(coding, &received).0 != expected.as_bytes() {
                received.extend(client.chunk());
            }
        }
        gate.open();
        while !decoded(coding, &received).1 {
            received.extend(client.chunk());
        }
        assert_eq!(client.exactly(5), b"0\r\n\r\n");
    }
}

#[test]
fn a_body_that_breaks_off_does_not_look_whole() {
    let origin = Origin::scripted("a", |request| match request.path() {
        "/chunked" => Reply::RawThenClose(chunked(&[&records(1_000)], false)),
        "/reset" => Reply::RawThenReset(chunked(&[&records(1_000)], false)),
        _ => {
            let mut bytes = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99999\r\n\r\n".to_vec();
            bytes.extend(records(1_000));
            Reply::RawThenClose(bytes)
        }
    });
    let lb = lb(&origin, "");
    for coding in CODINGS {
        for path in ["/chunked", "/reset", "/length"] {
            let accept = format!("Accept-Encoding: {coding}");
            let response = lb.client().ask(request("GET", path, &[&accept], b""));
            assert!(!response.complete, "{coding} {path}");
            assert!(!decoded(coding, &response.body).1, "{coding} {path}");
        }
        // Where the connection's end is the body's, the missing end of the coding tells, and a reset.
        let mut client = lb.client();
        client.send(format!("GET /length HTTP/1.0\r\nAccept-Encoding: {coding}\r\n\r\n"));
        let head = client.head();
        assert_eq!(head.headers.get("content-encoding"), Some(coding));
        assert!(!decoded(coding, &client.rest()).1, "{coding}");
    }
    for entry in lb.wait_for_entries(12) {
        assert_eq!(entry["reason"], "upstream_truncated", "{entry}");
    }
}

#[test]
fn a_client_that_leaves_is_logged_as_such() {
    let origin = Origin::scripted("a", |_| Reply::Zeros(1 << 30));
    let routes = "routes:\n  - filters: [compress: { types: [\"*/*\"] }, response_headers: { set: { content-type: text/plain } }]\n    pool: app";
    let lb = Config::pool(&[origin.entry()], "health_check: off").and(routes).access_log().start();
    let mut client = lb.client();
    client.send(accepting("gzip"));
    assert_eq!(client.head().headers.get("content-encoding"), Some("gzip"));
    client.exactly(1000);
    client.reset();
    let entry = &lb.wait_for_entries(1)[0];
    assert_eq!((&entry["status"], &entry["reason"]), (&499.into(), &"client_aborted".into()));
}

#[test]
fn our_own_answers_are_compressed_too() {
    let origin = Origin::named("a");
    let text = "The same words again and again. ".repeat(200);
    let routes = format!(
        "routes:
  - match: {{ path: /long }}
    filters: [compress]
    respond: {{ status: 200, headers: {{ content-type: text/plain, etag: '\"x\"' }}, body: \"{text}\" }}
  - filters: [compress]
    pool: app"
    );
    let lb = Config::pool(&[origin.entry()], "health_check: off\nretry: { attempts: 0 }")
        .and(&routes)
        .start();
    origin.stop();
    let mut client: Client = lb.client();
    for coding in CODINGS {
        let accept = format!("Accept-Encoding: {coding}");
        let response = client.ask(request("GET", "/long", &[&accept], b""));
        assert_eq!(body(&response, coding), text.as_bytes());
        assert_eq!(response.headers.get("etag"), Some("W/\"x\""));
        let length: u64 = response.headers.get("content-length").unwrap().parse().unwrap();
        assert!(length == response.body_length && length < 1000, "{coding} {length}");
    }
    client.send(request("HEAD", "/long", &["Accept-Encoding: gzip"], b""));
    assert_eq!(client.response_to_head().status, 200);
    assert_plain(&client.get("/long"), text.as_bytes());
    // A short one is not.
    let response = client.ask(accepting("gzip"));
    assert_eq!(response.status, 502);
    assert!(!response.headers.has("content-encoding"));
    assert!(response.text().contains("connect_failed"));
}

#[test]
fn a_retried_request_is_compressed_once() {
    let first = Origin::scripted("a", |_| Reply::status(503).with("content-type", "text/html"));
    let second = Origin::scripted("b", |_| json(records(1_000)));
    let routes = "routes:\n  - filters: [compress]\n    pool: app";
    let keys = "health_check: off\nejection: off\nretry: { on: [503], backoff: { base: 0s } }";
    let lb = Config::pool(&[first.entry(), second.entry()], keys).and(routes).start();
    for _ in 0..4 {
        assert!(body(&ask(&lb, "br"), "br") == records(1_000));
    }
    assert!(first.count() > 0, "no request was retried");
}

#[test]
fn settings_that_cannot_work_are_errors_at_their_place() {
    const TYPE: &str =
        "expected a media type without parameters, such as text/html, text/* or application/*+json";
    let filter = "routes[0].filters[0].compress";
    for (settings, expected) in [
        (
            "algorithms: [gzip, brotli]",
            format!(
                "4:42: {filter}.algorithms[1]: found \"brotli\"; expected zstd, br or gzip; did you mean \"br\"?"
            ),
        ),
        (
            "algorithms: [gzp]",
            format!(
                "4:36: {filter}.algorithms[0]: found \"gzp\"; expected zstd, br or gzip; did you mean \"gzip\"?"
            ),
        ),
        (
            "algorithms: []",
            format!("4:23: {filter}.algorithms: no algorithms; expected at least one"),
        ),
        ("types: []", format!("4:23: {filter}.types: no types; expected at least one")),
        (
            "types: [text/html, json]",
            format!(
                "4:42: {filter}.types[1]: found \"json\"; {TYPE}; did you mean \"application/json\"?"
            ),
        ),
        (
            "types: [text/event-stream]",
            format!(
                "4:31: {filter}.types[0]: found \"text/event-stream\"; expected no streams of messages, which are never compressed"
            ),
        ),
        (
            "level: 9",
            format!(
                "4:23: {filter}.level: unknown key \"level\"; expected algorithms, min_size or types"
            ),
        ),
    ] {
        assert_eq!(filter_error(&format!("compress: {{ {settings} }}")), expected, "{settings}");
    }
    let size = filter_error("compress: { min_size: 1kb }");
    assert!(
        size.starts_with(&format!("4:33: {filter}.min_size: found \"1kb\"; expected ")),
        "{size}"
    );
}
