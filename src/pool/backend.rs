//! A backend: what the configuration says of it, and the state that outlives a configuration.

use super::health::HealthState;
use crate::model::{BackendName, Weight};
use http::HeaderValue;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_load_balancing::Backend;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed},
};

/// What active probing knows of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    /// Not probed yet.
    Unknown,
    /// Probes succeed.
    Healthy,
    /// Probes fail.
    Unhealthy,
}

impl Health {
    fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::Healthy,
            2 => Self::Unhealthy,
            _ => Self::Unknown,
        }
    }
}

/// The state of one address in one pool. It is shared by every configuration that names the
/// address, so a reload forgets nothing.
#[derive(Default, Debug)]
pub struct BackendState {
    /// Requests that hold a [`super::Lease`] on the backend.
    in_flight: AtomicUsize,
    /// A copy of what `probing` last decided, read on every rebuild without its lock.
    health: AtomicU8,
    /// The state machine of rise and fall; locked once a probe.
    probing: Mutex<HealthState>,
}

impl BackendState {
    /// Requests in flight at this moment.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// What active probing knows.
    pub fn health(&self) -> Health {
        Health::from_u8(self.health.load(Relaxed))
    }

    pub(super) fn begin_request(&self) {
        self.in_flight.fetch_add(1, Relaxed);
    }

    pub(super) fn end_request(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// Runs one step of the health state machine and publishes its verdict.
    pub(super) fn with_probing<T>(&self, step: impl FnOnce(&mut HealthState) -> T) -> T {
        let mut probing = self.probing.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = step(&mut probing);
        self.health.store(probing.health() as u8, Relaxed);
        outcome
    }
}

/// A backend in a pool's view: an address, what the configuration says of it, and its state.
#[derive(Debug)]
pub struct Member {
    pub(super) order: usize,
    pub(super) name: BackendName,
    pub(super) name_value: HeaderValue,
    pub(super) address: SocketAddr,
    /// What a backend expects as `Host` when it is to see its own address.
    pub(super) authority: HeaderValue,
    pub(super) weight: Weight,
    pub(super) backup: bool,
    pub(super) probed: bool,
    pub(super) state: Arc<BackendState>,
}

impl Member {
    /// The member that our discovery attached to a backend of Pingora's.
    pub(super) fn of(backend: &Backend) -> Option<&Arc<Self>> {
        backend.ext.get::<Arc<Self>>()
    }

    /// The position in the file.
    pub fn order(&self) -> usize {
        self.order
    }

    /// The backend's name.
    pub fn name(&self) -> &BackendName {
        &self.name
    }

    /// The backend's name as the value of a header field.
    pub fn name_value(&self) -> &HeaderValue {
        &self.name_value
    }

    /// Where to dial.
    pub fn address(&self) -> &SocketAddr {
        &self.address
    }

    /// The backend's address as it is written in the configuration, as a `Host`.
    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// Its share of traffic.
    pub fn weight(&self) -> Weight {
        self.weight
    }

    /// Whether it serves only when no other is usable.
    pub fn is_backup(&self) -> bool {
        self.backup
    }

    /// The state that outlives the configuration.
    pub fn state(&self) -> &BackendState {
        &self.state
    }

    /// Whether new requests may go to it. A backend that is probed but has no result yet gets none:
    /// the first probe decides.
    pub fn is_usable(&self) -> bool {
        !self.probed || self.state.health() == Health::Healthy
    }

    /// What identifies the backend among those a request has tried.
    pub(super) fn id(&self) -> usize {
        Arc::as_ptr(&self.state) as usize
    }
}

/// A backend of Pingora's at `address`. The weight is always 1: a backend's identity in Pingora
/// includes its weight, and a change of weight must not make another backend of it.
pub(super) fn selectable(address: SocketAddr) -> Backend {
    Backend { addr: address, weight: 1, ext: pingora_load_balancing::Extensions::new() }
}
