//! One line for each request, that says what happened.

use crate::support::{
    Client, Config, Lb, Origin, Program, Reply, Reserved, SOON, eventually, request,
};
use rustix::{
    fs::{CWD, Mode, mkfifoat},
    process::Signal,
};
use std::{ffi::OsStr, fs, io::Read, time::Duration};

const UNCHECKED: &str = "health_check: off";

fn logged(origin: &Origin) -> Lb {
    Config::pool(&[origin.entry()], UNCHECKED).access_log().start()
}

#[test]
fn a_json_line_has_every_key_and_says_what_happened() {
    let origin = Origin::slow("app-1", Duration::from_millis(30));
    let lb = logged(&origin);
    let mut client = lb.client();
    let fields = ["Host: www.example.com", "User-Agent: tester/1", "Referer: http://from.test/"];
    let response = client.ask(request("POST", "/some/path?q=1", &fields, b"12345"));
    let entry = &lb.wait_for_entries(1)[0];

    let keys = "time method host path status bytes_in bytes_out duration_ms queue_ms connect_ms \
                upstream_ms client_ip listener route pool backend tries reason request_id \
                protocol tls user_agent referer";
    for key in keys.split_whitespace() {
        assert!(entry.get(key).is_some(), "{key} is missing in {entry}");
    }
    let expected = [
        ("method", "POST"),
        ("host", "www.example.com"),
        ("client_ip", "127.0.0.1"),
        ("listener", "web"),
        ("pool", "app"),
        ("backend", "app-1"),
        ("reason", "ok"),
        ("protocol", "HTTP/1.1"),
        ("user_agent", "tester/1"),
        ("referer", "http://from.test/"),
        ("request_id", response.headers.get("x-request-id").unwrap()),
    ];
    for (key, value) in expected {
        assert_eq!(entry[key], value, "{key}");
    }
    assert_eq!((&entry["status"], &entry["tries"]), (&200.into(), &1.into()));
    assert!(entry["path"].as_str().unwrap().starts_with("/some/path"), "{entry}");
    assert!(entry["duration_ms"].as_f64().unwrap() >= 29.0, "{entry}");
    assert!(entry["upstream_ms"].as_f64().unwrap() >= 29.0, "{entry}");
    assert!(entry["bytes_in"].as_u64().unwrap() >= 5, "{entry}");
    assert!(entry["bytes_out"].as_u64().unwrap() >= 5, "{entry}");
    let time = entry["time"].as_str().unwrap();
    assert!(time.starts_with("20") && time.contains('T'), "{time}");
}

#[test]
fn the_time_of_a_request_begins_with_its_first_byte() {
    let origin = Origin::slow("app-1", Duration::from_millis(100));
    let lb = logged(&origin);
    let mut client = lb.client();
    client.send("GET /first HTTP/1.1\r\n");
    // Two other requests are the clock. The first byte is surely seen before the second of them.
    lb.get("/second");
    lb.get("/third");
    client.send("Host: a\r\n\r\n");
    assert_eq!(client.response().status, 200);
    let entries = lb.wait_for_entries(3);
    let (third, first) = (&entries[1], &entries[2]);
    assert_eq!((&third["path"], &first["path"]), (&"/third".into(), &"/first".into()));
    // As long as the third, and then its own time at the backend.
    assert!(first["duration_ms"].as_f64().unwrap() >= 199.0, "{first}");
    assert!(first["time"].as_str() <= third["time"].as_str(), "{first} {third}");
}

