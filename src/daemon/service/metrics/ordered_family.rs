//! Metrics of one name with different labels, in the order in which they were added.
//!
//! The library's family encodes its metrics in the order of a hash table, which differs between
//! two readings. A reader that compares two readings line by line would find differences.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Metrics of one name, each with its labels.
#[derive(Debug)]
pub(super) struct OrderedFamily<L, M>(Vec<(L, M)>);

impl<L, M> Default for OrderedFamily<L, M> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<L, M: Default> OrderedFamily<L, M> {
    /// Adds a metric with these labels, which no earlier metric of the family may have.
    pub(super) fn add(&mut self, labels: L) -> &M {
        &self.0.push_mut((labels, M::default())).1
    }
}

impl<L, M> EncodeMetric for OrderedFamily<L, M>
where
    L: EncodeLabelSet,
    M: EncodeMetric + TypedMetric,
{
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        for (labels, metric) in &self.0 {
            metric.encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
