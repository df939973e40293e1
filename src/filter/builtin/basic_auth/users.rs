//! The users in an htpasswd file.

use bcrypt::HashParts;
use hmac::{Hmac, digest::CtOutput};
use sha2::Sha256;
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Mutex, PoisonError},
};

/// The costs that a hash may have. bcrypt has none below; one more doubles the time, and the highest
/// here takes several seconds.
const COSTS: std::ops::RangeInclusive<u32> = 4..=16;
const LINE: &str = "a name, a colon and a bcrypt hash";
const BCRYPT: &str = "one of bcrypt, which begins with $2a$, $2b$ or $2y$ (htpasswd -B)";

/// What a verified name and password leave behind: nobody who reads it learns them. Two of them are
/// compared in constant time.
pub(super) type Proof = CtOutput<Hmac<Sha256>>;

/// Users by name. There is at least one.
pub(super) struct Users {
    by_name: HashMap<String, User>,
    /// The hash that takes longest. Who is not a user is verified against it, and it counts for
    /// nothing.
    costliest: String,
}

struct User {
    hash: String,
    /// The line in the file.
    line: usize,
    /// The password that was verified last, so that not every request costs a bcrypt.
    proof: Mutex<Option<Proof>>,
}

/// What is wrong with a file of users. It never says what is in the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// The line; `None` where it is the whole.
    pub(super) line: Option<usize>,
    pub(super) found: String,
    pub(super) expected: String,
}

impl Wrong {
    fn new(found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { line: None, found: found.into(), expected: expected.into() }
    }
}

impl Users {
    /// Reads a file: a user in a line. Empty lines, and those that begin with `#`, are left out.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Wrong> {
        let mut by_name = HashMap::new();
        let mut costliest = (0, String::new());
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let at = |wrong: Wrong| Wrong { line: Some(index + 1), ..wrong };
            let Some((name, hash)) = read_line(line).map_err(at)? else { continue };
            let cost = check(hash).map_err(at)?;
            if cost > costliest.0 {
                costliest = (cost, hash.to_owned());
            }
            let user = User { hash: hash.to_owned(), line: index + 1, proof: Mutex::default() };
            match by_name.entry(name.to_owned()) {
                Entry::Vacant(entry) => entry.insert(user),
                Entry::Occupied(entry) => {
                    let first: &User = entry.get();
                    let found = format!("a name that line {} has already", first.line);
                    return Err(at(Wrong::new(found, "each user once")));
                }
            };
        }
        if by_name.is_empty() {
            return Err(Wrong::new("no users", format!("lines with {LINE}")));
        }
        Ok(Self { by_name, costliest: costliest.1 })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether they are the same with the same hashes.
    pub(super) fn are_same(&self, other: &Self) -> bool {
        let same = |(name, user): (&String, &User)| {
            other.by_name.get(name).is_some_and(|other| other.hash == user.hash)
        };
        self.len() == other.len() && self.by_name.iter().all(same)
    }

    /// Whether the user of that name has proved that before.
    pub(super) fn remembers(&self, name: &str, proof: &Proof) -> bool {
        let Some(user) = self.by_name.get(name) else { return false };
        user.proof.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(proof)
    }

    /// Whether the password is that of the user of that name. It takes as long if there is no such
    /// user: many milliseconds.
    pub(super) fn verify(&self, name: &str, password: &str) -> bool {
        let user = self.by_name.get(name);
        let hash = user.map_or(&self.costliest, |user| &user.hash);
        // Hashes were checked when they were read.
        let matches = bcrypt::verify(password, hash).unwrap_or(false);
        matches && user.is_some()
    }

    /// Remembers what the user of that name has proved.
    pub(super) fn remember(&self, name: &str, proof: Proof) {
        if let Some(user) = self.by_name.get(name) {
            *user.proof.lock().unwrap_or_else(PoisonError::into_inner) = Some(proof);
        }
    }
}

/// The name and the hash in a line; `None` if there are none to be.
fn read_line(line: &[u8]) -> Result<Option<(&str, &str)>, Wrong> {
    let line = std::str::from_utf8(line).map_err(|_| Wrong::new("what is not UTF-8", LINE))?;
    let line = line.trim_end();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, hash) = line.split_once(':').ok_or_else(|| Wrong::new("no colon", LINE))?;
    if name.is_empty() {
        return Err(Wrong::new("no name", LINE));
    }
    Ok(Some((name, hash)))
}

/// Checks a hash; its cost is returned.
fn check(hash: &str) -> Result<u32, Wrong> {
    if !["$2a$", "$2b$", "$2y$"].iter().any(|prefix| hash.starts_with(prefix)) {
        return Err(Wrong::new(kind(hash), BCRYPT));
    }
    let Ok(parts) = hash.parse::<HashParts>() else {
        return Err(Wrong::new("a malformed bcrypt hash", "60 characters as htpasswd writes them"));
    };
    let cost = parts.get_cost();
    if COSTS.contains(&cost) {
        return Ok(cost);
    }
    let expected = format!("a cost from {} to {}", COSTS.start(), COSTS.end());
    Err(Wrong::new(format!("a bcrypt hash of cost {cost}"), expected))
}

