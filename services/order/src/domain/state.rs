//! The four facets of an order together, and the overall status that they lead to.
//!
//! `OPEN -> CANCELLED` by a decision, while nothing has shipped; `OPEN -> COMPLETED` by itself, once everything is paid
//! and everything has arrived. Both are final (O-3): returns and refunds still move their own facets, but not this one.
//! `OPEN <-> ON_HOLD` by the holds that are open (O-15); a held order may be cancelled, and completes only once released.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::attempt::AttemptKind;
use super::goods::{FulfillmentStatus, Goods};
use super::hold::MAX_OPEN;
use super::payment::{Money, PaymentKind, PaymentRefused, PaymentStatus};
use super::returns::ReturnStatus;

/// Where an order as a whole stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Status {
    /// Being worked on.
    Open,
    /// Stopped until a person or a rule releases it.
    OnHold,
    /// Cancelled; final.
    Cancelled,
    /// Everything delivered and paid; final.
    Completed,
}

keys! { Status {
    Open = "OPEN",
    OnHold = "ON_HOLD",
    Cancelled = "CANCELLED",
    Completed = "COMPLETED",
} }

impl Status {
    /// Whether nothing follows it.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Status::Cancelled | Status::Completed)
    }
}

/// All of an order that changes. It holds no personal data, so that an answer to a mutation can be kept as this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Where the order as a whole stands.
    pub status: Status,
    /// Its money.
    pub money: Money,
    /// Its goods.
    pub goods: Goods,
    /// Its returns.
    pub returns: ReturnStatus,
    /// Why it was cancelled; empty otherwise.
    pub cancel_reason: String,
    /// How many payments were recorded.
    pub payments: u32,
    /// How many holds are open.
    #[serde(default)]
    pub holds: u32,
    /// Counts the changes that this service tells in its log; the database counts.
    pub version: i64,
    /// When the row was last changed, by this service's clock.
    pub updated_at: DateTime<Utc>,
}

/// A part of what is ordered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Units that need shipping.
    pub to_ship: i64,
    /// What all its units cost.
    pub amount: i64,
}

/// An order cannot be cancelled any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotCancellable {
    /// Where it stands.
    pub status: Status,
    /// Units that have shipped.
    pub shipped: i64,
}

/// An order cannot be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotHoldable {
    /// It is at its end.
    Ended(Status),
    /// This many holds are open, and no more may be.
    TooMany(u32),
}

impl State {
    /// An order that was just placed.
    #[must_use]
    pub fn placed(total: i64, units_to_ship: i64, at: DateTime<Utc>) -> State {
        let mut state = State {
            status: Status::Open,
            money: Money::of(total),
            goods: Goods::of(units_to_ship),
            returns: ReturnStatus::None,
            cancel_reason: String::new(),
            payments: 0,
            holds: 0,
            version: 1,
            updated_at: at,
        };
        // A free download is complete at once.
        state.complete_if_done();
        state
    }

    /// Counts a decided change. The database counts too, and must agree.
    pub fn touch(&mut self, at: DateTime<Utc>) {
        self.version += 1;
        self.updated_at = at;
    }

    /// The version as callers hand it back for conditional changes.
    #[must_use]
    pub fn etag(&self) -> String {
        self.version.to_string()
    }

    /// Where the money stands.
    #[must_use]
    pub fn payment_status(&self) -> PaymentStatus {
        self.money.status()
    }

    /// Where the goods stand.
    #[must_use]
    pub fn fulfillment_status(&self) -> FulfillmentStatus {
        self.goods.status()
    }

