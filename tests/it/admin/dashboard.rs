//! The dashboard, in a browser where there is one.

use super::with_admin;
use crate::support::{
    Browser, Client, Config, Lb, Load, Origin, Reply, SOON, eventually, request, within,
};
use std::time::Duration;

const HTML: &str = "Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8";
const CHECK: &str = "health_check: { http: { path: /health }, interval: 100ms, timeout: 5s, rise: 1, fall: 1 }\n\
    ejection: { consecutive_failures: 3, base_time: 60s }";

fn url(lb: &Lb) -> String {
    format!("http://{}/", lb.admin())
}

fn row(backend: &str) -> String {
    format!("[data-pool=app] [data-backend=\"{backend}\"]")
}

#[test]
fn the_page_may_run_nothing_but_itself() {
    let a = Origin::named("a");
    let lb = with_admin(&[&a], "").start();
    let page = lb.ask("/");
    assert_eq!(page.status, 200);
    for (name, value) in [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    ] {
        assert_eq!(page.headers.get(name), Some(value), "{name}");
    }
    let policy = page.headers.get("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
    assert!(policy.ends_with("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
    let refused = Client::connect(&lb.admin()).ask(request("POST", "/", &[], b""));
    assert_eq!((refused.status, refused.headers.get("allow")), (405, Some("GET, HEAD")));
}

#[test]
fn without_the_token_a_browser_gets_the_page_and_nothing_of_the_instance() {
    let a = Origin::named("secret-name");
    let lb =
        Config::pool(&[a.entry()], "").and("admin: { address: \"@2@\", token: s3cret }").start();
    let host = format!("Host: {}", lb.admin());
    let ask = |path, fields: &[&str]| {
        let fields = [&[host.as_str()], fields].concat();
        Client::connect(&lb.admin()).ask(request("GET", path, &fields, b""))
    };
    let locked = ask("/", &[HTML]);
    assert_eq!(locked.status, 401);
    assert_eq!(locked.headers.get("www-authenticate"), Some("Bearer realm=\"pingora-lb\""));
    assert!(locked.headers.has("content-security-policy"));
    assert!(locked.text().contains("Admin token"));
    assert!(!locked.text().contains("secret-name") && !locked.text().contains("s3cret"));
    // The same page, whoever asks.
    let open = ask("/", &[HTML, "Authorization: Bearer s3cret"]);
    assert_eq!((open.status, open.text()), (200, locked.text()));
    // It is for `/` alone, and for browsers.
    for (path, field) in [("/", "Accept: */*"), ("/api/v1/pools", HTML), ("/nothing", HTML)] {
        let refused = ask(path, &[field]);
        assert_eq!(
            (refused.status, &refused.json()["error"]),
            (401, &"unauthorized".into()),
            "{path}"
        );
    }
}

#[test]
fn events_and_counters_tell_what_happened() {
    let a = Origin::scripted("a", |request| match request.path() {
        "/broken" => Reply::status(500),
        _ => Reply::text("ok"),
    });
    let b = Origin::named("b");
    let lb = with_admin(&[&a, &b], CHECK).start();
    let events = || {
        let told = lb.ask("/api/v1/events").json()["events"].take();
        let of = |event: &serde_json::Value| {
            assert_eq!(event["pool"], "app", "{event:#}");
            format!("{} {}", event["backend"].as_str().unwrap(), event["event"].as_str().unwrap())
        };
        told.as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(events(), Vec::<String>::new());
    let since = |name: &str| lb.backend(name)["since"].as_str().unwrap().to_owned();
    assert!(since("b").starts_with("20") && since("b").ends_with('Z'));
    b.stop();
    eventually("b is down", || lb.backend("b")["health"] == "unhealthy");
    b.start();
    eventually("b is up", || lb.backend("b")["health"] == "healthy");
    eventually("both are told", || events() == ["b up", "b down"]);
    let mut client = lb.client();
    eventually("a is ejected", || {
        client.get("/broken");
        lb.backend("a")["health"] == "ejected"
    });
    assert_eq!(lb.backend("a")["ejections"], 1);
    eventually("it is told", || events() == ["a ejected", "b up", "b down"]);
    let path = "/api/v1/pools/app/backends/b";
    let put = request("PUT", path, &[], br#"{"state":"draining","weight":4}"#);
    assert_eq!(Client::connect(&lb.admin()).ask(put).status, 200);
    let delete = request("DELETE", path, &[], b"");
    assert_eq!(Client::connect(&lb.admin()).ask(delete).status, 200);
    let added = format!("{{\"address\":\"{}\",\"name\":\"c\"}}", b.address());
    let add = request("POST", "/api/v1/pools/app/backends", &[], added.as_bytes());
    assert_eq!(Client::connect(&lb.admin()).ask(add).status, 201);
    let told = events();
    let latest = ["c added", "b removed", "b leaving", "b weight", "b draining", "a ejected"];
    assert_eq!(told[..latest.len()], latest, "{told:?}");

    let pool = lb.ask("/api/v1/pools/app").json();
    let first_byte = &pool["first_byte"];
    let buckets = first_byte["buckets"].as_array().unwrap();
    let counts: Vec<_> = buckets.iter().map(|it| it["count"].as_u64().unwrap()).collect();
    assert!(counts.is_sorted() && buckets[0]["le"] == 0.0005, "{first_byte:#}");
    let count = first_byte["count"].as_u64().unwrap();
    assert!(count >= 3 && counts.last() == Some(&count), "{first_byte:#}");
    assert_eq!(pool["retries"]["success"], 0);
}

#[test]
fn a_reload_keeps_what_happened() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let lb = with_admin(&[&a, &b], CHECK).start();
    b.stop();
    eventually("b is down", || lb.backend("b")["health"] == "unhealthy");
    let before = lb.ask("/api/v1/events").json();
    let since = lb.backend("b")["since"].clone();
    lb.edit("rise: 1", "rise: 2");
    lb.reload();
    let (now, then) = (lb.ask("/api/v1/events").json(), &before["events"][0]);
    assert_eq!((&now["events"][0]["event"], &then["event"]), (&"down".into(), &"down".into()));
    assert_eq!(lb.backend("b")["since"], since);
}

/// Opens the page, sees a backend go and come back, and drains the other.
#[test]
fn a_person_sees_a_backend_go_and_come_back_and_drains_another() {
    let Some(browser) = Browser::start("the dashboard") else { return };
    // A name that would be markup if it were put in as such.
    let (a, b) = (Origin::slow("a", Duration::from_millis(3)), Origin::named("<i>b</i>"));
    let lb =
        with_admin(&[&a, &b], &CHECK.replace("{ consecutive_failures: 3, base_time: 60s }", "off"))
            .start();
    let load = Load::start(&lb.web(), 2, "/");
    browser.open(&url(&lb));
    let (of_a, of_b) = (row("a"), row("<i>b</i>"));
    browser.wait_for("#ready", "ready");
    browser.wait_for(&of_b, "<i>b</i>");
    browser.wait_for(&of_a, "healthy");
    // Numbers come from the second look on.
    let requests =
        "return Number(document.querySelectorAll('.numbers dd')[1].innerText.replace(/[K,]/g, ''))";
    assert!(within(3 * SOON, || browser.run(requests).as_f64() > Some(0.0)), "no requests");
    browser.wait_for(".numbers", "ms");
    b.stop();
    browser.wait_for(&of_b, "unhealthy");
    browser.wait_for("#events", "down");
    assert!(
        browser.text(&of_b).contains("0%")
            || within(3 * SOON, || browser.text(&of_b).contains("0%"))
    );
    b.start();
    browser.wait_for("#events", "succeed again");
    assert!(within(3 * SOON, || !browser.text(&of_b).contains("unhealthy")), "b is not back");
    browser.click(&format!("{of_a} [data-state=draining]"));
    browser.wait_for(&of_a, "draining");
    assert_eq!(lb.backend("a")["state"], "draining");
    // Those that were on their way have ended by then.
    load.wait_for_more(50);
    let came = a.traffic().len();
    load.wait_for_more(50);
    assert_eq!(a.traffic().len(), came, "a drained backend gets requests");
    browser.click(&format!("{of_a} [data-state=disabled]"));
    browser.wait_for(&of_a, "disabled");
    keep_pictures(&browser);
    browser.click(&format!("{of_a} [data-state=active]"));
    browser.wait_for(&of_a, "active");
    assert_eq!(lb.backend("a")["state"], "active");
    let (_, _, failures) = load.stop();
    assert_eq!(failures, Vec::<String>::new());
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// What it looks like, for people; that nothing sticks out of a narrow page, for this test.
fn keep_pictures(browser: &Browser) {
    for (name, width, height) in [("desktop", 1280, 900), ("phone", 375, 1400)] {
        for scheme in ["light", "dark"] {
            browser.look_like(width, height, scheme);
            browser.keep_picture(&format!("dashboard-{name}-{scheme}"));
            let wide = browser.run("return document.documentElement.scrollWidth").as_u64();
            assert_eq!(wide, Some(width.into()), "{name}");
        }
    }
    let dark = "return getComputedStyle(document.body).backgroundColor";
    assert_eq!(browser.run(dark), "rgb(18, 22, 28)");
    browser.look_like(1280, 1000, "light");
}

#[test]
fn a_person_gives_the_token_once_for_a_tab() {
    let Some(browser) = Browser::start("the dashboard with a token") else { return };
    let a = Origin::named("a");
    let lb =
        Config::pool(&[a.entry()], CHECK).and("admin: { address: \"@2@\", token: s3cret }").start();
    browser.open(&url(&lb));
    browser.wait_for("#login", "Admin token");
    assert_eq!(browser.text("#main"), "");
    browser.type_into("#token", "wrong");
    browser.click("#login button");
    browser.wait_for("#refused", "not the token");
    browser.type_into("#token", "s3cret");
    browser.click("#login button");
    browser.wait_for(&row("a"), "healthy");
    browser.open(&url(&lb));
    browser.wait_for(&row("a"), "healthy");
    browser.click(&format!("{} [data-state=draining]", row("a")));
    browser.wait_for(&row("a"), "draining");
    assert_eq!(browser.run("return document.cookie + localStorage.length"), "0");
    // Another token after a reload: what is shown goes.
    lb.edit("s3cret", "another");
    lb.reload();
    browser.wait_for("#login", "Admin token");
    assert_eq!(browser.text("#main"), "");
}

#[test]
fn the_page_says_when_nobody_answers_and_computes_percentiles() {
    let Some(browser) = Browser::start("the dashboard without an instance") else { return };
    let a = Origin::named("a");
    let lb = with_admin(&[&a], CHECK).start();
    browser.open(&url(&lb));
    browser.wait_for(&row("a"), "healthy");
    // 100 of which 50 took up to a second, and all up to two; before, there were 10 of up to one.
    let percentile = |part: f64| {
        let buckets = |one, two| format!("[{{le: 1, count: {one}}}, {{le: 2, count: {two}}}]");
        let (now, then) = (buckets(60, 110), buckets(10, 10));
        let script = format!(
            "return percentile({part}, {{count: 110, buckets: {now}}}, {{count: 10, buckets: {then}}})"
        );
        browser.run(&script).as_f64().unwrap().round() as u64
    };
    assert_eq!([0.25, 0.5, 0.75, 1.0].map(percentile), [500, 1000, 1500, 2000]);
    drop(lb);
    browser.wait_for("#notice", "does not answer");
    browser.wait_for("#ready", "no answer");
}
