//! `tls:` of listeners and pools, with the certificates that are shipped.

use crate::{
    config::{ConfigErrors, parse},
    filter::Registry,
    model::{Alpn, Config, TlsVersion},
};
use std::path::PathBuf;

const POOLS: &str = "pools: { app: { backends: [127.0.0.1:9001] } }\n";
const EXAMPLE: &str = "{ cert: certs/example.pem, key: certs/example.key }";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("conf")
}

fn read(text: &str) -> Result<(Config, Vec<String>), ConfigErrors> {
    let checked = parse(text, "lb.yaml", &folder(), &super::env, &Registry::default())?;
    Ok((checked.config, checked.warnings.iter().map(ToString::to_string).collect()))
}

/// A listener with these keys of `tls`.
fn listener(tls: &str) -> String {
    format!("listeners: {{ web: {{ address: '[::]:443', tls: {{ {tls} }} }} }}\n{POOLS}")
}

/// A pool with these keys of `tls`.
fn pool(tls: &str) -> String {
    let pool = format!("pools: {{ app: {{ backends: [a:1], tls: {{ {tls} }} }} }}");
    format!("{}{pool}\n", super::LISTENERS)
}

fn config(text: &str) -> Config {
    let (config, warnings) = read(text).unwrap_or_else(|errors| panic!("{text}\n{errors}"));
    assert_eq!(warnings, [""; 0], "{text}");
    config
}

/// The errors of `text`, without the folder of the certificates and the file's name.
fn errors(text: &str) -> String {
    let errors = read(text).map(|_| ()).expect_err(text).to_string();
    let folder = format!("{}/", folder().display());
    errors.replace(&folder, "").replace("lb.yaml:", "")
}

fn check_all(cases: &[(&str, &str)], text: impl Fn(&str) -> String) {
    for (tls, expected) in cases {
        assert_eq!(errors(&text(tls)), *expected, "{tls}");
    }
}

#[test]
fn a_listener_has_certificates_and_defaults_for_the_rest() {
    let config = config(&listener(&format!("certificates: [{EXAMPLE}]")));
    let tls = config.listeners[0].tls.as_ref().unwrap();
    assert_eq!(tls.certificates[0].cert.path, folder().join("certs/example.pem"));
    assert_eq!(tls.certificates[0].key.path, folder().join("certs/example.key"));
    assert_eq!(tls.certificates[0].names, ["example.com", "*.example.com", "localhost"]);
    let both = [Alpn::Http2, Alpn::Http1];
    assert_eq!((tls.min_version, tls.alpn.as_slice()), (TlsVersion::Tls12, &both[..]));
    assert!(tls.client_auth.is_none());
}

#[test]
fn a_listener_may_say_more() {
    for (keys, required) in
        [("", true), ("client_auth: required", true), ("client_auth: optional", false)]
    {
        let config = config(&listener(&format!(
            "certificates: [{EXAMPLE}, {EXAMPLE}], min_version: 1.3, alpn: [http/1.1, h2], \
             client_ca: certs/clients.pem, {keys}"
        )));
        let tls = config.listeners[0].tls.as_ref().unwrap();
        assert_eq!((tls.certificates.len(), tls.min_version), (2, TlsVersion::Tls13));
        assert_eq!(tls.alpn, [Alpn::Http1, Alpn::Http2]);
        let auth = tls.client_auth.as_ref().unwrap();
        assert_eq!((auth.required, auth.authorities.certificates.len()), (required, 1));
    }
}

