//! The use cases, one file each: load under the order's lock, decide by [`crate::domain`], save with events and jobs, all
//! in one transaction.
//!
//! Every use case that moves money locks the order's row first and reads afterwards, so that what it decides upon cannot
//! change before it commits.

pub mod apply_word;
pub mod approve_refund;
pub mod begin_call;
pub mod cancelled_order;
pub mod cancelled_units;
pub mod create_refund;
pub mod decide_return;
pub mod publish_policy;
pub mod quote_return;
pub mod receive_return;
pub mod request_return;
pub mod retry_leg;

use std::collections::BTreeSet;

use chrono::{DateTime, SubsecRound, Utc};
use waybill_events::{Log, NewEvent};
use waybill_kernel::id::{LegId, OrderId, RefundId};
use waybill_kernel::time;
use waybill_payments::Providers;
use waybill_payments::manual::ManualProvider;
use waybill_store::jobs::{self, NewJob, Priority};
use waybill_store::{StoreError, Tx};

use crate::domain::book::{Book, LineKind, Tenant};
use crate::domain::compose::Plan;
use crate::domain::facts::Fact;
use crate::domain::journal::Entry;
use crate::domain::policy::Policy;
use crate::domain::refund::{ComponentKind, Leg, Refund, RefundState};
use crate::domain::settle;
use crate::error::Error;
use crate::events::Scene;
use crate::store;
use crate::store::book::Loaded;
use crate::workers;

/// Who asked for what nobody asked for.
pub const SYSTEM: &str = "waybill";

/// What the use cases share.
#[derive(Clone)]
pub struct Core {
    clock: time::Shared,
    log: Log,
    providers: BTreeSet<String>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("providers", &self.providers)
            .finish_non_exhaustive()
    }
}

impl Core {
    /// Puts it together.
    #[must_use]
    pub fn new(clock: time::Shared, log: Log, providers: &Providers) -> Self {
        Self {
            clock,
            log,
            providers: providers.names().map(str::to_owned).collect(),
        }
    }

    /// The time, in the precision that the database keeps.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now().trunc_subsecs(6)
    }

    /// Who carries out a refund over a payment of this provider: its adapter, or a person.
    fn carrier<'a>(&'a self, provider: &'a str) -> &'a str {
        if self.providers.contains(provider) {
            provider
        } else {
            ManualProvider::NAME
        }
    }

    /// Writes what follows from a use case into log and job queue.
    async fn finish(&self, tx: &mut Tx, aftermath: Aftermath) -> Result<(), StoreError> {
        self.log.append(tx, &aftermath.events).await?;
        if !aftermath.jobs.is_empty() {
            jobs::enqueue(tx, &aftermath.jobs).await?;
        }
        Ok(())
    }
}

/// Events and jobs that a use case leaves behind.
#[derive(Debug, Default)]
struct Aftermath {
    events: Vec<NewEvent>,
    jobs: Vec<NewJob>,
}

impl Aftermath {
    fn tell(&mut self, scene: &Scene<'_>, facts: &[Fact]) {
        self.events.extend(facts.iter().map(|fact| scene.tell(fact)));
    }

    fn submit(&mut self, tenant: Tenant, order_id: OrderId, legs: &[Leg]) {
        let pending = legs.iter().filter(|leg| leg.state == RefundState::Pending);
        self.jobs
            .extend(pending.map(|leg| workers::submit_job(tenant, order_id, leg)));
    }
}

/// A job about an order's money goes before all others.
pub(crate) fn money_job(
    kind: &'static str,
    key: String,
    tenant: Tenant,
    order_id: OrderId,
    payload: serde_json::Value,
) -> NewJob {
    NewJob::new(kind, key, tenant.merchant, payload)
        .for_order(order_id.uuid())
        .priority(Priority::High)
}

/// The job that hands an attempt of a leg to its provider.
#[must_use]
pub fn attempt_job(
    kind: &'static str,
    tenant: Tenant,
    order_id: OrderId,
    (leg_id, attempt): (LegId, i32),
    provider: &str,
) -> NewJob {
    let payload = serde_json::json!({ "leg_id": leg_id, "attempt": attempt });
    money_job(kind, format!("{leg_id}:{attempt}"), tenant, order_id, payload)
        .towards(workers::destination(provider))
}

/// The order as it must be known: there, and not older than the caller's view of it.
fn seen(loaded: Option<Loaded>, order_id: OrderId, wanted: i64) -> Result<Loaded, Error> {
    match loaded {
        Some(loaded) if loaded.book.seen_version >= wanted => Ok(loaded),
        None if wanted <= 0 => Err(Error::OrderNotFound(order_id)),
        _ => Err(Error::OrderNotSeenYet { order_id, wanted }),
    }
}

/// The order of a return or refund, under its lock.
async fn lock(tx: &mut Tx, tenant: Tenant, order_id: OrderId) -> Result<Loaded, Error> {
    store::book::lock(tx.conn(), tenant, order_id)
        .await?
        .ok_or_else(|| Error::Broken(format!("order {order_id} of a return or refund is gone")))
}

/// A refund to be created.
struct NewRefund<'a> {
    /// The id, where it follows from what made the refund necessary; a new one otherwise.
    refund_id: Option<RefundId>,
    return_id: Option<waybill_kernel::id::ReturnId>,
    reason_key: &'a str,
    reason: &'a str,
    requested_by: &'a str,
}

