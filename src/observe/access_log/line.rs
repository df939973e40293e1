//! The forms of a line. Whatever a client sends, a line stays one line with its fields in place.

use super::AccessRecord;
use crate::model::AccessLogFormat;
use jiff::Timestamp;
use serde::{Serialize, Serializer};
use std::{
    borrow::Cow,
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
                let time = Time { second: &self.clock.rfc3339, millisecond };
                json(&mut self.text, record, time);
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

#[derive(Clone, Copy)]
struct Time<'a> {
    second: &'a str,
    millisecond: u16,
}

impl fmt::Display for Time<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}Z", self.second, self.millisecond)
    }
}

impl Serialize for Time<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The keys of a JSON line, in their order.
#[derive(Serialize)]
struct Json<'a> {
    time: Time<'a>,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    status: u16,
    bytes_in: u64,
    bytes_out: u64,
    duration_ms: f64,
    queue_ms: Option<f64>,
    connect_ms: Option<f64>,
    upstream_ms: Option<f64>,
    client_ip: Option<IpAddr>,
    listener: &'a str,
    route: Option<&'a str>,
    pool: Option<&'a str>,
    backend: Option<&'a str>,
    tries: u32,
    reason: &'a str,
    request_id: &'a str,
    protocol: &'a str,
    tls: Option<&'a str>,
    user_agent: Option<Cow<'a, str>>,
    referer: Option<Cow<'a, str>>,
}

fn json(text: &mut Vec<u8>, record: &AccessRecord<'_>, time: Time<'_>) {
    let line = Json {
        time,
        method: record.method,
        host: record.host,
        path: record.path,
        status: record.status,
        bytes_in: record.bytes_in,
        bytes_out: record.bytes_out,
        duration_ms: milliseconds(record.duration),
        queue_ms: record.queue.map(milliseconds),
        connect_ms: record.connect.map(milliseconds),
        upstream_ms: record.upstream.map(milliseconds),
        client_ip: record.client_ip,
        listener: record.listener,
        route: record.route,
        pool: record.pool,
        backend: record.backend,
        tries: record.tries,
        reason: record.reason,
        request_id: record.request_id,
        protocol: record.protocol,
        tls: record.tls,
        user_agent: record.user_agent.map(String::from_utf8_lossy),
        referer: record.referer.map(String::from_utf8_lossy),
    };
    serde_json::to_writer(text, &line).expect("texts and finite numbers can be written to memory");
}

/// To the microsecond; the nearest number to one of three decimals prints with no more of them.
fn milliseconds(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
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
    for &byte in field {
        match byte {
            b'"' | b'\\' => append(text, format_args!("\\x{byte:02X}")),
            b' '..=b'~' => text.push(byte),
            _ => append(text, format_args!("\\x{byte:02X}")),
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
            r#""queue_ms":null,"connect_ms":0.5,"upstream_ms":11.0,"client_ip":"192.0.2.1","#,
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
        for micros in [0, 1, 10, 999, 1_001, 3_300, 1_234_567, 86_400_000_001] {
            let duration = Duration::from_nanos(micros * 1000 + 999);
            let text = line(Json, &AccessRecord { duration, ..record() });
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let number = value["duration_ms"].to_string();
            let (_, decimals) = number.split_once('.').unwrap();
            assert!(decimals.len() <= 3, "{number}");
            assert_eq!((number.parse::<f64>().unwrap() * 1000.0).round() as u64, micros);
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
