//! The one place that turns a failure into an answer.

use super::{Fault, Reason, exchange::Context, tries::NOT_HTTP2};
use crate::{filter::Answer, pool::is_lack_of_ours, tls};
use http::{StatusCode, header};
use pingora::{Error, ErrorSource, ErrorType, http::ResponseHeader};
use pingora_proxy::{FailToProxy, Session};

/// Answers a request that failed, if it can still be answered, and notes why it failed.
pub(super) async fn answer(
    session: &mut Session,
    error: &Error,
    context: &mut Context,
) -> FailToProxy {
    if ends_upgrade(error, context) {
        log::debug!("an upgraded connection ended: {}", brief(error));
        context.link.break_off(true);
        return FailToProxy { error_code: 0, can_reuse_downstream: false };
    }
    if context.filtering.replaced && *error.esource() == ErrorSource::Upstream {
        log::debug!("a response that was replaced broke off: {}", brief(error));
        keep_downstream(session, context);
        return FailToProxy { error_code: 0, can_reuse_downstream: false };
    }
    if context.link.is_whole() {
        // The client has its answer, and may break off what it was still sending.
        log::debug!("a request ended before its body: {}", brief(error));
        return FailToProxy { error_code: 0, can_reuse_downstream: false };
    }
    let begun = session.response_written().is_some_and(is_final);
    let refusal = context.filtering.refusal.take();
    let reason = match &refusal {
        Some(answer) => answer.reason(),
        None => reason(error, context, begun),
    };
    context.reason = reason;
    if refusal.is_none() {
        log_failure(error, reason, context);
    }
    if begun || reason == Reason::ClientAborted {
        // The response cannot be mended any more; the client must see that it broke off.
        context.link.break_off(session.response_written().is_some_and(tells_its_length));
        return FailToProxy { error_code: 0, can_reuse_downstream: false };
    }
    if refusal.is_none() && reason == Reason::InternalError && !is_our_lack(error) {
        // Nobody knows what state that left behind.
        session.set_keepalive(None);
    }
    if !session.as_mut().is_body_done() {
        // Pingora gives the connection up now, so what is left of the body is never read.
        session.set_keepalive(None);
    }
    let answer = refusal.unwrap_or_else(|| Answer::error(reason));
    let status = answer.status().as_u16();
    if context.answer(session, answer).await.is_ok() {
        keep_downstream(session, context);
    }
    FailToProxy { error_code: status, can_reuse_downstream: false }
}

/// Keeps the client's connection after a whole answer, if the request was read whole.
fn keep_downstream(session: &mut Session, context: &Context) {
    if will_keep_alive(session) && session.as_mut().is_body_done() {
        context.link.set_reusable();
    }
}

/// Whether the connection was upgraded and one side has closed it. Other protocols have their own
/// idea of a good end, and many just reset the connection.
fn ends_upgrade(error: &Error, context: &Context) -> bool {
    context.link.is_upgraded()
        && match context.link.fault() {
            Fault::Disconnected => true,
            Fault::None => matches!(
                error.etype(),
                ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed
            ),
            Fault::BodyTimeout | Fault::WriteTimeout | Fault::BadBody => false,
        }
}

/// Whether a response is the last one to its request: everything but 1xx, and 101, after which the
/// connection is another protocol's.
pub(super) fn is_final(response: &ResponseHeader) -> bool {
    !response.status.is_informational() || response.status == StatusCode::SWITCHING_PROTOCOLS
}

/// Whether a client can tell by itself that the body broke off.
fn tells_its_length(response: &ResponseHeader) -> bool {
    let headers = &response.headers;
    headers.contains_key(header::CONTENT_LENGTH) || headers.contains_key(header::TRANSFER_ENCODING)
}

fn will_keep_alive(session: &Session) -> bool {
    session
        .as_ref()
        .as_http1()
        .is_some_and(pingora::protocols::http::v1::server::HttpSession::will_keepalive)
}

