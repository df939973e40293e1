//! `pingora-lb demo`: three backends and a balancer in one process, to see it work.

use super::backend::{DemoBackend, RunningBackend};
use crate::{
    App, Mode,
    config::{self, parse_percent},
};
use clap::Args;
use std::{
    fmt::Write as _,
    io::{self, BufRead},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    sync::mpsc,
    time::Duration,
};

/// The port that is tried first, and how many after it.
const FIRST_PORT: u16 = 8080;
/// The same for the admin API; the commands that talk to an instance take it by default.
const ADMIN_PORT: u16 = 9901;
const PORTS: u16 = 100;

/// Arguments of `pingora-lb demo`.
#[derive(Debug, Args)]
pub(super) struct DemoArguments {
    /// The balancer's port; without it 8080, or the next one that is free
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
}

impl DemoArguments {
    pub(super) fn run(&self, app: &App) -> Result<(), String> {
        let port = free_port(self.port, FIRST_PORT).map_err(|error| format!("demo: {error}"))?;
        let admin = free_port(None, ADMIN_PORT).map_err(|error| format!("demo: {error}"))?;
        let backends = Backends::start().map_err(|error| format!("demo: {error}"))?;
        let text = configuration(port, admin, &backends.addresses);
        let checked = config::parse(&text, "demo", Path::new("/"), &|_| None, app.filters())
            .map_err(|errors| format!("demo: {errors}"))?;
        println!("{}", introduction(port, admin, &backends.addresses, &text));
        backends.obey_terminal();
        app.serve(checked, Mode::default()).map_err(|error| format!("demo: {error}"))
    }
}

/// A port that can be listened on. Ours only until this returns, which is good enough for a demo.
fn free_port(wanted: Option<u16>, first: u16) -> io::Result<u16> {
    let bind = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let port_of = |listener: TcpListener| listener.local_addr().map(|address| address.port());
    if let Some(port) = wanted {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("port {port}: {error}"));
        return bind(port).and_then(port_of).map_err(named);
    }
    let free = (first..first + PORTS).find_map(|port| bind(port).ok());
    port_of(free.map_or_else(|| bind(0), Ok)?)
}

/// The demo's configuration, which is also what it shows.
fn configuration(port: u16, admin: u16, backends: &[SocketAddr]) -> String {
    let mut text = format!(
        "\
server: {{ log_level: warn, drain_timeout: 1s }}
admin: {{ address: 127.0.0.1:{admin} }}
listeners:
  web: {{ address: 127.0.0.1:{port} }}
pools:
  app:
    backends:
"
    );
    for (number, address) in (1..).zip(backends) {
        writeln!(text, "      - {{ address: {address}, name: app-{number} }}")
            .expect("writing to a String cannot fail");
    }
    text.push_str("    health_check: { http: { path: /health }, interval: 1s, timeout: 500ms, rise: 1, fall: 1 }\n");
    // Whoever stops a backend and starts it again may be quicker than the checks, which then know of
    // no outage that would explain its failures.
    text.push_str("    ejection: { base_time: 1s, max_time: 1s }\n");
    text
}

fn introduction(port: u16, admin: u16, backends: &[SocketAddr], configuration: &str) -> String {
    let mut text = String::from("Three backends are running:\n");
    for (number, address) in (1..).zip(backends) {
        writeln!(text, "  app-{number}  http://{address}")
            .expect("writing to a String cannot fail");
    }
    let url = format!("http://127.0.0.1:{port}");
    let api = format!("http://127.0.0.1:{admin}/api/v1/pools");
    let flag =
        if admin == ADMIN_PORT { String::new() } else { format!(" --admin 127.0.0.1:{admin}") };
    write!(
        text,
        "
The balancer in front of them: {url}
Its dashboard: http://127.0.0.1:{admin}/
Its admin API: {api}

Try, in another terminal:
  curl -s '{url}/[1-6]'        six requests: the backends take turns
  type `stop 2` here, then
  curl -s '{url}/[1-6]'        no request fails; the other two take turns
  type `start 2` here, wait two seconds, then
  curl -s '{url}/[1-6]'        app-2 is back
  pingora-lb drain app app-3{flag}    no new requests for app-3; `enable` undoes it

Commands here: stop N, start N, quit.

It runs on this configuration:

{configuration}"
    )
    .expect("writing to a String cannot fail");
    text
}

