//! The pinned hashes and their file: a line each, with what its user calls it, replaced as a whole
//! and synced, so that a crash at any point leaves the old list or the new one.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use data_encoding::BASE64URL_NOPAD;

use super::disk::{Disk, Reach};
use super::layout::Layout;
use super::{CacheError, PINS_MAX};
use crate::digest::ContentHash;

/// The set of pins, as on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pins {
    /// With their labels, empty where they have none.
    hashes: BTreeMap<ContentHash, Box<[u8]>>,
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
        let (good, bad): (Vec<_>, Vec<_>) = lines.map(pin_of_line).partition(Option::is_some);
        Ok((
            Self {
                hashes: good.into_iter().flatten().collect(),
            },
            bad.len(),
        ))
    }

    /// The set with the hashes and their labels added; one that is empty takes none away.
    pub(super) fn with(&self, pins: &[(ContentHash, Box<[u8]>)]) -> Result<Self, CacheError> {
        let mut changed = self.clone();
        for (hash, label) in pins {
            let known = changed.hashes.entry(*hash).or_default();
            if !label.is_empty() {
                known.clone_from(label);
            }
        }
        if changed.hashes.len() > PINS_MAX {
            return Err(CacheError::TooManyPins);
        }
        Ok(changed)
    }

    /// The set with the hashes taken out.
    pub(super) fn without(&self, hashes: &[ContentHash]) -> Self {
        let mut changed = self.clone();
        for hash in hashes {
            changed.hashes.remove(hash);
        }
        changed
    }

    /// Puts the list on disk.
    pub(super) fn save(&self, layout: &Layout, disk: &Disk) -> Result<(), CacheError> {
        let text: String = self.iter().map(line_of_pin).collect();
        disk.replace(&layout.pins(), text.as_bytes(), Reach::Name)
            .map_err(|error| CacheError::io("write", layout.pins(), error))
    }

    pub(super) fn contains(&self, hash: &ContentHash) -> bool {
        self.hashes.contains_key(hash)
    }

    pub(super) fn label(&self, hash: &ContentHash) -> Option<&[u8]> {
        self.hashes.get(hash).map(|label| &**label)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ContentHash, &[u8])> + '_ {
        self.hashes.iter().map(|(hash, label)| (*hash, &**label))
    }
}

fn line_of_pin((hash, label): (ContentHash, &[u8])) -> String {
    match label {
        b"" => format!("{hash}\n"),
        label => format!("{hash} {}\n", BASE64URL_NOPAD.encode(label)),
    }
}

/// A label that cannot be read costs itself alone.
fn pin_of_line(line: &str) -> Option<(ContentHash, Box<[u8]>)> {
    let (hash, label) = line.split_once(' ').unwrap_or((line, ""));
    let label = BASE64URL_NOPAD.decode(label.as_bytes()).unwrap_or_default();
    Some((hash.parse().ok()?, label.into()))
}
