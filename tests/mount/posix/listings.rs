//! Directories, read as the kernel returns them.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{DirEntryExt, MetadataExt};

use super::place::{MANY, Place, outcome};
use super::{BESIDE, Case, PJD, XFS};
use crate::support::mounted::errno;

/// A name as returned by getdents64(2).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    ino: u64,
    /// The offset of the next entry.
    next: i64,
    kind: u8,
    name: Vec<u8>,
}

/// Makes one call with room for this many bytes.
fn getdents(directory: RawFd, room_bytes: usize) -> Result<Vec<Entry>, i32> {
    // Entries need the alignment of a u64.
    let mut room = vec![0u64; room_bytes.div_ceil(8)];
    // SAFETY: the room is ours, and as long as is said.
    let filled = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            directory,
            room.as_mut_ptr(),
            room_bytes,
        )
    };
    match outcome(filled) {
        0 => Ok(parse(&room, filled as usize)),
        error => Err(error),
    }
}

fn parse(room: &[u64], filled: usize) -> Vec<Entry> {
    let bytes: Vec<u8> = room.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let mut rest = &bytes[..filled];
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let length = u16::from_ne_bytes([rest[16], rest[17]]) as usize;
        let name = rest[19..length].split(|byte| *byte == 0).next().unwrap();
        entries.push(Entry {
            ino: u64::from_ne_bytes(rest[..8].try_into().unwrap()),
            next: i64::from_ne_bytes(rest[8..16].try_into().unwrap()),
            kind: rest[18],
            name: name.to_vec(),
        });
        rest = &rest[length..];
    }
    entries
}

/// Returns all entries from the directory's current offset.
fn rest_of(directory: RawFd, room_bytes: usize) -> Vec<Entry> {
    let mut all = Vec::new();
    loop {
        let some = getdents(directory, room_bytes).unwrap();
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}

fn seek(file: RawFd, offset: i64) -> i32 {
    // SAFETY: the file is open.
    outcome(unsafe { libc::lseek(file, offset, libc::SEEK_SET) })
}

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            XFS,
            "generic/257_offsets_are_distinct_and_can_be_sought",
            generic_257,
        ),
        Case::new(
            XFS,
            "generic/310_a_listing_bears_reads_and_seeks_beside_it",
            generic_310,
        ),
        Case::new(
            XFS,
            "generic/401_the_kind_of_an_entry_is_its_type",
            generic_401,
        ),
        Case::new(
            XFS,
            "generic/676_a_seek_to_any_offset_is_no_fault",
            generic_676,
        ),
        Case::new(
            PJD,
            "rename/24_dot_dot_is_the_directory_above",
            dot_dot_is_above,
        ),
        Case::new(
            BESIDE,
            "a_listing_through_little_room_is_whole",
            little_room,
        ),
        Case::new(
            BESIDE,
            "the_number_in_a_listing_is_that_of_stat",
            numbers_agree,
        ),
        Case::of_mount(BESIDE, "a_directory_counts_those_in_it_as_links", |place| {
            let links = |name: &str| fs::metadata(place.at(name)).unwrap().nlink();
            assert_eq!((links("dir"), links("dir/sub"), links("many")), (4, 2, 2));
            assert_eq!(fs::metadata(&place.root).unwrap().nlink(), 2 + 3);
            // The directories below the hidden one have correct counts too.
            let peers = fs::read_dir(place.root.join(".p2pfs/peers")).unwrap();
            let peers = peers.count() as u64;
            let hidden = |name| fs::metadata(place.root.join(name)).unwrap().nlink();
            assert_eq!(hidden(".p2pfs"), 2 + 2);
            assert_eq!(hidden(".p2pfs/peers"), 2 + peers);
            assert_eq!(hidden(".p2pfs/by-hash"), 2);
        }),
    ]
}

fn generic_257(place: &Place) {
    let directory = place.open("many");
    let all = rest_of(directory.as_raw_fd(), 4096);
    assert_eq!(all.len(), MANY + 2);
    let offsets: BTreeSet<i64> = all.iter().map(|entry| entry.next).collect();
    assert_eq!(offsets.len(), all.len(), "no offset twice");
    // Seek to some offsets throughout the directory, backwards, and in another open directory.
    let other = place.open("many");
    for at in (0..all.len() - 1).rev().step_by(37) {
        for file in [&directory, &other] {
            assert_eq!(seek(file.as_raw_fd(), all[at].next), 0);
            let next = getdents(file.as_raw_fd(), 300).unwrap();
            assert_eq!(next[0], all[at + 1], "after {at}");
        }
    }
    assert_eq!(seek(directory.as_raw_fd(), 0), 0);
    assert_eq!(rest_of(directory.as_raw_fd(), 4096), all, "from its start");
}

