//! The `p2pfs` command: parses the command line, runs the command, and reports failures.

use std::io::ErrorKind;
use std::process::ExitCode;

use p2pfs::{cli, daemon};
use p2pfs_fuse::broker::process;

/// Kind of this process. A daemon and a broker end even if no reader takes their last words.
#[derive(PartialEq, Eq)]
enum ProcessKind {
    Daemon,
    Broker,
    Command,
}

fn main() -> ExitCode {
    cli::answer_shell();
    cli::outlive_the_limit_of_files();
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(code) => return code,
    };
    let process = match &command {
        cli::Command::Start(cli::StartCommand::Daemon(options)) if !options.check_config => {
            ProcessKind::Daemon
        }
        cli::Command::Programs(cli::ProgramCommand::MountBroker(_)) => ProcessKind::Broker,
        _ => ProcessKind::Command,
    };
    if process == ProcessKind::Daemon {
        daemon::copies::start_again_for_faster();
    }
    let programs = cli::Programs {
        daemon: |sources, loaded| {
            daemon::run::run(sources, loaded).map_err(|error| {
                if error.is_permanent() {
                    cli::CliError::Unusable(error.to_string())
                } else {
                    cli::CliError::plain(error.to_string())
                }
            })
        },
        refused: daemon::run::record_refusal,
        broker: |socket, allowed, by_configuration| {
            let place = socket.display().to_string();
            let ran = process::run(process::Settings {
                socket,
                allowed,
                by_configuration,
            });
            ran.map_err(|e| match e.kind() {
                ErrorKind::AddrInUse | ErrorKind::AlreadyExists => {
                    let message = format!("cannot listen on {place}: {e}");
                    cli::CliError::new(message, "choose another with --socket")
                }
                _ => cli::CliError::plain(format!("the mount broker ended: {e}")),
            })
        },
        device: p2pfs_fuse::check_device,
    };
    match cli::run(command, programs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_quiet() {
                let complaint = cli::complaint(&error);
                match process {
                    ProcessKind::Daemon => {
                        daemon::logging::report_failed_start(&error.to_string(), &complaint);
                    }
                    ProcessKind::Broker => daemon::logging::print_last_words(&complaint),
                    ProcessKind::Command => cli::remark(complaint),
                }
            }
            ExitCode::from(error.exit_status())
        }
    }
}
