//! Orders that are being made: kept as they were handed in, priced whenever somebody looks, placed once (O-35).
//!
//! What was handed in is opaque here: `grpc` reads it by the rules of today whenever it is looked at. What is decided about a
//! draft is decided under its row's lock; placing it is a placement like any other, in the same transaction.

use std::convert::Infallible;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use waybill_kernel::check::Violations;
use waybill_kernel::hash;
use waybill_kernel::id::DraftId;
use waybill_kernel::money::Money;
use waybill_kernel::page::PageToken;
use waybill_store::idempotency::{self, Claim};
use waybill_store::{RequestKey, RetryCause, StoreError, Tx, UseCase};

use super::Orders;
use super::intake::ATTEMPTS;
use super::place::{Candidate, Outcome, PlaceChunk, answered};
use crate::domain::draft::{Draft, KeptDraft, Quote, Stage};
use crate::domain::order::{Order, Tenant};
use crate::domain::pricing;
use crate::error::Error;
use crate::store::drafts::{self, Locked, Written};

/// Drafts that are forgotten in one transaction.
const EXPIRED_AT_ONCE: i64 = 200;

/// Between two looks for old drafts.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// An order as it was handed in, and as it was read.
pub(crate) struct Handed {
    /// As it came.
    pub content: Vec<u8>,
    /// What it says.
    pub draft: Draft,
}

impl Handed {
    fn written(&self) -> Written<'_> {
        let customer = &self.draft.contact.customer;
        Written {
            content: &self.content,
            total: total(&self.draft),
            email: &customer.email,
            external_id: &customer.external_id,
        }
    }
}

/// What a customer would pay; none while an amount is wrong.
fn total(draft: &Draft) -> Option<Money> {
    pricing::sums(draft).map(|sums| Money::new(draft.currency, sums.total))
}

/// A draft that is to be changed.
pub(crate) struct ThisDraft {
    /// Whose it is.
    pub tenant: Tenant,
    /// The draft.
    pub draft: DraftId,
    /// The etag it must still have; any when empty.
    pub etag: String,
}

impl ThisDraft {
    /// Locks it, and looks whether it may still change.
    async fn lock_open(&self, tx: &mut Tx) -> Result<(), Error> {
        let locked = self.lock(tx).await?;
        match locked.order {
            Some(order_id) => Err(Error::DraftPlaced {
                draft_id: self.draft,
                order_id,
            }),
            None => self.check_etag(&locked.version.to_string()),
        }
    }

    async fn lock(&self, tx: &mut Tx) -> Result<Locked, Error> {
        let locked = drafts::lock(tx.conn(), self.tenant, self.draft).await?;
        locked.ok_or(Error::DraftNotFound)
    }

    fn check_etag(&self, current: &str) -> Result<(), Error> {
        if self.etag.is_empty() || self.etag == current {
            return Ok(());
        }
        Err(Error::EtagMismatch {
            given: self.etag.clone(),
            current: current.to_owned(),
        })
    }
}

/// A page of drafts.
pub(crate) struct DraftPage {
    /// Newest first, without what was handed in.
    pub drafts: Vec<KeptDraft>,
    /// Where the next page begins; empty on the last one.
    pub next: String,
}

impl Orders {
    /// What an order would be if it were placed now. `faults` are those that were found when it was read.
    pub(crate) fn quote(&self, tenant: Tenant, mut draft: Draft, faults: Violations) -> Quote {
        let total = total(&draft);
        Orders::ask_total(&mut draft);
        let refused = |faults| Quote {
            total,
            order: None,
            faults,
        };
        if !faults.is_empty() {
            let mut faults = faults;
            self.review(&draft, &mut faults);
            return refused(faults);
        }
        match self.as_it_would_be(tenant, draft) {
            Ok((order, _)) => Quote {
                total,
                order: Some(order),
                faults,
            },
            Err(Error::Invalid(faults) | Error::TotalsMismatch(faults)) => refused(faults),
            Err(other) => {
                let mut faults = faults;
                faults.push("", other.to_string());
                refused(faults)
            }
        }
    }

    /// Takes the sum for the total of an order that names none. Where an amount is wrong that is the fault that is told.
    pub(crate) fn ask_total(draft: &mut Draft) {
        let sums = pricing::sums(draft).unwrap_or_default();
        draft.ask_total(&sums);
    }

    /// Keeps an order that is being made, once per request key.
    pub(crate) async fn create_draft(
        &self,
        key: &RequestKey,
        tenant: Tenant,
        handed: &Handed,
    ) -> Result<KeptDraft, Error> {
        let usecase = CreateDraft {
            orders: self,
            tenant,
            handed,
        };
        let draft = self.db.run_once(key, &usecase).await?;
        self.draft(tenant, draft).await
    }

