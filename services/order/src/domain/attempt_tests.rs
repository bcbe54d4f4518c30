//! Attempts over every history: never more than there is, and settled once.

use proptest::prelude::*;

use super::*;

fn authorization(amount: i64) -> Authorization {
    Authorization {
        payment: PaymentId::generate(),
        provider: "stripe".into(),
        provider_payment_id: "pi_1".into(),
        amount,
        captured: 0,
        voided: 0,
    }
}

fn occasion() -> Occasion {
    Occasion {
        cause: Cause::Request,
        at: DateTime::UNIX_EPOCH,
        order_version: 1,
    }
}

fn part(amount: i64) -> Share {
    Share {
        amount: Some(amount),
        is_final: false,
    }
}

#[test]
fn a_capture_takes_what_is_open_and_to_be_paid() {
    let of = authorization(120);
    let whole = Attempt::capture(&of, Money::of(100), Share::ALL, occasion()).expect("100 are due");
    assert_eq!((whole.amount, whole.rest, whole.is_final), (100, 20, true));
    let some = Attempt::capture(&of, Money::of(100), part(30), occasion()).expect("a part");
    assert_eq!((some.amount, some.rest, some.is_final), (30, 90, false));
    let exactly = Attempt::capture(&of, Money::of(200), part(120), occasion()).expect("all of it");
    assert!(exactly.is_final, "nothing is left");
    assert_ne!(some.provider_key, exactly.provider_key);

    let refused = |money, share| Attempt::capture(&of, money, share, occasion()).map(|_| ());
    assert_eq!(
        refused(Money::of(200), part(121)),
        Err(NotAskable::ExceedsAuthorization { open: 120 })
    );
    assert_eq!(
        refused(Money::of(100), part(101)),
        Err(NotAskable::ExceedsTotal { open: 100 })
    );
    let elsewhere = Money {
        capturing: 80,
        ..Money::of(100)
    };
    assert_eq!(
        refused(elsewhere, part(21)),
        Err(NotAskable::ExceedsTotal { open: 20 })
    );
    let paid = Money {
        captured: 100,
        ..Money::of(100)
    };
    assert_eq!(
        refused(paid, Share::ALL),
        Err(NotAskable::ExceedsTotal { open: 0 })
    );
    let used_up = Authorization { voided: 120, ..of };
    assert_eq!(
        Attempt::capture(&used_up, Money::of(100), Share::ALL, occasion()).map(|_| ()),
        Err(NotAskable::ExceedsAuthorization { open: 0 })
    );
    assert_eq!(Attempt::void(&used_up, occasion()), None);
}

#[test]
fn a_policy_takes_no_more_than_is_due_over_all_authorisations() {
    let of = [authorization(70), authorization(50), authorization(10)];
    let attempts = collect(&of, &[], Money::of(100), occasion());
    let amounts: Vec<i64> = attempts.iter().map(|attempt| attempt.amount).collect();
    assert_eq!(amounts, [70, 30]);
    assert_eq!(attempts[1].rest, 20);
    // What is in flight is left alone.
    let again = collect(&of, &attempts, Money::of(100), occasion());
    assert_eq!(again.len(), 1, "the third is free");
    let voids = release(&of, &attempts[..1], occasion());
    let amounts: Vec<i64> = voids.iter().map(|attempt| attempt.amount).collect();
    assert_eq!(amounts, [50, 10]);
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Pending),
        Just(Outcome::Succeeded),
        Just(Outcome::Failed {
            reason: "declined".into()
        }),
    ]
}

#[derive(Debug, Clone)]
enum Step {
    Submit,
    LoseSight,
    Hear(Outcome),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => Just(Step::Submit),
        2 => Just(Step::LoseSight),
        3 => any_outcome().prop_map(Step::Hear),
    ]
}

proptest! {
    /// O-29: of any words in any order the first that settles counts, once, and nothing moves a settled attempt.
    #[test]
    fn the_first_settling_word_counts_once(steps in proptest::collection::vec(any_step(), 0..30)) {
        let mut attempt = Attempt::capture(&authorization(100), Money::of(100), Share::ALL, occasion()).expect("due");
        let mut settled: Option<AttemptState> = None;
        for step in steps {
            match step {
                Step::Submit if attempt.state.is_in_flight() => attempt.submit(DateTime::UNIX_EPOCH),
                Step::Submit => {}
                Step::LoseSight => { attempt.lose_sight(); }
                Step::Hear(outcome) => {
                    let before = attempt.clone();
                    let effect = attempt.hear(&outcome, Some("ch_1"), DateTime::UNIX_EPOCH);
                    match effect {
                        Effect::Succeeded | Effect::Failed => {
                            prop_assert_eq!(settled, None);
                            settled = Some(attempt.state);
                        }
                        Effect::Nothing | Effect::Contradiction => prop_assert_eq!(&attempt, &before),
                        Effect::Moved => prop_assert_eq!(settled, None),
                    }
                }
            }
            if let Some(state) = settled {
                prop_assert_eq!(attempt.state, state);
            }
            prop_assert_eq!(attempt.state.is_in_flight(), settled.is_none());
            prop_assert_eq!(attempt.settled_at.is_some(), settled.is_some());
            prop_assert_eq!(attempt.reason.is_empty(), attempt.state != AttemptState::Failed);
        }
    }

    /// O-28 over every history of captures that succeed, fail or stay on their way.
    #[test]
    fn captured_and_in_flight_never_exceed_what_is_due(
        total in 0..200_i64,
        authorized in proptest::collection::vec(1..200_i64, 1..4),
        asks in proptest::collection::vec((0..4_usize, 1..150_i64, any::<bool>(), 0..3_u8), 0..40),
    ) {
        let mut money = Money::of(total);
        let mut of: Vec<Authorization> = authorized.into_iter().map(authorization).collect();
        let mut flying: Vec<Attempt> = Vec::new();
        for (which, amount, is_final, fate) in asks {
            let which = which % of.len();
            let share = Share { amount: Some(amount), is_final };
            if in_flight(&flying, of[which].payment).is_none()
                && let Ok(attempt) = Attempt::capture(&of[which], money, share, occasion())
            {
                prop_assert_eq!(attempt.captured_before, of[which].captured);
                money.capturing += attempt.amount;
                flying.push(attempt);
            }
            if fate < 2 && let Some(done) = flying.pop() {
                money.capturing -= done.amount;
                let of = of.iter_mut().find(|of| of.payment == done.payment).expect("it is there");
                if fate == 0 {
                    money.captured += done.amount;
                    of.captured += done.amount;
                    if done.is_final {
                        of.voided += done.rest;
                    }
                }
            }
            prop_assert!(money.capturing >= 0 && money.captured + money.capturing <= total);
            prop_assert!(of.iter().all(|of| of.captured + of.voided <= of.amount));
        }
    }
}
