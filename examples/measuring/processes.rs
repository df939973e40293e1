//! Processes that are measured: started, pinned, waited for, and what they took.

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::resource::{Resource, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use std::{
    ffi::OsStr,
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long a process may take to listen.
const START: Duration = Duration::from_secs(60);

/// A process that is stopped when it is dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // What it started goes first, as nobody would know of it afterwards; any of them may be gone.
        for child in children(self.id()) {
            let _ = nix::sys::signal::kill(child, nix::sys::signal::SIGKILL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    /// Starts a program that says nothing.
    pub fn start<S: AsRef<OsStr>>(program: &str, args: &[S]) -> io::Result<Self> {
        Self::spawn(Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()))
    }

    /// Starts a program as `command` says.
    pub fn spawn(command: &mut Command) -> io::Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{program}: {error}"));
        command.spawn().map(Self).map_err(named)
    }

    /// Its process id.
    pub fn id(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }

    /// Waits for its end, after which there is nothing to stop; whether it went well.
    pub fn wait(&mut self) -> io::Result<bool> {
        Ok(self.0.wait()?.success())
    }

    /// It and the processes that it has started.
    pub fn family(&self) -> Vec<Pid> {
        let mut all = vec![self.id()];
        all.extend(children(self.id()));
        all
    }

    /// What it and the processes that it has started took so far.
    pub fn cpu_time(&self) -> io::Result<CpuTime> {
        let mut sum = CpuTime::default();
        for pid in self.family() {
            let time = cpu_time(pid)?;
            sum.total += time.total;
            sum.user_share += time.user_share * time.total.as_secs_f64();
        }
        sum.user_share /= sum.total.as_secs_f64().max(f64::EPSILON);
        Ok(sum)
    }

    /// The memory of it and the processes that it has started, in bytes: what each has alone and its
    /// part of what it shares (PSS).
    pub fn memory(&self) -> io::Result<u64> {
        self.family().into_iter().map(memory).sum()
    }
}

fn children(pid: Pid) -> Vec<Pid> {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) else {
        return Vec::new();
    };
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw).collect()
}

fn memory(pid: Pid) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    Ok(1024 * kib.ok_or_else(|| io::Error::other("no Pss in smaps_rollup"))?)
}

/// How long processors worked for a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuTime {
    /// To the nanosecond, by the scheduler's clock.
    pub total: Duration,
    /// How much of it was outside of the kernel, 0 to 1: counted in ticks of 10 ms.
    pub user_share: f64,
}

impl CpuTime {
    /// The time from `before` to this: in user space and in the kernel.
    pub fn since(&self, before: &Self) -> (Duration, Duration) {
        let user = |time: &Self| time.total.mul_f64(time.user_share);
        let total = self.total.saturating_sub(before.total);
        let user = user(self).saturating_sub(user(before)).min(total);
        (user, total.saturating_sub(user))
    }
}

/// The CPU time of a process, threads that have ended included.
fn cpu_time(pid: Pid) -> io::Result<CpuTime> {
    let clock = ClockId::pid_cpu_clock_id(pid)?;
    let total = Duration::from(clock_gettime(clock)?);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    let ticks = |at: usize| fields.split(' ').nth(at).and_then(|text| text.parse::<f64>().ok());
    let (user, system) =
        ticks(11).zip(ticks(12)).ok_or_else(|| io::Error::other("no times in /proc/PID/stat"))?;
    Ok(CpuTime { total, user_share: user / (user + system).max(1.0) })
}

/// Processors that something runs on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cores(Vec<usize>);

impl Cores {
    /// The processors that this process may use.
    pub fn ours() -> io::Result<Self> {
        let set = sched_getaffinity(Pid::from_raw(0))?;
        Ok(Self((0..CpuSet::count()).filter(|at| set.is_set(*at).unwrap_or(false)).collect()))
    }

    /// The first `count` of them, and the rest. Where there is no rest, all are in both.
    pub fn split(&self, count: usize) -> (Self, Self) {
        if count >= self.0.len() {
            return (self.clone(), self.clone());
        }
        let (first, rest) = self.0.split_at(count);
        (Self(first.to_vec()), Self(rest.to_vec()))
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Has this thread, and what it starts from now on, run on them.
    pub fn take(&self) -> io::Result<()> {
        let mut set = CpuSet::new();
        for core in &self.0 {
            set.set(*core)?;
        }
        Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
    }

    /// Has what `start` starts run on them, and this thread where it ran before.
    pub fn with<T>(&self, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let before = Self::ours()?;
        self.take()?;
        let started = start();
        before.take()?;
        started
    }
}

/// Lets this process, and what it starts, have as many files open as the system allows.
pub fn allow_many_files() -> io::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, most, most)?)
}

/// An address that nobody listens on.
pub fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Waits until somebody accepts connections there.
pub fn wait_for(address: SocketAddr) -> io::Result<()> {
    let deadline = Instant::now() + START;
    while TcpStream::connect(address).is_err() {
        if Instant::now() > deadline {
            return Err(io::Error::other(format!("nobody listens on {address}")));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The balancer that is measured: the environment's `PINGORA_LB`, else the release.
pub fn balancer() -> PathBuf {
    std::env::var_os("PINGORA_LB").map_or_else(|| "target/release/pingora-lb".into(), PathBuf::from)
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
