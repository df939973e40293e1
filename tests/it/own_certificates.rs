//! Backends whose certificate is an authority's, signed by itself, and is itself in `ca`.

use crate::support::{
    Authority, Certificate, Client, Config, Gate, Lb, Origin, Raw, Reply, TlsFront, eventually,
    h2::{self, H2},
    h2_origin::{Asked, H2Origin},
    request,
};
use rcgen::ExtendedKeyUsagePurpose;
use rustix::process::Signal;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Neither checks nor retries get in the way.
const PLAIN: &str = "health_check: off\nretry: { attempts: 0 }\nejection: off";
const STREAMS: &str = "protocol: tcp\npool: app";
const NAME: &str = "test.example";

fn own() -> Certificate {
    Certificate::self_signed(&[NAME], |_| {})
}

fn expired() -> Certificate {
    Certificate::self_signed(&[NAME], |params| params.not_after = rcgen::date_time_ymd(2021, 1, 1))
}

/// One that must not be used for a server.
fn for_clients() -> Certificate {
    Certificate::self_signed(&[NAME], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    })
}

/// An origin, and TLS before it with this certificate.
struct Secured {
    origin: Origin,
    front: TlsFront,
}

impl Secured {
    fn showing(certificate: &Certificate) -> Self {
        let origin = Origin::named("app-1");
        let front = TlsFront::new(&origin, certificate);
        Self { origin, front }
    }

    /// A balancer before it that is given these certificates as `ca`, with these keys of the pool.
    fn config(&self, ca: &[&str], keys: &str) -> Config {
        let keys = format!("tls: {{ ca: ca.pem }}\n{keys}");
        Config::pool(&[self.front.entry("app-1")], &keys).file("ca.pem", ca.concat()).access_log()
    }

    fn start(&self, ca: &[&str]) -> Lb {
        self.config(ca, PLAIN).start()
    }

    /// Closes the connections to it.
    fn close(&self) {
        self.origin.stop();
        self.origin.start();
    }

    /// Shows another certificate, on new connections alone.
    fn show(&self, certificate: &Certificate) {
        self.front.show(certificate);
        self.close();
    }
}

/// A request that is repeated only where nothing of it was sent.
fn post(client: &mut Client) -> u16 {
    client.ask(request("POST", "/", &[], b"body")).status
}

/// What the log says of the last failure.
fn told(lb: &Lb) -> String {
    let line = lb.wait_for_line("connect_failed after 1 tries");
    line.split("TLS handshake: ").nth(1).expect("what the handshake failed of").to_owned()
}

/// Nobody has tried twice, or was held anything against.
fn assert_one_try_each(lb: &Lb, requests: usize) {
    let entries = lb.wait_for_entries(requests);
    assert!(entries.iter().all(|entry| entry["tries"] == 1), "{entries:?}");
}

#[test]
fn a_certificate_in_ca_may_be_the_backends_own() {
    let own = own();
    let secured = Secured::showing(&own);
    // A failed try would be seen here.
    let keys = "health_check: off\nretry: { attempts: 0 }\nejection: { consecutive_failures: 1 }";
    let lb = secured.config(&[&own.pem], keys).start();
    let mut client = lb.client();
    for _ in 0..3 {
        assert_eq!(post(&mut client), 200);
    }
    assert_eq!(secured.front.names(), [NAME], "one connection was enough");
    assert_eq!(secured.front.accepted(), 2, "the first showed how it is to be met");
    secured.close();
    assert_eq!(client.get("/").status, 200);
    assert_eq!(secured.front.accepted(), 3, "which is remembered");
    assert_one_try_each(&lb, 4);
    assert_eq!(lb.lines_with("EJECTED"), 0);
    lb.signal(Signal::HUP);
    lb.wait_for_line("certificates read again");
    assert_eq!(post(&mut client), 200);
    assert_eq!(secured.front.accepted(), 3, "and so are its connections");
}

#[test]
fn it_may_become_a_tunnel() {
    let own = own();
    let secured = Secured::showing(&own);
    secured.origin.script(|_| Reply::Upgrade);
    let lb = secured.start(&[&own.pem]);
    let fields = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"];
    for _ in 0..3 {
        let mut client = lb.client();
        assert_eq!(client.ask(request("GET", "/", &fields, b"")).status, 101);
        client.send("message");
        assert_eq!(client.exactly(7), b"message");
    }
}

