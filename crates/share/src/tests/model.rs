//! Random changes compared with a plain walk: the events add up to what is on the disk.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};

use proptest::prelude::*;

use super::*;

/// Targets outside of the share, absolute and relative. No process can create files in that
/// directory, because steps are also taken through links.
const OUT: &str = "/proc/sys";
const OUT_AND_UP: &str = "../../../../../../../../../../../../proc/sys";

#[derive(Clone, Debug)]
enum ShareAction {
    Write { at: String, size: usize, seed: u8 },
    Append { at: String, seed: u8 },
    Rename { from: String, to: String },
    Delete { at: String },
    Chmod { at: String, mode: u32 },
    Mkdir { at: String },
    Symlink { at: String, target: &'static str },
    Link { from: String, to: String },
    Date { at: String, seconds: u64 },
    Settle,
}

fn any_path() -> impl Strategy<Value = String> {
    proptest::collection::vec(prop_oneof!["[abc]"], 1..4).prop_map(|names| names.join("/"))
}

fn any_step() -> impl Strategy<Value = ShareAction> {
    let mode = prop_oneof![
        Just(0o600),
        Just(0o644),
        Just(0o755),
        Just(0o755),
        Just(0o700)
    ];
    let target = prop_oneof![Just("a"), Just("b"), Just("."), Just(OUT), Just(OUT_AND_UP)];
    prop_oneof![
        6 => (any_path(), 0usize..100_000, any::<u8>())
            .prop_map(|(at, size, seed)| ShareAction::Write { at, size, seed }),
        2 => (any_path(), any::<u8>()).prop_map(|(at, seed)| ShareAction::Append { at, seed }),
        4 => (any_path(), any_path()).prop_map(|(from, to)| ShareAction::Rename { from, to }),
        2 => any_path().prop_map(|at| ShareAction::Delete { at }),
        3 => (any_path(), mode).prop_map(|(at, mode)| ShareAction::Chmod { at, mode }),
        6 => any_path().prop_map(|at| ShareAction::Mkdir { at }),
        2 => (any_path(), target).prop_map(|(at, target)| ShareAction::Symlink { at, target }),
        1 => (any_path(), any_path()).prop_map(|(from, to)| ShareAction::Link { from, to }),
        1 => (any_path(), 0u64..4_000_000_000)
            .prop_map(|(at, seconds)| ShareAction::Date { at, seconds }),
        1 => Just(ShareAction::Settle),
    ]
}

/// Takes the step if it is possible; otherwise does nothing.
fn take_step(dir: &Path, step: &ShareAction) {
    let _ = match step {
        ShareAction::Write { at, size, seed } => fs::write(dir.join(at), vec![*seed; *size]),
        ShareAction::Append { at, seed } => fs::OpenOptions::new()
            .append(true)
            .open(dir.join(at))
            .and_then(|mut file| std::io::Write::write_all(&mut file, &[*seed; 10])),
        ShareAction::Rename { from, to } => fs::rename(dir.join(from), dir.join(to)),
        ShareAction::Delete { at } => {
            let at = dir.join(at);
            fs::remove_file(&at).or_else(|_| fs::remove_dir_all(&at))
        }
        ShareAction::Chmod { at, mode } => match fs::symlink_metadata(dir.join(at)) {
            Ok(stat) if !stat.is_symlink() => {
                fs::set_permissions(dir.join(at), fs::Permissions::from_mode(*mode))
            }
            _ => Ok(()),
        },
        ShareAction::Mkdir { at } => fs::create_dir(dir.join(at)),
        ShareAction::Symlink { at, target } => symlink(target, dir.join(at)),
        ShareAction::Link { from, to } => fs::hard_link(dir.join(from), dir.join(to)),
        ShareAction::Date { at, seconds } => match fs::symlink_metadata(dir.join(at)) {
            Ok(stat) if stat.is_file() => {
                date(&dir.join(at), *seconds);
                Ok(())
            }
            _ => Ok(()),
        },
        ShareAction::Settle => Ok(()),
    };
}

type Plain = BTreeMap<SharedPath, (Kind, Timestamp)>;

/// Computes the expected listing with a plain recursive walk.
fn plain_walk(share: &Path, beneath: &Path, listed: &mut Plain) {
    for entry in fs::read_dir(beneath).unwrap() {
        let at = entry.unwrap().path();
        let stat = fs::symlink_metadata(&at).unwrap();
        let path = SharedPath::from_local(at.strip_prefix(share).unwrap()).unwrap();
        let mtime = Timestamp {
            seconds: stat.mtime(),
            nanoseconds: stat.mtime_nsec() as u32,
        };
        let mode = stat.mode();
        let kind = if stat.is_symlink() {
            let target = fs::read_link(&at).unwrap();
            if !leads_inside(share, &at) {
                continue;
            }
            let target = bytes::Bytes::copy_from_slice(target.as_os_str().as_bytes());
            Kind::Symlink { target }
        } else if stat.is_dir() && mode & 0o5 == 0o5 {
            plain_walk(share, &at, listed);
            Kind::Directory
        } else if stat.is_file() && mode & 0o4 == 0o4 {
            let bytes = fs::read(&at).unwrap();
            Kind::File {
                hash: ContentHash::of(&bytes),
                size_bytes: bytes.len() as u64,
                executable: mode & 0o100 != 0,
            }
        } else {
            continue;
        };
        listed.insert(path, (kind, mtime));
    }
}

fn leads_inside(share: &Path, link: &Path) -> bool {
    let target = fs::read_link(link).unwrap();
    match fs::canonicalize(link) {
        Ok(real) => real.starts_with(share),
        Err(error) => {
            target != Path::new(OUT_AND_UP) && error.kind() == std::io::ErrorKind::NotFound
        }
    }
}

fn without_links(plain: impl Iterator<Item = (SharedPath, (Kind, Timestamp))>) -> Plain {
    plain
        .filter(|(_, (kind, _))| !matches!(kind, Kind::Symlink { .. }))
        .collect()
}

fn listed(bench: &ShareBench) -> impl Iterator<Item = (SharedPath, (Kind, Timestamp))> + '_ {
    bench
        .listing
        .iter()
        .map(|(path, entry)| (path.clone(), (entry.kind.clone(), entry.mtime)))
}

