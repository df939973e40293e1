//! What holds in every run, whatever happens. The watch in `sim/watch.rs` checks it at every step:
//! nothing disabled, draining, unhealthy or ejected is picked outside panic; limits, the ejected
//! share and the retry budget are kept; the queue is bounded, first come, first served, and nobody
//! waits while there is room; and what counts requests in flight comes back to zero.

use crate::{drawn, seeds::for_each_seed, sim};

#[test]
fn no_run_breaks_a_promise() {
    for_each_seed(0..1050, |seed| {
        let scenario = drawn::scenario(seed);
        let measures = sim::run(&scenario, seed);
        let violations = &measures.violations;
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}\nin {scenario:#?}");
        let ends = measures.answered() + measures.errors() + measures.left;
        assert_eq!(ends, measures.arrived, "seed {seed}: every request ends once");
    });
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
