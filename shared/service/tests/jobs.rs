//! `JobService` over gRPC against a real Postgres: what people see of jobs, what they may do with them, once each, by whom,
//! and what is refused.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use waybill_kernel::id::{JobId, MerchantId, OrderId};
use waybill_proto::FILE_DESCRIPTOR_SET;
use waybill_proto::waybill::jobs::v1 as pb;
use waybill_proto::waybill::jobs::v1::job_service_client::JobServiceClient;
use waybill_proto::waybill::jobs::v1::job_service_server::JobServiceServer;
use waybill_rpc::auth::Claims;
use waybill_rpc::client::{self, Channel, TokenSource};
use waybill_rpc::fault;
use waybill_rpc::server::{Limits, Server};
use waybill_runtime::service::DatabaseConfig;
use waybill_runtime::tasks::TaskGroup;
use waybill_service::JobApi;
use waybill_store::jobs::{self, Done, Job, JobError, JobHandler, JobOptions, JobRunner, NewJob};
use waybill_store::{Backoff, Db};
use waybill_testkit::{Auth, TestDb, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

/// Jobs that fail for good, whatever they are.
const DOOMED: &str = "refund.submit";

/// Jobs that nobody takes.
const IDLE: &str = "notification.send";

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A service that has jobs and nothing else.
struct Place {
    _database: TestDb,
    db: Db,
    auth: Auth,
    url: String,
    tasks: TaskGroup,
}

impl Place {
    async fn new() -> anyhow::Result<Place> {
        waybill_runtime::telemetry::init_for_test();
        let database = waybill_testkit::database(&["refund"]).await;
        let config = DatabaseConfig {
            url: database.url("refund").as_str().into(),
            ..DatabaseConfig::default()
        };
        let db = Db::connect(&config, "refund").await?;
        waybill_store::migrate::migrate(&db, &[]).await?;
        let auth = Auth::new();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let api = JobServiceServer::new(JobApi::new(db.clone()));
        let server = Server::new("refund", auth.verifier().clone(), Limits::default())
            .grace(Duration::from_millis(100))
            .add(api, FILE_DESCRIPTOR_SET);
        let tasks = TaskGroup::new(&CancellationToken::new());
        tasks.spawn("server", server.serve(listener, tasks.token()));
        Ok(Place {
            _database: database,
            db,
            auth,
            url,
            tasks,
        })
    }

    /// A person with these scopes, for all merchants.
    fn person(&self, name: &str, scopes: &[&str]) -> anyhow::Result<JobServiceClient<Channel>> {
        let claims = Claims {
            sub: name.to_owned(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            ..Claims::system("refund")
        };
        let token = self.auth.issuer().mint(&claims, Duration::from_secs(600));
        let channel = client::connect(&self.url, TokenSource::fixed(token), "test")?;
        Ok(JobServiceClient::new(channel))
    }

    fn operator(&self) -> anyhow::Result<JobServiceClient<Channel>> {
        self.person("ana", &["jobs:read", "jobs:admin"])
    }

    async fn enqueue(&self, jobs: &[NewJob]) -> anyhow::Result<()> {
        let mut tx = self.db.begin().await?;
        jobs::enqueue(&mut tx, jobs).await?;
        Ok(tx.commit().await?)
    }

    /// A job that was tried and given up.
    async fn dead_job(&self, key: &str, order: OrderId) -> anyhow::Result<String> {
        let job = NewJob::new(DOOMED, key, MerchantId::generate(), serde_json::json!({}))
            .for_order(order)
            .towards("payment:acme")
            .traceparent(Some(TRACE.to_owned()));
        self.enqueue(&[job]).await?;
        let runner = Runner::start(&self.db);
        let mut person = self.operator()?;
        let id = eventually("a dead job", PATIENCE, async || {
            let request = pb::ListJobsRequest {
                order_id: order.to_string(),
                state: pb::JobState::Dead.into(),
                ..pb::ListJobsRequest::default()
            };
            let found = person.list_jobs(request).await.ok()?.into_inner().jobs;
            found.into_iter().next().map(|job| job.job_id)
        })
        .await;
        runner.stop().await?;
        Ok(id)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.tasks.token().cancel();
    }
}

/// Gives every job up.
struct Doomed;

impl JobHandler for Doomed {
    const KIND: &'static str = DOOMED;

    async fn run(&self, _job: &Job) -> Result<Done, JobError> {
        Err(JobError::dead("the account is closed"))
    }
}

/// A worker.
struct Runner {
    stop: CancellationToken,
    task: JoinHandle<Result<(), Infallible>>,
}

impl Runner {
    fn start(db: &Db) -> Runner {
        let stop = CancellationToken::new();
        let options = JobOptions {
            poll: Duration::from_millis(20),
            backoff: Backoff {
                base: Duration::from_millis(1),
                cap: Duration::from_millis(5),
            },
            ..JobOptions::default()
        };
        let runner = JobRunner::new(db.clone(), Doomed, options);
        let task = tokio::spawn(runner.run(stop.clone()));
        Runner { stop, task }
    }

    /// Ends it: from now on it takes nothing.
    async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.task.await?.map_err(|never| match never {})
    }
}

fn reason(refused: &Status) -> Option<String> {
    fault::reason(refused)
}

fn fields(refused: &Status) -> Vec<String> {
    let fields = fault::bad_fields(refused).into_iter();
    fields.map(|(field, _)| field).collect()
}

async fn show(person: &mut JobServiceClient<Channel>, id: &str) -> Result<pb::GetJobResponse, Status> {
    let request = pb::GetJobRequest {
        job_id: id.to_owned(),
    };
    Ok(person.get_job(request).await?.into_inner())
}

fn retry(request_id: &str, job_id: &str, reason: &str) -> pb::RetryJobRequest {
    pb::RetryJobRequest {
        request_id: request_id.to_owned(),
        job_id: job_id.to_owned(),
        reason: reason.to_owned(),
    }
}

fn discard(request_id: &str, job_id: &str, reason: &str) -> pb::DiscardJobRequest {
    pb::DiscardJobRequest {
        request_id: request_id.to_owned(),
        job_id: job_id.to_owned(),
        reason: reason.to_owned(),
    }
}

fn hold(request_id: &str, kinds: &[&str], reason: &str) -> pb::HoldJobsRequest {
    pb::HoldJobsRequest {
        request_id: request_id.to_owned(),
        kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        reason: reason.to_owned(),
    }
}

fn release(request_id: &str, kinds: &[&str]) -> pb::ReleaseJobsRequest {
    pb::ReleaseJobsRequest {
        request_id: request_id.to_owned(),
        kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        reason: String::new(),
    }
}

fn reset(request_id: &str, destination: &str) -> pb::ResetDestinationRequest {
    pb::ResetDestinationRequest {
        request_id: request_id.to_owned(),
        destination: destination.to_owned(),
        reason: "it is well again".to_owned(),
    }
}

/// Newest first, in pages that are each a part of the whole and no page token works for another question.
#[tokio::test]
async fn jobs_are_listed_by_what_they_are() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let mut person = place.operator()?;
    let order = OrderId::generate();
    let merchant = MerchantId::generate();
    for number in 0..5 {
        let idle = NewJob::new(
            IDLE,
            format!("mail-{number}"),
            merchant,
            serde_json::json!({ "to": "nobody" }),
        );
        let towards = if number % 2 == 0 {
            "smtp:mail.example"
        } else {
            "sms:gate.example"
        };
        place.enqueue(&[idle.towards(towards)]).await?;
    }
    let dead = place.dead_job("leg-1", order).await?;

    let mut all = Vec::new();
    let mut request = pb::ListJobsRequest {
        page_size: 4,
        ..pb::ListJobsRequest::default()
    };
    loop {
        let page = person.list_jobs(request.clone()).await?.into_inner();
        assert!(page.jobs.len() <= 4);
        all.extend(page.jobs);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let keys: Vec<&str> = all.iter().map(|job| job.key.as_str()).collect();
    assert_eq!(keys, ["leg-1", "mail-4", "mail-3", "mail-2", "mail-1", "mail-0"]);

    let listed = async |of: pb::ListJobsRequest| -> anyhow::Result<Vec<String>> {
        let jobs = place.operator()?.list_jobs(of).await?.into_inner().jobs;
        Ok(jobs.into_iter().map(|job| job.key).collect())
    };
    let of = pb::ListJobsRequest::default;
    assert_eq!(
        listed(pb::ListJobsRequest {
            destination: "sms:gate.example".to_owned(),
            ..of()
        })
        .await?,
        ["mail-3", "mail-1"]
    );
    assert_eq!(
        listed(pb::ListJobsRequest {
            order_id: order.to_string(),
            ..of()
        })
        .await?,
        ["leg-1"]
    );
    assert_eq!(
        listed(pb::ListJobsRequest {
            kind: IDLE.to_owned(),
            ..of()
        })
        .await?
        .len(),
        5
    );
    let waiting = pb::ListJobsRequest {
        state: pb::JobState::Waiting.into(),
        kind: DOOMED.to_owned(),
        ..of()
    };
    assert_eq!(listed(waiting).await?, Vec::<String>::new());

    // A token belongs to its question.
    request.kind = IDLE.to_owned();
    let refused = person.list_jobs(request).await.expect_err("another question");
    assert_eq!(
        (refused.code(), fields(&refused)),
        (Code::InvalidArgument, vec!["page_token".to_owned()])
    );

    let job = show(&mut person, &dead).await?.job.expect("a job");
    assert_eq!((job.kind.as_str(), job.state()), (DOOMED, pb::JobState::Dead));
    assert_eq!(
        (job.order_id, job.destination.as_str()),
        (order.to_string(), "payment:acme")
    );
    assert_eq!(job.trace_id, "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(
        (job.claims, job.last_error.as_str()),
        (1, "the account is closed")
    );
    assert!(job.finished_at.is_some() && job.taken_at.is_some());
    Ok(())
}

/// A dead job is tried again once for each request id, and its history keeps both attempts and who asked.
#[tokio::test]
async fn a_retry_is_one_retry_and_is_written_down() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let mut person = place.operator()?;
    let id = place.dead_job("leg-1", OrderId::generate()).await?;
    let before = show(&mut person, &id).await?;
    assert_eq!((before.attempts.len(), before.actions.len()), (1, 0));
    assert_eq!(before.attempts[0].reason, "the account is closed");

    person
        .retry_job(retry("again-1", &id, "the account is open"))
        .await?;
    let job = show(&mut person, &id).await?.job.expect("a job");
    assert_eq!((job.state(), job.failures), (pb::JobState::Waiting, 0));
    // The same call again: the same answer, and nothing happens, although the job is no longer dead.
    person
        .retry_job(retry("again-1", &id, "the account is open"))
        .await?;
    let after = show(&mut person, &id).await?;
    let asked: Vec<_> = after
        .actions
        .iter()
        .map(|action| {
            (
                action.action.as_str(),
                action.caller.as_str(),
                action.reason.as_str(),
            )
        })
        .collect();
    assert_eq!(asked, [("retry", "ana", "the account is open")]);

    let reused = person
        .retry_job(retry("again-1", &id, "another reason"))
        .await
        .expect_err("reused");
    assert_eq!(reused.code(), Code::InvalidArgument);
    assert_eq!(reason(&reused).as_deref(), Some("REQUEST_ID_REUSED"));
    let early = person
        .retry_job(retry("again-2", &id, ""))
        .await
        .expect_err("it waits");
    assert_eq!(
        (early.code(), reason(&early).as_deref()),
        (Code::FailedPrecondition, Some("JOB_NOT_DEAD"))
    );
    assert!(early.message().contains("waiting"), "{early:?}");
    // A refused call has used nothing up: the id works when the job is dead again.
    let runner = Runner::start(&place.db);
    eventually("the second failure", PATIENCE, async || {
        let seen = show(&mut place.operator().ok()?, &id).await.ok()?;
        (seen.job?.state == i32::from(pb::JobState::Dead)).then_some(())
    })
    .await;
    runner.stop().await?;
    assert_eq!(show(&mut person, &id).await?.attempts.len(), 2);
    person.retry_job(retry("again-2", &id, "")).await?;

    // Another person's request ids are another's.
    let refused = place
        .person("ben", &["jobs:admin"])?
        .retry_job(retry("again-1", &id, "the account is open"))
        .await
        .expect_err("ana's answer is not ben's");
    assert_eq!(reason(&refused).as_deref(), Some("JOB_NOT_DEAD"));
    Ok(())
}

