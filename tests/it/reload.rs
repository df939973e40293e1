//! Reloading the configuration: all of it or nothing, and nobody notices.

use crate::support::{
    Client, Config, Gate, Lb, Load, Origin, Raw, Reply, eventually, filtered,
    h2::{H2, PREFACE},
    h2_origin::H2Origin,
    lb::answers,
    request,
};
use rustix::process::Signal;
use std::fs;

impl Lb {
    /// Puts `to` in the place of `from` in the configuration file.
    #[track_caller]
    pub fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.path()).unwrap();
        assert!(text.contains(from), "no {from:?} in\n{text}");
        fs::write(self.path(), text.replace(from, to)).unwrap();
    }

    /// Has the file read again, waits for the outcome, and returns what was logged of it.
    #[track_caller]
    pub fn reload(&self) -> String {
        let told = || -> Vec<String> {
            let lines = self.program.stderr.all();
            lines.into_iter().filter(|line| line.contains("reloaded")).collect()
        };
        let before = told().len();
        self.signal(Signal::HUP);
        // The first line says how many are to follow.
        let whole = |lines: &[String]| {
            let count = |line: &String| {
                let (_, rest) = line.split_once("reloaded with ")?;
                rest.split(' ').next()?.parse::<usize>().ok()
            };
            lines.first().is_some_and(|first| lines.len() > count(first).unwrap_or(0))
        };
        eventually("the outcome of a reload", || whole(&told()[before..]));
        told()[before..].join("\n")
    }
}

#[test]
fn backends_come_and_go_under_a_connection_that_stays() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let lb = Config::pool(&[a.entry()], "").start();
    let mut client = lb.client();
    assert_eq!(client.get("/1").backend(), "a");
    lb.edit(&a.entry(), &b.entry());
    let told = lb.reload();
    assert!(told.contains("INFO  reloaded: pool app: -a, +b"), "{told}");
    assert_eq!(client.get("/2").backend(), "b");
    assert_eq!((a.count(), b.count()), (1, 1));
    assert!(lb.reload().contains("INFO  reloaded: nothing has changed"));
}

#[test]
fn a_file_with_errors_changes_nothing() {
    let a = Origin::named("a");
    let lb = Config::pool(&[a.entry()], "slow_start: 0s").start();
    lb.edit("slow_start: 0s", "slow_strat: 0s\n    balance: fastest");
    let told = lb.reload();
    let line = told.lines().next().unwrap();
    assert!(
        line.contains("ERROR not reloaded: ") && line.contains("unknown key \"slow_strat\""),
        "{told}"
    );
    eventually("the second error", || lb.lines_with("unknown policy \"fastest\"") == 1);
    assert_eq!(lb.get("/").backend(), "a");
    lb.edit("slow_strat: 0s\n    balance: fastest", "reveal_backend: false");
    assert!(lb.reload().contains("reloaded: pool app: "));
    assert_eq!(lb.get("/").headers.get("x-backend-server"), None);
}

#[test]
fn what_cannot_change_is_refused_with_its_key_and_nothing_else_is_applied() {
    let a = Origin::named("a");
    for (from, to, keys) in [
        ("threads: 2", "threads: 3", "server.threads"),
        ("  web:", "  other:", "listeners.web, listeners.other"),
        ("@WEB@", "@2@", "listeners.web.address"),
    ] {
        let lb = Config::pool(&[a.entry()], "reveal_backend: true").start();
        let of = |mark: &str| match mark {
            "@WEB@" => lb.web().to_string(),
            "@2@" => lb.extra(2).to_string(),
            text => text.to_owned(),
        };
        lb.edit(&of(from), &of(to));
        lb.edit("reveal_backend: true", "reveal_backend: false");
        let told = lb.reload();
        let expected = format!("ERROR not reloaded: {keys} cannot change while it runs; hand over");
        assert!(told.contains(&expected), "{told}");
        assert_eq!(lb.get("/").backend(), "a");
    }
}

#[test]
fn without_a_file_there_is_nothing_to_reload() {
    let a = Origin::named("a");
    let port = crate::support::Reserved::new();
    let listen = port.address().to_string();
    let backends = a.address().to_string();
    let program = crate::support::Program::start(["--listen", &listen, "--backends", &backends]);
    eventually("it serves", || answers(&port.address()));
    program.signal(Signal::HUP);
    program.stderr.wait_for("not reloaded: it was started without a configuration file");
    assert_eq!(crate::support::get(&port.address(), "/").backend(), backends);
}

