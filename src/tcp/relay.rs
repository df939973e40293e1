//! Passing on what two sides send each other, until both have ended.
//!
//! Each direction reads a piece onto the stack and writes it at once, so a connection has a buffer of
//! its own only for what the other side does not take, and none while it is idle. One that has much to
//! pass on gets a [`Pipe`] for as long as that goes on. The end of one direction is passed on and leaves
//! the other open: many protocols say "that was all" in this way and wait for the answer.

use super::{
    Stream,
    pipe::{Filled, Pipe, Pipes},
};
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

/// A direction that passes on this much within [`PACE`] is worth a pipe. There are only so many, and
/// those who chat all day long should not have them.
const BULK: u64 = 1024 * 1024;
const PACE: Duration = Duration::from_secs(1);

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
    /// It was ended from outside.
    CutOff,
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
    /// Bytes that came lately, for or through a pipe.
    recent: u64,
    pipe: Option<Pipe>,
    /// Whether pipes are of no use here.
    unsupported: bool,
    /// Bytes that were taken.
    passed: u64,
    /// Whether something was written since it was last made sure that it is on its way.
    unflushed: bool,
    stage: Stage,
}

/// How far a direction has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Open,
    /// The reading side has said all.
    Ended,
    /// The writing side has heard so.
    Closed,
}

impl Direction {
    /// Passes on what comes. Ready when all was passed on, the end included.
    fn poll(
        &mut self,
        from: &mut impl Stream,
        to: &mut impl Stream,
        pipes: &Pipes,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        while self.stage != Stage::Closed {
            ready!(self.poll_rest(to, cx)).map_err(Fault::Writing)?;
            if self.stage == Stage::Ended {
                self.pipe = None;
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Fault::Writing)?;
                self.stage = Stage::Closed;
            } else if self.poll_more(from, to, pipes, cx)?.is_pending() {
                if self.unflushed {
                    ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Fault::Writing)?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes in what comes next, through a pipe if much comes.
    fn poll_more(
        &mut self,
        from: &mut impl Stream,
        to: &mut impl Stream,
        pipes: &Pipes,
        cx: &mut Context<'_>,
    ) -> Result<Poll<()>, Fault> {
        let Some(pipe) = &mut self.pipe else {
            let polled = self.poll_piece(from, to, cx)?;
            if self.recent >= BULK && from.is_plain() && to.is_plain() && !self.unsupported {
                self.pipe = pipes.open();
            }
            return Ok(polled);
        };
        match pipe.poll_fill(from.socket(), cx) {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(Err(error)) => Err(Fault::Reading(error)),
            Poll::Ready(Ok(Filled::Some)) => Ok(Poll::Ready(())),
            Poll::Ready(Ok(Filled::Nothing)) => self.poll_piece(from, to, cx),
            Poll::Ready(Ok(Filled::Unsupported)) => {
                self.unsupported = true;
                self.pipe = None;
                Ok(Poll::Ready(()))
            }
        }
    }

    /// A time is over in which pipes have to be earned. Gives back one that had too little to do.
    fn count_anew(&mut self) {
        if self.recent < BULK && self.pipe.as_ref().is_some_and(Pipe::is_empty) {
            self.pipe = None;
        }
        self.recent = 0;
    }

    /// Writes what is left of an earlier piece, and gives its memory back; and what is in the pipe.
    fn poll_rest(&mut self, to: &mut impl Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let written = ready!(self.poll_write(to, None, cx))?;
            self.rest.advance(written);
        }
        self.rest = BytesMut::new();
        while let Some(pipe) = self.pipe.as_mut().filter(|pipe| !pipe.is_empty()) {
            let moved = ready!(pipe.poll_drain(to.socket(), cx))? as u64;
            self.passed += moved;
            self.recent += moved;
        }
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
        match Pin::new(&mut *from).poll_read(cx, &mut piece) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Err(error)) if is_end(&error, from) => {}
            Poll::Ready(read) => read.map_err(Fault::Reading)?,
        }
        let mut left = piece.filled();
        self.recent += left.len() as u64;
        if left.is_empty() {
            self.stage = Stage::Ended;
        }
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
    pipes: Pipes,
    idle_timeout: Duration,
    /// When something was last passed on.
    moved: Instant,
    /// Since when the directions count what comes lately.
    counting: Instant,
    first_byte: Option<Instant>,
}

impl Relay {
    pub(super) fn new(pipes: Pipes, idle_timeout: Duration) -> Self {
        let now = Instant::now();
        Self {
            pipes,
            inward: Direction::default(),
            outward: Direction::default(),
            idle_timeout,
            moved: now,
            counting: now,
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
        let heard = |it: &Direction| it.passed > 0 || it.stage == Stage::Closed;
        let said = !outward.rest.is_empty() || outward.stage == Stage::Ended;
        !heard(inward) && !heard(outward) && !said
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
            // The timer is set anew only when it is over, or when there is a pipe to look after before: a
            // busy connection would do nothing else.
            if idle.deadline() > self.due() {
                idle.as_mut().reset(self.due());
            }
            while idle.as_mut().poll(cx).is_ready() {
                let now = Instant::now();
                if self.moved + self.idle_timeout <= now {
                    return Poll::Ready(Some(Ended::Idle));
                }
                self.keep_count(now);
                idle.as_mut().reset(self.due());
            }
            Poll::Pending
        })
        .await
    }

    /// When there is something to do if nothing is passed on until then.
    fn due(&self) -> Instant {
        let empty = |direction: &Direction| direction.pipe.as_ref().is_some_and(Pipe::is_empty);
        let idle = self.moved + self.idle_timeout;
        if empty(&self.inward) || empty(&self.outward) {
            return idle.min(self.counting + PACE);
        }
        idle
    }

    /// Has the directions count anew when it is time for that.
    fn keep_count(&mut self, now: Instant) {
        if self.counting + PACE <= now {
            self.counting = now;
            self.inward.count_anew();
            self.outward.count_anew();
        }
    }

    fn poll_both(
        &mut self,
        client: &mut impl Stream,
        backend: &mut impl Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Ended> {
        let before = (self.inward.passed, self.outward.passed);
        let inward = self.inward.poll(client, backend, &self.pipes, cx);
        let outward = self.outward.poll(backend, client, &self.pipes, cx);
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
        self.keep_count(self.moved);
        if self.outward.passed > 0 {
            self.first_byte.get_or_insert(self.moved);
        }
    }
}

fn is_end(error: &io::Error, from: &impl Stream) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof && from.may_end_unsaid()
}

fn broken(fault: Fault, from: Side, to: Side) -> Ended {
    match fault {
        Fault::Reading(error) => Ended::Broken(from, error),
        Fault::Writing(error) => Ended::Broken(to, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_kept_as_long_as_much_goes_through_it() {
        let mut direction = Direction { pipe: Pipes::default().open(), ..Direction::default() };
        for (recent, kept) in [(BULK, true), (BULK + 1, true), (BULK - 1, false)] {
            direction.recent = recent;
            direction.count_anew();
            assert_eq!((direction.pipe.is_some(), direction.recent), (kept, 0), "{recent}");
        }
    }
}
