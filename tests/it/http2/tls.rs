//! HTTP/2 inside TLS.

use crate::support::{
    Authority, Client, Config, Gate, Lb, Origin, Reply, SOON, TlsClient, eventually,
    h2::{Frame, Frames, GOAWAY, H2, PREFACE, RST_STREAM, SETTINGS},
    lb::server,
    request,
};
use h2::Reason;
use http::Request;
use rustix::process::Signal;
use std::time::{Duration, Instant};

const NAME: &str = "a.example";

/// A balancer that speaks TLS, and what its clients go by.
struct Secured {
    authority: Authority,
    client: TlsClient,
    config: Config,
}

impl Secured {
    /// With further keys of `tls` and of the listener.
    fn new(origin: &Origin, tls: &str, listener: &str) -> Self {
        let authority = Authority::new("authority");
        let keys =
            format!("tls: {{ certificates: [{{ cert: a.pem, key: a.key }}], {tls} }}\n{listener}");
        let config = Config::pool(&[origin.entry()], "health_check: off\nejection: off")
            .listener(&keys)
            .certificate("a", &authority.server(&[NAME]))
            .access_log();
        Self { client: TlsClient::new(&authority), authority, config }
    }

    fn start(self) -> (Lb, TlsClient) {
        (self.config.start(), self.client)
    }
}

fn get(path: &str) -> Request<()> {
    asking("GET", path)
}

fn asking(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("https://{NAME}{path}")).body(()).unwrap()
}

fn frames(lb: &Lb, client: &TlsClient) -> Frames {
    let client = client.offering(&["h2"]);
    Frames::over(Client::connect_tls(&lb.web(), &client, NAME))
}

#[test]
fn alpn_decides_which_protocol_is_spoken() {
    let origin = Origin::named("app-1");
    let (lb, client) = Secured::new(&origin, "", "").start();
    let h2 = H2::over_tls(&lb.web(), &client, NAME);
    let answer = h2.ask(get("/2"), b"").unwrap();
    assert_eq!((answer.status.as_u16(), answer.text().as_str()), (200, "app-1"));
    let seen = origin.last_request().headers;
    assert_eq!(
        [seen.get("x-forwarded-proto"), seen.get("host"), seen.get("x-real-ip")],
        [Some("https"), Some(NAME), Some("127.0.0.1")]
    );
    for offered in [&["http/1.1"][..], &[]] {
        let mut h1 = Client::connect_tls(&lb.web(), &client.offering(offered), NAME);
        assert_eq!(h1.get("/1").text(), "app-1", "{offered:?}");
    }
    let logged: Vec<_> = lb
        .wait_for_entries(3)
        .iter()
        .map(|entry| (entry["protocol"].clone(), entry["tls"].clone()))
        .collect();
    let (http1, tls) = ("HTTP/1.1".into(), serde_json::Value::from("TLSv1.3"));
    assert_eq!(
        logged,
        [("HTTP/2.0".into(), tls.clone()), (http1, tls.clone()), ("HTTP/1.1".into(), tls)]
    );
}

#[test]
fn the_listener_prefers_the_first_of_its_protocols() {
    let origin = Origin::named("app-1");
    for (alpn, chosen) in
        [("alpn: [http/1.1, h2]", "http/1.1"), ("alpn: [h2, http/1.1]", "h2"), ("alpn: [h2]", "h2")]
    {
        let (lb, client) = Secured::new(&origin, alpn, "").start();
        let both = client.offering(&["http/1.1", "h2"]);
        let met = Client::connect_tls(&lb.web(), &both, NAME);
        assert_eq!(met.tls().alpn_protocol(), Some(chosen.as_bytes()), "{alpn}");
        if alpn == "alpn: [h2]" {
            let refused = Client::try_connect_tls(&lb.web(), &client.offering(&["http/1.1"]), NAME);
            let error = refused.err().expect("nothing in common").to_string();
            assert_eq!(error, "received fatal alert: NoApplicationProtocol");
            let mut without = Client::connect_tls(&lb.web(), &client, NAME);
            assert_eq!(without.get("/").status, 200, "who does not ask speaks HTTP/1");
        }
    }
}

