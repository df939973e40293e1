//! The tasks that keep a snapshot alive: name resolution, health checks, and certificates that follow
//! their files.

use super::Snapshot;
use crate::{pool::Pool, tls::Watch};
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinSet},
};

/// How often it is looked whether a file of certificates has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Owns the background tasks of a snapshot; dropping it ends them.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<()>,
    watched: Vec<(Arc<Pool>, AbortHandle)>,
    /// What follows the files of certificates.
    following: Option<AbortHandle>,
    /// Notified when certificates are to be read again, whether or not their files seem to have changed.
    reread: Arc<Notify>,
}

impl Supervisor {
    /// A supervisor of nothing yet, which has certificates read again whenever `reread` is notified.
    pub fn new(reread: Arc<Notify>) -> Self {
        Self { reread, ..Self::default() }
    }

    /// Starts the tasks of the pools of `snapshot` that have none yet, on the current runtime.
    pub fn watch(&mut self, snapshot: &Snapshot) {
        let watched: HashSet<_> = self.watched.iter().map(|(pool, _)| Arc::as_ptr(pool)).collect();
        for pool in &snapshot.pools {
            if !watched.contains(&Arc::as_ptr(pool)) {
                let task = self.tasks.spawn(keep(pool.clone()));
                self.watched.push((pool.clone(), task));
            }
        }
        if self.following.is_none() {
            self.follow(snapshot);
        }
    }

    /// Follows the certificates of `snapshot`, and of no other.
    fn follow(&mut self, snapshot: &Snapshot) {
        if let Some(before) = self.following.take() {
            before.abort();
        }
        let watch = snapshot.watch();
        if !watch.is_empty() {
            self.following = Some(self.tasks.spawn(follow(watch, self.reread.clone())));
        }
    }

    /// Ends the tasks of the pools that are not in `snapshot`.
    pub fn retain(&mut self, snapshot: &Snapshot) {
        let stay: HashSet<_> = snapshot.pools.iter().map(Arc::as_ptr).collect();
        self.watched.retain(|(watched, task)| {
            let stays = stay.contains(&Arc::as_ptr(watched));
            if !stays {
                task.abort();
            }
            stays
        });
        self.follow(snapshot);
        self.tell_of_panics();
    }

    /// Says which tasks have ended by a panic: nobody does their work any more.
    fn tell_of_panics(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                log::error!("a task that keeps a pool or certificates has ended: {error}");
            }
        }
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

/// Keeps certificates up to date with their files. The file system may be slow, so a thread for that
/// waits for it.
async fn follow(mut watch: Watch, reread: Arc<Notify>) {
    loop {
        let all = tokio::time::timeout(LOOK_EVERY, reread.notified()).await.is_ok();
        let looked = tokio::task::spawn_blocking(move || {
            watch.look(all);
            watch
        });
        watch = match looked.await {
            Ok(watch) => watch,
            Err(error) => return log::error!("certificates are not followed any more: {error}"),
        };
    }
}

/// Keeps one pool: resolves its names and probes what is known of it meanwhile.
async fn keep(pool: Arc<Pool>) {
    let decisions = pool.decisions();
    let resolving = async {
        pool.discover().await;
        pool.keep_discovering().await;
    };
    let deciding = pool.keep_refreshing(decisions);
    let probing = pool.clone().run_health_checks(rand::random());
    let maintaining = pool.run_maintenance();
    tokio::join!(resolving, deciding, probing, maintaining);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, filter::Registry, pool::Interner};
    use std::path::Path;
    use tokio::time::Instant;

    fn snapshot(text: &str, interner: Interner) -> Snapshot {
        let config =
            config::parse(text, "lb.yaml", Path::new("/"), &|_| None, &Registry::default());
        let config = config.unwrap().config;
        Snapshot::compile(&config, Vec::new(), &Arc::new(interner), None, Arc::default())
    }

    #[tokio::test]
    async fn a_backend_is_checked_and_serves_while_the_name_of_another_hangs() {
        let origin = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = origin.local_addr().unwrap();
        let text = format!(
            "
listeners: {{ web: {{ address: 127.0.0.1:80 }} }}
routes: [{{ pool: checked }}]
pools:
  checked: {{ backends: ['{address}', 'hangs.test:80'], health_check: {{ timeout: 1s }} }}
  unchecked: {{ backends: ['{address}', 'hangs.test:80'], health_check: off }}
"
        );
        let snapshot = snapshot(&text, Interner::unresolving());
        let mut supervisor = Supervisor::default();
        supervisor.watch(&snapshot);
        supervisor.wait_until_checked().await;
        for pool in &snapshot.pools {
            assert!(pool.core().is_usable(), "{pool:?}");
            assert!(!pool.is_checked(), "{pool:?}");
        }
    }

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
        let snapshot = snapshot(text, Interner::default());
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
