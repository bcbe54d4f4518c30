//! A person at the RPCs that operate consumers, for the tests.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use uuid::Uuid;
use waybill_kernel::id::OrderId;
use waybill_proto::waybill::events::v1 as pb;
use waybill_proto::waybill::events::v1::consumer_service_client::ConsumerServiceClient;
use waybill_rpc::client::Channel;
use waybill_rpc::fault;
use waybill_testkit::eventually;

use crate::support::*;

pub type Operator = ConsumerServiceClient<Channel>;

pub fn operator(node: &Node) -> anyhow::Result<Operator> {
    Ok(ConsumerServiceClient::new(node.channel()?))
}

pub fn retry(request_id: &str, letter: &pb::DeadLetter) -> pb::RetryDeadLetterRequest {
    pb::RetryDeadLetterRequest {
        request_id: request_id.to_owned(),
        target: Some(pb::retry_dead_letter_request::Target::LetterId(
            letter.letter_id.clone(),
        )),
        reason: String::new(),
    }
}

pub fn retry_key(request_id: &str, order: OrderId) -> pb::RetryDeadLetterRequest {
    pb::RetryDeadLetterRequest {
        request_id: request_id.to_owned(),
        target: Some(pb::retry_dead_letter_request::Target::Key(pb::ConsumerKey {
            consumer: "recorder".to_owned(),
            key: order.to_string(),
        })),
        reason: "the fold was repaired".to_owned(),
    }
}

pub fn discard(request_id: &str, letter: &pb::DeadLetter) -> pb::DiscardDeadLetterRequest {
    pb::DiscardDeadLetterRequest {
        request_id: request_id.to_owned(),
        letter_id: letter.letter_id.clone(),
        reason: "sent by mistake".to_owned(),
    }
}

pub async fn kept(node: &Node, order: OrderId) -> anyhow::Result<Vec<pb::DeadLetter>> {
    let request = pb::ListDeadLettersRequest {
        key: order.to_string(),
        page_size: 500,
        ..pb::ListDeadLettersRequest::default()
    };
    Ok(operator(node)?
        .list_dead_letters(request)
        .await?
        .into_inner()
        .letters)
}

/// Waits until so many events of an order are kept.
pub async fn keeps(node: &Node, order: OrderId, count: usize) -> Vec<pb::DeadLetter> {
    eventually("kept events", LONG, async || {
        let kept = kept(node, order).await.map_err(|error| error.to_string())?;
        if kept.len() == count {
            Ok(kept)
        } else {
            Err(format!("{} of {count}", kept.len()))
        }
    })
    .await
}

pub async fn actions(node: &Node, order: OrderId) -> anyhow::Result<Vec<pb::ConsumerAction>> {
    let request = pb::ListConsumerActionsRequest {
        consumer: "recorder".to_owned(),
        key: order.to_string(),
        page_size: 500,
        ..pb::ListConsumerActionsRequest::default()
    };
    Ok(operator(node)?
        .list_consumer_actions(request)
        .await?
        .into_inner()
        .actions)
}

pub fn reason_of(status: &tonic::Status) -> Option<String> {
    fault::reason(status)
}

pub fn poison(set: &Arc<Mutex<HashSet<Uuid>>>, id: impl Into<Uuid>) {
    set.lock().expect("not poisoned").insert(id.into());
}

pub fn heal(set: &Arc<Mutex<HashSet<Uuid>>>) {
    set.lock().expect("not poisoned").clear();
}

/// The effects of an order, as event ids in the order they took effect.
pub async fn ids_of(node: &Node, order: OrderId) -> anyhow::Result<Vec<Uuid>> {
    Ok(
        sqlx::query_scalar("SELECT event_id FROM effect WHERE key = $1 ORDER BY number")
            .bind(order.uuid())
            .fetch_all(node.db.pool())
            .await?,
    )
}
