//! Configurations that are not in force any more, until they are freed.
//!
//! To free thousands of backends takes milliseconds. Left to itself it would fall to whoever holds a
//! configuration last, and that may be a request. So they are also held here, and let go of where nobody
//! waits, once nobody else has them.

use super::Snapshot;
use std::{
    any::Any,
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

/// What is to be freed when nobody uses it any more.
#[derive(Debug, Default)]
pub struct Retired {
    /// Locked to take all of it, or to put something in.
    held: Mutex<Vec<Held>>,
}

type Held = Arc<dyn Any + Send + Sync>;

impl Retired {
    /// A snapshot that `successor` has followed. The pools that it does not have are held beside it: their
    /// tasks may be the last to have them.
    pub fn add(&self, snapshot: Arc<Snapshot>, successor: &Snapshot) {
        let stay: HashSet<_> = successor.pools.iter().map(Arc::as_ptr).collect();
        let go = snapshot.pools.iter().filter(|pool| !stay.contains(&Arc::as_ptr(pool)));
        let pools: Vec<Held> = go.map(|pool| pool.clone() as Held).collect();
        self.with(|held| held.extend(pools.into_iter().chain([snapshot as Held])));
    }

    /// Whether there is something that nobody else has.
    pub fn has_free(&self) -> bool {
        self.with(|held| held.iter().any(is_free))
    }

    /// Frees what nobody else has, which takes its time.
    pub fn sweep(&self) {
        let mut all = self.with(std::mem::take);
        loop {
            let before = all.len();
            // One frees another: a snapshot has pools.
            all.retain(|it| !is_free(it));
            if all.len() == before {
                break;
            }
        }
        self.with(|held| held.append(&mut all));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Vec<Held>) -> T) -> T {
        act(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn is_free(held: &Held) -> bool {
    Arc::strong_count(held) == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, filter::Registry, pool::Interner};
    use std::path::Path;

    fn snapshot(before: Option<&Snapshot>, pools: &str) -> Arc<Snapshot> {
        let text = format!(
            "listeners: {{ web: {{ address: 127.0.0.1:80 }} }}\nroutes: [{{ pool: a }}]\npools:\n{pools}"
        );
        let config =
            config::parse(&text, "lb.yaml", Path::new("/"), &|_| None, &Registry::default());
        let (config, interner) = (config.unwrap().config, Arc::new(Interner::default()));
        Arc::new(match before {
            None => Snapshot::compile(&config, Vec::new(), &interner, None, Arc::default()),
            Some(before) => before.succeed(&config, Vec::new(), &interner, None).unwrap(),
        })
    }

    #[test]
    fn what_somebody_uses_is_freed_after_its_last_use_and_by_nobody_else() {
        let (first, second) = ("  a: { backends: [a:1] }\n", "  a: { backends: [a:1, a:2] }\n");
        let same = "  b: { backends: [b:1] }\n";
        let before = snapshot(None, &format!("{first}{same}"));
        let after = snapshot(Some(&before), &format!("{second}{same}"));
        let retired = Retired::default();
        let (request, task) = (before.clone(), before.pools[0].clone());
        let (gone, gone_pool) = (Arc::downgrade(&before), Arc::downgrade(&task));
        retired.add(before, &after);
        retired.sweep();
        assert!(gone.upgrade().is_some() && !retired.has_free());
        // The end of a request frees nothing.
        drop(request);
        assert!(gone.strong_count() == 1 && retired.has_free());
        retired.sweep();
        assert!(gone.upgrade().is_none() && gone_pool.upgrade().is_some());
        drop(task);
        assert!(gone_pool.upgrade().is_some() && retired.has_free());
        retired.sweep();
        assert!(gone_pool.upgrade().is_none() && retired.held.lock().unwrap().is_empty());
        // What goes on is not waited for.
        assert_eq!(Arc::strong_count(&after.pools[1]), 1);
    }
}
