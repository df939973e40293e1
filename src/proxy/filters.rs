//! A request and its filters: what each hook is given, and what comes of it.
//!
//! Running a chain is a future of its own on the heap: inside of those of Pingora's hooks, requests
//! without filters would have the room for it made and copied as well.

use super::{
    Exchange, Link, RequestBody,
    answer::{Form, render},
    grpc::as_grpc,
};
use crate::{
    filter::{Answer, Facts, Incoming, Outcome, Passage, Progress, Reading, Stop},
    model::Reason,
};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
};
use pingora_proxy::Session;
use std::time::Duration;

/// What the filters of a route have done with one request so far.
#[derive(Debug, Default)]
pub(super) struct Filtering {
    /// Whether the route has filters.
    pub(super) is_needed: bool,
    pub(super) progress: Progress,
    /// Whether the client has had an answer in the place of the backend's response.
    pub(super) replaced: bool,
    /// What ends the request, for the hook that turns failures into answers.
    pub(super) refusal: Option<Answer>,
}

/// The session as request hooks see it.
struct Arriving<'s> {
    session: &'s mut Session,
    link: &'s Link,
}

impl Incoming for Arriving<'_> {
    fn head(&self) -> &RequestHeader {
        self.session.req_header()
    }

    fn head_mut(&mut self) -> &mut RequestHeader {
        self.session.req_header_mut()
    }

    fn read_body(&mut self, limit: usize) -> Reading<'_> {
        Box::pin(read_ahead(self.session, self.link, limit))
    }
}

/// Reads a body of at most `limit` bytes into the buffer that Pingora keeps for retries, from which
/// the backend gets it. `None` if it is longer.
async fn read_ahead(session: &mut Session, link: &Link, limit: usize) -> Result<Option<Bytes>> {
    if announced_length(session.req_header()).is_some_and(|length| length > limit as u64) {
        return Ok(None);
    }
    let expects = session.req_header_mut().remove_header(&header::EXPECT).is_some();
    if expects {
        // The client waits for somebody to want the body; now the backend will not be asked.
        session.as_downstream_mut().write_continue_response().await.map_err(Error::into_down)?;
        link.set_waiting_to_continue(false);
    }
    let body = session.as_downstream_mut();
    body.enable_retry_buffering();
    let mut length = body.get_retry_buffer().map_or(0, |read| read.len());
    while length <= limit && !body.is_body_done() {
        let Some(piece) = body.read_request_body().await.map_err(Error::into_down)? else {
            break;
        };
        length += piece.len();
    }
    let whole = length <= limit && !body.retry_buffer_truncated();
    Ok(whole.then(|| body.get_retry_buffer().unwrap_or_default()))
}

