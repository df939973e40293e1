//! `GET /api/v1/pools`: the pools and their backends.

use super::{
    answer::{self, Answer},
    wall_clock,
};
use crate::{
    model::BackendState,
    pool::{Health, Member, Pool, Time},
    runtime::Snapshot,
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// The pool called `name`.
pub(super) fn find<'s>(snapshot: &'s Snapshot, name: &str) -> Option<&'s Arc<Pool>> {
    snapshot.pools.iter().find(|pool| pool.spec().name.as_str() == name)
}

/// There is no pool of that name.
pub(super) fn unknown(name: &str) -> Answer {
    answer::not_found(&format!("there is no pool {name}"))
}

pub(super) fn describe_all(snapshot: &Snapshot) -> Value {
    let pools: Vec<Value> = snapshot.pools.iter().map(|pool| describe(pool)).collect();
    json!({ "pools": pools })
}

pub(super) fn describe(pool: &Pool) -> Value {
    let (now, members) = (pool.now(), pool.members());
    let usable = members.iter().filter(|member| takes_requests(member, now)).count();
    json!({
        "name": pool.spec().name.as_str(),
        "balance": pool.spec().balance.policy.as_str(),
        "usable": usable,
        "in_flight": pool.core().in_flight(),
        "queued": pool.core().queued(),
        "retries": retries(pool),
        "first_byte": first_byte(pool),
        "backends": backends(&members, now),
    })
}

/// The tries after the first, by what became of them.
fn retries(pool: &Pool) -> Value {
    let counted = pool.core().traffic().retries();
    counted.map(|(what, count)| (what.to_owned(), Value::from(count))).collect()
}

/// How the times to the first byte are spread: how many took at most so many seconds, and all.
fn first_byte(pool: &Pool) -> Value {
    let histogram = pool.core().traffic().first_byte();
    let buckets = histogram.buckets().into_iter();
    let buckets: Vec<Value> =
        buckets.map(|(le, count)| json!({ "le": le, "count": count })).collect();
    json!({ "buckets": buckets, "count": histogram.count() })
}

pub(super) fn backends(members: &[Arc<Member>], now: Time) -> Value {
    members.iter().map(|member| backend(member, now)).collect()
}

fn backend(member: &Member, now: Time) -> Value {
    let state = member.state();
    let until = state.ejected_until(now);
    let health = match member.health() {
        _ if until.is_some() => "ejected",
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
        Health::Unknown => "unknown",
    };
    json!({
        "name": member.name().as_str(),
        "address": member.key(),
        "host_name": member.host_name(),
        "weight": member.weight(),
        "backup": member.is_backup(),
        "state": if state.is_leaving() { "draining" } else { member.admission().as_str() },
        "leaving": state.is_leaving(),
        "added": member.is_added(),
        "health": health,
        "since": wall_clock::moment(state.since(), now),
        "usable": takes_requests(member, now),
        "in_flight": state.in_flight(),
        "requests": state.requests(),
        "ejections": state.traffic().ejections(),
        "errors": state.traffic().failures(),
        "ewma_ms": milliseconds(state.speed(now)),
        "ejected_until": until.map(|until| wall_clock::moment(until, now)),
        "override": overridden(member),
    })
}

/// Whether new requests may go to it, other than those of clients that stay with it.
fn takes_requests(member: &Member, now: Time) -> bool {
    member.is_usable(now) && member.weight() > 0
}

/// What was decided at run time; nothing of it is in the configuration.
fn overridden(member: &Member) -> Value {
    let (state, weight) = member.state().decided();
    if state.is_none() && weight.is_none() {
        return Value::Null;
    }
    json!({ "state": state.map(BackendState::as_str), "weight": weight })
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}
