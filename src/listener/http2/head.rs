//! Checks a request's head by the rules that HTTP/1's head has to pass, and puts it into the form in
//! which the proxy knows requests: the path as target, the authority as `Host`.
//!
//! The `h2` crate has checked what RFC 9113 section 8.2 and 8.3 ask of a message, and has reset the
//! streams that did not pass: order and number of pseudo-header fields, names in lower case, no
//! fields that concern a connection, `te` other than `trailers`, characters in values, a
//! `content-length` that is a number and that the body keeps to. What is left are the rules of ours.

use crate::{
    listener::http1::{Refusal, bad, check_target, is_authority, refuse},
    model::ListenerLimits,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header, request::Parts, uri};
use pingora::http::RequestHeader;

/// Why a request is refused, and what it asked for, for the log.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) refusal: Refusal,
    pub(super) method: Method,
    pub(super) target: String,
    /// What it accepts as an answer.
    pub(super) accept: Option<Vec<u8>>,
}

/// Checks the head of a request.
pub(super) fn check(request: Parts, limits: &ListenerLimits) -> Result<RequestHeader, Refused> {
    let target = request.uri.path_and_query().map_or("", uri::PathAndQuery::as_str);
    match check_fields(&request.method, target, &request.uri, &request.headers, limits) {
        Ok(host) => Ok(in_origin_form(request, host)),
        Err(refusal) => {
            let target = shown(target);
            let accept = request.headers.get(header::ACCEPT).map(|it| it.as_bytes().to_owned());
            Err(Refused { refusal, method: request.method, target, accept })
        }
    }
}

/// As much of a target as the log needs.
fn shown(target: &str) -> String {
    const ENOUGH: usize = 2048;
    if target.is_empty() { "-".to_owned() } else { target.chars().take(ENOUGH).collect() }
}

/// The value that `Host` is to have, if the head is well formed.
fn check_fields(
    method: &Method,
    target: &str,
    uri: &Uri,
    fields: &HeaderMap,
    limits: &ListenerLimits,
) -> Result<HeaderValue, Refusal> {
    if target.len() > limits.uri_bytes {
        return Err(refuse(StatusCode::URI_TOO_LONG, "the target is too long"));
    }
    check_size(method, target, uri, fields, limits)?;
    check_target(method.as_str().as_bytes(), target.as_bytes())?;
    if !target.starts_with('/') && target != "*" {
        return Err(bad("the path does not begin with a slash"));
    }
    if !matches!(uri.scheme_str(), None | Some("http" | "https")) {
        return Err(bad("the scheme is neither http nor https"));
    }
    if fields.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return Err(bad("more than one content-length"));
    }
    if fields.values().any(|value| has_space_around(value.as_bytes())) {
        return Err(bad("a field value begins or ends with a space"));
    }
    host(uri, fields)
}

fn has_space_around(value: &[u8]) -> bool {
    let space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    space(value.first()) || space(value.last())
}

/// The head counts as if it had come in HTTP/1: what a client may send does not depend on how. Pieces
/// of a cookie, which HTTP/2 allows, are one field.
fn check_size(
    method: &Method,
    target: &str,
    uri: &Uri,
    fields: &HeaderMap,
    limits: &ListenerLimits,
) -> Result<(), Refusal> {
    let too_large = |why| refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, why);
    let authority =
        uri.authority().map_or(0, |authority| "host: \r\n".len() + authority.as_str().len());
    let line = method.as_str().len() + target.len() + "  HTTP/1.1\r\n\r\n".len();
    let lines =
        fields.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    if line + authority + lines.sum::<usize>() > limits.header_bytes {
        return Err(too_large("the head is too large"));
    }
    let crumbs = fields.get_all(header::COOKIE).iter().count();
    let count = fields.len() - crumbs.saturating_sub(1) + usize::from(authority > 0);
    if count > limits.headers {
        return Err(too_large("too many header fields"));
    }
    Ok(())
}

