//! Pinned hashes and their file. The file has one line per pin, with the optional label that the
//! pin was given. It is replaced as a whole and synced, so that a crash leaves either the old or
//! the new list. The first line states the number of pins and the hash of the other lines, so that
//! damage by the disk is detected.

use std::collections::BTreeMap;
use std::io;

use data_encoding::BASE64URL_NOPAD;

use super::disk::{Disk, ReplaceDurability};
use super::layout::Layout;
use super::{CacheError, PINS_MAX};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::{aside, read_own};

/// Prefix of the first line.
const HEAD: &str = "pins ";

/// Set of pins, as stored on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pins {
    /// Labels by hash; a label may be empty.
    hashes: BTreeMap<ContentHash, Box<[u8]>>,
}

impl Pins {
    /// Reads the list. If the file is damaged, uses the readable pins and keeps a copy of the
    /// damaged file. Returns a message about the damage, if any.
    pub(super) fn open(layout: &Layout, disk: &Disk) -> Result<(Self, Option<String>), CacheError> {
        let path = layout.pins();
        let bytes = match read_own(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((Self::default(), None));
            }
            Err(error) => return Err(CacheError::io("read", path, error)),
        };
        let (pins, damage) = Self::read(&bytes);
        let told = damage.map(|damage| {
            let aside = aside(&path);
            let kept = disk.replace(&aside, &bytes, ReplaceDurability::Name);
            let now = if kept.is_ok() && pins.save(layout, disk).is_ok() {
                format!("; the file is now {}", aside.display())
            } else {
                // The next start finds the damaged file unchanged.
                String::new()
            };
            let path = path.display();
            format!(
                "{path} was damaged: {damage}{now}; p2pfs cache ls shows what is pinned: pin what \
                 is missing"
            )
        });
        Ok((pins, told))
    }

    /// Parses a file. Returns its pins and a description of the damage, if any. A file is undamaged
    /// if it equals the encoding of its pins, with or without the first line. Older versions wrote
    /// no first line.
    fn read(bytes: &[u8]) -> (Self, Option<String>) {
        let text = String::from_utf8_lossy(bytes);
        let head = text.lines().next().and_then(|it| it.strip_prefix(HEAD));
        let lines = text.lines().skip(usize::from(head.is_some()));
        let pins = Self {
            hashes: lines.take(PINS_MAX).filter_map(pin_of_line).collect(),
        };
        let is_old = !bytes.is_empty() && pins.lines().as_bytes() == bytes;
        if is_old || pins.text().as_bytes() == bytes {
            return (pins, None);
        }
        let count = pins.hashes.len();
        let said = head.and_then(|head| head.split(' ').next()?.parse().ok());
        let damage = match said {
            _ if bytes.is_empty() => "it is empty".to_owned(),
            Some(said) if count < said => format!("{count} of its {said} pins can be read"),
            _ => format!("{count} pins can be read, perhaps not all as they were"),
        };
        (pins, Some(damage))
    }

    fn lines(&self) -> String {
        self.iter().map(line_of_pin).collect()
    }

    /// Encodes the whole file.
    fn text(&self) -> String {
        let (count, lines) = (self.hashes.len(), self.lines());
        let sum = ContentHash::of(lines.as_bytes());
        format!("{HEAD}{count} {sum}\n{lines}")
    }

    /// Returns the set with the hashes and labels added. An empty label leaves the existing one.
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

    /// Returns the set without the hashes.
    pub(super) fn without(&self, hashes: &[ContentHash]) -> Self {
        let mut changed = self.clone();
        for hash in hashes {
            changed.hashes.remove(hash);
        }
        changed
    }

    /// Writes the list to disk.
    pub(super) fn save(&self, layout: &Layout, disk: &Disk) -> Result<(), CacheError> {
        disk.replace(
            &layout.pins(),
            self.text().as_bytes(),
            ReplaceDurability::Name,
        )
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

/// Parses a line. An unreadable label is dropped, and its pin is kept.
fn pin_of_line(line: &str) -> Option<(ContentHash, Box<[u8]>)> {
    let (hash, label) = line.split_once(' ').unwrap_or((line, ""));
    let label = BASE64URL_NOPAD.decode(label.as_bytes()).unwrap_or_default();
    Some((hash.parse().ok()?, label.into()))
}
