//! Requests small files ahead of programs that read directories file by file.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::ahead::{Needs, OpenPredictor, Prediction};
use super::directory::cookie;
use super::inode::{Inode, Name, Node};
use super::inodes::Inodes;
use super::names;
use super::namespace::MountNamespace;
use super::order::{DIRECTORY_MAX_FILES, FileOrders, OrderedFile, SortKey};
use super::traits::WholeFile;
use p2pfs_catalogue::{Child, View};
use p2pfs_proto::wire::native::record::Kind;
use p2pfs_types::extent::CHUNK_BYTES;
use p2pfs_types::path::SharedPath;

/// Maximum size of a file that is requested ahead of its open. The read-ahead of a larger file
/// begins with its first read, and hides most of the round trip.
pub(crate) const AHEAD_FILE_MAX_BYTES: u64 = CHUNK_BYTES;
/// Maximum directories examined for one open or listing, because some may have no small files.
const DIRECTORIES_A_LOOK: usize = 16;

/// Follows the opens and listings of programs.
pub struct OpenFollower {
    namespace: Arc<MountNamespace>,
    inodes: Arc<Inodes>,
    predictor: Mutex<OpenPredictor<SharedPath, WholeFile>>,
}

impl OpenFollower {
    /// Creates a follower that knows no programs.
    pub(super) fn new(namespace: Arc<MountNamespace>, inodes: Arc<Inodes>) -> Self {
        Self {
            namespace,
            inodes,
            predictor: Mutex::new(OpenPredictor::new()),
        }
    }

    /// Records that a program opened an inode, and requests the files that it will probably open
    /// next. Call it only for programs that may read from other nodes with read-ahead
    /// ([`Reach::Everything`](super::handles::Reach::Everything)). This never waits.
    pub fn follow_open(&self, program: u32, ino: u64) {
        let Some(Inode {
            name: Name::Union(path),
            node: Node::File(_),
        }) = self.inodes.get(ino)
        else {
            return;
        };
        if let Some(directory) = path.parent() {
            let (now, name) = (Instant::now(), path.file_name());
            let follow = self.with_predictor(|ahead| ahead.opened(now, program, &directory, name));
            self.request_ahead(program, follow);
        }
    }

    /// Records that a program begins to list a directory, and requests its first files if the
    /// program reads directories in order.
    pub fn follow_listing(&self, program: u32, ino: u64) {
        if let Some(Name::Union(directory)) = self.inodes.get(ino).map(|inode| inode.name) {
            let follow = self.with_predictor(|ahead| ahead.lists(program, &directory));
            self.request_ahead(program, follow);
        }
    }

    fn request_ahead(&self, program: u32, mut follow: Prediction<SharedPath, WholeFile>) {
        for _ in 0..DIRECTORIES_A_LOOK {
            if !follow.ask.is_empty() {
                self.namespace.content.ask_ahead(&follow.ask);
            }
            let Some(needs) = follow.needs else { return };
            let (now, view) = (Instant::now(), self.namespace.view());
            follow = match needs {
                Needs::Order(directory) => {
                    let order = order_of(&view, &directory);
                    self.with_predictor(|ahead| ahead.listed(now, program, &directory, order))
                }
                Needs::After(directory, by) => {
                    let Some(next) = directory_after(&view, &directory, by) else {
                        return;
                    };
                    let order = || order_of(&view, &next);
                    self.with_predictor(|ahead| ahead.comes_next(now, program, &next, order))
                }
            };
        }
    }

    fn with_predictor<R>(
        &self,
        change: impl FnOnce(&mut OpenPredictor<SharedPath, WholeFile>) -> R,
    ) -> R {
        change(&mut self.predictor.lock())
    }
}

/// Returns the children of a directory, or none if there are too many.
fn children_of(view: &View, directory: &SharedPath) -> Vec<Child> {
    let mut children = view.children(directory, None, DIRECTORY_MAX_FILES + 1);
    if children.len() > DIRECTORY_MAX_FILES {
        children.clear();
    }
    children
}

/// Returns the files of a directory that have bytes, in their orders.
fn order_of(view: &View, directory: &SharedPath) -> Arc<FileOrders<WholeFile>> {
    let files = children_of(view, directory)
        .into_iter()
        .filter_map(|child| {
            let path = directory.join(&child.name).ok()?;
            let node = names::listed(view, &path, child.found).node;
            let Node::File(file) = &node else {
                return None;
            };
            let (hash, size_bytes) = (file.hash, file.size_bytes);
            let is_small = file.own.is_none() && size_bytes <= AHEAD_FILE_MAX_BYTES;
            let name = Name::Union(path);
            (size_bytes > 0).then(|| OrderedFile {
                cookie: cookie(&child.name),
                name: child.name,
                number: Inode { name, node }.number(),
                size_bytes,
                ask: is_small.then_some(WholeFile { hash, size_bytes }),
            })
        });
    Arc::new(FileOrders::new(files.collect()))
}

/// Returns the next directory in a walk through a tree after the files of a directory: the first
/// child, else the next sibling, else the next sibling of an ancestor.
fn directory_after(view: &View, directory: &SharedPath, by: SortKey) -> Option<SharedPath> {
    if let Some(first) = directories_in(view, directory, by).into_iter().next() {
        return Some(first);
    }
    let mut left = directory.clone();
    loop {
        let above = left.parent()?;
        let beside = directories_in(view, &above, by);
        let at = beside.iter().position(|path| *path == left)?;
        match beside.into_iter().nth(at + 1) {
            Some(next) => return Some(next),
            None => left = above,
        }
    }
}

fn directories_in(view: &View, directory: &SharedPath, by: SortKey) -> Vec<SharedPath> {
    let children = children_of(view, directory).into_iter();
    let directories = children.filter(|child| matches!(child.found.kind, Kind::Directory));
    let paths = directories.filter_map(|child| directory.join(&child.name).ok());
    let key = |path: &SharedPath| match by {
        SortKey::Name => 0,
        SortKey::Number => number_of(path),
        SortKey::Listing => cookie(path.file_name()),
    };
    let mut paths: Vec<_> = paths.map(|path| (key(&path), path)).collect();
    // Directories with the same key stay in the order of their names.
    paths.sort_by_key(|(key, _)| *key);
    paths.into_iter().map(|(_, path)| path).collect()
}

fn number_of(directory: &SharedPath) -> u64 {
    Inode::directory(Name::Union(directory.clone())).number()
}
