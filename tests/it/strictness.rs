//! Malformed and hostile requests. None of them may reach a backend.

use crate::support::{Client, Config, Lb, Origin, Raw, Reply, eventually, request};
use std::time::{Duration, Instant};

fn in_front_of(origin: &Origin) -> Lb {
    Config::pool(&[origin.entry()], "health_check: off").start()
}

/// Sends bytes on a connection of their own: the status of the answer, 0 for a close without one,
/// and whether the connection was closed behind it.
fn status_of(lb: &Lb, bytes: &[u8]) -> (u16, bool) {
    let mut client = lb.client();
    client.set_patience(Duration::from_secs(3));
    if client.try_send(bytes).is_err() {
        // Closed before it was all sent; an answer may be on its way all the same.
    }
    let status = client.try_response().map_or(0, |response| response.status);
    (status, client.is_closed())
}

/// A case: what it is, its bytes, the status it must get.
type Case<'a> = (&'a str, Vec<u8>, u16);

/// Checks all cases before it complains about any.
#[track_caller]
fn assert_refused(cases: &[Case<'_>]) {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&origin);
    let mut wrong = Vec::new();
    for (what, bytes, expected) in cases {
        let (status, closed) = status_of(&lb, bytes);
        if status != *expected {
            wrong.push(format!("{what}: {status} instead of {expected}"));
        }
        if *expected == 400 && !closed {
            wrong.push(format!("{what}: the connection goes on"));
        }
    }
    for request in origin.requests() {
        wrong
            .push(format!("reached the backend: {:?}", String::from_utf8_lossy(&request.raw_head)));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// `GET /` with these header lines, each as it stands.
fn with_lines(lines: &[&str]) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n")).into_bytes()
}

/// `POST /` with these header lines and a body.
fn post(lines: &[&str], body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n{body}", lines.join("\r\n")).into_bytes()
}

/// A GET of this target.
fn target(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
}

#[test]
fn a_request_needs_exactly_one_valid_host() {
    assert_refused(&[
        ("no Host", with_lines(&["X-A: 1"]), 400),
        ("two Hosts", with_lines(&["Host: a", "Host: b"]), 400),
        ("the same Host twice", with_lines(&["Host: a", "Host: a"]), 400),
        ("a Host with a space", with_lines(&["Host: a b"]), 400),
        ("a Host with a slash", with_lines(&["Host: a/b"]), 400),
        ("a Host with an at", with_lines(&["Host: user@a"]), 400),
        ("a Host with half an encoding", with_lines(&["Host: a%2"]), 400),
        ("a Host with no encoding", with_lines(&["Host: a%zz"]), 400),
        ("a Host with a port that there is not", with_lines(&["Host: a:65536"]), 400),
        ("a Host with a signed port", with_lines(&["Host: a:+80"]), 400),
    ]);
}

#[test]
fn what_is_refused_is_answered_in_the_form_that_it_asks_for() {
    let origin = Origin::named("app-1");
    let lb = Config::pool(&[origin.entry()], "health_check: off").access_log().start();
    let lines = ["X-A: 1", "ACCEPT:application/json"];
    let answer = lb.client().ask(with_lines(&lines));
    assert_eq!(answer.headers.get("content-type"), Some("application/json"));
    let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((&said["status"], &said["error"]), (&400.into(), &"bad_request".into()));
    assert_eq!(said["request_id"].as_str(), answer.headers.get("x-request-id"));
    let text = lb.client().ask(with_lines(&["Accept: */*"]));
    assert_eq!(text.headers.get("content-type"), Some("text/plain; charset=utf-8"));
    // What comes after the head is no part of it.
    let late = lb.client().ask([with_lines(&["X-A: 1"]), with_lines(&lines)].concat());
    assert_eq!(late.headers.get("content-type"), Some("text/plain; charset=utf-8"));
    let mut client = lb.client();
    client.send("HEAD / HTTP/1.1\r\n\r\n");
    assert_eq!(client.response_to_head().status, 400);
    assert_eq!(client.rest(), b"", "a HEAD gets no body");
    let entries = lb.wait_for_entries(4);
    let told: Vec<_> = entries.iter().map(|entry| entry["bytes_out"].as_u64().unwrap()).collect();
    let lengths = [&answer, &text, &late].map(|answer| answer.body.len() as u64);
    assert_eq!(told, [&lengths[..], &[0]].concat());
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_body_has_one_length() {
    let chunks = "1\r\nx\r\n0\r\n\r\n";
    let chunked = "Transfer-Encoding: chunked";
    assert_refused(&[
        ("length and chunks", post(&["Content-Length: 5", chunked], chunks), 400),
        ("chunks and length", post(&[chunked, "Content-Length: 5"], chunks), 400),
        ("two lengths", post(&["Content-Length: 1", "Content-Length: 2"], "xx"), 400),
        ("a list of lengths", post(&["Content-Length: 2, 2"], "xx"), 400),
        ("a signed length", post(&["Content-Length: +2"], "xx"), 400),
        ("a negative length", post(&["Content-Length: -1"], "xx"), 400),
        ("a hexadecimal length", post(&["Content-Length: 0x2"], "xx"), 400),
        ("an empty length", post(&["Content-Length:"], "xx"), 400),
        ("a length over 64 bits", post(&["Content-Length: 18446744073709551618"], "xx"), 400),
        ("chunks not last", post(&["Transfer-Encoding: chunked, gzip"], chunks), 400),
        ("chunks twice", post(&[chunked, chunked], chunks), 400),
        ("chunks with a tab", post(&["Transfer-Encoding: \u{b}chunked"], chunks), 400),
        ("an unknown coding", post(&["Transfer-Encoding: br"], chunks), 501),
        (
            "chunks in HTTP/1.0",
            format!("POST / HTTP/1.0\r\nHost: a\r\n{chunked}\r\n\r\n{chunks}").into_bytes(),
            400,
        ),
    ]);
}

#[test]
fn chunks_are_well_formed() {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&origin);
    let long_extension = format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(5000));
    let many_trailers = format!("0\r\n{}\r\n", "a:\r\n".repeat(10_000));
    let cases = [
        ("a size with a prefix", "0x2\r\nxx\r\n0\r\n\r\n"),
        ("a size that overflows", "10000000000000000\r\nx\r\n0\r\n\r\n"),
        ("a bare line feed", "1\nx\r\n0\r\n\r\n"),
        ("data without its end", "1\r\nxx\r\n0\r\n\r\n"),
        ("no size", "\r\nx\r\n0\r\n\r\n"),
        ("a long extension", long_extension.as_str()),
        ("a trailer without a colon", "0\r\nX-T 1\r\n\r\n"),
        ("a trailer whose name is no token", "0\r\nX(T): 1\r\n\r\n"),
        ("trailers of many short lines", many_trailers.as_str()),
    ];
    for (what, chunks) in cases {
        let (status, closed) = status_of(&lb, &post(&["Transfer-Encoding: chunked"], chunks));
        assert_eq!((status, closed), (400, true), "{what}");
    }
    // The head may have been on its way when the chunk came; no body may look whole.
    assert!(origin.requests().iter().all(|request| !request.complete), "{:?}", origin.requests());
}

#[test]
fn lines_and_fields_are_well_formed() {
    assert_refused(&[
        ("a folded field", with_lines(&["Host: a", "X-A: 1", "  2"]), 400),
        ("a space before the first field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n".to_vec(), 400),
        ("bare line feeds", b"GET / HTTP/1.1\nHost: a\n\n".to_vec(), 400),
        ("one bare line feed", b"GET / HTTP/1.1\r\nHost: a\nX-A: 1\r\n\r\n".to_vec(), 400),
        ("a bare carriage return", with_lines(&["Host: a", "X-A: 1\r2"]), 400),
        ("a NUL in a value", with_lines(&["Host: a", "X-A: 1\x002"]), 400),
        ("a space before the colon", with_lines(&["Host: a", "X-A : 1"]), 400),
        ("a space before the colon of Host", with_lines(&["Host : a"]), 400),
        ("an empty name", with_lines(&["Host: a", ": 1"]), 400),
        ("no colon", with_lines(&["Host: a", "X-A"]), 400),
        ("a name that is no token", with_lines(&["Host: a", "X(A): 1"]), 400),
        ("a method that is no token", b"G{T / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), 400),
        ("no version", b"GET /\r\n\r\n".to_vec(), 400),
        ("a version in lower case", b"GET / http/1.1\r\nHost: a\r\n\r\n".to_vec(), 400),
        ("HTTP/0.9", b"GET /\r\n".to_vec(), 400),
        ("HTTP/0.9 by name", b"GET / HTTP/0.9\r\nHost: a\r\n\r\n".to_vec(), 400),
        ("no request line", b"what is this\r\n".to_vec(), 400),
        ("a later version", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_vec(), 505),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), 400),
    ]);
}

