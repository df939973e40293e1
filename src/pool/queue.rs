//! Waiting for a backend below its limit: first come, first served, in a bounded line.
//!
//! The queue knows nothing of time or tasks. A place in it is a value; when its turn comes it is
//! called, and whoever holds it is woken through the standard [`Waker`], which is a task's in
//! production and nobody's in the simulator. Dropping a place leaves the line, and a call that its
//! holder does not use goes to the next.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
};

/// The line in front of one pool.
#[derive(Debug)]
pub struct Queue {
    /// A reload may change it.
    capacity: AtomicUsize,
    line: Mutex<Line>,
    /// The length of the line, to be read without its lock.
    length: AtomicUsize,
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    /// Tickets are never used twice.
    next: u64,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    /// Whether its turn has come.
    called: bool,
    waker: Option<Waker>,
}

/// A place in the line.
#[derive(Debug)]
pub struct Place {
    queue: Arc<Queue>,
    ticket: u64,
}

impl Queue {
    /// A line of at most `capacity`.
    pub fn new(capacity: usize) -> Self {
        let capacity = AtomicUsize::new(capacity);
        Self { capacity, line: Mutex::default(), length: AtomicUsize::new(0) }
    }

    /// Lets `capacity` wait from now on. Those who wait already stay.
    pub fn set_capacity(&self, capacity: usize) {
        self.capacity.store(capacity, SeqCst);
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.length.load(SeqCst)
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the last place in the line; `None` if it is full.
    pub fn enter(self: &Arc<Self>) -> Option<Place> {
        let mut line = self.line();
        if line.waiting.len() >= self.capacity.load(SeqCst) {
            return None;
        }
        let ticket = line.next;
        line.next += 1;
        line.waiting.push_back(Waiting { ticket, called: false, waker: None });
        self.length.store(line.waiting.len(), SeqCst);
        Some(Place { queue: self.clone(), ticket })
    }

    /// Calls all who wait: there may be room for any number of them, or nothing to wait for.
    pub fn call_all(&self) {
        if self.is_empty() {
            return;
        }
        let wakers: Vec<Waker> = {
            let mut line = self.line();
            let call = |waiting: &mut Waiting| {
                waiting.called = true;
                waiting.waker.take()
            };
            line.waiting.iter_mut().filter_map(call).collect()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Calls the first in the line who was not called yet: a backend has room.
    pub fn call_next(&self) {
        if self.is_empty() {
            return;
        }
        let waker = {
            let mut line = self.line();
            let Some(first) = line.waiting.iter_mut().find(|waiting| !waiting.called) else {
                return;
            };
            first.called = true;
            first.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Place {
    /// Whether the turn has come: it is time to look for room. The place stays in the line until it
    /// is dropped.
    pub fn is_called(&self) -> bool {
        self.queue.line().find(self.ticket).is_some_and(|waiting| waiting.called)
    }

    /// Resolves when the turn has come.
    pub fn poll_called(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut line = self.queue.line();
        let Some(waiting) = line.find_mut(self.ticket) else { return Poll::Ready(()) };
        if waiting.called {
            return Poll::Ready(());
        }
        waiting.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whether nobody in the line came earlier.
    pub fn is_first(&self) -> bool {
        self.queue.line().waiting.front().is_some_and(|first| first.ticket == self.ticket)
    }

    /// Waits for another turn at the same place. To be said before one looks for room: room that
    /// comes after the look is then a call of its own.
    pub fn wait_again(&self) {
        if let Some(waiting) = self.queue.line().find_mut(self.ticket) {
            waiting.called = false;
        }
    }
}

impl Line {
    fn find(&self, ticket: u64) -> Option<&Waiting> {
        let at = self.waiting.binary_search_by_key(&ticket, |waiting| waiting.ticket).ok()?;
        self.waiting.get(at)
    }

    fn find_mut(&mut self, ticket: u64) -> Option<&mut Waiting> {
        let at = self.waiting.binary_search_by_key(&ticket, |waiting| waiting.ticket).ok()?;
        self.waiting.get_mut(at)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (was_first, was_called) = {
            let mut line = self.queue.line();
            let found = line.waiting.binary_search_by_key(&self.ticket, |waiting| waiting.ticket);
            let left = found.ok().and_then(|at| line.waiting.remove(at));
            self.queue.length.store(line.waiting.len(), SeqCst);
            (found == Ok(0), left.is_some_and(|waiting| waiting.called))
        };
        // The room that it was called for may still be there: it may have left for another reason.
        // And whoever is first now came when it was not, and may have missed a call before that.
        if was_first || was_called {
            self.queue.call_next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_come_first_served() {
        let queue = Arc::new(Queue::new(3));
        let places: Vec<_> = (0..3).map(|_| queue.enter().unwrap()).collect();
        assert!(queue.enter().is_none());
        for turn in 0..3 {
            queue.call_next();
            let called: Vec<_> = places.iter().map(Place::is_called).collect();
            assert_eq!(called, [true, turn >= 1, turn >= 2]);
        }
    }

    #[test]
    fn leaving_frees_the_place() {
        let queue = Arc::new(Queue::new(1));
        let place = queue.enter().unwrap();
        assert_eq!(queue.len(), 1);
        drop(place);
        assert!(queue.is_empty());
        assert!(queue.enter().is_some());
    }

    #[test]
    fn whoever_becomes_first_looks_for_room() {
        let queue = Arc::new(Queue::new(2));
        // Two backends had room before both entered, so nobody was called.
        let (first, second) = (queue.enter().unwrap(), queue.enter().unwrap());
        drop(first);
        assert!(second.is_called());
    }

    #[test]
    fn one_who_finds_no_room_waits_at_the_same_place() {
        let queue = Arc::new(Queue::new(2));
        let (first, second) = (queue.enter().unwrap(), queue.enter().unwrap());
        queue.call_next();
        assert!(first.is_called());
        first.wait_again();
        queue.call_next();
        assert!(first.is_called() && !second.is_called());
    }

    #[test]
    fn all_are_called_at_once() {
        let queue = Arc::new(Queue::new(3));
        let places: Vec<_> = (0..3).map(|_| queue.enter().unwrap()).collect();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(places.iter().all(|place| place.poll_called(&mut cx).is_pending()));
        queue.call_all();
        assert!(places.iter().all(Place::is_called));
    }

    #[test]
    fn the_holder_is_woken() {
        let queue = Arc::new(Queue::new(1));
        let place = queue.enter().unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(place.poll_called(&mut cx).is_pending());
        queue.call_next();
        assert!(place.poll_called(&mut cx).is_ready());
    }
}