#[test]
fn what_is_wrong_with_a_listener_is_told() {
    check_all(
        &[
            (
                "",
                "1:42: listeners.web.tls: missing key \"certificates\"; expected a list of at least one \
                 certificate, each with cert and key",
            ),
            (
                "certificates: []",
                "1:49: listeners.web.tls.certificates: found an empty list; expected a list of at least \
                 one certificate, each with cert and key",
            ),
            (
                "certificates: [{ cert: certs/example.pem }]",
                "1:64: listeners.web.tls.certificates[0]: missing key \"key\"; expected the PEM file of \
                 its private key",
            ),
            (
                "certificates: [{ cert: certs/example.pem, kee: x, key: certs/example.key }]",
                "1:91: listeners.web.tls.certificates[0].kee: unknown key \"kee\"; expected cert or key; \
                 did you mean \"key\"?",
            ),
            (
                "certificates: [{ cert: certs/none.pem, key: certs/example.key }]",
                "1:72: listeners.web.tls.certificates[0].cert: cannot read certs/none.pem: No such file \
                 or directory (os error 2); expected a PEM file with a certificate, then those that lead \
                 to its authority",
            ),
            (
                "certificates: [{ cert: certs/example.pem, key: certs/none.key }]",
                "1:96: listeners.web.tls.certificates[0].key: cannot read certs/none.key: No such file or \
                 directory (os error 2); expected a PEM file with the private key of the certificate, \
                 not encrypted",
            ),
            (
                "certificates: [{ cert: certs/example.pem, key: certs/lb.key }]",
                "1:96: listeners.web.tls.certificates[0].key: the key in certs/lb.key does not fit the \
                 certificate in certs/example.pem; expected a PEM file with the private key of the \
                 certificate, not encrypted",
            ),
            (
                "certificates: [{ cert: certs/example.key, key: certs/example.pem }]",
                "1:72: listeners.web.tls.certificates[0].cert: certs/example.key has no certificate; \
                 expected a PEM file with a certificate, then those that lead to its authority",
            ),
        ],
        listener,
    );
    check_all(
        &[
            (
                "min_version: 1.1",
                "1:131: listeners.web.tls.min_version: unknown version of TLS \"1.1\"; expected 1.2 or 1.3; \
                 did you mean \"1.2\"?",
            ),
            (
                "alpn: [http/1.1, h2c]",
                "1:135: listeners.web.tls.alpn[1]: unknown protocol \"h2c\"; expected h2 or http/1.1; \
                 did you mean \"h2\"?",
            ),
            (
                "alpn: []",
                "1:118: listeners.web.tls.alpn: found an empty list; expected a list of protocols",
            ),
            (
                "client_auth: required",
                "1:131: listeners.web.tls.client_auth: client_auth without authorities to ask; expected \
                 the key \"client_ca\" beside it",
            ),
            (
                "client_ca: certs/clients.pem, client_auth: maybe",
                "1:161: listeners.web.tls.client_auth: unknown client_auth \"maybe\"; expected required or \
                 optional",
            ),
            (
                "client_ca: certs/lb.key",
                "1:129: listeners.web.tls.client_ca: certs/lb.key has no certificate; expected a PEM file \
                 with the certificates of authorities",
            ),
        ],
        |tls| listener(&format!("certificates: [{EXAMPLE}], {tls}")),
    );
}

#[test]
fn all_errors_of_several_certificates_are_told() {
    let one = "{ cert: certs/one.pem, key: certs/one.key }";
    let two = "{ cert: certs/two.pem, key: certs/two.key }";
    let text = listener(&format!("certificates: [{one}, {two}], min_version: x, client_ca: y"));
    let errors = errors(&text);
    let told: Vec<&str> = errors.lines().map(|line| line.split(": ").nth(1).unwrap()).collect();
    let certificates = "listeners.web.tls.certificates";
    assert_eq!(
        told,
        [
            format!("{certificates}[0].cert"),
            format!("{certificates}[1].cert"),
            "listeners.web.tls.min_version".to_owned(),
            "listeners.web.tls.client_ca".to_owned(),
        ]
    );
}

#[test]
fn a_pool_may_say_everything_or_nothing() {
    let everything = "sni: App.Internal, ca: certs/internal-ca.pem, verify: true, \
                      client_cert: certs/lb.pem, client_key: certs/lb.key";
    let tls = config(&pool(everything)).pools[0].tls.clone().unwrap();
    assert_eq!(tls.sni.as_deref(), Some("app.internal"));
    let authorities = tls.authorities.unwrap();
    assert_eq!(authorities.file.unwrap().path, folder().join("certs/internal-ca.pem"));
    assert_eq!(tls.identity.unwrap().cert.path, folder().join("certs/lb.pem"));

    let tls = config(&pool("verify: off")).pools[0].tls.clone().unwrap();
    assert!(tls.sni.is_none() && tls.authorities.is_none() && tls.identity.is_none());

    assert!(
        config(&pool("verify: false").replace(", tls: { verify: false }", "")).pools[0]
            .tls
            .is_none()
    );
}

