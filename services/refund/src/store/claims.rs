//! Which units are held by what. The exclusion constraints of the table refuse what the rules should never ask for.

use sqlx::PgConnection;
use sqlx::postgres::types::PgRange;
use uuid::Uuid;
use waybill_kernel::id::{CancellationId, LineId, OrderId, RefundId, ReturnId};
use waybill_store::StoreError;

use crate::domain::units::UnitSet;

/// Units of one line that something takes hold of.
#[derive(Debug, Clone)]
pub struct Claim<'a> {
    /// The line.
    pub line_id: LineId,
    /// How many units the line has.
    pub quantity: i32,
    /// The units.
    pub units: &'a UnitSet,
    /// True when the goods come back too.
    pub goods: bool,
}

/// Takes units for a return, a refund, or both.
pub async fn take(
    conn: &mut PgConnection,
    order_id: OrderId,
    return_id: Option<ReturnId>,
    refund_id: Option<RefundId>,
    claims: &[Claim<'_>],
) -> Result<(), StoreError> {
    let (mut lines, mut quantities, mut units, mut goods) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for claim in claims {
        for run in claim.units.runs() {
            lines.push(claim.line_id.uuid());
            quantities.push(claim.quantity);
            units.push(PgRange::from(run.first..run.last + 1));
            goods.push(claim.goods);
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO unit_claims (order_id, line_id, quantity, units, return_id, refund_id, money, goods)
         SELECT $1, c.line_id, c.quantity, c.units, $2, $3, true, c.goods
         FROM UNNEST($4::uuid[], $5::integer[], $6::int4range[], $7::boolean[]) AS c (line_id, quantity, units, goods)",
    )
    .bind(order_id.uuid())
    .bind(return_id.map(ReturnId::uuid))
    .bind(refund_id.map(RefundId::uuid))
    .bind(lines)
    .bind(quantities)
    .bind(units)
    .bind(goods)
    .execute(conn)
    .await?;
    Ok(())
}

/// Takes units that were cancelled before anybody had paid for them: no refund will.
pub async fn take_unpaid(
    conn: &mut PgConnection,
    order_id: OrderId,
    cancellation_id: CancellationId,
    claims: &[Claim<'_>],
) -> Result<(), StoreError> {
    let (mut lines, mut quantities, mut units) = (Vec::new(), Vec::new(), Vec::new());
    for claim in claims {
        for run in claim.units.runs() {
            lines.push(claim.line_id.uuid());
            quantities.push(claim.quantity);
            units.push(PgRange::from(run.first..run.last + 1));
        }
    }
    sqlx::query(
        "INSERT INTO unit_claims (order_id, line_id, quantity, units, cancellation_id, money, goods)
         SELECT $1, c.line_id, c.quantity, c.units, $2, true, false
         FROM UNNEST($3::uuid[], $4::integer[], $5::int4range[]) AS c (line_id, quantity, units)",
    )
    .bind(order_id.uuid())
    .bind(cancellation_id.uuid())
    .bind(lines)
    .bind(quantities)
    .bind(units)
    .execute(conn)
    .await?;
    Ok(())
}

/// Hands the units of a return on to the refund that pays for them: those of the named lines. The others are let go of,
/// money and goods.
pub async fn hand_to_refund(
    conn: &mut PgConnection,
    return_id: ReturnId,
    refund_id: Option<RefundId>,
    paid_lines: &[LineId],
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE unit_claims
         SET refund_id = CASE WHEN line_id = ANY ($3) THEN $2 ELSE refund_id END,
             money = money AND line_id = ANY ($3),
             goods = goods AND line_id = ANY ($3)
         WHERE return_id = $1",
    )
    .bind(return_id.uuid())
    .bind(refund_id.map(RefundId::uuid))
    .bind(paid_lines.iter().map(|line| line.uuid()).collect::<Vec<Uuid>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// Lets go of the units of a refund whose every leg has failed. Goods that came back stay back.
pub async fn release_refund(conn: &mut PgConnection, refund_id: RefundId) -> Result<(), StoreError> {
    sqlx::query("UPDATE unit_claims SET money = false WHERE refund_id = $1")
        .bind(refund_id.uuid())
        .execute(conn)
        .await?;
    Ok(())
}

/// Takes the units of a refund again that had let go of them. Refused by the exclusion constraint when another one has
/// them now.
pub async fn retake_refund(conn: &mut PgConnection, refund_id: RefundId) -> Result<(), StoreError> {
    sqlx::query("UPDATE unit_claims SET money = true WHERE refund_id = $1")
        .bind(refund_id.uuid())
        .execute(conn)
        .await?;
    Ok(())
}
