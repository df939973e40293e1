//! Filters that read or change bodies, through the real proxy in this process.

use crate::support::{
    Client, Origin, Reply, eventually,
    h2::{H2, asking},
    h2_origin::H2Origin,
    probe::{Journal, app, client, logged, one_route, web},
    request,
};
use bytes::Bytes;
use pingora_lb::{
    filter::{
        Filter, Flow, Request, RequestBody, Response, ResponseBody, Result, SettingsError, Setup,
        settings::Size,
    },
    testing::Balancer,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::time::Duration;

/// Reads bodies ahead, and tells the backend what it has read.
struct Reader {
    limit: usize,
    shrug: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReaderSettings {
    limit: Size,
    /// Goes on where a body is too long.
    #[serde(default)]
    shrug: bool,
}

impl Filter for Reader {
    const NAME: &'static str = "reader";
    type Settings = ReaderSettings;

    fn new(settings: ReaderSettings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        let limit = usize::try_from(*settings.limit).unwrap();
        Ok(Self { limit, shrug: settings.shrug })
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Result {
        match request.body(self.limit).await {
            Ok(body) => {
                // Asking again costs nothing and gives the same.
                assert_eq!(request.body(self.limit).await?, body);
                let sum: u64 = body.iter().map(|byte| u64::from(*byte)).sum();
                request.set_header("x-read", format!("{}:{sum}", body.len()))?;
            }
            Err(_) if self.shrug => request.set_header("x-read", "too long")?,
            Err(failure) => return Err(failure),
        }
        Ok(Flow::Continue)
    }
}

fn reading(limit: &str, origin: &Origin, more: &str) -> (Balancer, Journal) {
    let journal = Journal::new();
    let filters = [journal.probe("a", ""), format!("- reader: {{ limit: {limit} }}")];
    let more = format!("pool.health_check: off\n{more}");
    (one_route(&app().filter::<Reader>(), &filters, &[origin.entry()], &more), journal)
}

fn sum(body: &[u8]) -> String {
    format!("{}:{}", body.len(), body.iter().map(|byte| u64::from(*byte)).sum::<u64>())
}

/// A body in chunks of that many bytes.
fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in body.chunks(size) {
        bytes.extend(format!("{:x}\r\n", piece.len()).bytes().chain(piece.iter().copied()));
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

#[test]
fn a_body_that_was_read_ahead_reaches_the_backend() {
    let origin = Origin::named("origin");
    let (balancer, journal) = reading("64KiB", &origin, "");
    let mut client = client(&balancer);
    let bodies: Vec<Vec<u8>> = [0, 1, 5_000, 65_535, 65_536]
        .map(|length: usize| (0..length).map(|at| (at % 251) as u8).collect())
        .to_vec();
    for body in &bodies {
        let (length, big) = (body.len(), chunked(body, 10_000));
        let counted = format!("content-length: {length}");
        for bytes in [
            request("POST", "/", &[&counted], body),
            request("POST", "/", &["transfer-encoding: chunked"], &big),
        ] {
            assert_eq!(client.ask(bytes).status, 200, "{length}");
            let sent = origin.last_request();
            assert_eq!(sent.headers.get("x-read"), Some(sum(body).as_str()), "{length}");
            assert!(sent.body == *body && sent.complete, "{length}");
        }
    }
    assert_eq!(origin.count(), 2 * bodies.len());
    eventually("logged", || journal.with("a log 200 ok").len() == 2 * bodies.len());
    assert!(!journal.with("in=65536 out=6").is_empty(), "{:?}", journal.with("a log"));
}

#[test]
fn a_body_above_the_limit_is_refused() {
    let origin = Origin::named("origin");
    let (balancer, journal) = reading("1KiB", &origin, "");
    let long = vec![b'x'; 1025];
    let announced = request("POST", "/", &["content-length: 1025"], &long);
    let chunks = request("POST", "/", &["transfer-encoding: chunked"], &chunked(&long, 100));
    for bytes in [&announced, &chunks] {
        let mut client = client(&balancer);
        let answer = client.ask(bytes);
        assert_eq!((answer.status, answer.headers.all("x-probe")), (413, vec!["a"]));
        assert!(answer.text().contains("denied"), "{}", answer.text());
        // What is left of the body is read and thrown away.
        assert_eq!(client.ask(request("POST", "/", &[], b"short")).status, 200);
    }
    assert_eq!(journal.with("a response 413 denied").len(), 2);
    // Whoever waits for a 100 is told at once, and sends nothing.
    let mut waiting = client(&balancer);
    let fields = ["content-length: 1025", "expect: 100-continue"];
    waiting.send(request("POST", "/", &fields, b""));
    assert_eq!(waiting.head().status, 413);
    assert_eq!(origin.count(), 2);
}

#[test]
fn a_limit_above_what_is_kept_is_that() {
    let origin = Origin::named("origin");
    let (balancer, _) = reading("1MiB", &origin, "");
    let long = vec![b'x'; 65_537];
    let answer = client(&balancer).ask(request("POST", "/", &[], &long));
    assert_eq!(answer.status, 413);
    let chunks = request("POST", "/", &["transfer-encoding: chunked"], &chunked(&long, 65_537));
    assert_eq!(client(&balancer).ask(chunks).status, 413);
    assert_eq!(origin.count(), 0);
}

#[test]
fn what_was_read_and_lost_is_never_sent() {
    let origin = Origin::named("origin");
    let filters = ["- reader: { limit: 64KiB, shrug: true }".to_owned()];
    let balancer = one_route(&app().filter::<Reader>(), &filters, &[origin.entry()], "");
    // The length is known: nothing was read, so nothing is lost.
    let long = vec![b'x'; 100_000];
    assert_eq!(client(&balancer).ask(request("POST", "/", &[], &long)).status, 200);
    let sent = origin.only_request();
    assert_eq!((sent.body_length, sent.headers.get("x-read")), (100_000, Some("too long")));
    let chunks = request("POST", "/", &["transfer-encoding: chunked"], &chunked(&long, 10_000));
    assert_eq!(client(&balancer).ask(chunks).status, 413);
    assert_eq!(origin.count(), 1);
}

#[test]
fn a_client_that_waits_for_a_100_gets_it_from_the_filter() {
    let origin = Origin::named("origin");
    let (balancer, _) = reading("1KiB", &origin, "");
    let mut client = client(&balancer);
    client.send(request("POST", "/", &["content-length: 5", "expect: 100-continue"], b""));
    assert_eq!(client.head().status, 100);
    client.send("hello");
    assert_eq!(client.response().status, 200);
    let sent = origin.only_request();
    assert_eq!((sent.body.as_slice(), sent.headers.get("x-read")), (&b"hello"[..], Some("5:532")));
    assert!(!sent.headers.has("expect"));
    assert_eq!(client.get("/").status, 200, "the connection lives on");
}

#[test]
fn a_body_that_was_read_ahead_is_sent_again() {
    let dying = Origin::scripted("dying", |_| Reply::close());
    let origin = Origin::named("origin");
    let filters = ["- reader: { limit: 64KiB }".to_owned()];
    let more = "pool.retry: { attempts: 1, on: [reset], backoff: { base: 1ms, max: 1ms } }
        pool.health_check: off";
    let backends = [dying.entry(), origin.entry_with("backup: true")];
    let balancer = one_route(&app().filter::<Reader>(), &filters, &backends, more);
    let body = vec![b'x'; 65_536];
    let answer = client(&balancer).ask(request("PUT", "/", &[], &body));
    assert_eq!((answer.status, answer.backend().as_str()), (200, "origin"));
    assert_eq!(dying.only_request().body_length, 65_536);
    assert_eq!(origin.only_request().body_length, 65_536);
}

#[test]
fn a_client_that_leaves_or_stalls_while_its_body_is_read() {
    let origin = Origin::named("origin");
    let (balancer, journal) = reading("1KiB", &origin, "listener.timeouts: { body_idle: 100ms }");
    let begun = || journal.with("a request").len();
    let mut leaving = client(&balancer);
    leaving.send(request("POST", "/", &["content-length: 10"], b"12345"));
    eventually("the first request has begun", || begun() == 1);
    leaving.reset();
    let line = journal.wait_for("a log 499 client_aborted");
    assert!(line.contains("tries=0"), "{line}");

    let mut stalling = client(&balancer);
    stalling.send(request("POST", "/", &["content-length: 10"], b"12345"));
    let answer = stalling.response();
    assert_eq!((answer.status, answer.headers.all("x-probe")), (408, vec!["a"]));
    assert!(stalling.is_closed());
    journal.wait_for("a log 408 client_timeout");

    let mut malformed = client(&balancer);
    malformed.send(request("POST", "/", &["transfer-encoding: chunked"], b"zz\r\n"));
    assert_eq!(malformed.response().status, 400);
    journal.wait_for("a log 400 bad_request");
    assert_eq!(origin.count(), 0);
    eventually("all is dropped", || journal.with("a dropped").len() == 3);
}

#[test]
fn a_route_that_is_out_of_time_while_a_body_is_read_is_given_up() {
    let origin = Origin::named("origin");
    let (balancer, journal) = reading("1KiB", &origin, "route.timeout: 100ms");
    let mut client = client(&balancer);
    client.send(request("POST", "/", &["content-length: 10"], b"12345"));
    let answer = client.response();
    assert_eq!((answer.status, answer.headers.all("x-probe")), (504, vec!["a"]));
    journal.wait_for("a log 504 upstream_timeout");
}

/// Writes each byte of a body so many times.
struct Repeat {
    times: usize,
    announce: bool,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RepeatSettings {
    times: usize,
    /// Whether it says that it changes the length.
    announce: bool,
}

impl Repeat {
    fn of(&self, data: &Bytes) -> Bytes {
        data.iter()
            .flat_map(|byte| std::iter::repeat_n(byte.to_ascii_uppercase(), self.times))
            .collect()
    }
}

impl Filter for Repeat {
    const NAME: &'static str = "repeat";
    type Settings = RepeatSettings;

    fn new(settings: RepeatSettings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        Ok(Self { times: settings.times, announce: settings.announce })
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Result {
        if self.announce {
            request.will_change_body();
        }
        Ok(Flow::Continue)
    }

    async fn on_request_body(&self, piece: &mut RequestBody<'_>) -> Result {
        let data = self.of(piece.data());
        piece.replace(data);
        Ok(Flow::Continue)
    }

    async fn on_response(&self, response: &mut Response<'_>) -> Result {
        if self.announce {
            response.will_change_body();
        }
        Ok(Flow::Continue)
    }

    fn on_response_body(&self, piece: &mut ResponseBody<'_>) -> Result<()> {
        let data = self.of(piece.data());
        piece.replace(data);
        Ok(())
    }
}

fn repeating(times: usize, announce: bool, origin: &Origin) -> (Balancer, Journal) {
    let journal = Journal::new();
    let repeat = format!("- repeat: {{ times: {times}, announce: {announce} }}");
    let filters = [journal.probe("a", ""), repeat];
    (one_route(&app().filter::<Repeat>(), &filters, &[origin.entry()], ""), journal)
}

#[test]
fn a_request_body_changes_its_length_if_that_was_said() {
    let origin = Origin::scripted("origin", |_| Reply::status(204));
    for times in [2, 1, 0] {
        let (balancer, _) = repeating(times, true, &origin);
        let mut client = client(&balancer);
        let whole = request("POST", "/", &[], b"hello");
        let chunks = request("POST", "/", &["transfer-encoding: chunked"], &chunked(b"hello", 2));
        for bytes in [whole, chunks] {
            assert_eq!(client.ask(bytes).status, 204, "{times}");
            let sent = origin.last_request();
            let expected: Vec<u8> = b"HELLO".iter().flat_map(|b| vec![*b; times]).collect();
            assert_eq!(sent.body, expected, "{times}");
            assert!(sent.complete && !sent.headers.has("content-length"), "{sent:?}");
        }
        // A request without a body stays one.
        assert_eq!(client.get("/").status, 204);
        let sent = origin.last_request();
        assert!(!sent.headers.has("transfer-encoding") && sent.body.is_empty(), "{sent:?}");
    }
}

#[test]
fn a_request_body_keeps_its_length_unless_that_was_said() {
    let origin = Origin::scripted("origin", |_| Reply::status(204));
    let (balancer, _) = repeating(1, false, &origin);
    assert_eq!(client(&balancer).ask(request("POST", "/", &[], b"hello")).status, 204);
    let sent = origin.only_request();
    assert_eq!(
        (sent.body.as_slice(), sent.headers.get("content-length")),
        (&b"HELLO"[..], Some("5"))
    );
    for times in [0, 2] {
        let (balancer, journal) = repeating(times, false, &origin);
        let mut client = client(&balancer);
        let answer = client.ask(request("POST", "/", &[], b"hello"));
        assert_eq!(answer.status, 500, "{times}");
        let line = journal.wait_for("a log 500 internal_error");
        let told = logged(line.rsplit(' ').next().unwrap());
        assert!(
            told[0]
                .contains("filter repeat failed in its request body hook: it changed the length")
        );
        assert_eq!(client.get("/").status, 204, "{times}");
    }
    let whole = origin
        .requests()
        .iter()
        .filter(|request| request.complete && request.body_length > 0)
        .count();
    assert_eq!(whole, 1, "no backend has got a body of another length");
}

/// An origin that answers in all the ways in which a body can end.
fn bodies() -> Origin {
    Origin::scripted("origin", |request| match request.path() {
        "/length" => Reply::text("hello"),
        "/chunks" => Reply::raw(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
        ),
        "/close" => Reply::RawThenClose(b"HTTP/1.1 200 OK\r\n\r\nhello".to_vec()),
        "/none" => Reply::status(204),
        path => panic!("{path}"),
    })
}

#[test]
fn a_response_body_changes_its_length_if_that_was_said() {
    let origin = bodies();
    for times in [2, 0] {
        let (balancer, journal) = repeating(times, true, &origin);
        let mut client = client(&balancer);
        let expected = if times == 2 { "HHEELLLLOO" } else { "" };
        for path in ["/length", "/chunks", "/close"] {
            let answer = client.get(path);
            assert!(answer.status == 200 && answer.complete, "{path}");
            assert_eq!(answer.text(), expected, "{path}");
            assert!(answer.headers.lists("transfer-encoding", "chunked"), "{path}");
        }
        let none = client.get("/none");
        assert_eq!((none.status, none.headers.has("transfer-encoding")), (204, false));
        client.send(request("HEAD", "/length", &[], b""));
        let head = client.response_to_head();
        assert_eq!((head.status, head.headers.has("content-length")), (200, false));
        assert_eq!(client.get("/length").text(), expected, "the connection lives on");
        eventually("logged", || journal.with("a log").len() == 6);
        let out = format!(" out={} ", expected.len());
        assert!(journal.with("a log")[0].contains(&out), "{:?}", journal.with("a log"));
    }
}

#[test]
fn a_client_of_http_1_0_sees_the_end_of_a_changed_body_with_its_connection() {
    let origin = bodies();
    let (balancer, _) = repeating(2, true, &origin);
    for path in ["/length", "/chunks", "/close"] {
        let mut client = client(&balancer);
        client.send(format!("GET {path} HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"));
        let answer = client.response();
        assert_eq!((answer.status, answer.text().as_str()), (200, "HHEELLLLOO"), "{path}");
        assert!(!answer.headers.has("transfer-encoding"), "{path}");
        assert!(!answer.headers.has("content-length"), "{path}");
        assert!(client.is_closed(), "{path}");
    }
}

#[test]
fn a_response_body_breaks_off_if_its_length_changes_unsaid() {
    let origin = Origin::scripted("origin", |_| {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
        Reply::Pieces(vec![
            (Duration::ZERO, head.as_bytes().to_vec()),
            (Duration::from_millis(30), b"hello".to_vec()),
        ])
    });
    let (balancer, journal) = repeating(2, false, &origin);
    let mut client = client(&balancer);
    let answer = client.get("/");
    assert_eq!((answer.status, answer.complete), (200, false));
    assert!(client.is_closed());
    let line = journal.wait_for("a log 200 internal_error");
    let told = logged(line.rsplit(' ').next().unwrap());
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("filter repeat failed in its response body hook: it changed the length")
    );
}

#[test]
fn a_response_that_fails_before_its_head_has_gone_out_becomes_a_500() {
    let origin = bodies();
    let (balancer, journal) = repeating(2, false, &origin);
    let mut client = client(&balancer);
    // Head and body come in one piece, so that nothing was sent yet when the hook fails. Should they
    // come in two, the response breaks off.
    let answer = client.get("/length");
    assert!(answer.status == 500 && answer.complete || answer.status == 200 && !answer.complete);
    let line = journal.wait_for("internal_error");
    assert!(line.starts_with(&format!("a log {} ", answer.status)), "{line}");
    // A filter sees one response of a request.
    assert_eq!(journal.with("a response ").len(), 1, "{:?}", journal.events());
}

#[test]
fn own_answers_have_bodies_that_filters_change() {
    let origin = Origin::named("origin");
    let journal = Journal::new();
    let filters = [
        "- repeat: { times: 2, announce: true }".to_owned(),
        journal.probe("a", "on: { request: { answer: 403 } }"),
    ];
    let balancer = one_route(&app().filter::<Repeat>(), &filters, &[origin.entry()], "");
    let mut client = client(&balancer);
    let answer = client.get("/");
    assert!(answer.text().starts_with("440033  FFOORRBBIIDDDDEENN"), "{}", answer.text());
    let length = answer.headers.get("content-length").unwrap().to_owned();
    assert_eq!(length, answer.body.len().to_string());
    client.send(request("HEAD", "/", &[], b""));
    let head = client.response_to_head();
    assert_eq!((head.status, head.headers.get("content-length")), (403, Some(length.as_str())));
    assert_eq!(client.get("/").status, 403);

    // If the filter breaks the rule here, the client gets the answer as it was.
    let filters = [
        "- repeat: { times: 2, announce: false }".to_owned(),
        journal.probe("b", "on: { request: { answer: 403 } }"),
    ];
    let balancer = one_route(&app().filter::<Repeat>(), &filters, &[origin.entry()], "");
    let answer = crate::support::probe::client(&balancer).get("/");
    assert!(answer.text().starts_with("403 Forbidden: denied"), "{}", answer.text());
    journal.wait_for("b log 403 denied");
}

#[test]
fn a_body_that_streams_goes_through_piece_by_piece() {
    let origin = Origin::scripted("origin", |_| Reply::EchoStream);
    let (balancer, journal) = repeating(2, true, &origin);
    let mut client: Client = client(&balancer);
    client.send(request("POST", "/", &["transfer-encoding: chunked"], b"2\r\nab\r\n"));
    assert_eq!(client.head().status, 200);
    // Doubled on the way in, and doubled on the way out.
    let mut echoed = Vec::new();
    while echoed.len() < 8 {
        echoed.extend(client.chunk());
    }
    assert_eq!(echoed, b"AAAABBBB");
    client.send("1\r\nc\r\n0\r\n\r\n");
    let mut rest = Vec::new();
    while rest.len() < 4 {
        rest.extend(client.chunk());
    }
    assert_eq!(rest, b"CCCC");
    assert_eq!(client.chunk(), b"");
    let line = journal.wait_for("a log 200 ok");
    assert!(line.contains("in=3 out=12"), "{line}");
    assert_eq!(journal.with("a request_body 2+").len(), 1, "{:?}", journal.events());
}

#[test]
fn bodies_over_http2_are_read_ahead_by_the_same_rules() {
    let origin = Origin::named("origin");
    let (balancer, journal) = reading("64KiB", &origin, "listener.h2c: true");
    let client = H2::connect(&web(&balancer));
    for length in [0, 1, 5_000, 65_535, 65_536] {
        let body: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        let counted = asking("POST", "/").header("content-length", length).body(()).unwrap();
        for head in [counted, asking("POST", "/").body(()).unwrap()] {
            assert_eq!(client.ask(head, &body).unwrap().status, 200, "{length}");
            let sent = origin.last_request();
            assert_eq!(sent.headers.get("x-read"), Some(sum(&body).as_str()), "{length}");
            assert!(sent.body == body && sent.complete, "{length}");
        }
    }
    let long = vec![b'x'; 65_537];
    let answer = client.ask(asking("POST", "/").body(()).unwrap(), &long).unwrap();
    assert_eq!((answer.status.as_u16(), answer.field("x-probe")), (413, "a"));
    journal.wait_for("a log 413 denied");
    assert_eq!(origin.count(), 10);
}

#[test]
fn bodies_change_their_length_over_http2_on_either_side() {
    let old = Origin::named("hi");
    let new = H2Origin::scripted("hi", |mut asked| async move {
        let body = asked.read().await;
        asked.answer(body);
    });
    let repeat = ["- repeat: { times: 2, announce: true }".to_owned()];
    let app = app().filter::<Repeat>();
    let more = "listener.h2c: true\npool.health_check: off";
    let both = format!("{more}\npool.protocol: http2");
    let to_old = one_route(&app, &repeat, &[old.entry()], more);
    let to_new = one_route(&app, &repeat, &[new.entry()], &both);
    let asked = || asking("POST", "/").header("content-length", 5).body(()).unwrap();
    let answer = H2::connect(&web(&to_old)).ask(asked(), b"hello").unwrap();
    assert_eq!(answer.text(), "HHII");
    let sent = old.only_request();
    assert_eq!((sent.body.as_slice(), sent.complete), (&b"HHEELLLLOO"[..], true));
    assert!(!sent.headers.has("content-length"), "{sent:?}");
    let answer = H2::connect(&web(&to_new)).ask(asked(), b"hello").unwrap();
    assert_eq!(answer.text(), "HHHHEEEELLLLLLLLOOOO");
    let answer = client(&to_new).ask(request("POST", "/", &[], b"hello"));
    assert_eq!((answer.text().as_str(), answer.complete), ("HHHHEEEELLLLLLLLOOOO", true));
    assert!(new.requests().iter().all(|seen| !seen.headers.contains_key("content-length")));
}
