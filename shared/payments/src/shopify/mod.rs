//! The adapter for the orders of a Shopify shop (GraphQL Admin API).
//!
//! A payment is named `"<order>/<transaction>"`, two numbers: the order, and its authorization or sale. Money is counted in
//! the currency that the customer paid in.
//!
//! - **Refunds** carry `@idempotent(key:)`, which the API demands from version 2026-04 on and keeps for 24 h, and our marker in
//!   the refund's note, by which they are found again. That a refund exists does not mean that money moved: its
//!   transactions say so.
//! - **Captures and voids** know no key. So each is preceded by a question, and what the captures took so far, compared with
//!   what the request says was taken before, tells whether it was done.

mod money;
mod wire;

use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use waybill_kernel::money::Currency;

use self::money::{Order, PaymentRef};
use self::wire::{CaptureData, FoundRefund, OrderData, RefundData, RefundsData, VoidData, WireRefund};
use crate::decimal;
use crate::http::{self, About, ClientError, traced};
use crate::payment::{CaptureRequest, ProviderCapture, ProviderPayment, ProviderVoid, VoidRequest};
use crate::provider::{
    PaymentProvider, ProviderError, ProviderRefund, RefundRequest, require_key, require_positive,
};

/// Shopify forgets keys after 24 h. An hour less, so that a call that is late does not race it.
const KEY_LIFETIME: Duration = Duration::from_secs(23 * 3600);
/// Most refunds of an order that are looked through: the API's own limit.
const MAX_REFUNDS: usize = 250;
/// Longest note that is sent.
const MAX_NOTE_LEN: usize = 500;
/// Shops move money in hundredths also where a currency has thousandths.
const DECIMALS: u32 = 2;

/// Where and how a shop is called.
#[derive(Debug, Clone)]
pub struct ShopifyConfig {
    /// Name under which payments and refunds are stored. Default `"shopify"`.
    pub name: String,
    /// The shop, such as `"https://example.myshopify.com"`; plain http only to this machine.
    pub base_url: String,
    /// Access token of an app with `read_orders` and `write_orders`.
    pub access_token: SecretString,
    /// Version of the API. Default `"2026-04"`, the first that demands keys.
    pub api_version: String,
    /// Longest time one request may take, from connecting to the last byte. A call makes up to three. Default 6 s.
    pub request_timeout: Duration,
}

impl ShopifyConfig {
    /// The defaults for a shop.
    #[must_use]
    pub fn new(base_url: String, access_token: SecretString) -> Self {
        Self {
            name: "shopify".to_owned(),
            base_url,
            access_token,
            api_version: "2026-04".to_owned(),
            request_timeout: Duration::from_secs(6),
        }
    }
}

/// A shop at Shopify.
#[derive(Debug)]
pub struct ShopifyProvider {
    config: ShopifyConfig,
    url: Url,
    client: reqwest::Client,
}

impl ShopifyProvider {
    /// Prepares calls; nothing is called yet.
    ///
    /// # Errors
    /// When the base URL is not usable or would send the token in the clear, or TLS cannot be set up.
    pub fn new(config: ShopifyConfig) -> Result<Self, ClientError> {
        let base = http::base_url(&config.base_url)?;
        let client = http::client(&base, config.request_timeout)?;
        let path = format!("/admin/api/{}/graphql.json", config.api_version);
        let url = base.join(&path).map_err(|_| ClientError::Url {
            url: config.base_url.clone(),
        })?;
        Ok(Self { config, url, client })
    }

    async fn send<T: DeserializeOwned>(&self, query: &str, variables: Value) -> Result<T, ProviderError> {
        let call = self
            .client
            .post(self.url.clone())
            .header("X-Shopify-Access-Token", self.config.access_token.expose_secret())
            .json(&json!({ "query": query, "variables": variables }));
        wire::read(http::exchange(call).await?)
    }

    async fn ask<T: DeserializeOwned>(&self, query: &str, variables: Value) -> Result<T, ProviderError> {
        self.send(query, variables)
            .await
            .map_err(ProviderError::of_question)
    }

