//! The names of the mount: those of the namespace, and the hidden `.p2pfs` beside them.

use std::borrow::Cow;
#[cfg(test)]
use std::cell::Cell;
use std::time::Duration;

use super::inode::{Name, Node};
use super::traits::FileVersion;
use p2pfs_catalogue::{Child, Found, NameHandle, RecordHandle, View};
use p2pfs_proto::wire::native::record::{Kind, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::{HIDDEN_ROOT, SharedPath, check_name};

/// How long the kernel may cache a name, its absence, or attributes without an invalidation.
/// Changes are reported at once by invalidation, so this only bounds the effect of a lost one.
pub const LIFETIME: Duration = Duration::from_secs(60);
/// The names in `.p2pfs`.
const HIDDEN_NAMES: [&[u8]; 3] = [b"by-hash", b"peers", b"status.json"];
/// The directories in `.p2pfs`.
const HIDDEN_DIRECTORIES: [&[u8]; 2] = [HIDDEN_NAMES[0], HIDDEN_NAMES[1]];
/// Names that are read from the view at once.
const PART_NAMES: usize = 4096;

/// The node of a name, and its modification time.
#[derive(Clone, Debug)]
pub(super) struct ResolvedName {
    pub node: Node,
    pub mtime: Timestamp,
    pub subdirectories: u32,
    /// The catalogue record, if it is a file or link of the namespace.
    pub said: Option<NameRecord>,
}

/// A catalogue record of a name.
#[derive(Clone, Debug)]
pub(super) struct NameRecord {
    pub held: RecordHandle,
    /// Number of the view in which the name stands for it.
    pub view: u64,
}

impl ResolvedName {
    /// Creates a node without a catalogue record and without subdirectories.
    pub(crate) fn new(node: Node, mtime: Timestamp) -> Self {
        Self {
            node,
            mtime,
            subdirectories: 0,
            said: None,
        }
    }

    /// Returns the last known state of an inode, for use when its name stands for another version.
    pub(crate) fn last_known(node: &Node, started: Timestamp) -> Self {
        let mtime = match node {
            Node::File(file) => file.mtime,
            _ => started,
        };
        let mut node = node.clone();
        if let Node::File(file) = &mut node {
            // The own file at that path is another file now.
            file.own = None;
        }
        Self::new(node, mtime)
    }
}

/// Returns the name of a directory's child, if that name is possible.
pub(super) fn child(directory: &Name, name: &[u8]) -> Option<Name> {
    match directory {
        Name::Union(path) if path.is_root() && name == HIDDEN_ROOT => Some(Name::Hidden),
        Name::Union(path) => Some(Name::Union(path.join(name).ok()?)),
        Name::Hidden => match name {
            b"by-hash" => Some(Name::Hashes),
            b"peers" => Some(Name::Peers),
            b"status.json" => Some(Name::Status),
            _ => None,
        },
        Name::Hashes => Some(Name::Hash(std::str::from_utf8(name).ok()?.parse().ok()?)),
        Name::Peers => {
            check_name(name).ok()?;
            Some(Name::Peer(
                std::str::from_utf8(name).ok()?.into(),
                SharedPath::root(),
            ))
        }
        Name::Peer(peer, path) => Some(Name::Peer(peer.clone(), path.join(name).ok()?)),
        Name::Hash(_) | Name::Status => None,
    }
}

/// Returns the parent directory of a name. The parent of the root is the root.
pub(super) fn parent(name: &Name) -> Name {
    let root = || Name::Union(SharedPath::root());
    match name {
        Name::Union(path) => path.parent().map_or_else(root, Name::Union),
        Name::Hidden => root(),
        Name::Status | Name::Hashes | Name::Peers => Name::Hidden,
        Name::Hash(_) => Name::Hashes,
        Name::Peer(peer, path) => match path.parent() {
            Some(above) => Name::Peer(peer.clone(), above),
            None => Name::Peers,
        },
    }
}

/// Returns the last part of a name. It is empty for the root.
pub(super) fn last(name: &Name) -> Cow<'_, [u8]> {
    match name {
        Name::Peer(peer, path) if path.is_root() => Cow::Borrowed(peer.as_bytes()),
        Name::Union(path) | Name::Peer(_, path) => Cow::Borrowed(path.file_name()),
        Name::Hidden => Cow::Borrowed(HIDDEN_ROOT),
        Name::Hashes => Cow::Borrowed(HIDDEN_NAMES[0]),
        Name::Peers => Cow::Borrowed(HIDDEN_NAMES[1]),
        Name::Status => Cow::Borrowed(HIDDEN_NAMES[2]),
        Name::Hash(hash) => Cow::Owned(hash.to_string().into_bytes()),
    }
}

