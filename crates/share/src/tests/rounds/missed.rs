//! Tests of changes that the kernel did not report under their names, or that could not be checked.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;
use crate::identity::{FileIdentity, FileTimestamp, NameStat};
use crate::ledger::LedgerRow;
use crate::listing::HashedFile;
use crate::observe::ObservedName;
use crate::proof::Told;
use crate::version_clock::{ClockChange, VersionClock};
use crate::walk::{OpenShareDirectory, ShareDirectory};
use crate::watch::Cause;
use p2pfs_types::path::HIDDEN_ROOT;

fn is_removed(event: &ShareEvent, name: &str) -> bool {
    matches!(event, ShareEvent::Removed { path, .. } if path.to_string() == name)
}

#[test]
fn a_directory_that_reports_only_itself_is_checked() {
    let mut rounds = Rounds::new();
    fs::create_dir(rounds.at("disk")).unwrap();
    rounds.run();
    // as for the root of a mount, about which its parent directory gets no report
    rounds.unreported(|rounds| chmod(&rounds.at("disk"), 0o700));
    rounds.run();
    rounds.told_at(|event| is_removed(event, "disk"));
}

#[test]
fn a_directory_whose_watch_ended_silently_is_watched_again_by_the_next_scan() {
    let mut rounds = Rounds::new();
    let watch = |rounds: &Rounds| {
        let state = rounds.shared.lock();
        state
            .listing
            .tree
            .directory(rounds.root)
            .unwrap()
            .watch
            .unwrap()
    };
    let dead = watch(&rounds);
    rounds.scanner.reports.watches.remove(dead, rounds.root);
    rounds.run();
    assert_eq!(watch(&rounds), dead, "it is not heard of");
    rounds.shared.lock().listing.shares.scans.push(0);
    rounds.run();
    assert_ne!(watch(&rounds), dead);
    symlink("text", rounds.at("later")).unwrap();
    rounds.run();
    rounds.told_at(|event| is_put(event, "later", leads_to("text")));
    // another walk does not add another watch
    let alive = watch(&rounds);
    rounds.shared.lock().listing.shares.scans.push(0);
    rounds.run();
    assert_eq!(watch(&rounds), alive);
}

#[test]
fn a_name_left_out_for_its_form_is_no_longer_counted_once_it_is_gone() {
    let mut rounds = Rounds::new();
    let hidden = rounds.at(std::str::from_utf8(HIDDEN_ROOT).unwrap());
    let left_out = |rounds: &Rounds| {
        rounds.shared.lock().listing.shares.by_index[&0]
            .left_out
            .len()
    };
    fs::create_dir(&hidden).unwrap();
    rounds.run();
    assert_eq!(left_out(&rounds), 1);
    fs::remove_dir(&hidden).unwrap();
    rounds.run();
    assert_eq!(left_out(&rounds), 0);
}

/// Returns how a file without a mark is listed.
fn unmarked(hash: ContentHash) -> HashedFile {
    HashedFile {
        hash,
        mark: None,
        proof: HashProof::Times,
    }
}

#[test]
fn a_version_is_not_permanently_backdated_by_an_unset_clock() {
    let mut rounds = Rounds::new();
    fs::write(rounds.at("f"), b"f").unwrap();
    date(&rounds.at("f"), 1_700_000_000);
    rounds.run_and_hash();
    let state = rounds.shared.lock();
    let slot = state.listing.tree.child(rounds.root, b"f").unwrap();
    let file = state.listing.tree.file(slot).unwrap();
    let hashed = unmarked(file.hash);
    let by = |clock| {
        let clock = FileTimestamp::new(clock, 0);
        state
            .listing
            .version_of(slot, &file.identity, &hashed, clock)
    };
    let seen = state.listing.tree.version(slot, &file);
    assert_eq!(seen, FileTimestamp::new(1_700_000_000, 0));
    assert_eq!(by(946_684_800), seen);
    assert_eq!(by(1_800_000_000), seen);
}

