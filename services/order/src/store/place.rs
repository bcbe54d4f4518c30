//! Placement: numbers, and orders with all that belongs to them, a whole chunk at a time.

use std::collections::{BTreeMap, HashSet};

use sqlx::PgConnection;
use uuid::Uuid;
use waybill_kernel::id::{MerchantId, OrderId};
use waybill_store::StoreError;

use super::rows::{NewContact, NewEntry, NewLine, NewOrder, NewShippingLine};
use super::tenants;
use crate::domain::fact::TimelineEntry;
use crate::domain::order::{Order, Source, Tenant};
use crate::domain::trail::{Hash, Link, digest};

/// Assigned numbers of a store begin above this, so that the first customer does not feel like the first.
const BEFORE_FIRST_NUMBER: i64 = 1000;

/// Numbers of this many digits and more are a caller's own business: the counter never gets there.
const MAX_PLAIN_DIGITS: usize = 15;

/// Fills in the numbers that are to be assigned. `orders` are the stores and the numbers they brought along; an empty
/// one is to be assigned. Callers' plain numbers raise the counter, so an assigned number meets no other but those that are
/// being brought along in this moment (O-9).
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn assign_numbers(
    conn: &mut PgConnection,
    orders: &[(Tenant, &str)],
) -> Result<Vec<String>, StoreError> {
    // By tenant, so that transactions take the counters' locks in one order.
    let mut stores: BTreeMap<Tenant, Wanted> = BTreeMap::new();
    for (tenant, number) in orders {
        let plain = plain(number);
        if number.is_empty() || plain.is_some() {
            let wanted = stores.entry(*tenant).or_default();
            wanted.count += i64::from(number.is_empty());
            wanted.brought = wanted.brought.max(plain.unwrap_or(0));
        }
    }
    if !stores.is_empty() {
        raise_counters(conn, &mut stores).await?;
    }
    let numbers = orders
        .iter()
        .map(|(tenant, number)| match stores.get_mut(tenant) {
            Some(wanted) if number.is_empty() => {
                wanted.count -= 1;
                (wanted.last - wanted.count).to_string()
            }
            _ => (*number).to_owned(),
        });
    Ok(numbers.collect())
}

/// From now on nothing that this connection commits waits for the disk.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn commit_without_waiting(conn: &mut PgConnection) -> Result<(), StoreError> {
    sqlx::query("SET synchronous_commit = off").execute(conn).await?;
    Ok(())
}

#[derive(Default)]
struct Wanted {
    /// Numbers to assign.
    count: i64,
    /// The highest plain number brought along.
    brought: i64,
    /// The last number that was assigned.
    last: i64,
}

async fn raise_counters(
    conn: &mut PgConnection,
    stores: &mut BTreeMap<Tenant, Wanted>,
) -> Result<(), StoreError> {
    let (merchants, store_ids) = tenants(stores.keys().copied());
    let rows: Vec<(Uuid, Uuid, i64)> = sqlx::query_as(
        "INSERT INTO order_counters AS c (merchant_id, store_id, last, brought)
         SELECT w.merchant_id, w.store_id, greatest($5, w.brought) + w.count, w.brought
         FROM UNNEST($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[]) AS w (merchant_id, store_id, count, brought)
         ON CONFLICT (merchant_id, store_id) DO UPDATE
         SET last = greatest(c.last, excluded.brought) + (excluded.last - greatest($5, excluded.brought)),
             brought = greatest(c.brought, excluded.brought)
         RETURNING merchant_id, store_id, last",
    )
    .bind(merchants)
    .bind(store_ids)
    .bind(stores.values().map(|wanted| wanted.count).collect::<Vec<_>>())
    .bind(stores.values().map(|wanted| wanted.brought).collect::<Vec<_>>())
    .bind(BEFORE_FIRST_NUMBER)
    .fetch_all(conn)
    .await?;
    for (merchant, store, last) in rows {
        if let Some(wanted) = stores.get_mut(&Tenant {
            merchant: merchant.into(),
            store: store.into(),
        }) {
            wanted.last = last;
        }
    }
    Ok(())
}

/// The value of a number that looks like an assigned one.
fn plain(number: &str) -> Option<i64> {
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let plain = digits && !number.starts_with('0') && number.len() <= MAX_PLAIN_DIGITS;
    if plain { number.parse().ok() } else { None }
}

