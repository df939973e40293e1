//! `pools:`, sets of backends that can serve the same traffic.

use super::{
    backend, balance,
    diagnostic::{Fault, nearest, quote},
    ejection, health_check,
    http::{HOST_AND_PORT, host_and_port},
    names::key_name,
    reader::{Field, Keys, Section},
    retry, sticky, streams, tls, unused,
};
use crate::model::{
    Backend, BackendAddress, BackendProtocol, Balance, BalancePolicy, Ejection, HealthCheck,
    HostHeader, HttpProbe, Percent, Pool, PoolLimits, PoolName, PoolTimeouts, Probe, ProxyVersion,
    Retry,
};
use http::HeaderValue;
use std::time::Duration;

pub(super) const KEYS: Keys = Keys {
    section: "pools.*",
    names: &[
        "backends",
        "resolve_interval",
        "tls",
        "protocol",
        "host_header",
        "balance",
        "sticky",
        "health_check",
        "ejection",
        "panic_threshold",
        "slow_start",
        "retry",
        "timeouts",
        "proxy_protocol",
        "limits",
        "reveal_backend",
    ],
};
pub(super) const TIMEOUTS: Keys =
    Keys { section: "pools.*.timeouts", names: &["connect", "read", "write", "idle"] };
pub(super) const LIMITS: Keys = Keys {
    section: "pools.*.limits",
    names: &["connections_per_backend", "queue", "queue_timeout"],
};

/// What `pools:` holds, for messages.
pub(super) const EXPECTED: &str = "a map of at least one pool's name to its settings";
/// How often host names are resolved again.
pub(super) const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);
/// A backend that comes back takes its whole share at once.
pub(super) const SLOW_START: Duration = Duration::ZERO;
/// The most requests that may wait: each holds a connection and its head in memory.
const MAX_QUEUE: u64 = 1_000_000;

/// Who uses a pool, as far as that could be read.
#[derive(Clone, Copy)]
pub(super) struct Users {
    /// Tcp listeners do.
    pub(super) streams: bool,
    /// And nobody else does.
    pub(super) alone: bool,
}

