//! The backends of a pool as they are at one moment, ready to be picked from.

use super::{Member, Tried, balance::Balancer};
use crate::model::BalancePolicy;
use rand::RngCore;
use std::sync::Arc;

/// An immutable picture of a pool: its members, and the usable ones by tier.
pub(super) struct View {
    members: Arc<[Arc<Member>]>,
    /// The primaries, then the backups: a tier is used when those before it have nothing left.
    tiers: [Tier; 2],
}

/// The usable members of one tier with a share of the traffic.
struct Tier {
    members: Box<[Arc<Member>]>,
    balancer: Balancer,
}

impl View {
    pub(super) fn new(policy: BalancePolicy, members: Vec<Arc<Member>>) -> Self {
        let tier = |backup: bool| {
            let usable = |member: &&Arc<Member>| {
                member.is_backup() == backup && member.weight().get() > 0 && member.is_usable()
            };
            Tier::new(policy, members.iter().filter(usable).cloned().collect())
        };
        let tiers = [tier(false), tier(true)];
        Self { members: members.into(), tiers }
    }

    pub(super) fn members(&self) -> &Arc<[Arc<Member>]> {
        &self.members
    }

    pub(super) fn is_usable(&self) -> bool {
        self.tiers.iter().any(|tier| !tier.members.is_empty())
    }

    pub(super) fn has_untried(&self, tried: &Tried) -> bool {
        let untried = |member: &Arc<Member>| !tried.contains(member);
        self.tiers.iter().any(|tier| tier.members.iter().any(untried))
    }

    pub(super) fn pick(&self, tried: &Tried, rng: &mut dyn RngCore) -> Option<Arc<Member>> {
        self.tiers.iter().find_map(|tier| tier.pick(tried, rng)).cloned()
    }
}

impl Tier {
    fn new(policy: BalancePolicy, members: Box<[Arc<Member>]>) -> Self {
        let balancer = Balancer::new(policy, &members);
        Self { members, balancer }
    }

    fn pick(&self, tried: &Tried, rng: &mut dyn RngCore) -> Option<&Arc<Member>> {
        if self.members.is_empty() {
            return None;
        }
        if tried.is_empty() {
            return self.balancer.pick(&self.members, rng);
        }
        self.balancer.pick_untried(&self.members, tried, rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::balance::tests::{member, rng};

    #[test]
    fn backups_serve_only_when_no_primary_is_left() {
        let mut spare = member("spare", 1);
        Arc::get_mut(&mut spare).unwrap().backup = true;
        let primary = member("primary", 1);
        let view = View::new(BalancePolicy::RoundRobin, vec![primary.clone(), spare.clone()]);
        let mut tried = Tried::default();
        for _ in 0..10 {
            assert_eq!(view.pick(&tried, &mut rng()).unwrap().name(), primary.name());
        }
        tried.add(&primary);
        assert_eq!(view.pick(&tried, &mut rng()).unwrap().name(), spare.name());
        tried.add(&spare);
        assert!(view.pick(&tried, &mut rng()).is_none());
        assert!(!view.has_untried(&tried));
    }

    #[test]
    fn weight_zero_gets_nothing() {
        let view = View::new(BalancePolicy::Random, vec![member("idle", 0)]);
        assert!(!view.is_usable());
        assert!(view.pick(&Tried::default(), &mut rng()).is_none());
    }
}
