//! What happens between accepting a connection and its protocol.

use super::{
    Drain,
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
    tcp::{self, Stream},
};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long the TLS handshake of a connection that is one too many may take. It is made to tell the
/// client so, and a crowd of them should not pile up.
const HANDSHAKE_OVERLOADED: Duration = Duration::from_secs(1);

/// A connection that was accepted.
pub(super) struct Arrival {
    /// Its listener's index in the snapshot.
    pub(super) listener: usize,
    /// The address that it comes from; `None` on a unix socket.
    pub(super) peer: Option<SocketAddr>,
    pub(super) accepted: Instant,
    /// Whether its listener has as many connections as it may.
    pub(super) overloaded: bool,
}

impl Arrival {
    /// Serves the connection to its end: first what a proxy in front says of it, then its protocol.
    pub(super) async fn serve(
        self,
        socket: ClientSocket,
        snapshot: Arc<Snapshot>,
        http1: &Http1,
        drain: &Drain,
    ) {
        let listener = &snapshot.listeners[self.listener];
        let ends = match listener.proxy_protocol.as_ref().filter(|_| !self.overloaded) {
            None => self.own_ends(&socket, &snapshot),
            Some(protocol) => {
                // Boxed, as it is long over while the connection lives.
                let said = Box::pin(self.read_header(&socket, listener, protocol, drain)).await;
                match said {
                    Ok(ends) => ends.unwrap_or_else(|| self.own_ends(&socket, &snapshot)),
                    Err(why) => {
                        snapshot.listener_counts(self.listener).count_unused(Unused::ProxyHeader);
                        return self.log_rejected(listener, &why);
                    }
                }
            }
        };
        if snapshot.forwarding(self.listener).is_some() {
            self.pass_on(socket, snapshot, ends, drain).await;
        } else {
            self.serve_http(socket, snapshot, ends, http1, drain).await;
        }
    }

    /// Makes the TLS handshake if there is to be one, and serves what then comes.
    async fn serve_http(
        self,
        socket: ClientSocket,
        snapshot: Arc<Snapshot>,
        ends: Ends,
        http1: &Http1,
        drain: &Drain,
    ) {
        let patience = snapshot.listeners[self.listener].timeouts.tls_handshake;
        let handshake = snapshot.acceptor(self.listener).map(|acceptor| Handshake {
            acceptor: acceptor.clone(),
            client: ends.client,
            patience: if self.overloaded { patience.min(HANDSHAKE_OVERLOADED) } else { patience },
            drain: drain.clone(),
        });
        let counts = handshake.is_some().then(|| snapshot.listener_counts(self.listener).clone());
        drop(snapshot);
        // Boxed, as a handshake takes more room than the connection after it needs.
        let met = match handshake {
            Some(handshake) => Box::pin(handshake.meet(socket)).await,
            None => Met::Client(Transport::Clear(socket), None),
        };
        let refusal = self.overloaded.then_some(TOO_MANY);
        let (transport, facts, refusal) = match met {
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
        let link = Arc::new(Link::new(self.listener, ends, facts));
        serve_connection(http1, transport, link, refusal).await;
    }

    async fn pass_on(
        self,
        socket: ClientSocket,
        snapshot: Arc<Snapshot>,
        ends: Ends,
        drain: &Drain,
    ) {
        let Self { listener, accepted, overloaded, .. } = self;
        let arrival = tcp::Arrival { snapshot, listener, ends, accepted };
        if overloaded {
            tcp::refuse(&arrival);
        } else {
            tcp::serve(socket, arrival, overdue(drain.phase())).await;
        }
    }

    /// Whose connection it is if nobody says otherwise. The system is asked for what the client has
    /// connected to only if that will be told to a backend.
    fn own_ends(&self, socket: &ClientSocket, snapshot: &Snapshot) -> Ends {
        let server = || socket.socket().local_address();
        Ends { client: self.peer, server: snapshot.announces_clients().then(server).flatten() }
    }

    /// What the proxy in front says of the connection, if it says anything.
    async fn read_header(
        &self,
        socket: &ClientSocket,
        listener: &Listener,
        protocol: &ProxyProtocol,
        drain: &Drain,
    ) -> Result<Option<Ends>, Rejected> {
        let expecting = Expecting {
            socket: socket.socket(),
            protocol,
            peer: self.peer.map(|address| address.ip()),
            until: (self.accepted + listener.timeouts.header).into(),
            // A client of HTTP that says nothing wants nothing.
            may_be_silent: !listener.is_http(),
        };
        expecting.read(drain).await
    }

    /// A fault of whoever connects is no error of ours, and there may be many of them.
    fn log_rejected(&self, listener: &Listener, why: &Rejected) {
        let peer = self.peer.map_or_else(|| "a unix socket".to_owned(), |peer| peer.to_string());
        log::debug!("listener {}: a connection from {peer} is closed: {why}", listener.name);
    }
}
