//! Backends with which TLS decides what is spoken.

use crate::support::{
    Authority, Certificate, Config, Origin, Reply, TlsFront, eventually,
    h2::{H2, asking},
    h2_origin::H2Origin,
    lb::pool,
    request, tally,
};
use bytes::Bytes;
use serde_json::Value;
use std::fmt::Write as _;

const PLAIN: &str = "health_check: off\nejection: off";
const BOTH: &[&str] = &["h2", "http/1.1"];

/// An origin for each protocol, with TLS before them.
struct Fronted {
    h2: H2Origin,
    h1: Origin,
    certificate: Certificate,
    authority: Authority,
}

impl Fronted {
    fn new() -> Self {
        Self::of(H2Origin::named("h2"))
    }

    fn of(h2: H2Origin) -> Self {
        let authority = Authority::new("authority");
        let certificate = authority.server(&["test.example"]);
        Self { h2, h1: Origin::named("h1"), certificate, authority }
    }

    fn front(&self, protocols: &[&str]) -> TlsFront {
        TlsFront::speaking(protocols, &self.h2, &self.h1, &self.certificate)
    }

    /// A balancer before these fronts, which speaks `protocol` to them.
    fn config(&self, protocol: &str, fronts: &[&TlsFront], keys: &str) -> Config {
        let entries: Vec<_> =
            (0..).zip(fronts).map(|(at, it)| it.entry(&format!("b{at}"))).collect();
        let keys =
            format!("tls: {{ ca: ca.pem, sni: test.example }}\nprotocol: {protocol}\n{keys}");
        Config::pool(&entries, &keys)
            .file("ca.pem", self.authority.pem.clone())
            .listener("h2c: true")
            .access_log()
    }
}

/// What was chosen in each handshake.
fn chosen(front: &TlsFront) -> Vec<String> {
    front.seen().into_iter().map(|seen| seen.alpn.unwrap_or_else(|| "(none)".to_owned())).collect()
}

#[test]
fn http2_is_spoken_over_tls() {
    let fronted = Fronted::of(H2Origin::scripted("h2", |mut asked| async move {
        let body = asked.read().await;
        asked.answer(body);
    }));
    let front = fronted.front(&["h2"]);
    let lb = fronted.config("http2", &[&front], PLAIN).start();
    let body: Vec<u8> = (0..300_000).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let mut client = lb.client();
    let h2 = H2::connect(&lb.web());
    // A request is logged when its connection to the backend was given back.
    for logged in 0..5 {
        let response = client.ask(request("POST", "/1", &["Content-Length: 300000"], &body));
        assert!(response.status == 200 && response.body == body);
        lb.wait_for_entries(2 * logged + 1);
        let answer = h2.ask(asking("POST", "/2").body(()).unwrap(), &body).unwrap();
        assert!(answer.status == 200 && answer.body == body);
        lb.wait_for_entries(2 * logged + 2);
    }
    let seen = fronted.h2.requests();
    assert!(seen.iter().all(|seen| seen.authority == "test.example"), "{seen:?}");
    assert_eq!(chosen(&front), ["h2"], "all of it on one connection");
}

#[test]
fn a_backend_that_does_not_speak_http2_is_a_failed_connection() {
    let fronted = Fronted::new();
    for (protocols, why) in [
        (&[][..], "TLS handshake: the backend did not choose h2 by ALPN"),
        (&["http/1.1"], "TLS handshake: received fatal alert: NoApplicationProtocol"),
    ] {
        let (old, good) = (fronted.front(protocols), fronted.front(BOTH));
        let lb = fronted.config("http2", &[&old], PLAIN).start();
        for _ in 0..2 {
            assert_eq!(lb.get("/").status, 502);
        }
        assert_eq!(lb.wait_for_entries(1)[0]["reason"], "connect_failed");
        let line = lb.wait_for_line("connect_failed after 1 tries");
        assert!(line.contains(why), "{line}");
        // Nothing was sent there, so that any request may go elsewhere.
        let lb = fronted.config("http2", &[&old, &good], PLAIN).start();
        for _ in 0..4 {
            let response = lb.client().ask(request("POST", "/", &["Content-Length: 4"], b"body"));
            assert_eq!((response.status, response.text().as_str()), (200, "h2"));
        }
        let tries: Vec<_> = lb.wait_for_entries(4).iter().map(|it| it["tries"].clone()).collect();
        assert!(tries.contains(&2.into()), "{tries:?}");
        // It is ejected like any backend that cannot be connected to.
        let ejecting = "health_check: off\nejection: { consecutive_failures: 1 }";
        let lb = fronted.config("http2", &[&old, &good], ejecting).start();
        for _ in 0..6 {
            assert_eq!(lb.get("/").text(), "h2");
        }
        let tries = lb.wait_for_entries(6);
        assert_eq!(tries.iter().filter(|entry| entry["tries"] == 2).count(), 1, "{tries:?}");
    }
    assert_eq!(fronted.h1.count(), 0);
}

