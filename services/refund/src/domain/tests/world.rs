//! An order with its refunds: applies what the rules say and checks R-1 after each step.

use waybill_kernel::id::{PaymentId, RefundId};

use super::super::book::Book;
use super::super::compose::{self, Ask, Plan};
use super::super::facts::Fact;
use super::super::journal::Entry;
use super::super::refund::{ComponentKind, Leg, Refund, RefundState};
use super::super::settle::{self, Delta, Effect, Outcome, Word};
use super::now;

/// An order with its refunds, as the tables would hold them: applies what the rules say and checks R-1 after each step.
pub(super) struct World {
    pub(super) book: Book,
    pub(super) refunds: Vec<Refund>,
    pub(super) entries: Vec<Entry>,
    pub(super) facts: Vec<Fact>,
}

impl World {
    pub(super) fn new(book: Book) -> Self {
        Self {
            book,
            refunds: Vec::new(),
            entries: Vec::new(),
            facts: Vec::new(),
        }
    }

    pub(super) fn hold(&mut self, refund: usize, held: bool) {
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

    pub(super) fn move_money(&mut self, payment: PaymentId, delta: Delta) {
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

    pub(super) fn create(&mut self, plan: Plan) -> usize {
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

    pub(super) fn say(&mut self, refund: usize, leg: usize, outcome: Outcome) -> Effect {
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

    pub(super) fn hear(&mut self, refund: usize, leg: usize, word: &Word) -> Effect {
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
    pub(super) fn retry(&mut self, index: usize, leg_index: usize) -> bool {
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
    pub(super) fn owe(&mut self) {
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

    pub(super) fn ask(&mut self, ask: &Ask) {
        if let Ok(plan) = compose::for_ask(&self.book, ask) {
            self.create(plan);
        }
    }

    pub(super) fn account(&self, name: &str) -> i64 {
        let lines = self.entries.iter().flat_map(|entry| entry.posting.lines());
        lines
            .filter(|(account, _)| account == name)
            .map(|(_, minor)| minor)
            .sum()
    }

    /// What others know to have gone back, from the facts alone.
    pub(super) fn told(&self) -> i64 {
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
    Leg::new(
        RefundId::generate(),
        payment_id,
        "sandbox".to_owned(),
        amount,
        RefundState::Pending,
    )
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
