//! The table against a model that tests every route in turn, over routes and requests that bytes decide.

use super::*;
use crate::model::{
    Action, HeaderMatch, ListenerName, Match, PathMatch, QueryMatch, Respond, Route,
    RouteListeners, RouteName, Upgrades, ValueMatch,
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use regex::Regex;

pub(super) fn route(matches: Match) -> Route {
    let respond = Respond { status: StatusCode::OK, headers: Vec::new(), body: Bytes::new() };
    Route {
        name: RouteName::try_new("r").unwrap(),
        listeners: RouteListeners::All,
        matches,
        action: Action::Respond(respond),
        timeout: None,
        upgrades: Upgrades::default(),
    }
}

pub(super) fn listeners() -> Vec<ListenerName> {
    ["web", "web_tls", "internal"].map(|name| ListenerName::try_new(name).unwrap()).to_vec()
}

pub(super) fn table(routes: &[Route]) -> RouteTable {
    RouteTable::new(routes, &listeners())
}

/// A request as tests describe it: what [`Facts`] borrows.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) listener: usize,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) query: Option<String>,
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
}

impl Request {
    pub(super) fn get(host: &str, path: &str) -> Self {
        Self {
            listener: 0,
            host: host.to_owned(),
            path: path.to_owned(),
            query: None,
            method: Method::GET,
            headers: HeaderMap::new(),
        }
    }

    pub(super) fn with_query(self, query: &str) -> Self {
        Self { query: Some(query.to_owned()), ..self }
    }

    pub(super) fn with_header(mut self, name: &'static str, value: &[u8]) -> Self {
        self.headers.append(name, HeaderValue::from_bytes(value).unwrap());
        self
    }

    pub(super) fn facts(&self) -> Facts<'_> {
        Facts {
            listener: self.listener,
            host: &self.host,
            path: &self.path,
            query: self.query.as_deref(),
            method: &self.method,
            headers: &self.headers,
        }
    }
}

// The model: every route in turn, each condition spelt out without the table's own functions.

fn model_value(condition: &ValueMatch, values: &[String]) -> bool {
    match condition {
        ValueMatch::Exact(exact) => values.contains(exact),
        ValueMatch::Regex(regex) => values.iter().any(|value| regex.is_match(value)),
        ValueMatch::Present(wanted) => *wanted != values.is_empty(),
    }
}

fn model_host(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Exact(exact) => exact == host,
        HostPattern::Below(domain) => {
            let labels: Vec<_> = host.split('.').collect();
            (1..labels.len()).any(|at| labels[at..].join(".") == *domain)
        }
    }
}

fn model_path(condition: &PathMatch, path: &str) -> bool {
    match condition {
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Regex(regex) => regex.is_match(path),
        PathMatch::Prefix(prefix) if prefix.ends_with('/') => path.starts_with(prefix),
        PathMatch::Prefix(prefix) => path == prefix || path.starts_with(&(prefix.to_owned() + "/")),
    }
}

pub(super) fn model_find(routes: &[Route], request: &Request) -> Option<usize> {
    let headers = |name: &HeaderName| -> Vec<String> {
        let all = request.headers.get_all(name);
        all.iter().map(|value| value.to_str().unwrap().to_owned()).collect()
    };
    let query = |name: &str| -> Vec<String> {
        let all = request.query.as_deref().unwrap_or("").split('&');
        all.filter_map(|pair| pair.split_once('='))
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| value.to_owned())
            .collect()
    };
    routes.iter().position(|route| {
        let Match { hosts, path, methods, headers: fields, query: parameters, .. } = &route.matches;
        let on_listener = match &route.listeners {
            RouteListeners::All => true,
            RouteListeners::Only(names) => names.contains(&listeners()[request.listener]),
        };
        on_listener
            && (hosts.is_empty() || hosts.iter().any(|host| model_host(host, &request.host)))
            && path.as_ref().is_none_or(|path| model_path(path, &request.path))
            && (methods.is_empty() || methods.contains(&request.method))
            && fields.iter().all(|field| model_value(&field.value, &headers(&field.name)))
            && parameters.iter().all(|each| model_value(&each.value, &query(&each.name)))
    })
}