#[test]
fn health_checks_want_what_requests_want() {
    let fronted = Fronted::new();
    let (none, good) = (fronted.front(&[]), fronted.front(BOTH));
    for check in ["tcp: {}", "http: { path: /health }"] {
        let keys = format!("health_check: {{ {check}, interval: 100ms }}");
        let lb = fronted.config("http2", &[&none, &good], &keys).start();
        let line = lb.wait_for_line("backend b0");
        assert!(line.ends_with("TLS handshake: the backend did not choose h2 by ALPN"), "{line}");
        for _ in 0..4 {
            assert_eq!(lb.get("/").backend(), "b1", "{check}");
        }
    }
    let checks: Vec<_> =
        fronted.h2.requests().into_iter().filter(|seen| seen.path == "/health").collect();
    assert!(!checks.is_empty());
    assert!(checks.iter().all(|seen| seen.headers["user-agent"] == "pingora-lb-health-check"));
    assert_eq!(fronted.h1.count(), 0);
}

#[test]
fn each_backend_may_choose() {
    let fronted = Fronted::of(H2Origin::scripted("h2", |mut asked| async move {
        asked.read().await;
        let status = if asked.seen.path == "/health" { 204 } else { 200 };
        let _ = asked.begin(status, &[]).send_data(Bytes::from_static(b"h2"), true);
    }));
    fronted.h1.script(|asked| match asked.target.as_str() {
        "/health" => Reply::status(204),
        _ => Reply::text("h1"),
    });
    let fronts = [fronted.front(BOTH), fronted.front(&["http/1.1"]), fronted.front(&[])];
    let check = "health_check: { http: { path: /health, expect_status: [204] }, interval: 1h }";
    let [a, b, c] = &fronts;
    let lb = fronted.config("auto", &[a, b, c], &format!("{check}\nejection: off")).start();
    let (mut h1, h2) = (lb.client(), H2::connect(&lb.web()));
    let mut answers = Vec::new();
    for logged in 0..9 {
        let response = h1.ask(request("POST", "/", &["Content-Length: 4"], b"body"));
        answers.push(format!("{} {}", response.backend(), response.text()));
        lb.wait_for_entries(2 * logged + 1);
        let answer = h2.ask(asking("POST", "/").body(()).unwrap(), b"body").unwrap();
        answers.push(format!("{} {}", answer.field("x-backend-server"), answer.text()));
        lb.wait_for_entries(2 * logged + 2);
    }
    let expected = [("b0 h2", 6), ("b1 h1", 6), ("b2 h1", 6)];
    let expected = expected.map(|(name, count)| (name.to_owned(), count)).into();
    assert_eq!(tally(&answers), expected);
    // The first of each is that of the health check; that of requests is kept and used again.
    assert_eq!(chosen(a), ["h2"; 2]);
    assert_eq!(chosen(b), ["http/1.1"; 2]);
    assert_eq!(chosen(c), ["(none)"; 2]);
}

