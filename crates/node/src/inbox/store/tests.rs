//! Tests of `store`.

use super::*;

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
    /// Lets whoever begins a file wait for its room until this is dropped, as a disk does.
    pub(in crate::inbox) fn keep_waiting(&self) -> impl Drop {
        self.inner.use_now.lock()
    }
}

fn bob() -> Sender {
    Sender::Node(NodeId::new([7; 32]))
}

fn put(inbox: &Inbox, name: &[u8], bytes: &[u8]) -> Result<String, InboxError> {
    let arriving = inbox.begin(bytes.len() as u64)?;
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
fn a_file_has_its_name_when_it_is_whole_and_its_sender_is_written_down() {
    let (_folder, inbox) = inbox(100);
    let arriving = inbox.begin(5).unwrap();
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
fn no_file_is_ever_overwritten_and_none_leaves_the_folder() {
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
fn the_budget_counts_what_is_there_and_what_is_coming() {
    let (_folder, inbox) = inbox(10);
    put(&inbox, b"a", b"1234").unwrap();
    let coming = inbox.begin(4).unwrap();
    let refused = inbox.begin(3).unwrap_err();
    assert!(matches!(refused, InboxError::Budget { left_bytes: 2, .. }));
    assert!(coming.write_at(1, b"1234").is_err(), "over its size");
    drop(coming);
    inbox.begin(6).unwrap();
    std::fs::remove_file(inbox.dir().join("a")).unwrap();
    inbox.inner.use_now.lock().known_at = None;
    inbox.begin(10).unwrap();
    assert!(inbox.begin(u64::MAX).is_err());
}

#[test]
fn a_folder_that_holds_its_limit_of_files_takes_no_more() {
    let (_folder, inbox) = inbox(1 << 30);
    for n in 0..FILES_MAX {
        std::fs::write(inbox.dir().join(n.to_string()), b"").unwrap();
    }
    assert!(matches!(inbox.begin(0), Err(InboxError::Files)));
}

#[test]
fn the_floor_of_the_disk_is_left_free() {
    let (folder, _) = inbox(1);
    let settings = InboxSettings {
        dir: folder.path().join("other"),
        budget_bytes: u64::MAX,
        floor_bytes: u64::MAX,
    };
    let inbox = Inbox::open(settings).unwrap();
    let refused = inbox.begin(1).unwrap_err();
    assert!(matches!(refused, InboxError::Floor { size_bytes: 1 }));
}

#[test]
fn nobody_has_a_file_open_for_writing_when_it_gets_its_name() {
    let (_folder, inbox) = inbox(100);
    let mut arriving = inbox.begin(5).unwrap();
    arriving.write_at(0, b"hello").unwrap();
    arriving.end_writing().unwrap();
    assert!(arriving.write_at(0, b"j").is_err());
    assert_eq!(arriving.publish(b"a.txt", &bob(), "bob").unwrap(), b"a.txt");
    let bytes = std::fs::read(inbox.dir().join("a.txt")).unwrap();
    assert_eq!(bytes, b"hello");
}
