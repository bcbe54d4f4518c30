//! Goes on giving stock to waiting orders where one transaction was not enough.
//!
//! It touches nothing outside and may run any number of times: what was given is not free any more.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use waybill_events::Log;
use waybill_kernel::id::{JobId, MerchantId};
use waybill_store::jobs::NewJob;
use waybill_store::{Tx, UseCase};

use super::allot::{self, Changes};
use super::tell;
use crate::domain::stock::Sku;
use crate::error::Error;
use crate::store::stock;

/// The kind of the job.
pub const KIND: &str = "give_stock";

/// What the job has to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// Skus with free units that somebody may wait for.
    pub skus: Vec<Sku>,
}

/// The jobs that finish what a transaction left, one per merchant.
///
/// # Errors
/// Never in practice: a list of texts is always JSON.
pub fn jobs(unfinished: Vec<(MerchantId, Sku)>) -> Result<Vec<NewJob>, serde_json::Error> {
    let mut by_merchant: BTreeMap<MerchantId, Vec<Sku>> = BTreeMap::new();
    for (merchant, sku) in unfinished {
        by_merchant.entry(merchant).or_default().push(sku);
    }
    by_merchant
        .into_iter()
        .map(|(merchant, skus)| {
            let payload = serde_json::to_value(Payload { skus })?;
            // A key of its own: a job that is running may already have passed what this one is about.
            Ok(NewJob::new(
                KIND,
                JobId::generate().to_string(),
                merchant,
                payload,
            ))
        })
        .collect()
}

/// Gives free units of some skus to the oldest orders that wait for them.
#[derive(Debug)]
pub struct GiveStock<'a> {
    /// Where it is told.
    pub log: &'a Log,
    /// The time.
    pub now: DateTime<Utc>,
    /// Whose stock.
    pub merchant: MerchantId,
    /// Which skus.
    pub skus: &'a [Sku],
}

impl UseCase for GiveStock<'_> {
    /// The skus that are still not done.
    type Output = Vec<Sku>;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Vec<Sku>, Error> {
        let skus: BTreeSet<_> = self.skus.iter().map(|sku| (self.merchant, sku.clone())).collect();
        let locked = stock::lock_skus(tx.conn(), skus).await?;
        let settled = allot::settle(tx.conn(), &locked, &Changes::default(), self.now).await?;
        tell(tx, self.log, &settled.announcements, &[]).await?;
        Ok(settled.unfinished.into_iter().map(|(_, sku)| sku).collect())
    }
}
