//! ACLs that let the daemon's user into a folder below a closed directory, such as a home.
//!
//! `p2pfs share add` sets the ACLs with setfacl(1). setfacl(1) runs as the user of the command, or
//! if this user is root, as the first other owner on the path ([`owner_on_the_way`]). Before the
//! command sets an ACL, it records the ACL in [`GRANTS_FILE`], so that `p2pfs share remove` removes
//! only recorded ACLs. A directory on the way to several shares stays passable until the last of
//! these shares is removed.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output as Ended};

use serde::{Deserialize, Serialize};

use super::error::CliError;
use super::questions;
use super::text::{escape, user_name};
use crate::daemon::config::{Environment, Place};
use crate::daemon::control::Named;
use p2pfs_types::files::{PRIVATE_MODE, create_anew, make_private_dir};

/// Record of the ACLs that were set: a file in the state directory of the command's user.
const GRANTS_FILE: &str = "share-acls.json";

/// Remedy if a user may not set an ACL.
const RUN_AS_OWNER: &str = "run the command as the owner of the directory, or as root";

/// An ACL entry for the daemon's user that a share needs. It was set for this share or an earlier
/// one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Grant {
    /// The shared folder.
    share: Named,
    /// The directory that has the entry.
    path: Named,
    /// The daemon's user.
    uid: u32,
    /// Whether everything below the directory has the entry, too, and new files there get it.
    is_tree: bool,
    /// Whether `path`, and with `is_tree` everything below it, had no ACL before.
    was_plain: bool,
}

/// The ACLs that the daemon's user needs to read a shared folder.
#[derive(Debug)]
pub(super) struct MissingAccess {
    dir: PathBuf,
    uid: u32,
    grants: Vec<Grant>,
}

impl MissingAccess {
    /// Returns the ACLs that let the user `uid` pass each directory above `dir`, a real path, that
    /// is closed to this user as far as modes and ACLs tell. With `with_private`, adds an ACL that
    /// lets the user read everything in `dir`. Returns `None` if no ACL is needed or `uid` is root.
    pub(super) fn find(dir: &Path, uid: u32, with_private: bool) -> Option<Self> {
        if uid == 0 {
            return None;
        }
        let mut closed: Vec<(&Path, bool)> = Vec::new();
        for above in dir.ancestors().skip(1) {
            if !may_pass(above, uid) {
                closed.push((above, false));
            }
        }
        closed.reverse();
        closed.extend(with_private.then_some((dir, true)));
        let grant = |(path, is_tree): (&Path, bool)| Grant {
            share: Named::from_local(dir),
            path: Named::from_local(path),
            uid,
            is_tree,
            was_plain: false,
        };
        let grants: Vec<Grant> = closed.into_iter().map(grant).collect();
        (!grants.is_empty()).then(|| Self {
            dir: dir.to_owned(),
            uid,
            grants,
        })
    }

    /// Returns the commands that set the ACLs, quoted for a shell.
    fn commands(&self) -> Vec<String> {
        let user = user_name(self.uid);
        let command = |grant: &Grant| {
            let path = shlex::bytes::try_quote(grant.path.as_bytes()).ok();
            let path = path.map_or_else(
                || "DIR".into(),
                |it| String::from_utf8_lossy(&it).into_owned(),
            );
            if grant.is_tree {
                format!("setfacl -R -P -m u:{user}:rX,d:u:{user}:rX {path}")
            } else {
                format!("setfacl -m u:{user}:x {path}")
            }
        };
        self.grants.iter().map(command).collect()
    }

    /// Asks whether to set the ACLs.
    pub(super) fn ask(&self) -> Result<(), CliError> {
        let commands = self.commands();
        let closed = self
            .grants
            .iter()
            .map(|grant| escape(grant.path.as_bytes()));
        let closed: Vec<String> = closed.collect();
        let user = user_name(self.uid);
        let why = format!(
            "cannot share {}: the daemon's user {user} is not let in by {}",
            escape(self.dir.as_os_str().as_encoded_bytes()),
            closed.join(", ")
        );
        if !questions::has_terminal() {
            let remedy = format!("give --acl, which runs: {}", commands.join("; "));
            return Err(CliError::new(why, remedy));
        }
        let question = format!(
            "{why}.\nThese commands let {user} in:\n  {}\n\
             Run them? p2pfs share remove takes this back.",
            commands.join("\n  ")
        );
        questions::ask(&question, "answer y, or give --acl, to let it in")
    }

    /// Sets the ACLs.
    pub(super) fn grant(mut self) -> Result<(), CliError> {
        let mut all = load()?;
        self.grants.retain(|new| {
            let is_same = |it: &Grant| (&it.share, &it.path) == (&new.share, &new.path);
            !all.iter().any(is_same)
        });
        for mut grant in self.grants {
            let path = grant.path.as_local().to_owned();
            grant.was_plain = acls_in(&path, grant.is_tree)?.is_empty();
            let entry = grant.entry(true);
            all.push(grant.clone());
            save(&all)?;
            if let Err(error) = setfacl(grant.is_tree, "-m", &entry, &path) {
                // setfacl(1) has changed all files but those that its error names, and cannot
                // change those back either.
                let _same_error = grant.take_back();
                all.pop();
                save(&all)?;
                withdraw(&self.dir)?;
                return Err(error);
            }
        }
        Ok(())
    }
}

