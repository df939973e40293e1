use super::{LISTENERS, warnings};
use std::fmt::Write as _;

const TWO_LISTENERS: &str =
    "listeners: { web: { address: 0.0.0.0:80 }, two: { address: 0.0.0.0:81 } }\n";

fn of_routes(first: &str, second: &str) -> Vec<String> {
    warnings(&format!(
        "{TWO_LISTENERS}pools: {{ app: {{ backends: [a:1] }} }}\nroutes:\n- {{ name: first, pool: app, {first} }}\n- {{ pool: app, {second} }}\n"
    ))
}

#[test]
fn a_route_behind_a_wider_one_is_a_warning() {
    let cases = [
        ("match: {}", "match: {}"),
        ("match: {}", "match: { host: a.b, headers: { x: '1' } }"),
        ("match: { host: a.b }", "match: { host: A.B, path: /x }"),
        ("match: { host: ['*.b', c.d] }", "match: { host: [x.a.b, '*.a.b', '*.b'] }"),
        ("match: { path_prefix: / }", "match: { path: /x }"),
        ("match: { path_prefix: /a }", "match: { path_prefix: /a/b/c }"),
        ("match: { path_prefix: /a/ }", "match: { path: /a/b }"),
        ("match: { path_prefix: /a }", "match: { path: /a }"),
        ("match: { path_regex: x }", "match: { path_regex: x, methods: [GET] }"),
        ("match: { methods: [GET, PUT] }", "match: { methods: [PUT] }"),
        ("listeners: [web, two]", "match: { path: /x }"),
        ("listeners: [web, two]", "listeners: [two]"),
    ];
    for (first, second) in cases {
        assert_eq!(
            of_routes(first, second),
            ["5:3: routes[1]: a route that never matches, as route \"first\" on line 4 matches \
              first; expected the narrower route first"],
            "{first} before {second}"
        );
    }
}

#[test]
fn a_route_that_can_match_is_no_warning() {
    let cases = [
        ("match: { host: a.b }", "match: {}"),
        ("match: { host: '*.b' }", "match: { host: b }"),
        ("match: { host: '*.b' }", "match: { host: [a.b, c.d] }"),
        ("match: { path_prefix: /a }", "match: { path_prefix: /ab }"),
        ("match: { path_prefix: /a/ }", "match: { path: /a }"),
        ("match: { path: /a }", "match: { path_prefix: /a }"),
        ("match: { path_prefix: / }", "match: {}"),
        ("match: { path_regex: x }", "match: { path: /x }"),
        ("match: { methods: [GET] }", "match: { methods: [GET, PUT] }"),
        ("match: { methods: [GET] }", "match: {}"),
        ("match: { headers: { x: '1' } }", "match: { headers: { x: '1' } }"),
        ("match: { query: { x: '1' } }", "match: { path: /a }"),
        ("listeners: [web]", "match: {}"),
        ("listeners: [web]", "listeners: [web, two]"),
    ];
    for (first, second) in cases {
        assert_eq!(of_routes(first, second), [""; 0], "{first} before {second}");
    }
}

