//! Chains that were tampered with, in every way a table can be.

use chrono::DateTime;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;

fn tenant() -> Tenant {
    Tenant {
        merchant: Uuid::from_u128(1).into(),
        store: Uuid::from_u128(2).into(),
    }
}

fn order() -> OrderId {
    Uuid::from_u128(3).into()
}

fn entry(n: u128) -> TimelineEntry {
    TimelineEntry {
        event: Uuid::from_u128(n).into(),
        service: "order".into(),
        type_name: "a.B".into(),
        summary: format!("fact {n}"),
        occurred_at: DateTime::UNIX_EPOCH,
        trace_id: String::new(),
        subject: None,
        actor: "ops".into(),
        cause: String::new(),
        learned_at: None,
        payload: None,
        link: None,
    }
}

/// Chains entries; tells the end.
fn chain(entries: &mut [TimelineEntry]) -> Link {
    entries.iter_mut().fold(Link::NONE, |end, entry| {
        let link = end.next(&digest(tenant(), order(), entry));
        entry.link = Some(link);
        link
    })
}

fn chained(count: u128) -> (Vec<TimelineEntry>, Link) {
    let mut entries: Vec<TimelineEntry> = (1..=count).map(entry).collect();
    let end = chain(&mut entries);
    (entries, end)
}

/// As the store reads them: by number, those without one last.
fn inspect(mut entries: Vec<TimelineEntry>, kept: Option<Link>, noted: Option<Link>) -> Verdict {
    entries.sort_by_key(|entry| entry.link.map_or(i64::MAX, |link| link.sequence));
    let mut inspection = Inspection::new(tenant(), order(), kept, noted);
    for entry in &entries {
        inspection.entry(entry);
    }
    inspection.end()
}

fn faults(verdict: &Verdict) -> Vec<(FaultKind, i64)> {
    (verdict.faults.iter())
        .map(|fault| (fault.kind, fault.sequence))
        .collect()
}

#[test]
fn what_nobody_touched_is_whole() {
    let (entries, end) = chained(5);
    let noted = entries[2].link;
    let verdict = inspect(entries, Some(end), noted);
    assert_eq!(
        (verdict.condition, verdict.entries, verdict.end),
        (Condition::Whole, 5, end)
    );
    assert_eq!(verdict.faults, []);
}

#[test]
fn an_order_of_before_has_no_chain_yet() {
    let verdict = inspect(vec![entry(1), entry(2)], None, None);
    assert_eq!((verdict.condition, verdict.entries), (Condition::NotBegun, 2));
    let noted = inspect(
        vec![entry(1)],
        None,
        Some(Link {
            sequence: 1,
            hash: [7; 32],
        }),
    );
    assert_eq!(
        noted.condition,
        Condition::Broken,
        "it had one when that was noted"
    );
}

#[test]
fn each_way_to_tamper_is_named() {
    use FaultKind::{Changed, EndDiffers, Missing, Surplus, Unchained};
    type Tamper = fn(&mut Vec<TimelineEntry>);
    let cases: [(Tamper, &[(FaultKind, i64)]); 10] = [
        (|e| e[2].summary.push('!'), &[(Changed, 3)]),
        (|e| drop(e.remove(2)), &[(Missing, 3)]),
        (|e| drop(e.pop()), &[(Missing, 5)]),
        (|e| e.truncate(3), &[(Missing, 4), (Missing, 5)]),
        (
            |e| {
                let (a, b) = (e[1].link, e[2].link);
                (e[1].link, e[2].link) = (b, a);
            },
            &[(Changed, 2), (Changed, 3)],
        ),
        (|e| e.push(entry(9)), &[(Unchained, 0)]),
        (
            // Put behind the end, with a link that fits.
            |e| {
                let mut new = entry(9);
                new.link = e[4].link.map(|end| end.next(&digest(tenant(), order(), &new)));
                e.push(new);
            },
            &[(Surplus, 6)],
        ),
        (
            // Put behind the end in place of the last one.
            |e| {
                let mut new = entry(9);
                new.link = Some(Link {
                    sequence: 6,
                    hash: [9; 32],
                });
                e[4] = new;
            },
            &[(Missing, 5), (Surplus, 6)],
        ),
        (
            // Put in the middle, under a number that another one has.
            |e| {
                let mut new = entry(9);
                new.link = e[2].link;
                e.push(new);
            },
            &[(Surplus, 3)],
        ),
        (
            // One changed, and all behind it chained anew: the end that is kept apart tells.
            |e| {
                e[2].summary.push('!');
                chain(e);
            },
            &[(EndDiffers, 5)],
        ),
    ];
    for (at, (tamper, expected)) in cases.into_iter().enumerate() {
        let (mut entries, end) = chained(5);
        tamper(&mut entries);
        let verdict = inspect(entries, Some(end), None);
        assert_eq!(verdict.condition, Condition::Broken, "case {at}");
        assert_eq!(faults(&verdict), expected, "case {at}");
    }
}

