//! Steady traffic on many connections.

use super::{
    address::Address,
    client::{Client, request},
    eventually,
    http::Response,
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

fn run(shared: &Shared, address: &Address, request: &[u8]) {
    let mut connection = None;
    while !shared.stop.load(Ordering::Relaxed) {
        match ask(shared, address, request, &mut connection) {
            Ok(response) if response.status == 200 && response.complete => {
                shared.done.fetch_add(1, Ordering::Relaxed);
                if response.headers.lists("connection", "close") {
                    connection = None;
                }
            }
            Ok(response) => {
                let text = format!("{} {}", response.status, response.text());
                shared.failures.lock().unwrap().push(text);
                connection = None;
            }
            Err(error) => {
                shared.failures.lock().unwrap().push(error.to_string());
                connection = None;
            }
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
