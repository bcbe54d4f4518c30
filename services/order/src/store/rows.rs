//! Rows as the statements take them: one array for each table that is written, whose elements are rows.
//!
//! An array a column would be simpler, and dearer: each array of an UNNEST is a function to call and a store of its results, and
//! an order has 88 columns. So each table has a composite type (`new_order`, `new_order_line` ...), which a struct here mirrors: its fields
//! stand in the order of the type's, and Postgres refuses a row that has another number of fields or fields of other types.
//! A type is never changed, because the version of a service that runs beside this one may write it: a new column comes with
//! a new type.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::Postgres;
use sqlx::postgres::{PgHasArrayType, PgTypeInfo};
use sqlx::types::Json;
use uuid::Uuid;
use waybill_kernel::id::OrderId;

use super::place::Placement;
use crate::domain::fact::TimelineEntry;
use crate::domain::order::{Address, Discount, Line, Order, ShippingLine, TaxLine, Tenant, Totals};

macro_rules! rows {
    ($(#[$doc:meta])* $name:ident of $composite:literal { $($column:ident: $kind:ty),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(sqlx::Encode)]
        pub(super) struct $name<'a> {
            $($column: $kind),+
        }

        impl sqlx::Type<Postgres> for $name<'_> {
            fn type_info() -> PgTypeInfo {
                PgTypeInfo::with_name($composite)
            }
        }

        impl PgHasArrayType for $name<'_> {
            fn array_type_info() -> PgTypeInfo {
                PgTypeInfo::array_of($composite)
            }
        }
    };
}

rows! {
    /// A row of `orders`.
    NewOrder of "new_order" {
        order_id: Uuid,
        merchant_id: Uuid,
        store_id: Uuid,
        number: &'a str,
        source_system: &'a str,
        source_external_id: &'a str,
        currency: &'a str,
        prices_include_tax: bool,
        subtotal_minor: i64,
        discounts_minor: i64,
        shipping_minor: i64,
        tax_minor: i64,
        total_minor: i64,
        discounts: Json<&'a [Discount]>,
        locale: &'a str,
        placed_at: DateTime<Utc>,
        promised_ship_at: DateTime<Utc>,
        promised_delivery_at: Option<DateTime<Utc>>,
        presentment_currency: Option<&'a str>,
        presentment_total: Option<i64>,
        tags: Json<&'a [String]>,
        line_count: i32,
        created_at: DateTime<Utc>,
        status: &'a str,
        units_to_ship: i64,
        payment_status: &'a str,
        fulfillment_status: &'a str,
        open_holds: i32,
        attributes: Json<&'a BTreeMap<String, String>>,
        presentment_sums: Option<Json<Sums>>,
    }
}

