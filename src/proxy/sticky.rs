//! The cookie by which a client stays with a backend.

use super::{Exchange, client::HTTPS};
use crate::{
    filter::cookie_of,
    model::{SameSite, Secure, Sticky},
    pool::{Member, Pool, Tag, Ticket},
};
use http::header;
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
};
use std::{
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What a good cookie says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    tag: Tag,
    /// Whether it is old enough to be renewed.
    renew: bool,
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

impl Kept {
    /// What the request's cookie says, if the pool has one and it is good: ours, of this pool, and
    /// not too old. Any other is as good as none.
    pub(super) fn of(pool: &Pool, request: &RequestHeader) -> Option<Self> {
        let sticky = pool.spec().sticky.as_ref()?;
        let value = cookie_of(&request.headers, &sticky.cookie)?;
        let now = seconds(SystemTime::now());
        let ticket = pool.tickets().read(value, now)?;
        // Renewed on every answer, responses could never be cached; a tenth is close enough.
        let left = ticket.expires.saturating_sub(now);
        let renew = left < sticky.ttl.as_secs().saturating_mul(9) / 10;
        Some(Self { tag: ticket.tag, renew })
    }

    /// Whether a member of `pool` is the backend that the cookie names.
    pub(super) fn names(self, pool: &Pool, member: &Member) -> bool {
        pool.tickets().tag(member) == self.tag
    }
}

impl Exchange {
    /// Has the client stay with the backend that it is on, if it does not know that already.
    pub(super) fn keep_client(&self, response: &mut ResponseHeader) -> Result<()> {
        let (Some(pool), Some(member)) = (&self.pool, self.backend()) else { return Ok(()) };
        let Some(sticky) = &pool.spec().sticky else { return Ok(()) };
        let tag = pool.tickets().tag(member);
        if self.kept.is_some_and(|kept| self.stands(kept, tag, pool)) {
            return Ok(());
        }
        let expires = seconds(SystemTime::now()) + sticky.ttl.as_secs();
        let value = pool.tickets().issue(Ticket { tag, expires });
        response
            .append_header(header::SET_COOKIE, attributes(sticky, &value, self.scheme == HTTPS))?;
        Ok(())
    }

    /// Whether what the client's cookie says still stands: the backend is the one that it is on, or
    /// one that it only missed because that was full for a moment.
    fn stands(&self, kept: Kept, tag: Tag, pool: &Pool) -> bool {
        if kept.tag == tag {
            return !kept.renew;
        }
        let is_it = |member: &Member| kept.names(pool, member) && !self.tried.contains(member);
        pool.core().keeps_clients(is_it, pool.now())
    }
}

fn attributes(sticky: &Sticky, value: &str, tls: bool) -> String {
    let mut text = format!(
        "{}={value}; Path={}; Max-Age={}; HttpOnly",
        sticky.cookie,
        sticky.path,
        sticky.ttl.as_secs()
    );
    let same_site = match sticky.same_site {
        SameSite::Lax => "Lax",
        SameSite::Strict => "Strict",
        SameSite::None => "None",
    };
    write!(text, "; SameSite={same_site}").expect("writing to a String cannot fail");
    let secure = match sticky.secure {
        Secure::Auto => tls,
        Secure::Always => true,
        Secure::Never => false,
    };
    if secure {
        text.push_str("; Secure");
    }
    text
}

/// A cookie is found where it stands and nowhere else, and only what was issued is a ticket. The first
/// line is the cookie's name, each further one a field.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let name = lines.next().and_then(|name| std::str::from_utf8(name).ok());
    let Some(name) = name.filter(|name| !name.is_empty() && !name.contains([';', '='])) else {
        return;
    };
    let mut request = RequestHeader::build("GET", b"/", None).expect("a request");
    let fields: Vec<_> =
        lines.filter_map(|line| header::HeaderValue::from_bytes(line).ok()).collect();
    for field in &fields {
        request.append_header(header::COOKIE, field.clone()).expect("it is a value");
    }
    let found = cookie_of(&request.headers, name);
    let start = format!("{name}=").into_bytes();
    let stands = |value: &[u8]| {
        let whole = [&start[..], value].concat();
        let mut pairs = fields.iter().flat_map(|field| field.as_bytes().split(|b| *b == b';'));
        pairs.any(|pair| pair.trim_ascii() == whole)
    };
    match found {
        Some(value) => assert!(stands(value) && !value.contains(&b';'), "{value:?}"),
        None => assert!(!stands(b""), "an empty cookie is one, too"),
    }
    let tickets = crate::pool::Tickets::new(name, b"sixteen bytes or more");
    assert_eq!(tickets.read(found.unwrap_or(bytes), 0), None, "nobody issued it");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_secure_when_it_should_be() {
        let sticky = |secure| Sticky {
            cookie: "LB".into(),
            ttl: Duration::from_secs(60),
            path: "/".into(),
            secure,
            same_site: SameSite::Lax,
            secret: None,
        };
        let base = "LB=v; Path=/; Max-Age=60; HttpOnly; SameSite=Lax";
        assert_eq!(attributes(&sticky(Secure::Auto), "v", false), base);
        assert_eq!(attributes(&sticky(Secure::Auto), "v", true), format!("{base}; Secure"));
        assert_eq!(attributes(&sticky(Secure::Never), "v", true), base);
    }
}