/// The same call from many connections at once is one effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_repeated_at_once_is_one_effect() -> anyhow::Result<()> {
    let place = Arc::new(Place::new().await?);
    let id = place.dead_job("leg-1", OrderId::generate()).await?;
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let (place, id) = (Arc::clone(&place), id.clone());
            tokio::spawn(async move {
                let mut person = place.operator()?;
                anyhow::Ok(person.retry_job(retry("again", &id, "")).await)
            })
        })
        .collect();
    for call in calls {
        call.await???;
    }
    let seen = show(&mut place.operator()?, &id).await?;
    assert_eq!(seen.actions.len(), 1, "{:?}", seen.actions);
    assert_eq!(seen.job.expect("a job").state(), pb::JobState::Waiting);
    Ok(())
}

#[tokio::test]
async fn a_discarded_job_is_dealt_with() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let mut person = place.operator()?;
    let id = place.dead_job("leg-1", OrderId::generate()).await?;
    let silent = person
        .discard_job(discard("gone", &id, ""))
        .await
        .expect_err("why?");
    assert_eq!(fields(&silent), ["reason"]);
    for _ in 0..2 {
        person.discard_job(discard("gone", &id, "paid by hand")).await?;
    }
    let seen = show(&mut person, &id).await?;
    assert_eq!(seen.job.expect("a job").state(), pb::JobState::Done);
    assert_eq!(seen.actions.len(), 1);
    assert_eq!(
        (seen.actions[0].action.as_str(), seen.actions[0].reason.as_str()),
        ("discard", "paid by hand")
    );
    let late = person
        .retry_job(retry("late", &id, ""))
        .await
        .expect_err("it is done");
    assert_eq!(reason(&late).as_deref(), Some("JOB_NOT_DEAD"));
    Ok(())
}

