//! Calls to payment providers, as jobs under a lease.
//!
//! | job | does |
//! | --- | --- |
//! | `refund.submit` | hands an attempt of a leg to its provider |
//! | `refund.resolve` | asks a provider what came of an attempt: after a time-out, and while it works on it |
//! | `refund.lines_cancelled` | pays back what was captured for cancelled units |
//! | `refund.order_cancelled` | pays back what was captured for a cancelled order |
//!
//! A call is made in three steps, and a crash between any two of them pays once:
//!
//! 1. intent and provider key are committed, the leg is SUBMITTED;
//! 2. the provider is called, within less than half the job's lease;
//! 3. what it said is applied, or the leg is UNKNOWN and `refund.resolve` asks again later.
//!
//! A job that finds its leg SUBMITTED or UNKNOWN was interrupted after step 1: it looks the refund up first, and repeats
//! the call, with the same key, only when the provider has nothing of it and either still knows the key or had time to
//! finish what may have been on its way.

mod units;

use std::time::Duration;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use waybill_kernel::id::{LegId, MerchantId, OrderId, PaymentId, StoreId};
use waybill_payments::manual::ManualProvider;
use waybill_payments::{
    PaymentProvider, ProviderError, ProviderRefund, Providers, RefundState as AtProvider,
};
use waybill_rpc::fault::Fault as _;
use waybill_store::jobs::{Done, Job, JobError, JobHandler, NewJob};
use waybill_store::{Db, RetryClass as _, StoreError};

pub use self::units::{LINES_CANCELLED, PayUnits, units_job};
use crate::app::apply_word::{About, ApplyWord};
use crate::app::begin_call::{BeginCall, Call, FollowUp, Turn};
use crate::app::cancelled_order::CancelledOrder;
use crate::app::{Core, attempt_job, money_job};
use crate::domain::book::Tenant;
use crate::domain::refund::{Leg, Refund, RefundState};
use crate::domain::settle::Outcome;
use crate::error::Error;

/// The job that hands an attempt of a leg to its provider.
pub const SUBMIT: &str = "refund.submit";
/// The job that asks a provider what came of an attempt.
pub const RESOLVE: &str = "refund.resolve";
/// The job that pays back what was captured for a cancelled order.
pub const ORDER_CANCELLED: &str = "refund.order_cancelled";

/// How patient the workers are.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// After a time-out, the wait before the provider is asked.
    pub look_after: Duration,
    /// While a provider works on a refund, the wait between two questions.
    pub poll: Duration,
    /// How long a call may be on its way at most: after this time a refund that the provider does not have will not come.
    pub quiet: Duration,
}

/// In whose hands an attempt is.
#[derive(Debug, Clone, Copy)]
pub struct Hand<'a> {
    /// When a call must have ended.
    pub deadline: Instant,
    /// The job; a call is begun only while it is ours and its kind is not held.
    pub job: Option<&'a Job>,
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

/// The destination of the jobs that call a provider: its limits and its circuit breaker are those of the account. A person
/// is not called.
#[must_use]
pub fn destination(provider: &str) -> String {
    if provider == ManualProvider::NAME {
        return String::new();
    }
    format!("payment:{provider}")
}

/// Hands legs to providers and hears what they say.
#[derive(Debug, Clone)]
pub struct Cashier {
    db: Db,
    core: Core,
    providers: Providers,
    patience: Patience,
}

/// What came of an attempt for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It is settled, or not ours to do.
    Settled,
    /// The provider works on it.
    Pending,
    /// A person carries it out and records it.
    Manual,
    /// Nobody knows.
    Unknown,
}

/// Why an attempt got no further.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
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
    /// The adapter that began the leg is not configured any more.
    #[error("provider {0:?} is not configured; configure it again")]
    NoProvider(String),
    /// The database, or a rule.
    #[error(transparent)]
    Ours(#[from] Error),
}

/// What a provider was found to have of an attempt.
enum Found {
    Told(Progress),
    Nothing,
    Unclear,
}

