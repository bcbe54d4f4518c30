//! Forgetting a customer, in steps of one short transaction each.
//!
//! 1. The call begins an *erasure* under its request key, forgets the customer's drafts, and looks for the customer's orders, slice by slice, before it
//!    answers (O-33). Whom it is about is known to the call alone: what is stored are ids. A call that breaks goes on where
//!    it was when it is repeated.
//! 2. A *job* erases slice by slice what may be erased, and comes back for the rest until nothing is left. It begins in the
//!    transaction that ends the looking, and its first slice is done at once, so that a customer of some orders is
//!    forgotten when the call answers.
//!
//! Deleting a contact is a change of its order: locked, versioned and told like any other (O-7).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use waybill_events::NewEvent;
use waybill_kernel::id::{ErasureId, MerchantId, OrderId, StoreId};
use waybill_runtime::telemetry::current_traceparent;
use waybill_store::jobs::{self, Done, Job, JobError, JobHandler, NewJob};
use waybill_store::{RequestKey, Tx, UseCase};

use super::{BELL, Orders};
use crate::domain::order::Tenant;
use crate::domain::privacy::{Erasure, Person, Wait, waits_for};
use crate::error::Error;
use crate::events::{self, About, Told};
use crate::store::{customers, drafts, privacy, timeline, track};

/// The kind of the jobs that erase.
const ERASE: &str = "order.erase_customer";

/// Orders that are found in one transaction. Writing their ids is cheap.
const FOUND_AT_ONCE: i64 = 5_000;

/// Orders, or drafts, that are erased in one transaction: each order is some rows, a timeline entry and an event.
const ERASED_AT_ONCE: i64 = 200;

/// What a job that erases is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct ErasePayload {
    merchant_id: MerchantId,
    erasure_id: ErasureId,
}

/// Who is to be forgotten, or handed out.
pub(crate) struct Whose {
    /// The merchant.
    pub merchant: MerchantId,
    /// The stores that the caller may name; all of the merchant when none.
    pub stores: Option<Vec<StoreId>>,
    /// The customer.
    pub person: Person,
}

impl Orders {
    /// Forgets a customer, once per request key.
    pub(crate) async fn erase(&self, key: &RequestKey, whose: Whose) -> Result<Erasure, Error> {
        let (stores, person) = self.known(&whose).await?;
        let begin = Begin {
            orders: self,
            whose: &whose,
        };
        let erasure = self.db.run_once(key, &begin).await?;
        // Before orders are looked for: a draft that is placed meanwhile is found as one.
        let forget = ForgetDrafts {
            whose: &whose,
            person: &person,
        };
        while self.db.run(&forget).await? {}
        let collect = Collect {
            orders: self,
            merchant: whose.merchant,
            erasure,
            stores: &stores,
            person: &person,
            at_once: FOUND_AT_ONCE,
        };
        while !self.db.run(&collect).await? {}
        let slice = EraseSlice {
            orders: self,
            merchant: whose.merchant,
            erasure,
            after: None,
            job: None,
        };
        self.db.run(&slice).await?;
        self.erasure(whose.merchant, None, erasure).await
    }

    /// How far an erasure is, for a caller of these stores.
    pub(crate) async fn erasure(
        &self,
        merchant: MerchantId,
        stores: Option<&[StoreId]>,
        erasure: ErasureId,
    ) -> Result<Erasure, Error> {
        privacy::erasure(self.db.pool(), merchant, stores, erasure)
            .await?
            .ok_or(Error::ErasureNotFound)
    }

    /// The stores to look in, and the customer by what all orders of theirs have in common.
    pub(super) async fn known(&self, whose: &Whose) -> Result<(Vec<StoreId>, Person), Error> {
        let stores = match &whose.stores {
            Some(stores) => stores.clone(),
            None => customers::stores(self.db.pool(), whose.merchant).await?,
        };
        let person = match &whose.person {
            Person::Order(order) => {
                let buyer = customers::buyer(self.db.pool(), whose.merchant, &stores, *order).await?;
                let contact = buyer.ok_or(Error::OrderNotFound)?;
                contact.map_or(Person::Order(*order), |contact| Person::of(*order, &contact))
            }
            person => person.clone(),
        };
        Ok((stores, person))
    }
}

