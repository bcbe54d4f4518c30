//! What any service can tell about an order, and how it reads on the timeline.
//!
//! A summary is one sentence for people. It names amounts, counts and keys, never a person.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;
use waybill_kernel::id::{CancellationId, EditId, EventId, HoldId, LineId, ReturnId};
use waybill_kernel::money::Money;

use super::change::Path;
use super::hold::HoldReason;
use super::payment::PaymentKind;
use super::returns::ReturnStage;
use super::trail::Link;

/// A fact as it stands on an order's timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineEntry {
    /// The event that told it.
    pub event: EventId,
    /// The service that told it.
    pub service: String,
    /// Full name of the event's type.
    pub type_name: String,
    /// One sentence for people.
    pub summary: String,
    /// When it happened, by the clock of that service.
    pub occurred_at: DateTime<Utc>,
    /// The trace it belongs to, 32 hex digits; may be empty.
    pub trace_id: String,
    /// What it is about besides the order.
    pub subject: Option<Uuid>,
    /// Who caused it: the subject of a caller's token, or `service:` and a name where nobody did; may be empty.
    pub actor: String,
    /// What it follows from: the id of an event, or a caller's request id; may be empty.
    pub cause: String,
    /// When this service learned it, by its own clock; not set for what it decided itself, and for entries of before.
    pub learned_at: Option<DateTime<Utc>>,
    /// The payload of another service's event that moves a facet.
    pub payload: Option<Vec<u8>>,
    /// Its place in the chain; not set before it is written, and outside of a chain.
    pub link: Option<Link>,
}

/// Units of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Units {
    /// The line.
    pub line: LineId,
    /// How many.
    pub units: i32,
}

/// What happened to a parcel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParcelFact {
    /// It was handed to a carrier.
    Shipped {
        /// The carrier's key.
        carrier: String,
        /// What is in it.
        units: Vec<Units>,
    },
    /// Its status changed, other than by delivery.
    Moved {
        /// The canonical status, lower case.
        status: String,
    },
    /// It arrived.
    Delivered {
        /// What was in it.
        units: Vec<Units>,
    },
}

/// What happened to a return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnFact {
    /// A customer asked for it.
    Requested {
        /// Units that are to come back.
        units: i64,
    },
    /// It was approved.
    Approved {
        /// By the policy, not by a person.
        automatic: bool,
    },
    /// It was refused.
    Declined,
    /// The goods are back.
    Received {
        /// Units that came back.
        units: i64,
    },
    /// It has ended with its money paid back.
    Completed,
}

impl ReturnFact {
    /// Where this puts the return.
    #[must_use]
    pub fn stage(self) -> ReturnStage {
        match self {
            ReturnFact::Requested { .. } => ReturnStage::Requested,
            ReturnFact::Approved { .. } | ReturnFact::Received { .. } => ReturnStage::InProgress,
            ReturnFact::Declined => ReturnStage::Declined,
            ReturnFact::Completed => ReturnStage::Completed,
        }
    }
}

/// What happened to a refund.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefundFact {
    /// Money is owed.
    Created,
    /// It was handed to its providers.
    Started,
    /// All of it was paid.
    Succeeded {
        /// All that went back of the order after this.
        order_refunded: i64,
    },
    /// A provider refused it.
    Failed {
        /// The provider's reason, as a key.
        reason: String,
        /// All that went back of the order after this.
        order_refunded: i64,
    },
}

/// What happened to a message to the customer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageFact {
    /// The outside system took it.
    Sent,
    /// It is not sent.
    Suppressed {
        /// Why, as a key.
        reason: String,
    },
    /// It was given up.
    Failed {
        /// Why, as a key.
        reason: String,
    },
}

