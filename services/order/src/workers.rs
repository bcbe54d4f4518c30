//! Work beside calls and events: request keys are forgotten when nobody will ask for them any more.
//!
//! The service calls nothing outside, so it has no jobs.

use std::convert::Infallible;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use waybill_store::{Db, idempotency};

/// How often old keys are looked for.
const EVERY: Duration = Duration::from_secs(3600);
/// Keys per transaction.
const AT_ONCE: i64 = 5_000;

/// Forgets request keys that are older than the promise made to callers, until it is asked to stop.
pub(crate) async fn forget_request_keys(db: Db, stop: CancellationToken) -> Result<(), Infallible> {
    while stop
        .run_until_cancelled(tokio::time::sleep(EVERY))
        .await
        .is_some()
    {
        loop {
            match stop
                .run_until_cancelled(idempotency::prune(&db, idempotency::KEEP, AT_ONCE))
                .await
            {
                Some(Ok(forgotten)) if forgotten == AT_ONCE.unsigned_abs() => {}
                Some(Err(error)) => {
                    tracing::warn!(%error, "old request keys could not be forgotten; trying again later");
                    break;
                }
                _ => break,
            }
        }
    }
    Ok(())
}
