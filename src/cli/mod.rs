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
mod adopt;
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
mod restore;
mod send;
mod settings;
mod share;
mod status;
mod text;
mod top;
mod trust;
mod wait;
mod write;

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
use output::{LINE_COLUMNS, LongWords, Output};

/// The version and the profile with which the program was built: `packaging` in packages.
pub const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("BUILD_PROFILE"),
    " build)"
);

/// The files that a group of machines share, as one folder on each of them.
#[derive(Debug, Parser)]
#[command(name = "p2pfs", version = VERSION, max_term_width = LINE_COLUMNS)]
#[command(after_help = "See p2pfs(1), p2pfs.toml(5), p2pfs(7) and p2pfs(8).")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// A command, by its group in `p2pfs --help`.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Starts a daemon, or waits for one.
    #[command(flatten)]
    Start(StartCommand),
    /// Offers files and chat to others.
    #[command(flatten)]
    Share(ShareCommand),
    /// Reads, explains or keeps files.
    #[command(flatten)]
    Files(FileCommand),
    /// Changes or shows who belongs to the cluster.
    #[command(flatten)]
    Members(MemberCommand),
    /// Shows or sets the state of this node.
    #[command(flatten)]
    State(StateCommand),
    /// Runs a prompt of an older program.
    #[command(flatten)]
    Older(OlderCommand),
    /// Serves other programs.
    #[command(flatten)]
    Programs(ProgramCommand),
}

/// Commands that start a daemon, or wait for one.
#[derive(Debug, Subcommand)]
pub enum StartCommand {
    /// Run the daemon in the foreground
    Daemon(daemon::DaemonOptions),
    /// Demonstrate p2pfs with some nodes on this machine
    Demo(demo::DemoOptions),
    /// Wait for the daemon, its mount, its peers or a file
    Wait(wait::WaitOptions),
}

/// Commands that offer files and lines of chat to others.
#[derive(Debug, Subcommand)]
pub enum ShareCommand {
    /// List, add or remove the folders that this node shares
    Share(share::ShareOptions),
    /// Say where what programs write into the mount goes
    Write(write::WriteOptions),
    /// Send files to mesh peers and to the inboxes of nodes
    #[command(
        after_help = "An inbox is shared like any other folder: every member of the \
                            cluster can read a sent\nfile there, not only its receiver."
    )]
    Send(send::SendOptions),
    /// Send a line of chat to every peer
    Say(send::SayOptions),
}

/// Commands that read, explain or keep files.
#[derive(Debug, Subcommand)]
pub enum FileCommand {
    /// List the shared files
    Ls(namespace::LsOptions),
    /// Fetch a file without the mount
    Get(get::GetOptions),
    /// Bring back files that were deleted or replaced
    Restore(restore::RestoreOptions),
    /// List the files of a departed node of which this node has complete copies
    Adopt(adopt::AdoptOptions),
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
}

/// Commands that change or show who belongs to the cluster.
#[derive(Debug, Subcommand)]
pub enum MemberCommand {
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
}

/// Commands that show or set the state of this node.
#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// Show the state of this node
    Status(connect::Reporting),
    /// Show the other nodes
    Peers(connect::Reporting),
    /// Measure the round-trip time to another node
    Ping(ping::PingOptions),
    /// Check this node for problems, with remedies
    Doctor(doctor::DoctorOptions),
    /// Show transfers and readers
    Top(top::TopOptions),
    /// Show events
    Events(events::EventsOptions),
    /// Show the settings in force
    Config(settings::ConfigOptions),
    /// Show or set the limits of the transfer rates
    Limits(limits::LimitsOptions),
}

/// Commands of the older programs.
#[derive(Debug, Subcommand)]
pub enum OlderCommand {
    /// Run the prompt of the older program, with its own node
    LegacyShell,
    /// Run the prompt of the older mesh program
    MeshShell(mesh_shell::MeshShellOptions),
}

/// Commands that other programs run.
#[derive(Debug, Subcommand)]
pub enum ProgramCommand {
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
            Self::Start(_) => false,
            Self::Share(_) => false,
            Self::Files(command) => matches!(command, FileCommand::Ls(_) | FileCommand::Why(_)),
            Self::Members(command) => matches!(command, MemberCommand::Trust(_)),
            Self::State(command) => matches!(
                command,
                StateCommand::Status(_)
                    | StateCommand::Peers(_)
                    | StateCommand::Ping(_)
                    | StateCommand::Top(_)
                    | StateCommand::Events(_)
                    | StateCommand::Config(_)
            ),
            Self::Older(_) => false,
            Self::Programs(command) => matches!(command, ProgramCommand::Completions(_)),
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
            "the folder is not mounted this way, and a mount that stands is not changed; change \
             [mount] in p2pfs.toml(5) and restart p2pfs, let programs write with: p2pfs write on, \
             or mount with: mount -t p2pfs none DIR",
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
    let lines = text
        .lines()
        .flat_map(|line| output::broken(line, "", LongWords::Continued));
    let text = lines.collect::<Vec<_>>().join("\n");
    writeln!(io::stderr(), "{text}")
}

