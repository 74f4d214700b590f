//! The check that no other user can put files into the directories of the daemon.
//!
//! The daemon trusts its state: the key, the secret, the members, and the shares added by command.
//! It creates these directories itself, private to its user. A directory that another user can
//! change was made by hand, or planted.

use super::run_error::RunError;
use super::users::user_name;
use crate::daemon::config::Config;
use p2pfs_types::files::trusted_way::{DirFault, check_own_dir};
use p2pfs_types::files::{DirUse, OpenTo, shell_word};

/// Checks the state directory, the cache, and the directory of the control socket. Another user
/// that could change a directory above one of them could put a link in its place.
///
/// # Errors
/// [`RunError::OpenDir`] for the first directory that another user can change.
pub(super) fn check(config: &Config) -> Result<(), RunError> {
    let socket = config.socket.parent();
    let places = [
        ("state directory", Some(&*config.state_dir), DirUse::Files),
        ("cache", Some(&*config.cache_dir), DirUse::Files),
        ("directory of the control socket", socket, DirUse::Socket),
    ];
    for (what, dir, usage) in places {
        let Some(dir) = dir else { continue };
        check_own_dir(dir, usage).map_err(|fault| RunError::OpenDir {
            what,
            dir: dir.to_owned(),
            fault: said(fault),
        })?;
    }
    Ok(())
}

/// Says which user can change which directory, and the command that ends it.
fn said(fault: DirFault) -> String {
    let (dir, open) = match fault {
        DirFault::Open(dir, open) => (dir, open),
        DirFault::Planted(link) => {
            return format!("{link}; name the directory that it leads to by its own name");
        }
    };
    let (shown, word) = (dir.display(), shell_word(&dir));
    let (why, command) = match open {
        OpenTo::Owner(owner) => {
            let me = rustix::process::geteuid().as_raw();
            (
                format!("user {} owns {shown}", user_name(owner)),
                format!("chown {me} {word}"),
            )
        }
        OpenTo::Group(mode) => (
            format!("users of its group may write in {shown} (mode {mode:04o})"),
            format!("chmod g-w {word}"),
        ),
        OpenTo::Everyone(mode) => (
            format!("every user may write in {shown} (mode {mode:04o})"),
            format!("chmod go-w {word}"),
        ),
    };
    format!("{why}; name another directory, or remove what others put there, and run: {command}")
}
