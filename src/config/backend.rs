//! `pools.*.backends:`, the addresses of a pool.

use super::{
    diagnostic::Fault,
    names::NAME,
    reader::{Field, Keys, Once},
    scalar::Hint,
};
use crate::model::{
    AddressError, Amendment, Backend, BackendAddress, BackendName, BackendState, ListenAddress,
    Weight,
};
use std::path::Path;

pub(super) const KEYS: Keys = Keys {
    section: "pools.*.backends[*]",
    names: &["address", "name", "weight", "backup", "state"],
};

/// What `backends:` holds, for messages.
pub(super) const EXPECTED: &str = "a list of at least one backend";
const ADDRESS: &str = "ip:port, [ipv6]:port, host:port or unix:/path";
const BACKEND: &str =
    "an address (ip:port, [ipv6]:port, host:port or unix:/path) or a map with one";
/// The longest path that fits in a `sockaddr_un` with its final NUL.
const MAX_SOCKET_PATH: usize = 107;

/// What a backend or listener address must be, given what is wrong with it.
pub(super) fn expected(error: AddressError) -> String {
    let message = error.to_string();
    message.strip_prefix("expected ").unwrap_or(&message).to_owned()
}

/// An address whose socket path, if it has one, fits the system.
pub(super) trait SocketPath {
    /// The path of the unix socket.
    fn socket_path(&self) -> Option<&Path>;
}

impl SocketPath for ListenAddress {
    fn socket_path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tcp(_) => None,
        }
    }
}

impl SocketPath for BackendAddress {
    fn socket_path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Ip(_) | Self::Host { .. } => None,
        }
    }
}

/// `address` if its path, absolute by now, still fits.
pub(super) fn fitting<A: SocketPath>(address: A) -> Result<A, Hint> {
    let length = address.socket_path().map_or(0, |path| path.as_os_str().len());
    if length > MAX_SOCKET_PATH {
        return Err(Hint::expected("a socket path of at most 107 bytes with its folder"));
    }
    Ok(address)
}

/// What is decided of a backend at run time.
pub(super) const AMENDMENT: Keys = Keys { section: "", names: &["state", "weight"] };

/// Reads a backend that stands alone.
pub(super) fn read_one(field: &Field<'_>) -> Option<Backend> {
    read(field, &mut Unique::default())
}

/// Reads what is decided of a backend at run time.
pub(super) fn read_amendment(field: &Field<'_>) -> Option<Amendment> {
    let section = field.section(&AMENDMENT)?;
    if field.entries("").is_some_and(|entries| entries.is_empty()) {
        field.error(&Fault::new("found an empty map", "state or weight"));
    }
    Some(Amendment {
        state: section.optional("state", state),
        weight: section.optional("weight", weight),
    })
}

/// Reads every backend of a pool.
pub(super) fn read_all(field: &Field<'_>) -> Option<Vec<Backend>> {
    let items = field.some_items(EXPECTED)?;
    let mut unique = Unique::default();
    let backends: Vec<Option<Backend>> = items.iter().map(|item| read(item, &mut unique)).collect();
    backends.into_iter().collect()
}

/// The names and addresses of a pool so far.
#[derive(Default)]
struct Unique {
    names: Once,
    addresses: Once,
}

/// An address made absolute, and as it was written, which is the default name.
struct Address {
    absolute: BackendAddress,
    written: String,
}

/// What a backend may say beside its address and name.
#[derive(Clone, Copy)]
struct Settings {
    weight: Weight,
    backup: bool,
    state: BackendState,
}

const DEFAULTS: Settings =
    Settings { weight: Weight::ONE, backup: false, state: BackendState::Active };

fn read(field: &Field<'_>, unique: &mut Unique) -> Option<Backend> {
    if !field.is_map() {
        let address = address(field, BACKEND)?;
        return finish(field, address, None, DEFAULTS, unique);
    }
    let section = field.section(&KEYS)?;
    let address_field = section.require("address", ADDRESS);
    let address = address_field.as_ref().and_then(|field| address(field, ADDRESS));
    let name_field = section.get("name");
    let name = name_field.as_ref().map(|field| Some((name(field)?, field)));
    let settings = Settings {
        weight: section.or("weight", DEFAULTS.weight, weight),
        backup: section.or("backup", DEFAULTS.backup, Field::switch),
        state: section.or("state", DEFAULTS.state, state),
    };
    let name = match name {
        Some(name) => Some(name?),
        None => None,
    };
    finish(address_field.as_ref().unwrap_or(field), address?, name, settings, unique)
}

fn finish(
    field: &Field<'_>,
    address: Address,
    name: Option<(BackendName, &Field<'_>)>,
    settings: Settings,
    unique: &mut Unique,
) -> Option<Backend> {
    let is_new = unique.addresses.check(&address.absolute.to_string(), "address", field);
    let (name, name_field) = match name {
        Some((name, name_field)) => (name, name_field),
        None => (default_name(&address, field)?, field),
    };
    // A second use of an address is one mistake, though the names are then the same too.
    let is_new = is_new && unique.names.check(name.as_str(), "name", name_field);
    let Settings { weight, backup, state } = settings;
    is_new.then_some(Backend { name, address: address.absolute, weight, backup, state })
}

fn default_name(address: &Address, field: &Field<'_>) -> Option<BackendName> {
    let name = BackendName::try_new(&address.written);
    if name.is_err() {
        field.error(&Fault::new(
            "an address that cannot serve as the backend's name",
            format!("a key \"name\" beside it with {NAME}"),
        ));
    }
    name.ok()
}

fn address(field: &Field<'_>, general: &str) -> Option<Address> {
    let base = field.context().base();
    field.scalar(general, |text| {
        let address: BackendAddress = text.parse().map_err(|error| address_hint(text, error))?;
        let written = address.to_string();
        Ok(Address { absolute: fitting(address.relative_to(base))?, written })
    })
}

fn address_hint(text: &str, error: AddressError) -> Hint {
    if error != AddressError::Backend {
        return Hint::expected(expected(error));
    }
    let bare = text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
    let nearest = bare.filter(|bare| bare.parse::<BackendAddress>().is_ok());
    Hint::nearest(nearest.map(str::to_owned))
}

fn name(field: &Field<'_>) -> Option<BackendName> {
    field.scalar(NAME, |text| BackendName::try_new(text).map_err(|_| Hint::default()))
}

fn weight(field: &Field<'_>) -> Option<Weight> {
    Weight::try_new(field.integer(0..=u64::from(u16::MAX))?).ok()
}

fn state(field: &Field<'_>) -> Option<BackendState> {
    field.word("state", &BackendState::ALL.map(|state| (state.as_str(), state)))
}
