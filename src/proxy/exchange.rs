//! One request and its answer.

use super::{Answer, Link, Reason, answer, client, forward::FORWARDED_PROTO};
use crate::{
    pool::{Lease, Pool, Tried},
    route::{Facts, host_without_port, normal_path},
    runtime::{Action, Route, Snapshot},
};
use http::{HeaderValue, Method, StatusCode, header};
use pingora::{Error, ErrorType, Result, http::RequestHeader, upstreams::peer::HttpPeer};
use pingora_proxy::Session;
use std::{
    borrow::Cow,
    net::IpAddr,
    ops::{Deref, DerefMut},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// How long the rest of a body is read after its request was answered.
const DRAIN: Duration = Duration::from_secs(2);

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
pub struct Exchange {
    pub(super) link: Arc<Link>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) body: RequestBody,
    /// When its first byte was seen, on both clocks.
    pub(super) began: Instant,
    pub(super) time: SystemTime,
    /// When the head was whole.
    received: Instant,
    /// Index into the snapshot's routes.
    pub(super) route: Option<usize>,
    pub(super) pool: Option<Arc<Pool>>,
    pub(super) client: Option<IpAddr>,
    /// Whether the connection comes from a trusted proxy.
    pub(super) from_trusted: bool,
    pub(super) request_id: HeaderValue,
    /// The target in normal form, if that differs from what was sent.
    pub(super) rewritten: Option<String>,
    pub(super) lease: Option<Lease>,
    pub(super) tried: Tried,
    pub(super) tries: u32,
    pub(super) replay: Replay,
    pub(super) try_began: Instant,
    pub(super) connect_time: Option<Duration>,
    pub(super) upstream_time: Option<Duration>,
    pub(super) reason: Reason,
    /// The status of an answer of ours; a backend's is read from the session.
    pub(super) own_status: Option<StatusCode>,
    route_deadline: Option<Instant>,
    /// Whether the client asks for another protocol on its connection.
    pub(super) upgrade: bool,
    /// What the client wants for its connection, in Pingora's terms.
    pub(super) keepalive: Option<u64>,
    /// What an exchange that may be given up is logged with: its session is gone by then.
    pub(super) sketch: Option<Box<Sketch>>,
}

/// A request is repeated once on the same backend after a pooled connection turned out stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replay {
    Unused,
    /// The next try is the replay.
    Next,
    Used,
}

/// The little of a request that survives its session.
#[derive(Debug)]
pub(super) struct Sketch {
    pub(super) method: Method,
    pub(super) host: String,
    pub(super) target: String,
    prefers_json: bool,
}

impl Exchange {
    /// A request whose head arrived over `link` just now. Its first byte was seen when it `began`.
    pub fn new(
        link: Arc<Link>,
        snapshot: Arc<Snapshot>,
        body: RequestBody,
        began: Instant,
    ) -> Self {
        let now = Instant::now();
        let arrival = now.saturating_duration_since(began);
        Self {
            link,
            snapshot,
            body,
            began,
            time: SystemTime::now().checked_sub(arrival).unwrap_or(SystemTime::UNIX_EPOCH),
            received: now,
            route: None,
            pool: None,
            client: None,
            from_trusted: false,
            request_id: HeaderValue::from_static("-"),
            rewritten: None,
            lease: None,
            tried: Tried::default(),
            tries: 0,
            replay: Replay::Unused,
            try_began: now,
            connect_time: None,
            upstream_time: None,
            reason: Reason::Ok,
            own_status: None,
            route_deadline: None,
            upgrade: false,
            keepalive: None,
            sketch: None,
        }
    }

    /// The request's id.
    pub fn request_id(&self) -> &HeaderValue {
        &self.request_id
    }

