//! Checks of a mount point and of existing mounts there.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use super::connection::AbortSwitch;
use super::{FILESYSTEM_TYPE, FuseConnection, MountingError, Unmount, direct};
use p2pfs_types::files::mountinfo::{self, MOUNTINFO};
use p2pfs_types::files::path_of;
use p2pfs_types::files::trusted_way::{ReachedDir, reach, reach_above};

/// Maximum number of stale p2pfs mounts on top of each other: one for each killed daemon.
const STALE_MOUNTS_MAX: usize = 64;
/// How long an existing mount may take to answer the liveness probe. A running daemon answers from
/// memory.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Mode of a mount point that is created, and of the directories above it, before the umask.
const MODE: u32 = 0o777;

/// Filesystem type of an automount point.
pub(super) const AUTOMOUNT: &str = "autofs";
/// Staging directory for automounts. While a program waits at an automount point, only processes
/// started by systemd may mount there. If `mount.p2pfs` has created this directory, it moves the
/// mount from here to its place.
const STAGE: &str = "/run/p2pfs-automount";

/// A checked mount point. Another user may own a directory above it, and replace it or such a
/// directory at any time. So the mount is made at the descriptor that was checked.
pub(super) struct MountPoint {
    /// Path without symbolic links.
    dir: PathBuf,
    /// The mount point, or the directory above an automount point.
    opened: File,
    /// Path through the descriptor.
    target: PathBuf,
}

impl MountPoint {
    /// Opens an empty directory, and creates it if it is missing.
    fn open(above: &ReachedDir, name: &OsStr, dir: PathBuf) -> Result<Self, MountingError> {
        let cannot = |dir: &Path, why: Errno| MountingError::CannotCreate {
            dir: dir.to_owned(),
            why: why.into(),
        };
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || openat(above.dir(), name, flags, Mode::empty());
        let opened = match open() {
            Err(Errno::NOENT) => mkdirat(above.dir(), name, Mode::from_raw_mode(MODE))
                .and_then(|()| open())
                .map_err(|why| cannot(&dir, why))?,
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(MountingError::NotADirectory { dir }),
            opened => opened.map_err(|why| cannot(&dir, why))?,
        };
        let opened = File::from(opened);
        let target = PathBuf::from(path_of(&opened));
        match fs::read_dir(&target).map(|mut entries| entries.next().is_none()) {
            Ok(true) => Ok(Self {
                dir,
                opened,
                target,
            }),
            Ok(false) => Err(MountingError::NotEmpty { dir }),
            Err(why) => Err(MountingError::CannotCreate { dir, why }),
        }
    }

    /// Returns the mount point of this name in a directory, without opening it.
    fn below(above: ReachedDir, name: &OsStr) -> Self {
        let dir = above.path().join(name);
        let target = Path::new(&path_of(above.dir())).join(name);
        Self {
            dir,
            opened: above.into_dir(),
            target,
        }
    }

    /// Returns its path without symbolic links.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the path at which to mount: through the descriptor, or the staging directory for an
    /// automount.
    pub(super) fn target(&self) -> Result<&Path, MountingError> {
        let stage = Path::new(STAGE);
        let is_awaited = mount_at(&self.dir)?.is_some_and(|mount| mount.filesystem == AUTOMOUNT);
        Ok(if is_awaited && stage.is_dir() {
            stage
        } else {
            &self.target
        })
    }

    /// Removes the mount that was just made at the descriptor, wherever the directory is by now.
    pub(super) fn take_away(&self) {
        let moved = fs::read_link(path_of(&self.opened)).unwrap_or_default();
        if moved != self.dir && matches!(connection_at(&moved), Ok(Some(_))) {
            // Without success a dead mount stays, as after the end of a daemon.
            let _stays = direct::unmount(&moved);
        }
    }
}

