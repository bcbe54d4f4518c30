//! Payment providers behind one trait.
//!
//! - [`provider`]: what a provider can be asked, and the three ways it can fail: it *refused*, it *surely did nothing*,
//!   or *nobody knows*. Everything about never paying twice follows from keeping the three apart.
//! - [`payment`]: captures, voids, and what a provider has of a payment.
//! - [`stripe`]: the adapter for Stripe, its amounts, and the check of its webhooks' signatures.
//! - [`shopify`]: the adapter for the orders of a Shopify shop.
//! - [`woocommerce`]: the adapter for the orders of a WooCommerce shop.
//! - [`manual`]: what a person does and records.
//! - [`config`]: the settings that providers are made of.
//! - [`sandbox`]: servers on loopback ports that behave like the three, with faults on demand and a ledger of what was
//!   really paid.
//!
//! An adapter translates one call and its answer. It keeps no state, never repeats a call by itself, and decides
//! nothing about orders: caps, retries and what an unknown outcome means are the refund service's.

pub mod config;
mod decimal;
mod http;
pub mod manual;
pub mod payment;
pub mod provider;
pub mod sandbox;
pub mod shopify;
pub mod stripe;
pub mod woocommerce;

pub use http::{ClientError, check_base_url};
pub use payment::{
    CAPTURE_NOT_SUPPORTED, CaptureRequest, LOOKUP_NOT_SUPPORTED, ProviderCapture, ProviderPayment,
    ProviderVoid, StepState, VOID_NOT_SUPPORTED, VoidRequest,
};
pub use provider::{
    LISTING_NOT_SUPPORTED, ListedRefund, PaymentProvider, ProviderError, ProviderRefund, Providers,
    RefundRequest, RefundState,
};