#[test]
fn it_must_have_the_name_that_is_asked_for() {
    let own = own();
    let (secured, second) = (Secured::showing(&own), Secured::showing(&own));
    let keys = "tls: { ca: ca.pem }\nhealth_check: off\nretry: { attempts: 0 }\nejection: { consecutive_failures: 2 }";
    // The last one in a pool is never ejected.
    let entries = [secured.front.entry("one"), second.front.entry("two")];
    let lb = Config::pool(&entries, keys).file("ca.pem", own.pem.clone()).start();
    for host in ["other.example", "127.0.0.1", "x!y", ""] {
        for _ in 0..3 {
            let host = format!("Host: {host}");
            assert_eq!(lb.client().ask(request("GET", "/", &[&host], b"")).status, 502, "{host}");
        }
    }
    assert!(told(&lb).starts_with("invalid peer certificate: certificate not valid for name"));
    assert_eq!(secured.origin.count() + second.origin.count(), 0);
    assert_eq!(lb.lines_with("EJECTED"), 0, "the name is the client's choice");
    assert_eq!(lb.get("/").status, 200);

    let secured = Secured::showing(&own);
    let keys = format!("tls: {{ ca: ca.pem, sni: other.example }}\n{PLAIN}");
    let lb = Config::pool(&[secured.front.entry("a")], &keys).file("ca.pem", own.pem).start();
    assert_eq!(lb.get("/").status, 502);
    assert!(told(&lb).starts_with("invalid peer certificate: certificate not valid for name"));
    assert_eq!(secured.origin.count(), 0);
}

#[test]
fn another_with_the_same_names_is_not_believed() {
    let own = own();
    let secured = Secured::showing(&self::own());
    let lb = secured.start(&[&own.pem]);
    for _ in 0..4 {
        assert_eq!(post(&mut lb.client()), 502);
    }
    assert!(told(&lb).starts_with("invalid peer certificate: "));
    let entries = lb.wait_for_entries(4);
    assert!(entries.iter().all(|entry| entry["reason"] == "connect_failed"), "{entries:?}");
    assert_one_try_each(&lb, 4);
    assert_eq!(secured.origin.count(), 0);
    secured.front.show(&own);
    assert_eq!(post(&mut lb.client()), 200);
}

#[test]
fn another_is_not_believed_after_the_right_one_was() {
    let own = own();
    let secured = Secured::showing(&own);
    let lb = secured.start(&[&own.pem]);
    let gate = Gate::default();
    let hanging = gate.clone();
    secured.origin.script(move |asked| match asked.path() {
        "/held" => Reply::text("held").behind(&hanging),
        _ => Reply::text("here"),
    });
    let mut holding = lb.client();
    assert_eq!(holding.get("/").status, 200);
    holding.send(request("GET", "/held", &[], b""));
    eventually("it is held", || secured.origin.working() == 1);
    secured.front.show(&self::own());
    let before = secured.origin.count();
    for _ in 0..4 {
        assert_eq!(post(&mut lb.client()), 502, "there is no connection but new ones");
    }
    assert_eq!(secured.origin.count(), before);
    gate.open();
    assert_eq!(holding.response().text(), "held");
    assert_eq!(holding.get("/").status, 502, "what was kept before is not used any more");
    secured.front.show(&own);
    assert_eq!(holding.get("/").status, 200);
}

#[test]
fn who_shows_another_counts_as_failing_once_for_each_request() {
    let own = own();
    let (secured, good) = (Secured::showing(&self::own()), Secured::showing(&own));
    let keys = "tls: { ca: ca.pem }\nhealth_check: off\nretry: { budget: { min_per_second: 100 } }\nejection: { consecutive_failures: 3, base_time: 60s }";
    let entries = [secured.front.entry("bad"), good.front.entry("good")];
    let lb = Config::pool(&entries, keys).file("ca.pem", own.pem).access_log().start();
    let mut client = lb.client();
    let mut requests = 0;
    while lb.lines_with("EJECTED") == 0 && requests < 20 {
        assert_eq!(post(&mut client), 200, "the other backend takes it");
        requests += 1;
    }
    // Of every two requests one goes there first.
    let twice = lb.wait_for_entries(requests).iter().filter(|entry| entry["tries"] == 2).count();
    assert_eq!(twice, 3);
    assert_eq!(secured.origin.count(), 0);
}

#[test]
fn it_must_be_in_time_and_for_servers() {
    for (certificate, why) in
        [(expired(), "certificate expired"), (for_clients(), "an authority's")]
    {
        let secured = Secured::showing(&certificate);
        let lb = secured.start(&[&certificate.pem]);
        assert_eq!(lb.get("/").status, 502);
        let told = told(&lb);
        assert!(told.contains(why), "{told}");
        // Also once the backend has shown a good one.
        let own = own();
        let secured = Secured::showing(&own);
        let lb = secured.start(&[&own.pem, &certificate.pem]);
        assert_eq!(lb.get("/").status, 200);
        secured.show(&certificate);
        assert_eq!(lb.get("/").status, 502);
        assert_eq!(secured.origin.count(), 1);
    }
}

