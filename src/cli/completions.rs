//! `p2pfs completions`: a script for the user's shell.
//!
//! The script asks the program itself what to offer, so that names of the cluster are offered too.

use clap::{Args, ValueEnum};
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};

use super::error::CliError;
use super::output::Output;

/// The variable by which the script asks.
const ASKED_BY: &str = "COMPLETE";
/// What is completed, and what is asked.
const PROGRAM: &str = "p2pfs";

/// The arguments of `p2pfs completions`.
#[derive(Debug, Clone, Copy, Args)]
pub struct CompletionsOptions {
    /// Which shell
    shell: KnownShell,
}

/// The shells that there is a script for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum KnownShell {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(options: CompletionsOptions, output: &mut Output) -> Result<(), CliError> {
    let shell: &dyn EnvCompleter = match options.shell {
        KnownShell::Bash => &Bash,
        KnownShell::Zsh => &Zsh,
        KnownShell::Fish => &Fish,
    };
    let mut script = Vec::new();
    shell.write_registration(ASKED_BY, PROGRAM, PROGRAM, PROGRAM, &mut script)?;
    output.bytes(&script)
}

/// Answers the script, where it is the one that runs the program; the process then ends here.
pub fn answer_shell() {
    clap_complete::CompleteEnv::with_factory(super::command)
        .var(ASKED_BY)
        .complete();
}
