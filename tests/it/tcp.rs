//! Connections that are passed on as they are.

use crate::support::{
    Address, Client, Config, FullBacklog, Lb, Origin, Program, Raw, Reserved, SOON, eventually,
    lb::server, request, within,
};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    ffi::OsStr,
    io::{ErrorKind, Write as _},
    thread,
    time::{Duration, Instant},
};

const UNCHECKED: &str = "health_check: off";

fn entries(backends: &[&Raw]) -> Vec<String> {
    backends.iter().map(|backend| backend.entry()).collect()
}

/// A balancer with a tcp listener, which has these further keys, in front of a pool of these backends,
/// which has those.
fn tcp(listener: &str, backends: &[String], pool: &str) -> Lb {
    started(config(listener, backends, pool))
}

fn config(listener: &str, backends: &[String], pool: &str) -> Config {
    let listener = format!("protocol: tcp\npool: app\n{listener}");
    Config::pool(backends, pool).listener(&listener).access_log().without_probe()
}

fn started(config: Config) -> Lb {
    let lb = config.start();
    lb.wait_for_line("listening on");
    lb
}

/// In front of these backends, which are not checked, with nothing further said.
fn in_front_of(backends: &[&Raw]) -> Lb {
    tcp("", &entries(backends), UNCHECKED)
}

/// The only line of the access log.
fn only_entry(lb: &Lb) -> Value {
    let mut entries = lb.wait_for_entries(1);
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.remove(0)
}

/// Whether both ends see the end of the connection.
#[track_caller]
fn assert_ended(client: &mut Client, backend: &mut Client) {
    assert!(client.is_closed() && backend.is_closed());
}

#[test]
fn bytes_go_both_ways_as_they_are() {
    let backend = Raw::named("a");
    let lb = in_front_of(&[&backend]);
    let mut client = lb.client();
    let mut served = backend.accept();
    let all: Vec<u8> = (0..=255).collect();
    client.send(&all);
    assert_eq!(served.exactly(256), all);
    served.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(client.exactly(18), b"GET / HTTP/1.1\r\n\r\n");
    client.send("again");
    assert_eq!(served.exactly(5), b"again");
}

#[test]
fn a_backend_may_speak_first() {
    let backend = Raw::named("a");
    let lb = in_front_of(&[&backend]);
    let mut client = lb.client();
    backend.accept().send("220 ready\r\n");
    assert_eq!(client.exactly(11), b"220 ready\r\n");
}

#[test]
fn much_goes_both_ways_at_once() {
    let backend = Raw::named("a");
    let lb = in_front_of(&[&backend]);
    let client = lb.client();
    let served = backend.accept();
    let pattern =
        |seed: u8| (0..5_000_000_u32).map(move |at| (at.wrapping_mul(31) >> 3) as u8 ^ seed);
    let (there, back): (Vec<u8>, Vec<u8>) = (pattern(1).collect(), pattern(2).collect());
    thread::scope(|scope| {
        for (mut from, bytes) in [(client.writer(), &there), (served.writer(), &back)] {
            scope.spawn(move || from.write_all(bytes).unwrap());
        }
        for (mut to, bytes) in [(served, &there), (client, &back)] {
            scope.spawn(move || assert!(to.exactly(bytes.len()) == *bytes));
        }
    });
}

#[test]
fn a_client_that_has_said_all_still_gets_its_answer() {
    let backend = Raw::named("a");
    let lb = in_front_of(&[&backend]);
    let mut client = lb.client();
    client.send("question");
    client.half_close();
    let mut served = backend.accept();
    assert_eq!(served.rest(), b"question");
    served.send("answer");
    assert_eq!(client.exactly(6), b"answer");
    drop(served);
    assert!(client.is_closed());
    assert_eq!(only_entry(&lb)["reason"], "ok");
}

#[test]
fn a_backend_that_has_said_all_still_hears_its_client() {
    let backend = Raw::named("a");
    let lb = in_front_of(&[&backend]);
    let mut client = lb.client();
    let mut served = backend.accept();
    served.send("that is all");
    served.half_close();
    assert_eq!(client.rest(), b"that is all");
    client.send("understood");
    assert_eq!(served.exactly(10), b"understood");
    drop(client);
    assert!(served.is_closed());
    assert_eq!(only_entry(&lb)["reason"], "ok");
}

