//! Large files, whose bytes stay in the page cache for their next reader.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;

use bytes::Bytes;
use rustix::fs::{Advice, fadvise};

use super::*;
use p2pfs_types::digest::{InMemory, ReadAt};
use p2pfs_types::extent::CHUNK_BYTES;
use p2pfs_types::pool::PiecePool;

const MIB: u64 = 1 << 20;
/// Not a multiple of the page size.
const SIZE_BYTES: u64 = 19 * MIB + 777;

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
    File::open(&file.shared().files.paths.data).unwrap()
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
fn a_stored_file_is_in_the_page_cache_for_its_next_reader() {
    let (place, source) = (place(), Source::new(2, SIZE_BYTES as usize));
    let (cache, _events) = place.open();
    let file = open_file(&cache, &source);
    for piece in pieces(MIB) {
        file.store(&arrived(&source, piece)).unwrap();
        let proof = file.encode(piece, &PiecePool::default()).unwrap();
        assert_eq!(
            file.encode_at_once(piece, &PiecePool::default()),
            Some(proof)
        );
    }
    let data = data_file(&file);
    assert!(
        (0..SIZE_BYTES)
            .step_by(PAGE_BYTES as usize)
            .all(|at| is_in_pages(&data, at))
    );
    assert_eq!(source.check_all(&file), SIZE_BYTES);
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
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!(source.check_all(&file), SIZE_BYTES);
    }
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
    let data = File::options()
        .write(true)
        .open(&file.shared().files.paths.data);
    data.unwrap().write_all_at(b"rot", rotten).unwrap();
    let found = cache.verify(|_| ControlFlow::Continue(()));
    assert_eq!(found.dropped_bytes, CHUNK_BYTES);
    let lost = ByteRange::at(rotten, CHUNK_BYTES);
    assert_eq!(file.missing_in(source.whole()), ExtentSet::of(lost));
    file.store(&arrived(&source, lost)).unwrap();
    assert_eq!(source.check_all(&file), SIZE_BYTES);
}
