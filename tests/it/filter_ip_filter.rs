//! `ip_filter`: who may come in.

use crate::support::{Config, Lb, Origin, Response, filter_error, filtered, request};
use std::fmt::Write as _;

/// A balancer that takes the word of the test for who the client is.
fn filtering(origin: &Origin, settings: &str) -> Lb {
    let filter = format!("ip_filter: {settings}");
    let trusted = "trusted_proxies: [127.0.0.0/8]";
    filtered(&[origin], "", &[&filter]).and(trusted).access_log().start()
}

fn get_as(lb: &Lb, client: &str) -> Response {
    let forwarded = format!("X-Forwarded-For: {client}");
    lb.client().ask(request("GET", "/", &[&forwarded], b""))
}

#[track_caller]
fn assert_admitted(settings: &str, cases: &[(&str, bool)]) {
    let origin = Origin::named("a");
    let lb = filtering(&origin, settings);
    for (client, admitted) in cases {
        let status = get_as(&lb, client).status;
        assert_eq!(status, if *admitted { 200 } else { 403 }, "{client} with {settings}");
    }
    let admitted = cases.iter().filter(|(_, admitted)| *admitted).count();
    assert_eq!(origin.count(), admitted, "requests that reached the backend");
}

#[test]
fn denied_networks_are_refused_and_the_rest_is_not() {
    assert_admitted(
        "{ deny: [10.0.0.0/8, \"2001:db8::/32\", 192.0.2.7] }",
        &[
            ("10.1.2.3", false),
            ("11.0.0.1", true),
            ("192.0.2.7", false),
            ("192.0.2.8", true),
            ("2001:db8:1::1", false),
            ("2001:db9::1", true),
            ("::ffff:10.1.2.3", false),
        ],
    );
}

#[test]
fn with_allowed_networks_all_others_are_refused_and_deny_comes_first() {
    assert_admitted(
        "{ allow: [10.0.0.0/8, \"2001:db8::/32\"], deny: [10.6.0.0/16] }",
        &[
            ("10.1.2.3", true),
            ("10.6.2.3", false),
            ("11.0.0.1", false),
            ("2001:db8::1", true),
            ("::1", false),
            ("::ffff:10.1.2.3", true),
            ("::ffff:10.6.2.3", false),
        ],
    );
}

#[test]
fn the_refusal_is_denied_and_keeps_the_connection() {
    let origin = Origin::named("a");
    let lb = filtering(&origin, "{ deny: [10.0.0.0/8] }");
    let mut client = lb.client();
    let refused = client.ask(request("GET", "/", &["X-Forwarded-For: 10.0.0.1"], b""));
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("denied"), "{}", refused.text());
    assert_eq!(client.get("/").status, 200);
    let entry = &lb.wait_for_entries(2)[0];
    assert_eq!((&entry["reason"], &entry["status"]), (&"denied".into(), &403.into()));
    assert_eq!((&entry["tries"], &entry["client_ip"]), (&0.into(), &"10.0.0.1".into()));
}

#[test]
fn an_untrusted_client_is_its_connection_whatever_it_says() {
    let origin = Origin::named("a");
    let lb = filtered(&[&origin], "", &["ip_filter: { allow: [127.0.0.1] }"]).start();
    assert_eq!(get_as(&lb, "10.0.0.1").status, 200);
    let lb = filtered(&[&origin], "", &["ip_filter: { deny: [127.0.0.1] }"]).start();
    assert_eq!(get_as(&lb, "10.0.0.1").status, 403);
}

#[test]
fn clients_on_a_unix_socket_are_in_no_network() {
    for (settings, status) in
        [("allow: [0.0.0.0/0, \"::/0\"]", 403), ("deny: [0.0.0.0/0, \"::/0\"]", 200)]
    {
        let origin = Origin::named("a");
        let filter = format!("ip_filter: {{ {settings} }}");
        let listeners = "listeners: { web: { address: \"unix:@DIR@/lb.sock\" } }";
        let lb = filtered(&[&origin], "", &[&filter]).and(listeners).without_probe().start();
        let socket = crate::support::Address::Unix(lb.directory().join("lb.sock"));
        crate::support::eventually("the socket serves", || crate::support::lb::answers(&socket));
        assert_eq!(crate::support::get(&socket, "/").status, status, "{settings}");
    }
}

