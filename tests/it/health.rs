//! Active health checks.

use crate::support::{Config, Lb, Origin, Reply, Reserved, eventually};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// A check that decides quickly and always at the same pace.
fn quick(probe: &str) -> String {
    quick_with(probe, "rise: 2, fall: 2")
}

fn quick_with(probe: &str, counts: &str) -> String {
    format!("health_check: {{ {probe}, interval: 150ms, timeout: 150ms, jitter: 0%, {counts} }}")
}

/// Health-check requests that reached an origin.
fn probes(origin: &Origin) -> usize {
    origin.requests().iter().filter(|request| request.path() == "/health").count()
}

/// Waits for three more rounds of checks, by those that reach a healthy backend over TCP.
fn three_more_rounds(origin: &Origin) {
    let goal = origin.accepted() + 3;
    eventually("three more checks", || origin.accepted() >= goal);
}

/// Answers health checks with `health` and everything else with the name.
fn with_health(name: &'static str, health: Reply) -> Origin {
    Origin::scripted(name, move |request| match request.path() {
        "/health" => health.clone(),
        _ => Reply::text(name),
    })
}

/// Starts a pool of `checked` and an always healthy second backend, with this HTTP check.
fn beside_a_healthy_one(checked: &Origin, probe: &str) -> (Lb, Origin) {
    let other = with_health("other", Reply::text("ok"));
    let lb = Config::pool(&[checked.entry(), other.entry()], &quick(probe)).start();
    (lb, other)
}

/// Whether, of the two backends, the checked one gets its share.
fn is_used(lb: &Lb, name: &str) -> bool {
    let mut client = lb.client();
    let names: Vec<String> = (0..10).map(|_| client.get("/").text()).collect();
    names.iter().any(|answered| answered == name)
}

#[test]
fn down_and_up_are_logged_once_each_with_the_reason() {
    let origins = ["app-1", "app-2"].map(Origin::named);
    let backends: Vec<String> = origins.iter().map(Origin::entry).collect();
    let lb = Config::pool(&backends, &quick("tcp: {}")).start();
    let backend = format!("backend app-2 ({}) of pool app is", origins[1].address());

    origins[1].stop();
    lb.wait_for_line(&format!("{backend} DOWN: connection refused"));
    three_more_rounds(&origins[0]);
    assert_eq!(lb.lines_with(&backend), 1);

    origins[1].start();
    lb.wait_for_line(&format!("{backend} UP"));
    three_more_rounds(&origins[0]);
    assert_eq!(lb.lines_with(&backend), 2);
    assert_eq!(lb.lines_with("backend app-1 "), 0, "a backend that never changed is not logged");
}

#[test]
fn an_http_check_sends_what_it_is_told() {
    let origin = with_health("app-1", Reply::text("ok"));
    let probe = "http: { path: \"/health?deep=1\", method: OPTIONS, host: app.internal, headers: { x-probe: \"1\" } }";
    let lb = Config::pool(&[origin.entry()], &quick(probe)).start();
    assert_eq!(lb.get("/").status, 200);
    let probe = origin.requests().into_iter().find(|request| request.path() == "/health").unwrap();
    assert_eq!(probe.method, "OPTIONS");
    assert_eq!(probe.target, "/health?deep=1");
    assert_eq!(probe.headers.get("host"), Some("app.internal"));
    assert_eq!(probe.headers.get("x-probe"), Some("1"));
}

