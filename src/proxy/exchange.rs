//! One request and its answer.

use super::{
    Link, Reason,
    answer::{self, Form},
    client::HTTP,
    field::{self, is_there},
    filters::Filtering,
    nominated,
    sketch::Sketch,
};
use crate::{
    filter::Answer,
    pool::{Lease, Member, Opener, Outcome, Pool, Tried},
    runtime::{Route, Snapshot},
};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version, header};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};
use pingora_proxy::Session;
use std::{
    net::IpAddr,
    ops::{Deref, DerefMut},
    os::fd::RawFd,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long the rest of a body is read after its request was answered.
pub(super) const DRAIN: Duration = Duration::from_secs(2);

/// How much of a request's body is there when its head is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestBody {
    /// All of it, or there is none.
    Whole,
    /// The client is still sending.
    Streaming,
}

/// One request, from the moment its head is whole until it is logged.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Exchange {
    pub(super) link: Arc<Link>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) body: RequestBody,
    /// When its first byte was seen.
    pub(super) began: Instant,
    /// When the head was whole.
    pub(super) received: Instant,
    /// Index into the snapshot's routes.
    pub(super) route: Option<usize>,
    pub(super) route_deadline: Option<Instant>,
    pub(super) pool: Option<Arc<Pool>>,
    pub(super) client: Option<IpAddr>,
    /// Whether the connection comes from a trusted proxy.
    pub(super) from_trusted: bool,
    /// `http` or `https`, as the client uses it: what the connection is, or what a trusted proxy says.
    pub(super) scheme: &'static str,
    pub(super) request_id: HeaderValue,
    /// The target in normal form, if that differs from what was sent.
    pub(super) rewritten: Option<String>,
    /// What the hashing policies go by.
    pub(super) hash_key: Option<u64>,
    /// What the request's sticky cookie says, if it has a good one.
    pub(super) kept: Option<super::sticky::Kept>,
    /// Whether the request asks for another protocol.
    pub(super) upgrade: bool,
    /// Whether the client waits for a 100 before it sends its body.
    pub(super) expects_continue: bool,
    /// Since when it waits in the queue, while it does.
    pub(super) queued: Option<Instant>,
    pub(super) queue_time: Option<Duration>,
    pub(super) lease: Option<Lease>,
    pub(super) tried: Tried,
    pub(super) tries: u32,
    /// The pause before the next try.
    pub(super) pause: Duration,
    pub(super) replay: Replay,
    /// Whether the present try meets its backend otherwise than at first.
    pub(super) turn: Replay,
    /// Whether the present try ends because its status asks for another.
    pub(super) retry_status: bool,
    /// Whether the pool has heard how the present try ended.
    pub(super) reported: bool,
    pub(super) try_began: Instant,
    /// What opens the connection of the present try where others will share it, until it is there.
    pub(super) opener: Option<Arc<Opener>>,
    /// That of the backend's connection, until it is known whether others share it.
    pub(super) descriptor: Option<RawFd>,
    /// When the present try had passed on the last of a body that was streamed.
    pub(super) body_passed_on: Option<Instant>,
    /// What is still to come of a response of known length, while the client may still be sending.
    pub(super) to_come: Option<u64>,
    pub(super) connect_time: Option<Duration>,
    pub(super) upstream_time: Option<Duration>,
    pub(super) reason: Reason,
    /// The status of an answer of ours; a backend's is read from the session.
    pub(super) own_status: Option<StatusCode>,
    /// The status of a backend's answer that has begun.
    pub(super) answered: Option<StatusCode>,
    /// The bytes of the body that were passed on in this try, and those of the answer's, as far as that
    /// can be told without a session.
    pub(super) passed_in: u64,
    pub(super) passed_out: u64,
    /// What the client wants for its connection, in Pingora's terms.
    pub(super) keepalive: Option<u64>,
    /// What the route's filters have done so far.
    pub(super) filtering: Filtering,
    /// The head as it came in HTTP/1. It is shared with the session.
    pub(super) raw: Bytes,
    /// What an exchange that is given up is logged with: its session is gone by then.
    pub(super) sketch: Option<Arc<Sketch>>,
}

