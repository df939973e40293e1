//! Texts as numbers, switches, durations, sizes and percentages.

use super::{
    Percent, TemplateError, Variable,
    fault::{Fault, alternatives, nearest, quote},
};
use std::{ops::RangeInclusive, time::Duration};

/// What a duration looks like, for messages.
pub(crate) const DURATION: &str = "a duration such as 250ms, 5s, 1m30s or 1h";
/// What a size looks like, for messages.
pub(crate) const SIZE: &str = "a size such as 512B, 64KiB, 10MiB or 1GiB";
/// What a percentage looks like, for messages.
pub(crate) const PERCENT: &str = "a percentage from 0% to 100%";
/// What a switch looks like, for messages.
pub(crate) const SWITCH: &str = "true or false";
/// What the name of a cookie looks like, for messages.
pub(crate) const COOKIE_NAME: &str = "the name of a cookie, such as LB_BACKEND";

/// The longest duration: a year. Clocks can be added to it without overflow.
const MAX_DURATION_MS: u64 = 365 * 24 * 3600 * 1000;
/// The units of durations, largest first, in milliseconds.
const DURATION_UNITS: [(&str, u128); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
/// The units of sizes, in bytes.
const SIZE_UNITS: [(&str, u64); 4] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// What a parser of scalars adds to the message that the text is not what was expected.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Hint {
    /// In the place of `found "..."`.
    pub(crate) found: Option<String>,
    /// In the place of what the key expects in general.
    pub(crate) expected: Option<String>,
    /// The nearest valid spelling.
    pub(crate) nearest: Option<String>,
}

impl Hint {
    pub(crate) fn expected(expected: impl Into<String>) -> Self {
        Self { expected: Some(expected.into()), ..Self::default() }
    }

    pub(crate) fn nearest(nearest: Option<String>) -> Self {
        Self { nearest, ..Self::default() }
    }

    /// The message about `text` where `expected` is expected in general.
    pub(crate) fn fault(self, text: &str, expected: &str) -> Fault {
        Fault {
            found: self.found.unwrap_or_else(|| format!("found {}", quote(text))),
            expected: self.expected.unwrap_or_else(|| expected.to_owned()),
            nearest: self.nearest,
        }
    }
}

/// Reads a duration such as `250ms`, `5s`, `1m30s` or `1h`: whole numbers with units, the larger
/// unit first. A number needs a unit, 0 too. The longest is a year.
///
/// # Errors
/// A [`Fault`] that names what was found and, where it can be guessed, what was meant.
///
/// ```
/// let duration = pingora_lb::config::parse_duration("1m30s")?;
/// assert_eq!(duration.as_secs(), 90);
/// # Ok::<(), pingora_lb::config::Fault>(())
/// ```
pub fn parse_duration(text: &str) -> Result<Duration, Fault> {
    duration(text).map_err(|hint| hint.fault(text, DURATION))
}

/// Reads a percentage such as `20%` or `0.5%`, from `0%` to `100%`.
///
/// # Errors
/// A [`Fault`] that names what was found and, where it can be guessed, what was meant.
///
/// ```
/// let percent = pingora_lb::config::parse_percent("20%")?;
/// assert!((percent.fraction() - 0.2).abs() < 1e-9);
/// # Ok::<(), pingora_lb::config::Fault>(())
/// ```
pub fn parse_percent(text: &str) -> Result<Percent, Fault> {
    percent(text).map_err(|hint| hint.fault(text, PERCENT))
}

pub(crate) fn duration(text: &str) -> Result<Duration, Hint> {
    let milliseconds = milliseconds(text).ok_or_else(|| duration_hint(text))?;
    match u64::try_from(milliseconds) {
        Ok(milliseconds) if milliseconds <= MAX_DURATION_MS => {
            Ok(Duration::from_millis(milliseconds))
        }
        _ => Err(Hint::expected("a duration of at most 8760h, a year")),
    }
}

