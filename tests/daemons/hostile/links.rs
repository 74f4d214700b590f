//! Links of a member that stay in the folder one by one and lead out of it together.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use super::*;

/// Number of directories, more than the depth of any test's mount.
const DEPTH: usize = 16;

/// Returns links by which `README.txt` leads to a file of this machine. Each `z` leads to its own
/// directory, so that `z/..` is the directory above.
fn way_out(to: &Path) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut deepest = String::new();
    for number in 0..DEPTH {
        deepest.push_str(&format!("d{number}/"));
        facts.push(link(&format!("{deepest}z"), "."));
    }
    let (around, up) = ("z/../".repeat(DEPTH), "../".repeat(DEPTH));
    let to = to.strip_prefix("/").unwrap().to_str().unwrap();
    facts.push(link(&format!("{deepest}out"), &format!("{around}{up}{to}")));
    facts.push(link("README.txt", &format!("{deepest}out")));
    facts
}

#[apply(promise)]
fn links_of_a_member_that_together_leave_the_mount_are_refused_and_it_is_named() {
    let mut scene = scene();
    let private = scene.cluster.folder.path().join("private.txt");
    fs::write(&private, "in no share").unwrap();
    scene.eve.say(way_out(&private));
    let how = "that cannot be";
    scene.await_named(&scene.one, how);
    for node in [&scene.one, &scene.two] {
        let readme = node.mounted("README.txt");
        assert!(fs::symlink_metadata(&readme).is_err(), "it is listed");
        assert!(fs::read(&readme).is_err());
        assert!(fs::OpenOptions::new().append(true).open(&readme).is_err());
    }
    assert_eq!(fs::read(&private).unwrap(), b"in no share");
    scene.assert_unharmed();
    scene.assert_journal_names(how);
}

#[apply(promise)]
fn links_of_several_members_resolve_as_written_and_never_outside_the_mount() {
    let mut scene = scene();
    fs::create_dir_all(scene.two.share.join("d/e")).unwrap();
    symlink("e/../../honest.txt", scene.two.share.join("d/l")).unwrap();
    symlink("none/../honest.txt", scene.two.share.join("d/nowhere")).unwrap();
    scene.eve.say(vec![
        link("d/z", "."),
        link("d/e/z", "../z/z"),
        link("to-d", "d/e/z/z"),
        link("d/e/root", "../.."),
    ]);
    let mount = &scene.one.mount;
    scene.one.wait_for_file("to-d/e/root/d/l");
    let target = fs::read_link(mount.join("d/l")).unwrap();
    assert_eq!(target.as_os_str().as_bytes(), b"../honest.txt");
    for way in ["d/l", "d/z/l", "to-d/l", "d/e/root/to-d/e/z/l"] {
        assert_eq!(fs::read(mount.join(way)).unwrap(), b"honest", "{way}");
        assert_eq!(
            fs::canonicalize(mount.join(way)).unwrap(),
            mount.join("honest.txt")
        );
    }
    // In the view of one node's files, the same links stay below that view.
    let hers = mount.join(".p2pfs/peers/eve");
    assert_eq!(fs::canonicalize(hers.join("d/e/root")).unwrap(), hers);
    assert_eq!(fs::canonicalize(hers.join("to-d/e/root")).unwrap(), hers);
    assert!(fs::symlink_metadata(mount.join("d/nowhere")).is_err());
    scene.assert_unharmed();
}
