//! Whatever happens, what is counted and what is logged agree.

use super::{ADMIN, Scrape};
use crate::support::{
    Client, Config, Lb, Origin, Raw, Reply, Reserved, SOON, eventually,
    h2::{self, Frames, H2},
    request, within,
};
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

/// All kinds of ends, on all kinds of listeners.
fn everything(origin: &Origin, raw: &Raw) -> Lb {
    let dead = Reserved::new();
    let text = format!(
        "listeners:\n\
         \x20 web: {{ address: \"@WEB@\", h2c: true, timeouts: {{ header: 300ms }} }}\n\
         \x20 stream: {{ address: \"@3@\", protocol: tcp, pool: raw }}\n\
         \x20 nowhere: {{ address: \"@4@\", protocol: tcp, pool: down }}\n\
         pools:\n\
         \x20 app:\n\
         \x20   backends: [{}]\n\
         \x20   health_check: off\n\
         \x20   ejection: off\n\
         \x20   timeouts: {{ read: 300ms }}\n\
         \x20 dead: {{ backends: [{}], health_check: off }}\n\
         \x20 down: {{ backends: [{}] }}\n\
         \x20 raw: {{ backends: [{}], health_check: off }}\n\
         routes:\n\
         \x20 - {{ name: dead, match: {{ path: /dead }}, pool: dead }}\n\
         \x20 - {{ name: down, match: {{ path: /down }}, pool: down }}\n\
         \x20 - {{ name: late, match: {{ path: /late }}, pool: app, timeout: 200ms }}\n\
         \x20 - {{ name: fixed, match: {{ path: /fixed }}, respond: {{ status: 204 }} }}\n\
         \x20 - {{ name: app, match: {{ path_prefix: /app }}, pool: app }}\n\
         {ADMIN}",
        origin.entry(),
        dead.address(),
        dead.address(),
        raw.entry(),
    );
    Config::new(text).access_log().start()
}

fn origin() -> Origin {
    Origin::scripted("app-1", |request| match request.path() {
        "/app/500" => Reply::status(500),
        "/app/reset" => Reply::reset(),
        "/app/silent" | "/late" => Reply::Hang,
        "/app/slow" => Reply::text("slow").after(Duration::from_secs(5)),
        "/app/cut" => Reply::RawThenClose(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx".into()),
        _ => Reply::text("fine"),
    })
}

/// The lines of the access log, those of the readiness probe included.
fn lines(lb: &Lb) -> Vec<Value> {
    let log = lb.read("access.log");
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text<'a>(line: &'a Value, key: &str) -> &'a str {
    line[key].as_str().unwrap_or("")
}

/// What the metrics should be by the lines of the access log.
fn expected(lines: &[Value]) -> BTreeMap<String, f64> {
    const KNOWN: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    let mut sums = BTreeMap::new();
    let mut add = |series: String, value: f64| *sums.entry(series).or_insert(0.0) += value;
    for line in lines {
        let (listener, pool) = (text(line, "listener"), text(line, "pool"));
        let own = format!("listener=\"{listener}\"");
        if text(line, "protocol") == "TCP" {
            let reason = text(line, "reason");
            add(format!("connections_total{{{own},pool=\"{pool}\",reason=\"{reason}\"}}"), 1.0);
            add(format!("connection_duration_seconds_count{{{own},pool=\"{pool}\"}}"), 1.0);
        } else {
            let (route, status) = (text(line, "route"), &line["status"]);
            let method = Some(text(line, "method")).filter(|method| KNOWN.contains(method));
            let method = method.unwrap_or("other");
            add(
                format!(
                    "requests_total{{{own},route=\"{route}\",pool=\"{pool}\",method=\"{method}\",status=\"{status}\"}}"
                ),
                1.0,
            );
            add(format!("request_duration_seconds_count{{route=\"{route}\"}}"), 1.0);
        }
        for (name, key) in [("received", "bytes_in"), ("sent", "bytes_out")] {
            let bytes = line[key].as_f64().unwrap();
            add(format!("downstream_{name}_bytes_total{{{own}}}"), bytes);
        }
    }
    sums.retain(|_, value| *value > 0.0);
    sums
}

