//! The transport of a connection as the `h2` crate sees it, and what can be learned on it.

use super::frames::{
    Allowance, CONTINUATION, DATA, END_HEADERS, Frame, FrameScanner, HEADERS, SETTINGS,
};
use crate::listener::{
    timer::{Timer, poll_timer},
    transport::Transport,
};
use bytes::{Buf, BytesMut};
use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// What the wire has seen. It writes; the connection and its streams read, each for itself, so
/// relaxed ordering is enough. Instants are nanoseconds since `epoch`; 0 is never.
#[derive(Debug)]
pub(super) struct Seen {
    epoch: Instant,
    /// Whether the client's first SETTINGS have come.
    settings: AtomicBool,
    /// Whether it sends frames that carry nothing in such numbers that no more is read.
    flood: AtomicBool,
    /// Whether it did not take anything for as long as it may.
    stall: AtomicBool,
    /// Since when a frame that is no piece of a body, or the rest of a head, is waited for.
    unfinished: AtomicU64,
    /// The stream whose piece of a body came last, and when its last byte did.
    stream: AtomicU32,
    progress: AtomicU64,
    /// Bytes that came, while those of bodies did.
    received: AtomicU64,
    /// Bytes of responses that there was room for. Written by the streams.
    sent: AtomicU64,
}

impl Seen {
    pub(super) fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            settings: AtomicBool::new(false),
            flood: AtomicBool::new(false),
            stall: AtomicBool::new(false),
            unfinished: AtomicU64::new(0),
            stream: AtomicU32::new(0),
            progress: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        }
    }

    /// Whether the client's first SETTINGS have come.
    pub(super) fn has_settings(&self) -> bool {
        self.settings.load(Relaxed)
    }

    /// Resolves once the client floods us. Whoever polls it must poll the connection just before.
    pub(super) async fn flood(&self) {
        poll_fn(|_| if self.flood.load(Relaxed) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Whether the client took nothing for as long as it may.
    pub(super) fn is_stalled(&self) -> bool {
        self.stall.load(Relaxed)
    }

    /// Since when the rest of a frame or a head is waited for.
    pub(super) fn unfinished(&self) -> Option<Instant> {
        self.instant(&self.unfinished)
    }

    /// When the last byte of a body came, if it was one of this stream's. A frame is handed on when
    /// it is whole, and on a slow line that takes its time.
    pub(super) fn progress_of(&self, stream: u32) -> Option<Instant> {
        self.instant(&self.progress).filter(|_| self.stream.load(Relaxed) == stream)
    }

    /// How much of bodies has come on the connection so far.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// How much of responses there was room for on the connection so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// There was room for so much of a response.
    pub(super) fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Relaxed);
    }

    fn instant(&self, nanos: &AtomicU64) -> Option<Instant> {
        let nanos = nanos.load(Relaxed);
        (nanos != 0).then(|| self.epoch + Duration::from_nanos(nanos))
    }

    fn set(&self, nanos: &AtomicU64, at: Instant) {
        let since = at.saturating_duration_since(self.epoch).as_nanos().max(1);
        nanos.store(u64::try_from(since).unwrap_or(u64::MAX), Relaxed);
    }
}

/// Where a transport is left when its wire is dropped: the `h2` crate does not give it back.
pub(super) type Home = Arc<Mutex<Option<Transport>>>;

/// A transport, with what was read from it before, that looks at what passes.
pub(super) struct Wire {
    /// `None` only while being dropped.
    transport: Option<Transport>,
    home: Home,
    /// What was read before it was known to be HTTP/2.
    ahead: BytesMut,
    inbound: FrameScanner,
    outbound: FrameScanner,
    /// The client's frame that is arriving or came last.
    current: Option<Frame>,
    allowance: Allowance,
    seen: Arc<Seen>,
    patience: Duration,
    /// What the system had taken when that was last looked at.
    taken: u64,
    /// Set while the client does not take what we send.
    writing: Timer,
}

impl Wire {
    /// Goes over `transport`, of which `ahead` was read. A client may take nothing for `patience`.
    pub(super) fn new(
        transport: Transport,
        ahead: BytesMut,
        seen: Arc<Seen>,
        patience: Duration,
    ) -> Self {
        Self {
            transport: Some(transport),
            home: Home::default(),
            ahead,
            inbound: FrameScanner::new(super::PREFACE.len()),
            outbound: FrameScanner::new(0),
            current: None,
            allowance: Allowance::new(Instant::now()),
            seen,
            patience,
            taken: 0,
            writing: None,
        }
    }

    /// Where the transport will be.
    pub(super) fn home(&self) -> Home {
        self.home.clone()
    }

    fn transport(&mut self) -> &mut Transport {
        self.transport.as_mut().expect("the transport is there until the wire is dropped")
    }

