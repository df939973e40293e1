//! Counters by their labels.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Counters by their labels, each kept for as long as somebody counts with it, and until its last value
/// was read.
#[derive(Debug)]
pub(super) struct Kept<K, V>(Mutex<BTreeMap<K, Arc<V>>>);

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Ord, V> Kept<K, V> {
    /// The one with these labels, made on first use.
    pub(super) fn get(&self, labels: K, new: impl FnOnce() -> V) -> Arc<V> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.entry(labels).or_insert_with(|| Arc::new(new())).clone()
    }

    /// All of them in order. Those that nobody counts with any more are there for the last time.
    pub(super) fn list(&self) -> Vec<(K, Arc<V>)> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list = Vec::with_capacity(kept.len());
        kept.retain(|labels, counter| {
            // Nobody can take up the last one meanwhile, as that takes the lock.
            let in_use = Arc::strong_count(counter) > 1;
            list.push((labels.clone(), counter.clone()));
            in_use
        });
        list
    }
}
