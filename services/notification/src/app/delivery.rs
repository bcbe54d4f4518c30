//! The steps of handing one message over, each a transaction of its own: the intent is committed before the mail server
//! is called (N-2), the outcome after it, together with its event and the end of its job.

use chrono::{DateTime, Utc};
use waybill_events::Log;
use waybill_kernel::id::NotificationId;
use waybill_store::jobs::Job;
use waybill_store::{Tx, UseCase};

use crate::domain::notification::{Notification, State, reason};
use crate::error::Error;
use crate::{events, store};

/// Commits the intent to send; answers the Message-ID to send under, or nothing when the message has ended meanwhile.
pub struct Begin<'a> {
    /// The job; nothing is sent once its kind is held.
    pub job: &'a Job,
    /// The notification.
    pub id: NotificationId,
    /// The Message-ID, should this be the first try.
    pub message_id: String,
}

impl UseCase for Begin<'_> {
    type Output = Option<String>;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Option<String>, Error> {
        self.job.still_allowed(tx).await?;
        Ok(store::begin(tx.conn(), self.id, &self.message_id).await?)
    }
}

/// Notes why a message waits. Its job stays and looks again.
pub struct Suspend {
    /// The notification.
    pub id: NotificationId,
    /// Why it waits.
    pub reason: &'static str,
}

impl UseCase for Suspend {
    type Output = ();
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<(), Error> {
        Ok(store::suspend(tx.conn(), self.id, self.reason).await?)
    }
}

/// Leaves a message waiting for its store's brand and ends its job; setting the brand writes another one. Answers false,
/// and does nothing, when the store has a brand by now.
pub struct WaitForBrand<'a> {
    /// The notification.
    pub notification: &'a Notification,
    /// The job.
    pub job: &'a Job,
}

impl UseCase for WaitForBrand<'_> {
    type Output = bool;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<bool, Error> {
        let Notification {
            id, merchant, store, ..
        } = *self.notification;
        // Whoever sets the brand takes up what waits: the two must not miss each other.
        store::share_brand(tx.conn(), merchant, store).await?;
        if store::brand_exists(tx.conn(), merchant, store).await? {
            return Ok(false);
        }
        store::suspend(tx.conn(), id, reason::NO_BRAND).await?;
        self.job.complete(tx).await?;
        Ok(true)
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
