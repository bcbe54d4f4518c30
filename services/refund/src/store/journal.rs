//! The books: entries are written whole, and read; nothing else.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;
use waybill_kernel::id::{EntryId, MerchantId, OrderId, RefundId};
use waybill_store::StoreError;

use crate::domain::book::Tenant;
use crate::domain::journal::Entry;

/// Writes entries whose sources are new. Returns how many were: a fold may meet known ones, a use case may not.
pub async fn insert(
    conn: &mut PgConnection,
    entries: &[Entry],
    booked_at: DateTime<Utc>,
) -> Result<u64, StoreError> {
    let entries: Vec<(&Entry, Vec<(String, i64)>)> = entries
        .iter()
        .map(|entry| (entry, entry.posting.lines()))
        // An order that costs nothing is no entry.
        .filter(|(_, lines)| !lines.is_empty())
        .collect();
    if entries.is_empty() {
        return Ok(0);
    }
    let ids = |of: fn(&Entry) -> Uuid| entries.iter().map(|(entry, _)| of(entry)).collect::<Vec<Uuid>>();
    let count = |lines: &[(String, i64)]| i16::try_from(lines.len()).unwrap_or(i16::MAX);
    let flat: Vec<(&Entry, i16, i16, &str, i64)> = entries
        .iter()
        .flat_map(|(entry, lines)| {
            let all = count(lines);
            lines
                .iter()
                .zip(1..)
                .map(move |((account, minor), position)| (*entry, all, position, account.as_str(), *minor))
        })
        .collect();
    let new: i64 = sqlx::query_scalar(
        "WITH entry AS (
             INSERT INTO journal_entries
                 (entry_id, merchant_id, store_id, order_id, refund_id, kind, source, reverses, lines, booked_at)
             SELECT e.*, $10 FROM UNNEST($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::text[], $7::text[],
                                   $8::uuid[], $9::smallint[]) AS e
             ON CONFLICT (kind, source) DO NOTHING
             RETURNING entry_id, merchant_id
         ), line AS (
             INSERT INTO journal_lines (entry_id, of_lines, position, merchant_id, account, currency, amount)
             SELECT entry_id, l.of_lines, l.position, entry.merchant_id, l.account, l.currency, l.amount
             FROM UNNEST($11::uuid[], $12::smallint[], $13::smallint[], $14::text[], $15::text[], $16::bigint[])
                  AS l (entry_id, of_lines, position, account, currency, amount)
             JOIN entry USING (entry_id)
         )
         SELECT count(*) FROM entry",
    )
    .bind(ids(|entry| entry.entry_id.uuid()))
    .bind(ids(|entry| entry.tenant.merchant.uuid()))
    .bind(ids(|entry| entry.tenant.store.uuid()))
    .bind(ids(|entry| entry.order_id.uuid()))
    .bind(entries.iter().map(|(entry, _)| entry.refund_id.map(RefundId::uuid)).collect::<Vec<_>>())
    .bind(entries.iter().map(|(entry, _)| entry.kind).collect::<Vec<_>>())
    .bind(entries.iter().map(|(entry, _)| entry.source.as_str()).collect::<Vec<_>>())
    .bind(entries.iter().map(|(entry, _)| entry.reverses.map(EntryId::uuid)).collect::<Vec<_>>())
    .bind(entries.iter().map(|(_, lines)| count(lines)).collect::<Vec<_>>())
    .bind(booked_at)
    .bind(flat.iter().map(|line| line.0.entry_id.uuid()).collect::<Vec<_>>())
    .bind(flat.iter().map(|line| line.1).collect::<Vec<_>>())
    .bind(flat.iter().map(|line| line.2).collect::<Vec<_>>())
    .bind(flat.iter().map(|line| line.3).collect::<Vec<_>>())
    .bind(flat.iter().map(|line| line.0.currency.as_str()).collect::<Vec<_>>())
    .bind(flat.iter().map(|line| line.4).collect::<Vec<_>>())
    .fetch_one(conn)
    .await?;
    Ok(new.unsigned_abs())
}