#[test]
fn an_http_check_judges_the_status() {
    let cases = [
        ("http: { path: /health }", 204, true),
        ("http: { path: /health }", 302, false),
        ("http: { path: /health, expect_status: [\"200-299\", \"401\"] }", 401, true),
        ("http: { path: /health, expect_status: [\"200-299\", \"401\"] }", 403, false),
        ("http: { path: /health, expect_status: [503] }", 503, true),
    ];
    for (probe, status, healthy) in cases {
        let origin = with_health("app-1", Reply::status(status));
        let (lb, _other) = beside_a_healthy_one(&origin, probe);
        assert_eq!(is_used(&lb, "app-1"), healthy, "{status} with {probe}");
        // The second backend answers 200, which one of these checks does not expect.
        assert_eq!(is_used(&lb, "other"), !probe.contains("503"), "{status} with {probe}");
        if !healthy {
            let line = lb.wait_for_line("backend app-1 ");
            assert!(line.contains(&status.to_string()), "the reason names the status: {line}");
        }
    }
}

#[test]
fn an_http_check_judges_the_body() {
    for (body, healthy) in [("all ok here", true), ("all bad", false)] {
        let origin = with_health("app-1", Reply::text(body));
        let probe = "http: { path: /health, expect_body: ok }";
        let (lb, _other) = beside_a_healthy_one(&origin, probe);
        assert_eq!(is_used(&lb, "app-1"), healthy, "{body}");
    }
}

#[test]
fn an_http_check_can_go_to_another_port() {
    let serving = Origin::named("app-1");
    let checked = with_health("checks", Reply::status(500));
    let probe = format!("http: {{ path: /health, port: {} }}", checked.port());
    let lb = Config::pool(&[serving.entry()], &quick(&probe)).start();
    assert_eq!(lb.get("/").status, 503);
    checked.script(|_| Reply::text("ok"));
    eventually("the backend is back", || lb.get("/").status == 200);
    assert_eq!(probes(&serving), 0);
}

/// Lets an origin's health checks follow a script of good and bad, good after its end.
fn follow(script: &'static [bool]) -> (Origin, Arc<AtomicUsize>) {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let origin = Origin::scripted("app-1", move |_| {
        let at = counter.fetch_add(1, Ordering::SeqCst);
        if *script.get(at).unwrap_or(&true) { Reply::text("ok") } else { Reply::status(500) }
    });
    (origin, seen)
}

#[test]
fn it_takes_fall_failures_in_a_row_to_go_down_and_rise_successes_to_come_back() {
    const OK: bool = true;
    const NO: bool = false;
    let (origin, seen) = follow(&[OK, NO, NO, OK, NO, NO, NO, OK, OK, NO, OK, OK, OK]);
    let check = quick_with("http: { path: /health }", "rise: 3, fall: 3");
    let lb = Config::pool(&[origin.entry()], &check).start();
    lb.wait_for_line("is DOWN");
    let at_down = seen.load(Ordering::SeqCst);
    lb.wait_for_line("is UP");
    let at_up = seen.load(Ordering::SeqCst);
    eventually("three more checks", || seen.load(Ordering::SeqCst) >= at_up + 3);
    assert!(at_down >= 7, "down after {at_down} checks");
    assert!(at_up >= 13, "up after {at_up} checks");
    assert_eq!((lb.lines_with("is DOWN"), lb.lines_with("is UP")), (1, 1));
}

#[test]
fn a_backend_that_hangs_is_down_after_the_timeout() {
    let origin = with_health("app-1", Reply::text("ok"));
    let (lb, _other) = beside_a_healthy_one(&origin, "http: { path: /health }");
    assert!(is_used(&lb, "app-1"));
    origin.script(|request| match request.path() {
        "/health" => Reply::Hang,
        _ => Reply::text("app-1"),
    });
    let line = lb.wait_for_line("backend app-1 ");
    assert!(line.contains("is DOWN: "), "{line}");
    assert!(line.contains("time") || line.contains("within"), "the reason is the time: {line}");
    assert!(!is_used(&lb, "app-1"));
}

