//! Backends that speak TLS.

use crate::support::{
    Authority, Certificate, Client, Config, Gate, Lb, Origin, Program, Reply, Reserved, TlsFront,
    eventually, h2_origin::H2Origin, lb::pool, request,
};
use rustix::process::Signal;
use std::fmt::Write as _;

/// Neither checks nor retries get in the way.
const PLAIN: &str = "health_check: off\nretry: { attempts: 0 }\nejection: off";

/// An authority, an origin, and TLS before it with a certificate for these names.
struct Secured {
    authority: Authority,
    origin: Origin,
    front: TlsFront,
}

impl Secured {
    fn new(names: &[&str]) -> Self {
        let (authority, origin) = (Authority::new("authority"), Origin::named("app-1"));
        let front = TlsFront::new(&origin, &authority.server(names));
        Self { authority, origin, front }
    }

    /// A balancer before it, with these keys of `tls` and further ones of the pool.
    fn config(&self, tls: &str, keys: &str) -> Config {
        let keys = format!("tls: {{ {tls} }}\n{PLAIN}\n{keys}");
        Config::pool(&[self.front.entry("app-1")], &keys).file("ca.pem", self.authority.pem.clone())
    }

    fn start(&self, tls: &str) -> Lb {
        self.config(tls, "").start()
    }
}

/// What a request for `host` is answered with.
fn ask(client: &mut Client, host: &str) -> u16 {
    let host = format!("Host: {host}");
    client.ask(request("GET", "/", &[&host], b"")).status
}

/// The same on a connection of its own. The backend's connection may not be kept yet when the client
/// has its answer.
fn get_host(lb: &Lb, host: &str) -> u16 {
    ask(&mut lb.client(), host)
}

#[test]
fn requests_reach_a_backend_over_tls() {
    let secured = Secured::new(&["test.example"]);
    let lb = secured.config("ca: ca.pem", "").access_log().start();
    let mut client = lb.client();
    for path in ["/1", "/2"] {
        let response = client.get(path);
        assert_eq!((response.status, response.text()), (200, "app-1".to_owned()));
    }
    let size: usize = 3_000_000;
    assert_eq!(client.ask(request("POST", "/", &[], &vec![b'x'; size])).status, 200);
    let seen = secured.origin.last_request();
    assert_eq!((seen.complete, seen.body_length), (true, size as u64));
    secured.origin.script(move |_| Reply::Zeros(size as u64));
    let response = client.get("/down");
    assert_eq!((response.complete, response.body_length), (true, size as u64));
    assert_eq!(secured.front.names(), ["test.example"], "one connection was enough");
    assert_eq!(lb.wait_for_entries(4)[3]["tls"], serde_json::Value::Null, "the client used none");
}

#[test]
fn a_backend_must_have_the_name_that_it_is_asked_for() {
    let secured = Secured::new(&["a.example", "b.example"]);
    let lb = secured.start("ca: ca.pem");
    assert_eq!(get_host(&lb, "a.example"), 200);
    assert_eq!(get_host(&lb, "B.Example:8443"), 200);
    for host in ["c.example", "127.0.0.1", "[::1]", "a..example", "x!y", ""] {
        assert_eq!(get_host(&lb, host), 502, "{host}");
    }
    let without = lb.client().ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(without.status, 502, "without a host, it is the backend's address");
    assert_eq!(secured.front.names(), ["a.example", "b.example"]);
    let line = lb.wait_for_line("connect_failed after 1 tries");
    assert!(line.contains("invalid peer certificate: certificate not valid for name"), "{line}");
}

#[test]
fn an_address_may_be_what_a_certificate_is_for() {
    let secured = Secured::new(&["127.0.0.1"]);
    // Asked for by address, a server is told no name.
    let lb = secured.config("ca: ca.pem", "host_header: backend").start();
    assert_eq!(get_host(&lb, "anything.example"), 200);
    let lb = secured.start("ca: ca.pem, sni: 127.0.0.1");
    assert_eq!(get_host(&lb, "anything.example"), 200);
    assert_eq!(secured.front.names(), ["(none)"; 2]);
}

