//! FUSE messages that the device itself reads and writes (include/uapi/linux/fuse.h, version 7.45).
//! All other messages pass through as bytes.
//!
//! Integers have native byte order. The length of every message from the kernel is checked: a short
//! message yields `None`, never a panic.

mod changing;

pub(super) use changing::{ChangeRequest, opens_for_writing};

use p2pfs_fs::{ROOT_INO, Stale};

/// Size of `struct fuse_in_header`.
pub(super) const IN_HEADER_BYTES: usize = 40;
/// Size of `struct fuse_out_header`.
pub(super) const OUT_HEADER_BYTES: usize = 16;
/// Size of `struct fuse_entry_out`, which also precedes each `struct fuse_dirent` of READDIRPLUS.
pub(super) const ENTRY_OUT_BYTES: usize = 128;
/// Size of `struct fuse_dirent` without its name.
pub(super) const DIRENT_BYTES: usize = 24;
/// Bit that marks the request number of an interrupt (`FUSE_INT_REQ_BIT`, fs/fuse/fuse_dev_i.h).
const INTERRUPT_BIT: u64 = 1;
/// Bit that marks a request that the kernel sends again (`FUSE_UNIQUE_RESEND`).
const RESEND_BIT: u64 = 1 << 63;

/// Operation codes that the device examines (`enum fuse_opcode`).
pub(super) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const LSEEK: u32 = 46;

    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const FSYNCDIR: u32 = 30;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
    pub(crate) const TMPFILE: u32 = 51;
    pub(crate) const COPY_FILE_RANGE_64: u32 = 53;

    /// Operations that change the filesystem or make changes durable. An OPEN may change it too.
    pub(crate) const CHANGING: [u32; 19] = [
        SETATTR,
        SYMLINK,
        MKNOD,
        MKDIR,
        UNLINK,
        RMDIR,
        RENAME,
        LINK,
        WRITE,
        FSYNC,
        SETXATTR,
        REMOVEXATTR,
        FSYNCDIR,
        CREATE,
        FALLOCATE,
        RENAME2,
        COPY_FILE_RANGE,
        TMPFILE,
        COPY_FILE_RANGE_64,
    ];
}

/// Header of every request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestHeader {
    pub opcode: u32,
    pub unique: u64,
    pub nodeid: u64,
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
}

impl RequestHeader {
    pub(crate) fn parse(message: &[u8]) -> Option<Self> {
        if message.len() < IN_HEADER_BYTES {
            return None;
        }
        Some(Self {
            opcode: u32_at(message, 4)?,
            unique: u64_at(message, 8)?,
            nodeid: u64_at(message, 16)?,
            uid: u32_at(message, 24)?,
            gid: u32_at(message, 28)?,
            pid: u32_at(message, 32)?,
        })
    }

    /// Returns whether a previous process may have carried out the request without answering it.
    pub(crate) fn is_resent(&self) -> bool {
        self.unique & RESEND_BIT != 0
    }
}

/// Used fields of `struct fuse_read_in`. A listing has the same layout, with a cookie as the
/// offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReadIn {
    pub handle: u64,
    pub offset: u64,
    pub size_bytes: u32,
    /// Flags of the open file (`O_DIRECT` and others).
    pub open_flags: i32,
}

impl ReadIn {
    pub(crate) fn parse(message: &[u8]) -> Option<Self> {
        Some(Self {
            handle: u64_at(message, IN_HEADER_BYTES)?,
            offset: u64_at(message, IN_HEADER_BYTES + 8)?,
            size_bytes: u32_at(message, IN_HEADER_BYTES + 16)?,
            open_flags: u32_at(message, IN_HEADER_BYTES + 32)?.cast_signed(),
        })
    }

    /// Returns whether the program requested reads that bypass the page cache.
    pub(crate) fn is_direct(&self) -> bool {
        self.open_flags & libc::O_DIRECT != 0
    }
}

