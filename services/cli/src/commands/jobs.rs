//! `waybill jobs …`

use anyhow::{Context as _, bail, ensure};
use tonic::Code;
use waybill_proto::waybill::jobs::v1::{
    DiscardJobRequest, GetJobRequest, GetJobResponse, HoldJobsRequest, JobState, ListDestinationsRequest,
    ListJobKindsRequest, ListJobsRequest, ReleaseJobsRequest, ResetDestinationRequest, RetryJobRequest,
};

use super::request_id;
use crate::args::{JobStateArg, JobsCommand};
use crate::output::{self, line, table, time, word};
use crate::session::Session;

/// Runs the command.
pub async fn run(session: &Session, command: JobsCommand, json: bool) -> anyhow::Result<()> {
    ensure!(
        session.services().next().is_some(),
        "the context file has no system_token, which jobs are operated with; mint one with `waybill setup token --merchant '*' \
         --store '*' --scope jobs:read --scope jobs:admin`, or start the stack anew"
    );
    match command {
        JobsCommand::List {
            service,
            kind,
            state,
            destination,
            order,
            limit,
        } => {
            let request = ListJobsRequest {
                kind,
                state: state.map_or(JobState::Unspecified, asked_state).into(),
                destination,
                order_id: order,
                page_size: limit,
                page_token: String::new(),
            };
            list(session, service.as_deref(), request, json).await
        }
        JobsCommand::Kinds => kinds(session, json).await,
        JobsCommand::Show { job_id } => {
            let (service, answer) = find(session, &job_id).await?;
            show(&service, &answer, json)
        }
        JobsCommand::Retry { job_id, reason } => {
            let (service, _) = find(session, &job_id).await?;
            let request = RetryJobRequest {
                request_id: request_id(),
                job_id: job_id.clone(),
                reason,
            };
            let answer = session.jobs(&service)?.retry_job(request).await?.into_inner();
            done(&answer, json, format!("job {job_id} of {service} is tried again"))
        }
        JobsCommand::Discard { job_id, reason } => {
            let (service, _) = find(session, &job_id).await?;
            let request = DiscardJobRequest {
                request_id: request_id(),
                job_id: job_id.clone(),
                reason,
            };
            let answer = session.jobs(&service)?.discard_job(request).await?.into_inner();
            done(&answer, json, format!("job {job_id} of {service} is dealt with"))
        }
        JobsCommand::Hold {
            service,
            kinds,
            reason,
        } => {
            let told = format!("{} of {service} is held", kinds.join(", "));
            let request = HoldJobsRequest {
                request_id: request_id(),
                kinds,
                reason,
            };
            let answer = session.jobs(&service)?.hold_jobs(request).await?.into_inner();
            done(&answer, json, told)
        }
        JobsCommand::Release {
            service,
            kinds,
            reason,
        } => {
            let names = kinds.join(", ");
            let request = ReleaseJobsRequest {
                request_id: request_id(),
                kinds,
                reason,
            };
            let answer = session.jobs(&service)?.release_jobs(request).await?.into_inner();
            let told = match answer.was_held {
                true => {
                    format!("{names} of {service} goes on, unless another holds it: see `waybill jobs kinds`")
                }
                false => format!("nobody held {names} of {service}"),
            };
            done(&answer, json, told)
        }
        JobsCommand::Destinations => destinations(session, json).await,
        JobsCommand::Reset {
            service,
            destination,
            reason,
        } => {
            let told = format!("{destination} is used again");
            let request = ResetDestinationRequest {
                request_id: request_id(),
                destination,
                reason,
            };
            let answer = session
                .jobs(&service)?
                .reset_destination(request)
                .await?
                .into_inner();
            done(&answer, json, told)
        }
    }
}

fn done<M: prost::Message + prost::Name>(answer: &M, json: bool, told: String) -> anyhow::Result<()> {
    if json {
        return output::json(answer);
    }
    line(told);
    Ok(())
}

fn asked_state(state: JobStateArg) -> JobState {
    match state {
        JobStateArg::Waiting => JobState::Waiting,
        JobStateArg::Running => JobState::Running,
        JobStateArg::Done => JobState::Done,
        JobStateArg::Dead => JobState::Dead,
    }
}

/// The services asked: one, or all.
fn services<'a>(session: &'a Session, only: Option<&'a str>) -> Vec<&'a str> {
    only.map_or_else(|| session.services().collect(), |service| vec![service])
}

/// Answers of several services as one object by service.
fn by_service<M: prost::Message + prost::Name>(answers: &[(String, M)]) -> anyhow::Result<()> {
    let all = answers
        .iter()
        .map(|(service, answer)| Ok((service.clone(), output::to_json(answer)?)))
        .collect::<anyhow::Result<serde_json::Map<_, _>>>()?;
    line(serde_json::to_string_pretty(&all)?);
    Ok(())
}

async fn list(
    session: &Session,
    only: Option<&str>,
    request: ListJobsRequest,
    json: bool,
) -> anyhow::Result<()> {
    let mut answers = Vec::new();
    for service in services(session, only) {
        let answer = session.jobs(service)?.list_jobs(request.clone()).await;
        let answer = answer
            .with_context(|| format!("the jobs of {service}"))?
            .into_inner();
        answers.push((service.to_owned(), answer));
    }
    if json {
        return by_service(&answers);
    }
    let rows = answers.iter().flat_map(|(service, answer)| {
        answer.jobs.iter().map(|job| {
            [
                service.clone(),
                job.job_id.clone(),
                job.kind.clone(),
                word(job.state().as_str_name(), "JOB_STATE"),
                job.destination.clone(),
                job.failures.to_string(),
                time(job.due_at.as_ref()),
                job.last_error.clone(),
            ]
        })
    });
    let header = [
        "service",
        "job",
        "kind",
        "state",
        "destination",
        ">failures",
        "due (UTC)",
        "last error",
    ];
    line(table(&header, rows).to_string());
    if answers
        .iter()
        .any(|(_, answer)| !answer.next_page_token.is_empty())
    {
        line("There are more; narrow it down, or give a higher --limit.");
    }
    Ok(())
}

