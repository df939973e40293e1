//! `body_limit`: the longest body that passes.

use crate::support::{Gate, Origin, Reply, eventually, filter_error, filtered, request};

const CHUNKED: &[&str] = &["Transfer-Encoding: chunked"];

fn chunk(length: usize) -> Vec<u8> {
    let mut bytes = format!("{length:x}\r\n").into_bytes();
    bytes.resize(bytes.len() + length, b'x');
    bytes.extend_from_slice(b"\r\n");
    bytes
}

#[test]
fn a_length_above_the_limit_is_refused_without_asking_a_backend() {
    let origin = Origin::named("a");
    let lb = filtered(&[&origin], "", &["body_limit: { max: 1KiB }"]).access_log().start();
    let mut client = lb.client();
    let refused = client.ask(request("POST", "/", &[], &[b'x'; 1025]));
    assert_eq!(refused.status, 413);
    assert!(refused.text().contains("denied"), "{}", refused.text());
    assert!(!refused.headers.has("x-backend-server"));
    // The body was read and thrown away, so the connection goes on.
    let passed = client.ask(request("POST", "/", &[], &[b'x'; 1024]));
    assert_eq!((passed.status, origin.only_request().body_length), (200, 1024));
    assert_eq!(client.get("/").status, 200);
    let entry = &lb.wait_for_entries(3)[0];
    assert_eq!((&entry["reason"], &entry["status"]), (&"denied".into(), &413.into()));
    assert_eq!((&entry["tries"], &entry["pool"]), (&0.into(), &serde_json::Value::Null));
}

#[test]
fn a_client_that_waits_for_a_100_is_refused_before_it_sends() {
    let origin = Origin::named("a");
    let lb = filtered(&[&origin], "", &["body_limit: { max: 1KiB }"]).start();
    let mut client = lb.client();
    client.send(request("POST", "/", &["Expect: 100-continue", "Content-Length: 5000"], b""));
    assert_eq!(client.head().status, 413);
    assert_eq!(origin.count(), 0);
}

#[test]
fn a_chunked_body_is_counted_and_cut() {
    let origin = Origin::named("a");
    let keys = "ejection: { consecutive_failures: 1 }\nhealth_check: off";
    let lb = filtered(&[&origin], keys, &["body_limit: { max: 1KiB }"]).access_log().start();

    let mut client = lb.client();
    client.send(request("PUT", "/", CHUNKED, b""));
    client.send(chunk(1000));
    eventually("the backend has the beginning", || origin.accepted() == 1);
    client.send(chunk(25));
    let refused = client.response();
    assert_eq!(refused.status, 413);
    assert!(refused.text().contains("denied"), "{}", refused.text());
    eventually("the connection to the backend ends", || origin.open() == 0);
    // It had a part of the body and did not take it for the whole.
    assert!(origin.requests().iter().all(|request| !request.complete));

    // PUT may be repeated, but was not; and the backend is not blamed: it would be ejected, and a
    // pool of one keeps it only because there is no other.
    let entry = &lb.wait_for_entries(1)[0];
    assert_eq!((&entry["reason"], &entry["status"]), (&"denied".into(), &413.into()));
    assert_eq!(entry["tries"], 1);
    assert_eq!(origin.accepted(), 1);
}

#[test]
fn a_client_that_goes_on_sending_hears_why_it_is_refused() {
    let origin = Origin::named("a");
    let lb = filtered(&[&origin], "", &["body_limit: { max: 1KiB }"]).start();
    let known = format!("Content-Length: {}", 1 << 20);
    let body = [chunk(1 << 20), b"0\r\n\r\n".to_vec()].concat();
    for (field, body) in [(CHUNKED[0], body), (known.as_str(), vec![b'x'; 1 << 20])] {
        let mut client = lb.client();
        client.send(request("POST", "/", &[field], b""));
        client.send(body);
        assert_eq!(client.response().status, 413, "{field}");
    }
    assert!(origin.requests().iter().all(|request| !request.complete));
}

