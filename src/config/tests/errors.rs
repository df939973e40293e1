use super::{LISTENERS, POOLS, config, errors, parse};
use crate::{config::load, filter::Registry, model::ProxyVersion};
use std::path::Path;

/// `rest` after the smallest listeners and pools, on lines 1 and 2.
fn with_both(rest: &str) -> String {
    errors(&format!("{LISTENERS}{POOLS}{rest}"))
}

fn check_all(cases: &[(&str, &str)], errors: impl Fn(&str) -> String) {
    for (text, expected) in cases {
        assert_eq!(errors(text), *expected, "{text}");
    }
}

#[test]
fn unknown_keys_are_errors_with_the_nearest_spelling() {
    check_all(
        &[
            (
                "servr: {}",
                "3:1: servr: unknown key \"servr\"; expected server, admin, access_log, trusted_proxies, \
                 listeners, routes or pools; did you mean \"server\"?",
            ),
            (
                "server: { bogus: 0s }",
                "3:11: server.bogus: unknown key \"bogus\"; expected threads, \
                 daemon, pid_file, upgrade_sock, error_log, user, group, drain_timeout, shutdown_delay, \
                 log_level or watch",
            ),
            (
                "access_log: { pth: stdout }",
                "3:15: access_log.pth: unknown key \"pth\"; expected path or format; \
                 did you mean \"path\"?",
            ),
            (
                "routes: [{ pool: app, filter: [] }]",
                "3:23: routes[0].filter: unknown key \"filter\"; expected name, listeners, match, \
                 filters, pool, split, redirect, respond, timeout or allow_upgrade; did you mean \"filters\"?",
            ),
            (
                "routes: [{ pool: app, match: { path-prefix: / } }]",
                "3:32: routes[0].match.path-prefix: unknown key \"path-prefix\"; expected host, \
                 path, path_prefix, path_regex, methods, headers or query; \
                 did you mean \"path_prefix\"?",
            ),
            // The value is a secret by its name; the key is none.
            (
                "admin: { address: 127.0.0.1:1, tokne: secret, tokens: secret }",
                "3:32: admin.tokne: unknown key \"tokne\"; expected address, token or hosts; \
                 did you mean \"token\"?\n\
                 3:47: admin.tokens: unknown key \"tokens\"; expected address, token or hosts; \
                 did you mean \"token\"?",
            ),
        ],
        with_both,
    );
}

#[test]
fn a_message_is_one_line_whatever_the_key() {
    assert!(with_both("\"a\\nb\": 1").starts_with("3:1: a\\nb: unknown key \"a\\nb\"; expected "));
}

#[test]
fn http2_in_clear_text_is_refused_inside_tls() {
    let text =
        format!("listeners: {{ web: {{ address: '[::]:80', h2c: true, tls: {{}} }} }}\n{POOLS}");
    let expected = "1:46: listeners.web.h2c: HTTP/2 in clear text on a listener that speaks TLS, where ALPN \
                    decides; expected h2 in tls.alpn, or a listener of its own without tls";
    let found = errors(&text);
    assert!(found.lines().any(|line| line == expected), "{found}");
    let found = errors(&text.replace("true", "false"));
    assert!(!found.contains("clear text"), "{found}");
}

#[test]
fn backends_choose_a_protocol_in_tls_only() {
    let text = format!("{LISTENERS}pools: {{ app: {{ backends: [a:1], protocol: auto }} }}\n");
    let expected = "2:44: pools.app.protocol: auto without tls, where backends cannot choose a protocol; \
                    expected http1 or http2, or tls beside it";
    assert_eq!(errors(&text), expected);
    for protocol in ["auto", "http2", "http1"] {
        let protocol = format!("{protocol}, tls: {{ verify: false }}");
        parse(&text.replace("auto", &protocol)).unwrap();
    }
}

#[test]
fn keys_of_features_that_do_not_work_yet_are_unknown() {
    let text = format!("listeners: {{ web: {{ address: '[::]:80', http2: x }} }}\n{POOLS}");
    let start = "1:41: listeners.web.http2: unknown key \"http2\"; expected address, ";
    assert!(errors(&text).starts_with(start), "{}", errors(&text));
    let text = format!("{LISTENERS}pools: {{ app: {{ backends: [a:1], http2: x }} }}\n");
    let start = "2:34: pools.app.http2: unknown key \"http2\"; expected backends, ";
    assert!(errors(&text).starts_with(start), "{}", errors(&text));
}

#[test]
fn wrong_types_are_errors() {
    check_all(
        &[
            (
                "server: { threads: [1] }",
                "3:11: server.threads: found a list; expected a whole number from 1 to 1024",
            ),
            (
                "server: { threads: {} }",
                "3:11: server.threads: found a map; expected a whole number from 1 to 1024",
            ),
            (
                "server: { threads: ~ }",
                "3:11: server.threads: found null; expected a whole number from 1 to 1024",
            ),
            (
                "server: { threads: four }",
                "3:20: server.threads: found \"four\"; expected a whole number from 1 to 1024",
            ),
            (
                "server: yes",
                "3:9: server: found \"yes\"; expected a map with threads, daemon, pid_file, \
                 upgrade_sock, error_log, user, group, drain_timeout, shutdown_delay, \
                 log_level or watch",
            ),
            (
                "server: { daemon: yes }",
                "3:19: server.daemon: found \"yes\"; expected true or false; did you mean \"true\"?",
            ),
            (
                "server:",
                "3:1: server: found null; expected a map with threads, daemon, pid_file, \
                 upgrade_sock, error_log, user, group, drain_timeout, shutdown_delay, \
                 log_level or watch",
            ),
            ("routes: {}", "3:1: routes: found a map; expected a list of routes"),
            (
                "routes: [app]",
                "3:10: routes[0]: found \"app\"; expected a map with name, listeners, match, filters, pool, \
                 split, redirect, respond, timeout or allow_upgrade",
            ),
            (
                "trusted_proxies: 10.0.0.0/8",
                "3:18: trusted_proxies: found \"10.0.0.0/8\"; \
                 expected a list of networks such as 10.0.0.0/8",
            ),
        ],
        with_both,
    );
}

