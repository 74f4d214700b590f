//! Tests of `store`.

use std::time::Instant;

use super::*;
use crate::inbox::room::{KNOWN_FOR, StorageAmount};
use crate::inbox::sender_of;

fn inbox(budget_bytes: u64) -> (tempfile::TempDir, Inbox) {
    let folder = tempfile::tempdir().unwrap();
    let inbox = Inbox::open(InboxSettings {
        dir: folder.path().join("inbox"),
        budget_bytes,
        floor_bytes: 0,
    });
    (folder, inbox.unwrap())
}

impl Inbox {
    /// Blocks reservations of space until the guard is dropped, as a slow disk does.
    pub(in crate::inbox) fn keep_waiting(&self) -> impl Drop {
        self.inner.use_now.lock()
    }
}

fn bob() -> Sender {
    Sender::Node(NodeId::new([7; 32]))
}

fn origin() -> ChargedSender {
    ChargedSender::Node(NodeId::new([7; 32]))
}

/// Returns another sender for each number.
fn other(n: u8) -> ChargedSender {
    ChargedSender::at(std::net::SocketAddr::from(([192, 0, 2, n], 1378)))
}

fn put(inbox: &Inbox, name: &[u8], bytes: &[u8]) -> Result<String, InboxError> {
    let arriving = inbox.begin(origin(), bytes.len() as u64)?;
    arriving.write_at(0, bytes)?;
    let name = arriving.publish(name, &bob(), "bob")?;
    Ok(String::from_utf8(name).unwrap())
}

fn listed(inbox: &Inbox) -> Vec<String> {
    let names = std::fs::read_dir(inbox.dir()).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn inbox_lacks_room_after_a_refusal_until_the_file_would_fit() {
    let (_folder, inbox) = inbox(100);
    assert!(inbox.begin(origin(), 101).is_err());
    assert!(inbox.still_lacks().is_none(), "it can never fit");
    let [first, second] = [other(1), other(2)].map(|it| inbox.begin(it, 50).unwrap());
    assert!(inbox.still_lacks().is_none(), "no file was refused");
    assert!(inbox.begin(origin(), 10).is_err());
    assert!(matches!(
        inbox.still_lacks(),
        Some(InboxError::Budget { .. })
    ));
    drop(first);
    assert!(inbox.still_lacks().is_none());
    drop(second);
}

#[test]
fn a_complete_file_has_its_name_and_its_sender_is_recorded() {
    let (_folder, inbox) = inbox(100);
    let arriving = inbox.begin(origin(), 5).unwrap();
    arriving.write_at(0, b"hello").unwrap();
    assert_eq!(listed(&inbox), Vec::<String>::new());
    assert_eq!(arriving.publish(b"a.txt", &bob(), "bob").unwrap(), b"a.txt");
    assert_eq!(listed(&inbox), ["a.txt"]);
    let file = File::open(inbox.dir().join("a.txt")).unwrap();
    let mode = file.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, FILE_MODE);
    if let Some(sender) = sender_of(&file) {
        assert_eq!(sender, bob());
        assert!(inbox.may_have_taken(b"a.txt") && !inbox.may_have_taken(b"b.txt"));
        let again = Inbox::open(inbox.inner.settings.clone()).unwrap();
        assert!(again.may_have_taken(b"a.txt"));
    } else {
        eprintln!("SKIPPED: this filesystem has no user attributes");
    }
}

#[test]
fn no_file_is_overwritten_and_none_leaves_the_folder() {
    let (_folder, inbox) = inbox(100);
    for kept in ["a.txt", "a-(1).txt", "a-(2).txt"] {
        assert_eq!(put(&inbox, b"a.txt", b"x").unwrap(), kept);
    }
    std::os::unix::fs::symlink("/nowhere", inbox.dir().join("link")).unwrap();
    assert_eq!(put(&inbox, b"link", b"x").unwrap(), "link-(1)");
    assert_eq!(put(&inbox, b"../../up", b"x").unwrap(), "up");
    assert!(matches!(put(&inbox, b"..", b"x"), Err(InboxError::Name)));
    assert_eq!(listed(&inbox).len(), 6);
}

#[test]
fn the_budget_counts_present_and_arriving_files() {
    let (_folder, inbox) = inbox(10);
    put(&inbox, b"a", b"1234").unwrap();
    let coming = inbox.begin(other(1), 4).unwrap();
    let refused = inbox.begin(other(2), 3).unwrap_err();
    assert!(matches!(refused, InboxError::Budget { left_bytes: 2, .. }));
    assert!(coming.write_at(1, b"1234").is_err(), "over its size");
    drop(coming);
    let all = [inbox.begin(other(1), 3), inbox.begin(other(2), 3)].map(Result::unwrap);
    drop(all);
    std::fs::remove_file(inbox.dir().join("a")).unwrap();
    inbox.inner.use_now.lock().known_at = None;
    let _all = [inbox.begin(other(1), 5), inbox.begin(other(2), 5)].map(Result::unwrap);
    assert!(inbox.begin(other(3), u64::MAX).is_err());
}

#[test]
fn one_sender_gets_half_of_the_budget_even_after_a_restart() {
    let (_folder, inbox) = inbox(10);
    let fills = |inbox: &Inbox, origin, bytes: &[u8]| {
        let arriving = inbox.begin(origin, bytes.len() as u64).unwrap();
        arriving.write_at(0, bytes).unwrap();
        arriving.publish(b"a", &bob(), "bob").unwrap();
    };
    fills(&inbox, origin(), b"1234");
    fills(&inbox, other(1), b"123");
    let again = Inbox::open(inbox.inner.settings.clone()).unwrap();
    let keeps_senders = again.inner.taken.lock().len() == 2;
    for (inbox, knows) in [(&inbox, true), (&again, keeps_senders)] {
        inbox.inner.use_now.lock().known_at = None;
        for (origin, left) in [(origin(), 1), (other(1), 2)].into_iter().filter(|_| knows) {
            let refused = inbox.begin(origin, 3).unwrap_err();
            let InboxError::SenderBudget { left_bytes, .. } = refused else {
                panic!("{refused}");
            };
            assert_eq!(left_bytes, left, "{origin:?}");
        }
        inbox.begin(other(2), 3).unwrap();
    }
    if !keeps_senders {
        eprintln!("SKIPPED: this filesystem has no user attributes");
    }
}

