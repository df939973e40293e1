//! What happens between accepting a connection and its protocol.

use super::{
    Drain,
    accept::Counted,
    drain::overdue,
    http1::{Http1, IN_THE_CLEAR, TOO_MANY, serve_connection},
    proxy_header::{Expecting, Rejected},
    tls::{Handshake, Met},
    transport::{ClientSocket, Transport},
};
use crate::{
    model::{Ends, Listener, ProxyProtocol},
    observe::Unused,
    proxy::Link,
    runtime::Snapshot,
    tcp::{self, Pipes, Stream},
};
use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long the PROXY header of a connection that is one too many may take, and how long its TLS
/// handshake. They are waited for to tell the client so, and a crowd of them should not pile up.
const OVERLOADED: Duration = Duration::from_secs(1);

/// A connection that was accepted.
pub(super) struct Arrival {
    /// Its listener's index in the snapshot.
    pub(super) listener: usize,
    pub(super) snapshot: Arc<Snapshot>,
    /// The address that it comes from; `None` on a unix socket.
    pub(super) peer: Option<SocketAddr>,
    pub(super) accepted: Instant,
    /// What counts it for as long as it lives.
    pub(super) counted: Counted,
    pub(super) http1: Arc<Http1>,
    pub(super) pipes: Pipes,
    pub(super) drain: Drain,
}

/// What a connection does from here on.
type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Arrival {
    /// Serves the connection to its end: first what a proxy in front says of it, then its protocol.
    pub(super) async fn serve(self, socket: ClientSocket) {
        match self.meet(&socket).await {
            // Boxed, so that what led here is not kept beside it.
            Ok(ends) if self.snapshot.forwarding(self.listener).is_some() => {
                self.pass_on(socket, ends).await;
            }
            Ok(ends) => self.serve_http(socket, ends).await,
            Err(why) => {
                self.snapshot.listener_counts(self.listener).count_unused(Unused::ProxyHeader);
                self.log_rejected(&why);
            }
        }
    }

    fn listener(&self) -> &Listener {
        &self.snapshot.listeners[self.listener]
    }

    /// Finds out whose connection it is. One that is one too many is asked only where it will be told so,
    /// which it would not understand ahead of what its proxy says.
    async fn meet(&self, socket: &ClientSocket) -> Result<Ends, Rejected> {
        let listener = self.listener();
        let said = match &listener.proxy_protocol {
            Some(protocol) if listener.is_http() || !self.counted.is_too_many() => {
                // Boxed, as most connections have nothing like it.
                Box::pin(self.read_header(socket, protocol)).await?
            }
            _ => None,
        };
        Ok(said.unwrap_or_else(|| self.own_ends(socket)))
    }

    /// Whose connection it is if nobody says otherwise. The system is asked for what the client has
    /// connected to only if that will be told to a backend.
    fn own_ends(&self, socket: &ClientSocket) -> Ends {
        let server = || socket.socket().local_address();
        let announced = self.snapshot.announces_clients();
        Ends { client: self.peer, server: announced.then(server).flatten() }
    }

    /// What the proxy in front says of the connection, if it says anything.
    async fn read_header(
        &self,
        socket: &ClientSocket,
        protocol: &ProxyProtocol,
    ) -> Result<Option<Ends>, Rejected> {
        let listener = self.listener();
        let expecting = Expecting {
            socket: socket.socket(),
            protocol,
            peer: self.peer.map(|address| address.ip()),
            until: (self.accepted + self.patience(listener.timeouts.header)).into(),
            // A client of HTTP that says nothing wants nothing.
            may_be_silent: !listener.is_http(),
        };
        expecting.read(&self.drain).await
    }

    /// A fault of whoever connects is no error of ours, and there may be many of them.
    fn log_rejected(&self, why: &Rejected) {
        let listener = &self.listener().name;
        let peer = self.peer.map_or_else(|| "a unix socket".to_owned(), |peer| peer.to_string());
        log::debug!("listener {listener}: a connection from {peer} is closed: {why}");
    }

    /// Makes the TLS handshake if there is to be one, and serves what then comes.
    fn serve_http(self, socket: ClientSocket, ends: Ends) -> Serving {
        let handshake = self.handshake(&ends);
        let counts =
            handshake.is_some().then(|| self.snapshot.listener_counts(self.listener).clone());
        let Self { listener, counted, http1, .. } = self;
        Box::pin(async move {
            let refusal = counted.is_too_many().then_some(TOO_MANY);
            let (transport, facts, refusal) = match shake_hands(handshake, socket).await {
                Met::Client(transport, facts) => (transport, facts, refusal),
                Met::InTheClear(transport) => (transport, None, Some(IN_THE_CLEAR)),
                Met::Nobody(why) => {
                    if let Some(counts) = counts {
                        counts.count_unused(why);
                    }
                    return;
                }
            };
            drop(counts);
            let link = Arc::new(Link::new(listener, ends, facts));
            serve_connection(&http1, transport, link, refusal).await;
            drop(counted);
        })
    }

    fn handshake(&self, ends: &Ends) -> Option<Handshake> {
        let acceptor = self.snapshot.acceptor(self.listener)?.clone();
        Some(Handshake {
            acceptor,
            client: ends.client,
            patience: self.patience(self.listener().timeouts.tls_handshake),
            drain: self.drain.clone(),
        })
    }

    /// How long the client has for something that may take so long otherwise.
    fn patience(&self, otherwise: Duration) -> Duration {
        if self.counted.is_too_many() { otherwise.min(OVERLOADED) } else { otherwise }
    }

    /// Passes on what the client says, once the TLS handshake is made if there is to be one.
    fn pass_on(self, socket: ClientSocket, ends: Ends) -> Serving {
        let handshake = self.handshake(&ends);
        let Self { listener, snapshot, accepted, counted, pipes, drain, .. } = self;
        // Boxed, as each of the futures that it goes through would keep room for it.
        let mut arrival =
            Box::new(tcp::Arrival { snapshot, listener, ends, accepted, tls: None, pipes });
        if counted.is_too_many() {
            tcp::refuse(&arrival);
            return Box::pin(std::future::ready(()));
        }
        let overdue = Box::pin(overdue(drain.phase()));
        let over = drain.until_over();
        Box::pin(async move {
            let counts = || arrival.snapshot.listener_counts(listener);
            match shake_hands(handshake, socket).await {
                Met::Client(transport, facts) => {
                    arrival.tls = facts;
                    tcp::serve(transport, arrival, overdue, over).await;
                }
                // It cannot be told so: in which protocol?
                Met::InTheClear(_) => counts().count_unused(Unused::TlsHandshake),
                Met::Nobody(why) => counts().count_unused(why),
            }
            drop(counted);
        })
    }
}

/// Makes the handshake, if there is to be one.
async fn shake_hands(handshake: Option<Handshake>, socket: ClientSocket) -> Met {
    match handshake {
        // Boxed, as a handshake takes more room than the connection after it needs.
        Some(handshake) => Box::pin(handshake.meet(socket)).await,
        None => Met::Client(Transport::Clear(socket), None),
    }
}
