//! Every fault of the sandbox: what the adapter says about it, what was really paid, and what a look-up finds.

use std::collections::HashMap;
use std::time::Duration;

use crate::common::{eur, impatient, refund_of, sandbox};
use chrono::{DateTime, TimeDelta};
use waybill_kernel::time::FakeClock;
use waybill_payments::sandbox::{Fault, SandboxOptions, Schedule};
use waybill_payments::{PaymentProvider, ProviderError, RefundRequest, RefundState};

/// Long enough for a loaded machine to connect, short enough to wait for what never comes.
const SHORT: Duration = Duration::from_secs(1);

/// A fault that hides the outcome: the error it shows as, and whether it paid.
async fn check_unknown(fault: Fault, reason: &str, paid: bool) -> anyhow::Result<()> {
    let (sandbox, patient) = sandbox(SandboxOptions::default()).await?;
    let provider = impatient(&sandbox, SHORT)?;
    let request = refund_of("pi_1", eur(700));
    sandbox.inject(fault.clone());
    let error = provider.refund(&request).await.expect_err("it is hidden");
    assert_eq!(error, ProviderError::unknown(reason), "{fault:?}");
    assert_eq!(sandbox.paid_out("pi_1"), if paid { 700 } else { 0 }, "{fault:?}");
    let found = patient.find_refund(&request).await?;
    assert_eq!(found.is_some(), paid, "{fault:?}: a look-up tells what happened");
    Ok(())
}

#[tokio::test]
async fn an_outcome_that_is_hidden_is_unknown() -> anyhow::Result<()> {
    check_unknown(Fault::TimeoutBefore, "timeout", false).await?;
    check_unknown(Fault::TimeoutAfter, "timeout", true).await?;
    check_unknown(Fault::CutBefore, "connection_lost", false).await?;
    check_unknown(Fault::CutAfter, "connection_lost", true).await?;
    check_unknown(Fault::ErrorBefore, "http_500", false).await?;
    check_unknown(Fault::ErrorAfter, "http_500", true).await
}

