use super::{LISTENERS, POOLS, config, errors, parse};
use crate::{
    config::{Quick, quick},
    model::{
        AccessLog, AccessLogFormat, Action, BackendAddress, BackendState, Balance, BalancePolicy,
        Ejection, HashOn, HostHeader, HostPattern, LogTarget, PathMatch, Pool, PoolLimits, Probe,
        Retry, RetryOn, RouteListeners, SameSite, Secure, StatusRange, ValueMatch,
    },
};
use std::{path::Path, time::Duration};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_smallest_file_gets_the_defaults() {
    let config = config(
        "listeners:\n  web: { address: 0.0.0.0:8080 }\n\
         pools:\n  app: { backends: [127.0.0.1:9001, 127.0.0.1:9002, 127.0.0.1:9003] }\n",
    );
    assert!(config.server.threads >= 1 && !config.server.daemon);
    assert_eq!(config.server.drain_timeout, 30 * SECOND);
    assert_eq!(config.server.log_level, log::LevelFilter::Info);
    assert_eq!(config.access_log, None);
    assert!(config.trusted_proxies.is_empty());

    let listener = &config.listeners[0];
    assert_eq!((listener.name.as_str(), listener.max_connections), ("web", None));
    assert_eq!(listener.timeouts, crate::model::ListenerTimeouts::default());
    assert_eq!(listener.limits, crate::model::ListenerLimits::default());

    let route = &config.routes[0];
    assert_eq!((route.name.as_str(), config.routes.len()), ("route-1", 1));
    assert!(matches!(&route.action, Action::Pool(pool) if pool.as_str() == "app"));
    assert_eq!((&route.listeners, route.timeout), (&RouteListeners::All, None));

    let pool = &config.pools[0];
    assert_eq!(pool.backends.len(), 3);
    assert_eq!(pool.backends[1].name.as_str(), "127.0.0.1:9002");
    assert_eq!(pool.backends[1].state, BackendState::Active);
    assert_eq!(pool.balance, Balance::of(BalancePolicy::RoundRobin));
    assert_eq!((&pool.sticky, pool.panic_threshold.fraction()), (&None, 0.0));
    assert_eq!((pool.ejection, pool.slow_start), (Some(Ejection::default()), Duration::ZERO));
    assert_eq!((&pool.retry, pool.limits), (&Retry::default(), PoolLimits::default()));
    assert_eq!((&pool.host_header, pool.reveal_backend), (&HostHeader::Preserve, true));
    assert_eq!(pool.resolve_interval, 30 * SECOND);
    let check = pool.health_check.as_ref().unwrap();
    assert!(matches!(check.probe, Probe::Tcp));
    assert_eq!((check.interval, check.timeout), (5 * SECOND, 2 * SECOND));
    assert_eq!(
        (check.rise.get(), check.fall.get(), check.jitter.to_string().as_str()),
        (2, 3, "10%")
    );
}

#[test]
fn listener_values_are_read() {
    let config = config(&format!(
        "{POOLS}listeners:\n  web:\n    address: unix:run/web.sock\n    protocol: http\n    h2c: true\n    \
         max_connections: 7\n    timeouts: {{ header: 1s, body_idle: 2s, keepalive: 3s, write: 4s, \
         tls_handshake: 5s }}\n    \
         limits: {{ header_bytes: 4KiB, headers: 5, requests_per_connection: 6, h2_streams: 8 }}\n"
    ));
    let listener = &config.listeners[0];
    assert_eq!(listener.address.to_string(), "unix:/etc/lb/run/web.sock");
    assert!(listener.h2c);
    assert_eq!(listener.max_connections.unwrap().get(), 7);
    let timeouts = listener.timeouts;
    assert_eq!((timeouts.header, timeouts.body_idle), (SECOND, 2 * SECOND));
    assert_eq!((timeouts.keepalive, timeouts.write), (3 * SECOND, 4 * SECOND));
    assert_eq!(timeouts.tls_handshake, 5 * SECOND);
    let limits = listener.limits;
    assert_eq!((limits.header_bytes, limits.headers), (4096, 5));
    // The default would be 8KiB, more than the whole head.
    assert_eq!(limits.uri_bytes, 4096);
    assert_eq!(limits.requests_per_connection.unwrap().get(), 6);
    assert_eq!(limits.h2_streams.get(), 8);
}

