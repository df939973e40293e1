//! What matching a request costs as the table of routes grows.
//!
//! `cargo bench --bench routing`. Requests go round a few thousand hosts spread over the table, so
//! that a large table pays for its cache misses, as it does in production.

#![allow(missing_docs)]

use bytes::Bytes;
use divan::{Bencher, black_box};
use http::{HeaderMap, Method, StatusCode};
use pingora_lb::{
    model::{
        Action, HostPattern, Match, PathMatch, Respond, Route, RouteListeners, RouteName, Upgrades,
    },
    route::{Facts, RouteTable, normal_path},
};

const SIZES: [usize; 4] = [10, 1_000, 10_000, 100_000];
/// As many as a sample has iterations, so that each sample goes round once.
const REQUESTS: usize = 4096;

fn main() {
    divan::main();
}

fn route(hosts: Vec<HostPattern>, path: Option<PathMatch>) -> Route {
    let respond = Respond { status: StatusCode::OK, headers: Vec::new(), body: Bytes::new() };
    Route {
        name: RouteName::try_new("r").expect("a valid name"),
        listeners: RouteListeners::All,
        matches: Match { hosts, path, ..Match::default() },
        action: Action::Respond(respond),
        timeout: None,
        upgrades: Upgrades::default(),
    }
}

/// One route each for `size` hosts, every tenth a domain, between two for every host.
fn hosts(size: usize) -> RouteTable {
    let own = |at: usize| match at % 10 {
        0 => HostPattern::Below(format!("tenant-{at}.example.com")),
        _ => HostPattern::Exact(format!("tenant-{at}.example.com")),
    };
    let first = route(Vec::new(), Some(PathMatch::Prefix("/.well-known/acme-challenge".into())));
    let last = route(Vec::new(), None);
    let all = (0..size).map(|at| route(vec![own(at)], None));
    RouteTable::new(&std::iter::once(first).chain(all).chain([last]).collect::<Vec<_>>(), &[])
}

/// `size` path prefixes on one host.
fn paths(size: usize) -> RouteTable {
    let prefix = |at: usize| Some(PathMatch::Prefix(format!("/api/service-{at}")));
    let host = || vec![HostPattern::Exact("api.example.com".into())];
    RouteTable::new(&(0..size).map(|at| route(host(), prefix(at))).collect::<Vec<_>>(), &[])
}

/// Positions in a table of `size`, spread by a stride that shares no factor with it.
fn spread(size: usize) -> impl Iterator<Item = usize> {
    (0..REQUESTS).map(move |at| at * 7_919 % size)
}

fn measure(bencher: Bencher<'_, '_>, table: &RouteTable, requests: &[(String, String)]) {
    let headers = HeaderMap::new();
    let mut next = requests.iter().cycle();
    bencher.bench_local(|| {
        let (host, path) = next.next().expect("a cycle has no end");
        let facts =
            Facts { listener: 0, host, path, query: None, method: &Method::GET, headers: &headers };
        table.find(black_box(&facts))
    });
}

#[divan::bench(args = SIZES, sample_size = 4096)]
fn exact_host(bencher: Bencher<'_, '_>, size: usize) {
    let request =
        |at: usize| (format!("tenant-{}.example.com", at.max(at / 10 * 10 + 1)), "/a/b".into());
    measure(bencher, &hosts(size), &spread(size).map(request).collect::<Vec<_>>());
}

#[divan::bench(args = SIZES, sample_size = 4096)]
fn wildcard_host(bencher: Bencher<'_, '_>, size: usize) {
    let request = |at: usize| (format!("www.tenant-{}.example.com", at / 10 * 10), "/a/b".into());
    measure(bencher, &hosts(size), &spread(size).map(request).collect::<Vec<_>>());
}

#[divan::bench(args = SIZES, sample_size = 4096)]
fn unknown_host(bencher: Bencher<'_, '_>, size: usize) {
    let request = |at: usize| (format!("tenant-{at}.example.net"), "/a/b".into());
    measure(bencher, &hosts(size), &spread(size).map(request).collect::<Vec<_>>());
}

#[divan::bench(args = SIZES, sample_size = 4096)]
fn paths_of_a_host(bencher: Bencher<'_, '_>, size: usize) {
    let request = |at: usize| ("api.example.com".into(), format!("/api/service-{at}/items/42"));
    measure(bencher, &paths(size), &spread(size).map(request).collect::<Vec<_>>());
}

/// A host name made to cost as much as it can.
#[divan::bench(args = SIZES, sample_size = 4096)]
fn hostile_host(bencher: Bencher<'_, '_>, size: usize) {
    measure(bencher, &hosts(size), &[("a.".repeat(4_000), "/".into())]);
}

#[divan::bench(sample_size = 4096, args = ["/a/b/index.html", "/a/./b/../c/%2e%2e/d"])]
fn normalizing(bencher: Bencher<'_, '_>, path: &str) {
    bencher.bench_local(|| normal_path(black_box(path)).map(|normal| normal.len()));
}
