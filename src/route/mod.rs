//! From the facts of a request to the route that serves it. Pure: no I/O, no clock, no state.
//!
//! The first route in file order whose conditions all hold wins. Testing every route in turn would
//! cost time in proportion to the table, so [`RouteTable`] is indexed by what tells most routes
//! apart: the host, and for a host with many routes the path. The index only narrows the choice
//! down to a few sorted lists of candidates; these are merged in file order, and the conditions of
//! each candidate are tested as written. So the index can make the answer faster but not different.

mod decode;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod index;
mod rule;
#[cfg(test)]
mod tests;

pub use crate::model::{PathError, normal_path, single_slashes};
#[cfg(any(test, fuzzing))]
pub(crate) use fuzz::fuzz;
pub use rule::Condition;

use crate::model::{self, HostPattern};
use http::{HeaderMap, Method};
use index::{Candidates, HostIndex};
use rule::Rule;

/// What routing needs to know of a request.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The listener it came in on, by its position among those the table was made with.
    pub listener: usize,
    /// The host asked for, lower case and without its port (see [`host_without_port`](crate::model::host_without_port)); empty if
    /// the request names none.
    pub host: &'a str,
    /// The path in normal form (see [`normal_path`]), with [single slashes](single_slashes).
    pub path: &'a str,
    /// The query as sent, without its question mark.
    pub query: Option<&'a str>,
    /// The method.
    pub method: &'a Method,
    /// The header fields.
    pub headers: &'a HeaderMap,
}

/// The routes of a configuration, compiled for matching.
#[derive(Debug)]
pub struct RouteTable {
    /// In file order, so that a position here is a position among the routes.
    rules: Box<[Rule]>,
    hosts: HostIndex,
}

impl RouteTable {
    /// Compiles `routes`, which name their listeners, for requests that give the position of
    /// theirs in `listeners`.
    #[must_use]
    pub fn new(routes: &[model::Route], listeners: &[model::ListenerName]) -> Self {
        Self {
            rules: routes.iter().map(|route| Rule::new(route, listeners)).collect(),
            hosts: HostIndex::new(routes),
        }
    }

    /// The position of the first route that matches, or `None` if none does.
    #[must_use]
    pub fn find(&self, facts: &Facts<'_>) -> Option<usize> {
        self.find_with(facts, |rule| rule.unmet(facts).is_none())
    }

    /// The first condition of the route at `position` that does not hold, or `None` if all do.
    ///
    /// # Panics
    /// If there is no such route.
    #[must_use]
    pub fn why_not(&self, position: usize, facts: &Facts<'_>) -> Option<Condition<'_>> {
        let rule = &self.rules[position];
        rule.unmet_host(facts.host).or_else(|| rule.unmet(facts))
    }

    /// The first candidate that passes `test`. A parameter so that tests can count candidates.
    fn find_with(&self, facts: &Facts<'_>, mut test: impl FnMut(&Rule) -> bool) -> Option<usize> {
        let mut candidates = Candidates::new(|route: u32| test(&self.rules[route as usize]));
        self.hosts.look_up(facts.host, facts.path, &mut candidates);
        candidates.first().map(|route| route as usize)
    }
}

/// Whether `host` is one that `pattern` describes.
fn host_matches(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Exact(name) => host == name,
        HostPattern::Below(domain) => host
            .strip_suffix(domain.as_str())
            .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
    }
}

/// Whether `path` is `prefix` or lies below it, on whole segments.
fn path_has_prefix(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

/// The value of the first parameter called `name` in a query, decoded.
pub fn query_value<'a>(query: &'a str, name: &str) -> Option<std::borrow::Cow<'a, str>> {
    decode::parameters(query)
        .find(|(encoded, _)| decode::equals(encoded, name))
        .map(|(_, value)| decode::text(value))
}
