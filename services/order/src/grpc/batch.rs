//! BatchPlaceOrders: messages are checked as they arrive, placed a chunk at a time, and answered in their order.
//!
//! While a chunk is being committed the next one is read, and no more: a caller that sends faster than the database
//! commits is held back by the stream.

use std::collections::{BTreeMap, HashMap};

use tokio::task::JoinHandle;
use tonic::{Status, Streaming};
use waybill_kernel::id::OrderId;
use waybill_proto::waybill::order::v1 as proto;
use waybill_rpc::auth::Caller;
use waybill_rpc::fault::{Fault, to_status};

use super::{rpc, view};
use crate::app::{Candidate, Orders, Outcome};
use crate::domain::order::{Order, Tenant};
use crate::error::Error;

/// Messages of a call.
const MAX_MESSAGES: usize = 100_000;
/// Orders that are handed on at once; the intake cuts them into transactions.
const CHUNK: usize = 200;

/// Places the orders of a stream.
pub(super) async fn place(
    orders: &Orders,
    caller: &Caller,
    mut messages: Streaming<proto::BatchPlaceOrdersRequest>,
) -> Result<Vec<proto::PlaceOrderOutcome>, Status> {
    let mut batch = Batch {
        orders: orders.clone(),
        outcomes: Vec::new(),
        chunk: Vec::new(),
        running: None,
    };
    while let Some(message) = messages.message().await? {
        let index = batch.outcomes.len();
        if index == MAX_MESSAGES {
            return Err(to_status(&Error::BatchTooLarge { most: MAX_MESSAGES }));
        }
        batch.outcomes.push(proto::PlaceOrderOutcome::default());
        let request = proto::PlaceOrderRequest {
            merchant_id: message.merchant_id,
            store_id: message.store_id,
            request_id: message.request_id,
            order: message.order,
        };
        match super::candidate(orders, caller, rpc::BATCH_PLACE_ORDERS, request) {
            Ok(candidate) => batch.chunk.push((index, candidate)),
            Err(error) => batch.outcomes[index] = refused(&error),
        }
        if batch.chunk.len() == CHUNK {
            batch.hand_on().await?;
        }
    }
    batch.hand_on().await?;
    batch.hand_on().await?;
    let number = |(index, outcome): (usize, proto::PlaceOrderOutcome)| proto::PlaceOrderOutcome {
        index: i32::try_from(index).unwrap_or(i32::MAX),
        ..outcome
    };
    Ok(batch.outcomes.into_iter().enumerate().map(number).collect())
}

type Placed = Vec<(Candidate, Result<Outcome, Error>)>;

struct Batch {
    orders: Orders,
    /// One per message so far; empty while it is undecided.
    outcomes: Vec<proto::PlaceOrderOutcome>,
    /// What was read and not yet handed on, with the places of its messages.
    chunk: Vec<(usize, Candidate)>,
    /// What is being placed.
    running: Option<(Vec<usize>, JoinHandle<Placed>)>,
}

impl Batch {
    /// Waits for the chunk that is being placed, then hands the next one on.
    async fn hand_on(&mut self) -> Result<(), Status> {
        if let Some((places, running)) = self.running.take() {
            let placed = running.await.map_err(|_| to_status(&Error::Stopping))?;
            let outcomes = self.show(placed).await.map_err(|error| to_status(&error))?;
            for (place, outcome) in places.into_iter().zip(outcomes) {
                self.outcomes[place] = outcome;
            }
        }
        if !self.chunk.is_empty() {
            let (places, candidates): (Vec<usize>, Vec<Candidate>) = self.chunk.drain(..).unzip();
            let intake = self.orders.intake.clone();
            let work = async move { intake.place_all(candidates).await };
            self.running = Some((places, tokio::spawn(tracing::Instrument::in_current_span(work))));
        }
        Ok(())
    }

    async fn show(&self, placed: Placed) -> Result<Vec<proto::PlaceOrderOutcome>, Error> {
        let known = self.known(&placed).await?;
        let mut outcomes = Vec::with_capacity(placed.len());
        for (candidate, outcome) in placed {
            outcomes.push(match outcome {
                Ok(Outcome::Placed(assigned)) => {
                    taken(candidate.placed(assigned), proto::PlaceOrderResult::Placed)
                }
                Ok(Outcome::Before(order) | Outcome::Exists(order, _)) => match known.get(&order) {
                    Some(order) => taken(order.clone(), proto::PlaceOrderResult::Duplicate),
                    None => refused(&Error::OrderNotFound),
                },
                Ok(Outcome::Refused(error)) | Err(error) => refused(&error),
                Ok(Outcome::Later) => refused(&Error::Stopping),
            });
        }
        Ok(outcomes)
    }

    /// The orders that were there before; one statement per store.
    async fn known(&self, placed: &Placed) -> Result<HashMap<OrderId, Order>, Error> {
        let mut wanted: BTreeMap<Tenant, Vec<OrderId>> = BTreeMap::new();
        for (candidate, outcome) in placed {
            if let Ok(Outcome::Before(order) | Outcome::Exists(order, _)) = outcome {
                wanted.entry(candidate.tenant()).or_default().push(*order);
            }
        }
        let mut known = HashMap::new();
        for (tenant, mut ids) in wanted {
            ids.sort();
            ids.dedup();
            let orders = self.orders.load(tenant, &ids).await?;
            known.extend(orders.into_iter().map(|order| (order.id, order)));
        }
        Ok(known)
    }
}

fn taken(order: Order, result: proto::PlaceOrderResult) -> proto::PlaceOrderOutcome {
    proto::PlaceOrderOutcome {
        result: result.into(),
        order_id: order.id.to_string(),
        version: order.state.version,
        lines: view::lines(order.terms.currency, order.terms.lines),
        number: order.terms.number,
        ..proto::PlaceOrderOutcome::default()
    }
}

fn refused(error: &Error) -> proto::PlaceOrderOutcome {
    // An INTERNAL says nothing of its cause, here as in a status.
    let status = to_status(error);
    proto::PlaceOrderOutcome {
        result: proto::PlaceOrderResult::Refused.into(),
        reason: error.reason().into_owned(),
        message: status.message().to_owned(),
        ..proto::PlaceOrderOutcome::default()
    }
}
