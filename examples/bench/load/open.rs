//! Requests that are due at random times, whether or not those before them were answered.

use super::{Answered, client::Client};
use crate::Outcome;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use rustix::thread::{ClockId, Timespec, clock_nanosleep_relative, set_current_timer_slack};
use std::{
    net::SocketAddr,
    num::NonZeroU64,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

/// How many requests can be under way. If all are, the next ones wait, and that counts as theirs.
const AT_A_TIME: usize = 64;

/// A request's latency counts from when it was due, so that a client held up by a slow answer does
/// not hide it (coordinated omission).
pub(crate) fn run(
    address: SocketAddr,
    path: &str,
    rate: f64,
    length: Duration,
) -> Outcome<Answered> {
    until(address, path, rate, length, &AtomicBool::new(false))
}

/// The same, until `end` is set if that is earlier.
pub(crate) fn until(
    address: SocketAddr,
    path: &str,
    rate: f64,
    length: Duration,
    end: &AtomicBool,
) -> Outcome<Answered> {
    let due = schedule(rate, length);
    let next = AtomicUsize::new(0);
    let (times, began) = (Mutex::new(Vec::with_capacity(due.len())), Instant::now());
    let work = || -> Outcome<()> {
        // Waking up in time matters here, not saving power.
        set_current_timer_slack(NonZeroU64::new(1))?;
        let mut client = Client::new(address, path);
        let mut own = Vec::new();
        while let Some(due) = due.get(next.fetch_add(1, Relaxed)).filter(|_| !end.load(Relaxed)) {
            let due = began + *due;
            sleep_until(due);
            client.get()?;
            own.push(due.elapsed());
        }
        times.lock().expect("no thread panics with the lock").extend(own);
        Ok(())
    };
    thread::scope(|scope| -> Outcome<()> {
        let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            worker.join().map_err(|_| "a client panicked")??;
        }
        Ok(())
    })?;
    let times = times.into_inner().expect("no thread panicked");
    Ok(Answered::of(times, began.elapsed()))
}

/// When requests are due: at random (Poisson), the same for everyone.
fn schedule(rate: f64, length: Duration) -> Vec<Duration> {
    let mut rng = SmallRng::seed_from_u64(1);
    let mut at = 0.0;
    let mut all = Vec::new();
    while at < length.as_secs_f64() {
        at -= rng.random_range(f64::EPSILON..1.0).ln() / rate;
        all.push(Duration::from_secs_f64(at));
    }
    all
}

fn sleep_until(due: Instant) {
    let left = due.saturating_duration_since(Instant::now());
    if let (Ok(wait), false) = (Timespec::try_from(left), left.is_zero()) {
        // Woken too soon by a signal is a request too soon, once in a while.
        let _ = clock_nanosleep_relative(ClockId::Monotonic, &wait);
    }
}