#[test]
fn the_name_may_be_configured() {
    let secured = Secured::new(&["backend.example"]);
    let lb = secured.start("ca: ca.pem, sni: backend.example");
    let mut client = lb.client();
    assert_eq!(ask(&mut client, "a.example"), 200);
    assert_eq!(ask(&mut client, "b.example"), 200);
    assert_eq!(secured.origin.last_request().headers.get("host"), Some("b.example"));
    let lb = secured.config("ca: ca.pem", "host_header: \"backend.example:8443\"").start();
    assert_eq!(get_host(&lb, "a.example"), 200);
    let names = ["backend.example", "backend.example"];
    assert_eq!(secured.front.names(), names, "different hosts share a connection");
}

#[test]
fn a_backend_given_by_name_is_asked_for_by_it() {
    let secured = Secured::new(&["localhost"]);
    let entry =
        format!("{{ address: \"localhost:{}\", name: app-1 }}", secured.front.address().port());
    let keys = format!("tls: {{ ca: ca.pem }}\n{PLAIN}\nhost_header: backend");
    let lb = Config::pool(&[entry], &keys).file("ca.pem", secured.authority.pem.clone()).start();
    let mut client = lb.client();
    assert_eq!(ask(&mut client, "a.example"), 200);
    assert_eq!(client.ask("GET / HTTP/1.0\r\n\r\n").status, 200);
    assert_eq!(secured.front.names(), ["localhost"]);
}

/// What is wrong with a backend that the log tells.
fn refused(certificate: &Certificate, authority: &Authority) -> String {
    let origin = Origin::named("app-1");
    let front = TlsFront::new(&origin, certificate);
    let keys = format!("tls: {{ ca: ca.pem, sni: a.example }}\n{PLAIN}");
    let lb = Config::pool(&[front.entry("app-1")], &keys)
        .file("ca.pem", authority.pem.clone())
        .access_log()
        .start();
    assert_eq!(lb.get("/").status, 502);
    assert_eq!(lb.wait_for_entries(1)[0]["reason"], "connect_failed");
    assert_eq!(origin.count(), 0);
    let line = lb.wait_for_line("connect_failed");
    line.split("TLS handshake: ").nth(1).expect("what the handshake failed of").to_owned()
}

#[test]
fn a_bad_certificate_is_a_failed_connection() {
    let (authority, other) = (Authority::new("authority"), Authority::new("other"));
    let stranger = other.server(&["a.example"]);
    assert_eq!(refused(&stranger, &authority), "invalid peer certificate: UnknownIssuer");
    let expired = refused(&authority.expired(&["a.example"]), &authority);
    assert!(expired.starts_with("invalid peer certificate: certificate expired"), "{expired}");
    let wrong = refused(&authority.server(&["b.example"]), &authority);
    let expected = "invalid peer certificate: certificate not valid for name \"a.example\"";
    assert!(wrong.starts_with(expected), "{wrong}");
    let of_authority = authority.sign(&["a.example"], |params| {
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    });
    assert_eq!(
        refused(&of_authority, &authority),
        "invalid peer certificate: it is an authority's (CA:TRUE), which is none for a server unless it is \
         in ca itself, with alternative names"
    );
}

#[test]
fn a_backend_that_does_not_speak_tls_is_a_failed_connection() {
    let origin = Origin::named("app-1");
    let keys = format!("tls: {{ verify: false }}\n{PLAIN}\ntimeouts: {{ connect: 1s }}");
    let lb = Config::pool(&[origin.entry()], &keys).start();
    origin.script(|_| Reply::close());
    assert!([502, 504].contains(&lb.get("/").status));
    assert_eq!(origin.count(), 0, "no request was sent in the clear");
}

#[test]
fn without_verification_anybody_will_do() {
    let secured = Secured::new(&["other.example"]);
    let lb = secured.start("verify: false");
    for host in ["a.example", "127.0.0.1", "x!y"] {
        assert_eq!(get_host(&lb, host), 200, "{host}");
    }
    assert_eq!(lb.client().ask("GET / HTTP/1.0\r\n\r\n").status, 200);
    secured.front.show(&secured.authority.expired(&["a.example"]));
    assert_eq!(get_host(&lb, "b.example"), 200);
}

