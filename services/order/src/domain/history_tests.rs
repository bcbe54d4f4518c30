//! Whole histories of an order, thousands at random, against a model that counts units: placed, paid, edited, cancelled, held,
//! shipped, delivered, paid back, in any order.
//!
//! A failing history is shrunk and printed with its seed, and kept beside this file to be run first from then on.

use chrono::DateTime;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use waybill_kernel::id::{CancellationId, EditId, LineId};

use self::model::{Fate, Model};
use super::cancellation::{Cancellation, Cut, cut};
use super::draft::DraftLine;
use super::edit::{self, Deed, Edit, MoreUnits, NewQuantity, Refused};
use super::goods::LineGoods;
use super::hold::MAX_OPEN;
use super::order::{Order, PLACED};
use super::payment::PaymentKind;
use super::state::State;

mod model;
pub(super) mod world;

#[derive(Debug, Clone)]
enum Step {
    /// Adds lines, removes a line, and makes another have so many units more or less.
    Edit(Vec<DraftLine>, Option<usize>, Option<(usize, i32)>),
    CancelUnits(Vec<(usize, i32)>),
    Cancel,
    Hold,
    Release(u32),
    Pay(PaymentKind, i64),
    /// Captures all that is open.
    Settle,
    Ship(usize, i32),
    Deliver(usize, i32),
    /// The refund service tells what went back so far.
    TellRefunds,
}

