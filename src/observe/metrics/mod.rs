//! What is counted of requests and connections.
//!
//! Counters outlive configurations: the same labels are the same counter. Who counts asks for it once,
//! when a configuration is compiled, and keeps it; from then on counting takes no lock and looks
//! nothing up by name. What has a state of its own, such as a backend, is not counted here: it is asked
//! when somebody reads.

mod kept;
mod page;
mod requests;
mod tally;

pub use page::{Family, Page};
pub use requests::Requests;
pub use tally::{Histogram, Tally};

use crate::model::{ListenerName, PoolName, Reason, RouteName};
use kept::Kept;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// Everything that is counted in the process, other than by those whose state it is.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: Kept<RequestLabels, Requests>,
    /// By route; that of requests that came to none has no name.
    durations: Kept<Option<RouteName>, Histogram>,
    connections: Kept<ConnectionLabels, Connections>,
    listeners: Kept<ListenerName, ListenerCounts>,
    /// Answers that no backend gave, by reason.
    local: Tally<{ Reason::ALL.len() }>,
    /// By [`Reload`].
    reloads: Tally<2>,
}

/// Which requests are counted together. Those that came to no route or no pool have none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestLabels {
    /// The listener that they came to.
    pub listener: ListenerName,
    /// Their route.
    pub route: Option<RouteName>,
    /// The pool that they were sent to.
    pub pool: Option<PoolName>,
}

/// Which connections of tcp listeners are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionLabels {
    /// The listener that they came to.
    pub listener: ListenerName,
    /// The pool that they were sent to.
    pub pool: Option<PoolName>,
}

/// What is counted of the connections of a tcp listener.
#[derive(Debug)]
pub struct Connections {
    by_reason: Tally<{ Reason::ALL.len() }>,
    durations: Histogram,
}

impl Connections {
    /// Counts one that has ended.
    pub fn count(&self, reason: Reason, duration: Duration) {
        self.by_reason.count(reason as usize);
        self.durations.observe(duration);
    }
}

/// What is counted of a listener.
#[derive(Debug, Default)]
pub struct ListenerCounts {
    /// Bytes of bodies and streams.
    received: AtomicU64,
    sent: AtomicU64,
    /// By [`Unused`].
    unused: Tally<{ Unused::ALL.len() }>,
}

impl ListenerCounts {
    /// Counts the bytes of bodies, or of a whole stream, that came from a client and that went to it.
    pub fn count_bytes(&self, received: u64, sent: u64) {
        for (counter, bytes) in [(&self.received, received), (&self.sent, sent)] {
            // Most requests have no body: no need to write where others write.
            if bytes > 0 {
                counter.fetch_add(bytes, Relaxed);
            }
        }
    }

    /// Counts a connection of which came no request.
    pub fn count_unused(&self, why: Unused) {
        self.unused.count(why as usize);
    }
}

/// Why a connection came to no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unused {
    /// The client left.
    ClientLeft,
    /// The client was silent for too long.
    Silent,
    /// The PROXY header was bad, late, missing, or from somebody who may not send one.
    ProxyHeader,
    /// The TLS handshake failed.
    TlsHandshake,
    /// What the client began HTTP/2 with was not HTTP/2.
    Protocol,
    /// The process was about to end.
    Draining,
}

impl Unused {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::ClientLeft,
        Self::Silent,
        Self::ProxyHeader,
        Self::TlsHandshake,
        Self::Protocol,
        Self::Draining,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::ClientLeft => "client_left",
            Self::Silent => "silent",
            Self::ProxyHeader => "proxy_header",
            Self::TlsHandshake => "tls_handshake",
            Self::Protocol => "protocol",
            Self::Draining => "draining",
        }
    }
}

/// How a reload ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The new configuration is in force.
    Success,
    /// Nothing has changed.
    Failure,
}

impl Metrics {
    /// The counter of requests with these labels.
    pub fn requests(&self, labels: RequestLabels) -> Arc<Requests> {
        self.requests.get(labels, Requests::default)
    }

    /// How long the requests of a route take, or those that come to none.
    pub fn durations(&self, route: Option<RouteName>) -> Arc<Histogram> {
        self.durations.get(route, Histogram::of_requests)
    }

    /// The counter of connections with these labels.
    pub fn connections(&self, labels: ConnectionLabels) -> Arc<Connections> {
        let durations = Histogram::of_connections;
        let new = || Connections { by_reason: Tally::default(), durations: durations() };
        self.connections.get(labels, new)
    }

    /// What is counted of a listener.
    pub fn listener(&self, name: ListenerName) -> Arc<ListenerCounts> {
        self.listeners.get(name, ListenerCounts::default)
    }

    /// Counts an answer that no backend gave.
    pub fn count_local(&self, reason: Reason) {
        self.local.count(reason as usize);
    }

    /// Counts a reload.
    pub fn count_reload(&self, result: Reload) {
        self.reloads.count(result as usize);
    }

    /// Forgets counters that nobody counts with any more, and did not either when this was last said: there
    /// may be nobody who reads them.
    pub fn forget_unused(&self) {
        self.requests.forget_unused();
        self.durations.forget_unused();
        self.connections.forget_unused();
        self.listeners.forget_unused();
    }

    /// Puts all of it on a page.
    pub fn show(&self, page: &mut Page) {
        self.show_requests(page);
        self.show_local(page);
        self.show_listeners(page);
        self.show_connections(page);
        self.show_process(page);
    }

