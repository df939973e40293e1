//! `rate_limit`: how many requests in a time.

use crate::support::{Client, Config, Lb, Origin, Program, Reply, Response, eventually, request};
use std::{ffi::OsStr, thread};

/// A route to one backend with these filters.
fn limited(origin: &Origin, filters: &str) -> Lb {
    with_routes(origin, &format!("  - {{ name: api, filters: [{filters}], pool: app }}"))
}

fn with_routes(origin: &Origin, routes: &str) -> Lb {
    Config::pool(&[origin.entry()], "health_check: off")
        .and(&format!("routes:\n{routes}"))
        .and("trusted_proxies: [127.0.0.1]")
        .access_log()
        .start()
}

fn ask(client: &mut Client, fields: &[&str]) -> Response {
    client.ask(request("GET", "/", fields, b""))
}

/// The statuses of as many requests with these fields, one after another.
fn statuses(lb: &Lb, fields: &[&str], count: usize) -> Vec<u16> {
    let mut client = lb.client();
    (0..count).map(|_| ask(&mut client, fields).status).collect()
}

/// What `-t` says of a filter on line 4 of the file.
fn check(filter: &str) -> String {
    let text = format!(
        "listeners: {{ web: {{ address: 127.0.0.1:1 }} }}\nroutes:\n  - filters:\n      - {filter}\n    \
         pool: app\npools: {{ app: {{ backends: [127.0.0.1:1] }} }}\n"
    );
    let files = Config::new(text).write();
    let (code, _, stderr) =
        Program::run([OsStr::new("-t"), OsStr::new("-c"), files.path().as_os_str()]);
    assert_eq!(code, 1, "{filter}: {stderr}");
    let path = files.path().display().to_string();
    stderr.lines().map(|line| line.trim_start_matches(&path)).collect::<Vec<_>>().join("\n")
}

#[test]
fn each_key_gets_what_is_in_its_bucket_and_no_more() {
    let origin = Origin::named("a");
    // What comes back within the test is far from a whole request.
    let lb = limited(
        &origin,
        "rate_limit: { requests: 10, per: 10h, burst: 20, key: { header: X-User } }",
    );
    let admitted: Vec<usize> = thread::scope(|scope| {
        let user = |user: usize| {
            let lb = &lb;
            move || {
                let field = format!("x-user: {user}");
                let statuses = statuses(lb, &[&field], 40);
                assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
                statuses.iter().filter(|status| **status == 200).count()
            }
        };
        let users: Vec<_> = (0..50).map(|number| scope.spawn(user(number))).collect();
        users.into_iter().map(|user| user.join().unwrap()).collect()
    });
    assert_eq!(admitted, [20; 50]);
    assert_eq!(origin.count(), 1000);
}