/// Returns the full path of a name from the root of the mount.
pub(super) fn full_path(name: &Name) -> Vec<u8> {
    match name {
        Name::Union(path) => path.as_bytes().to_vec(),
        Name::Hidden => HIDDEN_ROOT.to_vec(),
        _ => [&full_path(&parent(name))[..], b"/", &last(name)].concat(),
    }
}

/// Returns how long the kernel may cache a name. It is 0 for hidden names, because they change
/// without an invalidation.
pub(super) fn lifetime(name: &Name) -> Duration {
    match name {
        Name::Union(_) => LIFETIME,
        _ => Duration::ZERO,
    }
}

/// Returns what a name stands for now.
pub(super) fn resolve(view: &View, name: &Name) -> Option<ResolvedName> {
    let hidden = |node, subdirectories: usize| {
        let mtime = view
            .lookup(&SharedPath::root())
            .map(|root| root.mtime)
            .unwrap_or_default();
        ResolvedName {
            subdirectories: u32::try_from(subdirectories).unwrap_or(u32::MAX),
            ..ResolvedName::new(node, mtime)
        }
    };
    match name {
        Name::Union(path) => view.lookup(path).map(|found| listed(view, path, found)),
        Name::Hidden => Some(hidden(Node::Directory, HIDDEN_DIRECTORIES.len())),
        Name::Peers => Some(hidden(Node::Directory, view.peers().names().len())),
        Name::Hashes => Some(hidden(Node::Directory, 0)),
        Name::Status => Some(hidden(Node::Status, 0)),
        Name::Hash(hash) => by_hash(view, *hash),
        Name::Peer(peer, path) => view
            .peers()
            .lookup(peer, path)
            .map(|found| listed(view, path, found)),
    }
}

/// The object at a path below the hidden directory.
#[derive(Clone, Debug)]
pub enum Hidden {
    /// A file: a content by its hash, or a file of a node.
    File(FileVersion),
    /// A directory.
    Directory,
    /// A file that the mount generates, or a link.
    Other,
    /// No object.
    Nothing,
}

/// Returns the object at a path from the root of the mount, if the path leads below the hidden
/// directory. Returns `None` for other paths.
pub fn hidden(view: &View, path: &[u8]) -> Option<Hidden> {
    let found = hidden_name(path)?.and_then(|name| resolve(view, &name));
    Some(match found.map(|found| found.node) {
        Some(Node::File(file)) => Hidden::File(file),
        Some(Node::Directory) => Hidden::Directory,
        Some(_) => Hidden::Other,
        None => Hidden::Nothing,
    })
}

/// Returns at most `limit` names after `after` in a hidden directory, ascending. `path` begins at
/// the root of the mount. Contents by their hashes and files that the mount generates are not
/// listed.
pub fn hidden_children(view: &View, path: &[u8], after: Option<&[u8]>, limit: usize) -> Vec<Child> {
    let root = SharedPath::root();
    let mut directories: Vec<Child> = match hidden_name(path).flatten() {
        Some(Name::Peer(peer, path)) => {
            return view.peers().children(&peer, &path, after, limit);
        }
        Some(Name::Hidden) => {
            let found = view.lookup(&root).into_iter();
            let both = found.flat_map(|found| HIDDEN_DIRECTORIES.map(|name| (name, found.clone())));
            both.map(|(name, found)| directory(name, found)).collect()
        }
        Some(Name::Peers) => {
            let names = view.peers().names().into_iter();
            let found = |name: String| {
                Some(directory(
                    name.as_bytes(),
                    view.peers().lookup(&name, &root)?,
                ))
            };
            names.filter_map(found).collect()
        }
        _ => Vec::new(),
    };
    directories.retain(|child| after.is_none_or(|after| &*child.name > after));
    directories.truncate(limit);
    directories
}

fn directory(name: &[u8], found: Found) -> Child {
    let name = name.into();
    Child { name, found }
}

/// Returns the name of a path from the root of the mount, if it leads below the hidden directory.
/// The inner value is `None` if the path is impossible there.
fn hidden_name(path: &[u8]) -> Option<Option<Name>> {
    let mut parts = path.split(|byte| *byte == b'/');
    let leads_there = parts.next() == Some(HIDDEN_ROOT);
    leads_there.then(|| parts.try_fold(Name::Hidden, |name, part| child(&name, part)))
}

