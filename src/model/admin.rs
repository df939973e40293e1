//! The admin API: where it is, and who may use it.

use super::ListenAddress;
use std::{fmt, net::IpAddr};

/// `admin:` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Where it accepts.
    pub address: ListenAddress,
    /// What requests must show; always there if others than this machine's can connect.
    pub token: Option<Token>,
    /// Host names and IP addresses, in lower case and without ports, by which clients may call it
    /// besides its own.
    pub hosts: Vec<String>,
}

impl Admin {
    /// Whether `address` is one that only this machine's own processes can connect to.
    pub fn is_local(address: &ListenAddress) -> bool {
        match address {
            ListenAddress::Tcp(address) => is_loopback(address.ip()),
            ListenAddress::Unix(_) => true,
        }
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// A secret that travels in a header field. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The longest there is, in bytes.
    pub const LONGEST: usize = 1024;

    /// Takes `text` if a header field can carry it: 1 to 1024 visible ASCII characters.
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=Self::LONGEST).contains(&text.len());
        (fits && text.bytes().all(|byte| byte.is_ascii_graphic())).then(|| Self(text.to_owned()))
    }

    /// The secret.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}
