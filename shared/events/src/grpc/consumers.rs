//! `ConsumerService`: parse, use case, view.

mod view;

use std::pin::Pin;
use std::sync::Arc;

use futures_util::stream::{self, Stream, StreamExt as _};
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};
use uuid::Uuid;
use waybill_kernel::check::Violations;
use waybill_kernel::hash;
use waybill_kernel::id::{MerchantId, OrderId};
use waybill_kernel::page::{PageToken, page_size};
use waybill_proto::waybill::events::v1 as pb;
use waybill_proto::waybill::events::v1::consumer_service_server::ConsumerService;
use waybill_rpc::auth::Caller;
use waybill_rpc::convert;
use waybill_rpc::fault::to_status;
use waybill_store::{Db, RequestKey};

use self::view::{action, consumer, count, in_json, letter, outcome, progress, rebuilt, state};
use crate::operate::{Consumers, OperateError, Pause, RepairKey, Resume, Target, find};
use crate::overview::overview_of;
use crate::rebuild::Rebuild;
use crate::store::operate as sql;
use crate::store::repair::{self, LetterFilter};

/// The most characters of a reason.
const REASON: usize = 500;

/// Answers `waybill.events.v1.ConsumerService` for the consumers of this service.
#[derive(Clone)]
pub struct ConsumerApi {
    db: Db,
    consumers: Arc<Consumers>,
}

impl std::fmt::Debug for ConsumerApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsumerApi")
            .field("consumers", &self.consumers.keys())
            .finish_non_exhaustive()
    }
}

impl ConsumerApi {
    pub(crate) fn new(db: Db, consumers: Arc<Consumers>) -> Self {
        ConsumerApi { db, consumers }
    }
}

/// A task that ends with whoever waits for it.
struct Abandoned<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Abandoned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn refuse(error: impl Into<OperateError>) -> Status {
    to_status(&error.into())
}

/// What `parse` found, or every fault of the request.
fn checked<T>(parse: impl FnOnce(&mut Violations) -> Option<T>) -> Result<T, Status> {
    let mut violations = Violations::new();
    match parse(&mut violations) {
        Some(parsed) if violations.is_empty() => Ok(parsed),
        _ => Err(refuse(OperateError::Invalid(violations))),
    }
}

/// The key of a mutation. No merchant: the consumers are all merchants'.
fn key(caller: &Caller, rpc: &'static str, request_id: &str, without_id: &impl prost::Message) -> RequestKey {
    let nobody = MerchantId::from(Uuid::nil());
    let parts = convert::request_key(caller, nobody, rpc, request_id, without_id);
    RequestKey {
        merchant: parts.merchant,
        caller: parts.caller,
        rpc: parts.rpc,
        request_id: parts.request_id,
        hash: parts.hash,
    }
}

fn letter_id(field: &str, text: &str, violations: &mut Violations) -> Option<i64> {
    match text.parse() {
        Ok(id) if id > 0 => Some(id),
        _ if text.is_empty() => {
            violations.push(field, "is required");
            None
        }
        _ => {
            violations.push(field, format!("{text:?} is no letter's id, which is a number"));
            None
        }
    }
}

/// A key that is restricted to; `Some(None)` when it is left out.
fn optional_key(field: &str, text: &str, violations: &mut Violations) -> Option<Option<Uuid>> {
    // Keys are ids of any kind; an order's is the most common.
    convert::optional_id::<OrderId>(field, text, violations).map(|key| key.map(|key| key.uuid()))
}

fn target(
    target: Option<&pb::retry_dead_letter_request::Target>,
    violations: &mut Violations,
) -> Option<Target> {
    use pb::retry_dead_letter_request::Target as Asked;
    match target {
        Some(Asked::LetterId(id)) => letter_id("letter_id", id, violations).map(Target::Letter),
        Some(Asked::Key(key)) => {
            let consumer = convert::text("key.consumer", &key.consumer, 1..=100, violations);
            let id = convert::id::<OrderId>("key.key", &key.key, violations);
            Some(Target::Key(consumer?, id?.uuid()))
        }
        None => {
            violations.push("target", "is required: give letter_id, or key");
            None
        }
    }
}

