//! A request on its way to backends: the first pick, the queue, each try.

use super::{Exchange, Reason, RequestBody, exchange::Replay, upgrade};
use crate::{
    filter::host_of,
    model::{BackendProtocol, HostHeader, host_without_port},
    pool::{Dialer, Member, Outcome, Picked, Pool, Preamble, Waited, Wanted},
};
use http::{StatusCode, header};
use pingora::{
    Error, ErrorType, Result,
    connectors::l4::Connect,
    http::RequestHeader,
    protocols::l4::socket::SocketAddr,
    upstreams::peer::{HttpPeer, PeerOptions, Scheme},
};
use pingora_proxy::Session;
use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

/// What Pingora's read timeout is given beyond the times that we keep ourselves, so that it is never
/// the one that decides.
const BEYOND_OURS: Duration = Duration::from_secs(1);

/// Requests at a time on one HTTP/2 connection to a backend, unless the backend allows fewer.
const STREAMS: u32 = 100;
/// What a backend may send of one response that its client has not taken, in bytes. The connection has
/// room for all of them, so that a slow client never holds up the others.
const STREAM_WINDOW: u32 = 256 * 1024;

/// How a request came to its first backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// It has one.
    Picked,
    /// It has none, for this reason.
    None(Reason),
    /// The client left the queue.
    ClientGone,
}

impl Exchange {
    /// Picks the first backend: the one that the client stays with, else one by the pool's policy,
    /// and if all have as much as they may, after a wait in the queue.
    pub(super) async fn pick_first(&mut self, session: &mut Session) -> First {
        let Some(pool) = self.pool.clone() else { return First::None(Reason::InternalError) };
        pool.core().begin_request(pool.now());
        if self.is_to_http2() && self.expects_continue && self.invite_body(session).await.is_err() {
            return First::ClientGone;
        }
        if let Some(lease) = self.kept.and_then(|kept| kept.pick(&pool)) {
            self.lease = Some(lease);
            return First::Picked;
        }
        let wanted = Wanted { key: self.hash_key, tried: &self.tried, place: None };
        match pool.pick(&wanted) {
            Picked::Lease(lease) => {
                self.lease = Some(lease);
                First::Picked
            }
            Picked::Nothing => First::None(Reason::NoHealthyBackend),
            Picked::Busy => self.wait(&pool, session).await,
        }
    }

    /// Tells a client that waits for a 100 to send its body: nothing is heard of a 100 of a backend
    /// that speaks HTTP/2.
    async fn invite_body(&mut self, session: &mut Session) -> Result<()> {
        session.req_header_mut().remove_header(&header::EXPECT);
        session.as_downstream_mut().write_continue_response().await?;
        self.link.set_waiting_to_continue(false);
        self.expects_continue = false;
        session.set_close_on_response_before_downstream_finish(false);
        Ok(())
    }

    /// Waits in the pool's queue for a backend with room. A client that leaves frees its place.
    async fn wait(&mut self, pool: &Pool, session: &mut Session) -> First {
        let Some(place) = pool.core().enqueue() else { return First::None(Reason::Overloaded) };
        let began = Instant::now();
        self.link.set_watching(true);
        session.set_abort_on_close(true);
        let left = async { drop(session.as_mut().read_body_or_idle(true).await) };
        let waited = pool.wait_in_line(place, self.hash_key, left).await;
        session.set_abort_on_close(false);
        self.link.set_watching(false);
        self.queue_time = Some(began.elapsed());
        match waited {
            Waited::Lease(lease) => {
                self.lease = Some(lease);
                First::Picked
            }
            Waited::Nothing => First::None(Reason::NoHealthyBackend),
            Waited::TooLong => First::None(Reason::Overloaded),
            Waited::Gone => First::ClientGone,
        }
    }

