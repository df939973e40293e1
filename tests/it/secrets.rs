//! What is secret in a configuration is shown nowhere.

use crate::support::{Client, Config, Lb, Origin, Program, lb::server, request};
use rustix::process::Signal;

/// What no output may have in it.
const SECRETS: [&str; 11] = [
    "cookie-key-of-enough-bytes",
    "adm1n-t0ken",
    "Bearer-to-backend",
    "probe-credentials",
    "from-the-environment",
    "key-of-an-api",
    "cookie-for-backend",
    "condition-on-a-header",
    "part-of-a-bearer",
    "of-a-variable",
    "asked-in-the-query",
];

/// The variables that the configurations name.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("ADMIN_TOKEN", "adm1n-t0ken"),
    ("PART", "part-of-a-bearer"),
    ("PARTNER_API_KEY", "of-a-variable"),
];

fn text(origin: &Origin) -> String {
    let pool = format!(
        "pools:\n\
         \x20 app:\n\
         \x20   backends: [{}]\n\
         \x20   sticky: {{ cookie: LB_APP, secret: cookie-key-of-enough-bytes }}\n\
         \x20   health_check: {{ http: {{ path: /health, headers: {{ Authorization: probe-credentials }} }} }}\n",
        origin.entry()
    );
    let routes = "routes:\n\
         \x20 - name: guarded\n\
         \x20   match: { headers: { X-Access-Token: { regex: condition-on-a-header } }, query: { token: asked-in-the-query } }\n\
         \x20   pool: app\n\
         \x20 - name: main\n\
         \x20   pool: app\n\
         \x20   filters:\n\
         \x20     - request_headers:\n\
         \x20         set: { X-Env: shown-in-full, Authorization: Bearer-to-backend, X-Api-Key: key-of-an-api }\n\
         \x20         add: { Cookie: id=cookie-for-backend, X-Upstream-Auth: \"Bearer ${PART}\" }\n\
         \x20     - response_headers: { set: { X-Note: \"${PARTNER_API_KEY}\" } }\n";
    format!(
        "{}admin: {{ address: \"@2@\", token: \"${{ADMIN_TOKEN}}\" }}\n{routes}{pool}",
        server("log_level: trace")
    )
}

fn started(origin: &Origin) -> Lb {
    let config = Config::new(text(origin)).access_log();
    ENVIRONMENT.iter().fold(config, |config, (name, value)| config.environment(name, value)).start()
}

#[track_caller]
fn assert_none_shown(what: &str, output: &str) {
    for secret in SECRETS {
        assert!(!output.contains(secret), "{what} has {secret} in it:\n{output}");
    }
}

/// A request to the admin API with its token.
fn ask_admin(lb: &Lb, method: &str, path: &str) -> String {
    let fields = ["Host: localhost", "Authorization: Bearer adm1n-t0ken"];
    let response = Client::connect(&lb.extra(2)).ask(request(method, path, &fields, b""));
    assert_eq!(response.status, 200, "{}", response.text());
    response.text()
}

/// Checks the configuration of a running instance with `-t` or `-T`.
fn check(lb: &Lb, flag: &str) -> (i32, String) {
    run(&[flag, "-c", lb.path().to_str().unwrap()])
}

/// Runs the binary with the variables that the configuration names.
fn run(arguments: &[&str]) -> (i32, String) {
    let mut command = Program::command(arguments);
    command.envs(ENVIRONMENT);
    let (code, stdout, stderr) = Program::spawn(&mut command).finish();
    (code, format!("{stdout}{stderr}"))
}

#[test]
fn secrets_work_and_are_shown_nowhere() {
    let origin = Origin::named("a");
    let lb = started(&origin);
    let answer = lb.get("/");
    assert_eq!(answer.headers.get("x-note"), Some("of-a-variable"));
    // They are in force.
    let seen = origin.traffic().remove(0).headers;
    assert_eq!(seen.get("authorization"), Some("Bearer-to-backend"));
    assert_eq!(seen.get("x-upstream-auth"), Some("Bearer part-of-a-bearer"));
    assert_eq!(origin.requests()[0].headers.get("authorization"), Some("probe-credentials"));

    let (code, effective) = check(&lb, "-T");
    assert_eq!(code, 0, "{effective}");
    assert!(effective.contains("shown-in-full") && effective.contains("cookie: LB_APP"));
    assert_none_shown("-T", &effective);
    let config = ask_admin(&lb, "GET", "/api/v1/config");
    assert!(config.contains("shown-in-full"));
    assert_none_shown("/api/v1/config", &config);

    // What a reload changes is told without what it was and what it is.
    let file = lb.read("lb.yaml");
    let changed = SECRETS.iter().filter(|secret| !secret.contains("t0ken"));
    let changed = changed.fold(file, |file, secret| {
        file.replace(secret, &format!("{secret}-2")).replace("shown-in-full", "shown-again")
    });
    lb.replace("lb.yaml", &changed);
    let changes = ask_admin(&lb, "POST", "/api/v1/reload");
    for told in ["sticky.secret changed", "headers.Authorization changed", "shown-again"] {
        assert!(changes.contains(told), "{told} is not in {changes}");
    }
    assert_none_shown("a reload", &changes);
    assert_eq!(lb.get("/").status, 200);
    let seen = origin.traffic().pop().unwrap().headers;
    assert_eq!(seen.get("authorization"), Some("Bearer-to-backend-2"));
    lb.signal(Signal::HUP);
    lb.wait_for_line("nothing has changed");
    // What a client sends is no less of a secret.
    let mut client = lb.client();
    let fields = ["Authorization: Bearer of-a-client", "Cookie: id=of-a-browser"];
    assert_eq!(client.ask(request("GET", "/", &fields, b"")).status, 200);
    client.get("/of-the-next");
    let log = lb.program.stderr.text();
    assert!(!log.contains("of-a-client") && !log.contains("of-a-browser"), "{log}");
    assert_none_shown("the error log", &lb.program.stderr.text());
    assert_none_shown("/api/v1/status", &ask_admin(&lb, "GET", "/api/v1/status"));
    assert_none_shown("/metrics", &ask_admin(&lb, "GET", "/metrics"));
    assert_none_shown("the access log", &lb.read("access.log"));
}

