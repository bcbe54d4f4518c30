//! The decisions that the world is run by.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;
use waybill_events::Position;
use waybill_events::cursor::{self, Decision};
use waybill_events::gate::{self, Arrival, Plan, Waiting};
use waybill_events::resume::{self, Differs, Place, Resume, Tail};
use waybill_store::jobs::rule::job::{JobState, Taking, Verdict};

/// An event of either log, by its number there.
pub type EventRef = (usize, usize);

type PlanRule =
    fn(Vec<Arrival<EventRef>>, HashSet<Uuid>, &HashSet<Uuid>, Vec<Waiting<EventRef>>) -> Plan<EventRef>;

type ResumeRule = fn(&Tail, Option<&Place>, Option<Position>, Position) -> Result<Resume, Differs>;

/// The decisions, each of which a test may replace by a wrong one.
#[derive(Clone, Copy)]
pub struct Rules {
    /// What a consumer does with an event: its cursor, the event's `prev`, the event.
    pub cursor: fn(Position, Position, Position) -> Decision,
    /// Which events of a batch take effect.
    pub plan: PlanRule,
    /// Whether a process with this epoch may commit where the lease has that one.
    pub may_commit: fn(held: u64, lease: u64) -> bool,
    /// Where a relay goes on.
    pub resume: ResumeRule,
    /// Whether a relay looks at the stream again when its connection broke. A broker that comes back with an older copy, or
    /// none, counts anew: without a look a stale relay can meet its own number again.
    pub looks_again: bool,
    /// Taking a job.
    pub take: fn(&mut JobState, DateTime<Utc>, Duration, u32) -> Taking,
    /// Settling a job.
    pub settle: fn(&mut JobState, i64, Verdict, DateTime<Utc>) -> bool,
    /// The provider's idempotency key of a job that is taken for this time.
    pub provider_key: fn(job: u64, claim: i64) -> u64,
}

impl Rules {
    /// The product's.
    #[must_use]
    pub fn real() -> Self {
        Rules {
            cursor: cursor::decide,
            plan: gate::plan,
            may_commit: |held, lease| held == lease,
            resume: resume::decide,
            looks_again: true,
            take: JobState::take,
            settle: JobState::settle,
            provider_key: |job, _| job,
        }
    }
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").finish_non_exhaustive()
    }
}
