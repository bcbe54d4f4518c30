//! Lists stock by sku and location.

use waybill_kernel::id::{LocationId, MerchantId};
use waybill_store::{Db, StoreError};

use super::shipments::Page;
use crate::domain::stock::{Sku, StockLevel};
use crate::store::stock;

/// Which levels are wanted.
#[derive(Debug)]
pub struct ListStockLevels {
    /// Whose stock.
    pub merchant: MerchantId,
    /// Which skus; all when empty.
    pub skus: Vec<Sku>,
    /// The last level of the page before.
    pub after: Option<(Sku, LocationId)>,
    /// The most levels to answer with.
    pub limit: i64,
}

/// A page of stock levels, by sku, then location.
///
/// # Errors
/// As the database answers.
pub async fn list(db: &Db, wanted: &ListStockLevels) -> Result<Page<StockLevel>, StoreError> {
    let levels = stock::page(
        db.pool(),
        wanted.merchant,
        &wanted.skus,
        wanted.after.as_ref(),
        wanted.limit + 1,
    )
    .await?;
    Ok(Page::of(levels, wanted.limit))
}
