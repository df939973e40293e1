//! Which values are nobody's business: they are kept out of everything that shows a configuration.
//!
//! A file does not say which of its values are secret, and a filter of somebody's own may have any
//! keys. So names decide: that of the key, of the header field, or of the environment variable that
//! a value comes from. A name too many costs a value that is not shown; one too few, a password in a
//! log. Paths, switches and names of cookies that stand under such names in our own sections are
//! shown, as nothing could be read from `-T` without them.

use super::diagnostic::quote;

pub(super) use crate::model::MASK;

/// The maps whose keys are names of header fields.
const FIELD_MAPS: [&str; 3] = ["headers", "set", "add"];
/// The maps whose keys are names of the user's own, with nothing secret behind them.
const NAMING_MAPS: [&str; 2] = ["split", "sni"];
/// Words that make a key's value a secret.
const OF_KEYS: [&str; 11] = [
    "secret",
    "secrets",
    "token",
    "tokens",
    "password",
    "passwords",
    "passwd",
    "passphrase",
    "authorization",
    "apikey",
    "apikeys",
];
/// Words that do so in names of header fields and of environment variables, where a key is none of
/// the ways to say what something is.
const OF_FIELDS: [&str; 9] =
    ["auth", "cookie", "credential", "credentials", "jwt", "key", "pass", "session", "signature"];
/// How names of variables end that hold the place of a secret.
const PLACES: [&str; 4] = ["file", "path", "dir", "url"];

/// Whether the value at this path, such as `admin.token` or `keys[1]`, is a secret by its name.
pub(super) fn is_named(path: &str) -> bool {
    let mut steps = path.rsplit('.').map(|step| step.split('[').next().unwrap_or(step));
    let [last, parent, above] = std::array::from_fn(|_| steps.next().unwrap_or_default());
    // A condition on a field may be a map: `{ regex: ... }`.
    let conditions = FIELD_MAPS.contains(&above) || above == "query";
    is_of(parent, last) || (conditions && is_of(above, parent))
}

fn is_of(map: &str, key: &str) -> bool {
    if FIELD_MAPS.contains(&map) {
        return has_word(key, &OF_KEYS) || has_word(key, &OF_FIELDS);
    }
    !NAMING_MAPS.contains(&map) && (has_word(key, &OF_KEYS) || is_pair(key))
}

/// Whether one of the variables in `text`, as the file has it, has the name of a secret.
pub(super) fn has_secret_variable(text: &str) -> bool {
    let references = text.split("${").skip(1).filter_map(|rest| rest.split('}').next());
    let mut names = references.map(|it| it.split(":-").next().unwrap_or(it));
    names.any(|name| {
        let place = words(name).last().is_some_and(|last| is_one(last, &PLACES));
        !place && (has_word(name, &OF_KEYS) || has_word(name, &OF_FIELDS))
    })
}

/// Whether there is anything to hide in a value that is a secret by its name.
pub(super) fn hides(text: &str) -> bool {
    !["", "true", "false"].contains(&text)
}

/// `message` without the secret that it quotes. `secret` has its dollar signs doubled, as a
/// [`Template`](crate::model::Template) is read from; the message may have them either way.
pub(super) fn hide(message: &str, secret: &str) -> String {
    let plain = secret.replace("$$", "$");
    message.replace(&quote(secret), MASK).replace(&quote(&plain), MASK)
}

fn has_word(name: &str, among: &[&str]) -> bool {
    words(name).any(|word| is_one(word, among))
}

/// Keys of an API, which are no files: `api_key`, `access-keys`.
fn is_pair(name: &str) -> bool {
    words(name).zip(words(name).skip(1)).any(|(first, second)| {
        is_one(first, &["api", "access", "signing", "encryption"])
            && is_one(second, &["key", "keys"])
    })
}

fn is_one(word: &str, among: &[&str]) -> bool {
    among.iter().any(|other| other.eq_ignore_ascii_case(word))
}

fn words(name: &str) -> impl Iterator<Item = &str> {
    name.split(['-', '_'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_secrets() {
        for path in [
            "admin.token",
            "pools.app.sticky.secret",
            "routes[0].filters[1].request_headers.set.Authorization",
            "routes[0].filters[1].request_headers.add.X-Api-Key",
            "routes[0].filters[1].response_headers.set.set-cookie",
            "pools.app.health_check.http.headers.Proxy-Authorization",
            "pools.app.health_check.http.headers.cookie",
            "routes[0].match.headers.x-auth-token.regex",
            "routes[0].match.query.access_token",
            "routes[0].match.query.token.regex",
            "routes[0].filters[0].mine.api_keys[3]",
            "routes[0].filters[0].mine.Password",
        ] {
            assert!(is_named(path), "{path}");
        }
        for path in [
            "",
            "pools.app.sticky.cookie",
            "pools.app.tls.client_key",
            "listeners.web.tls.certificates[0].key",
            "routes[0].filters[0].rate_limit.key",
            "routes[0].filters[0].request_headers.set.x-env",
            "routes[0].match.headers.x-canary.regex",
            "routes[0].split.token",
            "listeners.pg.sni.token",
            "pools.token.balance",
            "pools.token.tls.sni",
        ] {
            assert!(!is_named(path), "{path}");
        }
    }

    #[test]
    fn variables_tell_secrets() {
        for text in ["${API_KEY}", "Bearer ${A}${DB_PASSWORD:-x}", "https://${USER_TOKEN}@b"] {
            assert!(has_secret_variable(text), "{text}");
        }
        for text in ["", "${HOST}", "$${API_KEY", "${TLS_KEY_FILE}", "${client_ip}", "TOKEN"] {
            let literal = text.starts_with("$$");
            assert!(literal || !has_secret_variable(text), "{text}");
        }
    }
}
