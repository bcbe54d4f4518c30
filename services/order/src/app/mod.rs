//! The use cases, one file each: load, decide, save with the event, in one transaction.
//!
//! [`Orders`] is the service as a value: what the use cases need, and one method per RPC. It speaks domain types; that
//! there is a wire format is known to `grpc` alone.

mod attempt;
mod cancel;
mod cancel_lines;
mod customer_data;
mod drafts;
mod edit;
mod fates;
mod find;
mod hold;
mod import;
mod intake;
mod lookup;
mod numbers;
mod payment;
mod place;
mod privacy;
mod query;
mod queue;
mod rebuild;
mod update;
mod watch;
mod word;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use waybill_events::Log;
use waybill_kernel::id::{CancellationId, EditId, HoldId, OrderId, PaymentId};
use waybill_kernel::time;
use waybill_store::{Db, StoreError};

pub(crate) use self::attempt::{NewAttempt, Sweep, SweepOrder, Swept, Wish};
pub(crate) use self::cancel::Cancel;
pub(crate) use self::cancel_lines::CancelUnits;
pub(crate) use self::customer_data::{CustomerExport, Held, Thing};
pub(crate) use self::drafts::{Handed, ThisDraft};
pub(crate) use self::edit::{NewEdit, Preview, refusal as edit_refusal};
pub(crate) use self::find::{Export, Exported, Exports, Query};
pub(crate) use self::hold::{NewHold, NewRelease};
pub(crate) use self::import::{Importing, Imports};
pub(crate) use self::intake::Intake;
pub(crate) use self::lookup::Lookups;
pub(crate) use self::numbers::Numbers;
pub(crate) use self::payment::NewPayment;
pub(crate) use self::place::{Candidate, Customers, Outcome};
pub(crate) use self::privacy::{Eraser, Whose};
pub(crate) use self::query::MAX_BATCH_GET;
pub(crate) use self::rebuild::Rebuilt;
pub(crate) use self::update::NewDetails;
pub(crate) use self::watch::{Follower, Start, Watch};
pub(crate) use self::word::{ApplyWord, BeginCall, Call, FollowUp, Turn};

use crate::domain::capture::CaptureRules;
use crate::domain::order::{Order, Tenant};
use crate::domain::review::Rulebook;
use crate::domain::state::State;
use crate::error::Error;
use crate::store;

/// Rung, in this process, when an event was committed: watches look at the log then.
pub(crate) const BELL: &str = "order_events";

/// The service as a value. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Orders {
    pub(crate) db: Db,
    pub(crate) log: Log,
    pub(crate) clock: time::Shared,
    pub(crate) handling_days: u16,
    pub(crate) draft_keep: Duration,
    pub(crate) customers: Customers,
    pub(crate) rules: Arc<Rulebook>,
    pub(crate) capture: Arc<CaptureRules>,
    pub(crate) numbers: Numbers,
    pub(crate) intake: Intake,
    pub(crate) lookups: Lookups,
    pub(crate) watch: Arc<Watch>,
    pub(crate) exports: Exports,
    pub(crate) imports: Imports,
}

/// What a mutation of an existing order leaves as its answer under its request key: no personal data, because answers
/// outlive an erasure. With the terms, which never change, it makes the same answer again (O-13).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Receipt {
    /// The order.
    pub order: OrderId,
    /// Where it stood after the change.
    pub state: State,
    /// The payment that was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment: Option<PaymentId>,
    /// The hold that began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldId>,
    /// The cancellation of units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancellation: Option<CancellationId>,
    /// The edit that was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<EditId>,
    /// What a provider is asked for; how far that is by now is told by its row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<PaymentId>,
}

impl Receipt {
    /// A receipt of a change that made nothing new.
    fn of(order: OrderId, state: State) -> Receipt {
        Receipt {
            order,
            state,
            payment: None,
            hold: None,
            cancellation: None,
            edit: None,
            attempt: None,
        }
    }
}

/// The etag that a caller has seen is still the order's; any is when none is given.
fn check_etag(state: &State, given: &str) -> Result<(), Error> {
    let current = state.etag();
    if given.is_empty() || given == current {
        return Ok(());
    }
    Err(Error::EtagMismatch {
        given: given.to_owned(),
        current,
    })
}

impl Orders {
    /// The order as it stood after a mutation.
    async fn answer(&self, tenant: Tenant, receipt: Receipt) -> Result<Order, Error> {
        let key = store::read::Key::Id(receipt.order);
        let found = store::read::find(self.db.pool(), tenant, &key).await?;
        // It was there a moment ago, and orders are not deleted.
        let placed = found.ok_or_else(|| StoreError::other("an order vanished"))?;
        Ok(placed.order.at(receipt.state))
    }
}
