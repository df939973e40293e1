//! What is counted: each metric moves by what was done, and by no more.

#![allow(clippy::float_cmp, reason = "the numbers are whole, and a count is right or wrong")]

mod agreement;
mod backends;
mod connections;
mod page;

use crate::support::{Client, Config, Lb, Origin, SOON, eventually, get, h2::H2, request, within};
use std::collections::BTreeMap;

/// Has the admin API on `@2@`.
const ADMIN: &str = "admin: { address: \"@2@\", hosts: [test.example] }\n";
const UNCHECKED: &str = "health_check: off";

/// The values of all series at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    #[track_caller]
    pub fn of(lb: &Lb) -> Self {
        let response = get(&lb.extra(2), "/metrics");
        assert_eq!(response.status, 200);
        Self::parse(&response.text())
    }

    /// The same of a process that may be gone.
    pub fn try_of(lb: &Lb) -> Option<Self> {
        let mut client = Client::try_connect(&lb.extra(2)).ok()?;
        client.try_send(&request("GET", "/metrics", &[], b"")).ok()?;
        let response = client.try_response().ok()?;
        (response.status == 200 && response.complete).then(|| Self::parse(&response.text()))
    }

    #[track_caller]
    fn parse(text: &str) -> Self {
        let mut values = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let before = values.insert(series.to_owned(), value.parse().unwrap());
            assert_eq!(before, None, "{series} is there twice");
        }
        Self(values)
    }

    /// A series whose name is given without the prefix that all of ours have.
    pub fn get(&self, series: &str) -> Option<f64> {
        self.0.get(&format!("pingora_lb_{series}")).copied()
    }

    /// The sum of all series of a metric of ours whose labels contain these.
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let name = format!("pingora_lb_{name}{{");
        let fits = |series: &str| {
            let rest = series.strip_prefix(&name);
            rest.is_some_and(|rest| labels.iter().all(|label| rest.contains(label)))
        };
        self.0.iter().filter(|(series, _)| fits(series)).map(|(_, value)| value).sum()
    }

    /// What has changed since `before`, other than what the process takes and the spread of durations.
    fn since(&self, before: &Self) -> BTreeMap<String, f64> {
        let told = |series: &str| {
            let name = series.split('{').next().unwrap();
            let of_time = ["_sum", "_bucket"].iter().any(|end| name.ends_with(end));
            series.starts_with("pingora_lb_") && !of_time
        };
        let all = self.0.iter().filter(|(series, _)| told(series));
        let changes = all.map(|(series, value)| {
            let before = before.0.get(series).copied().unwrap_or(0.0);
            (series.trim_start_matches("pingora_lb_").to_owned(), value - before)
        });
        changes.filter(|(_, change)| *change != 0.0).collect()
    }
}

/// Waits until exactly this has changed since `before`.
#[track_caller]
fn assert_changes(lb: &Lb, before: &Scrape, expected: &[(&str, f64)]) {
    let expected: BTreeMap<String, f64> =
        expected.iter().map(|(series, change)| ((*series).to_owned(), *change)).collect();
    let mut changes = BTreeMap::new();
    let arrived = within(SOON, || {
        changes = Scrape::of(lb).since(before);
        changes == expected
    });
    assert!(arrived, "{changes:#?} is not\n{expected:#?}");
}

fn with_admin(origins: &[&Origin], keys: &str) -> Config {
    let backends: Vec<_> = origins.iter().map(|origin| origin.entry()).collect();
    Config::pool(&backends, &format!("{UNCHECKED}\n{keys}")).and(ADMIN).access_log()
}

/// Waits until nothing of what the start brought is still open.
#[track_caller]
fn settled(lb: &Lb) -> Scrape {
    let nobody = || Scrape::of(lb).sum("downstream_connections", &[]) == 0.0;
    eventually("the probe's connection is closed", nobody);
    Scrape::of(lb)
}