/// An exchange on its way through Pingora. Heads are cloned, exchanges are not: the first who asks
/// gets it.
#[derive(Clone, Debug)]
struct Traveller(Arc<Mutex<Option<Box<Exchange>>>>);

/// A request is repeated once on the same backend after a pooled connection turned out stale. And each
/// try is, once, where its backend can be met otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replay {
    Unused,
    /// The next try is the replay.
    Next,
    Used,
}

impl Exchange {
    /// A request whose head arrived over `link`: its first byte when it `began`, its last when it was
    /// `received`.
    pub fn new(
        link: Arc<Link>,
        snapshot: Arc<Snapshot>,
        body: RequestBody,
        began: Instant,
        received: Instant,
    ) -> Self {
        Self {
            link,
            snapshot,
            body,
            began,
            received,
            route: None,
            route_deadline: None,
            pool: None,
            client: None,
            from_trusted: false,
            scheme: HTTP,
            request_id: HeaderValue::from_static("-"),
            rewritten: None,
            hash_key: None,
            kept: None,
            upgrade: false,
            expects_continue: false,
            queued: None,
            queue_time: None,
            lease: None,
            tried: Tried::default(),
            tries: 0,
            pause: Duration::ZERO,
            replay: Replay::Unused,
            turn: Replay::Unused,
            retry_status: false,
            reported: false,
            try_began: began,
            opener: None,
            descriptor: None,
            body_passed_on: None,
            to_come: None,
            connect_time: None,
            upstream_time: None,
            reason: Reason::Ok,
            own_status: None,
            answered: None,
            passed_in: 0,
            passed_out: 0,
            keepalive: None,
            filtering: Filtering::default(),
            raw: Bytes::new(),
            sketch: None,
        }
    }

    /// What the connection loop is told of it.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The request's id.
    pub fn request_id(&self) -> &HeaderValue {
        &self.request_id
    }

    /// Has the exchange travel to the first hook in the request's head, where there is no user
    /// context of a connection to travel in.
    pub fn travel_in(self, head: &mut RequestHeader) {
        head.extensions_mut().insert(Traveller(Arc::new(Mutex::new(Some(Box::new(self))))));
    }

