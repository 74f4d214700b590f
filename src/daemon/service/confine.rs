//! Restricts the file access of the daemon's process from its start (landlock(7)), if a mount
//! broker mounts for it. The process may then read all that its user may read, may write in its own
//! directories only, and may execute nothing.
//!
//! Landlock rules cannot be widened later, but shares are added, removed and moved, and disks are
//! mounted on them. Reads are therefore left to the permissions of files, and the rules forbid
//! writes outside the own directories, also to shares. On a kernel without Landlock, the daemon
//! runs unrestricted. A restricted process cannot mount, so a daemon that mounts by itself is not
//! restricted.

use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, BitFlags, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, path_beneath_rules,
};

use crate::daemon::config::{Config, MetricsAddress};
use p2pfs_types::files::{make_open_dir, make_private_dir};

/// The access rights to restrict, if the kernel supports them: files, renames across directories,
/// truncation.
const RULES: ABI = ABI::V3;

/// Restricts this thread and all threads that it starts, for good. Call it before there are other
/// threads.
///
/// # Errors
/// Fails if the kernel supports Landlock and rejects the rules.
pub(super) fn confine(config: &Config) -> Result<RulesetStatus, RulesetError> {
    let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
    // All rights except execution.
    let write = AccessFs::from_all(RULES) & !AccessFs::Execute;
    let confined = Ruleset::default()
        .handle_access(AccessFs::from_all(RULES))?
        .create()?
        .add_rules(path_beneath_rules(["/"], read))?
        .add_rules(path_beneath_rules(made(own_directories(config)), write))?
        .restrict_self()?;
    Ok(confined.ruleset)
}

/// Creates a directory if it is missing.
type Make = fn(&Path) -> io::Result<()>;

/// Returns the directories that the daemon writes in, each with the function that creates it.
fn own_directories(config: &Config) -> Vec<(PathBuf, Make)> {
    let inboxes = config.inboxes().into_iter().map(|(_, dir)| dir);
    let metrics = match &config.metrics.listen {
        Some(MetricsAddress::Unix(path)) => path.parent(),
        _ => None,
    };
    let own = [config.state_dir.as_path(), config.cache_dir.as_path()];
    let sockets = config.socket.parent().into_iter().chain(metrics);
    let private = own.map(|dir| (dir.to_owned(), make_private_dir as Make));
    let open = inboxes.chain(sockets);
    let open = open.map(|dir| (dir.to_owned(), (|dir| make_open_dir(dir).map(drop)) as Make));
    private.into_iter().chain(open).collect()
}

/// Creates the missing directories and returns those that exist. A rule is made for an open
/// directory. A missing directory would need a rule for its parent, which would also permit writes
/// to other entries of the parent. A directory that cannot be created gets no rule, and the daemon
/// writes nothing there.
fn made(directories: Vec<(PathBuf, Make)>) -> Vec<PathBuf> {
    let is_made = |(dir, make): &(PathBuf, Make)| {
        let made = make(dir);
        if let Err(error) = &made {
            let dir = dir.display();
            tracing::warn!(
                "cannot make {dir}: {error}; nothing is written there until the daemon is \
                 started again with the directory in place"
            );
        }
        made.is_ok()
    };
    let there = directories.into_iter().filter(is_made);
    there.map(|(dir, _)| dir).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    /// Variable with the directory that the inner test uses.
    const PLACE: &str = "P2PFS_TEST_PLACE";

    #[test]
    #[ignore = "the test below runs it in a process of its own"]
    fn tries_everything() {
        let place = PathBuf::from(std::env::var_os(PLACE).unwrap());
        let config = Config {
            state_dir: place.join("state"),
            cache_dir: place.join("missing/of/p2pfs"),
            socket: place.join("run/socket"),
            ..Config::default()
        };
        if confine(&config).unwrap() == RulesetStatus::NotEnforced {
            return println!("this kernel has no Landlock");
        }
        let share = place.join("share");
        assert_eq!(fs::read(share.join("file")).unwrap(), b"mine");
        assert_eq!(fs::read_dir(&share).unwrap().count(), 1);
        let refused = [
            fs::write(share.join("file"), "changed"),
            fs::write(share.join("new"), "new"),
            fs::remove_file(share.join("file")),
            fs::create_dir(share.join("dir")),
            fs::rename(share.join("file"), place.join("state/file")),
            fs::hard_link(share.join("file"), place.join("state/file")),
            fs::write(place.join("missing/beside"), "new"),
            fs::write(place.join("beside"), "new"),
            Command::new("/bin/true").status().map(drop),
        ];
        for (number, outcome) in refused.into_iter().enumerate() {
            let kind = outcome.unwrap_err().kind();
            let is_refused = [ErrorKind::PermissionDenied, ErrorKind::CrossesDevices];
            assert!(is_refused.contains(&kind), "{number}: {kind}");
        }
        fs::create_dir_all(place.join("missing/of/p2pfs/data")).unwrap();
        fs::write(place.join("state/new"), "new").unwrap();
        fs::rename(place.join("state/new"), place.join("missing/of/p2pfs/new")).unwrap();
        std::os::unix::net::UnixListener::bind(&config.socket).unwrap();
        fs::remove_file(&config.socket).unwrap();
    }

    #[test]
    fn a_missing_directory_is_created_and_no_rule_covers_one_above_it() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path();
        fs::write(place.join("file"), "x").unwrap();
        let config = Config {
            state_dir: place.join("var/state"),
            cache_dir: place.join("file/cache"),
            socket: place.join("run/p2pfs/socket"),
            ..Config::default()
        };
        let ruled = made(own_directories(&config));
        assert_eq!(ruled, [place.join("var/state"), place.join("run/p2pfs")]);
        for (dir, mode) in [("var/state", 0o700), ("run/p2pfs", 0o755)] {
            let found = fs::metadata(place.join(dir)).unwrap();
            assert_eq!(found.permissions().mode() & 0o777, mode, "{dir}");
        }
    }

    #[test]
    fn a_confined_daemon_changes_no_share_and_runs_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for dir in ["state", "run", "share"] {
            fs::create_dir(folder.path().join(dir)).unwrap();
        }
        fs::write(folder.path().join("share/file"), "mine").unwrap();
        let ran = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--test-threads=1"])
            .arg("daemon::service::confine::tests::tries_everything")
            .env(PLACE, folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && said.contains("1 passed"), "{said}");
    }
}
