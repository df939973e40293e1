//! Weighted random choice.

use super::Member;
use rand::{Rng, RngCore};
use std::sync::Arc;

/// Chooses each member with a probability in proportion to its weight.
pub(in crate::pool) struct Random {
    /// For each member, the sum of the weights up to and including its own.
    cumulative: Box<[u32]>,
}

impl Random {
    pub(super) fn new(members: &[Arc<Member>]) -> Self {
        let mut sum = 0;
        let up_to = |member: &Arc<Member>| {
            sum += member.weight().get();
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
        self.cumulative.partition_point(|sum| *sum <= ticket)
    }
}