#[test]
fn ten_thousand_networks_are_read_and_looked_up() {
    let origin = Origin::named("a");
    let mut networks = String::new();
    for number in 0..10_000 {
        // Every second /24, so that none touches another.
        let (high, low) = (number / 128, number % 128 * 2);
        write!(networks, "{}.{}.{low}.0/24, ", 20 + high / 100, high % 100).unwrap();
    }
    let lb = filtering(&origin, &format!("{{ deny: [{networks}] }}"));
    for (client, status) in [
        ("20.0.0.1", 403),
        ("20.0.1.1", 200),
        ("20.50.100.255", 403),
        ("20.50.101.0", 200),
        ("20.78.30.7", 403),
        ("20.78.32.7", 200),
    ] {
        assert_eq!(get_as(&lb, client).status, status, "{client}");
    }
}

#[test]
fn what_is_wrong_with_an_ip_filter_is_said() {
    let head = "routes[0].filters[0].ip_filter";
    for (settings, expected) in [
        ("ip_filter: {}", "4:11: {}: no networks; expected some in allow or deny"),
        (
            "ip_filter: { allow: [], deny: [] }",
            "4:11: {}: no networks; expected some in allow or deny",
        ),
        (
            "ip_filter: { deny: [10.0.0.0/8, 10.0.0/8] }",
            "4:43: {}.deny[1]: found \"10.0.0/8\"; expected a network such as 10.0.0.0/8 or 2001:db8::/32, or an address",
        ),
        (
            "ip_filter: { deny: [10.0.0.0/33] }",
            "4:31: {}.deny[0]: found \"10.0.0.0/33\"; expected a network such as 10.0.0.0/8 or 2001:db8::/32, or an address",
        ),
        (
            "ip_filter: { allow: [10.0.0.1/8] }",
            "4:32: {}.allow[0]: found \"10.0.0.1/8\"; expected no bits after the prefix; did you mean \"10.0.0.0/8\"?",
        ),
        (
            "ip_filter: { deny: 10.0.0.0/8 }",
            "4:30: {}.deny: found \"10.0.0.0/8\"; expected a list, [\"10.0.0.0/8\"]",
        ),
        (
            "ip_filter: { denny: [10.0.0.0/8] }",
            "4:24: {}.denny: unknown key \"denny\"; expected allow or deny; did you mean \"deny\"?",
        ),
        (
            "ip_filter: { allow: [11.0.0.0/8, 10.1.0.0/16], deny: [10.0.0.0/9, 10.128.0.0/9] }",
            "4:44: {}.allow[1]: network 10.1.0.0/16, all of which is in deny; expected a network that deny leaves something of",
        ),
    ] {
        assert_eq!(filter_error(settings), expected.replace("{}", head), "{settings}");
    }
    // Deny takes only a part of it.
    let fine = "routes: [{ pool: app, filters: [{ ip_filter: { allow: [10.0.0.0/8], deny: [10.1.0.0/16] } }] }]\n\
                pools: { app: { backends: [127.0.0.1:1], health_check: off } }\n";
    Config::new(fine).start();
}

#[test]
fn no_spelling_of_the_path_leads_around_it() {
    let origin = Origin::named("a");
    let routes = "routes:\n  - match: { path_prefix: /internal/caf\u{e9} }\n    filters: [{ ip_filter: { deny: [127.0.0.0/8] } }]\n    pool: app\n  - pool: app";
    let lb = Config::pool(&[origin.entry()], "health_check: off").and(routes).start();
    for path in [
        "/internal/caf%C3%A9",
        "/internal/caf%c3%a9/x",
        "/%69nternal/%63af%C3%A9",
        "//internal/caf%C3%A9",
        "/internal///caf%C3%A9?x",
        "/x/../internal/./caf%C3%A9",
        "/%69%6E%74ernal/x/%2E%2e/caf%C3%a9",
    ] {
        assert_eq!(lb.get(path).status, 403, "{path}");
    }
    assert_eq!(origin.count(), 0);
    assert_eq!(lb.get("/internal").status, 200);
}
