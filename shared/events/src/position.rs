//! Where an event stands in a log.
//!
//! Positions of different logs have nothing to do with each other; nothing here can tell them apart.

use std::fmt;
use std::str::FromStr;

use waybill_proto::waybill::events::v1::LogPosition;

/// A place in the event log of one service. Places are ordered by generation, then transaction id, then position: that
/// is the order in which a reader sees them become visible, which the identity value alone is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// How often the history of the log was forked, counted from 1.
    pub generation: i64,
    /// The 64-bit id of the transaction that wrote the event.
    pub xid: u64,
    /// The identity value of the row.
    pub position: i64,
}

impl Position {
    /// The place before the first event.
    pub const ZERO: Position = Position {
        generation: 0,
        xid: 0,
        position: 0,
    };

    /// Whether this is the place before the first event.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self == Position::ZERO
    }
}

/// The text is not a position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no log position; expected generation.transaction.position, e.g. \"1.7402.311\"")]
pub struct PositionError(String);

/// `generation.transaction.position`, as the headers of a message carry it.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.generation, self.xid, self.position)
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let refuse = || PositionError(text.chars().take(64).collect());
        let mut parts = text.split('.');
        let (Some(generation), Some(xid), Some(position), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(refuse());
        };
        let parsed = Position {
            generation: generation.parse().map_err(|_| refuse())?,
            xid: xid.parse().map_err(|_| refuse())?,
            position: position.parse().map_err(|_| refuse())?,
        };
        if parsed.generation < 0 || parsed.position < 0 {
            return Err(refuse());
        }
        Ok(parsed)
    }
}

impl From<Position> for LogPosition {
    fn from(position: Position) -> Self {
        LogPosition {
            generation: position.generation,
            transaction_id: position.xid,
            position: position.position,
        }
    }
}

impl From<LogPosition> for Position {
    fn from(position: LogPosition) -> Self {
        Position {
            generation: position.generation,
            xid: position.transaction_id,
            position: position.position,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn text_round_trips(generation in 0..i64::MAX, xid in any::<u64>(), position in 0..i64::MAX) {
            let place = Position { generation, xid, position };
            prop_assert_eq!(place.to_string().parse::<Position>(), Ok(place));
            prop_assert_eq!(Position::from(LogPosition::from(place)), place);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            if let Ok(place) = text.parse::<Position>() {
                prop_assert!(place.position >= 0);
            }
        }
    }

    #[test]
    fn generation_weighs_more_than_transaction_and_transaction_more_than_position() {
        let place = |generation, xid, position| Position {
            generation,
            xid,
            position,
        };
        assert!(place(1, 900, 900) < place(2, 1, 1));
        assert!(place(1, 1, 900) < place(1, 2, 1));
        assert!(place(1, 1, 1) < place(1, 1, 2));
        assert!(Position::ZERO < place(1, 0, 0));
        assert!(Position::ZERO.is_zero());
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "", "1", "1.2", "1.2.3.4", "a.2.3", "1.-2.3", "-1.2.3", "1.2.-3", "1..3",
        ] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }
}
