//! Follows the order and refund services: their events as facts for `app::follow_orders`.
//!
//! | event | what the warehouse makes of it |
//! | --- | --- |
//! | `OrderPlaced` | the order is known; its goods are reserved, or wait |
//! | `PaymentRecorded` | the order may ship, or no longer may: what is captured and authorised has to cover what is to be paid |
//! | `OrderHeld` | nothing of the order ships; what is reserved for it stays so |
//! | `OrderReleased` | the order may ship again, once no other hold is open |
//! | `OrderCancelled` | what it holds is let go |
//! | `OrderLinesCancelled` | units no longer wait or are no longer reserved; who waits gets what that frees; less is to be paid |
//! | `OrderContactErased` | what carriers wrote about its parcels is emptied, and not kept from here on |
//! | `OrderEdited` | added lines are reserved or wait, as old as their order, and are to be paid; removed units as if they were cancelled |
//! | any other of the order service | its version is known |
//! | `ReturnReceived` | units to be sold again lie where they left from, and waiting orders get them |
//!
//! An event that contradicts itself is a dead letter; whatever the database answers is tried again.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, SubsecRound as _, Utc};
use sqlx::PgConnection;
use uuid::Uuid;
use waybill_events::Event;
use waybill_events::{Fold, FoldError, Projection, Reaction};
use waybill_kernel::id::{Id, LineId, OrderId};
use waybill_kernel::time;
use waybill_proto::waybill::order::v1::{
    self as order, CancelledLine, OrderCancelled, OrderContactErased, OrderEdited, OrderHeld,
    OrderLinesCancelled, OrderPlaced, OrderReleased, PaymentRecorded,
};
use waybill_proto::waybill::refund::v1::ReturnReceived;
use waybill_store::StoreError;

use crate::app::follow_orders::Facts;
use crate::app::give_stock;
use crate::domain::stock::Sku;
use crate::store::projection::{self, AddedLines, Cancellation, Due, PaymentEntry, PlacedLine, PlacedOrder};

/// The service whose orders are fulfilled.
const ORDER: &str = "order";
/// The service that takes goods back.
const REFUND: &str = "refund";
/// The disposition of units that are to be sold again.
const RESTOCK: &str = "restock";

/// Follows the order and refund services.
#[derive(Clone)]
pub struct Follow {
    clock: time::Shared,
}

impl Follow {
    /// A follower whose own events carry the times of `clock`.
    #[must_use]
    pub fn new(clock: time::Shared) -> Self {
        Self { clock }
    }
}

impl Fold for Follow {
    const NAME: &'static str = "fulfillment";

    fn sources(&self) -> &'static [&'static str] {
        &[ORDER, REFUND]
    }

    fn tables(&self) -> &'static [&'static str] {
        &[
            "orders",
            "order_lines",
            "order_payments",
            "order_holds",
            "order_cancellations",
        ]
    }

    fn opens(&self, event: &Event) -> bool {
        event.is::<OrderPlaced>()
    }

    fn handles(&self, event: &Event) -> bool {
        &*event.source == ORDER || event.is::<ReturnReceived>()
    }

    async fn known(&self, conn: &mut PgConnection, keys: &[Uuid]) -> Result<HashSet<Uuid>, FoldError> {
        Ok(projection::known(conn, keys).await?)
    }

    async fn project(&self, projection: &mut Projection<'_>, events: &[Event]) -> Result<(), FoldError> {
        Ok(read(events)?.project(projection.conn()).await?)
    }

    async fn react(&self, reaction: &mut Reaction<'_>, events: &[Event]) -> Result<(), FoldError> {
        let settled = read(events)?.react(reaction.conn(), self.clock.now()).await?;

        // The trace of what an order's own event leads to goes on from there. Others get what somebody else's
        // cancellation or return made free.
        let own: HashMap<Uuid, &Event> = events
            .iter()
            .filter(|event| {
                event.is::<OrderPlaced>()
                    || event.is::<OrderEdited>()
                    || event.is::<OrderCancelled>()
                    || event.is::<OrderLinesCancelled>()
            })
            .map(|event| (event.key, event))
            .collect();
        let freed = events.iter().find(|event| {
            event.is::<OrderCancelled>()
                || event.is::<OrderLinesCancelled>()
                || event.is::<OrderEdited>()
                || event.is::<ReturnReceived>()
        });
        for announcement in &settled.announcements {
            let cause = own.get(&announcement.order.uuid()).copied().or(freed);
            let event = announcement.to_event();
            reaction.append(match cause {
                Some(cause) => event.caused_by(cause),
                None => event,
            });
        }
        for job in give_stock::jobs(settled.unfinished).map_err(StoreError::other)? {
            let traceparent = freed
                .or(events.first())
                .and_then(|event| event.traceparent.clone());
            reaction.enqueue(job.traceparent(traceparent));
        }
        Ok(())
    }
}

