//! This service's own events, read back: what it once decided about an order.

use chrono::{DateTime, Utc};
use uuid::Uuid;
use waybill_events::{Event, FoldError};
use waybill_kernel::money::Currency;
use waybill_proto::waybill::order::v1 as proto;

use crate::domain::cancellation::{Cancellation, CancelledUnits};
use crate::domain::hold::{Hold, HoldReason};
use crate::domain::order::{Payment, Totals};
use crate::domain::payment::PaymentKind;
use crate::domain::picture::{Agreed, AgreedLine};
use crate::domain::replay::{Change, Edit, Effect};
use crate::domain::state::Share;

/// What an event of this service did. One that cannot be read is said, with the reason: its type may be from a later version.
pub(crate) fn effect(event: &Event) -> Effect {
    match change(event) {
        Ok(Some(change)) => Effect::Own(event.version, change),
        Ok(None) => {
            let reason = format!("this version does not know what a {} does", event.short_type());
            Effect::Unreadable(Some(event.version), reason)
        }
        Err(FoldError::Poison(reason)) => Effect::Unreadable(Some(event.version), reason),
        Err(other) => Effect::Unreadable(Some(event.version), other.to_string()),
    }
}

fn change(event: &Event) -> Result<Option<Change>, FoldError> {
    if let Some(message) = event.as_a::<proto::OrderPlaced>()? {
        return Ok(Some(Change::Placed(Box::new(agreed(message)?))));
    }
    if let Some(message) = event.as_a::<proto::PaymentRecorded>()? {
        return paid(message, event).map(Some);
    }
    if event.as_a::<proto::OrderUpdated>()?.is_some() {
        return Ok(Some(Change::Updated));
    }
    if let Some(message) = event.as_a::<proto::OrderHeld>()? {
        return held(message, event).map(Some);
    }
    if let Some(message) = event.as_a::<proto::OrderReleased>()? {
        return Ok(Some(Change::Released(id("hold_id", &message.hold_id)?)));
    }
    if let Some(message) = event.as_a::<proto::OrderLinesCancelled>()? {
        return units_cancelled(message, event).map(Some);
    }
    if let Some(message) = event.as_a::<proto::OrderEdited>()? {
        return edited(message, event).map(Some);
    }
    if event.as_a::<proto::OrderContactErased>()?.is_some() {
        return Ok(Some(Change::Updated));
    }
    if let Some(message) = event.as_a::<proto::OrderCancelled>()? {
        return Ok(Some(Change::Cancelled(message.reason)));
    }
    if event.as_a::<proto::OrderCompleted>()?.is_some() {
        return Ok(Some(Change::Completed));
    }
    Ok(None)
}

fn agreed(message: proto::OrderPlaced) -> Result<Agreed, FoldError> {
    let shipping = |line: proto::PlacedShipping| {
        Ok::<_, FoldError>((id("line_id", &line.line_id)?, line.net_minor, tax(&line.taxes)))
    };
    Ok(Agreed {
        currency: currency(&message.currency_code)?,
        number: message.number,
        source_system: message.source_system,
        prices_include_tax: message.prices_include_tax,
        totals: Totals {
            subtotal: message.subtotal_minor,
            discounts: message.discounts_minor,
            shipping: message.shipping_minor,
            tax: message.tax_minor,
            total: message.total_minor,
        },
        lines: (message.lines.into_iter()).map(line).collect::<Result<_, _>>()?,
        shipping: (message.shipping_lines.into_iter())
            .map(shipping)
            .collect::<Result<_, _>>()?,
        placed_at: time("placed_at", message.placed_at)?,
        promised_ship_at: time("promised_ship_at", message.promised_ship_at)?,
        promised_delivery_at: match message.promised_delivery_at {
            None => None,
            some => Some(time("promised_delivery_at", some)?),
        },
    })
}

fn line(line: proto::PlacedLine) -> Result<AgreedLine, FoldError> {
    Ok(AgreedLine {
        id: id("line_id", &line.line_id)?,
        quantity: line.quantity,
        unit_price: line.unit_price_minor,
        net: line.net_minor,
        tax: tax(&line.taxes),
        sku: line.sku,
        category: line.category,
        final_sale: line.final_sale,
        digital: line.digital,
    })
}

