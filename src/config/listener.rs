//! `listeners:`, where connections are accepted and what a client may cost.

use super::{
    action,
    backend::{expected, fitting},
    diagnostic::{Fault, quote},
    matches::sni_pattern,
    names::{Names, key_name},
    reader::{Field, Keys, Once, Section},
    scalar::Hint,
    tls, trusted_proxies, unused,
};
use crate::model::{
    AddressError, HostPattern, ListenAddress, Listener, ListenerLimits, ListenerName,
    ListenerTimeouts, ListenerTls, PoolName, Protocol, ProxyProtocol, Tcp,
};
use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

pub(super) const KEYS: Keys = Keys {
    section: "listeners.*",
    names: &[
        "address",
        "protocol",
        "h2c",
        "pool",
        "sni",
        "idle_timeout",
        "tls",
        "proxy_protocol",
        "proxy_protocol_from",
        "max_connections",
        "timeouts",
        "limits",
    ],
};
pub(super) const TIMEOUTS: Keys = Keys {
    section: "listeners.*.timeouts",
    names: &["header", "body_idle", "keepalive", "write", "tls_handshake"],
};
pub(super) const LIMITS: Keys = Keys {
    section: "listeners.*.limits",
    names: &[
        "header_bytes",
        "headers",
        "uri_bytes",
        "requests_per_connection",
        "h2_streams",
        "min_rate",
    ],
};

/// What `listeners:` holds, for messages.
pub(super) const EXPECTED: &str = "a map of at least one listener's name to its settings";
pub(super) const ADDRESS: &str = "ip:port, [ipv6]:port or unix:/path";
const SNI: &str = "a map of at least one host name to the name of a pool";
const SNI_NAME: &str = "a host name such as example.com or *.example.com";
/// How long a connection that is passed on may be silent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// The keys that are about requests.
const HTTP_KEYS: [&str; 2] = ["h2c", "limits"];
/// The keys that say where connections go, and those of `timeouts` that are about requests.
const TCP_KEYS: [&str; 3] = ["pool", "sni", "idle_timeout"];
const HTTP_TIMEOUTS: [&str; 3] = ["body_idle", "keepalive", "write"];

/// Reads every listener.
pub(super) fn read_all(field: &Field<'_>, names: &Names<'_>) -> Option<Vec<Listener>> {
    let entries = field.entries(EXPECTED)?;
    if entries.is_empty() {
        field.error(&Fault::new("found an empty map", EXPECTED));
        return None;
    }
    let mut addresses = Addresses::default();
    let listeners: Vec<Option<Listener>> =
        entries.iter().map(|(name, field)| read(name, field, names, &mut addresses)).collect();
    listeners.into_iter().collect()
}

fn read(
    name: &str,
    field: &Field<'_>,
    names: &Names<'_>,
    addresses: &mut Addresses,
) -> Option<Listener> {
    let name = key_name(name, field, ListenerName::try_new);
    let section = field.section(&KEYS)?;
    let address = section.require("address", ADDRESS).and_then(|field| address(&field, addresses));
    let kind = section.try_or("protocol", Kind::Http, kind);
    let protocol = kind.and_then(|kind| protocol(&section, kind, names));
    let tls = section.try_or("tls", None, |field| tls_of(kind, field).map(Some));
    let h2c = h2c(&section);
    let proxy_protocol = proxy_protocol(&section, address.as_ref());
    let max_connections = section.optional("max_connections", Field::count).flatten();
    let timeouts = section.or("timeouts", ListenerTimeouts::default(), timeouts);
    let limits = section.or("limits", ListenerLimits::default(), limits);
    let listener = Listener {
        name: name?,
        address: address?,
        protocol: protocol?,
        tls: tls?,
        h2c,
        proxy_protocol,
        max_connections,
        timeouts,
        limits,
    };
    if listener.is_http() {
        unused::http_listener(&section, &listener);
    }
    Some(listener)
}

fn kind(field: &Field<'_>) -> Option<Kind> {
    if field.is_one_of(&["https"]) {
        let found = "unknown protocol \"https\"";
        field.error(&Fault::new(found, "http, with tls beside it for https, or tcp"));
        return None;
    }
    field.word("protocol", &KINDS)
}

fn tls_of(kind: Option<Kind>, field: &Field<'_>) -> Option<ListenerTls> {
    match kind {
        Some(Kind::Tcp) => tls::stream_listener(field),
        Some(Kind::Http) | None => tls::listener(field),
    }
}

/// Reads whether clients may speak HTTP/2 in clear text. Inside TLS, ALPN says which protocol it is.
fn h2c(section: &Section<'_>) -> bool {
    let h2c = section.or("h2c", false, Field::switch);
    if let Some(field) = section.get("h2c").filter(|_| h2c && section.get("tls").is_some()) {
        let found = "HTTP/2 in clear text on a listener that speaks TLS, where ALPN decides";
        field.error(&Fault::new(found, "h2 in tls.alpn, or a listener of its own without tls"));
    }
    h2c
}

