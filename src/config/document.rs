//! The whole file.

use super::{
    access_log, admin,
    diagnostic::{Fault, quote},
    listener,
    names::Names,
    pool,
    reader::{Field, Keys, Section},
    route, server, trusted_proxies, unused, warnings,
};
use crate::{
    filter::Chain,
    model::{AccessLog, Admin, Config, Listener, LogTarget, Pool, PoolName, Route, Server},
};
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

pub(super) const KEYS: Keys = Keys {
    section: "",
    names: &["server", "admin", "access_log", "trusted_proxies", "listeners", "routes", "pools"],
};

/// Reads the whole file. `None` only after an error was reported.
pub(super) fn read(root: &Field<'_>) -> Option<(Config, Vec<Chain>)> {
    let file = root.section(&KEYS)?;
    let listeners_field = file.require("listeners", listener::EXPECTED);
    let pools_field = file.get("pools");
    let mut names = Names::of(listeners_field.as_ref(), pools_field.as_ref());

    let server = server::read(file.get("server").as_ref(), root.context());
    let admin = file.try_or("admin", None, |field| admin::read(field).map(Some));
    let access_log = file.optional("access_log", access_log::read);
    if let (Some(server), Some(Some(log))) = (&server, &access_log) {
        check_log_target(&file, server, log);
    }
    let access_log = access_log.flatten();
    if let Some(server) = &server {
        check_own_files(&file, server, access_log.as_ref());
    }
    let trusted_proxies = file.or("trusted_proxies", Vec::new(), trusted_proxies::read);
    let listeners = listeners_field.as_ref().and_then(|field| listener::read_all(field, &names));
    check_admin(&file, admin.as_ref(), listeners.as_deref());
    names.learn(listeners.as_deref().unwrap_or(&[]));
    let routes = file.try_or("routes", Vec::new(), |field| route::read_all(field, &names));
    let (routes, filters): (Option<Vec<_>>, Vec<_>) = match routes {
        Some(routes) => {
            let (routes, filters) = routes.into_iter().unzip();
            (Some(routes), filters)
        }
        None => (None, Vec::new()),
    };
    let speaks_http = listeners.as_ref().is_none_or(|all| all.iter().any(Listener::is_http));
    let has_routes = file.get("routes").is_some_and(|field| !field.is_empty_list());
    let catches_all = speaks_http && !has_routes;
    if catches_all {
        check_only_pool(&file, names.pool_count());
    }
    let only = names.only_pool().filter(|_| catches_all);
    let users = Users::new(listeners.as_deref(), routes.as_deref(), &filters, only);
    let read_pools = |field: &Field<'_>| pool::read_all(field, |name| users.of(name));
    let pools = pools_field.as_ref().map_or(Some(Vec::new()), read_pools);

    let (listeners, mut routes, pools) = (listeners?, routes?, pools?);
    if catches_all {
        routes = vec![catch_all(&pools)?];
    }
    if !root.context().has_errors() {
        warn(&file, &listeners, &routes, &pools, &filters);
        warn_of_pools(&file, &pools, admin.as_ref().is_some_and(Option::is_some));
    }
    let (server, admin) = (server?, admin?);
    Some((Config { server, admin, access_log, trusted_proxies, listeners, routes, pools }, filters))
}

/// Who uses the pools, as far as that could be read.
struct Users<'a> {
    /// The pools that requests and that connections are passed on to; `None` if that is not known.
    used: Option<(HashSet<&'a str>, HashSet<&'a str>)>,
}

impl<'a> Users<'a> {
    /// `filters` are those of the routes, which may send requests to pools, too, and `only` is the pool
    /// that gets every request where there are no routes.
    fn new(
        listeners: Option<&'a [Listener]>,
        routes: Option<&'a [Route]>,
        filters: &'a [Chain],
        only: Option<&'a str>,
    ) -> Self {
        let used = |(listeners, routes)| {
            let requested =
                warnings::routed_pools(routes).chain(filters.iter().flat_map(Chain::pools));
            let requested = requested.map(PoolName::as_str).chain(only).collect();
            (requested, warnings::forwarded_pools(listeners).map(PoolName::as_str).collect())
        };
        Self { used: listeners.zip(routes).map(used) }
    }

    fn of(&self, pool: &str) -> pool::Users {
        let Some((requested, streamed)) = &self.used else {
            return pool::Users { streams: false, alone: false };
        };
        pool::Users { streams: streamed.contains(pool), alone: !requested.contains(pool) }
    }
}

fn check_admin(file: &Section<'_>, admin: Option<&Option<Admin>>, listeners: Option<&[Listener]>) {
    if let (Some(field), Some(Some(admin)), Some(listeners)) = (file.get("admin"), admin, listeners)
    {
        admin::check_address(&field, admin, listeners);
    }
}

/// A daemon that writes its errors to a file has no standard output left to log requests to.
fn check_log_target(file: &Section<'_>, server: &Server, log: &AccessLog) {
    let nowhere = server.daemon && server.error_log.is_some() && log.path == LogTarget::Stdout;
    if let Some(field) = file.get("access_log").filter(|_| nowhere) {
        let found = "found stdout, which a daemon with an error_log does not have";
        field.error(&Fault::new(found, "the path of a file"));
    }
}

/// What the process writes to or binds has a path of its own. Two logs may have one, such as /dev/null.
fn check_own_files(file: &Section<'_>, server: &Server, log: Option<&AccessLog>) {
    let clean = |path: &Path| path.components().collect::<PathBuf>();
    let access_log = log.and_then(|log| match &log.path {
        LogTarget::File(path) => Some(path.as_path()),
        LogTarget::Stdout => None,
    });
    let files = [
        ("server", "pid_file", Some(server.pid_file.as_path())),
        ("server", "upgrade_sock", Some(server.upgrade_sock.as_path())),
        ("server", "error_log", server.error_log.as_deref()),
        ("access_log", "path", access_log),
    ];
    let mut earlier: Vec<(&str, PathBuf)> = Vec::new();
    for (section, key, path) in files {
        let Some(path) = path.map(clean) else { continue };
        let is_log = |key: &str| !["pid_file", "upgrade_sock"].contains(&key);
        let same = |(other, at): &&(&str, PathBuf)| *at == path && !(is_log(key) && is_log(other));
        let other = earlier.iter().find(same).map(|(other, _)| *other);
        if let (Some(other), Some(map)) = (other, file.get(section)) {
            // One of the two is given, as the defaults differ.
            let field = map.find(key).or_else(|| map.find(other)).unwrap_or(map);
            let found = format!("duplicate path {}", quote(&path.display().to_string()));
            field.error(&Fault::new(found, format!("another than that of {other}")));
        }
        earlier.push((key, path));
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
    let used: HashSet<&PoolName> = warnings::routed_pools(routes)
        .chain(warnings::forwarded_pools(listeners))
        .chain(filters.iter().flat_map(Chain::pools))
        .collect();
    for (pool, (_, field)) in pools.iter().zip(entries.into_iter().flatten()) {
        warnings::pool(&field, pool, used.contains(&pool.name));
    }
}

fn warn_of_pools(file: &Section<'_>, pools: &[Pool], has_admin: bool) {
    let entries = file.get("pools").and_then(|field| field.entries("a map of pools"));
    for (pool, (_, field)) in pools.iter().zip(entries.into_iter().flatten()) {
        unused::pool(&field, pool, has_admin);
    }
}
