//! A backend: what the configuration says of it, and the state that outlives a configuration.

use super::{
    BackendTraffic, Opening, Tag, Time, ejection::Standing, ewma::PeakEwma, health::HealthState,
};
use crate::{
    model::{Amendment, BackendName, BackendState as Admission, Weight},
    tls::Trust,
};
use http::HeaderValue;
use pingora_core::protocols::l4::socket::SocketAddr;
use std::{
    borrow::Cow,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{
            AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
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

/// No weight was set at run time.
const AS_CONFIGURED: u32 = u32::MAX;
/// The share of its weight with which a backend begins its slow start.
const FIRST_SHARE: f64 = 0.1;

/// The state of one address in one pool. It is shared by every configuration that names the
/// address, so a reload forgets nothing.
#[derive(Debug)]
pub struct BackendState {
    /// Requests that hold a [`super::Lease`] on the backend.
    in_flight: AtomicUsize,
    /// How many there have been.
    requests: AtomicU64,
    /// A copy of what `probing` last decided, read without its lock.
    health: AtomicU8,
    /// The state machine of rise and fall; locked once a probe.
    probing: Mutex<HealthState>,
    /// Until when it is ejected, in nanoseconds; 0 when it is not.
    ejected_until: AtomicU64,
    /// What real traffic has shown; locked after a failure, and after a success that follows one.
    standing: Mutex<Standing>,
    /// Whether `standing` has anything to forget, so that most successes need no lock.
    blemished: AtomicBool,
    /// Whether it was ejected and has not begun a good answer since.
    on_probation: AtomicBool,
    /// When the slow start began, in nanoseconds; 0 when there is none.
    came_back: AtomicU64,
    /// How fast it answers; locked for a few instructions.
    speed: Mutex<PeakEwma>,
    /// What the operator decided at run time: 0 as configured, else an admission plus one.
    admission: AtomicU8,
    /// The weight set at run time.
    weight: AtomicU32,
    /// Whether it is on its way out of the pool.
    leaving: AtomicBool,
    /// Whether a pool has been in force since it was last probed that does not probe it.
    unwatched: AtomicBool,
    /// When its health, its ejection or what the operator decided of its state last changed, in
    /// nanoseconds.
    since: AtomicU64,
    /// In which way requests meet it where TLS is spoken.
    trust: Trust,
    /// In which way probes do: they may ask for another name, or at another port.
    probe_trust: Trust,
    traffic: BackendTraffic,
    /// Connections that requests will share; most backends have none of these.
    opening: OnceLock<Arc<Opening>>,
}

impl Default for BackendState {
    fn default() -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            requests: AtomicU64::new(0),
            health: AtomicU8::new(Health::Unknown as u8),
            probing: Mutex::default(),
            ejected_until: AtomicU64::new(0),
            standing: Mutex::default(),
            blemished: AtomicBool::new(false),
            on_probation: AtomicBool::new(false),
            came_back: AtomicU64::new(0),
            speed: Mutex::default(),
            admission: AtomicU8::new(0),
            weight: AtomicU32::new(AS_CONFIGURED),
            leaving: AtomicBool::new(false),
            unwatched: AtomicBool::new(false),
            since: AtomicU64::new(0),
            trust: Trust::default(),
            probe_trust: Trust::default(),
            traffic: BackendTraffic::default(),
            opening: OnceLock::new(),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BackendState {
    /// The state of a backend that is known from this moment on.
    pub(super) fn known_since(now: Time) -> Self {
        Self { since: AtomicU64::new(now.as_nanos()), ..Self::default() }
    }

    /// Since when its state and its health are what they are.
    pub fn since(&self) -> Time {
        Time::from_nanos(self.since.load(Relaxed))
    }

    pub(super) fn set_since(&self, now: Time) {
        self.since.store(now.as_nanos(), Relaxed);
    }

    /// Requests in flight at this moment.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// Requests that it was given since it is known, tries counted each.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Connections to it that are being opened and that requests will share.
    pub fn opening(&self) -> &Arc<Opening> {
        self.opening.get_or_init(Arc::default)
    }

    /// What was counted of it.
    pub fn traffic(&self) -> &BackendTraffic {
        &self.traffic
    }

    /// In which way requests meet it where TLS is spoken.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    pub(super) fn probe_trust(&self) -> &Trust {
        &self.probe_trust
    }

    /// What active probing found last.
    pub(super) fn health(&self) -> Health {
        Health::from_u8(self.health.load(Relaxed))
    }

    /// Until when it is ejected, if it is at `now`.
    pub fn ejected_until(&self, now: Time) -> Option<Time> {
        let until = Time::from_nanos(self.ejected_until.load(Relaxed));
        (until > now).then_some(until)
    }

    /// The moving average of its time to first byte at `now`.
    pub fn speed(&self, now: Time) -> Duration {
        Duration::from_nanos(locked(&self.speed).at(now) as u64)
    }

    /// How long one more request is likely to wait for it at `now`, with `in_flight` others beside it,
    /// in nanoseconds.
    pub(super) fn wait(&self, in_flight: f64, now: Time) -> f64 {
        locked(&self.speed).wait(in_flight, now)
    }

    pub(super) fn observe_speed(&self, took: Duration, now: Time) {
        locked(&self.speed).observe(took, now);
    }

    /// Whether it has `limit` requests in flight or more. Whoever finds it full has entered the queue
    /// before it looked or will look again once it has, and `end_request` looks at the queue after it
    /// has made room: of the two, one sees the other. That takes one order of all four, hence `SeqCst`.
    pub(super) fn is_full(&self, limit: Option<usize>) -> bool {
        limit.is_some_and(|limit| self.in_flight.load(SeqCst) >= limit)
    }

    /// Counts a request unless `limit` are in flight; looking and counting are one step, so that two
    /// cannot both take the last place.
    pub(super) fn try_begin(&self, limit: Option<usize>) -> bool {
        let begun = match limit {
            None => {
                self.in_flight.fetch_add(1, Relaxed);
                true
            }
            Some(limit) => {
                let more = |in_flight: usize| (in_flight < limit).then_some(in_flight + 1);
                self.in_flight.fetch_update(SeqCst, SeqCst, more).is_ok()
            }
        };
        if begun {
            self.requests.fetch_add(1, Relaxed);
        }
        begun
    }

    pub(super) fn end_request(&self) {
        // Seen before the queue is looked at, so that nobody waits for room that there is.
        self.in_flight.fetch_sub(1, SeqCst);
    }

    /// Runs one step of the health state machine and publishes its verdict.
    pub(super) fn with_probing<T>(&self, step: impl FnOnce(&mut HealthState) -> T) -> T {
        let mut probing = locked(&self.probing);
        let outcome = step(&mut probing);
        self.health.store(probing.health() as u8, Relaxed);
        outcome
    }

    /// No probes watch it from now on. What they found is forgotten when they begin again, and not before:
    /// requests that began in an earlier configuration still go by it.
    pub(super) fn leave_unwatched(&self) {
        self.unwatched.store(true, Relaxed);
    }

    /// A pool that probes it takes it over: what an earlier one found is forgotten if nobody has watched
    /// it since.
    pub(super) fn begin_to_watch(&self) {
        if self.unwatched.swap(false, Relaxed) {
            self.with_probing(|probing| *probing = HealthState::default());
        }
    }

    /// Runs one step of the ejection state machine.
    pub(super) fn with_standing<T>(&self, step: impl FnOnce(&mut Standing) -> T) -> T {
        let mut standing = locked(&self.standing);
        let outcome = step(&mut standing);
        self.blemished.store(!standing.is_clean(), Relaxed);
        self.on_probation.store(standing.is_on_probation(), Relaxed);
        outcome
    }

    pub(super) fn is_blemished(&self) -> bool {
        self.blemished.load(Relaxed)
    }

    pub(super) fn set_ejected(&self, until: Time) {
        self.ejected_until.store(until.as_nanos(), Relaxed);
    }

    /// Forgets its failures, and ends an ejection that they led to.
    pub(super) fn forgive(&self) {
        self.with_standing(Standing::success);
        self.set_ejected(Time::ZERO);
    }

    /// Ends an ejection whose time is over; `true` if there was one.
    pub(super) fn end_ejection(&self, now: Time) -> bool {
        let until = self.ejected_until.load(Relaxed);
        let over = until != 0 && Time::from_nanos(until) <= now;
        let zero = || self.ejected_until.compare_exchange(until, 0, Relaxed, Relaxed).is_ok();
        let ended = over && zero();
        if ended {
            self.set_since(now);
        }
        ended
    }

    pub(super) fn set_came_back(&self, at: Time) {
        self.came_back.store(at.as_nanos().max(1), Relaxed);
    }

    /// What the operator decided at run time: its admission and its weight.
    pub fn decided(&self) -> (Option<Admission>, Option<u32>) {
        let weight = self.weight.load(Relaxed);
        (self.decided_admission(), (weight != AS_CONFIGURED).then_some(weight))
    }

    fn decided_admission(&self) -> Option<Admission> {
        let index = usize::from(self.admission.load(Relaxed)).checked_sub(1)?;
        Admission::ALL.get(index).copied()
    }

    /// Whether it is on its way out of the pool: it gets no requests, and those in flight go on.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Relaxed)
    }

    pub(super) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Relaxed);
    }

    /// All that the operator decided at run time, and nothing else.
    pub(super) fn decide(&self, amendment: Amendment) {
        self.admission.store(amendment.state.map_or(0, |state| state as u8 + 1), Relaxed);
        self.weight.store(amendment.weight.map_or(AS_CONFIGURED, Weight::get), Relaxed);
    }

    /// What the operator decided at run time.
    pub(super) fn set_admission(&self, admission: Admission) {
        self.admission.store(admission as u8 + 1, Relaxed);
    }

    pub(super) fn set_weight(&self, weight: Weight) {
        self.weight.store(weight.get(), Relaxed);
    }
}

