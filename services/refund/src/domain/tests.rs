//! The rules together: property tests of whole histories and the table of a provider's words.

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use waybill_kernel::id::{LineId, MerchantId, OrderId, PaymentId, RefundId, StoreId};
use waybill_kernel::money::Currency;
use waybill_kernel::slots::LineCut;

use super::book::{Balance, Book, BookLine, BookPayment, LineKind, Tenant};
use super::compose::{self, Ask, Plan, Refusal};
use super::decision::{Code, Wish, evaluate};
use super::facts::Fact;
use super::journal::Entry;
use super::policy::tests::policy;
use super::policy::{Policy, ReturnReason, WindowStart};
use super::refund::{ComponentKind, Leg, Refund, RefundState};
use super::settle::{self, Delta, Effect, Outcome, Word};
use super::units::UnitSet;

pub(super) fn now() -> DateTime<Utc> {
    DateTime::<Utc>::UNIX_EPOCH + TimeDelta::days(20_000)
}

pub(super) fn line(kind: LineKind, net: i64, taxes: Vec<i64>, quantity: i32, inclusive: bool) -> BookLine {
    BookLine {
        line_id: LineId::generate(),
        kind,
        sku: "MUG".to_owned(),
        category: "kitchen".to_owned(),
        final_sale: false,
        digital: false,
        quantity,
        cut: LineCut::new(net, taxes, quantity.unsigned_abs(), inclusive).expect("a line that can be cut"),
        shipped: quantity,
        delivered_at: Some(now() - TimeDelta::days(3)),
        claimed: UnitSet::none(),
        promised: UnitSet::none(),
        returned: UnitSet::none(),
    }
}

/// An order whose lines are paid by payments in these shares of a hundred, the last one taking the rest.
pub(super) fn book(lines: Vec<BookLine>, shares: &[i64]) -> Book {
    let total: i64 = lines
        .iter()
        .map(|line| line.worth(&UnitSet::all(line.quantity)).total())
        .sum();
    let mut left = total;
    let mut payments: Vec<BookPayment> = Vec::new();
    for (index, share) in shares.iter().enumerate() {
        let captured = if index + 1 == shares.len() {
            left
        } else {
            (total * share / 100).min(left)
        };
        left -= captured;
        payments.push(BookPayment {
            payment_id: PaymentId::generate(),
            provider: "sandbox".to_owned(),
            balance: Balance {
                captured,
                ..Balance::default()
            },
        });
    }
    Book {
        order_id: OrderId::generate(),
        tenant: Tenant {
            merchant: MerchantId::generate(),
            store: StoreId::generate(),
        },
        currency: Currency::parse("EUR").expect("a currency"),
        placed_at: now() - TimeDelta::days(10),
        cancelled_at: None,
        seen_version: 1,
        balance: Balance {
            captured: total,
            ..Balance::default()
        },
        lines,
        payments,
    }
}

/// An order with its refunds, as the tables would hold them: applies what the rules say and checks R-1 after each step.
struct World {
    book: Book,
    refunds: Vec<Refund>,
    entries: Vec<Entry>,
    facts: Vec<Fact>,
}

impl World {
    fn new(book: Book) -> Self {
        Self {
            book,
            refunds: Vec::new(),
            entries: Vec::new(),
            facts: Vec::new(),
        }
    }

    fn hold(&mut self, refund: usize, held: bool) {
        for component in &self.refunds[refund].components {
            let of =
                self.book.lines.iter_mut().find(|line| {
                    Some(line.line_id) == component.line_id && component.kind != ComponentKind::Fee
                });
            let Some(line) = of else { continue };
            if held {
                assert!(
                    line.free().minus(&component.units).count()
                        == line.free().count() - component.units.count()
                );
                line.claimed = line.claimed.plus(&component.units);
            } else {
                line.claimed = line.claimed.minus(&component.units);
            }
        }
    }

    fn move_money(&mut self, payment: PaymentId, delta: Delta) {
        let of = self
            .book
            .payments
            .iter_mut()
            .find(|known| known.payment_id == payment)
            .expect("a payment of ours");
        for balance in [&mut of.balance, &mut self.book.balance] {
            balance.succeeded += delta.succeeded;
            balance.in_flight += delta.in_flight;
            balance.outside += delta.outside;
            assert!(balance.in_flight >= 0 && balance.succeeded >= 0);
            assert!(
                balance.captured - balance.succeeded - balance.in_flight >= 0,
                "R-1: {balance:?}"
            );
        }
    }

