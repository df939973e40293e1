//! The policies: given usable members, which is next?
//!
//! A balancer is built for one tier of one view and is dropped with it, so what it computes up
//! front (a rotation, a table of cumulative weights) never goes stale.

mod least_connections;
mod random;
mod round_robin;

use super::{Member, Tried};
use crate::model::BalancePolicy;
use least_connections::LeastConnections;
use rand::RngCore;
use random::Random;
use round_robin::RoundRobin;
use std::sync::Arc;

/// One policy over one set of members. The members are always the ones it was built for.
pub(super) enum Balancer {
    RoundRobin(RoundRobin),
    Random(Random),
    LeastConnections(LeastConnections),
}

impl Balancer {
    pub(super) fn new(policy: BalancePolicy, members: &[Arc<Member>]) -> Self {
        match policy {
            BalancePolicy::RoundRobin => Self::RoundRobin(RoundRobin::new(members)),
            BalancePolicy::Random => Self::Random(Random::new(members)),
            BalancePolicy::LeastConnections => Self::LeastConnections(LeastConnections::default()),
        }
    }

    /// The next member; `None` only when there are none.
    pub(super) fn pick<'a>(
        &self,
        members: &'a [Arc<Member>],
        rng: &mut dyn RngCore,
    ) -> Option<&'a Arc<Member>> {
        let index = match self {
            Self::RoundRobin(policy) => policy.next(),
            Self::Random(policy) => policy.next(rng),
            Self::LeastConnections(policy) => policy.next(members, |_| true)?,
        };
        members.get(index)
    }

    /// The next member that is not in `tried`.
    pub(super) fn pick_untried<'a>(
        &self,
        members: &'a [Arc<Member>],
        tried: &Tried,
        rng: &mut dyn RngCore,
    ) -> Option<&'a Arc<Member>> {
        let untried = |member: &Member| !tried.contains(member);
        if let Self::LeastConnections(policy) = self {
            return members.get(policy.next(members, untried)?);
        }
        // A retry is rare and the tried are few, so asking the policy again mostly succeeds at once
        // and keeps its proportions; the search is for pools where almost everything was tried.
        let asked = (0..members.len())
            .find_map(|_| self.pick(members, rng).filter(|member| untried(member)));
        asked.or_else(|| members.iter().find(|member| untried(member)))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{BackendName, Weight};
    use http::HeaderValue;
    use rand::{SeedableRng, rngs::SmallRng};
    use std::collections::HashMap;

    pub(in crate::pool) fn member(name: &str, weight: u64) -> Arc<Member> {
        Arc::new(Member {
            order: 0,
            name: BackendName::try_new(name).unwrap(),
            name_value: HeaderValue::from_str(name).unwrap(),
            address: "127.0.0.1:1".parse().unwrap(),
            authority: HeaderValue::from_static("127.0.0.1:1"),
            weight: Weight::try_new(weight).unwrap(),
            backup: false,
            probed: false,
            state: Arc::default(),
        })
    }

    pub(in crate::pool) fn rng() -> SmallRng {
        SmallRng::seed_from_u64(7)
    }

    #[test]
    fn a_retry_never_returns_to_a_tried_backend() {
        let members: Vec<_> = (0..5).map(|i| member(&format!("m{i}"), 1 + i * i * 100)).collect();
        for policy in BalancePolicy::ALL {
            let balancer = Balancer::new(policy, &members);
            let (mut tried, mut rng) = (Tried::default(), rng());
            for _ in 0..members.len() {
                let next = balancer.pick_untried(&members, &tried, &mut rng).unwrap();
                assert!(!tried.contains(next), "{policy}");
                tried.add(next);
            }
            assert!(balancer.pick_untried(&members, &tried, &mut rng).is_none(), "{policy}");
        }
    }

    #[test]
    fn weights_are_met_over_ten_thousand_picks() {
        let weights = [5, 1, 3, 1, 10];
        let members: Vec<_> =
            weights.iter().enumerate().map(|(i, w)| member(&i.to_string(), *w)).collect();
        for policy in [BalancePolicy::RoundRobin, BalancePolicy::Random] {
            let balancer = Balancer::new(policy, &members);
            let mut rng = rng();
            let mut picks: HashMap<String, u64> = HashMap::new();
            for _ in 0..10_000 {
                let name = balancer.pick(&members, &mut rng).unwrap().name().to_string();
                *picks.entry(name).or_default() += 1;
            }
            for (i, weight) in weights.iter().enumerate() {
                let expected = 10_000 * weight / 20;
                let got = picks[&i.to_string()];
                assert!(got.abs_diff(expected) < 200, "{policy} {i}: {got} for {expected}");
            }
        }
    }
}