#[test]
fn values_out_of_range_are_errors() {
    check_all(
        &[
            (
                "server: { threads: 0 }",
                "3:20: server.threads: found \"0\"; expected a whole number from 1 to 1024",
            ),
            (
                "server: { threads: 0x10 }",
                "3:20: server.threads: found \"0x10\"; expected a whole number from 1 to 1024",
            ),
            (
                "server: { drain_timeout: 30 }",
                "3:26: server.drain_timeout: found \"30\"; expected a duration such as 250ms, 5s, \
                 1m30s or 1h, with its unit; did you mean \"30s\"?",
            ),
            (
                "server: { log_level: warning }",
                "3:22: server.log_level: unknown log level \"warning\"; \
                 expected off, error, warn, info, debug or trace; did you mean \"warn\"?",
            ),
            (
                "server: { pid_file: '' }",
                "3:21: server.pid_file: found \"\"; expected the path of a file",
            ),
            (
                "server: { user: 'a b' }",
                "3:17: server.user: found \"a b\"; expected the name of a user",
            ),
            (
                "access_log: { path: stdout }\nserver: { daemon: true, error_log: e.log }",
                "3:1: access_log: found stdout, which a daemon with an error_log does not have; \
                 expected the path of a file",
            ),
            (
                "access_log: { format: jsn }",
                "3:23: access_log.format: unknown format \"jsn\"; expected json or combined; \
                 did you mean \"json\"?",
            ),
            (
                "trusted_proxies: [10.0.0.0/33]",
                "3:19: trusted_proxies[0]: found \"10.0.0.0/33\"; \
                 expected a network such as 10.0.0.0/8 or fd00::/8, or an IP address",
            ),
            (
                "routes: [{ pool: app, timeout: 0s }]",
                "3:32: routes[0].timeout: found \"0s\"; \
                 expected a duration above zero, such as 250ms or 5s",
            ),
            (
                "routes: [{ pool: app, allow_upgrade: websocket }]",
                "3:38: routes[0].allow_upgrade: found \"websocket\"; expected a list of protocols",
            ),
            (
                "routes: [{ pool: app, allow_upgrade: [\"web socket\"] }]",
                "3:39: routes[0].allow_upgrade[0]: found \"web socket\"; expected the name of a \
                 protocol, such as websocket or my-proto/1",
            ),
            (
                "routes: [{ pool: app, allow_upgrade: [H2C] }]",
                "3:39: routes[0].allow_upgrade[0]: h2c, which is never taken up by an upgrade; \
                 expected h2c: true on a listener, and clients that know of it beforehand",
            ),
            (
                "routes: [{ pool: app, allow_upgrade: [a/1, A/1] }]",
                "3:44: routes[0].allow_upgrade[1]: duplicate protocol \"a/1\"; \
                 expected each protocol once; the first, routes[0].allow_upgrade[0], is on line 3",
            ),
            (
                "routes: [{ name: 'a b', pool: app }]",
                "3:18: routes[0].name: found \"a b\"; expected a name of 1 to 128 visible ASCII \
                 characters without quotes, commas or backslashes",
            ),
        ],
        with_both,
    );
    let path = "x".repeat(120);
    assert_eq!(
        with_both(&format!("server: {{ upgrade_sock: {path} }}")),
        format!(
            "3:25: server.upgrade_sock: found \"{}...\"; \
             expected the path of a socket, at most 107 bytes with its folder",
            "x".repeat(60)
        )
    );
}

#[test]
fn listeners_are_checked() {
    let listeners = |text: &str| errors(&format!("{POOLS}listeners:\n{text}"));
    check_all(
        &[
            (
                "  web: {}",
                "3:3: listeners.web: missing key \"address\"; \
                 expected ip:port, [ipv6]:port or unix:/path",
            ),
            (
                "  web: { address: 8080 }",
                "3:19: listeners.web.address: found \"8080\"; expected ip:port, [ipv6]:port or \
                 unix:/path; did you mean \"0.0.0.0:8080\"?",
            ),
            (
                "  web: { address: 'localhost:80' }",
                "3:19: listeners.web.address: found \"localhost:80\"; expected ip:port, \
                 [ipv6]:port or unix:/path; did you mean \"127.0.0.1:80\"?",
            ),
            (
                "  web: { address: 'unix:' }",
                "3:19: listeners.web.address: found \"unix:\"; \
                 expected a socket path of 1 to 107 bytes",
            ),
            (
                "  web: { address: 0.0.0.0:80 }\n  two: { address: 0.0.0.0:80 }",
                "4:19: listeners.two.address: duplicate address \"0.0.0.0:80\"; \
                 expected each address once; the first, listeners.web.address, is on line 3",
            ),
            (
                "  web: { address: 0.0.0.0:80, protocol: udp }",
                "3:41: listeners.web.protocol: unknown protocol \"udp\"; expected http or tcp",
            ),
            (
                "  a b: { address: 0.0.0.0:80 }",
                "3:3: listeners.a b: found \"a b\"; expected a name of 1 to 128 visible ASCII \
                 characters without quotes, commas or backslashes",
            ),
            (
                "  web: { address: 0.0.0.0:80, timeouts: { header: 0s } }",
                "3:51: listeners.web.timeouts.header: found \"0s\"; \
                 expected a duration above zero, such as 250ms or 5s",
            ),
            (
                "  web: { address: 0.0.0.0:80, limits: { header_bytes: 1000 } }",
                "3:55: listeners.web.limits.header_bytes: found \"1000\"; \
                 expected a size from 1KiB to 1MiB",
            ),
            (
                "  web: { address: 0.0.0.0:80, limits: { header_bytes: 4k } }",
                "3:55: listeners.web.limits.header_bytes: found \"4k\"; expected a size such as \
                 512B, 64KiB, 10MiB or 1GiB; did you mean \"4KiB\"?",
            ),
            (
                "  web: { address: 0.0.0.0:80, limits: { header_bytes: 4KiB, uri_bytes: 5KiB } }",
                "3:72: listeners.web.limits.uri_bytes: found \"5KiB\"; \
                 expected a size from 64B to that of header_bytes, at most 65534B",
            ),
            (
                "  web: { address: 0.0.0.0:80, h2c: maybe, limits: { h2_streams: 0 } }",
                "3:36: listeners.web.h2c: found \"maybe\"; expected true or false\n\
                 3:65: listeners.web.limits.h2_streams: found \"0\"; \
                 expected a whole number from 1 to 1000",
            ),
        ],
        listeners,
    );
}

#[test]
fn the_admin_api_is_checked() {
    check_all(
        &[
            (
                "admin: {}",
                "3:1: admin: missing key \"address\"; \
                 expected ip:port, [ipv6]:port or unix:/path",
            ),
            (
                "admin: { address: 'localhost:9901' }",
                "3:19: admin.address: found \"localhost:9901\"; expected ip:port, [ipv6]:port or \
                 unix:/path; did you mean \"127.0.0.1:9901\"?",
            ),
            (
                "admin: { address: 0.0.0.0:9901 }",
                "3:19: admin.address: \"0.0.0.0:9901\", which other machines can reach, without a \
                 token; expected token beside it, or a loopback address such as 127.0.0.1:9901",
            ),
            (
                "admin: { address: '[::]:9901', hosts: [a] }",
                "3:19: admin.address: \"[::]:9901\", which other machines can reach, without a \
                 token; expected token beside it, or a loopback address such as 127.0.0.1:9901",
            ),
            (
                "admin: { address: 0.0.0.0:8080, token: x }",
                "3:19: admin.address: duplicate address \"0.0.0.0:8080\"; \
                 expected an address that no listener has; listener web has 0.0.0.0:8080",
            ),
            (
                "admin: { address: 127.0.0.1:9901, token: two words }",
                "3:42: admin.token: found one of 9 bytes; \
                 expected a token of 1 to 1024 visible ASCII characters",
            ),
            (
                "admin: { address: 127.0.0.1:9901, token: '' }",
                "3:42: admin.token: found one of 0 bytes; \
                 expected a token of 1 to 1024 visible ASCII characters",
            ),
            (
                "admin: { address: 127.0.0.1:9901, token: \"${UNSET}\" }",
                "3:42: admin.token: environment variable UNSET is not set; \
                 expected a value for it, or a default as in ${UNSET:-default}",
            ),
            (
                "admin: { address: 127.0.0.1:9901, hosts: ['a.example:80', 'http://b', ''] }",
                "3:43: admin.hosts[0]: found \"a.example:80\"; expected a host name such as \
                 lb.example.com or an IP address, without a port; did you mean \"a.example\"?\n\
                 3:59: admin.hosts[1]: found \"http://b\"; expected a host name such as \
                 lb.example.com or an IP address, without a port\n\
                 3:71: admin.hosts[2]: found \"\"; expected a host name such as \
                 lb.example.com or an IP address, without a port",
            ),
            (
                "admin: { address: 127.0.0.1:9901, tokn: x }",
                "3:35: admin.tokn: unknown key \"tokn\"; expected address, token or hosts; \
                 did you mean \"token\"?",
            ),
        ],
        with_both,
    );
}

