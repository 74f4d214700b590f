//! Large files, which are written past the page cache.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fs::{Advice, fadvise};

use super::*;
use crate::direct::DIRECT_FILE_MIN_BYTES;
use p2pfs_types::digest::{InMemory, ReadAt};
use p2pfs_types::extent::CHUNK_BYTES;
use p2pfs_types::pool::PiecePool;

const MIB: u64 = 1 << 20;
/// Not a multiple of the page size, so that the last piece goes through the page cache.
const SIZE_BYTES: u64 = DIRECT_FILE_MIN_BYTES + 3 * MIB + 777;
const PATIENCE: Duration = Duration::from_secs(60);

/// Creates a cache on a disk, if the machine has one for temporary files.
pub(super) fn place() -> Place {
    let disk = tempfile::tempdir_in("/var/tmp").or_else(|_| tempfile::tempdir());
    Place {
        dir: disk.unwrap(),
        ..Place::new(1 << 30)
    }
}

/// Returns a range as it arrives from the network: aligned to a page in memory.
pub(super) fn arrived(source: &Source, range: ByteRange) -> Verified {
    let verified = source.verified(range);
    let page = PAGE_BYTES as usize;
    let mut room = Vec::with_capacity(verified.bytes.len() + page);
    let address = room.as_ptr() as usize;
    let start = address.next_multiple_of(page) - address;
    room.resize(start, 0);
    room.extend_from_slice(&verified.bytes);
    let bytes = Bytes::from(room).slice(start..);
    Verified { bytes, ..verified }
}

fn pieces(length_bytes: u64) -> Vec<ByteRange> {
    cut(SIZE_BYTES, length_bytes)
}

fn shuffled(mut pieces: Vec<ByteRange>, seed: u64) -> Vec<ByteRange> {
    pieces.sort_by_key(|piece| {
        *blake3::hash(format!("{seed} {}", piece.start).as_bytes()).as_bytes()
    });
    pieces
}

/// Opens the data file as another reader would.
fn data_file(file: &CacheFile) -> File {
    File::open(&file.shared().paths.data).unwrap()
}

/// Returns whether part of the file was written past the page cache. Otherwise prints that the
/// dependent checks are skipped.
pub(super) fn went_past_pages(file: &CacheFile, place: &Place) -> bool {
    if !file.is_past_pages() {
        let place = place.dir.path().display();
        eprintln!("SKIPPED: the disk under {place} is slow, or writes by pages alone");
    }
    file.is_past_pages()
}

/// Forgets the bytes in memory, so that later reads go to the disk.
fn forget_recent(cache: &Cache, source: &Source) {
    cache.core().context.recent.forget(source.hash());
}

fn is_in_pages(file: &File, offset: u64) -> bool {
    InMemory(file)
        .read_at(offset, &mut [0; 4096])
        .is_ok_and(|read| read > 0)
}

#[test]
fn a_large_file_is_correct_for_any_order_and_size_of_its_pieces() {
    let source = Source::new(1, SIZE_BYTES as usize);
    for (seed, length) in [(1, MIB), (2, 192 << 10), (3, 100 << 10), (4, 68 << 10)] {
        let place = place();
        let (cache, _events) = place.open();
        let file = open_file(&cache, &source);
        for (number, piece) in shuffled(pieces(length), seed).into_iter().enumerate() {
            let verified = match number % 3 {
                2 => source.verified(piece),
                _ => arrived(&source, piece),
            };
            assert_eq!(file.store(&verified).unwrap(), Stored::Kept);
        }
        assert!(file.is_complete());
        assert_eq!(source.check_all(&file), SIZE_BYTES);
        drop(file);
        drop(cache);
        let (cache, _events) = place.open();
        assert_eq!(source.check_all(&open_file(&cache, &source)), SIZE_BYTES);
    }
}

#[test]
fn a_large_file_leaves_the_page_cache_to_others_until_it_is_used_again() {
    let (place, source) = (place(), Source::new(2, SIZE_BYTES as usize));
    let (cache, _events) = place.open();
    let file = open_file(&cache, &source);
    for piece in pieces(MIB) {
        file.store(&arrived(&source, piece)).unwrap();
    }
    let data = data_file(&file);
    let in_pages = |mib: u64| is_in_pages(&data, mib * MIB);
    if !went_past_pages(&file, &place) {
        return;
    }
    // If the disk is busy, some writes go through the kernel.
    assert!(!(0..16).all(in_pages));
    file.warm();
    let until = Instant::now() + PATIENCE;
    while !(0..16).all(in_pages) {
        assert!(Instant::now() < until, "it was not read again");
        thread::sleep(Duration::from_millis(10));
    }
    forget_recent(&cache, &source);
    assert_eq!(source.check_all(&file), SIZE_BYTES);
}

