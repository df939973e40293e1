//! Names, each of its own type so that one cannot be passed for another.

use std::{fmt, sync::Arc};

/// A name that is empty, too long, or has a character that logs, labels or headers cannot carry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to 128 characters, visible ASCII without quotes, commas or backslashes")]
pub struct InvalidName;

const MAX_LENGTH: usize = 128;

fn is_valid(name: &str) -> bool {
    let visible = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b',');
    (1..=MAX_LENGTH).contains(&name.len()) && name.bytes().all(visible)
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Takes `name` if it is valid.
            ///
            /// # Errors
            /// [`InvalidName`] if it is empty, over 128 characters, or not visible ASCII.
            pub fn try_new(name: &str) -> Result<Self, InvalidName> {
                if is_valid(name) { Ok(Self(name.into())) } else { Err(InvalidName) }
            }

            /// The name as written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name!(
    /// The name of a listener.
    ListenerName
);
name!(
    /// The name of a route.
    RouteName
);
name!(
    /// The name of a pool.
    PoolName
);
name!(
    /// The name of a backend within its pool; its address unless the configuration gives one.
    BackendName
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_addresses_and_plain_words() {
        for name in ["app", "app-2", "127.0.0.1:9001", "[::1]:80", "unix:/run/app.sock"] {
            assert_eq!(BackendName::try_new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn refuses_what_a_header_or_label_cannot_carry() {
        for name in ["", "a b", "a\nb", "caf\u{e9}", "a\"b", "a,b", &"x".repeat(129)] {
            assert_eq!(PoolName::try_new(name), Err(InvalidName), "{name:?}");
        }
    }
}
