//! Tells what a return would bring. Changes nothing.

use waybill_kernel::id::OrderId;
use waybill_store::{Db, StoreError};

use super::{Core, seen};
use crate::domain::book::Tenant;
use crate::domain::decision::{self, Quote, Wish};
use crate::error::{Error, unknown_line};
use crate::store;

/// The question what a return would bring.
#[derive(Debug)]
pub struct QuoteReturn<'a> {
    /// What use cases share.
    pub core: &'a Core,
    /// Whose order.
    pub tenant: Tenant,
    /// The order.
    pub order_id: OrderId,
    /// What would come back.
    pub wishes: Vec<Wish>,
    /// The order must be known in this version or a later one.
    pub min_order_version: i64,
}

impl QuoteReturn<'_> {
    /// Answers with the quote and the currency of its amounts.
    pub async fn run(&self, db: &Db) -> Result<(Quote, String), Error> {
        let mut conn = db.pool().acquire().await.map_err(StoreError::from)?;
        let loaded = store::book::read(&mut conn, self.tenant, self.order_id).await?;
        let loaded = seen(loaded, self.order_id, self.min_order_version)?;
        let policy = loaded.policy.ok_or(Error::PolicyNotFound)?;
        let quote = decision::evaluate(&policy, &loaded.book, &self.wishes, self.core.now())
            .map_err(|unknown| unknown_line(unknown.index, unknown.line_id))?;
        Ok((quote, loaded.book.currency.code().to_owned()))
    }
}
