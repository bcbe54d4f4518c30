//! `HistoryService`: a person looks at a log that lost commits, recovers it, and settles what was done outside.
//!
//! Parses, calls, answers. Every change is logged with the caller's subject.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::OnceCell;
use tonic::{Request, Response, Status};
use uuid::Uuid;
use waybill_kernel::check::Violations;
use waybill_kernel::page::{PageToken, page_size};
use waybill_kernel::partition::PARTITIONS;
use waybill_kernel::time::Shared as Clock;
use waybill_proto::waybill::events::v1::history_service_server::HistoryService;
use waybill_proto::waybill::events::v1::{
    AdoptEffectsRequest, AdoptEffectsResponse, GetHistoryRequest, GetHistoryResponse, HeldEffect,
    ListHeldEffectsRequest, ListHeldEffectsResponse, ListOrphansRequest, ListOrphansResponse,
    ListPhantomsRequest, ListPhantomsResponse, RecoverLogRequest, RecoverLogResponse, ReleaseEffectsRequest,
    ReleaseEffectsResponse, WriteOffEffectsRequest, WriteOffEffectsResponse,
};
use waybill_rpc::convert;
use waybill_rpc::fault::to_status;
use waybill_runtime::service::NatsConfig;

use super::effects::{Doubt, EffectError, OutsideEffects};
use super::fault::HistoryFault;
use super::recover::{self, RecoverError, Wish};
use super::view;
use crate::log::Log;
use crate::nats::Nats;
use crate::operate::Consumers;
use crate::overview::{LagSum, overview_of};
use crate::position::Position;
use crate::store;
use crate::store::history::RecoveryRow;

/// The most effects that are listed or decided about at once.
const MOST_EFFECTS: usize = 1000;

const MOST_LISTED: i64 = 500;
const LISTED: i64 = 100;

/// Answers `waybill.events.v1.HistoryService` for the log of this service. Cheap to clone.
#[derive(Clone)]
pub struct HistoryApi {
    inner: Arc<Inner>,
}

struct Inner {
    log: Log,
    config: NatsConfig,
    nats: OnceCell<Nats>,
    clock: Clock,
    effects: Option<Arc<dyn OutsideEffects>>,
    consumers: Arc<Consumers>,
}

impl std::fmt::Debug for HistoryApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HistoryApi")
            .field("log", self.inner.log.source())
            .finish_non_exhaustive()
    }
}

impl HistoryApi {
    pub(crate) fn new(
        log: Log,
        config: NatsConfig,
        clock: Clock,
        effects: Option<Arc<dyn OutsideEffects>>,
        consumers: Arc<Consumers>,
    ) -> Self {
        HistoryApi {
            inner: Arc::new(Inner {
                log,
                config,
                nats: OnceCell::new(),
                clock,
                effects,
                consumers,
            }),
        }
    }

    /// A connection of its own, made when it is first needed: a person's command must not wait for a relay.
    async fn nats(&self) -> Result<&Nats, String> {
        let name = format!("waybill-{}-history", self.inner.log.source());
        self.inner
            .nats
            .get_or_try_init(|| Nats::connect(&self.inner.config, &name))
            .await
            .map_err(|error| error.to_string())
    }

    async fn history(&self) -> Result<GetHistoryResponse, HistoryFault> {
        let log = &self.inner.log;
        let pool = log.db().pool();
        let standing = store::history::standing(pool).await?;
        let recoveries = store::history::recoveries(pool).await?;
        let consumers_generation = store::history::consumers_generation(pool).await?;
        let told = match self.nats().await {
            Ok(nats) => recover::look(log, nats).await,
            Err(fault) => Err(fault),
        };
        let end = &standing.end;
        let log_end = match (end.end_generation, end.end_xid, end.end_position) {
            (Some(generation), Some(xid), Some(position)) => Some(
                Position {
                    generation,
                    xid: xid as u64,
                    position,
                }
                .into(),
            ),
            _ => None,
        };
        let (told, stream_fault) = match told {
            Ok(told) => (told, String::new()),
            Err(fault) => (Default::default(), fault),
        };
        Ok(GetHistoryResponse {
            generation: standing.generation,
            recovered: standing.recovered,
            fenced_reason: standing.fenced_reason.unwrap_or_default(),
            system_identifier: standing.system_identifier,
            timeline: standing.timeline,
            log_end,
            stream_end: told.end.map(Into::into),
            stream_end_in_log: told.end_in_log,
            stream_fault,
            orphans: standing.orphans,
            phantoms: standing.phantoms,
            consumers_generation,
            held_kinds: standing.held,
            recoveries: recoveries.into_iter().map(view::recovery).collect(),
        })
    }

