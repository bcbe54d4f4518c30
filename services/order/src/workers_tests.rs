//! O-27 and O-29 where it matters most: a worker that dies at any step, and words that come while a call is made. The sandbox's
//! ledger says what was really taken.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use waybill_kernel::id::OrderId;
use waybill_kernel::money::Currency;
use waybill_payments::sandbox::{Sandbox, SandboxOptions};
use waybill_payments::stripe::{StripeConfig, StripeProvider};
use waybill_payments::{ProviderCapture, ProviderRefund, ProviderVoid, RefundRequest};
use waybill_runtime::service::DatabaseConfig;
use waybill_store::{Db, RequestKey};
use waybill_testkit::Wire;

use super::*;
use crate::app::{NewAttempt, NewPayment, Wish};
use crate::consumers::tests::{Shop, shop};
use crate::domain::capture::CaptureRules;
use crate::domain::order::Order;
use crate::domain::payment::PaymentKind;
use crate::store::read::{Key, find};

/// How long a call may take: the adapter gives up first, so that its time-out is the provider's silence.
const CALL: Duration = Duration::from_millis(400);

const PATIENCE: Patience = Patience {
    look_after: Duration::from_millis(50),
    poll: Duration::from_millis(50),
    quiet: Duration::from_secs(600),
};

struct Bench {
    shop: Shop,
    sandbox: Sandbox,
    providers: Providers,
    placed: std::sync::atomic::AtomicUsize,
}

/// An order with an authorisation, and an attempt to use it.
struct Sale {
    order: OrderId,
    intent: String,
    attempt: PaymentId,
}

impl Bench {
    async fn start() -> Bench {
        let mut shop = shop().await;
        let sandbox = Sandbox::start(SandboxOptions::default())
            .await
            .expect("a free port");
        let provider = StripeProvider::new(StripeConfig {
            call_timeout: CALL,
            ..sandbox.config()
        });
        let providers = Providers::new().with(provider.expect("a client"));
        shop.orders.capture = Arc::new(CaptureRules {
            callable: ["sandbox".to_owned()].into(),
            ..CaptureRules::default()
        });
        Bench {
            shop,
            sandbox,
            providers,
            placed: 0.into(),
        }
    }

    fn key(&self, rpc: &'static str, id: usize) -> RequestKey {
        RequestKey {
            merchant: self.shop.tenant.merchant,
            caller: "test".into(),
            rpc,
            request_id: id.to_string(),
            hash: [0; 32],
        }
    }

    /// An order of 10.00 EUR that is authorised, and a wish about it.
    async fn sale(&self, wish: Wish) -> Sale {
        let n = self.placed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let order = self.shop.place_as(&n.to_string()).await.id;
        let (intent, amount) = (format!("pi_{n}"), Money::new(Currency::EUR, 1000));
        self.sandbox
            .register_authorization(&intent, amount)
            .expect("it is new");
        let authorized = self.told(&intent, PaymentKind::Authorization, Some(order));
        let (_, payment) =
            (self.shop.orders.record(&self.key("auth", n), &authorized).await).expect("it is recorded");
        let new = NewAttempt {
            tenant: self.shop.tenant,
            order,
            payment: payment.id,
            wish,
        };
        let (_, attempt) =
            (self.shop.orders.attempt(&self.key("attempt", n), &new).await).expect("it is decided");
        Sale {
            order,
            intent,
            attempt: attempt.id,
        }
    }

    /// 10.00 EUR as somebody else tells of them.
    fn told(&self, intent: &str, kind: PaymentKind, order: Option<OrderId>) -> NewPayment {
        NewPayment {
            tenant: self.shop.tenant,
            order,
            kind,
            provider: "sandbox".into(),
            provider_payment_id: intent.into(),
            amount: Money::new(Currency::EUR, 1000),
            occurred_at: None,
            reason: String::new(),
            dispute_id: String::new(),
        }
    }

    fn cashier_with(&self, providers: Providers) -> Cashier {
        Cashier::new(self.shop.orders.clone(), providers, PATIENCE)
    }

    fn cashier(&self) -> Cashier {
        self.cashier_with(self.providers.clone())
    }

    async fn order(&self, sale: &Sale) -> Order {
        let key = Key::Id(sale.order);
        let found = find(self.shop.orders.db.pool(), self.shop.tenant, &key).await;
        found.expect("it can be read").expect("it is there").order
    }