    /// Begins a try on the picked backend, after the pause that a retry makes.
    pub(super) async fn begin_try(&mut self, request: &RequestHeader) -> Result<Box<HttpPeer>> {
        // An answer that is not passed on has ended the route's deadline; it covers the pause as well.
        self.link.set_deadline(self.route_deadline);
        let pause = std::mem::take(&mut self.pause);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let lease = self.lease.as_ref().ok_or_else(|| Error::new(ErrorType::InternalError))?;
        if self.replay == Replay::Next {
            self.replay = Replay::Used;
        } else {
            self.tries += 1;
            self.tried.add(lease);
        }
        self.try_began = Instant::now();
        self.filtering.progress.begin_try();
        self.link.forget_timeout();
        self.reported = false;
        self.connect_time = None;
        self.upstream_time = None;
        Ok(Box::new(self.peer(lease, request)))
    }

    /// The backend is connected. From here on the try has its own time until the answer begins.
    pub(super) fn connected(&mut self, reused: bool, descriptor: std::os::fd::RawFd) {
        let took = if reused { Duration::ZERO } else { self.try_began.elapsed() };
        self.connect_time = Some(took);
        let Some(pool) = &self.pool else { return };
        let read = Instant::now() + pool.spec().timeouts.read;
        let own = self.try_deadline(pool);
        if self.upgrade {
            // There is no descriptor to cut such a try by, so its request is given up with it.
            let first = self.route_deadline.into_iter().chain(own).chain([read]).min();
            self.link.set_deadline(first);
            return;
        }
        // Where the whole request is there, Pingora's read timeout is exact and costs us nothing.
        let read = self.expects_continue.then_some(read);
        let descriptor = (!self.is_to_http2()).then_some(descriptor);
        self.link.begin_try(descriptor, read.into_iter().chain(own).min());
    }

    /// A piece of the body, or its end, is on its way. Pingora notices a backend that does not take
    /// it only when its read timeout is over, and while the client sends that has to be lenient; so
    /// the backend's times are kept here: to take more, and once it has all, to begin its answer.
    pub(super) fn passed_on_body(&mut self, end: bool) {
        if self.body == RequestBody::Whole || self.upstream_time.is_some() {
            return;
        }
        let Some(pool) = &self.pool else { return };
        let timeouts = &pool.spec().timeouts;
        if !end {
            self.link.set_stalled(Some(Instant::now() + timeouts.write));
            return;
        }
        self.link.set_stalled(None);
        let read = Instant::now() + timeouts.read;
        self.link.move_try(self.try_deadline(pool).into_iter().chain([read]).min());
    }

    /// When the present try's own time is over, if it has one.
    fn try_deadline(&self, pool: &Pool) -> Option<Instant> {
        pool.spec().retry.per_try_timeout.map(|timeout| self.try_began + timeout)
    }

    /// The backend's answer has begun: no deadline of ours holds any more.
    pub(super) fn upstream_answered(&mut self, status: StatusCode) {
        let first_byte = self.try_began.elapsed();
        self.upstream_time = Some(first_byte);
        self.link.set_deadline(None);
        self.link.end_try();
        if let Some(lease) = &self.lease {
            lease.observe_first_byte(first_byte);
        }
        if status.is_server_error() {
            self.report(Outcome::Failure { took: first_byte });
        } else if let Some(member) = self.backend() {
            member.answered();
        }
        // Whether any other answer is a success shows when it is whole.
    }

    /// Whether the backends speak HTTP/2.
    pub(super) fn is_to_http2(&self) -> bool {
        self.pool.as_ref().is_some_and(|pool| pool.spec().protocol == BackendProtocol::Http2)
    }

    fn peer(&self, member: &Member, request: &RequestHeader) -> HttpPeer {
        let mut options = PeerOptions::new();
        // A connection that may become a tunnel is made for it and never pooled.
        let mut group_key = u64::from(self.upgrade);
        if let Some(pool) = &self.pool {
            let timeouts = &pool.spec().timeouts;
            let own = pool.spec().retry.per_try_timeout;
            let connect = own.map_or(timeouts.connect, |own| own.min(timeouts.connect));
            options.connection_timeout = Some(connect);
            options.total_connection_timeout = Some(connect);
            options.read_timeout = self.read_timeout(timeouts.read);
            options.write_timeout = Some(timeouts.write);
            options.idle_timeout = Some(timeouts.idle);
            let preamble = self.preamble(pool);
            // A connection with a header is that client's, and nobody else's.
            group_key ^= preamble.as_ref().map_or(0, Preamble::key);
            options.custom_l4 = self.connector(Dialer { timeout: connect, preamble });
            if self.is_to_http2() {
                speak_http2(&mut options);
            }
        }
        let mut peer = HttpPeer {
            _address: member.address().clone(),
            scheme: Scheme::HTTP,
            sni: String::new(),
            proxy: None,
            client_cert_key: None,
            group_key,
            options,
        };
        if let Some(tls) = self.pool.as_ref().and_then(|pool| pool.tls()) {
            let configured = tls.server_name();
            let name = configured.map_or_else(|| self.server_name(member, request), Cow::Owned);
            tls.secure(&mut peer, Some(&name));
        }
        peer
    }

