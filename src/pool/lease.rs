//! What a request holds while it is on a backend, and what it remembers of the ones it tried.

use super::{Member, PoolTraffic, Queue, events::Events};
use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

/// What the leases of one pool have in common.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Requests in flight on all backends of the pool.
    in_flight: AtomicUsize,
    /// Those who wait for one to end.
    pub(super) queue: Arc<Queue>,
    pub(super) traffic: PoolTraffic,
    pub(super) events: Events,
}

impl Ledger {
    pub(super) fn new(queue: Queue) -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            queue: Arc::new(queue),
            traffic: PoolTraffic::default(),
            events: Events::default(),
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }
}

/// One request's place on a backend. The request counts as in flight from the pick until this is
/// dropped, on whatever path.
#[derive(Debug)]
pub struct Lease {
    member: Arc<Member>,
    ledger: Arc<Ledger>,
}

impl Lease {
    /// A place on `member`, unless `limit` requests are in flight there.
    pub(super) fn try_new(
        member: Arc<Member>,
        limit: Option<usize>,
        ledger: &Arc<Ledger>,
    ) -> Option<Self> {
        if !member.state.try_begin(limit) {
            return None;
        }
        ledger.in_flight.fetch_add(1, Relaxed);
        Some(Self { member, ledger: ledger.clone() })
    }

    /// The backend.
    pub fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// The backend's answer has begun, so long after the try.
    pub fn observe_first_byte(&self, took: Duration) {
        self.ledger.traffic.observe_first_byte(took);
    }
}

impl Deref for Lease {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.member
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.member.state.end_request();
        self.ledger.in_flight.fetch_sub(1, Relaxed);
        if self.member.takes_new_clients() {
            self.ledger.queue.call_next();
        } else {
            // The room is for its own clients alone, who may be anywhere in the line.
            self.ledger.queue.call_all();
        }
    }
}

/// The backends a request has tried. The first is stored in place: most requests try no second.
#[derive(Debug, Default)]
pub struct Tried {
    first: Option<usize>,
    more: Vec<usize>,
}

impl Tried {
    /// Remembers `member`.
    pub fn add(&mut self, member: &Member) {
        if self.first.is_none() {
            self.first = Some(member.id());
        } else {
            self.more.push(member.id());
        }
    }

    /// Whether nothing was tried yet.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Whether `member` was tried.
    pub fn contains(&self, member: &Member) -> bool {
        self.first == Some(member.id()) || self.more.contains(&member.id())
    }
}