/// The length of a body whose head says it; chunks come without.
fn announced_length(head: &RequestHeader) -> Option<u64> {
    head.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The error by which a hook of Pingora's ends a request that a filter stopped.
fn stopped() -> Result<()> {
    Err(Error::explain(ErrorType::InternalError, "a filter ended the request"))
}

impl Exchange {
    /// The exchange before the filters of its route, if that has any.
    pub(super) fn passage(&mut self) -> Option<Passage<'_>> {
        if !self.filtering.is_needed {
            return None;
        }
        let route = &self.snapshot.routes[self.route?];
        let facts = Facts {
            client_ip: self.client,
            scheme: self.scheme,
            tls: self.link.tls(),
            listener: self.snapshot.listeners[self.link.listener()].name.as_str(),
            route: route.name.as_str(),
            request_id: &self.request_id,
            received: self.received,
        };
        Some(Passage {
            chain: &route.filters,
            facts,
            progress: &mut self.filtering.progress,
            rewritten: &mut self.rewritten,
            pool: self.pool.as_ref().map(|pool| pool.spec().name.as_str()),
            backend: self.lease.as_ref().map(|lease| lease.name().as_str()),
            tries: self.tries,
        })
    }

    /// Logs what went wrong in hooks.
    fn report_mishaps(&mut self) {
        let mishaps = self.filtering.progress.take_mishaps();
        let id = self.request_id.to_str().unwrap_or("-");
        for mishap in mishaps {
            log::error!("request {id}: {mishap}");
        }
    }

    /// Runs the request hooks; an answer is to be given at once.
    pub(super) async fn filter_request(&mut self, session: &mut Session) -> Result<Option<Answer>> {
        if !self.filtering.is_needed {
            return Ok(None);
        }
        let link = self.link.clone();
        let Some(mut passage) = self.passage() else { return Ok(None) };
        let stop = Box::pin(passage.request(&mut Arriving { session, link: &link })).await;
        self.report_mishaps();
        if session.as_mut().is_body_done() {
            self.body = RequestBody::Whole;
        }
        if !session.req_header().headers.contains_key(header::EXPECT) {
            self.expects_continue = false;
            session.set_close_on_response_before_downstream_finish(false);
        }
        match stop {
            // A filter read more than can be kept for the backend, and went on all the same.
            None if session.as_ref().retry_buffer_truncated() => {
                Ok(Some(Answer::new(StatusCode::PAYLOAD_TOO_LARGE)))
            }
            None => Ok(None),
            Some(Stop::Answer(answer)) => Ok(Some(answer)),
            Some(Stop::Connection(error)) => Err(error),
        }
    }

    /// Runs the hooks on a piece of the request's body.
    pub(super) async fn filter_request_body(
        &mut self,
        body: &mut Option<Bytes>,
        end: bool,
    ) -> Result<()> {
        let Some(mut passage) = self.passage() else { return Ok(()) };
        let stop = Box::pin(passage.request_body(body, end)).await;
        self.stop(stop)
    }

    /// Runs the hooks on the request that a backend is about to get, made of the one that the client
    /// `asked`.
    pub(super) async fn filter_upstream_request(
        &mut self,
        asked: &RequestHeader,
        head: &mut RequestHeader,
    ) -> Result<()> {
        let Some(mut passage) = self.passage() else { return Ok(()) };
        let stop = Box::pin(passage.upstream_request(asked, head)).await;
        self.stop(stop)
    }

    /// Runs the response hooks on what a backend answered.
    pub(super) async fn filter_response(
        &mut self,
        request: &RequestHeader,
        head: &mut ResponseHeader,
    ) -> Result<Filtered> {
        let Some(mut passage) = self.passage() else {
            return Ok(Filtered::Passed { rechunk: false });
        };
        let stop = Box::pin(passage.response(request, head, None)).await;
        let rechunk = passage.changes_response();
        self.report_mishaps();
        match stop {
            None => Ok(Filtered::Passed { rechunk }),
            Some(Stop::Answer(answer)) => Ok(Filtered::Replaced(answer)),
            Some(Stop::Connection(error)) => Err(error),
        }
    }

    /// Gives the client an answer in the place of the response that a backend has begun. What is left
    /// of that is thrown away, and if it is short the connection to the backend stays.
    pub(super) async fn answer_instead(
        &mut self,
        session: &mut Session,
        answer: Answer,
    ) -> Result<()> {
        if session.is_upgrade_req() {
            // There may be bytes of the other protocol on it.
            session.set_keepalive(None);
        }
        self.answer(session, answer).await?;
        self.filtering.replaced = true;
        Ok(())
    }

    /// Ends the request with an answer once Pingora has ended what it is doing.
    pub(super) fn end_with(&mut self, answer: Answer) -> Result<()> {
        self.stop(Some(Stop::Answer(answer)))
    }

    /// Runs the hooks on a piece of the response's body.
    pub(super) fn filter_response_body(
        &mut self,
        body: &mut Option<Bytes>,
        end: bool,
    ) -> Result<()> {
        if self.filtering.replaced {
            *body = None;
            return Ok(());
        }
        let Some(mut passage) = self.passage() else { return Ok(()) };
        let done = passage.response_body(body, end);
        self.stop(done.err().map(|reason| Stop::Answer(Answer::error(reason))))
    }

    /// Runs the hooks on the end of a response's body where trailers follow instead of a last piece.
    /// What they have left to say is sent in the place of the trailers.
    pub(super) fn filter_response_end(&mut self) -> Option<Bytes> {
        let mut rest = None;
        if self.filter_response_body(&mut rest, true).is_err() {
            // Pingora would only log the error and end the response, as if it were whole. So the next
            // write to the client fails, and `failure` learns why from the refusal.
            self.link.break_off(true);
        }
        rest
    }

    /// An answer of ours as the filters leave it, with its body, in the form that its client wants.
    pub(super) async fn own_response(
        &mut self,
        request: Option<&RequestHeader>,
        answer: Answer,
        form: &Form,
    ) -> Result<(ResponseHeader, Bytes)> {
        let id = self.request_id.clone();
        self.reason = answer.reason;
        let mut passage = self.passage();
        let way = passage.as_mut().zip(request);
        let response = own_response(way, answer, &id, *form == Form::Json).await;
        self.report_mishaps();
        let (head, body, reason) = response?;
        self.reason = reason;
        match form {
            Form::Grpc(kind) if reason != Reason::Ok => {
                Ok((as_grpc(head, kind, reason)?, Bytes::new()))
            }
            Form::Grpc(_) | Form::Json | Form::Text => Ok((head, body)),
        }
    }

    /// Runs the log hooks.
    pub(super) fn filter_log(&mut self, request: Option<&RequestHeader>, ended: &Ending) {
        let &Ending { status, bytes_in, bytes_out, duration } = ended;
        let reason = self.reason;
        let Some(mut passage) = self.passage() else { return };
        passage.log(request, &Outcome { status, reason, duration, bytes_in, bytes_out });
        self.report_mishaps();
    }

    /// Ends the request if a filter said so.
    fn stop(&mut self, stop: Option<Stop>) -> Result<()> {
        let Some(stop) = stop else { return Ok(()) };
        self.report_mishaps();
        match stop {
            Stop::Answer(answer) => {
                self.filtering.refusal = Some(answer);
                stopped()
            }
            Stop::Connection(error) => Err(error),
        }
    }
}

