//! The use cases, one file each: load, decide, save and tell, in one transaction.
//!
//! | file | what it does |
//! | --- | --- |
//! | [`locations`] | opens and lists locations |
//! | [`adjust_stock`] | changes stock on hand and gives it to who waits |
//! | [`stock_levels`] | lists stock |
//! | [`allot`] | reserves stock for orders, oldest first; the step that all changes of free stock share |
//! | `late` | lines that came to an order later: they wait first, like all |
//! | [`follow_orders`] | takes in what the order and refund services tell |
//! | [`give_stock`] | goes on giving where one transaction was not enough |
//! | [`order_fulfillment`] | reads what the warehouse knows of an order |
//! | [`create_shipment`] | hands reserved units to a carrier |
//! | [`shipments`] | reads shipments |
//! | [`record_tracking`] | takes in what carriers said |

pub mod adjust_stock;
pub mod allot;
pub mod create_shipment;
pub mod follow_orders;
pub mod give_stock;
mod late;
pub mod locations;
pub mod order_fulfillment;
pub mod record_tracking;
pub mod shipments;
pub mod stock_levels;

use waybill_events::Log;
use waybill_events::NewEvent;
use waybill_store::jobs::{self, NewJob};
use waybill_store::{StoreError, Tx};

use crate::events::Announcement;

/// Writes what a use case has to tell, and the work it leaves.
async fn tell(
    tx: &mut Tx,
    log: &Log,
    announcements: &[Announcement],
    jobs: &[NewJob],
) -> Result<(), StoreError> {
    let events: Vec<NewEvent> = announcements.iter().map(Announcement::to_event).collect();
    log.append(tx, &events).await?;
    if !jobs.is_empty() {
        jobs::enqueue(tx, jobs).await?;
    }
    Ok(())
}
