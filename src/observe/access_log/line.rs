//! The forms of a line. Whatever a client sends, a line stays one line with its fields in place.

use super::AccessRecord;
use crate::model::AccessLogFormat;
use jiff::Timestamp;
use serde::Serialize;
use std::{
    fmt,
    io::Write as _,
    net::IpAddr,
    time::{Duration, SystemTime},
};

/// A buffer that grew beyond this gives the memory back.
const KEEP: usize = 64 << 10;

/// A thread's buffer for the line it formats.
#[derive(Debug, Default)]
pub(super) struct Line {
    text: Vec<u8>,
    clock: Clock,
}

impl Line {
    /// The record's line, with its line end.
    pub(super) fn format(&mut self, format: AccessLogFormat, record: &AccessRecord<'_>) -> &[u8] {
        self.text.clear();
        self.text.shrink_to(KEEP);
        let millisecond = self.clock.set(record.time);
        match format {
            AccessLogFormat::Json => {
                json(&mut self.text, record, &self.clock.rfc3339, millisecond);
            }
            AccessLogFormat::Combined => combined(&mut self.text, record, &self.clock.combined),
        }
        self.text.push(b'\n');
        &self.text
    }
}

/// The text of the current second, which is worth keeping: a thread has thousands of lines in it.
#[derive(Debug, Default)]
struct Clock {
    second: Option<i64>,
    /// `2026-11-20T11:26:00`
    rfc3339: String,
    /// `20/Nov/2026:11:26:00 +0000`
    combined: String,
}

impl Clock {
    /// Moves to the second of `time`; returns the milliseconds beyond it.
    fn set(&mut self, time: SystemTime) -> u16 {
        // What is out of jiff's range of ten thousand years is nobody's time of day.
        let milliseconds = Timestamp::try_from(time).map_or(0, Timestamp::as_millisecond);
        let second = milliseconds.div_euclid(1000);
        if self.second != Some(second) {
            let timestamp = Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH);
            self.rfc3339 = timestamp.strftime("%Y-%m-%dT%H:%M:%S").to_string();
            self.combined = timestamp.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string();
            self.second = Some(second);
        }
        milliseconds.rem_euclid(1000) as u16
    }
}

/// One JSON object. Written member by member: a derived `Serialize` took 1.7 times as long, since
/// it escapes every key and text byte by byte.
fn json(text: &mut Vec<u8>, record: &AccessRecord<'_>, second: &str, millisecond: u16) {
    append(text, format_args!("{{\"time\":\"{second}.{millisecond:03}Z\""));
    let mut line = Members(text);
    line.text("method", record.method);
    line.text("host", record.host);
    line.text("path", record.path);
    line.number("status", record.status.into());
    line.number("bytes_in", record.bytes_in);
    line.number("bytes_out", record.bytes_out);
    line.milliseconds("duration_ms", Some(record.duration));
    line.milliseconds("queue_ms", record.queue);
    line.milliseconds("connect_ms", record.connect);
    line.milliseconds("upstream_ms", record.upstream);
    line.address("client_ip", record.client_ip);
    line.text("listener", record.listener);
    line.optional("route", record.route);
    line.optional("pool", record.pool);
    line.optional("backend", record.backend);
    line.number("tries", record.tries.into());
    line.text("reason", record.reason);
    line.text("request_id", record.request_id);
    line.text("protocol", record.protocol);
    line.optional("tls", record.tls);
    line.bytes("user_agent", record.user_agent);
    line.bytes("referer", record.referer);
    text.push(b'}');
}

/// The members of a JSON object after its first. Keys are ours and need no escaping.
struct Members<'a>(&'a mut Vec<u8>);

