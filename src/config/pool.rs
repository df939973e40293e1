//! `pools:`, sets of backends that can serve the same traffic.

use super::{
    backend,
    diagnostic::{Fault, nearest, quote},
    health_check,
    http::{HOST_AND_PORT, host_and_port},
    names::key_name,
    reader::{Field, Keys},
};
use crate::model::{BalancePolicy, HostHeader, Pool, PoolName, PoolTimeouts, Retry};
use http::HeaderValue;
use std::time::Duration;

pub(super) const KEYS: Keys = Keys {
    section: "pools.*",
    names: &[
        "backends",
        "resolve_interval",
        "balance",
        "host_header",
        "health_check",
        "retry",
        "timeouts",
        "reveal_backend",
    ],
};
pub(super) const BALANCE: Keys = Keys { section: "pools.*.balance", names: &["policy"] };
pub(super) const RETRY: Keys = Keys { section: "pools.*.retry", names: &["attempts"] };
pub(super) const TIMEOUTS: Keys =
    Keys { section: "pools.*.timeouts", names: &["connect", "read", "write", "idle"] };

/// What `pools:` holds, for messages.
pub(super) const EXPECTED: &str = "a map of at least one pool's name to its settings";
/// How often host names are resolved again.
pub(super) const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);
/// The most tries after the first: one more multiplies the load of an outage.
pub(super) const MAX_ATTEMPTS: u32 = 10;

/// Reads every pool.
pub(super) fn read_all(field: &Field<'_>) -> Option<Vec<Pool>> {
    let entries = field.entries(EXPECTED)?;
    if entries.is_empty() {
        field.error(&Fault::new("found an empty map", EXPECTED));
        return None;
    }
    let pools: Vec<Option<Pool>> = entries.iter().map(|(name, field)| read(name, field)).collect();
    pools.into_iter().collect()
}

fn read(name: &str, field: &Field<'_>) -> Option<Pool> {
    let name = key_name(name, field, PoolName::try_new);
    let section = field.section(&KEYS)?;
    let backends = section.require("backends", backend::EXPECTED);
    let backends = backends.and_then(|field| backend::read_all(&field));
    let resolve_interval =
        section.or("resolve_interval", RESOLVE_INTERVAL, Field::positive_duration);
    let host_header = section.or("host_header", HostHeader::Preserve, host_header);
    let balance = section.or("balance", BalancePolicy::RoundRobin, balance);
    let health_check =
        section.or("health_check", Some(health_check::defaults()), health_check::read);
    let retry = section.or("retry", Retry::default(), retry);
    let timeouts = section.or("timeouts", PoolTimeouts::default(), timeouts);
    let reveal_backend = section.or("reveal_backend", true, Field::switch);
    Some(Pool {
        name: name?,
        backends: backends?,
        resolve_interval,
        host_header,
        balance,
        health_check,
        retry,
        timeouts,
        reveal_backend,
    })
}

fn balance(field: &Field<'_>) -> Option<BalancePolicy> {
    let policies = BalancePolicy::ALL.map(|policy| (policy.as_str(), policy));
    if !field.is_map() {
        return field.word("policy", &policies);
    }
    let section = field.section(&BALANCE)?;
    section.require("policy", "the name of a policy")?.word("policy", &policies)
}

fn host_header(field: &Field<'_>) -> Option<HostHeader> {
    let expected = format!("preserve, backend, or {HOST_AND_PORT}");
    let host_header = field.scalar(&expected, |text| match text {
        "preserve" => Ok(HostHeader::Preserve),
        "backend" => Ok(HostHeader::Backend),
        literal => host_and_port(literal).map(HostHeader::Literal),
    })?;
    if let HostHeader::Literal(host) = &host_header {
        warn_of_almost_preserve(field, host);
    }
    Some(host_header)
}

/// A misspelt `preserve` is a valid host, but nobody's. (A misspelt `backend` may be somebody's.)
fn warn_of_almost_preserve(field: &Field<'_>, host: &HeaderValue) {
    let Ok(host) = host.to_str() else { return };
    let meant = nearest(host, ["preserve"]);
    if meant.is_some() {
        let found = format!("host {}", quote(host));
        field.warning(&Fault::new(found, "preserve, backend or a host").with_nearest(meant));
    }
}

fn retry(field: &Field<'_>) -> Option<Retry> {
    let section = field.section(&RETRY)?;
    let attempts =
        |field: &Field<'_>| u32::try_from(field.integer(0..=u64::from(MAX_ATTEMPTS))?).ok();
    Some(Retry { attempts: section.or("attempts", Retry::default().attempts, attempts) })
}

fn timeouts(field: &Field<'_>) -> Option<PoolTimeouts> {
    let section = field.section(&TIMEOUTS)?;
    let defaults = PoolTimeouts::default();
    let or = |key, default| section.or(key, default, Field::positive_duration);
    Some(PoolTimeouts {
        connect: or("connect", defaults.connect),
        read: or("read", defaults.read),
        write: or("write", defaults.write),
        idle: or("idle", defaults.idle),
    })
}