/// The place a page token leads to: an id; `start` for the first page.
fn after(token: &str, filter: &str, start: i64, violations: &mut Violations) -> Option<i64> {
    if token.is_empty() {
        return Some(start);
    }
    let id = PageToken::decode(token, filter)
        .map_err(|error| error.to_string())
        .and_then(|parts| {
            let first = parts.first().and_then(|text| text.parse().ok());
            first.ok_or_else(|| "page token is malformed".to_owned())
        });
    id.map_err(|error| violations.push("page_token", error)).ok()
}

fn size(requested: i32, violations: &mut Violations) -> Option<i64> {
    page_size(requested, 50, 500)
        .map_err(|fault| violations.push(&fault.field, fault.description))
        .ok()
}

/// Cuts a page off rows of which one more was read than it has, and says where the next one begins.
fn page<T>(rows: &mut Vec<T>, size: i64, filter: &str, id: impl Fn(&T) -> i64) -> String {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if rows.len() <= size {
        return String::new();
    }
    rows.truncate(size);
    rows.last()
        .map(|last| PageToken::encode(filter, &[id(last).to_string()]))
        .unwrap_or_default()
}

#[tonic::async_trait]
impl ConsumerService for ConsumerApi {
    type RebuildConsumerStream =
        Pin<Box<dyn Stream<Item = Result<pb::RebuildConsumerResponse, Status>> + Send>>;

    async fn list_consumers(
        &self,
        request: Request<pb::ListConsumersRequest>,
    ) -> Result<Response<pb::ListConsumersResponse>, Status> {
        let with_lag = !request.into_inner().without_lag;
        let consumers = self.consumers.values();
        let all = consumers.map(|one| overview_of(&self.db, one.as_ref(), with_lag));
        let all = futures_util::future::try_join_all(all).await.map_err(refuse)?;
        Ok(Response::new(pb::ListConsumersResponse {
            consumers: all.into_iter().map(consumer).collect(),
        }))
    }

    async fn list_dead_letters(
        &self,
        request: Request<pb::ListDeadLettersRequest>,
    ) -> Result<Response<pb::ListDeadLettersResponse>, Status> {
        let request = request.into_inner();
        let digest = hash::fingerprint([
            "letters",
            &request.consumer,
            &request.key,
            request.kind().as_str_name(),
        ]);
        let (filter, after, size) = checked(|v| {
            let key = optional_key("key", &request.key, v);
            let kind = match pb::LetterKind::try_from(request.kind) {
                Ok(pb::LetterKind::Unspecified) => Some(None),
                Ok(pb::LetterKind::Letter) => Some(Some("letter")),
                Ok(pb::LetterKind::Parked) => Some(Some("parked")),
                Err(_) => {
                    v.push(
                        "kind",
                        format!("{} is not a value that this server knows", request.kind),
                    );
                    None
                }
            };
            let size = size(request.page_size, v);
            let after = after(&request.page_token, &digest, 0, v);
            let filter = LetterFilter {
                consumer: Some(request.consumer.clone()).filter(|name| !name.is_empty()),
                key: key?,
                kind: kind?,
            };
            Some((filter, after?, size?))
        })?;
        if let Some(name) = &filter.consumer {
            find(&self.consumers, name).map_err(refuse)?;
        }
        let mut rows = repair::list(self.db.pool(), &filter, after, size + 1)
            .await
            .map_err(refuse)?;
        let next_page_token = page(&mut rows, size, &digest, |row| row.id);
        Ok(Response::new(pb::ListDeadLettersResponse {
            letters: rows.into_iter().map(letter).collect(),
            next_page_token,
        }))
    }

