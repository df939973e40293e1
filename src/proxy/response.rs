//! What a client gets that the backend did not say, and what it does not get.

use super::{
    answer::X_REQUEST_ID,
    exchange::Context,
    field::{self, Field, is_there},
    filters::Filtered,
    nominated,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use pingora::{Error, ErrorType, Result, http::ResponseHeader};
use pingora_proxy::Session;

const X_BACKEND_SERVER: Field = Field::new("x-backend-server");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const CHUNKED: HeaderValue = HeaderValue::from_static("chunked");
/// How many fields every response gets: ours, and the `Connection` that Pingora sets.
const ALWAYS: usize = 3;
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Takes in a response as it comes from the backend. The error ends the try: the response is none, or
/// the request is tried again.
pub(super) fn accept(
    session: &Session,
    response: &ResponseHeader,
    context: &mut Context,
) -> Result<()> {
    let switches = response.status == StatusCode::SWITCHING_PROTOCOLS;
    if switches && !context.upgrade {
        return malformed("a 101 that nobody asked for");
    }
    if response.status.is_informational() && !switches {
        if response.status == StatusCode::CONTINUE {
            context.link.set_waiting_to_continue(false);
            context.invited();
        }
        return Ok(());
    }
    if !has_known_coding(response) {
        return malformed("a transfer coding other than chunked");
    }
    if !has_one_length(response) {
        return malformed("a length that is not one number");
    }
    context.upstream_answered(response.status);
    if context.retries_status(session, response.status) {
        let status = ErrorType::HTTPStatus(response.status.as_u16());
        return Err(Error::explain(status, "asks for a retry").into_up());
    }
    Ok(())
}

/// Whether a response has no transfer coding, or is chunked once, in HTTP/1.1. Nothing else says where it
/// ends (RFC 9112 section 6.1).
fn has_known_coding(response: &ResponseHeader) -> bool {
    if !is_there(&response.headers, &header::TRANSFER_ENCODING) {
        return true;
    }
    let mut codings = response.headers.get_all(header::TRANSFER_ENCODING).into_iter();
    let is_chunked = codings
        .next()
        .is_some_and(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"));
    is_chunked && codings.next().is_none() && response.version == Version::HTTP_11
}

/// Whether a response has one length or none. One that says it twice, even if it says the same, was put
/// together by somebody who does not know what it says.
fn has_one_length(response: &ResponseHeader) -> bool {
    let mut lengths = response.headers.get_all(header::CONTENT_LENGTH).into_iter();
    let one = lengths.next().is_none_or(|length| {
        let digits = length.as_bytes();
        !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
    });
    one && lengths.next().is_none()
}

fn malformed(what: &'static str) -> Result<()> {
    Err(Error::explain(ErrorType::InvalidHTTPHeader, what).into_up())
}

/// Makes the response that the client sees out of the backend's.
pub(super) async fn prepare(
    session: &mut Session,
    response: &mut ResponseHeader,
    context: &mut Context,
    draining: bool,
) -> Result<()> {
    let switches = response.status == StatusCode::SWITCHING_PROTOCOLS;
    if response.status.is_informational() && !switches {
        return field::change_answer(response, |headers| {
            remove_hop_by_hop(headers);
            // It has no body that these could be of (RFC 9110 section 8.6, RFC 9112 section 6.1).
            for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
                headers.remove(&name);
            }
        });
    }
    if !switches {
        // A 1xx passed on before the body was whole has made Pingora give the connection up.
        session.set_keepalive(context.keepalive.filter(|_| !draining));
    }
    field::change_answer(response, |headers| {
        if !switches {
            remove_hop_by_hop(headers);
        }
        headers.reserve(ALWAYS);
        set_own(headers, context);
    })?;
    // A backend may speak HTTP/1.0; what we say is HTTP/1.1.
    response.set_version(Version::HTTP_11);
    context.keep_client(response)?;
    let rechunk = match context.filter_response(session.req_header(), response).await? {
        Filtered::Passed { rechunk } => rechunk,
        Filtered::Replaced(answer) if switches => return context.end_with(answer),
        Filtered::Replaced(answer) => {
            return Box::pin(context.answer_instead(session, answer)).await;
        }
    };
    if switches {
        context.link.set_upgraded();
        context.answered = Some(response.status);
    } else {
        frame(session, response, rechunk)?;
        context.await_response(response, may_have_body(session, response));
    }
    context.link.set_answered();
    Ok(())
}

/// Sets the fields that every response of a backend gets.
fn set_own(headers: &mut HeaderMap, context: &Context) {
    if let (Some(pool), Some(lease)) = (&context.pool, &context.lease)
        && pool.spec().reveal_backend
    {
        X_BACKEND_SERVER.set(headers, lease.name_value().clone());
    }
    X_REQUEST_ID.set(headers, context.request_id.clone());
}

/// Removes the fields that concern the connection to the backend only. `Transfer-Encoding` stays:
/// Pingora frames the response by it.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in nominated::fields(headers) {
        headers.remove(&name);
    }
    for name in [header::CONNECTION, header::UPGRADE, KEEP_ALIVE, PROXY_CONNECTION] {
        if is_there(headers, &name) {
            headers.remove(&name);
        }
    }
}

/// An HTTP/1.0 client cannot read chunks: its response ends when the connection does. And a
/// connection on which an upgrade was refused may have bytes of the other protocol on it. `rechunk` says
/// that the length is no longer known.
fn frame(session: &mut Session, response: &mut ResponseHeader, rechunk: bool) -> Result<()> {
    if rechunk && may_have_body(session, response) {
        response.insert_header(header::TRANSFER_ENCODING, CHUNKED)?;
    }
    if session.req_header().version == Version::HTTP_10 {
        response.remove_header(&header::TRANSFER_ENCODING);
        if !response.headers.contains_key(header::CONTENT_LENGTH) {
            session.set_keepalive(None);
        }
    }
    let upgrade = is_there(&session.req_header().headers, &header::UPGRADE);
    if upgrade && session.is_upgrade_req() {
        session.set_keepalive(None);
    }
    Ok(())
}

fn may_have_body(session: &Session, response: &ResponseHeader) -> bool {
    let bare = matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    !bare && session.req_header().method != Method::HEAD
}
