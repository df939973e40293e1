//! HTTP/2 clients.

mod connections;
mod filters;
mod floods;
mod heads;
mod streams;
mod tls;

use crate::support::{Config, Lb, Origin};

/// A balancer whose listener speaks both, with these keys.
fn both(origin: &Origin, listener: &str) -> Config {
    Config::pool(&[origin.entry()], "health_check: off\nejection: off")
        .listener(&format!("h2c: true\n{listener}"))
        .access_log()
}

fn start(origin: &Origin) -> Lb {
    both(origin, "").start()
}

/// The reasons in the access log, of the first `count` entries.
fn reasons(lb: &Lb, count: usize) -> Vec<String> {
    let entries = lb.wait_for_entries(count);
    entries.iter().map(|entry| entry["reason"].as_str().unwrap().to_owned()).collect()
}
