//! What reloading costs: no memory that stays, and little time.

use crate::support::{Client, Config, Lb, Origin, request};
use std::{
    fmt::Write as _,
    fs,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

const ADMIN: &str = "admin: { address: \"@2@\", hosts: [test.example] }\n";

fn number(name: &str, short: usize) -> usize {
    std::env::var(name).map_or(short, |number| number.parse().unwrap())
}

/// A pool of this many backends that nobody listens on, beside the one that is used.
fn crowded(origin: &Origin, backends: usize) -> String {
    let mut text =
        format!("pools:\n  app: {{ backends: [{}], health_check: off }}\n", origin.entry());
    text.push_str("  many:\n    health_check: off\n    slow_start: 0s\n    backends:\n");
    for backend in 0..backends {
        let (high, low) = (backend / 250, backend % 250 + 1);
        writeln!(text, "      - {{ address: \"127.1.{high}.{low}:9\", weight: 1 }}").unwrap();
    }
    text.push_str("routes:\n");
    for route in 0..backends.min(200) {
        let filter = "rate_limit: { requests: 10, per: 1s, burst: 10, key: client_ip }";
        writeln!(
            text,
            "  - {{ match: {{ path: /r{route} }}, pool: many, filters: [{{ {filter} }}] }}"
        )
        .unwrap();
    }
    text.push_str("  - pool: app\n");
    text + ADMIN
}

/// Has the file read again through the admin API, and returns how long that took.
#[track_caller]
fn reload(lb: &Lb) -> Duration {
    let mut admin = Client::connect(&lb.extra(2));
    admin.set_patience(Duration::from_secs(60));
    let began = Instant::now();
    let response = admin.ask(request("POST", "/api/v1/reload", &["Connection: close"], b""));
    assert_eq!(response.status, 200, "{}", response.text());
    assert_ne!(response.json()["changes"].as_array().map(Vec::len), Some(0));
    began.elapsed()
}

/// A configuration that is not given back at each of the reloads leaves 13 MiB in a round.
const TOLERANCE: u64 = 4 << 20;
const ROUND: usize = 25;

/// Memory is flat where rounds of reloads end with what an earlier one had. How many it takes until then
/// is the allocator's affair, which keeps some for the next time and asks for it in large pieces; a
/// configuration that stays with each reload makes every round end higher than all before it.
#[test]
fn memory_stays_flat_over_reloads() {
    let origin = Origin::named("a");
    let lb = Config::new(crowded(&origin, 250)).start();
    let text = fs::read_to_string(lb.path()).unwrap();
    // Other backends altogether, other filters and other routes.
    let other = text.replace("127.1.", "127.2.").replace("burst: 10", "burst: 11");
    let texts = [other.replace("/r", "/s"), text];
    let mut turn = 0;
    let mut round = || {
        for _ in 0..ROUND {
            lb.files.replace("lb.yaml", &texts[turn % 2]);
            turn += 1;
            reload(&lb);
            assert_eq!(lb.get("/").status, 200);
        }
        lb.program.memory("VmRSS")
    };
    let (least, most) = (number("RELOADS_FOR_MEMORY", 75) / ROUND, 20);
    let (mut ends, mut flat) = (vec![round()], 0);
    while flat < least {
        assert!(ends.len() < most.max(2 * least), "bytes after each {ROUND} reloads: {ends:?}");
        let (highest, end) = (ends.iter().copied().max().unwrap(), round());
        flat = if end < highest + TOLERANCE { flat + 1 } else { 0 };
        ends.push(end);
    }
    let kib: Vec<_> = ends.iter().map(|bytes| bytes >> 10).collect();
    println!("resident memory after each {ROUND} reloads, in KiB: {kib:?}");
}

/// The time that requests take, one after another, until told to stop.
fn durations(lb: &Lb, stop: &AtomicBool) -> Vec<Duration> {
    let mut client = lb.client();
    let mut durations = Vec::new();
    while !stop.load(Relaxed) {
        let began = Instant::now();
        assert_eq!(client.get("/").status, 200);
        durations.push(began.elapsed());
        thread::park_timeout(Duration::from_micros(500));
    }
    durations.sort_unstable();
    durations
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// Reloads twice a second, or lets that time pass, and returns how long each took.
fn reload_now_and_then(
    lb: &Lb,
    texts: &[String; 2],
    times: usize,
    reloading: bool,
) -> Vec<Duration> {
    let (mut took, began) = (Vec::new(), Instant::now());
    for turn in 0..times {
        if reloading {
            lb.files.replace("lb.yaml", &texts[turn % 2]);
            took.push(reload(lb));
        }
        let next = Duration::from_millis(500) * u32::try_from(turn + 1).unwrap();
        thread::park_timeout(next.saturating_sub(began.elapsed()));
    }
    took
}

/// A measurement, for `make upgrade-proof`.
#[test]
fn ten_thousand_backends_are_reloaded_beside_traffic() {
    let reloads = number("RELOADS_OF_MANY", 0);
    if reloads == 0 {
        return;
    }
    let origin = Origin::named("a");
    let lb = Config::new(crowded(&origin, 10_000)).start();
    let texts = {
        let text = fs::read_to_string(lb.path()).unwrap();
        [text.replacen("weight: 1 ", "weight: 2 ", 5000), text]
    };
    for reloading in [false, true] {
        let stop = AtomicBool::new(false);
        let (times, mut took) = thread::scope(|scope| {
            let asking = scope.spawn(|| durations(&lb, &stop));
            // Joined before the other, which is to end whatever becomes of this one.
            let changing = scope.spawn(|| reload_now_and_then(&lb, &texts, reloads, reloading));
            let took = changing.join();
            stop.store(true, Relaxed);
            (asking.join().unwrap(), took.unwrap())
        });
        took.sort_unstable();
        println!(
            "{} requests: p50 {:?}, p99 {:?}, most {:?}; reloads: {took:?}",
            times.len(),
            percentile(&times, 50),
            percentile(&times, 99),
            times[times.len() - 1]
        );
    }
}
