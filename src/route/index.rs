//! The index over routes: by host, and for a host with many routes by path.

use crate::model::{HostPattern, PathMatch, Route};
use std::{collections::HashMap, mem, ops::RangeInclusive};

/// Up to this many routes of one host are tested one by one, which is cheaper than hashing the
/// beginnings of a path.
const FEW: usize = 8;
/// How many lists are merged at a time: the host itself, two or three domains above it and the
/// routes of any host make five at most in practice.
const LISTS: usize = 16;

/// Positions of routes, in file order.
type Routes = Vec<u32>;

/// The first of the candidate routes, in file order, that passes a test.
///
/// Holds the lists that remain to be merged in a fixed array. Should there be more than fit, those
/// at hand are searched first, and what they yield is an upper bound for the rest.
pub(super) struct Candidates<'a, F> {
    lists: [&'a [u32]; LISTS],
    used: usize,
    found: Option<u32>,
    test: F,
}

impl<'a, F: FnMut(u32) -> bool> Candidates<'a, F> {
    pub(super) fn new(test: F) -> Self {
        Self { lists: [&[]; LISTS], used: 0, found: None, test }
    }

    fn add(&mut self, list: &'a [u32]) {
        if self.used == LISTS {
            self.search();
        }
        self.lists[self.used] = list;
        self.used += 1;
    }

    /// The first candidate of all lists that passes the test.
    pub(super) fn first(mut self) -> Option<u32> {
        self.search();
        self.found
    }

    /// Tests the candidates in file order, as long as they come before what was found.
    fn search(&mut self) {
        let lists = &mut self.lists[..mem::take(&mut self.used)];
        while let Some(next) = lists.iter().filter_map(|list| list.first().copied()).min() {
            if self.found.is_some_and(|found| found <= next) {
                return;
            }
            if (self.test)(next) {
                self.found = Some(next);
                return;
            }
            // A route is in several lists when several of its hosts match.
            for list in lists.iter_mut().filter(|list| list.first() == Some(&next)) {
                *list = &list[1..];
            }
        }
    }
}

/// A map from texts, with the range of their lengths: beginnings and ends of a request's path or
/// host outside of it are not looked up, so that a hostile one of many parts costs no more than
/// the configuration makes possible.
#[derive(Debug)]
struct ByText<T> {
    entries: HashMap<Box<str>, T>,
    lengths: RangeInclusive<usize>,
}

impl<T> ByText<T> {
    fn new(entries: HashMap<Box<str>, T>) -> Self {
        let lengths = || entries.keys().map(|text| text.len());
        let lengths = lengths().min().unwrap_or(1)..=lengths().max().unwrap_or(0);
        Self { entries, lengths }
    }

    fn get(&self, text: &str) -> Option<&T> {
        if self.lengths.contains(&text.len()) { self.entries.get(text) } else { None }
    }
}

/// Routes by host.
#[derive(Debug)]
pub(super) struct HostIndex {
    exact: ByText<PathIndex>,
    /// By domain: the routes of all hosts below it.
    below: ByText<PathIndex>,
    any: PathIndex,
}

impl HostIndex {
    pub(super) fn new(routes: &[Route]) -> Self {
        let mut exact: HashMap<&str, Routes> = HashMap::new();
        let mut below: HashMap<&str, Routes> = HashMap::new();
        let mut any = Routes::new();
        for (position, route) in (0..).zip(routes) {
            for pattern in &route.matches.hosts {
                let list = match pattern {
                    HostPattern::Exact(host) => exact.entry(host).or_default(),
                    HostPattern::Below(domain) => below.entry(domain).or_default(),
                };
                list.push(position);
            }
            if route.matches.hosts.is_empty() {
                any.push(position);
            }
        }
        let by_text = |lists: HashMap<&str, Routes>| {
            let indexed = |(host, list): (&str, _)| (host.into(), PathIndex::new(list, routes));
            ByText::new(lists.into_iter().map(indexed).collect())
        };
        Self { exact: by_text(exact), below: by_text(below), any: PathIndex::new(any, routes) }
    }

    /// Adds every route whose host condition `host` meets, but for those whose path condition
    /// `path` is known not to meet.
    pub(super) fn look_up<'a, F: FnMut(u32) -> bool>(
        &'a self,
        host: &str,
        path: &str,
        candidates: &mut Candidates<'a, F>,
    ) {
        if let Some(routes) = self.exact.get(host) {
            routes.look_up(path, candidates);
        }
        for routes in domains_above(host, &self.below) {
            routes.look_up(path, candidates);
        }
        self.any.look_up(path, candidates);
    }
}

