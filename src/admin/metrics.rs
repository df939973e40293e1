//! `GET /metrics`: Prometheus's text format.
//!
//! Label values are names from the configuration, in which nothing needs to be escaped.

use super::Admin;
use std::{
    fmt::{Display, Write as _},
    sync::atomic::Ordering::Relaxed,
};

/// All that is known at this moment.
pub(super) fn text(admin: &Admin) -> String {
    let mut page = Page::default();
    let version = env!("CARGO_PKG_VERSION");
    page.family("pingora_lb_build_info", "gauge", "The program; always 1.");
    page.sample("pingora_lb_build_info", &[("version", &version)], 1);
    page.family("pingora_lb_config_hash", "gauge", "Differs where the configuration does.");
    page.sample("pingora_lb_config_hash", &[], admin.instance.in_force().hash);
    let snapshot = admin.live.load();
    let name = "pingora_lb_downstream_connections";
    page.family(name, "gauge", "Connections of clients that are served.");
    for (index, listener) in snapshot.listeners.iter().enumerate() {
        let open = admin.live.open(index).load(Relaxed);
        page.sample(name, &[("listener", &listener.name)], open);
    }
    let name = "pingora_lb_backend_in_flight";
    page.family(name, "gauge", "Requests and connections that a backend has at this moment.");
    for pool in &snapshot.pools {
        for member in pool.members().iter() {
            let labels: [(_, &dyn Display); 2] =
                [("pool", &pool.spec().name), ("backend", member.name())];
            page.sample(name, &labels, member.state().in_flight());
        }
    }
    page.0
}

/// A page in the making.
#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, of)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            self.line(format_args!("{before}{label}=\"{of}\""));
        }
        let end = if labels.is_empty() { "" } else { "}" };
        self.line(format_args!("{end} {value}\n"));
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("writing to a String cannot fail");
    }
}
