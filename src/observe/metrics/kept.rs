//! Counters by their labels.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Counters by their labels, each kept for as long as somebody counts with it, and then until its last
/// value was read, or for one reload more if nobody reads.
#[derive(Debug)]
pub(super) struct Kept<K, V>(Mutex<BTreeMap<K, Counter<V>>>);

#[derive(Debug)]
struct Counter<V> {
    counter: Arc<V>,
    /// Whether nobody counted with it when that was last looked at.
    left: bool,
}

impl<V> Counter<V> {
    /// Nobody can take up the last one while the lock is held, as that takes it.
    fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.counter) > 1
    }
}

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Ord, V> Kept<K, V> {
    /// The one with these labels, made on first use.
    pub(super) fn get(&self, labels: K, new: impl FnOnce() -> V) -> Arc<V> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Counter { counter: Arc::new(new()), left: false };
        kept.entry(labels).or_insert_with(new).counter.clone()
    }

    /// All of them in order. Those that nobody counts with any more are there for the last time.
    pub(super) fn list(&self) -> Vec<(K, Arc<V>)> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list = Vec::with_capacity(kept.len());
        kept.retain(|labels, known| {
            let in_use = known.is_in_use();
            list.push((labels.clone(), known.counter.clone()));
            in_use
        });
        list
    }

    /// Forgets those that nobody counts with, and did not when this was last called.
    pub(super) fn forget_unused(&self) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, known| {
            let left = !known.is_in_use();
            let was_left = std::mem::replace(&mut known.left, left);
            !(was_left && left)
        });
    }
}
