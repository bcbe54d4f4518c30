//! What Stripe's webhooks say about payments: authorised, captured, released, failed, disputed.
//!
//! An event is what was true when it was made, and events overtake each other. So a notice of a capture names what was
//! captured of the payment *in all*, which only grows, and whoever applies it takes the same news once.

use serde::Deserialize;
use waybill_kernel::id::OrderId;
use waybill_kernel::money::Money;

use super::amount;
use super::webhook::{WebhookError, malformed, missing};

/// Metadata key by which whoever makes a payment intent names its order.
pub const ORDER_KEY: &str = "waybill_order_id";

/// What an event says about a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentNotice {
    /// Stripe's id of it: the intent, or the charge where there is no intent; of a failure always the charge, because an
    /// intent may fail and be paid after all.
    pub provider_payment_id: String,
    /// What happened.
    pub step: PaymentStep,
    /// How much: of a capture what was captured in all.
    pub amount: Money,
    /// The order, where the metadata name it.
    pub order_id: Option<OrderId>,
}

/// What happened to a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PaymentStep {
    /// Money was set aside.
    Authorized,
    /// Money was taken.
    Captured,
    /// What was set aside and not taken was released.
    Released,
    /// The customer's bank said no.
    Failed {
        /// Why, as a key.
        reason: String,
    },
    /// The customer's bank asks it back.
    Disputed {
        /// Stripe's id of the dispute.
        dispute_id: String,
        /// Why, as a key.
        reason: String,
    },
    /// A dispute ended, and the money stays.
    DisputeWon {
        /// Stripe's id of the dispute.
        dispute_id: String,
    },
    /// A dispute ended, and the money is gone.
    DisputeLost {
        /// Stripe's id of the dispute.
        dispute_id: String,
    },
}

#[derive(Deserialize)]
struct WireIntent {
    id: String,
    amount: i64,
    currency: String,
    #[serde(default)]
    amount_received: i64,
    #[serde(default)]
    amount_capturable: i64,
    #[serde(default)]
    latest_charge: Option<String>,
    #[serde(default)]
    last_payment_error: Option<WireFailure>,
    #[serde(default)]
    metadata: WireMetadata,
}

#[derive(Deserialize)]
struct WireFailure {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    decline_code: Option<String>,
    #[serde(default)]
    charge: Option<String>,
}

#[derive(Default, Deserialize)]
struct WireMetadata {
    #[serde(default)]
    waybill_order_id: Option<String>,
}

impl WireMetadata {
    fn order_id(&self) -> Option<OrderId> {
        self.waybill_order_id.as_ref()?.parse().ok()
    }
}

#[derive(Deserialize)]
struct WireCharge {
    id: String,
    currency: String,
    amount_captured: i64,
    #[serde(default)]
    payment_intent: Option<String>,
    #[serde(default)]
    metadata: WireMetadata,
}

#[derive(Deserialize)]
struct WireDispute {
    id: String,
    amount: i64,
    currency: String,
    charge: String,
    #[serde(default)]
    payment_intent: Option<String>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    status: String,
}

/// Reads what an event says about a payment; nothing for events about other things, and for news that say nothing yet.
pub(super) fn read(kind: &str, object: &serde_json::Value) -> Result<Option<PaymentNotice>, WebhookError> {
    match kind {
        "payment_intent.amount_capturable_updated"
        | "payment_intent.succeeded"
        | "payment_intent.canceled"
        | "payment_intent.payment_failed" => of_intent(kind, parse(object)?),
        "charge.captured" => of_charge(parse(object)?),
        "charge.dispute.created" | "charge.dispute.closed" => of_dispute(kind, parse(object)?),
        _ => Ok(None),
    }
}

fn parse<T: serde::de::DeserializeOwned>(object: &serde_json::Value) -> Result<T, WebhookError> {
    T::deserialize(object).map_err(|error| malformed(&error))
}

fn of_intent(kind: &str, intent: WireIntent) -> Result<Option<PaymentNotice>, WebhookError> {
    let (step, amount) = match kind {
        "payment_intent.payment_failed" => return failed(intent),
        // After the first part was captured the intent is updated again.
        "payment_intent.amount_capturable_updated" if intent.amount_received == 0 => {
            (PaymentStep::Authorized, intent.amount_capturable)
        }
        "payment_intent.canceled" => (PaymentStep::Released, intent.amount - intent.amount_received),
        _ => (PaymentStep::Captured, intent.amount_received),
    };
    if amount <= 0 {
        return Ok(None);
    }
    Ok(Some(PaymentNotice {
        step,
        amount: amount::from_stripe(amount, &intent.currency)?,
        order_id: intent.metadata.order_id(),
        provider_payment_id: intent.id,
    }))
}

fn failed(intent: WireIntent) -> Result<Option<PaymentNotice>, WebhookError> {
    let error = intent.last_payment_error;
    let charge = error.as_ref().and_then(|error| error.charge.clone());
    // Without a charge the bank was not asked: there is nothing to tell.
    let Some(charge) = charge.or(intent.latest_charge) else {
        return Ok(None);
    };
    let reason = error.and_then(|error| error.decline_code.or(error.code));
    Ok(Some(PaymentNotice {
        provider_payment_id: charge,
        step: PaymentStep::Failed {
            reason: reason.unwrap_or_default(),
        },
        amount: amount::from_stripe(intent.amount, &intent.currency)?,
        order_id: intent.metadata.order_id(),
    }))
}

