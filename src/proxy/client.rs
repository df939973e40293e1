//! Who the client is, once trusted proxies are taken at their word.

use super::field::Field;
use crate::runtime::Snapshot;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::http::RequestHeader;
use std::net::IpAddr;

pub(super) const X_FORWARDED_FOR: Field = Field::new("x-forwarded-for");
pub(super) const X_FORWARDED_PROTO: Field = Field::new("x-forwarded-proto");
pub(super) const X_FORWARDED_HOST: Field = Field::new("x-forwarded-host");
/// What the names of fields begin with in which proxies tell of their clients.
const X_FORWARDED: &str = "x-forwarded-";
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
    for entry in forwarded_for(headers).rev() {
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
    let field = headers.get(&X_FORWARDED_PROTO.name)?.to_str().ok()?;
    let first = field.split(',').next()?.trim();
    [HTTP, HTTPS].into_iter().find(|scheme| first.eq_ignore_ascii_case(scheme))
}

/// The entries of all `X-Forwarded-For` fields, in order. What a client wrote into a field must not
/// hide what a proxy appended to it, so they are told apart before any is read.
fn forwarded_for(headers: &HeaderMap) -> impl DoubleEndedIterator<Item = &[u8]> {
    let fields = headers.get_all(&X_FORWARDED_FOR.name).into_iter();
    fields.flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
}

/// An entry: an address, perhaps with a port.
fn parse(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry).ok()?.trim();
    let bare = entry.strip_prefix('[').and_then(|rest| rest.split(']').next()).unwrap_or(entry);
    let without_port = || bare.rsplit_once(':').and_then(|(address, _)| address.parse().ok());
    bare.parse().ok().or_else(without_port)
}

/// Removes what a client that is not trusted claims to have forwarded, where nothing of ours will stand in
/// its place: a backend could believe it. Filters come after this, and may say such things.
pub(super) fn remove_claims(request: &mut RequestHeader) {
    let replaced = [&X_FORWARDED_FOR, &X_FORWARDED_PROTO, &X_FORWARDED_HOST];
    let is_claim = |name: &&HeaderName| {
        name.as_str().starts_with(X_FORWARDED) && replaced.iter().all(|field| field.name != **name)
    };
    let claims: Vec<HeaderName> = request.headers.keys().filter(is_claim).cloned().collect();
    for name in claims {
        request.remove_header(&name);
    }
}

/// Whether `value` may serve as a request id: visible ASCII of a bearable length.
pub(super) fn is_request_id(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    (1..=128).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

/// A new request id: 128 random bits in hexadecimal.
pub(super) fn new_request_id() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // One number is two draws, where an array would be one for each byte.
    let bits: u128 = rand::random();
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bits.to_be_bytes()) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    // An owned text is shared by all who have the id; a copied one would be copied once more for that.
    let text = Bytes::from_owner(text);
    HeaderValue::from_maybe_shared(text).expect("hexadecimal digits are visible ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses_with_and_without_ports() {
        for text in ["192.0.2.1", " 192.0.2.1 ", "192.0.2.1:4711"] {
            assert_eq!(parse(text.as_bytes()), Some("192.0.2.1".parse().unwrap()), "{text}");
        }
        for text in ["2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:80"] {
            assert_eq!(parse(text.as_bytes()), Some("2001:db8::1".parse().unwrap()), "{text}");
        }
        assert_eq!(parse(b"unknown"), None);
        assert_eq!(parse(b"192.0.2.1\xe9"), None);
    }

    #[test]
    fn the_scheme_is_the_first_that_is_forwarded() {
        let scheme = |field: &str| {
            let value = HeaderValue::from_str(field).unwrap();
            forwarded_scheme(&HeaderMap::from_iter([(X_FORWARDED_PROTO.name, value)]))
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
