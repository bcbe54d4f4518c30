//! An event as its writer makes it and as a reader gets it.
//!
//! An event carries ids and amounts and no personal data: logs are kept for years. Nothing here knows SQL or NATS.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use prost::{Message, Name};
use uuid::Uuid;
use waybill_kernel::id::{EventId, MerchantId, StoreId};
use waybill_kernel::partition::{PARTITIONS, partition_of};
use waybill_proto::waybill::events::v1::LoggedEvent;
use waybill_store::Origin;

use crate::error::FoldError;
use crate::position::Position;

/// The largest payload a log takes. It must fit into one message of `ReadEvents` with room to spare.
pub const MAX_PAYLOAD_BYTES: usize = 2 * 1024 * 1024;

/// An event to be appended to the log of this service.
#[derive(Debug, Clone)]
pub struct NewEvent {
    pub(crate) id: EventId,
    pub(crate) merchant: MerchantId,
    pub(crate) store: Option<StoreId>,
    pub(crate) key: Uuid,
    pub(crate) aggregate: Uuid,
    pub(crate) version: i64,
    pub(crate) type_name: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) occurred_at: DateTime<Utc>,
    pub(crate) cause: Option<String>,
    pub(crate) origin: Option<Origin>,
}

impl NewEvent {
    /// An event with a new id.
    ///
    /// `store` is `None` for facts of the merchant. `key` is what the event is ordered by: the order's id for everything
    /// about an order, in every service. `version` is the aggregate's version after the change.
    #[must_use]
    pub fn new<M: Message + Name>(
        merchant: MerchantId,
        store: impl Into<Option<StoreId>>,
        key: impl Into<Uuid>,
        aggregate: impl Into<Uuid>,
        version: i64,
        message: &M,
        occurred_at: DateTime<Utc>,
    ) -> NewEvent {
        NewEvent {
            id: EventId::generate(),
            merchant,
            store: store.into(),
            key: key.into(),
            aggregate: aggregate.into(),
            version,
            type_name: M::full_name(),
            payload: message.encode_to_vec(),
            occurred_at,
            cause: None,
            origin: None,
        }
    }

    /// Makes the event follow from another one: it names it as its cause, and is part of its trace. Without it the current
    /// origin and the current span count.
    #[must_use]
    pub fn caused_by(mut self, event: &Event) -> NewEvent {
        self.cause.clone_from(&event.traceparent);
        let actor = self.origin.map(|origin| origin.actor).unwrap_or_default();
        self.origin = Some(Origin {
            actor,
            cause: event.event_id.to_string(),
        });
        self
    }

    /// Says who and what the event comes from. Without it the current origin counts ([`Origin::current`]).
    #[must_use]
    pub fn on_behalf(mut self, origin: Origin) -> NewEvent {
        self.origin = Some(origin);
        self
    }

    /// Makes the event part of the trace of a span that is not the current one: a transaction may carry out the requests
    /// of several callers. `None` leaves it to the current span.
    #[must_use]
    pub fn traced(mut self, traceparent: Option<String>) -> NewEvent {
        self.cause = traceparent;
        self
    }

    /// Says who caused it, unless that was said before.
    pub(crate) fn default_actor(&mut self, actor: &str) {
        let origin = self.origin.get_or_insert_default();
        if origin.actor.is_empty() {
            actor.clone_into(&mut origin.actor);
        }
    }

    /// The id the event will have.
    #[must_use]
    pub fn id(&self) -> EventId {
        self.id
    }
}

/// An event of a log, as a reader gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Where it stands.
    pub position: Position,
    /// Where the event before it in its virtual partition stands.
    pub prev: Position,
    /// Its id, unique for ever.
    pub event_id: EventId,
    /// The service whose log it is in.
    pub source: Arc<str>,
    /// Full name of the payload's message type, e.g. `waybill.order.v1.OrderPlaced`.
    pub type_name: String,
    /// The merchant it belongs to.
    pub merchant: MerchantId,
    /// The store it belongs to; `None` for facts of the merchant.
    pub store: Option<StoreId>,
    /// What it is ordered by: the order's id for everything about an order.
    pub key: Uuid,
    /// Virtual partition of the key.
    pub vpartition: u16,
    /// The aggregate that changed.
    pub aggregate: Uuid,
    /// The aggregate's version after the change.
    pub version: i64,
    /// The protobuf payload.
    pub payload: Bytes,
    /// The span that caused the event; inside a fold, the span that processes it.
    pub traceparent: Option<String>,
    /// When the change happened, by the writer's clock.
    pub occurred_at: DateTime<Utc>,
    /// Who and what it comes from, as far as its writer knew.
    pub origin: Origin,
}

impl Event {
    /// Whether the payload is an `M`.
    #[must_use]
    pub fn is<M: Name>(&self) -> bool {
        self.type_name
            .strip_suffix(M::NAME)
            .and_then(|rest| rest.strip_suffix('.'))
            .is_some_and(|package| package == M::PACKAGE)
    }

