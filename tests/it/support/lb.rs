//! The balancer as a child process.

use super::{
    SOON,
    address::{Address, Reserved},
    client::Client,
    eventually, within,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Read, Write},
    ops::Deref,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The path that the readiness probe asks for; it has no Host, so it never reaches a backend.
const PROBE_PATH: &str = "/.is-it-ready";

/// The lines a process has written so far.
#[derive(Clone, Default)]
pub struct Lines(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Lines {
    fn push(&self, line: String) {
        self.0.0.lock().unwrap().push(line);
        self.0.1.notify_all();
    }

    pub fn all(&self) -> Vec<String> {
        self.0.0.lock().unwrap().clone()
    }

    pub fn text(&self) -> String {
        self.all().join("\n")
    }

    /// How many lines contain `text`.
    pub fn count(&self, text: &str) -> usize {
        self.all().iter().filter(|line| line.contains(text)).count()
    }

    /// The first line that contains `text`, waiting for it `SOON`.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> String {
        let (lines, changed) = &*self.0;
        let (lines, timeout) = changed
            .wait_timeout_while(lines.lock().unwrap(), SOON, |lines| {
                !lines.iter().any(|line| line.contains(text))
            })
            .unwrap();
        let seen = lines.clone();
        drop(lines);
        assert!(!timeout.timed_out(), "no line with {text:?} in:\n{}", seen.join("\n"));
        seen.into_iter().find(|line| line.contains(text)).expect("the condition just waited for")
    }
}

/// A run of the binary with its output. Killed when dropped.
pub struct Program {
    child: Child,
    pub stdout: Lines,
    pub stderr: Lines,
    readers: [JoinHandle<()>; 2],
}

impl Program {
    /// The binary under test with a clean environment, so that nothing of the caller's gets in. It is
    /// the one that was built with the tests, or that of the environment's `PINGORA_LB`.
    pub fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
        let other = std::env::var_os("PINGORA_LB");
        let mut command =
            Command::new(other.unwrap_or_else(|| env!("CARGO_BIN_EXE_pingora-lb").into()));
        command
            .args(args)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "HOME"));
        command
    }

    pub fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Self {
        Self::spawn(&mut Self::command(args))
    }

    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let readers = [
            collect(child.stdout.take().expect("piped above"), stdout.clone()),
            collect(child.stderr.take().expect("piped above"), stderr.clone()),
        ];
        Self { child, stdout, stderr, readers }
    }

    /// Runs to the end: the exit code, standard output and standard error.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> (i32, String, String) {
        Self::start(args).finish()
    }

    /// Waits for the end: the exit code, standard output and standard error.
    #[track_caller]
    pub fn finish(mut self) -> (i32, String, String) {
        let status = self.wait_for_exit(SOON).expect("the program ends by itself");
        // They end with the last holder of the streams. A daemon must not be one.
        let ended = within(SOON, || self.readers.iter().all(JoinHandle::is_finished));
        assert!(ended, "the program has ended, but somebody holds its output");
        let code = status.code().unwrap_or_else(|| panic!("ended by a signal: {status}"));
        (code, self.stdout.text(), self.stderr.text())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Types a line.
    pub fn say(&self, line: &str) {
        let mut stdin = self.child.stdin.as_ref().expect("piped when it was spawned");
        writeln!(stdin, "{line}").expect("it reads what is typed");
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the child exists");
    }

    /// How it ended, waiting for that up to `limit`.
    pub fn wait_for_exit(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    #[track_caller]
    pub fn assert_running(&mut self) {
        assert_eq!(self.child.try_wait().unwrap(), None, "the program has ended");
    }

    /// A line of `/proc/PID/status` in bytes.
    pub fn memory(&self, key: &str) -> u64 {
        memory(self.pid(), key)
    }
}

impl Program {
    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- stderr of process {}\n{}", self.child.id(), self.stderr.text());
        }
    }
}

fn collect(stream: impl Read + Send + 'static, lines: Lines) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            lines.push(line);
        }
    })
}

/// A line of `/proc/PID/status` in bytes, as `VmRSS`.
pub fn memory(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")).expect(key);
    kilobytes.parse::<u64>().unwrap() * 1024
}

