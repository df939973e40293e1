//! Requests and responses.

use super::{both, reasons, start};
use crate::support::{
    Config, FullBacklog, Gate, Origin, Reply, eventually,
    h2::{
        DATA, END_HEADERS, END_STREAM, Frames, H2, HEADERS, PING, RST_STREAM, SETTINGS,
        WINDOW_UPDATE, asking, frame, get, request as head,
    },
};
use h2::Reason;
use std::time::{Duration, Instant};

#[test]
fn a_request_is_like_one_of_http1_to_everyone_behind() {
    let origin = Origin::named("app-1");
    let lb = start(&origin);
    let client = H2::connect(&lb.web());
    let request = asking("GET", "/a/../b?c=d")
        .header("user-agent", "tester")
        .header("x_forwarded_for", "6.6.6.6")
        .header("x-forwarded-for", "6.6.6.6")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let answer = client.ask(request, b"").unwrap();
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "app-1"));
    assert_eq!(answer.field("x-backend-server"), "app-1");
    assert!(answer.headers.contains_key("date"), "{answer:?}");
    assert!(!answer.headers.contains_key("connection"), "{answer:?}");
    let id = answer.field("x-request-id").to_owned();
    let seen = origin.only_request();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("GET", "/b?c=d"));
    assert_eq!(seen.version, "HTTP/1.1");
    for (name, value) in [
        ("host", "test.example"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "test.example"),
        ("x-real-ip", "127.0.0.1"),
        ("x-request-id", id.as_str()),
    ] {
        assert_eq!(seen.headers.get(name), Some(value), "{name}");
    }
    assert!(!seen.headers.has("x_forwarded_for") && !seen.headers.has("te"), "{seen:?}");
    let entry = &lb.wait_for_entries(1)[0];
    for (key, value) in [
        ("protocol", "HTTP/2.0"),
        ("path", "/a/../b?c=d"),
        ("host", "test.example"),
        ("reason", "ok"),
        ("user_agent", "tester"),
        ("request_id", id.as_str()),
        ("client_ip", "127.0.0.1"),
    ] {
        assert_eq!(entry[key], value, "{key}");
    }
    assert_eq!((&entry["status"], &entry["bytes_out"]), (&200.into(), &5.into()));
}

#[test]
fn requests_on_one_connection_are_served_at_the_same_time() {
    let gate = Gate::default();
    let held = gate.clone();
    let origin =
        Origin::scripted("app-1", move |request| Reply::text(request.path()).behind(&held));
    let lb = start(&origin);
    let client = H2::connect(&lb.web());
    let paths: Vec<_> = (0..50).map(|number| format!("/{number}")).collect();
    let streams: Vec<_> = paths.iter().map(|path| client.begin(get(path), true)).collect();
    eventually("all of them are at the backend", || origin.working() == 50);
    gate.open();
    for (path, stream) in paths.iter().zip(streams) {
        assert_eq!(&stream.answer().unwrap().text(), path);
    }
    assert_eq!(reasons(&lb, 50).iter().filter(|reason| *reason == "ok").count(), 50);
}

#[test]
fn bodies_of_any_size_pass_both_ways() {
    let origin = Origin::scripted("app-1", |request| {
        let framing =
            if request.path() == "/known" { "content-length" } else { "transfer-encoding" };
        if request.headers.has(framing) { Reply::EchoStream } else { Reply::status(500) }
    });
    let lb = start(&origin);
    let client = H2::connect(&lb.web());
    for size in [1, 70_000, 1_000_000] {
        let body: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for path in ["/known", "/unknown"] {
            let mut request = asking("POST", path);
            if path == "/known" {
                request = request.header("content-length", size);
            }
            let mut stream = client.begin(request.body(()).unwrap(), false);
            for piece in body.chunks(60_000) {
                stream.send(piece, false);
            }
            stream.send(b"", true);
            let answer = stream.answer().unwrap();
            let (status, came) = (answer.status, answer.body.len());
            assert!(answer.body == body, "{path}: {size} bytes came back as {status}, {came}");
        }
    }
}