/// An order about to be written, with what belongs to it.
pub(crate) struct Placement<'a> {
    /// The order; its contact is written apart.
    pub order: &'a Order,
    /// The number it gets.
    pub number: &'a str,
    /// Pseudonym of the customer.
    pub customer_key: &'a str,
    /// What its timeline begins with.
    pub entries: &'a [TimelineEntry],
}

const INSERT: &str = "
    WITH placed AS (
        INSERT INTO orders (
            order_id, merchant_id, store_id, number, source_system, source_external_id, currency, prices_include_tax,
            subtotal_minor, discounts_minor, shipping_minor, tax_minor, total_minor, discounts, locale, placed_at,
            promised_ship_at, promised_delivery_at, presentment_currency, presentment_total, tags, line_count, created_at,
            status, units_to_ship, payment_status, fulfillment_status, open_holds, attributes, presentment_sums,
            updated_at, log_generation)
        SELECT i.*, i.created_at, log.generation
        -- One look at the log's generation for the chunk, not one per row. A fenced log takes no event, so the
        -- transaction cannot commit anyway.
        FROM (SELECT log_generation() AS generation) log, UNNEST($1::new_order[]) AS i
        -- In one order, so that two chunks with common sources wait for each other but never both ways.
        ORDER BY i.merchant_id, i.store_id, i.source_system, i.source_external_id
        ON CONFLICT DO NOTHING
        RETURNING order_id, merchant_id, store_id, tags
    ),
    tags AS (
        INSERT INTO order_tags (merchant_id, store_id, tag, order_id)
        SELECT DISTINCT p.merchant_id, p.store_id, t.tag, p.order_id
        FROM placed p, jsonb_array_elements_text(p.tags) AS t (tag)
    ),
    -- \"IS TRUE\" keeps the planner from turning the test into a join, whose size it would guess wrong: as it stands, the
    -- placed ids are hashed once.
    goods AS (
        INSERT INTO order_lines (
            order_id, merchant_id, store_id, line_id, position, sku, title, quantity, unit_price_minor, category,
            final_sale, digital, attributes, discounts, order_discount_minor, taxes, net_minor, total_minor)
        SELECT l.* FROM UNNEST($2::new_order_line[]) AS l
        WHERE (l.order_id IN (SELECT order_id FROM placed)) IS TRUE
    ),
    shipping AS (
        INSERT INTO order_shipping_lines (
            order_id, merchant_id, store_id, line_id, position, title, price_minor, discounts, taxes, net_minor, total_minor)
        SELECT s.* FROM UNNEST($3::new_order_shipping_line[]) AS s
        WHERE (s.order_id IN (SELECT order_id FROM placed)) IS TRUE
    ),
    contacts AS (
        INSERT INTO order_contacts (
            order_id, merchant_id, store_id, customer_key, customer_external_id, email, name, phone, shipping_address,
            billing_address, note)
        SELECT c.* FROM UNNEST($4::new_order_contact[]) AS c
        WHERE (c.order_id IN (SELECT order_id FROM placed)) IS TRUE
    ),
    entries AS (
        INSERT INTO order_timeline (
            order_id, merchant_id, store_id, event_id, service, type, summary, occurred_at, trace_id, subject_id,
            actor, cause, learned_at, payload, sequence, hash)
        SELECT t.* FROM UNNEST($5::new_order_entry[], $6::bigint[], $7::bytea[]) AS t
        WHERE (t.order_id IN (SELECT order_id FROM placed)) IS TRUE
    ),
    trails AS (
        INSERT INTO order_trails (order_id, count, hash)
        SELECT e.* FROM UNNEST($8::uuid[], $9::bigint[], $10::bytea[]) AS e (order_id)
        WHERE (e.order_id IN (SELECT order_id FROM placed)) IS TRUE
    )
    SELECT order_id FROM placed";

/// Writes orders with lines, shipping, contact and timeline, in one statement. Those whose source or number is taken are
/// left out with all that belongs to them; the others are returned.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn insert(
    conn: &mut PgConnection,
    placements: &[Placement<'_>],
) -> Result<HashSet<OrderId>, StoreError> {
    let orders = || placements.iter().map(|placement| placement.order);
    let entries = placements.iter().flat_map(|placement| {
        let order = placement.order;
        (placement.entries.iter()).map(|entry| NewEntry::of(order.tenant, order.id, entry))
    });
    let links = Links::of(placements);
    let placed: Vec<Uuid> = sqlx::query_scalar(INSERT)
        .bind(placements.iter().map(NewOrder::of).collect::<Vec<_>>())
        .bind(
            orders()
                .flat_map(|order| NewLine::from(order, 0))
                .collect::<Vec<_>>(),
        )
        .bind(orders().flat_map(NewShippingLine::all).collect::<Vec<_>>())
        .bind(placements.iter().filter_map(NewContact::of).collect::<Vec<_>>())
        .bind(entries.collect::<Vec<_>>())
        .bind(links.sequences)
        .bind(links.hashes)
        .bind(orders().map(|order| order.id.uuid()).collect::<Vec<_>>())
        .bind(links.counts)
        .bind(links.ends)
        .fetch_all(conn)
        .await?;
    Ok(placed.into_iter().map(OrderId::from).collect())
}

