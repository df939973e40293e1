//! How much a backend is asked to do at a time, and who waits.

use crate::support::{Client, Config, Gate, Lb, Origin, Reply, Response, eventually, request};
use std::{
    thread,
    time::{Duration, Instant},
};

fn limited(origins: &[Origin], limits: &str, keys: &str) -> Lb {
    let backends: Vec<_> = origins.iter().map(Origin::entry).collect();
    Config::pool(&backends, &format!("limits: {{ {limits} }}\n{keys}"))
        .and("routes:\n  - { match: { path: /own }, respond: { status: 200, body: own } }\n  - pool: app")
        .access_log()
        .start()
}

/// A backend that answers once the gate lets it.
fn gated(name: &'static str, gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::scripted(name, move |_| Reply::text(name).behind(&gate))
}

/// Sends a request whose answer is not waited for.
fn send(lb: &Lb, method: &str, path: &str, body: &[u8]) -> Client {
    let mut client = lb.client();
    client.send(request(method, path, &[], body));
    client
}

/// Sends a request and gives the balancer the time to take it in: it has answered a hundred others
/// that came after it. Nothing shows from outside that a request waits.
fn queue_up(lb: &Lb, path: &str) -> Client {
    let client = send(lb, "GET", path, b"");
    for _ in 0..100 {
        assert_eq!(lb.get("/own").text(), "own");
    }
    client
}

/// Occupies the only place there is.
fn occupy(lb: &Lb, origin: &Origin) -> Client {
    let client = send(lb, "GET", "/first", b"");
    eventually("the first arrives", || origin.working() == 1);
    client
}

#[track_caller]
fn assert_overloaded(response: &Response) {
    assert_eq!(response.status, 503, "{}", response.text());
    assert!(response.text().contains("overloaded"), "{}", response.text());
    let retry_after = response.headers.get("retry-after").expect("Retry-After");
    assert!(retry_after.parse::<u32>().is_ok_and(|seconds| seconds > 0), "{retry_after}");
}

fn paths(origin: &Origin) -> Vec<String> {
    origin.requests().iter().map(|request| request.path().to_owned()).collect()
}

#[test]
fn no_backend_ever_has_more_than_its_limit() {
    let policies = ["round_robin", "random", "least_connections", "p2c", "peak_ewma", "maglev"];
    for policy in policies {
        let wait = Duration::from_millis(10);
        let origins = [Origin::slow("a", wait), Origin::slow("b", wait)];
        let limits = "connections_per_backend: 3, queue: 100, queue_timeout: 30s";
        let lb = limited(&origins, limits, &format!("balance: {policy}"));
        thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let mut client = lb.client();
                    for _ in 0..8 {
                        assert_eq!(client.get("/").status, 200, "{policy}");
                    }
                });
            }
        });
        for origin in &origins {
            assert_eq!(origin.most_working(), 3, "{policy}");
        }
        assert_eq!(origins[0].count() + origins[1].count(), 160, "{policy}");
    }
}

#[test]
fn without_a_queue_what_is_above_the_limit_is_refused_at_once() {
    let gate = Gate::default();
    let origins = [gated("a", &gate), gated("b", &gate)];
    let lb = limited(&origins, "connections_per_backend: 1", "");
    let mut held: Vec<_> = (0..2).map(|_| send(&lb, "GET", "/", b"")).collect();
    eventually("both are full", || origins[0].working() == 1 && origins[1].working() == 1);
    for _ in 0..3 {
        assert_overloaded(&lb.get("/"));
    }
    gate.open();
    assert!(held.iter_mut().all(|client| client.response().status == 200));
    let entries = lb.wait_for_entries(5);
    let refused = entries.iter().filter(|entry| entry["reason"] == "overloaded").count();
    assert_eq!(refused, 3, "{entries:?}");
    eventually("there is room again", || lb.get("/").status == 200);
}