#[track_caller]
fn assert_reset(side: &mut Client) {
    let error = side.try_some().expect_err("a reset, not an orderly end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_reset_is_passed_on_and_not_made_an_orderly_end() {
    let backend = Raw::named("a");
    let lb = in_front_of(&[&backend]);
    let mut client = lb.client();
    let mut served = backend.accept();
    served.send("half");
    assert_eq!(client.exactly(4), b"half");
    served.reset();
    assert_reset(&mut client);

    let mut client = lb.client();
    client.send("half");
    let mut served = backend.accept();
    assert_eq!(served.exactly(4), b"half");
    client.reset();
    assert_reset(&mut served);

    let reasons: Vec<_> =
        lb.wait_for_entries(2).iter().map(|entry| entry["reason"].clone()).collect();
    assert_eq!(reasons, ["upstream_truncated", "client_aborted"]);
}

#[test]
fn a_line_in_the_access_log_tells_the_whole_story() {
    let backend = Raw::named("a");
    let lb = in_front_of(&[&backend]);
    let mut client = lb.client();
    client.send("12345");
    let mut served = backend.accept();
    served.exactly(5);
    served.send("1234567");
    client.exactly(7);
    assert_eq!(lb.entries().len(), 0, "the line is written at the end");
    drop(client);
    served.is_closed();
    drop(served);
    let entry = only_entry(&lb);
    for (key, expected) in [
        ("method", "-"),
        ("host", "-"),
        ("path", "-"),
        ("client_ip", "127.0.0.1"),
        ("listener", "web"),
        ("pool", "app"),
        ("backend", "a"),
        ("reason", "ok"),
        ("request_id", "-"),
        ("protocol", "TCP"),
    ] {
        assert_eq!(entry[key], expected, "{key}");
    }
    let numbers = ["status", "bytes_in", "bytes_out", "tries"].map(|key| entry[key].as_u64());
    assert_eq!(numbers, [200, 5, 7, 1].map(Some));
    for key in ["route", "queue_ms", "tls", "user_agent", "referer"] {
        assert_eq!(entry[key], Value::Null, "{key}");
    }
    let [duration, connect, first_byte] =
        ["duration_ms", "connect_ms", "upstream_ms"].map(|key| entry[key].as_f64().expect(key));
    assert!(connect <= first_byte && first_byte <= duration, "{entry}");
    assert!(entry["time"].as_str().is_some_and(|time| time.ends_with('Z')));
}

#[test]
fn a_combined_line_has_dashes_for_what_a_connection_lacks() {
    let backend = Raw::named("a");
    let lb = started(
        Config::pool(&entries(&[&backend]), UNCHECKED)
            .listener("protocol: tcp\npool: app")
            .and("access_log: { path: access.log, format: combined }")
            .without_probe(),
    );
    drop(lb.client());
    drop(backend.accept());
    eventually("the line", || lb.read("access.log").ends_with('\n'));
    let line = lb.read("access.log");
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    assert!(line.ends_with("] \"- - TCP\" 200 0 \"-\" \"-\"\n"), "{line}");
}

#[test]
fn backends_take_connections_in_turn() {
    let (a, b) = (Raw::named("a"), Raw::named("b"));
    let lb = in_front_of(&[&a, &b]);
    let clients: Vec<Client> = (0..6).map(|_| lb.client()).collect();
    let held: Vec<Client> = (0..3).flat_map(|_| [a.accept(), b.accept()]).collect();
    assert!(a.is_left_alone() && b.is_left_alone());
    drop((clients, held));
}

/// The connection that has just been made, and the index of the backend that it has reached.
#[track_caller]
fn arrival(backends: &[&Raw]) -> (usize, Client) {
    let mut arrived = None;
    eventually("it arrives", || {
        let look = |(at, raw): (usize, &&Raw)| Some((at, raw.accept_within(Duration::ZERO)?));
        arrived = backends.iter().enumerate().find_map(look);
        arrived.is_some()
    });
    arrived.expect("the condition just waited for")
}

#[test]
fn open_connections_are_the_load() {
    let backends = [&Raw::named("a"), &Raw::named("b")];
    let lb = tcp("", &entries(&backends), &format!("{UNCHECKED}\nbalance: least_connections"));
    let connect = || {
        let client = lb.client();
        let (at, served) = arrival(&backends);
        (at, client, served)
    };
    let open: Vec<_> = (0..6).map(|_| connect()).collect();
    assert_eq!(open.iter().filter(|(at, ..)| *at == 0).count(), 3);
    let (on_a, on_b): (Vec<_>, Vec<_>) = open.into_iter().partition(|(at, ..)| *at == 0);
    drop(on_a);
    lb.wait_for_entries(3);
    let next: Vec<_> = (0..3).map(|_| connect()).collect();
    assert!(next.iter().all(|(at, ..)| *at == 0), "those who have left do not count");
    drop((on_b, next));
}

#[test]
fn a_connection_that_is_refused_goes_to_the_next_backend() {
    let gone = Reserved::new();
    let here = Raw::named("here");
    let gone_entry = format!("{{ address: \"{}\", name: gone }}", gone.address());
    let lb = tcp("", &[gone_entry, here.entry()], UNCHECKED);
    for round in 1..=4 {
        let mut client = lb.client();
        client.send("hello");
        assert_eq!(here.accept().exactly(5), b"hello");
        drop(client);
        assert_eq!(lb.wait_for_entries(round)[round - 1]["reason"], "ok");
    }
    let entries = lb.entries();
    assert!(entries.iter().any(|entry| entry["tries"].as_u64() == Some(2)), "{entries:?}");
}

#[test]
fn with_every_backend_refusing_the_client_is_closed_and_the_log_says_why() {
    let gone: Vec<Reserved> = (0..3).map(|_| Reserved::new()).collect();
    let backends: Vec<_> = gone.iter().map(|it| format!("\"{}\"", it.address())).collect();
    let lb = tcp("", &backends, UNCHECKED);
    let mut client = lb.client();
    client.send("hello");
    assert!(client.is_closed());
    let entry = only_entry(&lb);
    assert_eq!(
        (&entry["reason"], entry["status"].as_u64()),
        (&Value::from("connect_failed"), Some(502))
    );
    assert_eq!((entry["tries"].as_u64(), entry["bytes_in"].as_u64()), (Some(3), Some(0)));
    let line = lb.wait_for_line("connect_failed after 3 tries");
    assert!(line.contains("connection of 127.0.0.1 on listener web"), "{line}");
}

#[test]
fn the_retry_policy_holds_for_connections_too() {
    let cases = [
        ("attempts: 0", 1),
        ("attempts: 1", 2),
        ("on: [reset]", 1),
        ("budget: { percent: 0%, min_per_second: 0 }", 1),
    ];
    for (retry, tries) in cases {
        let gone: Vec<Reserved> = (0..3).map(|_| Reserved::new()).collect();
        let backends: Vec<_> = gone.iter().map(|it| format!("\"{}\"", it.address())).collect();
        let lb = tcp("", &backends, &format!("{UNCHECKED}\nretry: {{ {retry} }}"));
        assert!(lb.client().is_closed());
        assert_eq!(only_entry(&lb)["tries"].as_u64(), Some(tries), "{retry}");
    }
}

#[test]
fn there_is_a_pause_before_each_retry() {
    let gone: Vec<Reserved> = (0..8).map(|_| Reserved::new()).collect();
    let backends: Vec<_> = gone.iter().map(|it| format!("\"{}\"", it.address())).collect();
    let retry = "retry: { attempts: 7, backoff: { base: 200ms, max: 200ms } }";
    let lb = tcp("", &backends, &format!("{UNCHECKED}\n{retry}"));
    let began = Instant::now();
    assert!(lb.client().is_closed());
    // Seven pauses at random up to 200 ms: less than 70 ms in all is less than one in a million.
    assert!(began.elapsed() > Duration::from_millis(70), "{:?}", began.elapsed());
    assert_eq!(only_entry(&lb)["tries"].as_u64(), Some(8));
}

#[test]
fn a_backend_that_takes_too_long_is_given_up() {
    let full = FullBacklog::new();
    let here = Raw::named("here");
    let entry = format!("{{ address: \"{}\", name: full }}", full.address());
    let keys = format!("{UNCHECKED}\ntimeouts: {{ connect: 100ms }}");
    let lb = tcp("", &[entry.clone(), here.entry()], &keys);
    // One of the two tries the full one first.
    for _ in 0..2 {
        lb.client().send("hello");
        assert_eq!(here.accept().exactly(5), b"hello");
    }
    let keys = format!("{UNCHECKED}\nretry: {{ per_try_timeout: 100ms }}");
    let lb = tcp("", &[entry], &keys);
    let began = Instant::now();
    assert!(lb.client().is_closed());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let entry = only_entry(&lb);
    assert_eq!(entry["reason"], "upstream_timeout");
    assert_eq!(entry["connect_ms"], Value::Null);
}

#[test]
fn a_reset_before_anything_was_said_sends_the_connection_elsewhere() {
    let (a, b) = (Raw::named("a"), Raw::named("b"));
    let lb = in_front_of(&[&a, &b]);
    let mut client = lb.client();
    arrival(&[&a, &b]).1.reset();
    let mut second = arrival(&[&a, &b]).1;
    client.send("hello");
    assert_eq!(second.exactly(5), b"hello");
    drop(client);
    assert!(second.is_closed());
    drop(second);
    let entry = only_entry(&lb);
    assert_eq!((&entry["reason"], entry["tries"].as_u64()), (&Value::from("ok"), Some(2)));
}

#[test]
fn once_something_was_said_there_is_no_other_try() {
    let (a, b) = (Raw::named("a"), Raw::named("b"));
    let lb = in_front_of(&[&a, &b]);
    for said_by_client in [true, false] {
        let mut client = lb.client();
        let mut served = arrival(&[&a, &b]).1;
        let (from, to) =
            if said_by_client { (&mut client, &mut served) } else { (&mut served, &mut client) };
        from.send("x");
        assert_eq!(to.exactly(1), b"x");
        served.reset();
        assert_reset(&mut client);
        // A connection's line comes after its end, and may come after the next one's.
        lb.wait_for_entries(1 + usize::from(!said_by_client));
    }
    let entries = lb.wait_for_entries(2);
    let reasons: Vec<_> = entries.iter().map(|entry| entry["reason"].clone()).collect();
    assert_eq!(reasons, ["upstream_reset", "upstream_truncated"]);
    assert!(entries.iter().all(|entry| entry["tries"].as_u64() == Some(1)), "{entries:?}");
    assert!(a.is_left_alone() && b.is_left_alone());
}

#[test]
fn a_backend_whose_checks_fail_gets_no_connection() {
    let gone = Reserved::new();
    let here = Raw::named("here");
    let gone_entry = format!("{{ address: \"{}\", name: gone }}", gone.address());
    let lb = tcp("", &[gone_entry, here.entry()], "health_check: { interval: 60s }");
    // The checks' own.
    drop(here.accept());
    for _ in 0..3 {
        lb.client().send("hello");
        assert_eq!(here.accept().exactly(5), b"hello");
    }
    let entries = lb.wait_for_entries(3);
    assert!(entries.iter().all(|entry| entry["tries"].as_u64() == Some(1)), "{entries:?}");
}

#[test]
fn an_http_check_may_decide_on_streams() {
    let origin = Origin::scripted("app-1", |_| crate::support::Reply::status(500));
    let check = "health_check: { http: { path: /health }, interval: 50ms, rise: 1 }";
    let lb = tcp("", &[origin.entry()], check);
    assert!(lb.client().is_closed());
    let entry = only_entry(&lb);
    assert_eq!(entry["reason"], "no_healthy_backend");
    assert_eq!((entry["status"].as_u64(), entry["tries"].as_u64()), (Some(503), Some(0)));
    origin.script(|_| crate::support::Reply::text("up"));
    lb.wait_for_line("is UP");
    assert_eq!(lb.get("/").text(), "up");
}

#[test]
fn a_backend_that_refuses_connections_is_ejected() {
    let gone = Reserved::new();
    let here = Raw::named("here");
    let gone_entry = format!("{{ address: \"{}\", name: gone }}", gone.address());
    // It is on where nothing is said of it.
    let lb = tcp("", &[gone_entry, here.entry()], UNCHECKED);
    let mut connections = 0;
    let served = within(SOON, || {
        drop(lb.client());
        drop(here.accept());
        connections += 1;
        lb.lines_with("EJECTED") == 1
    });
    assert!(served, "it is never ejected");
    let before = lb.wait_for_entries(connections).len();
    for _ in 0..4 {
        drop(lb.client());
        drop(here.accept());
    }
    let entries = lb.wait_for_entries(before + 4);
    assert!(
        entries[before..].iter().all(|entry| entry["tries"].as_u64() == Some(1)),
        "{entries:?}"
    );
}

#[test]
fn a_lack_of_descriptors_is_not_held_against_a_backend() {
    let backend = Raw::named("a");
    let spare = Raw::named("spare");
    let keys = format!("{UNCHECKED}\nejection: {{ consecutive_failures: 1 }}");
    // A connection takes two: with one of these limits, the last of them has one.
    let lacking = [40, 41].map(|limit| {
        let files = config("", &entries(&[&backend, &spare]), &keys).write();
        let mut command = std::process::Command::new("sh");
        let binary = Program::command(["-c"]).get_program().to_owned();
        let run = format!("ulimit -n {limit} && exec \"$0\" -c \"$1\"");
        command.args(["-c", &run]).arg(binary).arg(files.path());
        let program = Program::spawn(&mut command);
        program.stderr.wait_for("listening on");
        let _crowd: Vec<Client> = (0..30).map(|_| Client::connect(&files.web())).collect();
        let lacks = || program.stderr.count("internal_error after") > 0;
        let lacking = within(Duration::from_secs(1), lacks);
        assert_eq!(program.stderr.count("EJECTED"), 0);
        lacking
    });
    assert!(lacking.contains(&true), "nobody lacked anything");
}

#[test]
fn a_connection_that_is_silent_for_too_long_is_closed() {
    let backend = Raw::named("a");
    let lb = tcp("idle_timeout: 300ms", &entries(&[&backend]), UNCHECKED);
    for speaks in [false, true] {
        let mut client = lb.client();
        let mut served = backend.accept();
        if speaks {
            client.send("x");
            served.exactly(1);
        }
        let began = Instant::now();
        assert_ended(&mut client, &mut served);
        let took = began.elapsed();
        assert!(took > Duration::from_millis(200) && took < Duration::from_secs(3), "{took:?}");
    }
    let entries = lb.wait_for_entries(2);
    assert!(entries.iter().all(|entry| entry["reason"] == "idle_timeout"), "{entries:?}");
}

#[test]
fn one_side_alone_keeps_a_connection_alive() {
    let backend = Raw::named("a");
    let lb = tcp("idle_timeout: 500ms", &entries(&[&backend]), UNCHECKED);
    let mut client = lb.client();
    let mut served = backend.accept();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1200) {
        served.send("x");
        client.exactly(1);
        thread::park_timeout(Duration::from_millis(50));
    }
    client.send("still here");
    assert_eq!(served.exactly(10), b"still here");
}

