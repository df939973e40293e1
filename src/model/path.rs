//! A path in the form in which paths are compared.

use std::borrow::Cow;

/// Why a path has no normal form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not start with `/`.
    #[error("the path does not start with a slash")]
    NotAbsolute,
    /// A NUL, raw or as `%00`, at which some backends would cut the path.
    #[error("the path has a NUL in it")]
    Nul,
    /// A percent sign that is not followed by two hexadecimal digits.
    #[error("the path has a percent sign that encodes nothing")]
    BadEscape,
    /// Its `..` segments lead above the root.
    #[error("the path leaves the root")]
    AboveRoot,
}

/// The path in the form in which all spellings of it are the same: percent-encoded letters, digits and
/// `-._~` are decoded, other percent-encodings in upper case (RFC 3986 section 6.2.2), and dot
/// segments removed (section 5.2.4).
///
/// Backends decode before they look, so a route must not be fooled by the spelling. What is left
/// encoded means something else than the character itself (`%2F` is no `/`). Empty segments (`//`) stay;
/// see [`single_slashes`]. `*`, the target of `OPTIONS *`, is its own normal form. A path in
/// normal form is borrowed.
///
/// ```
/// use pingora_lb::route::{PathError, normal_path};
/// assert_eq!(normal_path("/a/%2E./%62%2f").unwrap(), "/b%2F");
/// assert_eq!(normal_path("/a/../../b"), Err(PathError::AboveRoot));
/// ```
///
/// # Errors
/// [`PathError`] if the path is not absolute, has a NUL or half a percent-encoding in it, or leaves the
/// root.
pub fn normal_path(path: &str) -> Result<Cow<'_, str>, PathError> {
    if path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if memchr::memchr3(0, b'%', b'.', path.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(path));
    }
    if has_nul(path) {
        return Err(PathError::Nul);
    }
    match normal_escapes(path)? {
        Some(spelt) if has_dots(&spelt) => without_dot_segments(&spelt).map(Cow::Owned),
        Some(spelt) => Ok(Cow::Owned(spelt)),
        None if has_dots(path) => without_dot_segments(path).map(Cow::Owned),
        None => Ok(Cow::Borrowed(path)),
    }
}

/// The path with one slash where there are several in a row, which is how routes see it: many backends
/// take them for one.
///
/// ```
/// use pingora_lb::route::single_slashes;
/// assert_eq!(single_slashes("//a///b/"), "/a/b/");
/// ```
pub fn single_slashes(path: &str) -> Cow<'_, str> {
    // Paths are short: preparing a search for two bytes would cost more than this.
    if !path.as_bytes().windows(2).any(|pair| pair == b"//") {
        return Cow::Borrowed(path);
    }
    let mut single = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !single.ends_with('/') {
            single.push(character);
        }
    }
    Cow::Owned(single)
}

/// What a configuration's path is among those of requests: characters that requests can only have
/// percent-encoded are, and it has the form in which routes see paths.
///
/// # Errors
/// As for [`normal_path`].
pub fn path_to_match(text: &str) -> Result<String, PathError> {
    let mut encoded = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii() {
            encoded.push(character);
            continue;
        }
        for byte in character.encode_utf8(&mut [0; 4]).bytes() {
            push_escape(&mut encoded, byte);
        }
    }
    let normal = normal_path(&encoded)?;
    Ok(single_slashes(&normal).into_owned())
}

/// The path with its percent-encodings in normal form; `None` if they are.
fn normal_escapes(path: &str) -> Result<Option<String>, PathError> {
    let bytes = path.as_bytes();
    let mut normal: Option<String> = None;
    let mut copied = 0;
    for at in memchr::memchr_iter(b'%', bytes) {
        let byte = escaped(&bytes[at + 1..]).ok_or(PathError::BadEscape)?;
        let digits = &bytes[at + 1..at + 3];
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if !unreserved && !digits.iter().any(u8::is_ascii_lowercase) {
            continue;
        }
        let normal = normal.get_or_insert_with(|| String::with_capacity(path.len()));
        normal.push_str(&path[copied..at]);
        if unreserved {
            normal.push(char::from(byte));
        } else {
            push_escape(normal, byte);
        }
        copied = at + 3;
    }
    if let Some(normal) = &mut normal {
        normal.push_str(&path[copied..]);
    }
    Ok(normal)
}

/// The byte that the two digits at the start of `text` stand for.
fn escaped(text: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*text.get(at)?).to_digit(16);
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

