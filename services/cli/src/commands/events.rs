//! `waybill events …`
//!
//! A read goes over all virtual partitions in the log's order, so one place in the log says how far it has come: up to it
//! everything that is wanted was printed. That place is what `--resume` takes.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use serde_json::json;
use tonic::Code;
use waybill_events::Position;
use waybill_proto::waybill::events::v1 as pb;
use waybill_rpc::convert::to_timestamp;
use waybill_runtime::process::shutdown_signal;

use crate::args::{EventsCommand, WantedArgs};
use crate::output::{self, line, time};
use crate::session::Session;

/// The virtual partitions of a log.
const PARTITIONS: u32 = 64;

/// How often a tail looks for what is new.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long a tail waits for a service that does not answer.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

/// How long one call may read: a filter may look through a long log. Whoever needs more goes on from the place.
const READ_FOR: Duration = Duration::from_secs(24 * 3600);

/// Runs the command.
pub async fn run(session: &Session, command: EventsCommand, json: bool) -> anyhow::Result<()> {
    match command {
        EventsCommand::Read {
            service,
            wanted,
            limit,
        } => {
            let after = wanted.resume.unwrap_or_default();
            let mut reading = Reading::new(session, service, &wanted, after, json).await?;
            let done = tokio::select! {
                done = reading.pass(limit) => done.map(|_| ()),
                () = shutdown_signal() => Ok(()),
            };
            // Also when it was cut off: so much was printed.
            reading.end()?;
            done
        }
        EventsCommand::Tail {
            service,
            wanted,
            limit,
        } => {
            let after = match wanted.resume {
                Some(place) => place,
                None if wanted.from.is_some() => Position::ZERO,
                None => end_of(session, &service).await?,
            };
            let mut reading = Reading::new(session, service, &wanted, after, json).await?;
            let done = tokio::select! {
                done = reading.follow(limit) => done,
                () = shutdown_signal() => Ok(()),
            };
            reading.end()?;
            done
        }
    }
}

/// The last place of a log.
async fn end_of(session: &Session, service: &str) -> anyhow::Result<Position> {
    let heads = session
        .event_log(service)?
        .get_log_heads(pb::GetLogHeadsRequest {})
        .await?
        .into_inner()
        .heads;
    let places = heads.into_iter().filter_map(|head| head.position);
    Ok(places.map(Position::from).max().unwrap_or_default())
}

async fn filter(session: &Session, service: &str, wanted: &WantedArgs) -> anyhow::Result<pb::EventFilter> {
    let mut partition_keys = Vec::new();
    for order in &wanted.orders {
        partition_keys.push(super::key_of(session, Some(order)).await?);
    }
    let types = wanted.types.iter().map(|name| full_name(service, name));
    Ok(pb::EventFilter {
        types: types.collect::<anyhow::Result<_>>()?,
        partition_keys,
        merchant_id: wanted.merchant.clone().unwrap_or_default(),
        occurred_from: wanted.from.map(to_timestamp),
        occurred_before: wanted.before.map(to_timestamp),
    })
}

/// The full name of a type of events: a name without dots is one of the service's own, or of every log's.
fn full_name(service: &str, name: &str) -> anyhow::Result<String> {
    if name.contains('.') {
        return Ok(name.to_owned());
    }
    let descriptors = output::descriptors()?;
    let packages = [format!("waybill.{service}.v1"), "waybill.events.v1".to_owned()];
    let found = packages
        .iter()
        .map(|package| format!("{package}.{name}"))
        .find(|name| descriptors.get_message_by_name(name).is_some());
    if let Some(found) = found {
        return Ok(found);
    }
    let file = format!("waybill/{service}/v1/events.proto");
    let known: Vec<String> = descriptors
        .get_file_by_name(&file)
        .map(|file| file.messages().map(|message| message.name().to_owned()).collect())
        .unwrap_or_default();
    bail!(
        "--type {name:?} is no event of {service:?}; there are {}",
        if known.is_empty() {
            "none that this program knows".to_owned()
        } else {
            known.join(", ")
        }
    )
}

/// A read under way.
struct Reading {
    client: pb::event_log_service_client::EventLogServiceClient<waybill_rpc::client::Channel>,
    service: String,
    filter: pb::EventFilter,
    after: Position,
    json: bool,
    printed: u64,
}

impl Reading {
    async fn new(
        session: &Session,
        service: String,
        wanted: &WantedArgs,
        after: Position,
        json: bool,
    ) -> anyhow::Result<Self> {
        Ok(Reading {
            client: session.event_log(&service)?,
            filter: filter(session, &service, wanted).await?,
            service,
            after,
            json,
            printed: 0,
        })
    }

