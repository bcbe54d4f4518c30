//! `waybill trace`: draws one trace from a file of spans.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context as _;
use waybill_runtime::telemetry::{SpanRecord, read_span_file};

use crate::output::line;

/// Draws a trace as a tree, each span with its begin, its length and its service.
pub fn run(file: &Path, trace_id: &str) -> anyhow::Result<()> {
    let mut spans = read_span_file(file).with_context(|| format!("cannot read {}", file.display()))?;
    spans.retain(|span| span.trace_id == trace_id);
    spans.sort_by_key(|span| (span.start_unix_nanos, span.end_unix_nanos));
    let Some(first) = spans.first() else {
        anyhow::bail!("{} holds no span of trace {trace_id}", file.display());
    };
    let origin = first.start_unix_nanos;
    for (depth, span) in tree(&spans) {
        line(format!(
            "{:>12}  {:>12}  {:<12}  {}{}",
            micros(span.start_unix_nanos - origin),
            micros(span.end_unix_nanos.saturating_sub(span.start_unix_nanos)),
            span.service.as_deref().unwrap_or_default(),
            "  ".repeat(depth),
            span.name
        ));
    }
    Ok(())
}

/// The spans as they hang together, each with its depth; a span whose parent is not in the file begins a tree.
fn tree(spans: &[SpanRecord]) -> Vec<(usize, &SpanRecord)> {
    let place: HashMap<&str, usize> = spans
        .iter()
        .enumerate()
        .map(|(at, span)| (span.span_id.as_str(), at))
        .collect();
    let mut children: HashMap<Option<usize>, Vec<usize>> = HashMap::new();
    for (at, span) in spans.iter().enumerate() {
        let parent = span
            .parent_span_id
            .as_deref()
            .and_then(|parent| place.get(parent))
            .copied();
        children.entry(parent).or_default().push(at);
    }
    let of = |parent| children.get(&parent).into_iter().flatten().rev();
    let mut stack: Vec<(usize, usize)> = of(None).map(|at| (*at, 0)).collect();
    let mut drawn = Vec::with_capacity(spans.len());
    while let Some((at, depth)) = stack.pop() {
        drawn.push((depth, &spans[at]));
        stack.extend(of(Some(at)).map(|child| (*child, depth + 1)));
    }
    drawn
}

fn micros(nanos: u64) -> String {
    format!("{}.{:03} ms", nanos / 1_000_000, nanos / 1000 % 1000)
}
