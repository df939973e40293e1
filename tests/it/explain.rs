//! `explain`: what becomes of a request that is described.

mod agreement;
mod live;

use crate::support::{Authority, Config, Files, Origin, Program};
use serde_json::Value;

/// The explanation of a request in JSON.
#[track_caller]
fn explained(files: &Files, request: &[&str]) -> Value {
    let (code, stdout, stderr) = run(files, &[request, &["--json"]].concat());
    assert_eq!((code, stderr.as_str()), (0, ""), "{request:?}");
    serde_json::from_str(&stdout).unwrap()
}

#[track_caller]
fn run(files: &Files, request: &[&str]) -> (i32, String, String) {
    let conf = files.path().to_str().unwrap();
    Program::run([&["explain", "-c", conf], request].concat())
}

/// One value of each of the entries of a list.
fn each<'v>(list: &'v Value, key: &str) -> Vec<&'v str> {
    list.as_array().unwrap().iter().map(|entry| entry[key].as_str().unwrap()).collect()
}

const ROUTES: &str = r#"
pools:
  app:
    backends:
      - { address: 127.0.0.1:1, name: app-1 }
      - { address: 127.0.0.1:2, name: app-2, weight: 3 }
      - { address: 127.0.0.1:3, name: spare, backup: true }
      - { address: 127.0.0.1:4, name: off, state: disabled }
    retry: { attempts: 5, on: [connect_failure, reset, 503], per_try_timeout: 2s }
  canary: { backends: [127.0.0.1:5] }
  users:
    backends: [127.0.0.1:6, 127.0.0.1:7]
    balance: { policy: maglev, hash_on: { header: X-User } }
    sticky: { cookie: LB, secret: 0123456789abcdef }
routes:
  - { name: post, match: { methods: [POST] }, pool: app, filters: [rate_limit: { requests: 1, per: 1s }, body_limit: { max: 10B }] }
  - name: api
    match:
      host: "*.example.com"
      path_prefix: /v1
      headers: { x-a: "1" }
      query: { q: { present: true } }
    filters:
      - ip_filter: { deny: [10.0.0.0/8] }
      - rewrite: { strip_prefix: /v1 }
      - response_headers: { set: { x-b: c } }
    pool: app
    timeout: 30s
  - { name: moved, match: { path: /old }, redirect: { to: "https://new.example${path_and_query}", status: 301 } }
  - { name: said, match: { path: /said }, respond: { status: 418 } }
  - { name: safe, match: { path: /safe }, filters: [redirect_https: {}, cors: { origins: ["*"] }], pool: app }
  - { name: halves, match: { path: /halves }, split: { app: 3, canary: 1 } }
  - { name: user, match: { path: /user }, pool: users }
"#;

#[test]
fn each_earlier_route_says_which_condition_failed() {
    let files = Config::new(ROUTES).write();
    let all = explained(&files, &["http://a.example.org/x"]);
    assert_eq!(all["route"], Value::Null);
    assert_eq!(
        each(&all["skipped"], "failed"),
        ["method", "host", "path", "path", "path", "path", "path"]
    );
    assert_eq!(each(&all["skipped"], "expected")[..3], ["POST", "*.example.com", "/old"]);
    assert_eq!(
        (&all["answer"]["status"], &all["answer"]["reason"]),
        (&404.into(), &"no_route".into())
    );
    for (request, failed) in [
        (&["http://a.example.com/v2"][..], "path"),
        (&["http://a.example.com/v1"], "header x-a"),
        (&["http://a.example.com/v1", "-H", "X-A: 1"], "query parameter q"),
    ] {
        assert_eq!(each(&explained(&files, request)["skipped"], "failed")[1], failed);
    }
    let found = explained(&files, &["http://A.example.com:80/v1/./x?q", "-H", "x-a: 1"]);
    assert_eq!((&found["route"], &found["timeout"]), (&"api".into(), &"30s".into()));
    assert_eq!(each(&found["skipped"], "route"), ["post"]);
}

