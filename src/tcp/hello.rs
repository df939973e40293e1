//! The name that a client asks for in its TLS hello.
//!
//! The hello is looked at where it waits, in the kernel, and is passed on untouched: nothing is
//! decrypted, and the backend sees what the client sent. rustls has a parser for hellos as well, but it
//! refuses those that it would not answer itself, such as those of TLS 1.1; that is not ours to decide.

use super::Socket;
use crate::model::Reason;
use std::time::Instant;
use tls_parser::{
    SNIType, TlsExtension, TlsRecordType, nom, parse_tls_extension_sni_content,
    parse_tls_handshake_client_hello, parse_tls_raw_record,
};
use tokio::time::timeout_at;

/// The longest hello, in bytes on the wire. With a key share of post-quantum cryptography and a
/// session ticket one has about 2 KiB; nginx allows as much as this.
const LONGEST: usize = 16 * 1024;
/// A record of TLS begins with its type and a version of 3.x; its first message is a `ClientHello`.
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const LONGEST_NAME: usize = 253;

/// What a client begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// A hello, which asks for this name, in lower case, or for none.
    Hello(Option<Box<str>>),
    /// Something else than TLS.
    NotTls,
}

/// Looks at what the client begins with, until `until`.
///
/// # Errors
/// When that takes too long, is too long, or the client leaves.
pub(super) async fn read(socket: Socket<'_>, until: Instant) -> Result<Beginning, Reason> {
    let looked = timeout_at(until.into(), socket.look(LONGEST, judge)).await;
    match looked {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(_)) => Err(Reason::ClientAborted),
        Err(_) => Err(Reason::ClientTimeout),
    }
}

fn judge(bytes: &[u8], ended: bool) -> Option<Result<Beginning, Reason>> {
    match parse(bytes) {
        Some(beginning) => Some(Ok(beginning)),
        None if bytes.len() >= LONGEST => Some(Err(Reason::BadRequest)),
        None => ended.then_some(Err(Reason::ClientAborted)),
    }
}

/// What `bytes` are the beginning of; `None` if that cannot be told yet. A hello may be cut into several
/// records.
fn parse(bytes: &[u8]) -> Option<Beginning> {
    let mut rest = bytes;
    let mut hello = Vec::new();
    loop {
        if !begins_record(rest) {
            return Some(Beginning::NotTls);
        }
        match parse_tls_raw_record(rest) {
            // A record without anything in it would be one of any number.
            Ok((_, record)) if record.data.is_empty() => return Some(Beginning::NotTls),
            Ok((after, record)) => {
                hello.extend_from_slice(record.data);
                rest = after;
            }
            Err(nom::Err::Incomplete(_)) => return None,
            Err(_) => return Some(Beginning::NotTls),
        }
        if let Some(beginning) = parse_message(&hello) {
            return Some(beginning);
        }
    }
}

/// Whether `bytes`, as far as they are there, are the header of a handshake's record.
fn begins_record(bytes: &[u8]) -> bool {
    let header = [TlsRecordType::Handshake.0, 3];
    bytes.iter().zip(header).all(|(byte, expected)| *byte == expected)
}

/// What a handshake's message is, once it is whole: its type, a length of three bytes, its body.
fn parse_message(message: &[u8]) -> Option<Beginning> {
    if *message.first()? != CLIENT_HELLO {
        return Some(Beginning::NotTls);
    }
    let [_, high, middle, low, body @ ..] = message else { return None };
    let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
    let body = body.get(..length)?;
    match parse_tls_handshake_client_hello(body) {
        Ok((_, hello)) => Some(Beginning::Hello(hello.ext.and_then(server_name))),
        Err(_) => Some(Beginning::NotTls),
    }
}

/// The name in a hello's extensions. Each is a type, a length and as many bytes; those of a kind that
/// nobody here knows are passed over.
fn server_name(mut extensions: &[u8]) -> Option<Box<str>> {
    while let [kind_high, kind_low, high, low, rest @ ..] = extensions {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let content = rest.get(..length)?;
        if u16::from_be_bytes([*kind_high, *kind_low]) == SERVER_NAME {
            return host_name(content);
        }
        extensions = &rest[length..];
    }
    None
}

/// What is no host name matches nothing, and is not to stand in a log either.
fn host_name(content: &[u8]) -> Option<Box<str>> {
    let Ok((_, TlsExtension::SNI(names))) = parse_tls_extension_sni_content(content) else {
        return None;
    };
    let (_, name) = names.into_iter().find(|(kind, _)| *kind == SNIType::HostName)?;
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let valid = (1..=LONGEST_NAME).contains(&name.len()) && name.iter().all(plain);
    let name = std::str::from_utf8(name).ok().filter(|_| valid)?;
    Some(name.to_ascii_lowercase().into())
}

