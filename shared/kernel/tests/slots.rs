//! Unit slots against their promises: exact, never negative, fair, and the same however the units are grouped.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use waybill_kernel::slots::{LineCut, Slot, SlotError};

/// Lines as shops have them, small and odd ones, and ones near the limits.
fn any_line() -> impl Strategy<Value = LineCut> {
    let amount = || prop_oneof![Just(0), 0..10_i64, 0..100_000_i64, 0..i64::MAX / 8];
    let quantity = prop_oneof![19 => 1..10_u32, 1 => 1..200_u32];
    (
        amount(),
        proptest::collection::vec(amount(), 0..5),
        quantity,
        any::<bool>(),
    )
        .prop_map(|(net, taxes, quantity, inclusive)| {
            LineCut::new(net, taxes, quantity, inclusive).expect("amounts are in range")
        })
}

fn total<'a>(slots: impl IntoIterator<Item = &'a Slot>, taxes: usize) -> Slot {
    let nothing = Slot {
        net: 0,
        taxes: vec![0; taxes],
    };
    slots.into_iter().fold(nothing, |sum, slot| Slot {
        net: sum.net + slot.net,
        taxes: sum
            .taxes
            .iter()
            .zip(&slot.taxes)
            .map(|(left, right)| left + right)
            .collect(),
    })
}

/// Whether `part` is less than `units` minor units away from `total / n`.
fn is_near(part: i64, total: i64, n: u32, units: usize) -> bool {
    let missing = (i128::from(part) * i128::from(n) - i128::from(total)).abs();
    missing < i128::from(n) * units as i128
}

fn check_every_unit(line: &LineCut) {
    let whole = line.whole();
    let n = line.quantity();
    let slots: Vec<Slot> = (0..n)
        .map(|unit| line.slot(unit).expect("a unit of the line"))
        .collect();
    assert_eq!(total(&slots, whole.taxes.len()), whole, "{line:?}");
    for slot in &slots {
        assert!(
            slot.net >= 0 && slot.taxes.iter().all(|&tax| tax >= 0),
            "{line:?}: {slot:?}"
        );
        assert!(
            is_near(slot.gross(), whole.gross(), n, gross_tolerance(line)),
            "{line:?}: {slot:?}"
        );
        // With taxes included each one rounds what the ones before it left over.
        let blur = |index: usize| if line.inclusive() { 2 + index } else { 1 };
        assert!(
            is_near(slot.net, whole.net, n, blur(whole.taxes.len())),
            "{line:?}: {slot:?}"
        );
        for (index, (&part, &tax)) in slot.taxes.iter().zip(&whole.taxes).enumerate() {
            assert!(is_near(part, tax, n, blur(index)), "{line:?}: {slot:?}");
        }
    }
}

/// The amount that the customer saw is cut to within one minor unit: the gross, or net and each tax by themselves.
fn gross_tolerance(line: &LineCut) -> usize {
    if line.inclusive() {
        1
    } else {
        1 + line.whole().taxes.len()
    }
}

#[test]
fn a_hundred_thousand_lines_are_cut_exactly() {
    let mut runner = TestRunner::deterministic();
    let lines = any_line();
    for _ in 0..100_000 {
        check_every_unit(&lines.new_tree(&mut runner).expect("a line").current());
    }
}

#[test]
fn cut_by_hand() {
    let net_of = |line: &LineCut| -> Vec<i64> {
        (0..line.quantity())
            .map(|unit| line.slot(unit).expect("a unit").net)
            .collect()
    };
    // 10.00 without tax: 3.33, 6.67, 10.00.
    let line = LineCut::new(1000, vec![], 3, false).expect("a line");
    assert_eq!(net_of(&line), [333, 334, 333]);
    // 0.01 for two: half a cent goes up, so the first unit has it.
    let line = LineCut::new(1, vec![], 2, false).expect("a line");
    assert_eq!(net_of(&line), [1, 0]);

    // 29.99 with 19 % included (4.79): gross 10.00, 19.99, 29.99; tax 1.60, 3.19, 4.79.
    let line = LineCut::new(2520, vec![479], 3, true).expect("a line");
    let slots: Vec<(i64, i64)> = (0..3)
        .map(|unit| line.slot(unit).expect("a unit"))
        .map(|slot| (slot.gross(), slot.tax()))
        .collect();
    assert_eq!(slots, [(1000, 160), (999, 159), (1000, 160)]);

    // Two included taxes that eat everything: the rest is 0 when the second is due, and nothing divides by it.
    let line = LineCut::new(0, vec![5, 0], 2, true).expect("a line");
    assert_eq!(
        line.slot(0),
        Ok(Slot {
            net: 0,
            taxes: vec![3, 0]
        })
    );
    assert_eq!(
        line.slot(1),
        Ok(Slot {
            net: 0,
            taxes: vec![2, 0]
        })
    );
}

#[test]
fn a_line_without_amounts_has_empty_slots() {
    for inclusive in [false, true] {
        let line = LineCut::new(0, vec![0, 0], 4, inclusive).expect("a free line");
        assert_eq!(
            line.sum(1..3),
            Ok(Slot {
                net: 0,
                taxes: vec![0, 0]
            })
        );
    }
}