#[test]
fn tcp_listeners_are_checked() {
    let listeners = |text: &str| {
        errors(&format!(
            "{POOLS}listeners:\n  pg: {{ address: 0.0.0.0:80, protocol: tcp,\n    {text} }}\n"
        ))
    };
    check_all(
        &[
            (
                "max_connections: 1",
                "3:3: listeners.pg: protocol tcp without a pool; \
                 expected pool, or sni with a pool for each name",
            ),
            (
                "pool: ap",
                "4:11: listeners.pg.pool: unknown pool \"ap\"; expected app; did you mean \"app\"?",
            ),
            (
                "sni: {}",
                "4:5: listeners.pg.sni: found an empty map; \
                 expected a map of at least one host name to the name of a pool",
            ),
            (
                "sni: [a.b]",
                "4:5: listeners.pg.sni: found a list; \
                 expected a map of at least one host name to the name of a pool",
            ),
            (
                "sni: { a.b: ap, a..b: app }",
                "4:17: listeners.pg.sni.a.b: unknown pool \"ap\"; expected app; \
                 did you mean \"app\"?\n\
                 4:21: listeners.pg.sni.a..b: found \"a..b\"; \
                 expected a host name such as example.com or *.example.com",
            ),
            (
                "sni: { 'a.b:443': app }",
                "4:12: listeners.pg.sni.a.b:443: found \"a.b:443\"; expected a host name such as \
                 example.com or *.example.com; did you mean \"a.b\"?",
            ),
            (
                "sni: { 10.0.0.1: app }",
                "4:12: listeners.pg.sni.10.0.0.1: found \"10.0.0.1\"; \
                 expected a host name, as clients send no address in its place",
            ),
            (
                "sni: { '*': app }",
                "4:12: listeners.pg.sni.*: found \"*\"; \
                 expected a host name; the key \"pool\" takes every other name",
            ),
            (
                "sni: { a.b: app,\n A.b: app }",
                "5:7: listeners.pg.sni.A.b: duplicate name \"a.b\"; \
                 expected each name once; the first, listeners.pg.sni.a.b, is on line 4",
            ),
            (
                "pool: app, idle_timeout: 0s",
                "4:30: listeners.pg.idle_timeout: found \"0s\"; \
                 expected a duration above zero, such as 250ms or 5s",
            ),
            (
                "pool: app, limits: { headers: 1 }",
                "4:16: listeners.pg.limits: \"limits\" beside protocol tcp, which knows no requests; \
                 expected protocol http",
            ),
            (
                "sni: { a.example: app }, tls: {}",
                "4:5: listeners.pg.sni: \"sni\" beside tls, after which there is no hello left to look \
                 at; expected pool, or no tls: it decrypts what sni passes on\n\
                 4:30: listeners.pg.tls: missing key \"certificates\"; \
                 expected a list of at least one certificate, each with cert and key",
            ),
            (
                "pool: app, tls: { certificates: [], alpn: ['', 'a b'] }",
                "4:23: listeners.pg.tls.certificates: found an empty list; \
                 expected a list of at least one certificate, each with cert and key\n\
                 4:48: listeners.pg.tls.alpn[0]: found \"\"; \
                 expected the registered name of a protocol, such as postgresql\n\
                 4:52: listeners.pg.tls.alpn[1]: found \"a b\"; \
                 expected the registered name of a protocol, such as postgresql",
            ),
            (
                "pool: app, h2c: true",
                "4:16: listeners.pg.h2c: \"h2c\" beside protocol tcp, which knows no requests; \
                 expected protocol http",
            ),
            (
                "pool: app, timeouts: { write: 1s, keepalive: 1s }",
                "4:28: listeners.pg.timeouts.write: \"write\" beside protocol tcp, which knows no \
                 requests; expected idle_timeout beside timeouts, or protocol http\n\
                 4:39: listeners.pg.timeouts.keepalive: \"keepalive\" beside protocol tcp, which \
                 knows no requests; expected idle_timeout beside timeouts, or protocol http",
            ),
        ],
        listeners,
    );
}

#[test]
fn where_a_header_may_come_from_is_checked() {
    let listener = |text: &str| {
        errors(&format!("{POOLS}listeners:\n  web: {{ address: 0.0.0.0:80,\n    {text} }}\n"))
    };
    check_all(
        &[
            (
                "proxy_protocol: requir",
                "4:21: listeners.web.proxy_protocol: unknown proxy_protocol \"requir\"; \
                 expected off, accept or require; did you mean \"require\"?",
            ),
            (
                "proxy_protocol: true",
                "4:21: listeners.web.proxy_protocol: unknown proxy_protocol \"true\"; \
                 expected off, accept or require",
            ),
            (
                "proxy_protocol: accept, proxy_protocol_from: 10.0.0.0/8",
                "4:50: listeners.web.proxy_protocol_from: found \"10.0.0.0/8\"; \
                 expected a list of networks such as 10.0.0.0/8",
            ),
            (
                "proxy_protocol: require, proxy_protocol_from: [ten]",
                "4:52: listeners.web.proxy_protocol_from[0]: found \"ten\"; \
                 expected a network such as 10.0.0.0/8 or fd00::/8, or an IP address",
            ),
            (
                "proxy_protocol_from: [10.0.0.0/8]",
                "4:5: listeners.web.proxy_protocol_from: networks that a PROXY header may come from \
                 where none is read; expected proxy_protocol accept or require beside them",
            ),
            (
                "proxy_protocol: off, proxy_protocol_from: [10.0.0.0/8]",
                "4:26: listeners.web.proxy_protocol_from: networks that a PROXY header may come from \
                 where none is read; expected proxy_protocol accept or require beside them",
            ),
        ],
        listener,
    );
    assert_eq!(
        errors(&format!(
            "{POOLS}listeners: {{ web: {{ address: 'unix:/tmp/lb.sock', proxy_protocol: require,\n \
             proxy_protocol_from: [10.0.0.0/8] }} }}\n"
        )),
        "3:2: listeners.web.proxy_protocol_from: networks that a PROXY header may come from on a unix \
         socket, whose clients have no addresses; \
         expected an empty list; the socket's file has permissions"
    );
    for fine in ["proxy_protocol: off, proxy_protocol_from: []", "proxy_protocol: false"] {
        let text = format!("{POOLS}listeners: {{ web: {{ address: 0.0.0.0:80, {fine} }} }}\n");
        assert!(parse(&text).unwrap().config.listeners[0].proxy_protocol.is_none(), "{fine}");
    }
}

