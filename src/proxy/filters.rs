//! A request and its filters: what each hook is given, and what comes of it.

use super::{Exchange, Link, RequestBody, forward::FORWARDED_PROTO};
use crate::{
    filter::{
        self, Answer, Chain, Choices, Facts, Incoming, Origin, Reading, Slots, Stop, host_of,
        target_of,
    },
    model::Reason,
};
use bytes::Bytes;
use http::{StatusCode, header};
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
};
use pingora_proxy::Session;

/// What the filters of a route have done with one request so far.
#[derive(Debug, Default)]
pub(super) struct Filtering {
    slots: Slots,
    /// How many filters the request came to.
    reached: usize,
    /// How many of them have their response hook before them still, and see the pieces of its body.
    responding: usize,
    pub(super) choices: Choices,
    /// The bytes of the body that went to the filters in this try.
    body_offset: u64,
    /// Whether a filter changes the length of the response's body.
    changes_response: bool,
    /// What ends the request, for the hook that turns failures into answers.
    pub(super) refusal: Option<Answer>,
}

impl Filtering {
    /// A try begins, and with it the body.
    pub(super) fn begin_try(&mut self) {
        self.body_offset = 0;
    }
}

/// An exchange taken apart, so that hooks can be given some of it to change and some to look at.
struct Parts<'e> {
    chain: &'e Chain,
    facts: Facts<'e>,
    filtering: &'e mut Filtering,
    rewritten: &'e mut Option<String>,
    pool: Option<&'e str>,
    backend: Option<&'e str>,
    tries: u32,
}

impl Parts<'_> {
    fn origin(&self, own: Option<Reason>) -> Origin<'_> {
        Origin { pool: self.pool, backend: self.backend, own }
    }
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
/// the backend gets it.
async fn read_ahead(session: &mut Session, link: &Link, limit: usize) -> Result<Option<Bytes>> {
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
    Ok((length <= limit).then(|| body.get_retry_buffer().unwrap_or_default()))
}

/// The error by which a hook of Pingora's ends a request that a filter stopped.
fn stopped() -> Result<()> {
    Err(Error::explain(ErrorType::InternalError, "a filter ended the request"))
}

