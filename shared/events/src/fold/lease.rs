//! Who works on which virtual partition: leases by the database's clock, each with an epoch.
//!
//! A lease only says who should work. That nobody else can commit is the work of the epoch in the cursor rows, which a
//! new owner raises in the transaction of its claim.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use uuid::Uuid;
use waybill_kernel::id::JobId;
use waybill_kernel::partition::PARTITIONS;
use waybill_store::Db;
use waybill_store::error::StoreError;

use crate::relay::in_words;
use crate::status::{Condition, Part};
use crate::store::fold as sql;

/// Virtual partitions and the epoch in which they are owned.
pub(crate) type Owned = BTreeMap<u16, i64>;

/// Claims, renews and releases the leases of one lane.
pub(super) struct Keeper {
    db: Db,
    consumer: &'static str,
    sources: &'static [&'static str],
    owner: String,
    wanted: Vec<u16>,
    ttl: Duration,
    part: Part,
    owned: watch::Sender<Owned>,
    look: Arc<Notify>,
}

impl Keeper {
    /// The keeper of the partitions that are `index` modulo `lanes`.
    pub fn new(
        db: &Db,
        consumer: &'static str,
        sources: &'static [&'static str],
        (index, lanes): (u16, u16),
        ttl: Duration,
        part: Part,
    ) -> Keeper {
        Keeper {
            db: db.clone(),
            consumer,
            sources,
            // Any id that nobody else has.
            owner: format!("{}/{index}", Uuid::from(JobId::generate())),
            wanted: (0..PARTITIONS)
                .filter(|partition| partition % lanes == index)
                .collect(),
            ttl,
            part,
            owned: watch::Sender::new(Owned::new()),
            look: Arc::new(Notify::new()),
        }
    }

    /// What is owned; changes when leases come or go.
    pub fn owned(&self) -> watch::Receiver<Owned> {
        self.owned.subscribe()
    }

    /// Makes the keeper look at once.
    pub fn look(&self) -> Arc<Notify> {
        Arc::clone(&self.look)
    }

    /// Keeps leases until dropped.
    pub async fn run(&self) {
        let every = self.ttl / 3;
        let mut prepared = false;
        loop {
            let kept = self.keep(&mut prepared).await;
            if let Err(error) = kept {
                self.part
                    .set(Condition::Retrying(format!("leases: {}", in_words(&error))));
            }
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = self.look.notified() => {}
            }
        }
    }

    async fn keep(&self, prepared: &mut bool) -> Result<(), StoreError> {
        if !*prepared {
            sql::ensure_leases(self.db.pool(), self.consumer).await?;
            *prepared = true;
        }
        if let Some(reason) = sql::stopped(self.db.pool(), self.consumer).await? {
            self.release().await?;
            self.part.set(Condition::Stopped(reason));
            return Ok(());
        }
        let held = self.held();
        let mut now: Owned = if held.is_empty() {
            Owned::new()
        } else {
            sql::renew(self.db.pool(), self.consumer, &self.owner, &held, self.ttl)
                .await?
                .into_iter()
                .collect()
        };
        if now.len() < self.wanted.len() {
            now.extend(self.claim(&now).await?);
        }
        if now.is_empty() {
            self.part.set(Condition::Standby);
        }
        self.owned.send_if_modified(|owned| {
            let changed = *owned != now;
            *owned = now;
            changed
        });
        Ok(())
    }

    async fn claim(&self, held: &Owned) -> Result<Vec<sql::Ownership>, StoreError> {
        let free: Vec<u16> = self
            .wanted
            .iter()
            .copied()
            .filter(|partition| !held.contains_key(partition))
            .collect();
        let mut tx = self.db.begin().await?;
        let claimed = sql::claim(tx.conn(), self.consumer, &self.owner, &free, self.ttl).await?;
        if claimed.is_empty() {
            tx.rollback().await?;
            return Ok(claimed);
        }
        sql::take_cursors(tx.conn(), self.consumer, self.sources, &claimed).await?;
        tx.commit().await?;
        tracing::info!(
            consumer = self.consumer,
            owner = self.owner,
            partitions = claimed.len(),
            "virtual partitions were claimed"
        );
        Ok(claimed)
    }

    fn held(&self) -> Vec<sql::Ownership> {
        self.owned
            .borrow()
            .iter()
            .map(|(partition, epoch)| (*partition, *epoch))
            .collect()
    }

    /// Gives all leases back.
    pub async fn release(&self) -> Result<(), StoreError> {
        let held = self.held();
        if held.is_empty() {
            return Ok(());
        }
        self.owned.send_replace(Owned::new());
        sql::release(self.db.pool(), self.consumer, &self.owner, &held).await
    }
}
