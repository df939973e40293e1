//! Whose fault it is that a request took too long: a backend is not ejected for its clients, nor for
//! our own queue.

use crate::support::{Client, Config, Lb, Origin, Reply, eventually, request};
use std::time::{Duration, Instant};

const EJECTED: &str = "is EJECTED";
/// One failure ejects.
const STRICT: &str = "health_check: off\nejection: { consecutive_failures: 1 }\n";
const UPLOAD: [&str; 1] = ["Content-Length: 10"];

fn two() -> [Origin; 2] {
    [Origin::named("a"), Origin::named("b")]
}

fn start(origins: &[Origin], keys: &str, routes: &str) -> Lb {
    let backends: Vec<_> = origins.iter().map(Origin::entry).collect();
    Config::pool(&backends, &format!("{STRICT}{keys}"))
        .and(&format!("routes:\n{routes}"))
        .access_log()
        .start()
}

/// Sends the ten bytes of a body, one each time that so long has passed.
fn trickle(client: &mut Client, pause: Duration) {
    for _ in 0..10 {
        let until = Instant::now() + pause;
        eventually("the client goes on", || Instant::now() >= until);
        client.send("x");
    }
}

#[track_caller]
fn assert_nobody_is_ejected(lb: &Lb) {
    let mut client = lb.client();
    let mut seen: Vec<_> = (0..4).map(|_| client.get("/fine").backend()).collect();
    seen.sort();
    assert_eq!(seen, ["a", "a", "b", "b"]);
    assert_eq!(lb.lines_with(EJECTED), 0);
}

#[test]
fn a_client_that_is_slower_than_the_route_allows_ejects_nobody() {
    let origins = two();
    let lb = start(&origins, "retry: { attempts: 0 }", "  - { timeout: 300ms, pool: app }");
    for _ in 0..4 {
        let mut client = lb.client();
        client.send(request("POST", "/", &UPLOAD, b""));
        client.send("a bit");
        assert_eq!(client.response().status, 504);
    }
    let entries = lb.wait_for_entries(4);
    assert!(entries.iter().all(|entry| entry["reason"] == "upstream_timeout"), "{entries:?}");
    assert_nobody_is_ejected(&lb);
}

#[test]
fn a_backend_that_takes_all_of_the_routes_time_is_ejected() {
    for upload in [false, true] {
        let origins = two();
        origins[0].script(|_| Reply::Hang);
        let lb = start(&origins, "retry: { attempts: 0 }", "  - { timeout: 400ms, pool: app }");
        eventually("the one that hangs is out", || {
            let mut client = lb.client();
            if upload {
                client.send(request("POST", "/", &UPLOAD, b""));
                client.send("0123456789");
                client.response();
            } else {
                client.get("/");
            }
            lb.lines_with(EJECTED) == 1
        });
    }
}

#[test]
fn the_time_in_the_queue_ejects_nobody() {
    let origins = two();
    for origin in &origins {
        origin.script(|request| match request.path() {
            "/held" => Reply::text("held").after(Duration::from_millis(2500)),
            "/hangs" => Reply::Hang,
            _ => Reply::text("fine"),
        });
    }
    let limits = "limits: { connections_per_backend: 1, queue: 5, queue_timeout: 30s }";
    let keys = format!("retry: {{ attempts: 0 }}\n{limits}");
    let routes = "  - { match: { path: /hangs }, timeout: 3s, pool: app }\n  - { pool: app }";
    let lb = start(&origins, &keys, routes);
    let mut held: Vec<_> = (0..2).map(|_| lb.client()).collect();
    for client in &mut held {
        client.send(request("GET", "/held", &[], b""));
    }
    eventually("both are busy", || origins.iter().all(|origin| origin.working() == 1));
    let mut late: Vec<_> = (0..2).map(|_| lb.client()).collect();
    for client in &mut late {
        client.send(request("GET", "/hangs", &[], b""));
    }
    for client in &mut late {
        assert_eq!(client.response().status, 504);
    }
    let entries = lb.wait_for_entries(4);
    let tried = entries.iter().filter(|entry| entry["path"] == "/hangs" && entry["tries"] == 1);
    assert_eq!(tried.count(), 2, "both have come to a backend at last: {entries:?}");
    assert_nobody_is_ejected(&lb);
}

#[test]
fn the_time_of_a_try_does_not_run_while_the_client_sends() {
    let origins = two();
    let lb =
        start(&origins, "retry: { on: [timeout], per_try_timeout: 300ms }", "  - { pool: app }");
    for _ in 0..2 {
        let mut client = lb.client();
        client.send(request("PUT", "/", &UPLOAD, b""));
        trickle(&mut client, Duration::from_millis(60));
        assert_eq!(client.response().status, 200);
    }
    let tries: Vec<_> = lb.wait_for_entries(2).iter().map(|it| it["tries"].clone()).collect();
    assert_eq!(tries, [1, 1]);
    assert_nobody_is_ejected(&lb);
}

#[test]
fn the_time_of_a_try_runs_once_the_backend_has_the_whole_body() {
    let origins = two();
    origins[0].script(|_| Reply::Hang);
    let lb =
        start(&origins, "retry: { on: [timeout], per_try_timeout: 300ms }", "  - { pool: app }");
    eventually("the one that hangs is out", || {
        let mut client = lb.client();
        client.send(request("PUT", "/", &UPLOAD, b""));
        client.send("0123456789");
        assert_eq!(client.response().text(), "b");
        lb.lines_with(EJECTED) == 1
    });
}

#[test]
fn a_backend_that_has_asked_for_the_body_waits_as_long_as_the_client_takes() {
    let origins = two();
    let lb =
        start(&origins, "retry: { attempts: 0 }\ntimeouts: { read: 300ms }", "  - { pool: app }");
    for _ in 0..2 {
        let mut client = lb.client();
        client.send(request("POST", "/", &["Expect: 100-continue", UPLOAD[0]], b""));
        assert_eq!(client.head().status, 100);
        trickle(&mut client, Duration::from_millis(60));
        assert_eq!(client.response().status, 200);
    }
    assert_nobody_is_ejected(&lb);
}