/// What the beginning of some bytes was taken for, the whole is taken for; and a name is one.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let whole = parse(bytes);
    for end in crate::model::cuts(bytes) {
        let beginning = parse(&bytes[..end]);
        assert!(beginning.is_none() || beginning == whole, "first {beginning:?}, then {whole:?}");
    }
    if let Some(Beginning::Hello(Some(name))) = whole {
        assert!((1..=LONGEST_NAME).contains(&name.len()), "{name:?}");
        assert!(!name.contains(|c: char| c.is_ascii_uppercase() || c.is_whitespace()), "{name:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_length(bytes: &[u8], size: usize) -> Vec<u8> {
        let length = (bytes.len() as u32).to_be_bytes();
        [&length[4 - size..], bytes].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes(), &with_length(content, 2)[..]].concat()
    }

    fn sni(name: &[u8]) -> Vec<u8> {
        let name = [&[0][..], &with_length(name, 2)].concat();
        extension(SERVER_NAME, &with_length(&name, 2))
    }

    /// The message of a hello with these extensions, as TLS 1.0 has it: there are no signature
    /// algorithms in it.
    fn message(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 1];
        body.extend([7; 32]);
        body.extend([0]);
        body.extend([0, 2, 0, 0x2f]);
        body.extend([1, 0]);
        body.extend(with_length(extensions, 2));
        [&[CLIENT_HELLO][..], &with_length(&body, 3)].concat()
    }

    fn record(fragment: &[u8]) -> Vec<u8> {
        [&[0x16, 3, 1][..], &with_length(fragment, 2)].concat()
    }

    fn asked(name: &str) -> Beginning {
        Beginning::Hello(Some(name.into()))
    }

    #[test]
    fn finds_the_name_among_other_extensions() {
        let grease = extension(0x0a0a, b"anything at all");
        let extensions = [grease, sni(b"A.Example.com"), extension(16, b"broken")].concat();
        assert_eq!(parse(&record(&message(&extensions))), Some(asked("a.example.com")));
    }

    #[test]
    fn a_hello_may_come_in_any_number_of_records_and_pieces() {
        let message = message(&sni(b"a.example.com"));
        for size in [1, 2, 3, 5, 50] {
            let whole: Vec<u8> = message.chunks(size).flat_map(record).collect();
            for length in 0..whole.len() {
                assert_eq!(parse(&whole[..length]), None, "{length} of {size}");
            }
            assert_eq!(parse(&whole), Some(asked("a.example.com")), "{size}");
        }
    }

    #[test]
    fn a_hello_may_ask_for_no_name() {
        let none = Some(Beginning::Hello(None));
        for extensions in [
            Vec::new(),
            extension(16, b"x"),
            sni(b""),
            sni(b"a b"),
            sni(&[b'a'; 254]),
            sni(b"\xff"),
        ] {
            assert_eq!(parse(&record(&message(&extensions))), none, "{extensions:?}");
        }
    }

    #[test]
    fn what_is_not_tls_is_told_by_its_first_bytes() {
        let not = Some(Beginning::NotTls);
        for bytes in
            [&b"G"[..], b"SSH-2.0", &[0x16, 2], &[0x16, b'x'], &[0x15, 3, 1], &[0x80, 0x2e]]
        {
            assert_eq!(parse(bytes), not, "{bytes:?}");
        }
        assert_eq!(parse(&record(&[2, 0, 0, 0])), not, "a ServerHello");
        assert_eq!(parse(&record(&[])), not, "an empty record");
        assert_eq!(parse(&record(&[CLIENT_HELLO, 0, 0, 1, 3])), not, "a hello that is too short");
        assert_eq!(parse(&[0x16, 3, 1, 0xff, 0xff]), not, "a record that is too long");
    }

    #[test]
    fn a_verdict_is_due_at_the_end_and_at_the_limit() {
        let hello = record(&message(&sni(b"a.example.com")));
        assert_eq!(judge(&hello[..20], false), None);
        assert_eq!(judge(&hello[..20], true), Some(Err(Reason::ClientAborted)));
        let huge = record(&[&[CLIENT_HELLO, 0xff, 0, 0][..], &[0; 8000]].concat()).repeat(3);
        assert_eq!(judge(&huge[..LONGEST], false), Some(Err(Reason::BadRequest)));
    }

    proptest! {
        #[test]
        fn no_input_is_fatal(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0..60_usize) {
            parse(&bytes);
            parse_message(&bytes);
            server_name(&bytes);
            // A good hello with a few bytes of it replaced gets further.
            let mut hello = record(&message(&sni(b"a.example.com")));
            for (byte, new) in hello.iter_mut().skip(at).zip(&bytes[..bytes.len().min(4)]) {
                *byte = *new;
            }
            parse(&hello);
        }
    }
}
