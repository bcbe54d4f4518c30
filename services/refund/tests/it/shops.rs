//! Refunds over the payments of shops: the same worker, providers with keys and without, every fault, paid once.

use std::time::Duration;

use anyhow::Result;
use chrono::{DateTime, TimeDelta, Utc};
use waybill_events::{Doubt, OutsideEffects as _};
use waybill_kernel::id::PaymentId;
use waybill_kernel::money::Money;
use waybill_kernel::time::FakeClock;
use waybill_payments::Providers;
use waybill_payments::sandbox::{Fault, ShopifySandbox, WooSandbox};
use waybill_proto::waybill::order::v1 as order;
use waybill_refund::app::Core;
use waybill_refund::domain::refund::{Refund, RefundState};
use waybill_refund::effects::Payouts;
use waybill_refund::workers::{Progress, Trouble};
use waybill_rpc::convert::to_timestamp;

use crate::bench::{Bench, Placed, euro};

/// How long a request to a shop may take in these tests.
const REQUEST: Duration = Duration::from_millis(400);

/// A shop that orders of these tests were paid in.
trait Shop {
    const PROVIDER: &'static str;
    fn paid(&self, amount: Money) -> String;
    fn inject(&self, fault: Fault);
    fn refunded(&self, payment: &str) -> i64;
}

impl Shop for ShopifySandbox {
    const PROVIDER: &'static str = "shopify";

    fn paid(&self, amount: Money) -> String {
        self.paid(amount)
    }

    fn inject(&self, fault: Fault) {
        self.inject(fault);
    }

    fn refunded(&self, payment: &str) -> i64 {
        self.moved(payment, "REFUND")
    }
}

impl Shop for WooSandbox {
    const PROVIDER: &'static str = "woocommerce";

    fn paid(&self, amount: Money) -> String {
        self.paid(amount)
    }

    fn inject(&self, fault: Fault) {
        self.inject(fault);
    }

    fn refunded(&self, payment: &str) -> i64 {
        self.refunded(payment)
    }
}

/// A bench that pays through these providers instead of its own.
async fn bench_with(providers: impl AsyncFnOnce(&Bench) -> Result<Providers>) -> Result<(Bench, FakeClock)> {
    let (mut bench, clock) = Bench::with_fake_clock().await?;
    let providers = providers(&bench).await?;
    bench.core = Core::new(bench.clock.clone(), bench.log.clone(), &providers);
    bench.cashier = bench.cashier_with(providers);
    Ok((bench, clock))
}

/// An order of three units that was paid in a shop, and a refund of two of them.
async fn one<S: Shop>(bench: &Bench, shop: &S) -> Result<(Placed, Refund)> {
    let (mut placed, event) = bench.placed(&[(3, 1_000, &[190])], &[]);
    let payment_id = PaymentId::generate();
    let provider_payment_id = shop.paid(Money::new(euro(), placed.total));
    placed.payments.push((payment_id, provider_payment_id.clone()));
    let captured = order::PaymentRecorded {
        order_id: placed.order_id.to_string(),
        payment_id: payment_id.to_string(),
        kind: "capture".to_owned(),
        provider: S::PROVIDER.to_owned(),
        provider_payment_id,
        currency_code: "EUR".to_owned(),
        amount_minor: placed.total,
        occurred_at: Some(to_timestamp(bench.clock.now())),
        captured_minor: placed.total,
        ..order::PaymentRecorded::default()
    };
    let mut events = vec![event, bench.event("order", placed.order_id, 2, &captured)];
    let lines = [(placed.lines[0], 3)];
    events.extend(bench.shipment(placed.order_id, &lines, bench.clock.now() - TimeDelta::days(3)));
    bench.fold(&events).await?;
    let refund = bench.refund_units(&placed, 0, 2).await?;
    assert_eq!(refund.legs[0].provider, S::PROVIDER);
    Ok((placed, refund))
}