#[test]
fn keys_of_tcp_listeners_on_http_listeners_are_errors() {
    for (text, key, column) in [
        ("pool: app", "pool", 41),
        ("sni: { a.b: app }", "sni", 41),
        ("idle_timeout: 1s", "idle_timeout", 41),
        ("protocol: http, pool: app", "pool", 57),
    ] {
        assert_eq!(
            errors(&format!("listeners: {{ web: {{ address: '[::]:80', {text} }} }}\n{POOLS}")),
            format!(
                "1:{column}: listeners.web.{key}: \"{key}\" beside protocol http, where routes say \
                 what goes where; expected protocol tcp"
            )
        );
    }
}

#[test]
fn the_header_for_backends_has_two_versions() {
    let of_pool = |value: &str| {
        format!("{LISTENERS}pools: {{ app: {{ backends: [a:1], proxy_protocol: {value} }} }}\n")
    };
    assert_eq!(
        errors(&of_pool("v3")),
        "2:50: pools.app.proxy_protocol: unknown proxy_protocol \"v3\"; expected off, v1 or v2; \
         did you mean \"v1\"?"
    );
    for (value, version) in [
        ("off", None),
        ("false", None),
        ("v1", Some(ProxyVersion::V1)),
        ("v2", Some(ProxyVersion::V2)),
    ] {
        let config = parse(&of_pool(value)).unwrap().config;
        assert_eq!(config.pools[0].proxy_protocol, version, "{value}");
    }
}

#[test]
fn routes_have_http_listeners_only() {
    let text = "listeners: { web: { address: 0.0.0.0:80 }, pg: { address: 0.0.0.0:81, protocol: tcp, \
                pool: app } }\npools: { app: { backends: [a:1] } }\nroutes:\n\
                - { listeners: [web, pg], pool: app }\n";
    assert_eq!(
        errors(text),
        "4:22: routes[0].listeners[1]: listener \"pg\" with protocol tcp, which knows no requests; \
         expected a listener with protocol http"
    );
}

#[test]
fn clients_of_tcp_listeners_have_no_cookies_and_no_requests() {
    let of_pool = |keys: &str| {
        errors(&format!(
            "listeners: {{ pg: {{ address: 0.0.0.0:81, protocol: tcp, pool: pg }} }}\n\
             pools: {{ pg: {{ backends: [a:1],\n {keys} }} }}\n"
        ))
    };
    check_all(
        &[
            (
                "sticky: { cookie: LB }",
                "3:2: pools.pg.sticky: \"sticky\" in a pool that tcp listeners alone use, whose \
                 clients send no cookies; expected a policy that hashes client_ip",
            ),
            (
                "balance: { policy: maglev, hash_on: path }",
                "3:38: pools.pg.balance.hash_on: a part of a request in a pool that tcp listeners \
                 alone use; expected client_ip",
            ),
            (
                "balance: { policy: maglev, hash_on: { header: x-user } }",
                "3:29: pools.pg.balance.hash_on: a part of a request in a pool that tcp listeners \
                 alone use; expected client_ip",
            ),
        ],
        of_pool,
    );
    // As soon as a route uses the pool as well, all of it makes sense.
    let both = "listeners: { web: { address: 0.0.0.0:80 }, pg: { address: 0.0.0.0:81, protocol: tcp, \
                pool: pg } }\npools: { pg: { backends: [a:1], sticky: { cookie: LB }, balance: { \
                policy: maglev, hash_on: path } } }\n";
    for routes in ["", "routes: [{ pool: pg }]", "routes: [{ split: { pg: 1 } }]"] {
        assert!(parse(&format!("{both}{routes}")).is_ok(), "{routes}");
    }
}

#[test]
fn without_an_http_listener_there_is_nothing_to_route() {
    let text = "listeners: { a: { address: 0.0.0.0:81, protocol: tcp, pool: a }, b: { address: \
                0.0.0.0:82, protocol: tcp, pool: b } }\n\
                pools: { a: { backends: [a:1] }, b: { backends: [b:1] } }\n";
    assert!(parse(text).unwrap().config.routes.is_empty());
    assert_eq!(
        errors("listeners: { a: { address: 0.0.0.0:81, protocol: tcp, pool: a } }\n"),
        "1:1: missing key \"pools\"; expected a map of at least one pool's name to its settings\n\
         1:61: listeners.a.pool: unknown pool \"a\"; \
         expected the name of a pool, of which there are none"
    );
}

#[test]
fn what_is_missing_is_an_error() {
    check_all(
        &[
            (
                "",
                "1:1: found null; expected a map with server, admin, access_log, trusted_proxies, \
                 listeners, routes or pools",
            ),
            (
                "{}",
                "1:1: missing key \"listeners\"; expected a map of at least one listener's name to \
                 its settings\n\
                 1:1: missing key \"pools\"; expected a map of at least one pool's name to its \
                 settings",
            ),
            (
                "listeners: {}\npools: {}",
                "1:1: listeners: found an empty map; expected a map of at least one listener's \
                 name to its settings\n\
                 2:1: pools: found an empty map; expected a map of at least one pool's name to its \
                 settings",
            ),
        ],
        errors,
    );
}

#[test]
fn routes_are_checked() {
    let routes = |text: &str| with_both(&format!("routes:\n- {text}"));
    check_all(
        &[
            (
                "pool: ap",
                "4:9: routes[0].pool: unknown pool \"ap\"; expected app; did you mean \"app\"?",
            ),
            (
                "{ pool: app, listeners: [wbe] }",
                "4:28: routes[0].listeners[0]: unknown listener \"wbe\"; expected web; \
                 did you mean \"web\"?",
            ),
            (
                "{ pool: app, listeners: [] }",
                "4:16: routes[0].listeners: found an empty list; \
                 expected a list of at least one listener's name",
            ),
            (
                "{ name: x }",
                "4:3: routes[0]: a route that does nothing; \
                 expected exactly one of pool, split, redirect or respond",
            ),
            (
                "{ pool: app, redirect: { to: / } }",
                "4:16: routes[0].redirect: \"redirect\" beside \"pool\"; \
                 expected only one of pool, split, redirect or respond",
            ),
            (
                "pool: app\n- { name: route-1, pool: app }",
                "5:11: routes[1].name: duplicate name \"route-1\"; \
                 expected each name once; the first, routes[0], is on line 4",
            ),
            (
                "split: { app: 0 }",
                "4:3: routes[0].split: shares of 0 only; expected at least one share above 0",
            ),
            (
                "split: { other: 1 }",
                "4:12: routes[0].split.other: unknown pool \"other\"; expected app",
            ),
            (
                "split: { app: -1 }",
                "4:17: routes[0].split.app: found \"-1\"; \
                 expected a whole number from 0 to 1000000",
            ),
        ],
        routes,
    );
}

