//! Versions that programs deleted or replaced, and how they come back; and versions of other nodes
//! that this node lists in their place.
//!
//! The bytes of a lost version are in one of two places: with the nodes that still list it, whose
//! versions the logs replace or delete, or among the kept files of a writable share of this node.
//! A version that only this node deleted is listed again once the deletion is withdrawn. Any other
//! becomes a new version of this node, which is later than all that there are.

use std::io;
use std::sync::Arc;

use super::changes::{copy_bytes, mark_for, of_disk};
use super::error::FsError;
use super::merged::UpperPlace;
use super::namespace::MountNamespace;
use super::traits::{Content, FileVersion};
use p2pfs_catalogue::{Rule, Version};
use p2pfs_proto::wire::native::record::{Kind, Timestamp};
use p2pfs_types::id::NodeId;
use p2pfs_types::path::SharedPath;
use p2pfs_upper::{FoundKind, KeptFile, MarkTime, WrittenMark};

/// Nanoseconds in a second.
const SECOND_NS: u64 = 1_000_000_000;

/// A version that was deleted or replaced.
#[derive(Clone, Debug)]
pub struct LostVersion {
    /// Its path.
    pub path: SharedPath,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Modification time.
    pub mtime: Timestamp,
    /// When it was deleted or replaced.
    pub lost: Timestamp,
    /// The node that deleted or replaced it. `None` for a kept file of this node.
    pub by: Option<NodeId>,
    /// Whether the path has another version now.
    pub is_replaced: bool,
    bytes: LostBytes,
}

/// Where the bytes of a lost version are.
#[derive(Clone, Debug)]
enum LostBytes {
    /// In a writable share of this node.
    Kept(UpperPlace, KeptFile),
    /// With the nodes that list the version.
    Listed(Version),
}

/// A listed version of another node of which this node has all bytes.
#[derive(Clone, Debug)]
pub struct AdoptableFile {
    /// The path under which it is listed.
    pub path: SharedPath,
    version: Version,
}

/// The listed files of a node that this node can list itself.
#[derive(Clone, Debug, Default)]
pub struct AdoptableFiles {
    /// Those of which this node has all bytes.
    pub whole: Vec<AdoptableFile>,
    /// Number of the others.
    pub missing: usize,
}

/// The lost versions of a namespace.
pub struct LostFiles {
    namespace: MountNamespace,
}

impl LostFiles {
    /// Creates the access to the lost versions of a namespace. It needs no mount.
    pub fn new(content: Arc<dyn Content>) -> Self {
        Self {
            namespace: MountNamespace::new(content),
        }
    }

    /// Returns the lost versions at and below a path in the order of their paths, those of one path
    /// with the last lost one first. Reads the disks of the writable shares.
    pub fn find(&self, top: &SharedPath) -> Vec<LostVersion> {
        let view = self.namespace.content.view();
        let mut lost = self.kept(top);
        for path in view.unlisted_at_and_below(top) {
            let versions = view.versions(&path).into_iter();
            lost.extend(versions.filter_map(|version| lost_version(&path, version)));
        }
        for version in &mut lost {
            version.is_replaced = self.namespace.shows(&version.path);
        }
        lost.sort_by(|a, b| {
            let by_time = |it: &LostVersion| (it.lost, it.bytes.version_time());
            (a.path.cmp(&b.path)).then_with(|| by_time(b).cmp(&by_time(a)))
        });
        lost
    }

    fn kept(&self, top: &SharedPath) -> Vec<LostVersion> {
        let mut lost = Vec::new();
        for folder in self.namespace.folders().iter().flat_map(|it| it.iter()) {
            for file in folder.upper.kept().unwrap_or_default() {
                let mut path = folder.place.clone();
                let joined = file.path.components().try_for_each(|name| {
                    path = path.join(name).ok()?;
                    Some(())
                });
                if joined.is_none() || !(path == *top || path.is_beneath(top)) {
                    continue;
                }
                let at = UpperPlace {
                    folder: folder.clone(),
                    local: file.path.clone(),
                };
                lost.push(LostVersion {
                    path,
                    size_bytes: file.size_bytes,
                    mtime: Timestamp {
                        seconds: file.mtime.0,
                        nanoseconds: file.mtime.1,
                    },
                    lost: time_of(file.time_ns),
                    by: None,
                    is_replaced: false,
                    bytes: LostBytes::Kept(at, file),
                });
            }
        }
        lost
    }