impl Cashier {
    /// Puts it together. The manual provider is always there.
    #[must_use]
    pub fn new(db: Db, core: Core, providers: Providers, patience: Patience) -> Self {
        Self {
            db,
            core,
            providers: providers.with(ManualProvider),
            patience,
        }
    }

    /// Carries an attempt as far as it goes now: calls the provider, or asks it first where it was called before.
    pub async fn submit<'a>(
        &self,
        leg_id: LegId,
        attempt: i32,
        hand: impl Into<Hand<'a>> + Send,
    ) -> Result<Progress, Trouble> {
        let hand = hand.into();
        match self.begin(leg_id, attempt, hand.job, false).await? {
            Turn::Over => Ok(Progress::Settled),
            Turn::Call(call) => self.call(attempt, &call, hand).await,
            Turn::Look(call) => self.look(attempt, &call, hand).await,
        }
    }

    async fn begin(
        &self,
        leg_id: LegId,
        attempt: i32,
        job: Option<&Job>,
        again: bool,
    ) -> Result<Turn, Error> {
        self.db
            .run(&BeginCall {
                core: &self.core,
                leg_id,
                attempt,
                job,
                again,
            })
            .await
    }

    fn provider(&self, name: &str) -> Result<std::sync::Arc<dyn PaymentProvider>, Trouble> {
        self.providers
            .get(name)
            .ok_or_else(|| Trouble::NoProvider(name.to_owned()))
    }

    /// Step 2 and 3 of a call whose intent is committed.
    async fn call(&self, attempt: i32, call: &Call, hand: Hand<'_>) -> Result<Progress, Trouble> {
        let provider = self.provider(&call.provider)?;
        let answer = match timeout_at(hand.deadline, provider.refund(&call.request)).await {
            Ok(answer) => answer,
            Err(_) => Err(ProviderError::unknown("timeout")),
        };
        hand.heard(&answer);
        let leg_id = call.request.leg_id;
        match answer {
            Ok(told) => self.hear(leg_id, attempt, &told).await,
            // Its word speaks of this call alone: with an earlier one in doubt it settles nothing.
            Err(ProviderError::Refused { reason, detail }) if call.before.calls == 0 => {
                tracing::info!(leg.id = %leg_id, reason, detail, "the provider refused a refund");
                self.apply(leg_id, attempt, String::new(), Outcome::Failed { reason })
                    .await?;
                Ok(Progress::Settled)
            }
            Err(ProviderError::Refused { reason, .. }) => match self.find(attempt, call, hand).await? {
                Found::Told(progress) => Ok(progress),
                Found::Nothing if self.is_quiet(call) => {
                    self.apply(leg_id, attempt, String::new(), Outcome::Failed { reason })
                        .await?;
                    Ok(Progress::Settled)
                }
                Found::Nothing | Found::Unclear => self.lose_sight(leg_id, attempt).await,
            },
            Err(ProviderError::Transient { reason, retry_after }) => Err(Trouble::NotNow {
                provider: call.provider.clone(),
                reason,
                after: retry_after,
            }),
            Err(ProviderError::Unknown { reason }) => {
                tracing::warn!(leg.id = %leg_id, reason, "the outcome of a refund is unknown; the provider is asked");
                self.lose_sight(leg_id, attempt).await
            }
        }
    }

    /// Finds out what came of an earlier call, and repeats it where that is safe.
    async fn look(&self, attempt: i32, call: &Call, hand: Hand<'_>) -> Result<Progress, Trouble> {
        let leg_id = call.request.leg_id;
        match self.find(attempt, call, hand).await? {
            Found::Told(progress) => Ok(progress),
            Found::Nothing if self.may_repeat(call)? => {
                match self.begin(leg_id, attempt, hand.job, true).await? {
                    Turn::Call(call) => self.call(attempt, &call, hand).await,
                    Turn::Over | Turn::Look(_) => Ok(Progress::Settled),
                }
            }
            Found::Nothing | Found::Unclear => self.lose_sight(leg_id, attempt).await,
        }
    }

    async fn find(&self, attempt: i32, call: &Call, hand: Hand<'_>) -> Result<Found, Trouble> {
        let provider = self.provider(&call.provider)?;
        let answer = timeout_at(hand.deadline, provider.find_refund(&call.request)).await;
        let answer = answer.unwrap_or_else(|_| Err(ProviderError::transient("timeout", None)));
        hand.heard(&answer);
        match answer {
            Ok(Some(told)) => self
                .hear(call.request.leg_id, attempt, &told)
                .await
                .map(Found::Told),
            Ok(None) => Ok(Found::Nothing),
            // A question has no effect; it is asked again.
            Err(ProviderError::Transient { reason, retry_after }) => Err(Trouble::NotNow {
                provider: call.provider.clone(),
                reason,
                after: retry_after,
            }),
            Err(error) => {
                tracing::error!(
                    leg.id = %call.request.leg_id,
                    reason = error.reason(),
                    "what the provider has of a refund contradicts it; a person has to look"
                );
                Ok(Found::Unclear)
            }
        }
    }

    /// The same call again pays once while the provider knows its key. Later, and where it knows no keys, only when an
    /// earlier call can no longer be on its way.
    fn may_repeat(&self, call: &Call) -> Result<bool, Trouble> {
        let known_for = self.provider(&call.provider)?.key_lifetime();
        let since = |time: Option<chrono::DateTime<chrono::Utc>>| time.map(|time| self.core.now() - time);
        let key_is_known = since(call.before.first_called_at).is_none_or(|age| {
            TimeDelta::from_std(known_for).is_ok_and(|known_for| age < known_for)
                || known_for == Duration::MAX
        });
        Ok(key_is_known || self.is_quiet(call))
    }

    fn is_quiet(&self, call: &Call) -> bool {
        let quiet = TimeDelta::from_std(self.patience.quiet).unwrap_or(TimeDelta::MAX);
        call.before
            .last_called_at
            .is_none_or(|last| self.core.now() - last >= quiet)
    }

    async fn hear(&self, leg_id: LegId, attempt: i32, told: &ProviderRefund) -> Result<Progress, Trouble> {
        let outcome = match &told.state {
            AtProvider::Pending => Outcome::Pending,
            AtProvider::Succeeded => Outcome::Succeeded,
            AtProvider::Failed { reason } => Outcome::Failed {
                reason: reason.clone(),
            },
        };
        let refund = self
            .apply(leg_id, attempt, told.provider_refund_id.clone(), outcome)
            .await?;
        Ok(progress(&refund, leg_id, attempt))
    }

    async fn apply(
        &self,
        leg_id: LegId,
        attempt: i32,
        provider_refund_id: String,
        outcome: Outcome,
    ) -> Result<Refund, Error> {
        let about = About::Attempt { leg_id, attempt };
        self.db
            .run(&ApplyWord {
                core: &self.core,
                about,
                provider_refund_id,
                outcome,
            })
            .await
    }

    async fn lose_sight(&self, leg_id: LegId, attempt: i32) -> Result<Progress, Trouble> {
        self.follow_up(leg_id, attempt, true, self.patience.look_after)
            .await?;
        Ok(Progress::Unknown)
    }

    async fn follow_up(
        &self,
        leg_id: LegId,
        attempt: i32,
        unanswered: bool,
        after: Duration,
    ) -> Result<(), Error> {
        self.db
            .run(&FollowUp {
                core: &self.core,
                leg_id,
                attempt,
                unanswered,
                after,
            })
            .await
    }
}