/// Replaces `ca`, and waits until that is read.
fn replace(lb: &Lb, ca: &str) {
    let line = "pool app: certificates read again";
    let before = lb.lines_with(line);
    lb.replace("ca.pem", ca);
    lb.signal(Signal::HUP);
    eventually("it is read again", || lb.lines_with(line) > before);
}

#[test]
fn one_that_expires_is_not_believed_on_a_kept_connection_either() {
    let secured = Secured::showing(&own());
    let lb = secured.start(&[&own().pem]);
    let brief = Certificate::self_signed(&[NAME], |params| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + now + Duration::from_secs(4);
    });
    secured.front.show(&brief);
    replace(&lb, &brief.pem);
    let mut client = lb.client();
    assert_eq!(post(&mut client), 200);
    let before = secured.front.names().len();
    eventually("it expires", || client.get("/").status == 502);
    assert_eq!(secured.front.names().len(), before, "on the kept connection");
    assert!(told(&lb).contains("certificate expired"));
}

#[test]
fn the_present_file_counts() {
    let own = own();
    let secured = Secured::showing(&own);
    let lb = secured.start(&[&Authority::new("other").pem]);
    let mut client = lb.client();
    assert_eq!(client.get("/").status, 502);
    replace(&lb, &own.pem);
    assert_eq!(client.get("/").status, 200);
    replace(&lb, &self::own().pem);
    assert_eq!(client.get("/").status, 502, "neither on the kept connection nor on a new one");
    replace(&lb, &own.pem);
    assert_eq!(client.get("/").status, 200);
    assert_eq!(secured.origin.count(), 2);
}

#[test]
fn the_systems_collection_is_no_such_file() {
    let own = own();
    let secured = Secured::showing(&own);
    let keys = format!("tls: {{}}\n{PLAIN}");
    let lb = Config::pool(&[secured.front.entry("app-1")], &keys)
        .file("ca.pem", own.pem)
        .environment("SSL_CERT_FILE", "@DIR@/ca.pem")
        .start();
    assert_eq!(lb.get("/").status, 502);
    assert_eq!(secured.origin.count(), 0);
}

#[test]
fn without_verification_nothing_is_looked_at() {
    let secured = Secured::showing(&own());
    let keys = format!("tls: {{ verify: false }}\n{PLAIN}");
    let lb = Config::pool(&[secured.front.entry("app-1")], &keys).start();
    assert_eq!(lb.get("/").status, 200);
    secured.show(&expired());
    assert_eq!(lb.get("/").status, 200);
    assert_eq!(secured.front.accepted(), 2);
}

#[test]
fn others_are_believed_by_their_authority_beside_it() {
    let (own, authority) = (own(), Authority::new("authority"));
    let signed = authority.server(&[NAME]);
    let (one, two) = (Secured::showing(&own), Secured::showing(&signed));
    let keys = format!("tls: {{ ca: ca.pem }}\n{PLAIN}");
    let entries = [one.front.entry("one"), two.front.entry("two")];
    let ca = format!("{}{}", own.pem, authority.pem);
    let lb = Config::pool(&entries, &keys).file("ca.pem", ca).access_log().start();
    let mut client = lb.client();
    for _ in 0..6 {
        assert_eq!(post(&mut client), 200);
    }
    // And each may become what the other was, and back.
    for (first, second) in [(&signed, &own), (&own, &signed)] {
        one.show(first);
        two.show(second);
        for _ in 0..6 {
            // Kept connections are stale, which a POST would not survive.
            assert_eq!(client.get("/").status, 200);
        }
    }
    assert_one_try_each(&lb, 18);
    assert_eq!((one.origin.count(), two.origin.count()), (9, 9));
}

/// What a backend's first check says of it; `None` if it is up.
fn down(front: &TlsFront, tls: &str, keys: &str, ca: &str) -> Option<String> {
    let keys = format!("tls: {{ ca: ca.pem{tls} }}\n{keys}\nretry: {{ attempts: 0 }}");
    let lb = Config::pool(&[front.entry("app-1")], &keys).file("ca.pem", ca).start();
    lb.wait_for_line("listening on");
    lb.program.stderr.all().into_iter().find(|line| line.contains("is DOWN"))
}

