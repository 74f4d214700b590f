//! Sets of different contents beneath a name.

use std::collections::BTreeMap;

use super::FileError;
use p2pfs_catalogue::{Found, View};
use p2pfs_fs::hidden_children;
use p2pfs_proto::wire::native::record::Kind;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;

/// Maximum number of different contents that one call collects from directories. With more, the
/// call fails with [`FileError::TooMany`].
pub const FILES_MAX: usize = 1_000_000;
/// Number of names read from a directory at once.
const CHILDREN_BATCH: usize = 1000;

/// Different contents, each with its size in bytes and one of its names.
pub type Contents = BTreeMap<ContentHash, (u64, SharedPath)>;

/// Returns the path within the namespace that a path below `.p2pfs/peers/NAME` shows.
pub(super) fn within_peer(path: &[u8]) -> Option<SharedPath> {
    let within = path.splitn(4, |byte| *byte == b'/').nth(3)?;
    SharedPath::new(within).ok()
}

pub(super) fn collect_hidden(
    view: &View,
    dir: &[u8],
    contents: &mut Contents,
) -> Result<(), FileError> {
    for child in hidden_children(view, dir, None, usize::MAX) {
        let path = [dir, b"/", &child.name].concat();
        match child.found.kind {
            Kind::File {
                hash, size_bytes, ..
            } => {
                let name = within_peer(&path).unwrap_or_else(SharedPath::root);
                contents.insert(hash, (size_bytes, name));
            }
            Kind::Directory => collect_hidden(view, &path, contents)?,
            Kind::Symlink { .. } => {}
        }
    }
    if contents.len() > FILES_MAX {
        Err(FileError::TooMany)
    } else {
        Ok(())
    }
}

pub(super) fn collect(
    view: &View,
    path: SharedPath,
    found: &Found,
    contents: &mut Contents,
) -> Result<(), FileError> {
    match &found.kind {
        Kind::File {
            hash, size_bytes, ..
        } => {
            contents.insert(*hash, (*size_bytes, path));
        }
        Kind::Symlink { .. } => {}
        Kind::Directory => {
            let mut after: Option<Box<[u8]>> = None;
            loop {
                let batch = view.children(&path, after.as_deref(), CHILDREN_BATCH);
                let Some(last) = batch.last() else { break };
                after = Some(last.name.clone());
                for child in &batch {
                    if let Ok(below) = path.join(&child.name) {
                        collect(view, below, &child.found, contents)?;
                    }
                }
            }
        }
    }
    if contents.len() > FILES_MAX {
        return Err(FileError::TooMany);
    }
    Ok(())
}
