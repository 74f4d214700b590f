//! Writes that the disk or a limit refuses.

use super::super::disks::Disk;
use super::*;
use crate::support::promise::root;

const NEEDS: &[Need] = &[mount, root];

#[apply(promise)]
fn a_full_disk_is_enospc_for_the_writer_and_no_part_of_its_file_is_listed() {
    let mut cluster = Cluster::new();
    let small = cluster.folder.path().join("small");
    fs::create_dir(&small).unwrap();
    let _disk = Disk::mount_with(&small, "size=4m,mode=755");
    let nodes = cluster.start_all(&["one", "two"]);
    nodes[0]
        .cli(&["write", "on", small.to_str().unwrap()])
        .expect_ok();
    write_on(&nodes[1]);
    make_dir(&nodes, "dir");
    let mut file = File::create(nodes[0].mounted("dir/file")).unwrap();
    let full = (0..8).find_map(|_| file.write_all(&noise(1, 1 << 20)).err());
    assert_eq!(full.unwrap().raw_os_error(), Some(libc::ENOSPC));
    fs::remove_file(nodes[0].mounted("dir/file")).unwrap();
    drop(file);
    fs::write(nodes[0].mounted("dir/fits"), b"fits").unwrap();
    expect_files(&nodes, "dir", &[("fits", b"fits")]);
    let large = noise(2, 6 << 20);
    fs::write(nodes[1].mounted("dir/large"), &large).unwrap();
    nodes[0].wait_for_file("dir/large");
    let copied = File::options()
        .append(true)
        .open(nodes[0].mounted("dir/large"));
    assert_eq!(errno(copied), Some(libc::ENOSPC));
    expect_files(&nodes, "dir", &[("fits", b"fits"), ("large", &large)]);
}

#[apply(promise)]
fn a_large_file_of_another_node_can_be_replaced_but_not_edited() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    write_on(&nodes[1]);
    let size_bytes = p2pfs_fs::COPY_MAX_BYTES + 1;
    File::create(nodes[0].share.join("large"))
        .unwrap()
        .set_len(size_bytes)
        .unwrap();
    nodes[1].wait_for_file("large");
    let large = nodes[1].mounted("large");
    let opened = File::options().append(true).open(&large);
    assert_eq!(errno(opened), Some(libc::EFBIG));
    assert!(!on_disk(&nodes[1], "large").exists());
    fs::write(&large, b"small now").unwrap();
    for node in &nodes {
        eventually("the new one is shown", HANG_LIMIT, || {
            fs::metadata(node.mounted("large")).is_ok_and(|found| found.len() == 9)
        });
    }
}

#[apply(promise)]
fn writes_end_at_the_border_of_the_writable_share() {
    let mut cluster = Cluster::new();
    let nodes = cluster.start_all(&["one", "two"]);
    let dir = nodes[0].home.join("photos");
    fs::create_dir(&dir).unwrap();
    let dir = dir.to_str().unwrap();
    nodes[0]
        .cli(&["share", "add", dir, "--as", "in/photos", "--writable"])
        .expect_ok();
    nodes[1].write("in/file", b"of two");
    nodes[0].wait_for_file("in/file");
    let at = |name: &str| nodes[0].mounted("in").join(name);
    eventually("the place is shown", HANG_LIMIT, || at("photos").is_dir());
    assert_eq!(errno(fs::write(at("new"), b"new")), Some(libc::EROFS));
    assert_eq!(errno(fs::write(at("file"), b"new")), Some(libc::EROFS));
    assert_eq!(errno(fs::remove_file(at("file"))), Some(libc::EROFS));
    eventually("the mount is writable", HANG_LIMIT, || {
        fs::write(at("photos/new"), b"new").is_ok()
    });
    expect_files(&nodes, "in", &[("file", b"of two"), ("photos/new", b"new")]);
    assert_eq!(
        errno(fs::rename(at("photos/new"), at("new"))),
        Some(libc::EROFS)
    );
    fs::remove_file(at("photos/new")).unwrap();
    assert_eq!(errno(fs::remove_dir(at("photos"))), Some(libc::EBUSY));

    write_on(&nodes[0]);
    fs::write(at("photos/new"), b"new").unwrap();
    assert_eq!(
        errno(fs::rename(at("photos/new"), at("new"))),
        Some(libc::EXDEV)
    );
    assert_eq!(
        errno(fs::rename(at("photos"), at("moved"))),
        Some(libc::EBUSY)
    );
    sh(&nodes[0], "in", "mv photos/new new; rm new").expect_ok();
    expect_tree(
        &nodes[..1],
        "in",
        &BTreeMap::from([
            (
                "file".into(),
                files(&[("file", b"of two")])[Path::new("file")].clone(),
            ),
            ("photos".into(), "directory".to_owned()),
        ]),
    );
}