/// A hold keeps a kind from being begun until it is lifted; of another kind nothing is held. Each is written down.
#[tokio::test]
async fn a_held_kind_waits() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let mut person = place.operator()?;
    let other = NewJob::new(IDLE, "mail", MerchantId::generate(), serde_json::json!({}));
    place.enqueue(&[other]).await?;
    for reason in ["the provider is moving", "the provider is moving"] {
        person.hold_jobs(hold("stop", &[DOOMED], reason)).await?;
    }
    person
        .hold_jobs(hold("stop-more", &[DOOMED], "until noon"))
        .await?;
    let of = |kinds: &[pb::JobKind], kind: &str| kinds.iter().find(|of| of.kind == kind).cloned();
    let kinds = person
        .list_job_kinds(pb::ListJobKindsRequest {})
        .await?
        .into_inner()
        .kinds;
    let held = of(&kinds, DOOMED).expect("a held kind is listed without jobs");
    assert_eq!(
        held.holds.len(),
        1,
        "holding what is held changes the reason: {held:?}"
    );
    let by = &held.holds[0];
    assert_eq!(
        (by.holder.as_str(), by.held_by.as_str(), by.reason.as_str()),
        ("operator", "ana", "until noon")
    );
    let idle = of(&kinds, IDLE).expect("a kind that has jobs");
    assert_eq!((idle.due, idle.holds.len()), (1, 0));

    let job = NewJob::new(DOOMED, "leg-1", MerchantId::generate(), serde_json::json!({}));
    place.enqueue(&[job]).await?;
    let runner = Runner::start(&place.db);
    let sentinel = eventually("a kind that has a due job", PATIENCE, async || {
        let kinds = place
            .operator()
            .ok()?
            .list_job_kinds(pb::ListJobKindsRequest {})
            .await
            .ok()?
            .into_inner()
            .kinds;
        of(&kinds, DOOMED).filter(|kind| kind.due == 1)
    })
    .await;
    assert_eq!((sentinel.running, sentinel.dead), (0, 0));

    let lifted = person.release_jobs(release("go", &[DOOMED])).await?.into_inner();
    assert!(lifted.was_held);
    let again = person.release_jobs(release("go", &[DOOMED])).await?.into_inner();
    assert!(again.was_held, "the same call, the same answer");
    let nothing = person
        .release_jobs(release("go-on", &[DOOMED]))
        .await?
        .into_inner();
    assert!(!nothing.was_held);
    eventually("the job that was held", PATIENCE, async || {
        let kinds = place
            .operator()
            .ok()?
            .list_job_kinds(pb::ListJobKindsRequest {})
            .await
            .ok()?
            .into_inner()
            .kinds;
        of(&kinds, DOOMED).filter(|kind| kind.dead == 1)
    })
    .await;
    runner.stop().await?;
    let audit: Vec<(String, String, Option<String>)> =
        sqlx::query_as("SELECT action, caller, kind FROM job_action ORDER BY action_id")
            .fetch_all(place.db.pool())
            .await?;
    let expected = ["hold", "hold", "release"]
        .map(|action| (action.to_owned(), "ana".to_owned(), Some(DOOMED.to_owned())));
    assert_eq!(audit, expected);
    Ok(())
}

