//! The configuration of the file-less form: a listener and a pool from command line flags.

use super::{
    health_check,
    pool::{RESOLVE_INTERVAL, SLOW_START, never_panic},
    retry::MAX_ATTEMPTS,
    route, server,
};
use crate::model::{
    Backend, BackendAddress, BackendName, BackendProtocol, BackendState, Balance, BalancePolicy,
    Config, Ejection, HealthCheck, HostHeader, ListenAddress, Listener, ListenerLimits,
    ListenerName, ListenerTimeouts, Pool, PoolLimits, PoolName, PoolTimeouts, Protocol, Retry,
    Weight,
};
use std::time::Duration;

/// What the flags of the file-less form say.
#[derive(Clone, Debug)]
pub struct Quick {
    /// Where to accept.
    pub listen: ListenAddress,
    /// The backends, each once, at least one.
    pub backends: Vec<BackendAddress>,
    /// How a backend is chosen; policies that hash take the client's address.
    pub algorithm: BalancePolicy,
    /// The time between two probes of a backend, above zero.
    pub health_interval: Duration,
    /// The longest a probe may take, above zero. The next one waits for it to end.
    pub health_timeout: Duration,
    /// Tries after the first, at most 10.
    pub max_retries: u32,
}

/// The configuration that `quick` stands for: one listener `web`, one pool `app`, one route
/// `route-1`, and for all else the defaults of a file.
///
/// # Errors
/// What is wrong with the values, in one line: `found ...; expected ...`.
pub fn quick(quick: &Quick) -> Result<Config, String> {
    let pool = pool(quick)?;
    let route = route::catch_all(pool.name.clone()).ok_or("no valid name for the route")?;
    Ok(Config {
        server: server::defaults(&|name| std::env::var(name).ok()),
        admin: None,
        access_log: None,
        trusted_proxies: Vec::new(),
        listeners: vec![Listener {
            name: ListenerName::try_new("web").map_err(|error| error.to_string())?,
            address: quick.listen.clone(),
            protocol: Protocol::Http,
            tls: None,
            h2c: false,
            proxy_protocol: None,
            max_connections: None,
            timeouts: ListenerTimeouts::default(),
            limits: ListenerLimits::default(),
        }],
        routes: vec![route],
        pools: vec![pool],
    })
}

fn pool(quick: &Quick) -> Result<Pool, String> {
    let max_retries = quick.max_retries;
    if max_retries > MAX_ATTEMPTS {
        return Err(format!("found {max_retries} retries; expected at most {MAX_ATTEMPTS}"));
    }
    Ok(Pool {
        name: PoolName::try_new("app").map_err(|error| error.to_string())?,
        backends: backends(&quick.backends)?,
        resolve_interval: RESOLVE_INTERVAL,
        protocol: BackendProtocol::Http1,
        host_header: HostHeader::Preserve,
        balance: Balance::of(quick.algorithm),
        sticky: None,
        health_check: Some(health_check(quick)?),
        ejection: Some(Ejection::default()),
        panic_threshold: never_panic(),
        slow_start: SLOW_START,
        retry: Retry::with_attempts(max_retries),
        timeouts: PoolTimeouts::default(),
        proxy_protocol: None,
        limits: PoolLimits::default(),
        tls: None,
        reveal_backend: true,
    })
}

fn backends(addresses: &[BackendAddress]) -> Result<Vec<Backend>, String> {
    if addresses.is_empty() {
        return Err("found no backend; expected at least one".to_owned());
    }
    let mut backends: Vec<Backend> = Vec::new();
    for address in addresses {
        if backends.iter().any(|backend| backend.address == *address) {
            return Err(format!("duplicate backend {address}; expected each backend once"));
        }
        let text = address.to_string();
        let name = BackendName::try_new(&text)
            .map_err(|error| format!("found backend {text}; expected it to be a name: {error}"))?;
        let address = address.clone();
        backends.push(Backend {
            name,
            address,
            weight: Weight::ONE,
            backup: false,
            state: BackendState::Active,
        });
    }
    Ok(backends)
}

fn health_check(quick: &Quick) -> Result<HealthCheck, String> {
    let (interval, timeout) = (quick.health_interval, quick.health_timeout);
    if interval.is_zero() || timeout.is_zero() {
        return Err("found a health interval or timeout of 0; expected durations above zero".into());
    }
    Ok(HealthCheck { interval, timeout, ..health_check::defaults() })
}
