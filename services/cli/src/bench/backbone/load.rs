//! The load: events appended in transactions by some writers, with a bounded number on their way.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use chrono::Utc;
use futures_util::future::try_join_all;
use sqlx::types::Uuid;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use waybill_events::{Log, NewEvent};
use waybill_kernel::id::{MerchantId, StoreId};
use waybill_kernel::time::{Clock as _, SystemClock};
use waybill_proto::waybill::order::v1::PaymentRecorded;
use waybill_store::Db;

use super::journal::{Journal, ON_THE_WAY};
use super::pair::Pair;
use crate::bench::floor::{Shape, Speed};

/// How long all events on their way may take to arrive.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two events of the idle load: everything has come to rest by then.
const REST: Duration = Duration::from_millis(10);

/// How often the paced load begins transactions.
const TICK: Duration = Duration::from_millis(5);

/// Appends events.
pub(super) struct Load {
    writer: Arc<Writer>,
    shape: Shape,
}

struct Writer {
    db: Db,
    log: Log,
    journal: Arc<Journal>,
    keys: Vec<Uuid>,
    tenant: (MerchantId, StoreId),
    message: PaymentRecorded,
    /// The number of the next event. It travels as the aggregate's version.
    next: AtomicI64,
}

impl Load {
    pub(super) fn new(pair: &Pair, shape: Shape, journal: Arc<Journal>) -> Load {
        let mut id = shape.ids(2);
        Load {
            writer: Arc::new(Writer {
                db: pair.producer_db().clone(),
                log: pair.log().clone(),
                journal,
                keys: shape.keys(),
                tenant: (id().into(), id().into()),
                message: message(&shape),
                next: AtomicI64::new(0),
            }),
            shape,
        }
    }

    /// How many events were appended so far.
    pub(super) fn appended(&self) -> i64 {
        self.writer.next.load(Ordering::Relaxed)
    }

    /// As fast as they are taken: from the first append to the last effect.
    pub(super) async fn flat_out(&self, events: usize) -> anyhow::Result<Speed> {
        let end = self.appended() + events as i64;
        let began = Instant::now();
        try_join_all((0..self.shape.writers).map(|_| {
            let (writer, size) = (Arc::clone(&self.writer), self.shape.per_commit);
            async move {
                tokio::spawn(async move {
                    while writer.append_up_to(end, size).await? {}
                    anyhow::Ok(())
                })
                .await?
            }
        }))
        .await?;
        self.settled().await?;
        Ok(Speed {
            count: events as u64,
            time: began.elapsed(),
        })
    }

    /// Each after the effect of the one before.
    pub(super) async fn one_by_one(&self, events: usize) -> anyhow::Result<()> {
        for _ in 0..events {
            self.writer.append_up_to(self.appended() + 1, 1).await?;
            self.settled().await?;
            sleep(REST).await;
        }
        Ok(())
    }

    /// So many in a second, whatever becomes of them, in small transactions.
    pub(super) async fn at_rate(&self, per_second: f64, time: Duration) -> anyhow::Result<()> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let first = self.appended();
        let began = Instant::now();
        while began.elapsed() < time {
            tick.tick().await;
            let due = first + (per_second * began.elapsed().as_secs_f64()) as i64;
            let count = (due - self.appended()).clamp(0, ON_THE_WAY as i64 / 2);
            self.writer
                .append_up_to(self.appended() + count, count as usize)
                .await?;
        }
        self.settled().await
    }

    /// Waits until nothing is on its way.
    async fn settled(&self) -> anyhow::Result<()> {
        let all = self.writer.journal.room.acquire_many(ON_THE_WAY as u32);
        drop(
            timeout(PATIENCE, all)
                .await
                .with_context(|| format!("events are still on their way after {} s", PATIENCE.as_secs()))??,
        );
        Ok(())
    }
}

impl Writer {
    /// Appends the next events, at most `size` and up to number `end`, in one transaction. False when there are none left.
    async fn append_up_to(&self, end: i64, size: usize) -> anyhow::Result<bool> {
        let first = self.next.fetch_add(size as i64, Ordering::Relaxed);
        if first >= end {
            self.next.fetch_min(end, Ordering::Relaxed);
            return Ok(false);
        }
        let numbers = first..end.min(first + size as i64);
        let count = numbers.end - numbers.start;
        self.next.fetch_min(end, Ordering::Relaxed);
        self.journal.room.acquire_many(count as u32).await?.forget();
        let now = SystemClock.now();
        let events: Vec<NewEvent> = numbers.clone().map(|number| self.event(number, now)).collect();
        self.journal.begin(numbers.clone());
        let mut tx = self.db.begin().await?;
        self.log.append(&mut tx, &events).await?;
        tx.commit().await?;
        self.journal.committed(numbers);
        Ok(true)
    }

    fn event(&self, number: i64, now: chrono::DateTime<Utc>) -> NewEvent {
        let key = self.keys[number as usize % self.keys.len()];
        let (merchant, store) = self.tenant;
        NewEvent::new(merchant, store, key, key, number, &self.message, now)
    }
}

/// A real event, filled up to the size that is asked for.
fn message(shape: &Shape) -> PaymentRecorded {
    use prost::Message as _;
    let mut message = PaymentRecorded {
        currency_code: "EUR".to_owned(),
        amount_minor: 12_345,
        ..PaymentRecorded::default()
    };
    // The field's own head is two or three bytes; a payload that is one byte longer is no other payload.
    let room = shape.payload_bytes.saturating_sub(message.encoded_len() + 2);
    message.provider_payment_id = "x".repeat(room);
    message
}
