//! A simulated backend: so many workers, and a line in front of them.

use super::events::Try;
use std::{collections::VecDeque, time::Duration};

/// How a backend behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// It works, and takes this many times as long as it should.
    Working { slowdown: f64 },
    /// It refuses connections.
    Refusing,
    /// It answers 503 at once.
    Failing,
    /// It takes connections and never answers.
    Hanging,
}

impl Mode {
    /// At full speed.
    pub const NORMAL: Self = Self::Working { slowdown: 1.0 };
}

/// What a backend can do.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Requests that it works on at a time; others wait in front of it.
    pub workers: usize,
    /// How fast it is: at 2.0 it needs half the time.
    pub speed: f64,
}

/// A backend at one moment.
#[derive(Debug)]
pub struct Station {
    capacity: Capacity,
    /// How it behaves.
    pub mode: Mode,
    /// What its workers do. Work goes on when nobody waits for it any more.
    working: Vec<Try>,
    /// Tries that wait for a worker, with the work that they are.
    waiting: VecDeque<(Try, Duration)>,
}

/// What becomes of a try that comes to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// A worker has it, and is done with it after this long.
    Begun(Duration),
    /// It waits, maybe for ever.
    Waits,
    /// It failed.
    Failed,
}

impl Station {
    /// An idle one.
    pub fn new(capacity: Capacity) -> Self {
        Self { capacity, mode: Mode::NORMAL, working: Vec::new(), waiting: VecDeque::new() }
    }

    /// Takes a try in.
    pub fn accept(&mut self, incoming: Try, work: Duration) -> Accepted {
        match self.mode {
            Mode::Refusing | Mode::Failing => Accepted::Failed,
            Mode::Hanging => Accepted::Waits,
            Mode::Working { .. } if self.working.len() >= self.capacity.workers => {
                self.waiting.push_back((incoming, work));
                Accepted::Waits
            }
            Mode::Working { .. } => {
                self.working.push(incoming);
                Accepted::Begun(self.time_for(work))
            }
        }
    }

    /// Whether a worker has this try. It has not if the backend crashed meanwhile.
    pub fn works_on(&self, this: Try) -> bool {
        self.working.contains(&this)
    }

    /// Ends the work on a try, and says which the worker takes next and how long it needs for it.
    pub fn finish(&mut self, done: Try) -> Option<(Try, Duration)> {
        self.working.retain(|working| *working != done);
        let (next, work) = self.waiting.pop_front()?;
        self.working.push(next);
        Some((next, self.time_for(work)))
    }

    /// The client of a try has gone: if it still waits, it does not any more.
    pub fn give_up(&mut self, gone: Try) {
        self.waiting.retain(|(waiting, _)| *waiting != gone);
    }

    /// Forgets all work, as a process does that ends.
    pub fn crash(&mut self) {
        self.working.clear();
        self.waiting.clear();
    }

    fn time_for(&self, work: Duration) -> Duration {
        let slowdown = match self.mode {
            Mode::Working { slowdown } => slowdown,
            _ => 1.0,
        };
        work.mul_f64(slowdown / self.capacity.speed)
    }
}
