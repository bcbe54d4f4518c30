//! What this service tells the others: domain facts as protobuf events, each with its entry on the order's timeline.
//!
//! Events carry ids, amounts and keys and no personal data (O-10).

pub(crate) mod read;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use prost::{Message, Name};
use waybill_events::NewEvent;
use waybill_kernel::id::{EventId, HoldId, LineId, OrderId};
use waybill_kernel::money::Money;
use waybill_proto::waybill::order::v1 as proto;
use waybill_rpc::convert::to_timestamp;
use waybill_store::Origin;

use crate::domain::cancellation::{Cancellation, CancelledUnits, OrderedLine};
use crate::domain::change::Path;
use crate::domain::edit::Edited;
use crate::domain::fact::{Fact, TimelineEntry};
use crate::domain::hold::{Hold, HoldReason};
use crate::domain::order::{Line, Order, Payment, ShippingLine, TaxLine, Tenant};
use crate::domain::state::State;

/// This service, as the timeline names it.
pub(crate) const SERVICE: &str = "order";

/// An order's place in log and timeline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About {
    /// Whose order.
    pub tenant: Tenant,
    /// The order.
    pub order: OrderId,
    /// Its version after the change.
    pub version: i64,
    /// When it changed.
    pub at: DateTime<Utc>,
}

/// An event and its entry on the timeline.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    /// For the log.
    pub event: NewEvent,
    /// For the timeline.
    pub entry: TimelineEntry,
}

impl Told {
    /// Tells a fact, on behalf of whoever asked for what is being done ([`Origin::current`]), else of this service.
    /// `traceparent` is the span it belongs to.
    pub(crate) fn new<M: Message + Name>(
        about: About,
        message: &M,
        fact: &Fact,
        traceparent: Option<&str>,
    ) -> Told {
        let About {
            tenant,
            order,
            version,
            at,
        } = about;
        let origin = Origin::current().unwrap_or_else(|| Origin::service(SERVICE, ""));
        let event = NewEvent::new(tenant.merchant, tenant.store, order, order, version, message, at)
            .traced(traceparent.map(str::to_owned))
            .on_behalf(origin.clone());
        let entry = TimelineEntry {
            event: event.id(),
            service: SERVICE.to_owned(),
            type_name: M::full_name(),
            summary: fact.summary(),
            occurred_at: at,
            trace_id: traceparent.map(trace_id).unwrap_or_default(),
            subject: fact.subject(),
            actor: origin.actor,
            cause: origin.cause,
            learned_at: None,
            payload: None,
            link: None,
        };
        Told { event, entry }
    }

    /// Says who and what it comes from, where that is not what is being done.
    pub(crate) fn on_behalf(mut self, origin: Origin) -> Told {
        self.event = self.event.on_behalf(origin.clone());
        (self.entry.actor, self.entry.cause) = (origin.actor, origin.cause);
        self
    }
}

/// What a rule of this service's settings does, because of an event.
pub(crate) fn by_rule(rule: &str, cause: EventId) -> Origin {
    Origin::service(&format!("{SERVICE}/{rule}"), cause)
}

/// The trace id in a `traceparent`; empty when it is none.
pub(crate) fn trace_id(traceparent: &str) -> String {
    (traceparent.split('-').nth(1).filter(|id| id.len() == 32))
        .unwrap_or_default()
        .to_owned()
}

/// The event of an order that was placed. Its number is empty while the store has not assigned one.
pub(crate) fn placed(order: &Order, customer_key: &str) -> proto::OrderPlaced {
    let terms = &order.terms;
    let country = order
        .contact
        .as_ref()
        .and_then(|contact| contact.shipping.as_ref());
    proto::OrderPlaced {
        order_id: order.id.to_string(),
        number: terms.number.clone(),
        source_system: terms.source.system.clone(),
        currency_code: terms.currency.code().to_owned(),
        prices_include_tax: terms.prices_include_tax,
        lines: terms.lines.iter().map(placed_line).collect(),
        shipping_lines: terms.shipping.iter().map(placed_shipping).collect(),
        subtotal_minor: terms.totals.subtotal,
        discounts_minor: terms.totals.discounts,
        shipping_minor: terms.totals.shipping,
        tax_minor: terms.totals.tax,
        total_minor: terms.totals.total,
        ship_country: country
            .map(|address| address.country_code.clone())
            .unwrap_or_default(),
        placed_at: Some(to_timestamp(terms.placed_at)),
        promised_ship_at: Some(to_timestamp(terms.promised_ship_at)),
        promised_delivery_at: terms.promised_delivery_at.map(to_timestamp),
        customer_key: customer_key.to_owned(),
    }
}