/// A node with settings of `[write]`, into whose mount programs can write.
fn limited_node(cluster: &mut Cluster, settings: &str) -> Node {
    let mut options = NodeOptions::new("one");
    options.config = format!("[write]\n{settings}\n");
    let node = cluster.start_with(options);
    write_on(&node);
    node
}

fn warns_of_no_room(node: &Node) -> bool {
    let told = node.cli(&["status", "--json"]).expect_json();
    let warnings = told["warnings"].as_array().unwrap();
    let is_it = |warning: &serde_json::Value| warning.as_str().unwrap().contains("has no room");
    warnings.iter().any(is_it)
}

#[apply(promise)]
fn a_write_beyond_the_budget_is_enospc_until_room_is_made() {
    let mut cluster = Cluster::new();
    let node = limited_node(&mut cluster, "budget = \"3MiB\"");
    let at = |name: &str| node.mounted(name);
    fs::write(at("first"), noise(1, 2 << 20)).unwrap();
    let mut second = File::create(at("second")).unwrap();
    second.write_all(&noise(2, 1 << 19)).unwrap();
    let beyond = second.write_all(&noise(3, 1 << 20));
    assert_eq!(errno(beyond), Some(libc::ENOSPC));
    assert_eq!(errno(second.set_len(9 << 20)), Some(libc::ENOSPC));
    let allocated = rustix::fs::fallocate(&second, rustix::fs::FallocateFlags::empty(), 0, 9 << 20);
    assert_eq!(allocated, Err(rustix::io::Errno::NOSPC));
    second.write_all_at(&noise(4, 1 << 19), 0).unwrap();
    drop(second);

    let filler = File::create(at("filler")).unwrap();
    let left = (0..2 << 20).step_by(4096).find_map(|offset| {
        let written = filler.write_all_at(&[1; 4096], offset);
        written.err()
    });
    assert_eq!(left.unwrap().raw_os_error(), Some(libc::ENOSPC));
    assert!(warns_of_no_room(&node));
    fs::remove_file(at("first")).unwrap();
    fs::write(at("third"), noise(5, 1 << 19)).unwrap();
    node.wait_for_file("third");
    assert!(!warns_of_no_room(&node));
    let status = node.cli(&["status", "--json"]).expect_json();
    assert_eq!(status["written"]["budget_bytes"], 3 << 20);
    assert!(status["written"]["used_bytes"].as_u64().unwrap() >= 1 << 19);
}

#[apply(promise)]
fn a_write_below_the_floor_is_enospc_and_leaves_the_rest_of_the_disk_free() {
    let mut cluster = Cluster::new();
    let small = cluster.folder.path().join("small");
    fs::create_dir(&small).unwrap();
    let _disk = Disk::mount_with(&small, "size=40m,mode=755");
    let node = cluster.start("one");
    let on = ["write", "on", small.to_str().unwrap()];
    node.cli(&on).expect_ok();
    let mut file = File::create(node.mounted("file")).unwrap();
    let piece = noise(1, 1 << 16);
    let full = (0..40 << 4).find_map(|_| file.write_all(&piece).err());
    assert_eq!(full.unwrap().raw_os_error(), Some(libc::ENOSPC));
    let disk = rustix::fs::statvfs(&small).unwrap();
    let (free, all) = (disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize);
    assert!(free >= all / 20, "{free} of {all} are free");
    assert!(warns_of_no_room(&node));
    file.set_len(0).unwrap();
    fs::write(node.mounted("new"), &piece).unwrap();
    assert!(!warns_of_no_room(&node));
}

#[apply(promise)]
fn a_file_above_the_configured_size_is_not_copied_for_a_change() {
    let mut cluster = Cluster::new();
    let other = cluster.start("two");
    let node = limited_node(&mut cluster, "copy_up_max = \"1MiB\"");
    for (name, size) in [("fits", 1 << 20), ("large", (1 << 20) + 1)] {
        other.write(name, &noise(1, size));
        node.wait_for_file(name);
    }
    let append = |name: &str| File::options().append(true).open(node.mounted(name));
    assert_eq!(errno(append("large")), Some(libc::EFBIG));
    append("fits").unwrap();
}

#[apply(promise)]
fn a_removed_file_is_kept_for_the_configured_time() {
    let mut cluster = Cluster::new();
    let node = limited_node(&mut cluster, "keep_replaced = \"1s\"");
    fs::write(node.mounted("file"), b"bytes").unwrap();
    fs::remove_file(node.mounted("file")).unwrap();
    let kept = node.home.join("state/files/.p2pfs-kept");
    eventually("the kept file is removed", HANG_LIMIT, || {
        node.cli(&["status"]).expect_ok();
        names_below(&kept).is_empty()
    });
}
