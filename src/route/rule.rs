//! The conditions of one route, as the configuration states them.

use super::{Facts, decode, host_matches, path_has_prefix};
use crate::model::{
    HeaderMatch, HostPattern, ListenerName, MASK, Match, PathMatch, QueryMatch, Route,
    RouteListeners, ValueMatch,
};
use http::{HeaderMap, HeaderValue, Method};
use regex::Regex;
use std::fmt;

/// A condition of a route, named to say why the route does not match.
#[derive(Clone, Copy, Debug)]
pub enum Condition<'a> {
    /// The listeners it applies to.
    Listener,
    /// Its hosts.
    Host(&'a Match),
    /// Its path, prefix or regular expression.
    Path(&'a Match),
    /// Its methods.
    Method(&'a [Method]),
    /// Its condition on this header field.
    Header(&'a HeaderMatch),
    /// Its condition on this query parameter.
    Query(&'a QueryMatch),
}

impl Condition<'_> {
    /// What it asks for, without what is secret.
    pub fn expected(&self) -> String {
        match self {
            _ if self.is_secret() => MASK.to_owned(),
            Self::Listener => "another listener".to_owned(),
            Self::Host(matches) => one_of(matches.hosts.iter().map(host_text)),
            Self::Path(matches) => matches.path.as_ref().map(path_text).unwrap_or_default(),
            Self::Method(methods) => one_of(methods.iter().map(Method::to_string)),
            Self::Header(header) => value_text(&header.value),
            Self::Query(parameter) => value_text(&parameter.value),
        }
    }

    fn is_secret(&self) -> bool {
        match self {
            Self::Listener | Self::Method(_) => false,
            Self::Host(matches) => matches.secret_hosts,
            Self::Path(matches) => matches.secret_path,
            Self::Header(header) => header.secret,
            Self::Query(parameter) => parameter.secret,
        }
    }
}

fn path_text(path: &PathMatch) -> String {
    match path {
        PathMatch::Exact(path) => path.clone(),
        PathMatch::Prefix(path) => format!("{path} or below it"),
        PathMatch::Regex(regex) => matching(regex),
    }
}

fn host_text(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Below(domain) => format!("*.{domain}"),
    }
}

fn value_text(value: &ValueMatch) -> String {
    match value {
        ValueMatch::Exact(exact) => exact.clone(),
        ValueMatch::Regex(regex) => matching(regex),
        ValueMatch::Present(true) => "present".to_owned(),
        ValueMatch::Present(false) => "absent".to_owned(),
    }
}

fn matching(regex: &Regex) -> String {
    format!("something that matches {regex}")
}

/// A choice, of which a route may have thousands.
fn one_of(choices: impl ExactSizeIterator<Item = String>) -> String {
    const SHOWN: usize = 5;
    let more = choices.len().saturating_sub(SHOWN);
    let shown = choices.take(SHOWN).collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown} or {more} others") }
}

impl fmt::Display for Condition<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listener => f.write_str("listener"),
            Self::Host(_) => f.write_str("host"),
            Self::Path(_) => f.write_str("path"),
            Self::Method(_) => f.write_str("method"),
            Self::Header(header) => write!(f, "header {}", header.name),
            Self::Query(parameter) => write!(f, "query parameter {}", parameter.name),
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

    /// The condition on the host if that does not hold.
    pub(super) fn unmet_host(&self, host: &str) -> Option<Condition<'_>> {
        let hosts = &self.matches.hosts;
        let holds = hosts.is_empty() || hosts.iter().any(|pattern| host_matches(pattern, host));
        (!holds).then_some(Condition::Host(&self.matches))
    }

    /// The first condition, the host aside, that does not hold. The host is left out because a
    /// route may have thousands of them, and a candidate's is known to match.
    pub(super) fn unmet(&self, facts: &Facts<'_>) -> Option<Condition<'_>> {
        let Match { path, methods, headers, query, .. } = &self.matches;
        if !self.listeners.contains(facts.listener) {
            return Some(Condition::Listener);
        }
        if path.as_ref().is_some_and(|path| !path_holds(path, facts.path)) {
            return Some(Condition::Path(&self.matches));
        }
        if !methods.is_empty() && !methods.contains(facts.method) {
            return Some(Condition::Method(methods));
        }
        if let Some(header) = headers.iter().find(|header| !header_holds(header, facts.headers)) {
            return Some(Condition::Header(header));
        }
        query.iter().find(|parameter| !query_holds(parameter, facts.query)).map(Condition::Query)
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
