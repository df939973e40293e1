//! The machinery of filters: which hook runs when, and what becomes of its outcome, through the real
//! proxy in this process.

use crate::support::{
    Client, Origin, Reply, Reserved, eventually,
    probe::{Journal, app, balancer, client, logged, one_route},
    request,
};
use http::StatusCode;
use pingora_lb::{
    App,
    filter::{
        Answer, Filter, Flow, PoolRef, Registry, Request, Result, SettingsError, Setup,
        UpstreamRequest, settings::NoSettings,
    },
    testing::{self, Balancer, Filters},
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The events without those of kept values, and log events without what differs from run to run.
fn story(journal: &Journal) -> Vec<String> {
    let mut events = journal.events();
    events.retain(|event| !event.contains("dropped"));
    for event in &mut events {
        if let Some(at) = event.find(" in=") {
            event.truncate(at);
        }
    }
    events
}

#[test]
fn requests_pass_in_order_and_responses_in_reverse() {
    let origin = Origin::named("origin");
    let journal = Journal::new();
    let probes = ["a", "b", "c"].map(|tag| journal.probe(tag, ""));
    let balancer = one_route(&app(), &probes, &[origin.entry()], "");
    let answer = client(&balancer).ask(request("POST", "/", &[], b"hello"));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers.all("x-probe"), ["c", "b", "a"]);
    journal.wait_for("c log");
    let expected = [
        "a request",
        "b request",
        "c request",
        "a upstream_request 1 origin",
        "b upstream_request 1 origin",
        "c upstream_request 1 origin",
        "a request_body 0+5 end=true",
        "b request_body 0+5 end=true",
        "c request_body 0+5 end=true",
        "c response 200 backend",
        "b response 200 backend",
        "a response 200 backend",
        "c response_body 6 end=true",
        "b response_body 6 end=true",
        "a response_body 6 end=true",
        "a log 200 ok",
        "b log 200 ok",
        "c log 200 ok",
    ];
    // Whether the end of a body comes with its last piece or alone is Pingora's business.
    let mut seen = story(&journal);
    seen.retain(|event| !event.contains("response_body 0 end=true"));
    let seen: Vec<_> =
        seen.iter().map(|event| event.replace("6 end=false", "6 end=true")).collect();
    assert_eq!(seen, expected);
}

#[test]
fn an_answer_skips_what_comes_later_and_passes_the_filters_that_were_reached() {
    let origin = Origin::named("origin");
    let journal = Journal::new();
    let probes = [
        journal.probe("a", ""),
        journal.probe("b", "on: { request: { answer: 403 } }"),
        journal.probe("c", ""),
    ];
    let balancer = one_route(&app(), &probes, &[origin.entry()], "");
    let mut client = client(&balancer);
    let answer = client.get("/");
    assert_eq!(answer.status, 403);
    assert_eq!(answer.headers.all("x-probe"), ["b", "a"]);
    assert!(answer.text().starts_with("403 Forbidden: denied\n"), "{}", answer.text());
    journal.wait_for("b log");
    let length = answer.body.len();
    let expected = [
        "a request".to_owned(),
        "b request".to_owned(),
        "b response 403 denied".to_owned(),
        "a response 403 denied".to_owned(),
        format!("b response_body {length} end=true"),
        format!("a response_body {length} end=true"),
        "a log 403 denied".to_owned(),
        "b log 403 denied".to_owned(),
    ];
    assert_eq!(story(&journal), expected);
    assert_eq!(origin.count(), 0);
    assert_eq!(client.get("/").status, 403, "the connection lives on");
}

