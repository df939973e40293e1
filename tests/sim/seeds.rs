//! Runs a check for many seeds, on all processors, and tells which one failed.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Runs `check` for each of `seeds`, or for the one in `SIM_SEED` alone.
///
/// # Panics
/// If one of them fails; with the first that did.
pub(crate) fn for_each_seed(seeds: Range<u64>, check: impl Fn(u64) + Sync) {
    if let Ok(seed) = std::env::var("SIM_SEED") {
        return check(seed.parse().expect("SIM_SEED is a number"));
    }
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicU64::new(u64::MAX);
    let work = || {
        while failed.load(Relaxed) == u64::MAX {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= seeds.end {
                return;
            }
            if catch_unwind(AssertUnwindSafe(|| check(seed))).is_err() {
                failed.fetch_min(seed, Relaxed);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let failed = failed.into_inner();
    // The thread of a test is called as the test is.
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let again = format!("SIM_SEED={failed} cargo test --test sim {test}");
    assert!(failed == u64::MAX, "seed {failed} failed. To repeat it: {again}");
}
