//! More than the backends can do: what they can do is done, and the rest is told at once.

use crate::support::{Client, Config, Lb, Origin, Response};
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Requests that the backend serves at a time, how long each takes, and how many may wait.
const PLACES: usize = 4;
const SERVICE: Duration = Duration::from_millis(50);
const QUEUE: usize = 8;
/// What the backend can do in a second.
const CAPACITY: usize = PLACES * 20;
/// How long each load is kept up.
const LENGTH: Duration = Duration::from_millis(1500);
/// How long a client waits that was sent away, so that all of them arrive at several times the capacity
/// and the machine has something left for the balancer.
const PAUSE: Duration = Duration::from_millis(60);

/// What became of the requests of one load.
#[derive(Debug, Default)]
struct Outcome {
    served: AtomicUsize,
    shed: AtomicUsize,
}

impl Outcome {
    fn take(&self, response: &Response) -> bool {
        let served = response.status == 200;
        if served {
            assert_eq!(response.text(), "a");
            self.served.fetch_add(1, Ordering::Relaxed);
        } else {
            assert_eq!(response.status, 503, "{}", response.text());
            assert!(response.text().contains("overloaded"), "{}", response.text());
            let seconds: u64 = response.headers.get("retry-after").unwrap().parse().unwrap();
            assert!((1..=60).contains(&seconds), "Retry-After: {seconds}");
            assert!(!response.headers.has("x-backend-server"));
            self.shed.fetch_add(1, Ordering::Relaxed);
        }
        served
    }
}

/// `clients` that ask one thing after another, for as long as a load is kept up.
fn load(lb: &Lb, clients: usize) -> Outcome {
    let (outcome, over) = (Outcome::default(), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut client = lb.client();
                while !over.load(Ordering::Relaxed) {
                    let response = client.get("/");
                    if response.headers.lists("connection", "close") {
                        client = Client::connect(&lb.web());
                    }
                    if !outcome.take(&response) {
                        thread::park_timeout(PAUSE);
                    }
                }
            });
        }
        let start = Instant::now();
        while start.elapsed() < LENGTH {
            thread::park_timeout(LENGTH.saturating_sub(start.elapsed()));
        }
        over.store(true, Ordering::Relaxed);
    });
    outcome
}

#[test]
fn several_times_the_capacity_costs_next_to_none_of_it() {
    let origin = Origin::slow("a", SERVICE);
    let keys = format!(
        "health_check: off\n\
         limits: {{ connections_per_backend: {PLACES}, queue: {QUEUE}, queue_timeout: 5s }}"
    );
    let lb = Config::pool(&[origin.entry()], &keys).access_log().start();
    let (mut served, mut shed) = (0, 0);
    let mut shares = Vec::new();
    // What else the machine does may take from either load, but not from the same one each time.
    let kept_up = (0..6).any(|_| {
        // A client may ask again before the place of its last request is free, so not all of the
        // queue can be used without somebody being sent away.
        let peak = load(&lb, QUEUE);
        assert_eq!(peak.shed.load(Ordering::Relaxed), 0, "the queue has room for all of these");
        let over = load(&lb, PLACES + QUEUE + CAPACITY / 5);
        let (most, good) = (peak.served.into_inner(), over.served.load(Ordering::Relaxed));
        let turned_away = over.shed.into_inner();
        assert!(turned_away > good, "{turned_away} shed beside {good} served is no overload");
        served += most + good;
        shed += turned_away;
        shares.push(format!("{good} of {most}, {turned_away} shed"));
        good * 10 >= most * 9
    });
    println!("served under overload: {shares:?}");
    assert!(kept_up, "{shares:?}");

    // The backend never had more than it can bear, and the log says the same as the clients.
    assert_eq!(origin.most_working(), PLACES);
    assert_eq!(origin.count(), served);
    let entries = lb.wait_for_entries(served + shed);
    let with = |status: u16, reason: &str| {
        let fits = |it: &&serde_json::Value| it["status"] == status && it["reason"] == reason;
        entries.iter().filter(fits).count()
    };
    assert_eq!((with(200, "ok"), with(503, "overloaded")), (served, shed));
    assert_eq!(entries.len(), served + shed);
}
