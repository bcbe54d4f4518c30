//! Calls to payment providers, as jobs under a lease.
//!
//! | job | does |
//! | --- | --- |
//! | `payment.sweep` | captures or releases what is authorised for an order: by the store's policy, or because it is cancelled |
//! | `payment.submit` | hands an attempt to its provider |
//! | `payment.resolve` | asks a provider what came of an attempt: after a time-out, and while it works on it |
//!
//! An attempt goes in four steps, and a crash between any two of them has one effect:
//!
//! 1. the provider is asked what it has of it: before the first call too, because what somebody else captured or released
//!    meanwhile shows here and nowhere else;
//! 2. intent and provider key are committed, the attempt is SUBMITTED (O-27);
//! 3. the provider is called, within less than half the job's lease;
//! 4. what it said is applied (O-29), or the attempt is UNKNOWN and `payment.resolve` begins again at 1 later.
//!
//! A call that may have happened is repeated, with the same key, only when the provider has nothing of it and either still
//! knows the key or had time to finish what may have been on its way.

mod jobs;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, timeout_at};
use waybill_kernel::id::PaymentId;
use waybill_kernel::money::Money;
use waybill_payments::{CaptureRequest, PaymentProvider, ProviderError, Providers, StepState, VoidRequest};
use waybill_store::jobs::Job;

pub(crate) use self::jobs::{Resolve, Submit, SweepAuthorizations, resolve_job, submit_job, sweep_job};
use crate::app::{ApplyWord, BeginCall, Call, FollowUp, Orders, Turn};
use crate::domain::attempt::{Attempt, AttemptKind, AttemptState, Outcome};
use crate::error::Error;

/// How patient the workers are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// After a time-out, the wait before the provider is asked.
    pub look_after: Duration,
    /// While a provider works on an attempt, the wait between two questions.
    pub poll: Duration,
    /// How long a call may be on its way at most: after this time what the provider does not have will not come.
    pub quiet: Duration,
}

/// In whose hands an attempt is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hand<'a> {
    /// When a call must have ended.
    deadline: Instant,
    /// The job; a call is begun only while it is ours and its kind is not held.
    job: Option<&'a Job>,
}

impl Hand<'_> {
    /// Tells the job how its destination did.
    fn heard<T>(&self, answer: &Result<T, ProviderError>) {
        match (self.job, answer) {
            (Some(job), Err(ProviderError::Transient { .. } | ProviderError::Unknown { .. })) => {
                job.unanswered()
            }
            (Some(job), _) => job.answered(),
            (None, _) => {}
        }
    }
}

impl From<Instant> for Hand<'_> {
    fn from(deadline: Instant) -> Self {
        Self { deadline, job: None }
    }
}

impl<'a> From<&'a Job> for Hand<'a> {
    fn from(job: &'a Job) -> Self {
        Self {
            deadline: job.deadline(),
            job: Some(job),
        }
    }
}

/// The destination of the jobs that call a provider: its limits and its circuit breaker are those of the account.
pub(crate) fn destination(provider: &str) -> String {
    format!("payment:{provider}")
}

/// What captures among attempts take.
pub(crate) fn taken_by(attempts: &[Attempt]) -> i64 {
    attempts
        .iter()
        .filter(|attempt| attempt.kind == AttemptKind::Capture)
        .map(|attempt| attempt.amount)
        .sum()
}

/// Hands attempts to providers and hears what they say.
#[derive(Clone)]
pub(crate) struct Cashier {
    orders: Orders,
    providers: Providers,
    patience: Patience,
}

/// What came of an attempt for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It is settled.
    Settled,
    /// The provider works on it.
    Pending,
    /// Nobody knows.
    Unknown,
}

/// Why an attempt got no further.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// The provider surely did nothing and may do it later.
    #[error("{provider} could not be used ({reason})")]
    NotNow {
        /// The provider.
        provider: String,
        /// Its reason.
        reason: String,
        /// How long it asks to wait.
        after: Option<Duration>,
    },
    /// The adapter that the attempt was begun with is not configured any more.
    #[error("provider {0:?} is not configured; configure it again")]
    NoProvider(String),
    /// The database, or a rule.
    #[error(transparent)]
    Ours(#[from] Error),
}

/// What a provider says of an attempt.
struct Told {
    id: String,
    state: StepState,
}

/// What a provider was found to have of an attempt.
enum Found {
    Told(Progress),
    Nothing,
    Unclear { reason: String },
}

impl Cashier {
    /// Puts it together.
    pub(crate) fn new(orders: Orders, providers: Providers, patience: Patience) -> Self {
        Self {
            orders,
            providers,
            patience,
        }
    }

