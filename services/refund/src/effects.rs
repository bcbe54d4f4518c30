//! What providers paid for a history of this schema that was lost.
//!
//! After a recovery the jobs that call providers are held. Here their books are read: a refund that a provider paid since
//! the last surviving commit, and that no attempt of ours knows, must be taken over before anything is paid again. It is
//! booked where every word of a provider is ([`crate::app::apply_word`]): on the leg that it carries as its marker, or on
//! one of the same amount over the same payment that nobody was asked to pay yet, for a decision that was lost with its leg
//! is made again under a new id when the events are read again.

use std::collections::HashSet;

use chrono::SecondsFormat;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use waybill_events::{Doubt, EffectError, OutsideEffects};
use waybill_payments::{
    LISTING_NOT_SUPPORTED, ListedRefund, ProviderError, Providers, RefundState as AtProvider,
};
use waybill_proto::waybill::events::v1::HeldEffect;
use waybill_proto::waybill::events::v1::held_effect::Class;
use waybill_rpc::convert::to_timestamp;
use waybill_store::Db;

use crate::app::Core;
use crate::app::apply_word::{About, ApplyWord};
use crate::domain::settle::Outcome;
use crate::error::Error;
use crate::store::payouts::{self, Home, Match};
use crate::workers::{RESOLVE, SUBMIT};

/// The most refunds that are looked through at one provider.
const MOST_LISTED: usize = 5000;

/// Settles what providers paid.
pub struct Payouts {
    /// The database.
    pub db: Db,
    /// What use cases share.
    pub core: Core,
    /// The providers.
    pub providers: Providers,
}

/// A refund that a provider has and we do not know.
struct Unknown {
    provider: String,
    /// The provider's id of it; for a provider that cannot say what it has, what stands for its books.
    refund_id: String,
    /// None for a provider that cannot say what it has.
    listed: Option<ListedRefund>,
    home: Option<Home>,
}

impl Unknown {
    fn id(&self) -> String {
        format!("payout:{}:{}", self.provider, self.refund_id)
    }

    fn to_effect(&self) -> HeldEffect {
        let (detail, occurred_at) = match &self.listed {
            Some(listed) => (
                format!(
                    "{} paid {} over {} as {}",
                    self.provider,
                    listed.amount,
                    listed.provider_payment_id,
                    listed.refund.provider_refund_id
                ),
                Some(to_timestamp(listed.created_at)),
            ),
            None => (
                format!(
                    "{} cannot list its refunds: compare its own books since the loss, then write this off",
                    self.provider
                ),
                None,
            ),
        };
        let home = self.home.as_ref();
        HeldEffect {
            effect_id: self.id(),
            class: Class::OnlyOutside.into(),
            kind: SUBMIT.to_owned(),
            merchant_id: home
                .map(|home| home.tenant.merchant.to_string())
                .unwrap_or_default(),
            store_id: home.map(|home| home.tenant.store.to_string()).unwrap_or_default(),
            order_id: home.map(|home| home.order_id.to_string()).unwrap_or_default(),
            detail,
            occurred_at,
        }
    }
}

/// Stands for the books of a provider that cannot list them. A person compares them up to a recovery: after the next one they
/// have to be compared again.
fn unlisted(doubt: Doubt) -> String {
    let until = doubt.until.to_rfc3339_opts(SecondsFormat::Micros, true);
    format!("unlisted@{until}")
}

impl Payouts {
    async fn unknown(&self, doubt: Doubt) -> Result<Vec<Unknown>, EffectError> {
        let mut unknown = Vec::new();
        for name in self.providers.names() {
            let Some(provider) = self.providers.get(name) else {
                continue;
            };
            let listed = match provider.list_refunds(doubt.from, MOST_LISTED).await {
                Ok(listed) => listed,
                Err(ProviderError::Refused { reason, .. }) if reason == LISTING_NOT_SUPPORTED => {
                    let refund_id = unlisted(doubt);
                    let known =
                        payouts::known(self.db.pool(), name, std::slice::from_ref(&refund_id)).await?;
                    if known.is_empty() {
                        unknown.push(Unknown {
                            provider: name.to_owned(),
                            refund_id,
                            listed: None,
                            home: None,
                        });
                    }
                    continue;
                }
                Err(error) => {
                    return Err(EffectError::Outside(format!(
                        "provider {name} could not be asked what it paid ({}); ask again",
                        error.reason()
                    )));
                }
            };
            unknown.extend(self.unknown_at(name, listed).await?);
        }
        Ok(unknown)
    }

