//! `${VAR}` and `${VAR:-default}` in scalar values.

use super::diagnostic::{Fault, quote};
use std::borrow::Cow;

/// What becomes of `$$` and of request variables such as `${client_ip}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestVariables {
    /// `$$` is a dollar sign, a request variable an error.
    Refused,
    /// Both stay for [`crate::model::Template`] to read, and no dollar sign from the environment
    /// is mistaken for either. So do `$1` and `${1}`, the groups of a regular expression.
    Kept,
}

/// Looks an environment variable up.
pub(super) type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// `text` with its environment variables replaced. A value is taken as it is: what looks like a
/// variable inside it is not replaced again.
pub(super) fn expand<'t>(
    text: &'t str,
    variables: RequestVariables,
    env: Environment<'_>,
) -> Result<Cow<'t, str>, Fault> {
    if !text.contains('$') {
        return Ok(Cow::Borrowed(text));
    }
    let dollar = match variables {
        RequestVariables::Refused => "$",
        RequestVariables::Kept => "$$",
    };
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            expanded.push_str(dollar);
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let (reference, after) = after.split_once('}').ok_or_else(unclosed)?;
            let value = resolve(reference, variables, env)?;
            expanded.push_str(&value);
            rest = after;
        } else {
            // A dollar sign on its own is common in regular expressions. One with a name is a group of
            // such an expression to those who replace what it matches.
            let named = after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            expanded.push_str(if named { "$" } else { dollar });
            rest = after;
        }
    }
    expanded.push_str(rest);
    Ok(Cow::Owned(expanded))
}

/// What stands for `${reference}`.
fn resolve(
    reference: &str,
    variables: RequestVariables,
    env: Environment<'_>,
) -> Result<String, Fault> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if is_name(name, |byte| byte.is_ascii_lowercase()) {
        return request_variable(reference, variables);
    }
    if variables == RequestVariables::Kept && is_number(reference) {
        return Ok(format!("${{{reference}}}"));
    }
    if !is_name(name, |byte| byte.is_ascii_uppercase()) {
        return Err(bad_name(reference, name));
    }
    if default.is_some_and(|default| default.contains("${")) {
        return Err(Fault::new(
            format!("a variable in the default of {name}"),
            "a default without variables",
        ));
    }
    // As in a shell, an empty variable takes the default too.
    let value = env(name).filter(|value| default.is_none() || !value.is_empty());
    let value = value.or_else(|| default.map(str::to_owned)).ok_or_else(|| unset(name))?;
    Ok(match variables {
        RequestVariables::Refused => value,
        RequestVariables::Kept => value.replace('$', "$$"),
    })
}

fn request_variable(reference: &str, variables: RequestVariables) -> Result<String, Fault> {
    match variables {
        RequestVariables::Kept => Ok(format!("${{{reference}}}")),
        RequestVariables::Refused => Err(Fault::new(
            format!("request variable ${{{reference}}}"),
            "request variables in redirect.to, request_headers and response_headers only; \
             environment variables are in upper case",
        )),
    }
}

fn is_name(name: &str, letter: impl Fn(u8) -> bool) -> bool {
    let first = |byte: u8| letter(byte) || byte == b'_';
    name.bytes().next().is_some_and(first)
        && name.bytes().all(|byte| first(byte) || byte.is_ascii_digit())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn bad_name(reference: &str, name: &str) -> Fault {
    let upper = name.trim().to_uppercase().replace('-', "_");
    let nearest =
        is_name(&upper, |byte| byte.is_ascii_uppercase()).then(|| format!("${{{upper}}}"));
    Fault::new(
        format!("found {}", quote(&format!("${{{reference}}}"))),
        "${NAME} or ${NAME:-default} with a name in upper case, or $$ for a dollar sign",
    )
    .with_nearest(nearest)
}

fn unset(name: &str) -> Fault {
    Fault::new(
        format!("environment variable {name} is not set"),
        format!("a value for it, or a default as in ${{{name}:-default}}"),
    )
}

fn unclosed() -> Fault {
    Fault::new("${ without its }", "${NAME} or ${NAME:-default}, or $$ for a dollar sign")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("example.com".to_owned()),
            "EMPTY" => Some(String::new()),
            "PRICE" => Some("$5 ${HOST}".to_owned()),
            "BRACE" => Some("{host}".to_owned()),
            _ => None,
        }
    }

    fn plain(text: &str) -> Result<String, String> {
        expand(text, RequestVariables::Refused, &env)
            .map(Cow::into_owned)
            .map_err(|fault| fault.to_string())
    }

    #[test]
    fn replaces_variables_once() {
        for (text, expected) in [
            ("no dollar", "no dollar"),
            ("${HOST}:${PORT:-80}", "example.com:80"),
            ("a$$b$$", "a$b$"),
            ("$${HOST}", "${HOST}"),
            ("^/a$", "^/a$"),
            ("$HOST", "$HOST"),
            ("[${EMPTY}][${EMPTY:-x}][${NONE:-}]", "[][x][]"),
            ("${PRICE}", "$5 ${HOST}"),
        ] {
            assert_eq!(plain(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn request_variables_stay_for_templates_and_values_cannot_forge_them() {
        for (text, expected) in [
            ("https://${HOST}${path}", "https://example.com${path}"),
            ("$$${host}", "$$${host}"),
            ("${PRICE}", "$$5 $${HOST}"),
            ("$${host}", "$${host}"),
            ("$${BRACE}", "$${BRACE}"),
            ("$-${BRACE}", "$$-{host}"),
            ("^a$", "^a$$"),
            ("/$1/${2}/$name", "/$1/${2}/$name"),
            ("/$$1/$${2}", "/$$1/$${2}"),
        ] {
            assert_eq!(expand(text, RequestVariables::Kept, &env).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_variable() {
        for (text, expected) in [
            (
                "${NONE}",
                "environment variable NONE is not set; \
                 expected a value for it, or a default as in ${NONE:-default}",
            ),
            (
                "${client_ip}",
                "request variable ${client_ip}; expected request variables in redirect.to, \
                 request_headers and response_headers only; environment variables are in upper case",
            ),
            (
                "${Host}",
                "found \"${Host}\"; expected ${NAME} or ${NAME:-default} with a name in upper \
                 case, or $$ for a dollar sign; did you mean \"${HOST}\"?",
            ),
            (
                "a${2}",
                "found \"${2}\"; expected ${NAME} or ${NAME:-default} with a name in upper case, \
                 or $$ for a dollar sign",
            ),
            (
                "${HOST",
                "${ without its }; expected ${NAME} or ${NAME:-default}, or $$ for a dollar sign",
            ),
            (
                "${A:-${HOST}}",
                "a variable in the default of A; expected a default without variables",
            ),
        ] {
            assert_eq!(plain(text).unwrap_err(), expected, "{text}");
        }
    }
}
