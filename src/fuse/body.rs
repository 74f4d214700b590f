//! The bodies of the answers that the device writes itself (include/uapi/linux/fuse.h, 7.40).

use std::time::Duration;

use crate::fs::{Attributes, FileKind};

/// The longest of them, `struct fuse_entry_out`.
const BYTES_MAX: usize = 128;
/// The unit in which programs are told to read.
const READ_BLOCK_BYTES: u32 = 4096;

/// A body, put together field by field.
pub(super) struct Body {
    bytes: [u8; BYTES_MAX],
    length: usize,
}

impl Default for Body {
    fn default() -> Self {
        Self {
            bytes: [0; BYTES_MAX],
            length: 0,
        }
    }
}

impl Body {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// `struct fuse_entry_out`.
    pub fn put_entry(&mut self, attributes: &Attributes, lifetime: Duration) {
        // a number never stands for a second thing, so there is one generation
        self.put_u64s([
            attributes.ino,
            0,
            lifetime.as_secs(),
            attributes.lifetime.as_secs(),
        ]);
        self.put_u32s([lifetime, attributes.lifetime].map(|it| it.subsec_nanos()));
        self.put_stat(attributes);
    }

    /// The same of no inode: there is no such name, and the kernel may remember that.
    pub fn put_absence(&mut self, lifetime: Duration) {
        self.put_u64s([0, 0, lifetime.as_secs(), 0]);
        self.put_u32s([lifetime.subsec_nanos()]);
        self.length = BYTES_MAX;
    }

    /// `struct fuse_attr_out`.
    pub fn put_attributes(&mut self, attributes: &Attributes) {
        self.put_u64s([attributes.lifetime.as_secs()]);
        self.put_u32s([attributes.lifetime.subsec_nanos(), 0]);
        self.put_stat(attributes);
    }

    /// `struct fuse_open_out`.
    pub fn put_open(&mut self, handle: u64, flags: u32, backing: u32) {
        self.put_u64s([handle]);
        self.put_u32s([flags, backing]);
    }

    /// `struct fuse_attr`.
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
        let kind = match attributes.kind {
            FileKind::Directory => libc::S_IFDIR,
            FileKind::Regular => libc::S_IFREG,
            FileKind::Symlink => libc::S_IFLNK,
        };
        let (device, flags) = (0, 0);
        self.put_u32s([
            kind | u32::from(attributes.mode),
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
        self.bytes[self.length..][..bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::Timestamp;

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

    fn u32_at(body: &Body, at: usize) -> u32 {
        u32::from_ne_bytes(body.bytes()[at..at + 4].try_into().unwrap())
    }

    fn u64_at(body: &Body, at: usize) -> u64 {
        u64::from_ne_bytes(body.bytes()[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn each_body_is_as_long_as_the_kernel_wants_it() {
        let length = |put: &dyn Fn(&mut Body)| {
            let mut body = Body::default();
            put(&mut body);
            body.bytes().len()
        };
        assert_eq!(
            length(&|body| body.put_entry(&ATTRIBUTES, Duration::ZERO)),
            128
        );
        assert_eq!(length(&|body| body.put_absence(Duration::ZERO)), 128);
        assert_eq!(length(&|body| body.put_attributes(&ATTRIBUTES)), 104);
        assert_eq!(length(&|body| body.put_open(1, 2, 3)), 16);
    }

    #[test]
    fn lifetimes_of_name_and_attributes_are_told_apart() {
        let mut body = Body::default();
        body.put_entry(&ATTRIBUTES, Duration::from_millis(60_250));
        assert_eq!((u64_at(&body, 0), u64_at(&body, 8)), (77, 0));
        assert_eq!((u64_at(&body, 16), u32_at(&body, 32)), (60, 250_000_000));
        assert_eq!((u64_at(&body, 24), u32_at(&body, 36)), (1, 500_000_000));
        let mut absent = Body::default();
        absent.put_absence(Duration::from_secs(9));
        assert_eq!((u64_at(&absent, 0), u64_at(&absent, 16)), (0, 9));
    }

    #[test]
    fn what_stat_shows_is_in_its_place_also_before_1970() {
        let mut body = Body::default();
        body.put_attributes(&ATTRIBUTES);
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
}
