//! Histories, replayed to every moment, and with what cannot be applied. Whole histories against the tables are in
//! `app::rebuild`.

use chrono::TimeDelta;
use uuid::Uuid;
use waybill_kernel::money::Currency;

use super::*;
use crate::domain::order::Totals;
use crate::domain::payment::{PaymentKind, PaymentStatus};
use crate::domain::picture::AgreedLine;
use crate::domain::picture::differences;
use crate::domain::state::Status;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

fn agreed() -> Change {
    Change::Placed(Box::new(Agreed {
        number: "1001".into(),
        source_system: "api".into(),
        currency: Currency::EUR,
        prices_include_tax: true,
        totals: Totals {
            total: 100,
            subtotal: 100,
            ..Totals::default()
        },
        lines: vec![AgreedLine {
            id: Uuid::from_u128(1).into(),
            sku: "TEA".into(),
            quantity: 2,
            unit_price: 50,
            net: 100,
            tax: 0,
            category: String::new(),
            final_sale: false,
            digital: false,
        }],
        shipping: Vec::new(),
        placed_at: at(0),
        promised_ship_at: at(0),
        promised_delivery_at: None,
    }))
}

fn captured(amount: i64) -> Change {
    Change::Paid(Payment {
        id: Uuid::from_u128(2).into(),
        kind: PaymentKind::Capture,
        provider: "stripe".into(),
        provider_payment_id: "pi".into(),
        amount,
        occurred_at: at(0),
        reason: String::new(),
        dispute_id: String::new(),
        attempt: None,
    })
}

/// Steps a second apart.
fn history(effects: Vec<Effect>) -> Vec<Step> {
    (effects.into_iter().zip(0_i64..))
        .map(|(effect, n)| Step {
            event: Uuid::from_u128(u128::from(n.unsigned_abs())).into(),
            type_name: "a.B".into(),
            known_at: at(n),
            effect,
        })
        .collect()
}

fn reasons(replayed: &Replayed) -> Vec<&str> {
    (replayed.unapplied.iter())
        .map(|unapplied| unapplied.reason.as_str())
        .collect()
}

#[test]
fn an_order_is_seen_at_every_moment() {
    let steps = history(vec![
        Effect::Own(1, agreed()),
        Effect::Own(2, captured(30)),
        Effect::Nothing,
        Effect::Own(3, captured(70)),
        Effect::Own(4, Change::Cancelled("too late".into())),
    ]);
    let captured_at = |moment| {
        let replayed = replay(steps.clone(), moment).expect("it came so far");
        assert_eq!(replayed.unapplied, []);
        let state = replayed.order.expect("it was placed").state;
        (state.version, state.money.captured)
    };
    assert_eq!(captured_at(Moment::Version(1)), (1, 0));
    assert_eq!(captured_at(Moment::Version(2)), (2, 30));
    assert_eq!(captured_at(Moment::Version(3)), (3, 100));
    assert_eq!(captured_at(Moment::Time(at(2))), (2, 30));
    assert_eq!(captured_at(Moment::Now), (4, 100));
    assert_eq!(
        replay(steps.clone(), Moment::Version(5)),
        Err(NotReached { version: 4 })
    );
    let before = replay(steps, Moment::Time(at(-1))).expect("a time is always reached");
    assert_eq!((before.order, before.applied), (None, 0));
}

#[test]
fn what_cannot_take_effect_is_said_and_the_rest_goes_on() {
    let steps = history(vec![
        Effect::Own(1, agreed()),
        Effect::Unreadable(
            Some(2),
            "this version does not know what a OrderEdited does".into(),
        ),
        Effect::Own(3, captured(300)),
        Effect::Own(5, captured(100)),
        Effect::Own(6, Change::Completed),
    ]);
    let replayed = replay(steps, Moment::Now).expect("it came so far");
    let reasons = reasons(&replayed);
    assert_eq!(reasons.len(), 4, "{reasons:?}");
    assert_eq!(reasons[0], "this version does not know what a OrderEdited does");
    assert!(reasons[1].contains("the rules refuse the payment"), "{reasons:?}");
    assert!(reasons[2].contains("version 5 of version 3"), "{reasons:?}");
    assert!(
        reasons[3].contains("not all of it is paid and has arrived"),
        "{reasons:?}"
    );
    let order = replayed.order.expect("it was placed");
    assert_eq!(
        (order.state.status, order.payment_status),
        (Status::Open, PaymentStatus::Paid)
    );
    assert_eq!((order.state.version, replayed.applied), (6, 1));
}

#[test]
fn without_its_placement_nothing_is_known() {
    let steps = history(vec![
        Effect::Unreadable(None, "it has left the database".into()),
        Effect::Nothing,
        Effect::Own(2, captured(30)),
    ]);
    let replayed = replay(steps, Moment::Now).expect("it came so far");
    assert_eq!(replayed.order, None);
    assert_eq!(
        reasons(&replayed),
        [
            "it has left the database",
            "nothing is known of the order's placement before it"
        ]
    );
}

#[test]
fn differences_name_the_field_and_both_values() {
    let steps = history(vec![Effect::Own(1, agreed()), Effect::Own(2, captured(30))]);
    let rebuilt = replay(steps, Moment::Now).expect("it came so far");
    let rebuilt = rebuilt.order.expect("it was placed");
    assert_eq!(differences(&rebuilt, &rebuilt), []);
    let mut stored = rebuilt.clone();
    stored.state.money.captured = 31;
    stored.payments.clear();
    let line = Uuid::from_u128(1);
    stored.units.insert(line.into(), (0, 1, 0));
    let found = differences(&rebuilt, &stored);
    let told: Vec<(&str, &str, &str)> = (found.iter())
        .map(|d| (d.field.as_str(), d.rebuilt.as_str(), d.stored.as_str()))
        .collect();
    let (shipped, amount) = (
        format!("lines[{line}].shipped"),
        format!("payments[{}].amount", Uuid::from_u128(2)),
    );
    for expected in [
        ("captured", "30", "31"),
        (&*shipped, "0", "1"),
        (&*amount, "30", ""),
    ] {
        assert!(told.contains(&expected), "{told:?}");
    }
}
