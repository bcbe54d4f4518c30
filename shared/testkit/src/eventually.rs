//! Waiting for a condition instead of sleeping for a result.

use std::fmt::Debug;
use std::panic::Location;
use std::time::{Duration, Instant};

/// How a poll can say whether the condition holds: an `Option`, or a `Result` whose error is the state as it is now,
/// which then shows in the panic.
pub trait Poll<T> {
    /// The awaited value, or the state that was found instead.
    fn outcome(self) -> Result<T, String>;
}

impl<T> Poll<T> for Option<T> {
    fn outcome(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing yet".to_owned())
    }
}

impl<T, E: Debug> Poll<T> for Result<T, E> {
    fn outcome(self) -> Result<T, String> {
        self.map_err(|state| format!("{state:?}"))
    }
}

/// Polls until the condition holds and returns its value.
///
/// # Panics
///
/// When it does not hold within the deadline: names `what`, the caller's line and the last state.
#[track_caller]
pub fn eventually<T, P: Poll<T>>(
    what: &str,
    within: Duration,
    mut poll: impl AsyncFnMut() -> P,
) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let deadline = Instant::now() + within;
        // Quick at first, since most conditions hold soon; slow later, to leave the processor to those awaited.
        let mut pause = Duration::from_millis(2);
        let mut state = String::from("the first look did not end");
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, poll()).await.map(Poll::outcome) {
                Ok(Ok(value)) => return value,
                Ok(Err(seen)) => state = seen,
                Err(_) => {}
            }
            assert!(
                Instant::now() < deadline,
                "{caller}: no {what} within {within:?}; last seen: {state}"
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_returns_what_was_found() {
        let mut looks = 0;
        let found = eventually("third look", Duration::from_secs(5), || {
            looks += 1;
            let result = if looks < 3 { Err(looks) } else { Ok("there") };
            async move { result }
        })
        .await;
        assert_eq!((found, looks), ("there", 3));
    }

    #[tokio::test]
    #[should_panic(expected = "no miracle within 20ms; last seen: \"still water\"")]
    async fn it_names_what_where_and_the_last_state() {
        eventually("miracle", Duration::from_millis(20), async || {
            Err::<(), _>("still water")
        })
        .await;
    }

    #[tokio::test]
    #[should_panic(expected = "no answer within 20ms")]
    async fn a_look_that_hangs_does_not_hang_the_test() {
        eventually(
            "answer",
            Duration::from_millis(20),
            std::future::pending::<Option<()>>,
        )
        .await;
    }
}
