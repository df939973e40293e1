//! Backends that speak HTTP/2.

use crate::support::{
    Client, Config, FullBacklog, Lb, Origin, Reserved, eventually,
    h2::{DATA, END_STREAM, Frames, H2, RST_STREAM, WINDOW_UPDATE, asking, get},
    h2_origin::{Asked, H2Origin},
    request,
};
use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::sync::{Notify, Semaphore};

fn config(origins: &[&H2Origin], keys: &str) -> Config {
    let backends: Vec<_> = origins.iter().map(|origin| origin.entry()).collect();
    let keys = format!("protocol: http2\nhealth_check: off\nejection: off\n{keys}");
    Config::pool(&backends, &keys).listener("h2c: true").access_log()
}

fn start(origin: &H2Origin) -> Lb {
    config(&[origin], "").start()
}

/// Sends every piece of the body back as it comes, then trailers.
async fn echo(mut asked: Asked) {
    let mut reply = asked.begin(200, &[("x-kind", "echo")]);
    while let Some(Ok(piece)) = asked.body.data().await {
        let _ = asked.body.flow_control().release_capacity(piece.len());
        let _ = reply.send_data(piece, false);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    trailers.insert("content-length", "5".parse().unwrap());
    let _ = reply.send_trailers(trailers);
}

#[test]
fn every_pair_of_protocols_carries_bodies_both_ways() {
    let body: Vec<u8> = (0..300_000).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let origin = H2Origin::scripted("app-1", echo);
    let lb = start(&origin);
    let mut client = lb.client();
    for (fields, sent) in [
        (&["Content-Length: 300000"][..], body.clone()),
        (&["Transfer-Encoding: chunked"], [b"493e0\r\n", &body[..], b"\r\n0\r\n\r\n"].concat()),
    ] {
        let response = client.ask(request("POST", "/", fields, &sent));
        assert_eq!((response.status, response.complete), (200, true));
        assert!(response.body == body && response.headers.lists("transfer-encoding", "chunked"));
        assert_eq!(response.backend(), "app-1");
    }
    let h2 = H2::connect(&lb.web());
    let answer = h2.ask(asking("POST", "/").body(()).unwrap(), &body).unwrap();
    assert!(answer.body == body);
    assert_eq!(answer.field("x-kind"), "echo");
    let trailers = answer.trailers.expect("trailers");
    assert_eq!(trailers["x-sum"], "7");
    assert!(!trailers.contains_key("content-length"), "{trailers:?}");
    assert_eq!(lb.wait_for_entries(3)[2]["bytes_out"], 300_000);
}

#[test]
fn the_backend_sees_a_request_of_its_own_protocol() {
    let origin = H2Origin::named("app-1");
    let lb = start(&origin);
    let fields = [
        "Connection: keep-alive, x-secret",
        "X-Secret: 1",
        "Keep-Alive: 5",
        "TE: trailers",
        "Upgrade: websocket",
        "Proxy-Connection: close",
        "X_Odd: 1",
    ];
    assert_eq!(lb.client().ask(request("GET", "/a/../b?c", &fields, b"")).status, 200);
    let h2 = H2::connect(&lb.web());
    let head = asking("GET", "/b?c").header("te", "trailers").body(()).unwrap();
    assert_eq!(h2.ask(head, b"").unwrap().text(), "app-1");
    let seen = origin.requests();
    for (seen, te) in seen.iter().zip([None, Some("trailers")]) {
        assert_eq!((seen.path.as_str(), seen.authority.as_str()), ("/b?c", "test.example"));
        for name in
            ["connection", "x-secret", "keep-alive", "upgrade", "proxy-connection", "x_odd", "host"]
        {
            assert!(!seen.headers.contains_key(name), "{name}: {seen:?}");
        }
        assert_eq!(seen.headers.get("te").map(|te| te.to_str().unwrap()), te);
        assert_eq!(seen.headers["x-forwarded-for"], "127.0.0.1");
        assert_eq!(seen.headers["x-forwarded-host"], "test.example");
        assert!(seen.headers.contains_key("x-request-id"));
    }
}

#[test]
fn requests_share_a_connection() {
    let (go, held) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(true)));
    let (waits, holds) = (go.clone(), held.clone());
    let origin = H2Origin::scripted("app-1", move |mut asked| {
        let (waits, holds) = (waits.clone(), holds.clone());
        async move {
            let released = waits.notified();
            if holds.load(SeqCst) {
                released.await;
            }
            asked.answer("ok");
        }
    });
    let lb = start(&origin);
    let h2 = H2::connect(&lb.web());
    let mut clients: Vec<Client> = Vec::new();
    let mut streams = Vec::new();
    // One after another, as those that come at the very same moment may each make a connection.
    let arrived = |count| eventually("it arrives", || origin.working() == count);
    for at in 0..50 {
        let mut client = lb.client();
        client.send(request("GET", "/", &[], b""));
        clients.push(client);
        arrived(2 * at + 1);
        streams.push(h2.begin(get("/"), true));
        arrived(2 * at + 2);
    }
    assert_eq!(origin.connections(), 1, "for as many requests as may share one");
    streams.push(h2.begin(get("/"), true));
    arrived(101);
    assert_eq!(origin.connections(), 2, "for one more");
    held.store(false, SeqCst);
    go.notify_waiters();
    assert!(clients.iter_mut().all(|client| client.response().status == 200));
    assert!(streams.into_iter().all(|stream| stream.answer().is_ok()));
    for logged in 102..120 {
        // A request is logged when its connection to the backend was given back.
        lb.wait_for_entries(logged - 1);
        assert_eq!(lb.get("/").status, 200);
    }
    assert_eq!(origin.connections(), 2, "a connection that is there is used");
}

