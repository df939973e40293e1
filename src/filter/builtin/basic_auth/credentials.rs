//! What a client says who it is.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, header};

/// A name and a password. There is no way to print them.
pub(super) struct Credentials {
    pub(super) name: String,
    pub(super) password: String,
}

impl Credentials {
    /// The credentials in `Authorization`; `None` if there are none, or they are malformed.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut fields = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(field), None) = (fields.next(), fields.next()) else { return None };
        let (scheme, token) = field.to_str().ok()?.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let bytes = STANDARD.decode(token.trim_matches(' ')).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        // RFC 7617, section 2: neither has control characters. To bcrypt, a NUL would end a password.
        if text.bytes().any(|byte| byte.is_ascii_control()) {
            return None;
        }
        let (name, password) = text.split_once(':')?;
        Some(Self { name: name.to_owned(), password: password.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn read(value: &str) -> Option<(String, String)> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        Credentials::of(&headers).map(|it| (it.name, it.password))
    }

    fn encoded(text: &[u8]) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn names_end_at_the_first_colon() {
        for (text, name, password) in [
            ("ada:secret", "ada", "secret"),
            ("ada:", "ada", ""),
            ("ada:a:b::", "ada", "a:b::"),
            ("zoë:pässwörd \u{1f511}", "zoë", "pässwörd \u{1f511}"),
            (":secret", "", "secret"),
        ] {
            let expected = Some((name.to_owned(), password.to_owned()));
            assert_eq!(read(&encoded(text.as_bytes())), expected, "{text}");
        }
        assert!(read("bAsIc  YTpi ").is_some(), "schemes have no case, and spaces do not count");
    }

    #[test]
    fn what_is_malformed_is_nobody() {
        for wrong in [
            "",
            "Basic",
            "Basic ",
            "Basic YTpi YTpi",
            "Basic YTp",
            "Basic YTpi=",
            "Basic !!!!",
            "Bearer YTpi",
            "BasicYTpi",
            &encoded(b"no colon"),
            &encoded(b"ada:\xff\xfe"),
            &encoded(b"ada:a\0b"),
            &encoded(b"a\nda:b"),
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        let mut headers = HeaderMap::new();
        assert!(Credentials::of(&headers).is_none());
        for _ in 0..2 {
            headers.append(header::AUTHORIZATION, HeaderValue::from_static("Basic YTpi"));
        }
        assert!(Credentials::of(&headers).is_none(), "two fields");
    }
}
