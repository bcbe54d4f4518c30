//! Stages: what a customer can be told, and what each is about.

use serde::{Deserialize, Serialize};

/// What the customer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The order was taken.
    OrderConfirmed,
    /// What is ordered was changed.
    OrderEdited,
    /// The order was cancelled.
    OrderCancelled,
    /// A shipment was handed to the carrier.
    Shipped,
    /// A shipment is on its way.
    InTransit,
    /// A shipment arrives today.
    OutForDelivery,
    /// A shipment arrived.
    Delivered,
    /// Something went wrong with a shipment.
    Exception,
    /// How was it?
    Feedback,
    /// A return was requested.
    ReturnRequested,
    /// A return was approved.
    ReturnApproved,
    /// A return was declined.
    ReturnDeclined,
    /// Returned goods are back.
    ReturnReceived,
    /// A refund was handed to its provider.
    RefundStarted,
    /// A refund was paid.
    RefundSucceeded,
    /// A refund was refused by the provider.
    RefundFailed,
}

/// What a stage is about; decides whom to ask for details.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The order itself.
    Order,
    /// One of its shipments.
    Shipment,
    /// One of its returns.
    Return,
    /// One of its refunds.
    Refund,
}

impl Stage {
    /// All stages, in the order a customer may meet them.
    pub const ALL: [Self; 16] = [
        Self::OrderConfirmed,
        Self::OrderEdited,
        Self::OrderCancelled,
        Self::Shipped,
        Self::InTransit,
        Self::OutForDelivery,
        Self::Delivered,
        Self::Exception,
        Self::Feedback,
        Self::ReturnRequested,
        Self::ReturnApproved,
        Self::ReturnDeclined,
        Self::ReturnReceived,
        Self::RefundStarted,
        Self::RefundSucceeded,
        Self::RefundFailed,
    ];

    /// The stage's key in SQL, events and template names.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::OrderConfirmed => "order_confirmed",
            Self::OrderEdited => "order_edited",
            Self::OrderCancelled => "order_cancelled",
            Self::Shipped => "shipped",
            Self::InTransit => "in_transit",
            Self::OutForDelivery => "out_for_delivery",
            Self::Delivered => "delivered",
            Self::Exception => "exception",
            Self::Feedback => "feedback",
            Self::ReturnRequested => "return_requested",
            Self::ReturnApproved => "return_approved",
            Self::ReturnDeclined => "return_declined",
            Self::ReturnReceived => "return_received",
            Self::RefundStarted => "refund_started",
            Self::RefundSucceeded => "refund_succeeded",
            Self::RefundFailed => "refund_failed",
        }
    }

    /// The stage with this key.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.key() == key)
    }

    /// What it is about.
    #[must_use]
    pub const fn subject(self) -> Subject {
        match self {
            // Each edit is told by itself, and says what the order is with it.
            Self::OrderConfirmed | Self::OrderEdited | Self::OrderCancelled | Self::Feedback => {
                Subject::Order
            }
            Self::Shipped | Self::InTransit | Self::OutForDelivery | Self::Delivered | Self::Exception => {
                Subject::Shipment
            }
            Self::ReturnRequested | Self::ReturnApproved | Self::ReturnDeclined | Self::ReturnReceived => {
                Subject::Return
            }
            Self::RefundStarted | Self::RefundSucceeded | Self::RefundFailed => Subject::Refund,
        }
    }

    /// True for stages that wait while something about the order is open: nobody is asked how it was in the middle of a
    /// return.
    #[must_use]
    pub const fn is_follow_up(self) -> bool {
        matches!(self, Self::Feedback)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_unique_and_lead_back() {
        for stage in Stage::ALL {
            assert_eq!(Stage::from_key(stage.key()), Some(stage));
        }
        assert_eq!(Stage::from_key("order confirmed"), None);
    }
}
