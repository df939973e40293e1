//! `GET /api/v1/pools`: the pools and their backends.

use super::answer::{self, Answer};
use crate::{
    model::BackendState,
    pool::{Health, Member, Pool, Time},
    runtime::Snapshot,
};
use jiff::{SignedDuration, Timestamp, Unit};
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
    let usable = members.iter().filter(|member| member.is_usable(now)).count();
    json!({
        "name": pool.spec().name.as_str(),
        "balance": pool.spec().balance.policy.as_str(),
        "usable": usable,
        "in_flight": pool.core().in_flight(),
        "queued": pool.core().queued(),
        "backends": backends(&members, now),
    })
}

pub(super) fn backends(members: &[Arc<Member>], now: Time) -> Value {
    members.iter().map(|member| backend(member, now)).collect()
}

fn backend(member: &Member, now: Time) -> Value {
    let state = member.state();
    let until = state.ejected_until(now);
    let health = match state.health() {
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
        "usable": member.is_usable(now),
        "in_flight": state.in_flight(),
        "requests": state.requests(),
        "errors": state.errors(),
        "ewma_ms": milliseconds(state.speed(now)),
        "ejected_until": until.map(|until| moment(until.since(now))),
        "override": overridden(member),
    })
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

/// The moment that is so far away, to the second.
fn moment(away: Duration) -> String {
    let away = SignedDuration::try_from(away).unwrap_or(SignedDuration::MAX);
    let moment = Timestamp::now().saturating_add(away).unwrap_or(Timestamp::MAX);
    moment.round(Unit::Second).unwrap_or(moment).to_string()
}
