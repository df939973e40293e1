//! What the hashing policies go by.

use super::Exchange;
use crate::{
    filter::cookie_of,
    model::{Balance, HashOn},
    pool::{hash, hash_address},
    route,
};
use pingora::http::RequestHeader;

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
        HashOn::Cookie(name) => cookie_of(&request.headers, name).map(hash),
        HashOn::Query(name) => {
            let target = target();
            let (_, query) = target.split_once('?')?;
            route::query_value(query, name).map(|value| hash(value.as_bytes()))
        }
    }
}
