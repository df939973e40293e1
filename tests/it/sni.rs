//! Connections that go where their TLS hello says, without being decrypted.

use crate::support::{
    Client, Config, Lb, Raw, SOON, eventually,
    hello::{client_hello, handshake_record, hello_message},
};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    thread,
    time::{Duration, Instant},
};

/// A pool for each of these, named as it is, behind a listener with these keys.
fn tls(listener: &str, backends: &[(&str, &Raw)]) -> Lb {
    let pools: Vec<String> = backends
        .iter()
        .map(|(name, raw)| {
            format!("  {name}: {{ backends: [{}], health_check: off }}", raw.entry())
        })
        .collect();
    let pools = pools.join("\n");
    let lb = Config::new(format!("pools:\n{pools}\n"))
        .listener(&format!("protocol: tcp\n{listener}"))
        .access_log()
        .without_probe()
        .start();
    lb.wait_for_line("listening on");
    lb
}

fn two_names(keys: &str, a: &Raw, b: &Raw) -> Lb {
    let sni = "sni: { a.example.com: pool_a, \"*.example.com\": pool_b }";
    tls(&format!("{sni}\n{keys}"), &[("pool_a", a), ("pool_b", b)])
}

/// The client is closed for this reason, and so were `others` before it.
#[track_caller]
fn assert_refused(lb: &Lb, client: &mut Client, reason: &str, others: usize) {
    assert!(client.is_closed());
    let entry = lb.wait_for_entries(others + 1).remove(others);
    assert_eq!(entry["reason"], reason, "{entry}");
    assert_eq!((entry["tries"].as_u64(), &entry["backend"]), (Some(0), &Value::Null));
}

#[test]
fn a_name_decides_on_the_pool_and_the_hello_arrives_as_it_was() {
    let (a, b) = (Raw::named("a"), Raw::named("b"));
    let lb = two_names("", &a, &b);
    let cases = [
        ("a.example.com", &a),
        ("A.Example.COM", &a),
        ("b.example.com", &b),
        ("x.y.example.com", &b),
    ];
    for (name, backend) in cases {
        let mut client = lb.client();
        let hello = client_hello(Some(name));
        client.send(&hello);
        let mut served = backend.accept();
        assert_eq!(served.exactly(hello.len()), hello, "{name}");
        served.send("\x16\x03\x03 what the server says");
        assert_eq!(client.exactly(4), b"\x16\x03\x03 ", "{name}");
    }
    assert!(a.is_left_alone() && b.is_left_alone());
    let hosts: Vec<_> = lb.wait_for_entries(4).iter().map(|entry| entry["host"].clone()).collect();
    for (name, _) in cases {
        assert!(hosts.contains(&Value::from(name.to_lowercase())), "{name} in {hosts:?}");
    }
}

#[test]
fn a_name_that_nobody_has_is_closed_unless_there_is_a_pool_for_the_rest() {
    let (a, b, rest) = (Raw::named("a"), Raw::named("b"), Raw::named("rest"));
    let others = [Some("example.com"), Some("a.example.org"), Some("com"), None];
    let lb = two_names("", &a, &b);
    for (at, name) in others.into_iter().enumerate() {
        let mut client = lb.client();
        client.send(client_hello(name));
        assert_refused(&lb, &mut client, "no_route", at);
    }
    let sni = "sni: { a.example.com: pool_a }\npool: rest";
    let lb = tls(sni, &[("pool_a", &a), ("rest", &rest)]);
    for name in others {
        let mut client = lb.client();
        client.send(client_hello(name));
        let hello = client_hello(name);
        assert_eq!(rest.accept().exactly(hello.len()), hello, "{name:?}");
    }
    assert!(a.is_left_alone() && b.is_left_alone());
}

#[test]
fn what_is_not_tls_is_closed_unless_there_is_a_pool_for_the_rest() {
    let (a, b, rest) = (Raw::named("a"), Raw::named("b"), Raw::named("rest"));
    let others = [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"SSH-2.0-x\r\n",
        b"\x16\x03\x01\x00\x01\x02",
        b"\x80\x2e\x01\x03\x01",
    ];
    let lb = two_names("", &a, &b);
    for (at, bytes) in others.into_iter().enumerate() {
        let mut client = lb.client();
        client.send(bytes);
        assert_refused(&lb, &mut client, "bad_request", at);
    }
    let lb = tls("sni: { a.example.com: pool_a }\npool: rest", &[("pool_a", &a), ("rest", &rest)]);
    for bytes in others {
        lb.client().send(bytes);
        assert_eq!(rest.accept().exactly(bytes.len()), bytes, "{bytes:?}");
    }
    assert!(a.is_left_alone() && b.is_left_alone());
}

