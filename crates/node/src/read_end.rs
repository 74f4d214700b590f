//! Ends of reads of other nodes' versions, and what they show about the authors.
//!
//! The catalogue ranks versions that cannot be had behind others. It receives only the ends that
//! may change this ranking.

use std::sync::Arc;
use std::time::{Duration, Instant};

use p2pfs_catalogue::{NameAuthors, View, WithheldVersion, Withholding};
use p2pfs_fetch::TransferError;
use p2pfs_fetch::plan::PlanError;
use p2pfs_types::digest::ContentKey;
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;

/// How long after the open of a version a refusal of it counts. An honest node serves a small file
/// for this time after it was replaced. A reader that keeps a version open for longer learns nothing
/// from a refusal.
const REFUSALS_COUNT_FOR: Duration = Duration::from_secs(60);

/// End of a reader's wait for bytes of another node's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// Verified bytes arrived.
    Served {
        /// The content of the version.
        content: ContentKey,
        /// Nodes that gave bytes of it.
        givers: Vec<NodeId>,
        /// The name of the version, if reads of it failed lately.
        path: Option<SharedPath>,
    },
    /// No byte arrived.
    Withheld {
        /// The content of the version.
        content: ContentKey,
        /// How the nodes that were asked kept it from the reader.
        how: Withholding,
        /// The version, if its name has versions of several authors.
        version: Option<WithheldVersion>,
    },
}

/// An open version whose reads are watched.
#[derive(Clone, Debug)]
pub struct WatchedVersion {
    content: ContentKey,
    opened_at: Instant,
    /// Authors of the versions of its name at the open, if they are several.
    authors: Option<Arc<NameAuthors>>,
}

impl WatchedVersion {
    /// Creates the watch of a version that is opened under a path.
    pub fn new(view: &View, path: &SharedPath, content: ContentKey, now: Instant) -> Self {
        Self {
            content,
            opened_at: now,
            authors: view.authors_of(path, &content.hash).map(Arc::new),
        }
    }

    /// Returns what the end of a read tells, or `None` if it tells nothing. `received` returns the
    /// nodes that were asked for the content, with the number of bytes that each of them gave.
    pub fn end_of(
        &self,
        now: Instant,
        outcome: Result<(), &TransferError>,
        view: &View,
        received: impl FnOnce() -> Vec<(NodeId, u64)>,
    ) -> Option<ReadEnd> {
        let is_recent = now <= self.opened_at + REFUSALS_COUNT_FOR;
        match outcome {
            Ok(()) => self.served(view, received),
            Err(TransferError::Plan(PlanError::Unanswered)) => {
                Some(self.withheld(Withholding::Silent, received))
            }
            Err(TransferError::Plan(PlanError::Gone | PlanError::Refused))
                if is_recent && self.authors.is_some() =>
            {
                Some(self.withheld(Withholding::Refused, received))
            }
            Err(_) => None,
        }
    }

    fn served(
        &self,
        view: &View,
        received: impl FnOnce() -> Vec<(NodeId, u64)>,
    ) -> Option<ReadEnd> {
        let content = self.content;
        let path = self.authors.as_ref().map(|it| &it.path);
        let suspect = path.filter(|path| view.is_suspect(path));
        if suspect.is_none() && !view.contents().is_unserved(&content) {
            return None;
        }
        let given = received().into_iter().filter(|(_, bytes)| *bytes > 0);
        let mut givers: Vec<NodeId> = given.map(|(node, _)| node).collect();
        if givers.is_empty() {
            // It came in a batch of small files.
            givers.extend(view.contents().only_other_holder(&content.hash));
        }
        Some(ReadEnd::Served {
            content,
            givers,
            path: suspect.cloned(),
        })
    }

    fn withheld(&self, how: Withholding, received: impl FnOnce() -> Vec<(NodeId, u64)>) -> ReadEnd {
        let content = self.content;
        let version = self.authors.as_ref().and_then(|name| {
            let gave_nothing = received().into_iter().filter(|(_, bytes)| *bytes == 0);
            let authors = gave_nothing.map(|(node, _)| node);
            let authors: Vec<_> = authors.filter(|it| name.authors.contains(it)).collect();
            let path = name.path.clone();
            (!authors.is_empty()).then_some(WithheldVersion {
                path,
                hash: content.hash,
                authors,
                how,
            })
        });
        ReadEnd::Withheld {
            content,
            how,
            version,
        }
    }
}
