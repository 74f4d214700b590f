//! Reads of bytes in every way that a program can request them.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]

mod moved;

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use moved::{generic_210, generic_249, generic_564, generic_591, pipe, splice};

use super::place::{FLAVOURS, HUGE, LARGE, LENGTH, PAGE, Place, bytes_of, outcome};
use super::{BESIDE, Case, PJD, XFS};
use crate::support::mounted::errno;

/// Memory for O_DIRECT, aligned to a page.
pub(super) struct Aligned {
    room: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    pub(super) fn new(length: usize) -> Self {
        let room = vec![0u8; length + PAGE];
        let start = room.as_ptr().align_offset(PAGE);
        Self {
            room,
            start,
            length,
        }
    }

    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.start + self.length]
    }
}

pub(super) fn direct(place: &Place, name: &str) -> File {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_DIRECT);
    options.open(place.at(name)).unwrap()
}

/// A file mapped for reading.
pub(super) struct Map {
    address: *mut libc::c_void,
    length: usize,
}

// SAFETY: the mapping is only read.
unsafe impl Sync for Map {}

impl Map {
    pub(super) fn new(file: &File, length: usize, flags: i32) -> Self {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ,
                flags,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(
            address,
            libc::MAP_FAILED,
            "{}",
            std::io::Error::last_os_error()
        );
        Self { address, length }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping has the stated length. A read beyond the file's end gets SIGBUS.
        unsafe { std::slice::from_raw_parts(self.address.cast(), self.length) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: this owns the mapping, and no reference to its bytes remains.
        unsafe { libc::munmap(self.address, self.length) };
    }
}

#[expect(clippy::too_many_lines, reason = "one table of cases")]
pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::of_mount(PJD, "open/25_bytes_past_2_gib_are_read", open_25),
        Case::new(
            XFS,
            "generic/095_all_ways_of_reading_at_once_agree",
            generic_095,
        ),
        Case::new(XFS, "generic/124_every_word_is_at_its_place", |place| {
            for name in FLAVOURS {
                let (file, bytes) = (place.open(name), bytes_of(name));
                for (number, word) in bytes.chunks_exact(8).enumerate().step_by(53) {
                    let mut found = [0; 8];
                    let offset = number as u64 * 8;
                    file.read_exact_at(&mut found, offset).unwrap();
                    assert_eq!(found, word, "{name}, word {number}");
                }
            }
        }),
        Case::new(
            XFS,
            "generic/130_odd_offsets_lengths_and_vectors_are_read",
            generic_130,
        ),
        Case::new(XFS, "generic/132_every_size_of_a_read_is_right", |place| {
            for name in FLAVOURS {
                let (file, bytes) = (place.open(name), bytes_of(name));
                for size in (9..=20).map(|power| 1usize << power) {
                    for offset in [0, size, LENGTH / size / 2 * size] {
                        let mut found = vec![0; size];
                        let length = file.read_at(&mut found, offset as u64).unwrap();
                        let wanted = &bytes[offset..(offset + size).min(LENGTH)];
                        assert!(found[..length] == *wanted, "{name}, {size} at {offset}");
                    }
                }
            }
        }),
        Case::new(
            XFS,
            "generic/210_an_asynchronous_read_of_the_last_block_is_short",
            generic_210,
        ),
        Case::new(XFS, "generic/249_sendfile_brings_all_bytes", generic_249),
        Case::new(XFS, "generic/285_no_byte_is_in_a_hole", generic_285),
        Case::new(
            XFS,
            "generic/391_many_direct_readers_of_one_file_are_right",
            generic_391,
        ),
        Case::new(
            XFS,
            "generic/450_a_read_about_the_end_is_short_or_empty",
            generic_450,
        ),
        Case::new(
            XFS,
            "generic/471_a_read_that_must_not_wait_is_data_or_eagain",
            generic_471,
        ),
        Case::of_mount(
            XFS,
            "generic/525_the_last_byte_of_the_longest_file_is_read",
            generic_525,
        ),
        Case::new(
            XFS,
            "generic/564_copy_file_range_to_another_disk_is_exdev",
            generic_564,
        ),
        Case::new(XFS, "generic/591_splice_brings_all_bytes", generic_591),
        Case::new(
            XFS,
            "generic/749_a_mapping_is_zero_to_the_page's_end_and_sigbus_beyond",
            generic_749,
        ),
        Case::new(
            BESIDE,
            "hints_about_reading_change_no_byte",
            hints_change_no_byte,
        ),
        Case::of_mount(
            BESIDE,
            "o_direct_needs_alignment_only_where_the_kernel_reads",
            alignment,
        ),
    ]
}