fn placed_line(line: &Line) -> proto::PlacedLine {
    proto::PlacedLine {
        line_id: line.id.to_string(),
        sku: line.sku.clone(),
        quantity: line.quantity,
        unit_price_minor: line.unit_price,
        net_minor: line.net,
        taxes: line.taxes.iter().map(placed_tax).collect(),
        category: line.category.clone(),
        final_sale: line.final_sale,
        digital: line.digital,
    }
}

fn placed_shipping(line: &ShippingLine) -> proto::PlacedShipping {
    proto::PlacedShipping {
        line_id: line.id.to_string(),
        net_minor: line.net,
        taxes: line.taxes.iter().map(placed_tax).collect(),
    }
}

fn placed_tax(tax: &TaxLine) -> proto::PlacedTax {
    proto::PlacedTax {
        jurisdiction: tax.jurisdiction.clone(),
        title: tax.title.clone(),
        rate_ppm: tax.rate_ppm,
        amount_minor: tax.amount,
    }
}

/// What the timeline says about a placement.
pub(crate) fn placed_fact(order: &Order) -> Fact {
    Fact::Placed {
        units: order
            .terms
            .lines
            .iter()
            .map(|line| i64::from(line.quantity))
            .sum(),
        total: Money::new(order.terms.currency, order.terms.totals.total),
    }
}

/// An order was completed.
pub(crate) fn completed(about: About, traceparent: Option<&str>) -> Told {
    let message = proto::OrderCompleted {
        order_id: about.order.to_string(),
    };
    Told::new(about, &message, &Fact::Completed, traceparent)
}

/// Something about an order was changed. The event names what, and never the values (O-10).
pub(crate) fn updated(about: About, paths: BTreeSet<Path>, traceparent: Option<&str>) -> Told {
    let message = proto::OrderUpdated {
        order_id: about.order.to_string(),
        paths: paths.iter().map(|path| path.as_str().to_owned()).collect(),
    };
    Told::new(about, &message, &Fact::Updated { paths }, traceparent)
}

/// Who placed an order was forgotten.
pub(crate) fn contact_erased(about: About, traceparent: Option<&str>) -> Told {
    let message = proto::OrderContactErased {
        order_id: about.order.to_string(),
    };
    Told::new(about, &message, &Fact::ContactErased, traceparent)
}

/// An order was stopped. What the hold's note says stays here (O-10).
pub(crate) fn held(about: About, hold: &Hold, open: u32, traceparent: Option<&str>) -> Told {
    let message = proto::OrderHeld {
        order_id: about.order.to_string(),
        hold_id: hold.id.to_string(),
        reason: hold.reason.as_str().to_owned(),
        rule: hold.rule.clone(),
        open_holds: open.cast_signed(),
    };
    let fact = Fact::Held {
        hold: hold.id,
        reason: hold.reason,
        rule: hold.rule.clone(),
    };
    Told::new(about, &message, &fact, traceparent)
}

/// A hold of an order has ended; `left` are still open.
pub(crate) fn released(
    about: About,
    hold: HoldId,
    reason: HoldReason,
    left: u32,
    traceparent: Option<&str>,
) -> Told {
    let message = proto::OrderReleased {
        order_id: about.order.to_string(),
        hold_id: hold.to_string(),
        reason: reason.as_str().to_owned(),
        open_holds: left.cast_signed(),
    };
    Told::new(
        about,
        &message,
        &Fact::HoldEnded { hold, reason, left },
        traceparent,
    )
}

/// An order was cancelled.
pub(crate) fn cancelled(about: About, state: &State, captured: Money, traceparent: Option<&str>) -> Told {
    let message = proto::OrderCancelled {
        order_id: about.order.to_string(),
        reason: state.cancel_reason.clone(),
        currency_code: captured.currency.code().to_owned(),
        captured_minor: captured.minor,
    };
    let fact = Fact::Cancelled {
        reason: state.cancel_reason.clone(),
    };
    Told::new(about, &message, &fact, traceparent)
}

