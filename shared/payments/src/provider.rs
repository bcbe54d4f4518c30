//! What a payment provider can be asked, and what it can answer.
//!
//! The caller commits its intent and the idempotency key before it calls, repeats a call only with the same key, and
//! looks up before it repeats a call whose key the provider may have forgotten. An adapter makes that possible by saying
//! exactly how much is known about a call that failed.
//!
//! Refunds are what every provider can do. Capturing, voiding and looking a payment up are further methods with the same
//! [`ProviderError`]; a provider that cannot do one of them refuses it in words.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use waybill_kernel::id::LegId;
use waybill_kernel::money::{Currency, Money};

use crate::payment::{
    CAPTURE_NOT_SUPPORTED, CaptureRequest, LOOKUP_NOT_SUPPORTED, ProviderCapture, ProviderPayment,
    ProviderVoid, VOID_NOT_SUPPORTED, VoidRequest,
};

/// A payment provider: one account at one of them.
pub trait PaymentProvider: Send + Sync {
    /// The name under which payments and refunds are stored, such as `"stripe"`.
    fn name(&self) -> &str;

    /// For how long, at least, the provider recognises an idempotency key. A call that may have happened must be looked
    /// up with [`find_refund`](Self::find_refund) before it is repeated later than this. Zero: it knows no keys, so
    /// always look first.
    fn key_lifetime(&self) -> Duration;

    /// The smallest amount, in minor units, that can be refunded in a currency; every amount must be a multiple of it.
    /// `None` when the provider cannot refund in the currency.
    fn smallest_step(&self, currency: Currency) -> Option<i64>;

    /// Pays money back over the payment it came from.
    ///
    /// Calls with the same key pay once. [`ProviderError::Refused`] and [`ProviderError::Transient`] speak of this call
    /// only: an earlier one whose outcome was unknown may still have paid.
    fn refund<'a>(
        &'a self,
        request: &'a RefundRequest,
    ) -> BoxFuture<'a, Result<ProviderRefund, ProviderError>>;

    /// Lists what the account has paid back since a time, at most `most`, oldest first: asked only after refunds of ours may
    /// have been forgotten. By default it is refused, and a person looks at the provider's own books.
    fn list_refunds(
        &self,
        since: DateTime<Utc>,
        most: usize,
    ) -> BoxFuture<'_, Result<Vec<ListedRefund>, ProviderError>> {
        let (_, _) = (since, most);
        refuse(LISTING_NOT_SUPPORTED, "this provider cannot list its refunds")
    }

    /// Looks for the refund that [`refund`](Self::refund) made, or may have made, for the same request. `None`: the
    /// provider has none, so no call for it has paid *yet*; one that is still on its way could.
    ///
    /// Fails as [`ProviderError::Transient`] when the provider could not be asked, and as [`ProviderError::Unknown`] when
    /// what it has contradicts the request.
    fn find_refund<'a>(
        &'a self,
        request: &'a RefundRequest,
    ) -> BoxFuture<'a, Result<Option<ProviderRefund>, ProviderError>>;

    /// Whether it captures and voids by call, so that a caller need not ask one that can only refuse. No by default.
    fn captures_by_call(&self) -> bool {
        false
    }

    /// As [`key_lifetime`](Self::key_lifetime), for captures and voids. Zero by default: look first.
    fn capture_key_lifetime(&self) -> Duration {
        Duration::ZERO
    }

    /// Takes money that is authorised. Calls with the same key take it once, and never more than was authorised.
    ///
    /// Errors speak of this call only, as those of [`refund`](Self::refund) do.
    fn capture<'a>(
        &'a self,
        request: &'a CaptureRequest,
    ) -> BoxFuture<'a, Result<ProviderCapture, ProviderError>> {
        let _ = request;
        refuse(
            CAPTURE_NOT_SUPPORTED,
            "this provider cannot capture by call; do it there and record the capture",
        )
    }

    /// Looks for the capture that [`capture`](Self::capture) made, or may have made, for the same request. `None`: the
    /// provider has none *yet*. Fails as [`find_refund`](Self::find_refund) does; [`ProviderError::Unknown`] also when
    /// something else than this capture took money meanwhile.
    fn find_capture<'a>(
        &'a self,
        request: &'a CaptureRequest,
    ) -> BoxFuture<'a, Result<Option<ProviderCapture>, ProviderError>> {
        let _ = request;
        refuse(CAPTURE_NOT_SUPPORTED, "this provider cannot capture by call")
    }

    /// Releases what is authorised and not captured. Calling again changes nothing more.
    fn void<'a>(&'a self, request: &'a VoidRequest) -> BoxFuture<'a, Result<ProviderVoid, ProviderError>> {
        let _ = request;
        refuse(
            VOID_NOT_SUPPORTED,
            "this provider cannot void by call; do it there and record the void",
        )
    }

    /// Looks whether what [`void`](Self::void) should release is released. Fails as [`find_refund`](Self::find_refund).
    fn find_void<'a>(
        &'a self,
        request: &'a VoidRequest,
    ) -> BoxFuture<'a, Result<Option<ProviderVoid>, ProviderError>> {
        let _ = request;
        refuse(VOID_NOT_SUPPORTED, "this provider cannot void by call")
    }

    /// What the provider has of a payment: authorised, captured, voided, refunded. It has no effect, so it never fails as
    /// [`ProviderError::Unknown`] for want of an answer; it does when what it hears contradicts itself.
    fn find_payment<'a>(
        &'a self,
        provider_payment_id: &'a str,
    ) -> BoxFuture<'a, Result<ProviderPayment, ProviderError>> {
        let _ = provider_payment_id;
        refuse(
            LOOKUP_NOT_SUPPORTED,
            "this provider cannot say what it has of a payment",
        )
    }
}

