//! The filter `cors`: pages of other origins.

use crate::support::{Config, Lb, Origin, Reply, Response, filter_error, request};

/// A balancer with one backend and this filter on its only route.
fn lb(origin: &Origin, settings: &str) -> Lb {
    let routes = format!("routes:\n  - filters: [{{ cors: {{ {settings} }} }}]\n    pool: app");
    Config::pool(&[origin.entry()], "health_check: off").and(&routes).access_log().start()
}

fn preflight(lb: &Lb, origin: &str, method: &str, headers: &str) -> Response {
    let origin = format!("Origin: {origin}");
    let method = format!("Access-Control-Request-Method: {method}");
    let headers = format!("Access-Control-Request-Headers: {headers}");
    lb.client().ask(request("OPTIONS", "/", &[&origin, &method, &headers], b""))
}

fn from(lb: &Lb, origin: &str) -> Response {
    lb.client().ask(request("GET", "/", &[&format!("Origin: {origin}")], b""))
}

/// The fields of the response that are for browsers, in alphabetical order.
fn cors(response: &Response) -> Vec<(&str, &str)> {
    let fields = response.headers.0.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut fields: Vec<_> =
        fields.filter(|(name, _)| name.to_lowercase().starts_with("access-control-")).collect();
    fields.sort_unstable();
    fields
}

const VARY_PREFLIGHT: &str =
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";

#[test]
fn preflights_are_answered_without_a_backend() {
    let origin = Origin::named("a");
    let lb = lb(
        &origin,
        "origins: [https://a.example], methods: [GET, PUT], headers: [Content-Type, x-a], \
         expose: [x-b], credentials: true, max_age: 10m",
    );
    let response = preflight(&lb, "https://a.example", "PUT", "content-type,x-a");
    assert_eq!((response.status, &*response.text()), (204, ""));
    let expected = [
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-headers", "content-type, x-a"),
        ("access-control-allow-methods", "GET, PUT"),
        ("access-control-allow-origin", "https://a.example"),
        ("access-control-max-age", "600"),
    ];
    assert_eq!(cors(&response), expected);
    assert_eq!(response.headers.get("vary"), Some(VARY_PREFLIGHT));
    assert!(!response.headers.has("content-length"), "{response:?}");
    assert_eq!(origin.count(), 0);
    let entry = &lb.wait_for_entries(1)[0];
    assert_eq!((&entry["status"], &entry["reason"]), (&204.into(), &"ok".into()));
}

#[test]
fn the_defaults_allow_get_for_an_hour() {
    let origin = Origin::named("a");
    let lb = lb(&origin, "origins: [https://a.example]");
    let asks = ["Origin: https://a.example", "Access-Control-Request-Method: GET"];
    let response = lb.client().ask(request("OPTIONS", "/", &asks, b""));
    assert_eq!(response.status, 204);
    let expected = [
        ("access-control-allow-methods", "GET"),
        ("access-control-allow-origin", "https://a.example"),
        ("access-control-max-age", "3600"),
    ];
    assert_eq!(cors(&response), expected);
}

#[test]
fn preflights_that_are_refused_are_denied() {
    let origin = Origin::named("a");
    let lb = lb(&origin, "origins: [https://a.example], methods: [GET, PUT], headers: [x-a]");
    let allowed = [
        ("access-control-allow-headers", "x-a"),
        ("access-control-allow-methods", "GET, PUT"),
        ("access-control-allow-origin", "https://a.example"),
    ];
    for (from, method, headers, expected) in [
        ("https://b.example", "GET", "", &[][..]),
        ("https://a.example.b.example", "GET", "", &[]),
        ("http://a.example", "GET", "", &[]),
        ("null", "GET", "", &[]),
        ("https://a.example", "DELETE", "", &allowed),
        ("https://a.example", "put", "", &allowed),
        ("https://a.example", "PUT", "x-a, x-b", &allowed),
        ("https://a.example", "PUT", "x-a, x b", &allowed),
    ] {
        let response = preflight(&lb, from, method, headers);
        assert_eq!(response.status, 403, "{from} {method} {headers}");
        assert!(response.text().contains("denied"), "{}", response.text());
        assert_eq!(cors(&response), expected, "{from} {method} {headers}");
        assert_eq!(response.headers.get("vary"), Some(VARY_PREFLIGHT));
    }
    assert_eq!(origin.count(), 0);
    for entry in lb.wait_for_entries(8) {
        assert_eq!((&entry["status"], &entry["reason"]), (&403.into(), &"denied".into()));
    }
}

