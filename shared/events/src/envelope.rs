//! An event as a NATS message: CloudEvents attributes as headers (binary mode), the protobuf payload as the body.
//!
//! A payload beyond [`INLINE_LIMIT`] travels as a reference: the header `waybill-body-bytes` stands instead of the body, and the
//! reader gets the event from the producer's log. A message that cannot be read is no reason to stop: the log is the
//! truth, and the missing link in the chain of `prev` will be noticed.

use std::sync::Arc;

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use waybill_store::Origin;

use crate::event::{Event, MalformedEvent, parse, short_type};
use crate::position::Position;

/// The largest payload that travels in the message itself.
pub const INLINE_LIMIT: usize = 256 * 1024;

/// The name of a header. As a text the client would check and copy it for each message; as it is here it takes it as it
/// is.
#[derive(Debug)]
struct Header {
    text: &'static str,
    name: HeaderName,
}

impl Header {
    const fn of(text: &'static str) -> Header {
        Header {
            text,
            name: HeaderName::from_static(text),
        }
    }
}

static ID: Header = Header::of("ce-id");
static TYPE: Header = Header::of("ce-type");
static SOURCE: Header = Header::of("ce-source");
static TIME: Header = Header::of("ce-time");
static SPEC_VERSION: Header = Header::of("ce-specversion");
static CONTENT_TYPE: Header = Header::of("content-type");
/// Where the event stands in its log.
static POSITION: Header = Header::of("waybill-position");
static PREV: Header = Header::of("waybill-prev");
static MERCHANT: Header = Header::of("waybill-merchant");
static STORE: Header = Header::of("waybill-store");
static KEY: Header = Header::of("waybill-key");
static AGGREGATE: Header = Header::of("waybill-aggregate");
static VERSION: Header = Header::of("waybill-version");
static TRACEPARENT: Header = Header::of("traceparent");
/// Who caused it, and what it follows from.
static ACTOR: Header = Header::of("waybill-actor");
static CAUSE: Header = Header::of("waybill-cause");
/// Present when the body is left out: its size in bytes.
static REFERENCE: Header = Header::of("waybill-body-bytes");

/// The stream of a service.
#[must_use]
pub fn stream_name(service: &str) -> String {
    format!("WAYBILL_{}", service.to_ascii_uppercase())
}

/// All subjects of a service.
#[must_use]
pub fn all_subjects(service: &str) -> String {
    format!("waybill.events.{service}.v1.>")
}

/// All subjects of one virtual partition of a service.
#[must_use]
pub fn partition_subjects(service: &str, vpartition: u16) -> String {
    format!("waybill.events.{service}.v1.{vpartition}.>")
}

fn subject(service: &str, vpartition: u16, type_name: &str) -> String {
    format!(
        "waybill.events.{service}.v1.{vpartition}.{}",
        short_type(type_name)
    )
}

/// A message as it is published.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The subject.
    pub subject: String,
    /// The attributes.
    pub headers: HeaderMap,
    /// The payload; empty when it travels as a reference.
    pub body: Bytes,
}

/// A message as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// The event; without its payload when `complete` is false.
    pub event: Event,
    /// Whether the payload came along.
    pub complete: bool,
}

/// Packs an event of the log. `payload_bytes` is the size of the payload in the log; a larger one need not be in `event`.
#[must_use]
pub fn pack(event: &Event, payload_bytes: usize) -> Outgoing {
    let mut headers = HeaderMap::new();
    let mut set = |header: &Header, value: HeaderValue| headers.insert(header.name.clone(), value);
    set(&ID, event.event_id.to_string().into());
    set(&TYPE, event.type_name.as_str().into());
    set(&SOURCE, format!("/waybill/{}", event.source).into());
    let time = event.occurred_at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    set(&TIME, time.into());
    set(&SPEC_VERSION, "1.0".into());
    set(&CONTENT_TYPE, "application/protobuf".into());
    set(&POSITION, event.position.to_string().into());
    set(&PREV, event.prev.to_string().into());
    set(&MERCHANT, event.merchant.to_string().into());
    if let Some(store) = event.store {
        set(&STORE, store.to_string().into());
    }
    set(&KEY, event.key.to_string().into());
    set(&AGGREGATE, event.aggregate.to_string().into());
    set(&VERSION, event.version.into());
    // The only texts here that a caller of ours may have made up: a line break in one would end the header.
    let made_up = [
        (&TRACEPARENT, event.traceparent.as_deref().unwrap_or_default()),
        (&ACTOR, event.origin.actor.as_str()),
        (&CAUSE, event.origin.cause.as_str()),
    ];
    for (header, text) in made_up {
        let plain = text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
        if !text.is_empty() && plain && text.trim() == text {
            set(header, text.into());
        }
    }
    let body = if payload_bytes > INLINE_LIMIT {
        set(&REFERENCE, payload_bytes.into());
        Bytes::new()
    } else {
        event.payload.clone()
    };
    Outgoing {
        subject: subject(&event.source, event.vpartition, &event.type_name),
        headers,
        body,
    }
}

/// Makes the message part of another span than the one that wrote the event.
pub fn set_traceparent(outgoing: &mut Outgoing, traceparent: &str) {
    outgoing.headers.insert(TRACEPARENT.name.clone(), traceparent);
}