    /// Replaces what is known of a draft, once per request key.
    pub(crate) async fn update_draft(
        &self,
        key: &RequestKey,
        this: &ThisDraft,
        handed: &Handed,
    ) -> Result<KeptDraft, Error> {
        let usecase = UpdateDraft {
            orders: self,
            this,
            handed,
        };
        self.db.run_once(key, &usecase).await?;
        self.draft(this.tenant, this.draft).await
    }

    /// Forgets a draft, once per request key.
    pub(crate) async fn delete_draft(&self, key: &RequestKey, this: &ThisDraft) -> Result<(), Error> {
        self.db.run_once(key, &DeleteDraft { this }).await
    }

    /// Reads a draft.
    pub(crate) async fn draft(&self, tenant: Tenant, draft: DraftId) -> Result<KeptDraft, Error> {
        let found = drafts::get(self.db.pool(), tenant, draft).await?;
        found.ok_or(Error::DraftNotFound)
    }

    /// A page of drafts: those that were placed, or were not, or both.
    pub(crate) async fn drafts(
        &self,
        tenant: Tenant,
        placed: Option<bool>,
        size: i64,
        token: &str,
    ) -> Result<DraftPage, Error> {
        let list = hash::fingerprint([
            "drafts".to_owned(),
            tenant.merchant.to_string(),
            tenant.store.to_string(),
            format!("{placed:?}"),
        ]);
        let after = decode(token, &list)?;
        // One more than asked for says whether there is a next page.
        let mut drafts = drafts::list(self.db.pool(), tenant, placed, after, size + 1).await?;
        let more = i64::try_from(drafts.len()).is_ok_and(|found| found > size);
        if more {
            drafts.pop();
        }
        let last = drafts.last().filter(|_| more);
        Ok(DraftPage {
            next: last.map_or_else(String::new, |last| {
                PageToken::encode(&list, &[last.id.to_string()])
            }),
            drafts,
        })
    }

    /// What was handed in of a draft that is to be placed as its etag names it; none when it was placed before.
    pub(crate) async fn draft_to_place(&self, this: &ThisDraft) -> Result<Option<Vec<u8>>, Error> {
        let kept = self.draft(this.tenant, this.draft).await?;
        match kept.stage {
            Stage::Placed(_) => Ok(None),
            Stage::Open(content) => {
                this.check_etag(&kept.version.to_string())?;
                Ok(Some(content))
            }
        }
    }

    /// Makes an order of a draft, once per request key and once at all. The candidate is made of what
    /// [`Orders::draft_to_place`] answered.
    pub(crate) async fn place_draft(
        &self,
        key: &RequestKey,
        this: &ThisDraft,
        candidate: Option<Candidate>,
    ) -> Result<Order, Error> {
        let candidates: Vec<Candidate> = candidate.into_iter().collect();
        let usecase = PlaceDraft {
            orders: self,
            key,
            this,
            candidates: &candidates,
        };
        let mut outcome = self.db.run(&usecase).await?;
        for _ in 1..ATTEMPTS {
            if matches!(outcome, Outcome::Later) {
                outcome = self.db.run(&usecase).await?;
            }
        }
        match outcome {
            Outcome::Placed(assigned) => {
                let mut placed = candidates
                    .into_iter()
                    .map(|candidate| candidate.placed(assigned.clone()));
                placed.next().ok_or_else(undecided)
            }
            Outcome::Before(order) => self.get_as_placed(this.tenant, order).await,
            Outcome::Exists(order_id, number) => Err(Error::OrderExists { order_id, number }),
            Outcome::Refused(error) => Err(error),
            // Whatever stood in the way is gone: the same call again decides.
            Outcome::Later => Err(StoreError::Retry(RetryCause::Serialization).into()),
        }
    }
}

/// The draft that a page begins behind; none for the first page.
fn decode(token: &str, list: &str) -> Result<Option<DraftId>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let place = PageToken::decode(token, list).ok();
    let place = place.and_then(|parts| match parts.as_slice() {
        [draft] => draft.parse().ok(),
        _ => None,
    });
    if place.is_none() {
        let mut v = Violations::new();
        v.push(
            "page_token",
            "is no token of this list; give the last one received, or none",
        );
        return Err(Error::Invalid(v));
    }
    Ok(place)
}

/// A chunk of one candidate answers for it.
fn undecided() -> Error {
    StoreError::other("a draft was neither placed nor refused").into()
}

