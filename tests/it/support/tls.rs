//! Certificates made for the occasion, clients that speak TLS, and origins behind it.

use super::{
    Origin, Raw,
    address::{Address, Reserved},
    h2_origin::H2Origin,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Who signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate and its key, both as PEM.
#[derive(Clone)]
pub struct Certificate {
    pub pem: String,
    pub key: String,
}

impl Certificate {
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.pem.as_bytes()).map(Result::unwrap).collect()
    }

    /// One that is an authority's and signed by itself, as plain `openssl req -x509` makes it.
    pub fn self_signed(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = params(names);
        params.distinguished_name.push(DnType::CommonName, "localhost");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, key: key.serialize_pem() }
    }

    fn secret(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// Parameters that are valid whatever the machine's clock says.
fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2120, 1, 1);
    params
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = params(&[]);
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A server's certificate for these names and addresses.
    pub fn server(&self, names: &[&str]) -> Certificate {
        self.sign(names, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        })
    }

    /// A client's certificate.
    pub fn client(&self, common_name: &str) -> Certificate {
        self.sign(&[], |params| {
            params.distinguished_name.push(DnType::OrganizationName, "Tests");
            params.distinguished_name.push(DnType::CommonName, common_name);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        })
    }

    /// A certificate that is no longer valid.
    pub fn expired(&self, names: &[&str]) -> Certificate {
        self.sign(names, |params| params.not_after = rcgen::date_time_ymd(2021, 1, 1))
    }

    pub fn sign(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Certificate {
        self.sign_with(&KeyPair::generate().unwrap(), names, change)
    }

    pub fn sign_with(
        &self,
        key: &KeyPair,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Certificate {
        let mut params = params(names);
        change(&mut params);
        let pem = params.signed_by(key, &self.issuer).unwrap().pem();
        Certificate { pem, key: key.serialize_pem() }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        Arc::new(roots)
    }
}

/// A client's side of TLS. Connections made with the same one can resume each other's sessions.
#[derive(Clone)]
pub struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// One that believes `authority`.
    pub fn new(authority: &Authority) -> Self {
        Self::with(authority, rustls::ALL_VERSIONS, provider())
    }

    /// One that speaks only this version.
    pub fn only(authority: &Authority, version: &'static SupportedProtocolVersion) -> Self {
        Self::with(authority, &[version], provider())
    }

    pub fn with(
        authority: &Authority,
        versions: &[&'static SupportedProtocolVersion],
        provider: Arc<CryptoProvider>,
    ) -> Self {
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(authority.roots())
            .with_no_client_auth();
        Self(Arc::new(config))
    }

    /// The same with changed settings.
    #[must_use]
    pub fn but(&self, change: impl FnOnce(&mut ClientConfig)) -> Self {
        let mut config = ClientConfig::clone(&self.0);
        // A session of the other is not one of this.
        config.resumption = rustls::client::Resumption::in_memory_sessions(16);
        change(&mut config);
        Self(Arc::new(config))
    }

    /// The same, showing a certificate to whoever asks.
    #[must_use]
    pub fn showing(&self, certificate: &Certificate) -> Self {
        let key = provider().key_provider.load_private_key(certificate.secret()).unwrap();
        let certified = rustls::sign::CertifiedKey::new(certificate.chain(), key);
        let resolver = rustls::sign::SingleCertAndKey::from(certified);
        self.but(|config| config.client_auth_cert_resolver = Arc::new(resolver))
    }

    /// The same, taking any certificate: for tests that look at it themselves.
    #[must_use]
    pub fn credulous(&self, authority: &Authority) -> Self {
        let verifier = WebPkiServerVerifier::builder_with_provider(authority.roots(), provider());
        let credulous = Credulous(verifier.build().unwrap());
        self.but(|config| config.dangerous().set_certificate_verifier(Arc::new(credulous)))
    }

    /// The same, asking for no name.
    #[must_use]
    pub fn nameless(&self) -> Self {
        self.but(|config| config.enable_sni = false)
    }

    /// The same, offering these protocols by ALPN.
    #[must_use]
    pub fn offering(&self, protocols: &[&str]) -> Self {
        self.but(|config| {
            config.alpn_protocols = protocols.iter().map(|protocol| (*protocol).into()).collect();
        })
    }

    /// Makes a handshake that asks for `name`.
    pub async fn meet(
        &self,
        name: &str,
        stream: TcpStream,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(self.0.clone()).connect(name, stream).await
    }

    /// A connection that asks for `name`.
    pub fn connection(&self, name: &str) -> ClientConnection {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        ClientConnection::new(self.0.clone(), name).unwrap()
    }
}

/// Takes any certificate whose key signs.
#[derive(Debug)]
struct Credulous(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// What a front saw of one handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The name that was asked for.
    pub name: Option<String>,
    /// Whether a certificate was shown.
    pub identified: bool,
    /// What ALPN came to, if the other side uses it.
    pub alpn: Option<String>,
}

/// TLS in front of an origin or a raw server: what comes in is passed on in the clear. If that breaks
/// off, so does this, without `close_notify`.
pub struct TlsFront {
    address: Address,
    _port: Reserved,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<()>>,
}

struct Shared {
    config: Mutex<Arc<ServerConfig>>,
    /// Where connections go, and where those of HTTP/2 do.
    origins: [SocketAddr; 2],
    seen: Mutex<Vec<Seen>>,
    accepted: AtomicUsize,
}

impl TlsFront {
    /// Shows `certificate` and asks for none.
    pub fn new(origin: &Origin, certificate: &Certificate) -> Self {
        Self::start([origin.address(); 2], config(certificate, None))
    }

    /// Speaks these protocols by ALPN, none of them being no ALPN. Connections on which HTTP/2 is chosen
    /// go to an origin of their own.
    pub fn speaking(
        protocols: &[&str],
        h2: &H2Origin,
        origin: &Origin,
        certificate: &Certificate,
    ) -> Self {
        let mut config = config(certificate, None);
        config.alpn_protocols = protocols.iter().map(|protocol| (*protocol).into()).collect();
        Self::start([origin.address(), h2.address()], config)
    }

    /// Shows `certificate`, and wants one that `authority` has signed.
    pub fn asking(origin: &Origin, certificate: &Certificate, authority: &Authority) -> Self {
        Self::start([origin.address(); 2], config(certificate, Some(authority)))
    }

    /// Shows `certificate`, and asks for none or for one that the authority has signed.
    pub fn of_raw(raw: &Raw, certificate: &Certificate, asking: Option<&Authority>) -> Self {
        Self::start([raw.address(); 2], config(certificate, asking))
    }

    fn start(origins: [&Address; 2], config: ServerConfig) -> Self {
        let port = Reserved::new();
        let address = port.address();
        let (Address::Tcp(own), [Address::Tcp(origin), Address::Tcp(h2)]) = (&address, origins)
        else {
            panic!("a front has an address of its own and ones to go to");
        };
        let shared = Arc::new(Shared {
            config: Mutex::new(Arc::new(config)),
            origins: [*origin, *h2],
            seen: Mutex::default(),
            accepted: AtomicUsize::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let running = thread::spawn({
            let (shared, own) = (shared.clone(), *own);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(async {
                    let socket = Address::Tcp(own).bind().unwrap();
                    socket.listen(1024).unwrap();
                    socket.set_nonblocking(true).unwrap();
                    let listener = TcpListener::from_std(socket.into()).unwrap();
                    ready.send(()).unwrap();
                    tokio::select! {
                        () = accept(listener, shared) => {}
                        _ = stopped => {}
                    }
                });
            }
        });
        is_ready.recv().unwrap();
        Self { address, _port: port, shared, stop: Some(stop), running: Some(running) }
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// This front as an entry of `backends:`.
    pub fn entry(&self, name: &str) -> String {
        format!("{{ address: \"{}\", name: {name} }}", self.address)
    }

    /// Shows another certificate from the next connection on.
    pub fn show(&self, certificate: &Certificate) {
        let mut now = self.shared.config.lock().unwrap();
        let mut config = config(certificate, None);
        config.alpn_protocols.clone_from(&now.alpn_protocols);
        *now = Arc::new(config);
    }

    /// The handshakes that came about.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// The names that were asked for in them.
    pub fn names(&self) -> Vec<String> {
        let name = |seen: Seen| seen.name.unwrap_or_else(|| "(none)".to_owned());
        self.seen().into_iter().map(name).collect()
    }

    /// Connections it accepted, whatever became of the handshake.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(running) = self.running.take() {
            let _ = running.join();
        }
    }
}

fn config(certificate: &Certificate, clients: Option<&Authority>) -> ServerConfig {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => builder.with_client_cert_verifier(
            WebPkiClientVerifier::builder_with_provider(authority.roots(), provider())
                .build()
                .unwrap(),
        ),
    };
    builder.with_single_cert(certificate.chain(), certificate.secret()).unwrap()
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        stream.set_nodelay(true).unwrap();
        // Ends with the runtime, however it ends.
        tokio::spawn(serve(stream, shared.clone()));
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let config = shared.config.lock().unwrap().clone();
    let Ok(mut client) = TlsAcceptor::from(config).accept(stream).await else { return };
    let connection = client.get_ref().1;
    shared.seen.lock().unwrap().push(Seen {
        name: connection.server_name().map(str::to_owned),
        identified: connection.peer_certificates().is_some(),
        alpn: connection.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned()),
    });
    let http2 = connection.alpn_protocol() == Some(b"h2");
    let origin = shared.origins[usize::from(http2)];
    let Ok(mut origin) = TcpStream::connect(origin).await else { return };
    origin.set_nodelay(true).unwrap();
    // With an end on one side, the other is told of it; with a failure, it is cut off.
    let _ = copy_bidirectional(&mut client, &mut origin).await;
}
