//! The command line, as a person or a script uses it.

use crate::support::{Address, Config, Origin, Program, Reserved, eventually, get, request, tally};
use std::{
    ffi::OsStr,
    net::TcpListener,
    time::{Duration, Instant},
};

#[test]
fn the_effective_configuration_is_printed_and_is_one() {
    let conf = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/lb.yaml");
    let (code, effective, stderr) = Program::run(["-c", conf, "-T"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(effective.contains("drain_timeout: 30s"), "{effective}");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("effective.yaml");
    std::fs::write(&file, &effective).unwrap();
    let (code, again, stderr) = Program::run(["-c", file.to_str().unwrap(), "-T"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let body = |text: &str| text.split_once('\n').unwrap().1.to_owned();
    assert_eq!(body(&again), body(&effective));
}

#[test]
fn the_effective_configuration_has_the_defaults_of_a_filter_by_its_name_alone() {
    let filters = "routes:\n  - { pool: app, filters: [redirect_https] }";
    let files = Config::pool(&["a:1".to_owned()], "").and(filters).write();
    let (code, effective, stderr) =
        Program::run(["-c".as_ref(), files.path().as_os_str(), "-T".as_ref()]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(
        effective.contains("redirect_https:\n") && effective.contains("status: 308"),
        "{effective}"
    );
}

#[test]
fn the_schema_subcommand_prints_a_schema_with_the_filters() {
    let (code, schema, stderr) = Program::run(["schema"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
    let filters = &schema["properties"]["routes"]["items"]["properties"]["filters"]["items"];
    let set = &filters["anyOf"][0]["properties"]["request_headers"]["properties"]["set"];
    assert_eq!(set["type"], "object", "{filters:#}");
    assert!(set["description"].as_str().unwrap().starts_with("Fields to set"), "{set:#}");
}

#[test]
fn help_mentions_every_flag_and_subcommand() {
    let (code, help, _) = Program::run(["--help"]);
    assert_eq!(code, 0);
    let words = "-c --conf -d --daemon -u --upgrade -t --test --port --listen --backends \
                 --algorithm --health-interval --health-timeout --max-retries demo backend \
                 --help --version round_robin random least_connections";
    for word in words.split_whitespace() {
        assert!(help.contains(word), "{word} is missing in\n{help}");
    }
    let (code, help, _) = Program::run(["backend", "--help"]);
    assert_eq!(code, 0);
    for word in ["--port", "--name", "--latency", "--fail-rate"] {
        assert!(help.contains(word), "{word} is missing in\n{help}");
    }
    let (code, help, _) = Program::run(["demo", "--help"]);
    assert_eq!(code, 0);
    assert!(help.contains("--port"), "{help}");
}

#[test]
fn version_is_the_packages() {
    for flag in ["--version", "-V"] {
        let (code, version, _) = Program::run([flag]);
        assert_eq!((code, version.trim()), (0, concat!("pingora-lb ", env!("CARGO_PKG_VERSION"))));
    }
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_is_wrong() {
    let cases: &[(&[&str], &str)] = &[
        (&["--nonsense"], "--nonsense"),
        (&["nonsense"], "nonsense"),
        (&[], "--help"),
        (&["-t"], "--conf"),
        (&["--port", "8080"], "--backends"),
        (&["--port", "99999", "--backends", "127.0.0.1:1"], "99999"),
        (&["--port", "1", "--backends", "127.0.0.1:1", "--algorithm", "nonsense"], "nonsense"),
        (&["--port", "1", "--backends", "no port"], "no port"),
        (&["--port", "1", "--backends", "127.0.0.1:1", "--max-retries", "x"], "x"),
        (&["--port", "1", "--backends", "127.0.0.1:1", "--health-interval", "10q"], "10q"),
        (&["-c", "lb.yaml", "--backends", "127.0.0.1:1"], "--backends"),
        (&["-c", "lb.yaml", "--port", "8080"], "--port"),
        (&["-c", "lb.yaml", "--listen", "127.0.0.1:8080"], "--listen"),
        (&["backend", "--port", "1", "--name", "a", "--latency", "fast"], "fast"),
        (&["backend", "--port", "1", "--name", "a", "--fail-rate", "120%"], "120%"),
    ];
    for (args, mentioned) in cases {
        let (code, stdout, stderr) = Program::run(*args);
        assert_eq!(code, 2, "{args:?}\n{stdout}\n{stderr}");
        assert!(stderr.contains(mentioned), "{args:?} should mention {mentioned}\n{stderr}");
    }
}

#[test]
fn a_good_configuration_passes_the_test_without_being_run() {
    let files = Config::new("pools:\n  app: { backends: [127.0.0.1:1] }\n").write();
    // It is only read: an address in use is no matter of the configuration.
    let Address::Tcp(web) = files.web() else { unreachable!() };
    let _taken = TcpListener::bind(web).unwrap();
    for flag in ["-t", "--test"] {
        let (code, stdout, stderr) =
            Program::run([OsStr::new("-c"), files.path().as_os_str(), OsStr::new(flag)]);
        assert_eq!(code, 0, "{stderr}");
        let said = format!("{stdout}{stderr}").to_lowercase();
        assert!(said.contains("ok") || said.contains("valid"), "{said}");
    }
}

#[test]
fn every_error_of_a_configuration_is_reported_at_its_place() {
    let text = "\
listeners:
  web: { address: 127.0.0.1:18080, adress: x }
pools:
  app:
    backends: [127.0.0.1:9001]
    balance: round_robbin
    retry: { attempts: many }
routes:
  - pool: ap
server:
  threads: 1
";
    let files = Config::new(text).write();
    for flag in [Some("-t"), None] {
        let mut args = vec![OsStr::new("-c"), files.path().as_os_str()];
        args.extend(flag.map(OsStr::new));
        let (code, stdout, stderr) = Program::run(args);
        assert_eq!(code, 1, "{stdout}\n{stderr}");
        for place in ["lb.yaml:2:36", "lb.yaml:6:14", "lb.yaml:7:24", "lb.yaml:9:11"] {
            assert!(stderr.contains(place), "{place} is missing in\n{stderr}");
        }
        for word in ["adress", "address", "round_robbin", "round_robin", "attempts", "many", "app"]
        {
            assert!(stderr.contains(word), "{word} is missing in\n{stderr}");
        }
    }
}

#[test]
fn the_example_configurations_pass_the_test() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let (code, _, stderr) =
                Program::run([OsStr::new("-t"), OsStr::new("-c"), path.as_os_str()]);
            assert_eq!(code, 0, "{}\n{stderr}", path.display());
        }
    }
}

#[test]
fn a_missing_file_is_a_failure_that_names_it() {
    for args in [&["-c", "/nonexistent/lb.yaml"][..], &["-t", "-c", "/nonexistent/lb.yaml"]] {
        let (code, _, stderr) = Program::run(args);
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains("/nonexistent/lb.yaml"), "{stderr}");
    }
}

/// Starts the balancer without a file, and waits until it listens.
fn without_a_file(args: &[&str], address: &Address) -> Program {
    let mut program = Program::start(args);
    eventually("it listens", || {
        program.assert_running();
        address.connect().is_ok()
    });
    program
}

#[test]
fn no_file_is_needed() {
    let origins = ["a", "b"].map(Origin::named);
    let port = Reserved::new();
    let backends = format!("{},http://{}", origins[0].address(), origins[1].address());
    let number = port.port().to_string();
    let _program = without_a_file(&["--port", &number, "--backends", &backends], &port.address());
    let names: Vec<String> = (0..6).map(|_| get(&port.address(), "/").text()).collect();
    assert_eq!(tally(&names), [("a".to_owned(), 3), ("b".to_owned(), 3)].into());
}

#[test]
fn the_interface_to_listen_on_can_be_chosen() {
    let origin = Origin::named("a");
    let port = Reserved::new();
    let (listen, backend) = (port.address().to_string(), origin.address().to_string());
    let _program = without_a_file(&["--listen", &listen, "--backends", &backend], &port.address());
    assert_eq!(get(&port.address(), "/").text(), "a");
}

#[test]
fn every_algorithm_and_its_aliases_work() {
    let origins = ["a", "b"].map(Origin::named);
    let backends = format!("{},{}", origins[0].address(), origins[1].address());
    for algorithm in ["round_robin", "roundrobin", "random", "least_connections", "leastconn"] {
        let port = Reserved::new();
        let number = port.port().to_string();
        let args = ["--port", &number, "--backends", &backends, "--algorithm", algorithm];
        let _program = without_a_file(&args, &port.address());
        let names: Vec<String> = (0..40).map(|_| get(&port.address(), "/").text()).collect();
        assert_eq!(tally(&names).len(), 2, "{algorithm}");
    }
}

#[test]
fn health_and_retries_can_be_set_without_a_file() {
    let origin = Origin::named("a");
    let dead = Reserved::new();
    let port = Reserved::new();
    let number = port.port().to_string();
    let backends = format!("{},{}", origin.address(), dead.address());
    let flags = ["--health-interval", "100ms", "--health-timeout", "100ms", "--max-retries", "0"];
    let mut args = vec!["--port", &number, "--backends", &backends];
    args.extend(flags);
    let program = without_a_file(&args, &port.address());
    program.stderr.wait_for("is DOWN: connection refused");
    for _ in 0..4 {
        assert_eq!(get(&port.address(), "/").status, 200);
    }
    let checks = origin.accepted();
    eventually("checks go on at the pace asked for", || origin.accepted() > checks + 3);
}

#[test]
fn an_address_in_use_is_an_error_within_a_second() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let started = Instant::now();
    let (code, _, stderr) = Program::run(["--listen", &address, "--backends", "127.0.0.1:1"]);
    let took = started.elapsed();
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains(&address), "{stderr}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn one_address_in_use_among_several_fails_the_start() {
    let text = "listeners:\n  web: { address: \"@WEB@\" }\n  two: { address: \"@2@\" }\n\
                pools:\n  app: { backends: [127.0.0.1:1] }\n";
    let files = Config::new(text).write();
    let Address::Tcp(second) = files.extra(2) else { unreachable!() };
    let _taken = TcpListener::bind(second).unwrap();
    let (code, _, stderr) = Program::run([OsStr::new("-c"), files.path().as_os_str()]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains(&second.to_string()), "{stderr}");
}

#[test]
fn the_backend_subcommand_is_a_backend() {
    let port = Reserved::new();
    let number = port.port().to_string();
    let args = ["backend", "--port", &number, "--name", "app-1", "--latency", "50ms"];
    let _program = without_a_file(&args, &port.address());
    let asked = Instant::now();
    let response = get(&port.address(), "/x");
    assert!(asked.elapsed() >= Duration::from_millis(50));
    assert_eq!(response.headers.get("x-served-by"), Some("app-1"));
    assert!(response.text().contains("app-1"), "{}", response.text());
    assert_eq!(get(&port.address(), "/health").text().trim(), "ok");
}

#[test]
fn the_backend_listens_where_it_is_told() {
    let reserved = Reserved::new();
    let port = reserved.port();
    let elsewhere = Address::Tcp(([127, 0, 0, 2], port).into());
    let listen = format!("127.0.0.2:{port}");
    let _program = without_a_file(&["backend", "--listen", &listen], &elsewhere);
    assert_eq!(get(&elsewhere, "/health").status, 200);
    let here = Address::Tcp(([127, 0, 0, 1], port).into());
    assert!(here.connect().is_err(), "it listens on every address");

    for wrong in [&["backend"][..], &["backend", "--port", "1", "--listen", "127.0.0.1:1"]] {
        let (code, _, stderr) = Program::run(wrong);
        assert!(code == 2 && stderr.contains("--listen"), "{stderr}");
    }
}

#[test]
fn the_backend_fails_as_often_as_told() {
    let port = Reserved::new();
    let number = port.port().to_string();
    let args = ["backend", "--port", &number, "--name", "app-1", "--fail-rate", "100%"];
    let _program = without_a_file(&args, &port.address());
    assert_eq!(get(&port.address(), "/").status, 500);
    assert_eq!(get(&port.address(), "/health").status, 200);
}

#[test]
fn the_demo_starts_by_itself_and_says_what_to_try() {
    let port = Reserved::new();
    let number = port.port().to_string();
    let program = without_a_file(&["demo", "--port", &number], &port.address());
    let mut client = crate::support::Client::connect(&port.address());
    let names: Vec<String> = (0..3).map(|_| client.get("/").backend()).collect();
    assert_eq!(tally(&names).len(), 3, "{names:?}");
    program.stdout.wait_for(&number);
    // Its admin API is on.
    program.stdout.wait_for("Its dashboard: http://127.0.0.1:");
    let line = program.stdout.wait_for("Its admin API: http://");
    let api = line.split("http://").nth(1).unwrap().strip_suffix("/api/v1/pools").unwrap();
    let api = crate::support::Address::Tcp(api.parse().unwrap());
    let ask = request("GET", "/api/v1/pools", &["Host: localhost"], b"");
    let pool = &crate::support::Client::connect(&api).ask(ask).json()["pools"][0];
    assert_eq!((&pool["name"], &pool["usable"]), (&"app".into(), &3.into()));
    // What to try first: see the rotation.
    program.stdout.wait_for("curl");
    assert_eq!(client.ask(request("POST", "/echo", &[], b"said")).text(), "said");
}

/// However quickly it is tried: requests may eject a backend before the checks see that it is down.
#[test]
fn a_backend_of_the_demo_that_was_stopped_and_started_is_soon_back() {
    let port = Reserved::new();
    let program = without_a_file(&["demo", "--port", &port.port().to_string()], &port.address());
    let mut client = crate::support::Client::connect(&port.address());
    program.say("stop 2");
    program.stdout.wait_for("app-2 is stopped");
    for _ in 0..30 {
        assert_eq!(client.get("/").status, 200);
    }
    program.say("start 2");
    program.stdout.wait_for("app-2 is running");
    eventually("app-2 is back", || client.get("/").backend() == "app-2");
}