/// Returns the names in a directory, in no particular order.
pub(super) fn children(view: &View, directory: &Name) -> Vec<NameHandle> {
    match directory {
        Name::Union(path) => view.names(path),
        Name::Peer(peer, path) => {
            in_parts(|after| view.peers().children(peer, path, after, PART_NAMES))
        }
        Name::Hidden => HIDDEN_NAMES
            .map(|name| NameHandle::Other(name.into()))
            .into(),
        Name::Peers => {
            let names = view.peers().names().into_iter();
            names
                .map(|name| NameHandle::Other(name.into_bytes().into()))
                .collect()
        }
        // These are found by name, but are not listed, because there are as many as contents.
        Name::Hashes | Name::Hash(_) | Name::Status => Vec::new(),
    }
}

fn in_parts(part: impl Fn(Option<&[u8]>) -> Vec<Child>) -> Vec<NameHandle> {
    let mut names: Vec<NameHandle> = Vec::new();
    loop {
        let children = part(names.last().map(NameHandle::as_bytes));
        let is_last = children.len() < PART_NAMES;
        names.extend(children.into_iter().map(|child| child.name.into()));
        if is_last {
            return names;
        }
    }
}

/// Converts a catalogue result for a path.
pub(super) fn listed(view: &View, path: &SharedPath, found: Found) -> ResolvedName {
    #[cfg(test)]
    RESOLVED.set(RESOLVED.get() + 1);
    let view = view.number();
    let file = FileVersion::found(path, &found).map(Node::File);
    let node = match found.kind {
        Kind::Symlink { target } => Node::Symlink(target),
        _ => file.unwrap_or(Node::Directory),
    };
    ResolvedName {
        node,
        mtime: found.mtime,
        subdirectories: found.subdirectories,
        said: found.said.map(|held| NameRecord { held, view }),
    }
}

#[cfg(test)]
thread_local! {
    /// Number of names that this thread has resolved.
    pub(super) static RESOLVED: Cell<usize> = const { Cell::new(0) };
}

/// Returns a content by its hash. It has the hash as its name and the time 0.
fn by_hash(view: &View, hash: ContentHash) -> Option<ResolvedName> {
    let content = view.contents().get(&hash)?;
    let mtime = Timestamp::default();
    let file = FileVersion {
        path: SharedPath::new(hash.to_string().into_bytes()).ok()?,
        hash,
        size_bytes: content.size_bytes,
        mtime,
        executable: content.executable,
        own: None,
    };
    Some(ResolvedName::new(Node::File(file), mtime))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn union(path: &str) -> Name {
        Name::Union(SharedPath::new(path.as_bytes()).unwrap())
    }

    #[test]
    fn the_hidden_folder_is_reached_from_the_root_only() {
        assert_eq!(child(&union(""), b".p2pfs"), Some(Name::Hidden));
        assert_eq!(child(&union("a"), b".p2pfs"), Some(union("a/.p2pfs")));
        assert_eq!(child(&Name::Hidden, b"peers"), Some(Name::Peers));
        assert_eq!(child(&Name::Hidden, b"other"), None);
    }

    #[test]
    fn an_invalid_name_has_no_child() {
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0b", &[b'x'; 256]] {
            assert_eq!(child(&union("a"), name), None, "{}", name.escape_ascii());
        }
        assert_eq!(child(&Name::Hashes, b"00ff"), None);
        assert_eq!(child(&Name::Hashes, &[0xff; 64]), None);
        assert!(child(&Name::Hashes, &[b'0'; 64]).is_some());
        assert_eq!(child(&Name::Status, b"x"), None);
    }

    #[test]
    fn each_name_is_the_child_of_its_parent() {
        for (directory, name) in [
            (union(""), &b"a"[..]),
            (union("a/b"), b"c"),
            (union(""), b".p2pfs"),
            (Name::Hidden, b"status.json"),
            (Name::Hidden, b"by-hash"),
            (Name::Hashes, &[b'0'; 64]),
            (Name::Peers, b"lab-1"),
            (child(&Name::Peers, b"lab-1").unwrap(), b"a"),
        ] {
            let last = name;
            let name = child(&directory, name).unwrap();
            assert_eq!(parent(&name), directory, "{name:?}");
            let above = full_path(&directory);
            let slash = if above.is_empty() { &b""[..] } else { b"/" };
            assert_eq!(full_path(&name), [&above, slash, last].concat());
            assert_eq!(&*super::last(&name), last);
        }
        assert_eq!(parent(&union("")), union(""));
    }
}
