//! What is particular to the two shops.

use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use waybill_kernel::money::{Currency, Money};
use waybill_kernel::time::FakeClock;
use waybill_payments::sandbox::{Fault, ShopifySandbox, WooSandbox};
use waybill_payments::shopify::{ShopifyConfig, ShopifyProvider};
use waybill_payments::woocommerce::{WooConfig, WooProvider};
use waybill_payments::{CaptureRequest, PaymentProvider, ProviderError, RefundRequest, RefundState};

use crate::common::{eur, refund_of};

const LONG: Duration = Duration::from_secs(20);

fn clock() -> FakeClock {
    FakeClock::new(DateTime::from_timestamp(1_700_000_000, 0).expect("a time"))
}

#[tokio::test]
async fn shopify_keys_pay_once_and_tell_other_parameters() -> anyhow::Result<()> {
    let clock = clock();
    let shop = ShopifySandbox::start(clock.shared()).await?;
    let (payment, provider) = (shop.paid(eur(10_000)), shop.provider(LONG)?);
    let request = refund_of(&payment, eur(1_230));
    let refund = provider.refund(&request).await?;
    assert_eq!(
        provider.refund(&request).await?,
        refund,
        "the same key, the same refund"
    );
    let other = RefundRequest {
        amount: eur(100),
        ..request.clone()
    };
    let error = provider.refund(&other).await.expect_err("the key is taken");
    assert_eq!(error, ProviderError::unknown("idempotency_conflict"));
    let error = provider
        .find_refund(&other)
        .await
        .expect_err("a person must look");
    assert_eq!(error, ProviderError::unknown("amount_differs"));
    clock.advance(TimeDelta::from_std(provider.key_lifetime())?);
    assert_eq!(
        provider.refund(&request).await?,
        refund,
        "still known when we stop trusting it"
    );
    assert_eq!(shop.moved(&payment, "REFUND"), 1_230);
    Ok(())
}

#[tokio::test]
async fn a_key_whose_first_call_failed_is_over() -> anyhow::Result<()> {
    let shop = ShopifySandbox::start(clock().shared()).await?;
    let (payment, provider) = (shop.paid(eur(10_000)), shop.provider(LONG)?);
    let request = refund_of(&payment, eur(700));
    // The order's transactions cannot say no to this refund; the shop does, and the answer is lost.
    shop.refuse_next();
    shop.inject(Fault::CutAfter);
    let error = provider.refund(&request).await.expect_err("nobody heard it");
    assert_eq!(error, ProviderError::unknown("connection_lost"));
    assert_eq!(provider.find_refund(&request).await?, None);
    let error = provider.refund(&request).await.expect_err("the key is bound");
    assert!(
        matches!(&error, ProviderError::Refused { reason, .. } if reason == "previous_attempt_failed"),
        "{error}"
    );
    // Another attempt has another key.
    let again = RefundRequest {
        idempotency_key: format!("{}:2", request.leg_id),
        ..request
    };
    provider.refund(&again).await?;
    assert_eq!(shop.moved(&payment, "REFUND"), 700);
    Ok(())
}

#[tokio::test]
async fn shopify_refunds_are_what_their_transactions_are() -> anyhow::Result<()> {
    let shop = ShopifySandbox::start(clock().shared()).await?;
    let (payment, provider) = (shop.paid(eur(10_000)), shop.provider(LONG)?);
    for (succeeded, paid) in [(false, 0), (true, 700)] {
        let request = refund_of(&payment, eur(700));
        shop.inject(Fault::Pending {
            settle_after_ms: None,
            failure_reason: None,
        });
        assert_eq!(provider.refund(&request).await?.state, RefundState::Pending);
        shop.settle(succeeded);
        let found = provider.find_refund(&request).await?.expect("it is there");
        assert_eq!(found.state == RefundState::Succeeded, succeeded, "{found:?}");
        assert_eq!(shop.moved(&payment, "REFUND"), paid);
    }
    shop.inject(Fault::Failed {
        failure_reason: "declined".into(),
    });
    let refund = provider.refund(&refund_of(&payment, eur(100))).await?;
    let reason = "gateway_declined".to_owned();
    assert_eq!(refund.state, RefundState::Failed { reason });
    Ok(())
}

#[tokio::test]
async fn a_throttled_shop_says_how_long_to_wait() -> anyhow::Result<()> {
    let shop = ShopifySandbox::start(clock().shared()).await?;
    let (payment, provider) = (shop.paid(eur(10_000)), shop.provider(LONG)?);
    let request = refund_of(&payment, eur(1));
    let throttled = ProviderError::transient("throttled", Some(Duration::from_secs(2)));
    shop.throttle();
    assert_eq!(provider.refund(&request).await, Err(throttled.clone()));
    shop.throttle();
    assert_eq!(provider.find_payment(&payment).await, Err(throttled));
    assert_eq!(shop.moved(&payment, "REFUND"), 0);
    Ok(())
}

#[tokio::test]
async fn a_capture_by_staff_is_not_taken_for_ours() -> anyhow::Result<()> {
    let shop = ShopifySandbox::start(clock().shared()).await?;
    let (payment, provider) = (shop.authorized(eur(10_000)), shop.provider(LONG)?);
    shop.capture_by_hand(&payment, eur(3_000));
    let request = CaptureRequest {
        provider_payment_id: payment.clone(),
        amount: eur(4_000),
        captured_before: eur(0),
        is_final: true,
        idempotency_key: "c1".into(),
    };
    let elsewhere = ProviderError::unknown("captured_elsewhere");
    assert_eq!(provider.capture(&request).await, Err(elsewhere.clone()));
    assert_eq!(provider.find_capture(&request).await, Err(elsewhere));
    assert_eq!(shop.moved(&payment, "CAPTURE"), 3_000);
    // Once it is recorded, the rest can be captured.
    let request = CaptureRequest {
        captured_before: eur(3_000),
        ..request
    };
    provider.capture(&request).await?;
    assert_eq!(shop.moved(&payment, "CAPTURE"), 7_000);
    Ok(())
}