/// Writes that somebody is to be forgotten.
struct Begin<'a> {
    orders: &'a Orders,
    whose: &'a Whose,
}

impl UseCase for Begin<'_> {
    type Output = ErasureId;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<ErasureId, Error> {
        let id = ErasureId::generate();
        let stores = self.whose.stores.as_deref().unwrap_or_default();
        let now = self.orders.clock.now();
        privacy::begin(tx.conn(), self.whose.merchant, id, stores, now).await?;
        Ok(id)
    }
}

/// Forgets the next drafts of the customer: nothing needs them. Answers whether there may be more.
struct ForgetDrafts<'a> {
    whose: &'a Whose,
    person: &'a Person,
}

impl UseCase for ForgetDrafts<'_> {
    type Output = bool;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<bool, Error> {
        let Whose { merchant, stores, .. } = self.whose;
        let gone = drafts::forget(
            tx.conn(),
            *merchant,
            stores.as_deref(),
            self.person,
            ERASED_AT_ONCE,
        )
        .await?;
        Ok(i64::try_from(gone).is_ok_and(|gone| gone >= ERASED_AT_ONCE))
    }
}

/// Finds the next orders of the customer. Answers whether there are no more; the last transaction writes the job.
struct Collect<'a> {
    orders: &'a Orders,
    merchant: MerchantId,
    erasure: ErasureId,
    stores: &'a [StoreId],
    person: &'a Person,
    at_once: i64,
}

impl UseCase for Collect<'_> {
    type Output = bool;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<bool, Error> {
        let (merchant, erasure) = (self.merchant, self.erasure);
        let locked = privacy::lock(tx.conn(), merchant, erasure)
            .await?
            .ok_or(Error::ErasureNotFound)?;
        if locked.collected {
            return Ok(true);
        }
        let found = customers::members(
            tx.conn(),
            merchant,
            self.stores,
            self.person,
            locked.after,
            self.at_once,
        )
        .await?;
        let last = i64::try_from(found.len()).is_ok_and(|found| found < self.at_once);
        let now = self.orders.clock.now();
        let any = privacy::collect(tx.conn(), merchant, erasure, &found, last, now).await?;
        // From here on the customer is a new one to everybody (O-34).
        let keys: HashSet<&str> = found.iter().map(|member| member.customer_key.as_str()).collect();
        customers::retire(tx.conn(), merchant, &keys).await?;
        if last && any {
            let payload = serde_json::json!(ErasePayload {
                merchant_id: merchant,
                erasure_id: erasure,
            });
            let job = NewJob::new(ERASE, erasure.to_string(), merchant, payload);
            jobs::enqueue(tx, &[job]).await?;
        }
        Ok(last)
    }
}

/// Erases the next orders of an erasure, as far as they no longer need the person.
struct EraseSlice<'a> {
    orders: &'a Orders,
    merchant: MerchantId,
    erasure: ErasureId,
    /// Behind this one.
    after: Option<OrderId>,
    /// The job that does it; ends with the last order.
    job: Option<&'a Job>,
}

/// What came of a slice.
enum Slice {
    /// Every order of the erasure is erased.
    Done,
    /// Go on behind this order.
    Next(OrderId),
    /// All were looked at; some wait.
    Waiting,
}

