//! What a pool would do with a request, found by the code that does it and without doing it.
//!
//! Nothing is counted: no lease is given, no turn is taken, no retry is paid for. Where chance decides,
//! what is shown is what chance came to this time.

use super::{Core, Kept, Member, Pool, Time, Tried, Wanted, view::Found};
use rand::RngCore;
use std::{cell::Cell, sync::Arc};

/// What would become of a request.
#[derive(Debug)]
pub struct Preview {
    /// Each member, in file order.
    pub members: Vec<Prospect>,
    /// What the scores say, and which is better.
    pub scoring: Scoring,
    /// Why the first backend is the one it is, or why there is none.
    pub choice: Choice,
    /// The backends in the order in which tries would go to them: as many as there may be, if each
    /// fails in a way that allows for another.
    pub order: Vec<Arc<Member>>,
    /// Whether so few backends are usable that all are used.
    pub panic: bool,
    /// Whether a retry could be paid for.
    pub budget_left: bool,
    /// Requests that wait in the pool's queue.
    pub queued: usize,
}

/// How a first pick comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The client stays with the backend.
    Kept,
    /// The policy says so.
    Picked,
    /// Every usable backend has as much as it may.
    Busy,
    /// No backend is usable.
    Nothing,
}

/// A member before a pick.
#[derive(Debug)]
pub struct Prospect {
    /// Which.
    pub member: Arc<Member>,
    /// Whether new requests may go to it, by its state and health.
    pub usable: bool,
    /// Whether it has as much as it may.
    pub full: bool,
    /// What the policy goes by; `None` where it does not consider the member.
    pub score: Option<f64>,
}

/// What a score says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// The share of the picks, from 0 to 1.
    Share,
    /// Requests in flight for each unit of weight; the least wins.
    Load,
    /// As `Load`, but of two that chance proposes.
    LoadOfTwo,
    /// Milliseconds that a request is likely to wait, for each unit of weight; the least of two that
    /// chance proposes wins.
    WaitOfTwo,
    /// The place in the order that the key gives; the first that may be picked wins.
    Order,
}

impl Core {
    /// What would become of a request that wants this. `kept` tells the backend that its client stays
    /// with.
    pub fn preview(
        &self,
        key: Option<u64>,
        kept: Option<Kept<'_>>,
        now: Time,
        rng: &mut dyn RngCore,
    ) -> Preview {
        let (turns, mut tried) = (Cell::new(0), Tried::default());
        let mut order: Vec<Arc<Member>> = Vec::new();
        let mut first = None;
        while order.len() <= self.spec().retry.attempts as usize {
            // Only the first try goes to the backend that the client stays with.
            let kept = kept.filter(|_| order.is_empty());
            let wanted = Wanted { key, kept, tried: &tried, place: None };
            let (choice, member) = match self.look(&wanted, now, rng, &turns) {
                Found::Kept(member) => (Choice::Kept, Some(member)),
                Found::Member(member) => (Choice::Picked, Some(member)),
                Found::Busy => (Choice::Busy, None),
                Found::Nothing => (Choice::Nothing, None),
            };
            first.get_or_insert(choice);
            let Some(member) = member else { break };
            tried.add(&member);
            order.push(member);
        }
        let choice = first.unwrap_or(Choice::Nothing);
        let (members, scoring, panic) = self.prospects(key, now);
        let budget_left = self.can_retry(now);
        Preview { members, scoring, choice, order, panic, budget_left, queued: self.queued() }
    }
}

impl Pool {
    /// What would become of a request at this moment; see [`Core::preview`].
    pub fn preview(&self, key: Option<u64>, kept: Option<Kept<'_>>) -> Preview {
        self.core().preview(key, kept, self.now(), &mut rand::rng())
    }

