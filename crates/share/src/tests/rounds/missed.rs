//! Tests of changes that the kernel did not report under their names, or that could not be checked.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;
use crate::identity::{FileIdentity, FileTimestamp, NameStat};
use crate::ledger::LedgerRow;
use crate::observe::ObservedName;
use crate::proof::Told;
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

#[test]
fn a_version_is_not_permanently_backdated_by_an_unset_clock() {
    let mut rounds = Rounds::new();
    fs::write(rounds.at("f"), b"f").unwrap();
    date(&rounds.at("f"), 1_700_000_000);
    rounds.run_and_hash();
    let state = rounds.shared.lock();
    let slot = state.listing.tree.child(rounds.root, b"f").unwrap();
    let file = state.listing.tree.file(slot).unwrap();
    let by = |clock| {
        state.listing.version_of(
            slot,
            &file.identity,
            &file.hash,
            FileTimestamp::new(clock, 0),
        )
    };
    let seen = state.listing.tree.version(slot, &file);
    assert_eq!(seen, FileTimestamp::new(1_700_000_000, 0));
    assert_eq!(by(946_684_800), seen);
    assert_eq!(by(1_800_000_000), seen);
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
