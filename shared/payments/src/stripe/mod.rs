//! The adapter for Stripe (API v1): refunds, and captures and cancellations of payment intents.
//!
//! One call is one HTTP request: nothing is repeated here, and every failure is sorted by what it says about the money
//! (see [`ProviderError`]). The leg's marker and the attempt's key travel in the refund's metadata, so that a refund is
//! found again by listing the refunds of its payment.

pub mod amount;
mod intent;
mod notice;
mod webhook;
pub(crate) mod wire;

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use waybill_kernel::money::{Currency, Money};

pub use self::notice::{ORDER_KEY, PaymentNotice, PaymentStep};
pub use self::webhook::{
    Event, RefundNotice, TOLERANCE, WebhookError, parse_event, sign_webhook, verify_webhook,
};
use self::wire::{ATTEMPT_KEY, MARKER_KEY, REASON_KEY, WireList, WireRefund};
pub use crate::http::ClientError;
use crate::http::{self, About, traced};
use crate::payment::{CaptureRequest, ProviderCapture, ProviderPayment, ProviderVoid, VoidRequest};
use crate::provider::{
    ListedRefund, PaymentProvider, ProviderError, ProviderRefund, RefundRequest, leg_of_marker, require_key,
};

/// Stripe forgets keys after 24 h at the earliest. An hour less, so that a call that is late does not race it.
const KEY_LIFETIME: Duration = Duration::from_secs(23 * 3600);
/// Stripe's limits of metadata.
const MAX_METADATA: usize = 50;
const MAX_METADATA_KEY_LEN: usize = 40;
const MAX_METADATA_VALUE_LEN: usize = 500;
/// Most refunds of one payment that are looked through: pages of 100.
const MAX_PAGES: usize = 50;

/// Where and how Stripe is called.
#[derive(Debug, Clone)]
pub struct StripeConfig {
    /// Name under which payments and refunds are stored. Default `"stripe"`.
    pub name: String,
    /// Where the API is. Default `"https://api.stripe.com"`; plain http only to this machine.
    pub base_url: String,
    /// Secret or restricted key of the account.
    pub secret_key: SecretString,
    /// Version of the API that answers follow. Default `"2025-04-30.basil"`.
    pub api_version: String,
    /// Longest time one call may take, from connecting to the last byte. Default 20 s.
    pub call_timeout: Duration,
}

impl StripeConfig {
    /// The defaults with a key.
    #[must_use]
    pub fn new(secret_key: SecretString) -> Self {
        Self {
            name: "stripe".to_owned(),
            base_url: "https://api.stripe.com".to_owned(),
            secret_key,
            api_version: "2025-04-30.basil".to_owned(),
            call_timeout: Duration::from_secs(20),
        }
    }
}

/// An account at Stripe.
#[derive(Debug)]
pub struct StripeProvider {
    config: StripeConfig,
    refunds_url: Url,
    intents_url: Url,
    client: reqwest::Client,
}

impl StripeProvider {
    /// Prepares calls; nothing is called yet.
    ///
    /// # Errors
    /// When the base URL is not usable or would send the key in the clear, or TLS cannot be set up.
    pub fn new(config: StripeConfig) -> Result<Self, ClientError> {
        let base = http::base_url(&config.base_url)?;
        let client = http::client(&base, config.call_timeout)?;
        let join = |path| {
            base.join(path).map_err(|_| ClientError::Url {
                url: config.base_url.clone(),
            })
        };
        let (refunds_url, intents_url) = (join("/v1/refunds")?, join("/v1/payment_intents")?);
        Ok(Self {
            config,
            refunds_url,
            intents_url,
            client,
        })
    }

    fn request(&self, method: Method) -> RequestBuilder {
        self.call(method, self.refunds_url.clone())
    }

    fn call(&self, method: Method, url: Url) -> RequestBuilder {
        self.client
            .request(method, url)
            .bearer_auth(self.config.secret_key.expose_secret())
            .header("Stripe-Version", &self.config.api_version)
    }

    fn span(&self, operation: &'static str, about: About<'_>) -> tracing::Span {
        http::span(&self.config.name, operation, about)
    }

    async fn create(&self, request: &RefundRequest) -> Result<ProviderRefund, ProviderError> {
        let form = form(request)?;
        let call = self
            .request(Method::POST)
            .header("Idempotency-Key", &request.idempotency_key)
            .form(&form);
        let refund: WireRefund = send(call).await?;
        accept(refund, request)
    }

