//! calls that time out, answers and webhooks in any order, and a worker that dies at any step. The
//! sandbox's ledger says what was really paid.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Result;
use chrono::TimeDelta;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use waybill_kernel::money::Currency;
use waybill_payments::sandbox::Fault;
use waybill_payments::{PaymentProvider, ProviderError, ProviderRefund, Providers, RefundRequest};
use waybill_proto::waybill::refund::v1 as proto;
use waybill_refund::app::apply_word::{About, ApplyWord};
use waybill_refund::domain::calendar::business_days_after;
use waybill_refund::domain::refund::{Refund, RefundState};
use waybill_refund::domain::settle::Outcome;
use waybill_refund::error::Error;
use waybill_refund::workers::{Progress, Trouble};
use waybill_testkit::Wire;

use crate::bench::{Bench, Placed, only_leg, soon};

/// A provider that does something after the real one has answered, before the worker hears of it; or never answers.
struct Meddler {
    inner: Arc<dyn PaymentProvider>,
    before: bool,
    after: Box<dyn Fn(ProviderRefund) -> BoxFuture<'static, ()> + Send + Sync>,
}

impl PaymentProvider for Meddler {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn key_lifetime(&self) -> Duration {
        self.inner.key_lifetime()
    }

    fn smallest_step(&self, currency: Currency) -> Option<i64> {
        self.inner.smallest_step(currency)
    }

    fn refund<'a>(
        &'a self,
        request: &'a RefundRequest,
    ) -> BoxFuture<'a, Result<ProviderRefund, ProviderError>> {
        async move {
            if self.before {
                std::future::pending::<()>().await;
            }
            let answer = self.inner.refund(request).await?;
            (self.after)(answer.clone()).await;
            Ok(answer)
        }
        .boxed()
    }

    fn find_refund<'a>(
        &'a self,
        request: &'a RefundRequest,
    ) -> BoxFuture<'a, Result<Option<ProviderRefund>, ProviderError>> {
        self.inner.find_refund(request)
    }
}

/// One refund at the provider, all of it paid, and everything else says so too.
async fn paid_once(bench: &Bench, order: &Placed, refund: &Refund) -> Result<()> {
    let now = bench.get(refund.refund_id).await?;
    assert_eq!(now.state, RefundState::Succeeded);
    let ledger = bench.sandbox.ledger();
    let of: Vec<_> = ledger
        .iter()
        .filter(|entry| entry.payment_intent == order.payments[0].1)
        .collect();
    assert_eq!(of.len(), 1, "the provider paid once: {of:?}");
    assert_eq!(of[0].amount, refund.amount);
    assert_eq!(now.legs[0].provider_refund_id.as_deref(), Some(of[0].id.as_str()));
    let succeeded = bench.heard::<proto::RefundSucceeded>(order.order_id).await?;
    assert_eq!(succeeded.len(), 1, "success is told once");
    assert_eq!(succeeded[0].amount_minor, refund.amount);
    assert_eq!(
        bench.heard::<proto::RefundStarted>(order.order_id).await?.len(),
        1,
        "and so is the start"
    );
    bench.audit(order).await
}

#[tokio::test]
async fn a_refund_goes_its_way() -> Result<()> {
    let bench = Bench::start().await?;
    bench.publish(crate::bench::policy()).await?;
    let (order, refund) = bench.one().await?;
    assert_eq!(refund.state, RefundState::Pending);
    assert_eq!(bench.submit(&refund, 0).await?, Progress::Settled);
    paid_once(&bench, &order, &refund).await?;
    let told = bench.told(order.order_id).await?;
    assert_eq!(told, ["RefundCreated", "RefundStarted", "RefundSucceeded"]);
    let success = &bench.heard::<proto::RefundSucceeded>(order.order_id).await?[0];
    assert_eq!(
        (success.tax_minor, success.order_refunded_minor),
        (refund.tax, refund.amount)
    );
    let now = bench.get(refund.refund_id).await?;
    let started = now.started_at.expect("it was started");
    let promised = business_days_after(started, crate::bench::policy().arrival_days);
    assert_eq!(
        now.expected_at,
        Some(promised),
        "also when it starts on a weekend"
    );
    assert_eq!(now.legs[0].calls, 1);
    // Running the job again is harmless.
    assert_eq!(bench.submit(&refund, 0).await?, Progress::Settled);
    paid_once(&bench, &order, &refund).await
}

