//! Rows of jobs as messages.

use waybill_kernel::check::Violations;
use waybill_proto::waybill::jobs::v1 as pb;
use waybill_rpc::convert::to_timestamp;
use waybill_store::jobs::operate::{ActionRow, JobRow};
use waybill_store::jobs::{Backlog, Destination, Failure, Hold};

/// The state that is restricted to; `Some(None)` for all.
pub(crate) fn state_filter(state: i32, violations: &mut Violations) -> Option<Option<&'static str>> {
    match pb::JobState::try_from(state) {
        Ok(pb::JobState::Unspecified) => Some(None),
        Ok(pb::JobState::Waiting) => Some(Some("waiting")),
        Ok(pb::JobState::Running) => Some(Some("running")),
        Ok(pb::JobState::Done) => Some(Some("done")),
        Ok(pb::JobState::Dead) => Some(Some("dead")),
        Err(_) => {
            violations.push("state", format!("{state} is not a value that this server knows"));
            None
        }
    }
}

fn state(text: &str) -> pb::JobState {
    match text {
        "waiting" => pb::JobState::Waiting,
        "running" => pb::JobState::Running,
        "done" => pb::JobState::Done,
        "dead" => pb::JobState::Dead,
        _ => pb::JobState::Unspecified,
    }
}

pub(crate) fn job(row: JobRow) -> pb::Job {
    // Version, trace id, span id, flags.
    let trace_id = row.traceparent.as_deref().and_then(|text| text.split('-').nth(1));
    pb::Job {
        job_id: row.job_id.to_string(),
        kind: row.kind,
        key: row.key,
        merchant_id: row.merchant_id.to_string(),
        order_id: row.order_id.map(|id| id.to_string()).unwrap_or_default(),
        destination: row.destination,
        priority: i32::from(row.priority),
        state: state(&row.state).into(),
        due_at: Some(to_timestamp(row.due_at)),
        claims: row.claims,
        failures: row.failures,
        last_error: row.last_error.unwrap_or_default(),
        worker: row.runner.unwrap_or_default(),
        created_at: Some(to_timestamp(row.created_at)),
        taken_at: row.taken_at.map(to_timestamp),
        finished_at: row.finished_at.map(to_timestamp),
        trace_id: trace_id.unwrap_or_default().to_owned(),
    }
}

pub(crate) fn attempt(row: Failure) -> pb::JobAttempt {
    pb::JobAttempt {
        claim: row.claim,
        began_at: row.began_at.map(to_timestamp),
        failed_at: Some(to_timestamp(row.failed_at)),
        worker: row.runner.unwrap_or_default(),
        reason: row.reason,
    }
}

pub(crate) fn action(row: ActionRow) -> pb::JobAction {
    pb::JobAction {
        happened_at: Some(to_timestamp(row.happened_at)),
        action: row.action,
        caller: row.caller,
        reason: row.reason,
    }
}

pub(crate) fn kind(row: Backlog) -> pb::JobKind {
    pb::JobKind {
        kind: row.kind,
        due: row.due,
        later: row.later,
        running: row.running,
        dead: row.dead,
        oldest_due_seconds: row.oldest_due_seconds,
        holds: Vec::new(),
    }
}

pub(crate) fn hold(row: Hold) -> pb::JobHold {
    pb::JobHold {
        holder: row.holder,
        reason: row.reason,
        held_by: row.held_by,
        since: Some(to_timestamp(row.since)),
    }
}

pub(crate) fn destination(row: Destination) -> pb::Destination {
    let breaker = match row.stand.as_str() {
        "closed" => pb::BreakerState::Closed,
        "open" => pb::BreakerState::Open,
        "half_open" => pb::BreakerState::HalfOpen,
        _ => pb::BreakerState::Unspecified,
    };
    pb::Destination {
        destination: row.destination,
        breaker: breaker.into(),
        failures: row.failures,
        open_until: row.open_until.map(to_timestamp),
        failed_at: row.failed_at.map(to_timestamp),
        running: row.running,
        due: row.due,
        max_running: row.max_running.unwrap_or_default(),
        per_second: row.per_second.unwrap_or_default(),
        burst: row.burst,
    }
}
