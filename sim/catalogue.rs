//! The scenarios of docs/balancing.md: eight backends with four workers each, and what may happen
//! to them.

use super::{
    arrivals::Arrivals,
    events::StationId,
    scenario::{Action, Scenario, SimulatedBackend, pool, tcp_check},
    service::ServiceTime,
    station::Mode,
};
use pingora_lb::model::{BackendState, BalancePolicy};
use std::time::Duration;

const BACKENDS: usize = 8;
const WORKERS: usize = 4;
/// What most scenarios take as the mean service time.
const WORK: Duration = Duration::from_millis(20);

/// A scenario with what a reader has to know of it.
pub struct Entry {
    /// A word for files and anchors.
    pub id: &'static str,
    /// A heading.
    pub title: &'static str,
    /// What happens, in a sentence or two.
    pub what: &'static str,
    make: fn(BalancePolicy) -> Scenario,
}

impl Entry {
    /// The scenario under a policy.
    pub fn scenario(&self, policy: BalancePolicy) -> Scenario {
        (self.make)(policy)
    }
}

/// Every scenario, in the order of the document.
pub const ALL: [Entry; 9] = [
    Entry {
        id: "steady",
        title: "Steady, equal backends",
        what: "Nothing is wrong. 70% load, exponential service times with a mean of 20 ms.",
        make: steady,
    },
    Entry {
        id: "one-slow",
        title: "One of eight is 10 times slower",
        what: "As above, but one backend takes 10 times as long for everything, and passes its \
               health check. 70% of what all eight can do together.",
        make: one_slow,
    },
    Entry {
        id: "heavy-tail",
        title: "Heavy-tailed service times",
        what: "Most requests take 8 ms, a few take seconds (Pareto, shape 1.2, up to 5 s). 60% load.",
        make: heavy_tail,
    },
    Entry {
        id: "burst",
        title: "Bursts",
        what: "50% load, and for half a second in every five 150%: more than the backends can do.",
        make: burst,
    },
    Entry {
        id: "failing-fast",
        title: "One of eight fails fast",
        what: "After 10 s one backend answers 503 to everything, at once, and passes its health \
               check. 60% load.",
        make: failing_fast,
    },
    Entry {
        id: "deploy",
        title: "Rolling deploy without draining",
        what: "Every 6 s the next backend is killed with all that it works on, and is back after \
               3 s. 50% load; 80% of requests may be repeated.",
        make: deploy,
    },
    Entry {
        id: "drained-deploy",
        title: "Rolling deploy with draining",
        what: "The same, but each backend is set to `draining` a second before it is killed, and \
               to `active` when it is back.",
        make: drained_deploy,
    },
    Entry {
        id: "flapping",
        title: "Flapping",
        what: "One backend refuses connections for 2 s of every 5 s. 60% load.",
        make: flapping,
    },
    Entry {
        id: "half-down",
        title: "Half of the backends down",
        what: "Four of eight are killed at 20 s and are back at 40 s. 40% load, which is 80% of \
               what the other four can do; 80% of requests may be repeated.",
        make: half_down,
    },
];

/// Eight equal backends, so many of which could be busy all the time with this load.
fn base(policy: BalancePolicy, service: ServiceTime, load: f64, equal_to: f64) -> Scenario {
    let mut pool = pool(policy);
    pool.health_check = Some(tcp_check());
    let mut backends: Vec<_> =
        (0..BACKENDS).map(|number| SimulatedBackend::new(number, WORKERS)).collect();
    for backend in &mut backends {
        backend.member.probed = true;
    }
    let capacity = equal_to * WORKERS as f64 / service.mean().as_secs_f64();
    Scenario {
        pool,
        backends,
        arrivals: Arrivals::Poisson { rate: load * capacity },
        service,
        length: Duration::from_secs(60),
        warm_up: Duration::from_secs(5),
        keys: 10_000,
        idempotent: 1.0,
        wake: Duration::ZERO,
        patience: None,
        script: Vec::new(),
    }
}

fn usual(policy: BalancePolicy, load: f64) -> Scenario {
    base(policy, ServiceTime::Exponential(WORK), load, BACKENDS as f64)
}

fn steady(policy: BalancePolicy) -> Scenario {
    usual(policy, 0.7)
}

fn one_slow(policy: BalancePolicy) -> Scenario {
    let slow = Action::Set(0, Mode::Working { slowdown: 10.0 });
    Scenario {
        script: vec![(Duration::ZERO, slow)],
        ..base(policy, ServiceTime::Exponential(WORK), 0.7, BACKENDS as f64 - 0.9)
    }
}

fn heavy_tail(policy: BalancePolicy) -> Scenario {
    let (least, most) = (Duration::from_millis(8), Duration::from_secs(5));
    base(policy, ServiceTime::Pareto { shape: 1.2, least, most }, 0.6, BACKENDS as f64)
}

fn burst(policy: BalancePolicy) -> Scenario {
    let Scenario { arrivals: Arrivals::Poisson { rate: full }, .. } = usual(policy, 1.0) else {
        unreachable!("the usual arrivals are Poisson")
    };
    let arrivals = Arrivals::Bursts {
        rate: 0.5 * full,
        burst: 1.5 * full,
        period: Duration::from_secs(5),
        on: Duration::from_millis(500),
    };
    Scenario { arrivals, ..usual(policy, 0.5) }
}

fn failing_fast(policy: BalancePolicy) -> Scenario {
    let fails = (Duration::from_secs(10), Action::Set(0, Mode::Failing));
    Scenario { script: vec![fails], ..usual(policy, 0.6) }
}

fn deploy(policy: BalancePolicy) -> Scenario {
    let restart = |station: StationId| {
        let at = Duration::from_secs(8 + 6 * station as u64);
        down_and_up(station, at, at + Duration::from_secs(3))
    };
    let script = (0..BACKENDS).flat_map(restart).collect();
    Scenario { script, idempotent: 0.8, ..usual(policy, 0.5) }
}

fn drained_deploy(policy: BalancePolicy) -> Scenario {
    let mut scenario = deploy(policy);
    let admit = |(at, action): &(Duration, Action)| match action {
        Action::Crash(station) => {
            let before = at.saturating_sub(Duration::from_secs(1));
            (before, Action::Admit(*station, BackendState::Draining))
        }
        Action::Set(station, _) => (*at, Action::Admit(*station, BackendState::Active)),
        other => (*at, other.clone()),
    };
    let admissions: Vec<_> = scenario.script.iter().map(admit).collect();
    scenario.script.extend(admissions);
    scenario
}

fn flapping(policy: BalancePolicy) -> Scenario {
    let flap = |number: u64| {
        let at = Duration::from_secs(5 * number);
        let modes = [(at, Mode::Refusing), (at + Duration::from_secs(2), Mode::NORMAL)];
        modes.map(|(at, mode)| (at, Action::Set(0, mode)))
    };
    Scenario { script: (1..12).flat_map(flap).collect(), ..usual(policy, 0.6) }
}

fn half_down(policy: BalancePolicy) -> Scenario {
    let (down, up) = (Duration::from_secs(20), Duration::from_secs(40));
    let script = (0..BACKENDS / 2).flat_map(|station| down_and_up(station, down, up)).collect();
    Scenario { script, idempotent: 0.8, ..usual(policy, 0.4) }
}

fn down_and_up(station: StationId, down: Duration, up: Duration) -> [(Duration, Action); 2] {
    [(down, Action::Crash(station)), (up, Action::Set(station, Mode::NORMAL))]
}
