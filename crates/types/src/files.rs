//! Files and folders of this program: private to their owner, locked, and reopened by their
//! descriptor; the list of mounts; and the names of sockets.
//!
//! This module makes system calls, and knows the remedies for their errors. The content of the
//! files is up to the caller. A call may block.

#![allow(unsafe_code, reason = "system calls that no safe crate offers")]
#![allow(
    clippy::disallowed_methods,
    reason = "this module is the one of its crate that touches files"
)]

pub mod disk;
mod held_lock;
pub mod mountinfo;
mod own_dir;
mod refused;
pub mod socket_place;
pub mod trusted_way;
pub mod written;

pub use own_dir::{DirUse, OpenTo, open_own_dir};
pub use refused::stays_refused;

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, linkat};
use rustix::io::Errno;
use rustix::process::{Resource, geteuid, getrlimit};

pub use held_lock::{HeldLock, Whereabouts};

/// Mode of a file that only its owner may access.
pub const PRIVATE_MODE: u32 = 0o600;
/// Mode of a folder that only its owner may enter.
pub const PRIVATE_DIR_MODE: u32 = 0o700;
/// Mode of a folder that every user may enter.
const OPEN_DIR_MODE: u32 = 0o755;
/// Maximum length of a Unix socket's path in bytes: `sun_path` without its NUL (unix(7)).
pub const SOCKET_PATH_MAX_BYTES: usize = 107;
/// Maximum number of descriptors that are reserved for connections and client processes.
const DESCRIPTORS_LEFT_MAX: u64 = 512;

/// Returns a path that refers to an open file, whatever its present name, even without one
/// (proc(5)).
pub fn path_of(open: impl AsFd) -> String {
    format!("/proc/self/fd/{}", open.as_fd().as_raw_fd())
}

/// Opens the same file again for reading, with its own position. A duplicated descriptor would
/// share the position (open(2)), so one reader would move the other's.
pub fn opened_anew(file: &File) -> io::Result<File> {
    File::open(path_of(file))
}

/// Gives an open file a name. Fails with `AlreadyExists` if the name is in use. The file may be
/// unnamed so far (`O_TMPFILE`, open(2)).
pub fn link(file: &File, place: &Path) -> io::Result<()> {
    Ok(linkat(
        CWD,
        path_of(file),
        CWD,
        place,
        AtFlags::SYMLINK_FOLLOW,
    )?)
}

/// Fills the buffer from a file, or as much of it as the file has there. Returns the number of
/// bytes.
pub fn read_full_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Makes the kernel start writing this part of a file to its disk, so that a later sync has little
/// left to wait for (sync_file_range(2)). Blocks if the disk's queue is full. Has no effect on a
/// file system without support, and guarantees no durability.
pub fn begin_to_write_out(file: &File, start: u64, length_bytes: u64) {
    let (Ok(start), Ok(length)) = (i64::try_from(start), i64::try_from(length_bytes)) else {
        return;
    };
    let descriptor = file.as_raw_fd();
    // SAFETY: the call takes only numbers, and the descriptor stays open during the call.
    let _unknown_here =
        unsafe { libc::sync_file_range(descriptor, start, length, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Creates a folder that only its owner may enter, and its missing parents likewise. Leaves an
/// existing folder unchanged.
pub fn make_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(PRIVATE_DIR_MODE).create(dir)
}

/// Creates a folder that every user may enter and only its owner may change. Creates missing
/// parents with the default mode. Leaves an existing folder unchanged. Returns its path without
/// links.
///
/// # Errors
/// The error of the system, and that of [`trusted_way::reach`] for a link of another user.
pub fn make_open_dir(dir: &Path) -> io::Result<PathBuf> {
    match trusted_way::reach(dir) {
        Err(trusted_way::WayError::System(error)) if error.kind() == io::ErrorKind::NotFound => {}
        reached => return Ok(reached?.path().to_owned()),
    }
    let made = trusted_way::reach_or_make(dir, OPEN_DIR_MODE)?;
    let place = path_of(made.dir());
    // Independent of the umask. Another user may have replaced the new folder, but cannot make an
    // empty one of this user out of one with files.
    let is_ours = made.dir().metadata()?.uid() == geteuid().as_raw();
    if is_ours && std::fs::read_dir(&place)?.next().is_none() {
        open_to_all(Path::new(&place))?;
    }
    Ok(made.path().to_owned())
}

/// Lets every user enter a folder, and only its owner change it.
pub fn open_to_all(dir: &Path) -> io::Result<()> {
    std::fs::set_permissions(dir, Permissions::from_mode(OPEN_DIR_MODE))
}

/// Creates a folder in the directory for temporary files (`TMPDIR`), private to its owner. Its name
/// begins with `prefix` and has a random end, so that no other user of the machine can create it
/// first. The caller removes it.
pub fn make_temporary_dir(prefix: &str) -> io::Result<PathBuf> {
    let mut builder = tempfile::Builder::new();
    let owner_only = Permissions::from_mode(PRIVATE_DIR_MODE);
    let made = builder.prefix(prefix).permissions(owner_only);
    std::path::absolute(made.tempdir()?.keep())
}

/// Opens a file of this program for reading and writing. Creates it, private to its owner, if it
/// does not exist.
///
/// # Errors
/// As [`open_own`], except that the file may be missing.
pub fn open_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    open_regular(options.mode(PRIVATE_MODE), path)
}

/// Creates an empty file for reading and writing, private to its owner.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if anything has the name; otherwise the error of the system.
pub fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    options.mode(PRIVATE_MODE).open(path)
}