struct CreateDraft<'a> {
    orders: &'a Orders,
    tenant: Tenant,
    handed: &'a Handed,
}

impl UseCase for CreateDraft<'_> {
    type Output = DraftId;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<DraftId, Error> {
        let (id, now) = (DraftId::generate(), self.orders.clock.now());
        drafts::insert(tx.conn(), self.tenant, id, &self.handed.written(), now).await?;
        Ok(id)
    }
}

struct UpdateDraft<'a> {
    orders: &'a Orders,
    this: &'a ThisDraft,
    handed: &'a Handed,
}

impl UseCase for UpdateDraft<'_> {
    type Output = ();
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<(), Error> {
        let ThisDraft { tenant, draft, .. } = self.this;
        self.this.lock_open(tx).await?;
        let now = self.orders.clock.now();
        drafts::replace(tx.conn(), *tenant, *draft, &self.handed.written(), now).await?;
        Ok(())
    }
}

struct DeleteDraft<'a> {
    this: &'a ThisDraft,
}

impl UseCase for DeleteDraft<'_> {
    type Output = ();
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<(), Error> {
        self.this.lock_open(tx).await?;
        drafts::delete(tx.conn(), self.this.tenant, self.this.draft).await?;
        Ok(())
    }
}

struct PlaceDraft<'a> {
    orders: &'a Orders,
    key: &'a RequestKey,
    this: &'a ThisDraft,
    /// The one that was made of the draft; none when it was placed before.
    candidates: &'a [Candidate],
}

impl UseCase for PlaceDraft<'_> {
    type Output = Outcome;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Outcome, Error> {
        let ThisDraft { tenant, draft, .. } = self.this;
        let locked = self.this.lock(tx).await?;
        if let Some(order_id) = locked.order {
            let claims = idempotency::claim(tx.conn(), std::slice::from_ref(self.key)).await?;
            return match claims.first() {
                Some(Claim::Replay(answer)) => Ok(Outcome::Before(answered(answer)?)),
                Some(Claim::Reused) => Err(Error::RequestIdReused),
                // The error takes the claim back.
                _ => Err(Error::DraftPlaced {
                    draft_id: *draft,
                    order_id,
                }),
            };
        }
        self.this.check_etag(&locked.version.to_string())?;
        let chunk = PlaceChunk {
            log: &self.orders.log,
            numbers: &self.orders.numbers,
            candidates: self.candidates,
        };
        let outcome = chunk.run(tx).await?.pop().ok_or_else(undecided)?;
        if let (Outcome::Placed(_), Some(candidate)) = (&outcome, self.candidates.first()) {
            let now = self.orders.clock.now();
            drafts::place(tx.conn(), *tenant, *draft, candidate.order_id(), now).await?;
        }
        Ok(outcome)
    }
}

impl Orders {
    /// Forgets drafts that nobody has changed for long, now and then until `stop`. Several replicas may do so at once.
    ///
    /// # Errors
    ///
    /// None: what fails is logged and tried again next time.
    pub(crate) async fn forget_old_drafts(self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut time = tokio::time::interval((self.draft_keep / 10).clamp(SHORTEST_PAUSE, LONGEST_PAUSE));
        while stop.run_until_cancelled(time.tick()).await.is_some() {
            match stop.run_until_cancelled(self.expire_drafts()).await {
                None | Some(Ok(0)) => {}
                Some(Ok(drafts)) => tracing::info!(drafts, "drafts that nobody changed are forgotten"),
                Some(Err(error)) => {
                    tracing::warn!(%error, "old drafts could not be forgotten; trying again later");
                }
            }
        }
        Ok(())
    }

    /// How long after its last change a draft is kept.
    pub(crate) fn kept_for(&self, stage: &Stage) -> Duration {
        match stage {
            Stage::Open(_) => self.draft_keep,
            Stage::Placed(_) => self.placed_kept_for(),
        }
    }

    /// A placed one names nobody, and is known as long as its placement may be asked for again.
    fn placed_kept_for(&self) -> Duration {
        self.draft_keep.max(idempotency::KEEP)
    }

    async fn expire_drafts(&self) -> Result<u64, StoreError> {
        let now = self.clock.now();
        let placed = self.placed_kept_for();
        let mut forgotten = 0;
        loop {
            let gone = drafts::expire(
                self.db.pool(),
                now - self.draft_keep,
                now - placed,
                EXPIRED_AT_ONCE,
            )
            .await?;
            forgotten += gone;
            if i64::try_from(gone).is_ok_and(|gone| gone < EXPIRED_AT_ONCE) {
                return Ok(forgotten);
            }
        }
    }
}
