//! `compress`: response bodies compressed on their way to clients that take them so.

mod accept;
mod encoder;
mod media;

use super::vary::vary;
use crate::filter::{
    FieldError, Filter, Flow, Response, ResponseBody, Result, SettingsError, Setup, settings::Size,
};
use accept::Accepted;
use encoder::Encoder;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use media::MediaRange;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is said of the bytes of a body, and not true of the compressed ones.
const OF_THE_BYTES: [HeaderName; 5] = [
    header::ACCEPT_RANGES,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// Response bodies are compressed for clients that take them so.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// The algorithms, the preferred one first: a client that likes several equally well gets the
    /// first of them. Default: `[zstd, br, gzip]`.
    #[serde(default = "all_algorithms")]
    algorithms: Vec<Algorithm>,
    /// Bodies that are known to be shorter are left as they are. Default: `1KiB`.
    #[serde(default = "one_kibibyte")]
    min_size: Size,
    /// The kinds of content that are compressed: `text/html`, `text/*`, `application/*+json` or
    /// `*/*`. Default: text, JSON, XML, JavaScript, WebAssembly, SVG and fonts that are not
    /// compressed themselves.
    #[serde(default = "default_types")]
    types: Vec<MediaRange>,
}

/// A way to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Algorithm {
    /// Zstandard.
    Zstd,
    /// Brotli.
    Br,
    /// gzip.
    Gzip,
}

impl Algorithm {
    /// The names by which clients accept it; the first is the one that responses have.
    fn codings(self) -> &'static [&'static str] {
        match self {
            Self::Zstd => &["zstd"],
            Self::Br => &["br"],
            Self::Gzip => &["gzip", "x-gzip"],
        }
    }
}

fn all_algorithms() -> Vec<Algorithm> {
    vec![Algorithm::Zstd, Algorithm::Br, Algorithm::Gzip]
}

fn one_kibibyte() -> Size {
    Size(1024)
}

fn default_types() -> Vec<MediaRange> {
    let range = |text: &str| text.to_owned().try_into().expect("the default is valid");
    media::DEFAULT.into_iter().map(range).collect()
}

/// Compresses response bodies.
pub(super) struct Compress {
    algorithms: Vec<Algorithm>,
    min_size: u64,
    types: Vec<MediaRange>,
}

/// What is kept for a response that is being compressed; empty once its body has ended.
struct Encoding(Option<Encoder>);

impl Filter for Compress {
    const NAME: &'static str = "compress";
    type Settings = Settings;

    fn new(settings: Settings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        let Settings { algorithms, min_size, types } = settings;
        if algorithms.is_empty() {
            return Err(SettingsError::new("no algorithms", "at least one").at("algorithms"));
        }
        if types.is_empty() {
            return Err(SettingsError::new("no types", "at least one").at("types"));
        }
        Ok(Self { algorithms, min_size: *min_size, types })
    }

    async fn on_response(&self, response: &mut Response<'_>) -> Result {
        // This response may replace one that was to be compressed.
        if let Some(encoding) = response.kept_mut::<Encoding>() {
            encoding.0 = None;
        }
        if response.status() == StatusCode::NOT_MODIFIED {
            confirm(response)?;
        } else if self.can_be_compressed(response) {
            self.compress(response)?;
        }
        Ok(Flow::Continue)
    }

    fn on_response_body(&self, piece: &mut ResponseBody<'_>) -> Result<()> {
        let (data, is_end) = (piece.data().clone(), piece.is_end());
        let Some(Encoding(kept)) = piece.kept_mut() else { return Ok(()) };
        let compressed = match kept {
            Some(_) if !is_end && data.is_empty() => return Ok(()),
            Some(encoder) if !is_end => encoder.piece(&data)?,
            _ => match kept.take() {
                Some(encoder) => encoder.finish(&data)?,
                None => return Ok(()),
            },
        };
        piece.replace(compressed);
        Ok(())
    }
}