    /// Whether the client prefers errors in JSON, as far as is known without its session.
    pub fn prefers_json(&self) -> bool {
        self.sketch.as_ref().is_some_and(|sketch| sketch.prefers_json)
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
    /// sends its body, as it may then never send it. Notes what only the session knows, too.
    pub(super) fn settle(&mut self, session: &mut Session) {
        self.keepalive = session.get_keepalive();
        self.upgrade = asks_for_upgrade(session);
        let waits = session.req_header().headers.contains_key(header::EXPECT);
        session.set_close_on_response_before_downstream_finish(waits);
        session.set_total_drain_timeout(Some(DRAIN));
    }

    /// Finds the request's route; the error is an answer to give at once.
    pub(super) fn route(&mut self, request: &RequestHeader) -> Result<(), Box<Answer>> {
        self.identify(request);
        let found = self.find_route(request)?;
        let snapshot = self.snapshot.clone();
        let Some(index) = found else { return Err(Answer::error(Reason::NoRoute).into()) };
        self.route = Some(index);
        let route = &snapshot.routes[index];
        self.route_deadline = route.timeout.map(|timeout| self.received + timeout);
        self.link.set_deadline(self.route_deadline);
        let may_expire = self.route_deadline.is_some() || self.upgrade;
        if may_expire || self.body == RequestBody::Streaming {
            self.sketch = Some(Box::new(Sketch::of(request)));
        }
        match &route.action {
            Action::Proxy(pools) => {
                self.pool = Some(pools.choose(&mut rand::rng()).clone());
                Ok(())
            }
            Action::Redirect(redirect) => Err(self.redirect(request, redirect).into()),
            Action::Respond(fixed) => {
                let answer = Answer::fixed(fixed.status, fixed.headers.clone(), fixed.body.clone());
                Err(answer.into())
            }
        }
    }

    /// Learns who sends the request, and gives it its id.
    fn identify(&mut self, request: &RequestHeader) {
        let peer = self.link.client().map(|address| address.ip());
        self.from_trusted = peer.is_some_and(|peer| self.snapshot.trusts(peer));
        self.client = client::address(peer, &request.headers, &self.snapshot);
        let given = request.headers.get(answer::X_REQUEST_ID).filter(|_| self.from_trusted);
        self.request_id = match given {
            Some(id) if client::is_request_id(id) => id.clone(),
            _ => client::new_request_id(),
        };
    }

    fn find_route(&mut self, request: &RequestHeader) -> Result<Option<usize>, Box<Answer>> {
        let malformed = || Box::new(Answer::error(Reason::BadRequest));
        let sent = std::str::from_utf8(request.raw_path()).map_err(|_| malformed())?;
        let (path, query) = match sent.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (sent, None),
        };
        let path = normal_path(path).map_err(|_| malformed())?;
        let host = host(request);
        let facts = Facts {
            listener: self.link.listener(),
            host: &host,
            path: &path,
            query,
            method: &request.method,
            headers: &request.headers,
        };
        let found = self.snapshot.find_route(&facts);
        if let Cow::Owned(path) = path {
            self.rewritten = Some(query.map_or(path.clone(), |query| format!("{path}?{query}")));
        }
        Ok(found)
    }

    /// The target that a backend sees.
    fn target<'a>(&'a self, request: &'a RequestHeader) -> Cow<'a, str> {
        match &self.rewritten {
            Some(target) => Cow::Borrowed(target),
            None => String::from_utf8_lossy(request.raw_path()),
        }
    }

    fn redirect(&self, request: &RequestHeader, redirect: &crate::model::Redirect) -> Answer {
        use crate::model::Variable;
        let target = self.target(request);
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let location = redirect.to.render(|variable, text| match variable {
            Variable::ClientIp => {
                text.push_str(&self.client.map_or_else(String::new, |ip| ip.to_string()));
            }
            Variable::Host => text.push_str(&host(request)),
            Variable::Path => text.push_str(path),
            Variable::Query => text.push_str(query),
            Variable::PathAndQuery => text.push_str(&target),
            Variable::Method => text.push_str(request.method.as_str()),
            Variable::Scheme => text.push_str(FORWARDED_PROTO),
            Variable::RequestId => {
                text.push_str(&String::from_utf8_lossy(self.request_id.as_bytes()));
            }
            Variable::Listener => text.push_str(self.listener().name.as_str()),
            Variable::Route => {
                text.push_str(self.matched().map_or("", |route| route.name.as_str()));
            }
        });
        match HeaderValue::from_str(&location) {
            Ok(location) => {
                let headers = vec![(header::LOCATION, location)];
                Answer::fixed(redirect.status, headers, bytes::Bytes::new())
            }
            Err(_) => Answer::error(Reason::BadRequest),
        }
    }

    /// Picks the first backend; `false` when there is none.
    pub(super) fn pick_first(&mut self) -> bool {
        self.pick_next()
    }

    /// Picks a backend that was not tried yet and releases the one before.
    pub(super) fn pick_next(&mut self) -> bool {
        let Some(pool) = &self.pool else { return false };
        self.lease = pool.pick(&self.tried, &mut rand::rng());
        self.lease.is_some()
    }

