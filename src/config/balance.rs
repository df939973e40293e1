//! `pools.*.balance:`, how a backend is chosen.

use super::{
    diagnostic::{Fault, alternatives, nearest},
    http::{HEADER_NAME, header_name},
    reader::{Field, Keys, Section},
    scalar::{self, COOKIE_NAME, Hint, cookie_name},
};
use crate::model::{Balance, BalancePolicy, HashOn};
use std::ops::RangeInclusive;

pub(super) const KEYS: Keys =
    Keys { section: "pools.*.balance", names: &["policy", "hash_on", "bounded_load"] };
pub(super) const HASH_ON: Keys =
    Keys { section: "pools.*.balance.hash_on", names: &["header", "cookie", "query"] };

/// What is hashed that needs no name.
const PARTS: [(&str, HashOn); 3] =
    [("client_ip", HashOn::ClientIp), ("path", HashOn::Path), ("uri", HashOn::Uri)];
const HASHED: &str = "client_ip, path, uri, or a map with header, cookie or query";
const PARAMETER: &str = "the name of a query parameter";
/// A bound at the average leaves no room to choose, and one of a hundred averages bounds nothing.
const BOUNDS: RangeInclusive<f64> = 101.0..=10_000.0;
const BOUND: &str = "off, or a percentage from 101% to 10000%";

/// Reads `balance:`, a policy or a map with one.
pub(super) fn read(field: &Field<'_>) -> Option<Balance> {
    if !field.is_map() {
        return policy(field).map(Balance::of);
    }
    let section = field.section(&KEYS)?;
    let policy = section.require("policy", "the name of a policy").and_then(|field| policy(&field));
    let hash_on = section.or("hash_on", HashOn::ClientIp, hash_on);
    let bounded_load = section.optional("bounded_load", bounded_load).flatten();
    let policy = policy?;
    if !policy.is_hashing() {
        refuse_hashing(&section, policy);
    }
    Some(Balance { policy, hash_on, bounded_load })
}

fn policy(field: &Field<'_>) -> Option<BalancePolicy> {
    field.word("policy", &BalancePolicy::ALL.map(|policy| (policy.as_str(), policy)))
}

/// Reports the keys that a policy which hashes nothing would ignore.
fn refuse_hashing(section: &Section<'_>, policy: BalancePolicy) {
    let hashing = BalancePolicy::ALL.into_iter().filter(|policy| policy.is_hashing());
    let expected = format!("policy {}", alternatives(hashing.map(BalancePolicy::as_str)));
    for key in ["hash_on", "bounded_load"] {
        if let Some(field) = section.get(key) {
            let found = format!("\"{key}\" beside policy {policy}, which hashes nothing");
            field.key_error(&Fault::new(found, &expected));
        }
    }
}

fn hash_on(field: &Field<'_>) -> Option<HashOn> {
    if !field.is_map() {
        return field.scalar(HASHED, part);
    }
    let section = field.section(&HASH_ON)?;
    match section.at_most_one(HASH_ON.names) {
        Some(("header", field)) => field.scalar(HEADER_NAME, header_name).map(HashOn::Header),
        Some(("cookie", field)) => field.scalar(COOKIE_NAME, cookie_name).map(HashOn::Cookie),
        Some((_, field)) => field.scalar(PARAMETER, parameter).map(HashOn::Query),
        None => {
            field.error(&Fault::new("found none of header, cookie and query", HASHED));
            None
        }
    }
}

fn part(text: &str) -> Result<HashOn, Hint> {
    let found = PARTS.into_iter().find(|(name, _)| *name == text);
    found
        .map(|(_, part)| part)
        .ok_or_else(|| Hint::nearest(nearest(text, PARTS.map(|(name, _)| name))))
}

fn parameter(text: &str) -> Result<String, Hint> {
    if text.is_empty() { Err(Hint::default()) } else { Ok(text.to_owned()) }
}

/// Reads the share of the average load as a ratio. The inner `None` is no bound.
#[allow(clippy::option_option, reason = "off, and unreadable, are two things")]
fn bounded_load(field: &Field<'_>) -> Option<Option<f64>> {
    if field.is_off() {
        return Some(None);
    }
    let percent = field.scalar(BOUND, |text| scalar::percent_in(text, &BOUNDS))?;
    Some(Some(percent / 100.0))
}