#[test]
fn a_chunked_body_up_to_the_limit_passes_whole() {
    let origin = Origin::named("a");
    let lb = filtered(&[&origin], "", &["body_limit: { max: 1KiB }"]).start();
    let mut client = lb.client();
    client.send(request("POST", "/", CHUNKED, b""));
    client.send(chunk(1000));
    client.send(chunk(24));
    client.send(b"0\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let seen = origin.only_request();
    assert!(seen.complete);
    assert_eq!(seen.body_length, 1024);
}

#[test]
fn no_backend_is_ejected_for_a_body_that_was_cut() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let keys = "ejection: { consecutive_failures: 1 }\nhealth_check: off";
    let lb = filtered(&[&a, &b], keys, &["body_limit: { max: 10B }"]).start();
    for _ in 0..4 {
        let mut client = lb.client();
        client.send(request("POST", "/", CHUNKED, b""));
        client.send(chunk(5));
        client.send(chunk(6));
        assert_eq!(client.response().status, 413);
    }
    let mut client = lb.client();
    let mut names: Vec<String> = (0..4).map(|_| client.get("/").text()).collect();
    names.sort();
    assert_eq!(names, ["a", "a", "b", "b"]);
    assert_eq!(lb.lines_with("ejected"), 0);
}

#[test]
fn an_answer_that_has_begun_is_broken_off() {
    let origin = Origin::scripted("a", |_| Reply::EchoStream);
    let lb = filtered(&[&origin], "", &["body_limit: { max: 10B }"]).access_log().start();
    let mut client = lb.client();
    client.send(request("POST", "/", CHUNKED, b""));
    client.send(chunk(5));
    assert_eq!(client.head().status, 200);
    assert_eq!(client.chunk(), b"xxxxx");
    client.send(chunk(6));
    assert!(client.is_closed());
    assert_eq!(lb.wait_for_entries(1)[0]["reason"], "denied");
}

#[test]
fn a_retry_counts_the_body_anew() {
    let gate = Gate::default();
    let bad = Origin::scripted("bad", {
        let gate = gate.clone();
        move |_| Reply::reset().behind(&gate)
    });
    let good = Origin::named("good");
    let keys = "health_check: off\nretry: { on: [connect_failure, reset] }";
    let lb = filtered(&[&bad, &good], keys, &["body_limit: { max: 10B }"]).start();
    gate.open();
    for _ in 0..2 {
        let mut client = lb.client();
        client.send(request("PUT", "/", CHUNKED, b""));
        client.send(chunk(8));
        client.send(b"0\r\n\r\n");
        assert_eq!(client.response().text(), "good");
    }
    assert!(bad.count() > 0, "a try went to the bad backend");
    assert!(good.requests().iter().all(|request| request.body_length == 8));
}

#[test]
fn what_is_wrong_with_a_body_limit_is_said() {
    let head = "routes[0].filters[0].body_limit";
    for (settings, expected) in [
        ("body_limit", "4:22: {}: found null; expected a map with max"),
        (
            "body_limit: { max: ~ }",
            "4:30: {}.max: found null; expected a size such as 512B, 64KiB, 10MiB or 1GiB",
        ),
        (
            "body_limit: {}",
            "4:11: {}: missing key \"max\"; expected a size such as 512B, 64KiB, 10MiB or 1GiB",
        ),
        (
            "body_limit: { max: 10MB }",
            "4:30: {}.max: found \"10MB\"; expected a size such as 512B, 64KiB, 10MiB or 1GiB; did you mean \"10MiB\"?",
        ),
        ("body_limit: { maximum: 1B }", "4:25: {}.maximum: unknown key \"maximum\"; expected max"),
    ] {
        assert_eq!(filter_error(settings), expected.replace("{}", head), "{settings}");
    }
}
