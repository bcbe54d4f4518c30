//! Waiting for what other services bring about: asked again and again, with a deadline that holds on a busy machine too.

use std::future::Future;
use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep};
use tonic::{Code, Response, Status};
use waybill_rpc::fault;

/// How long anything may take. Nothing waits that long unless it never comes.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Asks until there is an answer; an error ends the waiting.
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
            bail!("{what}: not within {} s", PATIENCE.as_secs());
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// Calls until the answer is no longer "not yet": UNAVAILABLE, or one of these reason codes. The call must be safe to repeat.
pub async fn call<T, F, Fut>(what: &str, not_yet: &[&str], mut call: F) -> anyhow::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Response<T>, Status>>,
{
    until(what, || {
        let answer = call();
        async {
            match answer.await {
                Ok(answer) => Ok(Some(answer.into_inner())),
                Err(status) if status.code() == Code::Unavailable => Ok(None),
                Err(status)
                    if fault::reason(&status).is_some_and(|reason| not_yet.contains(&reason.as_str())) =>
                {
                    Ok(None)
                }
                Err(status) => Err(anyhow::Error::new(status).context(what.to_owned())),
            }
        }
    })
    .await
}
