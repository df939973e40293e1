//! The file, and the sections that are about the process and its listeners.

use super::{
    kinds::{
        any_of, count, duration, integer, key, list_of, map_of, matching, section, size, switch,
        text, words,
    },
    pools, routes,
};
use crate::{
    config::{access_log, admin, document, listener, server, tls},
    filter::Registry,
    model::Alpn,
};
use serde_json::{Value, json};

pub(in crate::config) fn file(filters: &Registry) -> Value {
    section(
        &document::KEYS,
        vec![
            key("server", server(), "The process itself.").default(json!({})),
            key("admin", admin(), "The admin API. Absent: none."),
            key("access_log", access_log(), "One line for each request; off for none.")
                .default("off"),
            key(
                "trusted_proxies",
                list_of(&text(), 0),
                "Networks and addresses whose X-Forwarded-* fields and X-Request-Id are believed.",
            )
            .default(json!([])),
            key("listeners", map_of(&listener()), "Where connections are accepted.").required(),
            key(
                "routes",
                list_of(&routes::route(filters), 0),
                "Which request goes where; the first route that matches wins. Without routes the \
                 only pool gets everything.",
            ),
            key("pools", map_of(&pools::pool()), "Sets of backends that serve the same traffic."),
        ],
    )
}

fn server() -> Value {
    let levels = server::LOG_LEVELS.map(|(name, _)| name);
    section(
        &server::KEYS,
        vec![
            key(
                "threads",
                integer(1, 1024),
                "Worker threads, shared by all listeners. Default: one per CPU.",
            ),
            key("daemon", switch(), "Run in the background, as the flag -d does.").default(false),
            key("pid_file", text(), "Where a daemon writes its process id."),
            key(
                "upgrade_sock",
                text(),
                "The socket over which an instance started with -u takes the listening sockets over.",
            ),
            key("error_log", text(), "The file a daemon logs to. Default: stderr."),
            key("user", text(), "The user a daemon becomes."),
            key("group", text(), "The group a daemon becomes."),
            key(
                "drain_timeout",
                duration(),
                "After TERM or a hand-over, how long work in flight may go on.",
            )
            .default("30s"),
            key(
                "shutdown_delay",
                duration(),
                "After TERM, how long it goes on accepting while readiness fails, before it drains.",
            )
            .default("0s"),
            key("log_level", words(&levels), "The least severe messages logged.").default("info"),
            key("watch", switch(), "Reload when the file, or one that it names, has changed.")
                .default(false),
        ],
    )
}

fn admin() -> Value {
    section(
        &admin::KEYS,
        vec![
            key("address", text(), "ip:port, [ipv6]:port or unix:/path.").required(),
            key(
                "token",
                text(),
                "What requests must show; required where other machines can connect.",
            ),
            key(
                "hosts",
                list_of(&text(), 0),
                "Names by which clients may call it, besides localhost and its address.",
            )
            .default(json!([])),
        ],
    )
}

fn access_log() -> Value {
    let log = section(
        &access_log::KEYS,
        vec![
            key("path", text(), "stdout, or a file that is reopened on HUP and USR1.")
                .default("stdout"),
            key("format", words(&["json", "combined"]), "One JSON object a line, or Apache's.")
                .default("json"),
        ],
    );
    super::kinds::unless_off(log)
}

fn listener() -> Value {
    section(
        &listener::KEYS,
        vec![
            key("address", text(), "ip:port, [ipv6]:port or unix:/path.").required(),
            key(
                "protocol",
                words(&["http", "tcp"]),
                "http, or tcp for connections that are passed on as they are.",
            )
            .default("http"),
            key("h2c", switch(), "Speak HTTP/2 too, with clients that know it beforehand.")
                .default(false),
            key("pool", text(), "With protocol tcp: the pool that gets the connections."),
            key(
                "sni",
                map_of(&text()),
                "With protocol tcp: host names with the pools that get their TLS connections.",
            ),
            key(
                "idle_timeout",
                duration(),
                "With protocol tcp: how long a connection may go without a byte. Default: 1h.",
            ),
            key(
                "tls",
                listener_tls(),
                "Certificates, and whether clients show theirs. Absent: clear text.",
            ),
            key(
                "proxy_protocol",
                any_of(&[words(&["off", "accept", "require"]), json!({ "const": false })]),
                "Whether a header of the PROXY protocol comes ahead of each connection.",
            )
            .default("off"),
            key(
                "proxy_protocol_from",
                list_of(&text(), 0),
                "The networks and addresses that connections may come from then. Default: anywhere.",
            ),
            key("max_connections", count(), "Connections served at a time; 0 is no limit.")
                .default(0),
            key("timeouts", listener_timeouts(), "How long clients may take.").default(json!({})),
            key("limits", listener_limits(), "How much clients may send.").default(json!({})),
        ],
    )
}

fn listener_tls() -> Value {
    let certificate = section(
        &tls::CERTIFICATE,
        vec![
            key(
                "cert",
                text(),
                "The PEM file of the certificate and those that lead to its authority.",
            )
            .required(),
            key("key", text(), "The PEM file of its private key.").required(),
        ],
    );
    let protocols = Alpn::ALL.map(Alpn::as_str);
    section(
        &tls::LISTENER,
        vec![
            key(
                "certificates",
                list_of(&certificate, 1),
                "Chosen by the name that a client asks for; the first is the default.",
            )
            .required(),
            key("min_version", json!({ "enum": [1.2, 1.3] }), "The oldest version.").default("1.2"),
            key(
                "alpn",
                list_of(&any_of(&[words(&protocols), matching("^[!-~]{1,255}$")]), 1),
                "The protocols that may be chosen. With protocol tcp any, and by default none.",
            )
            .default(json!(protocols)),
            key(
                "client_ca",
                text(),
                "The PEM file of those who may have signed clients' certificates.",
            ),
            key(
                "client_auth",
                words(&["required", "optional"]),
                "Whether a client without a certificate is refused.",
            ),
        ],
    )
}

fn listener_timeouts() -> Value {
    section(
        &listener::TIMEOUTS,
        vec![
            key("header", duration(), "For the whole head of a request.").default("10s"),
            key("body_idle", duration(), "Between two pieces of a request's body.").default("30s"),
            key("keepalive", duration(), "Between two requests on a connection.").default("75s"),
            key("write", duration(), "Without any progress while sending to the client.")
                .default("30s"),
            key("tls_handshake", duration(), "For the whole TLS handshake, where there is one.")
                .default("10s"),
        ],
    )
}

fn listener_limits() -> Value {
    section(
        &listener::LIMITS,
        vec![
            key("header_bytes", size(), "Size of the head of a request, 1KiB to 1MiB.")
                .default("64KiB"),
            key("headers", integer(1, 256), "Header fields of a request.").default(100),
            key("uri_bytes", size(), "Size of the request's target, at most header_bytes.")
                .default("8KiB"),
            key("requests_per_connection", count(), "Requests on one connection; 0 is no limit.")
                .default(0),
            key("h2_streams", integer(1, 1_000), "Requests in flight on one HTTP/2 connection.")
                .default(100),
            key(
                "min_rate",
                size(),
                "Bytes a second of a body or a response, while the client is waited for; 0B is any.",
            )
            .default("500B"),
        ],
    )
}

/// A status, or one of a few.
pub(super) fn status(least: u64, most: u64) -> Value {
    integer(least, most)
}

/// Header fields with their values.
pub(super) fn fields() -> Value {
    json!({ "type": "object", "additionalProperties": text() })
}

/// A host, or a host with its port.
pub(super) fn host_and_port() -> Value {
    any_of(&[matching("^[^/ ]+$")])
}
