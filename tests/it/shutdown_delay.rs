//! `server.shutdown_delay`: between TERM and draining.

use crate::support::{Config, Lb, Origin, Program, SOON, eventually, get, lb::server};
use rustix::process::Signal;
use std::{
    ffi::OsStr,
    time::{Duration, Instant},
};

const ADMIN: &str = "admin: { address: \"@2@\", hosts: [test.example] }\n";

/// A balancer that has been told to end, and waits for that to be noticed.
fn leaving(delay: &str) -> (Lb, Origin, Instant) {
    let origin = Origin::named("a");
    let lb = Config::pool(&[origin.entry()], "health_check: off")
        .and(ADMIN)
        .and(&server(&format!("shutdown_delay: {delay}")))
        .start();
    eventually("it is ready", || get(&lb.extra(2), "/readyz").status == 200);
    let told = Instant::now();
    lb.signal(Signal::TERM);
    eventually("readiness fails", || get(&lb.extra(2), "/readyz").status == 503);
    (lb, origin, told)
}

#[test]
fn readiness_fails_at_once_and_the_listeners_close_later() {
    let (mut lb, _origin, told) = leaving("2s");
    assert!(told.elapsed() < Duration::from_secs(2), "readiness fails too late to tell");
    // New connections are served, and kept open.
    let mut kept = lb.client();
    let response = kept.get("/");
    assert_eq!((response.status, response.headers.lists("connection", "close")), (200, false));
    assert_eq!(kept.get("/").status, 200);
    assert_eq!(get(&lb.extra(2), "/healthz").status, 200);
    assert_eq!(get(&lb.extra(2), "/api/v1/status").json()["draining"], true);
    assert!(lb.program.wait_for_exit(SOON).is_some_and(|status| status.code() == Some(0)));
    assert!(told.elapsed() >= Duration::from_secs(2), "{:?}", told.elapsed());
    assert!(kept.is_closed());
}

#[test]
fn a_second_term_or_int_begins_to_drain() {
    for signal in [Signal::TERM, Signal::INT] {
        let origin = Origin::slow("a", Duration::from_millis(500));
        let mut lb = Config::pool(&[origin.entry()], "health_check: off")
            .and(&server("shutdown_delay: 10m"))
            .start();
        lb.signal(Signal::TERM);
        lb.wait_for_line("not ready any more");
        let mut client = lb.client();
        client.send(crate::support::request("GET", "/", &[], b""));
        eventually("the request is on its backend", || origin.working() == 1);
        lb.signal(signal);
        // It drains: what is in flight is answered.
        assert_eq!(client.response().status, 200, "{signal:?}");
        assert!(lb.program.wait_for_exit(SOON).is_some_and(|status| status.code() == Some(0)));
        assert_eq!(lb.lines_with("drained"), 1, "{signal:?}");
    }
}

#[test]
fn who_is_about_to_end_neither_reloads_nor_hands_over() {
    let (mut lb, _origin, _) = leaving("10m");
    lb.signal(Signal::HUP);
    lb.wait_for_line("not reloaded: it is not serving");
    let mut successor = Program::start([OsStr::new("-c"), lb.path().as_os_str(), OsStr::new("-u")]);
    successor.stderr.wait_for("waiting for the running instance");
    lb.signal(Signal::QUIT);
    lb.wait_for_line("QUIT refused: the process is about to end");
    successor.signal(Signal::TERM);
    assert!(successor.wait_for_exit(SOON).is_some());
    assert_eq!(lb.get("/").status, 200);
    lb.signal(Signal::TERM);
    assert!(lb.program.wait_for_exit(SOON).is_some());
}

#[test]
fn without_a_delay_it_drains_at_once() {
    let origin = Origin::named("a");
    let mut lb = Config::pool(&[origin.entry()], "health_check: off").start();
    lb.signal(Signal::TERM);
    assert!(lb.program.wait_for_exit(SOON).is_some());
    assert_eq!(lb.lines_with("not ready any more"), 0);
}
