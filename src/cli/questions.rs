//! Questions before actions that the user may not intend, such as leaving a cluster or sharing a
//! whole home.
//!
//! Without a terminal to ask on, the command is refused. `--yes` confirms in both cases.

use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use super::error::CliError;

/// System folders that need confirmation before they, or any folder below them, are shared.
const SYSTEM_TREES: [&str; 10] = [
    "/etc",
    "/boot",
    "/proc",
    "/sys",
    "/bin",
    "/sbin",
    "/lib",
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
];
/// System folders that need confirmation before they are shared. The list says nothing about the
/// folders below them.
const SYSTEM_FOLDERS: [&str; 9] = [
    "/", "/dev", "/home", "/opt", "/root", "/run", "/usr", "/var", "/var/lib",
];
/// Folders for temporary files. Files that a program leaves there for a moment would be shared.
const TEMPORARY_FOLDERS: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// Returns whether a user can be asked.
pub(super) fn has_terminal() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks a question. Any answer except yes is an error, and `remedy` says how to confirm.
pub(super) fn ask(question: &str, remedy: &str) -> Result<(), CliError> {
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(CliError::cannot("read the answer"))?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CliError::new("nothing was done", remedy)),
    }
}

/// Asks a question, or refuses if there is no terminal to ask on. `unconfirmed` says what is refused.
pub(super) fn confirm(question: &str, unconfirmed: &str, remedy: &str) -> Result<(), CliError> {
    if has_terminal() {
        ask(question, remedy)
    } else {
        Err(CliError::new(unconfirmed, remedy))
    }
}

/// Asks for confirmation before a system folder, a folder for temporary files or a whole home is
/// shared, unless `is_meant` (`--yes`) is set. Returns an error if there is no terminal to ask on.
pub(super) fn ask_before_sharing(dir: &Path, is_meant: bool) -> Result<(), CliError> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let home = home.and_then(|home| home.canonicalize().ok());
    let Some(what) = doubt(dir, home.as_deref()).filter(|_| !is_meant) else {
        return Ok(());
    };
    let shown = dir.display();
    if !has_terminal() {
        return Err(CliError::new(
            format!("{shown} is {what}: every member of the cluster could read its files"),
            "share a folder in it, or give --yes where this is meant",
        ));
    }
    ask(
        &format!(
            "{shown} is {what}. Let everybody in the cluster read what\n\
             others on this machine may read in it?"
        ),
        "answer y, or give --yes, to share it",
    )
}

/// Describes a folder, given by its real path, that needs confirmation before it is shared. Returns
/// `None` for an ordinary folder.
fn doubt(dir: &Path, home: Option<&Path>) -> Option<&'static str> {
    let is_home = Some(dir) == home || dir.parent() == Some(Path::new("/home"));
    if dir == Path::new("/") {
        Some("everything on this machine")
    } else if is_home || dir == Path::new("/root") {
        Some("somebody's whole home")
    } else if SYSTEM_TREES.iter().any(|tree| dir.starts_with(tree)) {
        Some("a folder of the system")
    } else {
        let is_one_of = |folders: &[&str]| folders.iter().any(|it| dir == Path::new(it));
        if is_one_of(&TEMPORARY_FOLDERS) {
            Some("the folder for temporary files of all programs")
        } else {
            is_one_of(&SYSTEM_FOLDERS).then_some("a folder of the system")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_its_system_and_homes_need_confirmation_and_a_folder_in_a_home_does_not() {
        let home = Path::new("/srv/people/ann");
        let is_asked = |dir: &str| doubt(Path::new(dir), Some(home)).is_some();
        for dir in [
            "/",
            "/etc",
            "/etc/ssl/private",
            "/usr/lib/x",
            "/var",
            "/tmp",
            "/var/tmp",
            "/home",
            "/home/bob",
            "/root",
            "/srv/people/ann",
        ] {
            assert!(is_asked(dir), "{dir}");
        }
        for dir in [
            "/srv",
            "/tmp/photos",
            "/home/bob/photos",
            "/root/photos",
            "/srv/people/ann/photos",
            "/usr/local/share",
            "/var/lib/photos",
            "/etcetera",
            "/mnt/disk",
        ] {
            assert!(!is_asked(dir), "{dir}");
        }
    }
}
