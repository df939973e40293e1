//! What the balancer does when what it stands on fails: its backends in ways that other tests do not
//! have, names, descriptors, the disk.

use crate::support::{
    Client, Config, Lb, Load, Origin, Program, Reply, Reserved, Response, eventually, get,
    hosts::HOSTS, tally, within,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use std::{
    fs, thread,
    time::{Duration, Instant},
};

const UNCHECKED: &str = "health_check: off\nejection: off";

fn in_front_of(origin: &Origin, keys: &str) -> Lb {
    Config::pool(&[origin.entry()], &format!("{UNCHECKED}\n{keys}")).access_log().start()
}

/// How the request behind the last of so many lines ended.
#[track_caller]
fn reason(lb: &Lb, lines: usize) -> String {
    lb.wait_for_entries(lines)[lines - 1]["reason"].as_str().unwrap().to_owned()
}

/// A head that goes on for as long as somebody reads it.
fn dripping_head() -> Reply {
    let field = |at: usize| (Duration::from_millis(20), format!("x-{at}: y\r\n").into_bytes());
    let start = (Duration::ZERO, b"HTTP/1.1 200 OK\r\n".to_vec());
    Reply::Pieces(std::iter::once(start).chain((0..500).map(field)).collect())
}

#[test]
fn a_head_that_drips_does_not_outlive_the_time_of_its_try_or_its_route() {
    let origin = Origin::scripted("a", |_| dripping_head());
    let timeout = "timeouts: { read: 5s }";
    let of_try = in_front_of(
        &origin,
        &format!("{timeout}\nretry: {{ attempts: 0, per_try_timeout: 200ms }}"),
    );
    let route = "routes:\n  - { name: main, pool: app, timeout: 200ms }";
    let of_route = Config::pool(&[origin.entry()], &format!("{UNCHECKED}\n{timeout}"))
        .and(route)
        .access_log()
        .start();
    for lb in [of_try, of_route] {
        origin.script(|_| dripping_head());
        let start = Instant::now();
        assert_eq!(lb.get("/").status, 504);
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        assert_eq!(reason(&lb, 1), "upstream_timeout");
        origin.script(|_| Reply::text("well again"));
        assert_eq!(lb.get("/").text(), "well again");
    }
}

/// Ends of a head that is not whole.
fn half_heads() -> [Reply; 4] {
    [
        Reply::RawThenClose(b"HTTP/1.1 200 OK\r\nconten".to_vec()),
        Reply::RawThenReset(b"HTTP/1.1 200 OK\r\nconten".to_vec()),
        Reply::RawThenClose(b"HTT".to_vec()),
        Reply::RawThenClose(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n".to_vec()),
    ]
}

#[test]
fn a_head_that_breaks_off_is_a_502_and_nothing_of_it_is_delivered() {
    let origin = Origin::named("a");
    let lb = in_front_of(&origin, "retry: { attempts: 0 }");
    for (at, reply) in half_heads().into_iter().enumerate() {
        origin.script(move |_| reply.clone());
        let response = lb.get("/");
        assert_eq!(response.status, 502, "{at}");
        assert!(!response.headers.has("x-backend-server") && response.complete, "{at}");
        assert_eq!(reason(&lb, 2 * at + 1), "upstream_reset", "{at}");
        origin.script(|_| Reply::text("well again"));
        assert_eq!(lb.get("/").text(), "well again");
        lb.wait_for_entries(2 * at + 2);
    }
}

#[test]
fn a_head_that_breaks_off_is_asked_for_elsewhere() {
    for reply in half_heads() {
        let bad = Origin::scripted("bad", move |_| reply.clone());
        let good = Origin::named("good");
        let keys = format!("{UNCHECKED}\nretry: {{ budget: {{ percent: 100% }} }}");
        let lb = Config::pool(&[bad.entry(), good.entry()], &keys).start();
        let mut client = lb.client();
        for _ in 0..4 {
            assert_eq!(client.get("/").text(), "good");
        }
        assert!(bad.count() > 0, "nobody has asked the one that breaks off");
    }
}

#[test]
fn a_backend_that_comes_and_goes_costs_no_request() {
    let (steady, flapping) = (Origin::named("steady"), Origin::named("flapping"));
    let keys = "health_check: { interval: 100ms, timeout: 5s, rise: 1, fall: 1 }\n\
                ejection: { base_time: 100ms, max_time: 100ms }\n\
                retry: { budget: { percent: 100% } }";
    let lb = Config::pool(&[steady.entry(), flapping.entry()], keys).start();
    let load = Load::start(&lb.web(), 8, "/");
    for _ in 0..6 {
        let before = flapping.count();
        eventually("it has its share", || flapping.count() > before + 20);
        flapping.stop();
        load.wait_for_more(50);
        flapping.start();
    }
    let (done, repeated, failures) = load.stop();
    assert_eq!((repeated, failures), (0, Vec::new()));
    assert!(done > 500, "{done} requests");
    let both = || tally(&(0..4).map(|_| lb.get("/").backend()).collect::<Vec<_>>()).len() == 2;
    eventually("both serve", both);
}

/// The balancer's own demo backends, as processes.
fn backend_process(name: &str) -> (Program, Reserved) {
    let port = Reserved::new();
    let program = Program::start(["backend", "--port", &port.port().to_string(), "--name", name]);
    eventually("the backend listens", || port.address().connect().is_ok());
    (program, port)
}

#[test]
fn a_process_that_is_stopped_is_a_504_then_ejected_and_comes_back() {
    let ((frozen, port), (_steady, other)) = (backend_process("frozen"), backend_process("steady"));
    let backends = [("frozen", &port), ("steady", &other)]
        .map(|(name, port)| format!("{{ address: \"{}\", name: {name} }}", port.address()));
    // The kernel accepts for it what it does not: a connection is no sign of life.
    let keys = "health_check: { tcp: {}, interval: 100ms }\n\
                timeouts: { read: 300ms }\n\
                ejection: { consecutive_failures: 2, base_time: 1s, max_time: 1s }";
    let lb = Config::pool(&backends, keys).access_log().start();
    let ask = || lb.get("/");
    let names: Vec<_> = (0..4).map(|_| ask().backend()).collect();
    assert_eq!(tally(&names).len(), 2, "{names:?}");
    frozen.signal(Signal::STOP);
    let answers: Vec<Response> = (0..6).map(|_| ask()).collect();
    let late = answers.iter().filter(|answer| answer.status == 504).count();
    assert_eq!(late, 2, "{:?}", answers.iter().map(|it| it.status).collect::<Vec<_>>());
    let entries = lb.wait_for_entries(10);
    let timeouts = entries.iter().filter(|entry| entry["reason"] == "upstream_timeout").count();
    assert_eq!(timeouts, 2, "{entries:?}");
    lb.wait_for_line("EJECTED");
    assert_eq!(lb.lines_with("is DOWN"), 0, "a health check has noticed");
    frozen.signal(Signal::CONT);
    eventually("it serves again", || ask().backend() == "frozen");
}

#[test]
fn a_name_that_cannot_be_resolved_is_told_and_the_others_serve() {
    let origin = Origin::named("a");
    let text = format!(
        "routes:\n\
         \x20 - {{ match: {{ path: /none }}, pool: unknown }}\n\
         \x20 - {{ pool: mixed }}\n\
         pools:\n\
         \x20 mixed: {{ backends: [{}, \"nobody.invalid:80\"], health_check: off }}\n\
         \x20 unknown: {{ backends: [\"nobody-else.invalid:80\"], health_check: off }}\n",
        origin.entry()
    );
    let lb = Config::new(text).access_log().start();
    for _ in 0..5 {
        assert_eq!(lb.get("/").text(), "a");
    }
    let response = lb.get("/none");
    assert_eq!(response.status, 503);
    assert_eq!(reason(&lb, 6), "no_healthy_backend");
    for name in ["nobody.invalid", "nobody-else.invalid"] {
        lb.wait_for_line(name);
        assert_eq!(lb.lines_with(name), 1, "{}", lb.program.stderr.text());
    }
    // And with a name that is known again, by another file, nothing is left of it.
    let file = lb.read("lb.yaml").replace("nobody-else.invalid:80", &origin.address().to_string());
    lb.replace("lb.yaml", &file);
    lb.signal(Signal::HUP);
    lb.wait_for_line("reloaded");
    eventually("it serves", || lb.get("/none").status == 200);
}

#[test]
fn a_name_that_leads_elsewhere_is_followed_within_the_interval() {
    let origin = Origin::named("a");
    let port = origin.port();
    // Nobody listens at the first address, and the default is 30 s.
    let keys = format!("{UNCHECKED}\nresolve_interval: 200ms");
    let files = Config::pool(&[format!("moving.test:{port}")], &keys)
        .file(HOSTS, "127.0.0.9 moving.test\n")
        .write();
    let Some(lb) = files.start_with_hosts("names that lead elsewhere") else { return };
    assert_eq!(lb.get("/").status, 502);
    // In place, as what is mounted is this very file.
    fs::write(lb.directory().join(HOSTS), "127.0.0.1 moving.test\n").unwrap();
    eventually("it is followed", || lb.get("/").status == 200);
}

/// CPU time that a process has taken, in the kernel and out of it.
fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// Does `work` while the balancer may have no more than `most` descriptors; what it has stays open.
fn short_of_descriptors(lb: &Lb, most: usize, work: impl FnOnce()) {
    let pid = Pid::from_raw(i32::try_from(lb.program.pid()).unwrap());
    // It has what this process has.
    let limit = getrlimit(Resource::Nofile);
    let few = Rlimit { current: Some(most as u64), ..limit };
    prlimit(pid, Resource::Nofile, few).expect("limits of a child are ours to set");
    work();
    prlimit(pid, Resource::Nofile, limit).expect("what it had");
}

#[test]
fn without_descriptors_accepting_pauses_and_the_rest_goes_on() {
    let origin = Origin::named("a");
    let lb = Config::pool(&[origin.entry()], UNCHECKED)
        .and("admin: { address: \"@2@\", hosts: [test.example] }")
        .access_log()
        .start();
    let mut kept = lb.client();
    assert_eq!(kept.get("/").status, 200);
    short_of_descriptors(&lb, lb.program.descriptors() + 4, || {
        let _crowd: Vec<Client> = (0..20).map(|_| lb.client()).collect();
        let _operator: Vec<Client> = (0..4).map(|_| Client::connect(&lb.extra(2))).collect();
        lb.wait_for_line("cannot accept connections");

        // Those who are here are served, and nobody spins while there is no room.
        let (start, spent) = (Instant::now(), cpu_time(lb.program.pid()));
        while start.elapsed() < Duration::from_secs(1) {
            assert_eq!(kept.get("/").status, 200);
            thread::park_timeout(Duration::from_millis(20));
        }
        let spent = cpu_time(lb.program.pid()).saturating_sub(spent);
        let share = spent.as_secs_f64() / start.elapsed().as_secs_f64();
        assert!(share < 0.5, "{share:.2} of a core while nothing can be accepted");
        assert_eq!(lb.lines_with("cannot accept connections"), 1);
    });
    eventually("it is over", || {
        let _ = crate::support::lb::answers(&lb.web());
        lb.lines_with("connections are accepted again") == 1
    });
    assert_eq!(lb.get("/").status, 200);
    assert_eq!(get(&lb.extra(2), "/healthz").status, 200);
    assert_eq!(lb.lines_with("cannot accept connections"), 1);
}

#[test]
fn a_lack_of_descriptors_is_not_held_against_backends() {
    // Each answer needs a connection of its own.
    let closing = |name| {
        Origin::scripted(name, move |_| {
            Reply::RawThenClose(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec())
        })
    };
    let (a, b) = (closing("a"), closing("b"));
    let keys = "health_check: { tcp: {}, interval: 50ms, fall: 1 }\n\
                ejection: { consecutive_failures: 1 }\n\
                retry: { budget: { percent: 100% } }";
    let lb = Config::pool(&[a.entry(), b.entry()], keys)
        .and("admin: { address: \"@2@\", hosts: [test.example] }")
        .access_log()
        .start();
    let mut client = lb.client();
    assert_eq!(client.get("/").status, 200);
    let mut operator = None;
    short_of_descriptors(&lb, 3, || {
        for _ in 0..10 {
            let response = client.get("/");
            assert_eq!(response.status, 500, "{}", response.text());
        }
        lb.wait_for_line("pool app: health checks cannot be made: ");
        operator = Some(Client::connect(&lb.extra(2)));
        lb.wait_for_line("admin: cannot accept: ");
        // The checks go on without a verdict.
        thread::park_timeout(Duration::from_millis(300));
    });
    let entries = lb.wait_for_entries(11);
    let ours = |entry: &&serde_json::Value| entry["reason"] == "internal_error";
    assert_eq!(entries.iter().filter(ours).count(), 10, "{entries:?}");
    for _ in 0..4 {
        assert_eq!(client.get("/").status, 200);
    }
    for line in ["EJECTED", "is DOWN", "no usable backend"] {
        assert_eq!(lb.lines_with(line), 0, "{}", lb.program.stderr.text());
    }
    assert_eq!(lb.lines_with("health checks cannot be made"), 1);
    assert_eq!(get(&lb.extra(2), "/healthz").status, 200);
    assert_eq!(lb.lines_with("admin: cannot accept: "), 1);
}

#[test]
fn a_full_disk_costs_lines_and_no_request() {
    let origin = Origin::named("a");
    let log = "access_log: { path: access.log, format: json }";
    let files = Config::pool(&[origin.entry()], UNCHECKED).and(log).write();
    // Every write to it fails as on a full disk.
    std::os::unix::fs::symlink("/dev/full", files.directory().join("access.log")).unwrap();
    let program = Program::start(["-c".as_ref(), files.path().as_os_str()]);
    eventually("it serves", || crate::support::lb::answers(&files.web()));
    let mut client = Client::connect(&files.web());
    for _ in 0..50 {
        assert_eq!(client.get("/").status, 200);
    }
    program.stderr.wait_for("access log: cannot write: No space left on device");
    let told = program.stderr.count("No space left on device");
    assert!(told <= 2, "{told} lines:\n{}", program.stderr.text());

    // There is room again: a file in the place of the full one, taken up as after a rotation.
    files.replace("access.log", "");
    program.signal(Signal::USR1);
    let written = || {
        assert_eq!(client.get("/again").status, 200);
        files.entries().iter().any(|entry| entry["path"] == "/again")
    };
    assert!(within(Duration::from_secs(10), written), "{}", program.stderr.text());
}

#[test]
fn a_101_that_nobody_asked_for_makes_no_tunnel() {
    let switch =
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nhello";
    let origin = Origin::scripted("a", |_| Reply::RawThenClose(switch.to_vec()));
    let lb = in_front_of(&origin, "retry: { attempts: 0 }");
    let response = lb.get("/");
    assert_eq!(response.status, 502, "{}", response.text());
    assert!(!response.text().contains("hello"));
    assert_eq!(reason(&lb, 1), "upstream_reset");
}
