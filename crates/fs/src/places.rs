//! Paths of directories and links by their inode numbers.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::inode::{Inode, Name, Node};
use p2pfs_catalogue::View;
use p2pfs_types::path::SharedPath;

/// Index of the directories and links of one view, by number. An index of an earlier view still
/// serves the numbers that it contains. For any other number, the index of the present view
/// replaces it. The index is dropped after the kernel was notified of a change.
#[derive(Default)]
pub(super) struct PathsByNumber(Mutex<Option<NumberedPaths>>);

struct NumberedPaths {
    view: Weak<View>,
    paths: HashMap<u64, SharedPath>,
}

impl PathsByNumber {
    /// Returns the path of the directory or link with a number.
    pub(crate) fn path_of(&self, view: &Arc<View>, ino: u64) -> Option<SharedPath> {
        let mut places = self.0.lock();
        let is_of_now = |known: &NumberedPaths| known.view.as_ptr() == Arc::as_ptr(view);
        let known = places.take_if(|known| !is_of_now(known) && !known.paths.contains_key(&ino));
        drop(known);
        let known = places.get_or_insert_with(|| number_all(view));
        known.paths.get(&ino).cloned()
    }

    /// Drops the index.
    pub(crate) fn forget(&self) {
        *self.0.lock() = None;
    }
}

fn number_all(view: &Arc<View>) -> NumberedPaths {
    let mut paths = HashMap::new();
    view.directories_and_links(|path, target| {
        let node = target.map_or(Node::Directory, Node::Symlink);
        let name = Name::Union(path);
        let number = Inode { name, node };
        let (number, Name::Union(path)) = (number.number(), number.name) else {
            return;
        };
        paths.insert(number, path);
    });
    NumberedPaths {
        view: Arc::downgrade(view),
        paths,
    }
}