/// Why a request failed. What the request stream saw of the client comes first: Pingora often
/// reports its consequences as the backend's.
fn reason(error: &Error, context: &Context, begun: bool) -> Reason {
    if context.link.is_try_timed_out() {
        return if begun { Reason::UpstreamTruncated } else { Reason::UpstreamTimeout };
    }
    match context.link.fault() {
        Fault::BodyTimeout | Fault::WriteTimeout => return Reason::ClientTimeout,
        Fault::BadBody => return Reason::BadRequest,
        Fault::Disconnected => return Reason::ClientAborted,
        Fault::None => {}
    }
    match error.esource() {
        ErrorSource::Upstream => upstream_reason(error, begun),
        ErrorSource::Downstream => downstream_reason(error),
        ErrorSource::Internal | ErrorSource::Unset => Reason::InternalError,
    }
}

fn upstream_reason(error: &Error, begun: bool) -> Reason {
    if begun {
        return Reason::UpstreamTruncated;
    }
    if is_our_lack(error) {
        return Reason::InternalError;
    }
    match error.etype() {
        ErrorType::ConnectTimedout | ErrorType::ReadTimedout | ErrorType::WriteTimedout => {
            Reason::UpstreamTimeout
        }
        ErrorType::ConnectRefused
        | ErrorType::ConnectNoRoute
        | ErrorType::ConnectError
        | ErrorType::ConnectProxyFailure
        | ErrorType::SocketError
        | ErrorType::BindError
        | ErrorType::TLSHandshakeFailure
        | ErrorType::TLSHandshakeTimedout
        | ErrorType::HandshakeError
        | ErrorType::InvalidCert
        | &NOT_HTTP2 => Reason::ConnectFailed,
        _ => Reason::UpstreamReset,
    }
}

/// Whether a connection to a backend could not be made as we lack what it takes, such as descriptors.
fn is_our_lack(error: &Error) -> bool {
    let connecting = matches!(
        error.etype(),
        ErrorType::ConnectNoRoute
            | ErrorType::ConnectError
            | ErrorType::ConnectProxyFailure
            | ErrorType::SocketError
            | ErrorType::BindError
            // What Pingora makes of a socket that it does not get.
            | ErrorType::InternalError
    );
    connecting && is_lack_of_ours(error)
}

fn downstream_reason(error: &Error) -> Reason {
    match error.etype() {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => Reason::ClientTimeout,
        ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed => {
            Reason::ClientAborted
        }
        _ => Reason::BadRequest,
    }
}

/// Failures of backends and of ours are worth a line; those of clients are theirs.
fn log_failure(error: &Error, reason: Reason, context: &Context) {
    let id = String::from_utf8_lossy(context.request_id.as_bytes());
    let client_side =
        matches!(reason, Reason::ClientAborted | Reason::ClientTimeout | Reason::BadRequest);
    if client_side {
        log::debug!("request {id}: {}: {}", reason.as_str(), brief(error));
        return;
    }
    let pool = context.pool.as_ref().map_or("-", |pool| pool.spec().name.as_str());
    let backend = context.lease.as_ref().map_or("-", |lease| lease.name().as_str());
    let tries = context.tries;
    log::warn!(
        "request {id}: {} after {tries} tries, last on backend {backend} of pool {pool}: {}",
        reason.as_str(),
        brief(error)
    );
}

/// What an error is, in a few words. Its context is Pingora's and may quote all that the other side
/// sent, secrets included.
pub(super) fn brief(error: &Error) -> String {
    const ENOUGH: usize = 160;
    if let Some(why) = tls::failure(error) {
        return format!("TLS handshake: {why}").chars().take(ENOUGH).collect();
    }
    let kind = error.etype().as_str();
    let cause = error.root_cause();
    if let Some(io) = cause.downcast_ref::<std::io::Error>() {
        return format!("{kind}: {io}").chars().take(ENOUGH).collect();
    }
    kind.to_owned()
}
