//! Tests of what a walk lists, and of what it leaves out and why.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use rustix::fs::{OFlags, mkdirat, openat};

use super::*;
use p2pfs_proto::wire::native::record::PATH_MAX_DEPTH;

fn why(status: &ShareStatus, name: &Path) -> Option<LeftOutWhy> {
    status
        .left_out
        .iter()
        .find(|left| left.path == name)
        .map(|left| left.why)
}

#[test]
fn files_directories_and_inner_links_are_listed_with_true_attributes() {
    let mut bench = ShareBench::bare();
    bench.mkdir("empty");
    bench.mkdir("d");
    bench.write("d/run", b"#!");
    bench.chmod("d/run", 0o755);
    bench.write("zero", b"");
    symlink("d/run", bench.at("link")).unwrap();
    date(&bench.at("zero"), 1_000_000);
    bench.start();
    assert_eq!(bench.names(), ["d", "d/run", "empty", "link", "zero"]);
    assert!(matches!(
        bench.entry("d/run").unwrap().kind,
        Kind::File {
            executable: true,
            ..
        }
    ));
    assert_eq!(bench.entry("empty").unwrap().kind, Kind::Directory);
    assert_eq!(bench.entry("zero").unwrap().mtime.seconds, 1_000_000);
    assert!(bench.has("zero", b""));
    let Kind::Symlink { target } = &bench.entry("link").unwrap().kind else {
        panic!()
    };
    assert_eq!(&target[..], b"d/run");
    let ShareStatus { totals, state, .. } = bench.status();
    assert_eq!(
        (totals.files, totals.directories, totals.symlinks),
        (2, 2, 1)
    );
    assert_eq!((totals.bytes, state), (2, ShareProgress::Ready));
}

#[test]
fn names_are_bytes_and_can_be_long() {
    let mut bench = ShareBench::bare();
    let long = "n".repeat(255);
    let raw = std::ffi::OsStr::from_bytes(b"\xff\xfe \n");
    fs::write(bench.dir().join(raw), b"raw").unwrap();
    bench.write(&long, b"long");
    bench.start();
    assert!(bench.has(&long, b"long"));
    assert!(
        bench
            .listing
            .contains_key(&SharedPath::new(&b"\xff\xfe \n"[..]).unwrap())
    );
}

#[test]
fn only_files_readable_by_others_are_shared_and_the_remedy_is_named() {
    let mut bench = ShareBench::bare();
    bench.write("private", b"p");
    bench.chmod("private", 0o640);
    bench.mkdir("closed");
    bench.write("closed/f", b"f");
    bench.chmod("closed", 0o754);
    bench.write("public", b"x");
    bench.start();
    assert_eq!(bench.names(), ["public"]);
    let status = bench.status();
    assert_eq!(left_out_count(&status), 2);
    assert_eq!(why(&status, &bench.at("closed")), Some(LeftOutWhy::Private));
    let left = status
        .left_out
        .iter()
        .find(|left| left.path.ends_with("private"))
        .unwrap();
    assert!(left.remedy.contains("chmod o+r") && left.remedy.contains("include_private"));
    assert!(bench.warnings().is_empty(), "{:?}", bench.warnings());
}

#[test]
fn excluded_names_are_never_listed_and_their_pattern_is_named() {
    let mut bench = ShareBench::bare();
    bench.mkdir(".ssh");
    bench.write(".ssh/id_ed25519", b"secret");
    bench.write("server.key", b"secret");
    bench.write("notes", b"n");
    bench.start();
    assert_eq!(bench.names(), ["notes"]);
    // files created later are excluded too, including the contents of directories
    bench.write(".env", b"secret");
    bench.mkdir(".gnupg");
    bench.write(".gnupg/private", b"secret");
    bench.write("later", b"l");
    bench.wait_for("the new file", |bench| bench.names().len() == 2);
    bench.settle();
    assert_eq!(bench.names(), ["later", "notes"]);
    let counts = bench.status().left_out_counts;
    assert_eq!(counts, [(LeftOutWhy::Excluded, 4)]);
    let left_out = bench.set().left_out_at(&path(".ssh/id_ed25519"));
    assert_eq!(left_out[0].why, LeftOutWhy::Excluded);
    assert_eq!(left_out[0].path, bench.at(".ssh"));
    assert!(left_out[0].remedy.starts_with(".ssh/, by default"));
    assert!(bench.warnings().is_empty(), "{:?}", bench.warnings());
}