#[test]
fn errors_do_not_repeat_secrets() {
    let origin = Origin::named("a");
    let lb = started(&origin);
    let file = lb.read("lb.yaml");
    let wrong = file
        .replace("probe-credentials", "\"probe-credentials\\n\"")
        .replace("Bearer-to-backend", "\"Bearer-to-backend\\x01\"")
        .replace("{ X-Note: \"${PARTNER_API_KEY}\" }", "{ X-Note: \"${PARTNER_API_KEY}\\n\" }")
        .replace("asked-in-the-query }", "{ regex: \"asked-in-the-query(\" } }");
    assert_ne!(file, wrong);
    lb.replace("lb.yaml", &wrong);
    let (code, errors) = check(&lb, "-t");
    assert_eq!(code, 1, "{errors}");
    for place in ["headers.Authorization", "set.authorization", "set.x-note", "query.token"] {
        assert!(errors.contains(place), "no error about {place} in\n{errors}");
    }
    assert_none_shown("-t", &errors);
    lb.signal(Signal::HUP);
    lb.wait_for_line("set.authorization");
    assert_none_shown("the error log", &lb.program.stderr.text());
}

#[test]
fn explanations_do_not_show_secrets() {
    let origin = Origin::named("a");
    let routes = "routes:\n\
         \x20 - { name: by-field, match: { headers: { authorization: probe-credentials } }, pool: app }\n\
         \x20 - { name: by-query, match: { query: { token: { regex: asked-in-the-query } } }, pool: app }\n\
         \x20 - { name: by-path, match: { path: \"/${PARTNER_API_KEY}\" }, pool: app }\n\
         \x20 - { name: by-host, match: { host: [\"${PARTNER_API_KEY}.example\"] }, pool: app }\n\
         \x20 - { name: moved, match: { path: /moved }, redirect: { to: \"/?${PARTNER_API_KEY}\" } }\n\
         \x20 - name: rewritten\n\
         \x20   pool: app\n\
         \x20   filters:\n\
         \x20     - rewrite: { replace_prefix: { from: /, to: \"/${PARTNER_API_KEY}\" } }\n\
         \x20     - rewrite: { replace_prefix: { from: /, to: /shown } }\n";
    let admin = "admin: { address: \"@2@\", token: \"${ADMIN_TOKEN}\" }\n";
    let pools = format!("pools:\n  app: {{ backends: [{}] }}\n", origin.entry());
    let config = Config::new(format!("{admin}{routes}{pools}"));
    let lb = ENVIRONMENT.iter().fold(config, |it, (key, value)| it.environment(key, value)).start();
    for (path, told) in [
        (
            "/x",
            &[
                "by-field: header authorization must be (secret)",
                "by-query: query parameter token must be (secret)",
                "by-path: path must be (secret)",
                "by-host: host must be (secret)",
                "lets it go on: target (secret)",
                "request   (secret) of host",
            ][..],
        ),
        ("/moved", &["308 (ok), by the route, to (secret)"]),
    ] {
        let url = format!("http://localhost{path}");
        let (code, text) = run(&["explain", "-c", lb.path().to_str().unwrap(), &url]);
        assert_eq!(code, 0, "{text}");
        for line in told {
            assert!(text.contains(line), "no {line:?} in\n{text}");
        }
        assert_none_shown("explain", &text);
        let body = format!(r#"{{"url":"{url}"}}"#);
        let fields = [
            "Host: localhost",
            "Authorization: Bearer adm1n-t0ken",
            "Content-Type: application/json",
        ];
        let head = request("POST", "/api/v1/explain", &fields, body.as_bytes());
        let answer = Client::connect(&lb.extra(2)).ask(head);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.text().contains("(secret)"));
        assert_none_shown("/api/v1/explain", &answer.text());
    }
    // They are in force.
    lb.get("/x");
    assert_eq!(origin.traffic()[0].target, "/shown/of-a-variable/x");
}
