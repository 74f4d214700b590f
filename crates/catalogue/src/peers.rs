//! One node's own files, as `.p2pfs/peers/NAME` shows them: unmerged, and only of live nodes.
//!
//! If several shares of a node have the same path, a directory has the name. Otherwise the file
//! with the lowest share number has it; numbers of sealed shares are the highest. Each other file
//! is listed as `name~shareN.ext`, unless the node shares something of that name.

use std::collections::BTreeMap;

use super::merged::{Merged, NodeState};
use super::orders::DirRef;
use super::row::{Class, DirId, NodeIndex, Row};
use super::rules::conflict_name;
use super::view::{Child, DATING_MAX, Found, View};
use p2pfs_types::path::SharedPath;

/// Queries of the unmerged files of single nodes. [`View::peers`] returns it.
#[derive(Clone, Copy)]
pub struct PeerFiles<'a> {
    pub(super) view: &'a View,
}

impl<'a> PeerFiles<'a> {
    /// Returns the labels of the live nodes with a known name, in ascending order. Nodes of the
    /// same name have different labels.
    pub fn names(self) -> Vec<String> {
        let live = self.named_live();
        let mut names: Vec<String> = live.map(|(_, node)| node.label.to_string()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Returns the object at a path of one live node, or `None` if the node shares none there. The
    /// node's root is always a directory.
    pub fn lookup(self, name: &str, path: &SharedPath) -> Option<Found> {
        let node = self.node_called(name)?;
        let Some(parent) = path.parent() else {
            return Some(self.directory(node, DirId::ROOT, None));
        };
        let dir = self.dir(node, &parent)?;
        let name = path.file_name();
        let plain = self.shared_as(node, dir, name).into_iter().next();
        let shared = plain.or_else(|| self.listing(node, dir).remove(name));
        self.found(node, shared?)
    }

    /// Returns at most `limit` names of one live node's directory after `after`, in ascending
    /// order. Its cost grows with the size of the directory, whatever the limit.
    pub fn children(
        self,
        name: &str,
        dir: &SharedPath,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Vec<Child> {
        let Some(node) = self.node_called(name) else {
            return Vec::new();
        };
        let Some(id) = self.dir(node, dir) else {
            return Vec::new();
        };
        self.listing(node, id)
            .into_iter()
            .filter(|(name, _)| after.is_none_or(|after| name.as_slice() > after))
            .filter_map(|(name, shared)| {
                Some(Child {
                    name: name.into(),
                    found: self.found(node, shared)?,
                })
            })
            .take(limit)
            .collect()
    }

    fn node_called(self, name: &str) -> Option<NodeIndex> {
        self.named_live()
            .filter(|(_, node)| *node.label == *name)
            .min_by_key(|(_, n)| n.id)
            .map(|(i, _)| i)
    }

    fn named_live(self) -> impl Iterator<Item = (NodeIndex, &'a NodeState)> {
        let known = self.view.merged.known();
        known.filter(|(_, node)| node.live && node.name.is_some())
    }

    fn dir(self, node: NodeIndex, path: &SharedPath) -> Option<DirId> {
        path.components().try_fold(DirId::ROOT, |dir, name| {
            self.shared_as(node, dir, name)
                .into_iter()
                .find_map(|shared| match shared {
                    SharedObject::Directory(id, _) => Some(id),
                    SharedObject::File(_) => None,
                })
        })
    }

    /// Returns a node's objects under one name: a directory first, then files by share.
    fn shared_as(self, node: NodeIndex, dir: DirId, name: &[u8]) -> Vec<SharedObject> {
        let here = self.view.merged.dir(dir);
        let rows: Vec<&Row> = here
            .candidates(name)
            .filter(|row| row.author == node)
            .collect();
        let record = rows.iter().find(|row| row.class == Class::Directory);
        let below = here
            .child(name)
            .filter(|id| self.view.merged.dir(*id).has_of(node));
        let id = below.or_else(|| record.and_then(|row| here.child(row.name())));
        let directory = id.map(|id| SharedObject::Directory(id, record.map(|row| (*row).clone())));
        let mut files: Vec<&Row> = rows
            .into_iter()
            .filter(|row| matches!(row.class, Class::File | Class::Symlink))
            .collect();
        files.sort_by_key(|row| row.share);
        directory
            .into_iter()
            .chain(files.into_iter().cloned().map(SharedObject::File))
            .collect()
    }

    /// Returns all objects of a node in a directory, by the name under which they are shown.
    fn listing(self, node: NodeIndex, dir: DirId) -> BTreeMap<Vec<u8>, SharedObject> {
        let mut names: BTreeMap<Vec<u8>, SharedObject> = BTreeMap::new();
        let mut doubles = Vec::new();
        for name in names_of(&self.view.merged, node, dir) {
            let mut shared = self.shared_as(node, dir, name).into_iter();
            if let Some(first) = shared.next() {
                names.insert(name.to_vec(), first);
            }
            doubles.extend(shared);
        }
        for double in doubles {
            let SharedObject::File(row) = &double else {
                continue;
            };
            let label = format!("share{}", self.view.merged.share_of(row).0);
            if let Some(name) = conflict_name(row.name(), &label) {
                names.entry(name).or_insert(double);
            }
        }
        names
    }

    fn found(self, node: NodeIndex, shared: SharedObject) -> Option<Found> {
        match shared {
            SharedObject::File(row) => {
                let is_own = row.author == self.view.merged.me;
                self.view
                    .found_as(&row, is_own.then(|| self.view.place_of(&row)))
            }
            SharedObject::Directory(id, row) => Some(self.directory(node, id, row.as_ref())),
        }
    }

    /// Returns a node's directory. Its time is that of the node's record, or of the merged
    /// directory if the node has none.
    fn directory(self, node: NodeIndex, id: DirId, row: Option<&Row>) -> Found {
        let dir = self.view.merged.dir(id);
        let recorded = |place: &DirRef| {
            let mut rows = dir.candidates(place.name());
            rows.any(|row| row.author == node && row.class == Class::Directory)
        };
        let below = dir.all_dirs();
        let below =
            below.filter(|place| self.view.merged.dir(place.id()).has_of(node) || recorded(place));
        let merged = || self.view.merged.time_of_directory(id, &mut { DATING_MAX });
        let mtime = row.map_or_else(merged, Row::mtime);
        self.view.directory_of(node, mtime, below.count())
    }
}

/// One object that a node shares.
enum SharedObject {
    File(Row),
    Directory(DirId, Option<Row>),
}

/// Returns the names in a directory under which a node shares something, each once.
fn names_of(merged: &Merged, node: NodeIndex, dir: DirId) -> Vec<&[u8]> {
    let here = merged.dir(dir);
    let rows = here.rows();
    let rows = rows
        .filter(|row| row.author == node && row.is_named_object())
        .map(Row::name);
    let dirs = here.all_dirs();
    let dirs = dirs
        .filter(|place| merged.dir(place.id()).has_of(node))
        .map(DirRef::name);
    let mut names: Vec<&[u8]> = rows.chain(dirs).collect();
    names.sort_unstable();
    names.dedup();
    names
}
