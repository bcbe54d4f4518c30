//! `waybill log consumers` and `waybill log forget`: who follows the logs.

use anyhow::Context as _;
use serde_json::json;
use waybill_proto::waybill::events::v1 as pb;

use crate::args::FollowerRef;
use crate::output::{self, line, table, time};
use crate::session::Session;

/// The virtual partitions of a log.
const PARTITIONS: u32 = 64;

/// What lies before a consumer.
struct Behind {
    events: i64,
    more: bool,
    seconds: f64,
}

/// Who follows the logs, or one of them, and how far each is.
pub async fn list(session: &Session, service: Option<&str>, json: bool) -> anyhow::Result<()> {
    let services: Vec<&str> = match service {
        Some(service) => vec![service],
        None => session.services().collect(),
    };
    let mut rows = Vec::new();
    let mut logs = Vec::new();
    for service in services {
        let mut log = session.event_log(service)?;
        let answer = log
            .list_log_consumers(pb::ListLogConsumersRequest {})
            .await?
            .into_inner();
        let mut shown = output::to_json(&answer)?;
        for (index, consumer) in answer.consumers.iter().enumerate() {
            let lags = log.measure_lag(cursors_of(consumer)).await?.into_inner().lags;
            let behind = Behind {
                events: lags.iter().map(|lag| lag.events).sum(),
                more: lags.iter().any(|lag| lag.more),
                seconds: lags.iter().map(|lag| lag.seconds).fold(0.0, f64::max),
            };
            if let Some(one) = shown["consumers"][index].as_object_mut() {
                let told = json!({
                    "events": behind.events.to_string(), "isMore": behind.more, "seconds": behind.seconds,
                });
                one.insert("behind".to_owned(), told);
            }
            rows.push(row(service, consumer, &behind));
        }
        let members = shown.as_object_mut().context("an answer that is no object")?;
        members.insert("log".to_owned(), json!(service));
        logs.push(shown);
    }
    if json {
        line(serde_json::to_string_pretty(&json!({ "logs": logs }))?);
        return Ok(());
    }
    if rows.is_empty() {
        line("Nobody follows: no consumer has ever reported.");
        return Ok(());
    }
    let header = [
        "log",
        "consumer",
        "since (UTC)",
        "seen (UTC)",
        ">generation",
        ">taken",
        ">behind",
        ">oldest",
    ];
    line(table(&header, rows).to_string());
    Ok(())
}

fn row(log: &str, consumer: &pb::LogConsumer, behind: &Behind) -> [String; 8] {
    let taken: i64 = consumer.cursors.iter().map(|cursor| cursor.count).sum();
    [
        log.to_owned(),
        format!("{}/{}", consumer.service, consumer.consumer),
        time(consumer.registered_at.as_ref()),
        time(consumer.seen_at.as_ref()),
        consumer.highest_generation.to_string(),
        taken.to_string(),
        format!("{}{}", behind.events, if behind.more { "+" } else { "" }),
        match behind.events {
            0 => String::new(),
            _ => format!("{:.0} s", behind.seconds),
        },
    ]
}

/// Where a consumer stands in every virtual partition: before the first event where it has reported none.
fn cursors_of(consumer: &pb::LogConsumer) -> pb::MeasureLagRequest {
    let mut cursors: Vec<pb::PartitionCursor> = (0..PARTITIONS)
        .map(|partition| pb::PartitionCursor {
            partition,
            after: None,
        })
        .collect();
    for reported in &consumer.cursors {
        if let Some(cursor) = cursors.get_mut(reported.partition as usize) {
            cursor.after = reported.position;
        }
    }
    pb::MeasureLagRequest { cursors }
}

/// Forgets a consumer.
pub async fn forget(
    session: &Session,
    log: &str,
    consumer: FollowerRef,
    force: bool,
    json: bool,
) -> anyhow::Result<()> {
    let FollowerRef { service, consumer } = consumer;
    let told = format!("{service}/{consumer} is forgotten: the log of {log} is no longer kept for it");
    let request = pb::ForgetLogConsumerRequest {
        service,
        consumer,
        force,
    };
    let answer = session
        .event_log(log)?
        .forget_log_consumer(request)
        .await?
        .into_inner();
    if json {
        return output::json(&answer);
    }
    line(told);
    Ok(())
}