#[test]
fn a_hello_may_come_in_pieces_and_in_several_records() {
    let (a, b) = (Raw::named("a"), Raw::named("b"));
    let lb = two_names("", &a, &b);
    let message = hello_message(Some("a.example.com"));
    let records: Vec<u8> = message.chunks(7).flat_map(handshake_record).collect();
    for hello in [client_hello(Some("a.example.com")), records] {
        let mut client = lb.client();
        for byte in &hello {
            client.send([*byte]);
            // The balancer may see each byte by itself; that it must see all of them is what counts.
            thread::park_timeout(Duration::from_micros(500));
        }
        assert_eq!(a.accept().exactly(hello.len()), hello);
    }
}

#[test]
fn a_hello_that_takes_too_long_is_not_waited_for() {
    let (a, b) = (Raw::named("a"), Raw::named("b"));
    let lb = two_names("timeouts: { header: 300ms }", &a, &b);
    let hello = client_hello(Some("a.example.com"));
    for (at, sent) in [0, 1, 6, hello.len() - 1].into_iter().enumerate() {
        let mut client = lb.client();
        client.send(&hello[..sent]);
        let began = Instant::now();
        assert_refused(&lb, &mut client, "client_timeout", at);
        assert!(began.elapsed() > Duration::from_millis(200), "{:?}", began.elapsed());
    }
    // However slowly it comes: the time is for the whole.
    let mut client = lb.client();
    let began = Instant::now();
    let trickled = hello.iter().cycle().take_while(|byte| {
        thread::park_timeout(Duration::from_millis(20));
        client.try_send(&[**byte]).is_ok() && began.elapsed() < SOON
    });
    assert!(trickled.count() < 40, "{:?}", began.elapsed());
    assert!(a.is_left_alone() && b.is_left_alone());
}

#[test]
fn a_hello_without_end_is_not_read_for_ever() {
    let (a, b) = (Raw::named("a"), Raw::named("b"));
    let lb = two_names("pool: pool_b", &a, &b);
    let huge = [vec![1, 0xff, 0xff, 0xff], vec![0; 40_000]].concat();
    let records: Vec<u8> = huge.chunks(4000).flat_map(handshake_record).collect();
    let mut client = lb.client();
    let _ = client.try_send(&records);
    assert_refused(&lb, &mut client, "bad_request", 0);
    assert!(a.is_left_alone() && b.is_left_alone());
}

#[test]
fn a_client_that_leaves_before_its_hello_is_whole_reaches_nobody() {
    let (a, b) = (Raw::named("a"), Raw::named("b"));
    let lb = two_names("pool: pool_b", &a, &b);
    for (at, sent) in [0, 20].into_iter().enumerate() {
        let mut client = lb.client();
        client.send(&client_hello(Some("a.example.com"))[..sent]);
        client.half_close();
        assert_refused(&lb, &mut client, "client_aborted", at);
    }
    assert!(a.is_left_alone() && b.is_left_alone());
}

#[test]
fn a_connection_refused_by_its_pool_goes_on_within_it() {
    let gone = crate::support::Reserved::new();
    let (a, b) = (Raw::named("a"), Raw::named("b"));
    let pools = format!(
        "pools:\n  pool_a: {{ backends: [\"{}\", {}], health_check: off }}\n  pool_b: {{ backends: [{}], health_check: off }}\n",
        gone.address(),
        a.entry(),
        b.entry()
    );
    let lb = Config::new(pools)
        .listener("protocol: tcp\nsni: { a.example.com: pool_a, b.example.com: pool_b }")
        .without_probe()
        .start();
    lb.wait_for_line("listening on");
    let hello = client_hello(Some("a.example.com"));
    for _ in 0..2 {
        lb.client().send(&hello);
        assert_eq!(a.accept().exactly(hello.len()), hello);
    }
    assert!(b.is_left_alone());
}

#[test]
fn a_drain_does_not_wait_for_a_hello() {
    let (a, b) = (Raw::named("a"), Raw::named("b"));
    let mut lb = two_names("", &a, &b);
    let mut silent = lb.client();
    let mut begun = lb.client();
    begun.send(&client_hello(Some("a.example.com"))[..20]);
    // Both have been accepted once a third one has.
    let mut third = lb.client();
    third.send("not tls");
    eventually("the third is closed", || third.is_closed());
    lb.signal(Signal::TERM);
    let signalled = Instant::now();
    assert!(lb.program.wait_for_exit(SOON).is_some());
    assert!(signalled.elapsed() < Duration::from_secs(3), "{:?}", signalled.elapsed());
    assert!(silent.is_closed() && begun.is_closed());
}
