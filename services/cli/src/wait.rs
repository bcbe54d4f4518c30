//! Waiting for something that other services bring about: asked again and again, with a deadline.

use std::future::Future;
use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

/// How long a step of an order may take before it counts as stuck.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until there is an answer. The pauses grow from 5 to 100 ms.
pub async fn until<T, F, Fut>(what: &str, mut ask: F) -> anyhow::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<Option<T>>>,
{
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(found) = ask().await? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("{what}: did not happen within {} s", PATIENCE.as_secs());
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Calls until the answer is no longer "not yet": a service that has not seen the order's latest events says
/// UNAVAILABLE; `not_yet` names further reason codes that only mean that.
pub async fn call<T, F, Fut>(what: &str, not_yet: &[&str], mut call: F) -> anyhow::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<tonic::Response<T>, Status>>,
{
    until(what, || {
        let answer = call();
        async {
            match answer.await {
                Ok(answer) => Ok(Some(answer.into_inner())),
                Err(status) if status.code() == Code::Unavailable => Ok(None),
                Err(status) if reason(&status).is_some_and(|reason| not_yet.contains(&reason.as_str())) => {
                    Ok(None)
                }
                Err(status) => Err(anyhow::Error::new(status).context(what.to_owned())),
            }
        }
    })
    .await
}

/// The reason code of an error.
#[must_use]
pub fn reason(status: &Status) -> Option<String> {
    use tonic_types::StatusExt as _;
    status.get_details_error_info().map(|info| info.reason)
}