#[test]
fn conditions_are_checked() {
    let matching = |text: &str| with_both(&format!("routes:\n- {{ pool: app, match: {text} }}"));
    check_all(
        &[
            (
                "{ host: 'a.example:80' }",
                "4:31: routes[0].match.host: found \"a.example:80\"; expected a host such as \
                 example.com or *.example.com, without scheme and port; did you mean \"a.example\"?",
            ),
            (
                "{ host: [] }",
                "4:25: routes[0].match.host: found an empty list; \
                 expected a host, or a list of at least one",
            ),
            (
                "{ host: ['*'] }",
                "4:32: routes[0].match.host[0]: found \"*\"; expected a host such as example.com \
                 or *.example.com, without scheme and port; leave host out to match every host",
            ),
            (
                "{ path: v1 }",
                "4:31: routes[0].match.path: found \"v1\"; \
                 expected a path that starts with /, without ? and #; did you mean \"/v1\"?",
            ),
            (
                "{ path: /a, path_prefix: /b }",
                "4:35: routes[0].match.path_prefix: \"path_prefix\" beside \"path\"; \
                 expected only one of path, path_prefix or path_regex",
            ),
            (
                "{ path_regex: '^/(a' }",
                "4:37: routes[0].match.path_regex: found \"^/(a\": unclosed group; \
                 expected a regular expression",
            ),
            (
                "{ methods: [get] }",
                "4:35: routes[0].match.methods[0]: unknown method \"get\"; \
                 expected an HTTP method in upper case, such as GET; did you mean \"GET\"?",
            ),
            (
                "{ headers: { 'a b': x } }",
                "4:36: routes[0].match.headers.a b: found \"a b\"; \
                 expected a header name such as x-request-id",
            ),
            (
                "{ headers: { X-A: '1', x-a: '2' } }",
                "4:51: routes[0].match.headers.x-a: duplicate header \"x-a\"; \
                 expected each header once; the first, routes[0].match.headers.X-A, is on line 4",
            ),
            (
                "{ headers: { x-a: {} } }",
                "4:36: routes[0].match.headers.x-a: found neither regex nor present; \
                 expected a text, or a map with regex or present",
            ),
            (
                "{ query: { a: { present: maybe } } }",
                "4:48: routes[0].match.query.a.present: found \"maybe\"; expected true or false",
            ),
            (
                "{ query: { a: ~ } }",
                "4:34: routes[0].match.query.a: found null; \
                 expected a text, or a map with regex or present",
            ),
        ],
        matching,
    );
}

#[test]
fn answers_are_checked() {
    let routes = |text: &str| with_both(&format!("routes:\n- {text}"));
    check_all(
        &[
            (
                "redirect: {}",
                "4:3: routes[0].redirect: missing key \"to\"; \
                 expected a URL or a path, in which ${path} and the like may stand",
            ),
            (
                "redirect: { to: 'https://a${pth}' }",
                "4:19: routes[0].redirect.to: unknown request variable \"pth\"; expected \
                 client_ip, host, path, query, path_and_query, method, scheme, request_id, \
                 listener or route; did you mean \"path\"?",
            ),
            (
                "redirect: { to: /x, status: 200 }",
                "4:31: routes[0].redirect.status: found \"200\"; \
                 expected 301, 302, 303, 307 or 308",
            ),
            (
                "respond: { body: x }",
                "4:3: routes[0].respond: missing key \"status\"; expected a status from 200 to 599",
            ),
            (
                "respond: { status: 99 }",
                "4:22: routes[0].respond.status: found \"99\"; expected a status from 200 to 599",
            ),
            (
                "respond: { status: 204, body: x }",
                "4:33: routes[0].respond.body: a body with status 204; \
                 expected no body, which this status forbids",
            ),
            (
                "respond: { status: 200, headers: { Content-Length: 1 } }",
                "4:38: routes[0].respond.headers.Content-Length: header \"content-length\"; \
                 expected no header that frames the message; those are set for you",
            ),
            (
                "respond: { status: 200, headers: { x: \"a\\nb\" } }",
                "4:41: routes[0].respond.headers.x: found \"a\\nb\"; \
                 expected a header value of visible characters, without line breaks",
            ),
            (
                "respond: { status: 200, body: '${client_ip}' }",
                "4:33: routes[0].respond.body: request variable ${client_ip}; expected request \
                 variables in redirect.to, request_headers and response_headers only; environment \
                 variables are in upper case",
            ),
        ],
        routes,
    );
}

#[test]
fn pools_are_checked() {
    let pools = |text: &str| errors(&format!("{LISTENERS}pools:\n  app: {text}"));
    check_all(
        &[
            (
                "{}",
                "3:3: pools.app: missing key \"backends\"; expected a list of at least one backend",
            ),
            (
                "{ backends: [] }",
                "3:10: pools.app.backends: found an empty list; \
                 expected a list of at least one backend",
            ),
            (
                "{ backends: [a:1], balance: roundrobbin }",
                "3:36: pools.app.balance: unknown policy \"roundrobbin\"; expected round_robin, \
                 random, least_connections, p2c, peak_ewma, ring_hash or maglev; \
                 did you mean \"round_robin\"?",
            ),
            (
                "{ backends: [a:1], host_header: 'a b' }",
                "3:40: pools.app.host_header: found \"a b\"; expected preserve, backend, or a host \
                 or host:port, such as app.internal or [::1]:8080",
            ),
            (
                "{ backends: [a:1], panic_threshold: 50 }",
                "3:44: pools.app.panic_threshold: found \"50\"; \
                 expected a percentage from 0% to 100%; did you mean \"50%\"?",
            ),
            (
                "{ backends: [a:1], slow_start: off }",
                "3:39: pools.app.slow_start: found \"off\"; \
                 expected a duration such as 250ms, 5s, 1m30s or 1h",
            ),
            (
                "{ backends: [a:1], timeouts: { connect: 0s } }",
                "3:48: pools.app.timeouts.connect: found \"0s\"; \
                 expected a duration above zero, such as 250ms or 5s",
            ),
            (
                "{ backends: [a:1], resolve_interval: 0s }",
                "3:45: pools.app.resolve_interval: found \"0s\"; \
                 expected a duration above zero, such as 250ms or 5s",
            ),
            (
                "{ backends: [a:1] }\n  b: { backends: [a:1] }",
                "2:1: pools: 2 pools and no routes; \
                 expected routes that say which pool gets which requests",
            ),
        ],
        pools,
    );
}

/// The errors of a pool with `rest` beside its backends on line 3.
fn with_pool(rest: &str) -> String {
    errors(&format!("{LISTENERS}pools: {{ app: {{ backends: [a:1],\n  {rest} }} }}"))
}

