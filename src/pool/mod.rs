//! A pool at run time: its backends, their shared state, and which of them gets the next request.
//!
//! Membership comes from Pingora's [`Backends`] through our [`Discovery`]; health comes from
//! `health`. Both meet in an immutable `View`, rebuilt when either changes and swapped in whole,
//! so that a pick reads one pointer and takes no lock. Pingora's `LoadBalancer` is its `Backends`
//! plus a selector that it rebuilds on membership changes only. A pick from it searches for a
//! healthy backend, in a bounded number of steps that concurrent picks share, so it may find none
//! where there is one; and what it falls back to ignores weights. We make the selector of usable
//! backends alone, which is why the two halves are used separately here.
//!
//! Nothing here knows of HTTP sessions, and nothing here reads a clock or a random number on its
//! own: both are arguments.

mod backend;
mod balance;
mod discovery;
mod health;
mod lease;
mod view;

pub use backend::{BackendState, Health, Member};
pub use discovery::Discovery;
pub use health::ProbeReport;
pub use lease::{Lease, Tried};

use crate::model;
use arc_swap::ArcSwap;
use pingora_load_balancing::Backends;
use rand::RngCore;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use view::View;

/// The states of backends, shared between the configurations that name them: a backend keeps its
/// counters and its health when a new configuration mentions it again.
#[derive(Default, Debug)]
pub struct Interner {
    states: Mutex<HashMap<(model::PoolName, String), Arc<BackendState>>>,
}

impl Interner {
    /// The state of the backend at `address` of `pool`, made on first use.
    fn state(&self, pool: &model::PoolName, address: &str) -> Arc<BackendState> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.entry((pool.clone(), address.to_owned())).or_default().clone()
    }
}

/// A pool of backends.
pub struct Pool {
    spec: model::Pool,
    backends: Backends,
    view: ArcSwap<View>,
    /// Serializes rebuilds of the view, so that a late one cannot put back what an earlier one saw.
    rebuilding: Mutex<()>,
    /// Changes whenever discovery has run.
    membership: watch::Sender<()>,
    /// Whether every backend known at the start has been probed once.
    checked: watch::Sender<bool>,
}

impl Pool {
    /// A pool as configured, with no members until [`Pool::discover`] has run.
    pub fn new(spec: model::Pool, interner: Arc<Interner>) -> Arc<Self> {
        let backends = Backends::new(Box::new(Discovery::new(&spec, interner)));
        let view = View::new(spec.balance, Vec::new());
        Arc::new(Self {
            spec,
            backends,
            view: ArcSwap::from_pointee(view),
            rebuilding: Mutex::new(()),
            membership: watch::Sender::new(()),
            checked: watch::Sender::new(false),
        })
    }

    /// What the configuration says of the pool.
    pub fn spec(&self) -> &model::Pool {
        &self.spec
    }

    /// Picks a backend that is not in `tried` and counts the request on it until the lease is
    /// dropped. `None` when no usable backend is left to try.
    pub fn pick(&self, tried: &Tried, rng: &mut dyn RngCore) -> Option<Lease> {
        self.view.load().pick(tried, rng).map(Lease::new)
    }

    /// Whether a backend that is not in `tried` could be picked now.
    pub fn has_untried(&self, tried: &Tried) -> bool {
        self.view.load().has_untried(tried)
    }

    /// The members, usable or not, in file order.
    pub fn members(&self) -> Arc<[Arc<Member>]> {
        self.view.load().members().clone()
    }

    /// Finds the pool's members: once at the start, and again for pools with host names.
    pub async fn discover(&self) {
        // Our discovery reports its own failures and always has an answer.
        let _ = self.backends.update(|_| ()).await;
        self.rebuild();
        self.membership.send_replace(());
    }

    /// Whether membership can change by itself, because a backend is given by host name.
    pub fn has_host_names(&self) -> bool {
        let by_name = |backend: &model::Backend| {
            matches!(backend.address, model::BackendAddress::Host { .. })
        };
        self.spec.backends.iter().any(by_name)
    }

    /// How often [`Pool::discover`] wants to run.
    pub fn resolve_interval(&self) -> Duration {
        self.spec.resolve_interval
    }

    /// Resolves when the first pass over the pool's backends is over.
    pub async fn wait_until_checked(&self) {
        let mut checked = self.checked.subscribe();
        // The sender lives as long as the pool that we borrow.
        let _ = checked.wait_for(|checked| *checked).await;
    }

    /// Makes a new view from the present members and their present health, and says so when the
    /// pool has lost its last usable backend or has got one back.
    fn rebuild(&self) {
        let _one_at_a_time = self.rebuilding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut members: Vec<Arc<Member>> =
            self.backends.get_backend().iter().filter_map(Member::of).cloned().collect();
        members.sort_by_key(|member| member.order());
        let view = View::new(self.spec.balance, members);
        let usable_now = view.is_usable();
        let before = self.view.swap(Arc::new(view));
        self.report_availability(before.is_usable(), usable_now);
    }

    fn report_availability(&self, before: bool, now: bool) {
        let name = &self.spec.name;
        if *self.checked.borrow() {
            match (before, now) {
                (true, false) => log::error!("pool {name} has no usable backend left"),
                (false, true) => log::info!("pool {name} has a usable backend again"),
                _ => {}
            }
        }
    }

    fn mark_checked(&self) {
        if !self.checked.send_replace(true) && !self.view.load().is_usable() {
            log::error!("pool {} has no usable backend left", self.spec.name);
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("name", &self.spec.name).finish_non_exhaustive()
    }
}
