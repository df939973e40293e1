//! `listeners.*.tls:` and `pools.*.tls:`, certificates and whom to believe. The files are read here,
//! so that what is wrong with one is an error with a place.

use super::{
    diagnostic::Fault,
    http::is_ip_literal,
    reader::{Field, Keys, Section},
    scalar::Hint,
};
use crate::{
    model::{
        Alpn, Authorities, ClientAuth, Identity, ListenerTls, PoolTls, TlsVersion, is_host_name,
    },
    tls::{self, FileError, IdentityError},
};
use std::{
    cell::OnceCell,
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

pub(super) const LISTENER: Keys = Keys {
    section: "listeners.*.tls",
    names: &["certificates", "min_version", "alpn", "client_ca", "client_auth"],
};
pub(super) const CERTIFICATE: Keys =
    Keys { section: "listeners.*.tls.certificates[*]", names: &["cert", "key"] };
pub(super) const POOL: Keys =
    Keys { section: "pools.*.tls", names: &["sni", "verify", "ca", "client_cert", "client_key"] };

const CERTIFICATES: &str = "a list of at least one certificate, each with cert and key";
const PROTOCOLS: &str = "a list of protocols";
const PROTOCOL_NAME: &str = "the registered name of a protocol, such as postgresql";
const CERT_FILE: &str = "the PEM file of a certificate";
const KEY_FILE: &str = "the PEM file of its private key";
const NAME: &str = "a host name or an IP address, without a port";

/// Reads `tls:` of a listener that speaks HTTP.
pub(super) fn listener(field: &Field<'_>) -> Option<ListenerTls> {
    let section = field.section(&LISTENER)?;
    let alpn = section.or("alpn", Alpn::ALL.to_vec(), |field| field.some_list(PROTOCOLS, alpn));
    met(&section, alpn, Vec::new())
}

/// Reads `tls:` of a listener that passes on what it decrypts.
pub(super) fn stream_listener(field: &Field<'_>) -> Option<ListenerTls> {
    let section = field.section(&LISTENER)?;
    let name = |field: &Field<'_>| field.scalar(PROTOCOL_NAME, protocol_name);
    let alpn = section.or("alpn", Vec::new(), |field| field.some_list(PROTOCOLS, name));
    met(&section, Vec::new(), alpn)
}

fn met(section: &Section<'_>, alpn: Vec<Alpn>, stream_alpn: Vec<String>) -> Option<ListenerTls> {
    let certificates = section.require("certificates", CERTIFICATES);
    let certificates = certificates.and_then(|field| field.some_list(CERTIFICATES, certificate));
    let versions = TlsVersion::ALL.map(|version| (version.as_str(), version));
    let version = |field: &Field<'_>| field.word("version of TLS", &versions);
    let min_version = section.or("min_version", TlsVersion::Tls12, version);
    let client_auth = client_auth(section);
    Some(ListenerTls {
        certificates: certificates?,
        min_version,
        alpn,
        stream_alpn,
        client_auth: client_auth?,
    })
}

fn certificate(field: &Field<'_>) -> Option<Identity> {
    let section = field.section(&CERTIFICATE)?;
    let cert = section.require("cert", CERT_FILE);
    let key = section.require("key", KEY_FILE);
    identity(&cert?, &key?)
}

/// Reads a certificate and its key.
fn identity(cert: &Field<'_>, key: &Field<'_>) -> Option<Identity> {
    let (cert_path, key_path) = (cert.file(), key.file());
    let identity = match tls::identity(&cert_path?, &key_path?) {
        Ok(identity) => identity,
        Err(IdentityError::Certificate(error)) => return refuse(cert, &error),
        Err(IdentityError::Key(error)) => return refuse(key, &error),
    };
    if let Some(problem) = tls::untimely(identity.validity, now()) {
        cert.warning(&Fault::new(problem, "one that is valid"));
    }
    Some(identity)
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

fn refuse<T>(field: &Field<'_>, error: &FileError) -> Option<T> {
    field.error(&Fault::new(error.problem.clone(), error.expected));
    None
}

/// ALPN takes names of 1 to 255 bytes (RFC 7301); those that are registered are visible ASCII.
fn protocol_name(text: &str) -> Result<String, Hint> {
    let fits = (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(text.to_owned()) } else { Err(Hint::default()) }
}

fn alpn(field: &Field<'_>) -> Option<Alpn> {
    field.word("protocol", &Alpn::ALL.map(|alpn| (alpn.as_str(), alpn)))
}

/// Reads who clients must be. The inner `None` is anybody.
#[allow(clippy::option_option, reason = "nobody is asked, and unreadable, are two things")]
fn client_auth(section: &Section<'_>) -> Option<Option<ClientAuth>> {
    let words = [("required", true), ("optional", false)];
    let required = section.try_or("client_auth", true, |field| field.word("client_auth", &words));
    let Some(field) = section.get("client_ca") else {
        if let Some(field) = section.get("client_auth") {
            let found = "client_auth without authorities to ask";
            field.error(&Fault::new(found, "the key \"client_ca\" beside it"));
        }
        return Some(None);
    };
    let authorities = authorities(&field)?;
    Some(Some(ClientAuth { authorities, required: required? }))
}

fn authorities(field: &Field<'_>) -> Option<Authorities> {
    let path: PathBuf = field.file()?;
    tls::authorities(&path).map_err(|error| refuse::<()>(field, &error)).ok()
}

/// The system's authorities, read when the first pool needs them.
#[derive(Default)]
pub(super) struct SystemAuthorities(OnceCell<Result<Authorities, FileError>>);

impl SystemAuthorities {
    fn get(&self, field: &Field<'_>) -> Option<Authorities> {
        let authorities = self.0.get_or_init(tls::system_authorities);
        authorities.as_ref().map_err(|error| refuse::<()>(field, error)).ok().cloned()
    }
}

/// Reads `tls:` of a pool.
pub(super) fn pool(field: &Field<'_>, system: &SystemAuthorities) -> Option<PoolTls> {
    let section = field.section(&POOL)?;
    let sni = section.try_or("sni", None, |field| field.scalar(NAME, server_name).map(Some));
    let verify = section.try_or("verify", true, Field::switch);
    let ca = section.try_or("ca", None, |field| authorities(field).map(Some));
    let identity = pool_identity(&section);
    let (verify, ca) = (verify?, ca?);
    let authorities = match (verify, ca) {
        (true, Some(ca)) => Some(ca),
        (true, None) => Some(system.get(field)?),
        (false, ca) => {
            if let (Some(_), Some(field)) = (ca, section.get("ca")) {
                field.warning(&Fault::new("authorities that nobody asks", "verify: true"));
            }
            None
        }
    };
    Some(PoolTls { sni: sni?, authorities, identity: identity? })
}

/// Reads who we are to backends. The inner `None` is nobody in particular.
#[allow(clippy::option_option, reason = "none, and unreadable, are two things")]
fn pool_identity(section: &Section<'_>) -> Option<Option<Identity>> {
    match (section.get("client_cert"), section.get("client_key")) {
        (None, None) => Some(None),
        (Some(cert), Some(key)) => identity(&cert, &key).map(Some),
        (Some(cert), None) => refuse_alone(&cert, "client_cert", "client_key"),
        (None, Some(key)) => refuse_alone(&key, "client_key", "client_cert"),
    }
}

fn refuse_alone<T>(field: &Field<'_>, given: &str, missing: &str) -> Option<T> {
    let expected = format!("the key \"{missing}\" beside it");
    field.error(&Fault::new(format!("{given} without {missing}"), expected));
    None
}

fn server_name(text: &str) -> Result<String, Hint> {
    let bare = text.trim_matches(['[', ']']);
    if is_host_name(text) || is_ip_literal(text) || is_ip_literal(&format!("[{text}]")) {
        return Ok(bare.to_ascii_lowercase());
    }
    let host = super::http::without_port(text).filter(|host| is_host_name(host));
    Err(Hint::nearest(host.map(str::to_owned)))
}
