//! Where a relay goes on, given the end of the stream and what the log says about it: pure.

use uuid::Uuid;

use crate::nats::Tail;
use crate::position::Position;

/// Where to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume {
    /// Publish what comes after this place of the log …
    pub after: Position,
    /// … expecting the stream to end at this sequence.
    pub last_sequence: u64,
}

/// What the log says about the place of the stream's last event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The event that the log has there.
    pub in_log: Option<Uuid>,
    /// The last generation that was begun by a recovery.
    pub recovered: i64,
    /// The last event of the log that is not of a later generation than the stream's last event.
    pub fork: Position,
}

/// The stream tells of a history that the log does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differs {
    /// In words.
    pub reason: String,
    /// Whether the log is to be fenced: it may have lost events that others acted on.
    pub fence: bool,
}

/// Decides. `acknowledged` is the last event that this relay knows the stream took; `run_up` a place shortly before the
/// head of the log, from before the stream came into being.
pub fn decide(
    tail: &Tail,
    place: Option<&Place>,
    acknowledged: Option<Position>,
    run_up: Position,
) -> Result<Resume, Differs> {
    match *tail {
        // New, or all it held is gone. Consumers read from the log what they miss.
        Tail::Empty { last_sequence } => Ok(Resume {
            after: acknowledged.unwrap_or(run_up),
            last_sequence,
        }),
        Tail::Unreadable { last_sequence } => Err(Differs {
            reason: format!("the last messages of the stream, up to {last_sequence}, are no events of a log"),
            fence: false,
        }),
        Tail::Event {
            last_sequence,
            position,
            event_id,
        } => match place {
            Some(place) if place.in_log == Some(event_id.uuid()) => Ok(Resume {
                after: position,
                last_sequence,
            }),
            // A person has recovered the log since: the stream's end was written off.
            Some(place) if place.recovered > position.generation => Ok(Resume {
                after: place.fork,
                last_sequence,
            }),
            _ => Err(Differs {
                reason: format!(
                    "event {event_id} at {position}, the last of the stream, is not in the log: the log was put back to \
                     an older copy, or the stream is another system's"
                ),
                fence: true,
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    use waybill_kernel::id::EventId;

    use super::*;

    fn at(generation: i64, position: i64) -> Position {
        Position {
            generation,
            xid: 100,
            position,
        }
    }

    fn event(position: Position, event_id: EventId) -> Tail {
        Tail::Event {
            last_sequence: 7,
            position,
            event_id,
        }
    }

    #[test]
    fn an_empty_stream_goes_on_after_what_it_acknowledged() {
        let wiped = Tail::Empty { last_sequence: 0 };
        assert_eq!(
            decide(&wiped, None, Some(at(1, 50)), at(1, 9)),
            Ok(Resume {
                after: at(1, 50),
                last_sequence: 0
            })
        );
        assert_eq!(
            decide(&wiped, None, None, at(1, 9)),
            Ok(Resume {
                after: at(1, 9),
                last_sequence: 0
            })
        );
        let purged = Tail::Empty { last_sequence: 12 };
        assert_eq!(
            decide(&purged, None, None, at(1, 9)).map(|resume| resume.last_sequence),
            Ok(12)
        );
    }

    #[test]
    fn the_stream_decides_where_it_ends_even_when_it_lost_what_it_acknowledged() {
        let id = EventId::generate();
        let place = Place {
            in_log: Some(id.uuid()),
            recovered: 0,
            fork: at(1, 99),
        };
        assert_eq!(
            decide(&event(at(1, 5), id), Some(&place), Some(at(1, 50)), at(1, 9)),
            Ok(Resume {
                after: at(1, 5),
                last_sequence: 7
            })
        );
    }

    #[test]
    fn an_end_that_is_not_in_the_log_stops_and_fences() {
        let id = EventId::generate();
        let other = Place {
            in_log: Some(EventId::generate().uuid()),
            recovered: 0,
            fork: at(1, 4),
        };
        let none = Place {
            in_log: None,
            ..other
        };
        for place in [other, none] {
            let differs =
                decide(&event(at(1, 5), id), Some(&place), None, Position::ZERO).expect_err("not ours");
            assert!(
                differs.fence && differs.reason.contains(&id.to_string()),
                "{differs:?}"
            );
        }
    }

    #[test]
    fn a_recovery_writes_the_end_off() {
        let id = EventId::generate();
        let place = Place {
            in_log: None,
            recovered: 2,
            fork: at(1, 4),
        };
        assert_eq!(
            decide(&event(at(1, 5), id), Some(&place), None, Position::ZERO),
            Ok(Resume {
                after: at(1, 4),
                last_sequence: 7
            })
        );
        let not_above = Place {
            recovered: 1,
            ..place
        };
        assert!(decide(&event(at(1, 5), id), Some(&not_above), None, Position::ZERO).is_err());
    }

    #[test]
    fn foreign_messages_stop_but_say_nothing_about_the_log() {
        let differs = decide(&Tail::Unreadable { last_sequence: 3 }, None, None, Position::ZERO);
        assert!(differs.is_err_and(|differs| !differs.fence));
    }
}
