//! `basic_auth`: users with a name and a password (RFC 7617), out of an htpasswd file.

mod credentials;
mod desk;
mod user_file;
mod users;

use crate::filter::{
    Answer, Filter, Flow, Request, Result, SettingsError, Setup, settings::FilePath,
};
use credentials::Credentials;
use desk::{Desk, Verdict};
use http::{HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;
use user_file::UserFile;

/// Lets in the users of a file who give their password. Others are answered with 401.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// The file with the users, one in a line: a name, a colon and a bcrypt hash, as `htpasswd -B`
    /// writes it. It is read again when it changes.
    file: FilePath,
    /// What the password is for, as browsers show it.
    #[serde(default = "restricted")]
    realm: String,
}

fn restricted() -> String {
    "restricted".to_owned()
}

/// Lets in the users of a file.
pub(super) struct BasicAuth {
    /// The value of `WWW-Authenticate`.
    challenge: HeaderValue,
    file: Arc<UserFile>,
    desk: Arc<Desk>,
}

impl Filter for BasicAuth {
    const NAME: &'static str = "basic_auth";
    type Settings = Settings;
    const HAS_SIDE_EFFECTS: bool = false;

    fn new(settings: Settings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        let challenge = challenge(&settings.realm)?;
        let file = UserFile::open(settings.file.0)
            .map_err(|fault| SettingsError::new(fault.found, fault.expected).at("file"))?;
        Ok(Self { challenge, file: Arc::new(file), desk: Arc::new(Desk::new()) })
    }

    /// Those who were let in need not be verified anew, unless the file has changed.
    fn adopt(&mut self, predecessor: &Self) {
        self.desk = Arc::clone(&predecessor.desk);
        if self.file.is_same(&predecessor.file) {
            self.file = Arc::clone(&predecessor.file);
        }
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Result {
        if self.file.is_due() {
            let file = Arc::clone(&self.file);
            tokio::task::spawn_blocking(move || file.look()).await?;
        }
        let Some(credentials) = Credentials::of(request.headers()) else { return self.refuse() };
        match self.desk.check(self.file.users(), credentials).await? {
            Verdict::Known => Ok(Flow::Continue),
            Verdict::Unknown => self.refuse(),
            Verdict::Busy => Ok(Answer::new(StatusCode::SERVICE_UNAVAILABLE).into()),
        }
    }
}

impl BasicAuth {
    fn refuse(&self) -> Result {
        let answer = Answer::new(StatusCode::UNAUTHORIZED);
        Ok(answer.header(header::WWW_AUTHENTICATE, self.challenge.clone())?.into())
    }
}

/// The value of `WWW-Authenticate` for a realm.
fn challenge(realm: &str) -> Result<HeaderValue, SettingsError> {
    let text = realm.replace('\\', "\\\\").replace('"', "\\\"");
    let challenge = format!("Basic realm=\"{text}\", charset=\"UTF-8\"");
    let printable = realm.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    let value = HeaderValue::try_from(challenge).ok().filter(|_| printable);
    value.ok_or_else(|| {
        let found = "a realm with characters that no header field may have";
        SettingsError::new(found, "visible ASCII and spaces").at("realm")
    })
}

#[cfg(test)]
mod tests {
    use super::{users::tests::line, *};
    use std::{fs, path::Path};

    #[tokio::test]
    async fn who_was_let_in_before_a_reload_is_known_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let filter = |text: &str| {
            fs::write(&path, text).unwrap();
            let settings = Settings { file: FilePath(path.clone()), realm: restricted() };
            BasicAuth::new(settings, &mut Setup::new(Path::new("/"), &[])).unwrap()
        };
        let ada = || Credentials { name: "ada".to_owned(), password: "secret".to_owned() };
        let knows = |filter: &BasicAuth| {
            let proof = filter.desk.proof(&ada());
            filter.file.users().remembers("ada", &proof)
        };
        let text = line("ada", "secret");
        let old = filter(&text);
        assert!(!knows(&old));
        let verdict = old.desk.check(old.file.users(), ada()).await.unwrap();
        assert!(verdict == Verdict::Known && knows(&old));
        let mut same = filter(&text);
        same.adopt(&old);
        assert!(knows(&same));
        let mut other = filter(&line("ada", "secret"));
        other.adopt(&old);
        assert!(!knows(&other), "the hash is another");
    }

    #[test]
    fn a_realm_is_quoted() {
        let said = |realm: &str| challenge(realm).unwrap().to_str().unwrap().to_owned();
        assert_eq!(said("my site"), r#"Basic realm="my site", charset="UTF-8""#);
        assert_eq!(said(r#"a "b" \c"#), r#"Basic realm="a \"b\" \\c", charset="UTF-8""#);
        for wrong in ["é", "a\nb", "a\tb", "\u{7f}"] {
            assert!(challenge(wrong).is_err(), "{wrong:?}");
        }
    }
}
