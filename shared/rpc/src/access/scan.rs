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