    /// Brings a lost version back: its path stands for it, and what is there now is lost instead.
    /// Waits for the network if the bytes are on other nodes, up to the read deadline without
    /// progress.
    ///
    /// # Errors
    /// [`FsError::ReadOnly`] if no writable share of this node contains the path,
    /// [`FsError::OthersPath`] if another node owns it, [`FsError::Exists`] if a directory is
    /// there, and those of a read of the bytes.
    pub fn restore(&self, lost: &LostVersion) -> Result<(), FsError> {
        let path = &lost.path;
        match &lost.bytes {
            LostBytes::Kept(at, file) => {
                let mark = self.mark(at, path)?;
                at.folder.upper.restore(file, &mark).map_err(of_disk)
            }
            LostBytes::Listed(version) => {
                if self.list_again(path, version)? {
                    return Ok(());
                }
                let at = self.namespace.place_for(path).ok_or(FsError::ReadOnly)?;
                match &version.kind {
                    Kind::File { .. } => {
                        let mark = self.mark(&at, path)?;
                        self.copy(path, version, &at, &mark)
                    }
                    Kind::Symlink { target } => {
                        self.mark(&at, path)?;
                        let upper = &at.folder.upper;
                        let above = upper.make_directories_above(&at.local, None);
                        above.map_err(of_disk)?;
                        if at.find().is_some() {
                            upper.remove(&at.local).map_err(of_disk)?;
                        }
                        let made = upper.make_link(&at.local, target, None);
                        made.map_err(of_disk)
                    }
                    Kind::Directory => Err(FsError::IsADirectory),
                }
            }
        }
    }

    /// Returns the listed files of a node at and below a path.
    pub fn adoptable(&self, node: &NodeId, top: &SharedPath) -> AdoptableFiles {
        let view = self.namespace.content.view();
        let mut found = AdoptableFiles::default();
        view.each_file(top, &mut |path, file| {
            if file.author != *node || file.own.is_some() {
                return;
            }
            let mut versions = view.versions(&path).into_iter();
            let version = versions.find(|it| it.listed_as.as_ref() == Some(&path));
            let Some(version) = version else { return };
            let Some(bytes) = file_version(&path, &version) else {
                return;
            };
            if self.namespace.content.cached_bytes(&bytes) < bytes.size_bytes {
                found.missing += 1;
            } else {
                found.whole.push(AdoptableFile { path, version });
            }
        });
        found
    }

    /// Makes this node list a version of another node under the same name, from a copy in its
    /// writable share. The version replaces what it replaced before.
    ///
    /// # Errors
    /// Those of [`LostFiles::restore`], and [`FsError::Exists`] if this node has another version at
    /// the path.
    pub fn adopt(&self, file: &AdoptableFile) -> Result<(), FsError> {
        let AdoptableFile { path, version } = file;
        let at = self.namespace.place_for(path).ok_or(FsError::ReadOnly)?;
        self.check_place(&at, path)?;
        let time = version.version_time;
        let mark = WrittenMark {
            replaces: version.replaces.clone(),
            after: MarkTime {
                seconds: time.seconds,
                nanoseconds: time.nanoseconds,
            },
        };
        if at.find().is_some() {
            // A file that was adopted a moment ago may not be listed yet.
            let found = at.folder.upper.mark(&at.local).map_err(of_disk)?;
            let is_adopted = found.as_ref() == Some(&mark);
            return if is_adopted {
                Ok(())
            } else {
                Err(FsError::Exists)
            };
        }
        self.copy(path, version, &at, &mark)
    }

