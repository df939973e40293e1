//! A request on its way to backends: the first pick, the queue, each try.

use super::{Exchange, Reason, RequestBody, exchange::Replay, upgrade};
use crate::{
    filter::{Answer, host_of},
    model::{BackendProtocol, HostHeader, host_without_port},
    pool::{Dialer, Kept, Member, Opener, Outcome, Picked, Place, Pool, Preamble, Waited, Wanted},
    tls::{self, PeerTls},
};
use http::{StatusCode, Version, header};
use pingora::{
    Error, ErrorType, Result,
    connectors::l4::Connect,
    http::RequestHeader,
    protocols::Digest,
    upstreams::peer::{HttpPeer, PeerOptions, Scheme},
};
use pingora_proxy::Session;
use std::{
    borrow::Cow,
    os::fd::RawFd,
    sync::Arc,
    time::{Duration, Instant},
};

/// What a backend's silence is given beyond the time of a client, so that it is never the one that
/// decides where both are silent.
const BEYOND_OURS: Duration = Duration::from_secs(1);

/// Requests at a time on one HTTP/2 connection to a backend, unless the backend allows fewer.
const STREAMS: u32 = 100;
/// What a backend may send of one response that its client has not taken, in bytes. The connection has
/// room for all of them, so that a slow client never holds up the others.
const STREAM_WINDOW: u32 = 256 * 1024;

/// How long a request waits for a connection that another one opens, at most: a backend that does not
/// answer costs it little beside its own time to connect.
const SHARED_WAIT: Duration = Duration::from_millis(500);

/// How long Pingora keeps a connection that is not to be used again. A timer of no time at all, set in the
/// first millisecond of Pingora's clock, is one before its beginning, by which it panics where overflows
/// are checked.
const AT_ONCE: Duration = Duration::from_millis(1);

/// The error of a backend that must speak HTTP/2 and does not.
pub(super) const NOT_HTTP2: ErrorType = ErrorType::Custom(tls::NOT_HTTP2);

/// How a request came to its first backend.
#[derive(Debug)]
pub(super) enum First {
    /// It has one.
    Picked,
    /// It has none, and gets this answer.
    None(Answer),
    /// The client left the queue.
    ClientGone,
}

impl First {
    fn none(reason: Reason) -> Self {
        Self::None(Answer::error(reason))
    }
}

