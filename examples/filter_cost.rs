//! What filters cost a request in CPU time, through the whole proxy.
//!
//! `make bench-filters` runs it. Three balancers stand before one backend: without filters, with ten
//! that have no hooks, and with ten whose request and response hooks do nothing. Each takes its turn
//! with the same load (wrk, 64 kept connections), round after round, so that whatever else the machine
//! does falls on all alike. The time is the
//! CPU time of the process.
//!
//! With arguments it is a balancer that has these filters.

#[path = "../src/allocator.rs"]
mod allocator;
mod measuring;

use measuring::{
    load,
    noop_filters::{Hooked, Plain},
    processes::{Process, free_address, median, wait_for},
};
use pingora_lb::App;
use std::{env, error, fs, net::SocketAddr, path::Path, process::ExitCode};

/// The allocator of the shipped binary.
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

const ROUNDS: usize = 9;
/// How long a balancer has the load, in seconds.
const TURN: u64 = 3;
const CONNECTIONS: u32 = 64;
const FILTERS: usize = 10;

type Error = Box<dyn error::Error + Send + Sync>;

fn main() -> ExitCode {
    if env::args().len() > 1 {
        return App::new().filter::<Plain>().filter::<Hooked>().run();
    }
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// This program as a balancer, or as its backend.
fn start(args: &[&str]) -> Result<Process, Error> {
    let program = env::current_exe()?;
    Ok(Process::start(&program.to_string_lossy(), args)?)
}

/// A balancer, and what it took for each request in each of its turns.
struct Balancer {
    name: &'static str,
    process: Process,
    address: SocketAddr,
    /// Microseconds of CPU time a request.
    costs: Vec<f64>,
}

impl Balancer {
    fn start(
        name: &'static str,
        filter: &str,
        folder: &Path,
        backend: SocketAddr,
    ) -> Result<Self, Error> {
        let address = free_address()?;
        let count = if filter.is_empty() { 0 } else { FILTERS };
        let filters = vec![filter; count].join(", ");
        let own = folder.join(format!("{filter}-lb"));
        let text = format!(
            "server: {{ threads: 1, pid_file: {own}.pid, upgrade_sock: {own}.sock }}\n\
             listeners: {{ web: {{ address: {address} }} }}\n\
             routes: [{{ filters: [{filters}], pool: app }}]\n\
             pools: {{ app: {{ backends: [{backend}] }} }}\n",
            own = own.display()
        );
        let path = folder.join(format!("{filter}-lb.yaml"));
        fs::write(&path, text)?;
        let process = start(&["-c", &path.to_string_lossy()])?;
        wait_for(address)?;
        Ok(Self { name, process, address, costs: Vec::new() })
    }

    /// Has it serve for a turn.
    fn serve(&mut self, seconds: u64) -> Result<(), Error> {
        let before = self.process.cpu_time()?.total;
        let requests = load::get(self.address, false, "/", CONNECTIONS, seconds)?.count;
        let spent = self.process.cpu_time()?.total.saturating_sub(before);
        self.costs.push(spent.as_secs_f64() * 1e6 / requests);
        Ok(())
    }

    fn median(&self) -> f64 {
        median(self.costs.clone())
    }
}

fn measure() -> Result<(), Error> {
    let folder = tempfile::tempdir()?;
    let backend = free_address()?;
    let _backend = start(&["backend", "--port", &backend.port().to_string()])?;
    wait_for(backend)?;
    let mut balancers = Vec::new();
    for (name, filter) in [("none", ""), ("ten without hooks", "plain"), ("ten with two", "hooked")]
    {
        balancers.push(Balancer::start(name, filter, folder.path(), backend)?);
    }
    for balancer in &mut balancers {
        balancer.serve(1)?;
        balancer.costs.clear();
    }
    for round in 0..ROUNDS {
        // Whoever comes first in one round comes last in the next.
        let count = balancers.len();
        for at in 0..count {
            balancers[(round + at) % count].serve(TURN)?;
        }
    }
    report(&balancers);
    Ok(())
}

fn report(balancers: &[Balancer]) {
    let least = balancers[0].median();
    println!("| filters | CPU per request | beside none |\n|---|--:|--:|");
    for balancer in balancers {
        let median = balancer.median();
        let more = (median / least - 1.0) * 100.0;
        println!("| {} | {median:.2} µs | {more:+.1}% |", balancer.name);
    }
    // The same from the rounds one by one, where the machine's moods fall on neighbours.
    for balancer in &balancers[1..] {
        let pairs = balancer.costs.iter().zip(&balancers[0].costs);
        let mut ratios: Vec<f64> = pairs.map(|(cost, none)| (cost / none - 1.0) * 100.0).collect();
        ratios.sort_by(f64::total_cmp);
        let (low, middle, high) = (ratios[0], ratios[ratios.len() / 2], ratios[ratios.len() - 1]);
        println!("{}, round by round: {middle:+.1}% ({low:+.1}% to {high:+.1}%)", balancer.name);
    }
}
