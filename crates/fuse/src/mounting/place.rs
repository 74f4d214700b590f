//! Checks of a mount point and of existing mounts there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::connection::AbortSwitch;
use super::{FILESYSTEM_TYPE, FuseConnection, MountingError, Unmount, direct};
use p2pfs_types::files::mountinfo::{self, MOUNTINFO};

/// Maximum number of stale p2pfs mounts on top of each other: one for each killed daemon.
const STALE_MOUNTS_MAX: usize = 64;
/// How long an existing mount may take to answer the liveness probe. A running daemon answers from
/// memory.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Filesystem type of an automount point.
pub(super) const AUTOMOUNT: &str = "autofs";
/// Staging directory for automounts. While a program waits at an automount point, only processes
/// started by systemd may mount there. If `mount.p2pfs` has created this directory, it moves the
/// mount from here to its place.
const STAGE: &str = "/run/p2pfs-automount";

/// Prepares the mount point: creates it if it is missing, removes stale p2pfs mounts, and checks
/// that it is an empty directory. Returns its path without symbolic links.
pub(super) fn prepare(dir: &Path, otherwise: Unmount) -> Result<PathBuf, MountingError> {
    let dir = without_links(dir)?;
    for _ in 0..STALE_MOUNTS_MAX {
        match mount_at(&dir)? {
            None => return check_directory(dir),
            // An automount point (systemd.automount(5)) waits for this very mount. Reading it would
            // wait for ourselves.
            Some(mount) if mount.filesystem == AUTOMOUNT => return Ok(dir),
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

/// Returns the directory in which to mount for `dir`.
pub(super) fn stage_for(dir: &Path) -> Result<&Path, MountingError> {
    let stage = Path::new(STAGE);
    let is_awaited = mount_at(dir)?.is_some_and(|mount| mount.filesystem == AUTOMOUNT);
    Ok(if is_awaited && stage.is_dir() {
        stage
    } else {
        dir
    })
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
        })
    })
}

/// Returns the absolute path without symbolic links. Does not access the last component if it is a
/// mount, because a dead mount answers only errors.
fn without_links(dir: &Path) -> Result<PathBuf, MountingError> {
    let cannot = |why| MountingError::CannotCreate {
        dir: dir.to_owned(),
        why,
    };
    let absolute = std::path::absolute(dir).map_err(cannot)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Ok(absolute);
    };
    fs::create_dir_all(parent).map_err(cannot)?;
    let plain = parent.canonicalize().map_err(cannot)?.join(name);
    if mount_at(&plain)?.is_some() {
        return Ok(plain);
    }
    match fs::symlink_metadata(&plain) {
        Ok(found) if found.is_symlink() => plain.canonicalize().map_err(cannot),
        _ => Ok(plain),
    }
}

fn check_directory(dir: PathBuf) -> Result<PathBuf, MountingError> {
    match fs::read_dir(&dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(dir),
            Some(_) => Err(MountingError::NotEmpty { dir }),
        },
        Err(why) if why.kind() == io::ErrorKind::NotFound => match fs::create_dir(&dir) {
            Ok(()) => Ok(dir),
            Err(why) => Err(MountingError::CannotCreate { dir, why }),
        },
        Err(why) if why.kind() == io::ErrorKind::NotADirectory => {
            Err(MountingError::NotADirectory { dir })
        }
        Err(why) => Err(MountingError::CannotCreate { dir, why }),
    }
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
        assert!(made.is_dir());
        assert_eq!(made, dir.canonicalize().unwrap());
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
