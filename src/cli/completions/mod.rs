//! `p2pfs completions`: a script for the user's shell.
//!
//! The script asks the program itself what to offer, so that names of the cluster are offered too.

mod shells;
mod words;

use clap::{Args, ValueEnum};

use self::shells::{BASH, FISH, SHELLS, ZSH};
use super::error::CliError;
use super::output::Output;

/// The variable by which the script asks.
const ASKED_BY: &str = "COMPLETE";

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
    let script = match options.shell {
        KnownShell::Bash => BASH.text,
        KnownShell::Zsh => ZSH.text,
        KnownShell::Fish => FISH.text,
    };
    output.bytes(script.as_bytes())
}

/// Answers the script, where it is the one that runs the program; the process then ends here.
pub fn answer_shell() {
    clap_complete::CompleteEnv::with_factory(super::command)
        .shells(SHELLS)
        .var(ASKED_BY)
        .complete();
}