#[test]
fn connections_over_the_limit_are_closed_at_once() {
    let backend = Raw::named("a");
    let lb = tcp("max_connections: 2", &entries(&[&backend]), UNCHECKED);
    let mut open: Vec<_> = (0..2).map(|_| (lb.client(), backend.accept())).collect();
    assert!(lb.client().is_closed());
    assert!(backend.is_left_alone());
    let entry = only_entry(&lb);
    assert_eq!(
        (&entry["reason"], entry["status"].as_u64()),
        (&Value::from("overloaded"), Some(503))
    );
    assert_eq!(entry["pool"], Value::Null);
    let (mut client, mut served) = open.remove(0);
    client.send("those inside are not affected");
    assert_eq!(served.exactly(5), b"those");
    drop((client, served));
    eventually("there is room again", || {
        let mut client = lb.client();
        client.send("x");
        backend.accept_within(Duration::from_millis(50)).is_some()
    });
}

const ONE_AT_A_TIME: &str =
    "health_check: off\nlimits: { connections_per_backend: 1, queue: 2, queue_timeout: 30s }";

#[test]
fn connections_wait_for_a_backend_with_room() {
    let backend = Raw::named("a");
    let lb = tcp("", &entries(&[&backend]), ONE_AT_A_TIME);
    let first = lb.client();
    let held = backend.accept();
    let mut second = lb.client();
    // What it sends meanwhile is not lost.
    second.send("patience");
    assert!(backend.accept_within(Duration::from_millis(200)).is_none(), "one at a time");
    drop((first, held));
    let mut served = backend.accept();
    assert_eq!(served.exactly(8), b"patience");
    served.send("rewarded");
    assert_eq!(second.exactly(8), b"rewarded");
    drop((second, served));
    let entries = lb.wait_for_entries(2);
    assert_eq!(entries[0]["queue_ms"], Value::Null);
    assert!(entries[1]["queue_ms"].as_f64().is_some_and(|queue| queue > 150.0), "{entries:?}");
}