#[test]
fn targets_are_well_formed() {
    assert_refused(&[
        ("a space", target("/a b"), 400),
        ("a fragment", target("/a#b"), 400),
        ("an encoded NUL", target("/a%00b"), 400),
        ("above the root", target("/../etc/passwd"), 400),
        ("above the root later", target("/a/../../b"), 400),
        ("above the root, encoded", target("/%2e%2e/b"), 400),
        ("a percent sign alone", target("/100%"), 400),
        ("half an encoding before another", target("/%6%31"), 400),
        ("no path", target("a"), 400),
        ("an asterisk with GET", target("*"), 400),
    ]);
}

#[test]
fn methods_that_are_not_for_a_reverse_proxy_are_refused() {
    let trace = b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    let connect = b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".to_vec();
    let lb = in_front_of(&Origin::named("app-1"));
    for asked in [&trace, &connect] {
        let response = lb.client().ask(asked);
        let allowed = response.headers.get("allow").expect("what is allowed");
        assert!(allowed.split(", ").any(|method| method == "GET"), "{allowed}");
        assert!(!allowed.contains("CONNECT") && !allowed.contains("TRACE"), "{allowed}");
    }
    assert_refused(&[("TRACE", trace, 405), ("CONNECT", connect, 405)]);
}

#[test]
fn what_is_too_much_has_its_own_status() {
    let many: Vec<String> = (0..120).map(|n| format!("X-{n}: 1")).collect();
    let mut lines = vec!["Host: a"];
    lines.extend(many.iter().map(String::as_str));
    let large = format!("X-Large: {}", "x".repeat(70_000));
    assert_refused(&[
        ("a long target", target(&format!("/{}", "x".repeat(9000))), 414),
        ("a large head", with_lines(&["Host: a", &large]), 431),
        ("many fields", with_lines(&lines), 431),
    ]);
}

