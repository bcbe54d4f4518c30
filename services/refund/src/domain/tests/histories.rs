//! Whole histories: any order of partial refunds, failures, reversals and retries.

use proptest::prelude::*;
use waybill_kernel::id::LineId;

use super::super::book::{Book, BookLine, LineKind};
use super::super::compose::{self, Ask};
use super::super::refund::RefundState;
use super::super::settle::Outcome;
use super::super::units::UnitSet;
use super::world::World;
use super::{book, line};

#[derive(Debug, Clone)]
enum Step {
    Units(usize, i32),
    Shipping,
    Goodwill(i64),
    Succeed(usize, usize),
    Fail(usize, usize),
    Retry(usize, usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..4_usize, 1..5_i32).prop_map(|(line, quantity)| Step::Units(line, quantity)),
        1 => Just(Step::Shipping),
        1 => (1..500_i64).prop_map(Step::Goodwill),
        4 => (0..12_usize, 0..3_usize).prop_map(|(refund, leg)| Step::Succeed(refund, leg)),
        3 => (0..12_usize, 0..3_usize).prop_map(|(refund, leg)| Step::Fail(refund, leg)),
        2 => (0..12_usize, 0..3_usize).prop_map(|(refund, leg)| Step::Retry(refund, leg)),
    ];
    prop::collection::vec(step, 0..60)
}

fn orders() -> impl Strategy<Value = Book> {
    let cut = (
        0..100_000_i64,
        prop::collection::vec(0..20_000_i64, 0..3),
        1..9_i32,
        any::<bool>(),
    );
    (
        prop::collection::vec(cut, 1..4),
        0..2_000_i64,
        0..400_i64,
        prop::collection::vec(0..60_i64, 1..4),
    )
        .prop_map(|(cuts, shipping, tax, shares)| {
            let mut lines: Vec<BookLine> = cuts
                .into_iter()
                .map(|(net, taxes, quantity, inclusive)| {
                    line(LineKind::Goods, net, taxes, quantity, inclusive)
                })
                .collect();
            lines.push(line(LineKind::Shipping, shipping, vec![tax], 1, false));
            book(lines, &shares)
        })
}

impl World {
    fn step(&mut self, step: &Step) {
        match *step {
            Step::Units(line, quantity) => {
                let goods: Vec<LineId> = self
                    .book
                    .lines_of(LineKind::Goods)
                    .map(|line| line.line_id)
                    .collect();
                let lines = vec![(goods[line % goods.len()], quantity)];
                self.ask(&Ask {
                    lines,
                    ..Ask::default()
                });
            }
            Step::Shipping => self.ask(&Ask {
                shipping: true,
                ..Ask::default()
            }),
            Step::Goodwill(goodwill) => self.ask(&Ask {
                goodwill,
                ..Ask::default()
            }),
            Step::Succeed(refund, leg) => self.on_leg(refund, leg, |world, refund, leg| {
                // A provider does not take back a refusal under the same id; such a word is ignored.
                world.say(refund, leg, Outcome::Succeeded);
            }),
            Step::Fail(refund, leg) => self.on_leg(refund, leg, |world, refund, leg| {
                world.say(
                    refund,
                    leg,
                    Outcome::Failed {
                        reason: "declined".to_owned(),
                    },
                );
            }),
            Step::Retry(refund, leg) => self.on_leg(refund, leg, |world, refund, leg| {
                world.retry(refund, leg);
            }),
        }
    }

    fn on_leg(&mut self, refund: usize, leg: usize, act: impl FnOnce(&mut Self, usize, usize)) {
        if self.refunds.is_empty() {
            return;
        }
        let refund = refund % self.refunds.len();
        let leg = leg % self.refunds[refund].legs.len();
        act(self, refund, leg);
    }

    /// Pays everything that is still open, then everything that is still free, as a patient merchant would.
    fn finish(&mut self) {
        for round in 0..2 {
            for refund in 0..self.refunds.len() {
                for leg in 0..self.refunds[refund].legs.len() {
                    if self.refunds[refund].holds
                        && self.refunds[refund].legs[leg].state == RefundState::Failed
                    {
                        assert!(self.retry(refund, leg), "what a held refund owes stays payable");
                    }
                    if self.refunds[refund].holds {
                        self.say(refund, leg, Outcome::Succeeded);
                    }
                }
            }
            if round == 0 {
                let lines = self
                    .book
                    .lines_of(LineKind::Goods)
                    .map(|line| (line.line_id, line.free().count()));
                let lines = lines.filter(|(_, free)| *free > 0).collect();
                self.ask(&Ask {
                    lines,
                    shipping: true,
                    goodwill: 0,
                });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Any order of partial refunds, failures, reversals and retries sums to what was paid, to the penny.
    #[test]
    fn any_history_sums_to_what_was_paid(order in orders(), steps in steps()) {
        let mut world = World::new(order);
        for step in &steps {
            world.step(step);
        }
        world.finish();
        let paid = world.book.balance.captured;
        prop_assert_eq!(world.book.balance.succeeded, paid, "everything went back, and not a penny more");
        prop_assert_eq!(world.book.balance.in_flight, 0);
        for payment in &world.book.payments {
            prop_assert_eq!(payment.balance.succeeded, payment.balance.captured);
        }
        for line in &world.book.lines {
            let worth = line.worth(&UnitSet::all(line.quantity)).total();
            prop_assert!(line.free().is_empty() || worth == 0 || line.worth(&line.free()).total() == 0);
        }
        prop_assert!(world.entries.iter().all(|entry| entry.posting.balanced()));
        prop_assert_eq!(world.account("refunds_payable"), 0);
        prop_assert_eq!(world.account("clearing:sandbox"), -paid);
        let goods: i64 = world.book.lines_of(LineKind::Goods).map(|line| line.cut.whole().net).sum();
        prop_assert_eq!(world.account("sales_returns"), goods);
        prop_assert_eq!(world.told(), paid, "others can add up what they heard");
    }

    /// Cancelling pays exactly what was captured, however little or much that was.
    #[test]
    fn a_cancelled_order_pays_back_what_was_captured(order in orders(), captured in 1..200_000_i64) {
        let mut order = order;
        order.payments.truncate(1);
        order.payments[0].balance.captured = captured;
        order.balance.captured = captured;
        let plan = compose::for_cancellation(&order).expect("something was captured");
        prop_assert_eq!(plan.amount, captured);
        prop_assert_eq!(plan.parts.iter().map(|(_, part)| part).sum::<i64>(), captured);
    }

    /// However a line is returned, the fees of its parts sum to the fee of the whole or stay below it.
    #[test]
    fn fees_are_never_more_than_the_goods(net in 0..100_000_i64, quantity in 1..20_i32, ppm in 0..1_000_000_u32) {
        let line = line(LineKind::Goods, net, vec![], quantity, false);
        let unit = |unit| UnitSet::all(unit).minus(&UnitSet::all(unit - 1));
        let single: i64 = (1..=quantity).map(|number| line.fee(&unit(number), ppm)).sum();
        let whole = line.fee(&UnitSet::all(quantity), ppm);
        prop_assert!(single <= whole && whole <= net);
        for number in 1..=quantity {
            prop_assert!(line.fee(&unit(number), ppm) <= line.worth(&unit(number)).net);
        }
    }
}
