//! Orders as the order service has them, against what their callers were told.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};

use super::Evidence;
use crate::load::Plan;

#[derive(sqlx::FromRow)]
struct Row {
    order_id: uuid::Uuid,
    source_external_id: String,
    status: String,
    total_minor: i64,
    captured_minor: i64,
    refunded_minor: i64,
    units_to_ship: i64,
    units_shipped: i64,
    units_delivered: i64,
}

async fn rows(of: &Evidence) -> anyhow::Result<Vec<Row>> {
    Ok(sqlx::query_as(
        "SELECT order_id, source_external_id, status, total_minor, captured_minor, refunded_minor, units_to_ship,
                units_shipped, units_delivered
         FROM \"order\".orders ORDER BY order_id",
    )
    .fetch_all(&of.db)
    .await?)
}

/// Every acknowledged order exists once, and there is no other.
pub async fn once(of: &Evidence) -> anyhow::Result<String> {
    let mut there: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in rows(of).await? {
        there
            .entry(row.source_external_id)
            .or_default()
            .insert(row.order_id.to_string());
    }
    for ended in &of.ended {
        let ids = there.remove(&ended.external_id).with_context(|| {
            format!(
                "{} was acknowledged as {} and is not there",
                ended.external_id, ended.order_id
            )
        })?;
        ensure!(
            ids.len() == 1 && ids.contains(&ended.order_id),
            "{} was acknowledged as {}, there is {ids:?}",
            ended.external_id,
            ended.order_id
        );
    }
    for ended in &of.doomed {
        let there = there.contains_key(&ended.external_id);
        ensure!(!there, "{} is there, though the copy is older", ended.external_id);
    }
    ensure!(there.is_empty(), "orders that nobody was told of: {there:?}");
    ensure!(!of.ended.is_empty(), "no order was placed");
    Ok(format!("{} orders", of.ended.len()))
}

/// Every order has the end that its plan gives it.
pub async fn ends(of: &Evidence) -> anyhow::Result<String> {
    let rows: BTreeMap<String, Row> = rows(of)
        .await?
        .into_iter()
        .map(|row| (row.source_external_id.clone(), row))
        .collect();
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for ended in &of.ended {
        let row = rows.get(&ended.external_id).context("an order is missing")?;
        let gone = ended.plan.is_cancelled();
        let captured = if ended.plan == Plan::CancelUnpaid {
            0
        } else {
            ended.total
        };
        let expected = (
            if gone { "CANCELLED" } else { "COMPLETED" },
            ended.total,
            captured,
            if ended.plan == Plan::CancelPaid {
                captured
            } else {
                ended.refunded
            },
            if gone { 0 } else { row.units_to_ship },
            if gone { 0 } else { row.units_to_ship },
        );
        let found = (
            row.status.as_str(),
            row.total_minor,
            row.captured_minor,
            row.refunded_minor,
            row.units_shipped,
            row.units_delivered,
        );
        ensure!(
            found == expected,
            "{} ({:?}): status, total, captured, refunded, shipped, delivered are {found:?}, expected {expected:?}",
            ended.external_id,
            ended.plan
        );
        *ends.entry(row.status.to_lowercase()).or_default() += 1;
    }
    let ends: Vec<String> = ends.iter().map(|(end, count)| format!("{count} {end}")).collect();
    Ok(ends.join(", "))
}
