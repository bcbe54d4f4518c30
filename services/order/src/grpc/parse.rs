//! Protobuf requests to domain values. Every fault is noted by field and parsing goes on, so that a caller learns all of
//! them at once; what has a fault is filled with something harmless until then.

use chrono::{DateTime, Utc};
use waybill_kernel::check::Violations;
use waybill_kernel::id::MerchantId;
use waybill_kernel::money::{Currency, Money};
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::r#type::v1 as common;
use waybill_rpc::auth::Caller;
use waybill_rpc::convert;
use waybill_store::RequestKey;

use crate::app::{Cancel, NewPayment};
use crate::domain::draft::{ClaimedTotals, Draft, DraftLine, DraftShipping};
use crate::domain::limits;
use crate::domain::order::{Address, Contact, Customer, Discount, Source, TaxLine, Tenant};
use crate::domain::payment::PaymentKind;
use crate::error::Error;
use crate::store::read::Key;

/// What was parsed, unless there was a fault.
pub(super) fn checked<T>(parsed: Option<T>, v: Violations) -> Result<T, Error> {
    match parsed {
        Some(parsed) if v.is_empty() => Ok(parsed),
        _ => Err(Error::Invalid(limits::listed(v))),
    }
}

/// The merchant and store that a request names.
pub(super) fn tenant(merchant_id: &str, store_id: &str, v: &mut Violations) -> Option<Tenant> {
    let tenant = convert::tenant(merchant_id, store_id, v)?;
    Some(Tenant {
        merchant: tenant.merchant_id,
        store: tenant.store_id,
    })
}

/// The key of a request: its own id, and the hash of everything else in it.
pub(super) fn request_key<M: prost::Message>(
    caller: &Caller,
    merchant: MerchantId,
    rpc: &'static str,
    request_id: &str,
    rest: &M,
) -> RequestKey {
    let parts = convert::request_key(caller, merchant, rpc, request_id, rest);
    RequestKey {
        merchant: parts.merchant,
        caller: parts.caller,
        rpc: parts.rpc,
        request_id: parts.request_id,
        hash: parts.hash,
    }
}

/// An order as a caller hands it in.
pub(super) fn draft(order: Option<proto::NewOrder>, v: &mut Violations) -> Option<Draft> {
    let Some(order) = order else {
        v.push("order", "is required");
        return None;
    };
    v.nested("order", |v| {
        // Amounts can only be read once it is known what they should be in.
        let currency = convert::currency("currency_code", &order.currency_code, v)?;
        let mut amounts = Amounts { currency };
        let lines = each("lines", order.lines, v, |line, v| amounts.line(line, v));
        let shipping = each("shipping_lines", order.shipping_lines, v, |line, v| {
            amounts.shipping(line, v)
        });
        let source = order.source.map(source);
        if source.is_none() {
            v.push("source", "is required: it makes the order recognisable");
        }
        Some(Draft {
            source: source.unwrap_or_else(|| self::source(proto::OrderSource::default())),
            number: order.number,
            placed_at: time("placed_at", order.placed_at.as_ref(), v)?,
            currency,
            prices_include_tax: order.prices_include_tax,
            lines,
            shipping,
            discounts: amounts.discounts(order.discounts, v),
            totals: claimed("totals", order.totals.unwrap_or_default(), v),
            contact: Contact {
                customer: order.customer.map(customer).unwrap_or_default(),
                shipping: order.shipping_address.map(address),
                billing: order.billing_address.map(address),
                note: order.note,
            },
            locale: order.locale,
            promised_ship_at: time("promised_ship_at", order.promised_ship_at.as_ref(), v)?,
            promised_delivery_at: time("promised_delivery_at", order.promised_delivery_at.as_ref(), v)?,
            presentment: presentment(
                &order.presentment_currency_code,
                order.presentment_total.as_ref(),
                v,
            ),
            presentment_totals: (order.presentment_totals)
                .map(|totals| claimed("presentment_totals", totals, v)),
            tags: order.tags,
            attributes: order.attributes,
        })
    })
}

/// Parses every element; stops looking once there are more faults than are told.
pub(super) fn each<T, U>(
    field: &str,
    elements: Vec<T>,
    v: &mut Violations,
    mut parse: impl FnMut(T, &mut Violations) -> U,
) -> Vec<U> {
    let mut parsed = Vec::with_capacity(elements.len());
    for (index, element) in elements.into_iter().enumerate() {
        if v.len() > limits::MAX_FAULTS {
            break;
        }
        parsed.push(v.element(field, index, |v| parse(element, v)));
    }
    parsed
}

