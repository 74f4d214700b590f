//! Results of reads of other nodes' versions: failures for the log of events, and ends that show
//! something about the authors.
//!
//! The catalogue ranks versions that cannot be had behind others. It receives only the ends that
//! may change this ranking.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::events::{EventLog, Fetched};
use super::failed_reads::ReadFailure;
use super::published::Outdated;
use p2pfs_catalogue::{NameAuthors, Portion, View, WithheldVersion, Withholding};
use p2pfs_content::{OpenWatch, ReadWatch};
use p2pfs_fetch::plan::PlanError;
use p2pfs_fetch::{Supplier, Supply, TransferError};
use p2pfs_fs::FsError;
use p2pfs_proto::wire::native::tcp::BATCH_FILE_MAX_BYTES;
use p2pfs_transfer::Fetcher;
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

/// Watches the versions that this node opens.
#[derive(Clone)]
pub(super) struct NodeReadWatch(Arc<WatchContext>);

struct WatchContext {
    view: Arc<ArcSwap<View>>,
    events: EventLog,
    fetcher: Fetcher,
    /// Queue to the event loop for the ends of reads that may change the ranking of versions.
    read_ends: mpsc::Sender<ReadEnd>,
    changes: mpsc::Sender<Outdated>,
}

impl NodeReadWatch {
    pub(super) fn new(
        view: Arc<ArcSwap<View>>,
        events: EventLog,
        fetcher: Fetcher,
        read_ends: mpsc::Sender<ReadEnd>,
        changes: mpsc::Sender<Outdated>,
    ) -> Self {
        Self(Arc::new(WatchContext {
            view,
            events,
            fetcher,
            read_ends,
            changes,
        }))
    }
}

impl ReadWatch for NodeReadWatch {
    fn opened(&self, path: &SharedPath, content: ContentKey) -> Arc<dyn OpenWatch> {
        let view = self.0.view.load();
        Arc::new(WatchedOpen {
            context: self.0.clone(),
            path: path.clone(),
            version: WatchedVersion::new(&view, path, content, Instant::now()),
        })
    }
}

struct WatchedOpen {
    context: Arc<WatchContext>,
    /// The path under which the version was opened; the root if it was opened by its hash.
    path: SharedPath,
    version: WatchedVersion,
}

impl OpenWatch for WatchedOpen {
    fn wait_ended(&self, outcome: Result<(), &TransferError>) {
        let (context, view) = (&self.context, self.context.view.load());
        let supply = || context.fetcher.supply(&self.version.content);
        if let Some(end) = self.version.end_of(Instant::now(), outcome, &view, supply) {
            // If the queue is full, the next read reports it.
            let _busy = context.read_ends.try_send(end);
        }
    }

    /// Records the failure, unless the reader itself or the end of the node ended the read.
    fn failed(&self, error: FsError, why: Option<&TransferError>) {
        let Some(failure) = ReadFailure::of(error) else {
            return;
        };
        let ContentKey { hash, size_bytes } = self.version.content;
        let details = match (failure, why) {
            // Only the transfer knows what the disk said.
            (ReadFailure::Disk, Some(why)) => why.to_string(),
            _ => error.to_string(),
        };
        let last_name = || self.context.view.load().contents().last_name_of(&hash);
        let fetched = || Fetched {
            hash,
            size_bytes,
            name: Some(self.path.clone())
                .filter(|path| !path.is_root())
                .or_else(last_name),
        };
        let events = &self.context.events;
        events.record_failed_read(fetched, hash, failure, &details);
    }

    fn closed(&self, is_partial: bool) {
        let (context, content) = (&self.context, &self.version.content);
        if is_partial {
            // The fetched bytes change the file's block count.
            let changed = Outdated::CachedBytes(content.hash);
            let _busy = context.changes.try_send(changed);
        }
        let supply = || context.fetcher.supply(content);
        if let Some(end) = self.version.closed(&context.view.load(), supply) {
            // If the queue is full, the next version that is given whole reports it.
            let _busy = context.read_ends.try_send(end);
        }
    }
}
