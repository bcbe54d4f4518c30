//! From the discount on an order to the last unit: whatever is split, it sums.

use proptest::prelude::*;
use waybill_kernel::check::Violations;
use waybill_kernel::slots::LineCut;

use super::draft::DraftLine;
use super::history_tests::world::{eur, line};
use super::order::Discount;
use super::pricing::{PricedLine, price_added};

fn off(line: DraftLine, amounts: &[i64]) -> DraftLine {
    let discount = |amount: &i64| Discount {
        code: String::new(),
        title: "less".into(),
        amount: eur(*amount),
    };
    DraftLine {
        discounts: amounts.iter().map(discount).collect(),
        ..line
    }
}

prop_compose! {
    /// A line with some discounts and some taxes, and where it is cut in pieces.
    fn any_line()(
        quantity in 1..400_i32,
        unit_price in 0..1_000_000_i64,
        off_ppm in proptest::collection::vec(0..300_000_i64, 0..4),
        tax_ppm in proptest::collection::vec(0..250_000_i64, 0..5),
        cuts in proptest::collection::vec(any::<u32>(), 0..6),
    ) -> (DraftLine, Vec<u32>) {
        let gross = i64::from(quantity) * unit_price;
        let part = |of: i64, ppm: &i64| of * ppm / 1_000_000;
        let offs: Vec<i64> = off_ppm.iter().map(|ppm| part(gross, ppm)).collect();
        let paid = gross - offs.iter().sum::<i64>();
        let taxes: Vec<i64> = tax_ppm.iter().map(|ppm| part(paid, ppm)).collect();
        let mut cuts: Vec<u32> = cuts.into_iter().map(|cut| cut % quantity.unsigned_abs()).collect();
        cuts.extend([0, quantity.unsigned_abs()]);
        cuts.sort_unstable();
        (off(line(quantity, unit_price, &taxes), &offs), cuts)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// O-1, O-16, O-23: a line costs its price less its discounts, tax by tax; however its units are cut in pieces, the pieces
    /// sum to exactly that, and none costs less than nothing.
    #[test]
    fn pieces_of_a_line_sum_to_what_was_agreed((draft, cuts) in any_line(), inclusive in any::<bool>()) {
        let mut v = Violations::new();
        let priced = price_added(&draft, eur(0).currency, inclusive, &mut v);
        prop_assert!(v.is_empty(), "{v}");
        let PricedLine { net, total, .. } = priced.expect("no fault");
        let gross = draft.unit_price.minor * i64::from(draft.quantity);
        let discounts: i64 = draft.discounts.iter().map(|discount| discount.amount.minor).sum();
        let taxes: Vec<i64> = draft.taxes.iter().map(|tax| tax.amount.minor).collect();
        let tax: i64 = taxes.iter().sum();
        prop_assert_eq!(total, gross - discounts + if inclusive { 0 } else { tax });
        prop_assert_eq!(net, total - tax);

        let cut = LineCut::new(net, taxes.clone(), draft.quantity.unsigned_abs(), inclusive).expect("a sound line");
        let pieces: Vec<_> = (cuts.windows(2))
            .map(|ends| cut.sum(ends[0]..ends[1]).expect("units of the line"))
            .collect();
        prop_assert_eq!(pieces.iter().map(|piece| piece.net).sum::<i64>(), net);
        for (at, tax) in taxes.iter().enumerate() {
            prop_assert_eq!(pieces.iter().map(|piece| piece.taxes[at]).sum::<i64>(), *tax);
        }
        prop_assert!(pieces.iter().all(|piece| piece.net >= 0 && piece.taxes.iter().all(|tax| *tax >= 0)));
    }

    /// A line that is added costs what it would have cost when the order was placed, or is refused with it.
    #[test]
    fn an_added_line_costs_what_a_placed_one_does((draft, _) in any_line(), wrong in 0..4_u8, inclusive in any::<bool>()) {
        let mut draft = draft;
        match wrong {
            0 => draft.quantity = 0,
            1 => draft.unit_price.minor = -1,
            2 => draft = off(draft, &[i64::MAX]),
            _ => {}
        }
        let mut v = Violations::new();
        let added = price_added(&draft, eur(0).currency, inclusive, &mut v);
        prop_assert_eq!(added.is_some(), wrong > 2);
        prop_assert_eq!(added.is_some(), v.is_empty());
        if let Some(added) = added {
            let placed = super::history_tests::world::placed(vec![off(draft.clone(), &[])], inclusive);
            let discounts: i64 = draft.discounts.iter().map(|discount| discount.amount.minor).sum();
            prop_assert_eq!(placed.terms.lines[0].total - discounts, added.total);
        }
    }
}
