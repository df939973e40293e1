//! A stream as Pingora sees it for one request.
//!
//! Pingora has a session of its own for HTTP/2. It waits for a client's body without end, tells
//! nobody whose fault a failure was, drops interim responses, and refuses some requests without a
//! hook being called. So this is ours, by the door that Pingora has for protocols it does not know;
//! like HTTP/1's stream it has the timers of the client's side, and leaves what is left of the
//! stream where its task finds it.

use super::wire::Seen;
use crate::{
    listener::pace::{Paces, Waiting},
    proxy::{BrokenOff, Fault, Link},
};
use async_trait::async_trait;
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode, header, response};
use pingora::{
    Error, ErrorType, OrErr, Result,
    http::{RequestHeader, ResponseHeader},
    protocols::{
        Digest,
        http::{
            HttpTask,
            body_buffer::FixedBuffer,
            custom::{CustomMessageWrite, server::Session},
            date::get_cached_date,
        },
        l4::socket::SocketAddr,
    },
};
use std::{
    future::poll_fn,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

/// What is kept of a body for another try; the same as Pingora keeps of HTTP/1's.
const KEPT: usize = 64 * 1024;

/// Fields of a response that concern a connection, and have no place in HTTP/2.
const OF_CONNECTIONS: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Fields that a trailer section must not have (RFC 9110 section 6.5.1), besides those: they frame a
/// message, or say whom it is for.
const MISPLACED: [HeaderName; 10] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::CONTENT_RANGE,
    header::TRAILER,
    header::HOST,
    header::SET_COOKIE,
    header::AUTHORIZATION,
    header::WWW_AUTHENTICATE,
    header::CACHE_CONTROL,
];

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The sending half of a stream.
#[derive(Debug)]
pub(super) struct Reply {
    respond: SendResponse<Bytes>,
    /// Where the body goes, once the head went out.
    body: Option<SendStream<Bytes>>,
    ended: bool,
}

impl Reply {
    pub(super) fn new(respond: SendResponse<Bytes>) -> Self {
        Self { respond, body: None, ended: false }
    }

    /// Whether the head of the final response went out.
    pub(super) fn has_begun(&self) -> bool {
        self.body.is_some()
    }

    /// Whether the response went out whole.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Sends the head of the final response; `end` says that nothing follows it.
    pub(super) fn begin(&mut self, head: ResponseHeader, end: bool) -> Result<()> {
        let mut head = response::Parts::from(head);
        remove_any(&mut head.headers, &OF_CONNECTIONS);
        head.headers.insert(header::DATE, get_cached_date());
        if let Some(id) = head.headers.get_mut(X_REQUEST_ID) {
            // It is another one each time: in the table of HPACK it would drive out what comes again,
            // and the search for it would pass by all that came before.
            id.set_sensitive(true);
        }
        let sent = self.respond.send_response(Response::from_parts(head, ()), end);
        self.body = Some(sent.or_err(ErrorType::WriteError, "while sending a head")?);
        self.ended = end;
        Ok(())
    }

    /// Sends an interim response.
    fn inform(&mut self, head: &mut ResponseHeader) -> Result<()> {
        for name in &OF_CONNECTIONS {
            head.remove_header(name);
        }
        let response = Response::from_parts(head.as_owned_parts(), ());
        let sent = self.respond.send_informational(response);
        sent.or_err(ErrorType::WriteError, "while sending an interim response")
    }

    /// Sends a piece of the body, which the caller has room for.
    fn send(&mut self, piece: Bytes, end: bool) -> Result<()> {
        let Some(body) = &mut self.body else {
            return Error::e_explain(ErrorType::InternalError, "a body before its head");
        };
        body.send_data(piece, end).or_err(ErrorType::WriteError, "while sending a body")?;
        self.ended = end;
        Ok(())
    }

    /// Ends the response.
    pub(super) fn end(&mut self) -> Result<()> {
        if self.ended || self.body.is_none() {
            return Ok(());
        }
        self.send(Bytes::new(), true)
    }

    fn end_with(&mut self, trailers: HeaderMap) -> Result<()> {
        let Some(body) = &mut self.body else {
            return Error::e_explain(ErrorType::InternalError, "trailers before their head");
        };
        body.send_trailers(trailers).or_err(ErrorType::WriteError, "while sending trailers")?;
        self.ended = true;
        Ok(())
    }

