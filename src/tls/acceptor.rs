//! A listener's side of TLS: which certificate a client gets, and what it must show.

use super::{
    load::FileError,
    provider,
    watch::{Reread, Watched},
};
use crate::model::{ClientAuth, Identity, ListenerName, ListenerTls, Source, TlsVersion};
use arc_swap::ArcSwap;
use rustls::{
    Error as TlsError, ServerConfig,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// What a listener meets its clients with.
#[derive(Debug)]
pub struct Acceptor {
    listener: ListenerName,
    current: ArcSwap<Current>,
    /// Counted on through reloads.
    handshakes: Arc<Handshakes>,
}

/// What is in use. It is replaced as a whole.
#[derive(Debug)]
struct Current {
    spec: ListenerTls,
    config: Arc<ServerConfig>,
}

impl Acceptor {
    /// The acceptor of a listener that is configured like this.
    pub fn new(listener: ListenerName, spec: ListenerTls) -> Self {
        let config = server_config(&spec, None)
            .expect("authorities and certificates are good, and the system has random numbers");
        let current = ArcSwap::from_pointee(Current { spec, config: Arc::new(config) });
        Self { listener, current, handshakes: Arc::default() }
    }

    /// The acceptor of the same listener with other settings. Sessions can be resumed with it as long
    /// as the same clients are let in.
    #[must_use]
    pub fn succeed(&self, spec: ListenerTls) -> Self {
        let config = server_config(&spec, Some(&self.current.load()))
            .expect("authorities and certificates are good, and the system has random numbers");
        let current = ArcSwap::from_pointee(Current { spec, config: Arc::new(config) });
        let (listener, handshakes) = (self.listener.clone(), self.handshakes.clone());
        Self { listener, current, handshakes }
    }

    /// What a handshake that begins now goes by.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.load().config.clone()
    }

    /// The listener it belongs to.
    pub fn listener(&self) -> &ListenerName {
        &self.listener
    }

    /// The certificates in use.
    pub fn identities(&self) -> Vec<Identity> {
        self.current.load().spec.certificates.clone()
    }

    /// How many handshakes there were, and how they ended.
    pub fn handshakes(&self) -> &Handshakes {
        &self.handshakes
    }
}

impl Watched for Acceptor {
    fn name(&self) -> String {
        format!("listener {}", self.listener)
    }

    fn sources(&self) -> Vec<Source> {
        let current = self.current.load();
        let spec = &current.spec;
        let identities = spec.certificates.iter();
        let files = identities.flat_map(|identity| [identity.cert.clone(), identity.key.clone()]);
        let authorities = spec.client_auth.as_ref().and_then(|auth| auth.authorities.file.clone());
        files.chain(authorities).collect()
    }

    fn read_again(&self) -> Result<Reread, FileError> {
        let before = self.current.load_full();
        let spec = read_again(&before.spec)?;
        let config = server_config(&spec, Some(&before)).map_err(|error| FileError {
            problem: format!("its certificates cannot be used: {error}"),
            expected: "certificates that can",
        })?;
        let reread = Reread::of(spec.certificates.iter());
        self.current.store(Arc::new(Current { spec, config: Arc::new(config) }));
        Ok(reread)
    }
}

/// The same settings with what the files hold now.
fn read_again(spec: &ListenerTls) -> Result<ListenerTls, FileError> {
    let certificates = spec.certificates.iter().map(Reread::identity).collect::<Result<_, _>>()?;
    let client_auth = match &spec.client_auth {
        Some(auth) => Some(ClientAuth {
            authorities: Reread::authorities(&auth.authorities)?,
            required: auth.required,
        }),
        None => None,
    };
    let (alpn, stream_alpn) = (spec.alpn.clone(), spec.stream_alpn.clone());
    Ok(ListenerTls { certificates, alpn, stream_alpn, client_auth, ..*spec })
}

