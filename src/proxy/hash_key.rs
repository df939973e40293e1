//! What the hashing policies go by.

use super::{Exchange, sticky};
use crate::{
    model::{Balance, HashOn},
    pool::hash,
    route,
};
use pingora::http::RequestHeader;
use std::net::IpAddr;

/// The key of a request under `balance`; `None` if the policy does not hash, or the request does not
/// have what is hashed.
pub(super) fn of(balance: &Balance, exchange: &Exchange, request: &RequestHeader) -> Option<u64> {
    if !balance.policy.is_hashing() {
        return None;
    }
    if let Some(key) = &exchange.filtering.progress.choices.hash_key {
        return Some(hash(key));
    }
    let target = || exchange.target(request);
    match &balance.hash_on {
        HashOn::ClientIp => exchange.client.map(hash_address),
        HashOn::Path => Some(hash(target().split('?').next().unwrap_or("").as_bytes())),
        HashOn::Uri => Some(hash(target().as_bytes())),
        HashOn::Header(name) => request.headers.get(name).map(|value| hash(value.as_bytes())),
        HashOn::Cookie(name) => sticky::cookie(request, name).map(hash),
        HashOn::Query(name) => {
            let target = target();
            let (_, query) = target.split_once('?')?;
            route::query_value(query, name).map(|value| hash(value.as_bytes()))
        }
    }
}

/// An IPv6 address counts by its first 64 bits: a host has as many of the rest as it likes.
fn hash_address(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => hash(&address.octets()),
        IpAddr::V6(address) => hash(&address.octets()[..8]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_ipv6_network_is_one_client() {
        let hash = |text: &str| hash_address(text.parse().unwrap());
        assert_eq!(hash("2001:db8:0:1::1"), hash("2001:db8:0:1:ffff::2"));
        assert_ne!(hash("2001:db8:0:1::1"), hash("2001:db8:0:2::1"));
        assert_eq!(hash("192.0.2.1"), hash("::ffff:192.0.2.1"));
        assert_ne!(hash("192.0.2.1"), hash("192.0.2.2"));
    }
}
