//! Scenarios drawn at random: everything that can be set, and everything that can go wrong.

use crate::sim::{
    arrivals::Arrivals,
    scenario::{Action, Scenario, SimulatedBackend, pool, tcp_check},
    service::ServiceTime,
    station::Mode,
};
use pingora_lb::model::{
    BackendState, BalancePolicy, Budget, Ejection, HealthCheck, Percent, Pool, PoolLimits, Retry,
    RetryOn, Weight,
};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::Duration,
};

/// How many requests a run has, roughly.
const REQUESTS: f64 = 400.0;

/// The scenario of a seed. Each policy has every seventh.
pub(crate) fn scenario(seed: u64) -> Scenario {
    let mut rng = SmallRng::seed_from_u64(seed);
    let rng = &mut rng;
    let policy = BalancePolicy::ALL[(seed % 7) as usize];
    let pool = draw_pool(policy, rng);
    let count = rng.random_range(1..=10);
    let probed = pool.health_check.is_some();
    let backends: Vec<_> = (0..count).map(|number| draw_backend(number, probed, rng)).collect();
    let length = seconds(5.0..60.0, rng);
    let service = draw_service(rng);
    Scenario {
        script: draw_script(&backends, length, rng),
        pool,
        backends,
        arrivals: draw_arrivals(REQUESTS / length.as_secs_f64(), rng),
        service,
        length,
        warm_up: Duration::ZERO,
        keys: if seed.is_multiple_of(5) { 0 } else { rng.random_range(1..1000) },
        idempotent: rng.random_range(0.0..=1.0),
        // Long enough for something to happen between a call and its answer.
        wake: if seed.is_multiple_of(3) {
            Duration::from_millis(seed % 50)
        } else {
            Duration::ZERO
        },
        patience: rng.random_bool(0.3).then(|| seconds(0.1..5.0, rng)),
    }
}

fn seconds(range: std::ops::Range<f64>, rng: &mut SmallRng) -> Duration {
    Duration::from_secs_f64(rng.random_range(range))
}

fn percent(rng: &mut SmallRng) -> Percent {
    let drawn = *[0.0, 10.0, 30.0, 50.0, 100.0].choose(rng).expect("not empty");
    Percent::try_new(drawn).expect("a percentage")
}

fn draw_pool(policy: BalancePolicy, rng: &mut SmallRng) -> Pool {
    let mut pool = pool(policy);
    if policy.is_hashing() && rng.random_bool(0.5) {
        pool.balance.bounded_load = Some(rng.random_range(1.0..3.0));
    }
    pool.health_check = rng.random_bool(0.6).then(|| draw_check(rng));
    pool.ejection = rng.random_bool(0.8).then(|| draw_ejection(rng));
    pool.panic_threshold = percent(rng);
    if rng.random_bool(0.5) {
        pool.slow_start = seconds(0.5..10.0, rng);
    }
    pool.retry = draw_retry(rng);
    pool.limits = draw_limits(rng);
    pool.timeouts.read = seconds(0.5..5.0, rng);
    pool
}

fn draw_check(rng: &mut SmallRng) -> HealthCheck {
    HealthCheck {
        interval: seconds(0.5..5.0, rng),
        timeout: seconds(0.1..2.0, rng),
        rise: NonZeroU32::MIN.saturating_add(rng.random_range(0..3)),
        fall: NonZeroU32::MIN.saturating_add(rng.random_range(0..3)),
        ..tcp_check()
    }
}

fn draw_ejection(rng: &mut SmallRng) -> Ejection {
    Ejection {
        consecutive_failures: NonZeroU32::MIN.saturating_add(rng.random_range(0..6)),
        base_time: seconds(0.5..10.0, rng),
        max_time: seconds(5.0..30.0, rng),
        max_percent: percent(rng),
    }
}

fn draw_retry(rng: &mut SmallRng) -> Retry {
    let budget = Budget { percent: percent(rng), min_per_second: rng.random_range(0..4) };
    let all = [RetryOn::ConnectFailure, RetryOn::Reset, RetryOn::Timeout, RetryOn::Status(503)];
    let mut on = all.to_vec();
    on.retain(|_| rng.random_bool(0.8));
    let per_try_timeout = rng.random_bool(0.5).then(|| seconds(0.2..2.0, rng));
    Retry { on, budget, per_try_timeout, ..Retry::with_attempts(rng.random_range(0..4)) }
}

fn draw_limits(rng: &mut SmallRng) -> PoolLimits {
    let limit = NonZeroUsize::new(rng.random_range(1..6));
    PoolLimits {
        connections_per_backend: limit.filter(|_| rng.random_bool(0.6)),
        queue: if rng.random_bool(0.7) { rng.random_range(1..30) } else { 0 },
        queue_timeout: seconds(0.1..5.0, rng),
    }
}

fn draw_backend(number: usize, probed: bool, rng: &mut SmallRng) -> SimulatedBackend {
    let mut backend = SimulatedBackend::new(number, rng.random_range(1..=4));
    backend.member.weight = Weight::try_new(rng.random_range(0..6)).expect("small");
    backend.member.backup = rng.random_bool(0.2);
    backend.member.probed = probed;
    backend.capacity.speed = rng.random_range(0.2..2.0);
    backend
}

fn draw_service(rng: &mut SmallRng) -> ServiceTime {
    let mean = seconds(0.005..0.3, rng);
    match rng.random_range(0..5) {
        0 => ServiceTime::Constant(mean),
        1 => ServiceTime::Exponential(mean),
        2 => ServiceTime::LogNormal { median: mean, sigma: rng.random_range(0.2..1.5) },
        3 => ServiceTime::Pareto { shape: 1.3, least: mean / 4, most: mean * 100 },
        _ => ServiceTime::Bimodal { usual: mean / 2, rare: mean * 10, probability: 0.05 },
    }
}

fn draw_arrivals(rate: f64, rng: &mut SmallRng) -> Arrivals {
    match rng.random_range(0..3) {
        0 => Arrivals::Poisson { rate },
        1 => Arrivals::Bursts {
            rate: rate / 2.0,
            burst: rate * 5.0,
            period: Duration::from_secs(5),
            on: Duration::from_millis(500),
        },
        _ => {
            let clients = rng.random_range(1..40);
            let think = Duration::from_secs_f64(f64::from(clients) / rate);
            Arrivals::ClosedLoop { clients: clients as usize, think }
        }
    }
}

fn draw_script(
    backends: &[SimulatedBackend],
    length: Duration,
    rng: &mut SmallRng,
) -> Vec<(Duration, Action)> {
    let steps = rng.random_range(0..15);
    (0..steps)
        .map(|_| (length.mul_f64(rng.random_range(0.0..1.0)), draw_action(backends.len(), rng)))
        .collect()
}

fn draw_action(count: usize, rng: &mut SmallRng) -> Action {
    let station = rng.random_range(0..count);
    let modes = [Mode::NORMAL, Mode::Refusing, Mode::Failing, Mode::Hanging];
    match rng.random_range(0..10) {
        0..=3 => Action::Set(station, *modes.choose(rng).expect("not empty")),
        4 => Action::Set(station, Mode::Working { slowdown: 10.0 }),
        5 => Action::Crash(station),
        6 => Action::Admit(station, *BackendState::ALL.choose(rng).expect("not empty")),
        7 => Action::Weigh(station, Weight::try_new(rng.random_range(0..6)).expect("small")),
        _ => Action::Members((0..count).filter(|_| rng.random_bool(0.7)).collect()),
    }
}