/// A client that has the only place in the queue: of two, the one that is not turned away.
#[track_caller]
fn in_the_queue(lb: &Lb) -> Client {
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline {
        let mut two = [lb.client(), lb.client()];
        let closed = two.each_mut().map(|client| {
            client.set_patience(Duration::from_millis(200));
            client.is_closed()
        });
        let [one, other] = two;
        match closed {
            [false, true] => return one,
            [true, false] => return other,
            _ => {}
        }
    }
    panic!("nobody waits in the queue");
}

#[test]
fn a_client_that_leaves_the_queue_frees_its_place() {
    let backend = Raw::named("a");
    let limits = "limits: { connections_per_backend: 1, queue: 1, queue_timeout: 30s }";
    let lb = tcp("", &entries(&[&backend]), &format!("{UNCHECKED}\n{limits}"));
    let first = lb.client();
    let held = backend.accept();
    let mut leaving = in_the_queue(&lb);
    leaving.send("never mind");
    drop(leaving);
    let mut next = in_the_queue(&lb);
    drop((first, held));
    // Neither the one who left nor those who were turned away reach the backend.
    next.send("my turn");
    assert_eq!(backend.accept().exactly(7), b"my turn");
    let reasons: Vec<_> = lb.entries().iter().map(|entry| entry["reason"].clone()).collect();
    assert!(reasons.contains(&Value::from("client_aborted")), "{reasons:?}");
    assert!(reasons.contains(&Value::from("overloaded")), "{reasons:?}");
}

