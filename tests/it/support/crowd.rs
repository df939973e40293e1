//! Clients of every kind at once, each of whose requests has an id.

use super::{
    Origin, Reply, SOON, TlsClient,
    address::Address,
    client::{Client, request},
    h2::{self, H2},
    http::{Request, Response},
    within,
};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Condvar, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Between two pieces of a slow body, and between two messages of a tunnel.
const BEAT: Duration = Duration::from_millis(100);
/// What a slow body has more at each of them.
const PIECE: &[u8] = &[b'p'; 1000];
/// Between two requests of a client that is in no hurry.
const LEISURE: Duration = Duration::from_millis(500);
/// Streams that a client of HTTP/2 has at a time.
const STREAMS: usize = 3;

/// A backend for a crowd. It answers with the id that is the last segment of the path, once it has
/// the whole request; the first segment says how.
pub fn backend(name: &str, slow: Duration) -> Origin {
    Origin::scripted(name, move |request| match request.path().split('/').nth(1) {
        Some("tunnel") => Reply::Upgrade,
        Some("down") => Reply::Pieces(slow_answer(id(request), slow)),
        _ => Reply::text(id(request)),
    })
}

fn id(request: &Request) -> &str {
    request.path().rsplit('/').next().unwrap_or_default()
}

fn beats(slow: Duration) -> usize {
    usize::try_from(slow.as_millis() / BEAT.as_millis()).unwrap().max(1)
}

/// An answer whose body takes that long: pieces, and the id.
fn slow_answer(id: &str, slow: Duration) -> Vec<(Duration, Vec<u8>)> {
    let length = beats(slow) * PIECE.len() + id.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
    let pieces = std::iter::repeat_n((BEAT, PIECE.to_vec()), beats(slow));
    [(Duration::ZERO, head.into_bytes())]
        .into_iter()
        .chain(pieces)
        .chain([(BEAT, id.into())])
        .collect()
}

/// The ids that reached these backends, each as often as it did. A body that is not what its id says
/// is a failure.
#[track_caller]
pub fn ids_at(backends: &[Origin], slow: Duration) -> BTreeMap<String, usize> {
    let mut ids = BTreeMap::new();
    for request in backends.iter().flat_map(Origin::requests) {
        let id = id(&request);
        let whole = match request.method.as_str() {
            "POST" => request.body == id.as_bytes(),
            "PUT" => request.body_length == (beats(slow) * PIECE.len()) as u64,
            _ => true,
        };
        assert!(whole && (request.complete || request.method == "GET"), "{request:?}");
        *ids.entry(id.to_owned()).or_insert(0) += 1;
    }
    ids
}

/// Where a crowd goes.
#[derive(Clone)]
pub struct Targets {
    /// HTTP/1 and HTTP/2 in the clear.
    pub web: Address,
    /// Both over TLS, for `test.example`.
    pub tls: Address,
    /// Connections that are passed on to the backends as they are.
    pub tcp: Address,
    pub trust: TlsClient,
}

/// What came of the requests of a crowd.
#[derive(Debug)]
pub struct Outcome {
    /// The ids of those that were answered well.
    pub answered: Vec<String>,
    /// Requests over HTTP/2 that the balancer said that it has not looked at, and that were sent again.
    pub refused: usize,
    pub failures: Vec<String>,
}

impl Outcome {
    /// How many of each kind were answered.
    pub fn by_kind(&self) -> BTreeMap<&str, usize> {
        let mut kinds = BTreeMap::new();
        for id in &self.answered {
            *kinds.entry(id.split('-').next().unwrap_or_default()).or_insert(0) += 1;
        }
        kinds
    }
}

/// Clients that ask one thing after another until they are stopped. None of them repeats a request that
/// might have been seen, and none takes the end of a connection for granted that was not announced
/// before its request was sent: any of that is a failure.
pub struct Crowd {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    targets: Targets,
    slow: Duration,
    pace: Duration,
    stopped: Mutex<bool>,
    stops: Condvar,
    outcome: Mutex<Outcome>,
}

type Work = fn(&Shared, &str);

/// The clients, by kind.
const CLIENTS: &[(&str, usize, Work)] = &[
    ("steady", 4, |shared, who| http1(shared, who, shared.pace, &plain)),
    ("leisurely", 4, |shared, who| http1(shared, who, LEISURE, &plain)),
    ("tls", 2, |shared, who| http1(shared, who, shared.pace, &over_tls)),
    ("once", 2, once),
    ("h2c", 2, |shared, who| http2(shared, who, &|targets| H2::connect(&targets.web))),
    ("h2", 2, |shared, who| {
        http2(shared, who, &|targets| H2::over_tls(&targets.tls, &targets.trust, "test.example"));
    }),
    ("upload", 3, upload),
    ("download", 3, download),
    ("websocket", 3, |shared, who| tunnel(shared, who, &shared.targets.web)),
    ("tcp", 3, |shared, who| tunnel(shared, who, &shared.targets.tcp)),
];

fn plain(targets: &Targets) -> io::Result<Client> {
    Client::try_connect(&targets.web)
}

