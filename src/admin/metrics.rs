//! `GET /metrics`: Prometheus's text format.
//!
//! What is counted by name comes from `observe::Metrics`. What has a state of its own is asked for it
//! at this moment: there is no second copy that could differ.

use super::{Admin, InForce};
use crate::{
    model::{Identity, Reason},
    observe::{Family, Page},
    pool::{Member, Pool},
    runtime::Snapshot,
};
use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, atomic::Ordering::Relaxed},
};

/// All that is known at this moment.
pub(super) fn text(admin: &Admin) -> String {
    let snapshot = admin.live.load();
    let mut page = Page::default();
    snapshot.metrics.show(&mut page);
    show_listeners(&mut page, admin, &snapshot);
    show_filters(&mut page, &snapshot);
    show_pools(&mut page, &snapshot);
    show_backends(&mut page, &snapshot);
    show_certificates(&mut page, &snapshot);
    show_config(&mut page, &admin.instance.in_force());
    if let Some(log) = &snapshot.access_log {
        let name = "pingora_lb_access_log_dropped_lines_total";
        page.counter(name, "Lines of the access log that were lost.")
            .add(&[], log.dropped() as f64);
    }
    page.show_process();
    page.into_text()
}

fn show_listeners(page: &mut Page, admin: &Admin, snapshot: &Snapshot) {
    let mut family = page.gauge(
        "pingora_lb_downstream_connections",
        "Connections of clients that are served at this moment.",
    );
    for (index, listener) in snapshot.listeners.iter().enumerate() {
        let open = admin.live.open(index).load(Relaxed);
        family.add(&[("listener", listener.name.as_str())], open as f64);
    }
    let mut family = page.counter(
        "pingora_lb_tls_handshakes_total",
        "TLS handshakes with clients, by how they ended.",
    );
    for (index, listener) in snapshot.listeners.iter().enumerate() {
        let Some(acceptor) = snapshot.acceptor(index) else { continue };
        let handshakes = acceptor.handshakes();
        for (result, count) in [
            ("full", handshakes.full()),
            ("resumed", handshakes.resumed()),
            ("failure", handshakes.failed()),
        ] {
            let labels = [("listener", listener.name.as_str()), ("result", result)];
            family.add(&labels, count as f64);
        }
    }
}

fn show_filters(page: &mut Page, snapshot: &Snapshot) {
    let mut family = page.counter(
        "pingora_lb_filter_answers_total",
        "Answers that filters gave in the place of a backend's or of another, by reason code.",
    );
    for route in &snapshot.routes {
        for (filter, counts) in route.filters.answers() {
            for (reason, count) in Reason::ALL.into_iter().zip(counts) {
                if count > 0 {
                    let (route, reason) = (route.name.as_str(), reason.as_str());
                    let labels = [("route", route), ("filter", filter), ("reason", reason)];
                    family.add(&labels, count as f64);
                }
            }
        }
    }
}

fn show_pools(page: &mut Page, snapshot: &Snapshot) {
    let mut family = page.histogram(
        "pingora_lb_upstream_duration_seconds",
        "Time from the beginning of a try to the first byte of the backend's answer.",
    );
    for pool in &snapshot.pools {
        family.add_histogram(&[("pool", name(pool))], pool.core().traffic().first_byte());
    }
    let mut family = page.counter(
        "pingora_lb_retries_total",
        "Tries after the first, by how they ended, and those that were not made, by why.",
    );
    for pool in &snapshot.pools {
        for (result, count) in pool.core().traffic().retries() {
            family.add(&[("pool", name(pool)), ("result", result)], count as f64);
        }
    }
    let mut family =
        page.gauge("pingora_lb_queue_depth", "Requests and connections that wait for a backend.");
    for pool in &snapshot.pools {
        family.add(&[("pool", name(pool))], pool.core().queued() as f64);
    }
}

fn show_backends(page: &mut Page, snapshot: &Snapshot) {
    let family = page.gauge(
        "pingora_lb_backend_up",
        "Whether a backend works as far as is known: its checks succeed, and it is not ejected.",
    );
    each_backend(snapshot, family, |pool, member| f64::from(u8::from(member.works(pool.now()))));
    let family = page.gauge(
        "pingora_lb_backend_in_flight",
        "Requests and connections that a backend has at this moment.",
    );
    each_backend(snapshot, family, |_, member| member.state().in_flight() as f64);
    let family = page.counter(
        "pingora_lb_backend_ejections_total",
        "How often a backend was ejected for its failures.",
    );
    each_backend(snapshot, family, |_, member| member.state().traffic().ejections() as f64);
    let mut family =
        page.counter("pingora_lb_upstream_requests_total", "Tries on backends, by how they ended.");
    for (pool, member) in backends(snapshot) {
        for (outcome, count) in member.state().traffic().tries() {
            let (pool, backend) = (("pool", name(pool)), ("backend", member.name().as_str()));
            family.add(&[pool, backend, ("outcome", outcome)], count as f64);
        }
    }
}

fn each_backend(snapshot: &Snapshot, mut family: Family<'_>, of: fn(&Pool, &Member) -> f64) {
    for (pool, member) in backends(snapshot) {
        let labels = [("pool", name(pool)), ("backend", member.name().as_str())];
        family.add(&labels, of(pool, &member));
    }
}

/// The backends of every pool. Names are unique but for those that a long host name's addresses have;
/// of them the first stands for all, as nobody could tell the others apart.
fn backends(snapshot: &Snapshot) -> Vec<(&Pool, Arc<Member>)> {
    let mut all = Vec::new();
    for pool in &snapshot.pools {
        let members = pool.members();
        let mut named = HashSet::new();
        let each = members.iter().filter(|member| named.insert(member.name()));
        all.extend(each.map(|member| (&**pool, member.clone())));
    }
    all
}

fn name(pool: &Pool) -> &str {
    pool.spec().name.as_str()
}

fn show_certificates(page: &mut Page, snapshot: &Snapshot) {
    let mut family = page.gauge(
        "pingora_lb_certificate_expiry_timestamp_seconds",
        "When a certificate of ours expires, that is the file's as it was last read.",
    );
    for (index, listener) in snapshot.listeners.iter().enumerate() {
        let Some(acceptor) = snapshot.acceptor(index) else { continue };
        let owner = [("listener", listener.name.as_str()), ("pool", "")];
        show_identities(&mut family, owner, acceptor.identities());
    }
    for pool in &snapshot.pools {
        let identity = pool.tls().and_then(|tls| tls.identity());
        let owner = [("listener", ""), ("pool", name(pool))];
        show_identities(&mut family, owner, identity.into_iter().collect());
    }
}

/// Each file once: a listener may name one twice.
fn show_identities(family: &mut Family<'_>, owner: [(&str, &str); 2], identities: Vec<Identity>) {
    let expiry = |it: Identity| (it.cert.path.display().to_string(), it.validity.until);
    let files: BTreeMap<String, i64> = identities.into_iter().map(expiry).collect();
    for (file, until) in files {
        let [listener, pool] = owner;
        family.add(&[listener, pool, ("file", &file)], until as f64);
    }
}

fn show_config(page: &mut Page, in_force: &InForce) {
    page.gauge("pingora_lb_config_hash", "Differs where the configuration does.")
        .add(&[], in_force.hash as f64);
    page.gauge(
        "pingora_lb_config_loaded_timestamp_seconds",
        "When the configuration in force came into force.",
    )
    .add(&[], in_force.loaded_at.as_second() as f64);
}
