//! What outlives the configurations of pools.

use super::{
    BackendState, Clock, Pool, core,
    discovery::{Answer, Resolver, System},
    health,
    roster::Roster,
};
use crate::model;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// What pools share, with those of other configurations too: above all the states of backends. A backend
/// keeps its counters and its health when a new configuration mentions it again.
#[derive(Debug)]
pub struct Interner {
    /// The clock that the times in the states come from.
    pub(super) clock: Clock,
    pub(super) states: Mutex<HashMap<(model::PoolName, String), Arc<BackendState>>>,
    /// What the pools themselves keep.
    pub(super) pools: Mutex<HashMap<model::PoolName, Left>>,
    /// What was decided at run time of each pool's members, as long as the process lives.
    rosters: Mutex<HashMap<model::PoolName, Arc<Roster>>>,
    /// The last good answer for each host name.
    pub(super) resolved: Mutex<HashMap<String, Arc<Mutex<Answer>>>>,
    pub(super) resolver: Arc<dyn Resolver>,
    /// What tickets are signed with where the configuration gives no secret.
    pub(super) secret: [u8; 32],
    /// What probes connect through.
    pub(super) connectors: Arc<health::Connectors>,
}

/// What is left of a pool from one configuration to the next.
#[derive(Debug)]
pub(super) struct Left {
    shared: Arc<core::Shared>,
    /// The pool in the configuration that is in force, once one is.
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
            resolver: Arc::new(System),
            secret: rand::random(),
            connectors: Arc::default(),
        }
    }
}

impl Interner {
    /// The state of the backend at `address` of `pool`, made on first use.
    pub(super) fn state(&self, pool: &model::PoolName, address: &str) -> Arc<BackendState> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(BackendState::known_since(self.clock.now()));
        states.entry((pool.clone(), address.to_owned())).or_insert_with(new).clone()
    }

    /// What the pool keeps across configurations, made on first use.
    pub(super) fn shared(&self, spec: &model::Pool) -> Arc<core::Shared> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Left { shared: Arc::new(core::Shared::new(spec)), in_force: Weak::new() };
        pools.entry(spec.name.clone()).or_insert_with(new).shared.clone()
    }

    /// From here on this is the pool of its name; `false` if it was before.
    pub(super) fn set_in_force(&self, pool: &Arc<Pool>) -> bool {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let left = pools.get_mut(&pool.spec().name).expect("each pool has left its part here");
        let before = std::mem::replace(&mut left.in_force, Arc::downgrade(pool));
        !Weak::ptr_eq(&before, &left.in_force)
    }

    /// The pool of that name in the configuration that is in force, once one is.
    pub(super) fn in_force(&self, name: &model::PoolName) -> Option<Arc<Pool>> {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.get(name)?.in_force.upgrade()
    }

    /// What is known of the addresses of `host`, at first nothing.
    pub(super) fn answer(&self, host: &str) -> Arc<Mutex<Answer>> {
        let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        resolved.entry(host.to_owned()).or_default().clone()
    }

    /// With another resolver than the system's.
    #[cfg(test)]
    pub(super) fn resolving_by(resolver: Arc<dyn Resolver>) -> Self {
        Self { resolver, ..Self::default() }
    }

    /// With a resolver that never answers.
    #[cfg(test)]
    pub fn unresolving() -> Self {
        Self::resolving_by(Arc::new(super::discovery::Silent))
    }

    /// Has the resolver's last answer for `host` be this.
    #[cfg(test)]
    pub(super) fn set_answer(&self, host: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        *self.answer(host).lock().unwrap() = Answer::of(addresses);
    }

    /// What was decided at run time of the pool's members.
    pub(super) fn roster(&self, pool: &model::PoolName) -> Arc<Roster> {
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
        pools.retain(|_, left| Arc::strong_count(&left.shared) > 1 || left.shared.is_used());
    }
}
