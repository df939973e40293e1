//! Bodies that take their time, and whose time that is.

use crate::support::{
    Client, Config, Lb, Origin, Raw, Reply, eventually,
    h2::{DATA, END_HEADERS, END_STREAM, Frames, H2, HEADERS, asking, frame, request as head},
    h2_origin::{Asked, H2Origin},
    request,
};
use bytes::Bytes;
use std::{
    thread,
    time::{Duration, Instant},
};

/// A client may pause for two seconds and a backend for one; nobody waits for a backend for more than
/// three, whatever the client does.
const CLIENTS: &str = "h2c: true\ntimeouts: { body_idle: 2s }\nlimits: { min_rate: 0B }";
const BACKENDS: &str =
    "health_check: off\nejection: off\nretry: { attempts: 0 }\ntimeouts: { read: 1s }";
/// Longer than anybody is waited for.
const LONG: Duration = Duration::from_secs(4);

fn start(backend: &str, keys: &str) -> Lb {
    Config::pool(&[backend.to_owned()], &format!("{BACKENDS}\n{keys}"))
        .listener(CLIENTS)
        .access_log()
        .start()
}

/// Sends something now and then, for a long time.
fn go_on(mut send: impl FnMut()) {
    let began = Instant::now();
    while began.elapsed() < LONG {
        send();
        // The pace of the client is what this is about.
        thread::park_timeout(Duration::from_millis(100));
    }
}

#[track_caller]
fn assert_reason(lb: &Lb, entries: usize, reason: &str) {
    let entries = lb.wait_for_entries(entries);
    assert!(entries.iter().all(|entry| entry["reason"] == reason), "{entries:?}");
}

/// The head of a request, as a backend without a protocol of its own gets it.
fn take_head(backend: &mut Client) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(backend.exactly(1));
    }
    String::from_utf8(head).unwrap()
}

/// A body whose end is not known when its head is there, even if it comes along with it.
const UPLOAD: [&str; 1] = ["Transfer-Encoding: chunked"];

/// Uploads without haste over HTTP/1, and gets this answer.
fn upload(lb: &Lb, answer: &str) {
    let mut client = lb.client();
    client.send(request("POST", "/", &UPLOAD, b"1\r\nx\r\n"));
    go_on(|| client.send("1\r\nx\r\n"));
    client.send("0\r\n\r\n");
    let response = client.response();
    assert_eq!((response.text().as_str(), response.complete), (answer, true));
}

/// The same over HTTP/2.
fn upload_http2(lb: &Lb, answer: &str) {
    let client = H2::connect(&lb.web());
    let mut stream = client.begin(asking("POST", "/").body(()).unwrap(), false);
    go_on(|| stream.send(b"x", false));
    stream.send(b"", true);
    assert_eq!(stream.answer().unwrap().text(), answer);
}

#[test]
fn an_upload_may_take_longer_than_both_sides_may_pause() {
    let (old, new) = (Origin::named("app-1"), H2Origin::named("app-1"));
    let both = [start(&old.entry(), ""), start(&new.entry(), "protocol: http2")];
    thread::scope(|scope| {
        for lb in &both {
            scope.spawn(|| upload(lb, "app-1"));
            scope.spawn(|| upload_http2(lb, "app-1"));
        }
    });
    for lb in &both {
        assert_reason(lb, 2, "ok");
    }
}

#[test]
fn an_upload_that_is_answered_early_may_go_on_as_long() {
    let old = Raw::named("app-1");
    let new = H2Origin::scripted("app-1", |mut asked| async move {
        let mut reply = asked.begin(200, &[]);
        asked.read().await;
        let _ = reply.send_data(Bytes::from_static(b"done"), true);
    });
    let both = [start(&old.entry(), ""), start(&new.entry(), "protocol: http2")];
    thread::scope(|scope| {
        scope.spawn(|| upload(&both[0], "done"));
        scope.spawn(|| upload(&both[1], "done"));
        scope.spawn(|| upload_http2(&both[1], "done"));
        let mut served = old.accept();
        take_head(&mut served);
        served.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n");
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n0\r\n\r\n") {
            seen.extend(served.exactly(1));
        }
        served.send("done");
        assert_reason(&both[0], 1, "ok");
    });
    assert_reason(&both[1], 2, "ok");
}