#[test]
fn balance_is_checked() {
    check_all(
        &[
            (
                "balance: {}",
                "3:3: pools.app.balance: missing key \"policy\"; expected the name of a policy",
            ),
            (
                "balance: { policy: maglv, hash_on: path }",
                "3:22: pools.app.balance.policy: unknown policy \"maglv\"; expected round_robin, \
                 random, least_connections, p2c, peak_ewma, ring_hash or maglev; \
                 did you mean \"maglev\"?",
            ),
            (
                "balance: { policy: p2c, hash_on: path, bounded_load: 150% }",
                "3:27: pools.app.balance.hash_on: \"hash_on\" beside policy p2c, which hashes \
                 nothing; expected policy ring_hash or maglev\n\
                 3:42: pools.app.balance.bounded_load: \"bounded_load\" beside policy p2c, which \
                 hashes nothing; expected policy ring_hash or maglev",
            ),
            (
                "balance: { policy: maglev, hash_on: client-ip }",
                "3:39: pools.app.balance.hash_on: found \"client-ip\"; expected client_ip, path, \
                 uri, or a map with header, cookie or query; did you mean \"client_ip\"?",
            ),
            (
                "balance: { policy: maglev, hash_on: header }",
                "3:39: pools.app.balance.hash_on: found \"header\"; expected client_ip, path, \
                 uri, or a map with header, cookie or query",
            ),
            (
                "balance: { policy: maglev, hash_on: {} }",
                "3:30: pools.app.balance.hash_on: found none of header, cookie and query; \
                 expected client_ip, path, uri, or a map with header, cookie or query",
            ),
            (
                "balance: { policy: maglev, hash_on: { header: a, cookie: b } }",
                "3:52: pools.app.balance.hash_on.cookie: \"cookie\" beside \"header\"; \
                 expected only one of header, cookie or query",
            ),
            (
                "balance: { policy: maglev, hash_on: { header: 'a b' } }",
                "3:49: pools.app.balance.hash_on.header: found \"a b\"; \
                 expected a header name such as x-request-id",
            ),
            (
                "balance: { policy: maglev, hash_on: { cookie: a=b } }",
                "3:49: pools.app.balance.hash_on.cookie: found \"a=b\"; \
                 expected the name of a cookie, such as LB_BACKEND",
            ),
            (
                "balance: { policy: maglev, hash_on: { query: '' } }",
                "3:48: pools.app.balance.hash_on.query: found \"\"; \
                 expected the name of a query parameter",
            ),
            (
                "balance: { policy: maglev, bounded_load: 150 }",
                "3:44: pools.app.balance.bounded_load: found \"150\"; expected off, or a \
                 percentage from 101% to 10000%; did you mean \"150%\"?",
            ),
            (
                "balance: { policy: maglev, bounded_load: 100% }",
                "3:44: pools.app.balance.bounded_load: found \"100%\"; expected off, or a \
                 percentage from 101% to 10000%",
            ),
        ],
        with_pool,
    );
}

#[test]
fn sticky_is_checked() {
    check_all(
        &[
            (
                "sticky: on",
                "3:11: pools.app.sticky: found \"on\"; \
                 expected off, or a map with cookie, ttl, path, secure, same_site or secret",
            ),
            (
                "sticky: {}",
                "3:3: pools.app.sticky: missing key \"cookie\"; \
                 expected the name of a cookie, such as LB_BACKEND",
            ),
            (
                "sticky: { cookie: 'a b' }",
                "3:21: pools.app.sticky.cookie: found \"a b\"; \
                 expected the name of a cookie, such as LB_BACKEND",
            ),
            (
                "sticky: { cookie: a, ttl: 500ms }",
                "3:29: pools.app.sticky.ttl: found \"500ms\"; \
                 expected a duration of at least 1s",
            ),
            (
                "sticky: { cookie: a, path: app }",
                "3:30: pools.app.sticky.path: found \"app\"; expected a path that starts with /, \
                 without spaces and semicolons; did you mean \"/app\"?",
            ),
            (
                "sticky: { cookie: a, path: '/; Domain=b' }",
                "3:30: pools.app.sticky.path: found \"/; Domain=b\"; expected a path that starts \
                 with /, without spaces and semicolons",
            ),
            (
                "sticky: { cookie: a, secure: always }",
                "3:32: pools.app.sticky.secure: found \"always\"; expected auto, true or false",
            ),
            (
                "sticky: { cookie: a, same_site: Lax }",
                "3:35: pools.app.sticky.same_site: unknown same_site \"Lax\"; \
                 expected lax, strict or none; did you mean \"lax\"?",
            ),
            (
                "sticky: { cookie: a, secure: off, same_site: none }",
                "3:48: pools.app.sticky.same_site: same_site none beside secure false, which \
                 browsers refuse; expected secure auto or true, or same_site lax",
            ),
            (
                "sticky: { cookie: a, secret: too-short-secre }",
                "3:32: pools.app.sticky.secret: found one of 15 bytes; \
                 expected a secret of at least 16 bytes",
            ),
        ],
        with_pool,
    );
}

#[test]
fn ejection_is_checked() {
    check_all(
        &[
            (
                "ejection: on",
                "3:13: pools.app.ejection: found \"on\"; expected off, or a map with \
                 consecutive_failures, base_time, max_time or max_percent",
            ),
            (
                "ejection: { consecutive_failures: 0 }",
                "3:37: pools.app.ejection.consecutive_failures: found \"0\"; \
                 expected a whole number from 1 to 1000",
            ),
            (
                "ejection: { base_time: 0s }",
                "3:26: pools.app.ejection.base_time: found \"0s\"; \
                 expected a duration above zero, such as 250ms or 5s",
            ),
            (
                "ejection: { max_time: 10s }",
                "3:25: pools.app.ejection.max_time: found \"10s\"; \
                 expected a duration of at least that of base_time, 30s",
            ),
            // A wrong base_time is one mistake, whatever max_time is.
            (
                "ejection: { base_time: 5, max_time: 10s }",
                "3:26: pools.app.ejection.base_time: found \"5\"; expected a duration such as \
                 250ms, 5s, 1m30s or 1h, with its unit; did you mean \"5s\"?",
            ),
            (
                "ejection: { max_percent: 101% }",
                "3:28: pools.app.ejection.max_percent: found \"101%\"; \
                 expected a percentage from 0% to 100%",
            ),
        ],
        with_pool,
    );
}

#[test]
fn retries_are_checked() {
    check_all(
        &[
            (
                "retry: off",
                "3:10: pools.app.retry: found \"off\"; \
                 expected a map with attempts, on, backoff, budget or per_try_timeout",
            ),
            (
                "retry: { attempts: 11 }",
                "3:22: pools.app.retry.attempts: found \"11\"; \
                 expected a whole number from 0 to 10",
            ),
            (
                "retry: { on: [] }",
                "3:12: pools.app.retry.on: found an empty list; \
                 expected a list of at least one condition, or attempts: 0 for no retries",
            ),
            (
                "retry: { on: reset }",
                "3:16: pools.app.retry.on: found \"reset\"; \
                 expected a list of at least one condition, or attempts: 0 for no retries",
            ),
            (
                "retry: { on: [timeouts, 500] }",
                "3:17: pools.app.retry.on[0]: unknown condition \"timeouts\"; expected \
                 connect_failure, refused_stream, reset, timeout, 502, 503 or 504; \
                 did you mean \"timeout\"?\n\
                 3:27: pools.app.retry.on[1]: unknown condition \"500\"; expected \
                 connect_failure, refused_stream, reset, timeout, 502, 503 or 504; \
                 did you mean \"502\"?",
            ),
            (
                "retry: { on: [503, \"503\"] }",
                "3:22: pools.app.retry.on[1]: duplicate condition \"503\"; expected each \
                 condition once; the first, pools.app.retry.on[0], is on line 3",
            ),
            (
                "retry: { backoff: { base: 200ms, max: 100ms } }",
                "3:41: pools.app.retry.backoff.max: found \"100ms\"; \
                 expected a duration of at least that of base, 200ms",
            ),
            (
                "retry: { budget: { percent: 20 } }",
                "3:31: pools.app.retry.budget.percent: found \"20\"; \
                 expected a percentage from 0% to 100%; did you mean \"20%\"?",
            ),
            (
                "retry: { budget: { min_per_second: 100001 } }",
                "3:38: pools.app.retry.budget.min_per_second: found \"100001\"; \
                 expected a whole number from 0 to 100000",
            ),
            (
                "retry: { per_try_timeout: 0s }",
                "3:29: pools.app.retry.per_try_timeout: found \"0s\"; \
                 expected a duration above zero, such as 250ms or 5s",
            ),
        ],
        with_pool,
    );
}

