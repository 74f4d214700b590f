//! Bytes, in every way that a program can ask for them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use super::place::{FLAVOURS, HUGE, LARGE, LENGTH, PAGE, Place, bytes_of, outcome};
use super::{BESIDE, Case, PJD, XFS};
use crate::support::mounted::errno;

/// Memory that O_DIRECT may fill: its start is on a page.
pub struct Aligned {
    room: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    pub fn new(length: usize) -> Self {
        let room = vec![0u8; length + PAGE];
        let start = room.as_ptr().align_offset(PAGE);
        Self {
            room,
            start,
            length,
        }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.room[self.start..self.start + self.length]
    }
}

pub fn direct(place: &Place, name: &str) -> File {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_DIRECT);
    options.open(place.at(name)).unwrap()
}

/// A file mapped for reading.
pub struct Map {
    address: *mut libc::c_void,
    length: usize,
}

// SAFETY: the mapping is only read.
unsafe impl Sync for Map {}

impl Map {
    pub fn new(file: &File, length: usize, flags: i32) -> Self {
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

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is as long as is said; who reads past the file's end gets SIGBUS.
        unsafe { std::slice::from_raw_parts(self.address.cast(), self.length) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: it is ours, and nobody has its bytes any more.
        unsafe { libc::munmap(self.address, self.length) };
    }
}

/// An in-memory file of another disk than either place.
fn memory_file() -> File {
    // SAFETY: a C string; the descriptor is new and ours.
    unsafe {
        let file = libc::memfd_create(c"copy".as_ptr(), 0);
        assert_eq!(outcome(file), 0);
        File::from_raw_fd(file)
    }
}

fn assert_holds(mut file: &File, wanted: &[u8], what: &str) {
    let mut found = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut found).unwrap();
    assert!(found == wanted, "{what}");
}

/// A pipe: where to read, where to write.
fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, which are new and ours.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    }
}

pub fn cases() -> Vec<Case> {
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

fn splice(from: RawFd, offset: usize, into: RawFd, length: usize) {
    let (mut offset, mut left) = (offset as libc::loff_t, length);
    while left > 0 {
        // SAFETY: both files are open, and the offset is ours.
        let moved =
            unsafe { libc::splice(from, &raw mut offset, into, std::ptr::null_mut(), left, 0) };
        assert!(moved > 0, "{}", std::io::Error::last_os_error());
        left -= moved as usize;
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

/// The kernel's asynchronous reads: `struct iocb` and `struct io_event` as io_submit(2) has them.
#[repr(C)]
struct Submission {
    data: u64,
    key: u32,
    flags: u32,
    operation: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    length: u64,
    offset: i64,
    reserved: u64,
    more_flags: u32,
    event_file: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Completion {
    data: u64,
    submission: u64,
    result: i64,
    more: i64,
}

/// Reads by io_submit(2); gives how many bytes came.
fn read_asynchronously(file: &File, room: &mut [u8], offset: usize) -> i64 {
    let mut context: libc::c_ulong = 0;
    let submission = Submission {
        data: 7,
        key: 0,
        flags: 0,
        operation: 0,
        priority: 0,
        file: file.as_raw_fd() as u32,
        buffer: room.as_mut_ptr() as u64,
        length: room.len() as u64,
        offset: offset as i64,
        reserved: 0,
        more_flags: 0,
        event_file: 0,
    };
    let mut done = Completion::default();
    // SAFETY: the room outlives the read, which is waited for.
    unsafe {
        let set_up = libc::syscall(libc::SYS_io_setup, 8, &raw mut context);
        assert_eq!(outcome(set_up), 0);
        let list = [&raw const submission];
        let submitted = libc::syscall(libc::SYS_io_submit, context, 1, list.as_ptr());
        assert_eq!(submitted, 1, "{}", std::io::Error::last_os_error());
        let none = std::ptr::null::<libc::timespec>();
        let events = libc::syscall(libc::SYS_io_getevents, context, 1, 1, &raw mut done, none);
        assert_eq!((events, done.data), (1, 7));
        libc::syscall(libc::SYS_io_destroy, context);
    }
    done.result
}

fn generic_210(place: &Place) {
    for name in FLAVOURS {
        let (file, bytes) = (direct(place, name), bytes_of(name));
        let mut room = Aligned::new(2 * PAGE);
        for offset in [0, 1 << 20, LENGTH / PAGE * PAGE, (LENGTH / PAGE + 1) * PAGE] {
            let read = read_asynchronously(&file, room.bytes(), offset);
            let wanted = &bytes[offset.min(LENGTH)..(offset + 2 * PAGE).min(LENGTH)];
            assert_eq!(read, wanted.len() as i64, "{name} at {offset}");
            assert!(
                room.bytes()[..wanted.len()] == *wanted,
                "{name} at {offset}"
            );
        }
    }
}

fn generic_249(place: &Place) {
    for name in FLAVOURS {
        let (file, copy) = (place.open(name), memory_file());
        let (mut offset, mut sent) = (0, 1);
        while sent > 0 {
            // SAFETY: both files are open, and the offset is ours.
            sent = unsafe {
                libc::sendfile(copy.as_raw_fd(), file.as_raw_fd(), &raw mut offset, 300_001)
            };
            assert!(sent >= 0, "{}", std::io::Error::last_os_error());
        }
        assert_eq!(offset as usize, LENGTH);
        assert_holds(&copy, &bytes_of(name), name);
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

fn generic_564(place: &Place) {
    for name in FLAVOURS {
        let (file, copy) = (place.open(name), memory_file());
        let none = std::ptr::null_mut();
        // SAFETY: both files are open.
        let copied = unsafe {
            libc::copy_file_range(file.as_raw_fd(), none, copy.as_raw_fd(), none, LENGTH, 0)
        };
        assert_eq!(outcome(copied as i64), libc::EXDEV, "{name}");
        // which is what programs expect: they then copy in another way
        let copied = std::io::copy(&mut &file, &mut &copy).unwrap();
        assert_eq!(copied as usize, LENGTH);
        assert_holds(&copy, &bytes_of(name), name);
    }
}

fn generic_591(place: &Place) {
    for name in FLAVOURS {
        for file in [place.open(name), direct(place, name)] {
            let (mut out, into) = pipe();
            let mut found = Vec::new();
            for offset in (0..16).map(|n| n * 16 * PAGE) {
                let mut part = vec![0; 16 * PAGE];
                splice(file.as_raw_fd(), offset, into.as_raw_fd(), part.len());
                out.read_exact(&mut part).unwrap();
                found.extend(part);
            }
            assert!(found == bytes_of(name)[..found.len()], "{name}");
        }
    }
}

/// How a process ends that reads one byte of a mapping: None, or the signal.
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