    fn received(&mut self, bytes: &[u8]) {
        let now = Instant::now();
        let Self { inbound, current, allowance, seen, .. } = self;
        inbound.scan(bytes, |frame| {
            if frame.kind == SETTINGS {
                seen.settings.store(true, Relaxed);
            }
            if !allowance.pay(frame, now) {
                seen.flood.store(true, Relaxed);
            }
            *current = Some(frame);
        });
        self.note_progress(now);
        if self.current.is_some_and(|frame| frame.kind == DATA) {
            self.seen.received.fetch_add(bytes.len() as u64, Relaxed);
        }
    }

    /// Notes what is waited for next.
    fn note_progress(&mut self, now: Instant) {
        let whole = self.inbound.is_between_frames();
        let waits = match self.current {
            Some(frame) if frame.kind == DATA => {
                self.seen.stream.store(frame.stream, Relaxed);
                self.seen.set(&self.seen.progress, now);
                // The head of the next frame may have begun, which no stream waits for.
                false
            }
            Some(frame) if matches!(frame.kind, HEADERS | CONTINUATION) => {
                !whole || !frame.has(END_HEADERS)
            }
            _ => !whole,
        };
        if !waits {
            self.seen.unfinished.store(0, Relaxed);
        } else if self.seen.unfinished().is_none() {
            self.seen.set(&self.seen.unfinished, now);
        }
    }

    /// Watches over a client that is to take something. In TLS, much of what was written is still here,
    /// and goes out piece by piece: what counts is what the system takes.
    fn poll_taken<T>(
        &mut self,
        cx: &mut Context<'_>,
        taken: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if taken.is_ready() {
            self.writing = None;
            return taken;
        }
        let sent = self.transport().sent();
        if std::mem::replace(&mut self.taken, sent) != sent {
            self.writing = None;
        }
        ready!(poll_timer(&mut self.writing, self.patience, cx));
        self.seen.stall.store(true, Relaxed);
        let what = "the client does not take what it is sent";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, what)))
    }

    fn sent(&mut self, bytes: &[u8]) {
        let Self { outbound, allowance, .. } = self;
        outbound.scan(bytes, |frame| allowance.sent(frame));
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        *self.home.lock().unwrap_or_else(PoisonError::into_inner) = self.transport.take();
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        if wire.seen.flood.load(Relaxed) {
            // The connection ends as soon as this returns, and nothing more is read.
            return Poll::Pending;
        }
        let before = out.filled().len();
        if wire.ahead.is_empty() {
            ready!(Pin::new(wire.transport()).poll_read(cx, out))?;
        } else {
            let length = wire.ahead.len().min(out.remaining());
            out.put_slice(&wire.ahead[..length]);
            wire.ahead.advance(length);
            if wire.ahead.is_empty() {
                wire.ahead = BytesMut::new();
            }
        }
        wire.received(&out.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        let written = Pin::new(wire.transport()).poll_write(cx, bytes);
        let written = ready!(wire.poll_taken(cx, written))?;
        wire.sent(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wire = self.get_mut();
        let written = Pin::new(wire.transport()).poll_write_vectored(cx, slices);
        let written = ready!(wire.poll_taken(cx, written))?;
        let mut left = written;
        for slice in slices {
            let length = slice.len().min(left);
            wire.sent(&slice[..length]);
            left -= length;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        let flushed = Pin::new(wire.transport()).poll_flush(cx);
        wire.poll_taken(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        let shut = Pin::new(wire.transport()).poll_shutdown(cx);
        wire.poll_taken(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// More than fits between a client and us, less than TLS takes at once.
    const LENGTH: usize = 40_000;
    const PATIENCE: Duration = Duration::from_millis(500);

    async fn connected() -> (Wire, Arc<Seen>, tokio::net::UnixStream) {
        let (transport, client) = crate::listener::tls::tests::connected().await;
        let seen = Arc::new(Seen::new(Instant::now()));
        let wire = Wire::new(transport, BytesMut::new(), seen.clone(), PATIENCE);
        // TLS would take a whole record at a time.
        (wire, seen, client.into_inner().0)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_little_now_and_then_is_waited_for() {
        let (mut wire, _, mut client) = connected().await;
        let began = Instant::now();
        let flushing = tokio::spawn(async move {
            wire.write_all(&vec![0; LENGTH]).await?;
            wire.flush().await
        });
        while !flushing.is_finished() {
            tokio::time::sleep(PATIENCE / 2).await;
            let _ = client.read(&mut [0; LENGTH / 4]).await.unwrap();
        }
        assert!(began.elapsed() > PATIENCE, "{:?}", began.elapsed());
        flushing.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_not() {
        let (mut wire, seen, client) = connected().await;
        wire.write_all(&vec![0; LENGTH]).await.unwrap();
        let error = wire.flush().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(seen.is_stalled());
        drop(client);
    }
}
