//! How a command that runs daemons of its own ends, and they with it.
//!
//! Owns the signals that end a program (SIGINT, SIGTERM, SIGHUP) for the commands that have
//! something to tidy up. The daemons get none of them from the terminal.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use super::error::CliError;

const ENDING: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// A write beyond the largest file that this process may make (`ulimit -f`) is an error from now
/// on, of which there is something to say, and not the end of the process.
pub fn outlive_the_limit_of_files() {
    // where it cannot be had, all is as it is without
    let _as_it_was = signal_hook::flag::register(SIGXFSZ, Arc::default());
}

/// Whether the user wants it to end: from now on these signals only set this.
///
/// # Errors
/// What the system says.
pub(super) fn noted() -> io::Result<Arc<AtomicBool>> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in ENDING {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    Ok(ended)
}

/// Whether one has come.
pub(super) fn has_come(ended: &AtomicBool) -> bool {
    ended.load(Ordering::Relaxed)
}

/// From now on these signals wait for [`end_daemon_with`].
///
/// # Errors
/// What the system says.
pub(super) fn held() -> Result<Signals, CliError> {
    Ok(Signals::new(ENDING)?)
}

/// A signal ends the daemon too, and then this program, once `tidy` is done.
pub(super) fn end_daemon_with(
    mut signals: Signals,
    daemon: &Child,
    tidy: impl FnOnce() + Send + 'static,
) {
    let daemon = Pid::from_child(daemon);
    std::thread::spawn(move || {
        let Some(signal) = signals.forever().next() else {
            return;
        };
        // one that has ended is as good
        let _told = kill_process(daemon, Signal::TERM);
        let _ended = waitpid(Some(daemon), WaitOptions::empty());
        tidy();
        std::process::exit(128 + signal);
    });
}

/// Asks a daemon to end.
pub(super) fn ask(daemon: &Child) {
    // one that has ended is as good
    let _told = kill_process(Pid::from_child(daemon), Signal::TERM);
}

/// Makes a daemon that this program starts end with it, however that ends, and keeps the
/// terminal's signals from it.
pub(super) fn bind(daemon: &mut Command) -> &mut Command {
    daemon.process_group(0);
    daemon.arg("--end-with").arg(std::process::id().to_string())
}

/// The daemon's side of [`bind`].
///
/// # Errors
/// Where that program is gone already.
pub(super) fn follow(starter: u32) -> Result<(), CliError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(io::Error::from)?;
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if parent.is_some_and(|pid| pid.cast_unsigned() == starter) {
        Ok(())
    } else {
        Err(CliError::plain(format!("process {starter} is gone")))
    }
}
