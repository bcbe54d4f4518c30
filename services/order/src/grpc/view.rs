//! Domain values as protobuf answers.

use std::collections::BTreeMap;

use waybill_kernel::id::LineId;
use waybill_kernel::money::{Currency, Money};
use waybill_proto::waybill::order::v1 as proto;
use waybill_proto::waybill::r#type::v1 as common;
use waybill_rpc::convert::{to_money, to_timestamp};

use super::trail::to_hex;
use crate::domain::attempt::{Attempt, AttemptKind, AttemptState, Cause};
use crate::domain::cancellation::Cancellation;
use crate::domain::edit::Edited;
use crate::domain::fact::TimelineEntry;
use crate::domain::goods::FulfillmentStatus;
use crate::domain::hold::{Hold, HoldReason};
use crate::domain::order::{
    Address, Contact, Customer, Discount, Line, Order, Payment, ShippingLine, TaxLine, Totals,
};
use crate::domain::payment::{PaymentKind, PaymentStatus};
use crate::domain::returns::ReturnStatus;
use crate::domain::state::Status;

/// An order.
pub(super) fn order(order: Order) -> proto::Order {
    let Order {
        id,
        tenant,
        terms,
        contact,
        attributes,
        payments,
        holds,
        cancellations,
        edits,
        attempts,
        state,
    } = order;
    let contact_erased = contact.is_none();
    let in_currency = InCurrency(terms.currency);
    let cancelled = |line: LineId| {
        let of_line = cancellations
            .iter()
            .flat_map(|c| &c.lines)
            .filter(|part| part.line == line);
        of_line.map(|part| part.units).sum::<i32>()
    };
    let added_by: BTreeMap<i64, String> = (edits.iter())
        .map(|edit| (edit.version, edit.id.to_string()))
        .collect();
    let Contact {
        customer: person,
        shipping,
        billing,
        note,
    } = contact.unwrap_or_default();
    proto::Order {
        order_id: id.to_string(),
        merchant_id: tenant.merchant.to_string(),
        store_id: tenant.store.to_string(),
        status: status(state.status).into(),
        payment_status: payment_status(state.payment_status()).into(),
        fulfillment_status: fulfillment_status(state.fulfillment_status()).into(),
        return_status: return_status(state.returns).into(),
        currency_code: terms.currency.code().to_owned(),
        prices_include_tax: terms.prices_include_tax,
        lines: terms
            .lines
            .into_iter()
            .map(|line| proto::OrderLine {
                cancelled_quantity: cancelled(line.id),
                added_by_edit_id: added_by.get(&line.added_version).cloned().unwrap_or_default(),
                ..in_currency.line(line)
            })
            .collect(),
        shipping_lines: terms
            .shipping
            .into_iter()
            .map(|line| in_currency.shipping(line))
            .collect(),
        discounts: in_currency.discounts(terms.discounts),
        totals: Some(in_currency.totals(&terms.totals)),
        captured: in_currency.money(state.money.captured),
        refunded: in_currency.money(state.money.refunded),
        customer: Some(customer(person)),
        // The invoice goes where the goods go, unless it was said otherwise.
        billing_address: billing.or_else(|| shipping.clone()).map(address),
        shipping_address: shipping.map(address),
        payments: payments
            .into_iter()
            .map(|paid| payment(terms.currency, paid))
            .collect(),
        locale: terms.locale,
        number: terms.number,
        source: Some(proto::OrderSource {
            system: terms.source.system,
            external_id: terms.source.external_id,
        }),
        placed_at: Some(to_timestamp(terms.placed_at)),
        promised_ship_at: Some(to_timestamp(terms.promised_ship_at)),
        promised_delivery_at: terms.promised_delivery_at.map(to_timestamp),
        presentment_currency_code: terms
            .presentment
            .map_or("", |seen| seen.currency.code())
            .to_owned(),
        presentment_total: terms.presentment.map(to_money),
        presentment_totals: (terms.presentment.zip(terms.presentment_totals))
            .map(|(seen, totals)| InCurrency(seen.currency).totals(&totals)),
        tags: terms.tags,
        etag: state.etag(),
        cancel_reason: state.cancel_reason,
        version: state.version,
        updated_at: Some(to_timestamp(state.updated_at)),
        note,
        attributes,
        holds: holds.into_iter().map(hold).collect(),
        cancelled: in_currency.money(cancellations.iter().map(Cancellation::amount).sum()),
        cancellations: (cancellations.into_iter())
            .map(|part| cancellation(terms.currency, part))
            .collect(),
        edits: (edits.into_iter())
            .map(|edited| edit(terms.currency, edited))
            .collect(),
        added: in_currency.money(state.money.added),
        due: in_currency.money(state.money.due()),
        contact_erased,
        disputed: in_currency.money(state.money.disputed),
        dispute_lost: in_currency.money(state.money.dispute_lost),
        capturing: in_currency.money(state.money.capturing),
        payment_attempts: (attempts.into_iter())
            .map(|asked| attempt(terms.currency, asked))
            .collect(),
    }
}

