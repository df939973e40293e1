//! Everything at once, for as long as one likes: all kinds of traffic while backends fail, come and go,
//! the configuration changes and the log is rotated. At the end every request is accounted for, by
//! its client, in the log and in the metrics, and the process is no larger than it was.
//!
//! `make soak` is the long form, for `PINGORA_LB_SOAK_SECONDS`.

use crate::{
    metrics::Scrape,
    support::{
        Authority, Client, Config, Lb, Origin, Reply, Response, SOON, TlsClient, eventually,
        h2::H2, request, within,
    },
};
use rustix::process::Signal;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs, io,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const NAME: &str = "soak.example";

/// How requests and connections ended, and how many so: `200 ok`, `TCP ok`.
type Tally = BTreeMap<String, usize>;

/// How long it goes on: seconds in the suite.
fn length() -> Duration {
    let seconds = std::env::var("PINGORA_LB_SOAK_SECONDS").ok();
    Duration::from_secs(seconds.map_or(4, |seconds| seconds.parse().expect("whole seconds")))
}

/// The servers behind the balancer.
struct Servers {
    /// Answer; the second is taken out and put back, the third is killed and started again.
    app: [Origin; 3],
    /// Answers, echoes and tunnels.
    steady: Origin,
    /// Fails in the way that the path says.
    bad: Origin,
    /// Never answers.
    silent: Origin,
}

