//! The probes: a connection, and an HTTP request whose answer is judged.
//!
//! Connections are Pingora's, made by connectors of ours: its `TcpHealthCheck` and `HttpHealthCheck`
//! make their own, which read the system's authorities each time, and the second has no view of the
//! body and no deadline for the whole. In a pool that speaks TLS, a probe does as requests do, so a
//! backend whose certificate is not good is down.

use super::ProbeReport;
use crate::{
    model::{BackendProtocol, GrpcProbe, HealthCheck, HttpProbe, Probe, StatusRange},
    pool::{Dialer, Member, Pool, Preamble, is_lack_of_ours, system_error},
    tls::{self, PeerTls},
};
use http::{HeaderValue, Uri};
use pingora::{ErrorType, OrErr, http::RequestHeader};
use pingora_core::{
    connectors::{TransportConnector, http::Connector, l4::Connect},
    protocols::http::client::HttpSession,
    protocols::{l4::socket::SocketAddr, tls::SslDigest},
    upstreams::peer::{ALPN, HttpPeer},
};
use std::{
    borrow::Cow,
    fmt::Write as _,
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

/// How much of a body is searched for the expected text.
const MAX_BODY: usize = 256 * 1024;
/// A probe makes a connection of its own, so there is nothing to keep; Pingora wants room for one.
const NONE_KEPT: usize = 1;

/// What probes connect through, made on first use and shared by all pools: one for HTTP takes some
/// 45 KiB, most of it for TLS.
#[derive(Default)]
pub(in crate::pool) struct Connectors {
    tcp: OnceLock<TransportConnector>,
    http: OnceLock<Connector>,
}

impl Connectors {
    fn tcp(&self) -> &TransportConnector {
        let new = || TransportConnector::new(Some(tls::connector_options(NONE_KEPT)));
        self.tcp.get_or_init(new)
    }

    fn http(&self) -> &Connector {
        self.http.get_or_init(|| Connector::new(Some(tls::connector_options(NONE_KEPT))))
    }
}

impl std::fmt::Debug for Connectors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connectors").finish_non_exhaustive()
    }
}

/// Why a probe failed.
struct Failure {
    reason: String,
    /// Whether it is us who lacked something.
    ours: bool,
    /// Whether the backend may be met otherwise, at once.
    otherwise: bool,
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self { reason, ours: false, otherwise: false }
    }
}

/// Probes the backends of one pool.
pub(super) struct Prober {
    probe: Probe,
    protocol: BackendProtocol,
    tls: Option<Arc<PeerTls>>,
    connectors: Arc<Connectors>,
    /// What connects, where something goes ahead of the probe.
    pub(super) dialer: Option<Arc<dyn Connect + Send + Sync>>,
}

impl Prober {
    /// The probes of a pool. A backend that expects a PROXY header would take a probe without it for
    /// a fault.
    pub(super) fn new(check: &HealthCheck, pool: &Pool) -> Self {
        let dialer = pool.spec().proxy_protocol.map(|version| {
            let preamble = Some(Preamble::of_our_own(version));
            Arc::new(Dialer { timeout: check.timeout, preamble }) as Arc<dyn Connect + Send + Sync>
        });
        Self {
            probe: check.probe.clone(),
            protocol: match check.probe {
                Probe::Grpc(_) => BackendProtocol::Http2,
                Probe::Tcp | Probe::Http(_) => pool.spec().protocol,
            },
            tls: pool.tls().cloned(),
            connectors: pool.connectors.clone(),
            dialer,
        }
    }

    /// Probes `member`; the whole probe ends by `timeout`.
    pub(super) async fn probe(&self, member: &Member, timeout: Duration) -> ProbeReport {
        let probing = async {
            let mut turned = false;
            loop {
                match self.try_once(member).await {
                    Err(Failure { otherwise: true, .. }) if !turned => turned = true,
                    tried => break tried,
                }
            }
        };
        match tokio::time::timeout(timeout, probing).await {
            Ok(Ok(())) => ProbeReport::Good,
            Ok(Err(Failure { reason, ours: false, .. })) => ProbeReport::Bad(reason),
            Ok(Err(Failure { reason, ours: true, .. })) => ProbeReport::NotMade(reason),
            Err(_) => ProbeReport::Bad(format!("timed out after {timeout:?}")),
        }
    }

    async fn try_once(&self, member: &Member) -> Result<(), Failure> {
        let peer = self.peer(member);
        match &self.probe {
            Probe::Tcp => self.connect(member, &peer).await,
            Probe::Http(probe) => self.ask(probe, member, &peer).await,
            Probe::Grpc(probe) => self.ask_grpc(probe, member, &peer).await,
        }
    }

