//! `routes:`, rules that map a request to a pool, a redirect or a fixed response.

use super::{
    action,
    diagnostic::{Fault, alternatives},
    filters,
    http::{self, UPGRADE},
    matches,
    names::{NAME, Names},
    reader::{Field, Keys, Once, Section},
    scalar::Hint,
    unused,
};
use crate::{
    filter::Chain,
    model::{Action, Match, PoolName, Route, RouteListeners, RouteName, Upgrades},
};

pub(super) const KEYS: Keys = Keys {
    section: "routes[*]",
    names: &[
        "name",
        "listeners",
        "match",
        "filters",
        "pool",
        "split",
        "redirect",
        "respond",
        "timeout",
        "allow_upgrade",
    ],
};

const ACTIONS: [&str; 4] = ["pool", "split", "redirect", "respond"];

/// Reads every route.
pub(super) fn read_all(field: &Field<'_>, names: &Names<'_>) -> Option<Vec<(Route, Chain)>> {
    let items = field.items("a list of routes")?;
    let mut once = Once::default();
    let routes: Vec<_> =
        items.iter().enumerate().map(|(index, item)| read(item, index, names, &mut once)).collect();
    routes.into_iter().collect()
}

/// The route of a file without routes: everything to its only pool.
pub(super) fn catch_all(pool: PoolName) -> Option<Route> {
    Some(Route {
        name: default_name(0)?,
        listeners: RouteListeners::All,
        matches: Match::default(),
        action: Action::Pool(pool),
        timeout: None,
        upgrades: Upgrades::default(),
    })
}

fn default_name(index: usize) -> Option<RouteName> {
    RouteName::try_new(&format!("route-{}", index + 1)).ok()
}

fn read(
    field: &Field<'_>,
    index: usize,
    names: &Names<'_>,
    once: &mut Once,
) -> Option<(Route, Chain)> {
    let section = field.section(&KEYS)?;
    let name = name(&section, index, once);
    let listeners = section.or("listeners", RouteListeners::All, |field| listeners(field, names));
    let matches = section.or("match", Match::default(), matches::read);
    let chain = |field: &Field<'_>| filters::read(field, names.pools()).map(Chain::new);
    let filters = section.or("filters", Chain::default(), chain);
    let action = action(&section, names);
    let timeout = section.optional("timeout", Field::positive_duration);
    let upgrades = section.or("allow_upgrade", Upgrades::default(), upgrades);
    let route = Route { name: name?, listeners, matches, action: action?, timeout, upgrades };
    unused::route(&section, &route, &filters);
    Some((route, filters))
}

fn upgrades(field: &Field<'_>) -> Option<Upgrades> {
    let mut once = Once::default();
    let items = field.items("a list of protocols")?;
    let mut read = |item: &Field<'_>| {
        let name = item.scalar(UPGRADE, http::upgrade)?;
        once.check(&name.to_ascii_lowercase(), "protocol", item);
        Some(name)
    };
    let found: Vec<_> = items.iter().map(&mut read).collect();
    found.into_iter().collect::<Option<Vec<_>>>().map(Upgrades)
}

fn name(section: &Section<'_>, index: usize, once: &mut Once) -> Option<RouteName> {
    let Some(field) = section.get("name") else {
        let name = default_name(index)?;
        once.check(name.as_str(), "name", section.field());
        return Some(name);
    };
    let name = field.scalar(NAME, |text| RouteName::try_new(text).map_err(|_| Hint::default()))?;
    once.check(name.as_str(), "name", &field);
    Some(name)
}

fn listeners(field: &Field<'_>, names: &Names<'_>) -> Option<RouteListeners> {
    let mut once = Once::default();
    let expected = "a list of at least one listener's name";
    let items = field.some_items(expected)?;
    let mut read = |item: &Field<'_>| {
        let name = item.scalar("the name of a listener", |text| names.listener(text))?;
        once.check(name.as_str(), "listener", item);
        Some(name)
    };
    let found: Vec<_> = items.iter().map(&mut read).collect();
    found.into_iter().collect::<Option<Vec<_>>>().map(RouteListeners::Only)
}

fn action(section: &Section<'_>, names: &Names<'_>) -> Option<Action> {
    let Some((key, field)) = section.at_most_one(&ACTIONS) else {
        let expected = format!("exactly one of {}", alternatives(ACTIONS));
        section.field().error(&Fault::new("a route that does nothing", expected));
        return None;
    };
    match key {
        "pool" => action::pool(&field, names).map(Action::Pool),
        "split" => action::split(&field, names).map(Action::Split),
        "redirect" => action::redirect(&field).map(Action::Redirect),
        _ => action::respond(&field).map(Action::Respond),
    }
}