#[test]
fn a_crowd_shares_the_connections_that_are_being_opened() {
    let go = Arc::new(Semaphore::new(0));
    let held = go.clone();
    let origin = H2Origin::scripted("app-1", move |mut asked| {
        let held = held.clone();
        async move {
            held.acquire().await.unwrap().forget();
            asked.answer("ok");
        }
    });
    let lb = start(&origin);
    let mut clients: Vec<Client> = (0..80).map(|_| lb.client()).collect();
    let h2 = H2::connect(&lb.web());
    // All at once, and none of them finds a connection there.
    let streams: Vec<_> = (0..80).map(|_| h2.begin(get("/"), true)).collect();
    for client in &mut clients {
        client.send(request("GET", "/", &[], b""));
    }
    eventually("they arrive", || origin.working() == 160);
    let connections = origin.connections();
    assert!((2..=6).contains(&connections), "{connections} connections for 160 requests");
    go.add_permits(160);
    assert!(clients.iter_mut().all(|client| client.response().status == 200));
    assert!(streams.into_iter().all(|stream| stream.answer().is_ok()));
}

#[test]
fn a_crowd_does_not_wait_for_one_failure_after_another() {
    let (full, gone) = (FullBacklog::new(), Reserved::new());
    for (address, status) in [(full.address().clone(), 504), (gone.address(), 502)] {
        let keys = "protocol: http2\nhealth_check: off\nejection: off\nretry: { attempts: 0 }\n\
                    timeouts: { connect: 400ms }";
        let lb = Config::pool(&[format!("\"{address}\"")], keys).listener("h2c: true").start();
        let h2 = H2::connect(&lb.web());
        let began = Instant::now();
        let streams: Vec<_> = (0..50).map(|_| h2.begin(get("/"), true)).collect();
        for stream in streams {
            assert_eq!(stream.answer().unwrap().status, status);
        }
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
}

/// Refuses the first requests with this, then answers.
fn refusing(name: &'static str, count: usize) -> H2Origin {
    let left = Arc::new(AtomicUsize::new(count));
    H2Origin::scripted(name, move |mut asked| {
        let left = left.clone();
        async move {
            if left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
                asked.respond.send_reset(Reason::REFUSED_STREAM);
                return;
            }
            asked.read().await;
            asked.answer(name);
        }
    })
}

#[test]
fn a_refused_stream_is_tried_elsewhere_whatever_the_method() {
    let (bad, good) = (refusing("bad", usize::MAX), H2Origin::named("good"));
    let lb = config(&[&bad, &good], "").start();
    for _ in 0..4 {
        let response = lb.client().ask(request("POST", "/", &[], b"body"));
        assert_eq!((response.status, response.text().as_str()), (200, "good"));
    }
    assert!(bad.count() >= 2);
    assert_eq!(good.count(), 4);
    let tried: Vec<_> = lb.wait_for_entries(4).iter().map(|entry| entry["tries"].clone()).collect();
    assert!(tried.contains(&2.into()), "{tried:?}");
}

#[test]
fn a_refused_stream_is_not_tried_again_unless_that_is_wanted() {
    let (bad, good) = (refusing("bad", usize::MAX), H2Origin::named("good"));
    let lb = config(&[&bad, &good], "retry: { on: [connect_failure] }").start();
    let statuses: Vec<_> = (0..4).map(|_| lb.get("/").status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), 2, "{statuses:?}");
}

#[test]
fn a_backend_that_says_goodbye_is_asked_on_another_connection() {
    let origin = H2Origin::named("app-1");
    let lb = start(&origin);
    for path in ["/", "/goaway", "/", "/goaway", "/"] {
        let response = lb.client().ask(request("POST", path, &[], b"body"));
        assert_eq!((response.status, response.text().as_str()), (200, "app-1"), "{path}");
    }
    assert!(origin.connections() >= 3, "{}", origin.connections());
}

