//! Ends of reads of other nodes' versions, and what they show about the authors.
//!
//! The catalogue ranks versions that cannot be had behind others. It receives only the ends that
//! may change this ranking.

use std::sync::Arc;
use std::time::{Duration, Instant};

use p2pfs_catalogue::{NameAuthors, Portion, View, WithheldVersion, Withholding};
use p2pfs_fetch::plan::PlanError;
use p2pfs_fetch::{Supplier, Supply, TransferError};
use p2pfs_proto::wire::native::tcp::BATCH_FILE_MAX_BYTES;
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
        /// Whether all of it is on this node now.
        given: Portion,
        /// The name of the version, if reads of it failed lately.
        path: Option<SharedPath>,
    },
    /// The bytes did not arrive.
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

    /// Returns what the end of a read tells, or `None` if it tells nothing. `supply` returns what
    /// this node has of the content, and the nodes that were asked for it.
    pub fn end_of(
        &self,
        now: Instant,
        outcome: Result<(), &TransferError>,
        view: &View,
        supply: impl FnOnce() -> Supply,
    ) -> Option<ReadEnd> {
        let is_recent = now <= self.opened_at + REFUSALS_COUNT_FOR;
        match outcome {
            Ok(()) => self.served(view, supply),
            Err(TransferError::Plan(PlanError::Unanswered)) => {
                Some(self.withheld(Withholding::Silent, supply))
            }
            Err(TransferError::Plan(PlanError::Gone | PlanError::Refused))
                if is_recent && self.authors.is_some() =>
            {
                Some(self.withheld(Withholding::Refused, supply))
            }
            Err(_) => None,
        }
    }

    /// Returns what the close of the version tells, or `None` if it tells nothing. The last bytes
    /// of a version often arrive as read-ahead, so that no wait of a reader ends with them.
    pub fn closed(&self, view: &View, supply: impl FnOnce() -> Supply) -> Option<ReadEnd> {
        if !self.is_watched(view) {
            return None;
        }
        let supply = supply();
        let givers = givers_of(&supply);
        (supply.is_whole && !givers.is_empty()).then(|| self.given(view, givers, Portion::Whole))
    }

    /// Returns whether the catalogue wants to know that bytes of the version arrived.
    fn is_watched(&self, view: &View) -> bool {
        self.suspect_name(view).is_some() || view.contents().is_unserved(&self.content)
    }

    /// Returns the name of the version if reads of it failed lately.
    fn suspect_name(&self, view: &View) -> Option<&SharedPath> {
        let path = self.authors.as_ref().map(|it| &it.path);
        path.filter(|path| view.is_suspect(path))
    }

    fn served(&self, view: &View, supply: impl FnOnce() -> Supply) -> Option<ReadEnd> {
        if !self.is_watched(view) {
            return None;
        }
        let supply = supply();
        let mut givers = givers_of(&supply);
        let mut is_whole = supply.is_whole;
        if givers.is_empty() {
            // It came in a batch of small files.
            givers.extend(view.contents().only_other_holder(&self.content.hash));
            is_whole |= self.content.size_bytes <= BATCH_FILE_MAX_BYTES;
        }
        let given = if is_whole {
            Portion::Whole
        } else {
            Portion::Part
        };
        Some(self.given(view, givers, given))
    }

    fn given(&self, view: &View, givers: Vec<NodeId>, given: Portion) -> ReadEnd {
        ReadEnd::Served {
            content: self.content,
            givers,
            given,
            path: self.suspect_name(view).cloned(),
        }
    }

    fn withheld(&self, how: Withholding, supply: impl FnOnce() -> Supply) -> ReadEnd {
        let content = self.content;
        let version = self.authors.as_ref().and_then(|name| {
            let kept_back = |it: &Supplier| match how {
                Withholding::Silent => it.left_reader,
                Withholding::Refused => it.received_bytes == 0,
            };
            let asked = supply().suppliers.into_iter().filter(kept_back);
            let authors = asked.map(|it| it.node);
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

/// Returns the nodes that gave bytes.
fn givers_of(supply: &Supply) -> Vec<NodeId> {
    let givers = supply.suppliers.iter().filter(|it| it.received_bytes > 0);
    givers.map(|it| it.node).collect()
}