/// Returns the number of the request that an interrupt names.
pub(super) fn interrupted_unique(message: &[u8]) -> Option<u64> {
    u64_at(message, IN_HEADER_BYTES).map(|unique| unique & !INTERRUPT_BIT)
}

/// Returns the handle that a RELEASE closes.
pub(super) fn released(message: &[u8]) -> Option<u64> {
    u64_at(message, IN_HEADER_BYTES)
}

/// Returns the name that a LOOKUP requests.
pub(super) fn looked_up(message: &[u8]) -> Option<&[u8]> {
    message
        .get(IN_HEADER_BYTES..)?
        .split(|byte| *byte == 0)
        .next()
}

/// Returns the handle of the open file whose attributes a GETATTR requests, if there is one.
pub(super) fn attributes_of_handle(message: &[u8]) -> Option<u64> {
    const GETATTR_FH: u32 = 1;
    let flags = u32_at(message, IN_HEADER_BYTES)?;
    let handle = u64_at(message, IN_HEADER_BYTES + 8)?;
    (flags & GETATTR_FH != 0).then_some(handle)
}

/// Returns the flags of an OPEN.
pub(super) fn open_flags(message: &[u8]) -> Option<i32> {
    u32_at(message, IN_HEADER_BYTES).map(u32::cast_signed)
}

/// Returns the inodes and lookup counts of a FORGET or BATCH_FORGET.
pub(super) fn forgotten(header: &RequestHeader, message: &[u8]) -> Vec<(u64, u64)> {
    let body = &message[IN_HEADER_BYTES..];
    if header.opcode == opcode::FORGET {
        return u64_at(body, 0)
            .map(|count| (header.nodeid, count))
            .into_iter()
            .collect();
    }
    let count = u32_at(body, 0).unwrap_or(0) as usize;
    let pairs = body.get(8..).unwrap_or(&[]).chunks_exact(16).take(count);
    pairs
        .filter_map(|pair| Some((u64_at(pair, 0)?, u64_at(pair, 8)?)))
        .collect()
}

/// Returns the name of the extended attribute that a GETXATTR requests.
pub(super) fn attribute_name(message: &[u8]) -> Option<&[u8]> {
    message
        .get(IN_HEADER_BYTES + 8..)?
        .split(|byte| *byte == 0)
        .next()
}

/// Returns the buffer size of the caller of a GETXATTR or LISTXATTR; 0 requests the needed size.
pub(super) fn attribute_room(message: &[u8]) -> Option<u32> {
    u32_at(message, IN_HEADER_BYTES)
}

/// Encodes a request without arguments, as the kernel (user and process 0) would send it.
pub(super) fn request(opcode: u32, unique: u64, nodeid: u64) -> [u8; IN_HEADER_BYTES] {
    let mut message = [0; IN_HEADER_BYTES];
    message[..4].copy_from_slice(&(IN_HEADER_BYTES as u32).to_ne_bytes());
    message[4..8].copy_from_slice(&opcode.to_ne_bytes());
    message[8..16].copy_from_slice(&unique.to_ne_bytes());
    message[16..24].copy_from_slice(&nodeid.to_ne_bytes());
    message
}

/// Encodes the notification that makes the kernel resend requests that were taken and not answered
/// (`FUSE_NOTIFY_RESEND`).
pub(super) fn resend() -> [u8; OUT_HEADER_BYTES] {
    const RESEND: i32 = 7;
    out_message_header(0, RESEND, 0)
}

/// Encodes the header of an answer with `body_bytes` bytes after it. `errno` is positive, or 0 for
/// success.
pub(super) fn out_header(unique: u64, errno: i32, body_bytes: usize) -> [u8; OUT_HEADER_BYTES] {
    out_message_header(unique, -errno, body_bytes)
}

/// Returns the request number of an answer (0 for a notification) and its positive errno.
pub(super) fn answered(message: &[u8]) -> Option<(u64, i32)> {
    let error = i32::from_ne_bytes(message.get(4..8)?.try_into().ok()?);
    Some((u64_at(message, 8)?, -error))
}