#[test]
fn every_request_has_one_line_in_order() {
    let origin = Origin::named("app-1");
    let lb = logged(&origin);
    let mut client = lb.client();
    for n in 0..50 {
        client.get(&format!("/{n}"));
    }
    let paths: Vec<String> = lb
        .wait_for_entries(50)
        .iter()
        .map(|entry| entry["path"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(paths, (0..50).map(|n| format!("/{n}")).collect::<Vec<_>>());
}

#[test]
fn odd_characters_do_not_break_a_line() {
    let origin = Origin::named("app-1");
    let lb = logged(&origin);
    let agent = "User-Agent: a\"b\\c\td é";
    lb.client().ask(request("GET", "/x%22%0a", &[agent], b""));
    let entry = &lb.wait_for_entries(1)[0];
    let logged = entry["user_agent"].as_str().unwrap();
    assert!(logged.starts_with("a\"b\\c\td "), "{logged:?}");
    assert_eq!(entry["path"], "/x%22%0a");
}

#[test]
fn the_reason_tells_failures_apart() {
    let origin = Origin::scripted("app-1", |request| match request.path() {
        "/reset" => Reply::reset(),
        "/silent" => Reply::Hang,
        "/cut" => Reply::RawThenClose(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx".to_vec()),
        "/500" => Reply::status(500),
        _ => Reply::text("fine"),
    });
    let dead = Reserved::new();
    let text = format!(
        "pools:\n\
         \x20 app: {{ backends: [{}], {UNCHECKED}, timeouts: {{ read: 200ms }}, retry: {{ attempts: 0 }} }}\n\
         \x20 dead: {{ backends: [{}], {UNCHECKED} }}\n\
         \x20 down: {{ backends: [{}] }}\n\
         routes:\n\
         \x20 - {{ match: {{ path: /dead }}, pool: dead }}\n\
         \x20 - {{ match: {{ path: /down }}, pool: down }}\n\
         \x20 - {{ match: {{ methods: [GET, POST] }}, pool: app }}\n",
        origin.entry(),
        dead.address(),
        dead.address(),
    );
    let lb = Config::new(text).access_log().start();
    let cases = [
        ("GET", "/", 200, "ok"),
        ("GET", "/500", 500, "ok"),
        ("POST", "/reset", 502, "upstream_reset"),
        ("GET", "/silent", 504, "upstream_timeout"),
        ("GET", "/cut", 200, "upstream_truncated"),
        ("GET", "/dead", 502, "connect_failed"),
        ("GET", "/down", 503, "no_healthy_backend"),
        ("PUT", "/", 404, "no_route"),
    ];
    for (line, (method, path, status, reason)) in cases.into_iter().enumerate() {
        lb.client().ask(request(method, path, &[], b""));
        let entry = &lb.wait_for_entries(line + 1)[line];
        assert_eq!(
            (&entry["status"], &entry["reason"]),
            (&status.into(), &reason.into()),
            "{path}"
        );
    }
}

#[test]
fn a_request_whose_time_is_over_is_logged_with_what_it_said_of_itself() {
    let origin = Origin::scripted("app-1", |_| Reply::Hang);
    let text = format!(
        "pools: {{ app: {{ backends: [{}], {UNCHECKED} }} }}\nroutes: [{{ pool: app, timeout: 100ms }}]\n",
        origin.entry()
    );
    let lb = Config::new(text).access_log().start();
    let fields = ["User-Agent: tester/1", "Referer: http://a.example/"];
    let answer = lb.client().ask(request("GET", "/x", &fields, b""));
    let entry = &lb.wait_for_entries(1)[0];
    assert_eq!((&entry["status"], &entry["reason"]), (&504.into(), &"upstream_timeout".into()));
    assert_eq!(entry["user_agent"], "tester/1");
    assert_eq!(entry["referer"], "http://a.example/");
    assert_eq!(entry["bytes_out"], answer.body.len());
}

#[test]
fn a_client_that_goes_away_is_a_499_and_no_error() {
    let origin = Origin::scripted("app-1", |_| Reply::Hang);
    let lb = logged(&origin);
    let before = lb.program.stderr.all().len();
    for aborted in 1..=10 {
        let mut client = lb.client();
        client.send(request("GET", "/", &[], b""));
        eventually("the request arrives", || origin.count() == aborted);
        client.reset();
    }
    for entry in lb.wait_for_entries(10) {
        assert_eq!((&entry["status"], &entry["reason"]), (&499.into(), &"client_aborted".into()));
    }
    let new = lb.program.stderr.all().split_off(before);
    assert!(new.iter().all(|line| !line.contains("ERROR")), "{new:#?}");
}

#[test]
fn a_client_that_goes_away_during_its_download_is_client_aborted() {
    let origin = Origin::scripted("app-1", |_| Reply::Zeros(1 << 40));
    let lb = logged(&origin);
    let mut client = lb.client();
    client.send(request("GET", "/", &[], b""));
    client.head();
    client.reset();
    assert_eq!(lb.wait_for_entries(1)[0]["reason"], "client_aborted");
    eventually("the backend is let go", || origin.open() == 0);
    assert_eq!(lb.lines_with("ERROR"), 0);
}

#[test]
fn a_client_that_goes_away_during_its_upload_is_client_aborted() {
    let origin = Origin::named("app-1");
    let lb = logged(&origin);
    let mut client = lb.client();
    client.send(request("POST", "/", &["Content-Length: 1000"], b"half"));
    eventually("the head arrives", || origin.connections() == 1);
    client.reset();
    assert_eq!(lb.wait_for_entries(1)[0]["reason"], "client_aborted");
    assert_eq!(lb.lines_with("ERROR"), 0);
}

#[test]
fn connections_that_never_ask_leave_no_line() {
    let origin = Origin::named("app-1");
    let lb = logged(&origin);
    for _ in 0..5 {
        drop(lb.client());
        lb.client().reset();
    }
    lb.get("/last");
    let entries = lb.wait_for_entries(1);
    assert_eq!((entries.len(), &entries[0]["path"]), (1, &"/last".into()));
    assert_eq!(lb.lines_with("ERROR"), 0);
}

#[test]
fn the_combined_format_is_what_log_readers_expect() {
    let origin = Origin::named("app-1");
    let lb = Config::pool(&[origin.entry()], UNCHECKED)
        .and("access_log: { path: access.log, format: combined }")
        .start();
    let fields = ["User-Agent: tester \"1\"", "Referer: http://from.test/"];
    lb.client().ask(request("GET", "/a?b=c", &fields, b""));
    let find = || {
        let log = lb.read("access.log");
        log.lines().find(|line| line.contains("/a?b=c")).map(str::to_owned)
    };
    eventually("the line", || find().is_some());
    let line = find().unwrap();
    let pattern = concat!(
        r#"^127\.0\.0\.1 - - \[\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2} [+-]\d{4}\] "#,
        r#""GET /a\?b=c HTTP/1\.1" 200 \d+ "http://from\.test/" "tester .*1.*"$"#
    );
    assert!(regex::Regex::new(pattern).unwrap().is_match(&line), "{line}");
    let quotes = line.replace("\\\"", "").matches('"').count();
    assert_eq!(quotes, 6, "a quote from the client ends no field: {line}");
}

#[test]
fn the_log_can_go_to_standard_output() {
    let origin = Origin::named("app-1");
    let lb = Config::pool(&[origin.entry()], UNCHECKED)
        .and("access_log: { path: stdout, format: json }")
        .start();
    lb.get("/to-stdout");
    let line = lb.program.stdout.wait_for("/to-stdout");
    let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(entry["reason"], "ok");
}

#[test]
fn without_the_section_or_with_off_nothing_is_logged() {
    let origin = Origin::named("app-1");
    for section in ["", "access_log: off\n"] {
        let lb = Config::pool(&[origin.entry()], UNCHECKED).and(section).start();
        lb.get("/");
        assert_eq!(lb.program.stdout.all(), Vec::<String>::new());
        assert!(!lb.directory().join("access.log").exists());
    }
}

#[test]
fn requests_that_share_a_connection_share_nothing_in_the_log() {
    let origin = Origin::named("app-1");
    let lb = logged(&origin);
    let mut client = Client::connect(&lb.web());
    client.ask(request("POST", "/1", &["User-Agent: first", "Referer: r"], b"xx"));
    client.ask(request("GET", "/2", &[], b""));
    let second = &lb.wait_for_entries(2)[1];
    assert_eq!((&second["method"], &second["path"]), (&"GET".into(), &"/2".into()));
    assert_ne!(second["user_agent"], "first");
    assert_ne!(second["referer"], "r");
}

#[test]
fn dropped_lines_are_reported() {
    let origin = Origin::named("app-1");
    let files = Config::pool(&[origin.entry()], UNCHECKED).access_log().write();
    let fifo = files.directory().join("access.log");
    mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
    // Opened for both, because opening one end alone waits for the other.
    let mut reader = fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    let mut program = Program::start([OsStr::new("-c"), files.path().as_os_str()]);
    eventually("it serves", || crate::support::lb::answers(&files.web()));
    let mut client = Client::connect(&files.web());
    let long = format!("Referer: {}", "x".repeat(60_000));
    // Nobody reads, so at most 16 MiB of lines wait.
    for _ in 0..300 {
        client.ask(request("GET", "/", &[&long], b""));
    }
    assert_eq!(program.stderr.count("lines were dropped"), 0);
    let reading = std::thread::spawn(move || {
        let mut piece = vec![0; 1 << 16];
        let mut kept = 0;
        loop {
            // What may be the beginning of the mark is looked at again with what follows it.
            let end = kept + reader.read(&mut piece[kept..]).unwrap();
            if piece[..end].windows(5).any(|window| window == b"/last") {
                return;
            }
            kept = end.min(4);
            piece.copy_within(end - kept..end, 0);
        }
    });
    program.stderr.wait_for("lines were dropped, as they came faster than written");
    client.get("/last");
    reading.join().unwrap();
    program.signal(Signal::TERM);
    assert!(program.wait_for_exit(SOON).is_some());
    program.stderr.wait_for("lines were dropped since the start");
}
