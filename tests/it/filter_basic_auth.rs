//! `basic_auth`: users with a name and a password.

use crate::support::{Client, Config, Lb, Origin, Program, Response, eventually, request, within};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};
use tempfile::TempDir;

/// A hash that takes many seconds to verify: whoever waits for it has not been served yet.
const SLOW: &str = "$2b$16$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

/// A file of users.
struct Users {
    folder: TempDir,
}

impl Users {
    fn new(text: &str) -> Self {
        let users = Self { folder: tempfile::tempdir().unwrap() };
        users.write(text);
        users
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("users.htpasswd")
    }

    /// The path as messages have it.
    fn quoted(&self) -> String {
        format!("\"{}\"", self.path().display())
    }

    /// Puts another file in its place, as editors and `htpasswd` do.
    fn write(&self, text: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path()).unwrap();
    }
}

/// A line for this user, with the lowest cost there is.
fn line(name: &str, password: &str) -> String {
    format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap())
}

fn authorization(name: &str, password: &str) -> String {
    format!("Authorization: Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

/// A route to one backend for these users, and one at /open for everybody.
fn guarded(origin: &Origin, users: &Path, keys: &str) -> Lb {
    let filter = format!("basic_auth: {{ file: \"{}\", {keys} }}", users.display());
    Config::pool(&[origin.entry()], "health_check: off")
        .and(&format!(
            "routes:\n  - {{ match: {{ path: /open }}, pool: app }}\n  - {{ filters: [{filter}], pool: app }}"
        ))
        .access_log()
        .start()
}

fn ask(client: &mut Client, name: &str, password: &str) -> Response {
    client.ask(request("GET", "/", &[&authorization(name, password)], b""))
}

fn status(lb: &Lb, name: &str, password: &str) -> u16 {
    ask(&mut lb.client(), name, password).status
}

#[test]
fn users_come_in_and_others_are_asked_who_they_are() {
    let origin = Origin::named("a");
    let people = [("ada", "secret"), ("zoë", "pässwörd"), ("bob", "a:b:"), ("eve", "")];
    let text: String = people.iter().map(|(name, password)| line(name, password)).collect();
    let users = Users::new(&text);
    let lb = guarded(&origin, &users.path(), "realm: 'my \"site\"'");
    let mut client = lb.client();
    for (name, password) in people {
        // Not only the first time.
        for _ in 0..3 {
            assert_eq!(ask(&mut client, name, password).status, 200, "{name}");
        }
    }
    // The backend sees what the client sent.
    let sent = authorization("eve", "");
    let seen = origin.last_request();
    assert_eq!(seen.headers.get("authorization"), sent.strip_prefix("Authorization: "));
    for (name, password) in [
        ("ada", ""),
        ("ada", "Secret"),
        ("ada", "secret\n"),
        ("Ada", "secret"),
        ("nobody", "secret"),
        ("", "secret"),
        ("bob", "a"),
        ("eve", "x"),
    ] {
        let refused = ask(&mut client, name, password);
        assert_eq!(refused.status, 401, "{name}:{password}");
        assert!(refused.text().contains("denied"), "{}", refused.text());
        let challenge = r#"Basic realm="my \"site\"", charset="UTF-8""#;
        assert_eq!(refused.headers.get("www-authenticate"), Some(challenge));
    }
    assert_eq!(origin.count(), 12);
    assert_eq!(client.get("/open").status, 200);
    let entries = lb.wait_for_entries(21);
    let denied = entries.iter().filter(|entry| entry["reason"] == "denied").count();
    assert_eq!(denied, 8);
    let logged = format!("{}{}", lb.read("access.log"), lb.program.stderr.text());
    for secret in ["secret", "$2", &STANDARD.encode("ada:secret")] {
        assert!(!logged.contains(secret), "{secret} in {logged}");
    }
}

#[test]
fn what_is_malformed_is_answered_with_401() {
    let origin = Origin::named("a");
    let users = Users::new(&line("ada", "secret"));
    let lb = guarded(&origin, &users.path(), "");
    let good = authorization("ada", "secret");
    let unpadded = good.trim_end_matches('=').to_owned();
    assert_ne!(good, unpadded);
    let long = format!("Authorization: Basic {}", "A".repeat(20_000));
    for fields in [
        &[][..],
        &["Authorization:"],
        &["Authorization: Basic"],
        &["Authorization: Basic !!!"],
        &["Authorization: Bearer YWRhOnNlY3JldA=="],
        &["Authorization: Basic bm8gY29sb24="],
        &["Authorization: Basic YWRhOv/+"],
        &[&unpadded],
        &[&long],
        &[&good, &good],
    ] {
        let response = lb.client().ask(request("GET", "/", fields, b""));
        assert_eq!(response.status, 401, "{fields:?}");
        let challenge = r#"Basic realm="restricted", charset="UTF-8""#;
        assert_eq!(response.headers.get("www-authenticate"), Some(challenge), "{fields:?}");
    }
    assert_eq!(origin.count(), 0);
    let lower = good.replace("Basic", "basic");
    assert_eq!(lb.client().ask(request("GET", "/", &[&lower], b"")).status, 200);
}

#[test]
fn a_refused_upload_leaves_the_connection() {
    let origin = Origin::named("a");
    let users = Users::new(&line("ada", "secret"));
    let lb = guarded(&origin, &users.path(), "");
    let mut client = lb.client();
    for _ in 0..3 {
        let refused = client.ask(request("POST", "/", &[], &[b'x'; 10_000]));
        assert_eq!(refused.status, 401);
    }
    assert_eq!(ask(&mut client, "ada", "secret").status, 200);
    assert_eq!(origin.count(), 1);
}

#[test]
fn the_backend_does_not_see_what_request_headers_removes() {
    let origin = Origin::named("a");
    let users = Users::new(&line("ada", "secret"));
    let filters = format!(
        "[basic_auth: {{ file: \"{}\" }}, request_headers: {{ remove: [authorization] }}]",
        users.path().display()
    );
    let lb = Config::pool(&[origin.entry()], "health_check: off")
        .and(&format!("routes:\n  - {{ filters: {filters}, pool: app }}"))
        .start();
    assert_eq!(status(&lb, "ada", "secret"), 200);
    assert!(!origin.only_request().headers.has("authorization"));
}

#[test]
fn a_relative_path_starts_from_the_configuration() {
    let text = "listeners: { web: { address: 127.0.0.1:1 } }\nroutes:\n  - filters: [basic_auth: { file: users }]\n    \
                respond: { status: 200 }\n";
    let files = Config::new(text).write();
    fs::write(files.directory().join("users"), line("ada", "secret")).unwrap();
    let (code, _, stderr) =
        Program::run([OsStr::new("-t"), OsStr::new("-c"), files.path().as_os_str()]);
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn a_changed_file_counts_from_the_next_look_on() {
    let origin = Origin::named("a");
    let users = Users::new(&(line("ada", "secret") + &line("bob", "b")));
    let lb = guarded(&origin, &users.path(), "");
    let mut client = lb.client();
    assert_eq!(ask(&mut client, "ada", "secret").status, 200);
    assert_eq!(ask(&mut client, "bob", "b").status, 200);
    users.write(&(line("ada", "changed") + &line("zoe", "z")));
    eventually("the new user comes in", || ask(&mut client, "zoe", "z").status == 200);
    assert_eq!(ask(&mut client, "ada", "secret").status, 401, "what was verified is remembered");
    assert_eq!(ask(&mut client, "ada", "changed").status, 200);
    assert_eq!(ask(&mut client, "bob", "b").status, 401);
}

#[test]
fn a_file_that_cannot_be_used_leaves_the_users_as_they_were() {
    let origin = Origin::named("a");
    let users = Users::new(&line("ada", "secret"));
    let lb = guarded(&origin, &users.path(), "");
    let mut client = lb.client();
    let mut seen = |text: &str| {
        let asks = || {
            assert_eq!(ask(&mut client, "ada", "secret").status, 200, "while waiting for {text}");
            lb.lines_with(text) > 0
        };
        eventually(text, asks);
    };
    users.write(&(line("ada", "other") + "eve:hunter2\n"));
    seen(&format!(
        "basic_auth: line 2 of {} has no hash that is known; expected one of bcrypt, which begins with \
         $2a$, $2b$ or $2y$ (htpasswd -B); the users stay as they were",
        users.quoted()
    ));
    fs::remove_file(users.path()).unwrap();
    seen(&format!("basic_auth: cannot read {}: No such file", users.quoted()));
    // It is looked at again and again, and the log has it once.
    let again = Duration::from_millis(1200);
    assert!(!within(again, || {
        assert_eq!(status(&lb, "ada", "secret"), 200);
        lb.lines_with("No such file") > 1
    }));
    users.write(&line("zoe", "z"));
    eventually("the new user comes in", || status(&lb, "zoe", "z") == 200);
    assert_eq!(status(&lb, "ada", "secret"), 401);
    assert_eq!(lb.lines_with("no hash that is known"), 1);
    lb.wait_for_line("was read again; users: 1");
    assert_eq!(lb.lines_with("hunter2"), 0);
}

#[test]
fn who_waits_for_a_verification_holds_up_nobody_else() {
    let origin = Origin::named("a");
    let users = Users::new(&format!("{}slow:{SLOW}\n", line("ada", "secret")));
    let lb = guarded(&origin, &users.path(), "");
    let mut ada = lb.client();
    assert_eq!(ask(&mut ada, "ada", "secret").status, 200);
    // More than there are threads that serve requests. The file's costliest hash stands in for that of
    // an unknown user, so they all take as long.
    let mut slow: Vec<_> = ["slow", "slow", "nobody", "nobody"]
        .iter()
        .map(|name| {
            let mut client = lb.client();
            client.send(request("GET", "/", &[&authorization(name, "x")], b""));
            client
        })
        .collect();
    for _ in 0..50 {
        assert_eq!(lb.get("/open").status, 200);
        assert_eq!(
            ask(&mut ada, "ada", "secret").status,
            200,
            "what is remembered needs no thread"
        );
    }
    for client in &mut slow {
        client.set_patience(Duration::from_millis(1));
        assert!(client.try_response().is_err(), "it was quicker than the others");
    }
}

#[test]
fn a_flood_of_passwords_meets_an_end() {
    const LINE: usize = 64;
    let origin = Origin::named("a");
    let users = Users::new(&format!("slow:{SLOW}\n"));
    let lb = guarded(&origin, &users.path(), "");
    let at_a_time = thread::available_parallelism().unwrap().get().div_ceil(2);
    let refused = 20;
    let _clients: Vec<_> = (0..at_a_time + LINE + refused)
        .map(|number| {
            let mut client = lb.client();
            let field = authorization("slow", &number.to_string());
            client.send(request("GET", "/", &[&field], b""));
            client
        })
        .collect();
    let entries = lb.wait_for_entries(refused);
    assert!(entries.iter().all(|entry| entry["status"] == 503 && entry["reason"] == "overloaded"));
    assert_eq!(lb.get("/open").status, 200);
    eventually("it is logged", || lb.entries().len() > refused);
    assert_eq!(lb.entries().len(), refused + 1, "the others wait");
    assert_eq!(origin.count(), 1);
}

#[test]
fn settings_that_cannot_be_are_errors() {
    let good = line("ada", "secret");
    let users = Users::new(&good);
    let said = |settings: &str| {
        let text = format!(
            "listeners: {{ web: {{ address: 127.0.0.1:1 }} }}\nroutes:\n  - filters:\n      - basic_auth:\n          {settings}\n    \
             respond: {{ status: 200 }}\n"
        );
        let files = Config::new(text).write();
        let (code, _, stderr) =
            Program::run([OsStr::new("-t"), OsStr::new("-c"), files.path().as_os_str()]);
        assert_eq!(code, 1, "{settings}");
        let path = files.path().display().to_string();
        stderr.trim_start_matches(&path).replace(&files.directory().display().to_string(), "@DIR@")
    };
    let here = |column: u32| format!(":5:{column}: routes[0].filters[0].basic_auth");
    for (settings, column, error) in [
        ("file: \"\"", 17, ".file: found \"\"; expected the path of a file"),
        (
            "file: none",
            17,
            ".file: cannot read \"@DIR@/none\": No such file or directory (os error 2); expected a file of users that can be read",
        ),
        (
            "file: /dev/zero",
            17,
            ".file: cannot read \"/dev/zero\": it is not a file; expected a file of users that can be read",
        ),
        (
            "realms: x",
            11,
            ".realms: unknown key \"realms\"; expected file or realm; did you mean \"realm\"?",
        ),
    ] {
        assert_eq!(said(settings), here(column) + error, "{settings}");
    }
    assert_eq!(
        said("realm: x"),
        ":4:9: routes[0].filters[0].basic_auth: missing key \"file\"; expected the path of a file"
    );
    let file = format!("file: {}", users.path().display());
    assert_eq!(
        said(&format!("{file}\n          realm: é")),
        ":6:18: routes[0].filters[0].basic_auth.realm: a realm with characters that no header field may have; expected visible ASCII and spaces"
    );
    let expensive = SLOW.replace("$16$", "$17$");
    for (text, found) in [
        (
            format!("{good}eve:$apr1$x$hunter2\n"),
            "line 2 of PATH has an MD5 hash; expected one of bcrypt, which begins with $2a$, $2b$ or $2y$ (htpasswd -B)",
        ),
        (
            format!("# one\n\n{good}hunter2\n"),
            "line 4 of PATH has no colon; expected a name, a colon and a bcrypt hash",
        ),
        (
            format!("{good}eve:$2y$05$hunter2\n"),
            "line 2 of PATH has a malformed bcrypt hash; expected 60 characters as htpasswd writes them",
        ),
        (
            format!("{good}{}", line("ada", "hunter2")),
            "line 2 of PATH has a name that line 1 has already; expected each user once",
        ),
        (
            format!("{good}eve:{expensive}\n"),
            "line 2 of PATH has a bcrypt hash of cost 17; expected a cost from 4 to 16",
        ),
        (String::new(), "PATH has no users; expected lines with a name, a colon and a bcrypt hash"),
    ] {
        users.write(&text);
        let error = said(&file);
        let found = found.replace("PATH", &users.quoted());
        assert_eq!(error, format!("{}.file: {found}", here(17)), "{text}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
