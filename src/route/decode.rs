//! Query parameters: `application/x-www-form-urlencoded`, decoded byte by byte so that comparing
//! one allocates nothing.

use std::borrow::Cow;

/// The parameters of a query, still encoded. One without `=` has an empty value.
pub(super) fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
}

/// Whether `encoded` stands for `expected`.
pub(super) fn equals(encoded: &str, expected: &str) -> bool {
    bytes(encoded).eq(expected.bytes())
}

/// The text that `encoded` stands for, with what is not UTF-8 replaced.
pub(super) fn text(encoded: &str) -> Cow<'_, str> {
    if memchr::memchr2(b'%', b'+', encoded.as_bytes()).is_none() {
        return Cow::Borrowed(encoded);
    }
    let decoded: Vec<u8> = bytes(encoded).collect();
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

/// The bytes that `encoded` stands for. A `%` without two hexadecimal digits stands for itself.
fn bytes(encoded: &str) -> impl Iterator<Item = u8> + '_ {
    let mut rest = encoded.as_bytes();
    std::iter::from_fn(move || {
        let (byte, after) = match *rest {
            [] => return None,
            [b'+', ref after @ ..] => (b' ', after),
            [b'%', high, low, ref after @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                (hex(high) << 4 | hex(low), after)
            }
            [byte, ref after @ ..] => (byte, after),
        };
        rest = after;
        Some(byte)
    })
}

/// The value of a hexadecimal digit.
fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_escapes_and_plus_signs() {
        let cases = [
            ("", ""),
            ("a+b", "a b"),
            ("%41%7a%5A%5a", "AzZZ"),
            ("%c3%A9", "\u{e9}"),
            ("100%", "100%"),
            ("%4", "%4"),
            ("%zz%41", "%zzA"),
            ("%2B", "+"),
            ("\u{e9}", "\u{e9}"),
        ];
        for (encoded, plain) in cases {
            assert_eq!(text(encoded), plain, "{encoded}");
            assert!(equals(encoded, plain), "{encoded}");
            assert!(!equals(encoded, "other"), "{encoded}");
        }
        assert_eq!(text("%ff"), "\u{fffd}");
    }

    #[test]
    fn splits_parameters_at_their_first_equals_sign() {
        let all: Vec<_> = parameters("&a=1&b&c=&=d&&e=f=g&").collect();
        assert_eq!(all, [("a", "1"), ("b", ""), ("c", ""), ("", "d"), ("e", "f=g")]);
    }
}
