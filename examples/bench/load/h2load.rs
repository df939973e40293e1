//! Load by h2load: HTTP/2, gRPC's requests among it.

use super::{Answered, said};
use crate::Outcome;
use std::{fs, io::Write as _, net::SocketAddr, process::Command, time::Duration};
use tempfile::NamedTempFile;

/// Connections, and requests at a time on each.
const SHAPE: [&str; 2] = ["-c8", "-m16"];

pub(crate) fn run(address: SocketAddr, tls: bool, grpc: bool, seconds: u64) -> Outcome<Answered> {
    let (log, mut message) = (NamedTempFile::new()?, NamedTempFile::new()?);
    let mut command = Command::new("h2load");
    command.args(["-t1", &format!("-D{seconds}")]).args(SHAPE);
    command.arg(format!("--log-file={}", log.path().display()));
    if grpc {
        // A message that is not compressed, with its length in front.
        message.write_all(b"\0\0\0\0\x05hello")?;
        command.arg("-d").arg(message.path());
        command.args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
    }
    let scheme = if tls { "https" } else { "http" };
    let path = if grpc { "/bench.Echo/Unary" } else { "/small" };
    let text = said(command.arg(format!("{scheme}://{address}{path}")))?;
    times(&fs::read_to_string(log.path())?, seconds)
        .map_err(|error| format!("{error}; h2load says:\n{text}").into())
}

/// From lines of when a request began, its status and how long it took, in microseconds.
fn times(log: &str, seconds: u64) -> Outcome<Answered> {
    let mut times = Vec::new();
    for line in log.lines() {
        let mut fields = line.split('\t').skip(1);
        let status = fields.next().ok_or("a line without a status")?;
        // What was under way at the end has none.
        match status {
            "200" => times.push(Duration::from_micros(fields.next().unwrap_or("").parse()?)),
            "0" | "-1" => {}
            _ => return Err(format!("a request was answered with {status}").into()),
        }
    }
    if times.is_empty() {
        return Err("nothing was answered".into());
    }
    Ok(Answered::of(times, Duration::from_secs(seconds)))
}
