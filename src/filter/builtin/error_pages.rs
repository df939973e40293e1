//! `error_pages`: pages of your own for errors.

use crate::filter::{Filter, Flow, Response, Result, SettingsError, Setup, settings::FilePath};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
};

/// The longest page, in bytes. Pages are kept in memory.
const LONGEST: u64 = 1024 * 1024;
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// The content type by the extension of a page's file.
const KINDS: [(&str, &str); 5] = [
    ("html", "text/html; charset=utf-8"),
    ("htm", "text/html; charset=utf-8"),
    ("json", "application/json"),
    ("txt", "text/plain; charset=utf-8"),
    ("xml", "application/xml"),
];

/// The file of the page for each status, such as `502`, or for all from 400 to 499 or 500 to 599,
/// `4xx` and `5xx`.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct Settings(BTreeMap<Statuses, FilePath>);

/// The statuses that a page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
enum Statuses {
    One(u16),
    /// A hundred of them, by their first digit.
    Hundred(u16),
}

/// Replaces the bodies of errors.
#[derive(Debug)]
pub(super) struct ErrorPages(BTreeMap<Statuses, Page>);

#[derive(Debug)]
struct Page {
    kind: HeaderValue,
    body: Bytes,
}

impl Filter for ErrorPages {
    const NAME: &'static str = "error_pages";
    type Settings = Settings;

    fn new(Settings(files): Settings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        if files.is_empty() {
            return Err(SettingsError::new("no pages", "a status with the file of its page"));
        }
        let page = |(statuses, file): (Statuses, FilePath)| {
            let page = Page::read(&file).map_err(|error| error.at(statuses.key()))?;
            Ok((statuses, page))
        };
        files.into_iter().map(page).collect::<Result<_, _>>().map(Self)
    }

    async fn on_response(&self, response: &mut Response<'_>) -> Result {
        let Some(page) = self.page(response.status()) else { return Ok(Flow::Continue) };
        let answer = response
            .with_body(page.body.clone())
            .header(header::CONTENT_TYPE, page.kind.clone())?
            .header(header::CACHE_CONTROL, NO_STORE)?;
        Ok(answer.into())
    }
}

impl ErrorPages {
    fn page(&self, status: StatusCode) -> Option<&Page> {
        let status = status.as_u16();
        let hundred = || self.0.get(&Statuses::Hundred(status / 100));
        self.0.get(&Statuses::One(status)).or_else(hundred)
    }
}

impl Page {
    fn read(path: &FilePath) -> Result<Self, SettingsError> {
        let kind = kind(path)?;
        match read(path) {
            Ok(Some(body)) => Ok(Self { kind, body: body.into() }),
            Ok(None) => {
                Err(SettingsError::new(format!("{} is too long", path.display()), "at most 1 MiB"))
            }
            Err(error) => {
                let found = format!("cannot read {}: {error}", path.display());
                Err(SettingsError::new(found, "a file with the page"))
            }
        }
    }
}

/// What is in a file; `None` if it is too long.
fn read(path: &FilePath) -> io::Result<Option<Vec<u8>>> {
    // Opening what is no file may wait for somebody.
    if !fs::metadata(&**path)?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut body = Vec::new();
    File::open(&**path)?.take(LONGEST + 1).read_to_end(&mut body)?;
    Ok((body.len() as u64 <= LONGEST).then_some(body))
}

fn kind(path: &FilePath) -> Result<HeaderValue, SettingsError> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("");
    let known = KINDS.iter().find(|(known, _)| extension.eq_ignore_ascii_case(known));
    known.map(|(_, kind)| HeaderValue::from_static(kind)).ok_or_else(|| {
        let found = format!("found {}", path.display());
        SettingsError::new(found, "a file that ends in .html, .htm, .json, .txt or .xml")
    })
}

impl Statuses {
    fn key(self) -> String {
        match self {
            Self::One(status) => status.to_string(),
            Self::Hundred(first) => format!("{first}xx"),
        }
    }
}

impl TryFrom<String> for Statuses {
    type Error = SettingsError;

    fn try_from(text: String) -> Result<Self, SettingsError> {
        let all = (400..600).map(Self::One).chain([Self::Hundred(4), Self::Hundred(5)]);
        all.into_iter().find(|statuses| statuses.key() == text).ok_or_else(|| {
            let expected = "a status from 400 to 599, 4xx or 5xx";
            SettingsError::new(format!("found {text:?}"), expected)
        })
    }
}

impl JsonSchema for Settings {
    fn schema_name() -> Cow<'static, str> {
        "ErrorPages".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "object",
            "description": "The file of the page for each status, such as 502, or for all from 400 to 499 or 500 to 599, 4xx and 5xx.",
            "patternProperties": { "^[45]([0-9][0-9]|xx)$": { "type": "string", "minLength": 1 } },
            "additionalProperties": false,
            "minProperties": 1,
        })
    }
}
