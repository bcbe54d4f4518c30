//! Who is to own how many virtual partitions, and which lane works on which: pure rules.
//!
//! What a process is entitled to depends on who is there and on nothing else, so all who see the same processes agree,
//! whatever they saw of each other's leases. Nobody takes anything from another: who has more than its share gives back,
//! who has less takes what is free. So nothing can go to and fro, and who joins or leaves moves its own share only, give
//! or take one partition a process.

use std::collections::{BTreeMap, BTreeSet};

/// What a process sees of the leases of a consumer, by the database's clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct View<'v> {
    /// The processes whose membership lasts, with or without leases; this one need not be among them.
    pub members: Vec<&'v str>,
    /// Every virtual partition with its owner. None: it is free.
    pub owners: BTreeMap<u16, Option<&'v str>>,
}

/// What a process is to do about its leases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// To be given back as soon as no batch runs on them.
    pub release: BTreeSet<u16>,
    /// How many to take of those that are free.
    pub claim: usize,
    /// How many are still missing when these are taken: somebody else has to give them back, or has to run out.
    pub missing: usize,
}

/// Decides for the process `me`.
pub(super) fn decide(me: &str, view: &View<'_>) -> Decision {
    let held: BTreeSet<u16> = view
        .owners
        .iter()
        .filter(|(_, owner)| **owner == Some(me))
        .map(|(partition, _)| *partition)
        .collect();
    let share = share(me, view);
    if held.len() >= share {
        return Decision {
            release: held.into_iter().skip(share).collect(),
            ..Decision::default()
        };
    }
    let free = view.owners.values().filter(|owner| owner.is_none()).count();
    let wanted = share - held.len();
    let claim = wanted.min(free);
    Decision {
        release: BTreeSet::new(),
        claim,
        missing: wanted - claim,
    }
}

/// How many partitions the process is entitled to: an even part, and one of the odd ones if it is among the first by name.
fn share(me: &str, view: &View<'_>) -> usize {
    // An owner that is no member is an older release, which knows no membership, or one that is running out.
    let everybody: BTreeSet<&str> = view
        .members
        .iter()
        .copied()
        .chain(view.owners.values().copied().flatten())
        .chain([me])
        .collect();
    let place = everybody.iter().take_while(|name| **name != me).count();
    let (partitions, members) = (view.owners.len(), everybody.len());
    partitions / members + usize::from(place < partitions % members)
}

