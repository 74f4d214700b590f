//! `p2pfs write` and `p2pfs share add --writable`: which folders take what programs write.

use std::fs;
use std::path::Path;

use macro_rules_attribute::apply;
use rustix::fs::StatVfsMountFlags;
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
use serde_json::{Value, json};

use super::NEEDS;
use crate::support::daemon::*;
use crate::support::process::*;
use crate::support::promise::promise;

/// Returns whether the kernel answers each write in the mount with EROFS.
fn is_read_only(node: &Node) -> bool {
    let found = rustix::fs::statvfs(node.mounted("")).unwrap();
    found.f_flag.contains(StatVfsMountFlags::RDONLY)
}

fn wait_for_read_only(node: &Node, wanted: bool) {
    let what = format!("the mount to be read-only: {wanted}");
    eventually(&what, HANG_LIMIT, || is_read_only(node) == wanted);
}

fn folders(node: &Node) -> Vec<Value> {
    let told = node.cli(&["write", "--json"]).expect_json();
    told["folders"].as_array().unwrap().clone()
}

fn share(node: &Node, dir: &Path) -> Value {
    let told = node.cli(&["share", "--json"]).expect_json();
    let shares = told["shares"].as_array().unwrap();
    let path = dir.to_str().unwrap();
    let found = shares.iter().find(|share| share["path"] == path);
    found.unwrap_or_else(|| panic!("{path} in {told}")).clone()
}

#[apply(promise)]
fn mount_is_writable_between_write_on_and_write_off_also_after_restarts() {
    let mut cluster = Cluster::new();
    let mut node = cluster.start("one");
    assert!(is_read_only(&node));
    let said = node.cli(&["write"]).expect_ok();
    assert!(said.contains("p2pfs write on"), "{said}");
    let created = fs::File::create(node.mounted("new")).unwrap_err();
    assert_eq!(created.raw_os_error(), Some(libc::EROFS));

    let said = node.cli(&["write", "on"]).expect_ok();
    let files = node.home.join("state/files");
    let files = fs::canonicalize(files).unwrap();
    assert!(said.contains(files.to_str().unwrap()), "{said}");
    assert_eq!(folders(&node), [json!({"path": files.to_str().unwrap()})]);
    assert!(!is_read_only(&node), "the command returned too early");
    let status = node.cli(&["status", "--json"]).expect_json();
    assert_eq!(status["mount"]["writable"], json!(true));
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&files).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o755);
    fs::write(files.join("resume.pdf"), b"bytes").unwrap();
    node.wait_for_file("resume.pdf");
    node.stop();
    node.launch();
    wait_for_read_only(&node, false);
    node.cli(&["write", "on"]).expect_ok();
    assert_eq!(folders(&node).len(), 1);

    node.cli(&["write", "off"]).expect_ok();
    assert!(is_read_only(&node), "the command returned too early");
    let said = node.cli(&["status"]).expect_ok();
    assert!(said.contains("read-only; to let programs write"), "{said}");
    let created = fs::File::create(node.mounted("new")).unwrap_err();
    assert_eq!(created.raw_os_error(), Some(libc::EROFS));
    node.stop();
    node.launch();
    assert!(is_read_only(&node));
    node.wait_for_file("resume.pdf");
    let kept = share(&node, &files);
    assert_eq!(
        (&kept["writable"], &kept["open"]),
        (&json!(false), &json!(true))
    );
}

#[apply(promise)]
fn write_on_another_folder_takes_the_top_over() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    let [first, second] = ["first", "second"].map(|it| node.home.join(it));
    for dir in [&first, &second] {
        fs::create_dir(dir).unwrap();
        node.cli(&["write", "on", dir.to_str().unwrap()])
            .expect_ok();
        assert_eq!(folders(&node), [json!({"path": dir.to_str().unwrap()})]);
    }
    assert_eq!(share(&node, &first)["writable"], json!(false));
    let dir = first.to_str().unwrap();
    let shared = ["share", "add", dir, "--as", "photos", "--writable"];
    let said = node.cli(&shared).expect_ok();
    assert!(said.contains("writable"), "{said}");
    let told = folders(&node);
    assert_eq!(told[0], json!({"path": dir, "place": "photos"}));
    assert_eq!(told.len(), 2);
    let refused = node.cli(&["write", "on", dir]);
    assert!(refused.stderr.contains("shared as photos"), "{refused:?}");
    node.cli(&["share", "add", dir, "--writable=off"])
        .expect_ok();
    node.cli(&["share", "remove", second.to_str().unwrap()])
        .expect_ok();
    wait_for_read_only(&node, true);
    assert!(folders(&node).is_empty());
}

