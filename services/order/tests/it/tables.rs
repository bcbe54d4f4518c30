//! What the tables refuse, whoever asks: the invariants as constraints. And what queries cost.

use anyhow::Result;
use sqlx::PgConnection;
use sqlx::Row as _;

use crate::harness::start;
use crate::shop::order;

async fn refused(tables: &mut PgConnection, statement: &'static str) -> String {
    let error = sqlx::query(statement).execute(tables).await.expect_err(statement);
    let error = error.into_database_error().expect(statement);
    error.constraint().unwrap_or(error.message()).to_owned()
}

#[tokio::test]
async fn what_must_never_be_is_refused_by_the_tables() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    shop.place(order("1")).await;
    let mut t = service.tables().await;
    let cases = [
        // O-2
        (
            "UPDATE orders SET total_minor = 1",
            "the terms of an order are frozen: UPDATE of orders refused",
        ),
        (
            "UPDATE orders SET number = '1'",
            "the terms of an order are frozen: UPDATE of orders refused",
        ),
        (
            "UPDATE order_lines SET quantity = 1",
            "the terms of an order are frozen: UPDATE of order_lines refused",
        ),
        (
            "UPDATE order_lines SET added_version = 2",
            "the terms of an order are frozen: UPDATE of order_lines refused",
        ),
        // O-23: what edits add only grows, and no more goes back for what went than was captured.
        (
            "UPDATE orders SET units_to_ship = 1",
            "the terms of an order are frozen: UPDATE of orders refused",
        ),
        (
            "UPDATE orders SET owed_back_minor = 1",
            "orders_owed_back_was_captured",
        ),
        (
            "UPDATE orders SET cancelled_minor = 1001",
            "orders_cancelled_within_bounds",
        ),
        // O-3
        (
            "UPDATE orders SET status = 'CANCELLED'",
            "orders_cancelled_says_why",
        ),
        (
            "UPDATE orders SET status = 'COMPLETED'",
            "orders_completed_is_done",
        ),
        // O-4
        (
            "UPDATE orders SET captured_minor = 1001",
            "orders_money_within_bounds",
        ),
        (
            "UPDATE orders SET captured_minor = -1",
            "orders_money_within_bounds",
        ),
        ("UPDATE orders SET voided_minor = 1", "orders_money_within_bounds"),
        // O-5
        (
            "UPDATE orders SET units_delivered = 1",
            "orders_units_within_bounds",
        ),
        (
            "UPDATE orders SET units_shipped = 3",
            "orders_units_within_bounds",
        ),
        (
            "UPDATE order_lines SET units_shipped = 3",
            "order_lines_units_within_bounds",
        ),
        (
            "UPDATE orders SET payment_status = 'MAYBE'",
            "orders_payment_status_known",
        ),
        // O-28
        (
            "UPDATE orders SET capturing_minor = 1001",
            "orders_capturing_within_due",
        ),
        (
            "UPDATE orders SET capturing_minor = -1",
            "orders_capturing_within_due",
        ),
        (
            "UPDATE orders SET capturing_minor = 600, cancelled_minor = 500",
            "orders_capturing_within_due",
        ),
        (
            "UPDATE orders SET status = 'CANCELLED', cancel_reason = 'x', capturing_minor = 1",
            "orders_cancelled_captures_nothing",
        ),
        // O-26: two attempts on one payment.
        (
            "INSERT INTO payment_attempts (attempt_id, order_id, merchant_id, store_id, payment_id, kind, state, cause, provider,
                                           provider_payment_id, amount_minor, captured_before_minor, rest_minor, is_final,
                                           provider_key, created_at, order_version)
             SELECT gen_random_uuid(), order_id, merchant_id, store_id, order_id, 'capture', 'PENDING', 'request', 'stripe', 'pi_1',
                    1, 0, 0, true, 'key-' || n, now(), 1
             FROM orders, generate_series(1, 2) n",
            "payment_attempts_one_in_flight",
        ),
        // The tenant of what is written later is the order's.
        (
            "INSERT INTO order_returns (order_id, return_id, merchant_id, store_id, stage)
             SELECT order_id, gen_random_uuid(), merchant_id, gen_random_uuid(), 'REQUESTED' FROM orders",
            "order_returns_order_id_merchant_id_store_id_fkey",
        ),
        // O-7: the log is append only.
        (
            "DELETE FROM event_log",
            "event_log is append only: DELETE refused",
        ),
    ];
    for (statement, constraint) in cases {
        assert_eq!(refused(&mut t, statement).await, constraint, "{statement}");
    }
    Ok(())
}