    /// The exchange that has travelled in a head, once.
    pub(super) fn arrived_in(head: &mut RequestHeader) -> Option<Box<Self>> {
        // There is nothing else in it, and even an empty map would be copied with each copy of the head.
        let Traveller(seat) = std::mem::take(head.extensions_mut()).remove::<Traveller>()?;
        seat.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The answer to an exchange whose session is gone.
    pub async fn last_answer(&mut self, answer: Answer) -> Result<(ResponseHeader, Bytes)> {
        let sketch = self.sketch.clone();
        let head = sketch.as_ref().and_then(|sketch| sketch.head.as_deref());
        let form = sketch.as_ref().map_or(Form::Text, |sketch| sketch.form.clone());
        let to_head = sketch.as_ref().is_some_and(|sketch| sketch.method == Method::HEAD);
        let (head, body) = self.own_response(head, answer, &form).await?;
        let body = if to_head { Bytes::new() } else { body };
        self.own_status = Some(head.status);
        self.passed_out = body.len() as u64;
        Ok((head, body))
    }

    /// The same as bytes, for a connection that is closed after it.
    pub async fn closing_answer(&mut self, answer: Answer) -> Vec<u8> {
        let answer = self.last_answer(answer).await;
        answer.map_or_else(|_| Vec::new(), |(head, body)| answer::closing(&head, &body))
    }

    /// The route that matched.
    pub(super) fn matched(&self) -> Option<&Route> {
        self.route.and_then(|index| self.snapshot.routes.get(index))
    }

    pub(super) fn listener(&self) -> &crate::model::Listener {
        &self.snapshot.listeners[self.link.listener()]
    }

    /// Settles what becomes of the connection if the request is answered before its body was read:
    /// the rest is read and thrown away for a while. Not where the client waits for a 100 before it
    /// sends its body, as it may then never send it.
    pub(super) fn settle(&mut self, session: &mut Session) {
        self.keepalive = session.get_keepalive();
        if let Some(http1) = session.as_ref().as_http1() {
            self.raw = http1.get_headers_raw_bytes();
        }
        self.see_upgrade(session.req_header_mut());
        if session.req_header().version == Version::HTTP_10 {
            // It knows neither (RFC 9110 sections 10.1.1 and 15.2).
            session.req_header_mut().remove_header(&header::EXPECT);
            session.set_ignore_info_resp(true);
        }
        self.expects_continue = expects_continue(session.req_header());
        self.link.set_waiting_to_continue(self.expects_continue);
        session.set_close_on_response_before_downstream_finish(self.expects_continue);
        session.set_total_drain_timeout(Some(DRAIN));
        nominated::strip(session.req_header_mut());
        field::forget_spelling(session.req_header_mut());
    }

    /// Sees whether the request asks for another protocol. An offer that is none is removed.
    pub(super) fn see_upgrade(&mut self, request: &mut RequestHeader) {
        self.upgrade = offers_upgrade(request);
        if !self.upgrade {
            self.decline_upgrade(request);
        }
    }

    /// Makes a request an ordinary one that may have asked for another protocol: a server that does
    /// not want to change ignores the offer (RFC 9110 section 7.8).
    pub(super) fn decline_upgrade(&mut self, request: &mut RequestHeader) {
        self.upgrade = false;
        if is_there(&request.headers, &header::UPGRADE) {
            request.remove_header(&header::UPGRADE);
        }
    }

    /// The client gets a response with this head, while it may still be sending: what it sends once it
    /// has all of it does not keep the backend.
    pub(super) fn await_response(&mut self, head: &ResponseHeader, may_have_body: bool) {
        self.answered = Some(head.status);
        if self.body == RequestBody::Whole {
            return;
        }
        let fields = &head.headers;
        let length = fields.get(header::CONTENT_LENGTH);
        let length = length.filter(|_| !fields.contains_key(header::TRANSFER_ENCODING));
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        self.to_come = if may_have_body { length } else { Some(0) };
        if self.to_come == Some(0) {
            self.link.set_last();
        }
    }

    /// A piece of the response of this length is on its way to the client, or its `end`.
    pub(super) fn passed_on_response(&mut self, length: usize, end: bool) {
        self.passed_out += length as u64;
        if self.body == RequestBody::Whole {
            return;
        }
        self.to_come = self.to_come.map(|to_come| to_come.saturating_sub(length as u64));
        if end || self.to_come == Some(0) {
            self.link.set_last();
        } else {
            self.link.expect_more();
        }
    }

    /// Tells the pool how the present try ended, once.
    pub(super) fn report(&mut self, outcome: Outcome, now: Instant) {
        if let (Some(pool), Some(lease), false) = (&self.pool, &self.lease, self.reported) {
            pool.report(lease, outcome, self.tries, pool.time(now));
            self.reported = true;
        }
    }

    /// Tells the pool how the last try ended, if it has not heard yet. A backend that answered did
    /// its part even if the client left before the end.
    pub(super) fn conclude(&mut self, now: Instant) {
        let answered = self.upstream_time.map(|first_byte| Outcome::Success { first_byte });
        self.report(answered.unwrap_or(Outcome::Unknown), now);
    }

    /// Tells the pool that the present try failed by the backend's fault.
    pub(super) fn report_failure(&mut self) {
        let now = Instant::now();
        self.report(Outcome::Failure { took: now.duration_since(self.try_began) }, now);
    }

    /// Tells the pool of a try that was given up with its exchange: it failed by the backend's fault, or
    /// the time went elsewhere.
    pub(super) fn report_given_up(&mut self) {
        if self.is_backend_to_blame() {
            self.report_failure();
        } else {
            self.report(Outcome::Unknown, Instant::now());
        }
    }

    /// Whether the present try took too long, rather than the client's upload, the queue, the filters
    /// or the tries before it: its own time was over, or the backend alone has been waited for as long
    /// as its pool lets it take for an answer, or for half of the route's time.
    fn is_backend_to_blame(&self) -> bool {
        if self.link.is_try_timed_out() {
            return true;
        }
        let (Some(pool), Some(since)) = (&self.pool, self.waits_for_backend_since()) else {
            return false;
        };
        let spec = pool.spec();
        let route = self.matched().and_then(|route| route.timeout).map(|timeout| timeout / 2);
        let least = route.into_iter().chain(spec.retry.per_try_timeout).min();
        since.elapsed() >= least.map_or(spec.timeouts.read, |least| least.min(spec.timeouts.read))
    }

    /// Since when it has been the backend's turn, if it is: to take the connection, to answer, or to
    /// take more of a body.
    fn waits_for_backend_since(&self) -> Option<Instant> {
        if self.tries == 0 {
            return None;
        }
        let connecting = self.connect_time.is_none();
        if connecting || self.body == RequestBody::Whole || self.link.is_waiting_to_continue() {
            return Some(self.try_began);
        }
        let write = self.pool.as_ref()?.spec().timeouts.write;
        let passed_on = || self.link.stalled()?.checked_sub(write);
        self.body_passed_on.or_else(passed_on)
    }

    /// The backend that the request is on.
    pub(super) fn backend(&self) -> Option<&Arc<Member>> {
        self.lease.as_ref().map(Lease::member)
    }

    /// Sends an answer of our own.
    pub(super) async fn answer(&mut self, session: &mut Session, answer: Answer) -> Result<()> {
        self.link.set_deadline(None);
        self.link.end_try();
        let request = session.req_header();
        let form = Form::of(request);
        let (response, body) = self.own_response(Some(request), answer, &form).await?;
        self.own_status = Some(response.status);
        self.passed_out = body.len() as u64;
        if !is_reusable_after(self.reason) {
            session.set_keepalive(None);
        }
        self.link.set_answered();
        session.write_response_header(Box::new(response), body.is_empty()).await?;
        if !body.is_empty() {
            session.write_response_body(Some(body), true).await?;
        }
        Ok(())
    }
}

/// Whether a client asks for another protocol, as RFC 9110 section 7.8 has it: in HTTP/1.1, with the
/// protocol in `Upgrade` and that in `Connection`. Pingora goes by the first of the two fields alone,
/// so a request with half of this must not keep it. A client that has several protocols to offer is
/// served without.
fn offers_upgrade(request: &RequestHeader) -> bool {
    if !is_there(&request.headers, &header::UPGRADE) {
        return false;
    }
    let offers = request.headers.get_all(header::UPGRADE).iter().count();
    offers == 1
        && request.version == Version::HTTP_11
        && nominated::lists(&request.headers, "upgrade")
}

/// Whether a client waits for a 100. No other expectation has a meaning, and silence after one is a
/// body that does not come.
fn expects_continue(request: &RequestHeader) -> bool {
    let is_continue = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    is_there(&request.headers, &header::EXPECT)
        && request.headers.get_all(header::EXPECT).into_iter().all(is_continue)
}

/// A client at fault may be out of step with us; a backend's or a filter's fault says nothing of the
/// client.
fn is_reusable_after(reason: Reason) -> bool {
    !matches!(reason, Reason::BadRequest | Reason::ClientTimeout)
}

/// Pingora's per-request context: the exchange, from the first hook of ours to the last.
#[derive(Debug, Default)]
pub struct Context(Option<Box<Exchange>>);

impl Context {
    pub(super) fn begin(&mut self, exchange: Box<Exchange>) {
        exchange.link.set_begun();
        self.0 = Some(exchange);
    }

    pub(super) fn finish(&mut self) -> Option<Box<Exchange>> {
        self.0.take()
    }
}

const ARRIVED: &str = "every request comes through the connection loop, which passes its exchange";

impl Deref for Context {
    type Target = Exchange;

    fn deref(&self) -> &Exchange {
        self.0.as_deref().expect(ARRIVED)
    }
}

impl DerefMut for Context {
    fn deref_mut(&mut self) -> &mut Exchange {
        self.0.as_deref_mut().expect(ARRIVED)
    }
}

impl Drop for Context {
    /// An exchange that ends without having been logged was given up by the connection loop, which
    /// finds it here and answers and logs it.
    fn drop(&mut self) {
        if let Some(exchange) = self.0.take() {
            let link = exchange.link.clone();
            link.abandon(exchange);
        }
    }
}