#[test]
fn without_alpn_the_preface_is_no_request() {
    let origin = Origin::named("app-1");
    let (lb, client) = Secured::new(&origin, "", "").start();
    for offered in [&["http/1.1"][..], &[]] {
        let mut client = Client::connect_tls(&lb.web(), &client.offering(offered), NAME);
        client.send(PREFACE);
        assert_eq!(client.response().status, 505, "{offered:?}");
    }
    // And who has agreed on HTTP/2 does not get on with anything else.
    let mut client = Client::connect_tls(&lb.web(), &client.offering(&["h2"]), NAME);
    client.send(request("GET", "/", &[], b""));
    client.rest();
    assert!(client.is_closed());
    assert_eq!(origin.count(), 0);
}

#[test]
fn bodies_pass_whole_both_ways() {
    const LENGTH: usize = 3_000_000;
    let origin = Origin::scripted("app-1", |_| Reply::Zeros(LENGTH as u64));
    let (lb, client) = Secured::new(&origin, "", "").start();
    let h2 = H2::over_tls(&lb.web(), &client, NAME);
    for _ in 0..2 {
        assert_eq!(h2.ask(get("/down"), b"").unwrap().body.len(), LENGTH);
    }
    let body = vec![b'x'; 60_000];
    assert_eq!(h2.ask(asking("POST", "/up"), &body).unwrap().body.len(), LENGTH);
    let seen = origin.last_request();
    assert_eq!((seen.complete, seen.body_length), (true, body.len() as u64));
}

#[test]
fn every_stream_is_its_clients() {
    let (origin, people) = (Origin::named("app-1"), Authority::new("people"));
    let mut secured = Secured::new(&origin, "client_ca: people.pem, client_auth: optional", "");
    secured.config = secured.config.file("people.pem", people.pem.clone());
    let (lb, client) = secured.start();
    let known = H2::over_tls(&lb.web(), &client.showing(&people.client("client-1")), NAME);
    let unknown = H2::over_tls(&lb.web(), &client, NAME);
    for _ in 0..2 {
        for (client, subject) in [(&known, Some("CN=client-1,O=Tests")), (&unknown, None)] {
            assert_eq!(client.ask(get("/"), b"").unwrap().status, 200);
            let seen = origin.last_request().headers;
            assert_eq!(seen.get("x-client-cert-subject"), subject);
            assert_eq!(seen.get("x-client-cert-verified"), subject.map(|_| "true"));
        }
    }
}

#[test]
fn streams_over_the_limit_are_refused() {
    let gate = Gate::default();
    let held = gate.clone();
    let origin = Origin::scripted("app-1", move |_| Reply::text("ok").behind(&held));
    let (lb, client) = Secured::new(&origin, "", "limits: { h2_streams: 2 }").start();
    let mut client = frames(&lb, &client);
    for stream in [1, 3, 5] {
        client.get(stream, "/");
    }
    let refused = client.until(|frame| frame.kind == RST_STREAM).unwrap();
    assert_eq!((refused.stream, refused.reason()), (5, Reason::REFUSED_STREAM));
    gate.open();
    let mut ended: Vec<_> =
        (0..2).map(|_| client.until(Frame::ends_stream).unwrap().stream).collect();
    ended.sort_unstable();
    assert_eq!(ended, [1, 3]);
}