/// Something that is true about an order, from whichever service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// It was placed.
    Placed {
        /// Units of all lines.
        units: i64,
        /// What the customer pays.
        total: Money,
    },
    /// A payment provider did something.
    Paid {
        /// The payment.
        payment: Uuid,
        /// What.
        kind: PaymentKind,
        /// Who.
        provider: String,
        /// How much.
        amount: Money,
        /// The provider's reason of a failure or dispute, as a key; may be empty.
        reason: String,
    },
    /// Something about it was changed that may change.
    Updated {
        /// What.
        paths: BTreeSet<Path>,
    },
    /// Who ordered was forgotten.
    ContactErased,
    /// It was stopped.
    Held {
        /// The hold.
        hold: HoldId,
        /// Why.
        reason: HoldReason,
        /// The rule that did it; empty when it was a caller.
        rule: String,
    },
    /// A hold has ended.
    HoldEnded {
        /// The hold.
        hold: HoldId,
        /// Why it was there.
        reason: HoldReason,
        /// How many are still open.
        left: u32,
    },
    /// It was cancelled.
    Cancelled {
        /// Why.
        reason: String,
    },
    /// Units of it were cancelled.
    UnitsCancelled {
        /// The cancellation.
        cancellation: CancellationId,
        /// How many.
        units: i64,
        /// What the order costs less.
        amount: Money,
        /// Why.
        reason: String,
    },
    /// What is ordered was changed.
    Edited {
        /// The edit.
        edit: EditId,
        /// Units that came, and what they cost.
        added: (i64, Money),
        /// Units that went, and what they cost.
        removed: (i64, Money),
        /// Why.
        reason: String,
    },
    /// Everything is paid and delivered.
    Completed,
    /// Every unit is reserved.
    Allocated,
    /// Units wait for stock.
    Backordered {
        /// How many.
        units: i64,
    },
    /// What was reserved was released.
    Released,
    /// About a parcel.
    Parcel {
        /// The shipment.
        shipment: Uuid,
        /// What.
        fact: ParcelFact,
    },
    /// About a return.
    Return {
        /// The return.
        id: ReturnId,
        /// What.
        fact: ReturnFact,
    },
    /// About a refund.
    Refund {
        /// The refund.
        refund: Uuid,
        /// How much.
        amount: Money,
        /// What.
        fact: RefundFact,
    },
    /// About a message to the customer.
    Message {
        /// What it is about; nothing when that is the order.
        subject: Option<Uuid>,
        /// The stage, such as "shipped".
        stage: String,
        /// The channel, such as "email".
        channel: String,
        /// What.
        fact: MessageFact,
    },
    /// A type of event that this version does not know. It stands on the timeline all the same.
    Other {
        /// The last part of the type's name, such as `ShipmentRerouted`.
        name: String,
    },
}

impl Fact {
    /// What the fact is about besides the order.
    #[must_use]
    pub fn subject(&self) -> Option<Uuid> {
        match self {
            Fact::Paid { payment, .. } => Some(*payment),
            Fact::Held { hold, .. } | Fact::HoldEnded { hold, .. } => Some(hold.uuid()),
            Fact::UnitsCancelled { cancellation, .. } => Some(cancellation.uuid()),
            Fact::Edited { edit, .. } => Some(edit.uuid()),
            Fact::Parcel { shipment, .. } => Some(*shipment),
            Fact::Return { id, .. } => Some(id.uuid()),
            Fact::Refund { refund, .. } => Some(*refund),
            Fact::Message { subject, .. } => *subject,
            _ => None,
        }
    }

    /// Whether the fact moves a facet, or only stands on the timeline.
    #[must_use]
    pub fn moves(&self) -> bool {
        match self {
            Fact::Parcel { fact, .. } => {
                matches!(fact, ParcelFact::Shipped { .. } | ParcelFact::Delivered { .. })
            }
            Fact::Return { .. } => true,
            Fact::Refund { fact, .. } => {
                matches!(fact, RefundFact::Succeeded { .. } | RefundFact::Failed { .. })
            }
            _ => false,
        }
    }

    /// The lines that the fact is about.
    pub fn lines(&self) -> impl Iterator<Item = LineId> {
        let units = match self {
            Fact::Parcel {
                fact: ParcelFact::Shipped { units, .. } | ParcelFact::Delivered { units },
                ..
            } => units.as_slice(),
            _ => &[],
        };
        units.iter().map(|units| units.line)
    }

