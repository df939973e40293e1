//! What it tells of pools.

use super::with_admin;
use crate::support::{Config, Gate, Lb, Origin, Reply, eventually, request};
use serde_json::Value;

impl Lb {
    /// What the admin API tells of a backend of the pool `app`.
    #[track_caller]
    pub fn backend(&self, name: &str) -> Value {
        let pool = self.ask("/api/v1/pools/app").json();
        let backends = pool["backends"].as_array().unwrap();
        let found = backends.iter().find(|backend| backend["name"] == name);
        found.unwrap_or_else(|| panic!("no {name} in {pool:#}")).clone()
    }

    /// The names of the backends of the pool `app`.
    #[track_caller]
    pub fn backend_names(&self) -> Vec<String> {
        let pool = self.ask("/api/v1/pools/app").json();
        let backends = pool["backends"].as_array().unwrap().iter();
        backends.map(|backend| backend["name"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn backends_are_told_with_what_is_known_of_them() {
    let gate = Gate::default();
    let held = gate.clone();
    let a = Origin::scripted("a", move |request| match request.path() {
        "/held" => Reply::text("held").behind(&held),
        "/broken" => Reply::status(500),
        _ => Reply::text("a"),
    });
    let b = Origin::named("b");
    b.stop();
    let backends = [
        a.entry_with("weight: 3"),
        b.entry_with("backup: true, state: draining"),
        "localhost:1".to_owned(),
    ];
    let check = "health_check: { interval: 100ms, timeout: 5s, fall: 1 }\nbalance: random";
    let lb = Config::pool(&backends, check).and(super::ADMIN).start();
    let mut client = lb.client();
    assert_eq!(client.get("/").status, 200);
    assert_eq!(client.get("/broken").status, 500);
    client.send(request("GET", "/held", &[], b""));
    eventually("the request is on its backend", || a.working() == 1);

    let first = lb.backend("a");
    for (key, value) in [
        ("address", Value::from(a.address().to_string())),
        ("host_name", Value::Null),
        ("weight", 3.into()),
        ("backup", false.into()),
        ("state", "active".into()),
        ("health", "healthy".into()),
        ("usable", true.into()),
        ("in_flight", 1.into()),
        ("requests", 3.into()),
        ("errors", 1.into()),
        ("ejected_until", Value::Null),
        ("override", Value::Null),
    ] {
        assert_eq!(first[key], value, "{key} of {first:#}");
    }
    let speed = first["ewma_ms"].as_f64().unwrap();
    assert!(speed > 0.0 && speed < 10_000.0, "{speed}");
    let second = lb.backend("b");
    assert_eq!(second["state"], "draining");
    assert_eq!((&second["health"], &second["backup"]), (&"unhealthy".into(), &true.into()));
    assert_eq!((&second["usable"], &second["requests"]), (&false.into(), &0.into()));
    let third = lb.backend("localhost:1");
    assert_eq!(
        (&third["host_name"], &third["address"]),
        (&"localhost".into(), &"127.0.0.1:1".into())
    );

    let all = lb.ask("/api/v1/pools").json();
    let pool = &all["pools"][0];
    assert_eq!((&pool["name"], &pool["balance"]), (&"app".into(), &"random".into()));
    assert_eq!(
        (&pool["usable"], &pool["in_flight"], &pool["queued"]),
        (&1.into(), &1.into(), &0.into())
    );
    assert_eq!(pool["backends"].as_array().unwrap().len(), 3);
    let missing = lb.ask("/api/v1/pools/ap");
    assert_eq!((missing.status, &missing.json()["error"]), (404, &"not_found".into()));
    gate.open();
    client.response();
}

#[test]
fn an_ejection_shows_until_when() {
    let (a, b) = (Origin::scripted("a", |_| Reply::status(500)), Origin::named("b"));
    let keys = "health_check: off\nejection: { consecutive_failures: 2, base_time: 60s }";
    let lb = with_admin(&[&a, &b], keys).start();
    assert_eq!(lb.backend("a")["health"], "unknown");
    let mut client = lb.client();
    eventually("a is ejected", || {
        client.get("/");
        lb.backend("a")["health"] == "ejected"
    });
    let backend = lb.backend("a");
    let until = backend["ejected_until"].as_str().unwrap();
    assert!(until.starts_with("20") && until.ends_with('Z'), "{until}");
    assert_eq!((&backend["errors"], &backend["usable"]), (&2.into(), &false.into()));
}

#[test]
fn counters_survive_a_reload() {
    let a = Origin::scripted("a", |request| match request.path() {
        "/broken" => Reply::status(502),
        _ => Reply::text("a"),
    });
    let lb = with_admin(&[&a], "slow_start: 0s").start();
    assert_eq!((lb.get("/").status, lb.get("/broken").status), (200, 502));
    lb.edit("slow_start: 0s", "slow_start: 1s");
    lb.reload();
    let backend = lb.backend("a");
    assert_eq!((&backend["requests"], &backend["errors"]), (&2.into(), &1.into()));
}
