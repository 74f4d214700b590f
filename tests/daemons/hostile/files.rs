//! False statements about files by a member, and its requests for files.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use p2pfs_types::digest::{self, Outboard};
use p2pfs_types::extent::{ByteRange, CHUNK_BYTES};

use super::*;
use crate::support::process::HANG_LIMIT;

#[apply(promise)]
fn a_wrong_claimed_size_of_a_hash_hides_its_bytes_from_no_reader() {
    let mut scene = scene();
    let bytes = noise(9, 300_000);
    let hash = ContentHash::of(&bytes);
    scene.eve.say(vec![
        file("half.bin", hash, 150_000, 1),
        file("twice.bin", hash, 600_000, 1),
    ]);
    scene.one.wait_for_file("half.bin");
    scene.one.wait_for_file("twice.bin");
    scene.two.write("whole.bin", &bytes);
    scene.one.wait_for_file("whole.bin");
    for name in ["half.bin", "twice.bin"] {
        let read = fs::read(scene.one.mounted(name));
        let errno = read.expect_err(name).raw_os_error();
        // At the size that she announces, either no holder gives the content or no node has it.
        assert!(
            [Some(libc::EIO), Some(libc::ESTALE)].contains(&errno),
            "{errno:?}"
        );
    }
    assert!(fs::read(scene.one.mounted("whole.bin")).unwrap() == bytes);
    eventually("who says another size is shunned", HANG_LIMIT, || {
        peer(&scene.one, &scene.eve.id.to_string())["shunned"].is_string()
    });
    let how = "do not fit their hash";
    scene.await_named(&scene.one, how);
    scene.assert_unharmed();
    scene.assert_journal_names(how);
}

#[apply(promise)]
fn a_file_that_became_private_is_no_longer_served_to_any_member() {
    let mut scene = scene();
    let bytes = noise(17, 100_000);
    let request = Request::Range {
        hash: ContentHash::of(&bytes),
        size_bytes: bytes.len() as u64,
        range: ByteRange::new(0, bytes.len() as u64),
    };
    let is_given = |scene: &Scene| {
        let answer = scene.eve.ask(scene.two.address, request.clone());
        matches!(answer, Some(Response::Data { .. }))
    };
    scene.two.write("secret.bin", &bytes);
    let path = scene.two.share.join("secret.bin");
    for _ in 0..5 {
        set_mode(&path, 0o644);
        eventually("it is given", HANG_LIMIT, || is_given(&scene));
        set_mode(&path, 0o600);
        // This is before any watcher can report the change.
        assert!(!is_given(&scene), "a private file was given");
    }
    scene.assert_unharmed();
}

/// How far ahead of now she dates a file, in seconds. It is newer than all live files and within
/// the allowed error of a clock.
const AHEAD_S: i64 = 20;

#[apply(promise)]
fn a_killed_members_listing_wins_over_no_live_file_even_if_cached() {
    let scene = scene();
    let lure = noise(23, 100_000);
    scene.two.write("lure.bin", &lure);
    scene.two.write("install.sh", b"true");
    scene.one.wait_for_file("lure.bin");
    scene.one.wait_for_file("install.sh");
    scene.one.cli(&["prefetch", "lure.bin"]).expect_ok();
    fs::remove_file(scene.two.share.join("lure.bin")).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let (hash, size_bytes) = (ContentHash::of(&lure), lure.len() as u64);
    let newest = now.as_secs() as i64 + AHEAD_S;
    scene
        .eve
        .say(vec![file("install.sh", hash, size_bytes, newest)]);
    let shows = |node: &Node, bytes: &[u8]| {
        let read = fs::read(node.mounted("install.sh"));
        read.is_ok_and(|it| it == bytes)
    };
    for node in [&scene.one, &scene.two] {
        eventually(
            "of those who are there, the newest wins",
            HANG_LIMIT,
            || shows(node, &lure),
        );
    }
    let Scene {
        mut one, two, eve, ..
    } = scene;
    drop(eve);
    let live_wins = |node: &Node| {
        eventually("what is live has the name", HANG_LIMIT, || {
            shows(node, b"true")
        });
    };
    live_wins(&one);
    live_wins(&two);
    // Stored entries of her do not win after a restart either.
    one.stop();
    one.launch();
    live_wins(&one);
}

/// How far ahead of now she dates a version, in seconds. It is close to the allowed error of a
/// clock.
const HIJACK_AHEAD_S: i64 = 55;

