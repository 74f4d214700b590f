//! Random calls on the mount and on a plain directory of the disk, with the same results expected.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use macro_rules_attribute::apply;
use p2pfs_types::digest::ContentHash;
use p2pfs_types::path::KEPT;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::NEEDS;
use crate::support::content::{names_below, noise};
use crate::support::memory::Memory;
use crate::support::mounted::Mounted;
use crate::support::process::HANG_LIMIT;
use crate::support::promise::promise;
use crate::support::seeds::each_seed;

/// Calls of one seed.
const CALLS: usize = 1500;
/// Files that are open at once.
const OPEN_MAX: usize = 4;
/// Names at each level. With few names most calls meet something.
const NAMES: [&str; 4] = ["a", "b", "c", "link"];
/// Levels of a path: most are short, so that most calls meet something.
const DEPTHS: [usize; 6] = [1, 1, 1, 2, 2, 3];
/// Maximum size of a file in bytes: more than a page and less than two requests.
const SIZE: usize = 20_000;

/// A call, with the same arguments for both places.
#[derive(Clone, Debug)]
enum Call {
    Open {
        path: PathBuf,
        slot: usize,
        access: i32,
        flags: i32,
    },
    Close {
        slot: usize,
    },
    Write {
        slot: usize,
        offset: u64,
        length: usize,
        seed: u64,
    },
    Append {
        path: PathBuf,
        length: usize,
        seed: u64,
    },
    Read {
        slot: usize,
        offset: u64,
        length: usize,
    },
    ReadWhole {
        path: PathBuf,
    },
    SetLength {
        slot: usize,
        length: u64,
    },
    Truncate {
        path: PathBuf,
        length: u64,
    },
    Unlink {
        path: PathBuf,
    },
    MakeDirectory {
        path: PathBuf,
    },
    RemoveDirectory {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
        flags: RenameFlags,
    },
    Link {
        target: &'static str,
        path: PathBuf,
    },
    ReadLink {
        path: PathBuf,
    },
    SetMode {
        path: PathBuf,
        executable: bool,
    },
    SetTime {
        slot: usize,
        seconds: u64,
    },
    Stat {
        path: PathBuf,
    },
    StatOpen {
        slot: usize,
    },
    List {
        path: PathBuf,
    },
    Sync {
        slot: usize,
    },
}

/// Chooses calls.
struct Chooser {
    random: StdRng,
    /// Whether another node shares files of the same names. A program that has one open goes on
    /// reading its version after a change, so only calls by name are compared.
    only_names: bool,
}

impl Chooser {
    fn path(&mut self) -> PathBuf {
        let depth = DEPTHS[self.random.random_range(0..DEPTHS.len())];
        (0..depth)
            .map(|_| NAMES[self.random.random_range(0..NAMES.len())])
            .collect()
    }

    fn slot(&mut self) -> usize {
        self.random.random_range(0..OPEN_MAX)
    }

    fn length(&mut self) -> usize {
        self.random.random_range(0..SIZE / 2)
    }

