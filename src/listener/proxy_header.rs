//! The PROXY protocol: the header that a proxy in front of us sends ahead of a connection, to say whose
//! it is (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>).
//!
//! The header is looked at in the kernel's buffer and taken from there only when it is whole, so
//! whatever comes after it finds the socket as if there had been none.

use super::drain::{self, Drain};
use crate::{
    model::{Ends, ProxyProtocol},
    tcp::Socket,
};
use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use std::{
    io,
    net::{IpAddr, SocketAddr},
};
use tokio::time::{Instant, timeout_at};

/// What a header of version 2 begins with.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// What a header of version 1 begins with, which no other protocol does.
const V1: [&[u8]; 3] = [b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN"];
/// From here on it can hardly be anything else: the length of `PROXY ` and of the part of version 2
/// that ends in a NUL.
const SURE: usize = 6;
/// The longest header of version 1, its line end included.
const LONGEST_V1: usize = 107;
/// The longest header of version 2 that is taken, as in nginx. What is above the addresses' 52 bytes
/// are values for extensions, none of which is used here.
const LONGEST_V2: usize = 4096;
/// The bytes of a header of version 2 that tell how long it is.
const FIXED_V2: usize = 16;
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// Why a connection is closed before its protocol begins.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejected {
    #[error("its address is none of proxy_protocol_from")]
    NotAllowed,
    #[error("it does not begin with a PROXY header")]
    Missing,
    #[error("its PROXY header is malformed")]
    Malformed,
    #[error("its PROXY header is too long")]
    TooLong,
    #[error("its PROXY header did not come in time")]
    Late,
    #[error("it ended before its PROXY header did")]
    Cut,
    #[error(transparent)]
    Broken(#[from] io::Error),
}

/// A connection that may begin with a header, and what is known of it.
pub(super) struct Expecting<'a> {
    pub(super) socket: Socket<'a>,
    pub(super) protocol: &'a ProxyProtocol,
    /// The address that it comes from; `None` on a unix socket.
    pub(super) peer: Option<IpAddr>,
    /// When the header must be there.
    pub(super) until: Instant,
    /// Whether a client may wait for the server to speak first.
    pub(super) may_be_silent: bool,
}

impl Expecting<'_> {
    /// Takes the header off the connection. `None` is one that leaves its own addresses in force, or
    /// none where there need not be one.
    pub(super) async fn read(&self, drain: &Drain) -> Result<Option<Ends>, Rejected> {
        if !self.protocol.may_come_from(self.peer) {
            return Err(Rejected::NotAllowed);
        }
        let looking = self.socket.look(LONGEST_V2, |bytes, ended| self.judge(bytes, ended));
        let verdict = tokio::select! {
            biased;
            looked = timeout_at(self.until, looking) => match looked {
                Ok(verdict) => verdict??,
                Err(_) => self.last_word()?,
            },
            () = drain::overdue(drain.phase()) => return Err(Rejected::Late),
        };
        let Verdict::Header { length, ends } = verdict else { return Ok(None) };
        self.socket.discard(length)?;
        Ok(ends)
    }

    fn judge(&self, bytes: &[u8], ended: bool) -> Option<Result<Verdict, Rejected>> {
        match look(bytes) {
            Look::Header { length, ends } => Some(Ok(Verdict::Header { length, ends })),
            Look::Wrong(why) => Some(Err(why)),
            Look::Other => Some(self.without_header(Rejected::Missing)),
            Look::Begun if ended => Some(Err(Rejected::Cut)),
            Look::Perhaps if ended => Some(self.without_header(Rejected::Cut)),
            Look::Begun | Look::Perhaps => None,
        }
    }

    /// The time is over: what has not come by now is late, unless it need not come.
    fn last_word(&self) -> Result<Verdict, Rejected> {
        let bytes = self.socket.peek(LONGEST_V2)?;
        match look(&bytes) {
            Look::Perhaps if !bytes.is_empty() || self.may_be_silent => {
                self.without_header(Rejected::Late)
            }
            _ => Err(Rejected::Late),
        }
    }

    fn without_header(&self, otherwise: Rejected) -> Result<Verdict, Rejected> {
        if self.protocol.required { Err(otherwise) } else { Ok(Verdict::NoHeader) }
    }
}

#[derive(Debug)]
enum Verdict {
    Header { length: usize, ends: Option<Ends> },
    NoHeader,
}

/// What the first bytes of a connection are.
#[derive(Debug)]
enum Look {
    /// Too few to tell.
    Perhaps,
    /// The beginning of a header.
    Begun,
    /// A whole header.
    Header { length: usize, ends: Option<Ends> },
    /// A header that is none.
    Wrong(Rejected),
    /// Something else.
    Other,
}