/// `/slow` is never answered; the rest is held until the test lets it go.
fn slow_and_held(go: &Arc<Notify>) -> H2Origin {
    let go = go.clone();
    H2Origin::scripted("app-1", move |mut asked| {
        let go = go.clone();
        async move {
            match asked.seen.path.as_str() {
                "/slow" => std::future::pending().await,
                "/held" => {
                    go.notified().await;
                    asked.answer("held");
                }
                _ => asked.answer("fast"),
            }
        }
    })
}

#[test]
fn a_try_that_takes_too_long_does_not_disturb_its_neighbours() {
    let go = Arc::new(Notify::new());
    let origin = slow_and_held(&go);
    let good = H2Origin::named("good");
    let pools = format!(
        "pools:\n  app:\n    backends: [{0}, {1}]\n    protocol: http2\n    health_check: off\n    \
         ejection: off\n    retry: {{ on: [timeout], attempts: 1, per_try_timeout: 400ms }}\n  \
         one: {{ backends: [{0}], protocol: http2, health_check: off }}\n\
         routes:\n  - {{ match: {{ path: /slow }}, pool: app }}\n  - pool: one\n",
        origin.entry(),
        good.entry()
    );
    let lb = Config::new(pools).listener("h2c: true").start();
    let h2 = H2::connect(&lb.web());
    let neighbour = h2.begin(get("/held"), true);
    let mut other = lb.client();
    other.send(request("GET", "/held", &[], b""));
    eventually("they are there", || origin.working() == 2);
    let mut h1 = lb.client();
    for _ in 0..3 {
        // Whichever of the two is first: nobody waits for the one that does not answer.
        for response in [h1.get("/slow").text(), h2.get("/slow").text()] {
            assert_eq!(response, "good");
        }
        let put = h1.ask(request("PUT", "/slow", &["Content-Length: 4"], b"body"));
        assert_eq!(put.text(), "good");
    }
    go.notify_waiters();
    assert_eq!(neighbour.answer().unwrap().text(), "held");
    assert_eq!(other.response().text(), "held");
    let connections: Vec<_> = origin.requests().iter().map(|seen| seen.connection).collect();
    assert!(connections.iter().all(|connection| *connection < 3), "{connections:?}");
}

#[test]
fn a_try_that_is_cut_is_reset_and_answered_504() {
    let go = Arc::new(Notify::new());
    let origin = slow_and_held(&go);
    let lb =
        config(&[&origin], "retry: { on: [timeout], attempts: 1, per_try_timeout: 300ms }").start();
    let h2 = H2::connect(&lb.web());
    let neighbour = h2.begin(get("/fast"), true);
    assert_eq!(neighbour.answer().unwrap().text(), "fast");
    let connections = origin.connections();
    for at in 1..=3 {
        let began = Instant::now();
        assert_eq!(lb.get("/slow").status, 504);
        assert_eq!(h2.get("/slow").status, 504);
        assert!(began.elapsed() < Duration::from_secs(5));
        let reasons: Vec<_> = lb.wait_for_entries(1 + 2 * at)[1..]
            .iter()
            .map(|entry| entry["reason"].clone())
            .collect();
        assert!(reasons.iter().all(|reason| reason == "upstream_timeout"), "{reasons:?}");
    }
    assert_eq!(origin.connections(), connections, "the connection goes on");
    assert_eq!(h2.get("/fast").text(), "fast");
}

#[test]
fn a_backend_that_takes_no_more_of_a_body_is_a_504() {
    let origin = H2Origin::scripted("app-1", |mut asked| async move {
        if asked.seen.path == "/stuck" {
            // Never reads, so the window never opens again.
            std::future::pending::<()>().await;
        }
        asked.read().await;
        asked.answer("ok");
    });
    let lb = config(&[&origin], "timeouts: { write: 400ms, read: 10s }").start();
    let h2 = H2::connect(&lb.web());
    let began = Instant::now();
    let mut stuck = h2.begin(asking("POST", "/stuck").body(()).unwrap(), false);
    stuck.send(&vec![b'x'; 100_000], false);
    assert_eq!(stuck.head().unwrap().status(), 504);
    let mut h1 = lb.client();
    h1.send(request("POST", "/stuck", &["Content-Length: 1000000"], &vec![b'x'; 200_000]));
    assert_eq!(h1.response().status, 504);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(h2.get("/").text(), "ok");
    let entries = lb.wait_for_entries(3);
    assert!(entries[..2].iter().all(|entry| entry["reason"] == "upstream_timeout"), "{entries:?}");
}