/// A duration as [`parse_duration`] reads it, in whole milliseconds.
pub(crate) fn duration_text(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    let mut text = String::new();
    for (unit, factor) in DURATION_UNITS {
        if rest >= factor {
            text.push_str(&(rest / factor).to_string());
            text.push_str(unit);
            rest %= factor;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Reads a duration above zero.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, Hint> {
    match duration(text)? {
        Duration::ZERO => Err(Hint::expected("a duration above zero, such as 250ms or 5s")),
        duration => Ok(duration),
    }
}

/// The milliseconds in `text` if it is a duration; too many are as many as there can be.
fn milliseconds(text: &str) -> Option<u128> {
    let mut rest = text;
    let mut total = 0_u128;
    let mut units = &DURATION_UNITS[..];
    while !rest.is_empty() {
        let (digits, after) = split_number(rest)?;
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let index = units.iter().position(|(unit, _)| *unit == &after[..end])?;
        let factor = units[index].1;
        let part = digits.parse::<u128>().map_or(u128::MAX, |n| n.saturating_mul(factor));
        total = total.saturating_add(part);
        // Each unit once, the larger first.
        units = &units[index + 1..];
        rest = &after[end..];
    }
    (!text.is_empty()).then_some(total)
}

/// Digits, and what comes after them.
fn split_number(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

fn duration_hint(text: &str) -> Hint {
    if is_digits(text) {
        let nearest = Some(format!("{text}s"));
        return Hint { expected: Some(format!("{DURATION}, with its unit")), nearest, found: None };
    }
    let mut compact: String = text.to_lowercase().split_whitespace().collect();
    for (long, short) in [
        ("seconds", "s"),
        ("secs", "s"),
        ("sec", "s"),
        ("minutes", "m"),
        ("min", "m"),
        ("hours", "h"),
    ] {
        compact = compact.replace(long, short);
    }
    Hint::nearest(Some(compact).filter(|compact| milliseconds(compact).is_some()))
}

/// A size as [`size`] reads it, in the largest unit that it is a multiple of.
pub(crate) fn size_text(size: u64) -> String {
    let fits = |(_, factor): &&(&str, u64)| size.is_multiple_of(*factor) && size >= *factor;
    let (unit, factor) = SIZE_UNITS.iter().rev().find(fits).unwrap_or(&SIZE_UNITS[0]);
    format!("{}{unit}", size / factor)
}

/// Reads a size in bytes.
pub(crate) fn size(text: &str) -> Result<u64, Hint> {
    let wrong = || Hint::nearest(size_nearest(text));
    let (digits, unit) = split_number(text).ok_or_else(wrong)?;
    let factor = match unit {
        "" => 1,
        _ => SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1,
    };
    let too_big = || Hint::expected("a smaller size");
    digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(too_big)
}

fn size_nearest(text: &str) -> Option<String> {
    let (digits, unit) = split_number(text)?;
    let unit = match unit.trim().to_lowercase().as_str() {
        "b" | "bytes" => "B",
        "k" | "kb" | "kib" => "KiB",
        "m" | "mb" | "mib" => "MiB",
        "g" | "gb" | "gib" => "GiB",
        _ => return None,
    };
    Some(format!("{digits}{unit}"))
}

pub(crate) fn percent(text: &str) -> Result<Percent, Hint> {
    let number = percent_in(text, &(0.0..=100.0))?;
    Percent::try_new(number).map_err(|_| Hint::default())
}

/// Reads a percentage in `range`, which may go beyond the whole.
pub(crate) fn percent_in(text: &str, range: &RangeInclusive<f64>) -> Result<f64, Hint> {
    let in_range = |text: &str| decimal(text).filter(|number| range.contains(number));
    if let Some(number) = text.strip_suffix('%') {
        return in_range(number).ok_or_else(Hint::default);
    }
    Err(Hint::nearest(in_range(text).map(|_| format!("{text}%"))))
}

/// Digits, and more behind a point.
fn decimal(text: &str) -> Option<f64> {
    let digit = |c: char| c.is_ascii_digit();
    let decimal = text.chars().all(|c| digit(c) || c == '.');
    if decimal && text.starts_with(digit) && text.ends_with(digit) {
        text.parse().ok()
    } else {
        None
    }
}

/// What a whole number in `range` looks like, for messages.
pub(crate) fn integer_in(range: &RangeInclusive<u64>) -> String {
    format!("a whole number from {} to {}", range.start(), range.end())
}

/// Reads a whole number in decimal digits.
pub(crate) fn integer(text: &str, range: &RangeInclusive<u64>) -> Result<u64, Hint> {
    let in_range = |text: &str| text.parse::<u64>().ok().filter(|number| range.contains(number));
    if !is_digits(text) {
        return Err(Hint::default());
    }
    let plain = text.trim_start_matches('0');
    if plain.len() < text.len() && text != "0" {
        // 010 is 8 to some readers and 10 to others.
        return Err(Hint::nearest(in_range(plain).map(|number| number.to_string())));
    }
    in_range(text).ok_or_else(Hint::default)
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Reads the name of a cookie: a token (RFC 6265, 4.1.1).
pub(crate) fn cookie_name(text: &str) -> Result<String, Hint> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let valid = !text.is_empty() && text.bytes().all(token);
    if valid { Ok(text.to_owned()) } else { Err(Hint::default()) }
}

/// Reads a switch: `true` or `on`, `false` or `off`.
pub(crate) fn switch(text: &str) -> Result<bool, Hint> {
    match text {
        "true" | "on" => Ok(true),
        "false" | "off" => Ok(false),
        _ => {
            let lower = text.to_lowercase();
            let nearest = match lower.as_str() {
                "yes" | "y" | "on" | "1" => Some("true".to_owned()),
                "no" | "n" | "off" | "0" => Some("false".to_owned()),
                _ => nearest(&lower, ["true", "false"]),
            };
            Err(Hint::nearest(nearest))
        }
    }
}

/// Reads one of a few words. `what` names their kind, such as "policy".
pub(crate) fn word<T: Copy>(text: &str, what: &str, words: &[(&str, T)]) -> Result<T, Hint> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let names = || words.iter().map(|(word, _)| *word);
    Err(Hint {
        found: Some(format!("unknown {what} {}", quote(text))),
        expected: Some(alternatives(names())),
        nearest: meant(text, names()),
    })
}

/// Words that others have for what a word here is, where the spelling alone does not lead to it.
const ELSEWHERE: [(&str, &str); 20] = [
    ("leastconn", "least_connections"),
    ("least_conn", "least_connections"),
    ("least_request", "least_connections"),
    ("rr", "round_robin"),
    ("wrr", "round_robin"),
    ("ewma", "peak_ewma"),
    ("power_of_two_choices", "p2c"),
    ("ip_hash", "ring_hash"),
    ("consistent_hash", "ring_hash"),
    ("warning", "warn"),
    ("verbose", "debug"),
    ("drain", "draining"),
    ("disable", "disabled"),
    ("down", "disabled"),
    ("up", "active"),
    ("enabled", "active"),
    ("brotli", "br"),
    ("zstandard", "zstd"),
    ("certs", "certificates"),
    ("h2", "http2"),
];

/// The one of `names` that `text` is most likely to stand for: by what it is called elsewhere, else the
/// nearest spelling.
pub(crate) fn meant<'n>(
    text: &str,
    names: impl Iterator<Item = &'n str> + Clone,
) -> Option<String> {
    let lower = text.to_lowercase();
    let elsewhere = ELSEWHERE.into_iter().find(|(other, _)| *other == lower);
    let known = elsewhere.filter(|(_, word)| names.clone().any(|name| name == *word));
    known.map_or_else(|| nearest(text, names), |(_, word)| Some(word.to_owned()))
}

/// What is wrong with a template in which `variables` may stand.
pub(crate) fn template_hint(error: TemplateError, variables: &[Variable]) -> Hint {
    let names = || variables.iter().map(|variable| variable.as_str());
    match error {
        TemplateError::Unknown(name) => Hint {
            found: Some(format!("unknown request variable {}", quote(&name))),
            expected: Some(alternatives(names())),
            nearest: nearest(&name, names()),
        },
        TemplateError::Unclosed => Hint {
            found: Some("${ without its }".to_owned()),
            ..Hint::expected("${name}, or $$ for a dollar sign")
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        parse_duration(text).unwrap_err().to_string()
    }

    #[test]
    fn durations_are_numbers_with_units() {
        for (text, milliseconds) in [
            ("250ms", 250),
            ("5s", 5000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("1h1m1s1ms", 3_661_001),
            ("0s", 0),
            ("8760h", MAX_DURATION_MS),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["0s", "1ms", "250ms", "1s500ms", "1m30s", "1h", "1h1m1s1ms", "8760h"] {
            assert_eq!(duration_text(parse_duration(text).unwrap()), text);
        }
        assert_eq!(duration_text(Duration::from_micros(1500)), "1ms");
    }

    #[test]
    fn says_what_is_wrong_with_a_duration() {
        let general = "a duration such as 250ms, 5s, 1m30s or 1h";
        for (text, rest) in [
            ("5", ", with its unit; did you mean \"5s\"?"),
            ("0", ", with its unit; did you mean \"0s\"?"),
            ("5 s", "; did you mean \"5s\"?"),
            ("5sec", "; did you mean \"5s\"?"),
            ("2Min", "; did you mean \"2m\"?"),
            ("1.5s", ""),
            ("-1s", ""),
            ("30s1m", ""),
            ("1s1s", ""),
            ("", ""),
            ("s", ""),
            ("soon", ""),
            ("5é", ""),
        ] {
            assert_eq!(said(text), format!("found \"{text}\"; expected {general}{rest}"), "{text}");
        }
        for text in ["8761h", "99999999999999999999999s", "18446744073709551615h"] {
            let expected = "a duration of at most 8760h, a year";
            assert_eq!(said(text), format!("found \"{text}\"; expected {expected}"));
        }
    }

    #[test]
    fn sizes_are_bytes_or_have_binary_units() {
        for (text, bytes) in
            [("512", 512), ("512B", 512), ("64KiB", 65_536), ("10MiB", 10 << 20), ("1GiB", 1 << 30)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for (text, nearest) in [
            ("64KB", Some("64KiB")),
            ("64k", Some("64KiB")),
            ("1 MiB", Some("1MiB")),
            ("1.5MiB", None),
            ("big", None),
            ("", None),
        ] {
            assert_eq!(size(text).unwrap_err().nearest.as_deref(), nearest, "{text}");
        }
        for text in ["0B", "1B", "1023B", "1KiB", "1025B", "64KiB", "3GiB"] {
            assert_eq!(size_text(size(text).unwrap()), text);
        }
        let hint = size("99999999999GiB").unwrap_err();
        assert_eq!(hint.expected.as_deref(), Some("a smaller size"));
    }

    #[test]
    fn percentages_need_their_sign() {
        assert_eq!(parse_percent("0.5%"), Ok(Percent::try_new(0.5).unwrap()));
        assert_eq!(
            parse_percent("20").unwrap_err().to_string(),
            "found \"20\"; expected a percentage from 0% to 100%; did you mean \"20%\"?"
        );
        for text in ["101%", "-1%", "1e1%", "inf%", "%", ".5%", "5.%", "1.2.3%", "200", ""] {
            assert_eq!(percent(text), Err(Hint::default()), "{text}");
        }
    }

    #[test]
    fn integers_are_plain_decimal_digits() {
        let range = 0..=1024;
        assert_eq!(integer("0", &range), Ok(0));
        assert_eq!(integer("1024", &range), Ok(1024));
        assert_eq!(integer("007", &range), Err(Hint::nearest(Some("7".to_owned()))));
        for text in ["1025", "-1", "+1", "1.0", "0x10", "1e3", "1_000", "", "99999999999999999999"]
        {
            assert_eq!(integer(text, &range), Err(Hint::default()), "{text}");
        }
    }

    #[test]
    fn words_of_others_are_known() {
        for (text, names, expected) in [
            ("leastconn", &["round_robin", "least_connections"][..], Some("least_connections")),
            ("WARNING", &["warn", "info"], Some("warn")),
            ("drain", &["active", "draining"], Some("draining")),
            ("brotli", &["zstd", "br", "gzip"], Some("br")),
            ("certs", &["certificates", "alpn"], Some("certificates")),
            ("brotli", &["gzip"], None),
            ("activ", &["active", "draining"], Some("active")),
        ] {
            assert_eq!(meant(text, names.iter().copied()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn switches_are_true_on_false_or_off() {
        assert_eq!((switch("true"), switch("on")), (Ok(true), Ok(true)));
        assert_eq!((switch("false"), switch("off")), (Ok(false), Ok(false)));
        for (text, nearest) in
            [("yes", Some("true")), ("No", Some("false")), ("True", Some("true")), ("maybe", None)]
        {
            assert_eq!(switch(text).unwrap_err().nearest.as_deref(), nearest, "{text}");
        }
    }
}