fn refuse<T: Send + 'static>(
    reason: &'static str,
    detail: &'static str,
) -> BoxFuture<'static, Result<T, ProviderError>> {
    Box::pin(std::future::ready(Err(ProviderError::refused(reason, detail))))
}

/// One leg of a refund, as a provider is asked to pay it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefundRequest {
    /// The leg. The provider keeps it as a marker, by which the refund is found again.
    pub leg_id: LegId,
    /// The provider's id of the payment that the money came from.
    pub provider_payment_id: String,
    /// How much to pay back: positive, in the currency of the payment.
    pub amount: Money,
    /// Committed before the call, at most 255 characters; the same for every repetition of this attempt.
    pub idempotency_key: String,
    /// Our key of the reason, such as `"damaged"`. Never free text of a customer.
    pub reason: String,
    /// Further keys and values to keep at the provider. No personal data.
    pub metadata: BTreeMap<String, String>,
}

impl RefundRequest {
    /// Refuses an amount that is not positive.
    pub(crate) fn require_positive(&self) -> Result<(), ProviderError> {
        require_positive("refund", self.amount)
    }

    /// The text that marks the provider's refund as ours.
    #[must_use]
    pub fn marker(&self) -> String {
        format!("{MARKER_PREFIX}{}", self.leg_id)
    }
}

pub(crate) fn require_positive(what: &str, amount: Money) -> Result<(), ProviderError> {
    if amount.minor > 0 {
        return Ok(());
    }
    let detail = format!("cannot {what} {amount}");
    Err(ProviderError::refused("amount_not_positive", detail))
}

/// Most characters of an idempotency key, for all providers.
const MAX_KEY_LEN: usize = 255;

/// Refuses a key that does not travel unchanged.
pub(crate) fn require_key(key: &str) -> Result<(), ProviderError> {
    if !key.is_empty() && key.len() <= MAX_KEY_LEN && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let detail = "idempotency_key must be 1 to 255 visible ASCII characters";
    Err(ProviderError::refused("idempotency_key_invalid", detail))
}

const MARKER_PREFIX: &str = "waybill-leg:";

/// The leg that a marker names, or `None` when the text is not a marker of ours.
#[must_use]
pub fn leg_of_marker(marker: &str) -> Option<LegId> {
    marker.strip_prefix(MARKER_PREFIX)?.parse().ok()
}

/// A refund as the provider has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderRefund {
    /// The provider's id of the refund.
    pub provider_refund_id: String,
    /// How far it is.
    pub state: RefundState,
}

/// The reason of a provider that cannot list its refunds.
pub const LISTING_NOT_SUPPORTED: &str = "listing_not_supported";

/// A refund as the provider lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedRefund {
    /// The refund.
    pub refund: ProviderRefund,
    /// The provider's id of the payment that the money came from.
    pub provider_payment_id: String,
    /// How much was paid back.
    pub amount: Money,
    /// The leg that the provider carries as a marker; none when the refund is not ours.
    pub leg_id: Option<LegId>,
    /// When the provider took it.
    pub created_at: DateTime<Utc>,
}

