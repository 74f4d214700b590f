//! `p2pfs daemon`: adds the flags to the other settings, loads the configuration, and prints it or
//! runs the daemon with it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;

use super::ending;
use super::error::CliError;
use super::output::Output;
use super::questions;
use crate::daemon::config::{
    ConfigError, Environment, Loaded, Overrides, Place, Seed, Sources, inspect, load,
    parse_listen_address, units,
};
use p2pfs_types::id::NodeName;

/// The flags of `p2pfs daemon`. A flag wins over the environment and the files, except that
/// `--share` adds to their folders.
#[derive(Debug, Clone, Default, Args)]
pub struct DaemonOptions {
    /// The configuration file [default: /etc/p2pfs/p2pfs.toml; a user's in ~/.config]
    #[arg(
        long,
        value_name = "FILE",
        env = "P2PFS_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,
    /// Check the configuration, print the result, and do nothing else
    #[arg(long)]
    pub check_config: bool,
    /// With --check-config: print nothing if it is right
    #[arg(long, requires = "check_config")]
    pub quiet: bool,
    /// The name of this node [default: the host's name]
    #[arg(long)]
    pub name: Option<NodeName>,
    /// Where to listen, UDP and TCP [default: 0.0.0.0:1378]
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_listen_address)]
    pub listen: Option<SocketAddr>,
    /// A node to contact first; may be repeated, and replaces those of the configuration
    #[arg(long = "seed", value_name = "ADDR:PORT")]
    pub seeds: Vec<Seed>,
    /// A folder to share; may be repeated, and adds to those of the configuration
    #[arg(long = "share", value_name = "DIR")]
    pub shares: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) places: PlaceOptions,
    /// Share the folders of the command line without a question, also a folder of the system
    #[arg(long)]
    pub yes: bool,
    /// End when the parent process, which has this number, ends
    #[arg(long, value_name = "PID")]
    pub end_with: Option<u32>,
    /// Speak to legacy peers, and share the folders of the command line with them
    #[arg(long)]
    pub legacy: bool,
}

/// The paths and the size that replace those of the configuration.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct PlaceOptions {
    /// Where to mount [default: /mnt/p2p; a user's: ~/p2p]
    #[arg(long, value_name = "DIR")]
    pub mount: Option<PathBuf>,
    /// Where to keep the node's key and state [default: /var/lib/p2pfs]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Where to keep the cache [default: /var/cache/p2pfs]
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// The most the cache may use [default: 10GiB]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_positive_size)]
    pub cache_size: Option<u64>,
    /// The control socket [default: /run/p2pfs/p2pfs.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// A file with the cluster's secret, instead of invitations
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
}

impl DaemonOptions {
    /// Collects all layers of settings, with the flags on top. Paths become absolute here.
    ///
    /// # Errors
    /// [`CliError`] if the working directory is not available.
    pub fn sources(self) -> Result<Sources, CliError> {
        let environment = Environment::of_this_process();
        let place = Place::of_this_process(&environment);
        let overrides = Overrides {
            name: self.name,
            listen: self.listen,
            seeds: self.seeds,
            shares: self
                .shares
                .iter()
                .map(|dir| absolute(dir))
                .collect::<Result<_, _>>()?,
            mount_dir: maybe_absolute(self.places.mount)?,
            state_dir: maybe_absolute(self.places.state)?,
            cache_dir: maybe_absolute(self.places.cache)?,
            cache_size_bytes: self.places.cache_size,
            socket: maybe_absolute(self.places.socket)?,
            secret_file: maybe_absolute(self.places.secret_file)?,
            legacy: self.legacy,
        };
        Ok(Sources {
            config_file: maybe_absolute(self.config)?,
            environment,
            overrides,
            place,
        })
    }
}

/// Returns the configuration that the flag names, or that `P2PFS_CONFIG` names without it. For
/// commands that read the variable only after no daemon answered: if it stood for the flag, it would
/// lead them away from a running daemon, as the flag does.
pub(super) fn config_or_variable(flag: Option<PathBuf>) -> Option<PathBuf> {
    let named = || {
        Environment::of_this_process()
            .path("P2PFS_CONFIG")
            .map(Into::into)
    };
    flag.or_else(named)
}

/// Runs the daemon on its configuration. `sources` allow it to load the configuration again.
pub type RunDaemon = fn(sources: Sources, loaded: Loaded) -> Result<(), CliError>;

/// Records for other commands that the configuration of a daemon was refused.
pub type RecordRefusal = fn(sources: &Sources, error: &ConfigError);

/// Loads the configuration, and prints it or runs the daemon with it.
pub(super) fn run(
    options: DaemonOptions,
    daemon: RunDaemon,
    refused: RecordRefusal,
    output: &mut Output,
) -> Result<(), CliError> {
    let (check_only, quiet) = (options.check_config, options.quiet);
    if let Some(starter) = options.end_with {
        ending::follow(starter)?;
    }
    if !check_only {
        for dir in options
            .shares
            .iter()
            .filter_map(|dir| dir.canonicalize().ok())
        {
            questions::ask_before_sharing(&dir, options.yes)?;
        }
    }
    let sources = options.sources()?;
    match load(&sources) {
        Ok(loaded) if check_only => check(&loaded, quiet, output),
        Ok(loaded) => daemon(sources, loaded),
        Err(error) => {
            if !check_only {
                refused(&sources, &error);
            }
            Err(Box::new(error).into())
        }
    }
}

/// Checks the secret file and the shares of the configuration. Prints the configuration and all
/// warnings unless `quiet` is set.
fn check(loaded: &Loaded, quiet: bool, output: &mut Output) -> Result<(), CliError> {
    let found = inspect(loaded);
    if !quiet {
        print(loaded, &found.warnings, output)?;
        output.flush()?;
    }
    if found.errors.is_empty() {
        Ok(())
    } else {
        Err(CliError::Unusable(found.errors.join("\n")))
    }
}

fn print(loaded: &Loaded, found: &[String], output: &mut Output) -> Result<(), CliError> {
    for file in &loaded.files {
        output.line(&format!("# from {}", file.display()))?;
    }
    for warning in loaded.warnings.iter().chain(found) {
        output.line(&format!("# warning: {warning}"))?;
    }
    output.bytes(loaded.config.to_toml().as_bytes())
}

pub(super) fn maybe_absolute(path: Option<PathBuf>) -> Result<Option<PathBuf>, CliError> {
    path.map(|path| absolute(&path)).transpose()
}

/// Returns the absolute path; symbolic links are kept.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, CliError> {
    std::path::absolute(path)
        .map_err(|e| CliError::plain(format!("{} is not a path: {e}", path.display())))
}
