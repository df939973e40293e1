//! What is legal but surely a mistake. A warning here is never wrong; a mistake may go without one.

use super::{
    diagnostic::{Fault, quote},
    reader::Field,
};
use crate::model::{
    Action, BackendState, HashOn, HostPattern, Listener, Match, PathMatch, Pool, PoolName, Route,
    RouteListeners, Tcp,
};
use http::Method;
use std::collections::HashMap;

/// Warns of each route that an earlier one keeps from ever matching.
pub(super) fn unreachable_routes(items: &[Field<'_>], routes: &[Route], listeners: &[Listener]) {
    if !listeners.iter().any(Listener::is_http) {
        for item in items {
            let found = "a route that never matches, as no listener has protocol http";
            item.warning(&Fault::new(found, "a listener with protocol http"));
        }
        return;
    }
    let mut earlier = Earlier::default();
    for (index, route) in routes.iter().enumerate() {
        if is_for_refused_methods(&route.matches) {
            if let Some(item) = items.get(index) {
                let found =
                    "a route that never matches, as CONNECT and TRACE are answered with 405";
                item.warning(&Fault::new(found, "a method that is served"));
            }
            continue;
        }
        let Some(wider) = earlier.wider(route, listeners) else {
            earlier.add(index, route);
            continue;
        };
        let (Some(item), Some(at)) = (items.get(index), items.get(wider)) else { continue };
        let name = quote(routes[wider].name.as_str());
        let line = at.position().line;
        let found =
            format!("a route that never matches, as route {name} on line {line} matches first");
        item.warning(&Fault::new(found, "the narrower route first"));
    }
}

/// Whether only methods match that are refused before there is a route.
fn is_for_refused_methods(matches: &Match) -> bool {
    let mut methods = matches.methods.iter();
    !matches.methods.is_empty() && methods.all(|it| *it == Method::CONNECT || *it == Method::TRACE)
}

/// A host and a path that a route takes whole; `None` is any.
type Corner<'r> = (Option<HostPattern>, Option<(PathKind, &'r str)>);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum PathKind {
    Exact,
    Prefix,
    Regex,
}

/// The earlier routes without conditions on headers and query, by what they take whole, so that
/// ten thousand routes are compared in about ten thousand steps.
#[derive(Default)]
struct Earlier<'r> {
    by_corner: HashMap<Corner<'r>, Vec<(usize, &'r Route)>>,
}

impl<'r> Earlier<'r> {
    fn add(&mut self, index: usize, route: &'r Route) {
        let matches = &route.matches;
        if !matches.headers.is_empty() || !matches.query.is_empty() {
            return;
        }
        let path = matches.path.as_ref().map(path_key);
        for host in hosts(matches) {
            self.by_corner.entry((host, path)).or_default().push((index, route));
        }
    }

    /// The first earlier route that takes every request `route` would.
    fn wider(&self, route: &Route, listeners: &[Listener]) -> Option<usize> {
        let first = route.matches.hosts.first();
        let paths = wider_paths(route.matches.path.as_ref());
        let mut found = None;
        for host in wider_hosts(first) {
            for path in &paths {
                let candidates = self.by_corner.get(&(host.clone(), *path)).into_iter().flatten();
                let covering = candidates.filter(|(_, wider)| covers(wider, route, listeners));
                found = covering.map(|(index, _)| *index).chain(found).min();
            }
        }
        found
    }
}

fn hosts(matches: &Match) -> Vec<Option<HostPattern>> {
    if matches.hosts.is_empty() {
        return vec![None];
    }
    matches.hosts.iter().cloned().map(Some).collect()
}

fn path_key(path: &PathMatch) -> (PathKind, &str) {
    match path {
        PathMatch::Exact(path) => (PathKind::Exact, path),
        PathMatch::Prefix(path) => (PathKind::Prefix, path),
        PathMatch::Regex(regex) => (PathKind::Regex, regex.as_str()),
    }
}

/// Every host condition that `host` implies, itself included.
fn wider_hosts(host: Option<&HostPattern>) -> Vec<Option<HostPattern>> {
    let mut wider = vec![None];
    let Some(host) = host else { return wider };
    wider.push(Some(host.clone()));
    let (HostPattern::Exact(name) | HostPattern::Below(name)) = host;
    let mut rest = name.as_str();
    while let Some((_, parent)) = rest.split_once('.') {
        wider.push(Some(HostPattern::Below(parent.to_owned())));
        rest = parent;
    }
    wider
}