    /// One sentence for people.
    #[must_use]
    pub fn summary(&self) -> String {
        match self {
            Fact::Placed { units, total } => format!("Placed: {} for {total}", counted(*units)),
            Fact::Paid {
                kind,
                provider,
                amount,
                reason,
                ..
            } => paid(*kind, provider, *amount, reason),
            Fact::Updated { paths } => updated(paths),
            Fact::ContactErased => "Customer erased: contact, addresses, note and attributes".to_owned(),
            Fact::Held { reason, rule, .. } if rule.is_empty() => {
                format!("On hold: {}", hold_reason(*reason))
            }
            Fact::Held { reason, rule, .. } => {
                format!("On hold: {}, by the rule \"{rule}\"", hold_reason(*reason))
            }
            Fact::HoldEnded { reason, left, .. } => match left {
                0 => format!("Hold released: {}; the order goes on", hold_reason(*reason)),
                1 => format!("Hold released: {}; 1 hold is still open", hold_reason(*reason)),
                _ => format!(
                    "Hold released: {}; {left} holds are still open",
                    hold_reason(*reason)
                ),
            },
            Fact::Cancelled { reason } => format!("Cancelled: {reason}"),
            Fact::UnitsCancelled {
                units,
                amount,
                reason,
                ..
            } => format!("Cancelled: {} for {amount}: {reason}", counted(*units)),
            Fact::Edited {
                added,
                removed,
                reason,
                ..
            } => {
                let part = |what, (units, amount): &(i64, Money)| {
                    (*units > 0).then(|| format!("{} {what} for {amount}", counted(*units)))
                };
                let parts = [part("added", added), part("removed", removed)];
                let parts: Vec<String> = parts.into_iter().flatten().collect();
                format!("Edited: {}: {reason}", parts.join(", "))
            }
            Fact::Completed => "Completed: everything is paid and delivered".to_owned(),
            Fact::Allocated => "Stock is reserved for every unit".to_owned(),
            Fact::Backordered { units } => format!("Waiting for stock: {}", counted(*units)),
            Fact::Released => "Reserved stock was released".to_owned(),
            Fact::Parcel { fact, .. } => parcel(fact),
            Fact::Return { fact, .. } => match fact {
                ReturnFact::Requested { units } => format!("Return requested: {}", counted(*units)),
                ReturnFact::Approved { automatic: true } => "Return approved by the policy".to_owned(),
                ReturnFact::Approved { automatic: false } => "Return approved".to_owned(),
                ReturnFact::Declined => "Return declined".to_owned(),
                ReturnFact::Received { units } => format!("Return received: {}", counted(*units)),
                ReturnFact::Completed => "Return completed".to_owned(),
            },
            Fact::Refund { amount, fact, .. } => match fact {
                RefundFact::Created => format!("Refund of {amount} is due"),
                RefundFact::Started => format!("Refund of {amount} is on its way"),
                RefundFact::Succeeded { .. } => format!("Refund of {amount} was paid"),
                RefundFact::Failed { reason, .. } => format!("Refund of {amount} failed: {reason}"),
            },
            Fact::Message {
                stage, channel, fact, ..
            } => match fact {
                MessageFact::Sent => format!("Message \"{stage}\" sent by {channel}"),
                MessageFact::Suppressed { reason } => {
                    format!("Message \"{stage}\" by {channel} not sent: {reason}")
                }
                MessageFact::Failed { reason } => {
                    format!("Message \"{stage}\" by {channel} failed: {reason}")
                }
            },
            Fact::Other { name } => words(name),
        }
    }
}

fn paid(kind: PaymentKind, provider: &str, amount: Money, reason: &str) -> String {
    let why = if reason.is_empty() {
        String::new()
    } else {
        format!(": {}", reason.replace('_', " "))
    };
    match kind {
        PaymentKind::Authorization => format!("{amount} authorised by {provider}"),
        PaymentKind::Capture => format!("{amount} captured by {provider}"),
        PaymentKind::Void => format!("Authorisation of {amount} given back by {provider}"),
        PaymentKind::Failure => format!("Payment of {amount} failed at {provider}{why}"),
        PaymentKind::Dispute => format!("{amount} disputed at {provider}{why}"),
        PaymentKind::DisputeWon => format!("Dispute of {amount} at {provider} won"),
        PaymentKind::DisputeLost => format!("Dispute of {amount} at {provider} lost"),
    }
}

/// The paths in words: "Changed: customer's e-mail address, note".
fn updated(paths: &BTreeSet<Path>) -> String {
    let words: Vec<&str> = paths.iter().map(|path| in_words(*path)).collect();
    format!("Changed: {}", words.join(", "))
}

