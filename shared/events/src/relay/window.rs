//! The publishes that are not acknowledged yet: bounded in number and bytes, acknowledged in order.

use std::collections::VecDeque;
use std::future::IntoFuture as _;
use std::pin::Pin;

use async_nats::jetstream::context::{PublishAckFuture, PublishError};
use async_nats::jetstream::publish::PublishAck;
use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;

use super::Stop;
use crate::event::Event;
use crate::position::Position;

type Ack = Pin<Box<dyn Future<Output = Result<PublishAck, PublishError>> + Send>>;

struct Sent {
    ack: Ack,
    sequence: u64,
    bytes: usize,
    event: Acknowledged,
}

/// An event that the stream has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acknowledged {
    pub position: Position,
    pub occurred_at: DateTime<Utc>,
}

pub(super) struct Window {
    sent: VecDeque<Sent>,
    /// The sequence that the last publish will have.
    last_sequence: u64,
    bytes: usize,
    most: usize,
    most_bytes: usize,
}

impl Window {
    pub fn new(last_sequence: u64, most: usize, most_bytes: usize) -> Window {
        Window {
            sent: VecDeque::with_capacity(most),
            last_sequence,
            bytes: 0,
            most: most.max(1),
            most_bytes,
        }
    }

    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    pub fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.sent.len() >= self.most || self.bytes >= self.most_bytes && !self.sent.is_empty()
    }

    pub fn push(&mut self, ack: PublishAckFuture, event: &Event, bytes: usize) {
        self.last_sequence += 1;
        self.bytes += bytes;
        self.sent.push_back(Sent {
            ack: ack.into_future(),
            sequence: self.last_sequence,
            bytes,
            event: Acknowledged {
                position: event.position,
                occurred_at: event.occurred_at,
            },
        });
    }

    /// The next acknowledgement. Any that fails, or names another sequence, is a reason to look at the stream again: what
    /// was published behind it is refused by the stream or published anew. May be dropped while waiting.
    pub async fn next(&mut self) -> Result<Acknowledged, Stop> {
        let Some(first) = self.sent.front_mut() else {
            return std::future::pending().await;
        };
        let answer = (&mut first.ack).await;
        self.take(answer)
    }

    /// The next acknowledgement, if it has come already.
    pub fn ready(&mut self) -> Result<Option<Acknowledged>, Stop> {
        let Some(answer) = self
            .sent
            .front_mut()
            .and_then(|first| (&mut first.ack).now_or_never())
        else {
            return Ok(None);
        };
        self.take(answer).map(Some)
    }

    fn take(&mut self, answer: Result<PublishAck, PublishError>) -> Result<Acknowledged, Stop> {
        let Some(first) = self.sent.pop_front() else {
            return Err(Stop::Again("an acknowledgement that nobody waits for".to_owned()));
        };
        self.bytes -= first.bytes;
        match answer {
            Ok(ack) if ack.sequence == first.sequence => Ok(first.event),
            Ok(ack) => Err(Stop::Again(format!(
                "event {} got sequence {}, not {}",
                first.event.position, ack.sequence, first.sequence
            ))),
            Err(error) => Err(Stop::Again(format!(
                "publishing event {}: {error}",
                first.event.position
            ))),
        }
    }
}
