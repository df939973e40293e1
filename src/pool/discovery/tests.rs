use super::*;
use crate::{
    config,
    filter::Registry,
    pool::{Pool, Tried, Wanted},
};
use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

/// Answers by a script that a test changes.
#[derive(Debug, Default)]
struct Scripted {
    answers: Mutex<HashMap<String, Vec<IpAddr>>>,
    /// How many lookups there were.
    asked: AtomicUsize,
}

impl Scripted {
    /// `host` has these addresses from now on; with none, its lookups fail.
    fn set(&self, host: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap());
        self.answers.lock().unwrap().insert(host.to_owned(), addresses.collect());
    }
}

#[async_trait]
impl Resolver for Scripted {
    async fn look_up(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.fetch_add(1, SeqCst);
        if host == "hangs.test" {
            std::future::pending::<()>().await;
        }
        let answers = self.answers.lock().unwrap();
        answers
            .get(host)
            .filter(|found| !found.is_empty())
            .cloned()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the script has no answer"))
    }
}

struct Names {
    resolver: Arc<Scripted>,
    interner: Arc<Interner>,
    pool: Arc<Pool>,
}

impl Names {
    /// A pool of these backends whose host names are looked up in a script.
    fn new(backends: &str) -> Self {
        let resolver = Arc::new(Scripted::default());
        let interner = Arc::new(Interner::resolving_by(resolver.clone()));
        let text = format!(
            "listeners: {{ web: {{ address: 127.0.0.1:80 }} }}
pools: {{ app: {{ backends: {backends}, health_check: off, resolve_interval: 7s }} }}"
        );
        let config =
            config::parse(&text, "lb.yaml", Path::new("/"), &|_| None, &Registry::default());
        let pool = Pool::new(config.unwrap().config.pools.remove(0), interner.clone());
        Self { resolver, interner, pool }
    }

    /// The members by name, address and what they expect as `Host`, after another discovery.
    async fn discover(&self) -> Vec<String> {
        self.pool.discover().await;
        let members = self.pool.members();
        let told = |it: &Arc<Member>| {
            format!("{} {} {}", it.name(), it.key(), it.authority().to_str().unwrap())
        };
        members.iter().map(told).collect()
    }
}

#[tokio::test]
async fn all_addresses_of_a_name_are_backends_of_the_one_family() {
    let names = Names::new("[a.test:80]");
    names.resolver.set("a.test", &["10.0.0.2", "::2", "10.0.0.1", "10.0.0.2"]);
    let expected =
        ["a.test:80@10.0.0.1 10.0.0.1:80 a.test:80", "a.test:80@10.0.0.2 10.0.0.2:80 a.test:80"];
    assert_eq!(names.discover().await, expected);
    names.resolver.set("a.test", &["::2"]);
    assert_eq!(names.discover().await, ["a.test:80 [::2]:80 a.test:80"]);
}

#[tokio::test]
async fn a_lookup_that_fails_keeps_the_last_answer() {
    let names = Names::new("[a.test:80]");
    assert!(names.discover().await.is_empty());
    names.resolver.set("a.test", &["10.0.0.1"]);
    let known = names.discover().await;
    assert_eq!(known, ["a.test:80 10.0.0.1:80 a.test:80"]);
    names.resolver.set("a.test", &[]);
    assert_eq!(names.discover().await, known);
    // Another configuration of the pool, or of any other, knows it as well.
    let again =
        Names { pool: Pool::new(names.pool.spec().clone(), names.interner.clone()), ..names };
    assert_eq!(again.discover().await, known);
}

#[tokio::test]
async fn names_that_swap_their_addresses_swap_all_that_goes_with_them() {
    let names = Names::new("[{ address: \"a.test:80\", weight: 5 }, b.test:80]");
    names.resolver.set("a.test", &["10.0.0.1"]);
    names.resolver.set("b.test", &["10.0.0.2"]);
    let before = names.discover().await;
    assert_eq!(before, ["a.test:80 10.0.0.1:80 a.test:80", "b.test:80 10.0.0.2:80 b.test:80"]);
    names.resolver.set("a.test", &["10.0.0.2"]);
    names.resolver.set("b.test", &["10.0.0.1"]);
    let after = names.discover().await;
    assert_eq!(after, ["a.test:80 10.0.0.2:80 a.test:80", "b.test:80 10.0.0.1:80 b.test:80"]);
    assert_eq!(names.pool.members()[0].weight(), 5);
}

#[tokio::test]
async fn a_discovery_that_finds_the_same_changes_nothing() {
    let names = Names::new("[a.test:80, b.test:80]");
    names.resolver.set("a.test", &["10.0.0.1"]);
    names.resolver.set("b.test", &["10.0.0.2"]);
    names.discover().await;
    let (before, mut membership) = (names.pool.members(), names.pool.membership.subscribe());
    names.discover().await;
    assert!(Arc::ptr_eq(&before, &names.pool.members()));
    assert!(!membership.has_changed().unwrap());
    names.resolver.set("b.test", &["10.0.0.3"]);
    names.discover().await;
    assert!(membership.has_changed().unwrap());
    membership.mark_unchanged();
}

