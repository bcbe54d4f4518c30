//! The adapter against a provider in good health: what is asked for is paid, once, and found again.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::common::{eur, refund_of, sandbox};
use chrono::{DateTime, TimeDelta, Utc};
use waybill_kernel::money::{Currency, Money};
use waybill_kernel::time::FakeClock;
use waybill_payments::sandbox::{Sandbox, SandboxError, SandboxOptions, Status};
use waybill_payments::stripe::{StripeConfig, StripeProvider};
use waybill_payments::{PaymentProvider, ProviderError, Providers, RefundRequest, RefundState};

fn start_of_time() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).expect("a time")
}

#[tokio::test]
async fn a_refund_is_paid_once_and_found_again() -> anyhow::Result<()> {
    let (sandbox, provider) = sandbox(SandboxOptions::default()).await?;
    let request = RefundRequest {
        metadata: BTreeMap::from([("order".to_owned(), "1001 & more".to_owned())]),
        ..refund_of("pi_1", eur(1234))
    };
    assert_eq!(provider.find_refund(&request).await?, None);

    let refund = provider.refund(&request).await?;
    assert_eq!(refund.state, RefundState::Succeeded);
    assert_eq!(
        provider.refund(&request).await?,
        refund,
        "the same key gets the same answer"
    );
    assert_eq!(provider.find_refund(&request).await?.as_ref(), Some(&refund));

    let ledger = sandbox.ledger();
    assert_eq!(ledger.len(), 1);
    assert_eq!(
        (ledger[0].id.as_str(), ledger[0].amount),
        (refund.provider_refund_id.as_str(), 1234)
    );
    assert_eq!(ledger[0].metadata["waybill_marker"], request.marker());
    assert_eq!(ledger[0].metadata["order"], "1001 & more");
    assert_eq!(
        ledger[0].idempotency_key.as_deref(),
        Some(request.idempotency_key.as_str())
    );
    Ok(())
}

/// What was paid since a time is listed with the leg it was paid for, oldest first, across pages.
#[tokio::test]
async fn what_was_paid_since_a_time_is_listed() -> anyhow::Result<()> {
    let clock = FakeClock::new(start_of_time());
    let (_sandbox, provider) = sandbox(SandboxOptions {
        clock: clock.shared(),
        ..SandboxOptions::default()
    })
    .await?;
    provider.refund(&refund_of("pi_1", eur(1))).await?;
    clock.advance(TimeDelta::hours(1));
    let since = start_of_time() + TimeDelta::minutes(30);
    assert_eq!(provider.list_refunds(since, 10).await?, []);
    let mut asked = Vec::new();
    for minor in 2..125 {
        let request = refund_of("pi_1", eur(minor));
        provider.refund(&request).await?;
        asked.push((Some(request.leg_id), eur(minor)));
    }
    let listed = provider.list_refunds(since, 1000).await?;
    let found: Vec<_> = listed.iter().map(|one| (one.leg_id, one.amount)).collect();
    assert_eq!(found, asked);
    assert!(
        listed
            .iter()
            .all(|one| one.provider_payment_id == "pi_1" && one.created_at >= since)
    );
    assert_eq!(provider.list_refunds(since, 3).await?, listed[..3]);
    Ok(())
}

#[tokio::test]
async fn attempts_of_a_leg_are_told_apart() -> anyhow::Result<()> {
    let (_sandbox, provider) = sandbox(SandboxOptions::default()).await?;
    let first = refund_of("pi_1", eur(100));
    let second = RefundRequest {
        idempotency_key: format!("{}:2", first.leg_id),
        ..first.clone()
    };
    let paid = provider.refund(&first).await?;
    assert_eq!(
        provider.find_refund(&second).await?,
        None,
        "the second attempt has not paid"
    );
    assert_eq!(provider.find_refund(&first).await?, Some(paid));
    Ok(())
}

#[tokio::test]
async fn a_key_with_other_parameters_is_not_mistaken_for_a_refusal() -> anyhow::Result<()> {
    let (sandbox, provider) = sandbox(SandboxOptions::default()).await?;
    let request = refund_of("pi_1", eur(100));
    provider.refund(&request).await?;
    let other = RefundRequest {
        amount: eur(200),
        ..request
    };
    // The key has paid something, so "refused" would be a lie.
    let error = provider.refund(&other).await.expect_err("the key is taken");
    assert_eq!(error, ProviderError::unknown("idempotency_key_reused"));
    // And a look-up shows that what it paid is not what this request says.
    let error = provider
        .find_refund(&other)
        .await
        .expect_err("a person must look");
    assert_eq!(error, ProviderError::unknown("amount_differs"));
    assert_eq!(sandbox.paid_out("pi_1"), 100);
    Ok(())
}

#[tokio::test]
async fn keys_are_forgotten_after_a_day() -> anyhow::Result<()> {
    let clock = FakeClock::new(start_of_time());
    let (sandbox, provider) = sandbox(SandboxOptions {
        clock: clock.shared(),
        ..SandboxOptions::default()
    })
    .await?;
    let request = refund_of("pi_1", eur(100));
    let first = provider.refund(&request).await?;
    let lifetime = TimeDelta::from_std(provider.key_lifetime())?;
    assert!(lifetime > TimeDelta::hours(12));
    clock.advance(lifetime);
    assert_eq!(
        provider.refund(&request).await?,
        first,
        "still known when we stop trusting it"
    );

    clock.advance(TimeDelta::hours(24) - lifetime);
    // The danger that key_lifetime warns of: past it, a repetition pays again.
    assert_ne!(provider.refund(&request).await?, first);
    assert_eq!(sandbox.paid_out("pi_1"), 200);
    Ok(())
}