#[test]
fn a_request_in_flight_ends_as_it_began_and_still_counts() {
    let gate = Gate::default();
    let held = gate.clone();
    let a = Origin::scripted("a", move |request| match request.path() {
        "/held" => Reply::text("held").behind(&held),
        _ => Reply::text("free"),
    });
    let keys = "limits: { connections_per_backend: 1 }\nreveal_backend: true";
    let lb = Config::pool(&[a.entry()], keys).start();
    let mut client = lb.client();
    client.send(request("GET", "/held", &[], b""));
    eventually("the request is on its backend", || a.working() == 1);
    lb.edit("reveal_backend: true", "reveal_backend: false");
    assert!(lb.reload().contains("reveal_backend true -> false"));
    // The backend has as much as it may, in the eyes of the new configuration, too.
    assert_eq!(lb.get("/free").status, 503);
    gate.open();
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (200, "held"));
    // It came in with the old configuration, which shows the backend.
    assert_eq!(response.backend(), "a");
    eventually("there is room again", || lb.get("/free").status == 200);
}

#[test]
fn those_who_wait_in_line_are_served_after_a_reload() {
    let gate = Gate::default();
    let held = gate.clone();
    let a = Origin::scripted("a", move |_| Reply::text("ok").behind(&held));
    let keys =
        "limits: { connections_per_backend: 1, queue: 5, queue_timeout: 30s }\nslow_start: 0s";
    let lb = Config::pool(&[a.entry()], keys).start();
    let mut clients: Vec<_> = (0..3).map(|_| lb.client()).collect();
    for client in &mut clients {
        client.send(request("GET", "/", &[], b""));
    }
    eventually("one is served", || a.working() == 1);
    lb.edit("slow_start: 0s", "slow_start: 1s");
    lb.reload();
    let mut late = lb.client();
    late.send(request("GET", "/late", &[], b""));
    gate.open();
    for client in clients.iter_mut().chain([&mut late]) {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(a.most_working(), 1);
}

/// One backend that holds a request, and this many clients in the line, the last of whom gets 503 if the
/// queue is full.
fn with_a_line(held: &Gate, waiting: usize) -> (Origin, Lb, Vec<Client>) {
    let held = held.clone();
    let a = Origin::scripted("a", move |request| match request.path() {
        "/held" => Reply::text("a").behind(&held),
        _ => Reply::text("a"),
    });
    let keys = "limits: { connections_per_backend: 1, queue: 5, queue_timeout: 30s }";
    let own = "{ match: { path: /own }, respond: { status: 200, body: own } }";
    let lb =
        Config::pool(&[a.entry()], keys).and(&format!("routes:\n  - {own}\n  - pool: app")).start();
    let mut clients: Vec<_> = (0..=waiting).map(|_| lb.client()).collect();
    clients[0].send(request("GET", "/held", &[], b""));
    eventually("one is held", || a.working() == 1);
    for client in &mut clients[1..] {
        client.send(request("GET", "/held", &[], b""));
    }
    // What came after them has been answered, so they are in the line.
    for _ in 0..100 {
        assert_eq!(lb.get("/own").text(), "own");
    }
    (a, lb, clients)
}

#[test]
fn those_who_wait_go_to_a_backend_that_a_reload_adds() {
    let gate = Gate::default();
    let (a, lb, mut clients) = with_a_line(&gate, 3);
    let b = Origin::named("b");
    lb.edit(&format!("- {}", a.entry()), &format!("- {}\n      - {}", a.entry(), b.entry()));
    assert!(lb.reload().contains("pool app: +b"));
    for client in &mut clients[1..] {
        assert_eq!(client.response().text(), "b");
    }
    assert_eq!(lb.get("/late").text(), "b");
    gate.open();
    assert_eq!(clients[0].response().text(), "a");
}

#[test]
fn a_limit_that_a_reload_takes_away_holds_nobody_up() {
    let gate = Gate::default();
    let (a, lb, mut clients) = with_a_line(&gate, 3);
    lb.edit("    limits: { connections_per_backend: 1, queue: 5, queue_timeout: 30s }\n", "");
    assert!(lb.reload().contains("pool app: "));
    assert_eq!(lb.get("/late").text(), "a");
    eventually("those who waited are at the backend", || a.working() == 4);
    gate.open();
    assert!(clients.iter_mut().all(|client| client.response().status == 200));
}

#[test]
fn those_who_wait_go_to_what_a_reload_puts_in_the_place_of_their_backends() {
    let gate = Gate::default();
    let (a, lb, mut clients) = with_a_line(&gate, 2);
    let other = H2Origin::named("h2");
    lb.edit(&format!("- {}", a.entry()), &format!("- {}", other.entry()));
    lb.edit("    limits:", "    protocol: http2\n    limits:");
    assert!(lb.reload().contains("pool app: "));
    for client in &mut clients[1..] {
        assert_eq!(client.response().text(), "h2");
    }
    gate.open();
    assert_eq!(clients[0].response().text(), "a");
}

#[test]
fn connections_that_wait_go_to_a_backend_that_a_reload_adds() {
    let gate = Gate::default();
    let held = gate.clone();
    let a = Origin::scripted("a", move |_| Reply::text("a").behind(&held));
    let b = Origin::named("b");
    let keys = "limits: { connections_per_backend: 1, queue: 5, queue_timeout: 30s }";
    let config = Config::pool(&[a.entry()], keys).listener("protocol: tcp\npool: app");
    let lb = config.without_probe().start();
    lb.wait_for_line("listening on");
    let mut first = lb.client();
    first.send(request("GET", "/", &[], b""));
    eventually("one is held", || a.working() == 1);
    let mut waiting = lb.client();
    waiting.send(request("GET", "/", &[], b""));
    lb.edit(&format!("- {}", a.entry()), &format!("- {}\n      - {}", a.entry(), b.entry()));
    assert!(lb.reload().contains("pool app: +b"));
    assert_eq!(waiting.response().text(), "b");
    gate.open();
    assert_eq!(first.response().text(), "a");
}

#[test]
fn an_ejected_backend_stays_out_through_a_reload() {
    let a = Origin::scripted("a", |_| Reply::status(500));
    let b = Origin::named("b");
    let keys =
        "health_check: off\nejection: { consecutive_failures: 2, base_time: 60s }\nslow_start: 0s";
    let lb = Config::pool(&[a.entry(), b.entry()], keys).start();
    let mut client = lb.client();
    eventually("the backend is ejected", || {
        client.get("/");
        lb.lines_with("is EJECTED") == 1
    });
    lb.edit("slow_start: 0s", "slow_start: 1s");
    assert!(lb.reload().contains("slow_start 0s -> 1s"));
    let before = a.count();
    for _ in 0..20 {
        assert_eq!(client.get("/").backend(), "b");
    }
    assert_eq!(a.count(), before);
}

#[test]
fn a_backend_that_is_down_stays_down_and_a_new_one_is_checked_first() {
    let (a, b, c) = (Origin::named("a"), Origin::named("b"), Origin::named("c"));
    b.stop();
    c.stop();
    let keys = "health_check: { interval: 60s, timeout: 1s }\nretry: { attempts: 0 }";
    let lb = Config::pool(&[a.entry(), b.entry()], keys).start();
    lb.edit(&format!("- {}", b.entry()), &format!("- {}\n      - {}", b.entry(), c.entry()));
    assert!(lb.reload().contains("pool app: +c"));
    let mut client = lb.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").status, 200);
    }
}

