//! Errors of use cases as gRPC statuses, in the one shape that all services promise.
//!
//! A status carries exactly one `google.rpc.ErrorInfo` (reason in UPPER_SNAKE, domain `<service>.waybill`), a `BadRequest`
//! that names the bad fields, a `PreconditionFailure`, and a `RetryInfo` where waiting helps. An INTERNAL error tells the
//! caller nothing but the trace id; its causes go to the log, once.
//!
//! What it refuses to do: know the errors of a database or a service. Those implement [`Fault`].

use std::borrow::Cow;
use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, ErrorInfo, FieldViolation, StatusExt as _};
use waybill_kernel::check::Violations;
use waybill_runtime::telemetry;

/// An error that can be shown to a caller.
///
/// `Display` is the message the caller reads: lower case, names the value and the way out, no personal data.
pub trait Fault: Error + Send + Sync {
    /// The status code.
    fn code(&self) -> Code;
    /// What went wrong, as a constant that programs compare: `ORDER_NOT_FOUND`.
    fn reason(&self) -> Cow<'static, str>;
    /// Who says so: `order.waybill`.
    fn domain(&self) -> &'static str;
    /// The fields that are wrong.
    fn violations(&self) -> Option<&Violations> {
        None
    }
    /// What must hold first: its type (`ORDER_STATUS`), its subject (the id), its description.
    fn precondition(&self) -> Option<(String, String, String)> {
        None
    }
    /// When trying again can help.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
    /// More for programs, e.g. `("order_id", "…")`. No personal data.
    fn metadata(&self) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// The status of an error.
///
/// INTERNAL, UNKNOWN and DATA_LOSS are logged here with all their causes, so log them nowhere else.
pub fn to_status(fault: &dyn Fault) -> Status {
    let reason = fault.reason();
    let hidden = matches!(fault.code(), Code::Internal | Code::Unknown | Code::DataLoss);
    if hidden {
        tracing::error!(reason = %reason, error = causes(fault), "a call failed inside");
        return internal(fault.domain(), telemetry::trace_id(&tracing::Span::current()));
    }
    let mut refusal = Refusal::new(fault.code(), fault.domain(), &reason, fault.to_string());
    refusal.metadata = fault.metadata().into_iter().collect();
    refusal.violations = fault.violations();
    refusal.precondition = fault.precondition();
    refusal.retry_after = fault.retry_after();
    refusal.into_status()
}

/// The status of everything that is nobody's business outside.
pub(crate) fn internal(domain: &str, trace: Option<String>) -> Status {
    let message = match &trace {
        Some(id) => format!("internal error; ask the operator with trace id {id}"),
        None => "internal error".to_owned(),
    };
    let mut refusal = Refusal::new(Code::Internal, domain, "INTERNAL", message);
    refusal.metadata = trace.map(|id| ("trace_id".to_owned(), id)).into_iter().collect();
    refusal.into_status()
}

fn causes(error: &dyn Fault) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// The reason of a status, when it has one.
pub fn reason(status: &Status) -> Option<String> {
    error_info(status).map(|info| info.reason)
}

/// The `ErrorInfo` of a status, when it has one.
pub fn error_info(status: &Status) -> Option<ErrorInfo> {
    status.get_details_error_info()
}

/// The fields a status complains about.
pub fn bad_fields(status: &Status) -> Vec<(String, String)> {
    let request = status.get_details_bad_request();
    let violations = request
        .map(|request| request.field_violations)
        .unwrap_or_default();
    violations
        .into_iter()
        .map(|violation| (violation.field, violation.description))
        .collect()
}

/// How long a status asks to wait before the next try.
pub fn retry_after(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|info| info.retry_delay)
}

/// The parts of a status that this crate makes itself.
pub(crate) struct Refusal<'a> {
    code: Code,
    domain: &'a str,
    reason: &'a str,
    message: String,
    pub(crate) violations: Option<&'a Violations>,
    pub(crate) precondition: Option<(String, String, String)>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) metadata: HashMap<String, String>,
}

/// All details of a status travel in one header, and peers refuse header lists beyond 16 KiB. Violations take at most
/// this many bytes of it; the rest is counted.
const VIOLATION_BYTES: usize = 6 * 1024;
/// The message travels twice.
const MESSAGE_BYTES: usize = 1024;

impl<'a> Refusal<'a> {
    pub(crate) fn new(code: Code, domain: &'a str, reason: &'a str, message: impl Into<String>) -> Self {
        Refusal {
            code,
            domain,
            reason,
            message: message.into(),
            violations: None,
            precondition: None,
            retry_after: None,
            metadata: HashMap::new(),
        }
    }

    pub(crate) fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    pub(crate) fn violations(mut self, violations: &'a Violations) -> Self {
        self.violations = Some(violations);
        self
    }

    pub(crate) fn into_status(self) -> Status {
        let mut details = ErrorDetails::with_error_info(self.reason, self.domain, self.metadata);
        if let Some(violations) = self.violations.filter(|violations| !violations.is_empty()) {
            details.set_bad_request(field_violations(violations));
        }
        if let Some((kind, subject, description)) = self.precondition {
            details.add_precondition_failure_violation(kind, subject, description);
        }
        if let Some(delay) = self.retry_after {
            details.set_retry_info(Some(delay));
        }
        Status::with_error_details(self.code, cut(self.message, MESSAGE_BYTES), details)
    }
}

fn field_violations(violations: &Violations) -> Vec<FieldViolation> {
    let mut listed = Vec::new();
    let mut bytes = 0;
    for violation in violations.iter() {
        bytes += violation.field.len() + violation.description.len() + 8;
        if bytes > VIOLATION_BYTES && !listed.is_empty() {
            let more = violations.len() - listed.len();
            listed.push(FieldViolation::new("", format!("and {more} more fields")));
            break;
        }
        listed.push(FieldViolation::new(
            cut(violation.field.clone(), VIOLATION_BYTES / 4),
            cut(violation.description.clone(), VIOLATION_BYTES / 4),
        ));
    }
    listed
}

fn cut(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
        text.push('…');
    }
    text
}
