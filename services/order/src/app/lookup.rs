//! Natural batching of reads: orders that are asked for by id while others are being read share the next statement. One
//! caller alone waits for nobody; many at once cost a few statements. Whose order it is goes along with each id, so callers
//! of all stores share them.
//!
//! A statement alone costs as much as a few orders in it. So the next one is begun when the last one is done, and beside it
//! only when enough wait.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, oneshot};
use tracing::{Instrument as _, Span};
use waybill_kernel::id::OrderId;
use waybill_store::Db;

use crate::domain::order::{Order, Tenant};
use crate::error::Error;
use crate::store::read::by_owners;

/// Statements that may run beside the first one.
const BESIDE: usize = 3;
/// Orders that make another one worth it.
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
    /// The one statement that runs for whoever waits.
    lane: Semaphore,
    /// One permit per statement beside it.
    beside: Semaphore,
    waiting: Mutex<VecDeque<Waiting>>,
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
                lane: Semaphore::new(1),
                beside: Semaphore::new(BESIDE),
                waiting: Mutex::default(),
            }),
        }
    }

    /// One order, read together with whatever else is waiting.
    pub(crate) async fn get(&self, tenant: Tenant, order: OrderId) -> Result<Order, Error> {
        let (answer, answered) = oneshot::channel();
        self.inner.waiting().push_back(Waiting {
            tenant,
            order,
            span: Span::current(),
            answer,
        });
        // A task of its own, because it works for others too: a caller that goes away must not take them along.
        tokio::spawn(turn(Arc::clone(&self.inner)));
        answered.await.map_err(|_| Error::Stopping)?
    }
}

/// Takes a lane and whoever is waiting by then. As many turns are started as callers wait, so nobody is forgotten; most
/// turns find that an earlier one took theirs along.
async fn turn(inner: Arc<Inner>) {
    let beside = if inner.waiting().len() >= ENOUGH {
        inner.beside.try_acquire().ok()
    } else {
        None
    };
    let _lane = match beside {
        Some(lane) => lane,
        None => match inner.lane.acquire().await {
            Ok(lane) => lane,
            Err(_) => return,
        },
    };
    let mut batch = inner.take();
    // Whoever went away meanwhile is not read for.
    batch.retain(|waiting| !waiting.answer.is_closed());
    let Some(first) = batch.first() else { return };
    let span = tracing::info_span!(parent: &first.span, "read orders", orders = batch.len());
    let mut found = inner.read(&batch).instrument(span).await;
    for waiting in batch {
        let answer = match &mut found {
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

impl Inner {
    fn waiting(&self) -> std::sync::MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting();
        let count = waiting.len().min(ORDERS);
        waiting.drain(..count).collect()
    }

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