#[test]
fn a_name_excluded_after_listing_disappears_and_returns() {
    let mut bench = ShareBench::bare();
    bench.write("a.log", b"log");
    bench.mkdir("build");
    bench.write("build/out", b"out");
    bench.write("kept", b"k");
    bench.start();
    assert_eq!(bench.names(), ["a.log", "build", "build/out", "kept"]);
    let hashes = [&b"log"[..], b"out"].map(ContentHash::of);
    assert!(hashes.iter().all(|it| bench.set().source(it).is_ok()));
    let spec = ShareSpec {
        exclude: ["*.log", "/build/"].map(str::to_owned).to_vec(),
        ..ShareSpec::new(bench.dir())
    };
    bench.set().add(spec).unwrap();
    bench.settle();
    assert_eq!(bench.names(), ["kept"]);
    assert!(
        hashes.iter().all(|it| bench.set().source(it).is_err()),
        "they are not served either"
    );
    bench.write("b.log", b"new");
    bench.settle();
    assert_eq!(bench.names(), ["kept"]);
    bench.set().add(ShareSpec::new(bench.dir())).unwrap();
    bench.settle();
    assert_eq!(
        bench.names(),
        ["a.log", "b.log", "build", "build/out", "kept"]
    );
    assert_eq!(left_out_count(&bench.status()), 0);
}

#[test]
fn an_invalid_pattern_is_refused_and_changes_nothing() {
    let mut bench = ShareBench::new();
    bench.write("f", b"f");
    bench.settle();
    let spec = ShareSpec {
        exclude: vec!["[z-a]".to_owned()],
        ..ShareSpec::new(bench.dir())
    };
    let refused = bench.set().add(spec);
    assert!(matches!(refused, Err(ShareError::BadPattern { .. })));
    assert_eq!(bench.status().spec.exclude, Vec::<String>::new());
}

#[test]
fn all_listed_names_are_reported_page_by_page_once_each() {
    let mut bench = ShareBench::bare();
    bench.mkdir("d");
    (0..20).for_each(|i| bench.write(&format!("d/{i}"), b"x"));
    bench.write(".env", b"secret");
    bench.start();
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let (page, next) = bench.set().listed(after, 3);
        assert!(page.len() <= 3);
        found.extend(page.into_iter().map(|known| known.path.to_string()));
        match next {
            None => break,
            next => after = next,
        }
    }
    found.sort();
    assert_eq!(found, bench.names());
}

#[test]
fn include_private_shares_private_files_and_can_be_revoked() {
    let mut bench = ShareBench::bare();
    bench.mkdir("d");
    bench.write("d/private", b"p");
    bench.chmod("d/private", 0o600);
    bench.chmod("d", 0o700);
    bench.open();
    let spec = ShareSpec {
        include_private: true,
        ..ShareSpec::new(bench.dir())
    };
    let index = bench.set().add(spec).unwrap();
    bench.settle();
    assert_eq!(bench.names(), ["d", "d/private"]);
    assert!(bench.set().own(index, &path("d/private")).is_ok());
    assert_eq!(bench.set().add(ShareSpec::new(bench.dir())).unwrap(), index);
    bench.settle();
    assert!(bench.names().is_empty());
    let refused = bench.set().own(index, &path("d/private"));
    assert!(matches!(refused, Err(ShareError::NotHere)));
}

