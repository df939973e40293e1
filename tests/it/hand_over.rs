//! Handing over to a new process: when, what becomes of each kind of connection, and what happens when it
//! does not come about.

use crate::support::{
    Address, Client, Config, Gate, Lb, Origin, Program, Reply, Reserved, SOON, eventually, get,
    h2::{Frames, GOAWAY, H2},
    lb::{answers, server},
    request,
};
use rustix::{
    net::{
        AddressFamily, SendFlags, SocketAddrUnix, SocketType, accept, bind, connect, listen, send,
    },
    process::Signal,
};
use std::{
    ffi::OsStr,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

const UNCHECKED: &str = "health_check: off";
const ADMIN: &str = "admin: { address: \"@2@\", hosts: [test.example] }\n";

/// The process that answers at the admin address.
fn pid(lb: &Lb) -> u64 {
    get(&lb.extra(2), "/api/v1/status").json()["pid"].as_u64().unwrap()
}

#[test]
fn the_running_instance_serves_until_its_successor_has_checked_its_backends() {
    let (gate, held) = (Gate::default(), Arc::new(AtomicBool::new(false)));
    let script = (gate.clone(), held.clone());
    let a = Origin::scripted("a", move |request| match request.path() {
        "/health" if script.1.load(Relaxed) => Reply::text("ok").behind(&script.0),
        _ => Reply::text("a"),
    });
    let check = "health_check: { http: { path: /health }, interval: 600s, timeout: 60s }";
    let lb = Config::pool(&[a.entry()], check).and(ADMIN).start();
    held.store(true, Relaxed);
    let second = Program::start([OsStr::new("-c"), lb.path().as_os_str(), OsStr::new("-u")]);
    eventually("the successor checks its backend", || a.working() == 1);
    lb.signal(Signal::QUIT);
    for _ in 0..100 {
        assert_eq!(lb.get("/").status, 200);
        assert_eq!(pid(&lb), u64::from(lb.program.pid()));
    }
    assert_eq!((second.stderr.count("took over"), lb.lines_with("draining")), (0, 0));
    gate.open();
    second.stderr.wait_for("took over");
    lb.wait_for_line("the successor serves");
    assert_eq!(lb.get("/").status, 200);
    assert_eq!(pid(&lb), u64::from(second.pid()));
}

#[test]
fn an_idle_connection_is_answered_told_to_close_and_left_time_to_do_so() {
    let a = Origin::named("a");
    let mut lb = Config::pool(&[a.entry()], UNCHECKED)
        .and(&server("drain_timeout: 20s"))
        .access_log()
        .start();
    let mut idle: Vec<_> = (0..5).map(|_| lb.client()).collect();
    for client in &mut idle {
        assert!(!client.get("/").headers.lists("connection", "close"));
    }
    let mut first = lb.hand_over();
    first.stderr.wait_for("draining: 5 connections");
    for client in &mut idle {
        let response = client.get("/late");
        assert_eq!((response.status, response.text().as_str()), (200, "a"));
        assert!(response.headers.lists("connection", "close"), "{:?}", response.headers);
        // A client that has sent more before it read that is not reset: it could lose the answer.
        for _ in 0..20 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        }
        assert!(client.until_the_end().expect("an orderly end").is_empty());
    }
    drop(idle);
    assert!(first.wait_for_exit(SOON).is_some());
    assert_eq!(a.requests().iter().filter(|request| request.path() == "/late").count(), 5);
}

#[test]
fn http2_is_told_to_go_and_its_streams_are_answered() {
    let gate = Gate::default();
    let held = gate.clone();
    let a = Origin::scripted("a", move |request| match request.path() {
        "/held" => Reply::text("held").behind(&held),
        _ => Reply::text("a"),
    });
    let mut lb = Config::pool(&[a.entry()], UNCHECKED).listener("h2c: true").start();
    let mut frames = Frames::connect(&lb.web());
    frames.get(1, "/");
    frames.end_of(1);
    let client = H2::connect(&lb.web());
    let stream = client.begin(crate::support::h2::get("/held"), true);
    eventually("the request is on its backend", || a.working() == 1);
    let mut first = lb.hand_over();
    let goodbye = frames.until(|frame| frame.kind == GOAWAY).expect("a GOAWAY");
    assert_eq!(goodbye.reason(), h2::Reason::NO_ERROR);
    drop(frames);
    first.assert_running();
    gate.open();
    assert_eq!(stream.answer().unwrap().text(), "held");
    client.end().expect("an orderly end");
    assert!(first.wait_for_exit(SOON).is_some());
    assert_eq!(H2::connect(&lb.web()).get("/").text(), "a");
}