async fn kinds(session: &Session, json: bool) -> anyhow::Result<()> {
    let mut answers = Vec::new();
    for service in services(session, None) {
        let answer = session
            .jobs(service)?
            .list_job_kinds(ListJobKindsRequest {})
            .await;
        let answer = answer
            .with_context(|| format!("the jobs of {service}"))?
            .into_inner();
        answers.push((service.to_owned(), answer));
    }
    if json {
        return by_service(&answers);
    }
    let rows = answers.iter().flat_map(|(service, answer)| {
        answer.kinds.iter().map(|kind| {
            let holds: Vec<String> = kind
                .holds
                .iter()
                .map(|hold| format!("{} ({}): {}", hold.holder, hold.held_by, hold.reason))
                .collect();
            [
                service.clone(),
                kind.kind.clone(),
                kind.due.to_string(),
                kind.later.to_string(),
                kind.running.to_string(),
                kind.dead.to_string(),
                format!("{:.0}", kind.oldest_due_seconds),
                holds.join("; "),
            ]
        })
    });
    let header = [
        "service",
        "kind",
        ">due",
        ">later",
        ">running",
        ">dead",
        ">late (s)",
        "held by",
    ];
    line(table(&header, rows).to_string());
    Ok(())
}

/// Looks for a job in all services: its id does not say whose it is.
async fn find(session: &Session, job_id: &str) -> anyhow::Result<(String, GetJobResponse)> {
    for service in services(session, None) {
        let request = GetJobRequest {
            job_id: job_id.to_owned(),
        };
        match session.jobs(service)?.get_job(request).await {
            Ok(answer) => return Ok((service.to_owned(), answer.into_inner())),
            Err(status) if status.code() == Code::NotFound => {}
            Err(status) => return Err(status).with_context(|| format!("the jobs of {service}")),
        }
    }
    bail!("no service has a job {job_id:?}; done jobs are forgotten after 30 days")
}

fn show(service: &str, answer: &GetJobResponse, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(answer);
    }
    let job = answer
        .job
        .as_ref()
        .context("the service answered without a job")?;
    let facts = [
        ("service", service.to_owned()),
        ("kind", job.kind.clone()),
        ("about", job.key.clone()),
        ("state", word(job.state().as_str_name(), "JOB_STATE")),
        ("merchant", job.merchant_id.clone()),
        ("order", job.order_id.clone()),
        ("destination", job.destination.clone()),
        ("written (UTC)", time(job.created_at.as_ref())),
        ("due (UTC)", time(job.due_at.as_ref())),
        ("ended (UTC)", time(job.finished_at.as_ref())),
        ("trace", job.trace_id.clone()),
    ];
    let facts = facts.into_iter().filter(|(_, value)| !value.is_empty());
    line(
        table(
            &["job", &job.job_id],
            facts.map(|(name, value)| [name.to_owned(), value]),
        )
        .to_string(),
    );
    if !answer.attempts.is_empty() {
        let rows = answer.attempts.iter().map(|attempt| {
            [
                attempt.claim.to_string(),
                time(attempt.began_at.as_ref()),
                took(attempt.began_at.as_ref(), attempt.failed_at.as_ref()),
                attempt.reason.clone(),
            ]
        });
        line(table(&[">attempt", "began (UTC)", ">took (s)", "failed because"], rows).to_string());
    }
    if !answer.actions.is_empty() {
        let rows = answer.actions.iter().map(|action| {
            [
                time(action.happened_at.as_ref()),
                action.action.clone(),
                action.caller.clone(),
                action.reason.clone(),
            ]
        });
        line(table(&["asked (UTC)", "what", "by", "why"], rows).to_string());
    }
    Ok(())
}

fn took(from: Option<&prost_types::Timestamp>, to: Option<&prost_types::Timestamp>) -> String {
    let (Some(from), Some(to)) = (from, to) else {
        return String::new();
    };
    let nanos = (to.seconds - from.seconds) * 1_000_000_000 + i64::from(to.nanos - from.nanos);
    format!("{}.{:03}", nanos / 1_000_000_000, nanos / 1_000_000 % 1000)
}

async fn destinations(session: &Session, json: bool) -> anyhow::Result<()> {
    let mut answers = Vec::new();
    for service in services(session, None) {
        let answer = session
            .jobs(service)?
            .list_destinations(ListDestinationsRequest {})
            .await;
        let answer = answer
            .with_context(|| format!("the destinations of {service}"))?
            .into_inner();
        answers.push((service.to_owned(), answer));
    }
    if json {
        return by_service(&answers);
    }
    let rows = answers.iter().flat_map(|(service, answer)| {
        answer.destinations.iter().map(|to| {
            [
                service.clone(),
                to.destination.clone(),
                word(to.breaker().as_str_name(), "BREAKER_STATE"),
                to.failures.to_string(),
                time(to.open_until.as_ref()),
                to.running.to_string(),
                to.due.to_string(),
                limit(f64::from(to.max_running)),
                limit(to.per_second),
            ]
        })
    });
    let header = [
        "service",
        "destination",
        "breaker",
        ">failures",
        "left alone until (UTC)",
        ">running",
        ">due",
        ">at once",
        ">per second",
    ];
    line(table(&header, rows).to_string());
    Ok(())
}

fn limit(most: f64) -> String {
    if most == 0.0 {
        "no limit".to_owned()
    } else {
        most.to_string()
    }
}
