//! Where connections are accepted, and how many.

use crate::support::{
    Address, Client, Config, Origin, Program, Reserved, eventually, get, request, within,
};
use std::{os::unix::net::UnixListener, time::Duration};

const UNCHECKED: &str = "health_check: off";

fn pool_of(origin: &Origin) -> String {
    format!("pools:\n  app: {{ backends: [{}], {UNCHECKED} }}\n", origin.entry())
}

#[test]
fn several_listeners_serve_at_once() {
    let origin = Origin::named("app-1");
    let listeners = "listeners:\n  web: { address: \"@WEB@\" }\n  two: { address: \"@2@\" }\n  three: { address: \"@3@\" }\n";
    let lb = Config::new(format!("{listeners}{}", pool_of(&origin))).access_log().start();
    for address in [lb.web(), lb.extra(2), lb.extra(3)] {
        assert_eq!(get(&address, "/").text(), "app-1", "{address}");
    }
    let names: Vec<_> =
        lb.wait_for_entries(3).iter().map(|entry| entry["listener"].clone()).collect();
    assert_eq!(names, ["web", "two", "three"]);
}

#[test]
fn a_listener_on_ipv6_serves() {
    let origin = Origin::named("app-1");
    let v6 = Reserved::v6();
    let listeners = format!(
        "listeners:\n  web: {{ address: \"@WEB@\" }}\n  v6: {{ address: \"{}\" }}\n",
        v6.address()
    );
    let lb = Config::new(format!("{listeners}{}", pool_of(&origin))).start();
    assert_eq!(get(&v6.address(), "/").text(), "app-1");
    assert_eq!(origin.last_request().headers.get("x-real-ip"), Some("::1"));
    drop(lb);
}

#[test]
fn a_listener_on_a_unix_socket_serves() {
    let origin = Origin::named("app-1");
    let listeners =
        "listeners:\n  web: { address: \"@WEB@\" }\n  local: { address: \"unix:@DIR@/lb.sock\" }\n";
    let lb = Config::new(format!("{listeners}{}", pool_of(&origin))).start();
    let address = Address::Unix(lb.directory().join("lb.sock"));
    let mut client = Client::connect(&address);
    for _ in 0..2 {
        assert_eq!(client.get("/").text(), "app-1");
    }
}

/// A configuration with one listener on a unix socket in its directory.
fn on_a_unix_socket(origin: &Origin) -> Config {
    let listeners = "listeners:\n  web: { address: \"unix:@DIR@/lb.sock\" }\n";
    Config::new(format!("{listeners}{}", pool_of(origin)))
}

#[test]
fn a_socket_file_that_a_dead_process_left_is_replaced() {
    let origin = Origin::named("app-1");
    let files = on_a_unix_socket(&origin).write();
    let path = files.directory().join("lb.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "the file outlives its listener");
    let _lb = Program::start(["-c".as_ref(), files.path().as_os_str()]);
    let address = Address::Unix(path);
    eventually("it listens", || Client::try_connect(&address).is_ok());
    assert_eq!(get(&address, "/").text(), "app-1");
}

#[test]
fn a_socket_file_that_somebody_listens_on_is_not_taken() {
    let origin = Origin::named("app-1");
    let files = on_a_unix_socket(&origin).write();
    let path = files.directory().join("lb.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let (code, _, stderr) = Program::run(["-c".as_ref(), files.path().as_os_str()]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("lb.sock"), "{stderr}");
    Address::Unix(path).connect().unwrap();
}

#[test]
fn connections_over_the_limit_are_told_so_at_once() {
    let origin = Origin::named("app-1");
    let lb = Config::new(pool_of(&origin)).listener("max_connections: 2").access_log().start();
    // The readiness probe's own connection may still be counted.
    let mut open = Vec::new();
    eventually("two connections are served", || {
        open.clear();
        open.extend([lb.client(), lb.client()]);
        open.iter_mut().all(|client| client.get("/").status == 200)
    });

    let mut third = lb.client();
    let _ = third.try_send(&request("GET", "/third", &[], b""));
    let response = third.response();
    assert_eq!(response.status, 503);
    assert!(response.text().contains("overloaded"), "{}", response.text());
    assert!(response.headers.has("retry-after"), "{:?}", response.headers);
    assert!(third.is_closed());

    assert_eq!(open[0].get("/").status, 200, "those inside are not affected");
    open.clear();
    eventually("there is room again", || lb.get("/").status == 200);
}

#[test]
fn the_limit_is_of_one_listener() {
    let origin = Origin::named("app-1");
    let listeners = "listeners:\n  web: { address: \"@WEB@\" }\n  small: { address: \"@2@\", max_connections: 1 }\n";
    let lb = Config::new(format!("{listeners}{}", pool_of(&origin))).start();
    let mut clients: Vec<Client> = (0..5).map(|_| lb.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").status, 200);
    }
    let mut only = Client::connect(&lb.extra(2));
    assert_eq!(only.get("/").status, 200);
}

#[test]
fn a_listener_serves_only_after_the_first_health_checks() {
    let origin = Origin::slow("app-1", Duration::from_millis(300));
    let check = "health_check: { http: { path: /health }, timeout: 5s }";
    let lb = Config::pool(&[origin.entry()], check).without_probe().start();
    eventually("it is bound", || Client::try_connect(&lb.web()).is_ok());
    // Asked before the check is over, answered after it.
    assert_eq!(lb.get("/").status, 200);
    assert_eq!(origin.requests()[0].path(), "/health");
}

#[test]
fn those_who_are_refused_take_no_place() {
    let origin = Origin::named("app-1");
    let lb = Config::new(pool_of(&origin)).listener("max_connections: 1").start();
    let mut only = lb.client();
    eventually("it has the only place", || {
        only = lb.client();
        only.get("/").status == 200
    });
    let mut crowd: Vec<Client> = (0..5).map(|_| lb.client()).collect();
    for client in &mut crowd {
        assert_eq!(client.response().status, 503);
    }
    drop(only);
    // The crowd stays, but is not served, nor in the way.
    let served = within(Duration::from_secs(1), || lb.get("/").status == 200);
    assert!(served, "the place of the one who was served is not free");
}

#[test]
fn a_lack_of_descriptors_is_told_once() {
    let origin = Origin::named("app-1");
    let files = Config::new(pool_of(&origin)).listener("timeouts: { header: 500ms }").write();
    let mut command = std::process::Command::new("sh");
    let binary = Program::command(["-c"]).get_program().to_owned();
    command.args(["-c", "ulimit -n 40 && exec \"$0\" -c \"$1\""]).arg(binary).arg(files.path());
    let program = Program::spawn(&mut command);
    eventually("it serves", || crate::support::lb::answers(&files.web()));
    let mut crowd: Vec<Client> = (0..60).map(|_| Client::connect(&files.web())).collect();
    program.stderr.wait_for("cannot accept connections");
    // Until the header timeout, there is no room, and it tries ten times a second.
    assert!(crowd[0].is_closed());
    drop(crowd);
    eventually("it is over", || {
        let _ = crate::support::lb::answers(&files.web());
        program.stderr.count("connections are accepted again") == 1
    });
    assert_eq!(program.stderr.count("cannot accept connections"), 1);
}
