//! Brings the events of one log to a lane: from the stream while it flows, from the log whenever something is missing.
//!
//! The feeder decides nothing: it hands on what it gets, and says when it may have missed something. The lane answers
//! with the places from which to read the log. Because one feeder does both, what it read from the log always lies
//! before the live events that it hands on later. It holds a bounded number of bytes: when the lane is slow, it does not
//! pull.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use futures_util::StreamExt as _;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;
use waybill_store::Backoff;

use super::FoldOptions;
use crate::envelope::unpack;
use crate::event::Event;
use crate::nats::{Link, NO_LINK, Nats};
use crate::position::Position;
use crate::reader::{ReadError, SourceLog};
use crate::relay::in_words;
use crate::status::{Condition, Part};

/// How long the next part of a log may take. Live events wait meanwhile.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Permits count kibibytes.
const PERMIT_BYTES: usize = 1024;

/// What a feeder tells its lane.
#[expect(clippy::large_enum_variant, reason = "nearly every input is an event")]
#[derive(Debug)]
pub(super) enum Input {
    /// An event, from the stream or the log. `complete` is false when its payload must be read from the log.
    Event {
        source: usize,
        event: Event,
        complete: bool,
        _permit: OwnedSemaphorePermit,
    },
    /// Anything may have been missed: the lane is to ask for all its partitions.
    Behind { source: usize },
    /// Everything that was asked for these partitions has been handed on.
    CaughtUp { source: usize, partitions: Vec<u16> },
    /// Where the log ends.
    Heads {
        source: usize,
        heads: Vec<(u16, Position)>,
    },
}

/// What a lane asks its feeder for: the events of partitions after some place. Never blocks.
#[derive(Debug, Default)]
pub(super) struct Fills {
    wanted: Mutex<BTreeMap<u16, Position>>,
    bell: Notify,
}

impl Fills {
    /// Asks for the events of a partition.
    pub fn ask(&self, partition: u16, after: Position) {
        self.wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(partition, after);
        self.bell.notify_one();
    }

