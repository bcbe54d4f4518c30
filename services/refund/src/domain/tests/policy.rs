//! The table of the policy's decisions, and what quotes and refusals add up to.

use chrono::TimeDelta;

use super::super::book::{BookLine, LineKind};
use super::super::compose::{self, Ask, Refusal};
use super::super::decision::{Code, Wish, evaluate};
use super::super::policy::tests::policy;
use super::super::policy::{Policy, ReturnReason, WindowStart};
use super::super::units::UnitSet;
use super::{book, line, now};

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
