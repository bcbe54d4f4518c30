//! The projection of the order service's log: orders, their lines, their money, their holds.
//!
//! Every write may be repeated, so that a rebuild, which runs through the log from its beginning, ends where it was.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;
use waybill_kernel::id::{LineId, MerchantId, OrderId, StoreId};
use waybill_store::StoreError;

use crate::domain::clearance::{Account, Kind, Payment};
use crate::domain::stock::Sku;

/// What is to be paid for an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// How much, in minor units.
    pub minor: i64,
    /// The version of the order that told so.
    pub version: i64,
}

/// An order as its event tells it.
#[derive(Debug, Clone)]
pub struct PlacedOrder {
    /// The order.
    pub order: OrderId,
    /// Whose it is.
    pub merchant: MerchantId,
    /// Where it was placed.
    pub store: StoreId,
    /// When.
    pub placed_at: DateTime<Utc>,
    /// Its version after that.
    pub version: i64,
    /// What is to be paid.
    pub due: Due,
    /// Its lines, in their order.
    pub lines: Vec<PlacedLine>,
}

/// A line of a placed order.
#[derive(Debug, Clone)]
pub struct PlacedLine {
    /// The line.
    pub line: LineId,
    /// What was ordered.
    pub sku: Sku,
    /// How many units; more than 0.
    pub units: i64,
    /// Nothing is shipped.
    pub digital: bool,
    /// Units that were cancelled before the order was taken in.
    pub cancelled: i64,
}

/// Lines that came to an order after its placement.
#[derive(Debug, Clone)]
pub struct AddedLines {
    /// The order.
    pub order: OrderId,
    /// Its lines, in their order.
    pub lines: Vec<PlacedLine>,
    /// What is to be paid for the order with them.
    pub due: Due,
}

/// What a payment provider did, as its event tells it.
#[derive(Debug, Clone)]
pub struct PaymentEntry {
    /// The order.
    pub order: OrderId,
    /// The payment.
    pub payment: Uuid,
    /// "authorization", "capture", "void" …
    pub kind: String,
    /// The provider.
    pub provider: String,
    /// The provider's id of the payment.
    pub provider_payment_id: String,
    /// How much, in minor units.
    pub amount: i64,
}

/// What the cancellation of units does to the money of an order that goes on.
#[derive(Debug, Clone, Copy)]
pub struct Cancellation {
    /// The order.
    pub order: OrderId,
    /// Its version after that.
    pub version: i64,
    /// What it costs less, in minor units.
    pub amount: i64,
    /// Of what was captured, what goes back.
    pub refund: i64,
}

/// A line that was added to a known order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latecomer {
    /// The order.
    pub order: OrderId,
    /// Whose it is.
    pub merchant: MerchantId,
    /// When the order was placed: that is its age in the queue.
    pub placed_at: DateTime<Utc>,
    /// Place of the line on the order.
    pub line_no: i32,
    /// The line.
    pub line: LineId,
    /// What was ordered.
    pub sku: Sku,
    /// How many units; more than 0.
    pub units: i64,
}

impl PlacedLine {
    /// Units that are still wanted.
    #[must_use]
    pub fn wanted(&self) -> i64 {
        self.units - self.cancelled
    }
}

/// A line of a known order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownLine {
    /// The line.
    pub line: LineId,
    /// What was ordered.
    pub sku: Sku,
    /// Nothing is shipped.
    pub digital: bool,
}

/// What is known of an order besides its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownOrder {
    /// The newest version that an event told of.
    pub version: i64,
    /// Whether what is captured and authorised covers what is to be paid.
    pub payment_cleared: bool,
    /// Whether a hold of it is open.
    pub on_hold: bool,
}

/// Takes in placed orders.
pub async fn place(conn: &mut PgConnection, orders: &[PlacedOrder]) -> Result<(), StoreError> {
    if orders.is_empty() {
        return Ok(());
    }
    let column = |of: fn(&PlacedOrder) -> Uuid| orders.iter().map(of).collect::<Vec<_>>();
    sqlx::query(
        "INSERT INTO orders (order_id, merchant_id, store_id, placed_at, order_version, due_minor, due_version,
                             costs_nothing)
         SELECT o.*, o.due_minor = 0
         FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[], $5::bigint[], $6::bigint[], $7::bigint[])
              AS o (order_id, merchant_id, store_id, placed_at, order_version, due_minor, due_version)
         ON CONFLICT DO NOTHING",
    )
    .bind(column(|o| o.order.uuid()))
    .bind(column(|o| o.merchant.uuid()))
    .bind(column(|o| o.store.uuid()))
    .bind(orders.iter().map(|o| o.placed_at).collect::<Vec<_>>())
    .bind(orders.iter().map(|o| o.version).collect::<Vec<_>>())
    .bind(orders.iter().map(|o| o.due.minor).collect::<Vec<_>>())
    .bind(orders.iter().map(|o| o.due.version).collect::<Vec<_>>())
    .execute(&mut *conn)
    .await?;

    let lines = orders.iter().flat_map(|order| {
        (0_i32..)
            .zip(&order.lines)
            .map(|(line_no, line)| (order.order, line_no, line))
    });
    insert_lines(conn, &lines.collect::<Vec<_>>()).await
}