fn edit(currency: Currency, edit: Edited) -> proto::Edit {
    proto::Edit {
        edit_id: edit.id.to_string(),
        reason: edit.reason,
        cancellation_id: edit.cancellation.map(|id| id.to_string()).unwrap_or_default(),
        added: InCurrency(currency).money(edit.added),
        edited_at: Some(to_timestamp(edit.at)),
    }
}

/// What an edit made different about the order as it is with it.
pub(super) fn difference(order: &Order, edited: Option<&Edited>) -> proto::EditDifference {
    let in_currency = InCurrency(order.terms.currency);
    let money = order.state.money;
    let added = edited
        .into_iter()
        .flat_map(|edited| edited.lines(order).map(move |line| (edited, line)));
    let removal = edited.and_then(|edited| edited.removal(order));
    let (added_total, removed_total) = (
        edited.map_or(0, |edited| edited.added),
        removal.map_or(0, Cancellation::amount),
    );
    proto::EditDifference {
        added: added
            .map(|(edited, line)| proto::OrderLine {
                added_by_edit_id: edited.id.to_string(),
                ..in_currency.line(line.clone())
            })
            .collect(),
        removed: removal
            .map(|removal| cancellation(order.terms.currency, removal.clone()).lines)
            .unwrap_or_default(),
        added_total: in_currency.money(added_total),
        removed_total: in_currency.money(removed_total),
        due_before: in_currency.money(money.due() - added_total + removed_total),
        due_after: in_currency.money(money.due()),
        open: in_currency.money(money.open()),
        overpaid: in_currency.money(money.overpaid()),
    }
}

/// The lines of an order, as an outcome of a batch lists them.
pub(super) fn lines(currency: Currency, lines: Vec<Line>) -> Vec<proto::OrderLine> {
    lines
        .into_iter()
        .map(|line| InCurrency(currency).line(line))
        .collect()
}

/// A payment.
pub(super) fn payment(currency: Currency, payment: Payment) -> proto::Payment {
    proto::Payment {
        payment_id: payment.id.to_string(),
        kind: payment_kind(payment.kind).into(),
        provider: payment.provider,
        provider_payment_id: payment.provider_payment_id,
        amount: InCurrency(currency).money(payment.amount),
        occurred_at: Some(to_timestamp(payment.occurred_at)),
        reason: payment.reason,
        dispute_id: payment.dispute_id,
        attempt_id: payment.attempt.map(|id| id.to_string()).unwrap_or_default(),
    }
}

/// An attempt.
pub(super) fn attempt(currency: Currency, attempt: Attempt) -> proto::PaymentAttempt {
    proto::PaymentAttempt {
        attempt_id: attempt.id.to_string(),
        payment_id: attempt.payment.to_string(),
        kind: attempt_kind(attempt.kind).into(),
        state: attempt_state(attempt.state).into(),
        cause: attempt_cause(attempt.cause).into(),
        amount: InCurrency(currency).money(attempt.amount),
        is_final: attempt.is_final,
        provider: attempt.provider,
        provider_payment_id: attempt.provider_payment_id,
        provider_attempt_id: attempt.provider_attempt_id.unwrap_or_default(),
        reason: attempt.reason,
        calls: attempt.calls,
        created_at: Some(to_timestamp(attempt.created_at)),
        settled_at: attempt.settled_at.map(to_timestamp),
    }
}

fn attempt_kind(kind: AttemptKind) -> proto::PaymentAttemptKind {
    match kind {
        AttemptKind::Capture => proto::PaymentAttemptKind::Capture,
        AttemptKind::Void => proto::PaymentAttemptKind::Void,
    }
}

