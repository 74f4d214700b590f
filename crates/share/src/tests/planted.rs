//! Tests of shares below a folder of another user, which can put links there.

use std::os::unix::fs::{chown, symlink};

use super::*;

/// A user other than the node's.
const BOB: u32 = 1234;

/// Returns a bench whose home has a private folder of the node's user, and a folder of another user.
/// Returns `None` without the right to make such a folder.
fn beside_another_user() -> Option<(ShareBench, PathBuf, PathBuf)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give a folder away");
        return None;
    }
    let mut bench = ShareBench::bare();
    let home = bench.home.path().canonicalize().unwrap();
    let (private, bob) = (home.join("private"), home.join("bob"));
    fs::create_dir_all(private.join("papers")).unwrap();
    fs::write(private.join("papers/diary"), b"private").unwrap();
    chmod(&private, 0o700);
    fs::create_dir(&bob).unwrap();
    chown(&bob, Some(BOB), Some(BOB)).unwrap();
    bench.open();
    Some((bench, private, bob))
}

#[test]
fn link_of_another_user_in_place_of_a_share_is_refused_and_named() {
    let Some((bench, private, bob)) = beside_another_user() else {
        return;
    };
    let spec = |dir: &Path| ShareSpec {
        include_private: true,
        ..ShareSpec::new(dir)
    };
    symlink(private.join("papers"), bob.join("pub")).unwrap();
    symlink(&private, bob.join("above")).unwrap();
    for dir in [bob.join("pub"), bob.join("above/papers")] {
        let error = bench.set().add(spec(&dir)).unwrap_err();
        assert!(matches!(error, ShareError::Planted { .. }), "{error}");
        let (said, bob) = (error.to_string(), bob.display());
        assert!(
            said.contains(&format!("user {BOB} owns \"{bob}\"")),
            "{said}"
        );
        assert!(said.contains("by its own name"), "{said}");
    }
    assert!(bench.set().list().is_empty());
    // A link that only the node's user could have put counts.
    let own = bench.home.path().join("own");
    symlink(private.join("papers"), &own).unwrap();
    bench.set().add(spec(&own)).unwrap();
    assert_eq!(bench.status().dir, private.join("papers"));
}

#[test]
fn folder_above_a_share_that_becomes_a_link_withdraws_it_and_shares_no_other() {
    let Some((mut bench, private, bob)) = beside_another_user() else {
        return;
    };
    let dir = bob.join("above/papers");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("of-bob"), b"open").unwrap();
    bench.set().add(ShareSpec::new(&dir)).unwrap();
    bench.settle();
    assert!(bench.has("of-bob", b"open"));
    fs::rename(bob.join("above"), bob.join("aside")).unwrap();
    symlink(&private, bob.join("above")).unwrap();
    bench.wait_for("withdrawn", |b| b.listing.is_empty());
    bench.settle();
    assert_eq!(bench.status().state, ShareProgress::Vanished);
    assert!(bench.set().add(ShareSpec::new(&dir)).is_err());
    assert!(bench.listing.is_empty());
    fs::remove_file(bob.join("above")).unwrap();
    fs::rename(bob.join("aside"), bob.join("above")).unwrap();
    bench.wait_for("listed again", |b| b.has("of-bob", b"open"));
}
