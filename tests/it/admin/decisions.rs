//! What is decided of backends while it runs.

use super::{ADMIN, with_admin};
use crate::support::{
    Address, Client, Config, Gate, Lb, Load, Origin, Program, Reply, Response, SOON, eventually,
    lb::server, request, tally,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    time::{Duration, Instant},
};

const BACKENDS: &str = "/api/v1/pools/app/backends";

impl Lb {
    #[track_caller]
    fn tell(&self, method: &str, path: &str, body: &str) -> Response {
        Client::connect(&self.admin()).ask(request(method, path, &[], body.as_bytes()))
    }

    /// `PUT` of a backend, which succeeds.
    #[track_caller]
    fn put(&self, name: &str, body: Value) -> Value {
        let response = self.tell("PUT", &format!("{BACKENDS}/{name}"), &body.to_string());
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()["backends"][0].clone()
    }

    #[track_caller]
    fn post(&self, body: &str) -> Response {
        self.tell("POST", BACKENDS, body)
    }

    #[track_caller]
    fn delete(&self, name: &str) -> Response {
        self.tell("DELETE", &format!("{BACKENDS}/{name}"), "")
    }
}

/// Who answers sixty requests, and how often.
fn shares(lb: &Lb) -> BTreeMap<String, usize> {
    let mut client = lb.client();
    let names: Vec<_> = (0..60).map(|at| client.get(&format!("/{at}")).backend()).collect();
    tally(&names)
}

fn only(name: &str) -> BTreeMap<String, usize> {
    [(name.to_owned(), 60)].into()
}

/// Two backends, and a client that stays with `a`, which holds its request until the gate opens.
struct Busy {
    a: Origin,
    b: Origin,
    lb: Lb,
    gate: Gate,
    client: Client,
    cookie: String,
}

impl Busy {
    fn new(keys: &str) -> Self {
        let gate = Gate::default();
        let held = gate.clone();
        let a = Origin::scripted("a", move |request| match request.path() {
            "/held" => Reply::text("held").behind(&held),
            _ => Reply::text("a"),
        });
        let b = Origin::named("b");
        let lb = with_admin(&[&a, &b], &format!("sticky: {{ cookie: c }}\n{keys}")).start();
        lb.put("b", json!({ "state": "disabled" }));
        let mut client = lb.client();
        let cookie = client.get("/").headers.get("set-cookie").unwrap().to_owned();
        let cookie = format!("Cookie: {}", cookie.split(';').next().unwrap());
        client.send(request("GET", "/held", &[], b""));
        eventually("the request is on its backend", || a.working() == 1);
        lb.put("b", json!({ "state": "active" }));
        Self { a, b, lb, gate, client, cookie }
    }
}

#[test]
fn a_draining_backend_finishes_what_it_has_and_keeps_its_clients() {
    let Busy { a: _a, b: _b, lb, gate, mut client, cookie } = Busy::new("balance: random");

    let shown = lb.put("a", json!({ "state": "draining" }));
    assert_eq!((&shown["name"], &shown["state"]), (&"a".into(), &"draining".into()));
    assert_eq!(shown["override"], json!({ "state": "draining", "weight": null }));
    assert_eq!((&shown["usable"], &shown["in_flight"]), (&false.into(), &1.into()));
    assert_eq!(shares(&lb), only("b"));
    let kept = |lb: &Lb| lb.client().ask(request("GET", "/", &[&cookie], b"")).backend();
    assert_eq!(kept(&lb), "a");
    gate.open();
    assert_eq!(client.response().text(), "held");

    lb.put("a", json!({ "state": "disabled" }));
    assert_eq!((shares(&lb), kept(&lb).as_str()), (only("b"), "b"));
    lb.put("a", json!({ "state": "active" }));
    assert_eq!(shares(&lb).len(), 2);
}