#[test]
fn a_frame_that_is_long_in_coming_is_not_the_backends_silence() {
    let origin = Origin::named("app-1");
    let lb = start(&origin.entry(), "");
    let mut client = Frames::connect(&lb.web());
    client.send(HEADERS, END_HEADERS, 1, &head("POST", "/", &[]));
    let piece = frame(DATA, END_STREAM, 1, &[b'x'; 4096]);
    let mut sent = 0;
    go_on(|| {
        client.client.send(&piece[sent..sent + 10]);
        sent += 10;
    });
    client.client.send(&piece[sent..]);
    let head = client.until(|frame| frame.kind == HEADERS).expect("a response");
    assert_eq!(head.stream, 1);
    assert_reason(&lb, 1, "ok");
    assert_eq!(origin.only_request().body.len(), 4096);
}

#[test]
fn a_backend_that_falls_silent_in_its_answer_is_cut_off() {
    const HALF: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    let old = Origin::scripted("app-1", |_| Reply::raw(HALF));
    let new = H2Origin::scripted("app-1", |mut asked| async move {
        asked.read().await;
        let mut reply = asked.begin(200, &[]);
        let _ = reply.send_data(Bytes::from_static(b"half"), false);
        std::future::pending::<()>().await;
    });
    for lb in [start(&old.entry(), ""), start(&new.entry(), "protocol: http2")] {
        let mut client = lb.client();
        client.send(request("POST", "/", &UPLOAD, b""));
        client.send("1\r\nx\r\n0\r\n\r\n");
        let response = client.response();
        assert_eq!((response.status, response.complete), (200, false));
        let h2 = H2::connect(&lb.web());
        let mut stream = h2.begin(asking("POST", "/").body(()).unwrap(), false);
        stream.send(b"x", true);
        assert!(stream.answer().is_err());
        assert_reason(&lb, 2, "upstream_truncated");
    }
}

#[test]
fn a_client_that_is_slow_to_read_is_not_the_backends_silence() {
    let origin = Origin::scripted("app-1", |_| Reply::Zeros(32 << 20));
    let lb = start(&origin.entry(), "");
    let mut client = lb.client();
    client.send(request("POST", "/", &UPLOAD, b"1\r\nx\r\n0\r\n\r\n"));
    // Nothing is read for a long time, and that is what this is about.
    thread::park_timeout(LONG);
    let response = client.response();
    assert_eq!((response.body_length, response.complete), (32 << 20, true));
    assert_reason(&lb, 1, "ok");
}

/// Asks for leave to send a body, and sends a bit of it right away.
const HASTY: [&str; 2] = ["Expect: 100-continue", "Content-Length: 10"];

#[test]
fn a_client_that_begins_without_leave_and_stops_is_at_fault() {
    let backend = Raw::named("app-1");
    let lb = Config::pool(&[backend.entry()], "health_check: off\nretry: { attempts: 0 }")
        .listener("timeouts: { body_idle: 300ms }")
        .access_log()
        .start();
    let mut client = lb.client();
    client.send(request("POST", "/", &HASTY, b"x"));
    let mut served = backend.accept();
    take_head(&mut served);
    assert_eq!(client.response().status, 408);
    assert_reason(&lb, 1, "client_timeout");
}

#[test]
fn a_100_does_not_lift_the_time_of_a_try() {
    let origin = Origin::scripted("app-1", |_| Reply::raw("HTTP/1.1 100 Continue\r\n\r\n"));
    let keys = "health_check: off\nretry: { attempts: 0, per_try_timeout: 300ms }";
    let lb = Config::pool(&[origin.entry()], keys).access_log().start();
    let whole = request("POST", "/", &[], b"body");
    for asked in [request("GET", "/", &[], b""), whole] {
        assert_eq!(lb.client().ask(asked).status, 504);
    }
    let mut client = lb.client();
    client.send(request("POST", "/", &UPLOAD, b"1\r\nx\r\n0\r\n\r\n"));
    assert_eq!(client.response().status, 504);
    assert_reason(&lb, 3, "upstream_timeout");
}

