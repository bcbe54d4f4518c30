//! What the tests of the whole stack share.
//!
//! - [`shop`]: a running stack with a store in it, and the steps of an order as a platform team would take them: over gRPC,
//!   and over the webhooks of the edge.
//! - [`console`]: the launcher's commands against it, as a person types them.
//! - [`orders`]: small builders of orders.
//! - [`imports`]: files of orders, imported.
//! - [`raw`]: calls by path with bytes as messages, for what generated clients cannot send.
//! - [`wait`]: waiting for conditions.
//! - [`retail`]: real invoices, read into orders and cancellations.
//!
//! Each test starts a stack of its own, so tests know nothing of each other. What this crate refuses to do: reach into a
//! service's tables, or wait for a fixed time.

pub mod console;
pub mod imports;
pub mod orders;
pub mod raw;
pub mod retail;
pub mod shop;
pub mod wait;