/// Links of the chains that begin with a placement, and the ends of these chains.
#[derive(Default)]
struct Links {
    sequences: Vec<i64>,
    hashes: Vec<Hash>,
    counts: Vec<i64>,
    ends: Vec<Hash>,
}

impl Links {
    fn of(placements: &[Placement<'_>]) -> Self {
        let mut c = Self::default();
        for Placement { order, entries, .. } in placements {
            let mut end = Link::NONE;
            for entry in *entries {
                end = end.next(&digest(order.tenant, order.id, entry));
                c.sequences.push(end.sequence);
                c.hashes.push(end.hash);
            }
            c.counts.push(end.sequence);
            c.ends.push(end.hash);
        }
        c
    }
}

/// Which of these customers of merchants, by pseudonym, have an order that stands: neither cancelled, nor held so far. Not
/// bound by store on purpose: a customer is one of the merchant.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn known_customers(
    conn: &mut PgConnection,
    customers: &[(MerchantId, &str)],
) -> Result<HashSet<(MerchantId, String)>, StoreError> {
    let (merchants, keys): (Vec<Uuid>, Vec<&str>) = (customers.iter())
        .map(|(merchant, key)| (merchant.uuid(), *key))
        .unzip();
    let known: Vec<(Uuid, String)> = sqlx::query_as(
        "SELECT w.merchant_id, w.customer_key
         FROM (SELECT DISTINCT * FROM UNNEST($1::uuid[], $2::text[]) AS u (merchant_id, customer_key)) w
         WHERE EXISTS (
             SELECT 1 FROM order_contacts c
             JOIN orders o ON (o.order_id, o.merchant_id, o.store_id) = (c.order_id, c.merchant_id, c.store_id)
             WHERE c.merchant_id = w.merchant_id AND c.customer_key = w.customer_key AND c.customer_key <> ''
               AND o.status NOT IN ('CANCELLED', 'ON_HOLD'))",
    )
    .bind(merchants)
    .bind(keys)
    .fetch_all(conn)
    .await?;
    Ok(known
        .into_iter()
        .map(|(merchant, key)| (merchant.into(), key))
        .collect())
}

/// Why an order was left out.
pub(crate) enum Taken {
    /// Its source was placed before, as this order.
    Source {
        /// The order.
        order_id: OrderId,
        /// Its number.
        number: String,
    },
    /// Its number belongs to another order.
    Number,
}

/// Tells, for orders that [`insert`] left out, what stood in the way; in the order they are given. `None` when nothing
/// stands there any more.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn taken(
    conn: &mut PgConnection,
    orders: &[(Tenant, &Source, &str)],
) -> Result<Vec<Option<Taken>>, StoreError> {
    let (merchants, stores) = tenants(orders.iter().map(|(tenant, ..)| *tenant));
    let rows: Vec<(Option<Uuid>, Option<String>, bool)> = sqlx::query_as(
        "SELECT o.order_id, o.number,
                EXISTS (SELECT 1 FROM orders n WHERE (n.merchant_id, n.store_id, n.number) = (i.merchant_id, i.store_id, i.number))
         FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[]) WITH ORDINALITY
              AS i (merchant_id, store_id, system, external_id, number, place)
         LEFT JOIN orders o ON (o.merchant_id, o.store_id, o.source_system, o.source_external_id)
                             = (i.merchant_id, i.store_id, i.system, i.external_id)
         ORDER BY i.place",
    )
    .bind(merchants)
    .bind(stores)
    .bind(orders.iter().map(|(_, source, _)| source.system.as_str()).collect::<Vec<_>>())
    .bind(orders.iter().map(|(_, source, _)| source.external_id.as_str()).collect::<Vec<_>>())
    .bind(orders.iter().map(|(.., number)| *number).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| match row {
            (Some(order_id), Some(number), _) => Some(Taken::Source {
                order_id: order_id.into(),
                number,
            }),
            (_, _, true) => Some(Taken::Number),
            _ => None,
        })
        .collect())
}