#[test]
fn a_weight_counts_at_once() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let lb = with_admin(&[&a, &b], "").start();
    assert_eq!(shares(&lb)["a"], 30);
    let shown = lb.put("a", json!({ "weight": 5 }));
    assert_eq!((&shown["weight"], &shown["override"]["weight"]), (&5.into(), &5.into()));
    assert_eq!(shares(&lb)["a"], 50);
    lb.put("a", json!({ "weight": 0, "state": "active" }));
    assert_eq!(shares(&lb), only("b"));
}

#[test]
fn decisions_outlive_reloads_and_not_the_process() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let lb = with_admin(&[&a, &b], "slow_start: 0s").start();
    lb.put("a", json!({ "state": "draining" }));
    lb.put("b", json!({ "weight": 9 }));
    lb.edit("slow_start: 0s", "slow_start: 1s");
    assert!(lb.reload().contains("slow_start 0s -> 1s"));
    assert_eq!(shares(&lb), only("b"));
    let told = lb.backend("a");
    assert_eq!(
        (&told["state"], &told["override"]["state"]),
        (&"draining".into(), &"draining".into())
    );
    assert_eq!(lb.backend("b")["override"], json!({ "state": null, "weight": 9 }));
    lb.wait_for_line("admin: backend a of pool app is draining now");

    let Lb { mut program, files } = lb;
    program.signal(rustix::process::Signal::TERM);
    assert!(program.wait_for_exit(SOON).is_some());
    let program = Program::start([OsStr::new("-c"), files.path().as_os_str()]);
    let lb = Lb { program, files };
    eventually("it serves", || crate::support::lb::answers(&lb.web()));
    assert_eq!(
        (&lb.backend("a")["state"], &lb.backend("a")["override"]),
        (&"active".into(), &Value::Null)
    );
    assert_eq!(shares(&lb).len(), 2);
}

#[test]
fn what_makes_no_sense_changes_nothing() {
    let a = Origin::named("a");
    let lb = with_admin(&[&a], "").start();
    for (method, path, body, status, error) in [
        ("PUT", "app/backends/a", "{}", 422, "invalid"),
        ("PUT", "app/backends/a", "", 422, "invalid"),
        ("PUT", "app/backends/a", "[]", 422, "invalid"),
        ("PUT", "app/backends/a", "{\"state\":\"drained\"}", 422, "invalid"),
        ("PUT", "app/backends/a", "{\"state\":null}", 422, "invalid"),
        ("PUT", "app/backends/a", "{\"weight\":-1}", 422, "invalid"),
        ("PUT", "app/backends/a", "{\"weight\":65536}", 422, "invalid"),
        ("PUT", "app/backends/a", "{\"state\":\"disabled\",\"wait\":1}", 422, "invalid"),
        ("PUT", "app/backends/a", "{\"state\":\"disabled\"", 422, "invalid"),
        ("PUT", "app/backends/a", "{\"state\":\"${HOME}\"}", 422, "invalid"),
        ("PUT", "app/backends/b", "{\"state\":\"disabled\"}", 404, "not_found"),
        ("PUT", "ap/backends/a", "{\"state\":\"disabled\"}", 404, "not_found"),
        ("POST", "app/backends", "{\"name\":\"b\"}", 422, "invalid"),
        ("POST", "app/backends", "{\"address\":\"127.0.0.1\"}", 422, "invalid"),
        ("POST", "app/backends", "{\"address\":\"b:1\",\"wieght\":1}", 422, "invalid"),
        ("POST", "app/backends", "{\"address\":\"b:1\",\"name\":\"a\"}", 409, "conflict"),
        ("POST", "ap/backends", "{\"address\":\"b:1\"}", 404, "not_found"),
        ("DELETE", "app/backends/b", "", 404, "not_found"),
        ("DELETE", "ap/backends/a", "", 404, "not_found"),
    ] {
        let response = lb.tell(method, &format!("/api/v1/pools/{path}"), body);
        let told = response.json();
        assert_eq!((response.status, &told["error"]), (status, &error.into()), "{body} {told:#}");
    }
    let same = format!("{{\"address\":\"{}\",\"name\":\"x\"}}", a.address());
    assert_eq!(lb.post(&same).status, 409);
    let typo = lb.tell("PUT", &format!("{BACKENDS}/a"), "{\"wieght\": 1}").json();
    let error = &typo["errors"][0];
    assert_eq!(
        (&error["file"], &error["line"], &error["column"]),
        (&"request".into(), &1.into(), &2.into())
    );
    assert_eq!(error["path"], "wieght");
    assert!(error["message"].as_str().unwrap().ends_with("did you mean \"weight\"?"));
    let secret = lb.post("{\"address\":\"${PATH}\"}").text();
    assert!(!secret.contains("/bin"), "{secret}");
    let long = format!("{{\"state\":\"disabled\",\"x\":\"{}\"}}", "x".repeat(70_000));
    assert_eq!(lb.tell("PUT", &format!("{BACKENDS}/a"), &long).status, 413);
    let fields = ["Origin: http://evil.example"];
    let body = b"{\"state\":\"disabled\"}";
    for (method, path) in [("PUT", format!("{BACKENDS}/a")), ("DELETE", format!("{BACKENDS}/a"))] {
        let request = request(method, &path, &fields, body);
        assert_eq!(Client::connect(&lb.admin()).ask(request).status, 403);
    }
    assert_eq!(
        (lb.backend_names(), lb.backend("a")["override"].clone()),
        (vec!["a".to_owned()], Value::Null)
    );
    assert_eq!(lb.get("/").backend(), "a");
}

