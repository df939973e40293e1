//! The acceptance suite: drives the real binary over real sockets, as its users do.
//!
//! One test binary, so that it links once. Nothing here uses a fixed port or waits for a fixed
//! time: ports are taken from the system and kept (see `support::address`), and every wait is for
//! a condition, with a deadline. Whatever a test starts, it stops when it ends, however it ends.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    // A test tells its story in one piece: splitting it for length hides the sequence.
    clippy::too_many_lines,
    // `expect` and `unwrap` are how a test says what it relies on.
    clippy::missing_panics_doc,
    // Configuration snippets quote addresses and names; one form for all of them reads best.
    clippy::needless_raw_string_hashes,
    clippy::needless_pass_by_value,
    // Addresses and counts are named by what they are: `a`, `b`, `c` are the three backends.
    clippy::many_single_char_names,
    clippy::similar_names
)]

mod support;

mod access_log;
mod admin;
mod balancing;
mod blame;
mod cli;
mod clock;
mod cut_off;
mod diff;
mod ejection;
mod examples;
mod explain;
mod faults;
mod filter_basic_auth;
mod filter_bodies;
mod filter_body_limit;
mod filter_chains;
mod filter_compress;
mod filter_concurrency_limit;
mod filter_cors;
mod filter_error_pages;
mod filter_headers;
mod filter_hooks;
mod filter_ip_filter;
mod filter_rate_limit;
mod filter_redirect_https;
mod filter_rewrite;
mod filter_tls;
mod grpc;
mod guide;
mod hand_over;
mod health;
mod http2;
mod http2_backends;
mod http2_tls_backends;
mod layers;
mod limits;
mod listeners;
mod metrics;
mod nothing_lost;
mod notify;
mod overload;
mod own_certificates;
mod policies;
mod proxy_protocol;
mod proxying;
mod reload;
mod reload_cost;
mod retry;
mod retry_policy;
mod routes;
mod secrets;
mod server;
mod service_panic;
mod shutdown_delay;
mod signals;
mod slow_clients;
mod sni;
mod soak;
mod states;
mod sticky;
mod streams;
mod strictness;
mod support_tests;
mod tcp;
mod tcp_tls;
mod tcp_tls_backends;
mod testing;
mod tls;
mod tls_backends;
mod upgrades;
mod uploads;
mod watch;