fn attempt_state(state: AttemptState) -> proto::PaymentAttemptState {
    match state {
        AttemptState::Pending => proto::PaymentAttemptState::Pending,
        AttemptState::Submitted => proto::PaymentAttemptState::Submitted,
        AttemptState::Succeeded => proto::PaymentAttemptState::Succeeded,
        AttemptState::Failed => proto::PaymentAttemptState::Failed,
        AttemptState::Unknown => proto::PaymentAttemptState::Unknown,
    }
}

fn attempt_cause(cause: Cause) -> proto::PaymentAttemptCause {
    match cause {
        Cause::Request => proto::PaymentAttemptCause::Request,
        Cause::Policy => proto::PaymentAttemptCause::Policy,
        Cause::Cancellation => proto::PaymentAttemptCause::Cancellation,
    }
}

/// A cancellation of units.
pub(super) fn cancellation(currency: Currency, cancellation: Cancellation) -> proto::Cancellation {
    let in_currency = InCurrency(currency);
    proto::Cancellation {
        cancellation_id: cancellation.id.to_string(),
        amount: in_currency.money(cancellation.amount()),
        lines: (cancellation.lines.into_iter())
            .map(|part| proto::CancelledUnits {
                line_id: part.line.to_string(),
                quantity: part.units,
                first_unit: part.first,
                net: in_currency.money(part.net),
                tax: in_currency.money(part.tax),
            })
            .collect(),
        reason: cancellation.reason,
        restock: cancellation.restock,
        cancelled_at: Some(to_timestamp(cancellation.at)),
    }
}

/// A hold.
pub(super) fn hold(hold: Hold) -> proto::Hold {
    let (released_at, release_note) = hold.released.map(|release| (release.at, release.note)).unzip();
    proto::Hold {
        hold_id: hold.id.to_string(),
        reason: hold_reason(hold.reason).into(),
        rule: hold.rule,
        note: hold.note,
        held_at: Some(to_timestamp(hold.held_at)),
        released_at: released_at.map(to_timestamp),
        release_note: release_note.unwrap_or_default(),
    }
}

fn hold_reason(reason: HoldReason) -> proto::HoldReason {
    match reason {
        HoldReason::Address => proto::HoldReason::Address,
        HoldReason::PaymentReview => proto::HoldReason::PaymentReview,
        HoldReason::Fraud => proto::HoldReason::Fraud,
        HoldReason::AwaitingStock => proto::HoldReason::AwaitingStock,
        HoldReason::Manual => proto::HoldReason::Manual,
    }
}

/// A fact on the timeline.
pub(super) fn entry(entry: TimelineEntry) -> proto::TimelineEntry {
    proto::TimelineEntry {
        event_id: entry.event.to_string(),
        service: entry.service,
        r#type: entry.type_name,
        summary: entry.summary,
        occurred_at: Some(to_timestamp(entry.occurred_at)),
        trace_id: entry.trace_id,
        subject_id: entry
            .subject
            .map(|subject| subject.to_string())
            .unwrap_or_default(),
        actor: entry.actor,
        cause: entry.cause,
        sequence: entry.link.map_or(0, |link| link.sequence),
        hash: entry.link.map(|link| to_hex(&link.hash)).unwrap_or_default(),
    }
}

/// Gives amounts their currency back.
#[derive(Clone, Copy)]
struct InCurrency(Currency);

impl InCurrency {
    #[expect(clippy::unnecessary_wraps, reason = "a field of a message is optional")]
    fn money(self, minor: i64) -> Option<common::Money> {
        Some(to_money(Money::new(self.0, minor)))
    }

    fn line(self, line: Line) -> proto::OrderLine {
        proto::OrderLine {
            line_id: line.id.to_string(),
            sku: line.sku,
            title: line.title,
            quantity: line.quantity,
            unit_price: self.money(line.unit_price),
            category: line.category,
            final_sale: line.final_sale,
            digital: line.digital,
            attributes: line.attributes,
            discounts: self.discounts(line.discounts),
            order_discount_share: self.money(line.order_discount_share),
            taxes: self.taxes(line.taxes),
            net: self.money(line.net),
            total: self.money(line.total),
            cancelled_quantity: 0,
            added_by_edit_id: String::new(),
        }
    }

