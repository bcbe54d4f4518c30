//! Changes stock on hand, all entries or none, and gives what became free to waiting orders.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sqlx::Connection as _;
use waybill_events::Log;
use waybill_kernel::id::{LocationId, MerchantId};
use waybill_store::{RetryCause, StoreError, Tx, UseCase};

use super::allot::{self, Changes};
use super::{give_stock, tell};
use crate::domain::stock::{AdjustError, Adjustment, Sku, StockLevel};
use crate::error::Error;
use crate::store::stock::{self, LockedSkus};

/// The most adjustments of one request.
pub const MAX_ADJUSTMENTS: usize = 5_000;

/// Asks to change stock.
#[derive(Debug)]
pub struct AdjustStock<'a> {
    /// Where it is told.
    pub log: &'a Log,
    /// The time.
    pub now: DateTime<Utc>,
    /// Whose stock.
    pub merchant: MerchantId,
    /// What to change; each (sku, location) once.
    pub adjustments: Vec<(Sku, LocationId, Adjustment)>,
}

impl UseCase for AdjustStock<'_> {
    /// The levels afterwards, in the order of the adjustments.
    type Output = Vec<StockLevel>;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Vec<StockLevel>, Error> {
        let locations: BTreeSet<LocationId> = self
            .adjustments
            .iter()
            .map(|(_, location, _)| *location)
            .collect();
        let unknown = stock::unknown_locations(tx.conn(), self.merchant, &locations).await?;
        if let Some(location) = unknown.first() {
            return Err(Error::LocationNotFound { location: *location });
        }

        let skus = self
            .adjustments
            .iter()
            .map(|(sku, _, _)| (self.merchant, sku.clone()))
            .collect();
        let locked = stock::lock_skus(tx.conn(), skus).await?;
        let keys: Vec<(Sku, LocationId)> = self
            .adjustments
            .iter()
            .map(|(sku, location, _)| (sku.clone(), *location))
            .collect();
        let before = stock::levels(tx.conn(), self.merchant, &keys).await?;
        let after = self.adjusted(before)?;
        stock::save_levels(tx.conn(), &locked, self.merchant, &after).await?;

        self.give(tx, &locked).await?;
        Ok(stock::levels(tx.conn(), self.merchant, &keys).await?)
    }
}

impl AdjustStock<'_> {
    /// Gives what is free now to who waits; what cannot be given here and now is left to a job.
    ///
    /// This transaction drew its id before it waited for the skus. An order that was changed meanwhile, under a later id,
    /// refuses to be changed by it. The delivery stands nevertheless: only the giving is taken back and done again by the
    /// job, under a new id.
    async fn give(&self, tx: &mut Tx, locked: &LockedSkus) -> Result<(), Error> {
        let mut savepoint = tx.conn().begin().await.map_err(StoreError::from)?;
        let (announcements, unfinished) =
            match allot::settle(&mut savepoint, locked, &Changes::default(), self.now).await {
                Ok(settled) => {
                    savepoint.commit().await.map_err(StoreError::from)?;
                    (settled.announcements, settled.unfinished)
                }
                Err(StoreError::Retry(RetryCause::LogOrder)) => {
                    savepoint.rollback().await.map_err(StoreError::from)?;
                    (
                        Vec::new(),
                        self.adjustments
                            .iter()
                            .map(|(sku, _, _)| (self.merchant, sku.clone()))
                            .collect(),
                    )
                }
                Err(error) => return Err(error.into()),
            };
        let jobs = give_stock::jobs(unfinished).map_err(StoreError::other)?;
        Ok(tell(tx, self.log, &announcements, &jobs).await?)
    }

    /// The levels as they shall be, or the first that cannot be.
    fn adjusted(&self, before: Vec<StockLevel>) -> Result<Vec<StockLevel>, Error> {
        let mut after = Vec::with_capacity(before.len());
        let mut refused: Vec<(Sku, LocationId, AdjustError)> = Vec::new();
        for (entry, (_, _, adjustment)) in before.into_iter().zip(&self.adjustments) {
            match entry.level.adjusted(*adjustment) {
                Ok(level) => after.push(StockLevel { level, ..entry }),
                Err(cause) => refused.push((entry.sku, entry.location, cause)),
            }
        }
        let others = refused.len().saturating_sub(1);
        match refused.into_iter().next() {
            None => Ok(after),
            Some((sku, location, cause)) => Err(Error::StockRefused {
                sku,
                location,
                cause,
                others,
            }),
        }
    }
}