#[test]
fn server_values_are_read() {
    let text = "server: { threads: 3, daemon: on, pid_file: run/pid, upgrade_sock: /x.sock, \
                error_log: e.log, user: u, group: g, drain_timeout: 0s, shutdown_delay: 5s, log_level: off, \
                watch: true }\n";
    let server = config(&format!("{LISTENERS}{POOLS}{text}")).server;
    assert_eq!((server.threads, server.daemon), (3, true));
    assert_eq!(server.pid_file, Path::new("/etc/lb/run/pid"));
    assert_eq!(server.upgrade_sock, Path::new("/x.sock"));
    assert_eq!(server.error_log.as_deref(), Some(Path::new("/etc/lb/e.log")));
    assert_eq!((server.user.as_deref(), server.group.as_deref()), (Some("u"), Some("g")));
    assert_eq!(server.drain_timeout, Duration::ZERO);
    assert_eq!(server.shutdown_delay, 5 * SECOND);
    assert_eq!((server.log_level, server.watch), (log::LevelFilter::Off, true));
}

#[test]
fn the_admin_api_is_read() {
    let read = |text: &str| config(&format!("{LISTENERS}{POOLS}{text}\n")).admin;
    assert_eq!(read(""), None);
    for local in ["127.0.0.1:9901", "'[::1]:9901'", "127.8.0.1:0", "unix:run/admin.sock"] {
        let admin = read(&format!("admin: {{ address: {local} }}")).unwrap();
        assert_eq!((admin.token, admin.hosts), (None, Vec::new()));
    }
    let admin = read(
        "admin: { address: 0.0.0.0:9901, token: \"s3cret${PORT}\", hosts: [LB.example, '[::1]'] }",
    );
    let admin = admin.unwrap();
    assert_eq!(admin.address.to_string(), "0.0.0.0:9901");
    assert_eq!(admin.token.as_ref().unwrap().reveal(), "s3cret9001");
    assert!(!format!("{admin:?}").contains("s3cret"));
    assert_eq!(admin.hosts, ["lb.example", "[::1]"]);
}

#[test]
fn the_access_log_is_stdout_or_a_file_or_off() {
    let read = |text: &str| config(&format!("{LISTENERS}{POOLS}access_log: {text}\n")).access_log;
    let (stdout, json) = (LogTarget::Stdout, AccessLogFormat::Json);
    assert_eq!(read("off"), None);
    assert_eq!(read("false"), None);
    assert_eq!(read("{}"), Some(AccessLog { path: stdout.clone(), format: json }));
    assert_eq!(
        read("{ path: stdout, format: combined }"),
        Some(AccessLog { path: stdout, format: AccessLogFormat::Combined })
    );
    let file = LogTarget::File("/etc/lb/access.log".into());
    assert_eq!(read("{ path: access.log }"), Some(AccessLog { path: file, format: json }));
}

#[test]
fn trusted_proxies_are_networks_or_addresses() {
    let text = "trusted_proxies: [10.0.0.0/8, \"::1\", 192.0.2.1]\n";
    let networks = config(&format!("{LISTENERS}{POOLS}{text}")).trusted_proxies;
    let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "::1/128", "192.0.2.1/32"]);
}

