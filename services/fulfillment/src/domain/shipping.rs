//! Which reserved units go into a shipment.
//!
//! A shipment leaves one location. Without a location in the request the first asked one that can serve it is taken;
//! without lines everything that is reserved there goes. It never ships what is not reserved (F-6): units that wait, or
//! that are reserved elsewhere, are named instead.

use waybill_kernel::id::{LineId, LocationId};

use super::shipment::Parcel;
use super::stock::Sku;

/// Units of a line that are reserved at a location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The line.
    pub line: LineId,
    /// What is reserved.
    pub sku: Sku,
    /// Where it lies.
    pub location: LocationId,
    /// The location's priority: the smaller, the earlier it is asked.
    pub priority: i32,
    /// How many units; more than 0.
    pub units: i64,
}

/// What somebody asks to ship.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// Where from; found when `None`.
    pub location: Option<LocationId>,
    /// Units per line, each line once; everything that is reserved at the location when empty.
    pub lines: Vec<(LineId, i64)>,
}

/// A shipment that can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Where it leaves from.
    pub location: LocationId,
    /// What is in it; at least one entry, each line once.
    pub parcels: Vec<Parcel>,
}

/// Why nothing can be shipped so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAllocated {
    /// Nothing of the order is reserved, at the location or anywhere.
    #[error(
        "nothing of the order is reserved{}; wait for its allocation, or add stock",
        .location.map(|id| format!(" at location {id}")).unwrap_or_default()
    )]
    Nothing {
        /// The location that was asked for.
        location: Option<LocationId>,
    },
    /// Fewer units of a line are reserved at the location than were asked for.
    #[error(
        "line {line}: {wanted} units asked for, {reserved} reserved at location {location}; ship fewer, or wait for stock"
    )]
    TooFew {
        /// The line.
        line: LineId,
        /// Units asked for.
        wanted: i64,
        /// Units reserved there.
        reserved: i64,
        /// The location.
        location: LocationId,
    },
    /// Fewer units of a line are reserved, over all locations, than were asked for.
    #[error("line {line}: {wanted} units asked for, {reserved} reserved; ship fewer, or wait for stock")]
    TooFewAnywhere {
        /// The line.
        line: LineId,
        /// Units asked for.
        wanted: i64,
        /// Units reserved over all locations.
        reserved: i64,
    },
    /// The lines are reserved, but no single location has all of them.
    #[error("the lines are reserved at several locations; make one shipment for each, naming location_id")]
    Scattered,
}

/// Decides what goes into a shipment.
///
/// # Errors
/// When what is asked for is not reserved at one location.
pub fn plan(reservations: &[Reservation], request: &Request) -> Result<Plan, NotAllocated> {
    let mut locations: Vec<(i32, LocationId)> = reservations
        .iter()
        .map(|reservation| (reservation.priority, reservation.location))
        .collect();
    locations.sort_unstable();
    locations.dedup();

    match request.location {
        Some(location) if locations.iter().all(|(_, known)| *known != location) => {
            Err(NotAllocated::Nothing {
                location: Some(location),
            })
        }
        Some(location) => from(location, reservations, &request.lines),
        None => match locations.as_slice() {
            [] => Err(NotAllocated::Nothing { location: None }),
            [(_, only)] => from(*only, reservations, &request.lines),
            several => several
                .iter()
                .find_map(|(_, location)| from(*location, reservations, &request.lines).ok())
                .ok_or_else(|| why_nowhere(reservations, &request.lines)),
        },
    }
}

fn reserved(reservations: &[Reservation], line: LineId, location: Option<LocationId>) -> i64 {
    reservations
        .iter()
        .filter(|r| r.line == line && location.is_none_or(|location| r.location == location))
        .map(|r| r.units)
        .sum()
}

fn from(
    location: LocationId,
    reservations: &[Reservation],
    lines: &[(LineId, i64)],
) -> Result<Plan, NotAllocated> {
    for (line, wanted) in lines {
        let reserved = reserved(reservations, *line, Some(location));
        if reserved < *wanted {
            return Err(NotAllocated::TooFew {
                line: *line,
                wanted: *wanted,
                reserved,
                location,
            });
        }
    }
    let asked = |line: LineId| {
        lines
            .iter()
            .find(|(asked, _)| *asked == line)
            .map(|(_, units)| *units)
    };
    let parcels = reservations
        .iter()
        .filter(|reservation| reservation.location == location)
        .filter_map(|reservation| {
            let units = if lines.is_empty() {
                Some(reservation.units)
            } else {
                asked(reservation.line)
            }?;
            Some(Parcel {
                line: reservation.line,
                sku: reservation.sku.clone(),
                units,
            })
        })
        .collect();
    Ok(Plan { location, parcels })
}

