//! Reading orders: whole ones by id, number or source, and keys of a page.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use sqlx::PgExecutor;
use sqlx::types::Json;
use uuid::Uuid;
use waybill_kernel::id::{CancellationId, OrderId, PaymentId};
use waybill_kernel::money::{Currency, Money as Amount};
use waybill_store::StoreError;

use super::attempts::AttemptRow;
use super::rows::Sums;
use super::stored;
use super::whole::{BY_ID, BY_IDS, BY_NUMBER, BY_OWNERS, BY_SOURCE};
use crate::domain::attempt::Attempt;
use crate::domain::cancellation::{Cancellation, CancelledUnits};
use crate::domain::edit::Edited;
use crate::domain::goods::Goods;
use crate::domain::hold::{Hold, HoldReason, Release};
use crate::domain::order::{
    Address, Contact, Customer, Discount, Line, Order, Payment, ShippingLine, Source, TaxLine, Tenant, Terms,
    Totals,
};
use crate::domain::payment::{Money, PaymentKind};
use crate::domain::returns::ReturnStatus;
use crate::domain::state::{State, Status};

/// How one order is named.
pub(crate) enum Key {
    /// By id.
    Id(OrderId),
    /// By the number the customer knows.
    Number(String),
    /// By where it came from.
    Source(Source),
}

/// What every query of the changing parts of orders selects.
macro_rules! state_columns {
    () => {
        "order_id, merchant_id, store_id, currency, status, cancel_reason, total_minor, authorized_minor, voided_minor, \
         captured_minor, refunded_minor, payments, units_to_ship, units_shipped, units_delivered, return_status, version, \
         updated_at, open_holds, units_cancelled, cancelled_minor, added_minor, owed_back_minor, capturing_minor, \
         disputed_minor, dispute_lost_minor"
    };
}
pub(super) use state_columns;

/// The parts of an order that change.
#[derive(sqlx::FromRow)]
pub(super) struct StateRow {
    pub(super) order_id: Uuid,
    pub(super) merchant_id: Uuid,
    pub(super) store_id: Uuid,
    pub(super) currency: String,
    status: String,
    cancel_reason: String,
    total_minor: i64,
    authorized_minor: i64,
    voided_minor: i64,
    captured_minor: i64,
    refunded_minor: i64,
    payments: i32,
    units_to_ship: i64,
    units_shipped: i64,
    units_delivered: i64,
    return_status: String,
    version: i64,
    updated_at: DateTime<Utc>,
    open_holds: i32,
    units_cancelled: i64,
    cancelled_minor: i64,
    added_minor: i64,
    owed_back_minor: i64,
    capturing_minor: i64,
    disputed_minor: i64,
    dispute_lost_minor: i64,
}

impl StateRow {
    pub(super) fn tenant(&self) -> Tenant {
        Tenant {
            merchant: self.merchant_id.into(),
            store: self.store_id.into(),
        }
    }

    pub(super) fn state(self) -> Result<State, StoreError> {
        Ok(State {
            status: stored(Status::parse(&self.status), "status", &self.status)?,
            money: Money {
                total: self.total_minor,
                authorized: self.authorized_minor,
                voided: self.voided_minor,
                captured: self.captured_minor,
                refunded: self.refunded_minor,
                cancelled: self.cancelled_minor,
                added: self.added_minor,
                owed_back: self.owed_back_minor,
                capturing: self.capturing_minor,
                disputed: self.disputed_minor,
                dispute_lost: self.dispute_lost_minor,
            },
            goods: Goods {
                to_ship: self.units_to_ship,
                shipped: self.units_shipped,
                delivered: self.units_delivered,
                cancelled: self.units_cancelled,
            },
            returns: stored(
                ReturnStatus::parse(&self.return_status),
                "return_status",
                &self.return_status,
            )?,
            cancel_reason: self.cancel_reason,
            payments: u32::try_from(self.payments).map_err(StoreError::decode)?,
            holds: u32::try_from(self.open_holds).map_err(StoreError::decode)?,
            version: self.version,
            updated_at: self.updated_at,
        })
    }
}

