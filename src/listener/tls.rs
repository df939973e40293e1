//! The TLS handshake with a client: until it is over, nothing of HTTP is there to be answered.

use super::{
    Drain,
    drain::{drained, overdue},
    transport::{ClientSocket, Transport},
};
use crate::{
    observe::Unused,
    tls::{Acceptor, TlsFacts},
};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// After a handshake that failed, what the client still sends is read and thrown away for at most
/// this long: closing at once could take the alert with it that tells the client why.
const LINGER: Duration = Duration::from_millis(200);

const TOO_SLOW: &str = "it took too long";

/// What came of a client.
pub(super) enum Met {
    /// It is to be served; with what its handshake came to, if it has made one.
    Client(Transport, Option<Arc<TlsFacts>>),
    /// It speaks HTTP in the clear where TLS is spoken.
    InTheClear(Transport),
    /// It is gone, or was let go, for this reason.
    Nobody(Unused),
}

/// A handshake that is to be made.
pub(super) struct Handshake {
    pub(super) acceptor: Arc<Acceptor>,
    /// The client's address; `None` on a unix socket.
    pub(super) client: Option<SocketAddr>,
    /// The longest that all of it may take.
    pub(super) patience: Duration,
    pub(super) drain: Drain,
}

impl Handshake {
    /// Meets a client. Once draining has begun there is less time, as for a request.
    pub(super) async fn meet(self, socket: ClientSocket) -> Met {
        let until = Instant::now() + self.patience;
        let first = tokio::select! {
            biased;
            first = socket.peek() => first,
            () = tokio::time::sleep_until(until) => return self.failed(TOO_SLOW),
            () = drained(self.drain.phase()) => return Met::Nobody(Unused::Draining),
        };
        match first {
            // A record of TLS begins with its type, 22; a request with its method.
            Ok(Some(byte)) if byte.is_ascii_uppercase() => {
                self.failed("the client speaks HTTP in the clear");
                return Met::InTheClear(Transport::Clear(socket));
            }
            Ok(Some(_)) => {}
            // Connecting and leaving is what those do who check that somebody listens.
            Ok(None) | Err(_) => return Met::Nobody(Unused::ClientLeft),
        }
        tokio::select! {
            biased;
            met = self.shake(socket) => met,
            () = tokio::time::sleep_until(until) => self.failed(TOO_SLOW),
            () = overdue(self.drain.phase()) => self.failed(TOO_SLOW),
        }
    }

    async fn shake(&self, socket: ClientSocket) -> Met {
        let accept = TlsAcceptor::from(self.acceptor.config()).accept(socket);
        match accept.into_fallible().await {
            Ok(stream) => self.succeeded(stream),
            Err((error, socket)) => {
                let met = self.failed(&error.to_string());
                let _ = tokio::time::timeout(LINGER, farewell(socket)).await;
                met
            }
        }
    }

    fn succeeded(&self, stream: TlsStream<ClientSocket>) -> Met {
        match TlsFacts::of(stream.get_ref().1) {
            Ok(facts) => {
                self.acceptor.handshakes().count(facts.resumed);
                Met::Client(Transport::Tls(Box::new(stream)), Some(Arc::new(facts)))
            }
            Err(error) => self.failed(&format!("the client has {error}")),
        }
    }

    /// A client's fault is no error of ours, and there may be many of them.
    fn failed(&self, why: &str) -> Met {
        self.acceptor.handshakes().count_failure();
        let listener = self.acceptor.listener();
        let client = self.client.map_or_else(|| "somebody".to_owned(), |it| it.to_string());
        log::debug!("listener {listener}: a TLS handshake with {client} failed: {why}");
        Met::Nobody(Unused::TlsHandshake)
    }
}

