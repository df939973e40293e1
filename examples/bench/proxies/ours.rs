//! The configuration of ours.

use super::{Extras, Front, Outcome, Task};
use std::fmt::Write as _;

pub(super) fn configuration(task: &Task<'_>) -> Outcome<String> {
    let mut text = String::new();
    writeln!(
        text,
        "server: {{ threads: {}, pid_file: {}, upgrade_sock: {}, drain_timeout: 1s, log_level: error }}",
        task.row.threads,
        task.path("lb.pid"),
        task.path("lb.sock")
    )?;
    if task.row.extras == Extras::Filters {
        writeln!(text, "access_log: {{ path: {}, format: json }}", task.path("access.log"))?;
    }
    let (address, listener) = (task.address, listener(task));
    writeln!(text, "listeners: {{ web: {{ address: {address}{listener} }} }}")?;
    if task.row.front != Front::Tcp {
        writeln!(text, "routes: [{{ filters: [{}], pool: app }}]", filters(task))?;
    }
    let protocol = if task.backend_speaks_http2() { ", protocol: http2" } else { "" };
    // Ten thousand checks would be what is measured; the others have none in that row either.
    let checks = if task.row.extras == Extras::Reload { ", health_check: off" } else { "" };
    let backends = task.backends.join(", ");
    writeln!(text, "pools: {{ app: {{ backends: [{backends}]{protocol}{checks} }} }}")?;
    Ok(text)
}

fn listener(task: &Task<'_>) -> String {
    let alpn = match task.front() {
        _ if task.row.front == Front::Tcp => return ", protocol: tcp, pool: app".into(),
        (false, false) => return String::new(),
        (false, true) => return ", h2c: true".into(),
        (true, false) => "http/1.1",
        (true, true) => "h2, http/1.1",
    };
    format!(
        ", tls: {{ certificates: [{{ cert: {}, key: {} }}], min_version: \"1.3\", alpn: [{alpn}] }}",
        task.certificate("cert.pem"),
        task.certificate("key.pem")
    )
}

fn filters(task: &Task<'_>) -> String {
    match task.row.extras {
        // The forwarding fields are always set.
        Extras::None | Extras::Fields => String::new(),
        Extras::Reload => {
            format!("response_headers: {{ set: {{ x-generation: \"{}\" }} }}", task.generation)
        }
        Extras::Filters => "ip_filter: { deny: [203.0.113.0/24] }, \
            rate_limit: { requests: 1000000, per: 1s }, rewrite: { strip_prefix: /api }, \
            request_headers: { set: { x-env: prod } }, \
            response_headers: { set: { x-frame-options: DENY } }"
            .into(),
    }
}
