//! Tests of the folders that the mount writes into.

use super::*;

impl ShareBench {
    fn writable(&self, dir: &Path, place: &str) -> ShareSpec {
        ShareSpec {
            place: SharePlace::new(place).unwrap(),
            writable: true,
            ..ShareSpec::new(dir)
        }
    }

    /// Returns the folders that the mount writes into.
    fn folders(&self) -> Vec<PathBuf> {
        let folders = self.set().writable_folders();
        folders.iter().map(|folder| folder.dir.clone()).collect()
    }
}

#[test]
fn mount_writes_into_the_writable_share_with_the_deepest_place() {
    let mut bench = ShareBench::bare();
    bench.open();
    let [top, photos, read_only] =
        ["share", "photos", "other"].map(|it| bench.home.path().join(it));
    fs::create_dir(&photos).unwrap();
    fs::create_dir(&read_only).unwrap();
    bench.set().add(bench.writable(&top, "")).unwrap();
    bench
        .set()
        .add(bench.writable(&photos, "a/photos"))
        .unwrap();
    bench.set().add(ShareSpec::new(&read_only)).unwrap();
    assert_eq!(bench.folders(), [photos.clone(), top.clone()]);
    let folders = bench.set().writable_folders();
    let names = |listed: &str| {
        let local = folders.iter().map(|it| it.local(&path(listed)));
        local.collect::<Vec<_>>()
    };
    assert_eq!(
        names("a/photos/x"),
        [Some(path("x")), Some(path("a/photos/x"))]
    );
    assert_eq!(names("a/x"), [None, Some(path("a/x"))]);

    bench.set().add(ShareSpec::new(&photos)).unwrap();
    assert_eq!(bench.folders(), std::slice::from_ref(&top));
    bench.set().remove(&top).unwrap();
    assert!(bench.folders().is_empty());
}

#[test]
fn writable_folder_is_told_with_its_readers_and_what_it_leaves_out() {
    let mut bench = ShareBench::bare();
    bench.open();
    let mut changes = bench.set().watch_writable();
    let spec = ShareSpec {
        readers: Some(vec!["alice".to_owned()]),
        exclude: vec!["build/".to_owned()],
        ..bench.writable(&bench.dir(), "")
    };
    bench.set().add(spec).unwrap();
    assert!(changes.has_changed().unwrap());
    let folders = changes.borrow_and_update().clone();
    let [folder] = &folders[..] else {
        panic!("{folders:?}");
    };
    assert!(folder.has_readers);
    for (name, is_left_out) in [
        ("id_rsa", true),
        ("d/.env", true),
        ("build/deep/f", true),
        (".ssh/config", true),
        ("builds/f", false),
        ("f", false),
    ] {
        assert_eq!(folder.leaves_out(&path(name), false), is_left_out, "{name}");
    }
    // A file that is created through the descriptor is one of the share.
    let file = rustix::fs::openat(
        &*folder.folder,
        "new",
        rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY,
        Mode::from_raw_mode(0o644),
    );
    drop(file.unwrap());
    bench.wait_for("the file", |bench| bench.has("new", b""));
    assert!(!changes.has_changed().unwrap());
}

#[test]
fn folder_that_vanished_is_not_written_until_it_is_back() {
    let mut bench = ShareBench::bare();
    bench.open();
    bench.set().add(bench.writable(&bench.dir(), "")).unwrap();
    bench.settle();
    let away = bench.home.path().join("away");
    fs::rename(bench.dir(), &away).unwrap();
    bench.wait_for("the warning", |bench| !bench.standing_warnings().is_empty());
    assert!(bench.folders().is_empty());
    fs::rename(&away, bench.dir()).unwrap();
    bench.wait_for("its end", |bench| bench.standing_warnings().is_empty());
    assert_eq!(bench.folders(), [bench.dir()]);
}

#[test]
fn folder_that_others_may_not_enter_is_not_written() {
    let mut bench = ShareBench::bare();
    bench.open();
    chmod(&bench.dir(), 0o700);
    let spec = bench.writable(&bench.dir(), "");
    let refused = bench.set().try_to_write(&spec).unwrap_err().to_string();
    assert!(refused.contains("chmod o+rx"), "{refused}");
    bench.set().add(spec.clone()).unwrap();
    bench.settle();
    assert!(bench.folders().is_empty());
    chmod(&bench.dir(), 0o755);
    bench.wait_for("the listing", |bench| bench.standing_warnings().is_empty());
    assert_eq!(bench.folders(), [bench.dir()]);
    bench.set().try_to_write(&spec).unwrap();
}

#[test]
fn folder_that_cannot_be_written_is_shared_with_a_warning() {
    // The kernel lets no program create files there, whatever its rights are.
    let dir = PathBuf::from("/sys/kernel/mm/ksm");
    if !dir.is_dir() {
        return;
    }
    let mut bench = ShareBench::bare();
    bench.open();
    let spec = bench.writable(&dir, "");
    let refused = bench.set().try_to_write(&spec).unwrap_err().to_string();
    assert!(refused.starts_with("cannot write into "), "{refused}");
    assert!(refused.contains("; "), "a remedy: {refused}");
    bench.set().add(spec).unwrap();
    assert!(bench.folders().is_empty());
    let warning = bench.status().warning.unwrap();
    assert!(
        warning.starts_with("writing into the mount does not work"),
        "{warning}"
    );
    bench.set().add(ShareSpec::new(&dir)).unwrap();
    assert_eq!(bench.status().warning, None);
}

#[test]
fn folder_in_the_state_directory_is_shared_only_if_it_is_allowed() {
    let mut bench = ShareBench::bare();
    let files = bench.config.state_dir.join("files");
    fs::create_dir_all(&files).unwrap();
    let beside = bench.config.state_dir.join("files-2");
    fs::create_dir(&beside).unwrap();
    bench.config.allow_beneath.push(files.clone());
    bench.config.refuse_beneath.push(files.join("mnt"));
    fs::create_dir(files.join("mnt")).unwrap();
    bench.open();
    for refused in [&bench.config.state_dir, &beside, &files.join("mnt")] {
        let added = bench.set().add(ShareSpec::new(refused));
        assert!(
            matches!(added, Err(ShareError::Refused { .. })),
            "{refused:?}"
        );
    }
    fs::write(files.join("f"), b"f").unwrap();
    bench.set().add(bench.writable(&files, "")).unwrap();
    bench.settle();
    assert_eq!(bench.names(), ["f"]);
    assert_eq!(bench.folders(), [files]);
}