    async fn order(&self, payment: PaymentRef) -> Result<Order, ProviderError> {
        let found: OrderData = self
            .ask(wire::ORDER, json!({ "id": payment.order_gid() }))
            .await?;
        Order::read(payment, found)
    }

    async fn create_refund(&self, request: &RefundRequest) -> Result<ProviderRefund, ProviderError> {
        request.require_positive()?;
        require_key(&request.idempotency_key)?;
        money::require_step(request.amount)?;
        let order = self
            .order(PaymentRef::parse(&request.provider_payment_id)?)
            .await?;
        let transactions = order.refund_transactions(request.amount)?;
        let variables = json!({
            "key": request.idempotency_key,
            "input": {
                "orderId": order.payment.order_gid(),
                "currency": request.amount.currency.code(),
                "note": note(request)?,
                "notify": false,
                "transactions": transactions,
            },
        });
        let answer: RefundData = self.send(wire::REFUND_CREATE, variables).await?;
        let refund = wire::created(answer.refund_create.refund, &answer.refund_create.user_errors)?;
        accept(&refund, request)
    }

    async fn search_refund(&self, request: &RefundRequest) -> Result<Option<ProviderRefund>, ProviderError> {
        let payment = PaymentRef::parse(&request.provider_payment_id)?;
        let found: RefundsData = self
            .ask(wire::REFUNDS, json!({ "id": payment.order_gid() }))
            .await?;
        let refunds = found.order.ok_or_else(money::no_order)?.refunds;
        let ours = marks(request);
        let marked = refunds
            .iter()
            .find(|refund| refund.note.as_deref().is_some_and(|note| note.starts_with(&ours)));
        let Some(marked) = marked else {
            return if refunds.len() < MAX_REFUNDS {
                Ok(None)
            } else {
                Err(ProviderError::unknown("too_many_refunds"))
            };
        };
        let found: FoundRefund = self.ask(wire::REFUND, json!({ "id": marked.id })).await?;
        let refund = found
            .refund
            .ok_or_else(|| ProviderError::transient("refund_vanished", None))?;
        accept(&refund, request).map(Some)
    }

    async fn capture_order(&self, request: &CaptureRequest) -> Result<ProviderCapture, ProviderError> {
        require_positive("capture", request.amount)?;
        money::require_step(request.amount)?;
        let order = self
            .order(PaymentRef::parse(&request.provider_payment_id)?)
            .await?;
        if let Some(done) = order.capture_of(request)? {
            return Ok(done);
        }
        order.require_capturable(request)?;
        let variables = json!({ "input": {
            "id": order.payment.order_gid(),
            "parentTransactionId": order.payment.transaction_gid(),
            "amount": request.amount.to_decimal(),
            "currency": request.amount.currency.code(),
            "finalCapture": request.is_final,
        }});
        let answer: CaptureData = self.send(wire::ORDER_CAPTURE, variables).await?;
        let made = wire::created(
            answer.order_capture.transaction,
            &answer.order_capture.user_errors,
        )?;
        made.capture(request)
    }

    async fn find_order_capture(
        &self,
        request: &CaptureRequest,
    ) -> Result<Option<ProviderCapture>, ProviderError> {
        let payment = PaymentRef::parse(&request.provider_payment_id)?;
        self.order(payment).await?.capture_of(request)
    }

    async fn void_order(&self, request: &VoidRequest) -> Result<ProviderVoid, ProviderError> {
        let order = self
            .order(PaymentRef::parse(&request.provider_payment_id)?)
            .await?;
        if let Some(done) = order.void() {
            return Ok(done);
        }
        let variables = json!({ "id": order.payment.transaction_gid() });
        let answer: VoidData = self.send(wire::TRANSACTION_VOID, variables).await?;
        let void = answer.transaction_void;
        let made = wire::created(void.transaction, &void.user_errors)?;
        Ok(ProviderVoid {
            state: made.state(),
            provider_void_id: made.id,
        })
    }