/// What filters made of a backend's response.
#[derive(Debug)]
pub(super) enum Filtered {
    /// The client gets it; `rechunk` says that its length is no longer known.
    Passed { rechunk: bool },
    /// The client gets this instead.
    Replaced(Answer),
}

/// An answer of ours as the filters on its `way` leave it: its head, its body, and why it is given.
pub(crate) async fn own_response(
    way: Option<(&mut Passage<'_>, &RequestHeader)>,
    mut answer: Answer,
    request_id: &HeaderValue,
    prefers_json: bool,
) -> Result<(ResponseHeader, Bytes, Reason)> {
    let mut reason = answer.reason;
    let Some((passage, request)) = way else {
        let (head, body) = render(answer, request_id, prefers_json)?;
        return Ok((head, body, reason));
    };
    loop {
        let (mut head, body) = render(answer, request_id, prefers_json)?;
        match passage.response(request, &mut head, Some(reason)).await {
            None => {
                let body = own_body(passage, request, &mut head, body);
                return Ok((head, body, reason));
            }
            // Fewer filters are left each time, so this ends. The client gets another answer, but
            // what went wrong stays what it was.
            Some(Stop::Answer(other)) => {
                if reason == Reason::Ok || other.reason.is_ours() {
                    reason = other.reason;
                }
                answer = other;
            }
            Some(Stop::Connection(error)) => return Err(error),
        }
    }
}

/// The body of an answer of ours as the filters leave it. If they fail, it is left as it is.
fn own_body(
    passage: &mut Passage<'_>,
    request: &RequestHeader,
    head: &mut ResponseHeader,
    body: Bytes,
) -> Bytes {
    let bare = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if bare {
        return Bytes::new();
    }
    let mut filtered = Some(body.clone());
    let body = match passage.response_body(&mut filtered, true) {
        Ok(()) => filtered.unwrap_or_default(),
        Err(_) => body,
    };
    // A number is a good value.
    let _ = head.insert_header(header::CONTENT_LENGTH, body.len());
    if request.method == Method::HEAD { Bytes::new() } else { body }
}

/// How a request ended, as far as the exchange does not know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    pub(super) status: StatusCode,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) duration: Duration,
}
