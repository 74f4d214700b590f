//! Reports for users about fetches and their peers.

use std::collections::BTreeMap;

use super::fetch::FileFetch;
use super::{Plan, RequestId};
use p2pfs_types::digest::{ContentHash, ContentKey};
use p2pfs_types::id::NodeId;

/// State of an open file: it is being fetched, or was used recently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchReport {
    /// Hash of the content.
    pub hash: ContentHash,
    /// Size of the content.
    pub size_bytes: u64,
    /// Verified bytes on this node.
    pub ready_bytes: u64,
    /// Number of waiting readers.
    pub waiting: usize,
    /// Whether the whole file is wanted.
    pub is_filling: bool,
    /// Peers that gave some of it or have open requests for it.
    pub sources: BTreeMap<NodeId, SourceReport>,
}

/// Contribution of one node to a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceReport {
    /// Bytes received from it since the fetch began.
    pub received_bytes: u64,
    /// Bytes requested from it and not answered yet.
    pub asked_bytes: u64,
}

impl FetchReport {
    /// Returns all open files, in order of their hashes.
    pub fn of_all(plan: &Plan) -> Vec<FetchReport> {
        let state = &plan.state;
        let asked = |id: RequestId| {
            let request = &state.requests.get(id)?.request;
            Some((request.node, request.range.len()))
        };
        let report = |(content, fetch): (&ContentKey, &FileFetch)| {
            let received = fetch.suppliers.received().map(|(node, received_bytes)| {
                let asked_bytes = 0;
                (
                    node,
                    SourceReport {
                        received_bytes,
                        asked_bytes,
                    },
                )
            });
            let mut sources: BTreeMap<_, _> = received.collect();
            for (node, asked_bytes) in fetch.asked.ids().filter_map(asked) {
                sources.entry(node).or_default().asked_bytes += asked_bytes;
            }
            FetchReport {
                hash: content.hash,
                size_bytes: fetch.size_bytes,
                ready_bytes: fetch.presence.bytes(),
                waiting: fetch.readers.count(),
                is_filling: fetch.filling().is_some(),
                sources,
            }
        };
        state.files.iter().map(report).collect()
    }

    /// Returns whether readers or a fill wait for it, or requests are open.
    pub fn is_wanted(&self) -> bool {
        let mut sources = self.sources.values();
        self.waiting > 0 || self.is_filling || sources.any(|it| it.asked_bytes > 0)
    }

    /// Returns the bytes received since the fetch began.
    pub fn received_bytes(&self) -> u64 {
        self.sources.values().map(|it| it.received_bytes).sum()
    }
}
