//! Methods, header fields, hosts and statuses.

use super::{
    diagnostic::{Fault, alternatives, nearest, quote},
    reader::{Field, Once},
    scalar::{self, Hint},
};
use crate::model::{frames_message, is_host_name};
use http::{HeaderName, HeaderValue, Method};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The registered methods that a client or a probe may send, and `PURGE`, which caches take.
const METHODS: [&str; 40] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "CONNECT",
    "TRACE",
    "QUERY",
    "ACL",
    "BASELINE-CONTROL",
    "BIND",
    "CHECKIN",
    "CHECKOUT",
    "COPY",
    "LABEL",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MKREDIRECTREF",
    "MKWORKSPACE",
    "MOVE",
    "ORDERPATCH",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "REBIND",
    "REPORT",
    "SEARCH",
    "UNBIND",
    "UNCHECKOUT",
    "UNLINK",
    "UNLOCK",
    "UPDATE",
    "UPDATEREDIRECTREF",
    "VERSION-CONTROL",
];

/// What a method looks like, for messages.
pub(super) const METHOD: &str = "an HTTP method in upper case, such as GET";
/// What a protocol to upgrade to looks like, for messages.
pub(super) const UPGRADE: &str = "the name of a protocol, such as websocket or my-proto/1";
/// What a host looks like, for messages.
pub(super) const HOST_AND_PORT: &str = "a host or host:port, such as app.internal or [::1]:8080";

/// What the name of a header field looks like, for messages.
pub(super) const HEADER_NAME: &str = "a header name such as x-request-id";

/// Reads a method: as it is sent, so in upper case.
pub(super) fn method(text: &str) -> Result<Method, Hint> {
    let unknown = || Hint {
        found: Some(format!("unknown method {}", quote(text))),
        expected: None,
        nearest: nearest(text, METHODS),
    };
    if !METHODS.contains(&text) {
        return Err(unknown());
    }
    Method::from_bytes(text.as_bytes()).map_err(|_| unknown())
}

/// Reads a protocol as an `Upgrade` field names it.
pub(super) fn upgrade(text: &str) -> Result<String, Hint> {
    let (name, version) = text.split_once('/').unwrap_or((text, "any"));
    // What the name of a header field may have in it is a token's.
    let is_token = |part: &str| HeaderName::from_bytes(part.as_bytes()).is_ok();
    if name.eq_ignore_ascii_case("h2c") {
        let found = "h2c, which is never taken up by an upgrade";
        let expected = "h2c: true on a listener, and clients that know of it beforehand";
        return Err(Hint { found: Some(found.to_owned()), ..Hint::expected(expected) });
    }
    if is_token(name) && is_token(version) { Ok(text.to_owned()) } else { Err(Hint::default()) }
}

/// Reads the value of a header field.
pub(super) fn header_value(text: &str) -> Result<HeaderValue, Hint> {
    let wrong = || Hint::expected("a header value of visible characters, without line breaks");
    let spaced = text.trim_matches([' ', '\t']) != text;
    if spaced {
        // A recipient would drop the white space, so it cannot be meant.
        return Err(Hint::expected("a header value without white space at its ends"));
    }
    HeaderValue::from_bytes(text.as_bytes()).map_err(|_| wrong())
}

/// Reads the name of a header field.
pub(super) fn header_name(text: &str) -> Result<HeaderName, Hint> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| Hint::default())
}

/// Reads a map of header names; names differ in more than case.
pub(super) fn header_names<'a>(field: &Field<'a>) -> Option<Vec<(HeaderName, Field<'a>)>> {
    let mut once = Once::default();
    let entries = field.entries("a map of header names to values")?;
    let mut name = |(key, field): (&'a str, Field<'a>)| {
        let Ok(name) = header_name(key) else {
            field.key_error(&Fault::new(format!("found {}", quote(key)), HEADER_NAME));
            return None;
        };
        once.check(name.as_str(), "header", &field).then_some((name, field))
    };
    Some(entries.into_iter().filter_map(&mut name).collect())
}

