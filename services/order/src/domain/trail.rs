//! The chain over an order's timeline: each entry is bound to all before it, so that a change made afterwards shows (O-30).
//!
//! Entries are numbered in the order this service learned of them, from 1, without gaps. `hash(n)` is the SHA-256 of
//! `hash(n - 1)`, `n` and the digest of all that entry `n` says; `hash(0)` is zeros. The end of the chain (count and hash) is
//! kept apart from the entries, so a missing end shows too. Whoever can write all of it can write another chain: who must rule
//! that out notes an end elsewhere, and asks later whether the chain still passes through it.

use std::cmp::Ordering;

use waybill_kernel::hash;
use waybill_kernel::id::{EventId, OrderId};

use super::fact::TimelineEntry;
use super::order::Tenant;

/// A SHA-256.
pub type Hash = [u8; 32];

/// What the first entry follows.
pub const ORIGIN: Hash = [0; 32];

/// Names the encoding below. Another encoding gets another name.
const ENCODING: &str = "waybill timeline 1";

/// The faults that are listed of one chain.
pub const MAX_FAULTS: usize = 20;

/// The place of an entry in its order's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// From 1, in the order in which this service learned of the entries.
    pub sequence: i64,
    /// The hash of the entry and all before it.
    pub hash: Hash,
}

impl Link {
    /// The link of what follows this.
    #[must_use]
    pub fn next(self, digest: &Hash) -> Link {
        let sequence = self.sequence + 1;
        let mut bytes = [0; 72];
        bytes[..32].copy_from_slice(&self.hash);
        bytes[32..40].copy_from_slice(&sequence.to_be_bytes());
        bytes[40..].copy_from_slice(digest);
        Link {
            sequence,
            hash: hash::sha256(&bytes),
        }
    }

    /// The end of an empty chain.
    pub const NONE: Link = Link {
        sequence: 0,
        hash: ORIGIN,
    };
}

/// All that an entry says, and about which order, in one hash. Times count in microseconds, as they are kept.
#[must_use]
pub fn digest(tenant: Tenant, order: OrderId, entry: &TimelineEntry) -> Hash {
    let micros = |time: chrono::DateTime<chrono::Utc>| time.timestamp_micros().to_be_bytes();
    let learned = entry.learned_at.map(micros);
    let subject = entry.subject.map(uuid::Uuid::into_bytes);
    hash::digest([
        ENCODING.as_bytes(),
        order.uuid().as_bytes(),
        tenant.merchant.uuid().as_bytes(),
        tenant.store.uuid().as_bytes(),
        entry.event.uuid().as_bytes(),
        entry.service.as_bytes(),
        entry.type_name.as_bytes(),
        entry.summary.as_bytes(),
        &micros(entry.occurred_at),
        entry.trace_id.as_bytes(),
        subject.as_ref().map_or(&[], |id| id.as_slice()),
        entry.actor.as_bytes(),
        entry.cause.as_bytes(),
        learned.as_ref().map_or(&[], |time| time.as_slice()),
        entry.payload.as_deref().unwrap_or_default(),
    ])
}

/// How a chain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It has not begun: nothing was written about the order since entries are chained.
    NotBegun,
    /// Every entry is as it was written, and none is missing.
    Whole,
    /// It is not; the faults say where.
    Broken,
}

/// What is wrong at a place of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// What the entry says, or its place, is not what was written.
    Changed,
    /// There is no entry of this number.
    Missing,
    /// There is a second entry of this number, or one behind the end of the chain.
    Surplus,
    /// The entry has no place in the chain.
    Unchained,
    /// The end of the chain that is kept apart is missing, or is another one.
    EndDiffers,
    /// The chain does not pass through the hash that was noted elsewhere.
    NotAsNoted,
}

/// A fault of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub kind: FaultKind,
    /// The number that it is about; 0 for an entry that has none.
    pub sequence: i64,
    /// The entry, where there is one.
    pub event: Option<EventId>,
}

/// What came of a look at a whole chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How it is.
    pub condition: Condition,
    /// Entries that were looked at.
    pub entries: i64,
    /// The end of the chain, as the entries say.
    pub end: Link,
    /// What is wrong, the first place first; the first of them where there are many.
    pub faults: Vec<Fault>,
}