#[test]
fn a_server_name_is_a_host_or_an_address() {
    for (given, read) in [
        ("a.b", "a.b"),
        ("127.0.0.1", "127.0.0.1"),
        ("'::1'", "::1"),
        ("'[::1]'", "::1"),
        ("A_1.b", "a_1.b"),
    ] {
        let tls = config(&pool(&format!("sni: {given}, verify: false"))).pools[0].tls.clone();
        assert_eq!(tls.unwrap().sni.as_deref(), Some(read), "{given}");
    }
}

/// A stream brings no host along that a backend's certificate could have to be for.
#[test]
fn a_name_is_wanted_where_a_stream_goes_in_tls() {
    let text = |listeners: &str, backends: &str, tls: &str| {
        format!(
            "listeners: {{ {listeners} }}\n\
             pools: {{ app: {{ backends: [{backends}], tls: {{ {tls} }} }} }}\n"
        )
    };
    let tcp = "x: { address: 0.0.0.0:81, protocol: tcp, pool: app }";
    let both = format!("{tcp}, web: {{ address: 0.0.0.0:80 }}");
    let ca = "ca: certs/internal-ca.pem";
    for (listeners, backends, place) in [
        (tcp, "10.0.0.1:1", "2:41"),
        (&both, "10.0.0.1:1, a:1", "2:46"),
        (tcp, "{ address: 10.0.0.1:1, name: \"10.0.0.1:1\" }, \"unix:/x\"", "2:85"),
    ] {
        assert_eq!(
            errors(&text(listeners, backends, ca)),
            format!(
                "{place}: pools.app.tls: no name that the certificate of backend 10.0.0.1:1 must be for, \
                 in a pool that a tcp listener uses; \
                 expected sni, host names as backends, or verify: false"
            ),
        );
    }
    let web = "web: { address: 0.0.0.0:80 }";
    for (listeners, backends, tls) in [
        (tcp, "a:1, b:1", ca.to_owned()),
        (tcp, "10.0.0.1:1", format!("{ca}, sni: a.internal")),
        (tcp, "10.0.0.1:1", format!("{ca}, sni: 10.0.0.1")),
        (tcp, "10.0.0.1:1", "verify: false".to_owned()),
        (web, "10.0.0.1:1", ca.to_owned()),
    ] {
        config(&text(listeners, backends, &tls));
    }
}

#[test]
fn what_is_wrong_with_a_pool_is_told() {
    check_all(
        &[
            (
                "sni: 'app.internal:443'",
                "2:46: pools.app.tls.sni: found \"app.internal:443\"; expected a host name or an IP address, \
                 without a port; did you mean \"app.internal\"?",
            ),
            (
                "sni: ''",
                "2:46: pools.app.tls.sni: found \"\"; expected a host name or an IP address, without a port",
            ),
            (
                "verify: maybe",
                "2:49: pools.app.tls.verify: found \"maybe\"; expected true or false",
            ),
            (
                "ca: certs/none.pem",
                "2:45: pools.app.tls.ca: cannot read certs/none.pem: No such file or directory (os error 2); \
                 expected a PEM file with the certificates of authorities",
            ),
            (
                "client_cert: certs/lb.pem, verify: false",
                "2:54: pools.app.tls.client_cert: client_cert without client_key; expected the key \
                 \"client_key\" beside it",
            ),
            (
                "client_key: certs/lb.key, verify: false",
                "2:53: pools.app.tls.client_key: client_key without client_cert; expected the key \
                 \"client_cert\" beside it",
            ),
            (
                "client_cert: certs/lb.pem, client_key: certs/example.key, verify: false",
                "2:80: pools.app.tls.client_key: the key in certs/example.key does not fit the certificate \
                 in certs/lb.pem; expected a PEM file with the private key of the certificate, not encrypted",
            ),
        ],
        pool,
    );
}

#[test]
fn authorities_that_nobody_asks_are_a_warning() {
    let (_, warnings) = read(&pool("ca: certs/internal-ca.pem, verify: false")).unwrap();
    assert_eq!(
        warnings,
        ["lb.yaml:2:45: pools.app.tls.ca: authorities that nobody asks; expected verify: true"]
    );
}
