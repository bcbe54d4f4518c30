//! Changing what may change about an order: contact, addresses, note, tags, attributes.

use std::collections::BTreeSet;

use waybill_events::Log;
use waybill_kernel::check::Violations;
use waybill_kernel::id::OrderId;
use waybill_kernel::time;
use waybill_runtime::telemetry::current_traceparent;
use waybill_store::{RequestKey, Tx, UseCase};

use super::{BELL, Customers, Orders, Receipt, check_etag};
use crate::domain::change::{Details, NotUpdatable, Path, Update};
use crate::domain::order::{Order, Tenant};
use crate::error::Error;
use crate::events::{self, About};
use crate::store::{change, details};

/// What is to change.
pub(crate) struct NewDetails {
    /// Whose order.
    pub tenant: Tenant,
    /// The order.
    pub order: OrderId,
    /// The values, and which of them are meant.
    pub update: Update,
    /// The etag it must still have; any when empty.
    pub etag: String,
}

struct UpdateOrder<'a> {
    log: &'a Log,
    clock: &'a time::Shared,
    customers: &'a Customers,
    new: &'a NewDetails,
}

impl Orders {
    /// Changes an order, once per request key.
    pub(crate) async fn update(&self, key: &RequestKey, new: &NewDetails) -> Result<Order, Error> {
        let usecase = UpdateOrder {
            log: &self.log,
            clock: &self.clock,
            customers: &self.customers,
            new,
        };
        let receipt = self.db.run_once(key, &usecase).await?;
        self.answer(new.tenant, receipt).await
    }
}

impl UseCase for UpdateOrder<'_> {
    type Output = Receipt;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Receipt, Error> {
        let NewDetails {
            tenant,
            order,
            update,
            etag,
        } = self.new;
        let (tenant, order) = (*tenant, *order);
        let locked = change::lock(tx.conn(), tenant, order)
            .await?
            .ok_or(Error::OrderNotFound)?;
        let mut state = locked.state;
        check_etag(&state, etag)?;
        let lines: Vec<_> = update.lines.keys().copied().collect();
        let mut now = details::load(tx.conn(), tenant, order, &lines).await?;
        let changed = now
            .apply(update, &state)
            .map_err(|refused| refusal(order, refused))?;
        if !changed.is_empty() {
            state.touch(self.clock.now());
            self.save(tx, &now, changed, &state).await?;
        }
        Ok(Receipt::of(order, state))
    }
}

impl UpdateOrder<'_> {
    async fn save(
        &self,
        tx: &mut Tx,
        now: &Details,
        changed: BTreeSet<Path>,
        state: &crate::domain::state::State,
    ) -> Result<(), Error> {
        let (tenant, order) = (self.new.tenant, self.new.order);
        // Another address may be another person: all orders of a person must be found under one pseudonym.
        let customer_key = now.contact.as_ref().map_or_else(String::new, |contact| {
            self.customers.pseudonym(tenant.merchant, contact)
        });
        details::save(tx.conn(), tenant, order, now, &changed, &customer_key).await?;
        let about = About {
            tenant,
            order,
            version: state.version,
            at: state.updated_at,
        };
        let told = events::updated(about, changed, current_traceparent().as_deref());
        change::save(tx.conn(), tenant, order, state, None, &[told.entry]).await?;
        self.log.append(tx, &[told.event]).await?;
        tx.ring(BELL);
        Ok(())
    }
}

fn refusal(order_id: OrderId, refused: NotUpdatable) -> Error {
    let invalid = |field: &str, description: String| {
        let mut v = Violations::new();
        v.push(field, description);
        Error::Invalid(v)
    };
    match refused {
        NotUpdatable::AddressSettled {
            path,
            status,
            fulfillment,
        } => Error::AddressNotChangeable {
            order_id,
            path,
            status,
            fulfillment,
        },
        NotUpdatable::ContactErased { path } => Error::ContactErased { order_id, path },
        NotUpdatable::AddressNeeded => invalid(
            "update.shipping_address",
            "is missing; expected one, since a line of the order is not digital".to_owned(),
        ),
        NotUpdatable::UnknownLine(line) => invalid(
            "update.line_attributes",
            format!("names line {line}, which order {order_id} does not have"),
        ),
    }
}
