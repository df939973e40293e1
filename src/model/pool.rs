//! Pools: sets of backends that can serve the same traffic, with their policy.

use super::{BackendAddress, BackendName, BalancePolicy, Percent, PoolName, Weight};
use http::{HeaderName, HeaderValue, Method};
use std::{num::NonZeroU32, time::Duration};

/// One entry of `pools:`.
#[derive(Clone, Debug)]
pub struct Pool {
    /// The key in the file.
    pub name: PoolName,
    /// The backends in file order; never empty; names and addresses are unique.
    pub backends: Vec<Backend>,
    /// How often host names are resolved again.
    pub resolve_interval: Duration,
    /// What `Host` a backend sees.
    pub host_header: HostHeader,
    /// How a backend is chosen.
    pub balance: BalancePolicy,
    /// Active probing; `None` when it is off and every backend counts as healthy.
    pub health_check: Option<HealthCheck>,
    /// When a request is tried again.
    pub retry: Retry,
    /// How long a backend may take.
    pub timeouts: PoolTimeouts,
    /// Whether responses say which backend they come from (`X-Backend-Server`).
    pub reveal_backend: bool,
}

/// One backend as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name.
    pub name: BackendName,
    /// Its address.
    pub address: BackendAddress,
    /// Its share of traffic.
    pub weight: Weight,
    /// Whether it serves only when no other is usable.
    pub backup: bool,
}

/// The `Host` field a backend sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostHeader {
    /// The client's.
    Preserve,
    /// The backend's address as configured.
    Backend,
    /// This one.
    Literal(HeaderValue),
}

/// Active probing of a pool's backends.
#[derive(Clone, Debug)]
pub struct HealthCheck {
    /// What a probe does.
    pub probe: Probe,
    /// The longest time between two probes of a backend.
    pub interval: Duration,
    /// The longest a whole probe may take.
    pub timeout: Duration,
    /// Successes in a row that bring a backend back.
    pub rise: NonZeroU32,
    /// Failures in a row that take a backend out.
    pub fall: NonZeroU32,
    /// How much of the interval is left to chance, so that probes spread.
    pub jitter: Percent,
}

/// What a probe does.
#[derive(Clone, Debug)]
pub enum Probe {
    /// Connects and closes.
    Tcp,
    /// Sends a request and judges the response.
    Http(HttpProbe),
}

/// An HTTP probe.
#[derive(Clone, Debug)]
pub struct HttpProbe {
    /// The request target, starting with `/`.
    pub path: String,
    /// The method.
    pub method: Method,
    /// The `Host`; `None` is the backend's address.
    pub host: Option<HeaderValue>,
    /// Further header fields.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The statuses that count as success; never empty.
    pub expect_status: Vec<StatusRange>,
    /// A text the body must contain.
    pub expect_body: Option<String>,
    /// A port other than the backend's own.
    pub port: Option<u16>,
}

/// An inclusive range of statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    /// The lowest.
    pub from: u16,
    /// The highest, at least `from`.
    pub to: u16,
}

/// When a request is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries after the first, each on a backend not yet tried.
    pub attempts: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 2 }
    }
}

/// How long a backend may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolTimeouts {
    /// To accept a connection.
    pub connect: Duration,
    /// Between two reads from it, the first byte of its answer included.
    pub read: Duration,
    /// To take what we send.
    pub write: Duration,
    /// How long an unused connection to it is kept.
    pub idle: Duration,
}

impl Default for PoolTimeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            read: Duration::from_secs(30),
            write: Duration::from_secs(30),
            idle: Duration::from_secs(60),
        }
    }
}
