//! What filters, the PROXY protocol and both protocols of backends make of each other.

use super::both;
use crate::support::{
    Client, Config, Gate, Origin, Reply, eventually, filtered,
    h2::{Answer, END_HEADERS, END_STREAM, Frames, H2, HEADERS, PREFACE, RST_STREAM, SETTINGS},
    h2::{asking, frame, get, request as head},
    h2_origin::H2Origin,
    probe::{Journal, app, one_route, web},
    request,
};
use h2::Reason;
use http::HeaderMap;
use std::io::Read as _;

const PAGE: &str = "nothing here\n";
const LIMITED: &str = "come again\n";
/// Each sees the answers of those behind it, and of the backend.
const FILTERS: [&str; 2] = [
    "error_pages: { 404: pages/404.txt, 429: pages/429.txt }",
    "rate_limit: { requests: 6, per: 10h }",
];

fn paged(config: Config) -> Config {
    config.file("pages/404.txt", PAGE).file("pages/429.txt", LIMITED).access_log()
}

fn gunzipped(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

fn text() -> String {
    "All work and no play makes a dull proxy.\n".repeat(5_000)
}

/// Answers 404 with a long body for `/missing`, else a long text, followed by trailers for `/trailers`.
fn over_http2() -> H2Origin {
    H2Origin::scripted("a", |mut asked| async move {
        asked.read().await;
        let path = asked.seen.path.clone();
        let status = if path == "/missing" { 404 } else { 200 };
        let mut reply = asked.begin(status, &[("content-type", "text/plain")]);
        let trailed = path == "/trailers";
        let _ = reply.send_data(text().into(), !trailed);
        if trailed {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "7".parse().unwrap());
            let _ = reply.send_trailers(trailers);
        }
    })
}

/// A pool of one backend that speaks HTTP/2, behind these filters.
fn filtered_over_http2(origin: &H2Origin, filters: &[&str]) -> Config {
    let filters = filters.join("\n      - ");
    let keys = "protocol: http2\nhealth_check: off\nejection: off";
    Config::pool(&[origin.entry()], keys)
        .and(&format!("routes:\n  - name: main\n    pool: app\n    filters:\n      - {filters}"))
        .listener("h2c: true")
}

#[test]
fn a_filter_refuses_and_replaces_answers_and_the_connection_goes_on() {
    let origin = Origin::scripted("a", |request| match request.path() {
        "/missing" => Reply::Answer { status: 404, headers: Vec::new(), body: vec![b'x'; 50_000] },
        _ => Reply::text("found"),
    });
    let config = filtered(&[&origin], "health_check: off\nejection: off", &FILTERS);
    let lb = paged(config).listener("h2c: true").start();
    let client = H2::connect(&lb.web());
    for round in 0..2 {
        // An answer may be with the client before its line is written, so each is awaited.
        let missing = client.get("/missing");
        lb.wait_for_entries(3 * round + 1);
        assert_eq!((missing.status.as_u16(), missing.text().as_str()), (404, PAGE));
        assert_eq!(missing.field("content-length"), PAGE.len().to_string());
        assert_eq!(missing.field("x-backend-server"), "a");
        let bare = client.ask(asking("HEAD", "/missing").body(()).unwrap(), b"").unwrap();
        lb.wait_for_entries(3 * round + 2);
        assert_eq!((bare.status.as_u16(), bare.body.len()), (404, 0));
        assert_eq!(client.get("/").text(), "found");
        lb.wait_for_entries(3 * round + 3);
    }
    let posted = asking("POST", "/").body(()).unwrap();
    let refused = client.ask(posted, &[b'x'; 10_000]).unwrap();
    assert_eq!((refused.status.as_u16(), refused.text().as_str()), (429, LIMITED));
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    assert_eq!(origin.traffic().len(), 6);
    let entries = lb.wait_for_entries(7);
    for (entry, (status, reason, bytes)) in entries.iter().zip([
        (404, "ok", PAGE.len()),
        (404, "ok", 0),
        (200, "ok", 5),
        (404, "ok", PAGE.len()),
        (404, "ok", 0),
        (200, "ok", 5),
        (429, "rate_limited", LIMITED.len()),
    ]) {
        assert_eq!((&entry["status"], &entry["reason"]), (&status.into(), &reason.into()));
        assert_eq!((&entry["bytes_out"], &entry["protocol"]), (&bytes.into(), &"HTTP/2.0".into()));
    }
}

