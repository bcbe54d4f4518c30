//! Stripe's webhooks: is it really from Stripe, and what does it say about a refund or a payment?
//!
//! Events come unordered and more than once. A body is believed only after its signature was checked over the raw bytes;
//! whoever applies it deduplicates by event id and by refund id and state.

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use waybill_kernel::hash;
use waybill_kernel::id::LegId;
use waybill_kernel::money::Money;

use super::amount::{self, AmountError};
use super::notice::{self, PaymentNotice};
use super::wire::{MARKER_KEY, WireRefund};
use crate::provider::{RefundState, leg_of_marker};

/// How far a signature's time may be from ours.
pub const TOLERANCE: TimeDelta = TimeDelta::seconds(300);

/// Why a webhook is not believed or not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// The header has not the form `t=…,v1=…`.
    #[error("webhook signature header is malformed: expected \"t=<seconds>,v1=<hex>\"")]
    MalformedHeader,
    /// Signed too long ago, or in the future: perhaps recorded and sent again.
    #[error("webhook was signed {age_seconds} s ago: more than the tolerance of 300 s")]
    OutsideTolerance {
        /// Age of the signature; negative when it is in the future.
        age_seconds: i64,
    },
    /// No signature matches any of the secrets.
    #[error("webhook signature matches none of the configured secrets")]
    WrongSignature,
    /// Not an event, or not one of the shape we know.
    #[error("webhook body is not a Stripe event: {detail}")]
    MalformedBody {
        /// What the parser missed. Names fields, never their values.
        detail: String,
    },
    /// The refund's amount has no clear meaning.
    #[error("webhook names an amount that cannot be read")]
    Amount(#[from] AmountError),
}

/// Checks that a webhook was signed with one of the secrets, recently.
///
/// `header` is the value of `Stripe-Signature`, `body` the bytes as they came. Several secrets, and several signatures
/// in the header, are normal while a secret is being replaced.
///
/// # Errors
/// When it must not be believed.
pub fn verify_webhook(
    header: &str,
    body: &[u8],
    secrets: &[SecretString],
    now: DateTime<Utc>,
) -> Result<(), WebhookError> {
    let mut timestamp = None;
    let mut signatures = Vec::new();
    for item in header.split(',') {
        match item.trim().split_once('=').ok_or(WebhookError::MalformedHeader)? {
            ("t", value) => timestamp = Some(value),
            // Not hexadecimal: cannot match. Still not an error, other signatures may.
            ("v1", value) => signatures.extend(hex::decode(value).ok()),
            // Other schemes, such as v0 of test events, are weaker or unknown.
            _ => {}
        }
    }
    let timestamp = timestamp.ok_or(WebhookError::MalformedHeader)?;
    let signed_at: i64 = timestamp.parse().map_err(|_| WebhookError::MalformedHeader)?;
    let payload: [&[u8]; 3] = [timestamp.as_bytes(), b".", body];
    let keys: Vec<&[u8]> = secrets
        .iter()
        .map(|secret| secret.expose_secret().as_bytes())
        // Anybody can sign with nothing.
        .filter(|key| !key.is_empty())
        .collect();
    let is_ours = |signature: &Vec<u8>| {
        keys.iter()
            .any(|key| hash::verify_hmac_sha256(key, &payload, signature))
    };
    if !signatures.iter().any(is_ours) {
        return Err(WebhookError::WrongSignature);
    }
    let age_seconds = now.timestamp().saturating_sub(signed_at);
    if age_seconds.unsigned_abs() > TOLERANCE.num_seconds().unsigned_abs() {
        return Err(WebhookError::OutsideTolerance { age_seconds });
    }
    Ok(())
}

/// The header value for a body signed now, as Stripe would send it.
#[must_use]
pub fn sign_webhook(body: &[u8], secret: &SecretString, now: DateTime<Utc>) -> String {
    let timestamp = now.timestamp().to_string();
    let key = secret.expose_secret().as_bytes();
    let signature = hash::hmac_sha256_bytes(key, &[timestamp.as_bytes(), b".", body]);
    format!("t={timestamp},v1={}", hex::encode(signature))
}

/// An event of Stripe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Id of the event: the same for every delivery of it.
    pub id: String,
    /// Its type, such as `"refund.updated"`.
    pub kind: String,
    /// When Stripe made it.
    pub created: DateTime<Utc>,
    /// What it says about a refund; `None` for events about other things.
    pub refund: Option<RefundNotice>,
    /// What it says about a payment; `None` for events about other things.
    pub payment: Option<PaymentNotice>,
}

