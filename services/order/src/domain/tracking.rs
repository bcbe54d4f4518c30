//! What facts of other services do to the facets of an order.
//!
//! One order with as much of it as the facts are about. Applying a fact is total except for a line that the order does
//! not have: that is a fault of whoever told it, and is said, not guessed around.

use std::collections::BTreeMap;

use waybill_kernel::id::{LineId, ReturnId};

use super::fact::{Fact, ParcelFact, RefundFact, Units};
use super::goods::LineGoods;
use super::returns::{self, ReturnStage};
use super::state::State;

/// An order as the fold sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracked {
    /// Where it stands.
    pub state: State,
    /// Lines that facts are about. A digital line has a quantity of 0: there is nothing of it to ship.
    pub lines: BTreeMap<LineId, LineGoods>,
    /// All returns of the order.
    pub returns: BTreeMap<ReturnId, ReturnStage>,
}

/// A fact names a line that the order does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {0} is not a line of the order")]
pub struct UnknownLine(pub LineId);

impl Tracked {
    /// Applies a fact to the facets. Facts of the order service itself change nothing here: they took effect where they
    /// were decided.
    ///
    /// # Errors
    /// When the fact names a line that the order does not have; nothing has changed then.
    pub fn apply(&mut self, fact: &Fact) -> Result<(), UnknownLine> {
        match fact {
            Fact::Parcel {
                fact: ParcelFact::Shipped { units, .. },
                ..
            } => {
                self.each_line(units, |state, line, units| state.goods.ship(line, units))?;
            }
            Fact::Parcel {
                fact: ParcelFact::Delivered { units },
                ..
            } => {
                self.each_line(units, |state, line, units| state.goods.deliver(line, units))?;
            }
            Fact::Return { id, fact } => {
                let told = fact.stage();
                (self.returns.entry(*id))
                    .and_modify(|stage| *stage = stage.advance(told))
                    .or_insert(told);
                self.state.returns = returns::status(self.returns.values().copied());
            }
            Fact::Refund {
                fact: RefundFact::Succeeded { order_refunded } | RefundFact::Failed { order_refunded, .. },
                ..
            } => {
                // A sum, not a step: whatever was missed before, this is what went back.
                self.state.money.refunded = *order_refunded;
            }
            _ => {}
        }
        Ok(())
    }

    fn each_line(
        &mut self,
        units: &[Units],
        change: impl Fn(&mut State, &mut LineGoods, i32),
    ) -> Result<(), UnknownLine> {
        if let Some(unknown) = units.iter().find(|units| !self.lines.contains_key(&units.line)) {
            return Err(UnknownLine(unknown.line));
        }
        for Units { line, units } in units {
            if let Some(line) = self.lines.get_mut(line) {
                change(&mut self.state, line, *units);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use uuid::Uuid;
    use waybill_kernel::money::{Currency, Money};

    use super::*;
    use crate::domain::fact::ReturnFact;
    use crate::domain::goods::FulfillmentStatus;
    use crate::domain::payment::{PaymentKind, PaymentStatus};
    use crate::domain::returns::ReturnStatus;

    fn line(n: u128) -> LineId {
        LineId::from(Uuid::from_u128(n))
    }

    fn order() -> Tracked {
        Tracked {
            state: State::placed(100, 2, DateTime::UNIX_EPOCH),
            lines: BTreeMap::from([
                (
                    line(1),
                    LineGoods {
                        quantity: 2,
                        shipped: 0,
                        delivered: 0,
                    },
                ),
                (
                    line(2),
                    LineGoods {
                        quantity: 0,
                        shipped: 0,
                        delivered: 0,
                    },
                ),
            ]),
            returns: BTreeMap::new(),
        }
    }

    fn shipped(units: &[(u128, i32)]) -> Fact {
        let units = units
            .iter()
            .map(|&(n, units)| Units { line: line(n), units })
            .collect();
        Fact::Parcel {
            shipment: Uuid::nil(),
            fact: ParcelFact::Shipped {
                carrier: String::new(),
                units,
            },
        }
    }

    #[test]
    fn what_is_digital_never_counts_as_shipped() {
        let mut order = order();
        order
            .apply(&shipped(&[(1, 1), (2, 5)]))
            .expect("both are lines of the order");
        assert_eq!(order.state.goods.shipped, 1);
        assert_eq!(
            order.state.fulfillment_status(),
            FulfillmentStatus::PartiallyFulfilled
        );
    }

    #[test]
    fn a_line_of_another_order_is_refused_as_a_whole() {
        let mut tracked = order();
        assert_eq!(
            tracked.apply(&shipped(&[(1, 1), (3, 1)])),
            Err(UnknownLine(line(3)))
        );
        assert_eq!(tracked, order());
    }

    #[test]
    fn returns_move_the_order() {
        let mut order = order();
        let id = ReturnId::from(Uuid::from_u128(7));
        let steps = [
            (ReturnFact::Requested { units: 1 }, ReturnStatus::Requested),
            (ReturnFact::Approved { automatic: true }, ReturnStatus::InProgress),
            (ReturnFact::Received { units: 1 }, ReturnStatus::InProgress),
            (ReturnFact::Completed, ReturnStatus::Returned),
        ];
        for (fact, status) in steps {
            order.apply(&Fact::Return { id, fact }).expect("no line is named");
            assert_eq!(order.state.returns, status);
        }
    }

    #[test]
    fn a_bank_that_refuses_later_takes_the_refund_back() {
        let mut order = order();
        order.state.record(PaymentKind::Capture, 100).expect("the total");
        let refund = |fact| Fact::Refund {
            refund: Uuid::nil(),
            amount: Money::new(Currency::EUR, 40),
            fact,
        };
        order
            .apply(&refund(RefundFact::Succeeded { order_refunded: 40 }))
            .expect("no line is named");
        assert_eq!(order.state.payment_status(), PaymentStatus::PartiallyRefunded);
        let failed = RefundFact::Failed {
            reason: "declined".into(),
            order_refunded: 0,
        };
        order.apply(&refund(failed)).expect("no line is named");
        assert_eq!(order.state.payment_status(), PaymentStatus::Paid);
    }
}
