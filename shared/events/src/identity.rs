//! Is this still the log that others have read? Asked on every new connection, before it is used.
//!
//! A database that was restored, cloned or failed over may have lost events that others acted on. From then on nothing is
//! written and nothing is published until a person raises the log's generation. The check notices what the server can
//! tell (system identifier, timeline, database, table); a copy of the data folder that tells nothing is noticed by a
//! [`Witness`], or by the relay, which finds the stream's last event missing from the log.

use sqlx::PgConnection;
use waybill_store::ConnectCheck;
use waybill_store::error::StoreError;

use crate::store::identity::{Comparison, compare, fence, place};
use crate::witness::Witness;

/// A connection to a standby is never used: what it shows may be behind, and its watermark is not the log's.
#[derive(Debug, thiserror::Error)]
#[error("the server is a standby; connect to the primary")]
struct IsStandby;

/// The check of a [`Witness`] of its own, for who has no use for the witness.
#[must_use]
pub fn identity_check() -> ConnectCheck {
    Witness::new().check()
}

/// Fences the log when its identity is another one. False when there is nothing more to look at: the schema has no log
/// yet, or it is fenced.
pub(crate) async fn check(conn: &mut PgConnection) -> Result<bool, StoreError> {
    let (is_standby, has_log) = place(conn).await?;
    if is_standby {
        return Err(StoreError::other(IsStandby));
    }
    if !has_log {
        return Ok(false);
    }
    let comparison = compare(conn).await?;
    let Some(reason) = difference(&comparison) else {
        return Ok(comparison.fenced_reason.is_none());
    };
    if comparison.fenced_reason.is_none() && fence(conn, &reason, comparison.generation).await? {
        tracing::error!(
            reason,
            generation = comparison.generation,
            "the event log is fenced: nothing is written until its generation is raised"
        );
    }
    Ok(false)
}

fn difference(seen: &Comparison) -> Option<String> {
    let parts = [
        (
            "system identifier",
            seen.system_identifier,
            seen.live_system_identifier,
        ),
        ("timeline", seen.timeline, seen.live_timeline),
        ("database oid", seen.database_oid, seen.live_database_oid),
        ("oid of event_log", seen.table_oid, seen.live_table_oid),
    ];
    let differing: Vec<String> = parts
        .iter()
        .filter(|(_, written, live)| written != live)
        .map(|(part, written, live)| format!("{part} was {written} and is {live}"))
        .collect();
    (!differing.is_empty()).then(|| differing.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_counts() {
        let same = || Comparison {
            generation: 1,
            fenced_reason: None,
            system_identifier: 1,
            timeline: 2,
            database_oid: 3,
            table_oid: 4,
            live_system_identifier: 1,
            live_timeline: 2,
            live_database_oid: 3,
            live_table_oid: 4,
        };
        assert_eq!(difference(&same()), None);
        let differing = [
            Comparison {
                live_system_identifier: 9,
                ..same()
            },
            Comparison {
                live_timeline: 9,
                ..same()
            },
            Comparison {
                live_database_oid: 9,
                ..same()
            },
            Comparison {
                live_table_oid: 9,
                ..same()
            },
        ];
        for other in differing {
            assert!(
                difference(&other).is_some_and(|reason| reason.contains("is 9")),
                "{other:?}"
            );
        }
    }
}
