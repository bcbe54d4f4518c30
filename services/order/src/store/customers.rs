//! Customers of a merchant: which orders are whose, and the pseudonyms that stand for them.

use std::collections::{HashMap, HashSet};

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;
use waybill_kernel::id::{MerchantId, OrderId, StoreId};
use waybill_store::StoreError;

use super::conditions::{EMAIL, EXTERNAL_ID, push_email, push_external_id};
use super::find::Sql;
use crate::domain::order::{Contact, Customer};
use crate::domain::privacy::Person;

/// A random text as a pseudonym is one: of 244 random bits.
const RANDOM: &str =
    "encode(sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')), 'hex')";

/// Where an order stands among those of a customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spot {
    /// Its store.
    pub store: StoreId,
    /// The order.
    pub order: OrderId,
}

/// An order of a customer.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// Where it stands.
    pub spot: Spot,
    /// The pseudonym in its events.
    pub customer_key: String,
}

/// The stores in which a merchant has orders: one step along an index for each.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn stores(pool: &PgPool, merchant: MerchantId) -> Result<Vec<StoreId>, StoreError> {
    let stores: Vec<Uuid> = sqlx::query_scalar(
        "WITH RECURSIVE s (store_id) AS (
             (SELECT store_id FROM orders WHERE merchant_id = $1 ORDER BY store_id LIMIT 1)
             UNION ALL
             SELECT (SELECT o.store_id FROM orders o
                     WHERE o.merchant_id = $1 AND o.store_id > s.store_id ORDER BY o.store_id LIMIT 1)
             FROM s WHERE s.store_id IS NOT NULL
         )
         SELECT store_id FROM s WHERE store_id IS NOT NULL",
    )
    .bind(merchant.uuid())
    .fetch_all(pool)
    .await?;
    Ok(stores.into_iter().map(StoreId::from).collect())
}

/// Who ordered, as far as it tells one customer from another; the contact is none once it was erased. `None` when these
/// stores have no such order.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn buyer(
    pool: &PgPool,
    merchant: MerchantId,
    stores: &[StoreId],
    order: OrderId,
) -> Result<Option<Option<Contact>>, StoreError> {
    let row: Option<(Option<String>, Option<String>)> = sqlx::query_as(
        "SELECT c.email, c.customer_external_id
         FROM orders o LEFT JOIN order_contacts c
              ON (c.order_id, c.merchant_id, c.store_id) = (o.order_id, o.merchant_id, o.store_id)
         WHERE o.order_id = $3 AND o.merchant_id = $1 AND o.store_id = ANY($2)",
    )
    .bind(merchant.uuid())
    .bind(uuids(stores))
    .bind(order.uuid())
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|(email, external_id)| {
        let (email, external_id) = (email?, external_id?);
        Some(Contact {
            customer: Customer {
                email,
                external_id,
                ..Customer::default()
            },
            ..Contact::default()
        })
    }))
}

