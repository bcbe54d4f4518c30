//! Natural batching of reads: orders that are asked for by id while others are being read share the next statement. One
//! caller alone waits for nobody; many at once cost a few statements. Whose order it is goes along with each id, so callers
//! of all stores share them.
//!
//! A statement alone costs as much as a few orders in it. So the next one is begun when the last one is done, and beside it
//! only when enough wait.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::oneshot;
use tracing::{Instrument as _, Span};
use waybill_kernel::id::OrderId;
use waybill_store::{Db, StoreError};

use super::queue::{Queue, Worker};
use crate::domain::order::{Order, Tenant};
use crate::error::Error;
use crate::store::read::by_owners;

/// Statements at once.
const STATEMENTS: usize = 4;
/// Orders that make one beside another worth it.
const ENOUGH: usize = 8;
/// Orders in a statement, at most. Even if each is the largest that may be, they fit into memory.
const ORDERS: usize = 32;

/// Reads orders by their ids. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Lookups {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    queue: Arc<Queue<Waiting>>,
}

struct Waiting {
    tenant: Tenant,
    order: OrderId,
    span: Span,
    answer: oneshot::Sender<Result<Order, Error>>,
}

impl Lookups {
    pub(crate) fn new(db: &Db) -> Lookups {
        Lookups {
            inner: Arc::new(Inner {
                db: db.clone(),
                queue: Queue::new(STATEMENTS, ENOUGH),
            }),
        }
    }

    /// One order, read together with whatever else is waiting.
    pub(crate) async fn get(&self, tenant: Tenant, order: OrderId) -> Result<Order, Error> {
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            tenant,
            order,
            span: Span::current(),
            answer,
        };
        if let Some(worker) = self.inner.queue.join(waiting) {
            // A task of its own, because it works for others too: a caller that goes away must not take them along.
            tokio::spawn(work(Arc::clone(&self.inner), worker));
        }
        answered.await.map_err(|_| Error::Stopping)?
    }
}

/// Reads for whoever is waiting, until nobody does.
async fn work(inner: Arc<Inner>, mut worker: Worker<Waiting>) {
    while let Some(mut batch) = worker.next(|waiting| waiting.len().min(ORDERS)) {
        // Whoever went away meanwhile is not read for.
        batch.retain(|waiting| !waiting.answer.is_closed());
        let Some(first) = batch.first() else { continue };
        let span = tracing::info_span!(parent: &first.span, "read orders", orders = batch.len());
        // What panics is answered: others wait for this worker.
        let found = AssertUnwindSafe(inner.read(&batch).instrument(span))
            .catch_unwind()
            .await;
        let found = found.unwrap_or_else(|_| Err(StoreError::other("reading orders panicked").into()));
        for waiting in batch {
            let answer = match &found {
                Ok(orders) => orders
                    .get(&(waiting.tenant, waiting.order))
                    .cloned()
                    .ok_or(Error::OrderNotFound),
                Err(error) => Err(error.clone()),
            };
            // Whoever went away asks again.
            let _ = waiting.answer.send(answer);
        }
    }
}

impl Inner {
    async fn read(&self, batch: &[Waiting]) -> Result<HashMap<(Tenant, OrderId), Order>, Error> {
        let wanted: Vec<(Tenant, OrderId)> = (batch.iter())
            .map(|waiting| (waiting.tenant, waiting.order))
            .collect();
        let found = by_owners(self.db.pool(), &wanted).await?;
        Ok((found.into_iter())
            .map(|placed| ((placed.order.tenant, placed.order.id), placed.order))
            .collect())
    }
}