    async fn search(&self, request: &RefundRequest) -> Result<Option<ProviderRefund>, ProviderError> {
        let marker = request.marker();
        let mut after: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let mut query = vec![
                (
                    payment_parameter(&request.provider_payment_id),
                    request.provider_payment_id.as_str(),
                ),
                ("limit", "100"),
            ];
            if let Some(after) = &after {
                query.push(("starting_after", after));
            }
            // A look-up has no effect, so whatever goes wrong with it can be tried again.
            let page: WireList = send(self.request(Method::GET).query(&query))
                .await
                .map_err(ProviderError::of_question)?;
            after = page.data.last().map(|refund| refund.id.clone());
            let found = page.data.into_iter().find(|refund| {
                refund.metadata(MARKER_KEY) == Some(&marker)
                    && refund.metadata(ATTEMPT_KEY) == Some(&request.idempotency_key)
            });
            if let Some(refund) = found {
                return accept(refund, request).map(Some);
            }
            if !page.has_more || after.is_none() {
                return Ok(None);
            }
        }
        Err(ProviderError::unknown("too_many_refunds"))
    }

    /// Stripe lists newest first, and cannot do otherwise.
    async fn list(&self, since: DateTime<Utc>, most: usize) -> Result<Vec<ListedRefund>, ProviderError> {
        let from = since.timestamp().max(0).to_string();
        let mut after: Option<String> = None;
        let mut listed = Vec::new();
        for _ in 0..MAX_PAGES {
            let mut query = vec![("created[gte]", from.as_str()), ("limit", "100")];
            if let Some(after) = &after {
                query.push(("starting_after", after));
            }
            let page: WireList = send(self.request(Method::GET).query(&query))
                .await
                .map_err(ProviderError::of_question)?;
            after = page.data.last().map(|refund| refund.id.clone());
            for refund in page.data {
                listed.push(listed_refund(refund)?);
            }
            if !page.has_more || after.is_none() {
                listed.reverse();
                listed.truncate(most);
                return Ok(listed);
            }
        }
        Err(ProviderError::unknown("too_many_refunds"))
    }
}

fn listed_refund(refund: WireRefund) -> Result<ListedRefund, ProviderError> {
    let amount = amount::from_stripe(refund.amount, &refund.currency)
        .map_err(|_| ProviderError::unknown("amount_malformed"))?;
    Ok(ListedRefund {
        leg_id: refund.metadata(MARKER_KEY).and_then(leg_of_marker),
        provider_payment_id: refund
            .payment_intent
            .clone()
            .or_else(|| refund.charge.clone())
            .unwrap_or_default(),
        amount,
        created_at: DateTime::from_timestamp(refund.created, 0).unwrap_or_default(),
        refund: ProviderRefund {
            state: refund.state(),
            provider_refund_id: refund.id,
        },
    })
}

impl PaymentProvider for StripeProvider {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn key_lifetime(&self) -> Duration {
        KEY_LIFETIME
    }

    fn smallest_step(&self, currency: Currency) -> Option<i64> {
        amount::smallest_step(currency)
    }

    fn refund<'a>(
        &'a self,
        request: &'a RefundRequest,
    ) -> BoxFuture<'a, Result<ProviderRefund, ProviderError>> {
        let span = self.span("refund", About::Leg(request.leg_id));
        traced(span, self.create(request))
    }

    fn list_refunds(
        &self,
        since: DateTime<Utc>,
        most: usize,
    ) -> BoxFuture<'_, Result<Vec<ListedRefund>, ProviderError>> {
        traced(tracing::Span::current(), self.list(since, most))
    }

    fn find_refund<'a>(
        &'a self,
        request: &'a RefundRequest,
    ) -> BoxFuture<'a, Result<Option<ProviderRefund>, ProviderError>> {
        let span = self.span("find refund", About::Leg(request.leg_id));
        traced(span, self.search(request))
    }

    fn captures_by_call(&self) -> bool {
        true
    }

    fn capture_key_lifetime(&self) -> Duration {
        KEY_LIFETIME
    }

    fn capture<'a>(
        &'a self,
        request: &'a CaptureRequest,
    ) -> BoxFuture<'a, Result<ProviderCapture, ProviderError>> {
        let span = self.span("capture", About::Payment(&request.provider_payment_id));
        traced(span, self.capture_intent(request))
    }

    fn find_capture<'a>(
        &'a self,
        request: &'a CaptureRequest,
    ) -> BoxFuture<'a, Result<Option<ProviderCapture>, ProviderError>> {
        let span = self.span("find capture", About::Payment(&request.provider_payment_id));
        traced(span, self.find_intent_capture(request))
    }

    fn void<'a>(&'a self, request: &'a VoidRequest) -> BoxFuture<'a, Result<ProviderVoid, ProviderError>> {
        let span = self.span("void", About::Payment(&request.provider_payment_id));
        traced(span, self.cancel_intent(request))
    }

    fn find_void<'a>(
        &'a self,
        request: &'a VoidRequest,
    ) -> BoxFuture<'a, Result<Option<ProviderVoid>, ProviderError>> {
        let span = self.span("find void", About::Payment(&request.provider_payment_id));
        traced(span, self.find_intent_void(request))
    }

    fn find_payment<'a>(
        &'a self,
        provider_payment_id: &'a str,
    ) -> BoxFuture<'a, Result<ProviderPayment, ProviderError>> {
        let span = self.span("find payment", About::Payment(provider_payment_id));
        traced(span, self.find_intent(provider_payment_id))
    }
}

