//! Typed ids: each kind of thing has its own type around a UUID, so that ids cannot be mixed up.
//!
//! New ids are UUIDv7: time-ordered, so primary keys grow at one end of their index. Ids that come from outside may be
//! any UUID in the hyphenated text form of RFC 4122. An id says nothing about whether the thing exists.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// What all typed ids have in common, for code that is generic over the kind.
pub trait Id:
    Copy
    + Ord
    + std::hash::Hash
    + fmt::Debug
    + fmt::Display
    + FromStr<Err = IdError>
    + From<Uuid>
    + Send
    + Sync
    + 'static
{
    /// The kind in words, as error messages name it: `"order id"`.
    const KIND: &'static str;

    /// The bare UUID, for storage.
    fn uuid(self) -> Uuid;
}

/// The text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is not a valid {kind}: expected a UUID such as \"01890a5d-ac96-774b-bcce-b302099a8057\"")]
pub struct IdError {
    /// Which kind of id was expected.
    pub kind: &'static str,
    /// What was given, cut to 64 characters.
    pub value: String,
}

fn parse(kind: &'static str, text: &str) -> Result<Uuid, IdError> {
    // `Uuid` also reads braces, URNs and bare digits. One spelling per id keeps logs and caches searchable.
    let parsed = if text.len() == uuid::fmt::Hyphenated::LENGTH {
        Uuid::try_parse(text).ok()
    } else {
        None
    };
    parsed.ok_or_else(|| IdError {
        kind,
        value: text.chars().take(64).collect(),
    })
}

macro_rules! typed_ids {
    ($($(#[$doc:meta])* $name:ident = $kind:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// A new, time-ordered id (UUIDv7).
            #[must_use]
            #[expect(clippy::disallowed_methods, reason = "this is where ids are made")]
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The bare UUID, for storage.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl Id for $name {
            const KIND: &'static str = $kind;

            fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse($kind, text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self.0.as_hyphenated(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0.as_hyphenated())
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

typed_ids! {
    /// A retailer: owns stock, skus, customers, credit and books.
    MerchantId = "merchant id";
    /// A brand or sales channel of a merchant.
    StoreId = "store id";
    /// An order.
    OrderId = "order id";
    /// An order that is being made.
    DraftId = "draft id";
    /// A line of an order.
    LineId = "line id";
    /// A hold that stops an order.
    HoldId = "hold id";
    /// A cancellation of units of an order.
    CancellationId = "cancellation id";
    /// A change of what is ordered, after placement.
    EditId = "edit id";
    /// A payment of an order.
    PaymentId = "payment id";
    /// An erasure of a customer.
    ErasureId = "erasure id";
    /// A place that holds stock.
    LocationId = "location id";
    /// A shipment.
    ShipmentId = "shipment id";
    /// A return (RMA).
    ReturnId = "return id";
    /// A refund.
    RefundId = "refund id";
    /// A leg of a refund: the part of it that goes back over one payment.
    LegId = "leg id";
    /// An entry of the journal.
    EntryId = "entry id";
    /// A notification to a customer.
    NotificationId = "notification id";
    /// An event of a service's log.
    EventId = "event id";
    /// A job: an effect on the outside world that is still to be done.
    JobId = "job id";
    /// A scan or status report of a carrier.
    TrackingEventId = "tracking event id";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        let id = OrderId::generate();
        assert_eq!(id.to_string().parse(), Ok(id));
        let json = serde_json::to_string(&id).expect("an id serializes");
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<OrderId>(&json).expect("and back"), id);
        // Also where the deserializer cannot lend the text.
        let value = serde_json::to_value(id).expect("an id serializes");
        assert_eq!(serde_json::from_value::<OrderId>(value).expect("and back"), id);
    }

    #[test]
    fn any_version_is_read_and_printed_in_lower_case() {
        let id: StoreId = "F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6"
            .parse()
            .expect("a version 1 UUID");
        assert_eq!(id.to_string(), "f81d4fae-7dec-11d0-a765-00a0c91e6bf6");
    }

    #[test]
    fn other_spellings_are_refused_by_name() {
        for text in [
            "",
            "7",
            "f81d4fae7dec11d0a76500a0c91e6bf6",
            "{f81d4fae-7dec-11d0-a765-00a0c91e6bf6}",
            "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
            "f81d4fae-7dec-11d0-a765-00a0c91e6bfg",
            "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        ] {
            let error = text.parse::<RefundId>().expect_err("not an id");
            assert_eq!(error.kind, "refund id");
            assert!(error.value.len() <= 64);
            assert!(error.to_string().contains("is not a valid refund id"), "{error}");
        }
    }

    #[test]
    fn generated_ids_grow() {
        let ids: Vec<EventId> = (0..1000).map(|_| EventId::generate()).collect();
        assert!(ids.is_sorted());
        assert!(ids.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