/// Takes in lines that were added to known orders, behind those that they have. A line that is known stays where it is.
pub async fn add_lines(conn: &mut PgConnection, added: &[AddedLines]) -> Result<(), StoreError> {
    if added.is_empty() {
        return Ok(());
    }
    // An order may have been edited twice: what it costs now is what the last edit says.
    let dues: BTreeMap<Uuid, Due> = (added.iter()).map(|edit| (edit.order.uuid(), edit.due)).collect();
    let behind: Vec<(Uuid, i32)> = sqlx::query_as(
        "WITH priced AS (
             UPDATE orders o SET due_minor = d.minor, due_version = d.version, costs_nothing = (d.minor = 0)
             FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[]) AS d (order_id, minor, version)
             WHERE o.order_id = d.order_id AND coalesce(o.due_version, 0) < d.version
         )
         SELECT order_id, max(line_no) + 1 FROM order_lines WHERE order_id = ANY ($1) GROUP BY order_id",
    )
    .bind(dues.keys().copied().collect::<Vec<_>>())
    .bind(dues.values().map(|due| due.minor).collect::<Vec<_>>())
    .bind(dues.values().map(|due| due.version).collect::<Vec<_>>())
    .fetch_all(&mut *conn)
    .await?;
    let mut next: BTreeMap<Uuid, i32> = behind.into_iter().collect();
    let mut lines = Vec::new();
    for edit in added {
        let next = next.entry(edit.order.uuid()).or_default();
        for line in &edit.lines {
            lines.push((edit.order, *next, line));
            *next += 1;
        }
    }
    insert_lines(conn, &lines).await
}

