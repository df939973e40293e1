//! `rate_limit`: how many requests in a time.

mod buckets;
mod rate;

use super::key::Key;
use crate::{
    filter::{
        Answer, Filter, Flow, Request, Response, Result, SettingsError, Setup,
        settings::{Count, Period},
    },
    model::common_divisor,
};
use buckets::Buckets;
use http::{HeaderName, HeaderValue, StatusCode, header};
use rate::{Level, Rate};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    hash::RandomState,
    sync::Arc,
    time::{Duration, Instant},
};

const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// How many requests there may be in a time. What is beyond is answered with 429.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// How many requests come back in the time `per`.
    requests: Count,
    /// The time in which they do.
    #[serde(default = "a_second")]
    per: Period,
    /// How many requests there may be at once: what a bucket holds. Without it, as many as `requests`.
    burst: Option<Count>,
    /// What requests have in common that count together. Each key has a bucket of its own.
    #[serde(default = "by_client")]
    key: Key,
}

fn a_second() -> Period {
    Period(Duration::from_secs(1))
}

fn by_client() -> Key {
    Key::ClientIp
}

/// Admits requests that find one left in the bucket of their key.
pub(super) struct RateLimit {
    rate: Rate,
    key: Key,
    policy: Policy,
    state: Arc<State>,
}

/// What outlives a reload.
struct State {
    buckets: Buckets,
    /// What makes keys of values.
    seed: RandomState,
    /// The buckets count time from here.
    began: Instant,
}

impl State {
    fn new() -> Self {
        Self { buckets: Buckets::new(), seed: RandomState::new(), began: Instant::now() }
    }

    /// Nanoseconds since the buckets were made.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Filter for RateLimit {
    const NAME: &'static str = "rate_limit";
    type Settings = Settings;

    fn new(settings: Settings, _: &mut Setup<'_>) -> Result<Self, SettingsError> {
        let Settings { requests, per, burst, key } = settings;
        if per.is_zero() {
            let expected = "a duration above zero, such as 1s or 1m";
            return Err(SettingsError::new("found a duration of zero", expected).at("per"));
        }
        let rate = Rate::new(*requests, *per, *burst.unwrap_or(requests)).ok_or_else(|| {
            let found = format!("{} requests in {:?}", *requests, *per);
            SettingsError::new(found, "at most 1000 in a millisecond").at("requests")
        })?;
        let policy = Policy::new(*requests, *per, burst, &key);
        Ok(Self { rate, key, policy, state: Arc::new(State::new()) })
    }

    /// The buckets stay while they are those of the same keys. A bucket keeps the time that it takes
    /// to be full again, at most as long as it now takes an empty one.
    fn adopt(&mut self, predecessor: &Self) {
        if self.key == predecessor.key {
            self.state = Arc::clone(&predecessor.state);
        }
    }

    async fn on_request(&self, request: &mut Request<'_>) -> Result {
        let key = self.key.of(request, &self.state.seed);
        let level = self.state.buckets.take(key, self.rate, self.state.now());
        request.keep(level);
        if level.admitted {
            return Ok(Flow::Continue);
        }
        let answer = Answer::new(StatusCode::TOO_MANY_REQUESTS);
        Ok(answer.header(header::RETRY_AFTER, level.next_seconds())?.into())
    }

    async fn on_response(&self, response: &mut Response<'_>) -> Result {
        let Some(level) = response.kept::<Level>().copied() else { return Ok(Flow::Continue) };
        // Another limit, here or behind us, may have said its own: both fields are lists.
        response.add_header(RATELIMIT_POLICY, self.policy.field.clone())?;
        response.add_header(RATELIMIT, self.policy.limit(level))?;
        Ok(Flow::Continue)
    }
}

/// The limit as clients are told of it, in the fields of draft-ietf-httpapi-ratelimit-headers-11.
struct Policy {
    /// Its name, as the fields have it.
    name: String,
    /// The whole of `RateLimit-Policy`.
    field: HeaderValue,
}

impl Policy {
    fn new(requests: u32, per: Duration, burst: Option<Count>, key: &Key) -> Self {
        let name = format!("\"{key}:{requests}/{per:?}\"");
        let (quota, window) = in_whole_seconds(requests, per);
        let burst = burst.filter(|burst| **burst != requests);
        let burst = burst.map_or_else(String::new, |burst| format!(";pingora-lb-burst={}", *burst));
        let field = HeaderValue::try_from(format!("{name};q={quota};w={window}{burst}"))
            .expect("names of fields and cookies are ASCII");
        Self { name, field }
    }