#[test]
fn answers_of_backends_over_http2_are_replaced_for_clients_of_both_protocols() {
    let origin = over_http2();
    let lb = paged(filtered_over_http2(&origin, &FILTERS)).start();
    let (mut old, new) = (lb.client(), H2::connect(&lb.web()));
    let before = origin.count();
    for _ in 0..2 {
        let missing = old.get("/missing");
        assert_eq!((missing.status, missing.text().as_str()), (404, PAGE));
        assert!(missing.complete);
        assert_eq!(new.get("/missing").text(), PAGE);
    }
    assert_eq!(origin.count() - before, 4);
    let entries = lb.wait_for_entries(4);
    assert!(entries.iter().all(|entry| entry["reason"] == "ok"), "{entries:?}");
}

/// What a client of HTTP/2 gets of a text that is compressed on the way.
fn compressed(client: &H2, path: &str) -> Answer {
    let asked = asking("GET", path).header("accept-encoding", "gzip").body(()).unwrap();
    let answer = client.ask(asked, b"").unwrap();
    assert_eq!(answer.field("content-encoding"), "gzip");
    for gone in ["content-length", "transfer-encoding", "connection"] {
        assert!(!answer.headers.contains_key(gone), "{answer:?}");
    }
    assert!(gunzipped(&answer.body) == text());
    answer
}

#[test]
fn bodies_are_compressed_on_their_way() {
    let origin = Origin::scripted("a", |_| Reply::text(text()).with("Content-Type", "text/plain"));
    let filters = ["compress: { algorithms: [gzip] }"];
    let config = filtered(&[&origin], "health_check: off", &filters);
    let lb = config.listener("h2c: true").start();
    let client = H2::connect(&lb.web());
    for _ in 0..3 {
        compressed(&client, "/");
    }
}

#[test]
fn what_a_filter_says_last_comes_though_trailers_follow() {
    let origin = over_http2();
    let lb = filtered_over_http2(&origin, &["compress: { algorithms: [gzip] }"]).start();
    let (mut old, new) = (lb.client(), H2::connect(&lb.web()));
    for path in ["/", "/trailers"] {
        assert!(compressed(&new, path).trailers.is_none());
        let answer = old.ask(request("GET", path, &["Accept-Encoding: gzip"], b""));
        assert!(answer.complete && gunzipped(&answer.body) == text());
    }
    // Where it has nothing to say, the trailers are there.
    let plain = new.get("/trailers");
    assert_eq!((plain.text(), &plain.trailers.unwrap()["x-sum"]), (text(), &"7".parse().unwrap()));
}

#[test]
fn a_filter_that_fails_at_the_trailers_leaves_no_response_that_looks_whole() {
    struct Failing;
    impl pingora_lb::filter::Filter for Failing {
        const NAME: &'static str = "failing";
        type Settings = pingora_lb::filter::settings::NoSettings;

        fn new(
            _: Self::Settings,
            _: &mut pingora_lb::filter::Setup<'_>,
        ) -> Result<Self, pingora_lb::filter::SettingsError> {
            Ok(Self)
        }

        fn on_response_body(
            &self,
            piece: &mut pingora_lb::filter::ResponseBody<'_>,
        ) -> pingora_lb::filter::Result<()> {
            let broken = || std::io::Error::other("told to").into();
            if piece.is_end() { Err(broken()) } else { Ok(()) }
        }
    }
    let origin = over_http2();
    let journal = Journal::new();
    let filters = [journal.probe("a", ""), "- failing: {}".to_owned()];
    let more = "listener.h2c: true\npool.protocol: http2\npool.health_check: off";
    let app = app().filter::<Failing>();
    let balancer = one_route(&app, &filters, &[origin.entry()], more);
    let new = H2::connect(&web(&balancer));
    let error = new.ask(get("/trailers"), b"").map(|answer| answer.body.len()).unwrap_err();
    assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
    journal.wait_for("a log 200 internal_error");
    let old = Client::connect(&web(&balancer)).get("/trailers");
    assert!(!old.complete && old.body.len() <= text().len());
    eventually("both are logged", || journal.with("a log 200 internal_error").len() == 2);
}

