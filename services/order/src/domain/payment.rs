//! The payment facet: what was authorised, given back, captured and refunded, and the status that follows from it.
//!
//! The sums are the state; the status is computed and never set. No capture goes beyond what is to be paid (O-4). What went back
//! is told by the refund service and is taken as it is: refunds made outside may exceed what was captured, and must be
//! seen, not hidden.

use serde::{Deserialize, Serialize};

/// What a payment did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PaymentKind {
    /// Money was set aside.
    Authorization,
    /// Money was taken.
    Capture,
    /// An authorisation was given back.
    Void,
    /// One of these was refused: no sum changes.
    Failure,
    /// The customer's bank asks money back.
    Dispute,
    /// A dispute has ended, and the money stays.
    DisputeWon,
    /// A dispute has ended, and the money is gone.
    DisputeLost,
}

keys! { PaymentKind {
    Authorization = "authorization",
    Capture = "capture",
    Void = "void",
    Failure = "failure",
    Dispute = "dispute",
    DisputeWon = "dispute_won",
    DisputeLost = "dispute_lost",
} }

impl PaymentKind {
    /// Whether it is about a dispute.
    #[must_use]
    pub fn is_dispute(self) -> bool {
        matches!(
            self,
            PaymentKind::Dispute | PaymentKind::DisputeWon | PaymentKind::DisputeLost
        )
    }

    /// Whether a provider gives a reason with it.
    #[must_use]
    pub fn has_reason(self) -> bool {
        self == PaymentKind::Failure || self.is_dispute()
    }
}

/// Where the money of an order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PaymentStatus {
    /// Nothing authorised or captured.
    Pending,
    /// Authorised, not captured.
    Authorized,
    /// Captured in part.
    PartiallyPaid,
    /// Captured in full; also an order that costs nothing.
    Paid,
    /// Part of what was captured went back.
    PartiallyRefunded,
    /// All that was captured went back.
    Refunded,
    /// The authorisation was given back without a capture.
    Voided,
}

keys! { PaymentStatus {
    Pending = "PENDING",
    Authorized = "AUTHORIZED",
    PartiallyPaid = "PARTIALLY_PAID",
    Paid = "PAID",
    PartiallyRefunded = "PARTIALLY_REFUNDED",
    Refunded = "REFUNDED",
    Voided = "VOIDED",
} }

/// The money of an order, in minor units of its currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    /// What the customer pays.
    pub total: i64,
    /// All that was authorised.
    pub authorized: i64,
    /// All of it that was given back.
    pub voided: i64,
    /// All that was captured.
    pub captured: i64,
    /// All that went back, as the refund service tells it.
    pub refunded: i64,
    /// What of the total is no longer to be paid, because units were cancelled.
    #[serde(default)]
    pub cancelled: i64,
    /// What is to be paid besides the total, because edits added lines.
    #[serde(default)]
    pub added: i64,
    /// Of what was captured, what had been paid for units that were gone before the last edit: it goes back, and does not pay
    /// for what came with it.
    #[serde(default)]
    pub owed_back: i64,
    /// What captures in flight are about to take.
    #[serde(default)]
    pub capturing: i64,
    /// What is disputed and not decided.
    #[serde(default)]
    pub disputed: i64,
    /// What disputes took; part of what was captured.
    #[serde(default)]
    pub dispute_lost: i64,
}

/// Why a payment cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaymentRefused {
    /// More would be captured than the order costs.
    CaptureExceedsTotal {
        /// What could still be captured.
        open: i64,
    },
    /// More would be given back than is authorised.
    NothingAuthorized {
        /// What could still be given back.
        open: i64,
    },
    /// More disputes would end than are open.
    NothingDisputed {
        /// What is disputed.
        open: i64,
    },
    /// The sum of all authorisations, or of all disputes, does not fit into 64 bits.
    Overflow,
}

impl Money {
    /// An order of which nothing is paid.
    #[must_use]
    pub const fn of(total: i64) -> Money {
        Money {
            total,
            authorized: 0,
            voided: 0,
            captured: 0,
            refunded: 0,
            cancelled: 0,
            added: 0,
            owed_back: 0,
            capturing: 0,
            disputed: 0,
            dispute_lost: 0,
        }
    }

