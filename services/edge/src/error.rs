//! What can go wrong between HTTP and the services, and the answer it gets.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tonic::Code;

/// An error of the edge. Its text names no person and repeats no body.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such page, store or webhook.
    #[error("there is nothing here")]
    NotFound,
    /// The sender could not prove who it is.
    #[error("the signature is missing or does not match")]
    NotVerified,
    /// The body cannot be read as what the sender's documentation says.
    #[error("the body cannot be read: {0}")]
    Malformed(String),
    /// A service said no, or could not answer.
    #[error("a service answered {:?}", .0.code())]
    Service(#[from] tonic::Status),
    /// A service said no for now: told again, it may say yes.
    #[error("a service answered {:?}, for now", .0.code())]
    Later(#[source] tonic::Status),
    /// A page could not be made.
    #[error("the page could not be made")]
    Page(#[from] minijinja::Error),
}

impl Error {
    /// A webhook's sender repeats on anything but 2xx: what repeating cannot mend is 4xx, what it can is 5xx.
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::NotVerified => StatusCode::UNAUTHORIZED,
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::Service(status) => match status.code() {
                Code::NotFound => StatusCode::NOT_FOUND,
                Code::InvalidArgument | Code::FailedPrecondition => StatusCode::UNPROCESSABLE_ENTITY,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            },
            Self::Later(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Page(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = self.status();
        if status.is_server_error() {
            tracing::warn!(
                error = &self as &dyn std::error::Error,
                "a request could not be answered"
            );
        }
        (status, Json(serde_json::json!({ "error": self.to_string() }))).into_response()
    }
}
