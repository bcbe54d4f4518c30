//! Pure building blocks that every other crate of Waybill stands on.
//!
//! | module | what it is for |
//! | --- | --- |
//! | [`id`] | typed ids: an order's id cannot be passed where a refund's is wanted |
//! | [`money`] | currencies and exact amounts in minor units |
//! | [`alloc`] | splitting an amount so that the parts sum to it |
//! | [`slots`] | cutting an order line into units, so that any sequence of partial refunds sums to what was paid |
//! | [`time`] | the clock, and one that tests move |
//! | [`check`] | collecting every fault of an input before refusing it |
//! | [`page`] | page tokens and page sizes |
//! | [`partition`] | which virtual partition a key belongs to, for ever |
//! | [`hash`] | fingerprints, keyed pseudonyms, signatures |
//!
//! It does no input or output, knows no async runtime, no database and no wire format, and holds no business rule
//! that belongs to one service. No float touches an amount anywhere in it.

pub mod alloc;
pub mod check;
mod currency;
pub mod hash;
pub mod id;
pub mod money;
pub mod page;
pub mod partition;
pub mod slots;
pub mod time;

// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
