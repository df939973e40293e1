//! The cookie by which a client stays with a backend.

use super::{Exchange, client::HTTPS};
use crate::{
    model::{SameSite, Secure, Sticky},
    pool::{Lease, Member, Pool, Tag, Ticket},
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

/// The value of the cookie called `name`.
pub(super) fn cookie<'a>(request: &'a RequestHeader, name: &str) -> Option<&'a [u8]> {
    let fields = request.headers.get_all(header::COOKIE).into_iter();
    let pairs = fields.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| {
        let equals = memchr::memchr(b'=', pair)?;
        (&pair[..equals] == name.as_bytes()).then_some(&pair[equals + 1..])
    })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

impl Kept {
    /// What the request's cookie says, if the pool has one and it is good: ours, of this pool, and
    /// not too old. Any other is as good as none.
    pub(super) fn of(pool: &Pool, request: &RequestHeader, now: SystemTime) -> Option<Self> {
        let sticky = pool.spec().sticky.as_ref()?;
        let value = cookie(request, &sticky.cookie)?;
        let ticket = pool.tickets().read(value, seconds(now))?;
        // Renewed on every answer, responses could never be cached; a tenth is close enough.
        let left = ticket.expires.saturating_sub(seconds(now));
        let renew = left < sticky.ttl.as_secs().saturating_mul(9) / 10;
        Some(Self { tag: ticket.tag, renew })
    }

    /// A place on the backend that the cookie names, if that still keeps its clients.
    pub(super) fn pick(self, pool: &Pool) -> Option<Lease> {
        pool.core().pick_kept(|member| self.names(pool, member), pool.now())
    }

    /// Whether the cookie names this backend of the pool.
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
        let is_it = |member: &Member| {
            pool.tickets().tag(member) == kept.tag && !self.tried.contains(member)
        };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_cookie_among_others() {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.append_header("Cookie", "a=1; LB=x=y;b=2").unwrap();
        request.append_header("Cookie", "c=3").unwrap();
        assert_eq!(cookie(&request, "LB"), Some(&b"x=y"[..]));
        assert_eq!(cookie(&request, "c"), Some(&b"3"[..]));
        assert_eq!(cookie(&request, "d"), None);
    }

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