fn open_25(place: &Place) {
    let file = place.open("large");
    assert_eq!(file.metadata().unwrap().len(), LARGE);
    let mut found = [0; 16];
    file.read_exact_at(&mut found, 2 << 30).unwrap();
    let words = [2u64 << 30, (2 << 30) + 8].map(u64::to_le_bytes);
    assert_eq!(found, words.concat()[..]);
    assert_eq!(file.read_at(&mut found, LARGE).unwrap(), 0);
}

fn generic_095(place: &Place) {
    for name in FLAVOURS {
        let bytes = bytes_of(name);
        let map = Map::new(&place.open(name), LENGTH, libc::MAP_SHARED);
        let offsets = || (0..300usize).map(|n| n * 7919 % (LENGTH / PAGE) * PAGE);
        std::thread::scope(|scope| {
            let (bytes, map) = (&bytes, &map);
            scope.spawn(move || {
                let file = place.open(name);
                let mut found = [0; 1000];
                for offset in offsets() {
                    file.read_exact_at(&mut found, offset as u64).unwrap();
                    assert!(found == bytes[offset..offset + 1000], "{name}, buffered");
                }
            });
            scope.spawn(move || {
                let file = direct(place, name);
                let mut room = Aligned::new(PAGE);
                for offset in offsets() {
                    file.read_exact_at(room.bytes(), offset as u64).unwrap();
                    assert!(
                        room.bytes() == &bytes[offset..offset + PAGE],
                        "{name}, direct"
                    );
                }
            });
            scope.spawn(move || {
                for offset in offsets() {
                    let found = &map.bytes()[offset..offset + PAGE];
                    assert!(*found == bytes[offset..offset + PAGE], "{name}, mapped");
                }
            });
            scope.spawn(move || {
                let file = place.open(name);
                for offset in offsets().step_by(10) {
                    let mut found = [0; PAGE];
                    let (mut out, into) = pipe();
                    splice(file.as_raw_fd(), offset, into.as_raw_fd(), PAGE);
                    out.read_exact(&mut found).unwrap();
                    assert!(found == bytes[offset..offset + PAGE], "{name}, spliced");
                }
            });
        });
    }
}

fn generic_130(place: &Place) {
    for name in FLAVOURS {
        let (file, bytes) = (place.open(name), bytes_of(name));
        for offset in [0usize, 1, 511, 4095, 4097, 65_535, 1_000_003, LENGTH - 3] {
            for length in [1usize, 2, 3, 13, 4095, 4097, 70_001] {
                let mut found = vec![0; length];
                let read = file.read_at(&mut found, offset as u64).unwrap();
                let wanted = &bytes[offset..(offset + length).min(LENGTH)];
                assert!(found[..read] == *wanted, "{name}, {length} at {offset}");
            }
        }
        let mut parts = [vec![0; 1], vec![0; 4096], vec![0; 7], vec![0; 60_000]];
        let vectors = parts.each_mut().map(|part| libc::iovec {
            iov_base: part.as_mut_ptr().cast(),
            iov_len: part.len(),
        });
        // SAFETY: each vector is a part of ours.
        let read = unsafe { libc::preadv(file.as_raw_fd(), vectors.as_ptr(), 4, 12_345) };
        let wanted = &bytes[12_345..12_345 + read as usize];
        assert!(read == 64_104 && parts.concat() == wanted, "{name}");
    }
}

