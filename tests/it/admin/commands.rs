//! The commands that talk to a running instance, and the log level.

use super::with_admin;
use crate::support::{Address, Client, Config, Lb, Origin, Program, Reserved, request};

/// Runs a command on the instance behind this admin API.
fn run(admin: &Address, args: &[&str]) -> (i32, String, String) {
    let admin = admin.to_string();
    Program::run([args, &["--admin", &admin]].concat())
}

#[test]
fn a_backend_is_drained_disabled_and_enabled() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let lb = with_admin(&[&a, &b], "").start();
    for (command, state) in [("drain", "draining"), ("disable", "disabled")] {
        let (code, stdout, stderr) = run(&lb.admin(), &[command, "app", "a"]);
        assert_eq!((code, stderr.as_str()), (0, ""));
        assert_eq!(stdout, format!("a of pool app: {state}, healthy, 0 in flight"));
        assert_eq!(lb.backend("a")["state"], state);
        let mut client = lb.client();
        assert!((0..4).all(|_| client.get("/").backend() == "b"));
    }
    let (code, stdout, _) = run(&lb.admin(), &["enable", "app", "a"]);
    assert_eq!((code, stdout.as_str()), (0, "a of pool app: active, healthy, 0 in flight"));
    assert_eq!(lb.backend("a")["state"], "active");
}

#[test]
fn a_backend_is_found_by_its_address_and_over_a_unix_socket() {
    let a = Origin::named("a");
    let address = a.address().to_string();
    let text = format!("pools:\n  app: {{ backends: [\"{address}\"] }}\n");
    let lb = Config::new(text).and("admin: { address: \"unix:@DIR@/admin.sock\" }").start();
    let socket = Address::Unix(lb.directory().join("admin.sock"));
    let (code, stdout, stderr) = run(&socket, &["drain", "app", &address]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with(&format!("{address} of pool app: draining")), "{stdout}");
    assert_eq!(lb.get("/").status, 503);
}

#[test]
fn what_goes_wrong_is_said_clearly() {
    let a = Origin::named("a");
    let lb = with_admin(&[&a], "").start();
    let (code, _, stderr) = run(&lb.admin(), &["drain", "app", "b"]);
    assert_eq!((code, stderr.as_str()), (1, "there is no backend b in pool app"));
    let (code, _, stderr) = run(&lb.admin(), &["drain", "nope", "b"]);
    assert_eq!((code, stderr.as_str()), (1, "there is no pool nope"));
    let nobody = Reserved::new().address();
    let (code, _, stderr) = run(&nobody, &["enable", "app", "a"]);
    assert_eq!(code, 1);
    let start = format!("the admin API at {nobody}: cannot connect: Connection refused");
    assert!(stderr.starts_with(&start) && stderr.ends_with("(--admin)?"), "{stderr}");
    for wrong in [&["drain", "app"][..], &["drain"], &["drain", "app", "a", "b"]] {
        assert_eq!(run(&lb.admin(), wrong).0, 2, "{wrong:?}");
    }
    assert_eq!(Program::run(["drain", "app", "a", "--admin", "9901"]).0, 2);
}

#[test]
fn the_token_comes_from_the_flag_or_the_environment() {
    let a = Origin::named("a");
    let lb =
        Config::pool(&[a.entry()], "").and("admin: { address: \"@2@\", token: s3cret }").start();
    let admin = lb.admin().to_string();
    let drain = ["drain", "app", "a", "--admin", &admin];
    let (code, _, stderr) = Program::run(drain);
    assert_eq!(code, 1);
    assert!(
        stderr.ends_with("wants a token: give it with --token or in LB_ADMIN_TOKEN"),
        "{stderr}"
    );
    let (code, _, stderr) = Program::run([&drain[..], &["--token", "other"]].concat());
    assert_eq!(code, 1);
    assert!(stderr.contains("wants another token") && !stderr.contains("other\""), "{stderr}");
    assert_eq!(Program::run([&drain[..], &["--token", "s3cret"]].concat()).0, 0);
    let mut command = Program::command(drain);
    assert_eq!(Program::spawn(command.env("LB_ADMIN_TOKEN", "s3cret")).finish().0, 0);
}

