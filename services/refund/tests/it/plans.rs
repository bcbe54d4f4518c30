//! Reads stay reads of an index when tables are large: the server's own count of sequential scans says so.

use std::collections::BTreeMap;

use anyhow::Result;
use sqlx::{Executor as _, PgConnection};
use uuid::Uuid;
use waybill_kernel::id::{EntryId, OrderId, RefundId, ReturnId};
use waybill_refund::domain::book::Tenant;
use waybill_refund::domain::refund::RefundState;
use waybill_refund::store;
use waybill_refund::store::payouts::Match;
use waybill_refund::store::refunds::Filter;

use crate::bench::Bench;

/// Rows of many stores, without the checks that would make writing them slow.
const FILL: &str = "
    SET search_path = refund; SET session_replication_role = replica;
    INSERT INTO orders (order_id, merchant_id, store_id, currency, ship_country, placed_at, seen_version)
    SELECT uuidv7(), uuidv7(), uuidv7(), 'EUR', 'DE', now(), 1 FROM generate_series(1, 20000);
    INSERT INTO returns (return_id, merchant_id, store_id, order_id, state, currency, quote, requested_by, requested_at, updated_at)
    SELECT uuidv7(), merchant_id, store_id, order_id, 'REQUESTED', 'EUR',
           '{\"lines\":[],\"shipping_lines\":[],\"shipping\":0,\"total\":0,\"policy_version\":1,\"auto_approve\":false}', 'x', now(), now() FROM orders;
    INSERT INTO return_lines (return_id, position, line_id, sku, quantity, reason)
    SELECT return_id, 0, uuidv7(), 'MUG', 1, 'other' FROM returns;
    INSERT INTO refunds (refund_id, merchant_id, store_id, order_id, state, currency, amount, tax, reason_key, reason,
                         requested_by, arrival_days, created_at, holds, accrual_entry, updated_at)
    SELECT uuidv7(), merchant_id, store_id, order_id, 'PENDING', 'EUR', 5, 0, 'other', '', 'x', 5, now(), true, uuidv7(), now()
    FROM orders;
    INSERT INTO refund_components (refund_id, position, kind, net, tax)
    SELECT refund_id, 0, 'goodwill', 5, 0 FROM refunds;
    INSERT INTO payments (payment_id, order_id, provider, provider_payment_id, captured_at, captured)
    SELECT uuidv7(), order_id, 'sandbox', 'pi_' || order_id, now(), 5 FROM orders;
    INSERT INTO refund_legs (leg_id, refund_id, position, payment_id, provider, amount, state)
    SELECT uuidv7(), refund_id, 0, payment_id, 'sandbox', 5, 'PENDING' FROM refunds JOIN payments USING (order_id);
    INSERT INTO leg_attempts (leg_id, attempt, merchant_id, store_id, provider, provider_key, calls)
    SELECT leg_id, 1, r.merchant_id, r.store_id, 'sandbox', leg_id::text, 0 FROM refund_legs JOIN refunds r USING (refund_id);
    INSERT INTO journal_entries (entry_id, merchant_id, store_id, order_id, kind, source, lines, booked_at)
    SELECT uuidv7(), merchant_id, store_id, order_id, 'sale', order_id::text, 2, now() FROM orders;
    INSERT INTO journal_lines (entry_id, of_lines, position, merchant_id, account, currency, amount)
    SELECT entry_id, 2, n, merchant_id, 'sales', 'EUR', n FROM journal_entries, generate_series(1, 2) AS n;
    ANALYZE;";

async fn scans(admin: &mut PgConnection) -> Result<BTreeMap<String, i64>> {
    let counts: Vec<(String, i64)> = sqlx::query_as(
        "SELECT relname::text, seq_scan FROM pg_stat_user_tables
         WHERE relname IN ('orders', 'returns', 'return_lines', 'refunds', 'refund_components', 'refund_legs', 'leg_attempts',
                           'payments', 'journal_entries', 'journal_lines')",
    )
    .fetch_all(admin)
    .await?;
    Ok(counts.into_iter().collect())
}

#[tokio::test]
async fn no_read_scans_a_large_table() -> Result<()> {
    let bench = Bench::start().await?;
    let mut admin = bench.test_db.admin().await;
    admin.execute(FILL).await?;
    let (merchant, shop, order_id, refund_id, return_id): (Uuid, Uuid, Uuid, Uuid, Uuid) = sqlx::query_as(
        "SELECT o.merchant_id, o.store_id, o.order_id, f.refund_id, r.return_id
         FROM orders o JOIN refunds f USING (order_id) JOIN returns r USING (order_id) LIMIT 1",
    )
    .fetch_one(&mut admin)
    .await?;
    let tenant = Tenant {
        merchant: merchant.into(),
        store: shop.into(),
    };
    let (order_id, refund_id, return_id) = (
        OrderId::from(order_id),
        RefundId::from(refund_id),
        ReturnId::from(return_id),
    );
    let before = scans(&mut admin).await?;
    assert_eq!(before.len(), 10);

    let mut conn = bench.conn().await?;
    for order in [None, Some(order_id)] {
        for after in [false, true] {
            store::returns::list(&mut conn, tenant, order, after.then(ReturnId::generate), 51).await?;
            store::journal::list(&mut conn, tenant, order, after.then(EntryId::generate), 101).await?;
            for state in [None, Some(RefundState::Failed)] {
                let filter = Filter {
                    order_id: order,
                    state,
                };
                store::refunds::list(&mut conn, tenant, filter, after.then(RefundId::generate), 51).await?;
            }
        }
    }
    let refund = store::refunds::get(&mut conn, tenant, refund_id)
        .await?
        .expect("it is there");
    store::refunds::batch_get(&mut conn, tenant, &[RefundId::generate(), refund_id]).await?;
    assert!(store::returns::get(&mut conn, tenant, return_id).await?.is_some());
    store::journal::trial_balance(&mut conn, tenant.merchant).await?;
    let leg_id = refund.legs[0].leg_id;
    assert!(store::calls::find_leg(&mut conn, leg_id).await?.is_some());
    assert!(
        store::calls::find_told(&mut conn, tenant, "sandbox", "re_1", Some(leg_id))
            .await?
            .is_some()
    );
    assert!(store::book::read(&mut conn, tenant, order_id).await?.is_some());
    let payment = format!("pi_{order_id}");
    let homes = store::payouts::homes(&mut *conn, "sandbox", std::slice::from_ref(&payment)).await?;
    assert_eq!(homes.get(&payment).map(|home| home.order_id), Some(order_id));
    let paid = Match {
        provider: "sandbox",
        provider_payment_id: &payment,
        amount: 5,
        leg_id: None,
    };
    let found = store::payouts::leg_for(&mut *conn, &paid).await?;
    assert_eq!(found, Some((leg_id, 1)));
    // Statistics travel when a transaction ends, and not at once unless they are told to.
    sqlx::query("SELECT pg_stat_force_next_flush()")
        .execute(&mut *conn)
        .await?;
    sqlx::query("SELECT 1").execute(&mut *conn).await?;
    assert_eq!(scans(&mut admin).await?, before, "a read scanned a whole table");

    // The count does count.
    sqlx::query("SELECT count(reason) FROM refunds")
        .execute(&mut *conn)
        .await?;
    sqlx::query("SELECT pg_stat_force_next_flush()")
        .execute(&mut *conn)
        .await?;
    sqlx::query("SELECT 1").execute(&mut *conn).await?;
    assert_eq!(scans(&mut admin).await?["refunds"], before["refunds"] + 1);
    Ok(())
}