fn look(bytes: &[u8]) -> Look {
    if bytes.starts_with(V2) {
        return look_at_v2(bytes);
    }
    if V1.iter().any(|start| bytes.starts_with(start)) {
        return look_at_v1(bytes);
    }
    if !V1.iter().chain([&V2]).any(|start| start.starts_with(bytes)) {
        return Look::Other;
    }
    if bytes.len() >= SURE { Look::Begun } else { Look::Perhaps }
}

fn look_at_v1(bytes: &[u8]) -> Look {
    let seen = &bytes[..bytes.len().min(LONGEST_V1)];
    let Some(end) = memchr::memchr(b'\n', seen) else {
        return if seen.len() == LONGEST_V1 { Look::Wrong(Rejected::TooLong) } else { Look::Begun };
    };
    let line = &seen[..=end];
    // The library takes what Rust takes for a number, and +80 is one.
    let foreign = line.contains(&b'+') || line.starts_with(b"PROXY UNKNOWN") && is_word(line[13]);
    if foreign { Look::Wrong(Rejected::Malformed) } else { parsed(line) }
}

fn is_word(byte: u8) -> bool {
    !matches!(byte, b' ' | b'\r')
}

fn look_at_v2(bytes: &[u8]) -> Look {
    let Some([command, _, high, low]) = bytes.get(V2.len()..FIXED_V2) else { return Look::Begun };
    if !matches!(*command, LOCAL | PROXY) {
        return Look::Wrong(Rejected::Malformed);
    }
    let length = FIXED_V2 + usize::from(u16::from_be_bytes([*high, *low]));
    if length > LONGEST_V2 {
        return Look::Wrong(Rejected::TooLong);
    }
    match bytes.get(..length) {
        None => Look::Begun,
        // The proxy's own connection: whatever else it says is of no account.
        Some(_) if *command == LOCAL => Look::Header { length, ends: None },
        Some(header) => parsed(header),
    }
}

/// What a whole header says.
fn parsed(header: &[u8]) -> Look {
    let config = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };
    match ProxyHeader::parse(header, config) {
        Ok((said, length)) if length == header.len() => {
            let proxied = said.proxied_address();
            let stream = proxied.filter(|address| address.protocol == Protocol::Stream);
            let ends = stream.map(|address| Ends {
                client: Some(canonical(address.source)),
                server: Some(canonical(address.destination)),
            });
            Look::Header { length, ends }
        }
        _ => Look::Wrong(Rejected::Malformed),
    }
}

