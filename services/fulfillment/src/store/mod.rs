//! All SQL of the service. It returns types of [`crate::domain`] and decides nothing.
//!
//! Locks are taken in one order everywhere, so that transactions may wait for each other but never in a circle:
//!
//! 1. skus, by merchant and sku ([`stock::lock_skus`]);
//! 2. orders, by id ([`orders::lock`]), all that the transaction will change in one call;
//! 3. everything else (stock, reservations, backorders, shipments) belongs to a sku or an order and is only changed by
//!    whoever holds that lock.

pub mod orders;
pub mod projection;
pub mod queue;
pub mod shipments;
pub mod stock;
pub mod tracking;

use waybill_store::StoreError;

/// A write did not touch the rows that its lock promised would be there: a fault of ours, never of the caller.
fn broken_promise(what: &'static str) -> StoreError {
    StoreError::other(format!(
        "{what} was changed by somebody who does not hold its lock"
    ))
}

/// Checks that a write touched as many rows as it names.
fn touched(expected: usize, touched: u64, what: &'static str) -> Result<(), StoreError> {
    if u64::try_from(expected) == Ok(touched) {
        Ok(())
    } else {
        Err(broken_promise(what))
    }
}
