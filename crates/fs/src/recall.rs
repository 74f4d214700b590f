//! Finds inodes that are requested by number alone. A program may have a file handle
//! (open_by_handle_at(2), an NFS server) after the kernel has forgotten the inode. A kernel may
//! also use numbers from a previous process of the mount.
//!
//! The inode of a number is found in the namespace, because a number begins with its type
//! ([`super::inode`]). If it cannot be found, or stands for another version by now, the result is
//! ESTALE. The exception is an inode that was open with the previous process
//! ([`super::inherited`]).

use super::attributes::Entry;
use super::error::FsError;
use super::filesystem::Filesystem;
use super::inode::{CONTENT_BITS, Inode, Name, Node, NumberKind};
use super::names::{self, ResolvedName};
use super::traits::FileVersion;
use p2pfs_catalogue::{FileNames, View};
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_types::path::SharedPath;

/// Maximum files with the same first hash bits that are examined for one number. The search ends
/// there, so a handle costs little whatever the size of the namespace.
const ALIKE_MAX: usize = 1 << 14;

impl Filesystem {
    /// Looks up `.` of an inode: the inode itself, in its present state.
    pub(super) fn lookup_itself(&self, ino: u64) -> Result<Entry, FsError> {
        let (name, listed) = match self.inodes.get(ino) {
            None => self.recall(ino).ok_or(FsError::Gone)?,
            Some(inode) => {
                let now = self.resolve(&self.view(), &inode.name);
                let now = now.filter(|now| inode.is_version(&now.node));
                (inode.name, now.ok_or(FsError::Gone)?)
            }
        };
        self.enter_as(ino, name, listed)
    }

    /// Looks up `..` of a directory.
    pub(super) fn lookup_above(&self, ino: u64) -> Result<Entry, FsError> {
        let name = names::parent(&self.inode(ino)?.name);
        let listed = self.resolve(&self.view(), &name);
        Ok(self.enter(None, name, listed.ok_or(FsError::Gone)?))
    }

    /// Adds an inode that the kernel uses and that is not in the table, because the kernel looked
    /// it up with a previous process. It counts as looked up once.
    pub(super) fn adopt(&self, ino: u64) -> Result<Inode, FsError> {
        let (name, listed) = self.recall(ino).ok_or(FsError::Gone)?;
        let node = listed.node.clone();
        self.enter_as(ino, name.clone(), listed)?;
        Ok(Inode { name, node })
    }

    /// Drops the index of directories and links.
    pub(super) fn forget_places(&self) {
        self.places.forget();
    }

    fn enter_as(&self, ino: u64, name: Name, listed: ResolvedName) -> Result<Entry, FsError> {
        let entry = self.enter(None, name, listed);
        if entry.attributes.ino == ino {
            return Ok(entry);
        }
        self.forget(entry.attributes.ino, 1);
        Err(FsError::Gone)
    }

    /// Returns the name and the present node of a number.
    fn recall(&self, ino: u64) -> Option<(Name, ResolvedName)> {
        let view = self.view();
        let now = |name: Name| {
            let listed = self.resolve(&view, &name)?;
            let node = listed.node.clone();
            let inode = Inode { name, node };
            let is_it = inode.numbers().any(|number| number == ino);
            is_it.then_some((inode.name, listed))
        };
        match NumberKind::of(ino) {
            NumberKind::File(start) => {
                let alike = view.contents().files_like(&start, CONTENT_BITS, ALIKE_MAX);
                let names = alike.into_iter().filter_map(|file| name_of_file(ino, file));
                names.into_iter().find_map(now)
            }
            mark => {
                let found = self.places.path_of(&view, ino).map(Name::Union);
                let rest = || match mark {
                    NumberKind::Directory => hidden_directories(&view),
                    _ => self.other_names(),
                };
                let rest = std::iter::once_with(rest).flatten();
                found.into_iter().chain(rest).find_map(now)
            }
        }
    }

    /// Returns the names of other inodes: foreign files, and the status.
    fn other_names(&self) -> Vec<Name> {
        let foreign = self.foreign_names().into_iter();
        let foreign = foreign.filter_map(|name| SharedPath::new(name).ok().map(Name::Union));
        foreign.chain([Name::Status]).collect()
    }
}

/// Returns the name under which a file has this number, if there is one.
fn name_of_file(ino: u64, file: FileNames) -> Option<Name> {
    let FileNames {
        hash,
        listed,
        shared,
    } = file;
    let own_or_not = |name: &Name, own| {
        let version = FileVersion {
            path: SharedPath::root(),
            hash,
            size_bytes: 0,
            mtime: Default::default(),
            executable: false,
            own,
        };
        let inode = Inode {
            name: name.clone(),
            node: Node::File(version),
        };
        inode.numbers().any(|number| number == ino)
    };
    let own = || Some((ShareIndex(0), SharedPath::root()));
    let is_it = |name: &Name| own_or_not(name, None) || own_or_not(name, own());
    let listed = listed.map(Name::Union);
    let shared = shared.map(|(node, path)| Name::Peer(node.into(), path));
    let mut names = listed.into_iter().chain(shared).chain([Name::Hash(hash)]);
    names.find(is_it)
}

fn hidden_directories(view: &View) -> Vec<Name> {
    let peers = view.peers().names().into_iter();
    let peers = peers.map(|peer| Name::Peer(peer.into(), SharedPath::root()));
    let fixed = [Name::Hidden, Name::Hashes, Name::Peers];
    fixed.into_iter().chain(peers).collect()
}
