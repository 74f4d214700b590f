//! Names and what they stand for, from memory.

use std::time::Duration;

use super::FileError;
use crate::catalogue::{Found, Version};
use crate::fs::FileVersion;
use crate::node::Node;
use crate::path::SharedPath;
use crate::wire::native::record::{Kind, Timestamp};

/// Names read from a directory at a time.
const CHILDREN_BATCH: usize = 1000;
/// How often a name that nobody tells of is looked for.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// A name of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its path from the root of the namespace.
    pub path: SharedPath,
    /// A file (with size, hash and executable bit), a directory or a link.
    pub kind: Kind,
    /// Its modification time; of a directory, its newest change.
    pub mtime: Timestamp,
    /// How many of its bytes can be read here without another node; 0 for all but files.
    pub cached_bytes: u64,
}

/// Why a name shows what it shows.
#[derive(Clone, Debug)]
pub struct Why {
    /// Whether the name is listed: some live node can give it.
    pub is_listed: bool,
    /// Every version that is known of, the one that has the name first, each with the rule by
    /// which it stands where it stands.
    pub versions: Vec<Version>,
}

impl Node {
    /// What a path stands for now.
    ///
    /// # Errors
    /// [`FileError::NotFound`].
    pub fn find(&self, path: &SharedPath) -> Result<Listed, FileError> {
        let found = self.found(path)?;
        Ok(self.listed(path.clone(), found))
    }

    /// What a directory lists now, in the order of the names' bytes.
    ///
    /// # Errors
    /// [`FileError::NotFound`], and [`FileError::WrongKind`] for what is no directory.
    pub fn list(&self, dir: &SharedPath) -> Result<Vec<Listed>, FileError> {
        let found = self.found(dir)?;
        if !matches!(found.kind, Kind::Directory) {
            return Err(wrong_kind(dir, &found.kind));
        }
        let view = self.view();
        let (mut listed, mut after) = (Vec::new(), None::<Box<[u8]>>);
        loop {
            let batch = view.children(dir, after.as_deref(), CHILDREN_BATCH);
            let Some(last) = batch.last() else {
                return Ok(listed);
            };
            after = Some(last.name.clone());
            // a name too deep to have a path is listed nowhere
            let named = batch
                .into_iter()
                .filter_map(|child| Some((dir.join(&child.name).ok()?, child.found)));
            listed.extend(named.map(|(path, found)| self.listed(path, found)));
        }
    }

    /// Every version of a name, and which rule decided.
    ///
    /// # Errors
    /// [`FileError::NotFound`] where no node ever shared it.
    pub fn why(&self, path: &SharedPath) -> Result<Why, FileError> {
        let view = self.view();
        let versions = view.versions(path);
        let is_listed = view.lookup(path).is_some();
        if !is_listed && versions.is_empty() {
            return Err(FileError::NotFound { path: path.clone() });
        }
        Ok(Why {
            is_listed,
            versions,
        })
    }

    /// Waits until a path is listed, for as long as the caller does: see `tokio::time::timeout`.
    /// Nothing comes where the node ends before.
    pub async fn wait_for(&self, path: &SharedPath) -> Option<Listed> {
        // followed before the first look, so that no change falls between
        let mut events = self.follow();
        loop {
            if let Ok(listed) = self.find(path) {
                return Some(listed);
            }
            // of a directory without files nothing is told
            match tokio::time::timeout(LOOK_PERIOD, events.next()).await {
                Ok(Some(_)) | Err(_) => {}
                Ok(None) => return None,
            }
        }
    }

    pub(super) fn found(&self, path: &SharedPath) -> Result<Found, FileError> {
        let found = self.view().lookup(path);
        found.ok_or_else(|| FileError::NotFound { path: path.clone() })
    }

    /// The version of a file that its name shows now.
    ///
    /// # Errors
    /// [`FileError::NotFound`], and [`FileError::WrongKind`] for what is no file.
    pub fn version(&self, path: &SharedPath) -> Result<FileVersion, FileError> {
        let found = self.found(path)?;
        let Kind::File {
            hash,
            size_bytes,
            executable,
        } = found.kind
        else {
            return Err(wrong_kind(path, &found.kind));
        };
        Ok(FileVersion {
            path: path.clone(),
            hash,
            size_bytes,
            mtime: found.mtime,
            executable,
            own: found.own,
        })
    }

    fn listed(&self, path: SharedPath, found: Found) -> Listed {
        let cached_bytes = match &found.kind {
            Kind::File { size_bytes, .. } if found.own.is_some() => *size_bytes,
            Kind::File {
                hash, size_bytes, ..
            } => self.here_bytes(hash, *size_bytes),
            Kind::Directory | Kind::Symlink { .. } => 0,
        };
        Listed {
            path,
            kind: found.kind,
            mtime: found.mtime,
            cached_bytes,
        }
    }
}

fn wrong_kind(path: &SharedPath, kind: &Kind) -> FileError {
    let what = match kind {
        Kind::File { .. } => "a file",
        Kind::Directory => "a directory",
        Kind::Symlink { .. } => "a link",
    };
    let path = path.clone();
    FileError::WrongKind { path, what }
}