fn of_charge(charge: WireCharge) -> Result<Option<PaymentNotice>, WebhookError> {
    if charge.amount_captured <= 0 {
        return Ok(None);
    }
    Ok(Some(PaymentNotice {
        step: PaymentStep::Captured,
        amount: amount::from_stripe(charge.amount_captured, &charge.currency)?,
        order_id: charge.metadata.order_id(),
        provider_payment_id: charge.payment_intent.unwrap_or(charge.id),
    }))
}

fn of_dispute(kind: &str, dispute: WireDispute) -> Result<Option<PaymentNotice>, WebhookError> {
    let (dispute_id, reason) = (dispute.id, dispute.reason);
    let step = match (kind, dispute.status.as_str()) {
        ("charge.dispute.created", _) => PaymentStep::Disputed { dispute_id, reason },
        // An inquiry that was closed took nothing.
        (_, "won" | "warning_closed") => PaymentStep::DisputeWon { dispute_id },
        (_, "lost") => PaymentStep::DisputeLost { dispute_id },
        _ => return Err(missing("status of a closed dispute is neither won nor lost")),
    };
    Ok(Some(PaymentNotice {
        step,
        amount: amount::from_stripe(dispute.amount, &dispute.currency)?,
        order_id: None,
        provider_payment_id: dispute.payment_intent.unwrap_or(dispute.charge),
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use waybill_kernel::money::Currency;

    use super::*;

    fn told(kind: &str, object: &serde_json::Value) -> Option<(String, PaymentStep, i64)> {
        let notice = read(kind, object).expect("it can be read")?;
        assert_eq!(notice.amount.currency, Currency::EUR);
        Some((notice.provider_payment_id, notice.step, notice.amount.minor))
    }

    #[test]
    fn an_intent_tells_what_it_has_come_to() {
        let order = OrderId::generate();
        let intent = |received: i64, capturable: i64| {
            json!({
                "id": "pi_1", "object": "payment_intent", "amount": 1000, "currency": "eur", "status": "any",
                "amount_received": received, "amount_capturable": capturable, "latest_charge": "ch_1",
                "metadata": {"waybill_order_id": order.to_string(), "other": "1"},
            })
        };
        let pi = || "pi_1".to_owned();
        let updated = "payment_intent.amount_capturable_updated";
        assert_eq!(
            told(updated, &intent(0, 1000)),
            Some((pi(), PaymentStep::Authorized, 1000))
        );
        assert_eq!(
            told(updated, &intent(300, 700)),
            Some((pi(), PaymentStep::Captured, 300))
        );
        assert_eq!(
            told("payment_intent.succeeded", &intent(800, 0)),
            Some((pi(), PaymentStep::Captured, 800))
        );
        assert_eq!(
            told("payment_intent.canceled", &intent(300, 0)),
            Some((pi(), PaymentStep::Released, 700))
        );
        assert_eq!(told("payment_intent.created", &intent(0, 0)), None);
        let notice = read(updated, &intent(0, 1000)).expect("an intent").expect("news");
        assert_eq!(notice.order_id, Some(order));
    }

    #[test]
    fn a_failure_is_told_by_its_charge() {
        let intent = |error: serde_json::Value| json!({"id": "pi_1", "amount": 1000, "currency": "eur", "last_payment_error": error});
        let declined =
            json!({"code": "card_declined", "decline_code": "insufficient_funds", "charge": "ch_7"});
        assert_eq!(
            told("payment_intent.payment_failed", &intent(declined)),
            Some((
                "ch_7".to_owned(),
                PaymentStep::Failed {
                    reason: "insufficient_funds".into()
                },
                1000
            ))
        );
        let nobody_asked = json!({"code": "incomplete_number"});
        assert_eq!(told("payment_intent.payment_failed", &intent(nobody_asked)), None);
    }

    #[test]
    fn charges_and_disputes_name_their_intent() {
        let charge =
            json!({"id": "ch_1", "currency": "eur", "amount_captured": 500, "payment_intent": "pi_1"});
        assert_eq!(
            told("charge.captured", &charge),
            Some(("pi_1".to_owned(), PaymentStep::Captured, 500))
        );
        let dispute = |status: &str| {
            json!({
                "id": "dp_1", "amount": 500, "currency": "eur", "charge": "ch_1", "payment_intent": "pi_1",
                "reason": "fraudulent", "status": status,
            })
        };
        let dispute_id = "dp_1".to_owned();
        let (reason, pi) = ("fraudulent".to_owned(), || "pi_1".to_owned());
        assert_eq!(
            told("charge.dispute.created", &dispute("needs_response")),
            Some((
                pi(),
                PaymentStep::Disputed {
                    dispute_id: dispute_id.clone(),
                    reason
                },
                500
            ))
        );
        let won = PaymentStep::DisputeWon {
            dispute_id: dispute_id.clone(),
        };
        for status in ["won", "warning_closed"] {
            assert_eq!(
                told("charge.dispute.closed", &dispute(status)),
                Some((pi(), won.clone(), 500))
            );
        }
        assert_eq!(
            told("charge.dispute.closed", &dispute("lost")),
            Some((pi(), PaymentStep::DisputeLost { dispute_id }, 500))
        );
        assert!(read("charge.dispute.closed", &dispute("under_review")).is_err());
        assert!(read("charge.dispute.created", &json!({"id": "hush"})).is_err());
    }
}
