//! Measures how well policies balance, beside nginx and `HAProxy`, in one run.
//!
//! Eight backends, each serving four requests at a time in 20 ms on average (exponential), one of them
//! ten times slower; requests arrive at random (Poisson) at 70% of what all eight can do together. The
//! latency of a request counts from the moment it was due, so that a stalled client cannot hide
//! a stalled server (coordinated omission). Each proxy is asked in turn, in several rounds, and the
//! table shows the median of the rounds.
//!
//! `make bench-balance` builds the balancer, installs nginx and `HAProxy` where they are missing, and
//! runs this. What it prints goes to docs/performance.md by hand, with the machine it was run on.

mod measuring;

use measuring::processes::{Process, balancer, free_address, median, wait_for};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    collections::BTreeMap,
    error::Error,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

const BACKENDS: usize = 8;
const AT_A_TIME: usize = 4;
const SERVICE: Duration = Duration::from_millis(20);
const SLOWER: u32 = 10;
const LOAD: f64 = 0.7;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(12);
/// The beginning of a round, in which the policies learn, is not counted.
const WARM_UP: Duration = Duration::from_secs(3);

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(compare())
}

async fn compare() -> Outcome<()> {
    let folder = std::env::temp_dir().join(format!("compare-balancing-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let backends = start_backends().await?;
    let mut results: BTreeMap<&str, Vec<Summary>> = BTreeMap::new();
    for round in 0..ROUNDS {
        for contender in contenders() {
            let running = contender.start(&folder, &backends)?;
            let summary = measure(running.address, round as u64).await;
            eprintln!("{:30} {summary:?}", contender.name);
            results.entry(contender.name).or_default().push(summary);
        }
    }
    fs::remove_dir_all(&folder)?;
    print!("{}", table(&results));
    Ok(())
}

/// One proxy with one policy.
struct Contender {
    name: &'static str,
    kind: Kind,
    policy: &'static str,
}

#[derive(Clone, Copy)]
enum Kind {
    Ours,
    Nginx,
    Haproxy,
}

fn contenders() -> Vec<Contender> {
    let ours = |name, policy| Contender { name, kind: Kind::Ours, policy };
    vec![
        ours("pingora-lb round_robin", "round_robin"),
        ours("pingora-lb least_connections", "least_connections"),
        ours("pingora-lb p2c", "p2c"),
        ours("pingora-lb peak_ewma", "peak_ewma"),
        Contender { name: "nginx least_conn", kind: Kind::Nginx, policy: "least_conn" },
        Contender { name: "HAProxy random(2)", kind: Kind::Haproxy, policy: "random(2)" },
        Contender { name: "HAProxy leastconn", kind: Kind::Haproxy, policy: "leastconn" },
    ]
}

/// A proxy that runs.
struct Running {
    _process: Process,
    address: SocketAddr,
}

impl Contender {
    fn start(&self, folder: &Path, backends: &[SocketAddr]) -> Outcome<Running> {
        let address = free_address()?;
        let (program, arguments) = match self.kind {
            Kind::Ours => {
                let file = write(folder, "lb.yaml", &self.ours(address, backends))?;
                (balancer(), vec!["-c".into(), file])
            }
            Kind::Nginx => {
                let file = write(folder, "nginx.conf", &self.nginx(folder, address, backends))?;
                ("nginx".into(), vec!["-c".into(), file])
            }
            Kind::Haproxy => {
                let file = write(folder, "haproxy.cfg", &self.haproxy(address, backends))?;
                ("haproxy".into(), vec!["-f".into(), file])
            }
        };
        let process = Process::start(&program.to_string_lossy(), &arguments)?;
        wait_for(address)?;
        Ok(Running { _process: process, address })
    }

    fn ours(&self, address: SocketAddr, backends: &[SocketAddr]) -> String {
        let list: Vec<String> = backends.iter().map(ToString::to_string).collect();
        format!(
            "server: {{ threads: 1 }}\nlisteners: {{ web: {{ address: {address} }} }}\n\
             pools: {{ app: {{ backends: [{}], balance: {}, health_check: off }} }}\n",
            list.join(", "),
            self.policy
        )
    }

    fn nginx(&self, folder: &Path, address: SocketAddr, backends: &[SocketAddr]) -> String {
        let servers: Vec<String> = backends.iter().map(|b| format!("server {b};")).collect();
        let servers = servers.join("\n");
        format!(
            "worker_processes 1; daemon off; master_process off; pid {}; error_log /dev/null;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; keepalive_requests 1000000;\n\
             upstream app {{ {}; {servers} keepalive 512; keepalive_requests 1000000; }}\n\
             server {{ listen {address} backlog=4096; location / {{ proxy_pass http://app;\n\
             proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}\n",
            folder.join("nginx.pid").display(),
            self.policy
        )
    }

    fn haproxy(&self, address: SocketAddr, backends: &[SocketAddr]) -> String {
        let mut text = format!(
            "global\n  maxconn 8192\n  nbthread 1\ndefaults\n  mode http\n  timeout connect 5s\n  \
             timeout client 60s\n  timeout server 60s\n  http-reuse always\nfrontend web\n  \
             bind {address}\n  default_backend app\nbackend app\n  balance {}\n",
            self.policy
        );
        for (number, backend) in backends.iter().enumerate() {
            writeln!(text, "  server s{number} {backend}").expect("writing to a String");
        }
        text
    }
}

fn write(folder: &Path, name: &str, text: &str) -> Outcome<std::ffi::OsString> {
    let path = folder.join(name);
    fs::write(&path, text)?;
    Ok(path.into_os_string())
}

/// The mean service time of backend `index`.
fn service(index: usize) -> Duration {
    if index == 0 { SERVICE * SLOWER } else { SERVICE }
}

/// Requests a second that all backends can serve together.
fn capacity() -> f64 {
    (0..BACKENDS).map(|index| AT_A_TIME as f64 / service(index).as_secs_f64()).sum()
}

async fn start_backends() -> Outcome<Vec<SocketAddr>> {
    let mut addresses = Vec::new();
    for index in 0..BACKENDS {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addresses.push(listener.local_addr()?);
        let places = Arc::new(Semaphore::new(AT_A_TIME));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, places.clone(), service(index)));
            }
        });
    }
    Ok(addresses)
}