/// The entries of all domains that `host` lies below, the shortest domain first.
fn domains_above<'a, T>(host: &str, domains: &'a ByText<T>) -> impl Iterator<Item = &'a T> {
    let longest = *domains.lengths.end();
    memchr::memrchr_iter(b'.', host.as_bytes())
        .map(move |dot| (dot, &host[dot + 1..]))
        .take_while(move |(_, domain)| domain.len() <= longest)
        // A host that starts with the dot has no label before it.
        .filter(|(dot, _)| *dot > 0)
        .filter_map(|(_, domain)| domains.get(domain))
}

/// The routes of one host, by path if they are many.
#[derive(Debug)]
enum PathIndex {
    Few(Box<[u32]>),
    Many(Box<ByPath>),
}

#[derive(Debug)]
struct ByPath {
    exact: ByText<Routes>,
    prefix: ByText<Routes>,
    /// Those without a path condition, and those with a regular expression.
    rest: Routes,
}

impl PathIndex {
    fn new(mut list: Routes, routes: &[Route]) -> Self {
        // A route that names a host twice is in its list twice, side by side.
        list.dedup();
        if list.len() <= FEW {
            return Self::Few(list.into());
        }
        Self::Many(Box::new(ByPath::new(list, routes)))
    }

    fn look_up<'a, F: FnMut(u32) -> bool>(
        &'a self,
        path: &str,
        candidates: &mut Candidates<'a, F>,
    ) {
        match self {
            Self::Few(list) => candidates.add(list),
            Self::Many(by_path) => by_path.look_up(path, candidates),
        }
    }
}

impl ByPath {
    fn new(list: Routes, routes: &[Route]) -> Self {
        let mut exact: HashMap<Box<str>, Routes> = HashMap::new();
        let mut prefix: HashMap<Box<str>, Routes> = HashMap::new();
        let mut rest = Routes::new();
        for position in list {
            let list = match &routes[position as usize].matches.path {
                Some(PathMatch::Exact(path)) => exact.entry(path.as_str().into()).or_default(),
                Some(PathMatch::Prefix(path)) => prefix.entry(path.as_str().into()).or_default(),
                Some(PathMatch::Regex(_)) | None => &mut rest,
            };
            list.push(position);
        }
        Self { exact: ByText::new(exact), prefix: ByText::new(prefix), rest }
    }

    fn look_up<'a, F: FnMut(u32) -> bool>(
        &'a self,
        path: &str,
        candidates: &mut Candidates<'a, F>,
    ) {
        if let Some(routes) = self.exact.get(path) {
            candidates.add(routes);
        }
        for routes in
            prefixes(path, *self.prefix.lengths.end()).filter_map(|prefix| self.prefix.get(prefix))
        {
            candidates.add(routes);
        }
        candidates.add(&self.rest);
    }
}

/// Every prefix of `path`, up to a length, that `path_has_prefix` accepts: it ends in a slash,
/// before one, or where the path ends.
fn prefixes(path: &str, longest: usize) -> impl Iterator<Item = &str> {
    let bytes = path.as_bytes();
    let is_end = |at: usize| bytes.get(at).is_none_or(|&b| b == b'/');
    let follows_slash = |at: usize| at > 0 && bytes[at - 1] == b'/';
    (0..=path.len().min(longest))
        .filter(move |&at| is_end(at) || follows_slash(at))
        .map(|at| &path[..at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::path_has_prefix;

    #[test]
    fn lists_exactly_the_prefixes_that_match() {
        for path in ["/", "*", "/v1", "/v1/", "/v1//x", "//", "/a/b/c"] {
            let expected: Vec<_> = (0..=path.len())
                .map(|at| &path[..at])
                .filter(|prefix| path_has_prefix(path, prefix))
                .collect();
            assert_eq!(prefixes(path, 100).collect::<Vec<_>>(), expected, "{path}");
        }
        assert_eq!(prefixes("/a/b/c", 3).collect::<Vec<_>>(), ["", "/", "/a", "/a/"]);
    }

    #[test]
    fn merges_more_lists_than_fit() {
        let lists: Vec<Vec<u32>> =
            (0..40).map(|first| (first..200).step_by(40).collect()).collect();
        let mut tested = Vec::new();
        let mut candidates = Candidates::new(|route| {
            tested.push(route);
            route >= 100
        });
        lists.iter().rev().for_each(|list| candidates.add(list));
        assert_eq!(candidates.first(), Some(100));
        assert!(tested.len() <= 200);
    }

    #[test]
    fn skips_domains_longer_than_any_configured() {
        let domains = ByText::new(HashMap::from([("b.c".into(), 1), ("a.b.c".into(), 2)]));
        let above = |host: &str| domains_above(host, &domains).copied().collect::<Vec<_>>();
        assert_eq!(above("x.y.a.b.c"), [1, 2]);
        assert_eq!(above("a.b.c"), [1]);
        assert!(above("b.c").is_empty());
        assert!(above(".b.c").is_empty());
        assert!(above("").is_empty());
    }
}
