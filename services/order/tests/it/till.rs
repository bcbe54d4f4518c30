//! A shop with a payment provider: the sandbox, whose ledger says what was really taken.

use std::time::Duration;

use anyhow::Result;
use tonic::Status;
use waybill_kernel::money::{Currency, Money};
use waybill_kernel::time::FakeClock;
use waybill_order::{Calls, Config};
use waybill_payments::Providers;
use waybill_payments::config::{ProviderConfig, ProviderKind};
use waybill_payments::sandbox::{Sandbox, SandboxOptions};
use waybill_payments::stripe::{StripeConfig, StripeProvider};
use waybill_proto::waybill::order::v1 as proto;
use waybill_store::jobs::Limits;
use waybill_testkit::{Auth, database, eventually, nats};

use crate::fold::until;
use crate::harness::{PEERS_AWAY, SOON, Service, World, now, start_in};
use crate::shop::{Shop, eur, order};

/// How long a call may take: the adapter gives up first, so that its time-out is the provider's silence.
const CALL: Duration = Duration::from_millis(400);

/// The sandbox's name.
pub(crate) const SANDBOX: &str = "sandbox";

pub(crate) struct Till {
    pub(crate) service: Service,
    pub(crate) sandbox: Sandbox,
    pub(crate) shop: Shop,
}

/// An order with an authorisation.
#[derive(Debug, Clone)]
pub(crate) struct Sale {
    pub(crate) order_id: String,
    /// Our id of the authorisation.
    pub(crate) payment_id: String,
    /// The provider's.
    pub(crate) intent: String,
}

/// A sandbox and the clock that it and the service live by.
pub(crate) async fn world() -> Result<(World, Sandbox)> {
    let clock = FakeClock::new(now());
    let sandbox = Sandbox::start(SandboxOptions {
        clock: clock.shared(),
        ..SandboxOptions::default()
    })
    .await?;
    let provider = StripeProvider::new(StripeConfig {
        call_timeout: CALL,
        ..sandbox.config()
    })?;
    let providers = Providers::new().with(provider);
    Ok((World { clock, providers }, sandbox))
}

/// Workers that lose no time.
pub(crate) fn soon(config: &mut Config) {
    config.calls = Calls {
        look_after: Duration::from_millis(50),
        poll_pending: Duration::from_millis(50),
        poll_jobs: Duration::from_millis(50),
        ..Calls::default()
    };
    // Of these settings only the limits are read: a provider that fails on purpose is not left alone.
    let limits = Limits {
        failures: 10_000,
        ..Limits::default()
    };
    let provider = ProviderConfig {
        kind: ProviderKind::Sandbox,
        limits,
        ..ProviderConfig::default()
    };
    config.providers.insert(SANDBOX.to_owned(), provider);
}

