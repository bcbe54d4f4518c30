//! Bare Postgres: the rows that a placement writes, in tables with the same columns, constraints and indexes, by a plain
//! loop; and the same rows read again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sqlx::PgPool;
use sqlx::types::Uuid;
use waybill_kernel::id::OrderId;

use super::load::{LINES, Lap};
use crate::bench::floor::Speed;
use crate::bench::ground::Ground;

/// Connections, at most.
const CONNECTIONS: u32 = 32;

/// The tables that a placement writes.
const TABLES: [&str; 9] = [
    "orders",
    "order_lines",
    "order_shipping_lines",
    "order_contacts",
    "order_tags",
    "order_timeline",
    "order_trails",
    "event_log",
    "idempotency",
];

/// The tables that a read reads.
const READ: [&str; 5] = [
    "SELECT * FROM orders WHERE order_id = ANY($1)",
    "SELECT * FROM order_lines WHERE order_id = ANY($1)",
    "SELECT * FROM order_shipping_lines WHERE order_id = ANY($1)",
    "SELECT * FROM order_contacts WHERE order_id = ANY($1)",
    "SELECT * FROM order_payments WHERE order_id = ANY($1)",
];

/// Copies of the service's tables.
pub(super) struct BareOrders {
    pool: PgPool,
    tenant: (Uuid, Uuid),
    next: AtomicUsize,
}

/// Orders that go into one statement, as columns.
struct Set {
    ids: Vec<Uuid>,
    numbers: Vec<i64>,
    buyers: Vec<i64>,
    order_of_line: Vec<Uuid>,
    line_ids: Vec<Uuid>,
    positions: Vec<i32>,
    skus: Vec<String>,
}

impl BareOrders {
    /// Makes the tables beside those of the service, without their guards.
    pub(super) async fn make(ground: &Ground) -> anyhow::Result<BareOrders> {
        ground
            .copy_tables(
                super::shop::SERVICE,
                &[TABLES.as_slice(), &["order_payments"]].concat(),
            )
            .await
            .context("the bare tables could not be made")?;
        Ok(BareOrders {
            pool: ground.bare_pool(CONNECTIONS).await?,
            tenant: (OrderId::generate().uuid(), OrderId::generate().uuid()),
            next: AtomicUsize::new(0),
        })
    }

    /// Writes `orders` orders, `per_commit` a statement and a commit, over so many connections at once.
    pub(super) async fn insert(
        &self,
        connections: usize,
        per_commit: usize,
        orders: usize,
    ) -> anyhow::Result<Lap> {
        let first = self.next.fetch_add(orders, Ordering::Relaxed);
        let numbers: Vec<usize> = (first..first + orders).collect();
        let sets: Arc<[Set]> = numbers.chunks(per_commit).map(Set::of).collect();
        let begun = Arc::new(AtomicUsize::new(0));
        let began = Instant::now();
        let took = try_join_all((0..connections).map(|_| {
            let (pool, sets, begun) = (self.pool.clone(), Arc::clone(&sets), Arc::clone(&begun));
            let writing = write(pool, self.tenant, sets, begun);
            async { tokio::spawn(writing).await? }
        }))
        .await?;
        Ok(Lap::new(began.elapsed(), took.concat()).times(per_commit))
    }

    /// Reads `orders` orders whole, so many a time, one connection.
    pub(super) async fn read(&self, at_once: usize, orders: usize) -> anyhow::Result<Speed> {
        let ids: Vec<Uuid> =
            sqlx::query_scalar("SELECT order_id FROM orders ORDER BY order_id DESC LIMIT $1")
                .bind(orders as i64)
                .fetch_all(&self.pool)
                .await?;
        let mut conn = self.pool.acquire().await?;
        let mut rows = 0;
        let began = Instant::now();
        for ids in ids.chunks(at_once) {
            for read in READ {
                rows += sqlx::query(read).bind(ids).fetch_all(&mut *conn).await?.len();
            }
        }
        let time = began.elapsed();
        // The order, its lines, shipping and contact.
        ensure!(
            rows == ids.len() * (LINES + 3),
            "the floor read {rows} rows of {} orders",
            ids.len()
        );
        Ok(Speed {
            count: ids.len() as u64,
            time,
        })
    }
}

impl Set {
    fn of(numbers: &[usize]) -> Set {
        let ids: Vec<Uuid> = numbers.iter().map(|_| OrderId::generate().uuid()).collect();
        let mut random = StdRng::seed_from_u64(numbers.first().copied().unwrap_or_default() as u64);
        let lines = numbers.len() * LINES;
        Set {
            numbers: numbers.iter().map(|n| *n as i64).collect(),
            buyers: numbers
                .iter()
                .map(|_| random.random_range(0..1_000_000))
                .collect(),
            order_of_line: ids.iter().flat_map(|id| [*id; LINES]).collect(),
            line_ids: (0..lines).map(|_| OrderId::generate().uuid()).collect(),
            positions: (0..lines).map(|at| (at % LINES) as i32).collect(),
            skus: (0..lines)
                .map(|_| format!("SKU-{:05}", random.random_range(0..20_000_u32)))
                .collect(),
            ids,
        }
    }
}

