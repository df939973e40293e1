//! What holds in every run, whatever happens. The watch in `sim/watch.rs` checks it at every step:
//! nothing disabled, draining, unhealthy or ejected is picked outside panic; limits, the ejected
//! share and the retry budget are kept; the queue is bounded, first come, first served, and nobody
//! waits while there is room; and what counts requests in flight comes back to zero.

use crate::{drawn, seeds::for_each_seed, sim};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[test]
fn no_run_breaks_a_promise() {
    let seen = Seen::default();
    for_each_seed(0..1050, |seed| {
        let scenario = drawn::scenario(seed);
        let measures = sim::run(&scenario, seed);
        let violations = &measures.violations;
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}\nin {scenario:#?}");
        let ends = measures.answered() + measures.errors() + measures.left;
        assert_eq!(ends, measures.arrived, "seed {seed}: every request ends once");
        seen.add(&measures);
    });
    if std::env::var_os("SIM_SEED").is_none() {
        seen.is_enough();
    }
}

/// How often the runs came to what is promised about: a promise that is never called upon is easily
/// kept.
#[derive(Debug, Default)]
struct Seen {
    answered: AtomicU64,
    ejections: AtomicU64,
    retries: AtomicU64,
    waited: AtomicU64,
    overloaded: AtomicU64,
    panic_picks: AtomicU64,
    left: AtomicU64,
}

impl Seen {
    fn add(&self, measures: &sim::measures::Measures) {
        for (sum, count) in [
            (&self.answered, measures.answered()),
            (&self.ejections, measures.ejections),
            (&self.retries, measures.retries),
            (&self.waited, measures.waited),
            (&self.overloaded, measures.overloaded),
            (&self.panic_picks, measures.panic_picks),
            (&self.left, measures.left),
        ] {
            sum.fetch_add(count, Relaxed);
        }
    }

    fn is_enough(&self) {
        let Self { answered, ejections, retries, waited, overloaded, panic_picks, left } = self;
        for count in [answered, ejections, retries, waited, overloaded, panic_picks, left] {
            assert!(count.load(Relaxed) > 1000, "{self:?}");
        }
    }
}

#[test]
fn a_seed_is_a_run() {
    for_each_seed(0..70, |seed| {
        let scenario = drawn::scenario(seed);
        let [once, again, other] = [seed, seed, seed + 1].map(|seed| sim::run(&scenario, seed));
        assert_eq!(once.fingerprint, again.fingerprint, "seed {seed}");
        assert_eq!(once.tries, again.tries, "seed {seed}");
        assert_ne!(once.fingerprint, other.fingerprint, "seed {seed}");
    });
}