/// The protocol without what else is said of it.
#[derive(Clone, Copy)]
enum Kind {
    Http,
    Tcp,
}

const KINDS: [(&str, Kind); 2] = [("http", Kind::Http), ("tcp", Kind::Tcp)];

/// Reads what the listener makes of a connection. The keys of the other protocol are errors.
fn protocol(section: &Section<'_>, kind: Kind, names: &Names<'_>) -> Option<Protocol> {
    match kind {
        Kind::Http => {
            for key in TCP_KEYS {
                let why = "beside protocol http, where routes say what goes where";
                refuse(section.get(key).as_ref(), key, why, "protocol tcp");
            }
            Some(Protocol::Http)
        }
        Kind::Tcp => {
            for key in HTTP_KEYS {
                let why = "beside protocol tcp, which knows no requests";
                refuse(section.get(key).as_ref(), key, why, "protocol http");
            }
            check_tcp_timeouts(section);
            let why = "beside tls, after which there is no hello left to look at";
            let hello = section.get("sni").filter(|_| section.get("tls").is_some());
            refuse(hello.as_ref(), "sni", why, "pool, or no tls: it decrypts what sni passes on");
            tcp(section, names).map(Protocol::Tcp)
        }
    }
}

fn refuse(field: Option<&Field<'_>>, key: &str, why: &str, expected: &str) {
    if let Some(field) = field {
        field.key_error(&Fault::new(format!("{} {why}", quote(key)), expected));
    }
}

/// Only the times for what comes ahead of the stream have a meaning there, and only if that is read.
fn check_tcp_timeouts(section: &Section<'_>) {
    let Some(timeouts) = section.get("timeouts").filter(Field::is_map) else { return };
    for (key, field) in timeouts.entries("").into_iter().flatten() {
        if HTTP_TIMEOUTS.contains(&key) {
            let why = "beside protocol tcp, which knows no requests";
            refuse(Some(&field), key, why, "idle_timeout beside timeouts, or protocol http");
        } else if key == "header" && !reads_ahead(section) {
            let found = "a time for what comes ahead of the stream, where nothing is read of that";
            field.warning(&Fault::new(found, "sni or proxy_protocol beside timeouts"));
        } else if key == "tls_handshake" && section.get("tls").is_none() {
            let found = "a time for the TLS handshake, where there is none";
            field.warning(&Fault::new(found, "tls beside timeouts"));
        }
    }
}

/// Reads whether a header comes ahead of each connection, and from where.
fn proxy_protocol(section: &Section<'_>, address: Option<&ListenAddress>) -> Option<ProxyProtocol> {
    let required = section.try_or("proxy_protocol", None, proxy_protocol_word);
    let from = section.or("proxy_protocol_from", Vec::new(), trusted_proxies::read);
    let field = section.get("proxy_protocol_from").filter(|_| !from.is_empty());
    if let Some(field) = field {
        let found = "networks that a PROXY header may come from";
        if let Some(ListenAddress::Unix(_)) = address {
            let found = format!("{found} on a unix socket, whose clients have no addresses");
            field.error(&Fault::new(found, "an empty list; the socket's file has permissions"));
        } else if required == Some(None) {
            let expected = "proxy_protocol accept or require beside them";
            field.error(&Fault::new(format!("{found} where none is read"), expected));
        }
    }
    required.flatten().map(|required| ProxyProtocol { required, from })
}

#[allow(clippy::option_option, reason = "off, and unreadable, are two things")]
fn proxy_protocol_word(field: &Field<'_>) -> Option<Option<bool>> {
    if field.is_off() {
        return Some(None);
    }
    let words = [("off", None), ("accept", Some(false)), ("require", Some(true))];
    field.word("proxy_protocol", &words)
}

/// Whether something is read before a stream is passed on.
fn reads_ahead(section: &Section<'_>) -> bool {
    let header = section.get("proxy_protocol").is_some_and(|field| !field.is_off());
    header || section.get("sni").is_some()
}

fn tcp(section: &Section<'_>, names: &Names<'_>) -> Option<Tcp> {
    let sni = section.get("sni").map(|field| sni(&field, names));
    let pool = section.get("pool").map(|field| action::pool(&field, names));
    let idle_timeout = section.or("idle_timeout", IDLE_TIMEOUT, Field::positive_duration);
    if sni.is_none() && pool.is_none() {
        let found = "protocol tcp without a pool";
        section.field().error(&Fault::new(found, "pool, or sni with a pool for each name"));
        return None;
    }
    let pool = match pool {
        Some(pool) => Some(pool?),
        None => None,
    };
    Some(Tcp { sni: sni.unwrap_or_else(|| Some(Vec::new()))?, pool, idle_timeout })
}