/// Which lane works on which of the owned partitions: evenly, and moving as few as that takes.
pub(super) fn assign(before: &BTreeMap<u16, u16>, owned: &BTreeSet<u16>, lanes: u16) -> BTreeMap<u16, u16> {
    let lanes = usize::from(lanes.max(1));
    let most = owned.len().div_ceil(lanes);
    let mut load = vec![0_usize; lanes];
    let mut assigned = BTreeMap::new();
    let mut homeless = Vec::new();
    for &partition in owned {
        match before.get(&partition) {
            Some(&lane) if load.get(usize::from(lane)).is_some_and(|load| *load < most) => {
                load[usize::from(lane)] += 1;
                assigned.insert(partition, lane);
            }
            _ => homeless.push(partition),
        }
    }
    for partition in homeless {
        let lane = (0..lanes).min_by_key(|lane| load[*lane]).unwrap_or_default();
        load[lane] += 1;
        assigned.insert(partition, lane as u16);
    }
    assigned
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARTITIONS: u16 = 64;

    /// The table of leases as the database keeps it: a lease has one owner, whoever asks.
    #[derive(Debug, Default)]
    struct Table {
        members: BTreeSet<String>,
        owners: BTreeMap<u16, Option<String>>,
        moves: usize,
    }

    /// What a member saw when it looked last.
    type Seen = (BTreeSet<String>, BTreeMap<u16, Option<String>>);

    impl Table {
        fn new() -> Table {
            Table {
                owners: (0..PARTITIONS).map(|partition| (partition, None)).collect(),
                ..Table::default()
            }
        }

        fn look(&self) -> Seen {
            (self.members.clone(), self.owners.clone())
        }

        /// Does what `me` decides from what it saw, as far as it is still possible.
        fn act(&mut self, me: &str, seen: &Seen) -> bool {
            let view = View {
                members: seen.0.iter().map(String::as_str).collect(),
                owners: seen.1.iter().map(|(p, owner)| (*p, owner.as_deref())).collect(),
            };
            let decision = decide(me, &view);
            let mut changed = false;
            for partition in &decision.release {
                if self.owners[partition].as_deref() == Some(me) {
                    self.owners.insert(*partition, None);
                    changed = true;
                }
            }
            let mut left = decision.claim;
            for (partition, owner) in &mut self.owners {
                // It claims among those that it saw free.
                if left > 0 && owner.is_none() && seen.1[partition].is_none() {
                    *owner = Some(me.to_owned());
                    left -= 1;
                    self.moves += 1;
                    changed = true;
                }
            }
            changed
        }

        fn gone(&mut self, member: &str) {
            self.members.remove(member);
            for owner in self.owners.values_mut() {
                if owner.as_deref() == Some(member) {
                    *owner = None;
                }
            }
        }

        fn counts(&self) -> Vec<usize> {
            let count = |member: &String| {
                let owned = self
                    .owners
                    .values()
                    .filter(|owner| owner.as_ref() == Some(member));
                owned.count()
            };
            self.members.iter().map(count).collect()
        }

        /// All members beat in turn until nothing changes; how many rounds it took.
        fn settle(&mut self) -> usize {
            for round in 0..20 {
                let mut changed = false;
                for member in self.members.clone() {
                    let seen = self.look();
                    changed |= self.act(&member, &seen);
                }
                if !changed {
                    return round;
                }
            }
            20
        }

        fn is_even(&self) -> bool {
            let counts = self.counts();
            let even = counts
                .iter()
                .max()
                .zip(counts.iter().min())
                .is_none_or(|(most, least)| most - least <= 1);
            even && (counts.is_empty() || counts.iter().sum::<usize>() == usize::from(PARTITIONS))
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Join(u8),
        Leave(u8),
        Look(u8),
        Act(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = (0u8..8, 0u8..10).prop_map(|(member, what)| match what {
            0 => Step::Join(member),
            1 => Step::Leave(member),
            2..6 => Step::Look(member),
            _ => Step::Act(member),
        });
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Members come and go, look and act at any moment, on views that are out of date. When they are left alone it is
        /// even, soon, and then nothing moves any more.
        #[test]
        fn any_joins_and_leaves_end_evenly(steps in steps()) {
            let mut table = Table::new();
            let mut views: BTreeMap<String, Seen> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Join(member) => { table.members.insert(member.to_string()); }
                    Step::Leave(member) => {
                        let member = member.to_string();
                        table.gone(&member);
                        views.remove(&member);
                    }
                    Step::Look(member) => {
                        let member = member.to_string();
                        if table.members.contains(&member) {
                            let seen = table.look();
                            views.insert(member, seen);
                        }
                    }
                    Step::Act(member) => {
                        if let Some(seen) = views.remove(&member.to_string()) {
                            table.act(&member.to_string(), &seen);
                        }
                    }
                }
            }
            let rounds = table.settle();
            prop_assert!(rounds <= 3, "{} rounds", rounds);
            prop_assert!(table.is_even(), "{:?}", table.counts());
        }

        /// One that joins moves no more than its own share and one partition a member; so does one that leaves.
        #[test]
        fn moves_are_bounded(members in prop::collection::btree_set(0u8..40, 1..12), other in 0u8..40) {
            let mut table = Table::new();
            table.members = members.iter().map(ToString::to_string).collect();
            table.settle();
            prop_assert!(table.is_even());
            let bound = |members: usize| usize::from(PARTITIONS).div_ceil(members) + members;
            let other = other.to_string();
            table.moves = 0;
            if table.members.insert(other.clone()) {
                table.settle();
                prop_assert!(table.is_even() && table.moves <= bound(table.members.len()), "{} moves", table.moves);
            }
            table.moves = 0;
            let before = table.members.len();
            table.gone(&other);
            table.settle();
            prop_assert!(table.is_even() && table.moves <= bound(before), "{} moves", table.moves);
        }

        /// Lanes share what is owned evenly; what stays owned moves only where evenness wants it.
        #[test]
        fn lanes_are_even_and_sticky(
            first in prop::collection::btree_set(0u16..PARTITIONS, 0..64),
            second in prop::collection::btree_set(0u16..PARTITIONS, 0..64),
            lanes in 1u16..9,
            later in 1u16..9,
        ) {
            let before = assign(&BTreeMap::new(), &first, lanes);
            let after = assign(&before, &second, later);
            for (owned, assigned, lanes) in [(&first, &before, lanes), (&second, &after, later)] {
                prop_assert!(assigned.keys().eq(owned.iter()));
                let most = owned.len().div_ceil(usize::from(lanes));
                for lane in 0..lanes {
                    prop_assert!(assigned.values().filter(|of| **of == lane).count() <= most);
                }
                prop_assert!(assigned.values().all(|lane| *lane < lanes));
            }
            // Nothing changed: nothing moves.
            prop_assert_eq!(&assign(&after, &second, later), &after);
        }
    }

    #[test]
    fn an_owner_without_membership_counts() {
        let owners: BTreeMap<u16, Option<&str>> = (0..4).map(|p| (p, (p < 3).then_some("old"))).collect();
        let view = View {
            members: vec!["new"],
            owners,
        };
        let decision = decide("new", &view);
        assert_eq!((decision.claim, decision.missing), (1, 1));
    }

    #[test]
    fn more_members_than_partitions_leave_some_idle() {
        let mut table = Table::new();
        table.members = (0..70).map(|member| format!("{member:02}")).collect();
        table.settle();
        assert_eq!(table.counts().iter().filter(|count| **count == 1).count(), 64);
        let view = View {
            members: Vec::new(),
            owners: BTreeMap::new(),
        };
        assert_eq!(decide("me", &view), Decision::default());
    }
}