#[test]
fn limits_are_checked() {
    check_all(
        &[
            (
                "protocol: htpp2",
                "3:13: pools.app.protocol: unknown protocol \"htpp2\"; expected http1, http2 or auto; \
                 did you mean \"http2\"?",
            ),
            (
                "limits: { connections_per_backend: none }",
                "3:38: pools.app.limits.connections_per_backend: found \"none\"; \
                 expected a whole number from 0 to 1000000000",
            ),
            (
                "limits: { connections_per_backend: 1, queue: 1000001 }",
                "3:48: pools.app.limits.queue: found \"1000001\"; \
                 expected a whole number from 0 to 1000000",
            ),
            (
                "limits: { queue: 10 }",
                "3:20: pools.app.limits.queue: a queue where no request ever waits, as backends \
                 have no limit; expected connections_per_backend above 0 beside it, or queue: 0",
            ),
            (
                "limits: { queue_timeout: 0s }",
                "3:28: pools.app.limits.queue_timeout: found \"0s\"; \
                 expected a duration above zero, such as 250ms or 5s",
            ),
        ],
        with_pool,
    );
}

#[test]
fn backends_are_checked() {
    let backends =
        |text: &str| errors(&format!("{LISTENERS}pools:\n  app:\n    backends:\n    - {text}"));
    check_all(
        &[
            (
                "9001",
                "5:7: pools.app.backends[0]: found \"9001\"; expected an address (ip:port, \
                 [ipv6]:port, host:port or unix:/path) or a map with one",
            ),
            (
                "http://127.0.0.1:9001/",
                "5:7: pools.app.backends[0]: found \"http://127.0.0.1:9001/\"; expected an address \
                 (ip:port, [ipv6]:port, host:port or unix:/path) or a map with one; \
                 did you mean \"127.0.0.1:9001\"?",
            ),
            ("a:0", "5:7: pools.app.backends[0]: found \"a:0\"; expected a port from 1 to 65535"),
            (
                "{ name: a }",
                "5:7: pools.app.backends[0]: missing key \"address\"; \
                 expected ip:port, [ipv6]:port, host:port or unix:/path",
            ),
            (
                "{ address: a:1, weight: 65536 }",
                "5:31: pools.app.backends[0].weight: found \"65536\"; \
                 expected a whole number from 0 to 65535",
            ),
            (
                "{ address: a:1, state: drain }",
                "5:30: pools.app.backends[0].state: unknown state \"drain\"; \
                 expected active, draining or disabled; did you mean \"draining\"?",
            ),
            (
                "a:1\n    - { address: A:1, name: b }",
                "6:18: pools.app.backends[1].address: duplicate address \"a:1\"; expected each \
                 address once; the first, pools.app.backends[0], is on line 5",
            ),
            (
                "{ address: a:1, name: x }\n    - { address: a:2, name: x }",
                "6:29: pools.app.backends[1].name: duplicate name \"x\"; expected each name once; \
                 the first, pools.app.backends[0].name, is on line 5",
            ),
            (
                "'unix:/a b'",
                "5:7: pools.app.backends[0]: an address that cannot serve as the backend's name; \
                 expected a key \"name\" beside it with a name of 1 to 128 visible ASCII \
                 characters without quotes, commas or backslashes",
            ),
        ],
        backends,
    );
}

#[test]
fn health_checks_are_checked() {
    let check = |text: &str| {
        errors(&format!(
            "{LISTENERS}pools: {{ app: {{ backends: [a:1],\n  health_check: {text} }} }}"
        ))
    };
    check_all(
        &[
            (
                "on",
                "3:17: pools.app.health_check: found \"on\"; expected off, or a map with http, \
                 tcp, grpc, interval, timeout, rise, fall or jitter",
            ),
            (
                "{ http: {}, tcp: {} }",
                "3:29: pools.app.health_check.tcp: \"tcp\" beside \"http\"; \
                 expected only one of http, tcp or grpc",
            ),
            ("{ tcp: }", "3:19: pools.app.health_check.tcp: found null; expected an empty map, {}"),
            (
                "{ grpc: { name: a } }",
                "3:27: pools.app.health_check.grpc.name: unknown key \"name\"; expected service",
            ),
            (
                "{ tcp: { port: 1 } }",
                "3:26: pools.app.health_check.tcp.port: unknown key \"port\"; expected no key here",
            ),
            (
                "{ rise: 0 }",
                "3:25: pools.app.health_check.rise: found \"0\"; \
                 expected a whole number from 1 to 1000",
            ),
            (
                "{ jitter: 10 }",
                "3:27: pools.app.health_check.jitter: found \"10\"; \
                 expected a percentage from 0% to 100%; did you mean \"10%\"?",
            ),
            (
                "{ http: { path: health } }",
                "3:33: pools.app.health_check.http.path: found \"health\"; expected a path that \
                 starts with /, without spaces and without #; did you mean \"/health\"?",
            ),
            (
                "{ http: { expect_status: [200-2999] } }",
                "3:43: pools.app.health_check.http.expect_status[0]: found \"200-2999\"; expected \
                 a status or a range of them from 100 to 599, such as 204 or \"200-299\"",
            ),
            (
                "{ http: { expect_status: [299-200] } }",
                "3:43: pools.app.health_check.http.expect_status[0]: found \"299-200\"; expected \
                 a status or a range of them from 100 to 599, such as 204 or \"200-299\"; \
                 did you mean \"200-299\"?",
            ),
            (
                "{ http: { headers: { Host: a } } }",
                "3:38: pools.app.health_check.http.headers.Host: header \"host\"; \
                 expected the key \"host\" beside headers",
            ),
            (
                "{ http: { expect_body: '' } }",
                "3:40: pools.app.health_check.http.expect_body: found \"\"; \
                 expected a text that the body must contain",
            ),
            (
                "{ http: { port: 0 } }",
                "3:33: pools.app.health_check.http.port: found \"0\"; \
                 expected a whole number from 1 to 65535",
            ),
        ],
        check,
    );
}

#[test]
fn unset_variables_are_errors_wherever_they_stand() {
    let said = "environment variable NONE is not set; \
                expected a value for it, or a default as in ${NONE:-default}";
    check_all(
        &[
            ("server: { threads: \"${NONE}\" }", &format!("3:20: server.threads: {said}")),
            ("access_log: \"${NONE}\"", &format!("3:13: access_log: {said}")),
        ],
        with_both,
    );
}