fn sni(field: &Field<'_>, names: &Names<'_>) -> Option<Vec<(HostPattern, PoolName)>> {
    let entries = field.entries(SNI)?;
    if entries.is_empty() {
        field.error(&Fault::new("found an empty map", SNI));
        return None;
    }
    let mut once = Once::default();
    let read = |(name, field): &(&str, Field<'_>)| sni_entry(name, field, names, &mut once);
    // All are read, and so reported, before one that failed takes the map with it.
    let found: Vec<_> = entries.iter().map(read).collect();
    found.into_iter().collect()
}

fn sni_entry(
    name: &str,
    field: &Field<'_>,
    names: &Names<'_>,
    once: &mut Once,
) -> Option<(HostPattern, PoolName)> {
    let pool = action::pool(field, names);
    match sni_pattern(name) {
        Ok(pattern) => {
            once.check(&name.to_ascii_lowercase(), "name", field);
            Some((pattern, pool?))
        }
        Err(hint) => {
            field.key_error(&hint.fault(name, SNI_NAME));
            None
        }
    }
}

/// Reads where to accept, whoever else may be there.
pub(super) fn any_address(field: &Field<'_>) -> Option<ListenAddress> {
    let base = field.context().base();
    field.scalar(ADDRESS, |text| {
        let address = text.parse().map_err(|error| address_hint(text, error))?;
        fitting(ListenAddress::relative_to(address, base))
    })
}

/// The addresses of listeners so far, with where they stand.
#[derive(Default)]
struct Addresses(Vec<(ListenAddress, String, u32)>);

fn address(field: &Field<'_>, addresses: &mut Addresses) -> Option<ListenAddress> {
    let address = any_address(field)?;
    if let Some((other, path, line)) = addresses.0.iter().find(|(it, ..)| it.meets(&address)) {
        let covered = if *other == address { String::new() } else { format!(" with {other}") };
        let found = format!("duplicate address {}", quote(&address.to_string()));
        let first = format!("each address once; the first, {path}{covered}, is on line {line}");
        field.error(&Fault::new(found, first));
    } else {
        let line = field.position().line;
        addresses.0.push((address.clone(), field.path().to_owned(), line));
    }
    Some(address)
}

fn address_hint(text: &str, error: AddressError) -> Hint {
    if error != AddressError::Listen {
        return Hint::expected(expected(error));
    }
    let port = text.trim_start_matches("localhost").trim_start_matches(':');
    let host = if text.starts_with("localhost") { "127.0.0.1" } else { "0.0.0.0" };
    let guess = format!("{host}:{port}");
    Hint::nearest(guess.parse::<ListenAddress>().is_ok().then_some(guess))
}

fn timeouts(field: &Field<'_>) -> Option<ListenerTimeouts> {
    let section = field.section(&TIMEOUTS)?;
    let defaults = ListenerTimeouts::default();
    let or = |key, default| section.or(key, default, Field::positive_duration);
    Some(ListenerTimeouts {
        header: or("header", defaults.header),
        body_idle: or("body_idle", defaults.body_idle),
        keepalive: or("keepalive", defaults.keepalive),
        write: or("write", defaults.write),
        tls_handshake: or("tls_handshake", defaults.tls_handshake),
    })
}

fn limits(field: &Field<'_>) -> Option<ListenerLimits> {
    let section = field.section(&LIMITS)?;
    let defaults = ListenerLimits::default();
    let header_bytes = section.or("header_bytes", defaults.header_bytes, header_bytes);
    let headers = |field: &Field<'_>| usize::try_from(field.integer(1..=256)?).ok();
    Some(ListenerLimits {
        header_bytes,
        headers: section.or("headers", defaults.headers, headers),
        uri_bytes: uri_bytes(&section, header_bytes, defaults.uri_bytes),
        requests_per_connection: section
            .optional("requests_per_connection", Field::count)
            .flatten(),
        h2_streams: section.or("h2_streams", defaults.h2_streams, h2_streams),
        min_rate: section.or("min_rate", defaults.min_rate, min_rate),
    })
}

fn header_bytes(field: &Field<'_>) -> Option<usize> {
    let size = field.size(&(1024..=1024 * 1024), "a size from 1KiB to 1MiB")?;
    usize::try_from(size).ok()
}

fn h2_streams(field: &Field<'_>) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::try_from(field.integer(1..=1_000)?).ok()?)
}

#[allow(clippy::option_option, reason = "no limit, and unreadable, are two things")]
fn min_rate(field: &Field<'_>) -> Option<Option<NonZeroU64>> {
    let expected = "bytes a second as a size up to 1MiB, or 0B for no limit";
    field.size(&(0..=1024 * 1024), expected).map(NonZeroU64::new)
}

/// The longest target that the `http` crate takes.
const LONGEST_TARGET: usize = 65_534;

/// The request target is part of the head, so it is never allowed more than the head.
fn uri_bytes(section: &Section<'_>, header_bytes: usize, default: usize) -> usize {
    let expected = "a size from 64B to that of header_bytes, at most 65534B";
    let read = |field: &Field<'_>| {
        let most = header_bytes.min(LONGEST_TARGET) as u64;
        usize::try_from(field.size(&(64..=most), expected)?).ok()
    };
    section.or("uri_bytes", default.min(header_bytes), read)
}
