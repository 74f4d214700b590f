//! Tests of the scanner one round at a time, with changes that are visible before the kernel
//! reports them.
//!
//! The kernel makes a change first and reports it afterwards; a check may run in between. These
//! tests make a change while its directory is not watched, so its report never arrives.

mod missed;
mod renamed;

use std::io::Write as _;
use std::os::unix::fs::symlink;

use tokio::sync::mpsc;

use super::*;
use crate::name_state::NameState;
use crate::scanner::Scanner;
use crate::set::open_shared;
use crate::shared::SharedState;
use crate::state::ListingState;
use crate::tidying::LEDGER_SLACK_ROWS;
use crate::tree::Slot;
use crate::writable::WriteAccess;
use p2pfs_types::files::make_private_dir;

/// A share with a scanner that runs only on demand.
struct Rounds {
    home: TempDir,
    shared: Arc<SharedState>,
    scanner: Scanner,
    events: Receiver<ShareEvent>,
    root: Slot,
    told: Vec<ShareEvent>,
    hasher: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Rounds {
    fn drop(&mut self) {
        self.shared.stop();
        self.hasher.take().map(std::thread::JoinHandle::join);
    }
}

impl Rounds {
    fn new() -> Self {
        Self::with_quiet(QUIET)
    }

    fn with_quiet(quiet: Duration) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("share");
        fs::create_dir(&dir).unwrap();
        let config = ShareConfig {
            quiet,
            ..ShareConfig::new(home.path().join("state"))
        };
        make_private_dir(&config.state_dir).unwrap();
        let ledger = ShareLedger::open(&config.state_dir.join(LEDGER_FILE)).unwrap();
        let shared = Arc::new(open_shared(config, ledger).unwrap());
        let exclude = Arc::new(Exclude::new(&[], false).unwrap());
        let spec = ShareSpec::new(dir.clone());
        shared
            .lock()
            .add_share(0, &dir, &spec, exclude, WriteAccess::Off);
        let root = shared.lock().listing.shares.by_index[&0].root;
        let (sender, events) = mpsc::channel(EVENT_QUEUE_EVENTS);
        let mut rounds = Self {
            home,
            scanner: Scanner::new(shared.clone(), sender, 1 << 10),
            shared,
            events,
            root,
            told: Vec::new(),
            hasher: None,
        };
        rounds.run();
        rounds
    }

    fn at(&self, name: &str) -> PathBuf {
        self.home.path().join("share").join(name)
    }

    /// Runs rounds until only hashing is left to do.
    fn run(&mut self) {
        self.scanner.round();
        while self.scanner.has_work() {
            self.scanner.round();
        }
        self.told
            .extend(std::iter::from_fn(|| self.events.try_recv().ok()));
    }

    /// Reads the kernel's reports without checking the names.
    fn read_reports(&mut self) {
        self.scanner.reports.read(&self.shared);
    }

    /// Starts a hasher.
    fn begin_hashing(&mut self) {
        let shared = self.shared.clone();
        let hash = || hasher::spawn(&shared, false).unwrap();
        self.hasher.get_or_insert_with(hash);
    }

    /// Runs a hasher until `count` reads wait for the scanner.
    fn hash_until_read(&mut self, count: usize) {
        self.begin_hashing();
        while self.shared.lock().read.len() < count {
            std::thread::yield_now();
        }
    }

    /// Runs rounds and a hasher until the condition holds.
    fn run_and_hash_until(&mut self, is_so: impl Fn(&ListingState) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        self.begin_hashing();
        self.run();
        while !is_so(&self.shared.lock()) {
            assert!(Instant::now() < deadline, "told: {:?}", self.told);
            std::thread::yield_now();
            self.run();
        }
    }

    /// Runs rounds and a hasher until every change is announced.
    fn run_and_hash(&mut self) {
        self.run_and_hash_until(|state| {
            state.queue.files_left() == 0 && state.read.is_empty() && state.listing.order.is_empty()
        });
    }

    /// Runs rounds and a hasher until this file in the share's own directory is in this state.
    fn run_and_hash_until_at_rest(&mut self, name: &str, state_of_file: NameState) {
        let root = self.root;
        self.run_and_hash_until(|state| {
            let slot = state.listing.tree.child(root, name.as_bytes()).unwrap();
            state.queue.state(slot) == Some(state_of_file)
        });
    }

