//! What a peer of the bench is like.

use std::time::Duration;

use p2pfs_types::extent::ExtentSet;

/// How a peer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// Connections break, and are refused from then on.
    Reset,
    /// Nothing comes any more.
    Silence,
}

#[derive(Clone, Debug)]
pub(super) struct SimPeer {
    pub latency: Duration,
    pub rate: f64,
    pub dies: Option<(Duration, Death)>,
    pub lies: bool,
    pub gone: bool,
    /// Whether it answers a `Get` with an offer of these ranges.
    pub offers: Option<ExtentSet>,
    /// When it moves nothing for a while: from when, for how long.
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
