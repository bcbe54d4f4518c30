//! What is sent to Shopify and what it answers.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use waybill_kernel::money::{Currency, Money};

use crate::decimal;
use crate::http::{Answer, retry_after};
use crate::payment::{CaptureRequest, ProviderCapture, StepState};
use crate::provider::{ProviderError, RefundState};

/// The transactions of an order.
pub(super) const ORDER: &str = "query Order($id: ID!) { order(id: $id) { transactions(first: 250) { \
    id kind status gateway parentTransaction { id } amountSet { presentmentMoney { amount currencyCode } } } } }";
/// The refunds of an order and their notes.
pub(super) const REFUNDS: &str =
    "query Refunds($id: ID!) { order(id: $id) { refunds(first: 250) { id note } } }";
/// A refund and what became of its money.
pub(super) const REFUND: &str = "query Refund($id: ID!) { refund(id: $id) { id transactions(first: 50) { nodes { \
    id kind status amountSet { presentmentMoney { amount currencyCode } } } } } }";
/// Pays back. The key is demanded from version 2026-04 on.
pub(super) const REFUND_CREATE: &str = "mutation Refund($input: RefundInput!, $key: String!) { \
    refundCreate(input: $input) @idempotent(key: $key) { refund { id transactions(first: 50) { nodes { \
    id kind status amountSet { presentmentMoney { amount currencyCode } } } } } userErrors { field message } } }";
/// Takes what is authorised.
pub(super) const ORDER_CAPTURE: &str = "mutation Capture($input: OrderCaptureInput!) { \
    orderCapture(input: $input) { transaction { \
    id kind status amountSet { presentmentMoney { amount currencyCode } } } userErrors { field message } } }";
/// Releases what is authorised.
pub(super) const TRANSACTION_VOID: &str = "mutation Void($id: ID!) { transactionVoid(parentTransactionId: $id) { \
    transaction { id kind status amountSet { presentmentMoney { amount currencyCode } } } \
    userErrors { field message code } } }";

#[derive(Debug, Deserialize)]
pub(super) struct OrderData {
    pub order: Option<WireOrder>,
}

