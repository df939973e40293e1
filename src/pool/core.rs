//! The core of a pool: every decision, and no clock, socket or task.
//!
//! What a pool does with a request is decided here: which backend gets it, whether it may be tried
//! again, whether it waits; and so is what its end means for the backend. Time and randomness are
//! arguments. [`Pool`](super::Pool) runs this code in production, the simulator in `sim/` runs the
//! same, and the two are compared.

use super::{
    BackendState, Lease, Member, PoolTraffic, Time, Tried,
    budget::RetryBudget,
    ejection::most_ejected,
    events::{Event, Happening},
    ewma,
    health::Change,
    lease::Ledger,
    preview::{Prospect, Scoring},
    queue::{Place, Queue},
    view::{Ask, Found, View},
};
use crate::model::{self, BackendName, BackendState as Admission, Weight};
use arc_swap::ArcSwap;
use rand::RngCore;
use std::{
    cell::Cell,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

/// How a request ended on a backend, as far as that says something of the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, and the answer is no failure of its own.
    Success {
        /// From the try's beginning to the first byte of the answer.
        first_byte: Duration,
    },
    /// It answered 5xx, broke off, timed out or refused.
    Failure {
        /// From the try's beginning to the failure.
        took: Duration,
    },
    /// The client went away, was too slow, or the fault was ours.
    Unknown,
}

/// What a pick came to.
#[derive(Debug)]
pub enum Picked {
    /// A backend, on which the request counts until the lease is dropped.
    Lease(Lease),
    /// Every usable backend has as many requests as it may.
    Busy,
    /// No usable backend is left that was not tried.
    Nothing,
}

/// Tells the backend that a client stays with from the others.
pub type Kept<'a> = &'a (dyn Fn(&Member) -> bool + Send + Sync);

/// What a request asks of a pick.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// What the hashing policies go by; `None` if the request does not have it.
    pub key: Option<u64>,
    /// The backend that the client stays with, if it does: it is picked before any other, as long as it
    /// keeps its clients and has room.
    pub kept: Option<Kept<'a>>,
    /// The backends that were tried.
    pub tried: &'a Tried,
    /// The request's place in the queue, if it has one. Without one it does not overtake those who
    /// have, and with one not those who are before it.
    pub place: Option<&'a Place>,
}

/// A pool's state and its decisions.
pub struct Core {
    spec: model::Pool,
    view: ArcSwap<View>,
    /// Serializes rebuilds of the view, so that a late one cannot put back what an earlier one saw.
    rebuilding: Mutex<()>,
    /// Serializes ejections, so that two at a time cannot exceed the share together.
    ejecting: Mutex<()>,
    shared: Arc<Shared>,
    /// How many views were made, each in a time that grows with the members.
    #[cfg(test)]
    pub(super) views: std::sync::atomic::AtomicUsize,
}

/// What outlives a configuration of the pool: a request waits or counts in the same place, whichever
/// configuration it came in with.
#[derive(Debug)]
pub(super) struct Shared {
    ledger: Arc<Ledger>,
    /// Locked for O(1) work once a request and once a retry.
    budget: Mutex<RetryBudget>,
    /// Whether the pool had a usable backend when that was last reported.
    was_usable: AtomicBool,
}

impl Shared {
    pub(super) fn new(spec: &model::Pool) -> Self {
        Self {
            ledger: Arc::new(Ledger::new(Queue::new(spec.limits.queue))),
            budget: Mutex::new(RetryBudget::new(spec.retry.budget)),
            was_usable: AtomicBool::new(true),
        }
    }

    /// Whether a request or a connection still counts here, though its pool may be gone.
    pub(super) fn is_used(&self) -> bool {
        Arc::strong_count(&self.ledger) > 1
    }