#[test]
fn a_whole_other_chain_is_found_by_what_was_noted() {
    let (mut entries, _) = chained(5);
    let noted = entries[3].link;
    entries[0].summary.push('!');
    let end = chain(&mut entries);
    assert_eq!(
        inspect(entries.clone(), Some(end), None).condition,
        Condition::Whole
    );
    let verdict = inspect(entries, Some(end), noted);
    assert_eq!(faults(&verdict), [(FaultKind::NotAsNoted, 4)]);
}

#[test]
fn faults_are_listed_up_to_a_limit() {
    let (_, end) = chained(1000);
    let verdict = inspect(Vec::new(), Some(end), None);
    assert_eq!(
        (verdict.condition, verdict.faults.len()),
        (Condition::Broken, MAX_FAULTS)
    );
}

proptest! {
    /// O-30: whatever part of whatever entry is changed, the first fault is that entry.
    #[test]
    fn every_part_of_an_entry_is_bound(count in 1..8_u128, at in 0..8_usize, part in 0..12_usize) {
        let (mut entries, end) = chained(count);
        let at = at % entries.len();
        let entry = &mut entries[at];
        match part {
            0 => entry.event = Uuid::from_u128(99).into(),
            1 => entry.service.push('x'),
            2 => entry.type_name.push('x'),
            3 => entry.summary.push('x'),
            4 => entry.occurred_at += chrono::TimeDelta::microseconds(1),
            5 => entry.trace_id.push('x'),
            6 => entry.subject = Some(Uuid::nil()),
            7 => entry.actor.push('x'),
            8 => entry.cause.push('x'),
            9 => entry.learned_at = Some(DateTime::UNIX_EPOCH),
            10 => entry.payload = Some(vec![0]),
            // From one text into the next: the same letters in the same order.
            _ => {
                entry.actor = "op".into();
                entry.cause = "s".into();
            }
        }
        let verdict = inspect(entries, Some(end), None);
        prop_assert_eq!(verdict.condition, Condition::Broken);
        prop_assert_eq!(faults(&verdict), [(FaultKind::Changed, at as i64 + 1)]);
    }

    /// O-30: of any entries any are taken away: it shows, and the first that is missing is named.
    #[test]
    fn nothing_goes_unnoticed(count in 1..12_u128, gone in proptest::collection::btree_set(0..12_usize, 1..6)) {
        let (entries, end) = chained(count);
        let left: Vec<TimelineEntry> = (entries.iter().enumerate())
            .filter(|(at, _)| !gone.contains(at))
            .map(|(_, entry)| entry.clone())
            .collect();
        let verdict = inspect(left, Some(end), None);
        let first = gone.iter().find(|at| **at < entries.len());
        match first {
            Some(at) => {
                prop_assert_eq!(verdict.condition, Condition::Broken);
                prop_assert_eq!(faults(&verdict)[0], (FaultKind::Missing, *at as i64 + 1));
            }
            None => prop_assert_eq!(verdict.condition, Condition::Whole),
        }
    }
}
