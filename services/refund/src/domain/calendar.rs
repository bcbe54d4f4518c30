//! When money is expected to arrive.
//!
//! Business days are Monday to Friday in UTC. Bank holidays are not known here: the policy's days are a promise with a
//! margin, not a timetable.

use chrono::{DateTime, Datelike, Days, Utc, Weekday};

/// The moment `days` business days after `start`, at the same time of day.
///
/// A start on a weekend counts from the Monday after it; with no days the start itself is the answer.
#[must_use]
pub fn business_days_after(start: DateTime<Utc>, days: u32) -> DateTime<Utc> {
    let mut moment = start;
    let mut left = days;
    while left > 0 {
        let Some(next) = moment.checked_add_days(Days::new(1)) else {
            return moment;
        };
        moment = next;
        if !matches!(moment.weekday(), Weekday::Sat | Weekday::Sun) {
            left -= 1;
        }
    }
    moment
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a valid time")
    }

    #[test]
    fn weekends_do_not_count() {
        let table = [
            // Thursday plus 1 is Friday, plus 2 is Monday.
            ("2026-01-08T10:00:00Z", 1, "2026-01-09T10:00:00Z"),
            ("2026-01-08T10:00:00Z", 2, "2026-01-12T10:00:00Z"),
            // Saturday plus 1 is Monday.
            ("2026-01-10T10:00:00Z", 1, "2026-01-12T10:00:00Z"),
            ("2026-01-08T10:00:00Z", 0, "2026-01-08T10:00:00Z"),
            // Ten business days are two weeks.
            ("2026-01-07T23:59:59Z", 10, "2026-01-21T23:59:59Z"),
        ];
        for (start, days, end) in table {
            assert_eq!(
                business_days_after(at(start), days),
                at(end),
                "{start} plus {days}"
            );
        }
    }
}
