//! The pinned hashes and their file: a line each, with what its user calls it, replaced as a whole
//! and synced, so that a crash at any point leaves the old list or the new one. Its first line has
//! how many there are and what they hash to, so that what the disk loses of it is noticed.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use data_encoding::BASE64URL_NOPAD;

use super::disk::{Disk, Reach};
use super::layout::Layout;
use super::{CacheError, PINS_MAX};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::files::aside;

/// How the first line begins.
const HEAD: &str = "pins ";

/// The set of pins, as on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pins {
    /// With their labels, empty where they have none.
    hashes: BTreeMap<ContentHash, Box<[u8]>>,
}

impl Pins {
    /// Reads the list. Of one that is damaged what can be read holds from now on, and the file is
    /// kept beside; gives what is to be told of that.
    pub(super) fn open(layout: &Layout, disk: &Disk) -> Result<(Self, Option<String>), CacheError> {
        let path = layout.pins();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((Self::default(), None));
            }
            Err(error) => return Err(CacheError::io("read", path, error)),
        };
        let (pins, damage) = Self::read(&bytes);
        let told = damage.map(|damage| {
            let aside = aside(&path);
            let kept = disk.replace(&aside, &bytes, Reach::Name);
            let now = if kept.is_ok() && pins.save(layout, disk).is_ok() {
                format!("; the file is now {}", aside.display())
            } else {
                // the next start finds the file as this one did
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

    /// What a file holds, and what is wrong with it: what is whole is as it would be written, or
    /// as it was before there were first lines.
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

    /// The whole file.
    fn text(&self) -> String {
        let (count, lines) = (self.hashes.len(), self.lines());
        let sum = ContentHash::of(lines.as_bytes());
        format!("{HEAD}{count} {sum}\n{lines}")
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
        disk.replace(&layout.pins(), self.text().as_bytes(), Reach::Name)
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