/// Reads a map of header names to values, each of which `allowed` must agree to.
pub(super) fn headers(
    field: &Field<'_>,
    allowed: impl Fn(&HeaderName) -> Result<(), Fault>,
) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let read = |(name, field): (HeaderName, Field<'_>)| {
        if let Err(fault) = allowed(&name) {
            field.key_error(&fault);
            return None;
        }
        Some((name, field.scalar("a header value", header_value)?))
    };
    Some(header_names(field)?.into_iter().filter_map(read).collect())
}

/// The fields that frame a message or belong to one connection; what sends the message sets them.
pub(super) fn may_be_set(name: &HeaderName) -> Result<(), Fault> {
    if !frames_message(name) {
        return Ok(());
    }
    let found = format!("header {}", quote(name.as_str()));
    Err(Fault::new(found, "no header that frames the message; those are set for you"))
}

/// Reads a status in `first..=last`.
pub(super) fn status(field: &Field<'_>, first: u16, last: u16) -> Option<http::StatusCode> {
    let range = u64::from(first)..=u64::from(last);
    field.scalar(&format!("a status from {first} to {last}"), |text| {
        let number = scalar::integer(text, &range)?;
        let code = u16::try_from(number).ok().and_then(|n| http::StatusCode::from_u16(n).ok());
        code.ok_or_else(Hint::default)
    })
}

/// Reads one of a few statuses.
pub(super) fn status_among(field: &Field<'_>, allowed: &[u16]) -> Option<http::StatusCode> {
    let names: Vec<String> = allowed.iter().map(u16::to_string).collect();
    field.scalar(&alternatives(names.iter().map(String::as_str)), |text| {
        let code = text.parse::<u16>().ok().filter(|code| allowed.contains(code));
        code.and_then(|code| http::StatusCode::from_u16(code).ok()).ok_or_else(Hint::default)
    })
}

/// Whether `host` is an IPv4 address, or an IPv6 address in brackets.
pub(super) fn is_ip_literal(host: &str) -> bool {
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    host.parse::<Ipv4Addr>().is_ok() || v6.is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok())
}

/// `text` without its port, if it ends in one.
pub(super) fn without_port(text: &str) -> Option<&str> {
    let (host, port) = text.rsplit_once(':')?;
    port.parse::<u16>().is_ok().then_some(host)
}

/// Reads a host, with or without a port, as a `Host` field.
pub(super) fn host_and_port(text: &str) -> Result<HeaderValue, Hint> {
    let valid = |host: &str| is_host_name(host) || is_ip_literal(host);
    if !valid(text) && !without_port(text).is_some_and(valid) {
        let bracketed = text.parse::<Ipv6Addr>().ok().map(|address| format!("[{address}]"));
        return Err(Hint::nearest(bracketed));
    }
    HeaderValue::from_str(text).map_err(|_| Hint::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_known_and_in_upper_case() {
        assert_eq!(method("GET"), Ok(Method::GET));
        assert_eq!(method("PROPFIND").unwrap().as_str(), "PROPFIND");
        for (text, nearest) in
            [("get", Some("GET")), ("GTE", Some("GET")), ("FETCH", None), ("G T", Some("GET"))]
        {
            assert_eq!(method(text).unwrap_err().nearest.as_deref(), nearest, "{text}");
        }
    }

    #[test]
    fn hosts_may_have_ports() {
        for text in ["app", "a.b_c.d:80", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:80"] {
            assert!(host_and_port(text).is_ok(), "{text}");
        }
        for text in ["", "a b", "a..b", "app:99999", "1.2.3", "http://a", "a/b", "::1:x", "a."] {
            assert!(host_and_port(text).is_err(), "{text}");
        }
        assert_eq!(host_and_port("::1"), Err(Hint::nearest(Some("[::1]".to_owned()))));
    }
}
