//! What is counted of the requests on backends. For whoever reads: nothing is decided by it.

use super::Outcome;
use crate::observe::{Histogram, Tally};
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// How tries end, as they are counted.
const OUTCOMES: [&str; 3] = ["success", "failure", "aborted"];

fn number(outcome: Outcome) -> usize {
    match outcome {
        Outcome::Success { .. } => 0,
        Outcome::Failure { .. } => 1,
        Outcome::Unknown => 2,
    }
}

/// What is counted of one backend.
#[derive(Debug, Default)]
pub struct BackendTraffic {
    outcomes: Tally<{ OUTCOMES.len() }>,
    ejections: AtomicU64,
}

impl BackendTraffic {
    /// The tries that have ended on it, by how they did.
    pub fn tries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        OUTCOMES.into_iter().zip(self.outcomes.counts())
    }

    /// Those that failed.
    pub fn failures(&self) -> u64 {
        self.outcomes.counts()[number(Outcome::Failure { took: Duration::ZERO })]
    }

    /// How often it was ejected.
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    pub(super) fn count(&self, outcome: Outcome) {
        self.outcomes.count(number(outcome));
    }

    pub(super) fn count_ejection(&self) {
        self.ejections.fetch_add(1, Relaxed);
    }
}

/// Why a retry that was wanted was not made, as far as that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forgone {
    BudgetExhausted,
    NoRoom,
}

/// What becomes of retries, as it is counted: how they end, then why they are not made.
const RETRIES: [&str; 5] = ["success", "failure", "aborted", "budget_exhausted", "no_room"];

/// What is counted of a whole pool.
#[derive(Debug)]
pub struct PoolTraffic {
    first_byte: Histogram,
    retries: Tally<{ RETRIES.len() }>,
}

impl Default for PoolTraffic {
    fn default() -> Self {
        Self { first_byte: Histogram::of_requests(), retries: Tally::default() }
    }
}

impl PoolTraffic {
    /// From the beginning of a try to the first byte of its answer.
    pub fn first_byte(&self) -> &Histogram {
        &self.first_byte
    }

    /// The retries that were wanted, by what became of them.
    pub fn retries(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RETRIES.into_iter().zip(self.retries.counts())
    }

    pub(super) fn observe_first_byte(&self, took: Duration) {
        self.first_byte.observe(took);
    }

    pub(super) fn count_retry(&self, outcome: Outcome) {
        self.retries.count(number(outcome));
    }

    pub(super) fn count_forgone(&self, why: Forgone) {
        self.retries.count(match why {
            Forgone::BudgetExhausted => 3,
            Forgone::NoRoom => 4,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_end_has_its_own_counter() {
        let (backend, pool) = (BackendTraffic::default(), PoolTraffic::default());
        let took = Duration::ZERO;
        let outcomes =
            [Outcome::Success { first_byte: took }, Outcome::Failure { took }, Outcome::Unknown];
        for (times, outcome) in (1..).zip(outcomes) {
            for _ in 0..times {
                backend.count(outcome);
                pool.count_retry(outcome);
            }
        }
        pool.count_forgone(Forgone::BudgetExhausted);
        (0..2).for_each(|_| pool.count_forgone(Forgone::NoRoom));
        let tries = [("success", 1), ("failure", 2), ("aborted", 3)];
        assert_eq!(backend.tries().collect::<Vec<_>>(), tries);
        let forgone = [("budget_exhausted", 1), ("no_room", 2)];
        let retries: Vec<_> = tries.into_iter().chain(forgone).collect();
        assert_eq!(pool.retries().collect::<Vec<_>>(), retries);
    }
}