    async fn recover(&self, by: &str, request: RecoverLogRequest) -> Result<RecoveryRow, HistoryFault> {
        let mut violations = Violations::new();
        convert::request_id(&request.request_id, &mut violations);
        convert::text("reason", &request.reason, 1..=500, &mut violations);
        violations.into_result().map_err(HistoryFault::Invalid)?;
        let wish = Wish {
            request_id: request.request_id,
            reason: request.reason,
            by: by.to_owned(),
            without_stream: request.without_stream,
            force: request.force,
        };
        let nats = self.nats().await.map_err(RecoverError::Stream)?;
        Ok(recover::recover(&self.inner.log, nats, &self.inner.clock, &wish).await?)
    }

    async fn orphans(&self, request: ListOrphansRequest) -> Result<ListOrphansResponse, HistoryFault> {
        let mut violations = Violations::new();
        let filter = format!("orphans/{}/{:?}", request.recovered_in, request.partition);
        let vpartition = request.partition.map(|partition| match u16::try_from(partition) {
            Ok(partition) if partition < PARTITIONS => partition,
            _ => {
                violations.push(
                    "partition",
                    format!("{partition} is no partition; give 0 to {}", PARTITIONS - 1),
                );
                0
            }
        });
        if request.recovered_in < 0 {
            violations.push(
                "recovered_in",
                format!("{} is no generation", request.recovered_in),
            );
        }
        let limit = listed(request.page_size, &mut violations);
        let after = token(&request.page_token, &filter, &mut violations, |parts| {
            let [generation, position, id] = parts else {
                return None;
            };
            Some((generation.parse().ok()?, position.parse().ok()?, id.parse().ok()?))
        });
        violations.into_result().map_err(HistoryFault::Invalid)?;
        let recovered_in = (request.recovered_in > 0).then_some(request.recovered_in);
        let pool = self.inner.log.db().pool();
        let rows = store::history::orphans(pool, recovered_in, vpartition, after, limit).await?;
        let full = rows.len() as i64 == limit;
        let ids: Vec<Uuid> = rows.iter().map(|row| row.event_id).collect();
        let orphans = rows
            .into_iter()
            .map(view::orphan)
            .collect::<Result<Vec<_>, _>>()?;
        let next = orphans.last().zip(ids.last()).filter(|_| full).map(|(last, id)| {
            let at = last.event.as_ref().and_then(|event| event.position);
            let at = at.map(Position::from).unwrap_or_default();
            PageToken::encode(
                &filter,
                &[last.recovered_in.to_string(), at.to_string(), id.to_string()],
            )
        });
        Ok(ListOrphansResponse {
            orphans,
            next_page_token: next.unwrap_or_default(),
        })
    }

    async fn phantoms(&self, request: ListPhantomsRequest) -> Result<ListPhantomsResponse, HistoryFault> {
        let mut violations = Violations::new();
        let filter = format!("phantoms/{}", request.source);
        let limit = listed(request.page_size, &mut violations);
        let after = token(
            &request.page_token,
            &filter,
            &mut violations,
            |parts| match parts {
                [id] => id.parse().ok(),
                _ => None,
            },
        );
        violations.into_result().map_err(HistoryFault::Invalid)?;
        let source = Some(request.source.as_str()).filter(|source| !source.is_empty());
        let pool = self.inner.log.db().pool();
        let rows = store::phantom::page(pool, source, after.unwrap_or_default(), limit).await?;
        let next = rows
            .last()
            .filter(|_| rows.len() as i64 == limit)
            .map(|last| PageToken::encode(&filter, &[last.id.to_string()]));
        Ok(ListPhantomsResponse {
            phantoms: rows.into_iter().map(view::phantom).collect(),
            next_page_token: next.unwrap_or_default(),
        })
    }