    /// The name that the backend must have a certificate for where the configuration gives none: the
    /// host that it is asked for. It always has one, as any certificate would do without.
    fn server_name<'a>(&'a self, member: &'a Member, request: &'a RequestHeader) -> Cow<'a, str> {
        let host = match self.host_header() {
            Some(host) => Cow::Borrowed(host_without_port(host.to_str().unwrap_or(""))),
            None => host_of(request),
        };
        if !host.is_empty() {
            return without_brackets(host);
        }
        match (member.host_name(), member.address()) {
            (Some(name), _) => Cow::Borrowed(name),
            (None, SocketAddr::Inet(address)) => Cow::Owned(address.ip().to_string()),
            (None, SocketAddr::Unix(_)) => Cow::Borrowed("localhost"),
        }
    }

    /// Whether the name that the present try's backend must have a certificate for is the client's
    /// choice, who may choose one that no backend has.
    pub(super) fn client_chose_name(&self) -> bool {
        let tls = self.pool.as_ref().and_then(|pool| pool.tls());
        tls.is_some_and(|tls| tls.server_name().is_none()) && self.host_header().is_none()
    }

    /// What goes ahead of a connection to a backend of `pool`.
    fn preamble(&self, pool: &Pool) -> Option<Preamble> {
        let version = pool.spec().proxy_protocol?;
        Some(Preamble::of_client(version, self.link.ends()))
    }

    /// What connects, where Pingora does not do it by itself.
    fn connector(&self, dialer: Dialer) -> Option<Arc<dyn Connect + Send + Sync>> {
        if self.upgrade {
            let tls = self.pool.as_ref().is_some_and(|pool| pool.tls().is_some());
            return Some(upgrade::connector(dialer, tls));
        }
        dialer.preamble.is_some().then(|| Arc::new(dialer) as Arc<dyn Connect + Send + Sync>)
    }

    /// Pingora's read timeout. The time until the answer begins is ours; this is for the pieces that
    /// follow. While a client is still sending it runs as well, so it has to outlast the client's; a
    /// tunnel has none, as both sides may be silent for as long as they like.
    fn read_timeout(&self, read: Duration) -> Option<Duration> {
        if self.upgrade {
            return None;
        }
        let client = match self.body {
            RequestBody::Whole => Duration::ZERO,
            RequestBody::Streaming => self.listener().timeouts.body_idle + BEYOND_OURS,
        };
        Some(read.max(client))
    }

    /// The `Host` that the backend sees, if it is not the client's.
    pub(super) fn host_header(&self) -> Option<&http::HeaderValue> {
        let (pool, lease) = (self.pool.as_ref()?, self.lease.as_ref()?);
        match &pool.spec().host_header {
            HostHeader::Literal(host) => Some(host),
            HostHeader::Backend => Some(lease.authority()),
            HostHeader::Preserve => None,
        }
    }
}

/// An IPv6 address as it is in a certificate rather than in a URL.
fn without_brackets(host: Cow<'_, str>) -> Cow<'_, str> {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => Cow::Owned(address.to_owned()),
        None => host,
    }
}

/// Has Pingora speak HTTP/2 from the start, and share connections among requests.
fn speak_http2(options: &mut PeerOptions) {
    options.set_http_version(2, 2);
    options.max_h2_streams = STREAMS as usize;
    options.h2_stream_window_size = Some(STREAM_WINDOW);
    options.h2_connection_window_size = Some(STREAMS * STREAM_WINDOW);
}
