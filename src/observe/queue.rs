//! The queue between those who log and the thread that writes.
//!
//! Lines lie end to end in one buffer, which the writer swaps for its own empty one. So a line
//! costs a copy under a lock, the buffers are used again and again, and a batch is one write.

use super::sink::Sink;
use std::{
    mem,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How long the writer rests after a batch. Requests do not wake it meanwhile, so under load waking
/// it costs at most a hundred system calls a second; a line that finds it idle is written at once.
const REST: Duration = Duration::from_millis(10);
/// A buffer that grew beyond this in a burst gives the memory back.
const KEEP: usize = 1 << 20;

/// Lines on their way to the writer.
#[derive(Debug)]
pub(super) struct Queue {
    /// Held for O(1) work: to append a line, or to swap the buffers.
    state: Mutex<State>,
    /// Waited on by the writer alone, for something to do.
    wake: Condvar,
    /// Waited on by those who flush; notified by the writer after each batch.
    progress: Condvar,
    /// The most bytes that wait.
    capacity: usize,
}

#[derive(Debug, Default)]
struct State {
    pending: Batch,
    /// The ticket of the last batch written.
    written: u64,
    /// The writer waits and must be woken.
    idle: bool,
    /// The writer should not rest.
    hurry: bool,
    /// No more is going to come.
    closed: bool,
}

/// Lines and, between them, the places at which the file is to be opened anew.
#[derive(Debug, Default)]
pub(super) struct Batch {
    lines: Vec<u8>,
    /// Positions in `lines`, ascending.
    reopen_at: Vec<usize>,
    /// How many things were queued up to the end of this batch, since the start.
    ticket: u64,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self { state: Mutex::default(), wake: Condvar::new(), progress: Condvar::new(), capacity }
    }

    /// The state is valid whatever a thread that held the lock was doing when it panicked.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a line; `false` if there is no room for it.
    pub(super) fn push(&self, line: &[u8]) -> bool {
        let mut state = self.lock();
        if line.len() > self.capacity - state.pending.lines.len() {
            return false;
        }
        state.pending.lines.extend_from_slice(line);
        state.pending.ticket += 1;
        // A buffer that fills up, after a write that took long say, leaves no time for a rest.
        let crowded = state.pending.lines.len() > self.capacity / 2;
        let hurried = crowded && !mem::replace(&mut state.hurry, true);
        let idle = mem::take(&mut state.idle);
        if idle || hurried {
            self.wake.notify_one();
        }
        true
    }

    /// Queues the request to open the file anew.
    pub(super) fn reopen(&self) {
        let mut state = self.lock();
        let at = state.pending.lines.len();
        // Opening it twice with nothing in between is the same as once, unless it was done already.
        if state.pending.reopen_at.last() != Some(&at) {
            state.pending.reopen_at.push(at);
            state.pending.ticket += 1;
        }
        self.hurry(state);
    }

    /// Lets the writer end once everything is written.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.hurry(state);
    }

    /// Waits until everything queued so far is written; `false` if that takes longer than `limit`.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let state = self.lock();
        let ticket = state.pending.ticket;
        self.hurry(state);
        let (state, _) = self
            .progress
            .wait_timeout_while(self.lock(), limit, |state| state.written < ticket)
            .unwrap_or_else(PoisonError::into_inner);
        state.written >= ticket
    }

    fn hurry(&self, mut state: MutexGuard<'_, State>) {
        state.hurry = true;
        state.idle = false;
        self.wake.notify_one();
    }

    /// For the writer: takes back the batch it has written and waits for the next. `false` if
    /// there will be none.
    pub(super) fn take(&self, batch: &mut Batch) -> bool {
        batch.clear();
        let mut state = self.lock();
        state.written = batch.ticket;
        self.progress.notify_all();
        state = self.rest(state);
        while state.pending.ticket == state.written && !state.closed {
            state.idle = true;
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.idle = false;
        state.hurry = state.closed;
        let ticket = state.pending.ticket;
        mem::swap(&mut state.pending, batch);
        state.pending.ticket = ticket;
        ticket != state.written
    }

    fn rest<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        if state.written == 0 {
            return state;
        }
        let rested = self.wake.wait_timeout_while(state, REST, |state| !state.hurry);
        rested.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Batch {
    fn clear(&mut self) {
        self.lines.clear();
        self.lines.shrink_to(KEEP);
        self.reopen_at.clear();
    }

    /// Writes the lines and returns how many were lost.
    pub(super) fn write_to(&self, sink: &mut Sink) -> u64 {
        let mut lost = 0;
        let mut start = 0;
        for &end in &self.reopen_at {
            lost += sink.write(&self.lines[start..end]);
            sink.reopen();
            start = end;
        }
        lost + sink.write(&self.lines[start..])
    }
}
