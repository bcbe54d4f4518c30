//! Errors as statuses.

use std::borrow::Cow;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use waybill_kernel::check::Violations;
use waybill_rpc::fault::{self, Fault, to_status};

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the request has faults: {0}")]
    Invalid(Violations),
    #[error("order o-1 is shipped, only open ones can be cancelled")]
    Shipped,
    #[error("the order is not known here yet")]
    Behind,
    #[error("the books are broken")]
    Broken(#[source] std::io::Error),
}

impl Fault for Error {
    fn code(&self) -> Code {
        match self {
            Error::Invalid(_) => Code::InvalidArgument,
            Error::Shipped => Code::FailedPrecondition,
            Error::Behind => Code::Unavailable,
            Error::Broken(_) => Code::Internal,
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        match self {
            Error::Invalid(_) => "INVALID_REQUEST".into(),
            Error::Shipped => "ORDER_NOT_CANCELLABLE".into(),
            Error::Behind => "ORDER_NOT_SEEN_YET".into(),
            Error::Broken(_) => "JOURNAL_UNBALANCED".into(),
        }
    }

    fn domain(&self) -> &'static str {
        "order.waybill"
    }

    fn violations(&self) -> Option<&Violations> {
        match self {
            Error::Invalid(violations) => Some(violations),
            _ => None,
        }
    }

    fn precondition(&self) -> Option<(String, String, String)> {
        matches!(self, Error::Shipped).then(|| {
            (
                "ORDER_STATUS".into(),
                "o-1".into(),
                "SHIPPED, allowed: OPEN".into(),
            )
        })
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(self, Error::Behind).then(|| Duration::from_millis(100))
    }

    fn metadata(&self) -> Vec<(String, String)> {
        vec![("order_id".into(), "o-1".into())]
    }
}

/// The size of a status on the wire, as HTTP/2 counts it.
fn header_bytes(status: &Status) -> usize {
    let mut headers = http::HeaderMap::new();
    status.add_header(&mut headers).expect("a status is headers");
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum()
}

#[test]
fn every_part_of_a_fault_arrives() {
    let mut violations = Violations::new();
    violations.push("lines[3].quantity", "is 0; give 1 or more");
    violations.push("currency_code", "is required");
    let status = to_status(&Error::Invalid(violations));
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status
            .message()
            .starts_with("the request has faults: lines[3].quantity: is 0"),
        "{status:?}"
    );
    let info = fault::error_info(&status).expect("details");
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        ("INVALID_REQUEST", "order.waybill")
    );
    assert_eq!(info.metadata["order_id"], "o-1");
    let fields = fault::bad_fields(&status);
    assert_eq!(
        fields[0],
        ("lines[3].quantity".to_owned(), "is 0; give 1 or more".to_owned())
    );
    assert_eq!(fields.len(), 2);
    assert_eq!(fault::retry_after(&status), None);

    let status = to_status(&Error::Shipped);
    let failed = status
        .get_details_precondition_failure()
        .expect("a precondition")
        .violations
        .remove(0);
    assert_eq!(
        (failed.r#type.as_str(), failed.subject.as_str()),
        ("ORDER_STATUS", "o-1")
    );
    assert_eq!(
        fault::retry_after(&to_status(&Error::Behind)),
        Some(Duration::from_millis(100))
    );
    for status in [status, to_status(&Error::Behind)] {
        let infos = status
            .get_error_details_vec()
            .into_iter()
            .filter(|detail| matches!(detail, tonic_types::ErrorDetail::ErrorInfo(_)));
        assert_eq!(infos.count(), 1);
    }
}

#[test]
fn an_internal_fault_says_nothing() {
    let status = to_status(&Error::Broken(std::io::Error::other("password hunter2")));
    assert_eq!(
        (status.code(), status.message()),
        (Code::Internal, "internal error")
    );
    let info = fault::error_info(&status).expect("details");
    assert_eq!((info.reason.as_str(), info.metadata.len()), ("INTERNAL", 0));
    assert!(!format!("{status:?}").contains("hunter2"));
}

#[test]
fn ten_thousand_violations_still_fit_into_a_header() {
    let mut violations = Violations::new();
    for line in 0..10_000 {
        violations.push(
            format!("order.lines[{line}].unit_price.currency_code"),
            "\u{1F4B0} is no currency; write 3 letters",
        );
    }
    let status = to_status(&Error::Invalid(violations));
    assert!(
        header_bytes(&status) < 16 * 1024,
        "{} bytes",
        header_bytes(&status)
    );
    let fields = fault::bad_fields(&status);
    assert!(fields.len() > 50, "{} are named", fields.len());
    let rest = format!("and {} more fields", 10_000 - (fields.len() - 1));
    assert_eq!(
        fields.last().map(|(_, description)| description.as_str()),
        Some(rest.as_str())
    );

    let mut violations = Violations::new();
    violations.push("f".repeat(100_000), "d".repeat(100_000));
    assert!(header_bytes(&to_status(&Error::Invalid(violations))) < 16 * 1024);
}
