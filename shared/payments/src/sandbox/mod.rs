//! Payment providers to try things on: servers on loopback ports that behave as documented, with faults on demand and a
//! ledger of what was really paid. [`Sandbox`] is Stripe's `/v1/refunds` and `/v1/payment_intents`, [`ShopifySandbox`] and
//! [`WooSandbox`] are shops.
//!
//! It replays answers by idempotency key (a stored 500 too), refuses a key with other parameters, never pays back more
//! than a payment captured, lists newest first in pages, and tells about changes by signed webhooks. Payments must be
//! registered before the first refund of them. It forgets everything when it stops, listens on loopback only, and its
//! admin endpoints need no token: it is never a place for real money.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use waybill_kernel::money::{Currency, Money};
//! use waybill_payments::sandbox::{Fault, Sandbox, SandboxOptions};
//!
//! let sandbox = Sandbox::start(SandboxOptions::default()).await?;
//! sandbox.register_payment("pi_1", Money::new(Currency::EUR, 1000))?;
//! sandbox.inject(Fault::TimeoutAfter);
//! let provider = sandbox.provider()?; // an ordinary Stripe adapter
//! # Ok(())
//! # }
//! ```

mod admin;
mod answer;
mod api;
mod books;
mod fault;
mod intents;
mod params;
mod shop;
mod shopify;
mod webhooks;
mod woocommerce;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use waybill_kernel::money::Money;
use waybill_kernel::time::{self, SystemClock};

use self::books::Books;
pub use self::books::{LedgerEntry, Payment, Status};
use self::fault::Plan;
pub use self::fault::{Fault, Schedule};
pub use self::shopify::ShopifySandbox;
pub use self::webhooks::{EventRecord, WebhookEndpoint};
pub use self::woocommerce::WooSandbox;
use crate::stripe::amount::{self, AmountError};
use crate::stripe::{ClientError, StripeConfig, StripeProvider};

/// How the sandbox behaves.
#[derive(Clone)]
pub struct SandboxOptions {
    /// Where it listens. Default: any free port of 127.0.0.1.
    pub listen: SocketAddr,
    /// The key that callers must send.
    pub secret_key: SecretString,
    /// Its clock: age of keys, times of refunds and signatures.
    pub clock: time::Shared,
    /// How long it takes to make a refund. Default: none.
    pub latency: Duration,
    /// For how long keys are kept. Default: 24 h.
    pub key_lifetime: TimeDelta,
    /// Faults drawn by a seed. Default: none.
    pub schedule: Option<Schedule>,
    /// Where events are sent. Default: nowhere.
    pub webhook: Option<WebhookEndpoint>,
    /// How often each event is delivered: more than once must not hurt. Default: once.
    pub deliveries: u32,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            secret_key: SecretString::from("sk_sandbox".to_owned()),
            clock: SystemClock::shared(),
            latency: Duration::ZERO,
            key_lifetime: TimeDelta::hours(24),
            schedule: None,
            webhook: None,
            deliveries: 1,
        }
    }
}