/// How far a refund is at its provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefundState {
    /// Accepted, not settled: a webhook or a lookup will tell.
    Pending,
    /// The provider paid. It may still become `Failed` when the customer's bank sends the money back.
    Succeeded,
    /// Nothing was paid, or the money came back.
    Failed {
        /// The provider's reason as a key, such as `"expired_or_canceled_card"`.
        reason: String,
    },
}

/// A call that brought no answer to work with. The variants differ in what is known about its effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    /// This call did nothing, and repeating it would do nothing either.
    #[error("provider refused the call ({reason}): {detail}")]
    Refused {
        /// The reason as a key, such as `"charge_already_refunded"`.
        reason: String,
        /// The provider's or adapter's words for an operator.
        detail: String,
    },
    /// This call surely did nothing, and the same call may work later.
    #[error("provider could not be used now ({reason})")]
    Transient {
        /// The reason as a key, such as `"rate_limit"`.
        reason: String,
        /// How long the provider asks to wait.
        retry_after: Option<Duration>,
    },
    /// The call may or may not have had its effect: only the provider knows.
    #[error("outcome is unknown ({reason}): look the call up at the provider before anything else")]
    Unknown {
        /// The reason as a key, such as `"timeout"`.
        reason: String,
    },
}

impl ProviderError {
    /// A refusal.
    pub fn refused(reason: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Refused {
            reason: reason.into(),
            detail: detail.into(),
        }
    }

    /// A failure without any effect.
    pub fn transient(reason: impl Into<String>, retry_after: Option<Duration>) -> Self {
        Self::Transient {
            reason: reason.into(),
            retry_after,
        }
    }

    /// A failure with an effect that nobody knows.
    pub fn unknown(reason: impl Into<String>) -> Self {
        Self::Unknown {
            reason: reason.into(),
        }
    }

    /// The reason as a key.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Refused { reason, .. } | Self::Transient { reason, .. } | Self::Unknown { reason } => {
                reason
            }
        }
    }

    /// The error of a question: it had no effect, so whatever went wrong with it can be tried again.
    pub(crate) fn of_question(self) -> Self {
        match self {
            Self::Unknown { reason } => Self::transient(reason, None),
            other => other,
        }
    }

    /// Whether this call surely had no effect.
    #[must_use]
    pub fn surely_did_nothing(&self) -> bool {
        !matches!(self, Self::Unknown { .. })
    }
}

/// The providers that a process can use, by name.
#[derive(Clone, Default)]
pub struct Providers(BTreeMap<String, Arc<dyn PaymentProvider>>);

impl Providers {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// These and one more. A provider of the same name is replaced.
    #[must_use]
    pub fn with(mut self, provider: impl PaymentProvider + 'static) -> Self {
        self.0.insert(provider.name().to_owned(), Arc::new(provider));
        self
    }

    /// The provider of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<dyn PaymentProvider>> {
        self.0.get(name).cloned()
    }

    /// The names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl std::fmt::Debug for Providers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manual::ManualProvider;

    #[test]
    fn markers_lead_back_to_their_leg() {
        let leg_id = LegId::generate();
        let request = RefundRequest {
            leg_id,
            provider_payment_id: "pi_1".into(),
            amount: Money::new(Currency::EUR, 1),
            idempotency_key: "key".into(),
            reason: "damaged".into(),
            metadata: BTreeMap::new(),
        };
        assert_eq!(leg_of_marker(&request.marker()), Some(leg_id));
        assert_eq!(leg_of_marker("waybill-leg:"), None);
        assert_eq!(leg_of_marker(&leg_id.to_string()), None);
    }

    #[test]
    fn only_an_unknown_outcome_may_have_paid() {
        assert!(ProviderError::refused("a", "b").surely_did_nothing());
        assert!(ProviderError::transient("a", None).surely_did_nothing());
        assert!(!ProviderError::unknown("timeout").surely_did_nothing());
    }

    #[test]
    fn providers_are_found_by_name() {
        let providers = Providers::new().with(ManualProvider);
        assert_eq!(
            providers.get("manual").map(|p| p.name().to_owned()),
            Some("manual".into())
        );
        assert!(providers.get("stripe").is_none());
        assert_eq!(format!("{providers:?}"), r#"{"manual"}"#);
    }
}