/// The orders of a customer in these stores, sorted by store and id, behind a place; at most `limit`. Each store is one
/// look-up of the index by address or by id.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn members(
    conn: &mut PgConnection,
    merchant: MerchantId,
    stores: &[StoreId],
    person: &Person,
    after: Option<Spot>,
    limit: i64,
) -> Result<Vec<Member>, StoreError> {
    let after = after.map_or((Uuid::nil(), Uuid::nil()), |spot| {
        (spot.store.uuid(), spot.order.uuid())
    });
    let mut sql = Sql::new("SELECT f.store_id, f.order_id, f.customer_key FROM UNNEST(");
    sql.push_bind(uuids(stores));
    sql.push(
        "::uuid[]) AS s (store_id) CROSS JOIN LATERAL (
             SELECT c.store_id, c.order_id, c.customer_key FROM order_contacts c WHERE c.merchant_id = ",
    );
    sql.push_bind(merchant.uuid());
    sql.push(" AND c.store_id = s.store_id");
    // In the order of the index: else the planner may hope to meet the few by reading the whole table.
    let order = match person {
        Person::Email(email) => {
            push_email(&mut sql, email);
            format!("{EMAIL}, c.order_id")
        }
        Person::ExternalId(id) => {
            push_external_id(&mut sql, id);
            format!("{EXTERNAL_ID}, c.order_id")
        }
        Person::Order(id) => {
            sql.push(" AND c.order_id = ");
            sql.push_bind(id.uuid());
            "c.order_id".to_owned()
        }
    };
    sql.push(" AND c.order_id > CASE WHEN s.store_id = ");
    sql.push_bind(after.0);
    sql.push(" THEN ");
    sql.push_bind(after.1);
    sql.push(format!(
        " ELSE '{}'::uuid END ORDER BY {order} LIMIT {limit}) f WHERE s.store_id >= ",
        Uuid::nil()
    ));
    sql.push_bind(after.0);
    sql.push(format!(" ORDER BY f.store_id, f.order_id LIMIT {limit}"));
    let rows: Vec<(Uuid, Uuid, String)> = sql.build_query_as().fetch_all(conn).await?;
    let member = |(store, order, customer_key): (Uuid, Uuid, String)| Member {
        spot: Spot {
            store: store.into(),
            order: order.into(),
        },
        customer_key,
    };
    Ok(rows.into_iter().map(member).collect())
}

/// Gives up pseudonyms (O-34): whoever had one of them gets another from here on.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn retire(
    conn: &mut PgConnection,
    merchant: MerchantId,
    customer_keys: &HashSet<&str>,
) -> Result<(), StoreError> {
    let mut keys: Vec<&str> = (customer_keys.iter().copied())
        .filter(|key| !key.is_empty())
        .collect();
    if keys.is_empty() {
        return Ok(());
    }
    keys.sort_unstable();
    // Keys that already stand in for another: of those the one they stand in for counts.
    let random: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "UPDATE order_pseudonyms p SET successor = {RANDOM}
         FROM UNNEST($2::text[]) AS k (key) WHERE p.merchant_id = $1 AND p.successor = k.key
         RETURNING k.key"
    )))
    .bind(merchant.uuid())
    .bind(&keys)
    .fetch_all(&mut *conn)
    .await?;
    keys.retain(|key| !random.iter().any(|random| random == key));
    sqlx::query(sqlx::AssertSqlSafe(format!(
        "INSERT INTO order_pseudonyms (merchant_id, customer_key, successor)
         SELECT $1, k.key, {RANDOM} FROM UNNEST($2::text[]) AS k (key)
         ON CONFLICT (merchant_id, customer_key) DO UPDATE SET successor = excluded.successor"
    )))
    .bind(merchant.uuid())
    .bind(&keys)
    .execute(conn)
    .await?;
    Ok(())
}

/// What is used instead of pseudonyms that were given up; those that were not are left out.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn successors(
    conn: &mut PgConnection,
    customers: &[(MerchantId, &str)],
) -> Result<HashMap<(MerchantId, String), String>, StoreError> {
    let rows: Vec<(Uuid, String, String)> = sqlx::query_as(
        "SELECT p.merchant_id, p.customer_key, p.successor
         FROM UNNEST($1::uuid[], $2::text[]) AS k (merchant_id, customer_key)
         JOIN order_pseudonyms p ON (p.merchant_id, p.customer_key) = (k.merchant_id, k.customer_key)",
    )
    .bind(
        customers
            .iter()
            .map(|(merchant, _)| merchant.uuid())
            .collect::<Vec<_>>(),
    )
    .bind(customers.iter().map(|(_, key)| *key).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(merchant, key, successor)| ((merchant.into(), key), successor))
        .collect())
}

/// Ids of stores, as the database has them.
pub(super) fn uuids(stores: &[StoreId]) -> Vec<Uuid> {
    stores.iter().map(|store| store.uuid()).collect()
}
