//! This program itself, to be started once more.

use std::io;
use std::path::PathBuf;

/// The file of the program that runs, whatever became of its name: Linux follows this link also
/// where the file was removed or replaced, as by an upgrade (proc_pid_exe(5)).
const RUNNING: &str = "/proc/self/exe";

/// What to start for another process of this program; after an upgrade the version that runs, so
/// that both speak of the same things.
///
/// # Errors
/// Those of reading [`RUNNING`].
pub(super) fn own_program() -> io::Result<PathBuf> {
    let named = std::env::current_exe()?;
    if named.exists() {
        Ok(named)
    } else {
        Ok(PathBuf::from(RUNNING))
    }
}