    /// One effect at the provider, and everything else says so too.
    async fn done_once(&self, sale: &Sale, kind: AttemptKind) {
        let order = self.order(sale).await;
        let [attempt] = order.attempts.as_slice() else {
            panic!("one attempt: {:?}", order.attempts)
        };
        assert_eq!(attempt.state, AttemptState::Succeeded);
        let is_capture = kind == AttemptKind::Capture;
        let taken = if is_capture { 1000 } else { 0 };
        assert_eq!(self.sandbox.captured(&sale.intent), taken);
        assert_eq!(self.sandbox.is_canceled(&sale.intent), !is_capture);
        let money = order.state.money;
        assert_eq!((money.captured, money.capturing), (taken, 0));
        assert_eq!(money.voided, 1000 - taken);
        assert_eq!(order.payments.len(), 2, "authorised, and settled once");
        assert_eq!(order.payments[1].id, sale.attempt);
        let told: i64 = sqlx::query_scalar("SELECT count(*) FROM event_log WHERE partition_key = $1")
            .bind(sale.order.uuid())
            .fetch_one(self.shop.orders.db.pool())
            .await
            .expect("the log");
        assert_eq!(told, order.state.version, "each version is told once");
    }
}

/// Amount and finality as `CapturePayment` has them without more.
const CAPTURE: Wish = Wish::Capture {
    amount: None,
    is_final: false,
};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

/// A provider that hangs before or after the effect of a call, or does something else then.
struct Meddler {
    inner: Arc<dyn PaymentProvider>,
    before: bool,
    after: Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
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
        self.inner.refund(request)
    }

    fn find_refund<'a>(
        &'a self,
        request: &'a RefundRequest,
    ) -> BoxFuture<'a, Result<Option<ProviderRefund>, ProviderError>> {
        self.inner.find_refund(request)
    }

    fn capture_key_lifetime(&self) -> Duration {
        self.inner.capture_key_lifetime()
    }

    fn capture<'a>(
        &'a self,
        request: &'a CaptureRequest,
    ) -> BoxFuture<'a, Result<ProviderCapture, ProviderError>> {
        async move {
            if self.before {
                std::future::pending::<()>().await;
            }
            let answer = self.inner.capture(request).await?;
            (self.after)().await;
            Ok(answer)
        }
        .boxed()
    }

    fn find_capture<'a>(
        &'a self,
        request: &'a CaptureRequest,
    ) -> BoxFuture<'a, Result<Option<ProviderCapture>, ProviderError>> {
        self.inner.find_capture(request)
    }

    fn void<'a>(&'a self, request: &'a VoidRequest) -> BoxFuture<'a, Result<ProviderVoid, ProviderError>> {
        async move {
            if self.before {
                std::future::pending::<()>().await;
            }
            let answer = self.inner.void(request).await?;
            (self.after)().await;
            Ok(answer)
        }
        .boxed()
    }

    fn find_void<'a>(
        &'a self,
        request: &'a VoidRequest,
    ) -> BoxFuture<'a, Result<Option<ProviderVoid>, ProviderError>> {
        self.inner.find_void(request)
    }
}

/// Intent committed and nothing called, and done but not heard: whoever takes over ends with one effect.
#[tokio::test]
async fn a_worker_may_die_around_the_call() {
    let bench = Bench::start().await;
    for (wish, kind) in [(CAPTURE, AttemptKind::Capture), (Wish::Void, AttemptKind::Void)] {
        for before in [true, false] {
            let sale = bench.sale(wish).await;
            let meddler = Meddler {
                inner: bench.providers.get("sandbox").expect("it is configured"),
                before,
                after: Box::new(|| std::future::pending().boxed()),
            };
            let cashier = bench.cashier_with(Providers::new().with(meddler));
            let work = cashier.submit(sale.attempt, soon());
            let dead = tokio::time::timeout(Duration::from_millis(500), work).await;
            assert!(dead.is_err(), "it hangs at the call until it is dropped");
            let attempt = bench.order(&sale).await.attempts.remove(0);
            assert_eq!(
                (attempt.state, attempt.calls),
                (AttemptState::Submitted, 1),
                "O-27: the intent is committed"
            );
            let is_done = bench.sandbox.captured(&sale.intent) > 0 || bench.sandbox.is_canceled(&sale.intent);
            assert_eq!(is_done, !before);
            let progress = bench.cashier().submit(sale.attempt, soon()).await;
            assert_eq!(progress.expect("it gets through"), Progress::Settled);
            bench.done_once(&sale, kind).await;
        }
    }
}

/// A future that is dropped once its wire to the database has brought so many answers: a process that dies there.
struct Mortal<'w, F> {
    inner: Pin<Box<F>>,
    wire: &'w Wire,
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