/// Prepares the mount point: creates it if it is missing, removes stale p2pfs mounts, and checks
/// that it is an empty directory. Follows no link that another user could have put on its path.
pub(super) fn prepare(dir: &Path, otherwise: Unmount) -> Result<MountPoint, MountingError> {
    if let Some(point) = awaited(dir)? {
        return Ok(point);
    }
    let (above, name) = reach_above(dir, MODE).map_err(|why| MountingError::CannotCreate {
        dir: dir.to_owned(),
        why: why.into(),
    })?;
    let dir = above.path().join(&name);
    for _ in 0..STALE_MOUNTS_MAX {
        match mount_at(&dir)? {
            None => return MountPoint::open(&above, &name, dir),
            // An automount point (systemd.automount(5)) waits for this very mount. Reading it would
            // wait for ourselves.
            Some(mount) if mount.filesystem == AUTOMOUNT => {
                return Ok(MountPoint::below(above, &name));
            }
            Some(mount) if mount.filesystem != FILESYSTEM_TYPE => {
                return Err(MountingError::Busy {
                    dir,
                    filesystem: mount.filesystem,
                });
            }
            Some(mount) => clean_stale(&dir, mount.connection, otherwise)?,
        }
    }
    Err(MountingError::Busy {
        dir,
        filesystem: FILESYSTEM_TYPE.to_owned(),
    })
}

/// Returns the mount point if it is an automount point. While a program waits there, even reading a
/// link at its name waits for the mount, so only the directory above is opened.
fn awaited(dir: &Path) -> Result<Option<MountPoint>, MountingError> {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Ok(None);
    };
    let Ok(above) = reach(parent) else {
        return Ok(None);
    };
    let mount = mount_at(&above.path().join(name))?;
    let is_awaited = mount.is_some_and(|mount| mount.filesystem == AUTOMOUNT);
    Ok(is_awaited.then(|| MountPoint::below(above, name)))
}

/// Returns the connection of a p2pfs mount that is visible at `dir` or staged for it, if any.
pub(super) fn connection_at(dir: &Path) -> Result<Option<FuseConnection>, MountingError> {
    let mount = match mount_at(dir)? {
        Some(mount) if mount.filesystem == AUTOMOUNT => mount_at(Path::new(STAGE))?,
        mount => mount,
    };
    let ours = mount.filter(|mount| mount.filesystem == FILESYSTEM_TYPE);
    Ok(ours.map(|mount| mount.connection))
}

pub(super) struct MountEntry {
    pub(super) filesystem: String,
    pub(super) connection: FuseConnection,
    /// Whether the file system is read-only, whatever the flags of the mount are.
    pub(super) is_read_only: bool,
}

/// Returns the p2pfs mount of a connection at `dir`, or staged for it, and a path to it through a
/// directory that no other user can replace.
pub(super) fn present(
    dir: &Path,
    connection: FuseConnection,
) -> Result<(MountEntry, PresentMount), MountingError> {
    let gone = || MountingError::Vanished {
        dir: dir.to_owned(),
    };
    let stage = Path::new(STAGE);
    let is_ours =
        |mount: &MountEntry| mount.filesystem == FILESYSTEM_TYPE && mount.connection == connection;
    match mount_at(dir)? {
        Some(mount) if mount.filesystem == AUTOMOUNT => {
            let mount = mount_at(stage)?.filter(is_ours).ok_or_else(gone)?;
            let path = stage.to_owned();
            Ok((mount, PresentMount { path, _above: None }))
        }
        mount => {
            let mount = mount.filter(is_ours).ok_or_else(gone)?;
            let above = reach(dir.parent().unwrap_or(dir)).map_err(|_| gone())?;
            let path = Path::new(&path_of(above.dir())).join(dir.file_name().unwrap_or_default());
            let _above = Some(above);
            Ok((mount, PresentMount { path, _above }))
        }
    }
}

/// A path to a mount.
pub(super) struct PresentMount {
    pub(super) path: PathBuf,
    /// Keeps the descriptor in the path open.
    _above: Option<ReachedDir>,
}