/// What a hash is that is not bcrypt's.
fn kind(hash: &str) -> &'static str {
    let kinds = [
        ("$apr1$", "an MD5 hash"),
        ("$1$", "an MD5 hash"),
        ("{SHA}", "a SHA-1 hash"),
        ("{SSHA}", "a SHA-1 hash"),
        ("$5$", "a SHA-256 hash"),
        ("$6$", "a SHA-512 hash"),
        ("$argon2", "an argon2 hash"),
        ("$y$", "a yescrypt hash"),
        ("$2x$", "a hash of a flawed bcrypt"),
    ];
    let found = kinds.iter().find(|(prefix, _)| hash.starts_with(prefix));
    found.map_or("no hash that is known", |(_, kind)| kind)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A line for this user.
    pub(in super::super) fn line(name: &str, password: &str) -> String {
        format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap())
    }

    /// Whatever comes behind the version and the cost of a hash.
    const REST: &str = "CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

    fn wrong(text: &str) -> (Option<usize>, String) {
        let Err(wrong) = Users::read(text.as_bytes()) else { panic!("accepted: {text}") };
        (wrong.line, wrong.found)
    }

    #[test]
    fn users_are_who_gives_their_password() {
        let text = format!(
            "# people\n\n{}{}{}\r\n",
            line("ada", "secret"),
            line("zoë", "pässwörd"),
            line("empty", "").trim_end()
        );
        let users = Users::read(text.as_bytes()).unwrap();
        assert_eq!(users.len(), 3);
        for (name, password, known) in [
            ("ada", "secret", true),
            ("zoë", "pässwörd", true),
            ("empty", "", true),
            ("ada", "Secret", false),
            ("ada", "secret ", false),
            ("ada", "", false),
            ("Ada", "secret", false),
            ("# people", "", false),
            ("", "secret", false),
        ] {
            assert_eq!(users.verify(name, password), known, "{name} {password}");
        }
    }

    /// The password of the costliest hash opens nothing for who is not a user.
    #[test]
    fn an_unknown_user_is_nobody_whatever_the_password() {
        let users = Users::read(line("ada", "secret").as_bytes()).unwrap();
        assert!(!users.verify("eve", "secret"));
    }

    #[test]
    fn every_prefix_of_bcrypt_is_known() {
        // Vectors of other implementations, in which the version makes no difference, and one that
        // libxcrypt has made.
        for (password, hash) in [
            ("", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.7uG0VCzI2bS7j6ymqJi9CdcdxiRTWNy"),
            ("a", "$2a$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe"),
            ("abc", "$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i"),
            ("U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"),
            ("pässwörd:x", "$2b$04$JtQSrsrgPfsexPNvr/QoY.Tqwa.le8gJbA8LzSAbxmWPc07Lcs6aS"),
        ] {
            for version in ["$2a$", "$2b$", "$2y$"] {
                let line = format!("ada:{version}{}\n", &hash[4..]);
                let users = Users::read(line.as_bytes()).unwrap();
                assert!(users.verify("ada", password), "{line}");
                assert!(!users.verify("ada", "other"), "{line}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_without_what_is_in_it() {
        let good = line("ada", "secret");
        let malformed = "a malformed bcrypt hash";
        for (second, found) in [
            ("eve:$apr1$ZjTqBB3f$IF9gdYAGlMrs2fuINjHsz.".to_owned(), "an MD5 hash"),
            ("eve:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=".to_owned(), "a SHA-1 hash"),
            ("eve:$6$salt$hash".to_owned(), "a SHA-512 hash"),
            (format!("eve:$2x$05${REST}"), "a hash of a flawed bcrypt"),
            ("eve:hunter2".to_owned(), "no hash that is known"),
            ("eve:".to_owned(), "no hash that is known"),
            ("eve".to_owned(), "no colon"),
            (":x".to_owned(), "no name"),
            ("eve:$2b$05$short".to_owned(), malformed),
            (format!("eve:$2b$05${}!", &REST[1..]), malformed),
            (format!("eve:$2b$xx${REST}"), malformed),
            (format!("eve:$2b$05${REST}:x"), malformed),
            (format!("eve:$2b$31${REST}"), "a bcrypt hash of cost 31"),
            (format!("eve:$2b$03${REST}"), "a bcrypt hash of cost 3"),
            (good.trim_end().to_owned(), "a name that line 1 has already"),
        ] {
            let text = format!("{good}{second}\n{}", line("zoe", "x"));
            assert_eq!(wrong(&text), (Some(2), found.to_owned()), "{second}");
        }
        assert_eq!(wrong("\n# nobody\n"), (None, "no users".to_owned()));
        let Err(wrong) = Users::read(b"a:\xff") else { panic!("accepted") };
        assert_eq!((wrong.line, wrong.found.as_str()), (Some(1), "what is not UTF-8"));
    }
}