/// Kills the worker at the first answer of its database, at the second, and so on until it gets through; each time another one
/// takes over.
#[tokio::test]
async fn a_worker_may_die_at_any_step() {
    let bench = Bench::start().await;
    let (mut deaths, mut taken_when_dead) = (0, 0);
    loop {
        assert!(deaths < 200, "the worker never gets through");
        let sale = bench.sale(CAPTURE).await;
        let (wire, url) = (Wire::before(&bench.shop.db.url("order")).await).expect("a wire");
        let config = DatabaseConfig {
            url: url.as_str().into(),
            max_connections: 2,
            ..DatabaseConfig::default()
        };
        let orders = Orders {
            db: Db::connect(&config, "order").await.expect("the database"),
            ..bench.shop.orders.clone()
        };
        let doomed = Cashier::new(orders, bench.providers.clone(), PATIENCE);
        let life = Mortal {
            inner: Box::pin(doomed.submit(sale.attempt, soon())),
            wire: &wire,
            last: wire.answers() + deaths + 1,
        };
        let survived = life.await.is_some();
        taken_when_dead += usize::from(!survived && bench.sandbox.captured(&sale.intent) > 0);
        let progress = bench.cashier().submit(sale.attempt, soon()).await;
        assert_eq!(
            progress.expect("it gets through"),
            Progress::Settled,
            "after {deaths} answers"
        );
        bench.done_once(&sale, AttemptKind::Capture).await;
        if survived {
            break;
        }
        deaths += 1;
    }
    assert!(deaths > 5, "there were steps to die at: {deaths}");
    assert!(
        taken_when_dead > 1,
        "some died after the capture and before the end: {taken_when_dead} of {deaths}"
    );
}

/// Two workers on one attempt, as after a lease that ran out too early.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_workers_on_one_attempt_have_one_effect() {
    let bench = Bench::start().await;
    for (wish, kind) in [(CAPTURE, AttemptKind::Capture), (Wish::Void, AttemptKind::Void)] {
        for _ in 0..5 {
            let sale = bench.sale(wish).await;
            let cashier = bench.cashier();
            let (left, right) = tokio::join!(
                cashier.submit(sale.attempt, soon()),
                cashier.submit(sale.attempt, soon())
            );
            // One of them may have met the other's call on its way, or its effect as a refusal, or seen that what it looked at is
            // old: it asks later.
            for progress in [left, right] {
                let later =
                    matches!(&progress, Err(Trouble::NotNow { reason, .. }) if reason == "called_meanwhile");
                assert!(progress.is_ok() || later, "{progress:?}");
            }
            let end = cashier.submit(sale.attempt, soon()).await;
            assert_eq!(end.expect("it is settled"), Progress::Settled);
            bench.done_once(&sale, kind).await;
        }
    }
}

/// O-29: a webhook may be earlier than the answer, and comes again after it.
#[tokio::test]
async fn a_webhook_may_come_before_the_answer() {
    let bench = Bench::start().await;
    for (wish, kind, told) in [
        (CAPTURE, AttemptKind::Capture, PaymentKind::Capture),
        (Wish::Void, AttemptKind::Void, PaymentKind::Void),
    ] {
        let sale = bench.sale(wish).await;
        let webhook = Arc::new(bench.told(&sale.intent, told, None));
        let (orders, key) = (bench.shop.orders.clone(), bench.key("webhook", sale.intent.len()));
        let key = RequestKey {
            request_id: sale.intent.clone(),
            ..key
        };
        let (hook, attempt) = (Arc::clone(&webhook), sale.attempt);
        let meddler = Meddler {
            inner: bench.providers.get("sandbox").expect("it is configured"),
            before: false,
            after: Box::new(move || {
                let (orders, hook, key) = (orders.clone(), Arc::clone(&hook), key.clone());
                async move {
                    let (_, payment) = orders.record(&key, &hook).await.expect("it is believed");
                    assert_eq!(payment.id, attempt);
                }
                .boxed()
            }),
        };
        let cashier = bench.cashier_with(Providers::new().with(meddler));
        let progress = cashier.submit(sale.attempt, soon()).await;
        assert_eq!(progress.expect("it answers"), Progress::Settled);
        bench.done_once(&sale, kind).await;
        let again = RequestKey {
            request_id: format!("{}-again", sale.intent),
            ..bench.key("webhook", 0)
        };
        let (_, payment) = (bench.shop.orders.record(&again, &webhook).await).expect("it is known");
        assert_eq!(payment.id, sale.attempt);
        bench.done_once(&sale, kind).await;
    }
}
