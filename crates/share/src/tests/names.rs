//! The states of shared names compared with a model of a disk, of its writers and of the kernel's
//! reports. The time is virtual, and no file is read.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::checks::PendingChecks;
use crate::identity::{FileIdentity, FileTimestamp, NameStat};
use crate::name_state::NameState;
use crate::observe::ObservedName;
use crate::outcome::{FinishedRead, HashOutcome, HashTrust};
use crate::proof::Told;
use crate::queue::DequeuedFile;
use crate::reports::note_report;
use crate::state::ListingState;
use crate::tree::{FileBody, LeftOutBody, Slot};
use crate::watch::{Cause, InotifyReport, NameChange};
use crate::writable::WriteAccess;

const NAMES: [&str; 3] = ["a", "b", "c"];
const MODEL_QUIET: Duration = Duration::from_secs(2);
/// A date long ago, in seconds since 1970.
const OLD_SECONDS: i64 = 1_700_000_000;
/// Far more rounds than any file needs to become listed once it is at rest.
const SETTLE_ROUNDS_MAX: usize = 100;

/// A step of the model, with the index of a name.
#[derive(Clone, Copy, Debug)]
enum NameAction {
    Create(usize),
    Open(usize),
    Write {
        at: usize,
        grows: bool,
    },
    /// A write that sets the mtime back.
    WriteDated(usize),
    Close(usize),
    Rename(usize, usize),
    Link(usize, usize),
    Unlink(usize),
    Chmod(usize),
    SetOldDate(usize),
    Check,
    Walk,
    TakeRead,
    EndRead,
    Suspect(usize),
    Pass {
        milliseconds: u64,
    },
}

fn any_action() -> impl Strategy<Value = NameAction> {
    use NameAction::*;
    let at = || 0..NAMES.len();
    let pass = prop_oneof![Just(10u64), Just(100), Just(1000), Just(3000), Just(12_000)];
    prop_oneof![
        3 => at().prop_map(Create),
        2 => at().prop_map(Open),
        6 => (at(), any::<bool>()).prop_map(|(at, grows)| Write { at, grows }),
        2 => at().prop_map(WriteDated),
        5 => at().prop_map(Close),
        2 => (at(), at()).prop_map(|(from, to)| Rename(from, to)),
        1 => (at(), at()).prop_map(|(from, to)| Link(from, to)),
        1 => at().prop_map(Unlink),
        1 => at().prop_map(Chmod),
        1 => at().prop_map(SetOldDate),
        8 => Just(Check),
        1 => Just(Walk),
        6 => Just(TakeRead),
        6 => Just(EndRead),
        1 => at().prop_map(Suspect),
        5 => pass.prop_map(|milliseconds| Pass { milliseconds }),
    ]
}

/// A file of the model.
#[derive(Clone, Copy)]
struct ModelFile {
    identity: FileIdentity,
    /// Number of the content.
    version: u64,
    private: bool,
    writers: u32,
    written_at: Instant,
    /// When its ctime was set last.
    changed_at: Instant,
}

impl ModelFile {
    fn hash(&self) -> ContentHash {
        ContentHash::of(
            &[self.identity.ino, self.version]
                .map(u64::to_le_bytes)
                .concat(),
        )
    }
}

fn model_stat(identity: FileIdentity, links: u64) -> NameStat {
    NameStat {
        identity,
        mode: 0o100_644,
        links,
        made_up: false,
    }
}

/// A running read.
struct ModelRead {
    taken: DequeuedFile,
    /// Number of changes of the name that had been checked before.
    changes: u64,
    opened: Result<OpenedModelFile, HashOutcome>,
}

/// A file as it was found before it was read.
struct OpenedModelFile {
    file: ModelFile,
    recent: bool,
    unwritten: bool,
}

/// The disk, the reports that are not read yet, and the state that follows them.
struct NameModel {
    _home: TempDir,
    state: ListingState,
    root: Slot,
    now: Instant,
    /// The kernel's clock, which stands still within one tick.
    tick: FileTimestamp,
    files: BTreeMap<u64, ModelFile>,
    names: [Option<u64>; NAMES.len()],
    reports: VecDeque<InotifyReport>,
    checks: PendingChecks,
    reads: VecDeque<ModelRead>,
    /// Number of checks of each name that found a change by a writer.
    changes: [u64; NAMES.len()],
    listing: BTreeMap<SharedPath, Entry>,
}

