//! `GET /api/v1/events`: what has happened to backends lately.

use super::wall_clock;
use crate::{pool::Event, runtime::Snapshot};
use serde_json::{Value, json};
use std::cmp::Reverse;

/// The most that are told: there may be many pools.
const MOST: usize = 200;

/// The latest events of all pools, latest first.
pub(super) fn describe(snapshot: &Snapshot) -> Value {
    let each = snapshot.pools.iter().map(|pool| {
        let (name, now) = (pool.spec().name.as_str(), pool.now());
        pool.core().events().into_iter().map(move |event| (event, name, now))
    });
    // Where several have come at the same moment, their order is kept.
    let mut events: Vec<_> = each.flatten().collect();
    events.reverse();
    events.sort_by_key(|(event, _, _)| Reverse(event.at));
    events.truncate(MOST);
    let described = events.into_iter().map(|(Event { at, backend, address, what }, pool, now)| {
        json!({
            "time": wall_clock::moment(at, now),
            "pool": pool,
            "backend": backend,
            "address": address,
            "event": what.code(),
            "message": what.to_string(),
        })
    });
    json!({ "events": described.collect::<Vec<_>>() })
}
