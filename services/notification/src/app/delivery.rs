//! The steps of handing one message over, each a transaction of its own: the intent is committed before the mail server
//! is called (N-2), the outcome after it, together with its event and the end of its job.

use chrono::{DateTime, Utc};
use waybill_events::Log;
use waybill_kernel::id::NotificationId;
use waybill_store::jobs::Job;
use waybill_store::{Tx, UseCase};

use crate::domain::notification::{Notification, State};
use crate::error::Error;
use crate::{events, store};

/// Commits the intent to send; answers the Message-ID to send under, or nothing when the message has ended meanwhile.
pub struct Begin {
    /// The notification.
    pub id: NotificationId,
    /// The Message-ID, should this be the first try.
    pub message_id: String,
}

impl UseCase for Begin {
    type Output = Option<String>;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Option<String>, Error> {
        Ok(store::begin(tx.conn(), self.id, &self.message_id).await?)
    }
}

/// Leaves a message scheduled with the reason why it waits, and ends its job.
pub struct Suspend<'a> {
    /// The notification.
    pub id: NotificationId,
    /// Why it waits.
    pub reason: &'static str,
    /// The job.
    pub job: &'a Job,
}

impl UseCase for Suspend<'_> {
    type Output = ();
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<(), Error> {
        store::suspend(tx.conn(), self.id, self.reason).await?;
        Ok(self.job.complete(tx).await?)
    }
}

/// Writes the end of a message, tells the others, and ends its job.
pub struct Finish<'a> {
    /// The log of this service.
    pub log: &'a Log,
    /// The notification.
    pub notification: &'a Notification,
    /// How it ended.
    pub state: State,
    /// Why, unless it was sent.
    pub reason: &'static str,
    /// Now.
    pub now: DateTime<Utc>,
    /// The job.
    pub job: &'a Job,
}

impl UseCase for Finish<'_> {
    type Output = ();
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<(), Error> {
        let notification = self.notification;
        let version = store::finish(tx.conn(), notification.id, self.state, self.reason, self.now).await?;
        if let Some(version) = version {
            let event = events::ended(notification, self.state, self.reason, version, self.now);
            self.log.append(tx, event.as_slice()).await?;
        }
        Ok(self.job.complete(tx).await?)
    }
}