/// Reads every pool; `users` says who uses it.
pub(super) fn read_all(field: &Field<'_>, users: impl Fn(&str) -> Users) -> Option<Vec<Pool>> {
    let entries = field.entries(EXPECTED)?;
    if entries.is_empty() {
        field.error(&Fault::new("found an empty map", EXPECTED));
        return None;
    }
    let system = tls::SystemAuthorities::default();
    let read = |(name, field): &(&str, Field<'_>)| read(name, field, users(name), &system);
    let pools: Vec<Option<Pool>> = entries.iter().map(read).collect();
    pools.into_iter().collect()
}

fn read(
    name: &str,
    field: &Field<'_>,
    users: Users,
    system: &tls::SystemAuthorities,
) -> Option<Pool> {
    let name = key_name(name, field, PoolName::try_new);
    let section = field.section(&KEYS)?;
    if users.streams && users.alone {
        streams::check(&section);
    }
    let backends = section.require("backends", backend::EXPECTED);
    let backends = backends.and_then(|field| backend::read_all(&field));
    let tls = section.try_or("tls", None, |field| tls::pool(field, system).map(Some));
    if let (Some(backends), Some(Some(tls))) = (&backends, &tls)
        && users.streams
    {
        streams::check_names(&section, backends, tls);
    }
    let protocol = read_protocol(&section);
    if protocol == BackendProtocol::Http1 && !(users.streams && users.alone) {
        warn_of_grpc_check(&section);
    }
    let health_check =
        section.or("health_check", Some(health_check::defaults()), health_check::read);
    if let (Some(check), Some(backends)) = (&health_check, &backends) {
        refuse_port_of_sockets(&section, check, backends);
    }
    // Fields are read in this order, so what is missing stops nothing that comes before it.
    Some(Pool {
        resolve_interval: section.or(
            "resolve_interval",
            RESOLVE_INTERVAL,
            Field::positive_duration,
        ),
        protocol,
        host_header: section.or("host_header", HostHeader::Preserve, host_header),
        balance: section.or("balance", Balance::of(BalancePolicy::RoundRobin), balance::read),
        sticky: section.optional("sticky", sticky::read).flatten(),
        health_check,
        ejection: section.or("ejection", Some(Ejection::default()), ejection::read),
        panic_threshold: section.or("panic_threshold", never_panic(), Field::percent),
        slow_start: section.or("slow_start", SLOW_START, Field::duration),
        retry: section.or("retry", Retry::default(), retry::read),
        timeouts: section.or("timeouts", PoolTimeouts::default(), timeouts),
        proxy_protocol: section.optional("proxy_protocol", proxy_protocol).flatten(),
        limits: section.or("limits", PoolLimits::default(), limits),
        reveal_backend: section.or("reveal_backend", true, Field::switch),
        name: name?,
        backends: backends?,
        tls: tls?,
    })
}

/// A unix socket has no port that another could stand for: it is checked itself, and where there are
/// only such, a port would mean nothing.
fn refuse_port_of_sockets(section: &Section<'_>, check: &HealthCheck, backends: &[Backend]) {
    let is_socket = |backend: &Backend| matches!(backend.address, BackendAddress::Unix(_));
    let has_port = matches!(check.probe, Probe::Http(HttpProbe { port: Some(_), .. }));
    if !has_port || !backends.iter().all(is_socket) {
        return;
    }
    let http = section.get("health_check").and_then(|field| field.find("http"));
    if let Some(port) = http.and_then(|field| field.find("port")) {
        let found = "a port where every backend is a unix socket, which has none";
        port.key_error(&Fault::new(found, "no port, or a backend with one"));
    }
}

/// The panic threshold of a pool that does not say: one that is never reached.
pub(super) fn never_panic() -> Percent {
    Percent::try_new(0.0).expect("0 is a percentage")
}

fn read_protocol(section: &Section<'_>) -> BackendProtocol {
    let protocol = section.or("protocol", BackendProtocol::default(), protocol);
    if let (BackendProtocol::Auto, Some(field)) = (protocol, section.get("protocol"))
        && section.get("tls").is_none()
    {
        let found = "auto without tls, where backends cannot choose a protocol";
        field.error(&Fault::new(found, "http1 or http2, or tls beside it"));
    }
    protocol
}

/// Backends that answer such a check speak gRPC, which is not spoken in HTTP/1.
fn warn_of_grpc_check(section: &Section<'_>) {
    let check = section.get("health_check").filter(Field::is_map);
    let keys = check.and_then(|field| field.entries("")).into_iter().flatten();
    for (_, field) in keys.filter(|(key, _)| *key == "grpc") {
        let found = "a check by gRPC in a pool that speaks HTTP/1.1 to its backends";
        field.warning(&Fault::new(found, "protocol http2, or auto with tls"));
    }
}

fn protocol(field: &Field<'_>) -> Option<BackendProtocol> {
    if field.is_one_of(&["https"]) {
        let expected = "http1, http2 or auto, with tls beside it";
        field.error(&Fault::new("unknown protocol \"https\"", expected));
        return None;
    }
    let words = [
        ("http1", BackendProtocol::Http1),
        ("http2", BackendProtocol::Http2),
        ("auto", BackendProtocol::Auto),
    ];
    field.word("protocol", &words)
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

/// Reads the version of the header that backends get. The inner `None` is off.
#[allow(clippy::option_option, reason = "off, and unreadable, are two things")]
fn proxy_protocol(field: &Field<'_>) -> Option<Option<ProxyVersion>> {
    if field.is_off() {
        return Some(None);
    }
    let words = [("off", None), ("v1", Some(ProxyVersion::V1)), ("v2", Some(ProxyVersion::V2))];
    field.word("proxy_protocol", &words)
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

fn limits(field: &Field<'_>) -> Option<PoolLimits> {
    let section = field.section(&LIMITS)?;
    let defaults = PoolLimits::default();
    let connections =
        section.try_or("connections_per_backend", defaults.connections_per_backend, Field::count);
    let queue = |field: &Field<'_>| usize::try_from(field.integer(0..=MAX_QUEUE)?).ok();
    let queue = section.or("queue", defaults.queue, queue);
    let queue_timeout =
        section.or("queue_timeout", defaults.queue_timeout, Field::positive_duration);
    let connections_per_backend = connections?;
    if queue > 0 && connections_per_backend.is_none() {
        refuse_queue(&section);
    }
    let limits = PoolLimits { connections_per_backend, queue, queue_timeout };
    unused::limits(&section, &limits);
    Some(limits)
}

/// A request waits only for a backend at its limit.
fn refuse_queue(section: &Section<'_>) {
    if let Some(field) = section.get("queue") {
        let found = "a queue where no request ever waits, as backends have no limit";
        field.error(&Fault::new(found, "connections_per_backend above 0 beside it, or queue: 0"));
    }
}
