//! The table against a model that tests every route in turn, and the work it saves.

use super::{
    fuzz::{HOSTS, PATHS, Request, VALUES, listeners, model_find, route, table},
    *,
};
use crate::model::{
    HeaderMatch, ListenerName, Match, PathMatch, QueryMatch, Route, RouteListeners, ValueMatch,
};
use http::HeaderName;
use proptest::{prelude::*, sample::select};
use regex::Regex;

fn on_listeners(names: &[&str], matches: Match) -> Route {
    let names = names.iter().map(|name| ListenerName::try_new(name).unwrap()).collect();
    Route { listeners: RouteListeners::Only(names), ..route(matches) }
}

/// `*.` as in the configuration.
fn host(pattern: &str) -> HostPattern {
    match pattern.strip_prefix("*.") {
        Some(domain) => HostPattern::Below(domain.to_owned()),
        None => HostPattern::Exact(pattern.to_owned()),
    }
}

fn hosts(patterns: &[&str]) -> Match {
    Match { hosts: patterns.iter().map(|pattern| host(pattern)).collect(), ..Match::default() }
}

fn path(condition: PathMatch) -> Match {
    Match { path: Some(condition), ..Match::default() }
}

fn prefix(prefix: &str) -> Match {
    path(PathMatch::Prefix(prefix.to_owned()))
}

/// The route found, and how many were tested to find it.
fn count(table: &RouteTable, request: &Request) -> (Option<usize>, usize) {
    let (facts, mut tested) = (request.facts(), 0);
    let found = table.find_with(&facts, |rule| {
        tested += 1;
        rule.unmet(&facts).is_none()
    });
    (found, tested)
}

#[test]
fn hosts_match_exactly_or_below_a_domain() {
    let table = table(&[
        route(hosts(&["a.example", "*.b.example", "[::1]"])),
        route(hosts(&["*.example"])),
        route(hosts(&["b.example"])),
    ]);
    let cases = [
        ("a.example", Some(0)),
        ("x.b.example", Some(0)),
        ("x.y.b.example", Some(0)),
        ("b.example", Some(1)),
        ("x.a.example", Some(1)),
        ("[::1]", Some(0)),
        ("example", None),
        (".example", None),
        ("xexample", None),
        ("", None),
    ];
    for (host, expected) in cases {
        assert_eq!(table.find(&Request::get(host, "/").facts()), expected, "{host}");
    }
}

#[test]
fn file_order_decides_not_how_closely_a_host_matches() {
    let table = table(&[
        route(Match { methods: vec![Method::POST], ..hosts(&["*.example"]) }),
        route(Match { path: prefix("/any").path, ..Match::default() }),
        route(hosts(&["*.a.example"])),
        route(hosts(&["x.a.example"])),
        route(Match::default()),
    ]);
    let post = Request { method: Method::POST, ..Request::get("x.a.example", "/any") };
    assert_eq!(table.find(&post.facts()), Some(0));
    assert_eq!(table.find(&Request::get("x.a.example", "/any").facts()), Some(1));
    assert_eq!(table.find(&Request::get("x.a.example", "/").facts()), Some(2));
    assert_eq!(table.find(&Request::get("", "*").facts()), Some(4));
}

#[test]
fn prefixes_match_whole_segments() {
    let cases = [
        ("/v1", "/v1", true),
        ("/v1", "/v1/", true),
        ("/v1", "/v1/x", true),
        ("/v1", "/v10", false),
        ("/v1", "/V1", false),
        ("/v1", "/", false),
        ("/v1/", "/v1/x", true),
        ("/v1/", "/v1/", true),
        ("/v1/", "/v1", false),
        ("/", "/", true),
        ("/", "/x", true),
        ("/", "*", false),
    ];
    for (condition, path, expected) in cases {
        // Alone, and among so many that the paths are indexed.
        let alone = vec![route(prefix(condition))];
        let others = (0..20).map(|other| route(prefix(&format!("/other-{other}"))));
        let among = alone.iter().cloned().chain(others).collect::<Vec<_>>();
        for routes in [alone, among] {
            let found = table(&routes).find(&Request::get("", path).facts());
            assert_eq!(found.is_some(), expected, "{condition} {path}");
        }
    }
}

#[test]
fn listeners_limit_a_route() {
    let table = table(&[
        on_listeners(&["internal", "web_tls"], prefix("/")),
        on_listeners(&["web"], prefix("/")),
    ]);
    for (listener, expected) in [(0, Some(1)), (1, Some(0)), (2, Some(0)), (3, None)] {
        let request = Request { listener, ..Request::get("", "/") };
        assert_eq!(table.find(&request.facts()), expected);
    }
}