/// An entry as it stands in the books.
#[derive(Debug, Clone)]
pub struct Booked {
    /// Its id.
    pub entry_id: EntryId,
    /// What it books.
    pub kind: String,
    /// The order.
    pub order_id: OrderId,
    /// The refund, if it is about one.
    pub refund_id: Option<RefundId>,
    /// Account, currency code and minor units.
    pub lines: Vec<(String, String, i64)>,
    /// When it was booked.
    pub booked_at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct BookedRow {
    entry_id: Uuid,
    kind: String,
    order_id: Uuid,
    refund_id: Option<Uuid>,
    booked_at: DateTime<Utc>,
    lines: Json<Vec<LineRow>>,
}

#[derive(Deserialize)]
struct LineRow {
    account: String,
    currency: String,
    amount: i64,
}

/// Entries of a store, newest first, before a place; of one order if it is named.
pub async fn list(
    conn: &mut PgConnection,
    tenant: Tenant,
    order_id: Option<OrderId>,
    before: Option<EntryId>,
    limit: i64,
) -> Result<Vec<Booked>, StoreError> {
    let rows = match order_id {
        Some(order_id) => {
            sqlx::query_as::<_, BookedRow>(
                "SELECT e.entry_id, e.kind, e.order_id, e.refund_id, e.booked_at,
                        (SELECT json_agg(json_build_object('account', l.account, 'currency', l.currency, 'amount', l.amount)
                                         ORDER BY l.position)
                         FROM journal_lines l WHERE l.entry_id = e.entry_id) AS lines
                 FROM journal_entries e
                 WHERE e.order_id = $5 AND e.merchant_id = $1 AND e.store_id = $2 AND ($3::uuid IS NULL OR e.entry_id < $3)
                 ORDER BY e.entry_id DESC LIMIT $4",
            )
            .bind(tenant.merchant.uuid())
            .bind(tenant.store.uuid())
            .bind(before.map(EntryId::uuid))
            .bind(limit)
            .bind(order_id.uuid())
            .fetch_all(conn)
            .await?
        }
        None => {
            sqlx::query_as::<_, BookedRow>(
                "SELECT e.entry_id, e.kind, e.order_id, e.refund_id, e.booked_at,
                        (SELECT json_agg(json_build_object('account', l.account, 'currency', l.currency, 'amount', l.amount)
                                         ORDER BY l.position)
                         FROM journal_lines l WHERE l.entry_id = e.entry_id) AS lines
                 FROM journal_entries e
                 WHERE e.merchant_id = $1 AND e.store_id = $2 AND ($3::uuid IS NULL OR e.entry_id < $3)
                 ORDER BY e.entry_id DESC LIMIT $4",
            )
            .bind(tenant.merchant.uuid())
            .bind(tenant.store.uuid())
            .bind(before.map(EntryId::uuid))
            .bind(limit)
            .fetch_all(conn)
            .await?
        }
    };
    Ok(rows.into_iter().map(Booked::from).collect())
}

impl From<BookedRow> for Booked {
    fn from(row: BookedRow) -> Self {
        Self {
            entry_id: row.entry_id.into(),
            kind: row.kind,
            order_id: row.order_id.into(),
            refund_id: row.refund_id.map(RefundId::from),
            lines: row
                .lines
                .0
                .into_iter()
                .map(|line| (line.account, line.currency, line.amount))
                .collect(),
            booked_at: row.booked_at,
        }
    }
}

/// The sum of one account in one currency.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct AccountSum {
    /// The account.
    pub account: String,
    /// Currency code.
    pub currency: String,
    /// Sum of its debits.
    pub debits: i64,
    /// Sum of its credits, as a positive amount.
    pub credits: i64,
}

/// All accounts of a merchant, by currency and account.
pub async fn trial_balance(
    conn: &mut PgConnection,
    merchant: MerchantId,
) -> Result<Vec<AccountSum>, StoreError> {
    let sums = sqlx::query_as::<_, AccountSum>(
        "SELECT account, currency,
                coalesce(sum(amount) FILTER (WHERE amount > 0), 0)::bigint AS debits,
                coalesce(-sum(amount) FILTER (WHERE amount < 0), 0)::bigint AS credits
         FROM journal_lines WHERE merchant_id = $1
         GROUP BY currency, account ORDER BY currency, account",
    )
    .bind(merchant.uuid())
    .fetch_all(conn)
    .await?;
    Ok(sums)
}
