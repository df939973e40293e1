//! What the hooks on the way out are given: the response, the pieces of its body, and how it ended.

use super::{
    Answer, FieldError,
    facts::{Facts, Slots, Variables, keeps_state, knows_its_request, split_target},
    fields::{has_fields, text_of},
    request::host_of,
    settings::Template,
};
use crate::model::{Reason, frames_message};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use pingora::http::{RequestHeader, ResponseHeader};
use std::{cell::Cell, time::Duration};

/// Where a response comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'r> {
    pub(crate) pool: Option<&'r str>,
    /// The backend that the request was on, whether or not the response is its.
    pub(crate) backend: Option<&'r str>,
    /// Why we answer ourselves; `None` for a backend's response.
    pub(crate) own: Option<Reason>,
}

/// A response on its way to the client: a backend's, or an answer of ours.
pub struct Response<'r> {
    pub(crate) head: &'r mut ResponseHeader,
    pub(crate) request: &'r RequestHeader,
    pub(crate) target: &'r str,
    pub(crate) facts: Facts<'r>,
    pub(crate) origin: Origin<'r>,
    /// Whether a filter will change the length of the body.
    pub(crate) changes_body: &'r mut bool,
    pub(crate) slots: &'r mut Slots,
    pub(crate) place: usize,
}

knows_its_request!(Response);
keeps_state!(Response);
has_fields!(Response);

impl Response<'_> {
    fn head(&self) -> &ResponseHeader {
        self.head
    }

    fn head_mut(&mut self) -> &mut ResponseHeader {
        self.head
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// Sets the status.
    pub fn set_status(&mut self, status: StatusCode) {
        // Every `StatusCode` is one that Pingora takes.
        let _ = self.head.set_status(status);
    }

    /// The method of the request.
    pub fn method(&self) -> &Method {
        &self.request.method
    }

    /// The path of the request as the backend saw it, without the query.
    pub fn path(&self) -> &str {
        split_target(self.target).0
    }

    /// The header fields of the request.
    pub fn request_headers(&self) -> &HeaderMap {
        &self.request.headers
    }

    /// The value of a header field of the request if it is there and is text. Of several, the first.
    pub fn request_header(&self, name: &str) -> Option<&str> {
        text_of(self.request_headers(), name)
    }

    /// The name of the pool, if the request was to go to one.
    pub fn pool(&self) -> Option<&str> {
        self.origin.pool
    }

    /// The name of the backend that the request was on last, if it came to one.
    pub fn backend(&self) -> Option<&str> {
        self.origin.backend
    }

    /// Why we answer ourselves; `None` for the response of a backend.
    pub fn reason(&self) -> Option<Reason> {
        self.origin.own
    }

    /// Whether a body may follow: not after a HEAD request, nor with a status that forbids one.
    pub fn may_have_body(&self) -> bool {
        let status = self.head.status;
        let bare = status.is_informational()
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        !bare && self.request.method != Method::HEAD
    }

    /// The length of the body in bytes, if it is known before it comes.
    pub fn body_length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH.as_str())?.parse().ok()
    }

    /// Says that this filter will change the length of the body: its length is then no longer said
    /// before it comes.
    pub fn will_change_body(&mut self) {
        *self.changes_body = true;
        self.head.remove_header(&header::CONTENT_LENGTH);
    }

    /// An answer in the place of this response, with another body. It has the status, the reason code
    /// and the header fields of this response, but for those that frame or describe the old body: all
    /// that begin with `content-`, and `etag`, `expires` and the like.
    #[must_use]
    pub fn with_body(&self, body: impl Into<Bytes>) -> Answer {
        let fields = self.headers().iter();
        let kept = fields.filter(|(name, _)| !frames_message(name) && !describes_body(name));
        Answer {
            status: self.status(),
            reason: self.origin.own.unwrap_or(Reason::Ok),
            headers: kept.map(|(name, value)| (name.clone(), value.clone())).collect(),
            body: Some(body.into()),
        }
    }

    /// The text of a template for this request.
    pub fn render(&self, template: &Template) -> String {
        let variables = Variables {
            facts: &self.facts,
            method: self.method(),
            host: &host_of(self.request),
            target: self.target,
            pool: self.origin.pool,
            backend: self.origin.backend,
        };
        variables.render(&template.0)
    }
}

/// Whether the field `name` tells something of a body that is not true of another.
fn describes_body(name: &HeaderName) -> bool {
    const DESCRIBING: [HeaderName; 5] =
        [header::ACCEPT_RANGES, header::AGE, header::ETAG, header::EXPIRES, header::LAST_MODIFIED];
    const DESCRIBING_TOO: [&str; 2] = ["digest", "repr-digest"];
    name.as_str().starts_with("content-")
        || DESCRIBING.contains(name)
        || DESCRIBING_TOO.contains(&name.as_str())
}

/// A piece of a response's body on its way to the client.
pub struct ResponseBody<'r> {
    pub(crate) data: &'r mut Bytes,
    pub(crate) end: bool,
    pub(crate) facts: Facts<'r>,
    pub(crate) slots: &'r mut Slots,
    pub(crate) place: usize,
    /// Whether the hook turned out to be the trait's own.
    pub(crate) unimplemented: bool,
}

knows_its_request!(ResponseBody);
keeps_state!(ResponseBody);

impl ResponseBody<'_> {
    /// The bytes; empty where the end comes alone.
    pub fn data(&self) -> &Bytes {
        self.data
    }

    /// Whether this is the last piece.
    pub fn is_end(&self) -> bool {
        self.end
    }

    /// Passes on `data` instead, which may be empty: nothing is sent then until more comes. If the
    /// length of the whole body changes by that, [`Response::will_change_body`] must have said so.
    pub fn replace(&mut self, data: impl Into<Bytes>) {
        *self.data = data.into();
    }
}

/// A request that is over, and how it ended.
pub struct Ended<'r> {
    pub(crate) request: Option<&'r RequestHeader>,
    pub(crate) facts: Facts<'r>,
    pub(crate) origin: Origin<'r>,
    pub(crate) status: StatusCode,
    pub(crate) reason: Reason,
    pub(crate) duration: Duration,
    pub(crate) tries: u32,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) slots: &'r Slots,
    pub(crate) place: usize,
    /// Whether the hook turned out to be the trait's own.
    pub(crate) unimplemented: Cell<bool>,
}

knows_its_request!(Ended);

impl Ended<'_> {
    /// The status that the client got, or would have got.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The reason code.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The time from the request's first byte to the end.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// How often it was sent to a backend.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// The bytes of the request's body that were read; 0 where the route's timeout ended the request.
    pub fn bytes_in(&self) -> u64 {
        self.bytes_in
    }

    /// The bytes of the response's body that were sent.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_out
    }

    /// The method.
    pub fn method(&self) -> Option<&Method> {
        self.request.map(|request| &request.method)
    }

    /// The value of a header field of the request if it is there and is text. Of several, the first.
    pub fn request_header(&self, name: &str) -> Option<&str> {
        text_of(&self.request?.headers, name)
    }

    /// The name of the pool, if the request was to go to one.
    pub fn pool(&self) -> Option<&str> {
        self.origin.pool
    }

    /// The name of the backend that the request was on last, if it came to one.
    pub fn backend(&self) -> Option<&str> {
        self.origin.backend
    }
}