#[test]
fn a_check_may_take_as_long_as_configured_and_no_longer() {
    // One is less than the default of 2 s and one is more.
    for (answers_after, timeout, serves) in [(1000, "200ms", false), (3000, "9s", true)] {
        let late = Reply::text("ok").after(Duration::from_millis(answers_after));
        let origin = with_health("app-1", late);
        let probe = format!("http: {{ path: /health }}, interval: 60s, timeout: {timeout}");
        let lb = Config::pool(&[origin.entry()], &format!("health_check: {{ {probe} }}")).start();
        assert_eq!(lb.get("/").status == 200, serves, "{timeout}");
    }
}

/// How long twenty checks of a pool take, from the beginning of the first to that of the last.
fn time_of_twenty_checks(jitter: &str) -> Duration {
    let origin = Origin::named("app-1");
    let check = format!("health_check: {{ interval: 200ms, timeout: 200ms, jitter: {jitter} }}");
    let _lb = Config::pool(&[origin.entry()], &check).start();
    let after = |checks: usize| {
        let goal = origin.accepted() + checks;
        eventually("another check", || origin.accepted() >= goal);
        Instant::now()
    };
    let first = after(1);
    after(19) - first
}

#[test]
fn the_jitter_is_taken_off_the_interval() {
    let [none, all] = std::thread::scope(|scope| {
        ["0%", "100%"]
            .map(|jitter| scope.spawn(move || time_of_twenty_checks(jitter)))
            .map(|thread| thread.join().unwrap())
    });
    // 19 intervals; the first look may have been a moment late.
    assert!(none > Duration::from_millis(19 * 200 - 100), "{none:?}");
    // Half of that on average, and so much that chance makes it longer once in a hundred thousand times.
    assert!(all < Duration::from_millis(19 * 160), "{all:?}");
}

#[test]
fn a_check_has_one_deadline_for_all_of_it() {
    // A byte now and then keeps a timeout on each read from ever passing.
    let origin = Origin::named("app-1");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let dripping = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(8) && stream.write_all(b"x").is_ok() {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        started.elapsed()
    });
    let probe = format!("http: {{ path: /health, port: {port} }}");
    let lb = Config::pool(&[origin.entry()], &quick(&probe)).start();
    assert_eq!(lb.get("/").status, 503);
    assert!(dripping.join().unwrap() < Duration::from_secs(3));
}

#[test]
fn the_first_check_decides_alone() {
    let alive = with_health("alive", Reply::text("ok"));
    let failing = with_health("failing", Reply::status(500));
    let check = "health_check: { http: { path: /health }, interval: 60s, fall: 3, rise: 3 }";
    let backends = [failing.entry(), alive.entry()];
    let lb = Config::pool(&backends, &format!("{check}\nretry: {{ attempts: 0 }}")).start();
    let mut client = lb.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "alive");
    }
    assert_eq!(failing.traffic().len(), 0);
}

#[test]
fn a_dead_backend_gets_no_request_after_the_start() {
    let alive = Origin::named("alive");
    let dead = Reserved::new();
    let check = "health_check: { interval: 60s, fall: 3 }\nretry: { attempts: 0 }";
    let lb = Config::pool(&[dead.address().to_string(), alive.entry()], check).start();
    let mut client = lb.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").status, 200);
    }
    let line = lb.wait_for_line("is DOWN: connection refused");
    assert!(line.contains(&format!("({})", dead.address())), "{line}");
}

#[test]
fn a_check_that_hangs_does_not_hold_up_the_start_beyond_its_timeout() {
    let hanging = with_health("hanging", Reply::Hang);
    let alive = with_health("alive", Reply::text("ok"));
    let check = "health_check: { http: { path: /health }, interval: 60s, timeout: 300ms }";
    let started = Instant::now();
    let lb = Config::pool(&[hanging.entry(), alive.entry()], check).start();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(!is_used(&lb, "hanging"));
}

