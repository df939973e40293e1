//! The examples of filters: each is run as its page says, on its own configuration.

use crate::support::{
    Address, Origin, Program, Reserved, SOON, client, lb::answers, request, within,
};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// An example that runs.
struct Example {
    program: Program,
    web: Address,
    _port: Reserved,
    _folder: TempDir,
}

/// The binary of an example, which cargo builds with the tests.
fn binary(name: &str) -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_pingora-lb")).parent().unwrap();
    let path = beside.join("examples").join(name);
    assert!(path.exists(), "{} is missing: cargo build --examples", path.display());
    path
}

fn command(name: &str, args: &[&OsStr]) -> Command {
    let mut command = Command::new(binary(name));
    command.args(args).env_clear();
    command
}

/// The configuration of an example with `changes`: what stands there, and what is to.
fn configuration(name: &str, changes: &[(&str, String)]) -> String {
    let path = format!("{}/examples/conf/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    let mut text = fs::read_to_string(path).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from} in {name}.yaml");
        text = text.replace(from, to);
    }
    text
}

/// What the balancer keeps for itself stays in the folder.
const SERVER: &str = "\nserver: { threads: 1, upgrade_sock: upgrade.sock, pid_file: lb.pid }\n";

impl Example {
    fn start(name: &str, backends: &[(&str, &Origin)]) -> Self {
        let (port, folder) = (Reserved::new(), tempfile::tempdir().unwrap());
        let mut changes = vec![("127.0.0.1:8080", port.address().to_string())];
        changes.extend(backends.iter().map(|(at, origin)| (*at, origin.address().to_string())));
        let path = folder.path().join("lb.yaml");
        fs::write(&path, configuration(name, &changes) + SERVER).unwrap();
        let mut program = Program::spawn(&mut command(name, &["-c".as_ref(), path.as_ref()]));
        let web = port.address();
        let serves = within(SOON, || {
            program.assert_running();
            answers(&web)
        });
        assert!(serves, "{name} does not serve");
        Self { program, web, _port: port, _folder: folder }
    }

    /// The status, and the backend that answered.
    fn ask(&self, bytes: Vec<u8>) -> (u16, String) {
        let answer = client::Client::connect(&self.web).ask(bytes);
        (answer.status, answer.backend())
    }
}

/// What `-t` says of a configuration that is wrong.
fn complaint(name: &str, changes: &[(&str, String)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lb.yaml");
    fs::write(&path, configuration(name, changes)).unwrap();
    let args = ["-c".as_ref(), path.as_os_str(), "-t".as_ref()];
    let (code, _, stderr) = Program::spawn(&mut command(name, &args)).finish();
    assert_eq!(code, 1, "{stderr}");
    stderr.replace(path.to_str().unwrap(), "lb.yaml")
}

fn change(from: &'static str, to: &str) -> [(&'static str, String); 1] {
    [(from, to.to_owned())]
}

#[test]
fn api_key_lets_in_who_has_a_key() {
    let origin = Origin::named("app-1");
    let example = Example::start("api_key", &[("127.0.0.1:9001", &origin)]);
    let get = |fields: &[&str]| example.ask(request("GET", "/", fields, b""));
    assert_eq!(get(&[]).0, 401);
    assert_eq!(get(&["x-api-key: wrong"]).0, 401);
    assert_eq!(origin.count(), 0);
    assert_eq!(get(&["x-api-key: secret"]).0, 200);
    assert!(!origin.only_request().headers.has("x-api-key"));
    assert_eq!(
        complaint("api_key", &change("keys: [\"${API_KEY:-secret}\"]", "key: [a]")),
        "lb.yaml:8:20: routes[0].filters[0].api_key.key: unknown key \"key\"; expected keys; did you \
         mean \"keys\"?"
    );
    assert_eq!(
        complaint("api_key", &change("${API_KEY:-secret}", "")),
        "lb.yaml:8:20: routes[0].filters[0].api_key.keys: an empty key; expected keys of at least one \
         letter"
    );
    assert!(example.program.stderr.text().contains("listening on"));
}

#[test]
fn route_by_json_goes_by_a_field_of_the_body() {
    let (gold, app) = (Origin::named("gold-1"), Origin::named("app-1"));
    let backends = [("127.0.0.1:9001", &gold), ("127.0.0.1:9002", &app)];
    let example = Example::start("route_by_json", &backends);
    let post = |body: &str| example.ask(request("POST", "/", &[], body.as_bytes()));
    assert_eq!(post("{\"tier\": \"gold\"}"), (200, "gold-1".to_owned()));
    assert_eq!(gold.only_request().body, b"{\"tier\": \"gold\"}");
    for body in ["{\"tier\": \"free\"}", "{\"tier\": 1}", "[]", ""] {
        assert_eq!(post(body), (200, "app-1".to_owned()), "{body}");
    }
    assert_eq!(post("{\"tier\"").0, 400);
    assert_eq!(post(&format!("\"{}\"", "x".repeat(65_536))).0, 413);
    assert_eq!(
        complaint("route_by_json", &change("{ gold: gold }", "{ gold: golf }")),
        "lb.yaml:10:26: routes[0].filters[0].route_by_json.pools.gold: unknown pool \"golf\"; expected \
         gold or app; did you mean \"gold\"?"
    );
}

#[test]
fn canary_takes_who_asks_and_a_share_of_the_users() {
    let (stable, canary) = (Origin::named("stable-1"), Origin::named("canary-1"));
    let backends = [("127.0.0.1:9001", &stable), ("127.0.0.1:9002", &canary)];
    let example = Example::start("canary", &backends);
    let mut client = client::Client::connect(&example.web);
    let mut get = |fields: &[&str]| client.ask(request("GET", "/", fields, b"")).backend();
    assert_eq!(get(&[]), "stable-1");
    assert_eq!(get(&["x-canary: 1"]), "canary-1");
    let user = |number: usize| format!("x-user: user-{number}");
    let first: Vec<_> = (0..300).map(|number| get(&[&user(number)])).collect();
    let share = first.iter().filter(|name| *name == "canary-1").count();
    assert!((12..=54).contains(&share), "{share} of 300 users, 30 are expected");
    let again: Vec<_> = (0..300).map(|number| get(&[&user(number)])).collect();
    assert_eq!(first, again, "a user stays where he is");
    assert_eq!(
        complaint("canary", &change("percent: 10", "percent: 101")),
        "lb.yaml:8:74: routes[0].filters[0].canary.percent: more than all of them; expected 0 to 100"
    );
}
