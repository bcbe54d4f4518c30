//! Answers of the sandbox's API, in Stripe's form, and what faults make of them.

use std::future::pending;
use std::io;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::fault::Fault;

/// Bytes of an answer that is too large.
const HUGE: usize = 5 << 20;

/// The answer of a fault that strikes before anything happens.
pub(super) async fn struck_before(fault: Option<&Fault>, stop: &CancellationToken) -> Option<Response> {
    match fault? {
        Fault::TimeoutBefore => Some(never(stop).await),
        Fault::CutBefore => Some(cut(&[])),
        _ => None,
    }
}

/// What a fault leaves of an answer to a call that was executed.
pub(super) async fn struck_after(
    fault: Option<&Fault>,
    answer: Answer,
    stop: &CancellationToken,
) -> Response {
    match fault {
        Some(Fault::TimeoutAfter) => never(stop).await,
        Some(Fault::CutAfter) => cut(&[]),
        Some(Fault::HalfAfter) => cut(&answer.body.as_bytes()[..answer.body.len() / 2]),
        Some(Fault::GarbledAfter) => {
            let body = "<html>maintenance</html>".to_owned();
            Answer { body, ..answer }.into_response()
        }
        Some(Fault::HugeAfter) => {
            // Still JSON: only its length is wrong.
            let body = format!("{}{}", answer.body, " ".repeat(HUGE));
            Answer { body, ..answer }.into_response()
        }
        _ => answer.into_response(),
    }
}

/// Holds the connection until the caller gives up, or the sandbox stops.
async fn never(stop: &CancellationToken) -> Response {
    tokio::select! {
        () = pending() => {}
        () = stop.cancelled() => {}
    }
    cut(&[])
}

/// Promises an answer, sends the beginning of it, and breaks the connection.
fn cut(beginning: &[u8]) -> Response {
    let sent: io::Result<Bytes> = Ok(Bytes::copy_from_slice(beginning));
    let broken: io::Result<Bytes> = Err(io::ErrorKind::ConnectionReset.into());
    Body::from_stream(stream::iter([sent, broken])).into_response()
}

/// An answer as it is stored under an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub status: u16,
    pub body: String,
    /// Whether it was given before.
    pub replayed: bool,
}

impl Answer {
    pub fn ok(object: &serde_json::Value) -> Self {
        Self {
            status: 200,
            body: object.to_string(),
            replayed: false,
        }
    }

    pub fn internal_error() -> Self {
        ApiError {
            status: 500,
            kind: "api_error",
            code: None,
            param: None,
            message: "An unknown error occurred".to_owned(),
            retry_after: None,
        }
        .answer()
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, [(header::CONTENT_TYPE, "application/json")], self.body).into_response();
        if self.replayed {
            response
                .headers_mut()
                .insert("Idempotent-Replayed", HeaderValue::from_static("true"));
        }
        response
    }
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    pub status: u16,
    pub kind: &'static str,
    pub code: Option<String>,
    pub param: Option<String>,
    pub message: String,
    /// Seconds for the `Retry-After` header.
    pub retry_after: Option<u64>,
}

impl ApiError {
    pub fn invalid(code: &str, param: &str, message: &str) -> Self {
        Self {
            status: 400,
            kind: "invalid_request_error",
            code: Some(code.to_owned()),
            param: Some(param.to_owned()),
            message: message.to_owned(),
            retry_after: None,
        }
    }

    pub fn missing(param: &str, id: &str) -> Self {
        Self {
            status: 404,
            ..Self::invalid("resource_missing", param, &format!("No such {param}: '{id}'"))
        }
    }

    pub fn unauthorized() -> Self {
        let message = "Invalid API Key provided";
        Self {
            status: 401,
            code: None,
            param: None,
            ..Self::invalid("", "", message)
        }
    }

    pub fn key_in_use() -> Self {
        let message = "There is currently another in-progress request using this Idempotent Key.";
        Self {
            status: 409,
            param: None,
            ..Self::invalid("idempotency_key_in_use", "", message)
        }
    }

    pub fn key_reused() -> Self {
        let message = "Keys for idempotent requests can only be used with the same parameters they were first used with.";
        Self {
            kind: "idempotency_error",
            code: None,
            param: None,
            ..Self::invalid("", "", message)
        }
    }

    pub fn declined(code: &str) -> Self {
        let message = "The payment was declined.";
        Self {
            status: 402,
            kind: "card_error",
            param: None,
            ..Self::invalid(code, "", message)
        }
    }

    pub fn rate_limited(retry_after: u64) -> Self {
        let limited = Self::invalid("rate_limit", "", "Request rate limit exceeded.");
        Self {
            status: 429,
            param: None,
            retry_after: Some(retry_after),
            ..limited
        }
    }

    pub fn answer(&self) -> Answer {
        let body = json!({"error": {
            "type": self.kind, "code": self.code, "param": self.param, "message": self.message,
        }});
        Answer {
            status: self.status,
            body: body.to_string(),
            replayed: false,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.answer().into_response();
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