#[test]
fn a_body_that_ends_with_an_empty_frame_ends_once() {
    let origin = Origin::named("app-1");
    let lb = start(&origin);
    let client = H2::connect(&lb.web());
    // Whatever comes after the end of a body would be the next request on the backend's connection.
    for pieces in [&[][..], &["piece"], &["one", "two"]] {
        let mut stream = client.begin(asking("POST", "/posted").body(()).unwrap(), false);
        for piece in pieces {
            stream.send(piece.as_bytes(), false);
        }
        stream.send(b"", true);
        assert_eq!(stream.answer().unwrap().text(), "app-1");
        assert_eq!(client.get("/next").text(), "app-1");
    }
    let targets: Vec<_> = origin.traffic().iter().map(|request| request.target.clone()).collect();
    assert_eq!(targets, ["/posted", "/next"].repeat(3));
    // The next may come before the connection is free again.
    assert!(origin.accepted() < targets.len(), "none was used again");
}

#[test]
fn answers_without_a_body_end_with_their_head() {
    let origin = Origin::scripted("app-1", |request| match request.path() {
        "/204" => Reply::raw("HTTP/1.1 204 No Content\r\n\r\n"),
        "/304" => Reply::raw("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
        _ => Reply::raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
    });
    let lb = both(&origin, "")
        .and("routes:\n  - { match: { path: /own }, respond: { status: 403, body: \"\" } }\n  - { match: { path: /text }, respond: { status: 200, body: hi } }\n  - pool: app")
        .start();
    let client = H2::connect(&lb.web());
    for (method, path, status) in [
        ("HEAD", "/head", 200),
        ("GET", "/204", 204),
        ("GET", "/304", 304),
        ("GET", "/own", 403),
        ("HEAD", "/text", 200),
    ] {
        let answer = client.ask(asking(method, path).body(()).unwrap(), b"").unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.len()), (status, 0), "{method} {path}");
    }
    assert_eq!(client.get("/text").text(), "hi");
}

#[test]
fn interim_responses_are_passed_on() {
    let origin = Origin::scripted("app-1", |_| {
        Reply::raw(
            "HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\nconnection: keep-alive\r\n\
             keep-alive: timeout=5\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        )
    });
    let lb = start(&origin);
    let mut client = Frames::connect(&lb.web());
    client.get(1, "/");
    let heads: Vec<_> =
        std::iter::from_fn(|| client.until(|frame| frame.kind == HEADERS || frame.kind == DATA))
            .take(3)
            .map(|frame| (frame.kind, frame.ends_stream()))
            .collect();
    assert_eq!(heads, [(HEADERS, false), (HEADERS, false), (DATA, true)]);
}

#[test]
fn a_client_that_expects_a_100_gets_it() {
    let origin = Origin::scripted("app-1", |_| Reply::text("thanks"));
    let lb = start(&origin);
    let mut client = Frames::connect(&lb.web());
    let expecting = head("POST", "/", &[("expect", "100-continue"), ("content-length", "2")]);
    client.send(HEADERS, END_HEADERS, 1, &expecting);
    let interim = client.until(|frame| frame.kind == HEADERS).unwrap();
    assert!(!interim.ends_stream());
    client.send(DATA, END_STREAM, 1, b"hi");
    assert_ne!(client.end_of(1).kind, RST_STREAM);
    assert_eq!(origin.only_request().body, b"hi");
}

#[test]
fn a_response_that_breaks_off_never_ends_its_stream() {
    for broken in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let origin = Origin::scripted("app-1", move |request| match request.path() {
            "/broken" => Reply::RawThenClose(broken.into()),
            _ => Reply::text("whole"),
        });
        let lb = start(&origin);
        let mut client = Frames::connect(&lb.web());
        client.get(1, "/broken");
        let end = client.end_of(1);
        assert_eq!((end.kind, end.reason()), (RST_STREAM, Reason::INTERNAL_ERROR), "{broken:?}");
        client.get(3, "/");
        assert_ne!(client.end_of(3).kind, RST_STREAM);
        assert_eq!(reasons(&lb, 2), ["upstream_truncated", "ok"]);
    }
}

#[test]
fn a_client_that_gives_up_frees_its_backend() {
    let gate = Gate::default();
    let held = gate.clone();
    let origin = Origin::scripted("app-1", move |_| Reply::text("late").behind(&held));
    let lb = start(&origin);
    let client = H2::connect(&lb.web());
    let mut streams =
        [client.begin(get("/"), true), client.begin(asking("POST", "/").body(()).unwrap(), false)];
    streams[1].send(b"some", false);
    eventually("both are at the backend", || origin.connections() == 2);
    for stream in &mut streams {
        stream.reset();
    }
    let entries = lb.wait_for_entries(2);
    for entry in &entries {
        assert_eq!((&entry["status"], &entry["reason"]), (&499.into(), &"client_aborted".into()));
    }
    gate.open();
    assert_eq!(client.get("/").text(), "late");
}

