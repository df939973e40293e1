//! Backends that speak TLS, where connections are passed on.

use crate::support::{
    Authority, Certificate, Client, Config, Lb, Raw, TlsClient, TlsFront, each_side_ends_first,
    eventually,
};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    io::{ErrorKind, Write as _},
    thread,
    time::Duration,
};

/// Neither checks nor other tries get in the way.
const PLAIN: &str = "health_check: off\nretry: { attempts: 0 }\nejection: off";
const LISTENER: &str = "protocol: tcp\npool: app";

/// A raw server, and TLS before it.
struct Secured {
    authority: Authority,
    backend: Raw,
    front: TlsFront,
}

impl Secured {
    fn new(names: &[&str]) -> Self {
        let authority = Authority::new("authority");
        let certificate = authority.server(names);
        Self::showing(authority, &certificate)
    }

    fn showing(authority: Authority, certificate: &Certificate) -> Self {
        let backend = Raw::named("raw");
        let front = TlsFront::of_raw(&backend, certificate, None);
        Self { authority, backend, front }
    }

    /// A balancer before it, with these keys of `tls` and further ones of the pool.
    fn config(&self, tls: &str, keys: &str) -> Config {
        in_front_of(&[self.front.entry("a")], &self.authority, tls, keys)
    }

    fn start(&self, tls: &str) -> Lb {
        started(self.config(tls, PLAIN))
    }

    /// A connection through `lb`, and its other end. What connects to a backend here cannot be told
    /// from it before something is said.
    fn pair(&self, lb: &Lb) -> (Client, Client) {
        let mut client = lb.client();
        client.send("x");
        let mut served = self.backend.accept();
        assert_eq!(served.exactly(1), b"x");
        (client, served)
    }
}

fn in_front_of(entries: &[String], authority: &Authority, tls: &str, keys: &str) -> Config {
    Config::pool(entries, &format!("tls: {{ {tls} }}\n{keys}"))
        .listener(LISTENER)
        .file("ca.pem", authority.pem.clone())
        .access_log()
        .without_probe()
}

fn started(config: Config) -> Lb {
    let lb = config.start();
    lb.wait_for_line("listening on");
    lb
}

fn only_entry(lb: &Lb) -> Value {
    let mut entries = lb.wait_for_entries(1);
    assert_eq!(entries.len(), 1, "{entries:?}");
    entries.remove(0)
}

/// What the log tells of a connection that no backend took.
#[track_caller]
fn failure(lb: &Lb) -> String {
    assert!(lb.client().is_closed());
    let entry = only_entry(lb);
    assert_eq!(entry["reason"], "connect_failed", "{entry:?}");
    let line = lb.wait_for_line("connect_failed after 1 tries");
    line.split("TLS handshake: ").nth(1).expect("what the handshake failed of").to_owned()
}

#[test]
fn a_stream_goes_to_a_backend_in_tls() {
    let secured = Secured::new(&["db.internal"]);
    let lb = secured.start("ca: ca.pem, sni: db.internal");
    let mut client = lb.client();
    client.send("question");
    let mut served = secured.backend.accept();
    assert_eq!(served.exactly(8), b"question");
    served.send("answer");
    assert_eq!(client.exactly(6), b"answer");
    drop(served);
    assert!(client.until_the_end().unwrap().is_empty());
    drop(client);
    let entry = only_entry(&lb);
    assert_eq!((entry["bytes_in"].as_u64(), entry["bytes_out"].as_u64()), (Some(8), Some(6)));
    assert_eq!((&entry["reason"], &entry["tls"]), (&Value::from("ok"), &Value::Null));
    assert_eq!(secured.front.names(), ["db.internal"]);
}

#[test]
fn a_backend_given_by_name_is_asked_for_by_it() {
    let secured = Secured::new(&["localhost"]);
    let address = format!("localhost:{}", secured.front.address().port());
    let entry = format!("{{ address: \"{address}\", name: a }}");
    let lb = started(in_front_of(&[entry], &secured.authority, "ca: ca.pem", PLAIN));
    secured.pair(&lb);
    assert_eq!(secured.front.names(), ["localhost"]);
}

#[test]
fn an_address_may_be_what_a_certificate_is_for() {
    let secured = Secured::new(&["127.0.0.1"]);
    secured.pair(&secured.start("ca: ca.pem, sni: 127.0.0.1"));
    assert_eq!(secured.front.names(), ["(none)"], "addresses are not asked for");
}