    /// Reads the payload as an `M`.
    ///
    /// # Errors
    ///
    /// [`FoldError::Poison`] when it is another message or its bytes do not decode.
    pub fn decode<M: Message + Name + Default>(&self) -> Result<M, FoldError> {
        if !self.is::<M>() {
            return Err(FoldError::Poison(format!(
                "event {} is a {}, not a {}",
                self.event_id,
                self.type_name,
                M::full_name()
            )));
        }
        M::decode(self.payload.clone()).map_err(|error| {
            FoldError::Poison(format!(
                "event {}: its {} does not decode: {error}",
                self.event_id, self.type_name
            ))
        })
    }

    /// Reads the payload as an `M` if it is one: `if let Some(placed) = event.as_a::<OrderPlaced>()? { … }`.
    ///
    /// # Errors
    ///
    /// [`FoldError::Poison`] when its bytes do not decode.
    pub fn as_a<M: Message + Name + Default>(&self) -> Result<Option<M>, FoldError> {
        if self.is::<M>() {
            self.decode().map(Some)
        } else {
            Ok(None)
        }
    }

    /// The last part of the type's name, e.g. `OrderPlaced`.
    #[must_use]
    pub fn short_type(&self) -> &str {
        short_type(&self.type_name)
    }

    /// Roughly how many bytes it takes in memory.
    pub(crate) fn weight(&self) -> usize {
        self.payload.len() + 512
    }

    /// The whole envelope as one message, for storage and `ReadEvents`.
    pub(crate) fn to_logged(&self) -> LoggedEvent {
        LoggedEvent {
            position: Some(self.position.into()),
            prev: Some(self.prev.into()),
            event_id: self.event_id.to_string(),
            r#type: self.type_name.clone(),
            merchant_id: self.merchant.to_string(),
            store_id: self.store.map(|store| store.to_string()).unwrap_or_default(),
            partition_key: self.key.to_string(),
            partition: u32::from(self.vpartition),
            aggregate_id: self.aggregate.to_string(),
            aggregate_version: self.version,
            payload: self.payload.clone(),
            traceparent: self.traceparent.clone().unwrap_or_default(),
            occurred_at: Some(prost_types::Timestamp {
                seconds: self.occurred_at.timestamp(),
                nanos: self.occurred_at.timestamp_subsec_nanos().min(999_999_999) as i32,
            }),
            actor: self.origin.actor.clone(),
            cause: self.origin.cause.clone(),
        }
    }

    /// Reads what [`Event::to_logged`] wrote.
    pub(crate) fn from_logged(source: &Arc<str>, logged: LoggedEvent) -> Result<Event, MalformedEvent> {
        let position: Position = logged.position.ok_or(MalformedEvent::missing("position"))?.into();
        let time = logged.occurred_at.ok_or(MalformedEvent::missing("occurred_at"))?;
        Event {
            position,
            prev: logged.prev.map(Position::from).unwrap_or_default(),
            event_id: parse("event_id", &logged.event_id)?,
            source: Arc::clone(source),
            type_name: logged.r#type,
            merchant: parse("merchant_id", &logged.merchant_id)?,
            store: if logged.store_id.is_empty() {
                None
            } else {
                Some(parse("store_id", &logged.store_id)?)
            },
            key: parse("partition_key", &logged.partition_key)?,
            vpartition: u16::try_from(logged.partition)
                .map_err(|_| MalformedEvent::of("partition", &logged.partition))?,
            aggregate: parse("aggregate_id", &logged.aggregate_id)?,
            version: logged.aggregate_version,
            payload: logged.payload,
            traceparent: Some(logged.traceparent).filter(|text| !text.is_empty()),
            occurred_at: u32::try_from(time.nanos)
                .ok()
                .and_then(|nanos| DateTime::from_timestamp(time.seconds, nanos))
                .ok_or_else(|| MalformedEvent::of("occurred_at", &time.seconds))?,
            origin: Origin {
                actor: logged.actor,
                cause: logged.cause,
            },
        }
        .checked()
    }

    /// Refuses an event whose parts contradict each other, whoever sent it.
    pub(crate) fn checked(self) -> Result<Event, MalformedEvent> {
        if self.vpartition >= PARTITIONS || self.vpartition != partition_of(self.key) {
            return Err(MalformedEvent::of("partition", &self.vpartition));
        }
        if self.prev >= self.position {
            return Err(MalformedEvent::of("prev", &self.prev));
        }
        if self.type_name.is_empty() {
            return Err(MalformedEvent::missing("type"));
        }
        Ok(self)
    }
}

/// The last part of a message type's full name.
pub(crate) fn short_type(type_name: &str) -> &str {
    type_name.rsplit('.').next().unwrap_or(type_name)
}

