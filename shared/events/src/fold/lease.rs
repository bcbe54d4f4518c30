//! Who works on which virtual partition: leases by the database's clock, each with an epoch, shared out evenly among the
//! processes that are there.
//!
//! A lease only says who should work. That nobody else can commit is the work of the epoch in the cursor rows, which a
//! new owner raises in the transaction of its claim. One statement a heartbeat renews the leases and the membership and
//! tells how everything is; a claim follows only when something is free, a release only when there is too much.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use waybill_kernel::id::JobId;
use waybill_store::Db;
use waybill_store::error::StoreError;

use super::gauges::LeaseMeters;
use super::seat::Seat;
use super::share::{View, assign, decide};
use crate::relay::in_words;
use crate::status::{Condition, Part};
use crate::store::fold as sql;
use crate::store::lease::{self, Beat};

/// Virtual partitions and the epoch in which they are owned.
pub(crate) type Owned = BTreeMap<u16, i64>;

/// What a keeper is made of.
pub(crate) struct KeeperParts {
    pub db: Db,
    pub consumer: &'static str,
    pub sources: &'static [&'static str],
    pub ttl: Duration,
    /// One for each lane.
    pub parts: Vec<Part>,
    pub meters: LeaseMeters,
}

/// Keeps the leases of one consumer in one process and shares them out among its lanes.
pub(crate) struct Keeper {
    parts: KeeperParts,
    member: String,
    seats: Vec<Arc<Seat>>,
    look: Arc<Notify>,
}

/// What a keeper remembers from one heartbeat to the next.
#[derive(Default)]
struct Memory {
    held: Owned,
    /// Which lane works on which partition.
    lanes: BTreeMap<u16, u16>,
    prepared: bool,
    /// Partitions that others have to give back.
    missing: usize,
}

impl Keeper {
    pub fn new(parts: KeeperParts) -> Keeper {
        let look = Arc::new(Notify::new());
        Keeper {
            // Any name that nobody else has; those who came first are first by name.
            member: Uuid::from(JobId::generate()).to_string(),
            seats: parts.parts.iter().map(|_| Arc::new(Seat::new(&look))).collect(),
            parts,
            look,
        }
    }

    /// The seat of a lane.
    pub fn seat(&self, lane: u16) -> Arc<Seat> {
        Arc::clone(&self.seats[usize::from(lane)])
    }