#[tokio::test]
async fn never_more_than_was_paid() -> anyhow::Result<()> {
    let (sandbox, provider) = sandbox(SandboxOptions::default()).await?;
    provider.refund(&refund_of("pi_1", eur(9_999))).await?;
    let error = provider
        .refund(&refund_of("pi_1", eur(2)))
        .await
        .expect_err("one cent is left");
    assert!(
        matches!(&error, ProviderError::Refused { detail, .. } if detail.contains("greater")),
        "{error}"
    );
    let all = refund_of("pi_1", eur(1));
    provider.refund(&all).await?;
    let error = provider
        .refund(&refund_of("pi_1", eur(1)))
        .await
        .expect_err("nothing is left");
    assert_eq!(error.reason(), "charge_already_refunded");

    // The money comes back, and can be paid again.
    let paid = provider.find_refund(&all).await?.expect("it was paid");
    let failed = sandbox
        .settle(&paid.provider_refund_id, Some("lost_or_stolen_card"))
        .expect("it bounces");
    assert_eq!(failed.status, Status::Failed);
    let found = provider.find_refund(&all).await?.expect("it is still listed");
    assert_eq!(
        found.state,
        RefundState::Failed {
            reason: "lost_or_stolen_card".into()
        }
    );
    provider.refund(&refund_of("pi_1", eur(1))).await?;
    assert_eq!(sandbox.paid_out("pi_1"), 10_000);
    Ok(())
}

#[tokio::test]
async fn unknown_payments_and_wrong_keys_pay_nothing() -> anyhow::Result<()> {
    let (sandbox, provider) = sandbox(SandboxOptions::default()).await?;
    let error = provider
        .refund(&refund_of("pi_9", eur(1)))
        .await
        .expect_err("no such payment");
    assert_eq!(error.reason(), "resource_missing");

    let stranger = StripeProvider::new(StripeConfig {
        secret_key: "sk_wrong".to_owned().into(),
        ..sandbox.config()
    })?;
    let request = refund_of("pi_1", eur(1));
    // An operator can mend the key; the refund must not be lost over it.
    assert!(matches!(
        stranger.refund(&request).await,
        Err(ProviderError::Transient { .. })
    ));
    assert!(matches!(
        stranger.find_refund(&request).await,
        Err(ProviderError::Transient { .. })
    ));
    assert_eq!(sandbox.ledger(), []);
    Ok(())
}

#[tokio::test]
async fn every_currency_arrives_as_stripe_counts_it() -> anyhow::Result<()> {
    let (sandbox, provider) = sandbox(SandboxOptions::default()).await?;
    for (code, captured, refunded, on_the_wire) in [
        ("JPY", 500, 120, 120),
        ("ISK", 500, 5, 500),
        ("KWD", 5120, 1230, 1230),
        ("MGA", 50_000, 200, 2),
    ] {
        let currency = Currency::parse(code)?;
        let payment = format!("pi_{code}");
        sandbox.register_payment(&payment, Money::new(currency, captured))?;
        let request = refund_of(&payment, Money::new(currency, refunded));
        let refund = provider.refund(&request).await?;
        assert_eq!(provider.find_refund(&request).await?, Some(refund));
        assert_eq!(sandbox.paid_out(&payment), on_the_wire, "{code}");
        assert_eq!(
            provider.smallest_step(currency).map(|step| refunded % step),
            Some(0),
            "{code}"
        );
    }
    let too_fine = refund_of("pi_KWD", Money::new(Currency::KWD, 1));
    assert_eq!(
        provider
            .refund(&too_fine)
            .await
            .expect_err("between steps")
            .reason(),
        "amount_not_supported"
    );
    Ok(())
}

#[tokio::test]
async fn refunds_are_found_on_later_pages() -> anyhow::Result<()> {
    let (sandbox, provider) = sandbox(SandboxOptions::default()).await?;
    let provider = Arc::new(provider);
    let first = refund_of("pi_1", eur(1));
    let paid = provider.refund(&first).await?;
    for _ in 0..230 {
        provider.refund(&refund_of("pi_1", eur(1))).await?;
    }
    assert_eq!(sandbox.ledger().len(), 231);
    assert_eq!(
        provider.find_refund(&first).await?,
        Some(paid),
        "on the third page"
    );
    assert_eq!(provider.find_refund(&refund_of("pi_1", eur(1))).await?, None);
    Ok(())
}

#[tokio::test]
async fn the_sandbox_is_an_ordinary_provider() -> anyhow::Result<()> {
    let (sandbox, _) = sandbox(SandboxOptions::default()).await?;
    let providers = Providers::new().with(sandbox.provider()?);
    let provider = providers.get("sandbox").expect("it is named so");
    assert_eq!(
        provider.refund(&refund_of("pi_1", eur(5))).await?.state,
        RefundState::Succeeded
    );
    sandbox.stop().await;
    let error = provider
        .refund(&refund_of("pi_1", eur(5)))
        .await
        .expect_err("it is gone");
    assert!(error.surely_did_nothing(), "{error}");
    Ok(())
}

#[tokio::test]
async fn the_sandbox_stays_on_loopback() {
    let options = SandboxOptions {
        listen: ([0, 0, 0, 0], 0).into(),
        ..SandboxOptions::default()
    };
    assert!(matches!(
        Sandbox::start(options).await,
        Err(SandboxError::NotLoopback { .. })
    ));
}