#[test]
fn a_share_that_others_cannot_enter_shares_nothing_and_says_so() {
    let mut bench = ShareBench::bare();
    bench.write("f", b"f");
    chmod(&bench.dir(), 0o700);
    bench.start();
    assert!(bench.names().is_empty());
    assert!(bench.status().warning.unwrap().contains("chmod o+rx"));
    assert_eq!(left_out_count(&bench.status()), 1);
    chmod(&bench.dir(), 0o755);
    bench.wait_for("opened to others", |b| b.has("f", b"f"));
    bench.settle();
    assert_eq!(bench.status().warning, None);
    chmod(&bench.dir(), 0o750);
    bench.wait_for("closed again", |b| b.listing.is_empty());
}

#[test]
fn a_file_too_large_to_verify_is_left_out_without_affecting_others() {
    let mut bench = ShareBench::bare();
    bench.write("small", b"small");
    let huge = fs::File::create(bench.at("huge")).unwrap();
    huge.set_len(FILE_MAX_BYTES + 1).unwrap();
    bench.start();
    assert_eq!(bench.names(), ["small"]);
    let status = bench.status();
    assert_eq!(why(&status, &bench.at("huge")), Some(LeftOutWhy::TooLarge));
    huge.set_len(3).unwrap();
    drop(huge);
    bench.wait_for("it became small", |b| b.has("huge", &[0; 3]));
}

#[test]
fn files_that_take_hours_to_hash_do_not_delay_other_large_files() {
    const HUGE: u64 = 512 << 30;
    const LARGE: u64 = (64 << 20) + 1;
    let mut bench = ShareBench::bare();
    for number in 0..3 {
        let huge = fs::File::create(bench.at(&format!("huge-{number}"))).unwrap();
        huge.set_len(HUGE).unwrap();
    }
    bench.open();
    bench.set().add(ShareSpec::new(bench.dir())).unwrap();
    let read = || bench.set().read_bytes();
    let deadline = Instant::now() + PATIENCE;
    while read() < LARGE {
        assert!(Instant::now() < deadline, "nothing is read");
        std::thread::yield_now();
    }
    let large = fs::File::create(bench.at("large")).unwrap();
    large.set_len(LARGE).unwrap();
    drop(large);
    bench.wait_for("the other is listed", |b| b.entry("large").is_some());
    assert_eq!(bench.names(), ["large"], "the huge ones are not done");
}

#[test]
fn special_files_and_outward_links_are_left_out_with_a_warning_that_names_them() {
    let mut bench = ShareBench::bare();
    bench.fifo("fifo");
    let _socket = std::os::unix::net::UnixListener::bind(bench.at("socket")).unwrap();
    symlink("/etc/passwd", bench.at("absolute")).unwrap();
    symlink("../state", bench.at("up")).unwrap();
    symlink("self", bench.at("self")).unwrap();
    symlink("none/../self", bench.at("up-from-nothing")).unwrap();
    bench.start();
    assert!(bench.names().is_empty());
    let status = bench.status();
    for (name, reason) in [
        ("fifo", LeftOutWhy::Special),
        ("socket", LeftOutWhy::Special),
        ("absolute", LeftOutWhy::LinkOut),
        ("up", LeftOutWhy::LinkOut),
        ("self", LeftOutWhy::Loop),
        ("up-from-nothing", LeftOutWhy::LinkUp),
    ] {
        assert_eq!(why(&status, &bench.at(name)), Some(reason), "{name}");
        assert!(
            bench
                .warnings()
                .iter()
                .any(|(path, _)| *path == bench.at(name)),
            "{name}"
        );
    }
}

