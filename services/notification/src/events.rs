//! What the service tells the others: the end of each notification. Ids and codes only.

use chrono::{DateTime, Utc};
use waybill_events::NewEvent;
use waybill_proto::waybill::notification::v1 as pb;

use crate::domain::notification::{Notification, State};

/// The event that a notification's end is told by; none for states that are no end.
#[must_use]
pub fn ended(
    notification: &Notification,
    state: State,
    reason: &str,
    version: i64,
    now: DateTime<Utc>,
) -> Option<NewEvent> {
    let order_id = notification.order.to_string();
    let notification_id = notification.id.to_string();
    let stage = notification.stage.key().to_owned();
    let channel = "email".to_owned();
    let reason = reason.to_owned();
    match state {
        State::Sent => {
            let subject_id = notification.subject.to_string();
            let sent = pb::NotificationSent {
                order_id,
                notification_id,
                stage,
                channel,
                subject_id,
            };
            Some(event(notification, version, &sent, now))
        }
        State::Suppressed => {
            let suppressed = pb::NotificationSuppressed {
                order_id,
                notification_id,
                stage,
                channel,
                reason,
            };
            Some(event(notification, version, &suppressed, now))
        }
        State::Failed => {
            let failed = pb::NotificationFailed {
                order_id,
                notification_id,
                stage,
                channel,
                reason,
            };
            Some(event(notification, version, &failed, now))
        }
        State::Scheduled | State::Sending => None,
    }
}

fn event<M: prost::Message + prost::Name>(
    notification: &Notification,
    version: i64,
    message: &M,
    now: DateTime<Utc>,
) -> NewEvent {
    NewEvent::new(
        notification.merchant,
        notification.store,
        notification.order,
        notification.id,
        version,
        message,
        now,
    )
}