/// O-1: an order whose parts do not sum up cannot be written by any means.
#[tokio::test]
async fn totals_are_checked_by_the_table_too() -> Result<()> {
    let service = start().await;
    service.shop().place(order("1")).await;
    let mut t = service.tables().await;
    let copy = "INSERT INTO orders
        SELECT (json_populate_record(o, json_build_object(
            'order_id', gen_random_uuid(), 'number', 'x', 'source_external_id', 'x', 'total_minor', o.total_minor + 1))).*
        FROM orders o";
    assert_eq!(refused(&mut t, copy).await, "orders_totals_add_up");
    Ok(())
}

/// O-7: versions count what the log tells, and nothing else does.
#[tokio::test]
async fn every_version_has_an_event() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    let placed = shop.place(order("1")).await;
    shop.capture(&placed.order_id, "pay", 1000).await?;
    let mut t = service.tables().await;
    // What the fold writes.
    sqlx::query(
        "UPDATE orders SET units_shipped = 1, fulfillment_status = 'PARTIALLY_FULFILLED', updated_at = now()",
    )
    .execute(&mut t)
    .await?;
    let shipped = shop.get(&placed.order_id).await?;
    assert_eq!(shipped.version, 2);
    let told: Vec<i64> = sqlx::query_scalar("SELECT aggregate_version FROM event_log ORDER BY position")
        .fetch_all(&mut t)
        .await?;
    assert_eq!(told, [1, 2]);
    Ok(())
}

/// No query of a list, a lookup or a timeline reads a large table from end to end.
#[tokio::test]
async fn lookups_use_an_index() -> Result<()> {
    let service = start().await;
    let shop = service.shop();
    shop.place(order("1")).await;
    let mut t = service.tables().await;
    // Many orders of many stores, so that reading everything would be dear.
    sqlx::query(
        "INSERT INTO orders
         SELECT (json_populate_record(o, json_build_object(
             'order_id', gen_random_uuid(), 'number', 'n' || n, 'source_external_id', 'e' || n,
             'store_id', CASE WHEN n % 2 = 0 THEN o.store_id ELSE gen_random_uuid() END,
             'placed_at', o.placed_at - n * interval '1 minute'))).*
         FROM orders o, generate_series(1, 20000) n",
    )
    .execute(&mut t)
    .await?;
    sqlx::query("ANALYZE orders").execute(&mut t).await?;
    let (merchant, store) = (shop.merchant.to_string(), shop.store.to_string());
    let tenant = format!("merchant_id = '{merchant}' AND store_id = '{store}'");
    let queries = [
        format!("SELECT * FROM orders WHERE {tenant} AND number = 'n7'"),
        format!(
            "SELECT * FROM orders WHERE {tenant} AND source_system = 'api' AND source_external_id = 'e7'"
        ),
        format!(
            "SELECT order_id, row_number() OVER (ORDER BY placed_at DESC, order_id DESC) FROM orders
             WHERE {tenant} AND (placed_at, order_id) < ('9999-01-01', '00000000-0000-0000-0000-000000000000')
             ORDER BY placed_at DESC, order_id DESC LIMIT 50"
        ),
        format!(
            "SELECT order_id, row_number() OVER (ORDER BY placed_at DESC, order_id DESC) FROM orders
             WHERE {tenant} AND (placed_at, order_id) < ('9999-01-01', '00000000-0000-0000-0000-000000000000')
               AND status IN ('OPEN', 'ON_HOLD')
             ORDER BY placed_at DESC, order_id DESC LIMIT 50"
        ),
    ];
    for query in queries {
        let plan = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN {query}")))
            .fetch_all(&mut t)
            .await?;
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        assert!(
            plan.contains("Index") && !plan.contains("Seq Scan") && !plan.contains("Sort"),
            "{query}\n{plan}"
        );
    }
    Ok(())
}
