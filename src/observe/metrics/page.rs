//! What is read: metrics in the text format of Prometheus.

use super::Histogram;
use prometheus::{
    TextEncoder,
    core::{Collector as _, Metric as _},
    process_collector::ProcessCollector,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

/// Metrics on their way to whoever reads them.
#[derive(Debug, Default)]
pub struct Page(Vec<MetricFamily>);

impl Page {
    /// A metric that only grows.
    pub fn counter(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(MetricType::COUNTER, name, help)
    }

    /// A metric that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(MetricType::GAUGE, name, help)
    }

    /// A metric that is a spread of durations.
    pub fn histogram(&mut self, name: &str, help: &str) -> Family<'_> {
        self.family(MetricType::HISTOGRAM, name, help)
    }

    fn family(&mut self, kind: MetricType, name: &str, help: &str) -> Family<'_> {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        self.0.push(family);
        Family(self.0.last_mut().expect("pushed above"))
    }

    /// Adds what the system tells of the process: its memory, processor time, descriptors, threads and
    /// start.
    pub fn show_process(&mut self) {
        self.0.extend(ProcessCollector::for_self().collect());
    }

    /// All of it as text. A metric without values is left out.
    pub fn into_text(mut self) -> String {
        self.0.retain(|family| !family.get_metric().is_empty());
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.0, &mut text) {
            // It fails for metrics without values or names, and writing to a string does not fail.
            log::error!("metrics: {error}");
        }
        text
    }
}

/// A metric with its values.
#[derive(Debug)]
pub struct Family<'p>(&'p mut MetricFamily);

impl Family<'_> {
    /// Adds the value for these labels, which is to be there once.
    pub fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        let mut metric = Metric::from_label(pairs(labels));
        if self.0.get_field_type() == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.0.mut_metric().push(metric);
    }

    /// Adds the spread for these labels.
    pub fn add_histogram(&mut self, labels: &[(&str, &str)], histogram: &Histogram) {
        let mut metric = histogram.inner().metric();
        metric.set_label(pairs(labels));
        self.0.mut_metric().push(metric);
    }
}

fn pairs(labels: &[(&str, &str)]) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn metrics_have_their_help_their_type_and_their_values() {
        let mut page = Page::default();
        let mut family = page.counter("things_total", "Things.");
        family.add(&[("name", "a")], 2.0);
        family.add(&[("name", "b\"\\\n")], 1e15);
        page.gauge("level", "A level.").add(&[], -0.5);
        page.gauge("nothing", "Has no values.");
        assert_eq!(
            page.into_text(),
            "# HELP things_total Things.\n# TYPE things_total counter\n\
             things_total{name=\"a\"} 2\nthings_total{name=\"b\\\"\\\\\\n\"} 1000000000000000\n\
             # HELP level A level.\n# TYPE level gauge\nlevel -0.5\n"
        );
    }

    #[test]
    fn a_duration_is_in_its_bucket_and_in_all_above() {
        let histogram = Histogram::of_connections();
        histogram.observe(Duration::from_millis(500));
        histogram.observe(Duration::from_secs(1_000_000));
        let mut page = Page::default();
        page.histogram("seconds", "Time.").add_histogram(&[("pool", "a")], &histogram);
        let text = page.into_text();
        for line in [
            "seconds_bucket{pool=\"a\",le=\"0.1\"} 0",
            "seconds_bucket{pool=\"a\",le=\"1\"} 1",
            "seconds_bucket{pool=\"a\",le=\"86400\"} 1",
            "seconds_bucket{pool=\"a\",le=\"+Inf\"} 2",
            "seconds_sum{pool=\"a\"} 1000000.5",
            "seconds_count{pool=\"a\"} 2",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} in\n{text}");
        }
    }
}