    /// Sends a whole answer of ours. It is short, and waits for no room: the client is at fault, or
    /// nobody is left who could wait.
    pub(super) fn send_whole(&mut self, head: ResponseHeader, body: Bytes) -> Result<()> {
        self.begin(head, body.is_empty())?;
        if body.is_empty() { Ok(()) } else { self.send(body, true) }
    }

    /// Breaks the stream off.
    pub(super) fn reset(&mut self, reason: Reason) {
        match &mut self.body {
            Some(body) => body.send_reset(reason),
            None => self.respond.send_reset(reason),
        }
        self.ended = true;
    }

    /// Ready once the client has broken the stream off, or the connection is gone.
    fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, h2::Error>> {
        match &mut self.body {
            Some(body) => body.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        }
    }

    /// Waits for room for a piece of `wanted` bytes, or some of them.
    fn poll_room(
        &mut self,
        cx: &mut Context<'_>,
        wanted: usize,
    ) -> Poll<Option<Result<usize, h2::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        body.reserve_capacity(wanted);
        loop {
            let room = body.capacity().min(wanted);
            if room > 0 {
                return Poll::Ready(Some(Ok(room)));
            }
            match ready!(body.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                broken => return Poll::Ready(broken),
            }
        }
    }
}

/// What a session leaves behind.
pub(super) struct Left {
    pub(super) reply: Reply,
    /// The request's head, if the response did not go out whole: it may have to be logged.
    pub(super) head: Option<Box<RequestHeader>>,
}

/// Where that waits between Pingora and the stream's task.
pub(super) type Slot = Arc<Mutex<Option<Left>>>;

/// A request's stream while Pingora serves it.
pub(super) struct StreamSession {
    head: RequestHeader,
    body: RecvStream,
    /// `None` only while being dropped.
    reply: Option<Reply>,
    home: Slot,
    /// The head that was sent, without its fields: those went with it, and are asked for only to tell
    /// how a connection of HTTP/1 must end.
    written: Option<Box<ResponseHeader>>,
    /// Whether the body was read to its end; the trailers, if any, are not asked for.
    body_read: bool,
    read: usize,
    sent: usize,
    kept: Option<FixedBuffer>,
    link: Arc<Link>,
    seen: Arc<Seen>,
    paces: Paces,
    drain: Option<Duration>,
    /// While the client keeps us waiting for its body.
    reading: Waiting,
    /// While the client makes no room for what we send.
    writing: Waiting,
}

/// What a session is made of.
pub(super) struct Begun {
    pub(super) head: RequestHeader,
    pub(super) body: RecvStream,
    pub(super) reply: Reply,
    pub(super) home: Slot,
    pub(super) link: Arc<Link>,
    pub(super) seen: Arc<Seen>,
    pub(super) paces: Paces,
}

impl StreamSession {
    pub(super) fn new(begun: Begun) -> Self {
        let Begun { head, body, reply, home, link, seen, paces } = begun;
        let (reading, writing) = (Waiting::new(seen.received()), Waiting::new(seen.sent()));
        Self {
            head,
            body,
            reply: Some(reply),
            home,
            written: None,
            body_read: false,
            read: 0,
            sent: 0,
            kept: None,
            link,
            seen,
            paces,
            drain: None,
            reading,
            writing,
        }
    }

    fn reply(&mut self) -> &mut Reply {
        self.reply.as_mut().expect("the reply is there until the session is dropped")
    }

    /// An error on the client's side, with whose fault it was noted where that is known.
    fn broken<T>(&self, error: h2::Error) -> Result<T> {
        let fault = if self.seen.is_stalled() {
            Fault::WriteTimeout
        } else if error.is_reset() && error.is_library() {
            // The client broke the protocol's rules, as with a body that is not as long as it said.
            Fault::BadBody
        } else {
            Fault::Disconnected
        };
        self.fault(fault);
        let what = "the client's stream";
        Err(Error::because(ErrorType::ConnectionClosed, what, error).into_down())
    }

    fn fault(&self, fault: Fault) {
        self.link.set_fault(fault);
    }