    /// Makes a change in the share's own directory that is not reported.
    fn unreported(&mut self, change: impl FnOnce(&Self)) {
        let watch = |state: &mut ListingState, root| {
            state.listing.tree.directory_mut(root).unwrap().watch.take()
        };
        let old = watch(&mut self.shared.lock(), self.root).unwrap();
        self.scanner.reports.watches.remove(old, self.root);
        change(self);
        let share = fs::File::open(self.home.path().join("share")).unwrap();
        let watches = &mut self.scanner.reports.watches;
        let new = watches.new_watch(None).unwrap().add(share.as_fd());
        watches.record(self.root, None, new);
        let mut state = self.shared.lock();
        state.listing.tree.directory_mut(self.root).unwrap().watch = new.ok();
    }

    /// Replaces a name by a link.
    fn point(&self, name: &str, target: &str) {
        symlink(target, self.at("next")).unwrap();
        fs::rename(self.at("next"), self.at(name)).unwrap();
    }

    /// Replaces a name by a file.
    fn replace(&self, name: &str, bytes: &[u8]) {
        fs::write(self.at("next"), bytes).unwrap();
        fs::rename(self.at("next"), self.at(name)).unwrap();
    }

    /// Returns how many puts of a file were announced.
    fn told_count(&self, name: &str) -> usize {
        let puts = self
            .told
            .iter()
            .filter(|event| is_put(event, name, |_| true));
        puts.count()
    }

    fn told_at(&self, what: impl Fn(&ShareEvent) -> bool) -> usize {
        self.told.iter().position(what).unwrap()
    }
}

fn is_put(event: &ShareEvent, name: &str, is: impl Fn(&Kind) -> bool) -> bool {
    matches!(event, ShareEvent::Put { path, entry, .. }
        if path.to_string() == name && is(&entry.kind))
}

fn leads_to(target: &str) -> impl Fn(&Kind) -> bool {
    move |kind| matches!(kind, Kind::Symlink { target: it } if it == target.as_bytes())
}

#[test]
fn a_link_seen_before_its_report_is_reported_after_its_target() {
    let mut rounds = Rounds::new();
    fs::create_dir(rounds.at("releases")).unwrap();
    rounds.point("current", "releases/0");
    rounds.run();
    rounds.point("current", "releases/1");
    rounds.read_reports();
    fs::create_dir(rounds.at("releases/2")).unwrap();
    symlink("text", rounds.at("releases/2/page")).unwrap();
    rounds.unreported(|rounds| rounds.point("current", "releases/2"));
    rounds.run();
    let page = rounds.told_at(|e| is_put(e, "releases/2/page", leads_to("text")));
    let link = rounds.told_at(|e| is_put(e, "current", leads_to("releases/2")));
    assert!(page < link, "{:?}", rounds.told);
}

#[test]
fn a_link_seen_before_its_report_is_reported_before_its_targets_removal() {
    let mut rounds = Rounds::new();
    symlink("text", rounds.at("old")).unwrap();
    rounds.point("current", "old");
    rounds.run();
    symlink("text", rounds.at("new")).unwrap();
    rounds.point("current", "new");
    rounds.read_reports();
    fs::remove_file(rounds.at("old")).unwrap();
    rounds.run();
    let link = rounds.told_at(|e| is_put(e, "current", leads_to("new")));
    let gone = rounds.told_at(|e| matches!(e, ShareEvent::Removed { .. }));
    assert!(link < gone, "{:?}", rounds.told);
}

#[test]
fn a_file_replaced_before_its_report_is_reported_after_its_predecessor() {
    let mut rounds = Rounds::new();
    fs::create_dir(rounds.at("objects")).unwrap();
    rounds.run();
    rounds.replace("ref", b"first");
    rounds.scanner.round();
    assert_eq!(rounds.shared.lock().queue.files_left(), 1);
    fs::write(rounds.at("objects/object"), b"object").unwrap();
    rounds.unreported(|rounds| rounds.replace("ref", b"second"));
    rounds.run_and_hash();
    let object = rounds.told_at(|e| is_put(e, "objects/object", holds(b"object")));
    let pointer = rounds.told_at(|e| is_put(e, "ref", holds(b"second")));
    assert!(object < pointer, "{:?}", rounds.told);
}