#[test]
fn the_systems_authorities_are_believed_where_none_are_given() {
    let secured = Secured::new(&["test.example"]);
    // Which they are, rustls-native-certs finds out as OpenSSL does.
    let with = |file: &str| secured.config("", "").environment("SSL_CERT_FILE", file);
    assert_eq!(with("@DIR@/ca.pem").start().get("/").status, 200);
    let other = Authority::new("other").pem;
    let lb = with("@DIR@/other.pem").file("other.pem", other).start();
    assert_eq!(lb.get("/").status, 502);
    lb.wait_for_line("invalid peer certificate: UnknownIssuer");
}

#[test]
fn a_system_without_authorities_is_an_error() {
    let secured = Secured::new(&["test.example"]);
    let files = secured.config("", "").write();
    let mut command = Program::command(["-c".as_ref(), files.path().as_os_str(), "-t".as_ref()]);
    let (code, _, stderr) = Program::spawn(command.env("SSL_CERT_FILE", "/dev/null")).finish();
    assert_eq!(code, 1);
    let expected = "pools.app.tls: the system has no certificates of authorities; expected the package \
                    ca-certificates, or the key \"ca\" with a file";
    assert!(stderr.contains(expected), "{stderr}");
}

#[test]
fn a_backend_may_ask_who_we_are() {
    let (authority, people) = (Authority::new("authority"), Authority::new("people"));
    let origin = Origin::named("app-1");
    let front = TlsFront::asking(&origin, &authority.server(&["test.example"]), &people);
    let start = |tls: &str| {
        let keys = format!("tls: {{ ca: ca.pem, {tls} }}\n{PLAIN}");
        Config::pool(&[front.entry("app-1")], &keys)
            .file("ca.pem", authority.pem.clone())
            .certificate("lb", &people.client("lb"))
            .certificate("stranger", &Authority::new("strangers").client("lb"))
            .start()
    };
    assert_eq!(start("client_cert: lb.pem, client_key: lb.key").get("/").status, 200);
    assert!(front.seen()[0].identified);
    for tls in ["verify: true", "client_cert: stranger.pem, client_key: stranger.key"] {
        assert_eq!(start(tls).get("/").status, 502, "{tls}");
    }
    assert_eq!(origin.count(), 1);
}

#[test]
fn kept_connections_are_not_shared_by_pools_that_believe_others() {
    let (authority, people) = (Authority::new("authority"), Authority::new("people"));
    let (origin, h2) = (Origin::named("app-1"), H2Origin::named("app-1"));
    let certificate = authority.server(&["test.example"]);
    // Those of HTTP/2 are shared by requests under way as well, so they are kept in another place.
    for protocol in ["http1", "http2"] {
        let front = TlsFront::speaking(&["h2", "http/1.1"], &h2, &origin, &certificate);
        let mut text = String::from("routes:\n");
        let mut pools = String::from("pools:\n");
        for (name, tls) in [
            ("good", "ca: ca.pem"),
            ("other", "ca: other.pem"),
            ("anybody", "verify: false"),
            ("named", "ca: ca.pem, sni: test.example"),
            ("misnamed", "ca: ca.pem, sni: b.example"),
            ("known", "ca: ca.pem, client_cert: lb.pem, client_key: lb.key"),
            ("clear", ""),
        ] {
            writeln!(text, "  - {{ match: {{ path: /{name} }}, pool: {name} }}").unwrap();
            let tls = if tls.is_empty() { String::new() } else { format!("tls: {{ {tls} }}\n") };
            let keys = format!("{tls}{PLAIN}\nprotocol: {protocol}");
            pools += pool(name, &[front.entry("app-1")], &keys).strip_prefix("pools:\n").unwrap();
        }
        let lb = Config::new(format!("{text}{pools}"))
            .file("ca.pem", authority.pem.clone())
            .file("other.pem", Authority::new("other").pem)
            .certificate("lb", &people.client("lb"))
            .start();
        let mut client = lb.client();
        let mut ask = |pool: &str| client.get(&format!("/{pool}")).status;
        for _ in 0..2 {
            assert_eq!(["good", "anybody", "known"].map(&mut ask), [200; 3], "{protocol}");
            assert_eq!(["other", "misnamed", "clear"].map(&mut ask), [502; 3], "{protocol}");
            // The same terms under another pool's name.
            assert_eq!(ask("named"), 200, "{protocol}");
        }
        // The second round used what the first had kept: one connection for those that believe the
        // same and ask for the same, one for who believes anybody, one for who shows a certificate.
        let chosen = if protocol == "http2" { "h2" } else { "http/1.1" };
        let seen = front.seen();
        assert_eq!(seen.len(), 3, "{protocol}: {seen:?}");
        assert!(seen.iter().all(|seen| seen.alpn.as_deref() == Some(chosen)), "{seen:?}");
    }
}