#[test]
fn the_filters_that_only_look_are_run_and_the_others_named() {
    let files = Config::new(ROUTES).write();
    let api = ["http://a.example.com/v1/x?q=1", "-H", "x-a: 1"];
    let passes = explained(&files, &api);
    assert_eq!(each(&passes["filters"], "name"), ["ip_filter", "rewrite", "response_headers"]);
    assert_eq!(each(&passes["filters"], "effect"), ["passes", "passes", "no_request_hook"]);
    assert_eq!(passes["filters"][0]["settings"], "{ deny: [10.0.0.0/8] }");
    assert_eq!(passes["filters"][1]["detail"], "target /v1/x?q=1 -> /x?q=1");
    assert_eq!(passes["request"]["target"], "/x?q=1");
    let denied = explained(&files, &[&api[..], &["--client", "10.1.2.3"]].concat());
    assert_eq!(each(&denied["filters"], "effect"), ["answers", "not_reached", "not_reached"]);
    assert_eq!(
        (&denied["answer"]["by"], &denied["answer"]["status"]),
        (&"ip_filter".into(), &403.into())
    );
    assert_eq!((&denied["pool"], &denied["pick"]), (&Value::Null, &Value::Null));
    let counted = explained(&files, &["POST", "http://a/"]);
    assert_eq!(each(&counted["filters"], "effect"), ["not_run", "passes"]);
    assert!(counted["notes"][0].as_str().unwrap().contains("rate_limit"), "{counted}");
    let large = explained(&files, &["POST", "http://a/", "-H", "Content-Length: 11"]);
    assert_eq!(
        (&large["answer"]["by"], &large["answer"]["status"]),
        (&"body_limit".into(), &413.into())
    );
    let safe = explained(&files, &["http://a.example/safe?x"]);
    assert_eq!(safe["answer"]["location"], "https://a.example/safe?x");
    assert_eq!(
        (&safe["answer"]["by"], &safe["answer"]["status"]),
        (&"redirect_https".into(), &308.into())
    );
}

#[test]
fn redirects_responses_and_splits_are_what_the_route_says() {
    let files = Config::new(ROUTES).write();
    let moved = explained(&files, &["http://a/old?x=1"]);
    assert_eq!(moved["answer"]["location"], "https://new.example/old?x=1");
    assert_eq!(
        (&moved["answer"]["by"], &moved["answer"]["status"]),
        (&"route".into(), &301.into())
    );
    assert_eq!(explained(&files, &["http://a/said"])["answer"]["status"], 418);
    let halves = explained(&files, &["http://a/halves"]);
    assert_eq!(each(&halves["split"], "pool"), ["app", "canary"]);
    assert_eq!(
        (&halves["split"][0]["share"], &halves["split"][1]["share"]),
        (&0.75.into(), &0.25.into())
    );
    let chosen = halves["split"].as_array().unwrap().iter().find(|share| share["chosen"] == true);
    assert_eq!(chosen.unwrap()["pool"], halves["pool"]["name"]);
}

