//! Commits that are lost: the whole Postgres is put back to an older copy, after others have acted on what it lost.
//!
//! It comes last, when everything stands still, because it needs an account of its own. Three groups of orders tell its
//! story:
//!
//! - *promised*: placed before the copy, with refunds that no provider could be reached for. After the copy the provider
//!   pays them and customers are told. The older copy knows nothing of it, and must not pay or tell again;
//! - *doomed*: placed, shipped, refunded and told after the copy. They are gone, as an acknowledged order may only be where
//!   the operator has said so (`accept_loss`): listed as orphans, their payouts written off;
//! - *later*: placed after the recovery, to see that life goes on.
//!
//! The recovery is the one of `deploy/runbooks/lost-commits.md`, by the same calls as `waybill log …`.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::time::{Instant, sleep};
use waybill_embedded::Downtime;
use waybill_proto::waybill::events::v1 as pb;

use super::Verification;
use super::check;
use super::inject::copy_folder;
use super::report::say;
use super::world::Far;
use crate::load::{Caller, Ended, Load, Pace};
use crate::stack::SERVICES;

/// Orders of each group, and the number of its first one.
const ORDERS: u64 = 12;
const PROMISED: u32 = 1_000_000;
const DOOMED: u32 = 2_000_000;
const LATER: u32 = 3_000_000;

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// In which order logs are recovered, as the runbook says.
const RECOVERED: [&str; 5] = ["order", "fulfillment", "refund", "analytics", "notification"];

/// What is gone, and what was done about it.
#[derive(Debug, Default)]
pub struct Lost {
    /// Orders that are gone.
    pub doomed: Vec<Ended>,
    /// Ids of orders of which a part is gone: their customers were told by the lost history.
    pub promised: BTreeSet<String>,
}

impl Verification {
    /// Puts Postgres back to an older copy and recovers. Says what was lost.
    pub async fn lose_commits(&mut self) -> anyhow::Result<String> {
        let start = Instant::now();
        let db = check::admin(&self.world.embedded).await?;
        say(self.json, "Putting Postgres back to an older copy …");

        let providers = || self.world.lines.iter().filter(|line| line.far == Far::Provider);
        providers().for_each(|line| line.wire.cut());
        let mut promised = self.group(PROMISED).await?;
        until("refunds wait for their provider", || {
            only_refunds_wait(&db, &promised)
        })
        .await?;
        let copied = lengths(&db).await?;
        let copy = self.world.folder.join("older-copy");
        let to = copy.clone();
        self.world
            .embedded
            .postgres()
            .while_stopped("copy", Downtime::Stop, move |data| copy_folder(data, &to))
            .await?;

        providers().for_each(|line| line.wire.restore());
        let mut doomed = self.group(DOOMED).await?;
        self.settle(start, &mut promised).await?;
        self.settle(start, &mut doomed).await?;
        until("all logs are published", || self.published()).await?;
        let lost: BTreeMap<&str, i64> = lengths(&check::admin(&self.world.embedded).await?)
            .await?
            .into_iter()
            .map(|(service, length)| (service, length - copied.get(service).copied().unwrap_or(0)))
            .collect();
        self.world
            .embedded
            .postgres()
            .while_stopped("put back an older", Downtime::Kill, move |data| {
                std::fs::remove_dir_all(data)?;
                std::fs::rename(&copy, data)
            })
            .await?;

        say(self.json, format!("  lost: {lost:?} events"));
        self.lost = Lost {
            promised: promised
                .book
                .ended()
                .into_iter()
                .map(|ended| ended.order_id)
                .collect(),
            doomed: doomed.book.ended(),
        };
        self.books.push(promised.book.clone());
        self.recover(&lost).await?;
        let (adopted, written_off) = self.settle_outside().await?;
        let mut later = self.group(LATER).await?;
        self.settle(start, &mut later).await?;
        self.books.push(later.book.clone());
        Ok(format!(
            "{} events and {} orders lost and listed, {adopted} payouts and mails adopted, {written_off} written off",
            lost.values().sum::<i64>(),
            self.lost.doomed.len(),
        ))
    }

    /// Begins a group of orders.
    async fn group(&self, first: u32) -> anyhow::Result<Load> {
        let pace = Pace {
            seed: self.seed,
            first,
            rate: self.args.rate.max(2.0),
            in_flight: self.args.in_flight as usize,
            impatience: true,
        };
        let load = Load::start(self.world.clone(), pace, self.answers.clone()).await?;
        until("a group of orders is placed", || async {
            Ok((load.book.started() >= ORDERS).then_some(()))
        })
        .await?;
        load.stop_placing();
        Ok(load)
    }

    fn caller(&self) -> Caller {
        Caller::new(self.world.session.clone(), self.answers.clone())
    }

    async fn history(&self, service: &str) -> anyhow::Result<pb::GetHistoryResponse> {
        let client = self.world.session.history(service)?;
        self.caller()
            .call("reading a history", &[], || {
                let mut client = client.clone();
                async move { client.get_history(pb::GetHistoryRequest {}).await }
            })
            .await
    }

