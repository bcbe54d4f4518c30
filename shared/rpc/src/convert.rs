//! Parsing helpers of every `grpc.rs`: protobuf fields to domain types, with all faults collected by field.
//!
//! A helper notes a violation and answers `None`; the caller goes on with the next field, and refuses the request at the
//! end with everything that is wrong. Names of fields are those of the request message; nested ones are inside of
//! `Violations::nested`.
//!
//! What it refuses to do: decide what a service allows. Limits of a field are given by the caller.

use std::ops::RangeInclusive;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tonic::{Request, Status};
use waybill_kernel::check::Violations;
use waybill_kernel::hash;
use waybill_kernel::id::{Id, MerchantId, StoreId};
use waybill_kernel::money::{Currency, Money};
use waybill_proto::waybill::r#type::v1 as proto;

use crate::auth::Caller;
use crate::fault;

/// The merchant and store that a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tenant {
    /// The merchant.
    pub merchant_id: MerchantId,
    /// The store.
    pub store_id: StoreId,
}

/// The tenant that a request names. The access layer has checked that the caller may name it.
pub fn tenant(merchant_id: &str, store_id: &str, violations: &mut Violations) -> Option<Tenant> {
    let merchant_id = id("merchant_id", merchant_id, violations);
    let store_id = id("store_id", store_id, violations);
    Some(Tenant {
        merchant_id: merchant_id?,
        store_id: store_id?,
    })
}

/// An id that must be there.
pub fn id<T: Id>(field: &str, text: &str, violations: &mut Violations) -> Option<T> {
    if text.is_empty() {
        violations.push(field, "is required");
        return None;
    }
    violations.value(field, text.parse())
}

/// An id that may be left out: `Some(None)` when it is.
pub fn optional_id<T: Id>(field: &str, text: &str, violations: &mut Violations) -> Option<Option<T>> {
    if text.is_empty() {
        Some(None)
    } else {
        id(field, text, violations).map(Some)
    }
}

/// Ids of a repeated field; at most `most`. A fault is named by its index.
pub fn ids<T: Id>(field: &str, texts: &[String], most: usize, violations: &mut Violations) -> Option<Vec<T>> {
    if texts.len() > most {
        violations.push(
            field,
            format!("has {} ids, at most {most} are allowed", texts.len()),
        );
        return None;
    }
    let parsed: Vec<Option<T>> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| id(&format!("{field}[{index}]"), text, violations))
        .collect();
    parsed.into_iter().collect()
}

/// A text of a length, in characters. Control characters are refused, since they forge lines in logs and mails.
pub fn text(
    field: &str,
    text: &str,
    length: RangeInclusive<usize>,
    violations: &mut Violations,
) -> Option<String> {
    let count = text.chars().count();
    if count == 0 && *length.start() > 0 {
        violations.push(field, "is required");
    } else if !length.contains(&count) {
        violations.push(
            field,
            format!(
                "has {count} characters; {} to {} are allowed",
                length.start(),
                length.end()
            ),
        );
    } else if text.chars().any(char::is_control) {
        violations.push(field, "holds control characters");
    } else {
        return Some(text.to_owned());
    }
    None
}

/// The `request_id` of a mutation: 1 to 100 visible ASCII characters.
pub fn request_id(text: &str, violations: &mut Violations) -> Option<String> {
    const FIELD: &str = "request_id";
    if text.is_empty() {
        violations.push(FIELD, "is required: it makes a retry safe");
    } else if text.len() > 100 {
        violations.push(
            FIELD,
            format!("has {} characters; 1 to 100 are allowed", text.len()),
        );
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        violations.push(FIELD, "may hold visible ASCII characters only");
    } else {
        return Some(text.to_owned());
    }
    None
}

/// An amount of money that must be there.
pub fn money(field: &str, money: Option<&proto::Money>, violations: &mut Violations) -> Option<Money> {
    let Some(money) = money else {
        violations.push(field, "is required");
        return None;
    };
    let currency = currency(
        &format!("{field}.currency_code"),
        &money.currency_code,
        violations,
    )?;
    Some(Money::new(currency, money.minor_units))
}