    fn offset(&mut self) -> u64 {
        self.length() as u64
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn open(&mut self) -> Call {
        let accesses = [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR];
        let mut flags = 0;
        for (flag, percent) in [
            (libc::O_CREAT, 70),
            (libc::O_EXCL, 20),
            (libc::O_TRUNC, 20),
            (libc::O_APPEND, 20),
        ] {
            if self.chance(percent) {
                flags |= flag;
            }
        }
        if flags & libc::O_CREAT == 0 {
            // O_EXCL has no meaning alone.
            flags &= !libc::O_EXCL;
        }
        Call::Open {
            path: self.path(),
            slot: self.slot(),
            access: accesses[self.random.random_range(0..accesses.len())],
            flags,
        }
    }

    fn next(&mut self) -> Call {
        loop {
            let call = self.any();
            let opens = matches!(call, Call::Open { .. });
            if !(opens && self.only_names) {
                return call;
            }
        }
    }

    fn any(&mut self) -> Call {
        match self.random.random_range(0..100) {
            0..18 => self.open(),
            18..22 => Call::Close { slot: self.slot() },
            22..34 => Call::Write {
                slot: self.slot(),
                offset: self.offset(),
                length: self.length(),
                seed: self.random.random(),
            },
            34..38 => Call::Append {
                path: self.path(),
                length: self.length(),
                seed: self.random.random(),
            },
            38..46 => Call::Read {
                slot: self.slot(),
                offset: self.offset(),
                length: self.length(),
            },
            46..50 => Call::ReadWhole { path: self.path() },
            50..53 => Call::SetLength {
                slot: self.slot(),
                length: self.offset(),
            },
            53..56 => Call::Truncate {
                path: self.path(),
                length: self.offset(),
            },
            56..61 => Call::Unlink { path: self.path() },
            61..67 => Call::MakeDirectory { path: self.path() },
            67..70 => Call::RemoveDirectory { path: self.path() },
            70..80 => self.rename(),
            80..83 => self.link(),
            83..84 => Call::ReadLink { path: self.path() },
            84..87 => Call::SetMode {
                path: self.path(),
                executable: self.chance(50),
            },
            87..89 => Call::SetTime {
                slot: self.slot(),
                seconds: self.random.random_range(0..1 << 32),
            },
            89..93 => Call::Stat { path: self.path() },
            93..95 => Call::StatOpen { slot: self.slot() },
            95..98 => self.list(),
            _ => Call::Sync { slot: self.slot() },
        }
    }

    fn rename(&mut self) -> Call {
        let flags = if self.chance(30) {
            RenameFlags::NOREPLACE
        } else {
            RenameFlags::empty()
        };
        Call::Rename {
            from: self.path(),
            to: self.path(),
            flags,
        }
    }

    fn link(&mut self) -> Call {
        // Each stays inside from any directory.
        let targets = ["a", "b", "c", "a/b", "link"];
        Call::Link {
            target: targets[self.random.random_range(0..targets.len())],
            path: self.path(),
        }
    }

    fn list(&mut self) -> Call {
        let path = if self.chance(30) {
            PathBuf::new()
        } else {
            self.path()
        };
        Call::List { path }
    }
}

/// One of the two places, with its open files.
struct Place {
    root: PathBuf,
    open: [Option<File>; OPEN_MAX],
}

/// What a program sees of a call: text and bytes, or an errno.
type Seen = Result<Vec<u8>, i32>;

impl Place {
    fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            open: Default::default(),
        }
    }

    fn carry_out(&mut self, call: &Call) -> Seen {
        self.attempt(call).map_err(|error| {
            let errno = error.raw_os_error();
            errno.unwrap_or_else(|| panic!("{call:?}: {error}"))
        })
    }

    fn slot(&self, slot: usize) -> io::Result<&File> {
        let closed = || io::Error::from_raw_os_error(libc::EBADF);
        self.open[slot].as_ref().ok_or_else(closed)
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each call")]
    fn attempt(&mut self, call: &Call) -> io::Result<Vec<u8>> {
        let at = |path: &Path| self.root.join(path);
        match call {
            Call::Open {
                path,
                slot,
                access,
                flags,
            } => {
                self.open[*slot] = Some(open(&at(path), access | flags)?);
            }
            Call::Close { slot } => self.open[*slot] = None,
            Call::Write {
                slot,
                offset,
                length,
                seed,
            } => self
                .slot(*slot)?
                .write_all_at(&noise(*seed, *length), *offset)?,
            Call::Append { path, length, seed } => {
                let mut file = File::options().append(true).open(at(path))?;
                io::Write::write_all(&mut file, &noise(*seed, *length))?;
            }
            Call::Read {
                slot,
                offset,
                length,
            } => {
                let mut bytes = vec![0; *length];
                let read = self.slot(*slot)?.read_at(&mut bytes, *offset)?;
                bytes.truncate(read);
                return Ok(bytes);
            }
            Call::ReadWhole { path } => return fs::read(at(path)),
            Call::SetLength { slot, length } => self.slot(*slot)?.set_len(*length)?,
            Call::Truncate { path, length } => {
                let path = super::c_path(&at(path));
                let length = i64::try_from(*length).unwrap();
                // SAFETY: a C string.
                if unsafe { libc::truncate(path.as_ptr(), length) } != 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Call::Unlink { path } => fs::remove_file(at(path))?,
            Call::MakeDirectory { path } => fs::create_dir(at(path))?,
            Call::RemoveDirectory { path } => fs::remove_dir(at(path))?,
            Call::Rename { from, to, flags } => renameat_with(CWD, at(from), CWD, at(to), *flags)?,
            Call::Link { target, path } => symlink(target, at(path))?,
            Call::ReadLink { path } => {
                return Ok(fs::read_link(at(path))?
                    .into_os_string()
                    .into_encoded_bytes());
            }
            Call::SetMode { path, executable } => {
                let path = at(path);
                // A directory keeps its mode.
                if fs::metadata(&path)?.is_file() {
                    let mode = if *executable { 0o755 } else { 0o644 };
                    fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
                }
            }
            Call::SetTime { slot, seconds } => {
                let time = UNIX_EPOCH + Duration::from_secs(*seconds);
                let file = self.slot(*slot)?;
                file.set_modified(time)?;
                let found = file.metadata()?;
                // The time of a directory is that of its last change.
                if found.is_file() {
                    return Ok(format!("{:?}", found.modified()?).into());
                }
            }
            Call::Stat { path } => return Ok(shown(&fs::symlink_metadata(at(path))?).into()),
            Call::StatOpen { slot } => {
                let found = self.slot(*slot)?.metadata()?;
                // Of a directory, the count says only whether it was removed.
                let links = if found.is_dir() {
                    found.nlink().min(1)
                } else {
                    found.nlink()
                };
                return Ok(format!("{} {links}", shown(&found)).into());
            }
            Call::List { path } => {
                let mut names = Vec::new();
                for entry in fs::read_dir(at(path))? {
                    let entry = entry?;
                    names.push(format!("{:?} {:?}", entry.file_name(), entry.file_type()?));
                }
                names.retain(|name| !name.starts_with("\".p2pfs"));
                names.sort();
                return Ok(names.join("\n").into());
            }
            Call::Sync { slot } => self.slot(*slot)?.sync_all()?,
        }
        Ok(Vec::new())
    }

    /// Returns everything below the root, by path.
    fn tree(&self) -> BTreeMap<PathBuf, (String, Vec<u8>)> {
        let paths = names_below(&self.root).into_iter();
        // What programs removed is kept in the folder of the share.
        let is_hidden = |path: &PathBuf| path.starts_with(".p2pfs") || path.starts_with(KEPT);
        let paths = paths.filter(|path| !is_hidden(path));
        let entry = |path: PathBuf| {
            let at = self.root.join(&path);
            let found = fs::symlink_metadata(&at).unwrap();
            let bytes = if found.is_file() {
                fs::read(&at).unwrap()
            } else if found.is_symlink() {
                fs::read_link(&at)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else {
                Vec::new()
            };
            (path, (shown(&found), bytes))
        };
        paths.map(entry).collect()
    }
}

/// Opens with exactly these flags. The standard library refuses some combinations itself.
fn open(path: &Path, flags: i32) -> io::Result<File> {
    use std::os::fd::FromRawFd;
    let path = super::c_path(path);
    // SAFETY: a C string, and a new descriptor that nothing else owns.
    unsafe {
        let opened = libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0o644);
        if opened < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(File::from_raw_fd(opened))
    }
}

/// Returns the attributes that both places must show alike.
fn shown(found: &fs::Metadata) -> String {
    let mut text = format!("{:?}", found.file_type());
    if found.is_file() {
        let executable = found.mode() & 0o100 != 0;
        write!(text, " {} {executable}", found.len()).unwrap();
    }
    text
}

/// How a mount writes, and whose files it shows at first.
#[derive(Clone, Copy, Debug)]
struct Variant {
    passthrough: bool,
    has_others: bool,
}

/// Makes calls in both places. Returns how they differ, if they do.
fn difference(calls: &[Call], variant: Variant) -> Option<String> {
    let content = Memory::new();
    let others: &[&str] = if variant.has_others { &NAMES } else { &[] };
    for (seed, name) in (0..).zip(others) {
        content.file(name, noise(seed, SIZE / 2));
    }
    let mounted = Mounted::writable(&content, |options| {
        options.server.passthrough = variant.passthrough;
    });
    let disk = mounted.beside("disk");
    fs::create_dir(&disk).unwrap();
    for name in others {
        fs::copy(mounted.at(name), disk.join(name)).unwrap();
    }
    let mut places = [Place::new(&disk), Place::new(mounted.dir())];
    for (number, call) in calls.iter().enumerate() {
        let [on_disk, on_mount] = places.each_mut().map(|place| place.carry_out(call));
        if variant.has_others {
            show_deletions(&mounted);
        }
        if on_disk != on_mount {
            let (on_disk, on_mount) = (text_of(&on_disk), text_of(&on_mount));
            return Some(format!(
                "call {number}: {call:?}\ndisk: {on_disk}\nmount: {on_mount}"
            ));
        }
    }
    let [on_disk, on_mount] = places.each_ref().map(Place::tree);
    let written = Place::new(mounted.upper()).tree();
    let differs = on_disk != on_mount || (!variant.has_others && on_disk != written);
    differs.then(|| {
        let shown = [&on_disk, &on_mount, &written].map(|tree| {
            let shown = tree.iter().map(|(path, (shown, bytes))| {
                format!("{} {shown} {}", path.display(), ContentHash::of(bytes))
            });
            shown.collect::<Vec<_>>()
        });
        format!("the trees differ: {shown:#?}")
    })
}

/// Waits until the mount shows the newest view, as a node does soon after a deletion.
fn show_deletions(mounted: &Mounted) {
    mounted.publish();
    let begun = Instant::now();
    while !mounted.mount.is_up_to_date() {
        assert!(begun.elapsed() < HANG_LIMIT, "the newest view is not shown");
        thread::yield_now();
    }
}

/// Leaves out calls without which the places differ as well.
fn shrink(mut calls: Vec<Call>, variant: Variant) -> Vec<Call> {
    let mut step = calls.len() / 2;
    while step > 0 {
        let mut at = 0;
        while at < calls.len() {
            let mut fewer = calls.clone();
            fewer.drain(at..(at + step).min(calls.len()));
            if difference(&fewer, variant).is_some() {
                calls = fewer;
            } else {
                at += step;
            }
        }
        step /= 2;
    }
    calls
}

fn agree(seed: u64, has_others: bool) {
    let variant = Variant {
        passthrough: seed.is_multiple_of(2),
        has_others,
    };
    let mut chooser = Chooser {
        random: StdRng::seed_from_u64(seed),
        only_names: has_others,
    };
    let calls: Vec<Call> = (0..CALLS).map(|_| chooser.next()).collect();
    if let Some(first) = difference(&calls, variant) {
        // A difference that depends on timing may not come again.
        eprintln!("{variant:?}: {first}");
        let calls = shrink(calls, variant);
        let difference = difference(&calls, variant).unwrap_or(first);
        panic!("{variant:?}: {difference}\nafter {calls:#?}");
    }
}

fn text_of(seen: &Seen) -> String {
    match seen {
        Ok(bytes) if bytes.len() > 200 => format!("{} bytes", bytes.len()),
        Ok(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Err(errno) => io::Error::from_raw_os_error(*errno).to_string(),
    }
}

#[apply(promise)]
fn random_calls_have_the_same_results_as_on_a_disk() {
    each_seed(10, |seed| agree(seed, false));
}

#[apply(promise)]
fn random_calls_change_files_of_another_node_as_on_a_disk() {
    each_seed(10, |seed| agree(seed, true));
}
