//! What becomes of each candidate of a chunk: who is new, who comes again, and who shares whose fate.

use std::collections::HashMap;

use waybill_store::StoreError;
use waybill_store::idempotency::Claim;

use super::place::{Candidate, Outcome, answered};
use crate::domain::order::{Source, Tenant};
use crate::error::Error;

/// What is known of each candidate so far, and who shares whose fate.
pub(super) struct Fates<'a> {
    candidates: &'a [Candidate],
    outcomes: Vec<Option<Outcome>>,
    /// Candidates with new keys, each with the first one of its source.
    fresh: Vec<(usize, usize)>,
}

impl<'a> Fates<'a> {
    pub(super) fn new(candidates: &'a [Candidate], claims: &[Claim]) -> Result<Self, StoreError> {
        let mut outcomes = Vec::with_capacity(candidates.len());
        let mut fresh = Vec::with_capacity(candidates.len());
        let mut sources: HashMap<(Tenant, &Source), usize> = HashMap::with_capacity(candidates.len());
        for (at, (candidate, claim)) in candidates.iter().zip(claims).enumerate() {
            outcomes.push(match claim {
                Claim::New => {
                    fresh.push((at, *sources.entry(candidate.source()).or_insert(at)));
                    None
                }
                Claim::Replay(answer) => Some(Outcome::Before(answered(answer)?)),
                Claim::Reused => Some(Outcome::Refused(Error::RequestIdReused)),
                Claim::SameAs(_) => None,
            });
        }
        Ok(Fates {
            candidates,
            outcomes,
            fresh,
        })
    }

    /// New candidates, one per source.
    pub(super) fn firsts(&self) -> Vec<usize> {
        self.fresh
            .iter()
            .filter(|(at, first)| at == first)
            .map(|(at, _)| *at)
            .collect()
    }

    pub(super) fn is(&mut self, at: usize, outcome: Outcome) {
        self.outcomes[at] = Some(outcome);
    }

    /// Candidates whose keys were claimed but are not kept.
    pub(super) fn unkept(&self) -> impl Iterator<Item = usize> {
        self.fresh
            .iter()
            .map(|(at, _)| *at)
            .filter(|&at| !matches!(self.outcomes[at], Some(Outcome::Placed(_))))
    }

    /// The outcome of each, once those of the firsts are known.
    pub(super) fn decide(mut self, claims: &[Claim]) -> Vec<Outcome> {
        for (at, first) in self.fresh.clone() {
            if at != first {
                // Another request for the same order: it finds it there.
                let outcome = match &self.outcomes[first] {
                    Some(Outcome::Placed(assigned)) => {
                        Outcome::Exists(self.candidates[first].order.id, assigned.number.clone())
                    }
                    Some(Outcome::Exists(order, number)) => Outcome::Exists(*order, number.clone()),
                    _ => Outcome::Later,
                };
                self.outcomes[at] = Some(outcome);
            }
        }
        for (at, claim) in claims.iter().enumerate() {
            if let Claim::SameAs(first) = claim {
                // The same request once more: the same answer.
                self.outcomes[at] = match &self.outcomes[*first] {
                    Some(Outcome::Placed(_)) => Some(Outcome::Before(self.candidates[*first].order.id)),
                    other => other.clone(),
                };
            }
        }
        self.outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or(Outcome::Later))
            .collect()
    }
}
