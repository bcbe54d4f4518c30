//! Sending: one job a message. Decides nothing by itself: [`Turn`] says whether a message goes out, the mail server
//! whether it was taken.

use std::sync::Arc;
use std::time::Duration;

use waybill_events::Log;
use waybill_kernel::time;
use waybill_store::Db;
use waybill_store::jobs::{Done, Job, JobError, JobHandler};

use crate::app::delivery::{Begin, Finish, Suspend, WaitForBrand};
use crate::app::{SEND, SendPayload};
use crate::domain::brand::Brand;
use crate::domain::notification::{Notification, State, message_id, reason};
use crate::domain::turn::Turn;
use crate::error::Error;
use crate::owners::{Addressed, OwnerError, Owners};
use crate::providers::{Carrier, Outgoing, SendError};
use crate::render::Renderer;
use crate::store;

/// After which an owner that stays away is asked again. No message is given up because one of our own services is away.
const OWNER_PAUSE: Duration = Duration::from_secs(600);

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
    /// After which a follow-up that waits looks again.
    pub follow_up_pause: Duration,
    /// After which a follow-up that waits is not sent any more.
    pub follow_up_patience: Duration,
    /// Tries before a message is given up.
    pub max_attempts: u32,
}

impl JobHandler for Sender {
    const KIND: &'static str = SEND;

    async fn run(&self, job: &Job) -> Result<Done, JobError> {
        let payload: SendPayload = job.payload()?;
        let due = store::due(self.db.pool(), payload.notification_id).await?;
        let due = due.ok_or_else(|| JobError::dead("the notification does not exist"))?;
        let notification = &due.notification;
        let now = self.clock.now();
        let turn = Turn::of(
            notification,
            due.brand.is_some(),
            due.open,
            now,
            self.follow_up_patience,
        );
        match (turn, &due.brand) {
            (Turn::Over, _) => Ok(Done::Finished),
            (Turn::Wait(reason), _) => self.put_off(notification, reason).await,
            (Turn::Suppress(reason), _) => self.finish(job, notification, State::Suppressed, reason).await,
            (Turn::Send, Some(brand)) => self.send(job, notification, brand).await,
            (Turn::WaitForBrand, _) | (Turn::Send, None) => self.wait_for_brand(job, notification).await,
        }
    }
}

impl Sender {
    async fn wait_for_brand(&self, job: &Job, notification: &Notification) -> Result<Done, JobError> {
        let wait = WaitForBrand { notification, job };
        Ok(match self.db.run(&wait).await.map_err(retry)? {
            true => Done::Finished,
            // It was set in this very moment.
            false => Done::Again {
                after: Duration::ZERO,
            },
        })
    }

    async fn put_off(&self, notification: &Notification, reason: &'static str) -> Result<Done, JobError> {
        if notification.reason != reason {
            let suspend = Suspend {
                id: notification.id,
                reason,
            };
            self.db.run(&suspend).await.map_err(retry)?;
        }
        Ok(Done::Again {
            after: self.follow_up_pause,
        })
    }

    async fn send(&self, job: &Job, notification: &Notification, brand: &Brand) -> Result<Done, JobError> {
        let last = job.attempt >= self.max_attempts;
        let Addressed {
            email,
            locale,
            facts,
            erased,
        } = match self.owners.facts(notification, brand).await {
            Ok(addressed) => addressed,
            Err(OwnerError::NotFound) if last => {
                let reason = reason::SUBJECT_NOT_FOUND;
                return self.finish(job, notification, State::Failed, reason).await;
            }
            Err(_) if last => return Ok(Done::Again { after: OWNER_PAUSE }),
            Err(error) => return Err(JobError::retry(error.to_string())),
        };
        if erased {
            return self
                .finish(job, notification, State::Suppressed, reason::CONTACT_ERASED)
                .await;
        }
        if email.is_empty() {
            return self
                .finish(job, notification, State::Suppressed, reason::NO_ADDRESS)
                .await;
        }
        let locales = [locale.as_str(), brand.default_locale.as_str()];
        let content = match self.renderer.render(notification.stage, &locales, &facts) {
            Ok(content) => content,
            Err(error) => {
                tracing::error!(stage = notification.stage.key(), %error, "a template could not be filled");
                let reason = reason::TEMPLATE_FAULT;
                return self.finish(job, notification, State::Failed, reason).await;
            }
        };

        let begin = Begin {
            job,
            id: notification.id,
            message_id: message_id(notification, &brand.from_email),
        };
        let Some(message_id) = self.db.run(&begin).await.map_err(retry)? else {
            return Ok(Done::Finished);
        };
        let outgoing = Outgoing {
            message_id,
            from_name: brand.name.clone(),
            from: brand.from_email.clone(),
            reply_to: brand.support_email.clone(),
            to: email,
            content,
        };
        // Bounded by the lease: after its end another sender may take the message up.
        let sent = tokio::time::timeout(job.remaining(), self.carrier.send(outgoing)).await;
        match &sent {
            // Another message may fare better: this is about one address.
            Ok(Ok(()) | Err(SendError::Rejected(_) | SendError::Transient(_))) => job.answered(),
            Ok(Err(SendError::Away(_) | SendError::Unknown(_))) | Err(_) => job.unanswered(),
        }
        let (state, reason) = match sent {
            Ok(Ok(())) => (State::Sent, ""),
            Ok(Err(SendError::Rejected(_))) => (State::Failed, reason::SMTP_REJECTED),
            _ if last => (State::Failed, reason::SMTP_UNAVAILABLE),
            Ok(Err(error)) => return Err(JobError::retry(error.to_string())),
            Err(_) => return Err(JobError::retry("no answer before the end of the lease")),
        };
        self.finish(job, notification, state, reason).await
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
    match error {
        Error::Store(error) => error.into(),
        other => JobError::retry(other.to_string()),
    }
}
