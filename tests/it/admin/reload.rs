//! The configuration in force, and reading it again.

use super::with_admin;
use crate::support::{
    Client, Config, Gate, Lb, Origin, Program, Reply, Response, eventually, request,
};
use std::ffi::OsStr;

impl Lb {
    /// `POST /api/v1/reload`.
    #[track_caller]
    fn post_reload(&self) -> Response {
        Client::connect(&self.admin()).ask(request("POST", "/api/v1/reload", &[], b""))
    }
}

#[test]
fn the_configuration_is_shown_without_its_secrets() {
    let a = Origin::named("a");
    let lb = Config::pool(&[a.entry()], "sticky: { cookie: c, secret: \"0123456789abcdef\" }")
        .and("admin: { address: \"@2@\", token: s3cret }")
        .start();
    let fields = ["Host: localhost", "Authorization: Bearer s3cret"];
    let response = Client::connect(&lb.admin()).ask(request("GET", "/api/v1/config", &fields, b""));
    let text = response.text();
    assert!(!text.contains("s3cret") && !text.contains("0123456789abcdef"), "{text}");
    let config = response.json();
    assert_eq!(config["admin"]["token"], "(secret)");
    assert_eq!(config["pools"]["app"]["sticky"]["secret"], "(secret)");
    assert_eq!(config["pools"]["app"]["backends"][0]["name"], "a");
    assert_eq!(config["pools"]["app"]["health_check"]["rise"], 2);
    assert_eq!(config["listeners"]["web"]["timeouts"]["keepalive"], "75s");
    // It is what -T prints.
    let (code, yaml, _) = Program::run([OsStr::new("-T"), OsStr::new("-c"), lb.path().as_os_str()]);
    assert_eq!(code, 0);
    for line in ["keepalive: 75s", "secret: (secret)", "token: (secret)"] {
        assert!(yaml.contains(line), "{line} is not in\n{yaml}");
    }
}

#[test]
fn a_reload_says_what_has_changed() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let lb = with_admin(&[&a], "slow_start: 0s").start();
    let before = lb.ask("/api/v1/status").json();
    let response = lb.post_reload();
    assert_eq!((response.status, &response.json()["changes"]), (200, &serde_json::json!([])));
    assert_eq!(response.json()["config_hash"], before["config_hash"]);
    lb.edit(&a.entry(), &b.entry());
    lb.edit("slow_start: 0s", "slow_start: 1s");
    let response = lb.post_reload();
    let expected = serde_json::json!(["pool app: -a, +b, slow_start 0s -> 1s"]);
    assert_eq!((response.status, &response.json()["changes"]), (200, &expected));
    assert_eq!(lb.get("/").backend(), "b");
    let after = lb.ask("/api/v1/status").json();
    assert_eq!(response.json()["config_hash"], after["config_hash"]);
    assert_ne!(after["config_hash"], before["config_hash"]);
    assert_ne!(after["config_loaded_at"], before["config_loaded_at"]);
    assert_eq!(lb.ask("/api/v1/config").json()["pools"]["app"]["slow_start"], "1s");
    // It is in the error log, as one by HUP is.
    lb.wait_for_line("INFO  reloaded: pool app: -a, +b");
}

