//! All SQL of the service. Everything goes in and comes out as types of [`crate::domain`].
//!
//! Each function is one statement, or two where a lock must be held before anything is read: under READ COMMITTED a
//! statement that waited for a row lock still reads everything else as it was before the wait. Nothing is decided here;
//! constraints of the tables are the last line of defence, not the rule.

pub mod book;
pub mod calls;
pub mod claims;
pub mod fold;
pub mod journal;
pub mod payouts;
pub mod policies;
pub mod refunds;
pub mod returns;

use waybill_store::StoreError;

/// A stored value that this build does not know.
fn unreadable(what: &str, value: &str) -> StoreError {
    StoreError::decode(format!("{what} {value:?} is not known"))
}
