//! Signals, the daemon and the hand-over.

use crate::support::{
    Config, Lb, Load, Origin, Program, Reply, SOON, eventually, get,
    lb::{Files, server},
    request, within,
};
use rustix::{
    fs::{CWD, Mode, OFlags, fcntl_getfl, fcntl_setfl, mkfifoat},
    net::{AddressFamily, SocketAddrUnix, SocketType, accept, bind, listen},
    process::{Pid, Signal, kill_process, test_kill_process},
};
use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write},
    process::Stdio,
    time::{Duration, Instant},
};

const UNCHECKED: &str = "health_check: off";

/// A balancer with a request on its way that the origin has seen.
fn with_a_request_in_flight(origin: &Origin, keys: &str) -> (Lb, crate::support::Client) {
    let lb = Config::pool(&[origin.entry()], UNCHECKED).and(&server(keys)).start();
    let mut client = lb.client();
    client.send(request("GET", "/in-flight", &[], b""));
    eventually("the request arrives", || origin.count() == 1);
    (lb, client)
}

#[test]
fn term_lets_a_request_in_flight_finish_and_then_exits_at_once() {
    let origin = Origin::slow("app-1", Duration::from_secs(3));
    let (mut lb, mut client) = with_a_request_in_flight(&origin, "drain_timeout: 30s");
    lb.signal(Signal::TERM);
    let response = client.response();
    let answered = Instant::now();
    assert_eq!((response.status, response.text().as_str()), (200, "app-1"));
    assert!(response.headers.lists("connection", "close"), "{:?}", response.headers);
    let status = lb.program.wait_for_exit(SOON).expect("it exits");
    let took = answered.elapsed();
    assert!(took < Duration::from_millis(200), "gone {took:?} after the answer");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn new_connections_are_refused_while_draining() {
    let origin = Origin::slow("app-1", Duration::from_secs(2));
    let (mut lb, mut client) = with_a_request_in_flight(&origin, "drain_timeout: 30s");
    lb.signal(Signal::TERM);
    let web = lb.web();
    assert!(
        within(Duration::from_millis(1500), || web.connect().is_err()),
        "connections are accepted while draining"
    );
    lb.program.assert_running();
    assert_eq!(client.response().status, 200);
}

#[test]
fn term_exits_at_once_when_nothing_is_in_flight() {
    let origin = Origin::named("app-1");
    let mut lb = Config::pool(&[origin.entry()], UNCHECKED).start();
    // Idle keep-alive connections are no work.
    let mut idle = lb.client();
    idle.get("/");
    let fresh = lb.client();
    let signalled = Instant::now();
    lb.signal(Signal::TERM);
    let status = lb.program.wait_for_exit(SOON).expect("it exits");
    let took = signalled.elapsed();
    assert!(took < Duration::from_millis(500), "{took:?}");
    assert_eq!(status.code(), Some(0));
    assert!(idle.is_closed());
    drop(fresh);
}

#[test]
fn requests_that_keep_coming_do_not_fail_during_a_drain() {
    let origin = Origin::slow("app-1", Duration::from_millis(20));
    let mut lb = Config::pool(&[origin.entry()], UNCHECKED).start();
    let mut clients: Vec<_> = (0..8).map(|_| lb.client()).collect();
    let asked = request("GET", "/", &[], b"");
    for client in &mut clients {
        client.get("/");
        client.send(&asked);
    }
    eventually("the second round arrives", || origin.count() == 16);
    lb.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    assert!(lb.program.wait_for_exit(SOON).is_some());
}

#[test]
fn drain_timeout_cuts_what_is_left() {
    let origin = Origin::scripted("app-1", |_| Reply::Hang);
    let (mut lb, mut client) = with_a_request_in_flight(&origin, "drain_timeout: 500ms");
    let signalled = Instant::now();
    lb.signal(Signal::TERM);
    lb.program.wait_for_exit(SOON).expect("it exits");
    let took = signalled.elapsed();
    assert!(took >= Duration::from_millis(450) && took < Duration::from_secs(2), "{took:?}");
    assert_eq!(client.response().status, 503);
    assert!(client.is_closed());
}

#[test]
fn a_download_in_flight_is_work_too() {
    let origin = Origin::scripted("app-1", |_| Reply::EchoStream);
    let lb = Config::pool(&[origin.entry()], UNCHECKED).start();
    let mut client = lb.client();
    client.send(request("POST", "/", &["Transfer-Encoding: chunked"], b"3\r\none\r\n"));
    client.head();
    assert_eq!(client.chunk(), b"one");
    lb.signal(Signal::TERM);
    eventually("it drains", || lb.web().connect().is_err());
    client.send("3\r\ntwo\r\n0\r\n\r\n");
    assert_eq!(client.chunk(), b"two");
    assert_eq!(client.chunk(), b"");
}

#[test]
fn int_exits_at_once() {
    let origin = Origin::scripted("app-1", |_| Reply::Hang);
    let (mut lb, _client) = with_a_request_in_flight(&origin, "drain_timeout: 30s");
    let signalled = Instant::now();
    lb.signal(Signal::INT);
    lb.program.wait_for_exit(SOON).expect("it exits");
    let took = signalled.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn quit_without_a_successor_is_refused() {
    let origin = Origin::named("app-1");
    let mut lb = Config::pool(&[origin.entry()], UNCHECKED).start();
    lb.signal(Signal::QUIT);
    lb.wait_for_line("ERROR");
    lb.program.assert_running();
    assert_eq!(lb.get("/").status, 200);
    // It is still all there: a TERM ends it as ever.
    lb.signal(Signal::TERM);
    assert!(lb.program.wait_for_exit(SOON).is_some());
}

#[test]
fn a_hand_over_loses_no_request() {
    let origin = Origin::scripted("app-1", |request| match request.path() {
        "/slow" => Reply::text("slow").after(Duration::from_secs(1)),
        _ => Reply::text("app-1"),
    });
    let Lb { program: mut first, files } =
        Config::pool(&[origin.entry()], UNCHECKED).and(&server("drain_timeout: 20s")).start();
    let load = Load::start(&files.web(), 8, "/");
    load.wait_for_more(200);

    let conf = files.path().as_os_str();
    let mut second = Program::start([OsStr::new("-c"), conf, OsStr::new("-u")]);
    let socket = files.directory().join("upgrade.sock");
    eventually("the successor waits", || socket.exists());
    let mut slow = crate::support::Client::connect(&files.web());
    slow.send(request("GET", "/slow", &[], b""));
    eventually("the slow request arrives", || {
        origin.requests().iter().any(|seen| seen.path() == "/slow")
    });
    hand_over(&mut first);
    load.wait_for_more(500);
    assert_eq!(slow.response().text(), "slow");

    let (_, _, failures) = load.stop();
    assert_eq!(failures, Vec::<String>::new());
    second.assert_running();
    assert_eq!(get(&files.web(), "/").text(), "app-1");
    // The successor can be drained like any other.
    second.signal(Signal::TERM);
    assert!(second.wait_for_exit(SOON).is_some());
}

/// Tells the old instance to hand over until it is gone. A successor that has only just started
/// may not be waiting yet; then the signal is refused, and sent again.
#[track_caller]
fn hand_over(first: &mut Program) {
    let deadline = Instant::now() + SOON;
    loop {
        first.signal(Signal::QUIT);
        if let Some(status) = first.wait_for_exit(Duration::from_secs(3)) {
            assert_eq!(status.code(), Some(0));
            return;
        }
        assert!(Instant::now() < deadline, "the old instance does not hand over");
    }
}

#[test]
fn a_unix_listener_is_handed_over_too() {
    let origin = Origin::named("app-1");
    let Lb { program: mut first, files } = Config::new(with_a_unix_listener(&origin)).start();
    let conf = files.path().as_os_str();
    let _second = Program::start([OsStr::new("-c"), conf, OsStr::new("-u")]);
    let socket = files.directory().join("upgrade.sock");
    eventually("the successor waits", || socket.exists());
    hand_over(&mut first);
    let local = crate::support::Address::Unix(files.directory().join("lb.sock"));
    assert_eq!(get(&local, "/").text(), "app-1");
    assert_eq!(get(&files.web(), "/").text(), "app-1");
}

/// A process that is not a [`Program`], killed when dropped.
struct Daemon(Pid);

impl Daemon {
    fn is_alive(&self) -> bool {
        // An orphan that nobody reaps, as in a container without an init, is a zombie: gone.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        test_kill_process(self.0).is_ok() && !stat.contains(") Z ")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
    }
}

/// Starts a daemon with these further `server` keys, and returns it with its files once it serves.
fn daemon(origin: &Origin, keys: &str) -> (Daemon, crate::support::lb::Files) {
    let keys = format!("error_log: error.log\n{keys}");
    let files = Config::pool(&[origin.entry()], UNCHECKED).and(&server(&keys)).access_log().write();
    // For those who run it as another user.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(files.directory(), open).unwrap();
    // Its end is the end of what it wrote here too: a daemon holds no stream of its starter.
    let (code, _, stderr) =
        Program::run([OsStr::new("-c"), files.path().as_os_str(), OsStr::new("-d")]);
    assert_eq!(code, 0, "{stderr}");
    let pid = || files.read("lb.pid").trim().parse().ok().and_then(Pid::from_raw);
    eventually("the pid file", || pid().is_some());
    let daemon = Daemon(pid().unwrap());
    eventually("it serves", || crate::support::lb::answers(&files.web()));
    (daemon, files)
}

#[test]
fn a_daemon_detaches_and_leaves_nothing_behind() {
    let origin = Origin::named("app-1");
    let (daemon, files) = daemon(&origin, "");
    assert_eq!(get(&files.web(), "/").text(), "app-1");
    assert_eq!(files.wait_for_entries(1)[0]["path"], "/");
    assert!(daemon.is_alive());
    kill_process(daemon.0, Signal::TERM).unwrap();
    eventually("it is gone", || !daemon.is_alive());
    eventually("the pid file is removed", || !files.directory().join("lb.pid").exists());
}

#[test]
fn a_daemon_writes_its_errors_to_its_log() {
    let origin = Origin::named("app-1");
    let (daemon, files) = daemon(&origin, "");
    kill_process(daemon.0, Signal::QUIT).unwrap();
    eventually("the refusal is logged", || files.read("error.log").contains("ERROR"));
    assert!(daemon.is_alive());
}

#[test]
fn a_daemon_runs_as_the_user_it_is_told() {
    if !rustix::process::getuid().is_root() {
        // Nobody else may change users.
        return;
    }
    let origin = Origin::named("app-1");
    let (daemon, _files) = daemon(&origin, "user: nobody\ngroup: nogroup");
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.0)).unwrap();
    for key in ["Uid:", "Gid:"] {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        assert!(!line.split_whitespace().any(|id| id == "0"), "{line}");
    }
}

