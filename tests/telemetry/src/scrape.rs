//! What Prometheus reads, what the documentation tells of it, and what the alerts ask of it, as far as names, kinds and
//! labels go. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// A page of metrics in Prometheus' text format.
#[derive(Debug, Default)]
pub struct Page {
    families: BTreeMap<String, Family>,
}

#[derive(Debug, Default)]
struct Family {
    kind: String,
    series: Vec<BTreeMap<String, String>>,
}

impl Page {
    /// Reads the lines of a page; others are left out.
    #[must_use]
    pub fn of(text: &str) -> Page {
        let mut page = Page::default();
        for line in text.lines() {
            if let Some(head) = line.strip_prefix("# TYPE ") {
                if let Some((name, kind)) = head.split_once(' ') {
                    page.families.entry(name.to_owned()).or_default().kind = kind.trim().to_owned();
                }
            } else if let Some((name, rest)) = line.split_once('{')
                && let Some((labels, _)) = rest.rsplit_once('}')
                && let Some(family) = page.family(name)
            {
                family.series.push(labels_of(labels));
            }
        }
        // Of the libraries, not of Waybill.
        page.families.remove("target_info");
        page
    }

    /// The family of a series: a histogram's have endings of their own.
    fn family(&mut self, series: &str) -> Option<&mut Family> {
        let endings = ["", "_bucket", "_sum", "_count"];
        let name = endings
            .iter()
            .filter_map(|ending| series.strip_suffix(ending))
            .find(|name| self.families.contains_key(*name))?
            .to_owned();
        self.families.get_mut(&name)
    }

    /// The metrics that there are.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.families.keys().map(String::as_str)
    }

    /// Counter, gauge or histogram; `None` when there is no series of it.
    #[must_use]
    pub fn kind(&self, name: &str) -> Option<&str> {
        let family = self.families.get(name).filter(|family| !family.series.is_empty());
        family.map(|family| family.kind.as_str())
    }

    /// Whether a series of the metric has the label, with this value if one is given.
    #[must_use]
    pub fn has(&self, name: &str, label: &str, value: Option<&str>) -> bool {
        let series = self.families.get(name).map_or(&[][..], |family| &family.series);
        series.iter().any(|labels| {
            labels
                .get(label)
                .is_some_and(|found| value.is_none_or(|value| value == found))
        })
    }

    /// Whether all series of the metric have the label.
    #[must_use]
    pub fn every_series_has(&self, name: &str, label: &str) -> bool {
        let series = self.families.get(name).map_or(&[][..], |family| &family.series);
        series.iter().all(|labels| labels.contains_key(label))
    }
}

/// `a="b",c="d"`. Values of Waybill hold no quotes.
fn labels_of(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split("\",").filter_map(|pair| pair.split_once("=\""));
    pairs
        .map(|(label, value)| (label.trim().to_owned(), value.trim_end_matches('"').to_owned()))
        .collect()
}

/// A metric as the documentation tells of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Documented {
    /// Counter, gauge or histogram.
    pub kind: String,
    /// Its own labels.
    pub labels: Vec<String>,
    /// It is not there before something goes wrong.
    pub when_it_happens: bool,
}

/// The rows of the table of metrics: `| name | kind | labels | tells |`, names and labels in backticks.
#[must_use]
pub fn documented(text: &str) -> BTreeMap<String, Documented> {
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, tells] = cells.as_slice() else {
            return None;
        };
        let name = in_backticks(name).next()?;
        let documented = Documented {
            kind: (*kind).to_owned(),
            labels: in_backticks(labels).collect(),
            when_it_happens: tells.contains("*when it happens*"),
        };
        Some((name, documented))
    });
    rows.collect()
}

fn in_backticks(text: &str) -> impl Iterator<Item = String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// What an alert asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// The alert.
    pub alert: String,
    /// The metric.
    pub metric: String,
    /// Labels, with the value where one is asked for.
    pub labels: Vec<(String, Option<String>)>,
}