impl Grant {
    fn entry(&self, with_rights: bool) -> String {
        let Self { uid, is_tree, .. } = self;
        match (is_tree, with_rights) {
            (true, true) => format!("u:{uid}:rX,d:u:{uid}:rX"),
            (true, false) => format!("u:{uid},d:u:{uid}"),
            (false, true) => format!("u:{uid}:x"),
            (false, false) => format!("u:{uid}"),
        }
    }

    /// Removes the entry. With [`Self::was_plain`], also removes the remaining ACL, which has only
    /// the entries that setfacl(1) added by itself, unless another user or group has an entry now.
    /// Goes on after an error, because setfacl(1) then has changed all other files of a tree.
    fn take_back(&self) -> Result<(), CliError> {
        let path = self.path.as_local();
        if !path.exists() {
            return Ok(());
        }
        let removed = setfacl(self.is_tree, "-x", &self.entry(false), path);
        if !self.was_plain {
            return removed;
        }
        let left = acls_in(path, self.is_tree)?;
        let has_named = |is_default: bool| {
            let mut rules = left.lines().filter_map(|line| {
                let of_default = line.strip_prefix("default:");
                (of_default.is_some() == is_default).then(|| of_default.unwrap_or(line))
            });
            rules.any(is_named)
        };
        let tidied = match (has_named(false), has_named(true)) {
            (false, false) => setfacl(self.is_tree, "-b", "", path),
            (true, false) => setfacl(self.is_tree, "-k", "", path),
            (_, true) => Ok(()),
        };
        removed.and(tidied)
    }
}

/// Returns whether a line of getfacl(1) is the entry of a named user or group.
fn is_named(line: &str) -> bool {
    let named = line
        .strip_prefix("user:")
        .or_else(|| line.strip_prefix("group:"));
    named.is_some_and(|rest| !rest.starts_with(':'))
}

/// Refuses a folder that others may not read, unless its private files are to be shared.
pub(super) fn refuse_private(dir: &Path, with_private: bool) -> Result<(), CliError> {
    let is_open = |mode: u32| mode & 0o005 == 0o005;
    if with_private || dir.metadata().is_ok_and(|stat| is_open(stat.mode())) {
        return Ok(());
    }
    let shown = escape(dir.as_os_str().as_encoded_bytes());
    Err(CliError::new(
        format!("cannot share {shown}: others may not read it, so its files are private"),
        "give --include-private, or let others read it: chmod o+rx",
    ))
}

/// Records that a share needs the directories above it that were made passable for other shares.
/// They then stay passable when the other shares are removed.
pub(super) fn depend_on_others(dir: &Path) -> Result<(), CliError> {
    let mut all = load()?;
    let share = Named::from_local(dir);
    let on_the_way = |grant: &&Grant| !grant.is_tree && dir.starts_with(grant.path.as_local());
    let mut new: Vec<Grant> = Vec::new();
    for grant in all.iter().filter(on_the_way) {
        let is_known = |it: &Grant| it.share == share && it.path == grant.path;
        if !all.iter().chain(&new).any(is_known) {
            let share = share.clone();
            new.push(Grant {
                share,
                ..grant.clone()
            });
        }
    }
    if new.is_empty() {
        return Ok(());
    }
    all.append(&mut new);
    save(&all)
}

/// Removes the ACLs that were set for a share, except those that other shares need.
pub(super) fn withdraw(dir: &Path) -> Result<(), CliError> {
    let share = Named::from_local(dir);
    let (own, mut left): (Vec<Grant>, Vec<Grant>) =
        load()?.into_iter().partition(|grant| grant.share == share);
    if own.is_empty() {
        return Ok(());
    }
    let mut failed = None;
    for grant in own {
        let is_needed = left.iter().any(|other| other.path == grant.path);
        if !is_needed && let Err(error) = grant.take_back() {
            left.push(grant);
            failed = Some(error);
        }
    }
    save(&left)?;
    failed.map_or(Ok(()), Err)
}

/// Returns whether a user may pass a directory, by the directory's mode or an ACL entry of the
/// user. Ignores the groups of the user. A directory without readable metadata counts as passable.
fn may_pass(dir: &Path, uid: u32) -> bool {
    let Ok(stat) = dir.metadata() else {
        return true;
    };
    if stat.uid() == uid {
        return stat.mode() & 0o100 != 0;
    }
    let acls = acls_in(dir, false).unwrap_or_default();
    passes_by_acl(&acls, uid).unwrap_or(stat.mode() & 0o001 != 0)
}

