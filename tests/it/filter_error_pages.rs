//! `error_pages`: pages of your own for errors.

use crate::support::{
    Config, Gate, Origin, Reply, eventually, filter_error_beside, filtered, request,
};
use std::time::Duration;

const PAGE: &str = "<h1>Sorry</h1>\n";
const HTML: Option<&str> = Some("text/html; charset=utf-8");

/// A page for 502 and 503 in front of these origins.
fn with_page(origins: &[&Origin], keys: &str) -> Config {
    let pages = "error_pages: { 502: pages/sorry.html, 503: pages/sorry.html, 404: pages/404.txt }";
    filtered(origins, keys, &[pages])
        .file("pages/sorry.html", PAGE)
        .file("pages/404.txt", "nothing here\n")
        .access_log()
}

#[test]
fn our_own_errors_have_the_page_and_keep_the_rest() {
    let origin = Origin::named("a");
    origin.stop();
    let lb = with_page(&[&origin], "health_check: off").start();
    let mut client = lb.client();
    let refused = client.ask(request("GET", "/", &["Accept: application/json"], b""));
    assert_eq!((refused.status, refused.text().as_str()), (502, PAGE));
    assert_eq!(refused.headers.get("content-type"), HTML);
    assert_eq!(refused.headers.get("content-length"), Some("15"));
    assert_eq!(refused.headers.get("cache-control"), Some("no-store"));
    assert!(refused.headers.has("x-request-id"));
    // The connection goes on.
    assert_eq!(client.get("/").text(), PAGE);
    let entry = &lb.wait_for_entries(2)[0];
    assert_eq!((&entry["reason"], &entry["status"]), (&"connect_failed".into(), &502.into()));
    assert_eq!(entry["bytes_out"], 15);
}

#[test]
fn a_limit_still_says_when_to_come_again() {
    let gate = Gate::default();
    let origin = Origin::scripted("a", {
        let gate = gate.clone();
        move |_| Reply::text("a").behind(&gate)
    });
    let lb =
        with_page(&[&origin], "health_check: off\nlimits: { connections_per_backend: 1 }").start();
    let mut first = lb.client();
    first.send(request("GET", "/", &[], b""));
    eventually("the backend is busy", || origin.working() == 1);
    let refused = lb.get("/");
    assert_eq!((refused.status, refused.text().as_str()), (503, PAGE));
    assert_eq!(refused.headers.get("retry-after"), Some("1"));
    gate.open();
    assert_eq!(first.response().text(), "a");
    let reasons: Vec<_> = lb.wait_for_entries(2).iter().map(|e| e["reason"].clone()).collect();
    assert!(reasons.contains(&"overloaded".into()), "{reasons:?}");
}

