//! What the tests of the adapter against the sandbox share.

use std::collections::BTreeMap;
use std::time::Duration;

use waybill_kernel::id::LegId;
use waybill_kernel::money::{Currency, Money};
use waybill_payments::RefundRequest;
use waybill_payments::sandbox::{Sandbox, SandboxOptions};
use waybill_payments::stripe::{StripeConfig, StripeProvider};

/// Euros in cents.
pub fn eur(minor: i64) -> Money {
    Money::new(Currency::EUR, minor)
}

/// A sandbox with one payment of 100.00 EUR, `pi_1`, and an adapter that does not wait long for it.
pub async fn sandbox(options: SandboxOptions) -> anyhow::Result<(Sandbox, StripeProvider)> {
    let sandbox = Sandbox::start(options).await?;
    sandbox.register_payment("pi_1", eur(10_000))?;
    let provider = impatient(&sandbox, Duration::from_secs(20))?;
    Ok((sandbox, provider))
}

/// An adapter with another deadline.
pub fn impatient(sandbox: &Sandbox, call_timeout: Duration) -> anyhow::Result<StripeProvider> {
    Ok(StripeProvider::new(StripeConfig {
        call_timeout,
        ..sandbox.config()
    })?)
}

/// A refund of a new leg.
pub fn refund_of(payment: &str, amount: Money) -> RefundRequest {
    let leg_id = LegId::generate();
    RefundRequest {
        leg_id,
        provider_payment_id: payment.to_owned(),
        amount,
        idempotency_key: format!("{leg_id}:1"),
        reason: "damaged".to_owned(),
        metadata: BTreeMap::new(),
    }
}
