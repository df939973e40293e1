//! The HTTP/1 connection loop.

use super::{
    head::{Framing, Head, HeadScanner, Refusal, accepted, first_words},
    stream::{RequestStream, Slot, Socket},
};
use crate::{
    filter::Answer,
    listener::{
        Drain,
        drain::{Drained, LAST_WORDS, drained, lingered, overdue},
        http2::{self, Http2},
        pace::Paces,
        transport::Transport,
        watchdog::expired,
    },
    model::{Alpn, Listener, ListenerLimits},
    observe::Unused,
    proxy::{
        BrokenOff, Exchange, Gateway, Link, Reason, Refused, RequestBody, closing_refusal,
        log_abandoned, log_refused,
    },
    runtime::{Live, Snapshot},
};
use bytes::{Buf, BytesMut};
use http::StatusCode;
use pingora::{apps::HttpServerApp, protocols::http::ServerSession};
use pingora_proxy::HttpProxy;
use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf},
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};

/// A head is read in pieces of this size: with it comes a short body, all at once.
const READ: usize = 16 * 1024;
/// After an answer that leaves unread input behind, the rest is read and thrown away for at most
/// this long, however much it is: closing at once would reset the connection and could take the
/// answer with it.
const LINGER: Duration = Duration::from_secs(2);
/// The same for a connection that was never served: a crowd of them should not pile up.
const LINGER_REFUSED: Duration = Duration::from_millis(200);

/// What every HTTP/1 connection needs.
pub(in crate::listener) struct Http1 {
    proxy: Arc<HttpProxy<Gateway>>,
    live: Arc<Live>,
    drain: Drain,
    draining: watch::Receiver<bool>,
    /// For connections that turn out to speak HTTP/2.
    http2: Arc<Http2>,
}

impl Http1 {
    pub(in crate::listener) fn new(
        proxy: HttpProxy<Gateway>,
        live: Arc<Live>,
        drain: Drain,
    ) -> Self {
        let draining = drain.draining();
        let proxy = Arc::new(proxy);
        let http2 = Arc::new(Http2::new(proxy.clone(), live.clone(), drain.clone()));
        Self { proxy, live, drain, draining, http2 }
    }
}

/// Serves one connection to its end, by HTTP/2 if that is what it speaks, or tells it at once why it is
/// not served.
pub(in crate::listener) async fn serve_connection(
    http1: &Http1,
    transport: Transport,
    link: Arc<Link>,
    refusal: Option<Refusal>,
) {
    let snapshot = http1.live.load();
    let listener = &snapshot.listeners[link.listener()];
    let socket = Socket::new(transport, link.clone(), Paces::of(listener), http1.drain.clone());
    let began = Instant::now();
    let slot = Slot::default();
    let mut connection = Connection {
        http1,
        timer: Box::pin(sleep_until(began + listener.timeouts.header)),
        drained: http1.drain.drained(),
        link,
        stream: Some(Box::new(RequestStream::new(Box::new(socket), slot.clone()))),
        slot,
        began,
        served: 0,
        linger: LINGER,
    };
    let begins = Begins::on(listener, &connection.link);
    if let Some(refusal) = refusal {
        connection.linger = LINGER_REFUSED;
        if connection.speaks_http2(begins, Instant::now() + LINGER_REFUSED).await {
            connection.turn_http2_away(&snapshot).await;
        } else {
            connection.refuse(&snapshot, refusal, Instant::now()).await;
        }
        return;
    }
    let begin_by = connection.began + listener.timeouts.header;
    drop(snapshot);
    if connection.speaks_http2(begins, begin_by).await {
        // Boxed, as every other connection would have the room for it in its task.
        return Box::pin(connection.serve_http2()).await;
    }
    while connection.serve_one().await == After::Another {}
}

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    WithHttp1,
    WithHttp2,
    /// Its first bytes tell.
    WithEither,
}

impl Begins {
    /// Inside TLS, ALPN has decided. A client that does not use it speaks HTTP/1, as HTTP/2 may not
    /// be spoken there without (RFC 9113 section 3.2).
    fn on(listener: &Listener, link: &Link) -> Self {
        match link.tls() {
            Some(tls) if tls.alpn == Some(Alpn::Http2) => Self::WithHttp2,
            None if listener.h2c => Self::WithEither,
            Some(_) | None => Self::WithHttp1,
        }
    }
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Another,
    Closed,
}