#[test]
fn a_backend_that_breaks_off_is_seen_to_by_clients_of_both() {
    let cut = Arc::new(Notify::new());
    let told = cut.clone();
    let origin = H2Origin::scripted("app-1", move |mut asked| {
        let told = told.clone();
        async move {
            if asked.seen.path == "/early" {
                return asked.respond.send_reset(Reason::INTERNAL_ERROR);
            }
            let mut reply = asked.begin(200, &[]);
            let _ = reply.send_data(Bytes::from_static(b"half"), false);
            told.notified().await;
            reply.send_reset(Reason::INTERNAL_ERROR);
        }
    });
    let lb = config(&[&origin], "retry: { attempts: 0 }").start();
    let mut client = Frames::connect(&lb.web());
    client.get(1, "/late");
    client.until(|frame| frame.kind == DATA).expect("a half");
    cut.notify_one();
    let end = client.end_of(1);
    assert_eq!((end.kind, end.flags & END_STREAM), (RST_STREAM, 0));
    client.get(3, "/early");
    assert_ne!(client.end_of(3).kind, RST_STREAM);
    let mut h1 = lb.client();
    h1.send(request("GET", "/late", &[], b""));
    assert_eq!(h1.head().status, 200);
    assert_eq!(h1.chunk(), b"half");
    cut.notify_one();
    assert_eq!(h1.rest(), b"", "no last chunk");
    assert_eq!(lb.get("/early").status, 502);
    let reasons: Vec<_> =
        lb.wait_for_entries(4).iter().map(|entry| entry["reason"].clone()).collect();
    assert_eq!(
        reasons,
        ["upstream_truncated", "upstream_reset", "upstream_truncated", "upstream_reset"]
    );
}

#[test]
fn a_slow_client_does_not_hold_up_the_others() {
    let origin = H2Origin::scripted("app-1", |mut asked| async move {
        if asked.seen.path != "/large" {
            return asked.answer("small");
        }
        let mut reply = asked.begin(200, &[]);
        for _ in 0..400 {
            reply.reserve_capacity(16_384);
            while reply.capacity() < 16_384 {
                match std::future::poll_fn(|cx| reply.poll_capacity(cx)).await {
                    Some(Ok(_)) => {}
                    _ => return,
                }
            }
            let _ = reply.send_data(Bytes::from(vec![b'x'; 16_384]), false);
        }
        let _ = reply.send_data(Bytes::new(), true);
    });
    let lb = start(&origin);
    // Forty of them, none of which takes more than what fits into the first window.
    let mut slow = Frames::connect(&lb.web());
    for at in 0..40 {
        slow.get(1 + 2 * at, "/large");
    }
    eventually("all are under way", || origin.count() == 40);
    let before = origin.connections();
    let mut other = lb.client();
    for _ in 0..50 {
        assert_eq!(other.get("/").text(), "small");
    }
    let quick = H2::connect(&lb.web());
    assert_eq!(quick.get("/large").body.len(), 400 * 16_384);
    assert_eq!(origin.connections(), before, "on the same connections");
    slow.send(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes());
}

#[test]
fn what_http2_has_not_is_seen_to() {
    let origin = H2Origin::named("app-1");
    let lb = start(&origin);
    // An answer of unknown length cannot be passed on to HTTP/1.0.
    let mut old = lb.client();
    old.send(b"GET / HTTP/1.0\r\n\r\n");
    assert_eq!(old.response().status, 505);
    // Nothing is heard of a 100 from there, so the client is told by us.
    let mut client = lb.client();
    client.send(request("POST", "/", &["Expect: 100-continue", "Content-Length: 4"], b""));
    assert_eq!(client.head().status, 100);
    client.send(b"body");
    assert_eq!(client.response().text(), "app-1");
    assert!(!origin.requests()[0].headers.contains_key("expect"));
}

#[test]
fn health_checks_speak_the_protocol_of_the_pool() {
    let origin = H2Origin::scripted("app-1", |mut asked| async move {
        let status = if asked.seen.path == "/health" { 204 } else { 200 };
        let _ = asked.begin(status, &[]).send_data(Bytes::new(), true);
    });
    let old = Origin::named("old");
    let check = "protocol: http2\nejection: off\nhealth_check: { http: { path: /health, expect_status: [204] }, interval: 100ms }";
    let lb = Config::pool(&[origin.entry(), old.entry()], check).start();
    for _ in 0..4 {
        assert_eq!(lb.get("/").status, 200);
    }
    lb.wait_for_line("backend old");
    let seen = &origin.requests()[0];
    assert_eq!(
        (seen.path.as_str(), seen.headers["user-agent"].to_str().unwrap()),
        ("/health", "pingora-lb-health-check")
    );
    assert!(!seen.headers.contains_key("connection"));
}
