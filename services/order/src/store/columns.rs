//! Rows as columns: one struct per table, one array per column, as UNNEST takes them.
//!
//! The fields stand in the order of the statement's parameters, and `bind` binds them in that order: a column is added
//! in one place here and in one place there.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::QueryScalar;
use sqlx::types::Json;
use uuid::Uuid;
use waybill_kernel::id::OrderId;

use super::place::Placement;
use crate::domain::fact::TimelineEntry;
use crate::domain::order::{Address, Discount, Order, TaxLine, Tenant, Totals};
use crate::domain::trail::{Link, digest};

/// A statement that answers with ids.
pub(super) type Ids<'q> = QueryScalar<'q, Postgres, Uuid, PgArguments>;

macro_rules! columns {
    ($(#[$doc:meta])* $name:ident { $($column:ident: $kind:ty),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Default)]
        pub(super) struct $name<'a> {
            $($column: Vec<$kind>),+
        }

        impl<'a> $name<'a> {
            pub(super) fn bind(self, query: Ids<'a>) -> Ids<'a> {
                query$(.bind(self.$column))+
            }
        }
    };
}

columns! {
    /// Rows of `orders`.
    Orders {
        ids: Uuid,
        merchants: Uuid,
        stores: Uuid,
        numbers: &'a str,
        systems: &'a str,
        external_ids: &'a str,
        currencies: &'a str,
        inclusive: bool,
        subtotals: i64,
        discount_sums: i64,
        shipping: i64,
        taxes: i64,
        totals: i64,
        discounts: Json<&'a [Discount]>,
        locales: &'a str,
        placed_at: DateTime<Utc>,
        promised_ship_at: DateTime<Utc>,
        promised_delivery_at: Option<DateTime<Utc>>,
        presentment_currencies: Option<&'a str>,
        presentment_totals: Option<i64>,
        tags: Json<&'a [String]>,
        line_counts: i32,
        created_at: DateTime<Utc>,
        statuses: &'a str,
        units_to_ship: i64,
        payment_statuses: &'a str,
        fulfillment_statuses: &'a str,
    }
}

impl<'a> Orders<'a> {
    pub(super) fn of(placements: &[Placement<'a>]) -> Self {
        let mut c = Self::default();
        for Placement { order, number, .. } in placements {
            let (terms, state) = (&order.terms, &order.state);
            c.ids.push(order.id.uuid());
            c.merchants.push(order.tenant.merchant.uuid());
            c.stores.push(order.tenant.store.uuid());
            c.numbers.push(number);
            c.systems.push(&terms.source.system);
            c.external_ids.push(&terms.source.external_id);
            c.currencies.push(terms.currency.code());
            c.inclusive.push(terms.prices_include_tax);
            c.subtotals.push(terms.totals.subtotal);
            c.discount_sums.push(terms.totals.discounts);
            c.shipping.push(terms.totals.shipping);
            c.taxes.push(terms.totals.tax);
            c.totals.push(terms.totals.total);
            c.discounts.push(Json(&terms.discounts));
            c.locales.push(&terms.locale);
            c.placed_at.push(terms.placed_at);
            c.promised_ship_at.push(terms.promised_ship_at);
            c.promised_delivery_at.push(terms.promised_delivery_at);
            c.presentment_currencies
                .push(terms.presentment.map(|seen| seen.currency.code()));
            c.presentment_totals
                .push(terms.presentment.map(|seen| seen.minor));
            c.tags.push(Json(&terms.tags));
            c.line_counts
                .push(i32::try_from(terms.lines.len() + terms.shipping.len()).unwrap_or(i32::MAX));
            c.created_at.push(state.updated_at);
            c.statuses.push(state.status.as_str());
            c.units_to_ship.push(state.goods.to_ship);
            c.payment_statuses.push(state.payment_status().as_str());
            c.fulfillment_statuses.push(state.fulfillment_status().as_str());
        }
        c
    }
}

columns! {
    /// What was added to `orders` and `order_contacts` since their columns were laid out.
    Added {
        open_holds: i32,
        notes: &'a str,
        attributes: Json<&'a BTreeMap<String, String>>,
        presentment_sums: Option<Json<Sums>>,
    }
}

impl<'a> Added<'a> {
    pub(super) fn of(placements: &[Placement<'a>]) -> Self {
        let mut c = Self::default();
        for Placement { order, .. } in placements {
            c.open_holds.push(order.state.holds.cast_signed());
            // One for each row of `Contacts`.
            c.notes
                .extend(order.contact.iter().map(|contact| contact.note.as_str()));
            c.attributes.push(Json(&order.attributes));
            c.presentment_sums.push(
                order
                    .terms
                    .presentment_totals
                    .as_ref()
                    .map(|totals| Json(Sums::of(totals))),
            );
        }
        c
    }
}

/// Sums beside a total, as they are stored.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Sums {
    subtotal: i64,
    discounts: i64,
    shipping: i64,
    tax: i64,
}

impl Sums {
    fn of(totals: &Totals) -> Sums {
        Sums {
            subtotal: totals.subtotal,
            discounts: totals.discounts,
            shipping: totals.shipping,
            tax: totals.tax,
        }
    }

    /// The sums with their total.
    pub(super) fn totals(self, total: i64) -> Totals {
        Totals {
            subtotal: self.subtotal,
            discounts: self.discounts,
            shipping: self.shipping,
            tax: self.tax,
            total,
        }
    }
}

columns! {
    /// Rows of `order_lines`.
    Goods {
        orders: Uuid,
        merchants: Uuid,
        stores: Uuid,
        ids: Uuid,
        positions: i32,
        skus: &'a str,
        titles: &'a str,
        quantities: i32,
        unit_prices: i64,
        categories: &'a str,
        final_sales: bool,
        digital: bool,
        attributes: Json<&'a BTreeMap<String, String>>,
        discounts: Json<&'a [Discount]>,
        order_discounts: i64,
        taxes: Json<&'a [TaxLine]>,
        nets: i64,
        totals: i64,
    }
}

impl<'a> Goods<'a> {
    pub(super) fn of(placements: &[Placement<'a>]) -> Self {
        let mut c = Self::default();
        for Placement { order, .. } in placements {
            c.push(order, 0);
        }
        c
    }

    /// The lines of an order from this one on.
    pub(super) fn from(order: &'a Order, first: usize) -> Self {
        let mut c = Self::default();
        c.push(order, first);
        c
    }

    fn push(&mut self, order: &'a Order, first: usize) {
        for (position, line) in (0..).zip(&order.terms.lines).skip(first) {
            self.orders.push(order.id.uuid());
            self.merchants.push(order.tenant.merchant.uuid());
            self.stores.push(order.tenant.store.uuid());
            self.ids.push(line.id.uuid());
            self.positions.push(position);
            self.skus.push(&line.sku);
            self.titles.push(&line.title);
            self.quantities.push(line.quantity);
            self.unit_prices.push(line.unit_price);
            self.categories.push(&line.category);
            self.final_sales.push(line.final_sale);
            self.digital.push(line.digital);
            self.attributes.push(Json(&line.attributes));
            self.discounts.push(Json(&line.discounts));
            self.order_discounts.push(line.order_discount_share);
            self.taxes.push(Json(&line.taxes));
            self.nets.push(line.net);
            self.totals.push(line.total);
        }
    }
}

columns! {
    /// Rows of `order_shipping_lines`.
    Shipping {
        orders: Uuid,
        merchants: Uuid,
        stores: Uuid,
        ids: Uuid,
        positions: i32,
        titles: &'a str,
        prices: i64,
        discounts: Json<&'a [Discount]>,
        taxes: Json<&'a [TaxLine]>,
        nets: i64,
        totals: i64,
    }
}

impl<'a> Shipping<'a> {
    pub(super) fn of(placements: &[Placement<'a>]) -> Self {
        let mut c = Self::default();
        for Placement { order, .. } in placements {
            for (position, line) in (0..).zip(&order.terms.shipping) {
                c.orders.push(order.id.uuid());
                c.merchants.push(order.tenant.merchant.uuid());
                c.stores.push(order.tenant.store.uuid());
                c.ids.push(line.id.uuid());
                c.positions.push(position);
                c.titles.push(&line.title);
                c.prices.push(line.price);
                c.discounts.push(Json(&line.discounts));
                c.taxes.push(Json(&line.taxes));
                c.nets.push(line.net);
                c.totals.push(line.total);
            }
        }
        c
    }
}

columns! {
    /// Rows of `order_contacts`.
    Contacts {
        orders: Uuid,
        merchants: Uuid,
        stores: Uuid,
        customer_keys: &'a str,
        external_ids: &'a str,
        emails: &'a str,
        names: &'a str,
        phones: &'a str,
        shipping: Option<Json<&'a Address>>,
        billing: Option<Json<&'a Address>>,
    }
}

impl<'a> Contacts<'a> {
    pub(super) fn of(placements: &[Placement<'a>]) -> Self {
        let mut c = Self::default();
        for Placement {
            order, customer_key, ..
        } in placements
        {
            let Some(contact) = &order.contact else { continue };
            c.orders.push(order.id.uuid());
            c.merchants.push(order.tenant.merchant.uuid());
            c.stores.push(order.tenant.store.uuid());
            c.customer_keys.push(customer_key);
            c.external_ids.push(&contact.customer.external_id);
            c.emails.push(&contact.customer.email);
            c.names.push(&contact.customer.name);
            c.phones.push(&contact.customer.phone);
            c.shipping.push(contact.shipping.as_ref().map(Json));
            c.billing.push(contact.billing.as_ref().map(Json));
        }
        c
    }
}

columns! {
    /// Rows of `order_timeline`.
    Entries {
        orders: Uuid,
        merchants: Uuid,
        stores: Uuid,
        events: Uuid,
        services: &'a str,
        types: &'a str,
        summaries: &'a str,
        occurred_at: DateTime<Utc>,
        trace_ids: &'a str,
        subjects: Option<Uuid>,
    }
}

impl<'a> Entries<'a> {
    pub(super) fn of(entries: impl IntoIterator<Item = (OrderId, Tenant, &'a TimelineEntry)>) -> Self {
        let mut c = Self::default();
        for (order, tenant, entry) in entries {
            c.orders.push(order.uuid());
            c.merchants.push(tenant.merchant.uuid());
            c.stores.push(tenant.store.uuid());
            c.events.push(entry.event.uuid());
            c.services.push(&entry.service);
            c.types.push(&entry.type_name);
            c.summaries.push(&entry.summary);
            c.occurred_at.push(entry.occurred_at);
            c.trace_ids.push(&entry.trace_id);
            c.subjects.push(entry.subject);
        }
        c
    }
}

columns! {
    /// What else rows of `order_timeline` have: where entries come from.
    Origins {
        actors: &'a str,
        causes: &'a str,
        learned_at: Option<DateTime<Utc>>,
        payloads: Option<&'a [u8]>,
    }
}

impl<'a> Origins<'a> {
    pub(super) fn of(entries: impl IntoIterator<Item = &'a TimelineEntry>) -> Self {
        let mut c = Self::default();
        for entry in entries {
            c.actors.push(&entry.actor);
            c.causes.push(&entry.cause);
            c.learned_at.push(entry.learned_at);
            c.payloads.push(entry.payload.as_deref());
        }
        c
    }
}

/// Links of the chains that begin with a placement, and the ends of these chains.
#[derive(Default)]
pub(super) struct Links {
    sequences: Vec<i64>,
    hashes: Vec<Vec<u8>>,
    counts: Vec<i64>,
    ends: Vec<Vec<u8>>,
}

impl Links {
    pub(super) fn of(placements: &[Placement<'_>]) -> Self {
        let mut c = Self::default();
        for Placement { order, entries, .. } in placements {
            let mut end = Link::NONE;
            for entry in *entries {
                end = end.next(&digest(order.tenant, order.id, entry));
                c.sequences.push(end.sequence);
                c.hashes.push(end.hash.to_vec());
            }
            c.counts.push(end.sequence);
            c.ends.push(end.hash.to_vec());
        }
        c
    }

    pub(super) fn bind(self, query: Ids<'_>) -> Ids<'_> {
        (query.bind(self.sequences).bind(self.hashes))
            .bind(self.counts)
            .bind(self.ends)
    }
}
