//! Requests that are in flight when `server.drain_timeout` is over.

use crate::{
    metrics::Scrape,
    support::{
        Client, Config, Lb, Origin, Raw, Reply, Response, SOON,
        address::FullBacklog,
        eventually,
        h2::{DATA, END_HEADERS, Frames, H2, HEADERS, RST_STREAM, asking, get},
        lb::{entries, server},
        request, tally,
    },
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// In front of these backends, with further keys of the pool and such a `drain_timeout`.
fn config(backends: &[String], keys: &str, drain_timeout: &str) -> Config {
    Config::pool(backends, &format!("health_check: off\nejection: off\n{keys}"))
        .and(&server(&format!("drain_timeout: {drain_timeout}")))
        .and("admin: { address: \"@2@\", hosts: [test.example] }")
        .listener("h2c: true")
        .access_log()
}

/// Waits until so many requests are on backends.
fn wait_for(lb: &Lb, in_flight: f64) {
    eventually("they are on their way", || {
        Scrape::of(lb).sum("backend_in_flight", &[]) >= in_flight
    });
}

/// Has the process drain, and the time for it be over.
fn run_out(lb: &Lb) {
    lb.signal(Signal::TERM);
    lb.wait_for_line("drain_timeout is over");
}

/// What is in the access log once the process has ended as it should.
fn logged(mut lb: Lb) -> Vec<Value> {
    assert_eq!(lb.program.wait_for_exit(SOON).expect("it exits").code(), Some(0));
    entries(&lb.read("access.log"))
}

#[track_caller]
fn only(lb: Lb) -> Value {
    let mut entries = logged(lb);
    assert_eq!(entries.len(), 1, "{entries:#?}");
    entries.remove(0)
}

#[track_caller]
fn assert_told(response: &Response, id: &Value) {
    assert_eq!(response.status, 503);
    assert!(response.headers.lists("connection", "close"), "{:?}", response.headers);
    assert!(response.text().starts_with("503 Service Unavailable: drain_timeout\n"));
    assert_eq!(response.headers.get("x-request-id"), id.as_str());
    assert!(response.complete);
}

#[track_caller]
fn assert_entry(entry: &Value, expected: &Value) {
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&entry[key], value, "{key} in {entry:#?}");
    }
}

#[test]
fn a_client_without_an_answer_is_told_and_logged() {
    let origin = Origin::scripted("app-1", |_| Reply::Hang);
    let lb = config(&[origin.entry()], "", "300ms").start();
    let mut client = lb.client();
    client.send(request("GET", "/a/b?c=d", &["User-Agent: tester", "Referer: http://a/"], b""));
    eventually("it arrives", || origin.count() == 1);
    run_out(&lb);
    let response = client.response();
    assert!(client.is_closed());
    let entry = only(lb);
    assert_told(&response, &entry["request_id"]);
    let expected = json!({
        "status": 503, "reason": "drain_timeout", "method": "GET", "path": "/a/b?c=d",
        "host": "test.example", "user_agent": "tester", "referer": "http://a/",
        "protocol": "HTTP/1.1", "pool": "app", "backend": "app-1", "tries": 1, "bytes_in": 0,
        "bytes_out": response.body.len(), "client_ip": "127.0.0.1",
    });
    assert_entry(&entry, &expected);
    let took = entry["duration_ms"].as_f64().unwrap();
    assert!((300.0..5000.0).contains(&took), "{entry:#?}");
}

#[test]
fn no_time_at_all_is_logged_as_well() {
    let origin = Origin::scripted("app-1", |_| Reply::Hang);
    let lb = config(&[origin.entry()], "", "0s").start();
    let mut clients: Vec<_> = (0..20).map(|_| lb.client()).collect();
    for client in &mut clients {
        client.send("GET /old HTTP/1.0\r\nHost: a.example\r\n\r\n");
    }
    eventually("they arrive", || origin.count() == 20);
    run_out(&lb);
    for client in &mut clients {
        assert_eq!(client.response().status, 503);
    }
    let entries = logged(lb);
    assert_eq!(entries.len(), 20);
    let expected = json!({
        "status": 503, "reason": "drain_timeout", "path": "/old", "host": "a.example",
        "protocol": "HTTP/1.0",
    });
    for entry in &entries {
        assert_entry(entry, &expected);
    }
}

