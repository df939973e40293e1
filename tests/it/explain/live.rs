//! A running instance that is asked.

use crate::support::{Client, Config, Gate, Lb, Origin, Program, Reply, eventually, request};
use serde_json::{Value, json};

fn ask(lb: &Lb, request: &[&str]) -> Value {
    let admin = lb.extra(2).to_string();
    let args = [&["explain", "--json", "--admin", &admin], request].concat();
    let (code, stdout, stderr) = Program::run(args);
    assert_eq!((code, stderr.as_str()), (0, ""));
    serde_json::from_str(&stdout).unwrap()
}

fn post(lb: &Lb, body: &str) -> (u16, Value) {
    let mut client = Client::connect(&lb.extra(2));
    let response = client.ask(request("POST", "/api/v1/explain", &[], body.as_bytes()));
    (response.status, response.json())
}

fn start(origins: &[&Origin], keys: &str) -> Lb {
    with_admin(origins, keys).start()
}

fn with_admin(origins: &[&Origin], keys: &str) -> Config {
    let backends: Vec<_> = origins.iter().map(|origin| origin.entry()).collect();
    Config::pool(&backends, keys).and("admin: { address: \"@2@\", hosts: [test.example] }")
}

#[test]
fn the_state_is_that_of_the_instance() {
    let gate = Gate::default();
    let held = gate.clone();
    let a = Origin::scripted("a", move |_| Reply::text("ok").behind(&held));
    let b = Origin::named("b");
    let lb = start(&[&a, &b], "health_check: off\nbalance: least_connections");
    let mut client = lb.client();
    // With nothing in flight the two take turns.
    for _ in 0..2 {
        client.send(request("GET", "/", &[], b""));
        eventually("one of the two has it", || a.working() + b.count() > 0);
        if a.working() == 1 {
            break;
        }
        client.response();
    }
    assert_eq!(a.working(), 1, "a has a request");
    let explanation = ask(&lb, &["http://x/"]);
    assert_eq!((&explanation["state"], &explanation["pick"]), (&"live".into(), &"b".into()));
    assert_eq!(explanation["pool"]["backends"][0]["in_flight"], 1);
    let (admin, pool) = (lb.extra(2).to_string(), ["app", "b"]);
    let (code, _, stderr) = Program::run([&["disable", "--admin", &admin][..], &pool].concat());
    assert_eq!((code, stderr.as_str()), (0, ""));
    let explanation = ask(&lb, &["http://x/"]);
    assert_eq!(explanation["pool"]["backends"][1]["state"], "disabled");
    assert_eq!(
        (&explanation["pick"], &explanation["retry"]["order"]),
        (&"a".into(), &json!(["a"]))
    );
    gate.open();
}

#[test]
fn asking_takes_no_turn_and_counts_nothing() {
    let origins = [Origin::named("a"), Origin::named("b"), Origin::named("c")];
    let lb = start(&[&origins[0], &origins[1], &origins[2]], "health_check: off");
    for _ in 0..12 {
        let foretold = ask(&lb, &["http://x/"]);
        assert_eq!(ask(&lb, &["http://x/"])["pick"], foretold["pick"]);
        assert_eq!(lb.get("/").backend(), foretold["pick"]);
    }
    let backends = ask(&lb, &["http://x/"])["pool"]["backends"].clone();
    assert!(backends.as_array().unwrap().iter().all(|it| it["in_flight"] == 0));
}

#[test]
fn what_a_filter_would_answer_is_not_counted() {
    let origin = Origin::named("a");
    let lb = with_admin(&[&origin], "health_check: off")
        .and("routes: [{ name: all, pool: app, filters: [{ ip_filter: { deny: [127.0.0.1] } }] }]")
        .start();
    let counted = || {
        let metrics = Client::connect(&lb.extra(2)).ask(request("GET", "/metrics", &[], b""));
        let name = r#"filter_answers_total{route="all",filter="ip_filter",reason="denied"}"#;
        let metrics = metrics.text();
        let line = metrics.lines().find(|line| line.contains(name)).map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next().map(str::to_owned))
    };
    assert_eq!(lb.get("/").status, 403);
    eventually("the answer is counted", || counted().as_deref() == Some("1"));
    assert_eq!(ask(&lb, &["http://x/"])["answer"]["by"], "ip_filter");
    assert_eq!(lb.get("/").status, 403);
    eventually("the second is counted", || counted().as_deref() != Some("1"));
    assert_eq!(counted().as_deref(), Some("2"));
}

#[test]
fn sticky_cookies_are_read_with_the_instances_own_secret() {
    let origins = [Origin::named("a"), Origin::named("b")];
    let lb = start(&[&origins[0], &origins[1]], "health_check: off\nsticky: { cookie: LB }");
    let response = lb.get("/");
    let cookie = response.headers.get("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let asked = ["http://x/", "-H", &format!("Cookie: {cookie}")];
    for _ in 0..3 {
        let explanation = ask(&lb, &asked);
        assert_eq!(explanation["pool"]["sticky"]["status"], "good");
        assert_eq!(
            (&explanation["pick"], &explanation["way"]),
            (&response.backend().into(), &"kept".into())
        );
    }
}

#[test]
fn what_is_no_description_is_refused() {
    let origin = Origin::named("a");
    let lb = start(&[&origin], "health_check: off");
    for (body, error) in [
        ("", "invalid"),
        ("{}", "invalid"),
        (r#"{"url": "/x"}"#, "invalid"),
        (r#"{"url": "http://x/", "bogus": 1}"#, "invalid"),
        (r#"{"url": "https://x/"}"#, "no_listener"),
    ] {
        let (status, answer) = post(&lb, body);
        assert_eq!((status, &answer["error"]), (422, &error.into()), "{body}");
    }
    let (status, answer) =
        post(&lb, r#"{"url": "http://x/y", "method": "POST", "client": "192.0.2.7"}"#);
    assert_eq!((status, &answer["request"]["client"]), (200, &"192.0.2.7".into()));
    assert_eq!(origin.traffic().len(), 0, "a request was sent");
}