async fn insert_lines(
    conn: &mut PgConnection,
    lines: &[(OrderId, i32, &PlacedLine)],
) -> Result<(), StoreError> {
    if lines.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO order_lines (order_id, line_no, line_id, sku, units, digital)
         SELECT * FROM UNNEST($1::uuid[], $2::integer[], $3::uuid[], $4::text[], $5::bigint[], $6::boolean[])
         ON CONFLICT DO NOTHING",
    )
    .bind(lines.iter().map(|(order, _, _)| order.uuid()).collect::<Vec<_>>())
    .bind(lines.iter().map(|(_, line_no, _)| *line_no).collect::<Vec<_>>())
    .bind(
        lines
            .iter()
            .map(|(_, _, line)| line.line.uuid())
            .collect::<Vec<_>>(),
    )
    .bind(
        lines
            .iter()
            .map(|(_, _, line)| line.sku.as_str())
            .collect::<Vec<_>>(),
    )
    .bind(lines.iter().map(|(_, _, line)| line.units).collect::<Vec<_>>())
    .bind(lines.iter().map(|(_, _, line)| line.digital).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Takes in payments.
pub async fn pay(conn: &mut PgConnection, payments: &[PaymentEntry]) -> Result<(), StoreError> {
    if payments.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO order_payments (order_id, payment_id, kind, provider, provider_payment_id, amount_minor)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bigint[])
         ON CONFLICT DO NOTHING",
    )
    .bind(payments.iter().map(|p| p.order.uuid()).collect::<Vec<_>>())
    .bind(payments.iter().map(|p| p.payment).collect::<Vec<_>>())
    .bind(payments.iter().map(|p| p.kind.as_str()).collect::<Vec<_>>())
    .bind(payments.iter().map(|p| p.provider.as_str()).collect::<Vec<_>>())
    .bind(
        payments
            .iter()
            .map(|p| p.provider_payment_id.as_str())
            .collect::<Vec<_>>(),
    )
    .bind(payments.iter().map(|p| p.amount).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Takes in what cancelled units did to the money of orders.
pub async fn cancel(conn: &mut PgConnection, cancellations: &[Cancellation]) -> Result<(), StoreError> {
    if cancellations.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO order_cancellations (order_id, version, amount_minor, refund_minor)
         SELECT * FROM UNNEST($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[])
         ON CONFLICT DO NOTHING",
    )
    .bind(cancellations.iter().map(|c| c.order.uuid()).collect::<Vec<_>>())
    .bind(cancellations.iter().map(|c| c.version).collect::<Vec<_>>())
    .bind(cancellations.iter().map(|c| c.amount).collect::<Vec<_>>())
    .bind(cancellations.iter().map(|c| c.refund).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Takes in holds, and then what ended some of them: (order, hold). A hold that has ended stays so.
pub async fn hold(
    conn: &mut PgConnection,
    held: &[(OrderId, Uuid)],
    released: &[(OrderId, Uuid)],
) -> Result<(), StoreError> {
    if held.is_empty() && released.is_empty() {
        return Ok(());
    }
    let columns = |holds: &[(OrderId, Uuid)]| -> (Vec<Uuid>, Vec<Uuid>) {
        holds.iter().map(|(order, hold)| (order.uuid(), *hold)).unzip()
    };
    let ((held_orders, held), (released_orders, released)) = (columns(held), columns(released));
    sqlx::query(
        "INSERT INTO order_holds AS h (order_id, hold_id, released)
         SELECT k.order_id, k.hold_id, bool_or(k.released)
         FROM (SELECT *, false AS released FROM UNNEST($1::uuid[], $2::uuid[]) AS b (order_id, hold_id)
               UNION ALL
               SELECT *, true FROM UNNEST($3::uuid[], $4::uuid[]) AS e (order_id, hold_id)) k
         GROUP BY k.order_id, k.hold_id
         ON CONFLICT (order_id, hold_id) DO UPDATE SET released = h.released OR excluded.released",
    )
    .bind(held_orders)
    .bind(held)
    .bind(released_orders)
    .bind(released)
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes that the customers of orders were forgotten.
pub async fn erase(conn: &mut PgConnection, orders: &BTreeSet<OrderId>) -> Result<(), StoreError> {
    if orders.is_empty() {
        return Ok(());
    }
    sqlx::query("UPDATE orders SET contact_erased = true WHERE order_id = ANY ($1) AND NOT contact_erased")
        .bind(orders.iter().map(|order| order.uuid()).collect::<Vec<_>>())
        .execute(conn)
        .await?;
    Ok(())
}

/// Takes in versions that events told of; an older one changes nothing.
pub async fn see_versions(
    conn: &mut PgConnection,
    versions: &BTreeMap<OrderId, i64>,
) -> Result<(), StoreError> {
    if versions.is_empty() {
        return Ok(());
    }
    let (orders, versions): (Vec<Uuid>, Vec<i64>) = versions
        .iter()
        .map(|(order, version)| (order.uuid(), *version))
        .unzip();
    sqlx::query(
        "UPDATE orders o SET order_version = v.version
         FROM UNNEST($1::uuid[], $2::bigint[]) AS v (order_id, version)
         WHERE o.order_id = v.order_id AND o.order_version < v.version",
    )
    .bind(orders)
    .bind(versions)
    .execute(conn)
    .await?;
    Ok(())
}

/// Which of the orders are known.
pub async fn known(conn: &mut PgConnection, orders: &[Uuid]) -> Result<HashSet<Uuid>, StoreError> {
    let known: Vec<Uuid> = sqlx::query_scalar("SELECT order_id FROM orders WHERE order_id = ANY ($1)")
        .bind(orders)
        .fetch_all(conn)
        .await?;
    Ok(known.into_iter().collect())
}

// What is to be paid is what the last edit said, without what was cancelled since. One row for each payment.
const KNOWN_ORDER: &str = "SELECT o.order_version,
            coalesce(o.due_minor - c.amount, CASE WHEN o.costs_nothing THEN 0 END) AS due,
            c.refund AS owed_back,
            EXISTS (SELECT 1 FROM order_holds h WHERE h.order_id = o.order_id AND NOT h.released) AS on_hold,
            p.kind, p.provider, p.provider_payment_id, p.amount_minor
     FROM orders o
     CROSS JOIN LATERAL (
         SELECT coalesce(sum(amount_minor) FILTER (WHERE version > o.due_version), 0)::bigint AS amount,
                coalesce(sum(refund_minor), 0)::bigint AS refund
         FROM order_cancellations WHERE order_id = o.order_id
     ) c
     LEFT JOIN order_payments p ON p.order_id = o.order_id
     WHERE o.order_id = $1 AND o.merchant_id = $2 AND o.store_id = $3";

#[derive(sqlx::FromRow)]
struct KnownRow {
    order_version: i64,
    due: Option<i64>,
    owed_back: i64,
    on_hold: bool,
    kind: Option<String>,
    provider: Option<String>,
    provider_payment_id: Option<String>,
    amount_minor: Option<i64>,
}

impl KnownRow {
    fn payment(&self) -> Option<Payment> {
        let of = (self.provider.clone(), self.provider_payment_id.clone());
        Some(Payment {
            kind: Kind::parse(self.kind.as_deref()?)?,
            of: (of.0.unwrap_or_default(), of.1.unwrap_or_default()),
            amount: self.amount_minor,
        })
    }
}

/// What is known of an order of the store.
pub async fn order(
    conn: &mut PgConnection,
    merchant: MerchantId,
    store: StoreId,
    order: OrderId,
) -> Result<Option<KnownOrder>, StoreError> {
    let rows: Vec<KnownRow> = sqlx::query_as(KNOWN_ORDER)
        .bind(order.uuid())
        .bind(merchant.uuid())
        .bind(store.uuid())
        .fetch_all(conn)
        .await?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let account = Account {
        due: first.due,
        owed_back: first.owed_back,
        payments: rows.iter().filter_map(KnownRow::payment).collect(),
    };
    Ok(Some(KnownOrder {
        version: first.order_version,
        payment_cleared: account.is_cleared(),
        on_hold: first.on_hold,
    }))
}

/// The lines of an order, in their order.
pub async fn lines(conn: &mut PgConnection, order: OrderId) -> Result<Vec<KnownLine>, StoreError> {
    let rows: Vec<(Uuid, String, bool)> =
        sqlx::query_as("SELECT line_id, sku, digital FROM order_lines WHERE order_id = $1 ORDER BY line_no")
            .bind(order.uuid())
            .fetch_all(conn)
            .await?;
    Ok(rows
        .into_iter()
        .map(|(line, sku, digital)| KnownLine {
            line: line.into(),
            sku: Sku::known(sku),
            digital,
        })
        .collect())
}

/// These lines of known orders that need stock, with what the queue must know of them, in the order of their orders.
pub async fn latecomers(
    conn: &mut PgConnection,
    lines: &[(OrderId, LineId)],
) -> Result<Vec<Latecomer>, StoreError> {
    if lines.is_empty() {
        return Ok(Vec::new());
    }
    let (orders, ids): (Vec<Uuid>, Vec<Uuid>) = lines
        .iter()
        .map(|(order, line)| (order.uuid(), line.uuid()))
        .unzip();
    #[derive(sqlx::FromRow)]
    struct Row {
        order_id: Uuid,
        merchant_id: Uuid,
        placed_at: DateTime<Utc>,
        line_no: i32,
        line_id: Uuid,
        sku: String,
        units: i64,
    }
    let rows: Vec<Row> = sqlx::query_as(
        "SELECT o.order_id, o.merchant_id, o.placed_at, l.line_no, l.line_id, l.sku, l.units
         FROM UNNEST($1::uuid[], $2::uuid[]) AS k (order_id, line_id)
         JOIN order_lines l USING (order_id, line_id)
         JOIN orders o USING (order_id)
         WHERE NOT l.digital
         ORDER BY o.order_id, l.line_no",
    )
    .bind(orders)
    .bind(ids)
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Latecomer {
            order: row.order_id.into(),
            merchant: row.merchant_id.into(),
            placed_at: row.placed_at,
            line_no: row.line_no,
            line: row.line_id.into(),
            sku: Sku::known(row.sku),
            units: row.units,
        })
        .collect())
}

/// The skus of orders that need stock, with the merchant they belong to.
pub async fn skus_of(
    conn: &mut PgConnection,
    orders: &[OrderId],
) -> Result<Vec<(MerchantId, Sku)>, StoreError> {
    if orders.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<(Uuid, String)> = sqlx::query_as(
        "SELECT DISTINCT o.merchant_id, l.sku FROM orders o JOIN order_lines l USING (order_id)
         WHERE o.order_id = ANY ($1) AND NOT l.digital",
    )
    .bind(orders.iter().map(|order| order.uuid()).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(merchant, sku)| (merchant.into(), Sku::known(sku)))
        .collect())
}