/// The same metrics as they are.
fn counted(scrape: &Scrape) -> BTreeMap<String, f64> {
    let names = [
        "requests_total",
        "request_duration_seconds_count",
        "connections_total",
        "connection_duration_seconds_count",
        "downstream_received_bytes_total",
        "downstream_sent_bytes_total",
    ];
    let all = scrape.0.iter().map(|(key, value)| (key.trim_start_matches("pingora_lb_"), *value));
    all.filter(|(key, value)| names.contains(&key.split('{').next().unwrap()) && *value > 0.0)
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

#[track_caller]
fn assert_agreement(lb: &Lb, at_least: usize) {
    eventually(&format!("{at_least} lines"), || lines(lb).len() >= at_least);
    let agree = || expected(&lines(lb)) == counted(&Scrape::of(lb));
    if !within(SOON, agree) {
        let (expected, counted) = (expected(&lines(lb)), counted(&Scrape::of(lb)));
        panic!("logged: {expected:#?}\ncounted: {counted:#?}");
    }
}

fn over_http1(lb: &Lb) -> usize {
    let cases = [
        ("GET", "/app", 200),
        ("HEAD", "/app", 200),
        ("POST", "/app/500", 500),
        ("BREW", "/app", 200),
        ("POST", "/app/reset", 502),
        ("GET", "/app/silent", 504),
        ("GET", "/late", 504),
        ("GET", "/app/cut", 200),
        ("GET", "/dead", 502),
        ("GET", "/down", 503),
        ("GET", "/fixed", 204),
        ("PUT", "/nowhere", 404),
        ("TRACE", "/app", 405),
    ];
    for (method, path, status) in cases {
        let mut client = lb.client();
        client.send(request(method, path, &[], b"body"));
        assert_eq!(client.head().status, status, "{method} {path}");
    }
    let malformed = [
        "GET /app HTTP/1.1\r\n\r\n",
        "GET /app HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        "NONSENSE\r\n\r\n",
        "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n",
        // It times out: its head does not come to its end.
        "GET /app HTTP/1.1\r\n",
    ];
    for bytes in malformed {
        assert!(lb.client().ask(bytes).status >= 400, "{bytes:?}");
    }
    let mut leaving = lb.client();
    leaving.send(request("GET", "/app/slow", &[], b""));
    leaving.reset();
    cases.len() + malformed.len()
}

fn over_http2(lb: &Lb) -> usize {
    let h2 = H2::connect(&lb.web());
    for (path, status) in
        [("/app", 200), ("/dead", 502), ("/late", 504), ("/fixed", 204), ("/x", 404), ("/%00", 400)]
    {
        assert_eq!(h2.get(path).status.as_u16(), status, "{path}");
    }
    h2.ask(h2::asking("POST", "/app").body(()).unwrap(), &[b'x'; 1000]).unwrap();
    let mut frames = Frames::connect(&lb.web());
    frames.get(1, "/app/slow");
    frames.send(h2::RST_STREAM, 0, 1, &8_u32.to_be_bytes());
    8
}

fn over_tcp(lb: &Lb, raw: &Raw) -> usize {
    for leaves_first in [true, false] {
        let mut client = Client::connect(&lb.extra(3));
        client.send("hello");
        let mut backend = raw.accept();
        assert_eq!(backend.exactly(5), b"hello");
        backend.send("good day");
        assert_eq!(client.exactly(8), b"good day");
        if leaves_first {
            client.reset();
        } else {
            drop(backend);
            assert!(client.is_closed());
        }
    }
    assert!(Client::connect(&lb.extra(4)).is_closed());
    3
}

#[test]
fn every_line_of_the_log_is_counted_and_nothing_else() {
    let (origin, raw) = (origin(), Raw::named("raw"));
    let lb = everything(&origin, &raw);
    let done = over_http1(&lb) + 1 + over_http2(&lb) + over_tcp(&lb, &raw);
    assert_agreement(&lb, done);
    let reasons: Vec<_> = lines(&lb).iter().map(|it| text(it, "reason").to_owned()).collect();
    for reason in [
        "ok",
        "no_route",
        "no_healthy_backend",
        "connect_failed",
        "upstream_timeout",
        "upstream_reset",
        "upstream_truncated",
        "bad_request",
        "client_timeout",
        "client_aborted",
    ] {
        assert!(reasons.iter().any(|other| other == reason), "{reason} has not happened");
    }
    // Each try is counted where it was made.
    let tries: u64 = lines(&lb).iter().map(|line| line["tries"].as_u64().unwrap()).sum();
    let scrape = Scrape::of(&lb);
    assert_eq!(scrape.sum("upstream_requests_total", &[]) as u64, tries);
    let own: f64 = scrape.sum("responses_local_total", &[]);
    let local = lines(&lb).into_iter().filter(|line| {
        let by_backend = ["ok", "upstream_truncated"].contains(&text(line, "reason"))
            && !text(line, "backend").is_empty();
        text(line, "protocol") != "TCP" && !by_backend && text(line, "reason") != "client_aborted"
    });
    assert!(own as usize == local.count(), "{own} answers of our own");
}