fn over_tls(targets: &Targets) -> io::Result<Client> {
    Client::try_connect_tls(&targets.tls, &targets.trust, "test.example")
}

impl Crowd {
    /// Starts them all. Slow bodies and tunnels take as long as `slow` says; the others rest for `pace`
    /// between two requests.
    pub fn start(targets: &Targets, slow: Duration, pace: Duration) -> Self {
        let outcome = Outcome { answered: Vec::new(), refused: 0, failures: Vec::new() };
        let shared = Arc::new(Shared {
            targets: targets.clone(),
            slow,
            pace,
            stopped: Mutex::new(false),
            stops: Condvar::new(),
            outcome: Mutex::new(outcome),
        });
        let mut threads = Vec::new();
        for &(kind, clients, work) in CLIENTS {
            for client in 0..clients {
                let (shared, who) = (Arc::clone(&shared), format!("{kind}-{client}"));
                threads.push(thread::spawn(move || work(&shared, &who)));
            }
        }
        Self { shared, threads }
    }

    /// Waits until that many more requests were answered; fails when one failed.
    #[track_caller]
    pub fn wait_for_more(&self, requests: usize) {
        let ended = || {
            let outcome = self.shared.outcome.lock().unwrap();
            assert_eq!(outcome.failures, Vec::<String>::new());
            outcome.answered.len()
        };
        let goal = ended() + requests;
        assert!(within(SOON * 3, || ended() >= goal), "no {requests} more requests are answered");
    }

    /// Stops, once what is under way has ended.
    pub fn stop(self) -> Outcome {
        *self.shared.stopped.lock().unwrap() = true;
        self.shared.stops.notify_all();
        for thread in self.threads {
            thread.join().expect("a client does not panic");
        }
        let mut outcome = self.shared.outcome.lock().unwrap();
        let answered = std::mem::take(&mut outcome.answered);
        let failures = std::mem::take(&mut outcome.failures);
        Outcome { answered, refused: outcome.refused, failures }
    }
}

impl Shared {
    /// Rests for that long, or until the stop; whether to go on.
    fn goes_on_after(&self, pause: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap();
        !*self.stops.wait_timeout_while(stopped, pause, |stopped| !*stopped).unwrap().0
    }

    /// Takes in how a request ended; whether well.
    fn take(&self, id: String, ended: io::Result<()>) -> bool {
        let mut outcome = self.outcome.lock().unwrap();
        match &ended {
            Ok(()) => outcome.answered.push(id),
            Err(error) => outcome.failures.push(format!("{id}: {error}")),
        }
        ended.is_ok()
    }
}

/// Whether a response is what was asked for: 200, and a body that ends with the id.
fn check(response: &Response, id: &str) -> io::Result<()> {
    if response.status == 200 && response.complete && response.body.ends_with(id.as_bytes()) {
        return Ok(());
    }
    let Response { status, complete, headers, .. } = response;
    Err(io::Error::other(format!("{status}, complete: {complete}, {headers:?}")))
}

/// A GET or, every other turn, a POST of its id.
fn ordinary(turn: usize, id: &str, fields: &[&str]) -> Vec<u8> {
    let (method, body) = if turn.is_multiple_of(2) { ("GET", "") } else { ("POST", id) };
    request(method, &format!("/id/{id}"), fields, body.as_bytes())
}

/// Requests one after another on a connection that stays, until the balancer announces its end.
fn http1(
    shared: &Shared,
    who: &str,
    pause: Duration,
    connect: &dyn Fn(&Targets) -> io::Result<Client>,
) {
    let mut connection = None;
    for turn in 0.. {
        let id = format!("{who}-{turn}");
        let asked = ask(&mut connection, &ordinary(turn, &id, &[]), || connect(&shared.targets));
        let ends = |response: &Response| response.headers.lists("connection", "close");
        let stays = asked.as_ref().is_ok_and(|response| !ends(response));
        if !(shared.take(id.clone(), asked.and_then(|response| check(&response, &id))) && stays) {
            connection = None;
        }
        if !shared.goes_on_after(pause) {
            return;
        }
    }
}

fn ask(
    connection: &mut Option<Client>,
    request: &[u8],
    connect: impl Fn() -> io::Result<Client>,
) -> io::Result<Response> {
    let client = match connection {
        Some(client) => client,
        None => connection.insert(connect()?),
    };
    client.try_send(request)?;
    client.try_response()
}

/// A connection for each request, which either side closes.
fn once(shared: &Shared, who: &str) {
    for turn in 0.. {
        let id = format!("{who}-{turn}");
        let fields: &[&str] = if turn % 4 < 2 { &["Connection: close"] } else { &[] };
        let asked = ask(&mut None, &ordinary(turn, &id, fields), || plain(&shared.targets));
        shared.take(id.clone(), asked.and_then(|response| check(&response, &id)));
        if !shared.goes_on_after(shared.pace) {
            return;
        }
    }
}

