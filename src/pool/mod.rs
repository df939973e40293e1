//! A pool at run time: its backends, their shared state, and which of them gets the next request.
//!
//! Membership comes from `discovery`, health from `health`, ejections from what requests report. All meet
//! in an immutable `View`, rebuilt when one of them changes and swapped in whole, so that a pick reads
//! one pointer and takes no lock.
//! Pingora's `LoadBalancer` is its `Backends` plus a selector that it rebuilds on membership changes
//! only. A pick from it searches for a healthy backend, in a bounded number of steps that concurrent
//! picks share, so it may find none where there is one; and what it falls back to ignores weights. We
//! make its selector of usable backends alone. Its `Backends` compares members by address and weight and
//! keeps the set it has if those are equal, whatever else is new of them; so the set is ours.
//!
//! Every decision is [`Core`]'s, which knows of no clock, socket or task; [`Pool`] gives it those.
//! Nothing here knows of HTTP sessions.

mod backend;
mod balance;
mod budget;
mod core;
mod dial;
mod discovery;
mod ejection;
mod events;
mod ewma;
mod health;
mod interner;
mod lease;
mod opening;
mod operator;
mod preamble;
mod preview;
mod queue;
mod roster;
mod ticket;
mod time;
mod traffic;
mod view;
mod waiting;

pub use self::core::{Core, Kept, Outcome, Picked, Wanted};
pub use backend::{BackendState, Health, Member, MemberSpec};
pub use balance::{hash, hash_address};
pub use dial::{Dialed, Dialer, is_lack_of_ours, is_ours, system_error};
pub use discovery::Repeat;
pub use events::{Event, Happening};
pub use health::Change;
pub use interner::Interner;
pub use lease::{Lease, Tried};
pub use opening::{Opener, Opening};
pub use operator::Taken;
pub use preamble::Preamble;
pub use preview::{Choice, Preview, Prospect, Scoring};
pub use queue::{Place, Queue};
pub use roster::Departure;
pub use ticket::{Tag, Ticket, Tickets};
pub use time::{Clock, Time};
pub use traffic::{BackendTraffic, PoolTraffic};
pub use waiting::{NoRetry, Waited};

use crate::{aside::aside, model, tls::PeerTls};
use discovery::{Discovery, OpenNames};
use roster::Roster;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Instant,
};
use tokio::sync::{Notify, OwnedMutexGuard, watch};

/// From how many backends on work on all of them is no work for a thread that serves: it takes some
/// microseconds a backend.
const MANY: usize = 200;

/// A pool of backends.
pub struct Pool {
    core: Core,
    clock: Clock,
    interner: Arc<Interner>,
    /// Run by one at a time.
    discovery: Arc<tokio::sync::Mutex<Discovery>>,
    roster: Arc<Roster>,
    /// The discovery's.
    repeats: Arc<Mutex<Vec<Repeat>>>,
    tickets: Tickets,
    /// How its backends are met in TLS; `None` is clear text.
    tls: Option<Arc<PeerTls>>,
    /// What its probes connect through.
    connectors: Arc<health::Connectors>,
    /// Changes whenever discovery has found other members.
    membership: watch::Sender<()>,
    /// Whether every host name has an answer, or was looked up once without.
    found: watch::Sender<bool>,
    /// Whether every backend known at the start has been probed once.
    checked: watch::Sender<bool>,
    /// Told when an ejection has begun, or one may have come in with a member.
    ejected: Notify,
    /// Whether it is in force or was.
    began: AtomicBool,
}

impl Pool {
    /// A pool as configured, with no members until [`Pool::discover`] has run.
    pub fn new(spec: model::Pool, interner: Arc<Interner>) -> Arc<Self> {
        let clock = interner.clock;
        let secret = spec.sticky.as_ref().and_then(|sticky| sticky.secret.as_ref());
        let secret = secret.map_or(&interner.secret[..], String::as_bytes);
        let tickets = Tickets::new(spec.name.as_str(), secret);
        let shared = interner.shared(&spec);
        let tls = spec.tls.clone().map(|tls| Arc::new(PeerTls::new(spec.name.clone(), tls)));
        let connectors = interner.connectors.clone();
        let discovery = Discovery::new(&spec, interner.clone());
        let roster = interner.roster(&spec.name);
        Arc::new(Self {
            core: Core::with(spec, shared),
            clock,
            interner,
            repeats: discovery.repeats(),
            discovery: Arc::new(tokio::sync::Mutex::new(discovery)),
            roster,
            tickets,
            tls,
            connectors,
            membership: watch::Sender::new(()),
            found: watch::Sender::new(false),
            checked: watch::Sender::new(false),
            ejected: Notify::new(),
            began: AtomicBool::new(false),
        })
    }