    fn too_slow<T>(&self, fault: Fault, kind: ErrorType, what: &'static str) -> Result<T> {
        self.fault(fault);
        Err(Error::explain(kind, what).into_down())
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        self.check_cut()?;
        match self.body.poll_data(cx) {
            Poll::Ready(Some(Ok(piece))) => Poll::Ready(Ok(Some(self.take_in(piece)))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(self.broken(error)),
            Poll::Ready(None) => {
                self.body_read = true;
                Poll::Ready(Ok(None))
            }
            Poll::Pending => self.poll_body_timeout(cx),
        }
    }

    /// Fails once when the present try is cut.
    fn check_cut(&self) -> Result<()> {
        if self.link.take_cut() {
            return Error::e_explain(ErrorType::ReadTimedout, "the time of the try is over");
        }
        Ok(())
    }

    fn take_in(&mut self, piece: Bytes) -> Bytes {
        self.reading.end();
        self.read += piece.len();
        self.link.set_waiting_to_continue(false);
        if let Some(kept) = &mut self.kept {
            kept.write_to_buffer(&piece);
        }
        // Fails if the stream is gone, which the next read will tell.
        let _ = self.body.flow_control().release_capacity(piece.len());
        piece
    }

    fn poll_body_timeout(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        self.link.set_stalled(None);
        if self.link.is_waiting_to_continue() {
            // It is the backend's turn.
            return Poll::Pending;
        }
        // Once it is answered, what it still sends is a conversation, at whatever pace.
        let body = self.paces.body;
        let pace = if self.link.is_answered() { body.any() } else { body };
        let last = self.seen.progress_of(self.body.stream_id().into());
        ready!(self.reading.poll(pace, self.seen.received(), last, cx));
        let what = "the client did not send its body in time";
        Poll::Ready(self.too_slow(Fault::BodyTimeout, ErrorType::ReadTimedout, what))
    }

    /// Once nothing is wanted of the body any more, only the end of the stream is of interest.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>>> {
        self.check_cut()?;
        match ready!(self.reply().poll_reset(cx)) {
            Ok(reason) => Poll::Ready(self.broken(reason.into())),
            Err(error) => Poll::Ready(self.broken(error)),
        }
    }

    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize>> {
        match self.reply().poll_room(cx, wanted) {
            Poll::Ready(Some(Ok(room))) => {
                if self.writing.end() {
                    self.link.set_held_up(false);
                }
                Poll::Ready(Ok(room))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(self.broken(error)),
            Poll::Ready(None) => Poll::Ready(self.broken(Reason::CANCEL.into())),
            Poll::Pending => {
                self.link.set_held_up(true);
                ready!(self.writing.poll(self.paces.response, self.seen.sent(), None, cx));
                let what = "the client makes no room for its response";
                Poll::Ready(self.too_slow(Fault::WriteTimeout, ErrorType::WriteTimedout, what))
            }
        }
    }

    fn send_head(&mut self, mut head: Box<ResponseHeader>, end: bool) -> Result<()> {
        if self.written.is_some() || head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(());
        }
        if head.status.is_informational() {
            let informed = self.reply().inform(&mut head);
            return self.or_gone(informed);
        }
        let status = ResponseHeader::build_no_case(head.status, Some(0))?;
        let begun = self.reply().begin(std::mem::replace(&mut *head, status), end);
        self.or_gone(begun)?;
        self.written = Some(head);
        self.note_end();
        Ok(())
    }

    async fn send_body(&mut self, mut body: Bytes, end: bool) -> Result<()> {
        while !body.is_empty() && !self.reply().has_ended() {
            let wanted = body.len();
            let room = poll_fn(|cx| self.poll_room(cx, wanted)).await?;
            let piece = body.split_to(room);
            let last = end && body.is_empty();
            let sent = self.reply().send(piece, last);
            self.or_gone(sent)?;
            self.sent += room;
            self.seen.add_sent(room);
        }
        if end { self.end() } else { Ok(()) }
    }

    fn end(&mut self) -> Result<()> {
        let ended = self.reply().end();
        self.or_gone(ended)?;
        self.note_end();
        Ok(())
    }

    fn send_trailers(&mut self, mut trailers: HeaderMap) -> Result<()> {
        if self.reply().has_ended() {
            return Ok(());
        }
        if self.link.broken_off() != BrokenOff::No {
            let error = Error::explain(ErrorType::WriteError, "the response broke off");
            return Err(error.into_down());
        }
        remove_any(&mut trailers, &MISPLACED);
        remove_any(&mut trailers, &OF_CONNECTIONS);
        if trailers.is_empty() {
            return self.end();
        }
        let ended = self.reply().end_with(trailers);
        self.or_gone(ended)?;
        self.note_end();
        Ok(())
    }

    fn note_end(&mut self) {
        if self.reply().has_ended() {
            self.link.set_whole();
        }
    }