    /// What nobody has decided about, and the times in doubt. Nothing when all recoveries are settled.
    async fn undecided(&self) -> Result<Option<(Doubt, Vec<HeldEffect>)>, HistoryFault> {
        let (Some(effects), Some((survived_until, recovered_at))) = (
            &self.inner.effects,
            store::history::unsettled(self.inner.log.db().pool()).await?,
        ) else {
            return Ok(None);
        };
        let doubt = Doubt::new(survived_until, recovered_at);
        Ok(Some((doubt, effects.undecided(doubt, MOST_EFFECTS).await?)))
    }

    /// Those of the undecided effects that are named, or all.
    async fn named(
        &self,
        ids: &[String],
        all: bool,
    ) -> Result<Option<(&dyn OutsideEffects, Doubt, Vec<HeldEffect>)>, HistoryFault> {
        let mut violations = Violations::new();
        if ids.len() > MOST_EFFECTS {
            violations.push(
                "effect_ids",
                format!("names {}; at most {MOST_EFFECTS} at once", ids.len()),
            );
        }
        if ids.is_empty() != all {
            violations.push("effect_ids", "name effects, or set all, and not both");
        }
        violations.into_result().map_err(HistoryFault::Invalid)?;
        let (Some(effects), Some((doubt, mut listed))) =
            (self.inner.effects.as_deref(), self.undecided().await?)
        else {
            return match ids.first() {
                Some(id) => Err(EffectError::NotFound(id.clone()).into()),
                None => Ok(None),
            };
        };
        if !all {
            let wanted: HashSet<&str> = ids.iter().map(String::as_str).collect();
            listed.retain(|effect| wanted.contains(effect.effect_id.as_str()));
            let found: HashSet<&str> = listed.iter().map(|effect| effect.effect_id.as_str()).collect();
            if let Some(missing) = wanted.iter().find(|id| !found.contains(**id)) {
                return Err(EffectError::NotFound((*missing).to_owned()).into());
            }
        }
        Ok(Some((effects, doubt, listed)))
    }

    /// Refuses while a consumer of this service has events from before a time to take.
    async fn caught_up(&self, time: DateTime<Utc>) -> Result<(), HistoryFault> {
        let since = (self.inner.clock.now() - time).as_seconds_f64();
        for consumer in self.inner.consumers.values() {
            let consumer = overview_of(self.inner.log.db(), consumer.as_ref(), true).await?;
            let is_behind = consumer.sources.iter().any(|source| match &source.lag {
                Some(Ok(lags)) => {
                    let lag = LagSum::of(lags);
                    lag.events > 0 && lag.seconds >= since
                }
                Some(Err(_)) | None => true,
            });
            if is_behind {
                return Err(HistoryFault::Behind(consumer.consumer.to_owned()));
            }
        }
        Ok(())
    }

    async fn release(&self) -> Result<Vec<String>, HistoryFault> {
        let pool = self.inner.log.db().pool();
        let standing = store::history::standing(pool).await?;
        if standing.fenced_reason.is_some() {
            return Err(HistoryFault::Fenced);
        }
        if let Some((_, recovered_at)) = store::history::unsettled(pool).await? {
            // What is still to be read may decide again what the lost history did.
            self.caught_up(recovered_at).await?;
        }
        if let Some((_, undecided)) = self.undecided().await?
            && !undecided.is_empty()
        {
            return Err(HistoryFault::Undecided(undecided.len()));
        }
        let released = store::history::release_effects(pool, standing.generation).await?;
        released.ok_or(HistoryFault::Fenced)
    }
}

fn listed(requested: i32, violations: &mut Violations) -> i64 {
    match page_size(requested, LISTED, MOST_LISTED) {
        Ok(limit) => limit,
        Err(fault) => {
            violations.push(fault.field, fault.description);
            LISTED
        }
    }
}

fn token<T>(
    text: &str,
    filter: &str,
    violations: &mut Violations,
    read: impl FnOnce(&[String]) -> Option<T>,
) -> Option<T> {
    if text.is_empty() {
        return None;
    }
    let found = PageToken::decode(text, filter)
        .ok()
        .and_then(|parts| read(&parts));
    if found.is_none() {
        violations.push("page_token", "is none of this list; begin with an empty one");
    }
    found
}

fn status(fault: HistoryFault) -> Status {
    to_status(&fault)
}

