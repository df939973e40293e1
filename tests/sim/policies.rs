//! What each policy promises of its picks, asked of the core directly.

use crate::{
    seeds::for_each_seed,
    sim::scenario::{pool, tcp_check},
};
use pingora_lb::{
    model::{BackendState as Admission, BalancePolicy, Percent, Pool, Weight},
    pool::{Core, Lease, Member, MemberSpec, Outcome, Picked, Time, Tried, Wanted, hash},
};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{sync::Arc, time::Duration};

const PICKS: usize = 10_000;

/// A core with members of these weights.
fn core(pool: Pool, weights: &[u64]) -> Core {
    let probed = pool.health_check.is_some();
    let member = |(order, weight): (usize, &u64)| -> Arc<Member> {
        let weight = Weight::try_new(*weight).expect("small");
        let spec = MemberSpec { name: format!("m{order}"), weight, backup: false, probed };
        spec.build(order, Arc::default())
    };
    let core = Core::new(pool);
    core.set_members(weights.iter().enumerate().map(member).collect(), Time::ZERO);
    core
}

fn pick(core: &Core, now: Time, rng: &mut SmallRng) -> Option<Lease> {
    let key = Some(hash(&rng.random_range(0..10_000_u64).to_le_bytes()));
    let tried = Tried::default();
    match core.pick(&Wanted { key, kept: None, tried: &tried, place: None }, now, rng) {
        Picked::Lease(lease) => Some(lease),
        Picked::Busy | Picked::Nothing => None,
    }
}

/// The share of each member in so many picks, none of which takes any time.
fn shares(core: &Core, picks: usize, now: Time, rng: &mut SmallRng) -> Vec<f64> {
    let mut counts = vec![0.0; core.members().len()];
    for _ in 0..picks {
        let lease = pick(core, now, rng).expect("there is a backend");
        counts[lease.order()] += 1.0 / picks as f64;
    }
    counts
}

/// The share of each member in so many requests that are all in flight together.
fn loads(core: &Core, requests: usize, now: Time, rng: &mut SmallRng) -> Vec<f64> {
    let leases: Vec<_> =
        (0..requests).map(|_| pick(core, now, rng).expect("there is a backend")).collect();
    let mut counts = vec![0.0; core.members().len()];
    for lease in leases {
        counts[lease.order()] += 1.0 / requests as f64;
    }
    counts
}

fn draw_weights(rng: &mut SmallRng) -> Vec<u64> {
    (0..rng.random_range(2..9)).map(|_| rng.random_range(1..10)).collect()
}

fn at(seconds: f64) -> Time {
    Time::ZERO.after(Duration::from_secs_f64(seconds))
}

/// The probes of member `order` have this outcome, as often as it takes.
fn probe(core: &Core, order: usize, ok: bool, now: Time) {
    let members = core.members();
    for _ in 0..3 {
        core.observe_probe(&members[order], ok, now);
    }
}

#[test]
fn weights_are_met_within_two_percent() {
    use BalancePolicy::{P2c, Random, RoundRobin};
    for_each_seed(0..40, |seed| {
        let mut rng = SmallRng::seed_from_u64(seed);
        let weights = draw_weights(&mut rng);
        let total: u64 = weights.iter().sum();
        for (policy, within) in [(RoundRobin, 0.001), (Random, 0.02), (P2c, 0.02)] {
            let shares = shares(&core(pool(policy), &weights), PICKS, Time::ZERO, &mut rng);
            for (share, weight) in shares.iter().zip(&weights) {
                let wanted = *weight as f64 / total as f64;
                let seen = format!("seed {seed}, {policy}: {shares:?} for {weights:?}");
                assert!((share - wanted).abs() <= within, "{seen}");
            }
        }
    });
}

#[test]
fn load_follows_weight_where_load_is_looked_at() {
    use BalancePolicy::{LeastConnections, P2c, PeakEwma};
    for_each_seed(0..40, |seed| {
        let mut rng = SmallRng::seed_from_u64(seed);
        let weights = draw_weights(&mut rng);
        let total: u64 = weights.iter().sum();
        for policy in [LeastConnections, P2c, PeakEwma] {
            let loads = loads(&core(pool(policy), &weights), 1000, Time::ZERO, &mut rng);
            for (load, weight) in loads.iter().zip(&weights) {
                let wanted = *weight as f64 / total as f64;
                let seen = format!("seed {seed}, {policy}: {loads:?} for {weights:?}");
                assert!((load - wanted).abs() <= 0.02, "{seen}");
            }
        }
    });
}