    fn take(&self) -> BTreeMap<u16, Position> {
        std::mem::take(&mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One log and one lane.
pub(super) struct Feeder {
    pub index: usize,
    pub source: Arc<str>,
    pub log: SourceLog,
    pub nats: Nats,
    /// The partitions to read; `None` for all.
    pub partitions: Option<Vec<u16>>,
    pub options: FoldOptions,
    pub part: Part,
    pub lane: mpsc::Sender<Input>,
    /// Whether the stream can be read, for the [`Comparer`].
    pub live: watch::Sender<bool>,
    pub fills: Arc<Fills>,
    pub budget: Arc<Semaphore>,
    pub todo: BTreeMap<u16, Position>,
    pub failures: u32,
    pub retry_at: Option<Instant>,
}

/// Asks the producer of one log from time to time where the log ends, so that the lane notices what neither the stream
/// nor a later event has told it. Apart from the feeder, because a producer that hangs must not hold up live events.
pub(super) struct Comparer {
    pub index: usize,
    pub log: SourceLog,
    pub options: FoldOptions,
    pub lane: mpsc::Sender<Input>,
    pub live: watch::Receiver<bool>,
}

impl Comparer {
    /// Compares until the lane or the feeder is gone.
    pub async fn run(mut self) {
        loop {
            let pause = if *self.live.borrow_and_update() {
                self.options.compare_every
            } else {
                self.options.compare_without_stream
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = self.live.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
            match within(self.log.heads()).await {
                Ok(heads) => {
                    if self
                        .lane
                        .send(Input::Heads {
                            source: self.index,
                            heads,
                        })
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
                Err(error) => tracing::debug!(error = in_words(&error), "the heads of a log are not known"),
            }
        }
    }
}

/// The lane is gone.
struct LaneGone;

/// How many permits make the budget of a feeder.
pub(super) fn budget(bytes: usize) -> usize {
    bytes.div_ceil(PERMIT_BYTES).max(1)
}

impl Feeder {
    /// Feeds until the lane is gone.
    pub async fn run(mut self) {
        // The only way out is that nobody listens any more.
        let Err(LaneGone) = self.feed().await;
    }

    async fn feed(&mut self) -> Result<std::convert::Infallible, LaneGone> {
        let backoff = Backoff {
            base: Duration::from_millis(100),
            cap: Duration::from_secs(2),
        };
        let mut failures = 0;
        // What is in the log must not wait for NATS.
        self.tell(Input::Behind { source: self.index }).await?;
        loop {
            let mut link = self.nats.link();
            let reason = if !link.borrow().up {
                NO_LINK.to_owned()
            } else {
                let subscribed = self
                    .nats
                    .subscribe(&self.source, self.partitions.as_deref(), self.options.batch_bytes)
                    .await;
                match subscribed {
                    Ok(messages) => {
                        failures = 0;
                        self.part.set(Condition::Working);
                        self.live.send_replace(true);
                        self.tell(Input::Behind { source: self.index }).await?;
                        let reason = self.follow(messages, &mut link).await?;
                        self.live.send_replace(false);
                        tracing::debug!(source = &*self.source, reason, "the stream has to be read anew");
                        continue;
                    }
                    Err(fault) => fault.to_string(),
                }
            };
            failures += 1;
            self.part.set(Condition::Retrying(reason));
            self.without_stream(backoff.delay(failures), &mut link).await?;
        }
    }

    /// Hands on what the stream brings. Returns why it must be subscribed to anew.
    async fn follow(
        &mut self,
        mut messages: pull::Stream,
        link: &mut watch::Receiver<Link>,
    ) -> Result<String, LaneGone> {
        let fills = Arc::clone(&self.fills);
        let mut delivered = 0;
        loop {
            let retry_at = self.retry_at;
            tokio::select! {
                biased;
                () = fills.bell.notified() => self.fill().await?,
                () = at(retry_at) => self.fill().await?,
                _ = link.changed() => return Ok("the connection to NATS changed".to_owned()),
                message = messages.next() => {
                    let message = match message {
                        Some(Ok(message)) => message,
                        Some(Err(error)) => return Ok(error.to_string()),
                        None => return Ok("the subscription ended".to_owned()),
                    };
                    // Without acknowledgements the server counts what it sent; a number left out is a message lost.
                    delivered += 1;
                    match message.info() {
                        Ok(info) if info.consumer_sequence == delivered => {}
                        Ok(info) => return Ok(format!("message {} came where {delivered} was due", info.consumer_sequence)),
                        Err(error) => return Ok(error.to_string()),
                    }
                    self.hand_on(message.message).await?;
                }
            }
        }
    }

    /// Goes on from the log alone for a while.
    async fn without_stream(
        &mut self,
        time: Duration,
        link: &mut watch::Receiver<Link>,
    ) -> Result<(), LaneGone> {
        let fills = Arc::clone(&self.fills);
        let end = Instant::now() + time;
        loop {
            let retry_at = self.retry_at;
            tokio::select! {
                biased;
                () = fills.bell.notified() => self.fill().await?,
                () = at(retry_at) => self.fill().await?,
                Ok(()) = link.changed() => return Ok(()),
                () = tokio::time::sleep_until(end) => return Ok(()),
            }
        }
    }

    async fn hand_on(&mut self, message: async_nats::Message) -> Result<(), LaneGone> {
        match unpack(
            &self.source,
            &message.subject,
            message.headers.as_ref(),
            message.payload,
        ) {
            Ok(incoming) => self.push(incoming.event, incoming.complete).await,
            Err(reason) => {
                tracing::warn!(
                    source = &*self.source,
                    subject = message.subject.as_str(),
                    %reason,
                    "a message in the stream is no event and was passed over"
                );
                Ok(())
            }
        }
    }

    /// Reads from the log what the lane asked for, as far as it can be read now.
    async fn fill(&mut self) -> Result<(), LaneGone> {
        self.todo.append(&mut self.fills.take());
        if self.todo.is_empty() {
            return Ok(());
        }
        let backoff = Backoff {
            base: Duration::from_millis(50),
            cap: Duration::from_secs(5),
        };
        match self.read().await? {
            Ok(()) => {
                let partitions = std::mem::take(&mut self.todo).into_keys().collect();
                self.failures = 0;
                self.retry_at = None;
                self.part.set(Condition::Working);
                self.tell(Input::CaughtUp {
                    source: self.index,
                    partitions,
                })
                .await
            }
            Err(error) => {
                self.failures += 1;
                self.retry_at = Some(Instant::now() + backoff.delay(self.failures));
                self.part.set(Condition::Retrying(format!(
                    "reading the log: {}",
                    in_words(&error)
                )));
                Ok(())
            }
        }
    }

    async fn read(&mut self) -> Result<Result<(), ReadError>, LaneGone> {
        let cursors = self
            .todo
            .iter()
            .map(|(partition, after)| (*partition, *after))
            .collect();
        let mut chunks = match within(self.log.read(cursors)).await {
            Ok(chunks) => chunks,
            Err(error) => return Ok(Err(error)),
        };
        loop {
            match within(async { chunks.next().await.transpose() }).await {
                Ok(Some(events)) => {
                    for event in events {
                        self.todo.insert(event.vpartition, event.position);
                        self.push(event, true).await?;
                    }
                }
                Ok(None) => return Ok(Ok(())),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    async fn push(&mut self, event: Event, complete: bool) -> Result<(), LaneGone> {
        let permits = budget(event.weight()).min(budget(self.options.batch_bytes)) as u32;
        let permit = Arc::clone(&self.budget)
            .acquire_many_owned(permits)
            .await
            .map_err(|_| LaneGone)?;
        self.tell(Input::Event {
            source: self.index,
            event,
            complete,
            _permit: permit,
        })
        .await
    }

    async fn tell(&self, input: Input) -> Result<(), LaneGone> {
        self.lane.send(input).await.map_err(|_| LaneGone)
    }
}

pub(super) async fn within<T>(reading: impl Future<Output = Result<T, ReadError>>) -> Result<T, ReadError> {
    match tokio::time::timeout(READ_TIMEOUT, reading).await {
        Ok(read) => read,
        Err(_) => Err(tonic::Status::deadline_exceeded("the log did not answer in time").into()),
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
