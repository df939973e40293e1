//! Active probing: when to probe, what a probe found, and what that changes.
//!
//! The probes themselves are [`probe`]; the decision is the state machine in [`state`], which knows
//! nothing of time or sockets.

mod grpc;
mod probe;
mod state;

pub use state::Change;
pub(super) use state::HealthState;

use super::{Happening, Member, Pool};
use crate::model::HealthCheck;
use arc_swap::ArcSwap;
pub(super) use probe::Connectors;
use probe::Prober;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    any::Any,
    collections::{HashMap, HashSet},
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    task::Poll,
    time::Duration,
};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinError, JoinSet},
    time::Instant,
};

/// What one probe found.
enum ProbeReport {
    /// It succeeded.
    Good,
    /// It failed, for this reason.
    Bad(String),
    /// It could not be made, as we lack this: that says nothing of the backend.
    NotMade(String),
}

impl Pool {
    /// Probes the pool's backends for as long as it is polled. The first probes begin as soon as their
    /// backends are known, all in parallel, and [`Pool::wait_until_checked`] waits for them. From then
    /// on each backend has a loop of its own, so that one that hangs delays no other, and a random part
    /// of the jitter is taken off each interval, so that the probes of a large pool spread and none comes
    /// late.
    pub async fn run_health_checks(self: Arc<Self>, seed: u64) {
        let Some(check) = self.spec().health_check.clone() else {
            // The sender is in the pool that we hold.
            let _ = self.found.subscribe().wait_for(|found| *found).await.map(drop);
            self.mark_checked();
            return;
        };
        let probing = Arc::new(Probing::new(check, self.clone()));
        let mut membership = self.membership.subscribe();
        let mut rng = SmallRng::seed_from_u64(seed);
        let probed = probing.probe_all(&mut membership).await;
        self.mark_checked();
        let mut loops = Loops::default();
        for member in self.members().iter() {
            // One that came after the last look is probed now.
            let was_probed = probed.contains(&member.id());
            let first = if was_probed { probing.pause(&mut rng) } else { Duration::ZERO };
            loops.begin(&probing, member, first, rng.random());
        }
        loop {
            // The sender is in the pool that we hold.
            let _ = membership.changed().await;
            let members = self.members();
            loops.retain(&members);
            for member in members.iter() {
                loops.begin(&probing, member, Duration::ZERO, rng.random());
            }
        }
    }

    /// Takes in what probes found. The lines that tell of changes follow their effect.
    pub(super) async fn observe(self: &Arc<Self>, found: Vec<Found>) {
        let learn = |(member, report): Found| {
            let change = self.core.learn_of_probe(&member, report.is_ok(), self.now())?;
            Some((member, report, change))
        };
        let changed: Vec<_> = found.into_iter().filter_map(learn).collect();
        if changed.is_empty() {
            return;
        }
        let pool = self.clone();
        self.at_length(move || pool.core.renew_view(pool.now())).await;
        for (member, report, change) in changed {
            self.tell(&member, change, report);
        }
        self.report_availability();
        self.tell_successor().await;
    }

    fn tell(&self, member: &Member, change: Change, report: Result<(), String>) {
        let (name, address, pool) = (member.name(), member.address(), &self.spec().name);
        match (change, report) {
            (Change::Down, Err(reason)) => {
                self.core.record(member, Happening::Down(reason.clone()), self.now());
                log::warn!("backend {name} ({address}) of pool {pool} is DOWN: {reason}");
            }
            (Change::Up, _) => {
                self.core.record(member, Happening::Up, self.now());
                log::info!("backend {name} ({address}) of pool {pool} is UP");
            }
            (Change::FirstUp | Change::Down, _) => {
                log::debug!("backend {name} ({address}) of pool {pool} answers its first check");
            }
        }
    }

    /// What another configuration of the pool has to know of what this one has found.
    async fn tell_successor(&self) {
        if self.began.load(Relaxed)
            && let Some(successor) = self.successor()
        {
            successor.catch_up().await;
        }
    }
}

/// Who was probed, and what that found: an error says why it failed.
type Found = (Arc<Member>, Result<(), String>);
/// How the task of a probe has ended.
type Probed = Result<Option<Found>, JoinError>;

/// What the probes of one pool share.
struct Probing {
    prober: Prober,
    check: HealthCheck,
    pool: Arc<Pool>,
    /// When one was last not made because we lacked something.
    lacked: Mutex<Option<Instant>>,
}

impl Probing {
    fn new(check: HealthCheck, pool: Arc<Pool>) -> Self {
        Self { prober: Prober::new(&check, &pool), check, pool, lacked: Mutex::default() }
    }

    /// Probes every backend once, those too that host names lead to, and returns when the last has
    /// answered or run out of time. What is found meanwhile is taken in together: each time takes longer
    /// the more backends there are. Returns which they were.
    async fn probe_all(self: &Arc<Self>, membership: &mut watch::Receiver<()>) -> HashSet<usize> {
        let (mut probes, mut begun) = (JoinSet::new(), HashSet::new());
        let mut found = self.pool.found.subscribe();
        loop {
            // Before the look at the members: what changes after it is another look.
            let all = *found.borrow_and_update();
            membership.mark_unchanged();
            for member in self.pool.members().iter().filter(|member| begun.insert(member.id())) {
                let (probing, member) = (self.clone(), member.clone());
                probes.spawn(async move { probing.probe(member).await });
            }
            if all {
                break;
            }
            // The senders are in the pool that we hold. What is found meanwhile counts at once.
            tokio::select! {
                _ = found.changed() => {}
                _ = membership.changed() => {}
                Some(first) = probes.join_next() => self.take_in(first, &mut probes).await,
            }
        }
        while let Some(first) = probes.join_next().await {
            self.take_in(first, &mut probes).await;
        }
        begun
    }

