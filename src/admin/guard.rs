//! Who may use the API.
//!
//! An address that only this machine can connect to is no protection from web pages: a browser on it
//! sends requests for any page, and a page whose name its owner lets resolve to our address
//! (DNS rebinding) may even read the answers. So a request has to call us by a name of ours, and one
//! that changes something must not come from another site. Programs send none of the fields that are
//! looked at, apart from `Host`.

use super::answer::{Answer, refusal};
use crate::model::{Admin, Token, host_without_port};
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderValue, StatusCode, Version, header, request::Parts};
use sha2::Sha256;
use std::net::IpAddr;

/// Refuses a request that calls us by a name that is not ours. `local` is the address that the client
/// has connected to; on a unix socket, which no web page can connect to, there is none, and every
/// name is good.
pub(super) fn check_host(
    request: &Parts,
    local: Option<IpAddr>,
    admin: &Admin,
) -> Result<(), Box<Answer>> {
    let Some(local) = local else { return Ok(()) };
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    let target = request.uri.authority().map(http::uri::Authority::as_str);
    let named = host.map(HeaderValue::to_str);
    let known = match (named, target, more) {
        // No browser leaves it out, and some health checks of HTTP/1.0 do.
        (None, None, None) => request.version == Version::HTTP_10,
        (None, Some(target), None) => is_ours(target, local, admin),
        (Some(Ok(host)), target, None) => {
            is_ours(host, local, admin) && target.is_none_or(|target| is_ours(target, local, admin))
        }
        _ => false,
    };
    if known {
        return Ok(());
    }
    let message = "this is not a name of the admin API; add it to admin.hosts";
    Err(Box::new(refusal(StatusCode::MISDIRECTED_REQUEST, "unknown_host", message)))
}

fn is_ours(authority: &str, local: IpAddr, admin: &Admin) -> bool {
    let host = host_without_port(authority).to_ascii_lowercase();
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&host);
    let address = bare.parse::<IpAddr>().ok().map(|address| address.to_canonical());
    host == "localhost" || address == Some(local.to_canonical()) || admin.hosts.contains(&host)
}

/// Refuses a request that does not show the token, if there is one.
pub(super) fn check_token(headers: &HeaderMap, token: Option<&Token>) -> Result<(), Box<Answer>> {
    let Some(token) = token else { return Ok(()) };
    let shown = headers.get(header::AUTHORIZATION).and_then(bearer);
    if shown.is_some_and(|shown| is_same(shown, token.reveal().as_bytes())) {
        return Ok(());
    }
    let message = "send the token: Authorization: Bearer TOKEN";
    let mut answer = refusal(StatusCode::UNAUTHORIZED, "unauthorized", message);
    let challenge = HeaderValue::from_static("Bearer realm=\"pingora-lb\"");
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    Err(Box::new(answer))
}

fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

/// Compares in constant time: hashes under a key that nobody knows tell nothing of how much is alike.
fn is_same(shown: &[u8], token: &[u8]) -> bool {
    let key: [u8; 32] = rand::random();
    let mac = |text: &[u8]| {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length");
        mac.update(text);
        mac
    };
    mac(shown).verify(&mac(token).finalize().into_bytes()).is_ok()
}

/// Refuses a request that the page of another site has sent. It is for requests that change something.
pub(super) fn check_origin(headers: &HeaderMap) -> Result<(), Box<Answer>> {
    let site = headers.get_all("sec-fetch-site").iter();
    let own_site =
        site.map(HeaderValue::as_bytes).all(|site| [&b"same-origin"[..], b"none"].contains(&site));
    let host = headers.get(header::HOST).map(HeaderValue::as_bytes);
    let own_origin = |origin: &HeaderValue| {
        let origin = origin.as_bytes();
        let rest = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        rest.zip(host).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host))
    };
    if own_site && headers.get_all(header::ORIGIN).iter().all(own_origin) {
        return Ok(());
    }
    let message = "another site's page may not change anything here";
    Err(Box::new(refusal(StatusCode::FORBIDDEN, "cross_site", message)))
}
