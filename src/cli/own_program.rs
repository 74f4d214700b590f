//! Path of this program, for starting it again.

use std::io;
use std::path::PathBuf;

/// The file of the running program. Linux follows this link even if the file was removed or
/// replaced, as by an upgrade (proc_pid_exe(5)).
const RUNNING: &str = "/proc/self/exe";

/// Returns the path of this program for starting another process of it. After an upgrade this is
/// the running version, so that both have the same protocols.
///
/// # Errors
/// The errors of reading [`RUNNING`].
pub(super) fn own_program() -> io::Result<PathBuf> {
    let named = std::env::current_exe()?;
    if named.exists() {
        Ok(named)
    } else {
        Ok(PathBuf::from(RUNNING))
    }
}
