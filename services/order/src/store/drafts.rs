//! Orders that are being made.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;
use waybill_kernel::id::{DraftId, MerchantId, OrderId, StoreId};
use waybill_kernel::money::{Currency, Money};
use waybill_store::StoreError;

use super::conditions::{push_email, push_external_id};
use super::customers::uuids;
use super::find::Sql;
use super::stored;
use crate::domain::draft::{KeptDraft, Stage};
use crate::domain::order::Tenant;
use crate::domain::privacy::Person;

/// What is written of a draft.
pub(crate) struct Written<'a> {
    /// What was handed in.
    pub content: &'a [u8],
    /// What the customer would pay.
    pub total: Option<Money>,
    /// Who would order.
    pub email: &'a str,
    /// The customer's id at the merchant.
    pub external_id: &'a str,
}

/// Writes a new draft.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn insert(
    conn: &mut PgConnection,
    tenant: Tenant,
    draft: DraftId,
    written: &Written<'_>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO order_drafts (merchant_id, store_id, draft_id, content, currency_code, total_minor, email,
                                   customer_external_id, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(draft.uuid())
    .bind(written.content)
    .bind(written.total.map_or("", |total| total.currency.code()))
    .bind(written.total.map(|total| total.minor))
    .bind(written.email)
    .bind(written.external_id)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// A draft whose row is locked until the transaction ends.
pub(crate) struct Locked {
    /// Its version.
    pub version: i64,
    /// The order that it has become.
    pub order: Option<OrderId>,
}

/// Locks a draft.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn lock(
    conn: &mut PgConnection,
    tenant: Tenant,
    draft: DraftId,
) -> Result<Option<Locked>, StoreError> {
    let row: Option<(i64, Option<Uuid>)> = sqlx::query_as(
        "SELECT version, order_id FROM order_drafts
         WHERE merchant_id = $1 AND store_id = $2 AND draft_id = $3 FOR UPDATE",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(draft.uuid())
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|(version, order)| Locked {
        version,
        order: order.map(OrderId::from),
    }))
}

/// Replaces what is known of a locked draft.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn replace(
    conn: &mut PgConnection,
    tenant: Tenant,
    draft: DraftId,
    written: &Written<'_>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE order_drafts
         SET version = version + 1, content = $4, currency_code = $5, total_minor = $6, email = $7,
             customer_external_id = $8, updated_at = $9
         WHERE merchant_id = $1 AND store_id = $2 AND draft_id = $3",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(draft.uuid())
    .bind(written.content)
    .bind(written.total.map_or("", |total| total.currency.code()))
    .bind(written.total.map(|total| total.minor))
    .bind(written.email)
    .bind(written.external_id)
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Notes that a locked draft has become this order; what was handed in goes.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn place(
    conn: &mut PgConnection,
    tenant: Tenant,
    draft: DraftId,
    order: OrderId,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE order_drafts
         SET version = version + 1, content = NULL, currency_code = '', total_minor = NULL, email = '',
             customer_external_id = '', order_id = $4, updated_at = $5
         WHERE merchant_id = $1 AND store_id = $2 AND draft_id = $3",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(draft.uuid())
    .bind(order.uuid())
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes a locked draft.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn delete(
    conn: &mut PgConnection,
    tenant: Tenant,
    draft: DraftId,
) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM order_drafts WHERE merchant_id = $1 AND store_id = $2 AND draft_id = $3")
        .bind(tenant.merchant.uuid())
        .bind(tenant.store.uuid())
        .bind(draft.uuid())
        .execute(conn)
        .await?;
    Ok(())
}

/// Deletes drafts that were not changed since `unchanged_since`, or placed before `placed_before`; at most `limit`. Answers with
/// how many. Those that somebody is at are left for the next time.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn expire(
    pool: &PgPool,
    unchanged_since: DateTime<Utc>,
    placed_before: DateTime<Utc>,
    limit: i64,
) -> Result<u64, StoreError> {
    let done = sqlx::query(
        "DELETE FROM order_drafts d USING (
             SELECT merchant_id, store_id, draft_id FROM order_drafts
             WHERE updated_at <= greatest($1, $2) AND updated_at <= CASE WHEN order_id IS NULL THEN $1 ELSE $2 END
             ORDER BY updated_at LIMIT $3 FOR UPDATE SKIP LOCKED) old
         WHERE (d.merchant_id, d.store_id, d.draft_id) = (old.merchant_id, old.store_id, old.draft_id)",
    )
    .bind(unchanged_since)
    .bind(placed_before)
    .bind(limit)
    .execute(pool)
    .await
    .map_err(StoreError::at_commit)?;
    Ok(done.rows_affected())
}