/// Writes a planned refund: the rows, the promise of its money, the entry that books it as owed, its event and its jobs.
/// Units of a refund without a return are claimed here; a return hands over those it holds.
async fn create(
    core: &Core,
    tx: &mut Tx,
    loaded: &Loaded,
    plan: Plan,
    new: NewRefund<'_>,
    aftermath: &mut Aftermath,
) -> Result<Refund, Error> {
    let (book, now) = (&loaded.book, core.now());
    let mut refund = draft(core, loaded, plan, &new, now);
    let entry = settle::accrue(book, &mut refund);
    store::refunds::insert(tx.conn(), book.tenant, &refund).await?;
    if new.return_id.is_none() {
        let claims: Vec<_> = refund
            .components
            .iter()
            .filter_map(|part| claim(book, part))
            .collect();
        store::claims::take(tx.conn(), book.order_id, None, Some(refund.refund_id), &claims).await?;
    }
    let promised: Vec<_> = refund
        .legs
        .iter()
        .map(|leg| {
            (
                leg.payment_id,
                settle::Delta {
                    in_flight: leg.amount,
                    ..Default::default()
                },
            )
        })
        .collect();
    store::book::move_money(tx.conn(), book.order_id, &promised).await?;
    book_entries(tx, &[entry], now).await?;
    let created = Fact::RefundCreated {
        refund_id: refund.refund_id,
        return_id: refund.return_id,
        amount: refund.amount,
        reason: refund.reason_key.clone(),
    };
    aftermath.tell(&Scene::of(book, refund.version, now), &[created]);
    aftermath.submit(book.tenant, book.order_id, &refund.legs);
    Ok(refund)
}

fn draft(core: &Core, loaded: &Loaded, plan: Plan, new: &NewRefund<'_>, now: DateTime<Utc>) -> Refund {
    let book = &loaded.book;
    let policy = loaded.policy.as_ref();
    let second_eyes = policy.is_some_and(|policy| policy.wants_second_approval(book.currency, plan.amount));
    let state = if second_eyes {
        RefundState::PendingApproval
    } else {
        RefundState::Pending
    };
    let provider = |payment| {
        let of = book.payments.iter().find(|known| known.payment_id == payment);
        core.carrier(of.map_or(ManualProvider::NAME, |known| &known.provider))
            .to_owned()
    };
    let refund_id = new.refund_id.unwrap_or_else(RefundId::generate);
    let legs = plan
        .parts
        .iter()
        .map(|(payment_id, amount)| Leg::new(refund_id, *payment_id, provider(*payment_id), *amount, state));
    Refund {
        refund_id,
        order_id: book.order_id,
        return_id: new.return_id,
        state,
        currency: book.currency.code().to_owned(),
        amount: plan.amount,
        tax: plan.tax,
        legs: legs.collect(),
        components: plan.components,
        reason_key: new.reason_key.to_owned(),
        reason: new.reason.to_owned(),
        requested_by: new.requested_by.to_owned(),
        approved_by: None,
        arrival_days: policy.map_or(DEFAULT_ARRIVAL_DAYS, |policy| policy.arrival_days),
        created_at: now,
        started_at: None,
        expected_at: None,
        succeeded_at: None,
        tax_told: false,
        holds: true,
        accrual_entry: None,
        version: 1,
    }
}

/// What customers are told where the store has no policy: what banks need at most.
const DEFAULT_ARRIVAL_DAYS: u32 = 10;

fn claim<'a>(book: &Book, part: &'a crate::domain::refund::Component) -> Option<store::claims::Claim<'a>> {
    let kind = match part.kind {
        ComponentKind::Line => LineKind::Goods,
        ComponentKind::Shipping => LineKind::Shipping,
        _ => return None,
    };
    let line = book.line(kind, part.line_id?)?;
    Some(store::claims::Claim {
        line_id: line.line_id,
        quantity: line.quantity,
        units: &part.units,
        goods: false,
    })
}

/// Books entries, each of which must be new: a use case books what it does once.
async fn book_entries(tx: &mut Tx, entries: &[Entry], now: DateTime<Utc>) -> Result<(), Error> {
    let wanted = entries
        .iter()
        .filter(|entry| !entry.posting.lines().is_empty())
        .count() as u64;
    let booked = store::journal::insert(tx.conn(), entries, now).await?;
    if booked != wanted {
        let kinds: Vec<_> = entries
            .iter()
            .map(|entry| format!("{} of {}", entry.kind, entry.source))
            .collect();
        return Err(Error::Broken(format!(
            "an entry is booked already: {}",
            kinds.join(", ")
        )));
    }
    Ok(())
}

/// The policy of an order, frozen from now on.
async fn frozen_policy(tx: &mut Tx, loaded: &Loaded) -> Result<Policy, Error> {
    let policy = loaded.policy.clone().ok_or(Error::PolicyNotFound)?;
    if !loaded.frozen {
        store::book::freeze_policy(tx.conn(), loaded.book.order_id, policy.version).await?;
    }
    Ok(policy)
}

/// Refuses when a caller's etag is not the present version.
fn check_etag(given: &str, version: i64) -> Result<(), Error> {
    let present = version.to_string();
    if given.is_empty() || given == present {
        return Ok(());
    }
    Err(Error::EtagMismatch {
        given: given.to_owned(),
        present,
    })
}
