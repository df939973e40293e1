//! Clients that speak TLS where connections are passed on: it is taken off.

use crate::support::{
    Authority, Certificate, Client, Config, Lb, Origin, Program, Raw, SOON, TlsClient,
    each_side_ends_first, eventually, lb::server,
};
use rustix::process::Signal;
use rustls::version::{TLS12, TLS13};
use serde_json::Value;
use std::{
    io::{ErrorKind, Write as _},
    thread,
    time::{Duration, Instant},
};

const UNCHECKED: &str = "health_check: off";

/// A backend behind a listener that takes TLS off, with one certificate, for `a.example`.
struct Decrypting {
    authority: Authority,
    backend: Raw,
    config: Config,
}

impl Decrypting {
    fn new() -> Self {
        Self::with("", "", UNCHECKED)
    }

    /// With further keys of `tls`, of the listener and of the pool.
    fn with(tls: &str, listener: &str, pool: &str) -> Self {
        let (authority, backend) = (Authority::new("authority"), Raw::named("a"));
        let certificates = "certificates: [{ cert: a.pem, key: a.key }]";
        let keys =
            format!("protocol: tcp\npool: app\ntls: {{ {certificates}, {tls} }}\n{listener}");
        let config = Config::pool(&[backend.entry()], pool)
            .listener(&keys)
            .certificate("a", &authority.server(&["a.example"]))
            .access_log()
            .without_probe();
        Self { authority, backend, config }
    }

    fn start(self) -> Running {
        let lb = self.config.start();
        lb.wait_for_line("listening on");
        let client = TlsClient::new(&self.authority);
        Running { authority: self.authority, backend: self.backend, client, lb }
    }
}

struct Running {
    authority: Authority,
    backend: Raw,
    client: TlsClient,
    lb: Lb,
}

impl Running {
    fn connect(&self) -> Client {
        Client::connect_tls(&self.lb.web(), &self.client, "a.example")
    }

    /// A connection, and its other end.
    fn pair(&self) -> (Client, Client) {
        (self.connect(), self.backend.accept())
    }

    /// What a client fails of: in the handshake or, as the client has finished first, after it.
    fn failure(&self, client: &TlsClient) -> String {
        let met = Client::try_connect_tls(&self.lb.web(), client, "a.example");
        match met.and_then(|mut client| client.try_some()) {
            Ok(bytes) => panic!("it got {bytes:?}"),
            Err(error) => error.to_string(),
        }
    }

    /// The only line of the access log.
    fn entry(&self) -> Value {
        let mut entries = self.lb.wait_for_entries(1);
        assert_eq!(entries.len(), 1, "{entries:?}");
        entries.remove(0)
    }
}

#[test]
fn what_a_client_says_in_tls_reaches_the_backend_in_the_clear() {
    for (version, name) in [(&TLS12, "TLSv1.2"), (&TLS13, "TLSv1.3")] {
        let running = Decrypting::new().start();
        let client = TlsClient::only(&running.authority, version);
        let mut client = Client::connect_tls(&running.lb.web(), &client, "a.example");
        let mut served = running.backend.accept();
        client.send("question");
        assert_eq!(served.exactly(8), b"question");
        served.send("answer");
        assert_eq!(client.exactly(6), b"answer");
        drop(served);
        assert_eq!(client.until_the_end().unwrap(), b"");
        drop(client);
        let entry = running.entry();
        let texts = ["tls", "host", "protocol", "reason", "backend", "client_ip"];
        let texts = texts.map(|key| entry[key].as_str().unwrap_or("(none)").to_owned());
        assert_eq!(texts, [name, "a.example", "TCP", "ok", "a", "127.0.0.1"]);
        assert_eq!((entry["bytes_in"].as_u64(), entry["bytes_out"].as_u64()), (Some(8), Some(6)));
    }
}

#[test]
fn a_backend_may_speak_first() {
    let running = Decrypting::new().start();
    let (mut client, mut served) = running.pair();
    served.send("220 ready\r\n");
    assert_eq!(client.exactly(11), b"220 ready\r\n");
}

#[test]
fn each_side_may_end_before_the_other() {
    let running = Decrypting::new().start();
    each_side_ends_first(|| running.pair(), Client::say_end);
    let entries = running.lb.wait_for_entries(2);
    assert!(entries.iter().all(|entry| entry["reason"] == "ok"), "{entries:?}");
}

#[test]
fn a_client_may_end_without_saying_so() {
    let running = Decrypting::new().start();
    let (mut client, mut served) = running.pair();
    client.send("question");
    client.half_close();
    assert_eq!(served.until_the_end().unwrap(), b"question");
    served.send("answer");
    assert_eq!(client.exactly(6), b"answer");
    drop(served);
    assert_eq!(client.until_the_end().unwrap(), b"");
    assert_eq!(running.entry()["reason"], "ok");
}