#[test]
fn a_full_backend_is_passed_over() {
    let gate = Gate::default();
    let origins = [gated("a", &gate), Origin::named("b")];
    let lb = limited(&origins, "connections_per_backend: 1", "");
    let mut held = loop {
        let mut client = send(&lb, "GET", "/", b"");
        client.set_patience(Duration::from_millis(300));
        if client.try_response().is_err() {
            break client;
        }
    };
    let mut client = lb.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "b");
    }
    gate.open();
    held.set_patience(Duration::from_secs(10));
    assert_eq!(held.response().text(), "a");
}

#[test]
fn those_who_wait_are_served_in_the_order_they_came() {
    let gate = Gate::default();
    let origins = [gated("a", &gate)];
    let lb = limited(&origins, "connections_per_backend: 1, queue: 10, queue_timeout: 30s", "");
    let first = occupy(&lb, &origins[0]);
    let waiting: Vec<_> = (0..6).map(|at| queue_up(&lb, &format!("/{at}"))).collect();
    assert_eq!(origins[0].working(), 1);
    gate.open();
    for mut client in waiting {
        assert_eq!(client.response().status, 200);
    }
    drop(first);
    assert_eq!(paths(&origins[0]), ["/first", "/0", "/1", "/2", "/3", "/4", "/5"]);
}

