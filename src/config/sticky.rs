//! `pools.*.sticky:`, clients that stay with a backend by a cookie.

use super::{
    diagnostic::{Fault, nearest},
    reader::{Field, Keys},
    scalar::{self, COOKIE_NAME, Hint, cookie_name},
};
use crate::model::{SameSite, Secure, Sticky};
use std::time::Duration;

pub(super) const KEYS: Keys = Keys {
    section: "pools.*.sticky",
    names: &["cookie", "ttl", "path", "secure", "same_site", "secret"],
};

const TTL: Duration = Duration::from_secs(3600);
const PATH: &str = "a path that starts with /, without spaces and semicolons";
const SECURE: &str = "auto, true or false";
const SAME_SITE: [(&str, SameSite); 3] =
    [("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)];
/// Half of what the signature has, and more than anyone guesses.
const MIN_SECRET: usize = 16;
const SECRET: &str = "a secret of at least 16 bytes";

/// Reads `sticky:`. The inner `None` is off.
#[allow(clippy::option_option, reason = "off, and unreadable, are two things")]
pub(super) fn read(field: &Field<'_>) -> Option<Option<Sticky>> {
    if field.is_off() {
        return Some(None);
    }
    let section = field.section_if_on(&KEYS)?;
    let cookie = section.require("cookie", COOKIE_NAME);
    let cookie = cookie.and_then(|field| field.scalar(COOKIE_NAME, cookie_name));
    let ttl = section.or("ttl", TTL, |field| field.scalar(scalar::DURATION, ttl));
    let path = section.or("path", "/".to_owned(), |field| field.scalar(PATH, path));
    let secure = section.or("secure", Secure::Auto, |field| field.scalar(SECURE, secure));
    let same_site =
        section.or("same_site", SameSite::Lax, |field| field.word("same_site", &SAME_SITE));
    let secret = section.optional("secret", |field| field.scalar(SECRET, secret));
    if same_site == SameSite::None && secure == Secure::Never {
        let found = "same_site none beside secure false, which browsers refuse";
        section
            .get("same_site")?
            .error(&Fault::new(found, "secure auto or true, or same_site lax"));
    }
    Some(Some(Sticky { cookie: cookie?, ttl, path, secure, same_site, secret }))
}

/// Cookies count in seconds, and one that lives for none is deleted as it arrives.
fn ttl(text: &str) -> Result<Duration, Hint> {
    let ttl = scalar::duration(text)?;
    if ttl < Duration::from_secs(1) {
        return Err(Hint::expected("a duration of at least 1s"));
    }
    Ok(ttl)
}

fn path(text: &str) -> Result<String, Hint> {
    let clean = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';');
    match (clean, text.starts_with('/')) {
        (true, true) => Ok(text.to_owned()),
        (true, false) => Err(Hint::nearest(Some(format!("/{text}")))),
        (false, _) => Err(Hint::default()),
    }
}

fn secure(text: &str) -> Result<Secure, Hint> {
    if text == "auto" {
        return Ok(Secure::Auto);
    }
    match scalar::switch(text) {
        Ok(true) => Ok(Secure::Always),
        Ok(false) => Ok(Secure::Never),
        Err(hint) => Err(Hint::nearest(hint.nearest.or_else(|| nearest(text, ["auto"])))),
    }
}

/// Messages go to logs, so they say how long a secret is and never what it is.
fn secret(text: &str) -> Result<String, Hint> {
    if text.len() < MIN_SECRET {
        let found = Some(format!("found one of {} bytes", text.len()));
        return Err(Hint { found, ..Hint::default() });
    }
    Ok(text.to_owned())
}