#[test]
fn response_hooks_run_on_our_own_answers() {
    let hanging = Origin::scripted("hanging", |_| Reply::Hang);
    let nobody = Reserved::new();
    let journal = Journal::new();
    let probe = journal.probe("a", "");
    let text = format!(
        "
listeners: {{ web: {{ address: 127.0.0.1:0 }} }}
routes:
  - {{ match: {{ path: /refused }}, filters: &f [ {probe} ], pool: refused }}
  - {{ match: {{ path: /unusable }}, filters: *f, pool: unusable }}
  - {{ match: {{ path: /slow }}, filters: *f, pool: slow }}
  - {{ match: {{ path: /route }}, filters: *f, pool: hanging, timeout: 100ms }}
  - {{ match: {{ path: /redirect }}, filters: *f, redirect: {{ to: \"https://a.example\" }} }}
  - {{ match: {{ path: /respond }}, filters: *f, respond: {{ status: 200, body: hi }} }}
pools:
  refused: {{ backends: [{nobody}], health_check: off }}
  unusable: {{ backends: [{{ address: {nobody}, state: disabled }}] }}
  slow: {{ backends: [{hanging}], timeouts: {{ read: 100ms }} }}
  hanging: {{ backends: [{hanging}] }}
",
        probe = probe.trim_start_matches("- "),
        nobody = nobody.address(),
        hanging = hanging.address(),
    );
    let balancer = balancer(&app(), &text, &[]);
    for (path, status, reason) in [
        ("/refused", 502, "connect_failed"),
        ("/unusable", 503, "no_healthy_backend"),
        ("/slow", 504, "upstream_timeout"),
        ("/route", 504, "upstream_timeout"),
        ("/redirect", 308, "ok"),
        ("/respond", 200, "ok"),
    ] {
        let before = journal.events().len();
        let answer = client(&balancer).get(path);
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.headers.all("x-probe"), ["a"], "{path}");
        assert!(answer.complete, "{path}");
        eventually("the log hook", || {
            journal.events()[before..].iter().any(|event| event.contains("a log"))
        });
        let events = &journal.events()[before..];
        let response = format!("a response {status} {reason}");
        assert!(events.contains(&response), "{path}: {events:?}");
        let log = format!("a log {status} {reason} in=0 out={} ", answer.body.len());
        assert!(events.iter().any(|event| event.starts_with(&log)), "{path}: {log} in {events:?}");
    }
}

#[test]
fn a_panic_or_an_error_costs_its_request_and_nothing_else() {
    let origin = Origin::named("origin");
    let cases = [
        ("request", "panic", "request", 500, "filter_panic"),
        ("request", "panic_later", "request", 500, "filter_panic"),
        ("request", "error", "request", 500, "internal_error"),
        ("upstream_request", "panic", "upstream request", 500, "filter_panic"),
        ("upstream_request", "error", "upstream request", 500, "internal_error"),
        ("request_body", "panic_later", "request body", 500, "filter_panic"),
        ("request_body", "error", "request body", 500, "internal_error"),
        ("response", "panic", "response", 500, "filter_panic"),
        ("response", "panic_later", "response", 500, "filter_panic"),
        ("response", "error", "response", 500, "internal_error"),
    ];
    for (hook, act, called, status, reason) in cases {
        let journal = Journal::new();
        let probes = [
            journal.probe("first", ""),
            journal.probe("bad", &format!("on: {{ {hook}: {act} }}")),
            journal.probe("last", ""),
        ];
        let filters = [probes.as_slice(), &["- once: { header: x-well }".to_owned()]].concat();
        let app = app().filter::<Once>();
        let balancer = one_route(&app, &filters, &[origin.entry()], "");
        let mut client = client(&balancer);
        let body: &[u8] = if hook == "request_body" { b"hello" } else { b"" };
        let answer = client.ask(request("POST", "/", &[], body));
        let case = format!("{act} in {hook}");
        assert_eq!(answer.status, status, "{case}");
        assert!(answer.text().contains(reason), "{case}: {}", answer.text());
        // The filter nearest to the client sees every answer.
        assert_eq!(answer.headers.all("x-probe").last(), Some(&"first"), "{case}");
        journal.wait_for(&format!("first log {status} {reason}"));
        let what = if act == "error" { "failed" } else { "panicked" };
        let id = answer.headers.get("x-request-id").unwrap().to_owned();
        let line =
            format!("request {id}: filter probe {what} in its {called} hook: told to in {hook}");
        assert_eq!(logged(&id), [line], "{case}");
        // The same connection serves the next request, which fails in the same way.
        let again = client.ask(request("POST", "/", &["x-well: 1"], body));
        let well = if called == "request" || called == "response" { status } else { 204 };
        assert_eq!(again.status, well, "{case}");
    }
}

/// Answers the requests that have a header. Part of the cases above: a filter after the bad one.
struct Once(String);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct OnceSettings {
    header: String,
}

impl Filter for Once {
    const NAME: &'static str = "once";
    type Settings = OnceSettings;

    fn new(settings: OnceSettings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        Ok(Self(settings.header))
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Result {
        match request.header(&self.0) {
            Some(_) => Ok(Answer::new(StatusCode::NO_CONTENT).into()),
            None => Ok(Flow::Continue),
        }
    }
}

#[test]
fn a_panic_in_the_response_body_breaks_the_response_off() {
    for (act, what) in [("panic", "panicked"), ("error", "failed")] {
        let (head, rest) = ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", "0123456789");
        let pieces = vec![
            (std::time::Duration::ZERO, head.as_bytes().to_vec()),
            (std::time::Duration::from_millis(30), rest.as_bytes().to_vec()),
        ];
        let origin = Origin::scripted("origin", move |_| Reply::Pieces(pieces.clone()));
        let journal = Journal::new();
        let probes = [journal.probe("bad", &format!("on: {{ response_body: {act} }}"))];
        let balancer = one_route(&app(), &probes, &[origin.entry()], "");
        let mut client = client(&balancer);
        let answer = client.get("/");
        assert_eq!((answer.status, answer.complete), (200, false), "{act}");
        assert!(client.is_closed(), "{act}");
        let reason = if act == "panic" { "filter_panic" } else { "internal_error" };
        let line = journal.wait_for(&format!("bad log 200 {reason}"));
        let id = line.rsplit(' ').next().unwrap();
        let told =
            format!("filter probe {what} in its response body hook: told to in response_body");
        assert_eq!(logged(id), [format!("request {id}: {told}")]);
    }
}

#[test]
fn a_panic_in_the_log_hook_loses_nothing() {
    let origin = Origin::named("origin");
    let journal = Journal::new();
    let probes = [journal.probe("bad", "on: { log: panic }"), journal.probe("good", "")];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let more = "";
    let text = crate::support::probe::one_route_text(&[origin.entry()], more)
        + &format!("access_log: {{ path: {}, format: json }}\n", path.display());
    let balancer = balancer(&app(), &text, &probes);
    let mut client = client(&balancer);
    for _ in 0..2 {
        assert_eq!(client.get("/").status, 200);
    }
    eventually("both requests are logged", || journal.with("good log 200 ok").len() == 2);
    drop(balancer);
    let entries = crate::support::lb::entries(&std::fs::read_to_string(&path).unwrap());
    assert_eq!(entries.len(), 2);
    let id = entries[0]["request_id"].as_str().unwrap();
    let told = "filter probe panicked in its log hook: told to in log";
    assert_eq!(logged(id), [format!("request {id}: {told}")]);
}

/// Decides where a request goes, by header fields that it removes.
struct Steer {
    canary: PoolRef,
}

impl Filter for Steer {
    const NAME: &'static str = "steer";
    type Settings = NoSettings;

    fn new(_: NoSettings, setup: &mut Setup<'_>) -> Result<Self, SettingsError> {
        Ok(Self { canary: setup.pool("canary")? })
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Result {
        if request.header("x-canary").is_some() {
            request.set_pool(&self.canary);
        }
        if let Some(key) = request.header("x-key").map(str::to_owned) {
            request.set_hash_key(key);
        }
        if let Some(target) = request.header("x-target").map(str::to_owned) {
            request.set_target(target)?;
        }
        request.set_header("x-seen", "one")?;
        request.remove_header("x-canary")?;
        Ok(Flow::Continue)
    }

    async fn on_upstream_request(&self, request: &mut UpstreamRequest<'_>) -> Result {
        request.set_header("x-place", format!("{}/{}", request.pool(), request.target()))?;
        Ok(Flow::Continue)
    }
}

#[test]
fn a_filter_decides_where_a_request_goes_and_what_the_backend_gets() {
    let app = || app().filter::<Steer>();
    let [a, b, canary] = ["a", "b", "canary"].map(Origin::named);
    let text = format!(
        "
listeners: {{ web: {{ address: 127.0.0.1:0 }} }}
routes:
  - filters: [steer]
    pool: app
pools:
  app: {{ backends: [{}, {}], balance: {{ policy: ring_hash, hash_on: path }} }}
  canary: {{ backends: [{}] }}
",
        a.entry(),
        b.entry(),
        canary.entry()
    );
    let balancer = balancer(&app(), &text, &[]);
    let mut client = client(&balancer);
    let answer =
        client.ask(request("GET", "/old?q=1", &["x-canary: 1", "x-target: /new?r=2"], b""));
    assert_eq!((answer.status, answer.text().as_str()), (200, "canary"));
    let sent = canary.only_request();
    assert_eq!(sent.target, "/new?r=2");
    assert_eq!(sent.headers.get("x-seen"), Some("one"));
    assert_eq!(sent.headers.get("x-place"), Some("canary//new?r=2"));
    assert!(!sent.headers.has("x-canary"));
    // With the key of the filter, the path does not matter; without it, paths are spread.
    let backend = |client: &mut Client, path: usize, fields: &[&str]| {
        client.ask(request("GET", &format!("/{path}"), fields, b"")).backend()
    };
    let by_key: Vec<_> = (0..20).map(|path| backend(&mut client, path, &["x-key: k"])).collect();
    assert!(by_key.iter().all(|name| *name == by_key[0]), "{by_key:?}");
    let by_path: Vec<_> = (0..20).map(|path| backend(&mut client, path, &[])).collect();
    assert!(by_path.contains(&"a".to_owned()) && by_path.contains(&"b".to_owned()), "{by_path:?}");
    // A target that is none fails the filter, not the connection.
    let answer = client.ask(request("GET", "/", &["x-target: nowhere"], b""));
    assert_eq!(answer.status, 500);
}

#[test]
fn a_retry_runs_the_upstream_hook_again() {
    let dying = Origin::scripted("dying", |_| Reply::close());
    let origin = Origin::named("origin");
    let journal = Journal::new();
    let more = "pool.retry: { attempts: 1, on: [reset], backoff: { base: 1ms, max: 1ms } }
        pool.health_check: off";
    let backends = [dying.entry(), origin.entry_with("backup: true")];
    let balancer = one_route(&app(), &[journal.probe("a", "")], &backends, more);
    let answer = client(&balancer).ask(request("PUT", "/", &[], b"hello"));
    assert_eq!((answer.status, answer.backend().as_str()), (200, "origin"));
    let tries = journal.with("upstream_request");
    assert_eq!(tries, ["a upstream_request 1 dying", "a upstream_request 2 origin"]);
    assert_eq!(journal.with("a request_body 0+5").len(), 2, "{:?}", journal.events());
    journal.wait_for("a log 200 ok in=5 out=6 tries=2");
}

#[test]
fn an_answer_instead_of_a_backends_response() {
    let origin = Origin::named("origin");
    let journal = Journal::new();
    let probes = [
        journal.probe("outer", ""),
        journal.probe("bad", "on: { response: { answer: 404 } }"),
        journal.probe("inner", ""),
    ];
    let balancer = one_route(&app(), &probes, &[origin.entry()], "");
    let mut client = client(&balancer);
    for _ in 0..2 {
        let answer = client.get("/");
        assert_eq!((answer.status, answer.complete), (404, true));
        assert_eq!(answer.headers.all("x-probe"), ["outer"]);
        assert!(answer.text().contains("denied"), "{}", answer.text());
    }
    eventually("both are logged", || journal.with("outer log 404 denied").len() == 2);
    // Each filter has seen one response of each request.
    assert_eq!(journal.with("inner response 200 backend").len(), 2);
    assert_eq!(journal.with("inner response_body").len(), 0);
    assert_eq!(journal.with("outer response 404 denied").len(), 2);
    assert_eq!(journal.with("outer response").len(), 4, "a head and a body each");
}

#[test]
fn a_hook_on_the_way_to_the_backend_answers() {
    let origin = Origin::named("origin");
    for hook in ["upstream_request", "request_body"] {
        let journal = Journal::new();
        let probes = [
            journal.probe("a", ""),
            journal.probe("b", &format!("on: {{ {hook}: {{ answer: 403 }} }}")),
            journal.probe("c", ""),
        ];
        let balancer = one_route(&app(), &probes, &[origin.entry()], "");
        let mut client = client(&balancer);
        let answer = client.ask(request("POST", "/", &[], b"hello"));
        assert_eq!(answer.status, 403, "{hook}");
        // The request came to all of them.
        assert_eq!(answer.headers.all("x-probe"), ["c", "b", "a"], "{hook}");
        assert!(journal.with(&format!("c {hook}")).is_empty(), "{:?}", journal.events());
        journal.wait_for("c log 403 denied");
        assert!(logged(answer.headers.get("x-request-id").unwrap()).is_empty(), "{hook}");
    }
    assert!(origin.requests().iter().all(|request| !request.complete));
    // It is no failure of the backend's.
    let balancer = one_route(&app(), &[Journal::new().probe("a", "")], &[origin.entry()], "");
    assert_eq!(client(&balancer).get("/").status, 200);
}

#[test]
fn what_comes_after_an_upgrade_is_not_for_filters() {
    let origin = Origin::scripted("origin", |_| Reply::Upgrade);
    let journal = Journal::new();
    let balancer = one_route(&app(), &[journal.probe("a", "")], &[origin.entry()], "");
    let mut client = client(&balancer);
    client.send(request("GET", "/", &["connection: upgrade", "upgrade: websocket"], b""));
    let answer = client.head();
    assert_eq!((answer.status, answer.headers.all("x-probe")), (101, vec!["a"]));
    client.send("ping");
    assert_eq!(client.exactly(4), b"ping");
    client.half_close();
    journal.wait_for("a log 101 ok");
    let expected = ["a request", "a upstream_request 1 origin", "a response 101 backend"];
    assert_eq!(story(&journal)[..3], expected);
    assert!(journal.with("body").is_empty(), "{:?}", journal.events());
}

#[test]
fn an_interim_response_is_none_for_filters() {
    let origin = Origin::scripted("origin", |_| {
        Reply::raw("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
    });
    let journal = Journal::new();
    let balancer = one_route(&app(), &[journal.probe("a", "")], &[origin.entry()], "");
    assert_eq!(client(&balancer).get("/").text(), "hi");
    assert_eq!(journal.with("a response "), ["a response 200 backend"]);
}

#[test]
fn what_is_kept_is_dropped_at_every_end_of_a_request() {
    let origin = Origin::scripted("origin", |request| match request.path() {
        "/hang" => Reply::Hang,
        "/close" => Reply::close(),
        _ => Reply::text("well"),
    });
    let journal = Journal::new();
    let more = "route.timeout: 300ms
        pool.retry: { attempts: 0 }
        pool.ejection: off";
    let balancer = one_route(&app(), &[journal.probe("a", "")], &[origin.entry()], more);
    let mut kept = 0;
    let mut dropped_once_more = |what: &str| {
        kept += 1;
        eventually(what, || journal.with("a dropped").len() == kept);
        assert_eq!(journal.with("a request").iter().filter(|e| *e == "a request").count(), kept);
        let last = journal.with("a log").pop().unwrap();
        last.split(" in=").next().unwrap().to_owned()
    };
    let mut first = client(&balancer);
    assert_eq!(first.get("/").status, 200);
    assert_eq!(dropped_once_more("answered"), "a log 200 ok");
    assert_eq!(first.get("/close").status, 502);
    assert_eq!(dropped_once_more("failed"), "a log 502 upstream_reset");
    assert_eq!(first.get("/hang").status, 504);
    assert_eq!(dropped_once_more("given up"), "a log 504 upstream_timeout");
    let mut leaving = client(&balancer);
    leaving.send(request("POST", "/", &["content-length: 10"], b"1234"));
    journal.wait_for("a request_body 0+4");
    leaving.reset();
    assert_eq!(dropped_once_more("the client left"), "a log 499 client_aborted");
}

#[test]
fn a_hook_that_waits_is_given_up_with_its_route_and_hears_of_it() {
    let origin = Origin::named("origin");
    let journal = Journal::new();
    let probes = [journal.probe("a", ""), journal.probe("waiting", "on: { request: hang }")];
    let more = "route.timeout: 100ms";
    let balancer = one_route(&app(), &probes, &[origin.entry()], more);
    let answer = client(&balancer).get("/");
    assert_eq!(answer.status, 504);
    assert_eq!(answer.headers.all("x-probe"), ["waiting", "a"]);
    journal.wait_for("a log 504 upstream_timeout");
    journal.wait_for("waiting log 504 upstream_timeout");
    eventually("both are dropped", || journal.with("dropped").len() == 2);
    assert_eq!(origin.count(), 0);
}

/// Counts in a counter that it takes over.
struct Counting {
    name: String,
    count: Arc<AtomicUsize>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CountingSettings {
    name: String,
}

impl Filter for Counting {
    const NAME: &'static str = "counting";
    type Settings = CountingSettings;

    fn new(settings: CountingSettings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        Ok(Self { name: settings.name, count: Arc::default() })
    }

    fn adopt(&mut self, predecessor: &Self) {
        self.count = predecessor.count.clone();
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Result {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        request.set_header(format!("x-{}", self.name), count.to_string())?;
        Ok(Flow::Continue)
    }
}

#[test]
fn state_is_taken_over_by_name_and_order() {
    let app = app().filter::<Counting>().filter::<Once>();
    let filters = |text: &str| Filters::new().yaml(&app, text).unwrap();
    let counts = |filters: &Filters, names: &[&str]| -> Vec<String> {
        let outcome = filters.run(&testing::Request::get("/"), testing::Response::new(200));
        let sent = outcome.forwarded().unwrap();
        names.iter().map(|name| sent.header(name).unwrap().to_owned()).collect()
    };
    let old = filters("[ counting: { name: a }, counting: { name: b } ]");
    let _ = counts(&old, &["x-a"]);
    let only_b = old.run(&testing::Request::get("/"), testing::Response::new(200));
    assert_eq!(only_b.forwarded().unwrap().header("x-b"), Some("2"));
    // Another filter in between does not matter; the third one has nothing to take over.
    let mut new = filters(
        "[ counting: { name: c }, once: { header: x }, counting: { name: d }, counting: { name: e } ]",
    );
    new.adopt(&old);
    assert_eq!(counts(&new, &["x-c", "x-d", "x-e"]), ["3", "3", "1"]);
    // The old one is still in use, and counts in the same place.
    assert_eq!(counts(&old, &["x-a", "x-b"]), ["4", "4"]);
}

/// Panics when it is to take over.
struct Clumsy;

impl Filter for Clumsy {
    const NAME: &'static str = "clumsy";
    type Settings = NoSettings;

    fn new(_: NoSettings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        Ok(Self)
    }

    fn adopt(&mut self, _: &Self) {
        panic!("it fell");
    }
}

#[test]
fn a_panic_while_state_is_taken_over_is_told_as_the_filters() {
    let app = app().filter::<Clumsy>();
    let filters = || Filters::new().yaml(&app, "[ clumsy ]").unwrap();
    let (mut new, old) = (filters(), filters());
    let adopting = std::panic::AssertUnwindSafe(|| new.adopt(&old));
    let panic = std::panic::catch_unwind(adopting).unwrap_err();
    let told = panic.downcast_ref::<String>().unwrap();
    assert_eq!(told, "filter clumsy panicked in its adopt hook: it fell");
}

/// As many hooks as a filter may leave out: all.
struct Silent;

impl Filter for Silent {
    const NAME: &'static str = "silent";
    type Settings = NoSettings;

    fn new(_: NoSettings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        Ok(Self)
    }
}

/// Takes the name of a built-in filter.
struct Impostor;

impl Filter for Impostor {
    const NAME: &'static str = "request_headers";
    type Settings = NoSettings;

    fn new(_: NoSettings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        Ok(Self)
    }
}

struct BadName;

impl Filter for BadName {
    const NAME: &'static str = "Bad-Name";
    type Settings = NoSettings;

    fn new(_: NoSettings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        Ok(Self)
    }
}

/// Takes any key.
#[derive(Deserialize, JsonSchema)]
struct Lax {
    #[serde(default, rename = "key")]
    _key: String,
}

struct Careless;

impl Filter for Careless {
    const NAME: &'static str = "careless";
    type Settings = Lax;

    fn new(_: Lax, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        Ok(Self)
    }
}

#[test]
fn filters_that_cannot_be_known_are_errors_of_every_configuration() {
    let known: Vec<&str> = Registry::default().names().collect();
    let known = match known.split_last() {
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => unreachable!("there are built-in filters"),
    };
    let text = "
listeners: { web: { address: 127.0.0.1:0 } }
pools: { app: { backends: [127.0.0.1:1] } }
";
    for (app, error) in [
        (
            App::new().filter::<Impostor>(),
            format!(
                "a second filter called \"request_headers\"; expected another name than {known}"
            ),
        ),
        (
            App::new().filter::<BadName>(),
            "a filter called \"Bad-Name\"; expected lower-case letters, digits and underscores, a \
             letter first"
                .to_owned(),
        ),
        (
            App::new().filter::<Careless>(),
            "the settings of filter careless take any key; expected \
             #[serde(deny_unknown_fields)] on them"
                .to_owned(),
        ),
    ] {
        let errors = Balancer::start(&app, text).unwrap_err().to_string();
        assert_eq!(errors, format!("configuration: {error}"));
        let checked =
            pingora_lb::config::parse(text, "lb.yaml", Path::new("/"), &|_| None, app.filters());
        assert_eq!(checked.unwrap_err().to_string(), format!("lb.yaml: {error}"));
    }
}

#[test]
fn a_filter_without_hooks_changes_nothing() {
    let origin = Origin::named("origin");
    let app = app().filter::<Silent>();
    let balancer = one_route(&app, &["- silent".to_owned()], &[origin.entry()], "");
    let answer = client(&balancer).ask(request("POST", "/", &[], b"hello"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "origin"));
    assert_eq!(origin.only_request().body, b"hello");
}

#[test]
fn an_unknown_filter_is_told_from_the_known_ones() {
    let error = Filters::new().yaml(&app(), "\n- prob: {}").unwrap_err().to_string();
    assert!(error.starts_with("filters:2:3: [0].prob: unknown filter \"prob\""), "{error}");
    assert!(error.ends_with("did you mean \"probe\"?"), "{error}");
}
