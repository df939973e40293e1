//! Least connections: the member with the fewest requests in flight for its weight.

use super::{Allowed, Ask, Member, accepts};
use crate::pool::BackendState;
use rand::RngCore;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Chooses the member with the least `in_flight / weight`. Each pick begins its search one member
/// further on than the last and keeps the first of equals, so equals take turns.
pub(in crate::pool) struct LeastConnections {
    turn: AtomicUsize,
    /// What every pick reads of every member, side by side.
    loads: Box<[Load]>,
}

struct Load {
    state: Arc<BackendState>,
    /// A change of weight makes a new balancer.
    per_weight: f64,
}

/// What is compared: the requests in flight for the weight, of which less counts while a member comes
/// back.
pub(super) fn load(member: &Member, ask: &Ask<'_>) -> f64 {
    let per_weight = 1.0 / f64::from(member.weight());
    member.state().in_flight() as f64 * per_weight / ask.share(member)
}

impl LeastConnections {
    pub(super) fn new(members: &[Arc<Member>], before: Option<&Self>) -> Self {
        let load = |member: &Arc<Member>| Load {
            state: member.state.clone(),
            per_weight: 1.0 / f64::from(member.weight()),
        };
        let turn = before.map_or(0, |before| before.turn.load(Relaxed));
        Self { turn: AtomicUsize::new(turn), loads: members.iter().map(load).collect() }
    }

    /// A member that comes back takes only its share of what it would get: where nothing is in flight,
    /// load alone does not tell it from the rest.
    pub(super) fn next(
        &self,
        members: &[Arc<Member>],
        ask: &Ask<'_>,
        allowed: Allowed<'_>,
        rng: &mut dyn RngCore,
    ) -> Option<usize> {
        let turn = match ask.looks_ahead() {
            Some(ahead) => self.turn.load(Relaxed).wrapping_add(ahead),
            None => self.turn.fetch_add(1, Relaxed),
        };
        let start = turn % members.len().max(1);
        let least = self.least_loaded(members, start, ask, allowed)?;
        if accepts(&members[least], ask, rng) {
            return Some(least);
        }
        let in_full = |member: &Member| allowed(member) && ask.share(member) >= 1.0;
        self.least_loaded(members, start, ask, &in_full).or(Some(least))
    }

    /// The member with the least load, the first of equals from `start` on. Whether one is allowed
    /// is asked of those alone that would be the least so far, which few are.
    fn least_loaded(
        &self,
        members: &[Arc<Member>],
        start: usize,
        ask: &Ask<'_>,
        allowed: Allowed<'_>,
    ) -> Option<usize> {
        let mut least = None;
        let mut least_load = f64::INFINITY;
        // Nested, as a chain of the two costs a quarter more.
        for range in [start..members.len(), 0..start] {
            for (index, Load { state, per_weight }) in range.clone().zip(&self.loads[range]) {
                let load = state.in_flight() as f64 * per_weight;
                if load >= least_load || !allowed(&members[index]) {
                    continue;
                }
                // A member that comes back counts for more than it has.
                let load = load / ask.share(&members[index]);
                if load < least_load {
                    (least, least_load) = (Some(index), load);
                }
                if least_load <= 0.0 {
                    return least;
                }
            }
        }
        least
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{
        Time, Tried,
        balance::tests::{ask, member, rng},
    };
    use std::time::Duration;

    #[test]
    fn picks_the_least_loaded_for_its_weight() {
        let members = [member("a", 1), member("b", 2), member("c", 1)];
        for member in &members {
            member.state().try_begin(None);
        }
        let (policy, tried, mut rng) =
            (LeastConnections::new(&members, None), Tried::default(), rng());
        // b has one request for a weight of two: half the load of the others.
        for _ in 0..6 {
            assert_eq!(policy.next(&members, &ask(&tried), &|_| true, &mut rng), Some(1));
        }
    }

    #[test]
    fn equals_take_turns() {
        let members = [member("a", 1), member("b", 1), member("c", 1)];
        let (policy, tried, mut rng) =
            (LeastConnections::new(&members, None), Tried::default(), rng());
        let picks: Vec<_> = (0..6)
            .map(|_| policy.next(&members, &ask(&tried), &|_| true, &mut rng).unwrap())
            .collect();
        assert_eq!(picks, [0, 1, 2, 0, 1, 2]);
        policy.next(&members, &ask(&tried), &|_| true, &mut rng);
        let policy = LeastConnections::new(&members, Some(&policy));
        assert_eq!(policy.next(&members, &ask(&tried), &|_| true, &mut rng), Some(1));
    }

    #[test]
    fn one_that_comes_back_gets_little_when_nothing_is_in_flight() {
        let members = [member("a", 1), member("b", 1), member("new", 1)];
        members[2].state().set_came_back(Time::from_nanos(1));
        let (policy, tried, mut rng) =
            (LeastConnections::new(&members, None), Tried::default(), rng());
        let ask = Ask { slow_start: Duration::from_secs(100), ..ask(&tried) };
        let picks =
            (0..9_000).filter(|_| policy.next(&members, &ask, &|_| true, &mut rng) == Some(2));
        let picks = picks.count();
        assert!((200..500).contains(&picks), "{picks}");
    }
}
