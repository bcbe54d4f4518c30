//! Orders, their lines and payments: loading the book, moving its money.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;
use waybill_kernel::id::{OrderId, PaymentId};
use waybill_kernel::money::Currency;
use waybill_kernel::slots::LineCut;
use waybill_store::StoreError;

use super::unreadable;
use crate::domain::book::{Balance, Book, BookLine, BookPayment, LineKind, Tenant};
use crate::domain::policy::Policy;
use crate::domain::settle::Delta;
use crate::domain::units::{Run, UnitSet};

/// An order's money, and the policy that holds for it.
#[derive(Debug)]
pub struct Loaded {
    /// The book.
    pub book: Book,
    /// The policy in force at placement, if there was one.
    pub policy: Option<Policy>,
    /// True when the policy is frozen on the order already.
    pub frozen: bool,
    /// True when the customer of the order was forgotten.
    pub contact_erased: bool,
}

#[derive(sqlx::FromRow)]
struct OrderRow {
    currency: String,
    placed_at: DateTime<Utc>,
    policy_version: Option<i32>,
    seen_version: i64,
    cancelled_at: Option<DateTime<Utc>>,
    contact_erased: bool,
    captured: i64,
    succeeded: i64,
    in_flight: i64,
    outside: i64,
}

#[derive(sqlx::FromRow)]
struct Contents {
    lines: Json<Vec<LineRow>>,
    claims: Json<Vec<ClaimRow>>,
    payments: Json<Vec<PaymentRow>>,
    policy: Option<Json<Policy>>,
}