    /// Begins to serve, in the place of an earlier configuration of the pool if there was one: what the
    /// two share goes by this one from now on, and those who wait there go on here.
    pub async fn put_in_force(self: &Arc<Self>) {
        if !self.interner.set_in_force(self) {
            // It was before.
            return;
        }
        self.began.store(true, Relaxed);
        self.core.adapt_shared();
        if self.roster().adapt(&self.spec().backends) {
            self.roster().tell();
        }
        if self.spec().health_check.is_none() {
            self.members().iter().for_each(|member| member.state().leave_unwatched());
        }
        // What the one before has heard of the backends while this one was made.
        self.catch_up().await;
        self.report_availability();
    }

    /// Goes by what another configuration of the pool has found of the backends, which share their state.
    async fn catch_up(self: &Arc<Self>) {
        let pool = self.clone();
        self.at_length(move || pool.core.renew_view(pool.now())).await;
        self.ejected.notify_one();
    }

    /// The same pool in the configuration that is in force, if that is another one than this.
    fn successor(&self) -> Option<Arc<Self>> {
        let in_force = self.interner.in_force(&self.spec().name)?;
        (!std::ptr::eq(Arc::as_ptr(&in_force), self)).then_some(in_force)
    }

    fn is_in_force(&self) -> bool {
        let in_force = self.interner.in_force(&self.spec().name);
        in_force.is_some_and(|in_force| std::ptr::eq(Arc::as_ptr(&in_force), self))
    }

    /// What the configuration says of the pool.
    pub fn spec(&self) -> &model::Pool {
        self.core.spec()
    }

    /// The pool's decisions, for those who bring their own time.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The present moment on the clock that the pool's times come from.
    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// A moment of the system's clock on that clock.
    pub fn time(&self, instant: Instant) -> Time {
        self.clock.time(instant)
    }

    /// Makes and reads what clients stay with a backend by.
    pub fn tickets(&self) -> &Tickets {
        &self.tickets
    }

    /// How its backends are met in TLS; `None` is clear text.
    pub fn tls(&self) -> Option<&Arc<PeerTls>> {
        self.tls.as_ref()
    }

    /// Picks a backend.
    pub fn pick(&self, wanted: &Wanted<'_>, now: Time) -> Picked {
        self.core.pick(wanted, now, &mut rand::rng())
    }

    /// Takes in how a request ended on a backend, in the try with this number; the first is 1.
    pub fn report(&self, member: &Member, outcome: Outcome, try_number: u32, now: Time) {
        member.state().traffic().count(outcome);
        if try_number > 1 {
            self.core.traffic().count_retry(outcome);
        }
        if self.core.report(member, outcome, now) {
            // Who follows ejections is with the pool that is in force.
            self.successor().as_deref().unwrap_or(self).ejected.notify_one();
        }
    }

    /// The members, usable or not, in file order.
    pub fn members(&self) -> Arc<[Arc<Member>]> {
        self.core.members()
    }

