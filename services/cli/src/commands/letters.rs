//! `waybill letters …`

use anyhow::{Context as _, bail};
use serde_json::json;
use waybill_proto::waybill::events::v1 as pb;
use waybill_proto::waybill::events::v1::consumer_service_client::ConsumerServiceClient;
use waybill_rpc::client::Channel;

use super::consumers::with_service;
use crate::args::{LetterRef, LettersCommand};
use crate::output::{self, line, table, time, word};
use crate::session::Session;

type Operator = ConsumerServiceClient<Channel>;

/// Runs the command.
pub async fn run(session: &Session, command: LettersCommand, json: bool) -> anyhow::Result<()> {
    match command {
        LettersCommand::List {
            service,
            order,
            parked,
            limit,
        } => {
            let key = super::key_of(session, order.as_deref()).await?;
            let kept = kept(session, service.as_deref(), &key, parked, limit).await?;
            list(&kept, json)
        }
        LettersCommand::Show { letter } => show(session, &letter, json).await,
        LettersCommand::Retry {
            letter,
            order,
            reason,
        } => {
            let letters = match letter {
                Some(letter) => vec![letter],
                None => {
                    let key = super::key_of(session, order.as_deref()).await?;
                    let kept = kept(session, None, &key, false, 500).await?;
                    let of_order = kept.into_iter().map(|(service, letter)| LetterRef {
                        service,
                        id: letter.letter_id,
                    });
                    of_order.collect()
                }
            };
            if letters.is_empty() {
                bail!("no service keeps a letter of this order: `waybill letters list` shows them all");
            }
            retry(session, &letters, &reason, json).await
        }
        LettersCommand::Discard { letter, reason } => {
            let request = pb::DiscardDeadLetterRequest {
                request_id: super::request_id(),
                letter_id: letter.id.clone(),
                reason,
            };
            let answer = operator(session, &letter)?
                .discard_dead_letter(request)
                .await?
                .into_inner();
            if json {
                output::json(&answer)?;
            }
            tell(
                &letter,
                answer.applied,
                answer.waiting,
                answer.letter.as_ref(),
                json,
            )
        }
    }
}

fn operator(session: &Session, letter: &LetterRef) -> anyhow::Result<Operator> {
    let operators = session.operators(Some(&letter.service))?;
    let (_, operator) = operators
        .into_iter()
        .next()
        .context("a service that is not there")?;
    Ok(operator)
}

/// Kept events of all services or of one, up to `limit` of each.
async fn kept(
    session: &Session,
    service: Option<&str>,
    key: &str,
    parked: bool,
    limit: i32,
) -> anyhow::Result<Vec<(String, pb::DeadLetter)>> {
    let kind = match parked {
        true => pb::LetterKind::Unspecified,
        false => pb::LetterKind::Letter,
    };
    let mut kept = Vec::new();
    for (service, mut operator) in session.operators(service)? {
        let request = pb::ListDeadLettersRequest {
            key: key.to_owned(),
            kind: kind.into(),
            page_size: limit,
            ..pb::ListDeadLettersRequest::default()
        };
        let answer = operator.list_dead_letters(request).await?.into_inner();
        kept.extend(answer.letters.into_iter().map(|one| (service.clone(), one)));
    }
    Ok(kept)
}

