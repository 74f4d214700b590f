//! Figures of a share of 100,000 small files: `cargo bench --bench share`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use p2pfs_share::{Known, ShareConfig, ShareEvent, ShareSet, ShareSpec};

const FILES: usize = 100_000;
const FILES_PER_DIRECTORY: usize = 1000;
/// Time limit, far longer than any step takes.
const LIMIT: Duration = Duration::from_secs(600);

fn main() {
    let home = tempfile::tempdir().unwrap();
    let (share, state) = (home.path().join("share"), home.path().join("state"));
    fill(&share);
    let resident_before = resident_bytes();
    let known = scan("walked and hashed", &share, &state, Vec::new());
    println!(
        "resident: {} kB more",
        (resident_bytes() - resident_before) / 1000
    );
    scan("after a restart", &share, &state, known);
}

fn fill(share: &Path) {
    for number in 0..FILES {
        let folder = share.join(format!("d{}", number / FILES_PER_DIRECTORY));
        if number % FILES_PER_DIRECTORY == 0 {
            fs::create_dir_all(&folder).unwrap();
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let file = folder.join(format!("file-{number:06}.txt"));
        fs::write(&file, format!("content of {number}").repeat(20)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    }
    fs::set_permissions(share, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Opens the share and waits until it is listed completely. Returns the state that a restart would
/// know.
fn scan(what: &str, share: &Path, state: &Path, known: Vec<Known>) -> Vec<Known> {
    let begun = Instant::now();
    let config = ShareConfig {
        known,
        ..ShareConfig::new(state)
    };
    let (set, mut events) = ShareSet::open(config).unwrap();
    let collect = std::thread::spawn(move || {
        let mut put = Vec::new();
        while let Some(event) = events.blocking_recv() {
            if let ShareEvent::Put { share, path, entry } = event {
                put.push(Known { share, path, entry });
            }
        }
        put
    });
    set.add(ShareSpec::new(share)).unwrap();
    assert!(set.wait_settled(LIMIT));
    println!("{what}: {:?}", begun.elapsed());
    assert_eq!(set.list()[0].totals.files, FILES as u64);
    drop(set);
    collect.join().unwrap()
}

fn resident_bytes() -> i64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: i64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
