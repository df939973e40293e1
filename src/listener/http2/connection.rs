//! A connection: its beginning, its streams, and its end.

use super::{
    stream::{Arrived, Cuts, Ended, Stream, log_late},
    wire::{Home, Seen, Wire},
};
use crate::{
    listener::{
        Drain, Phase,
        drain::{LINGER_DRAINING, lingered},
        pace::Paces,
        transport::Transport,
    },
    model::{Listener, ListenerTimeouts},
    observe::Unused,
    proxy::{Gateway, Link, Reason as Why},
    runtime::Live,
};
use bytes::{Bytes, BytesMut};
use h2::{Reason, server};
use pingora_proxy::HttpProxy;
use std::{
    future::poll_fn,
    num::NonZeroUsize,
    pin::Pin,
    sync::{Arc, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, Sleep},
};

/// What a client begins with (RFC 9113 section 3.4).
pub(in crate::listener) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a client is told whose connection is one too many: no settings, and a GOAWAY by which it
/// knows that none of its requests was looked at, with the error `ENHANCE_YOUR_CALM`.
pub(in crate::listener) const TURNED_AWAY: &[u8; 26] =
    b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0b";

/// What a client may send of one body before somebody reads it, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
/// The same of all bodies on a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// What is kept of one response until the client takes it, in bytes. The backend waits meanwhile.
const SEND_BUFFER: usize = 64 * 1024;
/// How many requests a client may give up almost at once before it counts as flood, if it gives up
/// more than every second one.
const PREMATURE: usize = 100;
/// How long the last frames may take, and how long what the client still sends is thrown away after
/// them: closing at once would reset the connection and could take them with it.
const LINGER: Duration = Duration::from_secs(2);

/// What every HTTP/2 connection needs.
pub(in crate::listener) struct Http2 {
    pub(super) proxy: Arc<HttpProxy<Gateway>>,
    pub(super) live: Arc<Live>,
    pub(super) draining: watch::Receiver<bool>,
    pub(super) drain: Drain,
}

impl Http2 {
    pub(in crate::listener) fn new(
        proxy: Arc<HttpProxy<Gateway>>,
        live: Arc<Live>,
        drain: Drain,
    ) -> Self {
        let draining = drain.draining();
        Self { proxy, live, draining, drain }
    }
}

/// Serves an HTTP/2 connection to its end, whatever it goes over. It `began` when it was accepted,
/// and `ahead` was read of it.
pub(in crate::listener) async fn serve_connection(
    http2: Arc<Http2>,
    transport: Transport,
    ahead: BytesMut,
    link: &Link,
    began: Instant,
) {
    let snapshot = http2.live.load();
    let listener = &snapshot.listeners[link.listener()];
    let (builder, timeouts) = (builder(listener), listener.timeouts);
    let paces = Paces::of(listener);
    let most = listener.limits.requests_per_connection;
    let most_streams = 2 * listener.limits.h2_streams.get() as usize;
    drop(snapshot);
    let seen = Arc::new(Seen::new(began));
    let wire = Wire::new(transport, ahead, seen.clone(), timeouts.write);
    let home = wire.home();
    let handshake = builder.handshake::<_, Bytes>(wire);
    let h2 = match tokio::time::timeout_at(began + timeouts.header, handshake).await {
        Ok(Ok(h2)) => h2,
        failed => {
            let why = if failed.is_err() { Unused::Silent } else { Unused::Protocol };
            http2.live.load().listener_counts(link.listener()).count_unused(why);
            return log::debug!("a client did not begin HTTP/2 as it should");
        }
    };
    let connection = Connection {
        http2,
        link,
        seen,
        timeouts,
        paces,
        most,
        most_streams,
        streams: JoinSet::new(),
        timer: Box::pin(tokio::time::sleep_until(began + timeouts.header)),
        began,
        idle_since: Instant::now(),
        patience: timeouts.keepalive,
        accepted: 0,
        premature: 0,
        leaving: false,
        heard: Phase::Serving,
        cuts: Cuts::default(),
    };
    connection.serve(h2, &home).await;
}

