//! The body of a request, inspected message by message before the service decodes it.
//!
//! Each gRPC message is held back until it is whole and its tenant is checked; then it goes on as it came. Works for one
//! message as for a stream of them. The first refusal ends the body; it is also kept aside, so that the caller gets it
//! whatever the service makes of the broken stream.
//!
//! What it refuses to do: hold more than one message, or one beyond the size limit. Compressed messages are refused: what
//! cannot be read cannot be checked.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tonic::{Code, Status};
use waybill_kernel::check::Violations;
use waybill_proto::waybill::r#type::v1::Tenancy;

use super::scan::tenant_fields;
use crate::auth::Caller;
use crate::fault::Refusal;

/// A gRPC message is preceded by a flag (compressed or not) and four bytes of length.
const HEADER: usize = 5;

/// What the messages of one call are checked against.
pub(super) struct Check {
    pub(super) caller: Arc<Caller>,
    pub(super) tenancy: Tenancy,
    pub(super) client_streaming: bool,
    pub(super) max_message_bytes: usize,
    pub(super) domain: Arc<str>,
}

/// The first refusal of a body.
pub(super) type Refused = Arc<OnceLock<Status>>;

/// A body whose messages are checked.
pub(super) struct Inspected {
    inner: tonic::body::Body,
    check: Check,
    buffer: BytesMut,
    messages: u64,
    ended: bool,
    refused: Refused,
}

impl Inspected {
    pub(super) fn new(inner: tonic::body::Body, check: Check, refused: Refused) -> Self {
        Inspected {
            inner,
            check,
            buffer: BytesMut::new(),
            messages: 0,
            ended: false,
            refused,
        }
    }

    /// The next whole message with its header, checked, when it has arrived.
    fn next_message(&mut self) -> Result<Option<Bytes>, Status> {
        if self.buffer.len() < HEADER {
            return Ok(None);
        }
        let mut header = &self.buffer[..HEADER];
        let compressed = header.get_u8() != 0;
        let length = header.get_u32() as usize;
        self.check.header(compressed, length)?;
        if self.buffer.len() < HEADER + length {
            self.buffer.reserve(HEADER + length - self.buffer.len());
            return Ok(None);
        }
        let message = self.buffer.split_to(HEADER + length).freeze();
        self.check.message(&message[HEADER..])?;
        self.messages += 1;
        Ok(Some(message))
    }

    /// What is wrong with a body that ended here.
    fn end(&self) -> Result<(), Status> {
        if !self.buffer.is_empty() {
            return Err(self.check.refuse(
                Code::InvalidArgument,
                "MESSAGE_TRUNCATED",
                "the stream ended inside of a message",
            ));
        }
        if self.messages == 0 && !self.check.client_streaming {
            return Err(self.check.refuse(
                Code::InvalidArgument,
                "MESSAGE_MISSING",
                "the call carries no request message",
            ));
        }
        Ok(())
    }

    fn fail(&mut self, status: Status) -> Status {
        self.ended = true;
        self.buffer.clear();
        // Only the first refusal counts; there is none after it.
        let _ = self.refused.set(status.clone());
        status
    }
}

impl Body for Inspected {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            match self.next_message() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(self.fail(status)))),
            }
            match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.buffer.extend_from_slice(&data),
                    // Trailers of a request mean nothing in gRPC, but they are the end.
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                // The connection broke; there is nobody to answer.
                Some(Err(status)) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(status)));
                }
                None => {
                    let end = self.end();
                    self.ended = true;
                    return Poll::Ready(end.err().map(|status| Err(self.fail(status))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // Also an empty body must be polled, to be refused.
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}

impl Check {
    fn header(&self, compressed: bool, length: usize) -> Result<(), Status> {
        if compressed {
            return Err(self.refuse(
                Code::Unimplemented,
                "COMPRESSION_NOT_SUPPORTED",
                "compressed messages are not accepted; send them with encoding \"identity\"",
            ));
        }
        if length > self.max_message_bytes {
            let message = format!(
                "a message of {length} bytes is over the limit of {} bytes",
                self.max_message_bytes
            );
            return Err(self.refuse(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message));
        }
        Ok(())
    }

    fn message(&self, message: &[u8]) -> Result<(), Status> {
        let store_bound = match self.tenancy {
            Tenancy::Store => true,
            Tenancy::Merchant => false,
            // Bound by the token alone, which was checked before.
            Tenancy::System | Tenancy::Unspecified => return Ok(()),
        };
        let named = tenant_fields(message).map_err(|error| {
            self.refuse(
                Code::InvalidArgument,
                "MESSAGE_MALFORMED",
                format!("the request is no valid message: {error}"),
            )
        })?;
        let mut violations = Violations::new();
        let merchant = named.merchant(&mut violations);
        let store = if store_bound {
            named.store(&mut violations)
        } else {
            None
        };
        if !violations.is_empty() {
            let message = violations.to_string();
            return Err(
                Refusal::new(Code::InvalidArgument, &self.domain, "TENANT_INVALID", message)
                    .violations(&violations)
                    .into_status(),
            );
        }
        if merchant.is_some_and(|merchant| !self.caller.may_name_merchant(merchant)) {
            return Err(self.mismatch("merchant_id"));
        }
        if store.is_some_and(|store| !self.caller.may_name_store(store)) {
            return Err(self.mismatch("store_id"));
        }
        Ok(())
    }

    fn mismatch(&self, field: &str) -> Status {
        self.refuse(
            Code::PermissionDenied,
            "TENANT_MISMATCH",
            format!("the token is not for this {field}"),
        )
    }

    fn refuse(&self, code: Code, reason: &str, message: impl Into<String>) -> Status {
        Refusal::new(code, &self.domain, reason, message).into_status()
    }
}