#[test]
fn health_checks_believe_it_as_requests_do() {
    let own = own();
    let secured = Secured::showing(&own);
    for check in ["tcp: {}", "http: { path: /health }"] {
        let keys = format!("health_check: {{ {check} }}");
        let down = |tls: &str, ca: &str| down(&secured.front, tls, &keys, ca);
        secured.origin.forget();
        assert_eq!(down("", &own.pem), None, "{check}: it does not know the name");
        assert_eq!(down(", sni: test.example", &own.pem), None, "{check}");
        let asked = secured.origin.count();
        let wrong = down(", sni: b.example", &own.pem).expect("down by its name");
        let expected = "TLS handshake failed: invalid peer certificate: certificate not valid for";
        assert!(wrong.contains(expected), "{wrong}");
        let wrong = down("", &self::own().pem).expect("down by its key");
        assert!(wrong.contains("TLS handshake failed: invalid peer certificate: "), "{wrong}");
        assert_eq!(secured.origin.count(), asked, "{check}: who is not believed is asked nothing");
    }
}

#[test]
fn health_checks_follow_what_is_shown() {
    let own = own();
    let secured = Secured::showing(&own);
    let keys = "health_check: { http: { path: / }, interval: 50ms, fall: 1, rise: 1 }";
    let authority = Authority::new("authority");
    let lb = secured.config(&[&own.pem, &authority.pem], keys).start();
    assert_eq!(lb.get("/").status, 200);
    secured.front.show(&self::own());
    lb.wait_for_line("is DOWN: TLS handshake failed: invalid peer certificate: ");
    secured.front.show(&own);
    eventually("it is up", || lb.lines_with("of pool app is UP") == 1);
    secured.front.show(&authority.server(&[NAME]));
    let before = secured.front.names().len();
    eventually("it is probed", || secured.front.names().len() > before + 4);
    secured.front.show(&own);
    let before = secured.front.names().len();
    eventually("it is probed", || secured.front.names().len() > before + 4);
    assert_eq!(lb.lines_with("is DOWN"), 1, "one probe takes both ways");
}

