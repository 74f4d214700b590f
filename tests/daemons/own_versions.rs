//! The node's own files where they are not shown live: under a conflict name, and by their hash.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use macro_rules_attribute::apply;

use crate::support::content::noise;
use crate::support::daemon::{Cluster, Node, NodeOptions, set_mode};
use crate::support::process::{HANG_LIMIT, eventually};
use crate::support::promise::{Need, mount, promise};

const NEEDS: &[Need] = &[mount];

/// A deadline so long that no answer within a test's patience can come from it.
const DEADLINE: &str = "[mount]\nread_deadline = \"10m\"\n";
const MIB: usize = 1 << 20;

fn write_in_place(node: &Node, name: &str, offset: u64, bytes: &[u8]) {
    let shared = File::options().write(true).open(node.share.join(name));
    shared.unwrap().write_all_at(bytes, offset).unwrap();
}

/// Reads a whole file through a handle, using the handle's size.
fn read_all(open: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; open.metadata()?.len() as usize];
    open.read_exact_at(&mut bytes, 0).map(|()| bytes)
}

fn is_stale<T>(outcome: &io::Result<T>) -> bool {
    let error = outcome.as_ref().err();
    error.and_then(io::Error::raw_os_error) == Some(libc::ESTALE)
}

#[apply(promise)]
fn an_own_file_without_its_name_is_the_opened_version_or_stale() {
    let mut cluster = Cluster::new();
    let one = cluster.start_with(NodeOptions {
        config: DEADLINE.to_owned(),
        ..NodeOptions::new("one")
    });
    let two = cluster.start("two");
    let old = noise(7, 16 * MIB);
    one.write("both.bin", &old);
    two.wait_for_file("both.bin");
    two.write("both.bin", b"the newer one");
    let lost: PathBuf = one.mounted("both~one.bin");
    eventually("the older one shows beside it", HANG_LIMIT, || {
        lost.exists()
    });
    let open = File::open(&lost).unwrap();
    write_in_place(&one, "both.bin", 8 << 20, b"something else");
    let begun = Instant::now();
    let read = read_all(&open);
    match read {
        Ok(bytes) => assert!(bytes == old, "a mixture of two versions"),
        stale => assert!(is_stale(&stale), "{stale:?}"),
    }
    File::options()
        .append(true)
        .open(one.share.join("both.bin"))
        .and_then(|shared| shared.set_len(MIB as u64))
        .unwrap();
    let read = read_all(&open);
    assert!(is_stale(&read) || read.is_ok_and(|bytes| bytes == old));
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(300),
        "not by the deadline: {took:?}"
    );
}

#[apply(promise)]
fn changed_bytes_of_an_own_file_are_stale_by_its_hash_and_not_by_the_deadline() {
    let mut cluster = Cluster::new();
    let node = cluster.start_with(NodeOptions {
        config: DEADLINE.to_owned(),
        ..NodeOptions::new("one")
    });
    // The file is far larger than the kernel's read-ahead.
    let old = noise(8, 32 * MIB);
    node.write("own.bin", &old);
    node.wait_for_file("own.bin");
    let hash = blake3::hash(&old).to_hex();
    let open = File::open(node.mounted(&format!(".p2pfs/by-hash/{hash}"))).unwrap();
    let mut page = [0; 4096];
    open.read_exact_at(&mut page, 0).unwrap();
    assert_eq!(page, old[..4096]);
    write_in_place(&node, "own.bin", 31 << 20, b"something else");
    // Bytes that did not change are still those of the hash.
    open.read_exact_at(&mut page, 30 << 20).unwrap();
    assert_eq!(page, old[30 << 20..][..4096]);
    let begun = Instant::now();
    assert!(is_stale(&open.read_exact_at(&mut page, 31 << 20)));
    let took = begun.elapsed();
    assert!(
        took < Duration::from_secs(300),
        "not by the deadline: {took:?}"
    );
    let seen = fs::read(node.mounted("own.bin")).unwrap();
    assert_eq!(
        seen[31 * MIB..][..14],
        *b"something else",
        "its own name shows it as it is"
    );
}

#[apply(promise)]
fn a_file_renamed_over_an_own_one_is_fetched_whole_or_not_at_all() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    let (old, new) = (noise(9, 4 * MIB), noise(10, 5 * MIB));
    node.write("base.iso", &old);
    node.wait_for_file("base.iso");
    let next = node.home.join("next.iso");
    fs::write(&next, &new).unwrap();
    set_mode(&next, 0o644);
    fs::rename(&next, node.share.join("base.iso")).unwrap();
    let got = node.cli(&["get", "base.iso", "-o", "-"]);
    if got.status.success() {
        assert!(got.stdout == new, "the start of another file")
    } else {
        assert!(got.stderr.contains("get it again"), "{}", got.stderr)
    }
    eventually("the new one is listed", HANG_LIMIT, || {
        node.cli(&["get", "base.iso", "-o", "-"]).stdout == new
    });
}

#[apply(promise)]
fn a_renamed_own_file_is_read_by_its_hash_or_stale_without_a_descriptor() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    // The file is larger than the memory for replaced contents.
    let bytes = noise(11, 20 * MIB);
    node.write("0.iso", &bytes);
    node.wait_for_file("0.iso");
    let hash = blake3::hash(&bytes).to_hex();
    let by_hash = node.mounted(&format!(".p2pfs/by-hash/{hash}"));
    let page_of = |path: &Path| {
        let mut page = [0; 4096];
        let open = File::open(path)?;
        open.read_exact_at(&mut page, 9 << 20).map(|()| page)
    };
    for round in 0..30 {
        let (from, to) = (format!("{round}.iso"), format!("{}.iso", round + 1));
        fs::rename(node.share.join(from), node.share.join(to)).unwrap();
        match page_of(&by_hash) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            read => assert!(
                is_stale(&read) || read.is_ok_and(|page| page == bytes[9 * MIB..][..4096]),
                "round {round}"
            ),
        }
    }
    eventually("it is read again", HANG_LIMIT, || {
        page_of(&by_hash).is_ok_and(|page| page == bytes[9 * MIB..][..4096])
    });
}
