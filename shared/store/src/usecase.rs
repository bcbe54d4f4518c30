//! Runs a use case in a transaction, again when that helps, and with a request key exactly once.
//!
//! A use case is repeated from its beginning, in a new transaction and so under a new transaction id, as long as it is
//! certain that the last attempt wrote nothing. When COMMIT itself was lost nobody knows: [`Db::run`] says so,
//! [`Db::run_once`] asks its request key.

use std::future::Future;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::db::Db;
use crate::error::{RetryClass, StoreError};
use crate::idempotency::{self, Claim, RequestKey};
use crate::origin::Origin;
use crate::tx::Tx;

/// The most attempts of one call.
const ATTEMPTS: u32 = 5;

/// No further attempt begins after this: the caller's deadline is near.
const BUDGET: Duration = Duration::from_secs(10);

const PAUSE: Backoff = Backoff {
    base: Duration::from_millis(10),
    cap: Duration::from_millis(250),
};

/// What one transaction does: load, decide, save.
///
/// It may run several times, so it changes nothing but the database and decides everything inside `run`.
pub trait UseCase: Sync {
    /// What the caller gets.
    type Output: Send;
    /// What can go wrong; usually the service's error.
    type Error: From<StoreError> + RetryClass + Send;

    /// Does the work. An error rolls everything back.
    fn run(&self, tx: &mut Tx) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;
}

impl Db {
    /// Runs `usecase` in a transaction and commits. Repeats it, at most five times, on errors that are worth it.
    ///
    /// # Errors
    ///
    /// The use case's own; [`StoreError::Unavailable`] with `certainly_aborted: false` when the connection was lost while
    /// committing.
    pub async fn run<U: UseCase>(&self, usecase: &U) -> Result<U::Output, U::Error> {
        let mut attempts = Attempts::new();
        loop {
            match self.attempt(usecase).await {
                Err(error) if error.is_retry() && attempts.again().await => {}
                decided => return decided,
            }
        }
    }

    /// Runs `usecase` at most once for `key`, however often and by however many callers this is called, and answers all of
    /// them alike. The answer is kept in the use case's own transaction.
    ///
    /// # Errors
    ///
    /// As [`Db::run`]; [`StoreError::RequestIdReused`] when the key belongs to another request. After a lost COMMIT the key
    /// is asked what happened; `certainly_aborted: false` is left for the case that the database stays away.
    pub async fn run_once<U>(&self, key: &RequestKey, usecase: &U) -> Result<U::Output, U::Error>
    where
        U: UseCase,
        U::Output: Serialize + DeserializeOwned,
    {
        let mut attempts = Attempts::new();
        let mut in_doubt = false;
        loop {
            match self.attempt_once(key, usecase, &mut in_doubt).await {
                Err(error) if (in_doubt || error.is_retry()) && attempts.again().await => {}
                Err(error) if in_doubt => {
                    drop(error);
                    return Err(StoreError::unavailable(false, LOST_COMMIT).into());
                }
                decided => return decided,
            }
        }
    }

    async fn attempt<U: UseCase>(&self, usecase: &U) -> Result<U::Output, U::Error> {
        let mut tx = self.begin().await?;
        match usecase.run(&mut tx).await {
            Ok(output) => {
                tx.commit().await?;
                Ok(output)
            }
            Err(error) => {
                tx.give_up(error.store_error()).await;
                Err(error)
            }
        }
    }

    async fn attempt_once<U>(
        &self,
        key: &RequestKey,
        usecase: &U,
        in_doubt: &mut bool,
    ) -> Result<U::Output, U::Error>
    where
        U: UseCase,
        U::Output: Serialize + DeserializeOwned,
    {
        let mut tx = self.begin().await?;
        match keyed(&mut tx, key, usecase, in_doubt).await {
            Ok(Keyed::Done(output)) => {
                let committed = tx.commit().await;
                *in_doubt = committed.as_ref().is_err_and(|e| !e.is_certainly_aborted());
                committed?;
                Ok(output)
            }
            Ok(Keyed::Before(output)) => {
                tx.give_up(None).await;
                Ok(output)
            }
            Err(error) => {
                tx.give_up(error.store_error()).await;
                Err(error)
            }
        }
    }
}

const LOST_COMMIT: &str =
    "the connection was lost while committing and the database did not come back in time";

enum Keyed<T> {
    /// By us, now; to be committed.
    Done(T),
    /// By an earlier call.
    Before(T),
}

async fn keyed<U>(
    tx: &mut Tx,
    key: &RequestKey,
    usecase: &U,
    in_doubt: &mut bool,
) -> Result<Keyed<U::Output>, U::Error>
where
    U: UseCase,
    U::Output: Serialize + DeserializeOwned,
{
    let claims = idempotency::claim(tx.conn(), std::slice::from_ref(key)).await?;
    match claims.into_iter().next() {
        Some(Claim::Replay(response)) => {
            *in_doubt = false;
            let output = serde_json::from_str(&response).map_err(StoreError::decode)?;
            Ok(Keyed::Before(output))
        }
        Some(Claim::Reused) => {
            *in_doubt = false;
            Err(StoreError::RequestIdReused.into())
        }
        _ => {
            // The key was free: whatever an earlier attempt tried to commit is gone for good. Had it been committed the
            // key would be there, and had it been undecided the claim would have waited.
            *in_doubt = false;
            let output = Origin::of(key).scope(usecase.run(tx)).await?;
            let response = serde_json::to_string(&output).map_err(StoreError::other)?;
            idempotency::record(tx.conn(), &[(key, response)]).await?;
            Ok(Keyed::Done(output))
        }
    }
}

/// Counts attempts and spaces them out.
struct Attempts {
    made: u32,
    until: Instant,
}

impl Attempts {
    fn new() -> Self {
        Attempts {
            made: 1,
            until: Instant::now() + BUDGET,
        }
    }

    /// Waits for the next attempt's turn; `false` when there is none.
    async fn again(&mut self) -> bool {
        let pause = PAUSE.delay(self.made);
        if self.made >= ATTEMPTS || Instant::now() + pause >= self.until {
            return false;
        }
        tracing::debug!(attempt = self.made, "the transaction is repeated");
        self.made += 1;
        tokio::time::sleep(pause).await;
        true
    }
}