#[test]
fn conditions_are_read() {
    let text = "routes:\n- pool: app\n  listeners: [web]\n  timeout: 1m30s\n  match:\n    \
                host: [API.example.com, '*.Example.org', '[::1]']\n    path_prefix: /v1\n    \
                methods: [GET, PROPFIND]\n    \
                headers: { X-A: off, x-b: { regex: '^a$' }, x-c: { present: false } }\n    \
                query: { n: 007 }\n\
                - { pool: app, match: { host: a.b, path: /p } }\n\
                - { pool: app, match: { path_regex: '^/(a|b)$' } }\n";
    let routes = config(&format!("{LISTENERS}{POOLS}{text}")).routes;
    let first = &routes[0];
    assert_eq!(first.timeout, Some(90 * SECOND));
    assert!(matches!(&first.listeners, RouteListeners::Only(names) if names[0].as_str() == "web"));
    let matches = &first.matches;
    assert_eq!(
        matches.hosts,
        [
            HostPattern::Exact("api.example.com".into()),
            HostPattern::Below("example.org".into()),
            HostPattern::Exact("[::1]".into()),
        ]
    );
    assert!(matches!(&matches.path, Some(PathMatch::Prefix(path)) if path == "/v1"));
    assert_eq!(matches.methods[1].as_str(), "PROPFIND");
    // What YAML would take for a switch or a number is the text that was written.
    assert_eq!(matches.headers[0].name, "x-a");
    assert!(matches!(&matches.headers[0].value, ValueMatch::Exact(text) if text == "off"));
    assert!(
        matches!(&matches.headers[1].value, ValueMatch::Regex(regex) if regex.as_str() == "^a$")
    );
    assert!(matches!(matches.headers[2].value, ValueMatch::Present(false)));
    assert!(matches!(&matches.query[0].value, ValueMatch::Exact(text) if text == "007"));
    assert_eq!(routes[1].matches.hosts, [HostPattern::Exact("a.b".into())]);
    assert!(matches!(&routes[1].matches.path, Some(PathMatch::Exact(path)) if path == "/p"));
    assert!(
        matches!(&routes[2].matches.path, Some(PathMatch::Regex(r)) if r.as_str() == "^/(a|b)$")
    );
    assert_eq!(routes[2].name.as_str(), "route-3");
}

#[test]
fn actions_are_read() {
    let text = "routes:\n- { match: { path: /1 }, split: { app: 95, b: 0 } }\n\
                - { match: { path: /2 }, redirect: { to: 'https://${PORT}.a${path}$$' } }\n\
                - { match: { path: /3 }, redirect: { to: /x, status: '302' } }\n\
                - respond: { status: 503, headers: { x-a: b }, body: \"$$1\\n\" }\n\
                pools: { app: { backends: [a:1] }, b: { backends: [a:1] } }\n";
    let routes = config(&format!("{LISTENERS}{text}")).routes;
    let Action::Split(split) = &routes[0].action else { panic!("{:?}", routes[0]) };
    assert_eq!((split.0[0].0.as_str(), split.0[0].1, split.0[1].1), ("app", 95, 0));
    let Action::Redirect(redirect) = &routes[1].action else { panic!("{:?}", routes[1]) };
    let location = redirect.to.render(|variable, out| out.push_str(variable.as_str()));
    assert_eq!((location.as_str(), redirect.status.as_u16()), ("https://9001.apath$", 308));
    let Action::Redirect(redirect) = &routes[2].action else { panic!("{:?}", routes[2]) };
    assert_eq!(redirect.status.as_u16(), 302);
    let Action::Respond(respond) = &routes[3].action else { panic!("{:?}", routes[3]) };
    assert_eq!((respond.status.as_u16(), &respond.body[..]), (503, &b"$1\n"[..]));
    assert_eq!(respond.headers[0].1, "b");
}

#[test]
fn pool_values_are_read() {
    let text = "pools:\n  app:\n    backends:\n    - { address: 'Host.Internal:${PORT}', name: a, weight: 0 }\n    \
                - { address: unix:a.sock, backup: true }\n    - '[::1]:80'\n    \
                resolve_interval: 1s\n    balance: { policy: random }\n    host_header: app.internal:80\n    \
                retry: { attempts: 0 }\n    reveal_backend: off\n    \
                timeouts: { connect: 1s, read: 2s, write: 3s, idle: 4s }\n    health_check: off\n";
    let pool = &config(&format!("{LISTENERS}{text}")).pools[0];
    let host = BackendAddress::Host { host: "host.internal".into(), port: 9001 };
    assert_eq!((&pool.backends[0].address, pool.backends[0].weight.get()), (&host, 0));
    assert_eq!(pool.backends[1].address.to_string(), "unix:/etc/lb/a.sock");
    // The name is the address as it is written.
    assert_eq!((pool.backends[1].name.as_str(), pool.backends[1].backup), ("unix:a.sock", true));
    assert_eq!(pool.backends[2].name.as_str(), "[::1]:80");
    assert_eq!((pool.resolve_interval, pool.balance.policy), (SECOND, BalancePolicy::Random));
    assert!(matches!(&pool.host_header, HostHeader::Literal(host) if host == "app.internal:80"));
    assert_eq!((pool.retry.attempts, pool.reveal_backend), (0, false));
    assert_eq!((pool.timeouts.connect, pool.timeouts.read), (SECOND, 2 * SECOND));
    assert_eq!((pool.timeouts.write, pool.timeouts.idle), (3 * SECOND, 4 * SECOND));
    assert!(pool.health_check.is_none());
}

