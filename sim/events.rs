//! What is to happen, in order.

use pingora_lb::pool::Time;
use std::{cmp::Reverse, collections::BinaryHeap};

/// The number of a request: its place in the order of arrival.
pub type RequestId = usize;
/// The number of a backend: its place in the scenario.
pub type StationId = usize;

/// One try of one request. What belongs to an earlier try than the present one is out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Try {
    /// The request.
    pub request: RequestId,
    /// Its tries until this one, this one included.
    pub number: u32,
}

/// Something that happens at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Event {
    /// A request arrives; of a client in a closed loop, or of the stream.
    Arrival,
    /// A backend has finished the work of a try.
    Done(StationId, Try),
    /// A backend has refused a try, or answered it with a failure.
    Failed(Try),
    /// A try has run out of time.
    TimedOut(Try),
    /// A request acts on its turn in the queue.
    Called(RequestId),
    /// A request has waited in the queue for as long as it may.
    QueueTimedOut(RequestId),
    /// The pause before a retry is over.
    Retry(Try),
    /// The client of a request goes away, if it is still there.
    ClientLeaves(RequestId),
    /// A probe of a backend begins.
    ProbeBegins(StationId),
    /// A probe of a backend has succeeded or failed.
    ProbeEnds(StationId, bool),
    /// The core has asked to be maintained.
    Maintenance,
    /// The step of this number in the scenario's script.
    Script(usize),
}

/// The events to come. Those of the same moment come in the order in which they were planned.
#[derive(Debug, Default)]
pub struct Events {
    heap: BinaryHeap<Reverse<(Time, u64, Event)>>,
    planned: u64,
}

impl Events {
    /// Plans `event` for `at`.
    pub fn plan(&mut self, at: Time, event: Event) {
        self.planned += 1;
        self.heap.push(Reverse((at, self.planned, event)));
    }

    /// The next event and its moment.
    pub fn next(&mut self) -> Option<(Time, Event)> {
        self.heap.pop().map(|Reverse((at, _, event))| (at, event))
    }
}
