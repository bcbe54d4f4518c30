//! What holds for every adapter, whatever its provider is like: money moves exactly once under every fault and any
//! repetition, never more of it than there is, and what is unknown is settled by asking.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use waybill_kernel::money::{Currency, Money};
use waybill_kernel::time::FakeClock;
use waybill_payments::sandbox::Fault;
use waybill_payments::{CaptureRequest, ProviderError, RefundRequest, RefundState, StepState, VoidRequest};

use crate::common::{eur, refund_of};
use crate::houses::{CapturingHouse, House, ShopifyHouse, StripeHouse, WooHouse};

/// Long enough for a loaded machine to connect, short enough to wait for what never comes.
const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(20);

fn clock() -> FakeClock {
    FakeClock::new(DateTime::from_timestamp(1_700_000_000, 0).expect("a time"))
}

/// Every fault, and whether an adapter may know at once that nothing happened.
fn faults() -> Vec<(Fault, bool)> {
    let limited = Fault::RateLimited {
        retry_after_seconds: 7,
    };
    vec![
        (Fault::TimeoutBefore, false),
        (Fault::TimeoutAfter, false),
        (Fault::CutBefore, false),
        (Fault::CutAfter, false),
        (Fault::ErrorBefore, false),
        (Fault::ErrorAfter, false),
        (Fault::GarbledAfter, false),
        (Fault::HalfAfter, false),
        (Fault::HugeAfter, false),
        (limited, true),
    ]
}

fn waits(fault: &Fault) -> Duration {
    match fault {
        Fault::TimeoutBefore | Fault::TimeoutAfter => SHORT,
        _ => LONG,
    }
}

/// The discipline of those who call: after an unknown outcome they ask, and repeat with the same key only when there is
/// nothing; a stored error outlives its key.
async fn refund_until_done<H: House>(
    house: &H,
    clock: &FakeClock,
    request: &RefundRequest,
    faults: &[Fault],
) -> anyhow::Result<RefundState> {
    let mut faults: VecDeque<&Fault> = faults.iter().collect();
    for _ in 0..20 {
        let fault = faults.pop_front();
        if let Some(fault) = fault {
            house.inject(fault.clone());
        }
        let provider = house.provider(fault.map_or(LONG, waits))?;
        match provider.refund(request).await {
            Ok(refund) => return Ok(refund.state),
            Err(ProviderError::Transient { .. }) => {}
            Err(ProviderError::Refused { reason, detail }) => anyhow::bail!("refused: {reason} {detail}"),
            Err(ProviderError::Unknown { .. }) => {
                if let Some(found) = house.provider(LONG)?.find_refund(request).await? {
                    return Ok(found.state);
                }
                clock.advance(TimeDelta::hours(24));
            }
        }
    }
    anyhow::bail!("did not end in 20 tries")
}

async fn a_refund_is_paid_once_under_every_fault<H: House>() -> anyhow::Result<()> {
    let clock = clock();
    let house = H::open(&clock).await?;
    let payment = house.paid()?;
    let mut paid = 0;
    for (fault, is_known) in faults() {
        let request = refund_of(&payment, eur(700));
        house.inject(fault.clone());
        let error = house.provider(waits(&fault))?.refund(&request).await;
        let error = error.expect_err("the fault shows");
        assert_eq!(error.surely_did_nothing(), is_known, "{fault:?}: {error}");
        if is_known {
            let wait = Some(Duration::from_secs(7));
            assert!(matches!(error, ProviderError::Transient { retry_after, .. } if retry_after == wait));
        }
        // Repeated under the same fault, then in good health.
        let again = [fault.clone()];
        let found = house.provider(LONG)?.find_refund(&request).await?;
        if found.is_none() {
            let state = refund_until_done(&house, &clock, &request, &again).await?;
            assert_eq!(state, RefundState::Succeeded, "{fault:?}");
        }
        paid += 700;
        assert_eq!(house.refunded(&payment), paid, "{fault:?}");
        let provider = house.provider(LONG)?;
        let found = provider.find_refund(&request).await?.expect("it was paid");
        assert_eq!(found.state, RefundState::Succeeded, "{fault:?}");
        let known = provider.find_payment(&payment).await?;
        assert_eq!(
            (known.captured, known.refunded),
            (eur(10_000), eur(paid)),
            "{fault:?}"
        );
    }
    Ok(())
}

async fn two_faults_in_a_row_pay_once<H: House>() -> anyhow::Result<()> {
    let quick = || {
        faults()
            .into_iter()
            .map(|(fault, _)| fault)
            .filter(|fault| waits(fault) == LONG)
    };
    for first in quick() {
        let clock = clock();
        let house = H::open(&clock).await?;
        let payment = house.paid()?;
        let mut paid = 0;
        for second in quick() {
            let request = refund_of(&payment, eur(3));
            let both = [first.clone(), second.clone()];
            let state = refund_until_done(&house, &clock, &request, &both).await?;
            assert_eq!(state, RefundState::Succeeded, "{both:?}");
            // A fault that was not met is not left for the next.
            let spare = refund_of(&payment, eur(1));
            refund_until_done(&house, &clock, &spare, &[]).await?;
            paid += 4;
            assert_eq!(house.refunded(&payment), paid, "{both:?}");
        }
    }
    Ok(())
}

