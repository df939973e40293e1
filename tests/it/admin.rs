//! The admin API.

use crate::support::{
    Address, Client, Config, Gate, Lb, Load, Origin, Program, Reply, SOON, eventually, lb::server,
    request,
};
use rustix::process::Signal;
use std::{ffi::OsStr, fs, os::unix::fs::MetadataExt};

mod commands;
mod dashboard;
mod decisions;
mod guard;
mod pools;
mod reload;
mod top;

/// Has the admin API on `@2@`.
const ADMIN: &str = "admin: { address: \"@2@\", hosts: [test.example] }\n";

/// A balancer with an admin API, in front of these.
fn with_admin(origins: &[&Origin], keys: &str) -> Config {
    let backends: Vec<_> = origins.iter().map(|origin| origin.entry()).collect();
    Config::pool(&backends, keys).and(ADMIN)
}

impl Lb {
    /// Where the admin API is, if it is on `@2@`.
    fn admin(&self) -> Address {
        self.extra(2)
    }

    /// `GET path` of the admin API.
    #[track_caller]
    fn ask(&self, path: &str) -> crate::support::Response {
        crate::support::get(&self.admin(), path)
    }
}

#[test]
fn it_tells_of_the_process() {
    let gate = Gate::default();
    let held = gate.clone();
    let a = Origin::scripted("a", move |_| Reply::text("ok").behind(&held));
    let lb = with_admin(&[&a], "health_check: off").start();
    assert_eq!((lb.ask("/healthz").status, lb.ask("/healthz").text().as_str()), (200, "ok\n"));
    assert_eq!((lb.ask("/readyz").status, lb.ask("/readyz").text().as_str()), (200, "ready\n"));
    let mut client = lb.client();
    client.send(request("GET", "/", &[], b""));
    eventually("the request is on its backend", || a.working() == 1);

    let response = lb.ask("/api/v1/status");
    assert_eq!(response.headers.get("content-type"), Some("application/json"));
    assert_eq!(response.headers.get("cache-control"), Some("no-store"));
    let status = response.json();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["pid"], lb.program.pid());
    assert!(status["uptime_seconds"].as_u64().unwrap() < 600);
    assert_eq!((&status["draining"], &status["ready"]), (&false.into(), &true.into()));
    assert!(status["config_loaded_at"].as_str().unwrap().starts_with("20"));
    let web = &status["listeners"][0];
    assert_eq!((&web["name"], &web["protocol"]), (&"web".into(), &"http".into()));
    assert_eq!(web["address"], lb.web().to_string());
    assert_eq!(web["connections"], 1);

    let metrics = lb.ask("/metrics");
    let kind = metrics.headers.get("content-type").unwrap();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let metrics = metrics.text();
    let hash = u64::from_str_radix(status["config_hash"].as_str().unwrap(), 16).unwrap();
    for line in [
        format!("pingora_lb_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
        format!("pingora_lb_config_hash {hash}"),
        "pingora_lb_downstream_connections{listener=\"web\"} 1".to_owned(),
        "pingora_lb_backend_in_flight{pool=\"app\",backend=\"a\"} 1".to_owned(),
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    gate.open();
    client.response();
}

#[test]
fn it_answers_while_the_first_checks_are_under_way() {
    let gate = Gate::default();
    let held = gate.clone();
    let a = Origin::scripted("a", move |_| Reply::text("ok").behind(&held));
    let check = "health_check: { http: { path: /health }, timeout: 60s }";
    let lb = with_admin(&[&a], check).without_probe().start();
    eventually("the check has come", || a.working() == 1);
    let refused = lb.ask("/readyz");
    assert_eq!((refused.status, refused.text().as_str()), (503, "not ready\n"));
    assert_eq!(lb.ask("/healthz").status, 200);
    assert_eq!(lb.ask("/api/v1/status").json()["ready"], false);
    gate.open();
    eventually("it is ready", || lb.ask("/readyz").status == 200);
    assert_eq!(lb.get("/").status, 200);
}

#[test]
fn readiness_ends_with_term_and_the_rest_goes_on() {
    let gate = Gate::default();
    let held = gate.clone();
    let a = Origin::scripted("a", move |_| Reply::text("ok").behind(&held));
    let mut lb = with_admin(&[&a], "health_check: off").start();
    let mut client = lb.client();
    client.send(request("GET", "/", &[], b""));
    eventually("the request is on its backend", || a.working() == 1);
    let mut admin = Client::connect(&lb.admin());
    assert_eq!(admin.get("/readyz").status, 200);
    lb.signal(Signal::TERM);
    lb.wait_for_line("draining: ");
    // On the connection that there was, and on a new one.
    eventually("it is not ready", || admin.get("/readyz").status == 503);
    assert_eq!((lb.ask("/readyz").status, lb.ask("/healthz").status), (503, 200));
    assert_eq!(lb.ask("/api/v1/status").json()["draining"], true);
    gate.open();
    assert_eq!(client.response().status, 200);
    assert!(lb.program.wait_for_exit(SOON).is_some(), "the admin API holds up the end");
}

#[test]
fn what_is_not_there_is_said_in_json() {
    let a = Origin::named("a");
    let lb = with_admin(&[&a], "").start();
    for path in ["/api", "/api/v2", "/healthz/", "/api/v1/status/x", "/%68ealthz"] {
        let response = lb.ask(path);
        let body = response.json();
        assert_eq!((response.status, &body["error"]), (404, &"not_found".into()), "{path}");
        assert!(body["message"].as_str().unwrap().contains(path));
    }
    let mut client = Client::connect(&lb.admin());
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "NONSENSE"] {
        let response = client.ask(request(method, "/api/v1/status", &[], b""));
        assert_eq!(response.status, 405, "{method}");
        assert_eq!(response.headers.get("allow"), Some("GET, HEAD"));
        assert_eq!(response.json()["error"], "method_not_allowed");
    }
    client.send(request("HEAD", "/api/v1/status", &[], b""));
    let head = client.response_to_head();
    assert_eq!((head.status, head.headers.get("content-type")), (200, Some("application/json")));
    assert_eq!(client.get("/healthz").status, 200);
}