#[test]
fn what_http2_has_not_is_asked_for_in_http1() {
    let fronted = Fronted::new();
    let front = fronted.front(BOTH);
    let lb = fronted.config("auto", &[&front], PLAIN).start();
    assert_eq!(lb.get("/").text(), "h2");
    let mut old = lb.client();
    old.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(old.response().text(), "h1");
    fronted.h1.script(|_| Reply::Upgrade);
    let mut websocket = lb.client();
    let fields = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"];
    websocket.send(request("GET", "/", &fields, b""));
    assert_eq!(websocket.head().status, 101);
    websocket.send(b"echo");
    assert_eq!(websocket.exactly(4), b"echo");
    assert_eq!(chosen(&front), ["h2", "http/1.1", "http/1.1"]);
    // What was made for those is not what the others go on.
    assert_eq!(lb.get("/").text(), "h2");
    // And who waits for a 100 gets it, whatever the backend is going to choose.
    let mut client = lb.client();
    client.send(request("POST", "/", &["Expect: 100-continue", "Content-Length: 4"], b""));
    assert_eq!(client.head().status, 100);
    client.send(b"body");
    assert_eq!(client.response().text(), "h2");
    assert_eq!(chosen(&front).len(), 3);
}

#[test]
fn pools_that_speak_otherwise_do_not_share_connections() {
    let fronted = Fronted::new();
    let front = fronted.front(BOTH);
    let mut text = String::from("routes:\n");
    let mut pools = String::from("pools:\n");
    for protocol in ["http1", "http2", "auto"] {
        writeln!(text, "  - {{ match: {{ path: /{protocol} }}, pool: {protocol} }}").unwrap();
        let keys = format!("tls: {{ ca: ca.pem }}\n{PLAIN}\nprotocol: {protocol}");
        let entry = [front.entry("app")];
        pools += pool(protocol, &entry, &keys).strip_prefix("pools:\n").unwrap();
    }
    let lb = Config::new(text + &pools).file("ca.pem", fronted.authority.pem.clone()).start();
    let mut client = lb.client();
    for _ in 0..2 {
        for (path, text) in [("/http1", "h1"), ("/http2", "h2"), ("/auto", "h2")] {
            assert_eq!(client.get(path).text(), text, "{path}");
        }
    }
    let mut chosen = chosen(&front);
    chosen.sort_unstable();
    assert_eq!(chosen, ["h2", "h2", "http/1.1"]);
}

#[test]
fn a_try_that_takes_too_long_is_cut_whatever_was_chosen() {
    let fronted = Fronted::of(H2Origin::scripted("h2", |mut asked| async move {
        if asked.seen.path == "/slow" {
            return std::future::pending().await;
        }
        asked.answer("h2");
    }));
    fronted.h1.script(|asked| match asked.target.as_str() {
        "/slow" => Reply::Hang,
        _ => Reply::text("h1"),
    });
    let retry = "retry: { on: [timeout], attempts: 1, per_try_timeout: 400ms }";
    for (protocols, name) in [(BOTH, "h2"), (&["http/1.1"], "h1")] {
        let good = Fronted::new();
        let good = TlsFront::speaking(protocols, &good.h2, &good.h1, &fronted.certificate);
        let (slow, keys) = (fronted.front(protocols), format!("{PLAIN}\n{retry}"));
        let one = fronted.config("auto", &[&slow], &keys).start();
        let (mut h1, h2) = (one.client(), H2::connect(&one.web()));
        // On a busy machine, a handshake alone may take longer than a try may.
        eventually("a connection in time", || h1.get("/").text() == name);
        let before = chosen(&slow).len();
        for _ in 0..2 {
            assert_eq!(h1.get("/slow").status, 504);
            assert_eq!(h2.get("/slow").status, 504);
            eventually("an answer in time", || h1.get("/").text() == name);
            eventually("an answer in time", || h2.get("/").text() == name);
        }
        // One that is shared goes on; one that is not is gone with its try.
        let connections = chosen(&slow).len() - before;
        assert_eq!(connections == 0, name == "h2", "{connections}");
        drop(one);
        let two = fronted.config("auto", &[&slow, &good], &keys).start();
        eventually("one was tried elsewhere, and in time", || {
            let answered = two.client().get("/slow").status == 200;
            let is_second = |entry: &Value| entry["tries"] == 2 && entry["status"] == 200;
            answered && two.entries().iter().any(is_second)
        });
        // No try is waited for as long as a backend may take otherwise.
        assert!(two.entries().iter().all(|entry| entry["duration_ms"].as_f64() < Some(20_000.0)));
    }
}
