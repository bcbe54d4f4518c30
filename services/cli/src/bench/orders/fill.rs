//! A store full of orders, written set-based: what placements and their later life leave, without the log.

use std::sync::atomic::{AtomicI64, Ordering};

use sqlx::Connection as _;

use super::super::Progress;
use super::shop::Shop;

/// Orders in a transaction.
const AT_ONCE: i64 = 5_000;

/// Between two lines of progress.
const LINE: i64 = 100_000;

/// Writes `count` orders of three lines and shipping, one every four seconds since 2020. Most are finished.
pub(super) async fn fill(shop: &Shop, count: i64, progress: &Progress) -> anyhow::Result<()> {
    let next = AtomicI64::new(1);
    // One writes while the other waits for the disk.
    tokio::try_join!(
        write(shop, count, &next, progress),
        write(shop, count, &next, progress)
    )?;
    progress.say("orders: what the server does by and by");
    settle(shop).await
}

/// Writes the next orders until there are `count`.
async fn write(shop: &Shop, count: i64, next: &AtomicI64, progress: &Progress) -> anyhow::Result<()> {
    let mut conn = shop.db.dedicated().await?;
    // A disk that has fallen behind may take longer over them than a role's transactions have.
    sqlx::raw_sql("SET synchronous_commit = off; SET transaction_timeout = 0")
        .execute(&mut conn)
        .await?;
    loop {
        let first = next.fetch_add(AT_ONCE, Ordering::Relaxed);
        if first > count {
            break;
        }
        if first % LINE == 1 {
            progress.say(format!("orders: filling the store, order {first} of {count}"));
        }
        let last = count.min(first + AT_ONCE - 1);
        sqlx::query(FILL)
            .bind(shop.merchant.uuid())
            .bind(shop.store.uuid())
            .bind(first)
            .bind(last)
            .execute(&mut conn)
            .await?;
    }
    Ok(conn.close().await?)
}

/// Does what the server itself does by and by: cleans up, and counts what is in the tables for the planner.
pub(super) async fn settle(shop: &Shop) -> anyhow::Result<()> {
    let mut conn = shop.db.dedicated().await?;
    sqlx::raw_sql("SET transaction_timeout = 0")
        .execute(&mut conn)
        .await?;
    for table in [
        "orders",
        "order_lines",
        "order_contacts",
        "order_timeline",
        "order_shipping_lines",
    ] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("VACUUM ANALYZE {table}")))
            .execute(&mut conn)
            .await?;
    }
    Ok(conn.close().await?)
}

const FILL: &str = r#"
    WITH n AS MATERIALIZED (
        SELECT n, at, h,
               (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(h, 1, 3) || '8' || substr(h, 4, 15))::uuid AS order_id,
               ('x' || substr(h, 1, 6))::bit(24)::int AS r, ('x' || substr(h, 7, 6))::bit(24)::int % 1000000 AS buyer,
               CASE WHEN n % 50 = 0 THEN 0 ELSE 3 END AS done
        FROM generate_series($3::bigint, $4::bigint) n,
             LATERAL (SELECT timestamptz '2020-01-01 00:00:00Z' + n * interval '4 seconds' AS at, md5($2::uuid::text || '/' || n) AS h) x
    ), o AS (
        INSERT INTO orders (order_id, merchant_id, store_id, number, source_system, source_external_id, currency,
            prices_include_tax, subtotal_minor, discounts_minor, shipping_minor, tax_minor, total_minor, discounts, locale,
            placed_at, promised_ship_at, tags, line_count, created_at, status, units_to_ship, units_shipped, units_delivered,
            captured_minor, payment_status, fulfillment_status, updated_at, log_generation)
        SELECT order_id, $1::uuid, $2, 'F' || n, 'fill', h, 'EUR', true, 1000 + r % 30000, 0, 490, 200, 1490 + r % 30000, '[]', 'de-DE',
            at, at + interval '2 days', '[]', 4, at, CASE WHEN done = 0 THEN 'OPEN' ELSE 'COMPLETED' END, 3, done, done,
            CASE WHEN done = 0 THEN 0 ELSE 1490 + r % 30000 END, CASE WHEN done = 0 THEN 'PENDING' ELSE 'PAID' END,
            CASE WHEN done = 0 THEN 'UNFULFILLED' ELSE 'DELIVERED' END, at + r % 1000 * interval '1 minute', 1
        FROM n
    ), l AS (
        INSERT INTO order_lines (order_id, line_id, merchant_id, store_id, position, sku, title, quantity, unit_price_minor,
            category, final_sale, digital, attributes, discounts, order_discount_minor, taxes, net_minor, total_minor)
        SELECT order_id, (substr(order_id::text, 1, 19) || 'a' || p || substr(order_id::text, 22))::uuid, $1, $2, p,
            'SKU-' || lpad((('x' || substr(md5(h || p), 1, 6))::bit(24)::int % 20000)::text, 5, '0'), 'A thing that is sold here',
            1, 500, 'things', false, false, '{}', '[]', 0,
            '[{"title": "USt", "amount": 80, "rate_ppm": 190000, "jurisdiction": "DE"}]', 420, 500
        FROM n, generate_series(0, 2) p
    ), s AS (
        INSERT INTO order_shipping_lines (order_id, line_id, merchant_id, store_id, position, title, price_minor, discounts,
            taxes, net_minor, total_minor)
        SELECT order_id, order_id, $1, $2, 0, 'Parcel', 490, '[]', '[]', 490, 490 FROM n
    ), c AS (
        INSERT INTO order_contacts (order_id, merchant_id, store_id, customer_key, customer_external_id, email, name, phone,
            shipping_address)
        SELECT order_id, $1, $2, md5('a' || buyer) || md5('b' || buyer), 'customer-' || buyer, 'buyer' || buyer || '@example.org',
            'Kim' || buyer % 1000 || ' Doe' || buyer, '+49 40 1234567',
            '{"name": "Kim Doe", "company": "", "lines": ["Long Street 1"], "city": "Hamburg", "region": "", "postal_code": "20095", "country_code": "DE", "phone": ""}'
        FROM n
    )
    INSERT INTO order_timeline (order_id, event_id, merchant_id, store_id, service, type, summary, occurred_at, trace_id)
    SELECT order_id, order_id, $1, $2, 'order', 'waybill.order.v1.OrderPlaced', 'Placed: 3 units for 14.90 EUR', at, h FROM n"#;