fn in_words(path: Path) -> &'static str {
    match path {
        Path::CustomerEmail => "customer's e-mail address",
        Path::CustomerName => "customer's name",
        Path::CustomerPhone => "customer's phone number",
        Path::ShippingAddress => "shipping address",
        Path::BillingAddress => "billing address",
        Path::Note => "note",
        Path::Tags => "tags",
        Path::Attributes => "attributes",
        Path::LineAttributes => "attributes of lines",
    }
}

fn hold_reason(reason: HoldReason) -> &'static str {
    match reason {
        HoldReason::Address => "check of the address",
        HoldReason::PaymentReview => "review of the payment",
        HoldReason::Fraud => "suspected fraud",
        HoldReason::AwaitingStock => "waiting for stock",
        HoldReason::Manual => "stopped by hand",
    }
}

fn parcel(fact: &ParcelFact) -> String {
    let sum = |units: &[Units]| counted(units.iter().map(|u| i64::from(u.units)).sum());
    match fact {
        ParcelFact::Shipped { carrier, units } if carrier.is_empty() => format!("Shipped: {}", sum(units)),
        ParcelFact::Shipped { carrier, units } => format!("Shipped: {} with {carrier}", sum(units)),
        ParcelFact::Moved { status } => format!("Parcel: {}", status.replace('_', " ")),
        ParcelFact::Delivered { units } => format!("Delivered: {}", sum(units)),
    }
}

fn counted(units: i64) -> String {
    if units == 1 {
        "1 unit".to_owned()
    } else {
        format!("{units} units")
    }
}

/// `ShipmentRerouted` as "Shipment rerouted".
fn words(name: &str) -> String {
    let mut sentence = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_uppercase() && !sentence.is_empty() {
            sentence.push(' ');
            sentence.extend(c.to_lowercase());
        } else {
            sentence.push(c);
        }
    }
    sentence
}

#[cfg(test)]
mod tests {
    use waybill_kernel::money::Currency;

    use super::*;

    #[test]
    fn summaries_read_as_sentences() {
        let ten = Money::new(Currency::GBP, 1000);
        let line = LineId::from(Uuid::nil());
        let cases = [
            (
                Fact::Placed { units: 1, total: ten },
                "Placed: 1 unit for 10.00 GBP",
            ),
            (
                Fact::Held {
                    hold: Uuid::nil().into(),
                    reason: HoldReason::Fraud,
                    rule: "order_value".into(),
                },
                "On hold: suspected fraud, by the rule \"order_value\"",
            ),
            (
                Fact::HoldEnded {
                    hold: Uuid::nil().into(),
                    reason: HoldReason::Address,
                    left: 1,
                },
                "Hold released: check of the address; 1 hold is still open",
            ),
            (
                Fact::Paid {
                    payment: Uuid::nil(),
                    kind: PaymentKind::Failure,
                    provider: "stripe".into(),
                    amount: ten,
                    reason: "card_declined".into(),
                },
                "Payment of 10.00 GBP failed at stripe: card declined",
            ),
            (
                Fact::Updated {
                    paths: BTreeSet::from([Path::Note, Path::CustomerEmail]),
                },
                "Changed: customer's e-mail address, note",
            ),
            (
                Fact::Parcel {
                    shipment: Uuid::nil(),
                    fact: ParcelFact::Shipped {
                        carrier: "dhl".into(),
                        units: vec![Units { line, units: 2 }, Units { line, units: 3 }],
                    },
                },
                "Shipped: 5 units with dhl",
            ),
            (
                Fact::Parcel {
                    shipment: Uuid::nil(),
                    fact: ParcelFact::Moved {
                        status: "out_for_delivery".into(),
                    },
                },
                "Parcel: out for delivery",
            ),
            (
                Fact::Refund {
                    refund: Uuid::nil(),
                    amount: ten,
                    fact: RefundFact::Failed {
                        reason: "declined".into(),
                        order_refunded: 0,
                    },
                },
                "Refund of 10.00 GBP failed: declined",
            ),
            (
                Fact::Other {
                    name: "ShipmentRerouted".into(),
                },
                "Shipment rerouted",
            ),
        ];
        for (fact, summary) in cases {
            assert_eq!(fact.summary(), summary);
        }
    }
}