    /// Takes every backend that waits for its first check for one that answers it.
    pub fn assume_healthy(&self) {
        for member in self.members().iter() {
            self.core().observe_probe(member, true, self.now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        filter::Registry,
        model::{BackendName, BackendState as Admission, BalancePolicy, Weight},
        pool::{Lease, MemberSpec},
    };
    use rand::{SeedableRng, rngs::SmallRng};
    use std::path::Path;

    /// A pool of backends `a` to `d` with a policy, all usable. `d` is a backup.
    fn core(policy: BalancePolicy, keys: &str) -> Core {
        let text = format!(
            "listeners: {{ web: {{ address: 0.0.0.0:80 }} }}\n\
             pools: {{ app: {{ backends: [a:1], health_check: off, balance: {policy}, {keys} }} }}"
        );
        let checked =
            config::parse(&text, "lb.yaml", Path::new("/"), &|_| None, &Registry::default());
        let core = Core::new(checked.unwrap().config.pools.remove(0));
        let member = |(order, (name, weight)): (usize, (&str, u64))| {
            let weight = Weight::try_new(weight).unwrap();
            let spec =
                MemberSpec { name: name.to_owned(), weight, backup: order == 3, probed: false };
            spec.build(order, Arc::default())
        };
        let members = [("a", 3), ("b", 2), ("c", 1), ("d", 1)].into_iter().enumerate();
        core.set_members(members.map(member).collect(), Time::ZERO);
        core
    }

    fn rng() -> SmallRng {
        SmallRng::seed_from_u64(7)
    }

    fn lease(core: &Core, key: Option<u64>) -> Lease {
        let wanted = Wanted { key, kept: None, tried: &Tried::default(), place: None };
        match core.pick(&wanted, Time::ZERO, &mut rng()) {
            crate::pool::Picked::Lease(lease) => lease,
            other => panic!("{other:?}"),
        }
    }

    fn names(preview: &Preview) -> Vec<&str> {
        preview.order.iter().map(|member| member.name().as_str()).collect()
    }

    #[test]
    fn what_is_shown_is_what_is_picked_and_nothing_is_changed_by_looking() {
        for policy in BalancePolicy::ALL {
            let core = core(policy, "retry: { attempts: 0 }");
            let mut held = Vec::new();
            for key in 0..50_u64 {
                let key = policy.is_hashing().then_some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let look = || core.preview(key, None, Time::ZERO, &mut rng());
                let (seen, again) = (look(), look());
                assert_eq!(names(&seen), names(&again), "{policy}");
                assert_eq!(core.in_flight(), held.len(), "{policy}");
                let lease = lease(&core, key);
                assert_eq!(names(&seen), [lease.name().as_str()], "{policy}");
                held.push(lease);
            }
        }
    }

    #[test]
    fn tries_go_to_all_and_to_the_backup_last() {
        for policy in BalancePolicy::ALL {
            let core = core(policy, "retry: { attempts: 9 }");
            let preview = core.preview(Some(1), None, Time::ZERO, &mut rng());
            let mut order = names(&preview);
            assert_eq!(order.pop(), Some("d"), "{policy}");
            order.sort_unstable();
            assert_eq!(order, ["a", "b", "c"], "{policy}");
        }
    }

    #[test]
    fn the_one_that_the_client_stays_with_comes_first() {
        let core = core(BalancePolicy::RoundRobin, "retry: { attempts: 1 }");
        let is_d: Kept<'_> = &|member| member.name().as_str() == "d";
        let preview = core.preview(None, Some(is_d), Time::ZERO, &mut rng());
        assert_eq!((preview.choice, names(&preview)), (Choice::Kept, vec!["d", "a"]));
    }

    #[test]
    fn nobody_is_shown_a_way_past_the_line() {
        let limits = "limits: { connections_per_backend: 9, queue: 9 }, retry: { attempts: 0 }";
        let core = core(BalancePolicy::RoundRobin, limits);
        let _place = core.enqueue().unwrap();
        let is_d: Kept<'_> = &|member| member.name().as_str() == "d";
        let look = |kept| core.preview(None, kept, Time::ZERO, &mut rng());
        assert_eq!((look(None).choice, names(&look(None)).len()), (Choice::Busy, 0));
        assert_eq!(look(Some(is_d)).choice, Choice::Busy);
        // Nobody in the line waits for one that takes no others.
        let name = BackendName::try_new("d").unwrap();
        assert!(core.set_admission(&name, Admission::Draining, Time::ZERO));
        let preview = look(Some(is_d));
        assert_eq!((preview.choice, names(&preview)), (Choice::Kept, vec!["d"]));
    }

    #[test]
    fn without_a_backend_it_says_why() {
        let core = core(BalancePolicy::RoundRobin, "limits: { connections_per_backend: 1 }");
        let held: Vec<_> = (0..3).map(|_| lease(&core, None)).collect();
        let look = || core.preview(None, None, Time::ZERO, &mut rng());
        assert_eq!((look().choice, names(&look()).len()), (Choice::Busy, 0));
        assert!(look().members[..3].iter().all(|prospect| prospect.full));
        drop(held);
        for name in ["a", "b", "c", "d"] {
            let name = BackendName::try_new(name).unwrap();
            assert!(core.set_admission(&name, Admission::Disabled, Time::ZERO));
        }
        assert_eq!(look().choice, Choice::Nothing);
        assert!(look().members.iter().all(|prospect| !prospect.usable && prospect.score.is_none()));
    }

    #[test]
    fn scores_are_what_the_policies_go_by() {
        let scores = |policy, key| {
            let core = core(policy, "retry: { attempts: 0 }");
            let held = lease(&core, key);
            let preview = core.preview(key, None, Time::ZERO, &mut rng());
            let scores: Vec<_> = preview.members.iter().map(|it| it.score.unwrap()).collect();
            (preview.scoring, scores, held.order())
        };
        let (scoring, shares, _) = scores(BalancePolicy::RoundRobin, None);
        assert_eq!(scoring, Scoring::Share);
        assert_eq!(shares[..3], [0.5, 1.0 / 3.0, 1.0 / 6.0]);
        let (scoring, loads, on) = scores(BalancePolicy::LeastConnections, None);
        assert_eq!((scoring, loads[on] > 0.0), (Scoring::Load, true));
        assert_eq!(loads.iter().filter(|load| **load == 0.0).count(), 3);
        for policy in [BalancePolicy::RingHash, BalancePolicy::Maglev] {
            let (scoring, mut places, on) = scores(policy, Some(99));
            assert_eq!((scoring, places[on]), (Scoring::Order, 1.0), "{policy}");
            places[..3].sort_by(f64::total_cmp);
            assert_eq!(places, [1.0, 2.0, 3.0, 1.0], "{policy}");
        }
        assert_eq!(scores(BalancePolicy::RingHash, None).0, Scoring::LoadOfTwo);
        assert_eq!(scores(BalancePolicy::PeakEwma, None).0, Scoring::WaitOfTwo);
    }
}