    /// Removes kept files that are older or larger than the limits.
    pub fn sweep(&self) {
        for folder in self.namespace.folders().iter().flat_map(|it| it.iter()) {
            folder.upper.sweep_kept();
        }
    }

    /// Withdraws this node's deletion of a version. Returns whether its path stands for it then.
    fn list_again(&self, path: &SharedPath, version: &Version) -> Result<bool, FsError> {
        let content = version.kind.content();
        let view = self.namespace.content.view();
        if !view.deletes(path, &content) {
            return Ok(false);
        }
        let writing = self.namespace.content.writing().ok_or(FsError::ReadOnly)?;
        writing.withdraw_deletion(path, content)?;
        let versions = self.namespace.content.view().versions(path);
        let listed = versions.iter().find(|it| it.has_name);
        Ok(listed.is_some_and(|it| it.kind == version.kind))
    }

    /// Writes the bytes of a version into a new file.
    fn copy(
        &self,
        path: &SharedPath,
        version: &Version,
        at: &UpperPlace,
        mark: &WrittenMark,
    ) -> Result<(), FsError> {
        let Some(file) = file_version(path, version) else {
            return Err(FsError::IsADirectory);
        };
        let mut failure = None;
        let upper = &at.folder.upper;
        self.namespace.take_room(upper, file.size_bytes)?;
        let above = upper.make_directories_above(&at.local, None);
        above.map_err(of_disk)?;
        let copied = upper.replace(&at.local, mark, file.executable, None, |to| {
            copy_bytes(&self.namespace, &file, to).map_err(|error| {
                failure = Some(error);
                io::Error::other("the bytes cannot be copied")
            })
        });
        copied.map_err(|error| failure.unwrap_or_else(|| of_disk(error)))?;
        Ok(())
    }

    /// Returns the mark of a new version at a path, if this node may write there.
    fn mark(&self, at: &UpperPlace, path: &SharedPath) -> Result<WrittenMark, FsError> {
        self.check_place(at, path)?;
        Ok(mark_for(&self.namespace.content.view(), path))
    }

    /// Checks that this node may write at a path.
    fn check_place(&self, at: &UpperPlace, path: &SharedPath) -> Result<(), FsError> {
        let standing = self.namespace.content.view().standing(path);
        if standing.owned_elsewhere || standing.for_readers {
            return Err(FsError::OthersPath);
        }
        if at.find().is_some_and(|it| it.kind == FoundKind::Directory) {
            return Err(FsError::Exists);
        }
        Ok(())
    }
}

impl LostBytes {
    fn version_time(&self) -> Timestamp {
        match self {
            Self::Kept(_, file) => time_of(file.time_ns),
            Self::Listed(version) => version.version_time,
        }
    }
}

fn time_of(time_ns: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(time_ns / SECOND_NS).unwrap_or(i64::MAX),
        nanoseconds: (time_ns % SECOND_NS) as u32,
    }
}

/// Returns a version that the logs replace or delete.
fn lost_version(path: &SharedPath, version: Version) -> Option<LostVersion> {
    let is_lost = matches!(version.rule, Rule::Replaced | Rule::Deleted);
    let by = version.superseded_by.clone().filter(|_| is_lost)?;
    let size_bytes = match version.kind {
        Kind::File { size_bytes, .. } => size_bytes,
        Kind::Symlink { .. } | Kind::Directory => 0,
    };
    Some(LostVersion {
        path: path.clone(),
        size_bytes,
        mtime: version.mtime,
        lost: by.time,
        by: Some(by.author),
        is_replaced: false,
        bytes: LostBytes::Listed(version),
    })
}

fn file_version(path: &SharedPath, version: &Version) -> Option<FileVersion> {
    let Kind::File {
        hash,
        size_bytes,
        executable,
    } = version.kind
    else {
        return None;
    };
    Some(FileVersion {
        path: path.clone(),
        hash,
        size_bytes,
        mtime: version.mtime,
        executable,
        own: None,
    })
}
