//! Tests of the shares with real files.

mod busy;
mod closed_above;
mod inotify_limit;
mod links;
mod listing;
mod marks;
mod model;
mod moving;
mod names;
mod ordering;
mod places;
mod planted;
mod restart;
mod rounds;
mod serving;
mod speed;
mod watching;
mod writable;

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;
use tokio::sync::mpsc::Receiver;

use super::*;
use crate::exclude::Exclude;
use crate::ledger::LEDGER_FILE;
use crate::proof::HashProof;
use p2pfs_proto::wire::native::record::{Entry, Kind, ShareIndex, Timestamp};
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::SharedPath;

/// Far longer than any step takes, so that only a failure reaches it.
const PATIENCE: Duration = Duration::from_secs(400);
/// Short, so that the tests run fast. No test depends on its length.
const QUIET: Duration = Duration::from_millis(100);

/// Returns the number of names that are left out for any reason.
fn left_out_count(status: &ShareStatus) -> u64 {
    status.left_out_counts.iter().map(|(_, count)| count).sum()
}

/// A share on real files, and the listing that its events add up to.
struct ShareBench {
    home: TempDir,
    config: ShareConfig,
    set: Option<ShareSet>,
    events: Option<Receiver<ShareEvent>>,
    listing: BTreeMap<SharedPath, Entry>,
    history: Vec<ShareEvent>,
    runtime: tokio::runtime::Runtime,
}

impl ShareBench {
    /// Creates an empty directory `share` that is not added yet.
    fn bare() -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("share")).unwrap();
        let config = ShareConfig {
            quiet: QUIET,
            rescan: Duration::from_secs(3600),
            ..ShareConfig::new(home.path().join("state"))
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let (listing, history) = (BTreeMap::new(), Vec::new());
        Self {
            home,
            config,
            set: None,
            events: None,
            listing,
            history,
            runtime,
        }
    }

    /// Opens an empty share.
    fn new() -> Self {
        let mut bench = Self::bare();
        bench.start();
        bench
    }

    fn open(&mut self) {
        let (set, events) = ShareSet::open(self.config.clone()).unwrap();
        (self.set, self.events) = (Some(set), Some(events));
    }

    fn start(&mut self) -> ShareIndex {
        self.open();
        let index = self.set().add(ShareSpec::new(self.dir())).unwrap();
        self.settle();
        index
    }

    /// Drops the set. The listing becomes the known entries of the next set.
    fn stop(&mut self) {
        self.set = None;
        self.events = None;
        let share = ShareIndex(0);
        let listed = self.listing.clone().into_iter();
        self.config.known = listed
            .map(|(path, entry)| Known { share, path, entry })
            .collect();
        self.history.clear();
    }

    fn set(&self) -> &ShareSet {
        self.set.as_ref().unwrap()
    }

    fn dir(&self) -> PathBuf {
        self.home.path().join("share")
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.at(name), bytes).unwrap();
    }

    fn mkdir(&self, name: &str) {
        fs::create_dir(self.at(name)).unwrap();
    }

    /// Creates a fifo.
    fn fifo(&self, name: &str) {
        let mode = Mode::from_raw_mode(0o644);
        mknodat(CWD, self.at(name), FileType::Fifo, mode, 0).unwrap();
    }

    fn chmod(&self, name: &str, mode: u32) {
        chmod(&self.at(name), mode);
    }

    fn take(&mut self, event: ShareEvent) {
        match &event {
            ShareEvent::Put { path, entry, .. } => {
                assert!(!path.is_root());
                self.listing.insert(path.clone(), entry.clone());
            }
            ShareEvent::Removed { path, .. } => {
                assert!(
                    self.listing.remove(path).is_some(),
                    "{path:?} was not listed"
                );
            }
            // sent each time the share is added
            ShareEvent::Readers { .. } | ShareEvent::Terms { .. } => return,
            _ => {}
        }
        self.history.push(event);
    }

    /// Receives events until the condition holds.
    fn wait_for(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            let events = self.events.as_mut().unwrap();
            let next = async { tokio::time::timeout(left, events.recv()).await };
            let event = self.runtime.block_on(next);
            let Ok(Some(event)) = event else {
                panic!(
                    "{what}: not within {PATIENCE:?}; listed: {:#?}",
                    self.names()
                );
            };
            self.take(event);
        }
    }

    /// Returns the ledger of the stopped set, which finds the rows of files in the share.
    fn ledger(&self) -> ShareLedger {
        let ledger = ShareLedger::open(&self.config.state_dir.join(LEDGER_FILE)).unwrap();
        let share = fs::File::open(self.at(".")).unwrap();
        ledger.filesystems().learn(share.as_fd());
        ledger
    }

    /// Receives events until every change is announced.
    fn settle(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let settled = self.set().wait_settled(Duration::from_millis(20));
            while let Ok(event) = self.events.as_mut().unwrap().try_recv() {
                self.take(event);
            }
            if settled {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "does not settle; {:?}",
                self.set().list()
            );
        }
    }

    /// Waits until the hash of each listed file is proven, so that it is used after a restart.
    fn prove(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.proofs().contains(&HashProof::Missing) {
            assert!(Instant::now() < deadline, "not proven: {:?}", self.proofs());
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    fn proofs(&self) -> Vec<HashProof> {
        let state = self.set().inner.shared.lock();
        let files = state.listing.tree.listed_files();
        let rows = files.map(|(dev, ino)| state.listing.ledger.get(dev, ino));
        let proofs = rows.map(|row| row.map_or(HashProof::Missing, |row| row.proof));
        proofs.collect()
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.listing.get(&path(name))
    }

    fn names(&self) -> Vec<String> {
        self.listing.keys().map(|path| path.to_string()).collect()
    }

    fn has(&self, name: &str, bytes: &[u8]) -> bool {
        let hash = ContentHash::of(bytes);
        let entry = self.entry(name);
        entry.is_some_and(|e| matches!(e.kind, Kind::File { hash: h, .. } if h == hash))
    }

    fn status(&self) -> ShareStatus {
        self.set().list().remove(0)
    }

    fn warnings(&self) -> Vec<(PathBuf, String)> {
        let warning = |event: &ShareEvent| match event {
            ShareEvent::Warning { path, why, .. } => Some((path.clone(), why.clone())),
            _ => None,
        };
        self.history.iter().filter_map(warning).collect()
    }

    /// Returns the warnings that were announced and not withdrawn.
    fn standing_warnings(&self) -> Vec<(PathBuf, String)> {
        let mut standing = Vec::new();
        for event in &self.history {
            match event {
                ShareEvent::Warning { path, why, .. } => standing.push((path.clone(), why.clone())),
                ShareEvent::Settled { path, why, .. } => {
                    standing.retain(|told| (&told.0, &told.1) != (path, why));
                }
                _ => {}
            }
        }
        standing
    }
}

fn path(name: &str) -> SharedPath {
    SharedPath::new(name.as_bytes()).unwrap()
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Sets the date of a file; `seconds` since 1970.
fn date(path: &Path, seconds: u64) {
    let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
    fs::File::open(path).unwrap().set_modified(time).unwrap();
}

fn seconds(time: Timestamp) -> i64 {
    time.seconds
}
