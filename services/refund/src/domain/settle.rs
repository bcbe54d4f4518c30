//! What a provider's word does to a refund.
//!
//! The answer to a call, a webhook and a lookup all come through [`hear`], in any order and any number of times. For the
//! attempt that a leg is at:
//!
//! | leg is | "pending" | "succeeded" | "failed" |
//! | --- | --- | --- | --- |
//! | `PENDING`, `SUBMITTED`, `UNKNOWN` | `SUBMITTED` | `SUCCEEDED`, booked as paid | `FAILED`, payable again |
//! | `SUCCEEDED` | nothing | nothing | `FAILED`, the payment is reversed |
//! | `FAILED` | nothing | see below | nothing |
//!
//! A success that contradicts what we hold (of an attempt that was given up, of a leg that was refused without an id, or
//! a second payment of the same leg) moved real money: it is a [`Breach`], listed and taken off what can still be paid
//! back, and a person decides. A success of the very payment that failed is an old message that was late.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use waybill_kernel::id::{LegId, ReturnId};

use super::book::Book;
use super::calendar::business_days_after;
use super::facts::Fact;
use super::journal::{self, Entry};
use super::refund::{Leg, Refund, RefundState};

/// What a provider says about one attempt of a leg.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It has the refund and is not done.
    Pending,
    /// The money is on its way or has arrived.
    Succeeded,
    /// It refused.
    Failed {
        /// Its reason.
        reason: String,
    },
}

/// A provider's word about an attempt of a leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The leg.
    pub leg_id: LegId,
    /// The attempt it is about.
    pub attempt: i32,
    /// What it says.
    pub outcome: Outcome,
    /// The provider's id of the refund, where it gave one.
    pub provider_refund_id: Option<String>,
    /// True when the provider said before that this very payment failed: a success of it is an old message.
    pub refused_before: bool,
}

/// How the money of an order and of one payment changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delta {
    /// Added to what went back.
    pub succeeded: i64,
    /// Added to what is on its way.
    pub in_flight: i64,
    /// Added to what left behind our back.
    pub outside: i64,
}

/// Money that moved against what we hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// The leg.
    pub leg_id: LegId,
    /// The provider's id of the refund that should not be; empty when it gave none.
    pub provider_refund_id: String,
    /// How much.
    pub amount: i64,
    /// What happened, for the person who decides.
    pub detail: String,
}

/// What is to be stored after a word was heard.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Effect {
    /// False when the word changed nothing.
    pub changed: bool,
    /// How the balances of the order and of the leg's payment change.
    pub delta: Delta,
    /// Entries for the books.
    pub entries: Vec<Entry>,
    /// What others are told.
    pub facts: Vec<Fact>,
    /// True when the units become free again: every leg has failed.
    pub release_units: bool,
    /// Money that moved against what we hold.
    pub breach: Option<Breach>,
    /// The return whose refund has now succeeded.
    pub paid_return: Option<ReturnId>,
}

/// Applies a provider's word to a refund. Hearing the same word again changes nothing.
///
/// The refund must have the leg: the caller found it by it.
pub fn hear(book: &Book, refund: &mut Refund, word: &Word, now: DateTime<Utc>) -> Effect {
    let Some(index) = refund.legs.iter().position(|leg| leg.leg_id == word.leg_id) else {
        return Effect::default();
    };
    if let Some(detail) = contradiction(&refund.legs[index], word) {
        return breach(book, refund, index, word, detail);
    }
    if refund.legs[index].attempt != word.attempt || is_other_payment(&refund.legs[index], word) {
        return Effect::default();
    }
    let mut effect = Effect::default();
    let leg = &mut refund.legs[index];
    if leg.provider_refund_id.is_none() && word.provider_refund_id.is_some() {
        leg.provider_refund_id.clone_from(&word.provider_refund_id);
        effect.changed = true;
    }
    match (leg.state, &word.outcome) {
        (RefundState::Pending | RefundState::Unknown, Outcome::Pending) => {
            leg.state = RefundState::Submitted;
            effect.changed = true;
        }
        (RefundState::Pending | RefundState::Submitted | RefundState::Unknown, Outcome::Succeeded) => {
            succeed(book, refund, index, now, &mut effect);
        }
        (
            RefundState::Pending | RefundState::Submitted | RefundState::Unknown | RefundState::Succeeded,
            Outcome::Failed { reason },
        ) => fail(book, refund, index, reason, &mut effect),
        _ => {}
    }
    refund.state = refund.derived();
    if refund.state == RefundState::Succeeded && effect.delta.succeeded > 0 {
        tell_success(book, refund, now, &mut effect);
    }
    effect
}