/// Starts a successor of a daemon and returns it once it waits to take over.
fn successor_of(daemon: &Daemon, files: &Files) -> Daemon {
    let conf = files.path().as_os_str();
    let (code, _, stderr) =
        Program::run([OsStr::new("-c"), conf, OsStr::new("-d"), OsStr::new("-u")]);
    assert_eq!(code, 0, "{stderr}");
    let pid = || files.read("lb.pid").trim().parse().ok().and_then(Pid::from_raw);
    eventually("the pid file", || pid().is_some_and(|pid| pid != daemon.0));
    assert!(files.directory().join("upgrade.sock").exists());
    let successor = Daemon(pid().unwrap());
    eventually("it waits", || files.read("error.log").contains("waiting for the running instance"));
    successor
}

#[test]
fn a_successor_that_ends_before_its_time_leaves_everything_as_it_was() {
    for signal in [Signal::TERM, Signal::INT] {
        let origin = Origin::named("app-1");
        let (first, files) = daemon(&origin, "");
        let pid = files.read("lb.pid");
        let second = successor_of(&first, &files);
        // A QUIT is not for the one that waits.
        kill_process(second.0, Signal::QUIT).unwrap();
        eventually("it refuses", || files.read("error.log").contains("QUIT refused"));
        kill_process(second.0, signal).unwrap();
        eventually("it is gone", || !second.is_alive());
        assert_eq!(files.read("lb.pid"), pid);
        assert!(!files.directory().join("lb.pid.old").exists());
        assert!(!files.directory().join("upgrade.sock").exists());
        assert!(first.is_alive());
        assert_eq!(get(&files.web(), "/").text(), "app-1");
    }
}

