//! Payment providers behind one trait.
//!
//! - [`provider`]: what a provider can be asked, and the three ways it can fail: it *refused*, it *surely did nothing*,
//!   or *nobody knows*. Everything about never paying twice follows from keeping the three apart.
//! - [`stripe`]: the adapter for Stripe, its amounts, and the check of its webhooks' signatures.
//! - [`sandbox`]: a server on a loopback port that behaves like Stripe's refunds, with faults on demand and a ledger of
//!   what was really paid.
//! - [`manual`]: refunds that a person pays and records.
//!
//! An adapter translates one call and its answer. It keeps no state, never repeats a call by itself, and decides
//! nothing about orders: caps, retries and what an unknown outcome means are the refund service's.

mod http;
pub mod manual;
pub mod provider;
pub mod sandbox;
pub mod stripe;

pub use provider::{
    LISTING_NOT_SUPPORTED, ListedRefund, PaymentProvider, ProviderError, ProviderRefund, Providers,
    RefundRequest, RefundState,
};