fn tax(taxes: &[proto::PlacedTax]) -> i64 {
    taxes.iter().map(|tax| tax.amount_minor).sum()
}

fn edited(message: proto::OrderEdited, event: &Event) -> Result<Change, FoldError> {
    let comes = Share {
        to_ship: (message.added.iter().filter(|line| !line.digital))
            .map(|line| i64::from(line.quantity))
            .sum(),
        amount: message.added_minor,
    };
    let goes = Share {
        to_ship: to_ship(&message.removed),
        amount: message.removed_minor,
    };
    let removal = if message.removed.is_empty() {
        None
    } else {
        Some(Cancellation {
            id: id("cancellation_id", &message.cancellation_id)?,
            reason: message.reason,
            restock: message.restock,
            lines: cancelled(&message.removed)?,
            at: event.occurred_at,
            version: event.version,
        })
    };
    Ok(Change::Edited(Box::new(Edit {
        lines: (message.added.into_iter()).map(line).collect::<Result<_, _>>()?,
        comes,
        goes,
        removal,
    })))
}

fn paid(message: proto::PaymentRecorded, event: &Event) -> Result<Change, FoldError> {
    Ok(Change::Paid(Payment {
        id: id("payment_id", &message.payment_id)?,
        kind: known("kind", &message.kind, PaymentKind::parse(&message.kind))?,
        provider: message.provider,
        provider_payment_id: message.provider_payment_id,
        amount: message.amount_minor,
        occurred_at: match message.occurred_at {
            None => event.occurred_at,
            some => time("occurred_at", some)?,
        },
        reason: message.reason,
        dispute_id: message.dispute_id,
        // Which attempt it came of is told to nobody.
        attempt: None,
    }))
}

fn held(message: proto::OrderHeld, event: &Event) -> Result<Change, FoldError> {
    Ok(Change::Held(Hold {
        id: id("hold_id", &message.hold_id)?,
        reason: known("reason", &message.reason, HoldReason::parse(&message.reason))?,
        rule: message.rule,
        note: String::new(),
        held_at: event.occurred_at,
        held_version: event.version,
        released: None,
    }))
}

fn units_cancelled(message: proto::OrderLinesCancelled, event: &Event) -> Result<Change, FoldError> {
    let cancellation = Cancellation {
        id: id("cancellation_id", &message.cancellation_id)?,
        lines: cancelled(&message.lines)?,
        restock: message.restock,
        reason: message.reason,
        at: event.occurred_at,
        version: event.version,
    };
    Ok(Change::UnitsCancelled(cancellation, to_ship(&message.lines)))
}

fn cancelled(lines: &[proto::CancelledLine]) -> Result<Vec<CancelledUnits>, FoldError> {
    let lines = lines.iter().map(|line| {
        Ok(CancelledUnits {
            line: id("line_id", &line.line_id)?,
            first: line.first_unit,
            units: line.quantity,
            net: line.net_minor,
            tax: line.tax_minor,
        })
    });
    lines.collect()
}

/// Of cancelled units, those that would have been shipped.
fn to_ship(lines: &[proto::CancelledLine]) -> i64 {
    let shipped = lines.iter().filter(|line| !line.digital);
    shipped.map(|line| i64::from(line.quantity)).sum()
}

fn id<T: From<Uuid>>(field: &str, text: &str) -> Result<T, FoldError> {
    (text.parse::<Uuid>().map(T::from)).map_err(|_| FoldError::poison(format!("{field} {text:?} is no id")))
}

fn known<T>(field: &str, text: &str, parsed: Option<T>) -> Result<T, FoldError> {
    parsed.ok_or_else(|| FoldError::poison(format!("this version does not know the {field} {text:?}")))
}

fn currency(code: &str) -> Result<Currency, FoldError> {
    Currency::parse(code).map_err(|error| FoldError::poison(error.to_string()))
}

fn time(field: &str, time: Option<prost_types::Timestamp>) -> Result<DateTime<Utc>, FoldError> {
    let time = time.and_then(|time| {
        let nanos = u32::try_from(time.nanos).ok()?;
        DateTime::from_timestamp(time.seconds, nanos)
    });
    time.ok_or_else(|| FoldError::poison(format!("{field} is missing or is no time")))
}
