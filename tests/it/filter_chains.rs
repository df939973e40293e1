//! Built-in filters together on a route, where one meets what another has done.

use crate::support::{Origin, Reply, filtered, request};
use std::{fmt::Write as _, io::Read as _};

/// A page that is worth compressing.
fn page() -> String {
    let mut page = String::new();
    for line in 0..200 {
        writeln!(page, "<p>We are sorry, for the {line}th time.</p>").unwrap();
    }
    page
}

fn failing() -> Origin {
    Origin::scripted("a", |_| {
        let body = "{\"error\":\"of the backend\"}\n".repeat(200).into_bytes();
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Reply::Answer { status: 502, headers, body }
    })
}

fn gunzipped(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_page_in_the_place_of_a_compressed_response_is_not_taken_for_compressed() {
    let origin = failing();
    // Responses pass in reverse: compressed first, and then replaced.
    let filters = ["error_pages: { 502: sorry.html }", "compress: { algorithms: [gzip] }"];
    let lb = filtered(&[&origin], "ejection: off", &filters).file("sorry.html", page()).start();
    let mut client = lb.client();
    for _ in 0..3 {
        let response = client.ask(request("GET", "/", &["Accept-Encoding: gzip"], b""));
        assert_eq!((response.status, response.text()), (502, page()));
        assert_eq!(response.headers.get("content-encoding"), None);
        assert!(response.complete);
    }
}

#[test]
fn a_page_is_compressed_by_the_filter_in_front() {
    let origin = failing();
    let filters = ["compress: { algorithms: [gzip] }", "error_pages: { 502: sorry.html }"];
    let lb = filtered(&[&origin], "ejection: off", &filters).file("sorry.html", page()).start();
    let mut client = lb.client();
    for _ in 0..3 {
        let response = client.ask(request("GET", "/", &["Accept-Encoding: gzip"], b""));
        assert_eq!(response.headers.get("content-encoding"), Some("gzip"));
        assert_eq!((response.status, gunzipped(&response.body)), (502, page()));
    }
}

#[test]
fn a_page_may_read_the_refusals_of_later_filters() {
    let origin = Origin::named("a");
    let filters = [
        "cors: { origins: [https://app.example.com] }",
        "rate_limit: { requests: 1, per: 1h, burst: 1 }",
        "body_limit: { max: 3 }",
    ];
    let lb = filtered(&[&origin], "", &filters).start();
    let mut client = lb.client();
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let fields = ["Origin: https://app.example.com"];
        let response = client.ask(request("POST", "/", &fields, b"four"));
        let allowed = response.headers.get("access-control-allow-origin");
        assert_eq!(allowed, Some("https://app.example.com"), "{}", response.status);
        statuses.push(response.status);
    }
    assert_eq!(statuses, [413, 429]);
    // A preflight is answered by the first, and costs nothing of the limit.
    let fields = ["Origin: https://app.example.com", "Access-Control-Request-Method: GET"];
    assert_eq!(client.ask(request("OPTIONS", "/", &fields, b"")).status, 204);
    assert_eq!(origin.count(), 0);
}

#[test]
fn every_filter_at_once_lets_a_good_request_through() {
    let origin = Origin::scripted("a", |request| {
        Reply::text(request.path().repeat(1000)).with("Content-Type", "text/plain")
    });
    let filters = [
        "error_pages: { 5xx: sorry.html }",
        "compress: { algorithms: [gzip] }",
        "cors: { origins: [\"*\"] }",
        "ip_filter: { allow: [127.0.0.0/8] }",
        "rate_limit: { requests: 100 }",
        "concurrency_limit: { max: 10 }",
        "body_limit: { max: 1KiB }",
        "rewrite: { strip_prefix: /api }",
        "request_headers: { set: { x-path: \"${path}\" } }",
        "response_headers: { set: { x-from: \"${backend}\" } }",
    ];
    let lb = filtered(&[&origin], "health_check: off", &filters).file("sorry.html", page()).start();
    let mut client = lb.client();
    for _ in 0..20 {
        let fields = ["Accept-Encoding: gzip", "Origin: https://a.example"];
        let response = client.ask(request("POST", "/api/x", &fields, b"hello"));
        assert_eq!((response.status, gunzipped(&response.body)), (200, "/x".repeat(1000)));
        assert_eq!(response.headers.get("x-from"), Some("a"));
        assert!(response.headers.has("ratelimit"));
    }
    assert_eq!(origin.last_request().headers.get("x-path"), Some("/x"));
    assert_eq!(origin.accepted(), 1, "one connection served them all");
}