#[test]
fn version_that_a_wrong_clock_dated_gets_its_time_once_the_clock_is_right() {
    let mut rounds = Rounds::new();
    for (name, seconds) in [("f", 1_800_000_000), ("early", 1_600_000_000)] {
        fs::write(rounds.at(name), name).unwrap();
        date(&rounds.at(name), seconds);
    }
    rounds.run_and_hash();
    let mut state = rounds.shared.lock();
    let hour = 3_600;
    let at = |seconds: i64| FileTimestamp::new(1_800_000_000 + seconds, 0);
    // the clock is an hour behind when the file is first seen, and is then set
    state.listing.clock = VersionClock::at(at(5 - hour), at(5 - hour), 0);
    let slots = ["f", "early"].map(|name| {
        let slot = state
            .listing
            .tree
            .child(rounds.root, name.as_bytes())
            .unwrap();
        let file = state.listing.tree.file(slot).unwrap();
        let seen = NameStat::of(&rustix::fs::stat(rounds.at(name)).unwrap());
        state.listing.ledger.forget(&file.identity);
        state.listing.unlist(slot);
        let hashed = unmarked(file.hash);
        state.listing.list_file(slot, &seen, hashed, true);
        slot
    });
    let version = |state: &ListingState, slot| {
        let file = state.listing.tree.file(slot).unwrap();
        state.listing.tree.version(slot, &file)
    };
    assert_eq!(version(&state, slots[0]), at(5 - hour));
    let change = state.listing.clock.advance(at(10), 5_000_000_000);
    let Some(ClockChange::Late(step)) = change else {
        panic!("{change:?}");
    };
    state.listing.correct_versions(&step);
    assert_eq!(version(&state, slots[0]), at(0));
    let early = FileTimestamp::new(1_600_000_000, 0);
    assert_eq!(version(&state, slots[1]), early);
    let file = state.listing.tree.file(slots[0]).unwrap();
    let row = state
        .listing
        .ledger
        .get(file.identity.dev, file.identity.ino);
    assert_eq!(row.unwrap().first_seen, at(0));
}

#[test]
fn version_is_the_present_only_while_the_clock_is_more_than_a_day_behind() {
    let mut rounds = Rounds::new();
    fs::write(rounds.at("f"), b"f").unwrap();
    date(&rounds.at("f"), 1_790_000_000);
    rounds.run_and_hash();
    let version_at = |rounds: &mut Rounds, seconds| {
        let mut state = rounds.shared.lock();
        let clock = FileTimestamp::new(seconds, 0);
        state.listing.clock = VersionClock::at(clock, clock, 0);
        let slot = state.listing.tree.child(rounds.root, b"f").unwrap();
        let found = ObservedName::File(NameStat::of(&rustix::fs::stat(rounds.at("f")).unwrap()));
        let (cause, told) = (Cause::Walk, Told::Nothing);
        state.observe(rounds.root, b"f", found, cause, told, Instant::now());
        let file = state.listing.tree.file(slot).unwrap();
        state.listing.tree.version(slot, &file)
    };
    for (clock, version) in [
        (1_795_000_000, 1_790_000_000),
        (1_780_000_000, 1_780_000_000),
        (1_795_000_000, 1_790_000_000),
    ] {
        let version = FileTimestamp::new(version, 0);
        assert_eq!(version_at(&mut rounds, clock), version);
    }
}

