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
    let text = format!(
        "listeners: {{ web: {{ address: 127.0.0.1:80 }} }}
pools: {{ app: {{ backends: [127.0.0.1:1], health_check: {check} }} }}"
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
    let looping = Arc::new(probing).keep_probing(member.clone(), Duration::ZERO, 7);
    assert!(tokio::time::timeout(Duration::from_secs(12), looping).await.is_err());
    assert_eq!(panics.0.load(SeqCst), 3);
    assert_eq!(member.state().health(), Health::Unhealthy);
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