    /// Prints what is there, at most `limit` (0 for all); answers how many.
    async fn pass(&mut self, limit: u32) -> anyhow::Result<u32> {
        let cursors = (0..PARTITIONS).map(|partition| pb::PartitionCursor {
            partition,
            after: Some(self.after.into()),
        });
        let mut request = tonic::Request::new(pb::ReadEventsRequest {
            cursors: cursors.collect(),
            limit,
            filter: Some(self.filter.clone()),
        });
        request.set_timeout(READ_FOR);
        let mut parts = self.client.read_events(request).await?.into_inner();
        let mut found = 0;
        while let Some(part) = parts.next().await {
            let part = part?;
            for event in part.events {
                self.print(event)?;
                found += 1;
            }
            let places = part.resume.into_iter().filter_map(|cursor| cursor.after);
            self.after = places.map(Position::from).fold(self.after, Position::max);
        }
        Ok(found)
    }

    /// Prints what is there and what happens next, until there were `limit`.
    async fn follow(&mut self, limit: Option<u32>) -> anyhow::Result<()> {
        let mut left = limit;
        let mut away = false;
        loop {
            match self.pass(left.unwrap_or(0)).await {
                Ok(found) => {
                    away = false;
                    left = left.map(|left| left - found);
                    if left == Some(0) {
                        return Ok(());
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                // It will be back: said once.
                Err(error) if passes(&error) => {
                    if !std::mem::replace(&mut away, true) {
                        output::fail(&error);
                    }
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn print(&mut self, mut event: pb::LoggedEvent) -> anyhow::Result<()> {
        let place = event
            .position
            .map(Position::from)
            .context("an event without a place")?;
        if self.json {
            let payload = std::mem::take(&mut event.payload);
            let type_name = event.r#type.clone();
            let mut shown = output::to_json(&event)?;
            let members = shown.as_object_mut().context("an event that is no object")?;
            members.insert("service".to_owned(), json!(self.service));
            members.insert("place".to_owned(), json!(place.to_string()));
            match output::bytes_to_json(&type_name, &payload) {
                Ok(payload) => members.insert("payload".to_owned(), payload),
                Err(fault) => {
                    members.remove("payload");
                    members.insert("payloadFault".to_owned(), json!(format!("{fault:#}")))
                }
            };
            line(serde_json::to_string(&shown)?);
        } else {
            if self.printed == 0 {
                line(row("happened (UTC)", "event", "about", "place"));
                line(row(
                    &"-".repeat(19),
                    &"-".repeat(28),
                    &"-".repeat(36),
                    &"-".repeat(16),
                ));
            }
            let short = event.r#type.rsplit('.').next().unwrap_or_default();
            let happened = time(event.occurred_at.as_ref());
            line(row(&happened, short, &event.partition_key, &place.to_string()));
        }
        self.printed += 1;
        self.after = self.after.max(place);
        Ok(())
    }

    /// Says where to go on.
    fn end(&self) -> anyhow::Result<()> {
        if self.json {
            line(serde_json::to_string(
                &json!({ "resume": self.after.to_string() }),
            )?);
            return Ok(());
        }
        let printed = self.printed;
        line(format!(
            "{printed} events up to {0}; go on with --resume {0}",
            self.after
        ));
        Ok(())
    }
}

fn row(happened: &str, event: &str, about: &str, place: &str) -> String {
    format!("| {happened:<19} | {event:<28} | {about:<36} | {place:<16} |")
}

/// Whether a tail outlives an error: the service is away for a moment, or the call took its time.
fn passes(error: &anyhow::Error) -> bool {
    error.downcast_ref::<tonic::Status>().is_some_and(|status| {
        matches!(
            status.code(),
            Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_is_one_of_the_services_own_events() -> anyhow::Result<()> {
        assert_eq!(full_name("order", "OrderPlaced")?, "waybill.order.v1.OrderPlaced");
        assert_eq!(full_name("order", "LogRewound")?, "waybill.events.v1.LogRewound");
        // A newer service may have what this program does not know.
        assert_eq!(full_name("order", "waybill.order.v2.X")?, "waybill.order.v2.X");
        let refused = full_name("order", "OrderPlcaed")
            .expect_err("no such event")
            .to_string();
        assert!(refused.contains("OrderPlaced, "), "{refused}");
        Ok(())
    }
}
