//! `waybill consumers …`

use anyhow::bail;
use serde_json::json;
use waybill_proto::waybill::events::v1 as pb;
use waybill_proto::waybill::events::v1::consumer_service_client::ConsumerServiceClient;
use waybill_rpc::client::Channel;

use crate::args::ConsumersCommand;
use crate::output::{self, line, table, time, word};
use crate::session::Session;

type Operator = ConsumerServiceClient<Channel>;

/// Runs the command.
pub async fn run(session: &Session, command: ConsumersCommand, json: bool) -> anyhow::Result<()> {
    match command {
        ConsumersCommand::List { service } => list(session, service.as_deref(), json).await,
        ConsumersCommand::Pause {
            consumer,
            reason,
            service,
        } => {
            let (service, mut operator) = having(session, service.as_deref(), &consumer).await?;
            let request = pb::PauseConsumerRequest {
                request_id: super::request_id(),
                consumer: consumer.clone(),
                reason,
            };
            let answer = operator.pause_consumer(request).await?.into_inner();
            if json {
                return output::json(&answer);
            }
            line(format!(
                "{consumer} of {service} is {}: {}",
                word(answer.state().as_str_name(), "CONSUMER_STATE"),
                answer.reason
            ));
            Ok(())
        }
        ConsumersCommand::Resume {
            consumer,
            reason,
            service,
        } => {
            let (service, mut operator) = having(session, service.as_deref(), &consumer).await?;
            let request = pb::ResumeConsumerRequest {
                request_id: super::request_id(),
                consumer: consumer.clone(),
                reason,
            };
            let answer = operator.resume_consumer(request).await?.into_inner();
            if json {
                return output::json(&answer);
            }
            line(match answer.was_stopped {
                true => format!("{consumer} of {service} goes on"),
                false => format!("{consumer} of {service} was running"),
            });
            Ok(())
        }
        ConsumersCommand::Rebuild {
            consumer,
            compare,
            reason,
        } => super::rebuild::run(session, consumer, compare, reason, json).await,
        ConsumersCommand::Log {
            service,
            order,
            limit,
        } => log(session, service.as_deref(), order.as_deref(), limit, json).await,
    }
}

/// The service that has this consumer, and its client.
async fn having(
    session: &Session,
    service: Option<&str>,
    consumer: &str,
) -> anyhow::Result<(String, Operator)> {
    let mut known = Vec::new();
    let mut having = Vec::new();
    for (service, mut operator) in session.operators(service)? {
        let request = pb::ListConsumersRequest { without_lag: true };
        for found in operator.list_consumers(request).await?.into_inner().consumers {
            if found.consumer == consumer {
                having.push((service.clone(), operator.clone()));
            }
            known.push(found.consumer);
        }
    }
    if having.len() > 1 {
        bail!("several services have a consumer {consumer:?}; name one with --service");
    }
    having.pop().ok_or_else(|| {
        anyhow::anyhow!(
            "there is no consumer {consumer:?}; there are {}",
            known.join(", ")
        )
    })
}

async fn list(session: &Session, service: Option<&str>, json: bool) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for (service, mut operator) in session.operators(service)? {
        let answer = operator
            .list_consumers(pb::ListConsumersRequest::default())
            .await?;
        found.extend(
            answer
                .into_inner()
                .consumers
                .into_iter()
                .map(|one| (service.clone(), one)),
        );
    }
    if json {
        let consumers = found.iter().map(|(service, one)| with_service(service, one));
        let consumers: Vec<_> = consumers.collect::<anyhow::Result<_>>()?;
        line(serde_json::to_string_pretty(&json!({ "consumers": consumers }))?);
        return Ok(());
    }
    line(
        table(
            &[
                "service",
                "consumer",
                "state",
                ">letters",
                ">parked",
                ">waiting",
                "processes",
                "log",
                ">taken",
                ">behind",
                ">oldest",
            ],
            found.iter().flat_map(|(service, one)| rows(service, one)),
        )
        .to_string(),
    );
    for (service, one) in found.iter().filter(|(_, one)| !one.reason.is_empty()) {
        line(format!(
            "{} of {service} is {} since {}: {}",
            one.consumer,
            word(one.state().as_str_name(), "CONSUMER_STATE"),
            time(one.stopped_at.as_ref()),
            one.reason
        ));
    }
    Ok(())
}

