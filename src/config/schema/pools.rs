//! Pools.

use super::{
    kinds::{
        any_of, count, duration, integer, key, list_of, matching, percent, section, switch, text,
        unless_off, words,
    },
    sections::{fields, host_and_port},
};
use crate::config::{backend, balance, ejection, health_check, pool, retry, sticky, tls};
use crate::model::{BackendState, BalancePolicy, RetryOn};
use serde_json::{Value, json};

pub(super) fn pool() -> Value {
    section(
        &pool::KEYS,
        vec![
            key("backends", list_of(&any_of(&[address(), backend()]), 1), "The backends.")
                .required(),
            key("resolve_interval", duration(), "How often host names are resolved again.")
                .default("30s"),
            key("protocol", words(&["http1", "http2", "auto"]), "What is spoken to the backends.")
                .default("http1"),
            key(
                "host_header",
                host_and_port(),
                "The Host a backend sees: preserve (the client's), backend (its address), or a host.",
            )
            .default("preserve"),
            key("tls", tls(), "How backends are met in TLS. Absent: clear text."),
            key("balance", balance(), "How a backend is chosen.").default("round_robin"),
            key("sticky", unless_off(sticky()), "Whether clients stay with a backend by a cookie.")
                .default("off"),
            key("health_check", unless_off(health_check()), "Active probing; off for none.")
                .default(json!({})),
            key("ejection", unless_off(ejection()), "When real traffic takes a backend out.")
                .default(json!({})),
            key(
                "panic_threshold",
                percent(),
                "With fewer usable backends than this share, all active ones are used. 0%: never.",
            )
            .default("0%"),
            key(
                "slow_start",
                duration(),
                "How long a backend that comes back takes to reach its full weight.",
            )
            .default("0s"),
            key("retry", retry(), "When a request is tried again.").default(json!({})),
            key("timeouts", timeouts(), "How long a backend may take.").default(json!({})),
            key(
                "proxy_protocol",
                any_of(&[words(&["off", "v1", "v2"]), json!({ "const": false })]),
                "Whether backends are told whose connection it is, by the PROXY protocol.",
            )
            .default("off"),
            key("limits", limits(), "What a backend may be asked at a time, and who waits.")
                .default(json!({})),
            key("reveal_backend", switch(), "Whether responses have X-Backend-Server.")
                .default(true),
        ],
    )
}

fn address() -> Value {
    matching("^unix:.+$|^.+:[0-9]+$")
}

fn backend() -> Value {
    section(
        &backend::KEYS,
        vec![
            key("address", address(), "ip:port, [ipv6]:port, host:port or unix:/path.").required(),
            key("name", text(), "Appears in logs, metrics and X-Backend-Server."),
            key("weight", integer(0, 65535), "Its share of the traffic; 0 is sticky traffic only.")
                .default(1),
            key("backup", switch(), "Serves only when no other backend is usable.").default(false),
            key(
                "state",
                words(&BackendState::ALL.map(BackendState::as_str)),
                "Draining: only sticky clients and what is in flight; disabled: none.",
            )
            .default("active"),
        ],
    )
}

fn tls() -> Value {
    section(
        &tls::POOL,
        vec![
            key("sni", text(), "The name that a backend must have a certificate for."),
            key("verify", switch(), "Whether its certificate is verified.").default(true),
            key(
                "ca",
                text(),
                "The PEM file of those who may have signed it. Default: the system's.",
            ),
            key("client_cert", text(), "The PEM file of what is shown to backends that ask."),
            key("client_key", text(), "The PEM file of its private key."),
        ],
    )
}

fn balance() -> Value {
    let hash_on = section(
        &balance::HASH_ON,
        vec![
            key("header", text(), "The name of a header field."),
            key("cookie", text(), "The name of a cookie."),
            key("query", text(), "The name of a query parameter."),
        ],
    );
    let policies = BalancePolicy::ALL.map(BalancePolicy::as_str);
    let settings = section(
        &balance::KEYS,
        vec![
            key("policy", words(&policies), "The policy.").required(),
            key(
                "hash_on",
                any_of(&[words(&["client_ip", "path", "uri"]), hash_on]),
                "What ring_hash and maglev hash. Default: client_ip.",
            ),
            key(
                "bounded_load",
                unless_off(percent()),
                "No backend gets more than this share of the average load. Default: off.",
            ),
        ],
    );
    any_of(&[words(&policies), settings])
}