#[test]
fn limits_are_as_configured() {
    let origin = Origin::named("app-1");
    let lb = Config::pool(&[origin.entry()], "health_check: off")
        .listener("limits: { header_bytes: 2KiB, headers: 5, uri_bytes: 1KiB }")
        .start();
    let fields = |count: usize| -> Vec<u8> {
        let lines: Vec<String> = (1..count).map(|n| format!("X-{n}: 1")).collect();
        let mut all = vec!["Host: a"];
        all.extend(lines.iter().map(String::as_str));
        with_lines(&all)
    };
    let large = |size: usize| with_lines(&["Host: a", &format!("X-L: {}", "x".repeat(size))]);
    let cases = [
        ("the longest target", target(&format!("/{}", "x".repeat(1023))), 200),
        ("a longer target", target(&format!("/{}", "x".repeat(1024))), 414),
        ("a large head", large(1900), 200),
        ("a larger head", large(2048), 431),
        ("the most fields", fields(5), 200),
        ("one more", fields(6), 431),
    ];
    for (what, bytes, expected) in cases {
        let status = lb.client().ask(bytes).status;
        assert_eq!(status, expected, "{what}");
    }
}

#[test]
fn refusals_say_what_they_are_and_carry_a_request_id() {
    let origin = Origin::named("app-1");
    let lb = Config::pool(&[origin.entry()], "health_check: off").access_log().start();
    let response = lb.client().ask(with_lines(&["Host: a", "X-A : 1"]));
    assert_eq!(response.status, 400);
    assert!(response.text().contains("bad_request"), "{}", response.text());
    let id = response.headers.get("x-request-id").unwrap();
    let entries = lb.wait_for_entries(1);
    assert_eq!(entries[0]["reason"], "bad_request");
    assert_eq!(entries[0]["status"], 400);
    assert_eq!(entries[0]["request_id"].as_str(), Some(id));
}

#[test]
fn a_request_behind_a_refused_one_is_not_served() {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&origin);
    let mut bytes = post(&["Content-Length: 5", "Transfer-Encoding: chunked"], "0\r\n\r\n");
    bytes.extend(target("/smuggled"));
    let mut client = lb.client();
    client.send(bytes);
    assert_eq!(client.response().status, 400);
    assert_eq!(client.rest(), b"");
    assert_eq!(origin.count(), 0);
}