async fn serving(mut asked: Asked) {
    if asked.seen.path != "/grpc.health.v1.Health/Check" {
        asked.read().await;
        return asked.answer("h2");
    }
    let mut reply = asked.begin(200, &[("content-type", "application/grpc")]);
    let _ = reply.send_data([0, 0, 0, 0, 2, 8, 1].to_vec().into(), false);
    let _ = reply.send_trailers(
        [("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect(),
    );
}

#[test]
fn it_may_speak_http2() {
    let own = own();
    let (h2, h1) = (H2Origin::scripted("h2", serving), Origin::named("h1"));
    for protocol in ["http2", "auto"] {
        let front = TlsFront::speaking(&["h2"], &h2, &h1, &own);
        let keys = format!("tls: {{ ca: ca.pem }}\nprotocol: {protocol}\n{PLAIN}");
        let config = Config::pool(&[front.entry("app-1")], &keys).file("ca.pem", own.pem.clone());
        let lb = config.access_log().start();
        let mut client = lb.client();
        for logged in 1..=3 {
            assert_eq!(post(&mut client), 200);
            // A request is logged when its connection to the backend was given back.
            assert_one_try_each(&lb, logged);
        }
        assert_eq!(front.names(), [NAME], "{protocol}: one connection was enough");
    }
    assert_eq!(h1.count(), 0);
}

#[test]
fn a_crowd_waits_for_the_connection_that_is_made_otherwise() {
    let own = own();
    let (h2, h1) = (H2Origin::scripted("h2", serving), Origin::named("h1"));
    let front = TlsFront::speaking(&["h2"], &h2, &h1, &own);
    let keys = format!("tls: {{ ca: ca.pem, sni: {NAME} }}\nprotocol: http2\n{PLAIN}");
    let config = Config::pool(&[front.entry("app-1")], &keys).file("ca.pem", own.pem);
    let lb = config.listener("h2c: true").start();
    let client = H2::connect(&lb.web());
    let streams: Vec<_> = (0..60).map(|_| client.begin(h2::get("/"), true)).collect();
    assert!(streams.into_iter().all(|stream| stream.answer().unwrap().status == 200));
    let accepted = front.accepted();
    assert!((2..=6).contains(&accepted), "{accepted} connections for 60 requests");
}

#[test]
fn http2_is_not_spoken_with_who_is_not_believed() {
    let own = own();
    let (h2, h1) = (H2Origin::scripted("h2", serving), Origin::named("h1"));
    let front = TlsFront::speaking(&["h2"], &h2, &h1, &self::own());
    let keys = format!("tls: {{ ca: ca.pem }}\nprotocol: http2\n{PLAIN}");
    let lb = Config::pool(&[front.entry("app-1")], &keys).file("ca.pem", own.pem.clone()).start();
    for _ in 0..3 {
        assert_eq!(post(&mut lb.client()), 502);
    }
    assert_eq!(h2.count(), 0);
    // The connection on which it was not believed is still there, and of no use to the right one.
    front.show(&own);
    let mut client = lb.client();
    assert_eq!(post(&mut client), 200);
    assert_eq!(post(&mut client), 200);
    assert_eq!(h2.count(), 2);
}

#[test]
fn health_checks_of_grpc_believe_it() {
    let own = own();
    let (h2, h1) = (H2Origin::scripted("h2", serving), Origin::named("h1"));
    let front = TlsFront::speaking(&["h2"], &h2, &h1, &own);
    let keys = "protocol: http2\nhealth_check: { grpc: {} }";
    assert_eq!(down(&front, "", keys, &own.pem), None);
    assert_eq!(h2.count(), 1);
    assert!(down(&front, "", keys, &self::own().pem).is_some());
    assert_eq!(h2.count(), 1, "nothing is asked of who is not believed");
}

/// A raw server behind TLS with this certificate, and a balancer that passes streams on to it.
fn streams(certificate: &Certificate, ca: &[&str], sni: &str, keys: &str) -> (Raw, TlsFront, Lb) {
    let backend = Raw::named("raw");
    let front = TlsFront::of_raw(&backend, certificate, None);
    let keys = format!("tls: {{ ca: ca.pem, sni: {sni} }}\n{keys}");
    let lb = Config::pool(&[front.entry("a")], &keys)
        .listener(STREAMS)
        .file("ca.pem", ca.concat())
        .access_log()
        .without_probe()
        .start();
    lb.wait_for_line("listening on");
    (backend, front, lb)
}

#[track_caller]
fn passes(backend: &Raw, lb: &Lb) {
    let mut client = lb.client();
    client.send("x");
    assert_eq!(backend.accept().exactly(1), b"x");
}

#[test]
fn streams_go_to_it() {
    let (own, authority) = (own(), Authority::new("authority"));
    let (backend, front, lb) = streams(&own, &[&own.pem, &authority.pem], NAME, PLAIN);
    passes(&backend, &lb);
    assert_eq!(front.accepted(), 1, "here one handshake is enough");
    front.show(&authority.server(&[NAME]));
    passes(&backend, &lb);
    front.show(&own);
    passes(&backend, &lb);
    front.show(&self::own());
    assert!(lb.client().is_closed());
    let told = told(&lb);
    assert!(told.starts_with("invalid peer certificate: it is an authority's (CA:TRUE)"), "{told}");
    assert!(backend.is_left_alone());
    let entries = lb.wait_for_entries(4);
    // One that has ended may be logged after the next.
    let failed = entries.iter().filter(|entry| entry["reason"] == "connect_failed").count();
    let passed = entries.iter().filter(|entry| entry["reason"] == "ok").count();
    assert_eq!((passed, failed), (3, 1), "{entries:?}");
    assert!(entries.iter().all(|entry| entry["tries"] == 1), "{entries:?}");
}

#[test]
fn streams_do_not_go_to_another() {
    let own = own();
    for (certificate, sni, why) in [
        (own.clone(), "other.example", "certificate not valid for name"),
        (expired(), NAME, "certificate expired"),
        (for_clients(), NAME, "it is an authority's (CA:TRUE)"),
    ] {
        let (backend, _front, lb) = streams(&certificate, &[&certificate.pem], sni, PLAIN);
        assert!(lb.client().is_closed());
        let told = told(&lb);
        assert!(told.contains(why), "{told}");
        assert!(backend.is_left_alone());
    }
}

#[test]
fn streams_and_their_checks_follow_what_is_shown() {
    let own = own();
    let check = "health_check: { interval: 50ms, rise: 1, fall: 1 }\nretry: { attempts: 0 }";
    let (backend, front, lb) = streams(&own, &[&own.pem], NAME, check);
    // A check connects to the backend behind the front as well, and says nothing there.
    let reached = || {
        let mut client = lb.client();
        let _ = client.try_send(b"hello");
        let connected = backend.accept_within(Duration::from_millis(100));
        connected.is_some_and(|mut served| served.try_exactly(5).is_ok())
    };
    eventually("it is up", reached);
    front.show(&self::own());
    lb.wait_for_line("is DOWN: TLS handshake failed: invalid peer certificate: ");
    front.show(&own);
    lb.wait_for_line("of pool app is UP");
    eventually("it is up again", reached);
}