fn sticky() -> Value {
    section(
        &sticky::KEYS,
        vec![
            key("cookie", text(), "The cookie's name.").required(),
            key("ttl", duration(), "How long it lives after the last request.").default("1h"),
            key("path", matching("^/[^; ]*$"), "The cookie's Path.").default("/"),
            key(
                "secure",
                any_of(&[words(&["auto"]), switch()]),
                "Whether it has Secure; auto: when the client came over TLS.",
            )
            .default("auto"),
            key("same_site", words(&["lax", "strict", "none"]), "The cookie's SameSite.")
                .default("lax"),
            key(
                "secret",
                json!({ "type": "string", "minLength": 4 }),
                "What it is signed with, at least 16 bytes. Default: a random one for each start.",
            ),
        ],
    )
}

fn health_check() -> Value {
    let number = integer(1, 1000);
    section(
        &health_check::KEYS,
        vec![
            key("tcp", section(&health_check::TCP, Vec::new()), "A connection is accepted."),
            key("http", http_check(), "A request is answered."),
            key("grpc", grpc_check(), "gRPC's health checking protocol says SERVING."),
            key("interval", duration(), "The longest time between two probes.").default("5s"),
            key("timeout", duration(), "The longest a whole probe may take.").default("2s"),
            key("rise", number.clone(), "Successes in a row that bring a backend back.").default(2),
            key("fall", number, "Failures in a row that take a backend out.").default(3),
            key("jitter", percent(), "The part of the interval that is left to chance.")
                .default("10%"),
        ],
    )
}

fn grpc_check() -> Value {
    let service = key("service", text(), "The service asked after; empty is the whole server.");
    section(&health_check::GRPC, vec![service.default("")])
}

fn http_check() -> Value {
    let statuses = any_of(&[integer(100, 599), matching("^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$")]);
    section(
        &health_check::HTTP,
        vec![
            key("path", matching("^/"), "What is asked for.").default("/"),
            key("method", text(), "In upper case.").default("GET"),
            key(
                "host",
                host_and_port(),
                "The Host of the request. Default: the backend's address.",
            ),
            key("headers", fields(), "Further header fields."),
            key("expect_status", list_of(&statuses, 1), "Statuses and ranges that are a success.")
                .default(json!(["200-299"])),
            key("expect_body", text(), "A text that the body must contain."),
            key("port", integer(1, 65535), "A port other than the backend's own."),
        ],
    )
}

fn ejection() -> Value {
    section(
        &ejection::KEYS,
        vec![
            key("consecutive_failures", integer(1, 1000), "Failures in a row that eject.")
                .default(5),
            key("base_time", duration(), "How long the first ejection lasts.").default("30s"),
            key("max_time", duration(), "The longest an ejection lasts.").default("300s"),
            key("max_percent", percent(), "The most of the pool that is ejected at a time.")
                .default("50%"),
        ],
    )
}

fn retry() -> Value {
    let statuses = RetryOn::NAMES.into_iter().filter_map(|(_, condition)| match condition {
        RetryOn::Status(status) => Some(status),
        _ => None,
    });
    let statuses = json!({ "enum": statuses.collect::<Vec<_>>() });
    let on = any_of(&[words(&RetryOn::NAMES.map(|(name, _)| name)), statuses]);
    section(
        &retry::KEYS,
        vec![
            key("attempts", integer(0, 10), "Tries after the first; 0 is no retries.").default(2),
            key("on", list_of(&on, 1), "The failures after which a request is tried again.")
                .default(json!(["connect_failure", "refused_stream", "reset"])),
            key("backoff", backoff(), "The pause before a try.").default(json!({})),
            key("budget", budget(), "The most retries of the whole pool.").default(json!({})),
            key("per_try_timeout", duration(), "The longest one try may take. Default: none."),
        ],
    )
}

fn backoff() -> Value {
    section(
        &retry::BACKOFF,
        vec![
            key("base", duration(), "The longest pause before the first retry.").default("25ms"),
            key("max", duration(), "The longest pause.").default("250ms"),
        ],
    )
}

fn budget() -> Value {
    section(
        &retry::BUDGET,
        vec![
            key("percent", percent(), "Retries as a share of the last ten seconds' requests.")
                .default("20%"),
            key("min_per_second", integer(0, 100_000), "Retries a second that are always allowed.")
                .default(3),
        ],
    )
}

fn timeouts() -> Value {
    section(
        &pool::TIMEOUTS,
        vec![
            key("connect", duration(), "To accept a connection.").default("3s"),
            key("read", duration(), "Between two reads, the first byte included.").default("30s"),
            key("write", duration(), "To take what is sent.").default("30s"),
            key("idle", duration(), "How long an unused connection is kept.").default("60s"),
        ],
    )
}

fn limits() -> Value {
    section(
        &pool::LIMITS,
        vec![
            key(
                "connections_per_backend",
                count(),
                "Requests in flight on each backend; 0 is no limit.",
            )
            .default(0),
            key("queue", integer(0, 1_000_000), "Requests that may wait for a backend.").default(0),
            key("queue_timeout", duration(), "The longest a request waits.").default("5s"),
        ],
    )
}
