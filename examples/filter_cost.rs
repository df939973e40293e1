//! What filters cost a request in CPU time, through the whole proxy.
//!
//! `make bench-filters` runs it. Three balancers stand before one backend: without filters, with ten
//! that have no hooks, and with ten whose request and response hooks do nothing. Each takes its turn
//! with the same load (wrk, 64 kept connections), round after round, so that whatever else the machine
//! does falls on all alike. The time is the user and system time of the process, from /proc.
//!
//! With arguments it is a balancer that has these filters.

use pingora_lb::{
    App,
    filter::{Filter, Flow, Request, Response, Result, SettingsError, Setup, settings::NoSettings},
};
use std::{
    env, error, fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

/// The allocator of the shipped binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 9;
/// How long a balancer has the load, in seconds.
const TURN: u32 = 3;
const CONNECTIONS: u32 = 64;
const FILTERS: usize = 10;

type Error = Box<dyn error::Error>;

/// A filter without hooks.
struct Plain;

impl Filter for Plain {
    const NAME: &'static str = "plain";
    type Settings = NoSettings;

    fn new(_: NoSettings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        Ok(Self)
    }
}

/// A filter whose request and response hooks do nothing.
struct Hooked;

impl Filter for Hooked {
    const NAME: &'static str = "hooked";
    type Settings = NoSettings;

    fn new(_: NoSettings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        Ok(Self)
    }

    async fn on_request(&self, _: &mut Request<'_>) -> Result {
        Ok(Flow::Continue)
    }

    async fn on_response(&self, _: &mut Response<'_>) -> Result {
        Ok(Flow::Continue)
    }
}

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

/// A process that ends with us.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(args: &[&str]) -> io::Result<Process> {
    let mut command = Command::new(env::current_exe()?);
    command.args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().map(Process)
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
    fn serve(&mut self, seconds: u32) -> Result<(), Error> {
        let before = cpu_time(self.process.0.id())?;
        let requests = load(self.address, seconds)?;
        let spent = cpu_time(self.process.0.id())?.saturating_sub(before);
        self.costs.push(spent.as_secs_f64() * 1e6 / requests);
        Ok(())
    }

    fn median(&self) -> f64 {
        let mut costs = self.costs.clone();
        costs.sort_by(f64::total_cmp);
        costs[costs.len() / 2]
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

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn wait_for(address: SocketAddr) -> Result<(), Error> {
    for _ in 0..500 {
        if TcpStream::connect(address).is_ok() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(format!("nobody listens on {address}").into())
}

/// Requests that wrk got answered in that many seconds.
fn load(address: SocketAddr, seconds: u32) -> Result<f64, Error> {
    let output = Command::new("wrk")
        .args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s")])
        .arg(format!("http://{address}/"))
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return Err(format!("requests failed:\n{text}").into());
    }
    let count = text.lines().find_map(|line| line.trim().split_once(" requests in "));
    Ok(count.ok_or_else(|| format!("wrk says no count:\n{text}"))?.0.parse()?)
}

/// The user and system time of a process.
fn cpu_time(pid: u32) -> Result<Duration, Error> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("no fields in /proc/PID/stat")?;
    let field = |at: usize| fields.split(' ').nth(at).and_then(|text| text.parse::<u64>().ok());
    let ticks = field(11).zip(field(12)).map(|(user, system)| user + system);
    // The kernel tells these times in hundredths of a second, whatever its own clock is.
    Ok(Duration::from_millis(10 * ticks.ok_or("no times in /proc/PID/stat")?))
}
