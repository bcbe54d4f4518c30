//! Changes stock on hand, all entries or none, and gives what became free to waiting orders.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use waybill_events::Log;
use waybill_kernel::id::{LocationId, MerchantId};
use waybill_store::{StoreError, Tx, UseCase};

use super::allot::{self, Changes};
use super::{give_stock, tell};
use crate::domain::stock::{AdjustError, Adjustment, Sku, StockLevel};
use crate::error::Error;
use crate::store::stock;

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

        let settled = allot::settle(tx.conn(), &locked, &Changes::default(), self.now).await?;
        let jobs = give_stock::jobs(settled.unfinished).map_err(StoreError::other)?;
        tell(tx, self.log, &settled.announcements, &jobs).await?;
        Ok(stock::levels(tx.conn(), self.merchant, &keys).await?)
    }
}

impl AdjustStock<'_> {
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