    /// What the customer pays: the total with what was added and without what was cancelled.
    #[must_use]
    pub const fn due(self) -> i64 {
        self.total + self.added - self.cancelled
    }

    /// What was captured and does not go back for units that are gone.
    const fn kept(self) -> i64 {
        self.captured - self.owed_back
    }

    /// What is still to be captured.
    #[must_use]
    pub fn open(self) -> i64 {
        // Less than nothing is open when units were cancelled that had been paid.
        (self.due() - self.kept()).max(0)
    }

    /// What is captured beyond what is to be paid, for units that are gone since the last edit.
    #[must_use]
    pub fn overpaid(self) -> i64 {
        (self.kept() - self.due()).max(0)
    }

    /// The money with lines of an edit that cost this. What was overpaid before is on its way back.
    #[must_use]
    pub fn with_added(self, amount: i64) -> Money {
        Money {
            owed_back: self.owed_back + self.overpaid(),
            added: self.added + amount,
            ..self
        }
    }

    /// What may still be taken: what is to be paid and neither captured nor about to be (O-28). Not negative, also when units
    /// were cancelled that had been paid.
    #[must_use]
    pub fn payable(self) -> i64 {
        (self.due() - self.kept() - self.capturing).max(0)
    }

    /// Whether captures in flight take no more than is to be paid (O-28).
    #[must_use]
    pub const fn captures_fit(self) -> bool {
        self.capturing == 0 || self.kept() + self.capturing <= self.due()
    }

    /// The money after a payment of more than 0.
    ///
    /// A capture needs no authorisation (a sale is both in one), and does not use one up: several providers may share an
    /// order, and which of them captures is theirs to know.
    ///
    /// # Errors
    /// When the payment cannot be; nothing has changed then.
    pub fn record(self, kind: PaymentKind, amount: i64) -> Result<Money, PaymentRefused> {
        match kind {
            PaymentKind::Authorization => {
                let authorized = self
                    .authorized
                    .checked_add(amount)
                    .ok_or(PaymentRefused::Overflow)?;
                Ok(Money { authorized, ..self })
            }
            PaymentKind::Capture => {
                let open = self.payable();
                if amount > open {
                    return Err(PaymentRefused::CaptureExceedsTotal { open });
                }
                Ok(Money {
                    captured: self.captured + amount,
                    ..self
                })
            }
            PaymentKind::Void => {
                let open = self.authorized - self.voided;
                if amount > open {
                    return Err(PaymentRefused::NothingAuthorized { open });
                }
                Ok(Money {
                    voided: self.voided + amount,
                    ..self
                })
            }
            PaymentKind::Failure => Ok(self),
            PaymentKind::Dispute => {
                let disputed = self.disputed.checked_add(amount);
                // What is lost is part of what was disputed, and has to fit beside it.
                let disputed = disputed.filter(|sum| sum.checked_add(self.dispute_lost).is_some());
                Ok(Money {
                    disputed: disputed.ok_or(PaymentRefused::Overflow)?,
                    ..self
                })
            }
            PaymentKind::DisputeWon | PaymentKind::DisputeLost => {
                let open = self.disputed;
                if amount > open {
                    return Err(PaymentRefused::NothingDisputed { open });
                }
                let lost = if kind == PaymentKind::DisputeLost {
                    amount
                } else {
                    0
                };
                Ok(Money {
                    disputed: open - amount,
                    dispute_lost: self.dispute_lost + lost,
                    ..self
                })
            }
        }
    }

    /// Whether the customer has paid everything that is to be paid, whatever of it went back since.
    #[must_use]
    pub const fn paid_in_full(self) -> bool {
        self.kept() >= self.due()
    }

