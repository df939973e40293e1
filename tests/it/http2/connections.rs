//! Connections: how they begin, how long they live, how they end.

use super::{both, reasons, start};
use crate::support::{
    Client, Gate, Origin, Reply, SOON, eventually,
    h2::{
        END_HEADERS, END_STREAM, Frame, Frames, GOAWAY, H2, HEADERS, PREFACE, RST_STREAM, SETTINGS,
        frame, get, request as head,
    },
    lb::server,
    request,
};
use h2::Reason;
use rustix::process::Signal;
use std::time::{Duration, Instant};

#[test]
fn one_listener_speaks_both() {
    let origin = Origin::named("app-1");
    let lb = start(&origin);
    let client = H2::connect(&lb.web());
    assert_eq!(client.get("/").text(), "app-1");
    assert_eq!(lb.get("/").text(), "app-1");
    assert_eq!(client.get("/").text(), "app-1");
    let protocols: Vec<_> =
        lb.wait_for_entries(3).iter().map(|entry| entry["protocol"].clone()).collect();
    assert_eq!(protocols, ["HTTP/2.0", "HTTP/1.1", "HTTP/2.0"]);
}

#[test]
fn what_only_looks_like_the_preface_is_http1() {
    let origin = Origin::named("app-1");
    let lb = start(&origin);
    for bytes in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRINT / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut client = lb.client();
        for byte in bytes {
            client.send([*byte]);
        }
        assert_eq!(client.response().status, 200, "{:?}", String::from_utf8_lossy(bytes));
    }
    let mut client = lb.client();
    client.send(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n");
    assert_eq!(client.response().status, 505);
}

#[test]
fn the_preface_may_come_in_single_bytes() {
    let origin = Origin::named("app-1");
    let lb = start(&origin);
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, b""));
    bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("GET", "/", &[])));
    let mut client = lb.client();
    for byte in bytes {
        client.send([byte]);
    }
    let mut client = Frames { client };
    assert_ne!(client.end_of(1).kind, RST_STREAM);
}

#[test]
fn without_h2c_the_preface_is_refused() {
    let origin = Origin::named("app-1");
    let lb = both(&origin, "").listener("h2c: false").start();
    let mut client = lb.client();
    client.send(PREFACE);
    assert_eq!(client.response().status, 505);
}

#[test]
fn a_beginning_that_goes_no_further_is_closed() {
    let origin = Origin::named("app-1");
    let lb = both(&origin, "timeouts: { header: 300ms }").start();
    let began = Instant::now();
    let mut half = frame(HEADERS, END_STREAM, 1, &head("GET", "/", &[]));
    let mut whole = PREFACE.to_vec();
    whole.extend(frame(SETTINGS, 0, 0, b""));
    let mut clients: Vec<Client> = Vec::new();
    let beginnings = [
        b"".to_vec(),
        PREFACE[..10].to_vec(),
        PREFACE.to_vec(),
        [PREFACE, &[0, 0, 0]].concat(),
        [&whole[..], &half].concat(),
        {
            half.truncate(20);
            [&whole[..], &half].concat()
        },
    ];
    for beginning in &beginnings {
        let mut client = lb.client();
        client.send(beginning);
        clients.push(client);
    }
    for (client, beginning) in clients.iter_mut().zip(&beginnings) {
        client.rest();
        assert!(client.is_closed(), "{beginning:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let reasons = reasons(&lb, 5);
    assert!(reasons.iter().all(|reason| reason == "client_timeout"), "{reasons:?}");
    assert_eq!(origin.count(), 0);
}

#[test]
fn an_idle_connection_is_told_to_go() {
    let origin = Origin::slow("app-1", Duration::from_millis(600));
    let lb = both(&origin, "timeouts: { keepalive: 300ms }").start();
    // A request takes longer than that, and does not count as idleness.
    let mut client = Frames::connect(&lb.web());
    client.get(1, "/");
    assert_ne!(client.end_of(1).kind, RST_STREAM);
    let answered = Instant::now();
    let goodbye = client.until(|frame| frame.kind == GOAWAY).expect("a GOAWAY");
    assert_eq!(goodbye.reason(), Reason::NO_ERROR);
    assert_eq!(goodbye.payload[..4], [0, 0, 0, 1]);
    assert!(client.next().is_none());
    let waited = answered.elapsed();
    assert!((200..2000).contains(&waited.as_millis()), "{waited:?}");
    // One that never asks anything is told the same.
    assert_eq!(Frames::connect(&lb.web()).goodbye(), Reason::NO_ERROR);
}

#[test]
fn a_connection_takes_as_many_requests_as_it_may() {
    let origin = Origin::named("app-1");
    let lb = both(&origin, "limits: { requests_per_connection: 3 }").start();
    let mut client = Frames::connect(&lb.web());
    for stream in [1, 3, 5, 7] {
        client.get(stream, "/");
    }
    let (mut ended, mut refused, mut told) = (0, 0, false);
    while let Some(frame) = client.next() {
        told |= frame.kind == GOAWAY && frame.reason() == Reason::NO_ERROR;
        ended += usize::from(frame.ends_stream());
        refused +=
            usize::from(frame.kind == RST_STREAM && frame.reason() == Reason::REFUSED_STREAM);
        if ended == 3 && refused == 1 && told {
            break;
        }
    }
    assert!(ended == 3 && refused == 1 && told, "{ended} {refused} {told}");
    assert_eq!(origin.count(), 3);
    assert_eq!(H2::connect(&lb.web()).get("/").status, 200);
}

#[test]
fn streams_over_the_limit_are_refused() {
    let gate = Gate::default();
    let held = gate.clone();
    let origin = Origin::scripted("app-1", move |_| Reply::text("ok").behind(&held));
    let lb = both(&origin, "limits: { h2_streams: 2 }").start();
    let mut client = Frames::connect(&lb.web());
    let settings = client.until(|frame| frame.kind == SETTINGS && !frame.payload.is_empty());
    let settings = settings.unwrap().payload;
    assert!(settings.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 2]), "{settings:?}");
    for stream in [1, 3, 5] {
        client.get(stream, "/");
    }
    let refused = client.until(|frame| frame.kind == RST_STREAM).unwrap();
    assert_eq!((refused.stream, refused.reason()), (5, Reason::REFUSED_STREAM));
    gate.open();
    let mut ended = Vec::new();
    while ended.len() < 2 {
        ended.push(client.until(Frame::ends_stream).unwrap().stream);
    }
    ended.sort_unstable();
    assert_eq!(ended, [1, 3]);
    client.get(7, "/");
    assert_ne!(client.end_of(7).kind, RST_STREAM);
    assert_eq!(origin.count(), 3);
}

