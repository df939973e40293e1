//! Many connections that are passed on, and large ones.

use crate::support::{
    Authority, Client, Config, Lb, Program, Raw, SOON, TlsClient, eventually, within,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::Socket;
use std::{
    io::{Read, Write},
    thread,
    time::{Duration, Instant},
};

fn in_front_of(backend: &Raw) -> Lb {
    let lb = Config::pool(&[backend.entry()], "health_check: off")
        .listener("protocol: tcp\npool: app")
        .without_probe()
        .start();
    lb.wait_for_line("listening on");
    lb
}

/// How much "much" is: ten gigabytes for `make tcp-proof`, or less where nobody wants to wait for them.
fn much() -> u64 {
    if is_big() { 10 << 30 } else { 256 << 20 }
}

fn is_big() -> bool {
    std::env::var_os("PINGORA_LB_TEST_BIG").is_some()
}

const BLOCK: usize = 256 << 10;

fn pour(mut from: Socket, length: u64) {
    let block = vec![7; BLOCK];
    for _ in 0..length / BLOCK as u64 {
        from.write_all(&block).expect("the balancer takes the bytes");
    }
    from.shutdown(std::net::Shutdown::Write).unwrap();
}

/// How many bytes come until the end.
fn drink(mut from: Socket) -> u64 {
    let mut block = vec![0; BLOCK];
    let mut length = 0;
    loop {
        match from.read(&mut block).expect("an orderly end") {
            0 => return length,
            read => length += read as u64,
        }
    }
}

#[track_caller]
fn assert_memory_stayed(program: &Program, before: u64) {
    // The most that it ever was, which the kernel keeps: no moment is missed between two looks.
    let grown = program.memory("VmHWM").saturating_sub(before);
    println!(
        "resident memory: {} KiB before, at most {} KiB more since",
        before >> 10,
        grown >> 10
    );
    assert!(grown < 8 << 20, "resident memory grew by {} KiB", grown >> 10);
}

#[test]
fn a_stream_of_any_size_takes_little_memory() {
    let backend = Raw::named("a");
    let lb = in_front_of(&backend);
    drop((lb.client(), backend.accept()));
    let before = lb.program.memory("VmRSS");
    // Both ways at once.
    let (client, served) = (lb.client(), backend.accept());
    let began = Instant::now();
    thread::scope(|scope| {
        let received: Vec<_> = [(&client, &served), (&served, &client)]
            .into_iter()
            .map(|(from, to)| {
                let (from, to) = (from.writer(), to.writer());
                scope.spawn(move || pour(from, much()));
                scope.spawn(move || drink(to))
            })
            .collect();
        for receiving in received {
            assert_eq!(receiving.join().unwrap(), much());
        }
    });
    let took = began.elapsed().as_secs_f64();
    println!("{} MiB each way at once, in {took:.1} s", much() >> 20);
    assert_memory_stayed(&lb.program, before);
}

#[test]
fn what_a_large_stream_needs_is_given_back_while_its_connection_lives() {
    for backend in [Raw::named("tcp"), Raw::unix("unix")] {
        let lb = in_front_of(&backend);
        let (mut client, mut served) = (lb.client(), backend.accept());
        client.send("x");
        served.exactly(1);
        let before = lb.program.descriptors();
        for _ in 0..2 {
            let block: Vec<u8> = (0..16 << 20).map(|at: u32| (at >> 3) as u8).collect();
            thread::scope(|scope| {
                let mut writer = client.writer();
                let block = &block;
                scope.spawn(move || writer.write_all(block).unwrap());
                let half = served.exactly(block.len() / 2);
                eventually("it has a pipe", || lb.program.descriptors() > before);
                let rest = served.exactly(block.len() / 2);
                assert!([half, rest].concat() == *block, "what arrives is what was sent");
            });
            eventually("it has as few descriptors as before", || {
                lb.program.descriptors() == before
            });
        }
        served.send("y");
        assert_eq!(client.exactly(1), b"y");
    }
}

#[test]
fn urgent_data_does_not_stop_a_large_stream() {
    let backend = Raw::named("a");
    let lb = in_front_of(&backend);
    let (client, mut served) = (lb.client(), backend.accept());
    let half = vec![7; 8 << 20];
    thread::scope(|scope| {
        let mut writer = client.writer();
        let half = &half;
        scope.spawn(move || {
            writer.write_all(half).unwrap();
            // Nobody reads it, as nobody asks for it.
            writer.send_out_of_band(b"!").unwrap();
            writer.write_all(half).unwrap();
            writer.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let whole = served.exactly(2 * half.len());
        assert!(whole.iter().all(|byte| *byte == 7), "what arrives is what was sent");
        assert!(served.is_closed());
    });
}

#[test]
fn what_is_not_read_is_not_taken_either() {
    let backend = Raw::named("a");
    let lb = in_front_of(&backend);
    let (client, served) = (lb.client(), backend.accept());
    let before = lb.program.memory("VmRSS");
    client.set_write_patience(Duration::from_millis(300));
    let (mut writer, block) = (client.writer(), vec![7; BLOCK]);
    let mut sent = 0;
    while let Ok(taken) = writer.write(&block) {
        sent += taken as u64;
        assert!(sent < 256 << 20, "nobody reads, and the balancer goes on taking");
    }
    // All of this is in the kernel's buffers.
    assert_memory_stayed(&lb.program, before);
    writer.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(drink(served.writer()), sent);
}

/// Raises the number of descriptors that this process and those it starts may have to `wanted`, if
/// the system allows it.
fn may_open(wanted: u64) -> bool {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let current = limit.current.unwrap_or(u64::MAX);
    let raised = Rlimit { current: Some(current.max(wanted).min(most)), ..limit };
    setrlimit(Resource::Nofile, raised).is_ok() && most >= wanted
}

const MANY: usize = 5_000;
/// What an idle connection may cost, in bytes.
const IDLE: u64 = if cfg!(debug_assertions) { 8 << 10 } else { 4 << 10 };

#[test]
fn thousands_of_connections_are_open_at_once() {
    // Each has an end here and one in the balancer, on both sides.
    assert!(may_open(2 * MANY as u64 + 1_000), "this test needs `ulimit -Hn` above {}", 2 * MANY);
    let backend = Raw::named("a");
    let lb = in_front_of(&backend);
    drop((lb.client(), backend.accept()));
    let before = lb.program.memory("VmRSS");
    let mut open: Vec<(Client, Client)> = Vec::new();
    for at in 0..MANY {
        let mut client = lb.client();
        let mut served = backend.accept();
        // Bytes go both ways, so that whatever a connection needs for that has been there.
        client.send(at.to_be_bytes());
        assert_eq!(served.exactly(8), at.to_be_bytes());
        served.send(at.to_be_bytes());
        assert_eq!(client.exactly(8), at.to_be_bytes());
        open.push((client, served));
    }
    let each = lb.program.memory("VmRSS").saturating_sub(before) / MANY as u64;
    println!("{MANY} connections at once; an idle one takes {each} bytes of resident memory");
    assert!(each < IDLE, "{each} bytes each");
    for (at, (client, served)) in open.iter_mut().enumerate().step_by(17) {
        served.send(at.to_be_bytes());
        assert_eq!(client.exactly(8), at.to_be_bytes(), "each is still its own");
    }
    drop(open);
    let gone = || lb.program.descriptors() < 100;
    assert!(within(SOON, gone), "{} descriptors are open", lb.program.descriptors());
    eventually("it serves", || {
        drop(lb.client());
        backend.accept_within(Duration::from_millis(100)).is_some()
    });
}

/// What an idle connection may cost whose TLS is taken off, in bytes.
const IDLE_TLS: u64 = 24 << 10;

#[test]
fn an_idle_connection_in_tls_takes_little_memory() {
    let (authority, backend) = (Authority::new("authority"), Raw::named("a"));
    let certificates = "tls: { certificates: [{ cert: a.pem, key: a.key }] }";
    let lb = Config::pool(&[backend.entry()], "health_check: off")
        .listener(&format!("protocol: tcp\npool: app\n{certificates}"))
        .certificate("a", &authority.server(&["a.example"]))
        .without_probe()
        .start();
    lb.wait_for_line("listening on");
    let tls = TlsClient::new(&authority);
    let connect = || {
        let mut client = Client::connect_tls(&lb.web(), &tls, "a.example");
        let mut served = backend.accept();
        client.send("x");
        assert_eq!(served.exactly(1), b"x");
        served.send("y");
        assert_eq!(client.exactly(1), b"y");
        (client, served)
    };
    let _first = connect();
    let some = if is_big() { 2_000 } else { 300 };
    let before = lb.program.memory("VmRSS");
    let open: Vec<_> = (0..some).map(|_| connect()).collect();
    let each = lb.program.memory("VmRSS").saturating_sub(before) / some as u64;
    println!("{some} connections in TLS; an idle one takes {each} bytes of resident memory");
    assert!(each < IDLE_TLS, "{each} bytes each");
    drop(open);
}