impl Till {
    pub(crate) async fn start() -> Result<Till> {
        Till::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Result<Till> {
        let (world, sandbox) = world().await?;
        let (db, nats) = (database(&["order"]).await, nats().await);
        let service = start_in(world, db, nats, Auth::new(), &PEERS_AWAY, |config| {
            soon(config);
            change(config);
        })
        .await;
        let shop = service.shop();
        Ok(Till {
            service,
            sandbox,
            shop,
        })
    }

    /// An order of 10.00 EUR for which this much is authorised.
    pub(crate) async fn sale(&self, name: &str, minor: i64) -> Result<Sale> {
        sale(&self.shop, &self.sandbox, name, minor).await
    }

    /// A request to capture.
    pub(crate) fn capture(
        &self,
        request_id: &str,
        sale: &Sale,
        minor: Option<i64>,
    ) -> proto::CapturePaymentRequest {
        capture(&self.shop, request_id, sale, minor)
    }

    /// Captures.
    pub(crate) async fn try_capture(
        &self,
        request: proto::CapturePaymentRequest,
    ) -> Result<proto::PaymentAttempt, Status> {
        try_capture(&self.shop, request).await
    }

    /// Voids.
    pub(crate) async fn try_void(
        &self,
        request_id: &str,
        sale: &Sale,
    ) -> Result<proto::PaymentAttempt, Status> {
        try_void(&self.shop, request_id, sale).await
    }

    /// Records what a provider did with a sale.
    pub(crate) async fn tell(
        &self,
        request_id: &str,
        sale: &Sale,
        kind: proto::PaymentKind,
        minor: i64,
    ) -> Result<proto::RecordPaymentResponse, Status> {
        let request = proto::RecordPaymentRequest {
            provider: SANDBOX.into(),
            ..self
                .shop
                .payment(request_id, &sale.order_id, kind, &sale.intent, minor)
        };
        Ok(self
            .shop
            .client
            .clone()
            .record_payment(request)
            .await?
            .into_inner())
    }

    /// The attempt once it is in this state.
    pub(crate) async fn attempt_in(
        &self,
        sale: &Sale,
        attempt_id: &str,
        state: proto::PaymentAttemptState,
    ) -> proto::PaymentAttempt {
        eventually(state.as_str_name(), SOON, async || {
            let request = proto::GetPaymentAttemptRequest {
                merchant_id: self.shop.merchant.to_string(),
                store_id: self.shop.store.to_string(),
                order_id: sale.order_id.clone(),
                attempt_id: attempt_id.into(),
            };
            let answer = self.shop.client.clone().get_payment_attempt(request).await;
            let attempt = answer.expect("it is there").into_inner().attempt;
            let attempt = attempt.expect("an answer has the attempt");
            if attempt.state() == state {
                Ok(attempt)
            } else {
                Err(format!("{:?} {}", attempt.state(), attempt.reason))
            }
        })
        .await
    }

    /// The order once nothing is in flight on it.
    pub(crate) async fn settled(&self, sale: &Sale) -> proto::Order {
        settled(&self.shop, sale).await
    }

    /// Money of an order, its payments and attempts, its events and the provider's ledger say the same (O-4, O-7, O-26, O-28,
    /// O-29).
    pub(crate) async fn audit(&self, sale: &Sale) -> Result<()> {
        audit(&self.service, &self.shop, &self.sandbox, sale).await
    }
}

pub(crate) async fn sale(shop: &Shop, sandbox: &Sandbox, name: &str, minor: i64) -> Result<Sale> {
    let placed = shop.place(order(name)).await;
    let intent = format!("pi_{name}");
    sandbox.register_authorization(&intent, Money::new(Currency::EUR, minor))?;
    let request = proto::RecordPaymentRequest {
        provider: SANDBOX.into(),
        ..shop.payment(
            &format!("auth-{name}"),
            &placed.order_id,
            proto::PaymentKind::Authorization,
            &intent,
            minor,
        )
    };
    let recorded = shop.client.clone().record_payment(request).await?.into_inner();
    let payment = recorded.payment.expect("an answer has the payment");
    Ok(Sale {
        order_id: placed.order_id,
        payment_id: payment.payment_id,
        intent,
    })
}

pub(crate) fn capture(
    shop: &Shop,
    request_id: &str,
    sale: &Sale,
    minor: Option<i64>,
) -> proto::CapturePaymentRequest {
    proto::CapturePaymentRequest {
        merchant_id: shop.merchant.to_string(),
        store_id: shop.store.to_string(),
        request_id: request_id.into(),
        order_id: sale.order_id.clone(),
        payment_id: sale.payment_id.clone(),
        amount: minor.and_then(eur),
        is_final: false,
    }
}

pub(crate) async fn try_capture(
    shop: &Shop,
    request: proto::CapturePaymentRequest,
) -> Result<proto::PaymentAttempt, Status> {
    let answer = shop.client.clone().capture_payment(request).await?.into_inner();
    Ok(answer.attempt.expect("an answer has the attempt"))
}

pub(crate) async fn try_void(
    shop: &Shop,
    request_id: &str,
    sale: &Sale,
) -> Result<proto::PaymentAttempt, Status> {
    let request = proto::VoidPaymentRequest {
        merchant_id: shop.merchant.to_string(),
        store_id: shop.store.to_string(),
        request_id: request_id.into(),
        order_id: sale.order_id.clone(),
        payment_id: sale.payment_id.clone(),
    };
    let answer = shop.client.clone().void_payment(request).await?.into_inner();
    Ok(answer.attempt.expect("an answer has the attempt"))
}

pub(crate) fn is_in_flight(attempt: &proto::PaymentAttempt) -> bool {
    use proto::PaymentAttemptState::{Pending, Submitted, Unknown};
    matches!(attempt.state(), Pending | Submitted | Unknown)
}

pub(crate) async fn settled(shop: &Shop, sale: &Sale) -> proto::Order {
    until(shop, &sale.order_id, "the providers' word", |order| {
        !order.payment_attempts.iter().any(is_in_flight)
    })
    .await
}

pub(crate) async fn audit(service: &Service, shop: &Shop, sandbox: &Sandbox, sale: &Sale) -> Result<()> {
    use proto::PaymentKind::{Authorization, Capture, Void};
    let order = shop.get(&sale.order_id).await?;
    let minor = |payment: &proto::Payment| payment.amount.as_ref().map_or(0, |amount| amount.minor_units);
    let captured = order.payments.iter().filter(|payment| payment.kind() == Capture);
    assert_eq!(order.captured, eur(captured.map(minor).sum()));
    // Of this payment alone.
    let sum = |kind: proto::PaymentKind| -> i64 {
        let of = order.payments.iter().filter(|payment| payment.kind() == kind);
        of.filter(|payment| payment.provider_payment_id == sale.intent)
            .map(minor)
            .sum()
    };
    assert_eq!(
        sandbox.captured(&sale.intent),
        sum(Capture),
        "the provider's ledger"
    );
    assert!(sum(Capture) + sum(Void) <= sum(Authorization));
    let flying = order
        .payment_attempts
        .iter()
        .filter(|attempt| is_in_flight(attempt));
    assert!(flying.clone().count() <= 1, "O-26");
    let capturing: i64 = flying
        .filter(|attempt| attempt.kind() == proto::PaymentAttemptKind::Capture)
        .map(|attempt| attempt.amount.as_ref().map_or(0, |amount| amount.minor_units))
        .sum();
    assert_eq!(order.capturing, eur(capturing), "O-28");
    for attempt in &order.payment_attempts {
        let recorded = order
            .payments
            .iter()
            .filter(|payment| payment.payment_id == attempt.attempt_id)
            .count();
        assert_eq!(recorded, usize::from(!is_in_flight(attempt)), "O-29: {attempt:?}");
    }
    let versions: Vec<i64> = sqlx::query_scalar(
        "SELECT DISTINCT aggregate_version FROM event_log WHERE partition_key = $1::uuid ORDER BY aggregate_version",
    )
    .bind(&sale.order_id)
    .fetch_all(&mut service.tables().await)
    .await?;
    assert_eq!(versions, (1..=order.version).collect::<Vec<_>>(), "O-7");
    Ok(())
}