#[test]
fn an_answer_before_the_end_of_the_body_is_an_answer() {
    let early = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly";
    let origin = Origin::scripted("app-1", move |_| Reply::Early(early.to_vec()));
    let lb = start(&origin);
    let client = H2::connect(&lb.web());
    let mut stream = client.begin(asking("POST", "/").body(()).unwrap(), false);
    stream.send(b"some", false);
    let head = stream.head().unwrap();
    assert_eq!(stream.rest(head).unwrap().text(), "early");
    stream.reset();
    let entry = &lb.wait_for_entries(1)[0];
    assert_eq!((&entry["status"], &entry["reason"]), (&200.into(), &"ok".into()));
}

#[test]
fn a_body_that_stops_is_answered_408_and_disturbs_nobody() {
    let origin = Origin::named("app-1");
    let lb = both(&origin, "timeouts: { body_idle: 300ms }").start();
    let client = H2::connect(&lb.web());
    let mut slow = client.begin(asking("POST", "/").body(()).unwrap(), false);
    slow.send(b"some", false);
    let began = Instant::now();
    assert_eq!(client.get("/").status, 200);
    let head = slow.head().unwrap();
    assert_eq!(head.status(), 408);
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(client.get("/").status, 200);
    assert!(reasons(&lb, 3).contains(&"client_timeout".to_owned()));
}

#[test]
fn a_frame_that_arrives_slowly_is_progress() {
    let origin = Origin::named("app-1");
    let lb = both(&origin, "timeouts: { body_idle: 400ms }\nlimits: { min_rate: 0B }").start();
    let mut client = Frames::connect(&lb.web());
    client.send(HEADERS, END_HEADERS, 1, &head("POST", "/", &[]));
    let piece = frame(DATA, END_STREAM, 1, &[b'x'; 14]);
    client.client.send(&piece[..9]);
    for byte in &piece[9..] {
        // The pace of the client is what this is about.
        std::thread::park_timeout(Duration::from_millis(50));
        client.client.send([*byte]);
    }
    assert_ne!(client.end_of(1).kind, RST_STREAM);
    assert_eq!(origin.only_request().body.len(), 14);
}

#[test]
fn a_client_that_makes_no_room_loses_its_stream_only() {
    let origin = Origin::scripted("app-1", |request| match request.path() {
        "/large" => Reply::Zeros(10_000_000),
        _ => Reply::text("small"),
    });
    let lb = both(&origin, "timeouts: { write: 400ms }").start();
    let mut client = Frames::connect(&lb.web());
    client.get(1, "/large");
    let reset = client.until(|frame| frame.kind == RST_STREAM).unwrap();
    assert_eq!((reset.stream, reset.reason()), (1, Reason::CANCEL));
    client.send(WINDOW_UPDATE, 0, 0, &1_000_000_u32.to_be_bytes());
    client.get(3, "/");
    assert_ne!(client.end_of(3).kind, RST_STREAM);
    assert_eq!(reasons(&lb, 2), ["client_timeout", "ok"]);
}