/// What an event says about a refund, ours or one made elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundNotice {
    /// Stripe's id of the refund.
    pub provider_refund_id: String,
    /// Stripe's id of the payment: its intent, or its charge where there is no intent.
    pub provider_payment_id: String,
    /// The leg it was made for; `None` when it was not made by us.
    pub leg_id: Option<LegId>,
    /// How much.
    pub amount: Money,
    /// How far it was when the event was made. Events come out of order: ask before believing that it is further back.
    pub state: RefundState,
}

/// Reads a verified body.
///
/// # Errors
/// When it is no event, or its refund or payment cannot be read.
pub fn parse_event(body: &[u8]) -> Result<Event, WebhookError> {
    let event: WireEvent = serde_json::from_slice(body).map_err(|error| malformed(&error))?;
    let created = DateTime::from_timestamp(event.created, 0);
    let created = created.ok_or_else(|| missing("created is no time"))?;
    let is_refund = event.kind.starts_with("refund.") || event.kind == "charge.refund.updated";
    let payment = notice::read(&event.kind, &event.data.object)?;
    let refund = if is_refund {
        Some(notice(event.data.object)?)
    } else {
        None
    };
    Ok(Event {
        id: event.id,
        kind: event.kind,
        created,
        refund,
        payment,
    })
}

fn notice(object: serde_json::Value) -> Result<RefundNotice, WebhookError> {
    let refund: WireRefund = serde_json::from_value(object).map_err(|error| malformed(&error))?;
    let amount = amount::from_stripe(refund.amount, &refund.currency)?;
    let leg_id = refund.metadata(MARKER_KEY).and_then(leg_of_marker);
    let state = refund.state();
    let payment = refund.payment_intent.or(refund.charge);
    let provider_payment_id = payment.ok_or_else(|| missing("refund names no payment"))?;
    Ok(RefundNotice {
        provider_refund_id: refund.id,
        provider_payment_id,
        leg_id,
        amount,
        state,
    })
}

/// A body without something it needs.
pub(super) fn missing(detail: &str) -> WebhookError {
    WebhookError::MalformedBody {
        detail: detail.to_owned(),
    }
}

pub(super) fn malformed(error: &serde_json::Error) -> WebhookError {
    // The parser's own words may quote the body.
    let kind = match error.classify() {
        serde_json::error::Category::Data => "a field is missing or of another type",
        _ => "not JSON",
    };
    WebhookError::MalformedBody {
        detail: format!("{kind} (line {}, column {})", error.line(), error.column()),
    }
}

#[derive(Deserialize)]
struct WireEvent {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    created: i64,
    data: WireData,
}

#[derive(Deserialize)]
struct WireData {
    object: serde_json::Value,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use waybill_kernel::money::Currency;

    use super::*;

    const BODY: &[u8] = br#"{"id":"evt_1"}"#;

