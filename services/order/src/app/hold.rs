//! Stopping an order, and letting it go on.

use waybill_events::Log;
use waybill_kernel::id::{HoldId, OrderId};
use waybill_kernel::time;
use waybill_runtime::telemetry::current_traceparent;
use waybill_store::{RequestKey, StoreError, Tx, UseCase};

use super::{BELL, Orders, Receipt, check_etag};
use crate::domain::hold::{Hold, HoldReason, Release};
use crate::domain::order::{Order, Tenant};
use crate::domain::state::NotHoldable;
use crate::error::Error;
use crate::events::{self, About, Told};
use crate::store::{change, holds};

/// An order that is to be stopped.
pub(crate) struct NewHold {
    /// Whose order.
    pub tenant: Tenant,
    /// The order.
    pub order: OrderId,
    /// Why.
    pub reason: HoldReason,
    /// More about that; required with [`HoldReason::Manual`].
    pub note: String,
    /// The etag it must still have; any when empty.
    pub etag: String,
}

/// An order that is to go on.
pub(crate) struct NewRelease {
    /// Whose order.
    pub tenant: Tenant,
    /// The order.
    pub order: OrderId,
    /// Which hold; all that are open when not set.
    pub hold: Option<HoldId>,
    /// Why it may go on.
    pub note: String,
    /// The etag it must still have; any when empty.
    pub etag: String,
}

struct HoldOrder<'a> {
    log: &'a Log,
    clock: &'a time::Shared,
    new: &'a NewHold,
}

struct ReleaseOrder<'a> {
    log: &'a Log,
    clock: &'a time::Shared,
    new: &'a NewRelease,
}

impl Orders {
    /// Stops an order, once per request key. Answers with the order and the hold.
    pub(crate) async fn hold(&self, key: &RequestKey, new: &NewHold) -> Result<(Order, Hold), Error> {
        let usecase = HoldOrder {
            log: &self.log,
            clock: &self.clock,
            new,
        };
        let receipt = self.db.run_once(key, &usecase).await?;
        let placed = receipt.hold;
        let order = self.answer(new.tenant, receipt).await?;
        let hold = order.holds.iter().find(|hold| Some(hold.id) == placed).cloned();
        let hold = hold.ok_or_else(|| StoreError::other("a hold vanished"))?;
        Ok((order, hold))
    }

    /// Ends holds of an order, once per request key.
    pub(crate) async fn release(&self, key: &RequestKey, new: &NewRelease) -> Result<Order, Error> {
        let usecase = ReleaseOrder {
            log: &self.log,
            clock: &self.clock,
            new,
        };
        let receipt = self.db.run_once(key, &usecase).await?;
        self.answer(new.tenant, receipt).await
    }
}

impl UseCase for HoldOrder<'_> {
    type Output = Receipt;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Receipt, Error> {
        let NewHold {
            tenant,
            order,
            reason,
            note,
            etag,
        } = self.new;
        let (tenant, order) = (*tenant, *order);
        let locked = change::lock(tx.conn(), tenant, order)
            .await?
            .ok_or(Error::OrderNotFound)?;
        let mut state = locked.state;
        check_etag(&state, etag)?;
        state.hold().map_err(|refused| match refused {
            NotHoldable::Ended(status) => Error::NotHoldable {
                order_id: order,
                status,
            },
            NotHoldable::TooMany(open) => Error::TooManyHolds {
                order_id: order,
                open,
            },
        })?;
        state.touch(self.clock.now());

        let hold = Hold {
            id: HoldId::generate(),
            reason: *reason,
            rule: String::new(),
            note: note.clone(),
            held_at: state.updated_at,
            held_version: state.version,
            released: None,
        };
        let about = About {
            tenant,
            order,
            version: state.version,
            at: state.updated_at,
        };
        let told = events::held(about, &hold, state.holds, current_traceparent().as_deref());
        change::save(tx.conn(), tenant, order, &state, None, &[told.entry]).await?;
        holds::insert(tx.conn(), &[(tenant, order, &hold)]).await?;
        self.log.append(tx, &[told.event]).await?;
        tx.ring(BELL);
        Ok(Receipt {
            hold: Some(hold.id),
            ..Receipt::of(order, state)
        })
    }
}

impl UseCase for ReleaseOrder<'_> {
    type Output = Receipt;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Receipt, Error> {
        let NewRelease {
            tenant,
            order,
            hold,
            note,
            etag,
        } = self.new;
        let (tenant, order) = (*tenant, *order);
        let locked = change::lock(tx.conn(), tenant, order)
            .await?
            .ok_or(Error::OrderNotFound)?;
        let mut state = locked.state;
        check_etag(&state, etag)?;
        let open = holds::open(tx.conn(), tenant, order).await?;
        let ended: Vec<(HoldId, HoldReason)> = open
            .iter()
            .filter(|(id, _)| hold.is_none_or(|hold| hold == *id))
            .copied()
            .collect();
        if ended.is_empty() || state.is_final() {
            return Err(Error::HoldNotOpen {
                order_id: order,
                hold: *hold,
                status: state.status,
                open: open.into_iter().map(|(id, _)| id).collect(),
            });
        }
        let before = state.holds;
        let completed = state.release(u32::try_from(ended.len()).unwrap_or(u32::MAX));
        state.touch(self.clock.now());

        let about = About {
            tenant,
            order,
            version: state.version,
            at: state.updated_at,
        };
        let traceparent = current_traceparent();
        let left = (0..before).rev();
        let mut told: Vec<Told> = (ended.iter().zip(left))
            .map(|((id, reason), left)| events::released(about, *id, *reason, left, traceparent.as_deref()))
            .collect();
        if completed {
            told.push(events::completed(about, traceparent.as_deref()));
        }
        let (events, entries): (Vec<_>, Vec<_>) =
            told.into_iter().map(|told| (told.event, told.entry)).unzip();
        change::save(tx.conn(), tenant, order, &state, None, &entries).await?;
        let release = Release {
            at: state.updated_at,
            version: state.version,
            note: note.clone(),
        };
        let ids: Vec<HoldId> = ended.iter().map(|(id, _)| *id).collect();
        holds::release(tx.conn(), tenant, order, Some(&ids), &release).await?;
        self.log.append(tx, &events).await?;
        tx.ring(BELL);
        Ok(Receipt::of(order, state))
    }
}