async fn never_more_is_paid_back_than_was_captured<H: House>() -> anyhow::Result<()> {
    let house = H::open(&clock()).await?;
    let (payment, provider) = (house.paid()?, house.provider(LONG)?);
    provider.refund(&refund_of(&payment, eur(9_999))).await?;
    for amount in [eur(2), eur(0), eur(-1), Money::new(Currency::USD, 1)] {
        let request = refund_of(&payment, amount);
        let answer = provider.refund(&request).await;
        // Stripe takes any currency for that of the payment: the answer then differs from what was asked.
        let is_stripe_dollar = provider.name() == "sandbox" && amount.currency == Currency::USD;
        if !is_stripe_dollar {
            assert!(
                matches!(answer, Err(ProviderError::Refused { .. })),
                "{amount}: {answer:?}"
            );
            assert_eq!(house.refunded(&payment), 9_999, "{amount}");
        }
    }
    assert!(house.refunded(&payment) <= 10_000);
    let known = provider.find_payment(&payment).await?;
    assert_eq!(known.refunded.minor, house.refunded(&payment));
    Ok(())
}

fn capture_of(payment: &str, amount: i64, before: i64, is_final: bool) -> CaptureRequest {
    CaptureRequest {
        provider_payment_id: payment.to_owned(),
        amount: eur(amount),
        captured_before: eur(before),
        is_final,
        idempotency_key: format!("capture-after-{before}"),
    }
}

async fn capture_until_done<H: CapturingHouse>(
    house: &H,
    clock: &FakeClock,
    request: &CaptureRequest,
    fault: &Fault,
) -> anyhow::Result<StepState> {
    let mut faults = VecDeque::from([fault, fault]);
    for _ in 0..20 {
        let fault = faults.pop_front();
        if let Some(fault) = fault {
            house.inject(fault.clone());
        }
        match house.provider(fault.map_or(LONG, waits))?.capture(request).await {
            Ok(capture) => return Ok(capture.state),
            Err(ProviderError::Transient { .. }) => {}
            Err(ProviderError::Refused { reason, detail }) => anyhow::bail!("refused: {reason} {detail}"),
            Err(ProviderError::Unknown { .. }) => {
                if let Some(found) = house.provider(LONG)?.find_capture(request).await? {
                    return Ok(found.state);
                }
                clock.advance(TimeDelta::hours(24));
            }
        }
    }
    anyhow::bail!("did not end in 20 tries")
}

async fn a_capture_is_done_once_under_every_fault<H: CapturingHouse>() -> anyhow::Result<()> {
    for (fault, _) in faults() {
        let clock = clock();
        let house = H::open(&clock).await?;
        let payment = house.authorized()?;
        let first = capture_of(&payment, 4_000, 0, false);
        let state = capture_until_done(&house, &clock, &first, &fault).await?;
        assert_eq!(state, StepState::Succeeded, "{fault:?}");
        assert_eq!(house.captured(&payment), 4_000, "{fault:?}");
        let provider = house.provider(LONG)?;
        // A fault that was not met may still be there: it strikes the repetition, which changes nothing.
        let patient = house.provider(waits(&fault))?;
        let _ = patient.capture(&first).await;
        let found = provider.find_capture(&first).await?.expect("it was captured");
        assert_eq!(found.state, StepState::Succeeded, "{fault:?}");
        assert_eq!(house.captured(&payment), 4_000, "{fault:?}");

        let second = capture_of(&payment, 5_000, 4_000, true);
        assert_eq!(provider.find_capture(&second).await?, None, "{fault:?}");
        let state = capture_until_done(&house, &clock, &second, &Fault::CutAfter).await?;
        assert_eq!(state, StepState::Succeeded, "{fault:?}");
        assert_eq!(house.captured(&payment), 9_000, "{fault:?}");
        let known = provider.find_payment(&payment).await?;
        assert_eq!(
            (known.authorized, known.captured),
            (Some(eur(10_000)), eur(9_000))
        );

        // What was captured in two parts goes back as one amount.
        let back = refund_of(&payment, eur(8_000));
        assert_eq!(provider.refund(&back).await?.state, RefundState::Succeeded);
        assert_eq!(provider.find_payment(&payment).await?.refunded, eur(8_000));
        assert!(provider.refund(&refund_of(&payment, eur(1_001))).await.is_err());
    }
    Ok(())
}

