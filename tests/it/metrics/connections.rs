//! What is counted of connections: those that bring nothing, those in TLS, and those that are passed on.

use super::{ADMIN, Scrape, assert_changes, settled, with_admin};
use crate::support::{
    Authority, Client, Config, Gate, Origin, Raw, Reply, TlsClient, eventually, h2, request,
};
use rcgen::date_time_ymd;
use rustix::process::Signal;

fn unused(reason: &str) -> String {
    format!("unused_connections_total{{listener=\"web\",reason=\"{reason}\"}}")
}

#[test]
fn connections_that_bring_no_request_are_counted_by_why() {
    let a = Origin::named("a");
    let lb = with_admin(&[&a], "").listener("h2c: true\ntimeouts: { header: 300ms }").start();
    let mut before = settled(&lb);
    let mut assert_counted = |reason: &str| {
        assert_changes(&lb, &before, &[(&unused(reason), 1.0)]);
        before = Scrape::of(&lb);
    };
    drop(lb.client());
    assert_counted("client_left");
    let mut silent = lb.client();
    assert!(silent.is_closed());
    assert_counted("silent");
    drop(silent);
    // It leaves in the middle of its first head.
    lb.client().send("GET / HT");
    assert_counted("client_left");
    let mut confused = lb.client();
    confused.send([h2::PREFACE, b"this is no frame at all"].concat());
    let _ = confused.until_the_end();
    assert_counted("protocol");
}

#[test]
fn a_connection_that_the_end_of_the_process_cuts_off_is_counted() {
    let gate = Gate::default();
    let held = gate.clone();
    let a = Origin::scripted("a", move |_| Reply::text("ok").behind(&held));
    let lb = with_admin(&[&a], "").start();
    let mut working = lb.client();
    working.send(request("GET", "/", &[], b""));
    eventually("the request is on its backend", || a.working() == 1);
    let before = Scrape::of(&lb);
    let _idle = [lb.client(), lb.client()];
    let open = r#"downstream_connections{listener="web"}"#;
    eventually("they are accepted", || Scrape::of(&lb).get(open) == Some(3.0));
    lb.signal(Signal::TERM);
    assert_changes(&lb, &before, &[(&unused("draining"), 2.0)]);
    gate.open();
    assert_eq!(working.response().status, 200);
}

#[test]
fn a_connection_that_brought_a_request_is_not_unused() {
    let a = Origin::named("a");
    let lb = with_admin(&[&a], "").start();
    let before = settled(&lb);
    let mut client = lb.client();
    assert_eq!(client.get("/").status, 200);
    client.send("GET / HT");
    drop(client);
    eventually("it is closed", || Scrape::of(&lb).sum("downstream_connections", &[]) == 0.0);
    let sum = |it: &Scrape| it.sum("unused_connections_total", &[]);
    assert_eq!(sum(&Scrape::of(&lb)), sum(&before));
}

#[test]
fn a_bad_proxy_header_is_counted() {
    let a = Origin::named("a");
    let lb = with_admin(&[&a], "").listener("proxy_protocol: require").without_probe().start();
    lb.wait_for_line("listener web: listening on");
    let before = Scrape::of(&lb);
    let mut client = lb.client();
    client.send(request("GET", "/", &[], b""));
    assert!(client.is_closed());
    assert_changes(&lb, &before, &[(&unused("proxy_header"), 1.0)]);
}

