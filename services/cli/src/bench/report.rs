//! What a benchmark found: figures, floors, ratios, the machine. A table for people, one JSON object for programs.

use anyhow::ensure;
use serde_json::{Map, Value, json};

use super::machine::Machine;
use crate::output;

/// What a ratio or a figure is to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// No less than this.
    AtLeast(f64),
    /// No more than this.
    AtMost(f64),
}

impl Goal {
    fn is_reached(self, value: f64) -> bool {
        match self {
            Goal::AtLeast(least) => value >= least,
            Goal::AtMost(most) => value <= most,
        }
    }
}

#[derive(Debug, Clone)]
struct Entry {
    key: String,
    value: f64,
    goal: Option<Goal>,
}

/// A report being filled.
#[derive(Debug, Clone, Default)]
pub struct Report {
    figures: Vec<Entry>,
    floors: Vec<Entry>,
    ratios: Vec<Entry>,
    machine: Option<Machine>,
}

impl Report {
    /// What ours does.
    pub fn figure(&mut self, key: impl Into<String>, value: f64) {
        set(&mut self.figures, key.into(), value, None);
    }

    /// What ours does, and what it is to do.
    pub fn figure_with_goal(&mut self, key: impl Into<String>, value: f64, goal: Goal) {
        set(&mut self.figures, key.into(), value, Some(goal));
    }

    /// What the machine does bare.
    pub fn floor(&mut self, key: impl Into<String>, value: f64) {
        set(&mut self.floors, key.into(), value, None);
    }

    /// A figure by its floor.
    pub fn ratio(&mut self, key: impl Into<String>, value: f64) {
        set(&mut self.ratios, key.into(), value, None);
    }

    /// A figure by its floor, and what it is to be.
    pub fn ratio_with_goal(&mut self, key: impl Into<String>, value: f64, goal: Goal) {
        set(&mut self.ratios, key.into(), value, Some(goal));
    }

    /// What it was measured on. The first counts.
    pub fn machine(&mut self, machine: Machine) {
        self.machine.get_or_insert(machine);
    }

    /// Takes in another report; a key that both have takes the other's value.
    pub fn extend(&mut self, other: Report) {
        for (ours, theirs) in [
            (&mut self.figures, other.figures),
            (&mut self.floors, other.floors),
            (&mut self.ratios, other.ratios),
        ] {
            for entry in theirs {
                set(ours, entry.key, entry.value, entry.goal);
            }
        }
        if let Some(machine) = other.machine {
            self.machine(machine);
        }
    }

    /// The one object for programs.
    pub fn to_json(&self) -> anyhow::Result<Value> {
        let object = |entries: &[Entry]| -> anyhow::Result<Value> {
            let mut map = Map::new();
            for Entry { key, value, .. } in entries {
                ensure!(
                    value.is_finite(),
                    "{key} could not be measured: it came out as {value}"
                );
                map.insert(key.clone(), json!(rounded(*value)));
            }
            Ok(Value::Object(map))
        };
        Ok(json!({
            "figures": object(&self.figures)?,
            "floors": object(&self.floors)?,
            "ratios": object(&self.ratios)?,
            "machine": self.machine,
        }))
    }

    /// Prints it.
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        let value = self.to_json()?;
        if json {
            output::line(serde_json::to_string(&value)?);
            return Ok(());
        }
        let rows = [
            ("figure", &self.figures),
            ("floor", &self.floors),
            ("ratio", &self.ratios),
        ]
        .into_iter()
        .flat_map(|(kind, entries)| entries.iter().map(move |entry| row(kind, entry)));
        output::line(output::table(&["", "what", ">value", "to reach"], rows).to_string());
        if let Some(Value::Object(machine)) = value.get("machine") {
            let parts: Vec<String> = machine
                .iter()
                .map(|(key, value)| match value {
                    Value::String(text) => format!("{key}: {text}"),
                    other => format!("{key}: {other}"),
                })
                .collect();
            output::line(format!("\n{}", parts.join(", ")));
        }
        Ok(())
    }
}

fn set(entries: &mut Vec<Entry>, key: String, value: f64, goal: Option<Goal>) {
    let entry = Entry { key, value, goal };
    match entries.iter_mut().find(|known| known.key == entry.key) {
        Some(known) => *known = entry,
        None => entries.push(entry),
    }
}

fn row(kind: &str, entry: &Entry) -> Vec<String> {
    let goal = entry.goal.map_or_else(String::new, |goal| {
        let (sign, bound) = match goal {
            Goal::AtLeast(least) => (">=", least),
            Goal::AtMost(most) => ("<=", most),
        };
        let verdict = if goal.is_reached(entry.value) { "yes" } else { "no" };
        format!("{sign} {}: {verdict}", shown(bound))
    });
    vec![kind.to_owned(), entry.key.clone(), shown(entry.value), goal]
}

/// Three significant places are more than a benchmark can promise.
fn rounded(value: f64) -> f64 {
    if value.abs() >= 100.0 {
        value.round()
    } else {
        (value * 1000.0).round() / 1000.0
    }
}

fn shown(value: f64) -> String {
    rounded(value).to_string()
}

/// The middle of some values; of an even number the lower of the two in the middle.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
        .get(sorted.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_not_moved_by_an_outlier() {
        assert_eq!(median(&[5.0, 1000.0, 4.0]), 5.0);
        assert_eq!(median(&[2.0, 1.0]), 1.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_object_has_four_parts_and_what_was_not_measured_is_refused() -> anyhow::Result<()> {
        let mut report = Report::default();
        report.figure("events_per_second", 1234.567);
        report.ratio_with_goal("events_per_second_to_floor", 0.61234, Goal::AtLeast(0.6));
        let value = report.to_json()?;
        assert_eq!(value["figures"]["events_per_second"], 1235.0);
        assert_eq!(value["ratios"]["events_per_second_to_floor"], 0.612);
        assert!(value["floors"].is_object() && value["machine"].is_null());
        report.floor("insert_per_second", f64::NAN);
        assert!(report.to_json().is_err());
        Ok(())
    }

    #[test]
    fn reports_join_without_repeating_a_key() {
        let mut all = Report::default();
        all.floor("fetch_per_second", 1.0);
        let mut second = Report::default();
        second.floor("fetch_per_second", 2.0);
        second.figure("idle_cpu_percent", 0.5);
        all.extend(second);
        assert_eq!(all.floors.len(), 1);
        assert_eq!(all.floors[0].value, 2.0);
        assert_eq!(all.figures.len(), 1);
    }
}
