//! `p2pfs completions`: completion script for a shell.
//!
//! The script asks the program for the completions, so names of the cluster are offered too.

mod shells;
mod words;

use clap::{Args, ValueEnum};

use self::shells::{BASH, FISH, SHELLS, ZSH};
use super::error::CliError;
use super::output::Output;

/// Environment variable that the script sets when it runs this program for completions.
const ASKED_BY: &str = "COMPLETE";

/// The arguments of `p2pfs completions`.
#[derive(Debug, Clone, Copy, Args)]
pub struct CompletionsOptions {
    /// Which shell
    shell: KnownShell,
}

/// Shells with a completion script.
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

/// Answers a completion script, if one runs the program; the process then ends here.
pub fn answer_shell() {
    clap_complete::CompleteEnv::with_factory(super::command)
        .shells(SHELLS)
        .var(ASKED_BY)
        .complete();
}