    /// Keeps leases until `shutdown` and until the lanes have ended their batches; then gives everything back at once.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), std::convert::Infallible> {
        let mut memory = Memory::default();
        loop {
            if let Err(error) = self.keep(&mut memory).await {
                self.say(&Condition::Retrying(format!("leases: {}", in_words(&error))));
            }
            // Who waits for others to give back looks more often.
            let pause = self.parts.ttl / if memory.missing > 0 { 12 } else { 3 };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
                () = self.look.notified() => {}
            }
        }
        while !self.seats.iter().all(|seat| seat.has_left()) {
            tokio::select! {
                () = self.look.notified() => {}
                () = tokio::time::sleep(self.parts.ttl / 3) => {
                    if let Err(error) = self.beat(&memory.held).await {
                        tracing::debug!(consumer = self.parts.consumer, error = in_words(&error), "leases run out");
                    }
                }
            }
        }
        if let Err(error) = lease::leave(self.parts.db.pool(), self.parts.consumer, &self.member).await {
            tracing::warn!(
                consumer = self.parts.consumer,
                error = in_words(&error),
                "leases run out by themselves"
            );
        }
        self.parts.meters.owned(0);
        Ok(())
    }

    async fn beat(&self, held: &Owned) -> Result<Beat, StoreError> {
        let held: Vec<sql::Ownership> = held
            .iter()
            .map(|(partition, epoch)| (*partition, *epoch))
            .collect();
        lease::beat(
            self.parts.db.pool(),
            self.parts.consumer,
            &self.member,
            &held,
            self.parts.ttl,
        )
        .await
    }

    /// One heartbeat.
    async fn keep(&self, memory: &mut Memory) -> Result<(), StoreError> {
        if !memory.prepared {
            sql::ensure_leases(self.parts.db.pool(), self.parts.consumer).await?;
            memory.prepared = true;
        }
        let beat = self.beat(&memory.held).await?;
        let lost = memory.held.len() - beat.held.len();
        self.parts.meters.lost(lost);
        memory.held.clone_from(&beat.held);
        if let Some(reason) = beat.stopped {
            memory.missing = 0;
            let everything = memory.held.keys().copied().collect();
            self.give_back(memory, &everything).await?;
            self.say(&Condition::Stopped(reason));
            return Ok(());
        }
        let decision = decide(
            &self.member,
            &View {
                members: beat.members.iter().map(String::as_str).collect(),
                owners: beat
                    .owners
                    .iter()
                    .map(|(p, owner)| (*p, owner.as_deref()))
                    .collect(),
            },
        );
        memory.missing = decision.missing;
        self.give_back(memory, &decision.release).await?;
        if decision.claim > 0 {
            let free: Vec<u16> = beat
                .owners
                .iter()
                .filter(|(_, owner)| owner.is_none())
                .map(|(partition, _)| *partition)
                .collect();
            let claimed = self.claim(&free, decision.claim).await?;
            memory.missing += decision.claim - claimed.len();
            memory.held.extend(claimed);
            self.share_out(memory, &BTreeSet::new());
        }
        for (lane, part) in (0_u16..).zip(&self.parts.parts) {
            if !memory.lanes.values().any(|of| *of == lane) {
                part.set(Condition::Standby);
            }
        }
        self.parts.meters.owned(memory.held.len());
        Ok(())
    }

    /// Takes partitions from the lanes and gives those back that no batch runs on; the lanes ring when a batch has ended.
    async fn give_back(&self, memory: &mut Memory, release: &BTreeSet<u16>) -> Result<(), StoreError> {
        let in_use = self.share_out(memory, release);
        let idle: Vec<sql::Ownership> = memory
            .held
            .iter()
            .filter(|(partition, _)| release.contains(partition) && !in_use.contains(partition))
            .map(|(partition, epoch)| (*partition, *epoch))
            .collect();
        if idle.is_empty() {
            return Ok(());
        }
        sql::release(self.parts.db.pool(), self.parts.consumer, &self.member, &idle).await?;
        for (partition, _) in &idle {
            memory.held.remove(partition);
        }
        self.parts.meters.released(idle.len());
        tracing::info!(
            consumer = self.parts.consumer,
            member = self.member,
            partitions = idle.len(),
            "virtual partitions were given back"
        );
        Ok(())
    }

    /// Shares what is held, but for some, out among the lanes. A lane gets a partition only when no other one works on it
    /// any more. Tells what may still be worked on.
    fn share_out(&self, memory: &mut Memory, but: &BTreeSet<u16>) -> BTreeSet<u16> {
        let kept: BTreeSet<u16> = memory
            .held
            .keys()
            .copied()
            .filter(|partition| !but.contains(partition))
            .collect();
        memory.lanes = assign(&memory.lanes, &kept, self.seats.len() as u16);
        let wanted: Vec<Owned> = (0..self.seats.len() as u16)
            .map(|lane| {
                let of_lane = memory
                    .held
                    .iter()
                    .filter(|(partition, _)| memory.lanes.get(partition) == Some(&lane));
                of_lane.map(|(partition, epoch)| (*partition, *epoch)).collect()
            })
            .collect();
        let in_use: Vec<BTreeSet<u16>> = self
            .seats
            .iter()
            .zip(&wanted)
            .map(|(seat, wanted)| seat.withdraw_all_but(wanted))
            .collect();
        for (lane, mut wanted) in wanted.into_iter().enumerate() {
            let elsewhere = |partition: &u16| {
                let others = in_use.iter().enumerate().filter(|(other, _)| *other != lane);
                others.into_iter().any(|(_, in_use)| in_use.contains(partition))
            };
            wanted.retain(|partition, _| !elsewhere(partition));
            self.seats[lane].hand(wanted);
        }
        in_use.into_iter().flatten().collect()
    }

    async fn claim(&self, free: &[u16], most: usize) -> Result<Vec<sql::Ownership>, StoreError> {
        let parts = &self.parts;
        let mut tx = parts.db.begin().await?;
        let claimed = lease::claim(tx.conn(), parts.consumer, &self.member, free, most, parts.ttl).await?;
        // A pause that was committed while this one waited for its rows counts.
        if claimed.is_empty() || sql::stopped(tx.conn(), parts.consumer).await?.is_some() {
            tx.rollback().await?;
            return Ok(Vec::new());
        }
        sql::take_cursors(tx.conn(), parts.consumer, parts.sources, &claimed).await?;
        tx.commit().await?;
        parts.meters.claimed(claimed.len());
        tracing::info!(
            consumer = parts.consumer,
            member = self.member,
            partitions = claimed.len(),
            "virtual partitions were claimed"
        );
        Ok(claimed)
    }

    fn say(&self, condition: &Condition) {
        for part in &self.parts.parts {
            part.set(condition.clone());
        }
    }
}