    /// Begins a try on the picked backend.
    pub(super) fn begin_try(&mut self) -> Result<Box<HttpPeer>> {
        let lease = self.lease.as_ref().ok_or_else(|| Error::new(ErrorType::InternalError))?;
        if self.replay == Replay::Next {
            self.replay = Replay::Used;
        } else {
            self.tries += 1;
            self.tried.add(lease);
        }
        self.try_began = Instant::now();
        self.connect_time = None;
        self.upstream_time = None;
        if self.upgrade {
            // The time for a 101 began with the connection, which is gone.
            self.link.set_deadline(self.route_deadline);
        }
        Ok(Box::new(self.peer(lease)))
    }

    pub(super) fn connected(&mut self, reused: bool) {
        let took = if reused { Duration::ZERO } else { self.try_began.elapsed() };
        self.connect_time = Some(took);
        if self.upgrade && self.body == RequestBody::Whole {
            self.await_first_byte();
        }
    }

    /// Gives the backend the read timeout for the first byte of its answer.
    fn await_first_byte(&self) {
        let Some(pool) = &self.pool else { return };
        let first_byte = Instant::now() + pool.spec().timeouts.read;
        let earliest = self.route_deadline.map_or(first_byte, |route| route.min(first_byte));
        self.link.set_deadline(Some(earliest));
    }

    /// A piece of the body, or its end, is on its way. Pingora notices a backend that does not take
    /// it only when its read timeout is over, and while the client sends that has to be lenient; so
    /// the backend's times are kept here: to take more, and once it has all, to begin its answer.
    pub(super) fn passed_on_body(&mut self, end: bool) {
        if self.body == RequestBody::Whole || self.upstream_time.is_some() {
            return;
        }
        let Some(pool) = &self.pool else { return };
        if !end {
            self.link.set_stalled(Some(Instant::now() + pool.spec().timeouts.write));
            return;
        }
        self.link.set_stalled(None);
        self.await_first_byte();
    }

    /// The backend's answer has begun: no deadline of ours holds any more.
    pub(super) fn upstream_answered(&mut self) {
        self.upstream_time = Some(self.try_began.elapsed());
        self.link.set_stalled(None);
        self.link.set_deadline(None);
    }

    /// Sends an answer of our own.
    pub(super) async fn answer(&mut self, session: &mut Session, answer: Answer) -> Result<()> {
        self.reason = answer.reason;
        self.own_status = Some(answer.status);
        self.link.set_deadline(None);
        if !is_reusable_after(answer.reason) {
            session.set_keepalive(None);
        }
        let headers = &session.req_header().headers;
        let prefers_json = answer::prefers_json(headers.get(header::ACCEPT));
        let (response, body) = answer.render(&self.request_id, prefers_json)?;
        self.link.set_answered();
        session.write_response_header(Box::new(response), body.is_empty()).await?;
        if !body.is_empty() {
            session.write_response_body(Some(body), true).await?;
        }
        Ok(())
    }
}

/// Whether a client asks for another protocol and the backend is told so. `h2c` does not count:
/// clients offer it with ordinary requests, which are to keep their read timeout.
fn asks_for_upgrade(session: &Session) -> bool {
    let headers = &session.req_header().headers;
    let connection = headers.get_all(header::CONNECTION).iter();
    let mut options = connection.filter_map(|field| field.to_str().ok()).flat_map(|f| f.split(','));
    session.is_upgrade_req()
        && headers.get(header::UPGRADE).is_some_and(|protocol| protocol != "h2c")
        && options.any(|option| option.trim().eq_ignore_ascii_case("upgrade"))
}

/// A client at fault may be out of step with us; a backend's fault says nothing of the client.
fn is_reusable_after(reason: Reason) -> bool {
    !matches!(reason, Reason::BadRequest | Reason::ClientTimeout | Reason::InternalError)
}

impl Sketch {
    fn of(request: &RequestHeader) -> Self {
        Self {
            method: request.method.clone(),
            host: host(request).into_owned(),
            target: String::from_utf8_lossy(request.raw_path()).into_owned(),
            prefers_json: answer::prefers_json(request.headers.get(header::ACCEPT)),
        }
    }
}

/// The host a request asks for: lower case, without port; empty where it names none.
pub(super) fn host(request: &RequestHeader) -> Cow<'_, str> {
    let field = request.headers.get(header::HOST).and_then(|value| value.to_str().ok());
    let host = host_without_port(field.unwrap_or(""));
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
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