const BETWEEN: &str = "the stream is here between requests";

struct Connection<'a> {
    http1: &'a Http1,
    link: Arc<Link>,
    /// `None` while it is lent to Pingora.
    stream: Option<Box<RequestStream>>,
    /// Where its socket is left if Pingora does not give it back.
    slot: Slot,
    /// For the waits between requests. It stays set while one is served: putting its end off is
    /// cheaper than making it anew, and if it fires, the task only looks up.
    timer: Pin<Box<Sleep>>,
    drained: Drained,
    began: Instant,
    served: usize,
    /// How long it is read from once all was said.
    linger: Duration,
}

impl Drop for Connection<'_> {
    /// An exchange that was given up by a panic would keep its backend busy: it and the link hold
    /// each other.
    fn drop(&mut self) {
        drop(self.link.take_abandoned());
    }
}

/// A head that is whole.
struct Arrived {
    head: Head,
    /// The head, and nothing else.
    bytes: BytesMut,
    /// When its first byte was seen.
    began: Instant,
    /// When it was whole.
    received: Instant,
}

/// Why no request came.
enum NoRequest {
    /// The client left, or was idle for too long: there is nobody to tell.
    Gone,
    /// It must be told what is wrong.
    Refused(Refusal),
}

impl From<Refusal> for NoRequest {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for NoRequest {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// What one connection too many is told.
pub(in crate::listener) const TOO_MANY: Refusal = Refusal {
    status: StatusCode::SERVICE_UNAVAILABLE,
    reason: Reason::Overloaded,
    why: "the listener has as many connections as it may",
};

/// What a client is told that speaks HTTP in the clear where TLS is spoken.
pub(in crate::listener) const IN_THE_CLEAR: Refusal = Refusal {
    status: StatusCode::BAD_REQUEST,
    reason: Reason::BadRequest,
    why: "HTTP in the clear where TLS is spoken",
};

const TOO_SLOW: Refusal = Refusal {
    status: StatusCode::REQUEST_TIMEOUT,
    reason: Reason::ClientTimeout,
    why: "the head did not arrive in time",
};

impl Connection<'_> {
    fn socket(&mut self) -> &mut Socket {
        self.stream.as_mut().expect(BETWEEN).socket()
    }

    /// Serves the next request.
    async fn serve_one(&mut self) -> After {
        if let Err(why) = self.wait_for_bytes().await {
            self.end_idle(why);
            if self.socket().transport.is_tls() {
                // In clear text, the end of the stream is all there is to say.
                self.close(false).await;
            }
            return After::Closed;
        }
        let began = Instant::now();
        let snapshot = self.http1.live.load();
        let listener = &snapshot.listeners[self.link.listener()];
        match self.read_head(listener, began).await {
            Ok(arrived) => self.exchange(snapshot, arrived).await,
            Err(NoRequest::Gone) => {
                self.end_idle(Unused::ClientLeft);
                After::Closed
            }
            Err(NoRequest::Refused(refusal)) => self.refuse(&snapshot, refusal, began).await,
        }
    }

    /// The connection ends without another request. It is counted if it never brought one.
    fn end_idle(&self, why: Unused) {
        if self.served == 0 {
            self.http1.live.load().listener_counts(self.link.listener()).count_unused(why);
        }
    }

    /// Reads as much as tells whether the client speaks HTTP/2, until `begin_by` at the latest. Where
    /// both are spoken, it does if it begins with HTTP/2's preface; anything else is a request, or
    /// becomes none.
    async fn speaks_http2(&mut self, begins: Begins, begin_by: Instant) -> bool {
        match begins {
            Begins::WithHttp1 => return false,
            Begins::WithHttp2 => return true,
            Begins::WithEither => {}
        }
        let phase = self.http1.drain.phase();
        let reading = tokio::time::timeout_at(begin_by, read_preface(self.socket()));
        tokio::select! {
            biased;
            read = reading => matches!(read, Ok(Ok(true))),
            () = drained(phase) => false,
        }
    }

