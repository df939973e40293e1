//! What a backend is told that the client did not say.

use super::{
    answer::X_REQUEST_ID,
    client::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO},
    exchange::Context,
    field::{self, Field},
    link::address_value,
};
use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use pingora::{Result, http::RequestHeader};

const X_REAL_IP: Field = Field::new("x-real-ip");
const X_CLIENT_CERT_VERIFIED: HeaderName = HeaderName::from_static("x-client-cert-verified");
const X_CLIENT_CERT_SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-subject");
const X_CLIENT_CERT_SAN: HeaderName = HeaderName::from_static("x-client-cert-san");
const TRUE: HeaderValue = HeaderValue::from_static("true");
/// How many fields are set on every request.
const ALWAYS: usize = 5;

/// Makes the request that a backend sees out of the one the client sent. Pingora has taken the
/// hop-by-hop fields out.
pub(super) fn prepare(
    client: &RequestHeader,
    request: &mut RequestHeader,
    context: &Context,
) -> Result<()> {
    let http2 = request.version == Version::HTTP_2;
    let mut id = context.request_id.clone();
    // In HTTP/2, that keeps what never comes again out of the table of HPACK.
    id.set_sensitive(http2);
    field::change(request, |headers| {
        headers.reserve(ALWAYS);
        if http2 && client.version == Version::HTTP_2 {
            keep_te(client, headers);
        }
        if context.upgrade {
            keep_upgrade(client, headers);
        }
        remove_ambiguous_names(headers);
        let host = headers.get(header::HOST).cloned();
        let named = host.is_some();
        let claims = may_claim(headers);
        set_forwarded(headers, context, host, claims);
        set_client_certificate(headers, context, claims);
        X_REQUEST_ID.set(headers, id);
        set_host(headers, context, named);
    })?;
    match &context.rewritten {
        Some(target) => request.set_raw_path(target.as_bytes()),
        None => Ok(()),
    }
}

/// From HTTP/2 to HTTP/2, `te: trailers` is about the message, not the connection, and gRPC does not
/// work without it. HTTP/2 allows no other value.
fn keep_te(client: &RequestHeader, headers: &mut HeaderMap) {
    if let Some(te) = client.headers.get(header::TE) {
        headers.insert(header::TE, te.clone());
    }
}

/// Of the upgrades that a client may ask for, Pingora passes on those to `websocket` only. Past this
/// hook it goes by the field alone, whatever the protocol.
fn keep_upgrade(client: &RequestHeader, headers: &mut HeaderMap) {
    let Some(protocol) = client.headers.get(header::UPGRADE) else { return };
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, protocol.clone());
}

/// `X_Forwarded_For` and `X-Forwarded-For` are the same to many a backend (CGI maps both to one
/// name), so fields with underscores could smuggle what we replace. nginx drops them as well.
fn remove_ambiguous_names(headers: &mut HeaderMap) {
    let is_ambiguous = |name: &&HeaderName| name.as_str().bytes().any(|byte| byte == b'_');
    let ambiguous: Vec<HeaderName> = headers.keys().filter(is_ambiguous).cloned().collect();
    for name in ambiguous {
        headers.remove(&name);
    }
}

/// Whether one of the fields that we say something in may be there already. Most requests have nothing
/// of the kind, and then none of them has to be looked for.
fn may_claim(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with("x-") || name == header::FORWARDED)
}

/// `host` is the request's, and `claims` says whether one of these fields may be there.
fn set_forwarded(
    headers: &mut HeaderMap,
    context: &Context,
    host: Option<HeaderValue>,
    claims: bool,
) {
    let trusted = context.from_trusted;
    match context.link.client_value() {
        Some(peer) if trusted => {
            let list = appended(headers, peer);
            X_FORWARDED_FOR.set(headers, list);
        }
        Some(peer) => X_FORWARDED_FOR.set(headers, peer.clone()),
        None => drop(headers.remove(&X_FORWARDED_FOR.name)),
    }
    let peer = context.link.client().map(|address| address.ip());
    match (context.client, context.link.client_value()) {
        (Some(client), Some(value)) if Some(client) == peer => {
            X_REAL_IP.set(headers, value.clone());
        }
        (Some(client), _) => X_REAL_IP.set(headers, address_value(client)),
        (None, _) => drop(headers.remove(&X_REAL_IP.name)),
    }
    if claims && !trusted {
        // An untrusted client's word on any of these is worth nothing.
        headers.remove(&header::FORWARDED);
        headers.remove(&X_FORWARDED_PROTO.name);
        headers.remove(&X_FORWARDED_HOST.name);
    }
    let has = |headers: &HeaderMap, field: &Field| claims && headers.contains_key(&field.name);
    if !has(headers, &X_FORWARDED_PROTO) {
        X_FORWARDED_PROTO.set(headers, HeaderValue::from_static(context.scheme));
    }
    if let Some(host) = host.filter(|_| !has(headers, &X_FORWARDED_HOST)) {
        X_FORWARDED_HOST.set(headers, host);
    }
}

/// Says who the client is by the certificate that it showed. Nobody else may say so, a trusted proxy
/// neither: one that does not know these fields passes on what its clients make up.
fn set_client_certificate(headers: &mut HeaderMap, context: &Context, claims: bool) {
    if claims {
        for name in [X_CLIENT_CERT_VERIFIED, X_CLIENT_CERT_SUBJECT, X_CLIENT_CERT_SAN] {
            headers.remove(&name);
        }
    }
    let Some(client) = context.link.tls().and_then(|tls| tls.client.as_ref()) else { return };
    headers.insert(X_CLIENT_CERT_VERIFIED, TRUE);
    if let Some(subject) = &client.subject {
        headers.insert(X_CLIENT_CERT_SUBJECT, subject.clone());
    }
    if let Some(san) = &client.san {
        headers.insert(X_CLIENT_CERT_SAN, san.clone());
    }
}

/// The `X-Forwarded-For` of a trusted proxy with that proxy, `peer`, appended.
fn appended(headers: &HeaderMap, peer: &HeaderValue) -> HeaderValue {
    let mut list = Vec::new();
    for value in headers.get_all(&X_FORWARDED_FOR.name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(peer.as_bytes());
    // Values with commas between them are a value.
    HeaderValue::try_from(list).unwrap_or_else(|_| peer.clone())
}

/// `named` says whether the request has a `Host`.
fn set_host(headers: &mut HeaderMap, context: &Context, named: bool) {
    // HTTP/1.0 clients may send none, but a backend that we ask in HTTP/1.1 must get one.
    let missing = || context.backend().filter(|_| !named).map(|member| member.authority());
    if let Some(host) = context.host_header().or_else(missing) {
        headers.insert(header::HOST, host.clone());
    }
}
