//! The jobs of payments: their handlers, and how they are written.

use serde::{Deserialize, Serialize};
use waybill_kernel::id::{MerchantId, OrderId, PaymentId, StoreId};
use waybill_rpc::fault::Fault as _;
use waybill_store::jobs::{Done, Job, JobError, JobHandler, NewJob, Priority};
use waybill_store::{RetryClass as _, StoreError};

use super::{Cashier, Progress, Trouble, destination};
use crate::app::{Sweep, SweepOrder, Swept};
use crate::domain::attempt::Attempt;
use crate::domain::order::Tenant;
use crate::error::Error;

/// The job that captures or releases what is authorised for an order.
const SWEEP: &str = "payment.sweep";
/// The job that hands an attempt to its provider.
const SUBMIT: &str = "payment.submit";
/// The job that asks a provider what came of an attempt.
const RESOLVE: &str = "payment.resolve";

impl From<Trouble> for JobError {
    fn from(trouble: Trouble) -> Self {
        let reason = trouble.to_string();
        match trouble {
            Trouble::NotNow {
                after: Some(after), ..
            } => Self::retry_after(after, reason),
            Trouble::NotNow { after: None, .. } | Trouble::NoProvider(_) => Self::retry(reason),
            Trouble::Ours(error) => ours(&error),
        }
    }
}

/// A fault of the database passes; a broken rule does not.
fn ours(error: &Error) -> JobError {
    if let Error::Store(store) = error
        && matches!(**store, StoreError::Held)
    {
        return StoreError::Held.into();
    }
    let reason = format!("{}: {error}", error.reason());
    if error.is_retry() || matches!(error, Error::Store(_)) {
        JobError::retry(reason)
    } else {
        JobError::dead(reason)
    }
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct OfAttempt {
    attempt_id: PaymentId,
}

/// The handler of [`SUBMIT`].
#[derive(Clone)]
pub(crate) struct Submit(pub(crate) Cashier);

impl JobHandler for Submit {
    const KIND: &'static str = SUBMIT;

    async fn run(&self, job: &Job) -> Result<Done, JobError> {
        let OfAttempt { attempt_id } = job.payload()?;
        if self.0.submit(attempt_id, job).await? == Progress::Pending {
            let poll = self.0.patience.poll;
            let planned = self.0.follow_up(attempt_id, false, poll).await;
            planned.map_err(|error| ours(&error))?;
        }
        Ok(Done::Finished)
    }
}

/// The handler of [`RESOLVE`].
#[derive(Clone)]
pub(crate) struct Resolve(pub(crate) Cashier);

impl JobHandler for Resolve {
    const KIND: &'static str = RESOLVE;

    async fn run(&self, job: &Job) -> Result<Done, JobError> {
        let OfAttempt { attempt_id } = job.payload()?;
        Ok(match self.0.submit(attempt_id, job).await? {
            Progress::Settled => Done::Finished,
            Progress::Pending => Done::Again {
                after: self.0.patience.poll,
            },
            Progress::Unknown => Done::Again {
                after: self.0.patience.look_after,
            },
        })
    }
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct OfOrder {
    merchant_id: MerchantId,
    store_id: StoreId,
    order_id: OrderId,
    sweep: Sweep,
}

/// The handler of [`SWEEP`].
#[derive(Clone)]
pub(crate) struct SweepAuthorizations(pub(crate) Cashier);

impl JobHandler for SweepAuthorizations {
    const KIND: &'static str = SWEEP;

    async fn run(&self, job: &Job) -> Result<Done, JobError> {
        let OfOrder {
            merchant_id,
            store_id,
            order_id,
            sweep,
        } = job.payload()?;
        let usecase = SweepOrder {
            orders: &self.0.orders,
            tenant: Tenant {
                merchant: merchant_id,
                store: store_id,
            },
            order: order_id,
            sweep,
            job,
        };
        let swept = self.0.orders.db.run(&usecase).await;
        Ok(match swept.map_err(|error| ours(&error))? {
            Swept::Done => Done::Finished,
            Swept::Later => Done::Again {
                after: self.0.patience.look_after,
            },
        })
    }
}

/// A job about an order's money goes before all others.
fn money_job(
    kind: &'static str,
    key: String,
    tenant: Tenant,
    order: OrderId,
    payload: serde_json::Value,
) -> NewJob {
    NewJob::new(kind, key, tenant.merchant, payload)
        .for_order(order.uuid())
        .priority(Priority::High)
}

/// The job that hands an attempt to its provider.
pub(crate) fn submit_job(tenant: Tenant, order: OrderId, attempt: &Attempt) -> NewJob {
    attempt_job(SUBMIT, tenant, order, attempt)
}

/// The job that asks what came of an attempt.
pub(crate) fn resolve_job(tenant: Tenant, order: OrderId, attempt: &Attempt) -> NewJob {
    attempt_job(RESOLVE, tenant, order, attempt)
}

fn attempt_job(kind: &'static str, tenant: Tenant, order: OrderId, attempt: &Attempt) -> NewJob {
    let payload = serde_json::json!({ "attempt_id": attempt.id });
    money_job(kind, attempt.id.to_string(), tenant, order, payload).towards(destination(&attempt.provider))
}

/// The job that captures or releases what is authorised for an order. `cause` names what made it necessary, once.
pub(crate) fn sweep_job(tenant: Tenant, order: OrderId, sweep: Sweep, cause: &str) -> NewJob {
    let payload = serde_json::json!({
        "merchant_id": tenant.merchant,
        "store_id": tenant.store,
        "order_id": order,
        "sweep": sweep,
    });
    money_job(SWEEP, cause.to_owned(), tenant, order, payload)
}