fn builder(listener: &Listener) -> server::Builder {
    let limits = &listener.limits;
    let mut builder = server::Builder::new();
    builder
        .max_concurrent_streams(limits.h2_streams.get())
        .max_header_list_size(largest_head(limits.header_bytes, limits.headers))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

/// The largest head that the `h2` crate takes in, in its way of counting. Ours are smaller; this one
/// leaves room for ones that are too large for us, so that they are answered and logged like any
/// other bad request.
fn largest_head(bytes: usize, fields: usize) -> u32 {
    /// What a field counts beyond its name and value (RFC 9113 section 6.5.2).
    const FIELD: usize = 32;
    u32::try_from(2 * bytes + 2 * FIELD * fields).unwrap_or(u32::MAX)
}

struct Connection<'a> {
    http2: Arc<Http2>,
    link: &'a Link,
    seen: Arc<Seen>,
    timeouts: ListenerTimeouts,
    paces: Paces,
    /// The most requests; `None` is no limit.
    most: Option<NonZeroUsize>,
    /// The most streams that we are busy with. The `h2` crate forgets those that a client has reset at
    /// once, we only when we next hear of it. Twice as many as a client may have open, as it may open
    /// the next one before we are quite done with one that was answered.
    most_streams: usize,
    streams: JoinSet<Ended>,
    timer: Pin<Box<Sleep>>,
    began: Instant,
    /// When the last stream ended.
    idle_since: Instant,
    /// How long it may be without a stream.
    patience: Duration,
    accepted: usize,
    /// Requests that were given up almost at once, or opened while too many of those were left.
    premature: usize,
    /// Whether the client was told to open no more streams.
    leaving: bool,
    /// How far the connection was told of draining.
    heard: Phase,
    /// Requests that were cut off.
    cuts: Cuts,
}

type Accepted = Option<Result<Arrived, h2::Error>>;

#[allow(clippy::large_enum_variant, reason = "it is looked at and gone")]
enum Event {
    Accepted(Accepted),
    Ended(Option<Result<Ended, JoinError>>),
    Flood,
    Draining(Phase),
    /// A time is over.
    Late,
}

/// Why we end a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Close {
    /// It has ended, or was told to and has nothing in flight any more.
    Done,
    /// It broke off: the client does not speak HTTP/2 as it should.
    Broken,
    /// It was idle for as long as it may.
    Idle,
    /// The client does not get on with what it has begun.
    Slow,
    /// It makes us work for nothing.
    Flood,
}

