//! Clients that make us work for nothing.

use super::start;
use crate::support::{
    Gate, Lb, Origin, Reply, eventually,
    h2::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, H2, HEADERS, PING, PRIORITY,
        RST_STREAM, SETTINGS, fields, frame, get, request,
    },
};
use h2::Reason;
use std::time::Duration;

/// Sends the same bytes until the balancer has had enough; the number of times it took them.
fn flood(client: &mut Frames, bytes: &[u8], most: usize) -> usize {
    let batch = 100;
    let many = bytes.repeat(batch);
    for sent in 0..most / batch {
        if client.client.try_send(&many).is_err() {
            return sent * batch;
        }
    }
    most
}

#[track_caller]
fn assert_calmed(lb: &Lb, what: &str, begin: impl Fn(&mut Frames), bytes: &[u8]) {
    let other = H2::connect(&lb.web());
    assert_eq!(other.get("/").status, 200);
    let before = lb.program.memory("VmRSS");
    let mut client = Frames::connect(&lb.web());
    begin(&mut client);
    client.client.set_write_patience(Duration::from_secs(5));
    flood(&mut client, bytes, 200_000);
    // The end of a connection may overtake its last words while the client still sends.
    while let Some(frame) = client.next() {
        if frame.kind == GOAWAY {
            let calm =
                [Reason::ENHANCE_YOUR_CALM, Reason::PROTOCOL_ERROR, Reason::COMPRESSION_ERROR];
            assert!(calm.contains(&frame.reason()), "{what}: {frame:?}");
            break;
        }
    }
    client.client.rest();
    assert!(client.client.is_closed(), "{what}: still open");
    let grown = lb.program.memory("VmRSS").saturating_sub(before);
    assert!(grown < 16 << 20, "{what}: grown by {grown} bytes");
    assert_eq!(other.get("/").status, 200, "{what}");
}

#[test]
fn floods_of_empty_frames_end_their_connection_only() {
    let origin = Origin::named("app-1");
    let lb = start(&origin);
    let head = request("GET", "/", &[]);
    let open = |client: &mut Frames| {
        client.send(HEADERS, END_HEADERS, 1, &request("POST", "/", &[]));
    };
    let begin_head = |client: &mut Frames| {
        client.send(HEADERS, 0, 1, &head);
    };
    assert_calmed(&lb, "PING", |_| {}, &frame(PING, 0, 0, b"12345678"));
    assert_calmed(&lb, "SETTINGS", |_| {}, &frame(SETTINGS, 0, 0, b""));
    assert_calmed(&lb, "SETTINGS that change", |_| {}, &frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 1, 0]));
    assert_calmed(&lb, "PRIORITY", |_| {}, &frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1]));
    assert_calmed(&lb, "unknown", |_| {}, &frame(0x77, 0, 0, b"what"));
    assert_calmed(&lb, "empty DATA", open, &frame(DATA, 0, 1, b""));
    assert_calmed(&lb, "padding", open, &frame(DATA, 8, 1, &[0]));
    assert_calmed(&lb, "CONTINUATION", begin_head, &frame(CONTINUATION, 0, 1, b""));
    assert_calmed(
        &lb,
        "full CONTINUATION",
        begin_head,
        &frame(CONTINUATION, 0, 1, &fields(&[("x", "y")])),
    );
}

#[test]
fn opening_and_resetting_streams_without_end_is_a_flood() {
    let gate = Gate::default();
    let held = gate.clone();
    let origin = Origin::scripted("app-1", move |request| match request.path() {
        "/slow" => Reply::text("slow").behind(&held),
        _ => Reply::text("fast"),
    });
    let lb = start(&origin);
    let other = H2::connect(&lb.web());
    let before = lb.program.memory("VmRSS");
    let mut client = Frames::connect(&lb.web());
    let block = request("GET", "/slow", &[]);
    let mut stream = 1;
    for _ in 0..50_000 {
        let mut pair = frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        pair.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        if client.client.try_send(&pair).is_err() {
            break;
        }
        stream += 2;
    }
    while let Some(frame) = client.next() {
        if frame.kind == GOAWAY {
            assert_eq!(frame.reason(), Reason::ENHANCE_YOUR_CALM);
            break;
        }
    }
    client.client.rest();
    assert!(client.client.is_closed());
    // Hardly any of it has come to the backend.
    assert!(origin.count() < 2_000, "{} requests", origin.count());
    gate.open();
    assert_eq!(other.get("/").text(), "fast");
    let grown = lb.program.memory("VmRSS").saturating_sub(before);
    assert!(grown < 32 << 20, "grown by {grown} bytes");
    eventually("the backend is free", || origin.working() == 0);
}

#[test]
fn a_client_that_gives_up_now_and_then_is_no_flood() {
    let origin = Origin::scripted("app-1", |request| match request.path() {
        "/slow" => Reply::Hang,
        _ => Reply::text("fast"),
    });
    let lb = start(&origin);
    let client = H2::connect(&lb.web());
    for _ in 0..120 {
        let mut given_up = client.begin(get("/slow"), true);
        assert_eq!(client.get("/").status, 200);
        assert_eq!(client.get("/").status, 200);
        given_up.reset();
    }
    assert_eq!(client.get("/").status, 200);
}

#[test]
fn giving_up_every_request_at_once_is_a_flood_however_slowly_it_comes() {
    let origin = Origin::scripted("app-1", |_| Reply::Hang);
    let lb = start(&origin);
    let mut client = Frames::connect(&lb.web());
    let block = request("GET", "/", &[]);
    for round in 0..100 {
        let stream = 2 * round + 1;
        client.send(HEADERS, END_HEADERS | END_STREAM, stream, &block);
        eventually("it is at the backend", || origin.count() > round as usize);
        client.send(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    }
    assert_eq!(client.goodbye(), Reason::ENHANCE_YOUR_CALM);
}
