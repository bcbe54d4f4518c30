//! `waybill log …`

use waybill_proto::waybill::events::v1 as pb;

use super::followers;
use crate::args::{EffectsCommand, LogCommand};
use crate::output::{self, line, table, time, word};
use crate::session::Session;

/// Runs the command.
pub async fn run(session: &Session, command: LogCommand, json: bool) -> anyhow::Result<()> {
    match command {
        LogCommand::Status {
            service: Some(service),
        } => one(session, &service, json).await,
        LogCommand::Status { service: None } => all(session, json).await,
        LogCommand::Recover {
            service,
            reason,
            request_id,
            without_stream,
            force,
        } => {
            let mut request = tonic::Request::new(pb::RecoverLogRequest {
                request_id: request_id.unwrap_or_else(super::request_id),
                reason,
                without_stream,
                force,
            });
            // The whole log is compared with the stream: it takes as long as it takes.
            request.set_timeout(std::time::Duration::from_secs(24 * 3600));
            let answer = session
                .history(&service)?
                .recover_log(request)
                .await?
                .into_inner();
            if json {
                return output::json(&answer);
            }
            let done = answer.recovery.unwrap_or_default();
            line(format!(
                "the log of {service} goes on in generation {} (it was in {}); {} events are kept as orphans",
                done.generation, done.from_generation, done.orphans
            ));
            line(format!(
                "next: waybill log orphans {service}; waybill log phantoms; waybill log effects list {service}"
            ));
            Ok(())
        }
        LogCommand::Consumers { service } => followers::list(session, service.as_deref(), json).await,
        LogCommand::Forget {
            service,
            consumer,
            force,
        } => followers::forget(session, &service, consumer, force, json).await,
        LogCommand::Orphans { service, limit } => orphans(session, &service, limit, json).await,
        LogCommand::Phantoms {
            service,
            source,
            limit,
        } => phantoms(session, service.as_deref(), source, limit, json).await,
        LogCommand::Effects(command) => effects(session, command, json).await,
    }
}

async fn history(session: &Session, service: &str) -> anyhow::Result<pb::GetHistoryResponse> {
    let request = pb::GetHistoryRequest {};
    Ok(session.history(service)?.get_history(request).await?.into_inner())
}

async fn all(session: &Session, json: bool) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for service in session.services() {
        let seen = history(session, service).await?;
        if json {
            output::json(&seen)?;
        }
        let state = if seen.fenced_reason.is_empty() {
            "writes"
        } else {
            "FENCED"
        };
        rows.push([
            service.to_owned(),
            seen.generation.to_string(),
            state.to_owned(),
            stream(&seen),
            seen.orphans.to_string(),
            seen.phantoms.to_string(),
            seen.held_kinds.join(", "),
            seen.fenced_reason,
        ]);
    }
    if !json {
        let header = [
            "log",
            ">generation",
            "state",
            "stream",
            ">orphans",
            ">phantoms",
            "held",
            "why",
        ];
        line(table(&header, rows).to_string());
    }
    Ok(())
}

fn stream(seen: &pb::GetHistoryResponse) -> String {
    match (&seen.stream_end, seen.stream_end_in_log) {
        _ if !seen.stream_fault.is_empty() => format!("unreadable: {}", seen.stream_fault),
        (None, _) => "empty".to_owned(),
        (Some(_), true) => "agrees".to_owned(),
        (Some(_), false) => "ends elsewhere".to_owned(),
    }
}

async fn one(session: &Session, service: &str, json: bool) -> anyhow::Result<()> {
    let seen = history(session, service).await?;
    if json {
        return output::json(&seen);
    }
    let none = || "none".to_owned();
    let recovered = match seen.recovered {
        0 => "never".to_owned(),
        generation => format!("generation {generation}"),
    };
    let fenced = match seen.fenced_reason.as_str() {
        "" => "no".to_owned(),
        reason => reason.to_owned(),
    };
    let facts = [
        ("generation", seen.generation.to_string()),
        ("recovered in", recovered),
        ("fenced", fenced),
        (
            "server",
            format!("{} timeline {}", seen.system_identifier, seen.timeline),
        ),
        ("log ends at", seen.log_end.as_ref().map_or_else(none, place)),
        (
            "stream ends at",
            seen.stream_end.as_ref().map_or_else(none, place),
        ),
        ("the two", stream(&seen)),
        (
            "consumers saw",
            format!("generation {}", seen.consumers_generation),
        ),
        ("orphans", seen.orphans.to_string()),
        ("phantoms", seen.phantoms.to_string()),
        ("held", seen.held_kinds.join(", ")),
    ];
    let rows = facts.map(|(name, value)| [name.to_owned(), value]);
    line(table(&["log", service], rows).to_string());
    if !seen.recoveries.is_empty() {
        let rows = seen.recoveries.iter().map(|done| {
            [
                done.generation.to_string(),
                time(done.recovered_at.as_ref()),
                done.recovered_by.clone(),
                done.orphans.to_string(),
                time(done.survived_until.as_ref()),
                done.reason.clone(),
            ]
        });
        let header = [
            ">generation",
            "when (UTC)",
            "by",
            ">orphans",
            "survived until (UTC)",
            "why",
        ];
        line(table(&header, rows).to_string());
    }
    Ok(())
}