/// Why a sandbox cannot do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// It has no authentication worth the name.
    #[error("listen is {address}: the sandbox only listens on loopback")]
    NotLoopback {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The port could not be had.
    #[error("listen is {address}: cannot bind")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The payment cannot be registered.
    #[error("payment {id:?} cannot be registered: {message}")]
    Payment {
        /// Its id.
        id: String,
        /// Why.
        message: String,
    },
    /// Stripe has no such amounts.
    #[error(transparent)]
    Amount(#[from] AmountError),
}

/// A running sandbox. It stops when this is dropped.
#[derive(Debug)]
pub struct Sandbox {
    shared: Arc<Shared>,
    address: SocketAddr,
    server: Option<JoinHandle<()>>,
}

impl Sandbox {
    /// Starts a sandbox.
    ///
    /// # Errors
    /// When it cannot listen, or should beyond loopback.
    pub async fn start(options: SandboxOptions) -> Result<Self, SandboxError> {
        let address = options.listen;
        if !address.ip().is_loopback() {
            return Err(SandboxError::NotLoopback { address });
        }
        let bind = |source| SandboxError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let shared = Arc::new(Shared::new(options));
        let router = api::routes()
            .merge(admin::routes())
            .with_state(Arc::clone(&shared));
        let stopped = shared.stop.clone().cancelled_owned();
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router)
                .with_graceful_shutdown(stopped)
                .await
            {
                tracing::error!(%error, "payment sandbox stopped serving");
            }
        });
        Ok(Self {
            shared,
            address,
            server: Some(server),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How an adapter named `"sandbox"` reaches it.
    #[must_use]
    pub fn config(&self) -> StripeConfig {
        let base = StripeConfig::new(self.shared.secret_key.clone());
        StripeConfig {
            name: "sandbox".to_owned(),
            base_url: self.url(),
            ..base
        }
    }

    /// An adapter named `"sandbox"` that uses it.
    ///
    /// # Errors
    /// When no HTTP client can be built.
    pub fn provider(&self) -> Result<StripeProvider, ClientError> {
        StripeProvider::new(self.config())
    }

    /// Registers a payment that refunds can be made from. The same payment again changes nothing.
    ///
    /// # Errors
    /// When it is registered with another amount, or Stripe has no such amounts.
    pub fn register_payment(&self, id: &str, captured: Money) -> Result<(), SandboxError> {
        let amount = amount::to_stripe(captured)?;
        let currency = captured.currency.code().to_ascii_lowercase();
        let payment = Payment {
            id: id.to_owned(),
            amount,
            currency,
        };
        let refused = |error: answer::ApiError| SandboxError::Payment {
            id: id.to_owned(),
            message: error.message,
        };
        self.shared.books().register(payment).map_err(refused)
    }

    /// Registers a payment that is authorised and not captured. The same again changes nothing.
    ///
    /// # Errors
    /// As [`register_payment`](Self::register_payment).
    pub fn register_authorization(&self, id: &str, authorized: Money) -> Result<(), SandboxError> {
        let payment = Payment {
            id: id.to_owned(),
            amount: amount::to_stripe(authorized)?,
            currency: authorized.currency.code().to_ascii_lowercase(),
        };
        let refused = |error: answer::ApiError| SandboxError::Payment {
            id: id.to_owned(),
            message: error.message,
        };
        self.shared.books().authorize(&payment).map_err(refused)
    }

    /// How much of a payment was captured, as Stripe counts it.
    #[must_use]
    pub fn captured(&self, payment: &str) -> i64 {
        let books = self.shared.books();
        books
            .payments()
            .find(|known| known.id == payment)
            .map_or(0, |known| known.amount)
    }

    /// Whether what was authorised of a payment was released by a cancellation.
    #[must_use]
    pub fn is_canceled(&self, payment: &str) -> bool {
        self.shared.books().is_canceled(payment)
    }

    /// Plans a fault for the next refund that is asked for.
    pub fn inject(&self, fault: Fault) {
        self.shared.plan().push(fault, None, 1);
    }

    /// Plans a fault for the next refunds of a payment.
    pub fn inject_for(&self, payment: &str, fault: Fault, times: u32) {
        self.shared.plan().push(fault, Some(payment.to_owned()), times);
    }

    /// Forgets all planned faults and the schedule.
    pub fn heal(&self) {
        self.shared.plan().clear();
    }

    /// Holds up every refund between taking its key and making it, until the guard is dropped.
    pub async fn hold(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.shared.held).write_owned().await
    }

    /// Sends events to an endpoint from now on.
    pub fn set_webhook(&self, endpoint: WebhookEndpoint) {
        self.shared.set_webhook(endpoint);
    }

    /// Moves a refund on: a pending one succeeds, or fails for a reason; a succeeded one may fail. `None` when there is
    /// no such refund or it is already there.
    pub fn settle(&self, refund_id: &str, failure_reason: Option<&str>) -> Option<LedgerEntry> {
        self.shared.settle(refund_id, failure_reason.map(str::to_owned))
    }

    /// All refunds, oldest first: what was really paid.
    #[must_use]
    pub fn ledger(&self) -> Vec<LedgerEntry> {
        self.shared.books().refunds().to_vec()
    }

    /// How much of a payment was paid back or is about to be, as Stripe counts it.
    #[must_use]
    pub fn paid_out(&self, payment: &str) -> i64 {
        self.shared.books().paid_out(payment)
    }

    /// All events, and what became of them.
    #[must_use]
    pub fn events(&self) -> Vec<EventRecord> {
        self.shared.events()
    }

    /// Stops serving and waits until it has.
    pub async fn stop(mut self) {
        self.shared.stop.cancel();
        if let Some(server) = self.server.take() {
            let _ = server.await;
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

/// What all handlers share.
struct Shared {
    books: Mutex<Books>,
    plan: Mutex<Plan>,
    events: Mutex<Vec<EventRecord>>,
    webhook: Mutex<Option<WebhookEndpoint>>,
    secret_key: SecretString,
    clock: time::Shared,
    latency: Duration,
    /// Refunds read it; who writes holds them up.
    held: Arc<RwLock<()>>,
    key_lifetime: TimeDelta,
    deliveries: u32,
    stop: CancellationToken,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    fn new(options: SandboxOptions) -> Self {
        Self {
            books: Mutex::default(),
            plan: Mutex::new(Plan::new(options.schedule)),
            events: Mutex::default(),
            webhook: Mutex::new(options.webhook),
            secret_key: options.secret_key,
            clock: options.clock,
            latency: options.latency,
            held: Arc::default(),
            key_lifetime: options.key_lifetime,
            deliveries: options.deliveries,
            stop: CancellationToken::new(),
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event_records(&self) -> MutexGuard<'_, Vec<EventRecord>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn events(&self) -> Vec<EventRecord> {
        self.event_records().clone()
    }

    fn set_webhook(&self, endpoint: WebhookEndpoint) {
        *self.webhook.lock().unwrap_or_else(PoisonError::into_inner) = Some(endpoint);
    }

    fn announce_new(self: &Arc<Self>, refund: &LedgerEntry) {
        let charge = self.books().charge_object(&refund.payment_intent);
        self.announce("refund.created", &refund.object());
        self.announce("charge.refunded", &charge.unwrap_or_default());
        if refund.status == Status::Failed {
            self.announce("refund.failed", &refund.object());
        }
    }

    fn settle(self: &Arc<Self>, id: &str, failure_reason: Option<String>) -> Option<LedgerEntry> {
        let refund = self.books().settle(id, failure_reason)?;
        self.announce("refund.updated", &refund.object());
        if refund.status == Status::Failed {
            self.announce("refund.failed", &refund.object());
        }
        Some(refund)
    }

    fn settle_later(self: &Arc<Self>, id: &str, after_ms: u64, failure_reason: Option<String>) {
        let (shared, id) = (Arc::clone(self), id.to_owned());
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(async move {
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
            shared.settle(&id, failure_reason);
        }));
    }

    /// Records an event and delivers it beside everything else, so that events overtake each other as Stripe's do.
    fn announce(self: &Arc<Self>, kind: &str, object: &serde_json::Value) {
        let event = EventRecord::new(kind, object, self.clock.now().timestamp());
        self.event_records().push(event.clone());
        let endpoint = self
            .webhook
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(endpoint) = endpoint else { return };
        for _ in 0..self.deliveries {
            let (shared, event, endpoint) = (Arc::clone(self), event.clone(), endpoint.clone());
            tokio::spawn(self.stop.clone().run_until_cancelled_owned(async move {
                let note = |taken| shared.note_delivery(&event.id, taken);
                endpoint.deliver(&event, &shared.clock, note).await;
            }));
        }
    }

    fn note_delivery(&self, event_id: &str, taken: bool) {
        if let Some(record) = self
            .event_records()
            .iter_mut()
            .find(|record| record.id == event_id)
        {
            record.tries += 1;
            record.delivered |= taken;
        }
    }
}