#[test]
fn a_daemon_without_roots_rights_is_succeeded_in_a_folder_of_roots() {
    if !rustix::process::getuid().is_root() {
        return;
    }
    let origin = Origin::named("app-1");
    let (first, files) = daemon(&origin, "user: nobody\ngroup: nogroup");
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(files.directory(), closed).unwrap();
    let second = successor_of(&first, &files);
    kill_process(first.0, Signal::QUIT).unwrap();
    eventually("the first is gone", || !first.is_alive());
    assert!(second.is_alive());
    assert_eq!(get(&files.web(), "/").text(), "app-1");
}

#[test]
fn a_daemons_folder_may_be_its_users() {
    if !rustix::process::getuid().is_root() {
        return;
    }
    let origin = Origin::named("app-1");
    let (first, files) = daemon(&origin, "user: nobody");
    let status = fs::metadata(format!("/proc/{}", first.0)).unwrap();
    let user = std::os::unix::fs::MetadataExt::uid(&status);
    std::os::unix::fs::chown(files.directory(), Some(user), None).unwrap();
    let closed = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(files.directory(), closed).unwrap();
    let pid = files.read("lb.pid");
    let second = successor_of(&first, &files);
    kill_process(second.0, Signal::TERM).unwrap();
    eventually("it is gone", || !second.is_alive());
    assert_eq!(files.read("lb.pid"), pid);
    assert!(!files.directory().join("upgrade.sock").exists());
}

