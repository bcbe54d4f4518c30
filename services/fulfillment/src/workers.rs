//! What runs behind the RPCs. Nothing here calls the outside world: a job goes on with work that was too much for one
//! transaction.

use waybill_events::Log;
use waybill_kernel::time;
use waybill_store::Db;
use waybill_store::jobs::{Done, Job, JobError, JobHandler};

use crate::app::give_stock::{self, GiveStock, Payload};
use crate::error::Error;

/// Gives stock to waiting orders until none is left that could get some.
pub struct StockGiver {
    /// Where the orders wait.
    pub db: Db,
    /// Where it is told.
    pub log: Log,
    /// The clock.
    pub clock: time::Shared,
}

impl JobHandler for StockGiver {
    const KIND: &'static str = give_stock::KIND;

    async fn run(&self, job: &Job) -> Result<Done, JobError> {
        let Payload { mut skus } = job.payload()?;
        while !skus.is_empty() {
            let step = GiveStock {
                log: &self.log,
                now: self.clock.now(),
                merchant: job.merchant,
                skus: &skus,
            };
            skus = self.db.run(&step).await.map_err(failed)?;
        }
        Ok(Done::Finished)
    }
}

fn failed(error: Error) -> JobError {
    match error {
        Error::Store(error) => error.into(),
        other => JobError::retry(other.to_string()),
    }
}