    async fn get_dead_letter(
        &self,
        request: Request<pb::GetDeadLetterRequest>,
    ) -> Result<Response<pb::GetDeadLetterResponse>, Status> {
        let request = request.into_inner();
        let id = checked(|v| letter_id("letter_id", &request.letter_id, v))?;
        let row = repair::kept(self.db.pool(), id).await.map_err(refuse)?;
        let row = row.ok_or_else(|| {
            refuse(OperateError::NoLetter {
                what: format!("letter {id}"),
            })
        })?;
        let parked_behind = repair::behind(self.db.pool(), &row.letter.consumer, row.letter.key, id)
            .await
            .map_err(refuse)?;
        let event = pb::LoggedEvent::decode(row.event.as_slice())
            .map_err(|error| refuse(waybill_store::StoreError::decode(error)))?;
        let (payload_json, payload_fault) = match in_json(&event) {
            Ok(json) => (json, String::new()),
            Err(fault) => (String::new(), fault),
        };
        Ok(Response::new(pb::GetDeadLetterResponse {
            letter: Some(letter(row.letter)),
            event: Some(event),
            payload_json,
            payload_fault,
            parked_behind,
        }))
    }

    async fn retry_dead_letter(
        &self,
        request: Request<pb::RetryDeadLetterRequest>,
    ) -> Result<Response<pb::RetryDeadLetterResponse>, Status> {
        let caller = convert::context(&request)?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let (target, reason) = checked(|v| {
            let id = convert::request_id(&request_id, v);
            let target = target(request.target.as_ref(), v);
            let reason = convert::text("reason", &request.reason, 0..=REASON, v);
            id?;
            Some((target?, reason?))
        })?;
        if let Target::Key(consumer, _) = &target {
            find(&self.consumers, consumer).map_err(refuse)?;
        }
        let retry = RepairKey {
            consumers: &self.consumers,
            target,
            discard: false,
            reason,
            key: key(&caller, "events.v1.RetryDeadLetter", &request_id, &request),
        };
        let answer = retry.run(&self.db).await.map_err(refuse)?;
        Ok(Response::new(pb::RetryDeadLetterResponse {
            applied: count(answer.applied),
            waiting: count(answer.waiting),
            outcome: outcome(&answer).into(),
            letter: answer.letter.map(letter),
        }))
    }

    async fn discard_dead_letter(
        &self,
        request: Request<pb::DiscardDeadLetterRequest>,
    ) -> Result<Response<pb::DiscardDeadLetterResponse>, Status> {
        let caller = convert::context(&request)?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let (id, reason) = checked(|v| {
            let request = (
                convert::request_id(&request_id, v),
                letter_id("letter_id", &request.letter_id, v),
                convert::text("reason", &request.reason, 1..=REASON, v),
            );
            request.0?;
            Some((request.1?, request.2?))
        })?;
        let discard = RepairKey {
            consumers: &self.consumers,
            target: Target::Letter(id),
            discard: true,
            reason,
            key: key(&caller, "events.v1.DiscardDeadLetter", &request_id, &request),
        };
        let answer = discard.run(&self.db).await.map_err(refuse)?;
        Ok(Response::new(pb::DiscardDeadLetterResponse {
            applied: count(answer.applied),
            waiting: count(answer.waiting),
            outcome: outcome(&answer).into(),
            letter: answer.letter.map(letter),
        }))
    }

    async fn pause_consumer(
        &self,
        request: Request<pb::PauseConsumerRequest>,
    ) -> Result<Response<pb::PauseConsumerResponse>, Status> {
        let caller = convert::context(&request)?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let (consumer, reason) = checked(|v| {
            let request = (
                convert::request_id(&request_id, v),
                convert::text("consumer", &request.consumer, 1..=100, v),
                convert::text("reason", &request.reason, 1..=REASON, v),
            );
            request.0?;
            Some((request.1?, request.2?))
        })?;
        let pause = Pause {
            consumer: find(&self.consumers, &consumer).map_err(refuse)?.name(),
            reason,
            caller: caller.subject.clone(),
            request_id: request_id.clone(),
        };
        let key = key(&caller, "events.v1.PauseConsumer", &request_id, &request);
        let paused = self.db.run_once(&key, &pause).await.map_err(refuse)?;
        Ok(Response::new(pb::PauseConsumerResponse {
            state: state(&paused.kind).into(),
            reason: paused.reason,
        }))
    }