/// A pool with `rest` beside its backends.
fn pool(rest: &str) -> Pool {
    let text = format!("{LISTENERS}pools: {{ app: {{ backends: [a:1, b:1], {rest} }} }}\n");
    config(&text).pools.remove(0)
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let written = "balance: round_robin, sticky: off, \
        ejection: { consecutive_failures: 5, base_time: 30s, max_time: 300s, max_percent: 50% }, \
        panic_threshold: 0%, slow_start: 0s, \
        retry: { attempts: 2, on: [connect_failure, refused_stream, reset], \
        backoff: { base: 25ms, max: 250ms }, budget: { percent: 20%, min_per_second: 3 } }, \
        limits: { connections_per_backend: 0, queue: 0, queue_timeout: 5s }";
    assert_eq!(format!("{:?}", pool(written)), format!("{:?}", pool("")));
    for empty in ["ejection: {}", "retry: { backoff: {}, budget: {} }", "limits: {}"] {
        assert_eq!(format!("{:?}", pool(empty)), format!("{:?}", pool("")), "{empty}");
    }
}

#[test]
fn policies_are_read_as_names_and_in_maps() {
    for policy in BalancePolicy::ALL {
        assert_eq!(pool(&format!("balance: {policy}")).balance, Balance::of(policy));
        let map = format!("balance: {{ policy: {policy} }}");
        assert_eq!(pool(&map).balance, Balance::of(policy));
    }
}

#[test]
fn what_is_hashed_is_read() {
    let header = http::HeaderName::from_static("x-user");
    for (text, expected) in [
        ("client_ip", HashOn::ClientIp),
        ("path", HashOn::Path),
        ("uri", HashOn::Uri),
        ("{ header: X-User }", HashOn::Header(header)),
        ("{ cookie: Sid }", HashOn::Cookie("Sid".into())),
        ("{ query: 'user id' }", HashOn::Query("user id".into())),
    ] {
        for policy in ["ring_hash", "maglev"] {
            let text = format!("balance: {{ policy: {policy}, hash_on: {text} }}");
            assert_eq!(pool(&text).balance.hash_on, expected, "{text}");
        }
    }
}

#[test]
fn bounded_load_is_read_as_a_ratio() {
    for (text, expected) in
        [("150%", Some(1.5)), ("101%", Some(1.01)), ("10000%", Some(100.0)), ("off", None)]
    {
        let text = format!("balance: {{ policy: ring_hash, bounded_load: {text} }}");
        assert_eq!(pool(&text).balance.bounded_load, expected, "{text}");
    }
}

#[test]
fn states_of_backends_are_read() {
    let text = "pools: { app: { backends: [{ address: a:1, state: active }, \
                { address: b:1, state: draining }, { address: c:1, state: disabled }] } }\n";
    let config = config(&format!("{LISTENERS}{text}"));
    let states: Vec<_> = config.pools[0].backends.iter().map(|backend| backend.state).collect();
    assert_eq!(states, BackendState::ALL);
}