#[test]
fn with_all_backends_down_the_answer_is_fast_and_traffic_returns_with_the_first() {
    let origins = ["app-1", "app-2"].map(Origin::named);
    let backends: Vec<String> = origins.iter().map(Origin::entry).collect();
    let check = "health_check: { interval: 200ms, timeout: 200ms, rise: 2, fall: 1, jitter: 0% }";
    let lb = Config::pool(&backends, check).start();
    for origin in &origins {
        origin.stop();
        lb.wait_for_line(&format!("backend {} ", origin.name()));
    }

    let mut client = lb.client();
    let asked = Instant::now();
    let response = client.get("/");
    let took = asked.elapsed();
    assert_eq!(response.status, 503);
    assert!(response.text().contains("no_healthy_backend"), "{}", response.text());
    assert!(took < Duration::from_millis(50), "{took:?}");

    origins[0].start();
    let returned = Instant::now();
    eventually("traffic again", || lb.get("/").status == 200);
    // Interval times rise, and a machine that has other things to do.
    assert!(returned.elapsed() < Duration::from_millis(400 + 300), "{:?}", returned.elapsed());
}

#[test]
fn a_pool_with_nothing_left_and_back_again_is_logged_once_each() {
    let origins = ["app-1", "app-2"].map(Origin::named);
    let backends: Vec<String> = origins.iter().map(Origin::entry).collect();
    let lb = Config::pool(&backends, &quick("tcp: {}")).start();
    // Whatever the words, such a line is about the pool and not about one backend of it.
    let about_the_pool = || {
        let lines = lb.program.stderr.all();
        lines
            .into_iter()
            .filter(|line| line.contains("pool app") && !line.contains("of pool app"))
            .collect::<Vec<_>>()
    };
    origins[0].stop();
    lb.wait_for_line("backend app-1 ");
    assert_eq!(about_the_pool(), Vec::<String>::new());

    origins[1].stop();
    lb.wait_for_line("backend app-2 ");
    eventually("a line about the pool", || about_the_pool().len() == 1);

    for origin in &origins {
        origin.start();
    }
    lb.wait_for_line("app-1 (");
    eventually("both are up", || lb.lines_with("is UP") == 2);
    three_more_rounds(&origins[0]);
    assert_eq!(about_the_pool().len(), 2, "{:?}", about_the_pool());
}

#[test]
fn health_check_off_sends_none_and_takes_every_backend_for_healthy() {
    for off in ["off", "false"] {
        let origin = Origin::named("app-1");
        let lb = Config::pool(&[origin.entry()], &format!("health_check: {off}")).start();
        assert_eq!(origin.accepted(), 0);
        assert_eq!(lb.get("/").status, 200);
        assert_eq!(origin.accepted(), 1);
        origin.stop();
        // A backend that is known to be down would be a 503.
        assert_eq!(lb.get("/").status, 502);
    }
}

#[test]
fn a_unix_backend_is_checked() {
    let origin = Origin::unix("app-1");
    let lb = Config::pool(&[origin.entry()], &quick("http: { path: /health }")).start();
    assert_eq!(lb.get("/").status, 200);
    origin.stop();
    lb.wait_for_line("backend app-1 ");
    assert_eq!(lb.get("/").status, 503);
    origin.start();
    eventually("it is back", || lb.get("/").status == 200);
}

#[test]
fn a_port_to_check_on_is_for_backends_that_have_ports() {
    let socket = Origin::unix("app-1");
    let (origin, elsewhere) = (Origin::named("app-2"), Origin::named("health"));
    let port = elsewhere.port();
    let probe = quick(&format!("http: {{ path: /health, port: {port} }}"));
    let lb = Config::pool(&[socket.entry(), origin.entry()], &probe).start();
    let mut backends: Vec<_> = (0..4).map(|_| lb.get("/").backend()).collect();
    backends.sort();
    assert_eq!(backends, ["app-1", "app-1", "app-2", "app-2"]);
    assert!(probes(&socket) > 0 && probes(&elsewhere) > 0);
    assert_eq!(probes(&origin), 0);
    socket.stop();
    lb.wait_for_line("backend app-1 ");
    assert_eq!(lb.get("/").backend(), "app-2");
}