#[test]
fn a_file_with_errors_is_refused_with_all_of_them() {
    let a = Origin::named("a");
    let lb = with_admin(&[&a], "slow_start: 0s").start();
    let before = lb.ask("/api/v1/status").json();
    lb.edit("slow_start: 0s", "slow_strat: 0s\n    balance: fastest");
    let response = lb.post_reload();
    let body = response.json();
    assert_eq!((response.status, &body["error"]), (422, &"invalid_configuration".into()));
    let errors = body["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 2, "{body:#}");
    assert_eq!(errors[0]["path"], "pools.app.slow_strat");
    assert!(errors[0]["message"].as_str().unwrap().contains("did you mean \"slow_start\"?"));
    assert!(errors[0]["file"].as_str().unwrap().ends_with("/lb.yaml"));
    let line = errors[0]["line"].as_u64().unwrap();
    assert_eq!((&errors[0]["column"], &errors[1]["line"]), (&5.into(), &(line + 1).into()));
    assert_eq!(errors[1]["column"], 14);
    assert_eq!(lb.ask("/api/v1/status").json()["config_hash"], before["config_hash"]);
    assert_eq!(lb.get("/").backend(), "a");
}

#[test]
fn an_access_log_that_cannot_be_opened_is_an_error_of_the_configuration() {
    let a = Origin::named("a");
    let lb = with_admin(&[&a], "").and("access_log: { path: access.log }").start();
    lb.edit("access_log: { path: access.log }", "access_log: { path: none/access.log }");
    let response = lb.post_reload();
    let body = response.json();
    assert_eq!((response.status, &body["error"]), (422, &"invalid_configuration".into()));
    assert_eq!(body["errors"][0]["path"], "access_log.path");
    assert!(body["errors"][0]["message"].as_str().unwrap().contains("none/access.log"), "{body}");
    assert_eq!(lb.get("/").status, 200);
}

#[test]
fn what_needs_a_hand_over_is_named() {
    let a = Origin::named("a");
    let lb = with_admin(&[&a], "").start();
    lb.edit("threads: 2", "threads: 3");
    lb.edit(&lb.admin().to_string(), &lb.extra(3).to_string());
    let response = lb.post_reload();
    let body = response.json();
    assert_eq!((response.status, &body["error"]), (422, &"hand_over_needed".into()));
    let errors = body["errors"].as_array().unwrap().iter();
    let keys: Vec<_> = errors.map(|error| error["path"].as_str().unwrap()).collect();
    assert_eq!(keys, ["server.threads", "admin.address"]);
}

#[test]
fn only_a_post_reloads() {
    let a = Origin::named("a");
    let lb = with_admin(&[&a], "").start();
    let response = lb.ask("/api/v1/reload");
    assert_eq!((response.status, response.headers.get("allow")), (405, Some("POST")));
    assert_eq!(lb.lines_with("reloaded"), 0);
}

#[test]
fn another_sites_page_cannot_reload() {
    let a = Origin::named("a");
    let lb = with_admin(&[&a], "").start();
    let host = format!("Host: {}", lb.admin());
    let own = format!("Origin: http://{}", lb.admin());
    let ask = |fields: &[&str]| {
        let request = request("POST", "/api/v1/reload", &[&[host.as_str()], fields].concat(), b"");
        Client::connect(&lb.admin()).ask(request)
    };
    let other_port = format!("Origin: http://127.0.0.1:{}", lb.web().port());
    for other in [
        "Origin: http://evil.example",
        "Origin: null",
        "Origin: ",
        &other_port,
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
        "Sec-Fetch-Site: what-comes-next",
    ] {
        let response = ask(&[other]);
        assert_eq!((response.status, &response.json()["error"]), (403, &"cross_site".into()));
        assert_eq!(ask(&[&own, "Sec-Fetch-Site: same-origin", other]).status, 403, "{other}");
    }
    assert_eq!(lb.lines_with("reloaded"), 0);
    for fields in [
        &[][..],
        &[own.as_str()],
        &[&own, "Sec-Fetch-Site: same-origin"],
        &["Sec-Fetch-Site: none"],
    ] {
        assert_eq!(ask(fields).status, 200, "{fields:?}");
    }
    eventually("four lines", || lb.lines_with("reloaded: nothing has changed") == 4);
}

#[test]
fn there_is_no_reload_before_or_after_serving() {
    let gate = Gate::default();
    let held = gate.clone();
    let a = Origin::scripted("a", move |_| Reply::text("ok").behind(&held));
    let lb = with_admin(&[&a], "health_check: off").start();
    let mut client = lb.client();
    client.send(request("GET", "/", &[], b""));
    eventually("the request is on its backend", || a.working() == 1);
    lb.signal(rustix::process::Signal::TERM);
    lb.wait_for_line("draining: ");
    let response = lb.post_reload();
    assert_eq!((response.status, &response.json()["error"]), (409, &"not_reloaded".into()));
    gate.open();
    assert_eq!(client.response().status, 200);
}
