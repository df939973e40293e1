//! A pool's side of TLS for streams, which Pingora has no part in.

use super::{pinned::Pinned, provider};
use crate::model::PoolTls;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::SingleCertAndKey,
    version::{TLS12, TLS13},
};
use std::sync::Arc;

/// What rustls is told. Sessions that begin with it can be resumed with it.
pub(super) fn client_config(spec: &PoolTls, pinned: &Arc<Pinned>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .expect("the provider has suites for both versions");
    let believed = spec.authorities.as_ref().map_or(Believed::Any, |authorities| {
        let verifier =
            WebPkiServerVerifier::builder_with_provider(authorities.roots.clone(), provider());
        let verifier = verifier.build().expect("there are authorities, and no revocations");
        Believed::Either(verifier, pinned.clone())
    });
    let verifier = Arc::new(Verifier { believed, provider: provider() });
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    match &spec.identity {
        Some(identity) => {
            let certified = SingleCertAndKey::from(identity.certified.clone());
            builder.with_client_cert_resolver(Arc::new(certified))
        }
        None => builder.with_no_client_auth(),
    }
}

/// Decides whose certificate is taken. Whosever it is, that its key is the backend's is still shown.
#[derive(Debug)]
struct Verifier {
    believed: Believed,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Believed {
    /// Any certificate, as `verify: false` says.
    Any,
    /// One that an authority has signed, or that is one of those that a backend may show itself.
    Either(Arc<WebPkiServerVerifier>, Arc<Pinned>),
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Believed::Either(authorities, pinned) = &self.believed else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified = authorities.verify_server_cert(certificate, others, name, ocsp, now);
        verified.or_else(|refused| match pinned.verify(certificate, name, now) {
            Some(verified) => verified.map(|()| ServerCertVerified::assertion()),
            None => Err(refused),
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
