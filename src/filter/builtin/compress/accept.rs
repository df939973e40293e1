//! `Accept-Encoding`: which codings a client takes, and how gladly (RFC 9110, 12.5.3).

use super::Algorithm;
use http::{HeaderMap, HeaderValue, header::ACCEPT_ENCODING};

/// The codings that a request accepts.
pub(super) struct Accepted<'r>(&'r HeaderMap);

impl<'r> Accepted<'r> {
    pub(super) fn of(request: &'r HeaderMap) -> Self {
        Self(request)
    }

    /// The algorithm that the client likes best; of equals, the first. `None` if it takes none, or
    /// likes to have the body as it is better than all of them.
    pub(super) fn choose(&self, algorithms: &[Algorithm]) -> Option<Algorithm> {
        let mut best = None;
        let mut most = 0.0;
        for &algorithm in algorithms {
            let quality = self.quality(algorithm.codings()).or_else(|| self.wildcard());
            if let Some(quality) = quality.filter(|quality| *quality > most) {
                (best, most) = (Some(algorithm), quality);
            }
        }
        best.filter(|_| self.identity().is_none_or(|identity| identity <= most))
    }

    /// Whether the client does not take a body as it is.
    pub(super) fn refuses_identity(&self) -> bool {
        self.identity().or_else(|| self.wildcard()) == Some(0.0)
    }

    fn identity(&self) -> Option<f32> {
        self.quality(&["identity"])
    }

    fn wildcard(&self) -> Option<f32> {
        self.quality(&["*"])
    }

    /// The weight of the first of these names of a coding that the client lists.
    fn quality(&self, names: &[&str]) -> Option<f32> {
        let fields = self.0.get_all(ACCEPT_ENCODING).iter().map(HeaderValue::to_str);
        let mut entries = fields.flatten().flat_map(|field| field.split(',')).filter_map(weighted);
        let (_, quality) = entries
            .find(|(coding, _)| names.iter().any(|name| name.eq_ignore_ascii_case(coding)))?;
        Some(quality)
    }
}

/// A coding and its weight, 0 to 1; `None` if the weight is none, as nobody knows what it meant.
fn weighted(entry: &str) -> Option<(&str, f32)> {
    let mut parts = entry.split(';').map(str::trim);
    let coding = parts.next()?;
    let Some(weight) = parts.next() else { return Some((coding, 1.0)) };
    let (name, weight) = weight.split_once('=')?;
    let weight: f32 = weight.trim().parse().ok()?;
    let is_weight = name.trim().eq_ignore_ascii_case("q") && (0.0..=1.0).contains(&weight);
    is_weight.then_some((coding, weight))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Algorithm::{Br, Gzip, Zstd};

    fn chosen(fields: &[&'static str], algorithms: &[Algorithm]) -> Option<Algorithm> {
        Accepted::of(&headers(fields)).choose(algorithms)
    }

    fn headers(fields: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(ACCEPT_ENCODING, HeaderValue::from_static(field));
        }
        headers
    }

    #[test]
    fn the_client_decides_and_the_order_settles_ties() {
        for (accept, expected) in [
            ("gzip", Some(Gzip)),
            ("x-gzip", Some(Gzip)),
            ("GZIP", Some(Gzip)),
            ("gzip, deflate, br, zstd", Some(Zstd)),
            ("gzip, deflate, br", Some(Br)),
            ("gzip;q=1.0, br;q=0.9, zstd;q=0.8", Some(Gzip)),
            ("gzip; q=0.5 , br ; Q=0.6", Some(Br)),
            ("*", Some(Zstd)),
            ("*;q=0.1", Some(Zstd)),
            ("*, zstd;q=0", Some(Br)),
            ("*;q=0, gzip", Some(Gzip)),
            ("gzip;q=0.5, *;q=0.4", Some(Gzip)),
            ("gzip;q=0", None),
            ("gzip;q=0.000", None),
            ("*;q=0", None),
            ("identity", None),
            ("identity;q=0", None),
            ("identity;q=0, gzip", Some(Gzip)),
            ("identity;q=1, gzip;q=0.5", None),
            ("identity;q=0.5, gzip", Some(Gzip)),
            ("identity, gzip", Some(Gzip)),
            ("deflate, compress", None),
            ("gzipped", None),
            ("", None),
            (",, gzip,", Some(Gzip)),
            ("gzip;q=2", None),
            ("gzip;q=-1", None),
            ("gzip;q=NaN", None),
            ("gzip;q=", None),
            ("gzip;level=9", None),
        ] {
            assert_eq!(chosen(&[accept], &[Zstd, Br, Gzip]), expected, "{accept}");
        }
        assert_eq!(chosen(&["gzip, br"], &[Gzip, Br]), Some(Gzip));
        assert_eq!(chosen(&["br, zstd"], &[Gzip]), None);
        assert_eq!(chosen(&["br;q=0.5", "gzip"], &[Br, Gzip]), Some(Gzip));
        assert_eq!(chosen(&[], &[Zstd, Br, Gzip]), None);
    }

    #[test]
    fn identity_is_refused_by_name_or_by_a_wildcard() {
        for (accept, refused) in [
            ("identity;q=0", true),
            ("gzip, *;q=0", true),
            ("identity, *;q=0", false),
            ("gzip", false),
            ("*;q=0.1", false),
            ("", false),
        ] {
            assert_eq!(Accepted::of(&headers(&[accept])).refuses_identity(), refused, "{accept}");
        }
    }
}
