//! Command line: one file per group of commands. [`parse`] reads the arguments, and [`run`] runs
//! the command.
//!
//! This module owns the arguments, the output format for terminals and pipes, and the exit codes: 0
//! for success, 2 for misuse, [`CliError::exit_status`] for a failure. A failed command prints each
//! error on standard error, in one line with the cause and the remedy.
//!
//! A command learns the state of a running daemon from its control socket; `doctor` also reads the
//! status file in the mount. If no daemon runs, `doctor`, `config show` and `join` read its
//! configuration, and `join` saves the token in its state directory.

mod access;
mod cache;
mod complete;
mod completions;
mod connect;
pub mod daemon;
pub mod demo;
pub mod doctor;
mod ending;
mod error;
mod events;
mod get;
mod groups;
mod legacy_shell;
mod limits;
mod mesh_shell;
mod mine;
mod mount_broker;
mod names;
mod namespace;
mod output;
mod own_daemon;
mod own_program;
mod ping;
mod progress;
mod questions;
mod send;
mod settings;
mod share;
mod status;
mod text;
mod top;
mod trust;
mod wait;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

pub use completions::answer_shell;
pub use ending::outlive_the_limit_of_files;
pub use error::CliError;

use crate::daemon::config::NO_LEGACY;
use output::{LINE_COLUMNS, Output};

/// The files that a group of machines share, as one folder on each of them.
#[derive(Debug, Parser)]
#[command(name = "p2pfs", version, max_term_width = LINE_COLUMNS)]
#[command(after_help = "See p2pfs(1), p2pfs.toml(5), p2pfs(7) and p2pfs(8).")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon in the foreground
    Daemon(daemon::DaemonOptions),
    /// Demonstrate p2pfs with some nodes on this machine
    Demo(demo::DemoOptions),
    /// Wait for the daemon, its mount, its peers or a file
    Wait(wait::WaitOptions),
    /// List, add or remove the folders that this node shares
    Share(share::ShareOptions),
    /// Make a token that lets one new node join
    Invite(trust::InviteOptions),
    /// Join the cluster of a token
    Join(trust::JoinOptions),
    /// Leave the cluster for good
    Leave(trust::LeaveOptions),
    /// Expel a node from the cluster for good
    Expel(trust::ExpelOptions),
    /// Give the members a fresh secret
    Rotate(connect::Reporting),
    /// Let only one node list files at and below a path
    Own(trust::OwnOptions),
    /// Drop the entries of a node that is gone for good
    Forget(trust::ForgetOptions),
    /// Show the members of the cluster, and how each was admitted
    Trust(connect::Reporting),
    /// Show the state of this node
    Status(connect::Reporting),
    /// Show the other nodes
    Peers(connect::Reporting),
    /// Measure the round-trip time to another node
    Ping(ping::PingOptions),
    /// Check this node for problems, with remedies
    Doctor(doctor::DoctorOptions),
    /// Show the settings in force
    Config(settings::ConfigOptions),
    /// Show or set the limits of the transfer rates
    Limits(limits::LimitsOptions),
    /// Show transfers and readers
    Top(top::TopOptions),
    /// List the shared files
    Ls(namespace::LsOptions),
    /// Fetch a file without the mount
    Get(get::GetOptions),
    /// Explain why a name shows its content
    Why(namespace::WhyOptions),
    /// Bring files into the cache
    Prefetch(cache::PrefetchOptions),
    /// Pin files, so that they stay in the cache
    Pin(cache::PinOptions),
    /// Unpin files
    Unpin(cache::PinOptions),
    /// List, empty, check or resize the cache
    Cache(cache::CacheOptions),
    /// Send files to mesh peers and to the inboxes of nodes
    #[command(
        after_help = "An inbox is shared like any other folder: every member of the \
                            cluster can read a sent\nfile there, not only its receiver."
    )]
    Send(send::SendOptions),
    /// Send a line of chat to every peer
    Say(send::SayOptions),
    /// Show events
    Events(events::EventsOptions),
    /// Run the prompt of the older program, with its own node
    LegacyShell,
    /// Run the prompt of the older mesh program
    MeshShell(mesh_shell::MeshShellOptions),
    /// Mount for a daemon, and keep the mount while it restarts
    MountBroker(mount_broker::MountBrokerOptions),
    /// Print a completion script for a shell
    Completions(completions::CompletionsOptions),
}