/// A backend in a pool's view: an address, what the configuration says of it, and its state.
#[derive(Debug)]
pub struct Member {
    pub(super) order: usize,
    pub(super) name: BackendName,
    /// The name of what it comes from in the configuration, or of what was added: its own, unless that
    /// is a host name with several addresses.
    pub(super) entry: BackendName,
    /// Whether it was added at run time.
    pub(super) added: bool,
    pub(super) name_value: HeaderValue,
    pub(super) address: SocketAddr,
    /// What identifies it among the members of its pool, in this process and in any other.
    pub(super) key: String,
    /// What a backend expects as `Host` when it is to see its own address.
    pub(super) authority: HeaderValue,
    /// The host name that it is configured by; `None` if that is an address.
    pub(super) host_name: Option<Box<str>>,
    pub(super) weight: Weight,
    pub(super) backup: bool,
    pub(super) admission: Admission,
    pub(super) probed: bool,
    pub(super) state: Arc<BackendState>,
    /// The member's tag in its pool's tickets, computed on first use.
    pub(super) tag: OnceLock<Tag>,
}

impl Member {
    /// Whether nothing would change if this stood in the place of `other`.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        let key = |it: &Self| (it.order, it.weight, it.backup, it.admission, it.probed, it.added);
        Arc::ptr_eq(&self.state, &other.state)
            && key(self) == key(other)
            && (&self.name, &self.entry, &self.key) == (&other.name, &other.entry, &other.key)
            && (&self.authority, &self.host_name) == (&other.authority, &other.host_name)
    }

    /// The position in the file.
    pub fn order(&self) -> usize {
        self.order
    }

    /// The backend's name.
    pub fn name(&self) -> &BackendName {
        &self.name
    }

    /// Whether it was added at run time.
    pub fn is_added(&self) -> bool {
        self.added
    }

    /// The backend's name as the value of a header field.
    pub fn name_value(&self) -> &HeaderValue {
        &self.name_value
    }

    /// Where to dial.
    pub fn address(&self) -> &SocketAddr {
        &self.address
    }

    /// The address as text, which identifies it among the members of its pool.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The backend's address as it is written in the configuration, as a `Host`.
    pub fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// The host name that the configuration gives it by; `None` if that is an address.
    pub fn host_name(&self) -> Option<&str> {
        self.host_name.as_deref()
    }

    /// What it is called by itself, where nobody says what to call it: its host name, else its address.
    pub fn own_name(&self) -> Cow<'_, str> {
        match (&self.host_name, &self.address) {
            (Some(name), _) => Cow::Borrowed(name),
            (None, SocketAddr::Inet(address)) => Cow::Owned(address.ip().to_string()),
            (None, SocketAddr::Unix(_)) => Cow::Borrowed("localhost"),
        }
    }

    /// Its share of traffic: as set at run time, else as configured.
    pub fn weight(&self) -> u32 {
        match self.state.weight.load(Relaxed) {
            AS_CONFIGURED => self.weight.get(),
            weight => weight,
        }
    }

    /// Whether it serves only when no other is usable.
    pub fn is_backup(&self) -> bool {
        self.backup
    }

    /// Whether it is probed, and usable only while probes succeed.
    pub fn is_probed(&self) -> bool {
        self.probed
    }

    /// What active probing knows; nothing of one that is not probed.
    pub fn health(&self) -> Health {
        if self.probed { self.state.health() } else { Health::Unknown }
    }

    /// The state that outlives the configuration.
    pub fn state(&self) -> &BackendState {
        &self.state
    }

    /// Whether it takes requests: as decided at run time, else as configured.
    pub fn admission(&self) -> Admission {
        if self.state.is_leaving() {
            return Admission::Disabled;
        }
        self.state.decided_admission().unwrap_or(self.admission)
    }

    /// Whether nothing speaks against its working: probes succeed and it is not ejected. A backend
    /// that is probed but has no result yet is not known to work: the first probe decides.
    pub fn works(&self, now: Time) -> bool {
        self.is_healthy() && self.state.ejected_until(now).is_none()
    }

    /// Whether new requests may go to it.
    pub fn is_usable(&self, now: Time) -> bool {
        self.admission() == Admission::Active && self.works(now)
    }

    /// It has begun an answer that is no failure. That is enough to send it more, though its name is
    /// cleared only when the answer is whole, which may take long.
    pub fn answered(&self) {
        if self.state.on_probation.load(Relaxed) {
            self.state.on_probation.store(false, Relaxed);
        }
    }

    /// Whether it was ejected, and the request that shows whether it works again is under way.
    pub(super) fn is_being_probed(&self) -> bool {
        self.state.on_probation.load(Relaxed) && self.state.in_flight() > 0
    }

    fn is_healthy(&self) -> bool {
        !self.probed || self.state.health() == Health::Healthy
    }

    /// Whether it takes what others cannot take, unless it is ejected.
    pub(super) fn could_serve(&self) -> bool {
        self.takes_new_clients() && self.is_healthy()
    }

    /// Whether it is there for others than the clients that stay with it.
    pub(super) fn takes_new_clients(&self) -> bool {
        self.admission() == Admission::Active && self.weight() > 0
    }

    /// Whether the requests of a client that stays with it may go to it.
    pub(super) fn keeps_clients(&self, now: Time) -> bool {
        self.admission() != Admission::Disabled && self.works(now)
    }

    /// How much of its weight counts at `now`: all of it, or less while it comes back.
    pub(super) fn share(&self, slow_start: Duration, now: Time) -> f64 {
        let came_back = self.state.came_back.load(Relaxed);
        if came_back == 0 || slow_start.is_zero() {
            return 1.0;
        }
        let since = now.since(Time::from_nanos(came_back));
        let done = since.as_secs_f64() / slow_start.as_secs_f64();
        (FIRST_SHARE + (1.0 - FIRST_SHARE) * done).min(1.0)
    }

    /// What identifies the backend among those a request has tried.
    pub(super) fn id(&self) -> usize {
        Arc::as_ptr(&self.state) as usize
    }
}