#[test]
fn that_a_pool_has_no_backend_left_is_told_once_whatever_is_reloaded() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let keys = "health_check: { interval: 50ms, fall: 1 }\nslow_start: 0s";
    let lb = Config::pool(&[a.entry()], keys).start();
    a.stop();
    lb.wait_for_line("pool app has no usable backend left");
    lb.edit("slow_start: 0s", "slow_start: 1ms");
    assert!(lb.reload().contains("slow_start"));
    assert_eq!(lb.get("/").status, 503);
    assert_eq!(lb.lines_with("has a usable backend again"), 0);
    lb.edit(&a.entry(), &b.entry());
    assert!(lb.reload().contains("pool app: -a, +b"));
    assert_eq!(lb.get("/").text(), "b");
    lb.wait_for_line("pool app has a usable backend again");
    assert_eq!(lb.lines_with("pool app has no usable backend left"), 1);
}

#[test]
fn routes_limits_and_logs_change() {
    let a = Origin::named("a");
    let lb = Config::pool(&[a.entry()], "")
        .and("routes: [{ name: all, pool: app }]")
        .and("access_log: { path: one.log, format: json }")
        .listener("limits: { headers: 100 }")
        .start();
    let mut client = lb.client();
    client.get("/before");
    lb.edit("[{ name: all, pool: app }]", "[{ name: fixed, respond: { status: 202 } }]");
    lb.edit("one.log, format: json", "two.log, format: combined");
    lb.edit("headers: 100", "headers: 2");
    let told = lb.reload();
    for change in [
        "-route all",
        "+route fixed",
        "access_log.path one.log -> two.log",
        "access_log.format json -> combined",
        "listener web: limits.headers 100 -> 2",
    ] {
        assert!(told.contains(&format!("reloaded: {change}")), "{change} in {told}");
    }
    assert_eq!(client.get("/after").status, 202);
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\nB: 1\r\nC: 2\r\n\r\n");
    assert_eq!(client.response().status, 431);
    eventually("both are in the new log", || {
        let text = lb.read("two.log");
        text.contains("\"GET /after HTTP/1.1\" 202") && text.contains(" 431 ")
    });
    assert!(lb.read("one.log").contains("/before") && !lb.read("one.log").contains("/after"));
}