#[test]
fn paths_are_put_into_normal_form_and_forwarded_so() {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&origin);
    let cases = [
        ("/a/../b", "/b"),
        ("/a/./b", "/a/b"),
        ("/a/b/..", "/a/"),
        ("/a/%2e%2e/b?x=/../y", "/b?x=/../y"),
        ("/a%2Fb", "/a%2Fb"),
        ("/%61%7e/caf%c3%a9?q=%61", "/a~/caf%C3%A9?q=%61"),
        ("//a//b", "//a//b"),
        ("/plain/path?q=1&r=%20", "/plain/path?q=1&r=%20"),
        ("/", "/"),
    ];
    for (sent, seen) in cases {
        assert_eq!(lb.client().ask(target(sent)).status, 200, "{sent}");
        assert_eq!(origin.last_request().target, seen, "{sent}");
    }
}

#[test]
fn an_absolute_target_decides_the_host_and_is_forwarded_as_a_path() {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&origin);
    let bytes = b"GET http://real.example/p?q=1 HTTP/1.1\r\nHost: real.example\r\n\r\n";
    assert_eq!(lb.client().ask(bytes).status, 200);
    let seen = origin.last_request();
    assert_eq!((seen.target.as_str(), seen.headers.get("host")), ("/p?q=1", Some("real.example")));

    let bytes = b"GET http://real.example/ HTTP/1.1\r\nHost: other.example\r\n\r\n";
    let status = lb.client().ask(bytes).status;
    if status == 200 {
        assert_eq!(origin.last_request().headers.get("host"), Some("real.example"));
    } else {
        assert_eq!((status, origin.count()), (400, 1));
    }
}

#[test]
fn options_of_the_whole_server_is_understood() {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&origin);
    assert_eq!(lb.client().ask("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
    assert_eq!(origin.last_request().target, "*");
}

#[test]
fn names_with_underscores_are_dropped() {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&origin);
    let fields = ["X-Fwd: 1", "X_Fwd: 2", "X_Forwarded_For: 192.0.2.1"];
    assert_eq!(lb.client().ask(request("GET", "/", &fields, b"")).status, 200);
    let seen = origin.only_request().headers;
    assert_eq!(seen.get("x-fwd"), Some("1"));
    assert!(!seen.has("x_fwd") && !seen.has("x_forwarded_for"), "{seen:?}");
}