    /// What cannot be sent on a stream any more cannot because the client has ended it.
    fn or_gone(&self, sent: Result<()>) -> Result<()> {
        sent.map_err(|error| {
            self.fault(Fault::Disconnected);
            error.into_down()
        })
    }

    /// Whether a response of ours with this head has no body.
    fn is_bare(&self, head: &ResponseHeader) -> bool {
        self.head.method == Method::HEAD
            || matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
            || head.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0")
    }

    fn take_head(&mut self) -> Option<Box<RequestHeader>> {
        let nothing = RequestHeader::build_no_case("GET", b"/", Some(0)).ok()?;
        Some(Box::new(std::mem::replace(&mut self.head, nothing)))
    }

    fn is_body_read(&self) -> bool {
        self.body_read || self.body.is_end_stream()
    }
}

/// Removes the fields of these names. There are few fields, so looking at each is less work than
/// looking for each name.
fn remove_any(fields: &mut HeaderMap, names: &[HeaderName]) {
    let found: Vec<HeaderName> =
        fields.keys().filter(|name| names.contains(name)).cloned().collect();
    for name in found {
        fields.remove(name);
    }
}

impl Drop for StreamSession {
    fn drop(&mut self) {
        let Some(reply) = self.reply.take() else { return };
        let head = if reply.has_ended() { None } else { self.take_head() };
        let left = Left { reply, head };
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = Some(left);
    }
}

#[async_trait]
impl Session for StreamSession {
    fn req_header(&self) -> &RequestHeader {
        &self.head
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.head
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_body(cx)).await
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if no_body_expected || self.is_body_read() {
            return poll_fn(|cx| self.poll_gone(cx)).await;
        }
        self.read_body_bytes().await
    }

    /// Not needed: what is left of a body when its stream ends is none of the connection's business.
    async fn drain_request_body(&mut self) -> Result<()> {
        Ok(())
    }

    /// An answer of ours.
    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        let end = end || self.is_bare(&head);
        self.send_head(head, end)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.write_response_header(Box::new(head.clone()), end).await
    }

    async fn write_body(&mut self, body: Bytes, end: bool) -> Result<()> {
        self.send_body(body, end).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.send_trailers(trailers)
    }

    /// What came from a backend.
    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut done = false;
        for task in tasks {
            done |= match task {
                HttpTask::Header(head, end) => {
                    self.send_head(head, end)?;
                    end
                }
                HttpTask::Body(body, end) => {
                    self.send_body(body.unwrap_or_default(), end).await?;
                    end
                }
                HttpTask::Trailer(trailers) => {
                    self.send_trailers(trailers.map_or_else(HeaderMap::new, |all| *all))?;
                    true
                }
                HttpTask::Done => true,
                HttpTask::UpgradedBody(..) => {
                    return Error::e_explain(ErrorType::InternalError, "a tunnel over HTTP/2");
                }
                HttpTask::Failed(error) => return Err(error),
            };
        }
        if done {
            self.end()?;
        }
        Ok(done)
    }

    /// The stream has its own timers.
    fn set_read_timeout(&mut self, _: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, _: Option<Duration>) {}

    fn get_write_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.drain = timeout;
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.drain
    }

    fn request_summary(&self) -> String {
        format!("{} {}", self.head.method, self.head.uri)
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.written.as_deref()
    }

    async fn shutdown(&mut self, _: u32, _: &str) {
        self.reply().reset(Reason::INTERNAL_ERROR);
    }

    fn is_body_done(&mut self) -> bool {
        self.is_body_read()
    }

    fn is_body_empty(&mut self) -> bool {
        self.read == 0 && self.is_body_read()
    }

    async fn finish(&mut self) -> Result<()> {
        self.end()
    }

    fn body_bytes_sent(&self) -> usize {
        self.sent
    }

    fn body_bytes_read(&self) -> usize {
        self.read
    }

    fn digest(&self) -> Option<&Digest> {
        None
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        None
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    fn enable_retry_buffering(&mut self) {
        self.kept.get_or_insert_with(|| FixedBuffer::new(KEPT));
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.kept.as_ref().is_some_and(FixedBuffer::is_truncated)
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.kept.as_ref().filter(|kept| !kept.is_truncated())?.get_buffer()
    }

    // What Pingora can do with messages of other protocols does not concern HTTP.

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn futures_core::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>>
    {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _: Box<dyn futures_core::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
