//! The mark of a file that was written through the mount: an extended attribute that names the
//! contents which the file replaces at its path.
//!
//! The mount writes it together with the creation of the file. A crash therefore leaves either no
//! file or a marked one, and the scanner of the share lists the file with what it replaces.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;

use crate::digest::ContentHash;

/// Name of the extended attribute.
pub const MARK_NAME: &str = "user.p2pfs.written";
/// Maximum number of contents that one version replaces. The writer names the newest ones.
pub const REPLACES_MAX: usize = 32;
/// Maximum length of an encoded mark in bytes. It fits into the attribute block of ext4 (4 KiB).
pub const MARK_MAX_BYTES: usize = HEAD_BYTES + REPLACES_MAX * HASH_BYTES;

/// First byte of an encoded mark. Another value means an unknown format.
const FORMAT: u8 = 1;
/// Length of an encoded mark without contents in bytes: the format, the seconds and nanoseconds of
/// [`WrittenMark::after`], and the number of contents.
const HEAD_BYTES: usize = 1 + 8 + 4 + 1;
/// Length of a content hash in bytes.
const HASH_BYTES: usize = 32;
/// Nanoseconds in a second.
const SECOND_NS: u32 = 1_000_000_000;

/// A point in time, as in the records of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MarkTime {
    /// Whole seconds since 1970, rounded down.
    pub seconds: i64,
    /// Nanoseconds after the whole second, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// The mark of a file that was written through the mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WrittenMark {
    /// Contents that the file replaces at its path, newest first. Empty for a new name.
    pub replaces: Vec<ContentHash>,
    /// Latest version time at the path when the file was written. The version of the file is later.
    pub after: MarkTime,
}

impl WrittenMark {
    /// Encodes the mark. Contents after the first [`REPLACES_MAX`] are omitted.
    pub fn encode(&self) -> Vec<u8> {
        let replaces = &self.replaces[..self.replaces.len().min(REPLACES_MAX)];
        let mut bytes = Vec::with_capacity(HEAD_BYTES + replaces.len() * HASH_BYTES);
        bytes.push(FORMAT);
        bytes.extend(self.after.seconds.to_le_bytes());
        bytes.extend(self.after.nanoseconds.to_le_bytes());
        bytes.push(replaces.len() as u8);
        for hash in replaces {
            bytes.extend(hash.as_bytes());
        }
        bytes
    }

    /// Decodes a mark. Returns none for anything that [`Self::encode`] does not return.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, hashes) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let (format, head) = head.split_first()?;
        let (seconds, head) = head.split_first_chunk()?;
        let (nanoseconds, count) = head.split_first_chunk()?;
        let after = MarkTime {
            seconds: i64::from_le_bytes(*seconds),
            nanoseconds: u32::from_le_bytes(*nanoseconds),
        };
        let count = usize::from(*count.first()?);
        let (hashes, rest) = hashes.as_chunks::<HASH_BYTES>();
        let is_valid = *format == FORMAT
            && after.nanoseconds < SECOND_NS
            && count <= REPLACES_MAX
            && hashes.len() == count
            && rest.is_empty();
        is_valid.then(|| Self {
            replaces: hashes.iter().copied().map(ContentHash::new).collect(),
            after,
        })
    }
}

/// Returns the mark of an open file. A file without a mark, one on a file system without extended
/// attributes, and one with an attribute that does not decode have none.
///
/// # Errors
/// The error of the system.
pub fn read(file: impl AsFd) -> io::Result<Option<WrittenMark>> {
    // One byte more than a mark has, because the kernel refuses a shorter buffer with ERANGE.
    let mut bytes = [0; MARK_MAX_BYTES + 1];
    match fgetxattr(file, MARK_NAME, bytes.as_mut_slice()) {
        Ok(length) => Ok(WrittenMark::decode(&bytes[..length])),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes the mark of an open file in place of the one that it has.
///
/// # Errors
/// [`io::ErrorKind::Unsupported`] if its file system has no extended attributes of users; otherwise
/// the error of the system.
pub fn write(file: impl AsFd, mark: &WrittenMark) -> io::Result<()> {
    Ok(fsetxattr(
        file,
        MARK_NAME,
        &mark.encode(),
        XattrFlags::empty(),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mark(count: u8, after: MarkTime) -> WrittenMark {
        let replaces = (0..count).map(|number| ContentHash::of(&[number]));
        WrittenMark {
            replaces: replaces.collect(),
            after,
        }
    }

    #[test]
    fn mark_on_a_file_is_read_as_it_was_written() {
        let file = tempfile::tempfile_in(".").unwrap();
        assert_eq!(read(&file).unwrap(), None);
        let times = [(0, 0), (-5, 999_999_999), (i64::MAX, 1)];
        for (count, (seconds, nanoseconds)) in [0, 1, 32].into_iter().zip(times) {
            let after = MarkTime {
                seconds,
                nanoseconds,
            };
            let mark = mark(count, after);
            write(&file, &mark).unwrap();
            assert_eq!(read(&file).unwrap(), Some(mark));
        }
    }

    #[test]
    fn mark_with_too_many_contents_keeps_the_newest() {
        let long = mark(33, MarkTime::default());
        let kept = WrittenMark::decode(&long.encode()).unwrap();
        assert_eq!(kept.replaces, long.replaces[..REPLACES_MAX]);
        assert_eq!(long.encode().len(), MARK_MAX_BYTES);
    }

    #[test]
    fn attribute_that_is_not_a_mark_counts_as_none() {
        let file = tempfile::tempfile_in(".").unwrap();
        let good = mark(2, MarkTime::default()).encode();
        let changed = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            bytes
        };
        let longer = [good.as_slice(), &[0]].concat();
        let far_too_long = vec![FORMAT; MARK_MAX_BYTES + 2];
        for bytes in [
            Vec::new(),
            good[..good.len() - 1].to_vec(),
            longer,
            far_too_long,
            changed(0, 2),
            changed(12, 0xff),
            changed(13, 1),
            changed(13, 33),
        ] {
            fsetxattr(&file, MARK_NAME, &bytes, XattrFlags::empty()).unwrap();
            assert_eq!(read(&file).unwrap(), None, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_what_encodes_to_them_or_to_nothing(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            if let Some(first) = bytes.first_mut() {
                *first = FORMAT;
            }
            if let Some(mark) = WrittenMark::decode(&bytes) {
                prop_assert_eq!(mark.encode(), bytes);
            }
        }
    }
}