/// Notes that a leg is about to be handed to its provider. The caller commits this before the call.
pub fn submit(refund: &mut Refund, leg_id: LegId, now: DateTime<Utc>) -> Vec<Fact> {
    let Some(leg) = refund.legs.iter_mut().find(|leg| leg.leg_id == leg_id) else {
        return Vec::new();
    };
    leg.calls += 1;
    if leg.state == RefundState::Pending {
        leg.state = RefundState::Submitted;
    }
    refund.state = refund.derived();
    if refund.started_at.is_some() {
        return Vec::new();
    }
    let expected_at = business_days_after(now, refund.arrival_days);
    refund.started_at = Some(now);
    refund.expected_at = Some(expected_at);
    vec![Fact::RefundStarted {
        refund_id: refund.refund_id,
        amount: refund.amount,
        expected_at,
    }]
}

/// Notes that the provider did not answer: nothing is known.
pub fn lose_sight(refund: &mut Refund, leg_id: LegId, attempt: i32) -> bool {
    let of = refund
        .legs
        .iter_mut()
        .find(|leg| leg.leg_id == leg_id && leg.attempt == attempt);
    let Some(leg) = of.filter(|leg| leg.state == RefundState::Submitted) else {
        return false;
    };
    leg.state = RefundState::Unknown;
    refund.state = refund.derived();
    true
}

/// Books a refund as owed: when it is created, and when it is taken up again after every leg had failed.
pub fn accrue(book: &Book, refund: &mut Refund) -> Entry {
    // A refund is accrued once per round: the sum of its attempts grows with every round.
    let round: i32 = refund.legs.iter().map(|leg| leg.attempt).sum();
    let entry = Entry::new(
        book,
        "refund_accrued",
        format!("{}:{round}", refund.refund_id),
        journal::refund_accrued(&refund.components),
    )
    .of_refund(refund.refund_id);
    refund.holds = true;
    refund.accrual_entry = Some(entry.entry_id);
    entry
}

fn succeed(book: &Book, refund: &mut Refund, index: usize, now: DateTime<Utc>, effect: &mut Effect) {
    if refund.started_at.is_none() {
        // The provider was faster than our own note of the call; what it did counts.
        let leg_id = refund.legs[index].leg_id;
        effect.facts.extend(submit(refund, leg_id, now));
    }
    let leg = &mut refund.legs[index];
    let entry = Entry::new(
        book,
        "refund_paid",
        format!("{}:{}", leg.leg_id, leg.attempt),
        journal::refund_paid(&leg.provider, leg.amount),
    )
    .of_refund(refund.refund_id);
    leg.state = RefundState::Succeeded;
    leg.failure_reason = String::new();
    leg.paid_entry = Some(entry.entry_id);
    effect.changed = true;
    effect.delta = Delta {
        succeeded: leg.amount,
        in_flight: -leg.amount,
        outside: 0,
    };
    effect.entries.push(entry);
}

