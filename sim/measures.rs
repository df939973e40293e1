//! What a run measured.

use std::time::Duration;

/// How a request ended for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// It was answered.
    Answered,
    /// The last try failed.
    Failed,
    /// There was no usable backend.
    NoBackend,
    /// The queue was full, or it waited too long.
    Overloaded,
    /// The client went away.
    Left,
}

/// The measures of a run.
#[derive(Clone, Debug, Default)]
pub struct Measures {
    /// Latencies in nanoseconds, in the order of the ends. A request that ended in an error counts
    /// with the time until then: to leave out those that ran into a timeout would flatter.
    latencies: Vec<u64>,
    answered: u64,
    /// Requests that ended in an error, by kind: failed, no backend, overloaded.
    pub failed: u64,
    /// Requests without a usable backend.
    pub no_backend: u64,
    /// Requests that the queue had no place for, or not in time.
    pub overloaded: u64,
    /// Requests whose client went away.
    pub left: u64,
    /// Requests that arrived, those of the warm-up included.
    pub arrived: u64,
    /// Tries, by backend.
    pub tries: Vec<u64>,
    /// Retries.
    pub retries: u64,
    /// Times that a request waited in the queue.
    pub waited: u64,
    /// Times that a backend was ejected.
    pub ejections: u64,
    /// Picks in panic.
    pub panic_picks: u64,
    /// A fingerprint of everything that happened.
    pub fingerprint: u64,
    /// What was seen that must not happen.
    pub violations: Vec<String>,
}

impl Measures {
    /// Of a run with so many backends.
    pub fn new(backends: usize) -> Self {
        Self { tries: vec![0; backends], ..Self::default() }
    }

    /// Takes in the end of a request.
    pub fn record(&mut self, end: End, latency: Duration) {
        if end != End::Left {
            self.latencies.push(latency.as_nanos() as u64);
        }
        match end {
            End::Answered => self.answered += 1,
            End::Failed => self.failed += 1,
            End::NoBackend => self.no_backend += 1,
            End::Overloaded => self.overloaded += 1,
            End::Left => self.left += 1,
        }
    }

    /// Requests that were answered.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    /// Requests that ended in an error.
    pub fn errors(&self) -> u64 {
        self.failed + self.no_backend + self.overloaded
    }

    /// Errors as a share of the requests whose client stayed.
    pub fn error_rate(&self) -> f64 {
        self.errors() as f64 / (self.errors() + self.answered()).max(1) as f64
    }

    /// The latencies below which these shares of the requests are.
    pub fn quantiles<const N: usize>(&self, shares: [f64; N]) -> [Duration; N] {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        shares.map(|share| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            let nanos = sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0);
            Duration::from_nanos(nanos)
        })
    }
}