impl Compress {
    /// Whether a client that asks for it could have this response compressed, whatever its length.
    fn can_be_compressed(&self, response: &Response<'_>) -> bool {
        let has_body = response.may_have_body() || response.method() == Method::HEAD;
        let partial = response.status() == StatusCode::PARTIAL_CONTENT
            || response.headers().contains_key(header::CONTENT_RANGE);
        let bare = [StatusCode::SWITCHING_PROTOCOLS, StatusCode::NO_CONTENT];
        has_body
            && !partial
            && !bare.contains(&response.status())
            && !is_encoded(response.headers())
            && !forbids_transforming(response.headers())
            && !forbids_transforming(response.request_headers())
            && response.body_length() != Some(0)
            && self.is_of_a_type(response)
    }

    fn is_of_a_type(&self, response: &Response<'_>) -> bool {
        let Some(content_type) = response.header(header::CONTENT_TYPE.as_str()) else {
            return false;
        };
        !media::is_never_compressed(content_type)
            && self.types.iter().any(|range| range.matches(content_type))
    }

    /// Compresses the response if the client takes it so.
    fn compress(&self, response: &mut Response<'_>) -> Result<()> {
        let length = response.body_length();
        let accepted = Accepted::of(response.request_headers());
        let algorithm = accepted.choose(&self.algorithms);
        let is_short = length.is_some_and(|length| length < self.min_size);
        if is_short && !(accepted.refuses_identity() && algorithm.is_some()) {
            return Ok(());
        }
        vary(response, &["Accept-Encoding"])?;
        let Some(algorithm) = algorithm else { return Ok(()) };
        weaken_etag(response)?;
        for name in OF_THE_BYTES {
            response.remove_header(name)?;
        }
        response.will_change_body();
        if response.method() == Method::HEAD {
            // What a GET would get is unlike this, but there is nothing to compress.
            return Ok(());
        }
        response.set_header(header::CONTENT_ENCODING, algorithm.codings()[0])?;
        response.keep(Encoding(Some(Encoder::new(algorithm, length)?)));
        Ok(())
    }
}

/// Whether a body has a coding already.
fn is_encoded(headers: &HeaderMap) -> bool {
    let codings = lists(headers, &header::CONTENT_ENCODING);
    codings.into_iter().any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))
}

/// Whether whoever sent a message wants its body left as it is.
fn forbids_transforming(headers: &HeaderMap) -> bool {
    let mut directives = lists(headers, &header::CACHE_CONTROL);
    directives.any(|directive| directive.eq_ignore_ascii_case("no-transform"))
}

/// The entries of all fields of that name that are comma-separated lists.
fn lists<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let fields = headers.get_all(name).into_iter().map(HeaderValue::to_str);
    fields.flatten().flat_map(|field| field.split(',')).map(str::trim)
}

/// The tag of a body that is equal, if not byte for byte.
fn weak(etag: &str) -> Option<String> {
    etag.starts_with('"').then(|| format!("W/{etag}"))
}

/// The compressed bytes are not those that a strong tag vouches for.
fn weaken_etag(response: &mut Response<'_>) -> Result<(), FieldError> {
    match response.header(header::ETAG.as_str()).and_then(weak) {
        Some(etag) => response.set_header(header::ETAG, etag),
        None => Ok(()),
    }
}

/// A 304 to a client that has the compressed response must have the tag of that, or the client does
/// not know which of its responses is meant (RFC 9111, 4.3.4).
fn confirm(response: &mut Response<'_>) -> Result<(), FieldError> {
    let etag = response.header(header::ETAG.as_str()).and_then(weak);
    let asked = |etag: &String| {
        // A tag ends with the only quote that may follow its first, so it is found whole.
        let fields = response.request_headers().get_all(header::IF_NONE_MATCH).into_iter();
        fields.filter_map(|field| field.to_str().ok()).any(|field| field.contains(&**etag))
    };
    if etag.as_ref().is_some_and(asked) {
        weaken_etag(response)?;
        vary(response, &["Accept-Encoding"])?;
    }
    Ok(())
}