#[test]
fn a_removal_seen_before_its_report_is_reported_after_its_replacement() {
    let mut rounds = Rounds::new();
    fs::create_dir(rounds.at("packs")).unwrap();
    symlink("text", rounds.at("loose")).unwrap();
    rounds.run();
    rounds.point("loose", "text2");
    rounds.read_reports();
    symlink("text", rounds.at("packs/pack")).unwrap();
    rounds.unreported(|rounds| fs::remove_file(rounds.at("loose")).unwrap());
    rounds.run();
    let pack = rounds.told_at(|e| is_put(e, "packs/pack", leads_to("text")));
    let gone = rounds.told_at(|e| matches!(e, ShareEvent::Removed { .. }));
    assert!(pack < gone, "{:?}", rounds.told);
}

#[test]
fn a_scan_reports_a_link_after_later_reported_changes() {
    let mut rounds = Rounds::new();
    fs::create_dir(rounds.at("releases")).unwrap();
    rounds.point("current", "releases/0");
    rounds.run();
    rounds.shared.lock().listing.shares.scans.push(0);
    rounds.read_reports();
    symlink("text", rounds.at("releases/page")).unwrap();
    rounds.unreported(|rounds| rounds.point("current", "releases"));
    rounds.run();
    let page = rounds.told_at(|e| is_put(e, "releases/page", leads_to("text")));
    let link = rounds.told_at(|e| is_put(e, "current", leads_to("releases")));
    assert!(page < link, "{:?}", rounds.told);
}

#[test]
fn a_directory_moved_into_its_former_child_is_listed_at_once() {
    let mut rounds = Rounds::new();
    fs::create_dir_all(rounds.at("a/b")).unwrap();
    fs::write(rounds.at("a/file"), b"bytes").unwrap();
    rounds.run();
    // the former a/b contains the former a, and has its place
    fs::create_dir(rounds.at("new")).unwrap();
    for (from, to) in [("a/b", "new/b"), ("a", "new/b/c"), ("new", "a")] {
        fs::rename(rounds.at(from), rounds.at(to)).unwrap();
    }
    rounds.told.clear();
    rounds.run_and_hash();
    let is_file = |kind: &Kind| matches!(kind, Kind::File { .. });
    assert!(
        rounds
            .told
            .iter()
            .any(|event| is_put(event, "a/b/c/file", is_file)),
        "{:?}",
        rounds.told
    );
}

fn holds(bytes: &[u8]) -> impl Fn(&Kind) -> bool + use<> {
    let hash = ContentHash::of(bytes);
    move |kind| matches!(kind, Kind::File { hash: it, .. } if *it == hash)
}

/// Opens a file and overwrites its first bytes, as the first part of a longer write.
fn begin_writing(at: &Path, half: &[u8]) -> fs::File {
    let mut writer = fs::OpenOptions::new().write(true).open(at).unwrap();
    writer.write_all(half).unwrap();
    writer
}

#[test]
fn a_half_written_file_is_not_listed_after_an_earlier_writers_close() {
    let mut rounds = Rounds::with_quiet(PATIENCE * 10);
    fs::write(rounds.at("f"), b"1111").unwrap();
    let mut writer = begin_writing(&rounds.at("f"), b"22");
    rounds.run_and_hash_until_at_rest("f", NameState::Settling);
    assert_eq!(rounds.told_count("f"), 0, "{:?}", rounds.told);
    writer.write_all(b"22").unwrap();
    drop(writer);
    rounds.run_and_hash();
    rounds.told_at(|event| is_put(event, "f", holds(b"2222")));
    assert_eq!(rounds.told_count("f"), 1, "{:?}", rounds.told);
}