#[test]
fn a_backend_that_breaks_off_does_not_end_in_order() {
    let running = Decrypting::new().start();
    let (mut client, mut served) = running.pair();
    served.send("some of it");
    assert_eq!(client.exactly(10), b"some of it");
    served.reset();
    let error = client.until_the_end().expect_err("an end that was not said");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(running.entry()["reason"], "upstream_truncated");
}

#[test]
fn a_client_that_breaks_off_has_its_backend_reset() {
    let running = Decrypting::new().start();
    let (mut client, mut served) = running.pair();
    client.send("x");
    assert_eq!(served.exactly(1), b"x");
    client.reset();
    let error = served.until_the_end().expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(running.entry()["reason"], "client_aborted");
}

#[test]
fn much_goes_both_ways_and_through_no_pipe() {
    let running = Decrypting::new().start();
    let (mut client, mut served) = running.pair();
    client.send("x");
    served.exactly(1);
    let (before, memory) = (running.lb.program.descriptors(), running.lb.program.memory("VmRSS"));
    let block: Vec<u8> = (0..20 << 20).map(|at: u32| (at >> 3) as u8).collect();
    thread::scope(|scope| {
        let (mut writer, block) = (served.writer(), &block);
        scope.spawn(move || writer.write_all(block).unwrap());
        assert!(client.exactly(block.len()) == *block, "what arrives is what was sent");
        assert_eq!(running.lb.program.descriptors(), before);
    });
    thread::scope(|scope| {
        let (served, block) = (&mut served, &block);
        let received = scope.spawn(|| served.exactly(block.len()));
        client.send(block);
        assert!(received.join().unwrap() == *block, "what arrives is what was sent");
    });
    let grown = running.lb.program.memory("VmHWM").saturating_sub(memory);
    assert!(grown < 8 << 20, "resident memory grew by {} KiB", grown >> 10);
}

#[test]
fn a_client_that_takes_nothing_is_waited_for_and_then_closed() {
    let running = Decrypting::with("", "idle_timeout: 500ms", UNCHECKED).start();
    let (client, served) = running.pair();
    served.set_write_patience(Duration::from_millis(200));
    let (mut writer, block) = (served.writer(), vec![7; 1 << 16]);
    let mut sent = 0;
    let error = loop {
        match writer.write(&block) {
            Ok(taken) => sent += taken,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => break error,
        }
        assert!(sent < 64 << 20, "nobody reads, and the balancer goes on taking");
    };
    assert!(crate::support::http::broke_off(&error), "{error}");
    assert_eq!(running.entry()["reason"], "idle_timeout");
    drop(client);
}

/// A listener that asks for certificates of `people`, required or not.
fn asking(word: &str, people: &Authority) -> Running {
    let tls = format!("client_ca: people.pem, client_auth: {word}");
    let Decrypting { authority, backend, config } = Decrypting::with(&tls, "", UNCHECKED);
    Decrypting { config: config.file("people.pem", people.pem.clone()), authority, backend }.start()
}

#[test]
fn clients_show_who_they_are() {
    let people = Authority::new("people");
    let person: Certificate = people.client("client-1");
    let stranger = Authority::new("strangers").client("client-1");
    for word in ["required", "optional"] {
        let running = asking(word, &people);
        let refused = running.failure(&running.client.showing(&stranger));
        assert_eq!(refused, "received fatal alert: UnknownCA");
        if word == "required" {
            let refused = running.failure(&running.client);
            assert_eq!(refused, "received fatal alert: CertificateRequired");
        } else {
            running.connect().send("anybody");
            assert_eq!(running.backend.accept().exactly(7), b"anybody");
        }
        assert!(running.backend.is_left_alone());
        let client = running.client.showing(&person);
        Client::connect_tls(&running.lb.web(), &client, "a.example").send("hello");
        assert_eq!(running.backend.accept().exactly(5), b"hello");
    }
}

#[test]
fn an_old_version_is_refused_where_the_new_one_is_asked_for() {
    let running = Decrypting::with("min_version: \"1.3\"", "", UNCHECKED).start();
    let old = TlsClient::only(&running.authority, &TLS12);
    assert_eq!(running.failure(&old), "received fatal alert: ProtocolVersion");
    running.pair();
    assert!(running.backend.is_left_alone());
}

#[test]
fn protocols_are_offered_where_they_are_listed() {
    let protocol = |client: &Client| client.tls().alpn_protocol().map(<[u8]>::to_vec);
    let running = Decrypting::new().start();
    let client = running.client.offering(&["http/1.1", "h2"]);
    let client = Client::connect_tls(&running.lb.web(), &client, "a.example");
    assert_eq!(protocol(&client), None, "without a list nothing is chosen");

    let running = Decrypting::with("alpn: [postgresql, x]", "", UNCHECKED).start();
    let client = running.client.offering(&["x", "postgresql"]);
    let client = Client::connect_tls(&running.lb.web(), &client, "a.example");
    assert_eq!(protocol(&client), Some(b"postgresql".to_vec()));
    assert_eq!(protocol(&running.connect()), None, "who offers none gets none");
    let refused = running.failure(&running.client.offering(&["http/1.1"]));
    assert_eq!(refused, "received fatal alert: NoApplicationProtocol");
}

