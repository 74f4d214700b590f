//! Signals that end a program (SIGINT, SIGTERM, SIGHUP), for commands that must clean up first: the
//! demo and the prompts of the older programs, which run daemons of their own, and the live view of
//! `p2pfs top`.
//!
//! The daemons end with the command that started them. [`bind`] keeps the signals of the terminal
//! from them, so that the command can end them in order.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use super::error::CliError;

/// How long a program may take to end by itself after a signal. The live view of `p2pfs top` checks
/// for signals five times a second.
const STUCK_MAX: Duration = Duration::from_secs(1);

const ENDING: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Makes a write beyond the file size limit of this process (`ulimit -f`) an error that can be
/// reported, instead of the end of the process.
pub fn outlive_the_limit_of_files() {
    // If the handler cannot be installed, such a write still ends the process.
    let _as_it_was = signal_hook::flag::register(SIGXFSZ, Arc::default());
}

/// Installs handlers for the ending signals that only set the returned flag.
///
/// # Errors
/// The error of the system.
pub(super) fn catch_as_flag() -> io::Result<Arc<AtomicBool>> {
    let ended = Arc::new(AtomicBool::new(false));
    for signal in ENDING {
        signal_hook::flag::register(signal, Arc::clone(&ended))?;
    }
    Ok(ended)
}

/// Returns whether an ending signal has arrived.
pub(super) fn has_come(ended: &AtomicBool) -> bool {
    ended.load(Ordering::Relaxed)
}

/// Collects the ending signals for [`end_daemon_with`] or [`end_if_stuck`]. From now on they do not
/// end this program by themselves.
///
/// # Errors
/// The error of the system.
pub(super) fn catch_all() -> Result<Signals, CliError> {
    Signals::new(ENDING).map_err(CliError::cannot("handle signals"))
}

/// Starts a thread that waits for a signal. The thread then ends the daemon, runs `tidy` and exits
/// this program.
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
        // A daemon that has already ended needs no signal.
        let _told = kill_process(daemon, Signal::TERM);
        let _ended = waitpid(Some(daemon), WaitOptions::empty());
        tidy();
        std::process::exit(128 + signal);
    });
}

/// Starts a thread that waits for a signal. If this program still runs [`STUCK_MAX`] later, for
/// example because a write to the terminal blocks, the thread runs `tidy` and exits the program.
pub(super) fn end_if_stuck(mut signals: Signals, tidy: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        let Some(signal) = signals.forever().next() else {
            return;
        };
        std::thread::sleep(STUCK_MAX);
        tidy();
        std::process::exit(128 + signal);
    });
}

/// Asks a daemon to end.
pub(super) fn ask(daemon: &Child) {
    // A daemon that has already ended needs no signal.
    let _told = kill_process(Pid::from_child(daemon), Signal::TERM);
}

/// Prepares the command that starts a daemon. The daemon ends when this program ends, even if this
/// program is killed. Signals of the terminal do not reach the daemon.
pub(super) fn bind(daemon: &mut Command) -> &mut Command {
    daemon.process_group(0);
    daemon.arg("--end-with").arg(std::process::id().to_string())
}

/// Makes this daemon end with its starter; the counterpart of [`bind`].
///
/// # Errors
/// If the starter is already gone, or the system refuses.
pub(super) fn follow(starter: u32) -> Result<(), CliError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .map_err(|error| CliError::cannot("follow the starting process")(error.into()))?;
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if parent.is_some_and(|pid| pid.cast_unsigned() == starter) {
        Ok(())
    } else {
        Err(CliError::plain(format!("process {starter} is gone")))
    }
}