/// Prints an error on standard error. If that fails, only the exit code reports it.
pub fn complain(error: impl fmt::Display) {
    remark(complaint(error));
}

/// Returns the text of an error for standard error.
///
/// On a terminal, lines are broken between words. In a pipe or a log, each error stays on one line.
pub fn complaint(error: impl fmt::Display) -> String {
    let text = format!("p2pfs: {error}");
    if !io::stderr().is_terminal() {
        return text;
    }
    let lines = text
        .lines()
        .flat_map(|line| output::broken(line, "", LongWords::Continued));
    lines.collect::<Vec<_>>().join("\n")
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
    /// Records that the configuration of a daemon was refused.
    pub refused: daemon::RecordRefusal,
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
        Command::Start(command) => run_start(command, programs, &mut output),
        Command::Share(command) => run_share(command, &mut output),
        Command::Files(command) => run_files(command, &mut output),
        Command::Members(command) => run_members(command, &mut output),
        Command::State(command) => run_state(command, programs, &mut output),
        Command::Older(command) => run_older(command),
        Command::Programs(command) => run_for_programs(command, programs, &mut output),
    };
    let flushed = done.and_then(|()| output.flush());
    match flushed {
        // The reader of the output has closed the pipe.
        Err(error) if error.is_closed_pipe() => Ok(()),
        other => other,
    }
}

fn run_start(
    command: StartCommand,
    programs: Programs,
    output: &mut Output,
) -> Result<(), CliError> {
    match command {
        StartCommand::Daemon(options) => {
            daemon::run(options, programs.daemon, programs.refused, output)
        }
        StartCommand::Demo(options) => demo::run(&options, programs.device),
        StartCommand::Wait(options) => wait::run(&options, output),
    }
}

fn run_share(command: ShareCommand, output: &mut Output) -> Result<(), CliError> {
    match command {
        ShareCommand::Share(options) => share::run(options, output),
        ShareCommand::Write(options) => write::run(options, output),
        ShareCommand::Send(options) => send::send(&options, output),
        ShareCommand::Say(options) => send::send_chat(&options, output),
    }
}

fn run_files(command: FileCommand, output: &mut Output) -> Result<(), CliError> {
    match command {
        FileCommand::Ls(options) => namespace::ls(&options, output),
        FileCommand::Get(options) => get::run(&options, output),
        FileCommand::Restore(options) => restore::restore(&options, output),
        FileCommand::Adopt(options) => adopt::adopt(&options, output),
        FileCommand::Why(options) => namespace::why(&options, output),
        FileCommand::Prefetch(options) => cache::prefetch(&options, output),
        FileCommand::Pin(options) => cache::pin(&options, true, output),
        FileCommand::Unpin(options) => cache::pin(&options, false, output),
        FileCommand::Cache(options) => cache::run(&options, output),
    }
}

fn run_members(command: MemberCommand, output: &mut Output) -> Result<(), CliError> {
    match command {
        MemberCommand::Invite(options) => trust::invite(&options, output),
        MemberCommand::Join(options) => trust::join(options, output),
        MemberCommand::Leave(options) => trust::leave(&options, output),
        MemberCommand::Expel(options) => trust::expel(&options, output),
        MemberCommand::Rotate(reporting) => trust::rotate(&reporting, output),
        MemberCommand::Own(options) => trust::own(&options, output),
        MemberCommand::Forget(options) => trust::forget(&options, output),
        MemberCommand::Trust(reporting) => trust::trust(&reporting, output),
    }
}

fn run_state(
    command: StateCommand,
    programs: Programs,
    output: &mut Output,
) -> Result<(), CliError> {
    match command {
        StateCommand::Status(reporting) => status::status(&reporting, output),
        StateCommand::Peers(reporting) => status::peers(&reporting, output),
        StateCommand::Ping(options) => ping::run(&options, output),
        StateCommand::Doctor(options) => doctor::run(options, programs.device, output),
        StateCommand::Top(options) => top::run(&options, output),
        StateCommand::Events(options) => events::run(&options, output),
        StateCommand::Config(options) => settings::run(options, output),
        StateCommand::Limits(options) => limits::run(&options, output),
    }
}

fn run_older(command: OlderCommand) -> Result<(), CliError> {
    match command {
        OlderCommand::LegacyShell => with_legacy().and_then(|()| legacy_shell::run()),
        OlderCommand::MeshShell(options) => with_legacy().and_then(|()| mesh_shell::run(&options)),
    }
}

fn run_for_programs(
    command: ProgramCommand,
    programs: Programs,
    output: &mut Output,
) -> Result<(), CliError> {
    match command {
        ProgramCommand::MountBroker(options) => mount_broker::run(options, programs.broker),
        ProgramCommand::Completions(options) => completions::run(options, output),
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