    fn shipping(self, line: ShippingLine) -> proto::ShippingLine {
        proto::ShippingLine {
            line_id: line.id.to_string(),
            title: line.title,
            price: self.money(line.price),
            discounts: self.discounts(line.discounts),
            taxes: self.taxes(line.taxes),
            net: self.money(line.net),
            total: self.money(line.total),
        }
    }

    fn discounts(self, discounts: Vec<Discount>) -> Vec<proto::Discount> {
        let view = |discount: Discount| proto::Discount {
            code: discount.code,
            title: discount.title,
            amount: self.money(discount.amount),
        };
        discounts.into_iter().map(view).collect()
    }

    fn taxes(self, taxes: Vec<TaxLine>) -> Vec<proto::TaxLine> {
        let view = |tax: TaxLine| proto::TaxLine {
            jurisdiction: tax.jurisdiction,
            title: tax.title,
            rate_ppm: tax.rate_ppm,
            amount: self.money(tax.amount),
        };
        taxes.into_iter().map(view).collect()
    }

    fn totals(self, totals: &Totals) -> proto::OrderTotals {
        proto::OrderTotals {
            subtotal: self.money(totals.subtotal),
            discounts: self.money(totals.discounts),
            shipping: self.money(totals.shipping),
            tax: self.money(totals.tax),
            total: self.money(totals.total),
        }
    }
}

fn customer(customer: Customer) -> proto::Customer {
    proto::Customer {
        external_id: customer.external_id,
        email: customer.email,
        name: customer.name,
        phone: customer.phone,
    }
}

fn address(address: Address) -> common::Address {
    common::Address {
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

pub(super) fn status(status: Status) -> proto::OrderStatus {
    match status {
        Status::Open => proto::OrderStatus::Open,
        Status::OnHold => proto::OrderStatus::OnHold,
        Status::Cancelled => proto::OrderStatus::Cancelled,
        Status::Completed => proto::OrderStatus::Completed,
    }
}

pub(super) fn payment_status(status: PaymentStatus) -> proto::PaymentStatus {
    match status {
        PaymentStatus::Pending => proto::PaymentStatus::Pending,
        PaymentStatus::Authorized => proto::PaymentStatus::Authorized,
        PaymentStatus::PartiallyPaid => proto::PaymentStatus::PartiallyPaid,
        PaymentStatus::Paid => proto::PaymentStatus::Paid,
        PaymentStatus::PartiallyRefunded => proto::PaymentStatus::PartiallyRefunded,
        PaymentStatus::Refunded => proto::PaymentStatus::Refunded,
        PaymentStatus::Voided => proto::PaymentStatus::Voided,
    }
}

pub(super) fn fulfillment_status(status: FulfillmentStatus) -> proto::FulfillmentStatus {
    match status {
        FulfillmentStatus::Unfulfilled => proto::FulfillmentStatus::Unfulfilled,
        FulfillmentStatus::PartiallyFulfilled => proto::FulfillmentStatus::PartiallyFulfilled,
        FulfillmentStatus::Fulfilled => proto::FulfillmentStatus::Fulfilled,
        FulfillmentStatus::PartiallyDelivered => proto::FulfillmentStatus::PartiallyDelivered,
        FulfillmentStatus::Delivered => proto::FulfillmentStatus::Delivered,
    }
}

pub(super) fn return_status(status: ReturnStatus) -> proto::ReturnStatus {
    match status {
        ReturnStatus::None => proto::ReturnStatus::None,
        ReturnStatus::Requested => proto::ReturnStatus::Requested,
        ReturnStatus::InProgress => proto::ReturnStatus::InProgress,
        ReturnStatus::Returned => proto::ReturnStatus::Returned,
    }
}

fn payment_kind(kind: PaymentKind) -> proto::PaymentKind {
    match kind {
        PaymentKind::Authorization => proto::PaymentKind::Authorization,
        PaymentKind::Capture => proto::PaymentKind::Capture,
        PaymentKind::Void => proto::PaymentKind::Void,
        PaymentKind::Failure => proto::PaymentKind::Failure,
        PaymentKind::Dispute => proto::PaymentKind::Dispute,
        PaymentKind::DisputeWon => proto::PaymentKind::DisputeWon,
        PaymentKind::DisputeLost => proto::PaymentKind::DisputeLost,
    }
}
