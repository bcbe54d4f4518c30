//! What goes wrong, and when: a schedule drawn by a seed. Pure: nothing is broken here.
//!
//! Kinds are dealt like cards: all of them, some several times, in a random order, and again. So even a short run meets
//! every kind once before any comes back in the same number, and a long one meets them in ever new neighbourhoods.

use std::time::Duration;

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A service process dies (SIGKILL) and is started again.
    Kill,
    /// A service process stands still (SIGSTOP) and goes on, longer than a lease at times.
    Pause,
    /// A service process is asked to stop (SIGTERM), as in a deployment, and is started again.
    Terminate,
    /// The clock of a service process jumps, forward or back, by minutes to hours.
    Clock,
    /// Postgres dies (SIGKILL of the postmaster) and is started again.
    PostgresKill,
    /// One backend of Postgres dies (SIGKILL), which makes Postgres throw out everybody and recover.
    BackendKill,
    /// NATS dies (SIGKILL) and is started again.
    NatsKill,
    /// NATS dies, its storage folder is deleted, and it is started again.
    NatsWipe,
    /// The storage folder is deleted from under the running NATS; later it dies and is started again.
    NatsRemove,
    /// NATS gets back an older copy of its storage folder.
    NatsOlder,
    /// A wire is cut: connections are reset and no new ones are taken.
    WireCut,
    /// The connections of a wire are reset once.
    WireReset,
    /// A wire is slow.
    WireSlow,
    /// A wire stays open and lets nothing through; what was held back arrives late.
    WireHalfOpen,
    /// The mail server refuses for now, or breaks off after it took a mail or before.
    Mail,
    /// The payment provider answers late, never, with an error, or breaks off, before or after it has paid.
    Provider,
}

impl Kind {
    /// How often the kind is in the deck.
    const fn weight(self) -> usize {
        match self {
            Self::Kill => 4,
            Self::Pause
            | Self::WireCut
            | Self::WireReset
            | Self::WireHalfOpen
            | Self::Mail
            | Self::Provider => 2,
            _ => 1,
        }
    }

    /// How long it lasts, at least and at most, in milliseconds. What is over at once has no length.
    const fn lasts(self) -> (u64, u64) {
        match self {
            Self::Kill | Self::Terminate => (0, 4_000),
            // A fold's lease is 15 s, a job's 30 s or less.
            Self::Pause => (1_000, 20_000),
            Self::Clock => (5_000, 30_000),
            Self::PostgresKill | Self::NatsKill => (0, 3_000),
            Self::NatsRemove => (1_000, 5_000),
            Self::NatsOlder => (5_000, 20_000),
            Self::WireCut => (500, 8_000),
            Self::WireSlow => (3_000, 15_000),
            Self::WireHalfOpen => (1_000, 15_000),
            Self::BackendKill | Self::NatsWipe | Self::WireReset | Self::Mail | Self::Provider => (0, 0),
        }
    }

    /// Its name on the command line and in the report.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// A fault that is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// When, from the beginning of the load.
    pub at: Duration,
    /// What.
    pub kind: Kind,
    /// Which of the possible targets, by the remainder.
    pub pick: u32,
    /// A second choice, for kinds that have one.
    pub shade: u32,
    /// How long.
    pub lasts: Duration,
}

/// Draws the faults of a run. The same arguments give the same faults.
#[must_use]
pub fn schedule(seed: u64, within: Duration, every: Duration, kinds: &[Kind]) -> Vec<Planned> {
    let kinds = if kinds.is_empty() {
        Kind::value_variants()
    } else {
        kinds
    };
    let mut rng = StdRng::seed_from_u64(seed);
    let mut deck: Vec<Kind> = Vec::new();
    let mut planned = Vec::new();
    let mut at = Duration::ZERO;
    loop {
        at += every.mul_f64(rng.random_range(0.4..1.6));
        if at >= within {
            return planned;
        }
        if deck.is_empty() {
            deck = kinds
                .iter()
                .flat_map(|kind| std::iter::repeat_n(*kind, kind.weight()))
                .collect();
            deck.shuffle(&mut rng);
        }
        let Some(kind) = deck.pop() else { return planned };
        let (least, most) = kind.lasts();
        planned.push(Planned {
            at,
            kind,
            pick: rng.random(),
            shade: rng.random(),
            lasts: Duration::from_millis(rng.random_range(least..=most)),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_seed_repeats_the_schedule(seed: u64, other: u64, seconds in 60u64..600) {
            let draw = |seed| schedule(seed, Duration::from_secs(seconds), Duration::from_secs(3), &[]);
            prop_assert_eq!(draw(seed), draw(seed));
            prop_assume!(seed != other);
            prop_assert_ne!(draw(seed), draw(other));
        }

        #[test]
        fn faults_come_in_order_within_the_time(seed: u64, seconds in 1u64..600, every in 200u64..10_000) {
            let within = Duration::from_secs(seconds);
            let faults = schedule(seed, within, Duration::from_millis(every), &[]);
            prop_assert!(faults.is_sorted_by_key(|fault| fault.at));
            for fault in &faults {
                let (least, most) = fault.kind.lasts();
                prop_assert!(fault.at < within);
                prop_assert!((u128::from(least)..=u128::from(most)).contains(&fault.lasts.as_millis()));
            }
            // 0.4 to 1.6 times `every` lie between two of them.
            let most = within.as_secs_f64() / (every as f64 / 1000.0 * 0.4);
            let least = (within.as_secs_f64() / (every as f64 / 1000.0 * 1.6)).floor() - 1.0;
            prop_assert!((faults.len() as f64) <= most && faults.len() as f64 >= least, "{} faults", faults.len());
        }

        /// Ten minutes hold more than the hundred faults that are asked for, of every kind.
        #[test]
        fn ten_minutes_are_full(seed: u64) {
            let faults = schedule(seed, Duration::from_secs(600), Duration::from_millis(4500), &[]);
            prop_assert!(faults.len() >= 110, "{} faults", faults.len());
            let kinds: BTreeSet<Kind> = faults.iter().map(|fault| fault.kind).collect();
            prop_assert_eq!(kinds.len(), Kind::value_variants().len());
        }
    }

    #[test]
    fn only_the_kinds_that_are_asked_for() {
        let faults = schedule(
            1,
            Duration::from_secs(60),
            Duration::from_secs(1),
            &[Kind::NatsWipe],
        );
        assert!(!faults.is_empty() && faults.iter().all(|fault| fault.kind == Kind::NatsWipe));
    }
}
