//! What is asked of a payment that is authorised, and what a provider says of a payment.
//!
//! Money moves in at most three steps: it is authorised (held), captured (taken, wholly or in parts), and what is not
//! captured is voided (released). The caller keeps the discipline of refunds: intent and key are committed before a call,
//! and an unknown outcome is resolved by asking. Besides, it has *one* capture or void of a payment on its way at a time
//! and names in each capture what the earlier ones took: a provider that knows no keys can then still tell whether a
//! capture was done.

use waybill_kernel::money::Money;

/// The reason of a provider that cannot capture by call.
pub const CAPTURE_NOT_SUPPORTED: &str = "capture_not_supported";
/// The reason of a provider that cannot void by call.
pub const VOID_NOT_SUPPORTED: &str = "void_not_supported";
/// The reason of a provider that cannot say what it has of a payment.
pub const LOOKUP_NOT_SUPPORTED: &str = "lookup_not_supported";

/// One capture, as a provider is asked to do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureRequest {
    /// The provider's id of the authorised payment.
    pub provider_payment_id: String,
    /// How much to take: positive, in the currency of the payment.
    pub amount: Money,
    /// What the earlier captures of this payment took, all of them settled; zero for the first.
    pub captured_before: Money,
    /// True when this is the last: what is left of the authorisation is released.
    pub is_final: bool,
    /// Committed before the call, at most 255 characters; the same for every repetition of this capture.
    pub idempotency_key: String,
}

/// The release of what is authorised and not captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoidRequest {
    /// The provider's id of the authorised payment.
    pub provider_payment_id: String,
    /// Committed before the call, at most 255 characters; the same for every repetition of this void.
    pub idempotency_key: String,
}

/// A capture as the provider has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderCapture {
    /// The provider's id of the capture; another for each capture of a payment.
    pub provider_capture_id: String,
    /// How far it is.
    pub state: StepState,
}

/// A void as the provider has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderVoid {
    /// The provider's id of the void.
    pub provider_void_id: String,
    /// How far it is.
    pub state: StepState,
}

/// How far a capture or a void is at its provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepState {
    /// Accepted, not settled.
    Pending,
    /// Done.
    Succeeded,
    /// Nothing was taken or released.
    Failed {
        /// The provider's reason as a key, such as `"gateway_declined"`.
        reason: String,
    },
}

/// A payment as the provider has it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderPayment {
    /// The provider's id of it.
    pub provider_payment_id: String,
    /// What was authorised in all; `None` where the provider does not say.
    pub authorized: Option<Money>,
    /// What was taken.
    pub captured: Money,
    /// What can still be taken.
    pub capturable: Money,
    /// What was authorised and is released.
    pub voided: Money,
    /// What was paid back, or is about to be.
    pub refunded: Money,
}