#[test]
fn ten_thousand_routes_are_compared_quickly() {
    let mut text = format!("{TWO_LISTENERS}pools: {{ app: {{ backends: [a:1] }} }}\nroutes:\n");
    for number in 0..10_000 {
        writeln!(text, "- {{ match: {{ host: h{number}.example.com }}, pool: app }}").unwrap();
    }
    text.push_str("- { match: { host: h7.example.com, path: /x }, pool: app }\n");
    let started = std::time::Instant::now();
    assert_eq!(warnings(&text).len(), 1);
    assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn pools_with_nothing_to_do_or_to_offer_are_warnings() {
    let of_pools = |rest: &str| {
        warnings(&format!(
            "{TWO_LISTENERS}routes: [{{ pool: app }}]\npools:\n  app: {{ backends: [a:1] }}\n{rest}"
        ))
    };
    assert_eq!(of_pools(""), [""; 0]);
    assert_eq!(
        of_pools("  b: { backends: [{ address: b:1, backup: true, weight: 0 }] }\n"),
        [
            "5:3: pools.b: a pool that nothing uses; expected a route or a tcp listener that does",
            "5:3: pools.b: backups only; expected at least one backend that is not a backup",
            "5:3: pools.b: weights of 0 only; expected at least one backend with a weight above 0",
        ]
    );
}

#[test]
fn a_pool_without_an_active_backend_is_a_warning() {
    let of_states = |first: &str, second: &str| {
        warnings(&format!(
            "{TWO_LISTENERS}pools:\n  app:\n    backends:\n    - {{ address: a:1, state: {first} }}\n    \
             - {{ address: b:1, state: {second} }}\n"
        ))
    };
    for (first, second) in [("disabled", "disabled"), ("draining", "disabled")] {
        assert_eq!(
            of_states(first, second),
            ["3:3: pools.app: draining and disabled backends only; \
              expected at least one backend with state active"]
        );
    }
    assert_eq!(of_states("active", "disabled"), [""; 0]);
}

#[test]
fn settings_that_cannot_be_meant_are_warnings() {
    let of_pool = |rest: &str| {
        warnings(&format!("{TWO_LISTENERS}pools: {{ app: {{ backends: [a:1],\n  {rest} }} }}\n"))
    };
    assert_eq!(
        of_pool("ejection: { max_percent: 0% }"),
        [
            "3:28: pools.app.ejection.max_percent: 0%, which still lets one backend of two or more be \
          ejected; expected ejection: off for none, or a percentage above 0%"
        ]
    );
    assert_eq!(
        of_pool("retry: { budget: { percent: 0%, min_per_second: 0 } }"),
        ["3:12: pools.app.retry.budget: a budget of 0, which allows no retry; \
          expected a budget above 0, or attempts: 0 for no retries"]
    );
    for fine in [
        "retry: { budget: { percent: 0% } }",
        "sticky: { cookie: LB }",
        "ejection: { max_percent: 1% }",
    ] {
        assert_eq!(of_pool(fine), [""; 0], "{fine}");
    }
}

#[test]
fn a_network_with_bits_after_its_prefix_is_a_warning() {
    let text = format!(
        "{TWO_LISTENERS}pools: {{ app: {{ backends: [a:1] }} }}\ntrusted_proxies: [10.1.2.3/8, 10.1.2.3]\n"
    );
    assert_eq!(
        warnings(&text),
        ["3:19: trusted_proxies[0]: found \"10.1.2.3/8\"; \
          expected an address without bits after the prefix; it is read as 10.0.0.0/8"]
    );
}

#[test]
fn a_misspelt_preserve_is_a_warning() {
    let of_host = |host: &str| {
        let pool = format!("pools: {{ app: {{ backends: [a:1], host_header: {host} }} }}\n");
        warnings(&format!("{TWO_LISTENERS}{pool}"))
    };
    assert_eq!(
        of_host("preserv"),
        ["2:47: pools.app.host_header: host \"preserv\"; expected preserve, backend or a host; \
          did you mean \"preserve\"?"]
    );
    for host in ["preserve", "backend", "backend1", "app.internal", "reserve.example.com"] {
        assert_eq!(of_host(host), [""; 0], "{host}");
    }
}

const TCP: &str = "listeners: { web: { address: 0.0.0.0:80 }, pg: { address: 0.0.0.0:81, protocol: tcp, pool: pg } }\n";

#[test]
fn a_pool_of_a_tcp_listener_is_used() {
    let pools =
        "pools: { app: { backends: [a:1] }, pg: { backends: [b:1] } }\nroutes: [{ pool: app }]\n";
    assert_eq!(warnings(&format!("{TCP}{pools}")), [""; 0]);
}

#[test]
fn routes_without_an_http_listener_never_match() {
    let text = "listeners: { pg: { address: 0.0.0.0:81, protocol: tcp, pool: pg } }\n\
                pools: { pg: { backends: [b:1] } }\nroutes:\n- { pool: pg }\n";
    assert_eq!(
        warnings(text),
        ["4:3: routes[0]: a route that never matches, as no listener has protocol http; \
          expected a listener with protocol http"]
    );
}

#[test]
fn tcp_listeners_are_no_listeners_that_a_route_could_match() {
    let pools = "pools: { app: { backends: [a:1] }, pg: { backends: [b:1] } }\n";
    let routes =
        "routes:\n- { listeners: [web], pool: app }\n- { match: { path: /x }, pool: app }\n";
    let found = warnings(&format!("{TCP}{pools}{routes}"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("5:3: routes[1]: a route that never matches, as route"),
        "{found:?}"
    );
}

#[test]
fn a_check_by_grpc_where_grpc_is_not_spoken_is_a_warning() {
    let of_pool = |keys: &str| {
        let keys = format!("health_check: {{ grpc: {{}} }}{keys}");
        warnings(&format!("{LISTENERS}pools: {{ app: {{ backends: [a:1], {keys} }} }}\n"))
    };
    let expected = "2:50: pools.app.health_check.grpc: a check by gRPC in a pool that speaks HTTP/1.1 to its \
                    backends; expected protocol http2, or auto with tls";
    assert_eq!(of_pool(""), [expected]);
    for fine in [", protocol: http2", ", protocol: auto, tls: { verify: false }"] {
        assert_eq!(of_pool(fine), [""; 0], "{fine}");
    }
    let pools = "pools: { app: { backends: [a:1] }, pg: { backends: [b:1], health_check: { grpc: {} } } }\n";
    assert_eq!(warnings(&format!("{TCP}{pools}routes: [{{ pool: app }}]\n")), [""; 0]);
}

#[test]
fn keys_about_requests_in_a_pool_of_streams_are_warnings() {
    let of_pg = |keys: &str| {
        let pools = format!(
            "pools:\n  app: {{ backends: [a:1] }}\n  pg: {{ backends: [b:1],\n    {keys} }}\n"
        );
        warnings(&format!("{TCP}{pools}routes: [{{ pool: app }}]\n"))
    };
    for (key, place) in [
        ("host_header: backend", "5:18: pools.pg.host_header: \"host_header\""),
        ("protocol: http2", "5:15: pools.pg.protocol: \"protocol\""),
        ("reveal_backend: false", "5:21: pools.pg.reveal_backend: \"reveal_backend\""),
        ("timeouts: { connect: 1s, read: 1s }", "5:36: pools.pg.timeouts.read: \"read\""),
        ("timeouts: { write: 1s }", "5:24: pools.pg.timeouts.write: \"write\""),
        ("timeouts: { idle: 1s }", "5:23: pools.pg.timeouts.idle: \"idle\""),
    ] {
        assert_eq!(
            of_pg(key),
            [format!(
                "{place} in a pool that tcp listeners alone use, where it does nothing; \
                 expected a route that uses the pool"
            )],
            "{key}"
        );
    }
    assert_eq!(
        of_pg("retry: { on: [connect_failure, timeout, 503] }"),
        ["5:36: pools.pg.retry.on[1]", "5:45: pools.pg.retry.on[2]"].map(|place| format!(
            "{place}: a condition on an answer in a pool that tcp listeners alone use, where it never \
             holds; expected connect_failure or reset"
        ))
    );
    for fine in [
        "retry: { attempts: 1, on: [connect_failure, refused_stream, reset] }",
        "timeouts: { connect: 1s }",
        "balance: { policy: maglev, hash_on: client_ip }",
        "sticky: off",
        "limits: { connections_per_backend: 1, queue: 1 }",
        "health_check: { http: { path: /health, port: 8008 } }",
        "health_check: { http: { path: /health } }, protocol: http2",
    ] {
        assert_eq!(of_pg(fine), [""; 0], "{fine}");
    }
}

#[test]
fn a_time_for_a_header_that_nobody_reads_is_a_warning() {
    let of_listener = |keys: &str| {
        let listener = format!("{{ address: '[::]:80', protocol: tcp, pool: app,\n {keys} }}");
        warnings(&format!(
            "listeners: {{ pg: {listener} }}\npools: {{ app: {{ backends: [a:1] }} }}\n"
        ))
    };
    assert_eq!(
        of_listener("timeouts: { header: 1s }"),
        [
            "2:22: listeners.pg.timeouts.header: a time for what comes ahead of the stream, where nothing \
          is read of that; expected sni or proxy_protocol beside timeouts"
        ]
    );
    assert_eq!(
        of_listener("timeouts: { tls_handshake: 1s }"),
        [
            "2:29: listeners.pg.timeouts.tls_handshake: a time for the TLS handshake, where there is none; \
             expected tls beside timeouts"
        ]
    );
    assert_eq!(of_listener("timeouts: { header: 1s }, sni: { a.b: app }"), [""; 0]);
    assert_eq!(of_listener("timeouts: { header: 1s }, proxy_protocol: accept"), [""; 0]);
}

#[test]
fn a_route_for_methods_that_are_refused_is_a_warning() {
    let refused = "as CONNECT and TRACE are answered with 405; expected a method that is served";
    for methods in ["CONNECT", "TRACE", "TRACE, CONNECT"] {
        let told = of_routes(&format!("match: {{ methods: [{methods}] }}"), "match: {}");
        let expected = format!("4:3: routes[0]: a route that never matches, {refused}");
        assert_eq!(told, [expected], "{methods}");
    }
    let told = of_routes("match: { methods: [TRACE, GET] }", "match: {}");
    assert_eq!(told, [""; 0]);
}

#[test]
fn slow_start_that_nothing_heeds_is_a_warning() {
    let of = |balance: &str, more: &str| {
        warnings(&format!(
            "{TWO_LISTENERS}pools: {{ app: {{ backends: [a:1], balance: {balance}, {more} }} }}\n"
        ))
    };
    let heeded = "slow_start, which policies that hash heed with bounded_load only; expected \
                  bounded_load, or no slow_start";
    for balance in ["maglev", "ring_hash", "{ policy: maglev, hash_on: uri }"] {
        let told = of(balance, "slow_start: 30s");
        assert_eq!(told, [format!("2:10: pools.app: {heeded}")], "{balance}");
    }
    for (balance, more) in [
        ("maglev", "slow_start: 0s"),
        ("{ policy: maglev, bounded_load: 150% }", "slow_start: 30s"),
        // A request without it goes by another policy.
        ("{ policy: maglev, hash_on: { header: x-user } }", "slow_start: 30s"),
        ("p2c", "slow_start: 30s"),
    ] {
        assert_eq!(of(balance, more), [""; 0], "{balance} {more}");
    }
}

#[test]
fn keys_of_a_pool_that_do_nothing_are_warnings() {
    let of_pool = |backend: &str, rest: &str| {
        warnings(&format!(
            "{TWO_LISTENERS}pools: {{ app: {{ backends: [\"{backend}\"],\n  {rest} }} }}\n"
        ))
    };
    let nothing =
        "beside attempts: 0, with which nothing is tried again; expected attempts above 0";
    let unchecked = "with neither health_check nor ejection, so that every backend counts as usable; \
                     expected health_check or ejection that is not off";
    for (rest, key, said) in [
        (
            "limits: { queue_timeout: 1s }",
            "limits.queue_timeout",
            "where no request waits; expected queue above 0 beside it",
        ),
        ("retry: { attempts: 0, on: [reset] }", "retry.on", nothing),
        ("retry: { attempts: 0, backoff: { base: 1s } }", "retry.backoff", nothing),
        ("retry: { attempts: 0, budget: { percent: 1% } }", "retry.budget", nothing),
        ("health_check: off, ejection: off, panic_threshold: 5%", "panic_threshold", unchecked),
        ("health_check: off, ejection: off, slow_start: 5s", "slow_start", unchecked),
        (
            "resolve_interval: 1s",
            "resolve_interval",
            "where no backend is a host name; expected a host name as a backend",
        ),
    ] {
        let found = of_pool("127.0.0.1:1", rest);
        let last = key.rsplit('.').next().unwrap();
        let expected = format!("pools.app.{key}: \"{last}\" {said}");
        assert!(matches!(&found[..], [one] if one.ends_with(&expected)), "{rest}: {found:?}");
    }
    for fine in [
        "limits: { connections_per_backend: 1, queue: 1, queue_timeout: 1s }",
        "retry: { attempts: 0 }",
        "retry: { attempts: 0, per_try_timeout: 1s }",
        "retry: { on: [reset], backoff: { base: 1s } }",
        "health_check: off, panic_threshold: 5%, slow_start: 5s",
        "ejection: off, panic_threshold: 5%, slow_start: 5s",
        "health_check: off, ejection: off, panic_threshold: 0%, slow_start: 0s",
    ] {
        assert_eq!(of_pool("127.0.0.1:1", fine), [""; 0], "{fine}");
    }
    assert_eq!(of_pool("a.example:1", "resolve_interval: 1s"), [""; 0]);
    let with_admin = "admin: { address: 127.0.0.1:1 }\n\
                      pools: { app: { backends: [127.0.0.1:1], resolve_interval: 1s } }";
    assert_eq!(warnings(&format!("{TWO_LISTENERS}{with_admin}")), [""; 0]);
}

#[test]
fn keys_that_do_nothing_elsewhere_are_warnings() {
    let pools = "pools: { app: { backends: [a:1] } }\n";
    let web = "listeners: { web: { address: 0.0.0.0:80 } }\n";
    let listener = |keys: &str| {
        warnings(&format!("{pools}listeners: {{ web: {{ address: 0.0.0.0:80, {keys} }} }}"))
    };
    let route =
        |keys: &str| warnings(&format!("{pools}{web}routes: [{{ {keys} }}, {{ pool: app }}]"));
    let admin = |keys: &str| warnings(&format!("{pools}{web}admin: {{ {keys} }}"));
    let at_once = "on a route that answers at once; expected pool or split";
    for (found, key, said) in [
        (
            listener("timeouts: { tls_handshake: 1s }"),
            "listeners.web.timeouts.tls_handshake",
            "where there is no TLS; expected tls beside timeouts",
        ),
        (
            listener("limits: { h2_streams: 5 }"),
            "listeners.web.limits.h2_streams",
            "where no client can speak HTTP/2; expected h2c: true, or tls",
        ),
        (
            route("match: { path: /a }, redirect: { to: /x }, timeout: 1s"),
            "routes[0].timeout",
            at_once,
        ),
        (
            route("match: { path: /a }, respond: { status: 200 }, allow_upgrade: [x]"),
            "routes[0].allow_upgrade",
            at_once,
        ),
        (
            admin("address: \"unix:/a.sock\", hosts: [a.example]"),
            "admin.hosts",
            "on a unix socket, where every name is taken; expected no hosts, or an address with a port",
        ),
    ] {
        let last = key.rsplit('.').next().unwrap();
        let expected = format!("{key}: \"{last}\" {said}");
        assert!(matches!(&found[..], [one] if one.ends_with(&expected)), "{found:?}");
    }
    for fine in [
        listener("timeouts: { tls_handshake: 10s }, limits: { h2_streams: 100 }"),
        listener("h2c: true, limits: { h2_streams: 5 }"),
        route("match: { path: /a }, pool: app, timeout: 1s, allow_upgrade: []"),
        route(
            "match: { path: /a }, respond: { status: 200 }, timeout: 1s, filters: [cors: { origins: [\"*\"] }]",
        ),
        admin("address: \"unix:/a.sock\""),
        admin("address: 127.0.0.1:1, hosts: [a.example]"),
    ] {
        assert_eq!(fine, [""; 0]);
    }
}