/// A sample of an exponential distribution with this mean.
fn exponential(mean: Duration, rng: &mut impl Rng) -> Duration {
    let uniform: f64 = rng.random_range(f64::EPSILON..1.0);
    mean.mul_f64(-uniform.ln())
}

async fn serve(mut stream: TcpStream, places: Arc<Semaphore>, mean: Duration) -> Outcome<()> {
    stream.set_nodelay(true)?;
    let mut rng = SmallRng::from_os_rng();
    let mut head = Vec::new();
    while read_head(&mut stream, &mut head).await? {
        let _place = places.acquire().await?;
        tokio::time::sleep(exponential(mean, &mut rng)).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
    }
    Ok(())
}

/// Reads up to the end of a head; `false` at the end of the connection.
async fn read_head(stream: &mut TcpStream, head: &mut Vec<u8>) -> Outcome<bool> {
    head.clear();
    let mut piece = [0; 2048];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut piece).await? {
            0 => return Ok(false),
            read => head.extend_from_slice(&piece[..read]),
        }
    }
    Ok(true)
}

/// Connections to the proxy that are not in use.
type Idle = Arc<Mutex<Vec<TcpStream>>>;

#[derive(Clone, Copy, Debug)]
struct Summary {
    requests: usize,
    failed: usize,
    p50: f64,
    p99: f64,
    p999: f64,
}

/// Sends requests for a round, and sums up how long they took, in milliseconds.
async fn measure(address: SocketAddr, seed: u64) -> Summary {
    let mut rng = SmallRng::seed_from_u64(seed);
    let gap = Duration::from_secs_f64(1.0 / (capacity() * LOAD));
    let (idle, taken) = (Idle::default(), Arc::new(Mutex::new(Vec::new())));
    let began = Instant::now();
    let mut due = began;
    let mut asked = Vec::new();
    while due < began + ROUND {
        due += exponential(gap, &mut rng);
        tokio::time::sleep_until(due.into()).await;
        let (idle, taken, counts) = (idle.clone(), taken.clone(), due > began + WARM_UP);
        asked.push(tokio::spawn(async move {
            let answered = ask(address, &idle).await.is_ok();
            if counts {
                let took = answered.then(|| due.elapsed().as_secs_f64() * 1000.0);
                taken.lock().expect("no task panics with the lock").push(took);
            }
        }));
    }
    for request in asked {
        // A request that panicked is missing from the results and so would show.
        let _ = request.await;
    }
    let taken = taken.lock().expect("no task panics with the lock");
    summarize(&taken)
}

async fn ask(address: SocketAddr, idle: &Idle) -> Outcome<()> {
    let reused = idle.lock().expect("no task panics with the lock").pop();
    let mut stream = match reused {
        Some(stream) => stream,
        None => TcpStream::connect(address).await?,
    };
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    let mut answer = Vec::new();
    let whole = read_head(&mut stream, &mut answer).await?;
    while whole && !answer.ends_with(b"ok") {
        let mut piece = [0; 64];
        match stream.read(&mut piece).await? {
            0 => break,
            read => answer.extend_from_slice(&piece[..read]),
        }
    }
    if !answer.starts_with(b"HTTP/1.1 200") {
        return Err("not a 200".into());
    }
    idle.lock().expect("no task panics with the lock").push(stream);
    Ok(())
}

fn summarize(taken: &[Option<f64>]) -> Summary {
    let mut good: Vec<f64> = taken.iter().copied().flatten().collect();
    good.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (good.len() as f64 * share) as usize;
        good.get(index.min(good.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    };
    let failed = taken.len() - good.len();
    Summary { requests: taken.len(), failed, p50: at(0.5), p99: at(0.99), p999: at(0.999) }
}

fn table(results: &BTreeMap<&str, Vec<Summary>>) -> String {
    let of =
        |rounds: &[Summary], what: fn(&Summary) -> f64| median(rounds.iter().map(what).collect());
    let mut text = String::from(
        "| | p50 ms | p99 ms | p99.9 ms | requests | failed |\n|---|---|---|---|---|---|\n",
    );
    for (name, rounds) in results {
        let (requests, failed): (usize, usize) =
            rounds.iter().fold((0, 0), |sum, round| (sum.0 + round.requests, sum.1 + round.failed));
        writeln!(
            text,
            "| {name} | {:.0} | {:.0} | {:.0} | {requests} | {failed} |",
            of(rounds, |round| round.p50),
            of(rounds, |round| round.p99),
            of(rounds, |round| round.p999),
        )
        .expect("writing to a String");
    }
    text
}