fn check(bench: &mut ShareBench) -> Result<(), TestCaseError> {
    let dir = fs::canonicalize(bench.dir()).unwrap();
    let mut plain = Plain::new();
    plain_walk(&dir, &dir, &mut plain);
    // the target of a link can change without a report about the link itself
    bench.settle();
    let by_watching = without_links(listed(bench));
    prop_assert_eq!(
        by_watching,
        without_links(plain.clone().into_iter()),
        "by watching"
    );
    bench.set().rescan();
    bench.settle();
    prop_assert_eq!(
        listed(bench).collect::<Plain>(),
        plain.clone(),
        "by a rescan"
    );
    let ShareStatus { totals, state, .. } = bench.status();
    let counted = totals.files + totals.directories + totals.symlinks;
    prop_assert_eq!(counted, plain.len() as u64);
    prop_assert_eq!(state, ShareProgress::Ready);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..Default::default() })]

    #[test]
    fn the_events_of_a_share_add_up_to_its_content_after_any_operations(
        steps in proptest::collection::vec(any_step(), 1..60)
    ) {
        let mut bench = ShareBench::bare();
        bench.config.quiet = Duration::from_millis(20);
        bench.start();
        for step in &steps {
            take_step(&bench.dir(), step);
            if matches!(step, ShareAction::Settle) {
                check(&mut bench)?;
            }
        }
        check(&mut bench)?;
        bench.stop();
        bench.start();
        check(&mut bench)?;
    }
}