    /// Whether every stream ends where its log does.
    async fn published(&self) -> anyhow::Result<Option<()>> {
        for service in SERVICES {
            let seen = self.history(service).await?;
            if seen.log_end.is_some() && seen.log_end != seen.stream_end {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    /// Waits until each log that lost something refuses to be written, and recovers it.
    async fn recover(&self, lost: &BTreeMap<&str, i64>) -> anyhow::Result<()> {
        until("every log that lost events is fenced", || async {
            for (service, count) in lost {
                if *count > 0 && self.history(service).await?.fenced_reason.is_empty() {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .await?;
        for service in RECOVERED {
            if self.history(service).await?.fenced_reason.is_empty() {
                continue;
            }
            let client = self.world.session.history(service)?;
            let request = pb::RecoverLogRequest {
                request_id: format!("verify-{service}"),
                reason: "put back to an older copy, on purpose".to_owned(),
                ..pb::RecoverLogRequest::default()
            };
            let done = self
                .caller()
                .call("recovering a log", &[], || {
                    let (mut client, request) = (client.clone(), request.clone());
                    async move { client.recover_log(request).await }
                })
                .await?
                .recovery
                .context("no recovery was answered")?;
            let expected = lost.get(service).copied().unwrap_or(0);
            ensure!(
                done.orphans == expected,
                "{service} lost {expected} events, {} are listed as orphans",
                done.orphans
            );
        }
        Ok(())
    }

    /// Adopts what providers paid and what was mailed, writes off what belongs to nobody any more, and lets work go on.
    async fn settle_outside(&self) -> anyhow::Result<(i32, i32)> {
        let mut settled = (0, 0);
        for service in ["refund", "notification"] {
            let deadline = Instant::now() + PATIENCE;
            while !self.settle_effects(service, &mut settled).await? {
                ensure!(
                    Instant::now() < deadline,
                    "what {service} did outside was not settled within {} s",
                    PATIENCE.as_secs()
                );
                sleep(Duration::from_secs(1)).await;
            }
        }
        Ok(settled)
    }

    /// One round of an operator's work; true when nothing is held any more. What has to wait is tried again in the next.
    async fn settle_effects(
        &self,
        service: &str,
        (adopted, written_off): &mut (i32, i32),
    ) -> anyhow::Result<bool> {
        let mut client = self.world.session.history(service)?;
        let listing = client.clone();
        let listed = self
            .caller()
            .call("listing what was done outside", &[], || {
                let mut client = listing.clone();
                async move { client.list_held_effects(pb::ListHeldEffectsRequest {}).await }
            })
            .await?;
        if listed.held_kinds.is_empty() {
            return Ok(true);
        }
        // What is about an order that is there is taken over; the rest was about those that are gone.
        let (ours, gone): (Vec<_>, Vec<_>) = listed
            .effects
            .into_iter()
            .partition(|effect| !effect.order_id.is_empty());
        let ids = |effects: Vec<pb::HeldEffect>| -> Vec<String> {
            effects.into_iter().map(|effect| effect.effect_id).collect()
        };
        if !gone.is_empty() {
            let request = pb::WriteOffEffectsRequest {
                effect_ids: ids(gone),
                reason: "its order is gone".to_owned(),
            };
            match client.write_off_effects(request).await {
                Ok(done) => *written_off += done.into_inner().written_off,
                Err(status) => return later(&status),
            }
        }
        if !ours.is_empty() {
            let request = pb::AdoptEffectsRequest {
                effect_ids: ids(ours),
                all: false,
            };
            match client.adopt_effects(request).await {
                Ok(done) => *adopted += done.into_inner().adopted,
                Err(status) => return later(&status),
            }
        }
        match client.release_effects(pb::ReleaseEffectsRequest {}).await {
            Ok(_) => Ok(true),
            Err(status) => later(&status),
        }
    }
}

/// Whether what was refused may be done in a later round.
fn later(status: &tonic::Status) -> anyhow::Result<bool> {
    const NOT_YET: [&str; 5] = [
        "EFFECT_NOT_ADOPTABLE",
        "EFFECT_NOT_FOUND",
        "EFFECTS_UNDECIDED",
        "CONSUMERS_BEHIND",
        "OUTSIDE_UNREADABLE",
    ];
    let waits = waybill_rpc::fault::reason(status).is_some_and(|reason| NOT_YET.contains(&reason.as_str()));
    if waits || waybill_rpc::client::is_retryable(status) {
        return Ok(false);
    }
    bail!(status.clone())
}

/// Asks until there is an answer.
async fn until<F, Fut>(what: &str, mut ask: F) -> anyhow::Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<Option<()>>>,
{
    let deadline = Instant::now() + PATIENCE;
    while ask().await?.is_none() {
        ensure!(
            Instant::now() < deadline,
            "{what}: not within {} s",
            PATIENCE.as_secs()
        );
        sleep(Duration::from_millis(300)).await;
    }
    Ok(())
}

/// How many events each log has.
async fn lengths(db: &PgPool) -> anyhow::Result<BTreeMap<&'static str, i64>> {
    let mut lengths = BTreeMap::new();
    for service in SERVICES {
        let sql = format!("SELECT count(*) FROM \"{service}\".event_log");
        let length: i64 = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(db).await?;
        lengths.insert(service, length);
    }
    Ok(lengths)
}

/// Whether all orders of a group have ended but for those whose refund no provider can be reached for. Each caller has asked for
/// all that it will: what is asked for only after the copy is lost with it, and nobody would ask again.
async fn only_refunds_wait(db: &PgPool, load: &Load) -> anyhow::Result<Option<()>> {
    let unrest = check::Unrest::look(db).await?;
    let waiting: i64 =
        sqlx::query_scalar("SELECT count(DISTINCT order_id) FROM refund.refunds WHERE state <> 'SUCCEEDED'")
            .fetch_one(db)
            .await?;
    let under_way = load.book.started() - load.book.ended_count() as u64;
    let asked = load.book.asked() == load.book.started();
    Ok((asked && unrest.lag == 0 && i64::try_from(under_way)? == waiting).then_some(()))
}