/// What the rules ask for: `expr: … by (labels) (metric{label="value"}) …`, one metric each.
#[must_use]
pub fn asked(rules: &str) -> Vec<Asked> {
    let mut alert = String::new();
    let mut all = Vec::new();
    for line in rules.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("- alert:") {
            alert = name.trim().to_owned();
        }
        let Some(expr) = line.strip_prefix("expr:") else {
            continue;
        };
        let by = expr.split_once("by (").and_then(|(_, rest)| rest.split_once(')'));
        let (grouped, of) = by.unwrap_or(("", expr));
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let Some(begin) = of.find("waybill_") else {
            continue;
        };
        let (metric, rest) =
            of[begin..].split_at(of[begin..].find(|c| !is_name(c)).unwrap_or(of.len() - begin));
        let matched = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let matched = matched.map(|(labels, _)| labels_of(labels)).unwrap_or_default();
        let grouped = grouped
            .split(',')
            .map(str::trim)
            .filter(|label| !label.is_empty());
        all.push(Asked {
            alert: alert.clone(),
            metric: metric.to_owned(),
            labels: grouped
                .map(|label| (label.to_owned(), None))
                .chain(matched.into_iter().map(|(label, value)| (label, Some(value))))
                .collect(),
        });
    }
    all
}

/// The names under which Prometheus finds the instruments that a source file makes.
#[must_use]
pub fn instruments(source: &str) -> BTreeSet<String> {
    let makers = [
        ("_counter(\"", "_total"),
        ("_gauge(\"", ""),
        ("_histogram(\"", ""),
    ];
    let mut names = BTreeSet::new();
    for (maker, ending) in makers {
        for (at, _) in source.match_indices(maker) {
            let rest = &source[at + maker.len()..];
            let Some((name, rest)) = rest.split_once('"') else {
                continue;
            };
            let until_built = rest.split(".build()").next().unwrap_or_default();
            let unit = if until_built.contains(".with_unit(\"s\")") {
                "_seconds"
            } else {
                ""
            };
            names.insert(format!("{}{unit}{ending}", name.replace('.', "_")));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read() {
        let page = Page::of(
            "HTTP/1.1 200 OK\n\n# HELP waybill_jobs Jobs.\n# TYPE waybill_jobs gauge\n\
             waybill_jobs{job_kind=\"a.b\",state=\"dead\",waybill_service=\"refund\"} 0\n\
             # TYPE waybill_fold_lag_seconds histogram\n\
             waybill_fold_lag_seconds_bucket{waybill_service=\"refund\",le=\"0.1\"} 0\n\
             # TYPE target_info gauge\ntarget_info{service_name=\"x\"} 1\n",
        );
        assert_eq!(
            page.names().collect::<Vec<_>>(),
            ["waybill_fold_lag_seconds", "waybill_jobs"]
        );
        assert_eq!(page.kind("waybill_jobs"), Some("gauge"));
        assert_eq!(page.kind("waybill_fold_lag_seconds"), Some("histogram"));
        assert!(
            page.has("waybill_jobs", "state", Some("dead")) && page.has("waybill_jobs", "job_kind", None)
        );
        assert!(!page.has("waybill_jobs", "state", Some("due")) && !page.has("waybill_jobs", "other", None));
        assert!(page.every_series_has("waybill_jobs", "waybill_service"));
        assert!(!page.every_series_has("waybill_jobs", "le"));
        assert_eq!(page.kind("waybill_gone"), None);
    }

    #[test]
    fn rows_rules_and_instruments_are_read() {
        let told = documented(
            "| metric | kind | labels | tells |\n| --- | --- | --- | --- |\n\
             | `waybill_fold_gaps_total` | counter | `a`, `b` | times; *when it happens* |\n",
        );
        let expected = Documented {
            kind: "counter".to_owned(),
            labels: vec!["a".to_owned(), "b".to_owned()],
            when_it_happens: true,
        };
        assert_eq!(
            told,
            BTreeMap::from([("waybill_fold_gaps_total".to_owned(), expected)])
        );

        let rules = asked("- alert: Dead\n  expr: sum by (x, y) (waybill_jobs{state=\"dead\"}) > 0\n");
        let expected = Asked {
            alert: "Dead".to_owned(),
            metric: "waybill_jobs".to_owned(),
            labels: vec![
                ("x".to_owned(), None),
                ("y".to_owned(), None),
                ("state".to_owned(), Some("dead".to_owned())),
            ],
        };
        assert_eq!(rules, [expected]);

        let made = instruments(
            ".u64_counter(\"waybill.a.b\").with_description(\"x\").build()
             .f64_histogram(\"waybill.c\").with_unit(\"s\").build() .u64_gauge(\"d.e\").build()",
        );
        let expected = ["d_e", "waybill_a_b_total", "waybill_c_seconds"].map(str::to_owned);
        assert_eq!(made, BTreeSet::from(expected));
    }
}
