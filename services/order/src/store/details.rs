//! What may change of an order besides its state: contact, note, tags, attributes of order and lines.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;
use waybill_kernel::id::{LineId, OrderId};
use waybill_store::StoreError;

use super::read::ContactRow;
use crate::domain::change::{Attributes, Details, Path};
use crate::domain::order::{Contact, Tenant};

#[derive(sqlx::FromRow)]
struct DetailsRow {
    contact: Option<Json<ContactRow>>,
    tags: Json<Vec<String>>,
    attributes: Json<Attributes>,
    lines: Json<BTreeMap<Uuid, Attributes>>,
}

/// The details of a locked order, with the attributes of these lines of it.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn load(
    conn: &mut PgConnection,
    tenant: Tenant,
    order: OrderId,
    lines: &[LineId],
) -> Result<Details, StoreError> {
    let row: DetailsRow = sqlx::query_as(
        "SELECT o.tags, o.attributes,
                (SELECT row_to_json(c) FROM order_contacts c
                 WHERE (c.order_id, c.merchant_id, c.store_id) = (o.order_id, $1, $2)) AS contact,
                (SELECT coalesce(json_object_agg(l.line_id, l.attributes), '{}') FROM order_lines l
                 WHERE (l.order_id, l.merchant_id, l.store_id) = (o.order_id, $1, $2) AND l.line_id = ANY($4)) AS lines
         FROM orders o
         WHERE o.merchant_id = $1 AND o.store_id = $2 AND o.order_id = $3",
    )
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(order.uuid())
    .bind(lines.iter().map(|line| line.uuid()).collect::<Vec<_>>())
    .fetch_one(conn)
    .await?;
    Ok(Details {
        contact: row.contact.map(|contact| contact.0.into()),
        tags: row.tags.0,
        attributes: row.attributes.0,
        lines: (row.lines.0.into_iter())
            .map(|(line, attributes)| (line.into(), attributes))
            .collect(),
    })
}

/// Saves what an update changed of a locked order: one statement. Tables that it did not change are not written.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn save(
    conn: &mut PgConnection,
    tenant: Tenant,
    order: OrderId,
    details: &Details,
    changed: &BTreeSet<Path>,
    customer_key: &str,
) -> Result<(), StoreError> {
    let nobody = Contact::default();
    let contact = details.contact.as_ref().unwrap_or(&nobody);
    let (lines, attributes): (Vec<Uuid>, Vec<Json<&Attributes>>) = (details.lines.iter())
        .map(|(line, attributes)| (line.uuid(), Json(attributes)))
        .unzip();
    sqlx::query(
        "WITH contact AS (
             UPDATE order_contacts
             SET customer_key = coalesce((SELECT p.successor FROM order_pseudonyms p
                                          WHERE p.merchant_id = $2 AND p.customer_key = $4), $4),
                 email = $5, name = $6, phone = $7, shipping_address = $8, billing_address = $9,
                 note = $10
             WHERE order_id = $1 AND merchant_id = $2 AND store_id = $3 AND $11
         ),
         lines AS (
             UPDATE order_lines l SET attributes = c.attributes
             FROM UNNEST($12::uuid[], $13::jsonb[]) AS c (line_id, attributes)
             WHERE l.order_id = $1 AND l.merchant_id = $2 AND l.store_id = $3 AND l.line_id = c.line_id AND $14
         )
         UPDATE orders SET tags = $15, attributes = $16
         WHERE order_id = $1 AND merchant_id = $2 AND store_id = $3 AND $17",
    )
    .bind(order.uuid())
    .bind(tenant.merchant.uuid())
    .bind(tenant.store.uuid())
    .bind(customer_key)
    .bind(&contact.customer.email)
    .bind(&contact.customer.name)
    .bind(&contact.customer.phone)
    .bind(contact.shipping.as_ref().map(Json))
    .bind(contact.billing.as_ref().map(Json))
    .bind(&contact.note)
    .bind(changed.iter().any(|path| path.is_personal()))
    .bind(lines)
    .bind(attributes)
    .bind(changed.contains(&Path::LineAttributes))
    .bind(Json(&details.tags))
    .bind(Json(&details.attributes))
    .bind(changed.contains(&Path::Tags) || changed.contains(&Path::Attributes))
    .execute(conn)
    .await?;
    Ok(())
}
