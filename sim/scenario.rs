//! What is simulated: a pool as configured, its backends, its clients, and what goes wrong.

use super::{
    arrivals::Arrivals,
    events::StationId,
    service::ServiceTime,
    station::{Capacity, Mode},
};
use pingora_lb::{
    model::{
        BackendProtocol, BackendState, Balance, BalancePolicy, HealthCheck, HostHeader, Percent,
        Pool, PoolLimits, PoolName, PoolTimeouts, Probe, Retry, Weight,
    },
    pool::MemberSpec,
};
use std::{num::NonZeroU32, time::Duration};

/// A scenario. With a seed it is a run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The pool as configured; its backends are those below.
    pub pool: Pool,
    /// The backends, in order. All are members in the beginning.
    pub backends: Vec<SimulatedBackend>,
    /// When requests arrive.
    pub arrivals: Arrivals,
    /// How much work they are.
    pub service: ServiceTime,
    /// For how long requests arrive. The run ends when the last has ended.
    pub length: Duration,
    /// What ends before this is not measured.
    pub warm_up: Duration,
    /// The different keys that the hashing policies see, equally often; with 0, requests have
    /// none.
    pub keys: u64,
    /// The share of requests that may be repeated.
    pub idempotent: f64,
    /// How long a client waits before it goes away, on average; `None` is for ever.
    pub patience: Option<Duration>,
    /// How long it takes a request whose turn in the queue has come to act on it.
    pub wake: Duration,
    /// What happens, and when.
    pub script: Vec<(Duration, Action)>,
}

/// A backend of a scenario.
#[derive(Clone, Debug)]
pub struct SimulatedBackend {
    /// As the pool sees it.
    pub member: MemberSpec,
    /// What it can do.
    pub capacity: Capacity,
}

/// A step of a script.
#[derive(Clone, Debug)]
pub enum Action {
    /// The backend behaves like this from now on.
    Set(StationId, Mode),
    /// The backend's process ends: what it works on is lost, and it refuses until it is set to
    /// something else.
    Crash(StationId),
    /// The operator decides whether the backend takes requests.
    Admit(StationId, BackendState),
    /// The operator gives the backend another weight.
    Weigh(StationId, Weight),
    /// The pool has these members from now on.
    Members(Vec<StationId>),
}

impl SimulatedBackend {
    /// One of weight 1 with so many workers at full speed.
    pub fn new(number: usize, workers: usize) -> Self {
        let name = format!("backend-{number}");
        let member = MemberSpec { name, weight: Weight::ONE, backup: false, probed: false };
        Self { member, capacity: Capacity { workers, speed: 1.0 } }
    }
}

/// A pool with the defaults of the configuration, save that it has no health check.
pub fn pool(policy: BalancePolicy) -> Pool {
    Pool {
        name: PoolName::try_new("simulated").expect("a valid name"),
        backends: Vec::new(),
        resolve_interval: Duration::from_secs(30),
        protocol: BackendProtocol::Http1,
        host_header: HostHeader::Preserve,
        balance: Balance::of(policy),
        sticky: None,
        health_check: None,
        ejection: Some(pingora_lb::model::Ejection::default()),
        panic_threshold: Percent::try_new(0.0).expect("0 is a percentage"),
        slow_start: Duration::ZERO,
        retry: Retry::default(),
        timeouts: PoolTimeouts::default(),
        proxy_protocol: None,
        limits: PoolLimits::default(),
        tls: None,
        reveal_backend: true,
    }
}

/// The health check of the defaults: a TCP handshake every 5 s.
pub fn tcp_check() -> HealthCheck {
    HealthCheck {
        probe: Probe::Tcp,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        rise: NonZeroU32::MIN.saturating_add(1),
        fall: NonZeroU32::MIN.saturating_add(2),
        jitter: Percent::try_new(10.0).expect("10 is a percentage"),
    }
}
