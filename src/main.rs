//! The `p2pfs` command: parses the command line, runs the command, and reports failures.

use std::io::ErrorKind;
use std::process::ExitCode;

use p2pfs::{cli, daemon};
use p2pfs_fuse::broker::process;

fn main() -> ExitCode {
    cli::answer_shell();
    cli::outlive_the_limit_of_files();
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(code) => return code,
    };
    let is_daemon = matches!(&command, cli::Command::Start(cli::StartCommand::Daemon(options)) if !options.check_config);
    if is_daemon {
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
            let is_told = error.is_quiet()
                || is_daemon && daemon::logging::tell_failed_start(&error.to_string());
            if !is_told {
                cli::complain(&error);
            }
            ExitCode::from(error.exit_status())
        }
    }
}
