//! Sending: one job a message.

use std::sync::Arc;
use std::time::Duration;

use waybill_events::Log;
use waybill_kernel::time;
use waybill_store::jobs::{Done, Job, JobError, JobHandler};
use waybill_store::{Db, RetryClass as _};

use crate::app::delivery::{Begin, Finish, Suspend};
use crate::app::{SEND, SendPayload};
use crate::domain::brand::Brand;
use crate::domain::notification::{Notification, State};
use crate::error::Error;
use crate::owners::Owners;
use crate::providers::{Carrier, Outgoing, SendError};
use crate::render::Renderer;
use crate::store;

/// Sends messages.
pub struct Sender {
    /// The database.
    pub db: Db,
    /// The log of this service.
    pub log: Log,
    /// Now.
    pub clock: time::Shared,
    /// Whom to ask what a message says.
    pub owners: Owners,
    /// Templates.
    pub renderer: Arc<Renderer>,
    /// The way out.
    pub carrier: Arc<dyn Carrier>,
    /// After which a follow-up looks again.
    pub follow_up_pause: Duration,
    /// Tries before a message is given up.
    pub max_attempts: u32,
}

impl JobHandler for Sender {
    const KIND: &'static str = SEND;

    async fn run(&self, job: &Job) -> Result<Done, JobError> {
        let payload: SendPayload = job.payload()?;
        let due = store::due(self.db.pool(), payload.notification_id).await?;
        let due = due.ok_or_else(|| JobError::dead("the notification does not exist"))?;
        let notification = due.notification;
        if notification.state.is_final() {
            return Ok(Done::Finished);
        }
        let Some(brand) = due.brand else {
            let suspend = Suspend {
                id: notification.id,
                reason: "NO_BRAND",
                job,
            };
            return self
                .db
                .run(&suspend)
                .await
                .map(|()| Done::Finished)
                .map_err(retry);
        };
        if notification.stage.is_follow_up() && due.open_matter {
            return Ok(Done::Again {
                after: self.follow_up_pause,
            });
        }
        self.send(job, &notification, &brand).await
    }
}

impl Sender {
    async fn send(&self, job: &Job, notification: &Notification, brand: &Brand) -> Result<Done, JobError> {
        let addressed = self
            .owners
            .facts(notification, brand)
            .await
            // The status of a peer may name what it was asked for: only its code is kept.
            .map_err(|status| JobError::retry(format!("an owner could not be asked: {:?}", status.code())))?;
        if addressed.email.is_empty() {
            return self
                .finish(job, notification, State::Suppressed, "NO_ADDRESS")
                .await;
        }
        let locales = [addressed.locale.as_str(), brand.default_locale.as_str()];
        let content = self
            .renderer
            .render(notification.stage, &locales, &addressed.facts)
            .map_err(|error| JobError::dead(error.to_string()))?;

        let domain = brand.from_email.rsplit('@').next().unwrap_or("waybill.invalid");
        let begin = Begin {
            id: notification.id,
            message_id: format!("{}@{domain}", notification.id),
        };
        let Some(message_id) = self.db.run(&begin).await.map_err(retry)? else {
            return Ok(Done::Finished);
        };
        let outgoing = Outgoing {
            message_id,
            from_name: brand.name.clone(),
            from: brand.from_email.clone(),
            reply_to: brand.support_email.clone(),
            to: addressed.email,
            content,
        };
        let sent = tokio::time::timeout(job.remaining(), self.carrier.send(outgoing))
            .await
            .unwrap_or_else(|_| {
                Err(SendError::Unknown(
                    "no answer before the end of the lease".to_owned(),
                ))
            });
        match sent {
            Ok(()) => self.finish(job, notification, State::Sent, "").await,
            Err(SendError::Rejected(_)) => {
                self.finish(job, notification, State::Failed, "SMTP_REJECTED")
                    .await
            }
            Err(_) if job.attempt >= self.max_attempts => {
                self.finish(job, notification, State::Failed, "SMTP_UNAVAILABLE")
                    .await
            }
            Err(error @ (SendError::Transient(_) | SendError::Unknown(_))) => {
                Err(JobError::retry(error.to_string()))
            }
        }
    }

    async fn finish(
        &self,
        job: &Job,
        notification: &Notification,
        state: State,
        reason: &'static str,
    ) -> Result<Done, JobError> {
        let finish = Finish {
            log: &self.log,
            notification,
            state,
            reason,
            now: self.clock.now(),
            job,
        };
        self.db.run(&finish).await.map(|()| Done::Finished).map_err(retry)
    }
}

/// The reason of an error of our own: its text names no person.
fn retry(error: Error) -> JobError {
    tracing::debug!(retryable = error.is_retry(), "a step of sending failed");
    JobError::retry(error.to_string())
}
