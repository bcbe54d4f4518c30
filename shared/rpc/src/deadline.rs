//! The deadline of a call: read from `grpc-timeout`, kept while the call is served, passed on to the calls it makes.
//!
//! What it refuses to do: lengthen a deadline. A call made on behalf of another one never outlives it.

use std::future::Future;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;

/// The header of gRPC.
pub(crate) const GRPC_TIMEOUT: &str = "grpc-timeout";

tokio::task_local! {
    static DEADLINE: Instant;
}

/// Runs `future` on behalf of a call with this deadline.
pub(crate) async fn scope<F: Future>(deadline: Option<Instant>, future: F) -> F::Output {
    match deadline {
        Some(deadline) => DEADLINE.scope(deadline, future).await,
        None => future.await,
    }
}

/// When the call that is being served ends.
pub(crate) fn current() -> Option<Instant> {
    DEADLINE.try_with(|deadline| *deadline).ok()
}

/// The time that the headers give, when they give one that can be read.
pub(crate) fn of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(GRPC_TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    // The standard allows eight digits.
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// The header for a time, in the finest unit that eight digits can hold.
pub(crate) fn header(timeout: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let units = [
        (timeout.as_micros(), "u"),
        (timeout.as_millis(), "m"),
        (u128::from(timeout.as_secs()), "S"),
    ];
    let (value, unit) = units
        .into_iter()
        .find(|(value, _)| *value <= MOST)
        .unwrap_or(((u128::from(timeout.as_secs()) / 3600).min(MOST), "H"));
    HeaderValue::try_from(format!("{value}{unit}")).expect("digits and a letter are a header value")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_str(text).ok()?);
        of(&headers)
    }

    #[test]
    fn every_unit_is_read() {
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(read("3M"), Some(Duration::from_secs(180)));
        assert_eq!(read("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(read("20m"), Some(Duration::from_millis(20)));
        assert_eq!(read("7u"), Some(Duration::from_micros(7)));
        assert_eq!(read("0n"), Some(Duration::ZERO));
        for bad in [
            "",
            "S",
            "10",
            "1s",
            "100000000S",
            "-1S",
            "+1S",
            "1.5S",
            " 1S",
            "1é",
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        assert_eq!(of(&HeaderMap::new()), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_never_longer(micros in 1_u64..=u64::MAX / 1000) {
            let timeout = Duration::from_micros(micros);
            let text = header(timeout);
            let back = read(text.to_str().expect("text")).expect("it can be read");
            prop_assert!(back <= timeout);
            // The units are a thousand apart, and eight digits hold five of them.
            if timeout < Duration::from_secs(99_999_999) {
                prop_assert!(back.as_secs_f64() >= timeout.as_secs_f64() * 0.999);
            }
        }
    }

    #[tokio::test]
    async fn a_deadline_is_seen_inside_of_its_call_only() {
        let deadline = Instant::now() + Duration::from_secs(1);
        assert_eq!(current(), None);
        assert_eq!(scope(Some(deadline), async { current() }).await, Some(deadline));
        assert_eq!(scope(None, async { current() }).await, None);
    }
}