#[test]
fn one_sender_gets_half_of_the_number_of_files() {
    let (_folder, inbox) = inbox(1 << 30);
    let amount = StorageAmount {
        bytes: 0,
        files: FILES_MAX / SENDER_PART,
    };
    let mut used = inbox.inner.use_now.lock();
    used.known_at = Some(Instant::now() + KNOWN_FOR);
    used.held_of.insert(other(1), amount);
    drop(used);
    let refused = inbox.begin(other(1), 0);
    assert!(matches!(refused, Err(InboxError::SenderFiles)));
    inbox.begin(other(2), 0).unwrap();
}

#[test]
fn a_folder_at_its_limit_of_files_accepts_no_more() {
    let (_folder, inbox) = inbox(1 << 30);
    for n in 0..FILES_MAX {
        std::fs::write(inbox.dir().join(n.to_string()), b"").unwrap();
    }
    assert!(matches!(inbox.begin(origin(), 0), Err(InboxError::Files)));
}

#[test]
fn the_free_space_floor_of_the_disk_is_respected() {
    let (folder, _) = inbox(1);
    let settings = InboxSettings {
        dir: folder.path().join("other"),
        budget_bytes: u64::MAX,
        floor_bytes: u64::MAX,
    };
    let inbox = Inbox::open(settings).unwrap();
    let refused = inbox.begin(origin(), 1).unwrap_err();
    assert!(matches!(refused, InboxError::Floor { size_bytes: 1 }));
}

#[test]
fn a_file_has_no_open_writer_when_it_gets_its_name() {
    let (_folder, inbox) = inbox(100);
    let mut arriving = inbox.begin(origin(), 5).unwrap();
    arriving.write_at(0, b"hello").unwrap();
    arriving.end_writing().unwrap();
    assert!(arriving.write_at(0, b"j").is_err());
    assert_eq!(arriving.publish(b"a.txt", &bob(), "bob").unwrap(), b"a.txt");
    let bytes = std::fs::read(inbox.dir().join("a.txt")).unwrap();
    assert_eq!(bytes, b"hello");
}

#[test]
fn link_in_place_of_the_inbox_or_above_it_takes_no_file_elsewhere() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (above, dir) = (
        folder.path().join("above"),
        folder.path().join("above/inbox"),
    );
    let settings = InboxSettings {
        dir: dir.clone(),
        budget_bytes: 1 << 30,
        floor_bytes: 0,
    };
    let inbox = Inbox::open(settings).unwrap();
    std::fs::create_dir(other.path().join("inbox")).unwrap();
    let is_nothing_elsewhere = || {
        let inside = other.path().join("inbox");
        let names = [other.path(), &inside].map(|it| std::fs::read_dir(it).unwrap().count());
        assert_eq!(names, [1, 0]);
    };
    let (hash, node) = (ContentHash::of(b"x"), NodeId::new([7; 32]));
    for (replaced, target) in [
        (&dir, other.path().join("inbox")),
        (&above, other.path().into()),
    ] {
        // Files that began before the swap get their names in the folder that they began in.
        let small = inbox.begin(origin(), 1).unwrap();
        let large = inbox.begin_kept(origin(), &node, &hash, 1).unwrap();
        let aside = replaced.with_extension("aside");
        std::fs::rename(replaced, &aside).unwrap();
        std::os::unix::fs::symlink(&target, replaced).unwrap();
        for (file, name) in [(small, b"small"), (large, b"large")] {
            file.write_at(0, b"x").unwrap();
            file.publish(name, &bob(), "bob").unwrap();
        }
        for refused in [
            inbox.begin(origin(), 1),
            inbox.begin_kept(origin(), &node, &hash, 1),
        ] {
            let refused = refused.unwrap_err().to_string();
            assert!(refused.contains("was replaced by a link"), "{refused}");
        }
        assert!(inbox.left(9).is_empty());
        is_nothing_elsewhere();
        std::fs::remove_file(replaced).unwrap();
        std::fs::rename(&aside, replaced).unwrap();
        let both = ["large", "small"].map(|name| std::fs::remove_file(dir.join(name)));
        both.into_iter().for_each(Result::unwrap);
    }
    inbox.begin(origin(), 1).unwrap();
}

#[test]
fn inbox_behind_a_link_of_another_user_is_not_opened() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give a folder away");
        return;
    }
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let of_bob = folder.path().join("bob");
    std::fs::create_dir(&of_bob).unwrap();
    std::os::unix::fs::chown(&of_bob, Some(1234), None).unwrap();
    std::os::unix::fs::symlink(other.path(), of_bob.join("link")).unwrap();
    let open = |name: &str| {
        Inbox::open(InboxSettings {
            dir: of_bob.join(name),
            budget_bytes: 1,
            floor_bytes: 0,
        })
    };
    for name in ["link", "link/inbox"] {
        let refused = open(name).unwrap_err().to_string();
        assert!(refused.contains("user 1234 owns"), "{refused}");
    }
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 0);
    let inbox = open("new/inbox").unwrap();
    let mode = std::fs::metadata(inbox.dir()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
}