#[test]
fn responses_name_the_origin_and_nothing_that_the_backend_said() {
    let origin = Origin::scripted("a", |_| {
        Reply::text("a")
            .with("access-control-allow-origin", "*")
            .with("access-control-allow-origin", "https://b.example")
            .with("Access-Control-Allow-Credentials", "true")
            .with("access-control-expose-headers", "x-secret")
            .with("access-control-allow-methods", "DELETE")
            .with("vary", "Cookie")
    });
    let lb = lb(&origin, "origins: [https://a.example], expose: [x-a, x-b]");
    let response = from(&lb, "https://a.example");
    assert_eq!(response.text(), "a");
    let expected = [
        ("access-control-allow-origin", "https://a.example"),
        ("access-control-expose-headers", "x-a, x-b"),
    ];
    assert_eq!(cors(&response), expected);
    assert_eq!(response.headers.get("vary"), Some("Cookie, Origin"));

    // The request of another origin is served: it is the browser that keeps it from the page.
    let response = from(&lb, "https://b.example");
    assert_eq!((response.status, &*response.text()), (200, "a"));
    assert_eq!(cors(&response), []);
    assert_eq!(response.headers.get("vary"), Some("Cookie, Origin"));

    let two = ["Origin: https://a.example", "Origin: https://b.example"];
    let response = lb.client().ask(request("GET", "/", &two, b""));
    assert_eq!(cors(&response), []);
}

#[test]
fn requests_without_an_origin_are_left_alone() {
    let origin = Origin::scripted("a", |_| Reply::text("a").with("x-a", "1"));
    let lb = lb(&origin, "origins: [https://a.example], credentials: true");
    let response = lb.get("/");
    assert_eq!(cors(&response), []);
    assert_eq!(response.headers.get("vary"), Some("Origin"));
    assert_eq!(response.headers.get("x-a"), Some("1"));
}

#[test]
fn credentials_are_allowed_to_origins_that_are_named() {
    let origin = Origin::named("a");
    let lb = lb(
        &origin,
        "origins: [https://a.example, \"https://*.b.example\"], headers: [\"*\"], credentials: true",
    );
    for name in ["https://a.example", "https://x.y.b.example"] {
        let expected =
            [("access-control-allow-credentials", "true"), ("access-control-allow-origin", name)];
        assert_eq!(cors(&from(&lb, name)), expected);
        // A star would not do beside credentials, so those that were asked for are named.
        let response = preflight(&lb, name, "GET", "X-Any, authorization");
        assert_eq!(response.status, 204);
        assert_eq!(
            response.headers.get("access-control-allow-headers"),
            Some("x-any, authorization")
        );
    }
    assert_eq!(cors(&from(&lb, "https://b.example")), []);
}

#[test]
fn a_star_allows_every_origin() {
    let origin = Origin::named("a");
    let lb = lb(&origin, "origins: [\"*\"], expose: [\"*\"]");
    for name in ["https://a.example", "null"] {
        let response = from(&lb, name);
        let expected =
            [("access-control-allow-origin", "*"), ("access-control-expose-headers", "*")];
        assert_eq!(cors(&response), expected);
        assert_eq!(response.headers.get("vary"), Some("Origin"));
    }
    let response = preflight(&lb, "https://a.example", "GET", "");
    assert_eq!(response.status, 204);
    assert!(!response.headers.has("access-control-allow-headers"), "{response:?}");
}

#[test]
fn options_that_are_no_preflight_go_to_the_backend() {
    let origin = Origin::named("a");
    let lb = lb(&origin, "origins: [https://a.example]");
    let mut client = lb.client();
    for (fields, allowed) in [
        (&["Origin: https://a.example"][..], Some("https://a.example")),
        (&["Access-Control-Request-Method: GET"], None),
    ] {
        let response = client.ask(request("OPTIONS", "/", fields, b""));
        assert_eq!(response.text(), "a");
        assert_eq!(response.headers.get("access-control-allow-origin"), allowed);
    }
    // A preflight is one of a method, too: other methods with its fields are none.
    let fields = ["Origin: https://a.example", "Access-Control-Request-Method: GET"];
    assert_eq!(client.ask(request("GET", "/", &fields, b"")).text(), "a");
    assert_eq!(origin.count(), 3);
}