#[test]
fn sticky_values_are_read() {
    let sticky = pool("sticky: { cookie: LB }").sticky.unwrap();
    assert_eq!((sticky.cookie.as_str(), sticky.path.as_str()), ("LB", "/"));
    assert_eq!((sticky.ttl, sticky.secure), (3600 * SECOND, Secure::Auto));
    assert_eq!((sticky.same_site, sticky.secret), (SameSite::Lax, None));

    let text = "sticky: { cookie: LB, ttl: 1s, path: /app, secure: true, same_site: none, \
                secret: '${SECRET:-0123456789 abcde}' }";
    let sticky = pool(text).sticky.unwrap();
    assert_eq!((sticky.ttl, sticky.path.as_str()), (SECOND, "/app"));
    assert_eq!((sticky.secure, sticky.same_site), (Secure::Always, SameSite::None));
    assert_eq!(sticky.secret.as_deref(), Some("0123456789 abcde"));

    let sticky = pool("sticky: { cookie: LB, secure: off, same_site: strict }").sticky.unwrap();
    assert_eq!((sticky.secure, sticky.same_site), (Secure::Never, SameSite::Strict));
    assert_eq!(pool("sticky: false").sticky, None);
}

#[test]
fn ejection_values_are_read() {
    let text = "ejection: { consecutive_failures: 1000, base_time: 1s, max_time: 1s, \
                max_percent: 100% }";
    let ejection = pool(text).ejection.unwrap();
    assert_eq!(ejection.consecutive_failures.get(), 1000);
    assert_eq!((ejection.base_time, ejection.max_time), (SECOND, SECOND));
    assert_eq!(ejection.max_percent.to_string(), "100%");
    assert_eq!(pool("ejection: off").ejection, None);
    // The longest is never shorter than the first.
    let long = pool("ejection: { base_time: 10m }").ejection.unwrap();
    assert_eq!(long.max_time, 600 * SECOND);
}

#[test]
fn retry_values_are_read() {
    let text = "retry: { attempts: 10, on: [\"503\", 504, 502, timeout, reset], \
                backoff: { base: 1s }, budget: { percent: 100%, min_per_second: 0 }, \
                per_try_timeout: 2s }";
    let retry = pool(text).retry;
    let statuses = [503, 504, 502].map(RetryOn::Status);
    assert_eq!((retry.attempts, &retry.on[..3]), (10, &statuses[..]));
    assert_eq!(retry.on[3..], [RetryOn::Timeout, RetryOn::Reset]);
    // The longest pause is never shorter than the first.
    assert_eq!((retry.backoff.base, retry.backoff.max), (SECOND, SECOND));
    assert_eq!((retry.budget.percent.fraction(), retry.budget.min_per_second), (1.0, 0));
    assert_eq!(retry.per_try_timeout, Some(2 * SECOND));
    let none = pool("retry: { backoff: { base: 0s, max: 0s } }").retry.backoff;
    assert_eq!((none.base, none.max), (Duration::ZERO, Duration::ZERO));
}

#[test]
fn limits_panic_and_slow_start_are_read() {
    let pool = pool(
        "limits: { connections_per_backend: 7, queue: 1000000, queue_timeout: 1s }, \
         panic_threshold: 50%, slow_start: 30s",
    );
    assert_eq!(pool.limits.connections_per_backend.unwrap().get(), 7);
    assert_eq!((pool.limits.queue, pool.limits.queue_timeout), (1_000_000, SECOND));
    assert_eq!((pool.panic_threshold.fraction(), pool.slow_start), (0.5, 30 * SECOND));
}

#[test]
fn http_checks_are_read() {
    let read = |text: &str| {
        let text = format!("pools: {{ app: {{ backends: [a:1], health_check: {text} }} }}\n");
        config(&format!("{LISTENERS}{text}")).pools[0].health_check.clone().unwrap()
    };
    let check = read(
        "{ http: { path: '/h?x=1', method: HEAD, host: 'b:1', headers: { x-a: b }, \
         expect_status: [200-299, 304, \"401\"], expect_body: ok, port: 2 }, \
         interval: 10s, timeout: 10s, rise: 4, fall: 5, jitter: 0% }",
    );
    let Probe::Http(probe) = &check.probe else { panic!("{check:?}") };
    assert_eq!((probe.path.as_str(), probe.method.as_str()), ("/h?x=1", "HEAD"));
    assert_eq!(probe.host.as_ref().unwrap(), "b:1");
    assert_eq!((probe.headers[0].0.as_str(), probe.port), ("x-a", Some(2)));
    let ranges = [(200, 299), (304, 304), (401, 401)].map(|(from, to)| StatusRange { from, to });
    assert_eq!(probe.expect_status, ranges);
    assert_eq!(probe.expect_body.as_deref(), Some("ok"));
    assert_eq!((check.interval, check.timeout), (10 * SECOND, 10 * SECOND));
    assert_eq!((check.rise.get(), check.fall.get(), check.jitter.fraction()), (4, 5, 0.0));

    let Probe::Http(probe) = read("{ http: {} }").probe else { panic!("not http") };
    assert_eq!((probe.path.as_str(), probe.method.as_str()), ("/", "GET"));
    assert_eq!(probe.expect_status, [StatusRange { from: 200, to: 299 }]);
}