#[test]
fn one_connection_too_many_is_told_in_its_language() {
    let origin = Origin::named("app-1");
    let lb = both(&origin, "max_connections: 1").without_probe().start();
    eventually("it listens", || lb.web().connect().is_ok());
    let mut first = H2::connect(&lb.web());
    eventually("the one before is gone", || {
        first.ask(get("/"), b"").is_ok() || {
            first = H2::connect(&lb.web());
            false
        }
    });
    let mut second = Frames::connect(&lb.web());
    let goodbye = second.until(|frame| frame.kind == GOAWAY).expect("a GOAWAY");
    assert_eq!(goodbye.reason(), Reason::ENHANCE_YOUR_CALM);
    assert_eq!(goodbye.payload[..4], [0; 4]);
    let mut third = lb.client();
    assert_eq!(third.ask(request("GET", "/", &[], b"")).status, 503);
    eventually("both are logged", || {
        let entries = lb.entries();
        entries.iter().filter(|entry| entry["reason"] == "overloaded").count() >= 2
            && entries
                .iter()
                .any(|entry| entry["reason"] == "overloaded" && entry["protocol"] == "HTTP/2.0")
    });
    assert_eq!(first.get("/").status, 200);
}

#[test]
fn draining_lets_requests_finish_and_ends_idle_connections() {
    let gate = Gate::default();
    let held = gate.clone();
    let origin = Origin::scripted("app-1", move |_| Reply::text("ok").behind(&held));
    let mut lb = both(&origin, "").and(&server("drain_timeout: 30s")).start();
    let mut idle = Frames::connect(&lb.web());
    idle.until(|frame| frame.kind == SETTINGS);
    let mut busy = Frames::connect(&lb.web());
    busy.get(1, "/");
    eventually("it arrives", || origin.count() == 1);
    lb.signal(Signal::TERM);
    assert_eq!(idle.goodbye(), Reason::NO_ERROR);
    assert_eq!(busy.goodbye(), Reason::NO_ERROR);
    assert!(idle.until(|_| false).is_none());
    lb.program.assert_running();
    gate.open();
    assert_ne!(busy.end_of(1).kind, RST_STREAM);
    let status = lb.program.wait_for_exit(SOON).expect("it exits");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_client_that_ends_its_connection_is_done_with() {
    let gate = Gate::default();
    let held = gate.clone();
    let origin = Origin::scripted("app-1", move |_| Reply::text("ok").behind(&held));
    let lb = start(&origin);
    let client = H2::connect(&lb.web());
    let _streams: Vec<_> = (0..3).map(|_| client.begin(get("/"), true)).collect();
    eventually("they arrive", || origin.working() == 3);
    drop(client);
    assert_eq!(reasons(&lb, 3), ["client_aborted"; 3]);
    gate.open();
}