async fn write(
    pool: PgPool,
    (merchant, store): (Uuid, Uuid),
    sets: Arc<[Set]>,
    begun: Arc<AtomicUsize>,
) -> anyhow::Result<Vec<f64>> {
    let mut conn = pool.acquire().await?;
    let mut took = Vec::new();
    while let Some(set) = sets.get(begun.fetch_add(1, Ordering::Relaxed)) {
        let began = Instant::now();
        sqlx::query(INSERT)
            .bind(merchant)
            .bind(store)
            .bind(&set.ids)
            .bind(&set.numbers)
            .bind(&set.buyers)
            .bind(&set.order_of_line)
            .bind(&set.line_ids)
            .bind(&set.positions)
            .bind(&set.skus)
            .bind(PAYLOAD)
            .execute(&mut *conn)
            .await?;
        took.push(began.elapsed().as_secs_f64());
    }
    Ok(took)
}

/// As many bytes as the event of an order of three lines has.
const PAYLOAD: &[u8] = &[b'x'; 700];

const INSERT: &str = r#"
    WITH n AS (
        SELECT n.*, now() AS at FROM UNNEST($3::uuid[], $4::bigint[], $5::bigint[]) AS n (order_id, n, buyer)
    ), o AS (
        INSERT INTO orders (order_id, merchant_id, store_id, number, source_system, source_external_id, currency,
            prices_include_tax, subtotal_minor, discounts_minor, shipping_minor, tax_minor, total_minor, discounts, locale,
            placed_at, promised_ship_at, tags, line_count, created_at, status, cancel_reason, authorized_minor, voided_minor,
            captured_minor, payments, units_to_ship, units_shipped, units_delivered, refunded_minor, return_status,
            payment_status, fulfillment_status, updated_at, version, log_generation, log_xid, attributes, open_holds, units_cancelled,
            cancelled_minor, added_minor, owed_back_minor, capturing_minor, disputed_minor, dispute_lost_minor)
        SELECT order_id, $1::uuid, $2::uuid, (1000 + n)::text, 'bench', '1-' || n, 'EUR', true, 1000 + buyer % 30000, 0, 490, 200,
            1490 + buyer % 30000, '[]', 'de-DE', at, at + interval '2 days', '[]', 4, at, 'OPEN', '', 0, 0, 0, 0, 3, 0, 0, 0, 'NONE',
            'PENDING', 'UNFULFILLED', at, 1, 1, pg_current_xact_id(), '{}', 0, 0, 0, 0, 0, 0, 0, 0
        FROM n
    ), l AS (
        INSERT INTO order_lines (order_id, line_id, merchant_id, store_id, position, sku, title, quantity, unit_price_minor,
            category, final_sale, digital, attributes, discounts, order_discount_minor, taxes, net_minor, total_minor,
            units_shipped, units_delivered, units_cancelled, added_version)
        SELECT l.order_id, l.line_id, $1, $2, l.position, l.sku, 'A thing that is sold here', 1, 500, 'things', false, false,
            '{}', '[]', 0, '[{"title": "USt", "amount": 80, "rate_ppm": 190000, "jurisdiction": "DE"}]', 420, 500, 0, 0, 0, 1
        FROM UNNEST($6::uuid[], $7::uuid[], $8::integer[], $9::text[]) AS l (order_id, line_id, position, sku)
    ), s AS (
        INSERT INTO order_shipping_lines (order_id, line_id, merchant_id, store_id, position, title, price_minor, discounts,
            taxes, net_minor, total_minor)
        SELECT order_id, order_id, $1, $2, 0, 'Parcel', 490, '[]', '[]', 490, 490 FROM n
    ), c AS (
        INSERT INTO order_contacts (order_id, merchant_id, store_id, customer_key, customer_external_id, email, name, phone, note,
            shipping_address)
        SELECT order_id, $1, $2, repeat('k', 64), 'customer-' || buyer, 'buyer' || buyer || '@example.org',
            'Kim' || buyer % 1000 || ' Doe' || buyer, '+49 40 1234567', '',
            '{"name": "Kim Doe", "company": "", "lines": ["Long Street 1"], "city": "Hamburg", "region": "", "postal_code": "20095", "country_code": "DE", "phone": ""}'
        FROM n
    ), t AS (
        INSERT INTO order_timeline (order_id, event_id, merchant_id, store_id, service, type, summary, occurred_at, trace_id,
            actor, cause, sequence, hash, log_xid)
        SELECT order_id, order_id, $1, $2, 'order', 'waybill.order.v1.OrderPlaced', 'Placed: 3 units for 14.90 EUR', at,
            repeat('a', 32), 'bench', 'bench-1-' || n, 1, decode(repeat('ab', 32), 'hex'), pg_current_xact_id() FROM n
    ), h AS (
        INSERT INTO order_trails (order_id, count, hash) SELECT order_id, 1, decode(repeat('ab', 32), 'hex') FROM n
    ), e AS (
        INSERT INTO event_log (generation, xid, event_id, merchant_id, store_id, partition_key, vpartition, aggregate_id,
            aggregate_version, type, payload, occurred_at, position, actor, cause)
        SELECT 1, pg_current_xact_id(), order_id, $1, $2, order_id, n % 64, order_id, 1, 'waybill.order.v1.OrderPlaced', $10::bytea, at,
            nextval('bare_position'), 'bench', 'bench-1-' || n FROM n
    )
    INSERT INTO idempotency (merchant_id, caller, rpc, request_id, request_hash, response, created_at)
    SELECT $1, 'bench', 'waybill.order.v1.OrderService/PlaceOrder', 'bench-1-' || n, sha256(order_id::text::bytea),
        '"' || order_id || '"', at FROM n"#;
