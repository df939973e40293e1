//! What a route does: `pool`, `split`, `redirect` or `respond`.

use super::{
    diagnostic::Fault,
    http::{headers, may_be_set, status, status_among},
    names::Names,
    reader::{Field, Keys},
    scalar::{self, Hint},
};
use crate::model::{PoolName, Redirect, Respond, Split, Template, TemplateError, Variable};
use bytes::Bytes;
use http::{HeaderValue, StatusCode};

pub(super) const REDIRECT: Keys = Keys { section: "routes[*].redirect", names: &["to", "status"] };
pub(super) const RESPOND: Keys =
    Keys { section: "routes[*].respond", names: &["status", "headers", "body"] };

const POOL: &str = "the name of a pool";
const SPLIT: &str = "a map of at least one pool's name to its share";
const LOCATION: &str = "a URL or a path, in which ${path} and the like may stand";
/// The largest share; the shares of a thousand pools still add up in 32 bits.
const MAX_SHARE: u64 = 1_000_000;
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];

pub(super) fn pool(field: &Field<'_>, names: &Names<'_>) -> Option<PoolName> {
    field.scalar(POOL, |text| names.pool(text))
}

pub(super) fn split(field: &Field<'_>, names: &Names<'_>) -> Option<Split> {
    let entries = field.entries(SPLIT)?;
    if entries.is_empty() {
        field.error(&Fault::new("found an empty map", SPLIT));
        return None;
    }
    let shares: Vec<_> = entries.iter().map(|(key, field)| share(key, field, names)).collect();
    let shares = shares.into_iter().collect::<Option<Vec<_>>>()?;
    if shares.iter().all(|(_, share)| *share == 0) {
        field.error(&Fault::new("shares of 0 only", "at least one share above 0"));
        return None;
    }
    Some(Split(shares))
}

fn share(key: &str, field: &Field<'_>, names: &Names<'_>) -> Option<(PoolName, u32)> {
    let share = field.integer(0..=MAX_SHARE).and_then(|share| u32::try_from(share).ok());
    match names.pool(key) {
        Ok(pool) => Some((pool, share?)),
        Err(hint) => {
            field.key_error(&hint.fault(key, POOL));
            None
        }
    }
}

pub(super) fn redirect(field: &Field<'_>) -> Option<Redirect> {
    let section = field.section(&REDIRECT)?;
    let to = section.require("to", LOCATION);
    let secret = to.as_ref().is_some_and(Field::has_secret);
    let to = to.and_then(|field| field.template(LOCATION, location));
    let default = StatusCode::PERMANENT_REDIRECT;
    let status = section.or("status", default, |field| status_among(field, &REDIRECTS));
    Some(Redirect { to: to?, secret, status })
}

fn location(text: &str) -> Result<Template, Hint> {
    let hint = |error| scalar::template_hint(error, Variable::early());
    let template: Template = text.parse().map_err(hint)?;
    let early = Variable::early();
    if let Some(variable) = template.variables().find(|variable| !early.contains(variable)) {
        // There is no pool here.
        return Err(hint(TemplateError::Unknown(variable.as_str().to_owned())));
    }
    let sample = template.render(|_, _| ());
    let valid = !text.is_empty() && HeaderValue::from_str(&sample).is_ok();
    let unspaced = !sample.bytes().any(|byte| byte.is_ascii_whitespace());
    if valid && unspaced { Ok(template) } else { Err(Hint::default()) }
}

pub(super) fn respond(field: &Field<'_>) -> Option<Respond> {
    let section = field.section(&RESPOND)?;
    let status = section
        .require("status", "a status from 200 to 599")
        .and_then(|field| status(&field, 200, 599));
    let headers = section.or("headers", Vec::new(), |field| headers(field, may_be_set));
    let body = section.or("body", Bytes::new(), |field| field.text().map(Bytes::from));
    let status = status?;
    if has_no_body(status) && !body.is_empty() {
        let found = format!("a body with status {}", status.as_str());
        section.get("body")?.error(&Fault::new(found, "no body, which this status forbids"));
        return None;
    }
    Some(Respond { status, headers, body })
}

/// The statuses whose responses end with their head (RFC 9110, 15).
fn has_no_body(status: StatusCode) -> bool {
    matches!(status.as_u16(), 204 | 205 | 304)
}
