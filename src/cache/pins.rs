//! The pinned hashes and their file: one hash a line, replaced as a whole and synced, so that a
//! crash at any point leaves the old list or the new one.

use std::collections::BTreeSet;
use std::fs;
use std::io;

use super::disk::{Disk, Reach};
use super::layout::Layout;
use super::{CacheError, PINS_MAX};
use crate::digest::ContentHash;

/// The set of pins, as on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pins {
    hashes: BTreeSet<ContentHash>,
}

impl Pins {
    /// Reads the list; says how many lines of it are no hashes.
    pub(super) fn load(layout: &Layout) -> Result<(Self, usize), CacheError> {
        let path = layout.pins();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(CacheError::io("read", path, error)),
        };
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.lines().take(PINS_MAX);
        let (good, bad): (Vec<_>, Vec<_>) = lines
            .map(str::parse::<ContentHash>)
            .partition(Result::is_ok);
        Ok((
            Self {
                hashes: good.into_iter().flatten().collect(),
            },
            bad.len(),
        ))
    }

    /// The set with the hashes added or taken out.
    pub(super) fn with(&self, hashes: &[ContentHash], pinned: bool) -> Result<Self, CacheError> {
        let mut changed = self.clone();
        for hash in hashes {
            if pinned {
                changed.hashes.insert(*hash);
            } else {
                changed.hashes.remove(hash);
            }
        }
        if changed.hashes.len() > PINS_MAX {
            return Err(CacheError::TooManyPins);
        }
        Ok(changed)
    }

    /// Puts the list on disk.
    pub(super) fn save(&self, layout: &Layout, disk: &Disk) -> Result<(), CacheError> {
        let text: String = self.hashes.iter().map(|hash| format!("{hash}\n")).collect();
        disk.replace(&layout.pins(), text.as_bytes(), Reach::Name)
            .map_err(|error| CacheError::io("write", layout.pins(), error))
    }

    pub(super) fn contains(&self, hash: &ContentHash) -> bool {
        self.hashes.contains(hash)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = ContentHash> + '_ {
        self.hashes.iter().copied()
    }
}