/// References counted by the filesystem for an answer that the kernel never took.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Undo {
    /// Inodes, each with one lookup.
    pub lookups: Vec<u64>,
    /// Open file.
    pub handle: Option<u64>,
}

impl Undo {
    /// Returns whether there is nothing to release.
    pub(crate) fn is_empty(&self) -> bool {
        self.lookups.is_empty() && self.handle.is_none()
    }
}

/// Returns the references to release for an unwanted successful answer.
pub(super) fn undo(operation: u32, answer: &[u8]) -> Undo {
    let body = answer.get(OUT_HEADER_BYTES..).unwrap_or(&[]);
    let entry = || {
        u64_at(body, 0)
            .into_iter()
            .filter(|ino| *ino != 0)
            .collect()
    };
    match operation {
        opcode::LOOKUP | opcode::MKNOD | opcode::MKDIR | opcode::SYMLINK => Undo {
            lookups: entry(),
            handle: None,
        },
        opcode::CREATE => Undo {
            lookups: entry(),
            handle: u64_at(body, ENTRY_OUT_BYTES),
        },
        opcode::OPEN => Undo {
            lookups: Vec::new(),
            handle: u64_at(body, 0),
        },
        opcode::READDIRPLUS => Undo {
            lookups: plus_inodes(body),
            handle: None,
        },
        _ => Undo::default(),
    }
}

fn plus_inodes(mut body: &[u8]) -> Vec<u64> {
    let mut inodes = Vec::new();
    while let (Some(inode), Some(name_bytes)) =
        (u64_at(body, 0), u32_at(body, ENTRY_OUT_BYTES + 16))
    {
        let name = body.get(ENTRY_OUT_BYTES + DIRENT_BYTES..).unwrap_or(&[]);
        let name = name.get(..name_bytes as usize).unwrap_or(&[]);
        // A listing does not count as a lookup of the dots.
        if inode != 0 && name != b"." && name != b".." {
            inodes.push(inode);
        }
        let length = (ENTRY_OUT_BYTES + DIRENT_BYTES + name_bytes as usize).next_multiple_of(8);
        body = body.get(length..).unwrap_or(&[]);
    }
    inodes
}

/// Encodes a notification (`enum fuse_notify_code`) that makes the kernel drop cached data.
pub(super) fn notification(stale: &Stale) -> Vec<u8> {
    const INVAL_INODE: i32 = 2;
    const INVAL_ENTRY: i32 = 3;
    // Linux 6.2: revalidates the name and drops it if it is another inode. Older kernels drop it at
    // once.
    const EXPIRE_ONLY: u32 = 1;
    // Linux 6.16: revalidates all names that the kernel holds.
    const INC_EPOCH: i32 = 8;
    let mut body = Vec::new();
    let code = match stale {
        // A negative offset drops only attributes and takes no page lock.
        Stale::Attributes { ino } => {
            body.extend(ino.to_ne_bytes());
            body.extend((-1i64).to_ne_bytes());
            body.extend(0i64.to_ne_bytes());
            INVAL_INODE
        }
        // Offset 0 with length 0 drops all pages, in which the kernel keeps a listing as well.
        Stale::Pages { ino } | Stale::Listing { ino } => {
            body.extend(ino.to_ne_bytes());
            body.extend(0i64.to_ne_bytes());
            body.extend(0i64.to_ne_bytes());
            INVAL_INODE
        }
        Stale::PagesWithin { ino, range } => {
            body.extend(ino.to_ne_bytes());
            body.extend(range.start.to_ne_bytes());
            body.extend(range.len().to_ne_bytes());
            INVAL_INODE
        }
        Stale::Name { parent, name } => {
            put_entry(&mut body, *parent, name, 0);
            INVAL_ENTRY
        }
        Stale::PossibleName { name } => {
            put_entry(&mut body, ROOT_INO, name, 0);
            INVAL_ENTRY
        }
        Stale::Directory { parent, name } => {
            put_entry(&mut body, *parent, name, EXPIRE_ONLY);
            INVAL_ENTRY
        }
        Stale::Everything => INC_EPOCH,
    };
    let mut message = out_message_header(0, code, body.len()).to_vec();
    message.append(&mut body);
    message
}

