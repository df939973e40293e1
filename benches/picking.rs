//! What choosing a backend costs as a pool grows, and what a change of the pool costs off the
//! request path.
//!
//! `cargo bench --bench picking`. A pick includes the lease that it comes with, and its end.

#![allow(missing_docs)]

use divan::{Bencher, black_box};
use pingora_lb::{
    model::{
        self, BackendProtocol, Balance, BalancePolicy, HealthCheck, HostHeader, Percent,
        PoolLimits, PoolName, PoolTimeouts, Probe, Retry, Weight,
    },
    pool::{BackendState, Core, Member, MemberSpec, Outcome, Picked, Time, Tried, Wanted, hash},
};
use rand::{SeedableRng, rngs::SmallRng};
use std::{cell::RefCell, num::NonZeroU32, sync::Arc, time::Duration};

const SIZES: [usize; 4] = [10, 100, 1_000, 10_000];
const CHANGING: usize = 1_000;

fn main() {
    divan::main();
}

/// A pool with this policy, whose checks decide at once.
fn spec(policy: BalancePolicy) -> model::Pool {
    model::Pool {
        name: PoolName::try_new("app").expect("a valid name"),
        backends: Vec::new(),
        resolve_interval: Duration::from_secs(30),
        protocol: BackendProtocol::Http1,
        host_header: HostHeader::Preserve,
        balance: Balance::of(policy),
        sticky: None,
        health_check: Some(HealthCheck {
            probe: Probe::Tcp,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            rise: NonZeroU32::MIN,
            fall: NonZeroU32::MIN,
            jitter: Percent::try_new(0.0).expect("a percentage"),
        }),
        ejection: None,
        panic_threshold: Percent::try_new(0.0).expect("a percentage"),
        slow_start: Duration::ZERO,
        retry: Retry::default(),
        timeouts: PoolTimeouts::default(),
        proxy_protocol: None,
        limits: PoolLimits::default(),
        tls: None,
        reveal_backend: true,
    }
}

/// Members of weights 1 to 3. A weight is no round number of anything, as in production.
fn members(size: usize) -> Vec<Arc<Member>> {
    probed(size, false)
}

fn probed(size: usize, probed: bool) -> Vec<Arc<Member>> {
    let member = |order: usize| {
        let weight = Weight::try_new(1 + order as u64 % 3).expect("a valid weight");
        let name = format!("10.0.{}.{}:80", order / 250, order % 250);
        let spec = MemberSpec { name, weight, backup: false, probed };
        spec.build(order, Arc::new(BackendState::default()))
    };
    (0..size).map(member).collect()
}

/// A pool in the middle of its work: every backend has a request in flight and has answered some.
fn busy(policy: BalancePolicy, size: usize) -> (Core, Vec<Picked>) {
    let core = Core::new(spec(policy));
    core.set_members(members(size), Time::ZERO);
    let (tried, mut rng) = (Tried::default(), SmallRng::seed_from_u64(1));
    let held = (0..size)
        .map(|at| {
            let key = Some(hash(&at.to_le_bytes()));
            let wanted = Wanted { key, kept: None, tried: &tried, place: None };
            core.pick(&wanted, Time::ZERO, &mut rng)
        })
        .collect();
    for (at, member) in core.members().iter().enumerate() {
        let first_byte = Duration::from_micros(1_000 + at as u64 % 50);
        core.report(member, Outcome::Success { first_byte }, Time::ZERO);
    }
    (core, held)
}

fn pick(bencher: Bencher<'_, '_>, policy: BalancePolicy, size: usize) {
    let (core, _held) = busy(policy, size);
    let (tried, mut rng) = (Tried::default(), SmallRng::seed_from_u64(2));
    let mut number = 0_u64;
    bencher.bench_local(|| {
        number += 1;
        let key = Some(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let wanted = Wanted { key, kept: None, tried: &tried, place: None };
        let picked = core.pick(black_box(&wanted), Time::from_nanos(number * 1_000), &mut rng);
        matches!(picked, Picked::Lease(_))
    });
}

#[divan::bench(args = SIZES, sample_size = 4096)]
fn round_robin(bencher: Bencher<'_, '_>, size: usize) {
    pick(bencher, BalancePolicy::RoundRobin, size);
}

#[divan::bench(args = SIZES, sample_size = 4096)]
fn random(bencher: Bencher<'_, '_>, size: usize) {
    pick(bencher, BalancePolicy::Random, size);
}

#[divan::bench(args = SIZES, sample_size = 256)]
fn least_connections(bencher: Bencher<'_, '_>, size: usize) {
    pick(bencher, BalancePolicy::LeastConnections, size);
}

#[divan::bench(args = SIZES, sample_size = 4096)]
fn p2c(bencher: Bencher<'_, '_>, size: usize) {
    pick(bencher, BalancePolicy::P2c, size);
}

#[divan::bench(args = SIZES, sample_size = 4096)]
fn peak_ewma(bencher: Bencher<'_, '_>, size: usize) {
    pick(bencher, BalancePolicy::PeakEwma, size);
}

#[divan::bench(args = SIZES, sample_size = 4096)]
fn ring_hash(bencher: Bencher<'_, '_>, size: usize) {
    pick(bencher, BalancePolicy::RingHash, size);
}

#[divan::bench(args = SIZES, sample_size = 4096)]
fn maglev(bencher: Bencher<'_, '_>, size: usize) {
    pick(bencher, BalancePolicy::Maglev, size);
}

thread_local! {
    /// What each thread has for itself: how often it has picked, and its random numbers.
    static OWN: RefCell<(u64, SmallRng)> = RefCell::new((0, SmallRng::seed_from_u64(3)));
}

/// From a pool of ten, alone and while another thread picks from the same pool.
#[divan::bench(args = BalancePolicy::ALL, threads = [1, 2], sample_size = 4096)]
fn beside_another_thread(bencher: Bencher<'_, '_>, policy: BalancePolicy) {
    let (core, _held) = busy(policy, 10);
    let tried = Tried::default();
    bencher.bench(|| {
        OWN.with_borrow_mut(|(number, rng)| {
            *number += 1;
            let key = Some(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let wanted = Wanted { key, kept: None, tried: &tried, place: None };
            let now = Time::from_nanos(*number * 1_000);
            matches!(core.pick(black_box(&wanted), now, rng), Picked::Lease(_))
        })
    });
}

/// One of a thousand backends leaves, and is back the next time.
#[divan::bench(args = BalancePolicy::ALL)]
fn membership_change(bencher: Bencher<'_, '_>, policy: BalancePolicy) {
    let core = Core::new(spec(policy));
    let all = members(CHANGING);
    let mut gone = false;
    bencher.bench_local(|| {
        gone = !gone;
        let mut next = all.clone();
        if gone {
            next.remove(CHANGING / 2);
        }
        core.set_members(next, Time::ZERO);
    });
}

/// One of a thousand backends fails its check, and passes the next.
#[divan::bench(args = BalancePolicy::ALL)]
fn health_change(bencher: Bencher<'_, '_>, policy: BalancePolicy) {
    let core = Core::new(spec(policy));
    let all = probed(CHANGING, true);
    for member in &all {
        // Before they are members, so that this rebuilds an empty pool.
        core.observe_probe(member, true, Time::ZERO);
    }
    core.set_members(all.clone(), Time::ZERO);
    let mut healthy = true;
    bencher.bench_local(|| {
        healthy = !healthy;
        core.observe_probe(&all[CHANGING / 2], healthy, Time::ZERO)
    });
}