/// An IPv4 address that is written as an IPv6 one is an IPv4 address, to `trusted_proxies` for one.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What the beginning of some bytes was taken for, the whole is taken for.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    for end in crate::fuzzing::cuts(bytes) {
        match (look(&bytes[..end]), look(bytes)) {
            (Look::Perhaps | Look::Begun, _)
            | (Look::Other, Look::Other)
            | (Look::Wrong(_), Look::Wrong(_)) => {}
            (Look::Header { length, ends }, Look::Header { length: whole, ends: seen }) => {
                assert_eq!((length, ends), (whole, seen));
                assert!(length <= end);
            }
            (before, after) => panic!("first {before:?}, then {after:?}"),
        }
    }
    if let Look::Header { length, .. } = look(bytes) {
        assert!(length <= bytes.len().min(LONGEST_V2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(bytes: &[u8]) -> Option<(usize, Option<(String, String)>)> {
        match look(bytes) {
            Look::Header { length, ends } => {
                let text = |end: Option<SocketAddr>| end.unwrap().to_string();
                Some((length, ends.map(|ends| (text(ends.client), text(ends.server)))))
            }
            _ => None,
        }
    }

    fn v2(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
        let length = (content.len() as u16).to_be_bytes();
        [V2, &[command, family], &length, content].concat()
    }

    const INET: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0x1f, 0x90, 0, 80];

    fn inet() -> (String, String) {
        ("192.0.2.1:8080".to_owned(), "192.0.2.2:80".to_owned())
    }

    #[test]
    fn reads_version_1() {
        let line = b"PROXY TCP4 192.0.2.1 192.0.2.2 8080 80\r\n";
        assert_eq!(header(line), Some((line.len(), Some(inet()))));
        assert_eq!(
            header(&[line, &b"GET / HTTP/1.1"[..]].concat()),
            Some((line.len(), Some(inet())))
        );
        let line = b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n";
        let ends = ("[2001:db8::1]:1".to_owned(), "[::1]:65535".to_owned());
        assert_eq!(header(line), Some((line.len(), Some(ends))));
        let line = b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:192.0.2.2 8080 80\r\n";
        assert_eq!(header(line), Some((line.len(), Some(inet()))));
        for unknown in
            ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN ::1 ::1 1 2\r\n", "PROXY UNKNOWN what\r\n"]
        {
            assert_eq!(header(unknown.as_bytes()), Some((unknown.len(), None)));
        }
    }

    #[test]
    fn reads_version_2_and_skips_its_extensions() {
        let plain = v2(PROXY, 0x11, &INET);
        assert_eq!(header(&plain), Some((28, Some(inet()))));
        let extended = v2(PROXY, 0x11, &[&INET[..], &[4, 0, 2, 0, 0], &[0xff; 100]].concat());
        assert_eq!(header(&extended), Some((133, Some(inet()))));
        let longest = v2(PROXY, 0x11, &[&INET[..], &[0; LONGEST_V2 - 28]].concat());
        assert_eq!(header(&longest), Some((LONGEST_V2, Some(inet()))));
        let mut inet6 = [0; 36];
        (inet6[15], inet6[31], inet6[33], inet6[35]) = (1, 2, 3, 4);
        let ends = ("[::1]:3".to_owned(), "[::2]:4".to_owned());
        assert_eq!(header(&v2(PROXY, 0x21, &inet6)), Some((52, Some(ends))));
    }

    #[test]
    fn some_headers_of_version_2_name_nobody() {
        for (command, family, content) in [
            (PROXY, 0x00, &[][..]),
            (PROXY, 0x00, &[1, 2, 3]),
            (PROXY, 0x12, &INET),
            (PROXY, 0x31, &[0; 216]),
            (LOCAL, 0x00, &[]),
            (LOCAL, 0x11, &INET),
            (LOCAL, 0x99, &[1]),
        ] {
            let bytes = v2(command, family, content);
            assert_eq!(header(&bytes), Some((bytes.len(), None)), "{command:x} {family:x}");
        }
    }

    #[test]
    fn every_beginning_of_a_header_is_waited_for() {
        for whole in [
            b"PROXY TCP4 192.0.2.1 192.0.2.2 8080 80\r\n".to_vec(),
            b"PROXY TCP6 ::1 ::1 1 2\r\n".to_vec(),
            b"PROXY UNKNOWN\r\n".to_vec(),
            v2(PROXY, 0x11, &INET),
        ] {
            for length in 0..whole.len() {
                let seen = look(&whole[..length]);
                let expected = if length < SURE { "Perhaps" } else { "Begun" };
                assert_eq!(format!("{seen:?}"), expected, "{length} of {whole:?}");
            }
        }
    }

    #[test]
    fn other_protocols_are_told_as_soon_as_they_differ() {
        for other in [
            "G",
            "PO",
            "PROP",
            "PROXY /",
            "PROXY T ",
            "PROXY TCP5",
            "proxy",
            "\r\nG",
            "\r\n\r\nGET",
            "\r\n\r\n\0\r\nQUIX",
            "\u{16}",
            "SSH-2.0",
            "PROXYTCP4 ",
        ] {
            assert!(matches!(look(other.as_bytes()), Look::Other), "{other:?}");
        }
    }

    #[test]
    fn malformed_headers_are_refused() {
        for line in [
            "PROXY TCP4 192.0.2.1 192.0.2.2 8080 80\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 8080\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 8080 80 1\r\n",
            "PROXY TCP4 192.0.2.1  192.0.2.2 8080 80\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 8080 65536\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +80 80\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 -80 80\r\n",
            "PROXY TCP4 192.0.2.256 192.0.2.2 8080 80\r\n",
            "PROXY TCP4 ::1 ::1 8080 80\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 8080 80\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 80\r80\r\n",
            "PROXY TCP4 \r\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY UNKNOWN\n",
        ] {
            assert!(matches!(look(line.as_bytes()), Look::Wrong(Rejected::Malformed)), "{line:?}");
        }
        for (command, family, content) in [
            (0x11, 0x11, &INET[..]),
            (0x22, 0x11, &INET),
            (PROXY, 0x11, &INET[..11]),
            (PROXY, 0x21, &INET),
            (PROXY, 0x31, &[0; 215]),
            (PROXY, 0x41, &INET),
            (PROXY, 0x13, &INET),
        ] {
            let bytes = v2(command, family, content);
            assert!(matches!(look(&bytes), Look::Wrong(Rejected::Malformed)), "{bytes:?}");
        }
    }

    #[test]
    fn headers_without_end_are_refused() {
        let line = [&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat();
        assert!(matches!(look(&line[..LONGEST_V1 - 1]), Look::Begun));
        assert!(matches!(look(&line[..LONGEST_V1]), Look::Wrong(Rejected::TooLong)));
        let huge = v2(PROXY, 0x11, &[0; LONGEST_V2 - FIXED_V2 + 1]);
        assert!(matches!(look(&huge[..FIXED_V2]), Look::Wrong(Rejected::TooLong)));
    }

    proptest! {
        #[test]
        fn no_input_is_fatal(
            start in prop::sample::select(vec![V2, V1[0], V1[1], V1[2], b"" as &[u8]]),
            bytes in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            look(&[start, &bytes].concat());
        }

        #[test]
        fn no_line_is_fatal(rest in "[0-9a-f:. +\r\n]{0,120}") {
            for start in V1 {
                look(&[start, rest.as_bytes()].concat());
            }
        }
    }
}