/// Returns the topmost mount at `dir`.
pub(super) fn mount_at(dir: &Path) -> Result<Option<MountEntry>, MountingError> {
    let list = fs::read(MOUNTINFO).map_err(|why| MountingError::NoMountList { why })?;
    Ok(find_mount(&list, dir))
}

/// Finds the topmost, and therefore last, mount at `dir` in a list as in proc_pid_mountinfo(5).
fn find_mount(list: &[u8], dir: &Path) -> Option<MountEntry> {
    list.split(|byte| *byte == b'\n').rev().find_map(|line| {
        if mountinfo::point(line)? != dir {
            return None;
        }
        let (filesystem, _) = mountinfo::filesystem(line)?;
        let device = line.split(|byte| *byte == b' ').nth(2)?;
        let minor = std::str::from_utf8(device).ok()?.split_once(':')?.1;
        Some(MountEntry {
            filesystem: String::from_utf8_lossy(filesystem).into_owned(),
            connection: FuseConnection(minor.parse().ok()?),
            is_read_only: mountinfo::is_read_only(line),
        })
    })
}

/// Removes a p2pfs mount if its daemon is gone.
fn clean_stale(
    dir: &Path,
    connection: FuseConnection,
    otherwise: Unmount,
) -> Result<(), MountingError> {
    match probe(dir) {
        ProbeResult::Alive => Err(MountingError::AlreadyServed {
            dir: dir.to_owned(),
        }),
        ProbeResult::Silent => Err(MountingError::Silent {
            dir: dir.to_owned(),
            connection: connection.0,
        }),
        ProbeResult::Dead => {
            let switch = connection.abort_switch();
            if connection_at(dir)? == Some(connection) {
                switch.iter().for_each(AbortSwitch::pull);
            }
            direct::unmount(dir).or_else(|_| otherwise(dir))
        }
    }
}

enum ProbeResult {
    Alive,
    Dead,
    Silent,
}