/// Reads amounts that should be in one currency. Whether they are is checked with their prices.
pub(super) struct Amounts {
    currency: Currency,
}

impl Amounts {
    /// Amounts that stand beside this one; whatever it is in.
    pub(super) fn of(amount: Option<&common::Money>) -> Amounts {
        let currency = amount.and_then(|amount| Currency::parse(&amount.currency_code).ok());
        Amounts {
            // Only what is missing or unreadable is filled with it, and that is a fault.
            currency: currency.unwrap_or(Currency::EUR),
        }
    }

    /// An amount; nothing of the order's currency where there is none.
    fn amount(&self, field: &str, amount: Option<&common::Money>, v: &mut Violations) -> Money {
        match amount {
            // The usual case, without a look into the table of currencies.
            Some(amount) if amount.currency_code == self.currency.code() => {
                Money::new(self.currency, amount.minor_units)
            }
            other => convert::money(field, other, v).unwrap_or(Money::zero(self.currency)),
        }
    }

    pub(super) fn line(&mut self, line: proto::NewOrderLine, v: &mut Violations) -> DraftLine {
        DraftLine {
            unit_price: self.amount("unit_price", line.unit_price.as_ref(), v),
            discounts: self.discounts(line.discounts, v),
            taxes: self.taxes(line.taxes, v),
            sku: line.sku,
            title: line.title,
            quantity: line.quantity,
            category: line.category,
            final_sale: line.final_sale,
            digital: line.digital,
            attributes: line.attributes,
        }
    }

    fn shipping(&mut self, line: proto::NewShippingLine, v: &mut Violations) -> DraftShipping {
        DraftShipping {
            price: self.amount("price", line.price.as_ref(), v),
            discounts: self.discounts(line.discounts, v),
            taxes: self.taxes(line.taxes, v),
            title: line.title,
        }
    }

    pub(super) fn discounts(
        &mut self,
        discounts: Vec<proto::Discount>,
        v: &mut Violations,
    ) -> Vec<Discount<Money>> {
        each("discounts", discounts, v, |discount, v| Discount {
            amount: self.amount("amount", discount.amount.as_ref(), v),
            code: discount.code,
            title: discount.title,
        })
    }

    pub(super) fn taxes(&mut self, taxes: Vec<proto::TaxLine>, v: &mut Violations) -> Vec<TaxLine<Money>> {
        each("taxes", taxes, v, |tax, v| TaxLine {
            amount: self.amount("amount", tax.amount.as_ref(), v),
            jurisdiction: tax.jurisdiction,
            title: tax.title,
            rate_ppm: tax.rate_ppm,
        })
    }
}

fn claimed(field: &str, totals: proto::OrderTotals, v: &mut Violations) -> ClaimedTotals {
    v.nested(field, |v| {
        let mut claimed = |field, amount: Option<common::Money>| {
            amount.and_then(|amount| convert::money(field, Some(&amount), v))
        };
        ClaimedTotals {
            subtotal: claimed("subtotal", totals.subtotal),
            discounts: claimed("discounts", totals.discounts),
            shipping: claimed("shipping", totals.shipping),
            tax: claimed("tax", totals.tax),
            total: claimed("total", totals.total),
        }
    })
}

fn presentment(code: &str, total: Option<&common::Money>, v: &mut Violations) -> Option<Money> {
    match (code, total) {
        ("", None) => None,
        ("", Some(_)) => {
            v.push("presentment_currency_code", "is required with presentment_total");
            None
        }
        (code, total) => {
            let currency = convert::currency("presentment_currency_code", code, v);
            let total = convert::money("presentment_total", total, v);
            let (currency, total) = currency.zip(total)?;
            v.require(
                total.currency == currency,
                "presentment_total",
                format!(
                    "is in {}; expected {currency}, the presentment_currency_code",
                    total.currency
                ),
            );
            Some(total)
        }
    }
}

fn source(source: proto::OrderSource) -> Source {
    Source {
        system: source.system,
        external_id: source.external_id,
    }
}

pub(super) fn customer(customer: proto::Customer) -> Customer {
    Customer {
        external_id: customer.external_id,
        email: customer.email,
        name: customer.name,
        phone: customer.phone,
    }
}