fn log_level(lb: &Lb, body: &str) -> (u16, serde_json::Value) {
    let put = request("PUT", "/api/v1/log_level", &[], body.as_bytes());
    let response = Client::connect(&lb.admin()).ask(put);
    (response.status, response.json())
}

#[test]
fn the_log_level_changes_while_it_runs() {
    let a = Origin::named("a");
    let lb = with_admin(&[&a], "").start();
    let level = || lb.ask("/api/v1/log_level").json()["level"].clone();
    assert_eq!((level(), lb.lines_with(" DEBUG ")), ("info".into(), 0));
    assert_eq!(
        log_level(&lb, "{\"level\":\"debug\"}"),
        (200, serde_json::json!({ "level": "debug" }))
    );
    assert_eq!(level(), "debug");
    lb.reload();
    lb.wait_for_line(" DEBUG ");
    for wrong in ["{}", "{\"level\":\"loud\"}", "{\"level\":\"info\",\"for\":\"1m\"}", ""] {
        let (status, told) = log_level(&lb, wrong);
        assert_eq!((status, &told["error"]), (422, &"invalid".into()), "{wrong}");
    }
    assert_eq!(level(), "debug");
    assert_eq!(log_level(&lb, "{\"level\":\"error\"}").0, 200);
    lb.wait_for_line("admin: the log level is ERROR from here on");
    lb.signal(rustix::process::Signal::USR1);
    lb.edit("pools:", "nonsense: 1\npools:");
    lb.signal(rustix::process::Signal::HUP);
    lb.wait_for_line("ERROR not reloaded: ");
    // The line of the HUP before it, of level info, was not written.
    let lines = lb.program.stderr.all();
    let last = lines.iter().rposition(|line| line.contains("the log level is ERROR")).unwrap();
    assert!(lines[last + 1..].iter().all(|line| line.contains(" ERROR ")), "{lines:#?}");
}

/// A request as a line with curl has it: the method, the path and the body.
fn request_of(line: &str) -> (String, String, String) {
    let after = |flag: &str| line.split_once(flag).map(|(_, rest)| rest.trim_start());
    let word = |rest: &str| rest.split_whitespace().next().unwrap().to_owned();
    let method = after("-X ").map_or_else(|| "GET".to_owned(), word);
    let body = after("-d '").and_then(|rest| rest.split('\'').next()).unwrap_or_default();
    let url = after("http://").unwrap();
    (method, word(&url[url.find('/').unwrap()..]), body.to_owned())
}

/// The examples of the page succeed, in their order.
#[test]
fn the_page_on_the_api_does_what_it_says() {
    let origins = ["app-1", "app-2"].map(Origin::named);
    let lb = with_admin(&[&origins[0], &origins[1]], "").start();
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/admin.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mut asked = 0;
    for line in page.lines().filter(|line| line.starts_with("curl ")) {
        let (method, path, body) = request_of(line);
        let request = request(&method, &path, &[], body.as_bytes());
        let response = Client::connect(&lb.admin()).ask(request);
        assert!([200, 201].contains(&response.status), "{line}\n{}", response.text());
        asked += 1;
    }
    assert!(asked > 8, "{asked} examples");
    for line in page.lines().filter(|line| line.starts_with("pingora-lb ")) {
        let (line, _) = line.split_once(" --admin").unwrap_or((line, ""));
        let args: Vec<&str> = line.split(' ').skip(1).collect();
        let (code, _, stderr) = run(&lb.admin(), &args);
        assert_eq!(code, 0, "{line}\n{stderr}");
    }
    assert_eq!(lb.backend("app-2")["state"], "active");
}
