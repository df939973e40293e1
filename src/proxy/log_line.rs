//! From an exchange to its line in the access log.

use super::{Exchange, Link, Reason, client::new_request_id, filters::Ending};
use crate::filter::host_of;
use crate::{
    observe::AccessRecord,
    runtime::{EndedRequest, Snapshot},
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora_proxy::Session;
use std::{
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

/// Logs an exchange that Pingora saw to its end, which was just now.
pub(super) fn log(session: &Session, exchange: &mut Exchange, ended: Instant) {
    let request = session.req_header();
    let status = status(session, exchange);
    let (bytes_in, bytes_out) =
        (session.body_bytes_read() as u64, session.body_bytes_sent() as u64);
    let duration = ended.duration_since(exchange.began);
    let ending = Ending { status, bytes_in, bytes_out, duration };
    exchange.filter_log(Some(request), &ending);
    count(exchange, request.method.as_str(), &ending);
    let Some(access_log) = &exchange.snapshot.access_log else { return };
    let field = |name: HeaderName| request.headers.get(name).map(HeaderValue::as_bytes);
    let target = String::from_utf8_lossy(request.raw_path());
    access_log.log(&AccessRecord {
        method: request.method.as_str(),
        host: &host_of(request),
        path: &target,
        bytes_in,
        bytes_out,
        protocol: protocol(request.version),
        user_agent: field(header::USER_AGENT),
        referer: field(header::REFERER),
        ..record(exchange, &ending)
    });
}

/// Counts an exchange, once for its one line.
fn count(exchange: &Exchange, method: &str, ending: &Ending) {
    // A client that left got no answer of ours, even if one was on its way.
    let answered = exchange.own_status.is_some() && exchange.reason != Reason::ClientAborted;
    exchange.snapshot.count_request(&EndedRequest {
        listener: exchange.link.listener(),
        route: exchange.route,
        pool: exchange.pool.as_ref(),
        method,
        status: ending.status.as_u16(),
        local: answered.then_some(exchange.reason),
        duration: ending.duration,
        bytes_in: ending.bytes_in,
        bytes_out: ending.bytes_out,
    });
}

/// The status that the client got, or would have got.
fn status(session: &Session, exchange: &Exchange) -> StatusCode {
    let written = session.response_written().map(|response| response.status);
    let written = written
        .filter(|status| !status.is_informational() || *status == StatusCode::SWITCHING_PROTOCOLS);
    match exchange.reason {
        Reason::ClientAborted => Reason::ClientAborted.status(),
        reason => written.or(exchange.own_status).unwrap_or(reason.status()),
    }
}

/// Logs an exchange that the connection loop gave up and answers itself.
pub fn log_abandoned(exchange: &mut Exchange, reason: Reason) {
    exchange.reason = reason;
    if exchange.upstream_time.is_none() && reason != Reason::DrainTimeout {
        exchange.report_given_up();
    }
    let ended = Instant::now();
    exchange.conclude(ended);
    let ok = reason == Reason::Ok;
    if !ok {
        let id = exchange.request_id.to_str().unwrap_or("-");
        log::warn!("request {id}: {} after {} tries", reason.as_str(), exchange.tries);
    }
    let answered = exchange.answered.filter(|_| ok || reason == Reason::DrainTimeout);
    let status = answered.or(exchange.own_status).unwrap_or(reason.status());
    let sketch = exchange.sketch.clone();
    let head = sketch.as_ref().and_then(|sketch| sketch.head.as_deref());
    let (bytes_in, bytes_out) = (exchange.passed_in, exchange.passed_out);
    let duration = ended.duration_since(exchange.began);
    let ending = Ending { status, bytes_in, bytes_out, duration };
    exchange.filter_log(head, &ending);
    let Some(sketch) = &sketch else { return };
    count(exchange, sketch.method.as_str(), &ending);
    let Some(access_log) = &exchange.snapshot.access_log else { return };
    access_log.log(&AccessRecord {
        method: sketch.method.as_str(),
        host: &sketch.host,
        path: &sketch.target,
        bytes_in,
        bytes_out,
        protocol: protocol(sketch.version),
        user_agent: sketch.user_agent.as_ref().map(HeaderValue::as_bytes),
        referer: sketch.referer.as_ref().map(HeaderValue::as_bytes),
        ..record(exchange, &ending)
    });
}

fn record<'a>(exchange: &'a Exchange, ending: &Ending) -> AccessRecord<'a> {
    AccessRecord {
        time: began(ending.duration),
        duration: ending.duration,
        queue: exchange.queue_time.or_else(|| exchange.queued.map(|since| since.elapsed())),
        connect: exchange.connect_time,
        upstream: exchange.upstream_time,
        client_ip: exchange.client,
        route: exchange.matched().map(|route| route.name.as_str()),
        pool: exchange.pool.as_ref().map(|pool| pool.spec().name.as_str()),
        backend: exchange.lease.as_ref().map(|lease| lease.name().as_str()),
        tries: exchange.tries,
        tls: exchange.link.tls().map(|tls| tls.version),
        protocol: exchange.link.protocol(),
        ..blank(
            exchange.listener().name.as_str(),
            ending.status,
            exchange.reason,
            &exchange.request_id,
        )
    }
}

