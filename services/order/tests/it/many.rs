//! Many orders at once, written set-based by a superuser: what placements write, as far as finding looks at it.

use sqlx::PgConnection;
use uuid::Uuid;

/// Gives a store the orders N1 to N`count`. Order `n` was placed `n` minutes before noon on 1 March 2025, costs 10 euros and
/// `n` cents, and has two lines. What it shares with others:
///
/// - sku `COMMON` with all, `SKU-<n % 500>` with few;
/// - e-mail address `Buyer<n % 1000>@Example.org`, id `cust-<n % 1000>` and name `Buyer Nr<n % 1000>` with few;
/// - tag `often` with every second one, tag `seldom` with every thousandth;
/// - OPEN with every tenth; the others are CANCELLED.
pub(crate) async fn fill(tables: &mut PgConnection, merchant: Uuid, store: Uuid, count: i64) {
    for statement in [ORDERS, LINES, CONTACTS, TAGS] {
        sqlx::query(statement)
            .bind(merchant)
            .bind(store)
            .bind(count)
            .execute(&mut *tables)
            .await
            .expect(statement);
    }
    sqlx::raw_sql("ANALYZE orders; ANALYZE order_lines; ANALYZE order_contacts; ANALYZE order_tags")
        .execute(tables)
        .await
        .expect("statistics");
}

/// Ids are time-ordered, as real ones are, and other ones in each store.
const ORDERS: &str = r#"
    INSERT INTO orders (order_id, merchant_id, store_id, number, source_system, source_external_id, currency, prices_include_tax,
        subtotal_minor, discounts_minor, shipping_minor, tax_minor, total_minor, discounts, locale, placed_at, promised_ship_at,
        tags, line_count, created_at, status, cancel_reason, units_to_ship, payment_status, fulfillment_status, updated_at)
    SELECT (lpad(to_hex(1740830400000 - n * 60000), 12, '0') || '70008' || substr(md5($2::uuid::text || n), 1, 15))::uuid, $1::uuid, $2, 'N' || n,
           'api', 'n' || n, 'EUR', true, 1000 + n, 0, 0, 0, 1000 + n, '[]', '', noon - n * interval '1 minute', noon,
           CASE WHEN n % 1000 = 0 THEN '["often", "seldom"]' WHEN n % 2 = 0 THEN '["often"]' ELSE '[]' END::jsonb,
           2, noon, CASE WHEN n % 10 = 0 THEN 'OPEN' ELSE 'CANCELLED' END, CASE WHEN n % 10 = 0 THEN '' ELSE 'test' END, 2,
           'PENDING', 'UNFULFILLED', noon + (n % 977) * interval '1 second'
    FROM generate_series(1, $3::bigint) n, (SELECT timestamptz '2025-03-01 12:00:00Z' AS noon) t"#;

const LINES: &str = "
    INSERT INTO order_lines (order_id, line_id, merchant_id, store_id, position, sku, title, quantity, unit_price_minor, category,
        final_sale, digital, attributes, discounts, order_discount_minor, taxes, net_minor, total_minor)
    SELECT o.order_id, gen_random_uuid(), o.merchant_id, o.store_id, p,
           CASE p WHEN 0 THEN 'COMMON' ELSE 'SKU-' || substr(o.number, 2)::bigint % 500 END, 'a thing', 1, 500, '', false,
           false, '{}', '[]', 0, '[]', 500, 500
    FROM orders o, generate_series(0, 1) p
    WHERE (o.merchant_id, o.store_id) = ($1, $2) AND o.number LIKE 'N%' AND $3::bigint > 0";

const CONTACTS: &str = "
    INSERT INTO order_contacts (order_id, merchant_id, store_id, customer_key, customer_external_id, email, name, phone)
    SELECT o.order_id, o.merchant_id, o.store_id, 'k' || c.c, 'cust-' || c.c, 'Buyer' || c.c || '@Example.org',
           'Buyer Nr' || c.c, ''
    FROM orders o, LATERAL (SELECT substr(o.number, 2)::bigint % 1000 AS c) c
    WHERE (o.merchant_id, o.store_id) = ($1, $2) AND o.number LIKE 'N%' AND $3::bigint > 0";

const TAGS: &str = "
    INSERT INTO order_tags (merchant_id, store_id, tag, order_id)
    SELECT o.merchant_id, o.store_id, t, o.order_id
    FROM orders o, jsonb_array_elements_text(o.tags) t
    WHERE (o.merchant_id, o.store_id) = ($1, $2) AND o.number LIKE 'N%' AND $3::bigint > 0";