#[derive(sqlx::FromRow)]
struct DraftRow {
    merchant_id: Uuid,
    store_id: Uuid,
    draft_id: Uuid,
    version: i64,
    content: Option<Vec<u8>>,
    currency_code: String,
    total_minor: Option<i64>,
    order_id: Option<Uuid>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl DraftRow {
    fn draft(self) -> Result<KeptDraft, StoreError> {
        let total = match self.total_minor {
            Some(minor) => {
                let currency = Currency::parse(&self.currency_code).ok();
                Some(Money::new(
                    stored(currency, "currency_code", &self.currency_code)?,
                    minor,
                ))
            }
            None => None,
        };
        Ok(KeptDraft {
            id: self.draft_id.into(),
            tenant: Tenant {
                merchant: self.merchant_id.into(),
                store: self.store_id.into(),
            },
            version: self.version,
            stage: match self.order_id {
                Some(order) => Stage::Placed(order.into()),
                None => Stage::Open(self.content.unwrap_or_default()),
            },
            total,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

/// Reads a draft.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn get(
    pool: &PgPool,
    tenant: Tenant,
    draft: DraftId,
) -> Result<Option<KeptDraft>, StoreError> {
    let row: Option<DraftRow> = sqlx::query_as(
        "SELECT merchant_id, store_id, draft_id, version, content, currency_code, total_minor, order_id, created_at, updated_at
         FROM order_drafts WHERE merchant_id = $1 AND store_id = $2 AND draft_id = $3",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(draft.uuid())
    .fetch_optional(pool)
    .await?;
    row.map(DraftRow::draft).transpose()
}

/// Drafts of a store, newest first, behind one of them; those that were placed, or were not, or both. What was handed in is
/// left out.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn list(
    pool: &PgPool,
    tenant: Tenant,
    placed: Option<bool>,
    after: Option<DraftId>,
    limit: i64,
) -> Result<Vec<KeptDraft>, StoreError> {
    let mut sql = Sql::new(
        "SELECT merchant_id, store_id, draft_id, version, NULL::bytea AS content, currency_code, total_minor, order_id,
                created_at, updated_at
         FROM order_drafts WHERE merchant_id = ",
    );
    sql.push_bind(tenant.merchant.uuid());
    sql.push(" AND store_id = ");
    sql.push_bind(tenant.store.uuid());
    sql.push(match placed {
        Some(true) => " AND order_id IS NOT NULL",
        Some(false) => " AND order_id IS NULL",
        None => "",
    });
    if let Some(after) = after {
        sql.push(" AND draft_id < ");
        sql.push_bind(after.uuid());
    }
    sql.push(" ORDER BY draft_id DESC LIMIT ");
    sql.push_bind(limit);
    let rows: Vec<DraftRow> = sql.build_query_as().fetch_all(pool).await?;
    rows.into_iter().map(DraftRow::draft).collect()
}

/// Drafts of a customer that were not placed, whole, by id behind one of them; in these stores, or in all of the merchant.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn of_person(
    conn: &mut PgConnection,
    merchant: MerchantId,
    stores: Option<&[StoreId]>,
    person: &Person,
    after: Option<DraftId>,
    limit: i64,
) -> Result<Vec<KeptDraft>, StoreError> {
    let mut sql = Sql::new(
        "SELECT merchant_id, store_id, draft_id, version, content, currency_code, total_minor, order_id, created_at, updated_at
         FROM order_drafts c WHERE",
    );
    if !push_person(&mut sql, merchant, stores, person) {
        return Ok(Vec::new());
    }
    if let Some(after) = after {
        sql.push(" AND c.draft_id > ");
        sql.push_bind(after.uuid());
    }
    sql.push(" ORDER BY c.draft_id LIMIT ");
    sql.push_bind(limit);
    let rows: Vec<DraftRow> = sql.build_query_as().fetch_all(conn).await?;
    rows.into_iter().map(DraftRow::draft).collect()
}

/// Deletes drafts of a customer that were not placed, in these stores or in all of the merchant; at most `limit`. Answers with
/// how many.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn forget(
    conn: &mut PgConnection,
    merchant: MerchantId,
    stores: Option<&[StoreId]>,
    person: &Person,
    limit: i64,
) -> Result<u64, StoreError> {
    let mut sql = Sql::new(
        "DELETE FROM order_drafts d USING (
             SELECT c.merchant_id, c.store_id, c.draft_id FROM order_drafts c WHERE",
    );
    if !push_person(&mut sql, merchant, stores, person) {
        return Ok(0);
    }
    sql.push(" ORDER BY c.draft_id LIMIT ");
    sql.push_bind(limit);
    // One that is placed in this moment names nobody any more, and is an order.
    sql.push(
        " FOR UPDATE) f
          WHERE (d.merchant_id, d.store_id, d.draft_id) = (f.merchant_id, f.store_id, f.draft_id) AND d.order_id IS NULL",
    );
    Ok(sql.build().execute(conn).await?.rows_affected())
}

/// Whose draft it is. False for somebody who is known by an order alone: a draft is none.
fn push_person(sql: &mut Sql, merchant: MerchantId, stores: Option<&[StoreId]>, person: &Person) -> bool {
    sql.push(" c.merchant_id = ");
    sql.push_bind(merchant.uuid());
    if let Some(stores) = stores {
        sql.push(" AND c.store_id = ANY(");
        sql.push_bind(uuids(stores));
        sql.push(")");
    }
    match person {
        Person::Email(email) => push_email(sql, email),
        Person::ExternalId(id) => push_external_id(sql, id),
        Person::Order(_) => return false,
    }
    true
}