    fn show_requests(&self, page: &mut Page) {
        let mut family = page.counter("pingora_lb_requests_total", "Requests that have ended.");
        for (labels, requests) in self.requests.list() {
            let RequestLabels { listener, route, pool } = &labels;
            let route = route.as_ref().map_or("", RouteName::as_str);
            let pool = pool.as_ref().map_or("", PoolName::as_str);
            for (method, status, count) in requests.counts() {
                let status = status.to_string();
                let labels = [
                    ("listener", listener.as_str()),
                    ("route", route),
                    ("pool", pool),
                    ("method", method),
                    ("status", &status),
                ];
                family.add(&labels, count as f64);
            }
        }
        let mut family = page.histogram(
            "pingora_lb_request_duration_seconds",
            "Time from a request's first byte to the end of its answer.",
        );
        for (route, durations) in self.durations.list() {
            let route = route.as_ref().map_or("", RouteName::as_str);
            family.add_histogram(&[("route", route)], &durations);
        }
    }

    fn show_local(&self, page: &mut Page) {
        let mut family = page.counter(
            "pingora_lb_responses_local_total",
            "Answers that no backend gave, by reason code.",
        );
        for (reason, count) in Reason::ALL.into_iter().zip(self.local.counts()) {
            family.add(&[("reason", reason.as_str())], count as f64);
        }
    }

    fn show_listeners(&self, page: &mut Page) {
        let listeners = self.listeners.list();
        let each = |mut family: Family<'_>, value: fn(&ListenerCounts) -> f64| {
            for (name, counts) in &listeners {
                family.add(&[("listener", name.as_str())], value(counts));
            }
        };
        let family = page.counter(
            "pingora_lb_downstream_received_bytes_total",
            "Bytes of request bodies and of streams that came from clients.",
        );
        each(family, |counts| counts.received.load(Relaxed) as f64);
        let family = page.counter(
            "pingora_lb_downstream_sent_bytes_total",
            "Bytes of response bodies and of streams that went to clients.",
        );
        each(family, |counts| counts.sent.load(Relaxed) as f64);
        let mut family = page.counter(
            "pingora_lb_unused_connections_total",
            "Connections that ended before they brought a request, by why.",
        );
        for (name, counts) in &listeners {
            for (why, count) in Unused::ALL.into_iter().zip(counts.unused.counts()) {
                let labels = [("listener", name.as_str()), ("reason", why.as_str())];
                family.add(&labels, count as f64);
            }
        }
    }

    fn show_connections(&self, page: &mut Page) {
        let connections = self.connections.list();
        let labels = |labels: &ConnectionLabels| {
            let pool = labels.pool.as_ref().map_or("", PoolName::as_str);
            (labels.listener.as_str().to_owned(), pool.to_owned())
        };
        let mut family = page.counter(
            "pingora_lb_connections_total",
            "Connections of tcp listeners that have ended, by reason code.",
        );
        for (key, counts) in &connections {
            let (listener, pool) = labels(key);
            for (reason, count) in Reason::ALL.into_iter().zip(counts.by_reason.counts()) {
                if count > 0 {
                    let reason = ("reason", reason.as_str());
                    family.add(&[("listener", &listener), ("pool", &pool), reason], count as f64);
                }
            }
        }
        let mut family = page.histogram(
            "pingora_lb_connection_duration_seconds",
            "How long connections of tcp listeners lasted.",
        );
        for (key, counts) in &connections {
            let (listener, pool) = labels(key);
            family.add_histogram(&[("listener", &listener), ("pool", &pool)], &counts.durations);
        }
    }

    fn show_process(&self, page: &mut Page) {
        let mut family = page.counter("pingora_lb_reloads_total", "Reloads, by result.");
        for (result, count) in ["success", "failure"].into_iter().zip(self.reloads.counts()) {
            family.add(&[("result", result)], count as f64);
        }
        page.gauge("pingora_lb_build_info", "Always 1; the label says which version this is.")
            .add(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_in_the_order_of_their_numbers() {
        for (number, why) in Unused::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, number);
        }
        assert_eq!((Reload::Success as usize, Reload::Failure as usize), (0, 1));
    }

    fn labels(route: &str) -> RequestLabels {
        RequestLabels {
            listener: ListenerName::try_new("web").unwrap(),
            route: Some(RouteName::try_new(route).unwrap()),
            pool: None,
        }
    }

    fn text(metrics: &Metrics) -> String {
        let mut page = Page::default();
        metrics.show(&mut page);
        page.into_text()
    }

    #[test]
    fn the_same_labels_are_the_same_counter() {
        let metrics = Metrics::default();
        let first = metrics.requests(labels("a"));
        first.count("GET", 200);
        metrics.requests(labels("a")).count("GET", 200);
        let line = r#"pingora_lb_requests_total{listener="web",route="a",pool="",method="GET",status="200"} 2"#;
        assert!(text(&metrics).lines().any(|other| other == line), "{}", text(&metrics));
    }

    #[test]
    fn what_nobody_counts_any_more_is_shown_once_more() {
        let metrics = Metrics::default();
        let counter = metrics.requests(labels("gone"));
        counter.count("GET", 200);
        assert!(text(&metrics).contains("gone"));
        counter.count("GET", 200);
        drop(counter);
        assert!(text(&metrics).contains(r#"status="200"} 2"#));
        assert!(!text(&metrics).contains("gone"));
    }

    #[test]
    fn what_nobody_reads_is_forgotten_after_the_second_reload() {
        let metrics = Metrics::default();
        let (gone, back) = (metrics.requests(labels("gone")), metrics.requests(labels("back")));
        gone.count("GET", 200);
        back.count("GET", 200);
        metrics.forget_unused();
        drop((gone, back));
        metrics.forget_unused();
        let back = metrics.requests(labels("back"));
        metrics.forget_unused();
        assert!(!text(&metrics).contains("gone"));
        assert!(text(&metrics).contains("back"));
        drop(back);
    }
}