impl<'a> NewOrder<'a> {
    pub(super) fn of(placement: &Placement<'a>) -> Self {
        let Placement { order, number, .. } = *placement;
        let (terms, state) = (&order.terms, &order.state);
        NewOrder {
            order_id: order.id.uuid(),
            merchant_id: order.tenant.merchant.uuid(),
            store_id: order.tenant.store.uuid(),
            number,
            source_system: &terms.source.system,
            source_external_id: &terms.source.external_id,
            currency: terms.currency.code(),
            prices_include_tax: terms.prices_include_tax,
            subtotal_minor: terms.totals.subtotal,
            discounts_minor: terms.totals.discounts,
            shipping_minor: terms.totals.shipping,
            tax_minor: terms.totals.tax,
            total_minor: terms.totals.total,
            discounts: Json(&terms.discounts),
            locale: &terms.locale,
            placed_at: terms.placed_at,
            promised_ship_at: terms.promised_ship_at,
            promised_delivery_at: terms.promised_delivery_at,
            presentment_currency: terms.presentment.map(|seen| seen.currency.code()),
            presentment_total: terms.presentment.map(|seen| seen.minor),
            tags: Json(&terms.tags),
            line_count: i32::try_from(terms.lines.len() + terms.shipping.len()).unwrap_or(i32::MAX),
            created_at: state.updated_at,
            status: state.status.as_str(),
            units_to_ship: state.goods.to_ship,
            payment_status: state.payment_status().as_str(),
            fulfillment_status: state.fulfillment_status().as_str(),
            open_holds: state.holds.cast_signed(),
            attributes: Json(&order.attributes),
            presentment_sums: (terms.presentment_totals.as_ref()).map(|totals| Json(Sums::of(totals))),
        }
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

rows! {
    /// A row of `order_lines`.
    NewLine of "new_order_line" {
        order_id: Uuid,
        merchant_id: Uuid,
        store_id: Uuid,
        line_id: Uuid,
        position: i32,
        sku: &'a str,
        title: &'a str,
        quantity: i32,
        unit_price_minor: i64,
        category: &'a str,
        final_sale: bool,
        digital: bool,
        attributes: Json<&'a BTreeMap<String, String>>,
        discounts: Json<&'a [Discount]>,
        order_discount_minor: i64,
        taxes: Json<&'a [TaxLine]>,
        net_minor: i64,
        total_minor: i64,
    }
}

impl<'a> NewLine<'a> {
    /// The lines of an order from this one on.
    pub(super) fn from(order: &'a Order, first: usize) -> impl Iterator<Item = Self> {
        let lines = (0..).zip(&order.terms.lines).skip(first);
        lines.map(|(position, line)| NewLine::of(order, position, line))
    }

    fn of(order: &'a Order, position: i32, line: &'a Line) -> Self {
        NewLine {
            order_id: order.id.uuid(),
            merchant_id: order.tenant.merchant.uuid(),
            store_id: order.tenant.store.uuid(),
            line_id: line.id.uuid(),
            position,
            sku: &line.sku,
            title: &line.title,
            quantity: line.quantity,
            unit_price_minor: line.unit_price,
            category: &line.category,
            final_sale: line.final_sale,
            digital: line.digital,
            attributes: Json(&line.attributes),
            discounts: Json(&line.discounts),
            order_discount_minor: line.order_discount_share,
            taxes: Json(&line.taxes),
            net_minor: line.net,
            total_minor: line.total,
        }
    }
}

rows! {
    /// A row of `order_shipping_lines`.
    NewShippingLine of "new_order_shipping_line" {
        order_id: Uuid,
        merchant_id: Uuid,
        store_id: Uuid,
        line_id: Uuid,
        position: i32,
        title: &'a str,
        price_minor: i64,
        discounts: Json<&'a [Discount]>,
        taxes: Json<&'a [TaxLine]>,
        net_minor: i64,
        total_minor: i64,
    }
}

impl<'a> NewShippingLine<'a> {
    pub(super) fn all(order: &'a Order) -> impl Iterator<Item = Self> {
        let lines = (0..).zip(&order.terms.shipping);
        lines.map(|(position, line)| NewShippingLine::of(order, position, line))
    }

    fn of(order: &'a Order, position: i32, line: &'a ShippingLine) -> Self {
        NewShippingLine {
            order_id: order.id.uuid(),
            merchant_id: order.tenant.merchant.uuid(),
            store_id: order.tenant.store.uuid(),
            line_id: line.id.uuid(),
            position,
            title: &line.title,
            price_minor: line.price,
            discounts: Json(&line.discounts),
            taxes: Json(&line.taxes),
            net_minor: line.net,
            total_minor: line.total,
        }
    }
}

rows! {
    /// A row of `order_contacts`.
    NewContact of "new_order_contact" {
        order_id: Uuid,
        merchant_id: Uuid,
        store_id: Uuid,
        customer_key: &'a str,
        customer_external_id: &'a str,
        email: &'a str,
        name: &'a str,
        phone: &'a str,
        shipping_address: Option<Json<&'a Address>>,
        billing_address: Option<Json<&'a Address>>,
        note: &'a str,
    }
}

impl<'a> NewContact<'a> {
    pub(super) fn of(placement: &Placement<'a>) -> Option<Self> {
        let Placement {
            order, customer_key, ..
        } = *placement;
        let contact = order.contact.as_ref()?;
        Some(NewContact {
            order_id: order.id.uuid(),
            merchant_id: order.tenant.merchant.uuid(),
            store_id: order.tenant.store.uuid(),
            customer_key,
            customer_external_id: &contact.customer.external_id,
            email: &contact.customer.email,
            name: &contact.customer.name,
            phone: &contact.customer.phone,
            shipping_address: contact.shipping.as_ref().map(Json),
            billing_address: contact.billing.as_ref().map(Json),
            note: &contact.note,
        })
    }
}

rows! {
    /// A row of `order_timeline`, without its link: where that comes from differs.
    NewEntry of "new_order_entry" {
        order_id: Uuid,
        merchant_id: Uuid,
        store_id: Uuid,
        event_id: Uuid,
        service: &'a str,
        entry_type: &'a str,
        summary: &'a str,
        occurred_at: DateTime<Utc>,
        trace_id: &'a str,
        subject_id: Option<Uuid>,
        actor: &'a str,
        cause: &'a str,
        learned_at: Option<DateTime<Utc>>,
        payload: Option<&'a [u8]>,
    }
}

impl<'a> NewEntry<'a> {
    pub(super) fn of(tenant: Tenant, order: OrderId, entry: &'a TimelineEntry) -> Self {
        NewEntry {
            order_id: order.uuid(),
            merchant_id: tenant.merchant.uuid(),
            store_id: tenant.store.uuid(),
            event_id: entry.event.uuid(),
            service: &entry.service,
            entry_type: &entry.type_name,
            summary: &entry.summary,
            occurred_at: entry.occurred_at,
            trace_id: &entry.trace_id,
            subject_id: entry.subject,
            actor: &entry.actor,
            cause: &entry.cause,
            learned_at: entry.learned_at,
            payload: entry.payload.as_deref(),
        }
    }
}