fn generic_285(place: &Place) {
    let seek = |file: &File, offset: i64, what: i32| {
        // SAFETY: the file is open.
        let found = unsafe { libc::lseek(file.as_raw_fd(), offset, what) };
        if found < 0 {
            Err(outcome(found))
        } else {
            Ok(found)
        }
    };
    for name in FLAVOURS {
        let file = place.open(name);
        let end = LENGTH as i64;
        for offset in [0, 1, 4096, 1 << 20, end - 1] {
            assert_eq!(seek(&file, offset, libc::SEEK_DATA), Ok(offset), "{name}");
            assert_eq!(seek(&file, offset, libc::SEEK_HOLE), Ok(end), "{name}");
        }
        for offset in [end, end + 1, i64::MAX, -1] {
            for what in [libc::SEEK_DATA, libc::SEEK_HOLE] {
                assert_eq!(
                    seek(&file, offset, what),
                    Err(libc::ENXIO),
                    "{name}, {offset}"
                );
            }
        }
        assert_eq!(seek(&file, -5, libc::SEEK_END), Ok(end - 5));
        assert_eq!(seek(&file, -5, libc::SEEK_SET), Err(libc::EINVAL));
        assert_eq!(
            seek(&file, 1 << 40, libc::SEEK_SET),
            Ok(1 << 40),
            "past the end"
        );
    }
    let empty = place.open("empty");
    assert_eq!(seek(&empty, 0, libc::SEEK_DATA), Err(libc::ENXIO));
}

fn generic_391(place: &Place) {
    for name in FLAVOURS {
        let (bytes, file) = (bytes_of(name), direct(place, name));
        std::thread::scope(|scope| {
            for reader in 0..8 {
                let (bytes, file) = (&bytes, &file);
                scope.spawn(move || {
                    let mut room = Aligned::new(64 * 1024);
                    for step in 0..20 {
                        let offset = (reader * 20 + step) * 13 % 32 * 65536;
                        file.read_exact_at(room.bytes(), offset as u64).unwrap();
                        assert!(
                            room.bytes() == &bytes[offset..offset + 65536],
                            "{name}, reader {reader} at {offset}"
                        );
                    }
                });
            }
        });
    }
}

fn generic_450(place: &Place) {
    for name in FLAVOURS {
        for (how, file) in [
            ("buffered", place.open(name)),
            ("direct", direct(place, name)),
        ] {
            let mut room = Aligned::new(PAGE);
            let last = LENGTH / PAGE * PAGE;
            for (offset, wanted) in [
                (0, PAGE),
                (last, LENGTH - last),
                (last + PAGE, 0),
                (last + 2 * PAGE, 0),
                (last + 100 * PAGE, 0),
            ] {
                let read = file.read_at(room.bytes(), offset as u64).unwrap();
                assert_eq!(read, wanted, "{name}, {how}, at {offset}");
            }
        }
        let file = place.open(name);
        for offset in [LENGTH as u64, LENGTH as u64 + 1, HUGE - 1] {
            let read = file.read_at(&mut [0], offset);
            assert!(
                read.as_ref().is_ok_and(|read| *read == 0),
                "{name}: {read:?}"
            );
        }
        assert_eq!(errno(file.read_at(&mut [0], u64::MAX)), libc::EINVAL);
    }
    assert_eq!(place.open("empty").read_at(&mut [0; 10], 0).unwrap(), 0);
}

fn generic_471(place: &Place) {
    for name in FLAVOURS {
        let (file, bytes) = (place.open(name), bytes_of(name));
        for offset in [0usize, 1 << 20] {
            let mut found = [0; PAGE];
            let vector = libc::iovec {
                iov_base: found.as_mut_ptr().cast(),
                iov_len: PAGE,
            };
            // SAFETY: the vector is ours.
            let read = unsafe {
                libc::preadv2(
                    file.as_raw_fd(),
                    &raw const vector,
                    1,
                    offset as i64,
                    libc::RWF_NOWAIT,
                )
            };
            match outcome(read as i64) {
                0 => {
                    let wanted = &bytes[offset..offset + read as usize];
                    assert!(read > 0 && found[..read as usize] == *wanted, "{name}");
                }
                libc::EAGAIN | libc::EOPNOTSUPP => {}
                said => panic!("{name}: {said}"),
            }
        }
    }
}