#[test]
fn syntax_errors_stand_alone() {
    assert_eq!(
        with_both("servr: {}\nserver: {}\nserver: {}"),
        "5:1: duplicate key \"server\"; expected each key once"
    );
    assert_eq!(errors("a: 1\n---\nb: 2\n"), "3:1: a second document; expected one YAML document");
    assert_eq!(
        errors("a: [1\nb: 2"),
        "2:2: illegal placement of ':' indicator; expected valid YAML"
    );
}

#[test]
fn one_run_reports_every_error_in_file_order() {
    let text = "\
server: { threads: 0 }
listeners:
  web: { adress: 0.0.0.0:8080 }
routes:
  - pool: api
  - match: { methods: [get], path: x }
    pool: app
pools:
  app:
    backends: [9001, 127.0.0.1:9002]
    balance: roundrobin
  api2: { backends: [] }
";
    let lines = errors(text);
    let places: Vec<&str> =
        lines.lines().map(|line| line.splitn(3, ": ").take(2).last().unwrap()).collect();
    assert_eq!(
        places,
        [
            "server.threads",
            "listeners.web",
            "listeners.web.adress",
            "routes[0].pool",
            "routes[1].match.methods[0]",
            "routes[1].match.path",
            "pools.app.backends[0]",
            "pools.app.balance",
            "pools.api2.backends",
        ]
    );
}

#[test]
fn an_unreadable_file_is_an_error_about_the_file() {
    let missing = load(Path::new("no/such/lb.yaml"), &Registry::default()).unwrap_err();
    assert_eq!(
        missing.to_string(),
        "no/such/lb.yaml: cannot read the file: No such file or directory (os error 2); \
         expected a readable YAML file"
    );
    assert_eq!(missing.diagnostics()[0].position, None);

    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("binary.yaml");
    std::fs::write(&binary, b"a: b\nc: \xff\xfe").unwrap();
    let error = load(&binary, &Registry::default()).unwrap_err().to_string();
    assert!(
        error.ends_with("binary.yaml:2:4: a byte that is not UTF-8; expected text in UTF-8"),
        "{error}"
    );
}

#[test]
fn diagnostics_say_the_file_line_and_column() {
    let errors = parse("listeners: 1\npools: { app: { backends: [a:1] } }").unwrap_err();
    let first = &errors.diagnostics()[0];
    let position = first.position.unwrap();
    assert_eq!((first.file.as_str(), first.path.as_str()), ("lb.yaml", "listeners"));
    assert_eq!((position.line, position.column), (1, 12));
}

#[test]
fn listeners_that_cannot_be_bound_beside_each_other_are_refused() {
    let of = |rest: &str| errors(&format!("{rest}\n{POOLS}"));
    for (text, expected) in [
        (
            "listeners: { web: { address: 0.0.0.0:80 },\n two: { address: 127.0.0.1:80 } }",
            "2:18: listeners.two.address: duplicate address \"127.0.0.1:80\"; expected each address \
             once; the first, listeners.web.address with 0.0.0.0:80, is on line 1",
        ),
        (
            "listeners: { web: { address: \"[::1]:80\" },\n two: { address: \"[::]:80\" } }",
            "2:18: listeners.two.address: duplicate address \"[::]:80\"; expected each address \
             once; the first, listeners.web.address with [::1]:80, is on line 1",
        ),
        (
            "listeners: { web: { address: \"unix:a.sock\" },\n two: { address: \"unix:./a.sock\" } }",
            "2:18: listeners.two.address: duplicate address \"unix:/etc/lb/a.sock\"; expected each \
             address once; the first, listeners.web.address, is on line 1",
        ),
        (
            "listeners: { web: { address: 0.0.0.0:80 } }\nadmin: { address: 127.0.0.1:80 }",
            "2:19: admin.address: duplicate address \"127.0.0.1:80\"; expected an address that no \
             listener has; listener web has 0.0.0.0:80",
        ),
        (
            "listeners: { web: { address: 0.0.0.0:80, protocol: https } }",
            "1:52: listeners.web.protocol: unknown protocol \"https\"; expected http, with tls beside \
             it for https, or tcp",
        ),
    ] {
        assert_eq!(of(text), expected, "{text}");
    }
    config(&format!(
        "listeners: {{ a: {{ address: 0.0.0.0:80 }}, b: {{ address: \"[::]:80\" }}, \
         c: {{ address: 127.0.0.1:0 }}, d: {{ address: 0.0.0.0:0 }} }}\n{POOLS}"
    ));
}

#[test]
fn files_of_the_process_have_paths_of_their_own() {
    for (text, expected) in [
        (
            "server: { pid_file: /a/b, upgrade_sock: /a/./b }",
            "3:41: server.upgrade_sock: duplicate path \"/a/b\"; expected another than that of pid_file",
        ),
        (
            "server: { pid_file: x.log }\naccess_log: { path: ./x.log }",
            "4:21: access_log.path: duplicate path \"/etc/lb/x.log\"; expected another than that of \
             pid_file",
        ),
        (
            "server: { upgrade_sock: /a, error_log: /a }",
            "3:40: server.error_log: duplicate path \"/a\"; expected another than that of upgrade_sock",
        ),
    ] {
        assert_eq!(errors(&format!("{LISTENERS}{POOLS}{text}")), expected, "{text}");
    }
    let null = "server: { error_log: /dev/null }\naccess_log: { path: /dev/null }";
    config(&format!("{LISTENERS}{POOLS}{null}"));
}

#[test]
fn a_socket_has_no_port_to_check_on() {
    let of = |backends: &str| {
        format!(
            "{LISTENERS}pools: {{ app: {{ backends: [{backends}],\n \
             health_check: {{ http: {{ port: 81 }} }} }} }}"
        )
    };
    assert_eq!(
        errors(&of("\"unix:/r\", \"unix:/s\"")),
        "3:26: pools.app.health_check.http.port: a port where every backend is a unix socket, which \
         has none; expected no port, or a backend with one"
    );
    config(&of("a:1"));
    // The socket is checked itself, as one that is added at run time is.
    config(&of("a:1, \"unix:/s\""));
}

#[test]
fn words_of_others_are_understood() {
    for (text, expected) in [
        ("balance: leastconn", "did you mean \"least_connections\"?"),
        ("protocol: https", "expected http1, http2 or auto, with tls beside it"),
        ("protocol: h2", "did you mean \"http2\"?"),
    ] {
        let text = format!("{LISTENERS}pools: {{ app: {{ backends: [a:1], {text} }} }}");
        assert!(errors(&text).ends_with(expected), "{}", errors(&text));
    }
    let level = format!("{LISTENERS}{POOLS}server: {{ log_level: warning }}");
    assert!(errors(&level).ends_with("did you mean \"warn\"?"), "{}", errors(&level));
    let tls = "listeners: { web: { address: 0.0.0.0:1, tls: { certs: [] } } }\n";
    let found = errors(&format!("{tls}{POOLS}"));
    assert!(found.contains("did you mean \"certificates\"?"), "{found}");
    let filter = format!(
        "{LISTENERS}{POOLS}routes: [{{ pool: app, filters: [compress: {{ algorithms: [brotli] }}] }}]"
    );
    assert!(errors(&filter).ends_with("did you mean \"br\"?"), "{}", errors(&filter));
}
