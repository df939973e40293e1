//! The `server` section, as far as signals and the daemon do not show it.

use crate::support::{Address, Client, Config, Origin, Program, eventually, get, lb::server};
use rustix::process::{Pid, Signal, kill_process};
use std::{ffi::OsStr, fs};

const UNCHECKED: &str = "health_check: off";

/// How many threads the balancer runs with this setting.
fn threads(origin: &Origin, threads: usize) -> usize {
    let text = format!("server:\n  threads: {threads}\n  upgrade_sock: upgrade.sock");
    let lb = Config::pool(&[origin.entry()], UNCHECKED).and(&text).start();
    lb.get("/");
    let status = fs::read_to_string(format!("/proc/{}/status", lb.program.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Threads:")).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn threads_is_the_number_of_workers() {
    let origin = Origin::named("app-1");
    let (few, many) = (threads(&origin, 1), threads(&origin, 9));
    assert!(many >= few + 8, "{few} threads with one worker, {many} with nine");
}

#[test]
fn one_worker_serves_several_listeners_and_many_clients() {
    let origin = Origin::named("app-1");
    let text = "server:\n  threads: 1\n  upgrade_sock: upgrade.sock\nlisteners:\n  web: { address: \"@WEB@\" }\n  two: { address: \"@2@\" }";
    let lb = Config::pool(&[origin.entry()], UNCHECKED).and(text).start();
    let mut clients: Vec<Client> = (0..20)
        .map(|n| Client::connect(&if n % 2 == 0 { lb.web() } else { lb.extra(2) }))
        .collect();
    for client in &mut clients {
        assert_eq!(client.get("/").status, 200);
    }
}

#[test]
fn log_level_decides_what_is_logged() {
    let origin = Origin::named("app-1");
    for (level, logged) in [("info", true), ("off", false)] {
        let keys = "health_check: { interval: 150ms, timeout: 150ms, fall: 1, rise: 1 }";
        let lb = Config::pool(&[origin.entry()], keys)
            .and(&server(&format!("log_level: {level}")))
            .start();
        origin.stop();
        eventually("the backend is known to be down", || lb.get("/").status == 503);
        origin.start();
        eventually("it is back", || lb.get("/").status == 200);
        assert_eq!(lb.lines_with("app-1") > 0, logged, "{level}");
    }
}

#[test]
fn a_daemon_does_not_log_requests_to_nowhere() {
    let files = Config::pool(&["127.0.0.1:1".to_owned()], UNCHECKED)
        .and("access_log: { path: stdout }")
        .and(&server("error_log: error.log"))
        .write();
    let (code, _, stderr) =
        Program::run([OsStr::new("-c"), files.path().as_os_str(), OsStr::new("-d")]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("access_log.path is stdout"), "{stderr}");
    assert!(!files.directory().join("lb.pid").exists());
}

#[test]
fn an_account_without_a_daemon_is_warned_of() {
    let origin = Origin::named("app-1");
    for keys in ["user: nobody", "group: nogroup"] {
        let lb = Config::pool(&[origin.entry()], UNCHECKED).and(&server(keys)).start();
        lb.wait_for_line("apply to a daemon only");
    }
    let lb = Config::pool(&[origin.entry()], UNCHECKED).start();
    assert_eq!(lb.lines_with("apply to a daemon only"), 0);
}

#[test]
fn the_file_can_ask_for_a_daemon() {
    let origin = Origin::named("app-1");
    let files = Config::pool(&[origin.entry()], UNCHECKED)
        .and(&server("daemon: true\nerror_log: error.log"))
        .write();
    let (code, _, stderr) = Program::run([OsStr::new("-c"), files.path().as_os_str()]);
    assert_eq!(code, 0, "{stderr}");
    let pid = || files.read("lb.pid").trim().parse().ok().and_then(Pid::from_raw);
    eventually("the pid file", || pid().is_some());
    let pid = pid().unwrap();
    eventually("it serves", || crate::support::lb::answers(&files.web()));
    assert_eq!(get(&files.web(), "/").text(), "app-1");
    kill_process(pid, Signal::KILL).unwrap();
}

#[test]
fn relative_paths_start_from_the_files_folder() {
    let origin = Origin::named("app-1");
    let text = "listeners:\n  web: { address: \"@WEB@\" }\n  local: { address: unix:local.sock }";
    let lb = Config::pool(&[origin.entry()], UNCHECKED).and(text).access_log().start();
    let local = Address::Unix(lb.directory().join("local.sock"));
    assert_eq!(get(&local, "/").text(), "app-1");
    assert_eq!(lb.wait_for_entries(1)[0]["listener"], "local");
}

#[test]
fn values_come_from_the_environment() {
    let origin = Origin::named("app-1");
    let backend = "\"127.0.0.1:${BACKEND_PORT}\"".to_owned();
    let keys = format!("{UNCHECKED}\nhost_header: ${{BACKEND_HOST:-fallback.example}}");
    let files = Config::pool(&[backend], &keys).write();
    let args = [OsStr::new("-c"), files.path().as_os_str()];
    let _program =
        Program::spawn(Program::command(args).env("BACKEND_PORT", origin.port().to_string()));
    eventually("it serves", || crate::support::lb::answers(&files.web()));
    assert_eq!(get(&files.web(), "/").text(), "app-1");
    assert_eq!(origin.only_request().headers.get("host"), Some("fallback.example"));

    let (code, _, stderr) = Program::run(args);
    assert_eq!(code, 1);
    assert!(stderr.contains("BACKEND_PORT"), "{stderr}");
}
