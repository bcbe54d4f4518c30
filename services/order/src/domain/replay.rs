//! An order, made again from what its log and its timeline tell, by the rules that decided then (O-32); and where that is not
//! what the tables say.
//!
//! Nothing is decided here a second time: a fact goes through the same functions of [`State`] and [`Tracked`] that let it be.
//! What cannot take effect is said, with its reason, and what follows is applied all the same.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use waybill_kernel::id::{EventId, HoldId, LineId};

use super::cancellation::Cancellation;
use super::fact::Fact;
use super::goods::LineGoods;
use super::hold::{Hold, Release};
use super::order::Payment;
use super::picture::{Agreed, AgreedLine, Picture};
use super::state::{Share, State};
use super::tracking::Tracked;

/// Something that this service decided about an order, as its event tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was placed.
    Placed(Box<Agreed>),
    /// A payment was recorded.
    Paid(Payment),
    /// Something changed that is no state.
    Updated,
    /// A hold began.
    Held(Hold),
    /// A hold ended.
    Released(HoldId),
    /// Units were cancelled; so many of them would have been shipped.
    UnitsCancelled(Cancellation, i64),
    /// What is ordered changed.
    Edited(Box<Edit>),
    /// It was cancelled.
    Cancelled(String),
    /// It was completed.
    Completed,
}

/// A change of what is ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// Lines that came.
    pub lines: Vec<AgreedLine>,
    /// What came, all in all.
    pub comes: Share,
    /// What went, all in all.
    pub goes: Share,
    /// The units that went.
    pub removal: Option<Cancellation>,
}

/// What a step of a history does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// This service decided it, in this version.
    Own(i64, Change),
    /// Another service told it.
    Told(Fact),
    /// It moves nothing.
    Nothing,
    /// It cannot be read, for this reason. The version, where it is known.
    Unreadable(Option<i64>, String),
}

/// A step of an order's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The event.
    pub event: EventId,
    /// Full name of its type.
    pub type_name: String,
    /// When this service knew it.
    pub known_at: DateTime<Utc>,
    /// What it does.
    pub effect: Effect,
}

impl Step {
    fn version(&self) -> Option<i64> {
        match &self.effect {
            Effect::Own(version, _) => Some(*version),
            Effect::Unreadable(version, _) => *version,
            Effect::Told(_) | Effect::Nothing => None,
        }
    }
}

/// As of when an order is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// As it is.
    Now,
    /// When this version had just been made.
    Version(i64),
    /// As it was known at this time.
    Time(DateTime<Utc>),
}

/// A fact that took no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unapplied {
    /// Its event.
    pub event: EventId,
    /// Full name of its type.
    pub type_name: String,
    /// Why.
    pub reason: String,
}

/// What came of a replay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replayed {
    /// The order; nothing when no placement was among the steps.
    pub order: Option<Picture>,
    /// When the last fact in it was known.
    pub as_of: Option<DateTime<Utc>>,
    /// Facts that took no effect.
    pub unapplied: Vec<Unapplied>,
    /// Facts that took effect.
    pub applied: usize,
}

/// The order has not come so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotReached {
    /// The version that it has.
    pub version: i64,
}

/// Makes an order again from its history, the first step first.
///
/// # Errors
///
/// When the history does not come to the version that is asked for.
pub fn replay(mut steps: Vec<Step>, moment: Moment) -> Result<Replayed, NotReached> {
    match moment {
        Moment::Now => {}
        Moment::Version(wanted) => {
            let reached = steps.iter().filter_map(Step::version).max().unwrap_or_default();
            if reached < wanted {
                return Err(NotReached { version: reached });
            }
            let upto = |step: &Step| step.version().is_some_and(|version| version <= wanted);
            steps.truncate(steps.iter().rposition(upto).map_or(0, |last| last + 1));
        }
        Moment::Time(time) => steps.retain(|step| step.known_at <= time),
    }
    let mut replay = Replayed::default();
    let mut order = None;
    for step in steps {
        replay.as_of = replay.as_of.max(Some(step.known_at));
        match apply(&mut order, &step) {
            Ok(()) => replay.applied += 1,
            Err(reason) => replay.unapplied.push(Unapplied {
                event: step.event,
                type_name: step.type_name,
                reason,
            }),
        }
    }
    replay.order = order.map(Rebuilding::picture);
    Ok(replay)
}

/// An order while it is made again.
struct Rebuilding {
    agreed: Agreed,
    tracked: Tracked,
    cancelled: BTreeMap<LineId, i32>,
    payments: Vec<Payment>,
    holds: Vec<Hold>,
    cancellations: Vec<Cancellation>,
}

fn apply(order: &mut Option<Rebuilding>, step: &Step) -> Result<(), String> {
    let Some(known) = order else {
        return match &step.effect {
            Effect::Own(1, Change::Placed(agreed)) => {
                *order = Some(Rebuilding::placed(agreed, step.known_at));
                Ok(())
            }
            Effect::Nothing => Ok(()),
            Effect::Unreadable(_, reason) => Err(reason.clone()),
            Effect::Own(..) | Effect::Told(_) => {
                Err("nothing is known of the order's placement before it".to_owned())
            }
        };
    };
    let gap = step
        .version()
        .and_then(|version| known.count(version, step.known_at));
    known.apply(&step.effect, step.known_at)?;
    gap.map_or(Ok(()), Err)
}