impl Servers {
    fn new() -> Self {
        Self {
            app: ["a", "b", "c"].map(Origin::named),
            steady: Origin::scripted("steady", |request| {
                if request.headers.has("upgrade") { Reply::Upgrade } else { Reply::EchoStream }
            }),
            bad: Origin::scripted("bad", |request| match request.path() {
                "/bad/reset" => Reply::reset(),
                "/bad/cut" => {
                    Reply::RawThenClose(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx".into())
                }
                "/bad/head" => Reply::RawThenClose(b"HTTP/1.1 200 OK\r\nconte".into()),
                "/bad/garbage" => Reply::RawThenClose(b"\x16\x03\x01 what is this\r\n\r\n".into()),
                "/bad/503" => Reply::status(503),
                _ => Reply::Hang,
            }),
            silent: Origin::scripted("silent", |_| Reply::Hang),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Origin> {
        self.app.iter().chain([&self.steady, &self.bad, &self.silent])
    }

    fn configuration(&self) -> String {
        let [a, b, c] = self.app.each_ref().map(Origin::entry);
        let (steady, bad, silent) = (self.steady.entry(), self.bad.entry(), self.silent.entry());
        format!(
            "admin: {{ address: \"@2@\", hosts: [test.example] }}\n\
             listeners:\n\
             \x20 web: {{ address: \"@WEB@\" }}\n\
             \x20 tls: {{ address: \"@3@\", tls: {{ certificates: [{{ cert: a.pem, key: a.key }}] }} }}\n\
             \x20 stream: {{ address: \"@4@\", protocol: tcp, pool: raw }}\n\
             pools:\n\
             \x20 app:\n\
             \x20   backends: [{a}, {b}, {c}]\n\
             \x20   balance: p2c\n\
             \x20   slow_start: 1s\n\
             \x20   health_check: {{ interval: 100ms, timeout: 5s, rise: 1, fall: 1 }}\n\
             \x20   ejection: {{ base_time: 100ms, max_time: 100ms }}\n\
             \x20   retry: {{ budget: {{ percent: 100% }} }}\n\
             \x20 steady: {{ backends: [{steady}] }}\n\
             \x20 raw: {{ backends: [{steady}] }}\n\
             \x20 bad: {{ backends: [{bad}], ejection: off, retry: {{ attempts: 0 }} }}\n\
             \x20 silent: {{ backends: [{silent}] }}\n\
             routes:\n\
             \x20 - {{ name: app, match: {{ path_prefix: /app }}, pool: app }}\n\
             \x20 - {{ name: steady, match: {{ path_prefix: /steady }}, pool: steady, filters: [{{ response_headers: {{ set: {{ x-soak: \"1\" }} }} }}] }}\n\
             \x20 - {{ name: bad, match: {{ path_prefix: /bad }}, pool: bad }}\n\
             \x20 - {{ name: late, match: {{ path_prefix: /late }}, pool: bad, timeout: 100ms }}\n\
             \x20 - {{ name: silent, match: {{ path_prefix: /silent }}, pool: silent }}\n"
        )
    }
}

/// What clients have been told.
#[derive(Default)]
struct Told {
    over: AtomicBool,
    done: AtomicUsize,
    ends: Mutex<Tally>,
    surprises: Mutex<Vec<String>>,
}

impl Told {
    /// Does one thing after another until it is over.
    fn keep(&self, mut act: impl FnMut() -> Result<String, String>) {
        while !self.over.load(Ordering::Relaxed) {
            match act() {
                Ok(end) => *self.ends.lock().unwrap().entry(end).or_insert(0) += 1,
                Err(surprise) => self.surprises.lock().unwrap().push(surprise),
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn wait_for_more(&self, requests: usize) {
        let goal = self.done.load(Ordering::Relaxed) + requests;
        eventually(&format!("{requests} more requests"), || {
            self.done.load(Ordering::Relaxed) >= goal
        });
    }

    fn surprises(&self) -> Vec<String> {
        self.surprises.lock().unwrap().clone()
    }
}

/// What a client says of an answer from which this was expected.
fn judged(
    what: &str,
    asked: io::Result<Response>,
    expected: (u16, &str),
    body: Option<&[u8]>,
) -> Result<String, String> {
    let response = asked.map_err(|error| format!("{what}: {error}"))?;
    let whole = body.is_none_or(|body| response.complete && response.body == body);
    if response.status != expected.0 || !whole {
        let (status, text) = (response.status, response.text());
        return Err(format!("{what}: {status}, complete: {}: {text:.100}", response.complete));
    }
    Ok(format!("{} {}", expected.0, expected.1))
}

/// A client that keeps its connection for as long as it may.
struct Kept<F> {
    connect: F,
    client: Option<Client>,
}

impl<F: FnMut() -> io::Result<Client>> Kept<F> {
    fn ask(&mut self, bytes: &[u8]) -> io::Result<Response> {
        let mut client = match self.client.take() {
            Some(client) => client,
            None => (self.connect)()?,
        };
        client.try_send(bytes)?;
        let response = client.try_response()?;
        if !response.headers.lists("connection", "close") {
            self.client = Some(client);
        }
        Ok(response)
    }
}

/// All that clients of a balancer do at once.
struct Clients<'a> {
    lb: &'a Lb,
    servers: &'a Servers,
    tls: &'a TlsClient,
    told: &'a Told,
}

impl Clients<'_> {
    fn over_http1(&self, close: bool) {
        let mut kept = Kept { connect: || Client::try_connect(&self.lb.web()), client: None };
        let fields: &[&str] = if close { &["Connection: close"] } else { &[] };
        let mut number = 0;
        self.told.keep(|| {
            number += 1;
            if number % 2 == 0 {
                let body = format!("body {number}").repeat(1 + number % 500);
                let post = request("POST", "/steady/echo", fields, body.as_bytes());
                return judged("POST", kept.ask(&post), (200, "ok"), Some(body.as_bytes()));
            }
            judged("GET", kept.ask(&request("GET", "/app", fields, b"")), (200, "ok"), None)
        });
    }

    fn over_tls(&self) {
        let connect = || Client::try_connect_tls(&self.lb.extra(3), self.tls, NAME);
        let mut kept = Kept { connect, client: None };
        let mut number = 0;
        self.told.keep(|| {
            number += 1;
            let fields: &[&str] = if number % 10 == 0 { &["Connection: close"] } else { &[] };
            judged("TLS", kept.ask(&request("GET", "/app", fields, b"")), (200, "ok"), None)
        });
    }

    fn over_http2(&self) {
        let mut number = 0;
        let mut connection = None;
        self.told.keep(|| {
            number += 1;
            if number % 100 == 0 {
                connection = None;
            }
            let open = || H2::over_tls(&self.lb.extra(3), self.tls, NAME);
            let connection = connection.get_or_insert_with(open);
            let (method, path) =
                if number % 2 == 0 { ("GET", "/app") } else { ("POST", "/steady") };
            let body: &[u8] = if number % 2 == 0 { b"" } else { b"some body" };
            let uri = format!("https://{NAME}{path}");
            let asking = http::Request::builder().method(method).uri(uri).body(()).unwrap();
            match connection.ask(asking, body) {
                Ok(answer) if answer.status == 200 => Ok("200 ok".to_owned()),
                Ok(answer) => Err(format!("HTTP/2: {} {}", answer.status, answer.text())),
                Err(error) => Err(format!("HTTP/2: {error}")),
            }
        });
    }

    fn over_tcp(&self) {
        let bytes = request("POST", "/raw", &["Connection: close"], b"through");
        self.told.keep(|| {
            let asked = Client::try_connect(&self.lb.extra(4)).and_then(|mut client| {
                client.try_send(&bytes)?;
                client.try_response()
            });
            judged("TCP", asked, (200, "ok"), Some(b"through")).map(|_| "TCP ok".to_owned())
        });
    }

    fn over_websocket(&self) {
        let upgrade = ["Connection: Upgrade", "Upgrade: websocket"];
        let bytes = request("GET", "/steady/socket", &upgrade, b"");
        self.told.keep(|| {
            let talk = || {
                let mut client = Client::try_connect(&self.lb.web())?;
                client.try_send(&bytes)?;
                let response = client.try_response()?;
                for size in [1, 1000, 100_000] {
                    let message = vec![b'm'; size];
                    client.try_send(&message)?;
                    if client.try_exactly(size)? != message {
                        return Err(io::Error::other("another message"));
                    }
                }
                client.half_close();
                Ok((response, client.rest()))
            };
            let (response, rest) = talk().map_err(|error| format!("WebSocket: {error}"))?;
            assert!(rest.is_empty(), "{rest:?} after the last message");
            judged("WebSocket", Ok(response), (101, "ok"), None)
        });
    }

    /// Requests that fail, each in its own way.
    fn in_trouble(&self) {
        let cases: [(&str, (u16, &str)); 7] = [
            ("/bad/reset", (502, "upstream_reset")),
            ("/bad/cut", (200, "upstream_truncated")),
            ("/bad/head", (502, "upstream_reset")),
            ("/bad/garbage", (502, "upstream_reset")),
            ("/bad/503", (503, "ok")),
            ("/late/hang", (504, "upstream_timeout")),
            ("/nowhere", (404, "no_route")),
        ];
        let mut cases = cases.iter().cycle();
        self.told.keep(|| {
            let (path, expected) = cases.next().unwrap();
            let asked = Client::try_connect(&self.lb.web()).and_then(|mut client| {
                client.try_send(&request("GET", path, &[], b""))?;
                client.try_response()
            });
            judged(path, asked, *expected, None)
        });
    }

    /// Clients that make mistakes, and clients that leave.
    fn at_fault(&self) {
        let silent = &self.servers.silent;
        let mut leaves = false;
        self.told.keep(|| {
            leaves = !leaves;
            let mut client = Client::try_connect(&self.lb.web()).map_err(|it| it.to_string())?;
            if leaves {
                client.send(request("GET", "/silent", &[], b""));
                eventually("the request is on its backend", || silent.working() == 1);
                client.reset();
                eventually("the backend is left alone", || silent.working() == 0);
                return Ok("499 client_aborted".to_owned());
            }
            client.send("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n");
            judged("malformed", client.try_response(), (400, "bad_request"), None)
        });
    }

    fn run<'s>(&'s self, scope: &'s thread::Scope<'s, '_>) {
        scope.spawn(|| self.over_http1(false));
        scope.spawn(|| self.over_http1(false));
        scope.spawn(|| self.over_http1(true));
        scope.spawn(|| self.over_tls());
        scope.spawn(|| self.over_http2());
        scope.spawn(|| self.over_tcp());
        scope.spawn(|| self.over_websocket());
        scope.spawn(|| self.in_trouble());
        scope.spawn(|| self.at_fault());
    }
}

/// Ends what clients do, however the test ends.
struct Over<'a>(&'a Told);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

/// What the process takes at one moment.
#[derive(Clone, Copy, Debug)]
struct Size {
    memory: u64,
    descriptors: usize,
}

impl Size {
    fn of(lb: &Lb) -> Self {
        Self { memory: lb.program.memory("VmRSS"), descriptors: lb.program.descriptors() }
    }
}

/// One who operates the balancer meanwhile.
struct Operator<'a> {
    lb: &'a Lb,
    servers: &'a Servers,
    told: &'a Told,
    /// What the files that were rotated away have in them.
    logged: Tally,
    sizes: Vec<Size>,
    reloads: usize,
}

impl Operator<'_> {
    fn tell(&self, method: &str, path: &str, body: &str) {
        let bytes = request(method, path, &["Connection: close"], body.as_bytes());
        let response = Client::connect(&self.lb.extra(2)).ask(bytes);
        assert!((200..300).contains(&response.status), "{method} {path}: {}", response.text());
    }

