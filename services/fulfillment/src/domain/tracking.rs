//! What a scan makes of a shipment.
//!
//! Carriers repeat themselves, contradict themselves and tell things late. The status therefore depends on *what* was
//! said, never on the order in which it was heard (F-8):
//!
//! - `RETURNED_TO_SENDER`, once said, is final. What follows is the parcel arriving at the sender.
//! - else `DELIVERED`, once said, stays: a late scan never takes a parcel back from the customer (F-7).
//! - else the scan with the latest time counts; of two with the same time the one further along.
//! - else the shipment is `PENDING`, as it was made.
//!
//! It does not know which scans were heard before: [`decide`] is told by its caller, which asks the database under the
//! order's lock (F-9).

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use waybill_kernel::id::ShipmentId;

/// The one status of a shipment, whatever the carrier calls it. The order is the way of a parcel: of two scans with the
/// same time the greater counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShipmentStatus {
    /// Handed over, the carrier has not said anything yet.
    Pending,
    /// The carrier knows of it and has not seen it.
    InfoReceived,
    /// On its way.
    InTransit,
    /// No scan for 30 days.
    Expired,
    /// Something went wrong: customs, damage, address.
    Exception,
    /// Arrives today.
    OutForDelivery,
    /// Nobody took it.
    AttemptFailed,
    /// Waits where the customer picks it up.
    AvailableForPickup,
    /// The customer has it.
    Delivered,
    /// Went back to the sender.
    ReturnedToSender,
}

impl ShipmentStatus {
    /// All statuses, in their order.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::InfoReceived,
        Self::InTransit,
        Self::Expired,
        Self::Exception,
        Self::OutForDelivery,
        Self::AttemptFailed,
        Self::AvailableForPickup,
        Self::Delivered,
        Self::ReturnedToSender,
    ];

    /// The key that events and tables carry.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InfoReceived => "info_received",
            Self::InTransit => "in_transit",
            Self::Expired => "expired",
            Self::Exception => "exception",
            Self::OutForDelivery => "out_for_delivery",
            Self::AttemptFailed => "attempt_failed",
            Self::AvailableForPickup => "available_for_pickup",
            Self::Delivered => "delivered",
            Self::ReturnedToSender => "returned_to_sender",
        }
    }

    /// The status of a key.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.key() == key)
    }
}

/// Where a shipment stands by what was heard of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its status.
    pub status: ShipmentStatus,
    /// Time of the newest scan; `None` before the first.
    pub newest: Option<DateTime<Utc>>,
}

impl Standing {
    /// A shipment that nobody has said anything about.
    pub const NEW: Self = Self {
        status: ShipmentStatus::Pending,
        newest: None,
    };

    /// Where it stands after one more scan.
    #[must_use]
    pub fn hear(self, status: ShipmentStatus, at: DateTime<Utc>) -> Self {
        use ShipmentStatus::{Delivered, ReturnedToSender};
        let next = match (self.status, status) {
            (ReturnedToSender, _) | (_, ReturnedToSender) => ReturnedToSender,
            (Delivered, _) | (_, Delivered) => Delivered,
            (current, said) => match self.newest {
                Some(newest) if (at, said) <= (newest, current) => current,
                _ => said,
            },
        };
        Self {
            status: next,
            newest: self.newest.max(Some(at)),
        }
    }
}

/// What recognises a scan that was heard before.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ScanKey {
    /// The source's own id of the scan.
    Source(String),
    /// Without such an id: what was said, and of when.
    Said(ShipmentStatus, DateTime<Utc>),
}

/// Something a carrier said about a shipment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The shipment.
    pub shipment: ShipmentId,
    /// What it means.
    pub status: ShipmentStatus,
    /// When the carrier saw it, as it was told.
    pub occurred_at: DateTime<Utc>,
    /// The source's id; empty when it gives none.
    pub source_event_id: String,
}