#[test]
fn a_backend_that_is_added_is_checked_and_serves_and_stays() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let check = "health_check: { http: { path: /health } }\nslow_start: 0s";
    let lb = with_admin(&[&a], check).start();
    let body =
        json!({ "address": b.address().to_string(), "name": "b", "weight": 2, "backup": false });
    let response = lb.post(&body.to_string());
    let shown = response.json()["backends"][0].clone();
    assert_eq!((response.status, &shown["name"], &shown["weight"]), (201, &"b".into(), &2.into()));
    assert_eq!(shown["added"], true);
    eventually("its first check is over", || lb.backend("b")["health"] == "healthy");
    assert!(b.requests().iter().any(|request| request.path() == "/health"));
    assert_eq!(shares(&lb), [("a".to_owned(), 20), ("b".to_owned(), 40)].into());
    lb.edit("slow_start: 0s", "slow_start: 1ms");
    assert!(lb.reload().contains("slow_start"));
    assert_eq!(lb.backend_names(), ["a", "b"]);
    assert_eq!(shares(&lb), [("a".to_owned(), 20), ("b".to_owned(), 40)].into());
    // The file has it by now, and says something else of it.
    lb.edit(&a.entry(), &format!("{}\n      - {}", a.entry(), b.entry()));
    lb.reload();
    let told = lb.backend("b");
    assert_eq!((&told["added"], &told["weight"]), (&false.into(), &1.into()));
    assert_eq!(shares(&lb)["b"], 30);
}

#[test]
fn one_that_is_added_and_down_gets_nothing() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    b.stop();
    let lb = with_admin(&[&a], "health_check: { interval: 50ms, rise: 1 }").start();
    assert_eq!(lb.post(&format!("\"{}\"", b.address())).status, 201);
    let name = b.address().to_string();
    eventually("its first check is over", || lb.backend(&name)["health"] == "unhealthy");
    assert_eq!(shares(&lb), only("a"));
    b.start();
    eventually("it is up", || lb.backend(&name)["health"] == "healthy");
    assert_eq!(shares(&lb)[&name], 30);
}