impl Members<'_> {
    fn key(&mut self, key: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn null(&mut self, key: &str) {
        self.key(key);
        self.0.extend_from_slice(b"null");
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        if is_plain(value.as_bytes()) {
            self.0.push(b'"');
            self.0.extend_from_slice(value.as_bytes());
            self.0.push(b'"');
        } else {
            self.value(value);
        }
    }

    fn optional(&mut self, key: &str, value: Option<&str>) {
        match value {
            Some(value) => self.text(key, value),
            None => self.null(key),
        }
    }

    /// What is not UTF-8 is replaced.
    fn bytes(&mut self, key: &str, value: Option<&[u8]>) {
        self.optional(key, value.map(String::from_utf8_lossy).as_deref());
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        self.value(&value);
    }

    fn address(&mut self, key: &str, value: Option<IpAddr>) {
        let Some(address) = value else { return self.null(key) };
        self.key(key);
        append(self.0, format_args!("\"{address}\""));
    }

    /// To the microsecond, without zeros at the end.
    fn milliseconds(&mut self, key: &str, value: Option<Duration>) {
        let Some(duration) = value else { return self.null(key) };
        let micros = duration.as_micros();
        self.key(key);
        self.value(&((micros / 1000) as u64));
        let micros = (micros % 1000) as u16;
        if micros > 0 {
            let digits = [micros / 100, micros / 10 % 10, micros % 10].map(|it| b'0' + it as u8);
            let end = digits.iter().rposition(|&digit| digit != b'0').map_or(0, |at| at + 1);
            self.0.push(b'.');
            self.0.extend_from_slice(&digits[..end]);
        }
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) {
        serde_json::to_writer(&mut *self.0, value).expect("texts and integers can be written");
    }
}

/// Whether a field is printable ASCII without quotes and backslashes, as nearly all are. Looks at
/// every byte, come what may, since that can be done for many at once.
fn is_plain(field: &[u8]) -> bool {
    field.iter().fold(true, |plain, &byte| plain & is_plain_byte(byte))
}

fn is_plain_byte(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')
}

/// Apache's combined format; as in nginx's, a response without body has `0` bytes rather than `-`.
fn combined(text: &mut Vec<u8>, record: &AccessRecord<'_>, time: &str) {
    match record.client_ip {
        Some(address) => append(text, format_args!("{address}")),
        None => text.push(b'-'),
    }
    append(text, format_args!(" - - [{time}] \""));
    escape(text, record.method.as_bytes());
    text.push(b' ');
    escape(text, record.path.as_bytes());
    text.push(b' ');
    escape(text, record.protocol.as_bytes());
    append(text, format_args!("\" {} {} \"", record.status, record.bytes_out));
    escape(text, record.referer.unwrap_or(b"-"));
    text.extend_from_slice(b"\" \"");
    escape(text, record.user_agent.unwrap_or(b"-"));
    text.push(b'"');
}

fn append(text: &mut Vec<u8>, arguments: fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to memory cannot fail");
}

