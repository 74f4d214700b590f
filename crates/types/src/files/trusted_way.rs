//! Directories that are reached without a link of another user, and names that are opened beneath
//! them. This module is the one place of the workspace that follows links of a path by itself.
//!
//! A path of the configuration or of a command may lead through a directory that another user can
//! change, such as a home. That user could put a link there, or in place of a directory, and so
//! point a program with more rights at any file. A link therefore counts only if no other user
//! could have put it: this program's user or root owns each directory on the way to it, and no
//! other user may write there. A directory that is no link is entered in any case, because a user
//! can put only a directory of its own there.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{
    CWD, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstatfs, mkdirat, openat, openat2,
    readlinkat,
};
use rustix::io::Errno;

use super::own_dir::{DirUse, OpenTo, opened_to};
use super::path_of;

/// Maximum number of links on a path, as in the kernel (path_resolution(7)).
const LINKS_MAX: usize = 40;
/// Maximum attempts of one open. `openat2` may return EAGAIN if a rename raced with it. If all
/// attempts fail in this way or are interrupted, the caller gets EAGAIN.
const RACES_MAX: usize = 16;
/// Flags of a directory on the way. Its user needs no right to read it. Without `DIRECTORY` the
/// kernel would not mount what an automount point waits for (autofs).
const PASSED: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
/// Resolves no link at all, wherever it is.
const NO_LINKS: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::NO_MAGICLINKS);

/// A link on a path that another user could have put there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlantedLink {
    /// Path of the link.
    pub link: PathBuf,
    /// Text of the link.
    pub target: PathBuf,
    /// Directory on the way to the link that another user can change.
    pub above: PathBuf,
    /// The users that can change it.
    pub open: OpenTo,
}

impl fmt::Display for PlantedLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            link,
            target,
            above,
            open,
        } = self;
        write!(f, "{link:?} is a link to {target:?}, and ")?;
        match open {
            OpenTo::Owner(uid) => write!(f, "user {uid} owns {above:?}"),
            OpenTo::Group(mode) => {
                write!(f, "users of its group may write in {above:?} ({mode:04o})")
            }
            OpenTo::Everyone(mode) => {
                write!(f, "every user may write in {above:?} ({mode:04o})")
            }
        }
    }
}

/// The reason why a path leads to no directory.
#[derive(Debug, thiserror::Error)]
pub enum WayError {
    /// A link on the path could be another user's.
    #[error("{0}")]
    Planted(Box<PlantedLink>),
    /// The error of the system.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl From<WayError> for io::Error {
    fn from(error: WayError) -> Self {
        match error {
            WayError::Planted(link) => {
                let remedy = "name the place that it leads to, or take it away";
                Self::new(io::ErrorKind::InvalidInput, format!("{link}; {remedy}"))
            }
            WayError::System(error) => error,
        }
    }
}

impl From<Errno> for WayError {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

/// A directory that was reached without a link of another user.
#[derive(Debug)]
pub struct ReachedDir {
    /// Opened with `O_PATH`.
    dir: File,
    path: PathBuf,
    /// Entries of the directory above.
    above: Entries,
    /// Entries of this directory. They are looked up when the way goes on, because the disk of its
    /// last directory may not answer.
    entries: OnceLock<Entries>,
}

impl ReachedDir {
    fn entries(&self) -> io::Result<&Entries> {
        if let Some(entries) = self.entries.get() {
            return Ok(entries);
        }
        let found = Entries::of(&self.path, &self.dir, &self.above)?;
        Ok(self.entries.get_or_init(|| found))
    }

    /// Returns the path of the directory, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the directory, opened with `O_PATH`.
    pub fn dir(&self) -> &File {
        &self.dir
    }

    /// Checks that no other user can put files into this directory by its path.
    ///
    /// # Errors
    /// [`DirFault::Open`] for this directory or one above it.
    fn check(&self, usage: DirUse) -> Result<(), DirFault> {
        let Ok(entries) = self.entries() else {
            return Ok(());
        };
        match entries {
            Entries::Own => Ok(()),
            Entries::Sticky(_) if usage == DirUse::Socket => Ok(()),
            Entries::Sticky(open) => Err(DirFault::Open(self.path.clone(), *open)),
            Entries::Open(above, open) => Err(DirFault::Open(above.clone(), *open)),
        }
    }

