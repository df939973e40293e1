//! Who may use it.

use crate::support::{Client, Config, Lb, Origin, request};

fn status(lb: &Lb, path: &str, fields: &[&str]) -> u16 {
    Client::connect(&lb.admin()).ask(request("GET", path, fields, b"")).status
}

fn with_token(origin: &Origin) -> Lb {
    Config::pool(&[origin.entry()], "")
        .and("admin: { address: \"@2@\", token: \"${TOKEN}\", hosts: [test.example, \"lb-1\"] }")
        .environment("TOKEN", "s3cret")
        .start()
}

#[test]
fn a_token_is_wanted_for_all_but_health_and_readiness() {
    let a = Origin::named("a");
    let lb = with_token(&a);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(status(&lb, path, &[]), 200, "{path}");
    }
    for path in ["/metrics", "/api/v1/status", "/", "/nothing"] {
        for wrong in [
            "X: y",
            "Authorization: Bearer",
            "Authorization: Bearer ",
            "Authorization: Bearer s3cre",
            "Authorization: Bearer s3cret2",
            "Authorization: Basic s3cret",
            "Authorization: s3cret",
        ] {
            let response = Client::connect(&lb.admin()).ask(request("GET", path, &[wrong], b""));
            assert_eq!(response.status, 401, "{path} {wrong}");
            let challenge = response.headers.get("www-authenticate");
            assert_eq!(challenge, Some("Bearer realm=\"pingora-lb\""));
            assert_eq!(response.json()["error"], "unauthorized");
        }
    }
    for right in ["Authorization: Bearer s3cret", "authorization: bearer s3cret"] {
        assert_eq!(status(&lb, "/metrics", &[right]), 200, "{right}");
        assert_eq!(status(&lb, "/nothing", &[right]), 404, "{right}");
    }
}

#[test]
fn the_token_changes_with_a_reload_and_the_address_does_not() {
    let a = Origin::named("a");
    let lb = with_token(&a);
    lb.edit("${TOKEN}", "another");
    let told = lb.reload();
    assert!(told.contains("reloaded: admin.token changed"), "{told}");
    assert!(!told.contains("another"), "{told}");
    assert_eq!(status(&lb, "/metrics", &["Authorization: Bearer s3cret"]), 401);
    assert_eq!(status(&lb, "/metrics", &["Authorization: Bearer another"]), 200);
    lb.edit(&lb.admin().to_string(), &lb.extra(3).to_string());
    let told = lb.reload();
    assert!(told.contains("not reloaded: admin.address cannot change while it runs"), "{told}");
    lb.edit("admin:", "#");
    assert!(lb.reload().contains("not reloaded: admin.address cannot change"));
    assert_eq!(status(&lb, "/metrics", &["Authorization: Bearer another"]), 200);
}

#[test]
fn requests_must_call_it_by_a_name_of_its_own() {
    let a = Origin::named("a");
    let lb = with_token(&a);
    let port = lb.admin().port();
    let own = [
        format!("Host: 127.0.0.1:{port}"),
        "Host: 127.0.0.1".to_owned(),
        "Host: [::ffff:127.0.0.1]:80".to_owned(),
        format!("Host: localhost:{port}"),
        "Host: LocalHost.".to_owned(),
        "Host: test.example:80".to_owned(),
        "Host: LB-1".to_owned(),
    ];
    for host in &own {
        assert_eq!(status(&lb, "/healthz", &[host]), 200, "{host}");
    }
    for other in [
        "Host: evil.example",
        "Host: evil.example:9901",
        "Host: localhost.evil.example",
        "Host: test.example.evil",
        "Host: 127.0.0.2",
        "Host: 127.0.0.1.evil.example",
        "Host: 127.0.0.1@evil.example",
        "Host: [::1]",
        "Host: ",
        "Host: \u{e9}",
    ] {
        let response = Client::connect(&lb.admin()).ask(request("GET", "/healthz", &[other], b""));
        assert_eq!(response.status, 421, "{other}");
        assert_eq!(response.json()["error"], "unknown_host");
    }
    assert_eq!(status(&lb, "/healthz", &["Host: localhost", "Host: evil.example"]), 421);
    assert_eq!(status(&lb, "http://evil.example/healthz", &["Host: localhost"]), 421);
    assert_eq!(status(&lb, "http://localhost/healthz", &["Host: evil.example"]), 421);
    assert_eq!(status(&lb, "http://localhost/healthz", &["Host: localhost"]), 200);
    let bare = |line: &str| Client::connect(&lb.admin()).ask(format!("{line}\r\n\r\n")).status;
    assert_eq!(bare("GET /healthz HTTP/1.1"), 421);
    // As simple health checks ask.
    assert_eq!(bare("GET /healthz HTTP/1.0"), 200);
    // A name that is none of ours says nothing, whatever the token.
    let fields = ["Host: evil.example", "Authorization: Bearer s3cret"];
    assert_eq!(status(&lb, "/metrics", &fields), 421);
}
