//! Policies: one more version, and the one in force at a time.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use sqlx::types::Json;
use waybill_store::StoreError;

use crate::domain::book::Tenant;
use crate::domain::policy::Policy;

/// What became of the wish to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// It has this version.
    As(i32),
    /// The version before it begins at the same time or later.
    NotLater {
        /// The version before it.
        version: i32,
        /// When that begins.
        valid_from: DateTime<Utc>,
    },
}

/// Counts one more version of a store's policy, if it begins later than the one before it. Holds the store's row until the
/// end of the transaction, so that versions are published one after the other.
pub async fn next_version(
    conn: &mut PgConnection,
    tenant: Tenant,
    valid_from: DateTime<Utc>,
) -> Result<Published, StoreError> {
    let version: Option<i32> = sqlx::query_scalar(
        "INSERT INTO policy_heads AS head (merchant_id, store_id, policy_version, valid_from) VALUES ($1, $2, 1, $3)
         ON CONFLICT (merchant_id, store_id) DO UPDATE
         SET policy_version = head.policy_version + 1, valid_from = excluded.valid_from
         WHERE head.valid_from < excluded.valid_from
         RETURNING policy_version",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(valid_from)
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(version) = version {
        return Ok(Published::As(version));
    }
    let (version, valid_from) = sqlx::query_as::<_, (i32, DateTime<Utc>)>(
        "SELECT policy_version, valid_from FROM policy_heads WHERE merchant_id = $1 AND store_id = $2",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .fetch_one(conn)
    .await?;
    Ok(Published::NotLater { version, valid_from })
}

/// Writes a version down.
pub async fn insert(
    conn: &mut PgConnection,
    tenant: Tenant,
    policy: &Policy,
    published_by: &str,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO policies (merchant_id, store_id, policy_version, valid_from, rules, published_by)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(policy.version)
    .bind(policy.valid_from)
    .bind(Json(policy))
    .bind(published_by)
    .execute(conn)
    .await?;
    Ok(())
}

/// The policy that holds for orders placed at this time.
pub async fn in_force(
    conn: &mut PgConnection,
    tenant: Tenant,
    at: DateTime<Utc>,
) -> Result<Option<Policy>, StoreError> {
    let found: Option<Json<Policy>> = sqlx::query_scalar(
        "SELECT rules FROM policies WHERE merchant_id = $1 AND store_id = $2 AND valid_from <= $3
         ORDER BY valid_from DESC LIMIT 1",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(at)
    .fetch_optional(conn)
    .await?;
    Ok(found.map(|json| json.0))
}