pub(super) fn currency(code: &str) -> Result<Currency, StoreError> {
    stored(Currency::parse(code).ok(), "currency", code)
}

#[derive(sqlx::FromRow)]
struct OrderRow {
    #[sqlx(flatten)]
    state: StateRow,
    number: String,
    source_system: String,
    source_external_id: String,
    prices_include_tax: bool,
    subtotal_minor: i64,
    discounts_minor: i64,
    shipping_minor: i64,
    tax_minor: i64,
    discounts: Json<Vec<Discount>>,
    locale: String,
    placed_at: DateTime<Utc>,
    promised_ship_at: DateTime<Utc>,
    promised_delivery_at: Option<DateTime<Utc>>,
    presentment_currency: Option<String>,
    presentment_total: Option<i64>,
    presentment_sums: Option<Json<Sums>>,
    tags: Json<Vec<String>>,
    attributes: Json<BTreeMap<String, String>>,
    created_at: DateTime<Utc>,
    contact: Option<Json<ContactRow>>,
    lines: Json<Vec<LineRow>>,
    shipping_lines: Json<Vec<ShippingRow>>,
    payment_rows: Json<Vec<PaymentRow>>,
    hold_rows: Json<Vec<HoldRow>>,
    cancellation_rows: Json<Vec<CancellationRow>>,
    edit_rows: Json<Vec<EditRow>>,
    attempt_rows: Json<Vec<AttemptRow>>,
}

/// A row of `order_contacts`.
#[derive(Deserialize)]
pub(super) struct ContactRow {
    customer_external_id: String,
    email: String,
    name: String,
    phone: String,
    shipping_address: Option<Address>,
    billing_address: Option<Address>,
    note: String,
}

#[derive(Deserialize)]
struct LineRow {
    line_id: Uuid,
    sku: String,
    title: String,
    quantity: i32,
    unit_price_minor: i64,
    category: String,
    final_sale: bool,
    digital: bool,
    attributes: BTreeMap<String, String>,
    discounts: Vec<Discount>,
    order_discount_minor: i64,
    taxes: Vec<TaxLine>,
    net_minor: i64,
    total_minor: i64,
    added_version: i64,
    units_shipped: i32,
}

#[derive(Deserialize)]
struct ShippingRow {
    line_id: Uuid,
    title: String,
    price_minor: i64,
    discounts: Vec<Discount>,
    taxes: Vec<TaxLine>,
    net_minor: i64,
    total_minor: i64,
}

#[derive(Deserialize)]
struct PaymentRow {
    payment_id: Uuid,
    kind: String,
    provider: String,
    provider_payment_id: String,
    amount_minor: i64,
    occurred_at: DateTime<Utc>,
    reason: String,
    dispute_id: String,
    attempt_id: Option<Uuid>,
}

#[derive(Deserialize)]
struct CancellationRow {
    cancellation_id: Uuid,
    reason: String,
    restock: bool,
    lines: Vec<CancelledUnits>,
    cancelled_at: DateTime<Utc>,
    version: i64,
}

#[derive(Deserialize)]
struct EditRow {
    edit_id: Uuid,
    reason: String,
    cancellation_id: Option<Uuid>,
    added_minor: i64,
    edited_at: DateTime<Utc>,
    version: i64,
}

#[derive(Deserialize)]
struct HoldRow {
    hold_id: Uuid,
    reason: String,
    rule: String,
    note: String,
    held_at: DateTime<Utc>,
    held_version: i64,
    released_at: Option<DateTime<Utc>>,
    released_version: Option<i64>,
    release_note: String,
}

