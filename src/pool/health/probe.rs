//! The probes: a TCP handshake, and an HTTP request whose answer is judged.
//!
//! Connections are Pingora's. Its `TcpHealthCheck` serves as it is; its `HttpHealthCheck` has no
//! view of the body and no deadline for the whole, so the HTTP probe drives Pingora's HTTP client
//! itself.

use super::ProbeReport;
use crate::{
    model::{HealthCheck, HttpProbe, Probe, ProxyVersion, StatusRange},
    pool::{Dialer, Member, Preamble, backend::selectable},
};
use pingora::http::RequestHeader;
use pingora_core::{
    connectors::{http::Connector, l4::Connect},
    protocols::http::client::HttpSession,
    protocols::l4::socket::SocketAddr,
    upstreams::peer::HttpPeer,
};
use pingora_load_balancing::health_check::{HealthCheck as _, TcpHealthCheck};
use std::{error::Error as StdError, fmt::Write as _, io, sync::Arc, time::Duration};

/// How much of a body is searched for the expected text.
const MAX_BODY: usize = 256 * 1024;

/// Probes the backends of one pool.
pub(super) enum Prober {
    Tcp(Box<TcpHealthCheck>),
    Http(Box<HttpProber>),
}

/// An HTTP probe and the connector it goes through.
pub(super) struct HttpProber {
    probe: HttpProbe,
    connector: Connector,
    /// What connects, where something goes ahead of the request.
    dialer: Option<Arc<dyn Connect + Send + Sync>>,
}

impl Prober {
    /// The probes of a pool whose backends get this version of the PROXY header. A backend that
    /// expects one would take a probe without it for a fault.
    pub(super) fn new(check: &HealthCheck, proxy_protocol: Option<ProxyVersion>) -> Self {
        let dialer = proxy_protocol.map(|version| {
            let preamble = Some(Preamble::of_our_own(version));
            Arc::new(Dialer { timeout: check.timeout, preamble }) as Arc<dyn Connect + Send + Sync>
        });
        match &check.probe {
            Probe::Tcp => {
                let mut tcp = TcpHealthCheck::new();
                tcp.peer_template.options.connection_timeout = Some(check.timeout);
                tcp.peer_template.options.custom_l4 = dialer;
                Self::Tcp(tcp)
            }
            Probe::Http(probe) => Self::Http(Box::new(HttpProber {
                // What is on another port is another server.
                dialer: dialer.filter(|_| probe.port.is_none()),
                probe: probe.clone(),
                connector: Connector::new(None),
            })),
        }
    }

    /// Probes `member`; the whole probe ends by `timeout`.
    pub(super) async fn probe(&self, member: &Member, timeout: Duration) -> ProbeReport {
        let probe = async {
            match self {
                Self::Tcp(check) => {
                    let target = selectable(member.address().clone());
                    check.check(&target).await.map_err(|error| reason(&error))
                }
                Self::Http(prober) => prober.probe(member).await,
            }
        };
        match tokio::time::timeout(timeout, probe).await {
            Ok(Ok(())) => ProbeReport::success(),
            Ok(Err(reason)) => ProbeReport::failure(reason),
            Err(_) => ProbeReport::failure(format!("timed out after {timeout:?}")),
        }
    }
}

impl HttpProber {
    async fn probe(&self, member: &Member) -> Result<(), String> {
        let peer = self.peer(member);
        let request = self.request(member).map_err(|error| reason(&error))?;
        let (mut session, _) =
            self.connector.get_http_session(&peer).await.map_err(|error| reason(&error))?;
        let judged = self.converse(&mut session, request).await;
        session.shutdown().await;
        judged
    }

    async fn converse(
        &self,
        session: &mut HttpSession,
        request: RequestHeader,
    ) -> Result<(), String> {
        let failed = |error: pingora::BError| reason(&error);
        session.write_request_header(Box::new(request)).await.map_err(failed)?;
        session.finish_request_body().await.map_err(failed)?;
        session.read_response_header().await.map_err(failed)?;
        let status = session.response_header().ok_or("no answer")?.status.as_u16();
        self.judge_status(status)?;
        let Some(text) = &self.probe.expect_body else { return Ok(()) };
        let body = read_body(session).await?;
        if memchr::memmem::find(&body, text.as_bytes()).is_none() {
            return Err(format!("the body does not contain {text:?}"));
        }
        Ok(())
    }

    fn judge_status(&self, status: u16) -> Result<(), String> {
        let expected = &self.probe.expect_status;
        if expected.iter().any(|range| (range.from..=range.to).contains(&status)) {
            return Ok(());
        }
        Err(format!("status {status}, expected {}", ranges(expected)))
    }

    fn request(&self, member: &Member) -> pingora::Result<RequestHeader> {
        let probe = &self.probe;
        let mut request = RequestHeader::build(probe.method.clone(), probe.path.as_bytes(), None)?;
        let host = probe.host.as_ref().unwrap_or_else(|| member.authority());
        request.insert_header("Host", host)?;
        request.insert_header("User-Agent", "pingora-lb-health-check")?;
        request.insert_header("Connection", "close")?;
        for (name, value) in &probe.headers {
            request.insert_header(name.clone(), value)?;
        }
        Ok(request)
    }

    fn peer(&self, member: &Member) -> HttpPeer {
        // Built from a placeholder because Pingora's constructors would resolve or unwrap.
        let mut peer = HttpPeer::new("0.0.0.0:1", false, String::new());
        peer._address = member.address().clone();
        peer.options.custom_l4.clone_from(&self.dialer);
        if let (Some(port), SocketAddr::Inet(address)) = (self.probe.port, &mut peer._address) {
            address.set_port(port);
        }
        peer
    }
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
fn reason(error: &pingora::BError) -> String {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error.root_cause());
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<io::Error>() {
            return io_reason(io);
        }
        cause = inner.source();
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