#[tokio::test]
async fn destinations_are_told_and_used_again() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let limits = jobs::Limits {
        at_once: Some(3),
        per_second: Some(2.0),
        burst: 4,
        ..jobs::Limits::default()
    };
    jobs::declare(&place.db, &[("payment:acme".to_owned(), limits)]).await?;
    sqlx::query(
        "UPDATE job_destination SET failures = 5, opens = 1, failed_at = now(), open_until = now() + interval '1 hour'
         WHERE destination = 'payment:acme'",
    )
    .execute(place.db.pool())
    .await?;
    let mut person = place.operator()?;
    let told = async |person: &mut JobServiceClient<Channel>| -> anyhow::Result<pb::Destination> {
        let all = person
            .list_destinations(pb::ListDestinationsRequest {})
            .await?
            .into_inner();
        let mut all = all.destinations.into_iter();
        Ok(all
            .find(|one| one.destination == "payment:acme")
            .expect("it was declared"))
    };
    let open = told(&mut person).await?;
    assert_eq!((open.breaker(), open.failures), (pb::BreakerState::Open, 5));
    assert_eq!((open.max_running, open.per_second, open.burst), (3, 2.0, 4));

    for _ in 0..2 {
        person.reset_destination(reset("well", "payment:acme")).await?;
    }
    let closed = told(&mut person).await?;
    assert_eq!((closed.breaker(), closed.failures), (pb::BreakerState::Closed, 0));
    let audit: Vec<(String, Option<String>)> =
        sqlx::query_as("SELECT action, destination FROM job_action ORDER BY action_id")
            .fetch_all(place.db.pool())
            .await?;
    assert_eq!(audit, [("reset".to_owned(), Some("payment:acme".to_owned()))]);
    let unknown = person
        .reset_destination(reset("x", "nobody"))
        .await
        .expect_err("no such one");
    assert_eq!(
        (unknown.code(), reason(&unknown).as_deref()),
        (Code::NotFound, Some("DESTINATION_NOT_FOUND"))
    );
    Ok(())
}

