//! The policies: given the members of a tier, which is next?
//!
//! A balancer is built for one tier of one view and is dropped with it, so what it computes up
//! front (a rotation, a table of cumulative weights, a ring) never goes stale. Every policy is asked
//! with the same two things: what the request asks for, and which members are allowed. A member may
//! be disallowed because it was tried, is full, or went out after the view was made, so each policy
//! has its own way to the next one, and none ever returns a disallowed member.

mod hash;
mod least_connections;
mod p2c;
mod random;
mod round_robin;

use super::{Member, Time, preview::Scoring, view::Ask};
use crate::model::{Balance, BalancePolicy};
use hash::Hashed;
pub use hash::{hash, hash_address};
use least_connections::LeastConnections;
use p2c::{Cost, TwoChoices};
use rand::{Rng, RngCore};
use random::Random;
use round_robin::RoundRobin;
use std::{sync::Arc, time::Duration};

/// How often a policy is asked again when what it proposes is disallowed, before every member is
/// looked at.
const ATTEMPTS: usize = 16;

/// Which members may be picked.
pub(super) type Allowed<'a> = &'a dyn Fn(&Member) -> bool;

/// Which members are picked from, as far as is known when a balancer is made, and when that is. Those of
/// the hashing policies have others beside them.
pub(super) struct Used<'a> {
    pub(super) which: Allowed<'a>,
    pub(super) slow_start: Duration,
    pub(super) now: Time,
    /// What one unit of weight is: all that the weights in the file have in common. It does not depend on
    /// who is there, or each who came or went could change the share of a ring that the others have.
    pub(super) unit: u32,
}

/// One policy over one set of members. The members are always the ones it was built for.
pub(super) enum Balancer {
    RoundRobin(RoundRobin),
    Random(Random),
    LeastConnections(LeastConnections),
    TwoChoices(TwoChoices),
    Hashed(Hashed),
}

impl Balancer {
    /// A balancer over `members`. What is costly to compute is taken over from the one `before`, with
    /// its members, if that had the same, and whose turn it is in any case.
    pub(super) fn new(
        balance: &Balance,
        members: &[Arc<Member>],
        used: &Used<'_>,
        before: Option<(&Self, &[Arc<Member>])>,
    ) -> Self {
        match balance.policy {
            BalancePolicy::RoundRobin => {
                let before = match before {
                    Some((Self::RoundRobin(before), had)) => Some((before, had)),
                    _ => None,
                };
                Self::RoundRobin(RoundRobin::new(members, before))
            }
            BalancePolicy::Random => Self::Random(Random::new(members)),
            BalancePolicy::LeastConnections => {
                let before = match before {
                    Some((Self::LeastConnections(before), _)) => Some(before),
                    _ => None,
                };
                Self::LeastConnections(LeastConnections::new(members, before))
            }
            BalancePolicy::P2c => Self::TwoChoices(TwoChoices::new(members, Cost::InFlight)),
            BalancePolicy::PeakEwma => Self::TwoChoices(TwoChoices::new(members, Cost::PeakEwma)),
            BalancePolicy::RingHash | BalancePolicy::Maglev => {
                let before = match before {
                    Some((Self::Hashed(before), _)) => Some(before),
                    _ => None,
                };
                Self::Hashed(Hashed::new(balance, members, used, before))
            }
        }
    }

    /// The index of the next member that is allowed; `None` if none is.
    pub(super) fn pick(
        &self,
        members: &[Arc<Member>],
        ask: &Ask<'_>,
        allowed: Allowed<'_>,
        rng: &mut dyn RngCore,
    ) -> Option<usize> {
        if members.is_empty() {
            return None;
        }
        match self {
            Self::RoundRobin(policy) => propose(members, ask, allowed, rng, |_| policy.next(ask)),
            Self::Random(policy) => propose(members, ask, allowed, rng, |rng| policy.next(rng)),
            Self::LeastConnections(policy) => policy.next(members, ask, allowed, rng),
            Self::TwoChoices(policy) => policy.next(members, ask, allowed, rng),
            Self::Hashed(policy) => policy.next(members, ask, allowed, rng),
        }
    }
}

impl Balancer {
    /// What the scores of the members say.
    pub(super) fn scoring(&self, ask: &Ask<'_>) -> Scoring {
        match self {
            Self::RoundRobin(_) | Self::Random(_) => Scoring::Share,
            Self::LeastConnections(_) => Scoring::Load,
            Self::TwoChoices(policy) => policy.scoring(),
            Self::Hashed(policy) => policy.scoring(ask),
        }
    }

    /// What the policy goes by with each of the members.
    pub(super) fn scores(&self, members: &[Arc<Member>], ask: &Ask<'_>) -> Vec<f64> {
        let each = |score: &dyn Fn(&Member) -> f64| members.iter().map(|it| score(it)).collect();
        match self {
            Self::RoundRobin(_) | Self::Random(_) => shares(members, ask),
            Self::LeastConnections(_) => each(&|it| least_connections::load(it, ask)),
            Self::TwoChoices(policy) => each(&|it| policy.score(it, ask)),
            Self::Hashed(policy) => policy.scores(members, ask),
        }
    }
}

/// The share of the picks of each member, where they go by weight.
fn shares(members: &[Arc<Member>], ask: &Ask<'_>) -> Vec<f64> {
    let part = |member: &Arc<Member>| f64::from(member.weight()) * ask.share(member);
    let all: f64 = members.iter().map(part).sum();
    members.iter().map(|member| part(member) / all).collect()
}

