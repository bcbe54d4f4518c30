//! What a person asks of consumers: retry and discard dead letters, pause, resume. One use case each, each written down in
//! the transaction that does it.
//!
//! Any replica can do it: nothing here needs to own a partition. It refuses to change an event, or the order of a key's
//! events; giving one up is all that can be done with an event that will never take effect.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tonic::Code;
use uuid::Uuid;
use waybill_kernel::check::Violations;
use waybill_rpc::fault::Fault;
use waybill_store::error::StoreError;
use waybill_store::idempotency::{self, Claim};
use waybill_store::{Db, RequestKey, RetryClass, Tx, UseCase};

use crate::error::FoldError;
use crate::fold::{Operated, Repaired};
use crate::store::operate::{self as sql, Action};
use crate::store::{fold, repair};

/// Kept events in one transaction of a repair. Bulk work commits well within a second.
const STEP_EVENTS: usize = 100;

/// How often a repair asks again what became of a transaction whose commit was lost, or tries a smaller one.
const ATTEMPTS: usize = 5;

/// The consumers of a service, by name.
pub(crate) type Consumers = BTreeMap<&'static str, Arc<dyn Operated>>;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OperateError {
    #[error("the request is not valid: {0}")]
    Invalid(Violations),
    #[error("this service has no consumer {name:?}; it has {known}")]
    NoConsumer { name: String, known: String },
    #[error(
        "nothing is kept under {what} (any more): it was retried, discarded, or never there; the list of actions tells"
    )]
    NoLetter { what: String },
    #[error("{asked} is parked behind letter {letter} of its key: retry or discard that one")]
    NotALetter { asked: i64, letter: i64 },
    #[error("the database cannot do it at the moment: {}", crate::relay::in_words(.0))]
    Store(#[from] StoreError),
}

impl From<FoldError> for OperateError {
    fn from(error: FoldError) -> Self {
        match error {
            FoldError::Store(error) => OperateError::Store(error),
            FoldError::Poison(reason) => OperateError::Store(StoreError::other(reason)),
        }
    }
}

impl RetryClass for OperateError {
    fn store_error(&self) -> Option<&StoreError> {
        match self {
            OperateError::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl Fault for OperateError {
    fn code(&self) -> Code {
        match self {
            OperateError::Invalid(_) | OperateError::Store(StoreError::RequestIdReused) => {
                Code::InvalidArgument
            }
            OperateError::NoConsumer { .. } | OperateError::NoLetter { .. } => Code::NotFound,
            OperateError::NotALetter { .. } => Code::FailedPrecondition,
            OperateError::Store(
                StoreError::Unavailable { .. } | StoreError::Retry(_) | StoreError::Fenced,
            ) => Code::Unavailable,
            OperateError::Store(_) => Code::Internal,
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            OperateError::Invalid(_) => "INVALID_REQUEST",
            OperateError::NoConsumer { .. } => "CONSUMER_NOT_FOUND",
            OperateError::NoLetter { .. } => "LETTER_NOT_FOUND",
            OperateError::NotALetter { .. } => "NOT_A_LETTER",
            OperateError::Store(StoreError::RequestIdReused) => "REQUEST_ID_REUSED",
            OperateError::Store(_) => "DATABASE_UNAVAILABLE",
        })
    }

    fn domain(&self) -> &'static str {
        "events.waybill"
    }

    fn violations(&self) -> Option<&Violations> {
        match self {
            OperateError::Invalid(violations) => Some(violations),
            _ => None,
        }
    }

    fn precondition(&self) -> Option<(String, String, String)> {
        match self {
            OperateError::NotALetter { letter, .. } => {
                Some(("LETTER_KIND".to_owned(), letter.to_string(), self.to_string()))
            }
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        (self.code() == Code::Unavailable).then_some(Duration::from_millis(500))
    }
}

/// Finds a consumer by name.
pub(crate) fn find<'c>(consumers: &'c Consumers, name: &str) -> Result<&'c Arc<dyn Operated>, OperateError> {
    consumers.get(name).ok_or_else(|| OperateError::NoConsumer {
        name: name.to_owned(),
        known: match consumers.is_empty() {
            true => "none".to_owned(),
            false => consumers.keys().copied().collect::<Vec<_>>().join(", "),
        },
    })
}

