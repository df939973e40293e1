//! The tasks that keep a snapshot's pools alive: name resolution and health checks.

use super::Snapshot;
use crate::pool::Pool;
use std::{sync::Arc, time::Duration};
use tokio::task::{AbortHandle, JoinSet};

/// Owns the background tasks of every pool; dropping it ends them.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<()>,
    watched: Vec<(Arc<Pool>, AbortHandle)>,
}

impl Supervisor {
    /// Starts the tasks of the pools of `snapshot` that have none yet, on the current runtime.
    pub fn watch(&mut self, snapshot: &Snapshot) {
        for pool in &snapshot.pools {
            if !self.watched.iter().any(|(watched, _)| Arc::ptr_eq(watched, pool)) {
                let task = self.tasks.spawn(keep(pool.clone()));
                self.watched.push((pool.clone(), task));
            }
        }
    }

    /// Ends the tasks of the pools that are not in `snapshot`.
    pub fn retain(&mut self, snapshot: &Snapshot) {
        self.watched.retain(|(watched, task)| {
            let stays = snapshot.pools.iter().any(|pool| Arc::ptr_eq(pool, watched));
            if !stays {
                task.abort();
            }
            stays
        });
        while self.tasks.try_join_next().is_some() {}
    }

    /// Waits until the first pass of every pool that is watched is over. A pass ends by the check's
    /// own timeout once names are resolved; a resolver that hangs does not hold up the start any
    /// longer than that.
    pub async fn wait_until_checked(&self) {
        let pools = self.watched.iter().map(|(pool, _)| pool.clone());
        let mut waiting: JoinSet<()> = pools.map(wait_for).collect();
        while waiting.join_next().await.is_some() {}
    }
}

/// What a probe that ends exactly at its timeout needs to be taken in.
const GRACE: Duration = Duration::from_millis(100);

/// Waits for a pool's first pass, for as long as its check allows.
async fn wait_for(pool: Arc<Pool>) {
    let patience = pool.spec().health_check.as_ref().map_or(Duration::ZERO, |check| check.timeout);
    let checked = tokio::time::timeout(patience + GRACE, pool.wait_until_checked()).await;
    if checked.is_err() {
        log::warn!("pool {} is not checked yet; serving begins all the same", pool.spec().name);
    }
}

/// Keeps one pool: resolves its names first, then probes and goes on resolving.
async fn keep(pool: Arc<Pool>) {
    pool.discover().await;
    let resolving = async {
        if !pool.has_host_names() {
            std::future::pending::<()>().await;
        }
        loop {
            tokio::time::sleep(pool.resolve_interval()).await;
            pool.discover().await;
        }
    };
    let probing = pool.clone().run_health_checks(rand::random());
    let maintaining = pool.run_maintenance();
    tokio::join!(resolving, probing, maintaining);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, filter::Registry, pool::Interner};
    use std::path::Path;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn pools_that_are_never_checked_are_waited_for_all_at_once() {
        let text = "
listeners: { web: { address: 127.0.0.1:80 } }
routes: [{ pool: a }]
pools:
  a: { backends: [127.0.0.1:1], health_check: { timeout: 1s } }
  b: { backends: [127.0.0.1:2], health_check: { timeout: 2s } }
  c: { backends: [127.0.0.1:3], health_check: { timeout: 2s } }
";
        let config =
            config::parse(text, "lb.yaml", Path::new("/"), &|_| None, &Registry::default());
        let config = config.unwrap().config;
        let snapshot = Snapshot::compile(&config, Vec::new(), &Arc::new(Interner::default()), None);
        // Without their tasks, nothing is ever checked, as if the resolver hung.
        let mut supervisor = Supervisor::default();
        let idle = supervisor.tasks.spawn(std::future::pending());
        supervisor.watched =
            snapshot.pools.iter().map(|pool| (pool.clone(), idle.clone())).collect();
        let began = Instant::now();
        supervisor.wait_until_checked().await;
        let waited = began.elapsed().as_millis();
        assert!((2100..2110).contains(&waited), "{waited}");
    }
}