    fn peer(&self, member: &Member) -> HttpPeer {
        // Built from a placeholder because Pingora's constructors would resolve or unwrap.
        let mut peer = HttpPeer::new("0.0.0.0:1", false, String::new());
        peer._address = member.address().clone();
        if let (Some(port), SocketAddr::Inet(address)) = (self.port(), &mut peer._address) {
            // What is on another port is another server.
            address.set_port(port);
        } else {
            peer.options.custom_l4.clone_from(&self.dialer);
        }
        let (newest, oldest) = self.protocol.versions();
        peer.options.set_http_version(newest, oldest);
        if let Some(tls) = &self.tls {
            let trust = member.state().probe_trust();
            tls.secure(&mut peer, trust, || self.server_name(member).map(Cow::Owned));
        }
        peer
    }

    /// Connects, speaks TLS where the pool does, and closes.
    async fn connect(&self, member: &Member, peer: &HttpPeer) -> Result<(), Failure> {
        let connecting = self.connectors.tcp().new_stream(peer);
        let mut stream = connecting.await.map_err(|error| self.unmet(member, error))?;
        if !peer.is_tls() {
            return Ok(());
        }
        let chosen = stream.selected_alpn_proto();
        let shown = stream.get_ssl_digest();
        // Left without a word, many a backend would log it as a fault.
        stream.shutdown().await;
        self.believe(member, peer, shown.as_deref())?;
        Ok(self.check(chosen == Some(ALPN::H2))?)
    }

    /// Connects for HTTP. Nothing is asked of who is not believed.
    async fn session(&self, member: &Member, peer: &HttpPeer) -> Result<HttpSession, Failure> {
        let connecting = self.connectors.http().get_http_session(peer);
        let (mut session, _) = connecting.await.map_err(|error| self.unmet(member, error))?;
        let shown = session.digest().and_then(|digest| digest.ssl_digest.as_deref());
        if let Err(failure) = self.believe(member, peer, shown) {
            session.shutdown().await;
            return Err(failure);
        }
        Ok(session)
    }

    /// Whether a backend that speaks TLS is who it is to be.
    fn believe(
        &self,
        member: &Member,
        peer: &HttpPeer,
        shown: Option<&SslDigest>,
    ) -> Result<(), Failure> {
        let Some(tls) = &self.tls else { return Ok(()) };
        let checked = tls.check(peer, shown, member.state().probe_trust());
        checked.map_err(|error| self.unmet(member, error))
    }

    #[allow(clippy::needless_pass_by_value, reason = "it is what becomes of the error")]
    fn unmet(&self, member: &Member, error: pingora::BError) -> Failure {
        let trust = member.state().probe_trust();
        Failure {
            ours: is_lack_of_ours(&error),
            otherwise: self.tls.as_ref().is_some_and(|tls| tls.is_met_otherwise(&error, trust)),
            reason: reason(&error),
        }
    }

    /// Whether a backend that speaks TLS speaks what it must.
    fn check(&self, http2: bool) -> Result<(), String> {
        if self.protocol == BackendProtocol::Http2 && !http2 {
            return Err(tls::NOT_HTTP2.to_owned());
        }
        Ok(())
    }

    /// Sends the request, in the protocol that the backend chose, and judges the answer.
    async fn ask(
        &self,
        probe: &HttpProbe,
        member: &Member,
        peer: &HttpPeer,
    ) -> Result<(), Failure> {
        let mut session = self.session(member, peer).await?;
        let http2 = session.as_http2().is_some();
        let judged = match self.check(http2) {
            Ok(()) if http2 => probe.converse(&mut session, probe.http2(member, peer)).await,
            Ok(()) => probe.converse(&mut session, probe.http1(member)).await,
            Err(wrong) => Err(wrong),
        };
        session.shutdown().await;
        Ok(judged?)
    }

    /// Asks by gRPC's health checking protocol.
    async fn ask_grpc(
        &self,
        probe: &GrpcProbe,
        member: &Member,
        peer: &HttpPeer,
    ) -> Result<(), Failure> {
        let mut session = self.session(member, peer).await?;
        let judged = match &mut session {
            HttpSession::H2(stream) => probe.converse(stream, member.authority(), peer).await,
            HttpSession::H1(_) | HttpSession::Custom(()) => Err(tls::NOT_HTTP2.to_owned()),
        };
        session.shutdown().await;
        Ok(judged?)
    }

    /// A port other than the backend's own.
    fn port(&self) -> Option<u16> {
        match &self.probe {
            Probe::Tcp | Probe::Grpc(_) => None,
            Probe::Http(probe) => probe.port,
        }
    }

