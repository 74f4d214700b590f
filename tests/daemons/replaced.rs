//! An open file of another node that is replaced or overwritten at its sharer.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use macro_rules_attribute::apply;

use crate::support::content::noise;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];
const MIB: usize = 1 << 20;
/// Size of a file, far larger than the read-ahead.
const SIZE: usize = 64 * MIB;

/// Returns a sharer and a reader. The reader's deadline is so long that no answer within a test's
/// patience can come from it.
fn two_nodes(cluster: &mut Cluster) -> (Node, Node) {
    let sharer = cluster.start("sharer");
    let reader = cluster.start_with(NodeOptions {
        config: "[mount]\nread_deadline = \"1h\"\n".to_owned(),
        ..NodeOptions::new("reader")
    });
    (sharer, reader)
}

/// Opens a file and reads only its first bytes.
fn open_begun(reader: &Node, name: &str, old: &[u8]) -> File {
    reader.wait_for_file(name);
    let open = File::open(reader.mounted(name)).unwrap();
    let mut start = vec![0; 64 << 10];
    open.read_exact_at(&mut start, 0).unwrap();
    assert!(start == old[..start.len()]);
    open
}

fn wait_for_new(reader: &Node, name: &str, new: &[u8]) {
    eventually("the new version is seen", HANG_LIMIT, || {
        fs::read(reader.mounted(name)).is_ok_and(|bytes| bytes == new)
    });
}

fn is_stale<T>(outcome: &io::Result<T>) -> bool {
    let error = outcome.as_ref().err();
    error.and_then(io::Error::raw_os_error) == Some(libc::ESTALE)
}

#[apply(promise)]
fn a_file_replaced_at_its_sharer_is_read_to_its_end_through_an_open_handle() {
    let mut cluster = Cluster::new();
    let (sharer, reader) = two_nodes(&mut cluster);
    let old = noise(21, SIZE);
    sharer.write("file", &old);
    let next = sharer.home.join("next");
    fs::write(&next, b"the new one").unwrap();
    let open = open_begun(&reader, "file", &old);
    fs::rename(&next, sharer.share.join("file")).unwrap();
    let mut bytes = vec![0; SIZE];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == old);
    wait_for_new(&reader, "file", b"the new one");
    assert!(open.metadata().unwrap().len() == SIZE as u64);
}

#[apply(promise)]
fn a_file_emptied_at_its_sharer_is_estale_at_once_through_an_open_handle() {
    let mut cluster = Cluster::new();
    let (sharer, reader) = two_nodes(&mut cluster);
    let old = noise(22, SIZE);
    sharer.write("file", &old);
    let open = open_begun(&reader, "file", &old);
    // The write keeps the inode, as `echo > file` does, so no node has the old bytes.
    fs::write(sharer.share.join("file"), b"the new one").unwrap();
    let begun = Instant::now();
    let lost = open.read_at(&mut [0; 4096], 60 << 20);
    let took = begun.elapsed();
    assert!(is_stale(&lost), "{lost:?}");
    assert!(took < HANG_LIMIT, "not by the deadline: {took:?}");
    wait_for_new(&reader, "file", b"the new one");
    let again = open.read_at(&mut [0; 4096], 61 << 20);
    assert!(is_stale(&again), "{again:?}");
    let mut start = [0; 4096];
    open.read_exact_at(&mut start, 0).unwrap();
    assert_eq!(start, old[..4096], "what is cached is there");
}

#[apply(promise)]
fn a_file_modified_at_its_sharer_is_its_old_bytes_or_estale_elsewhere() {
    let mut cluster = Cluster::new();
    let (sharer, reader) = two_nodes(&mut cluster);
    let old = noise(23, SIZE);
    sharer.write("file", &old);
    let open = open_begun(&reader, "file", &old);
    let shared = File::options().write(true).open(sharer.share.join("file"));
    shared.unwrap().write_all_at(b"another", 60 << 20).unwrap();
    let begun = Instant::now();
    let mut page = vec![0; 4096];
    for place in [60 << 20, 63 << 20, 20 << 20] {
        let read = open.read_exact_at(&mut page, place as u64);
        assert!(is_stale(&read) || page == old[place..][..4096], "{read:?}");
    }
    let took = begun.elapsed();
    assert!(took < HANG_LIMIT, "not by the deadline: {took:?}");
    let mut new = old;
    new[60 << 20..][..7].copy_from_slice(b"another");
    wait_for_new(&reader, "file", &new);
}

