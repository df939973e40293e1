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
    /// Its `..` segments lead above the root.
    #[error("the path leaves the root")]
    AboveRoot,
}

/// The path with its dot segments removed, as in RFC 3986 section 5.2.4.
///
/// A dot may be written `%2e`: backends decode before they resolve, so a route must not be fooled
/// by the spelling. Nothing else is decoded, and empty segments (`//`) are segments like any other.
/// `*`, the target of `OPTIONS *`, is its own normal form. A path without dot segments is borrowed.
///
/// ```
/// use pingora_lb::route::{PathError, normal_path};
/// assert_eq!(normal_path("/a/%2E./b").unwrap(), "/b");
/// assert_eq!(normal_path("/a/../../b"), Err(PathError::AboveRoot));
/// ```
///
/// # Errors
/// [`PathError`] if the path is not absolute, has a NUL in it, or leaves the root.
pub fn normal_path(path: &str) -> Result<Cow<'_, str>, PathError> {
    if path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    let segments = path.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
    if has_nul(path) {
        return Err(PathError::Nul);
    }
    if segments.split('/').all(|segment| Dots::of(segment).is_none()) {
        return Ok(Cow::Borrowed(path));
    }
    without_dot_segments(segments).map(Cow::Owned)
}

fn has_nul(path: &str) -> bool {
    let bytes = path.as_bytes();
    memchr::memchr2_iter(0, b'%', bytes)
        .any(|at| bytes[at] == 0 || bytes[at + 1..].starts_with(b"00"))
}

fn without_dot_segments(segments: &str) -> Result<String, PathError> {
    let mut normal = String::with_capacity(segments.len() + 1);
    let mut last_was_dots = false;
    for segment in segments.split('/') {
        let dots = Dots::of(segment);
        match dots {
            None => normal.extend(["/", segment]),
            Some(Dots::Here) => {}
            Some(Dots::Up) => normal.truncate(normal.rfind('/').ok_or(PathError::AboveRoot)?),
        }
        last_was_dots = dots.is_some();
    }
    // What ends in a dot segment names a folder: `/a/.` is `/a/`, and `/a/..` is `/`.
    if last_was_dots {
        normal.push('/');
    }
    Ok(normal)
}

/// A segment that is a direction rather than a name.
#[derive(Clone, Copy)]
enum Dots {
    Here,
    Up,
}

impl Dots {
    fn of(segment: &str) -> Option<Self> {
        let after_one = after_dot(segment.as_bytes())?;
        if after_one.is_empty() {
            return Some(Self::Here);
        }
        after_dot(after_one)?.is_empty().then_some(Self::Up)
    }
}

/// What follows a dot, plain or percent-encoded, at the start of `text`.
fn after_dot(text: &[u8]) -> Option<&[u8]> {
    match text {
        [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => Some(rest),
        _ => None,
    }
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
            "/%2ea",
            "/%2e%2e%2e",
            "/%252e%252e/",
            "/a%2f..",
            "/a%01",
        ];
        for path in paths {
            assert!(matches!(normal_path(path), Ok(Cow::Borrowed(same)) if same == path), "{path}");
        }
    }

    #[test]
    fn refuses_paths_without_a_normal_form() {
        use PathError::{AboveRoot, NotAbsolute, Nul};
        let cases = [
            ("/..", AboveRoot),
            ("/../a", AboveRoot),
            ("/a/../..", AboveRoot),
            ("/a/%2e%2e/%2e%2e/b", AboveRoot),
            ("//../..", AboveRoot),
            ("/a%00", Nul),
            ("/%00/../a", Nul),
            ("/a\0b", Nul),
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
                prop_assert!(normal.split('/').all(|segment| Dots::of(segment).is_none()));
                prop_assert!(matches!(normal_path(&normal), Ok(Cow::Borrowed(same)) if same == normal));
            }
        }
    }
}
