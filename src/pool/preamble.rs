//! What a backend is told of whose connection it is: the header of the PROXY protocol that goes ahead
//! of it (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>).

use super::hash;
use crate::model::{Ends, ProxyVersion};
use proxy_header::{ProxiedAddress, ProxyHeader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The header ahead of a connection to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preamble(Vec<u8>);

impl Preamble {
    /// The header of a client's connection. One without an address, on a unix socket, is nobody's.
    pub fn of_client(version: ProxyVersion, ends: Ends) -> Self {
        let header = ends.client.map(|client| {
            let unknown = || SocketAddr::new(unspecified(client.ip()), 0);
            let (client, server) = alike(client, ends.server.unwrap_or_else(unknown));
            ProxyHeader::with_address(ProxiedAddress::stream(client, server))
        });
        Self::encode(version, &header.unwrap_or_else(ProxyHeader::with_local))
    }

    /// The header of a connection of our own, as health checks make them.
    pub fn of_our_own(version: ProxyVersion) -> Self {
        Self::encode(version, &ProxyHeader::with_local())
    }

    fn encode(version: ProxyVersion, header: &ProxyHeader<'_>) -> Self {
        let mut bytes = Vec::with_capacity(64);
        let encoded = match version {
            ProxyVersion::V1 => header.encode_v1(&mut bytes),
            ProxyVersion::V2 => header.encode_v2(&mut bytes),
        };
        encoded.expect("two addresses of one family, without extensions, can be written");
        Self(bytes)
    }

    /// The header as it is sent.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What tells connections with different headers apart: the next request on one is its client's
    /// too.
    pub fn key(&self) -> u64 {
        hash(&self.0)
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Both addresses in one family, as the header has room for one.
fn alike(client: SocketAddr, server: SocketAddr) -> (SocketAddr, SocketAddr) {
    if client.is_ipv4() == server.is_ipv4() {
        return (client, server);
    }
    (as_v6(client), as_v6(server))
}

fn as_v6(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::new(ip.into(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(client: Option<&str>, server: Option<&str>) -> String {
        let address = |text: &str| text.parse().unwrap();
        let ends = Ends { client: client.map(address), server: server.map(address) };
        String::from_utf8(Preamble::of_client(ProxyVersion::V1, ends).0).unwrap()
    }

    #[test]
    fn version_1_is_a_line_of_text() {
        let (v4, v6) = (Some("192.0.2.1:1"), Some("[2001:db8::1]:2"));
        assert_eq!(v1(v4, v4), "PROXY TCP4 192.0.2.1 192.0.2.1 1 1\r\n");
        assert_eq!(v1(v6, v6), "PROXY TCP6 2001:db8::1 2001:db8::1 2 2\r\n");
        assert_eq!(v1(v4, v6), "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n");
        assert_eq!(v1(v6, v4), "PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 2 1\r\n");
        assert_eq!(v1(v4, None), "PROXY TCP4 192.0.2.1 0.0.0.0 1 0\r\n");
        assert_eq!(v1(v6, None), "PROXY TCP6 2001:db8::1 :: 2 0\r\n");
        assert_eq!(v1(None, v4), "PROXY UNKNOWN\r\n");
    }

    #[test]
    fn version_2_is_binary() {
        let address = |text: &str| text.parse().ok();
        let ends = Ends { client: address("192.0.2.1:258"), server: address("192.0.2.2:80") };
        let expected =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\x01\x02\0\x50";
        assert_eq!(Preamble::of_client(ProxyVersion::V2, ends).as_bytes(), expected);
        let ours = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
        assert_eq!(Preamble::of_our_own(ProxyVersion::V2).as_bytes(), ours);
        assert_eq!(Preamble::of_client(ProxyVersion::V2, Ends::default()).as_bytes(), ours);
    }

    #[test]
    fn different_clients_have_different_keys() {
        let key = |text: &str| {
            let ends = Ends { client: text.parse().ok(), server: None };
            Preamble::of_client(ProxyVersion::V2, ends).key()
        };
        assert_eq!(key("192.0.2.1:1"), key("192.0.2.1:1"));
        assert_ne!(key("192.0.2.1:1"), key("192.0.2.1:2"));
        assert_ne!(key("192.0.2.1:1"), key("192.0.2.2:1"));
    }
}