/// Probes with `statfs`, which the kernel never answers from a cache. Runs in a separate thread,
/// because the answer may never arrive.
fn probe(dir: &Path) -> ProbeResult {
    let (told, answer) = mpsc::channel();
    let dir = dir.to_owned();
    thread::spawn(move || {
        let _ = told.send(rustix::fs::statfs(&dir).map(|_| ()));
    });
    match answer.recv_timeout(PROBE_TIMEOUT) {
        Ok(Ok(())) => ProbeResult::Alive,
        Ok(Err(_)) => ProbeResult::Dead,
        Err(_) => ProbeResult::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = b"22 1 0:21 / / rw - ext4 /dev/vda rw\n\
        40 22 0:45 / /mnt/p2p ro,nosuid shared:3 - fuse.p2pfs p2pfs ro,user_id=0\n\
        41 22 0:46 / /mnt/a\\040b rw - tmpfs none rw\n\
        42 40 0:47 / /mnt/p2p ro shared:9 master:2 - fuse.sshfs x rw\n";

    #[test]
    fn the_topmost_mount_is_the_visible_one() {
        let top = find_mount(LIST, Path::new("/mnt/p2p")).unwrap();
        assert_eq!(
            (top.filesystem.as_str(), top.connection),
            ("fuse.sshfs", FuseConnection(47))
        );
        let below: Vec<&[u8]> = LIST.splitn(3, |b| *b == b'\n').take(2).collect();
        let ours = find_mount(&below.join(&b'\n'), Path::new("/mnt/p2p")).unwrap();
        assert_eq!(
            (ours.filesystem.as_str(), ours.connection),
            (FILESYSTEM_TYPE, FuseConnection(45))
        );
    }

    #[test]
    fn a_path_with_a_space_is_found_in_the_mount_list() {
        assert_eq!(
            find_mount(LIST, Path::new("/mnt/a b")).unwrap().filesystem,
            "tmpfs"
        );
        assert!(find_mount(LIST, Path::new("/mnt/a")).is_none());
        assert!(find_mount(b"", Path::new("/")).is_none());
        assert!(find_mount(b"torn line", Path::new("/")).is_none());
    }

    #[test]
    fn a_missing_mount_point_is_created() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("a/b");
        let made = prepare(&dir, direct::unmount).unwrap();
        assert!(made.dir().is_dir());
        assert_eq!(made.dir(), dir.canonicalize().unwrap());
        assert_eq!(fs::read_link(made.target().unwrap()).unwrap(), made.dir());
    }

    #[test]
    fn mount_point_behind_a_link_of_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: only root can give a folder away");
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        fs::create_dir_all(at("private/p2p")).unwrap();
        fs::create_dir(at("bob")).unwrap();
        std::os::unix::fs::chown(at("bob"), Some(1234), None).unwrap();
        std::os::unix::fs::symlink(at("private"), at("bob/above")).unwrap();
        std::os::unix::fs::symlink(at("private/p2p"), at("bob/p2p")).unwrap();
        for name in ["bob/p2p", "bob/above/p2p", "bob/above/new"] {
            let refused = prepare(&at(name), direct::unmount).map(|_| ()).unwrap_err();
            assert!(refused.to_string().contains("user 1234 owns"), "{refused}");
        }
        assert!(!at("private/new").exists());
        // A link of root counts.
        std::os::unix::fs::symlink(at("private"), at("own")).unwrap();
        let point = prepare(&at("own/p2p"), direct::unmount).unwrap();
        assert_eq!(point.dir(), at("private/p2p").canonicalize().unwrap());
    }

    #[test]
    fn mount_lands_on_the_checked_directory_and_is_removed_if_that_was_moved() {
        let scratch = tempfile::tempdir().unwrap();
        let top = scratch.path().canonicalize().unwrap();
        let at = |name: &str| top.join(name);
        fs::create_dir_all(at("private/p2p")).unwrap();
        for (replaced, link) in [("above/p2p", "private/p2p"), ("above", "private")] {
            let point = prepare(&at("above/p2p"), direct::unmount).unwrap();
            fs::rename(at(replaced), at("aside")).unwrap();
            std::os::unix::fs::symlink(at(link), at(replaced)).unwrap();
            let moved = if replaced == "above" {
                "aside/p2p"
            } else {
                "aside"
            };
            assert_eq!(fs::read_link(point.target().unwrap()).unwrap(), at(moved));
            let request = super::super::MountRequest {
                dir: at("above/p2p"),
                uid: 0,
                gid: 0,
                allow_other: false,
            };
            match direct::mount(point.target().unwrap(), point.dir(), &request) {
                Ok(_device) => {
                    assert!(mount_at(&at("private/p2p")).unwrap().is_none());
                    assert!(mount_at(&at(moved)).unwrap().is_some());
                    point.take_away();
                    assert!(mount_at(&at(moved)).unwrap().is_none());
                }
                Err(error) => eprintln!("SKIPPED: it cannot mount: {error}"),
            }
            fs::remove_file(at(replaced)).unwrap();
            fs::rename(at("aside"), at(replaced)).unwrap();
        }
    }

    #[test]
    fn a_mount_point_that_would_hide_files_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("file"), "x").unwrap();
        assert!(matches!(
            prepare(scratch.path(), direct::unmount),
            Err(MountingError::NotEmpty { .. })
        ));
        let file = scratch.path().join("file");
        assert!(matches!(
            prepare(&file, direct::unmount),
            Err(MountingError::NotADirectory { .. })
        ));
        let beneath = scratch.path().join("file/below");
        assert!(matches!(
            prepare(&beneath, direct::unmount),
            Err(MountingError::CannotCreate { .. })
        ));
    }

    #[test]
    fn a_path_with_another_mount_is_busy() {
        let refused = prepare(Path::new("/proc"), direct::unmount);
        assert!(
            matches!(refused, Err(MountingError::Busy { filesystem, .. }) if filesystem == "proc")
        );
    }
}