#[test]
fn routes_that_need_no_pool_need_no_pools() {
    let text = "routes: [{ respond: { status: 200 } }]\n";
    assert!(config(&format!("{LISTENERS}{text}")).pools.is_empty());
    assert_eq!(config(&format!("{LISTENERS}{POOLS}routes: []\n")).routes.len(), 1);
}

#[test]
fn port_0_may_be_used_by_several_listeners() {
    let text = "listeners: { a: { address: 127.0.0.1:0 }, b: { address: 127.0.0.1:0 } }\n";
    assert_eq!(config(&format!("{text}{POOLS}")).listeners.len(), 2);
}

#[test]
fn aliases_and_merges_work_and_errors_point_to_their_use() {
    let text = "pools:\n  a: &pool { backends: [a:1], balance: random }\n  b: *pool\n  \
                c:\n    <<: *pool\n    balance: round_robin\n\
                routes: [{ split: { a: 1, b: 1, c: 1 } }]\n";
    let config = config(&format!("{LISTENERS}{text}"));
    let policies: Vec<_> = config.pools.iter().map(|pool| pool.balance.policy.as_str()).collect();
    assert_eq!(policies, ["random", "random", "round_robin"]);
}

fn flags() -> Quick {
    Quick {
        listen: "127.0.0.1:8080".parse().unwrap(),
        backends: vec!["127.0.0.1:9001".parse().unwrap(), "app:9002".parse().unwrap()],
        algorithm: BalancePolicy::LeastConnections,
        health_interval: 10 * SECOND,
        health_timeout: 3 * SECOND,
        max_retries: 3,
    }
}

#[test]
fn flags_take_every_policy() {
    for algorithm in BalancePolicy::ALL {
        let config = quick(&Quick { algorithm, ..flags() }).unwrap();
        assert_eq!(config.pools[0].balance, Balance::of(algorithm));
    }
}

#[test]
fn flags_make_the_configuration_that_a_file_would() {
    let config = quick(&flags()).unwrap();
    let file = parse(
        "listeners: { web: { address: 127.0.0.1:8080 } }\n\
         pools: { app: { backends: [127.0.0.1:9001, app:9002], balance: least_connections, \
         health_check: { interval: 10s, timeout: 3s }, retry: { attempts: 3 } } }\n",
    )
    .unwrap()
    .config;
    assert_eq!(format!("{:?}", config.pools), format!("{:?}", file.pools));
    assert_eq!(format!("{:?}", config.routes), format!("{:?}", file.routes));
    assert_eq!(format!("{:?}", config.listeners), format!("{:?}", file.listeners));
}

#[test]
fn flags_are_checked_like_a_file() {
    let backend: BackendAddress = "127.0.0.1:9001".parse().unwrap();
    for (flags, expected) in [
        (
            Quick { backends: vec![backend.clone(), backend], ..flags() },
            "duplicate backend 127.0.0.1:9001; expected each backend once",
        ),
        (Quick { backends: vec![], ..flags() }, "found no backend; expected at least one"),
        (Quick { max_retries: 11, ..flags() }, "found 11 retries; expected at most 10"),
        (
            Quick { health_interval: Duration::ZERO, ..flags() },
            "found a health interval or timeout of 0; expected durations above zero",
        ),
    ] {
        assert_eq!(quick(&flags).unwrap_err(), expected);
    }
}

#[test]
fn an_empty_variable_is_an_empty_text() {
    let text = format!("{LISTENERS}pools: {{ app: {{ backends: [\"${{EMPTY}}\"] }} }}\n");
    assert!(errors(&text).contains("found \"\"; expected an address"), "{}", errors(&text));
}