#[test]
fn the_pool_its_backends_and_the_retry_plan_are_shown() {
    let files = Config::new(ROUTES).write();
    let request = ["http://a.example.com/v1?q", "-H", "x-a: 1"];
    let get = explained(&files, &request);
    let pool = &get["pool"];
    assert_eq!((&pool["name"], &pool["policy"]), (&"app".into(), &"round_robin".into()));
    let backends = &pool["backends"];
    assert_eq!(each(backends, "name"), ["app-1", "app-2", "spare", "off"]);
    assert_eq!(each(backends, "state"), ["active", "active", "active", "disabled"]);
    assert_eq!(each(backends, "health"), ["healthy"; 4]);
    let scores: Vec<_> = (0..4).map(|at| backends[at]["score"].as_f64()).collect();
    assert_eq!(scores, [Some(0.25), Some(0.75), Some(1.0), None]);
    // The turns begin with who is found healthy first, and the backup is the last resort.
    assert_eq!((&get["pick"], &get["way"]), (&"app-1".into(), &"policy".into()));
    assert_eq!(get["retry"]["order"], serde_json::json!(["app-1", "app-2", "spare"]));
    let retried = |explanation: &Value| {
        let on = explanation["retry"]["on"].as_array().unwrap();
        on.iter().map(|it| it["retried"].as_bool().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(each(&get["retry"]["on"], "failure"), ["connect_failure", "reset", "503"]);
    assert_eq!(retried(&get), [true; 3]);
    assert_eq!(retried(&explained(&files, &["POST", "http://a/"])), [true, false, false]);
    assert_eq!(
        (&get["retry"]["attempts"], &get["retry"]["per_try_timeout"]),
        (&5.into(), &"2s".into())
    );
    assert_eq!(get["state"], "fresh");
    let (code, text, _) = run(&files, &request);
    assert_eq!(code, 0);
    for part in ["route     api, timeout 30s", "<- pick", "503", "first health check that succeeds"]
    {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn the_hash_key_and_the_sticky_cookie_decide() {
    let files = Config::new(ROUTES).write();
    let user = |more: &[&str]| explained(&files, &[&["http://a/user"][..], more].concat());
    let (ada, again) = (user(&["-H", "x-user: ada"]), user(&["-H", "x-user: ada"]));
    assert_eq!(
        (&ada["pick"], &ada["pool"]["hash_key"]),
        (&again["pick"], &again["pool"]["hash_key"])
    );
    assert_eq!(ada["pool"]["hash_on"], "header x-user");
    let others: Vec<_> = (0..20).map(|at| user(&["-H", &format!("x-user: {at}")])).collect();
    assert!(others.iter().any(|other| other["pick"] != ada["pick"]), "all keys go to one backend");
    assert!(others.iter().all(|other| other["pool"]["hash_key"] != ada["pool"]["hash_key"]));
    let nobody = user(&[]);
    assert_eq!(nobody["pool"]["hash_key"], Value::Null);
    assert_eq!(nobody["pool"]["sticky"]["status"], "absent");
    assert_eq!(user(&["-H", "Cookie: LB=forged"])["pool"]["sticky"]["status"], "invalid");
}

#[test]
fn connections_to_tcp_listeners_are_explained_too() {
    let text = r#"
listeners:
  web: { address: "@WEB@" }
  pg: { address: "@2@", protocol: tcp, pool: a }
  names: { address: "@3@", protocol: tcp, sni: { x.example: a, "*.y.example": b } }
pools:
  a: { backends: [127.0.0.1:1] }
  b: { backends: [127.0.0.1:2], balance: ring_hash }
"#;
    let files = Config::new(format!("{text}routes: [{{ pool: a }}]\n")).write();
    let pool = |url: &str| explained(&files, &[url])["pool"]["name"].clone();
    assert_eq!(pool("tcp://pg"), "a");
    assert_eq!(pool("tcp://names/X.example"), "a");
    let b = explained(&files, &["tcp://names/z.y.example", "--client", "192.0.2.1"]);
    assert_eq!((&b["pool"]["name"], &b["pick"]), (&"b".into(), &"127.0.0.1:2".into()));
    assert_eq!((&b["pool"]["hash_on"], &b["route"]), (&"client_ip".into(), &Value::Null));
    // There are no answers in a stream.
    let retried = &b["retry"]["on"];
    assert_eq!(each(retried, "failure"), ["connect_failure", "refused_stream", "reset"]);
    let holds: Vec<_> = retried.as_array().unwrap().iter().map(|it| &it["retried"]).collect();
    assert_eq!(holds, [true, false, true]);
    let (_, text, _) = run(&files, &["tcp://pg"]);
    assert!(text.contains("not on  refused_stream: a stream has none"), "{text}");
    for beside in
        [&["POST", "tcp://pg"][..], &["tcp://pg", "-H", "a: b"], &["tcp://pg", "--listener", "pg"]]
    {
        let (code, _, stderr) = run(&files, beside);
        assert_eq!(code, 2, "{beside:?}: {stderr}");
        assert!(stderr.contains("beside a tcp URL"), "{beside:?}: {stderr}");
    }
    let none = explained(&files, &["tcp://names/y.example"]);
    assert_eq!(
        (&none["answer"]["reason"], &none["answer"]["status"]),
        (&"no_route".into(), &Value::Null)
    );
    for (request, said) in [
        (&["http://a/", "--listener", "pg"][..], "describe one as tcp://pg"),
        (&["tcp://web"], "speaks HTTP"),
        (&["tcp://nothing"], "there is no listener \"nothing\""),
        (&["https://a/"], "no listener speaks https"),
        (&["http://a:1/"], "no listener speaks http on port 1"),
        // The usual ports are those of clients, whose mapping nobody knows here.
        (&["https://a:80/"], "no listener speaks https;"),
        (&["http://a/", "--listener", "nothing"], "there are: web (http, "),
    ] {
        let (code, stdout, stderr) = run(&files, request);
        assert_eq!((code, stdout.as_str()), (1, ""), "{request:?}");
        assert!(stderr.contains(said), "{request:?}: {stderr}");
    }
}

#[test]
fn the_listener_is_that_of_the_url_or_of_the_flag() {
    let certificate = Authority::new("us").server(&["a.example"]);
    let text = r#"
listeners:
  web: { address: "@WEB@" }
  other: { address: "@2@" }
  tls: { address: "@3@", tls: { certificates: [{ cert: a.pem, key: a.key }] } }
pools: { a: { backends: [127.0.0.1:1] } }
routes:
  - { name: inside, listeners: [other], pool: a }
  - { name: secure, filters: [redirect_https: {}], pool: a }
"#;
    let files = Config::new(text).certificate("a", &certificate).write();
    let port = files.extra(2).port();
    let told = |request: &[&str]| {
        let explanation = explained(&files, request);
        [&explanation["listener"]["name"], &explanation["route"], &explanation["pick"]]
            .map(|value| value.as_str().unwrap_or("-").to_owned())
    };
    assert_eq!(told(&["http://a/"]), ["web", "secure", "-"]);
    assert_eq!(told(&[&format!("http://a:{port}/")]), ["other", "inside", "127.0.0.1:1"]);
    assert_eq!(told(&["http://a/", "--listener", "other"]), ["other", "inside", "127.0.0.1:1"]);
    assert_eq!(told(&["https://a/"]), ["tls", "secure", "127.0.0.1:1"]);
}

#[test]
fn what_a_listener_would_refuse_is_refused() {
    let files = Config::new(ROUTES).listener("limits: { uri_bytes: 100 }").write();
    let long = format!("http://a/{}", "x".repeat(200));
    for (request, status) in [
        (&["http://a/a b"][..], 400),
        (&["TRACE", "http://a/"], 405),
        (&["http://a/%00"], 400),
        (&["http://a/../x"], 400),
        (&[long.as_str()], 414),
        (&["http://a/", "-H", "Host: a b"], 400),
        (&["http://a/", "-H", "Transfer-Encoding: x"], 501),
    ] {
        let answer = &explained(&files, request)["answer"];
        assert_eq!(answer["status"], status, "{request:?}");
        assert_eq!(answer["reason"], "bad_request", "{request:?}");
    }
}

#[test]
fn wrong_usage_is_2_and_a_bad_configuration_is_1_with_its_places() {
    let files = Config::new(ROUTES).write();
    for request in [
        &[][..],
        &["/no/host"],
        &["ftp://a/"],
        &["GET", "http://a/", "more"],
        &["http://a/", "-H", "no colon"],
        &["http://a/", "--client", "nobody"],
    ] {
        let (code, stdout, stderr) = run(&files, request);
        assert_eq!((code, stdout.as_str()), (2, ""), "{request:?}");
        assert!(stderr.contains("--help"), "{request:?}: {stderr}");
    }
    let bad = Config::new("pools: { app: { backends: [a:1], balanse: x } }\n").write();
    let (code, _, stderr) = run(&bad, &["http://a/"]);
    assert_eq!(code, 1);
    assert!(stderr.contains("lb.yaml:1:34: pools.app.balanse: unknown key"), "{stderr}");
}

#[test]
fn backends_whose_names_have_no_address_are_told() {
    let files =
        Config::pool(&["nowhere.invalid:80".to_owned(), "127.0.0.1:1".to_owned()], "").write();
    let explanation = explained(&files, &["http://a/"]);
    assert_eq!(explanation["pool"]["unresolved"], serde_json::json!(["nowhere.invalid:80"]));
    assert_eq!(explanation["pick"], "127.0.0.1:1");
    let files = Config::pool(&["nowhere.invalid:80".to_owned()], "").write();
    let answer = &explained(&files, &["http://a/"])["answer"];
    assert_eq!(
        (&answer["status"], &answer["reason"], &answer["by"]),
        (&503.into(), &"no_healthy_backend".into(), &"pool".into())
    );
}

#[test]
fn backends_with_the_address_of_another_are_told() {
    let backends = ["127.0.0.1:1", "localhost:1", "localhost:2"].map(str::to_owned);
    let files = Config::pool(&backends, "").write();
    let explanation = explained(&files, &["http://a/"]);
    let pool = &explanation["pool"];
    assert_eq!(each(&pool["backends"], "name"), ["127.0.0.1:1", "localhost:2"]);
    assert_eq!(pool["unresolved"], serde_json::json!([]));
    assert_eq!(
        pool["same_address"],
        serde_json::json!([{ "name": "localhost:1", "of": "127.0.0.1:1" }])
    );
    let (_, text, _) = run(&files, &["http://a/"]);
    assert!(text.contains("localhost:1  same address as 127.0.0.1:1, left out"), "{text}");
    let keys = "timeout: 1s500ms\n";
    let routes = format!("routes:\n  - pool: app\n    {keys}");
    let files = Config::new(format!("pools: {{ app: {{ backends: [127.0.0.1:1] }} }}\n{routes}"));
    assert_eq!(explained(&files.write(), &["http://a/"])["timeout"], "1s500ms");
}

/// It is told when it is found, and not again with each resolution.
#[test]
fn a_backend_with_the_address_of_another_is_logged_once() {
    let origin = Origin::named("a");
    let port = origin.port();
    let backends =
        [format!("127.0.0.1:{port}"), format!("localhost:{port}"), "x.invalid:1".to_owned()];
    let lb = Config::pool(&backends, "resolve_interval: 20ms").start();
    let line = format!("backend localhost:{port} has the address of 127.0.0.1:{port}");
    lb.wait_for_line(&line);
    lb.wait_for_line("x.invalid does not resolve");
    // A reload with the same pool looks the name up again, after many resolutions.
    for _ in 0..50 {
        assert_eq!(lb.get("/").status, 200);
    }
    assert_eq!(lb.program.stderr.count(&line), 1);
}
