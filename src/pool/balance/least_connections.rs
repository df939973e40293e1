//! Least connections: the member with the fewest requests in flight for its weight.

use super::Member;
use std::{
    cmp::Ordering,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// Chooses the member with the least `in_flight / weight`. Each pick begins its search one member
/// further on than the last and keeps the first of equals, so equals take turns.
#[derive(Default)]
pub(in crate::pool) struct LeastConnections {
    turn: AtomicUsize,
}

/// Compares `in_flight / weight` of two members without dividing.
fn by_load(a: (usize, u32), b: (usize, u32)) -> Ordering {
    let left = a.0 as u128 * u128::from(b.1);
    let right = b.0 as u128 * u128::from(a.1);
    left.cmp(&right)
}

impl LeastConnections {
    pub(super) fn next(
        &self,
        members: &[Arc<Member>],
        allowed: impl Fn(&Member) -> bool,
    ) -> Option<usize> {
        let start = self.turn.fetch_add(1, Relaxed) % members.len().max(1);
        let in_turn = (start..members.len()).chain(0..start);
        let load = |&index: &usize| {
            let member = &members[index];
            (member.state().in_flight(), member.weight().get())
        };
        // `min_by` keeps the first of equals.
        in_turn.filter(|&index| allowed(&members[index])).min_by(|a, b| by_load(load(a), load(b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Lease, balance::tests::member};

    #[test]
    fn picks_the_least_loaded_for_its_weight() {
        let members = [member("a", 1), member("b", 2), member("c", 1)];
        let policy = LeastConnections::default();
        let _held = [
            Lease::new(members[0].clone()),
            Lease::new(members[1].clone()),
            Lease::new(members[2].clone()),
        ];
        // b has one request for a weight of two: half the load of the others.
        for _ in 0..6 {
            assert_eq!(policy.next(&members, |_| true), Some(1));
        }
    }

    #[test]
    fn equals_take_turns() {
        let members = [member("a", 1), member("b", 1), member("c", 1)];
        let policy = LeastConnections::default();
        let picks: Vec<_> = (0..6).map(|_| policy.next(&members, |_| true).unwrap()).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
    }
}
