//! Finds inodes that are requested by number alone. A program may have a file handle
//! (open_by_handle_at(2), an NFS server) after the kernel has forgotten the inode. A kernel may
//! also use numbers from a previous process of the mount.
//!
//! The inode of a number is found in the namespace, because a number begins with its type
//! ([`super::inode`]). If it cannot be found, or stands for another version by now, the result is
//! ESTALE. The exception is an inode that was open with the previous process
//! ([`super::inherited`]).

use std::collections::HashSet;

use super::inode::{CONTENT_BITS, Inode, Name, Node, NumberKind};
use super::names::ResolvedName;
use super::namespace::MountNamespace;
use super::traits::FileVersion;
use p2pfs_catalogue::{FileNames, View};
use p2pfs_proto::wire::native::record::ShareIndex;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;

/// Maximum files with the same first hash bits that are examined for one number. The search ends
/// there, so a handle costs little whatever the size of the namespace.
const ALIKE_MAX: usize = 1 << 14;

/// Returns the name and the present node of an inode number.
pub(super) fn recall(namespace: &MountNamespace, ino: u64) -> Option<(Name, ResolvedName)> {
    let view = namespace.view();
    let now = |name: Name| {
        let listed = namespace.resolve(&view, &name)?;
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
        NumberKind::Written => namespace
            .path_of_written(ino)
            .map(Name::Union)
            .and_then(now),
        mark => {
            let listed = namespace.path_of_number(&view, ino);
            let found = listed.or_else(|| namespace.path_of_written(ino));
            let found = found.map(Name::Union);
            let rest = || match mark {
                NumberKind::Directory => hidden_directories(&view),
                _ => other_names(namespace),
            };
            let rest = std::iter::once_with(rest).flatten();
            found.into_iter().chain(rest).find_map(now)
        }
    }
}

/// Returns the names of other inodes: foreign files, and the status.
fn other_names(namespace: &MountNamespace) -> Vec<Name> {
    let foreign = namespace.foreign_names().into_iter();
    let foreign = foreign.filter_map(|name| SharedPath::new(name).ok().map(Name::Union));
    foreign.chain([Name::Status]).collect()
}

/// Returns the name under which a file has this number, if there is one.
fn name_of_file(ino: u64, file: FileNames) -> Option<Name> {
    let hash = file.hash;
    let own = || Some((ShareIndex(0), SharedPath::root()));
    let has_number = |name: &Name, own| {
        let inode = file_inode(name.clone(), hash, own);
        inode.numbers().any(|number| number == ino)
    };
    let is_it = |name: &Name| has_number(name, None) || has_number(name, own());
    names_of_file(file).into_iter().find(is_it)
}

/// Returns the inodes of other nodes' files with a content, under all names that the namespace has
/// for it.
pub(super) fn inodes_of_content(view: &View, hash: &ContentHash) -> Vec<Inode> {
    let files = view.contents().files_like(hash, u32::BITS, ALIKE_MAX);
    let files = files.into_iter().filter(|file| file.hash == *hash);
    let names: HashSet<Name> = files
        .flat_map(names_of_file)
        .chain([Name::Hash(*hash)])
        .collect();
    let inodes = names.into_iter();
    inodes.map(|name| file_inode(name, *hash, None)).collect()
}

fn names_of_file(file: FileNames) -> Vec<Name> {
    let listed = file.listed.map(Name::Union);
    let shared = file
        .shared
        .map(|(node, path)| Name::Peer(node.into(), path));
    let names = listed.into_iter().chain(shared);
    names.chain([Name::Hash(file.hash)]).collect()
}

/// Returns an inode of a file, of which only the number matters.
fn file_inode(name: Name, hash: ContentHash, own: Option<(ShareIndex, SharedPath)>) -> Inode {
    let version = FileVersion {
        path: SharedPath::root(),
        hash,
        size_bytes: 0,
        mtime: Default::default(),
        executable: false,
        own,
    };
    let node = Node::File(version);
    Inode { name, node }
}

fn hidden_directories(view: &View) -> Vec<Name> {
    let peers = view.peers().names().into_iter();
    let peers = peers.map(|peer| Name::Peer(peer.into(), SharedPath::root()));
    let fixed = [Name::Hidden, Name::Hashes, Name::Peers];
    fixed.into_iter().chain(peers).collect()
}
