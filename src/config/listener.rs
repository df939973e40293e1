//! `listeners:`, where connections are accepted and what a client may cost.

use super::{
    backend::{expected, fitting},
    diagnostic::Fault,
    names::key_name,
    reader::{Field, Keys, Once, Section},
    scalar::Hint,
};
use crate::model::{
    AddressError, ListenAddress, Listener, ListenerLimits, ListenerName, ListenerTimeouts,
};

pub(super) const KEYS: Keys = Keys {
    section: "listeners.*",
    names: &["address", "protocol", "max_connections", "timeouts", "limits"],
};
pub(super) const TIMEOUTS: Keys =
    Keys { section: "listeners.*.timeouts", names: &["header", "body_idle", "keepalive", "write"] };
pub(super) const LIMITS: Keys = Keys {
    section: "listeners.*.limits",
    names: &["header_bytes", "headers", "uri_bytes", "requests_per_connection"],
};

/// What `listeners:` holds, for messages.
pub(super) const EXPECTED: &str = "a map of at least one listener's name to its settings";
const ADDRESS: &str = "ip:port, [ipv6]:port or unix:/path";

/// Reads every listener.
pub(super) fn read_all(field: &Field<'_>) -> Option<Vec<Listener>> {
    let entries = field.entries(EXPECTED)?;
    if entries.is_empty() {
        field.error(&Fault::new("found an empty map", EXPECTED));
        return None;
    }
    let mut addresses = Once::default();
    let listeners: Vec<Option<Listener>> =
        entries.iter().map(|(name, field)| read(name, field, &mut addresses)).collect();
    listeners.into_iter().collect()
}

fn read(name: &str, field: &Field<'_>, addresses: &mut Once) -> Option<Listener> {
    let name = key_name(name, field, ListenerName::try_new);
    let section = field.section(&KEYS)?;
    let address = section.require("address", ADDRESS).and_then(|field| address(&field, addresses));
    section.optional("protocol", |field| field.word("protocol", &[("http", ())]));
    let max_connections = section.optional("max_connections", Field::count).flatten();
    let timeouts = section.or("timeouts", ListenerTimeouts::default(), timeouts);
    let limits = section.or("limits", ListenerLimits::default(), limits);
    Some(Listener { name: name?, address: address?, max_connections, timeouts, limits })
}

fn address(field: &Field<'_>, addresses: &mut Once) -> Option<ListenAddress> {
    let base = field.context().base();
    let address = field.scalar(ADDRESS, |text| {
        let address = text.parse().map_err(|error| address_hint(text, error))?;
        fitting(ListenAddress::relative_to(address, base))
    })?;
    let any_port = matches!(address, ListenAddress::Tcp(address) if address.port() == 0);
    if !any_port {
        addresses.check(&address.to_string(), "address", field);
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
    })
}

fn header_bytes(field: &Field<'_>) -> Option<usize> {
    let size = field.size(&(1024..=1024 * 1024), "a size from 1KiB to 1MiB")?;
    usize::try_from(size).ok()
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