#[test]
fn a_slow_head_is_cut_off_however_steadily_it_drips() {
    let origin = Origin::named("app-1");
    let lb = Config::pool(&[origin.entry()], "health_check: off")
        .listener("timeouts: { header: 500ms }")
        .start();
    let mut client = lb.client();
    let started = Instant::now();
    client.send("GET / HTTP/1.1\r\nX: ");
    client.set_patience(Duration::from_millis(50));
    let answer = loop {
        match client.try_response() {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            other => break other,
        }
        assert!(started.elapsed() < Duration::from_secs(5), "still listening");
        if client.try_send(b"x").is_err() {
            break client.try_response();
        }
    };
    let took = started.elapsed();
    if let Ok(response) = answer {
        assert_eq!(response.status, 408);
    }
    assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(2), "{took:?}");
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_silent_client_does_not_keep_its_connection() {
    let origin = Origin::named("app-1");
    let lb = Config::pool(&[origin.entry()], "health_check: off")
        .listener("timeouts: { header: 300ms, keepalive: 60s }")
        .start();
    let mut client = lb.client();
    client.rest();
    let started = Instant::now();
    let mut client = lb.client();
    client.rest();
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn an_idle_connection_is_closed_after_its_keepalive_time() {
    let origin = Origin::named("app-1");
    let lb = Config::pool(&[origin.entry()], "health_check: off")
        .listener("timeouts: { keepalive: 300ms, header: 10s }")
        .start();
    let mut client = lb.client();
    assert_eq!(client.get("/").status, 200);
    let idle = Instant::now();
    assert!(client.is_closed());
    let took = idle.elapsed();
    assert!(took >= Duration::from_millis(250) && took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_body_that_stalls_is_cut_off() {
    let origin = Origin::named("app-1");
    let lb = Config::pool(&[origin.entry()], "health_check: off")
        .listener("timeouts: { body_idle: 300ms }")
        .access_log()
        .start();
    let started = Instant::now();
    let mut client = lb.client();
    client.send(request("POST", "/", &["Content-Length: 10"], b"half"));
    if let Ok(response) = client.try_response() {
        assert_eq!(response.status, 408);
    }
    assert!(client.is_closed());
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(lb.wait_for_entries(1)[0]["reason"], "client_timeout");
}

fn slow_clients(origin: &Origin, keys: &str) -> Lb {
    let keys = format!("h2c: true\n{keys}");
    Config::pool(&[origin.entry()], "health_check: off").listener(&keys).access_log().start()
}

#[test]
fn a_body_that_drips_is_cut_off() {
    let origin = Origin::named("app-1");
    let lb = slow_clients(&origin, "timeouts: { body_idle: 1s }\nlimits: { min_rate: 10KiB }");
    let mut client = lb.client();
    client.send(request("POST", "/", &["Content-Length: 100000"], b"x"));
    eventually("it is cut off", || {
        let _ = client.try_send(b"x");
        lb.entries().len() == 1
    });
    if let Ok(response) = client.try_response() {
        assert_eq!(response.status, 408);
    }
    let entry = &lb.entries()[0];
    assert_eq!((&entry["reason"], &entry["status"]), (&"client_timeout".into(), &408.into()));
    assert!(origin.requests().iter().all(|request| !request.complete));
}

#[test]
fn a_body_that_keeps_the_rate_or_needs_none_takes_its_time() {
    let origin = Origin::named("app-1");
    for (rate, piece) in [("1KiB", 100), ("0B", 1)] {
        let keys = format!("timeouts: {{ body_idle: 2s }}\nlimits: {{ min_rate: {rate} }}");
        let lb = slow_clients(&origin, &keys);
        let mut client = lb.client();
        let (began, mut sent) = (Instant::now(), 0);
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(head);
        // For longer than one stretch of waiting.
        eventually("time passes", || {
            client.send(format!("{piece:x}\r\n{}\r\n", "x".repeat(piece)));
            sent += piece;
            began.elapsed() > Duration::from_secs(5)
        });
        client.send("0\r\n\r\n");
        assert_eq!(client.response().status, 200, "{rate}");
        assert_eq!(origin.last_request().body.len(), sent);
    }
}

#[test]
fn a_client_that_reads_a_little_now_and_then_is_cut_off() {
    let origin = Origin::scripted("app-1", |_| Reply::Zeros(1 << 30));
    let lb = slow_clients(&origin, "timeouts: { write: 1s }\nlimits: { min_rate: 1MiB }");
    let mut client = lb.client();
    client.send(request("GET", "/", &[], b""));
    // About half of the rate, so that it makes progress all the time.
    eventually("it is cut off", || {
        let _ = client.try_exactly(2_500);
        lb.entries().len() == 1
    });
    assert_eq!(lb.entries()[0]["reason"], "client_timeout");
}

#[test]
fn trailers_of_requests_are_dropped() {
    let backend = Raw::named("app-1");
    let lb = Config::pool(&[backend.entry()], "health_check: off").without_probe().start();
    lb.wait_for_line("listening on");
    let mut client = lb.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
    client.send("0\r\nAuthorization: me\r\nContent-Length: 5\r\nX-Sum: 1\r\n\r\n");
    let (mut served, mut seen) = (backend.accept(), String::new());
    while !seen.ends_with("\r\n0\r\n\r\n") {
        let more = served.try_some().expect("the end of the chunks");
        seen.push_str(std::str::from_utf8(&more).unwrap());
    }
    let seen = seen.to_ascii_lowercase();
    for trailer in ["authorization", "content-length", "x-sum"] {
        assert!(!seen.contains(trailer), "{seen}");
    }
    served.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.response().status, 200);
}

#[test]
fn what_follows_a_whole_response_is_never_delivered() {
    let origin = Origin::scripted("app-1", |_| {
        Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\n")
    });
    let lb = in_front_of(&origin);
    let before = origin.accepted();
    let mut client = lb.client();
    for number in 1..=3 {
        assert_eq!(client.get("/").text(), "ok");
        assert_eq!(origin.accepted() - before, number, "its connection was used again");
    }
}

#[test]
fn responses_are_well_formed() {
    let with = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nhello");
    let many = "X-Many: 1\r\n".repeat(300) + "Content-Length: 5";
    let large = format!("X-Large: {}\r\nContent-Length: 5", "x".repeat(3 << 20));
    let cases = [
        ("a bad version", "HTTX/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_owned()),
        ("a bad status", "HTTP/1.1 2oo OK\r\nContent-Length: 5\r\n\r\nhello".to_owned()),
        ("two lengths", with("Content-Length: 5\r\nContent-Length: 6")),
        ("a length twice", with("Content-Length: 5\r\nContent-Length: 5")),
        ("a list of lengths", with("Content-Length: 5, 5")),
        ("a signed length", with("Content-Length: +5")),
        ("an empty length", with("Content-Length:")),
        ("an unknown coding", with("Transfer-Encoding: gzip, chunked")),
        ("a name that is no token", with("X(A): 1\r\nContent-Length: 5")),
        ("too many fields", with(&many)),
        ("too large a head", with(&large)),
    ];
    let origin = Origin::named("app-1");
    let keys = "health_check: off\nejection: off\nretry: { attempts: 0 }";
    let lb = Config::pool(&[origin.entry()], keys).start();
    let mut wrong = Vec::new();
    for (what, bytes) in cases {
        origin.script(move |_| Reply::raw(bytes.clone()));
        let response = lb.get("/");
        let accepted = origin.accepted();
        // Not kept: it might come back too late for the next case, and be found there by the one after.
        origin.script(|_| Reply::text("fine").with("Connection", "close"));
        let next = lb.get("/");
        if (response.status, next.text().as_str()) != (502, "fine") {
            wrong.push(format!("{what}: {} {:?}", response.status, next.text()));
        }
        if origin.accepted() == accepted {
            wrong.push(format!("{what}: its connection was used again"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// See docs/limits.md: it should be an error.
#[test]
fn a_response_with_a_length_and_chunks_goes_by_its_chunks() {
    let origin = Origin::scripted("app-1", |_| {
        let fields = "Content-Length: 2\r\nTransfer-Encoding: chunked";
        Reply::raw(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"))
    });
    let lb = in_front_of(&origin);
    let mut client = lb.client();
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!(response.text(), "hello");
        assert!(!response.headers.has("content-length"), "{response:?}");
    }
}

#[test]
fn only_a_client_that_expects_a_100_may_keep_its_body_back() {
    // A backend that says nothing, not even that it wants the body.
    let backend = Raw::named("app-1");
    let keys = "health_check: off\nretry: { attempts: 0 }\ntimeouts: { read: 2s }";
    let lb = Config::pool(&[backend.entry()], keys)
        .listener("timeouts: { body_idle: 300ms }")
        .access_log()
        .without_probe()
        .start();
    lb.wait_for_line("listening on");
    let cases = [
        ("HTTP/1.1", "Expect: something", "client_timeout"),
        ("HTTP/1.1", "Expect: 100-continue, x", "client_timeout"),
        ("HTTP/1.0", "Expect: 100-continue", "client_timeout"),
        ("HTTP/1.1", "Expect: 100-Continue", "upstream_timeout"),
    ];
    for (at, (version, expect, reason)) in cases.into_iter().enumerate() {
        let mut client = lb.client();
        client
            .send(format!("POST / {version}\r\nHost: a\r\n{expect}\r\nContent-Length: 9\r\n\r\n"));
        client.rest();
        assert_eq!(lb.wait_for_entries(at + 1)[at]["reason"], reason, "{version} {expect}");
    }
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let origin = Origin::scripted("app-1", |_| crate::support::Reply::Zeros(1 << 30));
    let lb = Config::pool(&[origin.entry()], "health_check: off")
        .listener("timeouts: { write: 300ms }")
        .access_log()
        .start();
    let mut client = lb.client();
    client.send(request("GET", "/", &[], b""));
    assert_eq!(lb.wait_for_entries(1)[0]["reason"], "client_timeout");
    drop(client);
}

#[test]
fn requests_on_a_connection_can_be_limited() {
    let origin = Origin::named("app-1");
    let lb = Config::pool(&[origin.entry()], "health_check: off")
        .listener("limits: { requests_per_connection: 3 }")
        .start();
    let mut client = lb.client();
    for last in [false, false, true] {
        let response = client.get("/");
        assert_eq!(response.headers.lists("connection", "close"), last);
    }
    assert!(client.is_closed());
}

#[test]
fn an_answer_that_comes_before_the_body_was_read_does_not_make_the_body_a_request() {
    let origin = Origin::named("app-1");
    let lb = Config::pool(&[origin.entry()], "health_check: off")
        .and("routes:\n  - match: { path: /early }\n    respond: { status: 403, body: no }\n  - pool: app")
        .start();
    let inner = request("GET", "/smuggled", &[], b"");
    let mut client = Client::connect(&lb.web());
    client.send(request("POST", "/early", &[], &inner));
    assert_eq!(client.response().status, 403);
    if client.try_send(&request("GET", "/next", &[], b"")).is_ok() {
        let _ = client.try_response();
    }
    assert!(origin.requests().iter().all(|seen| seen.path() != "/smuggled"));
}

#[test]
fn empty_lines_are_no_request() {
    let origin = Origin::named("app-1");
    let lb = Config::pool(&[origin.entry()], "health_check: off")
        .listener("timeouts: { header: 300ms, keepalive: 60s }")
        .access_log()
        .start();
    let mut patient = lb.client();
    patient.get("/");
    patient.send("\r\n\r\n\r");

    // Nothing but empty lines: gone without a word, when the header timeout is over.
    let mut silent = lb.client();
    silent.send("\r\n\r\n");
    assert_eq!(silent.rest(), b"");

    // By then the header timeout would be over for these empty lines too.
    patient.send("\n");
    assert_eq!(patient.get("/again").status, 200);
    let entries = lb.wait_for_entries(2);
    assert_eq!((entries.len(), &entries[1]["path"]), (2, &"/again".into()));
}

#[test]
fn a_client_that_goes_on_sending_gets_its_early_answer() {
    let origin = Origin::named("app-1");
    let lb = in_front_of(&origin);
    let mut client = lb.client();
    client.send("POST / HTTP/1.1\r\nContent-Length: 16777216\r\n\r\n");
    for _ in 0..256 {
        client.send(vec![b'x'; 1 << 16]);
    }
    assert_eq!(client.response().status, 400);
}

/// What Pingora would refuse after us gets an answer without an id and no line in the log, so
/// everything that gets no backend must have been refused by our own check.
#[test]
fn every_refusal_has_an_id_and_a_line_in_the_log() {
    let origin = Origin::named("app-1");
    let lb = Config::pool(&[origin.entry()], "health_check: off")
        .listener("limits: { header_bytes: 1MiB, uri_bytes: 65534B, headers: 256 }")
        .access_log()
        .start();
    let mut heads: Vec<Vec<u8>> = Vec::new();
    for byte in 0..=255 {
        let around = |before: &str, after: &str| {
            [before.as_bytes(), &[byte], after.as_bytes(), b"Connection: close\r\n\r\n"].concat()
        };
        heads.push(around("GET /", " HTTP/1.1\r\nHost: a\r\n"));
        heads.push(around("GET /?", "x HTTP/1.1\r\nHost: a\r\n"));
        heads.push(around("GET / HTTP/1.1\r\nHost: a", "\r\n"));
        heads.push(around("GET / HTTP/1.1\r\nHost: a\r\nX: a", "b\r\n"));
    }
    let fields = |count: usize| "A: b\r\n".repeat(count);
    let long = |length: usize| "a".repeat(length);
    for head in [
        format!("GET http://a/ HTTP/1.0\r\n{}\r\n", fields(256)),
        format!("GET http://a/ HTTP/1.0\r\n{}\r\n", fields(255)),
        format!("GET /{} HTTP/1.0\r\n\r\n", long(65_533)),
        format!("GET /{} HTTP/1.0\r\n\r\n", long(65_534)),
        format!("GET / HTTP/1.0\r\n{}: b\r\n\r\n", long(65_535)),
        format!("GET / HTTP/1.0\r\n{}: b\r\n\r\n", long(65_536)),
        format!("GET http://a HTTP/1.0\r\nX: {}\r\n\r\n", long((1 << 20) - 31)),
    ] {
        heads.push(head.into_bytes());
    }
    for head in &heads {
        let shown = String::from_utf8_lossy(&head[..head.len().min(80)]);
        let mut client = lb.client();
        // Refused before it was all sent, some of it may have nowhere to go.
        let _ = client.try_send(head);
        let response = client.try_response().unwrap_or_else(|error| panic!("{error}: {shown}"));
        assert!(response.headers.get("x-request-id").is_some(), "{}: {shown}", response.status);
    }
    lb.wait_for_entries(heads.len());
    assert_eq!(lb.lines_with("Pingora refused"), 0);
}