    async fn resume_consumer(
        &self,
        request: Request<pb::ResumeConsumerRequest>,
    ) -> Result<Response<pb::ResumeConsumerResponse>, Status> {
        let caller = convert::context(&request)?;
        let mut request = request.into_inner();
        let request_id = std::mem::take(&mut request.request_id);
        let (consumer, reason) = checked(|v| {
            let request = (
                convert::request_id(&request_id, v),
                convert::text("consumer", &request.consumer, 1..=100, v),
                convert::text("reason", &request.reason, 0..=REASON, v),
            );
            request.0?;
            Some((request.1?, request.2?))
        })?;
        let resume = Resume {
            consumer: find(&self.consumers, &consumer).map_err(refuse)?.name(),
            reason,
            caller: caller.subject.clone(),
            request_id: request_id.clone(),
        };
        let key = key(&caller, "events.v1.ResumeConsumer", &request_id, &request);
        let was_stopped = self.db.run_once(&key, &resume).await.map_err(refuse)?;
        Ok(Response::new(pb::ResumeConsumerResponse { was_stopped }))
    }

    async fn rebuild_consumer(
        &self,
        request: Request<pb::RebuildConsumerRequest>,
    ) -> Result<Response<Self::RebuildConsumerStream>, Status> {
        let caller = convert::context(&request)?;
        let request = request.into_inner();
        let (consumer, reason) = checked(|v| {
            let request = (
                convert::request_id(&request.request_id, v),
                convert::text("consumer", &request.consumer, 1..=100, v),
                convert::text("reason", &request.reason, 0..=REASON, v),
            );
            request.0?;
            Some((request.1?, request.2?))
        })?;
        let rebuild = Rebuild {
            db: self.db.clone(),
            consumer: Arc::clone(find(&self.consumers, &consumer).map_err(refuse)?),
            compare_only: request.compare_only,
            caller: caller.subject.clone(),
            request_id: request.request_id,
            reason,
        };
        // It works whether or not the caller reads, so that the consumer does not stand still for a slow one; it ends with
        // the stream.
        let (tell, told) = mpsc::channel(16);
        let work = Abandoned(tokio::spawn(rebuild.run(tell)));
        let told = stream::unfold(told, |mut told| async {
            let now = told.recv().await?;
            Some((Ok(progress(&now)), told))
        });
        let end = stream::once(async move {
            let mut work = work;
            match (&mut work.0).await {
                Ok(outcome) => outcome.map(rebuilt).map_err(|error| to_status(&error)),
                Err(_) => Err(Status::unavailable("the rebuild was ended; nothing was changed")),
            }
        });
        Ok(Response::new(told.chain(end).boxed()))
    }

    async fn list_consumer_actions(
        &self,
        request: Request<pb::ListConsumerActionsRequest>,
    ) -> Result<Response<pb::ListConsumerActionsResponse>, Status> {
        let request = request.into_inner();
        let digest = hash::fingerprint(["actions", &request.consumer, &request.key]);
        let (key, before, size) = checked(|v| {
            let key = optional_key("key", &request.key, v);
            let size = size(request.page_size, v);
            let before = after(&request.page_token, &digest, i64::MAX, v);
            Some((key?, before?, size?))
        })?;
        let consumer = Some(request.consumer.as_str()).filter(|name| !name.is_empty());
        let mut rows = sql::actions(self.db.pool(), consumer, key, before, size + 1)
            .await
            .map_err(refuse)?;
        let next_page_token = page(&mut rows, size, &digest, |row| row.id);
        Ok(Response::new(pb::ListConsumerActionsResponse {
            actions: rows.into_iter().map(action).collect(),
            next_page_token,
        }))
    }
}
