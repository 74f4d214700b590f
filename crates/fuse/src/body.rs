//! Bodies of the answers that the device writes itself (include/uapi/linux/fuse.h, 7.40).

use std::time::Duration;

use super::abi::{DIRENT_BYTES, ENTRY_OUT_BYTES};
use p2pfs_fs::{Attributes, Caching, DirectoryEntry, FileKind, OpenReply};

/// Preferred read size reported to programs.
const READ_BLOCK_BYTES: u32 = 4096;
/// Flags of an answer to OPEN (`FOPEN_…`).
const DIRECT_IO: u32 = 1;
const KEEP_CACHE: u32 = 1 << 1;
const PASSTHROUGH: u32 = 1 << 7;
/// Size of `struct fuse_attr_out`, the longest body of an answer that is given later.
pub(super) const ATTR_OUT_BYTES: usize = 104;

/// Body of an answer, written field by field into a buffer.
pub(super) struct AnswerBody<'a> {
    room: &'a mut [u8],
    length: usize,
}

impl<'a> AnswerBody<'a> {
    /// Creates an empty body.
    pub(crate) fn new(room: &'a mut [u8]) -> Self {
        Self { room, length: 0 }
    }

    /// Returns the length in bytes.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Limits the length to `bytes_max`.
    pub(crate) fn bound(&mut self, bytes_max: usize) {
        let room = std::mem::take(&mut self.room);
        let length = bytes_max.min(room.len());
        self.room = &mut room[..length];
    }

    /// Appends a `struct fuse_entry_out`.
    pub(crate) fn put_entry(&mut self, attributes: &Attributes, lifetime: Duration) {
        // Inode numbers are never reused, so the generation is constant.
        self.put_u64s([
            attributes.ino,
            0,
            lifetime.as_secs(),
            attributes.lifetime.as_secs(),
        ]);
        self.put_u32s([lifetime, attributes.lifetime].map(|it| it.subsec_nanos()));
        self.put_stat(attributes);
    }

    /// Appends a `struct fuse_entry_out` without an inode: the name does not exist, and the kernel
    /// may cache that.
    pub(crate) fn put_absence(&mut self, lifetime: Duration) {
        self.put_u64s([0, 0, lifetime.as_secs(), 0]);
        self.put_u32s([lifetime.subsec_nanos()]);
        self.fill(ENTRY_OUT_BYTES);
    }

    /// Appends a `struct fuse_dirent`, one name of a listing. Returns `false` and appends nothing
    /// if it does not fit.
    pub(crate) fn put_name(&mut self, entry: &DirectoryEntry<'_>) -> bool {
        let fits = self.fits(DIRENT_BYTES + entry.name.len());
        if fits {
            self.put_dirent(entry);
        }
        fits
    }

    /// Appends a `struct fuse_direntplus`: a name with attributes. The name is valid as long as the
    /// attributes.
    pub(crate) fn put_name_with(
        &mut self,
        entry: &DirectoryEntry<'_>,
        attributes: &Attributes,
    ) -> bool {
        let fits = self.fits(ENTRY_OUT_BYTES + DIRENT_BYTES + entry.name.len());
        if fits {
            self.put_entry(attributes, attributes.lifetime);
            self.put_dirent(entry);
        }
        fits
    }

    fn fits(&self, bytes: usize) -> bool {
        self.length + padded(bytes) <= self.room.len()
    }

    fn put_dirent(&mut self, entry: &DirectoryEntry<'_>) {
        self.put_u64s([entry.ino, entry.cookie]);
        let kind = kind_bits(entry.kind) >> 12;
        self.put_u32s([entry.name.len() as u32, kind]);
        self.put(entry.name);
        self.fill(padded(self.length));
    }

    /// Appends a `struct fuse_attr_out`.
    pub(crate) fn put_attributes(&mut self, attributes: &Attributes) {
        self.put_u64s([attributes.lifetime.as_secs()]);
        self.put_u32s([attributes.lifetime.subsec_nanos(), 0]);
        self.put_stat(attributes);
    }

