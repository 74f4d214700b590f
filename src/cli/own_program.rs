//! Path of this program, for starting it again.

use std::io;
use std::path::PathBuf;

/// The file of the running program. Linux follows this link even if the file was removed or
/// replaced, as by an upgrade (proc_pid_exe(5)).
const RUNNING: &str = "/proc/self/exe";

/// Returns a path that starts another process of this program. If an upgrade has replaced the
/// program's file, the path leads to the running version, so that both processes have the same
/// protocols.
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