    /// The name that the backend must have a certificate for. Where requests bring it along and the
    /// configuration does not tell it, a probe cannot know it.
    fn server_name(&self, member: &Member) -> Option<String> {
        let asked = match &self.probe {
            Probe::Tcp | Probe::Grpc(_) => None,
            Probe::Http(probe) => probe.host.as_ref().and_then(host_without_port),
        };
        asked.or_else(|| member.host_name().map(str::to_owned))
    }
}

/// A `Host` without its port, and without the brackets of an address.
fn host_without_port(host: &HeaderValue) -> Option<String> {
    let authority: http::uri::Authority = host.to_str().ok()?.parse().ok()?;
    Some(authority.host().trim_matches(['[', ']']).to_owned())
}

impl HttpProbe {
    async fn converse(
        &self,
        session: &mut HttpSession,
        request: pingora::Result<RequestHeader>,
    ) -> Result<(), String> {
        let failed = |error: pingora::BError| reason(&error);
        session.write_request_header(Box::new(request.map_err(failed)?)).await.map_err(failed)?;
        session.finish_request_body().await.map_err(failed)?;
        session.read_response_header().await.map_err(failed)?;
        let status = session.response_header().ok_or("no answer")?.status.as_u16();
        self.judge_status(status)?;
        let Some(text) = &self.expect_body else { return Ok(()) };
        let body = read_body(session).await?;
        if memchr::memmem::find(&body, text.as_bytes()).is_none() {
            return Err(format!("the body does not contain {text:?}"));
        }
        Ok(())
    }

    fn judge_status(&self, status: u16) -> Result<(), String> {
        let expected = &self.expect_status;
        if expected.iter().any(|range| (range.from..=range.to).contains(&status)) {
            return Ok(());
        }
        Err(format!("status {status}, expected {}", ranges(expected)))
    }

    fn http1(&self, member: &Member) -> pingora::Result<RequestHeader> {
        let mut request = RequestHeader::build(self.method.clone(), self.path.as_bytes(), None)?;
        request.insert_header("Host", self.authority(member))?;
        request.insert_header("Connection", "close")?;
        self.complete(request)
    }

    fn http2(&self, member: &Member, peer: &HttpPeer) -> pingora::Result<RequestHeader> {
        let mut request = RequestHeader::build(self.method.clone(), self.path.as_bytes(), None)?;
        request.set_uri(absolute(self.authority(member), &self.path, peer)?);
        self.complete(request)
    }

    fn authority<'a>(&'a self, member: &'a Member) -> &'a HeaderValue {
        self.host.as_ref().unwrap_or_else(|| member.authority())
    }

    /// Adds what does not depend on the protocol.
    fn complete(&self, mut request: RequestHeader) -> pingora::Result<RequestHeader> {
        request.insert_header("User-Agent", "pingora-lb-health-check")?;
        for (name, value) in &self.headers {
            request.insert_header(name.clone(), value)?;
        }
        Ok(request)
    }
}

/// The URI from which Pingora takes the pseudo-header fields.
pub(super) fn absolute(host: &HeaderValue, path: &str, peer: &HttpPeer) -> pingora::Result<Uri> {
    let scheme = if peer.is_tls() { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(host.as_bytes()).path_and_query(path);
    uri.build().or_err(ErrorType::InvalidHTTPHeader, "the URI of a health check")
}

async fn read_body(session: &mut HttpSession) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(piece) = session.read_response_body().await.map_err(|error| reason(&error))? {
        body.extend_from_slice(&piece);
        if body.len() > MAX_BODY {
            break;
        }
    }
    Ok(body)
}

fn ranges(ranges: &[StatusRange]) -> String {
    let mut text = String::new();
    for range in ranges {
        let separator = if text.is_empty() { "" } else { ", " };
        let written = if range.from == range.to {
            write!(text, "{separator}{}", range.from)
        } else {
            write!(text, "{separator}{}-{}", range.from, range.to)
        };
        written.expect("writing to a String cannot fail");
    }
    text
}

/// Why a probe failed, in a few words: the system's own for what the system refused, else
/// Pingora's name for it.
pub(super) fn reason(error: &pingora::BError) -> String {
    if let Some(why) = tls::failure(error) {
        return format!("TLS handshake failed: {why}");
    }
    if let Some(error) = system_error(error) {
        return io_reason(error);
    }
    match error.etype() {
        pingora::ErrorType::ConnectRefused => "connection refused".to_owned(),
        pingora::ErrorType::ConnectTimedout => "connect timed out".to_owned(),
        pingora::ErrorType::ConnectionClosed => "closed before it answered".to_owned(),
        pingora::ErrorType::InvalidHTTPHeader => "malformed answer".to_owned(),
        other => other.as_str().to_owned(),
    }
}

fn io_reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::NotFound => "no such socket".to_owned(),
        io::ErrorKind::UnexpectedEof => "closed before it answered".to_owned(),
        _ => error.to_string(),
    }
}
