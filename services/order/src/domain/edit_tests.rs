//! Edits: what comes, what goes, what is refused.

use waybill_kernel::money::Currency;

use super::super::history_tests::world::{eur, line, placed, tea};
use super::*;
use crate::domain::cancellation::Units;

fn deed() -> Deed {
    Deed {
        id: EditId::generate(),
        cancellation: CancellationId::generate(),
        reason: "asked by phone".into(),
        restock: true,
        at: DateTime::UNIX_EPOCH,
    }
}

fn planned(order: &Order, edit: &Edit) -> Result<Plan, Refused> {
    plan(order, edit, &mut LineId::generate)
}

fn faults(order: &Order, edit: &Edit) -> (Vec<String>, Vec<String>) {
    let Err(Refused::Faults(faults)) = planned(order, edit) else {
        panic!("it is refused")
    };
    let fields = |v: &Violations| v.iter().map(|fault| fault.field.clone()).collect();
    (fields(&faults.wrong), fields(&faults.blocked))
}

fn quantity(line: LineId, quantity: i32, more: Option<MoreUnits>) -> Vec<(usize, NewQuantity)> {
    let wanted = NewQuantity { line, quantity, more };
    vec![(0, wanted)]
}

fn more(tax: i64) -> MoreUnits {
    MoreUnits {
        unit_price: None,
        discounts: Vec::new(),
        taxes: line(1, 1_000, &[tax]).taxes,
    }
}

/// O-23.
#[test]
fn what_was_agreed_is_not_cut_again() {
    let mut order = placed(vec![line(3, 334, &[65]), line(1, 2_000, &[])], true);
    let before = order.clone();
    let first = order.terms.lines[0].id;
    let edit = Edit {
        add: vec![tea(2)],
        remove: vec![(0, order.terms.lines[1].id)],
        quantities: quantity(first, 1, None),
    };
    let plan = planned(&order, &edit).expect("nothing has shipped");
    assert!(!plan.apply(&mut order, deed()));
    assert_eq!(order.terms.lines[..2], before.terms.lines[..], "O-2");
    assert_eq!(order.terms.totals, before.terms.totals, "O-2");
    assert_eq!((order.state.version, order.terms.lines[2].added_version), (2, 2));
    let removal = order.edits[0].removal(&order).expect("units went");
    let units: Vec<_> = removal
        .lines
        .iter()
        .map(|part| (part.first, part.units))
        .collect();
    assert_eq!(units, [(1, 1), (2, 2)], "the highest go");
    assert_eq!(order.edits[0].lines(&order).count(), 1);
    let money = order.state.money;
    assert_eq!(money.due(), before.state.money.due() + 1_000 - removal.amount());
    assert_eq!(order.state.goods.to_ship - order.state.goods.cancelled, 3);

    // O-25: as it was before.
    assert_eq!(order.at(before.state.clone()), before);
}

#[test]
fn more_units_are_a_line_of_their_own() {
    let mut order = placed(vec![line(2, 500, &[65])], true);
    let first = order.terms.lines[0].clone();
    let edit = Edit {
        quantities: quantity(first.id, 5, Some(more(98))),
        ..Edit::default()
    };
    planned(&order, &edit)
        .expect("it is open")
        .apply(&mut order, deed());
    let second = &order.terms.lines[1];
    assert_eq!((order.terms.lines[0].quantity, second.quantity), (2, 3));
    assert_eq!(
        (&second.sku, second.unit_price),
        (&first.sku, 500),
        "that of the line"
    );
    assert_eq!((second.total, second.net), (1_500, 1_402));
    assert_eq!(order.edits[0].cancellation, None);
}

#[test]
fn what_is_as_asked_changes_nothing() {
    let order = placed(vec![line(2, 500, &[])], true);
    let edit = Edit {
        quantities: quantity(order.terms.lines[0].id, 2, None),
        ..Edit::default()
    };
    assert!(planned(&order, &edit).expect("as asked").changes_nothing());
}

