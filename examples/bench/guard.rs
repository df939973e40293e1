//! Instructions that a request takes, outside of the kernel: they do not depend on how fast the machine
//! is or what else it does.
//!
//! The release runs in valgrind, once for some requests and once for twice as many. The difference
//! is what the requests took; starting and ending cancel out.

use crate::{
    Outcome,
    load::client::Client,
    measuring::processes::{Process, balancer, free_address, wait_for},
    origins,
};
use nix::sys::signal::{Signal, kill};
use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

/// What was counted when it was last written down.
const BASELINE: &str = "benches/instructions_per_request";
const REQUESTS: u64 = 3_000;
/// How much more or less is no change: other CPUs choose other code in some libraries.
const TOLERANCE: f64 = 0.05;

/// Counts, and compares with the baseline or writes it.
pub(crate) fn run(renew: bool) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let origins = origins::start(folder.path())?;
    let count = |requests| instructions(folder.path(), origins.http1, requests);
    let (once, twice) = (count(REQUESTS)?, count(2 * REQUESTS)?);
    let each = twice.checked_sub(once).ok_or("more requests took fewer instructions")? / REQUESTS;
    println!("{each} instructions per request");
    if renew {
        fs::write(BASELINE, format!("{each}\n"))?;
        println!("Written to {BASELINE}.");
        return Ok(());
    }
    let baseline: u64 = fs::read_to_string(BASELINE)?.trim().parse()?;
    let change = each as f64 / baseline as f64 - 1.0;
    let percent = change * 100.0;
    println!("{percent:+.2}% beside {baseline}, the baseline");
    if change > TOLERANCE {
        return Err(format!(
            "A request takes {percent:.1}% more than the baseline; {:.0}% is allowed. If it is worth \
             it, say so with `make bench-guard RENEW=1` and commit {BASELINE}.",
            TOLERANCE * 100.0
        )
        .into());
    }
    if change < -TOLERANCE {
        println!("That is less: hold it with `make bench-guard RENEW=1`, and commit {BASELINE}.");
    }
    Ok(())
}

/// What valgrind counts from the start to the end of a balancer that serves so many requests, all
/// on one connection.
fn instructions(folder: &Path, backend: SocketAddr, requests: u64) -> Outcome<u64> {
    let address = free_address()?;
    let (path, log) = (folder.join("guard.yaml"), folder.join(format!("counted-{requests}")));
    let own = folder.join("guard").display().to_string();
    // Health checks come by the clock, and so would their instructions.
    let text = format!(
        "server: {{ threads: 1, pid_file: {own}.pid, upgrade_sock: {own}.sock, log_level: error }}\n\
         listeners: {{ web: {{ address: {address} }} }}\n\
         pools: {{ app: {{ backends: [{backend}], health_check: off }} }}\n"
    );
    fs::write(&path, text)?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]);
    command.arg(format!("--log-file={}", log.display())).arg(balancer()).arg("-c").arg(&path);
    let mut process = Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    wait_for(address)?;
    let mut client = Client::new(address, "/small");
    for _ in 0..requests {
        client.get()?;
    }
    drop(client);
    kill(process.id(), Signal::SIGTERM)?;
    process.wait()?;
    let said = fs::read_to_string(&log)?;
    let counted = said.lines().find_map(|line| line.split_once("I   refs:"));
    let (_, number) = counted.ok_or_else(|| format!("valgrind counted nothing:\n{said}"))?;
    Ok(number.trim().replace(',', "").parse()?)
}