#[test]
fn a_failed_successor_leaves_unix_listeners_alone() {
    let origin = Origin::named("app-1");
    let text = format!(
        "listeners:\n  local: {{ address: \"unix:@DIR@/lb.sock\" }}\n\
         pools:\n  app: {{ backends: [{}], {UNCHECKED} }}\n",
        origin.entry()
    );
    let files = Config::new(text).write();
    let local = crate::support::Address::Unix(files.directory().join("lb.sock"));
    let args = [OsStr::new("-c"), files.path().as_os_str(), OsStr::new("-u")];
    let _first = Program::start(&args[..2]);
    eventually("it serves", || crate::support::lb::answers(&local));
    let mut second = Program::start(args);
    second.stderr.wait_for("waiting for the running instance");
    second.signal(Signal::TERM);
    assert!(second.wait_for_exit(SOON).is_some());
    assert_eq!(get(&local, "/").text(), "app-1");
}

#[test]
fn a_daemon_that_cannot_bind_says_so_to_its_starter() {
    let files = Config::new("pools:\n  app: { backends: [127.0.0.1:1] }\n").write();
    let crate::support::Address::Tcp(web) = files.web() else { unreachable!() };
    let _taken = std::net::TcpListener::bind(web).unwrap();
    let (code, _, stderr) =
        Program::run([OsStr::new("-c"), files.path().as_os_str(), OsStr::new("-d")]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains(&web.to_string()), "{stderr}");
    assert!(!files.directory().join("lb.pid").exists());
}

#[test]
fn hup_and_usr1_reopen_the_access_log() {
    for signal in [Signal::HUP, Signal::USR1] {
        let origin = Origin::named("app-1");
        let mut lb = Config::pool(&[origin.entry()], UNCHECKED).access_log().start();
        lb.get("/before");
        assert_eq!(lb.wait_for_entries(1)[0]["path"], "/before");
        let (log, rotated) =
            (lb.directory().join("access.log"), lb.directory().join("access.log.1"));
        fs::rename(&log, &rotated).unwrap();
        lb.signal(signal);
        eventually("the log is opened anew", || log.exists());
        lb.get("/after");
        assert_eq!(lb.wait_for_entries(1)[0]["path"], "/after");
        assert!(!lb.read("access.log.1").contains("/after"));
        lb.program.assert_running();
    }
}

#[test]
fn no_line_is_lost_when_the_access_log_is_reopened_under_load() {
    let origin = Origin::named("app-1");
    let lb = Config::pool(&[origin.entry()], UNCHECKED).access_log().start();
    let load = Load::start(&lb.web(), 4, "/");
    load.wait_for_more(100);
    for turn in 0..3 {
        let to = lb.directory().join(format!("access.log.{turn}"));
        fs::rename(lb.directory().join("access.log"), to).unwrap();
        lb.signal(Signal::HUP);
        load.wait_for_more(100);
        eventually("the log is opened anew", || lb.directory().join("access.log").exists());
    }
    let (done, _, failures) = load.stop();
    assert_eq!(failures, Vec::<String>::new());
    let lines = || -> usize {
        let names = ["access.log", "access.log.0", "access.log.1", "access.log.2"];
        names.iter().map(|name| lb.read(name).matches("\"reason\":\"ok\"").count()).sum()
    };
    eventually("a line for each request", || lines() == done);
}

