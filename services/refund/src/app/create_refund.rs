//! Pays money back without a return: units, shipping, goodwill.

use waybill_kernel::id::OrderId;
use waybill_kernel::money::Money;
use waybill_store::{Tx, UseCase};

use super::{Aftermath, Core, NewRefund, create, seen};
use crate::domain::book::Tenant;
use crate::domain::compose::{self, Ask};
use crate::domain::refund::Refund;
use crate::error::Error;
use crate::store;

/// The wish to pay money back.
#[derive(Debug)]
pub struct CreateRefund<'a> {
    /// What use cases share.
    pub core: &'a Core,
    /// Whose order.
    pub tenant: Tenant,
    /// The order.
    pub order_id: OrderId,
    /// Units and shipping; goodwill is beside it, for it has a currency of its own.
    pub ask: Ask,
    /// What is given on top.
    pub goodwill: Option<Money>,
    /// Why, for people.
    pub reason: String,
    /// The order must be known in this version or a later one.
    pub min_order_version: i64,
    /// Who asks.
    pub caller: String,
}

impl UseCase for CreateRefund<'_> {
    type Output = Refund;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Refund, Error> {
        let loaded = store::book::lock(tx.conn(), self.tenant, self.order_id).await?;
        let loaded = seen(loaded, self.order_id, self.min_order_version)?;
        let mut ask = self.ask.clone();
        if let Some(goodwill) = self.goodwill {
            let currency = loaded.book.currency;
            if goodwill.currency != currency {
                let wrong = format!("{} is not the order's currency, {currency}", goodwill.currency);
                return Err(Error::field("goodwill.currency_code", wrong));
            }
            ask.goodwill = goodwill.minor;
        }
        let only_goodwill = ask.lines.is_empty() && !ask.shipping;
        let plan = compose::for_ask(&loaded.book, &ask)?;
        let new = NewRefund {
            refund_id: None,
            return_id: None,
            reason_key: if only_goodwill { "goodwill" } else { "other" },
            reason: &self.reason,
            requested_by: &self.caller,
        };
        let mut aftermath = Aftermath::default();
        let refund = create(self.core, tx, &loaded, plan, new, &mut aftermath).await?;
        self.core.finish(tx, aftermath).await?;
        Ok(refund)
    }
}
