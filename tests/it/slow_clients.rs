//! Clients that send as slowly as they may, in the thousands, and what the others notice of them.
//!
//! `make slow-proof` is the long form, with `PINGORA_LB_SLOW_CONNECTIONS` of them.

use crate::support::{Client, Config, Lb, Origin, eventually};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    io::Write,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

/// The clients that behave.
const NORMAL: usize = 64;
/// How long such a client rests between two requests, so that the machine is not at its limit without
/// the slow ones.
const REST: Duration = Duration::from_millis(100);
/// How long it takes until each slow client has sent one byte more. Those who mean it send no more
/// than they must.
const DRIP: Duration = Duration::from_secs(5);

/// How many slow ones there are in the long form.
fn long() -> Option<usize> {
    let count = std::env::var("PINGORA_LB_SLOW_CONNECTIONS").ok();
    count.map(|count| count.parse().expect("a number"))
}

/// Raises the number of descriptors that this process and those it starts may have.
fn open_many(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    assert!(most >= wanted, "this needs `ulimit -Hn` of {wanted}");
    let current = limit.current.unwrap_or(u64::MAX).max(wanted);
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit }).unwrap();
}

/// Asks `each` times with every normal client; how long each request took, in order.
fn normal_requests(lb: &Lb, each: usize) -> Vec<Duration> {
    let times: Vec<_> = thread::scope(|scope| {
        let clients: Vec<_> = (0..NORMAL)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = lb.client();
                    let mut ask = || {
                        let start = Instant::now();
                        assert_eq!(client.get("/").text(), "a");
                        let taken = start.elapsed();
                        thread::park_timeout(REST);
                        taken
                    };
                    (0..each).map(|_| ask()).collect::<Vec<_>>()
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let mut times = times;
    times.sort_unstable();
    times
}

fn p99(times: &[Duration]) -> Duration {
    times[times.len() * 99 / 100]
}

/// Does `work` while so many clients send a byte of a head now and then.
fn beside_slow_ones<T>(lb: &Lb, count: usize, work: impl FnOnce() -> T) -> T {
    let slow: Vec<Client> = (0..count).map(|_| lb.client()).collect();
    let mut writers: Vec<_> = slow.iter().map(Client::writer).collect();
    let start = b"GET /slow HTTP/1.1\r\nHost: a\r\nX-Slow: ";
    for writer in &mut writers {
        writer.write_all(start).unwrap();
    }
    // What is measured is that they are there, and not that they come.
    eventually("all are accepted", || lb.program.descriptors() > count);
    let (over, bytes) = (AtomicBool::new(false), AtomicUsize::new(0));
    let done = thread::scope(|scope| {
        let drips = scope.spawn(|| {
            // In a hundred bursts, as from many places.
            for burst in writers.chunks(count.div_ceil(100)).cycle() {
                for mut writer in burst {
                    writer.write_all(b"x").expect("a slow client is within its time");
                    bytes.fetch_add(1, Ordering::Relaxed);
                }
                if over.load(Ordering::Relaxed) {
                    return;
                }
                thread::park_timeout(DRIP / 100);
            }
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        drips.join().unwrap();
        done
    });
    assert!(bytes.into_inner() > 0);
    // They were held open all the time: one of them becomes a request now.
    let mut slow = slow;
    let last = slow.last_mut().unwrap();
    last.send("\r\n\r\n");
    assert_eq!(last.response().status, 200);
    done
}

#[test]
fn clients_that_are_slow_do_not_hold_up_the_others() {
    let count = long().unwrap_or(300);
    open_many(2 * count as u64 + 1_000);
    let origin = Origin::named("a");
    let lb = Config::pool(&[origin.entry()], "health_check: off")
        .listener("timeouts: { header: 10m }")
        .start();
    if long().is_none() {
        beside_slow_ones(&lb, count, || normal_requests(&lb, 5));
        return;
    }
    let few = lb.program.descriptors() + 100;
    let mut ratios: Vec<f64> = (0..5)
        .map(|_| {
            let without = normal_requests(&lb, 60);
            let with = beside_slow_ones(&lb, count, || normal_requests(&lb, 60));
            eventually("the slow ones are gone", || lb.program.descriptors() < few);
            let half = |times: &[Duration]| times[times.len() / 2];
            println!(
                "p50 {:?} without, {:?} beside {count} slow clients",
                half(&without),
                half(&with)
            );
            let (without, with) = (p99(&without), p99(&with));
            println!("p99 {without:?} and {with:?}");
            with.as_secs_f64() / without.as_secs_f64()
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    println!("ratio of the two, median of five rounds: {:.2} ({ratios:.2?})", ratios[2]);
    assert!(ratios[2] < 1.2, "{ratios:.2?}");
}
