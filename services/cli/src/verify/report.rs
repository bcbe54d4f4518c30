//! What a run prints: a line as it goes, tables at its end, or one JSON object.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::check::{Check, Unrest};
use super::faults::Kind;
use super::inject::{Faults, Tally};
use crate::output::{line, table};

/// What a run was and what came of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Repeats the schedule of faults.
    pub seed: u64,
    /// How long load and faults lasted.
    pub seconds: f64,
    /// How long it took to settle after the last fault.
    pub settled_after: Option<f64>,
    /// Orders that were acknowledged.
    pub orders: u64,
    /// Orders that reached their end.
    pub ended: usize,
    /// Faults by kind.
    pub faults: BTreeMap<Kind, Tally>,
    /// Faults that were injected.
    pub faults_injected: u64,
    /// Answers after which callers had to call again, by code and reason.
    pub answers: BTreeMap<String, u64>,
    /// How often processes ended without having been told to.
    pub ended_by_themselves: BTreeMap<String, u64>,
    /// What was checked.
    pub checks: Vec<Check>,
    /// Whether all of it holds.
    pub holds: bool,
}

/// Says something to a person; a program reads only the report.
pub fn say(json: bool, text: impl AsRef<str>) {
    if !json {
        line(text);
    }
}

/// One line on how far the run is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Seconds since the load began.
    pub seconds: f64,
    /// Orders that were acknowledged.
    pub placed: u64,
    /// Orders that reached their end.
    pub ended: usize,
    /// Faults so far.
    pub faults: u64,
    /// Answers after which callers had to call again.
    pub again: u64,
    /// What is to be done; not known while Postgres is away.
    pub unrest: Option<Unrest>,
}

impl Progress {
    /// Prints it.
    pub fn print(&self, json: bool) {
        let rest = self.unrest.map_or_else(
            || "Postgres is away".to_owned(),
            |unrest| {
                let mut rest = format!("lag {} events, {} jobs", unrest.lag, unrest.jobs);
                for (count, what) in [
                    (unrest.waiting, "waiting events"),
                    (unrest.dead_jobs, "dead jobs"),
                    (unrest.letters, "dead letters"),
                    (unrest.stopped, "stopped consumers"),
                    (unrest.fenced, "fenced logs"),
                ] {
                    if count > 0 {
                        rest.push_str(&format!(", {count} {what}"));
                    }
                }
                rest
            },
        );
        say(
            json,
            format!(
                "{:6.0} s  orders {} placed, {} ended | faults {} | {rest} | called again {}",
                self.seconds, self.placed, self.ended, self.faults, self.again
            ),
        );
    }
}

impl Report {
    /// Prints everything that was not printed while the run went on.
    pub fn print(&self, faults: &Faults, json: bool) -> anyhow::Result<()> {
        if json {
            line(serde_json::to_string(self)?);
            return Ok(());
        }
        let rows = self
            .faults
            .iter()
            .map(|(kind, tally)| [kind.name(), tally.injected.to_string(), tally.skipped.to_string()]);
        line("\nFaults");
        line(table(&["kind", ">injected", ">skipped"], rows).to_string());
        for skipped in faults.history().iter().filter(|fault| fault.contains("skipped")) {
            line(format!("  {}", skipped.trim()));
        }
        line("\nAnswers after which callers called again");
        let rows = self
            .answers
            .iter()
            .map(|(answer, count)| [answer.clone(), count.to_string()]);
        line(table(&["answer", ">times"], rows).to_string());
        if !self.ended_by_themselves.is_empty() {
            line(format!(
                "\nProcesses that ended by themselves and were started again: {:?}",
                self.ended_by_themselves
            ));
        }
        line("\nChecks");
        let rows = self.checks.iter().map(|check| {
            [
                if check.holds { "holds" } else { "FAILS" }.to_owned(),
                check.name.to_owned(),
                check.detail.clone(),
            ]
        });
        line(table(&["", "check", ""], rows).to_string());
        line(format!(
            "\n{} orders, {} faults in {:.0} s, settled after {}: {}",
            self.orders,
            self.faults_injected,
            self.seconds,
            self.settled_after
                .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.0} s")),
            if self.holds {
                "every check holds"
            } else {
                "NOT CLEAN"
            }
        ));
        Ok(())
    }
}

/// Where to look when something does not hold.
pub fn keep(folder: &Path, seed: u64) -> String {
    format!(
        "everything is kept in {folder}:\n  logs/      one a process, JSON lines\n  faults.txt what was broken when\n  data/      Postgres and NATS; look with: waybill up --data {folder}/data\nthe same schedule again: waybill verify --seed {seed}",
        folder = folder.display()
    )
}