    /// One round of everything that may happen.
    fn round(&mut self) {
        let [_, b, c] = &self.servers.app;
        let path = "/api/v1/pools/app/backends";
        c.stop();
        self.tell("DELETE", &format!("{path}/b"), "");
        self.told.wait_for_more(100);
        self.reload();
        c.start();
        let gone = || !self.pool().contains("\"b\"");
        eventually("the backend is gone", gone);
        self.tell("POST", path, &b.entry());
        self.told.wait_for_more(100);
        self.tell("PUT", &format!("{path}/a"), "{ state: draining }");
        self.told.wait_for_more(100);
        self.tell("PUT", &format!("{path}/a"), "{ state: active, weight: 2 }");
        self.rotate();
        self.servers.all().for_each(Origin::forget);
        self.sizes.push(Size::of(self.lb));
    }

    fn pool(&self) -> String {
        crate::support::get(&self.lb.extra(2), "/api/v1/pools/app").text()
    }

    /// Another configuration, in which the pool and a filter are not what they were.
    fn reload(&mut self) {
        self.reloads += 1;
        let (from, to) = if self.reloads % 2 == 1 { (1, 2) } else { (2, 1) };
        let file = self.lb.read("lb.yaml");
        let changed = file
            .replace(&format!("slow_start: {from}s"), &format!("slow_start: {to}s"))
            .replace(&format!("x-soak: \"{from}\""), &format!("x-soak: \"{to}\""));
        assert_ne!(file, changed);
        self.lb.replace("lb.yaml", &changed);
        self.tell("POST", "/api/v1/reload", "");
    }