    /// Carries an attempt as far as it goes now.
    pub(crate) async fn submit<'a>(
        &self,
        attempt: PaymentId,
        hand: impl Into<Hand<'a>> + Send,
    ) -> Result<Progress, Trouble> {
        let hand = hand.into();
        match self.begin(attempt, hand.job, None).await? {
            Turn::Over => Ok(Progress::Settled),
            Turn::Look(call) => self.look(&call, hand).await,
            Turn::Call(call) => self.call(&call, hand).await,
        }
    }

    async fn begin(
        &self,
        attempt: PaymentId,
        job: Option<&Job>,
        asked_at: Option<i32>,
    ) -> Result<Turn, Error> {
        let begin = BeginCall {
            orders: &self.orders,
            attempt,
            job,
            asked_at,
        };
        self.orders.db.run(&begin).await
    }

    fn provider(&self, name: &str) -> Result<Arc<dyn PaymentProvider>, Trouble> {
        self.providers
            .get(name)
            .ok_or_else(|| Trouble::NoProvider(name.to_owned()))
    }

    /// Step 1, and the others where they are safe.
    async fn look(&self, call: &Call, hand: Hand<'_>) -> Result<Progress, Trouble> {
        let attempt = &call.attempt;
        match self.find(call, hand).await? {
            Found::Told(progress) => Ok(progress),
            Found::Nothing if self.may_repeat(attempt)? => {
                match self.begin(attempt.id, hand.job, Some(attempt.calls)).await? {
                    Turn::Call(call) => self.call(&call, hand).await,
                    Turn::Over => Ok(Progress::Settled),
                    Turn::Look(call) => Err(Trouble::NotNow {
                        provider: call.attempt.provider,
                        reason: "called_meanwhile".to_owned(),
                        after: None,
                    }),
                }
            }
            // It was never called, so what the provider has is not ours.
            Found::Unclear { reason } if attempt.calls == 0 => {
                self.apply(attempt.id, None, Outcome::Failed { reason }).await?;
                Ok(Progress::Settled)
            }
            Found::Nothing | Found::Unclear { .. } => self.lose_sight(attempt.id).await,
        }
    }

    /// Step 3 and 4 of a call whose intent is committed.
    async fn call(&self, call: &Call, hand: Hand<'_>) -> Result<Progress, Trouble> {
        let attempt = &call.attempt;
        let provider = self.provider(&attempt.provider)?;
        let answer = match timeout_at(hand.deadline, ask(&*provider, call)).await {
            Ok(answer) => answer,
            Err(_) => Err(ProviderError::unknown("timeout")),
        };
        hand.heard(&answer);
        match answer {
            Ok(told) => self.hear(attempt.id, told).await,
            // Its word speaks of this call alone: with an earlier one in doubt it settles nothing.
            Err(ProviderError::Refused { reason, detail }) if attempt.calls == 0 => {
                tracing::info!(attempt.id = %attempt.id, reason, detail, "the provider refused an attempt");
                self.apply(attempt.id, None, Outcome::Failed { reason }).await?;
                Ok(Progress::Settled)
            }
            Err(ProviderError::Refused { reason, .. }) => match self.find(call, hand).await? {
                Found::Told(progress) => Ok(progress),
                Found::Nothing if self.is_quiet(attempt.last_called_at) => {
                    self.apply(attempt.id, None, Outcome::Failed { reason }).await?;
                    Ok(Progress::Settled)
                }
                Found::Nothing | Found::Unclear { .. } => self.lose_sight(attempt.id).await,
            },
            Err(ProviderError::Transient { reason, retry_after }) => Err(Trouble::NotNow {
                provider: attempt.provider.clone(),
                reason,
                after: retry_after,
            }),
            Err(ProviderError::Unknown { reason }) => {
                tracing::warn!(attempt.id = %attempt.id, reason, "the outcome of an attempt is unknown; the provider is asked");
                self.lose_sight(attempt.id).await
            }
        }
    }

    async fn find(&self, call: &Call, hand: Hand<'_>) -> Result<Found, Trouble> {
        let attempt = &call.attempt;
        let provider = self.provider(&attempt.provider)?;
        let answer = timeout_at(hand.deadline, look_up(&*provider, call)).await;
        let answer = answer.unwrap_or_else(|_| Err(ProviderError::transient("timeout", None)));
        hand.heard(&answer);
        match answer {
            Ok(Some(told)) => self.hear(attempt.id, told).await.map(Found::Told),
            Ok(None) => Ok(Found::Nothing),
            // A question has no effect; it is asked again.
            Err(ProviderError::Transient { reason, retry_after }) => Err(Trouble::NotNow {
                provider: attempt.provider.clone(),
                reason,
                after: retry_after,
            }),
            Err(error) => {
                tracing::warn!(
                    attempt.id = %attempt.id,
                    reason = error.reason(),
                    "what the provider has of a payment contradicts an attempt"
                );
                Ok(Found::Unclear {
                    reason: error.reason().to_owned(),
                })
            }
        }
    }

    /// The same call again has one effect while the provider knows its key. Later, and where it knows no keys, only when an
    /// earlier call can no longer be on its way.
    fn may_repeat(&self, attempt: &Attempt) -> Result<bool, Trouble> {
        let known_for = self.provider(&attempt.provider)?.capture_key_lifetime();
        let key_is_known = attempt.first_called_at.is_none_or(|first| {
            known_for == Duration::MAX
                || TimeDelta::from_std(known_for).is_ok_and(|known_for| self.orders.now() - first < known_for)
        });
        Ok(key_is_known || self.is_quiet(attempt.last_called_at))
    }

    fn is_quiet(&self, last: Option<DateTime<Utc>>) -> bool {
        let quiet = TimeDelta::from_std(self.patience.quiet).unwrap_or(TimeDelta::MAX);
        last.is_none_or(|last| self.orders.now() - last >= quiet)
    }

    async fn hear(&self, attempt: PaymentId, told: Told) -> Result<Progress, Trouble> {
        let outcome = match told.state {
            StepState::Pending => Outcome::Pending,
            StepState::Succeeded => Outcome::Succeeded,
            StepState::Failed { reason } => Outcome::Failed { reason },
        };
        let state = self.apply(attempt, Some(told.id), outcome).await?;
        Ok(match state {
            AttemptState::Succeeded | AttemptState::Failed => Progress::Settled,
            AttemptState::Pending | AttemptState::Submitted => Progress::Pending,
            AttemptState::Unknown => Progress::Unknown,
        })
    }

    async fn apply(
        &self,
        attempt: PaymentId,
        id: Option<String>,
        outcome: Outcome,
    ) -> Result<AttemptState, Error> {
        let word = ApplyWord {
            orders: &self.orders,
            attempt,
            id,
            outcome,
        };
        self.orders.db.run(&word).await
    }

    async fn lose_sight(&self, attempt: PaymentId) -> Result<Progress, Trouble> {
        self.follow_up(attempt, true, self.patience.look_after).await?;
        Ok(Progress::Unknown)
    }

    async fn follow_up(&self, attempt: PaymentId, unanswered: bool, after: Duration) -> Result<(), Error> {
        let follow_up = FollowUp {
            orders: &self.orders,
            attempt,
            unanswered,
            after,
        };
        self.orders.db.run(&follow_up).await
    }
}

