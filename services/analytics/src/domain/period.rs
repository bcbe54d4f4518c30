//! A period in the time zone of a store.

use chrono::{DateTime, Duration, Utc};
use chrono_tz::Tz;
use waybill_kernel::check::Violations;

/// The most days that daily figures are given for.
pub const MAX_DAYS: i64 = 1000;

/// A half-open stretch of time, and the time zone its days are cut in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Period {
    /// From this time on.
    pub from: DateTime<Utc>,
    /// Before this time.
    pub before: DateTime<Utc>,
    /// Where days begin and end.
    pub zone: Tz,
}

impl Period {
    /// Reads a period. What is missing is the beginning of time, now, and UTC.
    pub fn parse(
        from: Option<DateTime<Utc>>,
        before: Option<DateTime<Utc>>,
        zone: &str,
        now: DateTime<Utc>,
        violations: &mut Violations,
    ) -> Self {
        let zone = match zone {
            "" => Tz::UTC,
            name => name.parse().unwrap_or_else(|_| {
                violations.push(
                    "period.time_zone",
                    format!("{name:?} is not an IANA time zone, e.g. \"Europe/London\""),
                );
                Tz::UTC
            }),
        };
        let period = Self {
            from: from.unwrap_or(DateTime::UNIX_EPOCH),
            before: before.unwrap_or(now),
            zone,
        };
        if period.from > period.before {
            violations.push(
                "period.before",
                format!("{} is before period.from, {}", period.before, period.from),
            );
        }
        period
    }

    /// Checks that the period is short enough to be cut into days.
    pub fn check_days(&self, violations: &mut Violations) {
        if self.before - self.from > Duration::days(MAX_DAYS) {
            violations.push(
                "period.from",
                format!("the period is longer than {MAX_DAYS} days; ask for less"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("a valid time")
    }

    #[test]
    fn what_is_missing_is_everything_until_now_in_utc() {
        let mut violations = Violations::default();
        let period = Period::parse(None, None, "", at(100), &mut violations);
        assert!(violations.into_result().is_ok());
        assert_eq!(
            period,
            Period {
                from: at(0),
                before: at(100),
                zone: Tz::UTC
            }
        );
    }

    #[test]
    fn every_fault_is_named() {
        let mut violations = Violations::default();
        Period::parse(
            Some(at(10)),
            Some(at(5)),
            "Mars/Olympus",
            at(100),
            &mut violations,
        );
        let text = violations.into_result().expect_err("two faults").to_string();
        assert!(
            text.contains("Mars/Olympus") && text.contains("period.before"),
            "{text}"
        );
    }

    #[test]
    fn too_many_days_are_refused() {
        let mut violations = Violations::default();
        let period = Period::parse(Some(at(0)), Some(at(1001 * 86_400)), "", at(0), &mut violations);
        period.check_days(&mut violations);
        assert!(violations.into_result().is_err());
    }
}
