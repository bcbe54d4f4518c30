//! Mails that a history of this schema that was lost may have sent.
//!
//! After a recovery the events are read again and the same messages are planned again, under new ids; their jobs are held.
//! Whatever was due before the recovery may have gone out already. Unless a person says that it is to be sent, it counts as
//! sent: a customer who hears nothing can ask, one who hears everything twice loses trust. The Message-ID of a message does
//! not depend on its id ([`crate::domain::notification::message_id`]), so a mail that does go out twice is one to mail
//! programs.

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use waybill_events::{Doubt, EffectError, Log, OutsideEffects};
use waybill_kernel::id::NotificationId;
use waybill_kernel::time;
use waybill_proto::waybill::events::v1::HeldEffect;
use waybill_proto::waybill::events::v1::held_effect::Class;
use waybill_rpc::convert::to_timestamp;
use waybill_store::{Db, Tx, UseCase};

use crate::app::SEND;
use crate::domain::notification::{State, message_id};
use crate::error::Error;
use crate::{events, store};

/// Messages that are taken as sent in one transaction.
const BATCH: usize = 100;

/// Settles what may have been sent.
pub struct Mails {
    /// The database.
    pub db: Db,
    /// The log of this service.
    pub log: Log,
    /// Now.
    pub clock: time::Shared,
}

const PREFIX: &str = "mail:";

fn ids(effects: &[HeldEffect]) -> Vec<NotificationId> {
    effects
        .iter()
        .filter_map(|effect| effect.effect_id.strip_prefix(PREFIX)?.parse().ok())
        .collect()
}

fn fault(error: Error) -> EffectError {
    match error {
        Error::Store(error) => error.into(),
        other => EffectError::Outside(other.to_string()),
    }
}

/// Takes messages as sent: their state, their events.
struct TakeAsSent<'a> {
    log: &'a Log,
    ids: &'a [NotificationId],
    now: DateTime<Utc>,
}

impl UseCase for TakeAsSent<'_> {
    type Output = usize;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<usize, Error> {
        let waiting = store::in_doubt(tx.conn(), self.ids).await?;
        let sent: Vec<(NotificationId, String)> = waiting
            .iter()
            .map(|(notification, from)| (notification.id, message_id(notification, from)))
            .collect();
        let versions = store::take_as_sent(tx.conn(), &sent, self.now).await?;
        let told: Vec<_> = waiting
            .iter()
            .filter_map(|(notification, _)| {
                let version = *versions.get(&notification.id)?;
                events::ended(notification, State::Sent, "", version, self.now)
            })
            .collect();
        self.log.append(tx, &told).await?;
        Ok(versions.len())
    }
}

impl OutsideEffects for Mails {
    fn kinds(&self) -> &'static [&'static str] {
        &[SEND]
    }

    fn undecided(&self, doubt: Doubt, limit: usize) -> BoxFuture<'_, Result<Vec<HeldEffect>, EffectError>> {
        async move {
            let waiting = store::undecided(self.db.pool(), doubt.until, limit as i64).await?;
            Ok(waiting
                .into_iter()
                .map(|notification| HeldEffect {
                    effect_id: format!("{PREFIX}{}", notification.id),
                    class: Class::DecidedAgain.into(),
                    kind: SEND.to_owned(),
                    merchant_id: notification.merchant.to_string(),
                    store_id: notification.store.to_string(),
                    order_id: notification.order.to_string(),
                    detail: format!("{} of {}", notification.stage.key(), notification.subject),
                    occurred_at: Some(to_timestamp(notification.scheduled_at)),
                })
                .collect())
        }
        .boxed()
    }

    fn adopt<'a>(
        &'a self,
        _doubt: Doubt,
        effects: &'a [HeldEffect],
    ) -> BoxFuture<'a, Result<usize, EffectError>> {
        async move {
            let mut taken = 0;
            for ids in ids(effects).chunks(BATCH) {
                let batch = TakeAsSent {
                    log: &self.log,
                    ids,
                    now: self.clock.now(),
                };
                taken += self.db.run(&batch).await.map_err(fault)?;
            }
            Ok(taken)
        }
        .boxed()
    }

    fn write_off<'a>(
        &'a self,
        effects: &'a [HeldEffect],
        reason: &'a str,
        by: &'a str,
    ) -> BoxFuture<'a, Result<usize, EffectError>> {
        async move { Ok(store::resend(self.db.pool(), &ids(effects), reason, by).await?) }.boxed()
    }
}