#[test]
fn a_bad_certificate_is_a_failed_connection() {
    let (authority, other) = (Authority::new("authority"), Authority::new("other"));
    for (certificate, why) in [
        (authority.server(&["other.internal"]), "certificate not valid for name"),
        (authority.expired(&["db.internal"]), "certificate expired"),
        (other.server(&["db.internal"]), "UnknownIssuer"),
    ] {
        let secured = Secured::showing(Authority::new("unused"), &certificate);
        let entries = [secured.front.entry("a")];
        let lb = started(in_front_of(&entries, &authority, "ca: ca.pem, sni: db.internal", PLAIN));
        let told = failure(&lb);
        assert!(told.contains(why), "{told}");
        assert!(secured.backend.is_left_alone());
    }
}

#[test]
fn what_does_not_speak_tls_is_a_failed_connection() {
    let backend = Raw::named("a");
    let authority = Authority::new("authority");
    let lb = started(in_front_of(&[backend.entry()], &authority, "verify: false", PLAIN));
    let mut client = lb.client();
    backend.accept().send("220 ready\r\n");
    assert!(client.is_closed());
    assert_eq!(only_entry(&lb)["reason"], "connect_failed");
}

#[test]
fn without_verification_anybody_will_do() {
    let secured =
        Secured::showing(Authority::new("a"), &Authority::new("b").expired(&["z.example"]));
    secured.pair(&secured.start("verify: false"));
    secured.pair(&secured.start("verify: false, sni: asked.example"));
    assert_eq!(secured.front.names(), ["(none)", "asked.example"]);
}

#[test]
fn backends_may_ask_who_we_are() {
    let authority = Authority::new("authority");
    let backend = Raw::named("raw");
    let front = TlsFront::of_raw(&backend, &authority.server(&["db.internal"]), Some(&authority));
    let tls = "ca: ca.pem, sni: db.internal";
    let entries = [front.entry("a")];
    let lb = started(in_front_of(&entries, &authority, tls, PLAIN));
    assert!(lb.client().is_closed());
    assert!(front.seen().is_empty() && backend.is_left_alone());

    let tls = format!("{tls}, client_cert: lb.pem, client_key: lb.key");
    let config = in_front_of(&entries, &authority, &tls, PLAIN);
    let lb = started(config.certificate("lb", &authority.client("lb")));
    let mut client = lb.client();
    client.send("hello");
    assert_eq!(backend.accept().exactly(5), b"hello");
    assert!(front.seen().iter().all(|seen| seen.identified), "{:?}", front.seen());
}

#[test]
fn each_side_may_end_before_the_other() {
    let secured = Secured::new(&["db.internal"]);
    let lb = secured.start("ca: ca.pem, sni: db.internal");
    each_side_ends_first(|| secured.pair(&lb), |client| client.half_close());
    let entries = lb.wait_for_entries(2);
    assert!(entries.iter().all(|entry| entry["reason"] == "ok"), "{entries:?}");
}

#[test]
fn an_end_that_the_backend_does_not_say_is_none() {
    let secured = Secured::new(&["db.internal"]);
    let lb = secured.start("ca: ca.pem, sni: db.internal");
    let (mut client, mut served) = secured.pair(&lb);
    served.send("some of it");
    assert_eq!(client.exactly(10), b"some of it");
    // The front closes its connection in good order, and does not say in TLS that this is the end.
    served.reset();
    let error = client.until_the_end().expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(only_entry(&lb)["reason"], "upstream_truncated");
}

#[test]
fn a_handshake_that_stalls_is_a_timeout() {
    let backend = Raw::named("a");
    let keys = format!("{PLAIN}\ntimeouts: {{ connect: 300ms }}");
    let authority = Authority::new("authority");
    let lb = started(in_front_of(&[backend.entry()], &authority, "verify: false", &keys));
    let mut client = lb.client();
    let stalling = backend.accept();
    assert!(client.is_closed());
    assert_eq!(only_entry(&lb)["reason"], "upstream_timeout");
    drop(stalling);
}