#[test]
fn query_parameters_are_decoded() {
    let when = |name: &str, value| {
        let parameter = QueryMatch { name: name.to_owned(), value, secret: false };
        table(&[route(Match { query: vec![parameter], ..Match::default() })])
    };
    let exact = || ValueMatch::Exact("a b".to_owned());
    let regex = || ValueMatch::Regex(Regex::new("^a b$").unwrap());
    let cases = [
        ("q", exact(), "q=a+b", true),
        ("q", exact(), "q=a%20b", true),
        ("q", exact(), "%71=a%20b", true),
        ("q", exact(), "q=x&q=a+b", true),
        ("q", exact(), "q=a+bc", false),
        ("q", exact(), "Q=a+b", false),
        ("q", regex(), "q=a+b", true),
        ("q", regex(), "q=a%20b", true),
        ("q", regex(), "q=ab", false),
        ("q", ValueMatch::Present(true), "q", true),
        ("q", ValueMatch::Present(true), "q=", true),
        ("q", ValueMatch::Present(true), "x=q", false),
        ("q", ValueMatch::Present(false), "x=q", true),
        ("q", ValueMatch::Present(false), "x&q=1", false),
        ("q", ValueMatch::Exact(String::new()), "q", true),
    ];
    for (name, value, query, expected) in cases {
        let found =
            when(name, value.clone()).find(&Request::get("", "/").with_query(query).facts());
        assert_eq!(found.is_some(), expected, "{name} {value:?} {query}");
    }
    assert!(when("q", ValueMatch::Present(false)).find(&Request::get("", "/").facts()).is_some());
}

#[test]
fn one_of_several_header_fields_suffices() {
    let when = |value| {
        let header = HeaderMatch { name: HeaderName::from_static("x-a"), value, secret: false };
        table(&[route(Match { headers: vec![header], ..Match::default() })])
    };
    let request = Request::get("", "/").with_header("x-a", b"one").with_header("x-a", b"t\xffo");
    let cases = [
        (ValueMatch::Exact("one".to_owned()), true),
        (ValueMatch::Exact("One".to_owned()), false),
        (ValueMatch::Regex(Regex::new("^t.o$").unwrap()), true),
        (ValueMatch::Regex(Regex::new("^two$").unwrap()), false),
        (ValueMatch::Present(true), true),
        (ValueMatch::Present(false), false),
    ];
    for (value, expected) in cases {
        assert_eq!(when(value.clone()).find(&request.facts()).is_some(), expected, "{value:?}");
    }
    let none = Request::get("", "/");
    assert!(when(ValueMatch::Present(false)).find(&none.facts()).is_some());
}

#[test]
fn names_the_condition_that_fails() {
    let header = HeaderMatch {
        name: HeaderName::from_static("x-canary"),
        value: ValueMatch::Exact("1".to_owned()),
        secret: false,
    };
    let parameter =
        QueryMatch { name: "debug".to_owned(), value: ValueMatch::Present(true), secret: false };
    let table = table(&[on_listeners(
        &["web"],
        Match {
            path: prefix("/v1").path,
            methods: vec![Method::GET],
            headers: vec![header],
            query: vec![parameter],
            ..hosts(&["a.example"])
        },
    )]);
    let good = Request::get("a.example", "/v1/x").with_query("debug").with_header("x-canary", b"1");
    let cases = [
        (Request { listener: 1, ..good.clone() }, "listener", "another listener"),
        (Request { host: "b.example".to_owned(), ..good.clone() }, "host", "a.example"),
        (Request { path: "/v2".to_owned(), ..good.clone() }, "path", "/v1 or below it"),
        (Request { method: Method::POST, ..good.clone() }, "method", "GET"),
        (Request { headers: HeaderMap::new(), ..good.clone() }, "header x-canary", "1"),
        (Request { query: None, ..good.clone() }, "query parameter debug", "present"),
    ];
    for (request, name, expected) in cases {
        let facts = request.facts();
        let unmet = table.why_not(0, &facts).unwrap();
        assert_eq!((unmet.to_string().as_str(), unmet.expected().as_str()), (name, expected));
        assert_eq!(table.find(&facts), None);
    }
    assert!(table.why_not(0, &good.facts()).is_none());
}

/// The routes of a large installation: a host or a domain each, some routes for every host around.
fn many_hosts(number: usize) -> Vec<Route> {
    let own = |at: usize| match at % 10 {
        0 => route(hosts(&[&format!("*.domain-{at}.example")])),
        _ => route(hosts(&[&format!("host-{at}.example")])),
    };
    let first = route(prefix("/.well-known"));
    let last = [route(hosts(&["*.example"])), route(Match::default())];
    std::iter::once(first).chain((0..number).map(own)).chain(last).collect()
}

#[test]
fn ten_thousand_hosts_take_no_more_tests_than_ten() {
    for number in [10, 10_000] {
        let table = table(&many_hosts(number));
        let cases = [
            ("host-1.example".to_owned(), 2, 2),
            (format!("host-{}.example", number - 1), number, 2),
            (format!("www.domain-{}.example", number - 10), number - 9, 2),
            ("unknown.example".to_owned(), number + 1, 2),
            ("unknown.test".to_owned(), number + 2, 2),
        ];
        for (host, expected, tests) in cases {
            assert_eq!(count(&table, &Request::get(&host, "/")), (Some(expected), tests), "{host}");
        }
    }
}