#[test]
fn tls_is_counted_by_how_it_began() {
    let (authority, a) = (Authority::new("authority"), Origin::named("a"));
    let certificate = authority.sign(&["a.example"], |params| {
        params.not_after = date_time_ymd(2040, 1, 1);
    });
    let listener = "tls: { certificates: [{ cert: a.pem, key: a.key }] }";
    let lb = with_admin(&[&a], "")
        .listener(listener)
        .certificate("a", &certificate)
        .without_probe()
        .start();
    lb.wait_for_line("listener web: listening on");
    let handshakes = |result: &str| {
        let series = format!("tls_handshakes_total{{listener=\"web\",result=\"{result}\"}}");
        Scrape::of(&lb).get(&series).unwrap()
    };
    let file = lb.directory().join("a.pem");
    let expiry = format!(
        "certificate_expiry_timestamp_seconds{{listener=\"web\",pool=\"\",file=\"{}\"}}",
        file.display()
    );
    assert_eq!(Scrape::of(&lb).get(&expiry), Some(2_208_988_800.0));
    let client = TlsClient::new(&authority);
    for _ in 0..2 {
        let mut client = Client::connect_tls(&lb.web(), &client, "a.example");
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!((handshakes("full"), handshakes("resumed"), handshakes("failure")), (1.0, 1.0, 0.0));
    let before = Scrape::of(&lb);
    let stranger = TlsClient::new(&Authority::new("another"));
    assert!(Client::try_connect_tls(&lb.web(), &stranger, "a.example").is_err());
    eventually("it is counted", || handshakes("failure") == 1.0);
    let series = unused("tls_handshake");
    eventually("it brought no request", || {
        Scrape::of(&lb).since(&before).get(&series) == Some(&1.0)
    });
    // A new certificate in the same file.
    let renewed = authority.sign(&["a.example"], |params| {
        params.not_after = date_time_ymd(2041, 1, 1);
    });
    lb.replace("a.pem", &renewed.pem);
    lb.replace("a.key", &renewed.key);
    eventually("the new date is told", || Scrape::of(&lb).get(&expiry) == Some(2_240_611_200.0));
}

#[test]
fn the_certificate_that_backends_see_is_told_by_its_pool() {
    let (authority, a) = (Authority::new("authority"), Origin::named("a"));
    let certificate = authority.client("balancer");
    let tls = "tls: { sni: a.example, verify: false, client_cert: us.pem, client_key: us.key }";
    let lb = with_admin(&[&a], tls).certificate("us", &certificate).start();
    let file = lb.directory().join("us.pem");
    let scrape = Scrape::of(&lb);
    let expiry = format!(
        "certificate_expiry_timestamp_seconds{{listener=\"\",pool=\"app\",file=\"{}\"}}",
        file.display()
    );
    assert!(scrape.get(&expiry).is_some(), "{scrape:?}");
}

#[test]
fn a_stream_moves_its_own_counters() {
    let raw = Raw::named("raw");
    let listener = "protocol: tcp\npool: app";
    let keys = "health_check: off";
    let lb =
        Config::pool(&[raw.entry()], keys).and(ADMIN).listener(listener).without_probe().start();
    lb.wait_for_line("listener web: listening on");
    let before = Scrape::of(&lb);
    let mut client = lb.client();
    client.send("hello");
    let mut backend = raw.accept();
    assert_eq!(backend.exactly(5), b"hello");
    let open = [
        (r#"downstream_connections{listener="web"}"#, 1.0),
        (r#"backend_in_flight{pool="app",backend="raw"}"#, 1.0),
        (r#"upstream_requests_total{pool="app",backend="raw",outcome="success"}"#, 1.0),
    ];
    assert_changes(&lb, &before, &open);
    backend.send("good day");
    assert_eq!(client.exactly(8), b"good day");
    drop(backend);
    assert!(client.is_closed());
    drop(client);
    let ended = [
        (r#"connections_total{listener="web",pool="app",reason="ok"}"#, 1.0),
        (r#"connection_duration_seconds_count{listener="web",pool="app"}"#, 1.0),
        (r#"upstream_requests_total{pool="app",backend="raw",outcome="success"}"#, 1.0),
        (r#"upstream_duration_seconds_count{pool="app"}"#, 1.0),
        (r#"downstream_received_bytes_total{listener="web"}"#, 5.0),
        (r#"downstream_sent_bytes_total{listener="web"}"#, 8.0),
    ];
    assert_changes(&lb, &before, &ended);
}

#[test]
fn a_stream_that_its_client_breaks_off_at_once_counts_on_its_backend() {
    let raw = Raw::named("raw");
    let listener = "protocol: tcp\npool: app";
    let config = Config::pool(&[raw.entry()], "health_check: off").and(ADMIN);
    let lb = config.listener(listener).without_probe().start();
    lb.wait_for_line("listener web: listening on");
    let client = lb.client();
    let _backend = raw.accept();
    client.reset();
    let counted = || {
        let name = r#"upstream_requests_total{pool="app",backend="raw",outcome="aborted"}"#;
        Scrape::of(&lb).get(name) == Some(1.0)
    };
    eventually("it counts", counted);
}
