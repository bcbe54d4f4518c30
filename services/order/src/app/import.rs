//! Importing: a file's orders through the same intake as all others, and how far the file has come.
//!
//! An order is placed under a request key of its own, made from import, place in the file and content, before the import
//! moves on. So whatever is lost in between (the stream, this process, the answer of the database) the next stream finds the
//! order under its key and counts it as placed by this import, once (O-20).

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use waybill_kernel::hash;
use waybill_kernel::time;
use waybill_store::{RequestKey, Tx, UseCase};

use super::{Candidate, NewPayment, Orders, Outcome};
use crate::domain::import::{Import, MAX_REFUSALS, Opening, Refusal};
use crate::domain::order::Tenant;
use crate::error::{Error, ImportError};
use crate::store::imports::{self, Step};

/// Refusals that one answer lists.
const LISTED_REFUSALS: i64 = 1000;
/// Payments that are recorded at once: each is a transaction of its own, and connections must be left for others.
const PAYMENTS_AT_ONCE: usize = 4;
/// Who the keys of an import belong to: the import and not the caller, so that another caller can take it up.
const CALLER: &str = "import";

/// The imports that this process serves at once.
#[derive(Clone)]
pub(crate) struct Imports {
    seats: Arc<Semaphore>,
    most: usize,
}

impl Imports {
    pub(crate) fn new(most: usize) -> Imports {
        Imports {
            seats: Arc::new(Semaphore::new(most)),
            most,
        }
    }

    fn take(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.seats)
            .try_acquire_owned()
            .map_err(|_| ImportError::TooMany { most: self.most }.into())
    }
}

struct Open<'a> {
    clock: &'a time::Shared,
    tenant: Tenant,
    opening: &'a Opening,
}

impl UseCase for Open<'_> {
    type Output = Import;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Import, Error> {
        let import = imports::open(tx.conn(), self.tenant, self.opening, self.clock.now()).await?;
        // Refused, the transaction is rolled back, and whoever is importing goes on undisturbed.
        import
            .is_of(self.opening)
            .map_err(|differs| ImportError::Differs {
                id: import.id.clone(),
                differs,
            })?;
        Ok(import)
    }
}

struct MoveOn<'a> {
    clock: &'a time::Shared,
    tenant: Tenant,
    id: &'a str,
    step: &'a Step<'a>,
}

impl UseCase for MoveOn<'_> {
    type Output = Import;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Import, Error> {
        let moved = imports::move_on(tx.conn(), self.tenant, self.id, self.step, self.clock.now()).await?;
        let taken_over = || ImportError::TakenOver {
            id: self.id.to_owned(),
        };
        Ok(moved.ok_or_else(taken_over)?)
    }
}

/// An import that a stream goes on with, until another one opens it.
pub(crate) struct Importing {
    orders: Orders,
    tenant: Tenant,
    import: Import,
    _seat: OwnedSemaphorePermit,
}

impl Orders {
    /// Opens an import, or takes it up where it was. Whoever was importing under the same key is told so at its next step.
    ///
    /// # Errors
    ///
    /// When the key belongs to another file, or as many are running as this process serves.
    pub(crate) async fn open_import(&self, tenant: Tenant, opening: &Opening) -> Result<Importing, Error> {
        let seat = self.imports.take()?;
        let open = Open {
            clock: &self.clock,
            tenant,
            opening,
        };
        Ok(Importing {
            orders: self.clone(),
            tenant,
            import: self.db.run(&open).await?,
            _seat: seat,
        })
    }

    /// How far an import has come, and the first lines of it that were refused.
    pub(crate) async fn find_import(
        &self,
        tenant: Tenant,
        id: &str,
    ) -> Result<(Import, Vec<Refusal>), Error> {
        let import = imports::find(self.db.pool(), tenant, id).await?;
        let import = import.ok_or(ImportError::NotFound)?;
        let refusals = imports::refusals(self.db.pool(), tenant, id, LISTED_REFUSALS).await?;
        Ok((import, refusals))
    }
}

