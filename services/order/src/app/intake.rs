//! Natural batching of placements: those that arrive while others are being committed share the next transaction. One
//! caller alone waits for nobody; a thousand callers cost a few commits, and a bad one never fails its neighbours.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::{Semaphore, oneshot};
use tracing::Instrument as _;
use waybill_events::Log;
use waybill_store::{Db, RetryCause, StoreError};

use super::numbers::Numbers;
use super::place::{Candidate, Outcome, PlaceChunk};
use super::queue::{Queue, Worker};
use crate::config::Placing;
use crate::error::Error;

/// Takes candidates in. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Intake {
    inner: Arc<Inner>,
}

struct Inner {
    /// With a connection for each lane.
    db: Db,
    log: Log,
    numbers: Numbers,
    placing: Placing,
    /// One permit per transaction at once.
    lanes: Semaphore,
    /// With a worker for each lane.
    queue: Arc<Queue<Waiting>>,
}

struct Waiting {
    candidate: Candidate,
    answer: oneshot::Sender<(Candidate, Result<Outcome, Error>)>,
}

impl Intake {
    pub(crate) fn new(db: &Db, log: &Log, numbers: &Numbers, placing: Placing) -> Intake {
        Intake {
            inner: Arc::new(Inner {
                db: db.apart(placing.lanes, None),
                log: log.clone(),
                numbers: numbers.clone(),
                placing,
                lanes: Semaphore::new(placing.lanes as usize),
                queue: Queue::new(placing.lanes as usize, 1),
            }),
        }
    }

    /// Places one candidate, together with whoever else is waiting. Gives it back with its outcome.
    pub(crate) async fn place(&self, candidate: Candidate) -> Result<(Candidate, Outcome), Error> {
        let (answer, answered) = oneshot::channel();
        if let Some(worker) = self.inner.queue.join(Waiting { candidate, answer }) {
            // A task of its own, because it works for others too: a caller that goes away must not take them along.
            tokio::spawn(work(Arc::clone(&self.inner), worker));
        }
        let (candidate, outcome) = answered.await.map_err(|_| Error::Stopping)?;
        Ok((candidate, outcome?))
    }

    /// Places candidates in as many transactions as they need, one after the other. Gives them back in their order, each
    /// with its outcome.
    pub(crate) async fn place_all(
        &self,
        candidates: Vec<Candidate>,
    ) -> Vec<(Candidate, Result<Outcome, Error>)> {
        let mut candidates = VecDeque::from(candidates);
        let mut done = Vec::with_capacity(candidates.len());
        while !candidates.is_empty() {
            let count = self.inner.fitting(&candidates, |candidate| candidate);
            let chunk: Vec<Candidate> = candidates.drain(..count).collect();
            let Ok(_lane) = self.inner.lanes.acquire().await else {
                break;
            };
            let outcomes = self.inner.run(&chunk).await;
            done.extend(chunk.into_iter().zip(outcomes));
        }
        done
    }
}

/// Takes a lane, and whoever is waiting by then, until nobody does.
async fn work(inner: Arc<Inner>, mut worker: Worker<Waiting>) {
    // Each time anew: those who place many at once stand in line for the lanes too.
    while let Ok(_lane) = inner.lanes.acquire().await
        && let Some(batch) = worker.next(|waiting| inner.fitting(waiting, |one| &one.candidate))
        && let Some(first) = batch.first()
    {
        // The batch is part of the first one's trace; events are part of their own candidate's.
        let span = tracing::info_span!(parent: &first.candidate.span, "place orders", orders = batch.len());
        let (candidates, answers): (Vec<Candidate>, Vec<_>) = batch
            .into_iter()
            .map(|waiting| (waiting.candidate, waiting.answer))
            .unzip();
        let outcomes = inner.run(&candidates).instrument(span).await;
        for ((candidate, outcome), answer) in candidates.into_iter().zip(outcomes).zip(answers) {
            // Whoever went away asks again under the same request id.
            let _ = answer.send((candidate, outcome));
        }
    }
}

impl Inner {
    /// How many from the front one transaction may hold; at least one, where there is one.
    fn fitting<T>(&self, from: &VecDeque<T>, candidate: impl Fn(&T) -> &Candidate) -> usize {
        let (mut count, mut lines) = (0, 0);
        for waiting in from.iter().take(self.placing.orders) {
            lines += candidate(waiting).lines();
            if count > 0 && lines > self.placing.lines {
                break;
            }
            count += 1;
        }
        count
    }

    /// Places a chunk; one outcome per candidate, never [`Outcome::Later`].
    async fn run(&self, candidates: &[Candidate]) -> Vec<Result<Outcome, Error>> {
        match self.transaction(candidates).await {
            Ok(outcomes) => self.settle(candidates, outcomes).await,
            Err(error) if candidates.len() > 1 && error.is_of_the_data() => {
                // Something in one of them that the checks let through and the database did not.
                tracing::warn!(%error, orders = candidates.len(), "a chunk was refused; placing its orders one by one");
                let mut alone = Vec::with_capacity(candidates.len());
                for candidate in candidates {
                    alone.push(self.alone(candidate).await);
                }
                alone
            }
            Err(error) => vec![Err(error); candidates.len()],
        }
    }

    /// Runs those again that a refused neighbour left undecided.
    async fn settle(&self, candidates: &[Candidate], outcomes: Vec<Outcome>) -> Vec<Result<Outcome, Error>> {
        let mut settled = Vec::with_capacity(outcomes.len());
        for (candidate, outcome) in candidates.iter().zip(outcomes) {
            settled.push(match outcome {
                Outcome::Later => self.alone(candidate).await,
                decided => Ok(decided),
            });
        }
        settled
    }

    async fn alone(&self, candidate: &Candidate) -> Result<Outcome, Error> {
        let candidate = std::slice::from_ref(candidate);
        for _ in 0..ATTEMPTS {
            if let Some(decided) = self.transaction(candidate).await?.pop()
                && !matches!(decided, Outcome::Later)
            {
                return Ok(decided);
            }
        }
        // Whatever stood in the way was gone each time we looked.
        Err(StoreError::Retry(RetryCause::Serialization).into())
    }

    /// A transaction that panics is refused, like one that the database refuses: others wait for this worker.
    async fn transaction(&self, candidates: &[Candidate]) -> Result<Vec<Outcome>, Error> {
        let decided = AssertUnwindSafe(self.attempt(candidates)).catch_unwind().await;
        decided.unwrap_or_else(|_| Err(StoreError::other("a placement panicked").into()))
    }

    async fn attempt(&self, candidates: &[Candidate]) -> Result<Vec<Outcome>, Error> {
        let chunk = PlaceChunk {
            log: &self.log,
            numbers: &self.numbers,
            candidates,
        };
        match self.db.run(&chunk).await {
            // Whether it was committed is not known, but the request keys know: placed or not, running it again is safe.
            Err(error) if !error.is_certainly_aborted() => self.db.run(&chunk).await,
            decided => decided,
        }
    }
}

/// How often an undecided candidate is tried.
pub(super) const ATTEMPTS: u32 = 3;