impl Rebuilding {
    fn placed(agreed: &Agreed, at: DateTime<Utc>) -> Rebuilding {
        let lines: BTreeMap<LineId, LineGoods> =
            (agreed.lines.iter()).map(|line| (line.id, goods(line))).collect();
        let to_ship = lines.values().map(|line| i64::from(line.quantity)).sum();
        Rebuilding {
            tracked: Tracked {
                state: State::placed(agreed.totals.total, to_ship, at),
                lines,
                returns: BTreeMap::new(),
            },
            agreed: agreed.clone(),
            cancelled: BTreeMap::new(),
            payments: Vec::new(),
            holds: Vec::new(),
            cancellations: Vec::new(),
        }
    }

    /// Counts the version; tells what is missing before it. Several events may tell one version.
    fn count(&mut self, version: i64, at: DateTime<Utc>) -> Option<String> {
        let state = &mut self.tracked.state;
        let before = state.version;
        state.version = version;
        state.updated_at = at;
        let gap = version != before && version != before + 1;
        gap.then(|| {
            format!("it took effect, but it makes version {version} of version {before}: what lies between is not known")
        })
    }

    fn apply(&mut self, effect: &Effect, at: DateTime<Utc>) -> Result<(), String> {
        match effect {
            Effect::Own(version, change) => self.change(*version, change, at),
            Effect::Told(fact) => {
                let before = self.tracked.clone();
                self.tracked.apply(fact).map_err(|unknown| unknown.to_string())?;
                if self.tracked != before {
                    self.tracked.state.updated_at = at;
                }
                Ok(())
            }
            Effect::Nothing => Ok(()),
            Effect::Unreadable(_, reason) => Err(reason.clone()),
        }
    }

    fn change(&mut self, version: i64, change: &Change, at: DateTime<Utc>) -> Result<(), String> {
        let state = &mut self.tracked.state;
        match change {
            Change::Placed(_) => return Err("the order was placed before".to_owned()),
            Change::Updated => {}
            Change::Paid(payment) => {
                state
                    .record(payment.kind, payment.amount)
                    .map_err(|refused| format!("the rules refuse the payment: {refused:?}"))?;
                self.payments.push(payment.clone());
            }
            Change::Held(hold) => {
                state
                    .hold()
                    .map_err(|refused| format!("the rules refuse the hold: {refused:?}"))?;
                self.holds.push(hold.clone());
            }
            Change::Released(id) => {
                let open = |hold: &&mut Hold| hold.id == *id && hold.released.is_none();
                let hold = self.holds.iter_mut().find(open);
                let hold = hold.ok_or_else(|| format!("hold {id} is not open"))?;
                hold.released = Some(ended(at, version));
                state.release(1);
            }
            Change::UnitsCancelled(cancellation, to_ship) => {
                state.cancel_units(*to_ship, cancellation.amount());
                self.cancel(cancellation);
            }
            Change::Edited(edit) => {
                state.edit(edit.comes, edit.goes);
                for line in &edit.lines {
                    self.tracked.lines.insert(line.id, goods(line));
                    self.agreed.lines.push(line.clone());
                }
                edit.removal.iter().for_each(|removal| self.cancel(removal));
            }
            Change::Cancelled(reason) => {
                state
                    .cancel(reason)
                    .map_err(|refused| format!("the rules refuse the cancellation: {refused:?}"))?;
                for hold in self.holds.iter_mut().filter(|hold| hold.released.is_none()) {
                    hold.released = Some(ended(at, version));
                }
            }
            // Where a change of this service completed the order, it did so by itself.
            Change::Completed => {
                if state.status != super::state::Status::Completed && !state.complete_if_done() {
                    return Err("the order is not open, or not all of it is paid and has arrived".to_owned());
                }
            }
        }
        Ok(())
    }

    fn cancel(&mut self, cancellation: &Cancellation) {
        for part in &cancellation.lines {
            *self.cancelled.entry(part.line).or_default() += part.units;
        }
        self.cancellations.push(cancellation.clone());
    }

    fn picture(self) -> Picture {
        let Tracked {
            state,
            lines,
            returns,
        } = self.tracked;
        Picture {
            payment_status: state.payment_status(),
            fulfillment_status: state.fulfillment_status(),
            units: (lines.into_iter())
                .map(|(line, goods)| {
                    let cancelled = self.cancelled.get(&line).copied().unwrap_or_default();
                    (line, (cancelled, goods.shipped, goods.delivered))
                })
                .collect(),
            state,
            agreed: self.agreed,
            returns,
            payments: self.payments,
            holds: self.holds,
            cancellations: self.cancellations,
        }
    }
}

/// A line of which nothing has shipped.
fn goods(line: &AgreedLine) -> LineGoods {
    LineGoods {
        quantity: if line.digital { 0 } else { line.quantity },
        shipped: 0,
        delivered: 0,
    }
}

/// The end of a hold, of whose note no event tells.
fn ended(at: DateTime<Utc>, version: i64) -> Release {
    Release {
        at,
        version,
        note: String::new(),
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
