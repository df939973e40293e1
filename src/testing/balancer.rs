//! A whole balancer inside of a test.

use super::message::{Request, Response};
use crate::{
    App, StartError,
    app::Serving,
    config::{self, Checked, ConfigErrors},
    listener,
    model::ListenAddress,
};
use bytes::Bytes;
use http::Version;
use pingora::{
    http::RequestHeader,
    protocols::{IO, http::v1::client::HttpSession, l4::stream::Stream},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::mpsc,
};
use tokio::net::{TcpStream, UnixStream};

/// How many threads serve, whatever `server.threads` says: a test needs no more.
const THREADS: usize = 2;

/// A balancer that serves a configuration inside of a test.
///
/// Every TCP listener gets a free port of the loopback address, whatever address the configuration
/// gives it, so that a configuration can be tested as it is; [`address`](Self::address) tells it.
/// Listeners on unix sockets are where the configuration says. It has two threads of its own. Signals
/// and the logger of the process stay as they are: who wants to see what the balancer logs sets a
/// logger of the `log` crate. Of the sections `server` and `admin`,
/// nothing applies.
///
/// Dropping it ends its connections and its threads.
#[derive(Debug)]
pub struct Balancer {
    serving: Serving,
    listeners: Vec<(String, ListenAddress)>,
}

/// Why a balancer did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is wrong with the configuration.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// Why it cannot be served.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl Balancer {
    /// Serves the configuration in `text` with the filters of `app`, once its backends were checked.
    /// Relative paths start from the working directory.
    ///
    /// # Errors
    /// Every mistake in the configuration, or why it cannot be served.
    pub fn start(app: &App, text: &str) -> Result<Self, Error> {
        let base = std::env::current_dir().unwrap_or_else(|_| "/".into());
        let env = |name: &str| std::env::var(name).ok();
        Self::serve(config::parse(text, "configuration", &base, &env, app.filters())?)
    }

    /// The same with the configuration in a file.
    ///
    /// # Errors
    /// As for [`start`](Self::start), or that the file cannot be read.
    pub fn start_file(app: &App, path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::serve(config::load(path.as_ref(), app.filters())?)
    }

    fn serve(mut checked: Checked) -> Result<Self, Error> {
        checked.config.server.threads = THREADS;
        for listener in &mut checked.config.listeners {
            if let ListenAddress::Tcp(address) = &mut listener.address {
                *address = any_port(*address);
            }
        }
        let sockets = listener::bind_all(&checked.config.listeners, |_| None);
        let sockets = sockets.map_err(StartError::from)?;
        let place = |bound: &listener::Bound| (bound.name.to_string(), bound.place.local_address());
        let listeners = sockets.iter().map(place).collect();
        Ok(Self { serving: Serving::start(checked, sockets)?, listeners })
    }

    /// The address of a listener.
    ///
    /// # Panics
    /// If there is no listener of this name on TCP.
    #[track_caller]
    pub fn address(&self, listener: &str) -> SocketAddr {
        match self.place(Some(listener)) {
            ListenAddress::Tcp(address) => *address,
            ListenAddress::Unix(path) => panic!("listener {listener} is at {}", path.display()),
        }
    }

    /// The addresses of all listeners, by name, in the order of the configuration.
    pub fn addresses(&self) -> impl Iterator<Item = (&str, &ListenAddress)> {
        self.listeners.iter().map(|(name, address)| (name.as_str(), address))
    }

    /// Sends a request over a connection of its own, and returns what the client gets, whole or
    /// broken off.
    ///
    /// # Panics
    /// If there is no response: the connection ended without one.
    #[track_caller]
    pub fn send(&self, request: &Request) -> Response {
        let answer = self.try_send(request);
        answer.unwrap_or_else(|error| panic!("no response: {error}"))
    }

    /// The same where there may be no response.
    ///
    /// # Errors
    /// When the connection ended without one.
    ///
    /// # Panics
    /// If there is no listener of the name that the request gives.
    #[track_caller]
    pub fn try_send(&self, request: &Request) -> io::Result<Response> {
        let place = self.place(request.listener.as_deref()).clone();
        let (done, response) = mpsc::channel();
        let request = request.clone();
        // The caller may be a task itself, which must not wait for another one.
        self.serving.runtime().spawn(async move {
            // The caller waits.
            let _ = done.send(exchange(&place, &request).await);
        });
        let ended = |_| io::Error::other("the balancer has ended");
        response.recv().map_err(ended)?
    }

    #[track_caller]
    fn place(&self, name: Option<&str>) -> &ListenAddress {
        let Some(wanted) = name else { return &self.listeners[0].1 };
        let found = self.listeners.iter().find(|(name, _)| name == wanted);
        &found.unwrap_or_else(|| panic!("no listener is called {wanted}")).1
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        for (_, address) in &self.listeners {
            if let ListenAddress::Unix(path) = address {
                // The next one would recognise it as stale.
                let _ = std::fs::remove_file::<&PathBuf>(path);
            }
        }
    }
}

/// A free port of the loopback address of the same family.
fn any_port(address: SocketAddr) -> SocketAddr {
    let loopback = match address.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(loopback, 0)
}

async fn connect(address: &ListenAddress) -> io::Result<Box<dyn IO>> {
    Ok(match address {
        ListenAddress::Tcp(address) => Box::new(Stream::from(TcpStream::connect(address).await?)),
        ListenAddress::Unix(path) => Box::new(Stream::from(UnixStream::connect(path).await?)),
    })
}

/// One request and its response on a connection of its own.
async fn exchange(address: &ListenAddress, request: &Request) -> io::Result<Response> {
    let mut session = HttpSession::new(connect(address).await?);
    // A balancer that answers early may have closed before it has read everything.
    let sent = send(&mut session, request).await;
    let head = loop {
        if let Err(error) = session.read_response().await {
            return Err(io::Error::other(sent.err().unwrap_or(error)));
        }
        let head = session.resp_header().expect("a response was read");
        if !head.status.is_informational() {
            break head.clone();
        }
    };
    let (mut body, mut complete) = (Vec::new(), true);
    loop {
        match session.read_body_bytes().await {
            Ok(Some(piece)) => body.push(piece),
            Ok(None) => break,
            Err(_) => {
                complete = false;
                break;
            }
        }
    }
    Ok(Response { status: head.status, headers: head.headers.clone(), body, complete })
}

async fn send(session: &mut HttpSession, request: &Request) -> pingora::Result<()> {
    let mut head = RequestHeader::build(request.method.clone(), request.target.as_bytes(), None)?;
    head.set_version(Version::HTTP_11);
    for (name, value) in &request.headers {
        head.append_header(name.clone(), value.clone())?;
    }
    head.insert_header("connection", "close")?;
    session.write_request_header(Box::new(head)).await?;
    for piece in request.body.iter().filter(|piece: &&Bytes| !piece.is_empty()) {
        session.write_body(piece).await?;
    }
    session.finish_body().await?;
    Ok(())
}
