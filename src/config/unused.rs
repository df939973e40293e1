//! Keys that do nothing beside what else is given. A value that is the default is no mistake: `-T` prints
//! those.

use super::{
    diagnostic::{Fault, quote},
    reader::{Field, Section},
};
use crate::{
    filter::Chain,
    model::{
        Action, Admin, Backend, BackendAddress, ListenAddress, Listener, ListenerLimits,
        ListenerTimeouts, Pool, PoolLimits, Retry, Route, Upgrades,
    },
};

fn warn(field: Option<Field<'_>>, key: &str, why: &str, expected: &str) {
    if let Some(field) = field {
        field.warning(&Fault::new(format!("{} {why}", quote(key)), expected));
    }
}

/// The key `key` of the section `name` if it is given.
fn inner<'a>(section: &Section<'a>, name: &str, key: &str) -> Option<Field<'a>> {
    section.get(name)?.find(key)
}

/// Warns of what has no effect on an http listener.
pub(super) fn http_listener(section: &Section<'_>, listener: &Listener) {
    if listener.tls.is_some() {
        return;
    }
    if listener.timeouts.tls_handshake != ListenerTimeouts::default().tls_handshake {
        let field = inner(section, "timeouts", "tls_handshake");
        warn(field, "tls_handshake", "where there is no TLS", "tls beside timeouts");
    }
    if !listener.h2c && listener.limits.h2_streams != ListenerLimits::default().h2_streams {
        let field = inner(section, "limits", "h2_streams");
        warn(field, "h2_streams", "where no client can speak HTTP/2", "h2c: true, or tls");
    }
}

/// Warns of names of the admin API where requests need none.
pub(super) fn admin(section: &Section<'_>, admin: &Admin) {
    if matches!(admin.address, ListenAddress::Unix(_)) && !admin.hosts.is_empty() {
        let why = "on a unix socket, where every name is taken";
        warn(section.get("hosts"), "hosts", why, "no hosts, or an address with a port");
    }
}

/// Warns of the keys of a route that goes to no backend. Its filters may take time, and may send it to
/// one.
pub(super) fn route(section: &Section<'_>, route: &Route, filters: &Chain) {
    let answers = matches!(route.action, Action::Redirect(_) | Action::Respond(_));
    if !answers || !filters.is_empty() {
        return;
    }
    let why = "on a route that answers at once";
    if route.timeout.is_some() {
        warn(section.get("timeout"), "timeout", why, "pool or split");
    }
    if route.upgrades != Upgrades::default() {
        warn(section.get("allow_upgrade"), "allow_upgrade", why, "pool or split");
    }
}

/// Warns of the keys of a retry where nothing is tried again.
pub(super) fn retry(section: &Section<'_>, retry: &Retry) {
    let defaults = Retry::default();
    if retry.attempts > 0 {
        return;
    }
    for (key, is_default) in [
        ("on", retry.on == defaults.on),
        ("backoff", retry.backoff == defaults.backoff),
        ("budget", retry.budget == defaults.budget),
    ] {
        if !is_default {
            let why = "beside attempts: 0, with which nothing is tried again";
            warn(section.get(key), key, why, "attempts above 0");
        }
    }
}

/// Warns of a time for a queue that there is not.
pub(super) fn limits(section: &Section<'_>, limits: &PoolLimits) {
    let is_default = limits.queue_timeout == PoolLimits::default().queue_timeout;
    if limits.queue == 0 && !is_default {
        let why = "where no request waits";
        warn(section.get("queue_timeout"), "queue_timeout", why, "queue above 0 beside it");
    }
}

/// Warns of the keys of a pool that have no effect in it. Where there is an admin API, backends with host
/// names may come by it.
pub(super) fn pool(field: &Field<'_>, pool: &Pool, has_admin: bool) {
    let Some(section) = field.section(&super::pool::KEYS) else { return };
    if pool.health_check.is_none() && pool.ejection.is_none() {
        let why = "with neither health_check nor ejection, so that every backend counts as usable";
        let expected = "health_check or ejection that is not off";
        if pool.panic_threshold != super::pool::never_panic() {
            warn(section.get("panic_threshold"), "panic_threshold", why, expected);
        }
        if !pool.slow_start.is_zero() {
            warn(section.get("slow_start"), "slow_start", why, expected);
        }
    }
    let is_named = |backend: &Backend| matches!(backend.address, BackendAddress::Host { .. });
    let resolves = has_admin || pool.backends.iter().any(is_named);
    if !resolves && pool.resolve_interval != super::pool::RESOLVE_INTERVAL {
        let why = "where no backend is a host name";
        let field = section.get("resolve_interval");
        warn(field, "resolve_interval", why, "a host name as a backend");
    }
}