/// Units of lines were cancelled; others are left. So much of what was captured goes back for them.
pub(crate) fn lines_cancelled(
    about: About,
    cancellation: &Cancellation,
    lines: &BTreeMap<LineId, OrderedLine>,
    refund: Money,
    traceparent: Option<&str>,
) -> Told {
    let currency = refund.currency;
    let line = |part: &CancelledUnits| {
        let of = lines.get(&part.line);
        proto::CancelledLine {
            line_id: part.line.to_string(),
            sku: of.map(|of| of.sku.clone()).unwrap_or_default(),
            first_unit: part.first,
            quantity: part.units,
            net_minor: part.net,
            tax_minor: part.tax,
            digital: of.is_some_and(|of| of.digital),
        }
    };
    let message = proto::OrderLinesCancelled {
        order_id: about.order.to_string(),
        cancellation_id: cancellation.id.to_string(),
        reason: cancellation.reason.clone(),
        restock: cancellation.restock,
        currency_code: currency.code().to_owned(),
        lines: cancellation.lines.iter().map(line).collect(),
        amount_minor: cancellation.amount(),
        refund_minor: Some(refund.minor),
    };
    let fact = Fact::UnitsCancelled {
        cancellation: cancellation.id,
        units: cancellation.lines.iter().map(|part| i64::from(part.units)).sum(),
        amount: Money::new(currency, cancellation.amount()),
        reason: cancellation.reason.clone(),
    };
    Told::new(about, &message, &fact, traceparent)
}

/// What is ordered was changed, as the order with it says.
pub(crate) fn edited(order: &Order, edit: &Edited) -> (proto::OrderEdited, Fact) {
    let currency = order.terms.currency;
    let removed = |part: &CancelledUnits| {
        let of = order.terms.lines.iter().find(|line| line.id == part.line);
        proto::CancelledLine {
            line_id: part.line.to_string(),
            sku: of.map(|of| of.sku.clone()).unwrap_or_default(),
            first_unit: part.first,
            quantity: part.units,
            net_minor: part.net,
            tax_minor: part.tax,
            digital: of.is_some_and(|of| of.digital),
        }
    };
    let removal = edit.removal(order);
    let removed_parts = removal
        .map(|removal| removal.lines.as_slice())
        .unwrap_or_default();
    let removed_minor = removal.map(Cancellation::amount).unwrap_or_default();
    let message = proto::OrderEdited {
        order_id: order.id.to_string(),
        edit_id: edit.id.to_string(),
        reason: edit.reason.clone(),
        currency_code: currency.code().to_owned(),
        prices_include_tax: order.terms.prices_include_tax,
        added: edit.lines(order).map(placed_line).collect(),
        removed: removed_parts.iter().map(removed).collect(),
        cancellation_id: edit.cancellation.map(|id| id.to_string()).unwrap_or_default(),
        restock: removal.is_none_or(|removal| removal.restock),
        added_minor: edit.added,
        added_discounts_minor: (edit.lines(order).flat_map(|line| &line.discounts))
            .map(|discount| discount.amount)
            .sum(),
        removed_minor,
        due_minor: order.state.money.due(),
        refund_minor: order.state.money.overpaid(),
    };
    let fact = Fact::Edited {
        edit: edit.id,
        added: (
            edit.lines(order).map(|line| i64::from(line.quantity)).sum(),
            Money::new(currency, edit.added),
        ),
        removed: (
            removed_parts.iter().map(|part| i64::from(part.units)).sum(),
            Money::new(currency, removed_minor),
        ),
        reason: edit.reason.clone(),
    };
    (message, fact)
}

/// A payment was recorded.
pub(crate) fn paid(about: About, payment: &Payment, captured: Money, traceparent: Option<&str>) -> Told {
    let message = proto::PaymentRecorded {
        order_id: about.order.to_string(),
        payment_id: payment.id.to_string(),
        kind: payment.kind.as_str().to_owned(),
        provider: payment.provider.clone(),
        provider_payment_id: payment.provider_payment_id.clone(),
        currency_code: captured.currency.code().to_owned(),
        amount_minor: payment.amount,
        occurred_at: Some(to_timestamp(payment.occurred_at)),
        captured_minor: captured.minor,
        reason: payment.reason.clone(),
        dispute_id: payment.dispute_id.clone(),
    };
    let fact = Fact::Paid {
        payment: payment.id.uuid(),
        kind: payment.kind,
        provider: payment.provider.clone(),
        amount: Money::new(captured.currency, payment.amount),
        reason: payment.reason.clone(),
    };
    Told::new(about, &message, &fact, traceparent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_id_is_read_from_a_traceparent_only() {
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(trace_id(traceparent), "0af7651916cd43dd8448eb211c80319c");
        for other in ["", "00", "00-short-b7ad6b7169203331-01"] {
            assert_eq!(trace_id(other), "");
        }
    }
}