/// Asks a provider to do what an attempt wants.
async fn ask(provider: &dyn PaymentProvider, call: &Call) -> Result<Told, ProviderError> {
    match call.attempt.kind {
        AttemptKind::Capture => {
            let request = capture_request(call);
            provider.capture(&request).await.map(|done| Told {
                id: done.provider_capture_id,
                state: done.state,
            })
        }
        AttemptKind::Void => {
            let request = void_request(&call.attempt);
            provider.void(&request).await.map(|done| Told {
                id: done.provider_void_id,
                state: done.state,
            })
        }
    }
}

/// Asks a provider what it has of an attempt.
async fn look_up(provider: &dyn PaymentProvider, call: &Call) -> Result<Option<Told>, ProviderError> {
    match call.attempt.kind {
        AttemptKind::Capture => {
            let request = capture_request(call);
            let found = provider.find_capture(&request).await?;
            Ok(found.map(|done| Told {
                id: done.provider_capture_id,
                state: done.state,
            }))
        }
        AttemptKind::Void => {
            let request = void_request(&call.attempt);
            let found = provider.find_void(&request).await?;
            Ok(found.map(|done| Told {
                id: done.provider_void_id,
                state: done.state,
            }))
        }
    }
}

fn capture_request(call: &Call) -> CaptureRequest {
    let attempt = &call.attempt;
    CaptureRequest {
        provider_payment_id: attempt.provider_payment_id.clone(),
        amount: Money::new(call.currency, attempt.amount),
        captured_before: Money::new(call.currency, attempt.captured_before),
        is_final: attempt.is_final,
        idempotency_key: attempt.provider_key.clone(),
    }
}

fn void_request(attempt: &Attempt) -> VoidRequest {
    VoidRequest {
        provider_payment_id: attempt.provider_payment_id.clone(),
        idempotency_key: attempt.provider_key.clone(),
    }
}

#[cfg(test)]
#[path = "workers_tests.rs"]
mod tests;