/// A body that takes its time on the way to the backend. At the stop, what is left goes at once.
fn upload(shared: &Shared, who: &str) {
    let send = |id: &str| {
        let pieces = beats(shared.slow);
        let length = format!("Content-Length: {}", pieces * PIECE.len());
        let mut client = plain(&shared.targets)?;
        client.try_send(&request("PUT", &format!("/up/{id}"), &[&length], b""))?;
        for _ in 0..pieces {
            shared.goes_on_after(BEAT);
            client.try_send(PIECE)?;
        }
        check(&client.try_response()?, id)
    };
    one_by_one(shared, who, &send);
}

fn download(shared: &Shared, who: &str) {
    let receive = |id: &str| {
        let mut client = plain(&shared.targets)?;
        client.try_send(&request("GET", &format!("/down/{id}"), &[], b""))?;
        let response = client.try_response()?;
        let length = (beats(shared.slow) * PIECE.len() + id.len()) as u64;
        if response.body_length == length {
            check(&response, id)
        } else {
            Err(io::Error::other(format!("{} of {length} bytes", response.body_length)))
        }
    };
    one_by_one(shared, who, &receive);
}

/// Messages that come back, through a connection that became a tunnel or always was one.
fn tunnel(shared: &Shared, who: &str, to: &Address) {
    let converse = |id: &str| {
        let mut client = Client::try_connect(to)?;
        let fields = ["Connection: Upgrade", "Upgrade: websocket"];
        client.try_send(&request("GET", &format!("/tunnel/{id}"), &fields, b""))?;
        let response = client.try_response()?;
        if response.status != 101 {
            return Err(io::Error::other(format!("{} for 101", response.status)));
        }
        let until = Instant::now() + shared.slow;
        while Instant::now() < until && shared.goes_on_after(BEAT) {
            client.try_send(id.as_bytes())?;
            if client.try_exactly(id.len())? != id.as_bytes() {
                return Err(io::Error::other("it came back as something else"));
            }
        }
        client.half_close();
        if client.until_the_end()?.is_empty() {
            Ok(())
        } else {
            Err(io::Error::other("more came than was sent"))
        }
    };
    one_by_one(shared, who, &converse);
}

fn one_by_one(shared: &Shared, who: &str, perform: &dyn Fn(&str) -> io::Result<()>) {
    for turn in 0.. {
        let id = format!("{who}-{turn}");
        let ended = perform(&id);
        shared.take(id, ended);
        if !shared.goes_on_after(BEAT) {
            return;
        }
    }
}

/// Requests side by side on a connection of HTTP/2, and a new one when the balancer has announced the
/// end of that.
fn http2(shared: &Shared, who: &str, connect: &dyn Fn(&Targets) -> H2) {
    let mut connection = connect(&shared.targets);
    let mut turn = 0;
    // Those that are to be asked, on the next connection where they did not come through.
    let mut due = Vec::new();
    loop {
        while due.len() < STREAMS {
            due.push((turn, format!("{who}-{turn}")));
            turn += 1;
        }
        due = side_by_side(shared, &connection, due);
        if !due.is_empty() {
            let left = std::mem::replace(&mut connection, connect(&shared.targets));
            if let Err(error) = left.end().or_else(orderly) {
                shared.take(who.to_owned(), Err(io::Error::other(error)));
            }
        } else if !shared.goes_on_after(shared.pace) {
            return;
        }
    }
}

/// Asks all of these, and returns those that the balancer has not taken.
fn side_by_side(
    shared: &Shared,
    connection: &H2,
    due: Vec<(usize, String)>,
) -> Vec<(usize, String)> {
    let mut left = Vec::new();
    let mut streams = Vec::new();
    for (turn, id) in due {
        let post = turn % 2 == 1;
        let head = h2::asking(if post { "POST" } else { "GET" }, &format!("/id/{id}"));
        match connection.try_begin(head.body(()).unwrap(), !post) {
            Ok(mut stream) => {
                if post {
                    stream.send(id.as_bytes(), true);
                }
                streams.push((turn, id, stream));
            }
            // No new stream, as was announced; `end` tells whether it was.
            Err(_) => left.push((turn, id)),
        }
    }
    for (turn, id, stream) in streams {
        match stream.answer() {
            Ok(answer) if answer.status == 200 && answer.body == id.as_bytes() => {
                shared.take(id, Ok(()));
            }
            Ok(answer) => {
                shared.take(id, Err(io::Error::other(format!("{answer:?}"))));
            }
            Err(error) if is_refusal(&error) => {
                shared.outcome.lock().unwrap().refused += 1;
                left.push((turn, id));
            }
            Err(error) => {
                shared.take(id, Err(io::Error::other(error)));
            }
        }
    }
    left
}

/// Whether the other side says that it has not looked at a request: its stream is beyond the last one
/// of an orderly GOAWAY.
fn is_refusal(error: &::h2::Error) -> bool {
    error.is_remote() && error.is_go_away() && error.reason() == Some(::h2::Reason::NO_ERROR)
}

fn orderly(error: ::h2::Error) -> Result<(), ::h2::Error> {
    if is_refusal(&error) { Ok(()) } else { Err(error) }
}
