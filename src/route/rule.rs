//! The conditions of one route, as the configuration states them.

use super::{Facts, decode, host_matches, path_has_prefix};
use crate::model::{
    HeaderMatch, ListenerName, Match, PathMatch, QueryMatch, Route, RouteListeners, ValueMatch,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt;

/// A condition of a route, named to say why the route does not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition<'a> {
    /// The listeners it applies to.
    Listener,
    /// Its hosts.
    Host,
    /// Its path, prefix or regular expression.
    Path,
    /// Its methods.
    Method,
    /// Its condition on this header field.
    Header(&'a HeaderName),
    /// Its condition on this query parameter.
    Query(&'a str),
}

impl fmt::Display for Condition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listener => f.write_str("listener"),
            Self::Host => f.write_str("host"),
            Self::Path => f.write_str("path"),
            Self::Method => f.write_str("method"),
            Self::Header(name) => write!(f, "header {name}"),
            Self::Query(name) => write!(f, "query parameter {name}"),
        }
    }
}

/// The listeners a route applies to.
#[derive(Debug)]
enum Listeners {
    All,
    /// Positions, few and in no order.
    Only(Box<[usize]>),
}

impl Listeners {
    fn new(condition: &RouteListeners, listeners: &[ListenerName]) -> Self {
        match condition {
            RouteListeners::All => Self::All,
            RouteListeners::Only(names) => {
                let is_named = |(at, name)| names.contains(name).then_some(at);
                Self::Only(listeners.iter().enumerate().filter_map(is_named).collect())
            }
        }
    }

    fn contains(&self, listener: usize) -> bool {
        match self {
            Self::All => true,
            Self::Only(positions) => positions.contains(&listener),
        }
    }
}

/// One route's conditions.
#[derive(Debug)]
pub(super) struct Rule {
    listeners: Listeners,
    matches: Match,
}

impl Rule {
    pub(super) fn new(route: &Route, listeners: &[ListenerName]) -> Self {
        Self {
            listeners: Listeners::new(&route.listeners, listeners),
            matches: route.matches.clone(),
        }
    }

    pub(super) fn host_holds(&self, host: &str) -> bool {
        let hosts = &self.matches.hosts;
        hosts.is_empty() || hosts.iter().any(|pattern| host_matches(pattern, host))
    }

    /// The first condition, the host aside, that does not hold. The host is left out because a
    /// route may have thousands of them, and a candidate's is known to match.
    pub(super) fn unmet(&self, facts: &Facts<'_>) -> Option<Condition<'_>> {
        let Match { path, methods, headers, query, .. } = &self.matches;
        if !self.listeners.contains(facts.listener) {
            return Some(Condition::Listener);
        }
        if !path.as_ref().is_none_or(|path| path_holds(path, facts.path)) {
            return Some(Condition::Path);
        }
        if !methods.is_empty() && !methods.contains(facts.method) {
            return Some(Condition::Method);
        }
        if let Some(header) = headers.iter().find(|header| !header_holds(header, facts.headers)) {
            return Some(Condition::Header(&header.name));
        }
        query
            .iter()
            .find(|parameter| !query_holds(parameter, facts.query))
            .map(|parameter| Condition::Query(&parameter.name))
    }
}

fn path_holds(condition: &PathMatch, path: &str) -> bool {
    match condition {
        PathMatch::Exact(exact) => path == exact,
        PathMatch::Prefix(prefix) => path_has_prefix(path, prefix),
        PathMatch::Regex(regex) => regex.is_match(path),
    }
}

fn header_holds(condition: &HeaderMatch, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(&condition.name).iter().map(HeaderValue::as_bytes);
    match &condition.value {
        ValueMatch::Exact(exact) => values.any(|value| value == exact.as_bytes()),
        ValueMatch::Regex(regex) => {
            values.any(|value| regex.is_match(&String::from_utf8_lossy(value)))
        }
        ValueMatch::Present(wanted) => values.next().is_some() == *wanted,
    }
}

fn query_holds(condition: &QueryMatch, query: Option<&str>) -> bool {
    let mut values = query
        .into_iter()
        .flat_map(decode::parameters)
        .filter(|(name, _)| decode::equals(name, &condition.name))
        .map(|(_, value)| value);
    match &condition.value {
        ValueMatch::Exact(exact) => values.any(|value| decode::equals(value, exact)),
        ValueMatch::Regex(regex) => values.any(|value| regex.is_match(&decode::text(value))),
        ValueMatch::Present(wanted) => values.next().is_some() == *wanted,
    }
}