#[test]
fn a_file_written_again_before_it_is_hashed_is_not_listed_half_written() {
    let mut rounds = Rounds::with_quiet(PATIENCE * 10);
    fs::write(rounds.at("f"), b"1111").unwrap();
    rounds.run();
    assert_eq!(rounds.shared.lock().queue.files_left(), 1);
    let writer = begin_writing(&rounds.at("f"), b"22");
    // it is read whole before the write is reported
    rounds.hash_until_read(1);
    rounds.run_and_hash_until_at_rest("f", NameState::Settling);
    assert_eq!(rounds.told_count("f"), 0, "{:?}", rounds.told);
    drop(writer);
    rounds.run_and_hash();
    rounds.told_at(|event| is_put(event, "f", holds(b"2211")));
}

#[test]
fn a_file_dated_after_its_close_does_not_wait() {
    let mut rounds = Rounds::with_quiet(PATIENCE * 10);
    fs::write(rounds.at("f"), b"1111").unwrap();
    let writer = begin_writing(&rounds.at("f"), b"22");
    rounds.run();
    // it still has a writer, and this round finds out only that
    rounds.hash_until_read(1);
    drop(writer);
    date(&rounds.at("f"), 1_000_000);
    rounds.run_and_hash();
    rounds.told_at(|event| is_put(event, "f", holds(b"2211")));
}

#[test]
fn a_half_written_file_is_not_listed_before_its_write_is_reported() {
    let mut rounds = Rounds::with_quiet(PATIENCE * 10);
    fs::write(rounds.at("f"), b"1111").unwrap();
    rounds.run();
    let mut writer = None;
    rounds.unreported(|rounds| writer = Some(begin_writing(&rounds.at("f"), b"22")));
    rounds.run_and_hash_until_at_rest("f", NameState::Settling);
    assert_eq!(rounds.told_count("f"), 0, "{:?}", rounds.told);
    drop(writer);
    rounds.run_and_hash();
    rounds.told_at(|event| is_put(event, "f", holds(b"2211")));
}

#[test]
fn a_file_still_counted_as_open_just_after_its_close_does_not_wait() {
    let mut rounds = Rounds::with_quiet(PATIENCE * 10);
    fs::write(rounds.at("f"), b"1111").unwrap();
    rounds.run();
    let mut writer = None;
    rounds.unreported(|rounds| writer = Some(begin_writing(&rounds.at("f"), b"")));
    rounds.run_and_hash_until_at_rest("f", NameState::Settling);
    rounds.unreported(|_| drop(writer.take()));
    rounds.run_and_hash();
    rounds.told_at(|event| is_put(event, "f", holds(b"1111")));
}

#[test]
fn a_file_closed_by_one_writer_is_listed_while_another_is_idle() {
    let mut rounds = Rounds::new();
    fs::write(rounds.at("f"), b"0000").unwrap();
    let idle = begin_writing(&rounds.at("f"), b"");
    fs::write(rounds.at("f"), b"1111").unwrap();
    let root = rounds.root;
    rounds.run_and_hash_until(|state| {
        // that rest would last until it was quiet
        let slot = state.listing.tree.child(root, b"f").unwrap();
        assert_ne!(state.queue.state(slot), Some(NameState::BeingWritten));
        state.queue.files_left() == 0 && state.listing.order.is_empty()
    });
    rounds.run();
    rounds.told_at(|event| is_put(event, "f", holds(b"1111")));
    drop(idle);
}

#[test]
fn a_file_closed_under_one_name_is_listed_under_both_while_another_writer_is_idle() {
    let mut rounds = Rounds::new();
    fs::write(rounds.at("f"), b"0000").unwrap();
    fs::hard_link(rounds.at("f"), rounds.at("g")).unwrap();
    rounds.run_and_hash();
    let idle = begin_writing(&rounds.at("g"), b"");
    fs::write(rounds.at("f"), b"1111").unwrap();
    let root = rounds.root;
    rounds.run_and_hash_until(|state| {
        for name in ["f", "g"] {
            let slot = state.listing.tree.child(root, name.as_bytes()).unwrap();
            assert_ne!(state.queue.state(slot), Some(NameState::BeingWritten));
        }
        let left = state.queue.files_left() + state.listing.rechecks.len();
        left == 0 && state.listing.order.is_empty() && state.read.is_empty()
    });
    rounds.run();
    for name in ["f", "g"] {
        rounds.told_at(|event| is_put(event, name, holds(b"1111")));
    }
    drop(idle);
}