/// A configuration in the making. Unless the text has them, a `server` section that keeps the
/// process in its own directory and one listener `web` are added.
///
/// In the text, `@WEB@` is the address of `web`, `@2@` to `@4@` are further free addresses, and
/// `@DIR@` is the directory of the file.
pub struct Config {
    text: String,
    listener: String,
    files: Vec<(String, Vec<u8>)>,
    environment: Vec<(String, String)>,
    probe: bool,
}

impl Config {
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            listener: String::new(),
            files: Vec::new(),
            environment: Vec::new(),
            probe: true,
        }
    }

    /// One pool `app` of these backends, with further keys one a line.
    pub fn pool(backends: &[String], keys: &str) -> Self {
        Self::new(pool("app", backends, keys))
    }

    /// Adds sections.
    #[must_use]
    pub fn and(mut self, text: &str) -> Self {
        self.text.push_str(text);
        self.text.push('\n');
        self
    }

    /// Adds keys to the listener, as in `timeouts: { header: 1s }`.
    #[must_use]
    pub fn listener(mut self, keys: &str) -> Self {
        keys.clone_into(&mut self.listener);
        self
    }

    /// Puts a file beside the configuration.
    #[must_use]
    pub fn file(mut self, name: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.push((name.to_owned(), content.into()));
        self
    }

    /// Logs requests as JSON to `access.log`.
    #[must_use]
    pub fn access_log(self) -> Self {
        self.and("access_log: { path: access.log, format: json }")
    }

    /// Puts a certificate and its key beside the configuration, as `name.pem` and `name.key`.
    #[must_use]
    pub fn certificate(self, name: &str, certificate: &super::Certificate) -> Self {
        self.file(&format!("{name}.pem"), certificate.pem.clone())
            .file(&format!("{name}.key"), certificate.key.clone())
    }

    /// Sets a variable in the process's environment, in which `@DIR@` is the directory of the file.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts without asking whether it serves yet.
    #[must_use]
    pub fn without_probe(mut self) -> Self {
        self.probe = false;
        self
    }

    /// Writes the file.
    pub fn write(self) -> Files {
        let directory = tempfile::tempdir().unwrap();
        let ports: Vec<Reserved> = (0..4).map(|_| Reserved::new()).collect();
        let mut text = self.text;
        let has = |text: &str, section: &str| text.lines().any(|line| line.starts_with(section));
        if !has(&text, "server:") {
            text.push_str(&server(""));
        }
        if !has(&text, "listeners:") {
            text.push_str("listeners:\n  web:\n    address: \"@WEB@\"\n");
            text.push_str(&indented(&self.listener, "    "));
        }
        text = text.replace("@DIR@", directory.path().to_str().unwrap());
        for (mark, port) in ["@WEB@", "@2@", "@3@", "@4@"].iter().zip(&ports) {
            text = text.replace(mark, &port.address().to_string());
        }
        for (name, content) in &self.files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().expect("it is in the directory")).unwrap();
            fs::write(path, content).unwrap();
        }
        let path = directory.path().join("lb.yaml");
        fs::write(&path, text).unwrap();
        Files { directory, path, ports }
    }

    /// Writes the file and runs the balancer on it until it serves.
    #[track_caller]
    pub fn start(self) -> Lb {
        let (probe, environment) = (self.probe, self.environment.clone());
        let files = self.write();
        let mut command = Program::command([OsStr::new("-c"), files.path.as_os_str()]);
        let directory = files.directory().to_str().unwrap();
        let value = |value: &str| value.replace("@DIR@", directory);
        command.envs(environment.iter().map(|(name, text)| (name, value(text))));
        let program = Program::spawn(&mut command);
        let mut lb = Lb { program, files };
        if probe {
            lb.wait_until_it_serves();
        }
        lb
    }
}

/// A `server` section that stays in the directory of the configuration file, with further keys
/// one a line.
pub fn server(keys: &str) -> String {
    let own = "threads: 2\nupgrade_sock: upgrade.sock\npid_file: lb.pid";
    format!("server:\n{}{}", indented(own, "  "), indented(keys, "  "))
}

/// A `pools` section with one pool of that name, with further keys one a line.
pub fn pool(name: &str, backends: &[String], keys: &str) -> String {
    let backends = indented(&backends.join("\n"), "      - ");
    format!("pools:\n  {name}:\n    backends:\n{backends}{}", indented(keys, "    "))
}