    fn create(&mut self, plan: Plan) -> usize {
        let legs: Vec<Leg> = plan
            .parts
            .iter()
            .map(|(payment, amount)| leg(*payment, *amount))
            .collect();
        let mut refund = refund(&self.book, plan, legs);
        self.entries.push(settle::accrue(&self.book, &mut refund));
        for leg in &refund.legs {
            self.move_money(
                leg.payment_id,
                Delta {
                    in_flight: leg.amount,
                    ..Delta::default()
                },
            );
        }
        self.refunds.push(refund);
        self.hold(self.refunds.len() - 1, true);
        self.owe();
        self.refunds.len() - 1
    }

    fn say(&mut self, refund: usize, leg: usize, outcome: Outcome) -> Effect {
        let of = &self.refunds[refund].legs[leg];
        let word = Word {
            leg_id: of.leg_id,
            attempt: of.attempt,
            outcome,
            provider_refund_id: Some(format!("re_{}_{}", of.leg_id, of.attempt)),
            refused_before: false,
        };
        self.hear(refund, leg, &word)
    }

    fn hear(&mut self, refund: usize, leg: usize, word: &Word) -> Effect {
        let effect = settle::hear(&self.book, &mut self.refunds[refund], word, now());
        let payment = self.refunds[refund].legs[leg].payment_id;
        self.move_money(payment, effect.delta);
        if effect.release_units {
            self.hold(refund, false);
        }
        self.entries.extend(effect.entries.clone());
        self.facts.extend(effect.facts.clone());
        self.owe();
        effect
    }

    /// Takes a failed leg up again if its money and units are still there, as the use case does.
    fn retry(&mut self, index: usize, leg_index: usize) -> bool {
        let refund = &self.refunds[index];
        let leg = &refund.legs[leg_index];
        let money = compose::affords_retry(&self.book, refund, leg.leg_id).is_ok();
        let units = refund.components.iter().all(|component| {
            refund.holds
                || component.units.is_empty()
                || self.book.lines.iter().any(|line| {
                    Some(line.line_id) == component.line_id
                        && line.free().minus(&component.units).count()
                            == line.free().count() - component.units.count()
                })
        });
        if leg.state != RefundState::Failed || !money || !units {
            return false;
        }
        let (leg_id, payment_id, held) = (leg.leg_id, leg.payment_id, refund.holds);
        let amount = self.refunds[index].retry(leg_id).expect("a failed leg");
        self.move_money(
            payment_id,
            Delta {
                in_flight: amount,
                ..Delta::default()
            },
        );
        if !held {
            self.hold(index, true);
            let entry = settle::accrue(&self.book, &mut self.refunds[index]);
            self.entries.push(entry);
        }
        self.owe();
        true
    }

    /// Sums up what refused legs of refunds that hold their units still owe, as the query does.
    fn owe(&mut self) {
        for payment in &mut self.book.payments {
            let held = self
                .refunds
                .iter()
                .filter(|refund| refund.holds)
                .flat_map(|refund| &refund.legs);
            let failed =
                held.filter(|leg| leg.payment_id == payment.payment_id && leg.state == RefundState::Failed);
            payment.balance.owed = failed.map(|leg| leg.amount).sum();
        }
        self.book.balance.owed = self
            .book
            .payments
            .iter()
            .map(|payment| payment.balance.owed)
            .sum();
    }

    fn account(&self, name: &str) -> i64 {
        let lines = self.entries.iter().flat_map(|entry| entry.posting.lines());
        lines
            .filter(|(account, _)| account == name)
            .map(|(_, minor)| minor)
            .sum()
    }

    /// What others know to have gone back, from the facts alone.
    fn told(&self) -> i64 {
        self.facts
            .iter()
            .map(|fact| match fact {
                Fact::RefundSucceeded { amount, .. } => *amount,
                Fact::RefundFailed {
                    amount,
                    was_succeeded: true,
                    ..
                } => -amount,
                _ => 0,
            })
            .sum()
    }
}

