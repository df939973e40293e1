//! `diff`: what a reload would change.

use crate::support::{Config, Files, Program, lb::server};
use std::{ffi::OsStr, fs};

const OLD: &str = r#"
admin: { address: "@2@", token: the-admin-token-1 }
access_log: { path: access.log }
pools:
  app:
    backends: [127.0.0.1:1, { address: 127.0.0.1:2, name: app-2 }]
    sticky: { cookie: c, secret: 0123456789abcdef }
    health_check: off
"#;

/// A second file beside the first, with changes.
fn changed(files: &Files, changes: &[(&str, &str)]) -> String {
    let text = changes.iter().fold(files.read("lb.yaml"), |text, (old, new)| {
        assert!(text.contains(old), "{old} is not in\n{text}");
        text.replace(old, new)
    });
    fs::write(files.directory().join("new.yaml"), text).unwrap();
    files.directory().join("new.yaml").to_str().unwrap().to_owned()
}

const CHANGES: [(&str, &str); 2] =
    [("name: app-2", "name: app-2, weight: 3"), ("127.0.0.1:1,", "127.0.0.1:3,")];

#[test]
fn two_files_are_compared_as_a_reload_does_it() {
    let files = Config::new(OLD).write();
    let old = files.path().to_str().unwrap();
    let new = changed(&files, &CHANGES);
    let expected = "pool app: -127.0.0.1:1, weight of app-2 1 -> 3, +127.0.0.1:3\n";
    for args in [vec!["diff", old, &new], vec!["diff", "-c", old, &new]] {
        let (code, stdout, stderr) = Program::run(args);
        assert_eq!((code, format!("{stdout}\n").as_str(), stderr.as_str()), (0, expected, ""));
    }
    let told = |args: &[&str]| Program::run([&["diff", "--exit-code"], args].concat());
    assert_eq!(told(&[old, &new]).0, 3);
    assert_eq!(told(&[old, old]), (0, "nothing changes".to_owned(), String::new()));
    let new =
        changed(&files, &[("threads: 2", "threads: 3"), ("0123456789abcdef", "fedcba9876543210")]);
    let (_, stdout, _) = told(&[old, &new]);
    assert!(stdout.contains("pool app: sticky.secret changed"), "{stdout}");
    assert!(stdout.contains("needs a hand-over, a reload is refused: server.threads"), "{stdout}");
    let (code, _, stderr) = told(&[old, "/no/such/file"]);
    assert_eq!(
        (code, stderr.contains("/no/such/file: cannot read the file")),
        (1, true),
        "{stderr}"
    );
    for wrong in [&[][..], &[old], &["-c", old, old, old]] {
        assert_eq!(told(wrong).0, 2, "{wrong:?}");
    }
}

#[test]
fn the_running_instance_is_compared_without_its_secrets() {
    let lb = Config::new(OLD).start();
    let admin = lb.extra(2).to_string();
    let told = |file: &str| {
        let args = ["diff", "-c", file, "--exit-code", "--admin", &admin, "--token"];
        Program::run(args.iter().chain(&["the-admin-token-1"]).map(OsStr::new))
    };
    let (code, stdout, stderr) = told(lb.path().to_str().unwrap());
    assert_eq!((code, stdout.as_str(), stderr.as_str()), (0, "nothing changes", ""));
    let secrets = [("0123456789abcdef", "fedcba9876543210"), ("token-1", "token-2")];
    let new = changed(&lb, &[&CHANGES[..], &secrets].concat());
    let (code, stdout, _) = told(&new);
    let expected = "pool app: -127.0.0.1:1, weight of app-2 1 -> 3, +127.0.0.1:3";
    assert_eq!((code, stdout.as_str()), (3, expected));
    let web = lb.web().to_string();
    let (_, stdout, _) =
        told(&changed(&lb, &[(&web, "127.0.0.1:1000"), ("threads: 2", "threads: 1")]));
    assert!(
        stdout.ends_with("a reload is refused: server.threads, listeners.web.address"),
        "{stdout}"
    );
    // What was foretold is what the reload then logs.
    lb.replace("lb.yaml", &lb.read("lb.yaml").replace("name: app-2", "name: app-2, weight: 3"));
    let (_, foretold, _) = told(lb.path().to_str().unwrap());
    lb.signal(rustix::process::Signal::HUP);
    lb.wait_for_line(&format!("reloaded: {foretold}"));
    let (code, _, stderr) = Program::run(["diff", "-c", &new, "--admin", &admin]);
    assert_eq!((code, stderr.contains("wants a token")), (1, true), "{stderr}");
}

/// What is foretold from the running instance is what a reload does: another spelling is refused by
/// neither.
#[test]
fn another_spelling_of_what_cannot_change_is_not_foretold_as_refused() {
    let text = format!("{}{OLD}", server("drain_timeout: 30s"));
    let lb = Config::new(text).start();
    let admin = lb.extra(2).to_string();
    let new = changed(&lb, &[("drain_timeout: 30s", "drain_timeout: 30000ms\n  daemon: false")]);
    let args = ["diff", "-c", &new, "--admin", &admin, "--token", "the-admin-token-1"];
    let (code, stdout, stderr) = Program::run(args);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(stdout, "server.drain_timeout 30s -> 30000ms\nserver.daemon default -> false");
    lb.replace("lb.yaml", &lb.read("new.yaml"));
    lb.signal(rustix::process::Signal::HUP);
    lb.wait_for_line("reloaded: server.drain_timeout 30s -> 30000ms");
}

#[test]
fn wrong_usage_shows_how_it_is_used() {
    let (code, _, stderr) = Program::run(["diff", "a"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("Usage: pingora-lb diff [OPTIONS] -c FILE"), "{stderr}");
    let (code, help, _) = Program::run(["explain", "--help"]);
    assert_eq!(code, 0);
    assert!(help.contains("Usage: pingora-lb explain [OPTIONS] [METHOD] URL"), "{help}");
    assert!(help.contains("[METHOD] URL"), "{help}");
}
