//! One transaction, and who is told once it is committed.

use std::sync::Arc;

use sqlx::{PgConnection, Postgres, Transaction};
use tokio::sync::Notify;

use crate::bell::Bells;
use crate::error::StoreError;

/// An open transaction. Dropping it rolls back.
///
/// A statement that fails has aborted the transaction: hand its error on. Postgres would answer COMMIT after a swallowed
/// error with a silent rollback; debug builds check for it.
pub struct Tx {
    inner: Transaction<'static, Postgres>,
    bells: Bells,
    to_ring: Vec<Arc<Notify>>,
}

impl std::fmt::Debug for Tx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx")
            .field("to_ring", &self.to_ring.len())
            .finish_non_exhaustive()
    }
}

impl Tx {
    pub(crate) fn new(inner: Transaction<'static, Postgres>, bells: Bells) -> Tx {
        Tx {
            inner,
            bells,
            to_ring: Vec::new(),
        }
    }

    /// The connection to run statements on. Never take a second one while this is open: a pool whose every connection
    /// waits for another one is stuck.
    pub fn conn(&mut self) -> &mut PgConnection {
        &mut self.inner
    }

    /// Rings `bell` (`notify_one`, so a ring that nobody waits for is kept) once this transaction is committed.
    pub fn after_commit(&mut self, bell: Arc<Notify>) {
        if !self.to_ring.iter().any(|known| Arc::ptr_eq(known, &bell)) {
            self.to_ring.push(bell);
        }
    }

    /// As [`Tx::after_commit`] with the bell of this name ([`Db::bell`](crate::Db::bell)).
    pub fn ring(&mut self, name: &'static str) {
        let bell = self.bells.get(name);
        self.after_commit(bell);
    }

    /// Commits, then rings the bells.
    ///
    /// # Errors
    ///
    /// A deferred constraint may refuse; a lost connection is [`StoreError::Unavailable`] with `certainly_aborted: false`:
    /// the server may have committed before it, or the answer, was lost.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        if cfg!(debug_assertions) {
            sqlx::query("SELECT 1").execute(&mut *self.inner).await?;
        }
        let committed = self.inner.commit().await.map_err(StoreError::at_commit);
        // After an unknown outcome a needless wake is cheaper than a missed one.
        if !committed.as_ref().is_err_and(StoreError::is_certainly_aborted) {
            for bell in self.to_ring {
                bell.notify_one();
            }
        }
        committed
    }

    /// Frees the locks at once, after something failed in here. If that fails the connection is gone and the server has freed
    /// them. When it was this session that failed ([`StoreError::is_stale_session`]), it does not come back to the pool.
    pub async fn give_up(self, after: Option<&StoreError>) {
        if after.is_some_and(StoreError::is_stale_session) {
            tracing::info!("a session remembered what is gone; it is ended");
            self.end_session().await;
        } else if let Err(error) = self.rollback().await {
            tracing::debug!(%error, "the connection was lost while rolling back");
        }
    }

    /// Rolls back by ending the session, so that the pool opens another one.
    async fn end_session(mut self) {
        // The pool gives out no connection that it cannot roll back on. A role may end its own sessions.
        let ended = sqlx::raw_sql("ROLLBACK; SELECT pg_terminate_backend(pg_backend_pid())");
        if let Err(error) = ended.execute(&mut *self.inner).await {
            tracing::debug!(%error, "the session has ended");
        }
    }

    /// Rolls back at once instead of when the connection is used next, so that its locks are free when this returns.
    ///
    /// # Errors
    ///
    /// When the connection is lost; the server then rolls back by itself.
    pub async fn rollback(self) -> Result<(), StoreError> {
        Ok(self.inner.rollback().await?)
    }
}
