//! The power of two choices: of two members chosen at random, the better one.
//!
//! Two are enough to avoid the worst (Mitzenmacher, 1996), cost the same whatever the size of the
//! pool, and unlike a search for the very best do not send everybody to the same member while the
//! news of its load is under way.

use super::{ATTEMPTS, Allowed, Ask, Member, Scoring, accepts, any_allowed, random::Random};
use rand::RngCore;
use std::sync::Arc;

/// By what the better of two is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// Requests in flight for its weight.
    InFlight,
    /// The moving average of the time to first byte, times the requests in flight and the new one,
    /// for its weight.
    PeakEwma,
}

/// Chooses two members by weight and takes the one of lower cost. Which of equals is first is up to
/// chance, so equals take turns.
pub(in crate::pool) struct TwoChoices {
    random: Random,
    cost: Cost,
}

impl TwoChoices {
    pub(super) fn new(members: &[Arc<Member>], cost: Cost) -> Self {
        Self { random: Random::new(members), cost }
    }

    pub(super) fn next(
        &self,
        members: &[Arc<Member>],
        ask: &Ask<'_>,
        allowed: Allowed<'_>,
        rng: &mut dyn RngCore,
    ) -> Option<usize> {
        let first = self.allowed(members, ask, allowed, rng, None)?;
        let Some(second) = self.allowed(members, ask, allowed, rng, Some(first)) else {
            return Some(first);
        };
        let cost = |index: usize| self.cost(&members[index], ask);
        if cost(second) < cost(first) { Some(second) } else { Some(first) }
    }

    /// A member by weight that is allowed and not `other`. One that comes back is drawn by its share:
    /// where nothing is in flight, cost alone does not tell it from the rest.
    fn allowed(
        &self,
        members: &[Arc<Member>],
        ask: &Ask<'_>,
        allowed: Allowed<'_>,
        rng: &mut dyn RngCore,
        other: Option<usize>,
    ) -> Option<usize> {
        if other.is_some() && members.len() < 2 {
            return None;
        }
        let fits = |index: usize| Some(index) != other && allowed(&members[index]);
        let drawn = (0..ATTEMPTS).find_map(|_| {
            let index = self.random.next(rng);
            (fits(index) && accepts(&members[index], ask, rng)).then_some(index)
        });
        // A second choice is worth a few draws, not a search; a first one must be found.
        if drawn.is_none() && other.is_none() { any_allowed(members, allowed, rng) } else { drawn }
    }

    /// What the scores say.
    pub(super) fn scoring(&self) -> Scoring {
        match self.cost {
            Cost::InFlight => Scoring::LoadOfTwo,
            Cost::PeakEwma => Scoring::WaitOfTwo,
        }
    }

    /// What is compared, in the unit that is shown.
    pub(super) fn score(&self, member: &Member, ask: &Ask<'_>) -> f64 {
        let nanos_per_milli = 1_000_000.0;
        match self.cost {
            Cost::InFlight => self.cost(member, ask),
            Cost::PeakEwma => self.cost(member, ask) / nanos_per_milli,
        }
    }

    fn cost(&self, member: &Member, ask: &Ask<'_>) -> f64 {
        let weight = f64::from(member.weight()) * ask.share(member);
        let in_flight = member.state().in_flight() as f64;
        match self.cost {
            Cost::InFlight => in_flight / weight,
            Cost::PeakEwma => member.state().wait(in_flight, ask.now) / weight,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{
        Time, Tried,
        balance::tests::{ask, numbered, rng},
    };
    use std::time::Duration;

    fn members(count: usize) -> Vec<Arc<Member>> {
        (0..count).map(|i| numbered(&i.to_string(), 1, i)).collect()
    }

    #[test]
    fn of_two_the_less_loaded_is_taken() {
        let members = members(2);
        members[0].state().try_begin(None);
        let (policy, tried, mut rng) =
            (TwoChoices::new(&members, Cost::InFlight), Tried::default(), rng());
        for _ in 0..100 {
            assert_eq!(policy.next(&members, &ask(&tried), &|_| true, &mut rng), Some(1));
        }
    }

    #[test]
    fn equals_take_turns() {
        let members = members(4);
        let (tried, mut rng) = (Tried::default(), rng());
        for cost in [Cost::InFlight, Cost::PeakEwma] {
            let policy = TwoChoices::new(&members, cost);
            let mut picks = [0; 4];
            for _ in 0..4000 {
                picks[policy.next(&members, &ask(&tried), &|_| true, &mut rng).unwrap()] += 1;
            }
            assert!(picks.iter().all(|count| (800..1200).contains(count)), "{picks:?}");
        }
    }

    #[test]
    fn one_that_comes_back_is_chosen_by_its_share_when_nothing_is_in_flight() {
        let members = members(2);
        members[1].state().set_came_back(Time::from_nanos(1));
        let (tried, mut rng) = (Tried::default(), rng());
        let policy = TwoChoices::new(&members, Cost::InFlight);
        let ask = Ask { slow_start: Duration::from_secs(100), ..ask(&tried) };
        let picks =
            (0..10_000).filter(|_| policy.next(&members, &ask, &|_| true, &mut rng) == Some(1));
        let picks = picks.count();
        assert!((700..1200).contains(&picks), "{picks}");
    }

    #[test]
    fn the_slow_one_is_avoided_by_peak_ewma() {
        let members = members(2);
        members[0].state().observe_speed(Duration::from_millis(300), Time::ZERO);
        let (policy, tried, mut rng) =
            (TwoChoices::new(&members, Cost::PeakEwma), Tried::default(), rng());
        for _ in 0..100 {
            assert_eq!(policy.next(&members, &ask(&tried), &|_| true, &mut rng), Some(1));
        }
    }
}