async fn never_more_is_captured_than_was_authorised<H: CapturingHouse>() -> anyhow::Result<()> {
    let house = H::open(&clock()).await?;
    let provider = house.provider(LONG)?;
    let payment = house.authorized()?;
    for amount in [10_001, 0, -1] {
        let answer = provider.capture(&capture_of(&payment, amount, 0, true)).await;
        assert!(
            matches!(answer, Err(ProviderError::Refused { .. })),
            "{amount}: {answer:?}"
        );
    }
    assert_eq!(house.captured(&payment), 0);
    let mut whole = capture_of(&payment, 10_000, 0, true);
    whole.idempotency_key = "whole".to_owned();
    provider.capture(&whole).await?;
    let more = capture_of(&payment, 1, 10_000, true);
    assert!(matches!(
        provider.capture(&more).await,
        Err(ProviderError::Refused { .. })
    ));
    let void = VoidRequest {
        provider_payment_id: payment.clone(),
        idempotency_key: "void".to_owned(),
    };
    assert!(provider.void(&void).await.is_err(), "nothing is left to release");
    assert_eq!(provider.find_void(&void).await?, None);
    assert_eq!(house.captured(&payment), 10_000);
    Ok(())
}

async fn a_void_releases_once_under_every_fault<H: CapturingHouse>() -> anyhow::Result<()> {
    for (fault, _) in faults() {
        let clock = clock();
        let house = H::open(&clock).await?;
        let provider = house.provider(LONG)?;
        let payment = house.authorized()?;
        let request = VoidRequest {
            provider_payment_id: payment.clone(),
            idempotency_key: "void".to_owned(),
        };
        assert_eq!(provider.find_void(&request).await?, None);
        house.inject(fault.clone());
        let error = house.provider(waits(&fault))?.void(&request).await;
        assert!(error.is_err(), "{fault:?}");
        let mut found = provider.find_void(&request).await?;
        if found.is_none() {
            clock.advance(TimeDelta::hours(24));
            found = Some(provider.void(&request).await?);
        }
        assert_eq!(
            found.map(|void| void.state),
            Some(StepState::Succeeded),
            "{fault:?}"
        );
        assert!(house.is_voided(&payment), "{fault:?}");
        let known = provider.find_payment(&payment).await?;
        assert_eq!(
            (known.captured, known.capturable, known.voided),
            (eur(0), eur(0), eur(10_000)),
            "{fault:?}"
        );
        let late = provider.capture(&capture_of(&payment, 1, 0, true)).await;
        assert!(
            matches!(late, Err(ProviderError::Refused { .. })),
            "{fault:?}: {late:?}"
        );
        assert_eq!(house.captured(&payment), 0, "{fault:?}");
    }
    Ok(())
}

macro_rules! pays_back {
    ($house:ty) => {
        #[tokio::test]
        async fn pays_once_under_every_fault() -> anyhow::Result<()> {
            a_refund_is_paid_once_under_every_fault::<$house>().await
        }

        #[tokio::test]
        async fn pays_once_under_two_faults_in_a_row() -> anyhow::Result<()> {
            two_faults_in_a_row_pay_once::<$house>().await
        }

        #[tokio::test]
        async fn pays_back_no_more_than_was_captured() -> anyhow::Result<()> {
            never_more_is_paid_back_than_was_captured::<$house>().await
        }
    };
}

macro_rules! captures {
    ($house:ty) => {
        #[tokio::test]
        async fn captures_once_under_every_fault() -> anyhow::Result<()> {
            a_capture_is_done_once_under_every_fault::<$house>().await
        }

        #[tokio::test]
        async fn captures_no_more_than_was_authorised() -> anyhow::Result<()> {
            never_more_is_captured_than_was_authorised::<$house>().await
        }

        #[tokio::test]
        async fn voids_once_under_every_fault() -> anyhow::Result<()> {
            a_void_releases_once_under_every_fault::<$house>().await
        }
    };
}

mod stripe {
    use super::*;

    pays_back!(StripeHouse);
    captures!(StripeHouse);
}

mod shopify {
    use super::*;

    pays_back!(ShopifyHouse);
    captures!(ShopifyHouse);
}

mod woocommerce {
    use super::*;

    pays_back!(WooHouse);

    #[tokio::test]
    async fn says_that_it_cannot_capture_or_void() -> anyhow::Result<()> {
        let house = WooHouse::open(&clock()).await?;
        let (payment, provider) = (house.paid()?, house.provider(LONG)?);
        let capture = capture_of(&payment, 1, 0, true);
        let error = provider.capture(&capture).await.expect_err("it cannot");
        assert_eq!(error.reason(), waybill_payments::CAPTURE_NOT_SUPPORTED);
        let void = VoidRequest {
            provider_payment_id: payment,
            idempotency_key: "void".to_owned(),
        };
        let error = provider.void(&void).await.expect_err("it cannot");
        assert_eq!(error.reason(), waybill_payments::VOID_NOT_SUPPORTED);
        Ok(())
    }
}
