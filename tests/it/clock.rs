//! The wall clock is set while it runs: nothing that is timed may notice.

use crate::support::{Config, Lb, Origin, Reply, Reserved, eventually, request};
use serde_json::Value;
use std::{
    env,
    time::{Duration, Instant},
};

/// Where libfaketime is, with which a process can have a clock of its own (`make clock-proof`). The
/// clock of the machine is not ours to set.
const LIBRARY: &str = "PINGORA_LB_FAKETIME";

/// A backend that is ejected for an hour, a bucket that fills in an hour, checks, a timeout, a queue.
fn configuration(steady: &Origin, refusing: &Reserved) -> Config {
    let pools = format!(
        "pools:
  app: {{ backends: [{steady}, \"{refusing}\"], health_check: off, retry: {{ attempts: 0 }}, ejection: {{ consecutive_failures: 1, base_time: 1h }} }}
  checked: {{ backends: [{steady}], health_check: {{ interval: 100ms, timeout: 5s, fall: 1 }} }}
  queued: {{ backends: [{steady}], health_check: off, ejection: off, limits: {{ connections_per_backend: 1, queue: 1, queue_timeout: 300ms }} }}
",
        steady = steady.entry(),
        refusing = refusing.address(),
    );
    let routes = "routes:
  - { match: { path: /limited }, pool: app, filters: [{ rate_limit: { requests: 1, per: 1h, burst: 2 } }] }
  - { match: { path: /late }, pool: checked, timeout: 300ms }
  - { match: { path: /checked }, pool: checked }
  - { match: { path: /queued }, pool: queued }
  - { pool: app }
";
    Config::new(pools + routes).access_log()
}

/// The newest line of the access log, which has so many.
fn entry(lb: &Lb, lines: usize) -> Value {
    lb.wait_for_entries(lines)[lines - 1].clone()
}

#[test]
fn a_wall_clock_that_jumps_moves_nothing_that_is_timed() {
    let Ok(library) = env::var(LIBRARY) else { return };
    let steady = Origin::scripted("steady", |request| match request.path() {
        "/late" | "/queued" => Reply::Hang,
        _ => Reply::text("here"),
    });
    let lb = configuration(&steady, &Reserved::new())
        .file("clock", "+0")
        .environment("LD_PRELOAD", &library)
        .environment("FAKETIME_TIMESTAMP_FILE", "@DIR@/clock")
        .environment("FAKETIME_NO_CACHE", "1")
        .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .start();
    let mut kept = lb.client();
    let statuses: Vec<_> = (0..4).map(|_| kept.get("/").status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), 1, "{statuses:?}");
    let limited: Vec<_> = (0..3).map(|_| kept.get("/limited").status).collect();
    assert_eq!(limited, [200, 200, 429]);
    let mut lines = lb.wait_for_entries(7).len();
    let mut time = entry(&lb, lines)["time"].to_string();
    let mut occupant = lb.client();
    occupant.send(request("GET", "/queued", &[], b""));
    eventually("the only place is taken", || steady.working() == 1);

    for jump in ["+400d", "-400d", "+0"] {
        lb.files.replace("clock", jump);
        let began = Instant::now();
        assert_eq!(kept.get("/limited").status, 429, "{jump}: the bucket has filled");
        lines += 1;
        let now = entry(&lb, lines)["time"].to_string();
        assert_ne!(now[..5], time[..5], "{jump}: the process has not seen it");
        time = now;
        for _ in 0..6 {
            assert_eq!(kept.get("/").status, 200, "{jump}: the ejection is over");
            assert_eq!(kept.get("/checked").status, 200, "{jump}: the checks fail");
        }
        lines += 12;
        for (path, status) in [("/late", 504), ("/queued", 503)] {
            assert_eq!(lb.get(path).status, status, "{jump}");
            lines += 1;
            let late = &entry(&lb, lines);
            let took = late["duration_ms"].as_f64().unwrap();
            assert!((300.0..4_000.0).contains(&took), "{jump}: {late}");
        }
        assert!(began.elapsed() < Duration::from_secs(15), "{jump}: something waited");
    }
    assert_eq!(lb.lines_with("is DOWN"), 0);
}