#[test]
fn a_file_closed_by_one_program_is_listed_while_another_writes() {
    let mut rounds = Rounds::new();
    fs::write(rounds.at("f"), b"0000").unwrap();
    rounds.run_and_hash();
    let mut other = begin_writing(&rounds.at("f"), b"");
    fs::write(rounds.at("f"), b"1111").unwrap();
    let (root, deadline) = (rounds.root, Instant::now() + PATIENCE);
    while rounds.told_count("f") == 1 {
        assert!(Instant::now() < deadline, "told: {:?}", rounds.told);
        rounds.run();
        let state = rounds.shared.lock();
        let slot = state.listing.tree.child(root, b"f").unwrap();
        if state.queue.state(slot) == Some(NameState::Settling) {
            other.write_all(b"2").unwrap();
        }
    }
}

#[test]
fn a_file_withdrawn_under_one_name_during_hashing_is_listed_under_neither() {
    let mut rounds = Rounds::with_quiet(PATIENCE * 10);
    fs::write(rounds.at("f"), b"1111").unwrap();
    fs::hard_link(rounds.at("f"), rounds.at("g")).unwrap();
    rounds.run();
    rounds.hash_until_read(2);
    chmod(&rounds.at("g"), 0o600);
    rounds.run_and_hash();
    let gone = |event: &ShareEvent| match event {
        ShareEvent::Removed { path, .. } => path.to_string() == "f",
        _ => false,
    };
    let last = rounds.told.iter().rposition(|e| is_put(e, "f", |_| true));
    assert!(
        last < rounds.told.iter().rposition(gone),
        "{:?}",
        rounds.told
    );
    assert_eq!(rounds.told_count("g"), 0, "{:?}", rounds.told);
}

#[test]
fn writes_by_a_freshly_linked_name_are_seen_under_the_existing_one() {
    let mut rounds = Rounds::with_quiet(PATIENCE * 10);
    fs::write(rounds.at("f"), b"1111").unwrap();
    rounds.run_and_hash();
    fs::hard_link(rounds.at("f"), rounds.at("g")).unwrap();
    drop(begin_writing(&rounds.at("g"), b"22"));
    rounds.run_and_hash();
    for name in ["f", "g"] {
        rounds.told_at(|event| is_put(event, name, holds(b"2211")));
    }
}

#[test]
fn a_closed_file_is_listed_although_it_was_written_once_more_before_hashing() {
    let mut rounds = Rounds::with_quiet(PATIENCE * 10);
    fs::write(rounds.at("f"), b"1111").unwrap();
    rounds.run();
    drop(begin_writing(&rounds.at("f"), b"22"));
    rounds.hash_until_read(1);
    rounds.run_and_hash();
    rounds.told_at(|event| is_put(event, "f", holds(b"2211")));
}

#[test]
fn ledger_keeps_the_rows_of_a_share_that_others_may_not_read_for_a_time() {
    let mut rounds = Rounds::new();
    fs::write(rounds.at("f"), b"f").unwrap();
    let stat = rustix::fs::stat(rounds.at("f")).unwrap();
    rounds.run_and_hash();
    let ledger = rounds.shared.lock().listing.ledger.clone();
    let row = loop {
        match ledger.get(stat.st_dev, stat.st_ino) {
            Some(row) => break row,
            None => std::thread::yield_now(),
        }
    };
    let gone = LEDGER_SLACK_ROWS + 10;
    for number in 1..=gone {
        let mut other = row.clone();
        other.identity.ino = stat.st_ino + number;
        ledger.put(other);
    }
    while ledger.len() <= gone {
        std::thread::yield_now();
    }
    let dir = rounds.at("");
    for (mode, rows) in [(0o700, gone + 1), (0o755, 1)] {
        chmod(&dir, mode);
        rounds.shared.lock().listing.shares.scan_all();
        rounds.run_and_hash();
        rounds.scanner.tidying.run(&rounds.shared);
        assert_eq!(ledger.len(), rows, "{mode:o}");
    }
    assert!(ledger.get(stat.st_dev, stat.st_ino).is_some());
}