/// Each reader has parts, and knows that the other has some. Neither can get the rest from the
/// other.
#[apply(promise)]
fn a_file_emptied_at_its_sharer_is_estale_at_once_for_all_readers() {
    let mut cluster = Cluster::new();
    let (sharer, reader) = two_nodes(&mut cluster);
    let another = cluster.start_with(NodeOptions {
        config: "[mount]\nread_deadline = \"1h\"\n".to_owned(),
        ..NodeOptions::new("another")
    });
    sharer.write("file", &noise(24, SIZE));
    sharer.cli(&["limits", "--up", "4MiB/s"]).expect_ok();
    let begun = Instant::now();
    let (tell, told) = std::sync::mpsc::channel();
    let read = |node: &Node| {
        node.wait_for_file("file");
        let (open, tell) = (File::open(node.mounted("file")).unwrap(), tell.clone());
        std::thread::spawn(move || {
            let mut bytes = vec![0; MIB];
            (0..SIZE / MIB).try_for_each(|at| {
                open.read_exact_at(&mut bytes, (at * MIB) as u64)?;
                let _ = tell.send(());
                Ok(())
            })
        })
    };
    let readers = [&reader, &another].map(read);
    // By then, both have parts that they got from each other.
    for _ in 0..16 {
        told.recv_timeout(HANG_LIMIT).unwrap();
    }
    fs::write(sharer.share.join("file"), b"the new one").unwrap();
    for reader in readers {
        let outcome: io::Result<()> = reader.join().unwrap();
        assert!(is_stale(&outcome), "{outcome:?}");
    }
    let took = begun.elapsed();
    assert!(took < HANG_LIMIT, "not by the deadline: {took:?}");
}

#[apply(promise)]
fn a_file_overwritten_and_restored_is_read_elsewhere_once_it_is_listed_again() {
    let mut cluster = Cluster::new();
    let (sharer, reader) = two_nodes(&mut cluster);
    let bytes = noise(25, SIZE);
    let (shared, mounted) = (sharer.share.join("file"), reader.mounted("file"));
    fs::write(&shared, &bytes).unwrap();
    let open = open_begun(&reader, "file", &bytes);
    let mut page = [0; 4096];
    for place in [30 * MIB, 60 * MIB] {
        // The write keeps the inode, so no node has the old bytes.
        fs::write(&shared, b"the new one").unwrap();
        eventually("who has the old one open is told", HANG_LIMIT, || {
            is_stale(&open.read_exact_at(&mut page, place as u64))
        });
        wait_for_new(&reader, "file", b"the new one");
        fs::write(&shared, &bytes).unwrap();
        eventually("the old one is listed again", HANG_LIMIT, || {
            fs::metadata(&mounted).is_ok_and(|it| it.len() == SIZE as u64)
        });
        let again = File::open(&mounted).unwrap();
        again.read_exact_at(&mut page, place as u64).unwrap();
        assert!(page == bytes[place..][..4096]);
    }
}

#[apply(promise)]
fn a_lost_version_that_was_opened_and_never_read_is_estale_after_the_grace_time() {
    let mut cluster = Cluster::new();
    let (sharer, reader) = two_nodes(&mut cluster);
    let names = ["replaced", "emptied", "removed"];
    for (seed, name) in (26..).zip(names) {
        sharer.write(name, &noise(seed, SIZE));
    }
    let open = names.map(|name| {
        reader.wait_for_file(name);
        File::open(reader.mounted(name)).unwrap()
    });
    fs::write(sharer.share.join("replaced"), b"the new one").unwrap();
    fs::write(sharer.share.join("emptied"), b"").unwrap();
    fs::remove_file(sharer.share.join("removed")).unwrap();
    for (name, length) in [("replaced", 11), ("emptied", 0)] {
        eventually("the new version is listed", HANG_LIMIT, || {
            fs::metadata(reader.mounted(name)).is_ok_and(|it| it.len() == length)
        });
    }
    eventually("the removed file is no longer listed", HANG_LIMIT, || {
        !reader.mounted("removed").exists()
    });
    for (name, open) in names.iter().zip(open) {
        let start = Instant::now();
        let lost = open.read_at(&mut [0; 4096], (SIZE / 2) as u64);
        assert!(is_stale(&lost), "{name}: {lost:?}");
        assert!(start.elapsed() < HANG_LIMIT, "{name}: by the deadline");
    }
}