/// Opens an existing file of this program for reading. In a directory that another user can write
/// to, that user may have planted something under this name. A symbolic link would make this
/// program use another file, and opening a pipe without a writer would block for ever (open(2)).
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for a symbolic link, and for anything that can be opened and is
/// not a regular file; otherwise the error of the system.
pub fn open_own(path: &Path) -> io::Result<File> {
    open_regular(OpenOptions::new().read(true), path)
}

/// Opens an existing file of this program for reading and writing.
///
/// # Errors
/// As [`open_own`].
pub fn open_own_writable(path: &Path) -> io::Result<File> {
    open_regular(OpenOptions::new().read(true).write(true), path)
}

/// Reads an existing file of this program.
///
/// # Errors
/// As [`open_own`].
pub fn read_own(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_own(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Creates a file with this mode in place of the leftover of a crash. An existing file of that name
/// is removed and not written to, and a link is not followed.
pub fn create_anew(path: &Path, mode: u32) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode).open(path)
}

fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let irregular = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    match options.custom_flags(flags).open(path) {
        Ok(file) if !file.metadata()?.is_file() => irregular("it is not a regular file"),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            irregular("it is a symbolic link, and this program follows none here")
        }
        opened => opened,
    }
}

/// Creates an unnamed file in that folder (`O_TMPFILE`, open(2)). It is invisible, and disappears
/// when it is closed, unless [`link`] names it.
pub fn unnamed(folder: &Path, mode: u32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(mode);
    options.custom_flags(libc::O_TMPFILE).open(folder)
}

/// Returns an unused name beside a file, for a renamed copy of it.
pub fn aside(file: &Path) -> PathBuf {
    (1..u32::MAX)
        .map(|number| file.with_added_extension(format!("aside-{number}")))
        .find(|aside| !aside.exists())
        .unwrap_or_else(|| file.with_added_extension("aside"))
}

/// Returns whether an error means that the content of a file is damaged, rather than that its disk
/// failed.
pub fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
    )
}

/// Returns whether an error says that there is no disk space.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Returns whether an error is temporary for this process: a shortage of descriptors or memory, or
/// an interrupted or blocked call (`open(2)`, ERRORS).
pub fn is_want(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EAGAIN | libc::EINTR)
    )
}

/// Returns the remedy for a read-only file system. For a systemd unit all file systems may be
/// read-only (`ProtectSystem=strict`), however they are mounted.
pub fn read_only_remedy() -> &'static str {
    read_only_remedy_of(std::env::var_os("INVOCATION_ID").is_some())
}

fn read_only_remedy_of(is_unit: bool) -> &'static str {
    if is_unit {
        "name that directory in ReadWritePaths= of its unit (systemctl edit p2pfs), or make \
         its filesystem writable"
    } else {
        "make its filesystem writable"
    }
}

/// Returns an error on a file of the state directory as text, with its remedy if that is clear.
pub fn with_remedy(error: &io::Error) -> String {
    if let Some(limit) = limit_of_open_files(error) {
        return limit;
    }
    let remedy = match error.kind() {
        _ if is_full(error) => "; free some of its disk, or name another directory with --state",
        io::ErrorKind::ReadOnlyFilesystem => {
            let remedy = read_only_remedy();
            return format!("{error}; {remedy}, or name another directory with --state");
        }
        io::ErrorKind::PermissionDenied => "; let the daemon's user write it",
        _ => "",
    };
    format!("{error}{remedy}")
}

/// Refuses a file with one of the last descriptors of this process. These are reserved for
/// connections to holders and for client processes, which cannot work without them.
pub fn leave_descriptors(file: &File) -> io::Result<()> {
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        return Ok(());
    };
    let left_to_others = (limit / 4).min(DESCRIPTORS_LEFT_MAX);
    // The kernel assigned the lowest free number, so all lower ones were in use.
    let number = u64::try_from(file.as_raw_fd()).unwrap_or_default();
    if number < limit - left_to_others {
        return Ok(());
    }
    Err(Errno::MFILE.into())
}