/// Whatever it is that a client waits for that has said all.
#[test]
fn what_a_request_waits_for_makes_no_difference() {
    let full = FullBacklog::new();
    let connecting = format!("{{ address: \"{}\" }}", full.address());
    let keys = "timeouts: { connect: 1m }\n\
                limits: { connections_per_backend: 1, queue: 5, queue_timeout: 1m }";
    let get = |path: &str| request("GET", path, &[], b"");
    let origin = Origin::scripted("app-1", |_| Reply::Hang);
    for (path, backend) in
        [("/half-closed", origin.entry()), ("/connecting", connecting), ("/queued", origin.entry())]
    {
        let lb = config(&[backend], keys, "500ms").start();
        let mut clients = vec![lb.client()];
        clients[0].send(get(path));
        wait_for(&lb, 1.0);
        match path {
            "/half-closed" => clients[0].half_close(),
            "/queued" => {
                clients.push(lb.client());
                clients[1].send(get(path));
                eventually("it waits", || Scrape::of(&lb).sum("queue_depth", &[]) >= 1.0);
            }
            _ => {}
        }
        run_out(&lb);
        for client in &mut clients {
            assert_eq!(client.response().status, 503, "{path}");
        }
        let entries = logged(lb);
        assert_eq!(entries.len(), clients.len(), "{entries:#?}");
        for entry in &entries {
            let expected = json!({
                "status": 503, "reason": "drain_timeout", "method": "GET", "path": path,
                "host": "test.example", "protocol": "HTTP/1.1",
            });
            assert_entry(entry, &expected);
        }
    }
}

#[test]
fn uploads_that_are_not_whole_are_told_and_logged() {
    let backend = Raw::named("app-1");
    let lb = config(&[backend.entry()], "", "500ms").start();
    let mut client = lb.client();
    client.send("POST /1 HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\nfour");
    let mut served = vec![backend.accept()];
    read_up_to(&mut served[0], b"four");
    let http2 = H2::connect(&lb.web());
    let head = asking("POST", "/2").header("user-agent", "tester").body(()).unwrap();
    let mut stream = http2.begin(head, false);
    stream.send(b"of two", false);
    served.push(backend.accept());
    read_up_to(&mut served[1], b"of two\r\n");
    run_out(&lb);
    let response = client.response();
    let answer = stream.answer().expect("an answer");
    assert_eq!((response.status, answer.status.as_u16()), (503, 503));
    let entries = logged(lb);
    assert_eq!(entries.len(), 2, "{entries:#?}");
    for (path, expected) in [
        ("/1", json!({ "bytes_in": 4, "host": "a.example", "protocol": "HTTP/1.1" })),
        ("/2", json!({ "bytes_in": 6, "user_agent": "tester", "protocol": "HTTP/2.0" })),
    ] {
        let entry = entries.iter().find(|entry| entry["path"] == path).expect(path);
        assert_entry(entry, &json!({ "status": 503, "reason": "drain_timeout", "tries": 1 }));
        assert_entry(entry, &expected);
    }
}

#[track_caller]
fn read_up_to(served: &mut Client, end: &[u8]) {
    let mut seen = Vec::new();
    while !seen.ends_with(end) {
        let piece = served.try_some().expect("the request");
        assert!(!piece.is_empty());
        seen.extend(piece);
    }
}

#[test]
fn a_response_that_has_begun_is_broken_off_and_logged_as_it_was_sent() {
    for (path, head, begins) in [
        ("/chunked", "Transfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n", &b"4\r\nfour\r\n"[..]),
        ("/length", "Content-Length: 100\r\n\r\nfour", b"four"),
    ] {
        let head = format!("HTTP/1.1 206 Partial Content\r\n{head}");
        let origin = begun(head);
        let lb = config(&[origin.entry()], "", "300ms").start();
        let mut client = lb.client();
        client.send(request("GET", path, &[], b""));
        assert_eq!(client.head().status, 206);
        assert_eq!(client.exactly(begins.len()), begins);
        run_out(&lb);
        assert!(client.is_closed(), "nothing more comes");
        let expected = json!({
            "status": 206, "reason": "drain_timeout", "path": path, "bytes_out": 4, "tries": 1,
        });
        assert_entry(&only(lb), &expected);
    }
}

/// A backend that begins its answers like this and never ends them, but for requests of `/`.
fn begun(answer: impl Into<Vec<u8>>) -> Origin {
    let answer = answer.into();
    Origin::scripted("app-1", move |request| match request.path() {
        "/" => Reply::Hang,
        _ => Reply::Pieces(vec![
            (Duration::ZERO, answer.clone()),
            (Duration::from_secs(3600), Vec::new()),
        ]),
    })
}

#[test]
fn streams_of_http2_are_told_or_reset_and_logged() {
    let origin = begun("HTTP/1.1 206 Partial Content\r\nContent-Length: 100\r\n\r\nfour");
    let lb = config(&[origin.entry()], "", "300ms").start();
    let mut frames = Frames::connect(&lb.web());
    frames.get(1, "/begun");
    frames.until(|frame| frame.kind == DATA && frame.payload == b"four").expect("a piece");
    let client = H2::connect(&lb.web());
    let asked = client.begin(get("/"), true);
    wait_for(&lb, 2.0);
    run_out(&lb);
    let ended = frames.end_of(1);
    assert_eq!((ended.kind, ended.reason()), (RST_STREAM, h2::Reason::INTERNAL_ERROR));
    let answer = asked.answer().expect("an answer");
    assert_eq!(answer.status, 503);
    assert!(answer.text().starts_with("503 Service Unavailable: drain_timeout\n"));
    let entries = logged(lb);
    assert_eq!(entries.len(), 2, "{entries:#?}");
    for (path, status, bytes_out) in [("/begun", 206, 4), ("/", 503, answer.body.len())] {
        let entry = entries.iter().find(|entry| entry["path"] == path).expect(path);
        let expected = json!({
            "status": status, "bytes_out": bytes_out, "reason": "drain_timeout", "method": "GET",
            "protocol": "HTTP/2.0", "host": "test.example", "tries": 1, "backend": "app-1",
        });
        assert_entry(entry, &expected);
    }
}