fn push_escape(text: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    text.extend(['%', digit(byte >> 4), digit(byte & 15)]);
}

fn has_nul(path: &str) -> bool {
    let bytes = path.as_bytes();
    memchr::memchr2_iter(0, b'%', bytes)
        .any(|at| bytes[at] == 0 || bytes[at + 1..].starts_with(b"00"))
}

fn has_dots(path: &str) -> bool {
    path.split('/').any(|segment| matches!(segment, "." | ".."))
}

fn without_dot_segments(path: &str) -> Result<String, PathError> {
    let mut normal = String::with_capacity(path.len());
    let mut last_was_dots = false;
    for segment in path[1..].split('/') {
        last_was_dots = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => normal.truncate(normal.rfind('/').ok_or(PathError::AboveRoot)?),
            _ => normal.extend(["/", segment]),
        }
    }
    // What ends in a dot segment names a folder: `/a/.` is `/a/`, and `/a/..` is `/`.
    if last_was_dots {
        normal.push('/');
    }
    Ok(normal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn removes_dot_segments_however_they_are_spelt() {
        let cases = [
            ("/a/../b", "/b"),
            ("/a/./b", "/a/b"),
            ("/a/b/c/./../../g", "/a/g"),
            ("/.", "/"),
            ("/./", "/"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/../", "/"),
            ("/a/b/..", "/a/"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a/%2e./b", "/b"),
            ("/a/%2E/b", "/a/b"),
            ("/a//../b", "/a/b"),
            ("//..", "/"),
            ("/a/..//b", "//b"),
        ];
        for (path, normal) in cases {
            assert_eq!(normal_path(path).as_deref(), Ok(normal), "{path}");
        }
    }

    #[test]
    fn spells_every_character_in_one_way() {
        let cases = [
            ("/%61%7a%41%39%2D%5f%7E", "/azA9-_~"),
            ("/%2ea", "/.a"),
            ("/%2e%2e%2e", "/..."),
            ("/a%2f..", "/a%2F.."),
            ("/%c3%A9%20x", "/%C3%A9%20x"),
            ("/%2561", "/%2561"),
        ];
        for (path, normal) in cases {
            assert_eq!(normal_path(path).as_deref(), Ok(normal), "{path}");
        }
    }

    #[test]
    fn a_configured_path_is_in_the_form_of_those_of_requests() {
        for (text, path) in [
            ("/caf\u{e9}", "/caf%C3%A9"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/%61//b/", "/a/b/"),
            ("/v1", "/v1"),
        ] {
            assert_eq!(path_to_match(text).as_deref(), Ok(path), "{text}");
        }
    }

    #[test]
    fn borrows_what_is_normal_already() {
        let paths = [
            "/",
            "*",
            "/a",
            "/a/",
            "//a//b",
            "/...",
            "/.a",
            "/a.",
            "/a..b/.well-known",
            "/%252e%252e/",
            "/a%2F..",
            "/a%01%C3%A9",
        ];
        for path in paths {
            assert!(matches!(normal_path(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
        }
    }

    #[test]
    fn refuses_paths_without_a_normal_form() {
        use PathError::{AboveRoot, BadEscape, NotAbsolute, Nul};
        let cases = [
            ("/..", AboveRoot),
            ("/../a", AboveRoot),
            ("/a/../..", AboveRoot),
            ("/a/%2e%2e/%2e%2e/b", AboveRoot),
            ("//../..", AboveRoot),
            ("/a%00", Nul),
            ("/%00/../a", Nul),
            ("/a\0b", Nul),
            ("/100%", BadEscape),
            ("/%6", BadEscape),
            ("/%6%31", BadEscape),
            ("/%%361", BadEscape),
            ("/%zz/../a", BadEscape),
            ("", NotAbsolute),
            ("a", NotAbsolute),
            ("**", NotAbsolute),
            ("../a", NotAbsolute),
        ];
        for (path, error) in cases {
            assert_eq!(normal_path(path), Err(error), "{path:?}");
        }
    }

    proptest! {
        /// The normal form has no dot segment left, is its own normal form, and starts with `/`.
        #[test]
        fn a_normal_path_is_its_own_normal_form(path in "/([a.]|%2[eE]|/|%00){0,12}") {
            if let Ok(normal) = normal_path(&path) {
                prop_assert!(normal.starts_with('/'));
                prop_assert!(!has_dots(&normal));
                prop_assert!(matches!(normal_path(&normal), Ok(Cow::Borrowed(same)) if same == normal));
            }
        }
    }
}