    /// Returns the directory alone, opened with `O_PATH`.
    pub fn into_dir(self) -> File {
        self.dir
    }

    fn top() -> Result<Self, WayError> {
        let dir = File::from(openat(CWD, "/", PASSED, Mode::empty())?);
        Ok(Self {
            dir,
            path: PathBuf::from("/"),
            above: Entries::Own,
            entries: OnceLock::new(),
        })
    }

    /// Returns whether this directory is in procfs.
    fn is_of_processes(&self) -> Result<bool, WayError> {
        let found = fstatfs(&self.dir)?.f_type;
        Ok(found == PROC_SUPER_MAGIC)
    }

    /// Enters a directory of this one, or reads a link in it. Creates the directory if it is
    /// missing and `made` has a mode.
    fn step(&self, name: &OsStr, made: Option<Mode>) -> Result<Step, WayError> {
        let enter = || openat(&self.dir, name, PASSED, Mode::empty());
        let entered = match (enter(), made) {
            (Err(Errno::NOENT), Some(mode)) => match mkdirat(&self.dir, name, mode) {
                Ok(()) | Err(Errno::EXIST) => enter(),
                Err(error) => Err(error),
            },
            (entered, _) => entered,
        };
        let path = self.path.join(name);
        match entered {
            Ok(dir) => {
                let above = self.entries()?.clone();
                Ok(Step::Enters(Self {
                    dir: dir.into(),
                    path,
                    above,
                    entries: OnceLock::new(),
                }))
            }
            Err(error @ (Errno::NOTDIR | Errno::LOOP)) => match self.link(name)? {
                Some(target) => Ok(Step::Leads(target)),
                None => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the text of a link in this directory, which no other user could have put. Returns
    /// `None` if the name is no link or missing. Asks no server of a filesystem that is mounted
    /// there.
    fn link(&self, name: &OsStr) -> Result<Option<PathBuf>, WayError> {
        let target = match readlinkat(&self.dir, name, Vec::new()) {
            Err(Errno::INVAL | Errno::NOENT) => return Ok(None),
            target => PathBuf::from(OsString::from_vec(target?.into_bytes())),
        };
        let (above, open) = match self.entries()? {
            Entries::Own => return Ok(Some(target)),
            Entries::Sticky(open) => (self.path.clone(), *open),
            Entries::Open(above, open) => (above.clone(), *open),
        };
        Err(WayError::Planted(Box::new(PlantedLink {
            link: self.path.join(name),
            target,
            above,
            open,
        })))
    }
}

/// A name on a path.
enum Step {
    Enters(ReachedDir),
    Leads(PathBuf),
}

/// The users that could have put the names in a directory there.
#[derive(Clone, Debug)]
enum Entries {
    /// This program's user and root.
    Own,
    /// Every user, but a user cannot replace what another one put there, such as in `/tmp`. A
    /// directory there is of its owner. A link is of any user: its owner may have put it elsewhere.
    Sticky(OpenTo),
    /// Other users, because they can change this directory on the way.
    Open(PathBuf, OpenTo),
}

impl Entries {
    /// Returns the entries of the directory `dir` at `path`, in a directory with the entries
    /// `above`.
    fn of(path: &Path, dir: &File, above: &Self) -> io::Result<Self> {
        if let Self::Open(..) = above {
            return Ok(above.clone());
        }
        let found = dir.metadata()?;
        let reached = path_of(dir);
        let open_to = |usage| opened_to(usage, Path::new(&reached), &found);
        Ok(match (open_to(DirUse::Files), open_to(DirUse::Socket)) {
            (None, _) => Self::Own,
            (Some(open), None) => Self::Sticky(open),
            (Some(_), Some(open)) => Self::Open(path.to_owned(), open),
        })
    }
}

/// Reaches the directory at a path.
///
/// # Errors
/// [`WayError`], with the error `NotADirectory` of the system for a path to a file.
pub fn reach(path: &Path) -> Result<ReachedDir, WayError> {
    Walk::to(path, None)?.end()
}

/// Reaches the directory at a path. Creates it and the missing directories above it with this mode,
/// which the umask limits.
///
/// # Errors
/// As [`reach`].
pub fn reach_or_make(path: &Path, mode: u32) -> Result<ReachedDir, WayError> {
    Walk::to(path, Some(Mode::from_raw_mode(mode)))?.end()
}

/// Reaches the directory of the last name of a path, and creates it and the directories above it as
/// [`reach_or_make`] does. Returns it with the last name, which is no link, and is empty if the path
/// ends with the directory itself. The name may be a mount whose server does not answer.
///
/// # Errors
/// As [`reach`].
pub fn reach_above(path: &Path, mode: u32) -> Result<(ReachedDir, OsString), WayError> {
    let mut walk = Walk::to(path, Some(Mode::from_raw_mode(mode)))?;
    loop {
        let Some(name) = walk.last_name()? else {
            return Ok((walk.here, OsString::new()));
        };
        match walk.here.link(&name)? {
            None => return Ok((walk.here, name)),
            Some(target) => walk.follow(&target)?,
        }
    }
}

/// Opens a regular file for reading.
///
/// # Errors
/// [`WayError`], and the error `InvalidInput` of the system for anything but a regular file. Waits
/// for no other end of a fifo.
pub fn open_file(path: &Path) -> Result<File, WayError> {
    Ok(regular(open_to_read(path)?)?)
}

/// Opens what is at a path for reading, without waiting for the other end of a fifo.
///
/// # Errors
/// [`WayError`].
pub fn open_to_read(path: &Path) -> Result<File, WayError> {
    open(path, OFlags::RDONLY | OFlags::NONBLOCK)
}

/// Returns a file if it is a regular one.
///
/// # Errors
/// `InvalidInput` for anything else.
pub fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    let irregular = "it is not a regular file";
    Err(io::Error::new(io::ErrorKind::InvalidInput, irregular))
}

/// Opens what is at a path. Creates nothing.
///
/// # Errors
/// [`WayError`].
pub fn open(path: &Path, flags: OFlags) -> Result<File, WayError> {
    let flags = flags | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut walk = Walk::to(path, None)?;
    loop {
        let Some(name) = walk.last_name()? else {
            let dir = walk.end()?.dir;
            return Ok(openat(dir, ".", flags, Mode::empty())?.into());
        };
        // The links of procfs are the files that a process has open, and have no other path.
        let is_own = matches!(walk.here.entries()?, Entries::Own);
        if is_own && walk.here.is_of_processes()? {
            return Ok(openat(&walk.here.dir, &name, flags, Mode::empty())?.into());
        }
        match walk.here.link(&name)? {
            Some(target) => walk.follow(&target)?,
            None => {
                let flags = flags | OFlags::NOFOLLOW;
                return Ok(openat(&walk.here.dir, &name, flags, Mode::empty())?.into());
            }
        }
    }
}

/// The reason why another user could put files into a directory of this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirFault {
    /// Other users can change this directory, which is on the path, and perhaps its end.
    Open(PathBuf, OpenTo),
    /// Another user could have put a link that is on the path.
    Planted(Box<PlantedLink>),
}

/// Checks that no user but root and this program's could put files into the directory at `path`,
/// change the directories above it, or put a link there. A missing directory has no fault, because
/// this program then creates it, private to its user. A path that the system refuses has none,
/// because its use fails with a better error.
///
/// # Errors
/// [`DirFault`].
pub fn check_own_dir(path: &Path, usage: DirUse) -> Result<(), DirFault> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for dir in absolute.ancestors() {
        // In a directory like `/tmp`, other users cannot replace what this program creates.
        let usage = if dir == absolute {
            usage
        } else {
            DirUse::Socket
        };
        match reach(dir) {
            Ok(reached) => return reached.check(usage),
            Err(WayError::Planted(link)) => return Err(DirFault::Planted(link)),
            Err(WayError::System(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(WayError::System(_)) => return Ok(()),
        }
    }
    Ok(())
}

/// A walk along a path.
struct Walk {
    above: Vec<ReachedDir>,
    here: ReachedDir,
    names: VecDeque<OsString>,
    links: usize,
    /// Mode of the directories that are created where they are missing.
    made: Option<Mode>,
}

impl Walk {
    fn to(path: &Path, made: Option<Mode>) -> Result<Self, WayError> {
        let mut names = VecDeque::new();
        prepend(&mut names, &std::path::absolute(path)?);
        Ok(Self {
            above: Vec::new(),
            here: ReachedDir::top()?,
            names,
            links: 0,
            made,
        })
    }

    /// Walks to the end of the path, which is a directory.
    fn end(mut self) -> Result<ReachedDir, WayError> {
        while let Some(name) = self.names.pop_front() {
            self.enter(name)?;
        }
        Ok(self.here)
    }

    /// Walks to the directory of the last name and returns this name. Returns `None` if the path
    /// ends with that directory itself.
    fn last_name(&mut self) -> Result<Option<OsString>, WayError> {
        while let Some(name) = self.names.pop_front() {
            if self.names.is_empty() && name != ".." {
                return Ok(Some(name));
            }
            self.enter(name)?;
        }
        Ok(None)
    }

    fn enter(&mut self, name: OsString) -> Result<(), WayError> {
        if name == ".." {
            // The directory above the root is the root.
            if let Some(above) = self.above.pop() {
                self.here = above;
            }
            return Ok(());
        }
        match self.here.step(&name, self.made)? {
            Step::Enters(next) => self.above.push(mem::replace(&mut self.here, next)),
            Step::Leads(target) => self.follow(&target)?,
        }
        Ok(())
    }

    fn follow(&mut self, target: &Path) -> Result<(), WayError> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Errno::LOOP.into());
        }
        prepend(&mut self.names, target);
        if target.is_absolute() && !self.above.is_empty() {
            self.here = self.above.swap_remove(0);
            self.above.clear();
        }
        Ok(())
    }
}

