//! The whole file.

use super::{
    access_log,
    diagnostic::Fault,
    listener,
    names::Names,
    pool,
    reader::{Field, Keys, Section},
    route, server, trusted_proxies, warnings,
};
use crate::{
    filter::Chain,
    model::{AccessLog, Config, Listener, LogTarget, Pool, Route, Server},
};

pub(super) const KEYS: Keys = Keys {
    section: "",
    names: &["server", "access_log", "trusted_proxies", "listeners", "routes", "pools"],
};

/// Reads the whole file. `None` only after an error was reported.
pub(super) fn read(root: &Field<'_>) -> Option<(Config, Vec<Chain>)> {
    let file = root.section(&KEYS)?;
    let listeners_field = file.require("listeners", listener::EXPECTED);
    let pools_field = file.get("pools");
    let names = Names::of(listeners_field.as_ref(), pools_field.as_ref());

    let server = server::read(file.get("server").as_ref(), root.context());
    let access_log = file.optional("access_log", access_log::read);
    if let (Some(server), Some(Some(log))) = (&server, &access_log) {
        check_log_target(&file, server, log);
    }
    let access_log = access_log.flatten();
    let trusted_proxies = file.or("trusted_proxies", Vec::new(), trusted_proxies::read);
    let listeners = listeners_field.as_ref().and_then(listener::read_all);
    let pools = pools_field.as_ref().map_or(Some(Vec::new()), pool::read_all);
    let routes = file.or("routes", Vec::new(), |field| route::read_all(field, &names));
    let (routes, filters): (Vec<_>, Vec<_>) = routes.into_iter().unzip();
    let has_routes = file.get("routes").is_some_and(|field| !field.is_empty_list());
    if !has_routes {
        check_only_pool(&file, names.pool_count());
    }

    let (listeners, pools) = (listeners?, pools?);
    let routes = if has_routes { routes } else { vec![catch_all(&pools)?] };
    if !root.context().has_errors() {
        warn(&file, &listeners, &routes, &pools, &filters);
    }
    let server = server?;
    Some((Config { server, access_log, trusted_proxies, listeners, routes, pools }, filters))
}

/// A daemon that writes its errors to a file has no standard output left to log requests to.
fn check_log_target(file: &Section<'_>, server: &Server, log: &AccessLog) {
    let nowhere = server.daemon && server.error_log.is_some() && log.path == LogTarget::Stdout;
    if let Some(field) = file.get("access_log").filter(|_| nowhere) {
        let found = "found stdout, which a daemon with an error_log does not have";
        field.error(&Fault::new(found, "the path of a file"));
    }
}

/// Without routes there is one pool, which gets everything.
fn check_only_pool(file: &Section<'_>, count: usize) {
    let Some(pools) = file.require("pools", pool::EXPECTED) else { return };
    if count > 1 {
        let found = format!("{count} pools and no routes");
        pools.error(&Fault::new(found, "routes that say which pool gets which requests"));
    }
}

fn catch_all(pools: &[Pool]) -> Option<Route> {
    route::catch_all(pools.first()?.name.clone())
}

fn warn(
    file: &Section<'_>,
    listeners: &[Listener],
    routes: &[Route],
    pools: &[Pool],
    filters: &[Chain],
) {
    if let Some(items) = file.get("routes").and_then(|field| field.items("a list of routes")) {
        warnings::unreachable_routes(&items, routes, listeners);
    }
    let entries = file.get("pools").and_then(|field| field.entries("a map of pools"));
    let mut used = warnings::used_pools(routes);
    used.extend(filters.iter().flat_map(Chain::pools));
    for (pool, (_, field)) in pools.iter().zip(entries.into_iter().flatten()) {
        warnings::pool(&field, pool, used.contains(&pool.name));
    }
}
