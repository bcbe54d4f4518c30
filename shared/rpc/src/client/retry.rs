//! Repeating a call that can be repeated.
//!
//! What it refuses to do: repeat what may have taken effect and cannot be told apart. Use it for reads, and for mutations
//! that carry a `request_id`.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};

use crate::{deadline, fault};

/// How often and how patiently a call is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The most calls, the first included. Default 4.
    pub attempts: u32,
    /// The longest pause before the second call; it doubles from call to call. Default 50 ms.
    pub first_pause: Duration,
    /// The longest pause of all. Default 2 s.
    pub longest_pause: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            attempts: 4,
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(2),
        }
    }
}

impl RetryPolicy {
    /// The pause after `calls` calls that failed with `status`: what the service asks for, else a random part of the
    /// growing limit, so that callers that failed together do not come back together.
    fn pause(&self, calls: u32, status: &Status) -> Duration {
        if let Some(asked) = fault::retry_after(status) {
            return asked.min(self.longest_pause);
        }
        let limit = self
            .first_pause
            .saturating_mul(1 << calls.saturating_sub(1).min(16))
            .min(self.longest_pause);
        limit.mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// Whether the same call may go well later: UNAVAILABLE, ABORTED `CONFLICT`, and whatever says when to come back.
pub fn is_retryable(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable => true,
        Code::Aborted => fault::reason(status).is_some_and(|reason| reason == "CONFLICT"),
        _ => fault::retry_after(status).is_some(),
    }
}

/// Calls until it goes well, cannot go well, or the policy (or the deadline of the call that is being served) says enough.
///
/// # Errors
///
/// The status of the last call.
pub async fn with_retry<T, F, Fut>(policy: RetryPolicy, mut call: F) -> Result<T, Status>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, Status>>,
{
    let mut calls = 0;
    loop {
        let status = match call().await {
            Ok(answer) => return Ok(answer),
            Err(status) => status,
        };
        calls += 1;
        let pause = policy.pause(calls, &status);
        let late = deadline::current().is_some_and(|deadline| Instant::now() + pause >= deadline);
        if calls >= policy.attempts || late || !is_retryable(&status) {
            return Err(status);
        }
        tokio::time::sleep(pause).await;
    }
}