#[apply(promise)]
fn newest_version_that_its_author_never_gives_takes_no_name_for_long_and_names_the_author() {
    let mut scene = scene();
    scene.two.write("install.sh", b"true");
    scene.one.wait_for_file("install.sh");
    scene.eve.hold_answers_about_contents();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let date = now.as_secs() as i64 + HIJACK_AHEAD_S;
    let lure = ContentHash::of(b"false");
    scene.eve.say(vec![file("install.sh", lure, 5, date)]);
    let has_conflict = || scene.one.mounted("install~two.sh").exists();
    eventually(
        "the version dated ahead is newest",
        HANG_LIMIT,
        has_conflict,
    );
    let read = fs::read(scene.one.mounted("install.sh"));
    assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO));
    let is_listed = || scene.one.mounted("install~eve.sh").exists();
    eventually("it ranks behind", HANG_LIMIT, is_listed);
    let read = fs::read(scene.one.mounted("install.sh"));
    assert_eq!(read.unwrap(), b"true");
    let why = scene
        .one
        .cli(&["why", "install.sh", "--json"])
        .expect_json();
    let rule = why["rule"].as_str().unwrap().to_owned();
    assert!(rule.contains("no holder gave"), "{rule}");
    // A new head and another date of the same content are cheap for her.
    scene.eve.say(vec![file("install.sh", lure, 5, date + 1)]);
    scene.eve.say(vec![
        file("install.sh", lure, 5, date + 2),
        file("later.txt", lure, 5, date),
    ]);
    eventually("her new head arrived", HANG_LIMIT, || {
        scene.one.mounted("later.txt").exists()
    });
    let read = fs::read(scene.one.mounted("install.sh"));
    assert_eq!(read.unwrap(), b"true");
    let how = "versions of files that no node gave";
    scene.await_named(&scene.one, how);
    scene.assert_unharmed();
    scene.assert_journal_names(how);
}

/// Interval at which she replaces her version: shorter than any read of it waits.
const REPLACED_EVERY: Duration = Duration::from_secs(1);

/// Lets her list ever new versions of a name that another node shares too, until hers rank behind.
/// `content` returns her version of each number.
fn lists_ever_new_versions(scene: &mut Scene, content: impl Fn(u64) -> Vec<u8>) {
    scene.two.write("install.sh", b"true");
    scene.one.wait_for_file("install.sh");
    let mut number = 0;
    let mut say_next = |scene: &Scene| {
        number += 1;
        let lure = content(number);
        let (hash, size_bytes) = (ContentHash::of(&lure), lure.len() as u64);
        let fact = file("install.sh", hash, size_bytes, newest_date());
        scene.eve.say(vec![fact]);
        hash.to_string()
    };
    say_next(scene);
    let has_conflict = || scene.one.mounted("install~two.sh").exists();
    eventually(
        "the version dated ahead is newest",
        HANG_LIMIT,
        has_conflict,
    );
    let (sender, ended) = mpsc::channel();
    let path = scene.one.mounted("install.sh");
    let begin_read = || {
        let (path, sender) = (path.clone(), sender.clone());
        std::thread::spawn(move || sender.send(fs::read(path)));
    };
    let (begun, mut failed) = (Instant::now(), 0);
    begin_read();
    loop {
        assert!(
            begun.elapsed() < HANG_LIMIT,
            "it is hers after {failed} reads"
        );
        match ended.recv_timeout(REPLACED_EVERY) {
            Ok(Ok(bytes)) => {
                assert_eq!(bytes, b"true");
                break;
            }
            Ok(Err(error)) => {
                let errno = error.raw_os_error();
                assert!([Some(libc::EIO), Some(libc::ESTALE)].contains(&errno));
                failed += 1;
                begin_read();
            }
            Err(_) => drop(say_next(scene)),
        }
    }
    // further versions cost her nothing, and do not help her
    for _ in 0..3 {
        let lure = say_next(scene);
        eventually("her version arrived", HANG_LIMIT, || {
            let why = scene.one.cli(&["why", "install.sh", "--json"]);
            why.expect_json().to_string().contains(&lure)
        });
        assert_eq!(fs::read(&path).unwrap(), b"true");
    }
}

#[apply(promise)]
fn a_liar_with_ever_new_versions_loses_the_name_and_is_named() {
    let mut scene = scene();
    scene.eve.hold_answers_about_contents();
    lists_ever_new_versions(&mut scene, |number| format!("false {number}").into_bytes());
    let how = "versions of files that no node gave";
    scene.await_named(&scene.one, how);
    scene.assert_unharmed();
    scene.assert_journal_names(how);
}

/// Size of each of her versions of which she gives only the beginning.
const BEGUN_BYTES: usize = 1_000_000;
/// Maximum number of these versions.
const VERSIONS_MAX: usize = 500;