fn generic_525(place: &Place) {
    let file = place.open("huge");
    assert_eq!(file.metadata().unwrap().len(), HUGE);
    let mut found = [0; 1];
    let last = HUGE - 1;
    assert_eq!(file.read_at(&mut found, last).unwrap(), 1);
    assert_eq!(found[0], (last / 8 * 8).to_le_bytes()[last as usize % 8]);
}

/// Returns how a process ends that reads one byte of a mapping: `None`, or the signal.
fn end_of_reader(map: &Map, at: usize) -> Option<i32> {
    let address = map.bytes()[..0].as_ptr().wrapping_add(at);
    // SAFETY: the child reads one byte and ends, without any call that another thread's lock
    // could hold up.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            std::hint::black_box(address.read_volatile());
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
    }
}

fn generic_749(place: &Place) {
    for name in FLAVOURS {
        let (file, bytes) = (place.open(name), bytes_of(name));
        let whole = LENGTH.next_multiple_of(PAGE);
        for flags in [libc::MAP_SHARED, libc::MAP_PRIVATE] {
            let map = Map::new(&file, whole + 2 * PAGE, flags);
            assert!(map.bytes()[..LENGTH] == bytes[..], "{name}");
            let after = &map.bytes()[LENGTH..whole];
            assert!(after.iter().all(|byte| *byte == 0), "{name}");
            assert_eq!(end_of_reader(&map, whole - 1), None, "{name}");
            assert_eq!(end_of_reader(&map, whole), Some(libc::SIGBUS), "{name}");
            assert_eq!(
                end_of_reader(&map, whole + PAGE),
                Some(libc::SIGBUS),
                "{name}"
            );
        }
        // SAFETY: it fails.
        let writable = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_eq!(writable, libc::MAP_FAILED);
        assert_eq!(outcome(-1), libc::EACCES, "{name}");
    }
}

fn hints_change_no_byte(place: &Place) {
    for name in FLAVOURS {
        let (file, bytes) = (place.open(name), bytes_of(name));
        for advice in [
            libc::POSIX_FADV_WILLNEED,
            libc::POSIX_FADV_RANDOM,
            libc::POSIX_FADV_SEQUENTIAL,
            libc::POSIX_FADV_NOREUSE,
            libc::POSIX_FADV_DONTNEED,
        ] {
            let mut found = vec![0; LENGTH];
            // SAFETY: the file is open.
            let (advised, ahead) = unsafe {
                (
                    libc::posix_fadvise(file.as_raw_fd(), 0, 0, advice),
                    libc::readahead(file.as_raw_fd(), 1 << 20, 1 << 20),
                )
            };
            assert_eq!((advised, outcome(ahead as i64)), (0, 0), "{name}, {advice}");
            file.read_exact_at(&mut found, 0).unwrap();
            assert!(found == bytes, "{name}, {advice}");
        }
    }
}

fn alignment(place: &Place) {
    for name in ["file", "fetched"] {
        let (file, bytes) = (direct(place, name), bytes_of(name));
        let mut found = [0; 1001];
        file.read_exact_at(&mut found[1..], 12_345).unwrap();
        assert!(found[1..] == bytes[12_345..13_345], "{name}");
    }
    for name in ["backed", "own"] {
        let (file, bytes) = (direct(place, name), bytes_of(name));
        let mut found = [0; 1001];
        match file.read_at(&mut found[1..], 12_345) {
            Ok(read) => assert!(found[1..=read] == bytes[12_345..12_345 + read], "{name}"),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{name}"),
        }
    }
}
