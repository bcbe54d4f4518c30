//! `JobService`: parse, use case, view. Served by every service for its own jobs.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use tonic::{Code, Request, Response, Status};
use uuid::Uuid;
use waybill_kernel::check::Violations;
use waybill_kernel::hash;
use waybill_kernel::id::{JobId, MerchantId, OrderId};
use waybill_kernel::page::{PageToken, page_size};
use waybill_proto::waybill::jobs::v1 as pb;
use waybill_proto::waybill::jobs::v1::job_service_server::JobService;
use waybill_rpc::auth::Caller;
use waybill_rpc::convert;
use waybill_rpc::fault::{Fault, to_status};
use waybill_store::jobs::operate::{self, Asked, JobFilter, Operate, Refused, Wish};
use waybill_store::jobs::{self, Hold};
use waybill_store::{Db, RequestKey, StoreError};

use crate::view;

/// The most characters of a reason.
const REASON: usize = 500;

/// The most kinds in one call.
const KINDS: usize = 50;

/// Answers `waybill.jobs.v1.JobService` for the jobs of this service.
#[derive(Debug, Clone)]
pub struct JobApi {
    db: Db,
}

impl JobApi {
    /// For the jobs in this database.
    #[must_use]
    pub fn new(db: Db) -> Self {
        JobApi { db }
    }
}

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
enum JobFault {
    #[error("the request is not valid: {0}")]
    Invalid(Violations),
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl From<StoreError> for JobFault {
    fn from(error: StoreError) -> Self {
        JobFault::Refused(Refused::Store(error))
    }
}

impl Fault for JobFault {
    fn code(&self) -> Code {
        match self {
            JobFault::Invalid(_) | JobFault::Refused(Refused::Store(StoreError::RequestIdReused)) => {
                Code::InvalidArgument
            }
            JobFault::Refused(Refused::NoJob(_) | Refused::NoDestination(_)) => Code::NotFound,
            JobFault::Refused(Refused::NotDead { .. }) => Code::FailedPrecondition,
            JobFault::Refused(Refused::Store(StoreError::Unavailable { .. } | StoreError::Retry(_))) => {
                Code::Unavailable
            }
            JobFault::Refused(Refused::Store(_)) => Code::Internal,
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            JobFault::Invalid(_) => "INVALID_REQUEST",
            JobFault::Refused(Refused::NoJob(_)) => "JOB_NOT_FOUND",
            JobFault::Refused(Refused::NoDestination(_)) => "DESTINATION_NOT_FOUND",
            JobFault::Refused(Refused::NotDead { .. }) => "JOB_NOT_DEAD",
            JobFault::Refused(Refused::Store(StoreError::RequestIdReused)) => "REQUEST_ID_REUSED",
            JobFault::Refused(Refused::Store(_)) => "DATABASE_UNAVAILABLE",
        })
    }

    fn domain(&self) -> &'static str {
        "jobs.waybill"
    }

    fn violations(&self) -> Option<&Violations> {
        match self {
            JobFault::Invalid(violations) => Some(violations),
            JobFault::Refused(_) => None,
        }
    }

    fn precondition(&self) -> Option<(String, String, String)> {
        match self {
            JobFault::Refused(Refused::NotDead { id, .. }) => {
                Some(("JOB_STATE".to_owned(), id.to_string(), self.to_string()))
            }
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        (self.code() == Code::Unavailable).then_some(Duration::from_millis(500))
    }
}

fn refuse(error: impl Into<JobFault>) -> Status {
    to_status(&error.into())
}

/// What `parse` found, or every fault of the request.
fn checked<T>(parse: impl FnOnce(&mut Violations) -> Option<T>) -> Result<T, Status> {
    let mut violations = Violations::new();
    match parse(&mut violations) {
        Some(parsed) if violations.is_empty() => Ok(parsed),
        _ => Err(refuse(JobFault::Invalid(violations))),
    }
}

/// The key of a mutation. No merchant: the jobs are all merchants'.
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