impl Connection<'_> {
    async fn serve(mut self, mut h2: server::Connection<Wire, Bytes>, home: &Home) {
        let close = self.accept_all(&mut h2).await;
        if let Some(why) = self.unused(close) {
            self.http2.live.load().listener_counts(self.link.listener()).count_unused(why);
        }
        let reason = match close {
            Close::Done | Close::Broken => None,
            Close::Idle => Some(Reason::NO_ERROR),
            Close::Slow | Close::Flood => Some(Reason::ENHANCE_YOUR_CALM),
        };
        if let Some(reason) = reason {
            log::debug!("closing an HTTP/2 connection: {close:?}");
            h2.abrupt_shutdown(reason);
            tokio::select! {
                _ = poll_fn(|cx| h2.poll_closed(cx)) => {}
                () = self.lingered() => {}
            }
        }
        // What is left of its streams learns by this that the client is gone.
        drop(h2);
        self.see_streams_end().await;
        let transport = home.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A client that was told to go may have more to say about what it is still reading.
        let says_more = match close {
            Close::Done => self.leaving,
            Close::Idle | Close::Slow | Close::Flood => true,
            Close::Broken => false,
        };
        if let Some(transport) = transport.filter(|_| says_more) {
            tokio::select! {
                () = discard(transport) => {}
                () = self.lingered() => {}
            }
        }
    }

    /// Why it came to no request, if it did not.
    fn unused(&self, close: Close) -> Option<Unused> {
        match close {
            _ if self.accepted > 0 => None,
            Close::Done | Close::Idle if self.leaving => Some(Unused::Draining),
            Close::Done => Some(Unused::ClientLeft),
            Close::Idle => Some(Unused::Silent),
            Close::Broken | Close::Flood => Some(Unused::Protocol),
            // It has its line in the log, as a request that was too slow.
            Close::Slow => None,
        }
    }

    async fn lingered(&self) {
        lingered(self.http2.drain.phase(), LINGER).await;
    }

    async fn accept_all(&mut self, h2: &mut server::Connection<Wire, Bytes>) -> Close {
        let mut phase = self.http2.drain.phase();
        loop {
            let close = match self.next_event(h2, &mut phase).await {
                Event::Accepted(Some(Ok(arrived))) => self.accept(h2, arrived),
                Event::Accepted(Some(Err(error))) => {
                    log::debug!("an HTTP/2 connection broke off: {error}");
                    Some(if error.is_io() { Close::Done } else { Close::Broken })
                }
                Event::Accepted(None) => Some(Close::Done),
                Event::Ended(ended) => self.ended(ended),
                Event::Flood => Some(Close::Flood),
                Event::Draining(phase) => {
                    self.drain(h2, phase).await;
                    None
                }
                Event::Late => self.late(h2),
            };
            if let Some(close) = close {
                return close;
            }
        }
    }

    /// What happens next. Accepting comes first: it drives the connection, and the others look at
    /// what that did.
    async fn next_event(
        &mut self,
        h2: &mut server::Connection<Wire, Bytes>,
        phase: &mut watch::Receiver<Phase>,
    ) -> Event {
        let idle = self.streams.is_empty();
        let fixed = idle.then_some(self.idle_since + self.patience);
        let (seen, header) = (&self.seen, self.timeouts.header);
        let begin_by = self.began + header;
        let due = || {
            let settings = (!seen.has_settings()).then_some(begin_by);
            let unfinished = seen.unfinished().map(|since| since + header);
            fixed.into_iter().chain(settings).chain(unfinished).min()
        };
        let timer = &mut self.timer;
        let heard = self.heard;
        let is_news =
            |phase: &Phase| phase.is_over() || phase.is_draining() && !heard.is_draining();
        tokio::select! {
            biased;
            accepted = h2.accept() => Event::Accepted(accepted),
            () = seen.flood() => Event::Flood,
            ended = self.streams.join_next(), if !idle => Event::Ended(ended),
            news = phase.wait_for(is_news), if !heard.is_over() => {
                // The sender outlives every connection.
                Event::Draining(news.map_or(Phase::Serving, |phase| *phase))
            }
            () = poll_fn(|cx| poll_due(timer, due(), cx)) => Event::Late,
        }
    }

    fn accept(
        &mut self,
        h2: &mut server::Connection<Wire, Bytes>,
        mut arrived: Arrived,
    ) -> Option<Close> {
        let ended = self.streams.try_join_next();
        self.ended(ended);
        let crowded = self.streams.len() >= self.most_streams;
        if crowded || self.is_full() || self.heard.is_over() {
            // A full connection's client was told while this was on its way. Nobody has looked at it,
            // so the client may send it again elsewhere.
            arrived.1.send_reset(Reason::REFUSED_STREAM);
            self.premature += usize::from(crowded);
            return self.floods().then_some(Close::Flood);
        }
        self.accepted += 1;
        let Self { http2, seen, cuts, .. } = &*self;
        let (http2, seen, cuts) = (http2.clone(), seen.clone(), cuts.clone());
        let stream = Stream::new(http2, self.link, seen, self.paces, cuts, arrived);
        // What a task runs is moved about several times before it runs, and this is large.
        self.streams.spawn(Box::pin(stream.serve()));
        if self.is_full() {
            self.leave(h2);
        }
        None
    }

    fn is_full(&self) -> bool {
        self.most.is_some_and(|most| self.accepted >= most.get())
    }

    /// Tells the client to open no more streams. The connection ends when the last one has.
    fn leave(&mut self, h2: &mut server::Connection<Wire, Bytes>) {
        self.leaving = true;
        h2.graceful_shutdown();
    }

    async fn drain(&mut self, h2: &mut server::Connection<Wire, Bytes>, phase: Phase) {
        self.heard = phase;
        if let Phase::Draining { idle_grace, over, .. } = phase {
            let grace = if over { LINGER_DRAINING } else { idle_grace };
            self.patience = grace.min(self.patience);
            self.idle_since = Instant::now();
        }
        if !self.leaving {
            self.leave(h2);
        }
        if phase.is_over() {
            self.cut_off().await;
        }
    }

    /// Cuts off what is in flight: the tasks end where they stand, and what they leave behind is answered
    /// and logged by others. So no stream has to listen for it.
    async fn cut_off(&mut self) {
        self.streams.abort_all();
        while let Some(ended) = self.streams.join_next().await {
            self.ended(Some(ended));
        }
        let cuts = std::mem::take(&mut *self.cuts.lock().unwrap_or_else(PoisonError::into_inner));
        for cut in cuts {
            let drain = self.http2.drain.clone();
            self.streams.spawn(async move {
                cut.finish(&drain, Why::DrainTimeout).await;
                Ended { premature: false }
            });
        }
    }

    /// Waits until nothing is in flight any more, or is cut off.
    async fn see_streams_end(&mut self) {
        if !self.heard.is_over() {
            tokio::select! {
                biased;
                () = all_joined(&mut self.streams) => return,
                () = self.http2.drain.until_over() => {}
            }
            self.cut_off().await;
        }
        all_joined(&mut self.streams).await;
    }

    /// Takes in that a stream has ended, and with it all that have by now.
    fn ended(&mut self, mut ended: Option<Result<Ended, JoinError>>) -> Option<Close> {
        while let Some(one) = ended {
            match one {
                Ok(one) => self.premature += usize::from(one.premature),
                Err(cut_off) if cut_off.is_cancelled() => {}
                // It has told on standard error what happened; the client sees its stream reset.
                Err(error) => log::error!("a request failed: {error}"),
            }
            ended = self.streams.try_join_next();
        }
        if self.streams.is_empty() {
            self.idle_since = Instant::now();
        }
        self.floods().then_some(Close::Flood)
    }

    fn floods(&self) -> bool {
        self.premature >= PREMATURE && self.premature * 2 > self.accepted
    }

    /// When a time is over: which, and what follows.
    fn late(&mut self, h2: &server::Connection<Wire, Bytes>) -> Option<Close> {
        let now = Instant::now();
        let begun = self.seen.unfinished().or((!self.seen.has_settings()).then_some(self.began));
        if let Some(since) = begun.filter(|since| *since + self.timeouts.header <= now) {
            log_late(&self.http2.live.load(), &self.link.for_stream(), since);
            return Some(Close::Slow);
        }
        if h2.has_streams() {
            // A response is still on its way; the wire watches over that.
            self.idle_since = now;
            return None;
        }
        Some(Close::Idle)
    }
}

async fn all_joined(streams: &mut JoinSet<Ended>) {
    while streams.join_next().await.is_some() {}
}

/// Ready when `due` has come. The timer may be set earlier; it is then set anew.
fn poll_due(timer: &mut Pin<Box<Sleep>>, due: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
    let Some(due) = due else { return Poll::Pending };
    if timer.deadline() > due {
        timer.as_mut().reset(due);
    }
    loop {
        ready!(timer.as_mut().poll(cx));
        if timer.deadline() >= due {
            return Poll::Ready(());
        }
        timer.as_mut().reset(due);
    }
}

/// Says that nothing more comes, then reads and throws away what a client still sends.
async fn discard(mut transport: Transport) {
    // Where that was said already, there is nothing to do.
    let _ = transport.shutdown().await;
    let mut piece = [0; 4096];
    while let Ok(1..) = transport.read(&mut piece).await {}
}