    /// The backends that are no members, as an earlier one has their address.
    pub fn repeats(&self) -> Vec<Repeat> {
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Finds the pool's members: once at the start, and again for pools with host names. Those whose
    /// addresses are known are there before the first lookup.
    pub async fn discover(self: &Arc<Self>) {
        self.find_members(true).await;
    }

    /// Goes by what was decided of the members since. Only names without an answer are looked up.
    pub async fn refresh(self: &Arc<Self>) {
        self.find_members(false).await;
    }

    /// Follows what is decided of the members.
    pub fn decisions(&self) -> watch::Receiver<()> {
        self.roster().changes()
    }

    fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// Goes by what was decided of the members since, as far as names have an answer: for somebody who
    /// waits for it. The task that refreshes looks up the others.
    async fn refresh_known(self: &Arc<Self>) {
        let discovery = self.discovery.clone().lock_owned().await;
        let (discovery, _) = self.open_names(discovery, false).await;
        self.take_in(discovery, false).await;
    }

    async fn open_names(
        self: &Arc<Self>,
        mut discovery: OwnedMutexGuard<Discovery>,
        anew: bool,
    ) -> (OwnedMutexGuard<Discovery>, OpenNames) {
        let look = move || {
            let open = discovery.open_names(anew);
            (discovery, open)
        };
        self.at_length(look).await
    }

    async fn find_members(self: &Arc<Self>, anew: bool) {
        let discovery = self.discovery.clone().lock_owned().await;
        let (mut discovery, open) = self.open_names(discovery, anew).await;
        // Those that are known do not wait for names that may take seconds. That nothing has changed
        // since the last time is not worth a look.
        if !anew || open.is_empty() || !*self.found.borrow() {
            discovery = self.take_in(discovery, anew).await;
        }
        if discovery.knows_all() {
            self.found.send_replace(true);
        }
        // What an operator decides meanwhile does not wait for a resolver.
        drop(discovery);
        if !open.is_empty() {
            open.look_up().await;
            let discovery = self.discovery.clone().lock_owned().await;
            self.take_in(discovery, anew).await;
        }
        self.found.send_replace(true);
    }

    /// What discovery knows now is what the pool has from now on.
    async fn take_in(
        self: &Arc<Self>,
        mut discovery: OwnedMutexGuard<Discovery>,
        anew: bool,
    ) -> OwnedMutexGuard<Discovery> {
        let pool = self.clone();
        let work = move || {
            let members = discovery.members(&pool.members());
            pool.set_members(members, anew);
            discovery
        };
        self.at_length(work).await
    }

    fn set_members(&self, members: Vec<Arc<Member>>, anew: bool) {
        if !self.core.set_members(members, self.clock.now()) {
            if !anew {
                // The same members, of whom something may have been decided.
                self.core.renew_view(self.clock.now());
                self.report_availability();
            }
            return;
        }
        // Names that lead to other addresses each time would else be remembered by all they ever had.
        self.interner.forget_unused();
        self.ejected.notify_one();
        self.report_availability();
        self.membership.send_replace(());
    }

    /// Does what takes longer the more backends the pool has: with many, where it holds up no request.
    async fn at_length<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        if self.spec().backends.len() < MANY {
            return work();
        }
        // What would end the task here is to end it from there, too.
        aside(work).await.unwrap_or_else(|error| panic!("pool {}: {error}", self.spec().name))
    }

    /// Whether membership can change by itself, because a backend is given by host name.
    fn has_host_names(&self) -> bool {
        self.roster().has(&self.spec().backends, |backend| discovery::host_of(backend).is_some())
    }

    /// Looks for other members every `resolve_interval` while there are host names, for as long as it is
    /// polled.
    pub async fn keep_discovering(self: &Arc<Self>) {
        let mut decisions = self.decisions();
        loop {
            if self.has_host_names() {
                tokio::time::sleep(self.spec().resolve_interval).await;
                self.discover().await;
            } else {
                // One may be added. The sender is in the pool that we borrow.
                let _ = decisions.changed().await;
            }
        }
    }

    /// Goes by what is decided of the members, for as long as it is polled.
    pub async fn keep_refreshing(self: &Arc<Self>, mut decisions: watch::Receiver<()>) {
        // The sender is in the pool that we borrow.
        while decisions.changed().await.is_ok() {
            self.refresh().await;
        }
    }

    /// Resolves when the first pass over the pool's backends is over.
    pub async fn wait_until_checked(&self) {
        let mut checked = self.checked.subscribe();
        // The sender lives as long as the pool that we borrow.
        let _ = checked.wait_for(|checked| *checked).await;
    }

    /// Whether the first pass over the pool's backends is over.
    pub fn is_checked(&self) -> bool {
        *self.checked.borrow()
    }

    /// Follows ejections for as long as it is polled: rebuilding what is picked from is not done on
    /// the path of a request.
    pub async fn run_maintenance(self: &Arc<Self>) {
        loop {
            let pool = self.clone();
            let due = self.at_length(move || pool.core.maintain(pool.clock.now())).await;
            self.report_availability();
            let ejected = self.ejected.notified();
            if due == Time::NEVER {
                ejected.await;
                continue;
            }
            let due = tokio::time::Instant::from_std(self.clock.instant(due));
            // Whichever comes first, the view is due.
            let _ = tokio::time::timeout_at(due, ejected).await;
        }
    }

    /// Says so when the pool has lost its last usable backend or has got one back. One that is not in
    /// force yet, or not any more, has nothing to say.
    fn report_availability(&self) {
        if !*self.checked.borrow() || !self.is_in_force() {
            return;
        }
        let usable = self.core.is_usable();
        let name = &self.spec().name;
        match (self.core.set_was_usable(usable), usable) {
            (true, false) => log::error!("pool {name} has no usable backend left"),
            (false, true) => log::info!("pool {name} has a usable backend again"),
            _ => {}
        }
    }

    fn mark_checked(&self) {
        self.checked.send_replace(true);
        self.report_availability();
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("name", &self.spec().name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