fn name(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// The job before which a page begins.
fn before(token: &str, filter: &str, violations: &mut Violations) -> Option<Option<JobId>> {
    if token.is_empty() {
        return Some(None);
    }
    let parts = PageToken::decode(token, filter)
        .map_err(|error| violations.push("page_token", error.to_string()))
        .ok()?;
    let id = parts.first().and_then(|text| text.parse().ok());
    if id.is_none() {
        violations.push("page_token", "is malformed");
    }
    id.map(Some)
}

fn kinds(kinds: &[String], violations: &mut Violations) -> Option<Vec<String>> {
    if kinds.is_empty() || kinds.len() > KINDS {
        violations.push(
            "kinds",
            format!("has {} kinds; 1 to {KINDS} are allowed", kinds.len()),
        );
        return None;
    }
    let checked = kinds
        .iter()
        .enumerate()
        .map(|(index, kind)| convert::text(&format!("kinds[{index}]"), kind, 1..=100, violations));
    checked.collect::<Vec<_>>().into_iter().collect()
}

impl JobApi {
    /// Carries out a mutation once for its request id.
    async fn operate(
        &self,
        caller: &Caller,
        rpc: &'static str,
        request_id: String,
        without_id: &impl prost::Message,
        (wish, reason): (Wish, String),
    ) -> Result<u64, Status> {
        let key = key(caller, rpc, &request_id, without_id);
        let asked = Asked {
            caller: caller.subject.clone(),
            request_id,
            reason,
        };
        let operate = Operate { asked, wish };
        self.db.run_once(&key, &operate).await.map_err(refuse)
    }
}

/// The request id, the thing and the reason of a mutation.
fn asked<T>(
    request_id: &str,
    reason: &str,
    least: usize,
    what: impl FnOnce(&mut Violations) -> Option<T>,
) -> Result<(T, String), Status> {
    checked(|v| {
        let id = convert::request_id(request_id, v);
        let what = what(v);
        let reason = convert::text("reason", reason, least..=REASON, v);
        id?;
        Some((what?, reason?))
    })
}

#[tonic::async_trait]
impl JobService for JobApi {
    async fn list_jobs(
        &self,
        request: Request<pb::ListJobsRequest>,
    ) -> Result<Response<pb::ListJobsResponse>, Status> {
        let request = request.into_inner();
        let digest = hash::fingerprint([
            "jobs",
            &request.kind,
            request.state().as_str_name(),
            &request.destination,
            &request.order_id,
        ]);
        let (filter, before, size) = checked(|v| {
            let state = view::state_filter(request.state, v);
            let order = convert::optional_id::<OrderId>("order_id", &request.order_id, v);
            let before = before(&request.page_token, &digest, v);
            let size = page_size(request.page_size, 50, 500)
                .map_err(|fault| v.push(&fault.field, fault.description))
                .ok();
            let filter = JobFilter {
                kind: name(&request.kind),
                state: state?,
                destination: name(&request.destination),
                order_id: order?.map(OrderId::uuid),
            };
            Some((filter, before?, size?))
        })?;
        let mut rows = operate::list(&self.db, &filter, before, size + 1)
            .await
            .map_err(refuse)?;
        let most = usize::try_from(size).unwrap_or(usize::MAX);
        let more = rows.len() > most;
        rows.truncate(most);
        let last = rows.last().filter(|_| more);
        Ok(Response::new(pb::ListJobsResponse {
            next_page_token: last
                .map(|row| PageToken::encode(&digest, &[row.job_id.to_string()]))
                .unwrap_or_default(),
            jobs: rows.into_iter().map(view::job).collect(),
        }))
    }

    async fn get_job(
        &self,
        request: Request<pb::GetJobRequest>,
    ) -> Result<Response<pb::GetJobResponse>, Status> {
        let request = request.into_inner();
        let id: JobId = checked(|v| convert::id("job_id", &request.job_id, v))?;
        let mut conn = self
            .db
            .pool()
            .acquire()
            .await
            .map_err(|e| refuse(StoreError::from(e)))?;
        let row = operate::get(&mut conn, id).await.map_err(refuse)?;
        drop(conn);
        let row = row.ok_or_else(|| refuse(Refused::NoJob(id)))?;
        let attempts = jobs::failures(&self.db, id).await.map_err(refuse)?;
        let actions = operate::actions(&self.db, id).await.map_err(refuse)?;
        Ok(Response::new(pb::GetJobResponse {
            job: Some(view::job(row)),
            attempts: attempts.into_iter().map(view::attempt).collect(),
            actions: actions.into_iter().map(view::action).collect(),
        }))
    }

    async fn list_job_kinds(
        &self,
        _request: Request<pb::ListJobKindsRequest>,
    ) -> Result<Response<pb::ListJobKindsResponse>, Status> {
        let backlog = jobs::backlog(&self.db).await.map_err(refuse)?;
        let mut kinds: BTreeMap<String, pb::JobKind> = backlog
            .into_iter()
            .map(|of| (of.kind.clone(), view::kind(of)))
            .collect();
        for held in jobs::holds(&self.db).await.map_err(refuse)? {
            let Hold { kind, .. } = &held;
            let of = kinds.entry(kind.clone()).or_insert_with(|| pb::JobKind {
                kind: kind.clone(),
                ..pb::JobKind::default()
            });
            of.holds.push(view::hold(held));
        }
        Ok(Response::new(pb::ListJobKindsResponse {
            kinds: kinds.into_values().collect(),
        }))
    }

    async fn retry_job(
        &self,
        request: Request<pb::RetryJobRequest>,
    ) -> Result<Response<pb::RetryJobResponse>, Status> {
        let caller = convert::context(&request)?;
        let mut request = request.into_inner();
        let id = std::mem::take(&mut request.request_id);
        let wish = asked(&id, &request.reason, 0, |v| {
            convert::id("job_id", &request.job_id, v).map(Wish::Retry)
        })?;
        self.operate(&caller, "RetryJob", id, &request, wish).await?;
        Ok(Response::new(pb::RetryJobResponse {}))
    }

    async fn discard_job(
        &self,
        request: Request<pb::DiscardJobRequest>,
    ) -> Result<Response<pb::DiscardJobResponse>, Status> {
        let caller = convert::context(&request)?;
        let mut request = request.into_inner();
        let id = std::mem::take(&mut request.request_id);
        let wish = asked(&id, &request.reason, 1, |v| {
            convert::id("job_id", &request.job_id, v).map(Wish::Discard)
        })?;
        self.operate(&caller, "DiscardJob", id, &request, wish).await?;
        Ok(Response::new(pb::DiscardJobResponse {}))
    }

    async fn hold_jobs(
        &self,
        request: Request<pb::HoldJobsRequest>,
    ) -> Result<Response<pb::HoldJobsResponse>, Status> {
        let caller = convert::context(&request)?;
        let mut request = request.into_inner();
        let id = std::mem::take(&mut request.request_id);
        let wish = asked(&id, &request.reason, 1, |v| {
            kinds(&request.kinds, v).map(Wish::Hold)
        })?;
        self.operate(&caller, "HoldJobs", id, &request, wish).await?;
        Ok(Response::new(pb::HoldJobsResponse {}))
    }

    async fn release_jobs(
        &self,
        request: Request<pb::ReleaseJobsRequest>,
    ) -> Result<Response<pb::ReleaseJobsResponse>, Status> {
        let caller = convert::context(&request)?;
        let mut request = request.into_inner();
        let id = std::mem::take(&mut request.request_id);
        let wish = asked(&id, &request.reason, 0, |v| {
            kinds(&request.kinds, v).map(Wish::Release)
        })?;
        let changed = self.operate(&caller, "ReleaseJobs", id, &request, wish).await?;
        Ok(Response::new(pb::ReleaseJobsResponse {
            was_held: changed > 0,
        }))
    }

    async fn list_destinations(
        &self,
        _request: Request<pb::ListDestinationsRequest>,
    ) -> Result<Response<pb::ListDestinationsResponse>, Status> {
        let found = jobs::destinations(&self.db).await.map_err(refuse)?;
        Ok(Response::new(pb::ListDestinationsResponse {
            destinations: found.into_iter().map(view::destination).collect(),
        }))
    }

    async fn reset_destination(
        &self,
        request: Request<pb::ResetDestinationRequest>,
    ) -> Result<Response<pb::ResetDestinationResponse>, Status> {
        let caller = convert::context(&request)?;
        let mut request = request.into_inner();
        let id = std::mem::take(&mut request.request_id);
        let wish = asked(&id, &request.reason, 0, |v| {
            convert::text("destination", &request.destination, 1..=200, v).map(Wish::Reset)
        })?;
        self.operate(&caller, "ResetDestination", id, &request, wish)
            .await?;
        Ok(Response::new(pb::ResetDestinationResponse {}))
    }
}