#[test]
fn names_of_partial_files_are_left_out_with_a_warning_except_in_an_inbox() {
    let mut bench = ShareBench::bare();
    bench.mkdir("inbox");
    bench.config.inboxes = vec![bench.at("inbox")];
    for name in ["sub", "sub/deep", "inbox/.p2pfs-arriving"] {
        bench.mkdir(name);
    }
    bench.mkdir("sub/.p2pfs-arriving");
    bench.write("sub/.p2pfs-arriving/inner", b"i");
    bench.write("sub/deep/.p2pfs-arriving", b"file");
    bench.write("inbox/.p2pfs-arriving/half", b"h");
    bench.start();
    assert_eq!(bench.names(), ["inbox", "sub", "sub/deep"]);
    let status = bench.status();
    assert_eq!(status.left_out_counts, [(LeftOutWhy::Arriving, 2)]);
    for name in ["sub/.p2pfs-arriving", "sub/deep/.p2pfs-arriving"] {
        let warned = |(path, _): &(PathBuf, String)| *path == bench.at(name);
        assert!(bench.warnings().iter().any(warned), "{name}");
    }
    let inner = bench.set().left_out_at(&path("sub/.p2pfs-arriving/inner"));
    assert_eq!(inner[0].path, bench.at("sub/.p2pfs-arriving"));
    assert!(inner[0].remedy.contains("rename it"));
    // nothing is left out once it is renamed
    fs::rename(
        bench.at("sub/deep/.p2pfs-arriving"),
        bench.at("sub/deep/found"),
    )
    .unwrap();
    bench.wait_for("the renamed file", |bench| {
        bench.has("sub/deep/found", b"file")
    });
    bench.settle();
    assert_eq!(left_out_count(&bench.status()), 1);
}

#[test]
fn many_left_out_names_are_counted_with_bounded_lists_and_warnings() {
    let mut bench = ShareBench::bare();
    for number in 0..300 {
        symlink("/", bench.at(&format!("l{number}"))).unwrap();
    }
    bench.start();
    assert_eq!(left_out_count(&bench.status()), 300);
    assert_eq!(bench.status().left_out.len(), LEFT_OUT_LIST_MAX);
    assert!(bench.warnings().len() <= 32, "{}", bench.warnings().len());
}

#[test]
fn the_mount_point_and_refused_directories_are_never_entered() {
    let mut bench = ShareBench::bare();
    bench.mkdir(".p2pfs");
    bench.write(".p2pfs/f", b"f");
    bench.mkdir("mnt");
    bench.write("mnt/f", b"f");
    symlink("mnt/f", bench.at("into")).unwrap();
    bench.mkdir("d");
    bench.mkdir("d/.p2pfs");
    bench.config.refuse_beneath = vec![bench.at("mnt")];
    bench.start();
    assert_eq!(bench.names(), ["d", "d/.p2pfs", "into"]);
    let status = bench.status();
    assert_eq!(why(&status, &bench.at("mnt")), Some(LeftOutWhy::OwnMount));
    assert_eq!(why(&status, &bench.at(".p2pfs")), Some(LeftOutWhy::Hidden));
}

#[test]
fn names_too_long_or_too_deep_are_left_out_with_that_reason() {
    for (name, levels, wanted) in [
        ("d".to_owned(), PATH_MAX_DEPTH, LeftOutWhy::TooDeep),
        ("d".repeat(255), 4096 / 256, LeftOutWhy::TooLong),
    ] {
        let mut bench = ShareBench::bare();
        let mut dir = fs::File::open(bench.dir()).unwrap();
        for _ in 0..=levels {
            mkdirat(&dir, &name, Mode::from(0o755)).unwrap();
            dir = openat(&dir, &name, OFlags::RDONLY, Mode::empty())
                .unwrap()
                .into();
        }
        bench.start();
        assert_eq!(bench.names().len(), levels);
        let left_out = bench.status().left_out;
        let last = vec![&name[..]; levels + 1].join("/");
        assert_eq!(left_out.len(), 1);
        assert_eq!(
            (left_out[0].why, &left_out[0].path),
            (wanted, &bench.at(&last))
        );
    }
}

