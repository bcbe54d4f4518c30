//! The one way in which a provider's word takes effect: the answer to a call, a webhook and a lookup all come here.
//!
//! Under the order's lock, so two of them at once are one after the other; and by [`crate::domain::settle`], so the second
//! changes nothing.

use waybill_kernel::id::{LegId, ReturnId};
use waybill_store::{Tx, UseCase};

use super::{Aftermath, Core, book_entries, lock};
use crate::domain::book::Tenant;
use crate::domain::facts::Fact;
use crate::domain::refund::Refund;
use crate::domain::returns::ReturnState;
use crate::domain::settle::{self, Delta, Effect, Outcome, Word};
use crate::error::Error;
use crate::events::Scene;
use crate::store;
use crate::store::book::Loaded;
use crate::store::calls::Place;

/// Which attempt a word is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    /// The attempt that was called or looked up.
    Attempt {
        /// The leg.
        leg_id: LegId,
        /// The attempt.
        attempt: i32,
    },
    /// What a webhook names: the provider's id, and the leg where the provider carried our marker.
    Told {
        /// Whose leg it must be.
        tenant: Tenant,
        /// The provider.
        provider: String,
        /// The leg, if it is named.
        leg_id: Option<LegId>,
    },
}

/// A provider's word.
#[derive(Debug)]
pub struct ApplyWord<'a> {
    /// What use cases share.
    pub core: &'a Core,
    /// Which attempt it is about.
    pub about: About,
    /// The provider's id of the refund; empty when it gave none.
    pub provider_refund_id: String,
    /// What it says.
    pub outcome: Outcome,
}

impl UseCase for ApplyWord<'_> {
    type Output = Refund;
    type Error = Error;

    async fn run(&self, tx: &mut Tx) -> Result<Refund, Error> {
        let place = self.find(tx).await?;
        let loaded = lock(tx, place.tenant, place.order_id).await?;
        let mut refund = store::refunds::get(tx.conn(), place.tenant, place.refund_id)
            .await?
            .ok_or(Error::RefundNotFound(place.refund_id))?;
        let word = self.word(tx, &place, &refund).await?;
        let known = word.outcome == Outcome::Succeeded
            && store::calls::is_breached(
                tx.conn(),
                place.leg_id,
                Some((word.attempt, self.provider_refund_id.as_str())),
            )
            .await?;
        if known {
            return Ok(refund);
        }
        let had_id = refund
            .leg(place.leg_id)
            .is_some_and(|leg| leg.provider_refund_id.is_some());
        let effect = settle::hear(&loaded.book, &mut refund, &word, self.core.now());
        if effect.changed {
            if !had_id && effect.breach.is_none() && !self.provider_refund_id.is_empty() {
                store::calls::note_provider_id(
                    tx.conn(),
                    place.leg_id,
                    word.attempt,
                    &self.provider_refund_id,
                )
                .await?;
            }
            save(self.core, tx, &loaded, &mut refund, &word, effect).await?;
        }
        Ok(refund)
    }
}

impl ApplyWord<'_> {
    async fn find(&self, tx: &mut Tx) -> Result<Place, Error> {
        let not_found = |provider: &str| Error::LegNotFound {
            provider: provider.to_owned(),
            provider_refund_id: self.provider_refund_id.clone(),
        };
        match &self.about {
            About::Attempt { leg_id, attempt } => {
                let place = store::calls::find_leg(tx.conn(), *leg_id).await?;
                let place = place.ok_or(Error::NoSuchLeg(*leg_id))?;
                Ok(Place {
                    attempt: *attempt,
                    ..place
                })
            }
            About::Told {
                tenant,
                provider,
                leg_id,
            } => store::calls::find_told(tx.conn(), *tenant, provider, &self.provider_refund_id, *leg_id)
                .await?
                .ok_or_else(|| not_found(provider)),
        }
    }

    /// The word as the rules hear it. Attempts are read again under the lock: the leg may have moved on meanwhile.
    async fn word(&self, tx: &mut Tx, place: &Place, refund: &Refund) -> Result<Word, Error> {
        let present = refund
            .leg(place.leg_id)
            .map_or(place.present_attempt, |leg| leg.attempt);
        let told = (!self.provider_refund_id.is_empty()).then(|| self.provider_refund_id.clone());
        // A leg only leaves an attempt behind when the provider had said no to it.
        let refused_before = place.attempt < present
            && told.is_some()
            && store::calls::provider_id_of(tx.conn(), place.leg_id, place.attempt).await? == told;
        Ok(Word {
            leg_id: place.leg_id,
            attempt: place.attempt,
            outcome: self.outcome.clone(),
            provider_refund_id: told,
            refused_before,
        })
    }
}

/// Writes what a word changed.
pub(super) async fn save(
    core: &Core,
    tx: &mut Tx,
    loaded: &Loaded,
    refund: &mut Refund,
    word: &Word,
    effect: Effect,
) -> Result<(), Error> {
    let (book, now) = (&loaded.book, core.now());
    if effect.delta != Delta::default()
        && let Some(leg) = refund.leg(word.leg_id)
    {
        store::book::move_money(tx.conn(), book.order_id, &[(leg.payment_id, effect.delta)]).await?;
    }
    book_entries(tx, &effect.entries, now).await?;
    if effect.release_units {
        store::claims::release_refund(tx.conn(), refund.refund_id).await?;
    }
    if let Some(breach) = &effect.breach {
        tracing::error!(
            leg.id = %breach.leg_id,
            refund.id = %refund.refund_id,
            order.id = %book.order_id,
            detail = breach.detail,
            "a provider paid what it should not have; a person has to settle it"
        );
        store::calls::list_breach(tx.conn(), book.order_id, word.attempt, breach, now).await?;
        return Ok(());
    }
    if let Some(leg) = refund.leg(word.leg_id) {
        tracing::info!(
            leg.id = %leg.leg_id,
            refund.id = %refund.refund_id,
            order.id = %book.order_id,
            provider = leg.provider,
            state = leg.state.as_str(),
            "a word about a leg was applied"
        );
    }
    refund.version = store::refunds::update(tx.conn(), refund, now).await?;
    let mut aftermath = Aftermath::default();
    aftermath.tell(&Scene::of(book, refund.version, now), &effect.facts);
    if let Some(return_id) = effect.paid_return {
        complete_return(core, tx, loaded, return_id, &mut aftermath).await?;
    }
    core.finish(tx, aftermath).await?;
    Ok(())
}

/// A return ends when its goods and its money are back, whichever comes last.
async fn complete_return(
    core: &Core,
    tx: &mut Tx,
    loaded: &Loaded,
    return_id: ReturnId,
    aftermath: &mut Aftermath,
) -> Result<(), Error> {
    let (book, now) = (&loaded.book, core.now());
    let found = store::returns::get(tx.conn(), book.tenant, return_id).await?;
    let mut paid = found.ok_or(Error::ReturnNotFound(return_id))?;
    if paid.state != ReturnState::Received {
        return Ok(());
    }
    paid.go(ReturnState::Completed)?;
    paid.updated_at = now;
    paid.version = store::returns::update(tx.conn(), &paid).await?;
    aftermath.tell(
        &Scene::of(book, paid.version, now),
        &[Fact::ReturnCompleted { return_id }],
    );
    Ok(())
}
