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
mod lease;
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
pub use dial::{Dialed, Dialer};
pub use discovery::Repeat;
pub use events::{Event, Happening};
pub use health::{Change, ProbeReport};
pub use lease::{Lease, Tried};
pub use operator::Taken;
pub use preamble::Preamble;
pub use preview::{Choice, Preview, Prospect, Scoring};
pub use queue::{Place, Queue};
pub use roster::Departure;
pub use ticket::{Tag, Ticket, Tickets};
pub use time::{Clock, Time};
pub use traffic::{BackendTraffic, PoolTraffic};
pub use waiting::{NoRetry, Waited};

use crate::{model, tls::PeerTls};
use discovery::{Answer, Discovery, Resolver};
use roster::Roster;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use tokio::sync::{Notify, watch};

/// What pools share, with those of other configurations too: above all the states of backends. A backend
/// keeps its counters and its health when a new configuration mentions it again.
#[derive(Debug)]
pub struct Interner {
    /// The clock that the times in the states come from.
    clock: Clock,
    states: Mutex<HashMap<(model::PoolName, String), Arc<BackendState>>>,
    /// What the pools themselves keep.
    pools: Mutex<HashMap<model::PoolName, Left>>,
    /// What was decided at run time of each pool's members, as long as the process lives.
    rosters: Mutex<HashMap<model::PoolName, Arc<Roster>>>,
    /// The last good answer for each host name.
    resolved: Mutex<HashMap<String, Arc<Mutex<Answer>>>>,
    resolver: Arc<dyn Resolver>,
    /// What tickets are signed with where the configuration gives no secret.
    secret: [u8; 32],
    /// What probes connect through.
    connectors: Arc<health::Connectors>,
}

/// What is left of a pool from one configuration to the next.
#[derive(Debug)]
struct Left {
    shared: Arc<core::Shared>,
    /// The pool in the configuration that is in force, once one has followed another.
    in_force: Weak<Pool>,
}

impl Default for Interner {
    fn default() -> Self {
        Self {
            clock: Clock::start(),
            states: Mutex::default(),
            pools: Mutex::default(),
            rosters: Mutex::default(),
            resolved: Mutex::default(),
            resolver: Arc::new(discovery::System),
            secret: rand::random(),
            connectors: Arc::default(),
        }
    }
}

impl Interner {
    /// The state of the backend at `address` of `pool`, made on first use.
    fn state(&self, pool: &model::PoolName, address: &str) -> Arc<BackendState> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(BackendState::known_since(self.clock.now()));
        states.entry((pool.clone(), address.to_owned())).or_insert_with(new).clone()
    }

    /// What the pool keeps across configurations, made on first use.
    fn shared(&self, spec: &model::Pool) -> Arc<core::Shared> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Left { shared: Arc::new(core::Shared::new(spec)), in_force: Weak::new() };
        pools.entry(spec.name.clone()).or_insert_with(new).shared.clone()
    }

    fn set_in_force(&self, pool: &Arc<Pool>) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(left) = pools.get_mut(&pool.spec().name) {
            left.in_force = Arc::downgrade(pool);
        }
    }

    /// The pool of that name in the configuration that is in force, if one has followed another.
    fn in_force(&self, name: &model::PoolName) -> Option<Arc<Pool>> {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.get(name)?.in_force.upgrade()
    }

    /// What is known of the addresses of `host`, at first nothing.
    fn answer(&self, host: &str) -> Arc<Mutex<Answer>> {
        let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        resolved.entry(host.to_owned()).or_default().clone()
    }

    /// Has the resolver's last answer for `host` be this.
    #[cfg(test)]
    fn set_answer(&self, host: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        *self.answer(host).lock().unwrap() = Answer::of(addresses);
    }

    /// What was decided at run time of the pool's members.
    fn roster(&self, pool: &model::PoolName) -> Arc<Roster> {
        let mut rosters = self.rosters.lock().unwrap_or_else(PoisonError::into_inner);
        rosters.entry(pool.clone()).or_default().clone()
    }

    /// Forgets what nobody refers to any more: no configuration that is still in use, and no request.
    pub fn forget_unused(&self) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.retain(|_, state| Arc::strong_count(state) > 1);
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        resolved.retain(|_, answer| Arc::strong_count(answer) > 1);
        pools.retain(|_, left| Arc::strong_count(&left.shared) > 1);
    }
}

