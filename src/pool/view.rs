//! The backends of a pool as they are at one moment, ready to be picked from.

use super::{
    Member, Time, Tried,
    balance::{Allowed, Balancer, Used},
    core::Kept,
    preview::{Prospect, Scoring},
};
use crate::model::{self, BackendState as Admission, Percent};
use rand::RngCore;
use std::{cell::Cell, collections::HashMap, sync::Arc, time::Duration};

/// What a request asks of a pick.
pub(super) struct Ask<'a> {
    pub(super) now: Time,
    /// What the hashing policies go by.
    pub(super) key: Option<u64>,
    /// What must not be picked again.
    pub(super) tried: &'a Tried,
    /// The most requests in flight on one backend.
    pub(super) limit: Option<usize>,
    pub(super) slow_start: Duration,
    /// Requests in flight on the whole pool.
    pub(super) in_flight: usize,
    /// The backend that the client stays with.
    pub(super) kept: Option<Kept<'a>>,
    /// Whether nobody in the line is before it.
    pub(super) is_its_turn: bool,
    /// For a pick that only looks, and so takes no turn: how many turns it has looked at.
    pub(super) look: Option<&'a Cell<usize>>,
}

impl Ask<'_> {
    /// How much of its weight a member counts for.
    pub(super) fn share(&self, member: &Member) -> f64 {
        member.share(self.slow_start, self.now)
    }

    /// For a pick that only looks: how many turns ahead of the next one it looks now.
    pub(super) fn looks_ahead(&self) -> Option<usize> {
        self.look.map(|looked| looked.replace(looked.get() + 1))
    }

    fn is_full(&self, member: &Member) -> bool {
        member.state().is_full(self.limit)
    }
}

/// What a pick found.
#[derive(Debug)]
pub(super) enum Found {
    /// The one that the client stays with.
    Kept(Arc<Member>),
    /// The one that the policy says.
    Member(Arc<Member>),
    /// There are usable backends, but each has as many requests as it may.
    Busy,
    /// There is no usable backend that was not tried.
    Nothing,
}

/// An immutable picture of a pool: its members, and those to pick from by tier.
pub(super) struct View {
    members: Arc<[Arc<Member>]>,
    /// The primaries, then the backups: a tier is used when those before it have nothing left.
    tiers: [Tier; 2],
    /// Who was ejected when this view was made, and until when.
    ejected: Box<[(usize, Time)]>,
}

/// The members of one tier with a share of the traffic.
pub(super) struct Tier {
    pub(super) members: Box<[Arc<Member>]>,
    balancer: Balancer,
    /// Whether so few of the tier are usable that all are used.
    panic: bool,
    usable: usize,
}

impl View {
    pub(super) fn new(
        spec: &model::Pool,
        members: Vec<Arc<Member>>,
        now: Time,
        before: Option<&Self>,
    ) -> Self {
        let tier = |backup: bool| {
            let before = before.map(|view| &view.tiers[usize::from(backup)]);
            Tier::new(spec, &members, backup, now, before)
        };
        let mut tiers = [tier(false), tier(true)];
        choose_panic(&mut tiers, spec, &members, now);
        let ejected = ejections(&members, now).collect();
        Self { members: members.into(), tiers, ejected }
    }

    pub(super) fn members(&self) -> &Arc<[Arc<Member>]> {
        &self.members
    }

    /// When the first of the ejections that this view knows of ends.
    pub(super) fn valid_until(&self) -> Time {
        self.ejected.iter().map(|(_, until)| *until).min().unwrap_or(Time::NEVER)
    }

    /// Whether no ejection has begun or ended since this view was made.
    pub(super) fn knows_ejections(&self, now: Time) -> bool {
        ejections(&self.members, now).eq(self.ejected.iter().copied())
    }

    /// Whether there is anything to pick.
    pub(super) fn is_usable(&self) -> bool {
        self.tiers.iter().any(|tier| tier.usable > 0 || tier.panic)
    }

    pub(super) fn has_untried(&self, tried: &Tried, now: Time) -> bool {
        let untried = |tier: &Tier| {
            tier.members.iter().any(|member| !tried.contains(member) && tier.uses(member, now))
        };
        self.tiers.iter().any(untried)
    }

    /// What a pick comes to; whoever picks still has to take the place. With `look` nothing is changed.
    pub(super) fn pick(&self, ask: &Ask<'_>, rng: &mut dyn RngCore) -> Found {
        if let Some(member) = self.kept(ask) {
            return Found::Kept(member.clone());
        }
        if !ask.is_its_turn {
            return Found::Busy;
        }
        for tier in &self.tiers {
            match tier.pick(ask, rng) {
                Found::Nothing => {}
                // A tier that is only busy is waited for; the backups are for when it is gone.
                found => return found,
            }
        }
        Found::Nothing
    }

    /// The backend that the client stays with, if it still keeps its clients and has room. One that takes
    /// no others may be had out of turn: nobody in the line waits for it.
    fn kept(&self, ask: &Ask<'_>) -> Option<&Arc<Member>> {
        let is_it = ask.kept?;
        let member = self.members.iter().find(|member| is_it(member))?;
        let overtakes = !ask.is_its_turn && member.takes_new_clients();
        let may = !overtakes && member.keeps_clients(ask.now) && !ask.is_full(member);
        may.then_some(member)
    }