/// Writes what is not printable ASCII, quotes and backslashes as `\xHH`, as nginx does, so that a
/// field can neither end early nor reach a terminal as a control sequence.
fn escape(text: &mut Vec<u8>, field: &[u8]) {
    if is_plain(field) {
        return text.extend_from_slice(field);
    }
    for &byte in field {
        if is_plain_byte(byte) {
            text.push(byte);
        } else {
            append(text, format_args!("\\x{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::access_log::tests::record;
    use AccessLogFormat::{Combined, Json};

    fn line(format: AccessLogFormat, record: &AccessRecord<'_>) -> String {
        let mut line = Line::default();
        String::from_utf8(line.format(format, record).to_vec()).unwrap()
    }

    #[test]
    fn json_has_every_key_in_order() {
        let expected = concat!(
            r#"{"time":"2026-11-20T11:26:00.007Z","method":"GET","host":"a.example","#,
            r#""path":"/x?y=1","status":200,"bytes_in":0,"bytes_out":1234,"duration_ms":12.345,"#,
            r#""queue_ms":null,"connect_ms":0.5,"upstream_ms":11,"client_ip":"192.0.2.1","#,
            r#""listener":"web","route":"api","pool":"app","backend":"app-1","tries":1,"#,
            r#""reason":"ok","request_id":"r-1","protocol":"HTTP/1.1","tls":null,"#,
            r#""user_agent":"curl/8","referer":null}"#,
            "\n"
        );
        assert_eq!(line(Json, &record()), expected);
    }

    #[test]
    fn combined_is_apaches() {
        let expected = "192.0.2.1 - - [20/Nov/2026:11:26:00 +0000] \"GET /x?y=1 HTTP/1.1\" \
                        200 1234 \"-\" \"curl/8\"\n";
        assert_eq!(line(Combined, &record()), expected);
    }

    #[test]
    fn a_client_without_an_address_is_null_or_a_dash() {
        let record = AccessRecord { client_ip: None, ..record() };
        assert!(line(Json, &record).contains(r#""client_ip":null,"#));
        assert!(line(Combined, &record).starts_with("- - - ["));
    }

    #[test]
    fn durations_have_at_most_three_decimals() {
        let cases = [
            (0, "0"),
            (1, "0.001"),
            (10, "0.01"),
            (999, "0.999"),
            (3_300, "3.3"),
            (5_000, "5"),
            (1_234_567, "1234.567"),
            (86_400_000_001, "86400000.001"),
        ];
        for (micros, expected) in cases {
            let duration = Duration::from_nanos(micros * 1000 + 999);
            let text = line(Json, &AccessRecord { duration, ..record() });
            assert!(text.contains(&format!("\"duration_ms\":{expected},")), "{text}");
            serde_json::from_str::<serde_json::Value>(&text).unwrap();
        }
    }

    #[test]
    fn every_byte_survives_json_or_is_replaced() {
        let hostile: Vec<u8> = (0..=255).collect();
        let ascii: String = (0..128_u8).map(char::from).collect();
        let record = AccessRecord {
            path: &ascii,
            user_agent: Some(&hostile),
            referer: Some(b"\"}\n{\"time\":\"1\""),
            ..record()
        };
        let text = line(Json, &record);
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["path"], *ascii);
        assert_eq!(value["user_agent"], *String::from_utf8_lossy(&hostile));
        assert_eq!(value["referer"], "\"}\n{\"time\":\"1\"");
    }

    #[test]
    fn no_byte_breaks_out_of_a_combined_field() {
        let hostile: Vec<u8> = (0..=255).collect();
        let record = AccessRecord {
            method: "G\"T",
            path: "/\r\n1.2.3.4 - - \u{2028}\u{1b}[2J\\",
            user_agent: Some(&hostile),
            referer: Some(b"\" 200 \"\x7f"),
            ..record()
        };
        let text = line(Combined, &record);
        assert_eq!(text.matches('\n').count(), 1);
        assert!(text.trim_end_matches('\n').bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        // Three quoted fields, and no quote but those around them.
        assert_eq!(text.matches('"').count(), 6);
        assert!(text.contains(r#""G\x22T /\x0D\x0A1.2.3.4 - - \xE2\x80\xA8\x1B[2J\x5C HTTP/1.1""#));
        assert!(text.contains(r#" "\x22 200 \x22\x7F" "#));
    }

    #[test]
    fn the_clock_follows_the_records() {
        let epoch = SystemTime::UNIX_EPOCH;
        let mut clock = Clock::default();
        let cases = [
            (epoch, "1970-01-01T00:00:00", 0),
            (epoch + Duration::from_millis(1_999), "1970-01-01T00:00:01", 999),
            (epoch - Duration::from_millis(1), "1969-12-31T23:59:59", 999),
            (epoch + Duration::from_secs(1), "1970-01-01T00:00:01", 0),
        ];
        for (time, second, millisecond) in cases {
            assert_eq!(clock.set(time), millisecond);
            assert_eq!(clock.rfc3339, second);
        }
    }
}
