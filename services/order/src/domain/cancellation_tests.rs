//! Cancelled units, over every sequence of cancellations.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn line(n: usize) -> LineId {
    LineId::from(Uuid::from_u128(n as u128 + 1))
}

fn ordered(net: i64, taxes: Vec<i64>, quantity: u32, inclusive: bool) -> OrderedLine {
    OrderedLine {
        sku: "TEA".into(),
        digital: false,
        cut: LineCut::new(net, taxes, quantity, inclusive).expect("a sound line"),
        shipped: 0,
        cancelled: 0,
    }
}

#[test]
fn the_highest_units_go_and_cost_their_slots() {
    let mut lines = BTreeMap::from([
        (line(0), ordered(100, vec![], 3, false)),
        (line(1), ordered(50, vec![], 1, false)),
    ]);
    let Ok(Cut::Units {
        lines: taken,
        to_ship,
    }) = cut(&lines, &[(line(0), 1)])
    else {
        panic!("units are left");
    };
    assert_eq!(
        (taken[0].first, taken[0].units, taken[0].net, to_ship),
        (3, 1, 33, 1)
    );
    lines.get_mut(&line(0)).expect("it is there").cancelled = 1;
    let Ok(Cut::Units { lines: taken, .. }) = cut(&lines, &[(line(0), 2)]) else {
        panic!("the other line is left");
    };
    assert_eq!((taken[0].first, taken[0].units, taken[0].net), (1, 2, 67));
}

#[test]
fn everything_is_a_cancellation_of_the_order() {
    let lines = BTreeMap::from([(line(0), ordered(100, vec![], 3, false))]);
    assert_eq!(cut(&lines, &[(line(0), 3)]), Ok(Cut::Everything));
}

#[test]
fn all_that_cannot_be_is_named_with_what_can() {
    let mut tea = ordered(100, vec![], 5, false);
    (tea.shipped, tea.cancelled) = (2, 1);
    let lines = BTreeMap::from([(line(0), tea)]);
    let refused = cut(&lines, &[(line(0), 3), (line(7), 1)]).expect_err("neither can be");
    assert_eq!(refused.len(), 2);
    assert_eq!(
        refused[0].of,
        Some(Units {
            ordered: 5,
            shipped: 2,
            cancelled: 1,
            free: 2
        })
    );
    assert_eq!((refused[1].index, refused[1].of), (1, None));
}

proptest! {
    /// O-16 over every sequence of cancellations: units are taken once each, what they cost sums to the slots of exactly
    /// those units, and when all of a line are gone, to what the line costs, tax by tax.
    #[test]
    fn whatever_the_steps_they_sum_to_the_penny(
        made in proptest::collection::vec(
            (0..100_000_i64, proptest::collection::vec(0..9_000_i64, 0..3), 1..7_u32, any::<bool>()), 1..4),
        shipped in proptest::collection::vec(0..3_i32, 4),
        steps in proptest::collection::vec((0..4_usize, 1..8_i32), 0..30),
    ) {
        let mut lines: BTreeMap<LineId, OrderedLine> = (made.into_iter().enumerate())
            .map(|(n, (net, taxes, quantity, inclusive))| {
                let mut of = ordered(net, taxes, quantity, inclusive);
                of.shipped = shipped[n].min(of.quantity());
                (line(n), of)
            })
            .collect();
        let mut sums: BTreeMap<LineId, (i64, i64)> = BTreeMap::new();
        for (n, units) in steps {
            let before = lines.clone();
            match cut(&lines, &[(line(n), units)]) {
                Ok(Cut::Units { lines: taken, to_ship }) => {
                    prop_assert_eq!(to_ship, i64::from(units));
                    for part in taken {
                        let of = lines.get_mut(&part.line).expect("it was asked for");
                        // Next to those that went before, and none of them.
                        prop_assert_eq!(part.first + part.units - 1, of.quantity() - of.cancelled);
                        of.cancelled += part.units;
                        prop_assert!(of.cancelled + of.shipped <= of.quantity());
                        let sum = sums.entry(part.line).or_default();
                        *sum = (sum.0 + part.net, sum.1 + part.tax);
                    }
                }
                Ok(Cut::Everything) => {
                    let left = |(id, of): (&LineId, &OrderedLine)| {
                        of.quantity() - of.cancelled == if *id == line(n) { units } else { 0 }
                    };
                    prop_assert!(before.iter().all(left));
                }
                Err(refused) => {
                    prop_assert_eq!(refused.len(), 1);
                    prop_assert!(refused[0].of.is_none_or(|of| of.free < units));
                }
            }
        }
        for (id, of) in &lines {
            let gone = of.cut.quantity() - of.cancelled.unsigned_abs();
            let slots = of.cut.sum(gone..of.cut.quantity()).expect("units of the line");
            prop_assert_eq!(sums.get(id).copied().unwrap_or_default(), (slots.net, slots.tax()));
            if gone == 0 {
                prop_assert_eq!(slots, of.cut.whole());
            }
        }
    }
}
