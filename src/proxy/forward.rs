//! What a backend is told that the client did not say.

use super::{
    answer::X_REQUEST_ID,
    client::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO},
    exchange::Context,
    field::Field,
    link::address_value,
};
use http::{HeaderName, HeaderValue, Version, header};
use pingora::{Result, http::RequestHeader};

const X_REAL_IP: Field = Field::new("x-real-ip");
const X_CLIENT_CERT_VERIFIED: HeaderName = HeaderName::from_static("x-client-cert-verified");
const X_CLIENT_CERT_SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-subject");
const X_CLIENT_CERT_SAN: HeaderName = HeaderName::from_static("x-client-cert-san");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// Makes the request that a backend sees out of the one the client sent. Pingora has taken the
/// hop-by-hop fields out.
pub(super) fn prepare(
    client: &RequestHeader,
    request: &mut RequestHeader,
    context: &Context,
) -> Result<()> {
    if request.version == Version::HTTP_2 && client.version == Version::HTTP_2 {
        keep_te(client, request)?;
    }
    if context.upgrade {
        keep_upgrade(client, request)?;
    }
    if let Some(target) = &context.rewritten {
        request.set_raw_path(target.as_bytes())?;
    }
    remove_ambiguous_names(request);
    set_forwarded(request, context)?;
    set_client_certificate(request, context)?;
    X_REQUEST_ID.set(request, context.request_id.clone())?;
    set_host(request, context)
}

/// From HTTP/2 to HTTP/2, `te: trailers` is about the message, not the connection, and gRPC does not
/// work without it. HTTP/2 allows no other value.
fn keep_te(client: &RequestHeader, request: &mut RequestHeader) -> Result<()> {
    match client.headers.get(header::TE) {
        Some(te) => request.insert_header(header::TE, te),
        None => Ok(()),
    }
}

/// Of the upgrades that a client may ask for, Pingora passes on those to `websocket` only. Past this
/// hook it goes by the field alone, whatever the protocol.
fn keep_upgrade(client: &RequestHeader, request: &mut RequestHeader) -> Result<()> {
    let Some(protocol) = client.headers.get(header::UPGRADE) else { return Ok(()) };
    request.insert_header(header::CONNECTION, HeaderValue::from_static("Upgrade"))?;
    request.insert_header(header::UPGRADE, protocol)
}

/// `X_Forwarded_For` and `X-Forwarded-For` are the same to many a backend (CGI maps both to one
/// name), so fields with underscores could smuggle what we replace. nginx drops them as well.
fn remove_ambiguous_names(request: &mut RequestHeader) {
    let ambiguous: Vec<HeaderName> =
        request.headers.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
    for name in ambiguous {
        request.remove_header(&name);
    }
}

fn set_forwarded(request: &mut RequestHeader, context: &Context) -> Result<()> {
    let trusted = context.from_trusted;
    let host = request.headers.get(header::HOST).cloned();
    match context.link.client_value() {
        Some(peer) if trusted => {
            let list = appended(request, peer);
            request.insert_header(&X_FORWARDED_FOR.name, list)?;
        }
        Some(peer) => X_FORWARDED_FOR.set(request, peer.clone())?,
        None => drop(request.remove_header(&X_FORWARDED_FOR.name)),
    }
    let peer = context.link.client().map(|address| address.ip());
    match (context.client, context.link.client_value()) {
        (Some(client), Some(value)) if Some(client) == peer => {
            X_REAL_IP.set(request, value.clone())?;
        }
        (Some(client), _) => X_REAL_IP.set(request, address_value(client))?,
        (None, _) => drop(request.remove_header(&X_REAL_IP.name)),
    }
    if !trusted {
        // An untrusted client's word on any of these is worth nothing.
        request.remove_header(&header::FORWARDED);
        request.remove_header(&X_FORWARDED_PROTO.name);
        request.remove_header(&X_FORWARDED_HOST.name);
    }
    if !request.headers.contains_key(&X_FORWARDED_PROTO.name) {
        let scheme = HeaderValue::from_static(context.scheme);
        X_FORWARDED_PROTO.set(request, scheme)?;
    }
    if let Some(host) = host.filter(|_| !request.headers.contains_key(&X_FORWARDED_HOST.name)) {
        X_FORWARDED_HOST.set(request, host)?;
    }
    Ok(())
}

/// Says who the client is by the certificate that it showed. Nobody else may say so, a trusted proxy
/// neither: one that does not know these fields passes on what its clients make up.
fn set_client_certificate(request: &mut RequestHeader, context: &Context) -> Result<()> {
    for name in [X_CLIENT_CERT_VERIFIED, X_CLIENT_CERT_SUBJECT, X_CLIENT_CERT_SAN] {
        request.remove_header(&name);
    }
    let Some(client) = context.link.tls().and_then(|tls| tls.client.as_ref()) else {
        return Ok(());
    };
    request.insert_header(X_CLIENT_CERT_VERIFIED, TRUE)?;
    if let Some(subject) = &client.subject {
        request.insert_header(X_CLIENT_CERT_SUBJECT, subject)?;
    }
    if let Some(san) = &client.san {
        request.insert_header(X_CLIENT_CERT_SAN, san)?;
    }
    Ok(())
}

/// The `X-Forwarded-For` of a trusted proxy with that proxy, `peer`, appended.
fn appended(request: &RequestHeader, peer: &HeaderValue) -> Vec<u8> {
    let mut list = Vec::new();
    for value in request.headers.get_all(&X_FORWARDED_FOR.name) {
        list.extend_from_slice(value.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(peer.as_bytes());
    list
}

fn set_host(request: &mut RequestHeader, context: &Context) -> Result<()> {
    if let Some(host) = context.host_header() {
        return request.insert_header(header::HOST, host);
    }
    // HTTP/1.0 clients may send none, but a backend that we ask in HTTP/1.1 must get one.
    match context.backend() {
        Some(member) if !request.headers.contains_key(header::HOST) => {
            request.insert_header(header::HOST, member.authority())
        }
        _ => Ok(()),
    }
}
