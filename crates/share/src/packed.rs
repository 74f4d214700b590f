//! The packed form of a file in the tree: 68 bytes for each shared name.
//!
//! An identity that does not fit (a date before 1970 or after 2513, a size from 256 TiB on, a disk
//! after the first 255) is stored unpacked in [`Packing`].

use std::collections::BTreeMap;

use super::identity::FileIdentity;
use p2pfs_proto::wire::native::record::Timestamp;
use p2pfs_types::digest::ContentHash;

const SIZE_BYTES: usize = 6;
/// Value of [`PackedFile::device`] that marks a file with an unpacked identity.
const WHOLE: u8 = u8::MAX;

/// A regular file. Until it is listed, only `listed` is meaningful. The tree stores it packed, and
/// stores its version time separately if that differs from its mtime.
#[derive(Clone, Copy)]
pub(super) struct FileBody {
    /// Identity of the listed version.
    pub(super) identity: FileIdentity,
    pub(super) hash: ContentHash,
    pub(super) executable: bool,
    pub(super) listed: bool,
    /// Whether, since it was listed, no report said that the file may have been written or that the
    /// name may lead to another file.
    pub(super) witnessed: bool,
}

impl FileBody {
    /// Returns a file that waits to be hashed.
    pub(super) fn unlisted() -> Self {
        Self {
            identity: FileIdentity::default(),
            hash: ContentHash::new([0; 32]),
            executable: false,
            listed: false,
            witnessed: false,
        }
    }
}

/// A [`FileBody`] as packed by [`Packing`].
#[repr(C, packed(4))]
#[derive(Clone, Copy)]
pub(super) struct PackedFile {
    ino: u64,
    mtime: u64,
    ctime: u64,
    hash: [u8; 32],
    size_bytes: [u8; SIZE_BYTES],
    /// Index in [`Packing::devices`], or [`WHOLE`].
    device: u8,
    executable: bool,
    pub(super) listed: bool,
    /// As in [`FileBody`].
    pub(super) witnessed: bool,
}

impl PackedFile {
    /// Returns a file that waits to be hashed.
    pub(super) const fn unlisted() -> Self {
        Self {
            ino: 0,
            mtime: 0,
            ctime: 0,
            hash: [0; 32],
            size_bytes: [0; SIZE_BYTES],
            device: WHOLE,
            executable: false,
            listed: false,
            witnessed: false,
        }
    }
}

/// Data shared by all packed files.
#[derive(Default)]
pub(super) struct Packing {
    devices: Vec<u64>,
    /// Identities that do not fit the packed form, by slot number.
    whole: BTreeMap<u32, FileIdentity>,
}

impl Packing {
    pub(super) fn pack(&mut self, place: u32, file: &FileBody) -> PackedFile {
        let mut packed = PackedFile {
            hash: *file.hash.as_bytes(),
            executable: file.executable,
            listed: file.listed,
            witnessed: file.witnessed,
            ..PackedFile::unlisted()
        };
        if self.pack_identity(&file.identity, &mut packed).is_some() {
            self.whole.remove(&place);
        } else {
            packed.device = WHOLE;
            self.whole.insert(place, file.identity);
        }
        packed
    }

    pub(super) fn unpack(&self, place: u32, file: &PackedFile) -> FileBody {
        FileBody {
            identity: self.identity(place, file),
            hash: ContentHash::new(file.hash),
            executable: file.executable,
            listed: file.listed,
            witnessed: file.witnessed,
        }
    }

    /// Returns the identity of a packed file.
    pub(super) fn identity(&self, place: u32, file: &PackedFile) -> FileIdentity {
        let Some(dev) = self.devices.get(usize::from(file.device)) else {
            return self.whole.get(&place).copied().unwrap_or_default();
        };
        let [a, b, c, d, e, f] = file.size_bytes;
        FileIdentity {
            dev: *dev,
            ino: file.ino,
            size_bytes: u64::from_le_bytes([a, b, c, d, e, f, 0, 0]),
            mtime: Timestamp::unpacked(file.mtime).into(),
            ctime: Timestamp::unpacked(file.ctime).into(),
        }
    }

    /// Forgets a slot that no longer stands for a file.
    pub(super) fn forget(&mut self, place: u32) {
        self.whole.remove(&place);
    }

    fn pack_identity(&mut self, identity: &FileIdentity, packed: &mut PackedFile) -> Option<()> {
        let FileIdentity {
            dev,
            ino,
            size_bytes,
            mtime,
            ctime,
        } = *identity;
        let [a, b, c, d, e, f, 0, 0] = size_bytes.to_le_bytes() else {
            return None;
        };
        packed.size_bytes = [a, b, c, d, e, f];
        packed.ino = ino;
        packed.mtime = Timestamp::from(mtime).packed()?;
        packed.ctime = Timestamp::from(ctime).packed()?;
        packed.device = self.number_of(dev)?;
        Some(())
    }

    fn number_of(&mut self, dev: u64) -> Option<u8> {
        let known = self.devices.iter().position(|known| *known == dev);
        let number = u8::try_from(known.unwrap_or(self.devices.len())).ok();
        let number = number.filter(|number| *number != WHOLE)?;
        if known.is_none() {
            self.devices.push(dev);
        }
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::FileTimestamp;
    use super::*;

    fn file(identity: FileIdentity) -> FileBody {
        FileBody {
            identity,
            hash: ContentHash::of(b"x"),
            executable: true,
            listed: true,
            witnessed: true,
        }
    }

    #[test]
    fn a_file_round_trips_with_any_date_and_place() {
        let place = 7;
        let mut packing = Packing::default();
        let times = [
            FileTimestamp::default(),
            FileTimestamp::new(1_700_000_000, 999_999_999),
            FileTimestamp::new((1 << 34) - 1, 0),
            FileTimestamp::new(1 << 34, 0),
            FileTimestamp::new(-1, 5),
            FileTimestamp::new(i64::MIN, 0),
        ];
        let sizes = [0, 1, (1 << 48) - 1, 1 << 48, u64::MAX];
        for (mtime, ctime) in times
            .iter()
            .flat_map(|a| times.iter().map(move |b| (*a, *b)))
        {
            for (at, size_bytes) in sizes.into_iter().enumerate() {
                let identity = FileIdentity {
                    dev: at as u64,
                    ino: u64::MAX - at as u64,
                    size_bytes,
                    mtime,
                    ctime,
                };
                let packed = packing.pack(place, &file(identity));
                let back = packing.unpack(place, &packed);
                assert_eq!(back.identity, identity);
                assert_eq!(back.hash, ContentHash::of(b"x"));
                assert!(back.executable && back.listed && back.witnessed);
            }
        }
    }

    #[test]
    fn disks_beyond_the_numbered_ones_are_distinguished() {
        let mut packing = Packing::default();
        let on = |dev| FileIdentity {
            dev,
            ino: 7,
            ..FileIdentity::default()
        };
        let packed: Vec<PackedFile> = (0..1000)
            .map(|place| packing.pack(place, &file(on(place.into()))))
            .collect();
        for (place, packed) in (0..).zip(&packed) {
            assert_eq!(packing.identity(place, packed), on(place.into()));
        }
        assert_eq!(packing.whole.len(), 1000 - usize::from(WHOLE));
        (0..1000).for_each(|place| packing.forget(place));
        assert!(packing.whole.is_empty());
    }
}