fn leg(payment_id: PaymentId, amount: i64) -> Leg {
    Leg::new(payment_id, "sandbox".to_owned(), amount, RefundState::Pending)
}

fn refund(book: &Book, plan: Plan, legs: Vec<Leg>) -> Refund {
    Refund {
        refund_id: RefundId::generate(),
        order_id: book.order_id,
        return_id: None,
        state: RefundState::Pending,
        currency: "EUR".to_owned(),
        amount: plan.amount,
        tax: plan.tax,
        components: plan.components,
        legs,
        reason_key: "other".to_owned(),
        reason: String::new(),
        requested_by: "someone".to_owned(),
        approved_by: None,
        arrival_days: 5,
        created_at: now(),
        started_at: None,
        expected_at: None,
        succeeded_at: None,
        tax_told: false,
        holds: true,
        accrual_entry: None,
        version: 1,
    }
}

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

    fn ask(&mut self, ask: &Ask) {
        if let Ok(plan) = compose::for_ask(&self.book, ask) {
            self.create(plan);
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

fn one_refund(payments: &[i64]) -> World {
    let mut world = World::new(book(
        vec![line(LineKind::Goods, 1_000, vec![200], 3, false)],
        payments,
    ));
    let lines = vec![(world.book.lines[0].line_id, 3)];
    world.ask(&Ask {
        lines,
        ..Ask::default()
    });
    world
}

fn failed() -> Outcome {
    Outcome::Failed {
        reason: "declined".to_owned(),
    }
}

#[test]
fn hearing_the_same_word_twice_changes_nothing() {
    for outcome in [Outcome::Pending, Outcome::Succeeded, failed()] {
        let mut world = one_refund(&[100]);
        assert!(world.say(0, 0, outcome.clone()).changed);
        let before = (world.refunds.clone(), world.book.balance, world.entries.len());
        assert_eq!(world.say(0, 0, outcome), Effect::default());
        assert_eq!(
            (world.refunds.clone(), world.book.balance, world.entries.len()),
            before
        );
    }
}

#[test]
fn a_late_pending_or_an_old_success_is_ignored() {
    let mut world = one_refund(&[100]);
    world.say(0, 0, Outcome::Succeeded);
    assert_eq!(world.say(0, 0, Outcome::Pending), Effect::default());
    world.say(0, 0, failed());
    assert_eq!(world.refunds[0].state, RefundState::Failed);
    assert_eq!(
        world.say(0, 0, Outcome::Succeeded),
        Effect::default(),
        "the provider's no is final for this id"
    );
    assert_eq!(world.say(0, 0, Outcome::Pending), Effect::default());
}

#[test]
fn a_refusal_after_success_is_reversed_and_payable_again() {
    let mut world = one_refund(&[100]);
    world.say(0, 0, Outcome::Succeeded);
    assert_eq!(world.account("clearing:sandbox"), -1_200);
    let paid = world.refunds[0].legs[0].paid_entry;
    let effect = world.say(0, 0, failed());
    assert_eq!(effect.entries[0].kind, "refund_payment_reversed");
    assert_eq!(effect.entries[0].reverses, paid);
    assert_eq!(world.account("clearing:sandbox"), 0);
    assert_eq!(
        world.account("refunds_payable"),
        0,
        "the accrual was reversed too: the units are free"
    );
    assert_eq!(world.book.balance.refundable(), 1_200);
    assert!(matches!(
        effect.facts[..],
        [Fact::RefundFailed {
            was_succeeded: true,
            amount: 1_200,
            ..
        }]
    ));
    assert!(world.retry(0, 0));
    world.say(0, 0, Outcome::Succeeded);
    assert_eq!(world.told(), 1_200);
}

#[test]
fn units_stay_taken_until_every_leg_failed() {
    let mut world = one_refund(&[40, 60]);
    assert_eq!(world.refunds[0].legs.len(), 2);
    assert!(!world.say(0, 0, failed()).release_units);
    assert_eq!(world.book.lines[0].free().count(), 0);
    assert_eq!(
        (world.book.balance.unspent(), world.book.balance.refundable()),
        (480, 0),
        "it stays payable, for itself"
    );
    assert!(world.say(0, 1, failed()).release_units);
    assert_eq!(world.book.lines[0].free().count(), 3);
    assert_eq!(world.account("refunds_payable"), 0);
}

#[test]
fn success_is_told_once_and_only_when_all_legs_succeeded() {
    let mut world = one_refund(&[40, 60]);
    let first = world.say(0, 0, Outcome::Succeeded);
    assert!(
        matches!(first.facts[..], [Fact::RefundStarted { .. }]),
        "{:?}",
        first.facts
    );
    assert_eq!(world.refunds[0].state, RefundState::Submitted);
    let second = world.say(0, 1, Outcome::Succeeded);
    assert!(matches!(
        second.facts[..],
        [Fact::RefundSucceeded {
            amount: 1_200,
            tax: 200,
            order_refunded: 1_200,
            ..
        }]
    ));
    // One leg bounces and is paid again: others hear of that part alone, and of the tax no more.
    let bounced = world.say(0, 0, failed());
    assert!(matches!(
        bounced.facts[..],
        [Fact::RefundFailed {
            amount: 480,
            was_succeeded: true,
            order_refunded: 720,
            ..
        }]
    ));
    assert!(world.retry(0, 0));
    let again = world.say(0, 0, Outcome::Succeeded);
    assert!(matches!(
        again.facts[..],
        [Fact::RefundSucceeded {
            amount: 480,
            tax: 0,
            ..
        }]
    ));
}

#[test]
fn money_that_left_behind_our_back_is_listed_and_not_paid_again() {
    let mut world = one_refund(&[100]);
    let leg_id = world.refunds[0].legs[0].leg_id;
    let word = |attempt, outcome, id: Option<&str>| Word {
        leg_id,
        attempt,
        outcome,
        provider_refund_id: id.map(str::to_owned),
        refused_before: false,
    };
    // The call was refused without an id; later the provider says that it paid.
    world.hear(0, 0, &word(1, failed(), None));
    let effect = world.hear(0, 0, &word(1, Outcome::Succeeded, Some("re_ghost")));
    assert_eq!(effect.breach.as_ref().map(|breach| breach.amount), Some(1_200));
    assert_eq!(
        world.book.balance.refundable(),
        0,
        "it cannot be paid a second time"
    );
    assert!(!world.retry(0, 0));
    assert!(world.entries.iter().all(|entry| entry.posting.balanced()));
}

#[test]
fn a_second_payment_of_one_attempt_is_a_breach() {
    let mut world = one_refund(&[100]);
    world.say(0, 0, Outcome::Succeeded);
    let leg_id = world.refunds[0].legs[0].leg_id;
    let twin = Word {
        leg_id,
        attempt: 1,
        outcome: Outcome::Succeeded,
        provider_refund_id: Some("re_twin".to_owned()),
        refused_before: false,
    };
    assert!(world.hear(0, 0, &twin).breach.is_some());
    assert_eq!(world.refunds[0].state, RefundState::Succeeded);
    assert_eq!(world.book.balance.outside, 1_200);
}

#[test]
fn a_word_about_an_earlier_attempt_does_not_touch_the_present_one() {
    let mut world = one_refund(&[100]);
    world.say(0, 0, failed());
    assert!(world.retry(0, 0));
    let leg_id = world.refunds[0].legs[0].leg_id;
    let old = |outcome, refused_before| Word {
        leg_id,
        attempt: 1,
        outcome,
        provider_refund_id: Some("re_old".to_owned()),
        refused_before,
    };
    assert_eq!(world.hear(0, 0, &old(failed(), true)), Effect::default());
    assert_eq!(
        world.hear(0, 0, &old(Outcome::Succeeded, true)),
        Effect::default()
    );
    assert_eq!(world.refunds[0].state, RefundState::Pending);
    assert!(world.hear(0, 0, &old(Outcome::Succeeded, false)).breach.is_some());
}

#[test]
fn a_time_out_is_unknown_and_only_a_word_settles_it() {
    let mut world = one_refund(&[100]);
    let leg_id = world.refunds[0].legs[0].leg_id;
    assert!(
        !settle::lose_sight(&mut world.refunds[0], leg_id, 1),
        "nothing was sent yet"
    );
    settle::submit(&mut world.refunds[0], leg_id, now());
    assert!(settle::lose_sight(&mut world.refunds[0], leg_id, 1));
    assert_eq!(world.refunds[0].state, RefundState::Unknown);
    assert_eq!(
        world.book.balance.in_flight, 1_200,
        "an unknown leg keeps its money reserved"
    );
    world.say(0, 0, Outcome::Succeeded);
    assert_eq!(world.refunds[0].state, RefundState::Succeeded);
    assert!(
        !settle::lose_sight(&mut world.refunds[0], leg_id, 1),
        "a settled leg is not lost again"
    );
}

#[test]
fn refusals_name_the_amounts() {
    let mut order = book(vec![line(LineKind::Goods, 1_000, vec![], 2, false)], &[100]);
    let line_id = order.lines[0].line_id;
    let ask = |quantity| Ask {
        lines: vec![(line_id, quantity)],
        ..Ask::default()
    };
    assert_eq!(
        compose::for_ask(&order, &ask(3)),
        Err(Refusal::UnitsNotFree {
            line_id,
            asked: 3,
            free: 2
        })
    );
    order.payments[0].balance.captured = 400;
    order.balance.captured = 400;
    assert!(
        matches!(compose::for_ask(&order, &ask(1)), Err(Refusal::Exceeds { asked, refundable })
        if asked.minor == 500 && refundable.minor == 400)
    );
    order.balance.captured = 0;
    assert_eq!(compose::for_ask(&order, &ask(1)), Err(Refusal::NothingCaptured));
    let goodwill = Ask {
        goodwill: 1,
        ..Ask::default()
    };
    assert_eq!(compose::for_ask(&order, &goodwill), Err(Refusal::NothingCaptured));
    order.balance.captured = 1_000;
    assert!(
        matches!(compose::for_ask(&order, &goodwill), Err(Refusal::GoodwillExceeds { available, .. })
        if available.minor == 0)
    );
    assert_eq!(
        compose::for_ask(
            &order,
            &Ask {
                shipping: true,
                ..Ask::default()
            }
        ),
        Err(Refusal::ShippingNotFree)
    );
}

/// One row of the policy's table: what is special about the order or the wish, and what the policy says.
struct Case {
    what: &'static str,
    change: fn(&mut BookLine, &mut Policy, &mut Wish),
    codes: &'static [Code],
}

#[test]
fn the_policy_decides_by_its_table() {
    let table = [
        Case {
            what: "nothing special",
            change: |_, _, _| {},
            codes: &[Code::Eligible],
        },
        Case {
            what: "last day of the window",
            change: |line, _, _| line.delivered_at = Some(now() - TimeDelta::days(30)),
            codes: &[Code::Eligible],
        },
        Case {
            what: "a second too late",
            change: |line, _, _| {
                line.delivered_at = Some(now() - TimeDelta::days(30) - TimeDelta::seconds(1))
            },
            codes: &[Code::WindowExpired],
        },
        Case {
            what: "undelivered counts from purchase",
            change: |line, policy, _| {
                line.delivered_at = None;
                policy.window_days = 9;
            },
            codes: &[Code::WindowExpired],
        },
        Case {
            what: "window from purchase",
            change: |_, policy, _| {
                policy.window_start = WindowStart::Purchase;
                policy.window_days = 9;
            },
            codes: &[Code::WindowExpired],
        },
        Case {
            what: "final sale",
            change: |line, _, _| line.final_sale = true,
            codes: &[Code::FinalSale],
        },
        Case {
            what: "final sale that the policy takes back",
            change: |line, policy, _| {
                line.final_sale = true;
                policy.final_sale_returnable = true;
            },
            codes: &[Code::Eligible],
        },
        Case {
            what: "excluded category",
            change: |line, _, _| line.category = "underwear".to_owned(),
            codes: &[Code::CategoryExcluded],
        },
        Case {
            what: "excluded sku",
            change: |line, _, _| line.sku = "GIFT".to_owned(),
            codes: &[Code::SkuExcluded],
        },
        Case {
            what: "more than there is",
            change: |_, _, wish| wish.quantity = 4,
            codes: &[Code::QuantityExceedsReturnable],
        },
        Case {
            what: "more than is left",
            change: |line, _, wish| {
                line.claimed = UnitSet::all(2);
                line.returned = UnitSet::all(2);
                wish.quantity = 2;
            },
            codes: &[Code::QuantityExceedsReturnable],
        },
        Case {
            what: "nothing shipped",
            change: |line, _, _| line.shipped = 0,
            codes: &[Code::NotShipped],
        },
        Case {
            what: "shipped in part",
            change: |line, _, wish| {
                line.shipped = 1;
                wish.quantity = 2;
            },
            codes: &[Code::NotShipped],
        },
        Case {
            what: "what shipped is on its way back already",
            change: |line, _, _| {
                line.shipped = 1;
                line.claimed = UnitSet::all(1);
                line.returned = UnitSet::all(1);
            },
            codes: &[Code::NotShipped],
        },
        Case {
            what: "digital goods never ship",
            change: |line, _, _| {
                line.shipped = 0;
                line.digital = true;
            },
            codes: &[Code::Eligible],
        },
        Case {
            what: "every rule that speaks against it is named",
            change: |line, _, _| {
                line.final_sale = true;
                line.category = "underwear".to_owned();
                line.shipped = 0;
            },
            codes: &[Code::FinalSale, Code::CategoryExcluded, Code::NotShipped],
        },
    ];
    for case in table {
        let mut order = book(vec![line(LineKind::Goods, 3_000, vec![600], 3, false)], &[100]);
        let mut policy = policy();
        let mut wish = Wish {
            line_id: order.lines[0].line_id,
            quantity: 1,
            reason: ReturnReason::Unwanted,
        };
        (case.change)(&mut order.lines[0], &mut policy, &mut wish);
        let quote = evaluate(&policy, &order, &[wish], now()).expect("a line of the order");
        assert_eq!(quote.lines[0].codes, case.codes, "{}", case.what);
        assert_eq!(
            quote.auto_approve,
            case.codes == [Code::Eligible],
            "{}",
            case.what
        );
        assert!(!quote.lines[0].explanation.is_empty());
    }
}

#[test]
fn a_quote_adds_up() {
    let goods = line(LineKind::Goods, 3_000, vec![600], 3, false);
    let other = line(LineKind::Goods, 500, vec![], 1, false);
    let shipping = line(LineKind::Shipping, 400, vec![80], 1, false);
    let order = book(vec![goods, other, shipping], &[100]);
    let wish = |index: usize, quantity, reason| Wish {
        line_id: order.lines[index].line_id,
        quantity,
        reason,
    };

    let part =
        evaluate(&policy(), &order, &[wish(0, 2, ReturnReason::Unwanted)], now()).expect("known lines");
    assert_eq!(
        (part.lines[0].net, part.lines[0].tax, part.lines[0].fee),
        (2_000, 400, 250)
    );
    assert_eq!((part.shipping, part.total), (0, 2_150));

    let all = [
        wish(0, 3, ReturnReason::Unwanted),
        wish(1, 1, ReturnReason::Other),
    ];
    let whole = evaluate(&policy(), &order, &all, now()).expect("known lines");
    assert_eq!((whole.shipping, whole.total), (480, 3_600 - 375 + 500 - 63 + 480));

    let fault =
        evaluate(&policy(), &order, &[wish(1, 1, ReturnReason::Damaged)], now()).expect("known lines");
    assert_eq!(
        (fault.lines[0].fee, fault.shipping, fault.total),
        (0, 480, 980),
        "the merchant's fault costs nothing"
    );

    let shipping_line = wish(2, 1, ReturnReason::Other);
    assert!(
        evaluate(&policy(), &order, &[shipping_line], now()).is_err(),
        "shipping is not returned"
    );

    // What was quoted is what is paid, and what did not come back is not.
    let plan = compose::for_return(&order, &policy(), &whole, |_| true).expect("enough money");
    assert_eq!(plan.amount, whole.total);
    let first = order.lines[0].line_id;
    let less =
        compose::for_return(&order, &policy(), &whole, |line_id| line_id == first).expect("enough money");
    assert_eq!(
        less.amount,
        3_600 - 375,
        "and shipping was promised for the whole alone"
    );
}
