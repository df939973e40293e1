//! What is known of a client's connection once it speaks TLS.

use super::certificate::{ClientCertificate, Malformed};
use crate::model::Alpn;
use rustls::{ProtocolVersion, server::ServerConnection};

/// What a handshake came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// The version, such as `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite by its registered name, such as `TLS13_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
    /// The host name that the client asked for, in lower case.
    pub server_name: Option<Box<str>>,
    /// The protocol that was chosen by ALPN; `None` if the client did not ask.
    pub alpn: Option<Alpn>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// Who the client is; `None` if it showed no certificate. One that it showed was verified.
    pub client: Option<ClientCertificate>,
}

impl TlsFacts {
    /// The facts of a connection that is only described, to this host.
    pub(crate) fn described(host: &str) -> Self {
        let server_name = Some(host).filter(|host| !host.is_empty());
        Self {
            version: version(Some(ProtocolVersion::TLSv1_3)),
            cipher: "unknown",
            server_name: server_name.map(|name| name.to_ascii_lowercase().into()),
            alpn: None,
            resumed: false,
            client: None,
        }
    }

    /// The facts of a connection whose handshake is over.
    ///
    /// # Errors
    /// When the client's certificate cannot be read, though it was verified.
    pub fn of(connection: &ServerConnection) -> Result<Self, Malformed> {
        let cipher = connection.negotiated_cipher_suite();
        let leaf = connection.peer_certificates().and_then(<[_]>::first);
        let chosen = connection.alpn_protocol();
        Ok(Self {
            version: version(connection.protocol_version()),
            cipher: cipher.and_then(|cipher| cipher.suite().as_str()).unwrap_or("unknown"),
            server_name: connection.server_name().map(|name| name.to_ascii_lowercase().into()),
            alpn: Alpn::ALL.into_iter().find(|alpn| chosen == Some(alpn.as_str().as_bytes())),
            resumed: connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
            client: leaf.map(ClientCertificate::of).transpose()?,
        })
    }
}

fn version(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "unknown",
    }
}