pub(crate) fn parse<T: std::str::FromStr>(field: &'static str, text: &str) -> Result<T, MalformedEvent> {
    text.parse().map_err(|_| MalformedEvent::of(field, &text))
}

/// Something that should be an event of a log is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no event of a log: {field} {fault}")]
pub struct MalformedEvent {
    field: &'static str,
    fault: String,
}

impl MalformedEvent {
    pub(crate) fn missing(field: &'static str) -> Self {
        MalformedEvent {
            field,
            fault: "is missing".to_owned(),
        }
    }

    pub(crate) fn of(field: &'static str, value: &dyn std::fmt::Display) -> Self {
        let value: String = value.to_string().chars().take(64).collect();
        MalformedEvent {
            field,
            fault: format!("{value:?} is not valid"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use waybill_proto::waybill::events::v1::{LogPosition, PartitionCursor};

    use super::*;

    pub(crate) fn any_event() -> impl Strategy<Value = Event> {
        (
            (1i64..5, 1u64..1_000_000, 2i64..1_000_000),
            any::<[u128; 5]>(),
            any::<bool>(),
            prop::collection::vec(any::<u8>(), 0..200),
            prop::option::of("00-[0-9a-f]{32}-[0-9a-f]{16}-01"),
            (0i64..4_000_000_000, 0u32..1_000_000),
        )
            .prop_map(
                |((generation, xid, position), ids, has_store, payload, traceparent, (seconds, micros))| {
                    let key = Uuid::from_u128(ids[3]);
                    Event {
                        position: Position {
                            generation,
                            xid,
                            position,
                        },
                        prev: Position {
                            generation,
                            xid,
                            position: position - 1,
                        },
                        event_id: Uuid::from_u128(ids[0]).into(),
                        source: Arc::from("order"),
                        type_name: "waybill.events.v1.LogPosition".to_owned(),
                        merchant: Uuid::from_u128(ids[1]).into(),
                        store: has_store.then(|| Uuid::from_u128(ids[2]).into()),
                        key,
                        vpartition: partition_of(key),
                        aggregate: Uuid::from_u128(ids[4]),
                        version: position,
                        payload: payload.into(),
                        traceparent,
                        occurred_at: DateTime::from_timestamp(seconds, micros * 1000).expect("in range"),
                        origin: Origin {
                            actor: if has_store {
                                "ops 7".to_owned()
                            } else {
                                String::new()
                            },
                            cause: Uuid::from_u128(ids[2]).to_string(),
                        },
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn the_stored_form_round_trips(event in any_event()) {
            let source = Arc::clone(&event.source);
            let bytes = event.to_logged().encode_to_vec();
            let logged = LoggedEvent::decode(bytes.as_slice()).expect("just encoded");
            prop_assert_eq!(Event::from_logged(&source, logged), Ok(event));
        }
    }

    fn sample() -> Event {
        let key = Uuid::from_u128(9);
        let message = LogPosition {
            generation: 1,
            transaction_id: 2,
            position: 3,
        };
        Event {
            position: Position {
                generation: 1,
                xid: 5,
                position: 5,
            },
            prev: Position::ZERO,
            event_id: EventId::generate(),
            source: Arc::from("order"),
            type_name: LogPosition::full_name(),
            merchant: MerchantId::generate(),
            store: None,
            key,
            vpartition: partition_of(key),
            aggregate: key,
            version: 1,
            payload: message.encode_to_vec().into(),
            traceparent: None,
            occurred_at: DateTime::UNIX_EPOCH,
            origin: Origin::default(),
        }
    }

    #[test]
    fn a_payload_is_read_as_what_it_is_only() {
        let mut event = sample();
        assert!(event.is::<LogPosition>());
        assert!(!event.is::<PartitionCursor>());
        assert_eq!(event.short_type(), "LogPosition");
        assert_eq!(event.decode::<LogPosition>().expect("it is one").position, 3);
        assert!(
            event
                .as_a::<PartitionCursor>()
                .expect("another type is no fault")
                .is_none()
        );
        assert!(matches!(
            event.decode::<PartitionCursor>(),
            Err(FoldError::Poison(_))
        ));
        event.payload = Bytes::from_static(&[0xff]);
        assert!(matches!(event.decode::<LogPosition>(), Err(FoldError::Poison(_))));
        assert!(matches!(event.as_a::<LogPosition>(), Err(FoldError::Poison(_))));
    }

    #[test]
    fn contradictions_are_refused_by_name() {
        let good = sample();
        assert!(good.clone().checked().is_ok());
        let wrong = Event {
            vpartition: (good.vpartition + 1) % PARTITIONS,
            ..good.clone()
        };
        assert_eq!(wrong.checked().expect_err("another partition").field, "partition");
        let wrong = Event {
            prev: good.position,
            ..good
        };
        assert_eq!(wrong.checked().expect_err("its own predecessor").field, "prev");
    }
}
