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
