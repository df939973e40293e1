//! Clients that send as slowly as they may, in the thousands, and what the others notice of them.
//!
//! `make slow-proof` is the long form, with `PINGORA_LB_SLOW_CONNECTIONS` of them. There the balancer has
//! a processor of its own, and all others share the rest: what slow clients cost themselves and the
//! origin is not what is asked.

use crate::support::{Client, Config, Lb, Origin, address::Address, eventually, request};
use rustix::{
    process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// The clients that behave.
const NORMAL: u32 = 64;
/// How often each of them asks, whether it has its last answer or not. A closed loop would ask less
/// often where the balancer is slow, and a higher rate would measure the line in front of it.
const PERIOD: Duration = Duration::from_millis(200);
/// How long it takes until each slow client has sent one byte more. Those who mean it send no more
/// than they must.
const DRIP: Duration = Duration::from_secs(5);
/// Requests of each normal client in a round of the long form, and those before it that are not counted.
const ASKED: u32 = 8;
const WARM_UP: u32 = 2;
/// Rounds without slow clients, and as many with them, in turn. Short ones and many, as what else the
/// machine does comes and goes.
const ROUNDS: usize = 41;
/// Before whom all that takes part comes on the processors, on the scale of nice(1), where the system
/// lets it: who else is there is not asked.
const NICE: i32 = -20;

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

/// One processor for the balancer, and the others; where there is but one, it is in both.
fn processors() -> (CpuSet, CpuSet) {
    let ours = sched_getaffinity(None).unwrap();
    let mut all = (0..CpuSet::MAX_CPU).filter(|at| ours.is_set(*at));
    let (mut one, mut others) = (CpuSet::new(), ours);
    let first = all.next().expect("this runs somewhere");
    one.set(first);
    if all.next().is_some() {
        others.unset(first);
    }
    (one, others)
}

/// Has this thread, and all that it starts from now on, run there.
fn run_on(processors: &CpuSet) {
    sched_setaffinity(None, processors).unwrap();
}

/// Asks `each` times with every normal client, all of them spread over the period; how long each
/// request took, in order.
fn normal_requests(lb: &Lb, each: u32, warm_up: u32) -> Vec<Duration> {
    let Address::Tcp(address) = lb.web() else { panic!("a listener on TCP") };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut times = runtime.block_on(async {
        let begin = Instant::now() + PERIOD;
        let mut clients = JoinSet::new();
        for number in 0..NORMAL {
            let first = begin + PERIOD * number / NORMAL;
            clients.spawn(async move {
                let mut client = TcpStream::connect(address).await.unwrap();
                client.set_nodelay(true).unwrap();
                let mut times = Vec::new();
                for turn in 0..warm_up + each {
                    times.push(ask_at(&mut client, first + PERIOD * turn).await);
                }
                times.split_off(warm_up as usize)
            });
        }
        clients.join_all().await.concat()
    });
    times.sort_unstable();
    times
}

/// How long a request took that was due then. It counts from then where the answer before it came too
/// late for it to be sent in time; where only this thread was late, from when it was sent.
async fn ask_at(client: &mut TcpStream, due: Instant) -> Duration {
    let held_up = Instant::now() > due;
    sleep_until(due).await;
    let start = if held_up { due } else { Instant::now() };
    client.write_all(&request("GET", "/", &[], b"")).await.unwrap();
    let mut answer = Vec::with_capacity(1024);
    while !answer.ends_with(b"\r\n\r\na") {
        let read = client.read_buf(&mut answer).await.unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
    }
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    start.elapsed()
}

/// The time that so many percent of them are below.
fn share(times: &[Duration], percent: usize) -> Duration {
    times[times.len() * percent / 100]
}

/// Does `work` while so many clients send a byte of a head now and then.
fn beside_slow_ones<T>(lb: &Lb, count: usize, work: impl FnOnce() -> T) -> T {
    let mut slow: Vec<Client> = (0..count).map(|_| lb.client()).collect();
    for client in &mut slow {
        client.send("GET /slow HTTP/1.1\r\nHost: a\r\nX-Slow: ");
    }
    // What is measured is that they are there, and not that they come.
    eventually("all are accepted", || lb.program.descriptors() > count);
    let (over, bytes) = (AtomicBool::new(false), AtomicUsize::new(0));
    let done = thread::scope(|scope| {
        let drips = scope.spawn(|| drip(&mut slow, &over, &bytes));
        let done = work();
        over.store(true, Ordering::Relaxed);
        drips.join().unwrap();
        done
    });
    assert!(bytes.into_inner() > 0);
    // They were held open all the time: one of them becomes a request now.
    let last = slow.last_mut().unwrap();
    last.send("\r\n\r\n");
    assert_eq!(last.response().status, 200);
    done
}

/// Has each send a byte within `DRIP`, one after another and evenly, until it is over.
fn drip(slow: &mut [Client], over: &AtomicBool, bytes: &AtomicUsize) {
    let between = DRIP / slow.len() as u32;
    let mut due = std::time::Instant::now();
    while !over.load(Ordering::Relaxed) {
        for client in &mut *slow {
            client.send(b"x");
            bytes.fetch_add(1, Ordering::Relaxed);
            due += between;
            if over.load(Ordering::Relaxed) {
                return;
            }
            thread::park_timeout(due.saturating_duration_since(std::time::Instant::now()));
        }
    }
}

#[test]
fn clients_that_are_slow_do_not_hold_up_the_others() {
    open_many(long().unwrap_or(300) as u64 + 1_000);
    let config = |origin: &Origin| {
        Config::pool(&[origin.entry()], "health_check: off").listener("timeouts: { header: 10m }")
    };
    match long() {
        None => {
            let origin = Origin::named("a");
            let lb = config(&origin).start();
            beside_slow_ones(&lb, 300, || normal_requests(&lb, 5, 0));
        }
        Some(count) => {
            // Of this thread, and of all that it starts.
            let _ = setpriority_process(None, NICE);
            let (one, others) = processors();
            run_on(&others);
            let origin = Origin::named("a");
            run_on(&one);
            let one_thread = "server: { threads: 1, upgrade_sock: upgrade.sock, pid_file: lb.pid }";
            let lb = config(&origin).and(one_thread).start();
            run_on(&others);
            compare(&lb, count);
        }
    }
}

/// The p99 of the normal clients beside `count` slow ones, and without them.
fn compare(lb: &Lb, count: usize) {
    let few = lb.program.descriptors() + 100;
    let rounds: Vec<[Duration; 2]> = (0..ROUNDS)
        .map(|_| {
            let without = normal_requests(lb, ASKED, WARM_UP);
            let with = beside_slow_ones(lb, count, || normal_requests(lb, ASKED, WARM_UP));
            eventually("the slow ones are gone", || lb.program.descriptors() < few);
            let times = [&without, &with];
            let [p50, p99] = [50, 99].map(|percent| times.map(|times| share(times, percent)));
            println!("without slow clients and beside {count}: p50 {p50:?}, p99 {p99:?}");
            p99
        })
        .collect();
    let of = |side: usize| {
        let mut times: Vec<Duration> = rounds.iter().map(|round| round[side]).collect();
        times.sort_unstable();
        let spread = [0, 1, 2, 3, 4].map(|at| times[at * (ROUNDS - 1) / 4]);
        println!("p99 {}, least to most by quarters: {spread:?}", ["without", "with"][side]);
        times[ROUNDS / 2]
    };
    let ratio = of(1).as_secs_f64() / of(0).as_secs_f64();
    println!("ratio of the medians of {ROUNDS} rounds: {ratio:.2}");
    assert!(ratio < 1.2, "{ratio:.2}");
}