    /// Appends a `struct fuse_open_out`.
    pub(crate) fn put_open(&mut self, opened: OpenReply) {
        let (flags, backing) = match opened.caching {
            // Without KEEP_CACHE an open waits, unkillable, for the reads in flight.
            Caching::Keep => (KEEP_CACHE, 0),
            Caching::PastPages => (DIRECT_IO | KEEP_CACHE, 0),
            Caching::Direct => (DIRECT_IO, 0),
            Caching::Backed(file) => (PASSTHROUGH, file.0),
        };
        self.put_u64s([opened.handle]);
        self.put_u32s([flags, backing]);
    }

    /// Appends a `struct fuse_write_out`.
    pub(crate) fn put_written(&mut self, length_bytes: usize) {
        self.put_u32s([u32::try_from(length_bytes).unwrap_or(u32::MAX), 0]);
    }

    /// Appends a `struct fuse_attr`.
    fn put_stat(&mut self, attributes: &Attributes) {
        let (seconds, nanoseconds) = (attributes.mtime.seconds, attributes.mtime.nanoseconds);
        let seconds = seconds.saturating_add(i64::from(nanoseconds / 1_000_000_000));
        let nanoseconds = nanoseconds % 1_000_000_000;
        let Attributes {
            ino,
            size_bytes,
            blocks,
            ..
        } = *attributes;
        self.put_u64s([ino, size_bytes, blocks]);
        // atime, mtime, ctime
        self.put_u64s([seconds.cast_unsigned(); 3]);
        self.put_u32s([nanoseconds; 3]);
        let (device, flags) = (0, 0);
        self.put_u32s([
            kind_bits(attributes.kind) | u32::from(attributes.mode),
            attributes.links,
            attributes.uid,
            attributes.gid,
            device,
            READ_BLOCK_BYTES,
            flags,
        ]);
    }

    fn put_u64s<const N: usize>(&mut self, values: [u64; N]) {
        values.iter().for_each(|it| self.put(&it.to_ne_bytes()));
    }

    fn put_u32s<const N: usize>(&mut self, values: [u32; N]) {
        values.iter().for_each(|it| self.put(&it.to_ne_bytes()));
    }

