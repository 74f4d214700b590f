//! What is on its way, for people.

use std::collections::BTreeMap;

use super::{Plan, RequestId};
use crate::digest::{ContentHash, ContentKey};
use crate::id::NodeId;

/// A file that is on its way, or was a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchReport {
    pub hash: ContentHash,
    pub size_bytes: u64,
    /// How much of it is here.
    pub ready_bytes: u64,
    /// How many readers wait for it.
    pub waiting: usize,
    /// Whether all of it is wanted.
    pub is_filling: bool,
    /// Who gave, and who is asked: bytes received, and asked and not answered.
    pub sources: BTreeMap<NodeId, (u64, u64)>,
}

impl FetchReport {
    /// Whether anyone waits for some of it, or it is asked of someone.
    pub fn is_wanted(&self) -> bool {
        let mut sources = self.sources.values();
        self.waiting > 0 || self.is_filling || sources.any(|(_, asked)| *asked > 0)
    }

    /// What came of it since it began.
    pub fn received_bytes(&self) -> u64 {
        self.sources.values().map(|(received, _)| received).sum()
    }
}

impl Plan {
    /// Every file that is on its way, or was used a moment ago, in order of their hashes.
    pub fn fetches(&self) -> Vec<FetchReport> {
        let report = |(content, fetch): (&ContentKey, &super::Fetch)| {
            let received = fetch.received.iter();
            let mut sources: BTreeMap<_, _> =
                received.map(|(node, bytes)| (*node, (*bytes, 0))).collect();
            for (node, asked_bytes) in fetch.asked.ids().filter_map(|id| self.asked(id)) {
                sources.entry(node).or_default().1 += asked_bytes;
            }
            FetchReport {
                hash: content.hash,
                size_bytes: fetch.size_bytes,
                ready_bytes: fetch.have_bytes(),
                waiting: fetch.waits.count(),
                is_filling: fetch.filling.is_some(),
                sources,
            }
        };
        self.fetches.iter().map(report).collect()
    }

    fn asked(&self, id: RequestId) -> Option<(NodeId, u64)> {
        let request = &self.in_flight.get(&id)?.request;
        Some((request.node, request.range.len()))
    }
}