    async fn find_order_void(&self, request: &VoidRequest) -> Result<Option<ProviderVoid>, ProviderError> {
        let payment = PaymentRef::parse(&request.provider_payment_id)?;
        Ok(self.order(payment).await?.void())
    }

    async fn find_order_payment(&self, id: &str) -> Result<ProviderPayment, ProviderError> {
        let order = self.order(PaymentRef::parse(id)?).await?;
        order.as_payment(id)
    }

    fn span(&self, operation: &'static str, about: About<'_>) -> tracing::Span {
        http::span(&self.config.name, operation, about)
    }
}

/// How our notes begin. Staff of the shop read them, so they say whose they are.
fn marks(request: &RefundRequest) -> String {
    format!("{} {} ", request.marker(), request.idempotency_key)
}

fn note(request: &RefundRequest) -> Result<String, ProviderError> {
    let note = format!("{}{}", marks(request), request.reason);
    if note.chars().count() > MAX_NOTE_LEN {
        let detail = format!("reason and idempotency_key have more than {MAX_NOTE_LEN} characters together");
        return Err(ProviderError::refused("note_too_long", detail));
    }
    Ok(note)
}

/// Takes a refund that the shop shows as the one that was asked for.
fn accept(refund: &WireRefund, request: &RefundRequest) -> Result<ProviderRefund, ProviderError> {
    let (amount, state) = refund.outcome(request.amount.currency)?;
    if amount != request.amount {
        // Money moved, but not as asked. A person has to look at that.
        tracing::error!(
            provider_refund_id = refund.id,
            "refund at the provider differs from what was asked"
        );
        return Err(ProviderError::unknown("amount_differs"));
    }
    Ok(ProviderRefund {
        provider_refund_id: refund.id.clone(),
        state,
    })
}

impl PaymentProvider for ShopifyProvider {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn key_lifetime(&self) -> Duration {
        KEY_LIFETIME
    }

    fn smallest_step(&self, currency: Currency) -> Option<i64> {
        Some(decimal::step(currency, DECIMALS))
    }

    fn refund<'a>(
        &'a self,
        request: &'a RefundRequest,
    ) -> BoxFuture<'a, Result<ProviderRefund, ProviderError>> {
        let span = self.span("refund", About::Leg(request.leg_id));
        traced(span, self.create_refund(request))
    }

    fn find_refund<'a>(
        &'a self,
        request: &'a RefundRequest,
    ) -> BoxFuture<'a, Result<Option<ProviderRefund>, ProviderError>> {
        let span = self.span("find refund", About::Leg(request.leg_id));
        traced(span, self.search_refund(request))
    }

    fn captures_by_call(&self) -> bool {
        true
    }

    fn capture<'a>(
        &'a self,
        request: &'a CaptureRequest,
    ) -> BoxFuture<'a, Result<ProviderCapture, ProviderError>> {
        let span = self.span("capture", About::Payment(&request.provider_payment_id));
        traced(span, self.capture_order(request))
    }

    fn find_capture<'a>(
        &'a self,
        request: &'a CaptureRequest,
    ) -> BoxFuture<'a, Result<Option<ProviderCapture>, ProviderError>> {
        let span = self.span("find capture", About::Payment(&request.provider_payment_id));
        traced(span, self.find_order_capture(request))
    }

    fn void<'a>(&'a self, request: &'a VoidRequest) -> BoxFuture<'a, Result<ProviderVoid, ProviderError>> {
        let span = self.span("void", About::Payment(&request.provider_payment_id));
        traced(span, self.void_order(request))
    }

    fn find_void<'a>(
        &'a self,
        request: &'a VoidRequest,
    ) -> BoxFuture<'a, Result<Option<ProviderVoid>, ProviderError>> {
        let span = self.span("find void", About::Payment(&request.provider_payment_id));
        traced(span, self.find_order_void(request))
    }

    fn find_payment<'a>(
        &'a self,
        provider_payment_id: &'a str,
    ) -> BoxFuture<'a, Result<ProviderPayment, ProviderError>> {
        let span = self.span("find payment", About::Payment(provider_payment_id));
        traced(span, self.find_order_payment(provider_payment_id))
    }
}
