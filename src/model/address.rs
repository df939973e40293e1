//! Addresses we accept on and addresses we dial.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

const UNIX_PREFIX: &str = "unix:";
/// The longest path that fits in a `sockaddr_un` with its final NUL.
pub(crate) const MAX_SOCKET_PATH: usize = 107;

/// A text that is not an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not of the form a listener takes.
    #[error("expected ip:port, [ipv6]:port or unix:/path")]
    Listen,
    /// Not of the form a backend takes.
    #[error("expected ip:port, [ipv6]:port, host:port or unix:/path")]
    Backend,
    /// A backend's port is 0.
    #[error("expected a port from 1 to 65535")]
    Port,
    /// The path of a unix socket is empty or too long for the system.
    #[error("expected a socket path of 1 to 107 bytes")]
    UnixPath,
}

/// Where a listener accepts connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// An IP address and port; port 0 lets the system choose.
    Tcp(SocketAddr),
    /// The path of a unix socket.
    Unix(PathBuf),
}

/// Where a backend is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BackendAddress {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A host name and port; all its addresses are backends.
    Host {
        /// The name, lower case.
        host: String,
        /// The port on each of its addresses.
        port: u16,
    },
    /// The path of a unix socket.
    Unix(PathBuf),
}

fn unix_path(path: &str) -> Result<PathBuf, AddressError> {
    if path.is_empty() || path.len() > MAX_SOCKET_PATH || path.contains('\0') {
        return Err(AddressError::UnixPath);
    }
    Ok(PathBuf::from(path))
}

/// A path relative to the folder of the configuration file, made absolute, without `.` and repeated
/// slashes.
fn resolved(path: &Path, base: &Path) -> PathBuf {
    base.join(path).components().collect()
}

impl ListenAddress {
    /// The port, if it has one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(address) => Some(address.port()),
            Self::Unix(_) => None,
        }
    }

    /// Whether only one of the two can be bound: they are the same, or one is every address of the
    /// other's family and port. Sockets for IPv6 take no IPv4.
    pub fn meets(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(path), Self::Unix(other)) => path == other,
            (Self::Tcp(address), Self::Tcp(other)) => {
                let any = address.ip().is_unspecified() || other.ip().is_unspecified();
                let same_port = address.port() == other.port() && address.port() != 0;
                let same_family = address.is_ipv4() == other.is_ipv4();
                same_port && same_family && (any || address.ip() == other.ip())
            }
            _ => false,
        }
    }

    /// Makes a relative socket path relative to `base`.
    #[must_use]
    pub fn relative_to(self, base: &Path) -> Self {
        match self {
            Self::Unix(path) => Self::Unix(resolved(&path, base)),
            tcp @ Self::Tcp(_) => tcp,
        }
    }
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix(UNIX_PREFIX) {
            Some(path) => unix_path(path).map(Self::Unix),
            None => text.parse().map(Self::Tcp).map_err(|_| AddressError::Listen),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX_PREFIX}{}", path.display()),
        }
    }
}

/// Whether `host` is a host name as in RFC 1123, in any case, without a final dot; underscores are allowed
/// as they occur in internal names. One whose last label is a number would be taken for an IPv4 address.
pub(crate) fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let numeric =
        host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    host.len() <= 253 && host.split('.').all(label) && !numeric
}

impl BackendAddress {
    /// Makes a relative socket path relative to `base`.
    #[must_use]
    pub fn relative_to(self, base: &Path) -> Self {
        match self {
            Self::Unix(path) => Self::Unix(resolved(&path, base)),
            other => other,
        }
    }
}

impl FromStr for BackendAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix(UNIX_PREFIX) {
            return unix_path(path).map(Self::Unix);
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 {
                Err(AddressError::Port)
            } else {
                Ok(Self::Ip(address))
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::Backend)?;
        if !is_host_name(host) {
            return Err(AddressError::Backend);
        }
        match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok(Self::Host { host: host.to_ascii_lowercase(), port }),
            _ => Err(AddressError::Port),
        }
    }
}

impl fmt::Display for BackendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{UNIX_PREFIX}{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form_and_prints_it_back() {
        for text in
            ["127.0.0.1:80", "[::1]:80", "app.internal:9000", "localhost:1", "unix:/run/a.sock"]
        {
            assert_eq!(text.parse::<BackendAddress>().unwrap().to_string(), text);
        }
        for text in ["0.0.0.0:0", "[::]:8080", "unix:/run/a.sock"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn addresses_meet_where_one_socket_excludes_the_other() {
        let read = |text: &str| text.parse::<ListenAddress>().unwrap().relative_to(Path::new("/a"));
        for (one, other, meet) in [
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("[::]:80", "[::1]:80", true),
            ("[::]:80", "0.0.0.0:80", false),
            ("[::]:80", "127.0.0.1:80", false),
            ("0.0.0.0:80", "127.0.0.1:81", false),
            ("127.0.0.2:80", "127.0.0.1:80", false),
            ("0.0.0.0:0", "127.0.0.1:0", false),
            ("unix:a.sock", "unix:./a.sock", true),
            ("unix:/a//b/./c", "unix:b/c", true),
            ("unix:a", "unix:b", false),
            ("unix:a", "0.0.0.0:80", false),
        ] {
            let (one, other) = (read(one), read(other));
            assert_eq!((one.meets(&other), other.meets(&one)), (meet, meet), "{one} {other}");
        }
    }

    #[test]
    fn refuses_what_is_not_an_address() {
        use AddressError::{Backend, Listen, Port, UnixPath};
        let backends = [
            ("9001", Backend),
            ("127.0.0.1", Backend),
            ("127.0.0.1:0", Port),
            ("app:70000", Port),
            ("300.1.1.1:80", Backend),
            ("-a.b:80", Backend),
            ("a..b:80", Backend),
            ("unix:", UnixPath),
        ];
        for (text, error) in backends {
            assert_eq!(text.parse::<BackendAddress>(), Err(error), "{text}");
        }
        for text in ["localhost:80", ":80", "80", "::1:80"] {
            assert_eq!(text.parse::<ListenAddress>(), Err(Listen), "{text}");
        }
    }
}