/// What the events of a batch tell, all together.
fn read(events: &[Event]) -> Result<Facts, FoldError> {
    let mut facts = Facts::default();
    let mut placed_here = HashSet::new();
    for event in events {
        let order = OrderId::from(event.key);
        if &*event.source == ORDER {
            let version = facts.versions.entry(order).or_default();
            *version = event.version.max(*version);
        }
        if let Some(placed) = event.as_a::<OrderPlaced>()? {
            // The database refuses it too, but only if it comes in another batch.
            if !placed_here.insert(order) {
                return Err(poison(event, "the order was placed before"));
            }
            facts.placed.push(placed_order(event, placed)?);
        } else if let Some(payment) = event.as_a::<PaymentRecorded>()? {
            facts.payments.push(PaymentEntry {
                order,
                payment: uuid(event, "payment_id", &payment.payment_id)?,
                kind: payment.kind,
                provider: payment.provider,
                provider_payment_id: payment.provider_payment_id,
                amount: payment.amount_minor,
            });
        } else if let Some(held) = event.as_a::<OrderHeld>()? {
            facts.held.push((order, uuid(event, "hold_id", &held.hold_id)?));
        } else if let Some(released) = event.as_a::<OrderReleased>()? {
            let hold = uuid(event, "hold_id", &released.hold_id)?;
            facts.released.push((order, hold));
        } else if let Some(lines) = event.as_a::<OrderLinesCancelled>()? {
            cancel_units(&mut facts, event, &lines.lines, lines.restock)?;
            facts.cancellations.push(Cancellation {
                order,
                version: event.version,
                amount: lines.amount_minor,
                refund: lines.refund_minor.unwrap_or_default(),
            });
        } else if let Some(edited) = event.as_a::<OrderEdited>()? {
            cancel_units(&mut facts, event, &edited.removed, edited.restock)?;
            if !edited.removed.is_empty() {
                facts.cancellations.push(Cancellation {
                    order,
                    version: event.version,
                    amount: edited.removed_minor,
                    refund: edited.refund_minor,
                });
            }
            add_lines(&mut facts, event, edited)?;
        } else if event.is::<OrderCancelled>() {
            facts.cancelled.insert(order);
        } else if event.is::<OrderContactErased>() {
            facts.erased.insert(order);
        } else if let Some(received) = event.as_a::<ReturnReceived>()? {
            for line in received.lines.iter().filter(|line| line.disposition == RESTOCK) {
                let id: LineId = id(event, "line_id", &line.line_id)?;
                let units = units(event, line.quantity)?;
                *facts.returned.entry((order, id)).or_default() += units;
            }
        }
    }
    // What is cancelled in the same breath is never wanted.
    for placed in &mut facts.placed {
        for line in &mut placed.lines {
            if let Some(cancelled) = facts.units_cancelled.remove(&(placed.order, line.line)) {
                line.cancelled = cancelled.units().min(line.units);
            }
        }
    }
    Ok(facts)
}

fn cancel_units(
    facts: &mut Facts,
    event: &Event,
    lines: &[CancelledLine],
    restock: bool,
) -> Result<(), FoldError> {
    for line in lines.iter().filter(|line| !line.digital) {
        let id: LineId = id(event, "line_id", &line.line_id)?;
        let units = units(event, line.quantity)?;
        let cancelled = facts.units_cancelled.entry((event.key.into(), id)).or_default();
        if restock {
            cancelled.restock += units;
        } else {
            cancelled.lost += units;
        }
    }
    Ok(())
}

/// Lines that an edit added. Those of an order that is placed in the same batch are lines of it from the beginning.
fn add_lines(facts: &mut Facts, event: &Event, edited: OrderEdited) -> Result<(), FoldError> {
    let order = OrderId::from(event.key);
    let due = Due {
        minor: edited.due_minor,
        version: event.version,
    };
    let lines = placed_lines(event, edited.added)?;
    if let Some(placed) = facts.placed.iter_mut().find(|placed| placed.order == order) {
        placed.lines.extend(lines);
        placed.due = due;
    } else {
        facts.added.push(AddedLines { order, lines, due });
    }
    Ok(())
}

fn placed_lines(event: &Event, lines: Vec<order::PlacedLine>) -> Result<Vec<PlacedLine>, FoldError> {
    let read = |line: order::PlacedLine| {
        Ok(PlacedLine {
            line: id(event, "line_id", &line.line_id)?,
            units: units(event, line.quantity)?,
            sku: Sku::known(line.sku),
            digital: line.digital,
            cancelled: 0,
        })
    };
    lines.into_iter().map(read).collect()
}

fn placed_order(event: &Event, placed: OrderPlaced) -> Result<PlacedOrder, FoldError> {
    let order: OrderId = id(event, "order_id", &placed.order_id)?;
    if order.uuid() != event.key {
        return Err(poison(
            event,
            format!("order_id {order} is not its key {}", event.key),
        ));
    }
    let store = event.store.ok_or_else(|| poison(event, "no store is named"))?;
    let placed_at = placed
        .placed_at
        .and_then(|time| DateTime::<Utc>::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?))
        .ok_or_else(|| poison(event, "placed_at is missing or no time"))?;
    let lines = placed_lines(event, placed.lines)?;
    Ok(PlacedOrder {
        order,
        merchant: event.merchant,
        store,
        // As the database keeps it, so that an order is as old in the queue as it is here.
        placed_at: placed_at.trunc_subsecs(6),
        version: event.version,
        due: Due {
            minor: placed.total_minor,
            version: event.version,
        },
        lines,
    })
}

fn units(event: &Event, quantity: i32) -> Result<i64, FoldError> {
    if quantity > 0 {
        Ok(quantity.into())
    } else {
        Err(poison(event, format!("{quantity} units of a line")))
    }
}

fn uuid(event: &Event, field: &str, text: &str) -> Result<Uuid, FoldError> {
    Uuid::try_parse(text).map_err(|_| poison(event, format!("{field} {text:?} is no id")))
}

fn id<T: Id>(event: &Event, field: &str, text: &str) -> Result<T, FoldError> {
    uuid(event, field, text).map(T::from)
}

fn poison(event: &Event, what: impl std::fmt::Display) -> FoldError {
    FoldError::poison(format!("{} {}: {what}", event.short_type(), event.event_id))
}
