//! Path arguments of the user. A path is any bytes. An absolute path leads through the mount point,
//! or through a bind mount of a folder of the mount, or begins at the root of the shared folder. A
//! relative path begins at the current directory if this is inside the mount, otherwise at the root
//! of the shared folder.

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::error::CliError;
use super::text::escape;
use crate::daemon::control::{Call, Client, ClientError, Named, Status};
use p2pfs_types::files::mountinfo::{self, MOUNTINFO};

/// Maximum number of links followed in a row, as in the kernel (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Converts arguments to names of the shared folder, with one request to the daemon for all.
pub(super) struct PathArguments {
    entrances: Vec<Entrance>,
    /// Current directory within the mount; `None` if it is elsewhere.
    here: Option<PathBuf>,
}

/// A place of this machine at which a folder of the shared folder is mounted.
#[derive(Debug, PartialEq, Eq)]
struct Entrance {
    /// Real path of the mount point.
    point: PathBuf,
    /// The mounted folder, within the shared folder.
    folder: PathBuf,
}

impl Entrance {
    /// Returns the part of a real path within the shared folder, if the path leads through here.
    fn within(&self, path: &Path) -> Option<PathBuf> {
        Some(self.folder.join(path.strip_prefix(&self.point).ok()?))
    }
}

/// Returns the mount point and the bind mounts of its file system in a list as in
/// proc_pid_mountinfo(5), those that are beneath others first.
fn entrances(mount: PathBuf, mounts: &[u8]) -> Vec<Entrance> {
    let lines = || mounts.split(|byte| *byte == b'\n');
    let is_mount = |line: &&[u8]| mountinfo::point(line).as_ref() == Some(&mount);
    // the last file system that was mounted at a point covers the others
    let device = lines().rfind(is_mount).and_then(mountinfo::device);
    let bound = lines().filter(|line| device.is_some() && mountinfo::device(line) == device);
    let bound = bound.filter_map(|line| {
        Some(Entrance {
            point: mountinfo::point(line)?,
            folder: mountinfo::root(line)?.strip_prefix("/").ok()?.to_owned(),
        })
    });
    let mut entrances: Vec<_> = bound.filter(|it| it.point != mount).collect();
    entrances.push(Entrance {
        point: mount,
        folder: PathBuf::new(),
    });
    entrances.sort_by_key(|it| std::cmp::Reverse(it.point.components().count()));
    entrances
}

impl PathArguments {
    /// Asks the daemon for its mount point. If the daemon restarts later, `client` waits until the
    /// next daemon has met as many peers as are alive now, or has had the time for it.
    pub(super) fn ask(client: &mut Client) -> Result<Self, ClientError> {
        let status: Status = client.call(&Call::Status {})?;
        client.wait_for_others(status.peers.alive);
        let mount = real_path(status.mount.dir.as_local(), &[]);
        let entrances = entrances(mount, &std::fs::read(MOUNTINFO).unwrap_or_default());
        let here = env::current_dir().ok();
        let here = here.and_then(|here| entrances.iter().find_map(|it| it.within(&here)));
        Ok(Self { entrances, here })
    }

    /// Returns the name that an argument means. With the mount point `/mnt/p2p`, the name `docs/a`
    /// is meant by `/docs/a` and `/mnt/p2p/docs/a` in every current directory, by `docs/a` outside
    /// the mount, and by `a` in `/mnt/p2p/docs`. An empty argument, for example from an unset
    /// variable, is an error, as in other programs.
    pub(super) fn of(&self, argument: &OsStr) -> Result<Named, CliError> {
        if argument.is_empty() {
            let remedy = "name a path as p2pfs ls shows it; / is the whole folder";
            return Err(CliError::new("an empty path names nothing", remedy));
        }
        let path = Path::new(argument);
        let within = match (path.is_absolute(), &self.here) {
            (true, _) => self.beneath_mount(path),
            (false, Some(here)) => Some(here.join(path)),
            (false, None) => None,
        };
        match within {
            None => Ok(Named::new(clean(argument.as_bytes()))),
            Some(within) => without_dots(&within).ok_or_else(|| {
                let shown = escape(argument.as_bytes());
                let message = format!("{shown} leads out of the shared folder");
                CliError::new(message, "name a path as p2pfs ls shows it")
            }),
        }
    }

    /// Returns the part of a path below the mount point or a bind mount, also if the path leads there
    /// through links. Returns `None` if the path does not lead into the mount.
    fn beneath_mount(&self, path: &Path) -> Option<PathBuf> {
        let within = |path: &Path| self.entrances.iter().find_map(|it| it.within(path));
        if let Some(direct) = within(path) {
            return Some(direct);
        }
        // Resolves the shortest ancestor first and stops at the mount point. A longer path would
        // need an answer from the server of the mounted filesystem.
        let above: Vec<&Path> = path.ancestors().collect();
        above.into_iter().rev().find_map(|top| {
            let rest = path.strip_prefix(top).ok()?;
            Some(within(&real_path(top, &self.entrances))?.join(rest))
        })
    }
}

/// Returns the name that one argument means.
pub(super) fn shared_name(client: &mut Client, argument: &OsStr) -> Result<Named, CliError> {
    PathArguments::ask(client)?.of(argument)
}