impl Exchange {
    /// The exchange in parts if its route has filters.
    fn parts(&mut self) -> Option<Parts<'_>> {
        let route = &self.snapshot.routes[self.route?];
        if route.filters.is_empty() {
            return None;
        }
        let facts = Facts {
            client_ip: self.client,
            scheme: FORWARDED_PROTO,
            listener: self.snapshot.listeners[self.link.listener()].name.as_str(),
            route: route.name.as_str(),
            request_id: &self.request_id,
            received: self.received,
        };
        Some(Parts {
            chain: &route.filters,
            facts,
            filtering: &mut self.filtering,
            rewritten: &mut self.rewritten,
            pool: self.pool.as_ref().map(|pool| pool.spec().name.as_str()),
            backend: self.lease.as_ref().map(|lease| lease.name().as_str()),
            tries: self.tries,
        })
    }

    /// Runs the request hooks; an answer is to be given at once.
    pub(super) async fn filter_request(&mut self, session: &mut Session) -> Result<Option<Answer>> {
        let link = self.link.clone();
        let Some(Parts { chain, facts, filtering, rewritten, .. }) = self.parts() else {
            return Ok(None);
        };
        let Filtering { slots, choices, reached, .. } = filtering;
        let mut incoming = Arriving { session, link: &link };
        let mut request =
            filter::Request { incoming: &mut incoming, facts, rewritten, choices, slots, place: 0 };
        let stop = chain.on_request(&mut request, reached).await;
        filtering.responding = filtering.reached;
        if session.as_mut().is_body_done() {
            self.body = RequestBody::Whole;
        }
        if !session.req_header().headers.contains_key(header::EXPECT) {
            self.expects_continue = false;
            session.set_close_on_response_before_downstream_finish(false);
        }
        match stop {
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
        let Some(Parts { chain, facts, filtering, .. }) = self.parts() else { return Ok(()) };
        if !chain.sees_request_body() {
            return Ok(());
        }
        let mut data = body.take().unwrap_or_default();
        let length = data.len() as u64;
        let offset = filtering.body_offset;
        let slots = &mut filtering.slots;
        let mut piece =
            filter::RequestBody { data: &mut data, offset, end, facts, slots, place: 0 };
        let stop = chain.on_request_body(&mut piece).await;
        filtering.body_offset += length;
        // `None` would be the end of the body.
        *body = (!data.is_empty() || !end).then_some(data);
        self.stop(stop)
    }

    /// Runs the hooks on the request that a backend is about to get.
    pub(super) async fn filter_upstream_request(&mut self, head: &mut RequestHeader) -> Result<()> {
        let Some(parts) = self.parts() else { return Ok(()) };
        if parts.filtering.choices.changes_body {
            head.remove_header(&header::CONTENT_LENGTH);
        }
        if !parts.chain.sees_upstream_request() {
            return Ok(());
        }
        let target = target_of(parts.rewritten.as_deref(), head).into_owned();
        let host = host_of(head).into_owned();
        let mut request = filter::UpstreamRequest {
            head,
            facts: parts.facts,
            target: &target,
            host: &host,
            pool: parts.pool.unwrap_or(""),
            backend: parts.backend.unwrap_or(""),
            tries: parts.tries,
            slots: &mut parts.filtering.slots,
            place: 0,
        };
        let stop = parts.chain.on_upstream_request(&mut request).await;
        self.stop(stop)
    }

    /// Runs the response hooks that are left on a head; an answer is to be given instead of it.
    /// `own` is the reason of an answer of ours.
    async fn run_response_hooks(
        &mut self,
        request: &RequestHeader,
        head: &mut ResponseHeader,
        own: Option<Reason>,
    ) -> Option<Stop> {
        let parts = self.parts()?;
        let origin = Origin { pool: parts.pool, backend: parts.backend, own };
        let target = target_of(parts.rewritten.as_deref(), request);
        let Filtering { slots, responding, changes_response, .. } = parts.filtering;
        let mut response = filter::Response {
            head,
            request,
            target: &target,
            facts: parts.facts,
            origin,
            changes_body: changes_response,
            slots,
            place: 0,
        };
        parts.chain.on_response(&mut response, responding).await
    }

    /// Runs the response hooks on what a backend answered. Whether its length changes is returned.
    pub(super) async fn filter_response(
        &mut self,
        request: &RequestHeader,
        head: &mut ResponseHeader,
    ) -> Result<bool> {
        let stop = self.run_response_hooks(request, head, None).await;
        self.stop(stop)?;
        Ok(self.filtering.changes_response)
    }

    /// Runs the hooks on a piece of the response's body.
    pub(super) fn filter_response_body(
        &mut self,
        body: &mut Option<Bytes>,
        end: bool,
    ) -> Result<()> {
        let Some(Parts { chain, facts, filtering, .. }) = self.parts() else { return Ok(()) };
        let Filtering { slots, responding, changes_response, .. } = filtering;
        let mut data = body.take().unwrap_or_default();
        let mut piece = filter::ResponseBody {
            data: &mut data,
            end,
            facts,
            slots,
            place: 0,
            unimplemented: false,
        };
        let done = chain.on_response_body(&mut piece, *responding, *changes_response);
        *body = (!data.is_empty()).then_some(data);
        self.stop(done.err().map(|reason| Stop::Answer(Answer::error(reason))))
    }

    /// An answer of ours as the filters leave it, with its body.
    pub(super) async fn own_response(
        &mut self,
        request: Option<&RequestHeader>,
        mut answer: Answer,
        prefers_json: bool,
    ) -> Result<(ResponseHeader, Bytes)> {
        self.reason = answer.reason;
        loop {
            self.filtering.changes_response = false;
            let reason = self.reason;
            let (mut head, body) = super::answer::render(answer, &self.request_id, prefers_json)?;
            let Some(request) = request else { return Ok((head, body)) };
            match self.run_response_hooks(request, &mut head, Some(reason)).await {
                None => return Ok(self.own_body(head, body)),
                // Fewer filters are left each time, so this ends. The client gets another answer, but
                // what went wrong stays what it was.
                Some(Stop::Answer(other)) => {
                    if reason == Reason::Ok || other.reason.is_ours() {
                        self.reason = other.reason;
                    }
                    answer = other;
                }
                Some(Stop::Connection(error)) => return Err(error),
            }
        }
    }

    /// The body of an answer of ours as the filters leave it. If they fail, it is left as it is.
    fn own_body(&mut self, mut head: ResponseHeader, body: Bytes) -> (ResponseHeader, Bytes) {
        if !self.filtering.changes_response {
            return (head, body);
        }
        let mut filtered = Some(body.clone());
        let body = match self.filter_response_body(&mut filtered, true) {
            Ok(()) => filtered.unwrap_or_default(),
            Err(_) => body,
        };
        // A number is a good value.
        let _ = head.insert_header(header::CONTENT_LENGTH, body.len());
        (head, body)
    }

    /// Runs the log hooks.
    pub(super) fn filter_log(&mut self, request: Option<&RequestHeader>, ended: &Outcome) {
        let (reason, duration) = (self.reason, self.began.elapsed());
        let Some(parts) = self.parts() else { return };
        let mut ended = filter::Ended {
            request,
            facts: parts.facts,
            origin: parts.origin(None),
            status: ended.status,
            reason,
            duration,
            tries: parts.tries,
            bytes_in: ended.bytes_in,
            bytes_out: ended.bytes_out,
            slots: &parts.filtering.slots,
            place: 0,
            unimplemented: false.into(),
        };
        parts.chain.on_log(&mut ended, parts.filtering.reached);
    }

    /// Ends the request if a filter said so.
    fn stop(&mut self, stop: Option<Stop>) -> Result<()> {
        match stop {
            None => Ok(()),
            Some(Stop::Answer(answer)) => {
                self.filtering.refusal = Some(answer);
                stopped()
            }
            Some(Stop::Connection(error)) => Err(error),
        }
    }
}

/// How a request ended, as far as the exchange does not know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    pub(super) status: StatusCode,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
}
