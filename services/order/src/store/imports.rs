//! Imports: how far each has come.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};
use waybill_store::StoreError;

use super::stored;
use crate::domain::import::{Counts, Import, ImportFormat, Opening, Refusal};
use crate::domain::order::Tenant;

#[derive(sqlx::FromRow)]
struct ImportRow {
    import_id: String,
    format: String,
    size_bytes: Option<i64>,
    sha256: String,
    header: Vec<u8>,
    epoch: i64,
    is_done: bool,
    bytes_done: i64,
    lines_done: i64,
    row_count: i64,
    placed: i64,
    duplicates: i64,
    refused: i64,
    payments: i64,
    payments_refused: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl ImportRow {
    fn import(self) -> Result<Import, StoreError> {
        Ok(Import {
            format: stored(ImportFormat::parse(&self.format), "format", &self.format)?,
            id: self.import_id,
            size: self.size_bytes,
            sha256: self.sha256,
            header: self.header,
            epoch: self.epoch,
            is_done: self.is_done,
            bytes_done: self.bytes_done,
            lines_done: self.lines_done,
            counts: Counts {
                rows: self.row_count,
                placed: self.placed,
                duplicates: self.duplicates,
                refused: self.refused,
                payments: self.payments,
                payments_refused: self.payments_refused,
            },
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

/// Opens an import: makes it, or counts its openings. What was not known of its file is what the opening says of it; whether
/// the rest agrees is for the caller to see, in the same transaction.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn open(
    conn: &mut PgConnection,
    tenant: Tenant,
    opening: &Opening,
    now: DateTime<Utc>,
) -> Result<Import, StoreError> {
    let row: ImportRow = sqlx::query_as(
        "INSERT INTO order_imports AS i (
             merchant_id, store_id, import_id, format, size_bytes, sha256, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
         ON CONFLICT (merchant_id, store_id, import_id) DO UPDATE
         SET epoch = i.epoch + 1,
             size_bytes = coalesce(i.size_bytes, CASE WHEN excluded.size_bytes >= i.bytes_done THEN excluded.size_bytes END),
             sha256 = coalesce(nullif(i.sha256, ''), excluded.sha256)
         RETURNING *",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(&opening.id)
    .bind(opening.format.as_str())
    .bind(opening.size)
    .bind(&opening.sha256)
    .bind(now)
    .fetch_one(conn)
    .await?;
    row.import()
}

/// What has become durable of an import since the step before.
pub(crate) struct Step<'a> {
    /// The opening it belongs to.
    pub epoch: i64,
    /// Everything before this byte.
    pub bytes_done: i64,
    /// The same in lines.
    pub lines_done: i64,
    /// Whether that is the whole file.
    pub is_done: bool,
    /// What stands before all orders.
    pub header: &'a [u8],
    /// What became of the orders in between.
    pub counts: Counts,
    /// Those of them that were refused and are remembered.
    pub refusals: &'a [Refusal],
}

/// Moves an import on, with its refused lines: one statement. `None` when another stream has opened it since.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn move_on(
    conn: &mut PgConnection,
    tenant: Tenant,
    id: &str,
    step: &Step<'_>,
    now: DateTime<Utc>,
) -> Result<Option<Import>, StoreError> {
    let Counts {
        rows,
        placed,
        duplicates,
        refused,
        payments,
        payments_refused,
    } = step.counts;
    let row: Option<ImportRow> = sqlx::query_as(
        "WITH moved AS (
             UPDATE order_imports
             SET bytes_done = $5, lines_done = $6, is_done = $7, header = $8,
                 size_bytes = CASE WHEN $7 THEN $5 ELSE size_bytes END, row_count = row_count + $9,
                 placed = placed + $10, duplicates = duplicates + $11, refused = refused + $12, payments = payments + $13,
                 payments_refused = payments_refused + $14, updated_at = $15
             WHERE merchant_id = $1 AND store_id = $2 AND import_id = $3 AND epoch = $4 AND NOT is_done
             RETURNING *
         ),
         refusals AS (
             INSERT INTO order_import_refusals (merchant_id, store_id, import_id, line, reason, fields)
             SELECT m.merchant_id, m.store_id, m.import_id, r.line, r.reason, r.fields
             FROM moved m, UNNEST($16::bigint[], $17::text[], $18::text[]) AS r (line, reason, fields)
             ON CONFLICT DO NOTHING
         )
         SELECT * FROM moved",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(id)
    .bind(step.epoch)
    .bind(step.bytes_done)
    .bind(step.lines_done)
    .bind(step.is_done)
    .bind(step.header)
    .bind(rows)
    .bind(placed)
    .bind(duplicates)
    .bind(refused)
    .bind(payments)
    .bind(payments_refused)
    .bind(now)
    .bind(step.refusals.iter().map(|refusal| refusal.line).collect::<Vec<_>>())
    .bind(step.refusals.iter().map(|refusal| refusal.reason.as_str()).collect::<Vec<_>>())
    .bind(step.refusals.iter().map(|refusal| refusal.fields.as_str()).collect::<Vec<_>>())
    .fetch_optional(conn)
    .await?;
    row.map(ImportRow::import).transpose()
}

/// An import.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn find(
    executor: impl PgExecutor<'_>,
    tenant: Tenant,
    id: &str,
) -> Result<Option<Import>, StoreError> {
    let row: Option<ImportRow> = sqlx::query_as(
        "SELECT * FROM order_imports WHERE merchant_id = $1 AND store_id = $2 AND import_id = $3",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(id)
    .fetch_optional(executor)
    .await?;
    row.map(ImportRow::import).transpose()
}

/// The first refused lines of an import.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn refusals(
    executor: impl PgExecutor<'_>,
    tenant: Tenant,
    id: &str,
    most: i64,
) -> Result<Vec<Refusal>, StoreError> {
    let rows: Vec<(i64, String, String)> = sqlx::query_as(
        "SELECT line, reason, fields FROM order_import_refusals
         WHERE merchant_id = $1 AND store_id = $2 AND import_id = $3
         ORDER BY line LIMIT $4",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(id)
    .bind(most)
    .fetch_all(executor)
    .await?;
    let refusals = rows
        .into_iter()
        .map(|(line, reason, fields)| Refusal { line, reason, fields });
    Ok(refusals.collect())
}