#[test]
fn a_request_moves_its_own_counters_by_one() {
    let a = Origin::named("a");
    // Without an access log: whether there is one makes no difference.
    let config = Config::pool(&[a.entry()], UNCHECKED).and(ADMIN);
    let lb = config.and("routes: [{ name: all, pool: app }]").start();
    let before = settled(&lb);
    let mut client = lb.client();
    assert_eq!(client.ask(request("POST", "/", &[], b"12345")).text(), "a");
    let expected = [
        (
            r#"requests_total{listener="web",route="all",pool="app",method="POST",status="200"}"#,
            1.0,
        ),
        (r#"request_duration_seconds_count{route="all"}"#, 1.0),
        (r#"upstream_requests_total{pool="app",backend="a",outcome="success"}"#, 1.0),
        (r#"upstream_duration_seconds_count{pool="app"}"#, 1.0),
        (r#"downstream_received_bytes_total{listener="web"}"#, 5.0),
        (r#"downstream_sent_bytes_total{listener="web"}"#, 1.0),
        (r#"downstream_connections{listener="web"}"#, 1.0),
    ];
    assert_changes(&lb, &before, &expected);
    drop(client);
    assert_changes(&lb, &before, &expected[..6]);
}

#[test]
fn durations_are_what_the_log_says() {
    let a = Origin::slow("a", std::time::Duration::from_millis(60));
    let lb = with_admin(&[&a], "").start();
    let before = settled(&lb);
    for _ in 0..3 {
        assert_eq!(lb.get("/").status, 200);
    }
    let entries = lb.wait_for_entries(3);
    let after = Scrape::of(&lb);
    let grown = |series: &str| after.get(series).unwrap() - before.get(series).unwrap_or(0.0);
    let logged = |key: &str| entries.iter().map(|it| it[key].as_f64().unwrap()).sum::<f64>() / 1e3;
    for (name, labels, key) in [
        ("request_duration_seconds", r#"route="route-1""#, "duration_ms"),
        ("upstream_duration_seconds", r#"pool="app""#, "upstream_ms"),
    ] {
        let took = grown(&format!("{name}_sum{{{labels}}}"));
        assert!((took - logged(key)).abs() < 0.001, "{name}: {took}, {}", logged(key));
        assert_eq!(grown(&format!("{name}_count{{{labels}}}")), 3.0);
        assert_eq!(grown(&format!("{name}_bucket{{{labels},le=\"0.05\"}}")), 0.0);
        assert_eq!(grown(&format!("{name}_bucket{{{labels},le=\"+Inf\"}}")), 3.0);
    }
}

#[test]
fn our_own_answers_are_counted_by_reason() {
    let a = Origin::named("a");
    let lb = with_admin(&[&a], "")
        .and(
            "routes:\n\
             \x20 - { name: moved, match: { path: /moved }, redirect: { to: \"/new\", status: 308 } }\n\
             \x20 - { name: fixed, match: { path: /fixed }, respond: { status: 200, body: \"hello\" } }\n\
             \x20 - name: closed\n\
             \x20   match: { path: /closed }\n\
             \x20   filters: [{ ip_filter: { deny: [127.0.0.0/8] } }]\n\
             \x20   pool: app\n\
             \x20 - { name: some, match: { path: /some }, pool: app }\n",
        )
        .start();
    let before = settled(&lb);
    for (path, status) in
        [("/moved", 308), ("/fixed", 200), ("/closed", 403), ("/nowhere", 404), ("/some", 200)]
    {
        assert_eq!(lb.get(path).status, status, "{path}");
    }
    assert_eq!(lb.client().ask("GET / HTTP/1.1\r\n\r\n").status, 400);
    let after = || Scrape::of(&lb);
    let grown = |name: &str, labels: &[&str]| after().sum(name, labels) - before.sum(name, labels);
    eventually("all are counted", || grown("requests_total", &[]) == 6.0);
    for (reason, count) in [("ok", 2.0), ("denied", 1.0), ("no_route", 1.0), ("bad_request", 1.0)] {
        let label = format!("reason=\"{reason}\"");
        assert!(grown("responses_local_total", &[&label]) == count, "{reason}");
    }
    assert_eq!(grown("responses_local_total", &[]), 5.0);
    let denied = r#"filter_answers_total{route="closed",filter="ip_filter",reason="denied"}"#;
    assert_eq!(after().get(denied), Some(1.0));
    assert_eq!(grown("filter_answers_total", &[]), 1.0);
    for route in ["moved", "fixed", "closed", "some"] {
        assert!(grown("requests_total", &[&format!("route=\"{route}\"")]) == 1.0, "{route}");
    }
    // Without a route: one that matches none, and one that is no request.
    assert_eq!(grown("requests_total", &["route=\"\"", "pool=\"\""]), 2.0);
}

#[test]
fn what_a_client_makes_up_makes_no_series() {
    let a = Origin::named("a");
    let lb = with_admin(&[&a], "").listener("h2c: true").start();
    let asked = |number: usize| {
        let (method, path) = (format!("BREW{number}"), format!("/{number}"));
        let host = format!("Host: h{number}.example");
        let agent = format!("User-Agent: {number}");
        lb.client().ask(request(&method, &path, &[&host, &agent], b"")).status
    };
    let h2 = H2::connect(&lb.web());
    let over_h2 = |number: usize| {
        let method = format!("POUR{number}");
        h2.ask(crate::support::h2::asking(&method, "/").body(()).unwrap(), b"").unwrap().status
    };
    assert_eq!((asked(0), over_h2(0).as_u16()), (200, 200));
    assert_eq!(lb.client().ask("NONSENSE\r\n\r\n").status, 400);
    let logged = lb.wait_for_entries(3).len();
    let before = Scrape::of(&lb);
    for number in 1..50 {
        assert_eq!((asked(number), over_h2(number).as_u16()), (200, 200));
        let refused = format!("X{number} /{number} HTTP/1.1\r\n\r\n");
        assert_eq!(lb.client().ask(refused).status, 400);
    }
    lb.wait_for_entries(logged + 3 * 49);
    let after = Scrape::of(&lb);
    let names = |scrape: &Scrape| scrape.0.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&before), names(&after));
    let other = ["method=\"other\"", "status=\"200\""];
    assert_eq!(after.sum("requests_total", &other), 100.0);
}

#[test]
fn a_request_that_waited_through_a_reload_counts_in_its_pool() {
    let gate = crate::support::Gate::default();
    let held = gate.clone();
    let a = Origin::scripted("a", move |_| crate::support::Reply::text("a").behind(&held));
    let limits = "limits: { connections_per_backend: 1, queue: 5, queue_timeout: 30s }";
    let lb = with_admin(&[&a], &format!("{limits}\nslow_start: 0s")).start();
    let mut clients = [lb.client(), lb.client()];
    for client in &mut clients {
        client.send(request("GET", "/", &[], b""));
    }
    let queued = || Scrape::of(&lb).sum("queue_depth", &["pool=\"app\""]) == 1.0;
    eventually("one waits", queued);
    lb.edit("slow_start: 0s", "slow_start: 1s");
    assert!(lb.reload().contains("slow_start"));
    gate.open();
    assert!(clients.iter_mut().all(|client| client.response().status == 200));
    lb.wait_for_entries(2);
    let counted = |pool: &str| Scrape::of(&lb).sum("requests_total", &["status=\"200\"", pool]);
    eventually("both count", || counted("pool=\"app\"") == 2.0);
    assert_eq!(counted("pool=\"\""), 0.0);
}

#[test]
fn what_is_gone_is_forgotten_though_nobody_reads() {
    let a = Origin::named("a");
    let routes = "routes: [{ name: one, match: { path: /1 }, pool: app }, { pool: app }]";
    let lb = with_admin(&[&a], "slow_start: 0s").and(routes).start();
    assert_eq!(lb.get("/1").status, 200);
    lb.wait_for_entries(1);
    lb.edit("{ name: one, match: { path: /1 }, pool: app }, ", "");
    assert!(lb.reload().contains("-route one"));
    lb.edit("slow_start: 0s", "slow_start: 1ms");
    lb.reload();
    let scrape = Scrape::of(&lb);
    assert!(scrape.0.keys().all(|key| !key.contains("route=\"one\"")), "{scrape:?}");
}

#[test]
fn counters_outlive_a_reload_and_what_is_gone_disappears() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let routes =
        "routes: [{ name: one, match: { path: /1 }, pool: app }, { name: two, pool: app }]";
    let lb = with_admin(&[&a, &b], "").and(routes).start();
    for path in ["/1", "/2", "/1", "/2"] {
        assert_eq!(lb.get(path).status, 200);
    }
    lb.wait_for_entries(4);
    let before = Scrape::of(&lb);
    lb.edit(&format!("- {}\n", b.entry()), "\n");
    lb.edit("{ name: one, match: { path: /1 }, pool: app }, ", "");
    let told = lb.reload();
    assert!(told.contains("-b"), "{told}");
    assert_eq!(lb.get("/1").status, 200);
    lb.wait_for_entries(5);
    // What was counted last is told once more; then it is gone.
    Scrape::of(&lb);
    let after = Scrape::of(&lb);
    let two = r#"requests_total{listener="web",route="two",pool="app",method="GET",status="200"}"#;
    assert_eq!((before.get(two), after.get(two)), (Some(2.0), Some(3.0)));
    let on_a = r#"upstream_requests_total{pool="app",backend="a",outcome="success"}"#;
    assert_eq!((before.get(on_a), after.get(on_a)), (Some(2.0), Some(3.0)));
    assert_eq!(before.get("reloads_total{result=\"success\"}"), Some(0.0));
    assert_eq!(after.get("reloads_total{result=\"success\"}"), Some(1.0));
    assert!(before.get("config_hash") != after.get("config_hash"));
    for gone in ["backend=\"b\"", "route=\"one\""] {
        let of = |it: &Scrape| it.0.keys().filter(|key| key.contains(gone)).count();
        assert!(of(&before) > 0 && of(&after) == 0, "{gone}: {:?}", after.0);
    }
    let loaded = after.get("config_loaded_timestamp_seconds").unwrap();
    lb.edit("pools:", "poools:");
    assert!(lb.reload().contains("not reloaded"));
    let last = Scrape::of(&lb);
    assert_eq!(last.get("reloads_total{result=\"failure\"}"), Some(1.0));
    assert_eq!(last.get("reloads_total{result=\"success\"}"), Some(1.0));
    assert_eq!(last.get("config_hash"), after.get("config_hash"));
    assert_eq!(last.get("config_loaded_timestamp_seconds"), Some(loaded));
}

#[test]
fn what_filters_answer_outlives_a_reload() {
    let a = Origin::named("a");
    let routes =
        "routes: [{ name: all, pool: app, filters: [{ ip_filter: { deny: [127.0.0.1] } }] }]";
    let lb = with_admin(&[&a], "").and(routes).start();
    assert_eq!(lb.get("/").status, 403);
    lb.edit("deny: [127.0.0.1]", "deny: [127.0.0.0/8]");
    assert!(lb.reload().contains("reloaded with 1 changes"));
    assert_eq!(lb.get("/").status, 403);
    let answers = r#"filter_answers_total{route="all",filter="ip_filter",reason="denied"}"#;
    eventually("both are counted", || Scrape::of(&lb).get(answers) == Some(2.0));
}