    /// Moves the log away, and counts what is in it once it is written no more.
    fn rotate(&mut self) {
        let log = self.lb.directory().join("access.log");
        let old = self.lb.directory().join("access.log.1");
        fs::rename(&log, &old).unwrap();
        self.lb.signal(Signal::USR1);
        eventually("the log is opened again", || log.exists());
        self.count(&old);
        fs::remove_file(old).unwrap();
    }

    fn count(&mut self, log: &PathBuf) {
        for line in fs::read_to_string(log).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let reason = line["reason"].as_str().unwrap();
            let end = if line["protocol"] == "TCP" {
                format!("TCP {reason}")
            } else {
                format!("{} {reason}", line["status"])
            };
            *self.logged.entry(end).or_insert(0) += 1;
        }
    }
}

/// The third of what is in order that begins there, by its median.
fn typical(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

/// The process must not have grown between the second third of the time and the last.
fn assert_no_growth(sizes: &[Size]) {
    let third = sizes.len() / 3;
    let (middle, last) = (&sizes[third..2 * third], &sizes[2 * third..]);
    let memory = |sizes: &[Size]| typical(sizes.iter().map(|size| size.memory).collect());
    let descriptors =
        |sizes: &[Size]| typical(sizes.iter().map(|size| size.descriptors as u64).collect());
    println!(
        "resident memory {} KiB, {} KiB in the middle, {} KiB at the end; descriptors {}, {}, {}",
        sizes[0].memory >> 10,
        memory(middle) >> 10,
        memory(last) >> 10,
        sizes[0].descriptors,
        descriptors(middle),
        descriptors(last),
    );
    assert!(memory(last) < memory(middle) * 11 / 10 + (8 << 20), "memory grows: {sizes:?}");
    assert!(descriptors(last) < descriptors(middle) + 24, "descriptors grow: {sizes:?}");
}

fn sum(tally: &Tally, of_tcp: bool) -> usize {
    tally.iter().filter(|(end, _)| end.starts_with("TCP") == of_tcp).map(|(_, count)| count).sum()
}

#[test]
fn everything_at_once_is_accounted_for() {
    let servers = Servers::new();
    let authority = Authority::new("authority");
    let lb = Config::new(servers.configuration())
        .certificate("a", &authority.server(&[NAME]))
        .access_log()
        .start();
    let (tls, told) = (TlsClient::new(&authority), Told::default());
    let mut operator = Operator {
        lb: &lb,
        servers: &servers,
        told: &told,
        logged: Tally::new(),
        sizes: Vec::new(),
        reloads: 0,
    };
    // The probe's requests are the only ones so far; nobody else is told of them.
    eventually("nobody is connected", || Scrape::of(&lb).sum("downstream_connections", &[]) == 0.0);
    let probes = Scrape::of(&lb).sum("requests_total", &[]) as usize;
    let before = lb.program.descriptors();
    let clients = Clients { lb: &lb, servers: &servers, tls: &tls, told: &told };
    thread::scope(|scope| {
        let _over = Over(&told);
        clients.run(scope);
        let start = Instant::now();
        while start.elapsed() < length() || operator.sizes.len() < 3 {
            operator.round();
            if !told.surprises().is_empty() {
                break;
            }
        }
    });
    assert_eq!(told.surprises(), Vec::<String>::new());

    let ends = told.ends.lock().unwrap().clone();
    let (requests, connections) = (sum(&ends, false), sum(&ends, true));
    let counted = || {
        let scrape = Scrape::of(&lb);
        let total = |name| scrape.sum(name, &[]) as usize;
        (total("requests_total") - probes, total("connections_total"))
    };
    let all = within(SOON, || counted() == (requests, connections));
    assert!(all, "counted {:?} instead of {:?}", counted(), (requests, connections));
    operator.rotate();
    let mut logged = operator.logged.clone();
    *logged.get_mut("400 bad_request").unwrap() -= probes;
    println!(
        "{requests} requests, {connections} connections, {} reloads: {logged:?}",
        operator.reloads
    );
    assert_eq!(logged, ends);

    // All of it is over, and nothing is left of it.
    let scrape = Scrape::of(&lb);
    assert_eq!(scrape.get("access_log_dropped_lines_total"), Some(0.0));
    eventually("nothing is in flight", || {
        let scrape = Scrape::of(&lb);
        ["downstream_connections", "backend_in_flight"]
            .iter()
            .all(|name| scrape.sum(name, &[]) == 0.0)
    });
    let kept = lb.program.descriptors();
    assert!(kept < before + 100, "{kept} descriptors, {before} at the start");
    assert_no_growth(&operator.sizes);
}