#[test]
fn tunnels_and_streams_live_until_drain_timeout_is_over() {
    let a = Origin::scripted("a", |_| Reply::Upgrade);
    let text = format!(
        "listeners:\n  web: {{ address: \"@WEB@\" }}\n  \
         tcp: {{ address: \"@2@\", protocol: tcp, pool: tcp }}\n\
         routes: [{{ pool: app }}]\n\
         pools:\n  app: {{ backends: [{0}], {UNCHECKED} }}\n  tcp: {{ backends: [{0}], {UNCHECKED} }}\n",
        a.entry()
    );
    let mut lb = Config::new(text).and(&server("drain_timeout: 3s")).start();
    let mut clients = [lb.client(), Client::connect(&lb.extra(2))];
    for client in &mut clients {
        let fields = ["Connection: Upgrade", "Upgrade: websocket"];
        assert_eq!(client.ask(request("GET", "/", &fields, b"")).status, 101);
    }
    let began = Instant::now();
    let mut first = lb.hand_over();
    while began.elapsed() < Duration::from_secs(2) {
        for client in &mut clients {
            client.send("still here");
            assert_eq!(client.exactly(10), b"still here");
        }
    }
    assert!(first.wait_for_exit(SOON).is_some());
    assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
    first.stderr.wait_for("drain_timeout is over: 2 connections are cut off");
    assert!(clients.iter_mut().all(Client::is_closed));
}

#[test]
fn forty_listeners_are_handed_over() {
    let a = Origin::named("a");
    let ports: Vec<_> = (0..40).map(|_| Reserved::new()).collect();
    let listener = |(index, port): (usize, &Reserved)| {
        format!("  l{index}: {{ address: \"{}\" }}\n", port.address())
    };
    let listeners: String = ports.iter().enumerate().map(listener).collect();
    let config = Config::pool(&[a.entry()], UNCHECKED).and(&format!("listeners:\n{listeners}"));
    let mut lb = config.without_probe().start();
    eventually("it serves", || answers(&ports[39].address()));
    let mut first = lb.hand_over();
    assert!(first.wait_for_exit(SOON).is_some());
    for port in &ports {
        assert_eq!(get(&port.address(), "/").text(), "a");
    }
}

#[test]
fn a_successor_that_dies_with_the_sockets_in_its_hands_leaves_everything_as_it_was() {
    let a = Origin::named("a");
    let mut lb = Config::pool(&[a.entry()], UNCHECKED).and(ADMIN).start();
    {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        let path = lb.directory().join("upgrade.sock");
        bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        listen(&socket, 1).unwrap();
        lb.signal(Signal::QUIT);
        let _exchange = accept(&socket).unwrap();
    }
    lb.wait_for_line("QUIT refused, still serving");
    assert_eq!((lb.get("/").status, pid(&lb)), (200, u64::from(lb.program.pid())));
    // The file that it left behind is in nobody's way.
    assert!(lb.directory().join("upgrade.sock").exists());
    let mut first = lb.hand_over();
    assert!(first.wait_for_exit(SOON).is_some());
    assert_eq!((lb.get("/").status, pid(&lb)), (200, u64::from(lb.program.pid())));
}