fn progress(refund: &Refund, leg_id: LegId, attempt: i32) -> Progress {
    match refund.leg(leg_id).filter(|leg| leg.attempt == attempt) {
        Some(leg) if leg.state == RefundState::Submitted && leg.provider == ManualProvider::NAME => {
            Progress::Manual
        }
        Some(leg) if leg.state == RefundState::Submitted => Progress::Pending,
        Some(leg) if leg.state == RefundState::Unknown => Progress::Unknown,
        _ => Progress::Settled,
    }
}

impl From<Trouble> for JobError {
    fn from(trouble: Trouble) -> Self {
        let reason = trouble.to_string();
        match trouble {
            Trouble::NotNow {
                after: Some(after), ..
            } => Self::retry_after(after, reason),
            Trouble::NotNow { after: None, .. } | Trouble::NoProvider(_) => Self::retry(reason),
            Trouble::Ours(error) => ours(&error),
        }
    }
}

/// A fault of the database passes; a broken rule does not.
fn ours(error: &Error) -> JobError {
    if let Error::Store(StoreError::Held) = error {
        return StoreError::Held.into();
    }
    let reason = format!("{}: {error}", error.reason());
    if error.is_retry() || matches!(error, Error::Store(_)) {
        JobError::retry(reason)
    } else {
        JobError::dead(reason)
    }
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Attempt {
    leg_id: LegId,
    attempt: i32,
}

/// The handler of [`SUBMIT`].
#[derive(Debug, Clone)]
pub struct Submit(pub Cashier);

impl JobHandler for Submit {
    const KIND: &'static str = SUBMIT;

    async fn run(&self, job: &Job) -> Result<Done, JobError> {
        let Attempt { leg_id, attempt } = job.payload()?;
        if self.0.submit(leg_id, attempt, job).await? == Progress::Pending {
            let poll = self.0.patience.poll;
            self.0
                .follow_up(leg_id, attempt, false, poll)
                .await
                .map_err(|error| ours(&error))?;
        }
        Ok(Done::Finished)
    }
}

/// The handler of [`RESOLVE`].
#[derive(Debug, Clone)]
pub struct Resolve(pub Cashier);

impl JobHandler for Resolve {
    const KIND: &'static str = RESOLVE;

    async fn run(&self, job: &Job) -> Result<Done, JobError> {
        let Attempt { leg_id, attempt } = job.payload()?;
        Ok(match self.0.submit(leg_id, attempt, job).await? {
            Progress::Settled | Progress::Manual => Done::Finished,
            Progress::Pending => Done::Again {
                after: self.0.patience.poll,
            },
            Progress::Unknown => Done::Again {
                after: self.0.patience.look_after,
            },
        })
    }
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Cancelled {
    merchant_id: MerchantId,
    store_id: StoreId,
    order_id: OrderId,
    #[serde(default)]
    payment_id: Option<PaymentId>,
    late_capture: Option<i64>,
}

/// The handler of [`ORDER_CANCELLED`].
#[derive(Debug, Clone)]
pub struct PayCancelled {
    /// The database.
    pub db: Db,
    /// What use cases share.
    pub core: Core,
}

impl JobHandler for PayCancelled {
    const KIND: &'static str = ORDER_CANCELLED;

    async fn run(&self, job: &Job) -> Result<Done, JobError> {
        let Cancelled {
            merchant_id,
            store_id,
            order_id,
            payment_id,
            late_capture,
        } = job.payload()?;
        // Jobs that were written earlier name the payment as their key alone.
        let payment_id = payment_id.or_else(|| job.key.parse().ok());
        let tenant = Tenant {
            merchant: merchant_id,
            store: store_id,
        };
        let case = CancelledOrder {
            core: &self.core,
            tenant,
            order_id,
            late_capture: payment_id.zip(late_capture),
            job: Some(job),
        };
        self.db.run(&case).await.map_err(|error| ours(&error))?;
        Ok(Done::Finished)
    }
}

/// The job that hands an attempt of a leg to its provider.
#[must_use]
pub fn submit_job(tenant: Tenant, order_id: OrderId, leg: &Leg) -> NewJob {
    attempt_job(SUBMIT, tenant, order_id, (leg.leg_id, leg.attempt), &leg.provider)
}

/// The job that pays back what was captured for a cancelled order: all of it, or what came in afterwards.
#[must_use]
pub fn cancelled_job(tenant: Tenant, order_id: OrderId, late: Option<(PaymentId, i64)>) -> NewJob {
    let key = late.map_or_else(|| order_id.to_string(), |(payment_id, _)| payment_id.to_string());
    let payload = serde_json::json!({
        "merchant_id": tenant.merchant,
        "store_id": tenant.store,
        "order_id": order_id,
        "payment_id": late.map(|(payment_id, _)| payment_id),
        "late_capture": late.map(|(_, amount)| amount),
    });
    money_job(ORDER_CANCELLED, key, tenant, order_id, payload)
}