    /// Has the connection served by HTTP/2.
    async fn serve_http2(mut self) {
        let stream = self.stream.take().expect(BETWEEN);
        let Socket { transport, inbound, .. } = *stream.into_socket();
        let http2 = self.http1.http2.clone();
        http2::serve_connection(http2, transport, inbound, &self.link, self.began).await;
    }

    /// Tells a client of HTTP/2 that there are too many connections.
    async fn turn_http2_away(&mut self, snapshot: &Snapshot) {
        let link = self.link.for_stream();
        let Refusal { status, reason, why } = TOO_MANY;
        let refused = Refused { status, reason, why, ..Refused::on(&link, self.began.into_std()) };
        log_refused(snapshot, &refused);
        self.say_goodbye(http2::TURNED_AWAY).await;
    }

    /// Waits for a request to begin, holding no buffer, or says why none does. The first is due
    /// within the header timeout, a later one within the keep-alive timeout, or within the grace
    /// that draining leaves. Empty lines begin no request.
    async fn wait_for_bytes(&mut self) -> Result<(), Unused> {
        let timeouts = self.http1.live.peek().listeners[self.link.listener()].timeouts;
        let until = match self.served {
            0 => self.began + timeouts.header,
            _ => Instant::now() + timeouts.keepalive,
        };
        if begins_request(&mut self.socket().inbound) {
            return Ok(());
        }
        if self.socket().ended {
            return Err(Unused::ClientLeft);
        }
        let Self { stream, timer, drained, .. } = self;
        let socket = stream.as_mut().expect(BETWEEN).socket();
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        tokio::select! {
            biased;
            read = read_beginning(socket) => read.map_err(|_| Unused::ClientLeft),
            () = timer.as_mut() => Err(Unused::Silent),
            () = drained => Err(Unused::Draining),
        }
    }

    /// Reads a head and takes it, and only it, off the input.
    async fn read_head(
        &mut self,
        listener: &Listener,
        began: Instant,
    ) -> Result<Arrived, NoRequest> {
        let limits = &listener.limits;
        let due = if self.served == 0 { self.began } else { began } + listener.timeouts.header;
        let http1 = self.http1;
        let socket = self.socket();
        let mut scanner = HeadScanner::default();
        let (head, received) = if let Some(head) = scanner.scan(&mut socket.inbound, limits)? {
            (head, began)
        } else {
            let reading = read_rest_of_head(socket, scanner, limits);
            tokio::select! {
                biased;
                read = reading => (read?, Instant::now()),
                () = tokio::time::sleep_until(due) => return Err(TOO_SLOW.into()),
                () = overdue(http1.drain.phase()) => return Err(TOO_SLOW.into()),
            }
        };
        let bytes = if socket.inbound.len() == head.length {
            std::mem::take(&mut socket.inbound)
        } else {
            socket.inbound.split_to(head.length)
        };
        Ok(Arrived { head, bytes, began, received })
    }

    /// Has Pingora serve the request, and finds out what to do with the connection afterwards.
    async fn exchange(&mut self, snapshot: Arc<Snapshot>, mut arrived: Arrived) -> After {
        self.served += 1;
        self.link.begin_request();
        let began = arrived.began;
        match arrived.head.in_origin_form(&arrived.bytes) {
            Ok(Some(rewritten)) => arrived.bytes = rewritten,
            Ok(None) => {}
            Err(refusal) => {
                // For its line in the log.
                self.socket().inbound = arrived.bytes;
                return self.refuse(&snapshot, refusal, began).await;
            }
        }
        let session = self.session(snapshot, arrived);
        let finished = {
            let serving = self.http1.proxy.process_new_http(session, &self.http1.draining);
            tokio::select! {
                biased;
                reused = serving => Ok(reused.map(|reused| reused.consume().0)),
                () = expired(&self.link) => Err(Reason::UpstreamTimeout),
                () = cut_off(&self.link, &mut self.drained) => Err(Reason::DrainTimeout),
            }
        };
        let (stream, finished) = match finished {
            Ok(stream) => (stream, Ok(())),
            Err(why) => (None, Err(why)),
        };
        let reused = stream.is_some();
        // Whatever became of the session, its stream is given back or dropped by now.
        let Some(stream) = RequestStream::back(stream, &self.slot) else { return After::Closed };
        self.stream = Some(stream);
        match finished {
            Ok(()) => {
                if !self.link.is_begun() {
                    self.log_unseen(began);
                }
                self.after(reused).await
            }
            Err(why) => self.give_up(why).await,
        }
    }

