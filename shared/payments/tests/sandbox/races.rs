//! Many callers at once: one key pays once, and a payment is never paid back twice.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::{eur, impatient, refund_of, sandbox};
use futures_util::future::join_all;
use waybill_payments::sandbox::SandboxOptions;
use waybill_payments::{PaymentProvider, ProviderError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_callers_with_one_key_make_one_refund() -> anyhow::Result<()> {
    let (sandbox, provider) = sandbox(SandboxOptions::default()).await?;
    let (provider, request) = (Arc::new(provider), Arc::new(refund_of("pi_1", eur(100))));
    // The first is held up until another has met its key in use: the calls surely overlap.
    let held = Arc::new(Mutex::new(Some(sandbox.hold().await)));
    let calls = (0..50).map(|_| {
        let (provider, request, held) = (Arc::clone(&provider), Arc::clone(&request), Arc::clone(&held));
        tokio::spawn(async move {
            // Whoever meets the key in use knows nothing yet, and asks again with the same key.
            loop {
                match provider.refund(&request).await {
                    Err(ProviderError::Unknown { reason }) if reason == "idempotency_key_in_use" => {
                        drop(held.lock().expect("nobody panics with it").take());
                    }
                    other => return other,
                }
            }
        })
    });
    let mut ids = HashSet::new();
    for call in join_all(calls).await {
        ids.insert(call??.provider_refund_id);
    }
    assert_eq!(ids.len(), 1, "all callers hear of the same refund");
    assert_eq!(sandbox.ledger().len(), 1);
    assert_eq!(sandbox.paid_out("pi_1"), 100);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_refunds_of_a_tenth_pay_ten() -> anyhow::Result<()> {
    let (sandbox, provider) = sandbox(SandboxOptions::default()).await?;
    let provider = Arc::new(provider);
    let calls = (0..50).map(|_| {
        let (provider, request) = (Arc::clone(&provider), refund_of("pi_1", eur(1_000)));
        tokio::spawn(async move { provider.refund(&request).await })
    });
    let mut paid = 0;
    for call in join_all(calls).await {
        match call? {
            Ok(_) => paid += 1,
            Err(error) => assert_eq!(error.reason(), "charge_already_refunded"),
        }
    }
    assert_eq!(paid, 10);
    assert_eq!(sandbox.paid_out("pi_1"), 10_000);
    Ok(())
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_stop_what_has_begun() -> anyhow::Result<()> {
    let options = SandboxOptions {
        latency: Duration::from_millis(1500),
        ..SandboxOptions::default()
    };
    let (sandbox, patient) = sandbox(options).await?;
    let hasty = impatient(&sandbox, Duration::from_secs(1))?;
    let request = refund_of("pi_1", eur(100));
    assert_eq!(
        hasty.refund(&request).await,
        Err(ProviderError::unknown("timeout"))
    );
    let refund = loop {
        match patient.refund(&request).await {
            Err(ProviderError::Unknown { reason }) if reason == "idempotency_key_in_use" => {}
            other => break other?,
        }
    };
    assert_eq!(patient.find_refund(&request).await?, Some(refund));
    assert_eq!(sandbox.paid_out("pi_1"), 100);
    Ok(())
}
