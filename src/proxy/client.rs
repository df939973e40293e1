//! Who the client is, once trusted proxies are taken at their word.

use crate::runtime::Snapshot;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::net::IpAddr;

// As texts that live for ever (`as_str` of a static), Pingora takes names into a head without a copy.
pub(super) static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const HTTP: &str = "http";
pub(super) const HTTPS: &str = "https";

/// The client's address: that of the connection, or if that is a trusted proxy's, the last address
/// in `X-Forwarded-For` that is not one.
pub(super) fn address(
    peer: Option<IpAddr>,
    headers: &HeaderMap,
    snapshot: &Snapshot,
) -> Option<IpAddr> {
    let mut client = peer?;
    if !snapshot.trusts(client) {
        return Some(client);
    }
    for entry in forwarded_for(headers).into_iter().rev() {
        let Some(address) = parse(entry) else { break };
        client = address;
        if !snapshot.trusts(client) {
            break;
        }
    }
    Some(client)
}

/// What the client used according to a trusted proxy; `None` if the proxy does not say. Of several,
/// the first, which is that of the proxy closest to the client.
pub(super) fn forwarded_scheme(headers: &HeaderMap) -> Option<&'static str> {
    let field = headers.get(&X_FORWARDED_PROTO)?.to_str().ok()?;
    let first = field.split(',').next()?.trim();
    [HTTP, HTTPS].into_iter().find(|scheme| first.eq_ignore_ascii_case(scheme))
}

/// The entries of all `X-Forwarded-For` fields, in order.
fn forwarded_for(headers: &HeaderMap) -> Vec<&str> {
    let fields = headers.get_all(&X_FORWARDED_FOR).into_iter();
    fields.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).collect()
}

/// An entry: an address, perhaps with a port.
fn parse(entry: &str) -> Option<IpAddr> {
    let entry = entry.trim();
    let bare = entry.strip_prefix('[').and_then(|rest| rest.split(']').next()).unwrap_or(entry);
    let without_port = || bare.rsplit_once(':').and_then(|(address, _)| address.parse().ok());
    bare.parse().ok().or_else(without_port)
}

/// Whether `value` may serve as a request id: visible ASCII of a bearable length.
pub(super) fn is_request_id(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    (1..=128).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

/// A new request id: 128 random bits in hexadecimal.
pub fn new_request_id() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bits: [u8; 16] = rand::random();
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bits) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    HeaderValue::from_bytes(&text).expect("hexadecimal digits are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses_with_and_without_ports() {
        for text in ["192.0.2.1", " 192.0.2.1 ", "192.0.2.1:4711"] {
            assert_eq!(parse(text), Some("192.0.2.1".parse().unwrap()), "{text}");
        }
        for text in ["2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:80"] {
            assert_eq!(parse(text), Some("2001:db8::1".parse().unwrap()), "{text}");
        }
        assert_eq!(parse("unknown"), None);
    }

    #[test]
    fn the_scheme_is_the_first_that_is_forwarded() {
        let scheme = |field: &str| {
            let value = HeaderValue::from_str(field).unwrap();
            forwarded_scheme(&HeaderMap::from_iter([(X_FORWARDED_PROTO.clone(), value)]))
        };
        for https in ["https", "HTTPS", " https , http"] {
            assert_eq!(scheme(https), Some("https"), "{https}");
        }
        assert_eq!(scheme("http, https"), Some("http"));
        for none in ["", "ftp", "httpsx", ",https"] {
            assert_eq!(scheme(none), None, "{none}");
        }
        assert_eq!(forwarded_scheme(&HeaderMap::new()), None);
    }

    #[test]
    fn request_ids_are_distinct_hexadecimal() {
        let (a, b) = (new_request_id(), new_request_id());
        assert_ne!(a, b);
        assert_eq!(a.len(), 32);
        assert!(is_request_id(&a));
    }
}
