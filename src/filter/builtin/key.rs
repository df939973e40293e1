//! What a limit is counted by.

use crate::{
    filter::{
        Request,
        settings::{CookieName, FieldName},
    },
    model::with_client_bytes,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    net::IpAddr,
};

/// What requests have in common that count together. Those that lack the header field, the cookie or
/// the address count as one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Key {
    /// The client's address; an IPv6 address counts by its first 64 bits.
    ClientIp,
    /// The route: all of its requests count together.
    Route,
    /// The value of this header field; of several, the first.
    Header(FieldName),
    /// The value of this cookie; of several, the first.
    Cookie(CookieName),
}

impl Key {
    /// The key of `request` as a number that nobody can foresee who does not know the seed of
    /// `state`. So a key takes as little room as any other, however long it is, and clients cannot
    /// choose keys that meet.
    pub(super) fn of(&self, request: &Request<'_>, state: &RandomState) -> u64 {
        let mut hasher = state.build_hasher();
        match self {
            Self::ClientIp => write_address(&mut hasher, request.client_ip()),
            Self::Route => {}
            Self::Header(name) => {
                write(&mut hasher, request.headers().get(&name.0).map(http::HeaderValue::as_bytes));
            }
            Self::Cookie(name) => write(&mut hasher, request.cookie(name).map(str::as_bytes)),
        }
        hasher.finish()
    }
}

/// A value that is empty is not one that is absent.
fn write(hasher: &mut impl Hasher, value: Option<&[u8]>) {
    let Some(value) = value else { return hasher.write_u8(0) };
    hasher.write_u8(1);
    hasher.write(value);
}

fn write_address(hasher: &mut impl Hasher, address: Option<IpAddr>) {
    match address {
        None => write(hasher, None),
        Some(address) => with_client_bytes(address, |bytes| write(hasher, Some(bytes))),
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClientIp => f.write_str("client_ip"),
            Self::Route => f.write_str("route"),
            Self::Header(name) => write!(f, "header:{}", name.0),
            Self::Cookie(name) => write!(f, "cookie:{}", name.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(state: &RandomState, address: Option<&str>) -> u64 {
        let mut hasher = state.build_hasher();
        write_address(&mut hasher, address.map(|text| text.parse().unwrap()));
        hasher.finish()
    }

    #[test]
    fn one_ipv6_network_is_one_client() {
        let state = RandomState::new();
        let same = |a, b| hash(&state, Some(a)) == hash(&state, Some(b));
        assert!(same("2001:db8:0:1::1", "2001:db8:0:1:ffff::2"));
        assert!(!same("2001:db8:0:1::1", "2001:db8:0:2::1"));
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert_ne!(hash(&state, None), hash(&state, Some("0.0.0.0")));
    }

    #[test]
    fn an_empty_value_is_not_an_absent_one() {
        let state = RandomState::new();
        let of = |value: Option<&[u8]>| {
            let mut hasher = state.build_hasher();
            write(&mut hasher, value);
            hasher.finish()
        };
        assert_ne!(of(None), of(Some(b"")));
        assert_ne!(of(Some(b"")), of(Some(b"a")));
        assert_ne!(of(None), of(Some(b"\0")));
    }

    #[test]
    fn keys_are_unlike_in_every_process() {
        let of = |state: &RandomState| hash(state, Some("192.0.2.1"));
        assert_ne!(of(&RandomState::new()), of(&RandomState::new()));
    }
}