/// Returns which limit of open files an error reports, and the remedy. Returns none for any other
/// error.
pub fn limit_of_open_files(error: &io::Error) -> Option<String> {
    match Errno::from_io_error(error)? {
        Errno::MFILE => {
            let limit = getrlimit(Resource::Nofile).current;
            let limit = limit.map_or_else(String::new, |limit| format!(" ({limit})"));
            Some(format!(
                "this process has as many files open as it may{limit}; raise LimitNOFILE= of its \
                 unit, or ulimit -n where it is started by hand"
            ))
        }
        Errno::NFILE => Some(
            "the system has as many files open as it may; raise fs.file-max (sysctl)".to_owned(),
        ),
        _ => None,
    }
}

/// Returns the path with every symbolic link resolved except in its last name, or only made
/// absolute if its parent cannot be [reached](trusted_way::reach). The last name may be this
/// program's own mount and must not be accessed.
pub fn without_links_above(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (
        absolute.parent().map(trusted_way::reach),
        absolute.file_name(),
    ) {
        (Some(Ok(parent)), Some(name)) => parent.path().join(name),
        _ => absolute,
    }
}

/// Returns a path of this program as one word of a shell command, in quotes if it needs them.
pub fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    match shlex::try_quote(&text) {
        Ok(quoted) => quoted.into_owned(),
        Err(_) => text,
    }
}

/// Locks the file at this path, and creates it if it does not exist. Returns `None` if it is locked
/// already.
pub fn locked(path: &Path) -> io::Result<Option<HeldLock>> {
    let file = open_private(path)?;
    match file.try_lock() {
        Ok(()) => HeldLock::new(file, path.to_owned()).map(Some),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_only_path_under_systemd_gets_a_remedy_for_the_unit() {
        let of_unit = read_only_remedy_of(true);
        assert!(of_unit.contains("ReadWritePaths="), "{of_unit}");
        assert!(!read_only_remedy_of(false).contains("ReadWritePaths="));
    }

    #[test]
    fn shell_reads_a_path_as_one_word_whatever_its_letters() {
        for path in [
            "/var/lib/p2pfs",
            "/my disk's",
            "/$HOME `id` \"x\"",
            "/Büro;a",
        ] {
            let printf = format!("printf %s {}", shell_word(Path::new(path)));
            let read = std::process::Command::new("sh")
                .args(["-c", &printf])
                .output();
            let read = read.unwrap().stdout;
            assert_eq!(String::from_utf8_lossy(&read), path);
        }
        assert_eq!(shell_word(Path::new("/var/a-b_c.d")), "/var/a-b_c.d");
    }

    #[test]
    fn own_files_are_opened_through_no_link_and_no_pipe() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), b"of another").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        std::os::unix::fs::symlink("absent", at("dangling")).unwrap();
        rustix::fs::mknodat(
            CWD,
            at("pipe"),
            rustix::fs::FileType::Fifo,
            PRIVATE_MODE.into(),
            0,
        )
        .unwrap();
        for open in [open_own, open_own_writable, open_private] {
            assert!(open(&at("file")).is_ok());
            for name in ["link", "dangling", "pipe"] {
                let refused = open(&at(name)).unwrap_err();
                assert_eq!(
                    refused.kind(),
                    io::ErrorKind::InvalidInput,
                    "{name}: {refused}"
                );
            }
        }
        assert!(!at("absent").exists());
        assert!(open_own(&at("absent")).is_err());
    }

    #[test]
    fn written_back_data_is_what_was_written_and_a_pipe_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = unnamed(folder.path(), PRIVATE_MODE).unwrap();
        file.write_all_at(&[7; 100_000], 0).unwrap();
        // The last ranges are beyond the end of the file.
        for (start, length_bytes) in [(0, 50_000), (50_000, 1 << 40), (u64::MAX, 1)] {
            begin_to_write_out(&file, start, length_bytes);
        }
        let mut read = vec![0; 100_001];
        assert_eq!(read_full_at(&file, &mut read, 0).unwrap(), 100_000);
        assert!(read[..100_000].iter().all(|byte| *byte == 7));
        let (_reader, writer) = rustix::pipe::pipe().unwrap();
        begin_to_write_out(&File::from(writer), 0, 1);
    }

    #[test]
    fn the_limit_of_open_files_is_named_with_how_to_raise_it() {
        let said = |errno: Errno| limit_of_open_files(&errno.into());
        let most = getrlimit(Resource::Nofile).current.unwrap();
        let own = said(Errno::MFILE).unwrap();
        assert!(own.contains(&format!("({most})")), "{own}");
        assert!(
            own.contains("LimitNOFILE=") && own.contains("ulimit -n"),
            "{own}"
        );
        assert!(said(Errno::NFILE).unwrap().contains("fs.file-max"));
        assert_eq!(said(Errno::NOSPC), None);
        assert!(with_remedy(&Errno::MFILE.into()).contains("LimitNOFILE="));
    }
}