    /// Goes by what another configuration says from now on.
    pub(super) fn adapt(&self, spec: &model::Pool) {
        self.ledger.queue.set_capacity(spec.limits.queue);
        locked(&self.budget).set_policy(spec.retry.budget);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    /// A pool as configured, with no members yet.
    pub fn new(spec: model::Pool) -> Self {
        let shared = Arc::new(Shared::new(&spec));
        Self::with(spec, shared)
    }

    /// The same with what an earlier configuration of the pool has left.
    pub(super) fn with(spec: model::Pool, shared: Arc<Shared>) -> Self {
        let view = View::new(&spec, Vec::new(), Time::ZERO, None);
        Self {
            view: ArcSwap::from_pointee(view),
            rebuilding: Mutex::default(),
            ejecting: Mutex::default(),
            shared,
            spec,
            #[cfg(test)]
            views: std::sync::atomic::AtomicUsize::default(),
        }
    }

    /// Has what is shared with an earlier configuration go by this one, and those who wait look who
    /// is in force.
    pub(super) fn adapt_shared(&self) {
        self.shared.adapt(&self.spec);
        self.shared.ledger.queue.call_all();
    }

    /// What the configuration says of the pool.
    pub fn spec(&self) -> &model::Pool {
        &self.spec
    }

    /// The members, usable or not, in file order.
    pub fn members(&self) -> Arc<[Arc<Member>]> {
        self.view.load().members().clone()
    }

    /// Whether there is a backend to pick.
    pub fn is_usable(&self) -> bool {
        self.view.load().is_usable()
    }

    /// Remembers whether there was a backend to pick, and says whether there was before.
    pub(super) fn set_was_usable(&self, usable: bool) -> bool {
        self.shared.was_usable.swap(usable, Relaxed)
    }

    /// Whether a backend that is not in `tried` could be picked, room aside.
    pub fn has_untried(&self, tried: &Tried, now: Time) -> bool {
        self.view.load().has_untried(tried, now)
    }

    /// Requests in flight on all backends.
    pub fn in_flight(&self) -> usize {
        self.shared.ledger.in_flight()
    }

    /// How many requests wait.
    pub fn queued(&self) -> usize {
        self.shared.ledger.queue.len()
    }

    /// What was counted of the pool.
    pub fn traffic(&self) -> &PoolTraffic {
        &self.shared.ledger.traffic
    }

    /// What has happened to its backends lately, oldest first. It outlives a configuration.
    pub fn events(&self) -> Vec<Event> {
        self.shared.ledger.events.all()
    }

    pub(super) fn record(&self, member: &Member, what: Happening, now: Time) {
        self.shared.ledger.events.record(member, what, now);
    }

    /// Picks a backend.
    pub fn pick(&self, wanted: &Wanted<'_>, now: Time, rng: &mut dyn RngCore) -> Picked {
        let ask = self.ask(wanted, now, None);
        let view = self.view.load();
        loop {
            // Where somebody else has taken the last place since the look, it is full now and passed
            // over. Each such round is one that somebody else gets a backend by.
            let member = match view.pick(&ask, rng) {
                Found::Kept(member) | Found::Member(member) => member,
                Found::Busy => return Picked::Busy,
                Found::Nothing => return Picked::Nothing,
            };
            if let Some(lease) = Lease::try_new(member, ask.limit, &self.shared.ledger) {
                return Picked::Lease(lease);
            }
        }
    }

    /// What a pick would come to. It takes no turn, and nothing is changed by it: `turns` counts those
    /// that it looked at.
    pub(super) fn look(
        &self,
        wanted: &Wanted<'_>,
        now: Time,
        rng: &mut dyn RngCore,
        turns: &Cell<usize>,
    ) -> Found {
        let ask = self.ask(wanted, now, Some(turns));
        self.view.load().pick(&ask, rng)
    }

    fn ask<'a>(&self, wanted: &Wanted<'a>, now: Time, look: Option<&'a Cell<usize>>) -> Ask<'a> {
        Ask {
            now,
            key: wanted.key,
            tried: wanted.tried,
            limit: self.limit(),
            slow_start: self.spec.slow_start,
            in_flight: self.shared.ledger.in_flight(),
            kept: wanted.kept,
            is_its_turn: self.is_turn_of(wanted.place),
            look,
        }
    }

    /// Whether whoever has this place in the line, or none, may look for room.
    fn is_turn_of(&self, place: Option<&Place>) -> bool {
        let limits = &self.spec.limits;
        if limits.connections_per_backend.is_none() || limits.queue == 0 {
            // Nobody waits here. Those in the line came with an earlier configuration, and are about
            // to find that out.
            return true;
        }
        match place {
            // Several may be called at a time, and act on it in any order. Who is first passes the
            // call on when it has a backend.
            Some(place) => place.is_first(),
            None => self.shared.ledger.queue.is_empty(),
        }
    }

    /// Each member before a pick with this key, what their scores say, and whether there is panic.
    pub(super) fn prospects(&self, key: Option<u64>, now: Time) -> (Vec<Prospect>, Scoring, bool) {
        let untried = Tried::default();
        let wanted = Wanted { key, kept: None, tried: &untried, place: None };
        self.view.load().prospects(&self.ask(&wanted, now, None))
    }

    /// Whether the backend that a client stays with still keeps its clients, room aside.
    pub fn keeps_clients(&self, is_it: impl Fn(&Member) -> bool, now: Time) -> bool {
        let view = self.view.load();
        view.members().iter().any(|member| is_it(member) && member.keeps_clients(now))
    }

    fn limit(&self) -> Option<usize> {
        self.spec.limits.connections_per_backend.map(std::num::NonZeroUsize::get)
    }

    /// Takes a place in the queue; `None` if it is full or there is none.
    pub fn enqueue(&self) -> Option<Place> {
        self.shared.ledger.queue.enter()
    }

    /// Counts a request: it adds to the retry budget.
    pub fn begin_request(&self, now: Time) {
        locked(&self.shared.budget).request(now);
    }

    /// Whether something is left of the retry budget.
    pub(super) fn can_retry(&self, now: Time) -> bool {
        locked(&self.shared.budget).has_left(now)
    }

    /// Spends a retry of the budget; `false` if nothing is left of it.
    pub fn spend_retry(&self, now: Time) -> bool {
        locked(&self.shared.budget).try_retry(now)
    }

    /// Puts new members in the place of the old ones; `false` if they are the same, and nothing has
    /// changed. Some may come back while they are ejected, so [`Core::maintain`] has something to do then.
    pub fn set_members(&self, mut members: Vec<Arc<Member>>, now: Time) -> bool {
        members.sort_by_key(|member| member.order());
        let before = self.members();
        let mut pairs = before.iter().zip(&members);
        if before.len() == members.len() && pairs.all(|(old, new)| old.is_like(new)) {
            return false;
        }
        self.rebuild(now, Some(members));
        true
    }

    /// Decides at run time whether a backend takes requests; `false` if there is none of that name.
    pub fn set_admission(&self, name: &BackendName, admission: Admission, now: Time) -> bool {
        self.change(name, now, |state| state.set_admission(admission))
    }

    /// Sets a backend's weight at run time; `false` if there is none of that name.
    pub fn set_weight(&self, name: &BackendName, weight: Weight, now: Time) -> bool {
        self.change(name, now, |state| state.set_weight(weight))
    }

    fn change(&self, name: &BackendName, now: Time, act: impl Fn(&BackendState)) -> bool {
        let members = self.members();
        let Some(member) = members.iter().find(|member| member.name() == name) else {
            return false;
        };
        act(member.state());
        self.rebuild(now, None);
        true
    }

    /// Something was decided at run time of the members, or learned of them.
    pub(super) fn renew_view(&self, now: Time) {
        self.rebuild(now, None);
    }

    /// Takes in what a probe of `member` found, and says what that changed.
    pub fn observe_probe(&self, member: &Member, ok: bool, now: Time) -> Option<Change> {
        let change = self.learn_of_probe(member, ok, now)?;
        self.rebuild(now, None);
        Some(change)
    }

    /// The same, but for the view that picks are made from, which is to be renewed after a change.
    pub(super) fn learn_of_probe(&self, member: &Member, ok: bool, now: Time) -> Option<Change> {
        let check = self.spec.health_check.as_ref()?;
        let (rise, fall) = (check.rise, check.fall);
        let change = member.state().with_probing(|state| state.observe(ok, rise, fall))?;
        member.state().set_since(now);
        if change == Change::Up {
            // Its checks saw it go down and come back, which explains its failures. One whose checks
            // never failed stays out for its time: they do not see what is wrong with it.
            member.state().forgive();
            member.state().set_came_back(now);
        }
        Some(change)
    }

    /// Takes in how a request ended on `member`. Returns whether [`Core::maintain`] has something to
    /// do now.
    pub fn report(&self, member: &Member, outcome: Outcome, now: Time) -> bool {
        match outcome {
            Outcome::Success { first_byte } => {
                member.state().observe_speed(first_byte, now);
                if member.state().is_blemished() {
                    member.state().with_standing(super::ejection::Standing::success);
                }
                false
            }
            Outcome::Failure { took } => {
                member.state().observe_speed(took.max(ewma::FAILURE), now);
                self.consider_ejection(member, now)
            }
            Outcome::Unknown => false,
        }
    }

    /// Ejects `member` if its failures ask for it and the pool can spare it.
    fn consider_ejection(&self, member: &Member, now: Time) -> bool {
        let Some(policy) = &self.spec.ejection else { return false };
        let state = member.state();
        if state.ejected_until(now).is_some() {
            // The last of the requests that were on it when it went.
            return false;
        }
        if !state.with_standing(|standing| standing.failure(policy)) {
            return false;
        }
        let _one_at_a_time = locked(&self.ejecting);
        let members = self.members();
        // One that is taken out by hand or by its checks cannot stand in for one that is ejected, nor
        // does it take the place of one.
        let could_serve = || members.iter().filter(|other| other.could_serve());
        let out = could_serve().filter(|other| other.state().ejected_until(now).is_some()).count();
        let all = could_serve().count();
        if out >= most_ejected(all, policy) || state.ejected_until(now).is_some() {
            return false;
        }
        let (failures, until) =
            state.with_standing(|standing| (standing.failures(), standing.eject(policy, now)));
        state.set_ejected(until);
        state.set_came_back(until);
        state.set_since(now);
        state.traffic().count_ejection();
        let time = until.since(now);
        self.record(member, Happening::Ejected { time, failures }, now);
        let (name, address, pool) = (member.name(), member.key(), &self.spec.name);
        log::warn!(
            "backend {name} ({address}) of pool {pool} is EJECTED for {time:?}: {failures} failures in a row"
        );
        true
    }

    /// Brings the view up to date with ejections that began or ended, and says when to come back.
    pub fn maintain(&self, now: Time) -> Time {
        let members = self.members();
        for member in members.iter().filter(|member| member.state().end_ejection(now)) {
            let (name, address, pool) = (member.name(), member.key(), &self.spec.name);
            log::info!("backend {name} ({address}) of pool {pool} is back from its ejection");
            self.record(member, Happening::Returned, now);
        }
        // Making a view takes longer the more members there are.
        if !self.view.load().knows_ejections(now) {
            self.rebuild(now, None);
        }
        self.view.load().valid_until()
    }

    /// Makes a new view from the present members and what is known of them.
    fn rebuild(&self, now: Time, members: Option<Vec<Arc<Member>>>) {
        let _one_at_a_time = locked(&self.rebuilding);
        #[cfg(test)]
        self.views.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let before = self.view.load_full();
        let members = members.unwrap_or_else(|| before.members().to_vec());
        self.view.store(Arc::new(View::new(&self.spec, members, now, Some(&before))));
        // Whoever waits looks again: there may be room where there was none, or nothing to wait for.
        self.shared.ledger.queue.call_all();
    }
}

#[cfg(test)]
mod tests;
