//! What the failure policy and the load-aware policies are for, seen by clients.

use crate::{
    seeds::for_each_seed,
    sim::{
        self,
        arrivals::Arrivals,
        catalogue,
        measures::Measures,
        scenario::{Action, Scenario, SimulatedBackend, pool, tcp_check},
        service::ServiceTime,
        station::Mode,
    },
};
use pingora_lb::model::{BalancePolicy, Pool, Retry, RetryOn, Weight};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::time::Duration;

/// The policy of a seed: each has every seventh.
fn policy(seed: u64) -> BalancePolicy {
    BalancePolicy::ALL[(seed % 7) as usize]
}

/// Equal backends with four workers, 10 ms a request, this many requests a second.
fn calm(pool: Pool, backends: usize, rate: f64, seconds: u64) -> Scenario {
    Scenario {
        pool,
        backends: (0..backends).map(|number| SimulatedBackend::new(number, 4)).collect(),
        arrivals: Arrivals::Poisson { rate },
        service: ServiceTime::Exponential(Duration::from_millis(10)),
        length: Duration::from_secs(seconds),
        warm_up: Duration::ZERO,
        keys: 10_000,
        idempotent: 1.0,
        wake: Duration::ZERO,
        patience: None,
        script: Vec::new(),
    }
}

/// The run of a scenario in which nothing happened that must not.
fn run(scenario: &Scenario, seed: u64) -> Measures {
    let measures = sim::run(scenario, seed);
    assert!(measures.violations.is_empty(), "seed {seed}: {:#?}", measures.violations);
    measures
}

#[test]
fn no_healthy_backend_starves() {
    for_each_seed(0..70, |seed| {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut scenario = calm(pool(policy(seed)), rng.random_range(2..10), 40.0, 50);
        for backend in &mut scenario.backends {
            backend.member.weight = Weight::try_new(rng.random_range(1..4)).expect("small");
            backend.member.probed = true;
        }
        scenario.pool.health_check = Some(tcp_check());
        scenario.pool.slow_start = Duration::from_secs(rng.random_range(0..10));
        // One is away for a while, and gets its share again.
        let (down, up) = (Duration::from_secs(5), Duration::from_secs(15));
        scenario.script = vec![(down, Action::Crash(0)), (up, Action::Set(0, Mode::NORMAL))];
        let tries = run(&scenario, seed).tries;
        let (all, backends): (u64, u64) = (tries.iter().sum(), tries.len() as u64);
        // While there is little to do, peak_ewma prefers whoever was fast of late, for a while.
        let part = if policy(seed) == BalancePolicy::PeakEwma { 100 } else { 8 };
        let enough = tries.iter().all(|tries| *tries >= all / backends / part);
        assert!(enough, "seed {seed}, {}: {tries:?}", policy(seed));
    });
}

#[test]
fn one_of_ten_that_fails_is_ejected_after_five_failures() {
    for_each_seed(0..14, |seed| {
        let no_retry = Retry::with_attempts(0);
        let pool = Pool { retry: no_retry, ..pool(policy(seed)) };
        let mut scenario = calm(pool, 10, 100.0, 29);
        scenario.script = vec![(Duration::ZERO, Action::Set(3, Mode::Failing))];
        let measures = run(&scenario, seed);
        // It fails in half a millisecond, so next to none are on it when it goes.
        assert!(measures.errors() <= 6, "seed {seed}: {}", measures.errors());
        if policy(seed) == BalancePolicy::PeakEwma {
            // One failure costs as much as an answer after a second: it keeps away by itself.
            return;
        }
        assert!(measures.errors() >= 5, "seed {seed}: {}", measures.errors());
        assert_eq!(measures.ejections, 1, "seed {seed}");
        // After base_time one more goes there, and it is out for twice as long.
        scenario.length = Duration::from_secs(85);
        let errors = run(&scenario, seed).errors();
        assert!((6..=8).contains(&errors), "seed {seed}: {errors}");
    });
}

#[test]
fn no_more_than_half_of_the_backends_are_ejected_when_all_fail() {
    for_each_seed(0..14, |seed| {
        let mut scenario = calm(pool(policy(seed)), 10, 100.0, 20);
        scenario.script =
            (0..10).map(|station| (Duration::ZERO, Action::Set(station, Mode::Failing))).collect();
        let measures = run(&scenario, seed);
        assert_eq!(measures.ejections, 5, "seed {seed}");
        assert_eq!(measures.answered(), 0, "seed {seed}");
    });
}

#[test]
fn retries_are_a_fifth_of_the_requests_when_all_fail() {
    for_each_seed(0..14, |seed| {
        let retry = Retry { on: vec![RetryOn::Status(503)], ..Retry::with_attempts(3) };
        let pool = Pool { retry, ejection: None, ..pool(policy(seed)) };
        let mut scenario = calm(pool, 10, 100.0, 30);
        scenario.script =
            (0..10).map(|station| (Duration::ZERO, Action::Set(station, Mode::Failing))).collect();
        let measures = run(&scenario, seed);
        let tries: u64 = measures.tries.iter().sum();
        // The floor is 3 a second, over the run and the window.
        let most = measures.arrived * 12 / 10 + 3 * (30 + 10);
        assert!(tries <= most, "seed {seed}: {tries} tries of {}", measures.arrived);
        assert!(tries >= measures.arrived * 11 / 10, "seed {seed}: retries happen");
    });
}

#[test]
fn a_retry_hides_one_backend_that_refuses() {
    for_each_seed(0..14, |seed| {
        let mut scenario = calm(pool(policy(seed)), 10, 100.0, 20);
        scenario.script = vec![(Duration::from_secs(5), Action::Set(0, Mode::Refusing))];
        let measures = run(&scenario, seed);
        assert_eq!(measures.errors(), 0, "seed {seed}");
        assert!(measures.retries > 0, "seed {seed}");
    });
}

#[test]
fn the_slow_one_of_eight_hurts_least_under_p2c_and_peak_ewma() {
    let entry = catalogue::ALL.iter().find(|entry| entry.id == "one-slow").expect("it is there");
    for_each_seed(0..3, |seed| {
        let run = |policy| {
            let length = Duration::from_secs(12);
            run(&Scenario { length, ..entry.scenario(policy) }, seed)
        };
        let [round_robin, p2c, peak_ewma] =
            [BalancePolicy::RoundRobin, BalancePolicy::P2c, BalancePolicy::PeakEwma].map(run);
        let p99 = |measures: &Measures| measures.quantiles([0.99])[0];
        for better in [&p2c, &peak_ewma] {
            let (better, worse) = (p99(better), p99(&round_robin));
            assert!(better * 2 <= worse, "seed {seed}: {better:?}, {worse:?}");
        }
        // What tells the two apart: the one counts who is busy, the other knows who is slow.
        let (counted, timed) = (p2c.tries[0], peak_ewma.tries[0]);
        assert!(timed * 2 < counted, "seed {seed}: {timed}, {counted}");
    });
}