    /// What is left, and the time in which there is no more than that.
    fn limit(&self, level: Level) -> String {
        format!("{};r={};t={}", self.name, level.remaining, level.next_seconds())
    }
}

/// The same rate with a window of whole seconds, which is all that the field can say.
fn in_whole_seconds(requests: u32, per: Duration) -> (u64, u64) {
    let milliseconds = u64::try_from(per.as_millis()).unwrap_or(u64::MAX);
    let divisor = common_divisor(milliseconds, 1000);
    (u64::from(requests) * (1000 / divisor), milliseconds / divisor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(requests: u32, per: Duration, burst: u32, key: Key) -> RateLimit {
        let (requests, per, burst) = (Count(requests), Period(per), Some(Count(burst)));
        let mut setup = Setup::new(std::path::Path::new("/"), &[]);
        RateLimit::new(Settings { requests, per, burst, key }, &mut setup).unwrap()
    }

    /// How many of a hundred requests of one key are admitted at once.
    fn admitted(filter: &RateLimit, now: u64) -> usize {
        let take = || filter.state.buckets.take(7, filter.rate, now);
        (0..100).filter(|_| take().admitted).count()
    }

    #[test]
    fn buckets_outlive_a_reload() {
        const SECOND: Duration = Duration::from_secs(1);
        let now = 10_000_000_000;
        let old = filter(10, SECOND, 10, Key::ClientIp);
        assert_eq!(admitted(&old, now), 10);

        let mut same = filter(10, SECOND, 10, Key::ClientIp);
        same.adopt(&old);
        assert_eq!(admitted(&same, now), 0);
        assert_eq!(admitted(&same, now + 500_000_000), 5);
        assert_eq!(admitted(&old, now + 500_000_000), 0, "the two do not share");

        // Half a second was used up in each tenth; a faster rate empties no bucket twice.
        let mut faster = filter(100, SECOND, 50, Key::ClientIp);
        faster.adopt(&old);
        assert_eq!(admitted(&faster, now + 500_000_000), 0);
        assert_eq!(admitted(&faster, now + 1_000_000_000), 50);

        let mut other = filter(10, SECOND, 10, Key::Route);
        other.adopt(&old);
        assert_eq!(admitted(&other, now), 10, "the buckets are of other keys");
    }

    #[test]
    fn a_slower_rate_gives_an_empty_bucket_no_more_than_it_earns() {
        let now = 10_000_000_000;
        let old = filter(1, Duration::from_secs(3600), 1, Key::Route);
        assert_eq!(admitted(&old, now), 1);
        // It would be full in an hour; the new one takes a second to fill, so it is empty.
        let mut quick = filter(2, Duration::from_secs(1), 2, Key::Route);
        quick.adopt(&old);
        assert_eq!(admitted(&quick, now), 0);
        assert_eq!(admitted(&quick, now + 1_000_000_000), 2);
    }

    #[test]
    fn windows_are_said_in_whole_seconds() {
        for (milliseconds, said) in [
            (1000, (10, 1)),
            (60_000, (10, 60)),
            (100, (100, 1)),
            (1500, (20, 3)),
            (250, (40, 1)),
            (1, (10_000, 1)),
            (1001, (10_000, 1001)),
        ] {
            assert_eq!(in_whole_seconds(10, Duration::from_millis(milliseconds)), said);
        }
    }

    #[test]
    fn the_policy_says_the_burst_where_it_is_not_the_quota() {
        let field = |burst, key| {
            let policy = Policy::new(100, Duration::from_secs(60), burst, &key);
            policy.field.to_str().unwrap().to_owned()
        };
        assert_eq!(field(None, Key::ClientIp), r#""client_ip:100/60s";q=100;w=60"#);
        assert_eq!(field(Some(Count(100)), Key::Route), r#""route:100/60s";q=100;w=60"#);
        let header = Key::Header(crate::filter::settings::FieldName("x-user".parse().unwrap()));
        assert_eq!(
            field(Some(Count(7)), header),
            r#""header:x-user:100/60s";q=100;w=60;pingora-lb-burst=7"#
        );
    }
}