impl Importing {
    /// How far it has come.
    pub(crate) fn import(&self) -> &Import {
        &self.import
    }

    /// Whose orders it imports.
    pub(crate) fn tenant(&self) -> Tenant {
        self.tenant
    }

    /// The key of something that the import does with the row at this place; the same when it is done again.
    pub(crate) fn key(&self, rpc: &'static str, what: &str, byte: u64, hash: [u8; 32]) -> RequestKey {
        let parts = [
            self.tenant.store.to_string(),
            self.import.id.clone(),
            what.to_owned(),
            byte.to_string(),
            // Another content is another request: that its source is the same is found out by the source.
            hash.iter().map(|byte| format!("{byte:02x}")).collect(),
        ];
        RequestKey {
            merchant: self.tenant.merchant,
            caller: CALLER.to_owned(),
            rpc,
            request_id: hash::fingerprint(parts),
            hash,
        }
    }

    /// Places orders, in their order. Gives them back with what became of each.
    ///
    /// # Errors
    ///
    /// When it is not the orders' fault that they could not be placed: nothing is known of them then.
    pub(crate) async fn place(&self, candidates: Vec<Candidate>) -> Result<Vec<(Candidate, Outcome)>, Error> {
        let count = candidates.len();
        let placed = self.orders.intake.place_all(candidates).await;
        if placed.len() < count {
            return Err(Error::Stopping);
        }
        let decide = |(candidate, outcome): (Candidate, Result<Outcome, Error>)| match outcome {
            Ok(Outcome::Later) => Err(Error::Stopping),
            Ok(outcome) => Ok((candidate, outcome)),
            Err(error) if error.is_passing() => Err(error),
            Err(error) => Ok((candidate, Outcome::Refused(error))),
        };
        placed.into_iter().map(decide).collect()
    }

    /// Records payments, several at once; of those that are named alike the first one counts. Gives back what became of each,
    /// in the order they are given.
    ///
    /// # Errors
    ///
    /// When it is not the payments' fault that they could not be recorded.
    pub(crate) async fn pay(
        &self,
        payments: Vec<(RequestKey, NewPayment)>,
    ) -> Result<Vec<Result<(), Error>>, Error> {
        let mut names = HashSet::with_capacity(payments.len());
        let (mut firsts, mut repeats) = (Vec::with_capacity(payments.len()), Vec::new());
        for (at, (key, payment)) in payments.into_iter().enumerate() {
            let (provider, id) = payment.name();
            let is_first = names.insert((provider.to_owned(), id.to_owned()));
            let part = if is_first { &mut firsts } else { &mut repeats };
            part.push((at, key, payment));
        }
        let record = |(at, key, payment)| async move {
            let recorded = self.orders.record(&key, &payment).await;
            (at, recorded.map(drop))
        };
        let firsts = stream::iter(firsts).map(record).buffered(PAYMENTS_AT_ONCE);
        let mut recorded: Vec<(usize, Result<(), Error>)> = firsts.collect().await;
        for repeat in repeats {
            recorded.push(record(repeat).await);
        }
        recorded.sort_by_key(|(at, _)| *at);
        recorded
            .into_iter()
            .map(|(_, outcome)| match outcome {
                Err(error) if error.is_passing() => Err(error),
                outcome => Ok(outcome),
            })
            .collect()
    }

    /// Makes durable what has happened since the step before.
    ///
    /// # Errors
    ///
    /// When another stream has opened the import meanwhile.
    pub(crate) async fn move_on(&mut self, step: Step<'_>) -> Result<(), Error> {
        let counts = self.import.counts;
        let room = (MAX_REFUSALS - counts.refused - counts.payments_refused).max(0);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let step = Step {
            epoch: self.import.epoch,
            refusals: &step.refusals[..step.refusals.len().min(room)],
            ..step
        };
        let move_on = MoveOn {
            clock: &self.orders.clock,
            tenant: self.tenant,
            id: &self.import.id,
            step: &step,
        };
        self.import = self.orders.db.run(&move_on).await?;
        Ok(())
    }
}