/// The lines that say something, each behind `prefix`.
fn indented(lines: &str, prefix: &str) -> String {
    let mut text = String::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        text.extend([prefix, line, "\n"]);
    }
    text
}

/// A configuration file with the ports it names.
pub struct Files {
    directory: TempDir,
    path: PathBuf,
    ports: Vec<Reserved>,
}

impl Files {
    /// The configuration file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The address of the listener `web`.
    pub fn web(&self) -> Address {
        self.ports[0].address()
    }

    /// The address that `@2@` to `@4@` stand for.
    pub fn extra(&self, number: usize) -> Address {
        self.ports[number - 1].address()
    }

    /// Replaces a file beside the configuration, as a tool does that wants nobody to see half of it.
    pub fn replace(&self, name: &str, content: &str) {
        let new = self.directory().join(format!("{name}.new"));
        fs::write(&new, content).unwrap();
        fs::rename(new, self.directory().join(name)).unwrap();
    }

    /// What the process wrote to a file beside the configuration; empty if there is none.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory().join(name)).unwrap_or_default()
    }

    /// The entries of `access.log`, without the readiness probe's.
    pub fn entries(&self) -> Vec<serde_json::Value> {
        entries(&self.read("access.log"))
    }

    /// The first `count` entries of `access.log`, waiting for them.
    #[track_caller]
    pub fn wait_for_entries(&self, count: usize) -> Vec<serde_json::Value> {
        eventually(&format!("{count} lines in access.log"), || self.entries().len() >= count);
        self.entries()
    }
}

/// The JSON lines of an access log, without the readiness probe's. A line that is still being
/// written, without its end, is left out.
pub fn entries(log: &str) -> Vec<serde_json::Value> {
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    whole
        .lines()
        .map(|line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
        })
        .enumerate()
        .filter(|(at, entry): &(usize, serde_json::Value)| {
            let refused = entry["reason"] == "bad_request" && entry["protocol"] != "TCP";
            entry["path"] != PROBE_PATH && !(*at == 0 && refused)
        })
        .map(|(_, entry)| entry)
        .collect()
}

/// A running balancer with its configuration.
pub struct Lb {
    pub program: Program,
    pub files: Files,
}

impl Deref for Lb {
    type Target = Files;

    fn deref(&self) -> &Files {
        &self.files
    }
}

impl Lb {
    #[track_caller]
    fn wait_until_it_serves(&mut self) {
        let web = self.web();
        let serves = within(SOON, || {
            self.program.assert_running();
            answers(&web)
        });
        assert!(serves, "the balancer does not serve {web} within {SOON:?}");
    }

    /// `GET path` on a connection of its own.
    #[track_caller]
    pub fn get(&self, path: &str) -> super::Response {
        super::get(&self.web(), path)
    }

    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(&self.web())
    }

    /// The first line of the error log that contains `text`, waiting for it.
    #[track_caller]
    pub fn wait_for_line(&self, text: &str) -> String {
        self.program.stderr.wait_for(text)
    }

    /// How many lines of the error log contain `text`.
    pub fn lines_with(&self, text: &str) -> usize {
        self.program.stderr.count(text)
    }

    pub fn signal(&self, signal: Signal) {
        self.program.signal(signal);
    }
}

impl Lb {
    /// Starts a successor, and returns it once it waits to take over.
    #[track_caller]
    pub fn successor(&self) -> Program {
        let program = Program::start([OsStr::new("-c"), self.path().as_os_str(), OsStr::new("-u")]);
        program.stderr.wait_for("waiting for the running instance");
        program
    }

    /// Has the process hand over to a new one, and returns it: it drains.
    #[track_caller]
    pub fn hand_over(&mut self) -> Program {
        let successor = self.successor();
        self.signal(Signal::QUIT);
        successor.stderr.wait_for("took over");
        self.wait_for_line("the successor serves");
        std::mem::replace(&mut self.program, successor)
    }
}

/// Whether something there answers HTTP. The request lacks its Host, so that the balancer
/// answers by itself.
pub fn answers(address: &Address) -> bool {
    Client::try_connect(address).is_ok_and(|mut client| {
        client.try_send(format!("GET {PROBE_PATH} HTTP/1.1\r\n\r\n").as_bytes()).is_ok()
            && client.try_response().is_ok()
    })
}
