//! Routes: rules that map a request to a pool, a redirect or a fixed response.

use super::{ListenerName, PoolName, RouteName, Template};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use regex::Regex;
use std::time::Duration;

/// One entry of `routes:`.
#[derive(Clone, Debug)]
pub struct Route {
    /// Its name; `route-1`, `route-2`, ... by position when the file gives none.
    pub name: RouteName,
    /// The listeners it applies to.
    pub listeners: RouteListeners,
    /// The conditions, all of which must hold.
    pub matches: Match,
    /// What happens to a request that matches.
    pub action: Action,
    /// Time until the response's headers, retries included; `None` is no limit.
    pub timeout: Option<Duration>,
    /// The protocols that its requests may change to.
    pub upgrades: Upgrades,
}

/// Protocols that a connection may change to, as an `Upgrade` field names them: a name, or a name and
/// a version (`my-proto/1`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrades(pub Vec<String>);

impl Default for Upgrades {
    fn default() -> Self {
        Self(vec!["websocket".to_owned()])
    }
}

impl Upgrades {
    /// Whether a connection may change to this one. Names differ in more than case.
    pub fn allow(&self, protocol: &[u8]) -> bool {
        self.0.iter().any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(protocol))
    }
}

/// The listeners a route applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteListeners {
    /// Every http listener.
    All,
    /// Those named; never empty.
    Only(Vec<ListenerName>),
}

/// The conditions of a route. An empty list or `None` is no condition.
#[derive(Clone, Debug, Default)]
pub struct Match {
    /// Any of these hosts.
    pub hosts: Vec<HostPattern>,
    /// The path, in normal form.
    pub path: Option<PathMatch>,
    /// Any of these methods.
    pub methods: Vec<Method>,
    /// All of these header fields.
    pub headers: Vec<HeaderMatch>,
    /// All of these query parameters.
    pub query: Vec<QueryMatch>,
    /// Whether one of the hosts is a secret.
    pub secret_hosts: bool,
    /// Whether the path is one.
    pub secret_path: bool,
}

/// A host condition. Ports are not part of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This host, lower case.
    Exact(String),
    /// Any host below this domain (`*.example.com` holds `example.com`), lower case: one label or
    /// more before it, never the domain itself.
    Below(String),
}

/// A path condition.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// Exactly this path.
    Exact(String),
    /// This path or any below it, on whole segments: `/v1` matches `/v1` and `/v1/x`, not `/v10`.
    Prefix(String),
    /// A regular expression found anywhere in the path unless anchored.
    Regex(Regex),
}

/// A condition on a header field.
#[derive(Clone, Debug)]
pub struct HeaderMatch {
    /// The field's name.
    pub name: HeaderName,
    /// The condition on its value; with several fields of that name, one must meet it.
    pub value: ValueMatch,
    /// Whether that is a secret, which no explanation shows.
    pub secret: bool,
}

/// A condition on a query parameter, percent-decoded.
#[derive(Clone, Debug)]
pub struct QueryMatch {
    /// The parameter's name.
    pub name: String,
    /// The condition on its value; with several of that name, one must meet it.
    pub value: ValueMatch,
    /// Whether that is a secret, which no explanation shows.
    pub secret: bool,
}

/// A condition on a value.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// Exactly this value.
    Exact(String),
    /// A regular expression found in the value.
    Regex(Regex),
    /// There is such a value (`true`) or there is none (`false`).
    Present(bool),
}

/// What a route does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Proxy to this pool.
    Pool(PoolName),
    /// Proxy to one of these pools, at random in proportion to the shares.
    Split(Split),
    /// Send the client elsewhere.
    Redirect(Redirect),
    /// Answer at once.
    Respond(Respond),
}

/// Pools with their shares; the sum of the shares is positive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split(pub Vec<(PoolName, u32)>);

/// A redirect.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// The `Location`.
    pub to: Template,
    /// Whether that has a secret in it, which no explanation shows.
    pub secret: bool,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// A fixed response.
#[derive(Clone, Debug)]
pub struct Respond {
    /// 200 to 599.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub body: Bytes,
}