#[test]
fn a_found_but_unlisted_name_is_nothing() {
    let mut rounds = Rounds::new();
    // /proc finds a thread by its number, but only its process's directory lists it
    let (tell, told) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let itself = fs::read_link("/proc/thread-self").unwrap();
        tell.send(itself.file_name().unwrap().to_owned()).unwrap();
        ended.recv()
    });
    let number = told.recv().unwrap();
    let unlisted: Box<[u8]> = number.as_encoded_bytes().into();
    let place = ShareDirectory {
        index: 0,
        slot: rounds.root,
        number: None,
        dir: Path::new("/proc").into(),
        listed_below: SharePlace::default(),
        include_private: true,
        exclude: Arc::new(Exclude::new(&[], false).unwrap()),
        path: SharedPath::root(),
    };
    let checked = rounds.scanner.disk.run(0, Path::new("/proc"), move |disk| {
        let share = disk.beneath.open_share(&place.dir).unwrap();
        let open = OpenShareDirectory::open(disk.beneath, place, share).unwrap();
        let found = open.check(disk, &unlisted);
        let names = [&*unlisted, b"uptime", b"no such name"].map(Box::from);
        let looks = open.check_unmet(disk, names.into());
        let are_nothing: Vec<bool> = looks.iter().map(|look| look.1.is_nothing()).collect();
        (found.is_nothing(), are_nothing)
    });
    assert_eq!(checked, Some((false, vec![true, false, true])));
    drop(end);
    assert!(thread.join().unwrap().is_err());
}

#[test]
fn with_invented_inode_numbers_a_hash_is_known_only_by_its_listed_name() {
    let mut rounds = Rounds::new();
    fs::write(rounds.at("old"), b"1111").unwrap();
    date(&rounds.at("old"), 1_700_000_000);
    rounds.run_and_hash();
    rounds.run_and_hash_until(|state| {
        let (dev, ino) = state.listing.tree.listed_files().next().unwrap();
        let row = state.listing.ledger.get(dev, ino);
        row.is_some_and(|row| row.proof != HashProof::Missing)
    });
    let stat = rustix::fs::stat(rounds.at("old")).unwrap();
    let mut state = rounds.shared.lock();
    // the listed entry dates from when its file had another number
    let row = state.listing.ledger.get(stat.st_dev, stat.st_ino).unwrap();
    let ino = stat.st_ino + 1;
    let identity = FileIdentity {
        ino,
        ..row.identity
    };
    state.listing.ledger.put(LedgerRow { identity, ..row });
    let mut is_known_by = |name: &[u8], made_up| {
        let found = ObservedName::File(NameStat {
            identity,
            made_up,
            ..NameStat::of(&stat)
        });
        let (cause, told) = (Cause::Walk, Told::Nothing);
        state.observe(rounds.root, name, found, cause, told, Instant::now());
        let slot = state.listing.tree.child(rounds.root, name).unwrap();
        let is_read = state.queue.state(slot).is_none();
        state.remove_tree(slot);
        is_read
    };
    assert!(is_known_by(b"linked", false));
    assert!(!is_known_by(b"new", true));
    assert!(is_known_by(b"old", true));
}

/// Runs a test alone in a process of its own, where it may use up all descriptors. Returns whether
/// this is that process.
fn is_alone(test: &str) -> bool {
    const ALONE: &str = "P2PFS_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let name = format!("tests::rounds::missed::{test}");
    child.args(["--exact", &name]).env(ALONE, "1");
    let ran = child.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    false
}

#[test]
fn changes_reported_while_descriptors_were_short_are_found_later() {
    use std::os::fd::AsRawFd;
    if !is_alone("changes_reported_while_descriptors_were_short_are_found_later") {
        return;
    }
    let mut rounds = Rounds::new();
    fs::create_dir(rounds.at("d")).unwrap();
    rounds.run();
    let limit = getrlimit(Resource::Nofile);
    let free = fs::File::open("/").unwrap().as_raw_fd().unsigned_abs();
    // first for the share's own directory and nothing below it, then for neither
    for (name, descriptors) in [("d/one", u64::from(free) + 1), ("d/two", 1)] {
        symlink("text", rounds.at(name)).unwrap();
        let current = Some(descriptors);
        setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
        rounds.run();
        setrlimit(Resource::Nofile, limit).unwrap();
        assert!(
            rounds.shared.lock().listing.shares.by_index[&0]
                .problems
                .wanting,
            "{name}"
        );
        let directory = rounds
            .shared
            .lock()
            .listing
            .tree
            .child(rounds.root, b"d")
            .unwrap();
        let last = name.as_bytes()[2..].to_vec();
        rounds.run_and_hash_until(|state| state.listing.tree.child(directory, &last).is_some());
    }
}
