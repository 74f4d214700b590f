//! Names as the user gives them: any bytes, from the root of the mount, from the current directory
//! where that is inside the mount, or absolute through it.

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::error::CliError;
use super::text::escape;
use crate::daemon::control::{Call, Client, ClientError, Named, Status};

/// Links that are followed one after the other, as the kernel does (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Turns arguments into names of the shared folder, with one question to the daemon for all.
pub(super) struct Names {
    /// Where the folder is mounted, by its real path.
    mount: PathBuf,
    /// The current directory within it; none where that is elsewhere.
    here: Option<PathBuf>,
}

impl Names {
    /// Asks the daemon where it mounts. A next one is to know the names that this one knows.
    pub(super) fn ask(client: &mut Client) -> Result<Self, ClientError> {
        let status: Status = client.call(&Call::Status {})?;
        client.wait_for_others(status.peers.alive);
        let mount = real_path(status.mount.dir.as_local(), None);
        let here = env::current_dir().ok();
        let here = here.and_then(|here| Some(here.strip_prefix(&mount).ok()?.to_owned()));
        Ok(Self { mount, here })
    }

    /// The name that an argument means: `docs/a`, `/docs/a` and `/mnt/p2p/docs/a` are the same
    /// where the folder is mounted on `/mnt/p2p`, and so is `a` from within `/mnt/p2p/docs`.
    /// An empty one, such as of a variable that is not set, is nothing's, as with other programs.
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

    /// The rest of a path that leads into the mount, also by way of links to it or into it.
    fn beneath_mount(&self, path: &Path) -> Option<PathBuf> {
        if let Ok(rest) = path.strip_prefix(&self.mount) {
            return Some(rest.to_owned());
        }
        // from above, so that nothing is asked of who serves what is below the mount
        let above: Vec<&Path> = path.ancestors().collect();
        above.into_iter().rev().find_map(|top| {
            let rest = path.strip_prefix(top).ok()?;
            let real = real_path(top, Some(&self.mount));
            Some(real.strip_prefix(&self.mount).ok()?.join(rest))
        })
    }
}

/// The name that one argument means.
pub(super) fn shared_name(client: &mut Client, argument: &OsStr) -> Result<Named, CliError> {
    Names::ask(client)?.of(argument)
}

/// The path without links, but for those below `mount`. Of its last part no more is asked than
/// whether it is one, which the kernel knows of a mount point by itself: whoever serves what is
/// mounted there is not asked.
fn real_path(path: &Path, mount: Option<&Path>) -> PathBuf {
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
        if mount.is_some_and(|mount| path.starts_with(mount)) {
            return path;
        }
    }
    path
}

/// Resolves `.` and `..` by their text; none where it leads above the folder.
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

/// Drops what says nothing: slashes at the ends or doubled, and `.`.
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
    fn slashes_and_dots_that_say_nothing_are_dropped() {
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

    fn names(here: Option<&str>) -> Names {
        Names {
            mount: PathBuf::from("/nowhere/p2p"),
            here: here.map(PathBuf::from),
        }
    }

    #[test]
    fn a_name_means_the_same_from_the_root_from_within_and_through_the_mount() {
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
    fn links_to_the_mount_and_through_it_are_ways_into_it() {
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
        let by_link = Names {
            mount: real_path(&dir.join("itself"), None),
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
    fn an_empty_path_is_not_the_whole_folder() {
        for names in [names(None), names(Some("docs"))] {
            assert!(names.of(OsStr::new("")).is_err());
            assert_eq!(names.of(OsStr::new("/")).unwrap(), Named::new(""));
        }
    }

    #[test]
    fn what_leads_out_of_the_folder_is_refused() {
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