fn any_line() -> impl Strategy<Value = DraftLine> {
    let taxes = proptest::collection::vec(0..40_i64, 0..3);
    (1..5_i32, 0..120_i64, taxes, 0..4_u8).prop_map(|(quantity, price, taxes, kind)| {
        // Tax is never more than what it is levied on.
        let price = if taxes.is_empty() { price } else { price + 80 };
        DraftLine {
            digital: kind == 0,
            ..world::line(quantity, price, &taxes)
        }
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    let of = 0..6_usize;
    prop_oneof![
        4 => (
            proptest::collection::vec(any_line(), 0..3),
            proptest::option::of(of.clone()),
            proptest::option::of((of.clone(), -4..4_i32)),
        ).prop_map(|(add, remove, change)| Step::Edit(add, remove, change)),
        3 => proptest::collection::btree_map(of.clone(), 1..4_i32, 1..3)
            .prop_map(|units| Step::CancelUnits(units.into_iter().collect())),
        1 => Just(Step::Cancel),
        1 => Just(Step::Hold),
        2 => (1..3_u32).prop_map(Step::Release),
        3 => (proptest::sample::select(PaymentKind::ALL.to_vec()), 1..300_i64)
            .prop_map(|(kind, amount)| Step::Pay(kind, amount)),
        2 => Just(Step::Settle),
        2 => (of.clone(), 1..4_i32).prop_map(|(line, units)| Step::Ship(line, units)),
        2 => (of, 1..4_i32).prop_map(|(line, units)| Step::Deliver(line, units)),
        1 => Just(Step::TellRefunds),
    ]
}

/// An order as the service keeps it, beside the model of it.
struct History {
    order: Order,
    model: Model,
    /// Where it stood after each change that is told, with the lines, edits and cancellations it had.
    told: Vec<(State, [usize; 3])>,
}

fn accepted<T, E: std::fmt::Debug>(result: Result<T, E>, expected: bool) -> Result<Option<T>, TestCaseError> {
    match result {
        Ok(_) if !expected => Err(TestCaseError::fail("what must not be was done")),
        Err(refused) if expected => Err(TestCaseError::fail(format!(
            "what can be was refused: {refused:?}"
        ))),
        other => Ok(other.ok()),
    }
}

impl History {
    fn of(lines: Vec<DraftLine>, inclusive: bool) -> History {
        let order = world::placed(lines, inclusive);
        let mut model = Model::default();
        for line in &order.terms.lines {
            model.add(line, inclusive);
        }
        model.look();
        let mut history = History {
            order,
            model,
            told: Vec::new(),
        };
        history.tell();
        history
    }

    fn tell(&mut self) {
        let Order {
            terms,
            edits,
            cancellations,
            state,
            ..
        } = &self.order;
        let sizes = [terms.lines.len(), edits.len(), cancellations.len()];
        self.told.push((state.clone(), sizes));
    }

    /// The change was made: it counts.
    fn changed(&mut self) {
        self.order.state.touch(DateTime::UNIX_EPOCH);
        self.model.look();
        self.tell();
    }

    fn id(&self, line: usize) -> Option<LineId> {
        self.order.terms.lines.get(line).map(|line| line.id)
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Edit(add, remove, change) => self.edit(add, remove, change),
            Step::CancelUnits(units) => self.cancel_units(&units),
            Step::Cancel => {
                let expected = !self.model.is_final() && !self.model.anything_shipped();
                if accepted(self.order.state.cancel("test"), expected)?.is_some() {
                    (self.model.cancelled, self.model.holds) = (true, 0);
                    self.changed();
                }
                Ok(())
            }
            Step::Hold => {
                let expected = !self.model.is_final() && self.model.holds < MAX_OPEN;
                if accepted(self.order.state.hold(), expected)?.is_some() {
                    self.model.holds += 1;
                    self.changed();
                }
                Ok(())
            }
            Step::Release(holds) => {
                if self.model.holds > 0 {
                    self.order.state.release(holds);
                    self.model.holds = self.model.holds.saturating_sub(holds);
                    self.changed();
                }
                Ok(())
            }
            Step::Pay(kind, amount) => self.pay(kind, amount),
            Step::Settle => match self.model.open() {
                0 => Ok(()),
                open => self.pay(PaymentKind::Capture, open),
            },
            Step::Ship(line, units) => {
                self.carry(line, units, (Fate::Waits, Fate::Shipped));
                Ok(())
            }
            Step::Deliver(line, units) => {
                self.carry(line, units, (Fate::Shipped, Fate::Delivered));
                Ok(())
            }
            Step::TellRefunds => {
                self.model.told = self.model.back;
                self.order.state.money.refunded = self.model.back;
                Ok(())
            }
        }
    }

    fn edit(
        &mut self,
        add: Vec<DraftLine>,
        remove: Option<usize>,
        change: Option<(usize, i32)>,
    ) -> Result<(), TestCaseError> {
        let remove = remove.filter(|line| self.id(*line).is_some());
        let change = change.filter(|(line, _)| Some(*line) != remove && self.id(*line).is_some());
        let wanted =
            change.map(|(line, by)| (line, self.model.left(line), (self.model.left(line) + by).max(0)));
        let quantities = wanted.and_then(|(line, left, quantity)| {
            let more = (quantity > left).then(|| MoreUnits {
                unit_price: Some(world::eur(90)),
                discounts: Vec::new(),
                taxes: Vec::new(),
            });
            let line = self.id(line)?;
            Some((0, NewQuantity { line, quantity, more }))
        });
        let edit = Edit {
            add,
            remove: remove
                .and_then(|line| Some((0, self.id(line)?)))
                .into_iter()
                .collect(),
            quantities: quantities.into_iter().collect(),
        };

        // What the model makes of it.
        let mut after = self.model.clone();
        let fewer = wanted.map_or(0, |(_, left, quantity)| (left - quantity).max(0));
        let too_many = remove.is_some_and(|line| self.model.shipped(line) > 0)
            || wanted
                .is_some_and(|(line, left, quantity)| quantity < left && quantity < self.model.shipped(line));
        let mut worth = 0;
        if !too_many {
            let gone = (Fate::Waits, Fate::Gone);
            if let Some(line) = remove {
                worth += after.turn(line, self.model.left(line), gone, true);
            }
            if let Some((line, ..)) = wanted {
                worth += after.turn(line, fewer, gone, true);
            }
        }
        let comes = edit.add.len() + usize::from(wanted.is_some_and(|(_, left, quantity)| quantity > left));
        let goes = fewer > 0 || remove.is_some_and(|line| self.model.left(line) > 0);
        let nothing_left = comes == 0 && (0..after.lines.len()).all(|line| after.left(line) == 0);
        let changes = comes > 0 || goes;
        let late = changes && self.model.all_shipped();
        let expected = !(self.model.is_final() || too_many || late || changes && nothing_left);

        let planned = edit::plan(&self.order, &edit, &mut LineId::generate);
        if self.model.is_final() {
            prop_assert_eq!(planned, Err(Refused::Ended(self.order.state.status)));
            return Ok(());
        }
        let Some(plan) = accepted(planned, expected)? else {
            return Ok(());
        };
        prop_assert_eq!(plan.changes_nothing(), !changes, "O-25");
        if !changes {
            return Ok(());
        }
        let known = self.order.terms.lines.clone();
        let deed = Deed {
            id: EditId::generate(),
            cancellation: CancellationId::generate(),
            reason: "test".into(),
            restock: true,
            at: DateTime::UNIX_EPOCH,
        };
        plan.apply(&mut self.order, deed);
        prop_assert_eq!(&self.order.terms.lines[..known.len()], &known[..], "O-2");
        for line in &self.order.terms.lines[known.len()..] {
            after.add(line, self.order.terms.prices_include_tax);
        }
        self.model = after;
        let back = self.model.pay_back(worth);
        prop_assert_eq!(
            self.order.state.money.overpaid(),
            back,
            "what goes back of this edit"
        );
        self.model.look();
        self.tell();
        Ok(())
    }

    /// As CancelOrderLines does it.
    fn cancel_units(&mut self, units: &[(usize, i32)]) -> Result<(), TestCaseError> {
        let units: Vec<(usize, i32)> = (units.iter().copied())
            .filter(|(line, _)| self.id(*line).is_some())
            .collect();
        if self.model.is_final() || units.is_empty() {
            return Ok(());
        }
        let free = |(line, units): &(usize, i32)| *units <= self.model.count(*line, &[Fate::Waits]);
        let asked: Vec<(LineId, i32)> = units
            .iter()
            .filter_map(|(line, n)| Some((self.id(*line)?, *n)))
            .collect();
        let goods = edit::goods(&self.order).expect("sound lines");
        let Some(taken) = accepted(cut(&goods, &asked), units.iter().all(free))? else {
            return Ok(());
        };
        let mut after = self.model.clone();
        let worth = units
            .iter()
            .map(|(line, n)| after.turn(*line, *n, (Fate::Waits, Fate::Gone), true))
            .sum();
        let nothing_left = (0..after.lines.len()).all(|line| after.left(line) == 0);
        match taken {
            Cut::Everything => {
                prop_assert!(nothing_left);
                return self.step(Step::Cancel);
            }
            Cut::Units { lines, to_ship } => {
                prop_assert!(!nothing_left);
                let cancellation = Cancellation {
                    id: CancellationId::generate(),
                    reason: "test".into(),
                    restock: true,
                    lines,
                    at: DateTime::UNIX_EPOCH,
                    version: self.order.state.version + 1,
                };
                prop_assert_eq!(cancellation.amount(), worth, "O-16");
                self.order.state.cancel_units(to_ship, worth);
                self.order.cancellations.push(cancellation);
            }
        }
        self.model = after;
        self.model.pay_back(worth);
        self.changed();
        Ok(())
    }

    fn pay(&mut self, kind: PaymentKind, amount: i64) -> Result<(), TestCaseError> {
        let expected = self.model.pay(kind, amount);
        if accepted(self.order.state.record(kind, amount), expected)?.is_some() {
            self.changed();
        }
        Ok(())
    }

    /// As the fold does it: parcels of what there is, of an order that goes on.
    fn carry(&mut self, line: usize, units: i32, (from, to): (Fate, Fate)) {
        let Some(of) = self.order.terms.lines.get_mut(line) else {
            return;
        };
        if self.model.cancelled || self.model.is_digital(line) {
            return;
        }
        let units = units.min(self.model.count(line, &[from]));
        let mut goods = LineGoods {
            quantity: of.quantity,
            shipped: self.model.shipped(line),
            delivered: self.model.count(line, &[Fate::Delivered]),
        };
        self.model.turn(line, units, (from, to), false);
        let state = &mut self.order.state;
        if to == Fate::Shipped {
            state.goods.ship(&mut goods, units);
        } else {
            state.goods.deliver(&mut goods, units);
            state.complete_if_done();
            self.model.look();
        }
        of.shipped = goods.shipped;
    }

    /// Everything that can be said of the order, said by the model.
    fn check(&self) -> Result<(), TestCaseError> {
        let (Order { terms, state, .. }, model) = (&self.order, &self.model);
        let money = state.money;
        prop_assert_eq!(state.status, model.status());
        prop_assert_eq!(state.holds, model.holds);
        prop_assert_eq!(state.payment_status(), model.payment_status());
        prop_assert_eq!(state.fulfillment_status(), model.fulfillment_status());
        prop_assert_eq!(money.due(), model.due(), "O-23");
        prop_assert_eq!(money.captured, model.captured, "O-4");
        prop_assert_eq!(
            money.open(),
            model.open(),
            "paid, less what goes back, and what is open are what is due"
        );
        prop_assert_eq!((money.disputed, money.dispute_lost), (model.disputed, model.lost));
        prop_assert!(money.cancelled >= 0 && money.due() >= 0 && money.captured <= money.total + money.added);
        prop_assert!((0..=money.captured).contains(&money.owed_back));

        let worth =
            |lines: &mut dyn Iterator<Item = &super::order::Line>| lines.map(|line| line.total).sum::<i64>();
        let added = worth(&mut terms.lines.iter().filter(|line| line.added_version > PLACED));
        prop_assert_eq!(money.added, added);
        prop_assert_eq!(money.total, terms.totals.total);
        prop_assert_eq!(money.total, worth(&mut terms.lines.iter()) - added, "O-1");
        let version = PLACED + i64::try_from(self.told.len()).expect("few") - 1;
        prop_assert_eq!(state.version, version, "O-7");
        let goods = edit::goods(&self.order).expect("sound lines");
        for (n, line) in terms.lines.iter().enumerate() {
            prop_assert_eq!(goods[&line.id].left(), model.left(n));
            prop_assert_eq!(goods[&line.id].free(), model.count(n, &[Fate::Waits]));
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    /// Every facet is what the units say, after every step of every history (O-1 to O-5, O-15, O-16, O-23), and every answer
    /// that was given can be given again (O-13, O-25).
    #[test]
    fn every_history_is_what_its_units_say(
        lines in proptest::collection::vec(any_line(), 1..4),
        inclusive in any::<bool>(),
        steps in proptest::collection::vec(any_step(), 0..40),
    ) {
        let mut history = History::of(lines, inclusive);
        history.check()?;
        for step in steps {
            history.step(step)?;
            history.check()?;
        }
        for (state, sizes) in history.told {
            let then = history.order.clone().at(state.clone());
            prop_assert_eq!([then.terms.lines.len(), then.edits.len(), then.cancellations.len()], sizes);
            let added = |sum: i64, edit: &edit::Edited| sum + edit.added;
            prop_assert_eq!(then.edits.iter().fold(0, added), then.state.money.added);
            prop_assert_eq!(then.state, state);
        }
    }
}
