//! What the library offers for tests of filters: that it does as the proxy does, and cleans up.

use crate::support::{
    eventually,
    probe::{Journal, app, logged},
};
use pingora_lb::{
    App,
    filter::{Filter, Flow, Result, SettingsError, Setup, settings::NoSettings},
    testing::{Balancer, Filters, Origin, Reason, Request, Response},
};
use std::process::Command;

#[test]
fn a_described_request_passes_as_a_real_one_does() {
    let journal = Journal::new();
    let probes = [journal.probe("a", ""), journal.probe("b", "")].join("\n");
    let filters = Filters::new().yaml(&app(), &probes).unwrap();
    let request = Request::new("POST", "/a/../b?q").pieces(["12", "345"]);
    let outcome = filters.run(&request, Response::new(200).pieces(["67", "8"]));
    assert_eq!((outcome.status(), outcome.reason()), (200, Reason::Ok));
    assert_eq!(outcome.response().text(), "678");
    let forwarded = outcome.forwarded().unwrap();
    assert_eq!((forwarded.method(), forwarded.target()), ("POST", "/b?q"));
    assert_eq!(forwarded.body(), &"12345");
    assert_eq!((forwarded.pool(), forwarded.hash_key()), ("app", None));
    let expected = [
        "a request",
        "b request",
        "a upstream_request 1 backend-1",
        "b upstream_request 1 backend-1",
        "a request_body 0+2 end=false",
        "b request_body 0+2 end=false",
        "a request_body 2+3 end=true",
        "b request_body 2+3 end=true",
        "b response 200 backend",
        "a response 200 backend",
        "b response_body 2 end=false",
        "a response_body 2 end=false",
        "b response_body 1 end=true",
        "a response_body 1 end=true",
        "a log 200 ok in=5 out=3 tries=1 0123456789abcdef0123456789abcdef",
        "b log 200 ok in=5 out=3 tries=1 0123456789abcdef0123456789abcdef",
        "a dropped",
        "b dropped",
    ];
    assert_eq!(journal.events(), expected);
}

#[test]
fn an_outcome_tells_answers_failures_and_panics_apart() {
    let run = |settings: &str, backend: &Response| {
        let journal = Journal::new();
        let filters = Filters::new().yaml(&app(), &journal.probe("a", settings)).unwrap();
        filters.run(&Request::get("/"), backend.clone())
    };
    let backend = Response::new(200).body("hello");
    let answered = run("on: { request: { answer: 429 } }", &backend);
    assert!(answered.forwarded().is_none());
    assert_eq!((answered.status(), answered.reason()), (429, Reason::RateLimited));
    assert_eq!(answered.response().header("x-probe"), Some("a"));
    assert!(answered.response().text().starts_with("429 Too Many Requests: rate_limited\n"));

    let failed = run("on: { upstream_request: error }", &backend);
    assert_eq!((failed.status(), failed.reason()), (500, Reason::InternalError));
    let mishap = failed.mishaps()[0].to_string();
    assert_eq!(
        mishap,
        "filter probe failed in its upstream request hook: told to in upstream_request"
    );

    let panicked = run("on: { response: panic_later }", &backend);
    assert_eq!((panicked.status(), panicked.reason()), (500, Reason::FilterPanic));
    assert!(panicked.mishaps()[0].panicked);

    let broken = run("on: { response_body: panic }", &backend);
    assert_eq!((broken.status(), broken.reason()), (200, Reason::FilterPanic));
    assert!(!broken.response().is_complete());

    let journal = Journal::new();
    let filters = Filters::new().yaml(&app(), &journal.probe("a", "")).unwrap();
    let outcome = filters.run(&Request::get("/"), Reason::NoHealthyBackend);
    assert_eq!((outcome.status(), outcome.reason()), (503, Reason::NoHealthyBackend));
    assert!(outcome.forwarded().is_none());
    assert_eq!(journal.with("a response "), ["a response 503 no_healthy_backend"]);
}

#[test]
fn mistakes_in_settings_have_their_place_in_the_text() {
    let text = "\n- request_headers:\n    sett: { a: b }\n- nothing";
    let errors = Filters::new().yaml(&App::new(), text).unwrap_err().to_string();
    let lines: Vec<_> = errors.lines().collect();
    assert_eq!(
        lines[0],
        "filters:3:5: [0].request_headers.sett: unknown key \"sett\"; expected set, add or remove; \
         did you mean \"set\"?"
    );
    assert!(lines[1].starts_with("filters:4:3: [1]"), "{errors}");
}

/// Needs a pool that the test may have or not.
struct Needs;

impl Filter for Needs {
    const NAME: &'static str = "needs";
    type Settings = NoSettings;

    fn new(_: NoSettings, setup: &mut Setup<'_>) -> Result<Self, SettingsError> {
        setup.pool("canary").map(|_| Self)
    }

    async fn on_request(&self, _: &mut pingora_lb::filter::Request<'_>) -> Result {
        Ok(Flow::Continue)
    }
}