impl OrderRow {
    fn order(self) -> Result<Placed, StoreError> {
        let currency = currency(&self.state.currency)?;
        let totals = Totals {
            subtotal: self.subtotal_minor,
            discounts: self.discounts_minor,
            shipping: self.shipping_minor,
            tax: self.tax_minor,
            total: self.state.total_minor,
        };
        let presentment = match (&self.presentment_currency, self.presentment_total) {
            (Some(code), Some(minor)) => Some(Amount::new(self::currency(code)?, minor)),
            _ => None,
        };
        let presentment_totals = presentment.zip(self.presentment_sums);
        let terms = Terms {
            number: self.number,
            source: Source {
                system: self.source_system,
                external_id: self.source_external_id,
            },
            currency,
            prices_include_tax: self.prices_include_tax,
            lines: self.lines.0.into_iter().map(Line::from).collect(),
            shipping: self
                .shipping_lines
                .0
                .into_iter()
                .map(ShippingLine::from)
                .collect(),
            discounts: self.discounts.0,
            totals,
            locale: self.locale,
            placed_at: self.placed_at,
            promised_ship_at: self.promised_ship_at,
            promised_delivery_at: self.promised_delivery_at,
            presentment,
            presentment_totals: presentment_totals.map(|(seen, sums)| sums.0.totals(seen.minor)),
            tags: self.tags.0,
        };
        let payments = self
            .payment_rows
            .0
            .into_iter()
            .map(Payment::try_from)
            .collect::<Result<_, _>>()?;
        let holds = (self.hold_rows.0.into_iter())
            .map(Hold::try_from)
            .collect::<Result<_, _>>()?;
        let order = Order {
            id: self.state.order_id.into(),
            tenant: self.state.tenant(),
            terms,
            contact: self.contact.map(|contact| contact.0.into()),
            attributes: self.attributes.0,
            payments,
            holds,
            cancellations: (self.cancellation_rows.0.into_iter())
                .map(Cancellation::from)
                .collect(),
            edits: self.edit_rows.0.into_iter().map(Edited::from).collect(),
            attempts: (self.attempt_rows.0.into_iter())
                .map(Attempt::try_from)
                .collect::<Result<_, _>>()?,
            state: self.state.state()?,
        };
        Ok(Placed {
            order,
            created_at: self.created_at,
        })
    }
}

impl From<ContactRow> for Contact {
    fn from(row: ContactRow) -> Contact {
        Contact {
            customer: Customer {
                external_id: row.customer_external_id,
                email: row.email,
                name: row.name,
                phone: row.phone,
            },
            shipping: row.shipping_address,
            billing: row.billing_address,
            note: row.note,
        }
    }
}

impl From<LineRow> for Line {
    fn from(row: LineRow) -> Line {
        Line {
            id: row.line_id.into(),
            sku: row.sku,
            title: row.title,
            quantity: row.quantity,
            unit_price: row.unit_price_minor,
            category: row.category,
            final_sale: row.final_sale,
            digital: row.digital,
            attributes: row.attributes,
            discounts: row.discounts,
            order_discount_share: row.order_discount_minor,
            taxes: row.taxes,
            net: row.net_minor,
            total: row.total_minor,
            added_version: row.added_version,
            shipped: row.units_shipped,
        }
    }
}

impl From<ShippingRow> for ShippingLine {
    fn from(row: ShippingRow) -> ShippingLine {
        ShippingLine {
            id: row.line_id.into(),
            title: row.title,
            price: row.price_minor,
            discounts: row.discounts,
            taxes: row.taxes,
            net: row.net_minor,
            total: row.total_minor,
        }
    }
}

impl TryFrom<PaymentRow> for Payment {
    type Error = StoreError;

    fn try_from(row: PaymentRow) -> Result<Payment, StoreError> {
        Ok(Payment {
            id: row.payment_id.into(),
            kind: stored(PaymentKind::parse(&row.kind), "kind", &row.kind)?,
            provider: row.provider,
            provider_payment_id: row.provider_payment_id,
            amount: row.amount_minor,
            occurred_at: row.occurred_at,
            reason: row.reason,
            dispute_id: row.dispute_id,
            attempt: row.attempt_id.map(PaymentId::from),
        })
    }
}

