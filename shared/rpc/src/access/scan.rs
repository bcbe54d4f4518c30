//! Finds the tenant of an encoded request without decoding the request.
//!
//! It walks the top level of the message with the primitives that prost itself decodes with, so that both read the same
//! bytes the same way: of a repeated field the last one counts, unknown fields are stepped over.
//!
//! What it refuses to do: look deeper. Whether the rest of the message makes sense is for the service to say.

use std::fmt;
use std::str::FromStr;

use bytes::Buf as _;
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use waybill_kernel::check::Violations;
use waybill_kernel::id::{MerchantId, StoreId};

const MERCHANT_FIELD: u32 = 1;
const STORE_FIELD: u32 = 2;

/// The raw texts of the tenant fields; empty when a field is not there, as protobuf has it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Named<'a> {
    merchant: &'a [u8],
    store: &'a [u8],
}

/// Reads the tenant fields of an encoded message.
pub(super) fn tenant_fields(mut message: &[u8]) -> Result<Named<'_>, DecodeError> {
    let mut named = Named::default();
    while message.has_remaining() {
        let (tag, wire_type) = decode_key(&mut message)?;
        let before = message;
        skip_field(wire_type, tag, &mut message, DecodeContext::default())?;
        // A tenant field of another wire type is left to prost, which refuses the message.
        if wire_type == WireType::LengthDelimited {
            let mut value = &before[..before.len() - message.len()];
            decode_varint(&mut value)?;
            match tag {
                MERCHANT_FIELD => named.merchant = value,
                STORE_FIELD => named.store = value,
                _ => {}
            }
        }
    }
    Ok(named)
}

impl Named<'_> {
    /// The merchant that is named.
    pub(super) fn merchant(&self, violations: &mut Violations) -> Option<MerchantId> {
        id("merchant_id", self.merchant, violations)
    }

    /// The store that is named.
    pub(super) fn store(&self, violations: &mut Violations) -> Option<StoreId> {
        id("store_id", self.store, violations)
    }
}

fn id<T>(field: &str, value: &[u8], violations: &mut Violations) -> Option<T>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    if value.is_empty() {
        violations.push(field, "is required");
        return None;
    }
    match std::str::from_utf8(value) {
        Ok(text) => violations.value(field, text.parse()),
        Err(_) => {
            violations.push(field, "is not valid UTF-8");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use prost::encoding::encode_varint;
    use waybill_proto::waybill::analytics::v1::{GetSummaryRequest, Period};

    use super::*;

    fn request() -> impl Strategy<Value = GetSummaryRequest> {
        ("\\PC{0,40}", "\\PC{0,40}", "\\PC{0,20}").prop_map(|(merchant_id, store_id, time_zone)| {
            GetSummaryRequest {
                merchant_id,
                store_id,
                period: Some(Period {
                    time_zone,
                    ..Period::default()
                }),
            }
        })
    }

    proptest! {
        /// Messages joined end to end are one message in protobuf: its last fields count.
        #[test]
        fn it_reads_what_prost_reads(requests in prop::collection::vec(request(), 1..4), unknown in prop::collection::vec(any::<u8>(), 0..20)) {
            let mut bytes = Vec::new();
            for request in &requests {
                encode_varint(200 << 3 | 2, &mut bytes);
                encode_varint(unknown.len() as u64, &mut bytes);
                bytes.extend_from_slice(&unknown);
                bytes.extend(request.encode_to_vec());
            }
            let decoded = GetSummaryRequest::decode(&bytes[..]).expect("a valid message");
            let named = tenant_fields(&bytes).expect("a valid message");
            prop_assert_eq!(named.merchant, decoded.merchant_id.as_bytes());
            prop_assert_eq!(named.store, decoded.store_id.as_bytes());
        }

        /// Whatever the bytes: no panic, and where both accept them, both see the same tenant.
        #[test]
        fn it_never_sees_another_tenant_than_prost(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let (Ok(named), Ok(decoded)) = (tenant_fields(&bytes), GetSummaryRequest::decode(&bytes[..])) {
                prop_assert_eq!(named.merchant, decoded.merchant_id.as_bytes());
                prop_assert_eq!(named.store, decoded.store_id.as_bytes());
            }
        }

        /// The same for bytes that look more like a message.
        #[test]
        fn nor_in_a_message_with_bytes_changed(request in request(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let mut bytes = request.encode_to_vec();
            let at = at.index(bytes.len());
            bytes[at] = with;
            if let (Ok(named), Ok(decoded)) = (tenant_fields(&bytes), GetSummaryRequest::decode(&bytes[..])) {
                prop_assert_eq!(named.merchant, decoded.merchant_id.as_bytes());
                prop_assert_eq!(named.store, decoded.store_id.as_bytes());
            }
        }
    }
}
