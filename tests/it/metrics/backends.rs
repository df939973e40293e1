//! What is counted and told of pools and their backends.

use super::{ADMIN, Scrape, assert_changes, settled, with_admin};
use crate::support::{Config, Gate, Lb, Origin, Reply, Reserved, eventually, request};

/// The value of a series of the pool `app`.
fn of_app(lb: &Lb, name: &str, more: &str) -> f64 {
    Scrape::of(lb).get(&format!("{name}{{pool=\"app\"{more}}}")).unwrap()
}

#[test]
fn a_backend_is_up_while_its_checks_succeed() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let check = "health_check: { tcp: {}, interval: 50ms, fall: 1, rise: 1 }";
    let lb = Config::pool(&[a.entry(), b.entry()], check).and(ADMIN).start();
    let up = |name: &str| of_app(&lb, "backend_up", &format!(",backend=\"{name}\""));
    assert_eq!((up("a"), up("b")), (1.0, 1.0));
    a.stop();
    eventually("a is down", || up("a") == 0.0);
    assert_eq!(up("b"), 1.0);
    a.start();
    eventually("a is up again", || up("a") == 1.0);
}

#[test]
fn what_is_under_way_and_what_waits_is_told_as_it_is() {
    let gate = Gate::default();
    let held = gate.clone();
    let a = Origin::scripted("a", move |_| Reply::text("ok").behind(&held));
    let lb = with_admin(&[&a], "limits: { connections_per_backend: 1, queue: 5 }").start();
    let before = settled(&lb);
    let mut clients = [lb.client(), lb.client(), lb.client()];
    for client in &mut clients {
        client.send(request("GET", "/", &[], b""));
    }
    let connections = (r#"downstream_connections{listener="web"}"#, 3.0);
    let in_flight = (r#"backend_in_flight{pool="app",backend="a"}"#, 1.0);
    assert_changes(&lb, &before, &[connections, in_flight, (r#"queue_depth{pool="app"}"#, 2.0)]);
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    eventually("nothing is under way", || {
        of_app(&lb, "backend_in_flight", ",backend=\"a\"") == 0.0
            && of_app(&lb, "queue_depth", "") == 0.0
    });
}

#[test]
fn an_ejection_is_counted_and_the_backend_is_not_up() {
    let (good, bad) = (Origin::named("good"), Origin::named("bad"));
    bad.script(|_| Reply::status(500));
    let keys = "ejection: { consecutive_failures: 3, base_time: 60s }";
    let lb = with_admin(&[&good, &bad], keys).start();
    let before = settled(&lb);
    assert_eq!(before.get(r#"backend_ejections_total{pool="app",backend="bad"}"#), Some(0.0));
    for _ in 0..20 {
        lb.get("/");
    }
    lb.wait_for_entries(20);
    let after = Scrape::of(&lb).since(&before);
    let told = |series: &str| after.get(series).copied().unwrap_or(0.0);
    assert_eq!(told(r#"backend_ejections_total{pool="app",backend="bad"}"#), 1.0);
    assert_eq!(told(r#"backend_ejections_total{pool="app",backend="good"}"#), 0.0);
    assert_eq!(told(r#"backend_up{pool="app",backend="bad"}"#), -1.0);
    let failed = r#"upstream_requests_total{pool="app",backend="bad",outcome="failure"}"#;
    let succeeded = r#"upstream_requests_total{pool="app",backend="good",outcome="success"}"#;
    assert!((told(failed), told(succeeded)) == (3.0, 17.0), "{after:?}");
}

#[test]
fn retries_are_counted_by_what_becomes_of_them() {
    let (alive, dead) = (Origin::named("alive"), Reserved::new());
    let backends = [format!("{{ address: \"{}\", name: dead }}", dead.address()), alive.entry()];
    let keys = "health_check: off\nejection: off\nretry: { attempts: 1 }";
    let lb = Config::pool(&backends, keys).and(ADMIN).access_log().start();
    let before = settled(&lb);
    for _ in 0..10 {
        assert_eq!(lb.get("/").status, 200);
    }
    lb.wait_for_entries(10);
    let change = |series: &str| Scrape::of(&lb).since(&before).get(series).copied().unwrap_or(0.0);
    let retried = |from: usize| {
        let tries = lb.entries().into_iter().skip(from).map(|it| it["tries"].as_f64().unwrap());
        tries.map(|tries| tries - 1.0).sum::<f64>()
    };
    let first = retried(0);
    assert!(first > 0.0 && change(r#"retries_total{pool="app",result="success"}"#) == first);
    let failed = r#"upstream_requests_total{pool="app",backend="dead",outcome="failure"}"#;
    assert_eq!(change(failed), first);
    alive.script(|_| Reply::status(500));
    for _ in 0..10 {
        lb.get("/");
    }
    lb.wait_for_entries(20);
    let second = retried(10);
    assert!(second > 0.0 && change(r#"retries_total{pool="app",result="failure"}"#) == second);
    assert_eq!(Scrape::of(&lb).sum("retries_total", &[]), first + second);
}

#[test]
fn retries_that_are_not_made_are_counted_by_why() {
    let gate = Gate::default();
    let held = gate.clone();
    let alive = Origin::scripted("alive", move |_| Reply::text("ok").behind(&held));
    let dead = [Reserved::new(), Reserved::new()];
    let pool = |name: &str, backends: &str, keys: &str| {
        format!(
            "  {name}: {{ backends: [{backends}], health_check: off, ejection: off, {keys} }}\n"
        )
    };
    let both = format!("{}, {}", dead[0].address(), dead[1].address());
    let text = format!(
        "pools:\n{}{}routes: [{{ match: {{ path: /poor }}, pool: poor }}, {{ pool: full }}]\n{ADMIN}",
        pool("poor", &both, "retry: { budget: { percent: 0%, min_per_second: 0 } }"),
        pool(
            "full",
            &format!("{}, {}", alive.entry(), dead[0].address()),
            "limits: { connections_per_backend: 1 }"
        ),
    );
    let lb = Config::new(text).access_log().start();
    for _ in 0..3 {
        assert_eq!(lb.get("/poor").status, 502);
    }
    let mut busy = lb.client();
    busy.send(request("GET", "/", &[], b""));
    eventually("the request is on its backend", || alive.working() == 1);
    for _ in 0..2 {
        assert_eq!(lb.get("/").status, 502);
    }
    gate.open();
    assert_eq!(busy.response().status, 200);
    lb.wait_for_entries(6);
    let scrape = Scrape::of(&lb);
    let poor = r#"retries_total{pool="poor",result="budget_exhausted"}"#;
    let full = r#"retries_total{pool="full",result="no_room"}"#;
    assert_eq!((scrape.get(poor), scrape.get(full)), (Some(3.0), Some(2.0)));
    // The one that made it busy may have been on the dead one before.
    let made = scrape.sum("retries_total", &["result=\"success\""]);
    assert_eq!(scrape.sum("retries_total", &[]) - made, 5.0);
}

#[test]
fn a_client_that_leaves_is_not_its_backends_failure() {
    let a = Origin::scripted("a", |_| Reply::Hang);
    let lb = with_admin(&[&a], "").start();
    let before = settled(&lb);
    let mut client = lb.client();
    client.send(request("GET", "/", &[], b""));
    eventually("the request is on its backend", || a.working() == 1);
    client.reset();
    lb.wait_for_entries(1);
    let requests =
        r#"requests_total{listener="web",route="route-1",pool="app",method="GET",status="499"}"#;
    let tries = r#"upstream_requests_total{pool="app",backend="a",outcome="aborted"}"#;
    let durations = r#"request_duration_seconds_count{route="route-1"}"#;
    assert_changes(&lb, &before, &[(requests, 1.0), (tries, 1.0), (durations, 1.0)]);
}
