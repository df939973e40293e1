//! Passing on what two sides send each other, until both have ended.
//!
//! Each direction reads a piece onto the stack and writes it at once, so a connection has a buffer of
//! its own only for what the other side does not take, and none while it is idle. The end of one
//! direction is passed on and leaves the other open: many protocols say "that was all" in this way and
//! wait for the answer.

use super::Stream;
use bytes::{Buf, BytesMut};
use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::ReadBuf,
    time::{Instant, sleep_until},
};

/// What is read at a time. docs/performance.md says what was measured.
const PIECE: usize = 32 * 1024;

/// One of the two sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Backend,
}

impl Side {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Backend => "backend",
        }
    }
}

/// How a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Both sides have said all they had to say.
    Both,
    /// Nothing came from either side for too long.
    Idle,
    /// One side broke off.
    Broken(Side, io::Error),
}

/// Why a direction cannot go on.
enum Fault {
    Reading(io::Error),
    Writing(io::Error),
}

/// One direction.
#[derive(Debug, Default)]
struct Direction {
    /// What was read and has not been taken yet.
    rest: BytesMut,
    /// Bytes that were taken.
    passed: u64,
    /// Whether something was written since it was last made sure that it is on its way.
    unflushed: bool,
    /// Whether the reading side has said all.
    ended: bool,
    /// Whether the writing side has heard so.
    closed: bool,
}

impl Direction {
    /// Passes on what comes. Ready when all was passed on, the end included.
    fn poll(
        &mut self,
        from: &mut impl Stream,
        to: &mut impl Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        while !self.closed {
            ready!(self.poll_rest(to, cx)).map_err(Fault::Writing)?;
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Fault::Writing)?;
                self.closed = true;
            } else if self.poll_piece(from, to, cx)?.is_pending() {
                if self.unflushed {
                    ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Fault::Writing)?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what is left of an earlier piece, and gives its memory back.
    fn poll_rest(&mut self, to: &mut impl Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let written = ready!(self.poll_write(to, None, cx))?;
            self.rest.advance(written);
        }
        self.rest = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Reads a piece and writes as much of it as is taken.
    #[allow(clippy::large_stack_arrays, reason = "it is there for one poll, not for a connection")]
    fn poll_piece(
        &mut self,
        from: &mut impl Stream,
        to: &mut impl Stream,
        cx: &mut Context<'_>,
    ) -> Result<Poll<()>, Fault> {
        let mut piece = [MaybeUninit::uninit(); PIECE];
        let mut piece = ReadBuf::uninit(&mut piece);
        match Pin::new(from).poll_read(cx, &mut piece) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(read) => read.map_err(Fault::Reading)?,
        }
        let mut left = piece.filled();
        self.ended = left.is_empty();
        let mut written = Ok(());
        while !left.is_empty() {
            match self.poll_write(to, Some(left), cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(taken)) => left = &left[taken..],
                Poll::Ready(Err(error)) => {
                    written = Err(Fault::Writing(error));
                    break;
                }
            }
        }
        // After a failure too: what no backend has taken may go to another one.
        self.rest.extend_from_slice(left);
        written.map(Poll::Ready)
    }

    /// Writes some of `bytes`, or of the rest.
    fn poll_write(
        &mut self,
        to: &mut impl Stream,
        bytes: Option<&[u8]>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let bytes = bytes.unwrap_or(&self.rest);
        match ready!(Pin::new(to).poll_write(cx, bytes))? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => {
                self.passed += written as u64;
                self.unflushed = true;
                Poll::Ready(Ok(written))
            }
        }
    }
}

/// What is passed on between a client and a backend.
#[derive(Debug)]
pub(super) struct Relay {
    /// From the client to the backend.
    inward: Direction,
    /// From the backend to the client.
    outward: Direction,
    idle_timeout: Duration,
    /// When something was last passed on.
    moved: Instant,
    first_byte: Option<Instant>,
}

impl Relay {
    pub(super) fn new(idle_timeout: Duration) -> Self {
        Self {
            inward: Direction::default(),
            outward: Direction::default(),
            idle_timeout,
            moved: Instant::now(),
            first_byte: None,
        }
    }

    /// Bytes that the backend has taken.
    pub(super) fn bytes_in(&self) -> u64 {
        self.inward.passed
    }

    /// Bytes that the client has taken.
    pub(super) fn bytes_out(&self) -> u64 {
        self.outward.passed
    }

    /// When the first byte of the backend's was passed on.
    pub(super) fn first_byte(&self) -> Option<Instant> {
        self.first_byte
    }

    /// Whether neither side has heard anything of the other yet.
    pub(super) fn is_untouched(&self) -> bool {
        let Self { inward, outward, .. } = self;
        let heard = |direction: &Direction| direction.passed > 0 || direction.closed;
        !heard(inward) && !heard(outward) && outward.rest.is_empty() && !outward.ended
    }

    /// Waits until one side hears something of the other, or the connection ends before.
    pub(super) async fn begin(
        &mut self,
        client: &mut impl Stream,
        backend: &mut impl Stream,
    ) -> Option<Ended> {
        self.moved = Instant::now();
        self.go_on(client, backend, true).await
    }

    /// Passes on what both say until both have ended.
    pub(super) async fn run(
        &mut self,
        client: &mut impl Stream,
        backend: &mut impl Stream,
    ) -> Ended {
        let ended = self.go_on(client, backend, false).await;
        ended.expect("only a beginning is no end")
    }

    async fn go_on(
        &mut self,
        client: &mut impl Stream,
        backend: &mut impl Stream,
        only_begin: bool,
    ) -> Option<Ended> {
        let mut idle = pin!(sleep_until(self.moved + self.idle_timeout));
        poll_fn(|cx| {
            let polled = self.poll_both(client, backend, cx);
            if let Poll::Ready(ended) = polled {
                return Poll::Ready(Some(ended));
            }
            if only_begin && !self.is_untouched() {
                return Poll::Ready(None);
            }
            // The timer is set anew only when it is over: a busy connection would do nothing else.
            while idle.as_mut().poll(cx).is_ready() {
                let due = self.moved + self.idle_timeout;
                if due <= Instant::now() {
                    return Poll::Ready(Some(Ended::Idle));
                }
                idle.as_mut().reset(due);
            }
            Poll::Pending
        })
        .await
    }

    fn poll_both(
        &mut self,
        client: &mut impl Stream,
        backend: &mut impl Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Ended> {
        let before = (self.inward.passed, self.outward.passed);
        let inward = self.inward.poll(client, backend, cx);
        let outward = self.outward.poll(backend, client, cx);
        if before != (self.inward.passed, self.outward.passed) {
            self.note_progress();
        }
        match (inward, outward) {
            (Poll::Ready(Err(fault)), _) => Poll::Ready(broken(fault, Side::Client, Side::Backend)),
            (_, Poll::Ready(Err(fault))) => Poll::Ready(broken(fault, Side::Backend, Side::Client)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ended::Both),
            _ => Poll::Pending,
        }
    }

    fn note_progress(&mut self) {
        self.moved = Instant::now();
        if self.outward.passed > 0 {
            self.first_byte.get_or_insert(self.moved);
        }
    }
}

fn broken(fault: Fault, from: Side, to: Side) -> Ended {
    match fault {
        Fault::Reading(error) => Ended::Broken(from, error),
        Fault::Writing(error) => Ended::Broken(to, error),
    }
}
