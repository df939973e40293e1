//! `pools.*.health_check:`, active probing.

use super::{
    diagnostic::{Fault, quote},
    http::{HOST_AND_PORT, METHOD, headers, host_and_port, method},
    reader::{Field, Keys, Section},
    scalar::{self, Hint},
};
use crate::model::{GrpcProbe, HealthCheck, HttpProbe, Percent, Probe, StatusRange};
use http::{HeaderName, Method, header, uri::PathAndQuery};
use std::{num::NonZeroU32, time::Duration};

pub(super) const KEYS: Keys = Keys {
    section: "pools.*.health_check",
    names: &["http", "tcp", "grpc", "interval", "timeout", "rise", "fall", "jitter"],
};
/// The ways to check; a pool has one of them.
pub(super) const PROBES: &[&str] = KEYS.names.split_at(3).0;
pub(super) const HTTP: Keys = Keys {
    section: "pools.*.health_check.http",
    names: &["path", "method", "host", "headers", "expect_status", "expect_body", "port"],
};
pub(super) const TCP: Keys = Keys { section: "pools.*.health_check.tcp", names: &[] };
pub(super) const GRPC: Keys = Keys { section: "pools.*.health_check.grpc", names: &["service"] };

const TIMEOUT: Duration = Duration::from_secs(2);
const SUCCESS: StatusRange = StatusRange { from: 200, to: 299 };
/// The most checks or failures in a row that may be asked for.
const MAX_IN_A_ROW: u64 = 1000;
const STATUS_RANGE: &str =
    "a status or a range of them from 100 to 599, such as 204 or \"200-299\"";
const PATH: &str = "a path that starts with /, without spaces and without #";

/// The check of a pool that does not say: a TCP handshake every five seconds.
pub(super) fn defaults() -> HealthCheck {
    let (rise, fall) = (NonZeroU32::MIN.saturating_add(1), NonZeroU32::MIN.saturating_add(2));
    let interval = Duration::from_secs(5);
    let jitter = Percent::try_new(10.0).expect("10 is a percentage");
    HealthCheck { probe: Probe::Tcp, interval, timeout: TIMEOUT, rise, fall, jitter }
}

/// Reads `health_check:`. The inner `None` is a check that is off.
#[allow(clippy::option_option, reason = "off, and unreadable, are two things")]
pub(super) fn read(field: &Field<'_>) -> Option<Option<HealthCheck>> {
    if field.is_off() {
        return Some(None);
    }
    let section = field.section_if_on(&KEYS)?;
    let defaults = defaults();
    let probe = match section.at_most_one(PROBES) {
        Some(("http", field)) => http(&field).map(Probe::Http),
        Some(("grpc", field)) => grpc(&field).map(Probe::Grpc),
        Some((_, field)) => field.section(&TCP).map(|_| Probe::Tcp),
        None => Some(Probe::Tcp),
    };
    Some(Some(HealthCheck {
        probe: probe.unwrap_or(Probe::Tcp),
        interval: section.or("interval", defaults.interval, Field::positive_duration),
        timeout: section.or("timeout", defaults.timeout, Field::positive_duration),
        rise: section.or("rise", defaults.rise, in_a_row),
        fall: section.or("fall", defaults.fall, in_a_row),
        jitter: section.or("jitter", defaults.jitter, Field::percent),
    }))
}

/// Reads how many of something in a row it takes.
pub(super) fn in_a_row(field: &Field<'_>) -> Option<NonZeroU32> {
    let number = field.integer(1..=MAX_IN_A_ROW)?;
    u32::try_from(number).ok().and_then(NonZeroU32::new)
}

fn grpc(field: &Field<'_>) -> Option<GrpcProbe> {
    let section = field.section(&GRPC)?;
    let service = |field: &Field<'_>| {
        let expected = "the full name of a service, at most 256 bytes long";
        field.scalar(expected, |text| match text.len() {
            0..=256 => Ok(text.to_owned()),
            _ => Err(Hint::default()),
        })
    };
    Some(GrpcProbe { service: section.or("service", String::new(), service) })
}

fn http(field: &Field<'_>) -> Option<HttpProbe> {
    let section = field.section(&HTTP)?;
    let port = |field: &Field<'_>| u16::try_from(field.integer(1..=u64::from(u16::MAX))?).ok();
    let expect_status = |field: &Field<'_>| field.some_list("a list of statuses", status_range);
    Some(HttpProbe {
        path: section.or("path", "/".to_owned(), |field| field.scalar(PATH, path)),
        method: section.or("method", Method::GET, |field| field.scalar(METHOD, method)),
        host: section.optional("host", |field| field.scalar(HOST_AND_PORT, host_and_port)),
        headers: section.or("headers", Vec::new(), |field| headers(field, may_be_sent)),
        expect_status: section.or("expect_status", vec![SUCCESS], expect_status),
        expect_body: expect_body(&section),
        port: section.optional("port", port),
    })
}

fn expect_body(section: &Section<'_>) -> Option<String> {
    section.optional("expect_body", |field| {
        field.scalar("a text that the body must contain", |text| match text {
            "" => Err(Hint::default()),
            _ => Ok(text.to_owned()),
        })
    })
}

fn path(text: &str) -> Result<String, Hint> {
    let valid = text.starts_with('/')
        && !text.contains('#')
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && text.parse::<PathAndQuery>().is_ok();
    let slashed = format!("/{text}");
    match (valid, text.starts_with('/')) {
        (true, _) => Ok(text.to_owned()),
        (false, false) => Err(Hint::nearest(path(&slashed).ok())),
        (false, true) => Err(Hint::default()),
    }
}

/// `Host` has a key of its own, and the fields that frame a message are the prober's.
fn may_be_sent(name: &HeaderName) -> Result<(), Fault> {
    let found = || format!("header {}", quote(name.as_str()));
    if name == header::HOST {
        return Err(Fault::new(found(), "the key \"host\" beside headers"));
    }
    super::http::may_be_set(name)
}

fn status_range(field: &Field<'_>) -> Option<StatusRange> {
    let status = |text: &str| {
        let number = scalar::integer(text, &(100..=599)).map_err(|_| Hint::default())?;
        u16::try_from(number).map_err(|_| Hint::default())
    };
    field.scalar(STATUS_RANGE, |text| {
        let (from, to) = text.split_once('-').unwrap_or((text, text));
        match (status(from)?, status(to)?) {
            (from, to) if from <= to => Ok(StatusRange { from, to }),
            (from, to) => Err(Hint::nearest(Some(format!("{to}-{from}")))),
        }
    })
}
