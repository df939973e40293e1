//! Steady traffic on many connections.

use super::{
    address::Address,
    client::{Client, request},
    eventually,
    http::Response,
    tls::TlsClient,
};
use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

/// Clients that ask one thing after another on keep-alive connections until they are stopped.
///
/// A client opens a new connection when the balancer has announced the end of the old one, and
/// repeats a request once, as every HTTP client does, when a connection that has carried
/// requests turns out closed before any byte of the answer. Such repetitions are counted, so that
/// a test can allow none.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    done: AtomicUsize,
    repeated: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Starts `clients` that GET `path`.
    pub fn start(address: &Address, clients: usize, path: &str) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = (0..clients)
            .map(|_| {
                let (shared, address) = (Arc::clone(&shared), address.clone());
                let request = request("GET", path, &[], b"");
                thread::spawn(move || run(&shared, &address, &request))
            })
            .collect();
        Self { shared, threads }
    }

    /// Starts `clients` that GET `path` over TLS, asking for `name`, each time on a new connection.
    pub fn start_tls(
        address: &Address,
        clients: usize,
        path: &str,
        tls: &TlsClient,
        name: &str,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let threads = (0..clients)
            .map(|_| {
                let (shared, address) = (Arc::clone(&shared), address.clone());
                let (tls, name) = (tls.clone(), name.to_owned());
                let request = request("GET", path, &["Connection: close"], b"");
                let ask = move || {
                    let mut client = Client::try_connect_tls(&address, &tls, &name)?;
                    exchange(&mut client, &request)
                };
                thread::spawn(move || {
                    while !shared.stop.load(Ordering::Relaxed) {
                        shared.take(ask());
                    }
                })
            })
            .collect();
        Self { shared, threads }
    }

    /// Requests that were answered with 200 so far.
    pub fn done(&self) -> usize {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// Waits until that many more requests have been answered, well or not.
    #[track_caller]
    pub fn wait_for_more(&self, requests: usize) {
        let ended = || self.done() + self.shared.failures.lock().unwrap().len();
        let goal = ended() + requests;
        eventually(&format!("{requests} more requests answered"), || ended() >= goal);
    }

    /// Stops, and returns the requests answered well, those repeated and what failed.
    pub fn stop(self) -> (usize, usize, Vec<String>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let failures = self.shared.failures.lock().unwrap().clone();
        (
            self.shared.done.load(Ordering::Relaxed),
            self.shared.repeated.load(Ordering::Relaxed),
            failures,
        )
    }
}

impl Shared {
    /// Takes in how a request ended; whether it did well.
    fn take(&self, asked: io::Result<Response>) -> bool {
        let problem = match asked {
            Ok(response) if response.status == 200 && response.complete => {
                self.done.fetch_add(1, Ordering::Relaxed);
                return true;
            }
            Ok(response) => format!("{} {}", response.status, response.text()),
            Err(error) => error.to_string(),
        };
        self.failures.lock().unwrap().push(problem);
        false
    }
}

fn run(shared: &Shared, address: &Address, request: &[u8]) {
    let mut connection = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let asked = ask(shared, address, request, &mut connection);
        let ends = |response: &Response| response.headers.lists("connection", "close");
        let goes_on = asked.as_ref().is_ok_and(|response| !ends(response));
        if !(shared.take(asked) && goes_on) {
            connection = None;
        }
    }
}

fn ask(
    shared: &Shared,
    address: &Address,
    request: &[u8],
    connection: &mut Option<Client>,
) -> io::Result<Response> {
    if let Some(client) = connection {
        match exchange(client, request) {
            Err(error) if super::http::broke_off(&error) => {
                shared.repeated.fetch_add(1, Ordering::Relaxed);
            }
            other => return other,
        }
    }
    let client = connection.insert(Client::try_connect(address)?);
    exchange(client, request)
}

fn exchange(client: &mut Client, request: &[u8]) -> io::Result<Response> {
    client.try_send(request)?;
    client.try_response()
}