fn list(kept: &[(String, pb::DeadLetter)], json: bool) -> anyhow::Result<()> {
    if json {
        let letters = kept.iter().map(|(service, one)| with_service(service, one));
        let letters: Vec<_> = letters.collect::<anyhow::Result<_>>()?;
        line(serde_json::to_string_pretty(&json!({ "letters": letters }))?);
        return Ok(());
    }
    if kept.is_empty() {
        line("No event is kept: every event that was taken has taken effect.");
        return Ok(());
    }
    line(
        table(
            &[
                "letter",
                "kind",
                "order",
                "log",
                "event",
                "since (UTC)",
                ">tries",
                "why",
            ],
            kept.iter().map(|(service, one)| {
                [
                    format!("{service}/{}", one.letter_id),
                    word(one.kind().as_str_name(), "LETTER_KIND"),
                    one.key.clone(),
                    one.source.clone(),
                    short(&one.r#type),
                    time(one.created_at.as_ref()),
                    one.tries.to_string(),
                    one.reason.clone(),
                ]
            }),
        )
        .to_string(),
    );
    Ok(())
}

async fn show(session: &Session, letter: &LetterRef, json: bool) -> anyhow::Result<()> {
    let request = pb::GetDeadLetterRequest {
        letter_id: letter.id.clone(),
    };
    let answer = operator(session, letter)?
        .get_dead_letter(request)
        .await?
        .into_inner();
    if json {
        return output::json(&answer);
    }
    let (kept, event) = (
        answer.letter.context("the service answered without a letter")?,
        answer.event.context("the service answered without an event")?,
    );
    let facts = [
        ("letter", format!("{}/{}", letter.service, kept.letter_id)),
        ("kind", word(kept.kind().as_str_name(), "LETTER_KIND")),
        ("consumer", kept.consumer),
        ("order", kept.key),
        ("event", format!("{} {}", kept.r#type, kept.event_id)),
        ("log", kept.source),
        ("happened (UTC)", time(event.occurred_at.as_ref())),
        ("kept since (UTC)", time(kept.created_at.as_ref())),
        ("why", kept.reason),
        ("tries", kept.tries.to_string()),
        ("parked behind it", answer.parked_behind.to_string()),
        ("trace", event.traceparent),
    ];
    let facts = facts.into_iter().filter(|(_, text)| !text.is_empty());
    line(table(&["", ""], facts.map(|(name, text)| [name.to_owned(), text])).to_string());
    if answer.payload_json.is_empty() {
        line(format!(
            "{} ({} bytes)",
            answer.payload_fault,
            event.payload.len()
        ));
    } else {
        let payload: serde_json::Value = serde_json::from_str(&answer.payload_json)?;
        line(serde_json::to_string_pretty(&payload)?);
    }
    Ok(())
}

async fn retry(session: &Session, letters: &[LetterRef], reason: &str, json: bool) -> anyhow::Result<()> {
    let mut blocked = Vec::new();
    for letter in letters {
        let request = pb::RetryDeadLetterRequest {
            request_id: super::request_id(),
            target: Some(pb::retry_dead_letter_request::Target::LetterId(letter.id.clone())),
            reason: reason.to_owned(),
        };
        let answer = operator(session, letter)?
            .retry_dead_letter(request)
            .await?
            .into_inner();
        if json {
            output::json(&answer)?;
        }
        let told = tell(
            letter,
            answer.applied,
            answer.waiting,
            answer.letter.as_ref(),
            json,
        );
        blocked.extend(told.err());
    }
    match blocked.into_iter().next() {
        Some(first) => Err(first),
        None => Ok(()),
    }
}

/// Says how a repair went; an error when the order is still blocked.
fn tell(
    letter: &LetterRef,
    applied: i32,
    waiting: i32,
    blocked: Option<&pb::DeadLetter>,
    json: bool,
) -> anyhow::Result<()> {
    let LetterRef { service, id } = letter;
    if !json {
        let waiting = match waiting {
            0 => String::new(),
            waiting => format!(", {waiting} wait for the event that opens the order"),
        };
        line(format!("{service}/{id}: {applied} events took effect{waiting}"));
    }
    match blocked {
        None => Ok(()),
        Some(next) => bail!(
            "order {} is still blocked in {service}, by {service}/{} ({}): {}",
            next.key,
            next.letter_id,
            short(&next.r#type),
            next.reason
        ),
    }
}

/// The last part of a type's name.
fn short(type_name: &str) -> String {
    type_name.rsplit('.').next().unwrap_or(type_name).to_owned()
}