/// What is to be repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// The key of this kept event.
    Letter(i64),
    /// This key of this consumer.
    Key(String, Uuid),
}

/// Retries a key, or gives its letter up and goes on with the key.
pub(crate) struct RepairKey<'c> {
    pub consumers: &'c Consumers,
    pub target: Target,
    /// Only with a letter as its target.
    pub discard: bool,
    pub reason: String,
    pub key: RequestKey,
}

/// What a repair did and how the key is.
pub(crate) type Answer = Repaired;

impl RepairKey<'_> {
    /// Repairs, in as many transactions as it takes.
    pub async fn run(&self, db: &Db) -> Result<Answer, OperateError> {
        let resolved = OnceLock::new();
        let mut step = Step {
            command: self,
            resolved: &resolved,
            before: Repaired::default(),
            most: STEP_EVENTS,
            begun: false,
        };
        let mut failures = 0;
        loop {
            match db.run(&step).await {
                Ok(Stage::Done(answer)) => return Ok(answer),
                Ok(Stage::More(so_far)) => {
                    step.before = so_far;
                    step.begun = true;
                }
                // Nobody knows whether it was committed: the request's key tells if it was the last transaction, the rows
                // that are left tell if it was another one.
                Err(OperateError::Store(error))
                    if !error.is_certainly_aborted() && resolved.get().is_some() && failures < ATTEMPTS =>
                {
                    failures += 1;
                    step.begun = true;
                }
                // It may have been too much for one transaction.
                Err(OperateError::Store(StoreError::Unavailable { .. }))
                    if step.most > 1 && failures < ATTEMPTS =>
                {
                    failures += 1;
                    step.most = (step.most / 4).max(1);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// One transaction of a repair.
struct Step<'r, 'c> {
    command: &'r RepairKey<'c>,
    resolved: &'r OnceLock<(String, Uuid)>,
    before: Repaired,
    most: usize,
    /// Whether an earlier transaction of this repair may have been committed: then the letter may be gone.
    begun: bool,
}

#[derive(Debug, Serialize, Deserialize)]
enum Stage {
    More(Repaired),
    Done(Repaired),
}

impl UseCase for Step<'_, '_> {
    type Output = Stage;
    type Error = OperateError;

    async fn run(&self, tx: &mut Tx) -> Result<Stage, OperateError> {
        let request = &self.command.key;
        let claims = idempotency::claim(tx.conn(), std::slice::from_ref(request)).await?;
        match claims.into_iter().next() {
            Some(Claim::Replay(answer)) => {
                return Ok(Stage::Done(
                    serde_json::from_str(&answer).map_err(StoreError::decode)?,
                ));
            }
            Some(Claim::Reused) => return Err(StoreError::RequestIdReused.into()),
            _ => {}
        }
        let (consumer, key) = self.resolve(tx).await?;
        let fold = find(self.command.consumers, &consumer)?;
        repair::lock_key(tx.conn(), &consumer, key).await?;
        let head = repair::first(tx.conn(), &consumer, key, 1, 1).await?.pop();
        let head = match (head, &self.command.target) {
            (Some(head), _) if self.begun => head,
            (Some(head), Target::Letter(letter)) => {
                // It may have been repaired while this transaction waited for the lock.
                if repair::owner_of(tx.conn(), *letter).await?.is_none() {
                    return Err(no_letter(&self.command.target));
                }
                if self.command.discard && head.letter.id != *letter {
                    return Err(OperateError::NotALetter {
                        asked: *letter,
                        letter: head.letter.id,
                    });
                }
                head
            }
            (Some(head), Target::Key(..)) => head,
            (None, _) if self.begun => return self.done(tx, self.before.clone()).await,
            (None, target) => return Err(no_letter(target)),
        };
        let discard = self.command.discard && self.command.target == Target::Letter(head.letter.id);
        if discard {
            repair::forget(tx.conn(), &[head.letter.id]).await?;
        }
        let repaired = fold.repair(tx, key, self.most).await?;
        let outcome = outcome(&repaired);
        sql::write_down(
            tx.conn(),
            &Action {
                consumer: &consumer,
                action: if self.command.discard { "discard" } else { "retry" },
                caller: &request.caller,
                request_id: &request.request_id,
                reason: &self.command.reason,
                repair: Some(sql::Repair {
                    key,
                    head: &head,
                    discarded: discard,
                    applied: repaired.applied,
                    outcome,
                }),
            },
        )
        .await?;
        let total = Repaired {
            applied: self.before.applied + repaired.applied,
            waiting: self.before.waiting + repaired.waiting,
            ..repaired
        };
        if total.more {
            idempotency::release(tx.conn(), &[request]).await?;
            return Ok(Stage::More(total));
        }
        self.done(tx, total).await
    }
}

impl Step<'_, '_> {
    /// The key that is meant; found once, for the letter goes with the repair.
    async fn resolve(&self, tx: &mut Tx) -> Result<(String, Uuid), OperateError> {
        if let Some(resolved) = self.resolved.get() {
            return Ok(resolved.clone());
        }
        let resolved = match &self.command.target {
            Target::Key(consumer, key) => (consumer.clone(), *key),
            Target::Letter(letter) => repair::owner_of(tx.conn(), *letter)
                .await?
                .ok_or_else(|| no_letter(&self.command.target))?,
        };
        Ok(self.resolved.get_or_init(|| resolved).clone())
    }

    async fn done(&self, tx: &mut Tx, answer: Repaired) -> Result<Stage, OperateError> {
        let text = serde_json::to_string(&answer).map_err(StoreError::other)?;
        idempotency::record(tx.conn(), &[(&self.command.key, text)]).await?;
        Ok(Stage::Done(answer))
    }
}

/// How a key is after a transaction, as the list of actions has it.
fn outcome(repaired: &Repaired) -> &'static str {
    match repaired {
        Repaired { letter: Some(_), .. } => "blocked",
        Repaired { more: true, .. } => "going_on",
        Repaired { .. } => "free",
    }
}

fn no_letter(target: &Target) -> OperateError {
    OperateError::NoLetter {
        what: match target {
            Target::Letter(letter) => format!("letter {letter}"),
            Target::Key(consumer, key) => format!("key {key} of consumer {consumer}"),
        },
    }
}

/// Pauses a consumer everywhere.
pub(crate) struct Pause {
    pub consumer: &'static str,
    pub reason: String,
    pub caller: String,
    pub request_id: String,
}

/// Why a consumer does not work now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Paused {
    pub kind: String,
    pub reason: String,
}

impl UseCase for Pause {
    type Output = Paused;
    type Error = OperateError;

    async fn run(&self, tx: &mut Tx) -> Result<Paused, OperateError> {
        if sql::pause(tx.conn(), self.consumer, &self.reason).await? {
            sql::revoke(tx.conn(), self.consumer).await?;
        }
        let stop = sql::stops(tx.conn(), &[self.consumer]).await?.pop();
        sql::write_down(
            tx.conn(),
            &Action {
                consumer: self.consumer,
                action: "pause",
                caller: &self.caller,
                request_id: &self.request_id,
                reason: &self.reason,
                repair: None,
            },
        )
        .await?;
        // Not there: resumed by another transaction since it was found paused.
        let stop = stop.ok_or(StoreError::Retry(waybill_store::RetryCause::Serialization))?;
        Ok(Paused {
            kind: stop.kind,
            reason: stop.reason,
        })
    }
}

/// Lets a consumer work again.
pub(crate) struct Resume {
    pub consumer: &'static str,
    pub reason: String,
    pub caller: String,
    pub request_id: String,
}

impl UseCase for Resume {
    type Output = bool;
    type Error = OperateError;

    async fn run(&self, tx: &mut Tx) -> Result<bool, OperateError> {
        let resumed = fold::resume(tx.conn(), self.consumer).await?;
        sql::write_down(
            tx.conn(),
            &Action {
                consumer: self.consumer,
                action: "resume",
                caller: &self.caller,
                request_id: &self.request_id,
                reason: &self.reason,
                repair: None,
            },
        )
        .await?;
        Ok(resumed)
    }
}
