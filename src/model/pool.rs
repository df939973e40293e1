//! Pools: sets of backends that can serve the same traffic, with their policy.

use super::{BackendAddress, BackendName, Balance, Percent, PoolName, PoolTls, Weight};
use http::{HeaderName, HeaderValue, Method};
use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

/// One entry of `pools:`.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// The key in the file.
    pub name: PoolName,
    /// The backends in file order; never empty; names and addresses are unique.
    pub backends: Vec<Backend>,
    /// How often host names are resolved again.
    pub resolve_interval: Duration,
    /// How its backends are met in TLS; `None` is clear text.
    pub tls: Option<PoolTls>,
    /// What is spoken to the backends.
    pub protocol: BackendProtocol,
    /// What `Host` a backend sees.
    pub host_header: HostHeader,
    /// How a backend is chosen.
    pub balance: Balance,
    /// Whether clients stay with a backend by a cookie; `None` when they do not.
    pub sticky: Option<Sticky>,
    /// Active probing; `None` when it is off and every backend counts as healthy.
    pub health_check: Option<HealthCheck>,
    /// When real traffic takes a backend out; `None` when it never does.
    pub ejection: Option<Ejection>,
    /// With fewer usable backends in the chosen tier than this share, all of them are used, usable
    /// or not. 0% is never.
    pub panic_threshold: Percent,
    /// How long a backend that comes back takes to reach its full weight; zero is at once.
    pub slow_start: Duration,
    /// When a request is tried again.
    pub retry: Retry,
    /// How long a backend may take.
    pub timeouts: PoolTimeouts,
    /// The version of the PROXY protocol's header that goes ahead of each connection to a backend;
    /// `None` when there is none.
    pub proxy_protocol: Option<ProxyVersion>,
    /// How much the backends may be asked to do at a time.
    pub limits: PoolLimits,
    /// Whether responses say which backend they come from (`X-Backend-Server`).
    pub reveal_backend: bool,
}

impl Pool {
    /// How long connecting to a backend may take in one try, which has no more time than that for all of it.
    pub fn connect_timeout(&self) -> Duration {
        let connect = self.timeouts.connect;
        self.retry.per_try_timeout.map_or(connect, |own| own.min(connect))
    }
}

/// What is spoken to the backends of a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, which the backends are known to speak, or must choose where TLS lets them.
    Http2,
    /// What each backend chooses in the TLS handshake, HTTP/2 rather than HTTP/1.1.
    Auto,
}

impl BackendProtocol {
    /// The newest and the oldest version of HTTP that is spoken.
    pub fn versions(self) -> (u8, u8) {
        match self {
            Self::Http1 => (1, 1),
            Self::Http2 => (2, 2),
            Self::Auto => (2, 1),
        }
    }
}

/// A version of the PROXY protocol's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Binary.
    V2,
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
    /// Whether it takes requests.
    pub state: BackendState,
}

/// Whether a backend takes requests, as its operator decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum BackendState {
    /// It does.
    #[default]
    Active,
    /// Only those of clients that stay with it; what is in flight goes on.
    Draining,
    /// None.
    Disabled,
}

impl BackendState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Active, Self::Draining, Self::Disabled];

    /// The state's name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        }
    }
}

/// What is decided of a backend at run time; what is not given stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amendment {
    /// Whether it takes requests.
    pub state: Option<BackendState>,
    /// Its share of traffic.
    pub weight: Option<Weight>,
}

impl Amendment {
    /// This, and then `later`.
    #[must_use]
    pub fn and(self, later: Self) -> Self {
        Self { state: later.state.or(self.state), weight: later.weight.or(self.weight) }
    }

    /// What is left of this where `other` decides.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self {
            state: self.state.filter(|_| other.state.is_none()),
            weight: self.weight.filter(|_| other.weight.is_none()),
        }
    }
}

/// Clients that stay with a backend by a cookie.
#[derive(Clone, PartialEq, Eq)]
pub struct Sticky {
    /// The cookie's name.
    pub cookie: String,
    /// How long the cookie lives after it was last used.
    pub ttl: Duration,
    /// The cookie's path.
    pub path: String,
    /// Whether the cookie is for TLS only.
    pub secure: Secure,
    /// The cookie's `SameSite`.
    pub same_site: SameSite,
    /// What the cookie is signed with; `None` is a random one for each start.
    pub secret: Option<String>,
}

impl std::fmt::Debug for Sticky {
    /// Everything but the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sticky").field("cookie", &self.cookie).finish_non_exhaustive()
    }
}

