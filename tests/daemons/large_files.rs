//! Files so large that the cache bypasses the kernel's page cache.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::thread;

use macro_rules_attribute::apply;
use rustix::fs::{Advice, fadvise};

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];
/// Not a multiple of the page size.
const SIZE: usize = (40 << 20) + 12_345;
const PIECE: usize = 100_000;

/// Reads the whole file in pieces, out of order.
fn read_scattered(file: &File, bytes: &[u8], step: usize) {
    let pieces = SIZE / PIECE;
    let mut piece = vec![0; PIECE];
    for number in 0..pieces {
        let start = number * step % pieces * PIECE;
        file.read_exact_at(&mut piece, start as u64).unwrap();
        assert!(
            piece == bytes[start..start + PIECE],
            "wrong bytes at {start}"
        );
    }
}

#[apply(promise)]
fn a_large_file_is_correct_on_each_read_whatever_runs_beside_it() {
    let mut cluster = Cluster::new();
    let mut nodes = cluster.start_all(&["owner", "reader"]);
    let bytes = noise(7, SIZE);
    nodes[0].write("large", &bytes);
    nodes[1].wait_for_file("large");
    let path = nodes[1].mounted("large");
    thread::scope(|scope| {
        for step in [1, 7, 101] {
            let (path, bytes) = (&path, &bytes);
            scope.spawn(move || read_scattered(&File::open(path).unwrap(), bytes, step));
        }
        assert!(fs::read(&path).unwrap() == bytes);
    });
    for _ in 0..2 {
        assert!(fs::read(&path).unwrap() == bytes);
        let file = File::open(&path).unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        read_scattered(&file, &bytes, 13);
    }

    // After a restart the daemon has the whole file, without any peer.
    nodes[1].kill();
    nodes[1].launch();
    nodes[1].wait_for_file("large");
    nodes[0].kill();
    assert!(fs::read(&path).unwrap() == bytes);
}