/// Says that nothing more comes, and waits for the client to say the same.
async fn farewell(mut socket: ClientSocket) -> io::Result<()> {
    socket.shutdown().await?;
    let mut piece = [0; 1024];
    while socket.read(&mut piece).await? > 0 {}
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{Alpn, ListenerName, ListenerTls, TlsVersion};
    use rustls::{ClientConfig, pki_types::ServerName};
    use std::path::Path;
    use tokio::net::UnixStream;
    use tokio_rustls::TlsConnector;

    fn certs(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/certs").join(name)
    }

    fn acceptor() -> Arc<Acceptor> {
        let identity = crate::tls::identity(&certs("example.pem"), &certs("example.key"));
        let spec = ListenerTls {
            certificates: vec![identity.unwrap()],
            min_version: TlsVersion::Tls12,
            alpn: vec![Alpn::Http1],
            stream_alpn: Vec::new(),
            client_auth: None,
        };
        Arc::new(Acceptor::new(ListenerName::try_new("web").unwrap(), spec))
    }

    /// What comes of a client on the other end of the stream.
    fn meet(acceptor: &Arc<Acceptor>) -> (UnixStream, tokio::task::JoinHandle<Met>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (patience, drain) = (Duration::from_secs(5), Drain::default());
        let handshake = Handshake { acceptor: acceptor.clone(), client: None, patience, drain };
        (theirs, tokio::spawn(handshake.meet(ours.into())))
    }

    fn counted(acceptor: &Acceptor) -> [u64; 3] {
        let handshakes = acceptor.handshakes();
        [handshakes.full(), handshakes.resumed(), handshakes.failed()]
    }

    fn connector() -> TlsConnector {
        let authorities = crate::tls::authorities(&certs("internal-ca.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(authorities.roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }

    /// A client's connection over TLS, and its other end, with little room between the two.
    pub(in crate::listener) async fn connected()
    -> (Transport, tokio_rustls::client::TlsStream<UnixStream>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        socket2::SockRef::from(&ours).set_send_buffer_size(1).unwrap();
        let handshake = Handshake {
            acceptor: acceptor(),
            client: None,
            patience: Duration::from_secs(5),
            drain: Drain::default(),
        };
        let name = ServerName::try_from("example.com").unwrap();
        let connector = connector();
        let (met, client) =
            tokio::join!(handshake.meet(ours.into()), connector.connect(name, theirs));
        let Met::Client(transport, _) = met else { panic!("a client that speaks TLS") };
        (transport, client.unwrap())
    }

    #[tokio::test]
    async fn handshakes_are_counted() {
        let (acceptor, connector) = (acceptor(), connector());
        for (resumed, counts) in [(false, [1, 0, 0]), (true, [1, 1, 0])] {
            let (client, met) = meet(&acceptor);
            let name = ServerName::try_from("www.example.com").unwrap();
            let mut client = connector.connect(name, client).await.unwrap();
            let Met::Client(mut transport, Some(facts)) = met.await.unwrap() else {
                panic!("a client that speaks TLS")
            };
            assert_eq!(facts.server_name.as_deref(), Some("www.example.com"));
            assert_eq!((facts.version, facts.alpn, facts.resumed), ("TLSv1.3", None, resumed));
            assert_eq!(facts.cipher, "TLS13_AES_256_GCM_SHA384");
            assert_eq!(counted(&acceptor), counts);
            // With the first byte comes the ticket.
            transport.write_all(b"x").await.unwrap();
            transport.flush().await.unwrap();
            client.read_exact(&mut [0]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_no_handshake_is_counted_as_failed() {
        let acceptor = acceptor();
        for (sent, failed) in [("\x16\x03", 1), ("nonsense", 2), ("GET / HTTP/1.1", 3)] {
            let (mut client, met) = meet(&acceptor);
            client.write_all(sent.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            let met = met.await.unwrap();
            assert_eq!(matches!(met, Met::InTheClear(_)), sent.starts_with('G'), "{sent}");
            assert_eq!(counted(&acceptor), [0, 0, failed], "{sent}");
        }
    }

    #[tokio::test]
    async fn who_only_looks_in_is_not_counted() {
        let acceptor = acceptor();
        let (client, met) = meet(&acceptor);
        drop(client);
        assert!(matches!(met.await.unwrap(), Met::Nobody(Unused::ClientLeft)));
        assert_eq!(counted(&acceptor), [0, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_has_its_time() {
        let acceptor = acceptor();
        let (_client, met) = meet(&acceptor);
        let began = Instant::now();
        assert!(matches!(met.await.unwrap(), Met::Nobody(Unused::TlsHandshake)));
        assert_eq!(began.elapsed().as_secs(), 5);
        assert_eq!(counted(&acceptor), [0, 0, 1]);
    }
}