/// A change that the person at the terminal asks for.
enum Order {
    Stop(usize),
    Start(usize),
}

/// The demo's backends, on a thread and a runtime of their own.
struct Backends {
    addresses: Vec<SocketAddr>,
    orders: mpsc::Sender<Order>,
}

impl Backends {
    fn start() -> io::Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let running: Vec<Option<RunningBackend>> = runtime.block_on(async {
            (1..=3).map(|number| launch(number, None).map(Some)).collect::<io::Result<_>>()
        })?;
        let addresses: Vec<_> = running.iter().flatten().map(RunningBackend::address).collect();
        let (orders, received) = mpsc::channel();
        let places = addresses.clone();
        std::thread::spawn(move || {
            let mut running = running;
            for order in received {
                runtime.block_on(carry_out(&order, &mut running, &places));
            }
        });
        Ok(Self { addresses, orders })
    }

    /// Reads orders from standard input until it ends. Without a terminal behind it, it ends at
    /// once and the demo just runs.
    fn obey_terminal(self) {
        std::thread::spawn(move || {
            for line in io::stdin().lock().lines().map_while(Result::ok) {
                match Self::parse(&line, self.addresses.len()) {
                    Some(order) => {
                        if self.orders.send(order).is_err() {
                            return;
                        }
                    }
                    None if line.trim() == "quit" => quit(),
                    None if line.trim().is_empty() => {}
                    None => println!("stop N, start N (N from 1 to 3), or quit"),
                }
            }
            // The backends end with the sender; the demo goes on until it is told to end.
            std::thread::park();
        });
    }

    fn parse(line: &str, count: usize) -> Option<Order> {
        let (verb, number) = line.trim().split_once(' ')?;
        let number = number.trim().trim_start_matches("app-").parse::<usize>().ok()?;
        let index = number.checked_sub(1).filter(|index| *index < count)?;
        match verb {
            "stop" => Some(Order::Stop(index)),
            "start" => Some(Order::Start(index)),
            _ => None,
        }
    }
}

/// Ends the process as Ctrl-C would.
fn quit() {
    let own = rustix::process::getpid();
    // A process may always signal itself.
    let _ = rustix::process::kill_process(own, rustix::process::Signal::INT);
}

/// Starts a backend, on its old address if it had one.
fn launch(number: usize, address: Option<SocketAddr>) -> io::Result<RunningBackend> {
    let address = address.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let backend = DemoBackend {
        name: format!("app-{number}"),
        latency: Duration::ZERO,
        fail_rate: parse_percent("0%").map_err(|error| io::Error::other(error.to_string()))?,
    };
    backend.spawn(tokio::net::TcpListener::from_std(listener)?)
}

async fn carry_out(order: &Order, running: &mut [Option<RunningBackend>], places: &[SocketAddr]) {
    match *order {
        Order::Stop(index) => match running[index].take() {
            Some(backend) => {
                backend.stop().await;
                println!("app-{} is stopped", index + 1);
            }
            None => println!("app-{} is stopped already", index + 1),
        },
        Order::Start(index) if running[index].is_some() => {
            println!("app-{} is running already", index + 1);
        }
        Order::Start(index) => match launch(index + 1, Some(places[index])) {
            Ok(backend) => {
                running[index] = Some(backend);
                println!("app-{} is running; its health check will bring it back", index + 1);
            }
            Err(error) => println!("app-{}: {error}", index + 1),
        },
    }
}
