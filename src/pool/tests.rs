//! What the configurations of a pool hand on to each other.

use super::*;
use crate::{config, filter::Registry, model::RetryOn};
use std::{path::Path, time::Duration};

/// A pool of two backends with these keys, which shares what `interner` has.
async fn pool(interner: &Arc<Interner>, keys: &str) -> Arc<Pool> {
    let text = format!(
        "listeners: {{ web: {{ address: 127.0.0.1:80 }} }}
pools: {{ app: {{ backends: [127.0.0.1:1, 127.0.0.1:2], {keys} }} }}"
    );
    let config = config::parse(&text, "lb.yaml", Path::new("/"), &|_| None, &Registry::default());
    let pool = Pool::new(config.unwrap().config.pools.remove(0), interner.clone());
    pool.discover().await;
    pool
}

fn pick(pool: &Pool, tried: &Tried) -> Picked {
    pool.pick(&Wanted { key: None, kept: None, tried, place: None }, pool.now())
}

const FAILURE: Outcome = Outcome::Failure { took: Duration::ZERO };

#[tokio::test]
async fn an_ejection_that_the_pool_before_decides_on_ends_in_the_one_in_force() {
    let interner = Arc::default();
    let keys = "health_check: off, \
                ejection: { consecutive_failures: 1, base_time: 50ms, max_time: 50ms }";
    let before = pool(&interner, keys).await;
    before.put_in_force().await;
    let now = pool(&interner, &format!("{keys}, slow_start: 1ms")).await;
    now.put_in_force().await;
    let maintained = now.clone();
    let maintaining = tokio::spawn(async move { maintained.run_maintenance().await });
    // Until it waits for something to do.
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    before.report(&before.members()[0], FAILURE, 1, before.now());
    let is_back = || now.core().events().iter().any(|it| matches!(it.what, Happening::Returned));
    let returned = async {
        while !is_back() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), returned).await.expect("it is back");
    maintaining.abort();
}

#[tokio::test]
async fn what_is_found_of_a_backend_during_a_reload_counts_after_it() {
    let interner = Arc::default();
    let keys = "health_check: { rise: 1, fall: 1 }";
    let before = pool(&interner, keys).await;
    before.put_in_force().await;
    let members = before.members();
    for member in members.iter() {
        before.core().observe_probe(member, false, before.now());
    }
    let now = pool(&interner, &format!("{keys}, slow_start: 1ms")).await;
    before.core().observe_probe(&members[0], true, before.now());
    assert!(before.core().is_usable() && !now.core().is_usable());
    now.put_in_force().await;
    assert!(now.core().is_usable());
    // And so does what the last probes of the one before find.
    before.observe(vec![(members[0].clone(), Err("gone".to_owned()))]).await;
    assert!(!now.core().is_usable());
}

#[tokio::test]
async fn what_checks_found_is_forgotten_once_they_are_off() {
    let interner = Arc::default();
    let checked = pool(&interner, "health_check: {}").await;
    checked.put_in_force().await;
    let member = checked.members()[0].clone();
    checked.core().observe_probe(&member, false, checked.now());
    assert_eq!(member.health(), Health::Unhealthy);
    let again = pool(&interner, "health_check: { rise: 7 }").await;
    assert_eq!(again.members()[0].health(), Health::Unhealthy);
    let unchecked = pool(&interner, "health_check: off").await;
    unchecked.put_in_force().await;
    assert_eq!(unchecked.members()[0].health(), Health::Unknown);
    assert_eq!(member.health(), Health::Unhealthy, "requests may still go by it");
    let checked = pool(&interner, "health_check: {}").await;
    assert_eq!(checked.members()[0].health(), Health::Unknown);
}

#[tokio::test]
async fn what_is_in_flight_counts_in_a_pool_that_left_and_came_back() {
    let interner: Arc<Interner> = Arc::default();
    let first = pool(&interner, "health_check: off").await;
    let Picked::Lease(lease) = pick(&first, &Tried::default()) else { panic!("none") };
    drop(first);
    interner.forget_unused();
    let second = pool(&interner, "health_check: off").await;
    assert_eq!(second.core().in_flight(), 1);
    drop(lease);
    assert_eq!(second.core().in_flight(), 0);
    drop(second);
    interner.forget_unused();
    assert!(interner.pools.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_retry_that_the_budget_refuses_counts_on_no_backend() {
    let keys = "health_check: off, retry: { budget: { percent: 0%, min_per_second: 0 } }";
    let pool = pool(&Arc::default(), keys).await;
    let mut tried = Tried::default();
    let Picked::Lease(lease) = pick(&pool, &tried) else { panic!("none") };
    tried.add(&lease);
    let again = pool.pick_again(RetryOn::ConnectFailure, 1, None, &tried);
    assert_eq!(again.err(), Some(NoRetry::BudgetSpent));
    let requests: u64 = pool.members().iter().map(|member| member.state().requests()).sum();
    assert_eq!(requests, 1);
}

#[tokio::test]
async fn what_is_decided_of_a_name_ends_with_its_backend() {
    let interner = Arc::default();
    let parsed = |backends: &str| {
        let text = format!(
            "listeners: {{ web: {{ address: 127.0.0.1:80 }} }}
pools: {{ app: {{ backends: [{backends}], health_check: off }} }}"
        );
        let config = config::parse(&text, "x", Path::new("/"), &|_| None, &Registry::default());
        config.unwrap().config.pools.remove(0)
    };
    let states = async |backends: &str| {
        let pool = Pool::new(parsed(backends), Arc::clone(&interner));
        pool.discover().await;
        pool.put_in_force().await;
        pool.discover().await;
        let state = |member: &Arc<Member>| member.admission().as_str();
        (pool.members().iter().map(state).collect::<Vec<_>>(), pool)
    };
    let both = "{ address: 127.0.0.1:1, name: a }, { address: 127.0.0.1:2, name: b }";
    let (_, pool) = states(both).await;
    let drain = model::Amendment { state: Some(model::BackendState::Draining), weight: None };
    pool.amend("b", drain).unwrap();
    // It stays with the name for as long as that is there.
    let moved = both.replace("127.0.0.1:2", "127.0.0.1:3");
    assert_eq!(states(&moved).await.0, ["active", "draining"]);
    assert_eq!(states("{ address: 127.0.0.1:1, name: a }").await.0, ["active"]);
    assert_eq!(states(both).await.0, ["active", "active"]);
}
