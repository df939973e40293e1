//! What must hold of any text that is read as a configuration.

use super::{Checked, ConfigErrors};
use crate::{
    filter::Registry,
    model::{Balance, Pool},
};
use std::path::Path;

/// See [`check`]. Bytes that are no text are none that a file's reader would let through.
pub(crate) fn fuzz(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        check(text);
    }
}

/// Parses a file in the folder of the examples that are shipped, which has the files that they name.
/// No variable is set: what a fuzzer finds must not depend on its environment.
fn parse_shipped(text: &str) -> Result<Checked, ConfigErrors> {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    super::parse(text, "lb.yaml", &base, &|_| None, &Registry::default())
}

/// Parses, and checks what holds for every input.
pub(super) fn check(text: &str) {
    let errors = match parse_shipped(text) {
        Ok(checked) => return checked.config.pools.iter().for_each(check_pool),
        Err(errors) => errors,
    };
    assert!(!errors.diagnostics().is_empty());
    for diagnostic in errors.diagnostics() {
        assert!(diagnostic.message.contains("; expected "), "{diagnostic}");
        assert!(diagnostic.position.is_none_or(|at| at.line > 0 && at.column > 0), "{diagnostic}");
        assert!(!diagnostic.to_string().contains('\n'), "{diagnostic:?}");
    }
}

/// Checks what holds among the values of every pool that is accepted.
fn check_pool(pool: &Pool) {
    let Pool { balance, sticky, ejection, retry, limits, .. } = pool;
    assert!(balance.bounded_load.is_none_or(|ratio| ratio > 1.0), "{balance:?}");
    assert!(balance.policy.is_hashing() || *balance == Balance::of(balance.policy), "{balance:?}");
    if let Some(sticky) = sticky {
        assert!(!sticky.cookie.is_empty() && sticky.path.starts_with('/'), "{sticky:?}");
        assert!(sticky.secret.as_ref().is_none_or(|secret| secret.len() >= 16), "{sticky:?}");
    }
    assert!(ejection.is_none_or(|ejection| ejection.base_time <= ejection.max_time));
    assert!(retry.attempts <= 10 && !retry.on.is_empty(), "{retry:?}");
    assert!(retry.backoff.base <= retry.backoff.max, "{retry:?}");
    assert!(limits.queue == 0 || limits.connections_per_backend.is_some(), "{limits:?}");
}