#[test]
fn ten_thousand_paths_of_a_host_take_no_more_tests_than_ten() {
    let own = |at: usize| match at % 2 {
        0 => prefix(&format!("/prefix-{at}")),
        _ => path(PathMatch::Exact(format!("/exact-{at}"))),
    };
    let on_host = |matches: Match| route(Match { hosts: hosts(&["a.example"]).hosts, ..matches });
    let regex = on_host(path(PathMatch::Regex(Regex::new(r"\.php$").unwrap())));
    let mut routes: Vec<Route> = (0..10_000).map(|at| on_host(own(at))).collect();
    routes.push(regex);
    let table = table(&routes);
    let cases = [
        ("/prefix-0", Some(0), 1),
        ("/prefix-9998/a/b", Some(9_998), 1),
        ("/exact-9999", Some(9_999), 1),
        ("/exact-9999/", None, 1),
        ("/a.php", Some(10_000), 1),
    ];
    for (path, expected, tests) in cases {
        assert_eq!(count(&table, &Request::get("a.example", path)), (expected, tests), "{path}");
    }
}

#[test]
fn a_route_of_many_hosts_is_tested_once() {
    let both = hosts(&["a.example", "*.example", "a.example"]);
    let table = table(&[route(Match { methods: vec![Method::POST], ..both })]);
    assert_eq!(count(&table, &Request::get("a.example", "/")), (None, 1));
}

fn any_value() -> impl Strategy<Value = ValueMatch> {
    prop_oneof![
        select(VALUES).prop_map(|value| ValueMatch::Exact(value.to_owned())),
        Just(ValueMatch::Regex(Regex::new("^[12]$").unwrap())),
        any::<bool>().prop_map(ValueMatch::Present),
    ]
}

fn any_host() -> impl Strategy<Value = HostPattern> {
    (select(&HOSTS[1..]), any::<bool>()).prop_map(|(host, below)| {
        let pattern = if below { HostPattern::Below } else { HostPattern::Exact };
        pattern(host.to_owned())
    })
}

fn any_path() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        2 => select(PATHS).prop_map(|path| PathMatch::Exact(path.to_owned())),
        4 => select(&PATHS[..9]).prop_map(|path| PathMatch::Prefix(path.to_owned())),
        1 => select(&["^/a/", "b$"][..]).prop_map(|re| PathMatch::Regex(Regex::new(re).unwrap())),
    ]
}

fn any_route() -> impl Strategy<Value = Route> {
    let name = || select(&["p", "q"][..]);
    let listeners = prop_oneof![
        3 => Just(RouteListeners::All),
        1 => proptest::sample::subsequence(listeners(), 1..3).prop_map(RouteListeners::Only),
    ];
    let header = (name(), any_value()).prop_map(|(name, value)| HeaderMatch {
        name: HeaderName::from_static(name),
        value,
        secret: false,
    });
    let parameter = (name(), any_value()).prop_map(|(name, value)| QueryMatch {
        name: name.to_owned(),
        value,
        secret: false,
    });
    let conditions = (
        prop::collection::vec(any_host(), 0..4),
        prop::option::weighted(0.7, any_path()),
        prop::collection::vec(select(&[Method::GET, Method::POST][..]), 0..2),
        prop::collection::vec(header, 0..2),
        prop::collection::vec(parameter, 0..2),
    );
    (listeners, conditions).prop_map(|(listeners, (hosts, path, methods, headers, query))| Route {
        listeners,
        ..route(Match { hosts, path, methods, headers, query, ..Match::default() })
    })
}

fn any_request() -> impl Strategy<Value = Request> {
    let pairs = || {
        let pair = (select(&["p", "q"][..]), select(VALUES));
        prop::collection::vec(pair, 0..3)
    };
    let method = select(&[Method::GET, Method::POST][..]);
    (0..3_usize, select(HOSTS), select(PATHS), pairs(), method, pairs()).prop_map(
        |(listener, host, path, query, method, headers)| {
            let query: Vec<_> =
                query.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let request = Request { listener, method, ..Request::get(host, path) };
            headers
                .into_iter()
                .fold(request, |request, (name, value)| request.with_header(name, value.as_bytes()))
                .with_query(&query.join("&"))
        },
    )
}

proptest! {
    /// Forty routes are enough for hosts whose paths are indexed and hosts whose are not.
    #[test]
    fn finds_what_testing_every_route_in_turn_finds(
        routes in prop::collection::vec(any_route(), 0..40),
        requests in prop::collection::vec(any_request(), 1..20),
    ) {
        let table = table(&routes);
        for request in requests {
            let facts = request.facts();
            let expected = model_find(&routes, &request);
            prop_assert_eq!(table.find(&facts), expected);
            let first_without_obstacle =
                (0..routes.len()).find(|&at| table.why_not(at, &facts).is_none());
            prop_assert_eq!(first_without_obstacle, expected);
        }
    }
}
