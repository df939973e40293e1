use super::*;
use crate::{
    config,
    filter::Registry,
    pool::{Health, Interner},
};
use async_trait::async_trait;
use pingora_core::{
    connectors::l4::Connect,
    protocols::l4::{socket::SocketAddr, stream::Stream},
};
use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

/// A pool of one backend with this check.
async fn pool(check: &str) -> Arc<Pool> {
    pool_of(1, check).await
}

async fn pool_of(backends: u16, check: &str) -> Arc<Pool> {
    let backends: Vec<_> = (1..=backends).map(|port| format!("127.0.0.1:{port}")).collect();
    let text = format!(
        "listeners: {{ web: {{ address: 127.0.0.1:80 }} }}
pools: {{ app: {{ backends: [{}], health_check: {check} }} }}",
        backends.join(", ")
    );
    let config = config::parse(&text, "lb.yaml", Path::new("/"), &|_| None, &Registry::default());
    let spec = config.unwrap().config.pools.remove(0);
    let pool = Pool::new(spec, Arc::new(Interner::default()));
    pool.discover().await;
    pool
}

fn probing(pool: &Arc<Pool>) -> Probing {
    Probing::new(pool.spec().health_check.clone().unwrap(), pool.clone())
}

/// Panics whenever it is to connect.
#[derive(Debug, Default)]
struct Panics(AtomicUsize);

#[async_trait]
impl Connect for Panics {
    async fn connect(&self, _: &SocketAddr) -> pingora::Result<Stream> {
        self.0.fetch_add(1, SeqCst);
        panic!("on purpose");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_has_failed_and_is_repeated() {
    let pool = pool("{ interval: 5s, jitter: 0% }").await;
    let member = pool.members()[0].clone();
    assert!(!member.state().with_probing(|state| state.health() == Health::Unhealthy));
    let (mut probing, panics) = (probing(&pool), Arc::new(Panics::default()));
    probing.prober.dialer = Some(panics.clone());
    let probed = Arc::new(ArcSwap::new(member.clone()));
    let looping = Arc::new(probing).keep_probing(probed, Duration::ZERO, 7);
    assert!(tokio::time::timeout(Duration::from_secs(12), looping).await.is_err());
    assert_eq!(panics.0.load(SeqCst), 3);
    assert_eq!(member.state().health(), Health::Unhealthy);
}

/// Each view takes a time that grows with the backends, so one a backend would take its square.
#[tokio::test]
async fn what_the_first_probes_of_a_large_pool_find_is_taken_in_together() {
    let pool = pool_of(1_000, "{ interval: 5s }").await;
    let before = pool.core.views.load(SeqCst);
    let (mut probing, panics) = (probing(&pool), Arc::new(Panics::default()));
    probing.prober.dialer = Some(panics.clone());
    Arc::new(probing).probe_all(&mut pool.membership.subscribe()).await;
    assert_eq!(panics.0.load(SeqCst), 1_000);
    assert!(pool.members().iter().all(|member| member.state().health() == Health::Unhealthy));
    let views = pool.core.views.load(SeqCst) - before;
    assert!((1..=100).contains(&views), "{views} views for 1,000 probes");
}

#[tokio::test]
async fn jitter_takes_a_random_part_off_each_interval_and_never_adds() {
    let pauses = |probing: &Probing| -> Vec<f64> {
        let mut rng = SmallRng::seed_from_u64(7);
        (0..1000).map(|_| probing.pause(&mut rng).as_secs_f64()).collect()
    };
    let some = pauses(&probing(&pool("{ interval: 10s, jitter: 20% }").await));
    assert!(some.iter().all(|pause| (8.0..=10.0).contains(pause)));
    let (least, most) = some.iter().fold((10.0_f64, 0.0_f64), |(a, b), &it| (a.min(it), b.max(it)));
    assert!(least < 8.1 && most > 9.9, "{least} to {most}");
    let mean = some.iter().sum::<f64>() / 1000.0;
    assert!((8.9..9.1).contains(&mean), "{mean}");
    let none = pauses(&probing(&pool("{ interval: 10s, jitter: 0% }").await));
    assert!(none.iter().all(|pause| (*pause - 10.0).abs() < 1e-9));
}

#[tokio::test(start_paused = true)]
async fn a_loop_goes_on_with_what_its_backend_is_by_now() {
    let (one, interner) = (pool("{ interval: 5s }").await, Arc::new(Interner::default()));
    let probing = Arc::new(probing(&one));
    let named = async |name: &str| {
        let mut spec = one.spec().clone();
        spec.backends[0].name = crate::model::BackendName::try_new(name).unwrap();
        let pool = Pool::new(spec, interner.clone());
        pool.discover().await;
        pool.members()[0].clone()
    };
    let (before, after) = (named("before").await, named("after").await);
    assert_eq!(before.id(), after.id());
    let mut loops = Loops::default();
    loops.begin(&probing, &before, Duration::from_secs(9), 7);
    let task = loops.running[&before.id()].task.id();
    loops.retain(std::slice::from_ref(&after));
    loops.begin(&probing, &after, Duration::ZERO, 7);
    let running = &loops.running[&before.id()];
    assert_eq!((running.member.load().name().as_str(), running.task.id()), ("after", task));
    loops.retain(&[]);
    assert!(loops.running.is_empty());
}

#[tokio::test]
async fn a_backend_that_comes_during_the_first_pass_is_probed_right_after_it() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let one = pool("{ interval: 60s, timeout: 300ms, http: { path: / } }").await;
    let mut spec = one.spec().clone();
    let entry = |address: &str| crate::config::parse_backend(address, Path::new("/")).unwrap();
    // The kernel accepts, and nobody answers.
    spec.backends = vec![entry(&format!("'{}'", silent.local_addr().unwrap()))];
    let pool = Pool::new(spec, Arc::default());
    pool.discover().await;
    let checking = tokio::spawn(pool.clone().run_health_checks(7));
    // Until the pass has begun.
    let _connection = silent.accept().await.unwrap();
    pool.add(entry("127.0.0.1:1")).await.unwrap();
    assert!(!pool.is_checked());
    let probed = async {
        while pool.members()[1].health() == Health::Unknown {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), probed).await.expect("it is probed");
    checking.abort();
}