/// One request at a time, and one that may wait for its turn.
const ONE: &str =
    "health_check: off\nlimits: { connections_per_backend: 1, queue: 1, queue_timeout: 30s }";

/// Answers the next request at once, without reading its body.
fn refuse(backend: &Raw) -> Client {
    let mut served = backend.accept();
    take_head(&mut served);
    served.send("HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno");
    served
}

/// Waits until the backend is free for another request, with what happens meanwhile.
#[track_caller]
fn assert_freed(lb: &Lb, backend: &Raw, mut meanwhile: impl FnMut()) {
    let mut next = lb.client();
    next.send(request("GET", "/next", &[], b""));
    let mut served = None;
    eventually("the backend is free for the next", || {
        meanwhile();
        served = backend.accept_within(Duration::from_millis(100));
        served.is_some()
    });
    let mut served = served.unwrap();
    assert!(take_head(&mut served).starts_with("GET /next"));
    served.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(next.response().status, 200);
    let entries = lb.wait_for_entries(2);
    assert_eq!((&entries[0]["status"], &entries[0]["reason"]), (&401.into(), &"ok".into()));
}

#[test]
fn who_is_refused_before_sending_a_body_holds_no_backend() {
    let backend = Raw::named("app-1");
    let lb = Config::pool(&[backend.entry()], ONE).listener("h2c: true").access_log().start();
    let mut client = lb.client();
    client.send(request("POST", "/", &HASTY, b""));
    let _served = refuse(&backend);
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (401, "no"));
    assert_freed(&lb, &backend, || {});
    drop(client);

    let lb = Config::pool(&[backend.entry()], ONE).listener("h2c: true").access_log().start();
    let mut client = Frames::connect(&lb.web());
    let expecting = [("expect", "100-continue"), ("content-length", "10")];
    client.send(HEADERS, END_HEADERS, 1, &head("POST", "/", &expecting));
    let _served = refuse(&backend);
    client.until(|frame| frame.stream == 1 && frame.ends_stream()).expect("an answer");
    assert_freed(&lb, &backend, || {});
}

#[test]
fn who_goes_on_sending_after_the_answer_holds_no_backend() {
    let backend = Raw::named("app-1");
    for fast in [false, true] {
        let lb = Config::pool(&[backend.entry()], ONE).access_log().start();
        let mut client = lb.client();
        client.send(request("POST", "/", &["Content-Length: 100000000000"], b"x"));
        let _served = refuse(&backend);
        assert_eq!(client.response().status, 401);
        let more = vec![b'x'; if fast { 1 << 20 } else { 1 }];
        client.set_write_patience(Duration::from_millis(100));
        assert_freed(&lb, &backend, || drop(client.try_send(&more)));
    }
}

#[test]
fn who_goes_on_sending_after_an_answer_that_is_a_head_alone_holds_no_backend() {
    let origin = H2Origin::scripted("app-1", async |mut asked: Asked| match &*asked.seen.path {
        "/refused" => asked.answer_with_head(401),
        _ => asked.answer("served"),
    });
    let lb = Config::pool(&[origin.entry()], &format!("{ONE}\nprotocol: http2"))
        .listener("h2c: true")
        .access_log()
        .start();
    let mut client = lb.client();
    client.send(request("POST", "/refused", &["Content-Length: 100000000"], b"x"));
    let response = client.response();
    assert_eq!((response.status, response.complete, response.body.len()), (401, true, 0));
    assert_eq!(lb.get("/next").text(), "served");
    // What went out whole is no failure.
    let mut entries = lb.wait_for_entries(2);
    entries.retain(|entry| entry["path"] == "/refused");
    assert_eq!((&entries[0]["status"], &entries[0]["reason"]), (&401.into(), &"ok".into()));
    drop(client);

    let mut client = Frames::connect(&lb.web());
    let fields = [("content-length", "100000000")];
    client.send(HEADERS, END_HEADERS, 1, &head("POST", "/refused", &fields));
    client.until(|frame| frame.stream == 1 && frame.ends_stream()).expect("an answer");
    assert_eq!(lb.get("/next").text(), "served");
}
