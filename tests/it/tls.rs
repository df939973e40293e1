//! Clients that speak TLS.

use crate::support::{
    Address, Authority, Certificate, Client, Config, Lb, Load, Origin, Program, Reply, TlsClient,
    eventually, get, lb::answers, request, within,
};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, PKCS_ED25519, SanType};
use rustix::process::Signal;
use rustls::{
    HandshakeKind,
    client::Resumption,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring},
    version::{TLS12, TLS13},
};
use std::{
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

const UNCHECKED: &str = "health_check: off";

fn pool_of(origin: &Origin) -> String {
    format!("pools:\n  app:\n    backends: [{}]\n    {UNCHECKED}\n", origin.entry())
}

/// A listener `web` on TLS with these certificates, `a` being `a.pem` and `a.key`, and further keys
/// of `tls`.
fn listener(certificates: &[&str], keys: &str) -> String {
    let mut text = "listeners:\n  web:\n    address: \"@WEB@\"\n    tls:\n".to_owned();
    text.push_str("      certificates:\n");
    for name in certificates {
        writeln!(text, "        - {{ cert: {name}.pem, key: {name}.key }}").unwrap();
    }
    for key in keys.lines() {
        writeln!(text, "      {key}").unwrap();
    }
    text
}

/// One origin behind a listener with one certificate, for `a.example`.
struct Simple {
    authority: Authority,
    origin: Origin,
    config: Config,
}

impl Simple {
    fn new() -> Self {
        Self::with("")
    }

    /// With further keys of `tls`.
    fn with(keys: &str) -> Self {
        let (authority, origin) = (Authority::new("authority"), Origin::named("app-1"));
        let certificate = authority.server(&["a.example"]);
        let config = Config::new(format!("{}{}", listener(&["a"], keys), pool_of(&origin)))
            .certificate("a", &certificate);
        Self { authority, origin, config }
    }

    fn start(self) -> Running {
        let client = TlsClient::new(&self.authority);
        Running { authority: self.authority, origin: self.origin, client, lb: self.config.start() }
    }
}

struct Running {
    authority: Authority,
    origin: Origin,
    client: TlsClient,
    lb: Lb,
}

impl Running {
    fn connect(&self) -> Client {
        Client::connect_tls(&self.lb.web(), &self.client, "a.example")
    }
}

#[test]
fn a_sticky_cookie_is_for_tls_alone_unless_told_otherwise() {
    for (keys, secure) in [("", true), (", secure: auto", true), (", secure: false", false)] {
        let mut simple = Simple::new();
        let pool = pool_of(&simple.origin);
        let sticky = format!("{pool}    sticky: {{ cookie: LB{keys} }}\n");
        simple.config = Config::new(format!("{}{sticky}", listener(&["a"], "")))
            .certificate("a", &simple.authority.server(&["a.example"]));
        let running = simple.start();
        let response = running.connect().get("/");
        let field = response.headers.get("set-cookie").expect("a cookie");
        assert_eq!(field.contains("; Secure"), secure, "{keys}: {field}");
    }
}

/// What a handshake with `name` in mind failed of, or what asking for something after it did: in
/// TLS 1.3 a client has finished before it is told that its certificate is not good.
fn failure(lb: &Lb, client: &TlsClient) -> String {
    let asked = Client::try_connect_tls(&lb.web(), client, "a.example").and_then(|mut client| {
        client.try_send(&request("GET", "/", &[], b""))?;
        client.try_response()
    });
    match asked {
        Ok(response) => panic!("answered with {}", response.status),
        Err(error) => error.to_string(),
    }
}

/// Runs `openssl s_client`, which is on every Debian, with a request on its standard input.
fn openssl(lb: &Lb, arguments: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &lb.web().to_string(), "-CAfile", "ca.pem"]);
    command.args(["-verify_return_error", "-servername", "a.example"]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = command.current_dir(lb.directory()).spawn();
    let mut openssl = started.expect("the openssl program is installed");
    let request = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    // It may have ended by now, with an error that its output tells.
    let _ = openssl.stdin.take().unwrap().write_all(request.as_bytes());
    let output = openssl.wait_with_output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn requests_over_tls_are_served() {
    let simple = Simple::new();
    let route =
        "routes:\n  - { match: { path: /to }, redirect: { to: \"${scheme}://x\" } }\n  - pool: app";
    let text = "sticky: { cookie: LB, secure: auto }";
    let config = format!("{}{}    {text}\n", listener(&["a"], ""), pool_of(&simple.origin));
    let config = Config::new(config)
        .and(route)
        .certificate("a", &simple.authority.server(&["a.example"]))
        .access_log();
    let running = Simple { config, ..simple }.start();
    for (logged, version, name) in [(4, &TLS12, "TLSv1.2"), (8, &TLS13, "TLSv1.3")] {
        let client = TlsClient::only(&running.authority, version);
        let mut client = Client::connect_tls(&running.lb.web(), &client, "a.example");
        for _ in 0..3 {
            let response = client.get("/");
            assert_eq!((response.status, response.text()), (200, "app-1".to_owned()));
            assert!(response.headers.get("set-cookie").unwrap().ends_with("; Secure"));
        }
        assert_eq!(client.get("/to").headers.get("location"), Some("https://x"));
        let seen = running.origin.last_request().headers;
        assert_eq!(seen.get("x-forwarded-proto"), Some("https"));
        assert_eq!(seen.get("x-real-ip"), Some("127.0.0.1"));
        let entries = running.lb.wait_for_entries(logged);
        assert!(entries.iter().rev().take(4).all(|entry| entry["tls"] == name), "{entries:?}");
    }
}

#[test]
fn openssl_is_a_client() {
    let simple = Simple::new();
    let authority = simple.authority.pem.clone();
    let running = Simple { config: simple.config.file("ca.pem", authority), ..simple }.start();
    for (option, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let output = openssl(&running.lb, &[option, "-quiet", "-ign_eof"]);
        assert!(output.starts_with("HTTP/1.1 200"), "{output}");
        assert!(output.contains("\r\n\r\napp-1"), "{output}");
        let output = openssl(&running.lb, &[option, "-ign_eof"]);
        assert!(output.contains(&format!("New, {version}, Cipher is ")), "{output}");
        assert!(output.contains("Verify return code: 0 (ok)"), "{output}");
        // What OpenSSL says of a stream that ends without having been closed.
        assert!(!output.contains("unexpected eof"), "{output}");
    }
}

#[test]
fn an_old_version_is_refused_where_the_new_one_is_asked_for() {
    let simple = Simple::with("min_version: 1.3");
    let authority = simple.authority.pem.clone();
    let running = Simple { config: simple.config.file("ca.pem", authority), ..simple }.start();
    let old = TlsClient::only(&running.authority, &TLS12);
    assert_eq!(failure(&running.lb, &old), "received fatal alert: ProtocolVersion");
    let output = openssl(&running.lb, &["-tls1_2"]);
    assert!(output.contains("alert protocol version"), "{output}");
    assert_eq!(running.connect().get("/").status, 200);
}

/// The certificate that a client gets, which resumes no session.
fn shown(lb: &Lb, client: &TlsClient, name: &str) -> Vec<u8> {
    let client = Client::connect_tls(&lb.web(), &client.but(|_| ()), name);
    client.tls().peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn the_certificate_is_chosen_by_the_name_that_is_asked_for() {
    let (authority, origin) = (Authority::new("authority"), Origin::named("app-1"));
    let certificates = [
        authority.server(&["first.example"]),
        authority.server(&["a.example", "b.example"]),
        authority.server(&["*.a.example"]),
        authority.server(&["exact.a.example", "a.example"]),
    ];
    let names = ["c0", "c1", "c2", "c3"];
    let mut config = Config::new(format!("{}{}", listener(&names, ""), pool_of(&origin)));
    for (name, certificate) in names.iter().zip(&certificates) {
        config = config.certificate(name, certificate);
    }
    let lb = config.start();
    let client = TlsClient::new(&authority).credulous(&authority);
    let der = certificates.map(|certificate| certificate.chain()[0].to_vec());
    let chosen = |client: &TlsClient, name: &str| {
        let shown = shown(&lb, client, name);
        der.iter().position(|der| *der == shown).expect("one of ours")
    };
    for (name, expected) in [
        ("first.example", 0),
        ("a.example", 1),
        ("A.Example", 1),
        ("b.example", 1),
        ("x.a.example", 2),
        ("X.A.EXAMPLE", 2),
        ("exact.a.example", 3),
        // A wildcard stands for one label.
        ("x.y.a.example", 0),
        ("unknown.example", 0),
        ("example", 0),
    ] {
        assert_eq!(chosen(&client, name), expected, "{name}");
    }
    assert_eq!(chosen(&client.nameless(), "a.example"), 0, "without a name");
    assert_eq!(chosen(&client, "127.0.0.1"), 0, "an address is no name");
}

#[test]
fn a_client_gets_the_certificate_whose_key_it_can_verify() {
    let (authority, origin) = (Authority::new("authority"), Origin::named("app-1"));
    let ecdsa = authority.server(&["a.example"]);
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let ed25519 = authority.sign_with(&key, &["a.example"], |_| ());
    let lb = Config::new(format!("{}{}", listener(&["ecdsa", "ed25519"], ""), pool_of(&origin)))
        .certificate("ecdsa", &ecdsa)
        .certificate("ed25519", &ed25519)
        .start();
    let all = ring::default_provider();
    let of_ed25519: Vec<_> = all
        .signature_verification_algorithms
        .mapping
        .iter()
        .filter(|(scheme, _)| *scheme == rustls::SignatureScheme::ED25519)
        .copied()
        .collect();
    let mapping: &'static [_] = Box::leak(of_ed25519.into_boxed_slice());
    let only_ed25519 = CryptoProvider {
        signature_verification_algorithms: WebPkiSupportedAlgorithms {
            mapping,
            ..all.signature_verification_algorithms
        },
        ..all
    };
    let odd = TlsClient::with(&authority, &[&TLS13], Arc::new(only_ed25519));
    assert_eq!(shown(&lb, &TlsClient::new(&authority), "a.example"), *ecdsa.chain()[0]);
    assert_eq!(shown(&lb, &odd, "a.example"), *ed25519.chain()[0]);
}

/// The fields by which a backend learns who the client is.
fn identity(origin: &Origin) -> [Option<String>; 3] {
    let seen = origin.last_request().headers;
    let field = |name: &str| seen.get(name).map(str::to_owned);
    [field("x-client-cert-verified"), field("x-client-cert-subject"), field("x-client-cert-san")]
}

const FORGED: [&str; 4] = [
    "X-Client-Cert-Verified: true",
    "X-Client-Cert-Subject: CN=admin",
    "X-Client-Cert-San: DNS:admin",
    "X_Client_Cert_Subject: CN=admin",
];

/// A client's certificate with everything that a backend is told of.
fn person(authority: &Authority) -> Certificate {
    authority.sign(&[], |params: &mut CertificateParams| {
        params.distinguished_name.push(DnType::OrganizationName, "Tests, Inc");
        params.distinguished_name.push(DnType::CommonName, "client-1");
        params.subject_alt_names = vec![
            SanType::DnsName("client.example".try_into().unwrap()),
            SanType::URI("spiffe://example/client".try_into().unwrap()),
        ];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    })
}

const PERSON: [Option<&str>; 3] = [
    Some("true"),
    Some("CN=client-1,O=Tests\\, Inc"),
    Some("DNS:client.example, URI:spiffe://example/client"),
];

/// A listener that wants to know who its clients are.
fn asking(word: &str, people: &Authority) -> Running {
    let simple = Simple::with(&format!("client_ca: people.pem\nclient_auth: {word}"));
    let config = simple.config.file("people.pem", people.pem.clone());
    Simple { config, ..simple }.start()
}

#[test]
fn a_required_certificate_lets_nobody_else_in() {
    let people = Authority::new("people");
    let running = asking("required", &people);
    let strangers = Authority::new("strangers").client("client-1");
    let expired = people.sign(&[], |params| params.not_after = rcgen::date_time_ymd(2021, 1, 1));
    let server = people.server(&["client.example"]);
    for version in [&TLS12, &TLS13] {
        let client = TlsClient::only(&running.authority, version);
        let refused = |client: &TlsClient| failure(&running.lb, client);
        assert_eq!(refused(&client), "received fatal alert: CertificateRequired");
        let stranger = client.showing(&strangers);
        assert_eq!(refused(&stranger), "received fatal alert: UnknownCA");
        assert_eq!(refused(&client.showing(&expired)), "received fatal alert: CertificateExpired");
        // A server's certificate is none for a client.
        assert_eq!(
            refused(&client.showing(&server)),
            "received fatal alert: UnsupportedCertificate"
        );
        let person = client.showing(&person(&people));
        let mut client = Client::connect_tls(&running.lb.web(), &person, "a.example");
        client.ask(request("GET", "/", &FORGED, b""));
        assert_eq!(identity(&running.origin).each_ref().map(Option::as_deref), PERSON);
        let hiding = "Connection: X-Client-Cert-Verified, X-Client-Cert-Subject, X-Client-Cert-San";
        client.ask(request("GET", "/", &[hiding], b""));
        assert_eq!(identity(&running.origin).each_ref().map(Option::as_deref), PERSON);
    }
    assert_eq!(running.origin.count(), 4, "nothing of the others reached a backend");
}

#[test]
fn an_optional_certificate_is_passed_on_if_it_is_good() {
    let people = Authority::new("people");
    let running = asking("optional", &people);
    let mut client = running.connect();
    client.ask(request("GET", "/", &FORGED, b""));
    assert_eq!(identity(&running.origin), [None, None, None]);
    let seen = running.origin.last_request();
    assert!(!seen.headers.has("x_client_cert_subject"), "{:?}", seen.headers);

    let person = running.client.showing(&person(&people));
    Client::connect_tls(&running.lb.web(), &person, "a.example").get("/");
    assert_eq!(identity(&running.origin).each_ref().map(Option::as_deref), PERSON);

    let stranger = running.client.showing(&Authority::new("strangers").client("client-1"));
    assert_eq!(failure(&running.lb, &stranger), "received fatal alert: UnknownCA");
}

#[test]
fn who_a_client_is_cannot_be_claimed_in_the_clear() {
    let origin = Origin::named("app-1");
    let trusted = "trusted_proxies: [127.0.0.1]";
    for trusted in ["", trusted] {
        let lb = Config::pool(&[origin.entry()], UNCHECKED).and(trusted).start();
        lb.client().ask(request("GET", "/", &FORGED, b""));
        assert_eq!(identity(&origin), [None, None, None], "{trusted}");
    }
}

#[test]
fn the_scheme_is_that_of_the_client_of_a_trusted_proxy() {
    let origin = Origin::named("app-1");
    let routes =
        "routes:\n  - { match: { path: /to }, redirect: { to: \"${scheme}://x\" } }\n  - pool: app";
    let keys = format!("{UNCHECKED}\nsticky: {{ cookie: LB }}");
    let lb = Config::pool(&[origin.entry()], &keys)
        .and(routes)
        .and("trusted_proxies: [127.0.0.1]")
        .start();
    for (told, scheme) in [("https", "https"), ("http", "http"), ("nonsense", "http")] {
        let field = format!("X-Forwarded-Proto: {told}");
        let response = lb.client().ask(request("GET", "/to", &[&field], b""));
        assert_eq!(response.headers.get("location"), Some(format!("{scheme}://x").as_str()));
        let response = lb.client().ask(request("GET", "/", &[&field], b""));
        let cookie = response.headers.get("set-cookie").unwrap();
        assert_eq!(cookie.ends_with("; Secure"), scheme == "https", "{told}: {cookie}");
    }
}

/// How a handshake went.
fn kind(lb: &Lb, client: &TlsClient) -> HandshakeKind {
    let mut client = Client::connect_tls(&lb.web(), client, "a.example");
    // The tickets of TLS 1.3 come after the handshake.
    assert_eq!(client.get("/").status, 200);
    client.tls().handshake_kind().unwrap()
}

#[test]
fn sessions_are_resumed() {
    let people = Authority::new("people");
    let running = asking("required", &people);
    for version in [&TLS12, &TLS13] {
        let client = TlsClient::only(&running.authority, version).showing(&person(&people));
        assert_eq!(kind(&running.lb, &client), HandshakeKind::Full);
        for _ in 0..3 {
            assert_eq!(kind(&running.lb, &client), HandshakeKind::Resumed);
            // A session remembers whose it is.
            assert_eq!(identity(&running.origin).each_ref().map(Option::as_deref), PERSON);
        }
    }
}

#[test]
fn sessions_of_clients_that_are_let_in_no_more_are_not_resumed() {
    let people = Authority::new("people");
    let running = asking("required", &people);
    let client = running.client.showing(&person(&people));
    assert_eq!(kind(&running.lb, &client), HandshakeKind::Full);
    reread(&running.lb, &[("a.pem", &running.lb.read("a.pem"))]);
    assert_eq!(kind(&running.lb, &client), HandshakeKind::Resumed, "nothing has changed for it");
    reread(&running.lb, &[("people.pem", &Authority::new("other people").pem)]);
    assert_eq!(failure(&running.lb, &client), "received fatal alert: UnknownCA");
}

#[test]
fn a_session_of_one_listener_is_none_of_another() {
    let (authority, people) = (Authority::new("authority"), Authority::new("people"));
    let origin = Origin::named("app-1");
    let open =
        "  open: { address: \"@2@\", tls: { certificates: [{ cert: a.pem, key: a.key }] } }\n";
    let keys = "client_ca: people.pem";
    let lb = Config::new(format!("{}{open}{}", listener(&["a"], keys), pool_of(&origin)))
        .certificate("a", &authority.server(&["a.example"]))
        .file("people.pem", people.pem.clone())
        .start();
    let client = TlsClient::new(&authority);
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let mut client = Client::connect_tls(&lb.extra(2), &client, "a.example");
        assert_eq!(client.get("/").status, 200);
        assert_eq!(client.tls().handshake_kind(), Some(kind));
    }
    assert_eq!(failure(&lb, &client), "received fatal alert: CertificateRequired");
}

/// Replaces files, says so with HUP, and waits until they were read.
fn reread(lb: &Lb, files: &[(&str, &str)]) {
    let before = lb.lines_with("certificates read again");
    for (name, content) in files {
        lb.replace(name, content);
    }
    lb.signal(Signal::HUP);
    eventually("they are read again", || lb.lines_with("certificates read again") > before);
}

#[test]
fn new_certificates_are_for_new_connections() {
    let running = Simple::new().start();
    let mut before = running.connect();
    assert_eq!(before.get("/").status, 200);
    let certificate = running.authority.server(&["a.example", "new.example"]);
    let files = [("a.pem", certificate.pem.as_str()), ("a.key", certificate.key.as_str())];
    reread(&running.lb, &files);
    let mut after = Client::connect_tls(&running.lb.web(), &running.client, "new.example");
    assert_eq!(after.get("/").status, 200);
    assert_eq!(before.get("/").status, 200, "the old connection goes on");
    assert_eq!(shown(&running.lb, &running.client, "a.example"), *certificate.chain()[0]);
}

#[test]
fn files_that_change_are_noticed() {
    let running = Simple::new().start();
    let certificate = running.authority.server(&["a.example", "new.example"]);
    running.lb.replace("a.pem", &certificate.pem);
    running.lb.replace("a.key", &certificate.key);
    running.lb.wait_for_line("listener web: certificates read again");
    Client::connect_tls(&running.lb.web(), &running.client, "new.example");
    assert_eq!(running.lb.lines_with("ERROR"), 0, "a moment between two files is no error");
}

#[test]
fn a_broken_file_changes_nothing_and_is_told_once() {
    let running = Simple::new().start();
    let shown = || shown(&running.lb, &running.client, "a.example");
    let before = shown();
    running.lb.replace("a.key", "nonsense");
    running.lb.signal(Signal::HUP);
    let line = running.lb.wait_for_line("ERROR listener web: ");
    let key = running.lb.directory().join("a.key");
    let problem =
        format!("{} has no private key; what was read before stays in use", key.display());
    assert!(line.ends_with(&problem), "{line}");
    assert_eq!(shown(), before);
    // It is looked at once a second.
    let again = within(Duration::from_millis(1200), || running.lb.lines_with("ERROR listener") > 1);
    assert!(!again, "{}", running.lb.program.stderr.text());
    let certificate = running.authority.server(&["a.example"]);
    let files = [("a.pem", certificate.pem.as_str()), ("a.key", certificate.key.as_str())];
    reread(&running.lb, &files);
    assert_eq!(shown(), *certificate.chain()[0]);
}

#[test]
fn a_certificate_that_has_expired_meanwhile_is_told() {
    let running = Simple::new().start();
    let expired = running.authority.expired(&["a.example"]);
    reread(&running.lb, &[("a.pem", expired.pem.as_str()), ("a.key", expired.key.as_str())]);
    let line = running.lb.wait_for_line("WARN  listener web: ");
    assert!(line.ends_with("a.pem has a certificate that expired on 2021-01-01"), "{line}");
}

/// How often certificates are swapped under load; `make tls-proof` has a hundred.
const SWAPS: usize = 20;

#[test]
fn certificates_are_swapped_under_load_and_no_handshake_fails() {
    let swaps = std::env::var("SWAPS").map_or(SWAPS, |swaps| swaps.parse().unwrap());
    let running = Simple::new().start();
    // Half of it resumes sessions where it can, half never does.
    let fresh = running.client.but(|config| config.resumption = Resumption::disabled());
    let web = running.lb.web();
    let began = Instant::now();
    let loads = [&running.client, &fresh].map(|it| Load::start_tls(&web, 2, "/", it, "a.example"));
    for _ in 0..swaps {
        let certificate = running.authority.server(&["a.example"]);
        let files = [("a.pem", certificate.pem.as_str()), ("a.key", certificate.key.as_str())];
        reread(&running.lb, &files);
        assert_eq!(shown(&running.lb, &running.client, "a.example"), *certificate.chain()[0]);
        for load in &loads {
            load.wait_for_more(1);
        }
    }
    let mut connections = 0;
    for load in loads {
        let (done, _, failures) = load.stop();
        assert_eq!(failures, [""; 0], "of {done} connections");
        connections += done;
    }
    let took = began.elapsed().as_secs_f64();
    println!("{swaps} swaps in {took:.1} s, {connections} handshakes beside them, none failed");
}

/// How long it takes until the other side closes.
fn time_until_closed(client: &mut Client) -> Duration {
    let began = Instant::now();
    assert!(client.is_closed());
    began.elapsed()
}

#[test]
fn a_handshake_has_its_time_however_it_is_spent() {
    let (authority, origin) = (Authority::new("authority"), Origin::named("app-1"));
    let timeouts = "    timeouts: { tls_handshake: 300ms }\n";
    let lb = Config::new(format!("{}{timeouts}{}", listener(&["a"], ""), pool_of(&origin)))
        .certificate("a", &authority.server(&["a.example"]))
        .without_probe()
        .start();
    eventually("it listens", || Client::try_connect(&lb.web()).is_ok());
    let due = Duration::from_millis(280)..Duration::from_secs(3);
    let took = time_until_closed(&mut lb.client());
    assert!(due.contains(&took), "{took:?} for one who says nothing");

    // A byte every 50 ms is no reason to wait for longer.
    let mut hello = Vec::new();
    TlsClient::new(&authority).connection("a.example").write_tls(&mut hello).unwrap();
    let mut slow = lb.client();
    slow.set_patience(Duration::from_millis(50));
    let began = Instant::now();
    let sent = hello.iter().position(|byte| slow.try_send(&[*byte]).is_err() || slow.is_closed());
    let took = began.elapsed();
    assert!(due.contains(&took), "{took:?} for one who is slow");
    assert!(sent.is_some(), "it was closed in the middle");
}

#[test]
fn http_in_the_clear_is_told_that_it_is_wrong_here() {
    let simple = Simple::new();
    let running = Simple { config: simple.config.access_log(), ..simple }.start();
    let mut client = running.lb.client();
    let response = client.get("/");
    assert_eq!(response.status, 400);
    assert!(client.is_closed());
    assert_eq!(running.origin.count(), 0);
    let entries = running.lb.wait_for_entries(1);
    let told = |key: &str| entries[0][key].to_string();
    assert_eq!(["status", "reason", "tls"].map(told), ["400", "\"bad_request\"", "null"]);
}

#[test]
fn nonsense_is_closed_and_no_error_of_ours() {
    let running = Simple::new().start();
    for nonsense in
        [&b"\0"[..], b"\x16\x03\x01\x00\x05nonsense", b"\x80\x2e\x01\x03\x01", b" GET /"]
    {
        let mut client = running.lb.client();
        client.send(nonsense);
        client.half_close();
        client.rest();
        assert!(client.is_closed(), "{nonsense:?}");
    }
    assert_eq!(running.connect().get("/").status, 200, "others are served");
    let lines = running.lb.program.stderr.all();
    let bad: Vec<_> = lines.iter().filter(|line| !line.contains(" INFO ")).collect();
    assert!(bad.is_empty(), "{bad:?}");
}

#[test]
fn failed_handshakes_are_told_at_level_debug() {
    let people = Authority::new("people");
    let simple = Simple::with("client_ca: people.pem");
    let server = crate::support::lb::server("log_level: debug");
    let config = simple.config.file("people.pem", people.pem).and(&server);
    let running = Simple { config, ..simple }.start();
    failure(&running.lb, &running.client);
    let line = running.lb.wait_for_line("peer sent no certificates");
    assert!(line.contains(" DEBUG "), "{line}");
    assert!(line.contains("listener web: a TLS handshake with 127.0.0.1:"), "{line}");
}

#[test]
fn only_protocols_that_are_spoken_are_chosen() {
    let running = Simple::with("alpn: [http/1.1]").start();
    let both = running.client.offering(&["h2", "http/1.1"]);
    let mut client = Client::connect_tls(&running.lb.web(), &both, "a.example");
    assert_eq!(client.tls().alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(client.get("/").status, 200);
    let other = running.client.offering(&["h2"]);
    assert_eq!(failure(&running.lb, &other), "received fatal alert: NoApplicationProtocol");
}

#[test]
fn an_orderly_end_is_said() {
    let (authority, origin) = (Authority::new("authority"), Origin::named("app-1"));
    let timeouts = "    timeouts: { keepalive: 100ms, header: 300ms }\n";
    let lb = Config::new(format!("{}{timeouts}{}", listener(&["a"], ""), pool_of(&origin)))
        .certificate("a", &authority.server(&["a.example"]))
        .start();
    let tls = TlsClient::new(&authority);
    let connect = || Client::connect_tls(&lb.web(), &tls, "a.example");

    let mut client = connect();
    let response = client.ask(request("GET", "/", &["Connection: close"], b""));
    assert_eq!(response.text(), "app-1");
    assert_eq!(client.until_the_end().unwrap(), b"", "after the last response");

    let mut client = connect();
    client.get("/");
    assert_eq!(client.until_the_end().unwrap(), b"", "after a time without requests");

    assert_eq!(connect().until_the_end().unwrap(), b"", "without any request");

    let mut client = connect();
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(client.response().status, 400);
    assert_eq!(client.until_the_end().unwrap(), b"", "after an answer of ours");

    let mut client = connect();
    client.send(request("GET", "/", &[], b""));
    client.say_end();
    assert_eq!(client.response().text(), "app-1", "who has said the end is answered");
    assert_eq!(client.until_the_end().unwrap(), b"");

    origin.script(|_| Reply::RawThenClose(b"HTTP/1.1 200 OK\r\n\r\nall of it".to_vec()));
    let mut client = connect();
    client.send("GET / HTTP/1.0\r\nHost: a.example\r\n\r\n");
    assert!(client.until_the_end().unwrap().ends_with(b"all of it"), "where it ends the response");
}

#[test]
fn a_response_that_breaks_off_does_not_end_in_order() {
    let running = Simple::new().start();
    let cases: [(&str, &[u8]); 3] = [
        ("GET / HTTP/1.0\r\nHost: a.example\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nsome of it"),
        (
            "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome of it",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nsome of it\r\n",
        ),
    ];
    for (asked, reply) in cases {
        running.origin.script(move |_| Reply::RawThenReset(reply.to_vec()));
        let mut client = running.connect();
        client.send(asked);
        let error = client.until_the_end().expect_err("an end that was not said");
        assert!(crate::support::http::broke_off(&error), "{error}");
    }
}

#[test]
fn bodies_arrive_whole() {
    let running = Simple::new().start();
    let size: usize = 5_000_000;
    running.origin.script(move |request| match request.path() {
        "/down" => Reply::Zeros(size as u64),
        _ => Reply::text(request.body_length.to_string()),
    });
    for version in [&TLS12, &TLS13] {
        let client = TlsClient::only(&running.authority, version);
        let mut client = Client::connect_tls(&running.lb.web(), &client, "a.example");
        let down = client.get("/down");
        assert_eq!((down.complete, down.body_length), (true, size as u64));
        assert_eq!(client.ask(request("POST", "/up", &[], &vec![b'x'; size])).status, 200);
        let up = running.origin.last_request();
        assert_eq!((up.complete, up.body_length), (true, size as u64));
    }
    // What is sent back as it comes, piece by piece.
    running.origin.script(|_| Reply::EchoStream);
    running.connect().has_pieces_echoed();
}

#[test]
fn requests_that_come_together_are_served_one_after_another() {
    let running = Simple::new().start();
    running.origin.script(|request| Reply::text(request.target.clone()));
    let mut client = running.connect();
    let both = [request("GET", "/1", &[], b""), request("GET", "/2", &[], b"")].concat();
    client.send(both);
    assert_eq!(client.response().text(), "/1");
    assert_eq!(client.response().text(), "/2");
}

#[test]
fn a_client_that_takes_nothing_is_cut_off_and_a_slow_one_is_not() {
    let (authority, origin) = (Authority::new("authority"), Origin::named("app-1"));
    origin.script(|_| Reply::Zeros(64 << 20));
    let timeouts = "    timeouts: { write: 400ms }\n";
    let lb = Config::new(format!("{}{timeouts}{}", listener(&["a"], ""), pool_of(&origin)))
        .certificate("a", &authority.server(&["a.example"]))
        .access_log()
        .start();
    let tls = TlsClient::new(&authority);
    let mut client = Client::connect_tls(&lb.web(), &tls, "a.example");
    client.send(request("GET", "/idle", &[], b""));
    let entries = lb.wait_for_entries(1);
    assert_eq!(entries[0]["reason"], "client_timeout", "{entries:?}");
    drop(client);

    // It takes a piece now and then, for three times as long as one may take nothing.
    let mut client = Client::connect_tls(&lb.web(), &tls, "a.example");
    client.send(request("GET", "/slow", &[], b""));
    let until = Instant::now() + Duration::from_millis(1200);
    while Instant::now() < until {
        std::thread::park_timeout(Duration::from_millis(20));
        client.exactly(400_000);
    }
    assert_eq!(lb.entries().len(), 1, "{:?}", lb.entries());
}

#[test]
fn one_connection_too_many_is_told_so() {
    let (authority, origin) = (Authority::new("authority"), Origin::named("app-1"));
    let keys = "    max_connections: 1\n";
    let lb = Config::new(format!("{}{keys}{}", listener(&["a"], ""), pool_of(&origin)))
        .certificate("a", &authority.server(&["a.example"]))
        .start();
    let tls = TlsClient::new(&authority);
    let connect = || Client::connect_tls(&lb.web(), &tls, "a.example");
    let mut only = connect();
    eventually("it has the only place", || {
        only = connect();
        only.get("/").status == 200
    });
    let mut other = connect();
    assert_eq!(other.response().status, 503);
    assert_eq!(other.until_the_end().unwrap(), b"");
    assert_eq!(only.get("/").status, 200);
}

#[test]
fn the_end_of_the_process_is_not_held_up() {
    let simple = Simple::new();
    let server = crate::support::lb::server("drain_timeout: 10s");
    let mut running = Simple { config: simple.config.and(&server), ..simple }.start();
    let mut idle = running.connect();
    assert_eq!(idle.get("/").status, 200);
    let silent = running.lb.client();
    let mut hello = Vec::new();
    running.client.connection("a.example").write_tls(&mut hello).unwrap();
    let mut begun = running.lb.client();
    begun.send(&hello[..50]);
    running.lb.signal(Signal::TERM);
    assert_eq!(idle.until_the_end().unwrap(), b"", "an idle connection ends in order");
    let status = running.lb.program.wait_for_exit(Duration::from_secs(4));
    assert!(status.is_some_and(|status| status.success()), "{status:?}");
    drop((silent, begun));
}

#[test]
fn a_websocket_goes_through() {
    let running = Simple::new().start();
    running.origin.script(|_| Reply::Upgrade);
    let mut client = running.connect();
    let fields = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"];
    assert_eq!(client.ask(request("GET", "/", &fields, b"")).status, 101);
    for message in ["one", "two"] {
        client.send(message);
        assert_eq!(client.exactly(3), message.as_bytes());
    }
}

#[test]
fn a_unix_socket_may_speak_tls() {
    let (authority, origin) = (Authority::new("authority"), Origin::named("app-1"));
    let text = listener(&["a"], "").replace("@WEB@", "unix:@DIR@/lb.sock");
    let lb = Config::new(format!("{text}{}", pool_of(&origin)))
        .certificate("a", &authority.server(&["a.example"]))
        .without_probe()
        .start();
    let address = Address::Unix(lb.directory().join("lb.sock"));
    eventually("it serves", || answers(&address));
    let mut client = Client::connect_tls(&address, &TlsClient::new(&authority), "a.example");
    assert_eq!(client.get("/").status, 200);
    let seen = origin.last_request().headers;
    assert_eq!(seen.get("x-forwarded-proto"), Some("https"));
    assert_eq!(get(&address, "/").status, 400, "in the clear");
}

#[test]
fn a_certificate_that_is_no_good_is_an_error_with_a_place() {
    const CERT: &str = "a PEM file with a certificate, then those that lead to its authority";
    const KEY: &str = "a PEM file with the private key of the certificate, not encrypted";
    let other = Authority::new("other").server(&["a.example"]).key;
    let cut = "-----BEGIN PRIVATE KEY-----\n!\n";
    let missing = "No such file or directory (os error 2)";
    // What is at fault, and the file, what is in it if it is there, and what is said of it.
    let cases = [
        ("cert", "a.pem", None, format!("cannot read @/a.pem: {missing}"), CERT),
        ("key", "a.key", None, format!("cannot read @/a.key: {missing}"), KEY),
        ("cert", "a.pem", Some(""), "@/a.pem has no certificate".to_owned(), CERT),
        ("key", "a.key", Some(cut), "@/a.key is not a valid PEM file".to_owned(), KEY),
        (
            "key",
            "a.key",
            Some(other.as_str()),
            "the key in @/a.key does not fit the certificate in @/a.pem".to_owned(),
            KEY,
        ),
    ];
    for (key, name, content, said, expected) in cases {
        let files = Simple::new().config.write();
        match content {
            Some(content) => files.replace(name, content),
            None => std::fs::remove_file(files.directory().join(name)).unwrap(),
        }
        let (code, stdout, stderr) =
            Program::run(["-c".as_ref(), files.path().as_os_str(), "-t".as_ref()]);
        let (file, folder) = (files.path().display(), files.directory().display().to_string());
        assert_eq!((code, stdout.as_str()), (1, ""), "{name}");
        let said = said.replace('@', &folder);
        let position = if key == "cert" { "6:19" } else { "6:31" };
        assert_eq!(
            stderr,
            format!(
                "{file}:{position}: listeners.web.tls.certificates[0].{key}: {said}; expected {expected}"
            )
        );
    }
}

#[test]
fn an_expired_certificate_is_a_warning() {
    let simple = Simple::new();
    let expired = simple.authority.expired(&["a.example"]);
    let files = simple.config.certificate("a", &expired).write();
    let (code, _, stderr) = Program::run(["-c".as_ref(), files.path().as_os_str(), "-t".as_ref()]);
    assert_eq!(code, 0, "{stderr}");
    let warning = "listeners.web.tls.certificates[0].cert: a certificate that expired on 2021-01-01; \
                   expected one that is valid";
    assert!(stderr.contains(warning), "{stderr}");
}