    fn secret(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).expect("a time")
    }

    #[test]
    fn a_signature_of_today_is_believed() {
        let header = sign_webhook(BODY, &secret("whsec_a"), now());
        assert_eq!(verify_webhook(&header, BODY, &[secret("whsec_a")], now()), Ok(()));
        // A secret is being replaced: either side may be the newer one.
        assert_eq!(
            verify_webhook(&header, BODY, &[secret("whsec_b"), secret("whsec_a")], now()),
            Ok(())
        );
        let twice = header.replace(",v1=", ",v1=00ff,v1=zz,v0=11,v1=");
        assert_eq!(verify_webhook(&twice, BODY, &[secret("whsec_a")], now()), Ok(()));
    }

    /// Computed with another implementation: `printf '1700000000.{"id":"evt_1"}' | openssl dgst -sha256 -hmac whsec_a`.
    #[test]
    fn the_signature_is_the_documented_one() {
        let header = sign_webhook(BODY, &secret("whsec_a"), now());
        assert_eq!(
            header,
            "t=1700000000,v1=97ea69f91fd566038386bacf87292eb0d73a8207414ee62ed313d49996fe0639"
        );
    }

    #[test]
    fn anything_else_is_not() {
        let secrets = [secret("whsec_a")];
        let header = sign_webhook(BODY, &secrets[0], now());
        let check = |header: &str, body: &[u8]| verify_webhook(header, body, &secrets, now());
        assert_eq!(
            check(&header, br#"{"id":"evt_2"}"#),
            Err(WebhookError::WrongSignature)
        );
        assert_eq!(
            check(&header.replace("t=17", "t=18"), BODY),
            Err(WebhookError::WrongSignature)
        );
        assert_eq!(
            check(&header.replace("v1=", "v0="), BODY),
            Err(WebhookError::WrongSignature)
        );
        assert_eq!(check("t=1700000000", BODY), Err(WebhookError::WrongSignature));
        assert_eq!(
            verify_webhook(&header, BODY, &[], now()),
            Err(WebhookError::WrongSignature)
        );
        assert_eq!(
            verify_webhook(&header, BODY, &[secret("")], now()),
            Err(WebhookError::WrongSignature)
        );
        for broken in [
            "",
            "garbage",
            "t=,v1=00",
            "t=soon,v1=00",
            "v1=00",
            "t=99999999999999999999,v1=00",
        ] {
            assert_eq!(
                check(broken, BODY),
                Err(WebhookError::MalformedHeader),
                "{broken}"
            );
        }
    }

    #[test]
    fn an_empty_secret_opens_nothing() {
        let header = sign_webhook(BODY, &secret(""), now());
        assert_eq!(
            verify_webhook(&header, BODY, &[secret("")], now()),
            Err(WebhookError::WrongSignature)
        );
    }

    proptest! {
        #[test]
        fn no_header_and_no_body_makes_it_panic(header in "(t=|v1=|,|[0-9a-f]{2}|\\PC){0,20}", body in any::<Vec<u8>>()) {
            let secrets = [secret("whsec_a")];
            prop_assert!(verify_webhook(&header, &body, &secrets, now()).is_err());
            let _ = parse_event(&body);
        }
    }

    #[test]
    fn old_and_future_signatures_are_refused() {
        let secrets = [secret("whsec_a")];
        let header = sign_webhook(BODY, &secrets[0], now());
        let at = |seconds| verify_webhook(&header, BODY, &secrets, now() + TimeDelta::seconds(seconds));
        assert_eq!(at(300), Ok(()));
        assert_eq!(at(-300), Ok(()));
        assert_eq!(at(301), Err(WebhookError::OutsideTolerance { age_seconds: 301 }));
        assert_eq!(
            at(-301),
            Err(WebhookError::OutsideTolerance { age_seconds: -301 })
        );
    }

    #[test]
    fn refund_events_say_what_happened() {
        let leg_id = LegId::generate();
        let body = serde_json::json!({
            "id": "evt_1", "type": "refund.failed", "created": 1_700_000_000, "livemode": false,
            "data": {"object": {
                "id": "re_1", "object": "refund", "amount": 1234, "currency": "eur", "status": "failed",
                "failure_reason": "lost_or_stolen_card", "payment_intent": "pi_1", "charge": "ch_1",
                "metadata": {"waybill_marker": format!("waybill-leg:{leg_id}")},
            }},
        });
        let event = parse_event(body.to_string().as_bytes()).expect("an event");
        let refund = event.refund.expect("about a refund");
        assert_eq!(
            (event.id.as_str(), event.kind.as_str(), event.created),
            ("evt_1", "refund.failed", now())
        );
        assert_eq!(refund.leg_id, Some(leg_id));
        assert_eq!(refund.provider_payment_id, "pi_1");
        assert_eq!(refund.amount, Money::new(Currency::EUR, 1234));
        assert_eq!(
            refund.state,
            RefundState::Failed {
                reason: "lost_or_stolen_card".into()
            }
        );
    }

    #[test]
    fn other_events_and_other_peoples_refunds_are_read_too() {
        let event = |kind: &str, object: serde_json::Value| {
            let body =
                serde_json::json!({"id": "evt_1", "type": kind, "created": 1, "data": {"object": object}});
            parse_event(body.to_string().as_bytes())
        };
        assert_eq!(
            event("customer.created", serde_json::json!({"id": "cus_1"}))
                .expect("an event")
                .refund,
            None
        );
        let object = serde_json::json!({"id": "re_1", "amount": 5, "currency": "jpy", "charge": "ch_1"});
        let refund = event("refund.created", object)
            .expect("an event")
            .refund
            .expect("about a refund");
        assert_eq!(
            (refund.leg_id, refund.provider_payment_id.as_str()),
            (None, "ch_1")
        );

        let unclear = serde_json::json!({"id": "re_1", "amount": 5, "currency": "ugx", "charge": "ch_1"});
        assert!(matches!(
            event("refund.created", unclear),
            Err(WebhookError::Amount(_))
        ));
        let error = event("refund.created", serde_json::json!({"id": "hush"})).expect_err("no refund");
        assert!(!error.to_string().contains("hush"), "{error}");
        assert!(matches!(
            parse_event(b"\xff"),
            Err(WebhookError::MalformedBody { .. })
        ));
    }
}