    /// Takes in what the probe that ended `first` has found, and those that have ended by now.
    async fn take_in(&self, first: Probed, probes: &mut JoinSet<Option<Found>>) {
        let others = std::iter::from_fn(|| probes.try_join_next());
        let ended = std::iter::once(first).chain(others);
        let found = ended.filter_map(|probe| self.unless_failed(probe)).collect();
        self.pool.observe(found).await;
    }

    /// A panic in a probe must not end the others.
    fn unless_failed(&self, probed: Probed) -> Option<Found> {
        let pool = &self.pool.spec().name;
        probed
            .inspect_err(|error| log::error!("pool {pool}: a health check failed to run: {error}"))
            .ok()
            .flatten()
    }

    /// What is found of `member`; `None` if nothing was, as that was for us.
    async fn probe(&self, member: Arc<Member>) -> Option<Found> {
        // Boxed, as it takes 20 KB that are of no use between two probes.
        let probe = Box::pin(self.prober.probe(&member, self.check.timeout));
        let report = match caught(probe).await {
            Ok(report) => report,
            Err(panic) => {
                let (name, pool) = (member.name(), &self.pool.spec().name);
                log::error!("pool {pool}: the health check of backend {name} panicked: {panic}");
                ProbeReport::Bad("its check panicked".to_owned())
            }
        };
        match report {
            ProbeReport::Good => Some((member, Ok(()))),
            ProbeReport::Bad(reason) => Some((member, Err(reason))),
            ProbeReport::NotMade(lacking) => {
                self.tell_of(&lacking);
                None
            }
        }
    }

    /// Says that probes cannot be made, once for as long as it lasts.
    fn tell_of(&self, lacking: &str) {
        let now = Instant::now();
        let mut told = self.lacked.lock().unwrap_or_else(PoisonError::into_inner);
        let before = told.replace(now);
        if before.is_none_or(|before| now - before > 2 * self.check.interval) {
            let pool = &self.pool.spec().name;
            log::error!("pool {pool}: health checks cannot be made: {lacking}");
        }
    }

    /// The time from the beginning of one probe to that of the next.
    fn pause(&self, rng: &mut SmallRng) -> Duration {
        let early = self.check.jitter.fraction() * rng.random_range(0.0..1.0);
        self.check.interval.mul_f64(1.0 - early)
    }

    /// Probes one backend for ever, the first time after `first`, each time as what `member` says it is
    /// by then.
    async fn keep_probing(
        self: Arc<Self>,
        member: Arc<ArcSwap<Member>>,
        first: Duration,
        seed: u64,
    ) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut next = Instant::now() + first;
        loop {
            tokio::time::sleep_until(next).await;
            next = Instant::now() + self.pause(&mut rng);
            if let Some(found) = self.probe(member.load_full()).await {
                self.pool.observe(vec![found]).await;
            }
        }
    }
}

/// Runs a probe and catches its panic, with what it says: the loop must not end by it, as a backend
/// that nobody probes any more would be taken for ever for what it was.
async fn caught<T>(probe: impl Future<Output = T>) -> Result<T, String> {
    // All that a probe leaves behind is a connection of its own.
    let mut probe = pin!(probe);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| probe.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(said(&*panic))),
    })
    .await
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it did not say why").to_owned()
}

/// The loops that probe, by backend. Dropping this ends them.
#[derive(Default)]
struct Loops {
    tasks: JoinSet<()>,
    running: HashMap<usize, Loop>,
}

/// The loop of one backend.
struct Loop {
    task: AbortHandle,
    /// What it probes: another name may lead to the same backend.
    member: Arc<ArcSwap<Member>>,
}

impl Loops {
    /// Begins to probe `member`. A loop that probes the same backend goes on with this.
    fn begin(&mut self, probing: &Arc<Probing>, member: &Arc<Member>, first: Duration, seed: u64) {
        if let Some(running) = self.running.get(&member.id()) {
            running.member.store(member.clone());
            return;
        }
        let probed = Arc::new(ArcSwap::new(member.clone()));
        let task = self.tasks.spawn(probing.clone().keep_probing(probed.clone(), first, seed));
        self.running.insert(member.id(), Loop { task, member: probed });
    }

    /// Ends the loops of backends that are gone, and forgets those that have ended.
    fn retain(&mut self, members: &[Arc<Member>]) {
        while self.tasks.try_join_next().is_some() {}
        let present: HashSet<usize> = members.iter().map(|member| member.id()).collect();
        self.running.retain(|id, running| {
            let stays = present.contains(id);
            if !stays {
                running.task.abort();
            }
            stays && !running.task.is_finished()
        });
    }
}

#[cfg(test)]
mod tests;
