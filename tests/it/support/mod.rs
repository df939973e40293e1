//! What the tests stand on: scripted origins, raw clients, and the balancer as a child process.

pub mod address;
pub mod browser;
pub mod client;
pub mod crowd;
pub mod filtered;
pub mod h2;
pub mod h2_origin;
pub mod hello;
pub mod hosts;
pub mod http;
pub mod lb;
pub mod load;
pub mod origin;
pub mod probe;
pub mod raw;
pub mod tls;

pub use address::{Address, FullBacklog, Reserved};
pub use browser::Browser;
pub use client::{Client, each_side_ends_first, get, request};
pub use filtered::{filter_error, filter_error_beside, filtered};
pub use http::Response;
pub use lb::{Config, Files, Lb, Program};
pub use load::Load;
pub use origin::{Gate, Origin, Reply};
pub use raw::Raw;
pub use tls::{Authority, Certificate, TlsClient, TlsFront};

use std::{
    thread,
    time::{Duration, Instant},
};

/// How long anything may take that should happen soon. Generous: a test that waits this long has
/// failed, and a loaded machine must not make it fail.
pub const SOON: Duration = Duration::from_secs(10);

/// How long `eventually` rests between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Whether `condition` comes true within `limit`.
pub fn within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::park_timeout(LOOK_AGAIN);
    }
}

/// Waits until `condition` holds; fails the test, naming `what`, when it does not hold `SOON`.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    assert!(within(SOON, condition), "not within {SOON:?}: {what}");
}

/// How many times each name occurs.
pub fn tally<'a>(
    names: impl IntoIterator<Item = &'a String>,
) -> std::collections::BTreeMap<String, usize> {
    let mut counts = std::collections::BTreeMap::new();
    for name in names {
        *counts.entry(name.clone()).or_insert(0) += 1;
    }
    counts
}