/// Takes the first proposal that is allowed. A member in its slow start accepts only its share of
/// what is proposed to it; if nobody accepts, anyone allowed must.
fn propose(
    members: &[Arc<Member>],
    ask: &Ask<'_>,
    allowed: Allowed<'_>,
    rng: &mut dyn RngCore,
    mut next: impl FnMut(&mut dyn RngCore) -> usize,
) -> Option<usize> {
    for _ in 0..ATTEMPTS {
        let index = next(rng);
        if allowed(&members[index]) && accepts(&members[index], ask, rng) {
            return Some(index);
        }
    }
    any_allowed(members, allowed, rng)
}

/// Whether a member takes what is proposed to it: always, or its share while it comes back.
fn accepts(member: &Member, ask: &Ask<'_>, rng: &mut dyn RngCore) -> bool {
    let share = ask.share(member);
    share >= 1.0 || rng.random_bool(share)
}

/// Some member that is allowed, searched from a random one on.
fn any_allowed(
    members: &[Arc<Member>],
    allowed: Allowed<'_>,
    rng: &mut dyn RngCore,
) -> Option<usize> {
    let start = rng.random_range(0..members.len());
    (start..members.len()).chain(0..start).find(|&index| allowed(&members[index]))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        model::Weight,
        pool::{MemberSpec, Tried},
    };
    use rand::{SeedableRng, rngs::SmallRng};
    use std::collections::HashMap;

    pub(in crate::pool) fn member(name: &str, weight: u64) -> Arc<Member> {
        numbered(name, weight, 0)
    }

    pub(in crate::pool) fn numbered(name: &str, weight: u64, order: usize) -> Arc<Member> {
        let weight = Weight::try_new(weight).unwrap();
        let spec = MemberSpec { name: name.to_owned(), weight, backup: false, probed: false };
        spec.build(order, Arc::default())
    }

    pub(in crate::pool) fn rng() -> SmallRng {
        SmallRng::seed_from_u64(7)
    }

    pub(in crate::pool) fn everyone() -> Used<'static> {
        Used { which: &|_| true, slow_start: Duration::ZERO, now: Time::ZERO, unit: 1 }
    }

    pub(in crate::pool) fn ask(tried: &Tried) -> Ask<'_> {
        Ask {
            now: Time::ZERO,
            key: None,
            tried,
            limit: None,
            slow_start: Duration::ZERO,
            in_flight: 0,
            kept: None,
            is_its_turn: true,
            look: None,
        }
    }

    pub(in crate::pool) fn balancer(policy: BalancePolicy, members: &[Arc<Member>]) -> Balancer {
        Balancer::new(&Balance::of(policy), members, &everyone(), None)
    }

    #[test]
    fn a_retry_never_returns_to_a_tried_backend() {
        let members: Vec<_> =
            (0..5).map(|i| numbered(&format!("m{i}"), 1 + i * i * 100, i as usize)).collect();
        for policy in BalancePolicy::ALL {
            for key in [None, Some(42)] {
                let balancer = balancer(policy, &members);
                let (mut tried, mut rng) = (Tried::default(), rng());
                for _ in 0..members.len() {
                    let allowed = |member: &Member| !tried.contains(member);
                    let ask = Ask { key, ..ask(&tried) };
                    let next = balancer.pick(&members, &ask, &allowed, &mut rng).unwrap();
                    assert!(!tried.contains(&members[next]), "{policy}");
                    tried.add(&members[next]);
                }
                let allowed = |member: &Member| !tried.contains(member);
                let nothing = balancer.pick(&members, &ask(&tried), &allowed, &mut rng);
                assert_eq!(nothing, None, "{policy}");
            }
        }
    }

    #[test]
    fn weights_are_met_over_ten_thousand_picks() {
        let weights = [5, 1, 3, 1, 10];
        let members: Vec<_> =
            weights.iter().enumerate().map(|(i, w)| numbered(&i.to_string(), *w, i)).collect();
        let tried = Tried::default();
        for policy in [BalancePolicy::RoundRobin, BalancePolicy::Random] {
            let balancer = balancer(policy, &members);
            let mut rng = rng();
            let mut picks: HashMap<usize, u64> = HashMap::new();
            for _ in 0..10_000 {
                let pick = balancer.pick(&members, &ask(&tried), &|_| true, &mut rng).unwrap();
                *picks.entry(pick).or_default() += 1;
            }
            for (i, weight) in weights.iter().enumerate() {
                let expected = 10_000 * weight / 20;
                assert!(picks[&i].abs_diff(expected) < 200, "{policy} {i}: {}", picks[&i]);
            }
        }
    }

    #[test]
    fn slow_start_gives_a_tenth_at_first_and_more_as_time_passes() {
        let members = [numbered("old", 1, 0), numbered("new", 1, 1)];
        members[1].state().set_came_back(Time::from_nanos(1));
        let tried = Tried::default();
        let slow_start = Duration::from_secs(100);
        for policy in [BalancePolicy::RoundRobin, BalancePolicy::Random] {
            let balancer = balancer(policy, &members);
            let mut rng = rng();
            let mut share = |seconds| {
                let now = Time::ZERO.after(Duration::from_secs(seconds));
                let ask = Ask { now, slow_start, ..ask(&tried) };
                let picks = (0..10_000)
                    .filter(|_| balancer.pick(&members, &ask, &|_| true, &mut rng) == Some(1));
                picks.count() as f64 / 10_000.0
            };
            // Of two, one counts for a tenth, later for 55 of a hundred, then in full.
            for (seconds, expected) in [(0, 0.1 / 1.1), (50, 0.55 / 1.55), (100, 0.5), (900, 0.5)] {
                let got = share(seconds);
                assert!((got - expected).abs() < 0.02, "{policy} {seconds}s: {got} for {expected}");
            }
        }
    }
}