#[tokio::test]
async fn addresses_that_a_name_had_are_forgotten_once_nobody_uses_them() {
    let names = Names::new("[a.test:80]");
    let known = || names.interner.states.lock().unwrap().len();
    names.resolver.set("a.test", &["10.0.0.1"]);
    names.discover().await;
    let tried = Tried::default();
    let wanted = Wanted { key: None, kept: None, tried: &tried, place: None };
    let in_flight = names.pool.pick(&wanted, names.pool.now());
    for last in 2..100 {
        names.resolver.set("a.test", &[&format!("10.0.0.{last}")]);
        names.discover().await;
        // What is in flight on one that is gone may still have to be counted if it comes back.
        assert_eq!(known(), 2);
    }
    drop(in_flight);
    names.resolver.set("a.test", &["10.0.0.1"]);
    names.discover().await;
    assert_eq!(known(), 1);
    let (spec, interner) = (names.pool.spec().clone(), names.interner);
    drop(names.pool);
    interner.forget_unused();
    assert!(interner.resolved.lock().unwrap().is_empty(), "{:?}", spec.backends);
}

#[tokio::test(start_paused = true)]
async fn names_that_hang_are_given_up_all_at_the_same_time() {
    let names = Names::new("[hangs.test:80, a.test:80, hangs.test:81, b.test:80]");
    names.resolver.set("a.test", &["10.0.0.1"]);
    names.resolver.set("b.test", &["10.0.0.2"]);
    let began = tokio::time::Instant::now();
    let found = names.discover().await;
    assert_eq!(found, ["a.test:80 10.0.0.1:80 a.test:80", "b.test:80 10.0.0.2:80 b.test:80"]);
    assert_eq!(began.elapsed().as_secs(), RESOLVE_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn what_is_known_does_not_wait_for_a_name_that_hangs() {
    let names = Names::new("[hangs.test:80, hangs.test:81, 10.0.0.9:80]");
    let keys = |pool: &Pool| {
        pool.members().iter().map(|member| member.key().to_owned()).collect::<Vec<_>>()
    };
    let a_second = async |pool: &Arc<Pool>| {
        let kept = async { tokio::join!(pool.discover(), pool.clone().run_health_checks(7)) };
        tokio::time::timeout(Duration::from_secs(1), kept).await.is_ok()
    };
    assert!(!a_second(&names.pool).await);
    assert_eq!(keys(&names.pool), ["10.0.0.9:80"]);
    assert!(!names.pool.is_checked(), "its names may still have an answer");
    // A reload knows what names resolved to, and waits for none.
    names.interner.set_answer("hangs.test", &["10.0.0.1"]);
    let again = Pool::new(names.pool.spec().clone(), names.interner.clone());
    assert!(!a_second(&again).await);
    assert_eq!(keys(&again), ["10.0.0.1:80", "10.0.0.1:81", "10.0.0.9:80"]);
    assert!(again.is_checked());
}

#[tokio::test(start_paused = true)]
async fn names_are_looked_up_again_every_interval_and_addresses_never() {
    let names = Names::new("[a.test:80]");
    names.discover().await;
    let asked = || names.resolver.asked.load(SeqCst);
    // It never ends by itself: names may be added.
    let watch = async |names: &Names, seconds| {
        let discovering = names.pool.keep_discovering();
        tokio::time::timeout(Duration::from_secs(seconds), discovering).await.is_ok()
    };
    assert!(!watch(&names, 6).await);
    assert_eq!(asked(), 1);
    names.resolver.set("a.test", &["10.0.0.1"]);
    assert!(!watch(&names, 22).await);
    assert_eq!((asked(), names.pool.members().len()), (4, 1));
    let addresses = Names::new("[10.0.0.1:80]");
    addresses.discover().await;
    assert!(!watch(&addresses, 60).await);
    assert_eq!(addresses.resolver.asked.load(SeqCst), 0);
}

#[tokio::test]
async fn a_backend_with_the_address_of_another_is_known_as_such() {
    let names = Names::new("[a.test:80, { address: b.test:80, weight: 5 }, 10.0.0.3:80]");
    names.resolver.set("a.test", &["10.0.0.1"]);
    names.resolver.set("b.test", &["10.0.0.1", "10.0.0.3"]);
    let told = |pool: &Pool| {
        let repeats = pool.repeats().into_iter();
        repeats.map(|it| format!("{} of {}: {}", it.entry, it.of, it.name)).collect::<Vec<_>>()
    };
    for _ in 0..2 {
        assert_eq!(
            names.discover().await,
            ["a.test:80 10.0.0.1:80 a.test:80", "b.test:80@10.0.0.3 10.0.0.3:80 b.test:80"]
        );
        assert_eq!(
            told(&names.pool),
            [
                "b.test:80 of a.test:80: b.test:80@10.0.0.1",
                "10.0.0.3:80 of b.test:80@10.0.0.3: 10.0.0.3:80"
            ]
        );
    }
    names.resolver.set("b.test", &["10.0.0.2"]);
    names.discover().await;
    assert_eq!(told(&names.pool), [""; 0]);
}
