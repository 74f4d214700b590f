//! Daemon of `p2pfs legacy-shell` or `p2pfs mesh-shell`, the prompts of the older programs: started
//! in a temporary folder and ended with the prompt.
//!
//! This module owns the folder and the child process. The prompt chooses the protocols of the
//! daemon. The daemon ends however the prompt ends. The folder is removed unless the prompt is
//! killed.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use super::ending;
use super::error::CliError;
use super::own_program::own_program;
use crate::daemon::control::{Call, Client, Event};
use p2pfs_types::files::make_temporary_dir;

/// Name of the control socket in the daemon's folder.
const SOCKET: &str = "p2pfs.sock";
/// Name of the configuration in the daemon's folder.
const CONFIG: &str = "p2pfs.toml";
/// Maximum time from the start of the daemon until it answers calls.
const BEGIN: &str = "30s";

/// The running daemon.
pub(super) struct OwnDaemon {
    home: PathBuf,
    child: Child,
}

/// Options of the daemon.
pub(super) struct OwnDaemonOptions {
    /// Prefix of the folder's name.
    pub(super) name: &'static str,
    /// Configuration text.
    pub(super) config: String,
    /// Whether the log goes to the standard error of the prompt.
    pub(super) shows_log: bool,
}

impl OwnDaemon {
    /// Starts the daemon and waits until it answers calls. `more` adds arguments and environment.
    ///
    /// # Errors
    /// If the daemon cannot be started. If it does not answer within [`BEGIN`], the error is the
    /// last message in its log.
    pub(super) fn start(
        options: &OwnDaemonOptions,
        more: impl FnOnce(&mut Command),
    ) -> Result<Self, CliError> {
        let signals = ending::catch_all()?;
        let home = make_temporary_dir(&format!("p2pfs-{}-", options.name))
            .map_err(CliError::cannot("make a temporary folder"))?;
        let child = spawn(&home, options, more).inspect_err(|_| {
            let _tidied = fs::remove_dir_all(&home);
        })?;
        let daemon = Self { home, child };
        let home = daemon.home.clone();
        ending::end_daemon_with(signals, &daemon.child, move || {
            // `end_daemon_with` exits without `drop`, which otherwise removes the folder.
            let _tidied = fs::remove_dir_all(&home);
        });
        let waited = daemon.ask(&["wait", "--timeout", BEGIN])?;
        if waited.status.success() {
            Ok(daemon)
        } else {
            Err(daemon.last_words())
        }
    }

    /// Returns the last message in the daemon's log as an error. If the daemon has no log, because
    /// its messages were shown, the error says only that it did not start.
    pub(super) fn last_words(&self) -> CliError {
        let log = fs::read_to_string(self.home.join("log")).unwrap_or_default();
        let last = log.lines().rfind(|line| !line.trim().is_empty());
        CliError::plain(last.unwrap_or("the daemon did not start").to_owned())
    }

    /// Returns the path of the control socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.home.join(SOCKET)
    }

    /// Connects to the daemon without a timeout for answers.
    pub(super) fn client(&self) -> Result<Client, CliError> {
        patient_client(&self.socket())
    }

    /// Starts a thread that prints the lines for each event, past or new, until the daemon ends.
    pub(super) fn show_events<L: Display>(
        &self,
        lines: impl Fn(&Event) -> Vec<L> + Send + 'static,
    ) -> Result<(), CliError> {
        let mut client = self.client()?;
        client.start(&Call::Events { follow: true })?;
        std::thread::spawn(move || {
            while let Ok(reply) = client.next_reply() {
                let event = reply.decode::<Event>();
                for line in event.iter().flat_map(&lines) {
                    let _nobody_reads = writeln!(io::stdout(), "{line}");
                }
            }
        });
        Ok(())
    }

    /// Runs a command of this program against the daemon.
    pub(super) fn ask(&self, arguments: &[&str]) -> Result<Output, CliError> {
        let mut command =
            Command::new(own_program().map_err(CliError::cannot("find this program"))?);
        // `--socket` precedes the other arguments, because these may be names after a `--`.
        command.arg(arguments[0]).arg("--socket").arg(self.socket());
        command.args(&arguments[1..]);
        command
            .stdin(Stdio::null())
            .output()
            .map_err(CliError::cannot("run this program"))
    }
}

impl Drop for OwnDaemon {
    fn drop(&mut self) {
        ending::ask(&self.child);
        let _ended = self.child.wait();
        let _tidied = fs::remove_dir_all(&self.home);
    }
}

/// Connects to the daemon at this socket, without a timeout for answers.
pub(super) fn patient_client(socket: &Path) -> Result<Client, CliError> {
    let mut client = Client::connect(&[socket.to_path_buf()])?;
    client.set_patience(None)?;
    Ok(client)
}

fn spawn(
    home: &Path,
    options: &OwnDaemonOptions,
    more: impl FnOnce(&mut Command),
) -> Result<Child, CliError> {
    fs::write(home.join(CONFIG), &options.config)
        .map_err(CliError::cannot("write the configuration"))?;
    let mut command = Command::new(own_program().map_err(CliError::cannot("find this program"))?);
    command.arg("daemon");
    for (option, name) in [
        ("--config", CONFIG),
        ("--state", "state"),
        ("--cache", "cache"),
        ("--socket", SOCKET),
    ] {
        command.arg(option).arg(home.join(name));
    }
    // The prompt has already interpreted these variables and passes on the results.
    for variable in ["P2P_HOST", "P2P_PORT", "P2P_FOLDER", "P2P_CLUSTER"] {
        command.env_remove(variable);
    }
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    if !options.shows_log {
        let log = File::create(home.join("log")).map_err(CliError::cannot("write the log"))?;
        command
            .stderr(log.try_clone().map_err(CliError::cannot("write the log"))?)
            .stdout(log);
    }
    more(&mut command);
    // Ctrl-C reaches only the prompt.
    ending::bind(&mut command);
    command
        .spawn()
        .map_err(CliError::cannot("start the daemon"))
}