#[test]
fn the_largest_line_does_not_overflow() {
    for inclusive in [false, true] {
        let line = LineCut::new(i64::MAX - 7, vec![3, 4], u32::MAX, inclusive).expect("it fits");
        let middle = u32::MAX / 2;
        let halves = [line.sum(0..middle), line.sum(middle..u32::MAX)].map(|half| half.expect("a range"));
        assert_eq!(total(&halves, 2), line.whole());
        assert!(line.slot(u32::MAX - 1).is_ok());
        assert!(line.slot(u32::MAX).is_err());
        assert!(line.sum_of(&[u32::MAX]).is_err());
    }
}

#[test]
fn what_cannot_be_cut_is_refused() {
    assert_eq!(LineCut::new(1, vec![], 0, false), Err(SlotError::NoUnits));
    assert_eq!(
        LineCut::new(-1, vec![], 1, false),
        Err(SlotError::Negative {
            part: "net".into(),
            amount: -1
        })
    );
    assert_eq!(
        LineCut::new(1, vec![0, -2], 1, true),
        Err(SlotError::Negative {
            part: "taxes[1]".into(),
            amount: -2
        })
    );
    assert_eq!(
        LineCut::new(i64::MAX, vec![1], 1, false),
        Err(SlotError::Overflow)
    );
}

#[test]
fn units_that_are_not_there_are_refused() {
    let line = LineCut::new(10, vec![], 3, false).expect("a line");
    assert_eq!(
        line.slot(3),
        Err(SlotError::NoSuchUnits {
            start: 3,
            end: 4,
            quantity: 3
        })
    );
    let reversed = std::ops::Range { start: 2, end: 1 };
    assert_eq!(
        line.sum(reversed),
        Err(SlotError::NoSuchUnits {
            start: 2,
            end: 1,
            quantity: 3
        })
    );
    assert_eq!(line.sum_of(&[2, 0, 2]), Err(SlotError::Repeated { unit: 2 }));
    assert_eq!(
        line.sum_of(&[]),
        Ok(Slot {
            net: 0,
            taxes: vec![]
        })
    );
    assert_eq!(
        line.sum(3..3),
        Ok(Slot {
            net: 0,
            taxes: vec![]
        })
    );
}

/// A line, its units in any order, and where that order is broken into refunds.
fn any_sequence() -> impl Strategy<Value = (LineCut, Vec<Vec<u32>>)> {
    any_line().prop_flat_map(|line| {
        let units: Vec<u32> = (0..line.quantity()).collect();
        let breaks = proptest::collection::vec(any::<bool>(), units.len());
        (Just(line), Just(units).prop_shuffle(), breaks).prop_map(|(line, units, breaks)| {
            let mut refunds = vec![Vec::new()];
            for (unit, breaks_here) in units.into_iter().zip(breaks) {
                if breaks_here {
                    refunds.push(Vec::new());
                }
                refunds.last_mut().expect("there is at least one").push(unit);
            }
            (line, refunds)
        })
    })
}

proptest! {
    #[test]
    fn any_sequence_of_partial_refunds_sums_to_what_was_paid((line, refunds) in any_sequence()) {
        let paid: Vec<Slot> = refunds.iter().map(|units| line.sum_of(units).expect("units of the line")).collect();
        prop_assert_eq!(total(&paid, line.whole().taxes.len()), line.whole());
        for (units, slot) in refunds.iter().zip(&paid) {
            let one_by_one: Vec<Slot> = units.iter().map(|&unit| line.slot(unit).expect("a unit")).collect();
            prop_assert_eq!(&total(&one_by_one, line.whole().taxes.len()), slot);
        }
    }

    #[test]
    fn a_range_is_the_sum_of_its_units(line in any_line(), a in any::<u32>(), b in any::<u32>()) {
        let (a, b) = (a % (line.quantity() + 1), b % (line.quantity() + 1));
        let (start, end) = (a.min(b), a.max(b));
        let units: Vec<Slot> = (start..end).map(|unit| line.slot(unit).expect("a unit")).collect();
        prop_assert_eq!(line.sum(start..end), Ok(total(&units, line.whole().taxes.len())));
    }

    /// The formulas of the domain rules, written down a second time as plain loops.
    #[test]
    fn slots_are_those_of_the_rules(line in any_line()) {
        let round = |numerator: i128, divisor: i128| (2 * numerator + divisor).div_euclid(2 * divisor);
        let whole = line.whole();
        let n = i128::from(line.quantity());
        let mut before = vec![0_i128; whole.taxes.len() + 1];
        for k in 1..=line.quantity() {
            let mut sums = Vec::new();
            if line.inclusive() {
                let mut p = i128::from(whole.gross());
                let mut c = round(p * i128::from(k), n);
                for &tax in &whole.taxes {
                    let x = if p == 0 { 0 } else { round(i128::from(tax) * c, p) };
                    c -= x;
                    p -= i128::from(tax);
                    sums.push(x);
                }
                sums.push(c);
            } else {
                sums.extend(whole.taxes.iter().chain([&whole.net]).map(|&t| round(i128::from(t) * i128::from(k), n)));
            }
            let slot = line.slot(k - 1).expect("a unit");
            let expected: Vec<i128> = sums.iter().zip(&before).map(|(now, before)| now - before).collect();
            let actual: Vec<i128> = slot.taxes.iter().chain([&slot.net]).map(|&part| i128::from(part)).collect();
            prop_assert_eq!(actual, expected);
            before = sums;
        }
    }
}