/// The text of a configuration that listens on a unix socket too.
fn with_a_unix_listener(origin: &Origin) -> String {
    format!(
        "listeners:\n  web: {{ address: \"@WEB@\" }}\n  local: {{ address: \"unix:@DIR@/lb.sock\" }}\n\
         pools:\n  app: {{ backends: [{}], {UNCHECKED} }}\n",
        origin.entry()
    )
}

/// A successor that has come as far as waiting for a QUIT.
fn successor(files: &crate::support::lb::Files) -> Program {
    let program = Program::start([OsStr::new("-c"), files.path().as_os_str(), OsStr::new("-u")]);
    let socket = files.directory().join("upgrade.sock");
    eventually("the successor waits", || socket.exists());
    program
}

#[test]
fn a_successor_that_takes_nothing_over_leaves_the_socket_files() {
    let origin = Origin::named("app-1");
    let lb = Config::new(with_a_unix_listener(&origin)).start();
    let mut second = successor(&lb.files);
    second.signal(Signal::TERM);
    second.wait_for_exit(SOON).expect("it exits");
    let local = crate::support::Address::Unix(lb.directory().join("lb.sock"));
    assert_eq!(get(&local, "/").text(), "app-1");
}

#[test]
fn the_last_to_serve_removes_the_socket_files() {
    let origin = Origin::named("app-1");
    let Lb { program: mut first, files } = Config::new(with_a_unix_listener(&origin)).start();
    let mut second = successor(&files);
    hand_over(&mut first);
    let socket = files.directory().join("lb.sock");
    assert!(socket.exists());
    second.stderr.wait_for("took over");
    second.signal(Signal::TERM);
    second.wait_for_exit(SOON).expect("it exits");
    assert!(!socket.exists());
}

#[test]
fn idle_clients_are_not_cut_off_after_a_hand_over() {
    let origin = Origin::named("app-1");
    let Lb { program: mut first, files } =
        Config::pool(&[origin.entry()], UNCHECKED).and(&server("drain_timeout: 2s")).start();
    let mut idle = crate::support::Client::connect(&files.web());
    idle.get("/");
    let _second = successor(&files);
    hand_over(&mut first);
    assert!(idle.is_closed());
    first.stderr.wait_for("drained");
    assert_eq!(first.stderr.count("cut off"), 0);
}

/// Somebody who listens where a successor would, and takes part no further.
fn stuck_successor(lb: &Lb) -> std::os::fd::OwnedFd {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    bind(&socket, &SocketAddrUnix::new(lb.directory().join("upgrade.sock")).unwrap()).unwrap();
    listen(&socket, 1).unwrap();
    socket
}

#[test]
fn signals_are_heard_while_a_successor_is_stuck() {
    for last in [Signal::TERM, Signal::INT] {
        let origin = Origin::named("app-1");
        let mut lb = Config::pool(&[origin.entry()], UNCHECKED).access_log().start();
        let successor = stuck_successor(&lb);
        lb.signal(Signal::QUIT);
        let _connection = accept(&successor).unwrap();
        assert_eq!(lb.get("/").status, 200);
        fs::rename(lb.directory().join("access.log"), lb.directory().join("old.log")).unwrap();
        lb.signal(Signal::HUP);
        eventually("the log is opened anew", || lb.directory().join("access.log").exists());
        lb.signal(last);
        let status = lb.program.wait_for_exit(SOON).expect("it exits");
        assert_eq!(status.code(), Some(0));
    }
}

#[test]
fn logs_are_reopened_during_a_drain() {
    let origin = Origin::scripted("app-1", |_| Reply::Hang);
    let lb = Config::pool(&[origin.entry()], UNCHECKED)
        .and(&server("drain_timeout: 30s"))
        .access_log()
        .start();
    let mut client = lb.client();
    client.send(request("GET", "/in-flight", &[], b""));
    eventually("the request arrives", || origin.count() == 1);
    lb.signal(Signal::TERM);
    lb.wait_for_line("draining");
    fs::rename(lb.directory().join("access.log"), lb.directory().join("old.log")).unwrap();
    lb.signal(Signal::HUP);
    eventually("the log is opened anew", || lb.directory().join("access.log").exists());
}