fn place(at: &pb::LogPosition) -> String {
    format!("{}.{}.{}", at.generation, at.transaction_id, at.position)
}

async fn orphans(session: &Session, service: &str, limit: i32, json: bool) -> anyhow::Result<()> {
    let request = pb::ListOrphansRequest {
        page_size: limit,
        ..pb::ListOrphansRequest::default()
    };
    let answer = session
        .history(service)?
        .list_orphans(request)
        .await?
        .into_inner();
    if json {
        return output::json(&answer);
    }
    let rows = answer.orphans.iter().map(|orphan| {
        let event = orphan.event.clone().unwrap_or_default();
        [
            event.position.as_ref().map(place).unwrap_or_default(),
            event.r#type,
            event.partition_key,
            time(event.occurred_at.as_ref()),
            orphan.recovered_in.to_string(),
        ]
    });
    let header = ["place", "type", "order", "happened (UTC)", ">recovered in"];
    line(table(&header, rows).to_string());
    if !answer.next_page_token.is_empty() {
        line("there are more: raise --limit");
    }
    Ok(())
}

async fn phantoms(
    session: &Session,
    service: Option<&str>,
    source: Option<String>,
    limit: i32,
    json: bool,
) -> anyhow::Result<()> {
    let services: Vec<&str> = match service {
        Some(service) => vec![service],
        None => session.services().collect(),
    };
    let mut rows = Vec::new();
    for service in services {
        let request = pb::ListPhantomsRequest {
            source: source.clone().unwrap_or_default(),
            page_size: limit,
            page_token: String::new(),
        };
        let answer = session
            .history(service)?
            .list_phantoms(request)
            .await?
            .into_inner();
        if json {
            output::json(&answer)?;
        }
        rows.extend(answer.phantoms.into_iter().map(|phantom| {
            let after = phantom.after.as_ref().map(place).unwrap_or_default();
            let what = match phantom.event_id.as_str() {
                "" => format!("{} events after {after}", phantom.count),
                _ => phantom.r#type.clone(),
            };
            [
                service.to_owned(),
                phantom.consumer,
                phantom.source,
                phantom.position.as_ref().map(place).unwrap_or_default(),
                what,
                phantom.key,
            ]
        }));
    }
    if !json {
        let header = ["service", "consumer", "lost by", "place", "what", "order"];
        line(table(&header, rows).to_string());
    }
    Ok(())
}

async fn held(session: &Session, service: &str, json: bool) -> anyhow::Result<()> {
    let request = pb::ListHeldEffectsRequest {};
    let answer = session
        .history(service)?
        .list_held_effects(request)
        .await?
        .into_inner();
    if json {
        return output::json(&answer);
    }
    let rows = answer.effects.iter().map(|effect| {
        [
            effect.effect_id.clone(),
            word(effect.class().as_str_name(), "CLASS"),
            effect.order_id.clone(),
            time(effect.occurred_at.as_ref()),
            effect.detail.clone(),
        ]
    });
    line(table(&["effect", "is", "order", "when (UTC)", "what"], rows).to_string());
    line(match answer.held_kinds.is_empty() {
        true => "nothing is held".to_owned(),
        false => format!("held: {}", answer.held_kinds.join(", ")),
    });
    Ok(())
}

async fn effects(session: &Session, command: EffectsCommand, json: bool) -> anyhow::Result<()> {
    match command {
        EffectsCommand::List { service } => held(session, &service, json).await,
        EffectsCommand::Adopt {
            service,
            effects,
            all,
        } => {
            let request = pb::AdoptEffectsRequest {
                effect_ids: effects,
                all,
            };
            let mut client = session.history(&service)?;
            let answer = client.adopt_effects(request).await?.into_inner();
            if json {
                return output::json(&answer);
            }
            line(format!("{} effects of {service} were adopted", answer.adopted));
            Ok(())
        }
        EffectsCommand::WriteOff {
            service,
            effects,
            reason,
        } => {
            let request = pb::WriteOffEffectsRequest {
                effect_ids: effects,
                reason,
            };
            let mut client = session.history(&service)?;
            let answer = client.write_off_effects(request).await?.into_inner();
            if json {
                return output::json(&answer);
            }
            line(format!(
                "{} effects of {service} were written off",
                answer.written_off
            ));
            Ok(())
        }
        EffectsCommand::Release { service } => {
            let mut client = session.history(&service)?;
            let answer = client
                .release_effects(pb::ReleaseEffectsRequest {})
                .await?
                .into_inner();
            if json {
                return output::json(&answer);
            }
            line(match answer.released_kinds.is_empty() {
                true => format!("nothing of {service} was held"),
                false => format!("{service} goes on with {}", answer.released_kinds.join(", ")),
            });
            Ok(())
        }
    }
}