/// A currency code that must be there.
pub fn currency(field: &str, code: &str, violations: &mut Violations) -> Option<Currency> {
    if code.is_empty() {
        violations.push(field, "is required");
        return None;
    }
    violations.value(field, Currency::parse(code))
}

/// Money as the contracts write it.
pub fn to_money(money: Money) -> proto::Money {
    proto::Money {
        currency_code: money.currency.code().to_owned(),
        minor_units: money.minor,
    }
}

/// A time that must be there.
pub fn timestamp(
    field: &str,
    timestamp: Option<&prost_types::Timestamp>,
    violations: &mut Violations,
) -> Option<DateTime<Utc>> {
    if timestamp.is_none() {
        violations.push(field, "is required");
    }
    optional_timestamp(field, timestamp, violations).flatten()
}

/// A time that may be left out: `Some(None)` when it is.
pub fn optional_timestamp(
    field: &str,
    timestamp: Option<&prost_types::Timestamp>,
    violations: &mut Violations,
) -> Option<Option<DateTime<Utc>>> {
    let Some(timestamp) = timestamp else {
        return Some(None);
    };
    let time = u32::try_from(timestamp.nanos)
        .ok()
        .and_then(|nanos| DateTime::from_timestamp(timestamp.seconds, nanos));
    // What the contract of Timestamp allows; chrono and Postgres reach further.
    let first = DateTime::from_timestamp(-62_135_596_800, 0);
    let last = DateTime::from_timestamp(253_402_300_799, 999_999_999);
    match time.filter(|time| Some(*time) >= first && Some(*time) <= last) {
        Some(time) => Some(Some(time)),
        None => {
            violations.push(field, "is no time between the years 1 and 9999");
            None
        }
    }
}

/// A time as the contracts write it.
pub fn to_timestamp(time: DateTime<Utc>) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.timestamp(),
        // Chrono counts up to two seconds inside of a leap second; the contract knows none.
        nanos: i32::try_from(time.timestamp_subsec_nanos().min(999_999_999)).unwrap_or_default(),
    }
}

/// A value of an enum that must be set to one that this server knows.
pub fn known<E: TryFrom<i32>>(field: &str, value: i32, violations: &mut Violations) -> Option<E> {
    match E::try_from(value) {
        Ok(known) if value != 0 => Some(known),
        Ok(_) => {
            violations.push(field, "is required");
            None
        }
        Err(_) => {
            violations.push(field, format!("{value} is not a value that this server knows"));
            None
        }
    }
}

/// Who makes a call.
///
/// # Errors
///
/// INTERNAL when the method is served without the access layer, which is a fault of the server.
pub fn context<T>(request: &Request<T>) -> Result<Arc<Caller>, Status> {
    request.extensions().get::<Arc<Caller>>().cloned().ok_or_else(|| {
        tracing::error!("a method is served without access control");
        fault::internal("rpc.waybill", None)
    })
}

/// What makes a mutation idempotent, in plain parts: a store keeps the answer under the first four, and the hash tells
/// whether a second request is the same one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestParts {
    /// The merchant.
    pub merchant: MerchantId,
    /// Who calls.
    pub caller: String,
    /// The method, e.g. `order.v1.PlaceOrder`.
    pub rpc: &'static str,
    /// The caller's key.
    pub request_id: String,
    /// SHA-256 of the request.
    pub hash: [u8; 32],
}

/// The parts for a request. `message` is the request with its `request_id` cleared, so that the hash is that of what is
/// asked for.
pub fn request_key(
    caller: &Caller,
    merchant: MerchantId,
    rpc: &'static str,
    request_id: &str,
    message: &impl prost::Message,
) -> RequestParts {
    RequestParts {
        merchant,
        caller: caller.subject.clone(),
        rpc,
        request_id: request_id.to_owned(),
        hash: hash::sha256(&message.encode_to_vec()),
    }
}
