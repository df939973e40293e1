//! Tickets: signed values that name a backend without revealing its address.
//!
//! A ticket is what a sticky cookie holds. The backend's tag in it is a keyed hash, so nothing can
//! be learned from it; the whole is signed together with the pool's name and an expiry, so nobody
//! can make one up, use another pool's, or keep one for ever. Without a configured secret the key is
//! random for each start.

use super::Member;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const TAG: usize = 8;
const EXPIRY: usize = 8;
const SIGNATURE: usize = 16;

/// The opaque name of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tag([u8; TAG]);

/// What a ticket says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The backend.
    pub tag: Tag,
    /// When it expires, in seconds of Unix time.
    pub expires: u64,
}

/// Makes and reads the tickets of one pool.
pub struct Tickets {
    pool: String,
    key: Hmac<Sha256>,
}

impl Tickets {
    /// The tickets of the pool called `pool` under `secret`.
    pub fn new(pool: &str, secret: &[u8]) -> Self {
        let key = Hmac::new_from_slice(secret).expect("HMAC takes keys of any length");
        Self { pool: pool.to_owned(), key }
    }

    fn mac(&self, purpose: &[u8], content: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.key.clone();
        mac.update(purpose);
        mac.update(self.pool.as_bytes());
        mac.update(&[0]);
        mac.update(content);
        mac
    }

    /// The tag of `member`, computed once.
    pub fn tag(&self, member: &Member) -> Tag {
        *member.tag.get_or_init(|| {
            let hash = self.mac(b"tag\0", member.key().as_bytes()).finalize().into_bytes();
            let mut tag = [0; TAG];
            tag.copy_from_slice(&hash[..TAG]);
            Tag(tag)
        })
    }

    /// A ticket as text.
    pub fn issue(&self, ticket: Ticket) -> String {
        let mut bytes = Vec::with_capacity(TAG + EXPIRY + SIGNATURE);
        bytes.extend_from_slice(&ticket.tag.0);
        bytes.extend_from_slice(&ticket.expires.to_be_bytes());
        let signature = self.mac(b"ticket\0", &bytes).finalize().into_bytes();
        bytes.extend_from_slice(&signature[..SIGNATURE]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a text says, if it is a ticket of this pool that has not expired at `now`.
    pub fn read(&self, text: &[u8], now: u64) -> Option<Ticket> {
        let mut bytes = [0; TAG + EXPIRY + SIGNATURE];
        let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        if length != bytes.len() {
            return None;
        }
        let (content, signature) = bytes.split_at(TAG + EXPIRY);
        // In constant time: how long it takes must not tell how much of a forgery is right.
        self.mac(b"ticket\0", content).verify_truncated_left(signature).ok()?;
        let (tag, expires) = content.split_at(TAG);
        let expires = u64::from_be_bytes(expires.try_into().ok()?);
        (expires > now).then_some(Ticket { tag: Tag(tag.try_into().ok()?), expires })
    }
}

impl std::fmt::Debug for Tickets {
    /// Everything but the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").field("pool", &self.pool).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::balance::tests::numbered;

    #[test]
    fn a_ticket_is_read_back_until_it_expires() {
        let tickets = Tickets::new("app", b"secret");
        let tag = tickets.tag(&numbered("10.0.0.1:80", 1, 0));
        let ticket = Ticket { tag, expires: 100 };
        let text = tickets.issue(ticket);
        assert_eq!(tickets.read(text.as_bytes(), 99), Some(ticket));
        assert_eq!(tickets.read(text.as_bytes(), 100), None);
        assert!(!text.contains("10.0.0.1"));
    }

    #[test]
    fn forged_and_foreign_tickets_are_nothing() {
        let tickets = Tickets::new("app", b"secret");
        let tag = tickets.tag(&numbered("a", 1, 0));
        let text = tickets.issue(Ticket { tag, expires: u64::MAX });
        for other in [Tickets::new("app", b"other"), Tickets::new("api", b"secret")] {
            assert_eq!(other.read(text.as_bytes(), 0), None);
        }
        for at in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(tickets.read(&forged, 0), None, "at {at}");
        }
        for wrong in ["", "x", "!!", &text[1..], &format!("{text}A"), &"A".repeat(5000)] {
            assert_eq!(tickets.read(wrong.as_bytes(), 0), None, "{wrong:.20}");
        }
    }
}