#[test]
fn one_connection_too_many_is_told_in_its_language() {
    let origin = Origin::named("app-1");
    let mut secured = Secured::new(&origin, "", "max_connections: 1");
    secured.config = secured.config.without_probe();
    let (lb, client) = secured.start();
    eventually("it listens", || lb.web().connect().is_ok());
    let mut first = H2::over_tls(&lb.web(), &client, NAME);
    eventually("the one before is gone", || {
        first.ask(get("/"), b"").is_ok() || {
            first = H2::over_tls(&lb.web(), &client, NAME);
            false
        }
    });
    let mut second = frames(&lb, &client);
    let goodbye = second.until(|frame| frame.kind == GOAWAY).expect("a GOAWAY");
    assert_eq!((goodbye.reason(), &goodbye.payload[..4]), (Reason::ENHANCE_YOUR_CALM, &[0; 4][..]));
    eventually("it is logged", || {
        lb.entries()
            .iter()
            .any(|entry| [&entry["reason"], &entry["protocol"]] == ["overloaded", "HTTP/2.0"])
    });
    assert_eq!(first.ask(get("/"), b"").unwrap().status, 200);
}

#[test]
fn draining_lets_requests_finish_and_ends_in_order() {
    let gate = Gate::default();
    let held = gate.clone();
    let origin = Origin::scripted("app-1", move |_| Reply::text("ok").behind(&held));
    let mut secured = Secured::new(&origin, "", "");
    secured.config = secured.config.and(&server("drain_timeout: 30s"));
    let (mut lb, client) = secured.start();
    let mut idle = frames(&lb, &client);
    idle.until(|frame| frame.kind == SETTINGS);
    let mut busy = frames(&lb, &client);
    busy.get(1, "/");
    eventually("it arrives", || origin.count() == 1);
    lb.signal(Signal::TERM);
    assert_eq!((idle.goodbye(), busy.goodbye()), (Reason::NO_ERROR, Reason::NO_ERROR));
    // The end is said in TLS, too; else this would be an error.
    idle.client.until_the_end().expect("a close_notify");
    lb.program.assert_running();
    gate.open();
    assert_ne!(busy.end_of(1).kind, RST_STREAM);
    busy.client.until_the_end().expect("a close_notify");
    let status = lb.program.wait_for_exit(SOON).expect("it exits");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn an_idle_connection_is_told_to_go() {
    let origin = Origin::named("app-1");
    let (lb, client) = Secured::new(&origin, "", "timeouts: { keepalive: 300ms }").start();
    let mut client = frames(&lb, &client);
    client.get(1, "/");
    assert_ne!(client.end_of(1).kind, RST_STREAM);
    assert_eq!(client.goodbye(), Reason::NO_ERROR);
    client.client.until_the_end().expect("a close_notify");
}

#[test]
fn a_beginning_that_goes_no_further_is_closed() {
    let origin = Origin::named("app-1");
    let (lb, client) = Secured::new(&origin, "", "timeouts: { header: 300ms }").start();
    let began = Instant::now();
    let client = client.offering(&["h2"]);
    for beginning in [&b""[..], &PREFACE[..10], PREFACE] {
        let mut client = Client::connect_tls(&lb.web(), &client, NAME);
        client.send(beginning);
        client.rest();
        assert!(client.is_closed(), "{beginning:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn a_new_certificate_leaves_open_connections_alone() {
    let gate = Gate::default();
    let held = gate.clone();
    let origin = Origin::scripted("app-1", move |_| Reply::text("ok").behind(&held));
    let secured = Secured::new(&origin, "", "");
    let new = secured.authority.server(&[NAME, "b.example"]);
    let (lb, client) = secured.start();
    let old = H2::over_tls(&lb.web(), &client, NAME);
    let stream = old.begin(get("/"), true);
    eventually("it arrives", || origin.count() == 1);
    lb.replace("a.key", &new.key);
    lb.replace("a.pem", &new.pem);
    lb.signal(Signal::HUP);
    let shown = || {
        let client = Client::connect_tls(&lb.web(), &client.but(|_| ()), NAME);
        client.tls().peer_certificates().unwrap()[0].clone()
    };
    eventually("the new one is shown", || shown() == new.chain()[0]);
    gate.open();
    assert_eq!(stream.answer().unwrap().text(), "ok");
    assert_eq!(old.ask(get("/"), b"").unwrap().text(), "ok");
    assert_eq!(H2::over_tls(&lb.web(), &client, NAME).ask(get("/"), b"").unwrap().text(), "ok");
}