#[test]
fn log_hooks_hear_of_streams_that_are_reset_and_of_connections_that_break() {
    let gate = Gate::default();
    let held = gate.clone();
    let origin = Origin::scripted("origin", move |_| Reply::text("late").behind(&held));
    let journal = Journal::new();
    let more = "listener.h2c: true\npool.health_check: off\nroute.timeout: 30s";
    let balancer = one_route(&app(), &[journal.probe("a", "")], &[origin.entry()], more);
    let client = H2::connect(&web(&balancer));
    let mut stream = client.begin(get("/"), true);
    eventually("it is at the backend", || origin.working() == 1);
    stream.reset();
    journal.wait_for("a log 499 client_aborted");
    let mut frames = Frames::connect(&web(&balancer));
    frames.get(1, "/");
    eventually("it is at the backend as well", || origin.accepted() == 2);
    drop(frames);
    eventually("both are logged", || journal.with("a log 499 client_aborted").len() == 2);
    gate.open();
    drop(stream);
    assert_eq!(client.get("/").text(), "late");
}

#[test]
fn a_proxy_header_comes_before_the_preface() {
    let origin = Origin::named("app-1");
    let lb = both(&origin, "proxy_protocol: require").without_probe().start();
    lb.wait_for_line("listening on");
    let bytes = [
        &b"PROXY TCP4 198.51.100.7 192.0.2.80 4711 80\r\n"[..],
        PREFACE,
        &frame(SETTINGS, 0, 0, b""),
        &frame(HEADERS, END_HEADERS | END_STREAM, 1, &head("GET", "/", &[])),
    ]
    .concat();
    // In one piece, and in pieces that end within the header and within the preface.
    for pieces in [vec![&bytes[..]], bytes.chunks(11).collect()] {
        let mut client = lb.client();
        for piece in pieces {
            client.send(piece);
        }
        let mut client = Frames { client };
        assert_ne!(client.end_of(1).kind, RST_STREAM);
        let seen = origin.last_request();
        assert_eq!(seen.headers.get("x-forwarded-for"), Some("198.51.100.7"));
    }
    for entry in lb.wait_for_entries(2) {
        let facts = (&entry["client_ip"], &entry["protocol"]);
        assert_eq!(facts, (&"198.51.100.7".into(), &"HTTP/2.0".into()));
    }
    let mut without = lb.client();
    without.send(PREFACE);
    assert!(without.is_closed());
    assert_eq!(origin.count(), 2);
}

#[test]
fn backends_over_http2_are_told_whose_connection_it_is() {
    let origin = H2Origin::behind_a_proxy("app-1");
    let keys = "protocol: http2\nhealth_check: { http: {}, interval: 10s }\nproxy_protocol: v1";
    let lb = Config::pool(&[origin.entry()], keys).listener("h2c: true").start();
    let (first, second) = (H2::connect(&lb.web()), H2::connect(&lb.web()));
    for client in [&first, &second, &first] {
        assert_eq!(client.get("/asked").text(), "app-1");
    }
    let requests = origin.requests();
    let on: Vec<_> =
        requests.iter().filter(|seen| seen.path == "/asked").map(|seen| seen.connection).collect();
    // A connection is one client's, and all its requests share it.
    assert!(on[0] == on[2] && on[0] != on[1], "{on:?}");
    let headers = origin.headers();
    assert!(headers[on[0]].starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "), "{headers:?}");
    assert_ne!(headers[on[0]], headers[on[1]]);
}

#[test]
fn a_request_that_is_cut_off_with_its_connection_leaves_nothing_behind() {
    let (origin, journal) = (Origin::scripted("app-1", |_| Reply::Hang), Journal::new());
    let filters = [journal.probe("a", "")];
    let balancer = one_route(&app(), &filters, &[origin.entry()], "listener.h2c: true");
    let client = H2::connect(&web(&balancer));
    let stream = client.begin(get("/"), true);
    eventually("the backend has the request", || origin.working() == 1);
    // Its tasks end where they are.
    drop(balancer);
    assert_eq!(journal.with("dropped").len(), 1, "{:?}", journal.events());
    drop(stream);
}