/// Whether a cookie has `Secure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secure {
    /// When the client came over TLS.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// A cookie's `SameSite`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SameSite {
    /// `Lax`
    Lax,
    /// `Strict`
    Strict,
    /// `None`
    None,
}

/// Passive removal of a backend that real traffic shows to be failing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ejection {
    /// Failures in a row that eject: 5xx, reset, timeout, refused.
    pub consecutive_failures: NonZeroU32,
    /// How long the first ejection lasts; the n-th in a row lasts n times as long.
    pub base_time: Duration,
    /// The longest an ejection lasts.
    pub max_time: Duration,
    /// The most of a pool that may be ejected at a time. It rounds down, but one of two or more may
    /// always go.
    pub max_percent: Percent,
}

/// How much the backends of a pool may be asked to do at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Requests in flight on one backend; `None` is no limit.
    pub connections_per_backend: Option<NonZeroUsize>,
    /// Requests that may wait for a backend below its limit.
    pub queue: usize,
    /// The longest a request waits.
    pub queue_timeout: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self { connections_per_backend: None, queue: 0, queue_timeout: Duration::from_secs(5) }
    }
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
#[derive(Clone, Debug, PartialEq)]
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
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// Connects and closes.
    Tcp,
    /// Sends a request and judges the response.
    Http(HttpProbe),
    /// Asks by gRPC's health checking protocol, over HTTP/2 whatever the pool's protocol.
    Grpc(GrpcProbe),
}

/// A gRPC probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcProbe {
    /// The service that is asked after; empty is the server as a whole.
    pub service: String,
}

/// An HTTP probe.
#[derive(Clone, Debug, PartialEq)]
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
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    /// Tries after the first, each on a backend not yet tried.
    pub attempts: u32,
    /// The failures after which a request is tried again.
    pub on: Vec<RetryOn>,
    /// The pause before a try.
    pub backoff: Backoff,
    /// The most tries beyond the first, over all requests of the pool.
    pub budget: Budget,
    /// How long one try may take until the response's headers; `None` is no limit of its own.
    pub per_try_timeout: Option<Duration>,
}

/// A failure after which a request may be tried again. All but the first two are for idempotent
/// methods only: the backend may have acted on the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// No connection could be made.
    ConnectFailure,
    /// The backend refused the stream before it looked at it.
    RefusedStream,
    /// The connection broke before an answer.
    Reset,
    /// The answer did not begin in time.
    Timeout,
    /// The backend answered 502, 503 or 504.
    Status(u16),
}

impl RetryOn {
    /// Every failure by its name in the configuration.
    pub const NAMES: [(&str, Self); 7] = [
        ("connect_failure", Self::ConnectFailure),
        ("refused_stream", Self::RefusedStream),
        ("reset", Self::Reset),
        ("timeout", Self::Timeout),
        ("502", Self::Status(502)),
        ("503", Self::Status(503)),
        ("504", Self::Status(504)),
    ];

    /// The failure's name in the configuration.
    pub fn as_str(self) -> &'static str {
        let named = Self::NAMES.into_iter().find(|(_, failure)| *failure == self);
        named.map_or("status", |(name, _)| name)
    }
}

/// The pause before a try: a random part of `base` times two for each try before, at most `max`
/// ("full jitter").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest pause before the first retry.
    pub base: Duration,
    /// The longest pause.
    pub max: Duration,
}

/// The most retries of a pool: a share of its requests, and a floor for pools with few.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Retries as a share of the requests of the last ten seconds.
    pub percent: Percent,
    /// Retries that are allowed whatever the share.
    pub min_per_second: u32,
}

impl Retry {
    /// The defaults with this many attempts.
    pub fn with_attempts(attempts: u32) -> Self {
        Self {
            attempts,
            on: vec![RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::Reset],
            backoff: Backoff { base: Duration::from_millis(25), max: Duration::from_millis(250) },
            budget: Budget {
                percent: Percent::try_new(20.0).expect("20 is a percentage"),
                min_per_second: 3,
            },
            per_try_timeout: None,
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self::with_attempts(2)
    }
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive_failures: NonZeroU32::MIN.saturating_add(4),
            base_time: Duration::from_secs(30),
            max_time: Duration::from_secs(300),
            max_percent: Percent::try_new(50.0).expect("50 is a percentage"),
        }
    }
}

/// How long a backend may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolTimeouts {
    /// To accept a connection, the TLS handshake included.
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
