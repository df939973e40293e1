//! What a service manager is told (`sd_notify`).

use crate::support::{
    Config, Origin, Program, SOON, eventually, get,
    lb::{Files, server},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsStr,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

const UNCHECKED: &str = "health_check: off\nslow_start: 0s";

/// A service manager that listens, and the name of its socket.
struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    fn at(files: &Files) -> Self {
        let path = files.directory().join("notify.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self::with(socket, path.to_str().unwrap().to_owned())
    }

    fn with(socket: UnixDatagram, name: String) -> Self {
        socket.set_read_timeout(Some(SOON)).unwrap();
        Self { socket, name }
    }

    /// Starts a balancer that is to tell this one.
    fn start(&self, files: &Files, more: &[&str]) -> Program {
        let args = [OsStr::new("-c"), files.path().as_os_str()];
        let mut command = Program::command(args.into_iter().chain(more.iter().map(OsStr::new)));
        Program::spawn(command.env("NOTIFY_SOCKET", &self.name))
    }

    /// The next message.
    #[track_caller]
    fn told(&self) -> String {
        let mut message = [0; 512];
        let length = self.socket.recv(&mut message).expect("a message");
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    #[track_caller]
    fn assert_ready(&self, program: &Program) {
        assert_eq!(self.told(), format!("MAINPID={}\nREADY=1\n", program.pid()));
    }

    fn is_told_nothing(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let nothing = self.socket.recv(&mut [0; 512]).is_err();
        self.socket.set_nonblocking(false).unwrap();
        nothing
    }
}

/// `CLOCK_MONOTONIC` in microseconds.
fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec * 1_000_000 + now.tv_nsec / 1000).unwrap()
}

#[test]
fn it_is_told_of_the_start_of_reloads_and_of_the_end() {
    let a = Origin::named("a");
    let files = Config::pool(&[a.entry()], UNCHECKED).write();
    let manager = Manager::at(&files);
    let before = now();
    let mut program = manager.start(&files, &[]);
    manager.assert_ready(&program);
    assert_eq!(get(&files.web(), "/").status, 200);
    // One that works, and one that does not: either way, it goes on.
    for mistake in [false, true] {
        if mistake {
            files.replace("lb.yaml", "listeners: 1\n");
        }
        program.signal(Signal::HUP);
        let told = manager.told();
        let time = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&told);
        let time: u64 = time.trim_end().parse().unwrap();
        assert!(before < time && time < now(), "{before} {time} {}", now());
        assert_eq!(manager.told(), "READY=1\n");
    }
    program.signal(Signal::TERM);
    assert_eq!(manager.told(), "STOPPING=1\n");
    assert!(program.wait_for_exit(SOON).is_some());
    assert!(manager.is_told_nothing());
}

#[test]
fn it_is_told_nothing_before_the_first_checks_are_over() {
    let gate = crate::support::Gate::default();
    let held = gate.clone();
    let a = Origin::scripted("a", move |_| crate::support::Reply::text("ok").behind(&held));
    let check = "health_check: { http: { path: /health }, timeout: 60s }";
    let files = Config::pool(&[a.entry()], check).write();
    let manager = Manager::at(&files);
    let program = manager.start(&files, &[]);
    eventually("the check is under way", || a.working() == 1);
    assert!(manager.is_told_nothing());
    gate.open();
    manager.assert_ready(&program);
}

#[test]
fn after_a_hand_over_the_successor_is_the_main_process() {
    let a = Origin::named("a");
    let files = Config::pool(&[a.entry()], UNCHECKED).write();
    let manager = Manager::at(&files);
    let mut first = manager.start(&files, &[]);
    manager.assert_ready(&first);
    let mut second = manager.start(&files, &["-u"]);
    second.stderr.wait_for("waiting for the running instance");
    assert!(manager.is_told_nothing());
    first.signal(Signal::QUIT);
    manager.assert_ready(&second);
    // The predecessor's end is not the service's.
    assert!(first.wait_for_exit(SOON).is_some());
    assert!(manager.is_told_nothing());
    second.signal(Signal::TERM);
    assert_eq!(manager.told(), "STOPPING=1\n");
    assert!(second.wait_for_exit(SOON).is_some());
}

#[test]
fn a_successor_in_the_background_is_the_main_process_too() {
    let a = Origin::named("a");
    let keys = server("error_log: error.log");
    let files = Config::pool(&[a.entry()], UNCHECKED).and(&keys).write();
    let manager = Manager::at(&files);
    let mut first = manager.start(&files, &[]);
    manager.assert_ready(&first);
    // As the unit does: the starter is gone as soon as its child waits, and the signal may come at once.
    let (code, _, stderr) = manager.start(&files, &["-d", "-u"]).finish();
    assert_eq!(code, 0, "{stderr}");
    first.signal(Signal::QUIT);
    let told = manager.told();
    assert!(first.wait_for_exit(SOON).is_some());
    let pid = files.read("lb.pid").trim().to_owned();
    let successor = Pid::from_raw(pid.parse().unwrap()).unwrap();
    kill_process(successor, Signal::TERM).unwrap();
    assert_eq!(told, format!("MAINPID={pid}\nREADY=1\n"));
    assert_eq!(manager.told(), "STOPPING=1\n");
}

#[test]
fn a_socket_without_a_file_will_do_and_one_that_nobody_listens_on_does_no_harm() {
    let a = Origin::named("a");
    let files = Config::pool(&[a.entry()], UNCHECKED).write();
    let name = format!("pingora-lb-test-{}-{}", std::process::id(), files.web().port());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    let manager = Manager::with(socket, format!("@{name}"));
    let program = manager.start(&files, &[]);
    manager.assert_ready(&program);
    drop(manager.socket);
    program.signal(Signal::HUP);
    program.stderr.wait_for("the service manager cannot be told");
    program.stderr.wait_for("reloaded: nothing has changed");
    assert_eq!(get(&files.web(), "/").status, 200);
}