#[test]
fn a_filter_made_from_a_value_has_the_pools_of_the_test() {
    let error = Filters::new().and::<Needs>(NoSettings {}).unwrap_err().to_string();
    assert_eq!(error, "unknown pool \"canary\"; expected app");
    let filters = Filters::with_pools(["app", "canary"]).and::<Needs>(NoSettings {}).unwrap();
    let outcome = filters.run(&Request::get("/"), Response::new(204));
    assert_eq!(outcome.forwarded().unwrap().pool(), "app");
}

#[test]
fn runs_inside_of_a_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let filters = Filters::new();
        assert_eq!(filters.run(&Request::get("/"), Response::new(200)).status(), 200);
        assert_eq!(filters.run_async(&Request::get("/"), Response::new(201)).await.status(), 201);
        let origin = Origin::echo();
        let text = configuration(&origin);
        let balancer = Balancer::start(&App::new(), &text).unwrap();
        assert_eq!(balancer.send(&Request::get("/")).status(), 200);
    });
}

fn configuration(origin: &Origin) -> String {
    format!(
        "
listeners:
  web: {{ address: 0.0.0.0:80 }}
  other: {{ address: \"[::1]:80\" }}
pools: {{ app: {{ backends: [{}] }} }}
",
        origin.address()
    )
}

#[test]
fn a_balancer_serves_on_ports_of_its_own_whatever_the_configuration_says() {
    let origin = Origin::echo();
    let [one, two] = [0; 2].map(|_| Balancer::start(&App::new(), &configuration(&origin)).unwrap());
    let address = one.address("web");
    assert!(address.ip().is_loopback() && address.port() != 80, "{address}");
    assert_ne!(address, two.address("web"));
    assert!(one.address("other").is_ipv6());
    let names: Vec<_> = one.addresses().map(|(name, _)| name).collect();
    assert_eq!(names, ["web", "other"]);
    for request in [
        Request::new("PUT", "/path?q").with("x-one", "1").body("hello"),
        Request::new("PUT", "/path?q").with("x-one", "1").on("other").pieces(["he", "llo"]),
    ] {
        let answer = one.send(&request);
        assert!(answer.is_complete());
        let seen: serde_json::Value = serde_json::from_slice(&answer.bytes()).unwrap();
        assert_eq!(seen["method"], "PUT");
        assert_eq!(seen["target"], "/path?q");
        assert_eq!(seen["headers"]["x-one"], "1");
        assert_eq!(seen["headers"]["host"], "test.example");
        assert_eq!(seen["body"], "hello");
    }
    assert_eq!(origin.requests().len(), 2);
    assert_eq!(origin.requests()[1].text(), "hello");
}

#[test]
fn a_balancer_that_is_dropped_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("lb.sock");
    let origin = Origin::echo();
    let text = format!(
        "
listeners: {{ web: {{ address: 127.0.0.1:0 }}, local: {{ address: \"unix:{}\" }} }}
pools: {{ app: {{ backends: [{}] }} }}
",
        socket.display(),
        origin.address()
    );
    let balancer = Balancer::start(&App::new(), &text).unwrap();
    let address = balancer.address("web");
    assert_eq!(balancer.send(&Request::get("/").on("local")).status(), 200);
    let mut idle = crate::support::Client::connect(&crate::support::Address::Tcp(address));
    assert_eq!(idle.get("/").status, 200);
    drop(balancer);
    assert!(idle.is_closed());
    assert!(std::net::TcpStream::connect(address).is_err());
    assert!(!socket.exists());
}

#[test]
fn threads_end_with_what_they_belong_to() {
    // Other tests have threads, too, so this is counted in a process of its own.
    let counted = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "testing::counts_threads"])
        .output()
        .unwrap();
    assert!(counted.status.success(), "{}", String::from_utf8_lossy(&counted.stdout));
}

#[test]
#[ignore = "runs in a process of its own"]
fn counts_threads() {
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let once = || {
        let origin = Origin::echo();
        let log = "access_log: { path: /dev/null, format: json }";
        let balancer = Balancer::start(&App::new(), &(configuration(&origin) + log)).unwrap();
        assert_eq!(balancer.send(&Request::get("/")).status(), 200);
        assert!(threads() >= 7);
    };
    // Pingora's clock, which a process has once, starts here.
    once();
    let before = threads();
    for _ in 0..4 {
        once();
    }
    // The system takes a moment to forget a thread that was joined, so `before` may count one that
    // was about to go. Four that stayed would show all the same.
    eventually("the threads have ended", || threads() <= before);
}

#[test]
fn what_cannot_be_served_is_an_error() {
    let text = "
listeners: { web: { address: 127.0.0.1:0 } }
pools: { app: { backend: [127.0.0.1:1] } }
";
    let error = Balancer::start(&App::new(), text).unwrap_err().to_string();
    assert!(error.contains("configuration:3:17: pools.app.backend: unknown key"), "{error}");
    let text = "
listeners: { web: { address: \"unix:/nowhere/at/all.sock\" } }
pools: { app: { backends: [127.0.0.1:1] } }
";
    let error = Balancer::start(&App::new(), text).unwrap_err().to_string();
    assert!(
        error.starts_with("listener web: cannot listen on unix:/nowhere/at/all.sock"),
        "{error}"
    );
    assert!(logged("/nowhere/at/all.sock").is_empty());
}