impl UseCase for EraseSlice<'_> {
    type Output = Slice;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Slice, Error> {
        let erasure = self.erasure;
        let locked = privacy::lock(tx.conn(), self.merchant, erasure)
            .await?
            .ok_or(Error::ErasureNotFound)?;
        let ids = privacy::left(tx.conn(), erasure, self.after, ERASED_AT_ONCE).await?;
        let mut finished = locked.finished;
        if !finished {
            let states = track::states(tx.conn(), &ids).await?;
            let refunds = privacy::with_open_refund(tx.conn(), &ids).await?;
            let (mut free, mut waiting) = (Vec::new(), Vec::new());
            for (order, (tenant, tracked)) in states {
                match waits_for(&tracked.state, refunds.contains(&order)) {
                    None => free.push((order, tenant, tracked.state.version)),
                    Some(wait) => waiting.push((order, wait)),
                }
            }
            finished = self.erase(tx, &free, &waiting).await?;
        }
        if finished {
            if let Some(job) = self.job {
                job.complete(tx).await?;
            }
            return Ok(Slice::Done);
        }
        let full = i64::try_from(ids.len()).is_ok_and(|looked_at| looked_at == ERASED_AT_ONCE);
        Ok(match ids.last() {
            Some(last) if full => Slice::Next((*last).into()),
            _ => Slice::Waiting,
        })
    }
}

impl EraseSlice<'_> {
    /// Erases locked orders and notes what the others wait for. Answers whether nothing is left.
    async fn erase(
        &self,
        tx: &mut Tx,
        free: &[(OrderId, Tenant, i64)],
        waiting: &[(OrderId, Wait)],
    ) -> Result<bool, Error> {
        let now = self.orders.clock.now();
        let named: Vec<(OrderId, Tenant)> = (free.iter())
            .map(|(order, tenant, _)| (*order, *tenant))
            .collect();
        // An order that another erasure has erased meanwhile changes no more, and is not told again.
        let erased = privacy::erase(tx.conn(), &named, now).await?;
        let traceparent = current_traceparent();
        let told: Vec<(OrderId, Tenant, Told)> = (free.iter())
            .filter(|(order, ..)| erased.contains(order))
            .map(|(order, tenant, version)| {
                let about = About {
                    tenant: *tenant,
                    order: *order,
                    version: version + 1,
                    at: now,
                };
                let told = events::contact_erased(about, traceparent.as_deref());
                (*order, *tenant, told)
            })
            .collect();
        let entries = told
            .iter()
            .map(|(order, tenant, told)| (*order, *tenant, &told.entry));
        timeline::record(tx.conn(), entries, vec![false; told.len()]).await?;
        let events: Vec<NewEvent> = told.into_iter().map(|(.., told)| told.event).collect();
        if !events.is_empty() {
            self.orders.log.append(tx, &events).await?;
            tx.ring(BELL);
        }
        let done: Vec<OrderId> = free.iter().map(|(order, ..)| *order).collect();
        Ok(privacy::note(tx.conn(), self.erasure, &done, waiting, now).await?)
    }
}

/// Carries erasures out: as far as it goes, and again after a pause as long as orders wait.
pub(crate) struct Eraser {
    /// The service.
    pub orders: Orders,
    /// After which it looks again at orders that wait.
    pub pause: Duration,
}

impl JobHandler for Eraser {
    const KIND: &'static str = ERASE;

    async fn run(&self, job: &Job) -> Result<Done, JobError> {
        let ErasePayload {
            merchant_id: merchant,
            erasure_id: erasure,
        } = job.payload()?;
        let mut after = None;
        loop {
            let slice = EraseSlice {
                orders: &self.orders,
                merchant,
                erasure,
                after,
                job: Some(job),
            };
            match self.orders.db.run(&slice).await.map_err(retry)? {
                Slice::Done => return Ok(Done::Finished),
                Slice::Waiting => return Ok(Done::Again { after: self.pause }),
                Slice::Next(last) => after = Some(last),
            }
        }
    }
}

/// The reason of an error of our own: its text names no person.
fn retry(error: Error) -> JobError {
    match error {
        Error::ErasureNotFound => JobError::dead("the erasure does not exist"),
        Error::Store(error) => {
            Arc::try_unwrap(error).map_or_else(|error| JobError::retry(error.to_string()), JobError::from)
        }
        other => JobError::retry(other.to_string()),
    }
}