    /// Where the money stands.
    #[must_use]
    pub const fn status(self) -> PaymentStatus {
        if self.captured > 0 && self.refunded > 0 {
            return if self.refunded >= self.captured {
                PaymentStatus::Refunded
            } else {
                PaymentStatus::PartiallyRefunded
            };
        }
        if self.paid_in_full() {
            PaymentStatus::Paid
        } else if self.captured > 0 {
            PaymentStatus::PartiallyPaid
        } else if self.authorized > self.voided {
            PaymentStatus::Authorized
        } else if self.voided > 0 {
            PaymentStatus::Voided
        } else {
            PaymentStatus::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use PaymentKind::{Authorization, Capture, Dispute, DisputeLost, DisputeWon, Failure, Void};

    fn after(total: i64, payments: &[(PaymentKind, i64)]) -> Money {
        payments.iter().fold(Money::of(total), |money, &(kind, amount)| {
            money.record(kind, amount).expect("a payment that can be")
        })
    }

    #[test]
    fn the_usual_ways() {
        let cases: [(&[(PaymentKind, i64)], PaymentStatus); 8] = [
            (&[], PaymentStatus::Pending),
            (&[(Authorization, 100)], PaymentStatus::Authorized),
            (&[(Authorization, 100), (Void, 40)], PaymentStatus::Authorized),
            (&[(Authorization, 100), (Void, 100)], PaymentStatus::Voided),
            (
                &[(Authorization, 100), (Capture, 60)],
                PaymentStatus::PartiallyPaid,
            ),
            (
                &[(Authorization, 100), (Capture, 60), (Void, 40)],
                PaymentStatus::PartiallyPaid,
            ),
            (
                &[(Authorization, 100), (Capture, 60), (Capture, 40)],
                PaymentStatus::Paid,
            ),
            (&[(Capture, 100)], PaymentStatus::Paid),
        ];
        for (payments, status) in cases {
            assert_eq!(after(100, payments).status(), status, "{payments:?}");
        }
    }

    #[test]
    fn money_that_goes_back_is_seen_even_beyond_what_was_captured() {
        let paid = after(100, &[(Capture, 100)]);
        for (refunded, status) in [
            (0, PaymentStatus::Paid),
            (1, PaymentStatus::PartiallyRefunded),
            (100, PaymentStatus::Refunded),
            (150, PaymentStatus::Refunded),
        ] {
            let money = Money { refunded, ..paid };
            assert_eq!(money.status(), status);
            assert!(money.paid_in_full(), "what went back was paid before");
        }
    }

    #[test]
    fn what_is_cancelled_is_not_to_be_paid() {
        let half = Money {
            cancelled: 60,
            ..after(100, &[(Authorization, 100)])
        };
        assert_eq!(
            half.record(Capture, 41),
            Err(PaymentRefused::CaptureExceedsTotal { open: 40 })
        );
        assert_eq!(
            half.record(Capture, 40).map(Money::status),
            Ok(PaymentStatus::Paid)
        );
        let paid_before = Money {
            cancelled: 60,
            ..after(100, &[(Capture, 100)])
        };
        assert_eq!(
            paid_before.record(Capture, 1),
            Err(PaymentRefused::CaptureExceedsTotal { open: 0 })
        );
    }

    #[test]
    fn what_is_added_is_to_be_paid_besides_what_goes_back() {
        let more = after(100, &[(Capture, 100)]).with_added(50);
        assert_eq!((more.due(), more.open(), more.overpaid()), (150, 50, 0));
        assert_eq!(more.status(), PaymentStatus::PartiallyPaid);
        assert_eq!(
            more.record(Capture, 51),
            Err(PaymentRefused::CaptureExceedsTotal { open: 50 })
        );
        assert_eq!(
            more.record(Capture, 50).map(Money::status),
            Ok(PaymentStatus::Paid)
        );

        // 20 of the 100 go back, whether they are back yet or not: they pay for nothing that comes later.
        let less = Money {
            cancelled: 20,
            ..after(100, &[(Capture, 100)])
        };
        assert_eq!((less.open(), less.overpaid()), (0, 20));
        let other = less.with_added(30);
        assert_eq!((other.due(), other.open(), other.overpaid()), (110, 30, 0));
        assert!(!other.paid_in_full());
        assert_eq!(
            other
                .record(Capture, 30)
                .map(|paid| (paid.captured, paid.paid_in_full())),
            Ok((130, true))
        );
    }

    #[test]
    fn what_is_on_its_way_is_not_taken_twice() {
        let flying = Money {
            capturing: 60,
            ..Money::of(100)
        };
        assert_eq!(
            flying.record(Capture, 41),
            Err(PaymentRefused::CaptureExceedsTotal { open: 40 })
        );
        assert!(flying.captures_fit());
        let cancelled = Money {
            cancelled: 50,
            ..flying
        };
        assert!(!cancelled.captures_fit());
    }

    #[test]
    fn disputes_and_failures_leave_what_was_paid() {
        let paid = after(100, &[(Capture, 100), (Failure, 30)]);
        assert_eq!(paid, after(100, &[(Capture, 100)]));
        let disputed = after(100, &[(Capture, 100), (Dispute, 60), (Dispute, 40)]);
        assert_eq!((disputed.disputed, disputed.status()), (100, PaymentStatus::Paid));
        let lost = disputed.record(DisputeLost, 60).expect("it is open");
        assert_eq!((lost.disputed, lost.dispute_lost, lost.captured), (40, 60, 100));
        let won = lost.record(DisputeWon, 40).expect("it is open");
        assert_eq!((won.disputed, won.dispute_lost), (0, 60));
        assert_eq!(
            won.record(DisputeWon, 1),
            Err(PaymentRefused::NothingDisputed { open: 0 })
        );
    }

    #[test]
    fn what_costs_nothing_is_paid() {
        assert_eq!(Money::of(0).status(), PaymentStatus::Paid);
        assert_eq!(
            Money::of(0).record(Capture, 1),
            Err(PaymentRefused::CaptureExceedsTotal { open: 0 })
        );
    }

    fn any_kind() -> impl Strategy<Value = PaymentKind> {
        proptest::sample::select(PaymentKind::ALL.to_vec())
    }

    proptest! {
        /// O-4 over every history: never more captured than the total, never more given back than authorised, a refusal
        /// changes nothing, and the status says what the sums say.
        #[test]
        fn sums_stay_within_bounds(
            total in 0..1_000_i64,
            payments in proptest::collection::vec((any_kind(), prop_oneof![1..400_i64, Just(i64::MAX)]), 0..30),
            refunded in 0..1_200_i64,
        ) {
            let mut money = Money::of(total);
            let mut accepted = Vec::new();
            for (kind, amount) in payments {
                let before = money;
                match money.record(kind, amount) {
                    Ok(next) => {
                        accepted.push((kind, amount));
                        money = next;
                    }
                    Err(PaymentRefused::CaptureExceedsTotal { open }) => {
                        prop_assert!(kind == Capture && open == total - before.captured && amount > open);
                    }
                    Err(PaymentRefused::NothingAuthorized { open }) => {
                        prop_assert!(kind == Void && amount > open && open >= 0);
                    }
                    Err(PaymentRefused::NothingDisputed { open }) => {
                        prop_assert!(matches!(kind, DisputeWon | DisputeLost) && amount > open && open >= 0);
                    }
                    Err(PaymentRefused::Overflow) => prop_assert!(matches!(kind, Authorization | Dispute)),
                }
            }
            let sum = |wanted| accepted.iter().filter(|(kind, _)| *kind == wanted).map(|(_, a)| a).sum::<i64>();
            prop_assert_eq!(money.captured, sum(Capture));
            prop_assert_eq!(money.authorized, sum(Authorization));
            prop_assert_eq!(money.voided, sum(Void));
            prop_assert!(money.captured <= total && money.voided <= money.authorized);
            // Disputes come and go, so what they sum to over time may be more than 64 bits hold.
            let all = |wanted| accepted.iter().filter(|(kind, _)| *kind == wanted).map(|(_, a)| i128::from(*a)).sum::<i128>();
            prop_assert_eq!(i128::from(money.disputed), all(Dispute) - all(DisputeWon) - all(DisputeLost));
            prop_assert_eq!(i128::from(money.dispute_lost), all(DisputeLost));

            let status = money.status();
            prop_assert_eq!(status == PaymentStatus::Paid, money.captured == total);
            if status == PaymentStatus::Voided {
                prop_assert!(money.captured == 0 && money.authorized == money.voided);
            }
            let back = Money { refunded, ..money };
            if refunded > 0 && money.captured > 0 {
                prop_assert_eq!(back.status() == PaymentStatus::Refunded, refunded >= money.captured);
            } else {
                prop_assert_eq!(back.status(), status);
            }
        }
    }
}
