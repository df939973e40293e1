//! Keys about requests in a pool that tcp listeners alone use, where there are none.

use super::{
    diagnostic::{Fault, quote},
    reader::{Field, Section},
};
use crate::model::{Backend, BackendAddress, PoolTls};

const WHERE: &str = "in a pool that tcp listeners alone use";

/// Reports the keys of a pool that have no effect on streams. Where a client would go somewhere else
/// than it is told to, that is an error; where a key does nothing, a warning.
pub(super) fn check(pool: &Section<'_>) {
    if let Some(field) = pool.get("sticky").filter(|field| !field.is_off()) {
        let found = format!("\"sticky\" {WHERE}, whose clients send no cookies");
        field.key_error(&Fault::new(found, "a policy that hashes client_ip"));
    }
    for (_, field) in keys(pool, "balance", &["hash_on"]) {
        check_hash_on(&field);
    }
    for key in ["host_header", "reveal_backend"] {
        if let Some(field) = pool.get(key) {
            warn(&field, key);
        }
    }
    // Probes over HTTP speak it, and those over TLS see to it that it is chosen.
    let probed = !keys(pool, "health_check", &["http"]).is_empty() || pool.get("tls").is_some();
    if let Some(field) = pool.get("protocol").filter(|_| !probed) {
        warn(&field, "protocol");
    }
    for (key, field) in keys(pool, "timeouts", &["read", "write", "idle"]) {
        warn(&field, key);
    }
    for (_, field) in keys(pool, "retry", &["on"]) {
        let items = field.is_list().then(|| field.items("")).flatten();
        items.into_iter().flatten().for_each(|item| check_condition(&item));
    }
}

/// Reports a pool whose backends nobody could verify: a stream brings no name along, so there has to be
/// one for each backend.
pub(super) fn check_names(pool: &Section<'_>, backends: &[Backend], tls: &PoolTls) {
    let is_named = |backend: &&Backend| matches!(backend.address, BackendAddress::Host { .. });
    if tls.sni.is_some() || tls.authorities.is_none() {
        return;
    }
    let nameless = backends.iter().find(|backend| !is_named(backend));
    if let (Some(backend), Some(field)) = (nameless, pool.get("tls")) {
        let found = format!(
            "no name that the certificate of backend {} must be for, in a pool that a tcp listener uses",
            backend.name
        );
        field.error(&Fault::new(found, "sni, host names as backends, or verify: false"));
    }
}

/// Those of the keys that are given in the section `name`.
fn keys<'a>(pool: &Section<'a>, name: &str, keys: &[&str]) -> Vec<(&'a str, Field<'a>)> {
    let section = pool.get(name).filter(Field::is_map);
    let entries = section.and_then(|field| field.entries("")).into_iter().flatten();
    entries.filter(|(key, _)| keys.contains(key)).collect()
}

fn check_hash_on(field: &Field<'_>) {
    if field.is_map() || field.is_one_of(&["path", "uri"]) {
        let found = format!("a part of a request {WHERE}");
        field.error(&Fault::new(found, "client_ip"));
    }
}

fn check_condition(item: &Field<'_>) {
    if item.is_one_of(&["timeout", "502", "503", "504"]) {
        let found = format!("a condition on an answer {WHERE}, where it never holds");
        item.warning(&Fault::new(found, "connect_failure or reset"));
    }
}

fn warn(field: &Field<'_>, key: &str) {
    let found = format!("{} {WHERE}, where it does nothing", quote(key));
    field.warning(&Fault::new(found, "a route that uses the pool"));
}