impl NameModel {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let ledger = ShareLedger::open(&home.path().join(LEDGER_FILE)).unwrap();
        let mut state = ListingState::new(ledger, MODEL_QUIET, Vec::new());
        let exclude = Arc::new(Exclude::new(&[], false).unwrap());
        let spec = ShareSpec::new(home.path().to_owned());
        state.add_share(0, home.path(), &spec, exclude, WriteAccess::Off);
        let root = state.listing.shares.by_index[&0].root;
        let directory = state.listing.tree.directory_mut(root).unwrap();
        (directory.watch, directory.is_local) = (Some(1), true);
        Self {
            root,
            _home: home,
            state,
            now: Instant::now(),
            tick: FileTimestamp::new(FileTimestamp::now().seconds, 0),
            files: BTreeMap::new(),
            names: [None; NAMES.len()],
            reports: VecDeque::new(),
            checks: PendingChecks::new(),
            reads: VecDeque::new(),
            changes: [0; NAMES.len()],
            listing: BTreeMap::new(),
        }
    }

    fn file(&mut self, at: usize) -> Option<&mut ModelFile> {
        self.files.get_mut(&self.names[at]?)
    }

    fn report(&mut self, at: usize, cause: Cause, change: NameChange) {
        self.reports.push_back(InotifyReport::Name {
            directory: self.root,
            name: NAMES[at].as_bytes().into(),
            cause,
            change,
        });
    }

    fn take_step(&mut self, action: NameAction) {
        let (tick, now) = (self.tick, self.now);
        match action {
            NameAction::Create(at) if self.names[at].is_none() => self.create(at),
            NameAction::Open(at) => {
                self.file(at).into_iter().for_each(|file| file.writers += 1);
            }
            NameAction::Write { at, grows } => self.write(at, grows, false),
            NameAction::WriteDated(at) => self.write(at, false, true),
            NameAction::Close(at) => {
                let Some(file) = self.file(at).filter(|file| file.writers > 0) else {
                    return;
                };
                file.writers -= 1;
                self.report(at, Cause::Closed, NameChange::Written);
            }
            NameAction::Rename(from, to) if self.names[from] != self.names[to] => {
                let Some(file) = self.file(from) else { return };
                (file.identity.ctime, file.changed_at) = (tick, now);
                self.names[to] = self.names[from].take();
                let old_name = (self.root, NAMES[from].as_bytes().into());
                self.report(to, Cause::Closed, NameChange::Moved(Some(old_name)));
                self.report(from, Cause::Unlinked, NameChange::Removed);
            }
            NameAction::Link(from, to) if self.names[to].is_none() => {
                let Some(file) = self.file(from) else { return };
                (file.identity.ctime, file.changed_at) = (tick, now);
                self.names[to] = self.names[from];
                self.report(to, Cause::Created, NameChange::Created);
            }
            NameAction::Unlink(at) if self.names[at].take().is_some() => {
                self.report(at, Cause::Unlinked, NameChange::Removed);
            }
            NameAction::Chmod(at) => {
                let Some(file) = self.file(at) else { return };
                file.private = !file.private;
                (file.identity.ctime, file.changed_at) = (tick, now);
                self.report(at, Cause::Walk, NameChange::Attributes);
            }
            NameAction::SetOldDate(at) => {
                let Some(file) = self.file(at) else { return };
                file.identity.mtime = FileTimestamp::new(OLD_SECONDS, 0);
                (file.identity.ctime, file.changed_at) = (tick, now);
                self.report(at, Cause::Walk, NameChange::Attributes);
            }
            NameAction::Check => self.check(),
            NameAction::Walk => self.walk(),
            NameAction::TakeRead => self.take_read(),
            NameAction::EndRead => self.end_read(),
            NameAction::Suspect(at) => {
                let slot = self.slot(at);
                let file = slot.and_then(|slot| self.state.listing.tree.file(slot));
                if let Some(file) = file.filter(|file| file.listed) {
                    self.state.suspect(&file.hash);
                }
            }
            NameAction::Pass { milliseconds } => self.pass(Duration::from_millis(milliseconds)),
            _ => {}
        }
    }

    /// Writes to an open file. A dated write sets the mtime back.
    fn write(&mut self, at: usize, grows: bool, is_dated: bool) {
        let (tick, now) = (self.tick, self.now);
        let Some(file) = self.file(at).filter(|file| file.writers > 0) else {
            return;
        };
        file.version += 1;
        file.identity.size_bytes += u64::from(grows);
        file.identity.ctime = tick;
        (file.written_at, file.changed_at) = (now, now);
        if !is_dated {
            file.identity.mtime = tick;
        }
        self.report(at, Cause::Modified, NameChange::Written);
        if is_dated {
            self.report(at, Cause::Walk, NameChange::Attributes);
        }
    }

    fn create(&mut self, at: usize) {
        let ino = self.files.len() as u64 + 1;
        let identity = FileIdentity {
            dev: 1,
            ino,
            size_bytes: 0,
            mtime: self.tick,
            ctime: self.tick,
        };
        let file = ModelFile {
            identity,
            version: 0,
            private: false,
            writers: 1,
            written_at: self.now,
            changed_at: self.now,
        };
        self.files.insert(ino, file);
        self.names[at] = Some(ino);
        self.report(at, Cause::Created, NameChange::Created);
    }

    fn next_tick(&mut self) {
        self.tick = FileTimestamp::new(self.tick.seconds, self.tick.nanoseconds + 1);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.next_tick();
        self.state.wake_rested(self.now);
    }

    fn slot(&self, at: usize) -> Option<Slot> {
        self.state
            .listing
            .tree
            .child(self.root, NAMES[at].as_bytes())
    }

    /// Returns the number of names of a file.
    fn links(&self, ino: Option<u64>) -> u64 {
        self.names.iter().filter(|it| **it == ino).count() as u64
    }

    /// Stats a name as the scanner does.
    fn stat(&mut self, name: &[u8]) -> ObservedName {
        let at = NAMES.iter().position(|it| it.as_bytes() == name).unwrap();
        let links = self.links(self.names[at]);
        let Some(file) = self.file(at) else {
            return ObservedName::Nothing;
        };
        let identity = file.identity;
        if file.private {
            return ObservedName::LeftOut(LeftOutBody {
                why: LeftOutWhy::Private,
                directory: false,
                identity,
            });
        }
        ObservedName::File(model_stat(identity, links))
    }

    /// Reads all reports, then checks their names.
    fn check(&mut self) {
        self.checks.begin_reading(self.tick);
        for report in std::mem::take(&mut self.reports) {
            note_report(&mut self.state.listing, &mut self.checks, report);
        }
        for recheck in std::mem::take(&mut self.state.listing.rechecks) {
            let turn = self.state.listing.order.step();
            let (directory, name) = (recheck.directory, recheck.name);
            let (cause, told) = (recheck.cause, recheck.told);
            self.checks.add_report(directory, name, cause, told, turn);
        }
        let now = self.now;
        for ((directory, name), check) in self.checks.take() {
            let found = self.stat(&name);
            self.checks.record_closed_writer(&check, &found, now);
            self.state.listing.order.set_turn(check.turn);
            let cause = match &found {
                ObservedName::File(seen) => {
                    self.checks.cause_of_file(&check, seen, now, MODEL_QUIET)
                }
                _ => check.cause,
            };
            self.count_change(&name, &found, cause);
            let told = check.told;
            self.state
                .observe(directory, &name, found, cause, told, now);
        }
    }

    /// Counts a check that found a change by a writer, if it finds attributes that are not listed.
    fn count_change(&mut self, name: &[u8], found: &ObservedName, cause: Cause) {
        let at = NAMES.iter().position(|it| it.as_bytes() == name).unwrap();
        let ObservedName::File(seen) = found else {
            return;
        };
        let has_old_date = seen.identity.mtime == FileTimestamp::new(OLD_SECONDS, 0);
        let is_by_writer = cause.is_of_writer() && !has_old_date;
        let listed = self.slot(at).and_then(|slot| self.listed(slot));
        let is_new = listed.is_none_or(|file| file.identity != seen.identity);
        self.changes[at] += u64::from(is_by_writer && is_new);
    }

    fn listed(&self, slot: Slot) -> Option<FileBody> {
        self.state
            .listing
            .tree
            .file(slot)
            .filter(|file| file.listed)
    }

    fn walk(&mut self) {
        for name in NAMES {
            let found = self.stat(name.as_bytes());
            self.state.listing.order.step_of_walk();
            let (name, cause, told) = (name.as_bytes(), Cause::Walk, Told::Nothing);
            self.state
                .observe(self.root, name, found, cause, told, self.now);
        }
    }

    /// Opens the next queued file, as a hasher does.
    fn take_read(&mut self) {
        let Some(taken) = self.state.queue.take(false, u64::MAX) else {
            return;
        };
        let name = self.state.listing.tree.name(taken.held.slot);
        let at = NAMES.iter().position(|it| it.as_bytes() == name).unwrap();
        let (now, witnessed) = (self.now, self.state.witnessed(&taken));
        let opened = match self.file(at).map(|file| *file) {
            None => Err(HashOutcome::Elsewhere),
            Some(file) if file.private => Err(HashOutcome::Elsewhere),
            Some(file) => {
                let age = now - file.changed_at;
                let recent = age < MODEL_QUIET;
                let known = witnessed.filter(|known| {
                    let (now, then) = (&file.identity, &known.identity);
                    let is_same = now.is_inode_of(then) && now.size_bytes == then.size_bytes;
                    is_same && file.writers == 0
                });
                let has_writer = file.writers > 0 && recent;
                let is_overdue = taken
                    .closed_at
                    .is_some_and(|at| now - at >= MODEL_QUIET / 2);
                let is_idle = age >= MODEL_QUIET / 2 || is_overdue;
                let is_done = !has_writer || taken.held.busy || taken.held.sure && is_idle;
                if let Some(known) = known {
                    Err(HashOutcome::Hashed {
                        seen: model_stat(file.identity, self.links(Some(file.identity.ino))),
                        hash: known.hash,
                        trust: HashTrust::Racy { is_open: false },
                        unwritten: false,
                    })
                } else if is_done {
                    Ok(OpenedModelFile {
                        file,
                        recent,
                        unwritten: !has_writer,
                    })
                } else {
                    Err(HashOutcome::BeingWritten(age))
                }
            }
        };
        let changes = self.changes[at];
        self.reads.push_back(ModelRead {
            taken,
            changes,
            opened,
        });
    }

    /// Ends the oldest read. Checks that a content is not listed if a writer may have changed it
    /// during the read.
    fn end_read(&mut self) {
        let Some(ModelRead {
            taken,
            changes,
            opened,
        }) = self.reads.pop_front()
        else {
            return;
        };
        let is_cancelled = taken.cancel.load(std::sync::atomic::Ordering::Relaxed);
        let outcome = match opened {
            Err(outcome) => outcome,
            Ok(_) if is_cancelled => HashOutcome::Changed,
            Ok(opened) => self.conclude(&opened),
        };
        let (slot, busy) = (taken.held.slot, taken.held.busy);
        let name = self.state.listing.tree.name(slot);
        let at = NAMES.iter().position(|it| it.as_bytes() == name);
        let before = self.listed(slot).map(|file| file.hash);
        self.state
            .hashed(FinishedRead::of(taken.held, outcome), self.now);
        let after = self.listed(slot).map(|file| file.hash);
        let is_changed = at.is_some_and(|at| self.changes[at] != changes);
        if let HashOutcome::Hashed { unwritten, .. } = outcome {
            let is_partial = is_changed && !unwritten && !busy;
            assert!(
                !is_partial || before == after,
                "a half-written file is listed"
            );
        }
    }

    fn conclude(&self, opened: &OpenedModelFile) -> HashOutcome {
        let (before, ino) = (opened.file, opened.file.identity.ino);
        let after = self.files[&ino];
        let is_renamed = after.identity != before.identity;
        let links = self.links(Some(ino));
        let is_same = after.identity.same_but_ctime(&before.identity) && links == 1;
        if is_renamed && !is_same {
            return HashOutcome::Changed;
        }
        if opened.recent && opened.unwritten && after.writers > 0 {
            return HashOutcome::BeingWritten(self.now - before.changed_at);
        }
        let is_open = after.writers > 0;
        let trust = match is_open {
            _ if opened.recent || is_renamed => HashTrust::Racy { is_open },
            false => HashTrust::Sure,
            true => HashTrust::UntilClosed,
        };
        HashOutcome::Hashed {
            seen: model_stat(after.identity, links),
            hash: before.hash(),
            trust,
            unwritten: opened.unwritten && after.writers == 0 && !is_renamed,
        }
    }

    fn send_events(&mut self) {
        let mut events = std::mem::take(&mut self.state.listing.shares.outbox);
        self.state.listing.release(self.now, &mut events);
        for event in events {
            match event {
                ShareEvent::Put { path, entry, .. } => drop(self.listing.insert(path, entry)),
                ShareEvent::Removed { path, .. } => {
                    assert!(
                        self.listing.remove(&path).is_some(),
                        "{path} was not listed"
                    );
                }
                _ => {}
            }
        }
    }

    /// Checks that a turn waits only for a file that is to be read.
    fn check_waits(&self) -> Result<(), TestCaseError> {
        for slot in (0..NAMES.len()).filter_map(|at| self.slot(at)) {
            let state = self.state.queue.state(slot);
            let waits = self.state.listing.order.turn_of(slot).is_some();
            let is_read = state.is_some_and(NameState::waits_for_read);
            prop_assert!(is_read || !waits, "a turn waits for a file in {:?}", state);
            let is_written = state == Some(NameState::BeingWritten);
            prop_assert!(!(is_written && waits), "a turn waits for a writer");
        }
        let left = self.state.queue.left().count();
        prop_assert_eq!(self.state.queue.files_left(), left);
        Ok(())
    }

    /// Ends all writers, and lets the time pass until no read is due.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for at in 0..NAMES.len() {
            while self.file(at).is_some_and(|file| file.writers > 0) {
                self.take_step(NameAction::Close(at));
            }
        }
        for _ in 0..SETTLE_ROUNDS_MAX {
            self.check();
            self.take_read();
            self.end_read();
            self.check_waits()?;
            self.send_events();
            let is_due = (0..NAMES.len())
                .filter_map(|at| self.slot(at))
                .any(|slot| self.state.queue.state(slot).is_some());
            let is_busy =
                is_due || !self.reads.is_empty() || !self.state.listing.rechecks.is_empty();
            if !is_busy && self.state.listing.order.is_empty() {
                return Ok(());
            }
            self.pass(MODEL_QUIET / 2);
        }
        let states = (0..NAMES.len()).map(|at| self.state.queue.state(self.slot(at)?));
        let states: Vec<_> = states.collect();
        Err(TestCaseError::fail(format!("does not settle: {states:?}")))
    }

    /// Compares the listing with the disk.
    fn compare(&mut self) -> Result<(), TestCaseError> {
        for (at, name) in NAMES.into_iter().enumerate() {
            let file = self.file(at).filter(|file| !file.private).map(|file| *file);
            let expected = file.map(|file| {
                let identity = file.identity;
                let kind = Kind::File {
                    hash: file.hash(),
                    size_bytes: identity.size_bytes,
                    executable: false,
                };
                (kind, Timestamp::from(identity.mtime))
            });
            let listed = self.listing.get(&path(name));
            let listed = listed.map(|entry| (entry.kind.clone(), entry.mtime));
            prop_assert_eq!(listed, expected, "{}", name);
            let slot = self.slot(at);
            let node = slot.and_then(|slot| self.state.listing.tree.get(slot));
            let shown = node.map(|node| node.body.shown());
            let is_private = self.file(at).map(|file| file.private);
            let state = is_private.map(|private| {
                if private {
                    NameState::Rejected
                } else {
                    NameState::Listed
                }
            });
            prop_assert_eq!(shown, state, "{}", name);
        }
        Ok(())
    }
}

