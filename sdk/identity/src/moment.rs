//! A moment as errors tell it, so that two clocks can be compared by eye: RFC 3339, in UTC.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use x509_parser::time::ASN1Time;

/// A moment, to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment(u64);

impl Moment {
    /// This one. Before 1970 is 1970.
    #[must_use]
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(since.as_secs())
    }

    /// The last full minute before it: what is said of the present changes no more often, so that the
    /// same failure stays the same text, and is logged once and not with each attempt.
    #[must_use]
    pub fn minute_of(time: SystemTime) -> Self {
        let Self(seconds) = Self::of(time);
        Self(seconds - seconds % 60)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.0).unwrap_or(i64::MAX);
        let Ok(time) = ASN1Time::from_timestamp(seconds) else {
            return write!(formatter, "{} s after 1970", self.0);
        };
        let time = time.to_datetime();
        write!(
            formatter,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
            time.year(),
            u8::from(time.month()),
            time.day(),
            time.hour(),
            time.minute(),
            time.second()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn moments_are_told_in_utc_and_the_present_to_the_minute() {
        let time = UNIX_EPOCH + Duration::from_secs(1_800_000_059);
        assert_eq!(Moment::of(time).to_string(), "2027-01-15T08:00:59Z");
        assert_eq!(Moment::minute_of(time).to_string(), "2027-01-15T08:00:00Z");
        let before = UNIX_EPOCH - Duration::from_secs(9);
        assert_eq!(Moment::of(before).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(
            Moment(u64::MAX).to_string(),
            format!("{} s after 1970", u64::MAX)
        );
    }
}
