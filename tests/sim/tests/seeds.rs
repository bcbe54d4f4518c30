//! Many worlds with the product's rules hold; a world with a wrong rule is found out.
//!
//! `WAYBILL_SIM_SEED=7 cargo test -p waybill-sim` runs one world and prints what it was; `WAYBILL_SIM_SEEDS=100000` runs as
//! many. A failure names its seed.

use waybill_events::cursor::Decision;
use waybill_events::gate::Plan;
use waybill_events::resume::{self, Resume, Tail};
use waybill_sim::{Fault, Report, Rules, run};
use waybill_store::jobs::rule::job::{State, Taking, Verdict};

/// Worlds that a run of the tests goes through.
const WORLDS: u64 = 150;

/// Worlds in which a wrong rule has to show.
const PATIENCE: u64 = 400;

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a whole number"))
}

#[test]
fn worlds_with_the_rules_of_the_product_hold() {
    let seeds = match from_env("WAYBILL_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_env("WAYBILL_SIM_SEEDS").unwrap_or(WORLDS),
    };
    let mut all = Report::default();
    for seed in seeds.clone() {
        match run(seed, Rules::real()) {
            Ok(report) => {
                all.steps += report.steps;
                all.events += report.events;
                all.jobs += report.jobs;
                all.faults += report.faults;
            }
            Err(fault) => panic!("WAYBILL_SIM_SEED={seed}: {fault}"),
        }
    }
    // So that nobody proves something about an empty world.
    let worlds = seeds.end - seeds.start;
    assert!(all.events as u64 > worlds * 100, "{all:?}");
    assert!(all.jobs as u64 > worlds * 20, "{all:?}");
    assert!(u64::from(all.faults) > worlds * 40, "{all:?}");
}

#[test]
fn a_seed_repeats_its_world() {
    assert_eq!(run(3, Rules::real()), run(3, Rules::real()));
    assert_ne!(run(3, Rules::real()), run(4, Rules::real()));
}

/// The first world in which the wrong rule shows.
fn found_out(rules: Rules) -> Fault {
    let seen = (0..PATIENCE).find_map(|seed| run(seed, rules).err());
    seen.expect("the simulator sees it")
}

#[test]
fn a_consumer_that_ignores_prev_is_seen() {
    let rules = Rules {
        cursor: |cursor, _, position| match position > cursor {
            true => Decision::Apply,
            false => Decision::Skip,
        },
        ..Rules::real()
    };
    let fault = found_out(rules);
    let order = "every event takes effect exactly once, in order per key";
    let proof = "count and hash of a cursor are those of its log";
    assert!([order, proof].contains(&fault.rule), "{fault}");
}

#[test]
fn a_consumer_that_applies_what_it_had_is_seen() {
    let rules = Rules {
        cursor: |cursor, prev, position| match waybill_events::cursor::decide(cursor, prev, position) {
            Decision::Skip => Decision::Apply,
            other => other,
        },
        ..Rules::real()
    };
    assert_eq!(
        found_out(rules).rule,
        "every event takes effect exactly once, in order per key"
    );
}

#[test]
fn an_owner_whose_epoch_is_not_checked_is_seen() {
    let rules = Rules {
        may_commit: |_, _| true,
        ..Rules::real()
    };
    assert_eq!(found_out(rules).rule, "only the owner commits");
}

#[test]
fn a_gate_that_does_not_wait_is_seen() {
    let rules = Rules {
        plan: |batch, _, _, _| Plan {
            apply: batch.into_iter().map(|arrival| arrival.event).collect(),
            ..Plan::default()
        },
        ..Rules::real()
    };
    assert_eq!(
        found_out(rules).rule,
        "no event takes effect before its key is known"
    );
}

#[test]
fn a_relay_that_trusts_its_memory_is_seen() {
    let rules = Rules {
        resume: |tail, place, acknowledged, run_up| match (tail, acknowledged) {
            (Tail::Event { last_sequence, .. }, Some(after)) => Ok(Resume {
                after,
                last_sequence: *last_sequence,
            }),
            _ => resume::decide(tail, place, acknowledged, run_up),
        },
        ..Rules::real()
    };
    assert_eq!(found_out(rules).rule, "a stream is a piece of its log");
}

#[test]
fn a_relay_that_misses_a_break_is_seen() {
    let rules = Rules {
        looks_again: false,
        ..Rules::real()
    };
    assert_eq!(found_out(rules).rule, "a stream is a piece of its log");
}

#[test]
fn a_worker_that_takes_before_the_end_of_the_lease_is_seen() {
    let rules = Rules {
        take: |job, now, lease, most| {
            if job.state != State::Running {
                return job.take(now, lease, most);
            }
            job.claims += 1;
            job.due = now + lease;
            Taking::Ours(job.claims)
        },
        ..Rules::real()
    };
    assert_eq!(found_out(rules).rule, "a lease lasts until its end");
}

#[test]
fn a_worker_that_settles_what_another_has_is_seen() {
    let rules = Rules {
        settle: |job, _, verdict, now| {
            let claim = job.claims;
            job.settle(claim, verdict, now)
        },
        ..Rules::real()
    };
    assert_eq!(found_out(rules).rule, "the end of a job counts once");
}

#[test]
fn a_failure_that_is_never_tried_again_is_seen() {
    let rules = Rules {
        settle: |job, claim, verdict, now| match verdict {
            Verdict::Failed { .. } => job.settle(claim, Verdict::Failed { retry: None }, now),
            other => job.settle(claim, other, now),
        },
        ..Rules::real()
    };
    assert_eq!(found_out(rules).rule, "every job is done once the faults end");
}

#[test]
fn a_new_key_for_every_attempt_is_seen() {
    let rules = Rules {
        provider_key: |job, claim| job * 1000 + claim.unsigned_abs(),
        ..Rules::real()
    };
    assert_eq!(found_out(rules).rule, "no effect at the provider happens twice");
}
