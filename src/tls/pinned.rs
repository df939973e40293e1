//! Backends that show one of the certificates in `ca` itself, though it is an authority's: what plain `openssl
//! req -x509` makes. As an authority it vouches for others, and rustls takes no authority for a server. But who
//! is given it as the one to believe means the backend that has its key; OpenSSL sees it so.
//!
//! Pingora 0.9.1 has no hook for that in its handshake. So a backend is met in one of two ways. By authority,
//! the handshake verifies all of its certificate. By itself, it verifies only that the backend has the key of
//! the certificate that it shows, and before any of a request is sent, we check that this is one of `ca`.
//! Which way it is shows when the other fails, and is remembered with the backend.

use super::certificate::serving_authority;
use crate::model::{Authorities, Validity};
use pingora_core::{Error, ErrorType, protocols::tls::SslDigest, upstreams::peer::HttpPeer};
use rustls::{
    Error as TlsError,
    client::verify_server_name,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What is wrong with a certificate that was to be one of `ca`.
const STRANGER: &str = "invalid peer certificate: it is none of those in ca";

/// In which way a backend is met: by authority at first.
#[derive(Debug, Default)]
pub struct Trust {
    /// How often that has changed: an odd number says that it is by itself.
    turns: AtomicU32,
}

impl Trust {
    /// What tells apart the kept connections that may be used: those that were made by authority; or those
    /// that were made by itself, and not before that was last given up. Those may be a stranger's.
    /// `None` is by authority.
    pub(super) fn key(&self) -> Option<u64> {
        let turns = self.turns.load(Relaxed);
        // Beside what else such a key is made of, which is a small number or a digest.
        (turns % 2 == 1).then(|| u64::from(turns) << 32)
    }

    fn turn(&self, by_itself: bool) {
        let is_other = |turns: u32| (turns % 2 == 1) != by_itself;
        let next = |turns: u32| is_other(turns).then(|| turns.wrapping_add(1));
        // An error says that somebody else has turned it meanwhile.
        let _ = self.turns.fetch_update(Relaxed, Relaxed, next);
    }
}

/// A certificate in `ca` that a backend may show itself.
#[derive(Debug)]
struct Pin {
    certificate: CertificateDer<'static>,
    /// Its SHA-256, as Pingora tells of a certificate.
    digest: [u8; 32],
    validity: Validity,
}

impl Pin {
    fn of(certificate: &CertificateDer<'static>) -> Option<Self> {
        // What rustls does not understand it would not have taken for a server's either.
        ParsedCertificate::try_from(certificate).ok()?;
        let validity = serving_authority(certificate)?;
        let digest = Sha256::digest(certificate).into();
        Some(Self { certificate: certificate.clone(), digest, validity })
    }

    fn is_valid(&self, now: UnixTime) -> bool {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        (self.validity.from..=self.validity.until).contains(&now)
    }

    /// Whether it is for this server.
    fn verify_name(&self, name: &ServerName<'_>) -> Result<(), TlsError> {
        verify_server_name(&ParsedCertificate::try_from(&self.certificate)?, name)
    }

    /// What is wrong with it for the server that `peer` is. Where any name will do, nothing is.
    fn problem(&self, peer: &HttpPeer) -> Option<String> {
        if !peer.options.verify_hostname {
            return None;
        }
        let verified = match ServerName::try_from(peer.sni.as_str()) {
            Ok(name) => self.verify_name(&name),
            Err(_) => Err(TlsError::General("it has no name".to_owned())),
        };
        verified.err().map(|error| error.to_string())
    }
}

/// The certificates in `ca` that a backend may show itself.
#[derive(Debug)]
pub(super) struct Pinned(Vec<Pin>);

impl Pinned {
    /// None are where nothing is verified, and none among the system's: nobody has chosen those for a backend.
    pub(super) fn of(authorities: Option<&Authorities>) -> Self {
        let chosen = authorities.filter(|authorities| authorities.file.is_some());
        let certificates = chosen.iter().flat_map(|authorities| authorities.certificates.iter());
        Self(certificates.filter_map(Pin::of).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn has_valid(&self) -> bool {
        let now = UnixTime::now();
        self.0.iter().any(|pin| pin.is_valid(now))
    }

    /// Whether `shown` is one of them at `now`, and is for the server of this name. `None` if it is none.
    pub(super) fn verify(
        &self,
        shown: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Option<Result<(), TlsError>> {
        let pin = self.0.iter().find(|pin| pin.certificate == *shown)?;
        pin.is_valid(now).then(|| pin.verify_name(name))
    }

    /// Checks a backend that `peer` has met by itself, by the certificate that it has shown. If that is none of
    /// these, the backend is met by authority from now on.
    pub(super) fn check(
        &self,
        peer: &HttpPeer,
        shown: Option<&SslDigest>,
        trust: &Trust,
    ) -> pingora_core::Result<()> {
        let problem = self.find(shown).map_or_else(
            || {
                trust.turn(false);
                Some(STRANGER.to_owned())
            },
            |pin| pin.problem(peer),
        );
        let Some(why) = problem else { return Ok(()) };
        // As Pingora has it of a handshake that fails.
        let context = format!("cause: {why}, SNI: {}", peer.sni);
        Err(Error::explain(ErrorType::TLSHandshakeFailure, context).into_up())
    }

    /// The one that was shown, if it is valid now.
    fn find(&self, shown: Option<&SslDigest>) -> Option<&Pin> {
        let (shown, now) = (shown?, UnixTime::now());
        let pin = self.0.iter().find(|pin| pin.digest[..] == shown.cert_digest[..])?;
        pin.is_valid(now).then_some(pin)
    }

    /// Whether a backend that was not met because of this may be met in the other way.
    pub(super) fn is_met_otherwise(&self, why: &str, trust: &Trust) -> bool {
        if why == STRANGER {
            return true;
        }
        let by_itself = is_of_authority(why) && self.has_valid();
        if by_itself {
            trust.turn(true);
        }
        by_itself
    }
}

/// Whether a handshake failed because a certificate is an authority's.
pub(super) fn is_of_authority(why: &str) -> bool {
    why == "invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))"
}