/// Returns whether an ACL, as getfacl(1) prints it, lets a user pass by the entry of the user,
/// which the mask limits. Returns `None` without such an entry.
fn passes_by_acl(acl: &str, uid: u32) -> Option<bool> {
    let passes = |entry: &str| {
        let rights = acl.lines().find_map(|line| line.strip_prefix(entry))?;
        let rights = rights.split_whitespace().next();
        Some(rights.is_some_and(|it| it.ends_with('x')))
    };
    let named = passes(&format!("user:{uid}:"))?;
    Some(named && passes("mask::").unwrap_or(true))
}

/// Returns the ACLs of a directory as getfacl(1) prints them, with `is_tree` also those of
/// everything below it. getfacl(1) omits files without an ACL.
fn acls_in(dir: &Path, is_tree: bool) -> Result<String, CliError> {
    let mut command = Command::new("getfacl");
    command.args(["--numeric", "--skip-base", "--absolute-names", "--physical"]);
    command.args(is_tree.then_some("--recursive"));
    let ended = run(command.arg("--").arg(dir), RUN_AS_OWNER)?;
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}

fn setfacl(is_tree: bool, option: &str, entry: &str, path: &Path) -> Result<(), CliError> {
    let mut command = Command::new("setfacl");
    let mut remedy = RUN_AS_OWNER.to_owned();
    if let Some((uid, gid)) = owner_on_the_way(path) {
        command.uid(uid).gid(gid).current_dir("/");
        remedy = format!(
            "they are set as the owner, {0}: let {0} own all files there (chown), or move the \
             others away",
            user_name(uid)
        );
    }
    command.args(is_tree.then_some(["-R", "-P"]).iter().flatten());
    command.arg(option);
    command.args((!entry.is_empty()).then_some(OsStr::new(entry)));
    run(command.arg("--").arg(path), &remedy).map(drop)
}

/// Returns the user and group that setfacl(1) runs as if this command runs as root: the owner and
/// group of the first directory on the path that does not belong to root. Returns `None` if
/// setfacl(1) runs as the user of this command.
///
/// The owner of that directory can replace everything below it at any moment, for example by a link
/// to a file of root. If setfacl(1) ran as root, it would change the ACL of the link's target.
fn owner_on_the_way(path: &Path) -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    let stats = way.into_iter().filter_map(|it| it.symlink_metadata().ok());
    let mut owners = stats.map(|stat| (stat.uid(), stat.gid()));
    owners.find(|(uid, _)| *uid != 0)
}

/// Runs a program of the package acl. `remedy` is the remedy if the program itself fails.
fn run(command: &mut Command, remedy: &str) -> Result<Ended, CliError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let ended = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => CliError::new(
            format!("cannot set ACLs: {program} is not installed"),
            "install the package acl",
        ),
        _ => CliError::new(format!("cannot run {program}: {error}"), "try again"),
    })?;
    if ended.status.success() {
        return Ok(ended);
    }
    let why = String::from_utf8_lossy(&ended.stderr);
    Err(CliError::new(
        format!("cannot set ACLs: {}", why.trim()),
        remedy,
    ))
}

fn grants_file() -> PathBuf {
    let place = Place::user("", &Environment::of_this_process());
    place.state_dir.join(GRANTS_FILE)
}

fn load() -> Result<Vec<Grant>, CliError> {
    let path = grants_file();
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text.map_err(|error| unusable(&path, &error))?,
    };
    serde_json::from_slice(&text).map_err(|error| unusable(&path, &error))
}

fn save(grants: &[Grant]) -> Result<(), CliError> {
    let path = grants_file();
    let text = serde_json::to_vec_pretty(grants).map_err(|error| unusable(&path, &error))?;
    write(&path, &text).map_err(|error| unusable(&path, &error))
}

fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    path.parent().map_or(Ok(()), make_private_dir)?;
    let new = path.with_extension("new");
    create_anew(&new, PRIVATE_MODE)?.write_all(text)?;
    std::fs::rename(new, path)
}

fn unusable(path: &Path, error: &dyn std::fmt::Display) -> CliError {
    let message = format!("cannot use the record of ACLs, {}: {error}", path.display());
    CliError::new(message, "make it readable, or remove it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_an_acl_limits_the_entry_of_a_user() {
        let acl = |mask| {
            format!("user::rwx\nuser:7:r-x\t#effective:r--\ngroup::r-x\nmask::{mask}\nother::--x\n")
        };
        assert_eq!(passes_by_acl(&acl("r--"), 7), Some(false));
        assert_eq!(passes_by_acl(&acl("r-x"), 7), Some(true));
        assert_eq!(passes_by_acl(&acl("r-x"), 8), None, "no entry names it");
        assert_eq!(passes_by_acl("user:7:r--\nmask::rwx\n", 7), Some(false));
    }

    #[test]
    fn root_changes_acls_below_a_users_directory_with_that_users_rights() {
        let home = tempfile::tempdir().unwrap();
        let inner = home.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        assert_eq!(owner_on_the_way(&inner), None, "all of it is one user's");
        if is_root {
            std::os::unix::fs::chown(home.path(), Some(65534), Some(65533)).unwrap();
            assert_eq!(owner_on_the_way(&inner), Some((65534, 65533)));
        }
    }
}