#[tokio::test]
async fn repeating_after_a_lost_answer_pays_once() -> anyhow::Result<()> {
    for fault in [
        Fault::TimeoutBefore,
        Fault::TimeoutAfter,
        Fault::CutBefore,
        Fault::CutAfter,
    ] {
        let (sandbox, patient) = sandbox(SandboxOptions::default()).await?;
        let provider = impatient(&sandbox, SHORT)?;
        let request = refund_of("pi_1", eur(700));
        sandbox.inject(fault.clone());
        assert!(provider.refund(&request).await.is_err());
        let refund = patient.refund(&request).await?;
        assert_eq!(refund.state, RefundState::Succeeded);
        assert_eq!(sandbox.paid_out("pi_1"), 700, "{fault:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_stored_500_is_replayed_until_the_key_is_forgotten() -> anyhow::Result<()> {
    let clock = FakeClock::new(DateTime::from_timestamp(1_700_000_000, 0).expect("a time"));
    let (sandbox, provider) = sandbox(SandboxOptions {
        clock: clock.shared(),
        ..SandboxOptions::default()
    })
    .await?;
    let request = refund_of("pi_1", eur(700));
    sandbox.inject(Fault::ErrorBefore);
    for _ in 0..3 {
        assert_eq!(
            provider.refund(&request).await,
            Err(ProviderError::unknown("http_500"))
        );
    }
    assert_eq!(provider.find_refund(&request).await?, None);
    clock.advance(TimeDelta::hours(24));
    assert_eq!(provider.refund(&request).await?.state, RefundState::Succeeded);
    assert_eq!(sandbox.paid_out("pi_1"), 700);
    Ok(())
}

#[tokio::test]
async fn a_rate_limit_did_nothing_and_says_when_to_come_back() -> anyhow::Result<()> {
    let (sandbox, provider) = sandbox(SandboxOptions::default()).await?;
    let request = refund_of("pi_1", eur(700));
    sandbox.inject(Fault::RateLimited {
        retry_after_seconds: 7,
    });
    let error = provider.refund(&request).await.expect_err("limited");
    assert_eq!(
        error,
        ProviderError::transient("rate_limit", Some(Duration::from_secs(7)))
    );
    assert_eq!(sandbox.ledger(), []);
    assert_eq!(
        provider.refund(&request).await?.state,
        RefundState::Succeeded,
        "nothing is stored under the key"
    );
    Ok(())
}

#[tokio::test]
async fn pending_refunds_settle_later() -> anyhow::Result<()> {
    let (sandbox, provider) = sandbox(SandboxOptions::default()).await?;
    for (failure_reason, settled) in [
        (None, RefundState::Succeeded),
        (
            Some("declined"),
            RefundState::Failed {
                reason: "declined".into(),
            },
        ),
    ] {
        sandbox.inject(Fault::Pending {
            settle_after_ms: None,
            failure_reason: None,
        });
        let request = refund_of("pi_1", eur(700));
        let refund = provider.refund(&request).await?;
        assert_eq!(refund.state, RefundState::Pending);
        assert!(
            sandbox
                .settle(&refund.provider_refund_id, failure_reason)
                .is_some()
        );
        assert_eq!(
            provider.find_refund(&request).await?.map(|found| found.state),
            Some(settled)
        );
    }
    assert_eq!(sandbox.paid_out("pi_1"), 700, "only the one that succeeded");
    Ok(())
}

#[tokio::test]
async fn a_refund_can_fail_at_once() -> anyhow::Result<()> {
    let (sandbox, provider) = sandbox(SandboxOptions::default()).await?;
    sandbox.inject(Fault::Failed {
        failure_reason: "expired_or_canceled_card".into(),
    });
    let refund = provider.refund(&refund_of("pi_1", eur(700))).await?;
    assert_eq!(
        refund.state,
        RefundState::Failed {
            reason: "expired_or_canceled_card".into()
        }
    );
    assert_eq!(sandbox.paid_out("pi_1"), 0);
    Ok(())
}

#[tokio::test]
async fn faults_can_be_kept_to_one_payment_and_healed() -> anyhow::Result<()> {
    let (sandbox, provider) = sandbox(SandboxOptions::default()).await?;
    sandbox.register_payment("pi_2", eur(10_000))?;
    sandbox.inject_for("pi_2", Fault::ErrorBefore, 100);
    assert!(provider.refund(&refund_of("pi_1", eur(1))).await.is_ok());
    assert!(provider.refund(&refund_of("pi_2", eur(1))).await.is_err());
    sandbox.heal();
    assert!(provider.refund(&refund_of("pi_2", eur(1))).await.is_ok());
    Ok(())
}

#[tokio::test]
async fn a_lookup_that_gets_no_answer_can_be_repeated() -> anyhow::Result<()> {
    // A provider that takes connections and never answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let base_url = format!("http://{}", listener.local_addr()?);
    let config = waybill_payments::stripe::StripeConfig {
        base_url,
        call_timeout: SHORT,
        ..waybill_payments::stripe::StripeConfig::new("sk".to_owned().into())
    };
    let provider = waybill_payments::stripe::StripeProvider::new(config)?;
    let request = refund_of("pi_1", eur(1));
    assert_eq!(
        provider.find_refund(&request).await,
        Err(ProviderError::transient("timeout", None))
    );
    assert_eq!(
        provider.refund(&request).await,
        Err(ProviderError::unknown("timeout"))
    );
    Ok(())
}

/// How the refund service works through its legs, in short: repeat with the same key, look up what is unknown, and let
/// the key be forgotten before giving a stored error another chance. Says how the leg ended.
async fn drive(
    provider: &dyn PaymentProvider,
    clock: &FakeClock,
    request: &RefundRequest,
) -> anyhow::Result<RefundState> {
    for _ in 0..50 {
        match provider.refund(request).await {
            Ok(refund) if refund.state == RefundState::Pending => {}
            Ok(refund) => return Ok(refund.state),
            Err(ProviderError::Transient { .. }) => {}
            Err(ProviderError::Refused { reason, .. }) => anyhow::bail!("refused: {reason}"),
            Err(ProviderError::Unknown { reason }) => {
                if let Some(found) = provider.find_refund(request).await? {
                    if found.state != RefundState::Pending {
                        return Ok(found.state);
                    }
                } else if reason == "http_500" {
                    clock.advance(TimeDelta::hours(24));
                }
            }
        }
    }
    anyhow::bail!("did not end in 50 tries")
}

#[tokio::test]
async fn under_random_faults_every_leg_is_paid_exactly_once() -> anyhow::Result<()> {
    for seed in 0..8 {
        let clock = FakeClock::new(DateTime::from_timestamp(1_700_000_000, 0).expect("a time"));
        let schedule = Schedule {
            seed,
            per_mille: 600,
            faults: vec![
                Fault::CutBefore,
                Fault::CutAfter,
                Fault::ErrorBefore,
                Fault::ErrorAfter,
                Fault::RateLimited {
                    retry_after_seconds: 1,
                },
            ],
        };
        let options = SandboxOptions {
            clock: clock.shared(),
            schedule: Some(schedule),
            ..SandboxOptions::default()
        };
        let (sandbox, provider) = sandbox(options).await?;
        let mut legs = Vec::new();
        for number in 0..30 {
            // Fixed keys, so that a seed means the same faults in every run.
            let request = RefundRequest {
                idempotency_key: format!("leg-{number}"),
                ..refund_of("pi_1", eur(7))
            };
            assert_eq!(
                drive(&provider, &clock, &request).await?,
                RefundState::Succeeded,
                "seed {seed}"
            );
            legs.push(request);
        }
        let mut paid: HashMap<String, i64> = HashMap::new();
        for entry in sandbox.ledger() {
            *paid.entry(entry.metadata["waybill_marker"].clone()).or_default() += entry.amount;
        }
        assert_eq!(paid.len(), legs.len(), "seed {seed}");
        assert!(
            legs.iter().all(|leg| paid[&leg.marker()] == 7),
            "seed {seed}: {paid:?}"
        );
    }
    Ok(())
}