#[test]
fn a_deleted_backend_goes_when_its_last_request_is_over_and_stays_away() {
    let Busy { a, b: _b, lb, gate, mut client, cookie } = Busy::new("slow_start: 0s");

    let response = lb.delete("a");
    assert_eq!(response.status, 202, "{}", response.text());
    assert_eq!(response.json(), json!({ "removed": false, "in_flight": 1 }));
    let told = lb.backend("a");
    assert_eq!((&told["state"], &told["leaving"]), (&"draining".into(), &true.into()));
    // Not even for a client that stays with it.
    assert_eq!(lb.client().ask(request("GET", "/", &[&cookie], b"")).backend(), "b");
    assert_eq!(shares(&lb), only("b"));
    let again = format!("{{ address: '{}', name: a }}", a.address());
    assert_eq!((lb.post(&again).status, lb.delete("a").status), (409, 202));
    assert_eq!(lb.tell("PUT", &format!("{BACKENDS}/a"), "{ state: active }").status, 409);
    // A reload in between does not bring it back.
    lb.edit("slow_start: 0s", "slow_start: 1ms");
    lb.reload();
    assert_eq!((shares(&lb), &lb.backend("a")["in_flight"]), (only("b"), &1.into()));
    gate.open();
    assert_eq!(client.response().text(), "held");
    eventually("it is gone", || lb.backend_names() == ["b"]);
    lb.edit("slow_start: 1ms", "slow_start: 2ms");
    lb.reload();
    assert_eq!((lb.backend_names(), shares(&lb)), (vec!["b".to_owned()], only("b")));

    // Until it is added again, which is then as if it had never been away.
    assert_eq!(lb.post(&again).status, 201);
    eventually("its first check is over", || lb.backend("a")["usable"] == true);
    assert_eq!(shares(&lb).len(), 2);
    // Without requests in flight, it goes at once.
    let response = lb.delete("a");
    assert_eq!((response.status, &response.json()["removed"]), (200, &true.into()));
    assert_eq!(lb.backend_names(), ["b"]);
    // Nor does it come back when the file drops it and has it again later.
    let entry = format!("      - {}\n", a.entry());
    lb.edit(&entry, "");
    lb.reload();
    lb.edit("    backends:\n", &format!("    backends:\n{entry}"));
    lb.reload();
    assert_eq!(lb.backend_names(), ["b"]);
    // Added again, it is what the file says from the next reload of its pool on.
    assert_eq!(
        lb.post(&format!("{{ address: '{}', name: a, weight: 7 }}", a.address())).status,
        201
    );
    assert_eq!((&lb.backend("a")["added"], &lb.backend("a")["weight"]), (&true.into(), &7.into()));
    lb.edit("slow_start: 2ms", "slow_start: 3ms");
    lb.reload();
    let as_in_the_file = || {
        let told = lb.backend("a");
        (&told["added"], &told["weight"]) == (&false.into(), &1.into())
    };
    eventually("it is as the file says", as_in_the_file);
}

#[test]
fn a_backend_without_weight_is_not_usable_and_one_without_checks_is_unknown() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let lb = with_admin(&[&a, &b], "health_check: { interval: 50ms }").start();
    assert_eq!(lb.put("a", json!({ "weight": 0 }))["usable"], false);
    assert_eq!(lb.ask("/api/v1/pools/app").json()["usable"], 1);
    assert_eq!(lb.backend("b")["health"], "healthy");
    lb.edit("health_check: { interval: 50ms }", "health_check: off");
    lb.reload();
    assert_eq!(lb.backend("b")["health"], "unknown");
}