#[test]
fn a_disk_without_direct_writes_is_written_through_the_page_cache() {
    let source = Source::new(3, SIZE_BYTES as usize);
    let (place, faults) = (place(), Arc::new(Faults::none()));
    faults.refuse_direct();
    let (cache, _events) = place.try_open(Some(faults)).unwrap();
    let file = open_file(&cache, &source);
    let few = [MIB, 5 * MIB].map(|start| ByteRange::at(start, 128 << 10));
    for piece in few {
        assert_eq!(file.store(&arrived(&source, piece)).unwrap(), Stored::Kept);
    }
    assert_eq!(source.check_all(&file), 256 << 10);
    let data = data_file(&file);
    assert!(few.iter().all(|piece| is_in_pages(&data, piece.start)));
}

/// The kernel reads ahead of a reader into unwritten ranges; such pages hold zeros.
#[test]
fn a_reader_beside_the_writer_never_sees_the_previous_content() {
    let source = Source::new(4, SIZE_BYTES as usize);
    for seed in 0..4 {
        let place = place();
        let (cache, _events) = place.open();
        let file = open_file(&cache, &source);
        file.store(&arrived(&source, ByteRange::new(0, MIB)))
            .unwrap();
        let data = data_file(&file);
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    for start in (0..SIZE_BYTES).step_by(64 << 10) {
                        let _asked = fadvise(&data, start, None, Advice::WillNeed);
                        is_in_pages(&data, start);
                    }
                }
            });
            for thread_of in 0..2 {
                let (file, source, is_over) = (&file, &source, &is_over);
                scope.spawn(move || {
                    while !is_over.load(Ordering::Relaxed) {
                        for piece in shuffled(pieces(MIB), thread_of) {
                            let mut read = vec![0; piece.len() as usize];
                            if let ReadOutcome::Ready(_) =
                                file.read_at(piece.start, &mut read).unwrap()
                            {
                                let truth = &source.data[piece.start as usize..piece.end as usize];
                                assert!(read == truth, "wrong bytes in {piece:?}");
                            }
                        }
                    }
                });
            }
            for (number, piece) in shuffled(pieces(256 << 10), seed).into_iter().enumerate() {
                let verified = match number % 4 {
                    3 => source.verified(piece),
                    _ => arrived(&source, piece),
                };
                file.store(&verified).unwrap();
                forget_recent(&cache, &source);
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!(source.check_all(&file), SIZE_BYTES);
    }
}

/// Bytes fetched ahead of a reader are read shortly later, and peers request them too.
#[test]
fn freshly_stored_bytes_are_not_read_back_from_the_disk() {
    let (place, source) = (place(), Source::new(6, SIZE_BYTES as usize));
    let (cache, _events) = place.open();
    let file = open_file(&cache, &source);
    let pieces: Vec<_> = pieces(MIB).into_iter().take(8).collect();
    let bytes_kept = || cache.core().context.recent.bytes();
    for piece in &pieces {
        file.store(&arrived(&source, *piece)).unwrap();
    }
    if !went_past_pages(&file, &place) {
        return;
    }
    let kept = bytes_kept() as u64 / MIB;
    assert!(kept > 0);
    for piece in &pieces {
        let mut buffer = vec![0; MIB as usize];
        let read = file.read_at(piece.start, &mut buffer).unwrap();
        assert_eq!(read, ReadOutcome::Ready(buffer.len()));
        assert_eq!(buffer, source.verified(*piece).bytes);
        let proof = file.encode_at_once(*piece, &PiecePool::default()).unwrap();
        assert_eq!(proof, file.encode(*piece, &PiecePool::default()).unwrap());
    }
    let data = data_file(&file);
    // In reverse order, because checking a page makes the kernel read the next ones.
    let past = (0..8).rev().filter(|mib| !is_in_pages(&data, mib * MIB));
    // If the disk is busy, some writes go through the kernel, which reads ahead from there.
    assert!(kept < 8 || past.count() == 8);
    drop(file);
    assert_eq!(bytes_kept(), 0, "nobody has it open any more");
}

/// Bytes in memory say nothing about the disk.
#[test]
fn rot_on_the_disk_is_found_while_memory_still_has_the_bytes() {
    let (place, source) = (place(), Source::new(7, SIZE_BYTES as usize));
    let (cache, _events) = place.open();
    let file = open_file(&cache, &source);
    for piece in pieces(MIB) {
        file.store(&arrived(&source, piece)).unwrap();
    }
    let rotten = 15 * MIB;
    let data = File::options().write(true).open(&file.shared().paths.data);
    data.unwrap().write_all_at(b"rot", rotten).unwrap();
    let found = cache.verify(|_| ControlFlow::Continue(()));
    assert_eq!(found.dropped_bytes, CHUNK_BYTES);
    let lost = ByteRange::at(rotten, CHUNK_BYTES);
    assert_eq!(file.missing_in(source.whole()), ExtentSet::of(lost));
    file.store(&arrived(&source, lost)).unwrap();
    forget_recent(&cache, &source);
    assert_eq!(source.check_all(&file), SIZE_BYTES);
}