impl Exchange {
    /// Picks the first backend: the one that the client stays with, else one by the pool's policy,
    /// and if all have as much as they may, after a wait in the queue.
    pub(super) async fn pick_first(&mut self, session: &mut Session) -> First {
        let Some(pool) = &self.pool else { return First::none(Reason::InternalError) };
        let now = pool.now();
        pool.core().begin_request(now);
        if self.invite_body(session).await.is_err() {
            return First::ClientGone;
        }
        let Some(pool) = &self.pool else { return First::none(Reason::InternalError) };
        let picked = {
            let finder = self.finder(pool);
            let kept = finder.as_ref().map(|is_it| is_it as Kept<'_>);
            pool.pick(&self.wanted(kept), now)
        };
        match picked {
            Picked::Lease(lease) => {
                self.lease = Some(lease);
                First::Picked
            }
            Picked::Nothing => First::none(Reason::NoHealthyBackend),
            Picked::Busy => Box::pin(self.wait(pool.clone(), session)).await,
        }
    }

    /// Finds the backend of `pool` that the client stays with.
    pub(super) fn finder<'a>(
        &self,
        pool: &'a Pool,
    ) -> Option<impl Fn(&Member) -> bool + Send + Sync + use<'a>> {
        self.kept.map(|kept| move |member: &Member| kept.names(pool, member))
    }

    fn wanted<'a>(&'a self, kept: Option<Kept<'a>>) -> Wanted<'a> {
        Wanted { key: self.hash_key, kept, tried: &self.tried, place: None }
    }

    /// Tells a client that waits for a 100 to send its body where the backends speak HTTP/2: nothing is
    /// heard of a 100 of theirs.
    async fn invite_body(&mut self, session: &mut Session) -> Result<()> {
        if !self.expects_continue || self.protocol(session.req_header()) == BackendProtocol::Http1 {
            return Ok(());
        }
        session.req_header_mut().remove_header(&header::EXPECT);
        Box::pin(session.as_downstream_mut().write_continue_response()).await?;
        self.link.set_waiting_to_continue(false);
        self.expects_continue = false;
        session.set_close_on_response_before_downstream_finish(false);
        Ok(())
    }

    /// Waits in the pool's queue for a backend with room. A client that leaves frees its place.
    async fn wait(&mut self, pool: Arc<Pool>, session: &mut Session) -> First {
        let Some(place) = pool.core().enqueue() else { return First::none(Reason::Overloaded) };
        let began = Instant::now();
        self.queued = Some(began);
        self.link.set_watching(true);
        session.set_abort_on_close(true);
        let first = self.wait_at(place, began, pool, session).await;
        session.set_abort_on_close(false);
        self.link.set_watching(false);
        self.queue_time = Some(began.elapsed());
        self.queued = None;
        first
    }

    /// Waits at this place in the line, first in front of `pool` and then of what a reload makes of it.
    async fn wait_at(
        &mut self,
        mut place: Place,
        began: Instant,
        mut pool: Arc<Pool>,
        session: &mut Session,
    ) -> First {
        loop {
            let left = async { drop(session.as_mut().read_body_or_idle(true).await) };
            let waited = {
                let finder = self.finder(&pool);
                let kept = finder.as_ref().map(|is_it| is_it as Kept<'_>);
                pool.wait_in_line(place, began, &self.wanted(kept), left).await
            };
            match waited {
                Waited::Lease(lease) => {
                    self.lease = Some(lease);
                    return First::Picked;
                }
                Waited::Nothing => return First::none(Reason::NoHealthyBackend),
                Waited::TooLong => return First::none(Reason::Overloaded),
                Waited::Gone => return First::ClientGone,
                Waited::Moved(kept, successor) => (place, pool) = (kept, successor),
            }
            if let Some(answer) = self.enter_pool(pool.clone(), session.req_header_mut()) {
                return First::None(answer);
            }
            if self.invite_body(session).await.is_err() {
                return First::ClientGone;
            }
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
        let turned = self.turn == Replay::Next;
        if turned {
            self.turn = Replay::Used;
        } else if self.replay == Replay::Next {
            self.replay = Replay::Used;
        } else {
            self.turn = Replay::Unused;
            self.tries += 1;
            self.tried.add(lease);
        }
        if !turned {
            self.opener = self.shared_opener();
            self.wait_for_opening().await;
        }
        self.try_began = Instant::now();
        self.body_passed_on = None;
        self.filtering.progress.begin_try();
        self.link.forget_timeout();
        self.reported = false;
        self.connect_time = None;
        self.upstream_time = None;
        let lease = self.lease.as_ref().ok_or_else(|| Error::new(ErrorType::InternalError))?;
        Ok(Box::new(self.peer(lease, request)))
    }

    /// What opens a connection to the picked backend, if requests share those whatever they are for.
    fn shared_opener(&self) -> Option<Arc<Opener>> {
        let (pool, lease) = (self.pool.as_ref()?, self.lease.as_ref()?);
        let spec = pool.spec();
        let one_name = pool.tls().is_none_or(|tls| tls.has_server_name());
        let shares = spec.protocol == BackendProtocol::Http2 && spec.proxy_protocol.is_none();
        let dialer = Dialer { timeout: pool.spec().connect_timeout(), preamble: None };
        let opener = || Arc::new(Opener::new(dialer, lease.state().opening().clone()));
        (shares && one_name).then(opener)
    }

    /// Waits while somebody opens a connection to the picked backend that this request can share.
    async fn wait_for_opening(&self) {
        let (Some(pool), Some(lease), Some(_)) = (&self.pool, &self.lease, &self.opener) else {
            return;
        };
        lease.state().opening().wait(pool.spec().connect_timeout().min(SHARED_WAIT)).await;
    }

    /// The backend is connected, newly or on a connection that was kept.
    ///
    /// # Errors
    /// When it is not who it is to be.
    pub(super) fn connected(
        &mut self,
        peer: &HttpPeer,
        digest: Option<&Digest>,
        reused: bool,
        descriptor: RawFd,
    ) -> Result<()> {
        if let (Some(tls), Some(lease)) = (self.tls(), &self.lease) {
            let shown = digest.and_then(|digest| digest.ssl_digest.as_deref());
            tls.check(peer, shown, lease.state().trust())?;
        }
        self.end_opening(true);
        let took = if reused { Duration::ZERO } else { self.try_began.elapsed() };
        self.connect_time = Some(took);
        self.descriptor = Some(descriptor);
        Ok(())
    }

    /// The TLS that is spoken with the backends, if it is.
    pub(super) fn tls(&self) -> Option<&PeerTls> {
        self.pool.as_ref()?.tls().map(|tls| &**tls)
    }

    /// Those who wait for the connection that this request opens hear what came of it.
    pub(super) fn end_opening(&mut self, succeeded: bool) {
        if let Some(opener) = self.opener.take() {
            opener.end(succeeded);
        }
    }

    /// Right after that, the request is about to be sent in this version. From here on the try has its
    /// own time until the answer begins.
    ///
    /// # Errors
    /// When the backend did not choose a protocol that its pool is to speak.
    pub(super) fn begin_exchange(&mut self, version: Version) -> Result<()> {
        // What was kept of a body is passed on again.
        self.passed_in = 0;
        let Some(pool) = &self.pool else { return Ok(()) };
        let http2 = version == Version::HTTP_2;
        if pool.spec().protocol == BackendProtocol::Http2 && !http2 {
            return Err(Error::new(NOT_HTTP2).into_up());
        }
        let read = pool.spec().timeouts.read;
        // While the client is sending, it is not the backend's time that passes.
        let backends_turn = self.body == RequestBody::Whole || self.expects_continue;
        let own = self.try_deadline(pool).filter(|_| backends_turn);
        if self.upgrade {
            // There is no descriptor to cut such a try by, so its request is given up with it.
            let first =
                self.route_deadline.into_iter().chain(own).chain([Instant::now() + read]).min();
            self.link.set_deadline(first);
            return Ok(());
        }
        // Where the whole request is there, Pingora's read timeout is exact and costs us nothing.
        let read = self.expects_continue.then(|| Instant::now() + read);
        // A connection of HTTP/2 has other requests on it.
        let descriptor = self.descriptor.take().filter(|_| !http2);
        self.link.begin_try(descriptor, read.into_iter().chain(own).min());
        Ok(())
    }

    /// A piece of the body, or its end, is on its way. Pingora notices a backend that does not take
    /// it only when its read timeout is over, and while the client sends that has to be lenient; so
    /// the backend's times are kept here: to take more, and once it has all, to begin its answer.
    pub(super) fn passed_on_body(&mut self, end: bool) {
        if self.body == RequestBody::Whole {
            return;
        }
        if self.upstream_time.is_some() {
            // A backend that has begun its answer may want all of the body before it says more.
            return self.link.expect_more();
        }
        let Some(pool) = &self.pool else { return };
        let timeouts = &pool.spec().timeouts;
        if !end {
            self.link.move_try(None);
            self.link.set_stalled(Some(Instant::now() + timeouts.write));
            return;
        }
        self.link.set_stalled(None);
        let now = Instant::now();
        self.body_passed_on = Some(now);
        let read = now + timeouts.read;
        self.link.move_try(self.try_deadline(pool).into_iter().chain([read]).min());
    }

    /// A backend asks for the body with a 100. Now it is the client's turn, who may take its time to send,
    /// unless there is nothing left to send.
    pub(super) fn invited(&self) {
        if self.body == RequestBody::Streaming && self.body_passed_on.is_none() {
            self.link.move_try(None);
        }
    }

    /// When the present try's own time is over, if it has one. It counts from the try's beginning, or
    /// from when the backend had all of a body that the client was still sending.
    fn try_deadline(&self, pool: &Pool) -> Option<Instant> {
        let began = self.body_passed_on.unwrap_or(self.try_began);
        pool.spec().retry.per_try_timeout.map(|timeout| began + timeout)
    }

    /// The backend's answer has begun: no deadline of ours holds any more.
    pub(super) fn upstream_answered(&mut self, status: StatusCode) {
        let now = Instant::now();
        let first_byte = now.duration_since(self.try_began);
        self.upstream_time = Some(first_byte);
        self.link.set_deadline(None);
        self.link.end_try();
        if let Some(silence) = self.silence() {
            self.link.set_sending();
            self.link.set_silence(Some(silence));
        }
        if let Some(lease) = &self.lease {
            lease.observe_first_byte(first_byte);
        }
        if status.is_server_error() {
            self.report(Outcome::Failure { took: first_byte }, now);
        } else if let Some(member) = self.backend() {
            member.answered();
        }
        // Whether any other answer is a success shows when it is whole.
    }

    /// What the backends may be asked in. Where they choose, they are not given the choice of HTTP/2 if
    /// that has not what the request needs: upgrades, and a body that a client of HTTP/1.0 can make
    /// out the end of.
    fn protocol(&self, request: &RequestHeader) -> BackendProtocol {
        let Some(pool) = &self.pool else { return BackendProtocol::Http1 };
        match pool.spec().protocol {
            BackendProtocol::Auto if self.upgrade || request.version == Version::HTTP_10 => {
                BackendProtocol::Http1
            }
            protocol => protocol,
        }
    }

    fn peer(&self, member: &Member, request: &RequestHeader) -> HttpPeer {
        let mut options = PeerOptions::new();
        let protocol = self.protocol(request);
        // A connection that may become a tunnel is made for it. Pingora pools it if it becomes none,
        // where nobody may find it. One on which another protocol may have been chosen is another one.
        let mut group_key = if self.upgrade { rand::random() } else { protocol as u64 };
        if let Some(pool) = &self.pool {
            let timeouts = &pool.spec().timeouts;
            let connect = pool.spec().connect_timeout();
            options.connection_timeout = Some(connect);
            options.total_connection_timeout = Some(connect);
            options.read_timeout = self.read_timeout(timeouts.read);
            options.write_timeout = Some(timeouts.write);
            options.idle_timeout = Some(if self.upgrade { AT_ONCE } else { timeouts.idle });
            let preamble = self.preamble(pool);
            // A connection with a header is that client's, and nobody else's.
            group_key ^= preamble.as_ref().map_or(0, Preamble::key);
            options.custom_l4 = self.connector(Dialer { timeout: connect, preamble });
            speak(protocol, &mut options);
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
        if let Some(tls) = self.tls() {
            let trust = member.state().trust();
            tls.secure(&mut peer, trust, || Some(self.server_name(member, request)));
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
        member.own_name()
    }

    /// Whether the name that the present try's backend must have a certificate for is the client's
    /// choice, who may choose one that no backend has.
    pub(super) fn client_chose_name(&self) -> bool {
        self.tls().is_some_and(|tls| !tls.has_server_name()) && self.host_header().is_none()
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
        if let Some(opener) = &self.opener {
            return Some(opener.clone());
        }
        dialer.preamble.is_some().then(|| Arc::new(dialer) as Arc<dyn Connect + Send + Sync>)
    }

    /// Pingora's read timeout. While a client is still sending it would run as well, in HTTP/2 from the
    /// beginning of the upload to that of the answer, so there is none then: the time until the answer
    /// begins is ours, and so is that between its pieces (`silence`). A tunnel has none either, as both
    /// sides may be silent for as long as they like.
    fn read_timeout(&self, read: Duration) -> Option<Duration> {
        (!self.upgrade && self.body == RequestBody::Whole).then_some(read)
    }

    /// How long a backend may be silent within an answer that began while the client was still sending.
    /// It may wait for the client, who may pause as well, so this is longer than the client's time.
    fn silence(&self) -> Option<Duration> {
        if self.upgrade || self.body == RequestBody::Whole {
            return None;
        }
        let read = self.pool.as_ref()?.spec().timeouts.read;
        Some(read.max(self.listener().timeouts.body_idle + BEYOND_OURS))
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

/// Has Pingora speak this protocol, and with HTTP/2 share connections among requests.
fn speak(protocol: BackendProtocol, options: &mut PeerOptions) {
    let (newest, oldest) = protocol.versions();
    options.set_http_version(newest, oldest);
    if newest == 1 {
        return;
    }
    options.max_h2_streams = STREAMS as usize;
    options.h2_stream_window_size = Some(STREAM_WINDOW);
    options.h2_connection_window_size = Some(STREAMS * STREAM_WINDOW);
}