/// Looks at a chain, entry by entry, in their order: those without a place last. Keeps nothing of them.
#[derive(Debug)]
pub struct Inspection {
    tenant: Tenant,
    order: OrderId,
    kept: Option<Link>,
    noted: Option<Link>,
    passed_noted: bool,
    end: Link,
    entries: i64,
    unchained: Vec<EventId>,
    faults: Vec<Fault>,
    broken: bool,
}

impl Inspection {
    /// Begins. `kept` is the end that is kept apart, `noted` a place that was noted elsewhere.
    #[must_use]
    pub fn new(tenant: Tenant, order: OrderId, kept: Option<Link>, noted: Option<Link>) -> Inspection {
        Inspection {
            tenant,
            order,
            kept,
            noted,
            passed_noted: noted.is_none(),
            end: Link::NONE,
            entries: 0,
            unchained: Vec::new(),
            faults: Vec::new(),
            broken: false,
        }
    }

    /// Looks at the next entry.
    pub fn entry(&mut self, entry: &TimelineEntry) {
        self.entries += 1;
        let Some(link) = entry.link else {
            if self.unchained.len() < MAX_FAULTS {
                self.unchained.push(entry.event);
            }
            return;
        };
        let next = self.end.sequence + 1;
        let last = self.kept.map_or(i64::MAX, |kept| kept.sequence);
        match link.sequence.cmp(&next) {
            Ordering::Less => {
                self.fault(FaultKind::Surplus, link.sequence, Some(entry.event));
                return;
            }
            _ if link.sequence > last => {
                self.missing(next, last + 1);
                self.fault(FaultKind::Surplus, link.sequence, Some(entry.event));
            }
            Ordering::Greater => self.missing(next, link.sequence),
            Ordering::Equal => {
                let should = self.end.next(&digest(self.tenant, self.order, entry));
                if should.hash != link.hash {
                    self.fault(FaultKind::Changed, link.sequence, Some(entry.event));
                }
            }
        }
        // What follows was written behind the hash that stands here: so each change is told once, where it is.
        self.end = link;
        self.passed_noted |= self.noted == Some(link);
    }

    /// Ends it.
    #[must_use]
    pub fn end(mut self) -> Verdict {
        if self.kept.is_none() && self.end == Link::NONE && self.faults.is_empty() {
            let noted = self.noted;
            if let Some(noted) = noted.filter(|_| !self.passed_noted) {
                self.fault(FaultKind::NotAsNoted, noted.sequence, None);
            }
            return self.verdict(Condition::NotBegun);
        }
        match self.kept {
            Some(kept) if kept.sequence > self.end.sequence => {
                self.missing(self.end.sequence + 1, kept.sequence + 1);
            }
            Some(kept) if kept == self.end => {}
            // What lies behind the end was told.
            Some(kept) if kept.sequence < self.end.sequence => {}
            _ => self.fault(FaultKind::EndDiffers, self.end.sequence, None),
        }
        for event in std::mem::take(&mut self.unchained) {
            self.fault(FaultKind::Unchained, 0, Some(event));
        }
        if let Some(noted) = self.noted.filter(|_| !self.passed_noted) {
            self.fault(FaultKind::NotAsNoted, noted.sequence, None);
        }
        self.verdict(Condition::Whole)
    }

    fn missing(&mut self, from: i64, before: i64) {
        self.broken |= from < before;
        let most = i64::try_from(MAX_FAULTS).unwrap_or(i64::MAX);
        for sequence in from..before.min(from.saturating_add(most)) {
            self.fault(FaultKind::Missing, sequence, None);
        }
    }

    fn fault(&mut self, kind: FaultKind, sequence: i64, event: Option<EventId>) {
        self.broken = true;
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(Fault {
                kind,
                sequence,
                event,
            });
        }
    }

    fn verdict(self, sound: Condition) -> Verdict {
        Verdict {
            condition: if self.broken { Condition::Broken } else { sound },
            entries: self.entries,
            end: self.end,
            faults: self.faults,
        }
    }
}

#[cfg(test)]
#[path = "trail_tests.rs"]
mod tests;