    fn session(&mut self, snapshot: Arc<Snapshot>, arrived: Arrived) -> ServerSession {
        let Arrived { head, bytes, began, received } = arrived;
        let limits = &snapshot.listeners[self.link.listener()].limits;
        let last = limits.requests_per_connection.is_some_and(|max| self.served >= max.get());
        let mut stream = self.stream.take().expect(BETWEEN);
        let socket = stream.socket();
        socket.begin_body(head.framing);
        let body = match head.framing {
            Framing::Length(length) if length <= socket.inbound.len() as u64 => RequestBody::Whole,
            _ => RequestBody::Streaming,
        };
        let (began, received) = (began.into_std(), received.into_std());
        let exchange = Exchange::new(self.link.clone(), snapshot, body, began, received);
        let mut session = ServerSession::new_http1(stream);
        session.set_pipelined_prefix(bytes);
        session.set_connection_user_context(Some(Box::new(exchange)));
        // The stream has its own timers and its own idea of a client that half-closes.
        session.set_read_timeout(None);
        session.set_abort_on_close(false);
        session.set_keepalive_reuses_remaining(last.then_some(0));
        session
    }

    /// After Pingora has served a request to its end, good or bad.
    async fn after(&mut self, reused: bool) -> After {
        let Self { link, stream, .. } = self;
        let socket = stream.as_mut().expect(BETWEEN).socket();
        // Unless a deadline cut it short, it was logged; what is left of it is not to stay.
        drop(link.take_abandoned());
        match link.broken_off() {
            BrokenOff::No => {}
            BrokenOff::Close => {
                // Whatever arrives of it, the client sees that it is not all.
                let _ = socket.flush().await;
                return After::Closed;
            }
            BrokenOff::Reset => {
                socket.transport.reset_on_close();
                return After::Closed;
            }
        }
        socket.release_buffers();
        let reusable = (reused || link.is_reusable()) && socket.is_body_done();
        if reusable && !link.is_upgraded() && !socket.ended {
            return After::Another;
        }
        let may_be_sending = !socket.is_body_done() || !socket.inbound.is_empty();
        // A client that did not ask for the end has perhaps sent more before it read that it comes.
        let drain = &self.http1.drain;
        let unaware = if self.link.is_upgraded() { drain.is_over() } else { drain.has_successor() };
        self.close(may_be_sending || unaware).await;
        After::Closed
    }

    /// After Pingora refused a head that we took for a good one, before any hook of ours was called.
    /// Our check is meant to leave nothing to refuse; a gap in it must not go unnoticed.
    fn log_unseen(&self, began: Instant) {
        let id = log_refused(&self.http1.live.load(), &Refused::on(&self.link, began.into_std()));
        log::warn!(
            "request {}: Pingora refused a head that we did not",
            id.to_str().unwrap_or("-")
        );
    }

    /// After a request was cut short: answers it if nothing was answered yet.
    async fn give_up(&mut self, why: Reason) -> After {
        let Some(mut exchange) = self.link.take_abandoned() else { return After::Closed };
        exchange.recall(None);
        if self.link.is_whole() {
            // The client has gone on sending what nobody takes.
            log_abandoned(&mut exchange, Reason::Ok);
            drop(exchange);
            self.close(true).await;
            return After::Closed;
        }
        if self.link.is_answered() {
            log_abandoned(&mut exchange, why);
            self.socket().transport.reset_on_close();
            return After::Closed;
        }
        let answer = exchange.closing_answer(Answer::error(why));
        let bytes = self.http1.drain.in_time(answer).await.unwrap_or_default();
        log_abandoned(&mut exchange, why);
        // The backend is released before the client takes its time to read.
        drop(exchange);
        self.say_goodbye(&bytes).await
    }