fn why_nowhere(reservations: &[Reservation], lines: &[(LineId, i64)]) -> NotAllocated {
    lines
        .iter()
        .map(|(line, wanted)| (*line, *wanted, reserved(reservations, *line, None)))
        .find(|(_, wanted, reserved)| reserved < wanted)
        .map_or(NotAllocated::Scattered, |(line, wanted, reserved)| {
            NotAllocated::TooFewAnywhere {
                line,
                wanted,
                reserved,
            }
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn line(number: u128) -> LineId {
        LineId::from(Uuid::from_u128(number))
    }

    fn location(number: u128) -> LocationId {
        LocationId::from(Uuid::from_u128(number))
    }

    fn reserved_at(place: u128, of: u128, units: i64) -> Reservation {
        Reservation {
            line: line(of),
            sku: Sku::known(format!("SKU-{of}")),
            location: location(place),
            // Location 2 is asked before location 1, so that ids and priorities differ.
            priority: -(place as i32),
            units,
        }
    }

    fn parcels(plan: &Plan) -> Vec<(LineId, i64)> {
        plan.parcels
            .iter()
            .map(|parcel| (parcel.line, parcel.units))
            .collect()
    }

    #[test]
    fn without_a_wish_everything_at_the_first_asked_location_goes() {
        let reservations = [reserved_at(1, 1, 2), reserved_at(2, 2, 3), reserved_at(2, 3, 1)];
        let plan = plan(&reservations, &Request::default()).expect("there is something");
        assert_eq!(plan.location, location(2));
        assert_eq!(parcels(&plan), [(line(2), 3), (line(3), 1)]);
    }

    #[test]
    fn lines_choose_the_location_that_has_them() {
        let reservations = [reserved_at(1, 1, 2), reserved_at(2, 1, 1), reserved_at(2, 2, 3)];
        let request = Request {
            location: None,
            lines: vec![(line(1), 2)],
        };
        let plan = plan(&reservations, &request).expect("location 1 has two");
        assert_eq!((plan.location, parcels(&plan)), (location(1), vec![(line(1), 2)]));
    }

    #[test]
    fn what_is_not_reserved_is_named() {
        let reservations = [reserved_at(1, 1, 2), reserved_at(2, 1, 1), reserved_at(2, 2, 3)];
        let ask = |location: Option<LocationId>, lines: &[(LineId, i64)]| {
            plan(
                &reservations,
                &Request {
                    location,
                    lines: lines.to_vec(),
                },
            )
            .expect_err("not possible")
        };
        assert_eq!(
            ask(Some(location(2)), &[(line(1), 2)]),
            NotAllocated::TooFew {
                line: line(1),
                wanted: 2,
                reserved: 1,
                location: location(2)
            }
        );
        assert_eq!(ask(None, &[(line(1), 3)]), NotAllocated::Scattered);
        assert_eq!(
            ask(None, &[(line(1), 4)]),
            NotAllocated::TooFewAnywhere {
                line: line(1),
                wanted: 4,
                reserved: 3
            }
        );
        assert_eq!(
            ask(Some(location(9)), &[]),
            NotAllocated::Nothing {
                location: Some(location(9))
            }
        );
        assert_eq!(
            plan(&[], &Request::default()),
            Err(NotAllocated::Nothing { location: None })
        );
    }

    proptest! {
        /// F-6: a plan holds what was asked for and nothing that is not reserved at its location.
        #[test]
        fn a_plan_ships_only_what_is_reserved(
            reservations in prop::collection::btree_map((1..4_u128, 1..5_u128), 1..6_i64, 0..10),
            asked in prop::collection::btree_map(1..5_u128, 1..6_i64, 0..4),
            wish in prop::option::of(1..4_u128),
        ) {
            let reservations: Vec<Reservation> =
                reservations.into_iter().map(|((place, of), units)| reserved_at(place, of, units)).collect();
            let request = Request {
                location: wish.map(location),
                lines: asked.into_iter().map(|(of, units)| (line(of), units)).collect(),
            };
            if let Ok(plan) = plan(&reservations, &request) {
                prop_assert!(!plan.parcels.is_empty());
                prop_assert!(request.location.is_none_or(|wish| wish == plan.location));
                for parcel in &plan.parcels {
                    let there = reserved(&reservations, parcel.line, Some(plan.location));
                    prop_assert!(parcel.units > 0 && parcel.units <= there);
                }
                if !request.lines.is_empty() {
                    let mut shipped = parcels(&plan);
                    shipped.sort();
                    prop_assert_eq!(shipped, request.lines);
                }
            }
        }
    }
}
