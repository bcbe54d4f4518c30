//! The job that pays back what was captured for cancelled units of an order that goes on.

use serde::{Deserialize, Serialize};
use waybill_kernel::id::{CancellationId, LineId, MerchantId, OrderId, StoreId};
use waybill_store::Db;
use waybill_store::jobs::{Done, Job, JobError, JobHandler, NewJob};

use super::ours;
use crate::app::cancelled_units::CancelledUnits;
use crate::app::{Core, money_job};
use crate::domain::book::Tenant;
use crate::domain::units::{Run, UnitSet};

/// The job that pays back what was captured for cancelled units.
pub const LINES_CANCELLED: &str = "refund.lines_cancelled";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Units {
    merchant_id: MerchantId,
    store_id: StoreId,
    order_id: OrderId,
    cancellation_id: CancellationId,
    units: Vec<(LineId, Run)>,
    #[serde(default)]
    told: Option<i64>,
}

/// The handler of [`LINES_CANCELLED`].
#[derive(Debug, Clone)]
pub struct PayUnits {
    /// The database.
    pub db: Db,
    /// What use cases share.
    pub core: Core,
}

impl JobHandler for PayUnits {
    const KIND: &'static str = LINES_CANCELLED;

    async fn run(&self, job: &Job) -> Result<Done, JobError> {
        let Units {
            merchant_id,
            store_id,
            order_id,
            cancellation_id,
            units,
            told,
        } = job.payload()?;
        let tenant = Tenant {
            merchant: merchant_id,
            store: store_id,
        };
        let case = CancelledUnits {
            core: &self.core,
            tenant,
            order_id,
            cancellation_id,
            units: (units.into_iter())
                .map(|(line_id, run)| (line_id, UnitSet::from_runs([run])))
                .collect(),
            told,
            job: Some(job),
        };
        self.db.run(&case).await.map_err(|error| ours(&error))?;
        Ok(Done::Finished)
    }
}

/// The job that pays back what was captured for cancelled units: so much, where the order service told.
#[must_use]
pub fn units_job(
    tenant: Tenant,
    order_id: OrderId,
    cancellation_id: CancellationId,
    units: &[(LineId, Run)],
    told: Option<i64>,
) -> NewJob {
    let payload = serde_json::json!({
        "merchant_id": tenant.merchant,
        "store_id": tenant.store,
        "order_id": order_id,
        "cancellation_id": cancellation_id,
        "units": units,
        "told": told,
    });
    money_job(
        LINES_CANCELLED,
        cancellation_id.to_string(),
        tenant,
        order_id,
        payload,
    )
}