#[test]
fn a_backend_with_a_bad_certificate_is_ejected_and_others_are_tried() {
    let secured = Secured::new(&["a.example"]);
    let bad = Origin::named("bad");
    let bad_front = TlsFront::new(&bad, &secured.authority.server(&["b.example"]));
    let keys = "tls: { ca: ca.pem, sni: a.example }\nhealth_check: off\nejection: { consecutive_failures: 3 }\nretry: { budget: { min_per_second: 100 } }";
    let entries = [bad_front.entry("bad"), secured.front.entry("app-1")];
    let lb = Config::pool(&entries, keys).file("ca.pem", secured.authority.pem.clone()).start();
    let mut client = lb.client();
    eventually("it is ejected", || {
        assert_eq!(client.get("/").text(), "app-1");
        lb.lines_with("of pool app is EJECTED") > 0
    });
    assert_eq!(bad.count(), 0);
}

#[test]
fn clients_cannot_have_backends_ejected_by_asking_for_other_hosts() {
    let secured = Secured::new(&["a.example", "c.example"]);
    let keys = "tls: { ca: ca.pem }\nhealth_check: off\nejection: { consecutive_failures: 2 }\nretry: { attempts: 0 }";
    let second = TlsFront::new(&secured.origin, &secured.authority.server(&["a.example"]));
    let entries = [secured.front.entry("one"), second.entry("two")];
    let lb = Config::pool(&entries, keys).file("ca.pem", secured.authority.pem.clone()).start();
    for _ in 0..20 {
        assert_eq!(get_host(&lb, "b.example"), 502);
        assert_eq!(lb.client().ask("GET / HTTP/1.0\r\n\r\n").status, 502);
    }
    assert_eq!(lb.lines_with("EJECTED"), 0);
    assert_eq!(get_host(&lb, "a.example"), 200);
    // A certificate that nobody can believe is another matter.
    second.show(&Authority::new("other").server(&["c.example"]));
    eventually("it is ejected", || {
        get_host(&lb, "c.example");
        lb.lines_with("of pool app is EJECTED") > 0
    });
}

/// A line of the log about a backend that its first check found down; `None` if it is up.
fn down(secured: &Secured, tls: &str, check: &str) -> Option<String> {
    let keys = format!("tls: {{ {tls} }}\nhealth_check: {{ {check} }}\nretry: {{ attempts: 0 }}");
    let lb = Config::pool(&[secured.front.entry("app-1")], &keys)
        .file("ca.pem", secured.authority.pem.clone())
        .file("other.pem", Authority::new("other").pem)
        .start();
    // It listens once the checks are over.
    lb.wait_for_line("listening on");
    let lines = lb.program.stderr.all();
    lines.into_iter().find(|line| line.contains("is DOWN"))
}

#[test]
fn health_checks_speak_tls() {
    let secured = Secured::new(&["a.example"]);
    for check in ["tcp: {}", "http: { path: /health }"] {
        let down = |tls: &str| down(&secured, tls, check);
        assert_eq!(down("ca: ca.pem"), None, "{check}: it does not know the name");
        assert_eq!(down("ca: ca.pem, sni: a.example"), None, "{check}");
        assert_eq!(down("verify: false"), None, "{check}");
        let wrong = down("ca: ca.pem, sni: b.example").expect("down by its name");
        assert!(wrong.contains("TLS handshake failed: invalid peer certificate: cert"), "{wrong}");
        let wrong = down("ca: other.pem").expect("down by its authority");
        assert!(wrong.ends_with("invalid peer certificate: UnknownIssuer"), "{wrong}");
    }
    assert_eq!(down(&secured, "ca: ca.pem", "http: { host: \"a.example:443\" }"), None);
    let wrong = down(&secured, "ca: ca.pem", "http: { host: b.example }");
    assert!(wrong.is_some(), "the host that a check asks for is a name");
    let asked = secured.origin.requests();
    assert!(asked.iter().any(|request| request.headers.get("host") == Some("a.example:443")));
}

