//! `GET /api/v1/status`: the process at a glance.

use super::Admin;
use crate::runtime::Snapshot;
use serde_json::{Value, json};
use std::sync::atomic::Ordering::Relaxed;

pub(super) fn describe(admin: &Admin) -> Value {
    let in_force = admin.instance.in_force();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "uptime_seconds": admin.started.elapsed().as_secs(),
        "config_hash": in_force.hash_text(),
        "config_loaded_at": in_force.loaded_at.to_string(),
        "draining": admin.instance.is_draining(),
        "ready": admin.is_ready(),
        "listeners": listeners(admin, &admin.live.load()),
    })
}

fn listeners(admin: &Admin, snapshot: &Snapshot) -> Vec<Value> {
    let describe = |(index, listener): (usize, &crate::model::Listener)| {
        json!({
            "name": listener.name.as_str(),
            "address": listener.address.to_string(),
            "protocol": if listener.is_http() { "http" } else { "tcp" },
            "tls": listener.tls.is_some(),
            "connections": admin.live.open(index).load(Relaxed),
        })
    };
    snapshot.listeners.iter().enumerate().map(describe).collect()
}