#[test]
fn a_wait_that_is_too_long_ends_the_connection() {
    let backend = Raw::named("a");
    let limits = "limits: { connections_per_backend: 1, queue: 1, queue_timeout: 200ms }";
    let lb = tcp("", &entries(&[&backend]), &format!("{UNCHECKED}\n{limits}"));
    let _first = lb.client();
    let _held = backend.accept();
    let began = Instant::now();
    assert!(lb.client().is_closed());
    assert!(began.elapsed() > Duration::from_millis(150), "{:?}", began.elapsed());
    assert_eq!(only_entry(&lb)["reason"], "overloaded");
}

#[test]
fn a_client_keeps_its_backend_by_its_address() {
    let (a, b, c) = (Raw::named("a"), Raw::named("b"), Raw::named("c"));
    let backends = [&a, &b, &c];
    let lb = tcp("", &entries(&backends), &format!("{UNCHECKED}\nbalance: maglev"));
    let mut seen = std::collections::BTreeSet::new();
    for host in 1..=20 {
        let mut of_this_client = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let socket = lb.web().socket().unwrap();
            let from = std::net::SocketAddr::from(([127, 0, 0, host], 0));
            socket.bind(&from.into()).unwrap();
            socket.connect(&lb.web().socket_address()).unwrap();
            of_this_client.insert(arrival(&backends).0);
        }
        assert_eq!(of_this_client.len(), 1, "127.0.0.{host}");
        seen.extend(of_this_client);
    }
    assert!(seen.len() > 1, "not every client has the same one");
}

