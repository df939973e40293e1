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

/// More than this is left after a few reloads by a configuration that is not given back.
const TOLERANCE: u64 = 8 << 20;

#[test]
fn memory_stays_flat_over_reloads() {
    let origin = Origin::named("a");
    let lb = Config::new(crowded(&origin, 250)).start();
    let text = fs::read_to_string(lb.path()).unwrap();
    // Other backends altogether, other filters and other routes.
    let other = text.replace("127.1.", "127.2.").replace("burst: 10", "burst: 11");
    let texts = [other.replace("/r", "/s"), text];
    let mut turn = 0;
    let mut reload_again = |times: usize| {
        for _ in 0..times {
            lb.files.replace("lb.yaml", &texts[turn % 2]);
            turn += 1;
            reload(&lb);
            assert_eq!(lb.get("/").status, 200);
        }
        lb.program.memory("VmRSS")
    };
    // What the allocator keeps for the next time is there after some dozens: from then on, four hundred
    // more have left nothing.
    let before = reload_again(80);
    let times = number("RELOADS_FOR_MEMORY", 100);
    let after = reload_again(times);
    println!("resident memory: {} KiB, {} KiB after {times} reloads", before >> 10, after >> 10);
    assert!(after < before + TOLERANCE, "{before} bytes, {after} after {times} reloads");
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
