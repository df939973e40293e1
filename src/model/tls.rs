//! TLS: how clients are met, and how backends are.
//!
//! Certificates and keys are here as they were read, each with the file it came from. Whatever uses
//! them needs no file then: a daemon reads its keys before it gives up the rights that this takes.

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};
use std::{fs::Metadata, os::unix::fs::MetadataExt, path::PathBuf, sync::Arc};

/// `listeners.*.tls`: how clients are met.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTls {
    /// Chosen by the name that a client asks for; never empty, the first is the default.
    pub certificates: Vec<Identity>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// The protocols that may be chosen by ALPN, the preferred one first; never empty where HTTP is
    /// spoken, and empty elsewhere.
    pub alpn: Vec<Alpn>,
    /// The same by their registered names where a stream is passed on, whose protocol is between the
    /// client and the backend; without any, none is chosen.
    pub stream_alpn: Vec<String>,
    /// Whether clients show who they are; `None` when they are not asked.
    pub client_auth: Option<ClientAuth>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl TlsVersion {
    /// Every version that is spoken, the oldest first.
    pub const ALL: [Self; 2] = [Self::Tls12, Self::Tls13];

    /// The version as it is written in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

/// A protocol that ALPN may choose (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/2.
    Http2,
    /// HTTP/1.1.
    Http1,
}

impl Alpn {
    /// Every protocol that is spoken, the preferred one first.
    pub const ALL: [Self; 2] = [Self::Http2, Self::Http1];

    /// The protocol's registered name, in the configuration and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http2 => "h2",
            Self::Http1 => "http/1.1",
        }
    }
}

/// How clients show who they are.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientAuth {
    /// Who may have signed their certificates.
    pub authorities: Authorities,
    /// Whether a client without a certificate is refused. One with a bad certificate always is.
    pub required: bool,
}

/// `pools.*.tls`: how backends are met.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolTls {
    /// The name that a backend must have a certificate for; `None` is that of the request's host.
    pub sni: Option<String>,
    /// Who may have signed a backend's certificate; `None` when nothing of it is verified.
    pub authorities: Option<Authorities>,
    /// What we show to a backend that asks who we are.
    pub identity: Option<Identity>,
}

/// A certificate with those that lead to its authority, and its private key.
#[derive(Clone)]
pub struct Identity {
    /// The file of the certificates.
    pub cert: Source,
    /// The file of the key.
    pub key: Source,
    /// The two together; they fit each other.
    pub certified: Arc<CertifiedKey>,
    /// The key itself.
    pub secret: Arc<PrivateKeyDer<'static>>,
    /// The host names that the certificate is for, in lower case. `*.example.com` is any name with
    /// one label more.
    pub names: Vec<String>,
    /// When the certificate is valid.
    pub validity: Validity,
}

impl std::fmt::Debug for Identity {
    /// Where it is from, and nothing of the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (cert, key) = (&self.cert.path, &self.key.path);
        f.debug_struct("Identity").field("cert", cert).field("key", key).finish_non_exhaustive()
    }
}

impl PartialEq for Identity {
    /// What is from the same files in the same state is the same.
    fn eq(&self, other: &Self) -> bool {
        (&self.cert, &self.key) == (&other.cert, &other.key)
    }
}

/// When a certificate is valid, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From then.
    pub from: i64,
    /// Until then, that second included.
    pub until: i64,
}

/// Those who are believed when they sign a certificate; never empty.
#[derive(Clone)]
pub struct Authorities {
    /// The file they are from; `None` is the system's own collection.
    pub file: Option<Source>,
    /// Their certificates.
    pub certificates: Arc<[CertificateDer<'static>]>,
    /// The same in the form in which they are searched.
    pub roots: Arc<RootCertStore>,
}

impl PartialEq for Authorities {
    /// Likewise; what the system believes does not change while a process lives.
    fn eq(&self, other: &Self) -> bool {
        self.file == other.file
    }
}

impl std::fmt::Debug for Authorities {
    /// Where they are from.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let file = self.file.as_ref().map(|file| &file.path);
        f.debug_struct("Authorities").field("file", &file).finish_non_exhaustive()
    }
}

/// A file, and what told it apart when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its path, which is absolute.
    pub path: PathBuf,
    /// What it was like just before it was read.
    pub stamp: Stamp,
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: (i64, i64),
    length: u64,
    inode: (u64, u64),
}

impl Stamp {
    /// The stamp of a file with this metadata.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            length: metadata.len(),
            inode: (metadata.dev(), metadata.ino()),
        }
    }
}