/// The authority that a request is for: `:authority`, or `Host` from a client that translates
/// HTTP/1. One that has both says the same twice (RFC 9113 section 8.3.1).
fn host(uri: &Uri, fields: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let mut hosts = fields.get_all(header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(bad("more than one Host"));
    }
    let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
    let named = match (authority, host.map(HeaderValue::as_bytes)) {
        (None, None) => return Err(bad("neither :authority nor Host")),
        (Some(authority), Some(host)) if !host.eq_ignore_ascii_case(authority) => {
            return Err(bad("Host differs from :authority"));
        }
        (Some(named), _) | (None, Some(named)) => named,
    };
    if named.is_empty() || !is_authority(named) {
        return Err(bad("the authority is malformed"));
    }
    HeaderValue::from_bytes(named).map_err(|_| bad("the authority is malformed"))
}

/// The request as HTTP/1 would have it, in HTTP/2's version.
fn in_origin_form(mut request: Parts, host: HeaderValue) -> RequestHeader {
    let target = request.uri.path_and_query().cloned();
    let mut parts = uri::Parts::default();
    parts.path_and_query = target;
    request.uri = Uri::from_parts(parts).expect("a path alone is a URI");
    join_cookies(&mut request.headers);
    request.headers.insert(header::HOST, host);
    RequestHeader::from(request)
}

/// Puts the pieces of a cookie together, as only HTTP/2 knows them (RFC 9113 section 8.2.3).
fn join_cookies(fields: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> =
        fields.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() < 2 {
        return;
    }
    let whole = crumbs.join(&b"; "[..]);
    let whole = HeaderValue::from_bytes(&whole).expect("valid values are a valid value together");
    fields.insert(header::COOKIE, whole);
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn request(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn status(request: Parts) -> u16 {
        let limits = ListenerLimits {
            headers: 5,
            header_bytes: 1024,
            uri_bytes: 64,
            ..ListenerLimits::default()
        };
        check(request, &limits).map_or_else(|refused| refused.refusal.status.as_u16(), |_| 200)
    }

    #[test]
    fn accepts_what_is_well_formed() {
        for accepted in [
            request("GET", "http://a.example/b?c=d", &[]),
            request("GET", "https://a.example/", &[("host", "A.example")]),
            request("GET", "/only-a-path", &[("host", "a.example:80")]),
            request("POST", "http://[::1]:80/", &[("content-length", "0"), ("te", "trailers")]),
            request(
                "GET",
                "http://a/",
                &[
                    ("cookie", "a"),
                    ("cookie", "b"),
                    ("cookie", "c"),
                    ("cookie", "d"),
                    ("cookie", "e"),
                    ("cookie", "f"),
                ],
            ),
        ] {
            let shown = format!("{accepted:?}");
            assert_eq!(status(accepted), 200, "{shown}");
        }
    }

    #[test]
    fn refuses_by_the_rules() {
        let long = format!("http://a/{}", "x".repeat(64));
        let value = "x".repeat(1000);
        for (expected, refused) in [
            (400, request("GET", "/", &[])),
            (400, request("GET", "http://a/", &[("host", "b")])),
            (400, request("GET", "/", &[("host", "a"), ("host", "a")])),
            (400, request("GET", "http://user@a/", &[])),
            (400, request("GET", "/", &[("host", "")])),
            (400, request("GET", "ftp://a/", &[])),
            (
                400,
                request("POST", "http://a/", &[("content-length", "1"), ("content-length", "1")]),
            ),
            (400, request("GET", "http://a/", &[("x", " a")])),
            (400, request("GET", "http://a/", &[("x", "a\t")])),
            (405, request("TRACE", "http://a/", &[])),
            (405, request("CONNECT", "a:80", &[])),
            (414, request("GET", &long, &[])),
            (431, request("GET", "http://a/", &[("x", &value)])),
            (
                431,
                request(
                    "GET",
                    "http://a/",
                    &[("a", ""), ("b", ""), ("c", ""), ("d", ""), ("e", "")],
                ),
            ),
        ] {
            let shown = format!("{refused:?}");
            assert_eq!(status(refused), expected, "{shown}");
        }
    }

    #[test]
    fn the_proxy_sees_a_path_a_host_and_one_cookie() {
        let fields = [("cookie", "a=1"), ("cookie", "b=2"), ("x", "y")];
        let head =
            check(request("GET", "http://a.example/b?c", &fields), &ListenerLimits::default());
        let head = head.unwrap();
        assert_eq!(head.raw_path(), b"/b?c");
        assert_eq!(head.uri.authority(), None);
        assert_eq!(head.headers["host"], "a.example");
        assert_eq!(head.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }
}