#[test]
fn a_client_that_reads_nothing_at_all_is_disconnected() {
    let origin = Origin::scripted("app-1", |_| Reply::Zeros(50_000_000));
    let lb = both(&origin, "timeouts: { write: 400ms }").start();
    let mut client = Frames::connect(&lb.web());
    // All the room in the world, and no intention to take any of it.
    client.send(SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    client.send(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes());
    client.get(1, "/");
    assert_eq!(reasons(&lb, 1), ["client_timeout"]);
    eventually("the backend is free", || origin.working() == 0);
}

#[test]
fn retries_and_deadlines_are_the_same() {
    let bad = Origin::scripted("bad", |_| Reply::status(503));
    let good = Origin::scripted("good", |request| match request.path() {
        "/hang" => Reply::Hang,
        _ => Reply::text("good"),
    });
    let lb = Config::pool(
        &[bad.entry(), good.entry()],
        "health_check: off\nejection: off\nretry: { on: [503], attempts: 1 }",
    )
    .and("routes:\n  - { match: { path: /hang }, pool: app, timeout: 300ms }\n  - pool: app")
    .listener("h2c: true")
    .access_log()
    .start();
    let client = H2::connect(&lb.web());
    for _ in 0..4 {
        assert_eq!(client.get("/").text(), "good");
    }
    assert!(bad.count() > 0);
    let answer = client.get("/hang");
    assert_eq!(answer.status, 504, "{}", answer.text());
    assert!(answer.text().contains("upstream_timeout"), "{}", answer.text());
    let json = asking("GET", "/hang").header("accept", "application/json").body(()).unwrap();
    let answer = client.ask(json, b"").unwrap();
    assert_eq!(answer.field("content-type"), "application/json");
    assert_eq!(client.get("/").status, 200);
    let entries = lb.wait_for_entries(7);
    assert_eq!(entries[4]["reason"], "upstream_timeout");
    assert_eq!(entries[4]["protocol"], "HTTP/2.0");
}

#[test]
fn a_small_body_is_sent_again_to_another_backend() {
    let bad = Origin::scripted("bad", |_| Reply::status(503));
    let good = Origin::named("good");
    let lb = Config::pool(
        &[bad.entry(), good.entry()],
        "health_check: off\nejection: off\nretry: { on: [503], attempts: 1 }",
    )
    .listener("h2c: true")
    .start();
    let client = H2::connect(&lb.web());
    for _ in 0..4 {
        let answer = client.ask(asking("PUT", "/").body(()).unwrap(), &[b'x'; 5000]).unwrap();
        assert_eq!(answer.text(), "good");
    }
    assert!(bad.count() > 0);
    assert!(good.requests().iter().all(|request| request.body == [b'x'; 5000]));
}

#[test]
fn requests_that_were_given_up_and_still_take_our_time_count_against_the_limit() {
    let hole = FullBacklog::new();
    let keys = "health_check: off\ntimeouts: { connect: 60s }";
    let lb = Config::pool(&[hole.address().to_string()], keys)
        .listener("h2c: true\nlimits: { h2_streams: 4 }")
        .without_probe()
        .start();
    lb.wait_for_line("listening on");
    let mut client = Frames::connect(&lb.web());
    let mut refused = None;
    for stream in (1..40).step_by(2) {
        client.get(stream, "/");
        // By the answer to this, the stream has been accepted or refused.
        client.send(PING, 0, 0, b"12345678");
        let told = client.until(|frame| matches!(frame.kind, PING | RST_STREAM)).unwrap();
        if told.kind == RST_STREAM {
            assert_eq!(told.reason(), Reason::REFUSED_STREAM);
            refused = Some(told.stream);
            break;
        }
        client.send(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    }
    // Twice as many as may be open.
    assert_eq!(refused, Some(2 * 8 + 1));
}

#[test]
fn clients_that_send_or_read_a_little_now_and_then_are_cut_off() {
    let origin = Origin::scripted("app-1", |request| match request.method.as_str() {
        "GET" => Reply::Zeros(1 << 20),
        _ => Reply::text("done"),
    });
    let keys = "h2c: true\ntimeouts: { body_idle: 1s, write: 1s }\nlimits: { min_rate: 10KiB }";
    let lb =
        Config::pool(&[origin.entry()], "health_check: off").listener(keys).access_log().start();
    let mut client = Frames::connect(&lb.web());
    client.send(HEADERS, END_HEADERS, 1, &head("POST", "/", &[]));
    eventually("its body is cut off", || {
        let _ = client.client.try_send(&frame(DATA, 0, 1, b"x"));
        lb.entries().len() == 1
    });
    client.get(3, "/");
    eventually("its reading is cut off", || {
        let _ = client.client.try_send(&frame(WINDOW_UPDATE, 0, 3, &1_u32.to_be_bytes()));
        lb.entries().len() == 2
    });
    let entries = lb.entries();
    let entry = |at: usize| (entries[at]["status"].clone(), entries[at]["reason"].clone());
    assert_eq!(entry(0), (408.into(), "client_timeout".into()));
    assert_eq!(entry(1), (200.into(), "client_timeout".into()));
}

#[test]
fn a_window_that_overflows_is_an_error() {
    let gate = Gate::default();
    let held = gate.clone();
    let origin = Origin::scripted("app-1", move |_| Reply::text("late").behind(&held));
    let lb = start(&origin);
    let most = 0x7fff_ffff_u32.to_be_bytes();
    // Of a stream: the stream ends; of the connection: all of it does.
    let mut client = Frames::connect(&lb.web());
    client.get(1, "/");
    client.send(WINDOW_UPDATE, 0, 1, &most);
    let ended = client.end_of(1);
    assert_eq!((ended.kind, ended.reason()), (RST_STREAM, Reason::FLOW_CONTROL_ERROR));
    client.send(WINDOW_UPDATE, 0, 0, &most);
    assert_eq!(client.goodbye(), Reason::FLOW_CONTROL_ERROR);
    gate.open();
}
