//! Load on a proxy: what it comes to, and wrk, which puts it on by HTTP/1, in the clear and in TLS.

use std::{error::Error, io::Write as _, net::SocketAddr, process::Command, time::Duration};
use tempfile::NamedTempFile;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// What a load came to.
#[derive(Debug)]
pub struct Answered {
    /// Pieces of work: requests, messages, MiB.
    pub count: f64,
    pub took: Duration,
    /// In microseconds.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
}

impl Answered {
    /// Of pieces that took these times each.
    pub fn of(mut times: Vec<Duration>, took: Duration) -> Self {
        times.sort_unstable();
        let at = |share: f64| {
            let index = (times.len() as f64 * share) as usize;
            let time = times.get(index.min(times.len().saturating_sub(1)));
            time.map(|time| time.as_secs_f64() * 1e6)
        };
        Self { count: times.len() as f64, took, p50: at(0.5), p99: at(0.99) }
    }
}

/// Runs a program to its end, and returns what it said.
pub fn said(command: &mut Command) -> Outcome<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| format!("{program}: {error}"))?;
    let text = String::from_utf8(output.stdout)?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{program} failed:\n{text}{error}").into());
    }
    Ok(text)
}

/// Connections where it does not matter how many.
const CONNECTIONS: u32 = 64;

/// GETs on connections that are kept.
pub fn get(
    address: SocketAddr,
    tls: bool,
    path: &str,
    connections: u32,
    seconds: u64,
) -> Outcome<Answered> {
    let scheme = if tls { "https" } else { "http" };
    run(&[], &format!("{scheme}://{address}{path}"), connections, seconds)
}

/// POSTs of 10 KiB.
pub fn post(address: SocketAddr, seconds: u64) -> Outcome<Answered> {
    let mut script = NamedTempFile::new()?;
    writeln!(script, "wrk.method = 'POST'; wrk.body = string.rep('x', 10240)")?;
    let script = script.path().to_string_lossy();
    run(&["-s", &script], &format!("http://{address}/post"), CONNECTIONS, seconds)
}

/// GETs on a connection each.
pub fn connect(address: SocketAddr, seconds: u64) -> Outcome<Answered> {
    let close = ["-H", "Connection: close"];
    run(&close, &format!("http://{address}/small"), CONNECTIONS, seconds)
}

fn run(args: &[&str], url: &str, connections: u32, seconds: u64) -> Outcome<Answered> {
    let mut command = Command::new("wrk");
    command.args(["-t1", "--latency", &format!("-c{connections}"), &format!("-d{seconds}s")]);
    let text = said(command.args(args).arg(url))?;
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return Err(format!("requests failed:\n{text}").into());
    }
    let lines = || text.lines().map(str::trim);
    let (count, rest) = lines()
        .find_map(|line| line.split_once(" requests in "))
        .ok_or_else(|| format!("wrk says no count:\n{text}"))?;
    let took = rest.split_once(',').and_then(|(took, _)| microseconds(took));
    let took = took.ok_or_else(|| format!("wrk says no time:\n{text}"))?;
    let quantile =
        |name: &str| lines().find_map(|line| microseconds(line.strip_prefix(name)?.trim()));
    Ok(Answered {
        count: count.parse()?,
        took: Duration::from_secs_f64(took / 1e6),
        p50: quantile("50%"),
        p99: quantile("99%"),
    })
}

/// A time as wrk writes it.
fn microseconds(text: &str) -> Option<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 60e6)];
    let (number, unit) =
        units.iter().find_map(|(unit, in_us)| Some((text.strip_suffix(unit)?, in_us)))?;
    Some(number.parse::<f64>().ok()? * unit)
}