#[test]
fn a_request_without_end_does_not_keep_a_backend_in_the_pool() {
    let gate = Gate::default();
    let held = gate.clone();
    let a = Origin::scripted("a", move |_| Reply::text("held").behind(&held));
    let b = Origin::named("b");
    let lb =
        with_admin(&[&a, &b], "health_check: off").and(&server("drain_timeout: 300ms")).start();
    lb.put("b", json!({ "state": "disabled" }));
    let mut client = lb.client();
    client.send(request("GET", "/", &[], b""));
    eventually("the request is on its backend", || a.working() == 1);
    assert_eq!(lb.delete("a").status, 202);
    eventually("it is out of time", || lb.backend_names() == ["b"]);
    // Its request is not cut.
    gate.open();
    assert_eq!(client.response().text(), "held");
    // The last one can go, too.
    assert_eq!(lb.delete("b").status, 200);
    assert_eq!(lb.get("/").status, 503);
}

#[test]
fn names_with_slashes_are_percent_encoded() {
    let a = Origin::unix("a");
    let Address::Unix(path) = a.address().clone() else { unreachable!() };
    let text = format!("pools:\n  \"a/b\":\n    backends: [\"unix:{}\"]\n", path.display());
    let lb = Config::new(text).and(ADMIN).start();
    let name = format!("unix:{}", path.display()).replace('/', "%2f");
    let one = format!("/api/v1/pools/a%2Fb/backends/{name}");
    assert_eq!(lb.tell("PUT", &one, "{\"weight\":4}").status, 200);
    let pool = lb.ask("/api/v1/pools/a%2Fb").json();
    assert_eq!(pool["backends"][0]["weight"], 4);
    assert_eq!(lb.tell("PUT", "/api/v1/pools/a%2Fb/backends/%ff", "{}").status, 404);
}

#[test]
fn backends_come_and_go_without_a_failed_request() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let lb = with_admin(&[&a, &b], "health_check: off\nlimits: { connections_per_backend: 100 }")
        .start();
    let load = Load::start(&lb.web(), 4, "/");
    let body = b.entry();
    for _ in 0..10 {
        assert!([200, 202].contains(&lb.delete("b").status));
        eventually("it is gone", || lb.backend_names() == ["a"]);
        load.wait_for_more(20);
        assert_eq!(lb.post(&body).status, 201);
        lb.put("b", json!({ "weight": 3 }));
        load.wait_for_more(20);
    }
    let (_, _, failures) = load.stop();
    assert_eq!(failures, Vec::<String>::new());
    assert!(b.count() > 20, "{}", b.count());
}

#[test]
fn a_backend_comes_and_goes_while_the_name_of_another_is_looked_up() {
    let (known, added) = (Origin::named("known"), Origin::named("added"));
    let backends = [known.entry(), "hangs.test:80".to_owned()];
    let files = Config::pool(&backends, "health_check: off").and(ADMIN).write();
    files.have_lookups_hang();
    let Some(lb) = files.start_with_hosts("decisions beside a lookup that hangs") else { return };
    // One that begins anew, in a pool that is new.
    let text =
        lb.read("lb.yaml").replace("health_check: off", "health_check: off\n    slow_start: 1s");
    lb.replace("lb.yaml", &text);
    assert_eq!(lb.tell("POST", "/api/v1/reload", "").status, 200);
    let soon = |what: &str, response: Response, status: u16, began: Instant| {
        assert_eq!(response.status, status, "{what}: {}", response.text());
        // The lookup gives up after 5 s.
        assert!(began.elapsed() < Duration::from_millis(2500), "{what}: {:?}", began.elapsed());
    };
    // Of one that is added by a name, nobody else has to wait for the lookup either.
    let hanging = json!({ "address": "hangs-too.test:80", "name": "slow" }).to_string();
    let mut patient = Client::connect(&lb.admin());
    patient.send(request("POST", BACKENDS, &[], hanging.as_bytes()));
    for _ in 0..2 {
        let began = Instant::now();
        soon("POST", lb.post(&added.entry()), 201, began);
        eventually("it serves", || shares(&lb).contains_key("added"));
        let began = Instant::now();
        soon("DELETE", lb.delete("added"), 200, began);
        assert_eq!(shares(&lb), only("known"));
    }
    patient.set_patience(SOON * 2);
    assert_eq!(patient.response().status, 201);
}