#[test]
fn listeners_in_another_order_are_the_same_listeners() {
    let a = Origin::named("a");
    let routes = "routes:\n  - { listeners: [other], respond: { status: 202 } }\n  - pool: app";
    let first = "  web:\n    address: \"@WEB@\"\n";
    let second = "  other:\n    address: \"@2@\"\n";
    let lb = Config::pool(&[a.entry()], "")
        .and(routes)
        .and(&format!("listeners:\n{first}{second}"))
        .start();
    let (first, second) = (
        first.replace("@WEB@", &lb.web().to_string()),
        second.replace("@2@", &lb.extra(2).to_string()),
    );
    lb.edit(&format!("{first}{second}"), &format!("{second}{first}"));
    lb.edit("status: 202", "status: 203");
    assert!(lb.reload().contains("respond.status 202 -> 203"));
    assert_eq!(lb.get("/").status, 200);
    assert_eq!(crate::support::get(&lb.extra(2), "/").status, 203);
}

#[test]
fn no_request_fails_while_it_is_reloaded_again_and_again() {
    let origins: Vec<_> = ["a", "b", "c"].into_iter().map(Origin::named).collect();
    let entries: Vec<_> = origins.iter().map(Origin::entry).collect();
    let lb = Config::pool(&entries[..2], "slow_start: 0s").start();
    let load = Load::start(&lb.web(), 8, "/");
    load.wait_for_more(50);
    let pairs = [(0, 2), (1, 0), (2, 1), (0, 2), (1, 0), (2, 1)];
    for (gone, new) in pairs {
        lb.edit(&entries[gone], &entries[new]);
        lb.reload();
        load.wait_for_more(50);
    }
    let (done, repeated, failures) = load.stop();
    assert_eq!((repeated, failures), (0, Vec::<String>::new()), "of {done}");
}

#[test]
fn a_reload_while_draining_is_refused() {
    let gate = Gate::default();
    let held = gate.clone();
    let a = Origin::scripted("a", move |_| Reply::text("ok").behind(&held));
    let lb = Config::pool(&[a.entry()], "").start();
    let mut client = lb.client();
    client.send(request("GET", "/", &[], b""));
    eventually("the request is on its backend", || a.working() == 1);
    lb.signal(Signal::TERM);
    lb.wait_for_line("draining: 1");
    assert!(lb.reload().contains("not reloaded: it is not serving, or not any more"));
    gate.open();
    assert_eq!(client.response().status, 200);
}

#[test]
fn what_filters_count_outlives_a_reload() {
    let a = Origin::named("a");
    let filters = [
        "rate_limit: { requests: 1, per: 10h, burst: 2 }",
        "response_headers: { set: { x-made: before } }",
    ];
    let lb = filtered(&[&a], "", &filters).start();
    let mut client = lb.client();
    assert_eq!(client.get("/").headers.get("x-made"), Some("before"));
    lb.edit("x-made: before", "x-made: after");
    lb.edit("burst: 2", "burst: 3");
    let told = lb.reload();
    assert!(told.contains("route main: filters "), "{told}");
    // One was taken out, so two are left in a bucket for three; a new one would have all three.
    let second = client.get("/");
    assert_eq!((second.status, second.headers.get("x-made")), (200, Some("after")));
    assert_eq!((client.get("/").status, client.get("/").status), (200, 429));
}

