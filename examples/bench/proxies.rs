//! The proxies: how each is told to do the work of a row.

use crate::{
    Outcome,
    machine::Machine,
    measuring::processes::{Process, free_address, wait_for},
    rows::{Back, Extras, Front, Row},
};
use nix::sys::signal::Signal;
use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

mod haproxy;
mod nginx;
mod ours;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Ours,
    Nginx,
    Haproxy,
}

/// A program that takes part.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) program: PathBuf,
}

impl Contender {
    /// A build of ours. One that is not the release is called by its path.
    pub(crate) fn ours(program: PathBuf) -> Self {
        let name = if program.starts_with("target/release") {
            "pingora-lb".to_owned()
        } else {
            program.display().to_string()
        };
        Self { name, kind: Kind::Ours, program }
    }

    pub(crate) fn peer(kind: Kind) -> Self {
        let (name, program) = match kind {
            Kind::Ours => ("pingora-lb", "target/release/pingora-lb"),
            Kind::Nginx => ("nginx", "nginx"),
            Kind::Haproxy => ("HAProxy", "haproxy"),
        };
        Self { name: name.to_owned(), kind, program: program.into() }
    }
}

/// What a configuration is made of.
struct Task<'a> {
    row: &'a Row,
    machine: &'a Machine,
    folder: &'a Path,
    address: SocketAddr,
    backends: Vec<String>,
    /// Which configuration this is, told by the field `x-generation` in a row that reloads.
    generation: u32,
}

impl Task<'_> {
    /// Whether clients come over TLS, and whether with HTTP/2.
    fn front(&self) -> (bool, bool) {
        let http2 = matches!(self.row.front, Front::Http2 | Front::Http2Clear);
        (self.machine.tls_of(self.row), http2)
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn certificate(&self, name: &str) -> String {
        self.machine.path(name).display().to_string()
    }

    fn backend_speaks_http2(&self) -> bool {
        matches!(self.row.back, Back::Http2 | Back::Grpc)
    }
}

/// A proxy that runs.
pub(crate) struct Proxy {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    kind: Kind,
    folder: PathBuf,
}

impl Proxy {
    pub(crate) fn start(contender: &Contender, row: &Row, machine: &Machine) -> Outcome<Self> {
        let folder = tempfile::Builder::new().prefix("proxy-").tempdir_in(machine.path(""))?.keep();
        let address = free_address()?;
        let proxy_cores = machine.all.split(row.threads).0;
        write(contender.kind, row, machine, &folder, address, 1)?;
        let mut command = Command::new(&contender.program);
        // HAProxy has no other way to log into a file.
        let log = File::create(folder.join("stdout.log"))?;
        command.args(arguments(contender.kind, row, &folder)).stdout(log);
        command.stderr(File::create(folder.join("stderr.log"))?).stdin(Stdio::null());
        let process = proxy_cores.with(|| Process::spawn(&mut command))?;
        wait_for(address)
            .map_err(|error| format!("{}: {error}\n{}", contender.name, said(&folder)))?;
        Ok(Self { process, address, kind: contender.kind, folder })
    }

    /// Has it take up the next configuration.
    pub(crate) fn reload(&self, row: &Row, machine: &Machine, generation: u32) -> Outcome<()> {
        write(self.kind, row, machine, &self.folder, self.address, generation)?;
        let signal = if self.kind == Kind::Haproxy { Signal::SIGUSR2 } else { Signal::SIGHUP };
        Ok(nix::sys::signal::kill(self.process.id(), signal)?)
    }

    /// Ends it in order, so that it can write what it has to write at its end.
    pub(crate) fn end(mut self) -> Outcome<()> {
        nix::sys::signal::kill(self.process.id(), Signal::SIGTERM)?;
        self.process.wait()?;
        Ok(fs::remove_dir_all(&self.folder)?)
    }
}

/// What a proxy has to say about why it does not work.
fn said(folder: &Path) -> String {
    let read = |name| fs::read_to_string(folder.join(name)).unwrap_or_default();
    format!("{}{}", read("stderr.log"), read("error.log"))
}

fn write(
    kind: Kind,
    row: &Row,
    machine: &Machine,
    folder: &Path,
    address: SocketAddr,
    generation: u32,
) -> Outcome<()> {
    let backends = backends(row, machine, generation);
    let task = Task { row, machine, folder, address, backends, generation };
    let text = match kind {
        Kind::Ours => ours::configuration(&task)?,
        Kind::Nginx => nginx::configuration(&task)?,
        Kind::Haproxy => haproxy::configuration(&task)?,
    };
    Ok(fs::write(folder.join(file(kind)), text)?)
}

fn backends(row: &Row, machine: &Machine, generation: u32) -> Vec<String> {
    let origins = &machine.origins;
    if row.extras == Extras::Reload {
        // One server that is to be found at many addresses. Half of them are others in the next
        // configuration: one that says the same of its backends could keep them.
        let port = origins.http1.port();
        let address = |at: u32| format!("127.0.{}.{}:{port}", at / 250, at % 250 + 1);
        return (0..10_000).map(|at| address(at + 5_000 * (generation - 1))).collect();
    }
    let origin = match row.back {
        Back::Http1 => origins.http1,
        Back::Http2 | Back::Grpc => origins.http2,
        Back::Echo => origins.echo,
        Back::Tcp => origins.stream,
    };
    vec![origin.to_string()]
}

fn file(kind: Kind) -> &'static str {
    match kind {
        Kind::Ours => "lb.yaml",
        Kind::Nginx => "nginx.conf",
        Kind::Haproxy => "haproxy.cfg",
    }
}

fn arguments(kind: Kind, row: &Row, folder: &Path) -> Vec<String> {
    let file = folder.join(file(kind)).display().to_string();
    let error_log = folder.join("error.log").display().to_string();
    match kind {
        Kind::Ours => vec!["-c".into(), file],
        Kind::Nginx => vec!["-e".into(), error_log, "-c".into(), file],
        // With a master, which a reload needs.
        Kind::Haproxy if row.extras == Extras::Reload => vec!["-W".into(), "-f".into(), file],
        Kind::Haproxy => vec!["-f".into(), file],
    }
}