#[test]
fn too_much_of_a_head_is_refused() {
    let a = Origin::named("a");
    let lb = with_admin(&[&a], "").start();
    let long = format!("X: {}", "x".repeat(20_000));
    let response = Client::connect(&lb.admin()).ask(request("GET", "/healthz", &[&long], b""));
    assert_eq!(response.status, 431);
}

#[test]
fn more_connections_than_it_serves_wait_for_one_to_end() {
    let a = Origin::named("a");
    let lb = with_admin(&[&a], "").start();
    let mut idle: Vec<_> = (0..128).map(|_| Client::connect(&lb.admin())).collect();
    for client in &mut idle {
        assert_eq!(client.get("/healthz").status, 200);
    }
    let mut late = Client::connect(&lb.admin());
    late.send(request("GET", "/healthz", &[], b""));
    late.set_patience(std::time::Duration::from_millis(300));
    assert!(late.try_some().is_err(), "it is served beside 128 others");
    // The proxy has its own.
    assert_eq!(lb.get("/").status, 200);
    drop(idle.pop());
    late.set_patience(SOON);
    assert_eq!(late.response().status, 200);
}

#[test]
fn an_address_in_use_fails_the_start() {
    let a = Origin::named("a");
    let files = with_admin(&[&a], "").write();
    let Address::Tcp(taken) = files.extra(2) else { unreachable!() };
    let _taken = std::net::TcpListener::bind(taken).unwrap();
    let (code, _, stderr) = Program::run([OsStr::new("-c"), files.path().as_os_str()]);
    assert_eq!(code, 1);
    assert!(stderr.contains(&format!("admin: cannot listen on {taken}: ")), "{stderr}");
}

#[test]
fn a_unix_socket_is_for_its_owner_and_goes_with_the_process() {
    let a = Origin::named("a");
    let text = "admin: { address: \"unix:@DIR@/admin.sock\" }";
    let mut lb = Config::pool(&[a.entry()], "").and(text).start();
    let path = lb.directory().join("admin.sock");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let response = crate::support::get(&Address::Unix(path.clone()), "/api/v1/status");
    assert_eq!(response.json()["pid"], lb.program.pid());
    lb.signal(Signal::TERM);
    assert!(lb.program.wait_for_exit(SOON).is_some());
    assert!(!path.exists());
}

/// Through a hand-over, every request is answered by one of the two, at last by the successor.
#[test]
fn it_answers_throughout_a_hand_over() {
    let a = Origin::named("a");
    let Lb { program: mut first, files } =
        with_admin(&[&a], "health_check: off").and(&server("drain_timeout: 20s")).start();
    let admin = files.extra(2);
    let pid = || crate::support::get(&admin, "/api/v1/status").json()["pid"].as_u64().unwrap();
    assert_eq!(pid(), u64::from(first.pid()));
    let load = Load::start(&admin, 4, "/api/v1/status");
    load.wait_for_more(50);
    let mut idle = Client::connect(&admin);
    assert_eq!(idle.get("/readyz").status, 200);
    let second = Program::start([OsStr::new("-c"), files.path().as_os_str(), OsStr::new("-u")]);
    second.stderr.wait_for("waiting for the running instance");
    first.signal(Signal::QUIT);
    second.stderr.wait_for("took over");
    assert!(idle.is_closed(), "a connection to the predecessor stays");
    load.wait_for_more(50);
    assert!(first.wait_for_exit(SOON).is_some());
    load.wait_for_more(50);
    let (_, _, failures) = load.stop();
    assert_eq!(failures, Vec::<String>::new());
    assert_eq!(pid(), u64::from(second.pid()));
    assert_eq!(crate::support::get(&admin, "/readyz").status, 200);
}