#[test]
fn connections_that_share_a_key_share_its_bucket() {
    let origin = Origin::named("a");
    let lb = limited(&origin, "rate_limit: { requests: 50, per: 10h }");
    let admitted: usize = thread::scope(|scope| {
        let run = || statuses(&lb, &[], 20).iter().filter(|status| **status == 200).count();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!((admitted, origin.count()), (50, 50));
}

#[test]
fn a_refusal_says_when_to_come_again_and_leaves_the_connection() {
    let origin = Origin::named("a");
    let lb = limited(&origin, "rate_limit: { requests: 1, per: 1h, key: route }");
    let mut client = lb.client();
    assert_eq!(client.get("/").status, 200);
    let body = vec![b'x'; 10_000];
    for _ in 0..3 {
        let refused = client.ask(request("POST", "/", &["Accept: application/json"], &body));
        assert_eq!(refused.status, 429);
        assert_eq!(refused.json()["error"], "rate_limited");
        assert_eq!(refused.headers.get("retry-after"), Some("3600"));
        assert_eq!(refused.headers.get("cache-control"), Some("no-store"));
    }
    assert_eq!(origin.count(), 1);
    let entries = lb.wait_for_entries(4);
    assert_eq!((&entries[0]["status"], &entries[0]["reason"]), (&200.into(), &"ok".into()));
    for entry in &entries[1..] {
        assert_eq!((&entry["status"], &entry["reason"]), (&429.into(), &"rate_limited".into()));
        assert_eq!(entry["tries"], 0);
    }
}

#[test]
fn requests_come_back() {
    let origin = Origin::named("a");
    let lb = limited(&origin, "rate_limit: { requests: 5, burst: 1 }");
    let mut client = lb.client();
    let mut refused = 0;
    let mut admitted = 0;
    eventually("a refusal, and after it a request that is admitted", || {
        match client.get("/").status {
            429 => refused += 1,
            status => {
                assert_eq!(status, 200);
                admitted += usize::from(refused > 0);
            }
        }
        admitted >= 2
    });
    assert!(refused > 0);
}

#[test]
fn every_response_says_how_the_limit_stands() {
    let origin = Origin::scripted("a", |_| Reply::text("a").with("RateLimit", "\"own\";r=7"));
    let lb = limited(&origin, "rate_limit: { requests: 2, per: 2h, burst: 3 }");
    let mut client = lb.client();
    for (status, left) in [(200, 2), (200, 1), (200, 0), (429, 0), (429, 0)] {
        let response = client.get("/");
        assert_eq!(response.status, status);
        let policy = "\"client_ip:2/7200s\";q=2;w=7200;pingora-lb-burst=3";
        assert_eq!(response.headers.get("ratelimit-policy"), Some(policy));
        let limit = format!("\"client_ip:2/7200s\";r={left};t=3600");
        let ours = limit.as_str();
        let expected = if status == 200 { vec!["\"own\";r=7", ours] } else { vec![ours] };
        assert_eq!(response.headers.all("ratelimit"), expected);
        assert_eq!(response.headers.get("retry-after"), (status == 429).then_some("3600"));
    }
}

#[test]
fn our_own_answers_count_and_say_it_too() {
    let origin = Origin::named("a");
    let routes = "  - { match: { path: /own }, filters: [rate_limit: { requests: 1, per: 1h }], respond: { status: 200, body: own } }\n\
                  \u{20} - { match: { path: /away }, filters: [rate_limit: { requests: 1, per: 1h }], redirect: { to: 'http://x/' } }\n\
                  \u{20} - { filters: [rate_limit: { requests: 1, per: 1h }], pool: app }";
    let lb = with_routes(&origin, routes);
    origin.stop();
    for (path, status) in [("/own", 200), ("/away", 308), ("/", 502)] {
        let first = lb.get(path);
        assert_eq!(first.status, status, "{path}");
        assert_eq!(
            first.headers.get("ratelimit"),
            Some("\"client_ip:1/3600s\";r=0;t=3600"),
            "{path}"
        );
        assert_eq!(lb.get(path).status, 429, "{path}: each route has buckets of its own");
    }
}

#[test]
fn a_key_is_a_client_a_route_a_header_or_a_cookie() {
    let origin = Origin::named("a");
    let limit = |path: &str, key: &str| {
        format!(
            "  - {{ match: {{ path: {path} }}, filters: [rate_limit: {{ requests: 1, per: 1h, key: {key} }}], pool: app }}\n"
        )
    };
    let lb = with_routes(
        &origin,
        &[
            limit("/client", "client_ip"),
            limit("/route", "route"),
            limit("/header", "{ header: X-User }"),
            limit("/cookie", "{ cookie: sid }"),
        ]
        .concat(),
    );
    let from = |address: &str| format!("X-Forwarded-For: {address}");
    let (v4, v6, neighbour, other) = (
        from("192.0.2.1"),
        from("2001:db8:0:1::1"),
        from("2001:db8:0:1:ffff::2"),
        from("2001:db8:0:2::1"),
    );
    for (path, fields, status) in [
        ("/client", &[v4.as_str()][..], 200),
        ("/client", &[&v4, "X-User: b"], 429),
        ("/client", &[&v6], 200),
        ("/client", &[&neighbour], 429),
        ("/client", &[&other], 200),
        ("/client", &[], 200),
        ("/route", &[&v4], 200),
        ("/route", &[&v6], 429),
        ("/header", &["X-User: a"], 200),
        ("/header", &["x-user: a", &v4], 429),
        ("/header", &["X-User: A"], 200),
        ("/header", &["X-User: \u{e9}"], 200),
        ("/header", &["X-User: \u{e8}"], 200),
        ("/header", &["X-User:"], 200),
        // Who has no such field is one with all others who have none.
        ("/header", &[], 200),
        ("/header", &[&v4], 429),
        ("/header", &["X-Other: a"], 429),
        ("/cookie", &["Cookie: x=1; sid=a"], 200),
        ("/cookie", &["Cookie: sid=a; y=2"], 429),
        ("/cookie", &["Cookie: y=2", "Cookie: sid=a"], 429),
        ("/cookie", &["Cookie: sid=b"], 200),
        ("/cookie", &["Cookie: xsid=c"], 200),
        ("/cookie", &[], 429),
    ] {
        let response = lb.client().ask(request("GET", path, fields, b""));
        assert_eq!(response.status, status, "{path} {fields:?}");
    }
}

#[test]
fn several_limits_hold_together() {
    let origin = Origin::named("a");
    let lb = limited(
        &origin,
        "rate_limit: { requests: 2, per: 1h }, rate_limit: { requests: 3, per: 2h, key: { header: x-user } }",
    );
    let mut client = lb.client();
    let both = ask(&mut client, &["x-user: a"]);
    assert_eq!(
        both.headers.all("ratelimit"),
        ["\"header:x-user:3/7200s\";r=2;t=2400", "\"client_ip:2/3600s\";r=1;t=1800"]
    );
    assert_eq!(statuses(&lb, &["x-user: a"], 2), [200, 429]);
    // The first refuses, so the second does not hear of it.
    let refused = ask(&mut client, &["x-user: b"]);
    assert_eq!(refused.status, 429);
    assert_eq!(refused.headers.all("ratelimit"), ["\"client_ip:2/3600s\";r=0;t=1800"]);
}

#[test]
fn settings_that_cannot_be_are_errors() {
    for (settings, error) in [
        (
            "{ per: 1s }",
            ":4:9: routes[0].filters[0].rate_limit: missing key \"requests\"; expected a whole number from 1 to 4294967295",
        ),
        (
            "{ requests: 0 }",
            ":4:33: routes[0].filters[0].rate_limit.requests: found \"0\"; expected a whole number from 1 to 4294967295",
        ),
        (
            "{ requests: many }",
            ":4:33: routes[0].filters[0].rate_limit.requests: found \"many\"; expected a whole number from 1 to 4294967295",
        ),
        (
            "{ requests: 10, burst: 0 }",
            ":4:44: routes[0].filters[0].rate_limit.burst: found \"0\"; expected a whole number from 1 to 4294967295",
        ),
        (
            "{ requests: 10, per: 0s }",
            ":4:42: routes[0].filters[0].rate_limit.per: found a duration of zero; expected a duration above zero, such as 1s or 1m",
        ),
        (
            "{ requests: 10, per: 1 }",
            ":4:42: routes[0].filters[0].rate_limit.per: found \"1\"; expected a duration such as 250ms, 5s, 1m30s or 1h, with its unit; did you mean \"1s\"?",
        ),
        (
            "{ requests: 2001, per: 1ms }",
            ":4:33: routes[0].filters[0].rate_limit.requests: 2001 requests in 1ms; expected at most 1000 in a millisecond",
        ),
        (
            "{ requests: 10, key: client }",
            ":4:42: routes[0].filters[0].rate_limit.key: found \"client\"; expected client_ip, route, header or cookie; did you mean \"client_ip\"?",
        ),
        (
            "{ requests: 10, key: header }",
            ":4:42: routes[0].filters[0].rate_limit.key: found \"header\"; expected a map, { header: ... }",
        ),
        (
            "{ requests: 10, key: { header: \"a b\" } }",
            ":4:52: routes[0].filters[0].rate_limit.key.header: found \"a b\"; expected the name of a header field",
        ),
        (
            "{ requests: 10, key: { cookie: \"a;b\" } }",
            ":4:52: routes[0].filters[0].rate_limit.key.cookie: found \"a;b\"; expected the name of a cookie, such as LB_BACKEND",
        ),
        (
            "{ requests: 10, limit: 3 }",
            ":4:37: routes[0].filters[0].rate_limit.limit: unknown key \"limit\"; expected requests, per, burst or key",
        ),
    ] {
        assert_eq!(check(&format!("rate_limit: {settings}")), error, "{settings}");
    }
}