/// The parameters of a refund, in an order that is the same every time.
fn form(request: &RefundRequest) -> Result<Vec<(String, String)>, ProviderError> {
    request.require_positive()?;
    let amount = stripe_amount(request.amount)?;
    let key = &request.idempotency_key;
    require_key(key)?;
    let mut metadata = request.metadata.clone();
    metadata.insert(MARKER_KEY.to_owned(), request.marker());
    metadata.insert(ATTEMPT_KEY.to_owned(), key.clone());
    metadata.insert(REASON_KEY.to_owned(), request.reason.clone());
    if let Some(detail) = metadata_fault(&metadata) {
        return Err(ProviderError::refused("metadata_invalid", detail));
    }
    let payment = &request.provider_payment_id;
    let mut form = vec![
        (payment_parameter(payment).to_owned(), payment.clone()),
        ("amount".to_owned(), amount.to_string()),
        ("reason".to_owned(), stripe_reason(&request.reason).to_owned()),
    ];
    form.extend(
        metadata
            .into_iter()
            .map(|(key, value)| (format!("metadata[{key}]"), value)),
    );
    Ok(form)
}

fn stripe_amount(amount: Money) -> Result<i64, ProviderError> {
    amount::to_stripe(amount)
        .map_err(|error| ProviderError::refused("amount_not_supported", error.to_string()))
}

fn metadata_fault(metadata: &std::collections::BTreeMap<String, String>) -> Option<String> {
    if metadata.len() > MAX_METADATA {
        return Some(format!(
            "{} entries: at most {MAX_METADATA} with ours",
            metadata.len()
        ));
    }
    metadata.iter().find_map(|(key, value)| {
        let bad_key = key.is_empty() || key.chars().count() > MAX_METADATA_KEY_LEN || key.contains(['[', ']']);
        let bad_value = value.chars().count() > MAX_METADATA_VALUE_LEN;
        (bad_key || bad_value).then(|| {
            format!(
                "entry {key:?}: a key has 1 to {MAX_METADATA_KEY_LEN} characters without brackets, a value at most \
                 {MAX_METADATA_VALUE_LEN}"
            )
        })
    })
}

/// Payments are named by their intent, older ones by their charge.
fn payment_parameter(payment_id: &str) -> &'static str {
    if payment_id.starts_with("ch_") || payment_id.starts_with("py_") {
        "charge"
    } else {
        "payment_intent"
    }
}

/// Stripe's word for a reason. `fraudulent` also puts the customer's card and address on block lists, so it is only used
/// when our key says just that.
fn stripe_reason(reason: &str) -> &'static str {
    match reason {
        "duplicate" => "duplicate",
        "fraudulent" => "fraudulent",
        _ => "requested_by_customer",
    }
}

/// Takes a refund that Stripe shows as the one that was asked for.
fn accept(refund: WireRefund, request: &RefundRequest) -> Result<ProviderRefund, ProviderError> {
    let amount = amount::from_stripe(refund.amount, &refund.currency);
    if amount != Ok(request.amount) {
        // Money moved, but not as asked. A person has to look at that.
        tracing::error!(
            provider_refund_id = refund.id,
            "refund at the provider differs from what was asked"
        );
        return Err(ProviderError::unknown("amount_differs"));
    }
    Ok(ProviderRefund {
        state: refund.state(),
        provider_refund_id: refund.id,
    })
}

