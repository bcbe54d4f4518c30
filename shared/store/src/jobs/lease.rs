//! What a runner knows about the leases it holds, by its own monotonic clock.
//!
//! The lease itself is in the database. Here its end is known a little early: time is counted from before the statement
//! that took or renewed it was sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use waybill_kernel::id::JobId;

/// One lease.
#[derive(Debug)]
pub(super) struct Lease {
    claim: i64,
    length: Duration,
    ends: Mutex<Instant>,
    lost: CancellationToken,
}

impl Lease {
    pub(super) fn new(claim: i64, taken: Instant, length: Duration) -> Arc<Lease> {
        Arc::new(Lease {
            claim,
            length,
            ends: Mutex::new(taken + length),
            lost: CancellationToken::new(),
        })
    }

    /// The fencing token.
    pub(super) fn claim(&self) -> i64 {
        self.claim
    }

    pub(super) fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Half a lease from now, but a sixth of a lease before its end at the latest. Renewed every third of its length, a
    /// healthy lease has two thirds left at least, so that the second bound matters only when renewing fails.
    pub(super) fn deadline(&self, now: Instant) -> Instant {
        let ends = self.ends();
        let latest = ends.checked_sub(self.length / 6).unwrap_or(ends);
        (now + self.length / 2).min(latest)
    }

    fn ends(&self) -> Instant {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn renewed(&self, asked: Instant) {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner) = asked + self.length;
    }
}

/// What the database said about a lease when asked to renew it.
#[derive(Debug, sqlx::FromRow)]
pub(super) struct Renewal {
    pub(super) job_id: uuid::Uuid,
    /// The lease is longer now.
    pub(super) renewed: bool,
    /// Nobody else has taken the job. It may still not be renewed: done already, or being settled right now.
    pub(super) ours: bool,
}

/// All leases of one runner.
#[derive(Debug, Default)]
pub(super) struct Leases {
    held: Mutex<HashMap<JobId, Arc<Lease>>>,
}

impl Leases {
    pub(super) fn hold(&self, id: JobId, lease: Arc<Lease>) {
        self.with(|held| held.insert(id, lease));
    }

    pub(super) fn release(&self, id: JobId) {
        self.with(|held| held.remove(&id));
    }

    /// Ids and claims, as the arrays that UNNEST takes.
    pub(super) fn columns(&self) -> (Vec<uuid::Uuid>, Vec<i64>) {
        self.with(|held| held.iter().map(|(id, lease)| (id.uuid(), lease.claim)).unzip())
    }

    /// Takes in the answer to a renewal that was asked for at `asked`.
    pub(super) fn answered(&self, asked: Instant, answers: &[Renewal]) {
        self.with(|held| {
            for answer in answers {
                if let Some(lease) = held.get(&JobId::from(answer.job_id)) {
                    if answer.renewed {
                        lease.renewed(asked);
                    } else if !answer.ours {
                        lease.lost.cancel();
                    }
                }
            }
        });
    }

    /// Gives up what ran out while the database could not be asked.
    pub(super) fn expire(&self, now: Instant) {
        self.with(|held| {
            for lease in held.values().filter(|lease| lease.ends() <= now) {
                lease.lost.cancel();
            }
        });
    }

    fn with<T>(&self, f: impl FnOnce(&mut HashMap<JobId, Arc<Lease>>) -> T) -> T {
        f(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(30);

    #[test]
    fn a_call_may_take_half_a_lease_while_renewing_works() {
        let start = Instant::now();
        let lease = Lease::new(1, start, LENGTH);
        let left = |now: Instant| lease.deadline(now).saturating_duration_since(now);
        assert_eq!(left(start), LENGTH / 2);
        assert_eq!(left(start + LENGTH / 3), LENGTH / 2);
        // Renewing has failed since: less is left, down to nothing before the end.
        assert_eq!(left(start + LENGTH / 3 * 2), LENGTH / 6);
        assert_eq!(left(start + LENGTH / 12 * 11), Duration::ZERO);
        lease.renewed(start + LENGTH / 3 * 2);
        assert_eq!(left(start + LENGTH), LENGTH / 2);
    }

    #[test]
    fn a_lease_is_lost_to_another_or_to_time() {
        let start = Instant::now();
        let leases = Leases::default();
        let (taken_over, settled, silent, renewed) = (
            JobId::generate(),
            JobId::generate(),
            JobId::generate(),
            JobId::generate(),
        );
        let held: Vec<_> = [taken_over, settled, silent, renewed]
            .into_iter()
            .map(|id| {
                let lease = Lease::new(1, start, LENGTH);
                leases.hold(id, Arc::clone(&lease));
                lease
            })
            .collect();
        let lost = || {
            held.iter()
                .map(|lease| lease.lost.is_cancelled())
                .collect::<Vec<_>>()
        };
        let answer = |id: JobId, renewed, ours| Renewal {
            job_id: id.uuid(),
            renewed,
            ours,
        };
        leases.answered(
            start + LENGTH / 3,
            &[
                answer(taken_over, false, false),
                answer(settled, false, true),
                answer(renewed, true, true),
            ],
        );
        assert_eq!(lost(), [true, false, false, false]);
        leases.release(settled);
        leases.expire(start + LENGTH);
        assert_eq!(lost(), [true, false, true, false]);
    }
}