#[test]
fn a_backend_whose_certificate_expires_goes_down() {
    let secured = Secured::new(&["test.example"]);
    let keys = "tls: { ca: ca.pem }\nhealth_check: { interval: 100ms, fall: 1, rise: 1 }";
    let lb = Config::pool(&[secured.front.entry("app-1")], keys)
        .file("ca.pem", secured.authority.pem.clone())
        .start();
    assert_eq!(lb.get("/").status, 200);
    secured.front.show(&secured.authority.expired(&["test.example"]));
    let line = lb.wait_for_line("is DOWN: TLS handshake failed: invalid peer certificate: ");
    assert!(line.contains("certificate expired"), "{line}");
    secured.front.show(&secured.authority.server(&["test.example"]));
    lb.wait_for_line("of pool app is UP");
    assert_eq!(lb.get("/").status, 200);
}

#[test]
fn a_handshake_that_stalls_is_a_timeout() {
    // It takes connections and says nothing.
    let port = Reserved::new();
    let listener = port.address().bind().unwrap();
    listener.listen(16).unwrap();
    let entry = format!("{{ address: \"{}\", name: silent }}", port.address());
    let keys = format!("tls: {{ verify: false }}\n{PLAIN}\ntimeouts: {{ connect: 300ms }}");
    let lb = Config::pool(&[entry], &keys).access_log().start();
    assert_eq!(lb.get("/").status, 504);
    let entry = &lb.wait_for_entries(1)[0];
    assert_eq!(entry["reason"], "upstream_timeout");
    let took = entry["duration_ms"].as_f64().unwrap();
    assert!((290.0..2000.0).contains(&took), "{took}");
}

#[test]
fn a_try_over_tls_has_its_time() {
    let secured = Secured::new(&["test.example"]);
    let gate = Gate::default();
    let hanging = gate.clone();
    secured.origin.script(move |_| Reply::text("late").behind(&hanging));
    let keys = "retry: { attempts: 0, per_try_timeout: 300ms }";
    let keys = format!("tls: {{ ca: ca.pem }}\nhealth_check: off\n{keys}");
    let lb = Config::pool(&[secured.front.entry("app-1")], &keys)
        .file("ca.pem", secured.authority.pem.clone())
        .start();
    let mut client = lb.client();
    assert_eq!(client.get("/").status, 504);
    // With a body that is on its way at first, it is we who cut the connection.
    client.send("POST / HTTP/1.1\r\nHost: test.example\r\nContent-Length: 10\r\n\r\nsome");
    eventually("the head arrives", || secured.origin.accepted() == 2);
    client.send(" more.");
    assert_eq!(client.response().status, 504);
    gate.open();
}

#[test]
fn a_body_that_is_cut_off_without_a_word_is_cut_off_for_the_client() {
    let secured = Secured::new(&["test.example"]);
    let lb = secured.config("ca: ca.pem", "").access_log().start();
    let head = b"HTTP/1.1 200 OK\r\n\r\n";
    secured.origin.script(move |_| Reply::RawThenClose([&head[..], b"all of it"].concat()));
    let response = lb.get("/whole");
    assert_eq!((response.complete, response.text()), (true, "all of it".to_owned()));
    // What breaks behind the front is cut off there, without the word that TLS has for an end.
    secured.origin.script(move |_| Reply::RawThenReset([&head[..], b"some of it"].concat()));
    let mut client = lb.client();
    client.send(request("GET", "/cut", &[], b""));
    assert_eq!(client.head().status, 200);
    assert_eq!(client.chunk(), b"some of it");
    assert_eq!(client.rest(), b"", "not even the last chunk, which would make it all of it");
    let entries = lb.wait_for_entries(2);
    assert_eq!(entries[0]["reason"], "ok");
    assert_eq!(entries[1]["reason"], "upstream_truncated");
}

