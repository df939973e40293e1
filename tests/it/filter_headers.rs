//! `request_headers` and `response_headers`: header fields set, added and removed.

use crate::support::{Config, Origin, Reply, filter_error, filtered, request};

const ALL: &str = "{ set: { x-ip: \"[${client_ip}]\", x-host: \"[${host}]\", x-path: \"[${path}]\", \
     x-query: \"[${query}]\", x-target: \"[${path_and_query}]\", x-method: \"[${method}]\", \
     x-scheme: \"[${scheme}]\", x-id: \"[${request_id}]\", x-listener: \"[${listener}]\", \
     x-route: \"[${route}]\", x-pool: \"[${pool}]\", x-backend: \"[${backend}]\" } }";

/// What the variables of [`ALL`] stand for on a POST to `/a/../b?c=d`.
const VALUES: [(&str, &str); 11] = [
    ("x-ip", "[127.0.0.1]"),
    ("x-host", "[www.example.com]"),
    ("x-path", "[/b]"),
    ("x-query", "[c=d]"),
    ("x-target", "[/b?c=d]"),
    ("x-method", "[POST]"),
    ("x-scheme", "[http]"),
    ("x-listener", "[web]"),
    ("x-route", "[main]"),
    ("x-pool", "[app]"),
    ("x-backend", "[a]"),
];

#[test]
fn every_variable_stands_for_what_it_says() {
    let origin = Origin::named("a");
    let filters = [format!("request_headers: {ALL}"), format!("response_headers: {ALL}")];
    let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
    for host_header in ["preserve", "backend", "inner.example"] {
        let lb = filtered(&[&origin], &format!("host_header: {host_header}"), &filters).start();
        let asked = request("POST", "/a/../b?c=d", &["Host: WWW.example.com:8080"], b"body");
        let response = lb.client().ask(asked);
        let seen = origin.last_request();
        for (name, value) in VALUES {
            assert_eq!(seen.headers.get(name), Some(value), "{name} of the request");
            assert_eq!(response.headers.get(name), Some(value), "{name} of the response");
        }
        let id = format!("[{}]", response.headers.get("x-request-id").unwrap());
        assert_eq!(seen.headers.get("x-id"), Some(id.as_str()));
        assert_eq!(response.headers.get("x-id"), Some(id.as_str()));
    }
}

#[test]
fn what_is_not_known_is_empty() {
    let route = format!(
        "{{ name: main, filters: [{{ response_headers: {ALL} }}], respond: {{ status: 200 }} }}"
    );
    let text = format!(
        "pools: {{ app: {{ backends: [127.0.0.1:1], health_check: off }} }}\nroutes: [{route}]\n"
    );
    let lb = Config::new(text).start();
    let response = lb.client().ask("GET /x HTTP/1.0\r\n\r\n");
    for (name, value) in [
        ("x-host", "[]"),
        ("x-query", "[]"),
        ("x-target", "[/x]"),
        ("x-pool", "[]"),
        ("x-backend", "[]"),
        ("x-route", "[main]"),
    ] {
        assert_eq!(response.headers.get(name), Some(value), "{name}");
    }
}

#[test]
fn fields_are_removed_then_set_then_added() {
    let changes = "{ remove: [x-gone, x-anew], set: { x-anew: one, x-set: \"1\" }, add: { x-anew: two, x-added: \"3\" } }";
    let origin = Origin::scripted("a", |_| {
        let reply = Reply::text("a").with("X-Gone", "a").with("X-Gone", "b").with("X-Anew", "old");
        reply.with("X-Set", "a").with("X-Set", "b").with("X-Added", "1").with("X-Added", "2")
    });
    let filters = [format!("request_headers: {changes}"), format!("response_headers: {changes}")];
    let lb = filtered(&[&origin], "", &[&filters[0], &filters[1]]).start();
    let fields = [
        "X-Gone: a",
        "x-gone: b",
        "X-Anew: old",
        "X-Set: a",
        "X-Set: b",
        "X-Added: 1",
        "X-Added: 2",
    ];
    let response = lb.client().ask(request("GET", "/", &fields, b""));
    let seen = origin.only_request();
    for headers in [&seen.headers, &response.headers] {
        assert!(!headers.has("x-gone"));
        assert_eq!(headers.all("x-anew"), ["one", "two"]);
        assert_eq!(headers.all("x-set"), ["1"]);
        assert_eq!(headers.all("x-added"), ["1", "2", "3"]);
    }
}

#[test]
fn the_filters_of_a_list_follow_each_other_and_responses_go_back() {
    let origin = Origin::named("a");
    let filters = [
        "request_headers: { add: { x-order: first } }",
        "request_headers: { add: { x-order: second } }",
        "response_headers: { add: { x-order: first } }",
        "response_headers: { add: { x-order: second } }",
    ];
    let lb = filtered(&[&origin], "", &filters).start();
    let response = lb.get("/");
    assert_eq!(origin.only_request().headers.all("x-order"), ["first", "second"]);
    assert_eq!(response.headers.all("x-order"), ["second", "first"]);
}

#[test]
fn what_the_proxy_sets_can_be_changed_and_host_too() {
    let origin = Origin::named("a");
    let filters = [
        r#"request_headers: { set: { host: "${route}.internal", x-real-ip: none }, remove: [x-forwarded-for] }"#,
        "response_headers: { remove: [x-backend-server, x-request-id] }",
    ];
    let lb = filtered(&[&origin], "", &filters).start();
    let response = lb.get("/");
    let seen = origin.only_request();
    assert_eq!(seen.headers.get("host"), Some("main.internal"));
    assert_eq!(seen.headers.get("x-real-ip"), Some("none"));
    assert!(!seen.headers.has("x-forwarded-for"));
    assert_eq!(seen.headers.get("x-forwarded-host"), Some("test.example"));
    assert!(!response.headers.has("x-backend-server"));
    assert!(!response.headers.has("x-request-id"));
}