impl Command {
    /// Returns whether the command only reports, so that it may end when its output is no longer
    /// read.
    fn is_there_to_be_read(&self) -> bool {
        match self {
            Self::Trust(_)
            | Self::Status(_)
            | Self::Peers(_)
            | Self::Ping(_)
            | Self::Config(_)
            | Self::Top(_)
            | Self::Ls(_)
            | Self::Why(_)
            | Self::Events(_)
            | Self::Completions(_) => true,
            Self::Daemon(_)
            | Self::Demo(_)
            | Self::Wait(_)
            | Self::Share(_)
            | Self::Invite(_)
            | Self::Join(_)
            | Self::Leave(_)
            | Self::Expel(_)
            | Self::Rotate(_)
            | Self::Own(_)
            | Self::Forget(_)
            | Self::Doctor(_)
            | Self::Limits(_)
            | Self::Get(_)
            | Self::Prefetch(_)
            | Self::Pin(_)
            | Self::Unpin(_)
            | Self::Cache(_)
            | Self::Send(_)
            | Self::Say(_)
            | Self::LegacyShell
            | Self::MeshShell(_)
            | Self::MountBroker(_) => false,
        }
    }
}

/// Source of every p2pfs mount, as mount(8) shows it. If a user asks mount(8) for a mount of the
/// type fuse.p2pfs with this source, or for a change of a p2pfs mount, mount.fuse3(8) runs the
/// program `p2pfs`, which the type names, with the source as its first argument.
const MOUNT_SOURCE: &str = "p2pfs";

/// Parses the command line. Help and misuse are handled here, with their exit code.
///
/// # Errors
/// The exit code, if there is no command to run.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, ExitCode> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.get(1).is_some_and(|first| first == MOUNT_SOURCE) {
        complain(
            "the folder is not mounted this way, and a mount that stands is not changed: it \
             is always read-only; change [mount] in p2pfs.toml(5) and restart p2pfs, or mount \
             with: mount -t p2pfs none DIR",
        );
        return Err(ExitCode::from(2));
    }
    match read(arguments) {
        Ok(cli) => Ok(cli.command),
        Err(e) => {
            let code = u8::try_from(e.exit_code()).unwrap_or(2);
            let unheard = print_misuse(&e).and_then(|()| io::stdout().flush()).err();
            // If the user requested help (`code` is 0), help that cannot be written is a failure,
            // unless the reader has closed the pipe.
            let unheard = unheard.filter(|it| code == 0 && it.kind() != ErrorKind::BrokenPipe);
            if let Some(error) = unheard {
                complain(CliError::Output(error));
                return Err(ExitCode::FAILURE);
            }
            Err(ExitCode::from(code))
        }
    }
}

/// Prints help, or a misuse of the command line. clap breaks only the lines of help, so on a
/// terminal long lines of errors are broken here, without colours.
fn print_misuse(error: &clap::Error) -> io::Result<()> {
    if !error.use_stderr() || !io::stderr().is_terminal() {
        return error.print();
    }
    let text = error.to_string();
    if text.lines().all(|line| line.len() <= LINE_COLUMNS) {
        return error.print();
    }
    let lines = text.lines().flat_map(|line| output::broken(line, ""));
    let text = lines.collect::<Vec<_>>().join("\n");
    writeln!(io::stderr(), "{text}")
}

/// Prints an error on standard error. If that fails, only the exit code reports it.
///
/// On a terminal, lines are broken between words. In a pipe or a log, each error stays on one line.
pub fn complain(error: impl fmt::Display) {
    let text = format!("p2pfs: {error}");
    if io::stderr().is_terminal() {
        let lines = text.lines().flat_map(|line| output::broken(line, ""));
        remark(lines.collect::<Vec<_>>().join("\n"));
    } else {
        remark(text);
    }
}

/// Prints a line on standard error and ignores a failure to do so.
pub fn remark(line: impl fmt::Display) {
    let _unheard = writeln!(io::stderr(), "{line}");
}

