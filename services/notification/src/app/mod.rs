//! Use cases: each loads, decides and saves in one transaction.

pub mod delivery;
pub mod put_brand;

use waybill_store::jobs::NewJob;

use crate::domain::notification::{Notification, Planned};

/// The kind of the jobs that send.
pub const SEND: &str = "notification.send";

/// The destination of the jobs that send: there is one way out, whatever host it leads to.
pub const SMTP: &str = "smtp";

/// What a job that sends is told.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct SendPayload {
    /// The notification.
    pub notification_id: waybill_kernel::id::NotificationId,
}

/// The job that sends a planned message.
#[must_use]
pub fn job_of_planned(planned: &Planned) -> NewJob {
    let payload = serde_json::json!(SendPayload {
        notification_id: planned.id
    });
    let job = NewJob::new(SEND, planned.id.to_string(), planned.merchant, payload)
        .towards(SMTP)
        .for_order(planned.order)
        .traceparent(planned.traceparent.clone());
    // What has just happened is told at once, and not when the database's clock has caught up with the writer's.
    if planned.stage.is_follow_up() {
        job.not_before(planned.scheduled_at)
    } else {
        job
    }
}

/// The job that sends a message which waited; `round` tells it from the job that gave up waiting.
#[must_use]
pub fn job_of_waiting(notification: &Notification, round: i64) -> NewJob {
    let payload = serde_json::json!(SendPayload {
        notification_id: notification.id
    });
    NewJob::new(
        SEND,
        format!("{}/{round}", notification.id),
        notification.merchant,
        payload,
    )
    .towards(SMTP)
    .for_order(notification.order)
    .traceparent(notification.traceparent.clone())
}