#[derive(Debug, Deserialize)]
pub(super) struct WireOrder {
    pub transactions: Vec<WireTransaction>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RefundsData {
    pub order: Option<WireRefundList>,
}

#[derive(Debug, Deserialize)]
pub(super) struct WireRefundList {
    pub refunds: Vec<WireNote>,
}

#[derive(Debug, Deserialize)]
pub(super) struct WireNote {
    pub id: String,
    #[serde(default)]
    pub note: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct FoundRefund {
    pub refund: Option<WireRefund>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RefundData {
    #[serde(rename = "refundCreate")]
    pub refund_create: RefundPayload,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RefundPayload {
    pub refund: Option<WireRefund>,
    pub user_errors: Vec<UserError>,
}

#[derive(Debug, Deserialize)]
pub(super) struct CaptureData {
    #[serde(rename = "orderCapture")]
    pub order_capture: TransactionPayload,
}

#[derive(Debug, Deserialize)]
pub(super) struct VoidData {
    #[serde(rename = "transactionVoid")]
    pub transaction_void: TransactionPayload,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TransactionPayload {
    pub transaction: Option<WireTransaction>,
    pub user_errors: Vec<UserError>,
}

/// Why a mutation did nothing.
#[derive(Debug, Deserialize)]
pub(super) struct UserError {
    #[serde(default)]
    pub message: String,
    /// Only some mutations give one.
    #[serde(default)]
    pub code: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct WireRefund {
    pub id: String,
    pub transactions: WireNodes,
}

#[derive(Debug, Deserialize)]
pub(super) struct WireNodes {
    pub nodes: Vec<WireTransaction>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WireTransaction {
    pub id: String,
    pub kind: String,
    pub status: String,
    #[serde(default)]
    pub gateway: Option<String>,
    #[serde(default)]
    pub parent_transaction: Option<WireParent>,
    amount_set: WireAmountSet,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct WireParent {
    pub id: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireAmountSet {
    presentment_money: WireMoney,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMoney {
    amount: String,
    currency_code: String,
}

impl WireTransaction {
    pub fn money(&self) -> Result<Money, ProviderError> {
        let money = &self.amount_set.presentment_money;
        Currency::parse(&money.currency_code)
            .and_then(|currency| decimal::parse(&money.amount, currency))
            .map_err(|_| ProviderError::unknown("amount_malformed"))
    }

    /// How far it is. A status we do not know is not settled.
    pub fn state(&self) -> StepState {
        match self.status.as_str() {
            "SUCCESS" => StepState::Succeeded,
            "FAILURE" | "ERROR" => StepState::Failed {
                reason: "gateway_declined".to_owned(),
            },
            _ => StepState::Pending,
        }
    }

    /// Whether its money has moved, or is about to.
    pub fn counts(&self) -> bool {
        !matches!(self.state(), StepState::Failed { .. })
    }

    /// This transaction as the capture that was asked for.
    pub fn capture(self, request: &CaptureRequest) -> Result<ProviderCapture, ProviderError> {
        if self.money()? != request.amount {
            return Err(ProviderError::unknown("amount_differs"));
        }
        Ok(ProviderCapture {
            state: self.state(),
            provider_capture_id: self.id,
        })
    }
}

impl WireRefund {
    /// How much it pays, and how far that is. Transactions of one refund may go different ways: that is for a person.
    pub fn outcome(&self, currency: Currency) -> Result<(Money, RefundState), ProviderError> {
        let paying = || self.transactions.nodes.iter().filter(|one| one.kind == "REFUND");
        let amounts = paying()
            .map(WireTransaction::money)
            .collect::<Result<Vec<_>, _>>()?;
        let amount = Money::sum(currency, amounts).map_err(|_| ProviderError::unknown("amount_malformed"))?;
        let states: Vec<StepState> = paying().map(WireTransaction::state).collect();
        let all = |wanted: fn(&StepState) -> bool| states.iter().all(wanted);
        let state = if states.is_empty() {
            return Err(ProviderError::unknown("refund_without_transaction"));
        } else if all(|state| *state == StepState::Succeeded) {
            RefundState::Succeeded
        } else if all(|state| matches!(state, StepState::Failed { .. })) {
            RefundState::Failed {
                reason: "gateway_declined".to_owned(),
            }
        } else if states.contains(&StepState::Pending) {
            RefundState::Pending
        } else {
            return Err(ProviderError::unknown("refunded_in_part"));
        };
        Ok((amount, state))
    }
}

/// What a mutation made, or why it made nothing.
pub(super) fn created<T>(made: Option<T>, errors: &[UserError]) -> Result<T, ProviderError> {
    match (made, errors.first()) {
        (Some(made), None) => Ok(made),
        (None, Some(error)) => Err(user_error(error)),
        // Something was made *and* something is wrong.
        (Some(_), Some(_)) => Err(ProviderError::unknown("made_with_errors")),
        (None, None) => Err(ProviderError::unknown("answer_malformed")),
    }
}

/// Input was checked and turned down, except where the error speaks of the key: then another call with it may have paid.
/// `refundCreate` gives no codes, so its words must do.
fn user_error(error: &UserError) -> ProviderError {
    let code = error.code.as_deref().unwrap_or_default().to_ascii_lowercase();
    let words = error.message.to_ascii_lowercase();
    // The key is bound to a call that failed, and this was the same call: nothing was made, and nothing will be.
    if code == "idempotency_previous_attempt_failed"
        || (words.contains("previous attempt") && words.contains("failed"))
    {
        return ProviderError::refused("previous_attempt_failed", "an earlier call with this key failed");
    }
    if code.starts_with("idempotency") || words.contains("idempoten") || words.contains("in progress") {
        return ProviderError::unknown(if code.is_empty() {
            "idempotency_conflict".to_owned()
        } else {
            code
        });
    }
    let reason = if code.is_empty() {
        "user_error".to_owned()
    } else {
        code
    };
    ProviderError::refused(reason, error.message.chars().take(300).collect::<String>())
}

#[derive(Debug, Default, Deserialize)]
struct Envelope {
    #[serde(default)]
    data: Option<Value>,
    #[serde(default)]
    errors: Option<Value>,
    #[serde(default)]
    extensions: Option<Value>,
}

/// The data of an answer.
pub(super) fn read<T: DeserializeOwned>(answer: Answer) -> Result<T, ProviderError> {
    if answer.status != StatusCode::OK {
        return Err(classify(answer.status, &answer.headers));
    }
    let envelope: Envelope = answer.json()?;
    if let Some(errors) = &envelope.errors {
        return Err(graphql_error(errors, envelope.extensions.as_ref()));
    }
    let data = envelope
        .data
        .ok_or_else(|| ProviderError::unknown("answer_malformed"))?;
    serde_json::from_value(data).map_err(|_| ProviderError::unknown("answer_malformed"))
}

/// What a status other than 200 says about the effect of the call.
fn classify(status: StatusCode, headers: &HeaderMap) -> ProviderError {
    let reason = format!("http_{}", status.as_u16());
    match status.as_u16() {
        // Token, shop or version are wrong, or the shop is frozen: an operator mends it and the same call works.
        401 | 402 | 403 | 404 | 423 => ProviderError::transient(reason, retry_after(headers)),
        // Turned away at the door.
        429 | 430 => ProviderError::transient("rate_limit", retry_after(headers)),
        400 | 405..=422 => ProviderError::refused(reason, "the request was not understood"),
        _ => ProviderError::unknown(reason),
    }
}

/// Errors beside the data: of those, only what stands at the door surely had no effect.
fn graphql_error(errors: &Value, extensions: Option<&Value>) -> ProviderError {
    let code = errors
        .pointer("/0/extensions/code")
        .and_then(Value::as_str)
        .unwrap_or("error");
    match code {
        "THROTTLED" => ProviderError::transient("throttled", extensions.and_then(refill)),
        "ACCESS_DENIED" | "SHOP_INACTIVE" => ProviderError::transient(code.to_ascii_lowercase(), None),
        "MAX_COST_EXCEEDED" => ProviderError::refused("max_cost_exceeded", "the query costs too much"),
        _ => {
            let key = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let code: String = code.chars().filter(|c| key(*c)).take(60).collect();
            ProviderError::unknown(format!("graphql_{}", code.to_ascii_lowercase()))
        }
    }
}

/// How long it takes until the bucket holds what the query costs.
fn refill(extensions: &Value) -> Option<Duration> {
    let number = |path| extensions.pointer(path).and_then(Value::as_f64);
    let cost = number("/cost/requestedQueryCost")?;
    let there = number("/cost/throttleStatus/currentlyAvailable")?;
    let rate = number("/cost/throttleStatus/restoreRate").filter(|rate| *rate > 0.0)?;
    Duration::try_from_secs_f64(((cost - there) / rate).ceil().clamp(1.0, 60.0)).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_throttled_query_says_when_to_come_back() {
        let throttled = json!([{"message": "Throttled", "extensions": {"code": "THROTTLED"}}]);
        let cost = json!({"cost": {"requestedQueryCost": 202, "throttleStatus": {"currentlyAvailable": 102, "restoreRate": 50}}});
        assert_eq!(
            graphql_error(&throttled, Some(&cost)),
            ProviderError::transient("throttled", Some(Duration::from_secs(2)))
        );
        assert_eq!(
            graphql_error(&throttled, None),
            ProviderError::transient("throttled", None)
        );
        for odd in [json!("words"), json!([]), json!([{"message": "Internal error"}])] {
            assert!(!graphql_error(&odd, None).surely_did_nothing(), "{odd}");
        }
        let internal = json!([{"extensions": {"code": "INTERNAL_SERVER_ERROR"}}]);
        assert_eq!(
            graphql_error(&internal, None).reason(),
            "graphql_internal_server_error"
        );
    }

    #[test]
    fn errors_of_the_key_are_no_refusals() {
        let error = |message: &str, code: Option<&str>| {
            user_error(&UserError {
                message: message.to_owned(),
                code: code.map(str::to_owned),
            })
        };
        let unknown = [
            error("", Some("IDEMPOTENCY_KEY_PARAMETER_MISMATCH")),
            error(
                "The same idempotency key cannot be used with different operation parameters.",
                None,
            ),
            error("This request is currently in progress, please try again.", None),
        ];
        assert!(unknown.iter().all(|error| !error.surely_did_nothing()));
        let known = [
            error("", Some("IDEMPOTENCY_PREVIOUS_ATTEMPT_FAILED")),
            error("The previous attempt with this idempotency key failed.", None),
        ];
        assert!(
            known
                .iter()
                .all(|error| error.reason() == "previous_attempt_failed" && error.surely_did_nothing())
        );
        assert_eq!(
            error("Refund amount is too high", None),
            ProviderError::refused("user_error", "Refund amount is too high")
        );
        assert_eq!(
            error("no", Some("AUTH_NOT_VOIDABLE")).reason(),
            "auth_not_voidable"
        );
    }

    #[test]
    fn a_refund_is_what_its_transactions_are() {
        let outcome = |statuses: &[&str]| {
            let nodes: Vec<Value> = statuses
                .iter()
                .map(|status| {
                    json!({"id": "1", "kind": "REFUND", "status": status,
                           "amountSet": {"presentmentMoney": {"amount": "1.5", "currencyCode": "EUR"}}})
                })
                .collect();
            let refund = json!({"id": "r", "transactions": {"nodes": nodes}});
            let refund: WireRefund = serde_json::from_value(refund).expect("a refund");
            refund.outcome(Currency::EUR)
        };
        let eur = |minor| Money::new(Currency::EUR, minor);
        assert_eq!(
            outcome(&["SUCCESS", "SUCCESS"]),
            Ok((eur(300), RefundState::Succeeded))
        );
        assert_eq!(
            outcome(&["SUCCESS", "AWAITING_RESPONSE"]),
            Ok((eur(300), RefundState::Pending))
        );
        assert!(matches!(
            outcome(&["FAILURE"]),
            Ok((_, RefundState::Failed { .. }))
        ));
        assert_eq!(
            outcome(&["SUCCESS", "FAILURE"]),
            Err(ProviderError::unknown("refunded_in_part"))
        );
        assert_eq!(
            outcome(&[]),
            Err(ProviderError::unknown("refund_without_transaction"))
        );
    }
}
