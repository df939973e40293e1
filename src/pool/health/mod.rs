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
pub(super) use probe::Connectors;
use probe::Prober;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    any::Any,
    collections::{HashMap, HashSet},
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tokio::{
    task::{AbortHandle, JoinError, JoinSet},
    time::Instant,
};

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport(Result<(), String>);

impl ProbeReport {
    /// The probe succeeded.
    pub fn success() -> Self {
        Self(Ok(()))
    }

    /// The probe failed, for this reason.
    pub fn failure(reason: impl Into<String>) -> Self {
        Self(Err(reason.into()))
    }
}

impl Pool {
    /// Probes the pool's backends for as long as it is polled. The first probes begin at once, all in
    /// parallel, and [`Pool::wait_until_checked`] waits for them. From then on each backend has a
    /// loop of its own, so that one that hangs delays no other, and a random part of the jitter is
    /// taken off each interval, so that the probes of a large pool spread and none comes late.
    pub async fn run_health_checks(self: Arc<Self>, seed: u64) {
        let Some(check) = self.spec().health_check.clone() else {
            self.mark_checked();
            return;
        };
        let probing =
            Arc::new(Probing { prober: Prober::new(&check, &self), check, pool: self.clone() });
        let mut membership = self.membership.subscribe();
        let mut rng = SmallRng::seed_from_u64(seed);
        probing.probe_all().await;
        self.mark_checked();
        let mut loops = Loops::default();
        for member in self.members().iter() {
            loops.begin(&probing, member, probing.pause(&mut rng), rng.random());
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
    async fn observe(self: &Arc<Self>, found: Vec<Found>) {
        let learn = |(member, report): Found| {
            let ok = report.0.is_ok();
            let change = self.core.learn_of_probe(&member, ok, self.now())?;
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
    }

    fn tell(&self, member: &Member, change: Change, report: ProbeReport) {
        let (name, address, pool) = (member.name(), member.address(), &self.spec().name);
        match (change, report.0) {
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
}

/// Who was probed, and what that found.
type Found = (Arc<Member>, ProbeReport);

/// What the probes of one pool share.
struct Probing {
    prober: Prober,
    check: HealthCheck,
    pool: Arc<Pool>,
}

impl Probing {
    /// Probes every backend once, and returns when the last has answered or run out of time. What is
    /// found meanwhile is taken in together: each time takes longer the more backends there are.
    async fn probe_all(self: &Arc<Self>) {
        let mut probes = JoinSet::new();
        for member in self.pool.members().iter() {
            let (probing, member) = (self.clone(), member.clone());
            probes.spawn(async move { probing.probe(member).await });
        }
        while let Some(first) = probes.join_next().await {
            let others = std::iter::from_fn(|| probes.try_join_next());
            let ended = std::iter::once(first).chain(others);
            let found = ended.filter_map(|probe| self.unless_failed(probe)).collect();
            self.pool.observe(found).await;
        }
    }

    /// A panic in a probe must not end the others.
    fn unless_failed(&self, probed: Result<Found, JoinError>) -> Option<Found> {
        let pool = &self.pool.spec().name;
        probed
            .inspect_err(|error| log::error!("pool {pool}: a health check failed to run: {error}"))
            .ok()
    }

    async fn probe(&self, member: Arc<Member>) -> Found {
        // Boxed, as it takes 20 KB that are of no use between two probes.
        let probe = Box::pin(self.prober.probe(&member, self.check.timeout));
        let report = match caught(probe).await {
            Ok(report) => report,
            Err(panic) => {
                let (name, pool) = (member.name(), &self.pool.spec().name);
                log::error!("pool {pool}: the health check of backend {name} panicked: {panic}");
                ProbeReport::failure("its check panicked")
            }
        };
        (member, report)
    }

    /// The time from the beginning of one probe to that of the next.
    fn pause(&self, rng: &mut SmallRng) -> Duration {
        let early = self.check.jitter.fraction() * rng.random_range(0.0..1.0);
        self.check.interval.mul_f64(1.0 - early)
    }

    /// Probes one backend for ever, the first time after `first`.
    async fn keep_probing(self: Arc<Self>, member: Arc<Member>, first: Duration, seed: u64) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut next = Instant::now() + first;
        loop {
            tokio::time::sleep_until(next).await;
            next = Instant::now() + self.pause(&mut rng);
            let found = self.probe(member.clone()).await;
            self.pool.observe(vec![found]).await;
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
    running: HashMap<usize, AbortHandle>,
}

impl Loops {
    /// Begins to probe `member` unless that is done already.
    fn begin(&mut self, probing: &Arc<Probing>, member: &Arc<Member>, first: Duration, seed: u64) {
        let (tasks, probing) = (&mut self.tasks, probing.clone());
        self.running
            .entry(member.id())
            .or_insert_with(|| tasks.spawn(probing.keep_probing(member.clone(), first, seed)));
    }

    /// Ends the loops of backends that are gone, and forgets those that have ended.
    fn retain(&mut self, members: &[Arc<Member>]) {
        while self.tasks.try_join_next().is_some() {}
        self.running.retain(|_, task| !task.is_finished());
        let present: HashSet<usize> = members.iter().map(|member| member.id()).collect();
        self.running.retain(|id, task| {
            let stays = present.contains(id);
            if !stays {
                task.abort();
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests;