#[apply(promise)]
fn a_liar_that_gives_only_the_beginning_of_ever_new_versions_loses_the_name_and_is_named() {
    let mut scene = scene();
    let content = |number| noise(number, BEGUN_BYTES);
    let known = RefCell::new(BTreeMap::new());
    scene.eve.answer(move |request| {
        let Request::Range { hash, range, .. } = request else {
            return None;
        };
        let mut known = known.borrow_mut();
        while known.len() < VERSIONS_MAX && !known.contains_key(hash) {
            let bytes = content(known.len() as u64 + 1);
            known.insert(ContentHash::of(&bytes), bytes);
        }
        let bytes = known.get(hash)?;
        let tree = Outboard::of(bytes);
        let (data, pairs) = (&bytes[..], &tree.pairs[..]);
        let proof = digest::encode(*hash, bytes.len() as u64, *range, data, pairs);
        let proof = proof.unwrap().into();
        Some(Response::Data { proof })
    });
    scene.eve.hold_answers(|request| match request {
        Request::Range { range, .. } => range.start >= CHUNK_BYTES,
        _ => false,
    });
    lists_ever_new_versions(&mut scene, content);
    let how = "versions of files that no node gave";
    scene.await_named(&scene.one, how);
    scene.assert_unharmed();
    scene.assert_journal_names(how);
}

/// Returns the time, in seconds since 1970, of a version that is newer than all others and counts at
/// once.
fn newest_date() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_secs() as i64 + HIJACK_AHEAD_S
}

#[apply(promise)]
fn a_wrong_size_of_an_honest_content_takes_no_name_and_blames_no_honest_node() {
    let mut scene = scene();
    scene.two.write("install.sh", b"true");
    scene.one.wait_for_file("install.sh");
    scene.eve.hold_answers_about_contents();
    let hash = ContentHash::of(b"true");
    scene
        .eve
        .say(vec![file("install.sh", hash, 5, newest_date())]);
    let path = scene.one.mounted("install.sh");
    let has_wrong_size = || fs::metadata(&path).is_ok_and(|it| it.len() == 5);
    eventually("the wrong size is shown", HANG_LIMIT, has_wrong_size);
    assert!(fs::read(&path).is_err());
    eventually("it ranks behind", HANG_LIMIT, || !has_wrong_size());
    assert_eq!(fs::read(&path).unwrap(), b"true");
    // the read of the right size proves hers wrong
    scene.await_listed(&scene.one, "do not fit their hash");
    let two = scene.eve.who_is_at(scene.two.address).to_string();
    assert_eq!(peer(&scene.one, &two)["offences"], 0);
    scene.assert_unharmed();
    scene.assert_journal_names("versions of files that no node gave");
}

/// Lets her send wrong bytes of a version, until it ranks behind.
fn sends_wrong_bytes(scene: &mut Scene) {
    scene.two.write("install.sh", b"true");
    scene.one.wait_for_file("install.sh");
    scene.eve.answer(|request| match request {
        Request::Range { range, .. } => Some(Response::Data {
            proof: vec![0x5a; range.len() as usize].into(),
        }),
        _ => None,
    });
    list_false(scene, 0);
    let path = scene.one.mounted("install.sh");
    let read = fs::read(&path);
    assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EIO));
    eventually("it ranks behind", HANG_LIMIT, || fs::read(&path).is_ok());
}

/// Lets her list another version, and waits until it has arrived.
fn list_false(scene: &Scene, number: u64) {
    let lure = ContentHash::of(format!("false {number}").as_bytes());
    let fact = file("install.sh", lure, 7, newest_date());
    scene.eve.say(vec![fact]);
    eventually("her version arrived", HANG_LIMIT, || {
        let why = scene.one.cli(&["why", "install.sh", "--json"]);
        why.expect_json().to_string().contains(&lure.to_string())
    });
}

#[apply(promise)]
fn a_sender_of_wrong_bytes_takes_no_name_with_its_next_versions() {
    let mut scene = scene();
    sends_wrong_bytes(&mut scene);
    for number in 1..3 {
        list_false(&scene, number);
        let read = fs::read(scene.one.mounted("install.sh"));
        assert_eq!(read.unwrap(), b"true");
    }
    let how = "do not fit their hash";
    scene.await_named(&scene.one, how);
    scene.assert_unharmed();
    scene.assert_journal_names(how);
}

#[apply(promise)]
fn a_sender_of_wrong_bytes_takes_no_name_after_a_restart_either() {
    let mut scene = scene();
    sends_wrong_bytes(&mut scene);
    scene.one.stop();
    scene.one.launch();
    scene.one.wait_for_file("install.sh");
    let eve = scene.eve.id.to_string();
    eventually("she is back", HANG_LIMIT, || {
        peer(&scene.one, &eve)["shunned"].is_string()
    });
    for number in 1..3 {
        list_false(&scene, number);
        let read = fs::read(scene.one.mounted("install.sh"));
        assert_eq!(read.unwrap(), b"true");
    }
    scene.assert_unharmed();
}