/// Every path condition that `path` implies, itself included.
fn wider_paths(path: Option<&PathMatch>) -> Vec<Option<(PathKind, &str)>> {
    let mut wider = vec![None];
    let Some(path) = path else { return wider };
    wider.push(Some(path_key(path)));
    let (PathMatch::Exact(text) | PathMatch::Prefix(text)) = path else { return wider };
    wider.push(Some((PathKind::Prefix, text)));
    wider.push(Some((PathKind::Prefix, "/")));
    for (end, _) in text.match_indices('/').filter(|(end, _)| *end > 0) {
        wider.push(Some((PathKind::Prefix, &text[..end])));
        wider.push(Some((PathKind::Prefix, &text[..=end])));
    }
    wider
}

fn covers(wider: &Route, narrower: &Route, listeners: &[Listener]) -> bool {
    let (w, n) = (&wider.matches, &narrower.matches);
    let methods = w.methods.is_empty()
        || (!n.methods.is_empty() && n.methods.iter().all(|method| w.methods.contains(method)));
    let host = |host: &HostPattern| {
        wider_hosts(Some(host)).iter().flatten().any(|host| w.hosts.contains(host))
    };
    let hosts = w.hosts.is_empty() || (!n.hosts.is_empty() && n.hosts.iter().all(host));
    // The path is already known to be covered: candidates are looked up by it.
    methods && hosts && covers_listeners(&wider.listeners, &narrower.listeners, listeners)
}

fn covers_listeners(wider: &RouteListeners, narrower: &RouteListeners, all: &[Listener]) -> bool {
    match (wider, narrower) {
        (RouteListeners::All, _) => true,
        (RouteListeners::Only(wider), RouteListeners::All) => {
            let mut http = all.iter().filter(|listener| listener.is_http());
            http.all(|listener| wider.contains(&listener.name))
        }
        (RouteListeners::Only(wider), RouteListeners::Only(narrower)) => {
            narrower.iter().all(|name| wider.contains(name))
        }
    }
}

/// Warns of a pool that nothing can reach or that has nothing to offer.
pub(super) fn pool(field: &Field<'_>, pool: &Pool, is_used: bool) {
    let warn = |found: &str, expected: &str| field.warning(&Fault::new(found, expected));
    if !is_used {
        warn("a pool that nothing uses", "a route or a tcp listener that does");
    }
    if pool.backends.iter().all(|backend| backend.backup) {
        warn("backups only", "at least one backend that is not a backup");
    }
    if pool.backends.iter().all(|backend| backend.weight.get() == 0) {
        warn("weights of 0 only", "at least one backend with a weight above 0");
    }
    if pool.backends.iter().all(|backend| backend.state != BackendState::Active) {
        warn("draining and disabled backends only", "at least one backend with state active");
    }
    if ignores_slow_start(pool) {
        let found = "slow_start, which policies that hash heed with bounded_load only";
        warn(found, "bounded_load, or no slow_start");
    }
}

/// Whether nothing of `slow_start` is heeded: a hashing policy has a bound to lower or it has not, and
/// every request has what it hashes.
fn ignores_slow_start(pool: &Pool) -> bool {
    let balance = &pool.balance;
    let always = matches!(balance.hash_on, HashOn::ClientIp | HashOn::Path | HashOn::Uri);
    let unbounded = balance.policy.is_hashing() && balance.bounded_load.is_none();
    !pool.slow_start.is_zero() && unbounded && always
}

/// The names of the pools that `routes` use, some of them perhaps more than once.
pub(super) fn routed_pools(routes: &[Route]) -> impl Iterator<Item = &PoolName> {
    routes.iter().flat_map(|route| pools_of(&route.action))
}

/// The names of the pools that tcp listeners use, likewise.
pub(super) fn forwarded_pools(listeners: &[Listener]) -> impl Iterator<Item = &PoolName> {
    listeners.iter().filter_map(Listener::tcp).flat_map(Tcp::pools)
}

fn pools_of(action: &Action) -> Vec<&PoolName> {
    match action {
        Action::Pool(pool) => vec![pool],
        Action::Split(split) => split.0.iter().map(|(pool, _)| pool).collect(),
        Action::Redirect(_) | Action::Respond(_) => Vec::new(),
    }
}