/// When what has taken so long up to now began.
fn began(duration: Duration) -> SystemTime {
    SystemTime::now().checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn protocol(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

/// A request that was refused before it became an exchange.
#[derive(Debug)]
pub struct Refused<'a> {
    /// The listener's index in the snapshot.
    pub listener: usize,
    /// The address of the connection.
    pub client: Option<IpAddr>,
    /// The version of TLS, if it was used.
    pub tls: Option<&'a str>,
    /// What the connection speaks.
    pub protocol: &'static str,
    /// When its first byte was seen.
    pub began: Instant,
    /// The method, as far as it can be told, or `-`.
    pub method: &'a str,
    /// The target, as far as it can be told, or `-`.
    pub target: &'a str,
    /// The status it was answered with.
    pub status: StatusCode,
    /// Why.
    pub reason: Reason,
    /// What is wrong with it, for the error log.
    pub why: &'static str,
    /// The forms in which it wants its answer, as far as they can be told.
    pub accept: Option<&'a [u8]>,
}

impl<'a> Refused<'a> {
    /// Something on a connection of which nothing more is known, refused as bad unless told otherwise.
    pub fn on(link: &'a Link, began: Instant) -> Self {
        Self {
            listener: link.listener(),
            client: link.client().map(|address| address.ip()),
            tls: link.tls().map(|tls| tls.version),
            protocol: link.protocol(),
            began,
            method: "-",
            target: "-",
            status: StatusCode::BAD_REQUEST,
            reason: Reason::BadRequest,
            why: "it is no request",
            accept: None,
        }
    }

    /// Counts and logs it under `id`, with an answer whose body has `bytes_out`.
    pub(super) fn log(&self, snapshot: &Snapshot, id: &HeaderValue, bytes_out: u64) {
        log::debug!("request {}: {}", id.to_str().unwrap_or("-"), self.why);
        let duration = self.began.elapsed();
        snapshot.count_request(&EndedRequest {
            listener: self.listener,
            route: None,
            pool: None,
            method: self.method,
            status: self.status.as_u16(),
            local: Some(self.reason),
            duration,
            bytes_in: 0,
            bytes_out,
        });
        let Some(access_log) = &snapshot.access_log else { return };
        let listener = snapshot.listeners[self.listener].name.as_str();
        access_log.log(&AccessRecord {
            time: began(duration),
            method: self.method,
            path: self.target,
            duration,
            bytes_out,
            client_ip: self.client,
            tls: self.tls,
            protocol: self.protocol,
            ..blank(listener, self.status, self.reason, id)
        });
    }
}

/// Counts and logs a request that was refused before it became an exchange and gets no answer from
/// here, under the id that is returned.
pub fn log_refused(snapshot: &Snapshot, refused: &Refused<'_>) -> HeaderValue {
    let id = new_request_id();
    refused.log(snapshot, &id, 0);
    id
}

/// A record of which nothing more is known.
fn blank<'a>(
    listener: &'a str,
    status: StatusCode,
    reason: Reason,
    request_id: &'a HeaderValue,
) -> AccessRecord<'a> {
    AccessRecord {
        time: SystemTime::UNIX_EPOCH,
        method: "-",
        host: "-",
        path: "-",
        status: status.as_u16(),
        bytes_in: 0,
        bytes_out: 0,
        duration: Duration::ZERO,
        queue: None,
        connect: None,
        upstream: None,
        client_ip: None,
        listener,
        route: None,
        pool: None,
        backend: None,
        tries: 0,
        reason: reason.as_str(),
        request_id: request_id.to_str().unwrap_or("-"),
        protocol: "HTTP/1.1",
        tls: None,
        user_agent: None,
        referer: None,
    }
}
