//! `concurrency_limit`: how many requests at a time.

use crate::support::{Client, Config, Gate, Lb, Origin, Program, Reply, eventually, request};
use std::{ffi::OsStr, time::Duration};

/// A route to one backend that lets one request pass at a time.
fn one_at_a_time(origin: &Origin, keys: &str) -> Lb {
    limited(origin, "concurrency_limit: { max: 1 }", keys)
}

fn limited(origin: &Origin, filters: &str, keys: &str) -> Lb {
    Config::pool(&[origin.entry()], "health_check: off\nejection: off\nretry: { attempts: 0 }")
        .and(&format!("routes:\n  - {{ filters: [{filters}], pool: app, {keys} }}"))
        .access_log()
        .start()
}

/// What a path asks the backend to do.
fn origin(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::scripted("a", move |request| match request.path() {
        "/held" => Reply::text("held").behind(&gate),
        "/hang" => Reply::Hang,
        "/broken" => Reply::close(),
        "/upgrade" => Reply::Upgrade,
        "/slow-end" => Reply::Pieces(vec![
            (Duration::ZERO, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbe".to_vec()),
            (Duration::from_millis(1), b"gi".to_vec()),
        ]),
        "/begun" => Reply::Pieces(vec![
            (Duration::ZERO, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbe".to_vec()),
            (Duration::from_secs(60), b"gi".to_vec()),
        ]),
        _ => Reply::text("a"),
    })
}

fn send(lb: &Lb, method: &str, path: &str, fields: &[&str], body: &[u8]) -> Client {
    let mut client = lb.client();
    client.send(request(method, path, fields, body));
    client
}

/// Takes the only place there is with this request, once that is free: the place of a request
/// that was answered may be free a moment later only. Whatever answers says that it was admitted.
fn hold(lb: &Lb, method: &str, path: &str, fields: &[&str]) -> Client {
    let mut held = None;
    eventually("there is a place", || {
        let mut client = send(lb, method, path, fields, b"");
        let admitted = client.head().status != 503;
        held = admitted.then_some(client);
        admitted
    });
    held.expect("there is a place")
}

/// The same with a request whose body the backend asks for.
fn hold_upload(lb: &Lb, path: &str) -> Client {
    hold(lb, "POST", path, &["Expect: 100-continue", "Content-Length: 10"])
}

/// The same with a request that the backend holds behind its gate.
fn occupy(lb: &Lb, origin: &Origin) -> Client {
    let (mut client, before) = (hold_upload(lb, "/held"), origin.count());
    client.send("0123456789");
    eventually("the request arrives", || origin.count() > before);
    client
}

#[track_caller]
fn assert_full(lb: &Lb) {
    let response = lb.get("/");
    assert_eq!(response.status, 503);
    assert!(response.text().contains("overloaded"), "{}", response.text());
    assert_eq!(response.headers.get("retry-after"), Some("1"));
}

#[track_caller]
fn assert_free_again(lb: &Lb, after: &str) {
    eventually(&format!("the place is free after {after}"), || lb.get("/").status == 200);
}

#[test]
fn what_is_beyond_the_limit_is_refused_at_once() {
    let gate = Gate::default();
    let origin = origin(&gate);
    let lb = limited(&origin, "concurrency_limit: { max: 3 }", "");
    let mut held: Vec<_> = (0..3).map(|_| send(&lb, "GET", "/held", &[], b"")).collect();
    eventually("all three arrive", || origin.working() == 3);
    for _ in 0..5 {
        assert_full(&lb);
    }
    gate.let_one();
    eventually("one is answered, and one more has room", || lb.get("/").status == 200);
    gate.open();
    assert!(held.iter_mut().all(|client| client.response().status == 200));
    assert!(origin.most_working() <= 3);
    let entries = lb.wait_for_entries(9);
    let refused: Vec<_> = entries.iter().filter(|entry| entry["status"] == 503).collect();
    assert!(refused.len() >= 5);
    assert!(refused.iter().all(|entry| entry["reason"] == "overloaded" && entry["tries"] == 0));
}

#[test]
fn a_connection_can_ask_one_thing_after_another() {
    let origin = origin(&Gate::default());
    let lb = one_at_a_time(&origin, "");
    let mut client = lb.client();
    for _ in 0..200 {
        assert_eq!(client.get("/").status, 200);
    }
}

#[test]
fn a_request_without_a_backend_gives_its_place_back() {
    let origin = origin(&Gate::default());
    let lb = one_at_a_time(&origin, "");
    let mut client = lb.client();
    for _ in 0..3 {
        // 503 would say that the place is still taken.
        assert_eq!(client.get("/broken").status, 502);
    }
    origin.stop();
    for _ in 0..3 {
        let response = client.get("/");
        assert!(response.text().contains("connect_failed"), "{}", response.text());
    }
    origin.start();
    assert_eq!(client.get("/").status, 200);
}

#[test]
fn a_client_that_goes_away_gives_its_place_back() {
    let gate = Gate::default();
    let origin = origin(&gate);
    let lb = one_at_a_time(&origin, "");
    let client = occupy(&lb, &origin);
    assert_full(&lb);
    client.reset();
    assert_free_again(&lb, "a client that reset");
    // In the middle of what it sends, and of what it is sent.
    let mut sending = hold_upload(&lb, "/held");
    sending.send("half");
    assert_full(&lb);
    drop(sending);
    assert_free_again(&lb, "a client that sent half");
    let receiving = hold(&lb, "GET", "/begun", &[]);
    assert_full(&lb);
    receiving.reset();
    assert_free_again(&lb, "a client that left in the middle of a response");
    // Whoever only says that nothing more will come is answered, and counts until then.
    let client = occupy(&lb, &origin);
    client.half_close();
    assert_full(&lb);
    gate.open();
    assert_free_again(&lb, "a client that closed its half");
}

#[test]
fn a_timeout_gives_the_place_back() {
    let origin = origin(&Gate::default());
    let lb = one_at_a_time(&origin, "timeout: 200ms");
    for _ in 0..2 {
        eventually("it times out", || lb.get("/hang").status == 504);
        assert_free_again(&lb, "a timeout");
    }
}

#[test]
fn a_later_filter_that_refuses_gives_the_place_back() {
    let origin = origin(&Gate::default());
    let later = "rate_limit: { requests: 1, per: 1h, key: { header: x-user } }";
    let lb = limited(&origin, &format!("concurrency_limit: {{ max: 1 }}, {later}"), "");
    let mut client = lb.client();
    assert_eq!(client.get("/").status, 200);
    for _ in 0..5 {
        // 503 would say that the place is still taken.
        assert_eq!(client.get("/").status, 429);
    }
}

#[test]
fn a_place_is_taken_until_the_response_is_whole() {
    let gate = Gate::default();
    let origin = origin(&gate);
    let lb = one_at_a_time(&origin, "");
    let client = hold(&lb, "GET", "/begun", &[]);
    assert_full(&lb);
    client.reset();
    eventually("it is given up", || lb.get("/slow-end").text() == "begi");
    assert_free_again(&lb, "the response is whole");
}

#[test]
fn a_tunnel_counts_until_it_ends() {
    let origin = origin(&Gate::default());
    let lb = one_at_a_time(&origin, "");
    for client_ends in [true, false] {
        let fields = ["Connection: Upgrade", "Upgrade: websocket"];
        let mut tunnel = hold(&lb, "GET", "/upgrade", &fields);
        tunnel.send("hello");
        assert_eq!(tunnel.exactly(5), b"hello");
        assert_full(&lb);
        if client_ends {
            drop(tunnel);
        } else {
            origin.stop();
            assert!(tunnel.is_closed());
            origin.start();
        }
        assert_free_again(&lb, "the tunnel ended");
    }
}

#[test]
fn each_key_has_places_of_its_own() {
    let gate = Gate::default();
    let origin = origin(&gate);
    let lb = limited(&origin, "concurrency_limit: { max: 1, key: { header: x-user } }", "");
    let status = |fields: &[&str]| lb.client().ask(request("GET", "/", fields, b"")).status;
    let _ada = send(&lb, "GET", "/held", &["x-user: ada"], b"");
    let _nobody = send(&lb, "GET", "/held", &[], b"");
    eventually("both arrive", || origin.working() == 2);
    assert_eq!(status(&["x-user: ada"]), 503);
    assert_eq!(status(&[]), 503);
    assert_eq!(status(&["x-user: zoe"]), 200);
    gate.open();
}

/// Whether a second request is refused while one of the route `route` with these fields is held.
fn is_refused(lb: &Lb, origin: &Origin, held: &[&str], fields: &[&str]) -> bool {
    let before = origin.working();
    let _held = send(lb, "GET", "/held", held, b"");
    eventually("it arrives", || origin.working() > before);
    lb.client().ask(request("GET", "/", fields, b"")).status == 503
}

#[test]
fn a_cookie_a_client_or_a_route_can_be_the_key() {
    let from = |client: &str| format!("X-Forwarded-For: {client}");
    let (one, two) = (from("192.0.2.1"), from("192.0.2.2"));
    let (ada, zoe) = ("Cookie: user=ada", "Cookie: user=zoe");
    for (key, held, same, other) in
        [("{ cookie: user }", ada, ada, zoe), ("client_ip", &one, &one, &two)]
    {
        for (fields, refused) in [(same, true), (other, false)] {
            let gate = Gate::default();
            let origin = origin(&gate);
            let filter = format!("concurrency_limit: {{ max: 1, key: {key} }}");
            let routes = format!("routes:\n  - {{ filters: [{filter}], pool: app }}");
            let lb = Config::pool(&[origin.entry()], "health_check: off")
                .and("trusted_proxies: [127.0.0.1]")
                .and(&routes)
                .start();
            assert_eq!(is_refused(&lb, &origin, &[held], &[fields]), refused, "{key}: {fields}");
            gate.open();
        }
    }
    // Two routes of the same settings have places of their own, whoever asks.
    let gate = Gate::default();
    let origin = origin(&gate);
    let filter = "filters: [concurrency_limit: { max: 1, key: route }], pool: app";
    let lb = Config::pool(&[origin.entry()], "health_check: off")
        .and(&format!("routes:\n  - {{ match: {{ path: /held }}, {filter} }}\n  - {{ {filter} }}"))
        .start();
    assert!(!is_refused(&lb, &origin, &[], &[]));
    assert_eq!(lb.get("/held").status, 503);
    gate.open();
}

#[test]
fn settings_that_cannot_be_are_errors() {
    for (settings, error) in [
        (
            "{}",
            ":4:9: routes[0].filters[0].concurrency_limit: missing key \"max\"; expected a whole number from 1 to 4294967295",
        ),
        (
            "{ max: 0 }",
            ":4:35: routes[0].filters[0].concurrency_limit.max: found \"0\"; expected a whole number from 1 to 4294967295",
        ),
        (
            "{ max: 1, key: rout }",
            ":4:43: routes[0].filters[0].concurrency_limit.key: found \"rout\"; expected client_ip, route, header or cookie; did you mean \"route\"?",
        ),
        (
            "{ max: 1, by: route }",
            ":4:38: routes[0].filters[0].concurrency_limit.by: unknown key \"by\"; expected max or key",
        ),
    ] {
        let text = format!(
            "listeners: {{ web: {{ address: 127.0.0.1:1 }} }}\nroutes:\n  - filters:\n      - concurrency_limit: {settings}\n    \
             pool: app\npools: {{ app: {{ backends: [127.0.0.1:1] }} }}\n"
        );
        let files = Config::new(text).write();
        let (code, _, stderr) =
            Program::run([OsStr::new("-t"), OsStr::new("-c"), files.path().as_os_str()]);
        let path = files.path().display().to_string();
        assert_eq!((code, stderr.trim_start_matches(&path)), (1, error), "{settings}");
    }
}
