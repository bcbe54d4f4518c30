//! Whose turn is it? Decides what becomes of a message now: sent, put off and why, or never sent and why.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::notification::{Notification, reason};

/// Something about an order that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Matter {
    /// A return that is not decided, not back or not paid.
    Return,
    /// A refund that is not paid, or was refused.
    Refund,
    /// A shipment in trouble.
    Shipment,
}

impl Matter {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Return, Self::Refund, Self::Shipment];

    /// The matter's key in SQL.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Return => "return",
            Self::Refund => "refund",
            Self::Shipment => "shipment",
        }
    }

    /// The matter with this key.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|matter| matter.key() == key)
    }

    /// Why a follow-up waits for it.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Return => reason::RETURN_OPEN,
            Self::Refund => reason::REFUND_OPEN,
            Self::Shipment => reason::SHIPMENT_OPEN,
        }
    }
}

/// What becomes of a message now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It goes out.
    Send,
    /// It waits until the store has a brand.
    WaitForBrand,
    /// It waits until what is open has closed.
    Wait(&'static str),
    /// It is never sent.
    Suppress(&'static str),
    /// It has reached its end before.
    Over,
}

impl Turn {
    /// Decides. `patience` is how long after its time a follow-up still makes sense.
    #[must_use]
    pub fn of(
        notification: &Notification,
        has_brand: bool,
        open: Option<Matter>,
        now: DateTime<Utc>,
        patience: Duration,
    ) -> Self {
        if notification.state.is_final() {
            return Self::Over;
        }
        if !has_brand {
            return Self::WaitForBrand;
        }
        // Only follow-ups wait: everything else tells the customer what has just happened.
        let Some(matter) = open.filter(|_| notification.stage.is_follow_up()) else {
            return Self::Send;
        };
        let patience = TimeDelta::from_std(patience).unwrap_or(TimeDelta::MAX);
        let too_late = now.signed_duration_since(notification.scheduled_at) > patience;
        if too_late {
            Self::Suppress(matter.reason())
        } else {
            Self::Wait(matter.reason())
        }
    }
}

#[cfg(test)]
mod tests {
    use waybill_kernel::id::{MerchantId, NotificationId, OrderId, StoreId};

    use super::super::notification::State;
    use super::super::stage::Stage;
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn notification(stage: Stage, state: State) -> Notification {
        let order = OrderId::generate();
        Notification {
            id: NotificationId::generate(),
            merchant: MerchantId::generate(),
            store: StoreId::generate(),
            order,
            stage,
            subject: order.uuid(),
            state,
            reason: String::new(),
            attempts: 0,
            message_id: String::new(),
            scheduled_at: DateTime::UNIX_EPOCH,
            sent_at: None,
            traceparent: None,
        }
    }

    #[test]
    fn only_follow_ups_wait_for_what_is_open() {
        for stage in Stage::ALL {
            for matter in Matter::ALL {
                let turn = Turn::of(
                    &notification(stage, State::Scheduled),
                    true,
                    Some(matter),
                    DateTime::UNIX_EPOCH,
                    DAY,
                );
                let expected = if stage == Stage::Feedback {
                    Turn::Wait(matter.reason())
                } else {
                    Turn::Send
                };
                assert_eq!(turn, expected, "{stage:?} {matter:?}");
            }
        }
    }

    #[test]
    fn a_follow_up_that_waited_too_long_is_not_sent() {
        let feedback = notification(Stage::Feedback, State::Scheduled);
        let at = |now| Turn::of(&feedback, true, Some(Matter::Return), now, DAY);
        let end = DateTime::UNIX_EPOCH + DAY;
        assert_eq!(at(end), Turn::Wait("RETURN_OPEN"));
        assert_eq!(
            at(end + TimeDelta::microseconds(1)),
            Turn::Suppress("RETURN_OPEN")
        );
        // What has closed is asked about, however late.
        assert_eq!(Turn::of(&feedback, true, None, end + DAY, DAY), Turn::Send);
    }

    #[test]
    fn nothing_goes_out_without_a_brand_and_nothing_twice() {
        for stage in Stage::ALL {
            let turn = |state, has_brand| {
                Turn::of(
                    &notification(stage, state),
                    has_brand,
                    None,
                    DateTime::UNIX_EPOCH,
                    DAY,
                )
            };
            assert_eq!(turn(State::Scheduled, false), Turn::WaitForBrand);
            // A try that was interrupted is taken up again.
            assert_eq!(turn(State::Sending, true), Turn::Send);
            for end in [State::Sent, State::Suppressed, State::Failed] {
                assert_eq!(turn(end, true), Turn::Over);
                assert_eq!(turn(end, false), Turn::Over);
            }
        }
    }

    #[test]
    fn keys_lead_back() {
        for matter in Matter::ALL {
            assert_eq!(Matter::from_key(matter.key()), Some(matter));
        }
    }
}