#[test]
fn a_websocket_goes_through_to_a_backend_over_tls() {
    let secured = Secured::new(&["test.example"]);
    secured.origin.script(|_| Reply::Upgrade);
    let lb = secured.start("ca: ca.pem");
    let fields = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: x"];
    // Often, as it is a race that this must not lose.
    for _ in 0..20 {
        let mut client = lb.client();
        assert_eq!(client.ask(request("GET", "/", &fields, b"")).status, 101);
        for message in [b"one".to_vec(), vec![7; 100_000]] {
            client.send(&message);
            assert_eq!(client.exactly(message.len()), message);
        }
    }
}

/// Replaces files, says so with HUP, and waits until they were read.
fn reread(lb: &Lb, files: &[(&str, &str)]) {
    let before = lb.lines_with("pool app: certificates read again");
    for (name, content) in files {
        lb.replace(name, content);
    }
    lb.signal(Signal::HUP);
    eventually("they are read again", || {
        lb.lines_with("pool app: certificates read again") > before
    });
}

#[test]
fn new_authorities_are_believed_and_old_ones_no_more() {
    let secured = Secured::new(&["test.example"]);
    let lb = secured.start("ca: ca.pem");
    let mut client = lb.client();
    assert_eq!(client.get("/").status, 200);
    reread(&lb, &[]);
    assert_eq!(client.get("/").status, 200);
    assert_eq!(secured.front.names().len(), 1, "the same terms keep their connections");
    let other = Authority::new("other");
    reread(&lb, &[("ca.pem", &other.pem)]);
    assert_eq!(client.get("/").status, 502, "the kept connection is of the old terms");
    secured.front.show(&other.server(&["test.example"]));
    assert_eq!(client.get("/").status, 200);
}

#[test]
fn what_we_show_to_backends_follows_its_files() {
    let (authority, people) = (Authority::new("authority"), Authority::new("people"));
    let origin = Origin::named("app-1");
    let front = TlsFront::asking(&origin, &authority.server(&["test.example"]), &people);
    let keys = format!("tls: {{ ca: ca.pem, client_cert: lb.pem, client_key: lb.key }}\n{PLAIN}");
    let lb = Config::pool(&[front.entry("app-1")], &keys)
        .file("ca.pem", authority.pem.clone())
        .certificate("lb", &Authority::new("strangers").client("lb"))
        .start();
    assert_eq!(lb.get("/").status, 502);
    let certificate = people.client("lb");
    lb.replace("lb.pem", &certificate.pem);
    lb.replace("lb.key", &certificate.key);
    lb.wait_for_line("pool app: certificates read again");
    assert_eq!(lb.get("/").status, 200);
}

#[test]
fn a_backend_on_a_unix_socket_is_asked_for_by_the_requests_host() {
    let secured = Secured::new(&["test.example"]);
    // The front listens on TCP only; a unix socket is passed on to it.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("backend.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let front = secured.front.address().clone();
    let passing = std::thread::spawn(move || {
        let (unix, _) = listener.accept().unwrap();
        let tcp = std::net::TcpStream::from(std::os::fd::OwnedFd::from(front.connect().unwrap()));
        let (mut from, mut to) = (unix.try_clone().unwrap(), tcp.try_clone().unwrap());
        let there = std::thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
        let (mut from, mut to) = (tcp, unix);
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Both);
        there.join().unwrap();
    });
    let keys = format!("tls: {{ ca: ca.pem }}\n{PLAIN}");
    let entry = format!("{{ address: \"unix:{}\", name: app-1 }}", path.display());
    let lb = Config::pool(&[entry], &keys).file("ca.pem", secured.authority.pem.clone()).start();
    let mut client = lb.client();
    assert_eq!(client.get("/").status, 200);
    assert_eq!(client.get("/").status, 200, "on the kept connection");
    assert_eq!(secured.front.names(), ["test.example"]);
    drop(lb);
    passing.join().unwrap();
}

/// A connection that was kept may be closed when it is used, over TLS as without.
#[test]
fn a_kept_connection_that_is_stale_is_made_anew() {
    let secured = Secured::new(&["test.example"]);
    let lb = secured.start("ca: ca.pem");
    let mut client = lb.client();
    assert_eq!(client.get("/").status, 200);
    secured.origin.stop();
    secured.origin.start();
    assert_eq!(client.get("/").status, 200);
    assert_eq!(secured.front.names().len(), 2);
}
