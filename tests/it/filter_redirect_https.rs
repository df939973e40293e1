//! `redirect_https`: no clear text.

use crate::support::{Config, Lb, Origin, filter_error, filtered, request};

const TRUSTED: &str = "trusted_proxies: [127.0.0.0/8]";

fn redirecting(origin: &Origin, settings: &str) -> Config {
    filtered(&[origin], "", &[&format!("redirect_https{settings}")])
}

/// The status and the `Location` of the answer to a GET.
fn ask(lb: &Lb, target: &str, fields: &[&str]) -> (u16, Option<String>) {
    let response = lb.client().ask(request("GET", target, fields, b""));
    (response.status, response.headers.get("location").map(str::to_owned))
}

fn to(status: u16, location: &str) -> (u16, Option<String>) {
    (status, Some(location.to_owned()))
}

#[test]
fn clear_text_is_sent_to_the_same_address_with_https() {
    let origin = Origin::named("a");
    let lb = redirecting(&origin, ": {}").access_log().start();
    for (target, host, location) in [
        ("/", "example.com", "https://example.com/"),
        ("/a/b?c=d&e", "example.com:8080", "https://example.com/a/b?c=d&e"),
        ("/a/../b", "Example.COM.", "https://example.com/b"),
        ("/", "[::1]:8080", "https://[::1]/"),
        ("//x", "example.com", "https://example.com//x"),
    ] {
        let host = format!("Host: {host}");
        assert_eq!(ask(&lb, target, &[&host]), to(308, location));
    }
    let options = lb.client().ask(request("OPTIONS", "*", &[], b""));
    assert_eq!(options.headers.get("location"), Some("https://test.example/"));
    assert_eq!(origin.count(), 0);
    let entry = &lb.wait_for_entries(1)[0];
    assert_eq!((&entry["status"], &entry["reason"]), (&308.into(), &"ok".into()));
}

#[test]
fn the_status_and_the_port_can_be_chosen() {
    let origin = Origin::named("a");
    let lb = redirecting(&origin, ": { status: 302, port: 8443 }").start();
    assert_eq!(ask(&lb, "/x", &["Host: e.com:80"]), to(302, "https://e.com:8443/x"));
    assert_eq!(ask(&lb, "/x", &["Host: [::1]"]), to(302, "https://[::1]:8443/x"));
    // It needs no settings at all.
    let lb = redirecting(&origin, ": { port: 443 }").start();
    assert_eq!(ask(&lb, "/x", &["Host: e.com"]), to(308, "https://e.com/x"));
}

#[test]
fn a_trusted_proxy_says_what_the_client_uses() {
    let origin = Origin::named("a");
    let lb = redirecting(&origin, ": {}").and(TRUSTED).start();
    for https in ["https", "HTTPS", "https, http"] {
        let field = format!("X-Forwarded-Proto: {https}");
        assert_eq!(ask(&lb, "/", &[&field]), (200, None), "{https}");
    }
    assert_eq!(origin.requests()[0].headers.get("x-forwarded-proto"), Some("https"));
    for other in ["http", "ftp", "http, https"] {
        let field = format!("X-Forwarded-Proto: {other}");
        assert_eq!(ask(&lb, "/", &[&field]).0, 308, "{other}");
    }
    assert_eq!(ask(&lb, "/", &[]).0, 308);
}

#[test]
fn nobody_else_does() {
    let origin = Origin::named("a");
    let lb = redirecting(&origin, ": {}").start();
    assert_eq!(ask(&lb, "/", &["X-Forwarded-Proto: https"]).0, 308);
    assert_eq!(origin.count(), 0);
}

#[test]
fn the_variable_scheme_is_what_the_client_uses() {
    let origin = Origin::named("a");
    let filter = r#"response_headers: { set: { x-scheme: "${scheme}" } }"#;
    let lb = filtered(&[&origin], "", &[filter]).and(TRUSTED).start();
    for (fields, scheme) in
        [(&["X-Forwarded-Proto: https"] as &[&str], "https"), (&[] as &[&str], "http")]
    {
        let response = lb.client().ask(request("GET", "/", fields, b""));
        assert_eq!(response.headers.get("x-scheme"), Some(scheme));
        assert_eq!(origin.last_request().headers.get("x-forwarded-proto"), Some(scheme));
    }
}

#[test]
fn without_a_host_there_is_nowhere_to_send_the_client() {
    let origin = Origin::named("a");
    let lb = redirecting(&origin, ": {}").access_log().start();
    let response = lb.client().ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(response.status, 400);
    assert!(response.text().contains("bad_request"), "{}", response.text());
    assert_eq!(lb.client().ask("GET / HTTP/1.1\r\nHost:\r\n\r\n").status, 400);
    let named = lb.client().ask("GET /x HTTP/1.0\r\nHost: e.com\r\n\r\n");
    assert_eq!(named.headers.get("location"), Some("https://e.com/x"));
    assert_eq!(origin.count(), 0);
}

#[test]
fn the_name_alone_is_enough() {
    let text = "routes: [{ pool: app, filters: [redirect_https] }]\n\
                pools: { app: { backends: [127.0.0.1:1], health_check: off } }\n";
    let lb = Config::new(text).start();
    assert_eq!(ask(&lb, "/x", &["Host: e.com"]), to(308, "https://e.com/x"));
}

#[test]
fn what_is_wrong_with_a_redirect_is_said() {
    let head = "routes[0].filters[0].redirect_https";
    for (settings, expected) in [
        (
            "redirect_https: { status: 200 }",
            "4:37: {}.status: found \"200\"; expected 301, 302, 303, 307 or 308",
        ),
        (
            "redirect_https: { status: moved }",
            "4:37: {}.status: found \"moved\"; expected a status from 200 to 599",
        ),
        (
            "redirect_https: { port: 0 }",
            "4:35: {}.port: found \"0\"; expected a port from 1 to 65535",
        ),
        (
            "redirect_https: { port: 65536 }",
            "4:35: {}.port: found \"65536\"; expected a port from 1 to 65535",
        ),
        (
            "redirect_https: { code: 301 }",
            "4:29: {}.code: unknown key \"code\"; expected status or port",
        ),
    ] {
        assert_eq!(filter_error(settings), expected.replace("{}", head), "{settings}");
    }
}
