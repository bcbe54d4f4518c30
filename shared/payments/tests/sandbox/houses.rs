//! The adapters, each with a sandbox of its provider, seen alike: what the conformance tests run on.

use std::sync::Arc;
use std::time::Duration;

use waybill_kernel::time::FakeClock;
use waybill_payments::PaymentProvider;
use waybill_payments::sandbox::{Fault, Sandbox, SandboxOptions, ShopifySandbox, WooSandbox};
use waybill_payments::stripe::{StripeConfig, StripeProvider};

use crate::common::eur;

/// A provider and its sandbox. Every payment is one of 100.00 EUR.
pub trait House: Sized + Send + Sync {
    /// Opens it; keys age by the clock.
    fn open(clock: &FakeClock) -> impl Future<Output = anyhow::Result<Self>> + Send;
    /// An adapter that waits so long for one answer.
    fn provider(&self, patience: Duration) -> anyhow::Result<Arc<dyn PaymentProvider>>;
    /// A payment that is captured.
    fn paid(&self) -> anyhow::Result<String>;
    /// Plans a fault for the next call that moves money.
    fn inject(&self, fault: Fault);
    /// What was really paid back of a payment, in cents.
    fn refunded(&self, payment: &str) -> i64;
}

/// A provider that captures and voids.
pub trait CapturingHouse: House {
    /// A payment that is authorised.
    fn authorized(&self) -> anyhow::Result<String>;
    /// What was really captured of an authorised payment, in cents.
    fn captured(&self, payment: &str) -> i64;
    /// Whether an authorised payment was really released.
    fn is_voided(&self, payment: &str) -> bool;
}

/// Stripe.
pub struct StripeHouse(Sandbox);

impl House for StripeHouse {
    async fn open(clock: &FakeClock) -> anyhow::Result<Self> {
        let options = SandboxOptions {
            clock: clock.shared(),
            ..SandboxOptions::default()
        };
        Ok(Self(Sandbox::start(options).await?))
    }

    fn provider(&self, patience: Duration) -> anyhow::Result<Arc<dyn PaymentProvider>> {
        Ok(Arc::new(StripeProvider::new(StripeConfig {
            call_timeout: patience,
            ..self.0.config()
        })?))
    }

    fn paid(&self) -> anyhow::Result<String> {
        self.0.register_payment("pi_paid", eur(10_000))?;
        Ok("pi_paid".to_owned())
    }

    fn inject(&self, fault: Fault) {
        self.0.inject(fault);
    }

    fn refunded(&self, payment: &str) -> i64 {
        self.0.paid_out(payment)
    }
}

impl CapturingHouse for StripeHouse {
    fn authorized(&self) -> anyhow::Result<String> {
        self.0.register_authorization("pi_held", eur(10_000))?;
        Ok("pi_held".to_owned())
    }

    fn captured(&self, payment: &str) -> i64 {
        self.0.captured(payment)
    }

    fn is_voided(&self, payment: &str) -> bool {
        self.0.is_canceled(payment)
    }
}

/// A Shopify shop.
pub struct ShopifyHouse(ShopifySandbox);

impl House for ShopifyHouse {
    async fn open(clock: &FakeClock) -> anyhow::Result<Self> {
        Ok(Self(ShopifySandbox::start(clock.shared()).await?))
    }

    fn provider(&self, patience: Duration) -> anyhow::Result<Arc<dyn PaymentProvider>> {
        Ok(Arc::new(self.0.provider(patience)?))
    }

    fn paid(&self) -> anyhow::Result<String> {
        Ok(self.0.paid(eur(10_000)))
    }

    fn inject(&self, fault: Fault) {
        self.0.inject(fault);
    }

    fn refunded(&self, payment: &str) -> i64 {
        self.0.moved(payment, "REFUND")
    }
}

impl CapturingHouse for ShopifyHouse {
    fn authorized(&self) -> anyhow::Result<String> {
        Ok(self.0.authorized(eur(10_000)))
    }

    fn captured(&self, payment: &str) -> i64 {
        self.0.moved(payment, "CAPTURE")
    }

    fn is_voided(&self, payment: &str) -> bool {
        self.0.moved(payment, "VOID") > 0
    }
}

/// A WooCommerce shop.
pub struct WooHouse(WooSandbox);

impl House for WooHouse {
    async fn open(clock: &FakeClock) -> anyhow::Result<Self> {
        Ok(Self(WooSandbox::start(clock.shared()).await?))
    }

    fn provider(&self, patience: Duration) -> anyhow::Result<Arc<dyn PaymentProvider>> {
        Ok(Arc::new(self.0.provider(patience)?))
    }

    fn paid(&self) -> anyhow::Result<String> {
        Ok(self.0.paid(eur(10_000)))
    }

    fn inject(&self, fault: Fault) {
        self.0.inject(fault);
    }

    fn refunded(&self, payment: &str) -> i64 {
        self.0.refunded(payment)
    }
}