#[tokio::test]
async fn a_webhook_may_come_before_the_answer() -> Result<()> {
    let bench = Bench::start().await?;
    let (order, refund) = bench.one().await?;
    let (db, tenant, core) = (bench.db.clone(), bench.tenant, bench.core.clone());
    let leg_id = only_leg(&refund);
    let meddler = Meddler {
        inner: bench.providers.get("sandbox").expect("it is configured"),
        before: false,
        after: Box::new(move |answer| {
            let (db, core) = (db.clone(), core.clone());
            async move {
                let about = About::Told {
                    tenant,
                    provider: "sandbox".to_owned(),
                    leg_id: Some(leg_id),
                };
                let word = ApplyWord {
                    core: &core,
                    about,
                    provider_refund_id: answer.provider_refund_id,
                    outcome: Outcome::Succeeded,
                };
                let heard = db.run(&word).await.expect("the webhook is applied");
                assert_eq!(
                    heard.state,
                    RefundState::Succeeded,
                    "the webhook is believed before the answer"
                );
            }
            .boxed()
        }),
    };
    let cashier = bench.cashier_with(Providers::new().with(meddler));
    assert_eq!(cashier.submit(leg_id, 1, soon()).await?, Progress::Settled);
    paid_once(&bench, &order, &refund).await
}

#[tokio::test]
async fn a_webhook_may_come_after_the_answer_and_again() -> Result<()> {
    let bench = Bench::start().await?;
    let (order, refund) = bench.one().await?;
    bench.submit(&refund, 0).await?;
    let id = bench.sandbox.ledger()[0].id.clone();
    for outcome in [
        Outcome::Pending,
        Outcome::Succeeded,
        Outcome::Succeeded,
        Outcome::Pending,
    ] {
        let version = bench.get(refund.refund_id).await?.version;
        let heard = bench.db.run(&bench.webhook(&refund, &id, outcome)).await?;
        assert_eq!(heard.version, version, "nothing changed");
    }
    paid_once(&bench, &order, &refund).await
}

#[tokio::test]
async fn a_webhook_without_a_leg_finds_it_by_the_providers_id() -> Result<()> {
    let bench = Bench::start().await?;
    let (order, refund) = bench.one().await?;
    bench.sandbox.inject(Fault::Pending {
        settle_after_ms: None,
        failure_reason: None,
    });
    assert_eq!(bench.submit(&refund, 0).await?, Progress::Pending);
    assert_eq!(bench.state(&refund).await?, RefundState::Submitted);
    let id = bench.sandbox.ledger()[0].id.clone();
    bench.sandbox.settle(&id, None);
    let mut word = bench.webhook(&refund, &id, Outcome::Succeeded);
    word.about = About::Told {
        tenant: bench.tenant,
        provider: "sandbox".to_owned(),
        leg_id: None,
    };
    bench.db.run(&word).await?;
    paid_once(&bench, &order, &refund).await?;

    word.provider_refund_id = "re_of_somebody_else".to_owned();
    assert!(matches!(
        bench.db.run(&word).await,
        Err(Error::LegNotFound { .. })
    ));
    Ok(())
}

#[tokio::test]
async fn a_time_out_after_the_effect_is_unknown_until_it_is_looked_up() -> Result<()> {
    let bench = Bench::start().await?;
    let (order, refund) = bench.one().await?;
    bench.sandbox.inject(Fault::TimeoutAfter);
    assert_eq!(bench.submit(&refund, 0).await?, Progress::Unknown);
    assert_eq!(
        bench.state(&refund).await?,
        RefundState::Unknown,
        "R-3: a time-out settles nothing"
    );
    let job: i64 =
        sqlx::query_scalar("SELECT count(*) FROM jobs WHERE kind = 'refund.resolve' AND state = 'waiting'")
            .fetch_one(bench.db.pool())
            .await?;
    assert_eq!(job, 1, "a lookup is due");
    bench.audit(&order).await?;
    // The resolve job does what submit does: it finds the leg called before, and asks.
    assert_eq!(bench.submit(&refund, 0).await?, Progress::Settled);
    paid_once(&bench, &order, &refund).await?;
    assert_eq!(
        bench.get(refund.refund_id).await?.legs[0].calls,
        1,
        "it was never called a second time"
    );
    Ok(())
}

