//! Who has the load when, and what came of it.

use crate::{
    Outcome,
    load::{self, Answered},
    machine::Machine,
    proxies::{Contender, Proxy},
    rows::{Load, Row},
};
use serde::Serialize;
use std::time::{Duration, Instant};

/// How long each proxy has the load before anything counts.
const WARM_UP: Duration = Duration::from_secs(1);

/// What one proxy did in one round of a row.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Turn {
    pub(crate) row: &'static str,
    pub(crate) contender: String,
    pub(crate) round: usize,
    /// The row's main figure.
    pub(crate) figure: f64,
    /// Microseconds of CPU time for each piece of work, outside of the kernel and in it.
    pub(crate) user: Option<f64>,
    pub(crate) system: Option<f64>,
    /// Pieces of work a second.
    pub(crate) per_second: Option<f64>,
    /// How much of its processors the proxy used, 0 to 1. Well below 1, `per_second` says how fast
    /// the load was, not the proxy.
    pub(crate) busy: Option<f64>,
    /// How long a piece of work took, in microseconds.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
}

/// Everything of a turn but who had it.
#[derive(Debug, Default)]
struct Came {
    figure: f64,
    user: Option<f64>,
    system: Option<f64>,
    per_second: Option<f64>,
    busy: Option<f64>,
    p50: Option<f64>,
    p99: Option<f64>,
}

/// Runs all rows: in each round every contender that can, in another order each time.
pub(crate) fn run(
    machine: &Machine,
    rows: &[&'static Row],
    contenders: &[Contender],
    seconds: u64,
    rounds: usize,
) -> Outcome<Vec<Turn>> {
    let mut turns = Vec::new();
    for row in rows {
        eprintln!("{}: {}", row.name, row.title);
        let field: Vec<&Contender> = contenders.iter().filter(|one| row.suits(one.kind)).collect();
        let length = Duration::from_secs(seconds);
        let came = run_row(machine, row, &field, length, rounds);
        turns.extend(came.map_err(|error| format!("row {}: {error}", row.name))?);
    }
    Ok(turns)
}

fn run_row(
    machine: &Machine,
    row: &'static Row,
    field: &[&Contender],
    length: Duration,
    rounds: usize,
) -> Outcome<Vec<Turn>> {
    // Those that need not be new run all the time: without load they take nothing from each other.
    let start = |one: &&Contender| Proxy::start(one, row, machine);
    let mut running: Vec<Proxy> = Vec::new();
    let mut rate = 0.0;
    if !row.wants_fresh_processes() {
        running = field.iter().map(start).collect::<Outcome<_>>()?;
        for (proxy, one) in running.iter().zip(field) {
            let answered = work(machine, row, proxy, WARM_UP, 0.0);
            let answered = answered.map_err(|error| format!("{}: {error}", one.name))?;
            let able = answered.count / answered.took.as_secs_f64();
            rate = if rate == 0.0 { able / 2.0 } else { f64::min(rate, able / 2.0) };
        }
    }
    let mut turns = Vec::new();
    for round in 0..rounds {
        for at in 0..field.len() {
            // The first of one round is the last of the next.
            let at = (at + round) % field.len();
            let name = &field[at].name;
            let came = if row.wants_fresh_processes() {
                let proxy = start(&field[at])?;
                let came = turn(machine, row, &proxy, length, rate);
                proxy.end()?;
                came
            } else {
                turn(machine, row, &running[at], length, rate)
            };
            let came = came.map_err(|error| format!("{name}: {error}"))?;
            eprintln!("  {name:24} {:10.2} {}", came.figure, row.figure);
            turns.push(came.of(row.name, name, round));
        }
    }
    running.into_iter().try_for_each(Proxy::end)?;
    Ok(turns)
}

fn turn(machine: &Machine, row: &Row, proxy: &Proxy, length: Duration, rate: f64) -> Outcome<Came> {
    match row.load {
        Load::Idle => {
            let (certificate, tls) = (&machine.certificate, machine.tls_of(row));
            let figure = load::idle::growth(&proxy.process, proxy.address, tls, certificate)?;
            Ok(Came { figure, ..Came::default() })
        }
        Load::Reload => {
            let reload = || proxy.reload(row, machine, 2);
            let (in_force, traffic) = load::reload::measure(proxy.address, reload)?;
            let figure = in_force.as_secs_f64() * 1e3;
            Ok(Came { figure, p50: traffic.p50, p99: traffic.p99, ..Came::default() })
        }
        Load::Open => {
            let direct = load::open::run(machine.origins.http1, "/small", rate, length)?;
            let mut came = watched(machine, row, proxy, length, rate)?;
            let (ours, least) = came.p99.zip(direct.p99).ok_or("nothing was answered")?;
            came.figure = ours - least;
            Ok(came)
        }
        _ => watched(machine, row, proxy, length, rate),
    }
}

/// Has the proxy work, and looks at what that took.
fn watched(
    machine: &Machine,
    row: &Row,
    proxy: &Proxy,
    length: Duration,
    rate: f64,
) -> Outcome<Came> {
    let (before, began) = (proxy.process.cpu_time()?, Instant::now());
    let answered = work(machine, row, proxy, length, rate)?;
    let (user, system) = proxy.process.cpu_time()?.since(&before);
    let elapsed = began.elapsed().as_secs_f64();
    let each = |time: Duration| time.as_secs_f64() * 1e6 / answered.count;
    let cores = row.threads.min(machine.all.count()) as f64;
    Ok(Came {
        figure: each(user + system),
        user: Some(each(user)),
        system: Some(each(system)),
        per_second: Some(answered.count / answered.took.as_secs_f64()),
        busy: Some((user + system).as_secs_f64() / elapsed / cores),
        p50: answered.p50,
        p99: answered.p99,
    })
}

/// The load of a row for a while. The rate is of open loops, which have none to begin with: what
/// the proxies can do is found out in a closed one.
fn work(
    machine: &Machine,
    row: &Row,
    proxy: &Proxy,
    length: Duration,
    rate: f64,
) -> Outcome<Answered> {
    let (to, seconds) = (proxy.address, length.as_secs());
    let (tls, certificate) = (machine.tls_of(row), &machine.certificate);
    match row.load {
        Load::Get { path, connections } => load::wrk::get(to, tls, path, connections, seconds),
        Load::Post => load::wrk::post(to, seconds),
        Load::Connect => load::wrk::connect(to, seconds),
        Load::Handshake => load::tasks::handshakes(to, certificate, length),
        Load::Http2 { grpc } => load::h2load::run(to, tls, grpc, seconds),
        Load::Stream => load::tasks::stream(to, length),
        Load::Echo => load::tasks::echo(to, length),
        Load::Open if rate > 0.0 => load::open::run(to, "/small", rate, length),
        Load::Open => load::wrk::get(to, false, "/small", 64, seconds),
        Load::Idle | Load::Reload => Err("this row has no load of its own".into()),
    }
}

impl Came {
    fn of(self, row: &'static str, contender: &str, round: usize) -> Turn {
        let Self { figure, user, system, per_second, busy, p50, p99 } = self;
        let contender = contender.to_owned();
        Turn { row, contender, round, figure, user, system, per_second, busy, p50, p99 }
    }
}
