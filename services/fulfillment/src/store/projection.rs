//! The projection of the order service's log: orders, their lines, their payments.
//!
//! Every write may be repeated, so that a rebuild, which runs through the log from its beginning, ends where it was.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;
use waybill_kernel::id::{LineId, MerchantId, OrderId, StoreId};
use waybill_store::StoreError;

use crate::domain::stock::Sku;

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
    /// Whether there is nothing to pay.
    pub costs_nothing: bool,
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
    /// Whether there is nothing to pay for the order with them.
    pub costs_nothing: bool,
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
    /// Whether it is paid or authorised, or costs nothing.
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
        "INSERT INTO orders (order_id, merchant_id, store_id, placed_at, order_version, costs_nothing)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[], $5::bigint[], $6::boolean[])
         ON CONFLICT DO NOTHING",
    )
    .bind(column(|o| o.order.uuid()))
    .bind(column(|o| o.merchant.uuid()))
    .bind(column(|o| o.store.uuid()))
    .bind(orders.iter().map(|o| o.placed_at).collect::<Vec<_>>())
    .bind(orders.iter().map(|o| o.version).collect::<Vec<_>>())
    .bind(orders.iter().map(|o| o.costs_nothing).collect::<Vec<_>>())
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
    let (orders, costs_nothing): (Vec<Uuid>, Vec<bool>) = added
        .iter()
        .map(|edit| (edit.order.uuid(), edit.costs_nothing))
        .collect::<BTreeMap<_, _>>()
        .into_iter()
        .unzip();
    let behind: Vec<(Uuid, i32)> = sqlx::query_as(
        "WITH priced AS (
             UPDATE orders o SET costs_nothing = c.costs_nothing
             FROM UNNEST($1::uuid[], $2::boolean[]) AS c (order_id, costs_nothing)
             WHERE o.order_id = c.order_id AND o.costs_nothing <> c.costs_nothing
         )
         SELECT order_id, max(line_no) + 1 FROM order_lines WHERE order_id = ANY ($1) GROUP BY order_id",
    )
    .bind(orders)
    .bind(costs_nothing)
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

/// Takes in payments: (order, payment, kind).
pub async fn pay(conn: &mut PgConnection, payments: &[(OrderId, Uuid, String)]) -> Result<(), StoreError> {
    if payments.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO order_payments (order_id, payment_id, kind)
         SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::text[])
         ON CONFLICT DO NOTHING",
    )
    .bind(
        payments
            .iter()
            .map(|(order, _, _)| order.uuid())
            .collect::<Vec<_>>(),
    )
    .bind(
        payments
            .iter()
            .map(|(_, payment, _)| *payment)
            .collect::<Vec<_>>(),
    )
    .bind(
        payments
            .iter()
            .map(|(_, _, kind)| kind.as_str())
            .collect::<Vec<_>>(),
    )
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

const KNOWN_ORDER: &str = "SELECT o.order_version,
            o.costs_nothing OR p.captures > 0 OR p.authorizations > p.voids,
            EXISTS (SELECT 1 FROM order_holds h WHERE h.order_id = o.order_id AND NOT h.released)
     FROM orders o
     CROSS JOIN LATERAL (
         SELECT count(*) FILTER (WHERE kind = 'capture') AS captures,
                count(*) FILTER (WHERE kind = 'authorization') AS authorizations,
                count(*) FILTER (WHERE kind = 'void') AS voids
         FROM order_payments WHERE order_id = o.order_id
     ) p
     WHERE o.order_id = $1 AND o.merchant_id = $2 AND o.store_id = $3";

/// What is known of an order of the store.
pub async fn order(
    conn: &mut PgConnection,
    merchant: MerchantId,
    store: StoreId,
    order: OrderId,
) -> Result<Option<KnownOrder>, StoreError> {
    let row: Option<(i64, bool, bool)> = sqlx::query_as(KNOWN_ORDER)
        .bind(order.uuid())
        .bind(merchant.uuid())
        .bind(store.uuid())
        .fetch_optional(conn)
        .await?;
    Ok(row.map(|(version, payment_cleared, on_hold)| KnownOrder {
        version,
        payment_cleared,
        on_hold,
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
