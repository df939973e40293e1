//! One request on its way through the filters of its route.
//!
//! The proxy calls these methods from Pingora's hooks, and a test without a socket calls them from
//! its description of a request. So what a test sees is what the proxy does.

use super::{
    Chain, Ended, Mishap, Request, RequestBody, Response, ResponseBody, UpstreamRequest,
    chain::Stop,
    facts::{Facts, Slots},
    flow::Result,
    request::{Choices, Incoming, host_of, target_of},
    response::Origin,
};
use crate::model::Reason;
use bytes::Bytes;
use http::{StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use std::time::Duration;

/// What the filters of a route have done with one request so far.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(super) slots: Slots,
    /// How many filters the request came to.
    reached: usize,
    /// How many of them have their response hook before them still; `None` until there is a
    /// response. A filter sees one response of a request, whatever becomes of that response.
    unanswered: Option<usize>,
    /// How many see the pieces of the present response's body.
    watching: usize,
    pub(crate) choices: Choices,
    /// The bytes of the body that went to the filters in this try.
    body_offset: u64,
    /// Whether a filter changes the length of the response's body.
    changes_response: bool,
    /// What went wrong in hooks, and was not told yet.
    pub(super) mishaps: Vec<Mishap>,
}

impl Progress {
    /// A try begins, and with it the body.
    pub(crate) fn begin_try(&mut self) {
        self.body_offset = 0;
    }

    /// Takes what went wrong in hooks since this was called last.
    pub(crate) fn take_mishaps(&mut self) -> Vec<Mishap> {
        std::mem::take(&mut self.mishaps)
    }
}

/// A request before the filters of its route: what they may see of it, and what they change.
pub(crate) struct Passage<'e> {
    pub(crate) chain: &'e Chain,
    pub(crate) facts: Facts<'e>,
    pub(crate) progress: &'e mut Progress,
    /// The target if it is not the one that the client sent.
    pub(crate) rewritten: &'e mut Option<String>,
    pub(crate) pool: Option<&'e str>,
    pub(crate) backend: Option<&'e str>,
    pub(crate) tries: u32,
}

/// How a request ended, as far as its passage does not know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    pub(crate) status: StatusCode,
    pub(crate) reason: Reason,
    pub(crate) duration: Duration,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

impl Passage<'_> {
    fn origin(&self, own: Option<Reason>) -> Origin<'_> {
        Origin { pool: self.pool, backend: self.backend, own }
    }

    /// Runs the request hooks.
    pub(crate) async fn request(&mut self, incoming: &mut dyn Incoming) -> Option<Stop> {
        let Progress { slots, choices, reached, mishaps, .. } = &mut *self.progress;
        let (facts, rewritten) = (self.facts, &mut *self.rewritten);
        let mut request = Request { incoming, facts, rewritten, choices, slots, place: 0 };
        self.chain.on_request(&mut request, reached, mishaps).await
    }

    /// Runs the hooks on a piece of the request's body; `None` is the end alone.
    pub(crate) async fn request_body(
        &mut self,
        body: &mut Option<Bytes>,
        end: bool,
    ) -> Option<Stop> {
        if !self.chain.sees_request_body() {
            return None;
        }
        let Progress { slots, choices, body_offset, mishaps, .. } = &mut *self.progress;
        let mut data = body.take().unwrap_or_default();
        if end && data.is_empty() && *body_offset == 0 {
            return None;
        }
        let (offset, facts) = (*body_offset, self.facts);
        *body_offset += data.len() as u64;
        let mut piece = RequestBody { data: &mut data, offset, end, facts, slots, place: 0 };
        let stop = self.chain.on_request_body(&mut piece, choices.changes_body, mishaps).await;
        // `None` would be the end of the body.
        *body = (!data.is_empty() || !end).then_some(data);
        stop
    }

    /// Runs the hooks on the request that a backend is about to get, made of the one that the client
    /// `asked`.
    pub(crate) async fn upstream_request(
        &mut self,
        asked: &RequestHeader,
        head: &mut RequestHeader,
    ) -> Option<Stop> {
        if self.progress.choices.changes_body {
            head.remove_header(&header::CONTENT_LENGTH);
        }
        if !self.chain.sees_upstream_request() {
            return None;
        }
        let target = target_of(self.rewritten.as_deref(), head).into_owned();
        let host = host_of(asked).into_owned();
        let mut request = UpstreamRequest {
            head,
            facts: self.facts,
            target: &target,
            host: &host,
            pool: self.pool.unwrap_or(""),
            backend: self.backend.unwrap_or(""),
            tries: self.tries,
            slots: &mut self.progress.slots,
            place: 0,
        };
        self.chain.on_upstream_request(&mut request, &mut self.progress.mishaps).await
    }

    /// Runs the response hooks of the filters that have not seen a response yet. `own` is the reason
    /// of an answer of ours.
    pub(crate) async fn response(
        &mut self,
        request: &RequestHeader,
        head: &mut ResponseHeader,
        own: Option<Reason>,
    ) -> Option<Stop> {
        let origin = Origin { pool: self.pool, backend: self.backend, own };
        let target = target_of(self.rewritten.as_deref(), request);
        let Progress { slots, reached, unanswered, watching, changes_response, mishaps, .. } =
            &mut *self.progress;
        *changes_response = false;
        let left = unanswered.get_or_insert(*reached);
        let all = *left;
        let mut response = Response {
            head,
            request,
            target: &target,
            facts: self.facts,
            origin,
            changes_body: changes_response,
            slots,
            place: 0,
        };
        let stop = self.chain.on_response(&mut response, left, mishaps).await;
        if stop.is_none() {
            (*left, *watching) = (0, all);
        }
        stop
    }

    /// Whether a filter changes the length of the present response's body.
    pub(crate) fn changes_response(&self) -> bool {
        self.progress.changes_response
    }

    /// Runs the hooks on a piece of the present response's body; `None` is the end alone. An error
    /// says that the response must break off.
    pub(crate) fn response_body(
        &mut self,
        body: &mut Option<Bytes>,
        end: bool,
    ) -> Result<(), Reason> {
        let Progress { slots, watching, changes_response, mishaps, .. } = &mut *self.progress;
        let mut data = body.take().unwrap_or_default();
        let mut piece = ResponseBody {
            data: &mut data,
            end,
            facts: self.facts,
            slots,
            place: 0,
            unimplemented: false,
        };
        let done = self.chain.on_response_body(&mut piece, *watching, *changes_response, mishaps);
        *body = (!data.is_empty()).then_some(data);
        done
    }

    /// Runs the log hooks of the filters that the request came to.
    pub(crate) fn log(&mut self, request: Option<&RequestHeader>, outcome: &Outcome) {
        let mut mishaps = self.progress.take_mishaps();
        let mut ended = Ended {
            request,
            facts: self.facts,
            origin: self.origin(None),
            status: outcome.status,
            reason: outcome.reason,
            duration: outcome.duration,
            tries: self.tries,
            bytes_in: outcome.bytes_in,
            bytes_out: outcome.bytes_out,
            slots: &self.progress.slots,
            place: 0,
            unimplemented: false.into(),
        };
        self.chain.on_log(&mut ended, self.progress.reached, &mut mishaps);
        self.progress.mishaps = mishaps;
    }
}
