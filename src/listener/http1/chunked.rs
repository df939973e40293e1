//! Finds the end of a chunked body, and refuses one whose framing is not exactly RFC 9112's.
//!
//! The scanner changes nothing and keeps nothing: Pingora decodes the same bytes afterwards. It is
//! strict because two readers that disagree about where a body ends are how requests are smuggled.

use super::head::is_token;

/// The longest chunk line, extensions included, and the longest trailer section.
const MAX_LINE: usize = 4 * 1024;
const MAX_TRAILERS: usize = 16 * 1024;

/// The framing is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the hexadecimal digits of a chunk size.
    Size {
        size: u64,
        digits: u8,
    },
    /// In a chunk extension.
    Extension {
        size: u64,
        length: usize,
    },
    /// After the CR that ends a chunk line.
    SizeLf {
        size: u64,
    },
    /// In the data of a chunk.
    Data {
        left: u64,
    },
    /// After the data of a chunk.
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the empty line that ends the body.
    LineStart {
        length: usize,
    },
    /// In the name of a trailer.
    Name {
        length: usize,
    },
    /// In the value of a trailer.
    Line {
        length: usize,
    },
    LineLf {
        length: usize,
    },
    /// After the CR of the empty line.
    EndLf,
    Done,
}

/// Walks over a chunked body, however it is cut into pieces.
#[derive(Debug)]
pub(super) struct ChunkScanner(State);

impl ChunkScanner {
    pub(super) fn new() -> Self {
        Self(State::Size { size: 0, digits: 0 })
    }

    /// Whether the body has ended.
    pub(super) fn is_done(&self) -> bool {
        self.0 == State::Done
    }

    /// Walks over `bytes` and says how many of them belong to the body: all of them, unless it
    /// ends before.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < bytes.len() && self.0 != State::Done {
            if let State::Data { left } = self.0 {
                let here = left.min((bytes.len() - at) as u64);
                at += here as usize;
                self.0 =
                    if here == left { State::DataCr } else { State::Data { left: left - here } };
            } else {
                self.0 = step(self.0, bytes[at])?;
                at += 1;
            }
        }
        Ok(at)
    }
}

fn step(state: State, byte: u8) -> Result<State, Malformed> {
    match (state, byte) {
        (State::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
            // Fifteen digits are an exabyte and cannot overflow.
            if digits == 15 {
                return Err(Malformed);
            }
            Ok(State::Size { size: size * 16 + hex(byte), digits: digits + 1 })
        }
        (State::Size { size, digits: 1.. } | State::Extension { size, .. }, b'\r') => {
            Ok(State::SizeLf { size })
        }
        (State::Size { size, digits: 1.. }, b';') => Ok(State::Extension { size, length: 1 }),
        (State::Extension { size, length }, byte) if is_text(byte) && length < MAX_LINE => {
            Ok(State::Extension { size, length: length + 1 })
        }
        (State::SizeLf { size: 0 }, b'\n') => Ok(State::LineStart { length: 0 }),
        (State::SizeLf { size }, b'\n') => Ok(State::Data { left: size }),
        (State::DataCr, b'\r') => Ok(State::DataLf),
        (State::DataLf, b'\n') => Ok(State::Size { size: 0, digits: 0 }),
        (State::LineStart { .. }, b'\r') => Ok(State::EndLf),
        (State::EndLf, b'\n') => Ok(State::Done),
        (State::LineStart { length } | State::Name { length } | State::Line { length }, byte)
            if byte != b'\r' && length >= MAX_TRAILERS =>
        {
            Err(Malformed)
        }
        (State::LineStart { length } | State::Name { length }, byte) if is_token(byte) => {
            Ok(State::Name { length: length + 1 })
        }
        (State::Name { length }, b':') => Ok(State::Line { length: length + 1 }),
        (State::Line { length }, byte) if is_text(byte) => Ok(State::Line { length: length + 1 }),
        (State::Line { length }, b'\r') => Ok(State::LineLf { length }),
        (State::LineLf { length }, b'\n') => Ok(State::LineStart { length }),
        _ => Err(Malformed),
    }
}

fn hex(digit: u8) -> u64 {
    char::from(digit).to_digit(16).map_or(0, u64::from)
}

/// Whether a byte may stand in a field value or a chunk extension.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(body: &[u8]) -> Result<(usize, bool), Malformed> {
        let mut scanner = ChunkScanner::new();
        scanner.advance(body).map(|length| (length, scanner.is_done()))
    }

    const BODIES: [&str; 5] = [
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "A;x=\"y z\"\r\n0123456789\r\n0\r\n\r\n",
        "1\r\na\r\n0\r\nX-T: 1\r\nY-T: 2\r\n\r\n",
        "00a\r\n0123456789\r\n000\r\n\r\n",
    ];

    #[test]
    fn finds_the_end_and_leaves_what_follows() {
        for body in BODIES {
            let with_more = format!("{body}GET / HTTP/1.1\r\n");
            assert_eq!(whole(with_more.as_bytes()), Ok((body.len(), true)), "{body:?}");
        }
    }

    #[test]
    fn finds_the_end_byte_by_byte() {
        for body in BODIES {
            let mut scanner = ChunkScanner::new();
            for byte in body.as_bytes() {
                assert!(!scanner.is_done(), "{body:?}");
                assert_eq!(scanner.advance(&[*byte]), Ok(1), "{body:?}");
            }
            assert!(scanner.is_done(), "{body:?}");
        }
    }

    #[test]
    fn refuses_what_is_not_exactly_chunked() {
        let long_extension = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(MAX_LINE));
        let many_trailers = format!("0\r\n{}\r\n", "a:\r\n".repeat(MAX_TRAILERS / 2 + 1));
        for body in [
            "0x2\r\nab\r\n0\r\n\r\n",
            "+2\r\nab\r\n0\r\n\r\n",
            "-1\r\n",
            "\r\n",
            ";x\r\n",
            "2\nab\r\n0\r\n\r\n",
            "2\r\nabc\r\n0\r\n\r\n",
            "2\r\nab0\r\n\r\n",
            "2\r\nab\n0\r\n\r\n",
            "ffffffffffffffff\r\n",
            "0\r\n\n",
            "0\r\n folded\r\n\r\n",
            "0\r\nX: \0\r\n\r\n",
            "0\r\n: 1\r\n\r\n",
            "0\r\nX\r\n\r\n",
            "0\r\nX : 1\r\n\r\n",
            &many_trailers,
            "1;\x01\r\n",
            &long_extension,
        ] {
            assert_eq!(whole(body.as_bytes()), Err(Malformed), "{body:?}");
        }
    }
}
