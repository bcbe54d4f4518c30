//! The decision about one message, and what became of it.

use chrono::{DateTime, Utc};
use uuid::Uuid;
use waybill_kernel::hash;
use waybill_kernel::id::{MerchantId, NotificationId, OrderId, StoreId};

use super::stage::Stage;

/// Why a message waits, is not sent or was given up: codes that callers see.
pub mod reason {
    /// Waits: the store has no brand yet.
    pub const NO_BRAND: &str = "NO_BRAND";
    /// Waits, in the end suppressed: a return is open.
    pub const RETURN_OPEN: &str = "RETURN_OPEN";
    /// Waits, in the end suppressed: a refund is open.
    pub const REFUND_OPEN: &str = "REFUND_OPEN";
    /// Waits, in the end suppressed: a shipment is in trouble.
    pub const SHIPMENT_OPEN: &str = "SHIPMENT_OPEN";
    /// Suppressed: the customer left no address.
    pub const NO_ADDRESS: &str = "NO_ADDRESS";
    /// Suppressed: the customer was erased.
    pub const CONTACT_ERASED: &str = "CONTACT_ERASED";
    /// Failed: the mail server refused it for good.
    pub const SMTP_REJECTED: &str = "SMTP_REJECTED";
    /// Failed: the mail server did not take it in any of the tries.
    pub const SMTP_UNAVAILABLE: &str = "SMTP_UNAVAILABLE";
    /// Failed: its owner does not know what it is about.
    pub const SUBJECT_NOT_FOUND: &str = "SUBJECT_NOT_FOUND";
    /// Failed: the template could not be filled.
    pub const TEMPLATE_FAULT: &str = "TEMPLATE_FAULT";
}

/// Where a notification stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Waits for its time or its turn.
    Scheduled,
    /// Being handed over; it may have been sent.
    Sending,
    /// The mail server took it. Final.
    Sent,
    /// Not sent, for a reason. Final.
    Suppressed,
    /// Given up. Final.
    Failed,
}

impl State {
    /// The state's key in SQL.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Suppressed => "suppressed",
            Self::Failed => "failed",
        }
    }

    /// The state with this key.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        [
            Self::Scheduled,
            Self::Sending,
            Self::Sent,
            Self::Suppressed,
            Self::Failed,
        ]
        .into_iter()
        .find(|state| state.key() == key)
    }

    /// True when nothing more will happen.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Sent | Self::Suppressed | Self::Failed)
    }
}

/// The Message-ID of a message, in its sender's domain. It depends on what the message says and about what, and not on its
/// id: a message that is decided again, after commits were lost, is the same mail.
#[must_use]
pub fn message_id(notification: &Notification, from_email: &str) -> String {
    let what = hash::fingerprint([
        notification.order.to_string().as_str(),
        notification.stage.key(),
        "email",
        notification.subject.to_string().as_str(),
    ]);
    let domain = from_email.rsplit('@').next().filter(|domain| !domain.is_empty());
    format!(
        "{}@{}",
        &what[..32.min(what.len())],
        domain.unwrap_or("unknown.invalid")
    )
}

/// A message that an event asks for.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Id it will have.
    pub id: NotificationId,
    /// The merchant.
    pub merchant: MerchantId,
    /// The store.
    pub store: StoreId,
    /// The order.
    pub order: OrderId,
    /// What is told.
    pub stage: Stage,
    /// What it is about.
    pub subject: Uuid,
    /// Not before this time.
    pub scheduled_at: DateTime<Utc>,
    /// The trace it belongs to.
    pub traceparent: Option<String>,
}

/// A message and what became of it.
#[derive(Debug, Clone)]
pub struct Notification {
    /// Id.
    pub id: NotificationId,
    /// The merchant.
    pub merchant: MerchantId,
    /// The store.
    pub store: StoreId,
    /// The order.
    pub order: OrderId,
    /// What is told.
    pub stage: Stage,
    /// What it is about.
    pub subject: Uuid,
    /// Where it stands.
    pub state: State,
    /// Why it waits, was suppressed or failed.
    pub reason: String,
    /// Tries so far.
    pub attempts: i32,
    /// Message-ID; empty before the first try.
    pub message_id: String,
    /// Not before this time.
    pub scheduled_at: DateTime<Utc>,
    /// When it was taken.
    pub sent_at: Option<DateTime<Utc>>,
    /// The trace it belongs to.
    pub traceparent: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notification(id: NotificationId, order: u128, stage: Stage, subject: u128) -> Notification {
        Notification {
            id,
            merchant: MerchantId::from(Uuid::from_u128(1)),
            store: StoreId::from(Uuid::from_u128(2)),
            order: OrderId::from(Uuid::from_u128(order)),
            stage,
            subject: Uuid::from_u128(subject),
            state: State::Scheduled,
            reason: String::new(),
            attempts: 0,
            message_id: String::new(),
            scheduled_at: DateTime::UNIX_EPOCH,
            sent_at: None,
            traceparent: None,
        }
    }

    #[test]
    fn a_message_decided_again_is_the_same_mail() {
        let id = |order, stage, subject, from: &str| {
            message_id(
                &notification(NotificationId::generate(), order, stage, subject),
                from,
            )
        };
        let first = id(3, Stage::OrderConfirmed, 3, "a@shop.example");
        assert_eq!(first, id(3, Stage::OrderConfirmed, 3, "b@shop.example"));
        assert!(first.ends_with("@shop.example"), "{first}");
        for other in [
            id(4, Stage::OrderConfirmed, 3, "a@shop.example"),
            id(3, Stage::OrderCancelled, 3, "a@shop.example"),
            id(3, Stage::OrderConfirmed, 4, "a@shop.example"),
        ] {
            assert_ne!(first, other);
        }
        assert!(id(3, Stage::OrderConfirmed, 3, "").ends_with("@unknown.invalid"));
    }
}