#[test]
fn a_backends_errors_have_the_page_and_keep_what_is_not_about_the_body() {
    let origin = Origin::scripted("a", |_| {
        Reply::Answer {
            status: 503,
            headers: Vec::new(),
            body: b"an old body, compressed".to_vec(),
        }
        .with("Content-Type", "application/json")
        .with("Content-Encoding", "gzip")
        .with("Content-Language", "en")
        .with("Content-Security-Policy", "default-src 'none'")
        .with("ETag", "\"1\"")
        .with("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        .with("Expires", "Mon, 01 Jan 2024 00:00:00 GMT")
        .with("Accept-Ranges", "bytes")
        .with("Cache-Control", "max-age=60")
        .with("Set-Cookie", "a=1")
        .with("Set-Cookie", "b=2")
        .with("Retry-After", "7")
    });
    let lb = with_page(&[&origin], "health_check: off\nejection: off").start();
    let replaced = lb.get("/");
    assert_eq!((replaced.status, replaced.text().as_str()), (503, PAGE));
    assert!(replaced.complete);
    assert_eq!(replaced.headers.get("content-type"), HTML);
    assert_eq!(replaced.headers.get("content-length"), Some("15"));
    assert_eq!(replaced.headers.get("cache-control"), Some("no-store"));
    assert_eq!(replaced.headers.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(replaced.headers.get("retry-after"), Some("7"));
    assert_eq!(replaced.headers.get("x-backend-server"), Some("a"));
    for gone in [
        "content-encoding",
        "content-language",
        "content-security-policy",
        "etag",
        "last-modified",
        "expires",
        "accept-ranges",
    ] {
        assert!(!replaced.headers.has(gone), "{gone}");
    }
    let entry = &lb.wait_for_entries(1)[0];
    assert_eq!((&entry["reason"], &entry["backend"]), (&"ok".into(), &"a".into()));
    assert_eq!((&entry["status"], &entry["bytes_out"]), (&503.into(), &15.into()));
}

#[test]
fn both_connections_outlive_a_replaced_response() {
    // With a body, without one, and in chunks.
    for reply in [
        Reply::Answer { status: 404, headers: Vec::new(), body: vec![b'x'; 4000] },
        Reply::status(404),
        Reply::raw("HTTP/1.1 404 No\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    ] {
        let origin = Origin::scripted("a", move |_| reply.clone());
        let lb = with_page(&[&origin], "health_check: off").start();
        let mut client = lb.client();
        for _ in 0..5 {
            let replaced = client.get("/");
            assert_eq!((replaced.status, replaced.text().as_str()), (404, "nothing here\n"));
        }
        assert_eq!(origin.count(), 5);
        // A body that is not there yet when the page goes out may cost a connection.
        assert!(origin.connections() <= 2, "{} connections", origin.connections());
    }
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let head = b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let origin = Origin::scripted("a", move |_| {
        let never = Duration::from_secs(60);
        Reply::Pieces(vec![(Duration::ZERO, head.clone()), (never, b"0\r\n\r\n".to_vec())])
    });
    let keys = "health_check: off\nejection: off\ntimeouts: { read: 300ms }";
    let lb = with_page(&[&origin], keys).start();
    let mut client = lb.client();
    // The page is there at once; the connection is, once the backend's time is over.
    for _ in 0..2 {
        let replaced = client.get("/");
        assert_eq!((replaced.status, replaced.text().as_str()), (503, PAGE));
    }
    assert!(lb.wait_for_entries(2).iter().all(|entry| entry["reason"] == "ok"));
}

#[test]
fn a_body_that_breaks_off_is_nothing_to_the_client() {
    let origin = Origin::scripted("a", |_| {
        Reply::RawThenReset(b"HTTP/1.1 404 No\r\ncontent-length: 100\r\n\r\nabc".to_vec())
    });
    let lb = with_page(&[&origin], "health_check: off\nejection: off").start();
    let mut client = lb.client();
    for _ in 0..3 {
        let replaced = client.get("/");
        assert_eq!((replaced.status, replaced.text().as_str()), (404, "nothing here\n"));
    }
    assert!(lb.wait_for_entries(3).iter().all(|entry| entry["reason"] == "ok"));
}

#[test]
fn a_head_request_gets_the_head() {
    let origin = Origin::scripted("a", |_| Reply::Answer {
        status: 404,
        headers: Vec::new(),
        body: vec![b'x'; 40],
    });
    let lb = with_page(&[&origin], "health_check: off").start();
    let mut client = lb.client();
    for _ in 0..2 {
        client.send(request("HEAD", "/", &[], b""));
        let head = client.response_to_head();
        assert_eq!((head.status, head.headers.get("content-length")), (404, Some("13")));
        assert_eq!(head.headers.get("content-type"), Some("text/plain; charset=utf-8"));
    }
    assert_eq!(client.get("/").text(), "nothing here\n");
    origin.stop();
    client.send(request("HEAD", "/", &[], b""));
    let head = client.response_to_head();
    assert_eq!((head.status, head.headers.get("content-length")), (502, Some("15")));
}

#[test]
fn a_request_whose_body_is_still_coming_gets_the_page() {
    let origin = Origin::scripted("a", |_| {
        Reply::Early(b"HTTP/1.1 404 No\r\ncontent-length: 3\r\n\r\nabc".to_vec())
    });
    let lb = with_page(&[&origin], "health_check: off").start();
    let mut client = lb.client();
    client.send(request("POST", "/", &["Content-Length: 10"], b""));
    client.send("12345");
    assert_eq!(client.response().text(), "nothing here\n");
}

#[test]
fn other_statuses_and_old_clients_are_served() {
    let origin = Origin::scripted("a", |request| match request.path() {
        "/404" => Reply::status(404),
        "/500" => Reply::Answer { status: 500, headers: Vec::new(), body: b"own".to_vec() },
        _ => Reply::text("fine"),
    });
    let lb = with_page(&[&origin], "health_check: off\nejection: off").start();
    assert_eq!(lb.get("/").text(), "fine");
    assert_eq!((lb.get("/500").status, lb.get("/500").text()), (500, "own".to_owned()));
    let mut old = lb.client();
    let replaced = old.ask("GET /404 HTTP/1.0\r\nHost: e.com\r\n\r\n");
    assert_eq!((replaced.status, replaced.text().as_str()), (404, "nothing here\n"));
    assert!(old.is_closed());
}

#[test]
fn a_declined_upgrade_has_the_page_and_closes() {
    let origin = Origin::scripted("a", |_| Reply::status(404));
    let lb = with_page(&[&origin], "health_check: off").start();
    let mut client = lb.client();
    let upgrade = ["Connection: upgrade", "Upgrade: websocket"];
    assert_eq!(client.ask(request("GET", "/", &upgrade, b"")).text(), "nothing here\n");
    assert!(client.is_closed());
}

#[test]
fn a_page_for_one_status_comes_before_one_for_all() {
    let status = |path: &str| path[1..].parse().unwrap();
    let origin = Origin::scripted("a", move |request| Reply::status(status(request.path())));
    let pages = "error_pages: { 4xx: 4xx.json, 404: 404.HTM, 5xx: 5xx.xml }";
    let lb = filtered(&[&origin], "health_check: off\nejection: off", &[pages])
        .file("4xx.json", "{}")
        .file("404.HTM", "<p>")
        .file("5xx.xml", "<e/>")
        .start();
    for (path, body, kind) in [
        ("/404", "<p>", "text/html; charset=utf-8"),
        ("/400", "{}", "application/json"),
        ("/499", "{}", "application/json"),
        ("/500", "<e/>", "application/xml"),
        ("/599", "<e/>", "application/xml"),
    ] {
        let replaced = lb.get(path);
        assert_eq!(replaced.text(), body, "{path}");
        assert_eq!(replaced.headers.get("content-type"), Some(kind), "{path}");
        assert_eq!(format!("/{}", replaced.status), path);
    }
    assert_eq!(lb.get("/301").text(), "");
}

#[test]
fn answers_of_filters_and_routes_have_the_page_where_the_request_came_to_it() {
    let route = |name: &str, first: &str, second: &str| {
        format!(
            "  - {{ match: {{ path: /{name} }}, filters: [{{ {first} }}, {{ {second} }}], \
             respond: {{ status: 503, body: own }} }}\n"
        )
    };
    let (page, deny) =
        ("error_pages: { 5xx: e.txt, 403: e.txt }", "ip_filter: { deny: [127.0.0.1] }");
    let after = "response_headers: { set: { content-type: text/x-other } }";
    let text = format!(
        "pools: {{ app: {{ backends: [127.0.0.1:1], health_check: off }} }}\nroutes:\n{}{}{}",
        route("page-first", page, deny),
        route("deny-first", deny, page),
        route("fixed", after, page),
    );
    let lb = Config::new(text).file("e.txt", "page").access_log().start();
    assert_eq!((lb.get("/page-first").status, lb.get("/page-first").text()), (403, "page".into()));
    assert!(lb.get("/deny-first").text().contains("denied"));
    let fixed = lb.get("/fixed");
    assert_eq!((fixed.status, fixed.text().as_str()), (503, "page"));
    // A filter that comes earlier in the list has the last word.
    assert_eq!(fixed.headers.get("content-type"), Some("text/x-other"));
    let reasons: Vec<_> = lb.wait_for_entries(4).iter().map(|e| e["reason"].clone()).collect();
    assert_eq!(reasons.iter().filter(|reason| **reason == "denied").count(), 3, "{reasons:?}");
}

#[test]
fn a_page_may_be_long_and_may_be_empty() {
    let origin = Origin::scripted("a", |request| match request.path() {
        "/404" => Reply::status(404),
        _ => Reply::status(500),
    });
    let pages = "error_pages: { 404: long.txt, 500: empty.txt }";
    let lb = filtered(&[&origin], "health_check: off\nejection: off", &[pages])
        .file("long.txt", vec![b'x'; 1024 * 1024])
        .file("empty.txt", "")
        .start();
    assert_eq!(lb.get("/404").body_length, 1024 * 1024);
    let empty = lb.get("/500");
    assert_eq!((empty.status, empty.headers.get("content-length")), (500, Some("0")));
}

#[test]
fn what_is_wrong_with_a_page_is_said() {
    let beside = [("ok.html", b"ok".to_vec()), ("long.html", vec![b'x'; 1024 * 1024 + 1])];
    let head = "routes[0].filters[0].error_pages";
    for (settings, expected) in [
        ("error_pages", "4:23: {}: found null; expected a map"),
        ("error_pages: {}", "4:11: {}: no pages; expected a status with the file of its page"),
        (
            "error_pages: { 502: none.html }",
            "4:31: {}.502: cannot read none.html: No such file or directory (os error 2); expected a file with the page",
        ),
        (
            "error_pages: { 404: ok.html, 5xx: folder.html }",
            "4:45: {}.5xx: cannot read folder.html: not a file; expected a file with the page",
        ),
        (
            "error_pages: { 502: long.html }",
            "4:31: {}.502: long.html is too long; expected at most 1 MiB",
        ),
        (
            "error_pages: { 502: ok.png }",
            "4:31: {}.502: found ok.png; expected a file that ends in .html, .htm, .json, .txt or .xml",
        ),
        (
            "error_pages: { 302: ok.html }",
            "4:26: {}.302: found \"302\"; expected a status from 400 to 599, 4xx or 5xx",
        ),
        (
            "error_pages: { 600: ok.html }",
            "4:26: {}.600: found \"600\"; expected a status from 400 to 599, 4xx or 5xx",
        ),
        (
            "error_pages: { 3xx: ok.html }",
            "4:26: {}.3xx: found \"3xx\"; expected a status from 400 to 599, 4xx or 5xx",
        ),
        ("error_pages: { 502: \"\" }", "4:31: {}.502: found \"\"; expected the path of a file"),
    ] {
        let mut files = beside.to_vec();
        files.push(("folder.html/x", Vec::new()));
        assert_eq!(
            filter_error_beside(settings, &files),
            expected.replace("{}", head),
            "{settings}"
        );
    }
}