/// Every fault of a request in one answer.
#[tokio::test]
async fn bad_fields_are_named() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let mut person = place.operator()?;
    let long = "x".repeat(501);
    let refused = person
        .retry_job(retry("", "7", &long))
        .await
        .expect_err("three faults");
    assert_eq!(
        (refused.code(), reason(&refused).as_deref()),
        (Code::InvalidArgument, Some("INVALID_REQUEST"))
    );
    assert_eq!(fields(&refused), ["request_id", "job_id", "reason"]);
    let refused = person
        .hold_jobs(hold("no\nlines", &[], ""))
        .await
        .expect_err("three faults");
    assert_eq!(fields(&refused), ["request_id", "kinds", "reason"]);
    let refused = person
        .hold_jobs(hold("x", &["refund.submit", ""], "why"))
        .await
        .expect_err("no name");
    assert_eq!(fields(&refused), ["kinds[1]"]);
    let refused = person
        .release_jobs(release("x", &["k"; 51]))
        .await
        .expect_err("too many");
    assert_eq!(fields(&refused), ["kinds"]);
    let refused = person
        .reset_destination(reset("x", ""))
        .await
        .expect_err("no name");
    assert_eq!(fields(&refused), ["destination"]);
    let list = pb::ListJobsRequest {
        state: 17,
        order_id: "#1004".to_owned(),
        page_size: -1,
        page_token: "?".to_owned(),
        ..pb::ListJobsRequest::default()
    };
    let refused = person.list_jobs(list).await.expect_err("four faults");
    let mut found = fields(&refused);
    found.sort();
    assert_eq!(found, ["order_id", "page_size", "page_token", "state"]);

    let nobody = JobId::generate().to_string();
    let refused = show(&mut person, &nobody).await.expect_err("no such job");
    assert_eq!(
        (refused.code(), reason(&refused).as_deref()),
        (Code::NotFound, Some("JOB_NOT_FOUND"))
    );
    let refused = person
        .discard_job(discard("x", &nobody, "why"))
        .await
        .expect_err("no such job");
    assert_eq!(reason(&refused).as_deref(), Some("JOB_NOT_FOUND"));
    let actions: i64 = sqlx::query_scalar("SELECT count(*) FROM job_action")
        .fetch_one(place.db.pool())
        .await?;
    assert_eq!(actions, 0, "what was refused was not done");
    Ok(())
}

