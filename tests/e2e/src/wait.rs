//! Waiting for what other services bring about: asked again and again, with a deadline that holds on a busy machine too.

use std::future::Future;
use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep};
use tonic::{Code, Response, Status};
use waybill_rpc::fault;

/// How long anything may take. Nothing waits that long unless it never comes.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Asks until there is an answer. A service that is not available is asked again; any other error ends the waiting.
pub async fn until<T, F, Fut>(what: &str, mut ask: F) -> anyhow::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<Option<T>>>,
{
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(5);
    loop {
        // Boxed, for the future of a call is large and this one stands in many others.
        let seen = match Box::pin(ask()).await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => String::from("not yet"),
            Err(error) if is_unavailable(&error) => format!("{error:#}"),
            Err(error) => return Err(error.context(what.to_owned())),
        };
        if Instant::now() >= deadline {
            bail!("{what}: not within {} s, last seen: {seen}", PATIENCE.as_secs());
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

fn is_unavailable(error: &anyhow::Error) -> bool {
    let mut statuses = error.chain().filter_map(|cause| cause.downcast_ref::<Status>());
    statuses.any(|status| status.code() == Code::Unavailable)
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
                Err(status)
                    if fault::reason(&status).is_some_and(|reason| not_yet.contains(&reason.as_str())) =>
                {
                    Ok(None)
                }
                Err(status) => Err(status.into()),
            }
        }
    })
    .await
}

/// [`call`] of a method of a client with a request, which are cloned for each try:
/// `patient!("an order could not be placed", client.place_order(request)).await?`.
#[macro_export]
macro_rules! patient {
    ($what:expr, $client:ident.$method:ident($request:ident)) => {
        $crate::patient!($what, &[], $client.$method($request))
    };
    ($what:expr, $not_yet:expr, $client:ident.$method:ident($request:ident)) => {
        $crate::wait::call($what, $not_yet, || {
            let (mut client, request) = ($client.clone(), $request.clone());
            async move { client.$method(request).await }
        })
    };
}
