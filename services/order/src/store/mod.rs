//! All SQL of the service. Callers see domain types; the shape of the tables ends here.
//!
//! Every statement is bound by merchant and store, or joins a row that is. Sets go in as arrays (UNNEST), of values or of whole
//! rows (`rows`), so a use case is a handful of statements however many orders it is about. Nothing is decided here: what may be, the domain has said
//! before, and the constraints of the tables say once more.

pub(crate) mod attempts;
pub(crate) mod cancellations;
pub(crate) mod change;
mod conditions;
pub(crate) mod customers;
pub(crate) mod details;
pub(crate) mod drafts;
pub(crate) mod edits;
pub(crate) mod find;
pub(crate) mod history;
pub(crate) mod holds;
pub(crate) mod imports;
pub(crate) mod place;
pub(crate) mod privacy;
pub(crate) mod read;
mod rows;
pub(crate) mod timeline;
pub(crate) mod track;
pub(crate) mod trail;
pub(crate) mod watch;
mod whole;

/// What tests of plans stand on.
#[cfg(test)]
#[path = "plans_tests.rs"]
mod plans;

use secrecy::SecretString;
use sqlx::PgExecutor;
use waybill_store::StoreError;

use crate::domain::order::Tenant;

/// Reads a text that the tables can only hold because the code once wrote it.
fn stored<T>(parsed: Option<T>, column: &str, text: &str) -> Result<T, StoreError> {
    parsed.ok_or_else(|| {
        StoreError::decode(format!(
            "{column} holds {text:?}, which this version does not know"
        ))
    })
}

/// Merchant and store of a set, as the arrays that UNNEST takes.
fn tenants(of: impl Iterator<Item = Tenant>) -> (Vec<uuid::Uuid>, Vec<uuid::Uuid>) {
    of.map(|tenant| (tenant.merchant.uuid(), tenant.store.uuid()))
        .unzip()
}

/// The key of pseudonyms that the schema keeps; made by the first who asks.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn customer_key(executor: impl PgExecutor<'_>) -> Result<SecretString, StoreError> {
    let key: String = sqlx::query_scalar(
        // Two random UUIDs are 244 random bits. The update that changes nothing makes RETURNING answer in both cases.
        "INSERT INTO order_secrets AS s (name, value)
         VALUES ('customer_key', encode(sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')), 'hex'))
         ON CONFLICT (name) DO UPDATE SET value = s.value
         RETURNING value",
    )
    .fetch_one(executor)
    .await?;
    Ok(SecretString::from(key))
}
