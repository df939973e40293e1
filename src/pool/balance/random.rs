//! Weighted random choice.

use super::Member;
use rand::{Rng, RngCore};
use std::sync::Arc;

/// Chooses each member with a probability in proportion to its weight.
pub(in crate::pool) struct Random {
    /// For each member, the sum of the weights up to and including its own.
    cumulative: Box<[u64]>,
}

impl Random {
    pub(super) fn new(members: &[Arc<Member>]) -> Self {
        let mut sum = 0;
        let up_to = |member: &Arc<Member>| {
            sum += u64::from(member.weight());
            sum
        };
        Self { cumulative: members.iter().map(up_to).collect() }
    }

    pub(super) fn next(&self, rng: &mut dyn RngCore) -> usize {
        let total = self.cumulative.last().copied().unwrap_or(0);
        if total == 0 {
            return 0;
        }
        let ticket = rng.random_range(0..total);
        // With equal weights the guess is right at once.
        let guess =
            (u128::from(ticket) * self.cumulative.len() as u128 / u128::from(total)) as usize;
        if self.is_at(guess, ticket) {
            return guess;
        }
        self.cumulative.partition_point(|sum| *sum <= ticket)
    }

    fn is_at(&self, index: usize, ticket: u64) -> bool {
        let below = index.checked_sub(1).map_or(0, |before| self.cumulative[before]);
        below <= ticket && ticket < self.cumulative[index]
    }
}