pub(super) fn address(address: common::Address) -> Address {
    Address {
        name: address.name,
        company: address.company,
        lines: address.lines,
        city: address.city,
        region: address.region,
        postal_code: address.postal_code,
        country_code: address.country_code,
        phone: address.phone,
    }
}

/// How a caller names an order.
pub(super) fn key(key: Option<proto::get_order_request::Key>, v: &mut Violations) -> Option<Key> {
    use proto::get_order_request::Key as Named;
    match key {
        Some(Named::OrderId(text)) => convert::id("order_id", &text, v).map(Key::Id),
        Some(Named::Number(number)) => {
            limits::required(v, "number", &number, limits::MAX_NUMBER);
            Some(Key::Number(number))
        }
        Some(Named::Source(named)) => {
            let source = source(named);
            limits::source(&source, v);
            Some(Key::Source(source))
        }
        None => {
            v.push("key", "is required: one of order_id, number and source");
            None
        }
    }
}

/// A cancellation.
pub(super) fn cancel(
    tenant: Option<Tenant>,
    request: &proto::CancelOrderRequest,
    v: &mut Violations,
) -> Option<Cancel> {
    let order = convert::id("order_id", &request.order_id, v);
    limits::required(v, "reason", &request.reason, limits::MAX_REASON);
    limits::text(v, "etag", &request.etag, 100);
    Some(Cancel {
        tenant: tenant?,
        order: order?,
        reason: request.reason.clone(),
        etag: request.etag.clone(),
    })
}

/// A payment.
pub(super) fn payment(
    tenant: Option<Tenant>,
    request: &proto::RecordPaymentRequest,
    v: &mut Violations,
) -> Option<NewPayment> {
    let order = convert::optional_id("order_id", &request.order_id, v);
    let kind = convert::known("kind", request.kind, v).and_then(payment_kind);
    limits::key(v, "provider", &request.provider, "stripe");
    limits::required(
        v,
        "provider_payment_id",
        &request.provider_payment_id,
        limits::MAX_PROVIDER_PAYMENT_ID,
    );
    let amount = convert::money("amount", request.amount.as_ref(), v);
    if let Some(amount) = amount
        && amount.minor <= 0
    {
        v.push("amount", format!("is {amount}; expected more than 0"));
    }
    let occurred_at = time("occurred_at", request.occurred_at.as_ref(), v);
    if kind.is_some_and(PaymentKind::has_reason) {
        limits::text(v, "reason", &request.reason, limits::MAX_PAYMENT_REASON);
    } else if !request.reason.is_empty() {
        v.push("reason", "is only for failures and disputes; leave it out");
    }
    if kind.is_some_and(PaymentKind::is_dispute) {
        limits::required(
            v,
            "dispute_id",
            &request.dispute_id,
            limits::MAX_PROVIDER_PAYMENT_ID,
        );
    } else if !request.dispute_id.is_empty() {
        v.push("dispute_id", "is only for disputes; leave it out");
    }
    Some(NewPayment {
        tenant: tenant?,
        order: order?,
        kind: kind?,
        provider: request.provider.clone(),
        provider_payment_id: request.provider_payment_id.clone(),
        amount: amount?,
        occurred_at: occurred_at?,
        reason: request.reason.clone(),
        dispute_id: request.dispute_id.clone(),
    })
}

fn payment_kind(kind: proto::PaymentKind) -> Option<PaymentKind> {
    match kind {
        proto::PaymentKind::Unspecified => None,
        proto::PaymentKind::Authorization => Some(PaymentKind::Authorization),
        proto::PaymentKind::Capture => Some(PaymentKind::Capture),
        proto::PaymentKind::Void => Some(PaymentKind::Void),
        proto::PaymentKind::Failure => Some(PaymentKind::Failure),
        proto::PaymentKind::Dispute => Some(PaymentKind::Dispute),
        proto::PaymentKind::DisputeWon => Some(PaymentKind::DisputeWon),
        proto::PaymentKind::DisputeLost => Some(PaymentKind::DisputeLost),
    }
}

/// A time that may be left out, in whole microseconds: what is kept, so that an answer equals a later read.
pub(super) fn time(
    field: &str,
    time: Option<&prost_types::Timestamp>,
    v: &mut Violations,
) -> Option<Option<DateTime<Utc>>> {
    let time = convert::optional_timestamp(field, time, v)?;
    Some(time.and_then(|time| DateTime::from_timestamp_micros(time.timestamp_micros())))
}