/// Whatever goes wrong with a call, the refund is paid once in the end. A stored 500 is answered to every repetition with
/// the key; it is over when the provider has forgotten the key.
#[tokio::test]
async fn every_fault_ends_with_one_payment() -> Result<()> {
    let (bench, clock) = Bench::with_fake_clock().await?;
    for fault in [
        Fault::TimeoutBefore,
        Fault::TimeoutAfter,
        Fault::CutBefore,
        Fault::CutAfter,
        Fault::ErrorBefore,
        Fault::ErrorAfter,
        Fault::RateLimited {
            retry_after_seconds: 1,
        },
    ] {
        let (order, refund) = bench.one().await?;
        bench.sandbox.inject(fault.clone());
        let mut tries = 0;
        loop {
            tries += 1;
            assert!(tries < 10, "{fault:?} is never settled");
            match bench.submit(&refund, 0).await {
                Ok(Progress::Settled) => break,
                Ok(Progress::Unknown) => {
                    assert_eq!(bench.state(&refund).await?, RefundState::Unknown);
                    bench.audit(&order).await?;
                    if tries > 2 {
                        clock.advance(TimeDelta::hours(25));
                    }
                }
                Err(Trouble::NotNow { .. }) => {
                    assert_eq!(
                        bench.state(&refund).await?,
                        RefundState::Submitted,
                        "it is not given up"
                    );
                }
                other => panic!("{fault:?}: {other:?}"),
            }
        }
        paid_once(&bench, &order, &refund).await?;
    }
    Ok(())
}

/// A future that is dropped once its wire to the database has brought so many answers: a process that dies there.
struct Mortal<'a, F> {
    inner: Pin<Box<F>>,
    wire: &'a Wire,
    last: usize,
}

impl<F: Future> Future for Mortal<'_, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.wire.answers() >= self.last {
            return Poll::Ready(None);
        }
        self.inner.as_mut().poll(context).map(Some)
    }
}

/// Kills the worker at the first answer of its database, at the second, and so on until it gets through; each time another
/// one takes over.
#[tokio::test]
async fn a_worker_may_die_at_any_step() -> Result<()> {
    let bench = Bench::start().await?;
    let (mut deaths, mut paid_when_dead) = (0, 0);
    loop {
        assert!(deaths < 200, "the worker never gets through");
        let (order, refund) = bench.one().await?;
        let (wire, url) = Wire::before(&bench.test_db.url("refund")).await?;
        let doomed = bench.cashier_over(&url).await?;
        let life = Mortal {
            inner: Box::pin(doomed.submit(only_leg(&refund), 1, soon())),
            wire: &wire,
            last: wire.answers() + deaths + 1,
        };
        let survived = life.await.is_some();
        paid_when_dead += usize::from(!survived && bench.sandbox.paid_out(&order.payments[0].1) > 0);
        // Whoever takes over must reach the end, however far the dead one got.
        assert_eq!(
            bench.submit(&refund, 0).await?,
            Progress::Settled,
            "after {deaths} answers"
        );
        paid_once(&bench, &order, &refund).await?;
        if survived {
            break;
        }
        deaths += 1;
    }
    assert!(deaths > 5, "there were steps to die at: {deaths}");
    assert!(
        paid_when_dead > 1,
        "some died after the payment and before the end: {paid_when_dead} of {deaths}"
    );
    Ok(())
}

/// The same at the two places that matter most, for certain: intent committed and nothing called, and paid but not heard.
#[tokio::test]
async fn a_worker_may_die_around_the_call() -> Result<()> {
    let bench = Bench::start().await?;
    for before in [true, false] {
        let (order, refund) = bench.one().await?;
        let leg_id = only_leg(&refund);
        let meddler = Meddler {
            inner: bench.providers.get("sandbox").expect("it is configured"),
            before,
            after: Box::new(|_| std::future::pending().boxed()),
        };
        let cashier = bench.cashier_with(Providers::new().with(meddler));
        let dead = tokio::time::timeout(Duration::from_millis(300), cashier.submit(leg_id, 1, soon())).await;
        assert!(dead.is_err(), "it hangs at the call until it is dropped");
        let now = bench.get(refund.refund_id).await?;
        assert_eq!(
            (now.state, now.legs[0].calls),
            (RefundState::Submitted, 1),
            "R-2: the intent is committed"
        );
        assert_eq!(
            bench.sandbox.paid_out(&order.payments[0].1),
            if before { 0 } else { refund.amount }
        );
        assert_eq!(bench.submit(&refund, 0).await?, Progress::Settled);
        paid_once(&bench, &order, &refund).await?;
    }
    Ok(())
}

/// Two workers on one attempt, as after a lease that ran out too early.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_workers_on_one_attempt_pay_once() -> Result<()> {
    let bench = Bench::start().await?;
    for _ in 0..10 {
        let (order, refund) = bench.one().await?;
        let (left, right) = tokio::join!(bench.submit(&refund, 0), bench.submit(&refund, 0));
        for answer in [left, right] {
            assert_eq!(answer?, Progress::Settled);
        }
        paid_once(&bench, &order, &refund).await?;
    }
    Ok(())
}