    /// Whether the order is at its end.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.status.is_final()
    }

    /// Whether addresses no longer decide anything: the order is at its end, or everything has shipped.
    #[must_use]
    pub fn addresses_are_settled(&self) -> bool {
        self.is_final() || self.goods.all_shipped()
    }

    /// Cancels the order.
    ///
    /// # Errors
    /// When it is at an end, or something has shipped; nothing has changed then.
    pub fn cancel(&mut self, reason: &str) -> Result<(), NotCancellable> {
        if self.status.is_final() || self.goods.shipped > 0 {
            return Err(self.not_cancellable());
        }
        self.status = Status::Cancelled;
        self.holds = 0;
        reason.clone_into(&mut self.cancel_reason);
        Ok(())
    }

    /// Why the order cannot be cancelled, where it cannot.
    #[must_use]
    pub fn not_cancellable(&self) -> NotCancellable {
        NotCancellable {
            status: self.status,
            shipped: self.goods.shipped,
        }
    }

    /// Cancels units of an order that is not at its end: so many of those that need shipping, which cost this together. Tells
    /// whether what is left was complete.
    pub fn cancel_units(&mut self, to_ship: i64, amount: i64) -> bool {
        self.goods.cancelled += to_ship;
        self.money.cancelled += amount;
        self.complete_if_done()
    }

    /// Changes what is ordered of an order that is not at its end: what comes, and what goes. Tells whether what is left was
    /// complete.
    pub fn edit(&mut self, comes: Share, goes: Share) -> bool {
        self.goods.to_ship += comes.to_ship;
        self.money = self.money.with_added(comes.amount);
        self.cancel_units(goes.to_ship, goes.amount)
    }

    /// Stops the order by one more hold.
    ///
    /// # Errors
    /// When it is at an end, or has as many holds as an order may have; nothing has changed then.
    pub fn hold(&mut self) -> Result<(), NotHoldable> {
        if self.status.is_final() {
            return Err(NotHoldable::Ended(self.status));
        }
        if self.holds >= MAX_OPEN {
            return Err(NotHoldable::TooMany(self.holds));
        }
        self.holds += 1;
        self.status = Status::OnHold;
        Ok(())
    }

    /// Ends so many of its holds. With the last one the order goes on; tells whether that completed it.
    pub fn release(&mut self, holds: u32) -> bool {
        self.holds = self.holds.saturating_sub(holds);
        if self.status == Status::OnHold && self.holds == 0 {
            self.status = Status::Open;
        }
        self.complete_if_done()
    }

    /// Records a payment; tells whether it completed the order. What was taken for a cancelled order is recorded, too: only
    /// what is known goes back.
    ///
    /// # Errors
    /// When the payment cannot be; nothing has changed then.
    pub fn record(&mut self, kind: PaymentKind, amount: i64) -> Result<bool, PaymentRefused> {
        self.money = self.money.record(kind, amount)?;
        self.payments += 1;
        Ok(self.complete_if_done())
    }

    /// Ends a capture in flight that took its amount, and records it; tells whether that completed the order. A capture
    /// that was begun fits (O-28), and no order is cancelled while one is in flight.
    pub fn capture_taken(&mut self, amount: i64) -> bool {
        self.money.capturing -= amount;
        self.money.captured += amount;
        self.payments += 1;
        self.complete_if_done()
    }

    /// Records that what was open of an authorisation is released; tells whether that completed the order. What others told to
    /// be released before is not counted again.
    pub fn released(&mut self, amount: i64) -> bool {
        let Money {
            authorized, voided, ..
        } = self.money;
        self.money.voided = voided.saturating_add(amount).min(authorized);
        self.payments += 1;
        self.complete_if_done()
    }

    /// Records that a provider did not do what it was asked for; tells whether that completed the order, which it never does.
    pub fn attempt_failed(&mut self, kind: AttemptKind, amount: i64) -> bool {
        if kind == AttemptKind::Capture {
            self.money.capturing -= amount;
        }
        self.payments += 1;
        false
    }

    /// Completes an open order once everything is paid and everything has arrived; tells whether it did so now.
    pub fn complete_if_done(&mut self) -> bool {
        let done = self.status == Status::Open && self.money.paid_in_full() && self.goods.all_arrived();
        if done {
            self.status = Status::Completed;
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::goods::LineGoods;

    #[derive(Debug, Clone)]
    enum Step {
        Cancel,
        Record(PaymentKind, i64),
        Ship(i32),
        Deliver(i32),
        Refunded(i64),
        Returned(ReturnStatus),
        Hold,
        Release(u32),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            1 => Just(Step::Cancel),
            4 => (proptest::sample::select(PaymentKind::ALL.to_vec()), 1..60_i64)
                .prop_map(|(kind, amount)| Step::Record(kind, amount)),
            3 => (1..4_i32).prop_map(Step::Ship),
            3 => (1..4_i32).prop_map(Step::Deliver),
            1 => (0..120_i64).prop_map(Step::Refunded),
            1 => proptest::sample::select(ReturnStatus::ALL.to_vec()).prop_map(Step::Returned),
            2 => Just(Step::Hold),
            2 => (1..4_u32).prop_map(Step::Release),
        ]
    }

    fn at() -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
    }

    #[test]
    fn paid_and_delivered_is_complete_in_either_order() {
        for pay_first in [true, false] {
            let mut state = State::placed(100, 1, at());
            let mut line = LineGoods {
                quantity: 1,
                shipped: 0,
                delivered: 0,
            };
            if pay_first {
                assert_eq!(state.record(PaymentKind::Capture, 100), Ok(false));
            }
            state.goods.ship(&mut line, 1);
            assert!(!state.complete_if_done());
            state.goods.deliver(&mut line, 1);
            if pay_first {
                assert!(state.complete_if_done());
            } else {
                assert!(!state.complete_if_done());
                assert_eq!(state.record(PaymentKind::Capture, 100), Ok(true));
            }
            assert_eq!(state.status, Status::Completed);
        }
    }

    #[test]
    fn what_is_digital_is_complete_when_paid_and_what_is_free_too_at_once() {
        let mut gift_card = State::placed(50, 0, at());
        assert_eq!(gift_card.status, Status::Open);
        assert_eq!(gift_card.record(PaymentKind::Capture, 50), Ok(true));
        assert_eq!(State::placed(0, 0, at()).status, Status::Completed);
        assert_eq!(
            State::placed(0, 1, at()).status,
            Status::Open,
            "a free sample still has to arrive"
        );
    }

    #[test]
    fn a_refund_before_delivery_does_not_keep_an_order_open_for_ever() {
        let mut state = State::placed(100, 1, at());
        state.record(PaymentKind::Capture, 100).expect("the total");
        state.money.refunded = 30;
        let mut line = LineGoods {
            quantity: 1,
            shipped: 0,
            delivered: 0,
        };
        state.goods.deliver(&mut line, 1);
        assert!(state.complete_if_done());
        assert_eq!(state.payment_status(), PaymentStatus::PartiallyRefunded);
    }

    #[test]
    fn what_providers_did_is_recorded_after_a_cancellation_too() {
        let mut state = State::placed(100, 1, at());
        state.record(PaymentKind::Authorization, 100).expect("no limit");
        state.cancel("changed their mind").expect("nothing shipped");
        assert_eq!(state.record(PaymentKind::Void, 100), Ok(false));
        assert_eq!(state.payment_status(), PaymentStatus::Voided);
        assert_eq!(state.record(PaymentKind::Authorization, 1), Ok(false));
        assert_eq!(state.record(PaymentKind::Capture, 100), Ok(false));
        assert_eq!(
            state.record(PaymentKind::Capture, 1),
            Err(PaymentRefused::CaptureExceedsTotal { open: 0 })
        );
        assert_eq!((state.status, state.money.captured), (Status::Cancelled, 100));
    }

    #[test]
    fn what_is_left_completes_the_order_once_the_rest_is_cancelled() {
        let mut state = State::placed(100, 2, at());
        let mut line = LineGoods {
            quantity: 2,
            shipped: 0,
            delivered: 0,
        };
        state.record(PaymentKind::Capture, 50).expect("half of it");
        state.goods.deliver(&mut line, 1);
        assert_eq!(state.fulfillment_status(), FulfillmentStatus::PartiallyFulfilled);
        assert!(state.cancel_units(1, 50));
        assert_eq!(
            (state.status, state.payment_status()),
            (Status::Completed, PaymentStatus::Paid)
        );
        assert_eq!(state.fulfillment_status(), FulfillmentStatus::Delivered);
    }

    #[test]
    fn a_held_order_goes_on_with_its_last_hold_and_completes_only_then() {
        let mut state = State::placed(100, 1, at());
        state.hold().expect("it is open");
        state.hold().expect("a second reason");
        let mut line = LineGoods {
            quantity: 1,
            shipped: 0,
            delivered: 0,
        };
        state.record(PaymentKind::Capture, 100).expect("the total");
        state.goods.deliver(&mut line, 1);
        assert!(!state.complete_if_done());
        assert!(!state.release(1));
        assert_eq!((state.status, state.holds), (Status::OnHold, 1));
        assert!(state.release(1));
        assert_eq!((state.status, state.holds), (Status::Completed, 0));
        assert_eq!(state.hold(), Err(NotHoldable::Ended(Status::Completed)));
    }

    #[test]
    fn holds_have_a_limit_and_end_with_a_cancellation() {
        let mut state = State::placed(100, 1, at());
        for _ in 0..MAX_OPEN {
            state.hold().expect("not so many yet");
        }
        assert_eq!(state.hold(), Err(NotHoldable::TooMany(MAX_OPEN)));
        state.cancel("test").expect("nothing shipped");
        assert_eq!((state.status, state.holds), (Status::Cancelled, 0));
        assert!(!state.release(1));
        assert_eq!(state.status, Status::Cancelled);
    }

    proptest! {
        /// O-3 over every history: an end is an end; COMPLETED means paid and arrived; CANCELLED means that nothing had
        /// shipped when it was decided; a refusal changes nothing.
        #[test]
        fn ends_are_final_and_deserved(
            total in 0..100_i64,
            quantity in 1..4_i32,
            digital in any::<bool>(),
            steps in proptest::collection::vec(any_step(), 0..30),
        ) {
            let to_ship = if digital { 0 } else { i64::from(quantity) };
            let mut state = State::placed(total, to_ship, at());
            let mut line = LineGoods { quantity, shipped: 0, delivered: 0 };
            for step in steps {
                let before = state.clone();
                match step {
                    Step::Cancel => {
                        let result = state.cancel("test");
                        prop_assert_eq!(result.is_ok(), !before.is_final() && before.goods.shipped == 0);
                        if result.is_err() {
                            prop_assert_eq!(&state, &before);
                        }
                    }
                    Step::Record(kind, amount) => {
                        if state.record(kind, amount).is_err() {
                            prop_assert_eq!(&state, &before);
                        }
                    }
                    Step::Ship(units) if !digital => state.goods.ship(&mut line, units),
                    Step::Deliver(units) if !digital => {
                        state.goods.deliver(&mut line, units);
                        state.complete_if_done();
                    }
                    Step::Ship(_) | Step::Deliver(_) => {}
                    Step::Refunded(sum) => state.money.refunded = sum,
                    Step::Returned(status) => state.returns = status,
                    Step::Hold => {
                        let result = state.hold();
                        prop_assert_eq!(result.is_ok(), !before.is_final() && before.holds < MAX_OPEN);
                        if result.is_err() {
                            prop_assert_eq!(&state, &before);
                        }
                    }
                    Step::Release(holds) => {
                        let completed = state.release(holds);
                        prop_assert_eq!(completed, state.status == Status::Completed && before.status == Status::OnHold);
                    }
                }
                if before.status.is_final() {
                    prop_assert_eq!(state.status, before.status);
                }
                prop_assert_eq!(state.status == Status::OnHold, state.holds > 0, "O-15");
                let done = state.money.paid_in_full() && state.goods.all_arrived();
                match state.status {
                    Status::Completed => prop_assert!(done),
                    Status::Open => prop_assert!(!done, "a done order is not left open: {:?}", state),
                    Status::OnHold | Status::Cancelled => {}
                }
            }
        }
    }
}