/// Has the workers carry a refund to its end, under a fault; time passes while nobody knows.
async fn carry<S: Shop>(bench: &Bench, clock: &FakeClock, shop: &S, fault: Fault) -> Result<()> {
    let (order, refund) = one(bench, shop).await?;
    shop.inject(fault.clone());
    for tries in 1.. {
        assert!(tries < 10, "{fault:?} is never settled");
        match bench.submit(&refund, 0).await {
            Ok(Progress::Settled) => break,
            Ok(Progress::Unknown) => {
                assert_eq!(
                    bench.state(&refund).await?,
                    RefundState::Unknown,
                    "R-3: {fault:?}"
                );
                bench.audit(&order).await?;
                clock.advance(TimeDelta::hours(25));
            }
            Err(Trouble::NotNow { .. }) => {
                assert_eq!(bench.state(&refund).await?, RefundState::Submitted, "{fault:?}");
                clock.advance(TimeDelta::hours(1));
            }
            other => panic!("{fault:?}: {other:?}"),
        }
    }
    assert_eq!(bench.state(&refund).await?, RefundState::Succeeded, "{fault:?}");
    assert_eq!(
        shop.refunded(&order.payments[0].1),
        refund.amount,
        "{fault:?}: paid once"
    );
    bench.audit(&order).await
}

async fn every_fault_ends_with_one_payment<S: Shop>(
    bench: &Bench,
    clock: &FakeClock,
    shop: &S,
) -> Result<()> {
    let limited = Fault::RateLimited {
        retry_after_seconds: 1,
    };
    for fault in [
        Fault::TimeoutBefore,
        Fault::TimeoutAfter,
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::ErrorBefore,
        Fault::ErrorAfter,
        Fault::GarbledAfter,
        Fault::HalfAfter,
        Fault::HugeAfter,
        limited,
    ] {
        carry(bench, clock, shop, fault).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_shopify_order_is_refunded_once_under_every_fault() -> Result<()> {
    let mut shop = None;
    let (bench, clock) = bench_with(async |bench: &Bench| {
        let opened = shop.insert(ShopifySandbox::start(bench.clock.clone()).await?);
        Ok(Providers::new().with(opened.provider(REQUEST)?))
    })
    .await?;
    let shop = shop.expect("it was opened");
    every_fault_ends_with_one_payment(&bench, &clock, &shop).await
}

#[tokio::test]
async fn a_woocommerce_order_is_refunded_once_under_every_fault() -> Result<()> {
    let mut shop = None;
    let (bench, clock) = bench_with(async |bench: &Bench| {
        let opened = shop.insert(WooSandbox::start(bench.clock.clone()).await?);
        Ok(Providers::new().with(opened.provider(REQUEST)?))
    })
    .await?;
    let shop = shop.expect("it was opened");
    every_fault_ends_with_one_payment(&bench, &clock, &shop).await?;

    // A gateway whose answer the shop never wrote down: nobody pays again, whatever time passes.
    let (order, refund) = one(&bench, &shop).await?;
    shop.die_at_the_gateway();
    for _ in 0..4 {
        assert_eq!(bench.submit(&refund, 0).await?, Progress::Unknown);
        clock.advance(TimeDelta::hours(25));
    }
    assert_eq!(shop.refunded(&order.payments[0].1), refund.amount);
    bench.audit(&order).await
}

/// R-2b: a shop cannot list its refunds. That a person compared its books after one loss says nothing about the next.
#[tokio::test]
async fn a_shop_is_asked_about_after_every_loss() -> Result<()> {
    let bench = Bench::start().await?;
    let shop = ShopifySandbox::start(bench.clock.clone()).await?;
    let payouts = Payouts {
        db: bench.db.clone(),
        core: bench.core.clone(),
        providers: Providers::new().with(shop.provider(REQUEST)?),
    };
    let lost = |until: DateTime<Utc>| Doubt {
        from: until - TimeDelta::hours(1),
        until,
    };
    let first = lost(bench.core.now());
    let listed = payouts.undecided(first, 10).await?;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(payouts.undecided(first, 10).await?, listed);
    assert_eq!(payouts.write_off(&listed, "compared", "owner").await?, 1);
    assert_eq!(payouts.undecided(first, 10).await?, []);

    let second = lost(first.until + TimeDelta::days(30));
    let again = payouts.undecided(second, 10).await?;
    assert_eq!(again.len(), 1, "{again:?}");
    assert_ne!(again[0].effect_id, listed[0].effect_id);
    assert_eq!(payouts.write_off(&again, "compared again", "owner").await?, 1);
    assert_eq!(payouts.undecided(second, 10).await?, []);
    Ok(())
}