/// Who may read may not change; a merchant may neither; who says nothing of himself is asked to.
#[tokio::test]
async fn strangers_are_refused() -> anyhow::Result<()> {
    let place = Place::new().await?;
    let id = place.dead_job("leg-1", OrderId::generate()).await?;
    let mut reader = place.person("rea", &["jobs:read"])?;
    assert!(show(&mut reader, &id).await.is_ok());
    let mutations = async |person: &mut JobServiceClient<Channel>| {
        [
            person.retry_job(retry("r", &id, "")).await.err(),
            person.discard_job(discard("d", &id, "why")).await.err(),
            person.hold_jobs(hold("h", &[DOOMED], "why")).await.err(),
            person.release_jobs(release("l", &[DOOMED])).await.err(),
            person.reset_destination(reset("s", "payment:acme")).await.err(),
        ]
    };
    for refused in mutations(&mut reader).await {
        assert_eq!(
            refused.map(|refused| refused.code()),
            Some(Code::PermissionDenied)
        );
    }
    let mut admin = place.person("adm", &["jobs:admin"])?;
    let refused = show(&mut admin, &id).await.expect_err("it may not read");
    assert_eq!(refused.code(), Code::PermissionDenied);

    let token = place
        .auth
        .source(MerchantId::generate(), &[], &["jobs:read", "jobs:admin"]);
    let mut merchant = JobServiceClient::new(client::connect(&place.url, token, "test")?);
    let refused = show(&mut merchant, &id)
        .await
        .expect_err("jobs are all merchants'");
    assert_eq!(refused.code(), Code::PermissionDenied);
    for refused in mutations(&mut merchant).await {
        assert_eq!(
            refused.map(|refused| refused.code()),
            Some(Code::PermissionDenied)
        );
    }

    let stranger = Auth::new().system_source();
    let mut stranger = JobServiceClient::new(client::connect(&place.url, stranger, "test")?);
    let refused = show(&mut stranger, &id)
        .await
        .expect_err("a token of somebody else");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let seen = show(&mut place.operator()?, &id).await?;
    assert!(seen.actions.is_empty() && seen.job.is_some_and(|job| job.state() == pb::JobState::Dead));
    Ok(())
}
