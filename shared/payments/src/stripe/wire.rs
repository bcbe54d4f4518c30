//! What Stripe sends, and what it means.

use std::collections::BTreeMap;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::Deserialize;

use crate::http::retry_after;
use crate::provider::{ProviderError, RefundState};

/// Metadata key of our marker.
pub(crate) const MARKER_KEY: &str = "waybill_marker";
/// Metadata key of the idempotency key: tells the attempts of a leg apart.
pub(crate) const ATTEMPT_KEY: &str = "waybill_attempt";
/// Metadata key of our reason; Stripe's own knows three values.
pub(crate) const REASON_KEY: &str = "waybill_reason";

/// A refund object; fields we do not use are skipped.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct WireRefund {
    pub id: String,
    pub amount: i64,
    pub currency: String,
    #[serde(default)]
    pub status: Option<String>,
    #[serde(default)]
    pub failure_reason: Option<String>,
    #[serde(default)]
    pub metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    pub payment_intent: Option<String>,
    #[serde(default)]
    pub charge: Option<String>,
    /// Seconds of the epoch.
    #[serde(default)]
    pub created: i64,
}

impl WireRefund {
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.as_ref()?.get(key).map(String::as_str)
    }

    /// How far the refund is. A status we do not know is not settled.
    pub fn state(&self) -> RefundState {
        match self.status.as_deref() {
            Some("succeeded") => RefundState::Succeeded,
            Some("failed") => {
                let reason = self
                    .failure_reason
                    .clone()
                    .unwrap_or_else(|| "unknown".to_owned());
                RefundState::Failed { reason }
            }
            Some("canceled") => RefundState::Failed {
                reason: "canceled".to_owned(),
            },
            _ => RefundState::Pending,
        }
    }
}

/// A page of refunds, newest first.
#[derive(Debug, Deserialize)]
pub(crate) struct WireList {
    pub data: Vec<WireRefund>,
    #[serde(default)]
    pub has_more: bool,
}

#[derive(Debug, Default, Deserialize)]
struct WireErrorBody {
    #[serde(default)]
    error: WireError,
}

#[derive(Debug, Default, Deserialize)]
struct WireError {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: String,
}

/// What an answer other than 2xx says about the effect of the call.
///
/// Stripe executes a call under its idempotency key only after authentication, rate limiting and the check of the
/// parameters; a failure before that left nothing behind, and one after that is stored under the key.
pub(crate) fn classify(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ProviderError {
    let error = serde_json::from_slice::<WireErrorBody>(body)
        .unwrap_or_default()
        .error;
    let or_status = |key: &str| {
        if key.is_empty() {
            format!("http_{}", status.as_u16())
        } else {
            key.to_owned()
        }
    };
    let reason = or_status(error.code.as_deref().unwrap_or(&error.kind));
    match status.as_u16() {
        // The key was used with other parameters: *that* call may have paid.
        400 if error.kind == "idempotency_error" => ProviderError::unknown("idempotency_key_reused"),
        // Our own credentials are wrong; an operator mends them and the same call works.
        401 | 403 => ProviderError::transient(
            or_status(error.code.as_deref().unwrap_or_default()),
            retry_after(headers),
        ),
        // A call with the same key is being executed right now.
        409 => ProviderError::unknown(reason),
        429 => ProviderError::transient(
            or_status(error.code.as_deref().unwrap_or("rate_limit")),
            retry_after(headers),
        ),
        // Stripe reached for somebody else and got no answer.
        424 => ProviderError::unknown(reason),
        400..=499 => ProviderError::refused(reason, error.message.chars().take(300).collect::<String>()),
        // 5xx; and whatever a proxy in between may answer.
        _ => ProviderError::unknown(format!("http_{}", status.as_u16())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::header::RETRY_AFTER;

    use super::*;

    fn classified(status: u16, body: &str) -> ProviderError {
        classify(
            StatusCode::from_u16(status).expect("a status"),
            &HeaderMap::new(),
            body.as_bytes(),
        )
    }

    fn error(kind: &str, code: &str) -> String {
        serde_json::json!({"error": {"type": kind, "code": code, "message": "words"}}).to_string()
    }

    #[test]
    fn answers_mean_what_stripe_documents() {
        let refused = classified(400, &error("invalid_request_error", "charge_already_refunded"));
        assert_eq!(
            refused,
            ProviderError::refused("charge_already_refunded", "words")
        );
        assert_eq!(
            classified(402, &error("card_error", "card_declined")).reason(),
            "card_declined"
        );
        assert_eq!(
            classified(404, &error("invalid_request_error", "resource_missing")).reason(),
            "resource_missing"
        );

        assert_eq!(
            classified(401, &error("invalid_request_error", "")).reason(),
            "http_401"
        );
        assert!(matches!(classified(401, "{}"), ProviderError::Transient { .. }));
        assert_eq!(
            classified(429, &error("", "lock_timeout")),
            ProviderError::transient("lock_timeout", None)
        );
        assert_eq!(classified(429, "{}").reason(), "rate_limit");

        assert_eq!(
            classified(400, &error("idempotency_error", "")),
            ProviderError::unknown("idempotency_key_reused")
        );
        assert_eq!(
            classified(409, &error("invalid_request_error", "idempotency_key_in_use")),
            ProviderError::unknown("idempotency_key_in_use")
        );
        for status in [301, 424, 500, 502, 503, 504] {
            assert!(!classified(status, "<html>").surely_did_nothing(), "{status}");
        }
    }

    #[test]
    fn answers_that_are_no_json_are_named_by_their_status() {
        assert_eq!(
            classified(400, "<html>bad gateway</html>"),
            ProviderError::refused("http_400", "")
        );
        assert_eq!(classified(500, "\u{0}").reason(), "http_500");
    }

    #[test]
    fn waits_as_long_as_asked_within_reason() {
        let wait = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().expect("a header"));
            retry_after(&headers)
        };
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("99999999"), Some(Duration::from_secs(86_400)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), None);
        assert_eq!(wait("-1"), None);
    }

    #[test]
    fn statuses_are_an_open_list() {
        let state = |status: &str| {
            let body = serde_json::json!({"id": "re_1", "amount": 1, "currency": "eur", "status": status});
            serde_json::from_value::<WireRefund>(body)
                .expect("a refund")
                .state()
        };
        assert_eq!(state("succeeded"), RefundState::Succeeded);
        assert_eq!(state("pending"), RefundState::Pending);
        assert_eq!(state("requires_action"), RefundState::Pending);
        assert_eq!(
            state("failed"),
            RefundState::Failed {
                reason: "unknown".into()
            }
        );
        assert_eq!(
            state("canceled"),
            RefundState::Failed {
                reason: "canceled".into()
            }
        );
        assert_eq!(state("something_new"), RefundState::Pending);
    }
}
