//! What the service told and booked, and whether all of it is one story.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use waybill_kernel::id::OrderId;
use waybill_refund::domain::refund::RefundState;
use waybill_refund::store;

use crate::bench::{Bench, Placed};

impl Bench {
    /// Short names of the events of an order, in the order of the log.
    pub async fn told(&self, order_id: OrderId) -> Result<Vec<String>> {
        let types: Vec<String> = sqlx::query_scalar(
            "SELECT type FROM event_log WHERE partition_key = $1 ORDER BY generation, xid, position",
        )
        .bind(order_id.uuid())
        .fetch_all(self.db.pool())
        .await?;
        Ok(types
            .into_iter()
            .map(|name| name.rsplit('.').next().unwrap_or_default().to_owned())
            .collect())
    }

    /// The payloads of all events of a type about an order.
    pub async fn heard<M: prost::Message + prost::Name + Default>(
        &self,
        order_id: OrderId,
    ) -> Result<Vec<M>> {
        let payloads: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT payload FROM event_log WHERE partition_key = $1 AND type = $2 ORDER BY generation, xid, position",
        )
        .bind(order_id.uuid())
        .bind(M::full_name())
        .fetch_all(self.db.pool())
        .await?;
        Ok(payloads
            .iter()
            .map(|payload| M::decode(payload.as_slice()))
            .collect::<Result<_, _>>()?)
    }

    /// The sums of the accounts of one order.
    pub async fn accounts(&self, order_id: OrderId) -> Result<BTreeMap<String, i64>> {
        let sums: Vec<(String, i64)> = sqlx::query_as(
            "SELECT account, sum(amount)::bigint FROM journal_lines JOIN journal_entries USING (entry_id)
             WHERE order_id = $1 GROUP BY account",
        )
        .bind(order_id.uuid())
        .fetch_all(self.db.pool())
        .await?;
        Ok(sums.into_iter().collect())
    }

    /// Checks that tables, books, events and the provider's ledger tell the same story about an order.
    pub async fn audit(&self, order: &Placed) -> Result<()> {
        let mut conn = self.conn().await?;
        let loaded = store::book::read(&mut conn, self.tenant, order.order_id)
            .await?
            .context("the order is there")?;
        let book = loaded.book;
        let filter = store::refunds::Filter {
            order_id: Some(order.order_id),
            state: None,
        };
        let refunds = store::refunds::list(&mut conn, self.tenant, filter, None, 1000).await?;
        let legs: Vec<_> = refunds.iter().flat_map(|refund| &refund.legs).collect();
        let sum = |state: fn(RefundState) -> bool| {
            legs.iter()
                .filter(|leg| state(leg.state))
                .map(|leg| leg.amount)
                .sum::<i64>()
        };
        let succeeded = sum(|state| state == RefundState::Succeeded);
        assert_eq!(
            book.balance.succeeded, succeeded,
            "the order's sum of what succeeded"
        );
        assert_eq!(
            book.balance.in_flight,
            sum(RefundState::in_flight),
            "the order's sum of what is in flight"
        );
        assert!(
            book.balance.captured >= book.balance.succeeded + book.balance.in_flight,
            "R-1"
        );
        for (index, (payment_id, name)) in order.payments.iter().enumerate() {
            let payment = book
                .payments
                .iter()
                .find(|known| known.payment_id == *payment_id)
                .context("a payment")?;
            let of: Vec<_> = legs.iter().filter(|leg| leg.payment_id == *payment_id).collect();
            let paid: i64 = of
                .iter()
                .filter(|leg| leg.state == RefundState::Succeeded)
                .map(|leg| leg.amount)
                .sum();
            assert_eq!(payment.balance.succeeded, paid, "payment {index}");
            assert!(
                payment.balance.captured >= payment.balance.succeeded + payment.balance.in_flight,
                "R-1"
            );
            if of.iter().all(|leg| !leg.state.in_flight()) && payment.provider == "sandbox" {
                assert_eq!(
                    self.sandbox.paid_out(name),
                    paid,
                    "what the provider paid of payment {index}"
                );
            }
        }
        let accounts = self.accounts(order.order_id).await?;
        let owed: i64 = refunds
            .iter()
            .filter(|refund| refund.holds)
            .map(|refund| refund.amount)
            .sum();
        assert_eq!(
            accounts.get("refunds_payable").copied().unwrap_or_default(),
            succeeded - owed,
            "what is owed"
        );
        let cleared: i64 = accounts
            .iter()
            .filter(|(name, _)| name.starts_with("clearing:"))
            .map(|(_, sum)| sum)
            .sum();
        assert_eq!(cleared, book.balance.captured - succeeded, "what providers hold");
        assert_eq!(accounts.values().sum::<i64>(), 0, "R-5");
        Ok(())
    }
}