/// What rustls is told. Sessions that began under `before` can be resumed as long as it is the same
/// clients that are let in: a session that is resumed is not asked for its certificate again.
fn server_config(spec: &ListenerTls, before: Option<&Current>) -> Result<ServerConfig, TlsError> {
    let versions = match spec.min_version {
        TlsVersion::Tls12 => &[&TLS13, &TLS12][..],
        TlsVersion::Tls13 => &[&TLS13][..],
    };
    let builder =
        ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions)?;
    let builder = match &spec.client_auth {
        Some(auth) => builder.with_client_cert_verifier(verifier(auth)?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Certificates::new(&spec.certificates)));
    let spoken = spec.alpn.iter().map(|alpn| alpn.as_str());
    let passed_on = spec.stream_alpn.iter().map(String::as_str);
    config.alpn_protocols = spoken.chain(passed_on).map(Into::into).collect();
    match before.filter(|before| lets_the_same_in(&before.spec, spec)) {
        Some(before) => {
            config.ticketer = before.config.ticketer.clone();
            config.session_storage = before.config.session_storage.clone();
        }
        None => config.ticketer = rustls::crypto::ring::Ticketer::new()?,
    }
    Ok(config)
}

fn lets_the_same_in(one: &ListenerTls, other: &ListenerTls) -> bool {
    let asked = |spec: &ListenerTls| {
        let auth = spec.client_auth.as_ref();
        auth.map(|auth| (auth.authorities.certificates.clone(), auth.required))
    };
    asked(one) == asked(other)
}

fn verifier(
    auth: &ClientAuth,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let builder =
        WebPkiClientVerifier::builder_with_provider(auth.authorities.roots.clone(), provider());
    let builder = if auth.required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| TlsError::General(error.to_string()))
}

/// The certificates of a listener, by the names that they are for.
#[derive(Debug)]
struct Certificates {
    exact: HashMap<String, Vec<Arc<CertifiedKey>>>,
    /// Those for `*.example.com`, by `example.com`.
    below: HashMap<String, Vec<Arc<CertifiedKey>>>,
    default: Arc<CertifiedKey>,
}

impl Certificates {
    fn new(identities: &[Identity]) -> Self {
        let first = identities.first().expect("a listener with TLS has a certificate");
        let mut certificates =
            Self { exact: HashMap::new(), below: HashMap::new(), default: first.certified.clone() };
        for identity in identities {
            for name in &identity.names {
                let (of, name) = match name.strip_prefix("*.") {
                    Some(domain) => (&mut certificates.below, domain),
                    None => (&mut certificates.exact, name.as_str()),
                };
                of.entry(name.to_owned()).or_default().push(identity.certified.clone());
            }
        }
        certificates
    }

    /// Those for `name`, in the order of the file; an exact name counts before a wildcard, which
    /// stands for one label.
    fn of(&self, name: &str) -> &[Arc<CertifiedKey>] {
        let name = name.to_ascii_lowercase();
        let below = || self.below.get(name.split_once('.')?.1);
        self.exact.get(&name).or_else(below).map_or(&[], Vec::as_slice)
    }
}

impl ResolvesServerCert for Certificates {
    /// The first certificate for the name whose kind of key the client can verify, so that there may
    /// be one of each kind; else the first, else the default.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let candidates = hello.server_name().map_or(&[][..], |name| self.of(name));
        let schemes = hello.signature_schemes();
        let fitting = candidates.iter().find(|it| it.key.choose_scheme(schemes).is_some());
        Some(fitting.or(candidates.first()).unwrap_or(&self.default).clone())
    }
}

/// How many handshakes there were on a listener. For whoever counts; nothing is decided by it.
#[derive(Debug, Default)]
pub struct Handshakes {
    full: AtomicU64,
    resumed: AtomicU64,
    failed: AtomicU64,
}

impl Handshakes {
    /// Counts one that came about.
    pub fn count(&self, resumed: bool) {
        let counter = if resumed { &self.resumed } else { &self.full };
        counter.fetch_add(1, Relaxed);
    }

    /// Counts one that did not: refused by either side, malformed, or out of time.
    pub fn count_failure(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    /// Those that came about without an earlier session.
    pub fn full(&self) -> u64 {
        self.full.load(Relaxed)
    }

    /// Those that resumed one.
    pub fn resumed(&self) -> u64 {
        self.resumed.load(Relaxed)
    }

    /// Those that did not come about.
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_are_counted_by_how_they_ended() {
        let handshakes = Handshakes::default();
        handshakes.count(false);
        handshakes.count(true);
        handshakes.count(true);
        (0..3).for_each(|_| handshakes.count_failure());
        let counted = (handshakes.full(), handshakes.resumed(), handshakes.failed());
        assert_eq!(counted, (1, 2, 3));
    }
}