    async fn unknown_at(&self, name: &str, listed: Vec<ListedRefund>) -> Result<Vec<Unknown>, EffectError> {
        let paid: Vec<ListedRefund> = listed
            .into_iter()
            .filter(|listed| !matches!(listed.refund.state, AtProvider::Failed { .. }))
            .collect();
        let ids: Vec<String> = paid
            .iter()
            .map(|listed| listed.refund.provider_refund_id.clone())
            .collect();
        let known: HashSet<String> = payouts::known(self.db.pool(), name, &ids)
            .await?
            .into_iter()
            .collect();
        let paid: Vec<ListedRefund> = paid
            .into_iter()
            .filter(|listed| !known.contains(&listed.refund.provider_refund_id))
            .collect();
        let payments: Vec<String> = paid
            .iter()
            .map(|listed| listed.provider_payment_id.clone())
            .collect();
        let homes = payouts::homes(self.db.pool(), name, &payments).await?;
        Ok(paid
            .into_iter()
            .map(|listed| Unknown {
                provider: name.to_owned(),
                refund_id: listed.refund.provider_refund_id.clone(),
                home: homes.get(&listed.provider_payment_id).cloned(),
                listed: Some(listed),
            })
            .collect())
    }

    async fn adopt_one(&self, unknown: &Unknown) -> Result<(), EffectError> {
        let refuse = |reason: &str| EffectError::NotAdoptable {
            id: unknown.id(),
            reason: reason.to_owned(),
        };
        let listed = unknown
            .listed
            .as_ref()
            .ok_or_else(|| refuse("a person has to compare the provider's books; write it off afterwards"))?;
        let wanted = Match {
            provider: &unknown.provider,
            provider_payment_id: &listed.provider_payment_id,
            amount: listed.amount.minor,
            leg_id: listed.leg_id,
        };
        let found = payouts::leg_for(self.db.pool(), &wanted).await?;
        let (leg_id, attempt) = found.ok_or_else(|| {
            refuse(
                "no leg of this amount over this payment waits; its events may still be on their way, or the refund has \
                 to be asked for again; else write it off",
            )
        })?;
        let outcome = match &listed.refund.state {
            AtProvider::Pending => Outcome::Pending,
            AtProvider::Succeeded => Outcome::Succeeded,
            AtProvider::Failed { reason } => Outcome::Failed {
                reason: reason.clone(),
            },
        };
        let word = ApplyWord {
            core: &self.core,
            about: About::Attempt { leg_id, attempt },
            provider_refund_id: listed.refund.provider_refund_id.clone(),
            outcome,
        };
        match self.db.run(&word).await {
            Ok(_) => Ok(()),
            Err(Error::Store(error)) => Err(error.into()),
            Err(error) => Err(refuse(&error.to_string())),
        }
    }

    async fn adopt_all(&self, doubt: Doubt, effects: &[HeldEffect]) -> Result<usize, EffectError> {
        let wanted: HashSet<&str> = effects.iter().map(|effect| effect.effect_id.as_str()).collect();
        let mut adopted = 0;
        let mut refused = None;
        // One after the other: each changes which legs still wait.
        for unknown in self.unknown(doubt).await? {
            if !wanted.contains(unknown.id().as_str()) {
                continue;
            }
            match self.adopt_one(&unknown).await {
                Ok(()) => adopted += 1,
                Err(error @ EffectError::NotAdoptable { .. }) => refused = refused.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        match refused {
            // What could not be adopted is still listed.
            Some(error) if adopted == 0 => Err(error),
            _ => Ok(adopted),
        }
    }
}

impl OutsideEffects for Payouts {
    fn kinds(&self) -> &'static [&'static str] {
        &[SUBMIT, RESOLVE]
    }

    fn undecided(&self, doubt: Doubt, limit: usize) -> BoxFuture<'_, Result<Vec<HeldEffect>, EffectError>> {
        async move {
            let unknown = self.unknown(doubt).await?;
            Ok(unknown.iter().take(limit).map(Unknown::to_effect).collect())
        }
        .boxed()
    }

    fn adopt<'a>(
        &'a self,
        doubt: Doubt,
        effects: &'a [HeldEffect],
    ) -> BoxFuture<'a, Result<usize, EffectError>> {
        self.adopt_all(doubt, effects).boxed()
    }

    fn write_off<'a>(
        &'a self,
        effects: &'a [HeldEffect],
        reason: &'a str,
        by: &'a str,
    ) -> BoxFuture<'a, Result<usize, EffectError>> {
        async move {
            let payouts: Vec<(String, String)> = effects
                .iter()
                .filter_map(|effect| effect.effect_id.strip_prefix("payout:")?.split_once(':'))
                .map(|(provider, id)| (provider.to_owned(), id.to_owned()))
                .collect();
            Ok(payouts::write_off(self.db.pool(), &payouts, reason, by).await?)
        }
        .boxed()
    }
}