/// A pool of backends.
pub struct Pool {
    core: Core,
    clock: Clock,
    interner: Arc<Interner>,
    /// Run by one at a time.
    discovery: tokio::sync::Mutex<Discovery>,
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
    /// Whether every backend known at the start has been probed once.
    checked: watch::Sender<bool>,
    /// Told when an ejection has begun, or one may have come in with a member.
    ejected: Notify,
    /// Whether the pool had a usable backend when that was last reported.
    was_usable: Mutex<bool>,
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
            discovery: tokio::sync::Mutex::new(discovery),
            roster,
            tickets,
            tls,
            connectors,
            membership: watch::Sender::new(()),
            checked: watch::Sender::new(false),
            ejected: Notify::new(),
            was_usable: Mutex::new(true),
        })
    }

    /// Begins to serve in the place of an earlier configuration of the pool: what the two share goes by
    /// this one from now on, and those who wait there go on here.
    pub fn put_in_force(self: &Arc<Self>) {
        self.interner.set_in_force(self);
        self.core.adapt_shared();
        self.roster().adapt(&self.spec().backends);
    }

    /// The same pool in the configuration that is in force, if that is another one than this.
    fn successor(&self) -> Option<Arc<Self>> {
        let in_force = self.interner.in_force(&self.spec().name)?;
        (!std::ptr::eq(Arc::as_ptr(&in_force), self)).then_some(in_force)
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

    /// Makes and reads what clients stay with a backend by.
    pub fn tickets(&self) -> &Tickets {
        &self.tickets
    }

    /// How its backends are met in TLS; `None` is clear text.
    pub fn tls(&self) -> Option<&Arc<PeerTls>> {
        self.tls.as_ref()
    }

    /// Picks a backend.
    pub fn pick(&self, wanted: &Wanted<'_>) -> Picked {
        self.core.pick(wanted, self.clock.now(), &mut rand::rng())
    }

    /// Takes in how a request ended on a backend, in the try with this number; the first is 1.
    pub fn report(&self, member: &Member, outcome: Outcome, try_number: u32) {
        member.state().traffic().count(outcome);
        if try_number > 1 {
            self.core.traffic().count_retry(outcome);
        }
        if self.core.report(member, outcome, self.clock.now()) {
            self.ejected.notify_one();
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

    /// Finds the pool's members: once at the start, and again for pools with host names.
    pub async fn discover(&self) {
        self.find_members(true).await;
    }

    /// Goes by what was decided of the members since. Only names without an answer are looked up.
    pub async fn refresh(&self) {
        self.find_members(false).await;
    }

    /// Follows what is decided of the members.
    pub fn decisions(&self) -> watch::Receiver<()> {
        self.roster().changes()
    }

    fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    async fn find_members(&self, anew: bool) {
        let mut discovery = self.discovery.lock().await;
        let members = discovery.discover(&self.members(), anew).await;
        if !self.core.set_members(members, self.clock.now()) {
            if !anew {
                // The same members, of whom something may have been decided.
                self.core.decided(self.clock.now());
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

    /// Whether membership can change by itself, because a backend is given by host name.
    fn has_host_names(&self) -> bool {
        let entries = self.roster().entries(&self.spec().backends);
        entries.iter().any(|entry| discovery::host_of(&entry.backend).is_some())
    }

    /// Looks for other members every `resolve_interval` while there are host names, for as long as it is
    /// polled.
    pub async fn keep_discovering(&self) {
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
    pub async fn keep_refreshing(&self, mut decisions: watch::Receiver<()>) {
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
    pub async fn run_maintenance(&self) {
        loop {
            let due = self.core.maintain(self.clock.now());
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

    /// Says so when the pool has lost its last usable backend or has got one back.
    fn report_availability(&self) {
        if !*self.checked.borrow() {
            return;
        }
        let mut was_usable = self.was_usable.lock().unwrap_or_else(PoisonError::into_inner);
        let usable = self.core.is_usable();
        let name = &self.spec().name;
        match (std::mem::replace(&mut *was_usable, usable), usable) {
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