#[test]
fn everything_that_is_wrong_is_named() {
    let order = placed(vec![line(2, 500, &[]), line(1, 500, &[])], true);
    let (one, other) = (order.terms.lines[0].id, order.terms.lines[1].id);
    let mut strange = tea(1);
    strange.sku.clear();
    strange.unit_price = Money::new(Currency::USD, 5);
    let mut too_cheap = tea(2);
    too_cheap.taxes = line(1, 1, &[2_000]).taxes;
    let edit = Edit {
        add: vec![strange, too_cheap],
        remove: vec![(0, LineId::generate())],
        quantities: vec![
            (
                3,
                NewQuantity {
                    line: one,
                    quantity: 3,
                    more: None,
                },
            ),
            (
                4,
                NewQuantity {
                    line: other,
                    quantity: 0,
                    more: Some(more(0)),
                },
            ),
            (
                5,
                NewQuantity {
                    line: LineId::generate(),
                    quantity: 1,
                    more: None,
                },
            ),
        ],
    };
    assert_eq!(
        faults(&order, &edit).0,
        [
            "edit.add[0].sku",
            "edit.add[0].unit_price",
            "edit.add[1].taxes",
            "edit.remove_line_ids[0]",
            "edit.quantities[3].more",
            "edit.quantities[4].more",
            "edit.quantities[5].line_id",
        ]
    );
    let much = Edit {
        add: vec![line(1, i64::MAX, &[]), line(1, i64::MAX, &[])],
        ..Edit::default()
    };
    assert_eq!(faults(&order, &much).0, ["edit.add[1]", "edit.add"]);
}

#[test]
fn what_the_order_does_not_allow_is_named_with_the_way_out() {
    let mut order = placed(vec![line(3, 500, &[]), line(2, 500, &[])], true);
    let (one, other) = (order.terms.lines[0].id, order.terms.lines[1].id);
    order.terms.lines[0].shipped = 2;
    order.state.goods.shipped = 2;
    let edit = Edit {
        remove: vec![(0, one)],
        ..Edit::default()
    };
    assert_eq!(faults(&order, &edit).1, ["edit.remove_line_ids[0]"]);
    let less = Edit {
        quantities: quantity(one, 1, None),
        ..Edit::default()
    };
    assert_eq!(faults(&order, &less).1, ["edit.quantities[0].quantity"]);
    let least = Edit {
        quantities: quantity(one, 2, None),
        remove: vec![(0, other)],
        ..Edit::default()
    };
    assert!(planned(&order, &least).is_ok(), "what has shipped stays");

    // Nothing is left, no address, everything has shipped, an end.
    let mut order = placed(vec![line(1, 500, &[])], true);
    let all = Edit {
        remove: vec![(0, order.terms.lines[0].id)],
        ..Edit::default()
    };
    assert_eq!(faults(&order, &all).1, ["edit"]);
    let swap = Edit {
        add: vec![tea(1)],
        ..all
    };
    assert!(planned(&order, &swap).is_ok());
    order.contact = None;
    assert_eq!(faults(&order, &swap).1, ["edit.add"]);
    let mut digital = swap;
    digital.add[0].digital = true;
    assert!(planned(&order, &digital).is_ok());
    order.terms.lines[0].shipped = 1;
    order.state.goods.shipped = 1;
    let late = Edit {
        add: digital.add,
        ..Edit::default()
    };
    assert_eq!(faults(&order, &late).1, ["edit"]);
    order.state.status = Status::Completed;
    assert_eq!(planned(&order, &late), Err(Refused::Ended(Status::Completed)));
}

#[test]
fn an_order_has_no_more_lines_than_one_that_is_placed() {
    let order = placed(vec![line(1, 1, &[]); limits::MAX_LINES], true);
    let edit = Edit {
        add: vec![tea(1)],
        ..Edit::default()
    };
    assert_eq!(faults(&order, &edit).1, ["edit.add"]);
}

/// What an edit takes and what CancelOrderLines takes are the same units at the same price (O-16).
#[test]
fn an_edit_and_a_cancellation_take_the_same_units() {
    let mut order = placed(vec![line(7, 333, &[50, 21])], true);
    let id = order.terms.lines[0].id;
    let of = goods(&order).expect("sound lines");
    let cancelled = of[&id].highest(id, 3).expect("free units");
    let edit = Edit {
        quantities: quantity(id, 4, None),
        ..Edit::default()
    };
    let plan = planned(&order, &edit).expect("free units");
    assert_eq!(plan.removed, [cancelled]);
    plan.apply(&mut order, deed());
    let of = goods(&order).expect("sound lines");
    assert_eq!(
        of[&id].units(),
        Units {
            ordered: 7,
            shipped: 0,
            cancelled: 3,
            free: 4
        }
    );
    assert_eq!(order.state.money.due(), 2_331 - order.state.money.cancelled);
    assert_eq!(eur(order.state.money.due()).currency, Currency::EUR);
}