impl Scan {
    /// What recognises it.
    #[must_use]
    pub fn key(&self) -> ScanKey {
        if self.source_event_id.is_empty() {
            ScanKey::Said(self.status, self.occurred_at)
        } else {
            ScanKey::Source(self.source_event_id.clone())
        }
    }
}

/// What one scan did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It is new and changed the status.
    Advanced {
        /// The status before.
        from: ShipmentStatus,
        /// The status after.
        to: ShipmentStatus,
    },
    /// It is new and changed nothing.
    Recorded(ShipmentStatus),
    /// It was heard before.
    Duplicate(ShipmentStatus),
}

impl Heard {
    /// The shipment's status afterwards.
    #[must_use]
    pub fn status(self) -> ShipmentStatus {
        match self {
            Self::Advanced { to, .. } => to,
            Self::Recorded(status) | Self::Duplicate(status) => status,
        }
    }
}

/// Applies scans one after the other, each by itself, and says what each of them did.
///
/// `standings` holds every shipment that is named and afterwards where it stands; a scan of any other shipment is
/// answered with `None`. `heard` is what was heard before and takes what is new. A scan that claims to come from the
/// future counts as of `now`, so that a carrier's wrong clock cannot silence those that follow.
pub fn decide(
    scans: &[Scan],
    standings: &mut BTreeMap<ShipmentId, Standing>,
    heard: &mut HashSet<(ShipmentId, ScanKey)>,
    now: DateTime<Utc>,
) -> Vec<Option<Heard>> {
    scans
        .iter()
        .map(|scan| {
            let standing = standings.get_mut(&scan.shipment)?;
            if !heard.insert((scan.shipment, scan.key())) {
                return Some(Heard::Duplicate(standing.status));
            }
            let from = standing.status;
            *standing = standing.hear(scan.status, scan.occurred_at.min(now));
            let to = standing.status;
            Some(if from == to {
                Heard::Recorded(to)
            } else {
                Heard::Advanced { from, to }
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::<Utc>::UNIX_EPOCH + TimeDelta::minutes(minutes)
    }

    fn after(scans: &[(ShipmentStatus, i64)]) -> ShipmentStatus {
        scans
            .iter()
            .fold(Standing::NEW, |standing, (status, minutes)| {
                standing.hear(*status, at(*minutes))
            })
            .status
    }

    #[test]
    fn keys_round_trip_and_are_in_order() {
        for status in ShipmentStatus::ALL {
            assert_eq!(ShipmentStatus::from_key(status.key()), Some(status));
            let json = serde_json::to_value(status).expect("a status serializes");
            assert_eq!(json, status.key(), "one spelling everywhere");
        }
        assert!(ShipmentStatus::ALL.is_sorted());
        assert_eq!(ShipmentStatus::from_key("lost"), None);
    }

    #[test]
    fn a_late_scan_does_not_move_the_status_back() {
        use ShipmentStatus::*;
        assert_eq!(after(&[(OutForDelivery, 20), (InTransit, 10)]), OutForDelivery);
        assert_eq!(
            after(&[(OutForDelivery, 20), (InTransit, 30)]),
            InTransit,
            "back at the depot"
        );
        assert_eq!(after(&[(Expired, 20), (InTransit, 30)]), InTransit, "found again");
        assert_eq!(
            after(&[(InTransit, 10), (Exception, 10)]),
            Exception,
            "of the same time the one further along"
        );
    }

    #[test]
    fn only_a_return_takes_it_back_from_delivered() {
        use ShipmentStatus::*;
        assert_eq!(
            after(&[(Delivered, 20), (InTransit, 30), (Exception, 40)]),
            Delivered
        );
        assert_eq!(
            after(&[(Delivered, 20), (ReturnedToSender, 30)]),
            ReturnedToSender
        );
        assert_eq!(
            after(&[(ReturnedToSender, 30), (Delivered, 40)]),
            ReturnedToSender,
            "that was at the sender's"
        );
    }

    #[test]
    fn a_scan_from_the_future_does_not_silence_the_next() {
        use ShipmentStatus::*;
        let shipment = ShipmentId::from(Uuid::from_u128(1));
        let scan = |status, minutes| Scan {
            shipment,
            status,
            occurred_at: at(minutes),
            source_event_id: String::new(),
        };
        let mut standings = BTreeMap::from([(shipment, Standing::NEW)]);
        let mut heard = HashSet::new();
        decide(&[scan(InTransit, 600)], &mut standings, &mut heard, at(10));
        let outcome = decide(&[scan(OutForDelivery, 20)], &mut standings, &mut heard, at(20));
        assert_eq!(
            outcome,
            [Some(Heard::Advanced {
                from: InTransit,
                to: OutForDelivery
            })]
        );
    }

    #[test]
    fn each_scan_is_answered_by_itself() {
        use ShipmentStatus::*;
        let [known, unknown] = [1, 2].map(|number| ShipmentId::from(Uuid::from_u128(number)));
        let scan = |shipment, status, minutes, source: &str| Scan {
            shipment,
            status,
            occurred_at: at(minutes),
            source_event_id: source.to_owned(),
        };
        let mut standings = BTreeMap::from([(known, Standing::NEW)]);
        let mut heard = HashSet::new();
        let outcomes = decide(
            &[
                scan(known, InTransit, 1, "a"),
                scan(unknown, InTransit, 1, "a"),
                // The same id again, with another text: the id decides.
                scan(known, Exception, 2, "a"),
                scan(known, InTransit, 1, ""),
                scan(known, InTransit, 1, ""),
                scan(known, Delivered, 9, "b"),
            ],
            &mut standings,
            &mut heard,
            at(100),
        );
        assert_eq!(
            outcomes,
            [
                Some(Heard::Advanced {
                    from: Pending,
                    to: InTransit
                }),
                None,
                Some(Heard::Duplicate(InTransit)),
                Some(Heard::Recorded(InTransit)),
                Some(Heard::Duplicate(InTransit)),
                Some(Heard::Advanced {
                    from: InTransit,
                    to: Delivered
                }),
            ]
        );
        assert_eq!(
            standings[&known],
            Standing {
                status: Delivered,
                newest: Some(at(9))
            }
        );
    }

    fn scans() -> impl Strategy<Value = Vec<(ShipmentStatus, i64)>> {
        // Few times, so that equal ones are common.
        prop::collection::vec(
            (prop::sample::select(ShipmentStatus::ALL.to_vec()), 0..6_i64),
            0..12,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// F-8: the status is a function of the set of scans.
        #[test]
        fn the_order_of_hearing_does_not_matter((scans, shuffled) in scans().prop_flat_map(|scans| {
            (Just(scans.clone()), Just(scans).prop_shuffle())
        })) {
            let newest = scans.iter().map(|(status, minutes)| (*minutes, *status)).max();
            let said = |status| scans.iter().any(|(said, _)| *said == status);
            let expected = if said(ShipmentStatus::ReturnedToSender) {
                ShipmentStatus::ReturnedToSender
            } else if said(ShipmentStatus::Delivered) {
                ShipmentStatus::Delivered
            } else {
                newest.map_or(ShipmentStatus::Pending, |(_, status)| status)
            };
            prop_assert_eq!(after(&scans), expected);
            prop_assert_eq!(after(&shuffled), expected);
        }

        /// F-7, step by step; and a scan that is heard twice changes nothing the second time.
        #[test]
        fn delivered_is_left_only_for_returned(scans in scans()) {
            let mut standing = Standing::NEW;
            for (status, minutes) in scans {
                let next = standing.hear(status, at(minutes));
                match standing.status {
                    ShipmentStatus::ReturnedToSender => prop_assert_eq!(next.status, standing.status),
                    ShipmentStatus::Delivered => prop_assert!(next.status >= ShipmentStatus::Delivered),
                    _ => {}
                }
                prop_assert!(next.newest >= standing.newest, "time does not run backwards");
                prop_assert_eq!(next.hear(status, at(minutes)), next);
                standing = next;
            }
        }
    }
}