#[tokio::test]
async fn yen_and_dinars_arrive_as_the_shop_writes_them() -> anyhow::Result<()> {
    let shop = ShopifySandbox::start(clock().shared()).await?;
    let provider = shop.provider(LONG)?;
    for (code, captured, refunded) in [("JPY", 500, 120), ("KWD", 5_120, 1_230), ("HUF", 1_045, 1_045)] {
        let currency = Currency::parse(code)?;
        let payment = shop.paid(Money::new(currency, captured));
        let request = refund_of(&payment, Money::new(currency, refunded));
        let refund = provider.refund(&request).await?;
        assert_eq!(provider.find_refund(&request).await?, Some(refund), "{code}");
        assert_eq!(shop.moved(&payment, "REFUND"), refunded, "{code}");
    }
    let fine = refund_of(
        &shop.paid(Money::new(Currency::KWD, 5_120)),
        Money::new(Currency::KWD, 1),
    );
    let error = provider.refund(&fine).await.expect_err("between steps");
    assert_eq!(error.reason(), "amount_not_supported");
    Ok(())
}

#[tokio::test]
async fn a_gateway_that_was_not_heard_is_for_a_person() -> anyhow::Result<()> {
    let shop = WooSandbox::start(clock().shared()).await?;
    let (payment, provider) = (shop.paid(eur(10_000)), shop.provider(LONG)?);
    let request = refund_of(&payment, eur(700));
    shop.die_at_the_gateway();
    let error = provider.refund(&request).await.expect_err("the shop died");
    assert!(!error.surely_did_nothing(), "{error}");
    let unheard = ProviderError::unknown("gateway_not_heard");
    assert_eq!(provider.find_refund(&request).await, Err(unheard.clone()));
    assert_eq!(
        provider.refund(&request).await,
        Err(unheard),
        "and it is not asked for again"
    );
    assert_eq!(shop.refunded(&payment), 700);
    Ok(())
}

#[tokio::test]
async fn a_gateway_that_says_no_leaves_nothing() -> anyhow::Result<()> {
    let shop = WooSandbox::start(clock().shared()).await?;
    let (payment, provider) = (shop.paid(eur(10_000)), shop.provider(LONG)?);
    let request = refund_of(&payment, eur(700));
    shop.inject(Fault::Failed {
        failure_reason: "expired card".into(),
    });
    let error = provider.refund(&request).await.expect_err("declined");
    assert!(
        matches!(&error, ProviderError::Refused { reason, detail } if reason == "refund_not_created" && detail.contains("expired card")),
        "{error}"
    );
    assert_eq!(provider.find_refund(&request).await?, None);
    let error = provider.refund(&refund_of(&shop.unpaid(eur(5)), eur(5))).await;
    assert_eq!(error.expect_err("nothing was paid").reason(), "order_not_paid");
    let error = provider.find_payment("999").await.expect_err("no such order");
    assert_eq!(error.reason(), "woocommerce_rest_shop_order_invalid_id");
    Ok(())
}

#[tokio::test]
async fn refunds_are_found_on_later_pages_of_an_order() -> anyhow::Result<()> {
    let shop = WooSandbox::start(clock().shared()).await?;
    let (payment, provider) = (shop.paid(eur(10_000)), shop.provider(LONG)?);
    let first = refund_of(&payment, eur(1));
    let refund = provider.refund(&first).await?;
    for _ in 0..100 {
        provider.refund(&refund_of(&payment, eur(1))).await?;
    }
    assert_eq!(
        provider.find_refund(&first).await?,
        Some(refund.clone()),
        "on the second page"
    );
    assert_eq!(
        provider.refund(&first).await?,
        refund,
        "asked for again, it is listed first"
    );
    assert_eq!(provider.find_refund(&refund_of(&payment, eur(1))).await?, None);
    assert_eq!(shop.refunded(&payment), 101);
    Ok(())
}

#[tokio::test]
async fn a_wrong_key_is_an_operators_matter_and_is_never_told() -> anyhow::Result<()> {
    let shop = ShopifySandbox::start(clock().shared()).await?;
    let stranger = ShopifyProvider::new(ShopifyConfig {
        access_token: "shpat_wrong".to_owned().into(),
        ..shop.config(LONG)
    })?;
    let request = refund_of(&shop.paid(eur(100)), eur(1));
    let error = stranger.refund(&request).await.expect_err("a stranger");
    assert_eq!(error, ProviderError::transient("http_401", None));
    assert!(!format!("{stranger:?} {error:?}").contains("shpat_wrong"));

    let shop = WooSandbox::start(clock().shared()).await?;
    let stranger = WooProvider::new(WooConfig {
        consumer_secret: "cs_wrong".to_owned().into(),
        ..shop.config(LONG)
    })?;
    let request = refund_of(&shop.paid(eur(100)), eur(1));
    let error = stranger.refund(&request).await.expect_err("a stranger");
    assert!(matches!(error, ProviderError::Transient { .. }), "{error}");
    assert!(!format!("{stranger:?} {error:?}").contains("cs_wrong"));
    Ok(())
}
