//! The rows of the table: what work, and how it is measured.

use crate::{Outcome, proxies::Kind};

/// What the proxies speak with the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Front {
    Http1,
    Tls,
    /// Inside of TLS where our build can, else by prior knowledge.
    Http2,
    /// By prior knowledge.
    Http2Clear,
    Tcp,
}

/// What they speak with the origin, and which it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Back {
    Http1,
    Http2,
    Grpc,
    Echo,
    Tcp,
}

/// What they do to a request besides passing it on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Extras {
    /// What each does by itself: ours sets its header fields, the others nothing.
    None,
    /// The fields that ours always sets are set by all.
    Fields,
    /// These, five filters and an access log.
    Filters,
    /// 10,000 backends, and a response header that tells one configuration from the next.
    Reload,
}

/// How a row is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    Get {
        path: &'static str,
        connections: u32,
    },
    Post,
    /// A connection for each request.
    Connect,
    /// A full TLS handshake for each request.
    Handshake,
    Http2 {
        grpc: bool,
    },
    Stream,
    Echo,
    Idle,
    Reload,
    /// At half of what the slowest can do.
    Open,
}

/// A row of the table.
#[derive(Debug)]
pub(crate) struct Row {
    /// What `ROWS` calls it.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// What the main figure is; less is better.
    pub(crate) figure: &'static str,
    pub(crate) threads: usize,
    pub(crate) front: Front,
    pub(crate) back: Back,
    pub(crate) extras: Extras,
    pub(crate) load: Load,
}

impl Row {
    /// Whether this kind of proxy can do it.
    pub(crate) fn suits(&self, kind: Kind) -> bool {
        // nginx speaks HTTP/2 to backends for gRPC only.
        kind != Kind::Nginx || self.back != Back::Http2
    }

    /// Whether each turn wants a process that did nothing before.
    pub(crate) fn wants_fresh_processes(&self) -> bool {
        matches!(self.load, Load::Idle | Load::Reload)
    }
}

const CPU: &str = "CPU µs per request";

const fn http1(name: &'static str, title: &'static str, load: Load) -> Row {
    Row {
        name,
        title,
        figure: CPU,
        threads: 1,
        front: Front::Http1,
        back: Back::Http1,
        extras: Extras::None,
        load,
    }
}

const SMALL: Load = Load::Get { path: "/small", connections: 64 };

static ALL: [Row; 20] = [
    http1("small", "GET, 131 bytes, keep-alive", SMALL),
    Row {
        extras: Extras::Fields,
        ..http1("fields", "the same, forwarding fields set by all", SMALL)
    },
    Row {
        extras: Extras::Filters,
        ..http1(
            "filters",
            "the same with five filters and access log",
            Load::Get { path: "/api/small", connections: 64 },
        )
    },
    http1("10k", "GET, 10 KiB", Load::Get { path: "/10k", connections: 64 }),
    http1("1m", "GET, 1 MiB", Load::Get { path: "/1m", connections: 16 }),
    http1("post", "POST, 10 KiB", Load::Post),
    http1("connect", "a connection for each GET", Load::Connect),
    Row { front: Front::Tls, ..http1("tls", "GET, 131 bytes, keep-alive, TLS 1.3", SMALL) },
    Row {
        front: Front::Tls,
        ..http1("handshake", "a full TLS 1.3 handshake (P-256) for each GET", Load::Handshake)
    },
    Row {
        front: Front::Http2,
        ..http1("h2", "GET over HTTP/2, backend HTTP/1.1", Load::Http2 { grpc: false })
    },
    Row {
        front: Front::Http2,
        back: Back::Http2,
        ..http1("h2-h2", "GET over HTTP/2, backend HTTP/2", Load::Http2 { grpc: false })
    },
    Row {
        front: Front::Http2Clear,
        back: Back::Grpc,
        ..http1("grpc", "gRPC, unary", Load::Http2 { grpc: true })
    },
    Row {
        figure: "CPU µs per MiB",
        front: Front::Tcp,
        back: Back::Tcp,
        ..http1("tcp", "TCP stream to the client", Load::Stream)
    },
    Row {
        figure: "CPU µs per message",
        back: Back::Echo,
        ..http1("websocket", "WebSocket echo, 64 bytes", Load::Echo)
    },
    Row {
        figure: "kB per connection",
        ..http1("idle", "4,000 idle keep-alive connections", Load::Idle)
    },
    Row {
        figure: "kB per connection",
        front: Front::Tls,
        ..http1("idle-tls", "4,000 idle keep-alive connections, TLS 1.3", Load::Idle)
    },
    Row {
        figure: "ms until in force",
        extras: Extras::Reload,
        ..http1("reload", "reload with 10,000 backends under traffic", Load::Reload)
    },
    Row {
        figure: "µs added to p99",
        ..http1("half-load", "added p99 at half load, open loop", Load::Open)
    },
    Row { threads: 2, ..http1("threads", "GET, 131 bytes, keep-alive, 2 threads", SMALL) },
    Row {
        threads: 2,
        ..http1("threads-1m", "GET, 1 MiB, 2 threads", Load::Get { path: "/1m", connections: 16 })
    },
];

/// The rows of these names, all if there are none.
pub(crate) fn named(names: &[String]) -> Outcome<Vec<&'static Row>> {
    if names.is_empty() {
        return Ok(ALL.iter().collect());
    }
    let find = |name: &String| {
        let known = || ALL.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
        let row = ALL.iter().find(|row| row.name == name);
        row.ok_or_else(|| format!("no row {name:?}; there are {}", known()).into())
    };
    names.iter().map(find).collect()
}

/// The rows that a profile is made of: each kind of traffic once.
pub(crate) fn training() -> Vec<&'static Row> {
    let is_traffic = |row: &&Row| {
        row.threads == 1 && !matches!(row.load, Load::Idle | Load::Reload | Load::Open)
    };
    ALL.iter().filter(is_traffic).collect()
}