#[derive(Deserialize)]
struct LineRow {
    line_id: Uuid,
    kind: String,
    sku: String,
    category: String,
    final_sale: bool,
    digital: bool,
    quantity: i32,
    net: i64,
    taxes: Vec<i64>,
    inclusive: bool,
    shipped: i64,
    delivered_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct ClaimRow {
    line_id: Uuid,
    first: i32,
    end: i32,
    money: bool,
    goods: bool,
    promised: bool,
}

#[derive(Deserialize)]
struct PaymentRow {
    payment_id: Uuid,
    provider: String,
    captured: i64,
    succeeded: i64,
    in_flight: i64,
    outside: i64,
    owed: i64,
}

/// Loads the book of an order under the order's row lock, so that what is decided upon it still holds when it is saved.
pub async fn lock(
    conn: &mut PgConnection,
    tenant: Tenant,
    order_id: OrderId,
) -> Result<Option<Loaded>, StoreError> {
    // NO KEY: rows that refer to the order can still be written by the fold.
    let row = sqlx::query_as::<_, OrderRow>(
        "SELECT currency, placed_at, policy_version, seen_version, cancelled_at, contact_erased, captured, succeeded,
                in_flight, outside
         FROM orders WHERE order_id = $1 AND merchant_id = $2 AND store_id = $3
         FOR NO KEY UPDATE",
    )
    .bind(order_id.uuid())
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .fetch_optional(&mut *conn)
    .await?;
    with_contents(conn, tenant, order_id, row).await
}

/// Loads the book of an order to look at it.
pub async fn read(
    conn: &mut PgConnection,
    tenant: Tenant,
    order_id: OrderId,
) -> Result<Option<Loaded>, StoreError> {
    let row = sqlx::query_as::<_, OrderRow>(
        "SELECT currency, placed_at, policy_version, seen_version, cancelled_at, contact_erased, captured, succeeded,
                in_flight, outside
         FROM orders WHERE order_id = $1 AND merchant_id = $2 AND store_id = $3",
    )
    .bind(order_id.uuid())
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .fetch_optional(&mut *conn)
    .await?;
    with_contents(conn, tenant, order_id, row).await
}

async fn with_contents(
    conn: &mut PgConnection,
    tenant: Tenant,
    order_id: OrderId,
    row: Option<OrderRow>,
) -> Result<Option<Loaded>, StoreError> {
    let Some(row) = row else { return Ok(None) };
    let contents = sqlx::query_as::<_, Contents>(
        "SELECT
             (SELECT coalesce(json_agg(json_build_object(
                  'line_id', l.line_id, 'kind', l.kind, 'sku', l.sku, 'category', l.category,
                  'final_sale', l.final_sale, 'digital', l.digital, 'quantity', l.quantity, 'net', l.net,
                  'taxes', l.taxes, 'inclusive', l.inclusive, 'shipped', coalesce(s.shipped, 0),
                  'delivered_at', s.delivered_at) ORDER BY l.position), '[]')
              FROM order_lines l
              LEFT JOIN (
                  SELECT line_id, sum(quantity) FILTER (WHERE shipped_at IS NOT NULL) AS shipped,
                         max(delivered_at) AS delivered_at
                  FROM shipped_units WHERE order_id = $1 GROUP BY line_id
              ) s USING (line_id)
              WHERE l.order_id = $1) AS lines,
             (SELECT coalesce(json_agg(json_build_object(
                  'line_id', c.line_id, 'first', lower(c.units), 'end', upper(c.units), 'money', c.money,
                  'goods', c.goods,
                  'promised', c.money AND c.refund_id IS NULL AND c.cancellation_id IS NULL
                              AND coalesce(r.state IN ('REQUESTED', 'APPROVED'), false))), '[]')
              FROM unit_claims c LEFT JOIN returns r USING (return_id) WHERE c.order_id = $1 AND (c.money OR c.goods)) AS claims,
             (SELECT coalesce(json_agg(json_build_object(
                  'payment_id', p.payment_id, 'provider', p.provider, 'captured', p.captured,
                  'succeeded', p.succeeded, 'in_flight', p.in_flight, 'outside', p.outside,
                  'owed', coalesce(f.owed, 0)) ORDER BY p.captured_at, p.payment_id), '[]')
              FROM payments p
              LEFT JOIN (
                  SELECT g.payment_id, sum(g.amount) AS owed
                  FROM refunds r JOIN refund_legs g USING (refund_id)
                  WHERE r.order_id = $1 AND r.holds AND g.state = 'FAILED' GROUP BY g.payment_id
              ) f USING (payment_id)
              WHERE p.order_id = $1) AS payments,
             (SELECT rules FROM policies
              WHERE merchant_id = $2 AND store_id = $3
                AND CASE WHEN $4::integer IS NULL THEN valid_from <= $5 ELSE policy_version = $4 END
              ORDER BY valid_from DESC LIMIT 1) AS policy",
    )
    .bind(order_id.uuid())
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(row.policy_version)
    .bind(row.placed_at)
    .fetch_one(conn)
    .await?;
    assemble(tenant, order_id, &row, contents).map(Some)
}

fn assemble(
    tenant: Tenant,
    order_id: OrderId,
    row: &OrderRow,
    contents: Contents,
) -> Result<Loaded, StoreError> {
    let claims = contents.claims.0;
    let lines = contents
        .lines
        .0
        .into_iter()
        .map(|line| assemble_line(line, &claims))
        .collect::<Result<_, _>>()?;
    let payments: Vec<BookPayment> = contents.payments.0.into_iter().map(assemble_payment).collect();
    Ok(Loaded {
        book: Book {
            order_id,
            tenant,
            currency: Currency::parse(&row.currency).map_err(StoreError::decode)?,
            placed_at: row.placed_at,
            cancelled_at: row.cancelled_at,
            seen_version: row.seen_version,
            balance: Balance {
                captured: row.captured,
                succeeded: row.succeeded,
                in_flight: row.in_flight,
                outside: row.outside,
                owed: payments.iter().map(|payment| payment.balance.owed).sum(),
            },
            lines,
            payments,
        },
        policy: contents.policy.map(|json| json.0),
        frozen: row.policy_version.is_some(),
        contact_erased: row.contact_erased,
    })
}

fn assemble_line(row: LineRow, claims: &[ClaimRow]) -> Result<BookLine, StoreError> {
    let held = |by: fn(&ClaimRow) -> bool| {
        let of = claims
            .iter()
            .filter(|claim| claim.line_id == row.line_id && by(claim));
        UnitSet::from_runs(of.map(|claim| Run {
            first: claim.first,
            last: claim.end - 1,
        }))
    };
    let (claimed, returned) = (held(|claim| claim.money), held(|claim| claim.goods));
    let promised = held(|claim| claim.promised);
    Ok(BookLine {
        line_id: row.line_id.into(),
        kind: match row.kind.as_str() {
            "goods" => LineKind::Goods,
            "shipping" => LineKind::Shipping,
            other => return Err(unreadable("line kind", other)),
        },
        sku: row.sku,
        category: row.category,
        final_sale: row.final_sale,
        digital: row.digital,
        quantity: row.quantity,
        cut: LineCut::new(row.net, row.taxes, row.quantity.unsigned_abs(), row.inclusive)
            .map_err(StoreError::decode)?,
        // More may be shipped than was ordered; more than was ordered cannot be returned.
        shipped: i32::try_from(row.shipped).unwrap_or(i32::MAX).min(row.quantity),
        delivered_at: row.delivered_at,
        claimed,
        promised,
        returned,
    })
}

fn assemble_payment(row: PaymentRow) -> BookPayment {
    BookPayment {
        payment_id: row.payment_id.into(),
        provider: row.provider,
        balance: Balance {
            captured: row.captured,
            succeeded: row.succeeded,
            in_flight: row.in_flight,
            outside: row.outside,
            owed: row.owed,
        },
    }
}

/// The order that a return or refund of the tenant belongs to is locked by these lookups' callers first; they do not
/// lock themselves.
pub async fn order_of_return(
    conn: &mut PgConnection,
    tenant: Tenant,
    return_id: Uuid,
) -> Result<Option<OrderId>, StoreError> {
    let found: Option<Uuid> = sqlx::query_scalar(
        "SELECT order_id FROM returns WHERE return_id = $1 AND merchant_id = $2 AND store_id = $3",
    )
    .bind(return_id)
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .fetch_optional(conn)
    .await?;
    Ok(found.map(OrderId::from))
}

/// As [`order_of_return`], of a refund.
pub async fn order_of_refund(
    conn: &mut PgConnection,
    tenant: Tenant,
    refund_id: Uuid,
) -> Result<Option<OrderId>, StoreError> {
    let found: Option<Uuid> = sqlx::query_scalar(
        "SELECT order_id FROM refunds WHERE refund_id = $1 AND merchant_id = $2 AND store_id = $3",
    )
    .bind(refund_id)
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .fetch_optional(conn)
    .await?;
    Ok(found.map(OrderId::from))
}

/// Freezes the policy of an order that was placed before its policy was known.
pub async fn freeze_policy(
    conn: &mut PgConnection,
    order_id: OrderId,
    version: i32,
) -> Result<(), StoreError> {
    sqlx::query("UPDATE orders SET policy_version = $2, updated_at = now() WHERE order_id = $1 AND policy_version IS NULL")
        .bind(order_id.uuid())
        .bind(version)
        .execute(conn)
        .await?;
    Ok(())
}

/// Moves money of an order and of its payments together. The caller holds the order's lock.
pub async fn move_money(
    conn: &mut PgConnection,
    order_id: OrderId,
    deltas: &[(PaymentId, Delta)],
) -> Result<(), StoreError> {
    let column = |of: fn(&Delta) -> i64| deltas.iter().map(|(_, delta)| of(delta)).collect::<Vec<i64>>();
    sqlx::query(
        "WITH moved AS (
             SELECT * FROM UNNEST($2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[])
                  AS m (payment_id, succeeded, in_flight, outside)
         ), of_payments AS (
             UPDATE payments p
             SET succeeded = p.succeeded + m.succeeded, in_flight = p.in_flight + m.in_flight,
                 outside = p.outside + m.outside
             FROM moved m WHERE p.payment_id = m.payment_id AND p.order_id = $1
         )
         UPDATE orders o
         SET succeeded = o.succeeded + s.succeeded, in_flight = o.in_flight + s.in_flight,
             outside = o.outside + s.outside, updated_at = now()
         FROM (SELECT sum(succeeded)::bigint AS succeeded, sum(in_flight)::bigint AS in_flight,
                      sum(outside)::bigint AS outside FROM moved) s
         WHERE o.order_id = $1",
    )
    .bind(order_id.uuid())
    .bind(
        deltas
            .iter()
            .map(|(payment, _)| payment.uuid())
            .collect::<Vec<_>>(),
    )
    .bind(column(|delta| delta.succeeded))
    .bind(column(|delta| delta.in_flight))
    .bind(column(|delta| delta.outside))
    .execute(conn)
    .await?;
    Ok(())
}