    /// Each member before a pick, what their scores say, and whether a tier is used in panic.
    pub(super) fn prospects(&self, ask: &Ask<'_>) -> (Vec<Prospect>, Scoring, bool) {
        let mut scores: HashMap<usize, f64> = HashMap::new();
        for tier in &self.tiers {
            let all = tier.members.iter().zip(tier.balancer.scores(&tier.members, ask));
            let used = all.filter(|(member, _)| tier.uses(member, ask.now));
            scores.extend(used.map(|(member, score)| (member.id(), score)));
        }
        let prospect = |member: &Arc<Member>| Prospect {
            member: member.clone(),
            usable: member.is_usable(ask.now),
            full: ask.is_full(member),
            score: scores.get(&member.id()).copied(),
        };
        let prospects = self.members.iter().map(prospect).collect();
        let scoring = self.tiers[0].balancer.scoring(ask);
        (prospects, scoring, self.tiers.iter().any(|tier| tier.panic))
    }
}

fn ejections(members: &[Arc<Member>], now: Time) -> impl Iterator<Item = (usize, Time)> {
    members.iter().filter_map(move |it| Some((it.id(), it.state().ejected_until(now)?)))
}

/// Panic looks at the chosen tier: the first with a usable backend, or the primaries if none has.
fn choose_panic(tiers: &mut [Tier; 2], spec: &model::Pool, members: &[Arc<Member>], now: Time) {
    let backup = tiers[0].usable == 0 && tiers[1].usable > 0;
    let chosen = &mut tiers[usize::from(backup)];
    let all = active(members, backup).count();
    if is_panic(chosen.usable, all, spec.panic_threshold) {
        *chosen = Tier::in_panic(spec, members, backup, now, chosen);
    }
}

fn is_panic(usable: usize, all: usize, threshold: Percent) -> bool {
    // The small addition keeps 28% of 25 at 7 in binary fractions.
    all > 0 && usable as f64 + 1e-9 < all as f64 * threshold.fraction()
}

/// The members of a tier that take requests and have a share of them.
fn active(members: &[Arc<Member>], backup: bool) -> impl Iterator<Item = &Arc<Member>> {
    members.iter().filter(move |member| member.is_backup() == backup && member.takes_new_clients())
}

fn used<'a>(spec: &model::Pool, which: Allowed<'a>, now: Time) -> Used<'a> {
    let weights = spec.backends.iter().map(|backend| backend.weight.get());
    let unit = weights.fold(0, model::common_divisor).max(1);
    Used { which, slow_start: spec.slow_start, now, unit }
}

impl Tier {
    fn new(
        spec: &model::Pool,
        members: &[Arc<Member>],
        backup: bool,
        now: Time,
        before: Option<&Self>,
    ) -> Self {
        let is_usable = |member: &Member| member.is_usable(now);
        let usable = |member: &&Arc<Member>| is_usable(member);
        let count = active(members, backup).filter(usable).count();
        // The hashing policies keep those that are out in their tables: a key whose backend is out
        // goes to the next, and every other key stays where it is.
        let members: Box<[_]> = if spec.balance.policy.is_hashing() {
            active(members, backup).cloned().collect()
        } else {
            active(members, backup).filter(usable).cloned().collect()
        };
        let used = used(spec, &is_usable, now);
        let before = before.map(|tier| (&tier.balancer, &*tier.members));
        let balancer = Balancer::new(&spec.balance, &members, &used, before);
        Self { members, balancer, panic: false, usable: count }
    }

    /// The same tier with all of its members in use; what is costly to compute is taken over from
    /// `calm`.
    fn in_panic(
        spec: &model::Pool,
        members: &[Arc<Member>],
        backup: bool,
        now: Time,
        calm: &Self,
    ) -> Self {
        let all: Box<[_]> = active(members, backup).cloned().collect();
        let used = used(spec, &|_| true, now);
        let balancer =
            Balancer::new(&spec.balance, &all, &used, Some((&calm.balancer, &calm.members)));
        Self { members: all, balancer, panic: true, usable: calm.usable }
    }

    /// Whether the tier uses `member` at `now`. The view may be older than what is known of it.
    fn uses(&self, member: &Member, now: Time) -> bool {
        let active = member.admission() == Admission::Active;
        active && (self.panic || member.works(now))
    }

    fn pick(&self, ask: &Ask<'_>, rng: &mut dyn RngCore) -> Found {
        let may = |member: &Member| self.uses(member, ask.now) && !ask.tried.contains(member);
        let allowed = |member: &Member| may(member) && !ask.is_full(member);
        // One that comes back from an ejection is sent a single request before the rest: one that
        // hangs would otherwise hold all of its share until it times out. Where there is no other,
        // it is better than nothing.
        let trusted =
            |member: &Member| allowed(member) && (self.panic || !member.is_being_probed());
        let mut pick = |fits: Allowed<'_>| self.balancer.pick(&self.members, ask, fits, rng);
        if let Some(index) = pick(&trusted).or_else(|| pick(&allowed)) {
            return Found::Member(self.members[index].clone());
        }
        let busy = ask.limit.is_some() && self.members.iter().any(|member| may(member));
        if busy { Found::Busy } else { Found::Nothing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_share_is_no_panic_whatever_binary_fractions_make_of_it() {
        for (usable, all, percent) in [(7, 25, 28.0), (7, 100, 7.0), (55, 100, 55.0), (1, 2, 50.0)]
        {
            let threshold = Percent::try_new(percent).unwrap();
            assert!(!is_panic(usable, all, threshold), "{usable} of {all}");
            assert!(is_panic(usable - 1, all, threshold), "{usable} of {all}, less one");
        }
    }
}