#[test]
fn a_successor_whose_predecessor_has_given_up_ends_and_leaves_everything_as_it_was() {
    let a = Origin::named("a");
    let lb = Config::pool(&[a.entry()], UNCHECKED).and(ADMIN).start();
    // It could serve, on addresses of its own.
    lb.edit(&lb.web().to_string(), &lb.extra(3).to_string());
    lb.edit(&lb.extra(2).to_string(), &lb.extra(4).to_string());
    let mut second = lb.successor();
    {
        // An instance that does not wait any longer, and lives.
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        let path = lb.directory().join("upgrade.sock");
        connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        send(&socket, b"end", SendFlags::empty()).unwrap();
    }
    second.stderr.wait_for("did not wait any longer, and serves on");
    assert_eq!(second.wait_for_exit(SOON).expect("it exits").code(), Some(1));
    assert_eq!((lb.get("/").status, pid(&lb)), (200, u64::from(lb.program.pid())));
}

#[test]
fn a_successor_that_is_killed_while_it_waits_leaves_everything_as_it_was() {
    let a = Origin::named("a");
    let mut lb = Config::pool(&[a.entry()], UNCHECKED).and(ADMIN).start();
    let mut second = lb.successor();
    second.signal(Signal::KILL);
    assert!(second.wait_for_exit(SOON).is_some());
    lb.signal(Signal::QUIT);
    lb.wait_for_line("QUIT refused, still serving");
    assert_eq!((lb.get("/").status, pid(&lb)), (200, u64::from(lb.program.pid())));
    let mut first = lb.hand_over();
    assert!(first.wait_for_exit(SOON).is_some());
    assert_eq!(lb.get("/").status, 200);
}

#[test]
fn a_successor_that_cannot_start_leaves_everything_as_it_was() {
    let a = Origin::named("a");
    let mut lb = Config::pool(&[a.entry()], UNCHECKED)
        .and("listeners:\n  web: { address: \"@WEB@\" }\n")
        .and(ADMIN)
        .start();
    let text = fs::read_to_string(lb.path()).unwrap();
    // A file with a mistake in it.
    fs::write(lb.path(), text.replace("  web:", "  wen: 1\n  web:")).unwrap();
    let (code, _, stderr) =
        Program::run([OsStr::new("-c"), lb.path().as_os_str(), OsStr::new("-u")]);
    assert_eq!(code, 1, "{stderr}");
    // An address that is taken, which shows when the others are handed over.
    let Address::Tcp(taken) = lb.extra(3) else { unreachable!() };
    let taken = std::net::TcpListener::bind(taken).unwrap();
    let more = format!("  more: {{ address: \"{}\" }}\n  web:", lb.extra(3));
    fs::write(lb.path(), text.replace("  web:", &more)).unwrap();
    let mut second = lb.successor();
    lb.signal(Signal::QUIT);
    lb.wait_for_line("QUIT refused, still serving");
    assert_eq!(second.wait_for_exit(SOON).expect("it exits").code(), Some(1));
    second.stderr.wait_for("listener more: cannot listen on ");
    assert_eq!((lb.get("/").status, pid(&lb)), (200, u64::from(lb.program.pid())));
    assert_eq!(lb.lines_with("draining"), 0);
    // Once it is free, it comes about, and the listener that is new is there.
    drop(taken);
    let mut first = lb.hand_over();
    assert!(first.wait_for_exit(SOON).is_some());
    assert_eq!((lb.get("/").text(), get(&lb.extra(3), "/").text()), ("a".into(), "a".into()));
}

#[test]
fn connections_to_the_admin_api_are_answered_before_they_end() {
    let a = Origin::named("a");
    let mut lb = Config::pool(&[a.entry()], UNCHECKED).and(ADMIN).start();
    let old = u64::from(lb.program.pid());
    let mut fresh = Client::connect(&lb.extra(2));
    let mut idle = Client::connect(&lb.extra(2));
    // They are accepted in their order, so the first has been by the time the second is answered.
    assert_eq!(idle.get("/healthz").status, 200);
    let first = lb.hand_over();
    for client in [&mut fresh, &mut idle] {
        let response = client.get("/api/v1/status");
        assert_eq!(
            (&response.json()["pid"], &response.json()["draining"]),
            (&old.into(), &true.into())
        );
        assert!(response.headers.lists("connection", "close"), "{:?}", response.headers);
        assert!(client.is_closed());
    }
    assert_eq!(pid(&lb), u64::from(lb.program.pid()));
    let mut first = first;
    assert!(first.wait_for_exit(SOON).is_some());
}
