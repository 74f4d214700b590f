//! Properties of a peer of the bench.

use std::time::Duration;

use p2pfs_types::extent::ExtentSet;

/// Ways in which a peer dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// Connections break, and are refused from then on.
    Reset,
    /// Nothing arrives any longer.
    Silence,
}

#[derive(Clone, Debug)]
pub(super) struct SimPeer {
    pub latency: Duration,
    pub rate: f64,
    pub dies: Option<(Duration, Death)>,
    pub lies: bool,
    pub gone: bool,
    /// Ranges of its offer in answer to a `Get`, if it answers.
    pub offers: Option<ExtentSet>,
    /// Times in which it moves nothing: start and length.
    pub pauses: Vec<(Duration, Duration)>,
    pub served_bytes: u64,
}

impl SimPeer {
    pub(super) fn new(latency_ms: u64, rate: f64) -> Self {
        Self {
            latency: Duration::from_millis(latency_ms),
            rate,
            dies: None,
            lies: false,
            gone: false,
            offers: None,
            pauses: vec![],
            served_bytes: 0,
        }
    }

    pub(super) fn dying(mut self, after_ms: u64, death: Death) -> Self {
        self.dies = Some((Duration::from_millis(after_ms), death));
        self
    }
}
