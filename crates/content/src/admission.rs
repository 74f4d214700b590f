//! Which node may have a content, and may know that it is here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;

use p2pfs_catalogue::View;
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_share::SharedFor;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::id::NodeId;

/// The readers of each own share that has readers.
pub type OwnReaders = BTreeMap<ShareIndex, BTreeSet<NodeId>>;

/// The state on which the admission depends. Its owner publishes it. Clones share it.
#[derive(Clone)]
pub struct PublishedNames {
    /// The current namespace.
    pub view: Arc<ArcSwap<View>>,
    /// The readers of the own shares, published before any name in these shares is announced.
    pub readers: Arc<ArcSwap<OwnReaders>>,
}

impl PublishedNames {
    /// Creates the state of a node whose shares have no known readers yet.
    pub fn new(view: Arc<View>) -> Self {
        Self {
            view: Arc::new(ArcSwap::new(view)),
            readers: Arc::default(),
        }
    }
}

/// A program that asks for a content.
#[derive(Clone, Copy, Debug)]
pub enum Asker<'a> {
    /// A proven member of the cluster.
    Member(&'a NodeId),
    /// A peer that proves nothing, because its protocol knows no members.
    Stranger,
}

/// Returns whether an asker may have a content. The shares decide first, then the published
/// namespace. Other nodes may learn of a name before the namespace published here lists it. In this
/// time, that namespace alone would give the content of a share with readers to every node.
pub(super) fn admits(
    asker: Asker<'_>,
    hash: &ContentHash,
    shared: SharedFor,
    names: &PublishedNames,
) -> bool {
    let view = names.view.load();
    match (shared, asker) {
        (SharedFor::All, _) => true,
        // A share that gets readers is closed to strangers at once, whatever the namespace lists.
        (SharedFor::ReadersOf(_), Asker::Stranger) => false,
        (SharedFor::ReadersOf(shares), Asker::Member(node)) => {
            let readers = names.readers.load();
            is_reader_of(&shares, &readers, node)
                || (view.contents().is_private(hash) && view.contents().admits(node, hash))
                || is_still_open(&shares, &readers, hash, &view)
        }
        (SharedFor::Nobody, Asker::Member(node)) => view.contents().admits(node, hash),
        (SharedFor::Nobody, Asker::Stranger) => !view.contents().is_private(hash),
    }
}

fn is_reader_of(shares: &BTreeSet<ShareIndex>, readers: &OwnReaders, node: &NodeId) -> bool {
    let mut of_each = shares.iter().filter_map(|share| readers.get(share));
    of_each.any(|readers| readers.contains(node))
}

/// Returns whether the readers of one of the shares are still unknown while the published namespace
/// lists the content as open.
fn is_still_open(
    shares: &BTreeSet<ShareIndex>,
    readers: &OwnReaders,
    hash: &ContentHash,
    view: &View,
) -> bool {
    shares.iter().any(|share| !readers.contains_key(share)) && view.contents().is_open_here(hash)
}
