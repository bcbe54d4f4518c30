//! Faults that the sandbox can be asked for: one by one, or drawn by a seed.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use waybill_kernel::hash;

/// What goes wrong, or otherwise than usual, with one call that moves money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Never answers; nothing happened.
    TimeoutBefore,
    /// Never answers; the refund was made.
    TimeoutAfter,
    /// The connection breaks in the middle of the answer; nothing happened.
    CutBefore,
    /// The connection breaks in the middle of the answer; the refund was made.
    CutAfter,
    /// Answers 500, and again for every repetition with the key; nothing happened.
    ErrorBefore,
    /// Answers 500, and again for every repetition with the key; the refund was made.
    ErrorAfter,
    /// Answers with what is no JSON; it was done.
    GarbledAfter,
    /// The connection breaks in the middle of a JSON answer; it was done.
    HalfAfter,
    /// Answers with more than anybody should read; it was done.
    HugeAfter,
    /// Answers 429; nothing happened, and nothing is stored under the key.
    RateLimited {
        /// Value of `Retry-After`.
        retry_after_seconds: u64,
    },
    /// The refund is pending at first.
    Pending {
        /// When it is settled by itself; `None` leaves that to the admin endpoint.
        #[serde(default)]
        settle_after_ms: Option<u64>,
        /// Settles as failed for this reason; `None`: succeeds.
        #[serde(default)]
        failure_reason: Option<String>,
    },
    /// The refund is made and has failed at once.
    Failed {
        /// Stripe's `failure_reason`.
        failure_reason: String,
    },
    /// The refund succeeds, and later the bank sends the money back.
    Bounced {
        /// When.
        after_ms: u64,
        /// Stripe's `failure_reason`.
        failure_reason: String,
    },
}

/// Draws a fault for some calls. The same seed draws the same fault for the same attempt at the same key, however calls
/// interleave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Seed of the draw.
    pub seed: u64,
    /// How many of a thousand calls get a fault.
    pub per_mille: u32,
    /// The faults to draw from, each as likely as the others.
    pub faults: Vec<Fault>,
}

impl Schedule {
    fn draw(&self, key: &str, attempt: u64) -> Option<Fault> {
        let digest = hash::fingerprint([
            &self.seed.to_be_bytes()[..],
            key.as_bytes(),
            &attempt.to_be_bytes(),
        ]);
        let number = u64::from_str_radix(&digest[..15], 16).expect("a digest is hexadecimal");
        if number % 1000 >= u64::from(self.per_mille) || self.faults.is_empty() {
            return None;
        }
        let choice = (number / 1000) % self.faults.len() as u64;
        self.faults.get(usize::try_from(choice).ok()?).cloned()
    }
}

/// The faults that are still to come.
#[derive(Debug, Default)]
pub(super) struct Plan {
    queue: Vec<Planned>,
    schedule: Option<Schedule>,
    /// How often each key was tried, for the draw.
    attempts: HashMap<String, u64>,
}

#[derive(Debug)]
struct Planned {
    fault: Fault,
    payment: Option<String>,
    times: u32,
}

impl Plan {
    pub fn new(schedule: Option<Schedule>) -> Self {
        Self {
            schedule,
            ..Self::default()
        }
    }

    /// Plans a fault for the next `times` calls, of one payment or of any.
    pub fn push(&mut self, fault: Fault, payment: Option<String>, times: u32) {
        if times > 0 {
            self.queue.push(Planned {
                fault,
                payment,
                times,
            });
        }
    }

    pub fn clear(&mut self) {
        self.queue.clear();
        self.schedule = None;
    }

    /// The fault of the next call: the first planned one that concerns the payment, else one drawn by the schedule.
    pub fn next(&mut self, payment: &str, key: Option<&str>) -> Option<Fault> {
        let concerned = |planned: &Planned| planned.payment.as_deref().is_none_or(|wanted| wanted == payment);
        if let Some(index) = self.queue.iter().position(concerned) {
            let planned = &mut self.queue[index];
            planned.times -= 1;
            let fault = planned.fault.clone();
            if planned.times == 0 {
                self.queue.remove(index);
            }
            return Some(fault);
        }
        let schedule = self.schedule.as_ref()?;
        let key = key.unwrap_or_default();
        let attempt = self.attempts.entry(key.to_owned()).or_default();
        *attempt += 1;
        schedule.draw(key, *attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planned_faults_come_in_order_and_only_where_they_belong() {
        let mut plan = Plan::default();
        plan.push(Fault::TimeoutAfter, Some("pi_2".into()), 1);
        plan.push(Fault::ErrorAfter, None, 2);
        plan.push(Fault::CutAfter, None, 0);
        assert_eq!(plan.next("pi_1", None), Some(Fault::ErrorAfter));
        assert_eq!(plan.next("pi_2", None), Some(Fault::TimeoutAfter));
        assert_eq!(plan.next("pi_2", None), Some(Fault::ErrorAfter));
        assert_eq!(plan.next("pi_2", None), None);
    }

    #[test]
    fn a_seed_draws_the_same_faults_at_about_the_rate() {
        let faults = vec![Fault::TimeoutBefore, Fault::ErrorAfter];
        let schedule = |seed| Schedule {
            seed,
            per_mille: 300,
            faults: faults.clone(),
        };
        let draws = |seed| -> Vec<Option<Fault>> {
            (0..2000)
                .map(|n| schedule(seed).draw(&format!("key-{n}"), 1))
                .collect()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        for fault in &faults {
            let count = draws(1).iter().flatten().filter(|drawn| *drawn == fault).count();
            assert!((240..360).contains(&count), "{fault:?}: {count} of 2000");
        }
    }

    #[test]
    fn faults_are_written_as_plain_json() {
        let parse = serde_json::from_str::<Fault>;
        assert_eq!(
            parse(r#"{"kind":"timeout_after"}"#).expect("a fault"),
            Fault::TimeoutAfter
        );
        assert_eq!(
            parse(r#"{"kind":"pending"}"#).expect("a fault"),
            Fault::Pending {
                settle_after_ms: None,
                failure_reason: None
            }
        );
        assert!(parse(r#"{"kind":"rate_limited","retry_after":1}"#).is_err());
    }
}