#[test]
fn who_makes_no_handshake_reaches_no_backend() {
    let timeouts = "timeouts: { tls_handshake: 300ms }";
    let running = Decrypting::with("", timeouts, UNCHECKED).start();
    let began = Instant::now();
    let mut silent = running.lb.client();
    assert!(silent.is_closed());
    assert!(began.elapsed() >= Duration::from_millis(300) && began.elapsed() < SOON);
    for said in ["GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01nonsense", "x"] {
        let mut client = running.lb.client();
        client.send(said);
        // What it gets, if anything, is an alert.
        client.rest();
    }
    running.pair();
    assert!(running.backend.is_left_alone());
    eventually("a line is only for who was served", || running.lb.entries().len() == 1);
}

#[test]
fn connections_over_the_limit_are_closed_at_once() {
    let running = Decrypting::with("", "max_connections: 1", UNCHECKED).start();
    let (mut client, mut served) = running.pair();
    assert!(running.lb.client().is_closed());
    assert_eq!(running.entry()["reason"], "overloaded");
    client.send("x");
    assert_eq!(served.exactly(1), b"x");
}

#[test]
fn the_proxy_protocol_goes_around_tls() {
    let pool = format!("{UNCHECKED}\nproxy_protocol: v1");
    let running = Decrypting::with("", "proxy_protocol: require", &pool).start();
    let socket = running.lb.web().connect().unwrap();
    let header = b"PROXY TCP4 203.0.113.9 192.0.2.80 4711 80\r\n";
    (&socket).write_all(header).unwrap();
    let mut client = Client::tls_over(socket, &running.client, "a.example").unwrap();
    client.send("hello");
    let mut served = running.backend.accept();
    assert_eq!(served.exactly(header.len()), header);
    assert_eq!(served.exactly(5), b"hello");
    drop((client, served));
    assert_eq!(running.entry()["client_ip"], "203.0.113.9");
}

#[test]
fn the_end_of_the_process_is_not_held_up() {
    let Decrypting { authority, backend, config } = Decrypting::new();
    let config = config.and(&server("drain_timeout: 10s"));
    let mut running = Decrypting { authority, backend, config }.start();
    let (mut client, mut served) = running.pair();
    let silent = running.lb.client();
    let mut hello = Vec::new();
    running.client.connection("a.example").write_tls(&mut hello).unwrap();
    let mut begun = running.lb.client();
    begun.send(&hello[..50]);
    running.lb.signal(Signal::TERM);
    client.send("go on");
    assert_eq!(served.exactly(5), b"go on");
    drop((client, served));
    let status = running.lb.program.wait_for_exit(Duration::from_secs(4));
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    drop((silent, begun));
}

#[test]
fn new_certificates_are_for_new_connections() {
    let running = Decrypting::new().start();
    let (mut before, mut served) = running.pair();
    let other = Authority::new("other");
    let certificate = other.server(&["a.example"]);
    running.lb.replace("a.key", &certificate.key);
    running.lb.replace("a.pem", &certificate.pem);
    running.lb.signal(Signal::HUP);
    let client = TlsClient::new(&other);
    eventually("the new one is shown", || {
        Client::try_connect_tls(&running.lb.web(), &client, "a.example").is_ok()
    });
    before.send("still here");
    assert_eq!(served.exactly(10), b"still here");
}

#[test]
fn a_client_of_http_speaks_to_an_origin() {
    let origin = Origin::named("app-1");
    let Decrypting { authority, backend, .. } = Decrypting::new();
    let listener = "protocol: tcp\npool: app\ntls: { certificates: [{ cert: a.pem, key: a.key }], alpn: [http/1.1] }";
    let config = Config::pool(&[origin.entry()], UNCHECKED)
        .listener(listener)
        .certificate("a", &authority.server(&["a.example"]))
        .without_probe();
    let running = Decrypting { authority, backend, config }.start();
    let mut client = running.connect();
    for path in ["/1", "/2"] {
        let response = client.get(path);
        assert_eq!((response.status, response.text()), (200, "app-1".to_owned()));
    }
    assert_eq!(
        origin.last_request().headers.get("x-forwarded-for"),
        None,
        "it is passed on as it is"
    );
}

#[test]
fn names_cannot_be_looked_at_in_what_is_decrypted() {
    let Decrypting { config, .. } = Decrypting::with("", "sni: { a.example: app }", UNCHECKED);
    let files = config.write();
    let (code, _, stderr) = Program::run(["-c".as_ref(), files.path().as_os_str(), "-t".as_ref()]);
    assert_eq!(code, 1);
    let expected = "listeners.web.sni: \"sni\" beside tls, after which there is no hello left to look at; \
                    expected pool, or no tls: it decrypts what sni passes on";
    assert!(stderr.contains(expected), "{stderr}");
}