    fn put(&mut self, bytes: &[u8]) {
        self.room[self.length..][..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// Fills with zeros up to `length`, because the buffer contains a previous answer.
    fn fill(&mut self, length: usize) {
        self.room[self.length..length].fill(0);
        self.length = length;
    }
}

/// Returns the padded length of an entry of a listing.
fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

fn kind_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::Directory => libc::S_IFDIR,
        FileKind::Regular => libc::S_IFREG,
        FileKind::Symlink => libc::S_IFLNK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2pfs_fs::{BackingFile, Timestamp};

    const ATTRIBUTES: Attributes = Attributes {
        ino: 77,
        kind: FileKind::Regular,
        size_bytes: 5000,
        blocks: 3,
        mtime: Timestamp {
            seconds: -5,
            nanoseconds: 7,
        },
        mode: 0o644,
        links: 1,
        uid: 10,
        gid: 11,
        lifetime: Duration::from_millis(1500),
    };

    /// Returns the bytes that `put` writes into a buffer with old content.
    fn put(put: impl FnOnce(&mut AnswerBody<'_>)) -> Vec<u8> {
        let mut room = [0xaa; 512];
        let mut body = AnswerBody::new(&mut room);
        put(&mut body);
        let length = body.length();
        room[..length].to_vec()
    }

    fn u32_at(body: &[u8], at: usize) -> u32 {
        u32::from_ne_bytes(body[at..at + 4].try_into().unwrap())
    }

    fn u64_at(body: &[u8], at: usize) -> u64 {
        u64::from_ne_bytes(body[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn each_body_has_the_length_that_the_kernel_expects() {
        let entry = put(|body| body.put_entry(&ATTRIBUTES, Duration::ZERO));
        assert_eq!(entry.len(), 128);
        assert_eq!(put(|body| body.put_absence(Duration::ZERO)), [0; 128]);
        let attributes = put(|body| body.put_attributes(&ATTRIBUTES));
        assert_eq!(attributes.len(), ATTR_OUT_BYTES);
        let (handle, caching) = (1, Caching::Backed(BackingFile(3)));
        let opened = put(|body| body.put_open(OpenReply { handle, caching }));
        assert_eq!((opened.len(), u64_at(&opened, 0)), (16, 1));
        assert_eq!((u32_at(&opened, 8), u32_at(&opened, 12)), (PASSTHROUGH, 3));
        let written = put(|body| body.put_written(5));
        assert_eq!((written.len(), u32_at(&written, 0)), (8, 5));
    }

    #[test]
    fn lifetimes_of_name_and_attributes_are_separate() {
        let body = put(|body| body.put_entry(&ATTRIBUTES, Duration::from_millis(60_250)));
        assert_eq!((u64_at(&body, 0), u64_at(&body, 8)), (77, 0));
        assert_eq!((u64_at(&body, 16), u32_at(&body, 32)), (60, 250_000_000));
        assert_eq!((u64_at(&body, 24), u32_at(&body, 36)), (1, 500_000_000));
        let absent = put(|body| body.put_absence(Duration::from_secs(9)));
        assert_eq!((u64_at(&absent, 0), u64_at(&absent, 16)), (0, 9));
    }

    #[test]
    fn attributes_have_their_kernel_layout_even_before_1970() {
        let body = put(|body| body.put_attributes(&ATTRIBUTES));
        assert_eq!((u64_at(&body, 0), u32_at(&body, 8)), (1, 500_000_000));
        assert_eq!([16, 24, 32].map(|at| u64_at(&body, at)), [77, 5000, 3]);
        assert_eq!(
            [40, 48, 56].map(|at| u64_at(&body, at).cast_signed()),
            [-5; 3]
        );
        assert_eq!([64, 68, 72].map(|at| u32_at(&body, at)), [7; 3]);
        let rest = [76, 80, 84, 88, 92, 96].map(|at| u32_at(&body, at));
        assert_eq!(rest, [libc::S_IFREG | 0o644, 1, 10, 11, 0, 4096]);
    }

    fn named(name: &[u8]) -> DirectoryEntry<'_> {
        DirectoryEntry {
            ino: 77,
            cookie: 88,
            kind: FileKind::Directory,
            name,
        }
    }

    #[test]
    fn a_listed_name_is_zero_padded_to_the_next() {
        let body = put(|body| {
            assert!(body.put_name(&named(b"abcdefghi")));
            assert!(body.put_name_with(&named(b"next"), &ATTRIBUTES));
        });
        assert_eq!(body.len(), 40 + 128 + 32);
        assert_eq!((u64_at(&body, 0), u64_at(&body, 8)), (77, 88));
        let directory = u32::from(libc::DT_DIR);
        assert_eq!((u32_at(&body, 16), u32_at(&body, 20)), (9, directory));
        assert_eq!(&body[24..40], b"abcdefghi\0\0\0\0\0\0\0");
        let plus = &body[40..];
        assert_eq!((u64_at(plus, 0), u64_at(plus, 128)), (77, 77));
        assert_eq!((u64_at(plus, 16), u32_at(plus, 32)), (1, 500_000_000));
        assert_eq!(&plus[152..], b"next\0\0\0\0");
    }

    #[test]
    fn a_name_that_does_not_fit_leaves_a_listing_unchanged() {
        for (bytes_max, names) in [(79, 1), (80, 2), (10_000, 16)] {
            let body = put(|body| {
                body.bound(bytes_max);
                while body.put_name(&named(b"name-name")) {}
                assert!(!body.put_name_with(&named(b""), &ATTRIBUTES));
            });
            // Limited by 512 bytes: 12 entries of 40 bytes.
            assert_eq!(body.len(), 40 * names.min(12));
        }
    }
}