/// Reads a message of the stream of `source`.
///
/// # Errors
///
/// When it is no event of a log; the error names the header.
pub fn unpack(
    source: &Arc<str>,
    subject: &str,
    headers: Option<&HeaderMap>,
    body: Bytes,
) -> Result<Incoming, MalformedEvent> {
    let headers = headers.ok_or(MalformedEvent::missing("headers"))?;
    let time = required(headers, &TIME)?;
    let event = Event {
        position: parse(POSITION.text, required(headers, &POSITION)?)?,
        prev: parse(PREV.text, required(headers, &PREV)?)?,
        event_id: parse(ID.text, required(headers, &ID)?)?,
        source: Arc::clone(source),
        type_name: required(headers, &TYPE)?.to_owned(),
        merchant: parse(MERCHANT.text, required(headers, &MERCHANT)?)?,
        store: optional(headers, &STORE)
            .map(|text| parse(STORE.text, text))
            .transpose()?,
        key: parse(KEY.text, required(headers, &KEY)?)?,
        vpartition: subject
            .split('.')
            .nth(4)
            .and_then(|token| token.parse().ok())
            .ok_or_else(|| MalformedEvent::of("subject", &subject))?,
        aggregate: parse(AGGREGATE.text, required(headers, &AGGREGATE)?)?,
        version: parse(VERSION.text, required(headers, &VERSION)?)?,
        payload: body,
        traceparent: optional(headers, &TRACEPARENT).map(str::to_owned),
        occurred_at: DateTime::parse_from_rfc3339(time)
            .map_err(|_| MalformedEvent::of(TIME.text, &time))?
            .with_timezone(&Utc),
        origin: Origin {
            actor: optional(headers, &ACTOR).unwrap_or_default().to_owned(),
            cause: optional(headers, &CAUSE).unwrap_or_default().to_owned(),
        },
    };
    let complete = optional(headers, &REFERENCE).is_none();
    Ok(Incoming {
        event: event.checked()?,
        complete,
    })
}

/// Where the message stands in the log and which event it is: what the relay compares with the log.
///
/// # Errors
///
/// When it is no event of a log; the error names the header.
pub fn identify(headers: &HeaderMap) -> Result<(Position, waybill_kernel::id::EventId), MalformedEvent> {
    Ok((
        parse(POSITION.text, required(headers, &POSITION)?)?,
        parse(ID.text, required(headers, &ID)?)?,
    ))
}

fn optional<'h>(headers: &'h HeaderMap, header: &Header) -> Option<&'h str> {
    headers
        .get(header.name.clone())
        .map(async_nats::HeaderValue::as_str)
}

fn required<'h>(headers: &'h HeaderMap, header: &Header) -> Result<&'h str, MalformedEvent> {
    optional(headers, header).ok_or(MalformedEvent::missing(header.text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::tests::any_event;

    proptest! {
        #[test]
        fn a_message_round_trips(event in any_event()) {
            let out = pack(&event, event.payload.len());
            let back = unpack(&event.source, &out.subject, Some(&out.headers), out.body).expect("just packed");
            prop_assert_eq!(identify(&out.headers), Ok((event.position, event.event_id)));
            prop_assert_eq!(back, Incoming { event, complete: true });
        }

        #[test]
        fn a_large_payload_travels_as_a_reference(event in any_event(), size in INLINE_LIMIT + 1..INLINE_LIMIT * 8) {
            let out = pack(&event, size);
            prop_assert!(out.body.is_empty());
            let back = unpack(&event.source, &out.subject, Some(&out.headers), out.body).expect("just packed");
            prop_assert!(!back.complete);
            prop_assert_eq!(back.event.position, event.position);
        }

        /// A header that is missing or spoiled is refused, never guessed.
        #[test]
        fn spoiled_messages_are_refused(event in any_event(), which in 0usize..9, text in "[^0-9a-zA-Z]{0,10}") {
            let name = [&ID, &TYPE, &TIME, &POSITION, &PREV, &MERCHANT, &KEY, &AGGREGATE, &VERSION][which].text;
            let out = pack(&event, event.payload.len());
            let mut spoiled = HeaderMap::new();
            for (header, values) in out.headers.iter() {
                let header: &str = header.as_ref();
                if header == name {
                    if name != TYPE.text {
                        spoiled.insert(header, text.replace(['\r', '\n'], ""));
                    }
                } else if let Some(value) = values.first() {
                    spoiled.insert(header, value.clone());
                }
            }
            prop_assert!(unpack(&event.source, &out.subject, Some(&spoiled), out.body).is_err());
        }
    }

    #[test]
    fn names_are_those_of_the_contract() {
        assert_eq!(stream_name("order"), "WAYBILL_ORDER");
        assert_eq!(
            subject("order", 7, "waybill.order.v1.OrderPlaced"),
            "waybill.events.order.v1.7.OrderPlaced"
        );
        assert_eq!(partition_subjects("order", 7), "waybill.events.order.v1.7.>");
        assert_eq!(all_subjects("order"), "waybill.events.order.v1.>");
    }

    #[test]
    fn a_message_without_headers_is_refused() {
        let source = Arc::from("order");
        assert!(unpack(&source, "waybill.events.order.v1.1.X", None, Bytes::new()).is_err());
        assert!(unpack(&source, "other", Some(&HeaderMap::new()), Bytes::new()).is_err());
    }
}