#[test]
fn one_place_that_is_free_serves_one_who_waits() {
    let gate = Gate::default();
    let origins = [gated("a", &gate)];
    let lb = limited(&origins, "connections_per_backend: 1, queue: 10, queue_timeout: 30s", "");
    let mut clients = vec![occupy(&lb, &origins[0])];
    clients.extend((0..3).map(|at| queue_up(&lb, &format!("/{at}"))));
    for (served, client) in clients.iter_mut().enumerate() {
        eventually("it is at the backend", || origins[0].count() == served + 1);
        assert_eq!(origins[0].working(), 1);
        gate.let_one();
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(origins[0].most_working(), 1);
}

#[test]
fn when_the_queue_is_full_the_next_is_refused_at_once() {
    let gate = Gate::default();
    let origins = [gated("a", &gate)];
    let lb = limited(&origins, "connections_per_backend: 1, queue: 2, queue_timeout: 30s", "");
    let mut clients = vec![occupy(&lb, &origins[0])];
    clients.extend((0..2).map(|at| queue_up(&lb, &format!("/{at}"))));
    let asked = Instant::now();
    for _ in 0..3 {
        assert_overloaded(&lb.get("/refused"));
    }
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    gate.open();
    assert!(clients.iter_mut().all(|client| client.response().status == 200));
    assert_eq!(paths(&origins[0]), ["/first", "/0", "/1"]);
}

#[test]
fn who_waits_too_long_is_refused() {
    let gate = Gate::default();
    let origins = [gated("a", &gate)];
    let lb = limited(&origins, "connections_per_backend: 1, queue: 5, queue_timeout: 400ms", "");
    let mut first = occupy(&lb, &origins[0]);
    let asked = Instant::now();
    assert_overloaded(&lb.get("/late"));
    let took = asked.elapsed();
    assert!(took >= Duration::from_millis(390) && took < Duration::from_secs(3), "{took:?}");
    gate.open();
    assert_eq!(first.response().status, 200);
    eventually("there is room again", || lb.get("/then").status == 200);
    assert!(!paths(&origins[0]).contains(&"/late".to_owned()));
    let entries = lb.wait_for_entries(2);
    let late = entries.iter().find(|entry| entry["path"] == "/late").unwrap();
    assert_eq!((&late["status"], &late["reason"]), (&503.into(), &"overloaded".into()));
    assert!(late["queue_ms"].as_f64().unwrap() >= 390.0, "{late}");
    assert!(late["backend"].is_null() || late["backend"] == "-", "{late}");
}

#[test]
fn the_time_in_the_queue_is_logged() {
    let gate = Gate::default();
    let origins = [gated("a", &gate)];
    let lb = limited(&origins, "connections_per_backend: 1, queue: 5, queue_timeout: 30s", "");
    let mut first = occupy(&lb, &origins[0]);
    let mut waiting = queue_up(&lb, "/waiting");
    let least = Instant::now();
    for _ in 0..100 {
        lb.get("/own");
    }
    let least = least.elapsed();
    gate.open();
    assert_eq!((first.response().status, waiting.response().status), (200, 200));
    eventually("both are logged", || {
        let entries = lb.entries();
        let of = |path: &str| entries.iter().find(|entry| entry["path"] == path).cloned();
        let (Some(first), Some(waited)) = (of("/first"), of("/waiting")) else { return false };
        assert!(first["queue_ms"].as_f64().unwrap_or(0.0) < 1.0, "{first}");
        assert!(waited["queue_ms"].as_f64().unwrap() >= least.as_secs_f64() * 1e3, "{waited}");
        assert!(waited["duration_ms"].as_f64() >= waited["queue_ms"].as_f64(), "{waited}");
        true
    });
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    for reset in [false, true] {
        let gate = Gate::default();
        let origins = [gated("a", &gate)];
        let lb = limited(&origins, "connections_per_backend: 1, queue: 1, queue_timeout: 30s", "");
        let mut first = occupy(&lb, &origins[0]);
        let leaver = queue_up(&lb, "/leaver");
        assert_overloaded(&lb.get("/refused"));
        if reset {
            leaver.reset();
        } else {
            drop(leaver);
        }
        eventually("the leaver is logged", || {
            lb.entries().iter().any(|entry| {
                entry["path"] == "/leaver"
                    && entry["status"] == 499
                    && entry["reason"] == "client_aborted"
            })
        });
        let mut next = queue_up(&lb, "/next");
        gate.open();
        assert_eq!((first.response().status, next.response().status), (200, 200), "{reset}");
        assert_eq!(paths(&origins[0]), ["/first", "/next"], "{reset}");
    }
}

#[test]
fn those_who_wait_are_told_when_there_is_nobody_left_to_wait_for() {
    let gate = Gate::default();
    let origin = Origin::scripted("a", {
        let gate = gate.clone();
        move |request| match request.path() {
            "/health" => Reply::status(200),
            _ => Reply::text("a").behind(&gate),
        }
    });
    let check = "health_check: { http: { path: /health }, interval: 150ms, timeout: 150ms, rise: 1, fall: 1 }";
    let origins = [origin];
    let limits = "connections_per_backend: 1, queue: 5, queue_timeout: 30s";
    let lb = limited(&origins, limits, check);
    let mut first = send(&lb, "GET", "/first", b"");
    eventually("the first arrives", || origins[0].traffic().len() == 1);
    let mut waiting: Vec<_> = (0..3).map(|at| queue_up(&lb, &format!("/{at}"))).collect();
    origins[0].script(|_| Reply::status(500));
    for client in &mut waiting {
        let response = client.response();
        assert_eq!(response.status, 503);
        assert!(response.text().contains("no_healthy_backend"), "{}", response.text());
    }
    gate.open();
    assert_eq!(first.response().status, 200, "what is in flight goes on");
    assert_eq!(origins[0].traffic().len(), 1);
}

#[test]
fn those_who_wait_go_to_a_backend_that_comes_back() {
    let gate = Gate::default();
    let origins = [gated("a", &gate), Origin::named("b")];
    origins[1].stop();
    let check = "health_check: { interval: 150ms, timeout: 150ms, rise: 1, fall: 1 }";
    let limits = "connections_per_backend: 1, queue: 5, queue_timeout: 30s";
    let lb = limited(&origins, limits, check);
    let mut first = occupy(&lb, &origins[0]);
    let mut waiting: Vec<_> = (0..3).map(|at| queue_up(&lb, &format!("/{at}"))).collect();
    origins[1].start();
    for client in &mut waiting {
        assert_eq!(client.response().text(), "b");
    }
    gate.open();
    assert_eq!(first.response().text(), "a");
}

#[test]
fn bodies_survive_the_queue() {
    for length in [10, 100_000, 3_000_000] {
        let gate = Gate::default();
        let origins = [gated("a", &gate)];
        let lb = limited(&origins, "connections_per_backend: 1, queue: 5, queue_timeout: 30s", "");
        let mut first = occupy(&lb, &origins[0]);
        let body: Vec<u8> = (0..length).map(|at: u32| (at % 251) as u8).collect();
        let response = thread::scope(|scope| {
            // A long body is not taken in before there is a backend for it.
            let waiting = scope.spawn(|| send(&lb, "POST", "/body", &body).response());
            for _ in 0..20 {
                assert_eq!(lb.get("/own").text(), "own");
            }
            gate.open();
            waiting.join().unwrap()
        });
        assert_eq!((first.response().status, response.status), (200, 200), "{length}");
        let arrived = origins[0].last_request();
        assert_eq!((arrived.body_length, arrived.complete), (u64::from(length), true));
        let kept = arrived.body.len();
        assert!(kept > 0 && arrived.body == body[..kept], "{length}");
    }
}

#[test]
fn a_request_that_waited_is_followed_by_others_on_its_connection() {
    let gate = Gate::default();
    let origins = [gated("a", &gate)];
    let lb = limited(&origins, "connections_per_backend: 1, queue: 5, queue_timeout: 30s", "");
    let first = occupy(&lb, &origins[0]);
    let mut waiting = queue_up(&lb, "/waiting");
    // What is sent ahead while the one before it waits is no sign that the client left.
    waiting.send(request("GET", "/ahead", &[], b""));
    for _ in 0..10 {
        lb.get("/own");
    }
    gate.open();
    assert_eq!(waiting.response().status, 200);
    assert_eq!(waiting.response().status, 200);
    assert_eq!(waiting.get("/after").status, 200);
    drop(first);
    assert_eq!(paths(&origins[0]), ["/first", "/waiting", "/ahead", "/after"]);
}

#[test]
fn an_aborted_request_makes_room_at_the_backend() {
    let origins = [Origin::scripted("a", |request| match request.path() {
        "/hang" => Reply::Hang,
        _ => Reply::text("a"),
    })];
    let lb = limited(&origins, "connections_per_backend: 1, queue: 5, queue_timeout: 30s", "");
    for _ in 0..5 {
        let before = origins[0].count();
        let hanging = send(&lb, "GET", "/hang", b"");
        eventually("it arrives", || origins[0].count() == before + 1);
        let mut waiting = queue_up(&lb, "/waiting");
        hanging.reset();
        assert_eq!(waiting.response().text(), "a");
    }
}

#[test]
fn a_failed_request_makes_room_at_the_backend() {
    let origins = [Origin::scripted("a", |request| match request.path() {
        "/close" => Reply::close(),
        _ => Reply::text("a"),
    })];
    let lb = limited(&origins, "connections_per_backend: 1", "ejection: off\nhealth_check: off");
    let mut client = lb.client();
    for _ in 0..5 {
        assert_eq!(client.get("/close").status, 502);
        assert_eq!(client.get("/").text(), "a");
    }
}

#[test]
fn the_route_timeout_covers_the_queue() {
    let gate = Gate::default();
    let origins = [gated("a", &gate)];
    let limits = "limits: { connections_per_backend: 1, queue: 5, queue_timeout: 30s }";
    let lb = Config::pool(&[origins[0].entry()], limits)
        .and("routes:\n  - { match: { path: /first }, pool: app }\n  - { timeout: 400ms, pool: app }")
        .access_log()
        .start();
    let mut first = occupy(&lb, &origins[0]);
    let asked = Instant::now();
    let response = lb.get("/late");
    let took = asked.elapsed();
    assert!(response.status == 503 || response.status == 504, "{}", response.text());
    assert!(took >= Duration::from_millis(390) && took < Duration::from_secs(3), "{took:?}");
    let late = lb.wait_for_entries(1).remove(0);
    assert_eq!(late["path"], "/late");
    let queued = late["queue_ms"].as_f64().expect("it has waited in the queue");
    assert!((350.0..3000.0).contains(&queued), "{queued}");
    gate.open();
    assert_eq!(first.response().status, 200);
    // Its place is free, and the backend never hears of it.
    assert_eq!(lb.get("/first").status, 200);
    assert!(!paths(&origins[0]).contains(&"/late".to_owned()));
}