#[test]
fn the_backend_of_a_retry_is_the_one_that_is_tried() {
    let bad = Origin::scripted("bad", |_| Reply::reset());
    let good = Origin::named("good");
    let filters = [
        r#"request_headers: { set: { x-backend: "${backend}" }, add: { x-tried: "${backend}" } }"#,
        r#"response_headers: { set: { x-backend: "${backend}" } }"#,
    ];
    let lb = filtered(&[&bad, &good], "health_check: off\nejection: off", &filters).start();
    for _ in 0..4 {
        assert_eq!(lb.get("/").headers.get("x-backend"), Some("good"));
    }
    assert!(bad.count() > 0, "a try went to the bad backend");
    for (origin, name) in [(&bad, "bad"), (&good, "good")] {
        for seen in origin.requests() {
            assert_eq!(seen.headers.get("x-backend"), Some(name));
            // Nothing of the try before is left.
            assert_eq!(seen.headers.all("x-tried"), [name]);
        }
    }
}

#[test]
fn our_own_answers_are_changed_too() {
    let origin = Origin::named("a");
    origin.stop();
    let filter = r#"response_headers: { set: { x-route: "${route}", cache-control: private }, add: { x-seen: "${backend}" } }"#;
    let text = format!(
        "pools: {{ app: {{ backends: [{}], health_check: {{ interval: 1h }} }} }}\n\
         routes:\n\
         \x20 - {{ name: moved, match: {{ path: /moved }}, filters: [{{ {filter} }}], redirect: {{ to: /x }} }}\n\
         \x20 - {{ name: fixed, match: {{ path: /fixed }}, filters: [{{ {filter} }}], respond: {{ status: 200, body: b }} }}\n\
         \x20 - {{ name: down, filters: [{{ {filter} }}], pool: app }}\n",
        origin.entry()
    );
    let lb = Config::new(text).start();
    for (path, status, route) in
        [("/moved", 308, "moved"), ("/fixed", 200, "fixed"), ("/x", 503, "down")]
    {
        let answer = lb.get(path);
        assert_eq!((answer.status, answer.headers.get("x-route")), (status, Some(route)));
        assert_eq!(answer.headers.get("cache-control"), Some("private"));
        assert_eq!(answer.headers.get("x-seen"), Some(""));
    }
}

#[test]
fn dollar_signs_and_environment_variables_are_told_from_request_variables() {
    let origin = Origin::named("a");
    let filter = r#"request_headers: { set: { x-price: "$5 $$6 $${path} $a", x-env: "${UNSET_VARIABLE:-none}${path}" } }"#;
    let lb = filtered(&[&origin], "", &[filter]).start();
    lb.get("/x");
    let seen = origin.only_request();
    assert_eq!(seen.headers.get("x-price"), Some("$5 $6 ${path} $a"));
    assert_eq!(seen.headers.get("x-env"), Some("none/x"));
}

#[test]
fn changes_that_are_written_out_and_empty_change_nothing() {
    let origin = Origin::named("a");
    let empty = "{ set: {}, add: {}, remove: [] }";
    let filters = [format!("request_headers: {empty}"), format!("response_headers: {empty}")];
    let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
    let lb = filtered(&[&origin], "", &filters).start();
    let response = lb.client().ask(request("GET", "/", &["X-A: 1"], b""));
    assert_eq!((response.status, response.backend()), (200, "a".to_owned()));
    assert_eq!(origin.only_request().headers.get("x-a"), Some("1"));
}

#[test]
fn what_is_wrong_with_a_change_is_said() {
    let variables = "client_ip, host, path, query, path_and_query, method, scheme, request_id, listener, route, pool or backend";
    for filter in ["request_headers", "response_headers"] {
        let head = format!("routes[0].filters[0].{filter}");
        // The column after the name and its colon.
        let at = |column: usize| format!("4:{}: {head}", 11 + filter.len() + column);
        let frames = "expected no header that frames the message; those are set for you";
        for (settings, expected) in [
            (": {}", format!("4:11: {head}: no changes; expected set, add or remove")),
            ("", format!("{}: found null; expected a map with set, add or remove", at(1))),
            (
                ": { set: { connection: x } }",
                format!("{}.set.connection: found \"connection\"; {frames}", at(11)),
            ),
            (
                ": { add: { Content-Length: 1 } }",
                format!("{}.add.Content-Length: found \"Content-Length\"; {frames}", at(11)),
            ),
            (
                ": { remove: [x, transfer-encoding] }",
                format!("{}.remove[1]: found \"transfer-encoding\"; {frames}", at(16)),
            ),
            (
                ": { set: { \"a b\": x } }",
                format!("{}.set.a b: found \"a b\"; expected the name of a header field", at(11)),
            ),
            (
                ": { set: { x-a: \"${pth}\" } }",
                format!(
                    "{}.set.x-a: unknown request variable \"pth\"; expected {variables}; did you mean \"path\"?",
                    at(16)
                ),
            ),
            (
                ": { set: { x-a: \"a\\nb\" } }",
                format!(
                    "{}.set.x-a: a value with characters that no header field may have; expected visible ASCII, spaces and tabs",
                    at(16)
                ),
            ),
            (
                ": { remoove: [x] }",
                format!(
                    "{}.remoove: unknown key \"remoove\"; expected set, add or remove; did you mean \"remove\"?",
                    at(4)
                ),
            ),
        ] {
            assert_eq!(
                filter_error(&format!("{filter}{settings}")),
                expected,
                "{filter}{settings}"
            );
        }
    }
}
