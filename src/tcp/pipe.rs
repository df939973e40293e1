//! Moving bytes from one socket to another inside the kernel, with splice(2).
//!
//! A pipe stands between the two, which takes two descriptors and a few kilobytes of the kernel's
//! memory. So only a direction that has much to pass on gets one, only so many have one at a time, and
//! it is given back when nothing more comes. All others are copied.

use super::Socket;
use rustix::{
    io::Errno,
    pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice},
};
use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};
use tokio::io::Interest;

/// What a pipe should take at a time. The more, the fewer calls; docs/performance.md has the numbers.
const CAPACITY: usize = 256 * 1024;
/// What it must take to be of use. A user without rights who has many pipes gets smaller ones.
const LEAST: usize = 64 * 1024;
/// The most pipes at a time: at their capacity as much as a user without rights may have, and few
/// enough descriptors not to be missed.
const MOST: usize = 256;

/// The pipes of all relays.
#[derive(Clone, Debug, Default)]
pub struct Pipes {
    open: Arc<AtomicUsize>,
}

impl Pipes {
    /// A pipe, if one may be had.
    pub(super) fn open(&self) -> Option<Pipe> {
        let more = |open| (open < MOST).then_some(open + 1);
        self.open.fetch_update(Relaxed, Relaxed, more).ok()?;
        let place = Place(self.open.clone());
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
        let grown = fcntl_setpipe_size(&write, CAPACITY).or_else(|_| fcntl_getpipe_size(&write));
        let capacity = grown.ok().filter(|capacity| *capacity >= LEAST)?;
        Some(Pipe { read, write, capacity, held: 0, _place: place })
    }
}

/// One of the pipes that there may be.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A pipe between two sockets.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
    held: usize,
    _place: Place,
}

/// What came of filling a pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// There is something in it.
    Some,
    /// Nothing was moved. That need not be the end, nor mean that there is nothing to read: at a byte of
    /// urgent data, which reading passes over, splice(2) stops for good and says one or the other.
    Nothing,
    /// The system does not do this with such a socket.
    Unsupported,
}

impl Pipe {
    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves what `from` has into the pipe, which must be empty: full, it would have to wait as well.
    /// Does not wait for more to come.
    pub(super) fn poll_fill(
        &mut self,
        from: Socket<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Filled>> {
        ready!(from.poll_ready(Interest::READABLE, cx))?;
        Poll::Ready(match splice(from, None, &self.write, None, self.capacity, FLAGS) {
            Ok(0) | Err(Errno::AGAIN) => Ok(Filled::Nothing),
            Ok(moved) => {
                self.held = moved;
                Ok(Filled::Some)
            }
            Err(Errno::INVAL) => Ok(Filled::Unsupported),
            Err(error) => Err(error.into()),
        })
    }

    /// Moves some of what is in the pipe to `to`, and says how much.
    pub(super) fn poll_drain(
        &mut self,
        to: Socket<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_ready(Interest::WRITABLE, cx))?;
            let drain = || Ok(splice(&self.read, None, to, None, self.held, FLAGS)?);
            match to.try_io(Interest::WRITABLE, drain) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(moved) => {
                    self.held -= moved;
                    return Poll::Ready(Ok(moved));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_only_so_many_pipes() {
        let pipes = Pipes::default();
        let mut open: Vec<Pipe> = (0..MOST).map_while(|_| pipes.open()).collect();
        // Where the system allows fewer, those count that there are.
        let most = open.len();
        assert!(most > 0 && pipes.open().is_none());
        open.pop();
        assert_eq!(pipes.open.load(Relaxed), most - 1);
        assert!(pipes.open().is_some_and(|pipe| pipe.is_empty() && pipe.capacity >= LEAST));
        drop(open);
        assert_eq!(pipes.open.load(Relaxed), 0);
    }
}