/// A row for each log; the first one says what they have in common.
fn rows(service: &str, one: &pb::Consumer) -> Vec<[String; 11]> {
    let processes: Vec<String> = one
        .members
        .iter()
        .map(|member| member.partitions.len().to_string())
        .collect();
    let behind = |source: &pb::ConsumerSource| match source.lag_events {
        Some(events) if source.lag_is_more => format!("more than {events}"),
        Some(events) => events.to_string(),
        None => format!("not known: {}", source.lag_unknown),
    };
    let oldest = |source: &pb::ConsumerSource| match source.lag_seconds {
        Some(seconds) if source.lag_events != Some(0) => format!("{seconds:.1} s"),
        _ => String::new(),
    };
    let common = [
        service.to_owned(),
        one.consumer.clone(),
        word(one.state().as_str_name(), "CONSUMER_STATE"),
        one.letters.to_string(),
        one.parked.to_string(),
        one.waiting.to_string(),
        // Virtual partitions of each, e.g. "22 + 21 + 21".
        processes.join(" + "),
    ];
    let mut rows = Vec::new();
    for (at, source) in one.sources.iter().enumerate() {
        let [service, consumer, state, letters, parked, waiting, processes] = match at {
            0 => common.clone(),
            _ => Default::default(),
        };
        rows.push([
            service,
            consumer,
            state,
            letters,
            parked,
            waiting,
            processes,
            source.source.clone(),
            source.taken.to_string(),
            behind(source),
            oldest(source),
        ]);
    }
    rows
}

async fn log(
    session: &Session,
    service: Option<&str>,
    order: Option<&str>,
    limit: i32,
    json: bool,
) -> anyhow::Result<()> {
    let key = super::key_of(session, order).await?;
    let mut found = Vec::new();
    for (service, mut operator) in session.operators(service)? {
        let request = pb::ListConsumerActionsRequest {
            key: key.clone(),
            page_size: limit,
            ..pb::ListConsumerActionsRequest::default()
        };
        let answer = operator.list_consumer_actions(request).await?.into_inner();
        found.extend(answer.actions.into_iter().map(|one| (service.clone(), one)));
    }
    let at = |action: &pb::ConsumerAction| action.happened_at.map(|time| (time.seconds, time.nanos));
    found.sort_by_key(|(_, action)| std::cmp::Reverse(at(action)));
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    if json {
        let actions = found.iter().map(|(service, one)| with_service(service, one));
        let actions: Vec<_> = actions.collect::<anyhow::Result<_>>()?;
        line(serde_json::to_string_pretty(&json!({ "actions": actions }))?);
        return Ok(());
    }
    line(
        table(
            &[
                "when (UTC)",
                "service",
                "what",
                "who",
                "why",
                "order",
                "event",
                ">applied",
                "then",
            ],
            found.iter().map(|(service, one)| {
                let short = one.r#type.rsplit('.').next().unwrap_or_default();
                [
                    time(one.happened_at.as_ref()),
                    service.clone(),
                    word(one.kind().as_str_name(), "CONSUMER_ACTION_KIND"),
                    one.caller.clone(),
                    one.reason.clone(),
                    one.key.clone(),
                    short.to_owned(),
                    match one.key.is_empty() {
                        true => String::new(),
                        false => one.applied.to_string(),
                    },
                    match one.outcome() {
                        pb::RepairOutcome::Unspecified => String::new(),
                        outcome => word(outcome.as_str_name(), "REPAIR_OUTCOME"),
                    },
                ]
            }),
        )
        .to_string(),
    );
    Ok(())
}

/// A message as JSON that also says which service told it.
pub(super) fn with_service<M: prost::Message + prost::Name>(
    service: &str,
    message: &M,
) -> anyhow::Result<serde_json::Value> {
    let mut shown = output::to_json(message)?;
    if let Some(shown) = shown.as_object_mut() {
        shown.insert("service".to_owned(), service.into());
    }
    Ok(shown)
}
