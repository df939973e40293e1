//! What filters are told of a client's TLS.

use crate::support::{
    Authority, Client, Origin, TlsClient,
    h2::H2,
    probe::{balancer, client, one_route_text, web},
    request,
};
use http::{HeaderValue, StatusCode};
use pingora_lb::{
    App,
    filter::{Answer, Filter, Flow, Request, Result, SettingsError, Setup, settings::NoSettings},
    tls::TlsFacts,
};
use rcgen::{DnType, ExtendedKeyUsagePurpose, SanType};
use rustls::{
    HandshakeKind,
    version::{TLS12, TLS13},
};
use tempfile::TempDir;

/// Lets in who has a certificate for `spiffe://example/admin`, and tells the backend what it knows.
struct Admins;

impl Filter for Admins {
    const NAME: &'static str = "admins";
    type Settings = NoSettings;

    fn new(_: NoSettings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        Ok(Self)
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Result {
        let Some(facts) = request.tls() else {
            return Ok(Answer::new(StatusCode::FORBIDDEN).into());
        };
        let told = told(facts);
        let name = facts.client.as_ref().and_then(|client| client.san.as_ref());
        if name.is_some_and(|name| name == "URI:spiffe://example/admin") {
            request.set_header("x-told", told.as_str())?;
            return Ok(Flow::Continue);
        }
        Ok(Answer::new(StatusCode::UNAUTHORIZED).body(told).into())
    }
}

/// All that is the same from handshake to handshake.
fn told(facts: &TlsFacts) -> String {
    let name = facts.server_name.as_deref().unwrap_or("nobody");
    let text = |value: &Option<HeaderValue>| match value {
        Some(value) => value.to_str().unwrap().to_owned(),
        None => "-".to_owned(),
    };
    let client = facts.client.as_ref();
    let client = client.map_or("-".to_owned(), |it| text(&it.subject) + " " + &text(&it.san));
    format!("{} {name} {client}", facts.version)
}

/// Files with certificates, in a folder that is kept.
fn file(folder: &TempDir, name: &str, content: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    path.display().to_string()
}

#[test]
fn a_filter_decides_by_the_clients_certificate() {
    let (authority, people) = (Authority::new("authority"), Authority::new("people"));
    let certificate = authority.server(&["a.example"]);
    let folder = tempfile::tempdir().unwrap();
    let tls = format!(
        "certificates: [{{ cert: {}, key: {} }}], client_ca: {}, client_auth: optional",
        file(&folder, "a.pem", &certificate.pem),
        file(&folder, "a.key", &certificate.key),
        file(&folder, "people.pem", &people.pem)
    );
    let person = |common_name: &str, uri: &str| {
        people.sign(&[], |params| {
            params.distinguished_name.push(DnType::CommonName, common_name);
            params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        })
    };
    let origin = Origin::named("app-1");
    let text = one_route_text(&[origin.entry()], &format!("listener.tls: {{ {tls} }}"));
    let balancer = balancer(&App::new().filter::<Admins>(), &text, &["- admins: {}".to_owned()]);
    let address = web(&balancer);
    for (version, name) in [(&TLS12, "TLSv1.2"), (&TLS13, "TLSv1.3")] {
        let nobody = TlsClient::only(&authority, version);
        let someone = nobody.showing(&person("someone", "spiffe://example/someone"));
        for (client, told) in [
            (&nobody, format!("{name} a.example -")),
            (&someone, format!("{name} a.example CN=someone URI:spiffe://example/someone")),
        ] {
            let response = Client::connect_tls(&address, client, "a.example").get("/");
            assert_eq!((response.status, response.text()), (401, told));
        }
        let admin = nobody.showing(&person("root", "spiffe://example/admin"));
        let told = format!("{name} a.example CN=root URI:spiffe://example/admin");
        // The second of them resumes the session of the first, and is who that was.
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut client = Client::connect_tls(&address, &admin, "a.example");
            assert_eq!(client.get("/").status, 200);
            assert_eq!(client.tls().handshake_kind(), Some(kind));
            assert_eq!(origin.last_request().headers.get("x-told"), Some(told.as_str()));
        }
        let client = H2::over_tls(&address, &admin, "a.example");
        assert_eq!(client.get("/").status, 200);
        assert_eq!(origin.last_request().headers.get("x-told"), Some(told.as_str()));
    }
    assert_eq!(origin.count(), 6, "nobody else reached a backend");
}

#[test]
fn in_the_clear_there_is_nothing_to_tell() {
    let origin = Origin::named("app-1");
    let text = one_route_text(&[origin.entry()], "");
    let balancer = balancer(&App::new().filter::<Admins>(), &text, &["- admins: {}".to_owned()]);
    let claims = ["X-Client-Cert-San: URI:spiffe://example/admin", "X-Forwarded-Proto: https"];
    let response = client(&balancer).ask(request("GET", "/", &claims, b""));
    assert_eq!((response.status, origin.count()), (403, 0));
}