#[test]
fn pages_can_read_our_own_answers() {
    let origin = Origin::named("a");
    let routes = "
routes:
  - match: { path: /respond }
    filters: [{ cors: { origins: [https://a.example] } }]
    respond: { status: 200, body: ok }
  - match: { path: /redirect }
    filters: [{ cors: { origins: [https://a.example] } }]
    redirect: { to: https://c.example/ }
  - filters: [{ cors: { origins: [https://a.example] } }]
    pool: app";
    let lb = Config::pool(&[origin.entry()], "health_check: off\nretry: { attempts: 0 }")
        .and(routes)
        .start();
    origin.stop();
    for (path, status) in [("/respond", 200), ("/redirect", 308), ("/", 502)] {
        let fields = ["Origin: https://a.example"];
        let response = lb.client().ask(request("GET", path, &fields, b""));
        assert_eq!(response.status, status, "{path}");
        assert_eq!(cors(&response), [("access-control-allow-origin", "https://a.example")]);
        assert_eq!(response.headers.get("vary"), Some("Origin"), "{path}");
    }
}

#[test]
fn settings_that_cannot_work_are_errors_at_their_place() {
    const ORIGIN: &str = "expected scheme://host or scheme://host:port in lower case, such as https://a.example, https://*.example.com, or * for all";
    let filter = "routes[0].filters[0].cors";
    for (settings, expected) in [
        (
            "origins: [https://a.example/]",
            format!(
                "4:29: {filter}.origins[0]: found \"https://a.example/\"; {ORIGIN}; did you mean \"https://a.example\"?"
            ),
        ),
        (
            "origins: [https://a.example, a.example]",
            format!(
                "4:48: {filter}.origins[1]: found \"a.example\"; {ORIGIN}; did you mean \"https://a.example\"?"
            ),
        ),
        (
            "origins: [https://a.example/app]",
            format!(
                "4:29: {filter}.origins[0]: found \"https://a.example/app\"; {ORIGIN}; did you mean \"https://a.example\"?"
            ),
        ),
        ("origins: [\"null\"]", format!("4:29: {filter}.origins[0]: found \"null\"; {ORIGIN}")),
        ("origins: []", format!("4:19: {filter}.origins: no origins; expected at least one")),
        (
            "origins: [\"*\"], credentials: true",
            format!(
                "4:48: {filter}.credentials: credentials for every origin; expected the origins that may send cookies by name, or credentials: false"
            ),
        ),
        (
            "origins: [https://a.example], expose: [\"*\"], credentials: true",
            format!(
                "4:77: {filter}.credentials: credentials beside expose: [\"*\"]; expected the fields to expose by name, or credentials: false"
            ),
        ),
        (
            "origins: [https://a.example, \"*\"]",
            format!(
                "4:48: {filter}.origins[1]: found \"*\" beside others; expected * alone, or no *"
            ),
        ),
        (
            "origins: [\"*\"], headers: [x-a, \"*\"]",
            format!(
                "4:50: {filter}.headers[1]: found \"*\" beside others; expected * alone, or no *"
            ),
        ),
        (
            "origins: [\"*\"], methods: [get]",
            format!(
                "4:45: {filter}.methods[0]: found \"get\"; expected GET, HEAD, POST, PUT, DELETE, PATCH or OPTIONS; did you mean \"GET\"?"
            ),
        ),
        (
            "origins: [\"*\"], methods: []",
            format!("4:35: {filter}.methods: no methods; expected at least one"),
        ),
        (
            "origins: [\"*\"], max_age: 1500ms",
            format!("4:44: {filter}.max_age: found 1500ms; expected whole seconds"),
        ),
        (
            "origin: [\"*\"]",
            format!(
                "4:19: {filter}.origin: unknown key \"origin\"; expected origins, methods, headers, expose, credentials or max_age; did you mean \"origins\"?"
            ),
        ),
    ] {
        assert_eq!(filter_error(&format!("cors: {{ {settings} }}")), expected, "{settings}");
    }
    assert_eq!(
        filter_error("cors: {}"),
        format!("4:11: {filter}: missing key \"origins\"; expected a list")
    );
}