fn fail(book: &Book, refund: &mut Refund, index: usize, reason: &str, effect: &mut Effect) {
    let leg = &mut refund.legs[index];
    if leg.state == RefundState::Succeeded {
        effect.delta.succeeded = -leg.amount;
        effect.entries.push(
            Entry::new(
                book,
                "refund_payment_reversed",
                format!("{}:{}", leg.leg_id, leg.attempt),
                journal::refund_paid(&leg.provider, leg.amount).reversed(),
            )
            .of_refund(refund.refund_id)
            .reversing(leg.paid_entry.take()),
        );
    } else {
        effect.delta.in_flight = -leg.amount;
    }
    leg.state = RefundState::Failed;
    reason.clone_into(&mut leg.failure_reason);
    let was_succeeded = std::mem::take(&mut leg.told);
    effect.changed = true;
    effect.facts.push(Fact::RefundFailed {
        refund_id: refund.refund_id,
        amount: leg.amount,
        failure_reason: reason.to_owned(),
        was_succeeded,
        order_refunded: refunded(book, effect.delta),
    });
    refund.succeeded_at = None;
    if refund.every_leg_failed() && refund.holds {
        let round: i32 = refund.legs.iter().map(|leg| leg.attempt).sum();
        effect.entries.push(
            Entry::new(
                book,
                "refund_reversed",
                format!("{}:{round}", refund.refund_id),
                journal::refund_accrued(&refund.components).reversed(),
            )
            .of_refund(refund.refund_id)
            .reversing(refund.accrual_entry.take()),
        );
        refund.holds = false;
        effect.release_units = true;
    }
}

fn tell_success(book: &Book, refund: &mut Refund, now: DateTime<Utc>, effect: &mut Effect) {
    let news: i64 = refund
        .legs
        .iter()
        .filter(|leg| !leg.told)
        .map(|leg| leg.amount)
        .sum();
    for leg in &mut refund.legs {
        leg.told = true;
    }
    let tax = if std::mem::replace(&mut refund.tax_told, true) {
        0
    } else {
        refund.tax
    };
    refund.succeeded_at = Some(now);
    effect.paid_return = refund.return_id;
    effect.facts.push(Fact::RefundSucceeded {
        refund_id: refund.refund_id,
        amount: news,
        tax,
        reason: refund.reason_key.clone(),
        created_at: refund.created_at,
        succeeded_at: now,
        order_refunded: refunded(book, effect.delta),
    });
}

/// All that went back of the order after a change.
fn refunded(book: &Book, delta: Delta) -> i64 {
    book.balance.succeeded + book.balance.outside + delta.succeeded + delta.outside
}

/// Why a success cannot be ours, if it cannot.
fn contradiction(leg: &Leg, word: &Word) -> Option<String> {
    if word.outcome != Outcome::Succeeded || word.refused_before {
        return None;
    }
    if leg.attempt != word.attempt {
        return Some(format!(
            "attempt {} was given up for attempt {}, and succeeded",
            word.attempt, leg.attempt
        ));
    }
    if is_other_payment(leg, word) {
        return Some("the provider paid this attempt a second time under another id".to_owned());
    }
    match leg.state {
        RefundState::Failed if leg.provider_refund_id.is_none() => {
            Some("the provider refused the call, and says now that it succeeded".to_owned())
        }
        RefundState::PendingApproval | RefundState::Cancelled => Some(format!(
            "the provider paid a leg that is {} here",
            leg.state.as_str()
        )),
        _ => None,
    }
}

fn is_other_payment(leg: &Leg, word: &Word) -> bool {
    matches!((&leg.provider_refund_id, &word.provider_refund_id), (Some(ours), Some(theirs)) if ours != theirs)
}

fn breach(book: &Book, refund: &Refund, index: usize, word: &Word, detail: String) -> Effect {
    let leg = &refund.legs[index];
    let provider_refund_id = word.provider_refund_id.clone().unwrap_or_default();
    let entry = Entry::new(
        book,
        "refund_outside",
        format!("{}:{}:{provider_refund_id}", leg.leg_id, word.attempt),
        journal::refund_outside(&leg.provider, leg.amount),
    )
    .of_refund(refund.refund_id);
    Effect {
        changed: true,
        delta: Delta {
            outside: leg.amount,
            ..Delta::default()
        },
        entries: vec![entry],
        breach: Some(Breach {
            leg_id: leg.leg_id,
            provider_refund_id,
            amount: leg.amount,
            detail,
        }),
        ..Effect::default()
    }
}