#[test]
fn unix_sockets_work_on_both_sides() {
    let backend = Raw::unix("a");
    let listeners =
        "listeners:\n  local: { address: \"unix:@DIR@/lb.sock\", protocol: tcp, pool: app }\n";
    let lb = started(
        Config::pool(&entries(&[&backend]), "health_check: { interval: 60s }")
            .and(listeners)
            .access_log()
            .without_probe(),
    );
    // The check's own.
    drop(backend.accept());
    let mut client = Client::connect(&Address::Unix(lb.directory().join("lb.sock")));
    client.send("question");
    client.half_close();
    let mut served = backend.accept();
    assert_eq!(served.rest(), b"question");
    served.send("answer");
    drop(served);
    assert_eq!(client.rest(), b"answer");
    let entry = only_entry(&lb);
    assert_eq!(entry["client_ip"], Value::Null);
    assert_eq!((entry["bytes_in"].as_u64(), entry["bytes_out"].as_u64()), (Some(8), Some(6)));
    assert_eq!(entry["reason"], "ok");
}

#[test]
fn both_protocols_share_a_pool_and_its_limits() {
    let origin = Origin::named("app-1");
    let listeners = "listeners:\n  web: { address: \"@WEB@\" }\n  raw: { address: \"@2@\", protocol: tcp, pool: app }\n";
    let keys = format!("{UNCHECKED}\nlimits: {{ connections_per_backend: 1 }}");
    let lb = Config::pool(&[origin.entry()], &keys).and(listeners).access_log().start();
    assert_eq!(lb.get("/").text(), "app-1");
    // A connection counts as long as it lives, a request as long as it is in flight.
    let mut raw = Client::connect(&lb.extra(2));
    eventually("the request is over", || {
        raw = Client::connect(&lb.extra(2));
        raw.try_send(&request("GET", "/", &[], b"")).is_ok() && raw.try_response().is_ok()
    });
    for _ in 0..2 {
        assert_eq!(raw.get("/").text(), "app-1");
        assert_eq!(lb.get("/").status, 503);
    }
    drop(raw);
    eventually("there is room again", || lb.get("/").status == 200);
}