/// Encodes `struct fuse_notify_inval_entry_out` and the name behind it.
fn put_entry(body: &mut Vec<u8>, parent: u64, name: &[u8], flags: u32) {
    body.extend(parent.to_ne_bytes());
    body.extend((name.len() as u32).to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend_from_slice(name);
    body.push(0);
}

fn out_message_header(unique: u64, error: i32, body_bytes: usize) -> [u8; OUT_HEADER_BYTES] {
    let mut header = [0; OUT_HEADER_BYTES];
    header[..4].copy_from_slice(&((OUT_HEADER_BYTES + body_bytes) as u32).to_ne_bytes());
    header[4..8].copy_from_slice(&error.to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_body(opcode: u32, unique: u64, nodeid: u64, body: &[u8]) -> Vec<u8> {
        let mut message = ((IN_HEADER_BYTES + body.len()) as u32)
            .to_ne_bytes()
            .to_vec();
        message.extend(opcode.to_ne_bytes());
        message.extend(unique.to_ne_bytes());
        message.extend(nodeid.to_ne_bytes());
        message.extend(1000u32.to_ne_bytes());
        message.extend(1001u32.to_ne_bytes());
        message.extend(4242u32.to_ne_bytes());
        message.extend([0; 4]);
        message.extend_from_slice(body);
        message
    }

    #[test]
    fn a_read_request_is_parsed() {
        let mut body = 7u64.to_ne_bytes().to_vec();
        body.extend(8192u64.to_ne_bytes());
        body.extend(4096u32.to_ne_bytes());
        body.extend([0; 12]);
        body.extend(libc::O_DIRECT.to_ne_bytes());
        body.extend([0; 4]);
        let message = with_body(opcode::READ, 6, 2, &body);
        let header = RequestHeader::parse(&message).unwrap();
        assert_eq!(
            (header.opcode, header.unique, header.nodeid),
            (opcode::READ, 6, 2)
        );
        assert_eq!((header.uid, header.gid, header.pid), (1000, 1001, 4242));
        let wanted = ReadIn {
            handle: 7,
            offset: 8192,
            size_bytes: 4096,
            open_flags: libc::O_DIRECT,
        };
        assert_eq!(ReadIn::parse(&message), Some(wanted));
    }

    #[test]
    fn a_truncated_message_is_rejected_without_panic() {
        let message = with_body(opcode::READ, 6, 2, &[0; 40]);
        for length in 0..message.len() {
            let cut = &message[..length];
            assert_eq!(
                RequestHeader::parse(cut).is_some(),
                length >= IN_HEADER_BYTES
            );
            let _ = (
                ReadIn::parse(cut),
                interrupted_unique(cut),
                released(cut),
                attribute_name(cut),
                attribute_room(cut),
                looked_up(cut),
                open_flags(cut),
                attributes_of_handle(cut),
            );
            let _ = (
                answered(cut),
                undo(opcode::READDIRPLUS, cut),
                undo(opcode::OPEN, cut),
                undo(opcode::CREATE, cut),
            );
        }
        let batch = RequestHeader {
            opcode: opcode::BATCH_FORGET,
            unique: 1,
            nodeid: 0,
            uid: 0,
            gid: 0,
            pid: 0,
        };
        assert_eq!(
            forgotten(&batch, &with_body(batch.opcode, 1, 0, &[255; 20])),
            vec![]
        );
    }

    #[test]
    fn forgets_arrive_singly_or_in_batches() {
        let one = with_body(opcode::FORGET, 1, 9, &3u64.to_ne_bytes());
        assert_eq!(
            forgotten(&RequestHeader::parse(&one).unwrap(), &one),
            vec![(9, 3)]
        );
        let mut body = 2u32.to_ne_bytes().to_vec();
        body.extend([0; 4]);
        for number in [5u64, 1, 6, 2] {
            body.extend(number.to_ne_bytes());
        }
        let many = with_body(opcode::BATCH_FORGET, 1, 0, &body);
        assert_eq!(
            forgotten(&RequestHeader::parse(&many).unwrap(), &many),
            vec![(5, 1), (6, 2)]
        );
    }

    #[test]
    fn an_interrupt_names_its_request_without_the_marker_bit() {
        let message = with_body(opcode::INTERRUPT, 7, 0, &6u64.to_ne_bytes());
        assert_eq!(interrupted_unique(&message), Some(6));
    }

    #[test]
    fn answers_and_errors_carry_their_request_id() {
        assert_eq!(answered(&out_header(6, libc::EIO, 0)), Some((6, libc::EIO)));
        assert_eq!(answered(&out_header(6, 0, 100)), Some((6, 0)));
        assert_eq!(u32_at(&out_header(6, 0, 100), 0), Some(116));
    }

    #[test]
    fn the_lookups_of_an_undelivered_answer_are_found_in_it() {
        let mut entry = out_header(2, 0, ENTRY_OUT_BYTES).to_vec();
        entry.extend(77u64.to_ne_bytes());
        entry.extend([0; ENTRY_OUT_BYTES - 8]);
        let looked_up = |ino: u64| Undo {
            lookups: vec![ino],
            handle: None,
        };
        for operation in [
            opcode::LOOKUP,
            opcode::MKNOD,
            opcode::MKDIR,
            opcode::SYMLINK,
        ] {
            assert_eq!(undo(operation, &entry), looked_up(77));
        }
        for operation in [opcode::GETATTR, opcode::SETATTR, opcode::RENAME] {
            assert!(undo(operation, &entry).is_empty());
        }
        let opened = undo(opcode::OPEN, &entry);
        assert_eq!((opened.lookups, opened.handle), (vec![], Some(77)));
        let created = [&entry[..], &99u64.to_ne_bytes(), &[0; 8]].concat();
        let created = undo(opcode::CREATE, &created);
        assert_eq!((created.lookups, created.handle), (vec![77], Some(99)));

        let mut listing = out_header(2, 0, 0).to_vec();
        for (inode, name) in [(4u64, &b".."[..]), (5, b"name"), (6, b"longer-name")] {
            let mut plus = inode.to_ne_bytes().to_vec();
            plus.extend([0; ENTRY_OUT_BYTES - 8 + 16]);
            plus.extend((name.len() as u32).to_ne_bytes());
            plus.extend([0; 4]);
            plus.extend_from_slice(name);
            plus.resize(plus.len().next_multiple_of(8), 0);
            listing.extend(plus);
        }
        assert_eq!(undo(opcode::READDIRPLUS, &listing).lookups, vec![5, 6]);
    }

    #[test]
    fn attributes_are_invalidated_without_dropping_pages() {
        let message = notification(&Stale::Attributes { ino: 9 });
        assert_eq!(message.len(), OUT_HEADER_BYTES + 24);
        assert_eq!(
            u64_at(&message, 8),
            Some(0),
            "a notification answers no request"
        );
        let offset = i64::from_ne_bytes(message[24..32].try_into().unwrap());
        assert!(offset < 0, "a range would take the locks of its pages");
    }

    #[test]
    fn a_name_is_sent_with_its_length_and_a_nul() {
        let message = notification(&Stale::Name {
            parent: 1,
            name: b"ab"[..].into(),
        });
        assert_eq!(u32_at(&message, OUT_HEADER_BYTES + 8), Some(2));
        assert!(message.ends_with(b"ab\0"));
        assert_eq!(u32_at(&message, 0), Some(message.len() as u32));
    }
}