#[test]
fn another_backend_is_tried_and_a_bad_one_ejected() {
    let good = Secured::new(&["db.internal"]);
    let bad = Secured::new(&["db.internal"]);
    let entries = [bad.front.entry("bad"), good.front.entry("good")];
    let keys = "health_check: off\nejection: { consecutive_failures: 2, base_time: 60s }";
    let tls = "ca: ca.pem, sni: db.internal";
    let lb = started(in_front_of(&entries, &good.authority, tls, keys));
    eventually("it is ejected", || {
        good.pair(&lb);
        lb.lines_with("EJECTED") == 1
    });
    let before = lb.entries().len();
    for _ in 0..4 {
        good.pair(&lb);
    }
    assert!(bad.backend.is_left_alone());
    let entries = lb.wait_for_entries(before + 4);
    let last = &entries[entries.len() - 3..];
    assert!(last.iter().all(|entry| entry["tries"].as_u64() == Some(1)), "{entries:?}");
}

#[test]
fn health_checks_speak_tls() {
    let secured = Secured::new(&["other.internal"]);
    let keys = "health_check: { interval: 50ms, rise: 1, fall: 1 }\nretry: { attempts: 0 }";
    let lb = started(secured.config("ca: ca.pem, sni: db.internal", keys));
    assert!(lb.client().is_closed());
    assert_eq!(only_entry(&lb)["reason"], "no_healthy_backend");
    secured.front.show(&secured.authority.server(&["db.internal"]));
    eventually("it is up", || {
        let mut client = lb.client();
        let _ = client.try_send(b"hello");
        let connected = secured.backend.accept_within(Duration::from_millis(100));
        connected.is_some_and(|mut served| served.try_exactly(5).is_ok())
    });
}

#[test]
fn the_proxy_header_goes_ahead_of_tls() {
    let backend = Raw::named("a");
    let keys = format!("{PLAIN}\nproxy_protocol: v1");
    let authority = Authority::new("authority");
    let lb = started(in_front_of(&[backend.entry()], &authority, "verify: false", &keys));
    let client = lb.client();
    let mut served = backend.accept();
    let (client_port, own) = (client.local_address().port(), lb.web().port());
    let header = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {client_port} {own}\r\n");
    assert_eq!(served.exactly(header.len()), header.as_bytes());
    assert_eq!(served.exactly(2), b"\x16\x03", "a handshake's record");
}

#[test]
fn new_authorities_are_believed() {
    let secured = Secured::new(&["db.internal"]);
    let other = Authority::new("other");
    let entries = [secured.front.entry("a")];
    let lb = started(in_front_of(&entries, &other, "ca: ca.pem, sni: db.internal", PLAIN));
    assert!(lb.client().is_closed());
    lb.replace("ca.pem", &secured.authority.pem);
    lb.signal(Signal::HUP);
    lb.wait_for_line("pool app: certificates read again");
    secured.pair(&lb);
}

#[test]
fn there_may_be_tls_on_both_sides() {
    let secured = Secured::new(&["db.internal"]);
    let certificates = "tls: { certificates: [{ cert: a.pem, key: a.key }] }";
    let lb = secured
        .config("ca: ca.pem, sni: db.internal", PLAIN)
        .listener(&format!("{LISTENER}\n{certificates}"))
        .certificate("a", &secured.authority.server(&["a.example"]));
    let lb = started(lb);
    let client = TlsClient::new(&secured.authority);
    let mut client = Client::connect_tls(&lb.web(), &client, "a.example");
    client.send("x");
    let mut served = secured.backend.accept();
    assert_eq!(served.exactly(1), b"x");
    let block: Vec<u8> = (0..5 << 20).map(|at: u32| (at >> 3) as u8).collect();
    thread::scope(|scope| {
        let (mut writer, block) = (served.writer(), &block);
        scope.spawn(move || writer.write_all(block).unwrap());
        assert!(client.exactly(block.len()) == *block, "what arrives is what was sent");
    });
    thread::scope(|scope| {
        let (served, block) = (&mut served, &block);
        let received = scope.spawn(|| served.exactly(block.len()));
        client.send(block);
        assert!(received.join().unwrap() == *block, "what arrives is what was sent");
    });
    client.say_end();
    assert_eq!(served.until_the_end().unwrap(), b"");
    drop(served);
    assert_eq!(client.until_the_end().unwrap(), b"");
    assert_eq!(only_entry(&lb)["reason"], "ok");
}
