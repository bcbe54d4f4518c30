//! The batch sizes that the backbone itself tells as metrics.

use anyhow::Context as _;
use opentelemetry::global;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};
use opentelemetry_sdk::metrics::{
    InMemoryMetricExporter, InMemoryMetricExporterBuilder, PeriodicReader, SdkMeterProvider, Temporality,
};

/// The metrics that are histograms of batch sizes, and the figures that they become.
const BATCHES: [(&str, &str); 2] = [
    ("waybill.relay.page", "relay_page_mean"),
    ("waybill.fold.batch", "fold_batch_mean"),
];

/// Collects the metrics of this process.
pub(super) struct Meters {
    provider: SdkMeterProvider,
    exporter: InMemoryMetricExporter,
}

impl Meters {
    /// Collects from now on. Must come before the parts that are measured.
    pub(super) fn install() -> Meters {
        let exporter = InMemoryMetricExporterBuilder::new()
            .with_temporality(Temporality::Delta)
            .build();
        let provider = SdkMeterProvider::builder()
            .with_reader(PeriodicReader::builder(exporter.clone()).build())
            .build();
        global::set_meter_provider(provider.clone());
        Meters { provider, exporter }
    }

    /// Leaves out what was counted so far.
    pub(super) fn forget(&self) -> anyhow::Result<()> {
        self.provider.force_flush().context("metrics")?;
        self.exporter.reset();
        Ok(())
    }

    /// The mean batch sizes since, where there were any.
    pub(super) fn batches(&self) -> anyhow::Result<Vec<(&'static str, f64)>> {
        self.provider.force_flush().context("metrics")?;
        let mut sums = [(0, 0); BATCHES.len()];
        let all = self.exporter.get_finished_metrics().context("metrics")?;
        for metric in all
            .iter()
            .flat_map(opentelemetry_sdk::metrics::data::ResourceMetrics::scope_metrics)
            .flat_map(opentelemetry_sdk::metrics::data::ScopeMetrics::metrics)
        {
            let Some(index) = BATCHES.iter().position(|(name, _)| *name == metric.name()) else {
                continue;
            };
            if let AggregatedMetrics::U64(MetricData::Histogram(histogram)) = metric.data() {
                for point in histogram.data_points() {
                    sums[index].0 += point.sum();
                    sums[index].1 += point.count();
                }
            }
        }
        Ok(BATCHES
            .iter()
            .zip(sums)
            .filter(|(_, (_, count))| *count > 0)
            .map(|((_, figure), (sum, count))| (*figure, sum as f64 / count as f64))
            .collect())
    }
}