#[test]
fn connections_that_wait_in_the_kernel_are_served_after_term() {
    let origin = Origin::named("app-1");
    let mut lb = Config::pool(&[origin.entry()], UNCHECKED).start();
    // While it stands still, the kernel accepts for it, and TERM waits with them.
    lb.signal(Signal::STOP);
    let mut clients: Vec<_> = (0..100).map(|_| lb.client()).collect();
    for client in &mut clients {
        client.send(request("GET", "/", &[], b""));
    }
    lb.signal(Signal::TERM);
    lb.signal(Signal::CONT);
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(lb.program.wait_for_exit(SOON).expect("it exits").code(), Some(0));
}

#[test]
fn half_a_head_does_not_hold_up_a_drain() {
    let origin = Origin::named("app-1");
    let mut lb = Config::pool(&[origin.entry()], UNCHECKED)
        .listener("timeouts: { header: 60s }")
        .and(&server("drain_timeout: 60s"))
        .start();
    let mut client = lb.client();
    client.get("/");
    client.send("GET / HTTP/1.1\r\nHost:");
    lb.signal(Signal::TERM);
    lb.program.wait_for_exit(SOON).expect("it exits");
}

#[test]
fn a_client_that_stays_after_its_answer_does_not_hold_up_a_drain() {
    let origin = Origin::named("app-1");
    let mut lb = Config::pool(&[origin.entry()], UNCHECKED).start();
    let mut client = lb.client();
    client.send("nonsense\r\n\r\n");
    assert_eq!(client.response().status, 400);
    let signalled = Instant::now();
    lb.signal(Signal::TERM);
    lb.program.wait_for_exit(SOON).expect("it exits");
    let took = signalled.elapsed();
    assert!(took < Duration::from_millis(1200), "{took:?}");
}

/// A pipe that takes no byte more, and the end from which nobody reads.
fn full_pipe() -> (io::PipeReader, io::PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    for piece in [4096, 1] {
        while writer.write(&vec![b'x'; piece]).is_ok() {}
    }
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

#[test]
fn standard_error_that_nobody_reads_holds_up_nothing() {
    let origin = Origin::named("app-1");
    let files = Config::pool(&[origin.entry()], UNCHECKED).and(&server("log_level: debug")).write();
    let (_reader, writer) = full_pipe();
    let mut command = Program::command([OsStr::new("-c"), files.path().as_os_str()]);
    let mut child = command.stdout(Stdio::null()).stderr(writer).spawn().unwrap();
    let daemon = Daemon(Pid::from_child(&child));
    eventually("it serves", || crate::support::lb::answers(&files.web()));
    // Each of these is told to the log.
    for _ in 0..20 {
        let mut client = crate::support::Client::connect(&files.web());
        client.send("nonsense\r\n\r\n");
        assert_eq!(client.response().status, 400);
    }
    assert_eq!(get(&files.web(), "/").text(), "app-1");
    kill_process(daemon.0, Signal::TERM).unwrap();
    eventually("it exits", || !daemon.is_alive());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn signals_that_come_too_early_are_kept() {
    let origin = Origin::named("app-1");
    let files = Config::pool(&[origin.entry()], UNCHECKED).access_log().write();
    // Nobody reads it yet, so trying it out takes until somebody does.
    let fifo = files.directory().join("access.log");
    mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
    let mut program = Program::start([OsStr::new("-c"), files.path().as_os_str()]);
    eventually("it holds its signals back", || {
        let status = fs::read_to_string(format!("/proc/{}/status", program.pid())).unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
        // HUP is 1, the lowest bit.
        u64::from_str_radix(blocked.trim(), 16).unwrap() & 1 == 1
    });
    for signal in [Signal::HUP, Signal::USR1, Signal::QUIT] {
        program.signal(signal);
    }
    let _reader = File::open(&fifo).unwrap();
    program.stderr.wait_for("log files reopened");
    program.stderr.wait_for("QUIT refused");
    eventually("it serves", || crate::support::lb::answers(&files.web()));
    program.signal(Signal::TERM);
    assert_eq!(program.wait_for_exit(SOON).expect("it exits").code(), Some(0));
}
