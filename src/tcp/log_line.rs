//! From a connection to its line in the access log.

use super::Arrival;
use crate::{
    model::{BackendName, ListenerName, PoolName, Reason},
    observe::{AccessLog, AccessRecord, Connections, ListenerCounts},
    pool::Pool,
};
use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// What the access log will say of a connection. It holds on to no more of the configuration than
/// that: connections may live for days.
#[derive(Debug)]
pub(super) struct Story {
    access_log: Option<Arc<AccessLog>>,
    /// What it is counted by.
    counts: Arc<ListenerCounts>,
    connections: Arc<Connections>,
    listener: ListenerName,
    pub(super) client: Option<IpAddr>,
    time: SystemTime,
    accepted: Instant,
    /// The version of TLS that the client speaks with us, if it does.
    tls: Option<&'static str>,
    /// The name that the client asks for.
    pub(super) name: Option<Box<str>>,
    pool: Option<PoolName>,
    pub(super) backend: Option<BackendName>,
    pub(super) tries: u32,
    pub(super) queue: Option<Duration>,
    pub(super) connect: Option<Duration>,
    /// From the beginning of the last try to the backend's first byte.
    pub(super) first_byte: Option<Duration>,
    /// Bytes passed on to the backend.
    pub(super) bytes_in: u64,
    /// Bytes passed on to the client.
    pub(super) bytes_out: u64,
}

impl Story {
    pub(super) fn of(arrival: &Arrival) -> Self {
        let since = arrival.accepted.elapsed();
        Self {
            access_log: arrival.snapshot.access_log.clone(),
            counts: arrival.snapshot.listener_counts(arrival.listener).clone(),
            connections: arrival.snapshot.connections(arrival.listener, None).clone(),
            listener: arrival.snapshot.listeners[arrival.listener].name.clone(),
            client: arrival.ends.client.map(|address| address.ip()),
            time: SystemTime::now().checked_sub(since).unwrap_or(SystemTime::UNIX_EPOCH),
            accepted: arrival.accepted,
            tls: arrival.tls.as_ref().map(|tls| tls.version),
            name: arrival.tls.as_ref().and_then(|tls| tls.server_name.clone()),
            pool: None,
            backend: None,
            tries: 0,
            queue: None,
            connect: None,
            first_byte: None,
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// The connection goes to `pool`.
    pub(super) fn set_pool(&mut self, arrival: &Arrival, pool: &Arc<Pool>) {
        self.connections = arrival.snapshot.connections(arrival.listener, Some(pool)).clone();
        self.pool = Some(pool.spec().name.clone());
    }

    /// Counts the connection, and writes its line.
    pub(super) fn log(&self, reason: Reason) {
        let duration = self.accepted.elapsed();
        self.connections.count(reason, duration);
        self.counts.count_bytes(self.bytes_in, self.bytes_out);
        let Some(access_log) = &self.access_log else { return };
        access_log.log(&AccessRecord {
            time: self.time,
            method: "-",
            host: self.name.as_deref().unwrap_or("-"),
            path: "-",
            status: reason.status().as_u16(),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            duration,
            queue: self.queue,
            connect: self.connect,
            upstream: self.first_byte,
            client_ip: self.client,
            listener: self.listener.as_str(),
            route: None,
            pool: self.pool.as_ref().map(PoolName::as_str),
            backend: self.backend.as_ref().map(BackendName::as_str),
            tries: self.tries,
            reason: reason.as_str(),
            request_id: "-",
            protocol: "TCP",
            tls: self.tls,
            user_agent: None,
            referer: None,
        });
    }

    /// What a message about the connection begins with.
    pub(super) fn who(&self) -> String {
        let client = self.client.map_or_else(|| "-".to_owned(), |address| address.to_string());
        format!("connection of {client} on listener {}", self.listener)
    }
}