#[test]
fn connections_that_are_passed_on_stay_where_they_are() {
    let (a, b) = (Raw::named("a"), Raw::named("b"));
    let lb = Config::pool(&[a.entry()], "health_check: off")
        .listener("protocol: tcp\npool: app")
        .without_probe()
        .start();
    lb.wait_for_line("listening on");
    let mut old = lb.client();
    let mut with_a = a.accept();
    lb.edit(&a.entry(), &b.entry());
    assert!(lb.reload().contains("pool app: -a, +b"));
    let mut new = lb.client();
    let mut with_b = b.accept();
    for (client, backend) in [(&mut old, &mut with_a), (&mut new, &mut with_b)] {
        client.send("ping");
        assert_eq!(backend.exactly(4), b"ping");
        backend.send("pong");
        assert_eq!(client.exactly(4), b"pong");
    }
    lb.edit("protocol: tcp\n    pool: app", "protocol: http");
    assert!(lb.reload().contains("not reloaded: listeners.web.protocol cannot change"));
}

#[test]
fn what_is_spoken_on_either_side_changes_with_the_next_connection_and_request() {
    let origin = H2Origin::named("a");
    let keys = "health_check: off\nejection: off\nretry: { attempts: 0 }\nprotocol: http1";
    let lb = Config::pool(&[origin.entry()], keys).listener("h2c: true").start();
    let client = H2::connect(&lb.web());
    assert_eq!(client.get("/").status, 502);
    lb.edit("protocol: http1", "protocol: http2");
    assert!(lb.reload().contains("reloaded: pool app: protocol http1 -> http2"));
    assert_eq!(client.get("/").text(), "a");
    lb.edit("h2c: true", "h2c: false");
    assert!(lb.reload().contains("reloaded: listener web: h2c true -> false"));
    // A connection that has begun goes on as what it is.
    assert_eq!(client.get("/").text(), "a");
    let mut late = lb.client();
    late.send(PREFACE);
    assert_eq!(late.response().status, 505);
    assert_eq!(lb.get("/").text(), "a");
}

#[test]
fn a_request_on_a_pool_that_a_reload_removes_is_answered() {
    let gate = Gate::default();
    let held = gate.clone();
    let (a, b) = (
        Origin::named("a"),
        Origin::scripted("b", move |_| Reply::text("the last of b").behind(&held)),
    );
    let old = format!("  old:\n    backends: [{}]\n    health_check: off\n", b.entry());
    let route = "  - { match: { path: /old }, pool: old }\n";
    let lb = Config::pool(&[a.entry()], "")
        .and(&old)
        .and(&format!("routes:\n{route}  - pool: app"))
        .start();
    let mut client = lb.client();
    client.send(request("GET", "/old", &[], b""));
    eventually("the request is on its backend", || b.working() == 1);
    lb.edit(&old, "");
    lb.edit(route, "");
    let told = lb.reload();
    assert!(told.contains("reloaded: -pool old"), "{told}");
    assert_eq!(lb.get("/old").backend(), "a");
    gate.open();
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (200, "the last of b"));
    assert_eq!(client.get("/old").backend(), "a");
    assert_eq!(b.count(), 1);
}

#[test]
fn least_connections_counts_what_was_in_flight_before_a_reload() {
    let gate = Gate::default();
    let origin = |name: &'static str| {
        let held = gate.clone();
        Origin::scripted(name, move |request| match request.path() {
            "/held" => Reply::text(name).behind(&held),
            _ => Reply::text(name),
        })
    };
    let origins = [origin("a"), origin("b")];
    let entries: Vec<_> = origins.iter().map(Origin::entry).collect();
    let keys = "balance: least_connections\nhealth_check: off\ntimeouts: { idle: 60s }";
    let lb = Config::pool(&entries, keys).start();
    let mut busy = lb.client();
    busy.send(request("GET", "/held", &[], b""));
    let working = || origins.iter().position(|origin| origin.working() == 1);
    eventually("one backend has a request", || working().is_some());
    let other = origins[1 - working().unwrap()].name();
    let mut client = lb.client();
    for (from, to) in [("idle: 60s", "idle: 61s"), ("idle: 61s", "idle: 62s")] {
        lb.edit(from, to);
        let told = lb.reload();
        assert!(told.contains("timeouts.idle"), "{told}");
        for _ in 0..10 {
            assert_eq!(client.get("/").backend(), other);
        }
    }
    gate.open();
    busy.response();
    // With nothing in flight, they take turns again.
    let mut seen = || client.get("/").backend();
    eventually("the other one has its share", || seen() != other);
}