#[apply(promise)]
fn folder_that_cannot_take_files_is_refused_with_the_remedy() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    let at = |name: &str| node.home.join(name);
    for name in ["taken", "other", "private", "disk", "state/beside"] {
        fs::create_dir(at(name)).unwrap();
    }
    set_mode(&at("private"), 0o700);
    mount_bind(at("disk"), at("disk")).unwrap();
    let read_only = MountFlags::BIND | MountFlags::RDONLY;
    mount_remount(at("disk"), read_only, "").unwrap();
    let add = |name: &str| {
        let place = at(name).to_str().unwrap().to_owned();
        node.cli(&["share", "add", &place, "--as", "x", "--writable", "--yes"])
    };
    add("taken").expect_ok();
    let before = node.cli(&["share", "--json"]).expect_json();
    for (name, why, remedy) in [
        ("other", "goes into", "--as"),
        ("private", "others may not read it", "chmod o+rx"),
        ("disk", "read-only", "make its filesystem writable"),
        ("state/beside", "cannot be shared", "share another folder"),
    ] {
        node.cli(&[
            "share",
            "add",
            at("taken").to_str().unwrap(),
            "--writable=off",
        ])
        .expect_ok();
        if name == "other" {
            add("taken").expect_ok();
        }
        let refused = add(name);
        assert!(!refused.status.success(), "{name}");
        assert!(refused.stderr.contains(why), "{refused:?}");
        assert!(refused.stderr.contains(remedy), "{refused:?}");
    }
    let after = node.cli(&["share", "--json"]).expect_json();
    let count = |told: &Value| told["shares"].as_array().unwrap().len();
    assert_eq!(count(&before), count(&after));
    unmount(at("disk"), UnmountFlags::DETACH).unwrap();
}

#[apply(promise)]
fn mount_is_read_only_while_the_disk_of_the_folder_is() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    let dir = node.home.join("disk");
    fs::create_dir(&dir).unwrap();
    mount_bind(&dir, &dir).unwrap();
    node.cli(&["write", "on", dir.to_str().unwrap()])
        .expect_ok();
    wait_for_read_only(&node, false);
    let set = |more: MountFlags| mount_remount(&dir, MountFlags::BIND | more, "").unwrap();
    set(MountFlags::RDONLY);
    wait_for_read_only(&node, true);
    let told = folders(&node);
    let problem = told[0]["problem"].as_str().unwrap();
    assert!(problem.contains("read-only"), "{problem}");
    let status = node.cli(&["status"]).expect_ok();
    assert!(status.contains("read-only"), "{status}");
    set(MountFlags::empty());
    wait_for_read_only(&node, false);
    unmount(&dir, UnmountFlags::DETACH).unwrap();
}

#[apply(promise)]
fn file_written_in_the_mount_is_in_the_folder_and_replaces_that_of_an_open_share() {
    let mut cluster = Cluster::new();
    let [one, two] = ["one", "two"].map(|name| cluster.start(name));
    let dirs = [&one, &two].map(|node| node.home.join("files"));
    for (node, dir) in [&one, &two].into_iter().zip(&dirs) {
        fs::create_dir(dir).unwrap();
        node.cli(&["write", "on", dir.to_str().unwrap()])
            .expect_ok();
        wait_for_read_only(node, false);
    }
    fs::write(one.mounted("resume.pdf"), b"of one").unwrap();
    assert_eq!(fs::read(dirs[0].join("resume.pdf")).unwrap(), b"of one");
    two.wait_for_file("resume.pdf");
    fs::write(two.mounted("resume.pdf"), b"of two").unwrap();
    assert_eq!(fs::read(dirs[1].join("resume.pdf")).unwrap(), b"of two");
    for node in [&one, &two] {
        eventually("the new version", HANG_LIMIT, || {
            fs::read(node.mounted("resume.pdf")).is_ok_and(|bytes| bytes == b"of two")
        });
        let names = fs::read_dir(node.mounted("")).unwrap();
        let names: Vec<_> = names.map(|it| it.unwrap().file_name()).collect();
        assert_eq!(names, ["resume.pdf"]);
    }
    assert_eq!(fs::read(dirs[0].join("resume.pdf")).unwrap(), b"of one");
}

#[apply(promise)]
fn mount_stays_writable_for_an_open_file_and_becomes_read_only_after_its_close() {
    let mut cluster = Cluster::new();
    let node = cluster.start("one");
    node.cli(&["write", "on"]).expect_ok();
    wait_for_read_only(&node, false);
    let open = fs::File::create(node.mounted("open")).unwrap();
    node.cli(&["write", "off"]).expect_ok();
    eventually("the condition", HANG_LIMIT, || {
        let told = node.cli(&["write"]).expect_ok();
        told.contains("close the files in it that are open for writing")
    });
    let created = fs::File::create(node.mounted("new")).unwrap_err();
    assert_eq!(created.raw_os_error(), Some(libc::EROFS));
    drop(open);
    wait_for_read_only(&node, true);
}
