//! Which route takes a request, and what routes do without a pool.

use crate::support::{Config, Lb, Origin, Response, get, request, tally};

/// A route that answers with its own name.
fn says(name: &str, conditions: &str) -> String {
    format!(
        "  - {{ name: {name}, match: {{ {conditions} }}, respond: {{ status: 200, body: {name} }} }}\n"
    )
}

/// A balancer with these routes, and one pool that nobody serves.
fn with_routes(routes: &[String]) -> Lb {
    let pool = "pools:\n  app: { backends: [127.0.0.1:1], health_check: off }\n";
    Config::new(format!("{pool}routes:\n{}", routes.concat())).access_log().start()
}

/// The body, or the reason for which there is none.
fn outcome(response: &Response) -> String {
    match response.status {
        200 => response.text(),
        404 => "404".to_owned(),
        other => format!("{other} {}", response.text()),
    }
}

/// Sends each request and compares who answered.
#[track_caller]
fn assert_routed(lb: &Lb, cases: &[(&str, &str, &[&str], &str)]) {
    let mut wrong = Vec::new();
    for (method, target, fields, expected) in cases {
        let mut client = lb.client();
        let answered = outcome(&client.ask(request(method, target, fields, b"")));
        if answered != *expected {
            wrong.push(format!("{method} {target} {fields:?}: {answered}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn hosts_match_exactly_or_by_wildcard() {
    let lb = with_routes(&[
        says("exact", "host: www.example.com"),
        says("several", "host: [a.test, b.test]"),
        says("wild", "host: \"*.example.com\""),
    ]);
    let cases: &[(&str, &[&str], &str)] = &[
        ("/", &["Host: www.example.com"], "exact"),
        ("/", &["Host: WWW.Example.COM"], "exact"),
        ("/", &["Host: www.example.com:8080"], "exact"),
        ("/", &["Host: api.example.com"], "wild"),
        ("/", &["Host: example.com"], "404"),
        ("/", &["Host: badexample.com"], "404"),
        ("/", &["Host: a.test"], "several"),
        ("/", &["Host: b.test"], "several"),
        ("/", &["Host: c.test"], "404"),
    ];
    let cases: Vec<_> =
        cases.iter().map(|(target, fields, name)| ("GET", *target, *fields, *name)).collect();
    assert_routed(&lb, &cases);
}

#[test]
fn paths_match_exactly_by_whole_segments_or_by_expression() {
    let lb = with_routes(&[
        says("exact", "path: /exact"),
        says("prefix", "path_prefix: /v1"),
        says("slashed", "path_prefix: /dir/"),
        says("regex", "path_regex: \"^/users/[0-9]+$\""),
    ]);
    let cases: &[(&str, &str)] = &[
        ("/exact", "exact"),
        ("/exact?x=1", "exact"),
        ("/exact/", "404"),
        ("/Exact", "404"),
        ("/v1", "prefix"),
        ("/v1/", "prefix"),
        ("/v1/a/b?c", "prefix"),
        ("/v1?x", "prefix"),
        ("/v10", "404"),
        ("/a/../v1/x", "prefix"),
        ("/v1/../exact", "exact"),
        ("/dir/x", "slashed"),
        ("/users/42", "regex"),
        ("/users/42/x", "404"),
        ("/users/x", "404"),
    ];
    let cases: Vec<_> =
        cases.iter().map(|(target, name)| ("GET", *target, &[] as &[&str], *name)).collect();
    assert_routed(&lb, &cases);
}

#[test]
fn methods_headers_and_queries_are_conditions() {
    let lb = with_routes(&[
        says("method", "path: /m, methods: [GET, PUT]"),
        says("header", "path: /h, headers: { x-canary: \"1\" }"),
        says("regex", "path: /h, headers: { x-canary: { regex: \"^[a-c]+$\" } }"),
        says("absent", "path: /h, headers: { x-canary: { present: false } }"),
        says("present", "path: /h, headers: { x-canary: { present: true } }"),
        says("both", "path: /q, query: { debug: \"1\", mode: x }"),
        says("query", "path: /q, query: { debug: \"1\" }"),
        says("number", "path: /q, query: { page: { regex: \"^[0-9]+$\" } }"),
        says("given", "path: /q, query: { page: { present: true } }"),
        says("without", "path: /n, query: { page: { present: false } }"),
    ]);
    assert_routed(
        &lb,
        &[
            ("GET", "/m", &[], "method"),
            ("PUT", "/m", &[], "method"),
            ("POST", "/m", &[], "404"),
            ("GET", "/h", &["X-Canary: 1"], "header"),
            ("GET", "/h", &["X-CANARY: abc"], "regex"),
            ("GET", "/h", &[], "absent"),
            ("GET", "/h", &["X-Canary: zzz"], "present"),
            ("GET", "/q?debug=1", &[], "query"),
            ("GET", "/q?a=b&debug=1&c", &[], "query"),
            ("GET", "/q?mode=x&debug=1", &[], "both"),
            ("GET", "/q?page=12", &[], "number"),
            ("GET", "/q?page=x", &[], "given"),
            ("GET", "/q?page", &[], "given"),
            ("GET", "/q?debug=11", &[], "404"),
            ("GET", "/q?xdebug=1", &[], "404"),
            ("GET", "/q", &[], "404"),
            ("GET", "/n", &[], "without"),
            ("GET", "/n?pages=1", &[], "without"),
            ("GET", "/n?page=1", &[], "404"),
            ("GET", "/n?page", &[], "404"),
        ],
    );
}

#[test]
fn the_first_match_in_file_order_wins() {
    let lb = with_routes(&[
        says("first", "path_prefix: /a"),
        says("second", "path: /a/b"),
        says("third", "host: test.example"),
        says("wild", "host: \"*.x.test\""),
        says("exact", "host: w.x.test"),
        says("rest", "path_prefix: /"),
    ]);
    assert_routed(
        &lb,
        &[
            ("GET", "/a/b", &[], "first"),
            ("GET", "/other", &[], "third"),
            ("GET", "/other", &["Host: w.x.test"], "wild"),
            ("GET", "/other", &["Host: unknown"], "rest"),
        ],
    );
}

#[test]
fn all_conditions_of_a_route_must_hold() {
    let lb = with_routes(&[says("all", "host: a.test, path_prefix: /v1, methods: [POST]")]);
    assert_routed(
        &lb,
        &[
            ("POST", "/v1", &["Host: a.test"], "all"),
            ("GET", "/v1", &["Host: a.test"], "404"),
            ("POST", "/v2", &["Host: a.test"], "404"),
            ("POST", "/v1", &["Host: b.test"], "404"),
        ],
    );
}

#[test]
fn what_no_route_takes_is_a_404_no_route() {
    let lb = with_routes(&[says("only", "path: /only")]);
    let response = lb.get("/other");
    assert_eq!(response.status, 404);
    assert!(response.text().contains("no_route"), "{}", response.text());
    assert!(!response.headers.has("x-backend-server"));
    assert_eq!(lb.wait_for_entries(1)[0]["reason"], "no_route");

    let json = lb.client().ask(request("GET", "/", &["Accept: application/json"], b""));
    assert_eq!(json.json()["error"], "no_route");
}

#[test]
fn a_route_can_be_of_one_listener() {
    let lb = Config::new(
        "listeners:\n  web: { address: \"@WEB@\" }\n  inner: { address: \"@2@\" }\n\
         pools:\n  app: { backends: [127.0.0.1:1], health_check: off }\n\
         routes:\n\
         \x20 - { listeners: [inner], respond: { status: 200, body: inner } }\n\
         \x20 - { respond: { status: 200, body: any } }\n",
    )
    .start();
    assert_eq!(lb.get("/").text(), "any");
    assert_eq!(get(&lb.extra(2), "/").text(), "inner");
}

#[test]
fn routes_choose_among_pools() {
    let (api, web) = (Origin::named("api"), Origin::named("web"));
    let pools = format!(
        "pools:\n  api: {{ backends: [{}] }}\n  web: {{ backends: [{}] }}\n",
        api.entry(),
        web.entry()
    );
    let routes = "routes:\n  - { match: { path_prefix: /api }, pool: api }\n  - { pool: web }\n";
    let lb = Config::new(format!("{pools}{routes}")).access_log().start();
    assert_eq!(lb.get("/api/x").text(), "api");
    assert_eq!(lb.get("/").text(), "web");
    assert_eq!(api.only_request().target, "/api/x");
    let entries = lb.wait_for_entries(2);
    assert_eq!((&entries[0]["route"], &entries[0]["pool"]), (&"route-1".into(), &"api".into()));
    assert_eq!((&entries[1]["route"], &entries[1]["pool"]), (&"route-2".into(), &"web".into()));
}

#[test]
fn a_split_follows_its_shares() {
    let (web, canary) = (Origin::named("web"), Origin::named("canary"));
    let pools = format!(
        "pools:\n  web: {{ backends: [{}] }}\n  web_canary: {{ backends: [{}] }}\n",
        web.entry(),
        canary.entry()
    );
    let routes = "routes:\n  - split: { web: 90, web_canary: 10 }\n";
    let lb = Config::new(format!("{pools}{routes}")).start();
    let mut client = lb.client();
    let names: Vec<String> = (0..2000).map(|_| client.get("/").text()).collect();
    let counts = tally(&names);
    // Five standard deviations of a random split are 67.
    assert!(counts["canary"].abs_diff(200) <= 67, "{counts:?}");
}

#[test]
fn a_redirect_fills_in_what_was_asked_for() {
    let redirect = |conditions: &str, to: &str, status: &str| {
        format!("  - {{ match: {{ {conditions} }}, redirect: {{ to: \"{to}\"{status} }} }}\n")
    };
    let lb = with_routes(&[
        redirect("path: /host", "https://${host}${path}", ", status: 301"),
        redirect("path: /query", "/found?${query}", ", status: 302"),
        redirect("path_prefix: /", "https://www.example.com${path_and_query}", ", status: 308"),
    ]);
    let cases = [
        ("/host", 301, "https://test.example/host"),
        ("/query?a=b&c", 302, "/found?a=b&c"),
        ("/x/y?z=1", 308, "https://www.example.com/x/y?z=1"),
        ("/x", 308, "https://www.example.com/x"),
    ];
    for (target, status, location) in cases {
        let response = lb.get(target);
        assert_eq!(response.status, status, "{target}");
        assert_eq!(response.headers.get("location"), Some(location), "{target}");
        assert!(response.headers.has("x-request-id"), "{target}");
    }
}

#[test]
fn a_redirect_to_a_path_stays_on_this_host() {
    let redirect = |prefix: &str, to: &str| {
        format!("  - {{ match: {{ path_prefix: {prefix} }}, redirect: {{ to: \"{to}\" }} }}\n")
    };
    let lb = with_routes(&[
        redirect("/below", "/${path}"),
        redirect("/elsewhere", "//other.example${path}"),
        redirect("/", "${path}/"),
    ]);
    for (target, location) in [
        ("//evil.example", "/evil.example/"),
        ("///evil.example", "/evil.example/"),
        ("/a//b", "/a//b/"),
        ("/below/x", "/below/x"),
        ("/elsewhere", "//other.example/elsewhere"),
    ] {
        let response = lb.get(target);
        assert_eq!(response.headers.get("location"), Some(location), "{target}");
    }
    // Browsers take a backslash for a slash.
    let response = lb.get("/\\evil.example");
    let location = response.headers.get("location").unwrap_or("");
    assert!(!location.contains('\\'), "{} {location}", response.status);
}

#[test]
fn a_redirect_cannot_be_made_to_forge_fields() {
    let to = "  - redirect: { to: \"https://www.example.com${path_and_query}\", status: 308 }\n";
    let lb = with_routes(&[to.to_owned()]);
    let response = lb.get("/a%0d%0aX-Evil:%201");
    assert!(!response.headers.has("x-evil"), "{:?}", response.headers);
}

#[test]
fn a_fixed_response_is_as_written() {
    let robots = "  - match: { path: /robots.txt }\n    respond: { status: 200, headers: { content-type: text/plain, x-a: b }, body: \"User-agent: *\\n\" }\n";
    let gone = "  - respond: { status: 410 }\n";
    let lb = with_routes(&[robots.to_owned(), gone.to_owned()]);
    let mut client = lb.client();
    let response = client.get("/robots.txt");
    assert_eq!((response.status, response.text().as_str()), (200, "User-agent: *\n"));
    assert_eq!(response.headers.get("content-type"), Some("text/plain"));
    assert_eq!(response.headers.get("x-a"), Some("b"));
    assert_eq!(client.get("/").status, 410);
    client.send(request("HEAD", "/robots.txt", &[], b""));
    let head = client.response_to_head();
    assert_eq!((head.status, head.headers.get("content-length")), (200, Some("14")));
    assert_eq!(client.get("/robots.txt").status, 200);
}

#[test]
fn ten_thousand_hosts_are_matched_about_as_fast_as_ten() {
    let took = |hosts: usize| {
        let routes: Vec<String> =
            (0..hosts).map(|n| says(&format!("r{n}"), &format!("host: h{n}.test"))).collect();
        let lb = with_routes(&routes);
        let last = format!("Host: h{}.test", hosts - 1);
        let asked = request("GET", "/", &[&last], b"");
        let mut client = lb.client();
        let mut times: Vec<_> = (0..300)
            .map(|_| {
                let started = std::time::Instant::now();
                assert_eq!(client.ask(&asked).text(), format!("r{}", hosts - 1));
                started.elapsed()
            })
            .collect();
        times.sort();
        times[times.len() / 2]
    };
    let (few, many) = (took(10), took(10_000));
    assert!(many < few * 2, "median of {many:?} against {few:?}");
}
