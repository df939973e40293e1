//! The pools' times as dates.

use crate::pool::Time;
use jiff::{SignedDuration, Timestamp, Unit};

/// The date of a moment, to the second. `now` is the present one, on the same clock.
pub(super) fn moment(moment: Time, now: Time) -> String {
    let signed = |duration| SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    let away = signed(moment.since(now)).saturating_sub(signed(now.since(moment)));
    let end = if away.is_negative() { Timestamp::MIN } else { Timestamp::MAX };
    let date = Timestamp::now().saturating_add(away).unwrap_or(end);
    date.round(Unit::Second).unwrap_or(date).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn moments_lie_before_and_after_this_one() {
        let now = Time::ZERO.after(Duration::from_secs(1_000));
        let distance = |other: Time| {
            let date: Timestamp = moment(other, now).parse().unwrap();
            date.duration_since(Timestamp::now()).as_secs_f64()
        };
        for away in [-900.0, 0.0, 900.0] {
            let other = Time::from_nanos(((1_000.0 + away) * 1e9) as u64);
            assert!((distance(other) - away).abs() < 30.0, "{away}");
        }
        assert!(moment(Time::NEVER, now) > moment(now, now));
    }
}