#[test]
fn the_state_directory_is_never_shared_even_with_include_private() {
    let mut bench = ShareBench::bare();
    bench.config.state_dir = bench.at("state");
    bench.open();
    let spec = ShareSpec {
        include_private: true,
        ..ShareSpec::new(bench.dir())
    };
    bench.set().add(spec).unwrap();
    bench.settle();
    assert!(bench.names().is_empty(), "{:?}", bench.names());
    let refused = bench.set().add(ShareSpec::new(bench.at("state/outboards")));
    assert!(matches!(refused, Err(ShareError::Refused { .. })));
}

#[test]
fn an_impossible_share_is_refused_in_one_clear_line() {
    let mut bench = ShareBench::bare();
    bench.mkdir("d");
    bench.write("f", b"f");
    bench.mkdir("mnt");
    bench.config.refuse_beneath = vec![bench.at("mnt")];
    bench.open();
    let add = |name: &str| bench.set().add(ShareSpec::new(bench.at(name))).unwrap_err();
    assert!(matches!(add("absent"), ShareError::NotFound { .. }));
    assert!(matches!(add("f"), ShareError::NotDirectory { .. }));
    assert!(matches!(add("mnt"), ShareError::Refused { .. }));
    assert!(matches!(add("mnt/deeper"), ShareError::Refused { .. }));
    bench.set().add(ShareSpec::new(bench.at("d"))).unwrap();
    let outer = bench.set().add(ShareSpec::new(bench.dir())).unwrap_err();
    assert!(matches!(outer, ShareError::Overlaps { .. }));
    let text = outer.to_string();
    assert!(
        text.contains("share/d") && text.contains("share the outer one"),
        "{text}"
    );
    assert!(matches!(
        bench.set().remove(&bench.at("f")),
        Err(ShareError::NotShared { .. })
    ));
}

#[test]
fn a_removed_share_removes_all_its_entries() {
    let mut bench = ShareBench::new();
    bench.mkdir("d");
    bench.write("d/f", b"f");
    bench.wait_for("listed", |b| b.has("d/f", b"f"));
    bench.set().remove(&bench.dir()).unwrap();
    bench.settle();
    assert!(bench.listing.is_empty());
    assert!(bench.set().list().is_empty());
    assert!(bench.set().source(&ContentHash::of(b"f")).is_err());
    bench.set().add(ShareSpec::new(bench.dir())).unwrap();
    bench.wait_for("back", |b| b.has("d/f", b"f"));
}

#[test]
fn two_shares_are_distinguished_by_their_numbers() {
    let mut bench = ShareBench::bare();
    bench.mkdir("a");
    bench.mkdir("b");
    bench.write("a/f", b"in a");
    bench.open();
    let first = bench.set().add(ShareSpec::new(bench.at("a"))).unwrap();
    let second = bench.set().add(ShareSpec::new(bench.at("b"))).unwrap();
    assert_ne!(first, second);
    bench.settle();
    let own = |index| bench.set().own(index, &path("f"));
    assert!(own(first).is_ok());
    assert!(matches!(own(second), Err(ShareError::NotHere)));
    assert!(matches!(
        own(ShareIndex(99)),
        Err(ShareError::NoSuchIndex { .. })
    ));
}

#[test]
fn a_future_dated_file_gets_its_discovery_time_as_version_time() {
    let mut bench = ShareBench::bare();
    bench.write("future", b"f");
    date(&bench.at("future"), 4_000_000_000);
    bench.write("past", b"p");
    date(&bench.at("past"), 1_000_000_000);
    bench.start();
    let future = bench.entry("future").unwrap();
    assert_eq!(seconds(future.mtime), 4_000_000_000);
    assert!(future.version_time < future.mtime);
    let past = bench.entry("past").unwrap();
    assert_eq!(past.version_time, past.mtime);
}