    /// Answers what is not a request, or not one that we take, and closes.
    async fn refuse(&mut self, snapshot: &Snapshot, refusal: Refusal, began: Instant) -> After {
        let inbound = self.stream.as_ref().map_or(&[][..], |stream| stream.inbound());
        let (method, target) = first_words(inbound);
        let refused = Refused {
            method: &method,
            target: &target,
            status: refusal.status,
            reason: refusal.reason,
            why: refusal.why,
            accept: accepted(inbound),
            ..Refused::on(&self.link, began.into_std())
        };
        let bytes = closing_refusal(snapshot, &refused);
        self.say_goodbye(&bytes).await
    }

    /// Sends a last answer and closes the connection so that it arrives.
    async fn say_goodbye(&mut self, answer: &[u8]) -> After {
        if self.socket().write_all(answer).await.is_ok() {
            self.close(true).await;
        }
        After::Closed
    }

    /// Closes in order: says that nothing more comes and, where the client may still be sending,
    /// waits for it to stop.
    async fn close(&mut self, may_be_sending: bool) {
        let (phase, linger) = (self.http1.drain.phase(), self.linger);
        let socket = self.socket();
        let waits = may_be_sending && !socket.ended;
        if !waits && !socket.transport.is_tls() {
            return; // Its end says all there is to say.
        }
        tokio::select! {
            biased;
            () = take_leave(&mut socket.transport, waits) => {}
            () = lingered(phase, linger) => {}
        }
    }
}

/// Resolves when a request is to be cut off, as the time for draining is over.
async fn cut_off(link: &Link, drained: &mut Drained) {
    poll_fn(|cx| drained.poll_over(cx)).await;
    // Boxed, as every request would have the room for it.
    Box::pin(async {
        if link.is_upgraded() {
            // It ends in order, if the client takes what there is.
            tokio::time::sleep(LAST_WORDS).await;
        }
        while !link.is_begun() {
            // Pingora is about to hand it to us, and then it is logged.
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Reads what comes next. It is held in a buffer of its size: while a client is silent there is none, and
/// a request in flight keeps no more than its head.
async fn read_some(socket: &mut Socket) -> io::Result<()> {
    let Socket { transport, inbound, .. } = socket;
    let read = poll_fn(|cx| {
        let mut piece = [MaybeUninit::uninit(); READ];
        let mut piece = ReadBuf::uninit(&mut piece);
        ready!(Pin::new(&mut *transport).poll_read(cx, &mut piece))?;
        inbound.extend_from_slice(piece.filled());
        Poll::Ready(Ok::<_, io::Error>(piece.filled().len()))
    });
    if read.await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// Takes empty lines off the input, and says whether there is more than the beginning of one.
fn begins_request(inbound: &mut BytesMut) -> bool {
    while inbound.starts_with(b"\r\n") {
        inbound.advance(2);
    }
    !inbound.is_empty() && **inbound != b"\r"[..]
}

/// Reads until a request begins.
async fn read_beginning(socket: &mut Socket) -> io::Result<()> {
    loop {
        read_some(socket).await?;
        if begins_request(&mut socket.inbound) {
            return Ok(());
        }
    }
}

/// Reads until it shows whether the client begins with HTTP/2's preface.
async fn read_preface(socket: &mut Socket) -> io::Result<bool> {
    let preface = &http2::PREFACE[..];
    loop {
        let length = socket.inbound.len().min(preface.len());
        if socket.inbound[..length] != preface[..length] {
            return Ok(false);
        }
        if length == preface.len() {
            return Ok(true);
        }
        read_some(socket).await?;
    }
}

async fn read_rest_of_head(
    socket: &mut Socket,
    mut scanner: HeadScanner,
    limits: &ListenerLimits,
) -> Result<Head, NoRequest> {
    loop {
        read_some(socket).await?;
        if let Some(head) = scanner.scan(&mut socket.inbound, limits)? {
            return Ok(head);
        }
    }
}

/// Says that nothing more comes, which in TLS waits for room to say it. With `waits`, reads and throws
/// away what the client still sends.
async fn take_leave(transport: &mut Transport, waits: bool) {
    if transport.shutdown().await.is_err() || !waits {
        return;
    }
    let mut piece = [0; 4096];
    while let Ok(1..) = transport.read(&mut piece).await {}
}
