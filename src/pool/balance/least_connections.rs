//! Least connections: the member with the fewest requests in flight for its weight.

use super::{Allowed, Ask, Member};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Chooses the member with the least `in_flight / weight`. Each pick begins its search one member
/// further on than the last and keeps the first of equals, so equals take turns.
#[derive(Default)]
pub(in crate::pool) struct LeastConnections {
    turn: AtomicUsize,
}

impl LeastConnections {
    pub(super) fn next(
        &self,
        members: &[Arc<Member>],
        ask: &Ask<'_>,
        allowed: Allowed<'_>,
    ) -> Option<usize> {
        let start = self.turn.fetch_add(1, Relaxed) % members.len().max(1);
        let load = |index: usize| {
            let member = &members[index];
            let weight = f64::from(member.weight()) * ask.share(member);
            (index, member.state().in_flight() as f64 / weight)
        };
        // `min_by` keeps the first of equals.
        let in_turn = (start..members.len()).chain(0..start);
        let loads = in_turn.filter(|&index| allowed(&members[index])).map(load);
        loads.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{
        Tried,
        balance::tests::{ask, member},
    };

    #[test]
    fn picks_the_least_loaded_for_its_weight() {
        let members = [member("a", 1), member("b", 2), member("c", 1)];
        for member in &members {
            member.state().begin_request();
        }
        let (policy, tried) = (LeastConnections::default(), Tried::default());
        // b has one request for a weight of two: half the load of the others.
        for _ in 0..6 {
            assert_eq!(policy.next(&members, &ask(&tried), &|_| true), Some(1));
        }
    }

    #[test]
    fn equals_take_turns() {
        let members = [member("a", 1), member("b", 1), member("c", 1)];
        let (policy, tried) = (LeastConnections::default(), Tried::default());
        let picks: Vec<_> =
            (0..6).map(|_| policy.next(&members, &ask(&tried), &|_| true).unwrap()).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
    }
}
