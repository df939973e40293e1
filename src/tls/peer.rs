//! A pool's side of TLS: what Pingora is told, so that it connects to backends as configured; and what
//! those need who do so themselves, for streams.
//!
//! Five things about Pingora 0.9.1 shape this. An empty server name turns verification off, so a
//! peer always gets one. The key of kept connections knows neither authorities nor private keys, so
//! both go into its `group_key`. Every connector of Pingora's reads the system's authorities when it
//! is made, twice for HTTP, and panics if one of them is odd; so ours are given an empty file, and
//! each peer brings its authorities along. What a handshake failed of is left as a text only. And there
//! is no say in what is verified but all or nothing, so backends that show a certificate of `ca` itself are
//! met in a way of their own ([`Trust`]).

use super::{
    client::client_config,
    load::FileError,
    pinned::{Pinned, Trust, is_of_authority},
    watch::{Reread, Watched},
};
use crate::model::{Authorities, Identity, PoolName, PoolTls, Source};
use arc_swap::ArcSwap;
use pingora_core::{
    connectors::ConnectorOptions,
    protocols::tls::{CaType, SslDigest},
    upstreams::peer::{HttpPeer, Scheme},
    utils::tls::{CertKey, WrappedX509, parse_x509},
};
use rustls::{ClientConfig, pki_types::ServerName};
use sha2::{Digest, Sha256};
use std::{borrow::Cow, sync::Arc};

/// A file without authorities, for Pingora's connectors.
pub const NO_AUTHORITIES: &str = "/dev/null";

/// What Pingora needs as an authority where nothing is verified: it wants one, whichever. Its key
/// was thrown away when it was made, and nothing is ever verified with it.
const NOBODY: &[u8] = include_bytes!("nobody.der");

/// What is wrong with a backend that must speak HTTP/2 and knows nothing of ALPN. One that does know it
/// has refused the handshake.
pub const NOT_HTTP2: &str = "TLS handshake: the backend did not choose h2 by ALPN";

/// The server name of a request whose own is none: nobody has a certificate for it (RFC 2606).
const INVALID: &str = "host.invalid";
/// A server name that is not sent, because it is an address.
const UNNAMED: &str = "0.0.0.0";

/// Options for a connector of Pingora's that keeps up to `kept` connections.
pub fn connector_options(kept: usize) -> ConnectorOptions {
    let mut options = ConnectorOptions::new(kept);
    options.ca_file = Some(NO_AUTHORITIES.to_owned());
    options
}

/// How a pool's backends are met.
pub struct PeerTls {
    pool: PoolName,
    current: ArcSwap<Current>,
}

/// What is in use. It is replaced as a whole.
struct Current {
    spec: PoolTls,
    authorities: Arc<CaType>,
    identity: Option<Arc<CertKey>>,
    /// The authorities that backends may be themselves.
    pinned: Arc<Pinned>,
    /// What streams are secured by.
    client: Arc<ClientConfig>,
    /// Tells connections apart that were made on different terms.
    terms: u64,
}

impl Current {
    fn new(spec: PoolTls) -> Self {
        let verified = spec.authorities.as_ref().map(authorities);
        let pinned = Arc::new(Pinned::of(spec.authorities.as_ref()));
        Self {
            authorities: verified.unwrap_or_else(|| Arc::from([wrapped(NOBODY)])),
            identity: spec.identity.as_ref().map(|identity| Arc::new(cert_key(identity))),
            client: Arc::new(client_config(&spec, &pinned)),
            terms: terms(&spec),
            pinned,
            spec,
        }
    }
}

impl PeerTls {
    /// How the backends of a pool that is configured like this are met.
    pub fn new(pool: PoolName, spec: PoolTls) -> Self {
        Self { pool, current: ArcSwap::from_pointee(Current::new(spec)) }
    }

    /// What is shown to backends that ask who we are.
    pub fn identity(&self) -> Option<Identity> {
        self.current.load().spec.identity.clone()
    }

    /// Whether the configuration gives the name that a backend must have a certificate for.
    pub fn has_server_name(&self) -> bool {
        self.current.load().spec.sni.is_some()
    }

    /// What secures a stream to a backend, which must have a certificate for the configured name, else
    /// for `own`, the backend's.
    pub fn client(&self, own: &str) -> (Arc<ClientConfig>, ServerName<'static>) {
        let current = self.current.load();
        let name = current.spec.sni.as_deref().unwrap_or(own);
        let name = presentable(Some(name), current.spec.authorities.is_some());
        let name = ServerName::try_from(name.to_owned()).expect("a name that can be asked for");
        (current.client.clone(), name)
    }