impl From<CancellationRow> for Cancellation {
    fn from(row: CancellationRow) -> Cancellation {
        Cancellation {
            id: row.cancellation_id.into(),
            reason: row.reason,
            restock: row.restock,
            lines: row.lines,
            at: row.cancelled_at,
            version: row.version,
        }
    }
}

impl From<EditRow> for Edited {
    fn from(row: EditRow) -> Edited {
        Edited {
            id: row.edit_id.into(),
            reason: row.reason,
            cancellation: row.cancellation_id.map(CancellationId::from),
            added: row.added_minor,
            at: row.edited_at,
            version: row.version,
        }
    }
}

impl TryFrom<HoldRow> for Hold {
    type Error = StoreError;

    fn try_from(row: HoldRow) -> Result<Hold, StoreError> {
        let note = row.release_note;
        Ok(Hold {
            id: row.hold_id.into(),
            reason: stored(HoldReason::parse(&row.reason), "reason", &row.reason)?,
            rule: row.rule,
            note: row.note,
            held_at: row.held_at,
            held_version: row.held_version,
            released: (row.released_at.zip(row.released_version)).map(|(at, version)| Release {
                at,
                version,
                note,
            }),
        })
    }
}

/// An order with the time at which this service took it.
pub(crate) struct Placed {
    /// The order.
    pub order: Order,
    /// When it was taken.
    pub created_at: DateTime<Utc>,
}

/// One order of a tenant.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn find(
    executor: impl PgExecutor<'_>,
    tenant: Tenant,
    key: &Key,
) -> Result<Option<Placed>, StoreError> {
    let query = match key {
        Key::Id(id) => sqlx::query_as::<_, OrderRow>(BY_ID)
            .bind(tenant.merchant.uuid())
            .bind(tenant.store.uuid())
            .bind(id.uuid()),
        Key::Number(number) => sqlx::query_as(BY_NUMBER)
            .bind(tenant.merchant.uuid())
            .bind(tenant.store.uuid())
            .bind(number),
        Key::Source(source) => sqlx::query_as(BY_SOURCE)
            .bind(tenant.merchant.uuid())
            .bind(tenant.store.uuid())
            .bind(&source.system)
            .bind(&source.external_id),
    };
    query
        .fetch_optional(executor)
        .await?
        .map(OrderRow::order)
        .transpose()
}

/// Orders of a tenant, in the order of the ids; those it does not have are left out.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn by_ids(
    executor: impl PgExecutor<'_>,
    tenant: Tenant,
    ids: &[OrderId],
) -> Result<Vec<Placed>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<OrderRow> = sqlx::query_as(BY_IDS)
        .bind(tenant.merchant.uuid())
        .bind(tenant.store.uuid())
        .bind(ids.iter().map(|id| id.uuid()).collect::<Vec<_>>())
        .fetch_all(executor)
        .await?;
    rows.into_iter().map(OrderRow::order).collect()
}

/// Orders of several tenants, each once, in no order; those that are not their tenant's are left out.
///
/// # Errors
///
/// As the database answers.
pub(crate) async fn by_owners(
    executor: impl PgExecutor<'_>,
    wanted: &[(Tenant, OrderId)],
) -> Result<Vec<Placed>, StoreError> {
    let mut merchants = Vec::with_capacity(wanted.len());
    let mut stores = Vec::with_capacity(wanted.len());
    let mut orders = Vec::with_capacity(wanted.len());
    for (tenant, order) in wanted {
        merchants.push(tenant.merchant.uuid());
        stores.push(tenant.store.uuid());
        orders.push(order.uuid());
    }
    let rows: Vec<OrderRow> = sqlx::query_as(BY_OWNERS)
        .bind(merchants)
        .bind(stores)
        .bind(orders)
        .fetch_all(executor)
        .await?;
    rows.into_iter().map(OrderRow::order).collect()
}