#[test]
fn a_drain_lets_connections_run_and_ends_with_the_last() {
    let backend = Raw::named("a");
    let mut lb = in_front_of(&[&backend]);
    let mut client = lb.client();
    let mut served = backend.accept();
    lb.signal(Signal::TERM);
    lb.wait_for_line("draining: 1 connections are open");
    client.send("go on");
    assert_eq!(served.exactly(5), b"go on");
    lb.program.assert_running();
    drop(client);
    assert!(served.is_closed());
    drop(served);
    let ended = Instant::now();
    let status = lb.program.wait_for_exit(SOON).expect("it exits");
    assert!(ended.elapsed() < Duration::from_millis(500), "{:?}", ended.elapsed());
    assert_eq!(status.code(), Some(0));
    assert_eq!(only_entry(&lb)["reason"], "ok");
}

#[test]
fn drain_timeout_cuts_connections_off() {
    let backend = Raw::named("a");
    let mut lb =
        started(config("", &entries(&[&backend]), UNCHECKED).and(&server("drain_timeout: 300ms")));
    let (mut silent, mut served_silent) = (lb.client(), backend.accept());
    let (mut client, mut served) = (lb.client(), backend.accept());
    client.send("hello");
    assert_eq!(served.exactly(5), b"hello");
    let signalled = Instant::now();
    lb.signal(Signal::TERM);
    assert_ended(&mut client, &mut served);
    assert_ended(&mut silent, &mut served_silent);
    lb.program.wait_for_exit(SOON).expect("it exits");
    let took = signalled.elapsed();
    assert!(took > Duration::from_millis(250) && took < Duration::from_secs(3), "{took:?}");
    lb.wait_for_line("drain_timeout is over: 2 connections are cut off");
    let entries = lb.wait_for_entries(2);
    assert!(entries.iter().all(|entry| entry["reason"] == "drain_timeout"), "{entries:?}");
    assert!(entries.iter().all(|entry| entry["backend"] == "a"), "{entries:?}");
    let bytes: u64 = entries.iter().filter_map(|entry| entry["bytes_in"].as_u64()).sum();
    assert_eq!(bytes, 5, "{entries:?}");
}

#[test]
fn a_tcp_listener_is_handed_over_and_its_connections_live_on() {
    let backend = Raw::named("a");
    let Lb { program: mut first, files } = in_front_of(&[&backend]);
    let mut before = Client::connect(&files.web());
    let mut served_before = backend.accept();
    let conf = files.path().as_os_str();
    let second = Program::start([OsStr::new("-c"), conf, OsStr::new("-u")]);
    second.stderr.wait_for("waiting for the running instance");
    first.signal(Signal::QUIT);
    second.stderr.wait_for("took over");
    first.stderr.wait_for("the successor serves");

    before.send("the old one");
    assert_eq!(served_before.exactly(11), b"the old one");
    let mut after = Client::connect(&files.web());
    after.send("the new one");
    let mut served_after = backend.accept();
    assert_eq!(served_after.exactly(11), b"the new one");
    first.assert_running();
    drop(before);
    drop(served_before);
    assert!(first.wait_for_exit(SOON).is_some());
    served_after.send("lives");
    assert_eq!(after.exactly(5), b"lives");
}
