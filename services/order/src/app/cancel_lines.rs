//! Cancelling units of lines that have not shipped. When nothing is left of the order, the order is cancelled.

use waybill_events::Log;
use waybill_kernel::check::Violations;
use waybill_kernel::id::{CancellationId, LineId, OrderId};
use waybill_kernel::money::Money;
use waybill_kernel::time;
use waybill_runtime::telemetry::current_traceparent;
use waybill_store::{RequestKey, Tx, UseCase};

use super::attempt::refuse_while_capturing;
use super::cancel::{self, Scene};
use super::{BELL, Orders, Receipt, check_etag};
use crate::domain::cancellation::{Cancellation, Cut, NotFree, cut};
use crate::domain::order::{Order, Tenant};
use crate::domain::state::NotCancellable;
use crate::error::Error;
use crate::events;
use crate::store::{cancellations, change};

/// Units that are to be cancelled.
pub(crate) struct CancelUnits {
    /// Whose order.
    pub tenant: Tenant,
    /// The order.
    pub order: OrderId,
    /// Units per line, each line once and more than 0 of it.
    pub lines: Vec<(LineId, i32)>,
    /// Why.
    pub reason: String,
    /// Whether what was reserved for them can be sold to others.
    pub restock: bool,
    /// The etag it must still have; any when empty.
    pub etag: String,
}

struct CancelOrderLines<'a> {
    log: &'a Log,
    clock: &'a time::Shared,
    cancel: &'a CancelUnits,
}

impl Orders {
    /// Cancels units, once per request key. Answers with the order and the cancellation; without one when the order was
    /// cancelled as a whole.
    pub(crate) async fn cancel_lines(
        &self,
        key: &RequestKey,
        cancel: &CancelUnits,
    ) -> Result<(Order, Option<Cancellation>), Error> {
        let usecase = CancelOrderLines {
            log: &self.log,
            clock: &self.clock,
            cancel,
        };
        let receipt = self.db.run_once(key, &usecase).await?;
        let made = receipt.cancellation;
        let order = self.answer(cancel.tenant, receipt).await?;
        let cancellation = (order.cancellations.iter())
            .find(|known| Some(known.id) == made)
            .cloned();
        Ok((order, cancellation))
    }
}

impl UseCase for CancelOrderLines<'_> {
    type Output = Receipt;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Receipt, Error> {
        let CancelUnits {
            tenant,
            order,
            reason,
            restock,
            etag,
            ..
        } = self.cancel;
        let (tenant, order) = (*tenant, *order);
        let locked = change::lock(tx.conn(), tenant, order)
            .await?
            .ok_or(Error::OrderNotFound)?;
        check_etag(&locked.state, etag)?;
        let lines = cancellations::lines(tx.conn(), tenant, order).await?;
        let scene = Scene {
            log: self.log,
            clock: self.clock,
            tenant,
            order,
        };
        let (parts, to_ship) = match cut(&lines, &self.cancel.lines) {
            _ if locked.state.is_final() => {
                let NotCancellable { status, shipped } = locked.state.not_cancellable();
                return Err(Error::NotCancellable {
                    order_id: order,
                    status,
                    shipped,
                });
            }
            Err(refused) => return Err(self.refusal(refused)),
            Ok(Cut::Everything) => return cancel::whole(&scene, tx, locked, reason).await,
            Ok(Cut::Units { lines, to_ship }) => (lines, to_ship),
        };
        let mut state = locked.state;
        let mut cancellation = Cancellation {
            id: CancellationId::generate(),
            reason: reason.clone(),
            restock: *restock,
            lines: parts,
            at: self.clock.now(),
            version: state.version + 1,
        };
        let overpaid = state.money.overpaid();
        let completed = state.cancel_units(to_ship, cancellation.amount());
        let refund = state.money.overpaid() - overpaid;
        if !state.money.captures_fit() {
            refuse_while_capturing(tx, tenant, order, locked.currency).await?;
        }
        state.touch(cancellation.at);
        cancellation.at = state.updated_at;

        let about = scene.about(&state);
        let traceparent = current_traceparent();
        let mut told = vec![events::lines_cancelled(
            about,
            &cancellation,
            &lines,
            Money::new(locked.currency, refund),
            traceparent.as_deref(),
        )];
        if completed {
            told.push(events::completed(about, traceparent.as_deref()));
        }
        let (events, entries): (Vec<_>, Vec<_>) =
            told.into_iter().map(|told| (told.event, told.entry)).unzip();
        change::save(tx.conn(), tenant, order, &state, None, &entries).await?;
        cancellations::save(tx.conn(), tenant, order, &cancellation).await?;
        self.log.append(tx, &events).await?;
        tx.ring(BELL);
        Ok(Receipt {
            cancellation: Some(cancellation.id),
            ..Receipt::of(order, state)
        })
    }
}

impl CancelOrderLines<'_> {
    /// A line of another order is a fault of the request; one whose units are gone is a matter of time.
    fn refusal(&self, refused: Vec<NotFree>) -> Error {
        let order_id = self.cancel.order;
        let mut v = Violations::new();
        for unknown in refused.iter().filter(|line| line.of.is_none()) {
            v.element("lines", unknown.index, |v| {
                v.push(
                    "line_id",
                    format!(
                        "names line {}, which order {order_id} does not have",
                        unknown.line
                    ),
                );
            });
        }
        if v.is_empty() {
            Error::UnitsNotCancellable { order_id, refused }
        } else {
            Error::Invalid(v)
        }
    }
}