/// How a [`Member`] is made outside of discovery: by the simulator and by tests.
#[derive(Clone, Debug)]
pub struct MemberSpec {
    /// Its name, which is its key as well.
    pub name: String,
    /// Its share of traffic.
    pub weight: Weight,
    /// Whether it serves only when no other is usable.
    pub backup: bool,
    /// Whether it is probed, and unusable until a probe succeeds.
    pub probed: bool,
}

impl MemberSpec {
    /// A member at position `order` of its pool, with a state of its own or one that it takes over.
    ///
    /// # Panics
    /// If the name is not a valid one.
    pub fn build(self, order: usize, state: Arc<BackendState>) -> Arc<Member> {
        let name = BackendName::try_new(&self.name).expect("a valid name");
        let value = HeaderValue::from_str(&self.name).expect("names are visible ASCII");
        let port = u16::try_from(order % 60_000).expect("below 60,000") + 1;
        let host = u8::try_from(order / 60_000).expect("few enough members");
        let address = std::net::SocketAddr::from(([127, 0, 0, host], port));
        Arc::new(Member {
            order,
            entry: name.clone(),
            added: false,
            name,
            name_value: value.clone(),
            address: SocketAddr::Inet(address),
            key: self.name,
            authority: value,
            host_name: None,
            weight: self.weight,
            backup: self.backup,
            admission: Admission::Active,
            probed: self.probed,
            state,
            tag: OnceLock::new(),
        })
    }
}