/// A pool whose first member has just come back, at 100 s, and ramps for 10 s.
fn coming_back(policy: BalancePolicy, weights: &[u64]) -> Core {
    let slow_start = Duration::from_secs(10);
    let core = core(Pool { slow_start, health_check: Some(tcp_check()), ..pool(policy) }, weights);
    (0..weights.len()).for_each(|order| probe(&core, order, true, Time::ZERO));
    probe(&core, 0, false, at(50.0));
    probe(&core, 0, true, at(100.0));
    core
}

/// What the first member's share is while it counts for `part` of its weight.
fn ramped(weights: &[u64], part: f64) -> f64 {
    let others: u64 = weights[1..].iter().sum();
    let own = weights[0] as f64 * part;
    own / (own + others as f64)
}

#[test]
fn slow_start_ramps() {
    use BalancePolicy::{LeastConnections, P2c, PeakEwma, Random, RoundRobin};
    for_each_seed(0..20, |seed| {
        let mut rng = SmallRng::seed_from_u64(seed);
        let weights = draw_weights(&mut rng);
        for policy in [RoundRobin, Random, LeastConnections, P2c, PeakEwma] {
            let core = coming_back(policy, &weights);
            for (seconds, part) in [(0.0, 0.1), (5.0, 0.55), (10.0, 1.0), (60.0, 1.0)] {
                let now = at(100.0 + seconds);
                let seen = match policy {
                    RoundRobin | Random => shares(&core, 5000, now, &mut rng),
                    _ => loads(&core, 1000, now, &mut rng),
                };
                let wanted = ramped(&weights, part);
                assert!(
                    (seen[0] - wanted).abs() <= 0.03,
                    "seed {seed}, {policy} after {seconds} s: {seen:?}, wanted {wanted}"
                );
            }
        }
    });
}

#[test]
fn there_is_no_slow_start_at_boot() {
    let slow_start = Duration::from_secs(1000);
    let policy = BalancePolicy::RoundRobin;
    let pool = Pool { slow_start, health_check: Some(tcp_check()), ..pool(policy) };
    let core = core(pool, &[1, 1]);
    probe(&core, 0, true, Time::ZERO);
    // A ramp of the one would be half done when that of the other began.
    probe(&core, 1, true, at(500.0));
    let shares = shares(&core, 100, at(500.0), &mut SmallRng::seed_from_u64(0));
    assert!((shares[0] - 0.5).abs() < 0.01, "{shares:?}");
}

/// Which of four members are used, of which the last three fail their checks and the second is
/// disabled if `disabled`.
fn used(policy: BalancePolicy, threshold: f64, disabled: bool) -> Vec<bool> {
    let panic_threshold = Percent::try_new(threshold).expect("a percentage");
    let pool = Pool { panic_threshold, health_check: Some(tcp_check()), ..pool(policy) };
    let core = core(pool, &[1; 4]);
    for order in 0..4 {
        probe(&core, order, order == 0, Time::ZERO);
    }
    if disabled {
        let name = core.members()[1].name().clone();
        assert!(core.set_admission(&name, Admission::Disabled, Time::ZERO));
    }
    let mut rng = SmallRng::seed_from_u64(0);
    shares(&core, 1000, Time::ZERO, &mut rng).iter().map(|share| *share > 0.05).collect()
}

#[test]
fn panic_uses_all_but_the_disabled() {
    for policy in BalancePolicy::ALL {
        assert_eq!(used(policy, 50.0, false), [true; 4], "{policy}");
        assert_eq!(used(policy, 50.0, true), [true, false, true, true], "{policy}");
        assert_eq!(used(policy, 0.0, false), [true, false, false, false], "{policy}");
        assert_eq!(used(policy, 25.0, false), [true, false, false, false], "{policy}");
    }
}

#[test]
fn one_success_forgives_four_failures() {
    let core = core(pool(BalancePolicy::RoundRobin), &[1, 1]);
    let member = &core.members()[0];
    let took = Duration::from_millis(1);
    for _ in 0..10 {
        for _ in 0..4 {
            assert!(!core.report(member, Outcome::Failure { took }, Time::ZERO));
        }
        core.report(member, Outcome::Success { first_byte: took }, Time::ZERO);
    }
    let failures = [(); 5].map(|()| core.report(member, Outcome::Failure { took }, Time::ZERO));
    assert_eq!(failures, [false, false, false, false, true]);
}