fn read(arguments: Vec<OsString>) -> Result<Cli, clap::Error> {
    let mut command = without_empty_variables(command());
    let mut matches = command.try_get_matches_from_mut(arguments)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// Treats an empty variable as not set. clap would take it for an invalid value.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|flag| {
        if flag.get_env().is_some_and(is_empty) {
            flag.env(Resettable::Reset)
        } else {
            flag
        }
    });
    command.mut_subcommands(without_empty_variables)
}

/// Entry points of the daemon and the mount broker, and the check of the FUSE device. The caller
/// passes them in, so that this module does not depend on their code.
#[derive(Clone, Copy)]
pub struct Programs {
    /// Runs the daemon.
    pub daemon: daemon::RunDaemon,
    /// Runs the mount broker.
    pub broker: mount_broker::RunBroker,
    /// Checks whether the FUSE device can be opened.
    pub device: doctor::LookAtDevice,
}

/// Runs a command.
///
/// # Errors
/// [`CliError`], not printed yet.
pub fn run(command: Command, programs: Programs) -> Result<(), CliError> {
    let mut output = if command.is_there_to_be_read() {
        Output::standard()
    } else {
        Output::of_work()
    };
    let done = match command {
        Command::Daemon(options) => daemon::run(options, programs.daemon, &mut output),
        Command::Demo(options) => demo::run(&options, programs.device),
        Command::Wait(options) => wait::run(&options, &mut output),
        Command::Share(options) => share::run(options, &mut output),
        Command::Invite(options) => trust::invite(&options, &mut output),
        Command::Join(options) => trust::join(options, &mut output),
        Command::Leave(options) => trust::leave(&options, &mut output),
        Command::Expel(options) => trust::expel(&options, &mut output),
        Command::Rotate(reporting) => trust::rotate(&reporting, &mut output),
        Command::Own(options) => trust::own(&options, &mut output),
        Command::Forget(options) => trust::forget(&options, &mut output),
        Command::Trust(reporting) => trust::trust(&reporting, &mut output),
        Command::Status(reporting) => status::status(&reporting, &mut output),
        Command::Peers(reporting) => status::peers(&reporting, &mut output),
        Command::Ping(options) => ping::run(&options, &mut output),
        Command::Doctor(options) => doctor::run(options, programs.device, &mut output),
        Command::Config(options) => settings::run(options, &mut output),
        Command::Limits(options) => limits::run(&options, &mut output),
        Command::Top(options) => top::run(&options, &mut output),
        Command::Ls(options) => namespace::ls(&options, &mut output),
        Command::Get(options) => get::run(&options, &mut output),
        Command::Why(options) => namespace::why(&options, &mut output),
        Command::Prefetch(options) => cache::prefetch(&options, &mut output),
        Command::Pin(options) => cache::pin(&options, true, &mut output),
        Command::Unpin(options) => cache::pin(&options, false, &mut output),
        Command::Cache(options) => cache::run(&options, &mut output),
        Command::Send(options) => send::send(&options, &mut output),
        Command::Say(options) => send::send_chat(&options, &mut output),
        Command::Events(options) => events::run(&options, &mut output),
        Command::LegacyShell => with_legacy().and_then(|()| legacy_shell::run()),
        Command::MeshShell(options) => with_legacy().and_then(|()| mesh_shell::run(&options)),
        Command::MountBroker(options) => mount_broker::run(options, programs.broker),
        Command::Completions(options) => completions::run(options, &mut output),
    };
    let flushed = done.and_then(|()| output.flush());
    match flushed {
        // The reader of the output has closed the pipe.
        Err(error) if error.is_closed_pipe() => Ok(()),
        other => other,
    }
}

/// Checks that this program speaks the older protocols.
fn with_legacy() -> Result<(), CliError> {
    if cfg!(feature = "legacy") {
        Ok(())
    } else {
        Err(CliError::plain(NO_LEGACY))
    }
}

/// Returns the whole command line, for the completion scripts and for the test that compares the
/// man pages with it.
pub fn command() -> clap::Command {
    groups::grouped(Cli::command())
}