    /// Has `peer` speak TLS. Its backend must have a certificate for the name in the configuration,
    /// else for `name`, a host name or an address; without one, any name will do as long as the
    /// certificate is good. The peer shares kept connections only with peers of the same terms, of the
    /// same `group_key` before this, and of backends that are met in the same way. A backend that is met by
    /// itself has to be [checked](Self::check) before anything is sent.
    pub fn secure<'n>(
        &self,
        peer: &mut HttpPeer,
        trust: &Trust,
        name: impl FnOnce() -> Option<Cow<'n, str>>,
    ) {
        let current = self.current.load();
        let name = match &current.spec.sni {
            Some(configured) => Some(Cow::Borrowed(configured.as_str())),
            None => name(),
        };
        let name = name.as_deref();
        let verify = current.spec.authorities.is_some();
        peer.scheme = Scheme::HTTPS;
        presentable(name, verify).clone_into(&mut peer.sni);
        let by_itself = trust.key().filter(|_| !current.pinned.is_empty());
        peer.options.verify_cert = verify && by_itself.is_none();
        peer.options.verify_hostname = verify && name.is_some();
        peer.options.ca = Some(current.authorities.clone());
        peer.client_cert_key.clone_from(&current.identity);
        peer.group_key ^= current.terms ^ by_itself.unwrap_or(0);
    }

    /// Checks a backend by the certificate that it has shown on a connection, new or kept, if it was met by
    /// itself. If another was due, it is met by authority from now on.
    ///
    /// # Errors
    /// When the certificate is not one of those in `ca`, valid now and for the backend's name.
    pub fn check(
        &self,
        peer: &HttpPeer,
        shown: Option<&SslDigest>,
        trust: &Trust,
    ) -> pingora_core::Result<()> {
        if peer.options.verify_cert {
            return Ok(());
        }
        let current = self.current.load();
        if current.spec.authorities.is_none() {
            return Ok(());
        }
        current.pinned.check(peer, shown, trust)
    }

    /// Whether a backend that was not met because of `error` may be met otherwise: by itself, if it seems to
    /// show one of the certificates in `ca`, and by authority, if it was to show one and did not.
    pub fn is_met_otherwise(&self, error: &pingora_core::Error, trust: &Trust) -> bool {
        cause(error).is_some_and(|why| self.current.load().pinned.is_met_otherwise(why, trust))
    }
}

/// The name as it can be asked for, or what stands in the place of one that cannot.
fn presentable(name: Option<&str>, verify: bool) -> &str {
    match name {
        Some(name) if ServerName::try_from(name).is_ok() => name,
        Some(_) if verify => INVALID,
        _ => UNNAMED,
    }
}

impl std::fmt::Debug for PeerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerTls").field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl Watched for PeerTls {
    fn name(&self) -> String {
        format!("pool {}", self.pool)
    }

    fn sources(&self) -> Vec<Source> {
        let current = self.current.load();
        let authorities = current.spec.authorities.as_ref();
        let identity = current.spec.identity.iter();
        let files = identity.flat_map(|identity| [identity.cert.clone(), identity.key.clone()]);
        files.chain(authorities.and_then(|authorities| authorities.file.clone())).collect()
    }

    fn read_again(&self) -> Result<Reread, FileError> {
        let before = self.current.load_full();
        let spec = PoolTls {
            sni: before.spec.sni.clone(),
            authorities: before.spec.authorities.as_ref().map(Reread::authorities).transpose()?,
            identity: before.spec.identity.as_ref().map(Reread::identity).transpose()?,
        };
        let reread = Reread::of(spec.identity.iter());
        self.current.store(Arc::new(Current::new(spec)));
        Ok(reread)
    }
}

fn authorities(authorities: &Authorities) -> Arc<CaType> {
    authorities.certificates.iter().map(|certificate| wrapped(certificate)).collect()
}

fn wrapped(der: &[u8]) -> WrappedX509 {
    // This panics on what is no certificate; each was parsed in the same way when it was read.
    WrappedX509::new(der.to_vec(), parse_x509)
}

fn cert_key(identity: &Identity) -> CertKey {
    let chain = identity.certified.cert.iter().map(|certificate| certificate.to_vec());
    CertKey::new(chain.collect(), identity.secret.secret_der().to_vec())
}

/// A digest of all that decides which backends are believed and who we are to them. The same terms
/// are the same number in every configuration, so that kept connections outlive a new one.
fn terms(spec: &PoolTls) -> u64 {
    let mut digest = Sha256::new();
    let mut add = |part: &[u8]| {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    };
    let authorities = spec.authorities.as_ref();
    add(&[u8::from(authorities.is_some())]);
    authorities.iter().flat_map(|it| it.certificates.iter()).for_each(|it| add(it));
    if let Some(identity) = &spec.identity {
        add(b"identity");
        identity.certified.cert.iter().for_each(|certificate| add(certificate));
        add(identity.secret.secret_der());
    }
    let digest: [u8; 32] = digest.finalize().into();
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has more than 8 bytes"))
}

/// Why a handshake with a backend failed, in words where rustls has none.
pub fn failure(error: &pingora_core::Error) -> Option<&str> {
    cause(error).map(in_words)
}

/// Why a handshake with a backend failed, as rustls puts it, from the text that Pingora makes of it:
/// `TLS connect() failed: <its name for it>  context: tls connect error cause: <why>, SNI: <name>`.
fn cause(error: &pingora_core::Error) -> Option<&str> {
    if *error.etype() != pingora_core::ErrorType::TLSHandshakeFailure {
        return None;
    }
    let text = error.context.as_ref()?.as_str();
    let (_, why) = text.split_once("cause: ")?;
    let why = why.rsplit_once(", SNI: ").map_or(why, |(why, _)| why);
    Some(why.trim())
}

/// What rustls has a name for only, in words: these are what `openssl req -x509` and `openssl x509 -req`
/// make unless they are told otherwise.
pub fn in_words(why: &str) -> &str {
    if is_of_authority(why) {
        "invalid peer certificate: it is an authority's (CA:TRUE), which is none for a server unless it is \
         in ca itself, with alternative names"
    } else if why == "invalid peer certificate: Other(OtherError(UnsupportedCertVersion))" {
        "invalid peer certificate: it is not of X.509 version 3"
    } else {
        why
    }
}

/// Whether a handshake failed because the backend is not who was asked for: its certificate is for
/// another name, or it does not know the name.
pub fn is_wrong_name(error: &pingora_core::Error) -> bool {
    failure(error).is_some_and(|why| {
        why.starts_with("invalid peer certificate: certificate not valid for name")
            || why.ends_with("UnrecognisedName")
    })
}
