//! Editing what is ordered before it has shipped, as a preview and as a commit: both by the same plan (O-24).

use prost::Message as _;
use uuid::Uuid;
use waybill_events::{Log, MAX_PAYLOAD_BYTES};
use waybill_kernel::id::{CancellationId, EditId, LineId, OrderId};
use waybill_kernel::time;
use waybill_runtime::telemetry::current_traceparent;
use waybill_store::{RequestKey, StoreError, Tx, UseCase};

use super::attempt::refuse_while_capturing;
use super::{BELL, Orders, Receipt, check_etag};
use crate::domain::edit::{self, Deed, Edit, Edited, Refused};
use crate::domain::limits;
use crate::domain::order::{Order, Tenant};
use crate::error::Error;
use crate::events::{self, About, Told};
use crate::store::read::{self, Key};
use crate::store::{cancellations, change, edits};

/// What is to be different about an order.
pub(crate) struct NewEdit {
    /// Whose order.
    pub tenant: Tenant,
    /// The order.
    pub order: OrderId,
    /// What is to be different.
    pub edit: Edit,
    /// Why.
    pub reason: String,
    /// Whether what was reserved for units that go can be sold to others.
    pub restock: bool,
    /// The etag it must still have.
    pub etag: String,
}

/// What an edit would make of an order.
pub(crate) struct Preview {
    /// The order as it would be; as it is, when nothing would change.
    pub order: Order,
    /// The edit as it would be; none when nothing would change.
    pub edited: Option<Edited>,
    /// The etag of the order that was looked at.
    pub etag: String,
}

struct EditOrder<'a> {
    log: &'a Log,
    clock: &'a time::Shared,
    new: &'a NewEdit,
}

impl Orders {
    /// Says what an edit would make of an order, or everything that stands in the way.
    pub(crate) async fn preview_edit(
        &self,
        tenant: Tenant,
        order: OrderId,
        edit: &Edit,
    ) -> Result<Result<Preview, Refused>, Error> {
        let mut order = self.get(tenant, &Key::Id(order)).await?;
        let etag = order.state.etag();
        // Ids are given by the commit.
        let plan = match edit::plan(&order, edit, &mut || LineId::from(Uuid::nil())) {
            Ok(plan) => plan,
            Err(refused) => return Ok(Err(refused)),
        };
        let changes = !plan.changes_nothing();
        if changes {
            plan.apply(
                &mut order,
                Deed {
                    id: EditId::from(Uuid::nil()),
                    cancellation: CancellationId::from(Uuid::nil()),
                    reason: String::new(),
                    restock: true,
                    at: self.clock.now(),
                },
            );
        }
        let edited = order.edits.last().filter(|_| changes).cloned();
        Ok(Ok(Preview { order, edited, etag }))
    }

    /// Edits an order, once per request key. Answers with the order and the edit; without one when everything was as asked.
    pub(crate) async fn edit(
        &self,
        key: &RequestKey,
        new: &NewEdit,
    ) -> Result<(Order, Option<Edited>), Error> {
        let usecase = EditOrder {
            log: &self.log,
            clock: &self.clock,
            new,
        };
        let receipt = self.db.run_once(key, &usecase).await?;
        let made = receipt.edit;
        let order = self.answer(new.tenant, receipt).await?;
        let edited = order.edits.iter().find(|known| Some(known.id) == made).cloned();
        Ok((order, edited))
    }
}

impl UseCase for EditOrder<'_> {
    type Output = Receipt;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Receipt, Error> {
        let NewEdit {
            tenant,
            order: order_id,
            edit,
            reason,
            restock,
            etag,
        } = self.new;
        let (tenant, order_id) = (*tenant, *order_id);
        let locked = change::lock(tx.conn(), tenant, order_id)
            .await?
            .ok_or(Error::OrderNotFound)?;
        check_etag(&locked.state, etag)?;
        // Under the lock: nothing of it changes until the end of the transaction.
        let found = read::find(tx.conn(), tenant, &Key::Id(order_id)).await?;
        let mut order = found.ok_or(Error::OrderNotFound)?.order;
        let lines_before = order.terms.lines.len();
        let plan =
            edit::plan(&order, edit, &mut LineId::generate).map_err(|refused| refusal(order_id, refused))?;
        if plan.changes_nothing() {
            return Ok(Receipt::of(order_id, order.state));
        }
        let completed = plan.apply(
            &mut order,
            Deed {
                id: EditId::generate(),
                cancellation: CancellationId::generate(),
                reason: reason.clone(),
                restock: *restock,
                at: self.clock.now(),
            },
        );
        if !order.state.money.captures_fit() {
            refuse_while_capturing(tx, tenant, order_id, order.terms.currency).await?;
        }
        let edited = (order.edits.last().cloned())
            .ok_or_else(|| StoreError::other("an edit that was made is not there"))?;
        let told = tell(&order, &edited, completed)?;
        let (events, entries): (Vec<_>, Vec<_>) =
            told.into_iter().map(|told| (told.event, told.entry)).unzip();
        // Lines first: units and money of the row are within what the order has with them.
        edits::save(tx.conn(), &order, lines_before, &edited).await?;
        change::save(tx.conn(), tenant, order_id, &order.state, None, &entries).await?;
        if let Some(removal) = edited.removal(&order) {
            cancellations::save(tx.conn(), tenant, order_id, removal).await?;
        }
        self.log.append(tx, &events).await?;
        tx.ring(BELL);
        Ok(Receipt {
            edit: Some(edited.id),
            ..Receipt::of(order_id, order.state)
        })
    }
}

/// What is told of an edit that was made.
fn tell(order: &Order, edited: &Edited, completed: bool) -> Result<Vec<Told>, Error> {
    let about = About {
        tenant: order.tenant,
        order: order.id,
        version: order.state.version,
        at: order.state.updated_at,
    };
    let traceparent = current_traceparent();
    let (message, fact) = events::edited(order, edited);
    let bytes = message.encoded_len();
    if bytes > MAX_PAYLOAD_BYTES {
        return Err(Error::OrderTooLarge {
            bytes,
            most: MAX_PAYLOAD_BYTES,
        });
    }
    let mut told = vec![Told::new(about, &message, &fact, traceparent.as_deref())];
    if completed {
        told.push(events::completed(about, traceparent.as_deref()));
    }
    Ok(told)
}

/// Why an order cannot be edited so, as a caller is told. What is wrong in itself is told with all that is not allowed now.
pub(crate) fn refusal(order_id: OrderId, refused: Refused) -> Error {
    match refused {
        Refused::Ended(status) => Error::NotEditable { order_id, status },
        Refused::Unsound(error) => StoreError::decode(error).into(),
        Refused::Faults(faults) if faults.wrong.is_empty() => Error::EditRefused {
            order_id,
            faults: limits::listed(faults.blocked),
        },
        Refused::Faults(faults) => {
            let mut all = faults.wrong;
            all.absorb("", faults.blocked);
            Error::Invalid(limits::listed(all))
        }
    }
}