/// Sends one request and reads its answer.
async fn send<T: DeserializeOwned>(call: RequestBuilder) -> Result<T, ProviderError> {
    let answer = http::exchange(call).await?;
    // The status alone says enough, even when the rest was lost.
    if !answer.status.is_success() {
        return Err(wire::classify(answer.status, &answer.headers, answer.body()));
    }
    if answer.status != StatusCode::OK {
        return Err(ProviderError::unknown(format!("http_{}", answer.status.as_u16())));
    }
    answer.json()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use waybill_kernel::id::LegId;

    use super::*;

    fn request() -> RefundRequest {
        RefundRequest {
            leg_id: "01890a5d-ac96-774b-bcce-b302099a8057"
                .parse::<LegId>()
                .expect("an id"),
            provider_payment_id: "pi_1".into(),
            amount: Money::new(Currency::EUR, 1234),
            idempotency_key: "leg-1-attempt-1".into(),
            reason: "damaged".into(),
            metadata: BTreeMap::from([("order".into(), "1001".into())]),
        }
    }

    #[test]
    fn parameters_are_the_documented_ones() {
        let form = form(&request()).expect("a refund");
        let form: Vec<(&str, &str)> = form
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            form,
            [
                ("payment_intent", "pi_1"),
                ("amount", "1234"),
                ("reason", "requested_by_customer"),
                ("metadata[order]", "1001"),
                ("metadata[waybill_attempt]", "leg-1-attempt-1"),
                (
                    "metadata[waybill_marker]",
                    "waybill-leg:01890a5d-ac96-774b-bcce-b302099a8057"
                ),
                ("metadata[waybill_reason]", "damaged"),
            ]
        );
        let charge = RefundRequest {
            provider_payment_id: "ch_1".into(),
            ..request()
        };
        assert_eq!(super::form(&charge).expect("a refund")[0].0, "charge");
    }

    #[test]
    fn only_outright_fraud_is_called_fraudulent() {
        assert_eq!(stripe_reason("fraudulent"), "fraudulent");
        assert_eq!(stripe_reason("duplicate"), "duplicate");
        assert_eq!(stripe_reason("fraud_suspected"), "requested_by_customer");
    }

    #[test]
    fn what_cannot_work_is_refused_before_it_is_sent() {
        let reason = |change: fn(&mut RefundRequest)| {
            let mut request = request();
            change(&mut request);
            form(&request)
                .map_err(|error| error.reason().to_owned())
                .expect_err("refused")
        };
        assert_eq!(reason(|r| r.amount.minor = 0), "amount_not_positive");
        assert_eq!(reason(|r| r.amount.minor = -5), "amount_not_positive");
        assert_eq!(
            reason(|r| r.amount = Money::new(Currency::KWD, 1)),
            "amount_not_supported"
        );
        assert_eq!(reason(|r| r.idempotency_key.clear()), "idempotency_key_invalid");
        assert_eq!(
            reason(|r| r.idempotency_key = "k".repeat(256)),
            "idempotency_key_invalid"
        );
        assert_eq!(
            reason(|r| r.idempotency_key = "k\n".into()),
            "idempotency_key_invalid"
        );
        assert_eq!(reason(|r| r.reason = "x".repeat(501)), "metadata_invalid");
        assert_eq!(
            reason(|r| drop(r.metadata.insert("a]b".into(), String::new()))),
            "metadata_invalid"
        );
        assert_eq!(
            reason(|r| r.metadata = (0..48).map(|n| (n.to_string(), String::new())).collect()),
            "metadata_invalid"
        );
    }

    #[test]
    fn the_key_is_never_printed() {
        let config = StripeConfig::new("sk_live_abc".to_owned().into());
        let provider = StripeProvider::new(config).expect("a provider");
        assert!(!format!("{provider:?}").contains("sk_live_abc"));
    }

    #[tokio::test]
    async fn nobody_listening_means_that_nothing_happened() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let base_url = format!("http://{}", listener.local_addr().expect("an address"));
        drop(listener);
        let config = StripeConfig {
            base_url,
            ..StripeConfig::new("sk".to_owned().into())
        };
        let provider = StripeProvider::new(config).expect("a provider");
        let error = provider.refund(&request()).await.expect_err("nobody is there");
        assert_eq!(error, ProviderError::transient("connect", None));
    }
}