fn generic_310(place: &Place) {
    let directory = place.open("many");
    let file = directory.as_raw_fd();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        use std::io::Read;
        use std::sync::atomic::Ordering;
        let reader = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(errno((&directory).read(&mut [0; 8])), libc::EISDIR);
            }
        });
        let seeker = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(seek(file, 0), 0);
            }
        });
        for _ in 0..200 {
            let some = getdents(file, 500).unwrap();
            for entry in &some {
                let name = String::from_utf8(entry.name.clone()).unwrap();
                assert!(
                    name.starts_with('.') || name.parse::<usize>().unwrap() < MANY,
                    "{name}"
                );
            }
        }
        is_over.store(true, Ordering::Relaxed);
        reader.join().unwrap();
        seeker.join().unwrap();
    });
    assert_eq!(seek(file, 0), 0);
    let distinct: BTreeSet<_> = rest_of(file, 4096).into_iter().map(|e| e.name).collect();
    assert_eq!(distinct.len(), MANY + 2);
}

fn generic_401(place: &Place) {
    let directory = File::open(&place.root).unwrap();
    for entry in rest_of(directory.as_raw_fd(), 4096) {
        let wanted = match entry.name.as_slice() {
            b"." | b".." | b"dir" | b"names" | b"many" => libc::DT_DIR,
            b"link" | b"to-dir" | b"dangling" => libc::DT_LNK,
            name if name.starts_with(b"loop") || name.starts_with(b"chain") => libc::DT_LNK,
            _ => libc::DT_REG,
        };
        assert_eq!(entry.kind, wanted, "{:?}", String::from_utf8(entry.name));
    }
}

fn generic_676(place: &Place) {
    let directory = place.open("many");
    let file = directory.as_raw_fd();
    let all = rest_of(file, 4096);
    let known: BTreeSet<&[u8]> = all.iter().map(|entry| entry.name.as_slice()).collect();
    let strange = (1..200u64).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1) as i64);
    for offset in strange.chain([1, 2, 3, i64::MAX]) {
        match seek(file, offset) {
            libc::EINVAL => continue,
            said => assert_eq!(said, 0, "{offset}"),
        }
        // Any result is allowed, except a name that does not exist.
        for entry in getdents(file, 1000).unwrap_or_default() {
            assert!(known.contains(entry.name.as_slice()), "{entry:?}");
        }
    }
    assert_eq!(seek(file, -1), libc::EINVAL);
    for at in [0, 7, MANY / 2] {
        assert_eq!(seek(file, all[at].next), 0);
        assert_eq!(rest_of(file, 4096), all[at + 1..], "after {at}");
    }
}

fn little_room(place: &Place) {
    let directory = place.open("names");
    let file = directory.as_raw_fd();
    let all = rest_of(file, 32 * 1024);
    assert_eq!(seek(file, 0), 0);
    // The longest entry takes 19 bytes, a name of 255 bytes and a NUL, rounded up to a multiple of
    // eight.
    assert_eq!(rest_of(file, 280), all);
    assert_eq!(seek(file, 0), 0);
    assert_eq!(getdents(file, 16), Err(libc::EINVAL), "not one fits");
    assert_eq!(rest_of(file, 280), all, "and nothing is lost by it");
    let not_one = place.open("words");
    assert_eq!(getdents(not_one.as_raw_fd(), 280), Err(libc::ENOTDIR));
}

fn numbers_agree(place: &Place) {
    for dir in [".", "dir", "dir/sub", "names", "many"] {
        let mut distinct = BTreeSet::new();
        for entry in fs::read_dir(place.at(dir)).unwrap() {
            let entry = entry.unwrap();
            let meta = fs::symlink_metadata(entry.path()).unwrap();
            assert_eq!(entry.ino(), meta.ino(), "{:?}", entry.path());
            assert!(distinct.insert(meta.ino()), "{:?}", entry.path());
        }
    }
}

fn dot_dot_is_above(place: &Place) {
    let ino = |name: &str| fs::metadata(place.at(name)).unwrap().ino();
    assert_eq!(ino("dir/sub/.."), ino("dir"));
    assert_eq!(ino("dir/sub/../.."), ino("."));
    assert_eq!(ino("dir/."), ino("dir"));
    let directory = place.open("dir/sub");
    let listed = rest_of(directory.as_raw_fd(), 4096);
    let of = |name: &[u8]| {
        let found = listed.iter().find(|entry| entry.name == name);
        found.map(|entry| entry.ino)
    };
    assert_eq!(
        (of(b"."), of(b"..")),
        (Some(ino("dir/sub")), Some(ino("dir")))
    );
}
