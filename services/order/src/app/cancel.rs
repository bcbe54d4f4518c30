//! Cancelling an order of which nothing has shipped.

use waybill_events::Log;
use waybill_kernel::id::OrderId;
use waybill_kernel::money::Money;
use waybill_kernel::time;
use waybill_runtime::telemetry::current_traceparent;
use waybill_store::jobs;
use waybill_store::{RequestKey, Tx, UseCase};

use super::attempt::{Sweep, refuse_while_capturing};
use super::{BELL, Orders, Receipt, check_etag};
use crate::domain::hold::Release;
use crate::domain::order::{Order, Tenant};
use crate::domain::state::{NotCancellable, State};
use crate::error::Error;
use crate::events::{self, About};
use crate::store::change::Locked;
use crate::store::{change, holds};
use crate::workers;

/// What is to be cancelled.
pub(crate) struct Cancel {
    /// Whose order.
    pub tenant: Tenant,
    /// The order.
    pub order: OrderId,
    /// Why.
    pub reason: String,
    /// The etag it must still have; any when empty.
    pub etag: String,
}

struct CancelOrder<'a> {
    log: &'a Log,
    clock: &'a time::Shared,
    cancel: &'a Cancel,
}

impl Orders {
    /// Cancels an order, once per request key.
    pub(crate) async fn cancel(&self, key: &RequestKey, cancel: &Cancel) -> Result<Order, Error> {
        let usecase = CancelOrder {
            log: &self.log,
            clock: &self.clock,
            cancel,
        };
        let receipt = self.db.run_once(key, &usecase).await?;
        self.answer(cancel.tenant, receipt).await
    }
}

impl UseCase for CancelOrder<'_> {
    type Output = Receipt;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Receipt, Error> {
        let Cancel {
            tenant,
            order,
            reason,
            etag,
        } = self.cancel;
        let locked = change::lock(tx.conn(), *tenant, *order)
            .await?
            .ok_or(Error::OrderNotFound)?;
        check_etag(&locked.state, etag)?;
        let scene = Scene {
            log: self.log,
            clock: self.clock,
            tenant: *tenant,
            order: *order,
        };
        whole(&scene, tx, locked, reason).await
    }
}

/// Where an order is cancelled.
pub(super) struct Scene<'a> {
    /// The log it is told in.
    pub log: &'a Log,
    /// The clock.
    pub clock: &'a time::Shared,
    /// Whose order.
    pub tenant: Tenant,
    /// The order.
    pub order: OrderId,
}

impl Scene<'_> {
    /// The order in log and timeline, after a change.
    pub(super) fn about(&self, state: &State) -> About {
        About {
            tenant: self.tenant,
            order: self.order,
            version: state.version,
            at: state.updated_at,
        }
    }
}

/// Cancels a locked order, with all its holds.
pub(super) async fn whole(
    scene: &Scene<'_>,
    tx: &mut Tx,
    locked: Locked,
    reason: &str,
) -> Result<Receipt, Error> {
    let (tenant, order) = (scene.tenant, scene.order);
    let mut state = locked.state;
    if state.money.capturing > 0 && !state.is_final() {
        refuse_while_capturing(tx, tenant, order, locked.currency).await?;
    }
    let held = state.holds > 0;
    state
        .cancel(reason)
        .map_err(|NotCancellable { status, shipped }| Error::NotCancellable {
            order_id: order,
            status,
            shipped,
        })?;
    state.touch(scene.clock.now());

    let captured = Money::new(locked.currency, state.money.captured);
    let told = events::cancelled(
        scene.about(&state),
        &state,
        captured,
        current_traceparent().as_deref(),
    );
    change::save(tx.conn(), tenant, order, &state, None, &[told.entry]).await?;
    if held {
        // The cancellation says it all: it ends every hold, and is told once.
        let release = Release {
            at: state.updated_at,
            version: state.version,
            note: String::new(),
        };
        holds::release(tx.conn(), tenant, order, None, &release).await?;
    }
    scene.log.append(tx, &[told.event]).await?;
    if state.money.authorized > state.money.voided {
        // What is authorised is released by whoever can be called for it.
        let job = workers::sweep_job(tenant, order, Sweep::Void, &format!("cancelled:{order}"));
        jobs::enqueue(tx, &[job]).await?;
    }
    tx.ring(BELL);
    Ok(Receipt::of(order, state))
}