/// Resolves links in the path, except those below one of `entrances`. The last component is not
/// opened, but only read as a link. If it is a mount point, the kernel answers this without the
/// server of the mounted filesystem.
fn real_path(path: &Path, entrances: &[Entrance]) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let real = path.parent().and_then(|parent| parent.canonicalize().ok());
        let (Some(parent), Some(name)) = (real, path.file_name()) else {
            return path;
        };
        let named = parent.join(name);
        match named.read_link() {
            Ok(target) => path = parent.join(target),
            Err(_) => return named,
        }
        if entrances.iter().any(|it| path.starts_with(&it.point)) {
            return path;
        }
    }
    path
}

/// Resolves `.` and `..` textually. Returns `None` if the path leads above the folder.
fn without_dots(path: &Path) -> Option<Named> {
    let mut names: Vec<&OsStr> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::ParentDir => drop(names.pop()?),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    let bytes: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
    Some(Named::new(bytes.join(&b'/')))
}

/// Removes redundant slashes and `.`.
fn clean(path: &[u8]) -> Vec<u8> {
    let names = path
        .split(|byte| *byte == b'/')
        .filter(|name| !matches!(*name, b"" | b"."));
    names.collect::<Vec<_>>().join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redundant_slashes_and_dots_are_dropped() {
        for (given, meant) in [
            (&b"a/b"[..], &b"a/b"[..]),
            (b"a/b/", b"a/b"),
            (b"./a//b/.", b"a/b"),
            (b"/", b""),
            (b".", b""),
            (b"a/../b", b"a/../b"),
            (b"caf\xe9", b"caf\xe9"),
        ] {
            assert_eq!(clean(given), meant);
        }
    }

    fn names(here: Option<&str>) -> PathArguments {
        PathArguments {
            entrances: entrances("/nowhere/p2p".into(), b""),
            here: here.map(PathBuf::from),
        }
    }

    #[test]
    fn a_name_means_the_same_from_root_inside_and_through_the_mount() {
        let outside = names(None);
        let within = names(Some("docs"));
        for (names, given) in [
            (&outside, "docs/a"),
            (&outside, "/docs/a"),
            (&outside, "/nowhere/p2p/docs/a"),
            (&within, "a"),
            (&within, "./a"),
            (&within, "../docs/a"),
            (&within, "/nowhere/p2p/docs/a"),
            (&within, "/docs/a"),
        ] {
            let meant = names.of(OsStr::new(given)).unwrap();
            assert_eq!(meant, Named::new("docs/a"), "{given}");
        }
        assert_eq!(within.of(OsStr::new(".")).unwrap(), Named::new("docs"));
        assert_eq!(within.of(OsStr::new("..")).unwrap(), Named::new(""));
    }

    #[test]
    fn links_to_and_through_the_mount_resolve_into_it() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(dir.join("real/p2p")).unwrap();
        let link = |target: &str, name: &str| {
            std::os::unix::fs::symlink(target, dir.join(name)).unwrap();
        };
        link("real", "above");
        link("real/p2p", "itself");
        link("itself", "twice");
        link("loop", "loop");
        std::os::unix::fs::symlink(dir.join("real/p2p/docs"), dir.join("into")).unwrap();
        let by_link = PathArguments {
            entrances: entrances(real_path(&dir.join("itself"), &[]), b""),
            here: None,
        };
        let of = |given: &str| by_link.of(dir.join(given).as_os_str()).unwrap();
        for given in [
            "real/p2p/docs/a",
            "above/p2p/docs/a",
            "itself/docs/a",
            "twice/docs/a",
            "into/a",
        ] {
            assert_eq!(of(given), Named::new("docs/a"), "{given}");
        }
        assert_eq!(of("itself"), Named::new(""));
        assert_ne!(of("loop/docs/a"), Named::new("docs/a"));
    }

    #[test]
    fn a_path_through_a_bind_mount_of_a_folder_leads_into_the_shared_folder() {
        let mounts = b"41 22 0:46 / /nowhere/p2p rw - fuse.p2pfs p2pfs rw\n\
            42 22 0:46 /my\\040docs /nowhere/bound rw - fuse.p2pfs p2pfs rw\n\
            43 41 0:46 /other /nowhere/p2p/my\\040docs/sub rw - fuse.p2pfs p2pfs rw\n\
            44 22 0:47 /docs /nowhere/elsewhere rw - fuse.p2pfs p2pfs rw\n";
        let bound = PathArguments {
            entrances: entrances("/nowhere/p2p".into(), mounts),
            here: None,
        };
        for (given, meant) in [
            ("/nowhere/p2p/a", "a"),
            ("/nowhere/bound/a", "my docs/a"),
            ("/nowhere/bound", "my docs"),
            ("/nowhere/p2p/my docs/sub/a", "other/a"),
            ("/nowhere/elsewhere/a", "nowhere/elsewhere/a"),
        ] {
            let of = bound.of(OsStr::new(given)).unwrap();
            assert_eq!(of, Named::new(meant), "{given}");
        }
    }

    #[test]
    fn an_empty_path_is_not_the_whole_folder() {
        for names in [names(None), names(Some("docs"))] {
            assert!(names.of(OsStr::new("")).is_err());
            assert_eq!(names.of(OsStr::new("/")).unwrap(), Named::new(""));
        }
    }

    #[test]
    fn a_path_that_leads_out_of_the_folder_is_refused() {
        let within = names(Some("docs"));
        for given in ["../..", "../../etc/passwd", "/nowhere/p2p/../x"] {
            let refused = within.of(OsStr::new(given)).unwrap_err().to_string();
            assert!(
                refused.contains("leads out of the shared folder"),
                "{refused}"
            );
        }
    }
}