/// Takes the steps one by one, then compares the settled listing with the disk.
fn compare_after(actions: Vec<NameAction>) -> Result<(), TestCaseError> {
    let mut model = NameModel::new();
    for action in actions {
        model.take_step(action);
        model.check_waits()?;
        model.send_events();
    }
    model.settle()?;
    // the kernel does not report a write under the other names of a file
    model.walk();
    model.settle()?;
    model.compare()
}

#[test]
fn the_old_name_of_a_renamed_file_is_removed_once_although_the_new_one_was_checked_twice() {
    use NameAction::{Check, Create, EndRead, Pass, Rename, TakeRead, WriteDated};
    let second = || Pass { milliseconds: 1000 };
    let listed = [Create(0), second(), Check, second(), TakeRead, EndRead];
    let renamed = [Rename(0, 1), WriteDated(1), Check];
    compare_after(listed.into_iter().chain(renamed).collect()).unwrap();
}

#[test]
fn a_write_reported_under_one_name_is_read_under_the_other_one_that_was_being_read() {
    use NameAction::{Check, Chmod, Close, Create, Link, Open, TakeRead, WriteDated};
    let both_are_read = [Create(0), Close(0), Link(0, 2), Check, TakeRead, TakeRead];
    let written = [Open(2), WriteDated(0), Chmod(2), Close(0), Chmod(0)];
    compare_after(both_are_read.into_iter().chain(written).collect()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..Default::default() })]

    #[test]
    fn every_name_ends_listed_as_it_is_on_the_disk_after_any_schedule(
        actions in proptest::collection::vec(any_action(), 1..120)
    ) {
        compare_after(actions)?;
    }
}