/// Puts the parts of a path before `names`.
fn prepend(names: &mut VecDeque<OsString>, path: &Path) {
    for part in path.components().rev() {
        match part {
            Component::Normal(name) => names.push_front(name.to_owned()),
            Component::ParentDir => names.push_front("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

/// Opens a directory by a path without any link.
///
/// # Errors
/// `ELOOP` for a path with a link, or `ENOTDIR` for a link at its end.
pub fn open_plain_dir(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    open_patiently(CWD, path, flags | OFlags::DIRECTORY, NO_LINKS)
}

/// Opens a name beneath a directory, without any link on the way and out of no mount that `more`
/// forbids.
///
/// # Errors
/// `ELOOP` for a link, and `EXDEV` for a path that leads out of the directory.
pub fn open_beneath(
    dir: impl AsFd,
    path: &Path,
    flags: OFlags,
    more: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    open_patiently(dir, path, flags, ResolveFlags::BENEATH | NO_LINKS | more)
}

fn open_patiently(
    at: impl AsFd,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..RACES_MAX {
        match openat2(at.as_fd(), path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::io::Read;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use rustix::fs::{RenameFlags, renameat_with};
    use rustix::process::geteuid;

    use super::*;

    /// A user other than root and this test's.
    const BOB: u32 = 1234;
    /// Number of walks while another thread swaps a directory for a link.
    const WALKS: usize = 3_000;

    /// Returns a folder that only this user can change, and its path without links.
    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        (folder, path)
    }

    fn made(dir: &Path, mode: u32, owner: u32) {
        fs::create_dir_all(dir).unwrap();
        fs::set_permissions(dir, Permissions::from_mode(mode)).unwrap();
        if owner != geteuid().as_raw() {
            chown(dir, Some(owner), Some(owner)).unwrap();
        }
    }

    fn reached(path: &Path) -> PathBuf {
        reach(path).unwrap().path().to_owned()
    }

    fn planted(path: &Path) -> PlantedLink {
        match reach(path) {
            Err(WayError::Planted(link)) => *link,
            other => panic!("{path:?}: {other:?}"),
        }
    }

    fn is_root() -> bool {
        let is_root = geteuid().is_root();
        if !is_root {
            eprintln!("SKIPPED: only root can give a directory away");
        }
        is_root
    }

    #[test]
    fn link_counts_where_no_other_user_could_have_put_it() {
        let (_folder, top) = folder();
        let target = top.join("target");
        made(&target.join("in"), 0o755, geteuid().as_raw());
        let own = top.join("own");
        made(&own.join("deep"), 0o700, geteuid().as_raw());
        symlink(&target, own.join("absolute")).unwrap();
        symlink("../../target/./in/..", own.join("deep/relative")).unwrap();
        symlink("deep/relative", own.join("twice")).unwrap();
        symlink("round", own.join("round")).unwrap();
        for name in ["absolute", "deep/relative", "twice", "deep/../absolute"] {
            assert_eq!(reached(&own.join(name)), target, "{name}");
        }
        assert_eq!(reached(&own.join("twice/in")), target.join("in"));
        assert_eq!(reached(Path::new("/../..")), Path::new("/"));
        let error = |path: &Path| io::Error::from(reach(path).unwrap_err());
        let round = error(&own.join("round"));
        assert_eq!(Errno::from_io_error(&round), Some(Errno::LOOP));
        fs::write(own.join("file"), "").unwrap();
        for name in ["file", "file/below"] {
            let kind = error(&own.join(name)).kind();
            assert_eq!(kind, io::ErrorKind::NotADirectory, "{name}");
        }
        let absent = error(&own.join("absent/below")).kind();
        assert_eq!(absent, io::ErrorKind::NotFound);
    }

    #[test]
    fn link_of_a_directory_that_others_can_change_is_not_followed() {
        if !is_root() {
            return;
        }
        let (_folder, top) = folder();
        let target = top.join("target");
        made(&target, 0o700, 0);
        for (mode, owner, open) in [
            (0o755, BOB, OpenTo::Owner(BOB)),
            (0o777, 0, OpenTo::Everyone(0o777)),
            (0o1777, 0, OpenTo::Everyone(0o1777)),
            (0o1777, BOB, OpenTo::Owner(BOB)),
        ] {
            let dir = top.join(format!("{owner}-{mode:o}"));
            made(&dir.join("below"), 0o755, 0);
            made(&dir, mode, owner);
            for link in [dir.join("link"), dir.join("below/link")] {
                symlink(&target, &link).unwrap();
            }
            let link = planted(&dir.join("link"));
            let expected = (dir.join("link"), target.clone(), dir.clone(), open);
            let found = (link.link, link.target, link.above, link.open);
            assert_eq!(found, expected);
            // In a sticky directory, a directory of root is where root put it.
            let is_own = mode == 0o1777 && owner == 0;
            match reach(&dir.join("below/link")) {
                Ok(reached) => assert!(is_own && reached.path() == target),
                Err(WayError::Planted(link)) => assert!(!is_own && link.above == dir),
                Err(error) => panic!("{error}"),
            }
            // A directory is no link, whoever owns it.
            assert_eq!(reached(&dir.join("below")), dir.join("below"));
            assert_eq!(reached(&dir.join("below/../..")), top);
        }
    }

    #[test]
    fn directory_that_a_group_or_an_acl_opens_puts_no_link() {
        if !is_root() {
            return;
        }
        let (_folder, top) = folder();
        let dir = top.join("team");
        made(&dir, 0o2775, 0);
        symlink(&top, dir.join("link")).unwrap();
        assert_eq!(
            reached(&dir.join("link")),
            top,
            "root is alone in its group"
        );
        chown(&dir, Some(0), Some(BOB)).unwrap();
        made(&dir, 0o775, 0);
        assert_eq!(planted(&dir.join("link")).open, OpenTo::Group(0o775));
        chown(&dir, Some(0), Some(0)).unwrap();
        assert_eq!(reached(&dir.join("link")), top);
        // acl(5): the user BOB may write, and the mask shows this as a right of the group.
        let entries = [
            (1, 7, u32::MAX),
            (2, 7, BOB),
            (4, 5, u32::MAX),
            (16, 7, u32::MAX),
            (32, 5, u32::MAX),
        ];
        let mut acl = 2u32.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            acl.extend(u16::to_le_bytes(tag));
            acl.extend(u16::to_le_bytes(rights));
            acl.extend(u32::to_le_bytes(id));
        }
        let flags = rustix::fs::XattrFlags::empty();
        match rustix::fs::setxattr(&dir, "system.posix_acl_access", &acl, flags) {
            Ok(()) => assert_eq!(planted(&dir.join("link")).open, OpenTo::Group(0o775)),
            Err(error) => eprintln!("SKIPPED: no ACLs here: {error}"),
        }
    }

    #[test]
    fn directory_in_which_or_above_which_others_may_write_is_not_own() {
        let (_folder, top) = folder();
        let me = geteuid().as_raw();
        let (above, dir) = (top.join("above"), top.join("above/state"));
        let of = |usage| check_own_dir(&dir, usage);
        let everyone =
            |dir: &Path, mode| Err(DirFault::Open(dir.to_owned(), OpenTo::Everyone(mode)));
        made(&above, 0o700, me);
        assert_eq!(of(DirUse::Files), Ok(()), "it is missing");
        made(&above, 0o777, me);
        assert_eq!(of(DirUse::Files), everyone(&above, 0o777));
        made(&above, 0o1777, me);
        assert_eq!(of(DirUse::Files), Ok(()));
        for mode in [0o700, 0o755, 0o2755, 0o500] {
            made(&dir, mode, me);
            assert_eq!(of(DirUse::Files), Ok(()), "{mode:o}");
            assert_eq!(of(DirUse::Socket), Ok(()), "{mode:o}");
        }
        for mode in [0o777, 0o1777, 0o702] {
            made(&dir, mode, me);
            assert_eq!(of(DirUse::Files), everyone(&dir, mode), "{mode:o}");
            let socket = if mode == 0o1777 {
                Ok(())
            } else {
                everyone(&dir, mode)
            };
            assert_eq!(of(DirUse::Socket), socket, "{mode:o}");
        }
        made(&dir, 0o700, me);
        made(&above, 0o777, me);
        assert_eq!(of(DirUse::Files), everyone(&above, 0o777));
        symlink(&top, above.join("link")).unwrap();
        let by_link = check_own_dir(&above.join("link/above/state"), DirUse::Files);
        assert!(matches!(by_link, Err(DirFault::Planted(_))), "{by_link:?}");
        symlink(&dir, top.join("own")).unwrap();
        let by_own = check_own_dir(&top.join("own"), DirUse::Files);
        assert_eq!(by_own, everyone(&above, 0o777));
        if is_root() {
            made(&above, 0o755, BOB);
            let of_bob = Err(DirFault::Open(above.clone(), OpenTo::Owner(BOB)));
            assert_eq!(of(DirUse::Files), of_bob);
            assert_eq!(check_own_dir(&above.join("new"), DirUse::Files), of_bob);
        }
    }

    #[test]
    fn missing_directories_are_made_through_no_link_of_another_user() {
        let (_folder, top) = folder();
        symlink(&top, top.join("link")).unwrap();
        let dir = reach_or_make(&top.join("a/../link/b/c"), 0o750).unwrap();
        assert_eq!(dir.path(), top.join("b/c"));
        let mode = fs::metadata(dir.path()).unwrap().mode() & 0o777;
        assert_eq!(mode & 0o027, 0, "{mode:o}");
        if !is_root() {
            return;
        }
        made(&top.join("bob"), 0o755, BOB);
        symlink(&top, top.join("bob/link")).unwrap();
        symlink("absent", top.join("bob/dangling")).unwrap();
        for name in ["link", "dangling"] {
            let made = reach_or_make(&top.join("bob").join(name).join("new"), 0o755);
            assert!(matches!(made, Err(WayError::Planted(_))), "{made:?}");
        }
        assert!(!top.join("new").exists() && !top.join("bob/absent").exists());
        let above = |name: &str| reach_above(&top.join("bob").join(name), 0o755);
        assert!(matches!(above("link"), Err(WayError::Planted(_))));
        let (dir, name) = above("a/b").unwrap();
        assert_eq!((dir.path(), &*name), (&*top.join("bob/a"), OsStr::new("b")));
    }

    #[test]
    fn swap_of_a_directory_for_a_link_leads_no_walk_elsewhere() {
        if !is_root() {
            return;
        }
        let (_folder, top) = folder();
        let (private, bob) = (top.join("private"), top.join("bob"));
        made(&private.join("in"), 0o700, 0);
        made(&bob.join("dir/in"), 0o755, BOB);
        made(&bob, 0o755, BOB);
        symlink(&private, bob.join("link")).unwrap();
        let secret = fs::metadata(private.join("in")).unwrap().ino();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let (dir, link) = (bob.join("dir"), bob.join("link"));
                    renameat_with(CWD, dir, CWD, link, RenameFlags::EXCHANGE).unwrap();
                }
            });
            let (mut entered, mut refused) = (0, 0);
            for _ in 0..WALKS {
                match reach(&bob.join("dir/in")) {
                    Ok(reached) => {
                        assert_ne!(reached.dir().metadata().unwrap().ino(), secret);
                        entered += 1;
                    }
                    Err(WayError::Planted(_)) => refused += 1,
                    Err(WayError::System(error)) => {
                        assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
                    }
                }
                let plain = open_plain_dir(&bob.join("dir/in"), OFlags::RDONLY);
                let plain = plain.map(|dir| File::from(dir).metadata().unwrap().ino());
                assert_ne!(plain, Ok(secret));
            }
            is_over.store(true, Ordering::Relaxed);
            eprintln!("{entered} entered, {refused} refused");
        });
    }

    #[test]
    fn file_is_opened_through_a_link_that_no_other_user_could_have_put() {
        let (_folder, top) = folder();
        fs::write(top.join("file"), "f").unwrap();
        symlink("file", top.join("link")).unwrap();
        symlink("/proc/self/fd", top.join("open")).unwrap();
        rustix::fs::mknodat(
            CWD,
            top.join("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        let read = |path: &Path| {
            let mut text = String::new();
            let mut opened = open_file(path)?;
            opened.read_to_string(&mut text).map(|_| text)
        };
        assert_eq!(read(&top.join("link")).unwrap(), "f");
        let fifo = read(&top.join("fifo")).unwrap_err();
        assert_eq!(fifo.kind(), io::ErrorKind::InvalidInput);
        // A file without a name is reached through its descriptor alone.
        let unnamed = tempfile::tempfile().unwrap();
        let by_number = top.join("open").join(unnamed.as_raw_fd().to_string());
        assert_eq!(read(&by_number).unwrap(), "");
        assert!(open(&top.join("link/.."), OFlags::RDONLY).is_err());
        assert!(open(&top.join("x/.."), OFlags::RDONLY).is_err());
        assert!(open(Path::new("/"), OFlags::RDONLY).is_ok());
        if is_root() {
            made(&top.join("bob"), 0o755, BOB);
            symlink("../file", top.join("bob/link")).unwrap();
            symlink("bob/link", top.join("over")).unwrap();
            for name in ["bob/link", "over"] {
                let refused = read(&top.join(name)).unwrap_err();
                assert!(refused.to_string().contains("user 1234 owns"), "{refused}");
                let refused = open(&top.join(name), OFlags::PATH);
                assert!(matches!(refused, Err(WayError::Planted(_))), "{refused:?}");
            }
        }
    }

    #[test]
    fn name_beneath_a_directory_is_opened_through_no_link() {
        let (_folder, top) = folder();
        let (outside, dir) = (top.join("outside"), top.join("dir"));
        made(&dir.join("d"), 0o755, geteuid().as_raw());
        fs::write(&outside, "o").unwrap();
        fs::write(dir.join("d/f"), "f").unwrap();
        symlink("../outside", dir.join("out")).unwrap();
        symlink("d", dir.join("in")).unwrap();
        let opened = reach(&dir).unwrap();
        let open = |name: &str| {
            let more = ResolveFlags::empty();
            open_beneath(opened.dir(), Path::new(name), OFlags::RDONLY, more)
        };
        assert!(open("d/f").is_ok());
        for (name, error) in [
            ("out", Errno::LOOP),
            ("in/f", Errno::LOOP),
            ("../outside", Errno::XDEV),
        ] {
            assert_eq!(open(name).err(), Some(error), "{name}");
        }
    }
}
