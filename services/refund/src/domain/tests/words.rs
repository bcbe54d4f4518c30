//! What each word of a provider does, in each state.

use super::super::book::LineKind;
use super::super::compose::Ask;
use super::super::facts::Fact;
use super::super::refund::RefundState;
use super::super::settle::{self, Effect, Outcome, Word};
use super::world::World;
use super::{book, line, now};

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

/// R-1c: what left of one payment says nothing about the others while the order has enough.
#[test]
fn money_that_left_covers_no_promise() {
    let mut known = book(vec![line(LineKind::Goods, 1_000, vec![], 1, false)], &[40, 60]);
    let (first, second) = (known.payments[0].payment_id, known.payments[1].payment_id);
    known.payments[0].balance.in_flight = 400;
    known.balance.in_flight = 400;
    assert!(known.covers(first) && known.covers(second));
    known.payments[0].balance.outside = 1;
    known.balance.outside = 1;
    assert!(!known.covers(first) && known.covers(second));
    known.payments[1].balance.in_flight = 600;
    known.balance.in_flight = 1_000;
    assert!(!known.covers(second), "the order is overdrawn");
}
