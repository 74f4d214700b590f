//! `p2pfs mount-broker`: a process that a service manager starts beside the daemon, and that has
//! the permission to mount in place of the daemon.

use std::path::PathBuf;

use clap::Args;

use super::daemon::DaemonOptions;
use super::error::CliError;
use crate::daemon::config::load_texts;

/// The arguments of `p2pfs mount-broker`.
#[derive(Debug, Clone, Args)]
pub struct MountBrokerOptions {
    /// The socket; the broker serves its owner
    #[arg(long, value_name = "PATH", default_value = "/run/p2pfs-broker.sock")]
    socket: PathBuf,
    /// Where it may mount; may be repeated [default: the mount of the configuration]
    #[arg(long = "allow", value_name = "DIR")]
    allowed: Vec<PathBuf>,
}

/// Runs the broker on `socket` for the mount points `allowed`. `by_configuration` says whether
/// these come from the configuration instead of the flags.
pub(super) type RunBroker =
    fn(socket: PathBuf, allowed: Vec<PathBuf>, by_configuration: bool) -> Result<(), CliError>;

pub(super) fn run(options: MountBrokerOptions, broker: RunBroker) -> Result<(), CliError> {
    let by_configuration = options.allowed.is_empty();
    let allowed = if !by_configuration {
        options.allowed
    } else {
        let sources = DaemonOptions::default().sources()?;
        vec![load_texts(&sources).map_err(Box::new)?.config.mount.dir]
    };
    broker(options.socket, allowed, by_configuration)
}