#[tonic::async_trait]
impl HistoryService for HistoryApi {
    async fn get_history(
        &self,
        _request: Request<GetHistoryRequest>,
    ) -> Result<Response<GetHistoryResponse>, Status> {
        Ok(Response::new(self.history().await.map_err(status)?))
    }

    async fn recover_log(
        &self,
        request: Request<RecoverLogRequest>,
    ) -> Result<Response<RecoverLogResponse>, Status> {
        let caller = convert::context(&request)?;
        let row = self
            .recover(&caller.subject, request.into_inner())
            .await
            .map_err(status)?;
        Ok(Response::new(RecoverLogResponse {
            recovery: Some(view::recovery(row)),
        }))
    }

    async fn list_orphans(
        &self,
        request: Request<ListOrphansRequest>,
    ) -> Result<Response<ListOrphansResponse>, Status> {
        Ok(Response::new(
            self.orphans(request.into_inner()).await.map_err(status)?,
        ))
    }

    async fn list_phantoms(
        &self,
        request: Request<ListPhantomsRequest>,
    ) -> Result<Response<ListPhantomsResponse>, Status> {
        Ok(Response::new(
            self.phantoms(request.into_inner()).await.map_err(status)?,
        ))
    }

    async fn list_held_effects(
        &self,
        _request: Request<ListHeldEffectsRequest>,
    ) -> Result<Response<ListHeldEffectsResponse>, Status> {
        let pool = self.inner.log.db().pool();
        let standing = store::history::standing(pool)
            .await
            .map_err(|error| status(error.into()))?;
        let undecided = self.undecided().await.map_err(status)?;
        Ok(Response::new(ListHeldEffectsResponse {
            effects: undecided.map(|(_, effects)| effects).unwrap_or_default(),
            held_kinds: standing.held,
        }))
    }

    async fn adopt_effects(
        &self,
        request: Request<AdoptEffectsRequest>,
    ) -> Result<Response<AdoptEffectsResponse>, Status> {
        let caller = convert::context(&request)?;
        let request = request.into_inner();
        let named = self
            .named(&request.effect_ids, request.all)
            .await
            .map_err(status)?;
        let adopted = match named {
            Some((effects, doubt, named)) => effects
                .adopt(doubt, &named)
                .await
                .map_err(|error| status(error.into()))?,
            None => 0,
        };
        tracing::warn!(
            source = &**self.inner.log.source(),
            by = caller.subject,
            adopted,
            "outside effects of a lost history were adopted"
        );
        Ok(Response::new(AdoptEffectsResponse {
            adopted: i32::try_from(adopted).unwrap_or(i32::MAX),
        }))
    }

    async fn write_off_effects(
        &self,
        request: Request<WriteOffEffectsRequest>,
    ) -> Result<Response<WriteOffEffectsResponse>, Status> {
        let caller = convert::context(&request)?;
        let request = request.into_inner();
        let mut violations = Violations::new();
        convert::text("reason", &request.reason, 1..=500, &mut violations);
        violations
            .into_result()
            .map_err(|violations| status(HistoryFault::Invalid(violations)))?;
        let named = self.named(&request.effect_ids, false).await.map_err(status)?;
        let written_off = match named {
            Some((effects, _, named)) => effects
                .write_off(&named, &request.reason, &caller.subject)
                .await
                .map_err(|error| status(error.into()))?,
            None => 0,
        };
        tracing::warn!(
            source = &**self.inner.log.source(),
            by = caller.subject,
            reason = request.reason,
            written_off,
            "outside effects of a lost history were written off"
        );
        Ok(Response::new(WriteOffEffectsResponse {
            written_off: i32::try_from(written_off).unwrap_or(i32::MAX),
        }))
    }

    async fn release_effects(
        &self,
        request: Request<ReleaseEffectsRequest>,
    ) -> Result<Response<ReleaseEffectsResponse>, Status> {
        let caller = convert::context(&request)?;
        let released_kinds = self.release().await.map_err(status)?;
        tracing::warn!(
            source = &**self.inner.log.source(),
            by = caller.subject,
            kinds = released_kinds.join(", "),
            "outside effects are let go on"
        );
        Ok(Response::new(ReleaseEffectsResponse { released_kinds }))
    }
}