/// A client that says nothing more is not waited for: neither the one that never takes in that it is
/// to go, nor the one whose head is not whole.
#[test]
fn clients_that_say_nothing_do_not_hold_up_the_end() {
    let origin = Origin::scripted("app-1", |_| Reply::Hang);
    let lb = config(&[origin.entry()], "", "300ms").start();
    let mut silent = Frames::connect(&lb.web());
    silent.get(1, "/");
    silent.send(HEADERS, END_HEADERS, 3, &crate::support::h2::request("POST", "/3", &[]));
    let mut half = lb.client();
    half.send("GET /half HTTP/1.1\r\nHost: a\r\n");
    wait_for(&lb, 2.0);
    run_out(&lb);
    let over = Instant::now();
    let entries = logged(lb);
    let took = over.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    let reasons: Vec<_> = entries.iter().map(|entry| entry["reason"].to_string()).collect();
    let expected = [("\"client_timeout\"".to_owned(), 1), ("\"drain_timeout\"".to_owned(), 2)];
    assert_eq!(tally(&reasons), expected.into());
}

#[test]
fn a_request_that_ends_at_that_moment_has_one_line() {
    let origin = Origin::scripted("app-1", |request| {
        let delay: u64 = request.path()[1..].parse().unwrap();
        Reply::text("whole").after(Duration::from_millis(delay))
    });
    let lb = config(&[origin.entry()], "", "300ms").start();
    let mut clients: Vec<_> =
        (150..210).map(|half| (format!("/{}", half * 2), lb.client())).collect();
    for (path, client) in &mut clients {
        client.send(request("GET", path, &[], b""));
    }
    eventually("they arrive", || origin.count() == 60);
    run_out(&lb);
    let answers: Vec<_> =
        clients.iter_mut().map(|(path, client)| (path.clone(), client.try_response())).collect();
    let entries = logged(lb);
    assert_eq!(entries.len(), 60);
    for (path, answer) in &answers {
        let of_it: Vec<_> = entries.iter().filter(|entry| entry["path"] == **path).collect();
        assert_eq!(of_it.len(), 1, "{of_it:#?}");
        let (status, reason) = match answer {
            Ok(answer) if answer.status == 200 => (200, "ok"),
            Ok(_) => (503, "drain_timeout"),
            // It was about to begin.
            Err(_) => (200, "drain_timeout"),
        };
        assert_entry(of_it[0], &json!({ "status": status, "reason": reason }));
    }
    assert!(entries.iter().any(|entry| entry["reason"] == "drain_timeout"), "some are cut off");
}

/// The process is there for a while yet, as a tunnel whose client takes nothing does not end. On a busy
/// machine that may be too short to read its metrics.
#[test]
fn what_is_cut_off_is_counted_once_and_a_tunnel_that_does_not_end_is_logged() {
    let origin = Origin::scripted("app-1", |request| {
        if request.headers.has("upgrade") { Reply::Upgrade } else { Reply::Hang }
    });
    let metrics = (0..10).find_map(|_| cut_off_beside_a_tunnel(&origin)).expect("metrics");
    let counted = |series: &str, labels: &[&str]| metrics.sum(series, labels).to_string();
    assert_eq!(counted("requests_total", &["status=\"503\""]), "2");
    assert_eq!(counted("responses_local_total", &["reason=\"drain_timeout\""]), "2");
}

/// The metrics once two requests were cut off, one of HTTP/1 and one of HTTP/2, if they could be read.
fn cut_off_beside_a_tunnel(origin: &Origin) -> Option<Scrape> {
    let lb = config(&[origin.entry()], "", "300ms").start();
    let mut tunnel = lb.client();
    tunnel.send(request("GET", "/tunnel", &["Connection: Upgrade", "Upgrade: websocket"], b""));
    assert_eq!(tunnel.head().status, 101);
    tunnel.set_write_patience(Duration::from_millis(500));
    let piece = vec![b'x'; 65536];
    while tunnel.try_send(&piece).is_ok() {}
    let mut client = lb.client();
    client.send(request("GET", "/", &[], b""));
    let http2 = H2::connect(&lb.web());
    let stream = http2.begin(get("/"), true);
    wait_for(&lb, 3.0);
    run_out(&lb);
    assert_eq!(stream.answer().expect("an answer").status, 503);
    assert_eq!(client.response().status, 503);
    let metrics = Scrape::try_of(&lb);
    let entries = logged(lb);
    assert_eq!(entries.len(), 3, "{entries:#?}");
    let entry = entries.iter().find(|entry| entry["path"] == "/tunnel").expect("the tunnel");
    assert_entry(entry, &json!({ "status": 101, "reason": "drain_timeout" }));
    metrics
}