pub(super) const HOSTS: &[&str] = &["", "a", "b.a", "c.b.a", "x.c.b.a", "c.a", "x.a", "b", "x.b"];
pub(super) const PATHS: &[&str] =
    &["/", "/a", "/a/", "/a/b", "/a/b/", "/ab", "/a//b", "/b", "/b/c/d", "*"];
pub(super) const VALUES: &[&str] = &["", "1", "2"];

/// What bytes decide, one at a time; zeros once there are none left.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn below(&mut self, count: usize) -> usize {
        self.0.next().map_or(0, |byte| usize::from(*byte) % count)
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    fn several<T>(&mut self, below: usize, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(below)).map(|_| one(self)).collect()
    }

    fn value(&mut self) -> ValueMatch {
        match self.below(3) {
            0 => ValueMatch::Exact(self.of(VALUES).to_owned()),
            1 => ValueMatch::Regex(Regex::new("^[12]$").unwrap()),
            _ => ValueMatch::Present(self.below(2) == 1),
        }
    }

    fn path(&mut self) -> PathMatch {
        match self.below(3) {
            0 => PathMatch::Exact(self.of(PATHS).to_owned()),
            1 => PathMatch::Prefix(self.of(&PATHS[..9]).to_owned()),
            _ => PathMatch::Regex(Regex::new(self.of(&["^/a/", "b$"])).unwrap()),
        }
    }

    fn route(&mut self) -> Route {
        const NAMES: [&str; 2] = ["p", "q"];
        let only = self.several(3, |choices| choices.of(&listeners()));
        let listeners =
            if only.is_empty() { RouteListeners::All } else { RouteListeners::Only(only) };
        let matches = Match {
            hosts: self.several(4, |choices| {
                let below = choices.below(2) == 1;
                let pattern = if below { HostPattern::Below } else { HostPattern::Exact };
                pattern(choices.of(&HOSTS[1..]).to_owned())
            }),
            path: (self.below(4) > 0).then(|| self.path()),
            methods: self.several(2, |choices| choices.of(&[Method::GET, Method::POST])),
            headers: self.several(2, |choices| HeaderMatch {
                name: HeaderName::from_static(choices.of(&NAMES)),
                value: choices.value(),
                secret: false,
            }),
            query: self.several(2, |choices| QueryMatch {
                name: choices.of(&NAMES).to_owned(),
                value: choices.value(),
                secret: false,
            }),
            ..Match::default()
        };
        Route { listeners, ..route(matches) }
    }

    fn request(&mut self) -> Request {
        let (host, path) = (self.of(HOSTS), self.of(PATHS));
        let query = self
            .several(3, |choices| format!("{}={}", choices.of(&["p", "q"]), choices.of(VALUES)));
        let request = Request {
            listener: self.below(3),
            method: self.of(&[Method::GET, Method::POST]),
            ..Request::get(host, path)
        };
        let fields = self.several(3, |choices| (choices.of(&["p", "q"]), choices.of(VALUES)));
        fields
            .into_iter()
            .fold(request, |request, (name, value)| request.with_header(name, value.as_bytes()))
            .with_query(&query.join("&"))
    }
}

/// A table of routes and requests that `bytes` decide: the model finds what the table finds.
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut choices = Choices(bytes.iter());
    let routes = choices.several(40, Choices::route);
    let table = table(&routes);
    for request in choices.several(20, Choices::request) {
        let facts = request.facts();
        let expected = model_find(&routes, &request);
        assert_eq!(table.find(&facts), expected, "{request:?}");
        let unobstructed = (0..routes.len()).find(|&at| table.why_not(at, &facts).is_none());
        assert_eq!(unobstructed, expected, "{request:?}");
    }
}
